"""Polynomials against sympy; inverse systems against sympy's rank of all derivatives."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import sympy
from hypothesis import assume, example, given
from hypothesis import strategies as st

from jetfold.core.polynomial import (
    Monomial,
    Polynomial,
    absolute,
    as_number,
    divisors,
    format_number,
    inverse_system,
    multiplicity,
    multiply,
)

N = 4
XI = sympy.symbols(f"xi0:{N}")
X = [Polynomial.variable(i) for i in range(N)]

numbers = st.fractions(min_value=-9, max_value=9, max_denominator=12)
monomials = st.lists(st.integers(0, N - 1), max_size=4).map(sorted).map(tuple)
polynomials = st.dictionaries(monomials, numbers, max_size=5).map(Polynomial)


def poly(p: Polynomial) -> Any:
    """The same polynomial in sympy's exact arithmetic."""
    terms = {
        tuple(monomial.count(v) for v in range(N)): sympy.Rational(c.numerator, c.denominator)
        for monomial, c in p.terms.items()
        if isinstance(c, Fraction)
    }
    assert len(terms) == len(p.terms), "inexact"
    return sympy.Poly(terms or {(0,) * N: 0}, *XI, domain=sympy.QQ)


@given(polynomials, polynomials, numbers)
def test_arithmetic(p: Polynomial, q: Polynomial, c: Fraction) -> None:
    assert poly(p + q) == poly(p) + poly(q)
    assert poly(p - q) == poly(p) - poly(q)
    assert poly(p * q) == poly(p) * poly(q)
    assert poly(p * c) == poly(p) * sympy.Rational(c.numerator, c.denominator)
    assert poly(-p) == -poly(p)


@given(polynomials, st.integers(0, 4))
def test_power(p: Polynomial, exponent: int) -> None:
    assert poly(p**exponent) == poly(p) ** exponent


@given(polynomials, polynomials, polynomials)
def test_ring_laws(p: Polynomial, q: Polynomial, r: Polynomial) -> None:
    zero, one = Polynomial(), Polynomial.constant(1)
    assert p * q == q * p
    assert (p * q) * r == p * (q * r)
    assert p * (q + r) == p * q + p * r
    assert p + zero == p == p * one
    assert p - p == zero == p * zero
    assert hash(p + q) == hash(q + p)


@given(polynomials, st.integers(0, N - 1))
def test_derivative(p: Polynomial, variable: int) -> None:
    assert poly(p.derivative(variable)) == poly(p).diff(XI[variable])


@given(polynomials)
def test_derivatives_are_those_that_are_not_zero(p: Polynomial) -> None:
    assert p.derivatives() == [d for v in range(N) if (d := p.derivative(v))]


@given(polynomials, st.tuples(*[polynomials] * N))
def test_substitute(p: Polynomial, forms: tuple[Polynomial, ...]) -> None:
    assume(p.degree * max(form.degree for form in forms) <= 8)
    replaced = (
        poly(p)
        .as_expr()
        .subs(
            {xi: poly(form).as_expr() for xi, form in zip(XI, forms, strict=True)},
            simultaneous=True,
        )
    )
    assert poly(p.substitute(dict(enumerate(forms)))) == sympy.Poly(replaced, *XI, domain=sympy.QQ)


@given(polynomials)
def test_parts(p: Polynomial) -> None:
    assert p.degree == (poly(p).total_degree() if p else -1)
    assert sum((p.part(k) for k in range(p.degree + 1)), Polynomial()) == p
    for k in range(p.degree + 1):
        assert not p.part(k) or poly(p.part(k)).is_homogeneous
    assert p.variables == tuple(v for v in range(N) if poly(p).degree(XI[v]) > 0)
    assert p.exact


@given(monomials)
def test_divisors_expand_the_power_of_a_sum(monomial: Monomial) -> None:
    eta = sympy.symbols(f"eta0:{N}")
    expected = sympy.Poly(sympy.prod(XI[v] + eta[v] for v in monomial), *XI, *eta).as_dict()
    found = {
        tuple(left.count(v) for v in range(N)) + tuple(right.count(v) for v in range(N)): binomial
        for left, right, binomial in divisors(monomial)
    }
    assert found == expected


@given(monomials, monomials)
def test_monomials(left: Monomial, right: Monomial) -> None:
    assert multiply(left, right) == tuple(sorted([*left, *right]))
    expected = math.prod(math.factorial(left.count(v)) for v in range(N))
    assert multiplicity(left) == expected


def test_zero_terms_are_dropped() -> None:
    assert not Polynomial({(0,): 0, (1, 1): 0.0})
    assert Polynomial({(0,): 0}) == Polynomial()
    assert (X[0] + X[1] * -1 + X[1]) == X[0]


def test_equality_is_for_polynomials_only() -> None:
    assert Polynomial.constant(3) != 3
    assert Polynomial.constant(0.5) == Polynomial.constant(Fraction(1, 2))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, Fraction(3)),
        (True, Fraction(1)),
        (Fraction(-2, 7), Fraction(-2, 7)),
        (0.1, Fraction(1, 10)),
        (-0.125, Fraction(-1, 8)),
        (0.0, Fraction(0)),
        (1e-3, Fraction(1, 1000)),
        (2.5e11, Fraction(250_000_000_000)),
        (np.float64(0.1), Fraction(1, 10)),
        (np.int32(-4), Fraction(-4)),
        (10**30, Fraction(10**30)),
    ],
)
def test_numbers_that_are_fractions(value: object, expected: Fraction) -> None:
    number = as_number(value)
    assert type(number) is Fraction
    assert type(number.numerator) is int
    assert number == expected


@pytest.mark.parametrize("value", [math.sqrt(2), 1 / 3, math.pi, 6.02214076e23, 1.054571817e-34])
def test_numbers_that_stay_floats(value: float) -> None:
    number = as_number(value)
    assert type(number) is float
    assert number == value
    assert not Polynomial({(0,): value}).exact


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(5e-324)
@example(-1.7976931348623157e308)
def test_no_float_is_changed(value: float) -> None:
    assert float(as_number(value)) == value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan")])
def test_numbers_must_be_finite(value: float) -> None:
    with pytest.raises(ValueError, match=f"coefficient of an operator must be finite, got {value}"):
        as_number(value)


@pytest.mark.parametrize("value", [1j, "2", None, [1], np.complex128(1)])
def test_numbers_must_be_real(value: object) -> None:
    message = f"a coefficient must be a real number, got {type(value).__name__}"
    with pytest.raises(TypeError, match=message):
        as_number(value)
    with pytest.raises(TypeError, match=message):
        Polynomial({(): value})


@pytest.mark.parametrize("exponent", [-1, 0.5, 2.0, "2"])
def test_powers_must_be_whole(exponent: Any) -> None:
    with pytest.raises(ValueError, match=f"power must be a non-negative integer, got {exponent!r}"):
        X[0] ** exponent


def test_numpy_integers_are_powers() -> None:
    exponent: Any = np.int64(3)
    assert X[0] ** exponent == X[0] * X[0] * X[0]


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (Polynomial(), "0"),
        (Polynomial.constant(1), "1"),
        (Polynomial.constant(-1), "-1"),
        (X[0], "d0"),
        (-X[0], "-d0"),
        (X[0] ** 2 - X[1] * X[2] * 3, "d0**2 - 3*d1*d2"),
        (X[1] * X[0] ** 2 * Fraction(1, 3) + X[2], "d2 + (1/3)*d0**2*d1"),
        (X[0] - X[1] ** 2 * 0.1 + Polynomial.constant(2.5), "2.5 + d0 - 0.1*d1**2"),
        (X[0] * math.sqrt(2), "1.4142135623730951*d0"),
        (X[0] * Fraction(-2, 3), "-(2/3)*d0"),
    ],
)
def test_format(p: Polynomial, text: str) -> None:
    assert p.format() == text
    assert repr(p) == f"Polynomial({text})"


def test_format_with_names() -> None:
    heat = X[0] - (X[1] ** 2 + X[2] ** 2) * 0.1
    assert heat.format({0: "t", 1: "x", 2: "y"}) == "t - 0.1*x**2 - 0.1*y**2"


@given(polynomials)
def test_formats_read_back(p: Polynomial) -> None:
    text = p.format({v: f"xi{v}" for v in range(N)})
    # A decimal in the text is exact; sympy reads it as a float unless told otherwise.
    assert sympy.Poly(sympy.sympify(text, rational=True), *XI, domain=sympy.QQ) == poly(p)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Fraction(3), "3"),
        (Fraction(1, 4), "0.25"),
        (Fraction(1, 3), "(1/3)"),
        (math.sqrt(2), "1.4142135623730951"),
    ],
)
def test_format_number(value: Fraction | float, text: str) -> None:
    assert format_number(value) == text


def test_absolute() -> None:
    assert absolute(Fraction(-1, 3)) == Fraction(1, 3)
    assert absolute(-math.pi) == math.pi


# The inverse system


def rank_of_all_derivatives(symbols: list[Polynomial]) -> int:
    """The dimension of the span of the symbols and of all their derivatives, by sympy."""
    rows, queue = [], [poly(symbol) for symbol in symbols]
    while queue:
        p = queue.pop()
        if not p.is_zero:
            rows.append(p.as_dict())
            queue.extend(p.diff(xi) for xi in XI)
    columns = sorted({exponents for row in rows for exponents in row})
    if not rows:
        return 0
    matrix = sympy.Matrix([[row.get(exponents, 0) for exponents in columns] for row in rows])
    return int(matrix.to_DM(field=True).rank())


@given(st.lists(polynomials, min_size=1, max_size=3))
def test_inverse_system_is_reduced_and_minimal(symbols: list[Polynomial]) -> None:
    basis = inverse_system(symbols)
    assert len(basis) == rank_of_all_derivatives(symbols)
    for pivot, element in basis.items():
        assert len(pivot) == element.degree
        assert {m: c for m, c in element.terms.items() if m in basis} == {pivot: 1}
    # Its span holds the symbols, and it is closed under derivatives.
    members = [*symbols, *(d for element in basis.values() for d in element.derivatives())]
    for member in members:
        combination = Polynomial()
        for pivot, element in basis.items():
            combination = combination + element * member.terms.get(pivot, 0)
        assert combination == member


def by_degree(basis: dict[Monomial, Polynomial]) -> list[int]:
    degrees = [len(pivot) for pivot in basis]
    return [degrees.count(k) for k in range(max(degrees) + 1)]


LIGHT = 299792458.0


@pytest.mark.parametrize(
    ("symbol", "expected"),
    [
        pytest.param(X[0] ** 2 * LIGHT**-2 - X[1] ** 2, [1, 2, 1], id="wave-in-si-units"),
        pytest.param(
            X[0] ** 2 * LIGHT**-2 - X[1] ** 2 - X[2] * math.sqrt(2), [1, 2, 1], id="damped-wave"
        ),
        pytest.param(X[0] ** 2 * 6.1e-39 + X[0] * math.pi, [1, 1, 1], id="small-top"),
        pytest.param(
            X[0] ** 4 * 1e-12 + X[1] ** 2 * math.sqrt(2) + X[2] * 1e15, [1, 2, 1, 1, 1], id="beam"
        ),
        pytest.param((X[0] ** 2 * 1e-20 + X[1] ** 2) ** 2 * math.pi, [1, 2, 3, 2, 1], id="Δ²"),
        pytest.param(X[0] ** 2 * 1e-30 + X[0] * X[1] * math.pi, [1, 2, 1], id="indefinite"),
    ],
)
def test_no_term_is_dropped_for_its_units(symbol: Polynomial, expected: list[int]) -> None:
    assert not symbol.exact
    assert by_degree(inverse_system([symbol, Polynomial.constant(1)])) == expected


@pytest.mark.parametrize("tiny", [1e-300, 1e-250])
def test_extreme_coefficients_do_no_harm(tiny: float) -> None:
    assert by_degree(inverse_system([(X[0] ** 2 * tiny + X[1] ** 2 * math.pi)])) == [1, 2, 1]


def test_rounding_of_the_coefficients_is_seen_through() -> None:
    third = [X[0] * 0.3 + X[1] * math.sqrt(2), X[0] * (0.1 + 0.2) + X[1] * math.sqrt(2)]
    assert len(inverse_system(third)) == 2
    form = X[0] + X[1] * math.sqrt(2) + X[2] * 1e-9
    assert by_degree(inverse_system([form**4])) == [1, 1, 1, 1, 1]


@pytest.mark.parametrize("spread", [0, 3, 8])
@pytest.mark.parametrize(("n", "power"), [(2, 2), (3, 2), (4, 2), (2, 3), (3, 3)])
def test_rotated_and_stretched_polyharmonic(
    n: int, power: int, spread: float, rng: np.random.Generator
) -> None:
    """(Σ_r (q_r·ξ)²)^p with irrational q_r has as many derivatives as (Σ_r ξ_r²)^p."""
    rotation = np.linalg.qr(rng.normal(size=(n, n)))[0] * np.exp(rng.normal(size=n) * spread)
    laplacian = Polynomial()
    for row in rotation.tolist():
        laplacian = laplacian + Polynomial({(k,): c for k, c in enumerate(row)}) ** 2
    half = [math.comb(n + k - 1, k) for k in range(power + 1)]
    assert by_degree(inverse_system([laplacian**power])) == half + half[-2::-1]
