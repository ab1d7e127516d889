"""folx's signature: value, Jacobian and Laplacian, in JAX and in PyTorch."""

from __future__ import annotations

import sys
from functools import partial

import numpy as np
import pytest

from jetfold.folx import ForwardLaplacianOperator, FwdLaplArray, forward_laplacian


def as_numpy(found):
    return [np.asarray(a) for a in (found.x, found.jacobian.dense_array, found.laplacian)]


@pytest.fixture
def jax():
    """In double precision, which is put back."""
    jax = pytest.importorskip("jax")
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield jax
    jax.config.update("jax_enable_x64", before)


@pytest.fixture
def wave(jax, rng):
    """Two arguments, one of them a dict, and two results."""
    weight = jax.numpy.asarray(rng.normal(size=(6, 5)))

    def f(p, q, scale=1.0):
        h = jax.numpy.tanh(p.reshape(-1) @ weight[:4] + scale * q["a"] @ weight[4:])
        return {"sum": (h**2).sum(), "field": h[:, None] * p[0]}

    return (
        f,
        jax.numpy.asarray(rng.normal(size=(2, 2))),
        {"a": jax.numpy.asarray(rng.normal(size=2))},
    )


@pytest.mark.parametrize("weights", [1.0, 3.0, (2.0, 0.5)])
def test_the_same_as_folx(weights, wave):
    folx = pytest.importorskip("folx")
    f, *x = wave
    found = forward_laplacian(f, sparsity_threshold=6)(*x, weights=weights, scale=0.7)
    scaled = folx.forward_laplacian(partial(f, scale=0.7))  # of keywords it makes a mistake
    expected = scaled(*x, weights=weights)
    assert found.keys() == expected.keys()
    for name in expected:
        a, b = found[name], expected[name]
        assert (a.shape, a.ndim, a.dtype) == (b.shape, b.ndim, b.dtype)
        np.testing.assert_array_equal(a.dense_jacobian, a.jacobian.dense_array)
        for ours, theirs in zip(as_numpy(a), as_numpy(b), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_it_maps_and_differentiates(wave, jax):
    f, p, q = wave
    forward = forward_laplacian(lambda p: f(p, q)["sum"])
    points = jax.numpy.stack([p, 2 * p, -p])
    found = jax.vmap(forward)(points)
    assert isinstance(found, FwdLaplArray) and found.dense_jacobian.shape == (3, 4)

    def laplacian(p):
        h = jax.hessian(lambda x: f(x.reshape(2, 2), q)["sum"])(p.reshape(-1))
        return jax.numpy.trace(h)

    np.testing.assert_allclose(found.laplacian, jax.jit(jax.vmap(laplacian))(points), rtol=1e-12)
    slope = jax.grad(lambda p: forward(p).laplacian)(p)
    np.testing.assert_allclose(slope, jax.jit(jax.grad(laplacian))(p), rtol=1e-11)
    eager = forward_laplacian(lambda p: (p**3).sum(), disable_jit=True)(p)
    np.testing.assert_allclose(eager.laplacian, 6 * p.sum())


def test_in_torch(rng):
    torch = pytest.importorskip("torch")
    x, w = torch.tensor(rng.normal(size=(3, 2))), torch.tensor(rng.normal(size=(2, 3)))

    def f(x, w):
        return {"y": torch.sin(x @ w), "n": (x**3).sum()}

    found = forward_laplacian(f)(x, w, weights=(1.0, 2.0))
    z = x @ w  # ∂ sin z_ij is cos z_ij w_kj by x_ik, 2 cos z_ij x_ik by w_kj with its weight
    slopes = torch.zeros(12, 3, 3, dtype=x.dtype)
    for i, j, k in np.ndindex(3, 3, 2):
        slopes[2 * i + k, i, j] = z[i, j].cos() * w[k, j]
        slopes[6 + 3 * k + j, i, j] = 2 * z[i, j].cos() * x[i, k]
    squares = (w**2).sum(0) + 4 * (x**2).sum(1, keepdim=True)
    torch.testing.assert_close(found["y"].jacobian.data, slopes)
    torch.testing.assert_close(found["y"].laplacian, -z.sin() * squares)
    assert found["n"].laplacian == pytest.approx(float(6 * x.sum()))
    lap, slope = ForwardLaplacianOperator(0.6)(lambda x: (x**3).sum())(x)
    torch.testing.assert_close((lap, slope), (6 * x.sum(), 3 * x.reshape(-1) ** 2))


def test_a_weight_for_every_coordinate(jax, rng):
    """1/√m for particles of different masses, as in the kinetic energy of `docs/tools.md`."""
    jnp = jax.numpy
    x, mass = jnp.asarray(rng.normal(size=6)), jnp.asarray(rng.uniform(1, 3, size=6))

    def log_psi(x):
        return jnp.sin(x @ x[::-1]) + 1j * (x**3).sum()

    found = forward_laplacian(log_psi)(x, weights=jax.lax.rsqrt(mass))
    kinetic = -0.5 * (found.laplacian + (found.dense_jacobian**2).sum(0))
    diagonal = sum(
        jnp.diag(jax.hessian(part)(x)) * unit
        for part, unit in ((lambda x: log_psi(x).real, 1), (lambda x: log_psi(x).imag, 1j))
    )
    slope = jax.jacfwd(log_psi)(x)
    np.testing.assert_allclose(kinetic, -0.5 * ((diagonal + slope**2) / mass).sum(), rtol=1e-12)


def test_mistakes(rng):
    torch = pytest.importorskip("torch")
    with pytest.raises(
        TypeError, match=r"takes a function, got Tensor: write forward_laplacian\(f"
    ):
        forward_laplacian(torch.ones(2))
    with pytest.raises(TypeError, match="by its positional arguments: none"):
        forward_laplacian(lambda x=1: x)()
    with pytest.raises(ValueError, match="one for each of the 1 arrays; got 2"):
        forward_laplacian(lambda x: x.sum())(torch.ones(2), weights=(1.0, 2.0))
    with pytest.raises(ValueError, match=r"array \(2,\) like the argument.*; got \(3,\)"):
        forward_laplacian(lambda x: x.sum())(torch.ones(2), weights=torch.ones(3))
    with pytest.raises(TypeError, match="floating-point"):
        forward_laplacian(lambda x: x.sum())(torch.ones(2, dtype=torch.int64))


@pytest.mark.parametrize(("name", "package"), [("deepxde", "deepxde"), ("pina", "pina-mathlab")])
def test_packages_that_are_absent(name, package, monkeypatch):
    """The error says what to install, and jetfold itself needs none of them."""
    for module in [m for m in sys.modules if m.startswith(("jetfold." + name, name + "."))]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)  # as if it were not there
    with pytest.raises(ModuleNotFoundError, match=f"pip install {package}"):
        __import__("jetfold." + name)
