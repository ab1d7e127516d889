"""The tables of README and docs, written from results: no number in them is typed by hand.

What stands between <!-- NAME --> and <!-- /NAME --> on a page is made of docs/results/NAME.csv, as
`jetfold bench --out docs/results` writes it; <!-- vectors --> of what `jetfold.explain` counts.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from .. import __version__
from ..explain import explain
from ..expressions import parse
from ..frameworks import TITLES
from ..named import biharmonic, laplacian
from .networks import widths

RESULTS = Path("docs", "results")

COMMAND = "jetfold pages"

PAGES = ("README.md", "docs/*.md")

MARKED = re.compile(r"(<!-- (?P<name>[\w-]+) -->\n)(?P<table>.*?)(<!-- /(?P=name) -->)", re.DOTALL)

PROVENANCE = ("jetfold", "python", "versions", "dtype", "device", "seed")
"""What a file of results must say of every row, beside what was measured."""

Record = Mapping[str, str]
"""A line of a CSV file."""

Cell = Callable[[Record], str]


def number(column: str, form: str) -> Cell:
    """A number of a column, "" where there is none."""
    return lambda record: format(float(record[column]), form) if record[column] else ""


def word(column: str) -> Cell:
    """What stands in a column."""
    return lambda record: record[column]


@dataclass(frozen=True)
class Form:
    """How a file of results becomes a table.

    Attributes:
        options: of `jetfold bench`, by framework, for the results that stand in the docs.
        head: what was the same for all rows.
        beside: the columns that say what a group of rows has in common, in its first row; titles
            may hold fields of a record.
        columns: those of every row.
        wanted: which rows the table has.
    """

    options: Mapping[str, str]
    head: Cell
    beside: Mapping[str, Cell]
    columns: Mapping[str, Cell]
    wanted: Callable[[Record], bool] = lambda record: True

    def table(self, records: Sequence[Record]) -> str:
        """As Markdown."""
        found = [record for record in records if self.wanted(record)]
        first = {**found[0], "framework": TITLES[found[0]["framework"]]}
        titles = [title.format_map(first) for title in (*self.beside, *self.columns)]

        def common(record: Record) -> list[str]:
            return [cell(record) for cell in self.beside.values()]

        rows = [
            [*(left if position == 0 else [""] * len(left)), *(c(r) for c in self.columns.values())]
            for left, group in groupby(found, key=common)
            for position, r in enumerate(group)
        ]
        return f"{self.head(found[0])}.\n\n{markdown(titles, rows)}"


def markdown(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# ------------------------------------------------------------------ the forms


def _run(record: Record) -> str:
    peer = f", folx {record['folx']}" if record["folx"] else ""
    return f"{record['versions']}{peer}, {record['dtype']}, seed {record['seed']}"


def _network(record: Record) -> str:
    hidden = " → ".join(map(str, widths(0, float(record["width"]))[1:]))
    return f"tanh network D → {hidden}, batch {record['batch']}"


def _of_training(record: Record) -> str:
    return (
        f"{_run(record)}. Gradient of the mean square to all parameters; {_network(record)}; "
        "equations: 20x3 is three hidden layers of 20, on one thread"
    )


FORMS: Mapping[str, Form] = {
    "operators": Form(
        options={"torch": "", "jax": ""},
        head=lambda r: f"{_run(r)}; {_network(r)}",
        beside={"{framework}": lambda r: f"{r['label']}, D = {r['dimension']}"},
        columns={
            "method": word("method"),
            "vectors": word("vectors"),
            "ms": number("median ms", ".1f"),
            "× nested": number("speed-up", ".2f"),
            "time / limit": number("time/limit", ".2f"),
            "rel. error": number("relative error", ".1e"),
        },
        wanted=lambda record: record["mode"] == "compiled",
    ),
    "training": Form(
        options={
            "torch": "--training --modes eager --methods limit,nested,minimal,combined",
            "jax": "--training --points 1000 --methods limit,nested,minimal,combined,folx",
        },
        head=_of_training,
        beside={
            "case": lambda r: f"{r['label']}, {r['network']}, {r['points']}",
            "mode": word("mode"),
        },
        columns={
            "method": word("method"),
            "value ms": number("value ms", ".3g"),
            "step ms": number("median ms", ".4g"),
            "× nested": number("speed-up", ".2f"),
            "/ limit": number("time/limit", ".2f"),
            "sets kept": number("kept sets", ".1f"),
            "points in {memory GB} GB": number("points in memory", ",.0f"),
            "compile s": number("compile s", ".1f"),
            "rel. error": number("relative error", ".0e"),
        },
    ),
    "vmc": Form(
        options={"jax": "--suite vmc --electrons 4,8,16,32 --walkers 4"},
        head=lambda r: f"{_run(r)}; {r['walkers']} walkers",
        beside={"network, electrons": lambda r: f"{r['label']}, {r['electrons']}"},
        columns={
            "method": word("method"),
            "ms": number("min ms", ".3g"),
            "× forward": number("time/forward", ".3g"),
            "MB": number("temporary MB", ".3g"),
            "GFLOP": number("GFLOP", ".3f"),
            "compile s": number("compile s", ".1f"),
            "∇ error": number("gradient error", ".0e"),
            "Δ error": number("Laplacian error", ".0e"),
        },
    ),
}
"""By suite: a file is named framework.csv or framework-suite.csv."""


def vectors() -> str:
    """The table of what every method carries: counted, not measured."""
    methods = ("standard", "collapsed", "minimal")
    two, three = (explain(laplacian, n).vectors for n in (2, 3))
    rows = [["Laplacian, D coordinates"]]
    for method in methods:
        slope = three[method] - two[method]
        constant = two[method] - 2 * slope
        assert explain(laplacian, 50).vectors[method] == constant + 50 * slope
        rows[0].append(f"{slope if slope > 1 else ''}D + {constant}")
    counted = {f"biharmonic, D = {n}": explain(biharmonic, n) for n in (2, 5, 10)}
    counted["∂_t∂_x + ∂_x⁴ + 3∂_y²"] = explain(parse("t*x + x**4 + 3*y**2"))
    rows += [[name, *(f"{e.vectors[m]}" for m in methods)] for name, e in counted.items()]
    return markdown(("operator", *methods), rows)


# ------------------------------------------------------------------ pages


def parts(name: str) -> tuple[str, str]:
    """The framework and the suite of a file of results."""
    framework, _, suite = name.partition("-")
    return framework, suite or "operators"


def command(name: str) -> str:
    """What measures a file of results again."""
    framework, suite = parts(name)
    options = f"--framework {framework} {FORMS[suite].options[framework]}".strip()
    return f"jetfold bench {options} --out {RESULTS}"


def records(path: Path) -> list[Record]:
    """The lines of a file of results.

    Raises:
        ValueError: there is none, or it does not say how it was measured.
    """
    again = f"run: {command(path.stem)}"
    if not path.exists():
        raise ValueError(f"{path} is not there; {again}")
    with path.open(newline="", encoding="utf-8") as file:
        found: list[Record] = list(csv.DictReader(file))
    lacking = [name for name in PROVENANCE if not all(record.get(name) for record in found)]
    if lacking or not found:
        raise ValueError(f"{path} does not say {', '.join(lacking) or 'anything'}; {again}")
    return found


def known(name: str) -> bool:
    """Whether a mark is one of ours."""
    framework, suite = parts(name)
    return name == "vectors" or (framework in TITLES and suite in FORMS)


def table(name: str, root: Path) -> str:
    """What goes between the marks of a name."""
    if name == "vectors":
        return vectors()
    return FORMS[parts(name)[1]].table(records(root / RESULTS / f"{name}.csv"))


def rendered(text: str, root: Path) -> str:
    """A page with its tables as the results are."""

    for name in re.findall(r"<!-- ([\w-]+) -->", text):
        if known(name) and f"<!-- /{name} -->" not in text:
            raise ValueError(f"<!-- {name} --> needs <!-- /{name} -->: the table goes between")

    def anew(found: re.Match[str]) -> str:
        start, end, name = found[1], found[4], found["name"]
        return f"{start}{table(name, root)}\n{end}" if known(name) else found[0]

    return MARKED.sub(anew, text)


def changed(root: Path) -> Iterator[tuple[Path, str]]:
    """The pages whose tables are not as the results are, and what they should be."""
    for path in sorted(path for pattern in PAGES for path in root.glob(pattern)):
        text = path.read_text(encoding="utf-8")
        if (new := rendered(text, root)) != text:
            yield path, new


def write(root: Path) -> list[Path]:
    """Write the tables of all pages; those that changed."""
    found = list(changed(root))
    for path, new in found:
        path.write_text(new, encoding="utf-8")
    return [path for path, _ in found]


def problems(root: Path) -> list[str]:
    """What is stale: results of another version, and pages that are not what the results say."""
    found = []
    for path in sorted((root / RESULTS).glob("*.csv")):
        others = {r["jetfold"] for r in records(path)} - {__version__} if known(path.stem) else ()
        if others:
            found.append(
                f"{path.relative_to(root)} is of jetfold {', '.join(sorted(others))}, and this is "
                f"{__version__}; run: {command(path.stem)}"
            )
    pages = [str(path.relative_to(root)) for path, _ in changed(root)]
    return found + [f"{page} is not what {RESULTS} says; run: {COMMAND}" for page in pages]
