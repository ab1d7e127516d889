"""Gradient, divergence, curl, Jacobian and Hessian, and how operators combine, in JAX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jetfold as jf
from jetfold.core import plans

METHODS = ["minimal", "collapsed", "standard", "nested"]
methods = pytest.mark.parametrize("method", METHODS)
N = 4


def close(found, expected, tolerance=1e-10):
    def one(a, b):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)

    jax.tree.map(one, found, expected)


@pytest.fixture
def x(rng):
    return jnp.asarray(rng.normal(size=N))


@pytest.fixture
def net(rng):
    """A network from N coordinates to one number per point."""
    a, b = jnp.asarray(rng.normal(size=(N, 7))), jnp.asarray(rng.normal(size=(7, 1)))
    return lambda p: jnp.tanh(p @ a) @ b


@pytest.fixture
def field(rng):
    a = jnp.asarray(rng.normal(size=(8, 8)))
    return lambda p: jnp.sin(p @ a[: p.shape[-1], : p.shape[-1]]) * jnp.exp(p[..., :1])


def scalar(p):
    return jnp.sin(p[0] * p[1]) * p[-1] ** 3 + jnp.tanh(p).prod()


def carried(operator, n):
    return plans.plan(operator.symbols, operator.variables(n), "minimal").algebra.vectors


def test_vectors():
    for n in (1, 3, 6):
        full = 1 + n + n * (n + 1) // 2
        assert carried(jf.gradient, n) == carried(jf.divergence, n) == n + 1
        assert carried(jf.hessian, n) == full
        assert carried(jf.derivatives([jf.hessian, jf.gradient, jf.laplacian]), n) == full


@methods
def test_against_jax(method, x, field, net):
    points = jnp.stack([x, -x, 2 * x])
    one = lambda p: net(p)[0]
    close(jf.gradient(scalar, method=method)(x), jax.grad(scalar)(x))
    close(
        jax.jit(jf.gradient(net, batch_dims=1, method=method))(points),
        jax.vmap(jax.grad(one))(points),
    )
    close(jf.hessian(scalar, method=method)(x), jax.hessian(scalar)(x))
    close(jax.vmap(jf.hessian(net, method=method))(points), jax.vmap(jax.hessian(net))(points))
    close(jf.jacobian(field, method=method)(x), jax.jacfwd(field)(x))
    traces = jnp.trace(jax.vmap(jax.jacfwd(field))(points), axis1=1, axis2=2)
    close(jf.divergence(field, batch_dims=1, method=method)(points), traces)
    d = jax.jacfwd(field)(x[:3])
    curl = jnp.stack([d[2, 1] - d[1, 2], d[0, 2] - d[2, 0], d[1, 0] - d[0, 1]])
    close(jf.curl(field, method=method)(x[:3]), curl)
    two = lambda a, b: (a**2).sum() * jnp.sin(b) + (a.sum() * b) ** 2
    for ours, theirs in ((jf.gradient, jax.grad), (jf.hessian, jax.hessian)):
        found = ours(two, argnums=(0, 1), method=method)(x[:2], x[2])
        close(found, theirs(two, argnums=(0, 1))(x[:2], x[2]))
    of_tree = lambda p: {"a": p @ p, "b": p.sum()}
    close(
        jf.jacobian(of_tree, method=method)(x.reshape(2, 2)), jax.jacfwd(of_tree)(x.reshape(2, 2))
    )


@methods
def test_together(method, x, net):
    t = jf.partials(N)
    sigma = lambda p: jnp.stack([jnp.sin(p), p**2], -1)
    tree = {
        "u": jf.value,
        "all": [jf.gradient, (jf.hessian, jf.laplacian)],
        "heat": t[0] - 0.1 * (t[1] ** 2 + t[2] ** 2),
        "weighted": jf.weighted_laplacian(sigma=sigma),
        "sum": jf.laplacian - 3 * jf.biharmonic,
    }
    points = jnp.stack([x, -x, 2 * x])
    found = jax.jit(jf.derivatives(tree)(net, batch_dims=1, method=method))(points)
    hessian = jax.vmap(jax.hessian(net))(points)
    laplacian = jnp.trace(hessian, axis1=-2, axis2=-1)
    close(found["u"], net(points))
    close(found["all"][0], jax.vmap(jax.jacfwd(net))(points)[:, 0])
    close(found["all"][1], (hessian, laplacian))
    close(found["heat"], tree["heat"](net, batch_dims=1)(points))
    s = sigma(points)
    close(found["weighted"], jnp.einsum("pir,pjr,poij->po", s, s, hessian))
    fourth = jf.laplacian(jf.laplacian(net, batch_dims=1), batch_dims=1)(points)
    close(found["sum"], laplacian - 3 * fourth, 1e-8)


def test_composes(x, net):
    points = jnp.stack([x, -x, 2 * x])
    operator = jf.derivatives({"g": jf.gradient, "h": jf.hessian, "l": jf.laplacian})
    expected = operator(net, batch_dims=1)(points)
    close(operator(net, batch_dims=1, chunk_size=2)(points), expected)
    close(jax.jacfwd(jf.hessian(scalar))(x), jax.jacfwd(jax.hessian(scalar))(x))
    close(
        jax.grad(lambda p: jf.hessian(scalar)(p).sum())(x),
        jax.jacrev(jax.hessian(scalar))(x).sum((0, 1)),
    )
    close(jf.laplacian(jf.hessian(scalar))(x), jf.hessian(jf.laplacian(scalar))(x), 1e-8)
    estimate = jf.derivatives(
        [jf.value, jf.randomize(jf.biharmonic, 1), jf.randomize(jf.laplacian, 1)]
    )
    found = jax.jit(estimate(net, batch_dims=1))(points, rng=jax.random.key(0))
    close(found[0], net(points))
    alone = jf.randomize(jf.biharmonic, 1)(net, batch_dims=1)
    keys = jax.random.split(jax.random.key(0), 2)
    assert any(np.allclose(found[1], alone(points, rng=key)) for key in keys)


def test_what_is_refused(x, field):
    with pytest.raises(
        ValueError, match=r"one number per point, got .* \(4,\); use jetfold.jacobian"
    ):
        jf.gradient(field)(x)
    with pytest.raises(ValueError, match=r"as many outputs per point as coordinates \(4\)"):
        jf.divergence(scalar)(x)
    with pytest.raises(ValueError, match="curl takes a field in 2 or 3 coordinates, got 4"):
        jf.curl(field)(x)
