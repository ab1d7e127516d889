"""Linear operations on structured blocks (`core.structure`), piece by piece.

An operation acts on the rows of a piece as on those of any block. Where the axis goes by which the
piece is told, the operation itself says, where it only moves entries: it is applied to a tensor of
indices. A sum over that axis makes it the axis of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
import torch

from ..core.arrays import Block
from ..core.structure import (
    Owners,
    Piece,
    Placed,
    Structured,
    combined,
    everywhere,
    gathered,
    owners_at,
    parts,
    placed,
    rows_of,
    settle,
    staying,
    together,
)
from . import arrays as XP
from . import dynamo_private, private
from .lifts import is_tensor

Where = Callable[[int, Owners], "Sequence[Placed] | None"]
"""(axis, owners) -> where the entries of an axis lie in each result; None if nowhere."""

OnValues = Callable[..., Any]
"""What moves entries, on a tensor of the value's shape: one result or a sequence of them."""


def same(axis: int, owners: Owners) -> Sequence[Placed]:
    """Axis by axis as they are."""
    return [staying(axis, owners.length)]


def linear(
    block: Structured, ndims: Sequence[int], act: Callable[[Any], Sequence[Any]], where: Where
) -> list[Block]:
    """The blocks of all results of a linear function.

    Args:
        ndims: how many axes the results have.
        act: the function of every row, of arrays of rows.
    """
    if where is same:
        found = block.map(lambda rows: act(rows)[0])
        return [Structured(XP, block.size, ndims[0] + 1, found.dense, found.pieces)]
    rest = block.dense
    settled: list[list[Piece]] = [[] for _ in ndims]
    for piece in block.pieces:
        if piece.axis is None:
            there: Sequence[Placed] | None = [staying(None) for _ in ndims]
        else:
            there = where(piece.axis, piece.owners)
        if there is None:
            rows = rows_of(XP, block.size, piece)
            rest = rows if rest is None else rest + rows
            continue
        for k, part in enumerate(act(piece.block)):
            settled[k].append(settle(XP, piece.owners, part, there[k]))
    rests: Sequence[Block] = [None] * len(ndims) if rest is None else act(rest)
    return [
        combined(XP, block.size, ndim + 1, dense, pieces)
        for ndim, dense, pieces in zip(ndims, rests, settled, strict=True)
    ]


# ------------------------------------------------------------------ what moves entries


def moved(
    shape: Sequence[int],
    on_values: OnValues,
    fixed: tuple[Any, ...],
    given: Sequence[Any],
    once: bool = True,
) -> Where:
    """Where entries go, found by moving their indices.

    Args:
        shape: of the value.
        on_values: called with the tensor and all arguments; a function of a module, by which, and
            by `fixed`, results are kept if the others are static.
        given: arguments, of which tensors must be known.
        once: entries come to different places; otherwise that is looked at.
    """

    def where(axis: int, owners: Owners) -> Sequence[Placed] | None:
        if torch.compiler.is_dynamo_compiling():
            return dynamo_private.attempted(
                _found, tuple(shape), axis, owners, once, on_values, *fixed, *given
            )
        static = _static(given)
        if static is not None:
            lookup = _Lookup((on_values, fixed, static), (*fixed, *given))
            return _kept(lookup, tuple(shape), axis, owners, once)
        if any(private.known(x) is not x for x in given if is_tensor(x)):
            return None
        return _found(tuple(shape), axis, owners, once, on_values, *fixed, *given)

    return where


class _Lookup:
    """Arguments that are known by a key, and are held until that has been looked up."""

    __slots__ = ("arguments", "key")

    def __init__(self, key: Any, arguments: Any) -> None:
        self.key, self.arguments = key, arguments

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Lookup) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def _static(given: Any) -> Any:
    """Arguments as something to look up by; None if they hold more than numbers."""
    if isinstance(given, (tuple, list)):
        items = [_static(x) for x in given]
        return None if any(x is None for x in items) else tuple(items)
    if isinstance(given, slice):
        return _static(("slice", given.start, given.stop, given.step))
    if given is None or given is Ellipsis or isinstance(given, (bool, int, float, str)):
        return (type(given), given)
    return None


@lru_cache(maxsize=4096)
def _kept(
    lookup: _Lookup, shape: tuple[int, ...], axis: int, owners: Owners, once: bool
) -> Sequence[Placed] | None:
    arguments, lookup.arguments = lookup.arguments, None
    return _found(shape, axis, owners, once, lookup.key[0], *arguments)


def _found(
    shape: tuple[int, ...], axis: int, owners: Owners, once: bool, on_values: OnValues, *given: Any
) -> Sequence[Placed] | None:
    """Where entries go; zeros, to which nothing comes, are told from index 0 by adding one."""
    device = next((x.device for x in given if is_tensor(x)), None)
    with private.constants():
        line = torch.from_numpy(owners.representatives() + 1.0)
        there = line.reshape([-1 if k == axis else 1 for k in range(len(shape))]).expand(shape)
        if not once:
            counts = on_values(torch.ones((), device=device).expand(shape), *given)
            if not bool(((counts == 0) | (counts == 1)).all()):
                return None
        out = on_values(there.to(device or "cpu"), *given)
        results = list(out) if isinstance(out, (tuple, list)) else [out]
        found = tuple(_placed(x.cpu().numpy()) for x in results)
    for one in found:
        beside = prod(one.places.shape[1:]) if one.beside else 1
        if beside > 1 and 2 * beside > owners.length:
            return None
    return found


def _placed(indices: np.ndarray) -> Placed:
    alike = tuple(slice(0, 1) if step == 0 else slice(None) for step in indices.strides)
    return placed(indices[alike].astype(np.int64) - 1)


# ------------------------------------------------------------------ sums


def summed(
    block: Structured, shape: Sequence[int], axes: Sequence[int], keepdim: bool, scale: float
) -> Block:
    """The sum over some axes of a value of this shape, times a number."""
    rest = None if block.dense is None else _sum(block.dense, shape, axes, keepdim, scale)
    pieces = []
    for axis, owners, rows in block.pieces:
        if axis is None or axis not in axes:
            before = 0 if axis is None or keepdim else len([k for k in axes if k < axis])
            moved = None if axis is None else axis - before
            pieces.append(Piece(moved, owners, _sum(rows, shape, axes, keepdim, scale)))
            continue
        others = [k for k in axes if k != axis]
        lengths = list(rows.shape)
        lengths[axis + 1] = owners.length
        kept = _sum(rows.expand(lengths), shape, others, True, scale)
        found = gathered(XP, block.size, owners, kept.movedim(axis + 1, 1))
        if keepdim:
            found = found.unsqueeze(axis + 1)
        else:
            rank = len(shape) - 1
            left = [k if k < axis else k - 1 for k in others]
            found = found.reshape(
                [found.shape[0], *(found.shape[k + 1] for k in range(rank) if k not in left)]
            )
        rest = found if rest is None else rest + found
    ndim = len(shape) - (0 if keepdim else len(axes))
    return combined(XP, block.size, ndim + 1, rest, pieces)


def _sum(rows: Any, shape: Sequence[int], axes: Sequence[int], keepdim: bool, scale: float) -> Any:
    """The same for rows, whose axes of length one stand for the value's."""
    factor = scale * prod([shape[k] for k in axes if rows.shape[k + 1] == 1])
    if axes:
        rows = rows.sum([k + 1 for k in axes], keepdim=keepdim)
    return rows if factor == 1 else rows * factor


# ------------------------------------------------------------------ several operands


class Group:
    """Pieces of several operands that are one piece of the result: rows by operand."""

    def __init__(self, slots: int, owners: Owners, where: Placed, rows: dict[int, Any]) -> None:
        self.slots, self.owners, self.where, self.rows = slots, owners, where, rows


def jointly(
    size: int,
    ndim: int,
    operands: Sequence[Block],
    act: Callable[[int, Sequence[Block]], Any],
    where: Callable[[int, Piece], Placed | None],
) -> Block:
    """The block of a function that is linear in several operands together and moves entries.

    Args:
        act: (slots, rows of each operand, None for zeros) -> rows.
        where: (operand, piece) -> where its entries lie, None if nowhere.
    """
    opened = [parts(block) for block in operands]
    rests = [rest for rest, _ in opened]
    groups: list[Group] = []
    for k, (_, pieces) in enumerate(opened):
        for piece in pieces:
            there = where(k, piece)
            if there is None:
                rows = rows_of(XP, size, piece)
                rests[k] = rows if rests[k] is None else rests[k] + rows
            else:
                _sort(groups, k, piece, there)
    rest = None if all(block is None for block in rests) else act(size, rests)
    found = []
    for group in groups:
        rows = act(group.slots, [group.rows.get(k) for k in range(len(operands))])
        piece = settle(XP, group.owners, rows, group.where)
        alike = None if piece.axis is None else everywhere(piece.owners)
        found.append(piece if alike is None else Piece(None, alike, piece.block))
    return combined(XP, size, ndim + 1, rest, found)


def _sort(groups: list[Group], k: int, piece: Piece, there: Placed) -> None:
    """Put a piece to those of other operands with which it goes together."""
    slots = piece.owners.slots
    if there.beside:
        groups.append(Group(slots, piece.owners, there, {k: piece.block}))
        return
    owners = owners_at(piece.owners, there.places)
    for group in groups:
        if k in group.rows or group.where.beside:
            continue
        both = together(
            Piece(group.where.axis, group.owners, None), Piece(there.axis, owners, None)
        )
        if both is not None:
            group.owners = both
            group.rows[k] = piece.block
            return
    groups.append(Group(slots, owners, staying(there.axis, owners.length), {k: piece.block}))
