"""Which rows we lose, and to whom: found in the results, not chosen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..bench.results import Cell, Results, Spec
from .quantities import QUANTITIES, Quantity
from .series import place

OURS = "minimal"


@dataclass(frozen=True)
class Pair:
    """What a quantity is for us and for another method, in one cell."""

    quantity: Quantity
    ours: Cell
    rival: Cell

    @property
    def factor(self) -> float:
        """How many times as much we need; inf where the other needs nothing."""
        return self.quantity.factor(self.ours, self.rival)

    @property
    def lost(self) -> bool:
        """By more than the noise."""
        return self.quantity.more(self.ours, self.rival)


@dataclass(frozen=True)
class Loss:
    """The cells of a place that we lose to one method.

    Attributes:
        lost: of `compared` cells.
        worst: the pair with the largest factor.
    """

    place: Spec
    rival: str
    quantity: Quantity
    lost: int
    compared: int
    worst: Pair


def pairs(results: Results) -> Iterator[Pair]:
    """Everything in which ours and another method can be compared."""
    for spec, rival in results.cells.items():
        ours = results.cells.get(replace(spec, method=OURS))
        if spec.method == OURS or ours is None or ours.failure or rival.failure:
            continue
        for quantity in QUANTITIES:
            if quantity.comparable(ours, rival):
                yield Pair(quantity, ours, rival)


def losses(results: Results) -> list[Loss]:
    """Those that we lose, the largest factor first."""
    groups: dict[tuple[Spec, str, str], list[Pair]] = {}
    for pair in pairs(results):
        key = place(pair.rival.spec), pair.rival.spec.method, pair.quantity.name
        groups.setdefault(key, []).append(pair)
    found = []
    for (where, rival, _), some in groups.items():
        lost = [pair for pair in some if pair.lost]
        if lost:
            worst = max(lost, key=lambda pair: pair.factor)
            found.append(Loss(where, rival, worst.quantity, len(lost), len(some), worst))
    return sorted(found, key=lambda loss: -loss.worst.factor)
