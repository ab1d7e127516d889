"""The table, the CSV file and the picture of `training`: times and bytes of a step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from rich.table import Table
from rich.text import Text

from . import report
from .measure import complaints as complaints
from .networks import widths
from .problems import COMBINED, LIMIT, NAMED
from .report import (
    COMMON,
    TIMES,
    Columns,
    Environment,
    empty_table,
    fill,
    milliseconds,
    shown,
)
from .training import Row, Settings

COLOURS = {**report.COLOURS, LIMIT: "#222222", COMBINED: report.COLOURS["rewritten"]}
"""No suite has both combined and rewritten."""

LINES = {"eager": "--", "compiled": "-"}


def head(environment: Environment) -> list[str]:
    """What is printed above the table."""
    settings = environment.settings
    hidden = " → ".join(map(str, widths(0, settings.width)[1:-1]))
    return [
        f"{environment.versions}, {environment.dtype}, seed {settings.seed}",
        f"Gradient of the mean square to all parameters; D → {hidden} → 1, batch {settings.batch}; "
        "equations: 20x3 is three hidden layers of 20, on one thread",
    ]


def legend(settings: Settings) -> str:
    """What the columns of the table mean."""
    return (
        "value, step: median ms of the residuals alone and with the gradient. speed-up: of a step, "
        "against nested (PyTorch: eager). / limit: against the same step of the plain network on "
        "batch × vectors rows, the vectors of minimal (combined has fewer). sets: bytes kept "
        "(PyTorch: saved for the backward pass; JAX: temporary), in activations of all hidden "
        "layers. compile: s, nothing on disk. error: of the gradient, largest |error| / largest "
        "|value|, against nested in float64."
    )


def groups(rows: Sequence[Row]) -> Iterator[tuple[list[str], list[Row]]]:
    """The rows of one case in one mode, and what stands beside them."""
    for _, group in groupby(rows, key=lambda r: (r.operator, r.network, r.points, r.mode)):
        found = list(group)
        row = found[0]
        yield [row.label, f"{row.network}, {row.points}", row.mode], found


def table(rows: Sequence[Row], dtype: str) -> Table:
    """All rows, case by case, for a terminal."""

    def cells(row: Row) -> Sequence[Any]:
        return (
            Text(row.method, style="bold" if row.method in ("minimal", COMBINED) else ""),
            shown(_median(row), ".4g"),
            milliseconds(row.time.median),
            shown(row.speedup, ".2f"),
            shown(row.over_limit, ".2f"),
            shown(row.sets, ".0f"),
            shown(row.compile_s, ".1f"),
            Text(shown(row.relative_error, ".0e"), style="bold red" if row.problem(dtype) else ""),
        )

    columns = ("value", "step", "speed-\nup", "/\nlimit", "sets", "com-\npile", "error")
    return fill(empty_table(("case", "method"), columns), groups(rows), cells)


def _median(row: Row) -> float | None:
    return None if row.value is None else 1e3 * row.value.median


def _megabytes(bytes_: int | None) -> str:
    return shown(None if bytes_ is None else bytes_ / 1e6, ".6g")


COLUMNS: Columns = {
    "framework": lambda _, environment: environment.framework,
    "operator": lambda row, _: row.operator,
    "label": lambda row, _: row.label,
    "network": lambda row, _: row.network,
    "points": lambda row, _: row.points,
    "method": lambda row, _: row.method,
    "mode": lambda row, _: row.mode,
    "vectors": lambda row, _: shown(row.vectors, "d"),
    "value ms": lambda row, _: shown(_median(row), ".6g"),
    **TIMES,
    "time/limit": lambda row, _: shown(row.over_limit, ".4g"),
    "kept MB": lambda row, _: _megabytes(row.kept),
    "kept sets": lambda row, _: shown(row.sets, ".5g"),
    "half kept MB": lambda row, _: _megabytes(row.half),
    "peak MB": lambda row, _: _megabytes(row.peak),
    "batch": lambda _, environment: environment.settings.batch,
    "memory GB": lambda _, environment: f"{_memory_of(environment):g}",
    "points in memory": lambda row, environment: shown(_fits(row, environment), "d"),
    "compile s": lambda row, _: shown(row.compile_s, ".3g"),
    "relative error": lambda row, _: shown(row.relative_error, ".3g"),
    **COMMON,
}

write_csv = partial(report.write_csv, columns=COLUMNS)


def _fits(row: Row, environment: Environment) -> int | None:
    return row.fits(1e9 * _memory_of(environment))


def _memory_of(environment: Environment) -> float:
    """In GB."""
    settings: Any = environment.settings
    return float(settings.memory)


# ------------------------------------------------------------------ the picture


def plot(rows: Sequence[Row], environment: Environment, path: Path) -> bool:
    """Bytes kept over the batch size for the operators, steps of the equations as bars.

    Returns:
        whether there was anything to draw: always.
    """
    named = [name for name in NAMED if any(row.operator == name for row in rows)]
    others = [row for row in rows if row.operator not in NAMED]
    above = len(named)
    figure = Figure(
        figsize=(max(7.5, 5.2 * above), 4.6 * (above > 0) + 4.2 * bool(others)),
        dpi=150,
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    parts = figure.subfigures(int(above > 0) + bool(others), 1, squeeze=False)[:, 0]
    if above:
        for axis, name in zip(parts[0].subplots(1, above, squeeze=False)[0], named, strict=True):
            _memory(axis, [row for row in rows if row.operator == name], environment)
    if others:
        _bars(parts[-1].subplots(), others)
    figure.suptitle(f"{environment.versions}, {environment.dtype}", fontsize=10)
    figure.savefig(path)
    return True


def _memory(axis: Axes, rows: Sequence[Row], environment: Environment) -> None:
    """A line for each method and mode, up to the memory that there is."""
    memory = _memory_of(environment)
    for row in rows:
        most = _fits(row, environment)
        if row.kept is None or not most:
            continue
        measured = [(row.points, row.kept)]
        if row.half is not None:
            measured.insert(0, (row.points // 2, row.half))
        colour = COLOURS[row.method]
        label = f"{row.method}, {row.mode}: {most:,} points in {memory:g} GB"
        xs, ys = zip(*measured, (most, 1e9 * memory), strict=True)
        gigabytes = [y / 1e9 for y in ys]
        axis.plot(xs, gigabytes, LINES[row.mode], color=colour, linewidth=1.6, label=label)
        axis.plot(xs[:-1], gigabytes[:-1], "o", color=colour, markersize=4)
    axis.axhline(memory, color="#888888", linewidth=0.8, linestyle=":")
    axis.set(xscale="log", yscale="log")
    axis.set_title(f"{rows[0].label}, {rows[0].network}", fontsize=11)
    axis.set_xlabel("points (dots: measured)", fontsize=9.5)
    axis.set_ylabel("kept by a step (GB)", fontsize=9.5)
    axis.legend(frameon=False, fontsize=7, loc="upper left")
    low, high = axis.get_ylim()
    axis.set_ylim(low, high * 40)  # room for the names
    _plain(axis)


def _bars(axis: Axes, rows: Sequence[Row]) -> None:
    """A group of bars for each case."""
    cases = list(dict.fromkeys((row.label, row.network, row.points) for row in rows))
    ways = list(dict.fromkeys((row.mode, row.method) for row in rows))
    width = 0.84 / len(ways)
    for place, (mode, method) in enumerate(ways):
        found = [row for row in rows if (row.mode, row.method) == (mode, method)]
        axis.bar(
            [
                cases.index((row.label, row.network, row.points))
                + (place - (len(ways) - 1) / 2) * width
                for row in found
            ],
            [1e3 * row.time.median for row in found],
            0.94 * width,
            color=COLOURS[method],
            alpha=1.0 if mode == "compiled" else 0.55,
            label=f"{method}, {mode}",
            zorder=2,
        )
    axis.set_xticks(
        range(len(cases)), [f"{label}\n{network}\n{points:,}" for label, network, points in cases]
    )
    axis.set_yscale("log")
    axis.set_ylabel("one step (ms)", fontsize=9.5)
    axis.legend(frameon=False, fontsize=8, ncols=min(len(ways), 4), loc="lower center",
                bbox_to_anchor=(0.5, 1.0))  # fmt: skip
    _plain(axis, x=False)
    axis.tick_params(axis="x", labelsize=7.5 if len(cases) > 4 else 9)


def _plain(axis: Axes, x: bool = True) -> None:
    """Numbers as they are at 1, 2 and 5, a grid, no frame."""
    for one in (axis.xaxis, axis.yaxis) if x else (axis.yaxis,):
        one.set_major_locator(LogLocator(10, subs=(1.0,) if one is axis.xaxis else (1.0, 2.0, 5.0)))
        one.set_minor_locator(NullLocator())
        one.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
    axis.tick_params(labelsize=9, length=0)
    axis.grid(axis="both" if x else "y", color="#DDDDDD", linewidth=0.8, zorder=0)
    axis.spines[["top", "right"]].set_visible(False)
