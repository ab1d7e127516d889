"""The network: its shape, and that every dtype and framework sees the same function."""

from __future__ import annotations

import numpy as np
import torch

from jetfold.bench.backends import backend
from jetfold.bench.networks import mlp, widths


def test_shape_of_the_papers_network():
    assert widths(50) == (50, 768, 768, 512, 512, 1)
    assert widths(3, 0.001) == (3, 1, 1, 1, 1, 1)
    assert [matrix.shape for matrix, _ in mlp(5, 0.25)] == [
        (192, 5),
        (192, 192),
        (128, 192),
        (128, 128),
        (1, 128),
    ]


def test_seed():
    first, again, other = mlp(3, 0.1, seed=1), mlp(3, 0.1, seed=1), mlp(3, 0.1, seed=2)
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0][0], other[0][0])


def test_torch_evaluates_the_layers():
    layers = mlp(3, 0.02)
    points = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    expected = points.astype(np.float64)
    for matrix, bias in layers[:-1]:
        expected = np.tanh(expected @ matrix.T.astype(np.float64) + bias)
    expected = expected @ layers[-1][0].T.astype(np.float64) + layers[-1][1]
    b = backend("torch", "cpu", "float32", None)
    exact = b.numpy(b.network(layers, "float64")(b.array(points, "float64")))
    np.testing.assert_allclose(exact, expected, rtol=1e-13)
    assert b.network(layers)(b.array(points)).dtype == torch.float32
