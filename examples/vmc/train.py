"""Ground states by variational Monte Carlo.

    python examples/vmc/train.py He --network lapnet --within 0.005

Writes energies.csv, energy.png and result.json to --out. With --within it fails, with status 1,
where the energy is further than that from the known one, or its error is larger.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from blocking import mean_and_error
from energy import EXACT, MOLECULES
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

FRAMEWORKS = {"jax": "in_jax", "torch": "in_torch"}


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("molecule", choices=MOLECULES)
    add("--framework", choices=FRAMEWORKS, default="jax")
    add("--network", default="psiformer", help="ferminet, psiformer, lapnet; PyTorch: psiformer")
    for name, default, text in [
        ("steps", 200, "of the optimiser"),
        ("evaluations", 400, "of the energy afterwards, with fixed parameters"),
        ("walkers", 512, "independent configurations of the electrons"),
        ("moves", 10, "of Metropolis between two steps"),
        ("width", 16, "of the network"),
        ("layers", 2, "of the network"),
        ("determinants", 2, "of the network"),
        ("seed", 0, "of the random numbers"),
    ]:
        add(f"--{name}", type=int, default=default, help=f"{text}; default {default}")
    add("--devices", type=int, help="share the walkers out to so many (JAX); default: all")
    add("--within", type=float, help="fail if the energy is further from the known one, in hartree")
    add(
        "--out",
        type=Path,
        default=Path("examples-results/vmc"),
        help="a folder; default %(default)s",
    )
    return parser.parse_args(arguments)


def run(
    vmc: Any, seed: int, steps: int, evaluations: int, console: Console
) -> tuple[list[tuple[float, float, float]], list[float]]:
    """Optimise, then sample.

    Returns:
        for each step the mean and the deviation of the local energies and the acceptance; the mean
        energies of the steps with fixed parameters.
    """
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    state, trained, fixed = vmc.start(seed), [], []
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        task = progress.add_task("optimising", total=steps)
        for _ in range(steps):
            state, energies, acceptance = vmc.optimised(state)
            energies = np.asarray(energies, np.float64)
            trained.append((energies.mean(), energies.std(), float(acceptance)))
            text = f"optimising: {energies.mean():.4f} Ha, deviation {energies.std():.3f}"
            progress.update(task, advance=1, description=text)
        task = progress.add_task("sampling", total=evaluations)
        for _ in range(evaluations):
            state, energies, acceptance = vmc.sampled(state)
            fixed.append(float(np.asarray(energies, np.float64).mean()))
            progress.update(task, advance=1)
    return trained, fixed


def draw(
    path: Path, title: str, energies: np.ndarray, final: Sequence[float], exact: float
) -> None:
    """Energies of the steps in windows with their errors, and the one of fixed parameters."""
    figure = Figure(figsize=(6.4, 4.0), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    window = max(1, len(energies) // 40)
    windows = [energies[k : k + window] for k in range(0, len(energies) - window + 1, window)]
    means, errors = np.array([mean_and_error(part, 4) for part in windows]).T
    centres = window * (np.arange(len(windows)) + 0.5)
    axis.errorbar(centres, means - exact, errors, fmt=".", capsize=2, label="while optimising")
    axis.axhspan(
        final[0] - exact - final[1], final[0] - exact + final[1], color="C1", alpha=0.6,
        label=f"fixed parameters: {final[0]:.5f} ± {final[1]:.5f} Ha",
    )  # fmt: skip
    axis.axhline(0, color="black", linewidth=0.8, label=f"exact: {exact:.6f} Ha")
    axis.set_yscale("symlog", linthresh=1e-3)
    axis.set_xlabel("step")
    axis.set_ylabel("energy above the exact one [Ha]")
    axis.set_title(title, fontsize=11)
    axis.legend(frameon=False)
    axis.grid(alpha=0.3)
    figure.savefig(path)


def main(arguments: Sequence[str] | None = None) -> None:
    chosen, console = options(arguments), Console()
    began, exact = perf_counter(), EXACT[chosen.molecule]
    sizes = {name: getattr(chosen, name) for name in ("width", "layers", "determinants")}
    framework = import_module(FRAMEWORKS[chosen.framework])
    if chosen.network not in framework.NETWORKS:
        known = ", ".join(framework.NETWORKS)
        raise SystemExit(f"--network with {chosen.framework}: {known}; not {chosen.network!r}")
    vmc = framework.Vmc(
        MOLECULES[chosen.molecule], chosen.network, sizes, chosen.walkers, chosen.moves,
        devices=chosen.devices,
    )  # fmt: skip
    trained, fixed = run(vmc, chosen.seed, chosen.steps, chosen.evaluations, console)
    energy, error = mean_and_error(np.array(fixed))
    seconds = perf_counter() - began
    console.print(
        f"{chosen.molecule}, {chosen.network}: {energy:.5f} ± {error:.5f} Ha, exact "
        f"{exact:.6f} Ha: {1e3 * (energy - exact):+.2f} mHa after {seconds:.0f} s",
        highlight=False, soft_wrap=True,
    )  # fmt: skip

    folder = chosen.out / f"{chosen.molecule}-{chosen.network}-{chosen.framework}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "energies.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("step", "energy", "deviation", "acceptance"))
        table.writerows((k, *map(float, row)) for k, row in enumerate(trained))
    result = {"energy": energy, "error": error, "exact": exact, "seconds": round(seconds, 1)}
    settings = {key: value for key, value in vars(chosen).items() if key not in ("out", "within")}
    text = json.dumps(result | settings, indent=2)
    (folder / "result.json").write_text(text + "\n", encoding="utf-8")
    title = f"{chosen.molecule}, {chosen.network} in {chosen.framework}"
    series = np.array([mean for mean, _, _ in trained])
    draw(folder / "energy.png", title, series, (energy, error), exact)
    console.print(f"written: {folder}", highlight=False, soft_wrap=True)
    if chosen.within is not None and not abs(energy - exact) + error < chosen.within:
        raise SystemExit(f"FAILED: not within {chosen.within} Ha of the exact energy")


if __name__ == "__main__":
    main()
