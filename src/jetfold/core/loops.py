"""Sums that pass loops and conditionals: the body is rewritten for the forms that are asked of it.

A result of a loop that is asked for summed makes its carry be asked for summed, by the outputs of
the body and so by its inputs: a fixed point. The loop is then issued once, with a carry for every
form that was found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .plan import Shape, settled
from .sums import (
    Array,
    Arrays,
    Axes,
    Engine,
    Label,
    Labels,
    Node,
    Part,
    Stop,
    Weight,
    flat,
    lengths,
)


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


@dataclass
class Body:
    """The program of a loop's step, or of a branch; its inputs are nodes of kind `Slot`."""

    nodes: Sequence[Node]
    outputs: Sequence[Node]


@dataclass(eq=False)
class Loop:
    """A loop or a conditional.

    Attributes:
        bodies: the step; the branches.
        constants: how many inputs of the body are the same in each step.
        carried: how many follow that are carried from step to step, as the first outputs are.
            The rest of inputs and outputs are entries along the axis of the loop.
        length: the number of steps; None for a conditional, whose inputs are all constants.
        issue: for the array library: how to run it.
    """

    bodies: Sequence[Body]
    constants: int
    carried: int
    length: int | None
    issue: dict[str, Any] = field(default_factory=dict)


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


class Slot:
    """An input of a body."""

    def varying(self, ask: Engine, node: Node, axes: Axes) -> Labels:
        return ask.slots.varying(node.options["slot"], axes)

    def compute(self, ask: Engine, node: Node, axes: Axes, summed: Labels, weight: Weight) -> Any:
        return ask.slots.part(node.options["slot"], axes, summed, weight)


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

    def varying(self, slot: int, axes: Axes) -> Labels:
        """Along which labels an input varies; a carry may along all."""
        loop = self.loop
        if slot < loop.constants:
            return self.outer.varying(self.operands[slot], axes)
        if slot < loop.constants + loop.carried:
            return frozenset(flat(axes))
        lead = leading(loop)
        return self.outer.varying(self.operands[slot], (lead, *axes)) - frozenset(lead)

    def part(self, slot: int, axes: Axes, summed: Labels, weight: Weight) -> Any:
        """The input, summed outside of the body."""
        labels = flat(axes)
        form = form_of(axes, summed, weight, self.weights)
        if form is None:
            return Stop("its weights are made in the body of a loop")
        if self.given is None:
            self.wanted[slot, form] = None
            kept = [x for x in labels if x not in summed and x in self.varying(slot, axes)]
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


class Result:
    """A result of a loop; the node's operand holds the loop and its operands."""

    def varying(self, ask: Engine, node: Node, axes: Axes) -> Labels:
        return frozenset(flat(axes))

    def compute(self, ask: Engine, node: Node, axes: Axes, summed: Labels, weight: Weight) -> Any:
        whole: Node = node.inputs[0]
        loop: Loop = whole.options["loop"]
        position = node.options["position"]
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
        known = ask.results.setdefault(whole.number, {})
        key = (position, form, tuple(map(id, weights)))
        # Weights are told apart by when they came; the next round knows what will be asked with
        # the same ones and makes it by the same loop.
        came: list[int] = ask.weights_of.setdefault(whole.number, [])
        if weights and id(weights[0]) not in came:
            came.append(id(weights[0]))
            ask.kept_alive += weights
        turn = came.index(id(weights[0])) if weights else None
        ask.forms_asked.setdefault(whole.number, {})[position, form, turn] = None
        if key not in known:
            wanted: Wanted = {(position, form): None}
            for place, other, its in ask.forms.get(whole.number, ()):
                if its is None and (place, other, ()) in known:
                    continue
                if its in (None, turn):
                    wanted[place, other] = None
            for (place, other), array in _evaluate(ask, whole, wanted, weights).items():
                known[place, other, key[2] if other.weight else ()] = array
        labels = [*lead, *(x for x in flat(axes) if x not in summed)]
        return ask.reduced(Part(ask.arrays.reshape(known[key], lengths(labels)), labels), along)


def _evaluate(
    ask: Engine, whole: Node, results: Wanted, weights: Sequence[Array]
) -> dict[tuple[int, Form], Array]:
    """Results of a loop in the forms that are wanted, by one loop."""
    loop: Loop = whole.options["loop"]
    operands: Sequence[Node] = whole.inputs[whole.options["first"] :]
    outputs, inputs, choices = _fixed_point(ask, loop, operands, results, weights)
    given, names = _given(ask, loop, operands, inputs, weights)

    def step_of(body: Body, choice: Any) -> Step:
        def step(arrays: Arrays, values: Sequence[Array], weights: Sequence[Array]) -> list[Array]:
            engine = Engine(arrays, *choice)
            taken = {key: (x, names[key]) for key, x in zip(inputs, values, strict=True)}
            engine.slots = Slots(loop, ask, operands, weights, taken)
            found: dict[Any, Array] = {}
            for position, form in weighted_first(outputs):
                axes, summed, weight = form.spelled(weights)
                part = engine.ask(body.outputs[position], axes, summed, weight)
                labels = [x for x in flat(axes) if x not in summed]
                found[position, form] = dense(engine, body.outputs[position], part, labels)
            return [found[key] for key in outputs]

        return step

    pairs = zip(loop.bodies, choices, strict=True)
    steps = [step_of(body, choice) for body, choice in pairs]
    arrays: Any = ask.arrays
    if loop.length is None:
        index = ask.dense(whole.inputs[0])
        made = arrays.choose(loop, index, steps, given, weights)
    else:
        ends = [loop.constants, loop.constants + loop.carried]
        kinds = [sum(slot >= end for end in ends) for slot, _ in inputs]
        parts = [[x for x, kind in zip(given, kinds, strict=True) if kind == k] for k in range(3)]
        made = arrays.repeat(loop, steps[0], *parts, weights)
    return dict(zip(outputs, made, strict=True))


def _fixed_point(
    ask: Engine, loop: Loop, operands: Sequence[Node], results: Wanted, weights: Sequence[Array]
) -> tuple[Wanted, Wanted, list[Any]]:
    """The forms of the outputs and inputs of the bodies, carries first; how to make each body."""
    shapes = [Shape(tuple(x.shape)) for x in weights]
    inputs: Wanted = {}
    carries: Wanted = {}
    rest = {key: None for key in results if loop.length is None or key[0] >= loop.carried}
    choices = []
    for body in loop.bodies:
        seen: list[tuple[Engine, Slots, Wanted]] = []

        def run(engine: Engine, body: Body = body, seen: list[Any] = seen) -> None:
            slots = engine.slots = Slots(loop, ask, operands, shapes)
            wanted = dict(results)
            done: Wanted = {}
            while wanted:
                position, form = key = weighted_first(wanted)[0]
                del wanted[key]
                done[key] = None
                engine.ask(body.outputs[position], *form.spelled(shapes))
                for slot, other in slots.wanted:
                    place = slot - loop.constants
                    if 0 <= place < loop.carried and (place, other) not in done:
                        wanted[place, other] = None
            seen.append((engine, slots, done))

        _, best = settled(run, len(body.nodes), ask.factored)
        (slots, done) = next((s, d) for e, s, d in seen if e is best)
        inputs |= slots.wanted
        if loop.length is not None:
            carries |= {key: None for key in done if key[0] < loop.carried}
        choices.append((best.needed, best.factored, best.forms, best.shared))
    # A carry that only the caller wants is carried too.
    inputs |= {(place + loop.constants, form): None for place, form in carries}
    first = sorted(carries, key=lambda key: key[0])
    inputs = dict.fromkeys(
        sorted(
            inputs,
            key=lambda key: (
                (1, first.index((key[0] - loop.constants, key[1])))
                if 0 <= key[0] - loop.constants < loop.carried
                else (0 if key[0] < loop.constants else 2, 0)
            ),
        )
    )
    return dict.fromkeys([*first, *rest]), inputs, choices


def _given(
    ask: Engine, loop: Loop, operands: Sequence[Node], inputs: Wanted, weights: Sequence[Array]
) -> tuple[list[Array], dict[tuple[int, Form], tuple[int, ...]]]:
    """The inputs in their forms, and the names of the axes of each."""
    given, names = {}, {}
    for slot, form in weighted_first(inputs):
        axes, summed, weight = form.spelled(weights)
        x = operands[slot]
        labels = flat(axes)
        kept = [label for label in labels if label not in summed]
        if slot >= loop.constants + loop.carried:
            lead = leading(loop)
            part = ask.ask(x, (lead, *axes), summed, weight)
            if part is not None:
                kept = [label for label in kept if label in part.labels]
            array = dense(ask, x, part, [*lead, *kept])
            array = ask.arrays.reshape(array, (loop.length or 1, *lengths(kept)))
        else:
            part = ask.ask(x, axes, summed, weight)
            if slot < loop.constants and part is not None:
                kept = [label for label in kept if label in part.labels]
            array = dense(ask, x, part, kept)
        given[slot, form] = array
        names[slot, form] = tuple(labels.index(label) for label in kept)
    return [given[key] for key in inputs], names


def weighted_first(wanted: Wanted) -> list[tuple[int, Form]]:
    """An order of asking: weights are known to a loop when the first ask brings them."""
    return sorted(wanted, key=lambda key: key[1].weight is None)


def dense(ask: Engine, node: Node, part: Part | None, labels: Sequence[Label]) -> Array:
    """A part with an axis for each of the labels."""
    if part is None:
        return ask.arrays.full(node, lengths(labels), 0.0)
    array = ask.aligned(part, labels)
    if any(label not in part.labels for label in labels):
        array = ask.arrays.broadcast(array, lengths(labels))
    return array
