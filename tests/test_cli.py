"""The command line, as a user types it."""

from __future__ import annotations

import csv

import pytest

pytest.importorskip("torch")
typer_testing = pytest.importorskip("typer.testing")
pytest.importorskip("matplotlib")

from jetfold.cli import application


def invoke(*args):
    return typer_testing.CliRunner().invoke(application(), list(args))


def test_explain_prints_basis_and_vectors():
    result = invoke("explain", "t - 0.1*(x**2+y**2)")
    assert result.exit_code == 0
    assert "t - 0.1*x**2 - 0.1*y**2, on 3 coordinates" in result.output
    assert "minimal        4 = 1 + 2 + 1" in result.output


def test_explain_of_named_operators():
    assert "minimal       27 =" in invoke("explain", "biharmonic", "--dim", "5").output


def test_order_of_the_names():
    assert "-t + x**2, on 3 coordinates" in invoke("explain", "x**2 - t", "--names", "t,x,y").output


@pytest.mark.parametrize(
    "expression", ["x**2 + sin(y)", "x**2 +", "x**(1/2)", "3", "x if y else 1"]
)
def test_expressions_that_are_refused(expression):
    result = invoke("explain", expression)
    assert result.exit_code == 2
    assert "jetfold: " in result.output and expression in result.output


def test_version():
    assert "jetfold 0." in invoke("--version").output


def test_small_benchmark_writes_table_and_picture(tmp_path):
    result = invoke(
        *("bench", "--operators", "laplacian,kp", "--modes", "eager", "--batch", "8"),
        *("--width", "0.02", "--dim", "laplacian=4", "--repeats", "2", "--dtype", "float64"),
        *("--out", str(tmp_path)),
    )
    assert result.exit_code == 0, result.output
    lines = (line for line in (tmp_path / "bench.csv").open() if not line.startswith("#"))
    rows = list(csv.DictReader(lines))
    assert [row["method"] for row in rows[:4]] == ["nested", "standard", "collapsed", "minimal"]
    assert [row["vectors"] for row in rows[:4]] == ["", "9", "6", "6"]
    assert [row["vectors"] for row in rows[4:]] == ["", "11", "9", "6"]
    assert all(float(row["median ms"]) > 0 for row in rows)
    assert all(float(row["relative error"]) < 1e-11 for row in rows)
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("option", "text"),
    [
        (("--methods", "fast"), "got fast"),
        (("--operators", "heat"), "heat"),
        (("--dim", "laplacian"), "laplacian=20"),
        (("--dtype", "int8"), "int8"),
    ],
)
def test_benchmark_options_that_are_refused(option, text):
    result = invoke("bench", *option)
    assert result.exit_code == 2
    assert text in result.output
