"""The results in three sentences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..bench.results import Results
from .losses import OURS, Loss, losses, pairs
from .paper import Line, lines
from .quantities import PEAK_DIFFERENTIABLE, TIME
from .words import at, between, listed, method, operator, ratio, where


def summary(results: Results) -> tuple[str, str, str]:
    """What ours costs, whether the paper is reproduced, and where we lose."""
    found = lines(results)
    processor = results.machine.get("processor") or "this machine"
    return _ours(found, str(processor)), _collapsed(found), _lost(results)


def _by_operator(found: Sequence[Line], method_name: str) -> dict[str, list[Line]]:
    """The lines of a method that have a ratio, by what they are called."""
    groups: dict[str, list[Line]] = {}
    for line in found:
        if line.method == method_name and line.ratio() is not None:
            sampled = "stochastic " if line.panel.place.variable == "samples" else ""
            groups.setdefault(sampled + operator(line.panel.place), []).append(line)
    return dict(sorted(groups.items(), key=lambda item: item[0].startswith("stochastic")))


def _ratios(found: Sequence[Line]) -> list[float]:
    return [share for line in found if (share := line.ratio()) is not None]


def _ours(found: Sequence[Line], processor: str) -> str:
    groups = _by_operator(found, OURS)
    if not groups:
        return (
            f"On {processor}, {method(OURS)} and nested differentiation have not both been "
            "measured on the paper's operators."
        )
    times = [f"{between(_ratios(some))} ({name})" for name, some in groups.items()]
    shares = [line.ratio(PEAK_DIFFERENTIABLE) for some in groups.values() for line in some]
    known = [share for share in shares if share is not None]
    memory = f", and {between(known)} of the memory where gradients shall follow" if known else ""
    return (
        f"Measured against nested differentiation on {processor}, {method(OURS)} takes "
        f"{listed(times)} of the time{memory}."
    )


def _collapsed(found: Sequence[Line]) -> str:
    groups = _by_operator(found, "collapsed")
    if not groups:
        return (
            "Collapsed Taylor mode and nested differentiation have not both been measured, so "
            "that the paper's ratios cannot be set beside ours."
        )
    texts = []
    for name, some in groups.items():
        published = [there for line in some if (there := line.published())]
        beside = f", published {between(published)}" if published else ""
        texts.append(f"{between(_ratios(some))} ({name}{beside})")
    compared = [line for some in groups.values() for line in some if line.published()]
    close = sum(not line.far for line in compared)
    judged = (
        f"; {close} of {len(compared)} ratios are within 15 % of the paper's" if compared else ""
    )
    return (
        f"Collapsed Taylor mode, the paper's method, takes {listed(texts)} of the time of nested"
        f"{judged}."
    )


def _lost(results: Results) -> str:
    compared = sum(1 for _ in pairs(results))
    if not compared:
        return f"Nothing was measured that {method(OURS)} could be compared with."
    found = losses(results)
    if not found:
        return (
            f"In none of {compared} comparisons of {method(OURS)} with another method does it need "
            "more by more than the noise."
        )
    whom, what = Counter[str](), Counter[str]()
    for loss in found:
        whom[method(loss.rival)] += loss.lost
        what[loss.quantity.title] += loss.lost
    names, titles = (
        listed([f"{name} ({count})" for name, count in counter.most_common()])
        for counter in (whom, what)
    )
    return (
        f"By more than the noise, {method(OURS)} is beaten in {sum(whom.values())} of "
        f"{compared} comparisons: in {titles}, by {names}; {worst(found)}."
    )


def worst(found: Sequence[Loss]) -> str:
    """The largest loss in time, or else of anything, in words."""
    times = [loss for loss in found if loss.quantity is TIME]
    loss = (times or found)[0]
    spec = loss.worst.ours.spec
    return (
        f"in {loss.quantity.title} at most {ratio(loss.worst.factor)} times, by "
        f"{method(loss.rival)} ({operator(spec)}, {where(spec)}, {at(spec)})"
    )
