"""Sums, products, quotients, powers and compositions of jets against mpmath's Taylor series.

Along one direction a jet is a Taylor series, block k = k! × coefficient k, so series are the reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest

from jetfold.core import arithmetic, towers
from jetfold.core.directions import scheme
from jetfold.core.jet import Elementwise, product
from jetfold.core.polynomial import Polynomial

ORDER = 4
X = [Polynomial.variable(i) for i in range(3)]
LINE = scheme((X[0] ** ORDER,), "minimal").algebra
PLANE = scheme(((X[0] ** 2 + X[1] ** 2) ** 2,), "minimal").algebra


def random_jet(
    algebra: Any, rng: np.random.Generator, shape: tuple[int, ...], low=0.5
) -> list[Any]:
    blocks = [rng.normal(size=(n, *shape)) for n in algebra.sizes[1:]]
    return [rng.uniform(low, low + 1, shape), *blocks]


def constant(value: Any, algebra: Any = LINE) -> list[Any]:
    return [value, *[None] * algebra.order]


def at(u: Any, index: tuple[int, ...], shape: tuple[int, ...]) -> Callable[[Any], Any]:
    """One entry of a jet along the line, broadcast to a shape, as a polynomial for mpmath."""

    def entry(k: int, b: Any) -> Any:
        if b is None:
            return mpmath.mpf(0)
        b = np.asarray(b if k == 0 else b[0], float)
        return mpmath.mpf(float(np.broadcast_to(b, shape)[index])) / math.factorial(k)

    series = [entry(k, b) for k, b in enumerate(u)]
    return lambda t: mpmath.polyval(series[::-1], t)


def check(found: Any, function: Callable[..., Any], *operands: Any) -> None:
    shape = np.shape(found[0])
    with mpmath.workdps(40):
        for index in np.ndindex(shape):
            paths = [at(u, index, shape) for u in operands]
            exact = mpmath.taylor(lambda t, p=paths: function(*(u(t) for u in p)), 0, ORDER)
            ours = mpmath.taylor(at(found, index, shape), 0, ORDER)
            for one, other in zip(ours, exact, strict=True):
                assert float(one) == pytest.approx(float(other), rel=1e-9, abs=1e-9), index


SHAPES = [((3,), (3,)), ((), (3,)), ((3,), (2, 3)), ((2, 1), (3,)), ((2, 3), ())]


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("jets", ["both", "left", "right"])
def test_of_two(shapes, jets, xp, rng):
    """Values of different shapes are broadcast, and so are the blocks behind their leading axis."""
    u, v = (random_jet(LINE, rng, shape) for shape in shapes)
    u = u if jets != "right" else constant(u[0])
    v = v if jets != "left" else constant(v[0])
    a, b = u[0], v[0]
    check(arithmetic.plus(u, v, a + b, xp), lambda u, v: u + v, u, v)
    check(arithmetic.minus(u, v, a - b, xp), lambda u, v: u - v, u, v)
    check(arithmetic.times(LINE, u, v, xp), lambda u, v: u * v, u, v)
    check(arithmetic.over(LINE, u, v, a / b, xp), lambda u, v: u / v, u, v)
    check(arithmetic.power(LINE, u, v, a**b, xp), lambda u, v: u**v, u, v)


@pytest.mark.parametrize("number", [0, 1, 2, 3.0, -1, 0.5, -2.5])
def test_powers_of_numbers(number, xp, rng):
    u = random_jet(LINE, rng, (2,))
    check(arithmetic.power(LINE, u, constant(number), u[0] ** number, xp), lambda u: u**number, u)
    if number > 0:
        found = arithmetic.power(LINE, constant(number), u, number ** u[0], xp)
        check(found, lambda u: mpmath.mpf(number) ** u, u)


def test_a_missing_block_is_zero(xp, rng):
    u, v = random_jet(LINE, rng, (2,)), random_jet(LINE, rng, (2,))
    u[1] = v[2] = u[3] = v[3] = None
    check(arithmetic.over(LINE, u, v, u[0] / v[0], xp), lambda u, v: u / v, u, v)
    check(arithmetic.minus(u, v, u[0] - v[0], xp), lambda u, v: u - v, u, v)
    assert arithmetic.plus(u, v, u[0] + v[0], xp)[3] is None
    assert arithmetic.is_constant(constant(1.0))
    assert not arithmetic.is_constant(u)


def test_composition(xp, rng):
    u = random_jet(LINE, rng, (2,))
    check(arithmetic.composed(LINE, u, np.exp(u[0]), towers.exp, xp), mpmath.exp, u)


def test_in_an_algebra_of_several_variables(xp, rng):
    """(u/v) v = u, u²/u = u, u^p u^q = u^(p + q), exp log u = u."""
    u, v, p, q = (random_jet(PLANE, rng, (3,)) for _ in range(4))

    def same(found, expected):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-8, atol=1e-8)

    def power(u, p):
        return arithmetic.power(PLANE, u, p, u[0] ** p[0], xp)

    quotient = arithmetic.over(PLANE, u, v, u[0] / v[0], xp)
    same(arithmetic.times(PLANE, quotient, v, xp), u)
    added = arithmetic.plus(p, q, p[0] + q[0], xp)
    same(arithmetic.times(PLANE, power(u, p), power(u, q), xp), power(u, added))
    logarithm = arithmetic.composed(PLANE, u, np.log(u[0]), towers.log, xp)
    same(arithmetic.composed(PLANE, logarithm, u[0], towers.exp, xp), u)


def test_row_by_row(xp, rng):
    u, v = random_jet(PLANE, rng, (3,)), random_jet(PLANE, rng, (3,))
    rows = arithmetic.RowByRow(lambda a, b: a * b, xp)
    expected = product(PLANE, u, v, Elementwise(xp, 1), xp)
    for one, other in zip(product(PLANE, u, v, rows, xp), expected, strict=True):
        np.testing.assert_allclose(one, other)
