"""Timing that is fair on a noisy machine: competitors take turns, medians are compared."""

from __future__ import annotations

import ctypes
import gc
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np

Result = TypeVar("Result")


class Judged(Protocol):
    """A row that knows whether its values are right."""

    def problem(self, dtype: str) -> str:
        """Why the values are wrong, else ""."""


SomeRow = TypeVar("SomeRow", bound=Judged)


@dataclass(frozen=True)
class Outcome(Generic[SomeRow]):
    """All rows, and what could not be measured, with the reason."""

    rows: tuple[SomeRow, ...]
    failures: tuple[str, ...] = ()


def complaints(outcome: Outcome[SomeRow], dtype: str) -> list[str]:
    """Why a run fails: what could not be measured, and what is wrong."""
    found = [f"could not be measured: {failure}" for failure in outcome.failures]
    return found + [problem for row in outcome.rows if (problem := row.problem(dtype))]


def inexact(what: str, error: float | None, allowed: float, dtype: str, of: str = "") -> str:
    """Why a value is wrong, else "". Not a number is wrong too; without an error nothing is."""
    if error is None or error <= allowed:
        return ""
    of = of and f" of the {of}"
    return f"{what}: relative error {error:.1e}{of} exceeds the {allowed:.0e} allowed in {dtype}"


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


TURN, CALLS, LONG = 0.1, 8, 1.0
"""A turn ends after so many seconds, or so many calls; calls of LONG seconds count at once."""


def turn(call: Callable[[], object]) -> list[float]:
    """The seconds of the calls that count in one turn: not the first, unless it is long."""
    first, _ = once(call)
    if first >= LONG:
        return [first]
    found = [once(call)[0]]
    while len(found) < CALLS - 1 and sum(found) + found[-1] < TURN:
        found.append(once(call)[0])
    return found


def take_turns(
    competitors: Mapping[str, Callable[[], object]],
    *,
    budget: float,
    least: int = 5,
    most: int = 100,
    single: bool = False,
) -> dict[str, Timing]:
    """Time every competitor, one turn each per round, so that a slow moment strikes all of them.

    A turn is several calls, and the first is not counted, because it pays for the caches and the
    memory that the neighbour left behind; calls that last long count at once.

    Args:
        competitors: calls that return when their work is done.
        budget: seconds after which no further round begins.
        least, most: the number of rounds, whatever the budget.
        single: a turn is one call, however short.
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
            call = competitors[name]
            seconds[name] += [once(call)[0]] if single else turn(call)
    return {name: summarise(of) for name, of in seconds.items()}


PROCESS = Path("/proc/self")


def _status(field: str) -> int:
    """A field of the kernel's account of the process, in bytes."""
    lines = (PROCESS / "status").read_text().splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith(f"{field}:"))
    return 1024 * int(kilobytes)


def allocate_apart(least: int = 1 << 16) -> None:
    """From now on, memory of so many bytes is asked of the kernel, and given back when freed.

    So the resident set shows what is in use, not what an allocator keeps for later. Only glibc.
    """
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, least)  # M_MMAP_THRESHOLD, which is fixed by that, see mallopt(3)
        mallopt(-1, least)  # M_TRIM_THRESHOLD


def _trim() -> None:
    """Memory that was freed is given back, so that nothing reuses it unseen."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def _resident(call: Callable[[], object], field: str) -> int | None:
    try:
        _trim()
        (PROCESS / "clear_refs").write_text("5")  # resets VmHWM, see proc(5)
        before = _status("VmRSS")
    except (OSError, AttributeError, TypeError, ValueError):  # no Linux, no glibc, not allowed
        return None
    alive = call()
    if field == "VmRSS":
        _trim()
    after = _status(field)
    del alive
    return max(0, after - before)


def resident_peak(call: Callable[[], object]) -> int | None:
    """The bytes by which the memory of the process grows at most during a call; Linux only."""
    return _resident(call, "VmHWM")


def resident_growth(call: Callable[[], object]) -> int | None:
    """The bytes by which it has grown after a call, while the result is alive; Linux only."""
    return _resident(call, "VmRSS")


@contextmanager
def one_core() -> Iterator[None]:
    """All threads of the process share one core; Linux only, elsewhere nothing changes."""

    def pin(cores: set[int]) -> None:
        for thread in (PROCESS / "task").iterdir():
            with suppress(ProcessLookupError):  # it has ended
                os.sched_setaffinity(int(thread.name), cores)

    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    pin({min(before)})
    try:
        yield
    finally:
        pin(before)
