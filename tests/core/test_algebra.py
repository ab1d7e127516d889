"""Jet algebras: the laws of a product against sympy, the sizes against the tables of the design."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter, defaultdict
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import sympy
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from jetfold.core import algebra as algebras
from jetfold.core import directions
from jetfold.core.algebra import JetAlgebra, Product, jet_algebra, monomials
from jetfold.core.polynomial import Polynomial

N = 3
XI = sympy.symbols(f"xi0:{N}")
ETA = sympy.symbols(f"eta0:{N}")
D = [Polynomial.variable(i) for i in range(10)]  # ∂/∂x_i

exact_numbers = st.fractions(min_value=-5, max_value=5, max_denominator=6)
exponents = st.lists(st.integers(0, N - 1), max_size=4).map(sorted).map(tuple)
polynomials = st.dictionaries(exponents, exact_numbers, min_size=1, max_size=4).map(Polynomial)
symbols = st.lists(polynomials, min_size=1, max_size=2).map(tuple)


def laplacian(n: int) -> Polynomial:
    return Polynomial({(i, i): 1 for i in range(n)})


def shifted(p: Polynomial) -> dict[tuple[int, ...], float]:
    """The coefficients of p(ξ+η), expanded by sympy."""
    total = sympy.Poly(0, *XI, *ETA, domain=sympy.QQ)
    for monomial, c in p.terms.items():
        term = sympy.prod(XI[v] + ETA[v] for v in monomial)
        total += sympy.Poly(term, *XI, *ETA) * sympy.Rational(str(c))
    return {powers: float(c) for powers, c in total.as_dict().items()}


def tensor(algebra: JetAlgebra) -> np.ndarray:
    """The structure constants c[w, a, b] of the whole basis, those of the unit included."""
    d = algebra.vectors
    offsets = np.cumsum([0, *algebra.sizes])
    c = np.zeros((d, d, d))
    c[range(d), 0, range(d)] = c[range(d), range(d), 0] = 1
    for tables in algebra.products:
        for table in tables:
            for w, a, b, value in table.entries:
                place = (offsets[table.m] + w, offsets[table.i] + a, offsets[table.j] + b)
                assert c[place] == 0, "two entries for one constant"
                c[place] = value
    return c


def rank_of_all_derivatives(wanted: tuple[Polynomial, ...]) -> int:
    """The dimension of the span of 1, the symbols and all their derivatives, by sympy."""
    rows: list[dict[Any, Any]] = [{(0,) * N: sympy.Integer(1)}]
    for symbol in wanted:
        expression = sum(
            sympy.Rational(str(c)) * sympy.prod(XI[v] for v in monomial)
            for monomial, c in symbol.terms.items()
        )
        whole = sympy.Poly(expression, *XI, domain=sympy.QQ)
        for order in range(symbol.degree + 1):
            for by in itertools.combinations_with_replacement(XI, order):
                derivative = whole.diff(*by) if by else whole
                rows.append(dict(derivative.as_dict()))
    columns = sorted({powers for row in rows for powers in row})
    matrix = sympy.Matrix([[row.get(powers, 0) for powers in columns] for row in rows])
    return int(matrix.to_DM(field=True).rank())


# Laws


@given(symbols)
def test_no_smaller_space_holds_all_derivatives(wanted: tuple[Polynomial, ...]) -> None:
    rank = rank_of_all_derivatives(wanted)
    assert jet_algebra(wanted).vectors == rank
    # Diagonalising a quadratic form changes the coordinates, not the space.
    assert directions.scheme(wanted, "minimal").algebra.vectors == rank


@given(symbols)
@settings(max_examples=25)
def test_leibniz(wanted: tuple[Polynomial, ...]) -> None:
    """w(ξ+η) = Σ c^w_{ab} e_a(ξ) e_b(η) for every basis element w."""
    algebra = jet_algebra(wanted)
    c = tensor(algebra)
    powers = sorted({m for element in algebra.basis for m in element.terms})
    e = np.array([[float(element.terms.get(m, 0)) for m in powers] for element in algebra.basis])
    place = {tuple(m.count(v) for v in range(N)): k for k, m in enumerate(powers)}
    for w, element in enumerate(algebra.basis):
        expected = np.zeros((len(powers), len(powers)))
        for both, value in shifted(element).items():
            left, right = both[:N], both[N:]
            if left in place and right in place:
                expected[place[left], place[right]] = value
            else:  # the tensor product of the span with itself has no such term
                assert value == 0
        np.testing.assert_allclose(e.T @ c[w] @ e, expected, rtol=1e-12, atol=1e-11)


@given(symbols)
def test_commutative_and_associative(wanted: tuple[Polynomial, ...]) -> None:
    c = tensor(jet_algebra(wanted))
    np.testing.assert_allclose(c, c.transpose(0, 2, 1), rtol=1e-13)
    left = np.einsum("wxc,xab->wabc", c, c)  # (ab)c
    right = np.einsum("wax,xbc->wabc", c, c)  # a(bc)
    np.testing.assert_allclose(left, right, rtol=1e-11, atol=1e-11 * np.abs(left).max())


@given(symbols)
def test_nilpotent_and_graded(wanted: tuple[Polynomial, ...]) -> None:
    """A product of degrees i and j lies in degree i + j or higher, so N^{K+1} = 0."""
    algebra = jet_algebra(wanted)
    assert len(algebra.sizes) == len(algebra.products) == len(algebra.linear) == algebra.order + 1
    assert algebra.sizes[0] == 1
    assert algebra.basis[0] == Polynomial.constant(1)
    degrees = [k for k, size in enumerate(algebra.sizes) for _ in range(size)]
    assert [element.degree for element in algebra.basis] == degrees
    for m, tables in enumerate(algebra.products):
        for table in tables:
            assert table.m == m >= table.i + table.j
            assert min(table.i, table.j) >= 1


@given(symbols, st.data())
def test_coordinates(wanted: tuple[Polynomial, ...], data: st.DataObject) -> None:
    algebra = jet_algebra(wanted)
    d = algebra.vectors
    weights = data.draw(st.lists(exact_numbers, min_size=d, max_size=d))
    member = Polynomial()
    for weight, element in zip(weights, algebra.basis, strict=True):
        member = member + element * weight
    assert algebra.coordinates(member) == tuple(weights)


@given(symbols)
def test_readout_and_seeds(wanted: tuple[Polynomial, ...]) -> None:
    """Each symbol is its read-out of the basis; the seeds are the linear terms of the basis."""
    algebra = jet_algebra(wanted)
    offsets = np.cumsum([0, *algebra.sizes])
    for symbol, readout in zip(wanted, algebra.readout, strict=True):
        total: defaultdict[Any, float] = defaultdict(float)
        for degree, w, c in readout:
            for monomial, value in algebra.basis[offsets[degree] + w].terms.items():
                total[monomial] += c * float(value)
        for monomial in {*total, *symbol.terms}:
            assert total[monomial] == pytest.approx(float(symbol.terms.get(monomial, 0)), abs=1e-11)
    for degree, entries in enumerate(algebra.linear):
        found = {(w, r): c for w, r, c in entries}
        expected = {
            (w, monomial[0]): float(c)
            for w in range(algebra.sizes[degree])
            for monomial, c in algebra.basis[offsets[degree] + w].terms.items()
            if len(monomial) == 1
        }
        assert found == expected


@given(symbols)
@settings(max_examples=20)
def test_monomials(wanted: tuple[Polynomial, ...]) -> None:
    """Every product of k coefficients, by multiplying out with the whole structure tensor."""
    algebra = jet_algebra(wanted)
    d = algebra.vectors
    assume(d <= 12)
    c = tensor(algebra)
    by_order = monomials(algebra.key)
    assert len(by_order) == max(algebra.order, 1)
    for k, terms in enumerate(by_order, 1):
        found = {positions: dict(vector) for positions, vector in terms}
        for positions in itertools.combinations_with_replacement(range(1, d), k):
            vector = np.eye(d)[positions[0]]
            for b in positions[1:]:
                vector = c[:, :, b] @ vector
            orders = len(set(itertools.permutations(positions)))
            expected = vector * orders / math.factorial(k)
            given_ = np.zeros(d)
            for w, value in found.pop(positions, {}).items():
                given_[w] = value
            np.testing.assert_allclose(given_, expected, rtol=1e-11, atol=1e-11)
        assert not found


@given(symbols)
def test_square_is_the_product_of_equals(wanted: tuple[Polynomial, ...]) -> None:
    algebra = jet_algebra(wanted)
    rng = np.random.default_rng(0)
    u = [rng.normal(size=size) for size in algebra.sizes]

    def total(table: Product) -> np.ndarray:
        out = np.zeros(algebra.sizes[table.m])
        for w, a, b, c in table.entries:
            out[w] += c * u[table.i][a] * u[table.j][b]
        return out

    for tables in algebra.products:
        by_pair = {(table.i, table.j): table for table in tables}
        for (i, j), table in by_pair.items():
            if i <= j:
                both = total(table) + (total(by_pair[j, i]) if i < j else 0)
                np.testing.assert_allclose(total(table.square), both, rtol=1e-12, atol=1e-12)
                assert len(table.square.entries) <= len(table.entries)


@given(symbols)
def test_diagonal_stands_for_the_whole_product(wanted: tuple[Polynomial, ...]) -> None:
    """Where `diagonal` is given, Σ_a c_a u_a v_a over ALL rows is all there is in that degree."""
    algebra = jet_algebra(wanted)
    for tables in algebra.products:
        for table in tables:
            for one in (table, table.square):
                if one.diagonal is not None:
                    size = algebra.sizes[one.i]
                    assert algebra.sizes[one.j] == len(one.diagonal) == size
                    assert algebra.sizes[one.m] == 1
                    rows = [(0, a, a, c) for a, c in enumerate(one.diagonal)]
                    assert list(one.entries) == rows


@given(symbols)
def test_rowwise_stands_for_the_whole_product(wanted: tuple[Polynomial, ...]) -> None:
    """Where `rowwise` is given, c_w u_w v_w for ALL w is all there is in that degree pair."""
    algebra = jet_algebra(wanted)
    for table in (one for tables in algebra.products for t in tables for one in (t, t.square)):
        if table.rowwise is not None:
            assert {algebra.sizes[k] for k in (table.i, table.j, table.m)} == {len(table.rowwise)}
            assert list(table.entries) == [(w, w, w, c) for w, c in enumerate(table.rowwise)]


@given(symbols)
def test_factor_is_what_all_constants_have_in_common(wanted: tuple[Polynomial, ...]) -> None:
    algebra = jet_algebra(wanted)
    for table in (one for tables in algebra.products for t in tables for one in (t, t.square)):
        constants = {c for *_, c in table.entries}
        assert table.equal == (len(constants) == 1)
        assert not table.equal or constants == {table.factor}
        assert table.equal or table.factor == 1
        assert table.size == algebra.sizes[table.m]


def test_directions_kept_apart_multiply_row_by_row() -> None:
    algebra = directions.scheme((laplacian(3) ** 2,), "standard").algebra
    assert len(set(algebra.sizes[1:])) == 1
    tables = [table for tables in algebra.products for table in tables]
    assert tables and all(table.rowwise is not None for table in tables)


@pytest.mark.parametrize(
    "wanted",
    [
        pytest.param((D[2], laplacian(2)), id="a-coordinate-more"),
        pytest.param((D[1] ** 3 + D[0] ** 2, D[2] ** 3), id="another-top"),
    ],
)
def test_a_product_of_some_rows_is_not_diagonal(wanted: tuple[Polynomial, ...]) -> None:
    algebra = jet_algebra(wanted)
    (table,) = (t for t in algebra.products[2] if (t.i, t.j) == (1, 1))
    assert len(table.entries) < algebra.sizes[1]
    assert table.diagonal is None


# Sizes


def of_rank(n: int, signs: tuple[int, ...]) -> Polynomial:
    """A dense quadratic form in n variables: Σ_r ± (v_r·ξ)² with whole numbers in v_r."""
    rng = np.random.default_rng(n)
    vectors = rng.integers(-3, 4, size=(len(signs), n))
    assert np.linalg.matrix_rank(vectors) == len(signs)
    total = Polynomial()
    for sign, vector in zip(signs, vectors.tolist(), strict=True):
        total = total + Polynomial({(k,): c for k, c in enumerate(vector)}) ** 2 * sign
    return total


x, y, z = D[:3]
DESIGN = [
    pytest.param((laplacian(1),), [1, 1, 1], id="laplacian-1"),
    pytest.param((laplacian(2),), [1, 2, 1], id="laplacian-2"),
    pytest.param((laplacian(50),), [1, 50, 1], id="laplacian-50"),
    pytest.param((of_rank(6, (1, 1, 1)),), [1, 3, 1], id="rank-3"),
    pytest.param((of_rank(8, (1, -1, 1, -1, 1)),), [1, 5, 1], id="indefinite-rank-5"),
    *(
        pytest.param((laplacian(n) ** 2,), [1, n, n * (n + 1) // 2, n, 1], id=f"biharmonic-{n}")
        for n in (2, 3, 4, 5, 6, 10)
    ),
    pytest.param((laplacian(3) ** 3,), [1, 3, 6, 10, 6, 3, 1], id="triharmonic-3"),
    pytest.param((D[0] - laplacian(4) + D[0] ** 2,), [1, 3, 1], id="heat"),
    pytest.param((x**2 * y**2,), [1, 2, 3, 2, 1], id="x2y2"),
    pytest.param((Polynomial.constant(1), x, y + x**3), [1, 1, 1, 1], id="u,u_x,u_t+u_xxx"),
    pytest.param((y + x**2 + x**4,), [1, 1, 1, 1, 1], id="t+x2+x4"),
    pytest.param((z * x + x**4 + y**2 * 3,), [1, 2, 1, 1, 1], id="tx+x4+3y2"),
    pytest.param(
        (z, laplacian(2), laplacian(2) ** 2), [1, 3, 3, 2, 1], id="u_t,laplacian,biharmonic"
    ),
    pytest.param((Polynomial(),), [1], id="zero"),
    pytest.param((Polynomial.constant(2),), [1], id="constant"),
    pytest.param((x, y), [1, 2], id="gradient"),
    pytest.param((x, x * 2, x * 3 + Polynomial.constant(1)), [1, 1], id="the-same-thrice"),
    pytest.param((x * y, x * z, y * z), [1, 3, 3], id="mixed-seconds"),
]


@pytest.mark.parametrize(("wanted", "sizes"), DESIGN)
def test_minimal_by_degree(wanted: tuple[Polynomial, ...], sizes: list[int]) -> None:
    algebra = directions.scheme(wanted, "minimal").algebra
    assert list(algebra.sizes) == sizes
    assert algebra.vectors == sum(sizes)
    assert algebra.order == len(sizes) - 1
    text = f"JetAlgebra(vectors={sum(sizes)}, by degree {'+'.join(map(str, sizes))})"
    assert repr(algebra) == text


@pytest.mark.parametrize(("n", "vectors"), [(2, 9), (5, 27), (10, 77)])
def test_biharmonic_minimal(n: int, vectors: int) -> None:
    assert directions.scheme((laplacian(n) ** 2,), "minimal").algebra.vectors == vectors


@pytest.mark.parametrize("n", [1, 2, 7, 100])
def test_laplacian_of_the_paper(n: int) -> None:
    assert directions.scheme((laplacian(n),), "standard").algebra.vectors == 1 + 2 * n
    assert directions.scheme((laplacian(n),), "collapsed").algebra.vectors == n + 2
    assert directions.scheme((laplacian(n),), "minimal").algebra.vectors == n + 2


@pytest.mark.parametrize(
    ("n", "signs"), [(4, (1, 1)), (7, (1, 1, 1)), (9, (1, -1, -1, 1)), (6, (-1,)), (5, (1,) * 5)]
)
def test_weighted_laplacian_of_the_paper(n: int, signs: tuple[int, ...]) -> None:
    symbol, rank = of_rank(n, signs), len(signs)
    assert directions.scheme((symbol,), "standard").algebra.vectors == 1 + 2 * rank
    assert directions.scheme((symbol,), "collapsed").algebra.vectors == rank + 2
    assert directions.scheme((symbol,), "minimal").algebra.vectors == rank + 2


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 10])
def test_biharmonic_of_the_paper(n: int) -> None:
    symbol = laplacian(n) ** 2
    standard = directions.scheme((symbol,), "standard").algebra
    collapsed = directions.scheme((symbol,), "collapsed").algebra
    assert standard.vectors == 6 * n**2 - 2 * n + 1
    # One weighted top for all three families of directions; the paper's own count keeps three.
    assert collapsed.vectors == (9 * n**2 - 3 * n) // 2 + 2


# Product tables


@pytest.mark.parametrize("n", [1, 2, 5, 100])
def test_laplacian_written_out(n: int) -> None:
    """(uv)^_Δ = û_0 v̂_Δ + 2 Σ_i û_i v̂_i + û_Δ v̂_0."""
    algebra = directions.scheme((laplacian(n),), "minimal").algebra
    (table,) = algebra.products[2]
    assert table.diagonal == (2.0,) * n
    assert table.square is table
    assert algebra.readout == (((2, 0, 1.0),),)


FORMS = [
    pytest.param(Polynomial({(0, 1): 1}), 2, id="xy"),
    pytest.param(Polynomial({(0, 1): 1, (1, 2): 1}), 2, id="xy+yz"),
    pytest.param(Polynomial({(0, 1): 1, (1, 2): 1, (0, 2): 1}), 3, id="xy+yz+xz"),
    pytest.param(Polynomial({(0, 0): 1, (0, 1): 2, (1, 1): 1}), 1, id="(x+y)²"),
    pytest.param(Polynomial({(0, 0): 1, (0, 1): 4, (1, 1): 1}), 2, id="indefinite"),
    pytest.param(Polynomial({(0, 3): 1, (1, 2): -7}), 4, id="two-pairs"),
    pytest.param(of_rank(12, (1, -1, 1)), 3, id="rank-3-of-12"),
    pytest.param(of_rank(45, (1,) * 5 + (-1,) * 4), 9, id="rank-9-of-45"),  # in floating point
]


@pytest.mark.parametrize(("symbol", "rank"), FORMS)
def test_quadratic_forms_become_diagonal(symbol: Polynomial, rank: int) -> None:
    n = max(symbol.variables) + 1
    matrix = np.zeros((n, n))
    for (a, b), c in symbol.terms.items():
        matrix[a, b] += float(c) / 2
        matrix[b, a] += float(c) / 2
    assert np.linalg.matrix_rank(matrix) == rank
    algebra = directions.scheme((symbol,), "minimal").algebra
    (table,) = algebra.products[2]
    assert table.diagonal is not None
    assert len(table.entries) <= rank
    inertia = np.linalg.eigvalsh(matrix)
    positive = np.count_nonzero(inertia > 1e-9)
    # The basis element may be the form or its negative (its pivot is 1), so count both ways.
    signs = Counter(c > 0 for c in table.diagonal)
    assert signs[True] in (positive, rank - positive)


@pytest.mark.parametrize("n", [3, 6])
def test_biharmonic_contracts_ends_of_the_product(n: int) -> None:
    """The top of the biharmonic pairs degree 1 with degree 3 row by row."""
    algebra = directions.scheme((laplacian(n) ** 2,), "minimal").algebra
    table = next(t for t in algebra.products[4] if (t.i, t.j) == (1, 3))
    assert table.diagonal is not None
    assert table.square.diagonal == tuple(2 * c for c in table.diagonal)


# Caching and speed


def test_cached_and_compared_by_identity() -> None:
    assert jet_algebra((laplacian(3),)) is jet_algebra((laplacian(3),))
    assert jet_algebra((laplacian(3),)) != jet_algebra((laplacian(3), x))
    assert jet_algebra((laplacian(3),)).key != jet_algebra((laplacian(3), x)).key


def test_generators_are_carried_and_not_read_out() -> None:
    algebra = jet_algebra((x + y,), (x**2,))
    assert list(algebra.sizes) == [1, 2, 1]
    assert len(algebra.readout) == 1


@pytest.mark.parametrize(
    ("symbol", "vectors", "seconds"),
    [(laplacian(1000), 1002, 1.0), (laplacian(20) ** 2, 252, 10.0)],
    ids=["laplacian-1000", "biharmonic-20"],
)
def test_quick_for_many_variables(symbol: Polynomial, vectors: int, seconds: float) -> None:
    directions.scheme.cache_clear()
    algebras.jet_algebra.cache_clear()
    start = time.perf_counter()
    made = directions.scheme((symbol,), "minimal")
    elapsed = time.perf_counter() - start
    assert made.algebra.vectors == vectors
    assert elapsed < seconds


@given(st.floats(1e-3, 1e3), st.floats(-1.5, 1.5))
def test_irrational_coefficients(scale: float, angle: float) -> None:
    """A rotated and scaled ∂_x⁴ has five derivatives, as has ∂_x⁴ itself."""
    assume(angle == 0 or abs(angle) > 1e-50)  # or else a fourth power underflows
    direction = Polynomial({(0,): math.cos(angle), (1,): math.sin(angle)})
    algebra = jet_algebra((direction**4 * scale,))
    assert list(algebra.sizes) == [1, 1, 1, 1, 1]
    c = tensor(algebra)
    left = np.einsum("wxc,xab->wabc", c, c)
    np.testing.assert_allclose(left, np.einsum("wax,xbc->wabc", c, c), rtol=1e-10)


def test_fractions_enter_exactly() -> None:
    algebra = jet_algebra((x**3 * 0.1 + y * 0.7,))
    assert all(type(c) is Fraction for element in algebra.basis for c in element.terms.values())
    assert algebra.coordinates(x**3 * 0.1 + y * 0.7)[-1] == Fraction(1, 10)
