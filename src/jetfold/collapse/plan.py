"""What a rewrite costs, found on shapes alone, and which values it sums where they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

from ..core.axes import Contracted, Summed
from . import adjoint as adjoint  # says how sums pass products
from .arrays import Arrays
from .engine import Choice, Engine, Move
from .kinds import contracted_axes
from .labels import Array, Label, Part, fresh, lengths
from .program import Loop, Node, Program


@dataclass(frozen=True)
class Shape:
    """Stands for an array where only shapes matter."""

    shape: tuple[int, ...]


class Shapes:
    """`Arrays` on shapes alone; counts additions and multiplications."""

    def __init__(self) -> None:
        self.flops = 0.0
        self.matmul_flops = 0.0

    def count(self, other: Shapes, times: int) -> None:
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
        self.count(inner, loop.length)
        last, stacked = made[: len(carried)], made[len(carried) :]
        return [*last, *(Shape((loop.length, *x.shape)) for x in stacked)]

    def choose(
        self, loop: Any, index: Any, branches: Any, operands: Any, weights: Any
    ) -> list[Shape]:
        """As dear as the dearest branch."""
        inner = [Shapes() for _ in branches]
        made = [step(x, operands, weights) for step, x in zip(branches, inner, strict=True)]
        self.count(max(inner, key=lambda x: x.flops), 1)
        return list(made[0])

    def issue(self, node: Node, arrays: Sequence[Any], shape: Sequence[int]) -> Shape:
        """See `arrays.Arrays`; the cost of a node scales with its result."""
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

    def sum(self, array: Any, axes: Sequence[int]) -> Shape:
        """One addition for every entry but the first of each sum."""
        kept = tuple(n for k, n in enumerate(array.shape) if k not in axes)
        self.flops += prod(array.shape) - prod(kept)
        return Shape(kept)

    def times(self, array: Any, factor: float) -> Shape:
        """One multiplication per entry."""
        self.flops += prod(array.shape)
        return Shape(tuple(array.shape))

    def add(self, left: Any, right: Any) -> Shape:
        """One addition per entry."""
        shape = tuple(max(pair) for pair in zip(left.shape, right.shape, strict=True))
        self.flops += prod(shape)
        return Shape(shape)

    def permute_dims(self, array: Any, order: Sequence[int]) -> Shape:
        """Free."""
        return Shape(tuple(array.shape[k] for k in order))

    def reshape(self, array: Any, shape: Sequence[int]) -> Shape:
        """Free."""
        return Shape(tuple(shape))

    def broadcast_to(self, array: Any, shape: Sequence[int]) -> Shape:
        """Free."""
        return Shape(tuple(shape))

    def diagonal(self, array: Any, first: int, second: int) -> Shape:
        """Free."""
        kept = [n for k, n in enumerate(array.shape) if k not in (first, second)]
        return Shape((*kept, array.shape[first]))

    def full(self, shape: Sequence[int], value: float, like: Node) -> Shape:
        """Free."""
        return Shape(tuple(shape))


@dataclass(frozen=True)
class Plan:
    """What was found out about a program before anything is computed; it holds no arrays.

    Attributes:
        choice: how the rewrite is evaluated; None if nothing moves.
        before, after: floating-point operations of the program and of its rewrite.
        matmul_before, matmul_after: those of matrix products.
        moves: the story of every sum.
        rolled: whether loops were first written as one step on a mapped axis; see `rolled`.
    """

    choice: Choice | None
    before: float
    after: float
    matmul_before: float
    matmul_after: float
    moves: tuple[Move, ...] = ()
    rolled: bool = False

    def run(self, arrays: Arrays, program: Program) -> list[Array]:
        """The outputs of the rewritten program; only where something moves."""
        assert self.choice is not None
        return Engine(arrays, self.choice).run(program)


ROUNDS = 8
TURNS = 12
"""How many places are tried from which to transpose a program."""
PLANS = 128
"""How many plans are kept."""


def plan(program: Program) -> Plan:
    """Find the nodes whose values are needed unsummed, and what the rewrite costs.

    Only the structure of a program counts, so programs of one structure are planned once. Where two
    cannot be compared (a symbolic shape has no hash) every one is planned.
    """
    structure = program.structure()
    try:
        hash(structure)
    except TypeError:
        return planned.__wrapped__(structure)
    return planned(structure)


@lru_cache(PLANS)
def planned(program: Program) -> Plan:
    """The plan of a structure."""
    before = _original(program)
    run = lambda engine: engine.run(program)  # noqa: E731
    attempts = [settled(run, factored) for factored in (False, True)]
    if any(engine.transposable for _, engine in attempts):
        attempts.append(settled(run, False, _turn(run)))
    shapes, engine = min(attempts, key=lambda attempt: attempt[0].flops)
    if shapes.flops >= before.flops:
        return Plan(None, before.flops, before.flops, before.matmul_flops, before.matmul_flops)
    return Plan(
        engine.chosen(),
        before.flops,
        shapes.flops,
        before.matmul_flops,
        shapes.matmul_flops,
        engine.moves(),
    )


def _turn(run: Callable[[Engine], object]) -> int:
    """From which node on a program is best transposed: where its reverse pass begins.

    What is transposed of that pass is the forward pass, which is there; before it nothing is.
    """

    def attempt(first: int) -> Engine:
        run(engine := Engine(Shapes(), Choice(transposed=first)))
        return engine

    def cost(first: int) -> float:
        shapes = attempt(first).arrays
        assert isinstance(shapes, Shapes)
        return shapes.flops

    passed = sorted(attempt(0).transposable)
    return min(passed[:: -(-len(passed) // TURNS)], key=cost)


def settled(
    run: Callable[[Engine], object], factored: bool, transposed: int | None = None
) -> tuple[Shapes, Engine]:
    """The cheapest of a few rounds, each of which knows better what will be asked for.

    Summing a value where it is may only make less be asked for elsewhere. A node that is asked for
    in several sums is tried both ways: as a value that is summed repeatedly, and as several sums.

    Args:
        run: asks an engine for what is wanted of a program.
        factored, transposed: see `Choice`.
    """

    def attempt(choice: Choice) -> tuple[Shapes, Engine]:
        engine = Engine(shapes := Shapes(), choice)
        run(engine)
        return shapes, engine

    first = best = attempt(Choice(factored=factored, transposed=transposed))
    for several in (True, False):
        _, engine = first
        for _ in range(ROUNDS - 1):
            choice = engine.choice
            needed, shared = _in_common(engine, several)
            forms = {number: tuple(asked.forms) for number, asked in engine.loops.items()}
            known = needed <= choice.needed and shared.keys() <= choice.shared.keys()
            if known and forms == choice.forms:
                break
            known_needed, known_shared = choice.needed | needed, {**shared, **choice.shared}
            choice = Choice(known_needed, factored, transposed, forms, known_shared)
            shapes, engine = attempt(choice)
            if shapes.flops < best[0].flops:
                best = shapes, engine
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


def _original(program: Program) -> Shapes:
    """The cost of the program as it is, of what its outputs need."""
    shapes = Shapes()
    for node in program.live():
        match node.kind:
            case Contracted() as kind:
                *_, inner = contracted_axes(kind, node, fresh(node.shape))
                size = prod(node.shape) * prod(lengths(inner))
                shapes.flops += 2 * size - prod(node.shape)
                shapes.matmul_flops += 2 * size
            case Summed():
                shapes.flops += prod(node.inputs[0].shape) - prod(node.shape)
            case Loop(bodies=bodies, length=length):
                shapes.count(max(map(_original, bodies), key=lambda body: body.flops), length or 1)
            case _:
                shapes.flops += node.flops
    return shapes
