"""Solves the equations of the gallery by physics-informed networks, and draws them.

    python examples/gallery/solve.py burgers --framework jax       # minutes
    python examples/gallery/solve.py --quick                       # all ten, test-sized

A tanh network of all coordinates gives all fields. The loss is the mean square of the residual in
the box, divided by the size of its terms, and 4 times that of the misfit on its sides: where the
values are given, at the first time and on the sides in space (of fourth order the normal slopes
too). scipy's L-BFGS minimises it, with one gradient of the framework per step. Each run ends with
an error if the solution is not as good as the problem says.

Needs scipy, rich and matplotlib beside the framework.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from problems import PROBLEMS, Problem
from runs import Run, record
from scipy.optimize import minimize

import jetfold as jf

WEIGHT = 4.0


@dataclass(frozen=True)
class Size:
    """Of a run."""

    width: int
    hidden: int
    inside: int
    on_sides: int
    steps: int


QUICK = Size(width=20, hidden=2, inside=300, on_sides=60, steps=0)
FULL = Size(width=24, hidden=3, inside=1000, on_sides=120, steps=0)
"""As many steps as the problem says."""

# ------------------------------------------------------------------ points and networks


@dataclass(frozen=True)
class Side:
    """A side of the box: points Float[n, coordinates] and the coordinate that is constant there."""

    points: np.ndarray
    normal: int


def inside(problem: Problem, count: int, rng: np.random.Generator) -> np.ndarray:
    """Points in the box, Float[count, coordinates]."""
    low, high = np.transpose(problem.box)
    return low + (high - low) * rng.random((count, len(low)))


def sides(problem: Problem, count: int, rng: np.random.Generator) -> list[Side]:
    """Where values are given."""
    found = []
    for k, (name, ends) in enumerate(zip(problem.coordinates.split(), problem.box, strict=True)):
        for which, end in enumerate(ends):
            if name == "t" and which != problem.backwards:
                continue
            points = inside(problem, count, rng)
            points[:, k] = end
            found.append(Side(points, k))
    return found


def exact(problem: Problem, xp: Any, points: Any) -> Any:
    """The fields, Float[n, fields]."""
    found = problem.exact(xp, *(points[..., k] for k in range(len(problem.box))))
    return xp.stack(found if isinstance(found, tuple) else (found,), -1)


class Network:
    """A tanh network whose weights and biases are one vector."""

    def __init__(self, problem: Problem, size: Size, outputs: int) -> None:
        low, high = np.transpose(problem.box)
        self.middle, self.half = (low + high) / 2, (high - low) / 2
        widths = [len(low), *[size.width] * size.hidden, outputs]
        self.shapes = [shape for n, m in pairwise(widths) for shape in ((n, m), (m,))]

    def start(self, rng: np.random.Generator) -> np.ndarray:
        """Glorot's weights and zeros."""
        parts = [
            rng.normal(size=s) * (2 / sum(s)) ** 0.5 if len(s) == 2 else np.zeros(s)
            for s in self.shapes
        ]
        return np.concatenate([part.ravel() for part in parts])

    def __call__(self, xp: Any, parameters: Any, p: Any) -> Any:
        """Float[..., coordinates] -> Float[..., outputs]."""
        ends = np.cumsum([int(np.prod(s)) for s in self.shapes])
        parts = [
            parameters[end - int(np.prod(s)) : end].reshape(s)
            for end, s in zip(ends, self.shapes, strict=True)
        ]
        columns = [
            (p[..., k] - m) / h for k, (m, h) in enumerate(zip(self.middle, self.half, strict=True))
        ]
        x = xp.stack(columns, -1)
        for weight, bias in zip(parts[:-2:2], parts[1:-2:2], strict=True):
            x = xp.tanh(x @ weight + bias)
        return x @ parts[-2] + parts[-1]


# ------------------------------------------------------------------ the loss


def residual(problem: Problem, xp: Any, f: Callable[[Any], Any], points: Any) -> list[Any]:
    """What a function lacks to solve the equation, one array per equation."""
    equation = jf.residual(problem.equation, problem.coordinates)
    given = {"xp": xp} if "xp" in equation.parameters else {}
    found = equation(f, batch_dims=1)(points, **given)
    return list(found.values()) if isinstance(found, dict) else [found]


def loss(
    problem: Problem, xp: Any, f: Callable[[Any], Any], points: Any, data: Sequence[Any]
) -> Any:
    """The mean square of the residual, and of the misfit on the sides."""
    inner = [(term / problem.scale) ** 2 for term in residual(problem, xp, f, points)]
    total = sum(term.mean() for term in inner)
    for on_side, values, slopes, normal in data:
        if slopes is None:
            total = total + WEIGHT * ((f(on_side) - values) ** 2).mean()
            continue
        found = jf.derivatives([jf.value, normal])(f, batch_dims=1)(on_side)
        misfit = (found[0] - values) ** 2 + (found[1] - slopes) ** 2
        total = total + WEIGHT * misfit.mean()
    return total


def given(
    problem: Problem, xp: Any, array: Callable[[Any], Any], count: int, rng: Any
) -> list[Any]:
    """Of each side the points, the values, and the slopes with the operator that gives them."""
    found, partials = [], jf.partials(problem.coordinates)

    def f(p: Any) -> Any:
        return exact(problem, xp, p)

    for side in sides(problem, count, rng):
        points, normal = array(side.points), partials[side.normal]
        wanted = problem.slopes and problem.coordinates.split()[side.normal] != "t"
        slopes = normal(f, batch_dims=1)(points) if wanted else None
        found.append((points, f(points), slopes, normal))
    return found


# ------------------------------------------------------------------ the frameworks


Gradient = Callable[[np.ndarray], tuple[float, np.ndarray]]


def in_torch(
    problem: Problem, network: Network, points: np.ndarray, count: int, rng: Any
) -> Gradient:
    """parameters -> the loss and its gradient."""
    import torch

    inner, data = torch.as_tensor(points), given(problem, torch, torch.as_tensor, count, rng)

    def gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.tensor(flat, requires_grad=True)
        value = loss(problem, torch, lambda p: network(torch, leaf, p), inner, data)
        value.backward()
        return float(value.detach()), leaf.grad.numpy()

    return gradient


def in_jax(
    problem: Problem, network: Network, points: np.ndarray, count: int, rng: Any
) -> Gradient:
    """parameters -> the loss and its gradient."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_enable_x64", True)
    inner, data = jnp.asarray(points), given(problem, jnp, jnp.asarray, count, rng)

    @jax.jit
    @jax.value_and_grad
    def gradient(flat: Any) -> Any:
        return loss(problem, jnp, lambda p: network(jnp, flat, p), inner, data)

    return lambda flat: tuple(map(np.asarray, gradient(flat)))


FRAMEWORKS = {"torch": in_torch, "jax": in_jax}


# ------------------------------------------------------------------ a run


@dataclass(frozen=True)
class Solution:
    """What a run found: a function of points, its relative error, and its processor time."""

    problem: Problem
    values: Callable[[np.ndarray], np.ndarray]
    error: float
    steps: int
    seconds: float

    @property
    def reached(self) -> tuple[int, float, float]:
        """The steps, the error and the seconds."""
        return self.steps, self.error, self.seconds


class NumPy:
    """The functions of networks and solutions, by NumPy."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def erf(z: Any) -> Any:
        from scipy.special import erf

        return erf(z)


def solve(
    problem: Problem,
    framework: str,
    size: Size,
    seed: int = 0,
    report: Callable[[int], None] = lambda step: None,
) -> Solution:
    """Train a network; the error is that of all fields at points in the box."""
    began = time.process_time()
    rng, xp = np.random.default_rng(seed), NumPy()
    test = inside(problem, 2000, rng)
    wanted = exact(problem, xp, test)
    network = Network(problem, size, wanted.shape[-1])
    points = inside(problem, size.inside, rng)
    gradient = FRAMEWORKS[framework](problem, network, points, size.on_sides, rng)
    steps = iter(range(1, size.steps + 1))
    found = minimize(
        gradient,
        network.start(rng),
        jac=True,
        method="L-BFGS-B",
        callback=lambda _: report(next(steps)),
        options={
            "maxiter": size.steps,
            "maxfun": 2 * size.steps,
            "maxcor": 50,
            "ftol": 0,
            "gtol": 1e-10,
        },
    )

    def values(p: np.ndarray) -> np.ndarray:
        return network(xp, found.x, p)

    error = float(np.linalg.norm(values(test) - wanted) / np.linalg.norm(wanted))
    return Solution(problem, values, error, int(found.nit), time.process_time() - began)


def picture(solution: Solution, path: Path) -> None:
    """The first field, and what it is off, over the first two coordinates in space and time."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    problem = solution.problem
    names, box = problem.coordinates.split(), list(problem.box)
    shown = [k for k in range(len(names)) if len(names) == 2 or names[k] != "t"]
    axes = [np.linspace(*box[k], 121) for k in shown]
    grid = np.stack([np.full((121, 121), float(ends[1])) for ends in box], -1)
    for k, values in zip(shown, np.meshgrid(*axes, indexing="ij"), strict=True):
        grid[..., k] = values
    found = solution.values(grid)[..., 0]
    off = found - exact(problem, NumPy(), grid)[..., 0]
    figure = Figure(figsize=(8.0, 3.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    last = "" if len(shown) == len(names) else ", at the last time"
    for axis, values, title, colours in zip(
        figure.subplots(1, 2), (found, off), (f"{problem.title}: the network{last}", "its error"),
        ("viridis", "RdBu"), strict=True,
    ):  # fmt: skip
        limit = {"vmin": -abs(off).max(), "vmax": abs(off).max()} if values is off else {}
        mesh = axis.pcolormesh(*axes, values.T, cmap=colours, shading="gouraud", **limit)
        figure.colorbar(mesh, ax=axis)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(names[shown[0]])
        axis.set_ylabel(names[shown[1]])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    Image.open(path).convert("RGB").quantize(256).save(path, optimize=True)  # half the bytes


def sized(problem: Problem, quick: bool, steps: int | None = None) -> Size:
    """Of a test-sized run, or a full one."""
    size = QUICK if quick else FULL
    return replace(size, steps=steps or (problem.quick if quick else problem.full))


def bar(progress: Any, task: Any, step: int) -> None:
    progress.update(task, completed=step)


def main(arguments: Sequence[str] | None = None) -> None:
    from rich.console import Console
    from rich.progress import Progress

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("problems", nargs="*", help=f"among {', '.join(PROBLEMS)}; default: all")
    parser.add_argument("--framework", choices=FRAMEWORKS, default="torch")
    parser.add_argument("--quick", action="store_true", help="a test-sized run")
    parser.add_argument("--steps", type=int, help="of L-BFGS")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("examples-results/gallery"))
    parser.add_argument("--record", action="store_true", help="full runs in docs/gallery/runs.csv")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.problems if name not in PROBLEMS]:
        parser.error(f"{unknown[0]} is not among {', '.join(PROBLEMS)}")
    console, failed = Console(), []
    for name in options.problems or PROBLEMS:
        problem = PROBLEMS[name]
        size = sized(problem, options.quick, options.steps)
        with Progress(console=console, transient=True) as progress:
            task = progress.add_task(name, total=size.steps)
            solution = solve(
                problem, options.framework, size, options.seed, partial(bar, progress, task)
            )
        picture(solution, options.out / f"{name}.png")
        wanted = problem.error[0 if options.quick else 1]
        good = solution.error <= wanted
        failed += [] if good else [name]
        console.print(
            f"{name:24} {solution.steps:5} steps, relative error {solution.error:.1e} "
            f"({'at most' if good else 'FAILED: more than'} {wanted:.0e}), "
            f"{solution.seconds:.0f} s of a processor",
            highlight=False,
        )
        if options.record and good and not (options.quick or options.steps):
            record(Run.of(name, options.framework, size, *solution.reached))
    console.print(f"pictures: {options.out}")
    if failed:
        raise SystemExit(f"not solved: {', '.join(failed)}")


if __name__ == "__main__":
    main()
