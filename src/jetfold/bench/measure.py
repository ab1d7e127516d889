"""Timing that is fair on a noisy machine: competitors take turns, medians are compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Result = TypeVar("Result")


@dataclass(frozen=True)
class Timing:
    """Seconds per call, over `repeats` calls."""

    median: float
    minimum: float
    lower: float  # quartiles
    upper: float
    repeats: int


def summarise(seconds: list[float]) -> Timing:
    """Median, minimum and quartiles.

    >>> summarise([3.0, 1.0, 2.0])
    Timing(median=2.0, minimum=1.0, lower=1.5, upper=2.5, repeats=3)
    """
    lower, median, upper = (float(q) for q in np.quantile(seconds, (0.25, 0.5, 0.75)))
    return Timing(median, min(seconds), lower, upper, len(seconds))


def once(call: Callable[[], Result]) -> tuple[float, Result]:
    """The seconds of one call, and what it returned."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def take_turns(
    competitors: Mapping[str, Callable[[], object]],
    *,
    budget: float,
    least: int = 5,
    most: int = 100,
) -> dict[str, Timing]:
    """Time every competitor, one call each per round, so that a slow moment strikes all of them.

    Args:
        competitors: calls that return when their work is done.
        budget: seconds after which no further round begins.
        least, most: the number of rounds, whatever the budget.
    """
    names = list(competitors)
    if not names:
        return {}
    for name in names:
        competitors[name]()  # warm-up
    seconds: dict[str, list[float]] = {name: [] for name in names}
    start = time.perf_counter()
    for done in range(most):
        if done >= least and time.perf_counter() - start > budget:
            break
        shift = done % len(names)  # nobody always runs behind the same neighbour's cold caches
        for name in names[shift:] + names[:shift]:
            seconds[name].append(once(competitors[name])[0])
    return {name: summarise(of) for name, of in seconds.items()}
