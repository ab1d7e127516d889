"""Table, CSV file and picture of rows that are made up."""

from __future__ import annotations

import csv

import pytest
from rich.console import Console

from jetfold.bench import pages, report
from jetfold.bench.measure import Timing
from jetfold.bench.report import Environment
from jetfold.bench.suite import MODES, Outcome, Row, Settings

SETTINGS = Settings(batch=16)
ENVIRONMENT = Environment(
    "torch", "torch 2.0, some processor, 2 threads", "cpu", "float32", SETTINGS
)


def row(method, mode="eager", seconds=0.5, vectors=107, error=1e-6, spread=0.01):
    timing = Timing(seconds, 0.9 * seconds, seconds * (1 - spread), seconds * (1 + spread), 7)
    return Row(
        operator="weighted-laplacian",
        label="weighted Laplacian",
        dimension=50,
        method=method,
        mode=mode,
        vectors=None if method == "nested" else vectors,
        compile_s=12.0 if mode == "compiled" else None,
        time=timing,
        speedup=1.0 / seconds,
        limit=None if method == "nested" else 0.4,
        relative_error=error,
    )


ROWS = [
    row(method, mode, seconds)
    for mode in MODES
    for method, seconds in (
        ("nested", 1.0),
        ("standard", 12.3456),
        ("collapsed", 0.25),
        ("minimal", 0.05),
    )
]


def printed(*renderables, width=80):
    console = Console(width=width)
    with console.capture() as capture:
        for renderable in renderables:
            console.print(renderable)
    return capture.get()


def test_table_fits_eighty_columns():
    text = printed(report.table(ROWS, "float32"))
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "weighted Laplacian nested 1000 1.00× 1.0e-06" in lines
    assert "D = 50 standard 107 12346 0.08× 30.86 1.0e-06" in lines
    assert "eager collapsed 107 250 4.00× 0.62 1.0e-06" in lines
    assert "compiled collapsed 107 250 4.00× 0.62 1.0e-06" in lines
    assert "minimal 107 50.0 20.00× 0.12 1.0e-06" in lines


def test_table_of_a_single_method_still_says_which_operator():
    text = printed(report.table(ROWS[:1], "float32"))
    assert "weighted Laplacian" in text and "D = 50" in text and "eager" in text


def test_legend_and_environment():
    text = report.legend(SETTINGS)
    assert "first 16 points" in text and "batch × vectors rows" in text
    first, second = ENVIRONMENT.lines()
    assert first == "torch 2.0, some processor, 2 threads, float32, batch 16"
    assert "D → 768 → 768 → 512 → 512 → 1 (the paper's)" in second


def test_csv(tmp_path):
    path = tmp_path / "bench.csv"
    report.write_csv(ROWS, ENVIRONMENT, path)
    with path.open(encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == len(ROWS)
    assert tuple(found[0]) == tuple(report.COLUMNS)
    assert found[0]["vectors"] == found[0]["limit ms"] == found[0]["compile s"] == ""
    assert found[5]["method"] == "standard" and found[5]["mode"] == "compiled"
    assert float(found[5]["median ms"]) == pytest.approx(12345.6)
    assert float(found[5]["time/limit"]) == pytest.approx(12.3456 / 0.4, rel=1e-3)
    assert float(found[5]["compile s"]) == 12
    assert all(found[0][name] for name in pages.PROVENANCE) and found[0]["folx"] == ""
    page = pages.FORMS["operators"].table(found)
    assert page.startswith("torch 2.0, some processor, 2 threads, float32, seed 0; tanh network D")
    assert "\n|  | standard | 107 | 12345.6 | 0.08 | 30.86 | 1.0e-06 |\n" in page


@pytest.mark.parametrize("rows", [ROWS, ROWS[:4], ROWS[:1], ROWS[3:4]], ids=len)
def test_plot(tmp_path, rows):
    path = tmp_path / "bench.png"
    report.plot(rows, ENVIRONMENT, path)
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    width, height = (int.from_bytes(data[k : k + 4], "big") for k in (16, 20))
    assert width > 500 and height > 500


def test_noise_is_told():
    assert report.noise(ROWS) == ""
    warning = report.noise([*ROWS, row("minimal", spread=0.4)])
    assert "in 1 of 9 rows" in warning and "--budget" in warning


def test_complaints():
    bad = row("minimal", error=3e-5)
    found = report.complaints(Outcome((*ROWS, bad), ("kp: no compiler",)), "float32")
    assert found == [
        "could not be measured: kp: no compiler",
        "weighted Laplacian, minimal, eager: relative error 3.0e-05 exceeds the 1e-05 allowed in "
        "float32",
    ]
    assert report.complaints(Outcome(tuple(ROWS)), "float32") == []
