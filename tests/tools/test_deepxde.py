"""DeepXDE's models train as they did, to the same numbers, from one propagation per set of points."""

from __future__ import annotations

import importlib
import os
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")
os.environ.setdefault("DDE_BACKEND", "pytorch")
deepxde = pytest.importorskip("deepxde")
if deepxde.backend.backend_name != "pytorch":
    pytest.skip(f"DeepXDE runs with {deepxde.backend.backend_name} here", allow_module_level=True)

import jetfold.deepxde as dde
from jetfold import JetfoldWarning, watched
from jetfold.watched import calling


@pytest.fixture(autouse=True, scope="module")
def double():
    """DeepXDE in double precision; it sets PyTorch's own default with its own."""
    before = torch.get_default_dtype()
    deepxde.config.set_default_float("float64")
    yield
    deepxde.config.set_default_float("float32")
    torch.set_default_dtype(before)


@pytest.fixture(autouse=True)
def forgotten():
    yield
    dde.grad.clear()


# ------------------------------------------------------------------ problems, for either library


def plate(lib):
    """A plate, Δ²w = 1, by hessians of hessians; its boundary asks for slopes, moments, Robin's."""

    def pde(x, w):
        w_xx = lib.grad.hessian(w, x, i=0, j=0)
        w_yy = lib.grad.hessian(w, x, i=1, j=1)
        w_xxxx = lib.grad.hessian(w_xx, x, i=0, j=0)
        w_xxyy = lib.grad.hessian(w_xx, x, i=1, j=1)
        w_yyyy = lib.grad.hessian(w_yy, x, i=1, j=1)
        return w_xxxx + 2 * w_xxyy + w_yyyy - 1

    def side(k, value):
        return lambda x, on: on and np.isclose(x[k], value)

    geometry = lib.geometry.Rectangle([0, 0], [1, 1])
    conditions = [
        lib.icbc.DirichletBC(geometry, lambda x: 0, lambda x, on: on),
        lib.icbc.NeumannBC(geometry, lambda x: 0, side(0, 0)),
        lib.icbc.RobinBC(geometry, lambda x, w: w, side(1, 0)),
        lib.icbc.PeriodicBC(geometry, 1, side(1, 0), derivative_order=1),
        lib.icbc.OperatorBC(
            geometry,
            lambda x, w, _: lib.grad.jacobian(lib.grad.hessian(w, x, i=0, j=0), x, i=0, j=0),
            side(0, 1),
        ),
    ]
    data = lib.data.PDE(geometry, pde, conditions, 30, 12, exclusions=CORNERS, num_test=9)
    return data, lib.nn.FNN([2, 8, 8, 1], "tanh", "Glorot uniform"), {}


CORNERS = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])


def reaction(lib):
    """Two fields with an unknown rate, an auxiliary variable, and both transforms of the network."""
    rate = lib.Variable(0.7)

    def pde(x, y, aux):
        u, v = y[:, 0:1], y[:, 1:2]
        u_t = lib.grad.jacobian(y, x, i=0, j=1)
        v_t = lib.grad.jacobian(v, x, i=0, j=1)
        lap = [lib.grad.hessian(y, x, component=k, i=0, j=0) for k in (0, 1)]
        mixed = lib.grad.jacobian(u * v, x, j=0)  # of a product
        slopes = lib.grad.jacobian(y, x, i=1)  # a gradient
        twist = lib.grad.jacobian(slopes, x, i=0, j=1)  # and of that
        return [u_t - rate * lap[0] + aux * mixed, v_t - lap[1] + rate * u * v - 0.1 * twist]

    time = lib.geometry.TimeDomain(0, 1)
    geometry = lib.geometry.GeometryXTime(lib.geometry.Interval(-1, 1), time)
    start = lib.icbc.IC(geometry, lambda x: x[:, :1], lambda _, on: on, component=1)
    data = lib.data.TimePDE(
        geometry, pde, [start], num_domain=25, num_boundary=6, num_initial=5,
        auxiliary_var_function=lambda x: np.cos(x[:, :1]), train_distribution="pseudo",
    )  # fmt: skip
    net = lib.nn.PFNN([3, [7, 6], 2], "tanh", "Glorot uniform")
    net.apply_feature_transform(lambda x: torch.cat([torch.sin(3 * x), x[:, :1] * x[:, 1:]], 1))
    net.apply_output_transform(lambda x, y: (1 - x[:, :1] ** 2) * y + torch.cos(x[:, :1]))
    return data, net, {"external_trainable_variables": rate}


def trained(lib, problem, optimiser, steps):
    """Losses along the way, parameters at the end, and the residual elsewhere."""
    lib.config.set_random_seed(3)
    data, net, options = problem(lib)
    model = lib.Model(data, net)
    if optimiser == "L-BFGS":
        model.compile("L-BFGS", verbose=0, **options)
        history, _ = model.train(display_every=1, verbose=0)
    else:
        model.compile("adam", lr=1e-2, verbose=0, **options)
        resampled = [lib.callbacks.PDEPointResampler(period=3, bc_points=True)]
        callbacks = resampled if problem is reaction else []
        history, _ = model.train(steps, display_every=1, verbose=0, callbacks=callbacks)
    found = [*history.loss_train, *history.loss_test]
    found += [p.detach().numpy() for p in net.parameters()]
    found += [v.detach().numpy() for v in model.external_trainable_variables]
    if problem is plate:
        x = np.linspace(0.1, 0.9, 8).reshape(4, 2)
        for _ in range(2):  # the second from a propagation
            found.append(model.predict(x, operator=data.pde))
        found.append(model.predict(x))
    return found, model


@pytest.mark.parametrize(
    ("problem", "optimiser"), [(plate, "adam"), (plate, "L-BFGS"), (reaction, "adam")]
)
def test_training_gives_the_same_numbers(problem, optimiser, monkeypatch):
    for name in ("maxiter", "iter_per_step", "fun_per_step"):
        monkeypatch.setitem(deepxde.optimizers.LBFGS_options, name, 5)
    expected, _ = trained(deepxde, problem, optimiser, 5)
    found, model = trained(dde, problem, optimiser, 5)
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)
    assert watched._networks[model.net].trusted  # propagations took place
    assert not watched._calls  # and nothing of them is kept


def test_deepxdes_forward_mode_stays_deepxdes(monkeypatch):
    """There outputs are pairs of values and their function."""
    monkeypatch.setattr(deepxde.config, "autodiff", "forward")

    def problem(lib):
        def pde(x, y):
            y_x = lib.grad.jacobian(y, x, i=0, j=0)
            y_xx = lib.grad.hessian(y, x, component=1, i=0, j=1)
            return [y_x[0] + y_xx[0], lib.grad.hessian(y, x, i=1, j=1)[0]]

        geometry = lib.geometry.Rectangle([0, 0], [1, 1])
        data = lib.data.PDE(geometry, pde, [], num_domain=10)
        return data, lib.nn.FNN([2, 6, 2], "tanh", "Glorot uniform"), {}

    expected, found = (trained(lib, problem, "adam", 3)[0] for lib in (deepxde, dde))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10)


def test_one_propagation_per_set_of_points(monkeypatch):
    """Equation and boundary conditions of a step share it; the first step and autograd learn."""
    count = {"row": 0, "propagation": 0}
    row, operators = watched.row, watched.operators

    def counted(name, function):
        def wrapped(*args):
            count[name] += 1
            return function(*args)

        return wrapped

    deepxde.config.set_random_seed(3)
    data, net, _ = plate(dde)
    model = dde.Model(data, net)
    model.compile("adam", lr=1e-3, verbose=0)
    model.train(2, verbose=0)
    monkeypatch.setattr(watched, "row", counted("row", row))
    monkeypatch.setattr(watched, "operators", counted("propagation", operators))
    x, y, aux = model.data.train_next_batch()
    model.train_step(x, y, aux)
    assert count == {"row": 0, "propagation": 1}


# ------------------------------------------------------------------ jetfold's own functions


@pytest.fixture
def net_and_points():
    torch.manual_seed(4)
    net = dde.watch(dde.nn.FNN([3, 8, 2], "tanh", "Glorot uniform"), always=True)
    return net, torch.randn(6, 3, requires_grad=True)


def test_more_than_deepxde_has(net_and_points):
    net, x = net_and_points
    g = deepxde.grad
    for _ in range(2):
        y = net(x)
        lap = dde.grad.laplacian(y, x, component=1, over=(0, 2))
        found = [
            lap,
            dde.grad.laplacian(lap, x, over=(0, 2)),
            dde.grad.biharmonic(y, x, component=1, over=(0, 2)),
            dde.grad.derivative(y, x, 2, 0, 0),
            dde.grad.jacobian(y, x, j=1),
        ]
    with calling(False):
        y = net(x)
    h = [g.hessian(y, x, component=1, i=k, j=k) for k in (0, 2)]
    square = sum(g.hessian(a, x, i=k, j=k) for a in h for k in (0, 2))
    third = g.jacobian(g.hessian(y, x, i=0, j=0), x, i=0, j=2)
    column = torch.cat([g.jacobian(y, x, i=k, j=1) for k in (0, 1)], 1)
    expected = [sum(h), square, square, third, column]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    unwatched = [dde.grad.laplacian(y, x, 1, (0, 2)), dde.grad.biharmonic(y, x, 1, (0, 2)),
                 dde.grad.derivative(y, x, 2, 0, 0)]  # fmt: skip
    torch.testing.assert_close(unwatched, [sum(h), square, third], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (lambda g, y, x: g.jacobian(y, x), "both None"),
        (lambda g, y, x: g.jacobian(y, x, i=2), "i=2 is not valid"),
        (lambda g, y, x: g.jacobian(y, x, i=0, j=3), "j=3 is not valid"),
        (lambda g, y, x: g.hessian(y, x, component=2), "component of ys=2"),
        (lambda g, y, x: g.hessian(y, x, i=0, j=5), r"coordinates 0 to 2, got \(0, 5\)"),
        (lambda g, y, x: g.laplacian(y, x, over=[3]), r"over= lists coordinates, 0 to 2, got \[3"),
    ],
)
def test_wrong_places(asked, message, net_and_points):
    net, x = net_and_points
    with pytest.raises(ValueError, match=message):
        asked(dde.grad, net(x), x)


def test_networks_that_nobody_watches(monkeypatch):
    monkeypatch.setattr(watched, "_networks", {})
    x = torch.randn(4, 2, requires_grad=True)
    with pytest.warns(
        JetfoldWarning, match=r"no network is watched.*import jetfold.deepxde as dde"
    ):
        found = dde.grad.jacobian((x**3).sum(1, keepdim=True), x, j=0)
    torch.testing.assert_close(found, 3 * x[:, :1] ** 2)


def test_all_else_is_deepxdes():
    assert dde.geometry is deepxde.geometry
    assert dde.Model is not deepxde.Model
    assert {"grad", "Model", "watch", "nn", "icbc"} <= set(dir(dde))
    with pytest.raises(AttributeError):
        _ = dde.no_such_thing


def test_other_backends(monkeypatch):
    monkeypatch.setattr(deepxde.backend, "backend_name", "paddle")
    monkeypatch.delitem(sys.modules, "jetfold.deepxde")
    with pytest.raises(ImportError, match=r"backend in use is paddle: set DDE_BACKEND=pytorch or"):
        importlib.import_module("jetfold.deepxde")
