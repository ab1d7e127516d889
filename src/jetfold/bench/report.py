"""The table, the CSV file and the picture of a run."""

from __future__ import annotations

import csv
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from rich import box
from rich.table import Table
from rich.text import Text

from .. import __version__
from .backends import PEERS, REWRITTEN, Backend
from .measure import inexact
from .networks import widths
from .suite import METHODS, MODES, REFERENCE_POINTS, TOLERANCE, Outcome, Row, Settings

# Okabe and Ito's colours, told apart in every form of colour blindness and in grey.
COLOURS = {
    "nested": "#999999",
    "standard": "#E69F00",
    "collapsed": "#56B4E9",
    "minimal": "#0072B2",
    "rewritten": "#D55E00",
    "folx": "#009E73",
    "jet": "#CC79A7",
}

NAMES = {
    "nested": "nested first-order AD",
    "standard": "standard Taylor mode",
    "collapsed": "collapsed Taylor mode",
    "minimal": "jetfold (minimal)",
    "rewritten": "nested jvp, rewritten",
    "folx": "folx",
    "jet": "jax.experimental.jet",
}

SPREAD = 0.3
"""From which distance of the quartiles, relative to the median, a run counts as disturbed."""


class Common(Protocol):
    """What the settings of every suite have."""

    @property
    def batch(self) -> int: ...
    @property
    def width(self) -> float: ...
    @property
    def seed(self) -> int: ...


@dataclass(frozen=True)
class Environment:
    """What was the same for the whole run.

    Attributes:
        versions: of the framework, with the device and the threads.
    """

    framework: str
    versions: str
    device: str
    dtype: str
    settings: Common

    @classmethod
    def of(cls, backend: Backend, settings: Common) -> Environment:
        """The environment of a backend."""
        return cls(backend.name, backend.versions(), backend.device, backend.dtype, settings)

    @property
    def peered(self) -> bool:
        """Whether folx can be measured beside."""
        return self.framework == "jax" and find_spec("folx") is not None

    def lines(self) -> list[str]:
        """For the head of the table."""
        hidden = " → ".join(map(str, widths(0, self.settings.width)[1:]))
        paper = " (the paper's)" if self.settings.width == 1 else f" ({self.settings.width:g}×)"
        return [
            f"{self.versions}, {self.dtype}, batch {self.settings.batch}",
            f"tanh network D → {hidden}{paper}, seed {self.settings.seed}, without autograd",
        ]


def head(environment: Environment) -> list[str]:
    """What is printed above the table."""
    return environment.lines()


def legend(settings: Settings) -> str:
    """What the columns of the table mean."""
    points = min(REFERENCE_POINTS, settings.batch)
    return (
        "vectors: carried at every node of the network. ms: median time of one evaluation. "
        "speed-up: against nested in the same mode. time/limit: against one plain forward pass "
        "on batch × vectors rows. error: largest |error| / largest |value|, against nested in "
        f"float64 at the first {points} points."
    )


Groups = Iterable[tuple[Sequence[str], Sequence[Any]]]
"""Rows that stand together in a table, and the lines of what stands beside them."""


def empty_table(left: Sequence[str], right: Sequence[str]) -> Table:
    """A table with columns of words, and then of numbers; for terminals of 80 columns."""
    made = Table(header_style="bold", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for name in left:
        made.add_column(name, no_wrap=True)
    for name in right:
        made.add_column(name, justify="right", no_wrap=True)
    return made


def fill(made: Table, groups: Groups, cells: Callable[[Any], Sequence[Any]]) -> Table:
    """The cells of all rows, a line of the heading before each; the last one has what is left."""
    for heading, found in groups:
        for position, row in enumerate(found):
            last = position == len(found) - 1
            lines = heading[position:] if last else heading[position : position + 1]
            made.add_row(Text("\n".join(lines)), *cells(row), end_section=last)
    return made


def table(rows: Sequence[Row], dtype: str) -> Table:
    """All rows, operator by operator, for a terminal."""

    def groups() -> Groups:
        for (_, mode), group in groupby(rows, key=lambda row: (row.operator, row.mode)):
            found = list(group)
            yield [found[0].label, f"D = {found[0].dimension}", mode], found

    def cells(row: Row) -> Sequence[Any]:
        bad = not row.relative_error <= TOLERANCE[dtype]
        return (
            Text(row.method, style="bold" if row.method == "minimal" else ""),
            shown(row.vectors, "d"),
            milliseconds(row.time.median),
            shown(row.speedup, ".2f", "×"),
            shown(row.over_limit, ".2f"),
            Text(shown(row.relative_error, ".1e"), style="bold red" if bad else ""),
        )

    columns = ("vectors", "ms", "speed-up", "time/\nlimit", "error")
    return fill(empty_table(("operator", "method"), columns), groups(), cells)


def shown(value: Any, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"


def milliseconds(seconds: float) -> str:
    value = 1e3 * seconds
    return f"{value:.0f}" if value >= 100 else f"{value:#.3g}"


Columns = Mapping[str, Callable[[Any, Environment], Any]]
"""The columns of a CSV file: from a row and the environment to what is written."""

TIMES: Columns = {
    "median ms": lambda row, _: f"{1e3 * row.time.median:.6g}",
    "min ms": lambda row, _: f"{1e3 * row.time.minimum:.6g}",
    "lower quartile ms": lambda row, _: f"{1e3 * row.time.lower:.6g}",
    "upper quartile ms": lambda row, _: f"{1e3 * row.time.upper:.6g}",
    "repeats": lambda row, _: row.time.repeats,
    "speed-up": lambda row, _: shown(row.speedup, ".4g"),
}

COMMON: Columns = {
    "jetfold": lambda _, environment: __version__,
    "python": lambda _, environment: platform.python_version(),
    "versions": lambda _, environment: environment.versions,
    "folx": lambda _, environment: version("folx") if environment.peered else "",
    "dtype": lambda _, environment: environment.dtype,
    "device": lambda _, environment: environment.device,
    "width": lambda _, environment: f"{environment.settings.width:g}",
    "seed": lambda _, environment: environment.settings.seed,
}

COLUMNS: Columns = {
    "framework": lambda _, environment: environment.framework,
    "operator": lambda row, _: row.operator,
    "label": lambda row, _: row.label,
    "dimension": lambda row, _: row.dimension,
    "method": lambda row, _: row.method,
    "mode": lambda row, _: row.mode,
    "vectors": lambda row, _: shown(row.vectors, "d"),
    **TIMES,
    "limit ms": lambda row, _: shown(None if row.limit is None else 1e3 * row.limit, ".6g"),
    "time/limit": lambda row, _: shown(row.over_limit, ".4g"),
    "relative error": lambda row, _: shown(row.relative_error, ".3g"),
    "compile s": lambda row, _: shown(row.compile_s, ".3g"),
    "batch": lambda _, environment: environment.settings.batch,
    **COMMON,
}


def write_csv(
    rows: Sequence[Any], environment: Environment, path: Path, columns: Columns = COLUMNS
) -> None:
    """One line per row, times in milliseconds, what does not apply left empty."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            writer.writerow([cell(row, environment) for cell in columns.values()])


# ------------------------------------------------------------------ the picture


def plot(rows: Sequence[Row], environment: Environment, path: Path) -> bool:
    """Time per evaluation by operator and method, one panel per mode, on a logarithmic scale.

    Returns:
        whether there was anything to draw: always.
    """
    modes = [mode for mode in MODES if any(row.mode == mode for row in rows)]
    operators = list(dict.fromkeys((row.operator, row.label, row.dimension) for row in rows))
    methods = [
        method
        for method in (*METHODS, REWRITTEN, *PEERS)
        if any(row.method == method for row in rows)
    ]
    panel = max(4.2, 0.6 + 0.33 * len(operators) * (len(methods) + 1))
    figure = Figure(figsize=(0.8 + panel * len(modes), 5.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(modes), sharey=True, squeeze=False)[0]
    for axis, mode in zip(axes, modes, strict=True):
        _panel(axis, [row for row in rows if row.mode == mode], operators, methods)
        axis.set_title(mode, fontsize=12, pad=8)
    shown = [1e3 * t for row in rows for t in (row.time.lower, row.time.upper, row.limit) if t]
    axes[0].set_ylim(min(shown) / 1.6, max(shown) * 1.6)
    axes[0].set_ylabel("time of one evaluation (ms), logarithmic", fontsize=11)
    handles: list[Any] = [Patch(color=COLOURS[method], label=NAMES[method]) for method in methods]
    if any(row.limit is not None for row in rows):
        name = "limit: plain forward pass, batch × vectors rows"
        handles.append(Line2D([], [], color="black", linewidth=2.2, label=name))
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=10
    )
    settings = environment.settings
    figure.suptitle(
        f"Differential operators of a tanh network, {environment.dtype}, batch {settings.batch}\n",
        fontsize=13,
        fontweight="bold",
    )
    figure.text(
        0.5,
        0.925,
        f"{environment.versions}. Above the bars: speed-up against nested first-order AD.",
        ha="center",
        fontsize=9.5,
        color="#444444",
    )
    figure.savefig(path)
    return True


def _panel(
    axis: Axes,
    rows: Sequence[Row],
    operators: Sequence[tuple[str, str, int]],
    methods: Sequence[str],
) -> None:
    width = 0.82 / len(methods)
    for row in rows:
        place = operators.index((row.operator, row.label, row.dimension))
        x = place + (methods.index(row.method) - (len(methods) - 1) / 2) * width
        top = 1e3 * row.time.median
        axis.bar(x, top, 0.94 * width, color=COLOURS[row.method], zorder=2)
        spread = [[top - 1e3 * row.time.lower], [1e3 * row.time.upper - top]]
        axis.errorbar(x, top, spread, color="#333333", linewidth=0.9, zorder=3)
        if row.limit is not None:
            half = 0.47 * width
            axis.hlines(1e3 * row.limit, x - half, x + half, color="black", linewidth=2.2, zorder=4)
        if row.speedup is not None and row.method != "nested":
            peak = max(1e3 * row.time.upper, top, 1e3 * (row.limit or 0))
            axis.annotate(
                f"{row.speedup:.1f}×",
                (x, peak),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=8.5,
                fontweight="bold" if row.method == "minimal" else "normal",
            )
    labels = [
        f"{label[0].upper()}{label[1:]}\nD = {dimension}" for _, label, dimension in operators
    ]
    axis.set_xticks(range(len(operators)), [label.replace(" L", "\nL") for label in labels])
    axis.set_xlim(-0.55, len(operators) - 0.45)
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(10, subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.tick_params(axis="x", length=0, labelsize=10)
    axis.tick_params(axis="y", labelsize=9, length=0)
    axis.grid(axis="y", color="#DDDDDD", linewidth=0.8, zorder=0)
    axis.spines[["top", "right", "left"]].set_visible(False)


# ------------------------------------------------------------------ the verdict


def noise(rows: Sequence[Any]) -> str:
    """A warning if the calls of a method took very different times, else ""."""
    noisy = [row for row in rows if row.time.upper - row.time.lower > SPREAD * row.time.median]
    if not noisy:
        return ""
    return (
        f"The machine was busy: in {len(noisy)} of {len(rows)} rows the quartiles are more than "
        f"{SPREAD:.0%} of the median apart. Repeat the run when it is idle, or with fewer "
        "--threads and a larger --budget."
    )


def complaints(outcome: Outcome, dtype: str) -> list[str]:
    """Why the run fails: what could not be measured, and what is not exact enough."""
    found = [f"could not be measured: {failure}" for failure in outcome.failures]
    for row in outcome.too_inexact(dtype):
        where = f"{row.label}, {row.method}, {row.mode}"
        found.append(inexact(where, row.relative_error, TOLERANCE[dtype], dtype))
    return found
