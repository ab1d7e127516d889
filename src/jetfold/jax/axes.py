"""How JAX's primitives act on the axes of their operands, as values of `core.axes`.

Every function here declares a kind of primitive, from what is static in an equation:

    declare(params, operands, result) -> Action

params are those of the equation; operands are described by their `shape` and `dtype` (and by `zero`
where it is known that all their entries are zero), the result by an abstract value. Declarations
hold for results of inexact dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from ..core.axes import (
    Acting,
    Action,
    Broadcast,
    Contracted,
    Opaque,
    Permuted,
    Pointwise,
    Reshaped,
    Summed,
    acting,
    alongside,
    as_exact,
)

Params = Mapping[str, Any]
Declare = Callable[[Params, Sequence[Any], Any], Action]

# ------------------------------------------------------------------ pointwise


@dataclass(frozen=True, init=False)
class Together:
    """Linear in the operands at these positions together."""

    operands: tuple[int, ...]

    def __init__(self, *operands: int) -> None:
        object.__setattr__(self, "operands", operands)

    def __call__(self, params: Params, operands: Sequence[Any], result: Any) -> Action:
        return Pointwise(linear=self.operands)


@dataclass(frozen=True)
class Signed:
    """u ± v."""

    sign: int

    def __call__(self, params: Params, operands: Sequence[Any], result: Any) -> Action:
        return Pointwise(linear=(0, 1), sign=self.sign, arithmetic=True)


def negation(params: Params, operands: Sequence[Any], result: Any) -> Action:
    """−u."""
    return Pointwise(linear=(0,), arithmetic=True)


def conjugation(params: Params, operands: Sequence[Any], result: Any) -> Action:
    """Additive; a factor comes out conjugated."""
    return Pointwise(linear=(0,), conjugates=True)


def product(params: Params, operands: Sequence[Any], result: Any) -> Action:
    """u · v."""
    return Pointwise(factors=(0, 1), arithmetic=True)


def quotient(params: Params, operands: Sequence[Any], result: Any) -> Action:
    """u / v is linear in u."""
    return Pointwise(linear=(0,), arithmetic=True)


def selection(params: Params, operands: Sequence[Any], result: Any) -> Action:
    """select_n is linear in the cases."""
    zero = len(operands) == 3 and getattr(operands[1], "zero", False)
    return Pointwise(tuple(range(1, len(operands))), masked=(0, 2) if zero else ())


def conversion(params: Params, operands: Sequence[Any], result: Any) -> Action:
    """Linear where a sum before it is at least as exact as one behind it."""
    before, after = operands[0].dtype, result.dtype
    if not jnp.issubdtype(before, jnp.inexact):
        return Pointwise()
    real = [not jnp.issubdtype(dtype, jnp.complexfloating) for dtype in (before, after)]
    exact = as_exact(jnp.finfo(before), jnp.finfo(after)) and real != [False, True]
    return Pointwise(linear=(0,) if exact else ())


# ------------------------------------------------------------------ other places


def transposition(params: Params, operands: Sequence[Any], result: Any) -> Action:
    """transpose."""
    return Permuted(tuple(params["permutation"]))


def broadcasting(params: Params, operands: Sequence[Any], result: Any) -> Action:
    """broadcast_in_dim."""
    return Broadcast(tuple(params["broadcast_dimensions"]))


def reshaping(params: Params, operands: Sequence[Any], result: Any) -> Action:
    """reshape, squeeze, expand_dims."""
    return Reshaped()


# ------------------------------------------------------------------ sums and products


def reduction(params: Params, operands: Sequence[Any], result: Any) -> Action:
    """reduce_sum."""
    return Summed(tuple(params["axes"]))


def sum_of_rows(params: Params, operands: Sequence[Any], result: Any) -> Action:
    """Our own sums over an axis (`halves`)."""
    return Summed((params["axis"],))


def contraction(params: Params, operands: Sequence[Any], result: Any) -> Contracted:
    """dot_general: batch axes first, then what is left of either operand."""
    inner, batch = params["dimension_numbers"]
    sides = zip("lr", operands, strict=True)
    left, right = ([f"{side}{k}" for k in range(len(x.shape))] for side, x in sides)
    for letter, pairs in (("i", inner), ("b", batch)):
        for k, (i, j) in enumerate(zip(*pairs, strict=True)):
            left[i] = right[j] = f"{letter}{k}"
    shared = [f"b{k}" for k in range(len(batch[0]))]
    alone = [name for name in (*left, *right) if name[0] in "lr"]
    return Contracted(tuple(left), tuple(right), (*shared, *alone))


# ------------------------------------------------------------------ along some axes


@dataclass(frozen=True)
class Along:
    """Linear in the first operand, which has the axes of the result, and acting along some.

    Attributes:
        axes: from the parameters and the operands.
    """

    axes: Callable[[Params, Sequence[Any]], Sequence[int]]

    def __call__(self, params: Params, operands: Sequence[Any], result: Any) -> Action:
        return alongside(self.axes(params, operands), (0,), len(result.shape))


def running(params: Params, operands: Sequence[Any]) -> Sequence[int]:
    """The axis of cumsum."""
    return [params["axis"]]


def reversed(params: Params, operands: Sequence[Any]) -> Sequence[int]:
    """The axes of rev."""
    return tuple(params["dimensions"])


def cut(params: Params, operands: Sequence[Any]) -> list[int]:
    """The axes that slice cuts."""
    shape = operands[0].shape
    whole = [(0, n, 1) for n in shape]
    limits = zip(
        params["start_indices"],
        params["limit_indices"],
        params["strides"] or (1,) * len(shape),
        strict=True,
    )
    return [k for k, (a, b) in enumerate(zip(limits, whole, strict=True)) if a != b]


def windowed(params: Params, operands: Sequence[Any]) -> list[int]:
    """The axes that dynamic_slice cuts."""
    sizes = zip(params["slice_sizes"], operands[0].shape, strict=True)
    return [k for k, (size, n) in enumerate(sizes) if size != n]


def padded(params: Params, operands: Sequence[Any]) -> list[int]:
    """The axes that pad lengthens; with another value than zero all count."""
    zero = getattr(operands[1], "zero", False)
    config = params["padding_config"]
    return [k for k, amounts in enumerate(config) if tuple(amounts) != (0, 0, 0) or not zero]


def transformed(params: Params, operands: Sequence[Any]) -> range:
    """The last axes: those of fft."""
    rank = len(operands[0].shape)
    return range(rank - len(params["fft_lengths"]), rank)


def concatenation(params: Params, operands: Sequence[Any], result: Any) -> Action:
    """Linear in all operands together."""
    return alongside([params["dimension"]], range(len(operands)), len(result.shape))


def convolution(params: Params, operands: Sequence[Any], result: Any) -> Action:
    """The batch axis is one of its input, the features are axes of its kernel."""
    changed = any(x.dtype != result.dtype for x in operands)
    if params["batch_group_count"] != 1 or changed:
        return Opaque()
    numbers, rank = params["dimension_numbers"], len(result.shape)
    through = {0: {numbers.out_spec[0]: numbers.lhs_spec[0]}, 1: {}}
    if params["feature_group_count"] == 1:
        through[1] = {numbers.out_spec[1]: numbers.rhs_spec[0]}
    beside = {*through[0], *through[1]}
    acts = [k for k in range(rank) if k not in beside]
    made = acting(acts, through, rank)
    return Acting(made.acts, made.linear, made.through, bilinear=True)


def gathering(params: Params, operands: Sequence[Any], result: Any) -> Action:
    """gather: the axes of which whole slices are taken are those of a batch."""
    numbers, sizes, shape = params["dimension_numbers"], params["slice_sizes"], operands[0].shape
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    left = [axis for axis in range(len(shape)) if axis not in gone]
    through = {
        out: axis
        for out, axis in zip(numbers.offset_dims, left, strict=True)
        if sizes[axis] == shape[axis] and axis not in numbers.start_index_map
    }
    rank = len(result.shape)
    return acting([k for k in range(rank) if k not in through], {0: through}, rank)


# ------------------------------------------------------------------ the table
