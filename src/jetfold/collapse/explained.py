"""What the pass makes of a program, to read and to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..core.axes import Summed
from .plan import Plan
from .program import Node


@dataclass(frozen=True)
class ProgramExplanation:
    """What the pass makes of a program; print it, or save its pictures.

    Attributes:
        function: how the program is called.
        plan: floating-point operations before and after, and the story of every sum.
        before, after: the operations, of the program and of its rewrite.
    """

    function: str
    plan: Plan
    before: tuple[Node, ...]
    after: tuple[Node, ...]

    def __str__(self) -> str:
        found = self.plan
        lines = [
            f"{self.function}: {len(self.before)} operations, {len(self.after)} after the pass",
            "",
            f"{'':24}{'before':>14}{'after':>14}{'ratio':>8}",
        ]
        for name, before, after in (
            ("all operations", found.before, found.after),
            ("matrix products", found.matmul_before, found.matmul_after),
        ):
            ratio = f"{after / before:8.3f}" if before else ""
            lines.append(f"{name + ' (FLOPs)':24}{before:14,.0f}{after:14,.0f}{ratio}")
        lines.append("")
        if found.rolled:
            lines.append("Loops run as one step on a mapped axis, in the memory of all steps.")
        if not found.moves:
            lines.append("No sum could be moved with a gain: the program runs as it is.")
        for move in found.moves:
            lines.append(f"{move.source} moved through {len(move.passed)} operations")
            if move.passed:
                lines.append(f"  past {_counted([name for _, name in move.passed])}")
            for (_, name), reason in dict(zip(move.stopped, move.reasons, strict=True)).items():
                lines.append(f"  stopped at {name}: {reason}")
        return "\n".join(lines)

    def text(self, nodes: Sequence[Node]) -> str:
        """A program as text, an operation a line."""
        lines = []
        for node in nodes:
            mark = "  # moved sum" if isinstance(node.kind, Summed) else ""
            lines.append(f"{node}{mark}")
        return "\n".join(lines)

    def save(self, path: str | Path) -> list[Path]:
        """Draw the program before and after, sums and what they passed in colour.

        Args:
            path: without an ending: writes path-before.png and path-after.png, or, where
                matplotlib or networkx is missing, path-before.txt and path-after.txt.

        Returns:
            the files.
        """
        path = Path(path)
        passed = {number for move in self.plan.moves for number, _ in move.passed}
        written = []
        for name, nodes, marked in (
            ("before", self.before, passed),
            ("after", self.after, set[int]()),
        ):
            try:
                from .draw import draw
            except ModuleNotFoundError:
                target = path.with_name(f"{path.name}-{name}.txt")
                target.write_text(self.text(nodes) + "\n", encoding="utf-8")
            else:
                target = path.with_name(f"{path.name}-{name}.png")
                draw(nodes, marked, f"{self.function}, {name} the pass", target)
            written.append(target)
        return written


def _counted(names: Sequence[str]) -> str:
    """mul ×3, add"""
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return ", ".join(name if n == 1 else f"{name} ×{n}" for name, n in counts.items())
