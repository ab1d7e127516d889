"""Operations that are linear in some operands, on the rows of their blocks.

A dense block is mapped over its rows, its axes of length one kept where that can be. A piece of a
structured block (`core.structure`) is mapped over its slots; where its axis goes is read from how
the operation acts on axes (`core.axes`), or, where entries only move to other places, found by
moving their indices alike. A sum over the axis of a piece makes it that of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..core.arrays import Block
from ..core.axes import Acting, Action, Broadcast, Permuted, Pointwise, Reshaped, Summed
from ..core.structure import (
    Owners,
    Piece,
    Placed,
    Structured,
    combined,
    dense,
    gathered,
    indices,
    owners_at,
    parts,
    placed,
    rows_of,
    settle,
    staying,
    together,
)
from . import arrays as XP
from . import axes
from .halves import sum_of_rows
from .interpreter import Operation, rule_of
from .jets import mapped, zeros

OnRows = Callable[..., Any]


@dataclass(frozen=True)
class Described:
    """An operand, as declarations of axes want it."""

    shape: tuple[int, ...]
    dtype: Any
    zero: bool


def described(x: Any) -> Described:
    """An array or a number."""
    known = not isinstance(x, jax.core.Tracer) and np.ndim(x) == 0
    return Described(jnp.shape(x), jnp.result_type(x), known and not np.any(np.asarray(x)))


@dataclass(frozen=True)
class Map:
    """A linear operation, to be applied to rows.

    Attributes:
        plain: the values of all operands.
        places: the operands in which it is linear together.
        on_rows: the operation, linear in them.
    """

    operation: Operation
    plain: Sequence[Any]
    places: Sequence[int]
    on_rows: OnRows

    def __call__(self, size: int, stored: Sequence[Block]) -> Any:
        """The block of the result, from those of the linear operands; a list of several results."""
        if not any(isinstance(block, Structured) for block in stored):
            return self._dense(size, stored)
        if not all(aval.size for aval in self.operation.results):
            return self._dense(size, [dense(block) for block in stored])
        return self._structured(size, stored)

    # ---- dense

    def _dense(self, size: int, stacks: Sequence[Block]) -> Any:
        """The same for arrays; None is zero."""
        small = SMALL.get(self.operation.name)
        if small is not None and len(self.places) == len(self.plain):
            found = small(self.operation, [jnp.shape(x) for x in self.plain], stacks)
            if found is not None:
                return found

        def of_row(*rows: Any) -> Any:
            filled = list(self.plain)
            for k, row in zip(self.places, rows, strict=True):
                filled[k] = row
            return self.on_rows(*filled)

        full = [
            zeros(size, self.plain[k])
            if stack is None
            else jnp.broadcast_to(stack, (size, *jnp.shape(self.plain[k])))
            for k, stack in zip(self.places, stacks, strict=True)
        ]
        return mapped(of_row, *full)

    # ---- structured

    def _structured(self, size: int, stored: Sequence[Block]) -> Any:
        opened = [parts(block) for block in stored]
        rests = [rest for rest, _ in opened]
        groups: list[_Group] = []
        summed: list[tuple[int, Piece]] = []
        for position, (_, pieces) in enumerate(opened):
            for piece in pieces:
                where = self._where(position, piece)
                if where is None and self.operation.name in SUMS:
                    summed.append((position, piece))
                elif where is None:
                    rows, rest = rows_of(XP, size, piece), rests[position]
                    rests[position] = rows if rest is None else rest + rows
                else:
                    _sort(groups, position, piece, where)
        results = len(self.operation.results)
        rest = None
        if any(block is not None for block in rests):
            rest = self._dense(size, rests)
        found: list[list[Piece]] = [[] for _ in range(results)]
        for group in groups:
            stacks = [group.members.get(k) for k in range(len(stored))]
            out = self._dense(group.slots, stacks)
            blocks = out if self.operation.several else [out]
            for k, (block, there) in enumerate(zip(blocks, group.where, strict=True)):
                found[k].append(settle(XP, group.owners, block, there))
        for position, piece in summed:
            rows = self._sum(size, position, piece)
            rest = rows if rest is None else rest + rows
        if not self.operation.several:
            return combined(XP, size, len(self.operation.results[0].shape) + 1, rest, found[0])
        return [
            combined(XP, size, len(aval.shape) + 1, None if rest is None else rest[k], found[k])
            for k, aval in enumerate(self.operation.results)
        ]

    def _action(self) -> Action | None:
        rule = rule_of(self.operation.equation)
        declare = MOVES.get(self.operation.name) or (rule.axes if rule else None)
        if declare is not None:
            operands = [described(x) for x in self.plain]
            return declare(self.operation.params, operands, self.operation.results[0])
        return Pointwise() if rule is not None and rule.entrywise else None

    def _where(self, position: int, piece: Piece) -> list[Placed] | None:
        """Where the axis of a piece lies in each result, None if it is lost."""
        axis, owners, _ = piece
        if axis is None:
            return [staying(None)] * len(self.operation.results)
        k = self.places[position]
        before, after = jnp.shape(self.plain[k]), self.operation.results[0].shape
        action = self._action()
        if action is not None:
            there = moved(action, k, axis, before, after)
            if there is not None:
                return [staying(there, owners.length)] * len(self.operation.results)
            if isinstance(action, Summed):
                return None
        rearrange = REARRANGED.get(self.operation.name)
        if rearrange is None:
            return None
        found = rearrange(self, k, indices(before, axis, owners.representatives()))
        if found is None:
            return None
        where = [placed(one) for one in found]
        for one in where:
            beside = prod(one.places.shape[1:]) if one.beside else 1
            if beside > 1 and beside * owners.slots > owners.length * owners.slots // 2:
                return None
        return where

    def _sum(self, size: int, position: int, piece: Piece) -> Block:
        """The sum over the axis of a piece, and perhaps over others."""
        action = self._action()
        assert isinstance(action, Summed) and piece.axis is not None
        shape = jnp.shape(self.plain[self.places[position]])
        block = jnp.broadcast_to(piece.block, (piece.owners.slots, *shape))
        others = [axis + 1 for axis in action.axes if axis != piece.axis]
        block = jnp.moveaxis(block, piece.axis + 1, 1)
        for axis in sorted(_behind(others, piece.axis + 1), reverse=True):
            block = sum_of_rows(block, axis)
        return gathered(XP, size, piece.owners, block)


def _behind(axes: Sequence[int], moved: int) -> tuple[int, ...]:
    """Where axes lie when one of them has come to place 1."""
    return tuple(axis + 1 if axis < moved else axis for axis in axes)


@dataclass
class _Group:
    """Pieces of several operands that are one piece of the result."""

    slots: int
    owners: Owners
    where: list[Placed]
    members: dict[int, Any]


def _sort(groups: list[_Group], position: int, piece: Piece, where: list[Placed]) -> None:
    """Put a piece to those of other operands with which it goes together."""
    slots = piece.owners.slots
    plain = len(where) == 1 and not where[0].beside
    if not plain:
        groups.append(_Group(slots, piece.owners, where, {position: piece.block}))
        return
    axis, owners = where[0].axis, owners_at(piece.owners, where[0].places)
    new = Piece(axis, owners, None)
    straight = [staying(axis, owners.length)]
    for group in groups:
        if position in group.members or len(group.where) != 1 or group.where[0].beside:
            continue
        both = together(Piece(group.where[0].axis, group.owners, None), new)
        if both is not None:
            group.owners = both
            group.members[position] = piece.block
            return
    groups.append(_Group(slots, owners, straight, {position: piece.block}))


# ------------------------------------------------------------------ where axes go


def moved(
    action: Action, k: int, axis: int, before: Sequence[int], after: Sequence[int]
) -> int | None:
    """The axis of the result that an operand's axis is, entry by entry; None if there is none."""
    match action:
        case Pointwise():
            return axis if len(before) == len(after) else None
        case Permuted(order):
            return order.index(axis)
        case Broadcast(dims):
            return dims[axis]
        case Summed(summed, keepdims):
            if axis in summed:
                return None
            return axis if keepdims else axis - sum(a < axis for a in summed)
        case Reshaped():
            ahead, first = prod(before[:axis]), 1
            for j, length in enumerate(after):
                if first == ahead and length == before[axis]:
                    return j
                first *= length
            return None
        case Acting(_, linear, through) if k in linear:
            return next((out for out, own in through[linear.index(k)] if own == axis), None)
    return None


MOVES: dict[str, Callable[..., Action]] = {
    "reduce_max": axes.reduction,
    "reduce_min": axes.reduction,
    "split": axes.Along(lambda params, operands: [params["axis"]]),
    "sort": axes.Along(lambda params, operands: [params["dimension"]]),
    "cummax": axes.Along(axes.running),
    "cummin": axes.Along(axes.running),
}
"""How primitives act on axes that no sum may pass."""

SUMS = ("reduce_sum", "sum_of_rows")
"""Primitives that make the axis of a piece that of the rows."""

Rearrange = Callable[[Map, int, np.ndarray], Sequence[np.ndarray] | None]
"""(operation, operand, index at each of its entries) -> the index at each entry of each result."""


def _reshaped(of: Map, k: int, there: np.ndarray) -> Sequence[np.ndarray]:
    return [there.reshape(of.operation.results[0].shape)]


def _cut(of: Map, k: int, there: np.ndarray) -> Sequence[np.ndarray]:
    p = of.operation.params
    strides = p["strides"] or (1,) * there.ndim
    return [there[tuple(map(slice, p["start_indices"], p["limit_indices"], strides))]]


def _reversed(of: Map, k: int, there: np.ndarray) -> Sequence[np.ndarray]:
    return [np.flip(there, of.operation.params["dimensions"])]


def _padded(of: Map, k: int, there: np.ndarray) -> Sequence[np.ndarray] | None:
    config = of.operation.params["padding_config"]
    if k or any(low < 0 or high < 0 for low, high, _ in config):
        return None
    out = np.full(of.operation.results[0].shape, -1)
    out[
        tuple(
            slice(low, low + (n - 1) * (between + 1) + 1, between + 1)
            for (low, _, between), n in zip(config, there.shape, strict=True)
        )
    ] = there
    return [out]


def _joined(of: Map, k: int, there: np.ndarray) -> Sequence[np.ndarray]:
    axis = of.operation.params["dimension"]
    start = sum(jnp.shape(x)[axis] for x in of.plain[:k])
    out = np.full(of.operation.results[0].shape, -1)
    out[(slice(None),) * axis + (slice(start, start + there.shape[axis]),)] = there
    return [out]


def _split(of: Map, k: int, there: np.ndarray) -> Sequence[np.ndarray]:
    p = of.operation.params
    return np.split(there, np.cumsum(p["sizes"])[:-1], p["axis"])


def _executed(of: Map, k: int, there: np.ndarray) -> Sequence[np.ndarray] | None:
    """The operation itself, on indices instead of values; what no index comes to is −1."""
    operands: list[Any] = []
    for j, x in enumerate(of.plain):
        if j == k:
            operands.append(np.ascontiguousarray(there, np.int32))
        elif j in of.places:
            operands.append(np.full(jnp.shape(x), -1, np.int32))
        elif isinstance(x, jax.core.Tracer):
            return None
        else:
            operands.append(np.asarray(x))
    params = dict(of.operation.params)
    if "fill_value" in params:
        params["fill_value"] = -1
    with jax.ensure_compile_time_eval():
        out = of.operation.primitive.bind(*operands, **params)
        return [np.asarray(y) for y in (out if of.operation.several else [out])]


def _added(of: Map, k: int, there: np.ndarray) -> Sequence[np.ndarray] | None:
    """scatter-add, where no two updates meet."""
    if k == 0:
        return [there]
    places = of.plain[1]
    if isinstance(places, jax.core.Tracer):
        return None
    options = {key: v for key, v in of.operation.params.items() if not key.startswith("update_")}
    places, shape = np.asarray(places), of.operation.results[0].shape
    with jax.ensure_compile_time_eval():
        ones, zeros = np.ones_like(there, np.int32), np.zeros(shape, np.int32)
        if np.asarray(lax.scatter_add(zeros, places, ones, **options)).max(initial=0) > 1:
            return None
        moved = np.ascontiguousarray(there, np.int32)
        return [np.asarray(lax.scatter(zeros - 1, places, moved, **options))]


REARRANGED: dict[str, Rearrange] = {
    "concatenate": _joined,
    "dynamic_slice": _executed,
    "dynamic_update_slice": _executed,
    "expand_dims": _reshaped,
    "gather": _executed,
    "pad": _padded,
    "reshape": _reshaped,
    "rev": _reversed,
    "scatter": _executed,
    "scatter-add": _added,
    "scatter_add": _added,
    "slice": _cut,
    "split": _split,
    "stack": _executed,
    "squeeze": _reshaped,
    "tile": _executed,
    "unstack": _executed,
}
"""Primitives that move entries to other places."""

# ------------------------------------------------------------------ axes of length one

Shapes = Sequence[tuple[int, ...]]


def _transpose(operation: Operation, shapes: Shapes, stacks: Sequence[Block]) -> Block:
    return jnp.transpose(stacks[0], (0, *(k + 1 for k in operation.params["permutation"])))


def _broadcast(operation: Operation, shapes: Shapes, stacks: Sequence[Block]) -> Block:
    (block,), lengths = stacks, [1] * len(operation.results[0].shape)
    for own, axis in enumerate(operation.params["broadcast_dimensions"]):
        lengths[axis] = block.shape[own + 1]
    return jnp.reshape(block, (block.shape[0], *lengths))


def _squeeze(operation: Operation, shapes: Shapes, stacks: Sequence[Block]) -> Block:
    return jnp.squeeze(stacks[0], tuple(k + 1 for k in operation.params["dimensions"]))


def _sum(operation: Operation, shapes: Shapes, stacks: Sequence[Block]) -> Block:
    (block,), (shape,) = stacks, shapes
    summed = operation.params["axes"]
    repeats = prod(shape[k] for k in summed if block.shape[k + 1] == 1)
    found = block
    for k in sorted(summed, reverse=True):
        found = sum_of_rows(found, k + 1)
    return found if repeats == 1 else found * repeats


def _sum_of_rows(operation: Operation, shapes: Shapes, stacks: Sequence[Block]) -> Block:
    (block,), (shape,), axis = stacks, shapes, operation.params["axis"]
    found = sum_of_rows(block, axis + 1)
    return found if block.shape[axis + 1] == shape[axis] else found * shape[axis]


def _concatenate(operation: Operation, shapes: Shapes, stacks: Sequence[Block]) -> Block:
    axis = operation.params["dimension"] + 1
    there = [block for block in stacks if block is not None]
    common = [max(block.shape[k] for block in there) for k in range(there[0].ndim)]
    rows = []
    for block, shape in zip(stacks, shapes, strict=True):
        lengths = [*common[:axis], shape[axis - 1], *common[axis + 1 :]]
        if block is None:
            rows.append(jnp.zeros(lengths, there[0].dtype))
        else:
            rows.append(jnp.broadcast_to(block, lengths))
    return lax.concatenate(rows, axis)


SMALL: dict[str, Callable[[Operation, Shapes, Sequence[Block]], Block]] = {
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "reduce_sum": _sum,
    "squeeze": _squeeze,
    "sum_of_rows": _sum_of_rows,
    "transpose": _transpose,
}
"""Operations on blocks that keep axes of length one; a new axis of a value is one of those."""
