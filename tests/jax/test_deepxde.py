"""DeepXDE's JAX backend: the same numbers, all derivatives of a step from one propagation."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

import numpy as np
import pytest

jax = pytest.importorskip("jax")
pytest.importorskip("flax")
os.environ.setdefault("DDE_BACKEND", "jax")
deepxde = pytest.importorskip("deepxde")
if deepxde.backend.backend_name != "jax":
    pytest.skip(f"DeepXDE runs with {deepxde.backend.backend_name} here", allow_module_level=True)
import jax.numpy as jnp

import jetfold.deepxde as dde
from jetfold.deepxde import pairs


@pytest.fixture(autouse=True, scope="module")
def double():
    """DeepXDE in double precision."""
    deepxde.config.set_default_float("float64")
    with jax.enable_x64(True):
        yield
    deepxde.config.set_default_float("float32")


EXAMPLE = Path(__file__).parents[2] / "examples" / "tools" / "in_deepxde_jax.py"

# ------------------------------------------------------------------ the same as DeepXDE


def reaction(lib):
    """Two fields with an unknown rate, a gradient, a product, and both transforms of the network."""
    rate = lib.Variable(0.7)

    def pde(x, y, unknowns=None):
        k = unknowns[0]
        u_t, _ = lib.grad.jacobian(y, x, i=0, j=1)
        slopes = lib.grad.jacobian(y, x, i=1)
        twist, _ = lib.grad.jacobian(slopes, x, i=0, j=1)
        u_xx, v_xx = (lib.grad.hessian(y, x, component=c, i=0, j=0)[0] for c in (0, 1))
        product = jnp.prod(y[0], 1, keepdims=True), lambda p: jnp.prod(y[1](p), keepdims=True)
        mixed, _ = lib.grad.jacobian(product, x, j=0)
        return [u_t - k * u_xx + mixed, slopes[0][:, :1] - v_xx + k * y[0][:, 1:] - 0.1 * twist]

    line, time = lib.geometry.Interval(-1, 1), lib.geometry.TimeDomain(0, 1)
    domain = lib.geometry.GeometryXTime(line, time)
    start = lib.icbc.IC(domain, lambda x: x[:, :1], lambda _, on: on, component=1)
    data = lib.data.TimePDE(
        domain, pde, [start], 9, num_initial=3, train_distribution="pseudo"
    )  # fmt: skip
    net = lib.nn.FNN([3, 5, 2], "tanh", "Glorot uniform")
    net.apply_feature_transform(lambda x: jnp.concatenate([jnp.sin(3 * x), x[:, :1] * x[:, 1:]], 1))
    net.apply_output_transform(lambda x, y: (1 - x[:, :1] ** 2) * y + jnp.cos(x[:, :1]))
    return data, net, {"external_trainable_variables": [rate]}


def compiled(lib, problem):
    """A model of double precision, always of the same parameters and points."""
    lib.config.set_random_seed(3)
    data, net, options = problem(lib)
    model = lib.Model(data, net)
    parameters = net.init(jax.random.key(3), data.train_x[:1])
    rng = np.random.default_rng(3)
    model.params = net.params = jax.tree.map(
        lambda a: a.astype(jnp.float64) + 0.3 * rng.standard_normal(a.shape), parameters
    )
    model.compile("adam", lr=1e-2, verbose=0, **options)
    return model


def test_the_same_losses():
    losses = []
    for lib in (deepxde, dde):
        model = compiled(lib, reaction)
        losses.append(model._outputs_losses(True, *model.data.train_next_batch())[1])
    assert len(losses[0]) == 3 and (losses[0] > 1e-6).all()
    np.testing.assert_allclose(*losses, rtol=1e-9)
    assert not pairs._calls  # nothing of them is kept


def test_training_by_the_example(capsys):
    """Burgers' equation, to the same losses."""
    runpy.run_path(str(EXAMPLE))["main"](["--quick", "--problems", "burgers"])
    assert "losses agree to" in capsys.readouterr().out


# ------------------------------------------------------------------ what DeepXDE does not offer in JAX


def test_boundary_conditions_with_derivatives(monkeypatch):
    """Euler's beam and others, against nested jax.grad; with the equation they take one propagation."""
    counted = []
    operators = pairs.operators
    monkeypatch.setattr(pairs, "operators", lambda *args: counted.append(args) or operators(*args))

    def beam(lib):
        line = lib.geometry.Interval(0, 1)

        def shear(x, w, _):
            return lib.grad.jacobian(lib.grad.hessian(w, x), x)

        def side(value):
            return lambda x, on: on and np.isclose(x[0], value)

        conditions = [
            lib.icbc.NeumannBC(line, lambda x: 0.3, side(0)),
            lib.icbc.RobinBC(line, lambda x, w: 2 * w, side(1)),
            lib.icbc.PeriodicBC(line, 0, side(0), derivative_order=1),
            lib.icbc.OperatorBC(line, shear, side(1)),
            lib.icbc.OperatorBC(line, lambda x, w, _: lib.grad.laplacian(w, x), side(0)),
        ]

        def pde(x, w):
            return lib.grad.hessian(lib.grad.hessian(w, x), x)[0] + 1

        data = lib.data.PDE(line, pde, conditions, num_domain=5, num_boundary=2)
        return data, lib.nn.FNN([1, 5, 5, 1], "tanh", "Glorot uniform"), {}

    model = compiled(dde, beam)
    batch = model.data.train_next_batch()
    _, found = model.outputs_losses_train(model.params, *batch[:2])
    assert len(counted) == 1 and len(counted[0][1]) == 4

    found_at = [lambda x: model.net.apply(model.net.params, jnp.array([[x]]))[0, 0]]
    for _ in range(4):
        found_at.append(jax.grad(found_at[-1]))
    w, w1, w2, w3, w4 = found_at
    inside = [float(x) for x in batch[0][6:, 0]]
    terms = [
        np.mean([(w4(x) + 1) ** 2 for x in inside]),
        (-w1(0.0) - 0.3) ** 2,  # the normal points to the left
        (w1(1.0) - 2 * w(1.0)) ** 2,
        (w1(0.0) - w1(1.0)) ** 2,
        w3(1.0) ** 2,
        w2(0.0) ** 2,
    ]
    np.testing.assert_allclose(found, np.array(terms), rtol=1e-9)

    def third(x, w):
        slope = dde.grad.jacobian(w, x)
        return dde.grad.hessian(slope, x)[0] * slope[0]

    predicted = model.predict(np.array([[0.2], [0.7]]), operator=third)
    np.testing.assert_allclose(predicted[:, 0], [w3(x) * w1(x) for x in (0.2, 0.7)], rtol=1e-9)
    assert len(counted) == 2


def test_more_than_deepxde_has(rng):
    """Of a pair outside of a model, and of its derivatives at other points."""

    def f(p):
        return jnp.stack([jnp.sin(p[0] * p[1]) * p[2], jnp.exp(p[0]) * p[1] ** 3 * p[2] ** 4])

    def asked(x, elsewhere):
        y, g = (jax.vmap(f)(x), f), dde.grad
        lap = g.laplacian(y, x, component=1, over=(1, 2))
        slope, function = g.jacobian(lap, elsewhere, j=0)
        return [
            g.biharmonic(y, x, component=1, over=(1, 2))[0],
            g.derivative(y, x, 2, 0, 0, component=1)[0],
            g.jacobian(y, x, j=1)[0],
            slope,
            jax.vmap(function)(elsewhere),
        ]

    points = rng.standard_normal((2, 4, 3))
    (x, y, z), (a, b, c) = (at.T for at in points)
    slope = np.exp(a) * (6 * b * c**4 + 12 * b**3 * c**2)
    wanted = [
        np.exp(x) * (144 * y * z**2 + 24 * y**3),
        np.exp(x) * y**3 * 4 * z**3,
        np.stack([np.cos(x * y) * x * z, np.exp(x) * 3 * y**2 * z**4], 1),
        slope,
        slope,
    ]
    for found, expected in zip(jax.jit(asked)(*points), wanted, strict=True):
        np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=1e-9)


def test_arrays_of_which_nobody_knows_the_function():
    x = jnp.ones((3, 2))
    with pytest.raises(TypeError, match=r"derivatives are of pairs.*not outputs\[:, 0:1\]\).*got"):
        dde.grad.hessian(jnp.sin(x), x)
    with pytest.raises(ValueError, match="i=2 is not valid"):
        dde.grad.jacobian((jnp.sin(x), jnp.sin), x, i=2, j=0)
    assert dde.watch(x) is x and dde.geometry is deepxde.geometry
