"""Which rows depend on which: functions of all points at a few of them, or not at all."""

from __future__ import annotations

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp
from jax import lax

import jetfold as jf
from jetfold.jax import pieces
from jetfold.jax.rows import MixedError, of_few

SIZE, N = 60, 3
DRAW = np.random.default_rng(5)
W, V = DRAW.normal(size=(N, 4)), DRAW.normal(size=(4, 4))
S, Z = DRAW.normal(size=2 * SIZE), DRAW.normal(size=(SIZE, 4))


def u(x):
    return jnp.tanh(x @ W).sum(-1)


APART = {
    "an array as long, outside": lambda x: u(x) * S[:SIZE],
    "an array cut to the length": lambda x: u(x) * S[: len(x)],
    "the rows behind": lambda x: u(x) * S[len(x) : 2 * len(x)],
    "inside of a layer": lambda x: jnp.sin(x @ W + Z) @ V[0],
    "the number of a row": lambda x: u(x) * jnp.arange(len(x)),
    "how many rows there are": lambda x: u(x) * x.shape[0],
    "reshaped": lambda x: (x.reshape(SIZE, N, 1) * V[0]).reshape(-1, 4 * N).prod(-1),
    "transposed": lambda x: jnp.sin(W.T @ x.T).prod(0),
    "contracted": lambda x: jnp.einsum("bi,bj,ij->b", x, jnp.sin(x), W @ W.T),
    "weights of each row": lambda x: (
        jnp.einsum("bi,bij->bj", x, W * jnp.asarray(Z)[:, None]).sum(-1) ** 3
    ),
    "normalised": lambda x: u((x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True)),
    "the greatest": lambda x: jax.nn.logsumexp(jnp.tanh(x @ W), -1),
    "chosen": lambda x: jnp.where(S[:SIZE] > 0, u(x), jnp.where(x[:, 0] > 0, 1.0, u(x) ** 2)),
    "compiled": lambda x: jax.jit(lambda x: jax.nn.silu(x @ W).sum(-1) * S[:SIZE])(x),
    "joined and cut": lambda x: u(jnp.concatenate([x[:, 2:], x[:, :2]], 1)) * x[:, 1],
    "mapped": lambda x: jax.vmap(u)(x) * S[:SIZE],
    "padded, running": lambda x: jnp.cumsum(lax.pad(x, 2.0, ((0, 0, 0), (1, 1, 0))), 1).prod(-1),
    "cut at a place": lambda x: lax.dynamic_slice(x * u(x)[:, None], (0, 1), (SIZE, 1))[:, 0],
}

MIXED = {
    "reversed": lambda x: u(x[::-1])[::-1],
    "rolled": lambda x: jnp.roll(jnp.roll(u(x), 1), -1),
    "padded": lambda x: jnp.pad(u(x), (0, 1))[:-1],
    "flattened": lambda x: jnp.tanh(x.reshape(-1)).reshape(x.shape).prod(-1),
    "by a rule of its own": lambda x: jax.nn.relu(x @ W).sum(-1) * u(x),
    "summed, and unused": lambda x: u(x) + 0 * u(x).sum(),
}


@pytest.mark.parametrize("name", [*APART, *MIXED])
def test_laplacian(name, monkeypatch, rng):
    """Of functions of all points; with rows that are mixed on the way, at all of them at once."""
    monkeypatch.setattr(pieces, "CACHE", 2**8)
    monkeypatch.setattr(pieces, "_cores", lambda: 1)
    f = {**APART, **MIXED}[name]
    points = jnp.asarray(rng.uniform(0.5, 1.5, size=(SIZE, N)))
    operator = jax.jit(jf.laplacian(f, batch_dims=1))
    assert ("stablehlo.while" in operator.lower(points).as_text()) == (name in APART)
    close = {"rtol": 1e-10, "atol": 1e-11}

    def second(y, t):  # of all rows at once, which do not depend on each other
        return jax.jvp(lambda y: jax.jvp(f, (y,), (t,))[1], (y,), (t,))[1]

    expected = sum(second(points, jnp.zeros_like(points).at[:, k].set(1)) for k in range(N))
    np.testing.assert_allclose(operator(points), expected, **close)


def test_the_function_of_a_few(rng):
    """With its start traced, and with rows along another axis."""
    points = jnp.asarray(rng.normal(size=(N, SIZE)))
    program = jax.make_jaxpr(lambda x, y: (x.T @ W + Z, y))(points, 3.0)
    few = jax.jit(lambda start, x: of_few(program, [1, None], SIZE)(start, 7, [x, 3.0]))
    found, other = few(11, points[:, 11:18])
    np.testing.assert_allclose(found, points[:, 11:18].T @ W + Z[11:18], rtol=1e-12)
    assert other == 3.0
    with pytest.raises(MixedError):
        of_few(jax.make_jaxpr(lambda x: jnp.sort(x, 0))(points), [0], N)
