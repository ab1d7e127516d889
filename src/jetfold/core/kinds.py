"""How sums pass through operations, by what an operation does with the axes of its operands.

Every kind says along which labels a value varies (`varying`), and gives its value or its sum over
labels (`compute`); see `sums.Kind`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from math import prod
from typing import Any

from .sums import (
    Axes,
    Engine,
    Group,
    Kind,
    Label,
    Labels,
    Node,
    Part,
    Stop,
    Weight,
    flat,
    lengths,
)


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
            return _scaled(ask, node, axes) or self._apply(ask, node, axes, {})
        if self.factors and set(carrying) <= set(self.factors):
            return self._product(ask, node, axes, summed, weight, along)
        if linear and set(carrying) <= set(linear):
            if weight is not None and not _homogeneous(node, linear):
                return Stop("its weights do not pass a change of dtype or a conjugation")
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
                arrays.append(ask.arrays.full(x, [1] * len(labels), 0.0))
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
            smaller = along[j] < along[rest] or not lets_sums_in(node.inputs[j])
            if along[j] and smaller and ask.varying(node.inputs[j], own) <= summed:
                # A factor of weights.
                vector = ask.value(node.inputs[j], own)
                if vector is None:
                    return None
                x = node.inputs[rest]
                theirs = operand_axes(x, axes)
                mixed = weight is not None and not {*weight.labels} & {*vector.labels}
                if mixed:  # weights along both would pass less than those along the others
                    kept = summed & frozenset(vector.labels)
                    part = _summed_operand(ask, x, theirs, axes, summed - kept, weight)
                    return None if part is None else ask.product(part, vector, kept)
                weights = vector if weight is None else ask.product(vector, weight)
                return _summed_operand(ask, x, theirs, axes, summed, weights)
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
        operands = [
            (node.inputs[j], operand_axes(node.inputs[j], axes), forms[j], given[j])
            for j in self.factors
        ]
        if both:
            return _contraction(ask, operands, both, summed, last)
        parts = [ask.ask(*operand) for operand in operands]
        if any(part is None for part in parts):
            return None
        present = [part for part in parts if part is not None]
        labels = ask.together(present)
        arrays = [ask.aligned(part, labels) for part in present]
        ordered = arrays if k < other else arrays[::-1]
        return Part(ask.arrays.issue(node, ordered, lengths(labels)), labels)


def _contraction(
    ask: Engine,
    operands: Sequence[tuple[Node, Axes, Labels, Weight]],
    both: Labels,
    summed: Labels,
    last: Weight,
) -> Part | None:
    """Σ a·b over labels along which both vary: factors that lack the labels may stay outside."""
    if not ask.factored:
        return ask.summed_product(operands, both, last)
    parted = {}
    for inner in [both, *(frozenset([label]) for label in both if len(both) > 1)]:
        parted[inner] = [carrier(ask, x, own, inner) for x, own, _, _ in operands]
    partly = any(over for _, _, over, _ in operands)

    def square(inner: Labels) -> bool:
        (a, axes_a, _), (b, axes_b, _) = parted[inner]
        return a is b and axes_a == axes_b and not partly

    inner = next(filter(square, parted), both)
    made = [
        (base, own, over, given)
        for (base, own, _), (_, _, over, given) in zip(parted[inner], operands, strict=True)
    ]
    scales = [scale for _, _, scale in parted[inner] if scale is not None]
    return _outside(ask, made, scales, inner, both, last)


def _outside(
    ask: Engine,
    operands: Sequence[tuple[Node, Axes, Labels, Weight]],
    scales: Sequence[Callable[[], Part]],
    inner: Labels,
    both: Labels,
    last: Weight,
) -> Part | None:
    """Σ last · scales · (Σ a·b), the inner sum over labels that the scales lack."""
    operands = sorted(operands, key=lambda operand: operand[0].number)
    within = last if last is not None and frozenset(last.labels) <= inner else None
    part = ask.summed_product(operands, inner, within)
    if part is None:
        return None
    for scale in scales:
        part = ask.product(part, scale())
    if last is not None and within is None:
        return ask.product(part, last, both - inner)
    return ask.reduced(part, both - inner)


def _scaled(ask: Engine, node: Node, axes: Axes) -> Part | None:
    """A product by factors that lack labels of the other one: the factors are multiplied first."""
    if not ask.factored or not isinstance(node.kind, Elementwise) or not node.kind.factors:
        return None
    u, v = (ask.varying(node.inputs[k], operand_axes(node.inputs[k], axes)) for k in (0, 1))
    if u <= v:
        u, v = v, u
    if not v < u:
        return None
    base, own, scale = carrier(ask, node, axes, u - v)
    if base is node or scale is None:
        return None
    part = ask.value(base, own)
    return None if part is None else ask.product(part, scale())


Scale = Callable[[], Part] | None
"""How to make a factor; None is one."""


def carrier(ask: Engine, x: Node, axes: Axes, summed: Labels) -> tuple[Node, Axes, Scale]:
    """x as base · scale, where only the base varies along the labels."""
    key = (x.number, axes, summed)
    if key not in ask.carriers:
        ask.carriers[key] = _carrier(ask, x, axes, summed)
    return ask.carriers[key]


def _carrier(ask: Engine, x: Node, axes: Axes, summed: Labels) -> tuple[Node, Axes, Scale]:
    if isinstance(x.kind, Rearranged):
        inside = x.kind.operand_axes(x, axes)
        if inside is not None:
            return carrier(ask, x.inputs[0], inside, summed)
    if not isinstance(x.kind, Elementwise) or not x.options.get("arithmetic"):
        return x, axes, None
    operands = {k: y for k, y in enumerate(x.inputs) if isinstance(y, Node) and not y.zero}
    carrying = [k for k, y in operands.items() if ask.varying(y, operand_axes(y, axes)) & summed]
    found = {
        k: carrier(ask, operands[k], operand_axes(operands[k], axes), summed) for k in carrying
    }
    if x.options.get("sum"):
        if len(carrying) != len(x.inputs):
            return x, axes, None
        (a, axes_a, _), (b, axes_b, _) = found.values()
        if a is not b or axes_a != axes_b:
            return x, axes, None
    elif len(carrying) != 1 or carrying[0] not in (x.kind.linear or x.kind.factors):
        return x, axes, None
    base, own, alone = found[carrying[0]]
    if x.kind.factors and alone is None:
        (y,) = (y for k, y in operands.items() if k not in found)
        return base, own, lambda: _known(ask.value(y, operand_axes(y, axes)))

    @cache
    def scale() -> Part:
        parts: dict[int, Part] = {}
        for k, y in enumerate(x.inputs):
            if k in found:
                made = found[k][2]
                parts[k] = made() if made else Part(ask.arrays.full(y, (), 1.0), ())
            elif isinstance(y, Node):
                parts[k] = _known(ask.value(y, operand_axes(y, axes)))
        labels = ask.together(list(parts.values()))
        arrays = [
            ask.aligned(parts[k], labels) if k in parts else y for k, y in enumerate(x.inputs)
        ]
        return Part(ask.arrays.issue(x, arrays, lengths(labels)), labels)

    return base, own, scale


def _known(part: Part | None) -> Part:
    """The value of a node that is not zero."""
    assert part is not None
    return part


def _homogeneous(node: Node, linear: Sequence[int]) -> bool:
    """Whether a factor of the operands is one of the value: not so if it is real and they are not.

    op(w·x) = w·op(x) holds for numbers w of the dtype that both have.
    """
    same = all(node.inputs[k].dtype == node.dtype for k in linear)
    return same and not node.options.get("conjugates")


def as_exact(before: Any, after: Any) -> bool:
    """Whether a sum in one dtype is as exact as in another and reaches as far; of their finfo."""
    return bool(before.eps <= after.eps and float(before.max) >= float(after.max))


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
        alike = a.dtype == b.dtype == node.dtype
        if summed and not alike:
            return Stop("it changes the dtype, and the sum would be taken in the other one")
        # Σ_k w_k b_k with w a vector: a sum like others, with weights.
        for x, own, along, y, other in (
            (a, left, of_a, b, right),
            (b, right, of_b, a, left),
        ):
            if along and along <= inner and weight is None and alike and lets_sums_in(y):
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
        if alike:
            u = ask.ask(a, left, alone_a | lone_a, given_a)
            v = ask.ask(b, right, alone_b | lone_b, given_b)
            # An inner label that neither varies along counts its length.
            idle = inner - of_a - of_b
        else:  # no sum but the product's own is as exact
            u = _repeated(ask, ask.value(a, left), left, inner)
            v = _repeated(ask, ask.value(b, right), right, inner)
            idle = frozenset()
        if u is None or v is None:
            return None
        if last is not None:
            u = ask.product(u, last)
        # In the order in which a matrix product gives them: shared, of the left, of the right.
        kept = {x for x in flat(axes) if x not in summed}
        common = [x for x in u.labels if x in v.labels]
        out = [x for x in (*common, *u.labels, *v.labels) if x in kept]
        out = list(dict.fromkeys(out))
        array = ask.arrays.contract(node, u, v, out)
        if idle:
            array = ask.arrays.scale(array, float(prod(lengths(idle))))
        return Part(array, out)


def _repeated(ask: Engine, part: Part | None, axes: Axes, inner: Labels) -> Part | None:
    """A value with all the inner labels, also those that it does not vary along."""
    if part is None or inner & frozenset(flat(axes)) <= frozenset(part.labels):
        return part
    labels = [x for x in flat(axes) if x in part.labels or x in inner]
    return Part(ask.arrays.broadcast(ask.aligned(part, labels), lengths(labels)), labels)


def lets_sums_in(x: Any) -> bool:
    """Whether a sum has somewhere to go beyond rearrangements."""
    while isinstance(x, Node) and isinstance(x.kind, Rearranged):
        x = x.inputs[0]
    if isinstance(x, Node) and isinstance(x.kind, Along):
        return any(lets_sums_in(x.inputs[k]) for k in x.kind.linear)
    if not isinstance(x, Node) or isinstance(x.kind, (Leaf, Opaque)):
        return False
    return not isinstance(x.kind, Elementwise) or bool(x.kind.linear or x.kind.factors)


class Along:
    """An operation that is linear in some operands and acts along some axes only.

    The other axes pass through it. One that is summed over, or that the value does not vary along,
    has length one in what is issued.

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

    def takes(self, node: Node, axes: Axes, weight: Part) -> bool:
        """Whether the weights can go to the operands."""
        return True

    def operand(
        self, ask: Engine, x: Node, own: Axes, axes: Axes, summed: Labels, weight: Weight
    ) -> Part | None:
        """An operand, summed."""
        return _summed_operand(ask, x, own, axes, summed, weight)

    def compute(self, ask: Engine, node: Node, axes: Axes, summed: Labels, weight: Weight) -> Any:
        acting = {x for k in node.options["acts"] for x in axes[k]}
        gone = summed | (frozenset(flat(axes)) - ask.varying(node, axes))
        if not gone:
            return whole(ask, node, axes)
        if summed & acting:
            return Stop("it acts along the axis")
        if weight is not None and not self.takes(node, axes, weight):
            return Stop("its weights vary along axes of both operands")
        places = [k for k in self.linear if isinstance(node.inputs[k], Node)]
        if weight is not None and not _homogeneous(node, places):
            return Stop("its weights do not pass a change of dtype")
        behind = [node.inputs[k] for k in self.linear]
        larger = sum(prod(x.shape) for x in behind if isinstance(x, Node)) > prod(node.shape)
        if summed and larger and not node.flops and not lets_sums_in(node):
            return Stop("it leaves out what the sum would have to add")
        shape = _without(axes, node.shape, gone)
        arrays = []
        for k, x in enumerate(node.inputs):
            if k not in self.linear or not isinstance(x, Node):
                arrays.append(ask.dense(x) if isinstance(x, Node) else x)
                continue
            own = self._own(node, axes, k)
            part = self.operand(ask, x, own, axes, summed, weight)
            sizes = _without(own, x.shape, gone)
            if part is None:
                arrays.append(ask.arrays.full(x, sizes, 0.0))
                continue
            labels = [x for x in flat(own) if x not in gone]
            array = ask.aligned(part, labels)
            absent = [x for x in labels if x not in part.labels]
            if absent:
                array = ask.arrays.broadcast(array, lengths(labels))
            arrays.append(ask.arrays.reshape(array, sizes))
        if all(isinstance(node.inputs[k], Node) and node.inputs[k].zero for k in self.linear):
            return None
        array = ask.arrays.issue(node, arrays, shape)
        kept = [x for x in flat(axes) if x not in gone]
        return Part(ask.arrays.reshape(array, lengths(kept)), kept)


class Bilinear(Along):
    """As `Along`, but linear in each of two operands, of which each has axes of its own."""

    def takes(self, node: Node, axes: Axes, weight: Part) -> bool:
        own = (frozenset(flat(self._own(node, axes, k))) for k in self.linear)
        return any(frozenset(weight.labels) <= labels for labels in own)

    def operand(
        self, ask: Engine, x: Node, own: Axes, axes: Axes, summed: Labels, weight: Weight
    ) -> Part | None:
        theirs = summed & frozenset(flat(own))
        given = weight if weight is not None and frozenset(weight.labels) <= theirs else None
        return ask.ask(x, own, theirs, given)


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
        case Bilinear():
            return any(zero[k] for k in kind.linear)
        case Along():
            return all(zero[k] for k in kind.linear)
    return False
