"""The command line: expressions, what it prints, and a tiny run of the measurements."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from fractions import Fraction
from types import SimpleNamespace

import pytest

import jetfold as jf
from jetfold import cli
from jetfold.__main__ import COMMANDS, main
from jetfold.bench import report
from jetfold.expressions import ExpressionError, parse


def run(*arguments):
    """A command in this process: its exit status, and what it printed."""
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        try:
            main(arguments)
            code = 0
        except SystemExit as error:
            code = error.code
    return SimpleNamespace(exit_code=code or 0, output=printed.getvalue())


# ------------------------------------------------------------------ expressions


def test_parse():
    t, x, y = jf.partials(3, names="t x y")
    assert parse("t - 0.1*(x**2+y**2)") == t - 0.1 * (x**2 + y**2)
    assert parse("-(t*x) + +x**4/3 - 2", names=["t", "x", "y"]) == -t * x + x**4 / 3 - 2
    assert parse("  t**(1+1) \n + x*0*y ") == t**2


def test_numbers_are_exact():
    assert parse("x/3 + 0.1*x").symbol.terms[(0,)] == Fraction(13, 30)
    assert parse("x*2**-0*1e-3").symbol.terms[(0,)] == Fraction(1, 1000)


def test_coordinates_in_order_of_appearance():
    operator = parse("b*a + c")
    assert [operator.names[i] for i in range(3)] == ["b", "a", "c"]
    assert parse("a", names=["b", "a", "c"]).coordinates == 3


@pytest.mark.parametrize(
    ("expression", "marked", "says"),
    [
        ("t - sin(x)**2", "sin(x)", "not part of an operator"),
        ("t + x^2", "t + x^2", "written with **"),
        ("x.y + t", "x.y", "not part of an operator"),
        ("__import__('os')", "__import__('os')", "not part of an operator"),
        ("[x][0]", "[x][0]", "not part of an operator"),
        ("x if t else t", "x if t else t", "not part of an operator"),
        ("x*2j", "2j", "not part of an operator"),
        ("x*True", "True", "not part of an operator"),
        ("~x", "~x", "not part of an operator"),
        ("x*1e999", "1e999", "not part of an operator"),
        ("t**x", "x", "whole number from 0 to 64"),
        ("ü*t**0.5", "0.5", "whole number"),
        ("t**-1", "-1", "whole number"),
        ("t**999999999", "999999999", "whole number"),
        ("9**9**9*t", "9**9", "whole number"),
        ("1/t", "t", "divided by a number only"),
        ("t/(1-1)", "1-1", "division by zero"),
        ("1 + 2", "1 + 2", "no coordinate"),
        ("t +* x", "*", "cannot be read"),
    ],
)
def test_parse_marks_the_offending_part(expression, marked, says):
    with pytest.raises(ExpressionError) as raised:
        parse(expression)
    message, shown, marks = str(raised.value).replace("\n\n", "\n").split("\n")
    assert says in message
    assert shown == f"  {expression}"
    assert shown[marks.index("^") : marks.rindex("^") + 1] == marked


def test_parse_refuses_unknown_names_and_nothing():
    with pytest.raises(ExpressionError, match="y is not among the names t x"):
        parse("t + y", names=["t", "x"])
    with pytest.raises(ExpressionError, match="number, not an operator"):
        parse("2", names=["t"])
    with pytest.raises(ExpressionError, match="the expression is empty"):
        parse("  ")


# ------------------------------------------------------------------ explain


def test_explain_prints_basis_products_and_vectors():
    result = run("explain", "t - 0.1*(x**2+y**2)")
    assert result.exit_code == 0
    for part in (
        "t - 0.1*x**2 - 0.1*y**2, on 3 coordinates",
        "4 = 1 + 2 + 1",
        "e3 = -10*t + x**2 + y**2",
        "= u·v_e3 + u_e3·v + 2·u_x·v_x + 2·u_y·v_y",
        "= -0.1·u_e3",
    ):
        assert part in result.output


def test_explain_takes_names_named_operators_and_a_leading_minus():
    assert "on 4 coordinates" in run("explain", "x**2", "--names", "t,x,y z").output
    assert "52 = 1 + 50 + 1" in run("explain", "laplacian", "--dim", "50").output
    assert "141 = 1 + 35 + 35 + 35 + 35" in run("explain", "biharmonic", "--dim", "5").output
    assert "-x**2, on 1 coordinate\n" in run("explain", "-x**2").output


def test_explain_of_a_nonlinear_equation_is_of_its_derivatives():
    shown = run("explain", "u_t + u*u_x - u_x**2 + u_xxxx", "--names", "x t").output
    assert shown.startswith("u_t + u*u_x - u_x**2 + u_xxxx, on 2 coordinates")
    assert "6 = 1 + 2 + 1 + 1 + 1" in shown
    readout = shown.partition("Read-out")[2].partition("What is linear")[0]
    rows = [line.split() for line in readout.splitlines() if line.strip()]
    assert rows == [["1", "=", "u"], ["t", "=", "u_t"], ["x", "=", "u_x"], ["x**4", "=", "u_xxxx"]]


@pytest.mark.parametrize(
    ("equation", "vectors", "linear", "fewer"),
    [
        ("u_t + u*u_x - 0.1*u_xx", 4, "t - 0.1*x**2", 3),
        ("u*u_x -\n (0.5*u_xx - u_t - u_xxxx)", 6, "t - 0.5*x**2 + x**4", 5),
    ],
)
def test_explain_of_an_equation_says_what_one_operator_would_carry(
    equation, vectors, linear, fewer
):
    shown = run("explain", equation, "--names", "t x").output
    assert f"minimal {vectors} = " in " ".join(shown.split())
    assert f"{linear} {fewer} vectors: d(operator)(u)" in " ".join(shown.split())


@pytest.mark.parametrize("equation", ["u_t + u*u_x", "u_t*u_xx + u_x", "u_x*u_y - 1*u"])
def test_and_says_nothing_where_that_saves_nothing(equation):
    assert "as one operator" not in run("explain", equation).output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("t + sin(x)",), "      ^^^^^^"),
        (("u_t + u*u_x + u_y/0",), "                  ^"),
        (("laplacian",), "jetfold explain laplacian --dim 3"),
        (("laplacian", "--dim", "0"), "positive integer"),
        (("x", "--dim", "3"), "--dim goes with value, laplacian, biharmonic, gradient"),
        (("x", "--names", "x x"), "has a name twice"),
    ],
)
def test_explain_refuses(arguments, says):
    result = run("explain", *arguments)
    assert result.exit_code == 2
    assert says in result.output
    assert "Traceback" not in result.output


def test_version_and_help():
    assert run("--version").output == f"jetfold {jf.__version__}\n"
    for help in (run(), run("--help")):
        assert help.exit_code == 0
        assert all(f"{name} " in help.output for name in ("explain", *COMMANDS))
    assert set(COMMANDS) == {command.name for command in cli.application().registered_commands}
    assert "--names" in run("explain", "--help").output
    assert "invalid choice: 'bnech'" in run("bnech").output


def without(missing, arguments, folder):
    """`python -m jetfold` where some packages are not there."""
    code = (
        "import runpy, sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name.partition('.')[0] in {list(missing)!r}:\n"
        "            raise ModuleNotFoundError('no ' + name, name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        f"sys.argv = ['jetfold', *{arguments!r}]\n"
        "runpy.run_module('jetfold', run_name='__main__')\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=folder, check=False
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--version"], f"jetfold {jf.__version__}"),
        (["--help"], "bench"),
        (["explain", "-t + x**4"], "-t + x**4   = u_e4"),
    ],
)
def test_what_needs_nothing_but_jetfold(arguments, says, tmp_path):
    extras = ("typer", "click", "rich", "matplotlib", "torch", "jax", "jaxlib", "flax", "folx")
    result = without(extras, arguments, tmp_path)
    assert result.returncode == 0, result.stderr
    assert says in result.stdout


@pytest.mark.parametrize(
    ("missing", "arguments", "extra"),
    [
        ("typer", ["bench"], "bench"),
        ("rich", ["coverage"], "bench"),
        ("matplotlib", ["bench"], "bench"),
        ("torch", ["bench"], "torch"),
        ("plotly", ["report"], "bench"),
        ("flax", ["bench", "--suite", "vmc"], "jax-bench"),
    ],
)
def test_a_missing_package_is_answered_with_how_to_install_it(missing, arguments, extra, tmp_path):
    result = without([missing], arguments, tmp_path)
    assert result.returncode == 1
    assert f"needs {missing}" in result.stderr
    assert f"pip install 'jetfold[{extra}]'" in result.stderr
    assert "Traceback" not in result.stderr


# ------------------------------------------------------------------ bench

TINY = ("--batch", "8", "--width", "0.03", "--repeats", "2")
TORCH = (*TINY, "--framework", "torch", "--modes", "eager")


def test_bench_writes_table_csv_and_picture(tmp_path):
    out = tmp_path / "results"
    result = run("bench", *TORCH, "--dim", "laplacian=5,weighted-laplacian=4", "--out", str(out))
    assert result.exit_code == 0, result.output
    for part in (
        "float32, batch 8",
        "D → 23 → 23 → 15 → 15 → 1",
        "time/",
        "torch.csv",
        "torch.png",
    ):
        assert part in result.output
    with (out / "torch.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == tuple(report.COLUMNS)
    carried = {(row["operator"], row["method"]): row["vectors"] for row in rows}
    assert len(rows) == len(carried) == 16
    assert carried["laplacian", "minimal"] == "7"
    assert carried["weighted-laplacian", "standard"] == "9"
    assert carried["biharmonic", "collapsed"] == "107"
    assert carried["kp", "minimal"] == "6"
    assert carried["kp", "nested"] == ""
    for row in rows:
        nested = row["method"] == "nested"
        assert float(row["median ms"]) > 0
        assert 0 < float(row["relative error"]) < 1e-5
        assert (row["limit ms"] == "") == (row["time/limit"] == "") == nested
        assert row["compile s"] == ""
        assert row["batch"] == "8" and row["repeats"] == "2"
        if nested:
            assert row["speed-up"] == "1"
    assert (out / "torch.png").read_bytes().startswith(b"\x89PNG")


def test_bench_of_jax_and_its_peers(tmp_path):
    pytest.importorskip("folx")
    some = ("--operators", "biharmonic,kp", "--dim", "biharmonic=2", "--framework", "jax")
    peers = ("--methods", "nested,minimal,folx,jet", "--out", str(tmp_path))
    result = run("bench", *TINY, *some, *peers)
    assert result.exit_code == 0, result.output
    with (tmp_path / "jax.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["operator"], row["method"], row["mode"]) for row in rows] == [
        *(("biharmonic", method, "compiled") for method in ("nested", "minimal", "folx", "jet")),
        *(("kp", method, "compiled") for method in ("nested", "minimal")),
    ]
    assert all(0 <= float(row["relative error"]) < 1e-5 for row in rows)
    assert {row["framework"] for row in rows} == {"jax"}


def test_bench_of_every_framework(tmp_path):
    pytest.importorskip("jax")
    some = ("--operators", "kp", "--methods", "minimal", "--modes", "eager")
    result = run("bench", *TINY, *some, "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    for name in ("torch", "jax"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_bench_fails_when_a_result_is_not_exact(tmp_path, monkeypatch):
    monkeypatch.setitem(report.TOLERANCE, "float32", 1e-12)
    some = ("--operators", "kp", "--methods", "minimal", "--out", str(tmp_path))
    result = run("bench", *TORCH, *some)
    assert result.exit_code == 1
    assert "∂t∂x + ∂x⁴ + 3∂y², minimal, eager: relative error" in result.output
    assert "exceeds the 1e-12 allowed in float32" in " ".join(result.output.split())
    assert (tmp_path / "torch.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--operators", "laplace"), "operators must be among laplacian, weighted-laplacian"),
        (("--methods", "minimal,best"), "got best"),
        (("--modes", "jit"), "modes must be among eager, compiled"),
        (("--dim", "laplacian"), "--dim takes operator=number"),
        (("--dim", "heat=3"), "dimensions must be among"),
        (("--dim", "kp=4"), "its dimension is 3, not 4"),
        (("--dim", "laplacian=0"), "dimension of laplacian must be at least 1"),
        (("--batch", "0"), "batch must be at least 1, got 0"),
        (("--width", "0"), "width must be positive"),
        (("--dtype", "float16"), "dtype must be one of float32, float64"),
        (("--device", "abacus"), "device 'abacus' cannot be used"),
        (("--framework", "numpy"), "framework must be one of torch, jax"),
        (("--framework", "jax", "--threads", "1"), "--threads is PyTorch's"),
        (("--framework", "jax", "--device", "abacus"), "device 'abacus' cannot be used"),
    ],
)
def test_bench_refuses(arguments, says, tmp_path):
    fixed = ("--modes", "eager", "--framework", "torch")
    result = run("bench", *fixed, *arguments, "--out", str(tmp_path))
    assert result.exit_code == 2
    assert says in result.output
    assert "Traceback" not in result.output
