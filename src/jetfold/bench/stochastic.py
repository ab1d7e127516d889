"""Operators estimated from random directions, and operators in very many coordinates."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from ..core import plans
from ..core.directions import scheme
from ..named import biharmonic, laplacian
from ..operators import Operator
from ..randomized import Randomized, randomize
from ..warn import JetfoldWarning
from .backends import Backend
from .measure import Outcome, Timing, inexact, once
from .networks import Layer, mlp
from .suite import METHODS, MODES, TOLERANCE, check_known, check_sizes, failure, timed, waited

OPERATORS: Mapping[str, tuple[str, int, Operator]] = {
    "laplacian": ("Laplacian", 50, laplacian),
    "biharmonic": ("biharmonic", 5, biharmonic),
}
"""Those measured for every number of samples: label, default dimension, operator."""

LARGE: Mapping[str, tuple[str, int]] = {
    "randomized-laplacian": ("randomized Laplacian", 100_000),
    "chunked-laplacian": ("exact Laplacian in chunks", 10_000),
}
"""Those in very many coordinates: label and default dimension."""

SAMPLES = (1, 2, 4, 8, 16, 32, 64)
NESTED_UP_TO = {"laplacian": 64, "biharmonic": 8}
"""Nested differentiation of the biharmonic takes a chain of four per direction: a program that
takes minutes to compile, and seconds to run."""

LARGE_SAMPLES, CHUNK = 16, 100
LARGE_HIDDEN, LARGE_BATCH = 64, 4
"""Of the network D → 64 → 1, and how many points it is evaluated at."""

DIRECTIONS, FEWEST = 32, 8
"""The error is that of so many directions in total, but of so many draws at least."""

FAR = 6.0
"""An estimate that many standard errors from the exact value is wrong."""


@dataclass(frozen=True)
class Settings:
    """What to measure.

    Attributes:
        samples: the numbers S of directions.
        dimensions: the numbers of coordinates that differ from the default, by operator.
        width: a factor for the widths of the networks.
        budget: seconds of timing per operator, mode and number of samples.
        repeats: the exact number of timed calls, instead of the budget.
    """

    operators: Sequence[str] = (*OPERATORS, *LARGE)
    methods: Sequence[str] = METHODS
    modes: Sequence[str] = MODES
    samples: Sequence[int] = SAMPLES
    dimensions: Mapping[str, int] = field(default_factory=dict)
    batch: int = 128
    width: float = 1.0
    budget: float = 1.0
    repeats: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        known = (*OPERATORS, *LARGE)
        check_known("operators of --stochastic", self.operators, known)
        check_known("methods of --stochastic", self.methods, METHODS)
        check_known("modes", self.modes, MODES)
        check_known("dimensions", tuple(self.dimensions), known)
        check_sizes(self)

    def methods_of(self, operator: str, samples: int) -> list[str]:
        """The methods that are measured with so many samples."""
        return [m for m in self.methods if m != "nested" or samples <= NESTED_UP_TO[operator]]

    @property
    def large(self) -> list[str]:
        """The operators in very many coordinates."""
        return [name for name in self.operators if name in LARGE]

    @property
    def large_batch(self) -> int:
        """How many points those are evaluated at."""
        return min(self.batch, LARGE_BATCH)

    @property
    def large_hidden(self) -> int:
        """The hidden width of their network."""
        return max(1, round(LARGE_HIDDEN * self.width))

    @property
    def steps(self) -> int:
        """How many things are prepared or timed: the length of a progress bar."""
        named = [name for name in self.operators if name in OPERATORS]
        of_samples = sum(len(self.methods_of(name, s)) + 1 for name in named for s in self.samples)
        return (of_samples + len(self.large)) * len(self.modes)


def defaults(backend: Backend) -> dict[str, Any]:
    """Settings that depend on the framework: of its modes the first, which prepares fastest.

    PyTorch is measured eagerly: compiling every case would take longer than measuring it.
    """
    return {"modes": tuple(backend.modes[:1])}


@dataclass(frozen=True)
class Row:
    """One method with one number of samples.

    Attributes:
        samples: the number of directions; None in chunks.
        vectors: how many vectors are carried at once; None for nested differentiation.
        exact: whether nothing is random.
        compile_s: the time of the first call in the mode "compiled".
        time: seconds per evaluation.
        speedup: against nested differentiation with the same samples.
        over_collapsed: time / time of collapsed Taylor mode with the same samples.
        relative_error: root mean square of the error / of the exact value, over draws and points.
        standard_errors: how far the mean of the draws is from exact; None where exact.
        peak: the bytes that an evaluation needs at most, where that is measured.
    """

    operator: str
    label: str
    dimension: int
    samples: int | None
    method: str
    mode: str
    vectors: int | None
    exact: bool
    batch: int
    compile_s: float | None
    time: Timing
    speedup: float | None
    over_collapsed: float | None
    relative_error: float
    standard_errors: float | None
    peak: int | None = None

    @property
    def of(self) -> str:
        """What was measured, in words."""
        samples = "" if self.samples is None else f" with {self.samples} samples"
        return f"{self.label}{samples}, {self.method}, {self.mode}"

    def problem(self, dtype: str) -> str:
        """Why the value is wrong, else "". (Not a number is wrong too.)"""
        wrong = inexact(self.of, self.relative_error, TOLERANCE[dtype], dtype)
        if self.exact and wrong:
            return wrong
        if self.standard_errors is not None and not self.standard_errors <= FAR:
            return (
                f"{self.of}: the estimate is {self.standard_errors:.1f} standard errors off, more "
                f"than {FAR:g}"
            )
        return ""


def carried(estimate: Randomized, dimension: int, method: str) -> tuple[int | None, bool]:
    """The vectors of an estimate, and whether the exact operator is evaluated instead."""
    inner = estimate.base.variables(dimension)
    if plans.sources(estimate.symbols, inner, method) is None:
        return estimate.base.symbols.vectors(inner), True
    if method == "nested":
        return None, False
    return scheme(estimate.estimator(dimension).symbols, method).algebra.vectors, False


def draws(samples: int) -> int:
    """How often an estimate is drawn for its error."""
    return max(FEWEST, DIRECTIONS // samples)


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
    with warnings.catch_warnings(), backend.inference():
        warnings.filterwarnings("ignore", ".*which is evaluated instead", JetfoldWarning)
        for name in settings.operators:
            for mode in settings.modes:
                measure = _large if name in LARGE else _estimates
                found, failed = measure(name, mode, settings, backend, advance)
                rows += found
                failures += failed
    return Outcome(tuple(rows), tuple(failures))


# ------------------------------------------------------------------ over the number of samples


@dataclass(frozen=True)
class _Draws:
    """The values of one method with S samples.

    Attributes:
        values: Float[draws, points].
        share: ⟨value, exact⟩ / ⟨exact, exact⟩ over the points, per draw: one in the mean.
    """

    values: np.ndarray
    exact: np.ndarray
    samples: int

    @property
    def error(self) -> float:
        squares = np.mean((self.values - self.exact) ** 2) / np.mean(self.exact**2)
        return float(squares**0.5)

    @property
    def share(self) -> np.ndarray:
        share: np.ndarray = self.values @ self.exact / (self.exact @ self.exact)
        return share


def _estimates(
    name: str,
    mode: str,
    settings: Settings,
    backend: Backend,
    advance: Callable[[str, int], object],
) -> tuple[list[Row], list[str]]:
    """All methods with all numbers of samples on one operator in one mode."""
    label, default, operator = OPERATORS[name]
    dimension = settings.dimensions.get(name, default)
    layers = mlp(dimension, settings.width, settings.seed)
    points = _points(settings.batch, dimension, settings.seed)
    exact = _exact(operator, backend, layers, points)
    network, x = backend.network(layers), backend.array(points)

    found: list[tuple[Row, _Draws]] = []
    failures: list[str] = []
    for samples in settings.samples:
        title = f"{label}, {mode}, S = {samples}"
        estimate = randomize(operator, samples, "gaussian")
        calls: dict[str, Callable[[], object]] = {}
        drawn: dict[str, _Draws] = {}
        compile_s: dict[str, float | None] = {}
        for method in settings.methods_of(name, samples):
            advance(f"{title}: {method}", 0)
            evaluated = estimate(network, batch_dims=1, method=method)
            function = backend.sampled(evaluated, mode == "compiled")
            call = waited(backend, function, x, settings.seed)
            try:
                seconds, first = once(call)
                _, nothing_random = carried(estimate, dimension, method)
                count = 1 if nothing_random else draws(samples)
                others = [function(x, settings.seed + r) for r in range(1, count)]
                values = [backend.numpy(value) for value in (first, *others)]
            except Exception as error:  # one that fails must not cost the other results
                failures.append(failure(f"{title}, {method}", error))
            else:
                calls[method] = call
                drawn[method] = _Draws(np.stack(values)[..., 0], exact, samples)
                compile_s[method] = seconds if mode == "compiled" else None
            advance(f"{title}: {method}", 1)
        advance(f"{title}: timing", 0)
        timings = timed(calls, settings.budget, settings.repeats)
        advance(f"{title}: timing", 1)
        backend.forget()
        for method, timing in timings.items():
            vectors, nothing_random = carried(estimate, dimension, method)
            row = Row(
                operator=name,
                label=label,
                dimension=dimension,
                samples=samples,
                method=method,
                mode=mode,
                vectors=vectors,
                exact=nothing_random,
                batch=settings.batch,
                compile_s=compile_s[method],
                time=timing,
                speedup=_ratio(timings.get("nested"), timing),
                over_collapsed=_ratio(timing, timings.get("collapsed")),
                relative_error=drawn[method].error,
                standard_errors=None,
            )
            found.append((row, drawn[method]))
    return _with_standard_errors(found), failures


def _with_standard_errors(found: Sequence[tuple[Row, _Draws]]) -> list[Row]:
    """The rows, with their distance from the exact value.

    The variance of one direction is pooled over all rows, because few draws of few directions do
    not tell it: S directions have 1/S of it.
    """
    of_one = [d.samples * np.var(d.share, ddof=1) for row, d in found if not row.exact]
    deviation = float(np.mean(of_one)) ** 0.5 if of_one else 0.0
    rows = []
    for row, d in found:
        if not row.exact:
            standard_error = deviation / (d.samples * len(d.values)) ** 0.5
            off = float(abs(d.share.mean() - 1) / standard_error)
            row = replace(row, standard_errors=off)
        rows.append(row)
    return rows


def _exact(
    transform: Callable[..., Any], backend: Backend, layers: Sequence[Layer], points: np.ndarray
) -> np.ndarray:
    """Nested differentiation in float64, Float[points]."""
    function = transform(backend.network(layers, "float64"), batch_dims=1, method="nested")
    return backend.numpy(function(backend.array(points, "float64")))[:, 0]


def _points(batch: int, dimension: int, seed: int) -> np.ndarray:
    """The batch of points, as float32 numbers."""
    rng = np.random.default_rng(seed + 1)
    return rng.normal(size=(batch, dimension)).astype(np.float32)


def _ratio(a: Timing | None, b: Timing | None) -> float | None:
    return None if a is None or b is None else a.median / b.median


# ------------------------------------------------------------------ very many coordinates


def hessian_of_one_layer(layers: Sequence[Layer], points: np.ndarray) -> tuple[Any, Any]:
    """Trace and Frobenius norm of ∇²f for f(x) = a·tanh(Wx + b), Float[points] each.

    ∇²f = Σ_k c_k w_k w_kᵀ with c_k = a_k tanh''(w_k·x + b_k), and so Tr = Σ_k c_k |w_k|² and
    ‖∇²f‖² = Σ_kl c_k c_l (w_k·w_l)². Independent of every framework, in float64.
    """
    (matrix, bias), (last, _) = layers
    w = matrix.astype(np.float64)
    t = np.tanh(points.astype(np.float64) @ w.T + bias)
    c = last[0].astype(np.float64) * (-2 * t * (1 - t**2))
    gram = w @ w.T
    return c @ np.diag(gram), np.einsum("pk,pl,kl->p", c, c, gram**2) ** 0.5


def _large(
    name: str,
    mode: str,
    settings: Settings,
    backend: Backend,
    advance: Callable[[str, int], object],
) -> tuple[list[Row], list[str]]:
    """An operator in very many coordinates in one mode: one row."""
    label, default = LARGE[name]
    dimension = settings.dimensions.get(name, default)
    title = f"{label}, {mode}"
    advance(title, 0)
    layers = mlp(dimension, 1.0, settings.seed, hidden=(settings.large_hidden,))
    points = _points(settings.large_batch, dimension, settings.seed)
    exact, norm = hessian_of_one_layer(layers, points)
    network, x = backend.network(layers), backend.array(points)
    if name == "randomized-laplacian":
        samples: int | None = LARGE_SAMPLES
        estimate = randomize(laplacian, LARGE_SAMPLES, "gaussian")
        evaluated = estimate(network, batch_dims=1)
        function: Callable[..., Any] = partial(backend.sampled(evaluated, mode == "compiled"), x)
        vectors, nothing_random = carried(estimate, dimension, "minimal")
    else:
        samples, vectors, nothing_random = None, min(CHUNK, dimension) + 2, True
        chunked = laplacian(network, chunk_size=CHUNK, batch_dims=1)
        compiled = backend.compiled(chunked) if mode == "compiled" else chunked

        def function(seed: int) -> Any:
            return compiled(x)

    call = waited(backend, function, settings.seed)
    count = 1 if nothing_random else draws(LARGE_SAMPLES)
    try:
        seconds, first = once(call)
        others = [function(settings.seed + r) for r in range(1, count)]
        values = np.stack([backend.numpy(value) for value in (first, *others)])
        timing = timed({"minimal": call}, settings.budget, settings.repeats)["minimal"]
        peaks = [backend.peak(call) for _ in range(2)]
    except Exception as error:
        backend.forget()
        advance(title, 1)
        return [], [failure(title, error)]
    backend.forget()
    off = None
    if not nothing_random:  # Var = 2‖∇²f‖²/S for Gaussian directions
        standard_error = norm * (2 / (LARGE_SAMPLES * count)) ** 0.5
        off = float((abs(values[..., 0].mean(axis=0) - exact) / standard_error).max())
    row = Row(
        operator=name,
        label=label,
        dimension=dimension,
        samples=samples,
        method="minimal",
        mode=mode,
        vectors=vectors,
        exact=nothing_random,
        batch=settings.large_batch,
        compile_s=seconds if mode == "compiled" else None,
        time=timing,
        speedup=None,
        over_collapsed=None,
        relative_error=_Draws(values[..., 0], exact, LARGE_SAMPLES).error,
        standard_errors=off,
        peak=max((peak for peak in peaks if peak is not None), default=None),
    )
    advance(title, 1)
    return [row], []
