"""Symbols for any number of coordinates: what they carry, their pieces, and when to estimate."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest

from jetfold.core import directions, plans
from jetfold.core.estimators import Sampling
from jetfold.core.polynomial import RADIAL, Polynomial, in_coordinates
from jetfold.core.symbols import (
    Entries,
    Estimated,
    Polynomials,
    Products,
    Together,
    estimator,
    exact_is_as_cheap,
    flat,
    grouped,
)

q = Polynomial.variable(RADIAL)
x = [Polynomial.variable(i) for i in range(6)]
squares = Polynomial({(i, i): 1 for i in range(3)})


def evaluated(polynomial, at):
    return sum(float(c) * prod((at[v] for v in m), start=1.0) for m, c in polynomial.terms.items())


def dense(piece, n):
    """The directions of a piece as rows."""
    if piece.dense:
        return np.array(piece.dense)
    if not piece.coordinates:
        return np.eye(n)[: piece.count]
    rows = np.zeros((piece.count, n))
    for row, places, values in zip(rows, piece.coordinates, piece.components, strict=True):
        np.add.at(row, places, values)
    return rows


def test_radial_symbols_are_written_out(rng):
    symbol = q**2 - q * x[1] * 3 + x[0] + Polynomial.constant(2)
    at = rng.normal(size=3)
    r = float(at @ at)
    found = in_coordinates(symbol, 3)
    assert evaluated(found, at) == pytest.approx(r**2 - 3 * r * at[1] + at[0] + 2)
    assert in_coordinates(q, 3) == squares
    assert in_coordinates(x[0] * x[1], 3) == x[0] * x[1]


@pytest.mark.parametrize("n", [1, 2, 5])
@pytest.mark.parametrize("symbol", [q, q**2, q**3, q - q**2 * 3, Polynomial.constant(1)], ids=str)
def test_counted_without_an_algebra(symbol, n):
    symbols = Polynomials([symbol], None)
    built = directions.scheme(flat(symbols.at(n)), "minimal").algebra.vectors
    assert symbols.vectors(n) == built


@pytest.mark.parametrize("symbols", [Entries(1, "gradient"), Entries(2, "hessian"), Products()])
def test_families_are_counted_without_an_algebra(symbols):
    for variables in (2, 4, 6):
        built = directions.scheme(flat(symbols.at(variables)), "minimal").algebra.vectors
        assert symbols.vectors(variables) == built


def test_what_is_too_many_to_count():
    assert Polynomials([q + x[0]], None).vectors(10**5) is None
    assert Polynomials([q**2], None).vectors(10**4) == 2 * 10**4 + 2 + 10**4 * (10**4 + 1) // 2
    members = Together([Polynomials([q + x[0]], None), Entries(1, "gradient")])
    assert members.vectors((10**5, ((10**5, 0), (10**5, 0)))) is None


@pytest.mark.parametrize(
    "symbols",
    [
        Polynomials([q], None),
        Polynomials([q**2 + x[0], x[1] * x[2] * 3 - x[3]], None),
        Products(),
        Entries(2, "hessian"),
        Polynomials([x[0] ** 4 - (x[0] + x[1] * 2) ** 2 * x[2] + Polynomial.constant(3)], 6),
    ],
)
def test_pieces_add_up(symbols, rng):
    n, at = 6, rng.normal(size=6)
    wanted, parts = flat(symbols.at(n)), symbols.parts(n)
    assert grouped(flat(parts.low), symbols.at(n)) == parts.low
    found = [evaluated(low, at) for low in flat(parts.low)]
    assert all(low.degree <= 1 for low in flat(parts.low))
    for piece in parts.pieces:
        rows = dense(piece, n)
        assert rows.shape == (piece.count, n)
        found[piece.symbol] += piece.sign * ((rows @ at) ** piece.power).sum()
    assert found == pytest.approx([evaluated(symbol, at) for symbol in wanted])


def test_together_in_variables_of_their_own(rng):
    members = Together([Polynomials([x[0] * x[1]], None), Polynomials([q], None), Products()])
    variables = (3 + 2 + 4, ((3, 0), (2, 3), (4, 5)))
    at = rng.normal(size=9)
    found = [evaluated(symbol, at) for symbol in flat(members.at(variables))]
    expected = [at[0] * at[1], (at[3:5] ** 2).sum(), at[5] * at[7] + at[6] * at[8]]
    assert found == pytest.approx(expected)
    assert members.count(variables) == 9
    assert len(members) == 3


def test_wrong_number_of_coordinates():
    with pytest.raises(
        ValueError, match=r"Operator\(d0\) acts on 2 coordinates, but the point has 3"
    ):
        Polynomials([x[0]], 2).at(3)


def test_equal_operators_share_a_plan():
    one, other = Polynomials([q + x[0]], 3), Polynomials([x[0] + q], 3)
    assert plans.plan(one, 3, "minimal") is plans.plan(other, 3, "minimal")
    assert plans.plan(one, 3, "minimal") is not plans.plan(one, 3, "standard")


@pytest.mark.parametrize(
    ("symbol", "n", "samples", "exact"),
    [(q, 50, 49, False), (q, 50, 50, True), (q**2, 5, 8, False), (q**2, 5, 9, True)],
)
def test_the_decision_between_exact_and_sampled(symbol, n, samples, exact):
    symbols = Estimated(Polynomials([symbol], None), Sampling(samples, "gaussian"))
    assert exact_is_as_cheap(symbols, n) == exact
    assert (plans.sources(symbols, n, "minimal") is None) == exact
    for method in ("collapsed", "standard", "nested"):  # these do what they are told
        assert plans.sources(symbols, n, method) is not None
    drawn = sum(draw.rows for draw in estimator(symbols, n).draws)
    assert symbols.vectors((n, drawn)) == plans.plan(symbols, (n, drawn), "minimal").algebra.vectors
    assert symbols.at((n, 0)) == symbols.base.at(n)


def test_pairs_are_estimated_by_shared_directions():
    """E[Σ_s z_s z'_s] over (z, 0) and (0, z) is Σ_i ζ_i ζ_{n+i}: both factors have one z."""
    found = Sampling(3, "coordinates").pairs(5)
    (draw,), (symbol,) = found.draws, found.symbols
    assert draw.rows == 6
    assert set(symbol.terms) == {(0, 3), (1, 4), (2, 5)}
    assert found.vectors == 2 * 3 + 2


def test_readings_of_stacks():
    plan = plans.plan(Entries(1, "gradient"), 3, "minimal")
    assert plan.readings[0].degrees == [(1, [], [])]  # the block itself
    tree = Together([Entries(2, "hessian"), Entries(1, "gradient"), Polynomials([q], None)])
    plan = plans.plan(tree, (3, ((3, 0),) * 3), "minimal")
    hessian, gradient, laplacian = plan.readings
    assert (hessian.size, gradient.size, laplacian.size) == (6, 3, 0)
    assert sorted(c for *_, c in laplacian.entries) == [1, 1, 1]
