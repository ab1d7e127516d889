"""Loops over directions, in the program or in Python, as one step on a mapped axis.

A loop that only adds up, or only stacks, what its steps give is a sum over a mapped axis, and so is
a sum of equal terms on other arrays, which is what a loop in Python leaves behind. Written with
`vmap` the sum can move into the step. That takes the memory of all steps at once, so it is done
where it saves operations (`SAVING`) and the loop stays a loop elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..core.axes import Pointwise
from .labels import Array
from .program import Loop, Node, Program, Slot

SAVING = 0.8
"""A rolled program is taken if it needs less than this share of the operations."""

TERMS = 3
"""From how many equal terms on a sum is rolled."""


class Mapping(Protocol):
    """What is asked of an array library."""

    vocabulary: Any
    """`core.arrays` of it."""

    def mapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """vmap along the first axis of every argument."""

    def stacked(self, arrays: Sequence[Array]) -> Array:
        """Along a new first axis."""

    def counted(self, start: Array, step: int, length: int) -> Array:
        """start, start + step, …"""

    def total(self, array: Array) -> Array:
        """The sum over the first axis."""


# ------------------------------------------------------------------ loops


@dataclass(frozen=True)
class Carries:
    """What a loop does with what it carries.

    Attributes:
        added: per carry that is only added to.
        steps: per carry that counts, by how much.
        same: those that stay.
    """

    added: frozenset[int]
    steps: dict[int, int]
    same: frozenset[int]


def carries(whole: Node) -> Carries | None:
    """Those of a loop; None for others, and where a step needs what the step before it made."""
    loop = whole.kind
    if not isinstance(loop, Loop) or loop.length is None or loop.length < TERMS:
        return None
    (body,) = loop.bodies
    users: dict[int, int] = {}
    for node in body.live():
        for x in node.inputs:
            users[x.number] = users.get(x.number, 0) + 1
    for x in body.outputs:
        if isinstance(x, Node):
            users[x.number] = users.get(x.number, 0) + 1
    added, steps, same = set(), {}, set()
    for k, out in enumerate(body.outputs[: loop.carried]):
        position = loop.constants + k
        if not isinstance(out, Node):
            return None
        if out.kind == Slot(position):
            same.add(k)
        elif (step := _step(out, position)) is not None:
            steps[k] = step
        elif _adds(out, position, users):
            added.add(k)
        else:
            return None
    entries = len(whole.inputs) - loop.constants - loop.carried
    return Carries(frozenset(added), steps, frozenset(same)) if steps or entries else None


def _step(out: Node, position: int) -> int | None:
    """The number that is added to an integer."""
    if out.name != "add" or len(out.inputs) != 2 or out.shape or not hasattr(out.dtype, "kind"):
        return None
    start, number = out.inputs
    if out.dtype.kind not in "iu" or start.kind != Slot(position) or number.name != "number":
        return None
    return int(number.issue((), ()))


def _adds(out: Node, position: int, users: dict[int, int]) -> bool:
    """Whether it is the carry and other terms, and the carry is used nowhere else."""
    while isinstance(out.kind, Pointwise) and out.kind.sign > 0 and users[out.number] == 1:
        if any(x.shape != out.shape or x.dtype != out.dtype for x in out.inputs):
            return False
        ends = [x for x in out.inputs if x.kind == Slot(position)]
        if ends:
            return len(ends) == 1 and users[ends[0].number] == 1
        sums = [x for x in out.inputs if isinstance(x.kind, Pointwise) and x.kind.sign > 0]
        if not sums:
            return False
        out = sums[0]
    return False


def _as_map(arrays: Mapping, loop: Loop, known: Carries, inputs: Sequence[Array]) -> list[Array]:
    """The results of a loop, of all its steps at once."""
    (body,) = loop.bodies
    first, last = loop.constants, loop.constants + loop.carried
    assert loop.length is not None
    constants, start, entries = inputs[:first], inputs[first:last], inputs[last:]
    counts = []
    for k, step in known.steps.items():
        begin = start[k] + step * (loop.length - 1) if loop.reverse else start[k]
        counts.append(arrays.counted(begin, -step if loop.reverse else step, loop.length))

    def once(counted: Sequence[Array], *entries: Array) -> list[Array]:
        carried = list(start)
        for k, count in zip(known.steps, counted, strict=True):
            carried[k] = count
        for k in known.added:
            carried[k] = arrays.vocabulary.zeros_like(start[k])
        return values(body, arrays, [*constants, *carried, *entries])

    made = arrays.mapped(once)(counts, *entries)
    results = list(made)
    for k in range(loop.carried):
        if k in known.added:
            results[k] = start[k] + arrays.total(made[k])
        elif k in known.steps:
            results[k] = start[k] + known.steps[k] * loop.length
        else:
            results[k] = start[k]
    return results


# ------------------------------------------------------------------ sums of equal terms


@dataclass(frozen=True)
class Equal:
    """A sum of terms that are one function of other arrays.

    Attributes:
        term: the nodes of the first one which are not the same in all.
        last: its value.
        apart: what is put in place of a node of the first term in each of them.
        around: the nodes that all share.
        rest: terms that are of another kind.
    """

    term: tuple[Node, ...]
    last: Node
    apart: tuple[tuple[Node, ...], ...]
    around: tuple[Node, ...]
    rest: tuple[Node, ...] = ()

    def needs(self) -> list[Node]:
        """The nodes that have to be known."""
        return [*(x for each in self.apart for x in each), *self.around, *self.rest]


def equal_terms(program: Program) -> dict[int, Equal]:
    """By the numbers of the sums."""
    live = program.live()
    users: dict[int, list[Node]] = {}
    for node in live:
        for x in node.inputs:
            users.setdefault(x.number, []).append(node)
    wanted = {x.number for x in program.outputs if isinstance(x, Node)}

    def inside(node: Node) -> bool:
        its = users.get(node.number, [])
        return _is_sum(node) and len(its) == 1 and node.number not in wanted and _is_sum(its[0])

    found = {}
    for root in live:
        if not _is_sum(root) or inside(root):
            continue
        rest, terms = [root], []
        while rest:
            x = rest.pop()
            if x is root or inside(x):
                rest += x.inputs
            elif not x.zero:
                terms.append(x)
        if len(terms) >= TERMS and (equal := _equal(terms)) is not None:
            found[root.number] = equal
    return found


def _is_sum(node: Node) -> bool:
    plain = isinstance(node.kind, Pointwise) and node.kind.sign > 0
    return plain and all(x.zero or x.shape == node.shape for x in node.inputs)


def _equal(terms: Sequence[Node]) -> Equal | None:
    """How the terms differ, if they do the same with other arrays."""
    if len({(x.operation, x.shape, x.dtype) for x in terms}) > 1:
        return None
    visited: dict[tuple[int, ...], tuple[Node, ...]] = {}
    apart: dict[tuple[int, ...], tuple[Node, ...]] = {}
    around: dict[int, Node] = {}
    first: dict[int, tuple[int, ...]] = {}
    rest = [tuple(terms)]
    while rest:
        each = rest.pop()
        key = tuple(x.number for x in each)
        if key in visited or key in apart:
            continue
        if len(set(key)) == 1:
            around[key[0]] = each[0]
            continue
        if first.setdefault(key[0], key) != key:
            return None  # one node of the first term stands for several of another one
        x = each[0]
        if len({(y.shape, y.dtype) for y in each}) > 1:
            return None
        alike = x.operation is not None and all(y.operation == x.operation for y in each)
        if alike and all(len(y.inputs) == len(x.inputs) for y in each):
            visited[key] = each
            rest += zip(*(y.inputs for y in each), strict=True)
        else:
            apart[key] = each
    if {x[0].number for x in visited.values()} & around.keys() or not visited:
        return None
    term = sorted((each[0] for each in visited.values()), key=lambda x: x.number)
    return Equal(tuple(term), terms[0], tuple(apart.values()), tuple(around.values()))


def _rolled(arrays: Mapping, equal: Equal, known: dict[int, Array]) -> Array:
    def term(*inputs: Array) -> Array:
        inside = {x.number: known[x.number] for x in equal.around}
        inside |= {each[0].number: x for each, x in zip(equal.apart, inputs, strict=True)}
        for node in equal.term:
            operands = [inside[x.number] for x in node.inputs]
            inside[node.number] = node.issue(operands, node.shape)
        return inside[equal.last.number]

    inputs = [arrays.stacked([known[x.number] for x in each]) for each in equal.apart]
    return arrays.total(arrays.mapped(term)(*inputs))


# ------------------------------------------------------------------ programs


def rollable(program: Program) -> bool:
    """Whether there is something to roll."""
    live = program.live()
    return any(carries(x) is not None for x in live) or bool(equal_terms(program))


def values(program: Program, arrays: Mapping, inputs: Sequence[Array] = ()) -> list[Array]:
    """The outputs, node by node, with mapped axes in place of loops."""
    equal = equal_terms(program)
    known: dict[int, Array] = {}
    waiting = [x for x in program.outputs if isinstance(x, Node)]
    while waiting:
        node = waiting[-1]
        if node.number in known:
            waiting.pop()
            continue
        needs = equal[node.number].needs() if node.number in equal else node.inputs
        missing = [x for x in needs if x.number not in known]
        if missing:
            waiting += missing
            continue
        known[node.number] = _value(node, equal.get(node.number), arrays, known, inputs)
    return [known[x.number] if isinstance(x, Node) else x for x in program.outputs]


def _value(
    node: Node, equal: Equal | None, arrays: Mapping, known: dict[int, Array], inputs: Any
) -> Any:
    if equal is not None:
        return _rolled(arrays, equal, known)
    if isinstance(node.kind, Slot):
        return inputs[node.kind.position]
    operands = [known[x.number] for x in node.inputs]
    if (found := carries(node)) is not None:
        assert isinstance(node.kind, Loop)
        return _as_map(arrays, node.kind, found, operands)
    return node.issue(operands, node.shape)
