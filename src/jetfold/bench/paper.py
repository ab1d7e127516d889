"""The experiments of "Collapsing Taylor Mode Automatic Differentiation", and what it published.

Dangel, Siebert, Zeinhofer, Walther (NeurIPS 2025, arXiv 2505.13644), called *the paper*: runtime
and peak memory of a tanh network D → 768 → 768 → 512 → 512 → 1 over the batch size, and of
estimates over the number of samples S, and the slopes of straight lines through them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..transform import METHODS as ALL_METHODS
from .cells import How
from .results import Spec

EXPERIMENT = "paper"
METHODS = tuple(reversed(ALL_METHODS))  # nested first
DIMENSIONS = {"laplacian": 50, "weighted-laplacian": 50, "biharmonic": 5}

Group = tuple[Sequence[Spec], How]
"""Specs that differ in the method alone, and how they are measured."""


# ------------------------------------------------------------------ what was published

COLUMNS = ((False, "standard"), (False, "collapsed"), (True, "standard"), (True, "collapsed"))
"""Whether the operator is estimated, and the method."""

Published = Mapping[str, Mapping[str, tuple[float | None, ...]]]
"""Slope / slope of nested first-order differentiation, by operator and quantity (as in
`fits.QUANTITIES`) in these columns."""

TABLE_1: Published = {
    "laplacian": {
        "time": (0.93, 0.48, 0.97, 0.49),
        "peak": (0.54, 0.41, 0.54, 0.40),
        "peak_differentiable": (1.0, 0.47, 1.2, 0.50),
    },
    "weighted-laplacian": {
        "time": (0.94, 0.48, 0.97, 0.49),
        "peak": (0.54, 0.41, 0.53, 0.40),
        "peak_differentiable": (1.0, 0.47, 1.2, 0.50),
    },
    "biharmonic": {
        "time": (0.72, 0.55, 0.15, 0.11),
        "peak": (0.36, 0.33, 0.17, 0.16),
        "peak_differentiable": (0.98, 0.61, 0.30, 0.18),
    },
}
TABLE_F3: Published = {
    "laplacian": {
        "time": (0.93, 0.48, 0.98, 0.50),
        "peak": (0.69, 0.49, 0.67, 0.33),
        "peak_differentiable": (0.88, 0.43, 0.95, 0.49),
    },
    "weighted-laplacian": {
        "time": (0.95, 0.49, 0.98, 0.50),
        "peak": (0.73, 0.53, 0.67, 0.33),
        "peak_differentiable": (0.92, 0.43, 0.95, 0.49),
    },
    "biharmonic": {
        "time": (0.72, 0.55, 0.15, 0.11),
        "peak": (0.36, 0.33, 0.17, 0.17),
        "peak_differentiable": (0.98, 0.61, 0.30, 0.18),
    },
}
TABLE_G5: Published = {
    "laplacian": {
        "time": (1.5, 0.50, 1.5, None),
        "peak": (1.2, 1.0, 1.2, None),
        "peak_differentiable": (0.85, 0.32, 0.87, None),
    },
    "biharmonic": {
        "time": (1.7, 0.33, 0.46, None),
        "peak": (0.83, 0.39, 0.10, None),
        "peak_differentiable": (1.8, 0.29, 0.40, None),
    },
}

SOURCES: Mapping[tuple[str, str], tuple[str, Published]] = {
    ("torch", "eager"): ("Table 1: PyTorch, on an RTX 6000", TABLE_1),
    ("torch", "compiled"): ("Table F3: torch.compile, on an RTX 6000", TABLE_F3),
    ("jax", "compiled"): (
        "Table G5: jax.jit, on an RTX 6000; there standard is jax.experimental.jet, collapsed is "
        "folx, and the biharmonic is the Laplacian of the Laplacian",
        TABLE_G5,
    ),
}
"""By framework and mode: the table of arXiv 2505.13644, and its ratios."""


def published(spec: Spec, quantity: str) -> float | None:
    """The ratio of the slopes in the paper; None where there is none.

    >>> spec = Spec("paper", "torch", "eager", "biharmonic", "collapsed", "batch", 5, 1)
    >>> published(spec, "time"), published(replace(spec, method="minimal"), "time")
    (0.55, None)
    """
    _, table = SOURCES.get((spec.framework, spec.mode), ("", {}))
    ratios = table.get(spec.operator, {}).get(quantity, ())
    by_column = dict(zip(COLUMNS, ratios, strict=False))
    return by_column.get((spec.samples is not None, spec.method))


# ------------------------------------------------------------------ grids


@dataclass(frozen=True)
class Curve:
    """One operator over batch sizes, or over numbers of samples.

    Attributes:
        framework, mode: what evaluates it.
        batches: sizes; one of them where the samples vary.
        memory: those values for which memory is measured too; None: all.
        methods: those that are compared, with nested first.
    """

    framework: str
    mode: str
    operator: str
    batches: Sequence[int]
    samples: Sequence[int] = ()
    memory: Sequence[int] | None = None
    methods: Sequence[str] = METHODS

    def groups(self, device: str, how: How) -> Iterator[Group]:
        """The specs of each value, and how they are measured."""
        variable = "samples" if self.samples else "batch"
        for value in self.samples or self.batches:
            spec = Spec(
                EXPERIMENT,
                self.framework,
                self.mode,
                self.operator,
                "",
                variable,
                DIMENSIONS[self.operator],
                batch=self.batches[0] if self.samples else value,
                samples=value if self.samples else None,
                device=device,
            )
            wanted = self.memory is None or value in self.memory
            specs = [replace(spec, method=method) for method in self.methods]
            yield specs, replace(how, memory=how.memory and wanted)


MODES = (("torch", "eager"), ("jax", "compiled"), ("torch", "compiled"))


def _evenly(most: int) -> tuple[int, ...]:
    """Ten whole numbers from 1 on, as in the paper."""
    return tuple(int(n) for n in np.linspace(1, most, 10))


def quick() -> list[Curve]:
    """Some minutes. What is dear to compile is left out: `torch.compile` is measured on the
    Laplacian alone, without the standard method and without memory; in JAX lines go through two
    points, and memory is measured exactly alone. The weighted Laplacian costs what the Laplacian
    does: it is not estimated, and its memory is not measured."""
    without_standard = tuple(method for method in METHODS if method != "standard")
    return [
        Curve("torch", "eager", "laplacian", (16, 40, 64), memory=(16, 64)),
        Curve("torch", "eager", "weighted-laplacian", (16, 40, 64), memory=()),
        Curve("torch", "eager", "biharmonic", (8, 24, 40), memory=(8, 40)),
        Curve("torch", "eager", "laplacian", (32,), samples=(4, 14, 24), memory=(4, 24)),
        Curve("torch", "eager", "biharmonic", (32,), samples=(1, 4, 8), memory=(1, 8)),
        Curve("jax", "compiled", "laplacian", (16, 64)),
        Curve("jax", "compiled", "weighted-laplacian", (16, 64), memory=()),
        Curve("jax", "compiled", "biharmonic", (8, 40)),
        Curve("jax", "compiled", "laplacian", (32,), samples=(4, 24), memory=()),
        Curve("jax", "compiled", "biharmonic", (32,), samples=(1, 8), memory=()),
        Curve("torch", "compiled", "laplacian", (16, 64), memory=(), methods=without_standard),
    ]


def default() -> list[Curve]:
    """Half an hour on two cores: everything, at a few sizes."""
    return [
        curve
        for framework, mode in MODES
        for curve in (
            Curve(framework, mode, "laplacian", (32, 80, 128), memory=(32, 128)),
            Curve(framework, mode, "weighted-laplacian", (32, 80, 128), memory=(32, 128)),
            Curve(framework, mode, "biharmonic", (32, 80, 128), memory=(32, 128)),
            Curve(framework, mode, "laplacian", (128,), (2, 14, 26), memory=(2, 26)),
            Curve(framework, mode, "weighted-laplacian", (128,), (2, 14, 26), memory=(2, 26)),
            Curve(framework, mode, "biharmonic", (128,), (1, 4, 8, 16), memory=(1, 8)),
        )
    ]


def full() -> list[Curve]:
    """The grid of the paper. Hours on a CPU, for which it is not meant."""
    return [
        curve
        for framework, mode in MODES
        for curve in (
            Curve(framework, mode, "laplacian", _evenly(2048)),
            Curve(framework, mode, "weighted-laplacian", _evenly(2048)),
            Curve(framework, mode, "biharmonic", _evenly(1024)),
            Curve(framework, mode, "laplacian", (2048,), _evenly(50)),
            Curve(framework, mode, "weighted-laplacian", (2048,), _evenly(50)),
            Curve(framework, mode, "biharmonic", (256,), _evenly(36)),
        )
    ]


GRIDS = {
    "quick": (quick, How(budget=0.5, least=3, most=20, workers=2)),
    "default": (default, How(budget=2.0, least=5, most=50, workers=2)),
    "full": (full, How(budget=5.0, least=5, most=50, patience=1800.0)),
}
"""By name: the curves, and how each point is measured."""


def grid(size: str, frameworks: Sequence[str], device: str) -> list[Group]:
    """All groups of a grid, of these frameworks."""
    curves, how = GRIDS[size]
    return [
        group
        for curve in curves()
        if curve.framework in frameworks
        for group in curve.groups(device, how)
    ]
