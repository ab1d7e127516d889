"""Seconds from operations and rates, by hand."""

from __future__ import annotations

import pytest

from jetfold.core.costs import CACHE, Cost, Operation, Rates

EAGER = Rates(
    products=100.0, arithmetic=10.0, functions=1.0, moved=1e6, operation=0.5, call=2.0, fused=False
)
FUSED = Rates(
    products=100.0, arithmetic=10.0, functions=1.0, moved=1e6, operation=0.5, call=0.0, fused=True
)
PRODUCT = Operation(products=300.0, moved=2e6)  # 3 s of products, 2 s of memory
SUM = Operation(arithmetic=10.0, moved=4e6, pointwise=True, copies=2)  # 1 s, or 4 s of memory
TANH = Operation(arithmetic=10.0, functions=5.0, moved=CACHE, pointwise=True)  # 1 s and 5 s


def test_the_slowest_part_of_every_operation_counts():
    cost = Cost((PRODUCT, SUM, TANH), peak=7.0, calls=3)
    assert EAGER.seconds(cost) == pytest.approx(3 * 2.0 + 3.5 + 2 * 4.5 + 6.5)
    assert FUSED.seconds(cost) == pytest.approx(3.5 + 2 * 1.0 + 6.0)
    assert (cost.products, cost.arithmetic, cost.flops) == (300.0, 30.0, 330.0)


def test_on_more_points_calls_stay():
    larger = Cost((PRODUCT, TANH), peak=7.0, calls=3).on(4)
    assert (larger.products, larger.arithmetic, larger.peak, larger.calls) == (
        1200.0,
        40.0,
        28.0,
        3,
    )
    assert len(larger.operations) == 2
