"""Estimated operators and high dimension: what is recorded, on tiny networks."""

from __future__ import annotations

import csv
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

import jetfold as jf
from jetfold import cli
from jetfold.bench import estimates, measure, report, stochastic
from jetfold.bench.measure import Timing
from jetfold.bench.networks import mlp
from jetfold.bench.stochastic import Outcome, Row, Settings, carried, draws
from jetfold.bench.torch import Torch
from jetfold.core.estimators import Sampling
from jetfold.randomized import Randomized

EAGER = {"modes": ("eager",)}
SMALL = {
    "laplacian": 4,
    "biharmonic": 2,
    "randomized-laplacian": 60,
    "chunked-laplacian": 210,
}


def settings(**changes):
    options = {"batch": 4, "width": 0.05, "repeats": 1, "dimensions": SMALL, "samples": (1, 4, 16)}
    return Settings(**(options | EAGER | changes))


def by_case(rows):
    return {(row.operator, row.samples, row.method): row for row in rows}


@pytest.fixture(scope="module")
def outcome():
    steps = []
    wanted = settings()
    with warnings.catch_warnings():
        warnings.simplefilter(
            "error", jf.JetfoldWarning
        )  # the benchmark's own warnings are silenced
        made = stochastic.run(wanted, Torch("cpu", "float32"), lambda _, n: steps.append(n))
    assert sum(steps) == wanted.steps
    assert made.failures == ()
    return made


# ------------------------------------------------------------------ what is measured


@pytest.mark.parametrize(("name", "dimension"), [("laplacian", 50), ("biharmonic", 5)])
@pytest.mark.parametrize("samples", stochastic.SAMPLES)
def test_vectors_are_those_that_the_library_carries(name, dimension, samples):
    _, default, operator = stochastic.OPERATORS[name]
    assert default == dimension
    estimate = jf.randomize(operator, samples=samples, distribution="gaussian")
    found = jf.explain(estimate, dimension)
    sampled, exact = found.vectors
    vectors, nothing_random = carried(estimate, dimension, "minimal")
    assert nothing_random == found.exact
    assert vectors == (exact if found.exact else sampled)
    assert carried(estimate, dimension, "collapsed") == (sampled, False)
    assert carried(estimate, dimension, "standard") == (operator.order * samples + 1, False)
    assert carried(estimate, dimension, "nested") == (None, False)


def test_sizes_of_the_papers_setting():
    def minimal(operator, dimension, samples):
        return carried(jf.randomize(operator, samples, "gaussian"), dimension, "minimal")

    assert minimal(jf.laplacian, 50, 32) == (34, False)
    assert minimal(jf.laplacian, 50, 64) == (52, True)
    assert minimal(jf.biharmonic, 5, 8) == (26, False)
    assert minimal(jf.biharmonic, 5, 16) == (27, True)


def test_rows(outcome):
    rows = by_case(outcome.rows)
    assert len(rows) == len(outcome.rows)
    assert [*rows] == [
        *(("laplacian", s, m) for s in (1, 4, 16) for m in stochastic.METHODS),
        *(("biharmonic", s, m) for s in (1, 4) for m in stochastic.METHODS),
        *(("biharmonic", 16, m) for m in stochastic.METHODS[1:]),  # nested up to 8
        ("randomized-laplacian", 16, "minimal"),
        ("chunked-laplacian", None, "minimal"),
    ]
    # 6 and 9 vectors: the exact Laplacian in 4 coordinates, the exact biharmonic in 2
    for (name, samples, method), row in rows.items():
        exact = name == "chunked-laplacian" or (method == "minimal" and (samples or 0) >= 4)
        assert row.exact == (exact and name != "randomized-laplacian")
        assert (row.standard_errors is None) == row.exact
        assert row.time.repeats == 1 and row.compile_s is None
        assert row.relative_error < 1e-5 if row.exact else row.relative_error > 1e-2
    assert rows["laplacian", 16, "minimal"].vectors == 6
    assert rows["biharmonic", 16, "minimal"].vectors == 9
    assert rows["randomized-laplacian", 16, "minimal"].vectors == 18
    assert rows["chunked-laplacian", None, "minimal"].vectors == 102
    assert estimates.complaints(outcome, "float32") == []


def test_all_methods_draw_the_same_directions(outcome):
    rows = by_case(outcome.rows)
    for name in ("laplacian", "biharmonic"):
        for method in ("standard", "collapsed", "minimal"):
            found, nested = rows[name, 1, method], rows[name, 1, "nested"]
            assert found.relative_error == pytest.approx(nested.relative_error, rel=1e-3)
            assert found.standard_errors == pytest.approx(nested.standard_errors, abs=1e-2)


def test_ratios_are_those_of_medians(outcome):
    rows = by_case(outcome.rows)
    for (name, samples, method), row in rows.items():
        nested, collapsed = (rows.get((name, samples, m)) for m in ("nested", "collapsed"))
        if nested is None:
            assert row.speedup is None
        else:
            assert row.speedup == pytest.approx(nested.time.median / row.time.median)
        if method == "minimal" and collapsed is not None:
            ratio = row.time.median / collapsed.time.median
            assert row.over_collapsed == pytest.approx(ratio)


def test_the_error_falls_with_the_root_of_the_samples():
    wanted = settings(
        operators=("laplacian",), methods=("collapsed",), samples=(4, 64), dimensions={}
    )
    few, many = stochastic.run(wanted, Torch("cpu", "float32")).rows
    assert 2 < few.relative_error / many.relative_error < 8  # 4 in the mean


def test_a_wrong_estimate_is_noticed(monkeypatch):
    class Wrong(Randomized):
        def assemble(self, results, call):
            return 1.5 * super().assemble(results, call)

    def wrong(operator, samples, distribution):
        return Wrong(operator, Sampling(samples, distribution))

    monkeypatch.setattr(stochastic, "randomize", wrong)
    wanted = settings(
        operators=("laplacian",), methods=("collapsed",), samples=(64, 256), dimensions={}
    )
    found = estimates.complaints(stochastic.run(wanted, Torch("cpu", "float32")), "float32")
    assert any("Laplacian with 256 samples, collapsed, eager: the estimate is" in f for f in found)
    assert all(f.endswith("standard errors off, more than 6") for f in found)


def test_one_failure_does_not_cost_the_others():
    class Fails(Torch):
        count = 0

        def compiled(self, function, rewrite=False):
            def broken(x):
                raise RuntimeError("no compiler\nat all")

            return broken

        def sampled(self, function, compiled):
            self.count += 1
            return super().sampled(function, compiled and self.count == 2)

    wanted = settings(operators=("laplacian", *stochastic.LARGE), modes=("compiled",))
    found = stochastic.run(wanted, Fails("cpu", "float32"))
    assert found.failures == (
        "Laplacian, compiled, S = 1, standard: RuntimeError: no compiler",
        "exact Laplacian in chunks, compiled: RuntimeError: no compiler",
    )
    assert len(found.rows) == 3 * 4 - 1 + 1
    assert all(row.compile_s is not None for row in found.rows)


# ------------------------------------------------------------------ references and tools


def test_hessian_of_one_layer():
    layers = mlp(5, seed=3, hidden=(7,))
    points = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    trace, norm = stochastic.hessian_of_one_layer(layers, points)
    backend = Torch("cpu", "float64")
    network = backend.network(layers)
    for k, point in enumerate(backend.array(points)):
        hessian = torch.func.hessian(lambda x: network(x)[0])(point)
        assert trace[k] == pytest.approx(float(hessian.trace().detach()), rel=1e-12)
        assert norm[k] == pytest.approx(float(hessian.detach().norm()), rel=1e-12)


def test_draws():
    assert [draws(s) for s in stochastic.SAMPLES] == [32, 16, 8, 8, 8, 8, 8]


def test_resident_peak(monkeypatch, tmp_path):
    peak = measure.resident_peak(lambda: np.ones(4_000_000))
    if peak is None:
        pytest.skip("the memory of the process cannot be watched here")
    assert 30e6 < peak < 40e6
    monkeypatch.setattr(measure, "PROCESS", tmp_path)
    assert measure.resident_peak(lambda: None) is None


def test_settings_refuse():
    with pytest.raises(ValueError, match=r"operators of --stochastic must be among .*; got kp"):
        settings(operators=("kp",))
    with pytest.raises(ValueError, match=r"methods of --stochastic .* got rewritten, folx"):
        settings(methods=("minimal", "rewritten", "folx"))
    with pytest.raises(ValueError, match="the dimension of chunked-laplacian must be at least 1"):
        settings(dimensions={"chunked-laplacian": 0})


# ------------------------------------------------------------------ what is shown


def row(method="minimal", samples=16, exact=False, error=0.1, off=1.5, operator="biharmonic"):
    timing = Timing(1.0, 0.9, 0.99, 1.01, 7)
    return Row(
        operator=operator,
        label="biharmonic",
        dimension=5,
        samples=samples,
        method=method,
        mode="compiled",
        vectors=27,
        exact=exact,
        batch=128,
        compile_s=3.0,
        time=timing,
        speedup=12345.67,
        over_collapsed=0.5,
        relative_error=error,
        standard_errors=None if exact else off,
    )


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (row(), ""),
        (row(off=6.1), "biharmonic with 16 samples, minimal, compiled: the estimate is 6.1 "),
        (row(off=float("nan")), "the estimate is nan standard errors off"),
        (row(exact=True, error=1e-6), ""),
        (row(exact=True, error=2e-5), "relative error 2.0e-05 exceeds the 1e-05 allowed"),
        (row(exact=True, error=float("nan"), samples=None), "biharmonic, minimal, compiled: rel"),
    ],
)
def test_problem(made, says):
    problem = made.problem("float32")
    assert says in problem and bool(says) == bool(problem)
    found = estimates.complaints(Outcome((made,), ("x: no compiler",)), "float32")
    assert found == ["could not be measured: x: no compiler", *([problem] if problem else [])]


def test_table_fits_eighty_columns(outcome):
    console = Console(width=80)
    wide = [replace(r, time=Timing(*(12.3456,) * 4, 7), speedup=12345.67) for r in outcome.rows]
    with console.capture() as capture:
        console.print(estimates.table(wide, "float32"))
    text = capture.get()
    assert "…" not in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert any(line.startswith("biharmonic 1 nested 12346 12345.67×") for line in lines)
    assert sum(line.startswith("time of minimal / collapsed: ") for line in lines) == 1
    assert any(line.startswith("exact Laplacian in chunks 210 102") for line in lines)
    assert sum(line.endswith(" exact") and "is exact" not in line for line in lines) == 5


def test_legend_tells_what_is_left_out():
    assert "biharmonic is measured up to S = 8" in estimates.legend(settings())
    some = estimates.legend(settings(operators=("laplacian",)))
    assert "biharmonic" not in some and "MB" not in some


@pytest.mark.parametrize(
    ("rows", "drawn"),
    [
        ([row(), row(samples=32, exact=True, error=1e-7)], True),
        ([row(exact=True, error=1e-7)], True),
        ([row("standard")], True),
        ([row(operator="chunked-laplacian", samples=None, exact=True)], False),
    ],
    ids=["both", "exact", "sampled", "large"],
)
def test_plot(tmp_path, rows, drawn):
    path = tmp_path / "bench.png"
    environment = report.Environment("torch", "torch 2.0", "cpu", "float32", settings())
    assert estimates.plot(rows, environment, path) == drawn
    assert path.exists() == drawn
    if drawn:
        assert path.read_bytes().startswith(b"\x89PNG")


# ------------------------------------------------------------------ the command

DIMENSIONS = ",".join(f"{name}={n}" for name, n in SMALL.items())
TINY = ("--batch", "4", "--width", "0.05", "--repeats", "1", "--dim", DIMENSIONS)


def run(*arguments):
    return CliRunner().invoke(cli.application(), ["bench", "--stochastic", *arguments])


def test_bench_writes_table_csv_and_picture(tmp_path):
    result = run(
        *TINY, "--framework", "torch", "--methods", "collapsed,minimal", "--out", str(tmp_path)
    )
    assert result.exit_code == 0, result.output
    for part in ("tanh network D → 3 → 1, batch 4", "torch-stochastic.csv", "torch-stochastic.png"):
        assert part in result.output
    with (tmp_path / "torch-stochastic.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == tuple(estimates.COLUMNS)
    assert len(rows) == 2 * 7 * 2 + 2
    assert {row["mode"] for row in rows} == {"eager"}
    for row in rows:
        assert float(row["median ms"]) > 0
        assert (row["standard errors"] == "") == (row["exact"] == "yes")
        assert row["speed-up"] == row["compile s"] == ""
    assert rows[-1]["samples"] == "" and rows[-1]["vectors"] == "102"
    assert (tmp_path / "torch-stochastic.png").read_bytes().startswith(b"\x89PNG")


def test_bench_of_jax(tmp_path):
    pytest.importorskip("jax")
    some = ("--operators", "laplacian,randomized-laplacian,chunked-laplacian")
    result = run(*TINY, *some, "--framework", "jax", "--methods", "minimal", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    with (tmp_path / "jax-stochastic.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7 + 2
    assert {row["mode"] for row in rows} == {"compiled"}
    assert all(float(row["compile s"]) > 0 for row in rows)


def test_bench_fails_when_a_result_is_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr(stochastic, "FAR", 0.0)
    some = ("--operators", "randomized-laplacian", "--framework", "torch", "--out", str(tmp_path))
    result = run(*TINY, *some)
    assert result.exit_code == 1
    assert "standard errors off, more than 0" in " ".join(result.output.split())
    assert (tmp_path / "torch-stochastic.csv").exists()
    assert not (tmp_path / "torch-stochastic.png").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--operators", "kp"), "operators of --stochastic must be among laplacian, biharmonic"),
        (("--methods", "folx"), "methods of --stochastic must be among nested, standard"),
        (("--dim", "kp=3"), "dimensions must be among laplacian, biharmonic, randomized-laplacian"),
        (("--batch", "0"), "batch must be at least 1, got 0"),
        (("--modes", "jit"), "modes must be among eager, compiled"),
    ],
)
def test_bench_refuses(arguments, says, tmp_path):
    result = run("--framework", "torch", *arguments, "--out", str(tmp_path))
    assert result.exit_code == 2
    assert says in result.output
    assert "Traceback" not in result.output
