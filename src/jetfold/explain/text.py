"""How explanations are printed: sections of rows, long lists cut."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

Sections = list[tuple[str, list[tuple[str, str]]]]
"""What is printed: titles, each with rows of two columns."""


class Printed:
    """A title and sections, as text and, where rich prints it, in colours."""

    @property
    def title(self) -> str:
        """The first line."""
        raise NotImplementedError

    def sections(self) -> Sections:
        """What is printed."""
        raise NotImplementedError

    def __str__(self) -> str:
        return as_text(self.title, self.sections())

    __repr__ = __str__

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        return as_rich(self.title, self.sections())


def cut(texts: Sequence[str], most: int) -> list[str]:
    """The first of many, with a count of what was left out."""
    if len(texts) <= most + 1:
        return list(texts)
    return [*texts[:most], f"… ({len(texts) - most} more)"]


def cut_sum(text: str, most: int = 6) -> str:
    """The first terms of a long sum, with a count of what was left out."""
    terms = re.split(r"(?= [+-] )", text)
    return (
        "".join(terms)
        if len(terms) <= most + 1
        else ("".join(terms[:most]) + f" + … ({len(terms) - most} more)")
    )


def as_text(title: str, sections: Sections) -> str:
    lines = [title]
    for heading, rows in sections:
        width = max(len(left) for left, _ in rows)
        lines += ["", heading]
        lines += [
            f"  {left:<{width}}{'   ' if width else ''}{right}".rstrip() for left, right in rows
        ]
    return "\n".join(lines)


def as_rich(title: str, sections: Sections) -> Iterator[Any]:
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    yield Text(title, style="bold")
    for heading, rows in sections:
        table = Table.grid(padding=(0, 3))
        table.add_column(style="cyan", no_wrap=True)
        table.add_column(overflow="fold")
        for left, right in rows:
            table.add_row(Text(left), Text(right)) if left else table.add_row("", Text(right))
        yield Text(f"\n{heading}", style="bold")
        yield Padding(table, (0, 0, 0, 2))
