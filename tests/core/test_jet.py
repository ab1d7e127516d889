"""Jets of NumPy arrays against exact derivatives of polynomials and sympy's of other functions."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import sympy
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from jetfold.core import jet as jets
from jetfold.core.directions import Method, Scheme, scheme
from jetfold.core.jet import Elementwise, Jet, add, compose, product, scaled
from jetfold.core.polynomial import Polynomial

N = 4
XI = sympy.symbols(f"x0:{N}")
X = [Polynomial.variable(i) for i in range(N)]
METHODS: tuple[Method, ...] = ("minimal", "collapsed", "standard")
POINT = tuple(map(Fraction, ("1/2", "-3/4", "5/4", "1/4")))

Blocks = list[Any]
Exact = dict[tuple[int, ...], Fraction]
"""A polynomial: exponents of the N variables -> coefficient."""


class Numpy:
    """The namespace of NumPy, as the engine asks for it."""

    COMPILED = False
    weighted_sum = staticmethod(jets.weighted_sum)

    def __init__(self) -> None:
        self.takes = 0

    def stack(self, rows: Sequence[Any]) -> Any:
        return np.stack(np.broadcast_arrays(*rows))

    def unstack(self, block: Any) -> Sequence[Any]:
        return list(block)

    def take(self, block: Any, positions: Sequence[int]) -> Any:
        self.takes += 1
        return block[list(positions)]

    def scale(self, block: Any, weights: Sequence[float]) -> Any:
        assert len(block) == len(weights)
        return block * np.asarray(weights, block.dtype).reshape(-1, *[1] * (block.ndim - 1))

    def sum_rows(self, block: Any) -> Any:
        return block.sum(0)

    def segment_sum(self, block: Any, positions: Sequence[int], size: int) -> Any:
        out = np.zeros((size, *block.shape[1:]), block.dtype)
        np.add.at(out, list(positions), block)
        return out

    def expand_dims(self, block: Any, ndim: int) -> Any:
        return block.reshape(len(block), *[1] * (ndim + 1 - block.ndim), *block.shape[1:])

    def multiply(self, left: Any, right: Any) -> Any:
        return left * right

    def multiply_add(self, total: Any, left: Any, right: Any, factor: float = 1.0) -> Any:
        return total + factor * left * right


class MatrixProduct:
    """B(U, V) = U V: bilinear, and the order of the factors matters."""

    def one(self, u: Any, v: Any) -> Any:
        return u @ v

    def value_block(self, u: Any, v: Any) -> Any:
        return u @ v

    def block_value(self, u: Any, v: Any) -> Any:
        return u @ v

    def blocks(self, u: Any, v: Any) -> Any:
        assert len(u) == len(v)
        return u @ v

    def contract(self, u: Any, v: Any) -> Any:
        assert len(u) == len(v)
        return np.einsum("aij,ajk->ik", u, v)


# Exact derivatives


def exact(p: Any) -> Exact:
    """The terms of a polynomial in sympy."""
    return {powers: Fraction(int(c.p), int(c.q)) for powers, c in p.as_dict().items()}


@functools.lru_cache(maxsize=512)
def symbols_of(made: Scheme) -> list[Exact]:
    """The basis elements as polynomials in ∂/∂x_i: their ζ_r = v_r·ξ multiplied out by sympy."""
    found = []
    for element in made.algebra.basis:
        total = sympy.Poly(0, *XI, domain=sympy.QQ)
        for monomial, c in element.terms.items():
            term = sympy.Poly(sympy.Rational(str(c)), *XI, domain=sympy.QQ)
            for r in monomial:
                direction = ((r, 1),) if made.directions is None else made.directions[r]
                line = sum(sympy.Rational(str(component)) * XI[i] for i, component in direction)
                term = term * sympy.Poly(line, *XI, domain=sympy.QQ)
            total = total + term
        found.append(exact(total))
    return found


def apply(symbol: Exact, f: Exact, point: Sequence[Fraction]) -> Fraction:
    """(p(∂) f)(x) in exact arithmetic, from ∂^k x^e = e!/(e−k)! x^(e−k)."""
    total = Fraction(0)
    for orders, c in symbol.items():
        for powers, value in f.items():
            if all(k <= e for k, e in zip(orders, powers, strict=True)):
                factors = zip(orders, powers, point, strict=True)
                total += (
                    c * value * math.prod(math.perm(e, k) * x ** (e - k) for k, e, x in factors)
                )
    return total


def derivatives(made: Scheme, f: Any, points: Sequence[Sequence[Fraction]]) -> Blocks:
    """[value, block 1, …] of a polynomial, exact: each block of shape (size, points)."""
    terms, sizes = exact(f), made.algebra.sizes
    rows = [[float(apply(e, terms, x)) for x in points] for e in symbols_of(made)]
    offsets = list(itertools.accumulate(sizes, initial=0))
    return [np.array(rows[at : at + size]) for at, size in zip(offsets, sizes, strict=False)]


def filled(made: Scheme, fs: np.ndarray, point: Sequence[Fraction] = POINT) -> Blocks:
    """[value, block 1, …] of an array of polynomials at one point."""
    each = [derivatives(made, f, [point]) for f in fs.ravel()]
    blocks = [
        np.stack([one[k][:, 0] for one in each], -1).reshape(-1, *fs.shape)
        for k in range(made.algebra.order + 1)
    ]
    return [blocks[0][0], *blocks[1:]]


def dense(made: Scheme, blocks: Blocks, shape: tuple[int, ...]) -> list[np.ndarray]:
    """The blocks with all that is left out put in."""
    full = []
    for size, block in zip(made.algebra.sizes[1:], blocks[1:], strict=True):
        assert block is None or len(block) == size
        full.append(np.broadcast_to(np.zeros(()) if block is None else block, (size, *shape)))
    return [np.broadcast_to(blocks[0], shape), *full]


def assert_same(
    made: Scheme, found: Blocks, expected: Blocks, shape: tuple[int, ...], tolerance: float = 1e-11
) -> None:
    scale = max(np.abs(block).max(initial=0) for block in expected)
    for one, other in zip(dense(made, found, shape), expected, strict=True):
        np.testing.assert_allclose(
            one, np.reshape(other, one.shape), rtol=tolerance, atol=tolerance * scale
        )


def read(made: Scheme, blocks: Blocks, index: int = 0) -> Any:
    total = 0
    for degree, w, c in made.algebra.readout[index]:
        if degree == 0:
            total = total + c * blocks[0]
        elif blocks[degree] is not None:
            total = total + c * blocks[degree][w]
    return total


# Random functions: trees of +, * and powers, and random operators

numbers = st.fractions(min_value=-3, max_value=3, max_denominator=4)
monomials = st.lists(st.integers(0, N - 1), max_size=4).map(sorted).map(tuple)
polynomials = st.dictionaries(monomials, numbers, min_size=1, max_size=3).map(Polynomial)
operators = st.lists(polynomials, min_size=1, max_size=2).map(tuple)

leaves = st.one_of(st.tuples(st.just("x"), st.integers(0, N - 1)), st.tuples(st.just("c"), numbers))
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.tuples(st.sampled_from("+*"), inner, inner),
        st.tuples(st.just("^"), inner, st.integers(2, 4)),
    ),
    max_leaves=6,
)

EXAMPLES: list[tuple[Polynomial, ...]] = [
    (X[0] ** 2 + X[1] ** 2 + X[2] ** 2,),
    ((X[0] ** 2 + X[1] ** 2) ** 2,),
    (X[0] * X[1] + X[1] * X[2],),
    (X[2], X[0] ** 2 + X[1] ** 2),
    (X[0], X[1] ** 2 + X[2] ** 2),
    (X[1] ** 3 + X[0] ** 2, X[2] ** 3),
    (X[2] * X[0] + X[0] ** 4 + X[1] ** 2 * 3,),
    (X[3] + X[0] ** 4 + X[0] ** 2 * 2 + X[1] ** 3 * X[0],),
    (X[0] * X[1] * X[2] * X[3],),
    (X[0] ** 2 * X[1] - X[2] ** 2 * X[3], X[3] ** 3 + X[0]),
]


def symbolic(tree: Any) -> Any:
    """The tree as a polynomial in sympy."""
    match tree:
        case ("x", i):
            return sympy.Poly(XI[i], *XI, domain=sympy.QQ)
        case ("c", c):
            return sympy.Poly(sympy.Rational(str(c)), *XI, domain=sympy.QQ)
        case ("+", left, right):
            return symbolic(left) + symbolic(right)
        case ("*", left, right):
            return symbolic(left) * symbolic(right)
        case ("^", base, power):
            return symbolic(base) ** power
    raise AssertionError(tree)


def power_tower(u: Any, power: int, order: int) -> list[Any]:
    """φ^{(k)}(u)/k! of u^p: C(p, k) u^(p−k), a number where it is constant, None beyond."""
    tower: list[Any] = []
    for k in range(1, order + 1):
        tower.append(math.comb(power, k) * u ** (power - k) if k < power else None)
        if k == power:
            tower[-1] = 1.0
    return tower


def propagate(made: Scheme, tree: Any, points: np.ndarray, xp: Any) -> Blocks:
    """The tree by the engine; `points` of shape (n, N)."""
    order = made.algebra.order
    match tree:
        case ("x", i):
            blocks: Blocks = [points[:, i]]
            for degree in range(1, order + 1):
                seeds = made.seeds(degree, N)
                # A coordinate's coefficients are the same at all points: an axis of length one.
                lazy = None if seeds is None or not seeds[:, i].any() else seeds[:, i : i + 1]
                blocks.append(lazy)
            return blocks
        case ("c", c):
            return [np.full(len(points), float(c)), *[None] * order]
        case ("+", left, right):
            u, v = propagate(made, left, points, xp), propagate(made, right, points, xp)
            return [add(a, b) for a, b in zip(u, v, strict=True)]
        case ("*", left, right):
            u, v = propagate(made, left, points, xp), propagate(made, right, points, xp)
            return product(made.algebra, u, v, Elementwise(xp, 1), xp)
        case ("^", base, power):
            u = propagate(made, base, points, xp)
            tower = power_tower(u[0], power, order)
            return [u[0] ** power, *compose(Jet(made.algebra, 0, u[0], u[1:]), tower, 1, xp)]
    raise AssertionError(tree)


POINTS = (POINT, tuple(map(Fraction, ("-1", "1/2", "3/8", "2"))))


@pytest.mark.parametrize("method", METHODS)
@given(wanted=operators, tree=trees)
@example(
    wanted=EXAMPLES[1], tree=("*", ("^", ("x", 0), 3), ("+", ("x", 1), ("*", ("x", 1), ("x", 0))))
)
@example(wanted=EXAMPLES[3], tree=("^", ("+", ("x", 0), ("*", ("x", 1), ("x", 2))), 3))
@example(wanted=EXAMPLES[5], tree=("^", ("+", ("x", 0), ("*", ("x", 1), ("x", 2))), 3))
@example(wanted=EXAMPLES[8], tree=("^", ("+", ("x", 0), ("*", ("x", 3), ("x", 2))), 3))
@settings(max_examples=60)
def test_polynomials_of_any_shape(
    method: Method, wanted: tuple[Polynomial, ...], tree: Any
) -> None:
    f = symbolic(tree)
    assume(f.total_degree() <= 6)
    made = scheme(wanted, method)
    found = propagate(made, tree, np.array(POINTS, dtype=float), Numpy())
    assert_same(made, found, derivatives(made, f, POINTS), (2,), 1e-10)
    for index, symbol in enumerate(wanted):
        terms: Exact = {
            tuple(monomial.count(i) for i in range(N)): Fraction(c)
            for monomial, c in symbol.terms.items()
        }
        answer = [float(apply(terms, exact(f), x)) for x in POINTS]
        scale = max(1.0, *(np.abs(b).max() for b in derivatives(made, f, POINTS)))
        np.testing.assert_allclose(
            np.broadcast_to(read(made, found, index), 2), answer, rtol=1e-9, atol=1e-10 * scale
        )


# Products


def random_polynomials(rng: np.random.Generator, shape: tuple[int, ...], degree: int = 3) -> Any:
    """An array of dense polynomials with small whole coefficients."""
    out = np.empty(shape, dtype=object)
    every = [k for k in itertools.product(range(degree + 1), repeat=N) if sum(k) <= degree]
    for at in np.ndindex(shape):
        chosen = rng.choice(len(every), size=9, replace=False)
        terms = {every[k]: int(rng.integers(-4, 5)) for k in chosen}
        out[at] = sympy.Poly(terms, *XI, domain=sympy.QQ)
    return out


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("wanted", EXAMPLES, ids=str)
def test_matrix_product(
    wanted: tuple[Polynomial, ...], method: Method, rng: np.random.Generator
) -> None:
    made = scheme(wanted, method)
    u, v = random_polynomials(rng, (2, 2), 2), random_polynomials(rng, (2, 1), 2)
    found = product(made.algebra, filled(made, u), filled(made, v), MatrixProduct(), Numpy())
    assert_same(made, found, filled(made, u @ v), (2, 1))


@pytest.mark.parametrize("wanted", EXAMPLES, ids=str)
def test_factors_of_different_shapes(
    wanted: tuple[Polynomial, ...], rng: np.random.Generator
) -> None:
    """(2,) times (3, 2) and (3, 1) times (2,), as values broadcast."""
    made, xp = scheme(wanted, "minimal"), Numpy()
    u, v, w = (random_polynomials(rng, shape, 2) for shape in [(2,), (3, 2), (3, 1)])
    jets_ = {id(p): filled(made, p) for p in (u, v, w)}
    for left, right in [(u, v), (v, u), (w, u), (u, w)]:
        pair = jets_[id(left)], jets_[id(right)]
        found = product(made.algebra, *pair, Elementwise(xp, 2), xp)
        assert_same(made, found, filled(made, left * right), (3, 2))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("wanted", EXAMPLES, ids=str)
def test_unrolled_and_gathered_agree(
    wanted: tuple[Polynomial, ...],
    method: Method,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = scheme(wanted, method)
    algebra = made.algebra
    u, v = ([rng.normal(size=(s, 5)) for s in algebra.sizes] for _ in range(2))
    u[0], v[0] = u[0][0], v[0][0]
    tower = list(rng.normal(size=(algebra.order, 5)))
    results, takes = [], []
    for limit in (10**9, 0):
        monkeypatch.setattr(jets, "UNROLL", limit)
        xp = Numpy()
        whole = product(algebra, u, v, Elementwise(xp, 1), xp)
        composed = compose(Jet(algebra, 0, u[0], u[1:]), tower, 1, xp)
        results.append([*whole, *composed])
        takes.append(xp.takes)
    assert takes[0] == 0
    tables = [table for of_degree in algebra.products for table in of_degree]
    assert (takes[1] > 0) == any(t.diagonal is None and t.rowwise is None for t in tables)
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("wanted", EXAMPLES, ids=str)
@pytest.mark.parametrize("unroll", [0, 10**9])
def test_missing_blocks_are_zeros(
    wanted: tuple[Polynomial, ...],
    unroll: int,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """None gives what zeros give, for every choice of the blocks that are missing."""
    monkeypatch.setattr(jets, "UNROLL", unroll)
    made, xp = scheme(wanted, "minimal"), Numpy()
    algebra, order = made.algebra, made.algebra.order
    tower = list(rng.normal(size=(order, 3)))
    full = [rng.normal(size=(s, 3)) for s in algebra.sizes]
    full[0] = full[0][0]
    for kept in itertools.product([False, True], repeat=order):
        some = [full[0], *(b if keep else None for b, keep in zip(full[1:], kept, strict=True))]
        zeros = [full[0], *(b * keep for b, keep in zip(full[1:], kept, strict=True))]
        both: list[tuple[Blocks, Blocks]] = [(some, zeros), (full, full)]
        for (u, dense_u), (v, dense_v) in itertools.product(both, both):
            found = product(algebra, u, v, Elementwise(xp, 1), xp)
            expected = product(algebra, dense_u, dense_v, Elementwise(xp, 1), xp)
            assert_same(made, found, expected, (3,))
        found = compose(Jet(algebra, 0, full[0], some[1:]), tower, 1, xp)
        expected = compose(Jet(algebra, 0, full[0], zeros[1:]), tower, 1, xp)
        assert_same(made, [full[0], *found], [full[0], *expected], (3,))
    nothing: Blocks = [full[0], *[None] * order]
    assert product(algebra, nothing, nothing, Elementwise(xp, 1), xp)[1:] == nothing[1:]
    assert compose(Jet(algebra, 0, full[0], nothing[1:]), tower, 1, xp) == nothing[1:]


@pytest.mark.parametrize("wanted", EXAMPLES, ids=str)
@pytest.mark.parametrize("unroll", [0, 10**9])
def test_axes_of_length_one_broadcast(
    wanted: tuple[Polynomial, ...],
    unroll: int,
    rng: np.random.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Coefficients that do not depend on an axis of the value may have length one there."""
    monkeypatch.setattr(jets, "UNROLL", unroll)
    made, xp = scheme(wanted, "minimal"), Numpy()
    algebra, order, shape = made.algebra, made.algebra.order, (2, 3)

    def lazily() -> Blocks:
        cut = [(1, 1), (2, 1), (1, 3), (2, 3)]
        rows = [rng.normal(size=(s, *cut[rng.integers(4)])) for s in algebra.sizes[1:]]
        return [rng.normal(size=shape), *rows]

    for _ in range(5):
        u, v = lazily(), lazily()
        full_u, full_v = dense(made, u, shape), dense(made, v, shape)
        elementwise = Elementwise(xp, 2)
        assert_same(
            made,
            product(algebra, u, v, elementwise, xp),
            product(algebra, full_u, full_v, elementwise, xp),
            shape,
        )
        tower = list(rng.normal(size=(order, *shape)))
        found = compose(Jet(algebra, 0, u[0], u[1:]), tower, 2, xp)
        expected = compose(Jet(algebra, 0, u[0], full_u[1:]), tower, 2, xp)
        assert_same(made, [u[0], *found], [u[0], *expected], shape)


# Composition

OUTER: dict[str, Callable[[Any], Any]] = {
    "exp": sympy.exp,
    "sin": sympy.sin,
    "tanh": sympy.tanh,
    "log": lambda u: sympy.log(3 + u),
    "rational": lambda u: u / (1 + u**2),
}
t, x, y = X[2], X[0], X[1]
MIXED = {
    "t*x+x4+3y2": t * x + x**4 + y**2 * 3,
    "biharmonic": (x**2 + y**2) ** 2,
    "heat": t - (x**2 + y**2) * 0.1,
    "indefinite": x * y - y * t + X[3],
    "kdv": t + x**3,
}
INNER = [
    XI[0] * XI[1] / 2 + XI[2] ** 2 / 4 - XI[0] ** 3 / 8 + XI[3] / 3 + sympy.Rational(1, 4),
    XI[0] / 3 - XI[1] * XI[2] * XI[0] / 4 + XI[3] * XI[1] ** 2,
]


def tower_of(name: str, value: Any, order: int) -> list[Any]:
    """φ^{(k)}(u)/k! by sympy's derivatives, in 30 digits."""
    u = sympy.Symbol("u")
    values = np.atleast_1d(value)
    tower = []
    for k in range(1, order + 1):
        derivative = OUTER[name](u).diff(u, k) / math.factorial(k)
        tower.append(np.array([float(derivative.subs(u, v).evalf(30)) for v in values.tolist()]))
    return tower


@functools.cache
def truth(operator: str, names: tuple[str, ...]) -> list[float]:
    """p(∂) of the composed functions by sympy, at POINT, in 30 digits."""
    at = {xi: sympy.Rational(str(c)) for xi, c in zip(XI, POINT, strict=True)}
    answers = []
    for inner in INNER:
        f = inner
        for name in names:
            f = OUTER[name](f)
        total = sympy.Integer(0)
        for monomial, c in MIXED[operator].terms.items():
            term = f.diff(*(XI[i] for i in monomial)).subs(at).evalf(30)
            total += sympy.Rational(str(c)) * term
        answers.append(float(total))
    return answers


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("operator", MIXED)
@pytest.mark.parametrize(
    "names",
    [("exp",), ("sin",), ("tanh",), ("log",), ("rational",), ("sin", "exp"), ("exp", "rational")],
    ids=lambda names: "∘".join(reversed(names)),
)
def test_composed_functions(method: Method, operator: str, names: tuple[str, ...]) -> None:
    made, xp = scheme((MIXED[operator],), method), Numpy()
    inner = np.array([sympy.Poly(f, *XI, domain=sympy.QQ) for f in INNER], dtype=object)
    blocks = filled(made, inner)
    u = sympy.Symbol("u")
    for name in names:
        tower = tower_of(name, blocks[0], made.algebra.order)
        value = np.array([float(OUTER[name](u).subs(u, v).evalf(30)) for v in blocks[0].tolist()])
        blocks = [value, *compose(Jet(made.algebra, 0, blocks[0], blocks[1:]), tower, 1, xp)]
    # Interpolation cancels large terms, the minimal algebra has none.
    tolerance = 1e-12 if method == "minimal" else 1e-10
    np.testing.assert_allclose(read(made, blocks), truth(operator, names), rtol=tolerance)


@pytest.mark.parametrize("wanted", EXAMPLES, ids=str)
def test_none_in_a_tower_is_zero(wanted: tuple[Polynomial, ...], rng: np.random.Generator) -> None:
    made, xp = scheme(wanted, "minimal"), Numpy()
    algebra, order = made.algebra, made.algebra.order
    u = [rng.normal(size=(s, 3)) for s in algebra.sizes]
    u[0] = u[0][0]
    jet = Jet(algebra, 0, u[0], u[1:])
    full = list(rng.normal(size=(order, 3)))
    for kept in itertools.product([False, True], repeat=order):
        some = [one if keep else None for one, keep in zip(full, kept, strict=True)]
        zeros = [one * keep for one, keep in zip(full, kept, strict=True)]
        found, expected = compose(jet, some, 1, xp), compose(jet, zeros, 1, xp)
        assert_same(made, [u[0], *found], [u[0], *expected], (3,))
    assert compose(jet, [None] * order, 1, xp) == [None] * order


def test_a_linear_function_costs_no_products() -> None:
    """φ(u) = 3u: the tower (3, None, …) scales the blocks and multiplies no two of them."""
    made = scheme(EXAMPLES[1], "minimal")

    class NoProducts(Numpy):
        def expand_dims(self, block: Any, ndim: int) -> Any:
            raise AssertionError("a product")

    blocks = [np.ones((size, 2)) for size in made.algebra.sizes[1:]]
    jet = Jet(made.algebra, 0, np.ones(2), blocks)
    for block in compose(jet, [3.0, None, None, None], 1, NoProducts()):
        np.testing.assert_array_equal(block, 3 * np.ones_like(block))


def test_scalars_and_narrow_floats() -> None:
    """Values without axes; nothing is widened."""
    made, xp = scheme(EXAMPLES[7], "minimal"), Numpy()
    algebra = made.algebra
    value = np.asarray(2, np.float32)
    u = [value, *(np.ones(size, np.float32) for size in algebra.sizes[1:])]
    tower = [np.asarray(1, np.float32)] * algebra.order
    for limit in (0, 10**9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jets, "UNROLL", limit)
            whole = product(algebra, u, u, Elementwise(xp, 0), xp)
            composed = compose(Jet(algebra, 0, value, u[1:]), tower, 0, xp)
        for block, size in zip(whole[1:], algebra.sizes[1:], strict=True):
            assert block.shape == (size,)
        assert {block.dtype for block in [*whole, *composed]} == {np.dtype(np.float32)}


def test_add_and_scaled() -> None:
    array = np.arange(3.0)
    assert add(None, None) is None
    assert add(array, None) is array
    assert add(None, array) is array
    np.testing.assert_array_equal(add(array, array), 2 * array)
    assert scaled(1.0, array) is array
    np.testing.assert_array_equal(scaled(2.5, array), 2.5 * array)


def test_attributes_of_a_jet() -> None:
    algebra = scheme(EXAMPLES[0], "minimal").algebra
    jet = Jet(algebra, 3, np.ones(2), [np.ones((3, 2)), None])
    assert (jet.algebra, jet.level) == (algebra, 3)
    assert isinstance(jet.blocks, tuple)


def test_the_laplacian_written_out(rng: np.random.Generator) -> None:
    """(uv)^_Δ = û_0 v̂_Δ + 2 Σ_i û_i v̂_i + û_Δ v̂_0 and φ(u)^_Δ = φ′ û_Δ + φ″ Σ_i û_i²."""
    made, xp = scheme(EXAMPLES[0], "minimal"), Numpy()
    u, v = ([rng.normal(size=4), rng.normal(size=(3, 4)), rng.normal(size=(1, 4))] for _ in "uv")
    found = product(made.algebra, u, v, Elementwise(xp, 1), xp)
    np.testing.assert_allclose(found[1], u[0] * v[1] + u[1] * v[0])
    np.testing.assert_allclose(
        found[2][0], u[0] * v[2][0] + 2 * (u[1] * v[1]).sum(0) + u[2][0] * v[0]
    )
    first, half_second = rng.normal(size=(2, 4))
    blocks = compose(Jet(made.algebra, 0, u[0], u[1:]), [first, half_second], 1, xp)
    np.testing.assert_allclose(blocks[0], first * u[1])
    np.testing.assert_allclose(blocks[1][0], first * u[2][0] + 2 * half_second * (u[1] ** 2).sum(0))


def test_another_jet_of_the_same_kind() -> None:
    made = scheme(EXAMPLES[0], "minimal")
    jet = Jet(made.algebra, 3, np.ones(2), [None, None])
    other = jet.like(np.zeros(2), [np.ones((4, 2)), None])
    assert (other.algebra, other.level) == (made.algebra, 3)
    assert other.blocks[0].shape == (4, 2)
