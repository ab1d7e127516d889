"""The tables of the page; every column can be sorted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..bench.results import Cell, Results
from .compare import Change, Comparison
from .losses import OURS, Loss
from .paper import COSTS, Line, step
from .predictions import PREDICTED, agreement
from .quantities import FASTEST, PEAK_DIFFERENTIABLE, TIME
from .words import amount, at, method, number, operator, ratio, setting, where


@dataclass(frozen=True)
class Entry:
    """One field of a table.

    Attributes:
        value: the number by which the column is sorted; None: by the text.
        strong, bad: how it is set.
    """

    text: str
    value: float | None = None
    strong: bool = False
    bad: bool = False


@dataclass(frozen=True)
class Table:
    """Attributes:
    numeric: how many of the last columns are numbers.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Entry]]
    numeric: int


def words(*texts: str, strong: bool = False) -> list[Entry]:
    return [Entry(text, strong=strong) for text in texts]


def numeral(value: float | None, form: str = "", size: float = 1.0, *, bad: bool = False) -> Entry:
    """A number, empty where there is none; form: "ratio" for ratios."""
    if value is None:
        return Entry("")
    scaled = value / size
    return Entry(ratio(scaled) if form == "ratio" else number(scaled), scaled, bad=bad)


def of_paper(found: Sequence[Line]) -> Table:
    """Operator × framework and mode × method: slopes, ratios to nested, published ones."""

    def costs(line: Line) -> Iterator[Entry]:
        for quantity in COSTS:
            time = quantity is FASTEST
            yield numeral(line.slope(quantity), size=1e-3 if time else 1e6)
            yield numeral(line.ratio(quantity), "ratio", bad=time and line.far)
            yield numeral(line.published(quantity), "ratio")

    rows = []
    for line in found:
        place = line.panel.place
        rows.append(
            [
                *words(f"{operator(place)}, {setting(place)}", step(line.panel), where(place)),
                *words(method(line.method), strong=line.method == OURS),
                *costs(line),
            ]
        )
    columns = (
        *("operator", "per", "where", "method"),
        *("time (ms)", "time / nested", "published time"),
        *("memory (MB)", "memory / nested", "published memory"),
        *("gradients (MB)", "gradients / nested", "published gradients"),
    )
    caption = (
        "What one more datum, or one more sample, costs: slopes of fitted lines, of the fastest "
        "calls and of peak memory, without and with all that gradients need"
    )
    return Table(caption, columns, rows, 9)


def of_losses(found: Sequence[Loss]) -> Table:
    """Which rows we lose, and to whom."""
    rows = []
    for loss in found:
        pair, spec = loss.worst, loss.worst.ours.spec
        ours, theirs = loss.quantity.of(pair.ours), loss.quantity.of(pair.rival)
        rows.append(
            [
                *words(loss.place.experiment, f"{operator(spec)}, {setting(loss.place)}"),
                *words(where(spec), loss.quantity.title, method(loss.rival)),
                Entry(f"{loss.lost} of {loss.compared}", loss.lost / loss.compared),
                *words(at(spec)),
                Entry(amount(loss.quantity.kind, ours or 0.0), ours),
                Entry(amount(loss.quantity.kind, theirs or 0.0), theirs),
                numeral(loss.worst.factor, "ratio"),
            ]
        )
    columns = (
        *("experiment", "operator", "where", "what", "lost to", "sizes"),
        *("worst at", "ours", "theirs", "ours / theirs"),
    )
    return Table("Where minimal needs more than another, by more than the noise", columns, rows, 5)


def of_cells(results: Results) -> Table:
    """Everything that was measured."""
    rows = []
    for spec, cell in results.cells.items():
        if cell.failure:
            continue
        rows.append(
            [
                *words(spec.experiment, f"{operator(spec)}, {setting(spec)}"),
                *words(where(spec)),
                *words(method(spec.method), strong=spec.method == OURS),
                numeral(cell.vectors),
                numeral(TIME.of(cell), size=1e-3),
                numeral(cell.limit, size=1e-3),
                numeral(cell.peak, size=1e6),
                numeral(cell.peak_differentiable, size=1e6),
                numeral(cell.kept, size=1e6),
                numeral(cell.compile_s),
                Entry(f"{cell.error:.1e}", cell.error) if cell.error is not None else Entry(""),
            ]
        )
    columns = (
        *("experiment", "operator", "where", "method", "vectors", "time (ms)", "limit (ms)"),
        *("peak (MB)", "differentiable (MB)", "kept (MB)", "compile (s)", "error"),
    )
    return Table("Every cell that was measured", columns, rows, 8)


def of_predictions(results: Results) -> Table | None:
    """Measured / predicted per operator, framework, mode and method."""
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for spec, cell in results.cells.items():
        if not cell.failure and any(predicted.both(cell) for predicted in PREDICTED):
            groups.setdefault((operator(spec), where(spec), spec.method), []).append(cell)
    if not groups:
        return None
    rows = []
    for (name, place, method_name), cells in groups.items():
        found = [agreement(predicted, cells) for predicted in PREDICTED]
        strong = method_name == OURS
        rows.append(
            [
                *words(name, place),
                *words(method(method_name), strong=strong),
                *(numeral(one.median if one else None, "ratio") for one in found),
            ]
        )
    columns = ("operator", "where", "method", *(predicted.title for predicted in PREDICTED))
    return Table("Measured / predicted, medians over all sizes", columns, rows, len(PREDICTED))


def of_failures(results: Results) -> Table | None:
    """What could not be measured, and why."""
    rows = [
        words(
            spec.experiment,
            f"{operator(spec)}, {setting(spec)}",
            where(spec),
            method(spec.method),
            cell.failure,
        )
        for spec, cell in results.cells.items()
        if cell.failure
    ]
    columns = ("experiment", "operator", "where", "method", "why")
    return Table("What could not be measured", columns, rows, 0) if rows else None


# ------------------------------------------------------------------ two results


def of_changes(comparison: Comparison, here: str, there: str) -> Table:
    """What changed by more than the noise."""

    def row(change: Change) -> list[Entry]:
        spec, kind = change.now.spec, change.quantity.kind
        old, new = change.quantity.of(change.before), change.quantity.of(change.now)
        return [
            *words(spec.experiment, f"{operator(spec)}, {setting(spec)}", where(spec)),
            *words(method(spec.method), strong=spec.method == OURS),
            *words(change.quantity.title),
            Entry(amount(kind, old or 0.0), old),
            Entry(amount(kind, new or 0.0), new),
            numeral(change.factor, "ratio", bad=change.more),
        ]

    columns = ("experiment", "operator", "where", "method", "what", there, here, "factor")
    rows = [row(change) for change in comparison.changed]
    return Table("What changed by more than the noise", columns, rows, 3)


def of_ratios(now: Sequence[Line], before: Sequence[Line], here: str, there: str) -> Table:
    """The ratios to nested side by side, which differ less between machines than times do."""
    old: Mapping[tuple[object, str], Line] = {
        (line.panel.place, line.method): line for line in before
    }
    rows = []
    for line in now:
        other = old.get((line.panel.place, line.method))
        if line.method == "nested" or other is None:
            continue
        place = line.panel.place
        rows.append(
            [
                *words(f"{operator(place)}, {setting(place)}", step(line.panel), where(place)),
                *words(method(line.method), strong=line.method == OURS),
                *(
                    numeral(one.ratio(quantity), "ratio")
                    for quantity in (FASTEST, PEAK_DIFFERENTIABLE)
                    for one in (other, line)
                ),
            ]
        )
    columns = (
        *("operator", "per", "where", "method"),
        *(f"{what}, {which}" for what in ("time", "memory, gradients") for which in (there, here)),
    )
    return Table("Ratios to nested, side by side", columns, rows, 4)
