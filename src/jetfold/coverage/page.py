"""docs/coverage.md: a section per framework, written by `jetfold coverage`, and read back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ..frameworks import TITLES
from .rows import HOW, Row, counts, exact_share

HEAD = f"""# Which operations have derivatives

Written by `jetfold coverage --page docs/coverage.md`: every operation of the frameworks' own test
databases is run on jets, on several of its own samples, and its derivatives are compared with
nested differentiation by the framework, and with differences where that is wrong or missing.
*Order* is that of the highest derivatives compared. The tests hold these numbers: they cannot fall.

| how | what that means |
| --- | --- |
{"".join(f"| {how} | {meaning} |{chr(10)}" for how, meaning in HOW.items())}"""


def section(framework: str, version: str, rows: Sequence[Row]) -> str:
    """The section of one framework."""
    found = counts(rows)
    total = sum(found.values())
    return "\n".join(
        [
            f"## {TITLES[framework]} {version}",
            "",
            f"{total} operations; {100 * exact_share(rows):.1f} % of the differentiable are exact.",
            "",
            f"| {' | '.join(found)} |",
            "|" + " --- |" * len(found),
            f"| {' | '.join(map(str, found.values()))} |",
            "",
            "| operation | how | order | note |",
            "| --- | --- | --- | --- |",
            *(
                f"| `{r.name}` | {r.how} | {r.order or ''} | {r.note.replace('|', '/')} |"
                for r in sorted(rows)
            ),
            "",
        ]
    )


def _parts(text: str) -> dict[str, str]:
    """The sections that a page has, by framework."""
    found = re.split(r"^(?=## )", text, flags=re.MULTILINE)[1:]
    named = {title: framework for framework, title in TITLES.items()}
    return {named[part.split()[1]]: part for part in found}


def updated(text: str, framework: str, new: str) -> str:
    """The page with the section of a framework replaced, or added."""
    parts = _parts(text) | {framework: new}
    kept = [HEAD, *(parts[name] for name in TITLES if name in parts)]
    return "\n".join(part.strip() + "\n" for part in kept)


def write(
    path: Path, framework: str, version: str, rows: Sequence[Row], some: bool = False
) -> None:
    """Write the section of a framework into a page; some: renew these rows, and keep the others."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    new = {row.name: row for row in (*read(text, framework), *rows)} if some else None
    rows = list(new.values()) if new else rows
    text = updated(text, framework, section(framework, version, rows))
    path.write_text(text, encoding="utf-8")


def read(text: str, framework: str) -> list[Row]:
    """The rows of a framework on a page."""
    found = re.findall(
        r"^\| `([^`]+)` \| ([^|]+) \| (\d*) \| (.*?) ?\|$",
        _parts(text).get(framework, ""),
        re.MULTILINE,
    )
    return [Row(name, how, int(order or 0), note) for name, how, order, note in found]


def version(text: str, framework: str) -> str:
    """The version of a framework that its section is of."""
    return _parts(text)[framework].split(maxsplit=3)[2]


def summary(text: str, framework: str) -> dict[str, int]:
    """The counts that stand above the rows of a framework."""
    part = _parts(text)[framework]
    numbers = re.search(r"^\| (\d+(?: \| \d+)*) \|$", part, re.MULTILINE)
    assert numbers, f"no counts in the section of {framework}"
    return dict(zip(HOW, map(int, numbers[1].split(" | ")), strict=True))
