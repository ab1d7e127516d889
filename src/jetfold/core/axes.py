"""How an operation acts on the axes of its operands: facts, as values.

A declaration says what is linear in what, and where each axis of the result comes from. It knows
no framework and no purpose; whoever moves sums, or keeps coefficients sparse, reads it:

    Pointwise(linear=(0, 1), sign=-1)                  u − v
    Pointwise(factors=(0, 1))                          u · v
    Permuted((2, 0, 1))                                axis k of the result is axis order[k]
    Contracted(("i", "k"), ("k", "j"), ("i", "j"))     the product of two matrices
    Acting((1,), (0,), (((0, 0), (2, 2)),))            a cumulative sum along axis 1 of three

Operands are named by their position, axes by their number; positions of operands that are no arrays
do not count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Pointwise:
    """Every entry of the result depends on the entries there; operands are broadcast.

    Attributes:
        linear: the operands in which the operation is linear together.
        factors: the two operands of a product.
        sign: of the second term, for the sum or the difference of two operands; else 0.
        arithmetic: it is one of + − · / and keeps the dtype, so that a factor of the one operand in
            which it is linear, or of both terms of a sum, is a factor of the result.
        conjugates: it is additive; a factor comes out conjugated.
        masked: two operands; the result is the second where the first is true, and zero elsewhere.
    """

    linear: tuple[int, ...] = ()
    factors: tuple[int, ...] = ()
    sign: int = 0
    arithmetic: bool = False
    conjugates: bool = False
    masked: tuple[int, int] | tuple[()] = ()


@dataclass(frozen=True)
class Permuted:
    """Axis k of the result is axis order[k] of the operand."""

    order: tuple[int, ...]


@dataclass(frozen=True)
class Broadcast:
    """Axis k of the operand is axis dims[k] of the result, repeated if its length is one."""

    dims: tuple[int, ...]


@dataclass(frozen=True)
class Reshaped:
    """The entries in the same order in another shape."""


@dataclass(frozen=True)
class Diagonal:
    """The entries at which the indices along two axes agree; those of the pair become the last."""

    first: int
    second: int


Rearranged = Permuted | Broadcast | Reshaped | Diagonal
"""The entries of one operand in other places."""


@dataclass(frozen=True)
class Summed:
    """The sum over some axes of the operand."""

    axes: tuple[int, ...]
    keepdims: bool = False


@dataclass(frozen=True)
class Contracted:
    """A product of two operands, summed over every name that is not in `out`.

    Attributes:
        left, right, out: names of the axes of both operands and of the result.
    """

    left: tuple[str, ...]
    right: tuple[str, ...]
    out: tuple[str, ...]


@dataclass(frozen=True)
class Acting:
    """Linear in some operands, and acting along some axes; the other axes index a batch.

    Attributes:
        acts: the axes of the result that it acts along.
        linear: the operands in which it is linear.
        through: per operand of these (axis of the result, its own axis), for each of the batch.
        bilinear: it is linear in each of two operands alone; else in all of them together.
    """

    acts: tuple[int, ...]
    linear: tuple[int, ...]
    through: tuple[tuple[tuple[int, int], ...], ...]
    bilinear: bool = False


@dataclass(frozen=True)
class Zeros:
    """Nothing but zeros."""


@dataclass(frozen=True)
class Identity:
    """One where the indices along two axes agree, else zero; a mask is true there."""

    first: int
    second: int


@dataclass(frozen=True)
class Opaque:
    """Nothing is known."""


Action = Pointwise | Rearranged | Summed | Contracted | Acting | Zeros | Identity | Opaque


def acting(acts: Sequence[int], through: Mapping[int, Mapping[int, int]], rank: int) -> Acting:
    """Linear in the operands that `through` names, which says of each where its batch axes are.

    Args:
        acts: axes of the result.
        through: operand -> {axis of the result: its own axis}; those in `acts` are left out.
        rank: of the result.
    """
    along = tuple(sorted({axis % rank for axis in acts})) if rank else ()
    kept = (tuple((k, own) for k, own in of.items() if k not in along) for of in through.values())
    return Acting(along, tuple(through), tuple(kept))


def alongside(acts: Sequence[int], operands: Sequence[int], rank: int) -> Acting:
    """Linear in operands that have the axes of the result."""
    return acting(acts, {k: {axis: axis for axis in range(rank)} for k in operands}, rank)


def as_exact(before: Any, after: Any) -> bool:
    """Whether a sum in one dtype is as exact as in another and reaches as far; of their finfo."""
    return bool(before.eps <= after.eps and float(before.max) >= float(after.max))
