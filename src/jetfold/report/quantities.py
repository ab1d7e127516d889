"""What is measured of every cell, and when two cells differ by more than the noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ..bench.results import Cell


@dataclass(frozen=True)
class Quantity:
    """One number of a cell; less of it is better.

    Attributes:
        title: what it is, in a sentence.
        kind: "time" (seconds), "bytes", or "" for a number without a unit.
        of: reads it from a cell; None where it was not measured.
        more: whether the first cell needs more of it than the second, by more than the noise.
        rule: the same in words.
    """

    name: str
    title: str
    kind: str
    of: Callable[[Cell], float | None]
    more: Callable[[Cell, Cell], bool]
    rule: str

    def comparable(self, a: Cell, b: Cell) -> bool:
        """Whether both cells have it, and times of enough calls to know how much they vary."""
        if self.name == "time":
            return all(cell.time and cell.time.repeats >= CALLS for cell in (a, b))
        return self.of(a) is not None and self.of(b) is not None

    def factor(self, a: Cell, b: Cell) -> float:
        """How many times as much a needs as b; inf where b alone needs nothing."""
        one, other = self.of(a), self.of(b)
        assert one is not None and other is not None
        if one == other:
            return 1.0
        return one / other if other else float("inf")


CALLS = 3
"""How often a call must have been timed to be compared."""


def _slower(a: Cell, b: Cell) -> bool:
    """The middle halves of the calls do not meet."""
    assert a.time and b.time
    return a.time.lower > b.time.upper


def _exceeds(name: str, factor: float, least: float) -> Callable[[Cell, Cell], bool]:
    def more(a: Cell, b: Cell) -> bool:
        one, other = getattr(a, name), getattr(b, name)
        return bool(one > factor * other and one - other > least)

    return more


def _plain(name: str, title: str, kind: str, factor: float, least: float, rule: str) -> Quantity:
    return Quantity(
        name, title, kind, lambda cell: getattr(cell, name), _exceeds(name, factor, least), rule
    )


MEGABYTE = 1e6

TIME = Quantity(
    "time",
    "time",
    "time",
    lambda cell: cell.time.median if cell.time else None,
    _slower,
    "a time is longer if the lower quartile of its calls lies above the upper quartile of the "
    f"other's (both of at least {CALLS} calls)",
)
PEAK = _plain(
    "peak",
    "peak memory",
    "bytes",
    1.1,
    MEGABYTE,
    "memory is larger from 10 % and 1 MB on",
)
PEAK_DIFFERENTIABLE = _plain(
    "peak_differentiable", "peak memory with gradients", "bytes", 1.1, MEGABYTE, PEAK.rule
)
COMPILE = _plain(
    "compile_s",
    "compile time",
    "time",
    1.25,
    0.5,
    "compilation, which is timed once, is longer from 25 % and half a second on",
)
ERROR = _plain(
    "error",
    "relative error",
    "",
    2.0,
    1e-6,
    "an error is larger from a factor of 2 and 1e-6 on, below which float32 rounds",
)

FASTEST = replace(
    TIME, title="fastest time", of=lambda cell: cell.time.minimum if cell.time else None
)
"""What lines are fitted to, as in the paper."""

FLOPS = _plain("flops", "operations", "", 1.01, 0.0, "operations are counted")
"""Not compared: fewer of them are no use if they take longer."""

QUANTITIES = (TIME, PEAK, PEAK_DIFFERENTIABLE, COMPILE, ERROR)

RULES = "; ".join(dict.fromkeys(quantity.rule for quantity in QUANTITIES)) + "."
"""When two cells differ, in words."""
