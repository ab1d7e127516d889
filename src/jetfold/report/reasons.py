"""Why a ratio is what it is: the vectors that are carried, and what each of them takes."""

from __future__ import annotations

from dataclasses import dataclass

from ..bench.fits import fit
from .quantities import FASTEST, FLOPS
from .series import Panel
from .words import number, ratio

TOLERANCE = 0.15
"""How far a ratio may be from the published one without a reason."""


@dataclass(frozen=True)
class Reason:
    """ratio = vectors × overhead / nested, where the unit is one row of a plain forward pass.

    Attributes:
        vectors: that a method adds per datum or per sample (and datum of the batch).
        overhead: the time of each, in rows of a plain forward pass.
        nested: the time that nested differentiation adds, in the same rows.
        flops: the counted operations that the method adds, relative to nested; None: not counted.
    """

    vectors: float
    overhead: float
    nested: float
    flops: float | None = None

    @property
    def ratio(self) -> float:
        return self.vectors * self.overhead / self.nested


def reason(panel: Panel, method: str = "collapsed") -> Reason | None:
    """All factors from slopes of what was measured; None where that does not suffice."""
    cells = [
        cell
        for cell in panel.having(FASTEST).get(method, [])
        if cell.limit is not None and cell.vectors is not None
    ]
    values = [cell.spec.value for cell in cells]
    rows = [cell.spec.batch * (cell.vectors or 0) for cell in cells]
    step = fit(list(zip(values, rows, strict=True)))
    forward = fit([(n, cell.limit or 0.0) for n, cell in zip(rows, cells, strict=True)])
    ours, nested = panel.fit(method, FASTEST), panel.fit("nested", FASTEST)
    if not (step and forward and ours and nested):
        return None
    if min(step.slope, forward.slope, ours.slope, nested.slope) <= 0:
        return None
    return Reason(
        vectors=step.slope / (panel.place.batch or 1),
        overhead=ours.slope / (forward.slope * step.slope),
        nested=nested.slope / forward.slope / (panel.place.batch or 1),
        flops=panel.ratio(method, FLOPS),
    )


def far(found: float, published: float) -> bool:
    """Whether a ratio is further from the published one than may be without a reason."""
    return abs(found / published - 1) > TOLERANCE


def explained(why: Reason, published: float, step: str) -> str:
    """The factors in words, with what nested would have to take for the published ratio."""
    vectors, overhead, nested = number(why.vectors), ratio(why.overhead), number(why.nested)
    text = (
        f"{vectors} vectors per {step} × {overhead} for each / {nested} for nested; at the "
        f"published ratio nested would take {number(why.vectors * why.overhead / published)}"
    )
    if why.flops is not None:
        speed = ratio(why.flops / why.ratio)
        text += (
            f"; counted, {ratio(why.flops)} of nested's operations, {speed} times as many a second"
        )
    return text + "."
