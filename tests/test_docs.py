"""The programs in the docs run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("jax")

DOCS = Path(__file__).parent.parent / "docs"
PROGRAMS = re.findall(r"```python\n(.*?)```", (DOCS / "rules.md").read_text("utf-8"), re.DOTALL)


@pytest.mark.parametrize("program", PROGRAMS, ids=range(len(PROGRAMS)))
def test_rules_of_ones_own(program):
    assert "assert" in program
    exec(compile(program, "docs/rules.md", "exec"), {})
