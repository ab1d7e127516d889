"""The paper's experiments: lines, ratios, peak memory against what is counted, runs that go on."""

from __future__ import annotations

import csv
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from jetfold import cli
from jetfold.bench import cells, evidence, experiments, paper
from jetfold.bench.cells import How, measure
from jetfold.bench.fits import Line, fit, lines, ratio
from jetfold.bench.jax import Jax
from jetfold.bench.measure import Timing
from jetfold.bench.processes import Died, Processes, here
from jetfold.bench.results import Cell, Results, Spec
from jetfold.bench.suite import waited
from jetfold.bench.torch import Torch

TORCH = Spec("paper", "torch", "eager", "laplacian", "minimal", "batch", 5, 4, width=0.02)
JAX = replace(TORCH, framework="jax", mode="compiled")
ONCE = How(budget=0, least=1, most=1, memory=False, threads=1)


def group(spec, methods=paper.METHODS):
    return [replace(spec, method=method) for method in methods]


@pytest.fixture(scope="module")
def processes():
    return Processes(["jetfold.bench.torch", "jetfold.bench.jax", "jetfold.bench.cells"])


# ------------------------------------------------------------------ lines


def seconds(value):
    return Timing(2 * value, value, value, 3 * value, 5)


def test_a_line_is_the_least_squares_line(rng):
    x, y = rng.normal(size=(2, 7))
    line = fit(list(zip(x, y, strict=True)))
    assert np.polyfit(x, y, 1) == pytest.approx((line.slope, line.intercept))
    assert fit([(3, 1.0), (3, 2.0)]) is None


def test_slopes_are_of_the_smallest_times_and_compared_with_nested():
    found = [
        Cell(replace(TORCH, method=method, batch=batch), time=seconds(1 + slope * batch))
        for method, slope in (("nested", 4.0), ("minimal", 1.0))
        for batch in (2, 4, 8)
    ]
    fitted = lines([*found, Cell(replace(TORCH, batch=9), failure="no")], "time")
    minimal = replace(TORCH, batch=0)
    assert fitted[minimal].slope == pytest.approx(1)
    assert ratio(fitted, minimal) == pytest.approx(0.25)
    assert lines(found, "peak") == {}
    falling = {minimal: Line(-1, 1), replace(minimal, method="nested"): Line(1, 1)}
    assert ratio(falling, minimal) is None


def test_more_samples_than_the_exact_operator_needs_are_left_out_of_a_line():
    spec = replace(TORCH, variable="samples")
    vectors = {1: 5, 4: 14, 8: 26, 9: 27, 20: 27, 36: 27}
    found = [
        Cell(replace(spec, samples=s), vectors=v, time=seconds(float(min(s, 9))))
        for s, v in vectors.items()
    ]
    assert lines(found, "time")[replace(spec, samples=0)].slope == pytest.approx(1)


# ------------------------------------------------------------------ what the paper says


@pytest.mark.parametrize(
    ("framework", "mode", "operator", "samples", "quantity", "expected"),
    [
        ("torch", "eager", "laplacian", None, "time", 0.48),
        ("torch", "eager", "weighted-laplacian", None, "time", 0.48),
        ("torch", "eager", "biharmonic", None, "time", 0.55),
        ("torch", "eager", "laplacian", 4, "time", 0.49),
        ("torch", "eager", "biharmonic", 4, "time", 0.11),
        ("torch", "compiled", "biharmonic", 4, "peak_differentiable", 0.18),
        ("jax", "compiled", "laplacian", None, "peak", 1.0),
        ("jax", "compiled", "biharmonic", 4, "time", None),
    ],
)
def test_published_ratios(framework, mode, operator, samples, quantity, expected):
    spec = Spec("paper", framework, mode, operator, "collapsed", "batch", 5, 1, samples)
    assert paper.published(spec, quantity) == expected


@pytest.mark.parametrize("size", paper.GRIDS)
def test_grids_are_of_the_papers_network_and_dimensions(size):
    groups = paper.grid(size, ("torch", "jax"), "cuda")
    specs = [spec for group, _ in groups for spec in group]
    assert len(set(specs)) == len(specs)
    assert {(s.operator, s.dimension) for s in specs} == set(paper.DIMENSIONS.items())
    assert {(s.network, s.width, s.depth, s.device) for s in specs} == {("mlp", 1.0, None, "cuda")}
    assert {(s.framework, s.mode) for s in specs} == set(paper.SOURCES)
    assert {s.framework for g, _ in paper.grid(size, ("jax",), "cpu") for s in g} == {"jax"}
    for found, _ in groups:
        methods = [spec.method for spec in found]
        assert methods[0] == "nested" and methods[-2:] == ["collapsed", "minimal"]
    if size == "full":
        largest = {
            s.operator: max(t.batch for t in specs if t.operator == s.operator) for s in specs
        }
        assert largest == {"laplacian": 2048, "weighted-laplacian": 2048, "biharmonic": 1024}


# ------------------------------------------------------------------ measuring


@pytest.mark.parametrize(
    "spec",
    [
        TORCH,
        replace(TORCH, operator="biharmonic", dimension=3, samples=2, variable="samples"),
        replace(JAX, operator="weighted-laplacian", samples=2, variable="samples"),
    ],
)
def test_a_group(spec):
    found = measure(group(spec), ONCE, here)
    assert [cell.failure for cell in found] == [""] * 4
    assert [cell.spec for cell in found] == group(spec)
    assert max(cell.error for cell in found) < 2e-6
    assert all(cell.time.repeats for cell in found)
    nested, standard, collapsed, minimal = found
    assert nested.vectors is nested.limit is None
    assert standard.vectors > collapsed.vectors >= minimal.vectors
    assert minimal.limit == collapsed.limit > 0
    assert (minimal.compile_s is None) == (spec.mode == "eager")
    assert set(nested.predicted) == {"flops", "kept"}
    assert set(minimal.predicted) == {"flops", "kept", "time / limit"}
    assert minimal.predicted["flops"] < standard.predicted["flops"]


def test_an_estimate_that_is_exact_is_compared_with_what_is_exact():
    spec = replace(TORCH, samples=9, variable="samples")
    (nested, minimal) = measure(group(spec, ("nested", "minimal")), ONCE, here)
    assert minimal.vectors == 7
    assert nested.error < 2e-6 and minimal.error < 2e-6


def test_weights_are_the_papers():
    sigma = experiments.increments(4)
    assert sigma @ sigma.T == pytest.approx(np.diag([1.0, 2, 3, 4]))


def test_one_that_fails_does_not_cost_the_others():
    found = measure(group(TORCH, ("nested", "folx")), ONCE, here)
    assert found[0].failure == "" and found[0].time
    assert found[1].failure == "folx: ValueError: folx has no laplacian"


def test_one_that_ends_its_process_is_left_out():
    asked = []

    def run(job, specs, *rest, patience, tell):
        asked.append([spec.method for spec in specs])
        if "standard" in asked[-1]:
            raise Died("the process ended with status -9: perhaps it ran out of memory", "standard")
        return here(job, specs, *rest, tell=tell)

    found = measure(group(TORCH, ("nested", "standard", "minimal")), ONCE, run)
    assert asked == [["nested", "standard", "minimal"], ["nested", "minimal"]]
    assert [bool(cell.failure) for cell in found] == [False, True, False]


def test_processes_say_how_they_ended(processes):
    assert processes(cells.versions, TORCH, ONCE).endswith(", 1 thread")
    with pytest.raises(Died, match="ValueError: framework must be one of torch, jax"):
        processes(cells.versions, replace(TORCH, framework="numpy"), ONCE)
    with pytest.raises(Died, match="nothing happened for 0 s"):
        processes(cells.timed, [TORCH], ONCE, {}, patience=0)
    with pytest.raises(Died, match="status -9: perhaps it ran out of memory") as raised:
        processes(cells.timed, [TORCH], ONCE, {}, tell=lambda word: processes.stop())
    assert raised.value.during == "minimal"


@pytest.mark.skipif("sys.platform != 'linux'")
@pytest.mark.parametrize(
    ("framework", "mode", "batch", "measured"),
    [("torch", "eager", 96, "held"), ("jax", "compiled", 256, "peak_differentiable")],
)
def test_memory_is_what_is_counted(framework, mode, batch, measured, processes):
    spec = replace(paper.grid("quick", ("torch",), "cpu")[0][0][3], framework=framework)
    spec = replace(spec, mode=mode, batch=batch)
    found = processes(cells.memory, spec, ONCE)
    assert found["kept"] > 3e7
    if found[measured] is None:
        pytest.skip("the kernel does not tell this process its memory")
    assert found[measured] == pytest.approx(found["kept"], rel=0.1)
    assert found["peak"] < found["peak_differentiable"] < 1.5 * found["kept"]


# ------------------------------------------------------------------ runs


def wanted():
    return [(group(replace(TORCH, batch=batch), ("nested", "minimal")), ONCE) for batch in (2, 4)]


def test_nothing_is_measured_twice(tmp_path):
    asked = []

    def run(job, *arguments, **options):
        if job is cells.timed:
            asked.append([(spec.method, spec.batch) for spec in arguments[0]])
            if len(asked) == 2:
                raise KeyboardInterrupt
        return here(job, *arguments, **options)

    with pytest.raises(KeyboardInterrupt):
        evidence.run(wanted(), evidence.opened(tmp_path, "quick"), tmp_path, run)
    results = evidence.opened(tmp_path, "default")
    assert results.grid == "default" and len(results.cells) == 2
    spec = next(iter(results.cells))
    results.add([replace(results.cells[spec], failure="the machine was asleep")])
    steps = []
    evidence.run(wanted(), results, tmp_path, run, lambda text, n: steps.append(n))
    assert asked[2:] == [[(spec.method, 2)], [("nested", 4), ("minimal", 4)]]
    assert sum(steps) == 4
    assert evidence.problems(results, wanted()) == []
    with (tmp_path / "paper.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["batch"]) for row in rows] == [
        ("nested", "2"), ("minimal", "2"), ("nested", "4"), ("minimal", "4"),
    ]  # fmt: skip
    minimal = results.cells[replace(TORCH, batch=4)]
    assert float(rows[-1]["time minimum"]) == minimal.time.minimum


def test_what_is_wrong_is_told():
    results = Results("quick")
    nested, minimal = group(TORCH, ("nested", "minimal"))
    results.add([Cell(nested, failure="MemoryError"), Cell(minimal, error=float("nan"))])
    told = evidence.problems(results, [([nested, minimal], ONCE)])
    assert told == [
        "could not be measured: laplacian, nested, torch eager, batch 4: MemoryError",
        "laplacian, minimal, torch eager, batch 4: relative error nan exceeds the 1e-05 allowed in "
        "float32",
    ]


def run_command(*arguments):
    return CliRunner().invoke(cli.application(), ["bench", *arguments])


def test_the_command(tmp_path, monkeypatch, processes):
    def tiny():
        return [paper.Curve("torch", "eager", "laplacian", (1, 3), memory=())]

    @contextmanager
    def ours(frameworks, log):
        yield processes

    monkeypatch.setattr(evidence, "GRIDS", (paper.grid,))
    monkeypatch.setitem(paper.GRIDS, "quick", (tiny, ONCE))
    monkeypatch.setattr(evidence, "processes", ours)
    monkeypatch.setenv("COLUMNS", "120")
    result = run_command("--paper", "--quick", "--threads", "1", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert "torch eager, laplacian per datum" in result.output
    said = " ".join(result.output.split())
    assert "(0.48)" in said and "arXiv 2505.13644 (Table 1" in said
    assert len(Results.load(tmp_path / "paper.json").cells) == 8

    off = Results.load(tmp_path / "paper.json")
    off.add([replace(cell, error=1e-3) for cell in off.cells.values()])
    evidence.save(off, tmp_path)
    result = run_command("--paper", "--quick", "--out", str(tmp_path))
    assert result.exit_code == 1
    assert "relative error 1.0e-03 exceeds the 1e-05" in result.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--full"], "--full goes with --paper"),
        (["--paper", "--batch", "4"], "--batch does not go with --paper"),
        (["--paper", "--training"], "--suite does not go with --paper"),
        (["--paper", "--device", "tpu", "--framework", "torch"], "device 'tpu' cannot be used"),
    ],
)
def test_refuses(arguments, says, tmp_path):
    result = run_command(*arguments, "--out", str(tmp_path))
    assert result.exit_code == 2
    assert says in result.output


# ------------------------------------------------------------------ devices that are not here


def test_a_gpu_is_waited_for_and_its_allocator_asked(monkeypatch):
    told, memory = [], SimpleNamespace(now=100, most=900)

    def reset(device):
        told.append("reset")
        memory.most = memory.now

    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: told.append("wait"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: memory.now)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: memory.most)
    backend = Torch("cuda", "float32")

    def work():
        told.append("work")
        memory.most = 750

    assert backend.peak(waited(backend, work)) == 650
    assert told == ["wait", "reset", "work", "wait"]  # nothing of before is counted


def test_an_allocator_that_forgets_no_peak():
    used = iter([(100, 400), (100, 700), (100, 700), (100, 700)])  # in use, and at most so far

    class Device(SimpleNamespace):
        def memory_stats(self):
            return dict(zip(("bytes_in_use", "peak_bytes_in_use"), next(used), strict=True))

    backend = Jax("cpu", "float32")
    backend._device = Device(platform="gpu")
    assert backend.peak(lambda: None) == 600
    assert backend.peak(lambda: None) is None
    used = iter([(100, 400), (100, 700), (100, 700), (100, 700)])
    assert cells._peak(backend, lambda: None) == 600
