"""The engine of the pass on hand-made programs, with NumPy: no framework is needed."""

from __future__ import annotations

import sys

import numpy as np

from jetfold.collapse.arrays import aligned
from jetfold.collapse.engine import Choice, Engine, answer
from jetfold.collapse.labels import Label, Part, fresh, together
from jetfold.core.axes import Acting, alongside


def test_sums_pass_linear_operations(make, rng):
    x, y, w = rng.normal(size=(7, 3)), rng.normal(size=(7, 3)), rng.normal(size=(3, 4))
    product = make.matmul(make.plus(make.leaf(x), make.leaf(y)), make.leaf(w))
    (value,), found = make.results(make.sum(product, 0))
    np.testing.assert_allclose(value, ((x + y) @ w).sum(0))
    assert found.matmul_after == found.matmul_before / 7
    (move,) = found.moves
    assert [name for _, name in move.passed] == ["add", "contract"]
    assert move.reasons == ("an input", "an input")


def test_products(make, rng):
    """By what lacks the axis it stays outside; of two that have it a contraction is made."""
    x, y, c = (rng.normal(size=s) for s in ((7, 3), (7, 3), (3,)))
    u, v, f = map(make.leaf, (x, y, c))
    scaled, both = make.sum(make.mul(u, f), 0), make.sum(make.mul(make.mul(u, f), v), 0)
    found, _ = make.results(scaled, both)
    np.testing.assert_allclose(found[0], x.sum(0) * c)
    np.testing.assert_allclose(found[1], (x * c * y).sum(0))


def test_factors_leave_contractions(make, rng):
    """Σ (a u)(b u) and Σ u² are one contraction."""
    u, a, b = (make.leaf(rng.normal(size=s)) for s in ((50, 3), (3,), (3,)))
    first = make.sum(make.mul(make.mul(u, a), make.mul(u, b)), 0)
    second = make.sum(make.mul(make.plus(u, make.mul(u, a)), u), 0)
    values, found = make.results(first, second)
    x, p, q = map(make.array, (u, a, b))
    np.testing.assert_allclose(values[0], (x**2).sum(0) * p * q)
    np.testing.assert_allclose(values[1], (x**2).sum(0) * (1 + p))
    assert found.choice.factored
    assert found.after < 0.5 * found.before


def test_weights(make, rng):
    """A vector along the summed axis goes with the sum through a product of matrices."""
    x, w, c = rng.normal(size=(7, 3)), rng.normal(size=(3, 4)), rng.normal(size=7)
    column = make.reshape(make.leaf(c), 7, 1)
    product = make.matmul(make.sin(make.leaf(x)), make.leaf(w))
    (value,), found = make.results(make.sum(make.mul(product, column), 0))
    np.testing.assert_allclose(value, c @ (np.sin(x) @ w))
    assert found.matmul_after == found.matmul_before / 7


def test_merged_axes(make, rng):
    """Sums pass a factor of an axis that was merged before a product of matrices."""
    x, w = rng.normal(size=(5, 7, 3)), rng.normal(size=(3, 4))
    leaf = make.sin(make.leaf(x))
    product = make.matmul(make.reshape(leaf, 35, 3), make.leaf(w))
    turned = make.transpose(make.reshape(product, 5, 7, 4), 1, 2, 0)
    (value,), found = make.results(make.sum(turned, 0))
    np.testing.assert_allclose(value, (np.sin(x) @ w).sum(1).T)
    assert found.matmul_after == found.matmul_before / 7


def test_axes_that_do_not_fit_stop_a_sum(make, rng):
    x = rng.normal(size=(6, 4))
    bent = make.sin(make.leaf(x))
    (value,), _ = make.results(make.sum(make.reshape(bent, 8, 3), 0))
    np.testing.assert_allclose(value, np.sin(x).reshape(8, 3).sum(0))


def test_broadcast_axes_count_their_length(make, rng):
    x = rng.normal(size=3)
    wide = make.broadcast(make.leaf(x), 9, 3)
    (value,), found = make.results(make.sum(make.plus(wide, wide), 0))
    np.testing.assert_allclose(value, 18 * x)
    assert found.after < found.before


def test_whole_values_that_repeat_are_not_counted_twice(make, rng):
    """An operation along an axis gives its value whole, also where it was broadcast."""
    x = rng.normal(size=3)
    wide = make.broadcast(make.leaf(x), 9, 3)
    flipped = make("flip", (wide,), (9, 3), alongside([1], [0], 2), lambda a: a[:, ::-1])
    (value,), _ = make.results(make.sum(flipped, 0))
    np.testing.assert_allclose(value, 9 * x[::-1])


def test_bilinear_operations_sum_each_operand_by_itself(make, rng):
    x, k = rng.normal(size=(5, 6)), rng.normal(size=(4, 6))
    outer = make(
        "inner", (make.leaf(x), make.leaf(k)), (5, 4), Acting((), (0, 1), (((0, 0),), ((1, 0),)), bilinear=True),
        lambda a, b: a @ b.T, flops=100.0,
    )  # fmt: skip
    (value,), found = make.results(make.sum(outer, 0, 1))
    np.testing.assert_allclose(value, (x @ k.T).sum())
    assert found.after < found.before + 30


def test_products_by_zero_wait_to_be_added(make, arrays, rng):
    """They are zero or nan, so what is linear passes first, and arrays stay what they are."""
    x, w = rng.normal(size=(7, 3)), rng.normal(size=(3, 4))
    x[2, 1] = np.nan
    dead = make.mul(make.zeros(7, 3), make.leaf(x))
    assert dead.nil
    assert not dead.zero
    y = rng.normal(size=(7, 3))
    total = make.matmul(make.plus(make.leaf(y), dead), make.leaf(w))
    part = answer(Engine(arrays).value(total, fresh(total.shape)))
    np.testing.assert_allclose(part.bare, y @ w)
    assert [taint.array.shape for taint in part.taints] == [(7,)]
    np.testing.assert_allclose(part.array, (y + 0 * x) @ w)
    assert np.isnan(part.array[2]).all()
    assert np.isfinite(np.delete(part.array, 2, 0)).all()


def test_values_needed_anyway_are_summed_where_they_are(make, rng):
    x, w = rng.normal(size=(7, 3)), rng.normal(size=(3, 4))
    product = make.matmul(make.leaf(x), make.leaf(w))
    values, found = make.results(product, make.sum(product, 0))
    np.testing.assert_allclose(values[1], (x @ w).sum(0))
    assert found.choice is None


def test_several_sums_share_what_they_have_in_common(make, rng):
    """Σ_ij and Σ_i of one value: Σ_i is made once."""
    x, w = rng.normal(size=(20, 30)), rng.normal(size=(30, 40))
    product = make.matmul(make.sin(make.leaf(x)), make.leaf(w))
    row = make.sum(product, 0)
    bent = make.sum(make.sin(row), 0)
    values, found = make.results(bent, make.sum(product, 0, 1))
    np.testing.assert_allclose(values[1], (np.sin(x) @ w).sum())
    assert found.matmul_after <= found.matmul_before / 20


def test_nonlinear_operations_stop_sums(make, arrays, rng):
    x = rng.normal(size=(7, 3))
    total = make.sum(make.plus(make.sin(make.leaf(x)), make.leaf(x)), 0)
    (value,), _ = make.results(total)
    np.testing.assert_allclose(value, (np.sin(x) + x).sum(0))
    engine = Engine(arrays)
    engine.run(make.returning(total))
    assert "not linear in what carries the axis" in engine.moves()[0].reasons


def test_parts_and_their_labels(arrays, rng):
    """Each part's labels keep their order in a product; what comes in by broadcasting is in front."""
    r, b, f = Label(2), Label(3), Label(4)
    engine = Engine(arrays)
    u, v = Part(rng.normal(size=(2, 4)), [r, f]), Part(rng.normal(size=(3, 4)), [b, f])
    assert together([u, v]) == [r, b, f]
    assert together([v, u]) == [b, r, f]
    made = engine.product(u, v, frozenset([f]))
    np.testing.assert_allclose(made.array, u.array @ v.array.T)
    assert aligned(arrays, u, [f, b, r]).shape == (4, 1, 2)


def test_factors_along_what_an_operand_alone_is_summed_over(make, rng):
    """Σ_rk (u_rkb s_k) v_rb: s stays inside of the sum over k, which v lacks."""
    u, s, v = (make.leaf(rng.normal(size=n)) for n in ((6, 5, 3), (5, 1), (6, 1, 3)))
    total = make.sum(make.mul(make.mul(u, s), v), 0, 1)
    make.results(total)
    make.results(make.sum(make.mul(make.mul(make.broadcast(v, 6, 5, 3), s), v), 0, 1))


def test_programs_of_thousands_of_operations(make, arrays, rng):
    """Asking goes no deeper than a few calls, for sums, for factors and for what is needed whole."""
    x, c = rng.normal(size=(7, 3)), 1 + 1e-4 * rng.normal(size=3)
    u, factor = make.leaf(x), make.leaf(c)
    for _ in range(2000):
        u = make.mul(u, factor)
    product = make.mul(u, u)
    v, limit = make.sin(u), sys.getrecursionlimit()
    for _ in range(2000):
        v = make.plus(v, u)
    program = make.returning(make.sum(product, 0), make.sum(v, 0), v)
    for choice in (Choice(), Choice(factored=True)):
        squares, sums, _ = Engine(arrays, choice).run(program)
        power = x * c**2000
        np.testing.assert_allclose(squares, (power**2).sum(0))
        np.testing.assert_allclose(sums, (np.sin(power) + 2000 * power).sum(0))
    assert sys.getrecursionlimit() == limit
