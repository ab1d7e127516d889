"""The table, the CSV file and the picture of `vmc`: costs over the number of electrons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from rich.table import Table
from rich.text import Text

from . import report
from .measure import complaints as complaints
from .report import (
    COMMON,
    TIMES,
    Columns,
    Environment,
    Groups,
    empty_table,
    fill,
    milliseconds,
    shown,
)
from .vmc import METHODS, REFERENCE_WALKERS, SWEEPS, Row, Settings

STYLES = {  # colour, marker, name
    "forward": ("#999999", "", "plain forward pass"),
    "nested": ("#E69F00", "s", "nested: scan of Hessian-vector products"),
    "folx": ("#009E73", "^", "folx, dense"),
    "folx-sparse": ("#CC79A7", "v", "folx, sparse"),
    "dense": ("#56B4E9", "o", "jetfold, structure=False"),
    "structured": ("#0072B2", "D", "jetfold"),
}


def head(environment: Environment) -> list[str]:
    """What is printed above the table."""
    settings = environment.settings
    return [
        f"{environment.versions}, {environment.dtype}, {settings.batch} walkers, seed "
        f"{settings.seed}",
        "log|ψ|, gradient and Laplacian, jitted, vmapped over walkers; two equal nuclei",
    ]


def legend(settings: Settings) -> str:
    """What the columns of the table mean."""
    compared = min(REFERENCE_WALKERS, settings.walkers)
    return (
        "ms: the fastest evaluation of all walkers; × forward: against that of the plain forward "
        "pass. MB: temporary memory. GFLOP: as XLA counts, without LU and triangular solves; the "
        "scan by its turns. compile: seconds to trace, lower and compile. errors: largest |error| "
        f"/ largest |value|, against nested in float64 at {compared} "
        f"walkers. Networks {settings.stream} wide as flax initialises them; walkers from |ψ|² "
        f"after {SWEEPS} Metropolis steps."
    )


def table(rows: Sequence[Row], dtype: str) -> Table:
    """All rows, network by network, for a terminal."""

    def groups() -> Groups:
        for (_, electrons), group in groupby(rows, key=lambda row: (row.network, row.electrons)):
            found = list(group)
            yield [found[0].label, f"{electrons} e⁻"], found

    def cells(row: Row) -> Sequence[Any]:
        style = "bold red" if row.problem(dtype) else ""
        return (
            Text(row.method, style="bold" if row.method == "structured" else ""),
            milliseconds(row.time.minimum),
            shown(row.over_forward, ".1f"),
            shown(_megabytes(row), ".1f"),
            shown(_billions(row), ".3f"),
            f"{row.compile_s:.1f}",
            Text(shown(row.gradient_error, ".0e"), style=style),
            Text(shown(row.laplacian_error, ".0e"), style=style),
        )

    columns = ("ms", "×\nforward", "MB", "GFLOP", "compile", "∇\nerror", "Δ\nerror")
    return fill(empty_table(("network", "method"), columns), groups(), cells)


def _megabytes(row: Row) -> float | None:
    return None if row.temporary is None else row.temporary / 1e6


def _billions(row: Row) -> float | None:
    return None if row.operations is None else row.operations / 1e9


COLUMNS: Columns = {
    "framework": lambda _, environment: environment.framework,
    "network": lambda row, _: row.network,
    "label": lambda row, _: row.label,
    "electrons": lambda row, _: row.electrons,
    "method": lambda row, _: row.method,
    **TIMES,
    "time/forward": lambda row, _: shown(row.over_forward, ".4g"),
    "temporary MB": lambda row, _: shown(_megabytes(row), ".6g"),
    "GFLOP": lambda row, _: shown(_billions(row), ".6g"),
    "compile s": lambda row, _: f"{row.compile_s:.3g}",
    "gradient error": lambda row, _: shown(row.gradient_error, ".3g"),
    "Laplacian error": lambda row, _: shown(row.laplacian_error, ".3g"),
    "walkers": lambda _, environment: environment.settings.batch,
    **COMMON,
}

write_csv = partial(report.write_csv, columns=COLUMNS)


# ------------------------------------------------------------------ the picture


def plot(rows: Sequence[Row], environment: Environment, path: Path) -> bool:
    """Time and temporary memory over the number of electrons, one column per network.

    Returns:
        whether there was anything to draw: always.
    """
    networks = list(dict.fromkeys((row.network, row.label) for row in rows))
    figure = Figure(figsize=(1.2 + 3.9 * len(networks), 7.6), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(networks), sharex=True, sharey="row", squeeze=False)
    for (above, below), (network, label) in zip(axes.T, networks, strict=True):
        some = [row for row in rows if row.network == network]
        _curves(above, some, lambda row: 1e3 * row.time.minimum)
        _curves(below, some, _megabytes)
        above.set_title(label, fontsize=12)
        below.set_xlabel("electrons", fontsize=10)
    axes[0, 0].set_ylabel("time of one evaluation (ms)", fontsize=10)
    axes[1, 0].set_ylabel("temporary memory (MB)", fontsize=10)
    handles = [
        Line2D([], [], color=colour, marker=marker, linewidth=1.8, label=name)
        for method, (colour, marker, name) in STYLES.items()
        if any(row.method == method for row in rows)
    ]
    columns = min(len(handles), len(networks))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9.5
    )
    settings = environment.settings
    figure.suptitle(
        f"log|ψ|, gradient and Laplacian, {environment.dtype}, {settings.batch} walkers\n"
        f"{environment.versions}",
        fontsize=10.5,
    )
    figure.savefig(path)
    return True


def _curves(axis: Axes, rows: Sequence[Row], cost: Callable[[Row], Any]) -> None:
    """A line for each method; both axes logarithmic."""
    counts = sorted({row.electrons for row in rows})
    for method in METHODS:
        found = [row for row in rows if row.method == method and cost(row)]
        colour, marker, _ = STYLES[method]
        axis.plot(
            [row.electrons for row in found],
            [cost(row) for row in found],
            color=colour,
            marker=marker,
            markersize=4.5,
            linewidth=1.8,
            zorder=2 + list(METHODS).index(method),
        )
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xlim(counts[0] / 1.2, counts[-1] * 1.2)
    axis.xaxis.set_major_locator(FixedLocator(counts))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_minor_locator(NullLocator())
    for one in (axis.xaxis, axis.yaxis):
        one.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
    axis.tick_params(labelsize=9, length=0)
    axis.grid(color="#DDDDDD", linewidth=0.8, zorder=0)
    axis.spines[["top", "right"]].set_visible(False)
