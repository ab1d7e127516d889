"""How sums pass each kind of operation: values against NumPy, and what is issued."""

from __future__ import annotations

import numpy as np
import pytest

from jetfold.collapse.engine import Engine, answer
from jetfold.collapse.kinds import is_nil, is_zero, lets_sums_in, rearranged
from jetfold.collapse.labels import Label, Part, flat, fresh
from jetfold.collapse.program import Leaf
from jetfold.core.axes import Acting, Contracted, Opaque, Pointwise, Reshaped, Summed, alongside


def summed(make, arrays, node, *axes, weight=None):
    """Σ over axes of a node, asked of an engine: an array without them, or None; and the engine."""
    engine, labels = Engine(arrays), fresh(node.shape)
    over = frozenset(x for k in axes for x in labels[k])
    if weight is not None:
        weight = Part(weight, [x for k in axes for x in labels[k]])
    part = answer(engine.ask(node, labels, over, weight))
    if part is None:
        return None, engine
    kept = [x for x in flat(labels) if x not in over]
    assert set(part.labels) <= set(kept)
    array = np.broadcast_to(engine.aligned(part, kept), [x.length for x in kept])
    return array.reshape([n for k, n in enumerate(node.shape) if k not in axes]), engine


def shapes(arrays, name):
    return [shape for issued, shape in arrays.issued if issued == name]


@pytest.fixture
def x(make, rng):
    """A value that can be summed before it is made: a product of matrices."""
    u, w = rng.normal(size=(6, 5, 3)), rng.normal(size=(3, 4))
    return make.einsum("rbk,kj->rbj", make.leaf(u), make.leaf(w))


# ------------------------------------------------------------------ elementwise


def test_a_sum_of_operands_that_are_broadcast(make, arrays, x, rng):
    """Over a label that an operand lacks, it counts as often as the label is long."""
    y = make.leaf(rng.normal(size=4))
    total = make.plus(x, y, sign=-1)
    found, _ = summed(make, arrays, total, 0)
    np.testing.assert_allclose(found, make.values(total)[0].sum(0))
    assert shapes(arrays, "subtract") == [(5, 4)]


def test_one_zero_of_a_sum_is_left_out(make, arrays, x):
    for sign in (1, -1):
        for total in (
            make.plus(x, make.zeros(6, 5, 4), sign),
            make.plus(make.zeros(6, 5, 4), x, sign),
        ):
            found, _ = summed(make, arrays, total, 0)
            np.testing.assert_allclose(found, make.values(total)[0].sum(0))
    assert not arrays.issued


@pytest.mark.parametrize("shape", [(4,), (5, 1), (1, 5, 4), ()])
def test_a_factor_that_lacks_the_axis_stays_outside(make, arrays, x, rng, shape):
    for product in (
        make.mul(x, make.leaf(rng.normal(size=shape))),
        make.mul(make.leaf(rng.normal(size=shape)), x),
        make.div(x, make.leaf(rng.uniform(1, 2, size=shape))),
    ):
        arrays.issued.clear()
        found, _ = summed(make, arrays, product, 0)
        np.testing.assert_allclose(found, make.values(product)[0].sum(0))
        assert [shape for _, shape in arrays.issued] == [(5, 4)]


def test_a_factor_with_weights(make, arrays, x, rng):
    """Σ_r w_r c_r x_rbj: both are weights of one sum."""
    c, w = rng.normal(size=(6, 1, 1)), rng.normal(size=6)
    product = make.mul(make.leaf(c), x)
    found, _ = summed(make, arrays, product, 0, weight=w)
    np.testing.assert_allclose(found, np.tensordot(w, make.values(product)[0], 1))
    assert not arrays.issued


def test_weights_along_two_axes(make, arrays, x, rng):
    w = rng.normal(size=(6, 5))
    for node in (
        x,
        make.mul(x, x),
        make.mul(x, make.leaf(rng.normal(size=(5, 1)))),
        make.mul(x, make.leaf(rng.normal(size=(6, 1, 1)))),
        make.sin(x),
    ):
        found, _ = summed(make, arrays, node, 0, 1, weight=w)
        np.testing.assert_allclose(found, np.einsum("rb,rbj->j", w, make.values(node)[0]))


def test_a_divisor_along_the_axis_stops(make, arrays, x, rng):
    quotient = make.div(x, make.leaf(rng.uniform(1, 2, size=(6, 1, 1))))
    found, engine = summed(make, arrays, quotient, 0)
    np.testing.assert_allclose(found, make.values(quotient)[0].sum(0))
    assert shapes(arrays, "divide") == [(6, 5, 4)]
    assert not engine.moves()  # nobody asked on behalf of a sum of the program


@pytest.mark.parametrize(
    ("dtypes", "options"),
    [((complex, float), {}), ((float, complex), {}), ((complex, complex), {"conjugates": True})],
)
def test_weights_stop_where_a_factor_of_the_operand_is_none_of_the_value(
    make, arrays, rng, dtypes, options
):
    """Re(w x) ≠ w Re(x), but Re(Σ x) = Σ Re(x)."""
    values = rng.normal(size=(6, 3)) + 1j * rng.normal(size=(6, 3))
    issue = {float: np.real, complex: np.conj}[dtypes[1]]
    x = make("input", (), (6, 3), Leaf(), lambda: values, dtype=dtypes[0])
    y = make("part", (x,), (6, 3), Pointwise((0,), **options), issue, dtype=dtypes[1])
    w = rng.normal(size=6) + (1j * rng.normal(size=6) if dtypes[1] is complex else 0)
    found, _ = summed(make, arrays, y, 0, weight=w)
    np.testing.assert_allclose(found, w @ issue(values))
    assert shapes(arrays, "part") == [(6, 3)]
    found, _ = summed(make, arrays, y, 0)
    np.testing.assert_allclose(found, issue(values).sum(0))
    assert shapes(arrays, "part") == [(6, 3), (3,)]


# ------------------------------------------------------------------ rearranged


def test_permuted(make, arrays, x):
    turned = make.transpose(x, 2, 0, 1)
    for axes in ((0,), (1,), (0, 2)):
        found, _ = summed(make, arrays, turned, *axes)
        np.testing.assert_allclose(found, make.values(turned)[0].sum(axes))


def test_broadcast(make, arrays, x):
    row = make.sum(x, 1, keepdims=True)
    wide = make.broadcast(row, 2, 6, 7, 4)
    for axes in ((0,), (2,), (0, 1, 2), (3,)):
        found, _ = summed(make, arrays, wide, *axes)
        np.testing.assert_allclose(found, make.values(wide)[0].sum(axes))


def test_reshaped(make, arrays, x):
    """Axes of length one come and go, neighbours merge and split."""
    for shape in ((6, 1, 5, 4), (30, 4), (1, 120), (6, 20), (30, 1, 2, 2)):
        y = make.reshape(x, *shape)
        for axis in range(len(shape)):
            found, _ = summed(make, arrays, y, axis)
            np.testing.assert_allclose(found, make.values(y)[0].sum(axis))


def test_labels_of_reshaped_axes(make, rng):
    a, b, c = Label(6), Label(5), Label(4)
    merged = make.reshape(make.leaf(rng.normal(size=(6, 5, 4))), 30, 4)
    split = make.reshape(merged, 6, 5, 4)
    assert rearranged(split.kind, (30, 4), ((a,), (b,), (c,))) == ((a, b), (c,))
    assert rearranged(merged.kind, (6, 5, 4), ((a, b), (c,))) == ((a,), (b,), (c,))
    assert rearranged(merged.kind, (6, 5, 4), ((Label(30),), (c,))) is None
    turned = make.transpose(merged, 1, 0)
    assert rearranged(turned.kind, (30, 4), ((c,), (a, b))) == ((a, b), (c,))


def test_a_sum_over_part_of_a_merged_axis(make, x):
    """Σ_r of a merged axis (r, b), behind operations that know nothing of it."""
    merged = make.reshape(x, 30, 4)
    total = make.sum(make.reshape(make.plus(merged, merged), 6, 5, 4), 0)
    _, found = make.results(total)
    assert found.matmul_after == found.matmul_before / 6
    (move,) = found.moves
    assert [name for _, name in move.passed] == ["contract", "reshape", "add", "reshape"]


# ------------------------------------------------------------------ sums


@pytest.mark.parametrize("keepdims", [False, True])
def test_sums_of_sums(make, x, keepdims):
    first = make.sum(x, 1, keepdims=keepdims)
    total = make.sum(first, 0, *([1] if keepdims else []))
    _, found = make.results(total, make.sum(make.plus(first, first), 0))
    assert found.matmul_after <= found.matmul_before / 30


# ------------------------------------------------------------------ contractions


@pytest.fixture
def pair(make, rng):
    """Operands that sums can enter, along r, b and an inner axis k."""
    u, v = (rng.normal(size=s) for s in ((6, 5, 3), (6, 3, 4)))
    w = make.leaf(rng.normal(size=(3, 3)))
    left = make.einsum("rbi,ik->rbk", make.leaf(u), w)
    right = make.einsum("ik,rkj->rij", w, make.leaf(v))
    return left, right


@pytest.mark.parametrize("axes", [(1,), (2,), (0,), (1, 2), (0, 1), (0, 1, 2)])
@pytest.mark.parametrize("weighted", [False, True])
def test_contractions(make, arrays, pair, rng, axes, weighted):
    """Axes of the left, of the right and of both, alone and together."""
    product = make.einsum("rbk,rkj->rbj", *pair)
    (value,) = make.values(product)
    weight = rng.normal(size=[value.shape[k] for k in axes]) if weighted else None
    found, _ = summed(make, arrays, product, *axes, weight=weight)
    factors = np.ones([value.shape[k] for k in axes]) if weight is None else weight
    np.testing.assert_allclose(found, np.tensordot(factors, value, (range(len(axes)), axes)))


@pytest.mark.parametrize("axes", [(), (0,), (1,), (0, 1)])
def test_inner_labels_that_operands_do_not_vary_along(make, arrays, rng, axes):
    """Of one: a sum over the other. Of neither: a factor."""
    narrow = [make.leaf(rng.normal(size=s)) for s in ((5, 1), (1, 4))]
    full = [make.leaf(rng.normal(size=s)) for s in ((5, 3), (3, 4))]
    wide = [make.broadcast(narrow[0], 5, 3), make.broadcast(narrow[1], 3, 4)]
    for a, b in ((wide[0], full[1]), (full[0], wide[1]), wide):
        product = make.matmul(a, b)
        found, _ = summed(make, arrays, product, *axes)
        np.testing.assert_allclose(found, make.values(product)[0].sum(axes))


def test_a_vector_is_a_sum_with_weights(make, x, rng):
    """Σ_r w_r x_rbj, as a product of matrices of the program."""
    product = make.einsum("r,rbj->bj", make.leaf(rng.normal(size=6)), x)
    _, found = make.results(product)
    assert found.after < 0.5 * found.before
    (move,) = found.moves
    assert move.source == "contract"
    assert [name for _, name in move.passed] == ["contract"]


def test_a_product_that_changes_the_dtype_stops(make, arrays, rng):
    """Operands of fewer digits are not added before they are multiplied."""
    u, v = (make.leaf(rng.normal(size=s)) for s in ((6, 3), (3, 4)))
    kind = Contracted(("i", "k"), ("k", "j"), ("i", "j"))
    product = make("product", (make.plus(u, u), v), (6, 4), kind, np.matmul, dtype=np.longdouble)
    engine, axes = Engine(arrays), fresh(product.shape)
    answer(engine.ask(product, axes, frozenset(axes[0]), None))
    assert shapes(arrays, "add") == [(6, 3)]


# ------------------------------------------------------------------ along


def test_axes_that_an_operation_does_not_act_along(make, arrays, x, rng):
    running = make.cumsum(x, 1)
    for axes in ((0,), (2,), (0, 2)):
        arrays.issued.clear()
        found, _ = summed(make, arrays, running, *axes)
        np.testing.assert_allclose(found, make.values(running)[0].sum(axes))
        expected = tuple(1 if k in axes else n for k, n in enumerate(running.shape))
        assert shapes(arrays, "cumsum") == [expected]
    found, _ = summed(make, arrays, running, 0, weight=(w := rng.normal(size=6)))
    np.testing.assert_allclose(found, np.tensordot(w, make.values(running)[0], 1))


def test_axes_that_an_operation_acts_along(make, x):
    total = make.sum(make.cumsum(x, 0), 0)
    _, found = make.results(total)
    assert found.choice is None


def test_axes_that_the_operand_lacks_are_not_issued(make, arrays, x):
    """They have length one; the value is no longer than what it varies along."""
    running = make.cumsum(make.broadcast(x, 9, 6, 5, 4), 2)
    for axes in ((0,), (0, 1), (1,), (0, 3)):
        arrays.issued.clear()
        found, _ = summed(make, arrays, running, *axes)
        np.testing.assert_allclose(found, make.values(running)[0].sum(axes))
        assert all(shape[0] == 1 for shape in shapes(arrays, "cumsum"))


def test_a_vector_that_repeats_along_another_axis_is_one_of_weights(make, x, rng):
    """The same vector for each b: an operation along r made it."""
    vector = make.cumsum(make.broadcast(make.leaf(rng.normal(size=6)), 5, 6), 1)
    product = make.einsum("br,rbj->bj", vector, x)
    _, found = make.results(make.sum(product, 0))
    assert found.after < found.before


def joined(make, *operands):
    """Along axis 1."""
    shape = [sum(x.shape[1] for x in operands) if k == 1 else n for k, n in enumerate(operands[0].shape)]  # fmt: skip
    kind = alongside([1], range(len(operands)), 3)
    return make("join", operands, shape, kind, lambda *x: np.concatenate(x, 1))


def test_several_operands_of_which_one_lacks_the_axis(make, x, rng):
    alike = make.broadcast(make.leaf(rng.normal(size=(1, 2, 4))), 6, 2, 4)
    _, found = make.results(make.sum(joined(make, x, alike, make.zeros(6, 1, 4)), 0))
    assert found.matmul_after == found.matmul_before / 6


def outer(make, a, b):
    kind = Acting((), (0, 1), (((0, 0),), ((1, 0),)), bilinear=True)
    shape = (a.shape[0], b.shape[0])
    return make("outer", (a, b), shape, kind, lambda a, b: a @ b.T, flops=500.0)


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("weighted", [False, True])
def test_bilinear(make, arrays, rng, axes, weighted):
    a, b = make.leaf(rng.normal(size=(6, 3))), make.leaf(rng.normal(size=(4, 3)))
    product = outer(make, make.plus(a, a), make.plus(b, b))
    (value,) = make.values(product)
    weight = rng.normal(size=[value.shape[k] for k in axes]) if weighted else None
    factors = np.ones([value.shape[k] for k in axes]) if weight is None else weight
    found, _ = summed(make, arrays, product, *axes, weight=weight)
    np.testing.assert_allclose(found, np.tensordot(factors, value, (range(len(axes)), axes)))
    entire = weighted and len(axes) == 2  # weights along axes of both stop
    expected = (6, 4) if entire else tuple(1 if k in axes else n for k, n in enumerate((6, 4)))
    assert shapes(arrays, "outer") == [expected]


# ------------------------------------------------------------------ leaves, zeros


def test_inputs_and_unknown_operations_stop(make, arrays, rng):
    x = make.leaf(rng.normal(size=(6, 3)))
    sorted_ = make("sort", (x,), (6, 3), Opaque(), lambda a: np.sort(a, 0))
    total = make.sum(make.plus(sorted_, x), 0)
    make.results(total)
    engine = Engine(arrays)
    engine.run(make.returning(total))
    assert engine.moves()[0].reasons == ("not linear, or not known to be", "an input")
    assert not lets_sums_in(x)
    assert not lets_sums_in(make.reshape(sorted_, 18))
    assert not lets_sums_in(make.sin(x))
    assert lets_sums_in(make.reshape(make.plus(x, x), 18))


def test_what_is_zero(make, rng):
    zero, x = make.zeros(6, 3), make.leaf(rng.normal(size=(6, 3)))
    assert is_zero(Pointwise(linear=(0, 1)), [zero, zero])
    assert not is_zero(Pointwise(linear=(0, 1)), [zero, x])
    assert is_zero(Pointwise(factors=(0, 1)), [zero, zero])
    assert not is_zero(Pointwise(factors=(0, 1)), [x, zero])  # ∞ · 0 is not
    assert is_nil(Pointwise(factors=(0, 1)), [x, zero])
    assert not is_zero(Pointwise(linear=(0,)), [zero, x])  # 0 / 0 is not
    assert is_nil(Pointwise(linear=(0,)), [zero, x])
    assert not is_zero(Pointwise(), [zero])  # cos 0 = 1
    assert is_zero(Contracted(("k",), ("k",), ()), [zero, zero])
    assert not is_zero(Contracted(("k",), ("k",), ()), [x, zero])
    assert is_nil(Contracted(("k",), ("k",), ()), [x, zero])
    assert is_zero(Reshaped(), [zero])
    assert is_zero(Summed((0,)), [zero])
    assert is_zero(alongside([], [0, 1], 2), [zero, zero])
    assert not is_zero(alongside([], [0, 1], 2), [zero, x])
    assert not is_zero(Acting((), (0, 1), ((), ()), bilinear=True), [zero, x])
    assert is_nil(Acting((), (0, 1), ((), ()), bilinear=True), [zero, x])
    assert not is_zero(Opaque(), [zero])


def test_zeros_cost_nothing_behind_any_kind(make, arrays, x):
    zero = make.plus(make.zeros(6, 5, 4), make.zeros(6, 5, 4), -1)
    for node in (
        make.transpose(zero, 2, 1, 0),
        make.reshape(zero, 30, 4),
        make.cumsum(zero, 0),
        make.sum(zero, 0),
        make.mul(zero, zero),
        make.plus(zero, zero),
    ):
        assert summed(make, arrays, node, 0)[0] is None
        np.testing.assert_allclose(answer(Engine(arrays).dense(node)), np.zeros(node.shape))
    assert not arrays.issued


def test_nodes_are_told_apart_by_identity(make):
    first, second = (make("x", (), (2,), Opaque(), lambda: 0) for _ in range(2))
    assert first != second
    assert len(fresh(first.shape)[0]) == 1
    assert fresh((1,)) == ((),)
    assert repr(make.plus(first, second)) == "n2 = add(n0, n1) [2]"
    with pytest.raises(AttributeError):
        first.zero = True
