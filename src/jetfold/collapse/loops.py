"""Sums that pass loops and conditionals: the body is rewritten for the forms that are asked of it.

A result of a loop that is asked for summed makes its carry be asked for summed, by the outputs of
the body and so by its inputs: a fixed point. The loop is then issued once, with a carry for every
form that was found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .arrays import Arrays, spread
from .engine import Asked, Choice, Engine, Steps, Stop, answer, compute, varying
from .kinds import parted
from .labels import Array, Axes, Label, Labels, Part, Weight, flat, lengths, repeated
from .plan import Shape, settled
from .program import Loop, Node, Program, Result, Slot


@dataclass(frozen=True)
class Form:
    """How a value is asked for: names of labels with their lengths instead of labels.

    Attributes:
        groups: per axis its labels.
        summed: those that are summed over.
        weight: which of the loop's weights, and the labels of its axes; None is one.
    """

    groups: tuple[tuple[tuple[int, int], ...], ...]
    summed: frozenset[int]
    weight: tuple[int, tuple[int, ...]] | None

    def spelled(self, weights: Sequence[Array]) -> tuple[Axes, Labels, Weight]:
        """With labels."""
        labels = {name: Label(n) for group in self.groups for name, n in group}
        axes = tuple(tuple(labels[name] for name, _ in group) for group in self.groups)
        weight = None
        if self.weight is not None:
            number, names = self.weight
            weight = Part(weights[number], [labels[name] for name in names])
        return axes, frozenset(labels[name] for name in self.summed), weight

    def kept(self) -> list[int]:
        """The lengths of the axes that are left."""
        return [n for group in self.groups for name, n in group if name not in self.summed]


Wanted = dict[tuple[int, Form], None]
"""Positions (of results, or of inputs) and forms, in order."""


Step = Callable[[Arrays, Sequence[Array], Sequence[Array]], list[Array]]
"""(arrays, inputs in the forms that are wanted, weights) -> outputs in theirs."""


class LoopArrays(Protocol):
    """What is asked of an array library whose programs have loops, besides `Arrays`."""

    def repeat(
        self,
        loop: Loop,
        step: Step,
        constants: Sequence[Array],
        carried: Sequence[Array],
        entries: Sequence[Array],
        weights: Sequence[Array],
    ) -> list[Array]:
        """The last carries, and the stacked other outputs, of steps on the inputs."""

    def choose(
        self,
        loop: Loop,
        index: Array,
        branches: Sequence[Step],
        operands: Sequence[Array],
        weights: Sequence[Array],
    ) -> list[Array]:
        """The outputs of one branch."""


# ------------------------------------------------------------------ inputs of a body


@varying.register
def _(kind: Slot, ask: Engine, node: Node, axes: Axes) -> Steps[Labels] | Labels:
    return ask.slots.varying(kind.position, axes)


@compute.register
def _(
    kind: Slot, ask: Engine, node: Node, axes: Axes, summed: Labels, weight: Weight
) -> Steps[Part | Stop]:
    return ask.slots.part(kind.position, axes, summed, weight)


class Slots:
    """What stands for the inputs of a body while it is evaluated.

    Args:
        loop: whose body it is.
        outer: evaluates the program around it.
        operands: the nodes there that the inputs come from.
        weights: those of the forms.
        given: (input, form) -> its array and the names of its axes; without it, inputs are shapes,
            and `wanted` says which were asked for.
    """

    def __init__(
        self,
        loop: Loop,
        outer: Engine,
        operands: Sequence[Node],
        weights: Sequence[Array],
        given: dict[tuple[int, Form], tuple[Array, tuple[int, ...]]] | None = None,
    ) -> None:
        self.loop, self.outer, self.operands = loop, outer, operands
        self.weights, self.given = list(weights), given
        self.wanted: Wanted = {}

    def varying(self, slot: int, axes: Axes) -> Steps[Labels]:
        """Along which labels an input varies; a carry may along all."""
        loop = self.loop
        if slot < loop.constants:
            return (yield self.outer.varying(self.operands[slot], axes))
        if slot < loop.constants + loop.carried:
            return frozenset(flat(axes))
        lead = leading(loop)
        found = yield self.outer.varying(self.operands[slot], (lead, *axes))
        return found - frozenset(lead)

    def part(self, slot: int, axes: Axes, summed: Labels, weight: Weight) -> Steps[Part | Stop]:
        """The input, summed outside of the body."""
        labels = flat(axes)
        form = form_of(axes, summed, weight, self.weights)
        if form is None:
            return Stop("its weights are made in the body of a loop")
        if self.given is None:
            self.wanted[slot, form] = None
            left = (yield self.varying(slot, axes)) - summed
            kept = [x for x in labels if x in left]
            return Part(Shape(lengths(kept)), kept)
        array, names = self.given[slot, form]
        return Part(array, [labels[name] for name in names])


def form_of(axes: Axes, summed: Labels, weight: Weight, weights: Sequence[Array]) -> Form | None:
    """The form of an ask; None if its weight is not among the weights."""
    labels = flat(axes)
    names = {label: k for k, label in enumerate(labels)}
    groups = tuple(tuple((names[x], x.length) for x in group) for group in axes)
    given = None
    if weight is not None:
        places = [k for k, array in enumerate(weights) if array is weight.array]
        if not places:
            return None
        given = places[0], tuple(names[x] for x in weight.labels)
    return Form(groups, frozenset(names[x] for x in summed), given)


def leading(loop: Loop) -> tuple[Label, ...]:
    """A label for the axis of the loop."""
    assert loop.length is not None
    return (Label(loop.length),) if loop.length != 1 else ()


# ------------------------------------------------------------------ results


@varying.register
def _(kind: Result, ask: Engine, node: Node, axes: Axes) -> Labels:
    return frozenset(flat(axes))


@compute.register
def _(
    kind: Result, ask: Engine, node: Node, axes: Axes, summed: Labels, weight: Weight
) -> Steps[Part | Stop | None]:
    if repeated(axes):
        if summed:
            return Stop("a loop does not make diagonals")
        return (yield from parted(ask, node, axes))
    (whole,) = node.inputs
    loop, position = _loop(whole), kind.position
    lead: tuple[Label, ...] = ()
    if loop.length is not None and position >= loop.carried:
        lead, axes = axes[0], axes[1:]
    along = summed & frozenset(lead)
    summed = summed - along
    if weight is not None and not frozenset(weight.labels) <= summed:
        return Stop("its weights vary along the axis of the loop")
    weights = [] if weight is None else [weight.array]
    form = form_of(axes, summed, weight, weights)
    assert form is not None
    asked = ask.loops.setdefault(whole.number, Asked())
    # Weights are told apart by when they came; the next round knows what will be asked with the
    # same ones and makes it by the same loop.
    turn = None if weight is None else asked.turn(weight.array)
    asked.forms[position, form, turn] = None
    if (position, form, turn) not in asked.results:
        wanted: Wanted = {(position, form): None}
        for place, other, its in ask.choice.forms.get(whole.number, ()):
            made = its is None and (place, other, None) in asked.results
            if its in (None, turn) and not made:
                wanted[place, other] = None
        results = yield from _evaluate(ask, whole, wanted, weights)
        for (place, other), array in results.items():
            asked.results[place, other, turn if other.weight else None] = array
    labels = [*lead, *(x for x in flat(axes) if x not in summed)]
    array = ask.arrays.reshape(asked.results[position, form, turn], lengths(labels))
    return ask.reduced(Part(array, labels), along)


def _loop(whole: Node) -> Loop:
    assert isinstance(whole.kind, Loop)
    return whole.kind


def _evaluate(
    ask: Engine, whole: Node, results: Wanted, weights: Sequence[Array]
) -> Steps[dict[tuple[int, Form], Array]]:
    """Results of a loop in the forms that are wanted, by one loop."""
    loop = _loop(whole)
    operands = whole.inputs[int(loop.length is None) :]
    fixed = _fixed_point(ask, whole, operands, results, weights)
    given, names = yield from _given(ask, loop, operands, fixed.inputs, weights)

    def step_of(body: Program, choice: Choice) -> Step:
        def step(arrays: Arrays, values: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
            pairs = zip(fixed.inputs, values, strict=True)
            taken = {key: (x, names[key]) for key, x in pairs}
            engine = Engine(arrays, choice, Slots(loop, ask, operands, weights, taken))
            found: dict[Any, Array] = {}
            for position, form in weighted_first(fixed.outputs):
                axes, summed, weight = form.spelled(weights)
                output = body.outputs[position]
                part = answer(engine.ask(output, axes, summed, weight))
                labels = [x for x in flat(axes) if x not in summed]
                found[position, form] = spread(arrays, part, labels, output)
            return [found[key] for key in fixed.outputs]

        return step

    steps = [step_of(*pair) for pair in zip(loop.bodies, fixed.choices, strict=True)]
    arrays: Any = ask.arrays
    if loop.length is None:
        index = yield ask.dense(whole.inputs[0])
        made = arrays.choose(loop, index, steps, given, weights)
    else:
        sides: list[list[Array]] = [[], [], []]  # constants, carried, entries
        for (slot, _), array in zip(fixed.inputs, given, strict=True):
            sides[(slot >= loop.constants) + (slot >= loop.constants + loop.carried)].append(array)
        made = arrays.repeat(loop, steps[0], *sides, weights)
    return dict(zip(fixed.outputs, made, strict=True))


@dataclass(frozen=True)
class Fixed:
    """The forms of the outputs and inputs of the bodies, carries first; how to evaluate each."""

    outputs: Wanted
    inputs: Wanted
    choices: tuple[Choice, ...]


def _fixed_point(
    ask: Engine, whole: Node, operands: Sequence[Node], results: Wanted, weights: Sequence[Array]
) -> Fixed:
    """Found on shapes alone, so that a plan keeps it."""
    key = (whole.number, tuple(results), tuple(tuple(x.shape) for x in weights))
    if key not in ask.fixed:
        known = ask.choice.fixed.get(key)
        ask.fixed[key] = known or _found(ask, _loop(whole), operands, results, weights)
    return ask.fixed[key]


def _found(
    ask: Engine, loop: Loop, operands: Sequence[Node], results: Wanted, weights: Sequence[Array]
) -> Fixed:
    shapes = [Shape(tuple(x.shape)) for x in weights]
    inputs: Wanted = {}
    carries: Wanted = {}
    rest = {key: None for key in results if loop.length is None or key[0] >= loop.carried}
    choices = []
    for body in loop.bodies:
        seen: list[tuple[Engine, Wanted]] = []

        def run(engine: Engine, body: Program = body, seen: list[Any] = seen) -> None:
            slots = engine.slots = Slots(loop, ask, operands, shapes)
            wanted = dict(results)
            done: Wanted = {}
            while wanted:
                position, form = key = weighted_first(wanted)[0]
                del wanted[key]
                done[key] = None
                answer(engine.ask(body.outputs[position], *form.spelled(shapes)))
                for slot, other in slots.wanted:
                    place = slot - loop.constants
                    if 0 <= place < loop.carried and (place, other) not in done:
                        wanted[place, other] = None
            seen.append((engine, done))

        _, best = settled(run, ask.choice.factored)
        done = next(done for engine, done in seen if engine is best)
        inputs |= best.slots.wanted
        if loop.length is not None:
            carries |= {key: None for key in done if key[0] < loop.carried}
        choices.append(best.chosen())
    # A carry that only the caller wants is carried too.
    inputs |= {(place + loop.constants, form): None for place, form in carries}
    first = sorted(carries, key=lambda key: key[0])

    def rank(key: tuple[int, Form]) -> tuple[int, int]:
        place = key[0] - loop.constants
        if 0 <= place < loop.carried:
            return 1, first.index((place, key[1]))
        return (0 if place < 0 else 2), 0

    outputs = dict.fromkeys([*first, *rest])
    return Fixed(outputs, dict.fromkeys(sorted(inputs, key=rank)), tuple(choices))


def _given(
    ask: Engine, loop: Loop, operands: Sequence[Node], inputs: Wanted, weights: Sequence[Array]
) -> Steps[tuple[list[Array], dict[tuple[int, Form], tuple[int, ...]]]]:
    """The inputs in their forms, and the names of the axes of each: a carry has all."""
    given, names = {}, {}
    for slot, form in weighted_first(inputs):
        axes, summed, weight = form.spelled(weights)
        x, labels = operands[slot], flat(axes)
        entry = slot >= loop.constants + loop.carried
        lead = leading(loop) if entry else ()
        part = yield ask.ask(x, (lead, *axes) if entry else axes, summed, weight)
        kept = [label for label in labels if label not in summed]
        if not loop.constants <= slot < loop.constants + loop.carried:
            present = part.labels if part is not None else ()
            kept = [label for label in kept if label in present]
        array = spread(ask.arrays, part, [*lead, *kept], x)
        if entry:
            array = ask.arrays.reshape(array, (*(lengths(lead) or (1,)), *lengths(kept)))
        given[slot, form] = array
        names[slot, form] = tuple(labels.index(label) for label in kept)
    return [given[key] for key in inputs], names


def weighted_first(wanted: Wanted) -> list[tuple[int, Form]]:
    """An order of asking: weights are known to a loop when the first ask brings them."""
    return sorted(wanted, key=lambda key: key[1].weight is None)
