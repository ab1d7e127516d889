"""Training steps: equations against known solutions, bytes against a count by hand, tiny runs."""

from __future__ import annotations

import csv
import os
from contextlib import nullcontext
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from jetfold import cli
from jetfold.bench import measure, pages, steps, training
from jetfold.bench.jax import Jax
from jetfold.bench.measure import Timing
from jetfold.bench.problems import COMBINED, EQUATIONS, VISCOSITY
from jetfold.bench.report import Environment
from jetfold.bench.torch import Step, Torch
from jetfold.bench.training import Outcome, Row, Settings


class Uncompiled(Torch):
    """PyTorch on the CPU, which compiles nothing and takes no second look at memory."""

    def __init__(self):
        super().__init__("cpu", "float32")

    def compiled(self, function, rewrite=False):
        return function

    def peak(self, call):
        return call() and None

    def cold(self):
        return nullcontext()


TINY = {
    "batch": 4,
    "width": 0.01,
    "repeats": 1,
    "dimensions": {"laplacian": 3},
    "networks": ("20x3",),
    "points": (6,),
}


def run(*arguments):
    return CliRunner().invoke(cli.application(), list(arguments))


def row(**changes):
    second = Timing(1.0, 1.0, 1.0, 1.0, 3)
    made = Row("burgers", "Burgers", "20x3", 100, "minimal", "eager", 4, second, second, 2.5, 1.25,
               3000, 2000, 1.5, 4000, None, 1e-6)  # fmt: skip
    return replace(made, **changes)


# ------------------------------------------------------------------ the equations

SOLUTIONS = {  # of (points, coordinates): the outputs, and the residuals by hand
    "burgers": lambda xp, t, x: (
        [xp.sin(2 * t + x)],
        [(2 + xp.sin(2 * t + x)) * xp.cos(2 * t + x) + VISCOSITY * xp.sin(2 * t + x)],
    ),
    "kuramoto-sivashinsky": lambda xp, t, x: (
        [xp.sin(2 * t + 3 * x)],
        [(2 + 3 * xp.sin(2 * t + 3 * x)) * xp.cos(2 * t + 3 * x) + 72 * xp.sin(2 * t + 3 * x)],
    ),
    "navier-stokes": lambda xp, t, x, y: (  # the vortex of Taylor and Green
        [
            -xp.cos(x) * xp.sin(y) * xp.exp(-2 * VISCOSITY * t),
            xp.sin(x) * xp.cos(y) * xp.exp(-2 * VISCOSITY * t),
            -(xp.cos(2 * x) + xp.cos(2 * y)) / 4 * xp.exp(-4 * VISCOSITY * t),
        ],
        [0 * x, 0 * x, 0 * x],
    ),
}


@pytest.mark.parametrize(
    ("framework", "method"),
    [
        *(
            (framework, m)
            for framework in ("torch", "jax")
            for m in ("nested", "minimal", COMBINED)
        ),
        ("torch.func", "nested"),
    ],
)
@pytest.mark.parametrize("name", EQUATIONS)
def test_residuals_of_known_functions(framework, name, method, rng):
    xp = jnp if framework == "jax" else torch
    backend = Jax("cpu", "float64") if framework == "jax" else Torch("cpu", "float64")
    solution = SOLUTIONS[name]

    def network(x):
        return xp.stack(solution(xp, *(x[..., k] for k in range(x.shape[-1])))[0], -1)

    residuals = EQUATIONS[name].residuals(backend, method, compiled=framework == "torch.func")
    points = rng.normal(size=(5, EQUATIONS[name].coordinates))
    with backend.doubles():
        found = residuals(network, backend.array(points))
        expected = solution(xp, *backend.array(points.T))[1]
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(backend.numpy(one), backend.numpy(other), atol=1e-12)


@pytest.mark.parametrize(
    ("name", "apart", "combined"),
    [("burgers", 4, 3), ("kuramoto-sivashinsky", 6, 5), ("navier-stokes", 5, 4)],
)
def test_one_operator_for_what_is_linear_carries_one_vector_less(name, apart, combined):
    equation = EQUATIONS[name]
    found = equation.vectors(equation.coordinates)
    assert (found["minimal"], found["combined"]) == (apart, combined)


# ------------------------------------------------------------------ runs


def test_every_method_in_every_mode():
    done = []
    settings = Settings(operators=("laplacian", "burgers"), **TINY)
    outcome = training.run(settings, Uncompiled(), lambda text, n: done.append(n))
    assert outcome.failures == () and sum(done) == settings.steps
    assert [(r.operator, r.mode, r.method) for r in outcome.rows] == [
        *(("laplacian", "eager", m) for m in ("limit", "nested", "collapsed", "minimal")),
        *(("laplacian", "compiled", m) for m in ("limit", "nested", "minimal")),
        *(("burgers", mode, method) for mode in ("eager", "compiled")
          for method in ("limit", "nested", "minimal", "combined")),
    ]  # fmt: skip
    rows = {(r.operator, r.mode, r.method): r for r in outcome.rows}
    for (_, mode, method), r in rows.items():
        assert r.problem("float32") == ""
        assert (r.relative_error is None) == (r.value is None) == (method == "limit")
        assert (r.compile_s is None) == (mode == "eager")
        carried = {"laplacian": 5, "burgers": 3 if method == "combined" else 4}[r.operator]
        assert r.vectors == (None if method == "nested" else carried)
        nested, limit = rows[r.operator, "eager", "nested"], rows[r.operator, mode, "limit"]
        assert r.speedup == pytest.approx(nested.time.median / r.time.median)
        assert r.over_limit == pytest.approx(r.time.median / limit.time.median)
    # The plain network keeps what each hidden layer gives, and its output for the square.
    limit = rows["burgers", "eager", "limit"]
    assert limit.kept == 4 * (4 * 6) * (3 * 20 + 1)
    assert limit.sets == pytest.approx(4 * (1 + 1 / 60))
    limit = rows["laplacian", "eager", "limit"]
    assert limit.kept == 2 * limit.half == 4 * (5 * 4) * (8 + 8 + 5 + 5 + 1)


def test_what_takes_minutes_to_compile_is_left_out():
    """By PyTorch: nested differentiation beyond the second order, and collapsed Taylor mode."""
    small = {**TINY, "dimensions": {"biharmonic": 2}, "operators": ("biharmonic",)}
    outcome = training.run(Settings(**small), Uncompiled())
    assert [(r.mode, r.method) for r in outcome.rows] == [
        *(("eager", m) for m in ("limit", "nested", "collapsed", "minimal")),
        *(("compiled", m) for m in ("limit", "minimal")),
    ]


def test_bytes_are_those_that_the_graph_holds():
    """Storages once, views and parameters and points not at all, and nothing that is let go."""
    w, x = torch.ones(10, requires_grad=True), torch.ones(10)

    def loss(x):
        with_other_graph = torch.autograd.grad((w * x).exp().sum(), w)[0]
        y = (w * x).exp()  # keeps its result, which the two halves share
        return (y[:5] * y[5:]).sum() + 0 * with_other_graph.sum()

    assert Step(loss).kept([w], x) == 40


def test_where_hooks_are_refused_memory_is_measured():
    w = torch.ones(1_000_000, requires_grad=True)

    def loss(x):
        return torch.func.grad(lambda v: (v * w).sin().sum())(x).sum()

    kept = Step(loss).kept([w], torch.ones(1_000_000))
    assert kept is None or 3e6 < kept < 40e6


def test_a_run_in_jax():
    settings = Settings(
        operators=("burgers",),
        methods=("limit", "nested", "minimal", "combined"),
        modes=("compiled",),
        **TINY,
    )
    outcome = training.run(settings, Jax("cpu", "float32"))
    assert outcome.failures == ()
    limit, nested, minimal, combined = outcome.rows
    assert minimal.vectors == limit.vectors == 4 and combined.vectors == 3
    assert nested.speedup == 1 and minimal.speedup > 0 and limit.over_limit == 1
    for r in outcome.rows:
        assert r.kept > 0 and r.compile_s > 0 and r.problem("float32") == ""


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux only")
def test_one_core():
    before = os.sched_getaffinity(0)
    with measure.one_core():
        assert len(os.sched_getaffinity(0)) == 1
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("before", ["/somewhere", None])
@pytest.mark.parametrize(
    ("backend", "names"),
    [(Torch, ["TORCHINDUCTOR_CACHE_DIR", "XDG_CACHE_HOME"]), (Jax, ["XDG_CACHE_HOME"])],
)
def test_nothing_is_found_on_disk(backend, names, before, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda f: f)
    for name in names:
        monkeypatch.delenv(name, raising=False)
        if before is not None:
            monkeypatch.setenv(name, before)
    with backend("cpu", "float32").cold():
        for name in names:
            assert os.listdir(os.environ[name]) == []
    for name in names:
        assert os.environ.get(name) == before


def test_one_thread():
    before = torch.get_num_threads()
    with Torch("cpu", "float32").alone():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


def test_a_wrong_gradient_and_a_failure_end_with_status_1(tmp_path, monkeypatch):
    """And the table, the CSV file and the picture are written all the same."""

    def wrong(of):
        return [1.01 * of("t")]

    burgers = EQUATIONS["burgers"]
    wrongly = replace(burgers.apart, residual=wrong)
    residuals = type(burgers).residuals

    def partly_wrong(self, backend, method, compiled):
        if method == "limit":
            raise NotImplementedError
        changed = replace(self, apart=wrongly) if method == "minimal" else self
        return residuals(changed, backend, method, compiled)

    monkeypatch.setattr(type(burgers), "residuals", partly_wrong)
    small = ("--networks", "20x3", "--points", "6", "--batch", "4", "--width", "0.01")
    result = run("bench", "--training", "--quick", "--framework", "torch", "--modes", "eager",
                 "--operators", "burgers,laplacian", "--dim", "laplacian=3", *small, "--memory", "2",
                 "--out", str(tmp_path))  # fmt: skip
    text = " ".join(result.output.split())
    assert result.exit_code == 1
    assert "Burgers, 20x3, 6 points, minimal, eager: relative error" in text
    assert "of the gradient exceeds the 1e-04 allowed in float32" in text
    with (tmp_path / "torch-training.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == tuple(steps.COLUMNS) and len(rows) == 4 + 4
    assert rows[0]["memory GB"] == "2" and int(rows[0]["points in memory"]) > 1e6
    page = pages.FORMS["training"].table(rows).splitlines()
    assert "three hidden layers of 20" in page[0] and "| points in 2 GB |" in page[2]
    assert len(page) == 4 + len(rows) and page[4].startswith("| Burgers, 20x3, 6 | eager | ")
    assert (tmp_path / "torch-training.png").read_bytes().startswith(b"\x89PNG")


# ------------------------------------------------------------------ what is shown


def test_points_that_fit():
    assert row().fits(10_000) == 450  # 1000 bytes, and 20 for each point
    assert row(half=None).fits(10_000) == 333
    assert row(kept=None).fits(10_000) is None
    assert row().fits(500) == 0


def test_table_fits_eighty_columns():
    long = Timing(123.456, 123.456, 123.456, 123.456, 3)
    found = [
        row(method=method, mode=mode, value=long, time=long, speedup=123.45, over_limit=12.34,
            label="Kuramoto-Siv.", sets=1234.5, compile_s=123.4)
        for mode in ("eager", "compiled") for method in ("limit", "nested", "minimal", "combined")
    ]  # fmt: skip
    console = Console(width=80)
    with console.capture() as capture:
        console.print(steps.table(found, "float32"))
    text = capture.get()
    assert "…" not in text and max(map(len, text.splitlines())) <= 80


def test_complaints():
    found = steps.complaints(
        Outcome((row(), row(relative_error=float("nan"))), ("x: y",)), "float32"
    )
    assert found == [
        "could not be measured: x: y",
        "Burgers, 20x3, 100 points, minimal, eager: relative error nan of the gradient exceeds the "
        "1e-04 allowed in float32",
    ]


@pytest.mark.parametrize("operators", [("laplacian",), ("burgers",), ("laplacian", "burgers")])
def test_plot(tmp_path, operators):
    environment = Environment("torch", "torch 2", "cpu", "float32", Settings())
    found = [
        row(operator=name, method=method, mode=mode)
        for name in operators
        for mode in ("eager", "compiled")
        for method in ("limit", "nested", "minimal", "combined")
    ]
    assert steps.plot(found, environment, tmp_path / "steps.png")
    assert (tmp_path / "steps.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--quick",), "--quick does not go with --suite operators"),
        (("--training", "--walkers", "8"), "--walkers does not go with --suite training"),
        (("--training", "--operators", "kp"), "operators of --training must be among laplacian"),
        (("--training", "--networks", "20x4"), "networks of --training must be among 20x3, 64x4"),
        (("--training", "--points", "0"), "points must be whole numbers, 1 or more"),
        (("--training", "--memory", "0"), "memory must be positive, in GB; got 0"),
        (("--memory", "8"), "--memory does not go with --suite operators"),
    ],
)
def test_refusals(arguments, says, tmp_path):
    result = run("bench", *arguments, "--out", str(tmp_path))
    assert result.exit_code == 2 and says in " ".join(result.output.split())
