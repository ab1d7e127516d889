"""The compiler pass: sums move up through linear operations, in programs of either framework."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

from .core.kinds import Sum
from .core.plan import Plan, plan
from .core.sums import Move, Node


def collapse(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, with sums moved up through everything linear.

    A program that sums directional derivatives, however they were taken (`jetfold.jet`,
    `jax.experimental.jet`, nested `jvp`, mapped over directions by `vmap`), then propagates their
    sum: the collapsed Taylor mode of Dangel et al. 2025 as a rewrite of the program. Values are the
    same up to the order in which floating-point numbers are added. No program gets more operations:
    where nothing can be saved it runs as it is.

    Args:
        function: of arrays of either framework, anywhere in its arguments; it is traced at every
            call, so put `jax.jit` or `torch.compile` around it, or use
            `torch.compile(function, backend="jetfold")` instead.

    Returns:
        a function with the same arguments and results, which can be differentiated, mapped and
        compiled.

    Raises:
        TypeError (in the call): no argument holds an array.

    >>> import torch
    >>> from torch.func import jvp, vmap
    >>> def laplacian(x):
    ...     second = lambda v: jvp(lambda y: jvp(f, (y,), (v,))[1], (x,), (v,))[1]
    ...     return vmap(second)(torch.eye(3)).sum(0)
    >>> f = lambda x: torch.sin(x @ torch.ones(3, 4)).sum()
    >>> x = torch.tensor([0.1, 0.2, 0.3])
    >>> torch.allclose(collapse(laplacian)(x), laplacian(x))
    True
    """
    if not callable(function):
        raise TypeError(f"collapse takes a function, got {type(function).__name__}")

    def collapsed(*args: Any, **kwargs: Any) -> Any:
        frontend = program_frontend(args, kwargs)
        nodes, outputs, rebuild = frontend.program(function, args, kwargs)
        found = plan(nodes, outputs)
        if found.needed is None:
            return function(*args, **kwargs)
        return rebuild(found.run(frontend.arrays(), nodes, outputs))

    with suppress(AttributeError):  # a callable object without the attributes of a function
        collapsed = wraps(function)(collapsed)
    collapsed.__jetfold_collapses__ = function  # type: ignore[attr-defined]
    return collapsed


def program_frontend(args: Any, kwargs: Any) -> Any:
    """The pass of the framework whose arrays are among the arguments."""
    if "torch" in sys.modules:
        from .torch import collapse as of_torch

        if of_torch.has_arrays((args, kwargs)):
            return of_torch
    if "jax" in sys.modules:
        from .jax import collapse as of_jax

        if of_jax.has_arrays((args, kwargs)):
            return of_jax
    raise TypeError(
        "a program is traced with its arguments, and none of them holds a torch.Tensor or a "
        "jax.Array; pass the arrays as arguments"
    )


# ------------------------------------------------------------------ explained


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
            operands = ", ".join(f"n{x.number}" for x in node.inputs if isinstance(x, Node))
            shape = "×".join(map(str, node.shape))
            mark = "  # moved sum" if isinstance(node.kind, Sum) else ""
            lines.append(f"n{node.number} = {node.name}({operands}) [{shape}]{mark}")
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


def explain_program(function: Callable[..., Any], args: Any, kwargs: Any) -> ProgramExplanation:
    """What `collapse` makes of a call."""
    original = getattr(function, "__jetfold_collapses__", function)
    frontend = program_frontend(args, kwargs)
    nodes, outputs, _ = frontend.program(original, args, kwargs)
    found = plan(nodes, outputs)
    before = after = live(nodes, outputs)
    if found.needed is not None:
        nodes, outputs, _ = frontend.program(collapse(original), args, kwargs)
        after = live(nodes, outputs)
    name = getattr(original, "__name__", type(original).__name__)
    return ProgramExplanation(name, found, before, after)


def live(nodes: Sequence[Node], outputs: Sequence[Any]) -> tuple[Node, ...]:
    """The nodes that the outputs need."""
    wanted = {x.number for x in outputs if isinstance(x, Node)}
    for node in reversed(nodes):
        if node.number in wanted:
            wanted |= {x.number for x in node.inputs if isinstance(x, Node)}
    return tuple(node for node in nodes if node.number in wanted)


__all__ = ["Move", "ProgramExplanation", "collapse", "explain_program", "program_frontend"]
