"""The tables, the CSV file and the picture of `stochastic`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator
from rich.console import Group
from rich.table import Table
from rich.text import Text

from . import report
from .measure import complaints as complaints
from .report import COLOURS, COMMON, NAMES, TIMES, Columns, Environment, milliseconds, shown
from .stochastic import FAR, NESTED_UP_TO, OPERATORS, Row, Settings
from .suite import METHODS

MARKERS = {"nested": "s", "standard": "^", "collapsed": "o", "minimal": "D"}


def head(environment: Environment) -> list[str]:
    """What is printed above the tables."""
    found, settings = environment.lines(), environment.settings
    if isinstance(settings, Settings) and settings.large:
        found.append(
            f"{', '.join(settings.large)}: tanh network D → {settings.large_hidden} → 1, batch "
            f"{settings.large_batch}"
        )
    return found


def legend(settings: Settings) -> str:
    """What the columns of the tables mean."""
    found = (
        "S: Gaussian directions, the same for all points and all methods. vectors: carried at "
        "every node of the network. ms: median time of one evaluation. speed-up: against nested "
        "with the same S. error: root mean square over draws and points, relative to the exact "
        "operator in float64. off: how many standard errors the mean of the draws is away from it "
        f"(more than {FAR:g} is wrong); exact: minimal evaluates the exact operator once that "
        "carries no more vectors."
    )
    last = NESTED_UP_TO["biharmonic"]
    if "biharmonic" in settings.operators and "nested" in settings.methods:
        found += f" Nested differentiation of the biharmonic is measured up to S = {last}."
    if settings.large:
        found += " MB: what one evaluation needs at most beyond network and points."
    return found


def table(rows: Sequence[Row], dtype: str) -> Group:
    """All rows for a terminal: over the number of samples, and in very many coordinates."""
    of_samples = [row for row in rows if row.operator in OPERATORS]
    large = [row for row in rows if row.operator not in OPERATORS]
    parts: list[Any] = []
    if of_samples:
        parts += [_of_samples(of_samples, dtype), *_against_collapsed(of_samples), ""]
    if large:
        parts += [_in_many_coordinates(large, dtype), ""]
    return Group(*parts)


def _against_collapsed(rows: Sequence[Row]) -> list[Text]:
    """The claim about minimal, in numbers."""
    found = []
    for exact, where in ((False, "both sample"), (True, "minimal is exact")):
        ratios = [
            row.over_collapsed
            for row in rows
            if row.method == "minimal" and row.exact == exact and row.over_collapsed is not None
        ]
        if ratios:
            found.append(f"{min(ratios):.2f} to {max(ratios):.2f} where {where}")
    return [Text(f"time of minimal / collapsed: {', '.join(found)}")] if found else []


def _of_samples(rows: Sequence[Row], dtype: str) -> Table:
    made = report.empty_table(("operator",), ("S",))
    made.add_column("method", no_wrap=True)
    for name in ("vectors", "ms", "speed-up", "time/\ncollapsed", "error", "off"):
        made.add_column(name, justify="right", no_wrap=True)
    for (_, mode), group in groupby(rows, key=lambda row: (row.operator, row.mode)):
        found = list(group)
        heading = [found[0].label, f"D = {found[0].dimension}", mode]
        for position, row in enumerate(found):
            last = position == len(found) - 1
            below = None if last else found[position + 1].samples
            first = not position or found[position - 1].samples != row.samples
            made.add_row(
                Text("\n".join(heading[position:] if last else heading[position : position + 1])),
                shown(row.samples if first else None, "d"),
                Text(row.method, style="bold" if row.method == "minimal" else ""),
                shown(row.vectors, "d"),
                milliseconds(row.time.median),
                shown(row.speedup, ".2f", "×"),
                shown(row.over_collapsed, ".2f"),
                *_error(row, dtype),
                end_section=below != row.samples,
            )
    return made


def _in_many_coordinates(rows: Sequence[Row], dtype: str) -> Table:
    columns = ("D", "S", "vectors", "ms", "MB", "error", "off")
    made = report.empty_table(("operator",), columns)
    for row in rows:
        made.add_row(
            row.label if len({r.mode for r in rows}) == 1 else f"{row.label}, {row.mode}",
            f"{row.dimension}",
            shown(row.samples, "d"),
            shown(row.vectors, "d"),
            milliseconds(row.time.median),
            shown(_megabytes(row), ".1f"),
            *_error(row, dtype),
        )
    return made


def _error(row: Row, dtype: str) -> tuple[Text, Text]:
    style = "bold red" if row.problem(dtype) else ""
    off = "exact" if row.exact else shown(row.standard_errors, ".1f")
    return Text(f"{row.relative_error:.1e}", style=style), Text(off, style=style)


def _megabytes(row: Row) -> float | None:
    return None if row.peak is None else row.peak / 1e6


COLUMNS: Columns = {
    "framework": lambda _, environment: environment.framework,
    "operator": lambda row, _: row.operator,
    "dimension": lambda row, _: row.dimension,
    "samples": lambda row, _: shown(row.samples, "d"),
    "method": lambda row, _: row.method,
    "mode": lambda row, _: row.mode,
    "vectors": lambda row, _: shown(row.vectors, "d"),
    "exact": lambda row, _: "yes" if row.exact else "no",
    **TIMES,
    "time/collapsed": lambda row, _: shown(row.over_collapsed, ".4g"),
    "relative error": lambda row, _: shown(row.relative_error, ".3g"),
    "standard errors": lambda row, _: shown(row.standard_errors, ".3g"),
    "peak MB": lambda row, _: shown(_megabytes(row), ".4g"),
    "compile s": lambda row, _: shown(row.compile_s, ".3g"),
    "batch": lambda row, _: row.batch,
    **COMMON,
}

write_csv = partial(report.write_csv, columns=COLUMNS)


# ------------------------------------------------------------------ the picture


def plot(rows: Sequence[Row], environment: Environment, path: Path) -> bool:
    """Time and error over the number of samples, one column per operator and mode.

    Returns:
        whether there was anything to draw: very many coordinates are in the table only.
    """
    shown_rows = [row for row in rows if row.operator in OPERATORS]
    columns = list(dict.fromkeys((row.operator, row.mode) for row in shown_rows))
    if not columns:
        return False
    size = (0.8 + 4.6 * len(columns), 7.4)
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(columns), sharex=True, squeeze=False)
    for (above, below), key in zip(axes.T, columns, strict=True):
        some = [row for row in shown_rows if (row.operator, row.mode) == key]
        _times(above, some)
        _errors(below, some)
        above.set_title(f"{some[0].label}, D = {some[0].dimension}, {key[1]}", fontsize=11)
    axes[0, 0].set_ylabel("time of one evaluation (ms)", fontsize=10)
    axes[1, 0].set_ylabel("relative error, root mean square", fontsize=10)
    methods = [m for m in METHODS if any(row.method == m for row in shown_rows)]
    handles = [
        Line2D([], [], color=COLOURS[m], marker=MARKERS[m], linewidth=1.8, label=NAMES[m])
        for m in methods
    ]
    handles.append(Line2D([], [], color="#333333", linestyle=":", label="∝ 1/√S"))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(len(handles), 1 + 2 * len(columns)),
        frameon=False,
        fontsize=9.5,
    )
    settings = environment.settings
    figure.suptitle(
        f"S Gaussian directions: tanh network, {environment.dtype}, batch {settings.batch}\n"
        f"{environment.versions}",
        fontsize=10.5,
    )
    figure.savefig(path)
    return True


def _series(rows: Sequence[Row]) -> dict[str, list[Row]]:
    return {m: [row for row in rows if row.method == m] for m in METHODS}


def _times(axis: Axes, rows: Sequence[Row]) -> None:
    for method, found in _series(rows).items():
        axis.plot(
            [row.samples or 0 for row in found],
            [1e3 * row.time.median for row in found],
            color=COLOURS[method],
            marker=MARKERS[method],
            markersize=4.5,
            linewidth=1.8,
            zorder=2 + METHODS.index(method),
        )
    first = min((row.samples or 0 for row in rows if row.exact), default=None)
    if first is not None:
        _exact_from(axis, first)
    _logarithmic(axis, rows)


def _errors(axis: Axes, rows: Sequence[Row]) -> None:
    sampled = [row for row in rows if not row.exact]
    exact = [row for row in rows if row.exact]
    for method, found in _series(sampled).items():
        axis.plot(
            [row.samples or 0 for row in found],
            [row.relative_error for row in found],
            color=COLOURS[method],
            marker=MARKERS[method],
            markersize=9 - 1.5 * METHODS.index(method),  # all methods draw the same directions
            linewidth=1.8,
            zorder=2 + METHODS.index(method),
        )
    if sampled:
        counts = sorted({row.samples or 0 for row in sampled})
        scale = [row.relative_error * (row.samples or 0) ** 0.5 for row in sampled]
        line = [sorted(scale)[len(scale) // 2] / s**0.5 for s in counts]
        axis.plot(counts, line, color="#333333", linestyle=":", zorder=9)
        errors = [row.relative_error for row in sampled]
        axis.set_ylim(min(errors) / 2.5, max(errors) * 1.6)
    if exact:
        first = min(row.samples or 0 for row in exact)
        largest = max(row.relative_error for row in exact)
        _exact_from(axis, first)
        if sampled:  # far below: arrows at the lower edge
            low = axis.get_ylim()[0] * 1.12
            axis.plot(
                [row.samples or 0 for row in exact],
                [low] * len(exact),
                linestyle="",
                color=COLOURS["minimal"],
                marker="v",
                markersize=7,
                zorder=10,
            )
            axis.annotate(
                f"exact: {largest:.0e}",
                (first, low),
                xytext=(-6, 1),
                textcoords="offset points",
                ha="right",
                fontsize=9,
                color=COLOURS["minimal"],
            )
    _logarithmic(axis, rows)
    axis.set_xlabel("directions S", fontsize=10)


def _exact_from(axis: Axes, samples: int) -> None:
    """Where minimal evaluates the exact operator."""
    axis.axvspan(samples / 2**0.5, 1e6, color=COLOURS["minimal"], alpha=0.08, zorder=0, linewidth=0)


def _logarithmic(axis: Axes, rows: Sequence[Row]) -> None:
    counts: list[Any] = sorted({row.samples for row in rows})
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xlim(counts[0] / 1.3, counts[-1] * 1.3)
    axis.xaxis.set_major_locator(FixedLocator(counts))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.tick_params(labelsize=9, length=0)
    axis.grid(color="#DDDDDD", linewidth=0.8, zorder=0)
    axis.spines[["top", "right"]].set_visible(False)
