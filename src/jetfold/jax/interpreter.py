"""A jaxpr on jets: a loop over its equations and a dictionary of rules.

An equation whose operands are plain arrays is executed as it is; one that meets a jet is handed to
the rule of its primitive (`RULES`, filled by `table`), or to the general rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Primitive

from ..core import recorded
from ..core.jet import Jet
from . import private


class Operation:
    """What an equation does: a primitive with its parameters. Calling it executes it.

    Attributes:
        equation, jaxpr: where it stands, if that is known.
    """

    def __init__(self, equation: JaxprEqn, jaxpr: Jaxpr | None = None) -> None:
        self.equation, self.jaxpr = equation, jaxpr
        self.primitive = equation.primitive
        self.params: dict[str, Any] = equation.params
        self.name = private.operation_name(equation)
        self.several: bool = equation.primitive.multiple_results
        self.results = [v.aval for v in equation.outvars]

    def __call__(self, *operands: Any) -> Any:
        """The result, a list if the primitive has several."""
        return private.bind(self.primitive, self.params, operands)


@dataclass(frozen=True)
class Rule:
    """How a primitive acts on jets: a value of some kind (`rules`), declared once (`table`).

    Attributes:
        axes: how the primitive acts on the axes of its operands, for whoever rearranges programs:
            (equation, operands) -> what it wants to know. Jets do not ask.
        entrywise: whether it acts on every entry alone, apart from the broadcasting of scalars.
    """

    axes: Callable[..., Any] | None = field(default=None, kw_only=True)
    entrywise: bool = field(default=False, kw_only=True)

    def __call__(self, operation: Operation, operands: Sequence[Any]) -> Any:
        """The result(s) of an operation on operands of which at least one is a jet."""
        raise NotImplementedError


RULES: dict[str | Primitive, Rule] = {}
"""By the primitive itself (those of our own), or by its name (those of JAX)."""


def rule_of(equation: JaxprEqn) -> Rule | None:
    """The rule for what an equation does, if there is one."""
    return RULES.get(equation.primitive) or RULES.get(private.operation_name(equation))


def interpret(jaxpr: Jaxpr, consts: Sequence[Any], operands: Sequence[Any]) -> list[Any]:
    """The results of a jaxpr on arrays and jets."""
    if any(equation.primitive.name == "new_ref" for equation in jaxpr.eqns):
        jaxpr, consts, operands = private.discharged(jaxpr), (), [*consts, *operands]
    environment: dict[Any, Any] = {}

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else environment[atom]

    environment.update(zip(jaxpr.constvars, consts, strict=True))
    environment.update(zip(jaxpr.invars, operands, strict=True))
    last = _last_uses(jaxpr)
    for number, equation in enumerate(jaxpr.eqns):
        operation = Operation(equation, jaxpr)
        with private.context(equation):
            result = apply(operation, [read(atom) for atom in equation.invars])
        results = result if operation.several else [result]
        environment.update(zip(equation.outvars, results, strict=True))
        for variable in last.get(number, ()):
            del environment[variable]
    return [private.array(read(atom)) for atom in jaxpr.outvars]


def interpret_closed(closed: ClosedJaxpr, operands: Sequence[Any]) -> list[Any]:
    """The same for a jaxpr that brings its constants."""
    return interpret(closed.jaxpr, closed.consts, operands)


def apply(operation: Operation, operands: Sequence[Any]) -> Any:
    """One equation."""
    if not any(isinstance(x, Jet) for x in operands):
        if operation.name in OF_INDICES and _are_indices(operation, operands):
            with jax.ensure_compile_time_eval():
                return operation(*operands)
        return operation(*operands)
    rule = rule_of(operation.equation) or RULES["general"]
    result = rule(operation, operands)
    if recorded.OPEN and not HOLDING & operation.params.keys():
        results = result if operation.several else [result]
        recorded.note(operation.name, operands, results)
    return result


HOLDING = {"jaxpr", "call_jaxpr", "fun_jaxpr", "branches", "body_jaxpr"}
"""Parameters of primitives whose operations are told one by one."""

OF_INDICES = frozenset(
    """
    add and broadcast_in_dim clamp concatenate convert_element_type eq expand_dims ge gt iota le lt
    max min mul ne not or rem reshape select_n slice squeeze stack sub transpose
    """.split()  # noqa: SIM905
)
"""Primitives of which indices are made."""

MOST_INDICES = 2**14
"""How many of them are computed at most while a function is traced."""


def _are_indices(operation: Operation, operands: Sequence[Any]) -> bool:
    """Whether an operation makes a few indices, known while the function is traced, of others."""
    return not any(isinstance(x, jax.core.Tracer) for x in operands) and all(
        aval.dtype.kind in "iub" and aval.size <= MOST_INDICES for aval in operation.results
    )


def call(function: Callable[..., Any], *operands: Any) -> Any:
    """A function of arrays on jets: what it traces to is interpreted.

    Returns what the function returns, with jets for the arrays that depend on the operands.
    """
    primals = [x.primal if isinstance(x, Jet) else x for x in operands]
    closed, shape = jax.make_jaxpr(function, return_shape=True)(*primals)
    flat = interpret_closed(closed, operands)
    return jax.tree.unflatten(jax.tree.structure(shape), flat)


def _last_uses(jaxpr: Jaxpr) -> dict[int, list[Any]]:
    """Per equation the variables that nobody reads after it."""
    kept = {v for v in jaxpr.outvars if not isinstance(v, Literal)}
    found: dict[int, list[Any]] = {}
    for number in range(len(jaxpr.eqns) - 1, -1, -1):
        equation = jaxpr.eqns[number]
        for variable in (*equation.invars, *equation.outvars):
            if not isinstance(variable, Literal) and variable not in kept:
                kept.add(variable)
                found.setdefault(number, []).append(variable)
    return found
