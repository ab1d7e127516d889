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

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np

from .algebra import Product
from .arrays import Array, Arrays, Block

Name = Any
"""What an axis is called where operands share axes."""


P = ParamSpec("P")
R = TypeVar("R")

STATIC: list[Callable[..., Any]] = []
"""All functions made by `static`, for frameworks that have to be told of them."""


def static(function: Callable[P, R]) -> Callable[P, R]:
    """A function of static numbers alone; what it gives is kept.

    To a tracer of Python the call is a constant, and need not be looked into. Arguments are
    hashable: numbers, tuples of them, and what such functions gave. Of what is a `Constant` nothing
    but attributes is asked for outside of them.
    """
    found = lru_cache(maxsize=4096)(function)

    def kept(*args: P.args, **kwargs: P.kwargs) -> R:
        return found(*args, **kwargs)  # type: ignore[arg-type]

    STATIC.append(kept)
    return kept


class Constant:
    """What is immutable, and compared by a key."""

    def __init__(self, key: Hashable) -> None:
        self._key, self._hash = key, hash(key)

    def __eq__(self, other: object) -> bool:
        return self is other or (type(self) is type(other) and self._key == vars(other)["_key"])

    def __hash__(self) -> int:
        return self._hash


class Table(Constant):
    """A static array; `array` is it."""

    def __init__(self, array: np.ndarray) -> None:
        super().__init__((array.shape, array.dtype.str, array.tobytes()))
        self.array, self.shape = array, array.shape


class Owners(Constant):
    """To which row each slot belongs, by the index on an axis: integers `rows` (length, slots).

    −1 where a slot belongs to none; it holds zeros there.

    Attributes:
        length: the length of the axis.
        slots: how many rows are stored.
    """

    def __init__(self, rows: Any) -> None:
        self.rows = np.ascontiguousarray(rows, dtype=np.int64)
        super().__init__((self.rows.shape, self.rows.tobytes()))
        self.length, self.slots = map(int, self.rows.shape)

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


@static
def of_none(owners: Owners) -> bool:
    """Whether no slot belongs to any row."""
    return bool((owners.rows < 0).all())


@static
def apart(owners: Owners) -> bool:
    """Whether no row belongs to two indices."""
    rows = owners.rows[owners.rows >= 0]
    return len(np.unique(rows)) == rows.size


@static
def are_all(owners: Owners, size: int) -> bool:
    """Whether slot c at index i is row i · slots + c, and all rows of so many are there."""
    rows = owners.rows
    return rows.size == size and bool((rows.ravel() == np.arange(rows.size)).all())


@static
def merged(first: Owners, second: Owners) -> Owners | None:
    """Those of both, if no slot belongs to two rows; else None."""
    if first == second:
        return first
    a, b = first.rows, second.rows
    if a.shape != b.shape or not ((a == b) | (a < 0) | (b < 0)).all():
        return None
    return Owners(np.maximum(a, b))


@static
def everywhere(owners: Owners) -> Owners | None:
    """Owners that are the same ones at all indices, where they are any, as those of one index."""
    most = owners.rows.max(0)
    return Owners(most[None]) if ((owners.rows < 0) | (owners.rows == most)).all() else None


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
        if of_none(piece.owners):
            continue
        if piece.axis is not None and piece.owners.length == 1:
            piece = Piece(None, piece.owners, piece.block)
        for k, other in enumerate(found):
            owners = together(piece, other)
            if owners is not None:
                found[k] = Piece(other.axis, owners, other.block + piece.block)
                break
        else:
            found.append(piece)
    every = sum([piece.owners.slots for piece in found]) >= size
    kept: list[Piece] = []
    whole = dense
    for piece in found:
        if every or (dense is not None and _covers(dense, piece)):
            rows = rows_of(xp, size, piece)
            whole = rows if whole is None else whole + rows
        else:
            kept.append(piece)
    return Structured(xp, size, ndim, whole, kept) if kept else whole


def together(first: Piece, second: Piece) -> Owners | None:
    """The owners of the sum of two pieces, if no slot belongs to two rows; else None."""
    return merged(first.owners, second.owners) if first.axis == second.axis else None


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
        slots, rows = _there(owners)
        return xp.place_rows(_chosen(xp, block, slots), rows, size)
    if are_all(owners, size):
        mask = xp.mask(_own_index(owners.length, rank, axis), block)  # (group, 1, …, index, …)
        spread = xp.where(mask, block[None], xp.zeros_like(block)[None])
        return xp.reshape(spread, (size, *spread.shape[2:]))
    total = None
    for c in range(owners.slots):
        row = block[c : c + 1]
        mask = xp.mask(_own_row(owners, c, size, rank, axis), block)
        part = xp.where(mask, row, xp.zeros_like(row))
        total = part if total is None else total + part
    return total


@static
def _there(owners: Owners) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Of owners that are the same ones everywhere: the slots that belong to rows, and these."""
    slots = np.flatnonzero(owners.rows[0] >= 0)
    return tuple(slots.tolist()), tuple(owners.rows[0, slots].tolist())


@static
def _own_index(length: int, rank: int, axis: int) -> Table:
    """Whether an index on an axis is that of a group of rows: (group, 1, …, index, …)."""
    shape = [length, 1, *(1,) * rank]
    shape[axis + 2] = length
    return Table(np.eye(length, dtype=bool).reshape(shape))


@static
def _own_row(owners: Owners, slot: int, size: int, rank: int, axis: int) -> Table:
    """Whether a row is that of a slot: (row, …, index, …)."""
    shape = [size, *(1,) * rank]
    shape[axis + 1] = owners.length
    return Table((np.arange(size)[:, None] == owners.rows[:, slot]).reshape(shape))


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
    flat = xp.reshape(flat, (owners.length * owners.slots, *flat.shape[2:]))
    if are_all(owners, size):
        return flat
    return xp.segment_sum(flat, _destinations(owners, size), size + 1)[:size]


@static
def _destinations(owners: Owners, size: int) -> tuple[int, ...]:
    """The rows of all slots; those of none go to one more."""
    return tuple(np.where(owners.rows < 0, size, owners.rows).ravel().tolist())


def restricted(xp: Arrays, block: Block, axis: int | None, owners: Owners) -> Array:
    """What a dense block holds where a piece has its slots: (slots, *shape)."""
    if axis is None:
        return _where(xp, _valid(owners, False), xp.take(block, _sources(owners, False)), (0,))
    n = owners.length
    moved = xp.moveaxis(block, axis + 1, 1)
    by_index = moved.shape[1] != 1
    flat = moved[:, 0]
    if by_index:
        flat = xp.reshape(moved, (moved.shape[0] * n, *moved.shape[2:]))
    found = xp.take(flat, _sources(owners, by_index))
    found = xp.reshape(found, (owners.slots, n, *found.shape[1:]))
    return _where(xp, _valid(owners, True), xp.moveaxis(found, 1, axis + 1), (0, axis + 1))


@static
def _sources(owners: Owners, by_index: bool) -> tuple[int, ...]:
    """The rows of all slots (of none: any), (slots, length), counted with the index or without."""
    rows = np.maximum(owners.rows.T, 0)
    rows = rows * owners.length + np.arange(owners.length) if by_index else rows
    return tuple(rows.ravel().tolist())


@static
def _valid(owners: Owners, by_index: bool) -> Table:
    """Whether slots belong to any row: (slots, length), or (slots,) where that is one."""
    valid = owners.rows.T >= 0
    return Table(valid if by_index else valid[:, 0])


def _where(xp: Arrays, mask: Table, x: Array, axes: tuple[int, ...]) -> Array:
    """x where a static mask along some of its axes is true, else zero."""
    along = _along(mask, axes, x.ndim)
    return x if along is None else xp.where(xp.mask(along, x), x, xp.zeros_like(x))


@static
def _along(mask: Table, axes: tuple[int, ...], ndim: int) -> Table | None:
    """A mask along some axes of an array; None if it is true everywhere."""
    if mask.array.all():
        return None
    shape = [1] * ndim
    for axis, length in zip(axes, mask.shape, strict=True):
        shape[axis] = length
    return Table(mask.array.transpose(np.argsort(axes)).reshape(shape))


# ------------------------------------------------------------------ bilinear maps


class Named:
    """A bilinear map whose axes have names: what it needs to act on pieces.

    Attributes:
        left, right, out: the names of the axes of both operands and of the result; what is in
            `out` is not summed over.
        map: the bilinear map of `core.jet`.
        keeping: the map that does not sum over one name, which becomes the first axis of the
            result.
        sharing: (name, right) -> the map with names whose right (else left) operand has a name of
            the other one too, as its first axis; None where there is no such map.
        symmetric: whether B(u, v) is B(v, u).
    """

    def __init__(
        self,
        map: Any,
        left: Sequence[Name],
        right: Sequence[Name],
        out: Sequence[Name],
        keeping: Callable[[Name], Any] | None = None,
        sharing: Callable[[Name, bool], Named] | None = None,
        symmetric: bool = False,
    ) -> None:
        self.map, self.keeping, self.sharing = map, keeping, sharing
        self.symmetric = symmetric
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
    mask: Table
    whole: bool
    names: tuple[Name, ...]


@static
def _matches(a: Name | None, left: Owners, b: Name | None, right: Owners) -> tuple[Match, ...]:
    """All pairs of slots of two pieces, told by the axes of these names, that share a row
    somewhere, those of one mask together."""
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
    return tuple(
        Match(tuple(of_left), tuple(of_right), Table(mask), bool(mask.all()), names)
        for of_left, of_right, mask in found.values()
    )


@static
def _weights(
    owners: Owners, slots: tuple[int, ...], weights: tuple[float, ...], times: int
) -> float | Table:
    """The weights of the rows of some slots, so many times: one for all, or (length, slots)."""
    rows = owners.rows[:, slots]
    scale = np.where(rows < 0, 0.0, np.asarray(weights)[rows]) * times
    valid = np.unique(scale[rows >= 0])  # where a slot belongs to none it holds zeros
    return float(valid[0]) if len(valid) == 1 else Table(scale)


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
    met: list[tuple[Piece, Piece, int, Named]] = []  # how often
    square = u is v and named.symmetric
    for k, s in enumerate(pieces_u):
        if square:
            met += [(s, t, 1 + (j > 0), named) for j, t in enumerate(pieces_v[k:])]
        else:
            met += [(s, t, 1, named) for t in pieces_v]
        if dense_v is not None:
            beside = _beside(xp, dense_v, s, named, right=True)
            if beside is None:
                return UNKNOWN
            met.append((s, beside[0], 1 + square, beside[1]))
    if dense_u is not None and not square:
        for t in pieces_v:
            beside = _beside(xp, dense_u, t, named, right=False)
            if beside is None:
                return UNKNOWN
            met.append((beside[0], t, 1, beside[1]))
    for s, t, times, named in met:
        a = None if s.axis is None else named.left[s.axis]
        b = None if t.axis is None else named.right[t.axis]
        for match in _matches(a, s.owners, b, t.owners):
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
            if len(set(kept)) < len(kept):
                return UNKNOWN
            if len(match.names) == 1 and match.names[0] != name:
                return UNKNOWN
            product = _masked_rows(match, s, t, named, xp)
            scale = _weights(owners, kept, weights[0], times)
            there = _of_slots(owners, kept, match.mask if len(match.names) == 1 else None)
            pieces.append(Piece(axis, there, _weighted(xp, product, scale, axis)))
    return combined(xp, size, len(named.out) + 1, total, pieces)


def _beside(
    xp: Arrays, dense: Array, piece: Piece, named: Named, *, right: bool
) -> tuple[Piece, Named] | None:
    """What a dense block, of the right operand or the left one, holds where a piece of the other
    has its slots, and the map of these; None if it takes more room than the block."""
    if piece.axis is None:
        return Piece(None, piece.owners, restricted(xp, dense, None, piece.owners)), named
    name = (named.left if right else named.right)[piece.axis]
    own = named.right if right else named.left
    if name not in own:
        if named.sharing is None or piece.owners.length * piece.owners.slots > dense.shape[0]:
            return None
        named, own, dense = named.sharing(name, right), (name, *own), dense[:, None]
    axis = own.index(name)
    return Piece(axis, piece.owners, restricted(xp, dense, axis, piece.owners)), named


@static
def _of_slots(owners: Owners, slots: tuple[int, ...], mask: Table | None) -> Owners:
    """The owners of some slots, at the indices where a mask is true."""
    rows = owners.rows[:, slots]
    return Owners(rows if mask is None else np.where(mask.array[:, None], rows, -1))


def _chosen(xp: Arrays, block: Array, slots: tuple[int, ...]) -> Array:
    """Some slots of a piece."""
    return block if slots == tuple(range(block.shape[0])) else xp.take(block, slots)


def _weighted(xp: Arrays, block: Array, scale: float | Table, axis: int | None) -> Array:
    """Each slot (at each index of the axis) times its weight."""
    if isinstance(scale, float):
        return block if scale == 1 else block * scale
    return block * xp.asarray(_columns(scale, axis, block.ndim), block)


@static
def _columns(scale: Table, axis: int | None, ndim: int) -> Any:
    """Weights (length, slots) as nested tuples (slots, …, length, …)."""
    shape = [scale.shape[1], *(1,) * (ndim - 1)]
    if axis is not None:
        shape[axis + 1] = scale.shape[0]
    return _nested(scale.array.T.reshape(shape).tolist())


def _nested(x: Any) -> Any:
    """Lists as tuples."""
    return tuple(map(_nested, x)) if isinstance(x, list) else x


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
        axes = tuple([named.left.index(name) + 1 for name in names])
        return _where(xp, match.mask, left, axes), right, False
    axes = tuple([named.right.index(name) + 1 for name in names])
    return left, _where(xp, match.mask, right, axes), False


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
    scale = _weights(s.owners, match.left, weights, times)
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
        axes = tuple([named.out.index(name) for name in match.names])
        found = _where(xp, match.mask, found, axes)
    return found


def _masked_rows(match: Match, s: Piece, t: Piece, named: Named, xp: Arrays) -> Array:
    """B(A[c], B[c]) for the slots that belong together."""
    left, right = _chosen(xp, s.block, match.left), _chosen(xp, t.block, match.right)
    left, right, later = _masked(match, left, right, named, xp)
    found = named.map.blocks(left, right)
    if later:
        axes = tuple([named.out.index(name) + 1 for name in match.names])
        found = _where(xp, match.mask, found, axes)
    return found


# ------------------------------------------------------------------ where axes go


class Placed(NamedTuple):
    """Where entries of an axis come to lie: on an axis of the result, at which indices.

    Attributes:
        axis: of the result; None where all entries of the result stem from one index.
        places: per index of it the index on the operand's axis, −1 for none.
        beside: further axes of the result that tell it, behind the first in `places`: they become
            slots.
    """

    axis: int | None
    places: Table
    beside: tuple[int, ...] = ()


@static
def staying(axis: int | None, length: int = 1) -> Placed:
    """Where entries come to lie that stay in order; on no axis, where they stem from index 0."""
    return Placed(axis, Table(np.arange(length)))


@static
def between(axis: int, everywhere: bool, start: int, length: int, total: int) -> Placed:
    """Where entries come to lie that are put between others along an axis, in order; all of them
    stem from index 0 if they stem from one everywhere."""
    places = np.full(total, -1)
    places[start : start + length] = 0 if everywhere else np.arange(length)
    return Placed(axis, Table(places))


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
        return Placed(None, Table(first))
    longest = max(depends, key=lambda k: (indices.shape[k], -k))
    order = [longest, *(k for k in depends if k != longest)]
    cut = indices[tuple(slice(None) if k in depends else 0 for k in range(indices.ndim))]
    places = np.moveaxis(cut, depends.index(longest), 0)
    return Placed(longest, Table(places), tuple(order[1:]))


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
    moved = owners_at(owners, where.places)
    if not where.beside:
        return Piece(where.axis, moved, block)
    axes = tuple([k + 1 for k in where.beside])
    parts = [_where(xp, one, block, axes) for one in _one_by_one(where.places.shape[1:])]
    return Piece(where.axis, moved, xp.concat(parts, 0))


@static
def owners_at(owners: Owners, places: Table) -> Owners:
    """The owners at other indices (length, *beside), of all beside as slots."""
    by_slot = [owners.at(one).rows for one in places.array.reshape(places.shape[0], -1).T]
    return Owners(np.concatenate(by_slot, 1))


@static
def _one_by_one(lengths: tuple[int, ...]) -> tuple[Table, ...]:
    """A mask for each entry of an array of that shape, in its order."""
    count = int(np.prod(lengths))
    return tuple(Table(one.reshape(lengths)) for one in np.eye(count, dtype=bool))
