"""Plans: all that is static about an evaluation, made once, in plain attributes for tracers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from . import symbols as of
from .algebra import JetAlgebra, jet_algebra
from .arrays import Array, Arrays, Block
from .directions import Method, Scheme, scheme
from .estimators import Sources
from .polynomial import Polynomial
from .structure import Owners, Piece, Structured, Table, static
from .symbols import Estimated, Parts, Symbols, Variables, Wanted, flat, grouped

Readout = Sequence[tuple[int, int, float]]
"""The coordinates (degree, position, c) of a symbol in the basis of an algebra."""


class Seeds:
    """The static seeds of one degree: a matrix as nested lists, the identity, or nothing."""

    def __init__(self, scheme: Scheme, degree: int, variables: int) -> None:
        seeds = scheme.seeds(degree, variables)
        self.size = scheme.algebra.sizes[degree]
        self.variables = variables
        self.empty = seeds is None
        self.identity = False
        self.rows: list[list[float]] = []
        if seeds is not None:
            n = seeds.shape[0]
            self.identity = seeds.shape == (n, n) and bool((seeds == np.eye(n)).all())
            self.rows = [] if self.identity else seeds.tolist()
        self.table = None if self.identity or seeds is None else Table(seeds)


class Grouped(NamedTuple):
    """Seeds without their zeros, grouped along an axis of the point.

    Attributes:
        axis: that axis.
        owners: the rows by the index on it.
        values: (slots, *shape of the point), lengths of one where all are equal.
    """

    size: int
    axis: int
    owners: Owners
    values: list[Any]


def block(seeds: Grouped, xp: Arrays, point: Array, batch_dims: int) -> Structured:
    """The seeds of a point that has so many axes in front."""
    values = xp.asarray(seeds.values, point)
    shape = (values.shape[0], *(1,) * batch_dims, *values.shape[1:])
    piece = Piece(seeds.axis + batch_dims, seeds.owners, xp.reshape(values, shape))
    return Structured(xp, seeds.size, len(shape), None, [piece])


class Reading:
    """How a symbol, or a stack of symbols, is read out of the coefficients; see `read`.

    Attributes:
        size: how many symbols are stacked; 0 for one alone.
        entries: of one alone.
        degrees: of a stack (degree, positions, matrix): the rows that it takes of the block of that
            degree, all of them where there are no positions, or combinations of the rows.
    """

    def __init__(self, readouts: Sequence[Readout], sizes: Sequence[int], stacked: bool) -> None:
        self.size = len(readouts) if stacked else 0
        self.entries = () if stacked else tuple(readouts[0])
        self.degrees: list[tuple[int, list[int], list[list[float]]]] = []
        for degree, length in enumerate(sizes if stacked else ()):
            rows = [[(w, c) for d, w, c in entries if d == degree] for entries in readouts]
            if not any(rows):
                continue
            chosen = [row[0][0] for row in rows if len(row) == 1 and row[0][1] == 1]
            if degree and len(chosen) == self.size:
                whole = chosen == list(range(length))
                self.degrees.append((degree, [] if whole else chosen, []))
                continue
            matrix = np.zeros((self.size, length))
            for k, row in enumerate(rows):
                for w, c in row:
                    matrix[k, w] += c
            self.degrees.append((degree, [], matrix.tolist()))


def one(readout: Readout) -> Reading:
    """Of one symbol."""
    return Reading([readout], (), False)


def read(reading: Reading, value: Array, blocks: Sequence[Block], xp: Arrays) -> Array | None:
    """Σ c · coefficient: an array that broadcasts to the value, or a block of `size` of them.

    None for zeros. A function, not a method: to torch.compile a reading is a constant.
    """
    total = None
    for degree, position, c in reading.entries:
        if degree and not (blocks and blocks[degree - 1] is not None):
            continue
        term = blocks[degree - 1][position] if degree else value
        term = term if c == 1 else term * c
        total = term if total is None else total + term
    for degree, positions, matrix in reading.degrees:
        block = value[None] if not degree else blocks[degree - 1] if blocks else None
        if block is None:
            continue
        if positions:
            block = xp.take(block, positions)
        elif matrix:
            block = xp.einsum("sw,w...->s...", xp.asarray(matrix, value), block)
        total = block if total is None else total + block
    return total


class Plan:
    """How a transform is evaluated by jets.

    Attributes:
        algebra: what is carried.
        seeds: per degree 1 … order, those of the argument.
        readings: per wanted symbol, or stack of symbols.
    """

    def __init__(self, scheme: Scheme, wanted: Sequence[Wanted], variables: int) -> None:
        self.algebra = scheme.algebra
        self.seeds = tuple(
            Seeds(scheme, degree, variables) for degree in range(1, scheme.algebra.order + 1)
        )
        self.readings = tuple(
            one(entries)
            if isinstance(symbol, Polynomial)
            else Reading(entries, self.algebra.sizes, True)
            for entries, symbol in zip(grouped(self.algebra.readout, wanted), wanted, strict=True)
        )


# Each is found once, and called by `frontend.static`, so it is a plain function of a module.


def plan(symbols: Symbols, variables: Variables, method: Method) -> Plan:
    """Of the symbols in so many variables."""
    return _plan(symbols, variables, method)


def low_plan(symbols: Symbols, variables: Variables, method: Method) -> Plan:
    """Of what is not cut into pieces."""
    return _low_plan(symbols, variables, method)


def power_plan(power: int, sign: int, count: int, method: Method) -> Plan:
    """Of Σ_r ±ζ_r^power in that many directions."""
    return _power_plan(power, sign, count, method)


def parts(symbols: Symbols, variables: Variables) -> Parts:
    """As sums over directions."""
    return _parts(symbols, variables)


def sources(symbols: Estimated, inner: Variables, method: str) -> Sources | None:
    """How directions are drawn, None where the exact operator is evaluated.

    That is where it carries no more vectors, for the method "minimal" (the others do what they
    are told), and where nothing would be left to chance.
    """
    return _sources(symbols, inner, method)


@static
def structured(
    seeds: Table | None, variables: int, start: int, shape: tuple[int, ...]
) -> Grouped | None:
    """The seeds of the coordinates from `start` on, which are a point of that shape, without their
    zeros; None where that saves nothing. (Seeds that are None are the identity.)"""
    if not shape:
        return None
    rows = np.eye(variables) if seeds is None else seeds.array
    count, size = int(np.prod(shape)), len(rows)
    block = rows[:, start : start + count].reshape((size, *shape))
    axis = max(range(len(shape)), key=lambda k: (shape[k], -k))
    by_index = np.moveaxis(block, axis + 1, 0).reshape((shape[axis], size, -1))
    there = [np.flatnonzero(of_index.any(1)) for of_index in by_index]
    slots = max(map(len, there))
    if shape[axis] < 2 or not slots or slots >= size:
        return None
    owners = np.full((shape[axis], slots), -1)
    values = np.zeros((shape[axis], slots, count // shape[axis]))
    for i, rows_there in enumerate(there):
        owners[i, : len(rows_there)] = rows_there
        values[i, : len(rows_there)] = by_index[i, rows_there]
    if (values == values[:1]).all():
        values = values[:1]
    beside = [n for k, n in enumerate(shape) if k != axis]
    found = np.moveaxis(values, 0, 1).reshape((slots, values.shape[0], *beside))
    return Grouped(size, axis, Owners(owners), np.moveaxis(found, 1, axis + 1).tolist())


FEWEST = 4
"""Smaller blocks have no structure."""


def path_algebra(order: int) -> JetAlgebra:
    """Jets along one path: e_k = ξ^k, so coefficient k is the k-th derivative by t."""
    xi = Polynomial.variable(0)
    return jet_algebra(tuple(xi**k for k in range(order + 1)))


@lru_cache(maxsize=1024)
def _plan(symbols: Symbols, variables: Variables, method: Method) -> Plan:
    return _of(symbols.at(variables), symbols.count(variables), method)


def _of(wanted: Sequence[Wanted], variables: int, method: Method) -> Plan:
    return Plan(scheme(flat(wanted), method), wanted, variables)


@lru_cache(maxsize=256)
def _low_plan(symbols: Symbols, variables: Variables, method: Method) -> Plan:
    return _of(_parts(symbols, variables).low, symbols.count(variables), method)


@lru_cache(maxsize=256)
def _power_plan(power: int, sign: int, count: int, method: Method) -> Plan:
    return _of((sum_of_powers(power, sign, count),), count, method)


def sum_of_powers(power: int, sign: int, count: int) -> Polynomial:
    """Σ_r ±ζ_r^power."""
    return Polynomial({(r,) * power: sign for r in range(count)})


@lru_cache(maxsize=256)
def _parts(symbols: Symbols, variables: Variables) -> Parts:
    return symbols.parts(variables)


@lru_cache(maxsize=256)
def _sources(symbols: Estimated, inner: Variables, method: str) -> Sources | None:
    found = of.estimator(symbols, inner)
    as_cheap = of.exact_is_as_cheap(symbols, inner) if method == "minimal" else not found.random
    return None if as_cheap else Sources(found, symbols.base.count(inner))
