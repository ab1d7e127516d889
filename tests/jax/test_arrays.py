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
