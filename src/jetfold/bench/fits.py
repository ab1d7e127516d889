"""Straight lines through what was measured, as in the paper: the cost of a point or a sample."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .results import Cell, Spec


@dataclass(frozen=True)
class Line:
    """y = intercept + slope · x."""

    slope: float
    intercept: float


STEPS = {"batch": "datum", "samples": "sample"}
"""One more of a variable, along which costs grow on a line."""

QUANTITIES: Mapping[str, Callable[[Cell], float | None]] = {
    "time": lambda cell: None if cell.time is None else cell.time.minimum,
    "peak": lambda cell: cell.peak,
    "peak_differentiable": lambda cell: cell.peak_differentiable,
}
"""What lines are fitted to: seconds (the smallest, as in the paper), bytes, bytes."""


def fit(points: Sequence[tuple[float, float]]) -> Line | None:
    """The least-squares line; None through fewer than two different x.

    >>> fit([(1, 3.0), (2, 5.0), (3, 7.0)])
    Line(slope=2.0, intercept=1.0)
    """
    if len({x for x, _ in points}) < 2:
        return None
    x, y = np.array(points, dtype=float).T
    dx = x - x.mean()
    slope = (dx @ y) / (dx @ dx)
    return Line(float(slope), float(y.mean() - slope * x.mean()))


def curve(spec: Spec) -> Spec:
    """What the cells of one curve share: the spec without what varies."""
    nowhere: dict[str, Any] = {spec.variable: 0}
    return replace(spec, **nowhere)


def lines(cells: Iterable[Cell], quantity: str) -> dict[Spec, Line]:
    """The line of every curve through at least two cells that have the quantity."""
    found: dict[Spec, list[Cell]] = {}
    for cell in cells:
        if QUANTITIES[quantity](cell) is not None:
            found.setdefault(curve(cell.spec), []).append(cell)
    fitted = {key: fit(_points(of, quantity)) for key, of in found.items()}
    return {key: line for key, line in fitted.items() if line is not None}


def _points(cells: Sequence[Cell], quantity: str) -> list[tuple[float, float]]:
    """Of samples only those that cost something: at some number the exact operator, which carries
    no more vectors, is evaluated instead."""
    rising = sorted(cells, key=lambda cell: float(cell.spec.value))
    if rising[0].spec.variable == "samples":
        carried = [cell.vectors for cell in rising]
        rising = [
            cell
            for k, cell in enumerate(rising)
            if cell.vectors is None or k == 0 or cell.vectors not in carried[:k]
        ]
    return [(float(cell.spec.value), float(QUANTITIES[quantity](cell) or 0)) for cell in rising]


def ratio(fitted: Mapping[Spec, Line], key: Spec, to: str = "nested") -> float | None:
    """The slope of a curve / that of another method on the same; None where there is none.

    A slope that is not positive is noise, and is compared with nothing.
    """
    line, other = fitted.get(key), fitted.get(replace(key, method=to))
    if line is None or other is None or min(line.slope, other.slope) <= 0:
        return None
    return line.slope / other.slope
