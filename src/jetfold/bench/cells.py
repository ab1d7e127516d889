"""Measuring: specs in, cells out. A process for the times of a group, and one for each memory."""

from __future__ import annotations

import os
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np

from ..warn import JetfoldWarning
from .backends import Backend
from .backends import backend as backend_of
from .experiments import Prepared, exact, exactly, predicted, prepare
from .measure import allocate_apart, once, take_turns
from .processes import Died
from .results import Cell, Spec
from .suite import failure, waited

Run = Callable[..., Any]
"""`processes.here`, or a `processes.Processes`."""


@dataclass(frozen=True)
class How:
    """How thoroughly.

    Attributes:
        budget: seconds of timing per group.
        least, most: rounds of timing, whatever the budget.
        limit: whether the plain forward pass is timed too.
        memory: whether peak memory is measured.
        patience: seconds that one method may take to be prepared.
        workers: how many processes measure memory at the same time.
        threads: of the framework; None: as many as it likes.
    """

    budget: float = 1.0
    least: int = 5
    most: int = 50
    limit: bool = True
    memory: bool = True
    patience: float = 600.0
    workers: int = 1
    threads: int | None = None


def groups(specs: Sequence[Spec]) -> list[list[Spec]]:
    """Neighbours that differ in the method alone: they are timed in turns."""
    return [list(group) for _, group in groupby(specs, lambda spec: replace(spec, method=""))]


def measure(
    specs: Sequence[Spec],
    how: How,
    run: Run,
    advance: Callable[[str, int], object] = lambda text, steps: None,
    known: MutableMapping[Spec, np.ndarray] | None = None,
) -> list[Cell]:
    """One group: specs that differ in the method alone.

    Args:
        run: where each part of it runs: `processes.here`, or a `processes.Processes`.
        advance: called with what happens next and with the number of specs just completed.
        known: values that are exact, by `experiments.exactly`; more of them are put there.
    """
    title, left = described(specs[0]), list(specs)
    known = {} if known is None else known
    failed: dict[Spec, Cell] = {}
    cells: dict[Spec, Cell] = {}
    while left and not cells:
        wanted = {key: known[key] for key in map(exactly, left) if key in known}
        try:
            cells, found = run(
                timed,
                left,
                how,
                wanted,
                patience=how.patience,
                tell=lambda word: advance(f"{title}: {word}", 0),
            )
            known.update(found)
        except Died as died:  # without the one that did it
            guilty = [spec for spec in left if spec.method == died.during] or left
            failed |= {spec: Cell(spec, failure=str(died)) for spec in guilty}
            left = [spec for spec in left if spec not in guilty]
    if how.memory:
        advance(f"{title}: memory", 0)
        cells = _with_memory(cells, how, run)
    advance(title, len(specs))
    return [(cells | failed)[spec] for spec in specs]


def _with_memory(cells: dict[Spec, Cell], how: How, run: Run) -> dict[Spec, Cell]:
    """The cells with their peaks. A process counts its own alone, so several run side by side, on
    one thread each."""
    how = how if how.workers == 1 else replace(how, threads=1)

    def peaks(cell: Cell) -> Cell:
        if cell.failure:
            return cell
        try:
            return replace(cell, **run(memory, cell.spec, how, patience=how.patience))
        except Died as died:
            return replace(cell, failure=f"memory could not be measured: {died}")

    if how.workers == 1:
        return {spec: peaks(cell) for spec, cell in cells.items()}
    with ThreadPoolExecutor(how.workers) as pool:
        return dict(zip(cells, pool.map(peaks, cells.values()), strict=True))


def described(spec: Spec) -> str:
    """What a group is called while it is measured."""
    return f"{spec.operator}, {spec.framework} {spec.mode}, {spec.variable} {spec.value}"


# ------------------------------------------------------------------ in a process


def versions(tell: Callable[[str], object], spec: Spec, how: How) -> str:
    """What the framework calls itself and its device."""
    with _backend(spec, how) as backend:
        return backend.versions()


@contextmanager
def _backend(spec: Spec, how: How) -> Iterator[Backend]:
    """On so many threads; JAX has as many as the process may use cores."""
    threads = how.threads
    if spec.framework == "jax" and threads is not None and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        first = os.getpid() % len(cores)  # not the same ones for processes side by side
        os.sched_setaffinity(0, (cores + cores)[first : first + threads])
        threads = None
    backend = backend_of(spec.framework, spec.device, spec.dtype, threads)
    doubles = backend.doubles() if spec.dtype == "float64" else nullcontext()
    with doubles, warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*which is evaluated instead", JetfoldWarning)
        yield backend


# ------------------------------------------------------------------ in the process of the group


def timed(
    tell: Callable[[str], object],
    specs: Sequence[Spec],
    how: How,
    known: Mapping[Spec, np.ndarray],
) -> tuple[dict[Spec, Cell], dict[Spec, np.ndarray]]:
    """Times, limits and errors of a group; and what is exact."""
    cells: dict[Spec, Cell] = {}
    calls: dict[str, Callable[[], object]] = {}  # methods, and limits by the number of vectors
    passes: dict[Spec, int] = {}
    references = dict(known)
    with _backend(specs[0], how) as backend:
        for spec in specs:
            tell(spec.method)
            try:
                prepared = prepare(spec, backend)
                before = _predicted(spec, backend, prepared)
                call = waited(backend, _value(prepared, spec, backend), prepared.points)
                backend.seeded(spec.seed)
                seconds, value = once(call)
                error = _error(spec, backend.numpy(value), backend, references)
                if how.limit and prepared.vectors is not None:
                    calls.setdefault(str(prepared.vectors), _limit(prepared, spec, backend))
            except Exception as raised:  # one that fails must not cost the others
                cells[spec] = Cell(spec, failure=failure(spec.method, raised))
            else:
                compile_s = seconds if spec.mode == "compiled" else None
                cells[spec] = Cell(
                    spec, prepared.vectors, compile_s=compile_s, error=error, predicted=before
                )
                calls[spec.method], passes[spec] = call, prepared.passes
        tell("timing")
        timings = take_turns(calls, budget=how.budget, least=how.least, most=how.most)
    for spec, cell in cells.items():
        if not cell.failure:
            limit = timings.get(str(cell.vectors))
            time = timings[spec.method]
            passed = None if limit is None else limit.median * passes[spec]
            cells[spec] = replace(cell, time=time, limit=passed)
    return cells, references


def _predicted(spec: Spec, backend: Backend, prepared: Prepared) -> dict[str, float]:
    """Nothing, and the reason in the log, where that fails: it must not cost the measurement."""
    try:
        return predicted(spec, backend, prepared)
    except Exception:
        traceback.print_exc()
        return {}


def _value(prepared: Prepared, spec: Spec, backend: Backend) -> Callable[[Any], Any]:
    """The values at points, without gradients to come."""
    return backend.value(prepared.function, prepared.parameters, spec.mode == "compiled")


def _limit(prepared: Prepared, spec: Spec, backend: Backend) -> Callable[[], object]:
    """One plain forward pass of the network on batch × vectors rows."""
    assert prepared.vectors is not None
    network = backend.value(prepared.network, prepared.parameters, spec.mode == "compiled")
    shape = (spec.batch * prepared.vectors, spec.dimension)
    rows = np.random.default_rng(spec.seed + 2).normal(size=shape)
    return waited(backend, network, backend.array(rows))


def _error(
    spec: Spec, value: np.ndarray, backend: Backend, references: dict[Spec, np.ndarray]
) -> float:
    """Largest |error| / largest |value| at the first points."""
    key = exactly(spec)
    if key not in references:
        references[key] = exact(spec, backend)
    reference = references[key]
    few = value[: len(reference)]
    return float(np.abs(few - reference).max() / np.abs(reference).max())


# ------------------------------------------------------------------ in the process of the cell


def memory(tell: Callable[[str], object], spec: Spec, how: How) -> dict[str, int | None]:
    """The peaks of a cell, and the bytes kept for a backward pass.

    Everything is called once before, so that what is made once is not counted: programs, threads,
    scratch buffers.
    """
    with _backend(spec, how) as backend:
        allocate_apart()
        prepared = prepare(spec, backend)
        value, x = _value(prepared, spec, backend), prepared.points
        peak = _peak(backend, waited(backend, value, x))

        def loss(parameters: Any, x: Any) -> Any:
            return (prepared.function(parameters, x) ** 2).mean()

        step = backend.step(loss, prepared.parameters, x, spec.mode == "compiled")
        forward = waited(backend, partial(step.forward, prepared.parameters), x)
        return {
            "peak": peak,
            "peak_differentiable": _peak(backend, forward),
            "held": step.held(prepared.parameters, x),
            "kept": step.kept(prepared.parameters, x),
        }


def _peak(backend: Backend, call: Callable[[], object]) -> int | None:
    """Of the second call, or of the first where an allocator does not forget that one."""
    first = backend.peak(call)
    second = backend.peak(call)
    return first if second is None else second
