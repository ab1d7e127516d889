"""Functions with a derivative rule of their own (`jax.custom_jvp`): it counts, at every order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr

from ..core.jet import Jet
from . import private
from .control import closed
from .general import entrywise, general, of_places, places_of_jets
from .interpreter import Operation, Rule, interpret_closed, rule_of
from .jets import algebra_of

CALLS = ("jit", "pjit", "custom_jvp_call", "closed_call")


def is_entrywise(jaxpr: Jaxpr) -> bool:
    """Whether a function acts on every entry alone."""
    for equation in jaxpr.eqns:
        name, rule = equation.primitive.name, rule_of(equation.primitive)
        if rule is not None and rule.entrywise:
            continue
        if name == "broadcast_in_dim" and not equation.invars[0].aval.shape:
            continue  # of a number
        inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
        if name not in CALLS or inner is None or not is_entrywise(closed(inner).jaxpr):
            return False
    return True


@dataclass(frozen=True)
class CustomJvp(Rule):
    """A function with a derivative rule of its own.

    Elementwise ones (relu, softplus, logaddexp) have their derivatives from nested `jax.jvp`. Some
    of JAX's others have such rules for speed and are the same function inside; all the rest goes
    through the general rule, which nests `jax.jvp` too.
    """

    def __call__(self, operation: Operation, operands: Sequence[Any]) -> Any:
        inner: ClosedJaxpr = operation.params["call_jaxpr"]
        rule = private.derivative_rule(operation.params)
        if private.same_inside(rule):
            return interpret_closed(inner, operands)
        shapes = {x.primal.shape for x in operands if isinstance(x, Jet)}
        if [*shapes] == [v.aval.shape for v in inner.jaxpr.outvars] and (
            private.special(rule)
            or (is_entrywise(inner.jaxpr) and private.of_jax(rule))
            or (is_entrywise(inner.jaxpr) and _mixes_nothing(operation, operands))
        ):
            return [entrywise(lambda *x: operation(*x)[0], operands)]
        name = private.name_of(inner.jaxpr)
        return general(operation, operands, f"the custom_jvp function {name}")


def _mixes_nothing(operation: Operation, operands: Sequence[Any]) -> bool:
    """Whether the rule of a custom_jvp function, applied again and again, is elementwise too."""
    places = places_of_jets(operands)
    of_jets = of_places(operation, operands, places)

    def derivative(order: int, *points: Any) -> Any:
        if order:
            ones = tuple(jnp.ones_like(x) for x in points)
            return jax.jvp(partial(derivative, order - 1), points, ones)[1]
        return of_jets(*points)[0]

    highest = partial(derivative, algebra_of(operands).order)
    return is_entrywise(jax.make_jaxpr(highest)(*(operands[k].primal for k in places)).jaxpr)
