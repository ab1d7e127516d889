"""The full runs that the page shows: docs/gallery/runs.csv."""

from __future__ import annotations

import csv
import hashlib
import inspect
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from problems import PROBLEMS, Problem

RUNS = Path(__file__).parents[2] / "docs" / "gallery" / "runs.csv"


@dataclass(frozen=True)
class Run:
    """A full run that reached its error.

    Attributes:
        problem, framework: what was solved, by what.
        version: of the framework.
        date: of the run.
        steps: of L-BFGS.
        error: relative, of all fields.
        seconds: of one processor core.
        settings: what `settings` says of the problem; another is of an older problem.
    """

    problem: str
    framework: str
    version: str
    date: str
    steps: int
    error: float
    seconds: int
    settings: str

    @staticmethod
    def of(name: str, framework: str, size: Any, steps: int, error: float, seconds: float) -> Run:
        """One that ended just now."""
        return Run(
            name, framework, version(framework).split("+")[0], date.today().isoformat(),
            steps, float(f"{error:.2g}"), round(seconds), settings(PROBLEMS[name], size),
        )  # fmt: skip


def settings(problem: Problem, size: Any) -> str:
    """All that a run's result depends on but the framework, as eight digits."""
    code = [inspect.getsource(problem.equation), inspect.getsource(problem.exact)]
    rest = (problem.coordinates, tuple(problem.box), problem.backwards, problem.slopes)
    text = repr((code, rest, problem.scale, size))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def read() -> list[Run]:
    """All that were recorded."""
    if not RUNS.exists():
        return []
    with RUNS.open(encoding="utf-8", newline="") as file:
        return [
            Run(**{**row, "steps": int(row["steps"]), "error": float(row["error"]),
                   "seconds": int(row["seconds"])})
            for row in csv.DictReader(file)
        ]  # fmt: skip


def record(run: Run) -> None:
    """In the place of an earlier run of the same."""
    kept = [one for one in read() if (one.problem, one.framework) != (run.problem, run.framework)]
    write([*kept, run])


def write(runs: Sequence[Run]) -> None:
    """In the order of the problems."""
    order = list(PROBLEMS)
    rows = sorted(runs, key=lambda run: (order.index(run.problem), run.framework))
    with RUNS.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, [one.name for one in fields(Run)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(asdict, rows))
