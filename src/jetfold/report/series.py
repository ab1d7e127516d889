"""Cells that belong together: the methods at one place, each a line over the variable."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..bench import fits
from ..bench.results import Cell, Spec
from .quantities import Quantity
from .words import ordered


@dataclass(frozen=True)
class Panel:
    """What is drawn in one plot: per method its cells, ascending.

    Attributes:
        place: a spec that all share, without method and without a value of the variable.
    """

    place: Spec
    lines: Mapping[str, Sequence[Cell]]

    def having(self, quantity: Quantity) -> dict[str, list[Cell]]:
        """The lines, of those cells for which a quantity is known."""
        known = {
            method: [cell for cell in cells if quantity.of(cell) is not None]
            for method, cells in self.lines.items()
        }
        return {method: cells for method, cells in known.items() if cells}

    def fit(self, method: str, quantity: Quantity) -> fits.Line | None:
        """How a quantity grows with the variable."""
        cells = self.having(quantity).get(method, [])
        if quantity.name in fits.QUANTITIES:
            return next(iter(fits.lines(map(_whole, cells), quantity.name).values()), None)
        return fits.fit([(cell.spec.value, quantity.of(cell) or 0.0) for cell in cells])

    def ratio(self, method: str, quantity: Quantity, to: str = "nested") -> float | None:
        """The slope of a method, relative to another's; None where one does not grow."""
        ours, theirs = self.fit(method, quantity), self.fit(to, quantity)
        if not ours or not theirs or min(ours.slope, theirs.slope) <= 0:
            return None
        return ours.slope / theirs.slope


def _whole(cell: Cell) -> Cell:
    """Without what does not tell its curve from others: how many directions are taken at a time."""
    return replace(cell, spec=replace(cell.spec, chunk=None))


def place(spec: Spec) -> Spec:
    """All that a spec says beside its method and where it stands on the axis."""
    blank: dict[str, Any] = {spec.variable: None, "method": "", "chunk": None}
    return replace(spec, **blank)


def panels(cells: Iterable[Cell]) -> list[Panel]:
    """The cells without failures, place by place, in the order in which the places appear."""
    found: dict[Spec, list[Cell]] = {}
    for cell in cells:
        if not cell.failure:
            found.setdefault(place(cell.spec), []).append(cell)
    return [_panel(where, members) for where, members in found.items()]


def _panel(where: Spec, cells: Sequence[Cell]) -> Panel:
    methods = ordered([cell.spec.method for cell in cells])
    values = [cell.spec.value for cell in cells]
    numeric = all(isinstance(value, int | float) for value in values)

    def line_of(method: str) -> list[Cell]:
        some = [cell for cell in cells if cell.spec.method == method]
        return sorted(some, key=lambda cell: cell.spec.value) if numeric else some

    return Panel(where, {method: line_of(method) for method in methods})
