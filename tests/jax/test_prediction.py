"""What a call will cost, told before it is run, against what XLA says of the compiled program."""

from __future__ import annotations

from functools import partial

import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp
import numpy as np

import jetfold as jf
from jetfold.bench.jax import Jax, temporary
from jetfold.bench.networks import mlp
from jetfold.explain import predict

rng = np.random.default_rng(0)


def array(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def paper(dimension):
    """The network of the paper, an eighth as wide: its parameters, and how they are applied."""
    return Jax("cpu", "float32").trainable(mlp(dimension, 0.125, 0))


def residual():
    """A block that is added to its argument, after a normalisation."""

    def apply(weights, x):
        for W, V in weights:
            centred = x - x.mean(-1, keepdims=True)
            normal = centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-3)
            x = x + jax.nn.gelu(normal @ W) @ V
        return x[:, :1]

    return [(array(64, 128) / 8, array(128, 64) / 11)], apply


CASES = {
    "laplacian of the paper's network": (jf.laplacian, paper(50), (64, 50), {"batch_dims": 1}),
    "fourth derivative of it": (jf.partials(2)[0] ** 4, paper(2), (64, 2), {"batch_dims": 1}),
    "residual": (jf.laplacian, residual(), (16, 64), {"batch_dims": 1}),
}


@pytest.mark.parametrize("name", CASES)
def test_flops_and_bytes(name):
    """FLOPs as XLA counts them, 5 %; memory of a step as XLA plans it, to a factor."""
    operator, (parameters, apply), shape, options = CASES[name]
    x = array(*shape)
    found = predict(operator, partial(apply, parameters), x, **options)

    def value(parameters, x):
        return operator(partial(apply, parameters), **options)(x)

    def compiled(function):
        return jax.jit(function).lower(parameters, x).compile()

    program = compiled(value)
    assert found.flops == pytest.approx(program.cost_analysis()["flops"], rel=0.05)
    assert 0.6 < found.peak / temporary(program) < 2.5
    step = compiled(jax.grad(lambda p, x: (value(p, x) ** 2).mean()))
    assert 0.65 < found.temporary / temporary(step) < 2.5
    assert 0 < found.kept < 1.1 * temporary(step)
    assert found.cell()["kept"] == found.temporary
    forward = compiled(apply).cost_analysis()["flops"]
    assert found.forward_flops == pytest.approx(forward, rel=0.05)
    assert found.over_limit > 0


def test_what_reverse_mode_keeps():
    """By hand: of Σ φ(x W) V one coefficient array before φ, and φ(u) for V."""
    points, width = 10, 32
    W, V = array(3, width), array(width, 1)

    def f(x):
        return jnp.tanh(x @ W) @ V

    found = predict(jf.partials(3)[0], f, array(points, 3), batch_dims=1)
    of_value, seed = 4 * points * width, 4 * width  # ∂_1 of x W is a row of W at every point
    assert of_value <= found.kept <= 3 * of_value + 2 * seed
    as_arguments = predict(
        jf.partials(3)[0], lambda x, W, V: jnp.tanh(x @ W) @ V, array(points, 3), W, V, batch_dims=1
    )
    assert as_arguments.kept == found.kept
    jitted = predict(jf.partials(3)[0], jax.jit(f), array(points, 3), batch_dims=1)
    assert jitted.kept == found.kept


def test_loops_are_counted_by_their_turns():
    W = array(16, 16)

    def steps(n):
        return lambda x: jax.lax.fori_loop(0, n, lambda _, h: jnp.tanh(h @ W), x).sum(-1)

    two, six = (predict(jf.laplacian, steps(n), array(8, 16), batch_dims=1) for n in (2, 6))
    assert six.products == 3 * two.products >= 6 * 18 * 2 * 8 * 16 * 16

    def until(x):
        return jax.lax.while_loop(lambda s: s.sum() < 3.0, lambda s: s * 1.5, x**2).sum()

    found = predict(jf.laplacian, until, array(4))
    assert found.flops is None and found.over_limit is None
    assert "while_loop, whose number of turns depends on numbers" in str(found)


def test_explain_tells_it():
    parameters, apply = paper(3)
    found = jf.explain(jf.laplacian, partial(apply, parameters), array(64, 3), batch_dims=1)
    assert found.prediction.vectors == 5 and found.prediction.compiled
    text = str(found)
    for part in ("Before it is run (compiled)", "kept for backward", "time / limit"):
        assert part in text
    key = jax.random.key(0)
    estimate = jf.randomize(jf.laplacian, 2)
    drawn = predict(estimate, partial(apply, paper(9)[0]), array(8, 9), batch_dims=1, rng=key)
    assert drawn.vectors == 4 and drawn.over_limit > 0
