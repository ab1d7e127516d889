"""Two results side by side, cell by cell: what changed by more than the noise."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..bench.results import Cell, Results
from .quantities import QUANTITIES, TIME, Quantity


@dataclass(frozen=True)
class Change:
    """A quantity of a cell that both results have."""

    quantity: Quantity
    before: Cell
    now: Cell

    @property
    def factor(self) -> float:
        """now / before; inf where there was nothing."""
        return self.quantity.factor(self.now, self.before)

    @property
    def more(self) -> bool:
        return self.quantity.more(self.now, self.before)

    @property
    def less(self) -> bool:
        return self.quantity.more(self.before, self.now)


@dataclass(frozen=True)
class Comparison:
    """All that can be compared, and what is in one of the two alone.

    Attributes:
        only_now, only_before: cells with numbers that the other lacks.
    """

    changes: tuple[Change, ...]
    only_now: int
    only_before: int

    @property
    def changed(self) -> list[Change]:
        """By more than the noise, the largest factors (up or down) first."""
        found = [change for change in self.changes if change.more or change.less]
        return sorted(found, key=lambda c: -abs(np.log(c.factor)) if c.factor > 0 else -np.inf)

    def typical(self, changes: Iterable[Change]) -> float | None:
        """The median factor of the times among some changes."""
        factors = [change.factor for change in changes if change.quantity is TIME]
        return float(np.median(factors)) if factors else None


def compare(now: Results, before: Results) -> Comparison:
    """Set every cell of one result beside that of the other with an equal spec."""
    new = {spec: cell for spec, cell in now.cells.items() if not cell.failure}
    old = {spec: cell for spec, cell in before.cells.items() if not cell.failure}
    changes = tuple(
        Change(quantity, old[spec], cell)
        for spec, cell in new.items()
        if spec in old
        for quantity in QUANTITIES
        if quantity.comparable(cell, old[spec])
    )
    return Comparison(changes, len(new.keys() - old.keys()), len(old.keys() - new.keys()))
