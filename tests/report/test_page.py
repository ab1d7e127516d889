"""The page and its CSV and JSON: from whole results and partial ones; in a browser, where there is one."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jetfold import cli
from jetfold.bench import evidence
from jetfold.bench.results import Cell, Results
from jetfold.report import page
from jetfold.report.page import Input, embedded, html, write


def run(*arguments):
    return CliRunner().invoke(cli.application(), ["report", *map(str, arguments)])


def body(text):
    """The page without the library of plots."""
    start = text.index("<script>")
    return text[:start] + text[text.rindex("<script>") :]


# ------------------------------------------------------------------ the command


def test_the_command_writes_a_page_a_table_and_numbers(whole, tmp_path):
    whole.save(tmp_path / "paper.json")
    result = run(tmp_path / "paper.json")
    assert result.exit_code == 0, result.output
    for name in ("report.html", "report.csv", "report.json"):
        assert name in result.output
    with (tmp_path / "report.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(whole.cells)
    cell = next(iter(whole.cells.values()))
    assert float(rows[0]["time median"]) == cell.time.median
    assert (rows[0]["operator"], rows[0]["batch"]) == ("laplacian", "16")
    assert rows[-1]["failure"] == "out of <memory>" and rows[-1]["time median"] == ""
    found = json.loads((tmp_path / "report.json").read_text())
    assert len(found["summary"]) == 3 and len(found["losses"]) == 7 and len(found["slopes"]) == 60
    text = body((tmp_path / "report.html").read_text())
    for sentence in found["summary"]:
        assert sentence.replace("'", "&#39;") in text
    assert "out of &lt;memory&gt;" in text and "out of <memory>" not in text
    titles = re.findall(r"<h2>(.*)</h2>", text)
    assert titles == [
        "Summary",
        "Machine and versions",
        "Which rows we lose, and to whom",
        "The paper&#39;s experiments",
        "Beyond the paper",
        "Predictions against measurements",
        "What failed",
        "All numbers",
        "How to reproduce it",
    ]


def test_the_page_needs_nothing_but_itself(whole):
    text = html(Input(Path("paper.json"), whole))
    outside = r"""(?:src|href)\s*=\s*["']?(?!["'#]|data:)[^\s>]|@import|url\("""
    assert re.findall(outside, body(text)) == []
    assert text.count("plotly.js v") == 1


def test_the_page_of_the_site():
    """docs/report.md: of a whole run, whose results stand beside it; plots come from the site."""
    docs = Path(__file__).parents[2] / "docs"
    results = Results.load(docs / "results" / "paper.json")
    groups = evidence.groups("quick", ("torch", "jax"), "cpu", None)
    assert set(results.cells) == {spec for specs, _ in groups for spec in specs}
    assert evidence.problems(results, groups) == []
    text = embedded(Input(Path("docs/results/paper.json"), results))
    assert "plotly.js v" not in text and "All numbers" not in text and "<html" not in text
    for part in (f"<dd>{results.measured}</dd>", "jetfold report docs/results/paper.json"):
        assert part in text
    assert (
        text.count('class="plot"')
        == len(json.loads(re.search(r'id="plots">(.*)</script>', text)[1]))
        > 20
    )
    assert "<!-- report -->" in (docs / "report.md").read_text("utf-8")
    colours = [*re.findall(r"var\((--\w+)\)", text), "--ink"]
    assert {f"{name}:" for name in colours} <= set((docs / "site.css").read_text("utf-8").split())


def test_a_second_file_is_set_beside(made, tmp_path):
    names = tmp_path / "new.json", tmp_path / "old" / "new.json"
    names[1].parent.mkdir()
    now, before = made.results(made.paper()), made.results(made.paper(scale=1.2))
    before.machine |= {"processor": "another processor"}
    now.save(names[0])
    before.save(names[1])
    result = run(names[0], "--against", names[1], "--out", tmp_path / "both.html")
    assert result.exit_code == 0, result.output
    text = body((tmp_path / "both.html").read_text())
    for part in (
        "another processor",
        "Two results side by side",
        "old/new.json",
        "0.83",
        "quartile",
    ):
        assert part in text
    assert len(json.loads((tmp_path / "both.json").read_text())["changed"]) == 240


def test_what_cannot_be_read_is_told_with_what_to_do(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run()
    assert result.exit_code == 2
    assert "no results at bench-results/paper.json" in result.output
    assert "jetfold bench --paper --quick" in result.output
    (tmp_path / "other.json").write_text("{}")
    assert "is no result of" in run("other.json").output
    whole.save(tmp_path / "paper.json")
    kept = (tmp_path / "paper.json").read_text()
    for out in ("paper.json", "paper.html"):
        result = run("paper.json", "--out", out)
        assert result.exit_code == 2 and "would overwrite the results" in result.output
    assert (tmp_path / "paper.json").read_text() == kept
    result = run("paper.json", "--against", "absent.json")
    assert result.exit_code == 2 and "no results at absent.json" in result.output


# ------------------------------------------------------------------ partial results

PARTS = {
    "one framework": lambda cell: cell.spec.framework == "jax",
    "one method": lambda cell: cell.spec.method == "collapsed",
    "no nested": lambda cell: cell.spec.method != "nested",
    "one size": lambda cell: cell.spec.batch == 16 and cell.spec.samples is None,
    "one cell": lambda cell: cell.spec.experiment == "dimension" and cell.spec.value == 2,
    "nothing of the paper": lambda cell: cell.spec.experiment != "paper",
    "failures alone": lambda cell: cell.failure,
}

WITHOUT = ("time", "limit", "peak", "peak_differentiable", "kept", "flops", "vectors")


@pytest.mark.parametrize("part", [*PARTS, *WITHOUT])
def test_partial_results_make_a_page(part, made, monkeypatch):
    monkeypatch.setattr(page, "get_plotlyjs", lambda: "")
    cells = [*made.paper(places=(("torch", "eager"), ("jax", "compiled"))), *made.further()]
    if part in PARTS:
        cells = [cell for cell in cells if PARTS[part](cell)]
    else:
        cells = [replace(cell, **{part: None}) for cell in cells]
    assert cells
    here, there = (
        Input(Path("a.json"), made.results(cells)),
        Input(Path("b.json"), made.results(cells[:1])),
    )
    for text in (html(here), html(here, there), html(there, here)):
        assert len(re.findall(r"<p>", text.split('id="machine"')[0])) == 3
        assert "None" not in re.sub(r"<p>None\.</p>|<script.*", "", text, flags=re.DOTALL)
        assert "nan" not in re.findall(r'data-value="([^"]*)"', text)
        plots = json.loads(re.search(r'id="plots">(.*?)</script>', text)[1])
        assert len(plots) == len(re.findall("data-plot=", text))
        assert all(plot["data"] for plot in plots)


# ------------------------------------------------------------------ a browser

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

CHECK = """<!doctype html><meta charset="utf-8"><iframe width="390" height="800"></iframe>
<pre id="found"></pre><script>
"use strict";
const wait = () => new Promise((done) => setTimeout(done, 50));
const frame = document.querySelector("iframe");
frame.srcdoc = PAGE;
frame.onload = async () => {
  const inside = frame.contentDocument;
  const all = (what, where = inside) => [...where.querySelectorAll(what)];
  const drawn = (plot) => all(".scatterlayer .trace", plot).length === (plot.data || [0]).length;
  for (let k = 0; k < 200 && !all(".plot").every(drawn); k++) await wait();
  const found = { plots: all(".plot").length, drawn: all(".plot").filter(drawn).length };
  found.width = inside.documentElement.scrollWidth;
  found.answers = all("figcaption").filter((one) => one.textContent.trim()).length;
  found.figures = all("figure").length;
  const ink = () => all(".plot .xtick text").map((one) => one.style.fill);
  const light = inside.documentElement.dataset.theme, before = ink();
  inside.getElementById("theme").click();
  for (let k = 0; k < 200 && ink().some((colour, j) => colour === before[j]); k++) await wait();
  found.themes = [light, inside.documentElement.dataset.theme];
  found.inks = ink().every((colour, j) => colour !== before[j]);
  found.widthAfter = inside.documentElement.scrollWidth;
  found.tables = all("table").map((table) => {
    return all("th", table).map((head, column) => {
      const values = () => [...table.tBodies[0].rows].map((row) => {
        const cell = row.cells[column];
        return cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value);
      });
      head.firstElementChild.click();
      const up = [head.getAttribute("aria-sort"), values()];
      head.firstElementChild.click();
      return { up, down: [head.getAttribute("aria-sort"), values()] };
    });
  });
  const figure = all("figure")[0], first = all(".plot", figure)[0];
  const method = all(".legend button", figure)[0];
  const visible = () => first.data.filter((t) => t.meta === method.dataset.method && t.visible !== false).length;
  const shown = visible();
  method.click();
  await wait();
  found.legend = [shown > 0, visible(), method.getAttribute("aria-pressed")];
  document.getElementById("found").textContent = JSON.stringify(found);
  console.log("checked");
};
</script>"""


def browse(path, folder):
    """What a browser makes of a page, and what it says about it."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
    options += ["--disable-background-networking", "--disable-component-update", "--dump-dom"]
    options += [f"--user-data-dir={folder}", "--virtual-time-budget=30000"]
    options += ["--enable-logging=stderr", "--v=0", path.as_uri()]
    done = subprocess.run(
        [CHROMIUM, *options], capture_output=True, text=True, timeout=120, check=False
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium")
def test_a_browser_draws_every_plot_sorts_every_table_and_complains_of_nothing(made, tmp_path):
    """At the width of a phone, light and dark."""
    results = made.results(made.paper(places=(("torch", "eager"),)) + made.further())
    before = made.results(made.paper(places=(("torch", "eager"),), scale=1.2))
    here, there = Input(Path("a.json"), results), Input(Path("b.json"), before)
    text = json.dumps(html(here, there)).replace("<", "\\u003c")
    checked = tmp_path / "checked.html"
    checked.write_text(CHECK.replace("PAGE", text, 1), encoding="utf-8")
    dom, console = browse(checked, tmp_path / "profile")
    assert len(console) == 1 and '"checked"' in console[0], console
    found = json.loads(re.search(r'<pre id="found">(.*?)</pre>', dom)[1].replace("&gt;", ">"))
    assert found["drawn"] == found["plots"] == 1 + 5 * 3 + 3 + 4
    assert found["answers"] == found["figures"] == found["plots"]
    assert found["width"] <= 390 and found["widthAfter"] <= 390
    assert sorted(found["themes"]) == ["dark", "light"] and found["inks"]
    assert found["legend"] == [True, 0, "false"]
    assert len(found["tables"]) == 7
    for columns in found["tables"]:
        for column in columns:
            for word, sign in (("up", 1), ("down", -1)):
                said, values = column[word]
                assert said == ("ascending" if sign > 0 else "descending")
                numbers = [value for value in values if not isinstance(value, str)]
                assert numbers == sorted(numbers, reverse=sign < 0)
                assert values[: len(numbers)] == numbers or not numbers  # what is missing is last
                words = [value for value in values if isinstance(value, str)]
                if not any(re.search(r"\d", word) for word in words):
                    assert words == sorted(words, key=str.lower, reverse=sign < 0)
            up, down = column["up"][1], column["down"][1]
            assert sorted(map(str, up)) == sorted(map(str, down))
            assert down == up[::-1] or "" in up


def test_write_makes_the_folder(made, tmp_path):
    here = Input(tmp_path / "paper.json", made.results(made.further()))
    written = write(here, None, tmp_path / "new" / "page.html")
    assert all(path.exists() for path in written)


def test_a_failure_is_shown_and_counted_nowhere_else(made):
    cells = made.paper(places=(("torch", "eager"),))
    broken = replace(cells[0], failure="no")
    whole, less = made.results([*cells[1:], broken]), made.results(cells[1:])
    assert page.numbers(Input(Path("a"), whole)) == page.numbers(Input(Path("a"), less))
    assert isinstance(broken, Cell)
