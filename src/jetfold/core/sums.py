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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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

    def full(self, node: Node, shape: Sequence[int], value: float) -> Array:
        """One value everywhere, in the dtype of a node."""


def flat(axes: Axes) -> list[Label]:
    """All labels, in order."""
    return [label for group in axes for label in group]


def lengths(labels: Iterable[Label]) -> tuple[int, ...]:
    """Their lengths."""
    return tuple(label.length for label in labels)


def _merged(first: Sequence[Label], second: Sequence[Label]) -> list[Label]:
    """Both sequences in one, the first one's order kept and the second one's where it fits."""
    found: list[Label] = []
    waiting = list(second)
    for label in first:
        if label in waiting:
            at = waiting.index(label)
            found += [x for x in waiting[:at] if x not in first]
            waiting = waiting[at + 1 :]
        found.append(label)
    return found + [x for x in waiting if x not in first]


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


@contextmanager
def deep(count: int) -> Iterator[None]:
    """Asking recurses as deep as a program is long."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(limit + 16 * count)
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


class Engine:
    """One evaluation of a program."""

    def __init__(
        self,
        arrays: Arrays,
        needed: frozenset[int] = frozenset(),
        factored: bool = False,
        forms: Mapping[int, Any] | None = None,
        shared: Mapping[int, Any] | None = None,
    ) -> None:
        self.arrays = arrays
        self.needed = needed
        """The numbers of the nodes whose values are needed unsummed."""
        self.factored = factored
        """Whether factors that lack a summed axis leave the products that are summed over it."""
        self.shared = shared or {}
        """Per node that is asked for in several sums what they have in common, which is made once:
        its labels (numbered) by axes, and those that are summed over."""
        self.forms = forms or {}
        """Per loop the forms of its results that will be asked for; see `loops`."""
        self.forms_asked: dict[int, dict[Any, None]] = {}
        self.results: dict[int, dict[Any, Array]] = {}
        self.slots: Any = None
        """What stands for the inputs of the body of a loop."""
        self.weights_of: dict[int, list[int]] = {}
        self.kept_alive: list[Array] = []
        self.asked: dict[int, dict[Any, None]] = {}
        """Per node the forms that were asked for."""
        self.moves: list[Move] = []
        self._current: list[Move] = []
        self._memo: dict[Any, tuple[Array, tuple[int, ...]] | None] = {}
        self._dense: dict[int, Array] = {}
        self._varying: dict[Any, tuple[int, ...]] = {}
        self.carriers: dict[Any, Any] = {}
        """What `kinds.carrier` found."""
        self._products: dict[Any, tuple[Array, tuple[int, ...]]] = {}
        self._weights: dict[int, Part] = {}  # kept alive: their identity is part of keys

    # ---- what nodes are asked

    def run(self, nodes: Sequence[Node], outputs: Sequence[Any]) -> list[Array]:
        """The whole values of the outputs."""
        with deep(len(nodes)):
            return [self.dense(x) for x in outputs]

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
            return self.arrays.full(node, node.shape, 0.0)
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
        if part is None:
            return None
        repeated = absent & frozenset(part.labels)
        if repeated:  # a whole value, with equal entries along these
            part = self.reduced(part, repeated)
            factor /= prod(lengths(repeated))
        if factor != 1:
            part = Part(self.arrays.scale(part.array, factor), part.labels)
        return part

    def _ask(self, node: Node, axes: Axes, summed: Labels, weight: Weight) -> Part | None:
        labels = flat(axes)
        names = {label: k for k, label in enumerate(labels)}
        groups = tuple(tuple((names[x], x.length) for x in group) for group in axes)
        form = (groups, frozenset(names[x] for x in summed), self._of(weight, names))
        key = (node.number, form)
        if key not in self._memo:
            self.asked.setdefault(node.number, {})[form] = None
            part: Part | None
            if not summed and any(len(group) > 1 for group in axes) and self._varies(node, axes):
                part = Part(self.arrays.reshape(self.dense(node), lengths(labels)), labels)
            elif summed and node.number in self.needed:
                self._stop(node, "its value is needed unsummed too")
                part = self.reduce(self.value(node, axes), summed, weight)
            elif summed and self._shared(node, form):
                common = frozenset(labels[k] for k in self.shared[node.number][1])
                part = self.ask(node, axes, common, None)
                part = self.reduce(part, summed - common, weight)
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

    def _shared(self, node: Node, form: Any) -> bool:
        """Whether a form is a further sum of what the node's forms have in common."""
        groups, summed, weighted = form
        theirs, common = self.shared.get(node.number, (None, frozenset()))
        return (
            groups == theirs
            and common < summed
            and (weighted is None or not common & frozenset(weighted[1]))
        )

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
        """The labels of several parts; each part's stay in their order where they agree on one.

        A label that comes in by broadcasting then stays in front of those that both have: memory
        is still read along the last axis.
        """
        found: list[Label] = []
        for part in sorted(parts, key=lambda part: -len(part.labels)):
            found = _merged(found, part.labels)
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

    def summed_product(
        self, operands: Sequence[tuple[Node, Axes, Labels, Weight]], summed: Labels, last: Weight
    ) -> Part | None:
        """Σ last · a · b, of operands that are summed alone before; the same one is made once.

        Args:
            operands: two nodes with their axes and what `ask` sums them over, and its weights.
            summed: labels along which both vary.
            last: weights along these.
        """
        (a, axes_a, of_a, weight_a), (b, axes_b, of_b, weight_b) = operands
        labels = list(dict.fromkeys([*flat(axes_a), *flat(axes_b)]))
        names = {label: k for k, label in enumerate(labels)}

        def form(node: Node, axes: Axes, over: Labels, weight: Weight) -> Any:
            groups = tuple(tuple((names[x], x.length) for x in group) for group in axes)
            return node.number, groups, frozenset(names[x] for x in over), self._of(weight, names)

        key = (
            form(a, axes_a, of_a, weight_a),
            form(b, axes_b, of_b, weight_b),
            frozenset(names[x] for x in summed),
            self._of(last, names),
        )
        if key not in self._products:
            left = self.ask(a, axes_a, of_a, weight_a)
            right = self.ask(b, axes_b, of_b, weight_b)
            if left is None or right is None:
                return None
            if last is not None:
                left = self.product(left, last)
            made = self.product(left, right, summed)
            self._products[key] = (made.array, tuple(names[x] for x in made.labels))
        array, places = self._products[key]
        return Part(array, [labels[k] for k in places])

    def _of(self, weight: Weight, names: dict[Label, int]) -> Any:
        """What tells weights apart."""
        if weight is None:
            return None
        self._weights[id(weight.array)] = weight
        return id(weight.array), tuple(names[x] for x in weight.labels)

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
