"""Sums that move up through linear operations: the rewrite that collapses Taylor mode.

What is asked of a node is its value summed over some labels of its axes, weighted or not:

    ask(add(a, b), Σ_r)      = ask(a, Σ_r) + ask(b, Σ_r)
    ask(a · b, Σ_r)          = ask(a, Σ_r) · b           if b does not vary along r
                             = Σ_r a_r b_r               if both do: a contraction
    ask(contract(a, W), Σ_r) = contract(ask(a, Σ_r), W)

Labels go through a program as indices do through einsum. An axis that was broadcast has labels that
the value does not vary along; they are left out, and a sum over one is a factor. A node whose value
is needed unsummed anyway is summed where it is. What nobody asks for is never computed.

The engine knows neither framework: it re-issues operations through `Arrays`, on real arrays or, to
plan and to count, on shapes alone (`plan.Shapes`). How a sum passes an operation follows from its
kind: `varying` and `compute`, which `kinds` and `loops` define.

A program may be thousands of operations long, and asking must not recurse as deep. So whatever asks
is a generator: it yields what it asks for, and is sent the answer (`answer`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import singledispatch
from math import prod
from types import GeneratorType
from typing import Any, TypeVar

from ..core.axes import Contracted, Pointwise, Rearranged, Summed
from .arrays import Arrays, aligned, spread
from .labels import (
    Array,
    Axes,
    Label,
    Labels,
    Part,
    Weight,
    flat,
    fresh,
    lengths,
    repeated,
    spelled,
    together,
)
from .program import Node, Program

T = TypeVar("T")

Steps = Generator[Any, Any, T]
"""What yields other steps, is sent the answer of each, and returns its own."""


def answer(steps: Steps[T]) -> T:
    """What steps return; no call is deeper than this one.

    Steps may also yield an answer that they have, so a function that asks nothing needs no yield.
    """
    asking: list[Steps[Any]] = []
    found: Any = steps
    while True:
        if isinstance(found, GeneratorType):
            asking.append(found)
            found = None
        elif not asking:
            return found
        try:
            found = asking[-1].send(found)
        except StopIteration as stop:
            asking.pop()
            found = stop.value


@dataclass(frozen=True)
class Stop:
    """Why a sum cannot pass an operation.

    Attributes:
        labels: those that stop; None for all. The others pass.
    """

    reason: str
    labels: Labels | None = None


@singledispatch
def varying(kind: Any, ask: Engine, node: Node, axes: Axes) -> Steps[Labels] | Labels:
    """Along which labels of its axes a node of this kind varies."""
    raise NotImplementedError(kind)


@singledispatch
def compute(
    kind: Any, ask: Engine, node: Node, axes: Axes, summed: Labels, weight: Weight
) -> Steps[Part | Stop | None] | Part | Stop | None:
    """The value of a node of this kind, or its (weighted) sum over labels that it varies along.

    Returns:
        a part; None for zeros; a `Stop` where the sum cannot pass.
    """
    raise NotImplementedError(kind)


@dataclass(frozen=True)
class Move:
    """The story of a sum of the program.

    Attributes:
        source: the operation that sums.
        passed: numbers and names of the operations that it passed.
        stopped: of those that stopped it.
        reasons: why each of these did.
    """

    source: str
    passed: tuple[tuple[int, str], ...]
    stopped: tuple[tuple[int, str], ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Choice:
    """What was chosen before anything is computed; see `plan`.

    Attributes:
        needed: the numbers of the nodes whose values are needed unsummed.
        factored: whether factors that lack a summed axis leave the products summed over it.
        transposed: from which node on products pass sums on with one factor as weights (see
            `adjoint`); None for nowhere.
        forms: per loop the forms of its results that will be asked for; see `loops`.
        shared: per node that is asked for in several sums what they have in common, which is made
            once: its labels (numbered) by axes, and those that are summed over.
        fixed: the fixed points of the loops; see `loops.Fixed`.
    """

    needed: frozenset[int] = frozenset()
    factored: bool = False
    transposed: int | None = None
    forms: Mapping[int, Any] = field(default_factory=dict)
    shared: Mapping[int, Any] = field(default_factory=dict)
    fixed: Mapping[Any, Any] = field(default_factory=dict)


@dataclass
class Asked:
    """What an engine remembers of one loop.

    Attributes:
        forms: in which its results were asked for.
        results: the arrays that were made.
        weights: of the forms, by identity, in the order in which they came.
    """

    forms: dict[Any, None] = field(default_factory=dict)
    results: dict[Any, Array] = field(default_factory=dict)
    weights: list[Array] = field(default_factory=list)

    def turn(self, weight: Array) -> int:
        """As which one a weight came."""
        known = (k for k, array in enumerate(self.weights) if array is weight)
        if (turn := next(known, None)) is None:
            turn = len(self.weights)
            self.weights.append(weight)
        return turn


COPIES = ("clone", "_to_copy", "copy")
"""Names of what is its operand in another array: nothing is copied but what is returned."""

SPLITTING = Pointwise | Contracted | Rearranged | Summed
"""Kinds whose values are made with merged axes taken apart, as they are asked for."""


class Engine:
    """One evaluation of a program.

    Args:
        slots: what stands for the inputs of the body of a loop; see `loops`.
    """

    def __init__(self, arrays: Arrays, choice: Choice | None = None, slots: Any = None) -> None:
        self.arrays = arrays
        self.choice = choice or Choice()
        self.slots = slots
        self.loops: dict[int, Asked] = {}
        self.fixed: dict[Any, Any] = {}
        self.asked: dict[int, dict[Any, None]] = {}
        """Per node the forms that were asked for."""
        self.carriers: dict[Any, Any] = {}
        """What `kinds.carrier` found."""
        self.transposable: set[int] = set()
        """The products that could pass a sum on with one factor as weights."""
        self._sums: list[_Sum] = []
        self._current: list[_Sum] = []
        self._memo: dict[Any, Part | None] = {}  # with numbers for labels
        self._dense: dict[int, Array] = {}
        self._split: dict[int, tuple[Axes, Part]] = {}  # whole values, with axes taken apart
        self._varying: dict[Any, tuple[int, ...]] = {}
        self._products: dict[Any, Part] = {}
        self._results: dict[Any, tuple[Part, tuple[int, ...], Any]] = {}
        self._weights: dict[Any, Part] = {}  # kept alive: their identity is part of keys

    # ---- what nodes are asked

    def run(self, program: Program) -> list[Array]:
        """The whole values of the outputs."""
        arrays = [answer(self.dense(x)) for x in program.outputs]
        for k, x in enumerate(program.outputs):
            if isinstance(x, Node) and x.name.startswith(COPIES):  # nobody else's array
                arrays[k] = self.arrays.issue(x, [arrays[k]], x.shape)
        return arrays

    def chosen(self) -> Choice:
        """The choice, with the fixed points that were found."""
        return replace(self.choice, fixed=self.fixed)

    def dense(self, x: Any) -> Steps[Array]:
        """The whole value of a node, or the constant itself."""
        if not isinstance(x, Node):
            return x
        if x.number not in self._dense:
            axes, part = self._split.get(x.number, (fresh(x.shape), None))
            if part is None:
                part = yield self.value(x, axes)
            array = spread(self.arrays, part, flat(axes), x)
            if lengths(flat(axes)) != tuple(x.shape):
                array = self.arrays.reshape(array, x.shape)
            self._dense[x.number] = array
        return self._dense[x.number]

    def value(self, node: Node, axes: Axes) -> Steps[Part | None]:
        """The value with these labels; None for zeros."""
        return self.ask(node, axes, frozenset(), None)

    def ask(self, node: Node, axes: Axes, summed: Labels, weight: Weight) -> Steps[Part | None]:
        """The value summed over labels, with a weight that varies along some of them."""
        if node.zero:
            return None
        labels = frozenset(flat(axes))
        summed = summed & labels
        absent = summed - (yield self.varying(node, axes))  # a sum over what does not vary
        given = frozenset(weight.labels if weight is not None else ())
        factor = float(prod(lengths(absent - given)))
        summed = summed - absent
        if weight is not None:
            weight = self.reduced(weight, absent & given)
        if weight is not None and not weight.labels:
            part = yield from self._form(node, axes, summed, None)
            part = None if part is None else self.product(part, weight)
        else:
            part = yield from self._form(node, axes, summed, weight)
        if part is None:
            return None
        repeated = absent & frozenset(part.labels)
        if repeated:  # a whole value, with equal entries along these
            part = self.reduced(part, repeated)
            factor /= prod(lengths(repeated))
        return self.times(part, factor)

    def _form(self, node: Node, axes: Axes, summed: Labels, weight: Weight) -> Steps[Part | None]:
        """The same for labels that the node varies along; each form is made once."""
        labels = flat(axes)
        names = {label: k for k, label in enumerate(labels)}
        form = (_named(axes, names), frozenset(names[x] for x in summed), self._of(weight, names))
        key = (node.number, form)
        if key not in self._memo:
            self.asked.setdefault(node.number, {})[form] = None
            part = yield from self._made(node, axes, summed, weight, form)
            self._memo[key] = None if part is None else part.renamed(names)
        found = self._memo[key]
        return None if found is None else found.renamed(dict(enumerate(labels)))

    def _made(
        self, node: Node, axes: Axes, summed: Labels, weight: Weight, form: Any
    ) -> Steps[Part | None]:
        labels = flat(axes)
        merged = not (summed or repeated(axes)) and any(len(group) > 1 for group in axes)
        merged &= node.number in self._dense or not isinstance(node.kind, SPLITTING)
        if merged and (yield self.varying(node, axes)) == frozenset(labels):
            array = yield self.dense(node)
            return Part(self.arrays.reshape(array, lengths(labels)), labels)
        if summed and node.number in self.choice.needed:
            self._stop(node, "its value is needed unsummed too")
            return self.reduce((yield self.value(node, axes)), summed, weight)
        if summed and (common := self._in_common(node, form)) is not None:
            first = frozenset(labels[k] for k in common)
            part = yield self.ask(node, axes, first, None)
            return self.reduce(part, summed - first, weight)
        found = yield compute(node.kind, self, node, axes, summed, weight)
        if isinstance(found, Stop):
            self._stop(node, found.reason)
            return (yield from self._stopped(node, axes, summed, weight, found))
        if summed:
            self.passed(node)
        elif found is not None and set(found.labels) == set(spelled(axes)) and not repeated(axes):
            self._split[node.number] = axes, found
        return found

    def _stopped(
        self, node: Node, axes: Axes, summed: Labels, weight: Weight, stop: Stop
    ) -> Steps[Part | None]:
        """The sum over what passes, and then over the rest."""
        stopping = summed if stop.labels is None else stop.labels & summed
        given = frozenset(weight.labels) if weight is not None else frozenset()
        if given & stopping:
            stopping |= given & summed
        passing = summed - stopping
        if not passing or not stopping:
            return self.reduce((yield self.value(node, axes)), summed, weight)
        before, behind = (weight, None) if given and given <= passing else (None, weight)
        part = yield self.ask(node, axes, passing, before)
        return self.reduce(part, stopping, behind)

    def _in_common(self, node: Node, form: Any) -> frozenset[int] | None:
        """What the node's forms have in common, if this one is a further sum of it."""
        groups, summed, weighted = form
        theirs, common = self.choice.shared.get(node.number, (None, frozenset()))
        beside = weighted is None or not common & frozenset(weighted[1])
        return common if groups == theirs and common < summed and beside else None

    def varying(self, node: Node, axes: Axes) -> Steps[Labels]:
        """Along which of the labels a node's value varies."""
        if node.zero:
            return frozenset()
        labels = flat(axes)
        names = {label: k for k, label in enumerate(labels)}
        key = (node.number, _named(axes, names))
        if key not in self._varying:
            found = yield varying(node.kind, self, node, axes)
            self._varying[key] = tuple(names[x] for x in found)
        return frozenset(labels[k] for k in self._varying[key])

    # ---- the story of the sums

    def moves(self) -> tuple[Move, ...]:
        """Of every sum, in the order in which they began to move."""
        return tuple(
            Move(
                x.node.name,
                tuple((node.number, node.name) for node in x.passed),
                tuple((node.number, node.name) for node, _ in x.stopped),
                tuple(reason for _, reason in x.stopped),
            )
            for x in self._sums
        )

    def begin(self, node: Node) -> None:
        """A sum of the program starts to move."""
        self._current.append(_Sum(node))
        self._sums.append(self._current[-1])

    def end(self) -> None:
        """It has settled."""
        self._current.pop()

    def passed(self, node: Node) -> None:
        """The current sum has passed an operation."""
        if self._current:
            self._current[-1].passed.append(node)

    def _stop(self, node: Node, reason: str) -> None:
        if self._current:
            self._current[-1].stopped.append((node, reason))

    # ---- parts

    def labelled(self, array: Array, axes: Axes) -> Part:
        """A whole value with these labels; along one that comes twice its diagonal."""
        every = spelled(axes)
        if tuple(getattr(array, "shape", ())) != lengths(every):  # several results have none
            array = self.arrays.reshape(array, lengths(every))
        while len(every) > len(set(every)):
            label = next(x for x in every if every.count(x) > 1)
            first, second = [k for k, x in enumerate(every) if x is label][:2]
            array = self.arrays.diagonal(array, first, second)
            every = [*(x for k, x in enumerate(every) if k not in (first, second)), label]
        return Part(array, every)

    def aligned(self, part: Part, labels: Sequence[Label]) -> Array:
        """The array with its axes in the order of `labels`, length one where it lacks one."""
        return aligned(self.arrays, part, labels)

    def once(
        self,
        operation: Any,
        operands: Sequence[Part | None],
        make: Callable[[], Part],
        symmetric: bool = False,
    ) -> Part:
        """What an operation gives on these arrays, made once however the labels are called.

        Equal values are one array, so operands are told apart by identity. They have no taints.
        """
        ordered = sorted(operands, key=lambda x: id(x.bare)) if symmetric else list(operands)  # type: ignore[union-attr]
        labels = list(dict.fromkeys(x for part in ordered if part for x in part.labels))
        names = {label: k for k, label in enumerate(labels)}
        if isinstance(operation, tuple):  # names labels itself
            operation = tuple(
                frozenset(names[x] for x in item) if isinstance(item, frozenset) else item
                for item in operation
            )
        key = (
            operation,
            tuple(part and (id(part.bare), *(names[x] for x in part.labels)) for part in ordered),
        )
        if key not in self._results:
            made = make()
            kept = tuple(names[x] for x in made.labels)
            self._results[key] = made, kept, ordered  # kept alive: their identity is part of keys
        made, kept, _ = self._results[key]
        return Part(made.array, [labels[k] for k in kept])

    def plus(self, left: Part | None, right: Part | None) -> Part | None:
        """The sum of two parts; None is zero."""
        if left is None or right is None:
            return left or right
        labels = together([left.untainted(), right.untainted()])
        terms = left.untainted(), right.untainted()

        def make() -> Part:
            arrays = (self.aligned(part, labels) for part in terms)
            return Part(self.arrays.add(*arrays), labels)

        return self.tainted(self.once("sum", terms, make, symmetric=True), (left, right))

    def tainted(
        self, part: Part, operands: Iterable[Part | None], summed: Labels = frozenset()
    ) -> Part:
        """What was made of operands without their taints, with these: they pass what is linear."""
        taints = [self.reduced(x, summed) for each in operands if each for x in each.taints]
        several = {(id(x.bare), x.labels): x for x in taints}
        return Part(part.bare, part.own, [*several.values()], self._added) if taints else part

    def _added(self, part: Part) -> Array:
        """The array of a part with taints."""
        whole = part.untainted()
        for taint in part.taints:
            whole = self.plus(whole, taint) or whole
        return self.aligned(whole, part.labels)

    def contracted(self, node: Node | None, left: Part, right: Part, out: Sequence[Label]) -> Part:
        """The product of two parts, summed over labels that are not in `out`."""
        u, v = left.untainted(), right.untainted()
        bare, summed = {*u.labels, *v.labels}, {*left.labels, *right.labels} - {*out}
        out = [x for x in out if x in bare]
        make = lambda: Part(self.arrays.contract(node, u, v, out), out)  # noqa: E731
        made = self.once(("product", frozenset(out)), (u, v), make, symmetric=True)
        made = self.times(made, float(prod(lengths(summed - bare))))
        return self.tainted(made, (left, right), frozenset(summed))

    def times(self, part: Part, factor: float) -> Part:
        """factor · part."""
        if factor == 1:
            return part
        return self.tainted(Part(self.arrays.times(part.bare, factor), part.own), [part])

    def product(self, left: Part, right: Part, summed: Labels = frozenset()) -> Part:
        """The product of two parts, summed over labels."""
        left, right = (
            self.reduced(one, summed - frozenset(other.labels))
            for one, other in ((left, right), (right, left))
        )
        out = [x for x in together([left, right]) if x not in summed]
        return self.contracted(None, left, right, out)

    def summed_product(
        self, operands: Sequence[tuple[Node, Axes, Labels, Weight]], summed: Labels, last: Weight
    ) -> Steps[Part | None]:
        """Σ last · a · b, of operands that are summed alone before; the same one is made once.

        Args:
            operands: two nodes with their axes and what `ask` sums them over, and its weights.
            summed: labels along which both vary.
            last: weights along these.
        """
        (a, axes_a, of_a, weight_a), (b, axes_b, of_b, weight_b) = operands
        every = [*flat(axes_a), *flat(axes_b), *(last.labels if last is not None else ())]
        labels = list(dict.fromkeys(every))
        names = {label: k for k, label in enumerate(labels)}

        def form(node: Node, axes: Axes, over: Labels, weight: Weight) -> Any:
            over_names = frozenset(names[x] for x in over)
            return node.number, _named(axes, names), over_names, self._of(weight, names)

        key = (
            form(a, axes_a, of_a, weight_a),
            form(b, axes_b, of_b, weight_b),
            frozenset(names[x] for x in summed),
            self._of(last, names),
        )
        if key not in self._products:
            left = yield self.ask(a, axes_a, of_a, weight_a)
            right = yield self.ask(b, axes_b, of_b, weight_b)
            if left is None or right is None:
                return None
            if last is not None:
                left = self.product(left, last)
            made = self.product(left, right, summed)
            self._products[key] = made.renamed(names)
        return self._products[key].renamed(dict(enumerate(labels)))

    def _of(self, weight: Weight, names: dict[Label, int]) -> Any:
        """What tells weights apart."""
        if weight is None:
            return None
        kept = tuple(names[x] for x in weight.labels)
        identity = weight.identity(names)
        self._weights[identity] = weight
        return identity, kept

    def reduced(self, part: Part, summed: Labels) -> Part:
        """The sum over labels of a part."""
        summed = summed & frozenset(part.labels)
        if not summed:
            return part
        made = bare = part.untainted()
        axes = [k for k, label in enumerate(bare.labels) if label in summed]
        if axes:
            kept = [label for label in bare.labels if label not in summed]
            make = lambda: Part(self.arrays.sum(bare.array, axes), kept)  # noqa: E731
            made = self.once(("total", tuple(axes)), (bare,), make)
        made = self.times(made, float(prod(lengths(summed - frozenset(bare.labels)))))
        return self.tainted(made, [part], summed)

    def reduce(self, part: Part | None, summed: Labels, weight: Weight) -> Part | None:
        """The (weighted) sum of a value that varies along all the labels."""
        if part is None:
            return None
        if weight is None:
            return self.reduced(part, summed)
        return self.product(part, weight, summed)


@dataclass
class _Sum:
    """A sum of the program while it moves."""

    node: Node
    passed: list[Node] = field(default_factory=list)
    stopped: list[tuple[Node, str]] = field(default_factory=list)


def _named(axes: Axes, names: dict[Label, int]) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Axes with names of labels and their lengths instead of labels: equal where forms are."""
    return tuple(tuple((names[x], x.length) for x in group) for group in axes)
