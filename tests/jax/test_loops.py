"""Loops in C for compositions: the numbers of XLA's own program and of nested differentiation, under
every transform, and only where they may be."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp
from jax import export

import jetfold as jf
from jetfold import shared_library
from jetfold.jax import loops

pytestmark = pytest.mark.skipif(shared_library.compiler() is None, reason="no C compiler here")

t, x = jf.partials(2)
THIRD = jf.derivatives([1, t, x**2, x**3])


@pytest.fixture(autouse=True)
def _for_all(monkeypatch, tmp_path_factory):
    """Small and light programs become loops too, compiled without optimisation."""
    folder = tmp_path_factory.getbasetemp()
    monkeypatch.setattr(loops, "WORTH", 0)
    monkeypatch.setattr(loops, "HEAVY", 0)
    monkeypatch.setattr(shared_library, "OPTIONS", ("-O1", "-fPIC", "-shared", "-w"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))


def weights(rng, widths, dtype="float64"):
    return [
        (
            jnp.asarray(rng.normal(size=(n, m)) / n**0.5, dtype),
            jnp.asarray(rng.normal(size=m) / 2, dtype),
        )
        for n, m in pairwise(widths)
    ]


def network(parameters, y, activation=jnp.tanh):
    *hidden, (matrix, bias) = parameters
    for w, b in hidden:
        y = activation(y @ w + b)
    return y @ matrix + bias


def loss(operator, parameters, points, activation=jnp.tanh, **how):
    values = operator(lambda y: network(parameters, y, activation), batch_dims=1, **how)(points)
    return sum(jnp.mean(jnp.sin(y)) for y in jax.tree.leaves(values))


def count(function, *args):
    """How many loops the program for a CPU has."""
    return jax.jit(function).lower(*args).as_text().count("@jetfold_")


def close(found, expected, tolerance=1e-10):
    check = partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance)
    jax.tree.map(check, found, expected)


def check(rng, operator, widths, points, activation=jnp.tanh, **how):
    """A step with loops against nested differentiation."""
    parameters = weights(rng, widths)
    at = jnp.asarray(rng.normal(size=(points, widths[0])))
    step = jax.grad(partial(loss, operator, activation=activation, **how), (0, 1))
    nested = jax.grad(partial(loss, operator, activation=activation, method="nested"), (0, 1))
    assert count(step, parameters, at)
    close(jax.jit(step)(parameters, at), jax.jit(nested)(parameters, at))


# ------------------------------------------------------------------ numbers

ACTIVATIONS = {
    "tanh": jnp.tanh,
    "sin": jnp.sin,
    "gelu": jax.nn.gelu,
    "power": lambda u: (1 + u**2) ** 0.3,
    "quotient": lambda u: u / (2 + jnp.cos(u)),
}

OPERATORS = {
    "laplacian": (jf.laplacian, 3, {}),
    "biharmonic": (jf.biharmonic, 2, {}),
    "chunked": (jf.laplacian, 4, {"chunk_size": 2}),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(rng, activation):
    check(rng, THIRD, (2, 4, 3, 1), 5, ACTIVATIONS[activation])


@pytest.mark.parametrize("name", OPERATORS)
def test_operators(rng, name):
    operator, dimension, how = OPERATORS[name]
    check(rng, operator, (dimension, 4, 3, 1), 5, **how)


@pytest.mark.parametrize(("points", "width"), [(1, 1), (1, 9), (3, 300), (2600, 5)])
def test_any_number_of_entries(rng, points, width):
    """One, several runs of a row that is repeated, a rest of vectors, several threads."""
    check(rng, x**3 + t, (2, width, 3, 1), points)


def test_no_points(rng):
    parameters = weights(rng, (2, 4, 3, 1))
    operator = jax.jit(jf.biharmonic(partial(network, parameters), batch_dims=1))
    assert operator(jnp.ones((0, 2))).shape == (0, 1)


def test_single_precision(rng):
    parameters = weights(rng, (2, 6, 6, 1), "float32")
    points = jnp.asarray(rng.normal(size=(7, 2)), "float32")
    double = jax.tree.map(lambda y: y.astype("float64"), (parameters, points))
    exact = jax.jit(jax.grad(partial(loss, THIRD, method="nested")))(*double)
    step = jax.grad(partial(loss, THIRD))
    assert count(step, parameters, points)
    for y, z in zip(*map(jax.tree.leaves, (jax.jit(step)(parameters, points), exact)), strict=True):
        assert y.dtype == jnp.float32
        assert jnp.abs(y - z).max() <= 2e-5 * max(1, jnp.abs(z).max())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_other_types_stay_with_xla(rng, dtype):
    parameters = weights(rng, (2, 6, 6, 1), dtype)
    points = jnp.asarray(rng.normal(size=(9, 2)), dtype)
    assert not count(partial(loss, jf.laplacian), parameters, points)


def test_structure_and_products(rng):
    """Envelopes, residual blocks, several inputs of a composition."""
    parameters, points = weights(rng, (3, 4, 4)), jnp.asarray(rng.normal(size=(5, 3)))

    def function(parameters, y):
        (w, b), (v, c) = parameters
        h = jnp.tanh(y @ w + b)
        h = h + jnp.sin(h @ v + c) * h
        return (h * jnp.exp(-0.5 * (y**2).sum(-1, keepdims=True))).sum(-1)

    def step(parameters, **how):
        values = jf.laplacian(partial(function, parameters), batch_dims=1, **how)(points)
        return jnp.mean(values**2)

    nested = jax.jit(jax.grad(partial(step, method="nested")))
    assert count(jax.grad(step), parameters)
    close(jax.jit(jax.grad(step))(parameters), nested(parameters))


# ------------------------------------------------------------------ transforms


def _of_points(f, parameters, points):
    values = jax.vmap(THIRD(lambda y: network(parameters, y)))(points)
    return sum(jnp.mean(jnp.sin(y)) for y in values)


def _of_each(f, parameters, points):
    return jax.vmap(jax.grad(f), (None, 0))(parameters, points[:, None])


def _of_ensembles(f, parameters, points):
    several = jax.tree.map(lambda y: jnp.stack([y, 2 * y, -y]), parameters)
    return jax.vmap(jax.grad(f), (0, None))(several, points)


def _curvature(f, parameters, points):
    moved = jax.tree.map(jnp.cos, parameters)
    return jax.jvp(lambda p: jax.grad(f)(p, points), (parameters,), (moved,))


def _twice(f, parameters, points):
    def norm(p):
        return sum(jnp.sum(g**2) for g in jax.tree.leaves(jax.grad(f)(p, points)))

    return jax.grad(norm)(parameters)


def _again(f, parameters, points):
    return jax.grad(jax.checkpoint(f))(parameters, points)


def _scanned(f, parameters, points):
    def further(total, point):
        return total + f(parameters, point[None]), None

    return jax.lax.scan(further, 0.0, points)[0]


TRANSFORMS = (_of_points, _of_each, _of_ensembles, _curvature, _twice, _again, _scanned)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transforms_of_a_step(rng, transform, monkeypatch):
    parameters, points = weights(rng, (2, 4, 3, 1)), jnp.asarray(rng.normal(size=(5, 2)))
    ours = partial(transform, partial(loss, THIRD))
    assert count(ours, parameters, points)
    found = jax.jit(ours)(parameters, points)
    monkeypatch.setattr(shared_library, "compiler", lambda: None)
    xla = partial(transform, partial(loss, THIRD))
    assert not count(xla, parameters, points)
    close(found, jax.jit(xla)(parameters, points))


def test_several_threads(rng):
    parameters = weights(rng, (2, 32, 32, 1), "float32")
    points = jnp.asarray(rng.normal(size=(3000, 2)), "float32")
    step = jax.jit(jax.grad(partial(loss, THIRD)))
    expected = step(parameters, points)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: step(parameters, points), range(12)):
            close(found, expected, 1e-5)


def test_donated_buffers(rng):
    parameters, points = weights(rng, (2, 4, 3, 1)), jnp.asarray(rng.normal(size=(9, 2)))

    def descend(parameters, points):
        slope = jax.grad(partial(loss, THIRD))(parameters, points)
        return jax.tree.map(lambda p, g: p - 0.1 * g, parameters, slope)

    expected = jax.jit(descend)(parameters, points)
    close(jax.jit(descend, donate_argnums=0)(parameters, points), expected)


# ------------------------------------------------------------------ where they may be


def test_exports_have_none(rng):
    parameters, points = weights(rng, (2, 4, 3, 1)), jnp.asarray(rng.normal(size=(9, 2)))
    step = jax.jit(jax.grad(partial(loss, THIRD)))
    exported = export.export(step, platforms=("cpu", "cuda"))(parameters, points)
    assert "jetfold_" not in exported.mlir_module()
    close(exported.call(parameters, points), step(parameters, points))


def test_light_and_small_programs_stay_with_xla(rng, monkeypatch):
    parameters, points = weights(rng, (2, 64, 64, 1)), jnp.asarray(rng.normal(size=(900, 2)))
    heavy, light = jax.grad(partial(loss, jf.biharmonic)), jax.grad(partial(loss, jf.laplacian))
    monkeypatch.setattr(loops, "HEAVY", 3)
    assert count(heavy, parameters, points)
    assert not count(light, parameters, points)
    monkeypatch.setattr(loops, "WORTH", 1 << 30)
    assert not count(lambda *x: heavy(*x), parameters, points)


def test_a_compiler_that_fails_changes_nothing(rng, monkeypatch, tmp_path, caplog):
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho no such machine >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(shared_library, "compiler", lambda: str(broken))
    monkeypatch.setattr(shared_library, "_version", lambda path: "0")
    monkeypatch.setattr(loops, "_registered", loops._registered.__wrapped__)
    parameters, points = weights(rng, (2, 3, 3, 1)), jnp.asarray(rng.normal(size=(4, 2)))
    step = jax.grad(partial(loss, THIRD))
    with caplog.at_level(logging.INFO, "jetfold"):
        assert not count(step, parameters, points)
    assert "no such machine" in caplog.text
    close(
        jax.jit(step)(parameters, points),
        jax.grad(partial(loss, THIRD, method="nested"))(parameters, points),
    )


def test_instructions_of_this_processor():
    known = {(), *shared_library.INSTRUCTIONS.values()}
    assert shared_library.instructions() in known


def test_several_devices():
    """Programs for several devices have none, and the numbers of one device."""
    code = """
    import jax, jax.numpy as jnp, numpy as np
    import jetfold as jf
    from jetfold.jax import loops
    from jax.sharding import NamedSharding, PartitionSpec as P

    loops.WORTH = loops.HEAVY = 0
    mesh = jax.sharding.Mesh(jax.devices(), ("data",))
    rng = np.random.default_rng(0)
    w, v = (jnp.asarray(rng.normal(size=shape) / 2, "float32") for shape in ((2, 8), (8, 1)))
    points = jnp.asarray(rng.normal(size=(6, 2)), "float32")

    def step(w, points):
        f = lambda y: jnp.tanh(jnp.sin(y @ w) @ v)
        return jnp.mean(jf.biharmonic(f, batch_dims=1)(points) ** 2)

    alone = jax.jit(jax.grad(step))(w, points)
    assert "@jetfold_" in jax.jit(jax.grad(step)).lower(w, points).as_text()
    apart = jax.device_put(points, NamedSharding(mesh, P("data")))
    lowered = jax.jit(jax.grad(step)).lower(w, apart)
    assert "@jetfold_" not in lowered.as_text()
    np.testing.assert_allclose(lowered.compile()(w, apart), alone, rtol=2e-4, atol=1e-5)
    mapped = jax.jit(jax.shard_map(
        lambda w, p: jax.lax.pmean(jax.grad(step)(w, p), "data"), mesh=mesh,
        in_specs=(P(), P("data")), out_specs=P(), check_vma=False))
    assert "@jetfold_" not in mapped.lower(w, apart).as_text()
    np.testing.assert_allclose(mapped(w, apart), alone, rtol=2e-4, atol=1e-5)
    """
    settings = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=settings, capture_output=True, text=True
    )
    assert not ended.returncode, ended.stderr
