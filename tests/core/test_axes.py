"""Declarations of what operations do with axes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from jetfold.core.axes import Acting, Permuted, Pointwise, acting, alongside, as_exact


def test_declarations_are_values():
    assert Pointwise(linear=(0,)) == Pointwise((0,))
    assert Pointwise((0,)) != Pointwise(factors=(0, 1))
    assert len({Permuted((1, 0)), Permuted((1, 0)), Permuted((0, 1))}) == 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        Permuted((1, 0)).order = (0, 1)  # type: ignore[misc]


def test_axes_beside_those_that_an_operation_acts_along():
    assert alongside([-2], [0, 2], 3) == Acting((1,), (0, 2), (((0, 0), (2, 2)), ((0, 0), (2, 2))))
    assert alongside([], [0], 0) == Acting((), (0,), ((),))
    assert acting([0], {1: {0: 1, 1: 0}}, 2) == Acting((0,), (1,), (((1, 0),),))


def test_dtypes_in_which_sums_are_as_exact():
    half, single, double = map(np.finfo, (np.float16, np.float32, np.float64))
    assert as_exact(double, single)
    assert as_exact(single, single)
    assert not as_exact(half, single)
