"""Programs: operations on arrays in the order in which they are computed, immutable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from ..core.axes import Action
from .labels import Array

Issue = Callable[[Sequence[Array], Sequence[int]], Array]
"""(operands, shape of the result) -> result: the operation itself, also on operands of which some
axes have length one; the shape is then that of the smaller result."""


@dataclass(frozen=True)
class Leaf:
    """The kind of an input of the program, or of a constant array."""


@dataclass(frozen=True)
class Slot:
    """The kind of an input of the body of a loop: which one."""

    position: int


@dataclass(frozen=True)
class Result:
    """The kind of a result of a loop: which one. Its operand is the loop."""

    position: int


@dataclass(frozen=True)
class Loop:
    """The kind of a loop or a conditional; its operands are the inputs, an index of branches first.

    Attributes:
        bodies: the step; the branches. Their inputs are nodes of kind `Slot`.
        constants: how many inputs of the body are the same in each step.
        carried: how many follow that are carried from step to step, as the first outputs are.
            The rest of inputs and outputs are entries along the axis of the loop.
        length: the number of steps; None for a conditional, whose inputs are all constants.
        reverse, unroll: how the steps follow each other.
    """

    bodies: tuple[Program, ...]
    constants: int
    carried: int
    length: int | None
    reverse: bool = False
    unroll: int = 1


Kind = Action | Leaf | Slot | Result | Loop


@dataclass(frozen=True, eq=False, repr=False)
class Node:
    """An operation.

    Attributes:
        number: its place in the program.
        name: for people.
        dtype: what the array library calls one; may say on which device.
        kind: how it acts on axes.
        issue: what it does.
        flops: of one evaluation of the whole.
        zero: whether it is known to be nothing but zeros.
        nil: whether it is if all that it is made of is finite; else 0 · ∞ may be in it.
        operation: what two nodes have in common that do the same; None where that is not known.
    """

    number: int
    name: str
    inputs: tuple[Node, ...]
    shape: tuple[int, ...]
    dtype: Any
    kind: Kind
    issue: Issue
    flops: float = 0.0
    zero: bool = False
    nil: bool = False
    operation: Any = None

    def __repr__(self) -> str:
        operands = ", ".join(f"n{x.number}" for x in self.inputs)
        return f"n{self.number} = {self.name}({operands}) [{'×'.join(map(str, self.shape))}]"


@dataclass(frozen=True, eq=False)
class Program:
    """Nodes in the order of their numbers, and what is returned: nodes, or constants.

    Two programs are equal if they have the same structure: everything but the arrays in them.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[Any, ...]

    def live(self) -> tuple[Node, ...]:
        """The nodes that the outputs need."""
        wanted = {x.number for x in self.outputs if isinstance(x, Node)}
        for node in reversed(self.nodes):
            if node.number in wanted:
                wanted |= {x.number for x in node.inputs}
        return tuple(node for node in self.nodes if node.number in wanted)

    def structure(self) -> Program:
        """The program without its arrays: what a plan may depend on."""
        made: list[Node] = []
        for node in self.nodes:
            kind = node.kind
            if isinstance(kind, Loop):
                kind = replace(kind, bodies=tuple(body.structure() for body in kind.bodies))
            inputs = tuple(made[x.number] for x in node.inputs)
            made.append(replace(node, inputs=inputs, kind=kind, issue=_without_arrays))
        outputs = (made[x.number] if isinstance(x, Node) else None for x in self.outputs)
        return Program(tuple(made), tuple(outputs))

    @cached_property
    def signature(self) -> Any:
        """All of the structure."""
        nodes = (
            (x.name, tuple(y.number for y in x.inputs), x.shape, x.dtype, x.kind, x.flops, x.zero)
            for x in self.nodes
        )
        return tuple(nodes), tuple(x.number if isinstance(x, Node) else None for x in self.outputs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and self.signature == other.signature

    def __hash__(self) -> int:
        return hash(self.signature)


def _without_arrays(arrays: Sequence[Array], shape: Sequence[int]) -> Array:
    raise AssertionError("the structure of a program cannot be evaluated")
