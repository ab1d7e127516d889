"""The paper's table: what one more datum or sample costs, relative to nested differentiation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..bench.fits import STEPS
from ..bench.paper import EXPERIMENT, published
from ..bench.results import Results
from .quantities import FASTEST, PEAK, PEAK_DIFFERENTIABLE, Quantity
from .reasons import Reason, explained, far, reason
from .series import Panel, panels
from .words import capitalised, operator, ratio, setting, where

COSTS = (FASTEST, PEAK, PEAK_DIFFERENTIABLE)


@dataclass(frozen=True)
class Line:
    """One method at one place."""

    panel: Panel
    method: str

    def slope(self, quantity: Quantity) -> float | None:
        """What one more datum or sample costs."""
        fit = self.panel.fit(self.method, quantity)
        return fit.slope if fit else None

    def ratio(self, quantity: Quantity = FASTEST) -> float | None:
        """The same, relative to nested."""
        return self.panel.ratio(self.method, quantity)

    def published(self, quantity: Quantity = FASTEST) -> float | None:
        """The same in the paper, for the methods and operators that it has."""
        return published(self.panel.lines[self.method][0].spec, quantity.name)

    @property
    def why(self) -> Reason | None:
        return reason(self.panel, self.method)

    @property
    def far(self) -> bool:
        """Whether collapsed's ratio of times is further than allowed from the published one."""
        found, there = self.ratio(), self.published()
        return self.method == "collapsed" and bool(found and there and far(found, there))


def lines(results: Results) -> list[Line]:
    """All methods at all places of the paper's experiments."""
    cells = [cell for spec, cell in results.cells.items() if spec.experiment == EXPERIMENT]
    return [Line(panel, method) for panel in panels(cells) for method in panel.lines]


def step(panel: Panel) -> str:
    """datum or sample"""
    return STEPS.get(panel.place.variable, panel.place.variable)


def differences(found: Sequence[Line]) -> list[str]:
    """A sentence for each ratio that is far from the published one, with the measured reason."""
    sentences = []
    for line in found:
        measured, there = line.ratio(), line.published()
        if not line.far or measured is None or there is None:
            continue
        place = line.panel.place
        text = (
            f"{operator(place)} ({setting(place)}), {where(place)}: {ratio(measured)} where the "
            f"paper has {ratio(there)}: "
        )
        why = line.why
        text += (
            explained(why, there, step(line.panel))
            if why
            else "to tell why needs the times of plain forward passes, which were not measured."
        )
        sentences.append(capitalised(text))
    return sentences
