"""Results that nobody measured, with ratios that are known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from jetfold.bench.measure import Timing
from jetfold.bench.results import Cell, Results, Spec

VECTORS = {
    "laplacian": {"standard": 101, "collapsed": 52, "minimal": 52},
    "weighted-laplacian": {"standard": 101, "collapsed": 52, "minimal": 52},
    "biharmonic": {"standard": 141, "collapsed": 109, "minimal": 27},
}
ROWS = {"laplacian": 104.0, "weighted-laplacian": 104.0, "biharmonic": 200.0}
"""What nested differentiation takes, in rows of a plain forward pass."""

ROW = 1e-5
"""Seconds of one row of a plain forward pass."""

OVERHEAD = {"standard": 1.2, "collapsed": 1.04, "minimal": 1.0}

PLACES = (("torch", "eager"), ("torch", "compiled"), ("jax", "compiled"))


def timing(median: float, spread: float = 0.02) -> Timing:
    return Timing(
        median, median * (1 - 2 * spread), median * (1 - spread), median * (1 + spread), 9
    )


def cell(spec: Spec, rows: float, seconds: float) -> Cell:
    """Memory and counts that are in proportion to the rows."""
    nested = spec.method == "nested"
    return Cell(
        spec,
        vectors=None if nested else round(rows / spec.batch),
        time=timing(seconds),
        limit=None if nested else ROW * rows,
        peak=round(4e6 + 6e3 * rows),
        peak_differentiable=round(4e6 + 20e3 * rows),
        kept=round(20e3 * rows),
        flops=2e6 * rows,
        predicted={} if nested else {"time / limit": 1.0, "flops": 2e6 * rows, "kept": 18e3 * rows},
    )


def paper(seed: int = 0, scale: float = 1.0, places=PLACES) -> list[Cell]:
    """The paper's experiments: over the batch, and over samples."""
    rng = np.random.default_rng(seed)
    made = []
    for framework, mode in places:
        for operator, vectors in VECTORS.items():
            dimension = 5 if operator == "biharmonic" else 50
            fixed = {"framework": framework, "mode": mode, "operator": operator}
            for method in ("nested", *vectors):
                for batch in (16, 32, 64, 128):
                    spec = Spec(
                        "paper",
                        **fixed,
                        method=method,
                        variable="batch",
                        dimension=dimension,
                        batch=batch,
                    )
                    rows = batch * (vectors.get(method) or ROWS[operator])
                    seconds = 1e-4 + ROW * rows * OVERHEAD.get(method, 1.0)
                    noise = 1 + 0.002 * rng.standard_normal()
                    made.append(cell(spec, rows, scale * noise * seconds))
                if operator == "weighted-laplacian":
                    continue
                order = 4 if operator == "biharmonic" else 2
                for samples in (1, 2, 4, 8):
                    spec = Spec(
                        "paper",
                        **fixed,
                        method=method,
                        variable="samples",
                        dimension=dimension,
                        batch=128,
                        samples=samples,
                    )
                    carried = {
                        "nested": 2.0**order * samples / 2,
                        "standard": 1 + order * samples,
                    }.get(method, 2 + (order - 1) * samples)
                    made.append(cell(spec, 128 * carried, scale * ROW * 128 * carried))
    return made


def further(seed: int = 1) -> list[Cell]:
    """Two experiments beyond the paper, in which something is lost."""
    made = []
    for dimension in (2, 5, 10, 20):
        for method, power in (("nested", 3), ("collapsed", 2.2), ("minimal", 2)):
            spec = Spec(
                "dimension",
                "torch",
                "eager",
                "biharmonic",
                method,
                "dimension",
                dimension,
                32,
            )
            made.append(Cell(spec, time=timing(1e-3 * dimension**power)))
    for order in (1, 2, 4, 8):
        for method, base in (("nested", 9.0), ("minimal", 2.0)):
            spec = Spec("error", "jax", "compiled", "d_x^k", method, "order", 1, 32, order=order)
            made.append(Cell(spec, error=1e-7 * base**order))
    slow = Spec("order", "jax", "compiled", "d_x^k", "folx", "order", 1, 32, order=2)
    made.append(Cell(slow, time=timing(1.0e-3)))
    ours = Spec("order", "jax", "compiled", "d_x^k", "minimal", "order", 1, 32, order=2)
    made.append(Cell(ours, time=timing(1.5e-3)))
    failed = Spec("order", "jax", "compiled", "d_x^k", "nested", "order", 1, 32, order=10)
    made.append(Cell(failed, failure="out of <memory>"))
    return made


def results(cells: list[Cell]) -> Results:
    versions = {"torch": "PyTorch 2.13.0, cpu, 2 threads", "jax": "JAX 0.10.2, cpu"}
    made = Results("quick", versions=versions)
    made.machine = {
        "processor": "a processor",
        "cores": 2,
        "memory": 8.2e9,
        "system": "Linux 6",
        "python": "3.12.1",
    }
    made.add(cells)
    return made


@pytest.fixture
def made() -> SimpleNamespace:
    """What makes results."""
    return SimpleNamespace(paper=paper, further=further, results=results, timing=timing)


@pytest.fixture
def whole() -> Results:
    """Everything."""
    return results(paper() + further())
