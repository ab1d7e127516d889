"""The programs in the docs run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("jax")

DOCS = Path(__file__).parent.parent / "docs"
PROGRAMS = [
    pytest.param(page, program, id=f"{page}-{k}")
    for page in ("rules.md", "vmc.md")
    for k, program in enumerate(
        re.findall(r"```python\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL)
    )
]


@pytest.mark.parametrize(("page", "program"), PROGRAMS)
def test_programs_of_the_docs(page, program):
    assert "assert" in program
    exec(compile(program, f"docs/{page}", "exec"), {})


@pytest.mark.parametrize("page", ["writing.md"])
def test_pages_from_top_to_bottom(page):
    """Programs that go on from each other."""
    found = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL)
    assert len(found) > 3
    names: dict[str, object] = {}
    for program in found:
        assert "assert" in program
        exec(compile(program, f"docs/{page}", "exec"), names)
