"""Training steps: what gradients of operators keep, and that they are right under every transform."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest

pytest.importorskip("jax")

import jax
import jax.numpy as jnp
import numpy as np

import jetfold as jf

# ------------------------------------------------------------------ memory

HIDDEN = (96, 96, 64, 64)
BATCH = 128


def weights(sizes, dtype="float64", seed=0):
    rng = np.random.default_rng(seed)
    return [
        (
            jnp.asarray(rng.normal(size=(n, m)) / n**0.5, dtype),
            jnp.asarray(rng.normal(size=m), dtype),
        )
        for n, m in pairwise(sizes)
    ]


def network(parameters, x, activation=jnp.tanh):
    for matrix, bias in parameters[:-1]:
        x = activation(x @ matrix + bias)
    matrix, bias = parameters[-1]
    return x @ matrix + bias


def batched(operator):
    return lambda p, x: operator(lambda y: network(p, y), batch_dims=1)(x)


def mapped(operator):
    return lambda p, x: jax.vmap(operator(lambda y: network(p, y)))(x)


def step(values, dimension, rows):
    """The compiled gradient of the mean square, in float32."""
    parameters = weights((dimension, *HIDDEN, 1), "float32")
    x = jnp.asarray(np.random.default_rng(1).normal(size=(rows, dimension)), "float32")
    loss = jax.value_and_grad(lambda p: jnp.mean(values(p, x) ** 2))
    return jax.jit(loss).lower(parameters).compile()


@pytest.mark.parametrize("mode", [batched, mapped])
@pytest.mark.parametrize(
    ("operator", "dimension", "vectors", "most"),
    [(jf.laplacian, 20, 22, 1.25), (jf.biharmonic, 3, 14, 1.5)],
    ids=["laplacian", "biharmonic"],
)
def test_memory_of_a_step(operator, dimension, vectors, most, mode):
    ours = step(mode(operator), dimension, BATCH)
    limit = step(network, dimension, BATCH * vectors)
    needed, least = (c.memory_analysis().temp_size_in_bytes for c in (ours, limit))
    assert needed <= most * least, (needed / least, least)
    entries = BATCH * sum(HIDDEN)
    assert ours.cost_analysis()["transcendentals"] == entries  # nothing dear is made again


def test_memory_of_a_value():
    """The rows of a product are weighted before they are stacked: 30 sets and 306 otherwise."""
    parameters = weights((5, *HIDDEN, 1), "float32")
    x = jnp.asarray(np.random.default_rng(1).normal(size=(BATCH, 5)), "float32")
    ours = jax.jit(batched(jf.biharmonic)).lower(parameters, x).compile()
    one_set = x.dtype.itemsize * BATCH * sum(HIDDEN)
    assert ours.memory_analysis().temp_size_in_bytes <= 24 * one_set
    assert ours.cost_analysis()["bytes accessed"] <= 230 * one_set


def test_memory_without_operators():
    """A step of a PINN keeps less than one of nested derivatives, and computes less."""
    parameters = weights((2, 64, 64, 1), "float32")
    points = jnp.asarray(np.random.default_rng(1).normal(size=(500, 2)), "float32")
    t, x = jf.partials(2)
    several = jf.derivatives({"u": 1, "u_t": t, "u_x": x, "u_xx": x**2})

    def ours(p, z):
        return several(lambda y: network(p, y)[0])(z)

    def nested(p, z):
        def u(t, x):
            return network(p, jnp.stack([t, x]))[0]

        u_x = jax.grad(u, 1)
        return {"u": u(*z), "u_t": jax.grad(u)(*z), "u_x": u_x(*z), "u_xx": jax.grad(u_x, 1)(*z)}

    def compiled(derivatives):
        def loss(p):
            d = jax.vmap(lambda z: derivatives(p, z))(points)
            return jnp.mean((d["u_t"] + d["u"] * d["u_x"] - 0.01 * d["u_xx"]) ** 2)

        return jax.jit(jax.grad(loss)).lower(parameters).compile()

    found, wanted = compiled(ours), compiled(nested)
    for a, b in zip(*(jax.tree.leaves(c(parameters)) for c in (found, wanted)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    memory, flops = (
        [of(c) for c in (found, wanted)]
        for of in (
            lambda c: c.memory_analysis().temp_size_in_bytes,
            lambda c: c.cost_analysis()["flops"],
        )
    )
    assert memory[0] < 0.55 * memory[1]
    assert flops[0] < 0.7 * flops[1]


# ------------------------------------------------------------------ values

POINTS = jnp.asarray(np.random.default_rng(2).normal(size=(3, 2)), "float32")
SIGMA = np.random.default_rng(4).normal(size=(2, 2))
t, x = jf.partials(2)
several = jf.derivatives({"u": 1, "du": jf.gradient, "heat": t - x**2})


def dot(a, b):
    return sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def agree(found, wanted, rtol=1e-8):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * (1e-3 + np.abs(b).max()))


def sines(x):
    return jnp.sin(x) * jax.nn.sigmoid(x)


def powers(x):
    return jnp.log(2 + x**2) - jnp.exp(-(x**2)) + jnp.sqrt(1 + x**2)


def layers(parameters, x):
    """The same hidden layer again and again, in a loop; every round is a checkpoint."""

    def layer(h, w):
        return jax.checkpoint(lambda h: h + jnp.tanh(h @ w))(h), None

    (first, bias), *_ = parameters
    hidden = jnp.stack([bias[:, None] * jnp.cos(bias)] * 2)
    h, _ = jax.lax.scan(layer, jnp.tanh(x @ first), hidden)
    return jnp.sin(h).sum(-1)


CASES = {
    "laplacian": (jnp.tanh, lambda f, z, **o: jf.laplacian(f, batch_dims=1, **o)(z)),
    "mapped": (jnp.tanh, lambda f, z, **o: jax.vmap(jf.laplacian(f, **o))(z)),
    "third order": (sines, lambda f, z, **o: (t - x**3)(f, batch_dims=1, **o)(z)),
    "several": (powers, lambda f, z, **o: several(lambda y: f(y)[..., 0], batch_dims=1, **o)(z)),
    "weighted": (
        jnp.tanh,
        lambda f, z, **o: jf.weighted_laplacian(f, SIGMA, batch_dims=1, **o)(z),
    ),
    "point by point": (
        jnp.tanh,
        lambda f, z, **o: jax.lax.map(jf.laplacian(f, **o), z),
    ),
}


@pytest.fixture
def parameters():
    return weights((2, 5, 4, 1))


@pytest.fixture
def points():
    return jnp.asarray(POINTS, "float64")


def mean_square(values, points):
    """of(**options) -> the loss of parameters."""

    def made(**options):
        def loss(p):
            found = values(p, points, **options)
            return sum(jnp.mean(leaf**2) for leaf in jax.tree.leaves(found))

        return loss

    return made


@pytest.mark.parametrize("name", CASES)
def test_gradients(name, parameters, points):
    activation, operator = CASES[name]
    loss = mean_square(
        lambda p, z, **o: operator(lambda y: network(p, y, activation), z, **o), points
    )
    wanted = jax.jit(jax.grad(loss(method="nested")))(parameters)
    agree(jax.jit(jax.grad(loss()))(parameters), wanted)


def test_gradients_of_layers_in_a_loop(parameters, points):
    loss = mean_square(
        lambda p, z, **o: jf.laplacian(lambda y: layers(p, y), batch_dims=1, **o)(z), points
    )
    wanted = jax.jit(jax.grad(loss(method="nested")))(parameters)
    agree(jax.jit(jax.grad(loss()))(parameters), wanted)
    agree(jax.jit(jax.grad(jax.checkpoint(loss())))(parameters), wanted)


def test_gradients_in_chunks_and_at_random(parameters, points):
    key = jax.random.key(0)

    def loss(p, **options):
        f = lambda y: network(p, y)
        exact = jf.laplacian(f, batch_dims=1, **options)(points)
        drawn = jf.randomize(jf.laplacian, 1)(f, batch_dims=1, **options)(points, rng=key)
        return jnp.mean(exact**2) + jnp.mean(drawn**3)

    found = jax.jit(jax.grad(lambda p: loss(p, chunk_size=1)))(parameters)
    agree(found, jax.jit(jax.grad(loss))(parameters))
    step = direction(parameters)
    agree(dot(found, step), differences(jax.jit(loss), parameters, step), 1e-6)


def direction(tree):
    rng = np.random.default_rng(3)
    return jax.tree.map(lambda y: jnp.asarray(rng.normal(size=y.shape)), tree)


def differences(function, at, step, h=1e-3):
    """The derivative along a step, from four values."""

    def moved(k):
        return function(jax.tree.map(lambda a, b: a + k * h * b, at, step))

    return (8 * (moved(1) - moved(-1)) - (moved(2) - moved(-2))) / (12 * h)


def test_every_order_of_modes(parameters, points):
    """Hessian-vector products, double backward, forward over forward, transposed pullbacks."""
    make = mean_square(
        lambda p, z, **o: (t - x**2)(lambda y: network(p, y), batch_dims=1, **o)(z), points
    )
    step = direction(parameters)

    def each(loss):
        def pulled(p):
            return jax.linear_transpose(lambda ct: jax.vjp(loss, p)[1](ct)[0], 1.0)(step)[0]

        def pushed(p):
            return jax.jvp(loss, (p,), (step,))[1]

        return lambda p: {
            "forward over reverse": jax.jvp(jax.grad(loss), (p,), (step,))[1],
            "reverse over reverse": jax.grad(lambda p: dot(jax.grad(loss)(p), step))(p),
            "reverse over forward": jax.grad(pushed)(p),
            "forward over forward": jax.jvp(pushed, (p,), (step,))[1],
            "transposed": pulled(p),
        }

    found, wanted = (jax.jit(each(loss))(parameters) for loss in (make(), make(method="nested")))
    agree(found, wanted)


def test_gauss_newton_and_samples(parameters, points):
    def residuals(p, **options):
        return (t - x**2)(lambda y: network(p, y), batch_dims=1, **options)(points)[:, 0]

    def of_one(p, z, **options):
        return (t - x**2)(lambda y: network(p, y)[0], **options)(z)

    def products(**options):
        def both(p):
            def curvature(v):
                found, pull = jax.vjp(lambda p: residuals(p, **options), p)
                moved = jax.jvp(lambda p: residuals(p, **options), (p,), (v,))[1]
                return pull(moved)[0], found

            by_sample = jax.vmap(jax.grad(lambda p, z: of_one(p, z, **options)), (None, 0))
            return curvature(direction(p)), by_sample(p, points)

        return jax.jit(both)

    agree(products()(parameters), products(method="nested")(parameters))


def test_operators_of_gradients_of_operators(parameters, points):
    """The gradient of a loss inside of an operator, and operators of operators, trained."""

    def u(p, y, **options):
        return jf.laplacian(lambda y: network(p, y)[0], **options)(y)

    def outer(p, z, **options):
        inner = lambda y: u(p, y, **options) ** 2 + (jax.grad(partial(u, p))(y) ** 2).sum()
        return jf.laplacian(inner, **options)(z)

    def gradient(**options):
        return jax.jit(jax.grad(lambda p: outer(p, points[0], **options)))(parameters)

    agree(gradient(), gradient(method="nested"))
