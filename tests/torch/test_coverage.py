"""PyTorch's own test database on jets: what docs/coverage.md says still holds, and cannot fall.

One sample of each operation here, and the second order; `jetfold coverage` takes four, to the third.
"""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest")  # which PyTorch's database needs

from jetfold.coverage import page
from jetfold.coverage import torch as of_torch
from jetfold.coverage.rows import EXACT, HOW, counts, exact_share

PAGE = (Path(__file__).parents[2] / "docs" / "coverage.md").read_text(encoding="utf-8")
WRITTEN = {row.name: row for row in page.read(PAGE, "torch")}
OF_THE_PAGE = page.version(PAGE, "torch") == torch.__version__
"""Others have other operations, and differentiate more, or less."""


def test_the_page_is_what_the_command_writes() -> None:
    assert page.summary(PAGE, "torch") == counts(WRITTEN.values())
    assert page.updated(PAGE, "torch", page._parts(PAGE)["torch"]) == PAGE


def test_98_percent_are_exact_and_none_is_wrong() -> None:
    forward = [info.full_name for info in of_torch.operations() if info.supports_forward_ad]
    listed = [WRITTEN[name] for name in forward if name in WRITTEN]
    assert len(listed) >= (506 if OF_THE_PAGE else 490)
    assert exact_share(listed) >= 0.98
    assert counts(WRITTEN.values())["wrong"] == 0
    assert all(row.note for row in WRITTEN.values() if row.how == "refused")
    assert all(row.order == 3 for row in WRITTEN.values() if row.how in EXACT)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", range(4))
def test_every_operation_fares_as_the_page_says(part: int) -> None:
    rank = list(HOW).index
    exact = set(sorted(name for name, row in WRITTEN.items() if row.how in EXACT)[part::4])
    if not OF_THE_PAGE:
        exact &= {info.full_name for info in of_torch.operations()}
    found = list(of_torch.rows(samples=1, order=2, only=exact))
    assert {row.name for row in found} == exact
    worse = [row for row in found if rank(row.how) > rank(WRITTEN[row.name].how)]
    assert [row for row in worse if OF_THE_PAGE or row.how != "not differentiable"] == []
