"""Estimators: what they carry, and that their expectation is the operator."""

from __future__ import annotations

from itertools import combinations, product
from math import prod

import numpy as np
import pytest

from jetfold.core.estimators import (
    Fixed,
    Isotropic,
    Terms,
    from_directions,
    from_terms,
    moment,
    of_squares,
    terms,
)
from jetfold.core.polynomial import RADIAL, Polynomial

x = [Polynomial.variable(i) for i in range(5)]


def isotropic(power, coefficient, dimension, samples, distribution):
    """Of coefficient·|ξ|^{2·power}, in all coordinates."""
    symbol = Polynomial({(RADIAL,) * power: coefficient})
    return from_directions([symbol], samples, distribution, dimension)


def evaluated(polynomial, values):
    return sum(
        float(c) * prod((values[v] for v in monomial), start=1.0)
        for monomial, c in polynomial.terms.items()
    )


def expectation(estimator, n, outcomes, at):
    """The mean of each symbol at ξ, where `outcomes(draw)` lists (probability, directions)."""
    total = np.zeros(len(estimator.symbols))
    for choice in product(*(outcomes(draw, n) for draw in estimator.draws)):
        weight = prod(p for p, _ in choice)
        rows = np.concatenate([rows for _, rows in choice])
        assert len(rows) == sum(draw.rows for draw in estimator.draws)
        total += [weight * evaluated(s, rows @ at) for s in estimator.symbols]
    return total


def dense(directions, n):
    rows = np.zeros((len(directions), n))
    for r, direction in enumerate(directions):
        for i, c in direction:
            rows[r, i] = float(c)
    return rows


def outcomes(draw, n):
    """All that can be drawn, with probabilities; Gaussian ones by Gauss-Hermite quadrature."""
    if isinstance(draw, Fixed):
        return [(1.0, dense(draw.directions, n))]
    if isinstance(draw, Terms):
        coordinates = np.arange(n)[:, None] if draw.coordinates is None else draw.coordinates
        scale = np.broadcast_to(draw.scale, draw.total)
        if draw.replace:
            chances = (
                np.full(draw.total, 1 / draw.total)
                if draw.probabilities is None
                else draw.probabilities
            )
            sets = [
                (prod(chances[j] for j in chosen), chosen)
                for chosen in product(range(draw.total), repeat=draw.samples)
            ]
        else:
            all_sets = list(combinations(range(draw.total), draw.samples))
            sets = [(1 / len(all_sets), chosen) for chosen in all_sets]
        found = []
        for chance, chosen in sets:
            rows = np.zeros((draw.samples, draw.factors, n))
            for s, j in enumerate(chosen):
                for k, i in enumerate(coordinates[j]):
                    rows[s, k, i] = scale[j] if k == 0 else 1
            found.append((chance, rows.reshape(-1, n)))
        return found
    d = n if draw.factor is None else len(draw.factor)
    factor = np.eye(n) if draw.factor is None else dense(draw.factor, n)
    if draw.distribution == "rademacher":
        nodes = [(0.5, -1.0), (0.5, 1.0)]
    elif draw.distribution == "gaussian":
        points, weights = np.polynomial.hermite_e.hermegauss(4)
        nodes = list(zip(weights / weights.sum(), points, strict=True))
    else:  # on a circle the trapezoidal rule is exact
        assert d == 2 and draw.samples == 1
        angles = np.arange(12) * np.pi / 6
        return [(1 / 12, 2**0.5 * np.array([[np.cos(t), np.sin(t)]]) @ factor) for t in angles]
    found = []
    for chosen in product(nodes, repeat=d * draw.samples):
        z = np.array([value for _, value in chosen]).reshape(draw.samples, d)
        found.append((prod(p for p, _ in chosen), z @ factor))
    return found


FORMS = {
    "laplacian": (x[0] * x[0] + x[1] * x[1], 2),
    "indefinite": (x[0] * x[1] * 3 + x[1] * x[1] * 2 - x[0] * 1.5 + Polynomial.constant(4), 2),
    "heat": (x[0] - (x[1] * x[1] + x[2] * x[2] * 4) * 0.25, 3),
}


@pytest.mark.parametrize("distribution", ["gaussian", "rademacher", "orthogonal"])
@pytest.mark.parametrize("name", FORMS)
def test_forms_of_order_two(name, distribution, rng):
    symbol, n = FORMS[name]
    if distribution == "orthogonal" and name == "indefinite":
        pytest.skip("one dimension for each sign")
    estimator = from_directions([symbol], 1, distribution)
    at = rng.normal(size=n)
    found = expectation(estimator, n, outcomes, at)
    np.testing.assert_allclose(found, [evaluated(symbol, at)], rtol=1e-10)


@pytest.mark.parametrize("distribution", ["gaussian", "orthogonal"])
@pytest.mark.parametrize("power", [1, 2, 3])
def test_powers_of_forms(power, distribution, rng):
    form = x[0] * x[0] + x[0] * x[1] + x[1] * x[1] * 2
    symbol = form**power * -3 + x[1] * 2
    estimator = from_directions([symbol, form], 1, distribution)
    assert len([d for d in estimator.draws if isinstance(d, Isotropic)]) == 1, "one draw for both"
    at = rng.normal(size=2)
    found = expectation(estimator, 2, outcomes, at)
    np.testing.assert_allclose(found, [evaluated(symbol, at), evaluated(form, at)], rtol=1e-10)


@pytest.mark.parametrize("replace", [False, True])
def test_terms_of_any_operator(replace, rng):
    """By importance with replacement, by equal chances without: unbiased either way."""
    symbol = (
        x[0] * x[0] * 2
        + x[1] * x[1] * 0.5
        + x[2] * x[2] * 1.5
        - x[0] * x[1] * x[1] * x[1]
        - x[1] * x[2] * x[2] * x[2] * 4
        + x[2]
        + Polynomial.constant(1.5)
    )
    estimator = from_terms([symbol, x[0] * x[1] + x[1] * x[2] * 3], 4, replace)
    at = rng.normal(size=3)
    found = expectation(estimator, 3, outcomes, at)
    expected = [evaluated(symbol, at), at[0] * at[1] + 3 * at[1] * at[2]]
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    assert sum(draw.samples for draw in estimator.draws if isinstance(draw, Terms)) <= 4


@pytest.mark.parametrize("replace", [False, True])
def test_squares_by_their_number_alone(replace, rng):
    at = rng.normal(size=4)
    found = expectation(of_squares(4, 2, replace), 4, outcomes, at)
    np.testing.assert_allclose(found, [(at**2).sum()], rtol=1e-12)


def test_vectors_carried():
    """1 + (K − 1)S + 1."""
    for samples in (1, 3, 8):
        for power in (1, 2, 3):
            found = isotropic(power, 1.0, 50, samples, "gaussian")
            assert found.vectors == 1 + (2 * power - 1) * samples + 1


def test_moments_on_the_sphere_tend_to_the_gaussian_ones():
    assert moment("gaussian", 3, 7) == 15
    assert moment("orthogonal", 1, 7) == 1
    assert moment("orthogonal", 2, 10**9) == pytest.approx(3)


def test_exact_groups_and_shares():
    """One term of a kind is exact; the rest is shared by weight."""
    symbol = x[0] + sum((x[i] * x[i] for i in range(1, 5)), Polynomial())
    estimator = from_terms([symbol], 3, False)
    assert [type(draw) for draw in estimator.draws] == [Fixed, Terms]
    assert estimator.random
    assert not from_terms([symbol], 4, False).random


def test_what_does_not_fit():
    with pytest.raises(ValueError, match="no isotropic moments of order 4"):
        isotropic(2, 1.0, 3, 2, "rademacher")
    with pytest.raises(ValueError, match="no power of a definite quadratic form"):
        from_directions([x[0] * x[0] * x[1]], 2, "gaussian")
    with pytest.raises(ValueError, match="no power of a definite quadratic form"):
        from_directions([(x[0] * x[0] - x[1] * x[1]) ** 2], 2, "gaussian")
    several = x[0] * x[0] + x[1] * x[1] - x[2] * x[2] - x[3] * x[3]
    with pytest.raises(ValueError, match="samples=1 is less than the 2 kinds"):
        from_terms([several], 1, False)


def test_scales_of_terms():
    """The mean weight of a term is its coefficient."""
    weights = np.array([1.0, 2.0, 5.0])
    for replace in (False, True):
        draw = terms(np.arange(3)[:, None], weights, 2, 2, replace)
        chance = weights / weights.sum() * 2 if replace else np.full(3, 2 / 3)
        np.testing.assert_allclose(chance * np.broadcast_to(draw.scale, 3) ** 2, weights)
