"""Two frameworks behind one face; each is imported when one of its arrays arrives."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import jetfold as jf


def test_importing_jetfold_imports_no_framework():
    code = "import sys, jetfold; assert not {'torch', 'jax', 'folx'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_operator_serves_both(rng):
    torch, jnp = pytest.importorskip("torch"), pytest.importorskip("jax.numpy")
    t, x, y = jf.partials(3)
    heat = t - 0.1 * (x**2 + y**2)
    point = rng.normal(size=3).astype(np.float32)
    of_torch = heat(lambda p: torch.sin(p[1] * p[2]) * p[0] ** 2)(torch.as_tensor(point))
    of_jax = heat(lambda p: jnp.sin(p[1] * p[2]) * p[0] ** 2)(jnp.asarray(point))
    np.testing.assert_allclose(of_torch, of_jax, rtol=1e-5)


def test_numpy_points_go_to_jax(rng):
    jnp = pytest.importorskip("jax.numpy")
    point = rng.normal(size=3).astype(np.float32)
    found = jf.laplacian(lambda p: jnp.sin(p).sum())(point)
    np.testing.assert_allclose(found, -np.sin(point).sum(), rtol=1e-5)
