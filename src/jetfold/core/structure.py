"""Structure of dependence: blocks without the zeros that are known before anything runs.

In a function of many particles most values depend on the coordinates of one of them, or of two. A
coefficient of the value at index i of some axis is then zero along all directions but a few, and
which these are is a matter of i alone:

    row owners[i, c] of the block, at index i of the axis, is slot c of the piece there.

A structured block is the sum of such pieces and of a dense rest,

    U[r, …, i, …] = dense[r, …, i, …] + Σ_s Σ_c [r = owners_s[i_s, c]] · A_s[c, …, i, …],

of which each A_s is an array of `slots` rows, however many rows the block has. Everything here is
exact; what no rule knows is made dense (`dense`). The owners are static.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from .algebra import Product
from .arrays import Array, Arrays, Block

Name = Any
"""What an axis is called where operands share axes."""


class Owners:
    """To which row each slot belongs, by the index on an axis: integers (length, slots).

    −1 where a slot belongs to none; it holds zeros there. Immutable, compared by its entries.
    """

    __slots__ = ("_hash", "_key", "rows")

    def __init__(self, rows: Any) -> None:
        self.rows = np.ascontiguousarray(rows, dtype=np.int64)
        self._key = (self.rows.shape, self.rows.tobytes())
        self._hash = hash(self._key)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Owners) and self._key == other._key)

    def __hash__(self) -> int:
        return self._hash

    @property
    def length(self) -> int:
        """The length of the axis."""
        return int(self.rows.shape[0])

    @property
    def slots(self) -> int:
        """How many rows are stored."""
        return int(self.rows.shape[1])

    @property
    def in_order(self) -> bool:
        """Whether slot c at index i is row i · slots + c."""
        return bool((self.rows.ravel() == np.arange(self.rows.size)).all())

    @property
    def apart(self) -> bool:
        """Whether no row belongs to two indices."""
        rows = self.rows[self.rows >= 0]
        return len(np.unique(rows)) == rows.size

    def representatives(self) -> np.ndarray:
        """Per index the first one that has the same owners."""
        _, first, inverse = np.unique(self.rows, axis=0, return_index=True, return_inverse=True)
        return np.asarray(first[inverse.ravel()])

    def at(self, places: Any) -> Owners:
        """Those at other indices; none at the index −1."""
        places = np.asarray(places)
        if np.array_equal(places, np.arange(self.length)):
            return self
        return Owners(np.where(places[:, None] < 0, -1, self.rows[places]))

    def __repr__(self) -> str:
        return f"Owners(length={self.length}, slots={self.slots})"


class Piece(NamedTuple):
    """The coefficients of values each of which depends on few directions.

    Attributes:
        axis: the axis of the value by whose index they are told; None where they are the same ones
            everywhere (the owners have length one then).
        owners: which.
        block: (slots, *broadcastable to the value).
    """

    axis: int | None
    owners: Owners
    block: Array


class Structured:
    """A block of `size` rows as a sum of pieces and a dense rest; arithmetic as arrays have it.

    Attributes:
        ndim: number of axes, the rows' among them, as that of an array would be.
    """

    __array_ufunc__ = None  # NumPy arrays leave the arithmetic to us
    __slots__ = ("dense", "ndim", "pieces", "size", "xp")

    def __init__(
        self, xp: Arrays, size: int, ndim: int, dense: Block, pieces: Sequence[Piece]
    ) -> None:
        self.xp, self.size, self.ndim = xp, size, ndim
        self.dense, self.pieces = dense, tuple(pieces)

    def map(self, function: Callable[[Array], Array]) -> Structured:
        """A function that acts on every entry, and is linear in it, of all parts."""
        dense = None if self.dense is None else function(self.dense)
        pieces = [piece._replace(block=function(piece.block)) for piece in self.pieces]
        return Structured(self.xp, self.size, self.ndim, dense, pieces)

    def expanded(self, ndim: int) -> Structured:
        """Axes of length one behind that of the rows, until the rows have `ndim` axes."""
        missing = ndim + 1 - self.ndim
        if missing <= 0:
            return self
        pieces = [
            Piece(
                None if axis is None else axis + missing, owners, self.xp.expand_dims(block, ndim)
            )
            for axis, owners, block in self.pieces
        ]
        dense = None if self.dense is None else self.xp.expand_dims(self.dense, ndim)
        return Structured(self.xp, self.size, ndim + 1, dense, pieces)

    def __mul__(self, other: Array | float) -> Structured:
        return self.map(lambda part: part * other)

    __rmul__ = __mul__

    def __truediv__(self, other: Array | float) -> Structured:
        return self.map(lambda part: part / other)

    def __neg__(self) -> Structured:
        return self.map(lambda part: -part)

    def __add__(self, other: Any) -> Block:
        dense, pieces = parts(other)
        if self.dense is not None:
            dense = self.dense if dense is None else self.dense + dense
        ndim = max(self.ndim, other.ndim)
        return combined(self.xp, self.size, ndim, dense, (*self.pieces, *pieces))

    __radd__ = __add__

    def __sub__(self, other: Any) -> Block:
        return self + (-other)

    def __rsub__(self, other: Any) -> Block:
        return (-self) + other


def parts(block: Block) -> tuple[Block, tuple[Piece, ...]]:
    """The dense rest of a block, None if there is none, and its pieces."""
    return (block.dense, block.pieces) if type(block) is Structured else (block, ())


def combined(xp: Arrays, size: int, ndim: int, dense: Block, pieces: Iterable[Piece]) -> Block:
    """The block that is the sum of these: structured where that stores less, else dense."""
    found: list[Piece] = []
    for piece in pieces:
        if (piece.owners.rows < 0).all():
            continue
        if piece.axis is not None and piece.owners.length == 1:
            piece = piece._replace(axis=None)
        for k, other in enumerate(found):
            owners = together(piece, other)
            if owners is not None:
                found[k] = Piece(other.axis, owners, other.block + piece.block)
                break
        else:
            found.append(piece)
    if sum(piece.owners.slots for piece in found) >= size:
        taken, found = found, []
    else:
        taken = [piece for piece in found if dense is not None and _covers(dense, piece)]
        found = [piece for piece in found if not any(piece is one for one in taken)]
    for piece in taken:
        rows = rows_of(xp, size, piece)
        dense = rows if dense is None else dense + rows
    return Structured(xp, size, ndim, dense, found) if found else dense


def together(first: Piece, second: Piece) -> Owners | None:
    """The owners of the sum of two pieces, if no slot belongs to two rows; else None."""
    if first.axis != second.axis or first.owners.slots != second.owners.slots:
        return None
    if first.owners == second.owners:
        return first.owners
    a, b = first.owners.rows, second.owners.rows
    if a.shape != b.shape or not ((a == b) | (a < 0) | (b < 0)).all():
        return None
    return Owners(np.maximum(a, b))


def _covers(dense: Block, piece: Piece) -> bool:
    """Whether a dense block has all the entries of a piece, so that it can take it in."""
    lengths = [*piece.block.shape]
    if piece.axis is not None:
        lengths[piece.axis + 1] = piece.owners.length
    pairs = zip(dense.shape[1:], lengths[1:], strict=True)
    return all(of_dense == length or length == 1 for of_dense, length in pairs)


# ------------------------------------------------------------------ pieces as dense blocks


def rows_of(xp: Arrays, size: int, piece: Piece) -> Block:
    """A piece as a dense block."""
    axis, owners, block = piece
    rank = block.ndim - 1
    if axis is None:
        there = np.flatnonzero(owners.rows[0] >= 0)
        slots = _chosen(xp, block, tuple(there.tolist()))
        return xp.place_rows(slots, owners.rows[0, there].tolist(), size)
    if owners.in_order and owners.rows.size == size:
        here = np.eye(owners.length, dtype=bool)  # (group, index)
        shape = [owners.length, 1, *(1,) * rank]
        shape[axis + 2] = owners.length
        mask = xp.mask(here.reshape(shape), block)
        spread = xp.where(mask, block[None], xp.zeros_like(block)[None])
        return xp.reshape(spread, (size, *spread.shape[2:]))
    total = None
    for c in range(owners.slots):
        here = np.arange(size)[:, None] == owners.rows[:, c]  # (row, index)
        shape = [size, *(1,) * rank]
        shape[axis + 1] = owners.length
        row = block[c : c + 1]
        part = xp.where(xp.mask(here.reshape(shape), block), row, xp.zeros_like(row))
        total = part if total is None else total + part
    return total


def dense(block: Block) -> Block:
    """Any block as an array, or None."""
    if type(block) is not Structured:
        return block
    total = block.dense
    for piece in block.pieces:
        rows = rows_of(block.xp, block.size, piece)
        total = rows if total is None else total + rows
    return total


def gathered(xp: Arrays, size: int, owners: Owners, block: Array) -> Block:
    """The rows, of (slots, length, *shape): the axis of a piece becomes that of the rows."""
    flat = xp.moveaxis(block, 0, 1)
    flat = xp.reshape(flat, (owners.rows.size, *flat.shape[2:]))
    if owners.in_order and owners.rows.size == size:
        return flat
    rows = np.where(owners.rows < 0, size, owners.rows).ravel()  # one more, for those of none
    return xp.segment_sum(flat, rows.tolist(), size + 1)[:size]


def restricted(xp: Arrays, block: Block, axis: int | None, owners: Owners) -> Array:
    """What a dense block holds where a piece has its slots: (slots, *shape)."""
    if axis is None:
        found = xp.take(block, np.maximum(owners.rows[0], 0).tolist())
        return _where(xp, owners.rows[0] >= 0, found, 0)
    n, rows = owners.length, np.maximum(owners.rows.T, 0)  # (slots, length)
    moved = xp.moveaxis(block, axis + 1, 1)
    if moved.shape[1] == 1:
        places, flat = rows, moved[:, 0]
    else:
        places = rows * n + np.arange(n)
        flat = xp.reshape(moved, (moved.shape[0] * n, *moved.shape[2:]))
    found = xp.take(flat, places.ravel().tolist())
    found = xp.reshape(found, (owners.slots, n, *found.shape[1:]))
    return _where(xp, owners.rows.T >= 0, xp.moveaxis(found, 1, axis + 1), 0, axis + 1)


def _where(xp: Arrays, mask: np.ndarray, x: Array, *axes: int) -> Array:
    """x where a static mask along some of its axes is true, else zero."""
    if mask.all():
        return x
    shape = [1] * x.ndim
    for axis, length in zip(axes, mask.shape, strict=True):
        shape[axis] = length
    order: Sequence[int] = np.argsort(axes).tolist()
    return xp.where(xp.mask(mask.transpose(order).reshape(shape), x), x, xp.zeros_like(x))


# ------------------------------------------------------------------ bilinear maps


class Named:
    """A bilinear map whose axes have names: what it needs to act on pieces.

    Attributes:
        left, right, out: the names of the axes of both operands and of the result; what is in
            `out` is not summed over.
        map: the bilinear map of `core.jet`.
        keeping: the map that does not sum over one name, which becomes the first axis of the
            result.
        symmetric: whether B(u, v) is B(v, u).
    """

    def __init__(
        self,
        map: Any,
        left: Sequence[Name],
        right: Sequence[Name],
        out: Sequence[Name],
        keeping: Callable[[Name], Any] | None = None,
        symmetric: bool = False,
    ) -> None:
        self.map, self.keeping, self.symmetric = map, keeping, symmetric
        self.left, self.right, self.out = tuple(left), tuple(right), tuple(out)


def one_sided(
    xp: Arrays, named: Named, block: Structured, act: Callable[[Any, Array], Array], *, right: bool
) -> Block:
    """B(u, V[b]) for a structured V (or B(U[a], v)): act(map, rows)."""
    names = named.right if right else named.left
    dense = None if block.dense is None else act(named.map, block.dense)
    pieces = []
    for axis, owners, rows in block.pieces:
        if axis is None or names[axis] in named.out:
            moved = None if axis is None else named.out.index(names[axis])
            pieces.append(Piece(moved, owners, act(named.map, rows)))
            continue
        assert named.keeping is not None
        found = gathered(xp, block.size, owners, act(named.keeping(names[axis]), rows))
        dense = found if dense is None else dense + found
    return combined(xp, block.size, len(named.out) + 1, dense, pieces)


UNKNOWN = object()
"""What `pair` answers where it would not gain."""


class Match(NamedTuple):
    """Slots that belong to the same rows, where a mask over the two indices is true.

    Attributes:
        whole: whether that is everywhere.
        names: the axes of the mask: none, one or two.
    """

    left: tuple[int, ...]
    right: tuple[int, ...]
    mask: np.ndarray
    whole: bool
    names: tuple[Name, ...]


@lru_cache(maxsize=4096)
def _matches(first: tuple[Name | None, Owners], second: tuple[Name | None, Owners]) -> list[Match]:
    """All pairs of slots of two pieces that share a row somewhere, those of one mask together."""
    (a, left), (b, right) = first, second
    found: dict[bytes, tuple[list[int], list[int], np.ndarray]] = {}
    for c in range(left.slots):
        for d in range(right.slots):
            u, v = left.rows[:, c], right.rows[:, d]
            if a is not None and a == b:
                mask = (u == v) & (u >= 0)
            else:
                mask = (u[:, None] == v) & (u[:, None] >= 0)
                pairs = zip(mask.shape, (a, b), strict=True)
                mask = mask.reshape([n for n, name in pairs if name is not None])
            if not mask.any():
                continue
            slots = found.setdefault(mask.tobytes(), ([], [], mask))
            slots[0].append(c)
            slots[1].append(d)
    names = (a,) if a == b else tuple(name for name in (a, b) if name is not None)
    names = () if a is None and b is None else names
    return [
        Match(tuple(of_left), tuple(of_right), mask, bool(mask.all()), names)
        for of_left, of_right, mask in found.values()
    ]


@lru_cache(maxsize=4096)
def _weights(
    owners: Owners, slots: tuple[int, ...], weights: tuple[float, ...]
) -> float | np.ndarray:
    """The weights of the rows of some slots: one for all, or (length, slots)."""
    rows = owners.rows[:, slots]
    scale = np.where(rows < 0, 0.0, np.asarray(weights)[rows])
    valid = np.unique(scale[rows >= 0])  # where a slot belongs to none it holds zeros
    return float(valid[0]) if len(valid) == 1 else scale


def pair(table: Product, u: Block, v: Block, named: Named, xp: Arrays) -> Block:
    """out[w] = Σ c^w_{ab} B(u[a], v[b]) of structured blocks; UNKNOWN if that has no structure.

    Without the product of the dense rests.

    Tables in which only rows of the same place meet (a = b): sums over all rows, and products row
    by row, as the operators have them that are sums over single coordinates.
    """
    weights, size = table.aligned, table.size
    if weights is None:
        return UNKNOWN
    total: Block = None
    pieces: list[Piece] = []
    (dense_u, pieces_u), (dense_v, pieces_v) = parts(u), parts(v)
    met: list[tuple[Piece, Piece, int]] = []  # how often
    square = u is v and named.symmetric
    for k, s in enumerate(pieces_u):
        if square:
            met += [(s, t, 1 + (j > 0)) for j, t in enumerate(pieces_v[k:])]
        else:
            met += [(s, t, 1) for t in pieces_v]
        if dense_v is not None:
            there = None if s.axis is None else named.left[s.axis]
            if there is not None and there not in named.right:
                return UNKNOWN
            axis = None if there is None else named.right.index(there)
            there_v = Piece(axis, s.owners, restricted(xp, dense_v, axis, s.owners))
            met.append((s, there_v, 1 + square))
    if dense_u is not None and not square:
        for t in pieces_v:
            there = None if t.axis is None else named.right[t.axis]
            if there is not None and there not in named.left:
                return UNKNOWN
            axis = None if there is None else named.left.index(there)
            met.append((Piece(axis, t.owners, restricted(xp, dense_u, axis, t.owners)), t, 1))
    for s, t, times in met:
        a = None if s.axis is None else named.left[s.axis]
        b = None if t.axis is None else named.right[t.axis]
        for match in _matches((a, s.owners), (b, t.owners)):
            if table.rowwise is None:
                for w, row in enumerate(weights):
                    part = _summed(match, row, times, s, t, named, xp)
                    if part is not None:
                        part = part[None] if size == 1 else xp.place_rows(part[None], [w], size)
                        total = part if total is None else total + part
                continue
            # The product lies where either factor has its slots; it is kept by the first of these.
            name = a if a in named.out else b
            if name is not None and name not in named.out:
                return UNKNOWN
            axis = None if name is None else named.out.index(name)
            by_left = name == a
            kept, owners = (match.left, s.owners) if by_left else (match.right, t.owners)
            rows = owners.rows[:, kept]
            if len(set(kept)) < len(kept):
                return UNKNOWN
            if len(match.names) == 1 and match.names[0] == name:
                rows = np.where(match.mask[:, None], rows, -1)
            if len(match.names) == 1 and match.names[0] != name:
                return UNKNOWN
            product = _masked_rows(match, s, t, named, xp)
            scale = _weights(owners, kept, weights[0]) * times
            pieces.append(Piece(axis, Owners(rows), _weighted(xp, product, scale, axis)))
    return combined(xp, size, len(named.out) + 1, total, pieces)


def _chosen(xp: Arrays, block: Array, slots: tuple[int, ...]) -> Array:
    """Some slots of a piece."""
    return block if slots == tuple(range(block.shape[0])) else xp.take(block, list(slots))


def _weighted(xp: Arrays, block: Array, scale: float | np.ndarray, axis: int | None) -> Array:
    """Each slot (at each index of the axis) times its weight."""
    if isinstance(scale, float):
        return block if scale == 1 else block * scale
    shape = [scale.shape[1], *(1,) * (block.ndim - 1)]
    if axis is not None:
        shape[axis + 1] = scale.shape[0]
    return block * xp.asarray(scale.T.reshape(shape).tolist(), block)


def _masked(
    match: Match, left: Array, right: Array, named: Named, xp: Arrays
) -> tuple[Array, Array, bool]:
    """Both operands, masked where one of them has the axes; whether the result needs it still."""
    names = match.names
    if match.whole:
        return left, right, False
    if all(name in named.out for name in names):
        return left, right, True
    if all(name in named.left for name in names):
        return _where(xp, match.mask, left, *(named.left.index(n) + 1 for n in names)), right, False
    return left, _where(xp, match.mask, right, *(named.right.index(n) + 1 for n in names)), False


def _summed(
    match: Match,
    weights: tuple[float, ...],
    times: int,
    s: Piece,
    t: Piece,
    named: Named,
    xp: Arrays,
) -> Array | None:
    """Σ_c weight · B(A[c], B[c]) over the slots that belong together, so many times."""
    scale = _weights(s.owners, match.left, weights) * times
    if isinstance(scale, float) and scale == 0:
        return None
    left, right = _chosen(xp, s.block, match.left), _chosen(xp, t.block, match.right)
    if not isinstance(scale, float):
        left = _weighted(xp, left, scale, s.axis)
    left, right, later = _masked(match, left, right, named, xp)
    found = named.map.contract(left, right)
    if isinstance(scale, float) and scale != 1:
        found = found * scale
    if later:
        found = _where(xp, match.mask, found, *(named.out.index(name) for name in match.names))
    return found


def _masked_rows(match: Match, s: Piece, t: Piece, named: Named, xp: Arrays) -> Array:
    """B(A[c], B[c]) for the slots that belong together."""
    left, right = _chosen(xp, s.block, match.left), _chosen(xp, t.block, match.right)
    left, right, later = _masked(match, left, right, named, xp)
    found = named.map.blocks(left, right)
    if later:
        found = _where(xp, match.mask, found, *(named.out.index(n) + 1 for n in match.names))
    return found


# ------------------------------------------------------------------ where axes go


@dataclass(frozen=True)
class Placed:
    """Where entries of an axis come to lie: on an axis of the result, at which indices.

    Attributes:
        axis: of the result; None where all entries of the result stem from one index.
        places: per index of it the index on the operand's axis, −1 for none.
        beside: further axes of the result that tell it, behind the first in `places`: they become
            slots.
    """

    axis: int | None
    places: np.ndarray
    beside: tuple[int, ...] = ()


def indices(shape: Sequence[int], axis: int, line: np.ndarray) -> np.ndarray:
    """What `line` has for the index along one axis, at every entry of an array of that shape,
    without a copy."""
    line = line.reshape([-1 if k == axis else 1 for k in range(len(shape))])
    return np.broadcast_to(line, tuple(shape))


def placed(indices: np.ndarray) -> Placed:
    """Where the entries lie, from the index on the operand's axis at every entry of the result.

    Where that is −1 the result holds zeros, so that any index would do.
    """
    alike = (slice(0, 1) if step == 0 else slice(None) for step in indices.strides)
    indices = _filled(indices[tuple(alike)])
    depends = [k for k in range(indices.ndim) if _varies(indices, k)]
    if not depends:
        first = indices.ravel()[:1]
        return Placed(None, first)
    longest = max(depends, key=lambda k: (indices.shape[k], -k))
    order = [longest, *(k for k in depends if k != longest)]
    cut = indices[tuple(slice(None) if k in depends else 0 for k in range(indices.ndim))]
    places = np.moveaxis(cut, depends.index(longest), 0)
    return Placed(longest, places, tuple(order[1:]))


def _filled(indices: np.ndarray) -> np.ndarray:
    """The same with what stands elsewhere along an axis in place of −1, if all that is one."""
    for axis in range(indices.ndim if indices.size else 0):
        if not (indices < 0).any():
            break
        last = indices.max(axis, keepdims=True)
        if ((indices < 0) | (indices == last)).all():
            indices = np.broadcast_to(last, indices.shape)
    return indices


def _varies(indices: np.ndarray, axis: int) -> bool:
    if indices.shape[axis] <= 1 or indices.strides[axis] == 0:
        return False
    return bool((indices != indices.take([0], axis)).any())


def settle(xp: Arrays, owners: Owners, block: Array, where: Placed) -> Piece:
    """The piece, from its block in the axes of the result."""
    if not where.beside:
        return Piece(where.axis, owners.at(where.places.ravel()), block)
    assert where.axis is not None
    lengths = where.places.shape[1:]
    slots, pieces, n = owners.slots, [], where.places.shape[0]
    rows = np.empty((n, int(np.prod(lengths)), slots), np.int64)
    for k, index in enumerate(np.ndindex(*lengths)):
        rows[:, k] = owners.at(where.places[(slice(None), *index)]).rows
        one = np.zeros(lengths, bool)
        one[index] = True
        pieces.append(_where(xp, one, block, *(axis + 1 for axis in where.beside)))
    return Piece(where.axis, Owners(rows.reshape(n, -1)), xp.concat(pieces, 0))
