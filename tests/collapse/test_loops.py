"""Sums that pass scans and conditionals."""

from __future__ import annotations

import numpy as np
import pytest

jax = pytest.importorskip("jax")
import jax.numpy as jnp
from jax import lax

import jetfold as jf
from jetfold.collapse import half_of, loops
from jetfold.collapse.plan import plan

WIDTH, DIMENSION = 24, 12


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def planned(function, *args):
    return plan(half_of(args, {}).traced(function, args, {}).program)


@pytest.fixture
def weights(rng):
    return {
        "first": jnp.asarray(rng.normal(size=(DIMENSION, WIDTH))),
        "inner": jnp.asarray(rng.normal(size=(4, WIDTH, WIDTH)) / WIDTH**0.5),
        "last": jnp.asarray(rng.normal(size=WIDTH)),
    }


def scanned(w, x):
    h, _ = lax.scan(lambda h, a: (jnp.tanh(h @ a) + h, None), jnp.tanh(x @ w["first"]), w["inner"])
    return h @ w["last"]


def scanned_back(w, x):
    def step(h, a):
        h = jnp.sin(h @ a)
        return h, h @ w["last"]

    _, sums = lax.scan(step, jnp.tanh(x @ w["first"]), w["inner"], reverse=True, unroll=2)
    return sums.sum() + sums[0]


def in_a_fori_loop(w, x):
    return (
        lax.fori_loop(0, 4, lambda k, h: jnp.tanh(h @ w["inner"][k]), jnp.tanh(x @ w["first"]))
        @ (w["last"])
    )


def chosen(w, x):
    h = jnp.tanh(x @ w["first"])
    for k in range(3):
        h = lax.cond(
            w["last"][k] > 0,
            lambda h, k=k: jnp.tanh(h @ w["inner"][k]),
            lambda h: jnp.sin(h @ w["inner"][3]) + h,
            h,
        )
    return h @ w["last"]


def nested(w, x):
    def outer(h, a):
        g, _ = lax.scan(lambda h, b: (jnp.tanh(h @ a + h * b), None), h, w["last"][:3])
        return lax.cond(a[0, 0] > 0, lambda g: jnp.sin(g @ a), lambda g: g @ a, g), None

    h, _ = lax.scan(outer, jnp.tanh(x @ w["first"]), w["inner"])
    return h @ w["last"]


FUNCTIONS = [scanned, scanned_back, in_a_fori_loop, chosen, nested]


def by_jvp(f, x, v):
    return jax.jvp(lambda y: jax.jvp(f, (y,), (v,))[1], (x,), (v,))[1]


def by_jet(f, x, v):
    return jf.jet(f, (x,), ((v, jnp.zeros_like(v)),))[1][-1]


@pytest.mark.parametrize(
    ("f", "derivative", "weighted"),  # every pair of these, in half of the triples
    [
        (f, derivative, (k + j) % 2 == 1)
        for k, f in enumerate(FUNCTIONS)
        for j, derivative in enumerate((by_jvp, by_jet))
    ],
)
def test_laplacians(f, weighted, derivative, weights, rng):
    """As few matrix products as the forward Laplacian, the same values and gradients."""
    eye, coefficients = jnp.eye(DIMENSION), jnp.asarray(rng.normal(size=DIMENSION))

    def program(w, x):
        def of_point(x):
            each = jax.vmap(lambda v: derivative(lambda y: f(w, y), x, v))(eye)
            return coefficients @ each if weighted else each.sum(0)

        return jax.vmap(of_point)(x)

    x = jnp.asarray(rng.normal(size=(4, DIMENSION)))
    forward = planned(jax.vmap(lambda x: f(weights, x)), x).matmul_before
    found = planned(program, weights, x)
    assert found.matmul_after < 0.7 * found.matmul_before
    assert found.matmul_after <= 1.03 * (DIMENSION + 2) * forward
    collapsed = jf.collapse(program)

    def evaluated(program):
        """The gradients of a loss, and the values, from one compiled program."""

        def loss(w, x):
            values = program(w, x)
            return (values**2).sum(), values

        if derivative is by_jvp:
            return jax.jit(jax.grad(loss, (0, 1), has_aux=True))(weights, x)
        return (), jax.jit(program)(weights, x)

    (ours, values), (theirs, expected) = map(evaluated, (collapsed, program))
    np.testing.assert_allclose(values, expected, rtol=1e-9)
    for a, b in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9)


def test_a_laplacian_in_the_body_of_a_loop(weights, rng):
    """The body is rewritten though no sum leaves it."""
    eye = jnp.eye(DIMENSION)

    def program(x):
        def f(x):
            return jnp.tanh(jnp.tanh(x @ weights["first"]) @ weights["inner"][0]) @ weights["last"]

        def step(x, _):
            laplacian = jax.vmap(lambda v: by_jvp(f, x, v))(eye).sum()
            return x + 0.1 * jax.grad(f)(x) * laplacian, laplacian

        return lax.scan(step, x, None, length=5)

    x = jnp.asarray(rng.normal(size=DIMENSION))
    found = planned(program, x)
    assert found.matmul_after < 0.7 * found.matmul_before
    for a, b in zip(jax.jit(jf.collapse(program))(x), jax.jit(program)(x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)


def test_sums_along_the_loop_and_values_needed_too(weights, rng):
    """What is stacked is summed outside; carries that are also returned stay whole."""

    def program(x):
        def step(h, a):
            h = h @ a
            return h, (h * 2.0, jnp.tanh(h))

        h, (doubled, bent) = lax.scan(step, x, weights["inner"])
        return h, h.sum(0), doubled.sum((0, 1)), bent.sum(1), doubled[1]

    x = jnp.asarray(rng.normal(size=(5, WIDTH)))
    assert planned(program, x).after <= planned(program, x).before
    for a, b in zip(jf.collapse(program)(x), program(x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_linear_loops_carry_sums_alone(weights, rng):
    """Σ_r of a linear recurrence is the recurrence of the sum, weighted or not."""
    x, c = jnp.asarray(rng.normal(size=(7, WIDTH))), jnp.asarray(rng.normal(size=7))

    def program(x, c):
        h, ys = lax.scan(lambda h, a: (h @ a - h, h[:, :3]), x, weights["inner"])
        return h.sum(0), c @ h, jnp.einsum("r,trk->tk", c, ys)

    found = planned(program, x, c)
    assert found.matmul_after < 0.4 * found.matmul_before
    for a, b in zip(jax.jit(jf.collapse(program))(x, c), jax.jit(program)(x, c), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_weights_made_in_the_body(weights, rng):
    """They cannot leave it: the sum stays inside."""
    x = jnp.asarray(rng.normal(size=(7, WIDTH)))

    def program(x):
        def step(carry, a):
            h, c = carry
            c = jnp.cos(c)
            return (jnp.tanh(h @ a), c), c @ jnp.sin(h @ a)

        return lax.scan(step, (x, x[:, 0]), weights["inner"])

    both = (jax.jit(f)(x) for f in (jf.collapse(program), program))
    for a, b in zip(*map(jax.tree.leaves, both), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)
    assert planned(program, x).after <= planned(program, x).before


def test_loops_with_effects_and_while_loops_stay_as_they_are(weights, rng):
    x = jnp.asarray(rng.normal(size=(7, WIDTH)))
    seen = []

    def program(x):
        def step(h, a):
            jax.debug.callback(lambda y: seen.append(float(y)), h[0, 0])
            return h @ a, None

        h, _ = lax.scan(step, x, weights["inner"])
        g = lax.while_loop(lambda h: h.sum() < 0, lambda h: h + 1.0, x)
        return (h + g).sum(0)

    np.testing.assert_allclose(jf.collapse(program)(x), jax.jit(program)(x), rtol=1e-9)
    jax.effects_barrier()
    assert len(seen) == 2 * len(weights["inner"])


@pytest.mark.parametrize("f", [scanned, nested])
def test_loops_are_planned_once(f, weights, rng, monkeypatch):
    """Their fixed points are part of the plan; what the steps compute with is not."""
    asked = []
    found = loops._found
    monkeypatch.setattr(loops, "_found", lambda *given: asked.append(given) or found(*given))
    closed = {"w": weights}

    def program(x):
        eye = jnp.eye(DIMENSION)
        return jax.vmap(lambda v: by_jvp(lambda y: f(closed["w"], y), x, v))(eye).sum(0)

    truth = lambda x: jax.jit(lambda x: program(x))(x)  # traced each time
    collapsed, x = jf.collapse(program), jnp.asarray(rng.normal(size=DIMENSION))
    np.testing.assert_allclose(collapsed(x), truth(x), rtol=1e-9)
    assert asked
    asked.clear()
    np.testing.assert_allclose(collapsed(x), truth(x), rtol=1e-9)
    closed["w"] = jax.tree.map(lambda a: 1.1 * a, weights)
    np.testing.assert_allclose(collapsed(2 * x), truth(2 * x), rtol=1e-9)
    assert not asked


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_loops_over_zeros_and_of_no_steps(steps, rng):
    x, zeros = jnp.asarray(rng.normal(size=(4, 3))), jnp.zeros((steps, 3, 3))

    def program(x):
        none = jnp.zeros(3)
        h, ys = lax.scan(lambda h, a: (h @ a + h + none, h * 2.0), x, jnp.zeros((steps, 3, 3)))
        g, _ = lax.scan(lambda h, a: (h @ a, None), x, zeros)
        return (h @ h.T).sum(0), ys.sum((0, 1)), (x @ x.T).sum(), h.sum(0), g.sum(0)

    for a, b in zip(jax.jit(jf.collapse(program))(x), jax.jit(program)(x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)
