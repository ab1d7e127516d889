"""Plots, as dictionaries that plotly.js draws; the page sets the colours of ink and paper."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from ..bench.report import COLOURS
from ..bench.results import Cell
from .compare import Change
from .predictions import Predicted
from .quantities import FASTEST, TIME, Quantity
from .series import Panel
from .words import AXES, UNITS, at, method, operator, unit, where

Plotly = dict[str, Any]
"""A figure of plotly.js: {"data": traces, "layout": …}."""

OTHERS = ("#CC79A7", "#F0E442", "#D55E00", "#009E73", "#56B4E9")
"""Of methods without a colour of their own."""

GREY = "#888888"
"""Of lines that are no method's; legible on both papers."""

SYMBOLS = {"nested": "square", "standard": "triangle-up", "collapsed": "circle"}
"""The shapes of points, so that nobody needs the colours; all others are diamonds."""


@dataclass(frozen=True)
class Axes:
    """How the axes of a plot run.

    Attributes:
        x, y: "linear", "log" or "category".
        across, up: what is written beside them; "": the variable and the quantity.
    """

    x: str = "log"
    y: str = "log"
    across: str = ""
    up: str = ""


@dataclass(frozen=True)
class Plot:
    """One plot and what stands above it."""

    title: str
    drawn: Plotly


@dataclass(frozen=True)
class Figure:
    """A question, the plots that answer it, and the answer in one sentence.

    Attributes:
        legend: names and colours, by method.
        told: what is worth knowing before.
    """

    question: str
    plots: Sequence[Plot]
    answer: str
    legend: Mapping[str, tuple[str, str]]
    told: str = ""


def colour(name: str) -> str:
    """Of a method: always the same."""
    return COLOURS.get(name) or OTHERS[sum(map(ord, name)) % len(OTHERS)]


def legend(methods: Iterable[str]) -> dict[str, tuple[str, str]]:
    """What the colours mean."""
    return {name: (method(name), colour(name)) for name in methods}


def _layout(x: Plotly, y: Plotly) -> Plotly:
    common = {"automargin": True, "zeroline": False}
    return {
        "xaxis": x | common,
        "yaxis": y | common,
        "showlegend": False,
        "margin": {"l": 8, "r": 14, "t": 10, "b": 8},
        "height": 290,
        "hovermode": "closest",
    }


def _axis(title: str, scale: str, values: Sequence[float] = (), *, zero: bool = True) -> Plotly:
    """An axis on which some values stand; zero: a linear one begins there."""
    found: Plotly = {"title": {"text": title}, "type": scale}
    if scale == "category":
        return found
    if not zero and len(set(values)) <= 10:
        return found | {"tickvals": sorted(set(values))}
    if scale == "log":
        marks = ticks([value for value in values if value > 0])
        return found | {"tickvals": marks or None, "ticktext": [tick(mark) for mark in marks]}
    return found | {"rangemode": "tozero"}


def ticks(values: Sequence[float]) -> list[float]:
    """1, 2, 5, 10 … or powers of ten, for a logarithmic axis; [] if it is too short for them.

    >>> ticks([2.0, 30.0]), ticks([1.0, 1e4]), ticks([1.1, 1.9])
    ([2.0, 5.0, 10.0, 20.0], [1.0, 10.0, 100.0, 1000.0, 10000.0], [])
    """
    if not values or max(values) < 4 * min(values):
        return []
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    steps, every = ((1, 2, 5), 1) if high - low <= 3 else ((1,), 1 + (high - low) // 8)
    marks = [float(f"{k}e{power}") for power in range(low, high + 1, every) for k in steps]
    return [mark for mark in marks if 0.8 * min(values) <= mark <= 1.25 * max(values)]


def tick(mark: float) -> str:
    """
    >>> tick(2000.0), tick(1e-7), tick(2e-5)
    ('2,000', '10<sup>−7</sup>', '2·10<sup>−5</sup>')
    """
    if 1e-3 <= mark < 1e5:
        return f"{mark:,g}"
    digit, power = f"{mark:.0e}".split("e")
    return f"{'' if digit == '1' else digit + '·'}10<sup>{int(power)}</sup>".replace("-", "−")


def _style(name: str) -> Plotly:
    symbol = SYMBOLS.get(name, "diamond")
    wider = 2.5 if name == "collapsed" else 0  # still to be seen where minimal is the same
    return {
        "meta": name,
        "name": method(name),
        "marker": {"color": colour(name), "size": 8 + wider, "symbol": symbol},
        "line": {"color": colour(name), "width": 2 + wider},
    }


def plot(panel: Panel, quantity: Quantity, axes: Axes, *, fitted: bool = False) -> Plotly:
    """A quantity over the variable, a line per method.

    Args:
        fitted: points are joined by the line that was fitted to them, not to each other.
    """
    lines = panel.having(quantity)
    every = [cell for cells in lines.values() for cell in cells]
    found = [quantity.of(cell) or 0.0 for cell in every]
    timed = quantity in (TIME, FASTEST)
    name, size = unit(quantity.kind, max(found)) if quantity.kind in UNITS else ("", 1.0)
    data: list[Plotly] = []
    for label, cells in lines.items():
        values = [cell.spec.value for cell in cells]
        heights = [(quantity.of(cell) or 0.0) / size for cell in cells]
        fit = panel.fit(label, quantity) if fitted else None
        mode = "markers" if fitted or axes.x == "category" else "lines+markers"
        trace = _style(label) | {"type": "scatter", "mode": mode, "x": values, "y": heights}
        trace["hovertemplate"] = "%{x}: %{y:.4g} " + name + "<extra>%{fullData.name}</extra>"
        if timed:
            trace["error_y"] = _quartiles(cells, heights, size)
        data.append(trace)
        if fit:
            ends = [0, max(values)] if axes.x == "linear" else [min(values), max(values)]
            on_line = [(fit.intercept + fit.slope * x) / size for x in ends]
            drawn = {"type": "scatter", "mode": "lines", "x": ends, "y": on_line}
            data.append(_style(label) | drawn | {"hoverinfo": "skip"})
    title = (axes.up or quantity.title) + (f" ({name})" if name else "")
    across = axes.across or AXES.get(panel.place.variable, panel.place.variable)
    x = _axis(across, axes.x, [cell.spec.value for cell in every], zero=fitted)
    spread = [(cell.time.lower, cell.time.upper) for cell in every if cell.time and timed]
    y = _axis(title, axes.y, [value / size for value in (*found, *chain(*spread))])
    return {"data": data, "layout": _layout(x, y)}


def _quartiles(cells: Sequence[Cell], heights: Sequence[float], size: float) -> Plotly:
    """The bars from the lower quartile, or the point if that is less, to the upper."""
    times = [cell.time for cell in cells if cell.time]
    pairs = list(zip(times, heights, strict=True))
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(0.0, time.upper / size - y) for time, y in pairs],
        "arrayminus": [max(0.0, y - time.lower / size) for time, y in pairs],
        "width": 0,
        "thickness": 1.2,
    }


def label(cell: Cell) -> str:
    """A cell in one line."""
    spec = cell.spec
    return f"{operator(spec)}, {where(spec)}, {at(spec)}"


def against(predicted: Predicted, cells: Iterable[Cell]) -> Plotly:
    """What was found over what was predicted, and the diagonal on which they agree."""
    points: dict[str, list[tuple[float, float, str]]] = {}
    for cell in cells:
        pair = predicted.both(cell)
        if pair and min(pair) > 0:
            points.setdefault(cell.spec.method, []).append((*pair, label(cell)))
    every = [value for found in points.values() for point in found for value in point[:2]]
    name, size = unit(predicted.kind, max(every)) if predicted.kind in UNITS else ("", 1.0)
    ends = [min(every) / size / 1.2, max(every) / size * 1.2]
    diagonal: Plotly = {
        "type": "scatter",
        "mode": "lines",
        "x": ends,
        "y": ends,
        "line": {"dash": "dot", "color": GREY, "width": 1.2},
        "hoverinfo": "skip",
    }
    data = [diagonal]
    for method_name, found in points.items():
        drawn = {
            "type": "scatter",
            "mode": "markers",
            "x": [point[0] / size for point in found],
            "y": [point[1] / size for point in found],
            "text": [point[2] for point in found],
            "hovertemplate": "%{text}: %{y:.4g} where %{x:.4g} was predicted<extra></extra>",
        }
        data.append(_style(method_name) | drawn)
    suffix = f" ({name})" if name else ""
    x, y = (_axis(f"{which}{suffix}", "log", ends) for which in ("predicted", "measured"))
    return {"data": data, "layout": _layout(x, y)}


def factors(changes: Iterable[Change], here: str, there: str) -> Plotly:
    """By what factor each time changed: a point per cell, a row per framework and mode."""
    points: dict[str, list[Change]] = {}
    for change in changes:
        points.setdefault(change.now.spec.method, []).append(change)
    data = [
        _style(name)
        | {
            "type": "scatter",
            "mode": "markers",
            "x": [change.factor for change in found],
            "y": [where(change.now.spec) for change in found],
            "text": [label(change.now) for change in found],
            "hovertemplate": "%{text}: × %{x:.3g}<extra>%{fullData.name}</extra>",
        }
        for name, found in points.items()
    ]
    x, y = (
        _axis(
            f"time, {here} / {there}",
            "log",
            [change.factor for f in points.values() for change in f],
        ),
        _axis("", "category"),
    )
    layout = _layout(x, y) | {
        "shapes": [
            {
                "type": "line",
                "x0": 1,
                "x1": 1,
                "y0": 0,
                "y1": 1,
                "yref": "paper",
                "line": {"color": GREY, "dash": "dot", "width": 1.2},
            }
        ]
    }
    return {"data": data, "layout": layout}
