"""What a rewrite costs, found on shapes alone, and which values it sums where they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from .kinds import Contract, Sum
from .sums import Array, Arrays, Engine, Label, Move, Node, Part, deep, lengths


@dataclass(frozen=True)
class Shape:
    """Stands for an array where only shapes matter."""

    shape: tuple[int, ...]


class Shapes:
    """`Arrays` on shapes alone; counts additions and multiplications."""

    def __init__(self) -> None:
        self.flops = 0.0
        self.matmul_flops = 0.0

    def add(self, other: Shapes, times: int) -> None:
        """What a part of the program cost."""
        self.flops += times * other.flops
        self.matmul_flops += times * other.matmul_flops

    def repeat(
        self, loop: Any, step: Any, constants: Any, carried: Any, entries: Any, weights: Any
    ) -> list[Shape]:
        """See `loops.LoopArrays`."""
        inner = Shapes()
        each = [Shape(tuple(x.shape[1:])) for x in entries]
        made = step(inner, [*constants, *carried, *each], weights)
        self.add(inner, loop.length)
        last, stacked = made[: len(carried)], made[len(carried) :]
        return [*last, *(Shape((loop.length, *x.shape)) for x in stacked)]

    def choose(
        self, loop: Any, index: Any, branches: Any, operands: Any, weights: Any
    ) -> list[Shape]:
        """As dear as the dearest branch."""
        inner = [Shapes() for _ in branches]
        made = [step(x, operands, weights) for step, x in zip(branches, inner, strict=True)]
        self.add(max(inner, key=lambda x: x.flops), 1)
        return list(made[0])

    def issue(self, node: Node, arrays: Sequence[Any], shape: Sequence[int]) -> Shape:
        """See `Arrays`; the cost of a node scales with its result."""
        whole = max(1, prod(node.shape))
        self.flops += node.flops * prod(shape) / whole
        return Shape(tuple(shape))

    def contract(self, node: Node | None, left: Part, right: Part, out: Sequence[Label]) -> Shape:
        """2 · (all labels), less where nothing is added."""
        labels = {*left.labels, *right.labels}
        inner = prod(lengths(labels - set(out)))
        cost = prod(lengths(out)) * (2 * inner - 1)
        self.flops += cost
        if node is not None:
            self.matmul_flops += prod(lengths(out)) * 2 * inner
        return Shape(lengths(out))

    def total(self, array: Any, axes: Sequence[int]) -> Shape:
        """One addition for every entry but the first of each sum."""
        kept = tuple(n for k, n in enumerate(array.shape) if k not in axes)
        self.flops += prod(array.shape) - prod(kept)
        return Shape(kept)

    def scale(self, array: Any, factor: float) -> Shape:
        """One multiplication per entry."""
        self.flops += prod(array.shape)
        return Shape(tuple(array.shape))

    def permute(self, array: Any, order: Sequence[int]) -> Shape:
        """Free."""
        return Shape(tuple(array.shape[k] for k in order))

    def reshape(self, array: Any, shape: Sequence[int]) -> Shape:
        """Free."""
        return Shape(tuple(shape))

    def broadcast(self, array: Any, shape: Sequence[int]) -> Shape:
        """Free."""
        return Shape(tuple(shape))

    def full(self, node: Node, shape: Sequence[int], value: float) -> Shape:
        """Free."""
        return Shape(tuple(shape))


@dataclass(frozen=True)
class Plan:
    """What was found out about a program before anything is computed.

    Attributes:
        needed: the numbers of the nodes whose values are needed unsummed; None if nothing moves.
        factored: whether factors leave sums of products; see `Engine`.
        forms: those in which the results of loops are asked for; see `Engine`.
        shared: what several sums of a node have in common; see `Engine`.
        before, after: floating-point operations of the program and of its rewrite.
        matmul_before, matmul_after: those of matrix products.
        moves: the story of every sum.
    """

    needed: frozenset[int] | None
    factored: bool
    forms: Mapping[int, tuple[Any, ...]]
    shared: Mapping[int, Any]
    before: float
    after: float
    matmul_before: float
    matmul_after: float
    moves: tuple[Move, ...]

    def run(self, arrays: Arrays, nodes: Sequence[Node], outputs: Sequence[Any]) -> list[Array]:
        """The outputs of the rewritten program; only where something moves."""
        assert self.needed is not None
        return Engine(arrays, self.needed, self.factored, self.forms, self.shared).run(
            nodes, outputs
        )


ROUNDS = 8


def plan(nodes: Sequence[Node], outputs: Sequence[Any]) -> Plan:
    """Find the nodes whose values are needed unsummed, and what the rewrite costs."""
    before = _original(nodes, outputs)

    def run(engine: Engine) -> None:
        engine.run(nodes, outputs)

    attempts = [settled(run, len(nodes), factored) for factored in (False, True)]
    shapes, engine = min(attempts, key=lambda attempt: attempt[0].flops)
    if shapes.flops >= before.flops:
        costs = (before.flops, before.flops, before.matmul_flops, before.matmul_flops)
        return Plan(None, False, {}, {}, *costs, ())
    costs = (before.flops, shapes.flops, before.matmul_flops, shapes.matmul_flops)
    return Plan(
        engine.needed,
        engine.factored,
        engine.forms,
        engine.shared,
        *costs,
        tuple(engine.moves),
    )


def settled(run: Callable[[Engine], None], length: int, factored: bool) -> tuple[Shapes, Engine]:
    """The cheapest of a few rounds, each of which knows better what will be asked for.

    Summing a value where it is may only make less be asked for elsewhere. A node that is asked for
    in several sums is tried both ways: as a value that is summed repeatedly, and as several sums.

    Args:
        run: asks an engine for what is wanted of a program.
        length: of the program.
        factored: see `Engine`.
    """
    best: tuple[Shapes, Engine] | None = None
    for several in (True, False):
        needed: frozenset[int] = frozenset()
        forms: dict[int, tuple[Any, ...]] = {}
        shared: dict[int, Any] = {}
        for _ in range(ROUNDS):
            shapes = Shapes()
            engine = Engine(shapes, needed, factored, forms, shared)
            with deep(length):
                run(engine)
            if best is None or shapes.flops < best[0].flops:
                best = (shapes, engine)
            found, partly = _in_common(engine, several)
            of_loops = {number: tuple(asked) for number, asked in engine.forms_asked.items()}
            if found <= needed and of_loops == forms and partly.keys() <= shared.keys():
                break
            needed, forms, shared = needed | found, of_loops, partly | shared
    assert best is not None
    return best


def _in_common(engine: Engine, several: bool) -> tuple[frozenset[int], dict[int, Any]]:
    """The nodes that were asked for unsummed, and what sums of the others have in common.

    With `several`, nodes whose sums have nothing in common count to the first.
    """
    needed, partly = set(), {}
    for number, asked in engine.asked.items():
        if any(not summed for _, summed, _ in asked):
            needed.add(number)
        elif len(asked) > 1:
            (groups, *_), *others = asked
            common = frozenset.intersection(
                *(summed - frozenset(weight[1] if weight else ()) for _, summed, weight in asked)
            )
            if common and all(other[0] == groups for other in others):
                partly[number] = (groups, common)
            elif several:
                needed.add(number)
    return frozenset(needed), partly


def _original(nodes: Sequence[Node], outputs: Sequence[Any]) -> Shapes:
    """The cost of the program as it is, of what its outputs need."""
    shapes = Shapes()
    live = {x.number for x in outputs if isinstance(x, Node)}
    for node in reversed(nodes):
        if node.number not in live:
            continue
        live |= {x.number for x in node.inputs if isinstance(x, Node)}
        if isinstance(node.kind, Contract):
            *_, inner = node.kind._operands(node, node.axes())
            size = prod(node.shape) * prod(lengths(inner))
            shapes.flops += 2 * size - prod(node.shape)
            shapes.matmul_flops += 2 * size
        elif isinstance(node.kind, Sum):
            shapes.flops += prod(node.inputs[0].shape) - prod(node.shape)
        elif "loop" in node.options:
            loop = node.options["loop"]
            bodies = [_original(body.nodes, body.outputs) for body in loop.bodies]
            shapes.add(max(bodies, key=lambda body: body.flops), loop.length or 1)
        else:
            shapes.flops += node.flops
    return shapes
