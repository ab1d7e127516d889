"""`jetfold bench --paper`: all grids, into one file, of which nothing is measured twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.table import Table

from . import beyond, paper
from .cells import How, Run, measure, versions
from .experiments import tolerance
from .fits import STEPS, Line, lines, ratio
from .measure import inexact
from .paper import Group
from .processes import Died, Processes
from .report import empty_table
from .results import Results, Spec
from .suite import MODES

SIZES = tuple(paper.GRIDS)
FILE = "paper.json"

GRIDS: Sequence[Callable[[str, Sequence[str], str], Sequence[Group]]] = (paper.grid, beyond.grid)
"""(size, frameworks, device) -> groups: the paper's experiments, and further ones."""


def groups(size: str, frameworks: Sequence[str], device: str, threads: int | None) -> list[Group]:
    """Everything that a run of this size measures."""
    if size not in SIZES:
        raise ValueError(f"size must be one of {', '.join(SIZES)}; got {size!r}")
    return [
        (specs, replace(how, threads=threads))
        for grid in GRIDS
        for specs, how in grid(size, frameworks, device)
    ]


def opened(out: Path, size: str) -> Results:
    """What a folder holds of an earlier run, or nothing yet."""
    path = out / FILE
    found = Results.load(path) if path.exists() else Results(size)
    found.grid = max(found.grid, size, key=SIZES.index)
    return found


def run(
    wanted: Sequence[Group],
    results: Results,
    out: Path,
    start: Run,
    advance: Callable[[str, int], object] = lambda text, steps: None,
) -> None:
    """Measure what is missing; the file is written after every group.

    Args:
        start: `processes.here`, or a `processes.Processes`.
        advance: called with what happens next and with the number of specs just completed.

    Raises:
        ValueError: the framework or the device cannot be used.
    """
    known: dict[Spec, np.ndarray] = {}
    there: set[str] = set()
    for specs, how in wanted:
        missing = results.missing(specs)
        if missing and specs[0].framework not in there:
            there.add(specs[0].framework)
            results.versions[specs[0].framework] = _versions(specs[0], how, start)
        if missing:
            results.add(measure(missing, how, start, advance, known))
            save(results, out)
        advance("", len(specs) - len(missing))


def _versions(spec: Spec, how: How, start: Run) -> str:
    try:
        found: str = start(versions, spec, how)
    except Died as died:
        raise ValueError(str(died).removeprefix("ValueError: ")) from None
    return found


def save(results: Results, out: Path) -> None:
    """The JSON file, and the same as a table."""
    results.save(out / FILE)
    results.write_csv((out / FILE).with_suffix(".csv"))


@contextmanager
def processes(frameworks: Sequence[str], log: Path) -> Iterator[Processes]:
    """Those that measure. What they compile is not found on disk beforehand, and on a GPU JAX takes
    no more memory than it needs."""
    modules = [f"{__package__}.{name}" for name in (*frameworks, "cells")]
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        variables = {"TORCHINDUCTOR_CACHE_DIR": folder, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        made = Processes(modules, log, variables)
        try:
            yield made
        finally:
            made.stop()


# ------------------------------------------------------------------ what came out


def problems(results: Results, wanted: Sequence[Group]) -> list[str]:
    """What could not be measured, and which values are wrong. (Not a number is wrong too.)"""
    found = []
    for cell in (results.cells[spec] for specs, _ in wanted for spec in specs):
        if cell.failure:
            found.append(f"could not be measured: {named(cell.spec)}: {cell.failure}")
        else:
            allowed = tolerance(cell.spec)
            found.append(inexact(named(cell.spec), cell.error, allowed, cell.spec.dtype))
    return [problem for problem in found if problem]


def named(spec: Spec) -> str:
    """A spec in words."""
    return (
        f"{spec.operator}, {spec.method}, {spec.framework} {spec.mode}, {spec.variable} "
        f"{spec.value}"
    )


COLUMNS: Mapping[str, tuple[str, float]] = {
    "time": ("ms", 1e3),
    "peak": ("MB", 1e-6),
    "peak_differentiable": ("MB, diff.", 1e-6),
}
"""By quantity: the unit, and how many of it are one."""


def table(results: Results) -> Table:
    """The slope of every curve, its ratio to nested and in parentheses the published one."""
    cells = [c for c in results.cells.values() if c.spec.experiment == paper.EXPERIMENT]
    fitted = {quantity: lines(cells, quantity) for quantity in COLUMNS}
    right = [word for unit, _ in COLUMNS.values() for word in (unit, "× nested")]
    made = empty_table(("", "method"), right)
    head = None
    for key in sorted(fitted["time"], key=_order):
        if head not in (None, key_head := replace(key, method="")):
            made.add_section()
        title = _title(key) if head != key_head else ""
        head = key_head
        made.add_row(title, key.method, *_row(key, fitted))
    return made


def _row(key: Spec, fitted: Mapping[str, Mapping[Spec, Line]]) -> Iterator[str]:
    for quantity, (_, per) in COLUMNS.items():
        line = fitted[quantity].get(key)
        yield "" if line is None else f"{line.slope * per:.3g}"
        ours, theirs = ratio(fitted[quantity], key), paper.published(key, quantity)
        if line is None or key.method == "nested":
            yield ""
        else:
            published = "" if theirs is None else f" ({theirs:.2f})"
            yield ("–" if ours is None else f"{ours:.2f}") + published


def _order(key: Spec) -> tuple[Any, ...]:
    return (
        key.framework != "torch",
        MODES.index(key.mode),
        key.variable,
        list(paper.DIMENSIONS).index(key.operator),
        paper.METHODS.index(key.method),
    )


def _title(key: Spec) -> str:
    return f"{key.framework} {key.mode}, {key.operator} per {STEPS[key.variable]}"


def legend(results: Results) -> str:
    """What the table says, and where the published ratios are from."""
    there = {(spec.framework, spec.mode) for spec in results.cells}
    sources = "; ".join(source for key, (source, _) in paper.SOURCES.items() if key in there)
    return (
        "ms, MB: the slope of a straight line, that is, what one more point or random direction "
        "costs; MB: peak memory, diff.: all being kept for a backward pass to the parameters. "
        "× nested: the slope / that of nested first-order differentiation, in parentheses the same "
        f"in Dangel et al. 2025, arXiv 2505.13644 ({sources})."
    )
