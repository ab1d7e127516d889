"""DeepXDE's problems, before and after one changed import: the same losses, and the time of a step.

    python examples/tools/in_deepxde.py                      # all of them
    python examples/tools/in_deepxde.py --problems beam,plate --steps 200

Each model is trained twice from the same parameters, with `import deepxde as dde` and with
`import jetfold.deepxde as dde`. They are DeepXDE's own examples in short: Burgers' equation, an
Euler beam, Allen-Cahn with its conditions built into the network, a diffusion coefficient found
from data, and a clamped plate. Needs deepxde beside PyTorch.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("DDE_BACKEND", "pytorch")

import deepxde
import numpy as np
import torch

import jetfold.deepxde

# What a user writes: each takes `dde`, which is one import or the other.


def burgers(dde: Any) -> Any:
    """u_t + u u_x = ν u_xx."""

    def pde(x: Any, u: Any) -> Any:
        u_x = dde.grad.jacobian(u, x, i=0, j=0)
        u_t = dde.grad.jacobian(u, x, i=0, j=1)
        return u_t + u * u_x - 0.01 / np.pi * dde.grad.hessian(u, x, i=0, j=0)

    line, time = dde.geometry.Interval(-1, 1), dde.geometry.TimeDomain(0, 0.99)
    domain = dde.geometry.GeometryXTime(line, time)
    wall = dde.icbc.DirichletBC(domain, lambda x: 0, lambda _, on: on)
    start = dde.icbc.IC(domain, lambda x: -np.sin(np.pi * x[:, :1]), lambda _, on: on)
    data = dde.data.TimePDE(domain, pde, [wall, start], 2540, 80, num_initial=160)
    return dde.Model(data, dde.nn.FNN([2, 20, 20, 20, 1], "tanh", "Glorot normal")), {}


def beam(dde: Any) -> Any:
    """w_xxxx = −1, clamped at the left, free at the right."""

    def moment(x: Any, w: Any) -> Any:
        return dde.grad.hessian(w, x)

    def shear(x: Any, w: Any) -> Any:
        return dde.grad.jacobian(moment(x, w), x)

    def pde(x: Any, w: Any) -> Any:
        return dde.grad.hessian(moment(x, w), x) + 1

    def left(x: Any, on: bool) -> bool:
        return on and bool(np.isclose(x[0], 0))

    def right(x: Any, on: bool) -> bool:
        return on and bool(np.isclose(x[0], 1))

    line = dde.geometry.Interval(0, 1)
    conditions = [
        dde.icbc.DirichletBC(line, lambda x: 0, left),
        dde.icbc.NeumannBC(line, lambda x: 0, left),
        dde.icbc.OperatorBC(line, lambda x, w, _: moment(x, w), right),
        dde.icbc.OperatorBC(line, lambda x, w, _: shear(x, w), right),
    ]
    data = dde.data.PDE(line, pde, conditions, num_domain=10, num_boundary=2, num_test=100)
    return dde.Model(data, dde.nn.FNN([1, 20, 20, 20, 1], "tanh", "Glorot uniform")), {}


def plate(dde: Any) -> Any:
    """Δ²w = 1 on a square, clamped: Kirchhoff's plate."""

    def pde(x: Any, w: Any) -> Any:
        w_xx = dde.grad.hessian(w, x, i=0, j=0)
        w_yy = dde.grad.hessian(w, x, i=1, j=1)
        w_xxxx = dde.grad.hessian(w_xx, x, i=0, j=0)
        w_xxyy = dde.grad.hessian(w_xx, x, i=1, j=1)
        return w_xxxx + 2 * w_xxyy + dde.grad.hessian(w_yy, x, i=1, j=1) - 1

    square = dde.geometry.Rectangle([0, 0], [1, 1])
    corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    conditions = [
        dde.icbc.DirichletBC(square, lambda x: 0, lambda _, on: on),
        dde.icbc.NeumannBC(square, lambda x: 0, lambda _, on: on),
    ]
    data = dde.data.PDE(square, pde, conditions, 1000, 200, exclusions=corners)
    return dde.Model(data, dde.nn.FNN([2, 40, 40, 40, 1], "tanh", "Glorot uniform")), {}


def allen_cahn(dde: Any) -> Any:
    """u_t = d u_xx + 5 (u − u³); the network meets its conditions by construction."""

    def pde(x: Any, u: Any) -> Any:
        u_t = dde.grad.jacobian(u, x, i=0, j=1)
        return u_t - 0.001 * dde.grad.hessian(u, x, i=0, j=0) - 5 * (u - u**3)

    def constrained(x: Any, u: Any) -> Any:
        at, t = x[:, :1], x[:, 1:]
        return at**2 * torch.cos(np.pi * at) + t * (1 - at**2) * u

    line, time = dde.geometry.Interval(-1, 1), dde.geometry.TimeDomain(0, 1)
    domain = dde.geometry.GeometryXTime(line, time)
    data = dde.data.TimePDE(domain, pde, [], 8000, 400, num_initial=800)
    net = dde.nn.FNN([2, 20, 20, 20, 1], "tanh", "Glorot normal")
    net.apply_output_transform(constrained)
    return dde.Model(data, net), {}


def inverse(dde: Any) -> Any:
    """u_t = c u_xx + source: c from observations of u at the end."""
    c = dde.Variable(2.0)

    def pde(x: Any, u: Any) -> Any:
        u_t = dde.grad.jacobian(u, x, i=0, j=1)
        wave = torch.sin(np.pi * x[:, :1])
        source = torch.exp(-x[:, 1:]) * (wave - np.pi**2 * wave)
        return u_t - c * dde.grad.hessian(u, x, i=0, j=0) + source

    def exact(x: Any) -> Any:
        return np.sin(np.pi * x[:, :1]) * np.exp(-x[:, 1:])

    line, time = dde.geometry.Interval(-1, 1), dde.geometry.TimeDomain(0, 1)
    domain = dde.geometry.GeometryXTime(line, time)
    observed = np.stack([np.linspace(-1, 1, 10), np.ones(10)], 1)
    conditions = [
        dde.icbc.DirichletBC(domain, exact, lambda _, on: on),
        dde.icbc.IC(domain, exact, lambda _, on: on),
        dde.icbc.PointSetBC(observed, exact(observed), component=0),
    ]
    data = dde.data.TimePDE(domain, pde, conditions, 40, 20, num_initial=10, anchors=observed)
    net = dde.nn.FNN([2, 32, 32, 32, 1], "tanh", "Glorot uniform")
    return dde.Model(data, net), {"external_trainable_variables": c}


PROBLEMS = {f.__name__: f for f in (burgers, beam, plate, allen_cahn, inverse)}

Problem = Callable[[Any], Any]


def trained(dde: Any, problem: Problem, steps: int) -> tuple[np.ndarray, float]:
    """The losses after some steps of Adam, and the seconds that one takes at best."""
    dde.config.set_random_seed(0)
    model, options = problem(dde)
    model.compile("adam", lr=1e-3, verbose=0, **options)
    batch = model.data.train_next_batch()
    model.train_state.set_data_train(*batch)
    taken = []
    for _ in range(steps):
        begin = time.perf_counter()
        model.train_step(*batch)
        taken.append(time.perf_counter() - begin)
    losses = model.outputs_losses_train(*batch)[1]
    return losses.detach().cpu().numpy(), min(taken[2:])  # the first learn what is asked for


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", default=",".join(PROBLEMS))
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--quick", action="store_true", help="five steps")
    options = parser.parse_args(arguments)
    steps = 5 if options.quick else options.steps
    deepxde.config.set_default_float("float64")
    for name in options.problems.split(","):
        before, slow = trained(deepxde, PROBLEMS[name], steps)
        after, fast = trained(jetfold.deepxde, PROBLEMS[name], steps)
        error = float(np.abs(after / before - 1).max())
        print(
            f"{name:11} {1e3 * slow:7.1f} ms a step before, {1e3 * fast:7.1f} ms after: "
            f"{slow / fast:.2f} ×; losses agree to {error:.0e}"
        )
        if not error < 1e-8:
            raise SystemExit(f"FAILED: the losses of {name} differ by {error:.0e}")


if __name__ == "__main__":
    main()
