"""What training pays for: a step, that is, the gradient of a loss of derivatives to all parameters.

Two operators of the network of Dangel et al. (2025), and residuals of differential equations of the
small networks that physics-informed training uses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial, reduce
from operator import add
from time import perf_counter
from typing import Any

import numpy as np

from ..derivatives import tree_leaves
from .backends import Backend, Loss
from .measure import Outcome, Timing, inexact, once
from .networks import HIDDEN, Layer, mlp, widths
from .problems import EQUATIONS, LIMIT, METHODS, NAMED, Equation, Named, Problem, Residuals
from .suite import MODES, check_known, check_sizes, failure, timed, waited

TOLERANCE = {"float32": 1e-4, "float64": 1e-10}
"""The largest relative error of a gradient that passes, by dtype."""

COMPILED_NESTED = 2
"""The highest order at which PyTorch compiles nested differentiation within minutes."""

WARM = 0.1
"""Seconds of calls before what is kept is counted, at most."""

# ------------------------------------------------------------------ cases

NETWORKS = {"20x3": (20,) * 3, "64x4": (64,) * 4, "128x4": (128,) * 4}
"""The hidden widths of the networks that solve equations."""


@dataclass(frozen=True)
class Case:
    """A problem, a network and a batch.

    Attributes:
        network: what it is called in tables.
    """

    operator: str
    problem: Problem
    network: str
    dimension: int
    hidden: tuple[int, ...]
    points: int

    @property
    def label(self) -> str:
        """For messages."""
        return f"{self.problem.label}, {self.network}, {self.points} points"

    @property
    def activations(self) -> int:
        """How many numbers one set of activations has: the hidden layers at all points."""
        return self.points * sum(self.hidden)

    def layers(self, seed: int) -> list[Layer]:
        """Of the network."""
        return mlp(self.dimension, 1.0, seed, self.hidden, self.problem.outputs)

    def x(self, seed: int, rows: int = 1) -> np.ndarray:
        """For each point of the batch so many rows, as float32 numbers."""
        rng = np.random.default_rng(seed + rows)
        return rng.normal(size=(rows * self.points, self.dimension)).astype(np.float32)


# ------------------------------------------------------------------ settings and rows

QUICK: Mapping[str, Any] = {
    "networks": ("20x3",),
    "points": (200,),
    "batch": 16,
    "width": 0.125,
    "repeats": 2,
}
"""The settings of --quick, where others are not given."""


@dataclass(frozen=True)
class Settings:
    """What to measure.

    Attributes:
        dimensions: of the named operators, where they differ from the default.
        networks, points: of the equations.
        batch, width: of the named operators: points, and a factor for the widths of the network.
        memory: 10⁹ bytes, for which is told how many points fit.
        budget: seconds of timing per case.
        repeats: the exact number of timed calls, instead of the budget.
    """

    operators: Sequence[str] = (*NAMED, *EQUATIONS)
    methods: Sequence[str] = METHODS
    modes: Sequence[str] = MODES
    dimensions: Mapping[str, int] = field(default_factory=dict)
    networks: Sequence[str] = tuple(NETWORKS)
    points: Sequence[int] = (1000, 5000)
    batch: int = 128
    width: float = 1.0
    memory: float = 8.0
    budget: float = 3.0
    repeats: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for kind, values, known in (
            ("operators of --training", self.operators, (*NAMED, *EQUATIONS)),
            ("methods of --training", self.methods, METHODS),
            ("modes", self.modes, MODES),
            ("dimensions", tuple(self.dimensions), tuple(NAMED)),
            ("networks of --training", self.networks, tuple(NETWORKS)),
        ):
            check_known(kind, values, known)
        check_sizes(self)
        if not self.points or min(self.points) < 1:
            raise ValueError(f"points must be whole numbers, 1 or more; got {self.points}")
        if self.memory <= 0:
            raise ValueError(f"memory must be positive, in GB; got {self.memory}")

    def cases(self, name: str) -> list[Case]:
        """Those of an operator or an equation."""
        if name in NAMED:
            dimension, problem = NAMED[name]
            dimension = self.dimensions.get(name, dimension)
            hidden = widths(dimension, self.width, HIDDEN)[1:-1]
            return [Case(name, problem, f"D = {dimension}", dimension, hidden, self.batch)]
        equation = EQUATIONS[name]
        return [
            Case(name, equation, network, equation.coordinates, NETWORKS[network], points)
            for network in self.networks
            for points in self.points
            # one network is enough to see what further outputs change
            if equation.outputs == 1 or network == self.networks[len(self.networks) // 2]
        ]

    def ways(self, case: Case) -> list[tuple[str, str]]:
        """The modes and methods of a case."""
        return [
            (mode, method)
            for mode in self.modes
            for method in case.problem.methods
            if method in self.methods
        ]

    @property
    def steps(self) -> int:
        """How many things are prepared or timed: the length of a progress bar."""
        cases = [case for name in self.operators for case in self.cases(name)]
        return sum(len(self.ways(case)) + 2 for case in cases)


def defaults(backend: Backend) -> dict[str, Any]:
    """Settings that depend on the framework: everything that it has."""
    methods = tuple(m for m in METHODS if m != "folx" or m in backend.peers)
    return {"methods": methods, "modes": tuple(backend.modes)}


@dataclass(frozen=True)
class Row:
    """One method on one case in one mode.

    Attributes:
        vectors: how many are carried (limit: those of `minimal`); None for nested differentiation
            and peers.
        value: seconds for the residuals alone; None for the limit.
        time: seconds per step.
        speedup: of a step, against nested differentiation in the first mode (PyTorch: eager).
        over_limit: of a step, time / time of the limit in the same mode.
        kept, half: bytes kept, with all points and with half of them (where that was measured).
        sets: kept, in sets of activations.
        peak: bytes that a step needs at most beyond what was there.
        compile_s: the time of the first step in the mode "compiled".
        relative_error: largest |error| / largest |value| of the gradients, against nested
            differentiation in float64; None for the limit.
    """

    operator: str
    label: str
    network: str
    points: int
    method: str
    mode: str
    vectors: int | None
    value: Timing | None
    time: Timing
    speedup: float | None
    over_limit: float | None
    kept: int | None
    half: int | None
    sets: float | None
    peak: int | None
    compile_s: float | None
    relative_error: float | None

    def fits(self, memory: float) -> int | None:
        """The most points for which so many bytes are enough."""
        if not self.kept:
            return None
        each, fixed = self.kept / self.points, 0.0
        if self.half is not None:
            less = self.points // 2
            each = (self.kept - self.half) / (self.points - less)
            fixed = self.kept - each * self.points
        return max(0, int((memory - fixed) / each)) if each > 0 else None

    def problem(self, dtype: str) -> str:
        """Why the gradient is wrong, else "". (Not a number is wrong too.)"""
        where = f"{self.network}, {self.points} points, {self.method}, {self.mode}"
        allowed = TOLERANCE[dtype]
        return inexact(f"{self.label}, {where}", self.relative_error, allowed, dtype, "gradient")


def run(
    settings: Settings,
    backend: Backend,
    advance: Callable[[str, int], object] = lambda text, steps: None,
) -> Outcome[Row]:
    """Measure everything.

    Args:
        advance: called with what happens next and with the number of steps just completed.
    """
    rows: list[Row] = []
    failures: list[str] = []
    cold = backend.cold() if "compiled" in settings.modes else nullcontext()
    with cold, backend.doubles() if backend.dtype == "float64" else nullcontext():
        for name in settings.operators:
            for case in settings.cases(name):
                with backend.alone() if isinstance(case.problem, Equation) else nullcontext():
                    found, failed = _measure(case, settings, backend, advance)
                rows += found
                failures += failed
                backend.forget()
    return Outcome(tuple(rows), tuple(failures))


# ------------------------------------------------------------------ measuring


@dataclass(frozen=True)
class _Prepared:
    """A method that is ready to be timed: the calls, and what the row says beside the times."""

    step: Callable[[], Any]
    value: Callable[[], Any] | None
    facts: Mapping[str, Any]


def _measure(
    case: Case,
    settings: Settings,
    backend: Backend,
    advance: Callable[[str, int], object],
) -> tuple[list[Row], list[str]]:
    """All methods in all modes on one case, taking turns."""
    advance(f"{case.label}: float64", 0)
    exact = _reference(case, settings, backend)
    advance(f"{case.label}: float64", 1)

    ready: dict[tuple[str, str], _Prepared] = {}
    failures = []
    for mode, method in settings.ways(case):
        text = f"{case.label}, {mode}: {method}"
        advance(text, 0)
        try:
            if _measured(case, backend, mode, method):
                ready[mode, method] = _prepare(case, settings, backend, mode, method, exact)
        except Exception as error:  # one that fails to compile must not cost the other results
            failures.append(failure(f"{case.label}, {method}, {mode}", error))
        advance(text, 1)

    advance(f"{case.label}: timing", 0)
    calls = {f"{mode}, {method}: step": one.step for (mode, method), one in ready.items()}
    for (mode, method), one in ready.items():
        if one.value is not None:
            calls[f"{mode}, {method}: value"] = one.value
    timings = timed(calls, settings.budget, settings.repeats)
    advance(f"{case.label}: timing", 1)

    def step(mode: str, method: str) -> Timing | None:
        return timings.get(f"{mode}, {method}: step")

    vectors = case.problem.vectors(case.dimension)
    rows = [
        Row(
            operator=case.operator,
            label=case.problem.label,
            network=case.network,
            points=case.points,
            method=method,
            mode=mode,
            vectors=vectors["minimal"] if method == LIMIT else vectors.get(method),
            value=timings.get(f"{mode}, {method}: value"),
            time=timings[f"{mode}, {method}: step"],
            speedup=_ratio(step(settings.modes[0], "nested"), step(mode, method)),
            over_limit=_ratio(step(mode, method), step(mode, LIMIT)),
            **one.facts,
        )
        for (mode, method), one in ready.items()
    ]
    return rows, failures


def _measured(case: Case, backend: Backend, mode: str, method: str) -> bool:
    """Whether there is such a method, and it is worth the time."""
    if method == "folx":
        return "folx" in backend.peers
    minutes = mode == "compiled" and len(backend.modes) > 1  # for PyTorch to compile
    if minutes and method == "nested":
        return case.problem.order <= COMPILED_NESTED
    return not (minutes and method == "collapsed")


def _ratio(a: Timing | None, b: Timing | None) -> float | None:
    return None if a is None or b is None else a.median / b.median


def _prepare(
    case: Case,
    settings: Settings,
    backend: Backend,
    mode: str,
    method: str,
    exact: Sequence[np.ndarray],
) -> _Prepared:
    """Compile a method, compare its gradient, and find what it keeps."""
    compiled = mode == "compiled"
    parameters, apply = backend.trainable(case.layers(settings.seed))
    rows = case.problem.vectors(case.dimension)["minimal"] if method == LIMIT else 1
    x = backend.array(case.x(settings.seed, rows))
    residuals = _residuals(case, backend, method, compiled)
    loss = _loss(residuals, apply)

    def first() -> tuple[Any, Any]:
        step = backend.step(loss, parameters, x, compiled)
        gradients = step(parameters, x)
        backend.wait(gradients)
        return step, gradients

    seconds, (step, gradients) = once(first)
    call = waited(backend, step, parameters, x)
    value = None
    if method != LIMIT:
        of_points = backend.value(
            lambda parameters, x: residuals(partial(apply, parameters), x), parameters, compiled
        )
        value = waited(backend, of_points, x)
    _warm(call, backend.warm_calls)
    kept, half = step.kept(parameters, x), None
    if mode == settings.modes[0] and case.points > 1 and isinstance(case.problem, Named):
        half = step.kept(parameters, x[: case.points // 2 * rows])
    width = np.dtype(backend.dtype).itemsize
    facts = {
        "kept": kept,
        "half": half,
        "sets": None if kept is None else kept / (width * case.activations),
        "peak": backend.peak(call),
        "compile_s": seconds if compiled else None,
        "relative_error": None if method == LIMIT else _error(_numbers(backend, gradients), exact),
    }
    return _Prepared(call, value, facts)


def _warm(call: Callable[[], Any], calls: int) -> None:
    """As often as small networks are evaluated before what they keep stays the same; large ones
    keep the same from the start."""
    start = perf_counter()
    for _ in range(calls):
        if perf_counter() - start < WARM:
            call()


def _residuals(case: Case, backend: Backend, method: str, compiled: bool) -> Residuals:
    if method == LIMIT:
        return lambda network, x: [network(x)]
    return case.problem.residuals(backend, method, compiled)


def _loss(residuals: Residuals, apply: Callable[[Any, Any], Any]) -> Loss:
    """The sum of the mean squares of all residuals."""

    def loss(parameters: Any, x: Any) -> Any:
        found = residuals(partial(apply, parameters), x)
        return reduce(add, [(r * r).mean() for r in found])

    return loss


def _numbers(backend: Backend, gradients: Any) -> list[np.ndarray]:
    return [backend.numpy(gradient) for gradient in tree_leaves(gradients)]


def _error(found: Sequence[np.ndarray], exact: Sequence[np.ndarray]) -> float:
    """Of all gradients together."""
    off = max(np.abs(a - b).max() for a, b in zip(found, exact, strict=True))
    return float(off / max(np.abs(b).max() for b in exact))


PIECE = 2**15
"""The reference takes pieces of the batch with at most so many activations in a set."""


def _reference(case: Case, settings: Settings, backend: Backend) -> list[np.ndarray]:
    """The gradient by nested differentiation in float64, in equal pieces of the batch."""
    most = max(1, PIECE // sum(case.hidden))
    size = max(n for n in range(1, case.points + 1) if case.points % n == 0 and n <= most)
    with backend.doubles():
        parameters, apply = backend.trainable(case.layers(settings.seed), "float64")
        x = backend.array(case.x(settings.seed), "float64")
        loss = _loss(_residuals(case, backend, "nested", compiled=False), apply)
        step = backend.step(loss, parameters, x[:size], compiled=False)
        pieces = [
            _numbers(backend, step(parameters, x[start : start + size]))
            for start in range(0, case.points, size)
        ]
    return [np.mean(of_parameter, axis=0) for of_parameter in zip(*pieces, strict=True)]
