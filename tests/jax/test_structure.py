"""Structured blocks (`core.structure`) in JAX: the same values, without the known zeros."""

from __future__ import annotations

from functools import reduce

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

import jetfold as jf

PARTICLES = 4

numbers = np.random.default_rng(7)
WEIGHTS = {n: jnp.asarray(numbers.normal(size=(n, 3)) / n) for n in (2, 3, 4, 5, 6, 7, 9, 12)}


def weight(n):
    return WEIGHTS[n] if n in WEIGHTS else jnp.asarray(np.random.default_rng(n).normal(size=(n, 3)))


# Steps of streams: Float[n, features] -> Float[n, features], in what wave functions do.


def dense_layer(h):
    return jnp.tanh(h @ weight(h.shape[-1]))


def layer_norm(h):
    mean = h.mean(-1, keepdims=True)
    return (h - mean) / jnp.sqrt(((h - mean) ** 2).mean(-1, keepdims=True) + 0.3)


def pairs(h):
    apart = h[:, None] - h[None]
    lengths = jnp.sqrt((apart**2).sum(-1, keepdims=True) + 0.5)
    return jnp.tanh(jnp.concatenate([apart, lengths], -1) @ weight(h.shape[-1] + 1)).mean(1)


def softened(h):
    apart = h[:, None] - h[None]
    return (apart / (1 + (apart**2).sum(-1, keepdims=True))).sum(1)


def means_of_spins(h):
    means = [jnp.broadcast_to(part.mean(0), h.shape) for part in jnp.split(h, [1])]
    return jnp.concatenate([h, *means], -1)


def attention(h):
    weights = jnp.exp(jnp.einsum("if,jf->ij", h, h) / 3)
    return (weights @ h) / weights.sum(-1, keepdims=True)


def logits(h):
    weights = jax.nn.softmax(h @ h.T, -1)
    return h * jnp.diagonal(weights)[:, None] + weights.sum(0)[:, None]


def masked_mean(h):
    mask = jnp.asarray(np.tri(len(h)))
    return jnp.where(mask[..., None] > 0, h[None], 0).sum(1) / mask.sum(1)[:, None]


def through_flat(h):
    return jnp.sin(h.reshape(-1)).reshape(h.shape[::-1]).T.reshape(h.shape)


def turned(h):
    return jnp.flip(jnp.roll(h, 1, 0), 0) * h


def chosen(h):
    return h[np.array([2, 0, 3, 1])] - jnp.pad(h[1:], ((0, 1), (0, 0)))


def written(h):
    return jnp.zeros_like(h).at[0].set(jnp.cos(h[2])).at[np.array([1, 3])].add(h[:2] ** 2)


def largest(h):
    return jnp.maximum(h, 0.3 * h[:, :1]) * h.max(-1, keepdims=True)


def scanned(h):
    matrices = jnp.stack([jnp.eye(h.shape[-1]), 0.5 * jnp.ones((h.shape[-1],) * 2)])
    return jax.lax.scan(lambda carry, w: (jnp.tanh(carry @ w), None), h, matrices)[0]


def over_particles(h):
    return jax.lax.map(lambda row: jnp.tanh(row) * row.sum(), h)


def under_checkpoint(h):
    return jax.checkpoint(lambda z: jnp.exp(-(z**2)))(h)


def squashed(h):
    return h / (1 + jnp.abs(h) ** 1.5)


STEPS = (
    dense_layer, layer_norm, pairs, softened, means_of_spins, attention, logits, masked_mean,
    through_flat, turned, chosen, written, largest, scanned, over_particles, under_checkpoint,
    squashed,
)  # fmt: skip

ENDS = (
    lambda h: jnp.log(1 + (h**2).sum()),
    lambda h: h,
    lambda h: jnp.linalg.slogdet(h[:, :3].T @ h[:, :3] + jnp.eye(min(3, h.shape[1])))[1],
    lambda h: jnp.prod(1 + h**2, axis=0).sum(),
)


def composed(steps, end):
    return lambda x: end(reduce(lambda h, step: step(h), steps, x))


def coordinates():
    return [p for row in jf.partials((PARTICLES, 3)) for p in row]


def masses():
    return sum((1 + k // 3) * p**2 for k, p in enumerate(coordinates()))


OPERATORS = {
    "laplacian": lambda: jf.laplacian,
    "by masses": masses,
    "fourth powers": lambda: sum(p**4 for p in coordinates()),
    "several": lambda: jf.derivatives(
        {
            "value": jf.value,
            "gradient": jf.gradient,
            "laplacian": jf.laplacian,
            "first": coordinates()[0] ** 2,
        }
    ),
}


def point(seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(PARTICLES, 3)))


def agree(found, wanted, tolerance=1e-9):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        scale = 1 + np.abs(b).max()
        np.testing.assert_allclose(a / scale, b / scale, atol=tolerance)


@hypothesis.settings(max_examples=12, deadline=None, derandomize=True)
@hypothesis.given(
    st.lists(st.sampled_from(STEPS), min_size=1, max_size=4),
    st.sampled_from(ENDS),
    st.sampled_from(sorted(OPERATORS)),
    st.integers(0, 2**31),
)
def test_compositions(steps, end, name, seed):
    hypothesis.assume(name != "several" or end is not ENDS[1])  # a gradient is of one number
    f, x, operator = composed(steps, end), point(seed), OPERATORS[name]()
    agree(*jax.jit(lambda x: (operator(f)(x), operator(f, structure=False)(x)))(x))


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_each_step_against_nested_derivatives(step):
    f, x = composed([step], lambda h: h), point(3)

    def nested(x):
        hessian = jax.hessian(lambda flat: f(flat.reshape(x.shape)))(x.ravel())
        return jnp.trace(hessian, axis1=-2, axis2=-1)

    agree(*jax.jit(lambda x: (jf.laplacian(f)(x), nested(x)))(x))


# ------------------------------------------------------------------ under transforms


def network(parameters, x):
    streams = jnp.tanh(x @ parameters["in"])
    streams = streams + pairs(streams @ parameters["down"]) @ parameters["up"]
    orbitals = means_of_spins(streams) @ parameters["out"]
    return jnp.linalg.slogdet(orbitals)[1] - jnp.exp(-((x[:, None] - x[None]) ** 2).sum(-1)).sum()


@pytest.fixture
def parameters():
    rng = np.random.default_rng(11)
    shapes = {"in": (3, 5), "down": (5, 2), "up": (3, 5), "out": (15, PARTICLES)}
    return {name: jnp.asarray(rng.normal(size=shape)) for name, shape in shapes.items()}


def local_energy(parameters, x, structure):
    found = jf.derivatives({"gradient": jf.gradient, "laplacian": jf.laplacian})(
        lambda z: network(parameters, z), structure=structure
    )(x)
    return -0.5 * (found["laplacian"] + (found["gradient"] ** 2).sum()) + (x**2).sum() / 2


def test_gradients_of_the_local_energy_to_the_parameters(parameters):
    walkers = jnp.stack([point(1), point(2)])

    def loss(parameters, structure):
        energy = jax.vmap(lambda x: local_energy(parameters, x, structure))
        return (energy(walkers) ** 2).mean()

    found, wanted = (
        jax.jit(jax.grad(loss), static_argnums=1)(parameters, s) for s in (True, False)
    )
    agree(found, wanted)


def test_batches_and_walkers(parameters):
    walkers = jnp.stack([point(4), point(5)])

    def batched(x):
        h = jnp.tanh(x @ parameters["in"])
        weights = jax.nn.softmax(h @ jnp.swapaxes(h, -1, -2), -1)
        return (weights @ h).sum((-1, -2)) ** 2

    one_by_one = jax.jit(jax.vmap(jf.laplacian(lambda x: batched(x), structure=False)))(walkers)
    agree(jax.jit(jf.laplacian(batched, batch_dims=1))(walkers), one_by_one)


def test_nested_operators(parameters):
    f = composed([softened], ENDS[0])
    wanted = jf.biharmonic(f, structure=False)(point(6))
    agree(jf.laplacian(jf.laplacian(f))(point(6)), wanted)


def test_complex_values(parameters):
    def f(x):
        h = jnp.tanh(x @ parameters["in"]) * jnp.exp(1j * x[:, :1])
        return jnp.linalg.slogdet(means_of_spins(h) @ parameters["out"])

    agree(jf.laplacian(f)(point(8)), jf.laplacian(f, structure=False)(point(8)))


def test_several_points(parameters):
    def f(up, down):
        return network(parameters, jnp.concatenate([up, down]))

    x = point(9)
    found = jf.laplacian(f, argnums=(0, 1))(x[:1], x[1:])
    agree(found, jf.laplacian(lambda x: network(parameters, x))(x))


# ------------------------------------------------------------------ counted


def flops(f, x, **options):
    compiled = jax.jit(jf.laplacian(f, **options)).lower(x).compile()
    return compiled.cost_analysis()["flops"]


def test_particles_apart_cost_the_same_each():
    rng = np.random.default_rng(0)
    first, second = (jnp.asarray(rng.normal(size=shape)) for shape in ((3, 8), (8, 8)))

    def f(x):
        return jnp.tanh(jnp.tanh(x @ first) @ second).sum()

    few, many = (flops(f, jnp.ones((n, 3))) / n for n in (8, 32))
    assert many <= 1.01 * few
    carried = [jf.explain(jf.laplacian, f, jnp.ones((n, 3))).steps for n in (8, 32)]
    for small, large in zip(*(steps[:-1] for steps in carried), strict=True):  # but for the sum
        assert large.stored / 32 <= small.stored / 8


@pytest.mark.filterwarnings("ignore:laplacian carries 802 vectors")  # which are meant
def test_exponentials_of_products():
    def f(x):
        return jnp.mean(jnp.exp(x @ x.T) @ x)

    x = jnp.asarray(np.random.default_rng(0).normal(size=(400, 2))) / 20
    assert flops(f, x) * 10 <= flops(f, x, structure=False)


def test_determinants_of_rows_apart():
    orbitals = jnp.asarray(np.random.default_rng(2).normal(size=(3, 12)))
    x = jnp.asarray(np.random.default_rng(3).normal(size=(12, 3)))
    for f in (
        lambda x: jnp.linalg.slogdet(jnp.tanh(x @ orbitals))[1] ** 2,
        lambda x: jnp.linalg.slogdet(jnp.tanh(x @ orbitals).T)[1] ** 2,
    ):
        agree(jf.laplacian(f)(x), jf.laplacian(f, structure=False)(x))
        assert flops(f, x) * 5 <= flops(f, x, structure=False)


@pytest.mark.parametrize("turned", [False, True])
def test_systems_of_rows_apart(turned):
    rng = np.random.default_rng(4)
    a, b, c = (jnp.asarray(rng.normal(size=shape)) for shape in ((3, 6), (6, 6), (6,)))

    def f(x):
        orbitals = jnp.stack([jnp.tanh(x @ a) + 2 * b, jnp.cos(x @ a) - b])
        orbitals = orbitals.mT if turned else orbitals
        inverse = jnp.linalg.inv(orbitals)
        return jnp.sum(jnp.linalg.solve(orbitals[0], c) ** 2) + jnp.sum(inverse @ jnp.sin(x)) ** 2

    x = jnp.asarray(rng.normal(size=(6, 3)))
    agree(jf.laplacian(f)(x), jnp.trace(jax.hessian(lambda x: f(x.reshape(6, 3)))(x.ravel())))
    fourth = sum(p**4 for row in jf.partials((6, 3)) for p in row)
    agree(fourth(f)(x), fourth(f, structure=False)(x))
    assert flops(f, x) * 2 <= flops(f, x, structure=False)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: jnp.tanh(jnp.zeros(16).at[0].set(jnp.linalg.norm(x[3]))),
        lambda x: scanned(x @ weight(3)),
        lambda x: under_checkpoint(jax.jit(jnp.sin)(x).reshape(-1).reshape(x.shape)),
        lambda x: jnp.exp(x @ x.T).sum(0, where=np.tri(16, dtype=bool)),
        lambda x: jnp.einsum("id,jd,jk->ik", x, jnp.ones((16, 3)), jnp.ones((16, 2))),
        lambda x: chosen_pairs(x),
        lambda x: checkpoint_name(jnp.sin(jnp.stack([x, x**2], 1).mT), "stacked").sum(-1),
    ],
    ids=["written", "scanned", "reshaped", "masked", "einsum", "gathered", "stacked"],
)
def test_structure_is_kept(f):
    told = jf.explain(jf.laplacian, f, jnp.asarray(np.random.default_rng(1).normal(size=(16, 3))))
    assert told.stored * 3 < told.whole


def chosen_pairs(x):
    one, other = np.triu_indices(16, 1)
    return 1 / (1 + ((x[one] - x[other]) ** 2).sum(-1))


def test_explained():
    def f(x):
        h = jnp.tanh(x @ weight(3))
        return (jnp.exp(h @ h.T) @ h).sum()

    told = jf.explain(jf.laplacian, f, jnp.asarray(np.random.default_rng(1).normal(size=(16, 3))))
    assert [step.name for step in told.lost] == ["dot_general"]
    assert "3 of 48 directions by axis 0" in str(told)
    dense = jf.explain(jf.laplacian, f, jnp.ones((16, 3)), structure=False)
    assert not any(step.pieces for step in dense.steps)
