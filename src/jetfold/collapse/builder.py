"""How a frontend writes a program down: node by node, equal ones once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .kinds import is_nil, is_zero
from .labels import Array
from .program import Issue, Kind, Leaf, Node, Program


class Builder:
    """A program that grows.

    Attributes:
        nodes: so far.
        known: what tells an operation apart -> what it gives.
        outputs: what the program returns.
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.known: dict[Any, Any] = {}
        self.outputs: Sequence[Any] = ()

    def add(
        self,
        name: str,
        inputs: Sequence[Node],
        shape: Sequence[int],
        dtype: Any,
        kind: Kind,
        issue: Issue,
        flops: float = 0.0,
        zero: bool = False,
        operation: Any = None,
    ) -> Node:
        """The next node."""
        zero = zero or is_zero(kind, inputs)
        number, inputs, shape = len(self.nodes), tuple(inputs), tuple(shape)
        nil = zero or is_nil(kind, inputs)
        node = Node(number, name, inputs, shape, dtype, kind, issue, flops, zero, nil, operation)
        self.nodes.append(node)
        return node

    def constant(
        self,
        array: Array,
        name: str,
        shape: Sequence[int],
        dtype: Any,
        key: Any,
        zero: bool = False,
    ) -> Node:
        """An array that is there: an input, a constant."""
        if key not in self.known:
            issue = lambda arrays, shape: array  # noqa: E731
            self.known[key] = self.add(name, (), shape, dtype, Leaf(), issue, zero=zero)
        return self.known[key]

    def program(self) -> Program:
        """As far as it has grown."""
        return Program(tuple(self.nodes), tuple(self.outputs))


@dataclass(frozen=True)
class Traced:
    """A call of a function, as a program.

    Attributes:
        program: what it computes.
        inputs: the arrays among the arguments.
        rebuild: (outputs of the program) -> what the function returns.
        again: (arrays) -> the program on other arrays of the same shapes, which may be tracers.
    """

    program: Program
    inputs: Sequence[Array]
    rebuild: Callable[[Sequence[Any]], Any]
    again: Callable[[Sequence[Array]], Program]
