"""Values at many points, a few at a time: exact, in little memory, and only where nothing is lost."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp
from jax import export, lax

import jetfold as jf
from jetfold.jax import pieces

N = 3
close = np.testing.assert_allclose


@pytest.fixture(autouse=True)
def _small_caches(monkeypatch):
    """Of a machine on which the batches of these tests are large."""
    monkeypatch.setattr(pieces, "CACHE", 2**10)
    monkeypatch.setattr(pieces, "_cores", lambda: 1)


@pytest.fixture
def weights(rng):
    return [jnp.asarray(rng.normal(size=shape)) / 2 for shape in ((N, 6), (6, 5), (5, 1))]


@pytest.fixture
def points(rng):
    return jnp.asarray(rng.normal(size=(101, N)))


def network(weights, x):
    for w in weights[:-1]:
        x = jnp.tanh(x @ w)
    return (x @ weights[-1])[..., 0]


def of(weights):
    return lambda x: network(weights, x)


def nested(f, points):
    """The Laplacian of a function of one point, at every point."""
    return jax.jit(jax.vmap(lambda x: jnp.trace(jax.hessian(f)(x))))(points)


def loops(function, *args):
    """Whether the program for a CPU has a loop."""
    return "stablehlo.while" in jax.jit(function).lower(*args).as_text()


# ------------------------------------------------------------------ exact


@pytest.mark.parametrize("size", [101, 96, 1000])
def test_a_few_points_at_a_time(size, weights, rng):
    """Batches that a piece divides, and others."""
    points, u = jnp.asarray(rng.normal(size=(size, N))), of(weights)
    for operator in (jax.vmap(jf.laplacian(u)), jf.laplacian(u, batch_dims=1)):
        assert loops(operator, points)
        close(jax.jit(operator)(points), nested(u, points), rtol=1e-12, atol=1e-13)


def test_of_mapped_axes(weights, points):
    """vmap of vmap, of another axis, of batch_dims, over weights, over what f closes over."""
    u = of(weights)
    expected = nested(u, points)
    several = jnp.stack([points, points[::-1], 2 * points])
    of_several = jnp.stack([nested(u, x) for x in several])
    stacked = [jnp.stack([w, w[::-1]]) for w in weights]
    of_weights = [nested(of([w[k] for w in stacked]), points) for k in range(2)]
    ensemble = jf.laplacian(network, argnums=1)
    cases = {
        "twice": (jax.vmap(jax.vmap(jf.laplacian(u))), (several,), of_several),
        "batch_dims=2": (jf.laplacian(u, batch_dims=2), (several,), of_several),
        "of batch_dims": (jax.vmap(jf.laplacian(u, batch_dims=1)), (several,), of_several),
        "another axis": (jax.vmap(jf.laplacian(u), 1, 0), (points.T,), expected),
        "weights": (
            jax.vmap(jax.vmap(ensemble, (None, 0)), (0, None)), (stacked, points), of_weights
        ),
        "closed over": (
            jax.vmap(lambda x: jf.laplacian(lambda y: u(y) * x[0])(x)), (points,),
            expected * points[:, 0],
        ),
    }  # fmt: skip
    for name, (operator, args, wanted) in cases.items():
        assert loops(operator, *args), name
        close(jax.jit(operator)(*args), wanted, rtol=1e-11, atol=1e-12, err_msg=name)


def test_several_results(weights, points):
    """A pytree with an integer and complex numbers, and several operators."""
    u = of(weights)

    def f(x):
        return {"u": u(x), "others": (jnp.int32(7), 1j * u(x) * x)}

    operator = jf.derivatives({"value": jf.value, "grad": jf.jacobian, "heat": jf.laplacian})
    assert loops(jax.vmap(operator(f)), points)
    found = jax.jit(jax.vmap(operator(f)))(points)
    gradient = jax.vmap(jax.grad(u))(points)
    close(found["value"]["u"], u(points))
    close(found["value"]["others"][0], np.full(101, 7))
    close(found["grad"]["u"], gradient)
    close(found["heat"]["u"], nested(u, points), rtol=1e-11, atol=1e-12)
    expected = nested(u, points)[:, None] * points + 2 * gradient
    close(found["heat"]["others"][1], 1j * expected, rtol=1e-11, atol=1e-12)
    heat = jax.jit(jax.vmap(jf.laplacian(f)))
    gradient = jax.jit(jax.grad(lambda x: (heat(x)["u"] ** 2).sum()))(points)
    plain = jax.grad(lambda x: (nested(u, x) ** 2).sum())(points)
    close(gradient, plain, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("cache", [2**10, 2**6])
def test_random_directions(cache, weights, points, monkeypatch):
    """The same ones as of all points at once: for each of its own, or for all; point by point."""
    monkeypatch.setattr(pieces, "CACHE", cache)
    keys = jax.random.split(jax.random.key(3), len(points))
    estimate = jf.randomize(jf.laplacian, 2)(of(weights))
    one = jf.randomize(jf.laplacian, 1, per_point=True)(of(weights), batch_dims=1)
    for function in (
        lambda x: jax.vmap(lambda x, key: estimate(x, rng=key))(x, keys),
        lambda x: one(x, rng=keys[0]),
    ):
        assert loops(function, points)
        close(jax.jit(function)(points), function(points), rtol=1e-12)


# ------------------------------------------------------------------ transformed


@pytest.mark.parametrize("options", [{}, {"batch_dims": 1}])
@pytest.mark.parametrize("compiled", [False, True])
def test_gradients_are_those_of_the_whole(options, compiled, weights, points):
    """By the parameters: no loop, which would keep what every turn needs, and no more memory."""

    def laplacian(weights, points):
        operator = jf.laplacian(network, argnums=1, **options)
        return (operator if options else jax.vmap(operator, (None, 0)))(weights, points)

    inner = jax.jit(laplacian) if compiled else laplacian
    step = jax.grad(lambda w, x: jnp.mean(inner(w, x) ** 2))
    with pieces.at_once():
        whole = jax.jit(lambda w, x: step(w, x)).lower(weights, points).compile()
    jax.clear_caches()
    assert loops(laplacian, weights, points)
    lowered = jax.jit(step).lower(weights, points)
    assert "stablehlo.while" not in lowered.as_text()
    found = lowered.compile()
    assert found.memory_analysis().temp_size_in_bytes <= whole.memory_analysis().temp_size_in_bytes
    expected = jax.grad(lambda w: jnp.mean(nested(of(w), points) ** 2))(weights)
    for a, b, c in zip(found(weights, points), expected, whole(weights, points), strict=True):
        close(a, b, rtol=1e-10, atol=1e-13)
        close(a, c, rtol=1e-12, atol=1e-14)


def test_derivatives_of_values(weights, points, rng):
    """Forward mode of a program that was mapped, and forward over reverse."""
    u, t = of(weights), jnp.asarray(rng.normal(size=points.shape))
    expected = jax.jvp(lambda x: nested(u, x), (points,), (t,))[1]
    mapped = jax.jit(jax.vmap(jf.laplacian(u)))
    close(jax.jvp(mapped, (points,), (t,))[1], expected, rtol=1e-10, atol=1e-12)
    curved = jax.jvp(jax.grad(lambda x: (mapped(x) ** 2).sum()), (points[:9],), (t[:9],))[1]
    plain = jax.grad(lambda x: (nested(u, x) ** 2).sum())
    close(curved, jax.jvp(plain, (points[:9],), (t[:9],))[1], rtol=1e-9, atol=1e-11)


def test_operators_and_the_pass_see_through_it(weights, points):
    u, x = of(weights), points[0]

    def mean(y):
        return jnp.mean(jax.jit(jax.vmap(lambda z: jf.laplacian(u)(z + y)))(points))

    found = jax.jit(jf.laplacian(mean))(x)
    both = jnp.mean(nested(lambda z: jnp.trace(jax.hessian(u)(z)), points + x))
    close(found, both, rtol=1e-10)
    close(jax.jit(jf.collapse(mean))(x), jnp.mean(nested(u, points + x)), rtol=1e-12)


# ------------------------------------------------------------------ where it is left alone


def test_whole_batches(weights, points):
    """What may depend on the others, happens beside, or would be computed in every turn."""
    u = of(weights)
    expected = nested(u, points)
    seen = []

    def printing(x):
        jax.debug.callback(lambda: seen.append(1))
        return u(x)

    def spectral(x):
        v = lax.fori_loop(0, 9, lambda k, v: weights[1] @ (weights[1].T @ v), jnp.ones(6))
        return u(x) + 0 * v[0]

    @jax.custom_batching.custom_vmap
    def all_at_once(x):
        return x

    @all_at_once.def_vmap
    def _(size, mapped, x):
        assert size == len(points)
        return x, True

    def noise(x):
        return u(x) + jax.random.normal(jax.random.key(0, impl="rbg"))

    names = {
        "collective": lambda x: u(x) + lax.stop_gradient(lax.pmean(u(x), "points")),
        "index": lambda x: u(x) * (1 + 0 * lax.axis_index("points")),
        "printing": printing,
        "rule": lambda x: u(all_at_once(x)),
        "noise": noise,
    }
    for name, f in names.items():
        operator = jax.vmap(jf.laplacian(f), axis_name="points")
        assert not loops(operator, points), name
        close(jax.jit(operator)(points), expected, rtol=1e-11, atol=1e-12, err_msg=name)
    assert seen
    loop = jax.jit(jax.vmap(jf.laplacian(spectral)))
    assert loop.lower(points).as_text().count("stablehlo.while") == 1  # its own
    close(loop(points), expected, rtol=1e-11, atol=1e-12)


def test_small_batches_eager_calls_and_other_devices(weights, points):
    u = of(weights)
    mapped, batched = jax.vmap(jf.laplacian(u)), jf.laplacian(u, batch_dims=1)
    for operator in (mapped, batched):
        assert "pieces" not in str(jax.make_jaxpr(operator)(points[:9]))
        assert "pieces" in str(jax.make_jaxpr(operator)(points))
        traced = jax.jit(lambda x, f=operator: f(x)).trace(points)
        for platform, found in (("cpu", True), ("cuda", False), ("tpu", False)):
            text = traced.lower(lowering_platforms=(platform,)).as_text()
            assert ("stablehlo.while" in text) == found
        with pieces.at_once():
            assert not loops(lambda x, f=operator: f(x), points)
        close(operator(points), nested(u, points), rtol=1e-12, atol=1e-13)


def test_a_batch_of_any_length(weights, points):
    """Of unknown length it is whole; a program for several platforms has the loop for one."""
    u = of(weights)
    expected = nested(u, points)
    (size,) = export.symbolic_shape("b")
    for operator in (jax.vmap(jf.laplacian(u)), jf.laplacian(u, batch_dims=1)):
        program = jax.jit(lambda x, f=operator: f(x))
        any_length = jax.ShapeDtypeStruct((size, N), points.dtype)
        close(export.export(program)(any_length).call(points), expected, rtol=1e-11, atol=1e-12)
        of_two = export.export(program, platforms=["cpu", "cuda"])(points)
        assert "stablehlo.while" in of_two.mlir_module()
        close(of_two.call(points), expected, rtol=1e-11, atol=1e-12)


def test_several_devices():
    """Points on several devices stay there."""
    program = """
        import jax, jax.numpy as jnp, numpy as np, jetfold as jf
        from jax.sharding import NamedSharding, PartitionSpec as P
        from jetfold.jax import pieces
        pieces.CACHE = 2**8
        mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
        w = jnp.linspace(-1, 1, 12).reshape(3, 4)
        u = lambda x: jnp.tanh(x @ w).sum(-1)
        xs = jnp.linspace(-1, 1, 600).reshape(200, 3)
        placed = jax.device_put(xs, NamedSharding(mesh, P("d")))
        mapped = jax.vmap(jf.laplacian(u))
        expected = jax.jit(mapped)(xs)
        assert "stablehlo.while" in jax.jit(mapped).lower(xs).as_text()
        inside = jax.shard_map(mapped, mesh=mesh, in_specs=P("d"), out_specs=P("d"))
        named = jax.vmap(jf.laplacian(u), spmd_axis_name="d")
        for f in (mapped, jf.laplacian(u, batch_dims=1), inside, named):
            lowered = jax.jit(lambda x: f(x)).lower(placed)
            assert "stablehlo.while" not in lowered.as_text()
            found = lowered.compile()(placed)
            assert found.sharding.is_equivalent_to(NamedSharding(mesh, P("d")), 1)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    """
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


# ------------------------------------------------------------------ what it is for


@pytest.mark.parametrize("options", [{}, {"batch_dims": 1}])
def test_the_memory_of_a_few_points(options, rng, monkeypatch):
    """The Laplacian of the paper's network in 50 dimensions, at 128 points, on two cores."""
    monkeypatch.setattr(pieces, "CACHE", 2**19)
    monkeypatch.setattr(pieces, "_cores", lambda: 2)
    widths = (50, 768, 768, 512, 512, 1)
    shapes = list(itertools.pairwise(widths))
    layers = [jnp.asarray(rng.normal(size=s) / np.sqrt(s[0]), jnp.float32) for s in shapes]
    points = jnp.asarray(rng.normal(size=(128, 50)), jnp.float32)
    operator = jf.laplacian(network, argnums=1, **options)
    operator = operator if options else jax.vmap(operator, (None, 0))
    found = jax.jit(operator).lower(layers, points).compile()
    with pieces.at_once():
        whole = jax.jit(lambda *x: operator(*x)).lower(layers, points).compile()
    memory = found.memory_analysis().temp_size_in_bytes
    assert memory < 2.8e6
    assert memory < whole.memory_analysis().temp_size_in_bytes / 16
    close(found(layers, points), whole(layers, points), rtol=1e-3, atol=1e-6)
