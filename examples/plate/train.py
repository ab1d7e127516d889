"""A clamped plate by a physics-informed network: jetfold against nested differentiation.

    Δ²w = q on the unit square,   w = ∂w/∂n = 0 on its edges,   w(x, y) = sin²(πx) sin²(πy)

The network's deflection (16 x(1−x) y(1−y))² N(x, y) is clamped by itself, so that the loss is the
mean square of the residual alone, at 20,000 points: Adam on batches of them, then L-BFGS on all.
Both methods take the same steps from the same parameters; what differs is how Δ² is evaluated:

    minimal   jetfold.biharmonic: one propagation of 9 vectors
    nested    the Laplacian of the Laplacian by torch.autograd.grad of torch.autograd.grad, eager,
              or by jax.grad of jax.grad, jitted

    python examples/plate/train.py --framework jax             # both, one after the other
    python examples/plate/train.py --framework torch --method minimal

Writes a picture of the error over time and result.json. The time of evaluating the error is not
counted, that of compilation is. Needs scipy, rich and matplotlib beside the framework.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from scipy.optimize import minimize

import jetfold as jf

METHODS = ("minimal", "nested")
WAVES = 2 * np.pi

HOLD = 5
"""So many times in a row the error has to be small: on the way it dips below and returns."""

Gradient = Callable[[np.ndarray, np.ndarray], tuple[float, np.ndarray]]
"""(parameters, batch of points) -> the loss and its gradient."""


# ------------------------------------------------------------------ the plate


def solution(p: np.ndarray) -> np.ndarray:
    """w of points Float[points, 2]."""
    return np.prod(np.sin(WAVES * p / 2) ** 2, axis=-1)


def load(xp: Any, p: Any) -> Any:
    """2 q / k⁴ by hand, k = 2π: sin²(kx/2) = (1 − cos kx) / 2, ∂_x⁴ of it is −k⁴ cos(kx) / 2."""
    a, b = xp.cos(WAVES * p[..., 0]), xp.cos(WAVES * p[..., 1])
    return a * b - (a * (1 - b) + b * (1 - a)) / 2


def deflection(xp: Any, layers: Sequence[tuple[Any, Any]], p: Any) -> Any:
    """The clamped network, Float[..., 2] -> Float[...]."""
    h = 2 * p - 1
    for weight, bias in layers[:-1]:
        h = xp.tanh(h @ weight + bias)
    weight, bias = layers[-1]
    bubble = 16 * p[..., 0] * (1 - p[..., 0]) * p[..., 1] * (1 - p[..., 1])
    return bubble**2 * (h @ weight + bias)[..., 0]


def residual(xp: Any, biharmonic: Any, p: Any) -> Any:
    """Of the equation, times 2 / k⁴."""
    return 2 / WAVES**4 * biharmonic - load(xp, p)


class Parameters:
    """Weights and biases as one vector, which both optimisers take."""

    def __init__(self, sizes: Sequence[int]) -> None:
        self.shapes = [shape for n, m in pairwise(sizes) for shape in ((n, m), (m,))]

    def start(self, rng: np.random.Generator) -> np.ndarray:
        """Glorot's weights and zeros."""
        parts = [
            rng.normal(size=s) * (2 / sum(s)) ** 0.5 if len(s) == 2 else np.zeros(s)
            for s in self.shapes
        ]
        return np.concatenate([part.ravel() for part in parts])

    def layers(self, flat: Any) -> list[tuple[Any, Any]]:
        """[(weight, bias), ...]: views of the vector."""
        ends = np.cumsum([int(np.prod(s)) for s in self.shapes])
        starts = [0, *ends[:-1]]
        parts = [flat[a:b].reshape(s) for a, b, s in zip(starts, ends, self.shapes, strict=True)]
        return list(zip(parts[::2], parts[1::2], strict=True))


# ------------------------------------------------------------------ the frameworks


def in_torch(parameters: Parameters, method: str) -> Gradient:
    import torch

    def laplacian(u: Any, p: Any) -> Any:
        (slope,) = torch.autograd.grad(u.sum(), p, create_graph=True)
        second = (torch.autograd.grad(slope[:, k].sum(), p, create_graph=True)[0] for k in (0, 1))
        return sum(row[:, k] for k, row in enumerate(second))

    def of(w: Callable[[Any], Any], p: Any) -> Any:
        if method == "nested":
            p.requires_grad_()
            return laplacian(laplacian(w(p), p), p)
        return jf.biharmonic(w, batch_dims=1, method=method)(p)

    def gradient(flat: np.ndarray, points: np.ndarray) -> tuple[float, np.ndarray]:
        leaf = torch.tensor(flat, dtype=torch.float32, requires_grad=True)
        layers = parameters.layers(leaf)
        p = torch.tensor(points, dtype=torch.float32)
        found = of(lambda p: deflection(torch, layers, p), p)
        loss = residual(torch, found, p).square().mean()
        (slope,) = torch.autograd.grad(loss, leaf)
        return loss.item(), slope.double().numpy()

    return gradient


def in_jax(parameters: Parameters, method: str) -> Gradient:
    import jax
    import jax.numpy as jnp

    def laplacian(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def second(p: Any, k: int) -> Any:
            return jax.grad(lambda p: jax.grad(f)(p)[k])(p)[k]

        return lambda p: second(p, 0) + second(p, 1)

    def of(w: Callable[[Any], Any], p: Any) -> Any:
        if method == "nested":
            return jax.vmap(laplacian(laplacian(w)))(p)
        return jf.biharmonic(w, batch_dims=1, method=method)(p)

    @jax.jit
    @jax.value_and_grad
    def value_and_gradient(flat: Any, p: Any) -> Any:
        layers = parameters.layers(flat)
        return jnp.mean(residual(jnp, of(lambda p: deflection(jnp, layers, p), p), p) ** 2)

    def gradient(flat: np.ndarray, points: np.ndarray) -> tuple[float, np.ndarray]:
        loss, slope = value_and_gradient(flat.astype(np.float32), points.astype(np.float32))
        return float(loss), np.asarray(slope, np.float64)

    return gradient


FRAMEWORKS = {"torch": in_torch, "jax": in_jax}


# ------------------------------------------------------------------ training


class Reached(Exception):
    """The error is small enough, and stays so."""


@dataclass
class Run:
    """One training.

    Attributes:
        seconds, errors: the error of w over the time of training.
        reached: seconds to the error wanted, if it was reached and held.
        held: how many times in a row the error was small enough.
        losses: at every gradient.
        batches: seconds of every batch of points; the first with compilation.
    """

    method: str
    seconds: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    batches: list[float] = field(default_factory=list)
    reached: float | None = None
    held: int = 0


def train(options: argparse.Namespace, method: str, progress: Progress) -> Run:
    """Adam (Kingma & Ba 2015), its rate falling to zero along a cosine, then L-BFGS."""
    rng = np.random.default_rng(options.seed)
    parameters = Parameters([2, *(options.width,) * options.depth, 1])
    gradient = FRAMEWORKS[options.framework](parameters, method)
    flat, points = parameters.start(rng), rng.uniform(size=(options.points, 2))
    side = (np.arange(50) + 0.5) / 50
    grid = np.stack(np.meshgrid(side, side), -1).reshape(-1, 2)
    exact = solution(grid)
    run = Run(method)
    total = options.adam + options.lbfgs
    task = progress.add_task(method, total=total, error="")

    def evaluate(flat: np.ndarray, points: np.ndarray) -> tuple[float, np.ndarray]:
        """Batch by batch, with a clock that stands still otherwise."""
        nonlocal clock
        found = []
        for batch in points.reshape(-1, options.batch, 2):
            begin = time.perf_counter()
            found.append(gradient(flat, batch))
            seconds = time.perf_counter() - begin
            clock += seconds
            run.batches.append(seconds)
        losses, slopes = zip(*found, strict=True)
        run.losses.append(float(np.mean(losses)))
        return run.losses[-1], np.mean(slopes, axis=0)

    def note(step: int, flat: np.ndarray) -> None:
        w = deflection(np, parameters.layers(flat), grid)
        error = float(np.linalg.norm(w - exact) / np.linalg.norm(exact))
        run.seconds.append(clock)
        run.errors.append(error)
        progress.update(task, completed=step, error=f"error {error:.2%}, {clock:.1f} s")
        if error > options.target:
            run.reached, run.held = None, 0
            return
        run.held += 1
        run.reached = run.reached or clock
        if run.held == HOLD:
            progress.update(task, completed=total)
            raise Reached

    clock = 0.0
    note(0, flat)
    try:
        m = v = np.zeros_like(flat)
        for k in range(1, options.adam + 1):
            batch = points[rng.integers(len(points), size=options.batch)]
            _, slope = evaluate(flat, batch)
            m, v = 0.9 * m + 0.1 * slope, 0.999 * v + 0.001 * slope**2
            rate = options.rate * (1 + np.cos(np.pi * (k - 1) / options.adam)) / 2
            unbiased = v / (1 - 0.999**k)
            flat = flat - rate * m / (1 - 0.9**k) / (unbiased**0.5 + 1e-10)
            if k % options.every == 0:
                note(k, flat)
        done = options.adam

        def after(flat: np.ndarray) -> None:
            nonlocal done
            done += 1
            note(done, flat)

        limits = {"maxiter": options.lbfgs, "maxfun": 2 * options.lbfgs, "maxcor": 50,
                  "ftol": 0.0, "gtol": 0.0}  # fmt: skip
        minimize(evaluate, flat, (points,), "L-BFGS-B", jac=True, callback=after, options=limits)
    except Reached:
        pass
    return run


# ------------------------------------------------------------------ what is told


def picture(path: Path, runs: Sequence[Run], options: argparse.Namespace) -> None:
    """The error over time."""
    figure = Figure(figsize=(6.4, 4.2), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for run, colour in zip(runs, ("#0072B2", "#999999"), strict=False):
        label = run.method if run.reached is None else f"{run.method}: {run.reached:.1f} s"
        axis.plot(run.seconds[1:], run.errors[1:], color=colour, linewidth=1.8, label=label)
    axis.axhline(options.target, color="black", linewidth=0.8, linestyle=":")
    axis.set(xscale="log", yscale="log")
    axis.set_xlabel("seconds of training")
    axis.set_ylabel("relative L² error of w")
    axis.set_title(f"Clamped plate, {options.points:,} points, {options.framework}", fontsize=11)
    axis.grid(True, alpha=0.3)
    axis.legend(frameon=False)
    figure.savefig(path)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--framework", choices=FRAMEWORKS, default="torch")
    parser.add_argument("--method", choices=(*METHODS, "both"), default="both")
    parser.add_argument("--target", type=float, default=0.01, help="relative error. Default: 0.01")
    parser.add_argument("--out", type=Path, default=Path("examples-results"))
    parser.add_argument("--quick", action="store_true", help="small sizes, a target of 0.2")
    numbers = {"points": 20_000, "batch": 2_000, "width": 64, "depth": 4, "adam": 50,
               "lbfgs": 300, "every": 10, "seed": 0}  # fmt: skip
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    parser.add_argument("--rate", type=float, default=3e-3, help="of Adam. Default: 0.003")
    options = parser.parse_args(arguments)
    if options.quick:
        vars(options).update(
            points=400, batch=200, width=16, depth=2, adam=20, lbfgs=60, target=0.2
        )
    if options.points % options.batch:
        parser.error("--points must be a multiple of --batch")
    options.out.mkdir(parents=True, exist_ok=True)
    methods = METHODS if options.method == "both" else (options.method,)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[error]}"),
               TimeElapsedColumn())  # fmt: skip
    with Progress(*columns) as progress:
        runs = [train(options, method, progress) for method in methods]
    for run in runs:
        reached = "not reached" if run.reached is None else f"{run.reached:.1f} s"
        first, each = run.batches[0], 1e3 * float(np.median(run.batches))
        print(
            f"{run.method:8} {options.target:.0%} error: {reached}; {run.errors[-1]:.2%} after "
            f"{len(run.losses)} steps; {each:.1f} ms a batch, the first {first:.1f} s"
        )
    times = [run.reached for run in runs]
    speedup = times[1] / times[0] if len(times) == 2 and all(times) else None
    if speedup:
        print(f"speed-up of wall time: {speedup:.1f} ×")
    name = f"plate-{options.framework}"
    settings = {key: str(value) if key == "out" else value for key, value in vars(options).items()}
    result = {"settings": settings, "speed-up": speedup, "runs": [asdict(run) for run in runs]}
    (options.out / f"{name}.json").write_text(json.dumps(result, indent=1))
    picture(options.out / f"{name}.png", runs, options)
    print(f"wrote {options.out / name}.json and .png")
    if not all(run.held == HOLD for run in runs):
        raise SystemExit(f"FAILED: an error of {options.target:.0%} was not reached")


if __name__ == "__main__":
    main()
