"""What the examples share: PyTorch or JAX by name, a small network, Adam, tables and pictures."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import jetfold as jf

# ------------------------------------------------------------------ frameworks


class Torch:
    """PyTorch, eagerly, in float64."""

    def __init__(self) -> None:
        import torch

        self.xp = torch  # the functions that both frameworks have: sin, exp, stack, ...

    def array(self, values: Any) -> Any:
        return self.xp.as_tensor(np.asarray(values), dtype=self.xp.float64)

    def numpy(self, array: Any) -> np.ndarray:
        return array.detach().numpy()

    def rng(self, seed: int) -> Any:
        return self.xp.Generator().manual_seed(seed)

    def compiled(self, f: Callable[..., Any]) -> Callable[..., Any]:
        return f

    def value_and_grad(self, loss: Callable[..., Any]) -> Callable[..., Any]:
        def of_parameters(parameters: list[Any], *batch: Any) -> Any:
            leaves = [p.detach().requires_grad_() for p in parameters]
            value = loss(leaves, *batch)
            return value.detach(), self.xp.autograd.grad(value, leaves)

        return of_parameters


class Jax:
    """JAX, compiled, in float64."""

    def __init__(self) -> None:
        import jax

        jax.config.update("jax_enable_x64", True)
        self.jax, self.xp = jax, jax.numpy

    def array(self, values: Any) -> Any:
        return self.xp.asarray(values, dtype=self.xp.float64)

    def numpy(self, array: Any) -> np.ndarray:
        return np.asarray(array)

    def rng(self, seed: int) -> Any:
        return self.jax.random.key(seed)

    def compiled(self, f: Callable[..., Any]) -> Callable[..., Any]:
        return self.jax.jit(f)

    def value_and_grad(self, loss: Callable[..., Any]) -> Callable[..., Any]:
        return self.jax.value_and_grad(loss)


FRAMEWORKS = {"torch": Torch, "jax": Jax}


def framework(name: str | None) -> Any:
    """The one of that name, or whichever is installed."""
    for each in [name] if name else FRAMEWORKS:
        with suppress(ModuleNotFoundError):
            return FRAMEWORKS[each]()
    raise SystemExit(f"{name or 'torch or jax'} is not installed: pip install 'jetfold[torch]'")


def parse(
    name: str, doc: str | None, arguments: Sequence[str] | None, **defaults: int
) -> argparse.Namespace:
    """The options of an example; the framework is made, `sizes` is 1, 2, 4, ... up to `samples`."""
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--framework", choices=FRAMEWORKS, help="default: whichever is installed")
    parser.add_argument(
        "--out", type=Path, default=Path("examples-results"), help="folder of the picture"
    )
    for option, default in defaults.items():
        parser.add_argument(f"--{option}", type=int, default=default, help=f"default {default}")
    options = parser.parse_args(arguments)
    options.picture = options.out / f"{name}.png"
    options.sizes = [2**k for k in range(options.samples.bit_length())]
    options.framework = framework(options.framework)
    return options


def check(holds: bool, text: str) -> None:
    """Print what was checked, or exit with status 1."""
    if not holds:
        raise SystemExit(f"FAILED: {text}")
    print(f"ok: {text}")


def relative_error(values: np.ndarray, exact: np.ndarray) -> float:
    """The root mean square of the error over that of the exact values."""
    return float(np.linalg.norm(values - exact) / np.linalg.norm(exact))


# ------------------------------------------------------------------ networks


def parameters(framework: Any, rng: np.random.Generator, sizes: Sequence[int]) -> list[Any]:
    """Weights and biases [W_1, b_1, W_2, b_2, ...] of a network with these layers."""
    found: list[Any] = []
    for before, after in pairwise(sizes):
        found.append(framework.array(rng.normal(size=(before, after)) / before**0.5))
        found.append(framework.array(np.zeros(after)))
    return found


def network(xp: Any, parameters: list[Any], x: Any) -> Any:
    """A tanh network, (points, n) -> (points,)."""
    *hidden, (weight, bias) = zip(parameters[::2], parameters[1::2], strict=True)
    for w, b in hidden:
        x = xp.tanh(x @ w + b)
    return (x @ weight + bias)[..., 0]


def train(
    framework: Any,
    loss: Callable[..., Any],
    parameters: list[Any],
    batches: Iterable[tuple[Any, ...]],
    steps: int,
    error: Callable[[list[Any]], float],
    rate: float = 1e-2,
) -> None:
    """Adam (Kingma & Ba 2015), the rate falling linearly to zero; prints a table.

    Args:
        loss: (parameters, *batch) -> a number.
        error: of u, from the parameters; it has to fall.
    """

    @framework.compiled
    def step(p: list[Any], m: list[Any], v: list[Any], k: Any, *batch: Any) -> Any:
        value, gradients = framework.value_and_grad(loss)(p, *batch)
        m = [0.9 * a + 0.1 * g for a, g in zip(m, gradients, strict=True)]
        v = [0.999 * a + 0.001 * g * g for a, g in zip(v, gradients, strict=True)]
        scale = rate * (1 - (k - 1) / steps) * (1 - 0.999**k) ** 0.5 / (1 - 0.9**k)
        p = [a - scale * b / (c**0.5 + 1e-12) for a, b, c in zip(p, m, v, strict=True)]
        return value, p, m, v

    first = last = error(parameters)
    print(f"\n  step       loss  error of u\n     0             {first:9.1e}")
    m = v = [0.0 * p for p in parameters]
    for k, batch in zip(range(1, steps + 1), batches, strict=False):
        value, parameters, m, v = step(parameters, m, v, framework.array(k), *batch)
        if k % -(-steps // 5) == 0 or k == steps:
            last = error(parameters)
            print(f"{k:6d}  {float(value):9.1e}  {last:10.1e}")
    if steps:
        check(last < first, f"training lowers the error of u from {first:.0e} to {last:.0e}")


# ------------------------------------------------------------------ errors of estimates

Errors = dict[str, list[tuple[float, float]]]
EXACT = 1e-9
"""Relative errors below are of rounding."""


def study(
    framework: Any,
    estimate: Callable[[str, int], Callable[..., Any]],
    arguments: tuple[Any, ...],
    exact: np.ndarray,
    distributions: Sequence[str],
    sizes: Sequence[int],
    draws: int,
) -> Errors:
    """The errors of estimates against the exact values; prints a table.

    Args:
        estimate: (distribution, samples) -> a function of the arguments and the keyword rng that
            gives `Float[points]`, with independent directions for each point.
        exact: `Float[points]`.

    Returns:
        for each distribution and number of samples the relative error, and how many standard errors
        the mean error is off zero.
    """
    print(f"\nrelative error (standard errors off zero in the mean of {draws * len(exact)})")
    print(f"{'S':>5}" + "".join(f"{name:>18}" for name in distributions))
    found: Errors = {name: [] for name in distributions}
    for size in sizes:
        for name in distributions:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", jf.JetfoldWarning)  # exact where that is as cheap
                f = framework.compiled(estimate(name, size))
                drawn = [f(*arguments, rng=framework.rng(k)) for k in range(draws)]
            values = np.stack([framework.numpy(value) for value in drawn])
            off = values - exact
            error = float(np.linalg.norm(off) / np.linalg.norm(exact) / draws**0.5)
            bias = float(off.mean() / off.std() * off.size**0.5) if error > EXACT else 0.0
            found[name].append((error, bias))
        last = (rows[-1] for rows in found.values())
        cells = (f"{e:.1e} ({bias:+.1f})" if e > EXACT else "exact" for e, bias in last)
        print(f"{size:5d}" + "".join(f"{cell:>18}" for cell in cells))
    return found


def check_estimates(errors: Errors) -> None:
    """No mean may be more than six standard errors off."""
    worst = max(abs(bias) for rows in errors.values() for _, bias in rows)
    check(worst < 6, f"estimates are unbiased: at most {worst:.1f} standard errors off")


def picture(path: Path, title: str, sizes: Sequence[int], errors: Errors) -> None:
    """Errors over the number of samples, with a line 1/√S; a dotted line where they vanish."""
    figure = Figure(figsize=(6.0, 4.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for (name, rows), marker in zip(errors.items(), "osD", strict=False):
        shown = [(s, e) for s, (e, _) in zip(sizes, rows, strict=True) if e > EXACT]
        axis.loglog(*zip(*shown, strict=True), marker=marker, label=name)
    exact = [s for s, (e, _) in zip(sizes, rows, strict=True) if e <= EXACT]
    if exact:
        axis.axvline(exact[0], linestyle=":", color="black", label="exact")
    start = next(iter(errors.values()))[0][0]
    axis.loglog(sizes, [start * s**-0.5 for s in sizes], "--", color="grey", label="1/√S")
    axis.set_xscale("log", base=2)
    axis.set_xticks(sizes, [str(s) for s in sizes])
    axis.set_xlabel("samples S")
    axis.set_ylabel("relative error")
    axis.set_title(title, fontsize=11)
    axis.grid(True, which="major", alpha=0.3)
    axis.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    print(f"wrote {path}")
