"""What was measured, in a file: the cells of a grid, of which none is measured twice."""

from __future__ import annotations

import csv
import json
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import date
from pathlib import Path
from typing import Any

from .. import __version__
from .backends import processor
from .measure import Timing

FORMAT = 1


@dataclass(frozen=True)
class Spec:
    """One thing to measure. Two specs that are equal are measured once.

    Attributes:
        experiment: what question it belongs to: "paper", "dimension", "order", "depth", …
        framework, mode: "torch" or "jax"; "eager" or "compiled".
        operator: by name, as the table of the experiment knows it.
        method: nested, standard, collapsed, minimal, or a peer.
        variable: which of the fields below varies: the horizontal axis of the plot.
        samples: how many random directions; None: the operator is exact.
        order: of the operator, where that varies.
        network: of which kind; "mlp" is the paper's.
        width: a factor for the widths of the network.
        chunk: how many directions at a time; None: all.
    """

    experiment: str
    framework: str
    mode: str
    operator: str
    method: str
    variable: str
    dimension: int
    batch: int
    samples: int | None = None
    order: int | None = None
    network: str = "mlp"
    width: float = 1.0
    depth: int | None = None
    chunk: int | None = None
    dtype: str = "float32"
    device: str = "cpu"
    seed: int = 0

    @property
    def value(self) -> Any:
        """Where it stands on the horizontal axis."""
        return getattr(self, self.variable)


@dataclass(frozen=True)
class Cell:
    """What was found for a spec; None where it does not apply or nobody knows.

    Attributes:
        vectors: how many coefficients every node carries; None for nested derivatives and peers.
        time: seconds of one evaluation, nothing recorded for a backward pass.
        limit: seconds (median) of one plain forward pass of the network on batch × vectors rows.
        compile_s: seconds of the first call, where it compiles.
        peak: bytes by which the memory of a process of its own grows at most during an evaluation
            without differentiability: resident set (CPU) or the framework's allocator (GPU).
        peak_differentiable: the same, all being kept for a backward pass to the parameters.
        held: bytes by which the memory has grown while all that is kept waits for the backward
            pass; None in JAX, where nothing waits.
        kept: bytes of the arrays kept for it, counted: to be compared with `held`, in JAX with
            `peak_differentiable`.
        error: largest |error| / largest |value|, against float64 or against mpmath.
        flops: of one evaluation, counted by the framework.
        predicted: by `jf.explain` before anything ran: "time / limit", "flops", "kept".
        failure: why there are no numbers, else "".
    """

    spec: Spec
    vectors: int | None = None
    time: Timing | None = None
    limit: float | None = None
    compile_s: float | None = None
    peak: int | None = None
    peak_differentiable: int | None = None
    held: int | None = None
    kept: int | None = None
    error: float | None = None
    flops: float | None = None
    predicted: Mapping[str, float] = field(default_factory=dict)
    failure: str = ""


def machine() -> dict[str, Any]:
    """What the numbers depend on beside the versions of the frameworks."""
    pages = os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory": pages * os.sysconf("SC_PAGE_SIZE") if pages else None,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


@dataclass
class Results:
    """All cells of a run on one machine.

    Attributes:
        grid: "quick", "default" or "full".
        versions: what each framework calls itself and its device, by name.
        measured: the day on which it was begun; "" where that was not written down.
    """

    grid: str
    jetfold: str = __version__
    machine: dict[str, Any] = field(default_factory=machine)
    versions: dict[str, str] = field(default_factory=dict)
    cells: dict[Spec, Cell] = field(default_factory=dict)
    measured: str = field(default_factory=lambda: date.today().isoformat())

    def add(self, cells: Iterable[Cell]) -> None:
        """Put cells in, in place of what was there."""
        self.cells |= {cell.spec: cell for cell in cells}

    def missing(self, specs: Iterable[Spec]) -> list[Spec]:
        """The specs that are not there, or failed."""
        return [s for s in specs if s not in self.cells or self.cells[s].failure]

    def save(self, path: Path) -> None:
        """Write a JSON file; what was there stays until the new one is whole."""
        found = {"format": FORMAT, "grid": self.grid, "jetfold": self.jetfold}
        found |= {"machine": self.machine, "versions": self.versions, "measured": self.measured}
        found["cells"] = [asdict(cell) for cell in self.cells.values()]
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(found, indent=1), encoding="utf-8")
        part.replace(path)

    def write_csv(self, path: Path) -> None:
        """Write a row per cell, the parts of a spec and of a time in columns of their own."""
        rows = []
        for cell in self.cells.values():
            row = asdict(cell)
            row = row.pop("spec") | row
            time, predicted = row.pop("time") or {}, row.pop("predicted")
            row |= {f"time {f.name}": time.get(f.name) for f in fields(Timing)}
            rows.append(row | {f"predicted {name}": value for name, value in predicted.items()})
        columns = list(dict.fromkeys(name for row in rows for name in row))
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what `save` wrote.

        Raises:
            ValueError: it is no such file, or one of another format.
        """
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["format"] != FORMAT:
                raise ValueError(f"its format is {found['format']}, and {FORMAT} is expected")
            made = cls(*(found[name] for name in ("grid", "jetfold", "machine", "versions")))
            made.measured = found.get("measured", "")
            for entry in found["cells"]:
                time = entry.pop("time")
                spec = Spec(**entry.pop("spec"))
                made.add([Cell(spec, time=None if time is None else Timing(**time), **entry)])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is no result of `jetfold bench --paper` of this version ({error}); "
                "measure again, with another --out"
            ) from None
        return made
