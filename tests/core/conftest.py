"""Programs of the pass made by hand, and NumPy to run them: neither framework is needed."""

from __future__ import annotations

import numpy as np
import pytest

from jetfold.core.kinds import (
    Along,
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
from jetfold.core.sums import Engine, Node


class Numpy:
    """`Arrays`, with a list of what is issued and in which shape."""

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
    """Makes nodes, with their numbers, and runs what was made."""

    def __init__(self):
        self.nodes = []

    def __call__(
        self, name, inputs, shape, kind, issue, *, zero=False, flops=None, dtype=float, **options
    ):
        node = Node(name, tuple(inputs), tuple(shape), dtype, kind, issue)
        node.options = options
        elementwise = isinstance(kind, Elementwise)
        node.flops = float(np.prod(shape) if elementwise else 0) if flops is None else flops
        node.zero = zero or is_zero(kind, inputs)
        node.number = len(self.nodes)
        self.nodes.append(node)
        return node

    # ---- operations

    def leaf(self, array):
        return self("input", (), array.shape, Leaf(), lambda: array, array=array)

    def zeros(self, *shape):
        return self("zeros", (), shape, Opaque(), lambda: np.zeros(shape), zero=True)

    def add(self, a, b, sign=1):
        shape, kind = np.broadcast_shapes(a.shape, b.shape), Elementwise(linear=(0, 1))
        issue = np.add if sign > 0 else np.subtract
        return self(issue.__name__, (a, b), shape, kind, issue, sum=sign, arithmetic=True)

    def mul(self, a, b):
        shape, kind = np.broadcast_shapes(a.shape, b.shape), Elementwise(factors=(0, 1))
        return self("multiply", (a, b), shape, kind, np.multiply, arithmetic=True)

    def div(self, a, b):
        shape, kind = np.broadcast_shapes(a.shape, b.shape), Elementwise(linear=(0,))
        return self("divide", (a, b), shape, kind, np.divide, arithmetic=True)

    def sin(self, a):
        return self("sin", (a,), a.shape, Elementwise(), np.sin)

    def sum(self, a, *axes, keepdims=False):
        shape = np.empty(a.shape).sum(axes, keepdims=keepdims).shape
        options = {"axes": axes, "keepdims": keepdims}
        return self("sum", (a,), shape, Sum(), lambda x: x.sum(axes, keepdims=keepdims), **options)

    def einsum(self, formula, a, b):
        left, right, out = formula.replace("->", ",").split(",")
        lengths = dict(zip(left + right, a.shape + b.shape, strict=True))
        return self(
            "contract",
            (a, b),
            [lengths[x] for x in out],
            Contract(),
            lambda x, y: np.einsum(formula, x, y),
            left=list(left),
            right=list(right),
            out=list(out),
        )

    def matmul(self, a, b):
        return self.einsum("ik,kj->ij", a, b)

    def transpose(self, a, *order):
        kind, shape = Rearranged(permuted), [a.shape[k] for k in order]
        return self("transpose", (a,), shape, kind, lambda x: x.transpose(order), order=order)

    def reshape(self, a, *shape):
        return self("reshape", (a,), shape, Rearranged(reshaped), lambda x: x.reshape(shape))

    def broadcast(self, a, *shape):
        dims = range(len(shape) - len(a.shape), len(shape))
        kind = Rearranged(broadcast)
        return self("broadcast", (a,), shape, kind, lambda x: np.broadcast_to(x, shape), dims=dims)

    def cumsum(self, a, axis):
        through = {0: {k: k for k in range(len(a.shape)) if k != axis}}
        options = {"acts": (axis,), "through": through}
        return self("cumsum", (a,), a.shape, Along((0,)), lambda x: x.cumsum(axis), **options)

    # ---- results

    def values(self, *outputs):
        """The outputs, node by node as they were made."""
        known = {}
        for node in self.nodes:
            known[node.number] = node.issue(*(known[x.number] for x in node.inputs))
        return [known[x.number] for x in outputs]

    def results(self, *outputs):
        """The outputs and the plan; however they are found, they are the same."""
        found, expected = plan(self.nodes, outputs), self.values(*outputs)
        assert found.after <= found.before
        engines = [Engine(Numpy(), factored=factored) for factored in (False, True)]
        made = [engine.run(self.nodes, outputs) for engine in engines]
        if found.needed is not None:
            made.append(found.run(Numpy(), self.nodes, outputs))
        for results in made:
            for result, value in zip(results, expected, strict=True):
                assert np.shape(result) == np.shape(value)
                largest = max(1.0, np.abs(value).max(initial=0.0))
                np.testing.assert_allclose(result / largest, value / largest, atol=1e-11)
        return expected, found


@pytest.fixture
def make():
    return Builder()


@pytest.fixture(scope="module")
def builder():
    """The class, for tests that make several programs."""
    return Builder


@pytest.fixture
def arrays():
    return Numpy()


# ------------------------------------------------------------------ jets of NumPy arrays


class Vocabulary:
    """`core.arrays.Arrays` in NumPy, as far as the arithmetic of jets asks for it."""

    exp, log, sqrt, matmul = np.exp, np.log, np.sqrt, np.matmul
    where, zeros_like, moveaxis = map(staticmethod, (np.where, np.zeros_like, np.moveaxis))
    tril, triu, reshape = map(staticmethod, (np.tril, np.triu, np.reshape))

    def stack(self, rows):
        return np.stack(np.broadcast_arrays(*rows))

    def unstack(self, block):
        return list(block)

    def take(self, block, positions):
        return block[list(positions)]

    def scale(self, block, weights):
        return block * np.reshape(weights, (-1, *[1] * (block.ndim - 1)))

    def sum_rows(self, block):
        return block.sum(0)

    def segment_sum(self, block, positions, size):
        out = np.zeros((size, *block.shape[1:]), block.dtype)
        np.add.at(out, list(positions), block)
        return out

    def map_rows(self, function, *blocks, held=()):
        return np.stack([function(*rows) for rows in zip(*blocks, strict=True)])

    def concat(self, parts, axis):
        return np.concatenate(parts, axis)

    def expand_dims(self, block, ndim):
        return block.reshape(len(block), *[1] * (ndim + 1 - block.ndim), *block.shape[1:])

    def multiply_add(self, total, left, right):
        return total + left * right

    def sum(self, x, axes):
        return x.sum(tuple(axes))

    def eye(self, n, like):
        return np.eye(n, dtype=like.dtype)

    def adjoint(self, a):
        return np.conj(np.swapaxes(a, -1, -2))

    def diagonal(self, a):
        return np.diagonal(a, 0, -2, -1)

    def solve_triangular(self, a, b, *, upper, left=True, unitriangular=False):
        a = np.triu(a) if upper else np.tril(a)
        if unitriangular:
            a = a - np.eye(a.shape[-1]) * (np.diagonal(a, 0, -2, -1)[..., None] - 1)
        inverse = np.linalg.inv(a)
        return inverse @ b if left else b @ inverse


@pytest.fixture
def xp():
    return Vocabulary()
