"""The array vocabulary in JAX, where it does more than to pass on what JAX has."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp

import jetfold as jf
from jetfold.jax import arrays


def test_many_columns_are_solved_for_by_an_inverse(rng):
    """As they are one by one, on either side of either triangle, with other entries never read."""
    a = jnp.asarray(rng.normal(size=(2, 3, 5, 5)) + 4 * np.eye(5))
    b = jnp.asarray(rng.normal(size=(60, 2, 3, 5, 5)))
    for upper, left, unit in itertools.product((False, True), repeat=3):
        solve = lambda a, b, u=upper, s=left, o=unit: arrays.solve_triangular(
            a, b, upper=u, left=s, unitriangular=o
        )
        solves = str(jax.make_jaxpr(solve)(a, b)).count("f64[60,2,3,5,5] = triangular_solve[")
        assert not solves
        matrix = np.triu(a) if upper else np.tril(a)
        if unit:
            matrix = matrix - matrix * np.eye(5) + np.eye(5)
        x = np.asarray(solve(a, b))
        np.testing.assert_allclose(matrix @ x if left else x @ matrix, b, atol=1e-12)


def test_the_laplacian_of_a_factorisation_in_many_coordinates(rng):
    basis = jnp.asarray(rng.normal(size=(4, 4, 70)))
    matrix = lambda x: jnp.sin(basis @ x)
    f = lambda x: jnp.linalg.cholesky(matrix(x) @ matrix(x).T + jnp.eye(4))
    x = jnp.asarray(rng.normal(size=70)) / 8
    expected = jf.laplacian(f, method="nested")(x)
    np.testing.assert_allclose(jf.laplacian(f)(x), expected, rtol=1e-9, atol=1e-9)


DTYPES = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_and_sums_that_promote_nothing_are_those_of_numpy(rng, dtype):
    """Of which the promotion is what JAX's operators have."""
    a, b, c = (jnp.asarray(rng.normal(size=(3, 4)), dtype) for _ in range(3))
    found = arrays.weighted_sum([arrays.multiply(a, b), c, b], [0.3, 1, -2])
    assert found.dtype == a.dtype
    expected = 0.3 * np.asarray(a * b) + np.asarray(c) - 2 * np.asarray(b)
    rounding = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(found, expected, rtol=8 * rounding, atol=8 * rounding)
    program = str(jax.make_jaxpr(lambda a, b: arrays.weighted_sum([a, b], [1, 0.5]))(a, b))
    assert program == str(jax.make_jaxpr(lambda a, b: a + b * 0.5)(a, b))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (np.ones(3, "float32"), np.full(3, 2.0, "float64")),
        (np.ones((3, 1), "float32"), np.full(2, 3.0, "float32")),
        (np.arange(3), np.arange(3)),
        (np.arange(3) > 1, np.arange(3) > 0),
        (np.ones(3, "float16"), 2.0),
        (np.ones(3, "float32"), np.float64(2)),
    ],
)
def test_products_and_sums_that_promote(left, right):
    left, right = (jnp.asarray(x) if np.ndim(x) else x for x in (left, right))
    for found, expected in (
        (arrays.multiply(left, right), left * right),
        (arrays.weighted_sum([left, left * right], [0.5, 1]), left * 0.5 + left * right),
    ):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(found, expected)
