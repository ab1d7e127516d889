"""Experiments beyond the paper: over dimension, order, depth, width and kinds of network, the
errors in float32, and the time to compile. What they ask stands in `questions`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeAlias

import numpy as np

from .cells import How
from .experiments import carried, operator_of
from .paper import METHODS, Group
from .results import Spec

EAGER, JITTED, COMPILED = ("torch", "eager"), ("jax", "compiled"), ("torch", "compiled")

BOTH = (EAGER, JITTED)

CHUNK = 128
"""Directions at a time, where the dimension is at least twice as large."""

BOUNDS: Mapping[tuple[str, str], tuple[Mapping[str, int], str]] = {
    ("dimension", "laplacian"): (
        {"torch": 1000, "jax": 1000},
        "it takes all directions at once: of 10,000, arrays of gigabytes",
    ),
    ("order", "d_x^k"): (
        {"torch": 6, "jax": 4},
        "two orders more take five times as long, in JAX to compile: half a minute at order 6",
    ),
    ("order", "laplacian^k"): (
        {"torch": 6, "jax": 4},
        "two orders more take ten times as long, in JAX to compile: more than a minute at order 6",
    ),
}
"""By experiment and operator: the largest value at which nested differentiation is measured, by
framework, and why. `ALIKE` are bounded alike."""

ALIKE = {"error": "order", "compile": "order"}


@dataclass(frozen=True)
class Sweep:
    """One operator over the values of a variable.

    Attributes:
        values: of the field of `Spec` that varies.
        modes: pairs of framework and mode.
        fixed: what else a `Spec` has that is not its default.
        every: whether methods are measured too that carry what `minimal` carries.
    """

    experiment: str
    operator: str
    variable: str
    values: Sequence[Any]
    fixed: dict[str, Any]
    modes: Sequence[tuple[str, str]] = BOTH
    methods: Sequence[str] = tuple(METHODS)
    every: bool = False

    def specs(self, mode: tuple[str, str], value: Any, device: str) -> list[Spec]:
        """Those of one value, which differ in the method alone."""
        given = {"dimension": 1, "batch": 1, **self.fixed, self.variable: value, "device": device}
        spec = Spec(self.experiment, *mode, self.operator, "", self.variable, **given)
        if self.variable == "dimension" and self.operator == "laplacian":
            spec = replace(spec, chunk=CHUNK if spec.dimension >= 2 * CHUNK else None)
        found = [replace(spec, method=method) for method in self.methods]
        return [one for one in found if bounded(one) and (self.every or distinct(one))]


WRONG: Mapping[tuple[str, str], str] = {
    ("torch", "psiformer"): "of slogdet, forward over reverse, under torch.no_grad()",
}
"""By framework and network: what PyTorch 2.13 differentiates wrongly, so that nested derivatives
cannot be timed."""


def bounded(spec: Spec) -> bool:
    """Whether nested differentiation is measured there; the others always are."""
    if spec.method == "nested" and (spec.framework, spec.network) in WRONG:
        return False
    key = (ALIKE.get(spec.experiment, spec.experiment), spec.operator)
    bounds, _ = BOUNDS.get(key, ({}, ""))
    unbounded = spec.method != "nested" or spec.framework not in bounds
    return unbounded or bool(spec.value <= bounds[spec.framework])


@cache
def distinct(spec: Spec) -> bool:
    """Whether a method carries something else than `minimal`, or is that.

    Collapsed Taylor mode of a Laplacian is the minimal algebra, and in one dimension so is every
    Taylor mode.
    """
    operator, n = operator_of(spec, np.asarray), min(spec.chunk or spec.dimension, spec.dimension)
    found = carried(operator, n, spec.method)
    least = carried(operator, n, "minimal")
    return spec.method == "minimal" or found != least


# ------------------------------------------------------------------ grids

KINDS = ("mlp", "resnet", "transformer", "fno")
CHEAP: Sequence[str] = ("nested", "minimal")
"""Where compiling is most of the time."""

SOME_K, ALL_K, LAPLACIANS = (1, 2, 4, 8), tuple(range(1, 11)), (2, 4, 6)
"""Orders of ∂ₓᵏ, and of Δ, Δ² and Δ³."""

DECADES, WIDTHS = (1, 10, 100, 1000, 10_000), (1 / 16, 1 / 4, 1 / 2, 1.0, 2.0)

Fixed: TypeAlias = dict[str, Any]
LITTLE: Fixed = {"dimension": 10, "batch": 16}
FOURTH: Fixed = {"dimension": 3, "batch": 8}
PLANE: Fixed = {"dimension": 2, "batch": 8}
FIELD: Fixed = {"dimension": 4, "batch": 8}
ELECTRONS: Fixed = {"dimension": 12, "batch": 16}
"""Four of them, for all kinds of network."""


def errors(
    orders: Sequence[int],
    laplacians: Sequence[int],
    modes: Sequence[tuple[str, str]],
    dtypes: Sequence[str] = ("float32", "float64"),
) -> Iterator[Sweep]:
    """Of all methods, on a small network and on a function in closed form; mpmath knows both.

    In float64 they show that a float32 error is one of rounding.
    """
    for network in ("small", "ripple"):
        for dtype in dtypes:
            fixed = {"batch": 4, "network": network, "dtype": dtype}
            yield Sweep("error", "d_x^k", "order", orders, fixed, modes, every=True)
            plane = fixed | {"dimension": 2}
            yield Sweep("error", "laplacian^k", "order", laplacians, plane, modes, every=True)


def quick() -> list[Sweep]:
    """Three minutes on two cores. What takes JAX long to compile is measured in PyTorch alone."""
    return [
        Sweep("dimension", "laplacian", "dimension", (1, 10, 100), {"batch": 4}),
        Sweep("dimension", "biharmonic", "dimension", (2, 4, 8), {"batch": 4}, [EAGER]),
        Sweep("dimension", "biharmonic", "dimension", (2, 5), {"batch": 4}, [JITTED]),
        Sweep("order", "d_x^k", "order", SOME_K, {"batch": 16}),
        Sweep("order", "laplacian^k", "order", LAPLACIANS, PLANE, [EAGER]),
        Sweep("depth", "laplacian", "depth", (1, 4), LITTLE, [EAGER]),
        Sweep("depth", "biharmonic", "depth", (1, 4), FOURTH, [EAGER]),
        Sweep("width", "laplacian", "width", (1 / 16, 1 / 4, 1.0), LITTLE, [EAGER]),
        Sweep("width", "biharmonic", "width", (1 / 16, 1.0), FOURTH, [EAGER]),
        Sweep("kinds", "laplacian", "network", (*KINDS, "psiformer"), ELECTRONS, [EAGER]),
        Sweep("kinds", "laplacian", "network", KINDS, ELECTRONS, [JITTED], CHEAP),
        Sweep("kinds", "biharmonic", "network", KINDS, FIELD, [EAGER]),
        *errors((2, 5, 8), LAPLACIANS, [EAGER], ("float32",)),
        *errors((2, 4, 8), (2, 4), [JITTED], ("float32",)),
        Sweep("compile", "laplacian^k", "order", (2, 4), PLANE, [JITTED]),
    ]


def default() -> list[Sweep]:
    """Twenty minutes on two cores."""
    return [
        Sweep("dimension", "laplacian", "dimension", (1, 3, 10, 30, 100, 300, 1000), {"batch": 4}),
        Sweep("dimension", "biharmonic", "dimension", (2, 3, 5, 8, 12, 20), {"batch": 4}, [EAGER]),
        Sweep("dimension", "biharmonic", "dimension", (2, 3, 5, 8), {"batch": 4}, [JITTED]),
        Sweep("order", "d_x^k", "order", ALL_K, {"batch": 32}),
        *(
            Sweep("order", "laplacian^k", "order", LAPLACIANS, {"dimension": n, "batch": 16})
            for n in (2, 3)
        ),
        Sweep("depth", "laplacian", "depth", (1, 2, 4, 8), LITTLE),
        Sweep("depth", "biharmonic", "depth", (1, 2, 4, 8), FOURTH),
        Sweep("width", "laplacian", "width", (1 / 16, 1 / 4, 1 / 2, 1.0), LITTLE),
        Sweep("width", "biharmonic", "width", (1 / 16, 1 / 4, 1 / 2, 1.0), FOURTH),
        Sweep("kinds", "laplacian", "network", (*KINDS, "psiformer"), ELECTRONS),
        Sweep("kinds", "biharmonic", "network", KINDS, FIELD, [EAGER]),
        Sweep("kinds", "biharmonic", "network", ("mlp", "resnet"), FIELD, [JITTED]),
        *errors(ALL_K, LAPLACIANS, [EAGER]),
        *errors((1, 2, 4, 6, 8, 10), (2, 4), [JITTED]),
        Sweep("compile", "d_x^k", "order", (1, 2, 4, 8), {"batch": 16}, [JITTED]),
        Sweep("compile", "d_x^k", "order", (1, 2, 4), {"batch": 16}, [COMPILED]),
        Sweep("compile", "laplacian^k", "order", LAPLACIANS, PLANE, [JITTED]),
        Sweep("compile", "laplacian^k", "order", (2, 4), PLANE, [COMPILED]),
    ]


def full() -> list[Sweep]:
    """Hours on two cores: further, with the batches that a GPU wants, also compiled."""
    every, wide = (*BOTH, COMPILED), {"batch": 64}
    return [
        Sweep("dimension", "laplacian", "dimension", DECADES, {"batch": 4}, every),
        Sweep("dimension", "biharmonic", "dimension", (2, 3, 5, 8, 12, 16, 20), {"batch": 16}),
        Sweep("order", "d_x^k", "order", ALL_K, wide, every),
        *(
            Sweep("order", "laplacian^k", "order", LAPLACIANS, wide | {"dimension": n}, every)
            for n in (2, 3)
        ),
        Sweep("depth", "laplacian", "depth", (1, 2, 4, 8, 16), wide | {"dimension": 50}, every),
        Sweep("depth", "biharmonic", "depth", (1, 2, 4, 8, 16), wide | {"dimension": 5}, every),
        Sweep("width", "laplacian", "width", WIDTHS, wide | {"dimension": 50}, every),
        Sweep("width", "biharmonic", "width", WIDTHS, wide | {"dimension": 5}, every),
        Sweep("kinds", "laplacian", "network", (*KINDS, "psiformer"), ELECTRONS | wide, every),
        Sweep("kinds", "biharmonic", "network", KINDS, FIELD | wide),
        *errors(ALL_K, LAPLACIANS, BOTH),
        Sweep("compile", "d_x^k", "order", ALL_K, {"batch": 16}, [JITTED, COMPILED]),
        Sweep("compile", "laplacian^k", "order", LAPLACIANS, PLANE, [JITTED, COMPILED]),
    ]


GRIDS: Mapping[str, tuple[Callable[[], list[Sweep]], How]] = {
    "quick": (quick, How(budget=0.2, least=3, most=10, memory=False)),
    "default": (default, How(budget=1.0, least=5, most=30, memory=False)),
    "full": (full, How(budget=5.0, least=5, most=50, memory=False, patience=1800.0)),
}
"""By name: what is measured, and how each point."""


def grid(size: str, frameworks: Sequence[str], device: str) -> list[Group]:
    """All groups of a grid, of these frameworks; of errors and compilation, times hardly matter."""
    sweeps, how = GRIDS[size]
    once = replace(how, budget=0.0, least=1, most=1, limit=False)
    return [
        (sweep.specs(mode, value, device), once if sweep.experiment in ALIKE else how)
        for sweep in sweeps()
        for mode in sweep.modes
        if mode[0] in frameworks
        for value in sweep.values
    ]
