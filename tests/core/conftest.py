"""Shared by the tests of core/: the array vocabulary in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from jetfold.core.jet import weighted_sum


class Vocabulary:
    """`core.arrays.Arrays` in NumPy, as far as the arithmetic of jets asks for it."""

    COMPILED = False
    weighted_sum = staticmethod(weighted_sum)
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

    def multiply(self, left, right):
        return left * right

    def multiply_add(self, total, left, right, factor=1.0):
        return total + factor * left * right

    def sum(self, x, axes):
        return x.sum(tuple(axes))

    def einsum(self, spec, *operands):
        return np.einsum(spec, *operands)

    def asarray(self, x, like):
        return np.asarray(x, like.dtype)

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
