"""The documentation: every program on its pages runs, page by page, from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("jax")

DOCS = Path(__file__).parent.parent / "docs"
FOLDERS = ("start", "howto", "explanation")
PAGES = [
    *(path for folder in FOLDERS for path in sorted((DOCS / folder).glob("*.md"))),
    *(DOCS / name for name in ("index.md", "migration.md")),
]


@pytest.mark.filterwarnings("default::DeprecationWarning")
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_programs_of_a_page(page):
    programs = re.findall(r"^```python\n(.*?)^```", page.read_text("utf-8"), re.M | re.S)
    assert programs and "assert" in "".join(programs)
    names: dict[str, object] = {}
    for number, code in enumerate(programs):
        exec(compile(code, f"{page.name}, program {number}", "exec"), names)


def test_the_readme_begins_with_programs_that_run():
    text = (DOCS.parent / "README.md").read_text("utf-8")
    install, ten, same, commands = re.findall(r"^```\w+\n(.*?)^```", text, re.M | re.S)[:4]
    assert install.startswith("pip install jetfold") and "make bench" in commands
    names: dict[str, object] = {}
    exec(ten, names)
    assert names["residual"].shape == (128, 1)
    exec(same, names)
    assert names["residual"].shape == (128,)
    assert len([line for line in ten.splitlines() if line]) < 11


# ------------------------------------------------------------------ what `make docs` would refuse

ROOT_PAGES = {"CHANGELOG.md", "CONTRIBUTING.md", "SUPPORT.md", "SECURITY.md"}
TEXTS = {path.relative_to(DOCS).as_posix(): path.read_text("utf-8") for path in DOCS.rglob("*.md")}


def anchors(text):
    """As Python-Markdown makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    ascii_only = (h.encode("ascii", "ignore").decode().lower() for h in headings)
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", h).strip()) for h in ascii_only}


def test_every_page_has_its_place():
    listed = re.findall(r": (\S+\.md)$", (DOCS.parent / "mkdocs.yml").read_text("utf-8"), re.M)
    assert len(listed) == len(set(listed))
    assert set(listed) == set(TEXTS) | ROOT_PAGES, "mkdocs.yml lists in nav: every page, once"


@pytest.mark.parametrize("page", sorted(TEXTS))
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", TEXTS[page], flags=re.M | re.S)
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        place, _, anchor = link.partition("#")
        target = (DOCS / page).parent / place if place else DOCS / page
        assert target.exists() or place in ROOT_PAGES, link
        if anchor:
            assert anchor in anchors(target.read_text("utf-8")), link
