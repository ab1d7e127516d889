"""What `jf.explain` predicted, against what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from ..bench.results import Cell


@dataclass(frozen=True)
class Predicted:
    """A number of which there are two: one that was computed before, and one that was found.

    Attributes:
        kind: "bytes", "operations", or "" for a number without a unit.
    """

    name: str
    title: str
    kind: str
    before: Callable[[Cell], float | None]
    found: Callable[[Cell], float | None]

    def both(self, cell: Cell) -> tuple[float, float] | None:
        """Predicted and found; None where one is missing."""
        pair = self.before(cell), self.found(cell)
        return None if pair[0] is None or pair[1] is None else (pair[0], pair[1])


def _said(name: str) -> Callable[[Cell], float | None]:
    return lambda cell: cell.predicted.get(name)


def over_limit(cell: Cell) -> float | None:
    """The time of an evaluation in that of one plain forward pass on as many rows."""
    return cell.time.median / cell.limit if cell.time and cell.limit else None


def _memory(cell: Cell) -> float | None:
    """What waits for the backward pass; in JAX, where nothing waits, the peak of the whole."""
    return cell.peak_differentiable if cell.held is None else cell.held


def _kept(cell: Cell) -> float | None:
    return cell.kept


PREDICTED = (
    Predicted("time / limit", "time / limit", "", _said("time / limit"), over_limit),
    Predicted("flops", "operations", "operations", _said("flops"), lambda cell: cell.flops),
    Predicted("kept", "bytes kept", "bytes", _said("kept"), _kept),
    Predicted("counted", "memory held", "bytes", _kept, _memory),
)
"""The last: the arrays kept for a backward pass, counted, and what the process holds of them."""


@dataclass(frozen=True)
class Agreement:
    """How well some predictions hold.

    Attributes:
        quotients: found / predicted, of every cell that has both.
    """

    predicted: Predicted
    quotients: tuple[float, ...]

    @property
    def median(self) -> float:
        return float(np.median(self.quotients))

    def within(self, share: float) -> int:
        """How many are off by less than a share of what was predicted."""
        return sum(abs(quotient - 1) <= share for quotient in self.quotients)


def agreement(predicted: Predicted, cells: Iterable[Cell]) -> Agreement | None:
    """Of all cells that have both; None if there is none."""
    both = [pair for cell in cells if not cell.failure and (pair := predicted.both(cell))]
    quotients = tuple(found / before for before, found in both if before)
    return Agreement(predicted, quotients) if quotients else None
