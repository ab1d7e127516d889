"""The page, and the same as CSV and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from ..bench.paper import SOURCES
from ..bench.results import Results
from . import figures, tables
from .charts import Figure
from .compare import Comparison, compare
from .losses import Loss, losses
from .paper import COSTS, Line, differences, lines
from .quantities import RULES
from .summary import summary
from .tables import Table
from .words import amount, where

TEXTS = ("shell.css", "style.css", "script.js")
"""What the templates take in."""

FAR = (
    "These are further than 15 % from the published ratio. Each is taken apart into what was "
    "measured: the vectors that collapsed Taylor mode carries, the time of each, and the time of "
    "nested differentiation, both in rows of a plain forward pass (in the median)."
)

MISSING = (
    "there are no results at {}; run `jetfold bench --paper --quick` (or without --quick) first"
)


@dataclass(frozen=True)
class Section:
    """One part of the page.

    Attributes:
        name: what a link to it says after the #.
        text: paragraphs.
        items: sentences that are listed.
        tables, figures: what follows them.
        folded: shown on demand.
    """

    name: str
    title: str
    text: Sequence[str] = ()
    items: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Figure] = ()
    commands: Sequence[str] = ()
    folded: bool = False


@dataclass(frozen=True)
class Input:
    """Results, and the file from which they come."""

    path: Path
    results: Results

    @classmethod
    def read(cls, path: Path) -> Input:
        """
        Raises:
            ValueError: there is no such file, or no results are in it.
        """
        if not path.is_file():
            raise ValueError(MISSING.format(path))
        found = cls(path, Results.load(path))
        if not found.results.cells:
            raise ValueError(MISSING.format(path))
        return found


def facts(results: Results) -> dict[str, str]:
    """Machine and versions, for a list."""
    machine = dict(results.machine)
    if machine.get("memory"):
        machine["memory"] = amount("bytes", machine["memory"])
    known = {name: str(value) for name, value in machine.items() if value is not None}
    known |= {"jetfold": results.jetfold} | results.versions | {"grid": results.grid}
    return known | ({"measured": results.measured} if results.measured else {})


def _names(here: Path, there: Path) -> tuple[str, str]:
    """What two files are called: as short as tells them apart."""
    for count in range(1, max(len(here.parts), len(there.parts))):
        one, other = (str(Path(*path.parts[-count:])) for path in (here, there))
        if one != other:
            return one, other
    return str(here), str(there)


# ------------------------------------------------------------------ the sections


def _sources(found: Sequence[Line]) -> str:
    """Which tables of the paper are set beside which of our results."""
    places = dict.fromkeys(line.panel.place for line in found)
    known = [(where(place), SOURCES.get((place.framework, place.mode))) for place in places]
    return "; ".join(
        dict.fromkeys(f"beside {name} those of {source[0]}" for name, source in known if source)
    )


def _paper(found: Sequence[Line], drawn: Sequence[Figure]) -> Section:
    why = differences(found)
    return Section(
        "paper",
        "The paper's experiments",
        (
            "As in the paper (Dangel et al. 2025), a line is fitted to every method: what counts "
            "is its slope, and how that stands to the slope of nested differentiation. Published "
            f"ratios are those of arXiv 2505.13644: {_sources(found)}.",
            *([FAR] if why else []),
        ),
        why,
        [tables.of_paper(found)],
        drawn,
    )


def _losses(found: Sequence[Loss]) -> Section:
    text = [
        "Found by comparing ours with every other method, cell by cell, in everything that was "
        f"measured: {RULES}"
    ]
    if not found:
        return Section("losses", "Which rows we lose, and to whom", [*text, "None."])
    shown = [tables.of_losses(found)]
    return Section("losses", "Which rows we lose, and to whom", text, (), shown)


def _comparison(here: Input, there: Input, found: Comparison) -> Section:
    names = _names(here.path, there.path)
    text = [
        f"{names[0]} beside {names[1]}, cell by cell. How it is decided what changed: {RULES}",
        f"{len(found.changed)} of {len(found.changes)} numbers that both have changed by more than "
        f"that; {found.only_now} cells are in {names[0]} alone, {found.only_before} in {names[1]} "
        "alone.",
    ]
    ratios = tables.of_ratios(lines(here.results), lines(there.results), *names)
    shown = [table for table in (tables.of_changes(found, *names), ratios) if table.rows]
    return Section(
        "comparison",
        "Two results side by side",
        text,
        (),
        shown,
        figures.of_comparison(found, *names),
    )


def _predictions(results: Results) -> Section | None:
    table = tables.of_predictions(results)
    if table is None:
        return None
    text = [
        "jf.explain(op, f, x) says before anything runs how long a call will take (in plain "
        "forward passes on as many rows), how many operations it takes, and how much it keeps for "
        "a backward pass. What is kept, counted array by array, is set beside the memory that the "
        "process then holds (JAX: that it takes at most)."
    ]
    drawn = figures.of_predictions(results)
    return Section("predictions", "Predictions against measurements", text, (), [table], drawn)


def _failures(results: Results) -> Section:
    table = tables.of_failures(results)
    text = [] if table else ["Everything could be measured."]
    return Section("failures", "What failed", text, (), [table] if table else [])


def _reproduce(here: Input, there: Input | None) -> Section:
    grid = here.results.grid
    option = f" --{grid}" if grid in ("quick", "full") else ""
    devices = {spec.device for spec in here.results.cells} - {"cpu"}
    device = "".join(f" --device {name}" for name in sorted(devices))
    folder = here.path.parent
    out = "" if folder == Path("bench-results") else f" --out {folder}"
    given = "" if here.path == Path("bench-results/paper.json") else f" {here.path}"
    against = f" --against {there.path}" if there else ""
    commands = [f"jetfold bench --paper{option}{device}{out}", f"jetfold report{given}{against}"]
    return Section("reproduce", "How to reproduce it", commands=commands)


def sections(here: Input, there: Input | None = None) -> list[Section]:
    """The page, from top to bottom, without its head."""
    results = here.results
    found, further = lines(results), figures.beyond(results)
    made: list[Section | None] = [
        _losses(losses(results)),
        _comparison(here, there, compare(results, there.results)) if there else None,
        _paper(found, figures.of_paper(results)) if found else None,
        Section("beyond", "Beyond the paper", figures=further) if further else None,
        _predictions(results),
        _failures(results),
        Section("cells", "All numbers", tables=[tables.of_cells(results)], folded=True),
        _reproduce(here, there),
    ]
    return [section for section in made if section]


# ------------------------------------------------------------------ the files


def html(here: Input, there: Input | None = None) -> str:
    """The page, which needs nothing but itself."""
    return _rendered("page.html", here, there, sections(here, there), plotly=get_plotlyjs())


def embedded(here: Input) -> str:
    """The page for one of another site, without the table of all numbers.

    That page brings plotly.js and the colours, as custom properties of `.report` (shell.css).
    """
    parts = [section for section in sections(here) if not section.folded]
    return _rendered("embedded.html", here, None, parts)


def _rendered(
    template: str, here: Input, there: Input | None, parts: Sequence[Section], **further: str
) -> str:
    drawn = [plot.drawn for part in parts for figure in part.figures for plot in figure.plots]
    machines = {path.name: facts(found.results) for path, found in _inputs(here, there).items()}
    environment = Environment(
        loader=PackageLoader("jetfold.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    texts = {name: (files("jetfold.report") / name).read_text(encoding="utf-8") for name in TEXTS}
    return environment.get_template(template).render(
        sections=parts,
        summary=summary(here.results),
        machines=machines,
        drawn=drawn,
        texts=texts,
        **further,
    )


def _inputs(here: Input, there: Input | None) -> dict[Path, Input]:
    if there is None:
        return {here.path: here}
    one, other = _names(here.path, there.path)
    return {Path(one): here, Path(other): there}


def numbers(here: Input, there: Input | None = None) -> dict[str, Any]:
    """What was computed from the results, for other programs."""
    found: dict[str, Any] = {
        "summary": summary(here.results),
        "machine": facts(here.results),
        "slopes": [
            _where(line)
            | {quantity.name: line.slope(quantity) for quantity in COSTS}
            | {f"{quantity.name} / nested": line.ratio(quantity) for quantity in COSTS}
            | {"published": line.published(), "reason": asdict(line.why) if line.why else None}
            for line in lines(here.results)
        ],
        "losses": [
            asdict(loss.worst.ours.spec)
            | {"rival": loss.rival, "quantity": loss.quantity.name, "lost": loss.lost}
            | {"compared": loss.compared, "factor": loss.worst.factor}
            for loss in losses(here.results)
        ],
    }
    if there:
        changes = compare(here.results, there.results).changed
        found["changed"] = [
            asdict(change.now.spec) | {"quantity": change.quantity.name, "factor": change.factor}
            for change in changes
        ]
    return found


def _where(line: Line) -> dict[str, Any]:
    place = line.panel.place
    names = ("framework", "mode", "operator", "variable", "dimension", "batch", "samples", "device")
    return {name: getattr(place, name) for name in names} | {"method": line.method}


def write(here: Input, there: Input | None, out: Path) -> list[Path]:
    """The page, and beside it the CSV and the JSON file; what was written."""
    paths = [out, out.with_suffix(".csv"), out.with_suffix(".json")]
    if {path.resolve() for path in paths} & {i.path.resolve() for i in (here, there) if i}:
        raise ValueError(f"{out} would overwrite the results; give another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    paths[0].write_text(html(here, there), encoding="utf-8")
    here.results.write_csv(paths[1])
    paths[2].write_text(json.dumps(numbers(here, there), indent=1), encoding="utf-8")
    return paths
