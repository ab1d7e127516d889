"""The tables of README and docs are those of docs/results, and a test says so when they are not."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jetfold import __version__, cli
from jetfold.bench import pages

ROOT = Path(__file__).parents[2]


def test_pages_are_what_the_results_say():
    problems = pages.problems(ROOT)
    assert not problems, "\n".join(problems)


def test_every_result_stands_on_a_page_and_says_how_it_was_measured():
    files = {path.stem for path in (ROOT / "docs" / "results").glob("*.csv")}
    texts = [path.read_text("utf-8") for pattern in pages.PAGES for path in ROOT.glob(pattern)]
    marks = {name for text in texts for name in re.findall(r"<!-- ([\w-]+) -->", text)}
    assert {name for name in marks if pages.known(name)} == {
        *filter(pages.known, files),
        "vectors",
    }
    contributing = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    for name in filter(pages.known, files):
        assert pages.command(name) in contributing


@pytest.fixture
def copy(tmp_path):
    shutil.copytree(ROOT / "docs" / "results", tmp_path / "docs" / "results")
    shutil.copy(ROOT / "README.md", tmp_path)
    return tmp_path


def pages_command(*arguments):
    return CliRunner().invoke(cli.application(), ["pages", *map(str, arguments)])


def test_a_number_that_changed_reaches_the_page(copy):
    (line,) = (r for r in pages.records(copy / "docs/results/torch.csv")
               if (r["label"], r["method"], r["mode"]) == ("biharmonic", "minimal", "compiled"))  # fmt: skip
    results = copy / "docs" / "results" / "torch.csv"
    new = results.read_text("utf-8").replace(f",{line['median ms']},", ",1234.56,")
    results.write_text(new, "utf-8")
    stale = pages_command("--check", "--root", copy)
    assert stale.exit_code == 1
    assert "README.md is not what docs/results says; run: jetfold pages" in stale.output
    before = (copy / "README.md").read_text("utf-8").splitlines()
    assert pages_command("--root", copy).exit_code == 0
    after = (copy / "README.md").read_text("utf-8").splitlines()
    assert len(before) == len(after)
    (changed,) = (b for a, b in zip(before, after, strict=True) if a != b)
    assert changed.startswith(f"|  | minimal | {line['vectors']} | 1234.6 | ")
    assert pages.problems(copy) == []


def test_results_of_another_version_or_without_provenance(copy):
    results = copy / "docs" / "results"
    torch, again = results / "torch.csv", "run: jetfold bench --framework torch --out docs/results"
    text = torch.read_text("utf-8")
    torch.write_text(text.replace(f",{__version__},", ",0.0.9,"), "utf-8")
    says = f"docs/results/torch.csv is of jetfold 0.0.9, and this is {__version__}; {again}"
    assert pages.problems(copy) == [says]
    torch.write_text(text.replace(",versions,", ",notes,"), "utf-8")
    with pytest.raises(ValueError, match=f"torch.csv does not say versions; {again}"):
        pages.problems(copy)
    torch.unlink()
    with pytest.raises(ValueError, match=f"torch.csv is not there; {again}"):
        pages.problems(copy)


def test_a_mark_that_is_not_closed(copy):
    page = copy / "README.md"
    page.write_text(page.read_text("utf-8").replace("<!-- /torch -->", ""), "utf-8")
    refused = pages_command("--root", copy)
    assert refused.exit_code == 2
    assert "<!-- torch --> needs <!-- /torch -->: the table goes between" in refused.output


def test_other_marks_are_left_alone(copy):
    text = "<!-- note -->\nkept\n<!-- /note -->\n"
    assert pages.rendered(text, copy) == text
