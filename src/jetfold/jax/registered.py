"""The JAX half of `jetfold.register_rule`: a call of a registered function, kept as one equation.

The equation holds the function's own jaxpr, which serves arrays, `jit`, `grad` and `vmap`; jets
take the rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

from ..core.jet import Jet
from ..core.registered import Registered
from .interpreter import Operation, interpret
from .jets import algebra_of, jet, rows_before, rows_behind
from .rules import composed


@dataclass(frozen=True, eq=False)
class Call:
    """A call of a registered function.

    Attributes:
        rule: the function and its rule.
        arguments: from the arrays among the arguments to all of them, (args, kwargs).
        structure: the pytree that the function returns.
        shapes: of the arrays in it.
        maps: for every `vmap` around the call, the inner ones first, which arrays it maps.
    """

    rule: Registered
    arguments: Callable[..., Any]
    structure: Any
    shapes: Sequence[tuple[int, ...]]
    maps: tuple[tuple[bool, ...], ...] = ()

    def on_jets(self, *operands: Any) -> list[Any]:
        """The rule for jets, mapped as the function was."""
        function = self._of_rule
        for mapped in self.maps:
            function = partial(_mapped, function, mapped)
        return function(*operands)

    def _of_rule(self, *operands: Any) -> list[Any]:
        args, kwargs = self.arguments(*operands)
        found = self.rule.jet(*args, **kwargs)  # type: ignore[misc]
        leaves, structure = jax.tree.flatten(found, is_leaf=lambda x: isinstance(x, Jet))
        if structure != self.structure:
            raise ValueError(
                f"the rule of {self.rule.name} returned the structure {structure}, where the "
                f"function returns {self.structure}, with a jet or an array for each *"
            )
        algebra, results = algebra_of(operands), []
        for leaf, shape in zip(leaves, self.shapes, strict=True):
            x = self.rule.result(leaf, algebra, shape)
            results.append(jet(algebra, x.primal, x.blocks) if isinstance(x, Jet) else x)
        return results


def _mapped(
    function: Callable[..., list[Any]], mapped: Sequence[bool], *operands: Any
) -> list[Any]:
    """A function of jets over the leading axis of the values of some of them."""
    operands = tuple(
        rows_behind(x) if over else x for x, over in zip(operands, mapped, strict=True)
    )
    axes = tuple(0 if over else None for over in mapped)
    return [rows_before(x) for x in jax.vmap(function, axes)(*operands)]


# ------------------------------------------------------------------ calls


def apply(rule: Registered, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The function on arrays; on tracers, as one equation."""
    if rule.tower is not None:
        rule.argument(args, kwargs)
    leaves, tree = jax.tree.flatten((args, kwargs))
    places = [k for k, x in enumerate(leaves) if isinstance(x, (jax.Array, np.ndarray))]
    if not any(isinstance(leaves[k], jax.core.Tracer) for k in places):
        return rule.function(*args, **kwargs)

    given = [leaves[k] for k in places]
    others = [None if k in places else x for k, x in enumerate(leaves)]

    def arguments(*arrays: Any) -> Any:
        filled = list(others)
        for k, x in zip(places, arrays, strict=True):
            filled[k] = x
        return jax.tree.unflatten(tree, filled)

    def function(*arrays: Any) -> Any:
        args, kwargs = arguments(*arrays)
        return rule.function(*args, **kwargs)

    try:
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*given)
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError):
        return rule.function(*args, **kwargs)  # it asks for values: where it may, as under grad
    results, structure = jax.tree.flatten(shapes)
    call = Call(rule, arguments, structure, [x.shape for x in results])
    primitive = registered_p if rule.tower is None else registered_elementwise_p
    outside = closed.consts
    out = primitive.bind(*outside, *given, jaxpr=closed.jaxpr, outside=len(outside), call=call)
    return jax.tree.unflatten(structure, out)


def on_jets(operation: Operation, operands: Sequence[Any]) -> Any:
    """The rule; where the function reads a jet from outside, its equations, one by one."""
    call, jaxpr, n = (operation.params[k] for k in ("call", "jaxpr", "outside"))
    outside, given = operands[:n], operands[n:]
    if any(isinstance(x, Jet) for x in outside):
        return interpret(jaxpr, *_split(jaxpr, operands))
    if call.rule.tower is None:
        return call.on_jets(*given)
    (x,), (y,) = given, operation(*outside, *(x.primal for x in given))
    return [composed(x, y, call.rule.entries)]


# ------------------------------------------------------------------ to JAX itself


# The operands are first the arrays that the function reads from outside, `outside` in number, then
# those among its arguments. The constants of the jaxpr are the first of all.


def _split(jaxpr: Jaxpr, operands: Sequence[Any]) -> tuple[Sequence[Any], Sequence[Any]]:
    """The constants and the operands of a jaxpr."""
    n = len(jaxpr.constvars)
    return operands[:n], operands[n:]


def _evaluate(*operands: Any, jaxpr: Jaxpr, outside: int, call: Call) -> list[Any]:
    """The function's own equations."""
    consts, given = _split(jaxpr, operands)
    return jaxpr_as_fun(ClosedJaxpr(jaxpr, consts))(*given)


def _described(*operands: Any, jaxpr: Jaxpr, outside: int, call: Call) -> Any:
    """The types of the results, and what else happens."""
    return [v.aval for v in jaxpr.outvars], jaxpr.effects


def _pushed(
    primitive: Primitive, primals: Sequence[Any], tangents: Sequence[Any], **params: Any
) -> Any:
    """The value by the equation as it is, its derivative by the function's own."""
    places = [k for k, t in enumerate(tangents) if not isinstance(t, ad.Zero)]

    def of_places(*points: Any) -> list[Any]:
        filled = list(primals)
        for k, x in zip(places, points, strict=True):
            filled[k] = x
        return _evaluate(*filled, **params)

    points, directions = (tuple(of_all[k] for k in places) for of_all in (primals, tangents))
    return primitive.bind(*primals, **params), jax.jvp(of_places, points, directions)[1]


def _batched(
    primitive: Primitive,
    operands: Sequence[Any],
    axes: Sequence[Any],
    *,
    jaxpr: Jaxpr,
    outside: int,
    call: Call,
) -> Any:
    """The mapped function, in one equation again; the rule is mapped when jets arrive."""
    operands = [
        x if axis is None else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(operands, axes, strict=True)
    ]
    mapped = tuple(axis is not None for axis in axes)
    evaluate = partial(_evaluate, jaxpr=jaxpr, outside=outside, call=call)
    function = jax.vmap(evaluate, [0 if over else None for over in mapped])
    if any(mapped[:outside]):  # the rule does not know what the function reads from outside
        out = function(*operands)
        return out, [0] * len(out)
    closed = jax.make_jaxpr(function)(*operands)
    call = replace(call, maps=(*call.maps, mapped[outside:]))
    outside += len(closed.consts)
    params = {"jaxpr": closed.jaxpr, "outside": outside, "call": call}
    out = primitive.bind(*closed.consts, *operands, **params)
    return out, [0] * len(out)


def _primitive(name: str) -> Primitive:
    """A primitive for calls."""
    made = Primitive(name)
    made.multiple_results = True
    made.def_impl(_evaluate)
    made.def_effectful_abstract_eval(_described)
    ad.primitive_jvps[made] = partial(_pushed, made)
    batching.primitive_batchers[made] = partial(_batched, made)
    mlir.register_lowering(made, mlir.lower_fun(_evaluate, multiple_results=True))
    return made


registered_p = _primitive("registered")
"""Calls of functions with a rule for jets."""

registered_elementwise_p = _primitive("registered_elementwise")
"""Calls of functions with a tower."""
