"""Programs of the pass made by hand, and NumPy to run them: neither framework is needed."""

from __future__ import annotations

import numpy as np
import pytest

from jetfold.collapse import builder
from jetfold.collapse.engine import Choice, Engine
from jetfold.collapse.plan import plan
from jetfold.collapse.program import Leaf, Program
from jetfold.core.axes import (
    Broadcast,
    Contracted,
    Diagonal,
    Identity,
    Permuted,
    Pointwise,
    Reshaped,
    Summed,
    Zeros,
    alongside,
)


class Numpy:
    """`Arrays`, with a list of what is issued and in which shape."""

    def __init__(self):
        self.issued = []

    def issue(self, node, arrays, shape):
        if isinstance(node.kind, Leaf):
            return node.issue(arrays, shape)
        self.issued.append((node.name, tuple(shape)))
        return np.broadcast_to(node.issue(arrays, shape), shape)

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

    def sum(self, array, axes):
        return array.sum(tuple(axes))

    def add(self, left, right):
        return left + right

    def diagonal(self, array, first, second):
        return array.diagonal(0, first, second)

    def times(self, array, factor):
        return array * factor

    def permute_dims(self, array, order):
        return array.transpose(order)

    def reshape(self, array, shape):
        return np.reshape(array, shape)

    def broadcast_to(self, array, shape):
        return np.broadcast_to(array, shape)

    def full(self, shape, value, like):
        return np.full(shape, value)


class Builder(builder.Builder):
    """Makes nodes, and runs what was made."""

    def __call__(self, name, inputs, shape, kind, issue, *, flops=None, dtype=float):
        if flops is None:
            flops = float(np.prod(shape) if isinstance(kind, Pointwise) else 0)
        return self.add(name, inputs, shape, dtype, kind, lambda arrays, _: issue(*arrays), flops)

    # ---- operations

    def leaf(self, array):
        return self("input", (), array.shape, Leaf(), lambda: array)

    def zeros(self, *shape):
        return self("zeros", (), shape, Zeros(), lambda: np.zeros(shape))

    def plus(self, a, b, sign=1):
        shape = np.broadcast_shapes(a.shape, b.shape)
        kind = Pointwise(linear=(0, 1), sign=sign, arithmetic=True)
        issue = np.add if sign > 0 else np.subtract
        return self(issue.__name__, (a, b), shape, kind, issue)

    def mul(self, a, b):
        shape = np.broadcast_shapes(a.shape, b.shape)
        return self(
            "multiply", (a, b), shape, Pointwise(factors=(0, 1), arithmetic=True), np.multiply
        )

    def div(self, a, b):
        shape = np.broadcast_shapes(a.shape, b.shape)
        return self("divide", (a, b), shape, Pointwise(linear=(0,), arithmetic=True), np.divide)

    def sin(self, a):
        return self("sin", (a,), a.shape, Pointwise(), np.sin)

    def sum(self, a, *axes, keepdims=False):
        shape = np.zeros(a.shape).sum(axes, keepdims=keepdims).shape
        kind = Summed(axes, keepdims)
        return self("sum", (a,), shape, kind, lambda x: x.sum(axes, keepdims=keepdims))

    def einsum(self, formula, a, b):
        left, right, out = formula.replace("->", ",").split(",")
        lengths = dict(zip(left + right, a.shape + b.shape, strict=True))
        kind = Contracted(tuple(left), tuple(right), tuple(out))
        shape = [lengths[x] for x in out]
        return self("contract", (a, b), shape, kind, lambda x, y: np.einsum(formula, x, y))

    def matmul(self, a, b):
        return self.einsum("ik,kj->ij", a, b)

    def transpose(self, a, *order):
        shape = [a.shape[k] for k in order]
        return self("transpose", (a,), shape, Permuted(order), lambda x: x.transpose(order))

    def reshape(self, a, *shape):
        return self("reshape", (a,), shape, Reshaped(), lambda x: x.reshape(shape))

    def broadcast(self, a, *shape):
        kind = Broadcast(tuple(range(len(shape) - len(a.shape), len(shape))))
        return self("broadcast", (a,), shape, kind, lambda x: np.broadcast_to(x, shape))

    def identity(self, n):
        return self("eye", (), (n, n), Identity(0, 1), lambda: np.eye(n))

    def diagonal(self, a, first, second):
        shape = np.zeros(a.shape).diagonal(0, first, second).shape
        kind = Diagonal(first, second)
        return self("diagonal", (a,), shape, kind, lambda x: x.diagonal(0, first, second))

    def cumsum(self, a, axis):
        kind = alongside([axis], [0], len(a.shape))
        return self("cumsum", (a,), a.shape, kind, lambda x: x.cumsum(axis))

    # ---- results

    def array(self, leaf):
        """That of a leaf."""
        return leaf.issue((), leaf.shape)

    def returning(self, *outputs):
        """The program that returns these."""
        return Program(tuple(self.nodes), outputs)

    def values(self, *outputs):
        """The outputs, node by node as they were made."""
        known = {}
        for node in self.nodes:
            operands = [known[x.number] for x in node.inputs]
            known[node.number] = node.issue(operands, node.shape)
        return [known[x.number] for x in outputs]

    def results(self, *outputs):
        """The outputs and the plan; however they are found, they are the same."""
        program, expected = self.returning(*outputs), self.values(*outputs)
        found = plan(program)
        assert found.after <= found.before
        choices = [Choice(), Choice(factored=True), Choice(transposed=0)]
        made = [Engine(Numpy(), choice).run(program) for choice in choices]
        if found.choice is not None:
            made.append(found.run(Numpy(), program))
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
