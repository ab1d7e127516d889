"""What is released: versions, the changelog's section, what is built, and the links of an index page."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

spec = importlib.util.spec_from_file_location("release", ROOT / "tools" / "release.py")
assert spec and spec.loader
release = importlib.util.module_from_spec(spec)
spec.loader.exec_module(release)


def test_versions_agree_and_the_changelog_has_a_section():
    version = release.versions()
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert "### Added" in release.section(changelog, version)
    with pytest.raises(release.Refused, match=r"says nothing of 9\.9\.9"):
        release.section(changelog, "9.9.9")
    with pytest.raises(release.Refused, match="says nothing of 1"):
        release.section("## [1] - Unreleased\n\n## [0] - today\n\n- more\n", "1")
    assert release.section("## [1] - x\n- one\n## [0] - y\n- two\n", "1").endswith("\n- one\n")


def test_what_is_built(tmp_path, monkeypatch):
    pytest.importorskip("hatch_fancy_pypi_readme")
    build = pytest.importorskip("hatchling.build")
    monkeypatch.chdir(ROOT)
    for name in (build.build_sdist(str(tmp_path)), build.build_wheel(str(tmp_path))):
        release.check(tmp_path / name, release.versions())


def test_an_index_page_is_looked_at():
    urls = "".join(
        f"Project-URL: {name}, https://example.org\n"
        for name in ("Documentation", "Source", "Issues")
    )
    text = f"Name: jetfold\n{urls}\n[a](docs/a.md) ![b](https://example.org/b.png) [c](#c)"
    link, missing = release.misfits(text)
    assert link.endswith("docs/a.md") and missing.endswith("Changelog")


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SUPPORT.md", "SECURITY.md"])
def test_links_of_the_repository_lead_somewhere(page):
    text = (ROOT / page).read_text("utf-8")
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    assert all((ROOT / link).exists() for link in links), links


def test_the_workflow_runs_the_commands_with_pinned_actions():
    text = (ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8")
    assert "command: [test, bench, docs]" in text and "make ${{ matrix.command }}" in text
    used = re.findall(r"uses: (\S+)", text)
    assert used and all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", action) for action in used)
    assert "secrets" not in re.sub("#.*", "", text)
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.M)
    assert {"test", "bench", "docs"} <= set(targets)
