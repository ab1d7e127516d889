"""JAX's own test cases of its primitives: the smallest of each, and what the page in the docs says."""

from __future__ import annotations

import collections
from pathlib import Path

import pytest

jax = pytest.importorskip("jax")
pytest.importorskip("absl")

from jetfold.coverage import jax as coverage
from jetfold.coverage import page
from jetfold.coverage.rows import counts, exact_share

PAGE = Path(__file__).parents[2] / "docs" / "coverage.md"

SLOW = "cumlogsumexp cummin cumprod custom_linear_solve eig eigh igamma igammac lu random_gamma"
"""Those that XLA compiles slowly: on the page, and in test_operations."""


@pytest.mark.parametrize("part", range(3))
def test_every_primitive_is_exact_to_second_order(part):
    names = sorted({case.group_name for case in coverage.harnesses()} - {*SLOW.split()})
    found = list(coverage.rows(samples=1, order=2, only=set(names[part::3])))
    by = collections.defaultdict(set)
    for row in found:
        by[row.how].add(row.name)
    assert not by["wrong"] | by["refused"], [
        row for row in found if row.how in ("wrong", "refused")
    ]
    text = PAGE.read_text(encoding="utf-8")
    known = {row.name for row in page.read(text, "jax") if row.how == "own"}
    if page.version(text, "jax") != jax.__version__:  # others differentiate more, or less
        known -= by["not differentiable"]
    assert by["own"] >= known & set(names[part::3])
    assert not by["general"]
    assert {row.order for row in found if row.how == "own"} == {2}


def test_the_page():
    """The numbers of `jetfold coverage`, of more cases and to third order, cannot fall."""
    text = PAGE.read_text(encoding="utf-8")
    found = page.read(text, "jax")
    assert page.summary(text, "jax") == counts(found)
    assert counts(found)["wrong"] == counts(found)["refused"] == 0
    assert counts(found)["general"] == 0
    assert counts(found)["own"] >= 104
    assert exact_share(found) >= 0.98
    assert sum(row.order == 3 for row in found) >= 94
