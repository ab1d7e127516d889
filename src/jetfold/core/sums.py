"""Sums that move up through linear operations: the rewrite that collapses Taylor mode.

A program is a list of nodes. Every axis of a value is a group of labels (a merged axis has
several), and what is asked of a node is its value summed over some labels, weighted or not:

    ask(add(a, b), Σ_r)      = ask(a, Σ_r) + ask(b, Σ_r)
    ask(a · b, Σ_r)          = ask(a, Σ_r) · b           if b does not vary along r
                             = Σ_r a_r b_r               if both do: a contraction
    ask(contract(a, W), Σ_r) = contract(ask(a, Σ_r), W)

Labels go through a program as indices do through einsum. An axis that was broadcast has labels that
the value does not vary along; they are left out, and a sum over one is a factor. A node whose value
is needed unsummed anyway is summed where it is. What nobody asks for is never computed.

The engine knows neither framework: it re-issues operations through `Arrays`, on real arrays or, to
plan and to count, on shapes alone (`Shapes`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Protocol

Array = Any


class Label:
    """An index that runs along (a factor of) an axis."""

    __slots__ = ("length",)

    def __init__(self, length: int) -> None:
        self.length = length


Group = tuple[Label, ...]
Axes = tuple[Group, ...]
"""Per axis its labels, the slowest first; none for an axis of length one."""

Labels = frozenset[Label]


class Part:
    """An array with one axis per label, in this order; it does not vary along any other."""

    __slots__ = ("array", "labels")

    def __init__(self, array: Array, labels: Sequence[Label]) -> None:
        self.array = array
        self.labels = tuple(labels)


class Kind(Protocol):
    """How sums pass through an operation."""

    def varying(self, ask: Engine, node: Node, axes: Axes) -> Labels:
        """Along which labels of its axes the value varies."""

    def compute(self, ask: Engine, node: Node, axes: Axes, summed: Labels, weight: Weight) -> Any:
        """The value, or its (weighted) sum over labels that it varies along, as a Part; None for
        zeros; a `Stop` where the sum cannot pass."""


@dataclass(eq=False)
class Node:
    """An operation.

    Attributes:
        name: for people.
        inputs: nodes, or what is constant to the pass.
        issue: the operation itself: (*arrays) -> array.
        flops: of one evaluation of the whole.
    """

    name: str
    inputs: tuple[Any, ...]
    shape: tuple[int, ...]
    dtype: Any
    kind: Kind
    issue: Callable[..., Array]
    flops: float = 0.0
    options: dict[str, Any] = field(default_factory=dict)
    zero: bool = False
    number: int = 0

    def axes(self) -> Axes:
        """Fresh labels, one per axis."""
        return tuple((Label(n),) if n != 1 else () for n in self.shape)


Weight = Part | None
"""Factors along summed labels; None is one."""


@dataclass(frozen=True)
class Stop:
    """Why a sum cannot pass an operation."""

    reason: str


class Arrays(Protocol):
    """What the engine asks of an array library."""

    def issue(self, node: Node, arrays: Sequence[Array], shape: Sequence[int]) -> Array:
        """The node's operation on arrays that are broadcast to `shape`, its result's."""

    def contract(self, node: Node | None, left: Part, right: Part, out: Sequence[Label]) -> Array:
        """The product of two parts, summed over all labels that are not in `out`."""

    def total(self, array: Array, axes: Sequence[int]) -> Array:
        """The sum over some axes."""

    def scale(self, array: Array, factor: float) -> Array:
        """factor · array."""

    def permute(self, array: Array, order: Sequence[int]) -> Array:
        """The axes in another order."""

    def reshape(self, array: Array, shape: Sequence[int]) -> Array:
        """Another shape, of the same size."""

    def broadcast(self, array: Array, shape: Sequence[int]) -> Array:
        """Axes of length one repeated."""

    def zeros(self, node: Node, shape: Sequence[int]) -> Array:
        """Zeros in the dtype of a node."""


def flat(axes: Axes) -> list[Label]:
    """All labels, in order."""
    return [label for group in axes for label in group]


def lengths(labels: Iterable[Label]) -> tuple[int, ...]:
    """Their lengths."""
    return tuple(label.length for label in labels)


def aligned(arrays: Arrays, part: Part, labels: Sequence[Label]) -> Array:
    """A part as an array with an axis per label, in order, of length one where it lacks one."""
    present = [x for x in labels if x in part.labels]
    order = [part.labels.index(x) for x in present]
    array = part.array
    if order != list(range(len(order))):
        array = arrays.permute(array, order)
    if len(present) != len(labels):
        array = arrays.reshape(array, [x.length if x in part.labels else 1 for x in labels])
    return array


@dataclass
class Move:
    """A sum of the program: the operations that it passed, and what stopped it and why."""

    source: str
    passed: list[tuple[int, str]] = field(default_factory=list)
    stopped: list[tuple[int, str]] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


class Engine:
    """One evaluation of a program."""

    def __init__(self, arrays: Arrays, needed: frozenset[int] = frozenset()) -> None:
        self.arrays = arrays
        self.needed = needed
        """The numbers of the nodes whose values are needed unsummed."""
        self.asked: dict[int, dict[Any, None]] = {}
        """Per node the forms that were asked for."""
        self.moves: list[Move] = []
        self._current: list[Move] = []
        self._memo: dict[Any, tuple[Array, tuple[int, ...]] | None] = {}
        self._dense: dict[int, Array] = {}
        self._varying: dict[Any, tuple[int, ...]] = {}
        self._weights: dict[int, Part] = {}  # kept alive: their identity is part of keys

    # ---- what nodes are asked

    def run(self, nodes: Sequence[Node], outputs: Sequence[Any]) -> list[Array]:
        """The whole values of the outputs. Asking recurses as deep as the program is long."""
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(max(limit, 1000 + 12 * len(nodes)))
        try:
            return [self.dense(x) for x in outputs]
        finally:
            sys.setrecursionlimit(limit)

    def dense(self, x: Any) -> Array:
        """The whole value of a node, or the constant itself."""
        if not isinstance(x, Node):
            return x
        if x.number not in self._dense:
            axes = x.axes()
            part = self.value(x, axes)
            self._dense[x.number] = self.spread(x, part, axes)
        return self._dense[x.number]

    def spread(self, node: Node, part: Part | None, axes: Axes) -> Array:
        """A part as an array of the node's shape."""
        if part is None:
            return self.arrays.zeros(node, node.shape)
        labels = flat(axes)
        array = self.aligned(part, labels)
        if tuple(label.length if label in part.labels else 1 for label in labels) != lengths(
            labels
        ):
            array = self.arrays.broadcast(array, lengths(labels))
        if lengths(labels) != tuple(node.shape):
            array = self.arrays.reshape(array, node.shape)
        return array

    def value(self, node: Node, axes: Axes) -> Part | None:
        """The value with these labels; None for zeros."""
        return self.ask(node, axes, frozenset(), None)

    def ask(self, node: Node, axes: Axes, summed: Labels, weight: Weight) -> Part | None:
        """The value summed over labels, with a weight that varies along some of them."""
        if node.zero:
            return None
        labels = flat(axes)
        summed = summed & frozenset(labels)
        varying = self.varying(node, axes)
        absent = summed - varying
        factor = 1.0
        if absent:  # a sum over what does not vary
            kept = []
            for label in absent:
                if weight is not None and label in weight.labels:
                    kept.append(label)
                else:
                    factor *= label.length
            if kept:
                assert weight is not None
                weight = self.reduced(weight, frozenset(kept))
            summed = summed - absent
        if weight is not None and not weight.labels:
            part = self._ask(node, axes, summed, None)
            part = None if part is None else self.product(part, weight)
        else:
            part = self._ask(node, axes, summed, weight)
        if part is not None and factor != 1:
            part = Part(self.arrays.scale(part.array, factor), part.labels)
        return part

    def _ask(self, node: Node, axes: Axes, summed: Labels, weight: Weight) -> Part | None:
        labels = flat(axes)
        names = {label: k for k, label in enumerate(labels)}
        groups = tuple(tuple((names[x], x.length) for x in group) for group in axes)
        weighted: Any = None
        if weight is not None:
            weighted = (id(weight.array), tuple(names[x] for x in weight.labels))
            self._weights[id(weight.array)] = weight
        form = (groups, frozenset(names[x] for x in summed), weighted)
        key = (node.number, form)
        if key not in self._memo:
            self.asked.setdefault(node.number, {})[form] = None
            part: Part | None
            if not summed and any(len(group) > 1 for group in axes) and self._varies(node, axes):
                part = Part(self.arrays.reshape(self.dense(node), lengths(labels)), labels)
            elif summed and node.number in self.needed:
                self._stop(node, "its value is needed unsummed too")
                part = self.reduce(self.value(node, axes), summed, weight)
            else:
                found = node.kind.compute(self, node, axes, summed, weight)
                if isinstance(found, Stop):
                    self._stop(node, found.reason)
                    found = self.reduce(self.value(node, axes), summed, weight)
                elif summed:
                    self._pass(node)
                part = found
            self._memo[key] = (
                None if part is None else (part.array, tuple(names[x] for x in part.labels))
            )
        found = self._memo[key]
        return None if found is None else Part(found[0], [labels[k] for k in found[1]])

    def varying(self, node: Any, axes: Axes) -> Labels:
        """Along which of the labels a node's value varies."""
        if node.zero:
            return frozenset()
        labels = flat(axes)
        names = {label: k for k, label in enumerate(labels)}
        key = (node.number, tuple(tuple((names[x], x.length) for x in group) for group in axes))
        if key not in self._varying:
            found = node.kind.varying(self, node, axes)
            self._varying[key] = tuple(names[x] for x in found)
        return frozenset(labels[k] for k in self._varying[key])

    def _varies(self, node: Node, axes: Axes) -> bool:
        """Whether the value varies along all its labels."""
        return self.varying(node, axes) == frozenset(flat(axes))

    # ---- the story of the sums

    def begin(self, node: Node) -> None:
        """A sum of the program starts to move."""
        self._current.append(Move(node.name))
        self.moves.append(self._current[-1])

    def end(self) -> None:
        """It has settled."""
        self._current.pop()

    def _pass(self, node: Node) -> None:
        if self._current:
            self._current[-1].passed.append((node.number, node.name))

    def _stop(self, node: Node, reason: str) -> None:
        if self._current:
            self._current[-1].stopped.append((node.number, node.name))
            self._current[-1].reasons.append(reason)

    # ---- parts

    def aligned(self, part: Part, labels: Sequence[Label]) -> Array:
        """The array with its axes in the order of `labels`, length one where it lacks one."""
        return aligned(self.arrays, part, labels)

    def together(self, parts: Sequence[Part]) -> list[Label]:
        """The labels of several parts, in the order of the one with most."""
        first = max(parts, key=lambda part: len(part.labels))
        found = list(first.labels)
        for part in parts:
            found += [x for x in part.labels if x not in found]
        return found

    def product(self, left: Part, right: Part, summed: Labels = frozenset()) -> Part:
        """The product of two parts, summed over labels."""
        left, right = (
            self.reduced(one, summed - frozenset(other.labels))
            for one, other in ((left, right), (right, left))
        )
        labels = self.together([left, right])
        out = [x for x in labels if x not in summed]
        return Part(self.arrays.contract(None, left, right, out), out)

    def reduced(self, part: Part, summed: Labels) -> Part:
        """The sum over labels of a part."""
        axes = [k for k, label in enumerate(part.labels) if label in summed]
        if not axes:
            return part
        kept = [label for label in part.labels if label not in summed]
        return Part(self.arrays.total(part.array, axes), kept)

    def reduce(self, part: Part | None, summed: Labels, weight: Weight) -> Part | None:
        """The (weighted) sum of a value that varies along all the labels."""
        if part is None:
            return None
        if weight is None:
            return self.reduced(part, summed)
        return self.product(part, weight, summed)


# ------------------------------------------------------------------ kinds


class Opaque:
    """An operation that sums do not pass: a value, in which everything may vary."""

    def varying(self, ask: Engine, node: Node, axes: Axes) -> Labels:
        return frozenset(flat(axes))

    def compute(self, ask: Engine, node: Node, axes: Axes, summed: Labels, weight: Weight) -> Any:
        if summed:
            return Stop("not linear, or not known to be")
        return whole(ask, node, axes)


def whole(ask: Engine, node: Node, axes: Axes) -> Part:
    """The operation on whole values."""
    array = ask.arrays.issue(node, [ask.dense(x) for x in node.inputs], node.shape)
    labels = flat(axes)
    if lengths(labels) != tuple(node.shape):
        array = ask.arrays.reshape(array, lengths(labels))
    return Part(array, labels)


def operand_axes(x: Node, axes: Axes) -> Axes:
    """The labels of an operand that is broadcast to a result with these."""
    tail = axes[len(axes) - len(x.shape) :] if x.shape else ()
    return tuple(group if n != 1 else () for group, n in zip(tail, x.shape, strict=True))


class Elementwise:
    """An operation on every entry alone, with broadcasting.

    Args:
        linear: the operands in which it is linear together.
        factors: the two operands of a product, both nodes.
    """

    def __init__(self, linear: Sequence[int] = (), factors: Sequence[int] = ()) -> None:
        self.linear = tuple(linear)
        self.factors = tuple(factors)

    def varying(self, ask: Engine, node: Node, axes: Axes) -> Labels:
        found: Labels = frozenset()
        for x in node.inputs:
            if isinstance(x, Node):
                found |= ask.varying(x, operand_axes(x, axes))
        return found

    def compute(self, ask: Engine, node: Node, axes: Axes, summed: Labels, weight: Weight) -> Any:
        operands = [(k, x) for k, x in enumerate(node.inputs) if isinstance(x, Node)]
        along = {k: ask.varying(x, operand_axes(x, axes)) & summed for k, x in operands}
        carrying = [k for k, labels in along.items() if labels]
        linear = [k for k in self.linear if k in along]
        if not summed:
            return self._apply(ask, node, axes, {})
        if self.factors and set(carrying) <= set(self.factors):
            return self._product(ask, node, axes, summed, weight, along)
        if linear and set(carrying) <= set(linear):
            return self._apply(ask, node, axes, {k: (summed, weight) for k in linear})
        return Stop("not linear in what carries the axis")

    def _apply(
        self,
        ask: Engine,
        node: Node,
        axes: Axes,
        forms: dict[int, tuple[Labels, Weight]],
    ) -> Part | None:
        """The operation on operands that are summed as `forms` says."""
        parts: dict[int, Part | None] = {}
        for k, x in enumerate(node.inputs):
            if isinstance(x, Node):
                summed, weight = forms.get(k, (frozenset(), None))
                own = operand_axes(x, axes)
                if forms and k in forms:
                    parts[k] = _summed_operand(ask, x, own, axes, summed, weight)
                else:
                    parts[k] = ask.value(x, own)
        zero = [k for k, part in parts.items() if part is None]
        linear = [k for k in self.linear if k in parts]
        if linear and all(k in zero for k in linear):
            return None
        if any(k in zero for k in self.factors):
            return None
        present = [part for part in parts.values() if part is not None]
        labels = ask.together(present)
        shape = lengths(labels)
        if node.options.get("sum") and len(parts) == 2 and len(zero) == 1:
            return _one_term(ask, node, parts, zero[0])
        arrays = []
        for k, x in enumerate(node.inputs):
            part = parts.get(k)
            if k not in parts:
                arrays.append(x)
            elif part is None:
                arrays.append(ask.arrays.zeros(x, [1] * len(labels)))
            else:
                arrays.append(ask.aligned(part, labels))
        return Part(ask.arrays.issue(node, arrays, shape), labels)

    def _product(
        self,
        ask: Engine,
        node: Node,
        axes: Axes,
        summed: Labels,
        weight: Weight,
        along: dict[int, Labels],
    ) -> Any:
        k, other = self.factors
        for j, rest in ((k, other), (other, k)):
            own = operand_axes(node.inputs[j], axes)
            if along[j] and ask.varying(node.inputs[j], own) <= summed:  # a factor of weights
                vector = ask.value(node.inputs[j], own)
                if vector is None:
                    return None
                weights = vector if weight is None else ask.product(vector, weight)
                x = node.inputs[rest]
                return _summed_operand(ask, x, operand_axes(x, axes), axes, summed, weights)
        both = along.get(k, frozenset()) & along.get(other, frozenset())
        forms: dict[int, Labels] = {j: along.get(j, frozenset()) - both for j in self.factors}
        given: dict[int, Weight] = {k: None, other: None}
        last: Weight = None
        if weight is not None:
            needs = frozenset(weight.labels)
            if needs <= both:
                last = weight
            else:
                fits = [j for j in self.factors if needs <= forms[j]]
                if not fits:
                    return Stop("its weights vary along axes of both factors")
                given[fits[0]] = weight
        parts = []
        for j in self.factors:
            x = node.inputs[j]
            part = ask.ask(x, operand_axes(x, axes), forms[j], given[j])
            if part is None:
                return None
            parts.append(part)
        left, right = parts
        if last is not None:
            left = ask.product(left, last)
        if not both:
            labels = ask.together([left, right])
            arrays = [ask.aligned(part, labels) for part in (left, right)]
            ordered = arrays if k < other else arrays[::-1]
            return Part(ask.arrays.issue(node, ordered, lengths(labels)), labels)
        return ask.product(left, right, both)


def _summed_operand(
    ask: Engine, x: Node, own: Axes, axes: Axes, summed: Labels, weight: Weight
) -> Part | None:
    """An operand of a linear operation, summed; over labels that it lacks it counts repeatedly."""
    missing = (summed & frozenset(flat(axes))) - frozenset(flat(own))
    inside = summed - missing
    factor, given = 1.0, weight
    if missing:
        if weight is not None and missing & frozenset(weight.labels):
            given = ask.reduced(weight, missing & frozenset(weight.labels))
        known = frozenset(weight.labels) if weight is not None else frozenset()
        factor = float(prod(label.length for label in missing - known))
    part = ask.ask(x, own, inside, given)
    if part is not None and factor != 1:
        part = Part(ask.arrays.scale(part.array, factor), part.labels)
    return part


def _one_term(ask: Engine, node: Node, parts: dict[int, Part | None], zero: int) -> Part | None:
    """a + 0 or a − 0, and 0 − b."""
    (k,) = (k for k in parts if k != zero)
    part = parts[k]
    assert part is not None
    if k == 1 and node.options["sum"] < 0:
        return Part(ask.arrays.scale(part.array, -1.0), part.labels)
    return part


class Rearranged:
    """One operand whose axes are those of the result: permuted, broadcast, of length one, merged.

    Args:
        operand_axes: (node, axes of the result) -> axes of the operand, or None if the labels do
            not fit.
    """

    def __init__(self, operand_axes: Callable[[Node, Axes], Axes | None]) -> None:
        self.operand_axes = operand_axes

    def varying(self, ask: Engine, node: Node, axes: Axes) -> Labels:
        own = self.operand_axes(node, axes)
        if own is None:
            return frozenset(flat(axes))
        return ask.varying(node.inputs[0], own)

    def compute(self, ask: Engine, node: Node, axes: Axes, summed: Labels, weight: Weight) -> Any:
        own = self.operand_axes(node, axes)
        if own is None:
            if summed:
                return Stop("the axis is merged with another across the sum")
            return whole(ask, node, axes)
        return ask.ask(node.inputs[0], own, summed, weight)


def permuted(node: Node, axes: Axes) -> Axes:
    """Axis k of the result is axis order[k] of the operand."""
    own: list[Group] = [()] * len(axes)
    for k, axis in enumerate(node.options["order"]):
        own[axis] = axes[k]
    return tuple(own)


def broadcast(node: Node, axes: Axes) -> Axes:
    """Axis k of the operand is axis dims[k] of the result, or of length one."""
    return tuple(
        axes[axis] if n != 1 else ()
        for axis, n in zip(node.options["dims"], node.inputs[0].shape, strict=True)
    )


def reshaped(node: Node, axes: Axes) -> Axes | None:
    """The labels of all axes in a row, grouped anew; labels that cross a border do not fit."""
    rest = flat(axes)
    own: list[Group] = []
    for n in node.inputs[0].shape:
        group: list[Label] = []
        while prod(lengths(group)) < n:
            if not rest:
                return None
            group.append(rest.pop(0))
        if prod(lengths(group)) != n:
            return None
        own.append(tuple(group))
    return None if rest else tuple(own)


class Sum:
    """The sum over some axes of the operand."""

    def _operand(self, node: Node, axes: Axes) -> tuple[Axes, Labels]:
        x, summed = node.inputs[0], node.options["axes"]
        rest = list(axes)
        own: list[Group] = []
        new: list[Label] = []
        for k, n in enumerate(x.shape):
            if k not in summed:
                own.append(rest.pop(0))
                continue
            if node.options.get("keepdims"):
                rest.pop(0)
            own.append((Label(n),) if n != 1 else ())
            new += own[-1]
        return tuple(own), frozenset(new)

    def varying(self, ask: Engine, node: Node, axes: Axes) -> Labels:
        own, new = self._operand(node, axes)
        return ask.varying(node.inputs[0], own) - new

    def compute(self, ask: Engine, node: Node, axes: Axes, summed: Labels, weight: Weight) -> Any:
        own, new = self._operand(node, axes)
        ask.begin(node)
        part = ask.ask(node.inputs[0], own, summed | new, weight)
        ask.end()
        return part


class Contract:
    """A product of two operands over named axes: options left, right and out name theirs.

    `batch` etc. need no words: an axis is summed if its name is not in `out`.
    """

    def _operands(self, node: Node, axes: Axes) -> tuple[Axes, Axes, Labels]:
        names: dict[Any, Group] = dict(zip(node.options["out"], axes, strict=True))
        inner: list[Label] = []
        sides = []
        for side, x in zip(("left", "right"), node.inputs, strict=True):
            for name, n in zip(node.options[side], x.shape, strict=True):
                if name not in names:
                    names[name] = (Label(n),) if n != 1 else ()
                    inner += names[name]
            sides.append(
                tuple(
                    names[name] if n != 1 else ()
                    for name, n in zip(node.options[side], x.shape, strict=True)
                )
            )
        return sides[0], sides[1], frozenset(inner)

    def varying(self, ask: Engine, node: Node, axes: Axes) -> Labels:
        left, right, inner = self._operands(node, axes)
        a, b = node.inputs
        return (ask.varying(a, left) | ask.varying(b, right)) - inner

    def compute(self, ask: Engine, node: Node, axes: Axes, summed: Labels, weight: Weight) -> Any:
        left, right, inner = self._operands(node, axes)
        a, b = node.inputs
        of_a, of_b = ask.varying(a, left), ask.varying(b, right)
        # Σ_k w_k b_k with w a vector: a sum like others, with weights.
        for x, own, along, y, other in (
            (a, left, of_a, b, right),
            (b, right, of_b, a, left),
        ):
            if along and along <= inner and weight is None and lets_sums_in(y):
                vector = ask.value(x, own)
                if vector is None:
                    return None
                source = not summed
                if source:
                    ask.begin(node)
                part = _summed_operand(ask, y, other, (*other, *own), inner | summed, vector)
                if source:
                    ask.end()
                return part
        both = of_a & of_b & summed
        alone_a, alone_b = (of_a - of_b) & summed, (of_b - of_a) & summed
        # An inner label along which only one operand varies is a sum over that operand.
        lone_a, lone_b = (of_a - of_b) & inner, (of_b - of_a) & inner
        given_a = given_b = last = None
        if weight is not None:
            needs = frozenset(weight.labels)
            if needs <= alone_a:
                given_a = weight
            elif needs <= alone_b:
                given_b = weight
            elif needs <= both:
                last = weight
            else:
                return Stop("its weights vary along axes of both operands")
        u = ask.ask(a, left, alone_a | lone_a, given_a)
        v = ask.ask(b, right, alone_b | lone_b, given_b)
        if u is None or v is None:
            return None
        if last is not None:
            u = ask.product(u, last)
        # An inner label that neither varies along counts its length.
        idle = [label for label in inner if label not in of_a and label not in of_b]
        out = [x for x in flat(axes) if x not in summed and x in (*u.labels, *v.labels)]
        array = ask.arrays.contract(node, u, v, out)
        if idle:
            array = ask.arrays.scale(array, float(prod(lengths(idle))))
        return Part(array, out)


def lets_sums_in(x: Any) -> bool:
    """Whether a sum has somewhere to go beyond rearrangements."""
    while isinstance(x, Node) and isinstance(x.kind, Rearranged):
        x = x.inputs[0]
    if not isinstance(x, Node) or isinstance(x.kind, (Leaf, Opaque)):
        return False
    return not isinstance(x.kind, Elementwise) or bool(x.kind.linear or x.kind.factors)


class Along:
    """An operation that is linear in some operands and acts along some axes only.

    The other axes pass through it; a sum over one of them leaves an axis of length one.

    options: `acts`, the axes of the result that it acts along; `through`, per operand (by its
    position) from axes of the result to its own; `resized`, how to issue it for another shape.
    """

    def __init__(self, linear: Sequence[int]) -> None:
        self.linear = tuple(linear)

    def varying(self, ask: Engine, node: Node, axes: Axes) -> Labels:
        found = frozenset(x for k in node.options["acts"] for x in axes[k])
        for k in self.linear:
            x = node.inputs[k]
            if isinstance(x, Node):
                found |= ask.varying(x, self._own(node, axes, k))
        return found & frozenset(flat(axes))

    def _own(self, node: Node, axes: Axes, k: int) -> Axes:
        """The axes of operand k: those that pass through with their labels, others with fresh."""
        x = node.inputs[k]
        own: list[Group] = [(Label(n),) if n != 1 else () for n in x.shape]
        for axis, theirs in node.options["through"][k].items():
            own[theirs] = axes[axis] if x.shape[theirs] != 1 else ()
        return tuple(own)

    def compute(self, ask: Engine, node: Node, axes: Axes, summed: Labels, weight: Weight) -> Any:
        acting = {x for k in node.options["acts"] for x in axes[k]}
        if not summed:
            return whole(ask, node, axes)
        if summed & acting:
            return Stop("it acts along the axis")
        shape = _without(axes, node.shape, summed)
        arrays = []
        for k, x in enumerate(node.inputs):
            if k not in self.linear or not isinstance(x, Node):
                arrays.append(ask.dense(x) if isinstance(x, Node) else x)
                continue
            own = self._own(node, axes, k)
            part = _summed_operand(ask, x, own, axes, summed, weight)
            sizes = _without(own, x.shape, summed)
            if part is None:
                arrays.append(ask.arrays.zeros(x, sizes))
                continue
            labels = [x for x in flat(own) if x not in summed]
            array = ask.aligned(part, labels)
            absent = [x for x in labels if x not in part.labels]
            if absent:
                array = ask.arrays.broadcast(array, lengths(labels))
            arrays.append(ask.arrays.reshape(array, sizes))
        if all(isinstance(node.inputs[k], Node) and node.inputs[k].zero for k in self.linear):
            return None
        array = ask.arrays.issue(node, arrays, shape)
        kept = [x for x in flat(axes) if x not in summed]
        return Part(ask.arrays.reshape(array, lengths(kept)), kept)


def _without(axes: Axes, shape: Sequence[int], summed: Labels) -> list[int]:
    """The shape when only the other labels are left of each axis."""
    return [
        prod(x.length for x in group if x not in summed) if group else n
        for group, n in zip(axes, shape, strict=True)
    ]


class Leaf:
    """An input of the program, or a constant array."""

    def varying(self, ask: Engine, node: Node, axes: Axes) -> Labels:
        return frozenset(flat(axes))

    def compute(self, ask: Engine, node: Node, axes: Axes, summed: Labels, weight: Weight) -> Any:
        if summed:
            return Stop("an input")
        labels = flat(axes)
        array = node.options["array"]
        if lengths(labels) != tuple(node.shape):
            array = ask.arrays.reshape(array, lengths(labels))
        return Part(array, labels)


# ------------------------------------------------------------------ shapes, and the plan


def is_zero(kind: Kind, inputs: Sequence[Any]) -> bool:
    """Whether an operation on these inputs gives nothing but zeros, whatever their values."""
    zero = [isinstance(x, Node) and x.zero for x in inputs]
    match kind:
        case Elementwise():
            linear = bool(kind.linear) and all(zero[k] for k in kind.linear)
            return linear or any(zero[k] for k in kind.factors)
        case Contract():
            return any(zero)
        case Rearranged() | Sum():
            return zero[0]
        case Along():
            return all(zero[k] for k in kind.linear)
    return False


@dataclass(frozen=True)
class Shape:
    """Stands for an array where only shapes matter."""

    shape: tuple[int, ...]


class Shapes:
    """`Arrays` on shapes alone; counts additions and multiplications."""

    def __init__(self) -> None:
        self.flops = 0.0
        self.matmul_flops = 0.0

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

    def zeros(self, node: Node, shape: Sequence[int]) -> Shape:
        """Free."""
        return Shape(tuple(shape))


@dataclass(frozen=True)
class Plan:
    """What was found out about a program before anything is computed.

    Attributes:
        needed: the numbers of the nodes whose values are needed unsummed; None if nothing moves.
        before, after: floating-point operations of the program and of its rewrite.
        matmul_before, matmul_after: those of matrix products.
        moves: the story of every sum.
    """

    needed: frozenset[int] | None
    before: float
    after: float
    matmul_before: float
    matmul_after: float
    moves: tuple[Move, ...]


ROUNDS = 8


def plan(nodes: Sequence[Node], outputs: Sequence[Any]) -> Plan:
    """Find the nodes whose values are needed unsummed, and what the rewrite costs.

    Summing a value where it is may only make less be asked for elsewhere, so a few rounds settle.
    """
    before = _original(nodes, outputs)
    needed: frozenset[int] = frozenset()
    best: tuple[Shapes, Engine, frozenset[int]] | None = None
    for _ in range(ROUNDS):
        shapes = Shapes()
        engine = Engine(shapes, needed)
        engine.run(nodes, outputs)
        if best is None or shapes.flops < best[0].flops:
            best = (shapes, engine, needed)
        found = frozenset(
            number
            for number, forms in engine.asked.items()
            if any(not summed for _, summed, _ in forms) or len(forms) > 1
        )
        if found <= needed:
            break
        needed = needed | found
    assert best is not None
    shapes, engine, needed = best
    if shapes.flops >= before.flops:
        return Plan(None, before.flops, before.flops, before.matmul_flops, before.matmul_flops, ())
    return Plan(
        needed,
        before.flops,
        shapes.flops,
        before.matmul_flops,
        shapes.matmul_flops,
        tuple(engine.moves),
    )


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
        else:
            shapes.flops += node.flops
    return shapes
