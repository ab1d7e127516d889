"""Randomized and chunked operators in JAX."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jetfold as jf

N = 6
x = jf.partials(N)
laplacian = sum((v**2 for v in x), 0 * x[0])


@pytest.fixture
def function(rng):
    a = jnp.asarray(rng.normal(size=(N, 4)))
    return lambda p: jnp.sin(p @ a).sum(-1) * jnp.exp(-p[..., 0])


@pytest.fixture
def points(rng):
    return jnp.asarray(rng.normal(size=(3, N)))


def test_unbiased(estimated, function, points):
    """Within four standard errors of the exact operator, over 4,000 independent draws."""
    (operator, estimate), draws = estimated, 4000
    exact = jax.jit(operator(function))(points[0])
    evaluate = jax.jit(estimate(function, batch_dims=1, method="collapsed"))
    values = evaluate(jnp.tile(points[:1], (draws, 1)), rng=jax.random.key(5))
    assert values.std() > 0
    assert abs(values.mean() - exact) < 4 * values.std() / draws**0.5


@pytest.mark.parametrize("distribution", ["gaussian", "rademacher", "orthogonal", "coordinates"])
def test_one_key_one_number(distribution, function, points):
    """Whether jitted, mapped, in a loop or sharded; typed and raw keys."""
    randomized = jf.randomize(jf.laplacian, 2, distribution)
    estimate = randomized(function)
    key = jax.random.key(3)
    jitted = jax.jit(estimate)
    expected = np.stack([jitted(p, rng=key) for p in points])
    close = {"rtol": 1e-11, "atol": 1e-12}
    if distribution == "gaussian":  # eagerly
        np.testing.assert_allclose(estimate(points[0], rng=key), expected[0], **close)
    mapped = jax.jit(jax.vmap(lambda p: estimate(p, rng=key)))(points)
    np.testing.assert_allclose(mapped, expected, **close)
    batched = randomized(function, batch_dims=1)
    np.testing.assert_allclose(jax.jit(batched)(points, rng=key), expected, **close)
    np.testing.assert_allclose(
        jax.lax.map(lambda p: estimate(p, rng=key), points), expected, **close
    )
    mesh = Mesh(np.array(jax.devices()[:1]), ("data",))
    sharded = jax.device_put(points, NamedSharding(mesh, P("data")))
    np.testing.assert_allclose(jax.jit(batched)(sharded, rng=key), expected, **close)
    raw = jax.random.PRNGKey(3)
    np.testing.assert_allclose(jitted(points[0], rng=raw), expected[0], **close)
    other = jitted(points[0], rng=jax.random.key(4))
    assert abs(other - expected[0]) > 1e-9
    keys = jax.random.split(key, 3)
    independent = jax.jit(jax.vmap(lambda k: estimate(points[0], rng=k)))(keys)
    assert len(set(independent.tolist())) > 1


def test_gradients(points):
    weights = {"w": jnp.ones((N, 4)) / 3, "a": jnp.arange(4.0)}

    @jax.jit
    def loss(weights, key):
        f = lambda p: jnp.tanh(p @ weights["w"]) @ weights["a"]
        return (jf.randomize(jf.laplacian, 2)(f, batch_dims=1)(points, rng=key) ** 2).sum()

    key = jax.random.key(0)
    found = jax.jit(jax.grad(loss))(weights, key)
    step = 1e-6
    shifted = {**weights, "a": weights["a"].at[1].add(step)}
    difference = (loss(shifted, key) - loss(weights, key)) / step
    np.testing.assert_allclose(found["a"][1], difference, rtol=1e-4)


def test_exact_where_that_is_as_cheap(function, points):
    with pytest.warns(jf.JetfoldWarning, match="8 samples carry no fewer vectors"):
        found = jax.jit(jf.randomize(jf.laplacian, 8)(function, batch_dims=1))(points)
    np.testing.assert_allclose(found, jax.jit(jf.laplacian(function, batch_dims=1))(points))


def test_weighted_laplacians(function, points, rng):
    sigma = jnp.asarray(rng.normal(size=(N, 4)))
    same = jnp.tile(points[:1], (4000, 1))
    exact = jax.jit(jf.weighted_laplacian(function, sigma))(points[0])
    for given, factor in (
        ({"sigma": sigma}, 1),
        ({"sigma": lambda p: sigma * p[..., :1, None]}, points[0, 0] ** 2),
        ({"C": sigma @ sigma.T}, 1),
    ):
        estimate = jf.randomize(jf.weighted_laplacian(**given), 2, per_point=True)
        estimate = estimate(function, batch_dims=1)
        values = jax.jit(estimate)(same, rng=jax.random.key(1))
        assert abs(values.mean() - exact * factor) < 4 * values.std() / 4000**0.5


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_chunks(operator, size, function, points):
    whole = lambda p: (operator(function, batch_dims=1)(p), function(p))
    expected, value = jax.jit(whole)(points)
    found = jax.jit(operator(function, batch_dims=1, chunk_size=size))(points)
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-9)
    tree = jf.derivatives([operator, 1])(function, batch_dims=1, chunk_size=size)
    found = jax.jit(tree)(points)
    np.testing.assert_allclose(found[0], expected, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(found[1], value)


def test_chunks_are_differentiated(points, rng):
    """Gradients through the loop over chunks, which is recomputed."""
    a, sigma = jnp.asarray(rng.normal(size=(N, 4))), jnp.asarray(rng.normal(size=(N, 5)))

    def loss(a, **options):
        f = lambda p: jnp.sin(p @ a).sum(-1)
        total = jf.laplacian(f, batch_dims=1, **options)(points).sum()
        return total + jf.weighted_laplacian(f, sigma, batch_dims=1, **options)(points).sum()

    found = jax.jit(jax.grad(lambda a: loss(a, chunk_size=4)))(a)
    np.testing.assert_allclose(found, jax.jit(jax.grad(loss))(a), rtol=1e-9, atol=1e-10)


def test_errors(function, points):
    estimate = jf.randomize(jf.laplacian, 2)(function)
    with pytest.raises(TypeError, match=r"needs a JAX key: pass rng=jax.random.key\(0\)"):
        estimate(points[0])
    with pytest.raises(TypeError, match="rng must be one JAX key"):
        estimate(points[0], rng=3)
    with pytest.raises(TypeError, match="rng must be one JAX key"):
        estimate(points[0], rng=jax.random.split(jax.random.key(0), 3))


def test_explained(function, points):
    estimate = jf.randomize(laplacian, 2, "gaussian")
    found = jf.explain(estimate, function, points[0], rng=jax.random.key(2), draws=300)
    expected = (jax.jit(jax.hessian(function))(points[0]) ** 2).sum() ** 0.5
    np.testing.assert_allclose(found.deviation[0], expected, rtol=0.2)
