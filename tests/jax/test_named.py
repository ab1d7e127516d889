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


def run(f, *args, **kwargs):
    """f, compiled: one program instead of one for every operation."""
    return jax.jit(f)(*args, **kwargs)


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
    two = lambda a, b: (a**2).sum() * jnp.sin(b) + (a.sum() * b) ** 2
    of_tree = lambda p: {"a": p @ p, "b": p.sum()}
    m = {"method": method}

    def ours(x, points):
        return (
            jf.gradient(scalar, **m)(x),
            jf.hessian(scalar, **m)(x),
            jf.jacobian(field, **m)(x),
            jf.jacobian(of_tree, **m)(x.reshape(2, 2)),
            jf.curl(field, **m)(x[:3]),
            jf.gradient(net, batch_dims=1, **m)(points),
            jax.vmap(jf.hessian(net, **m))(points),
            jf.divergence(field, batch_dims=1, **m)(points),
            jf.gradient(two, argnums=(0, 1), **m)(x[:2], x[2]),
            jf.hessian(two, argnums=(0, 1), **m)(x[:2], x[2]),
        )

    def theirs(x, points):
        d = jax.jacfwd(field)(x[:3])
        return (
            jax.grad(scalar)(x),
            jax.hessian(scalar)(x),
            jax.jacfwd(field)(x),
            jax.jacfwd(of_tree)(x.reshape(2, 2)),
            jnp.stack([d[2, 1] - d[1, 2], d[0, 2] - d[2, 0], d[1, 0] - d[0, 1]]),
            jax.vmap(jax.grad(lambda p: net(p)[0]))(points),
            jax.vmap(jax.hessian(net))(points),
            jnp.trace(jax.vmap(jax.jacfwd(field))(points), axis1=1, axis2=2),
            jax.grad(two, argnums=(0, 1))(x[:2], x[2]),
            jax.hessian(two, argnums=(0, 1))(x[:2], x[2]),
        )

    close(run(ours, x, points), run(theirs, x, points))


def test_eagerly(x):
    close(jf.gradient(scalar)(x), run(jax.grad(scalar), x))
    close(jf.hessian(scalar)(x), run(jax.hessian(scalar), x))


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

    def expected(points):
        hessian = jax.vmap(jax.hessian(net))(points)
        laplacian = jnp.trace(hessian, axis1=-2, axis2=-1)
        gradient, s = jax.vmap(jax.jacfwd(net))(points)[:, 0], sigma(points)
        twice = jax.vmap(jax.hessian(lambda p: jnp.trace(jax.hessian(net)(p)[0])))(points)
        return {
            "u": net(points),
            "all": [gradient, (hessian, laplacian)],
            "heat": (gradient[:, 0] - 0.1 * (hessian[:, 0, 1, 1] + hessian[:, 0, 2, 2]))[:, None],
            "weighted": jnp.einsum("pir,pjr,poij->po", s, s, hessian),
            "sum": laplacian - 3 * jnp.trace(twice, axis1=-2, axis2=-1)[:, None],
        }

    found = run(jf.derivatives(tree)(net, batch_dims=1, method=method), points)
    close(found, run(expected, points), 1e-8)


def test_composes(x, net):
    points = jnp.stack([x, -x, 2 * x])
    operator = jf.derivatives({"g": jf.gradient, "h": jf.hessian, "l": jf.laplacian})
    expected = run(operator(net, batch_dims=1), points)
    close(run(operator(net, batch_dims=1, chunk_size=2), points), expected)
    close(run(jax.jacfwd(jf.hessian(scalar)), x), run(jax.jacfwd(jax.hessian(scalar)), x))
    close(
        run(jax.grad(lambda p: jf.hessian(scalar)(p).sum()), x),
        run(lambda x: jax.jacrev(jax.hessian(scalar))(x).sum((0, 1)), x),
    )
    close(run(jf.laplacian(jf.hessian(scalar)), x), run(jf.hessian(jf.laplacian(scalar)), x), 1e-8)
    estimate = jf.derivatives(
        [jf.value, jf.randomize(jf.biharmonic, 1), jf.randomize(jf.laplacian, 1)]
    )
    found = run(estimate(net, batch_dims=1), points, rng=jax.random.key(0))
    close(found[0], net(points))
    alone = jf.randomize(jf.biharmonic, 1)(net, batch_dims=1)
    keys = jax.random.split(jax.random.key(0), 2)
    assert any(np.allclose(found[1], run(alone, points, rng=key)) for key in keys)


def test_what_is_refused(x, field):
    with pytest.raises(
        ValueError, match=r"one number per point, got .* \(4,\); use jetfold.jacobian"
    ):
        jf.gradient(field)(x)
    with pytest.raises(ValueError, match=r"as many outputs per point as coordinates \(4\)"):
        jf.divergence(scalar)(x)
    with pytest.raises(ValueError, match="curl takes a field in 2 or 3 coordinates, got 4"):
        jf.curl(field)(x)
