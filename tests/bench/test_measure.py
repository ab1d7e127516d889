"""Timing: everybody gets the same number of turns, and the statistics are those of the calls."""

from __future__ import annotations

import time

import pytest

from jetfold.bench.measure import CALLS, LONG, TURN, once, summarise, take_turns


def test_statistics():
    timing = summarise([5.0, 1.0, 4.0, 2.0, 3.0])
    assert (timing.median, timing.minimum, timing.lower, timing.upper) == (3.0, 1.0, 2.0, 4.0)
    assert timing.repeats == 5


def test_turns_rotate():
    calls = []
    names = ("a", "b", "c")
    competitors = {name: (lambda name=name: calls.append(name)) for name in names}
    timings = take_turns(competitors, budget=0, least=3, most=3, single=True)
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab"  # the warm-up is not timed
    assert {name: timing.repeats for name, timing in timings.items()} == dict.fromkeys(names, 3)


def test_budget_and_bounds():
    def call():
        time.sleep(0.01)

    def repeats(**options):
        return take_turns({"a": call}, single=True, **options)["a"].repeats

    assert repeats(budget=0, least=4) == 4
    assert repeats(budget=100, least=1, most=6) == 6
    assert 2 <= repeats(budget=0.1, least=1) <= 12
    assert take_turns({}, budget=1) == {}


def test_calls_repeat_and_the_first_does_not_count():
    numbers = iter(range(100))
    slow = {0: 0.03, 1: 0.03}  # the warm-up, and the first call of the turn

    def short():
        time.sleep(slow.get(next(numbers), 0.001))

    found = take_turns({"a": short}, budget=0, least=1)["a"]
    assert 2 <= found.repeats == CALLS - 1
    assert found.median < 0.02
    for seconds, expected in ((1.2 * TURN, 5), (LONG, 3)):  # with the warm-up
        calls: list[None] = []
        once_each = {"a": lambda: calls.append(time.sleep(seconds))}  # noqa: B023
        assert take_turns(once_each, budget=0, least=2)["a"].repeats == 2
        assert len(calls) == expected


def test_the_time_is_that_of_the_call():
    seconds, result = once(lambda: time.sleep(0.05) or 7)
    assert result == 7
    assert seconds == pytest.approx(0.05, abs=0.04)
