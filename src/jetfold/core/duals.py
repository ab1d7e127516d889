"""Gradients of jets by reverse passes: what is static about them, found once for every algebra.

ĝ = Σ_k g^{(k)}(u)/k! N^k is analytic over the algebra, so dĝ = (∇g)^ · dû, a product of jets. Let τ
be a coefficient, and M_{ab} = c^τ_{ab} its part of the product table (c^τ_{0b} = δ_{bτ}). Then

    ∂ĝ_τ/∂û_a = Σ_b M_{ab} (∇g)^_b,    and for ⟨v̂, ĝ⟩_τ    v̂ enters ĝ_b as Σ_a M_{ab} v̂_a.

One reverse pass from ĝ_τ gives the combinations of (∇g)^ on the left. For one wanted symbol the
algebra is dual to the derivatives of one polynomial, a Frobenius algebra: with τ its top M is
invertible, and one pass gives all of (∇g)^. In general so many passes are needed as there are
symbols that are no derivatives of others: their M together have a left inverse.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

from .algebra import JetAlgebra, algebra_of
from .arrays import Arrays, Block
from .polynomial import TOLERANCE, Number, absolute, divisors

Place = tuple[int, int]
"""A degree, and a position within it."""

Inverse = dict[int, list[tuple[int, int, Number]]]
"""Per top τ the entries (b, a, weight) with (∇g)^_b = Σ_{τ,a} weight · ∂ĝ_τ/∂û_a."""

DENSE = 4
"""Maps with more entries per row than this are applied as matrices."""


class Rows:
    """A linear map from the rows of one block to those of another.

    Attributes:
        source, target: the degrees.
        positions, weights: of every entry, the row that is taken and its weight; where there are
            none the rows are taken as they are, or each weight is 1.
        into: the row of the target that an entry is added to, where that is not each one in turn.
        size: how many rows the target has.
        matrix: nested lists (target, source), in the place of the above where it is dense.
    """

    # Plain attributes: torch.compile reads them while it traces.
    def __init__(
        self, source: int, target: int, entries: Mapping[Place, Number], sizes: Sequence[int]
    ) -> None:
        self.source, self.target, self.size = source, target, sizes[target]
        self.positions: list[int] = []
        self.weights: list[float] = []
        self.into: list[int] = []
        self.matrix: list[list[float]] = []
        if len(entries) > DENSE * self.size:
            self.matrix = [[0.0] * sizes[source] for _ in range(self.size)]
            for (b, a), weight in entries.items():
                self.matrix[b][a] = float(weight)
            return
        places = sorted(entries)
        positions, into = [a for _, a in places], [b for b, _ in places]
        weights = [float(entries[place]) for place in places]
        self.positions = [] if positions == list(range(sizes[source])) else positions
        self.weights = [] if all(w == 1 for w in weights) else weights
        self.into = [] if into == list(range(self.size)) else into


class Pass:
    """One reverse pass.

    Attributes:
        top: where its τ stands.
        enter: how a cotangent enters the coefficients of the output, M by degrees.
        leave: what the gradients of the coefficients of an input say of (∇g)^, by degrees.
    """

    def __init__(self, top: Place, enter: tuple[Rows, ...], leave: tuple[Rows, ...]) -> None:
        self.top, self.enter, self.leave = top, enter, leave


def passes(key: int) -> tuple[Pass, ...]:
    """The reverse passes for the algebra that has this key."""
    return _passes(key)


def single(key: int) -> tuple[Pass, ...]:
    """A pass for every coefficient, of which the gradient by the value is enough."""
    return _single(key)


def apply(
    rows: Sequence[Rows], blocks: Sequence[Block], total: list[Block], xp: Arrays
) -> list[Block]:
    """total + the image of [block 0, block 1, …], by degrees; the value is block 0, of one row."""
    total = list(total)
    for one in rows:
        block = blocks[one.source]
        if block is None:
            continue
        if one.matrix:
            block = xp.einsum("ba,a...->b...", xp.asarray(one.matrix, block), block)
        if one.positions:
            block = xp.take(block, one.positions)
        if one.weights:
            block = xp.scale(block, one.weights)
        if one.into:
            block = xp.segment_sum(block, one.into, one.size)
        so_far = total[one.target]
        total[one.target] = block if so_far is None else so_far + block
    return total


# ------------------------------------------------------------------ found once


@lru_cache(maxsize=256)
def _passes(key: int) -> tuple[Pass, ...]:
    table = Table(algebra_of(key))
    return _of(table, solve(table))


@lru_cache(maxsize=256)
def _single(key: int) -> tuple[Pass, ...]:
    table = Table(algebra_of(key))
    return _of(table, table.single())


def _of(table: Table, inverse: Inverse) -> tuple[Pass, ...]:
    return tuple(
        Pass(
            table.places[top],
            tuple(_by_degrees(table, ((b, a, c) for a, row in table.rows(top) for b, c in row))),
            tuple(_by_degrees(table, entries)),
        )
        for top, entries in inverse.items()
    )


class Table:
    """The structure constants c^w_{ab} with the unit among a and b, exact where they can be.

    Positions count through the whole basis.
    """

    def __init__(self, algebra: JetAlgebra) -> None:
        self.algebra = algebra
        self.exact = all(polynomial.exact for polynomial in algebra.basis)
        self.places = [(m, w) for m, size in enumerate(algebra.sizes) for w in range(size)]
        self._position = {pivot: k for k, pivot in enumerate(algebra.pivots)}

    def rows(self, w: int) -> Iterator[tuple[int, list[tuple[int, Number]]]]:
        """(a, [(b, c^w_{ab}), …]) for every a that has one: c^w_{ab} = w[αβ] · C(α+β, α)."""
        found: dict[int, list[tuple[int, Number]]] = {}
        for monomial, coefficient in self.algebra.basis[w].terms.items():
            for left, right, binomial in divisors(monomial):
                if left in self._position and right in self._position:
                    a, b = self._position[left], self._position[right]
                    found.setdefault(a, []).append((b, coefficient * binomial))
        yield from sorted(found.items())

    def single(self) -> Inverse:
        """∂ĝ_b/∂û_0 = (∇g)^_b: every coefficient is a top."""
        return {b: [(b, 0, Fraction(1))] for b in range(self.algebra.vectors)}


def _by_degrees(table: Table, entries: Iterable[tuple[int, int, Number]]) -> Iterator[Rows]:
    """Maps between blocks from entries (target, source, weight)."""
    groups: dict[tuple[int, int], dict[Place, Number]] = {}
    for target, source, weight in entries:
        (m, b), (i, a) = table.places[target], table.places[source]
        groups.setdefault((m, i), {})[(b, a)] = weight
    for (m, i), found in sorted(groups.items()):
        yield Rows(i, m, found, table.algebra.sizes)


def solve(table: Table) -> Inverse:
    """Tops τ and weights with (∇g)^_b = Σ_{τ,a} weight · ∂ĝ_τ/∂û_a.

    Gauss-Jordan elimination of the rows (c^τ_{ab})_b, with a note of how each came about. A top is
    taken where those of higher degree do not lead to its own coefficient: no more of them are
    needed than symbols that are no derivatives of others. Where floats leave a doubt, every
    coefficient gets a pass of its own.
    """
    elimination = _Elimination(table.exact)
    inverse: Inverse = {}
    for w in range(table.algebra.vectors - 1, -1, -1):
        if not elimination.spans(w):
            inverse[w] = []
            for a, row in table.rows(w):
                elimination.add(dict(row), (w, a))
    for b, (_, combination) in sorted(elimination.rows.items()):
        for (top, a), weight in sorted(combination.items()):
            inverse[top].append((b, a, weight))
    return inverse if table.exact or _inverts(table, inverse) else table.single()


Vector = dict[Any, Number]
"""A sparse vector."""


class _Elimination:
    """Reduced rows, each 1 at its pivot and 0 at the pivots of others; what they were made of."""

    def __init__(self, exact: bool) -> None:
        self.exact = exact
        self.rows: dict[int, tuple[Vector, Vector]] = {}  # by pivot: the row, its combination
        self._holders: dict[int, set[int]] = {}  # column -> pivots of the rows that hold it

    def spans(self, column: int) -> bool:
        """Whether the unit vector of a column is a combination of the rows."""
        return column in self.rows and len(self.rows[column][0]) == 1

    def add(self, row: Vector, label: Any) -> None:
        """Take one more row."""
        row, made_of = self._without(row, {label: Fraction(1)}, [b for b in row if b in self.rows])
        if not row:
            return
        pivot = max(row, key=lambda b: (absolute(row[b]), -b))
        scale = row[pivot]
        self._store(
            pivot,
            {b: c / scale for b, c in row.items()},
            {k: c / scale for k, c in made_of.items()},
        )
        for other in self._holders[pivot] - {pivot}:
            self._store(other, *self._without(*self.rows[other], [pivot]))

    def _store(self, pivot: int, row: Vector, made_of: Vector) -> None:
        for b in self.rows.get(pivot, ({}, {}))[0]:
            self._holders[b].discard(pivot)
        self.rows[pivot] = (row, made_of)
        for b in row:
            self._holders.setdefault(b, set()).add(pivot)

    def _without(
        self, row: Vector, made_of: Vector, pivots: Iterable[int]
    ) -> tuple[Vector, Vector]:
        """The row with the entries at these pivots eliminated."""
        row, made_of = dict(row), dict(made_of)
        peaks = {b: absolute(c) for b, c in row.items()}  # before they cancel
        for pivot in pivots:
            factor = row[pivot]
            other, combination = self.rows[pivot]
            for b, c in other.items():
                row[b] = row.get(b, Fraction(0)) - factor * c
                peaks[b] = max(peaks.get(b, Fraction(0)), absolute(factor * c))
            for k, c in combination.items():
                made_of[k] = made_of.get(k, Fraction(0)) - factor * c
            del row[pivot]
        noise = 0.0 if self.exact else TOLERANCE
        row = {b: c for b, c in row.items() if c and absolute(c) > noise * peaks[b]}
        return row, {k: c for k, c in made_of.items() if c}


def _inverts(table: Table, inverse: Inverse) -> bool:
    """Whether Σ_{τ,a} weight · c^τ_{ab'} = δ_{bb'}, to rounding."""
    total: dict[Place, float] = {}
    peaks: dict[Place, float] = {}
    for top, entries in inverse.items():
        rows = dict(table.rows(top))
        for b, a, weight in entries:
            for other, c in rows[a]:
                term = float(weight * c)
                total[b, other] = total.get((b, other), 0.0) + term
                peaks[b, other] = max(peaks.get((b, other), 0.0), abs(term))
    diagonal = {(b, b) for b in range(table.algebra.vectors)}
    return diagonal <= set(total) and all(
        abs(found - (place in diagonal)) <= TOLERANCE * peaks[place]
        for place, found in total.items()
    )
