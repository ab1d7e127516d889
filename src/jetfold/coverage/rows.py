"""One operation of a framework and how jets pass it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

HOW = {
    "own": "exact, by a rule",
    "general": "exact, by nested differentiation of that operation alone, with a warning",
    "refused": "an error says what to write",
    "wrong": "a result that is not the derivative, or an error that explains nothing",
    "not differentiable": "not even by the framework",
}
"""How an operation fares, the best first, and what that means."""

EXACT = ("own", "general")


class Row(NamedTuple):
    """An operation of a framework.

    Attributes:
        name: as its framework's own list calls it.
        how: a key of HOW; of several cases, the worst.
        order: of the highest derivatives that were compared; 0 where none were.
        note: what is particular about it, in one line.
    """

    name: str
    how: str
    order: int
    note: str = ""


def counts(rows: Iterable[Row]) -> dict[str, int]:
    """How many operations fare how."""
    found = Counter(row.how for row in rows)
    return {how: found[how] for how in HOW}


def exact_share(rows: Iterable[Row]) -> float:
    """The exact ones among those that the framework differentiates."""
    found = counts(rows)
    exact = sum(found[how] for how in EXACT)
    return exact / max(sum(found.values()) - found["not differentiable"], 1)
