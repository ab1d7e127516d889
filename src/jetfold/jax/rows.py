"""Which rows of a function's results depend on which rows of its points, and the function of a few.

A function of points that share a leading axis says nothing about other lengths of that axis: it may
read arrays of the same length from outside, or the length itself. Its jaxpr, traced for all points,
says all of it. Along every equation the axis is followed by what the table declares of primitives
(`axes`, `entrywise`); an equation that mixes rows, or of which that is not known, ends the search.
Then the equations are issued for a few rows, with rows taken of whatever else has that axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from ..core.axes import (
    Acting,
    Action,
    Broadcast,
    Contracted,
    Permuted,
    Pointwise,
    Reshaped,
    Summed,
    alongside,
)
from . import private
from .interpreter import rule_of

Axis = int | None

CALLS = ("jit", "pjit", "closed_call")

REDUCTIONS = frozenset({"reduce_and", "reduce_max", "reduce_min", "reduce_or", "reduce_prod"})

LENGTHS = {
    "broadcast_in_dim": "shape",
    "dynamic_slice": "slice_sizes",
    "reshape": "new_sizes",
    "slice": "limit_indices",
}
"""Parameters that say how long the axes of a result are."""

RESIZED = frozenset(LENGTHS) | {
    "concatenate", "cumsum", "dot_general", "expand_dims", "pad", "reduce_sum", "rev", "squeeze",
    "transpose", *REDUCTIONS,
}  # fmt: skip
"""Primitives, beside those of every entry, whose other parameters hold for any length."""


class MixedError(Exception):
    """Rows are mixed, or it is not known that they are not."""


def of_few(
    program: ClosedJaxpr, axes: Sequence[Axis], size: int
) -> Callable[[Any, int, Sequence[Any]], list[Any]]:
    """(start, few, operands) -> the results for the rows start … start + few − 1.

    Args:
        program: a function of operands, traced for `size` rows.
        axes: per operand the axis of its rows; of these only the few rows are handed over.

    Raises:
        MixedError: the results of a row may depend on other rows.
    """
    _followed(program.jaxpr, axes, size)

    def function(start: Any, few: int, operands: Sequence[Any]) -> list[Any]:
        return _issued(program, operands, axes, size, start, few)[0]

    return function


# ------------------------------------------------------------------ where the rows are


def _followed(jaxpr: Jaxpr, axes: Sequence[Axis], size: int) -> list[Axis]:
    """The axes of the rows in the results."""
    where: dict[Any, Axis] = dict(zip(jaxpr.invars, axes, strict=True))
    for equation in jaxpr.eqns:
        given = [_of(where, atom) for atom in equation.invars]
        where.update(zip(equation.outvars, _through(equation, given, size), strict=True))
    return [_of(where, atom) for atom in jaxpr.outvars]


def _of(where: dict[Any, Any], atom: Any, default: Any = None) -> Any:
    return default if isinstance(atom, Literal) else where.get(atom, default)


def _through(equation: JaxprEqn, given: Sequence[Axis], size: int) -> list[Axis]:
    """The axes of the rows in the results of an equation."""
    if all(axis is None for axis in given):
        return [None] * len(equation.outvars)
    if equation.primitive.name in CALLS:
        return _followed(_inner(equation).jaxpr, given, size)
    found = {_moved(equation, k, axis, size) for k, axis in enumerate(given) if axis is not None}
    if len(found) > 1 or None in found or len(equation.outvars) > 1:
        raise MixedError
    (axis,) = found
    if axis is None or equation.outvars[0].aval.shape[axis] != size:
        raise MixedError
    return [axis]


def _inner(equation: JaxprEqn) -> ClosedJaxpr:
    params = equation.params
    return private.closed(params["jaxpr"] if "jaxpr" in params else params["call_jaxpr"])


def _action(equation: JaxprEqn) -> Action:
    """How an equation acts on axes, if it can be issued for another number of rows."""
    rule, name = rule_of(equation), equation.primitive.name
    described = [v.aval for v in equation.invars]
    if name in REDUCTIONS:
        return Summed(tuple(equation.params["axes"]))
    if name == "pad":  # with any number
        amounts = enumerate(equation.params["padding_config"])
        longer = [k for k, amount in amounts if tuple(amount) != (0, 0, 0)]
        return alongside(longer, (0,), len(described[0].shape))
    inside = any(isinstance(x, (ClosedJaxpr, Jaxpr)) for x in equation.params.values())
    if rule is None or inside or not (rule.entrywise or name in RESIZED):
        raise MixedError
    if rule.axes is None:
        return Pointwise()
    found: Action = rule.axes(equation.params, described, equation.outvars[0].aval)
    return found


def _moved(equation: JaxprEqn, k: int, axis: int, size: int) -> Axis:
    """The axis of the result that axis `axis` of operand k becomes."""
    action, result = _action(equation), equation.outvars[0].aval.shape
    match action:
        case Pointwise():
            return axis
        case Permuted(order):
            return order.index(axis)
        case Broadcast(dims):
            return dims[axis]
        case Reshaped():
            before = prod(equation.invars[k].aval.shape[:axis])
            return next(
                (j for j, n in enumerate(result) if n == size and prod(result[:j]) == before), None
            )
        case Summed(axes):
            return None if axis in axes else axis - sum(a < axis for a in axes)
        case Contracted(left, right, out):
            name = (left, right)[k][axis]
            return out.index(name) if name in out else None
        case Acting(linear=linear, through=through) if k in linear:
            own = through[linear.index(k)]
            return next((of_result for of_result, of_own in own if of_own == axis), None)
    return None


def _back(equation: JaxprEqn, k: int, axis: int) -> Axis:
    """The axis of operand k that becomes axis `axis` of the result; None where it has none."""
    rank = len(equation.invars[k].aval.shape)
    match _action(equation):
        case Pointwise():
            return axis if rank else None
        case Contracted(left, right, out):
            names = (left, right)[k]
            return names.index(out[axis]) if out[axis] in names else None
        case Acting(linear=linear, through=through) if k in linear:
            return dict(through[linear.index(k)]).get(axis)
    return None


# ------------------------------------------------------------------ the equations for a few


def _issued(
    program: ClosedJaxpr,
    operands: Sequence[Any],
    axes: Sequence[Axis],
    size: int,
    start: Any,
    few: int,
) -> tuple[list[Any], list[Axis]]:
    """The results, and the axes of their rows."""
    jaxpr = program.jaxpr
    arrays: dict[Any, Any] = dict(zip(jaxpr.invars, operands, strict=True))
    arrays.update(zip(jaxpr.constvars, program.consts, strict=True))
    where: dict[Any, Axis] = dict(zip(jaxpr.invars, axes, strict=True))
    for equation in jaxpr.eqns:
        given = [_of(where, atom) for atom in equation.invars]
        inputs = [_of(arrays, atom, getattr(atom, "val", None)) for atom in equation.invars]
        with private.context(equation):
            if all(axis is None for axis in given):
                found = private.bind(equation.primitive, equation.params, inputs)
                results = list(found) if equation.primitive.multiple_results else [found]
                of_results: list[Axis] = [None] * len(results)
            elif equation.primitive.name in CALLS:
                results, of_results = _issued(_inner(equation), inputs, given, size, start, few)
            else:
                of_results = _through(equation, given, size)
                (axis,) = of_results
                assert axis is not None
                for k, x in enumerate(inputs):
                    own = _back(equation, k, axis) if given[k] is None else None
                    if own is not None and x.shape[own] == size:
                        inputs[k] = lax.dynamic_slice_in_dim(x, start, few, own)
                params = _resized(equation, axis, few)
                results = [private.bind(equation.primitive, params, inputs)]
        arrays.update(zip(equation.outvars, results, strict=True))
        where.update(zip(equation.outvars, of_results, strict=True))
    out = [_of(arrays, atom, getattr(atom, "val", None)) for atom in jaxpr.outvars]
    return out, [_of(where, atom) for atom in jaxpr.outvars]


def _resized(equation: JaxprEqn, axis: int, few: int) -> dict[str, Any]:
    """The parameters for so many rows."""
    name = LENGTHS.get(equation.primitive.name)
    if name is None:
        return equation.params
    lengths = list(equation.params[name])
    lengths[axis] = few
    return {**equation.params, name: tuple(lengths)}
