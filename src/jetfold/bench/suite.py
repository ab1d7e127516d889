"""Which operators are measured, by which methods, and what is recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..core.directions import powers
from ..core.polynomial import in_coordinates
from ..explain import explain
from ..named import biharmonic, laplacian, weighted_laplacian
from ..operators import partials
from ..transform import METHODS as ALL_METHODS
from .backends import PEERS, REWRITTEN, Backend, Powers
from .measure import Timing, once, take_turns
from .networks import mlp

METHODS = tuple(reversed(ALL_METHODS))
"""nested first: the others are compared with it."""

MODES = ("eager", "compiled")

REFERENCE_POINTS = 32
"""How many points of the batch are compared with float64."""

TOLERANCE = {"float32": 1e-5, "float64": 1e-11}
"""The largest relative error that passes, by dtype."""


@dataclass(frozen=True)
class Case:
    """An operator in a number of coordinates.

    Attributes:
        label: what it is called in tables.
        operator: from a converter of numpy arrays to arrays of the framework to the transform.
        vectors: how many vectors the methods carry.
        powers: the operator as a weighted sum of powers of directions, if it is homogeneous.
    """

    label: str
    dimension: int
    operator: Callable[[Callable[[np.ndarray], Any]], Callable[..., Any]]
    vectors: Mapping[str, int]
    powers: Powers | None = None


def _laplacian(dimension: int, seed: int) -> Case:
    vectors = explain(laplacian, dimension).vectors
    sum_of_squares = Powers(np.eye(dimension), np.ones(dimension), 2)
    return Case("Laplacian", dimension, lambda _: laplacian, vectors, sum_of_squares)


def _weighted_laplacian(dimension: int, seed: int) -> Case:
    """Tr(σσᵀ∇²f) with a constant σ of full rank, and so what the Laplacian carries."""
    sigma = np.random.default_rng(seed).normal(size=(dimension, dimension)) / dimension**0.5
    sigma = sigma.astype(np.float32)
    vectors = explain(laplacian, dimension).vectors
    return Case(
        "weighted Laplacian",
        dimension,
        lambda array: weighted_laplacian(sigma=array(sigma)),
        vectors,
        Powers(np.ascontiguousarray(sigma.T), np.ones(dimension), 2),
    )


def _biharmonic(dimension: int, seed: int) -> Case:
    vectors = explain(biharmonic, dimension).vectors
    found = list(powers(in_coordinates(biharmonic.symbol, dimension)))
    directions = np.zeros((len(found), dimension))
    for row, (direction, _) in zip(directions, found, strict=True):
        for coordinate, component in direction:
            row[coordinate] = component
    weights = np.array([float(weight) for _, weight in found])
    fourth = Powers(directions, weights, 4)
    return Case("biharmonic", dimension, lambda _: biharmonic, vectors, fourth)


def _kadomtsev_petviashvili(dimension: int, seed: int) -> Case:
    """∂_t∂_x + ∂_x⁴ + 3∂_y², the linear part of the Kadomtsev-Petviashvili equation."""
    if dimension != 3:
        raise ValueError(f"kp has the coordinates t, x and y; its dimension is 3, not {dimension}")
    t, x, y = partials(3, names="t x y")
    operator = t * x + x**4 + 3 * y**2
    return Case("∂t∂x + ∂x⁴ + 3∂y²", 3, lambda _: operator, explain(operator).vectors)


OPERATORS: Mapping[str, tuple[int, Callable[[int, int], Case]]] = {
    "laplacian": (50, _laplacian),
    "weighted-laplacian": (50, _weighted_laplacian),
    "biharmonic": (5, _biharmonic),
    "kp": (3, _kadomtsev_petviashvili),
}
"""By name: the default number of coordinates, and (coordinates, seed) -> case."""


def check_known(kind: str, values: Sequence[str], known: Sequence[str]) -> None:
    """Refuse values of a setting that are not known, or none where some are needed."""
    wrong = [value for value in values if value not in known]
    if wrong or not (values or kind == "dimensions"):
        raise ValueError(
            f"{kind} must be among {', '.join(known)}; got {', '.join(wrong) or 'none'}"
        )


def check_sizes(settings: Any) -> None:
    """Refuse numbers that are too small."""
    sizes = [(f"the dimension of {name}", n) for name, n in settings.dimensions.items()]
    for name, value in (("batch", settings.batch), ("repeats", settings.repeats), *sizes):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if settings.width <= 0 or settings.budget < 0:
        raise ValueError("width must be positive and budget not negative")


@dataclass(frozen=True)
class Settings:
    """What to measure.

    Attributes:
        dimensions: the numbers of coordinates that differ from the default, by operator.
        width: a factor for the widths of the network.
        budget: seconds of timing per operator and mode.
        repeats: the exact number of timed calls, instead of the budget.
    """

    operators: Sequence[str] = tuple(OPERATORS)
    methods: Sequence[str] = METHODS
    modes: Sequence[str] = MODES
    dimensions: Mapping[str, int] = field(default_factory=dict)
    batch: int = 128
    width: float = 1.0
    budget: float = 3.0
    repeats: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for kind, values, known in (
            ("operators", self.operators, tuple(OPERATORS)),
            ("methods", self.methods, (*METHODS, REWRITTEN, *PEERS)),
            ("modes", self.modes, MODES),
            ("dimensions", tuple(self.dimensions), tuple(OPERATORS)),
        ):
            check_known(kind, values, known)
        check_sizes(self)

    def case(self, name: str) -> Case:
        """The case of an operator."""
        dimension, make = OPERATORS[name]
        return make(self.dimensions.get(name, dimension), self.seed)

    @property
    def steps(self) -> int:
        """How many things are prepared or timed: the length of a progress bar."""
        return len(self.operators) * len(self.modes) * (len(self.methods) + 1)


def defaults(backend: Backend) -> dict[str, Any]:
    """Settings that depend on the framework: everything that it has."""
    return {"methods": (*METHODS, REWRITTEN, *backend.peers), "modes": tuple(backend.modes)}


@dataclass(frozen=True)
class Row:
    """One method on one operator in one mode.

    Attributes:
        vectors: how many vectors are carried; None for nested differentiation and for peers.
        compile_s: the time of the first call in the mode "compiled".
        time: seconds per evaluation.
        speedup: against nested differentiation in the same mode.
        limit: seconds of one plain forward pass on batch × vectors rows in the same mode.
        relative_error: largest |error| / largest |value|, against nested differentiation in
            float64, on the first points of the batch.
    """

    operator: str
    label: str
    dimension: int
    method: str
    mode: str
    vectors: int | None
    compile_s: float | None
    time: Timing
    speedup: float | None
    limit: float | None
    relative_error: float

    @property
    def over_limit(self) -> float | None:
        """time / limit."""
        return None if self.limit is None else self.time.median / self.limit


@dataclass(frozen=True)
class Outcome:
    """All rows, and what could not be measured, with the reason."""

    rows: tuple[Row, ...]
    failures: tuple[str, ...] = ()

    def too_inexact(self, dtype: str) -> list[Row]:
        """The rows whose error exceeds the tolerance. (Not a number exceeds it too.)"""
        return [row for row in self.rows if not row.relative_error <= TOLERANCE[dtype]]


def run(
    settings: Settings,
    backend: Backend,
    advance: Callable[[str, int], object] = lambda text, steps: None,
) -> Outcome:
    """Measure everything.

    Args:
        advance: called with what happens next and with the number of steps just completed.
    """
    rows: list[Row] = []
    failures: list[str] = []
    cases = {name: settings.case(name) for name in settings.operators}
    for name, case in cases.items():
        exact = None  # the reference serves both modes
        for mode in settings.modes:
            with backend.inference():
                if exact is None:
                    exact = _reference(case, backend, settings)
                found, failed = _measure(name, case, mode, settings, backend, exact, advance)
            rows += found
            failures += failed
            backend.forget()
    return Outcome(tuple(rows), tuple(failures))


def _measure(
    name: str,
    case: Case,
    mode: str,
    settings: Settings,
    backend: Backend,
    exact: np.ndarray,
    advance: Callable[[str, int], object],
) -> tuple[list[Row], list[str]]:
    """All methods on one operator in one mode, taking turns with the forward passes."""
    points, layers = _points(case, settings), mlp(case.dimension, settings.width, settings.seed)
    rng = np.random.default_rng(settings.seed + 2)
    network, x = backend.network(layers), backend.array(points)
    operator = case.operator(backend.array)

    calls: dict[str, Callable[[], object]] = {}
    errors: dict[str, float] = {}
    compile_s: dict[str, float | None] = {}
    failures = []
    for method in settings.methods:
        advance(f"{case.label}, {mode}: {method}", 0)
        function: Any = None
        if method in PEERS:
            function = backend.peer(method, name, case.powers, network)
        elif method == REWRITTEN:
            if mode == "compiled" and name == "laplacian" and case.powers is not None:
                function = backend.nested_jvp(case.powers, network)
        else:
            function = operator(network, batch_dims=1, method=method)
        if function is None:
            advance(f"{case.label}, {mode}: {method}", 1)
            continue
        if mode == "compiled":
            function = backend.compiled(function, rewrite=method == REWRITTEN)
        call = waited(backend, function, x)
        try:
            seconds, result = once(call)
            value = backend.numpy(result)[:REFERENCE_POINTS]
        except Exception as error:  # one that fails to compile must not cost the other results
            failures.append(failure(f"{case.label}, {method}, {mode}", error))
        else:
            calls[method] = call
            errors[method] = float(np.abs(value - exact).max() / np.abs(exact).max())
            compile_s[method] = seconds if mode == "compiled" else None
        advance(f"{case.label}, {mode}: {method}", 1)

    advance(f"{case.label}, {mode}: timing", 0)
    as_many = {REWRITTEN: "collapsed"}  # what the pass makes of second derivatives
    vectors = {method: case.vectors.get(as_many.get(method, method)) for method in calls}
    for rows_each in sorted({count for count in vectors.values() if count is not None}):
        forward = backend.compiled(network) if mode == "compiled" else network
        z = backend.array(rng.normal(size=(settings.batch * rows_each, case.dimension)))
        calls[_limit(rows_each)] = waited(backend, forward, z)
    timings = timed(calls, settings.budget, settings.repeats)
    advance(f"{case.label}, {mode}: timing", 1)

    rows = []
    for method, count in vectors.items():
        timing, nested = timings[method], timings.get("nested")
        rows.append(
            Row(
                operator=name,
                label=case.label,
                dimension=case.dimension,
                method=method,
                mode=mode,
                vectors=count,
                compile_s=compile_s[method],
                time=timing,
                speedup=None if nested is None else nested.median / timing.median,
                limit=None if count is None else timings[_limit(count)].median,
                relative_error=errors[method],
            )
        )
    return rows, failures


def failure(what: str, error: Exception) -> str:
    """What could not be measured, and the first line of the reason."""
    return f"{what}: {type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def timed(
    calls: Mapping[str, Callable[[], object]], budget: float, repeats: int | None
) -> dict[str, Timing]:
    """The calls in turns, for so many seconds or exactly so many times."""
    if repeats is None:
        return take_turns(calls, budget=budget)
    return take_turns(calls, budget=budget, least=repeats, most=repeats, single=True)


def _limit(vectors: int) -> str:
    return f"forward pass on {vectors} vectors"


def waited(backend: Backend, function: Callable[..., Any], *arguments: Any) -> Callable[[], Any]:
    """A call that returns when the device is done."""

    def call() -> Any:
        result = function(*arguments)
        backend.wait(result)
        return result

    return call


def _points(case: Case, settings: Settings) -> np.ndarray:
    """The batch of points, as float32 numbers."""
    rng = np.random.default_rng(settings.seed + 1)
    return rng.normal(size=(settings.batch, case.dimension)).astype(np.float32)


def _reference(case: Case, backend: Backend, settings: Settings) -> np.ndarray:
    """Nested differentiation in float64 of the same network at the first points."""
    layers = mlp(case.dimension, settings.width, settings.seed)

    def array(values: np.ndarray) -> Any:
        return backend.array(values, "float64")

    function = case.operator(array)(
        backend.network(layers, "float64"), batch_dims=1, method="nested"
    )
    return backend.numpy(function(array(_points(case, settings)[:REFERENCE_POINTS])))
