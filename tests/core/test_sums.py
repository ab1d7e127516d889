"""The engine of the pass on hand-made programs, with NumPy: no framework is needed."""

from __future__ import annotations

import numpy as np
import pytest

from jetfold.core.kinds import (
    Along,
    Bilinear,
    Contract,
    Elementwise,
    Leaf,
    Opaque,
    Rearranged,
    Sum,
    broadcast,
    is_zero,
    permuted,
    reshaped,
)
from jetfold.core.plan import plan
from jetfold.core.sums import Engine, Label, Node, Part, aligned


class Numpy:
    """`Arrays`, counting the entries of what is issued."""

    def __init__(self):
        self.issued = []

    def issue(self, node, arrays, shape):
        self.issued.append((node.name, tuple(shape)))
        return np.broadcast_to(node.issue(*arrays), shape)

    def contract(self, node, left, right, out):
        labels = list(dict.fromkeys([*left.labels, *right.labels, *out]))
        names = {label: k for k, label in enumerate(labels)}
        return np.einsum(
            left.array,
            [names[x] for x in left.labels],
            right.array,
            [names[x] for x in right.labels],
            [names[x] for x in out],
        )

    def total(self, array, axes):
        return array.sum(tuple(axes))

    def scale(self, array, factor):
        return array * factor

    def permute(self, array, order):
        return array.transpose(order)

    def reshape(self, array, shape):
        return np.reshape(array, shape)

    def broadcast(self, array, shape):
        return np.broadcast_to(array, shape)

    def full(self, node, shape, value):
        return np.full(shape, value)


class Builder:
    """Nodes with numbers."""

    def __init__(self):
        self.nodes = []

    def __call__(self, name, inputs, shape, kind, issue=None, **options):
        node = Node(name, tuple(inputs), tuple(shape), float, kind, issue or (lambda *x: x))
        node.options = options
        node.flops = float(np.prod(shape)) if isinstance(kind, Elementwise) else 0.0
        node.zero = options.pop("zero", False) or is_zero(kind, inputs)
        node.number = len(self.nodes)
        self.nodes.append(node)
        return node

    def leaf(self, array):
        return self("input", (), array.shape, Leaf(), array=array)

    def add(self, a, b):
        kind = Elementwise(linear=(0, 1))
        return self("add", (a, b), a.shape, kind, np.add, sum=1, arithmetic=True)

    def mul(self, a, b):
        shape = np.broadcast_shapes(a.shape, b.shape)
        kind = Elementwise(factors=(0, 1))
        return self("mul", (a, b), shape, kind, np.multiply, arithmetic=True)

    def sin(self, a):
        return self("sin", (a,), a.shape, Elementwise(), np.sin)

    def sum(self, a, *axes):
        shape = [n for k, n in enumerate(a.shape) if k not in axes]
        return self("sum", (a,), shape, Sum(), axes=axes)

    def matmul(self, a, b):
        names = {"left": ["i", "k"], "right": ["k", "j"], "out": ["i", "j"]}
        return self("matmul", (a, b), (a.shape[0], b.shape[1]), Contract(), **names)


@pytest.fixture
def make():
    return Builder()


def results(make, *outputs):
    """Values with and without knowing what is needed, factors inside and outside; and the plan."""
    found = plan(make.nodes, outputs)
    assert found.after <= found.before
    values = [
        Engine(Numpy(), factored=factored).run(make.nodes, outputs) for factored in (False, True)
    ]
    if found.needed is not None:
        values.append(found.run(Numpy(), make.nodes, outputs))
    for other in values[1:]:
        for a, b in zip(values[0], other, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)
    return values[0], found


def test_sums_pass_linear_operations(make, rng):
    x, y, w = rng.normal(size=(7, 3)), rng.normal(size=(7, 3)), rng.normal(size=(3, 4))
    product = make.matmul(make.add(make.leaf(x), make.leaf(y)), make.leaf(w))
    (value,), found = results(make, make.sum(product, 0))
    np.testing.assert_allclose(value, ((x + y) @ w).sum(0))
    assert found.matmul_after == found.matmul_before / 7
    (move,) = found.moves
    assert [name for _, name in move.passed] == ["add", "matmul"]
    assert move.reasons == ["an input", "an input"]


def test_products(make, rng):
    """By what lacks the axis it stays outside; of two that have it a contraction is made."""
    x, y, c = (rng.normal(size=s) for s in ((7, 3), (7, 3), (3,)))
    u, v, f = map(make.leaf, (x, y, c))
    scaled, both = make.sum(make.mul(u, f), 0), make.sum(make.mul(make.mul(u, f), v), 0)
    found, _ = results(make, scaled, both)
    np.testing.assert_allclose(found[0], x.sum(0) * c)
    np.testing.assert_allclose(found[1], (x * c * y).sum(0))


def test_factors_leave_contractions(make, rng):
    """Σ (a u)(b u) and Σ u² are one contraction."""
    u, a, b = (make.leaf(rng.normal(size=s)) for s in ((50, 3), (3,), (3,)))
    first = make.sum(make.mul(make.mul(u, a), make.mul(u, b)), 0)
    second = make.sum(make.mul(make.add(u, make.mul(u, a)), u), 0)
    values, found = results(make, first, second)
    x, p, q = (node.options["array"] for node in (u, a, b))
    np.testing.assert_allclose(values[0], (x**2).sum(0) * p * q)
    np.testing.assert_allclose(values[1], (x**2).sum(0) * (1 + p))
    assert found.factored
    assert found.after < 0.5 * found.before


def test_weights(make, rng):
    """A vector along the summed axis goes with the sum through a product of matrices."""
    x, w, c = rng.normal(size=(7, 3)), rng.normal(size=(3, 4)), rng.normal(size=7)
    column = make("reshape", (make.leaf(c),), (7, 1), Rearranged(reshaped))
    product = make.matmul(make.sin(make.leaf(x)), make.leaf(w))
    (value,), found = results(make, make.sum(make.mul(product, column), 0))
    np.testing.assert_allclose(value, c @ (np.sin(x) @ w))
    assert found.matmul_after == found.matmul_before / 7


def test_merged_axes(make, rng):
    """Sums pass a factor of an axis that was merged before a product of matrices."""
    x, w = rng.normal(size=(5, 7, 3)), rng.normal(size=(3, 4))
    leaf = make.sin(make.leaf(x))
    merged = make("reshape", (leaf,), (35, 3), Rearranged(reshaped))
    product = make.matmul(merged, make.leaf(w))
    split = make("reshape", (product,), (5, 7, 4), Rearranged(reshaped))
    turned = make("transpose", (split,), (7, 4, 5), Rearranged(permuted), order=(1, 2, 0))
    (value,), found = results(make, make.sum(turned, 0))
    np.testing.assert_allclose(value, (np.sin(x) @ w).sum(1).T)
    assert found.matmul_after == found.matmul_before / 7


def test_axes_that_do_not_fit_stop_a_sum(make, rng):
    x = rng.normal(size=(6, 4))
    bent = make.sin(make.leaf(x))
    kind = Rearranged(reshaped)
    other = make("reshape", (bent,), (8, 3), kind, lambda a: a.reshape(8, 3))
    (value,), _ = results(make, make.sum(other, 0))
    np.testing.assert_allclose(value, np.sin(x).reshape(8, 3).sum(0))


def test_broadcast_axes_count_their_length(make, rng):
    x = rng.normal(size=3)
    wide = make("broadcast", (make.leaf(x),), (9, 3), Rearranged(broadcast), dims=(1,))
    (value,), found = results(make, make.sum(make.add(wide, wide), 0))
    np.testing.assert_allclose(value, 18 * x)
    assert found.after < found.before


def test_whole_values_that_repeat_are_not_counted_twice(make, rng):
    """An operation along an axis gives its value whole, also where it was broadcast."""
    x = rng.normal(size=3)
    wide = make("broadcast", (make.leaf(x),), (9, 3), Rearranged(broadcast), dims=(1,))
    options = {"acts": (1,), "through": {0: {0: 0}}}
    flipped = make("flip", (wide,), (9, 3), Along((0,)), lambda a: a[:, ::-1], **options)
    (value,), _ = results(make, make.sum(flipped, 0))
    np.testing.assert_allclose(value, 9 * x[::-1])


def test_bilinear_operations_sum_each_operand_by_itself(make, rng):
    x, k = rng.normal(size=(5, 6)), rng.normal(size=(4, 6))
    outer = make(
        "inner", (make.leaf(x), make.leaf(k)), (5, 4), Bilinear((0, 1)), lambda a, b: a @ b.T,
        acts=(), through={0: {0: 0}, 1: {1: 0}}, flops=1,
    )  # fmt: skip
    outer.flops = 100.0
    (value,), found = results(make, make.sum(outer, 0, 1))
    np.testing.assert_allclose(value, (x @ k.T).sum())
    assert found.after < found.before + 30


def test_zeros_are_folded(make, rng):
    x = rng.normal(size=(7, 3))
    nothing = make("zeros", (), (7, 3), Opaque(), lambda: np.zeros((7, 3)), zero=True)
    dead = make.mul(nothing, make.sin(make.leaf(x)))
    assert dead.zero
    assert make.matmul(dead, make.leaf(rng.normal(size=(3, 2)))).zero
    arrays = Numpy()
    (value,) = Engine(arrays).run(make.nodes, [make.add(make.leaf(x), dead)])
    np.testing.assert_allclose(value, x)
    assert not arrays.issued


def test_values_needed_anyway_are_summed_where_they_are(make, rng):
    x, w = rng.normal(size=(7, 3)), rng.normal(size=(3, 4))
    product = make.matmul(make.leaf(x), make.leaf(w))
    values, found = results(make, product, make.sum(product, 0))
    np.testing.assert_allclose(values[1], (x @ w).sum(0))
    assert found.needed is None


def test_several_sums_share_what_they_have_in_common(make, rng):
    """Σ_ij and Σ_i of one value: Σ_i is made once."""
    x, w = rng.normal(size=(20, 30)), rng.normal(size=(30, 40))
    product = make.matmul(make.sin(make.leaf(x)), make.leaf(w))
    row = make.sum(product, 0)
    bent = make.sum(make.sin(row), 0)
    values, found = results(make, bent, make.sum(product, 0, 1))
    np.testing.assert_allclose(values[1], (np.sin(x) @ w).sum())
    assert found.matmul_after <= found.matmul_before / 20


def test_nonlinear_operations_stop_sums(make, rng):
    x = rng.normal(size=(7, 3))
    total = make.sum(make.add(make.sin(make.leaf(x)), make.leaf(x)), 0)
    (value,), _ = results(make, total)
    np.testing.assert_allclose(value, (np.sin(x) + x).sum(0))
    engine = Engine(Numpy())
    engine.run(make.nodes, [total])
    assert "not linear in what carries the axis" in engine.moves[0].reasons


def test_parts_and_their_labels(rng):
    """Each part's labels keep their order in a product; what comes in by broadcasting is in front."""
    r, b, f = Label(2), Label(3), Label(4)
    engine = Engine(Numpy())
    u, v = Part(rng.normal(size=(2, 4)), [r, f]), Part(rng.normal(size=(3, 4)), [b, f])
    assert engine.together([u, v]) == [r, b, f]
    assert engine.together([v, u]) == [b, r, f]
    made = engine.product(u, v, frozenset([f]))
    np.testing.assert_allclose(made.array, u.array @ v.array.T)
    assert aligned(Numpy(), u, [f, b, r]).shape == (4, 1, 2)
