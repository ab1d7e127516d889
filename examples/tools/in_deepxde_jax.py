"""DeepXDE's JAX backend, before and after one changed import: the losses, and the time of a step.

    python examples/tools/in_deepxde_jax.py                      # all of them
    python examples/tools/in_deepxde_jax.py --problems plate --steps 200

Burgers' equation and a plate are trained twice from the same parameters, with `import deepxde as
dde` and with `import jetfold.deepxde as dde`. An Euler beam has conditions on its slope, moment and
shear, which DeepXDE's JAX backend cannot evaluate, so it is trained with the second alone and held
against its solution. Needs deepxde, Flax and optax beside JAX.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("DDE_BACKEND", "jax")

import deepxde
import jax
import numpy as np

import jetfold.deepxde

# What a user writes: each takes `dde`, which is one import or the other. In JAX derivatives are
# pairs, (values, function).


def burgers(dde: Any, count: int) -> Any:
    """u_t + u u_x = ν u_xx."""

    def pde(x: Any, u: Any) -> Any:
        u_x, _ = dde.grad.jacobian(u, x, i=0, j=0)
        u_t, _ = dde.grad.jacobian(u, x, i=0, j=1)
        u_xx, _ = dde.grad.hessian(u, x, i=0, j=0)
        return u_t + u[0] * u_x - 0.01 / np.pi * u_xx

    line, time = dde.geometry.Interval(-1, 1), dde.geometry.TimeDomain(0, 0.99)
    domain = dde.geometry.GeometryXTime(line, time)
    wall = dde.icbc.DirichletBC(domain, lambda x: 0, lambda _, on: on)
    start = dde.icbc.IC(domain, lambda x: -np.sin(np.pi * x[:, :1]), lambda _, on: on)
    data = dde.data.TimePDE(domain, pde, [wall, start], count, 80, num_initial=160)
    return data, dde.nn.FNN([2, 20, 20, 20, 1], "tanh", "Glorot normal")


def plate(dde: Any, count: int) -> Any:
    """Δ²w = 1 on a square, its edge held."""

    def pde(x: Any, w: Any) -> Any:
        w_xx, w_yy = (dde.grad.hessian(w, x, i=k, j=k) for k in (0, 1))
        w_xxxx, _ = dde.grad.hessian(w_xx, x, i=0, j=0)
        w_xxyy, _ = dde.grad.hessian(w_xx, x, i=1, j=1)
        w_yyyy, _ = dde.grad.hessian(w_yy, x, i=1, j=1)
        return w_xxxx + 2 * w_xxyy + w_yyyy - 1

    square = dde.geometry.Rectangle([0, 0], [1, 1])
    edge = dde.icbc.DirichletBC(square, lambda x: 0, lambda _, on: on)
    data = dde.data.PDE(square, pde, [edge], count, max(4, count // 5))
    return data, dde.nn.FNN([2, 40, 40, 1], "tanh", "Glorot uniform")


def beam(dde: Any, count: int) -> Any:
    """w_xxxx = −1, clamped at the left, free at the right."""

    def left(x: Any, on: bool) -> bool:
        return on and bool(np.isclose(x[0], 0))

    def right(x: Any, on: bool) -> bool:
        return on and bool(np.isclose(x[0], 1))

    def moment(x: Any, w: Any) -> Any:
        return dde.grad.hessian(w, x)

    def shear(x: Any, w: Any) -> Any:
        return dde.grad.jacobian(moment(x, w), x)

    line = dde.geometry.Interval(0, 1)
    conditions = [
        dde.icbc.DirichletBC(line, lambda x: 0, left),
        dde.icbc.NeumannBC(line, lambda x: 0, left),
        dde.icbc.OperatorBC(line, lambda x, w, _: moment(x, w), right),
        dde.icbc.OperatorBC(line, lambda x, w, _: shear(x, w), right),
    ]

    def pde(x: Any, w: Any) -> Any:
        return dde.grad.hessian(moment(x, w), x)[0] + 1

    data = dde.data.PDE(line, pde, conditions, num_domain=10, num_boundary=2)
    return data, dde.nn.FNN([1, 20, 20, 20, 1], "tanh", "Glorot uniform")


def bent(x: np.ndarray) -> np.ndarray:
    """The solution of `beam`."""
    return -(x**4) / 24 + x**3 / 6 - x**2 / 4


PROBLEMS = {f.__name__: f for f in (burgers, plate, beam)}
POINTS = {"burgers": 2540, "plate": 1000, "beam": 10}

Problem = Callable[[Any, int], Any]


def compiled(dde: Any, problem: Problem, count: int) -> Any:
    """A model with the same parameters and points for either library."""
    dde.config.set_random_seed(0)
    model = dde.Model(*problem(dde, count))
    model.compile("adam", lr=1e-3, verbose=0)
    return model


def trained(dde: Any, problem: Problem, count: int, steps: int) -> tuple[np.ndarray, float]:
    """The losses after some steps of Adam, and the seconds that one takes at best."""
    model, taken = compiled(dde, problem, count), []
    batch = model.data.train_next_batch()
    for _ in range(steps):
        begin = time.perf_counter()
        model._train_step(*batch)
        jax.block_until_ready(model.params)
        taken.append(time.perf_counter() - begin)
    return model._outputs_losses(True, *batch)[1], min(taken[1:])  # the first one compiles


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", default=",".join(PROBLEMS))
    parser.add_argument("--steps", type=int, default=50, help="of burgers and plate")
    parser.add_argument("--quick", action="store_true", help="few steps and points")
    options = parser.parse_args(arguments)
    jax.config.update("jax_enable_x64", True)
    deepxde.config.set_default_float("float64")
    for name in options.problems.split(","):
        if name == "beam":
            model = compiled(jetfold.deepxde, beam, POINTS[name])
            steps = 10 if options.quick else 10_000
            model.train(steps, display_every=steps, verbose=0)
            x = np.linspace(0, 1, 101)[:, None]
            error = np.linalg.norm(model.predict(x) - bent(x)) / np.linalg.norm(bent(x))
            print(f"{name:8} relative error {error:.1e} after {steps} steps")
            if not options.quick and not error < 5e-2:
                raise SystemExit("FAILED: the beam is not bent as it should be")
            continue
        steps, count = (3, 9) if options.quick else (options.steps, POINTS[name])
        before, slow = trained(deepxde, PROBLEMS[name], count, steps)
        after, fast = trained(jetfold.deepxde, PROBLEMS[name], count, steps)
        error = float(np.abs(after / before - 1).max())
        print(
            f"{name:8} {1e3 * slow:7.2f} ms a step before, {1e3 * fast:7.2f} ms after: "
            f"{slow / fast:.2f} ×; losses agree to {error:.0e}"
        )
        if not error < 1e-5:  # parameters are float32
            raise SystemExit(f"FAILED: the losses of {name} differ by {error:.0e}")


if __name__ == "__main__":
    main()
