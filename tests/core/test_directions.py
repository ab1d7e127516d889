"""Directions: every way to write an operator in directions gives the operator back."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import sympy
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from jetfold.core.directions import (
    Direction,
    Method,
    Scheme,
    diagonalise,
    gamma,
    interpolate,
    powers,
    scheme,
)
from jetfold.core.polynomial import Monomial, Polynomial

N = 4
XI = sympy.symbols(f"xi0:{N}")
X = [Polynomial.variable(i) for i in range(N)]
METHODS: tuple[Method, ...] = ("minimal", "collapsed", "standard")

numbers = st.fractions(min_value=-5, max_value=5, max_denominator=6)
monomials = st.lists(st.integers(0, N - 1), max_size=4).map(sorted).map(tuple)
polynomials = st.dictionaries(monomials, numbers, min_size=1, max_size=4).map(Polynomial)
symbols = st.lists(polynomials, min_size=1, max_size=2).map(tuple)
pairs: list[Monomial] = list(itertools.combinations_with_replacement(range(N), 2))
quadratic = st.dictionaries(st.sampled_from(pairs), numbers, min_size=1).map(Polynomial)


@st.composite
def homogeneous(draw: st.DrawFn, degree: int) -> Polynomial:
    monomial = st.tuples(*[st.integers(0, N - 1)] * degree).map(sorted).map(tuple)
    return Polynomial(draw(st.dictionaries(monomial, numbers, min_size=1, max_size=3)))


def poly(terms: dict[Monomial, Any]) -> Any:
    """The polynomial in sympy, exact for fractions."""
    total = {
        tuple(monomial.count(v) for v in range(N)): sympy.Rational(str(c))
        for monomial, c in terms.items()
    }
    return sympy.Poly(total or {(0,) * N: 0}, *XI, domain=sympy.QQ)


def linear(direction: Direction) -> Any:
    """v·ξ in sympy."""
    return poly({(v,): c for v, c in direction})


def components(direction: Direction, n: int) -> list[Fraction]:
    vector = [Fraction(0)] * n
    for v, c in direction:
        vector[v] = Fraction(c)
    return vector


def combine(weighted: dict[Monomial, float], directions: tuple[Direction, ...] | None) -> Any:
    """A polynomial in the abstract ζ_r, with ζ_r = v_r·ξ put in and multiplied out."""
    forms: dict[int, Any] = {}
    total = poly({})
    for monomial, c in weighted.items():
        term = poly({(): Fraction(c)})
        for r in monomial:
            if r not in forms:
                forms[r] = poly({(r,): 1}) if directions is None else linear(directions[r])
            term = term * forms[r]
        total = total + term
    return total


def largest(p: Any) -> float:
    return max((abs(float(c)) for c in p.coeffs()), default=0.0)


# Interpolation


@pytest.mark.parametrize(
    ("j", "value"),
    [
        ((4, 0), Fraction(13, 192)),
        ((3, 1), Fraction(-1, 3)),
        ((2, 2), Fraction(5, 8)),
        ((1, 3), Fraction(-1, 3)),
        ((0, 4), Fraction(13, 192)),
    ],
)
def test_gamma_of_the_paper(j: tuple[int, int], value: Fraction) -> None:
    assert gamma((2, 2), j) == value


@pytest.mark.parametrize("K", [1, 2, 3, 5])
def test_gamma_of_a_pure_power(K: int) -> None:
    """∂^K f along v takes one K-jet along K·v: γ/K! · K^K = 1."""
    assert gamma((K,), (K,)) / math.factorial(K) * K**K == 1


@given(st.lists(st.integers(1, 3), min_size=1, max_size=3).filter(lambda i: sum(i) <= 6))
@example([2, 2])
def test_interpolation_identity(i: list[int]) -> None:
    """ξ^i = Σ_{|j|=K} γ_{i,j}/K! · (j·ξ)^K, multiplied out by sympy."""
    K = sum(i)
    total = poly({})
    for j in itertools.product(range(K + 1), repeat=len(i)):
        if sum(j) == K:
            value = gamma(tuple(i), j) / math.factorial(K)
            total += poly(dict(zip(((p,) for p in range(len(j))), j, strict=True))) ** K * (
                sympy.Rational(str(value))
            )
    monomial = tuple(p for p, power in enumerate(i) for _ in range(power))
    assert total == poly({monomial: 1})


@given(st.lists(st.integers(0, N - 1), min_size=1, max_size=6).map(sorted).map(tuple))
@example((0, 0, 1, 1))
@example((3,) * 6)
def test_interpolate(monomial: Monomial) -> None:
    total = poly({})
    for direction, weight in interpolate(monomial):
        total += linear(direction) ** len(monomial) * sympy.Rational(str(weight))
    assert total == poly({monomial: 1})


@given(st.lists(st.integers(0, N - 1), min_size=1, max_size=6).map(sorted).map(tuple))
def test_directions_are_primitive_and_not_parallel(monomial: Monomial) -> None:
    seen = set()
    for direction, weight in interpolate(monomial):
        assert weight != 0
        values = [c for _, c in direction]
        assert all(c.denominator == 1 for c in values if isinstance(c, Fraction))
        assert math.gcd(*map(int, values)) == 1
        assert values[0] > 0
        assert [v for v, _ in direction] == sorted({v for v, _ in direction})
        seen.add(direction)
    assert len(seen) == len(interpolate(monomial))


def test_biharmonic_takes_the_directions_of_the_paper() -> None:
    """4e_d, 3e_a + e_b and 2e_a + 2e_b: D + D(D−1) + D(D−1)/2 of them."""
    for n in (2, 3, 4):
        laplacian = Polynomial({(i, i): 1 for i in range(n)})
        found = {direction for direction, _ in powers(laplacian**2)}
        one, three = Fraction(1), Fraction(3)
        expected: set[Direction] = {((d, one),) for d in range(n)}
        expected |= {((a, one), (b, one)) for a, b in itertools.combinations(range(n), 2)}
        expected |= {((a, three), (b, one)) for a, b in itertools.combinations(range(n), 2)}
        expected |= {((a, one), (b, three)) for a, b in itertools.combinations(range(n), 2)}
        assert found == expected


# Powers of directions


@given(st.data(), st.integers(1, 5))
def test_powers(data: st.DataObject, degree: int) -> None:
    form = data.draw(homogeneous(degree))
    assume(form)
    total = poly({})
    found = list(powers(form))
    for direction, weight in found:
        total += linear(direction) ** degree * sympy.Rational(str(weight))
    assert total == poly(form.terms)
    vectors = [components(direction, N) for direction, _ in found]
    for u, v in itertools.combinations(vectors, 2):  # not parallel: some minor is not zero
        assert any(u[a] * v[b] != u[b] * v[a] for a, b in itertools.combinations(range(N), 2))


def test_powers_of_a_constant_or_nothing() -> None:
    assert list(powers(Polynomial())) == []
    assert list(powers(Polynomial.constant(3))) == []


def test_powers_of_an_irrational_gradient_stay_moderate() -> None:
    """No integers of 2^52 that a narrow float could not hold."""
    for form in (
        Polynomial({(0,): math.sqrt(2), (1,): -1e-30, (2,): 3}),
        Polynomial({(0,): Fraction(1, 999_983), (1,): Fraction(-5, 999_979)}),
    ):
        ((direction, weight),) = powers(form)
        assert max(abs(float(c)) for _, c in direction) <= 1000
        for v, c in direction:
            assert float(c * weight) == pytest.approx(float(form.terms[v,]), rel=1e-15)


@pytest.mark.parametrize("degree", [3, 4])
def test_powers_of_an_irrational_form(degree: int) -> None:
    form = Polynomial({(0,) * (degree - 1) + (1,): math.sqrt(2), (2,) * degree: math.pi})
    total = poly({})
    for direction, weight in powers(form):
        total += linear(direction) ** degree * sympy.Rational(Fraction(weight))
    difference = total - poly({m: Fraction(c) for m, c in form.terms.items()})
    assert largest(difference) <= 1e-14


# Quadratic forms


def matrix_of(form: Polynomial, n: int) -> np.ndarray:
    """The symmetric matrix of a form, in exact fractions."""
    matrix = np.full((n, n), Fraction(0), dtype=object)
    for (a, b), c in form.terms.items():
        matrix[a, b] += Fraction(c) / 2
        matrix[b, a] += Fraction(c) / 2
    return matrix


@given(quadratic)
@example(Polynomial({(0, 1): 1, (1, 2): 1}))  # zero diagonal
@example(Polynomial({(0, 0): 1, (0, 1): 2, (1, 1): 1}))  # rank one
@example(Polynomial({(0, 0): 1, (1, 1): -1, (0, 1): 5}))  # indefinite
@example(Polynomial({(0, 0): Fraction(1, 10**6), (0, 1): 1}))
@settings(max_examples=100)
def test_diagonalise_is_exact(form: Polynomial) -> None:
    assume(form)
    weights, directions, rows = diagonalise(form)
    variables = form.variables
    vectors = np.array([components(v, N) for v in directions])
    matrix = matrix_of(form, N)
    # ξᵀCξ = Σ_r d_r (v_r·ξ)²
    assert ((vectors.T * np.array(weights)) @ vectors == matrix).all()
    # ξ_k = Σ_r rows[r][k] ζ_r with ζ_r = v_r·ξ
    assert ((np.array(rows).T @ vectors)[:, variables] == np.eye(len(variables), dtype=int)).all()
    # Sylvester's law of inertia
    inertia = np.linalg.eigvalsh(matrix.astype(float))
    scale = np.abs(inertia).max()
    if not ((np.abs(inertia) > 1e-12 * scale) & (np.abs(inertia) < 1e-6 * scale)).any():
        assert sum(w > 0 for w in weights) == (inertia > 1e-9 * scale).sum()
        assert sum(w < 0 for w in weights) == (inertia < -1e-9 * scale).sum()


@pytest.mark.parametrize("tiny", [Fraction(1, 10**6), Fraction(-1, 10**9)])
def test_no_large_terms_that_cancel(tiny: Fraction) -> None:
    """A small square beside a mixed term is no pivot: Σ_r |d_r| |v_r|² stays near the form."""
    weights, directions, _ = diagonalise(X[0] ** 2 * tiny + X[0] * X[1])
    sizes = [
        abs(float(w)) * sum(float(c) ** 2 for _, c in v)
        for w, v in zip(weights, directions, strict=True)
    ]
    assert sum(sizes) < 4


@pytest.mark.parametrize(
    ("n", "rank", "kind"),
    [(6, 6, "irrational"), (6, 2, "irrational"), (45, 45, "dense"), (45, 3, "dense")],
)
@pytest.mark.parametrize("definite", [True, False])
def test_diagonalise_to_rounding(
    n: int, rank: int, kind: str, definite: bool, rng: np.random.Generator
) -> None:
    vectors = rng.normal(size=(rank, n))
    if kind == "dense":  # rational, but too large to be worth fractions
        vectors = np.round(vectors * 4)
    signs = np.ones(rank) if definite else np.where(np.arange(rank) % 2, -1.0, 1.0)
    matrix = (vectors.T * signs) @ vectors
    upper = itertools.combinations_with_replacement(range(n), 2)
    form = Polynomial({(a, b): matrix[a, b] * (1 if a == b else 2) for a, b in upper})
    assert form.exact == (kind == "dense")
    weights, directions, rows = diagonalise(form)
    found = np.array([[float(c) for c in components(v, n)] for v in directions])
    again = (found.T * np.array(weights, dtype=float)) @ found
    np.testing.assert_allclose(again, matrix, atol=1e-12 * np.abs(matrix).max())
    np.testing.assert_allclose(np.array(rows, dtype=float).T @ found, np.eye(n), atol=1e-9)
    assert sum(w != 0 for w in weights) == rank
    assert sum(w > 0 for w in weights) == (signs > 0).sum()


def test_diagonalise_keeps_terms_that_are_small_for_their_units() -> None:
    """1.1e-17 ∂_t² − ∂_x² + 1e-9 ∂_t∂_x: metres and seconds."""
    light = 299792458.0
    form = X[0] ** 2 * light**-2 - X[1] ** 2 + X[0] * X[1] * (1 / light / 3)
    assert not form.exact
    weights, directions, _ = diagonalise(form)
    assert all(w != 0 for w in weights)
    total = poly({})
    for direction, weight in zip(directions, weights, strict=True):
        exact = tuple((v, Fraction(c)) for v, c in direction)
        total += linear(exact) ** 2 * sympy.Rational(Fraction(weight))
    found = total.as_dict()
    for monomial, c in form.terms.items():
        powers_ = tuple(monomial.count(v) for v in range(N))
        assert float(found[powers_]) == pytest.approx(float(c), rel=1e-13)


# Schemes


def reproduce(made: Scheme, wanted: tuple[Polynomial, ...]) -> list[float]:
    """How far the read-outs, multiplied out in ξ, are from the operators wanted."""
    algebra = made.algebra
    offsets = list(itertools.accumulate(algebra.sizes, initial=0))
    gaps = []
    for symbol, readout in zip(wanted, algebra.readout, strict=True):
        total = poly({})
        for degree, w, c in readout:
            element = {m: float(v) for m, v in algebra.basis[offsets[degree] + w].terms.items()}
            total += combine(element, made.directions) * sympy.Rational(Fraction(c))
        expected = poly({m: Fraction(c) for m, c in symbol.terms.items()})
        gaps.append(largest(total - expected) / max(largest(expected), 1.0))
    return gaps


@pytest.mark.parametrize("method", METHODS)
@given(wanted=symbols)
@settings(max_examples=30)
def test_every_scheme_reproduces_the_operator(
    method: Method, wanted: tuple[Polynomial, ...]
) -> None:
    assert max(reproduce(scheme(wanted, method), wanted)) <= 1e-11


@pytest.mark.parametrize("method", METHODS)
@given(form=quadratic, drift=st.lists(numbers, min_size=N, max_size=N), ratio=numbers)
@settings(max_examples=30)
def test_proportional_forms_with_drift(
    method: Method, form: Polynomial, drift: list[Fraction], ratio: Fraction
) -> None:
    """Several operators with the same second-order part are diagonalised together."""
    linear_part = Polynomial({(k,): c for k, c in enumerate(drift)})
    wanted = (form + linear_part, form * ratio + X[0], Polynomial.constant(ratio), linear_part)
    assert max(reproduce(scheme(wanted, method), wanted)) <= 1e-11


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "symbol",
    [
        pytest.param(X[0] ** 2 * math.sqrt(2) + X[0] * X[1] * math.pi - X[2], id="irrational-form"),
        pytest.param(X[0] * X[1] ** 2 * math.sqrt(3) + X[2] ** 4, id="irrational-third"),
        pytest.param(X[0] * math.e + X[1] * math.pi + X[3] ** 2, id="irrational-drift"),
        pytest.param((X[0] ** 2 * math.pi + X[1] ** 2) ** 2, id="anisotropic-biharmonic"),
        pytest.param(X[0] ** 2 * 1.1126500560536185e-17 - X[1] ** 2 - X[2] ** 2, id="wave"),
    ],
)
def test_irrational_operators(method: Method, symbol: Polynomial) -> None:
    assert not symbol.exact
    made = scheme((symbol,), method)
    assert max(reproduce(made, (symbol,))) <= 1e-14


@pytest.mark.parametrize("method", METHODS)
@given(wanted=symbols)
@settings(max_examples=30)
def test_seeds_are_the_operators_of_the_coordinates(
    method: Method, wanted: tuple[Polynomial, ...]
) -> None:
    """seeds[w, i] = (e_w(∂) x)_i: the coefficient of ξ_i in e_w, multiplied out."""
    made = scheme(wanted, method)
    algebra = made.algebra
    offsets = list(itertools.accumulate(algebra.sizes, initial=0))
    for degree in range(1, algebra.order + 1):
        seeds = made.seeds(degree, N)
        expected = np.zeros((algebra.sizes[degree], N))
        for w in range(algebra.sizes[degree]):
            terms = algebra.basis[offsets[degree] + w].terms
            whole = combine({m: float(c) for m, c in terms.items()}, made.directions)
            for i in range(N):
                expected[w, i] = float(whole.coeff_monomial(XI[i]))
        if seeds is None:
            assert not expected.any()
        else:
            assert seeds.dtype == np.float64
            np.testing.assert_allclose(seeds, expected, rtol=1e-12, atol=1e-12)


def test_seeds_of_the_laplacian() -> None:
    made = scheme((Polynomial({(i, i): 1 for i in range(3)}),), "minimal")
    assert made.directions is None
    np.testing.assert_array_equal(made.seeds(1, 5), np.eye(3, 5))
    assert made.seeds(2, 5) is None


def test_standard_keeps_every_top_and_collapsed_one_sum() -> None:
    heat = X[0] - (X[1] ** 2 + X[2] ** 2) * 0.1
    standard, collapsed = scheme((heat,), "standard"), scheme((heat,), "collapsed")
    assert list(standard.algebra.sizes) == [1, 3, 2]
    assert list(collapsed.algebra.sizes) == [1, 3, 1]
    assert standard.directions is not None
    assert set(standard.directions) == {((i, Fraction(1)),) for i in range(3)}


def test_directions_are_shared_between_orders_and_operators() -> None:
    """∂_x∂_y and ∂_x³∂_y both need x + y, once."""
    made = scheme((X[0] * X[1], X[0] ** 3 * X[1]), "standard")
    assert made.directions is not None
    assert len(set(made.directions)) == len(made.directions) == 6
    assert ((0, Fraction(1)), (1, Fraction(1))) in made.directions


def test_schemes_are_cached() -> None:
    for method in METHODS:
        assert scheme((X[0] ** 2,), method) is scheme((X[0] ** 2,), method)
