"""How sums pass through operations, by what an operation does with the axes of its operands.

Of every kind (`core.axes`): along which labels a value varies, and its value or its sum over
labels; see `engine.varying` and `engine.compute`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import singledispatch
from math import prod
from typing import Any

from ..core.axes import (
    Acting,
    Broadcast,
    Contracted,
    Diagonal,
    Identity,
    Opaque,
    Permuted,
    Pointwise,
    Rearranged,
    Reshaped,
    Summed,
    Zeros,
)
from .engine import Engine, Steps, Stop, compute, varying
from .labels import (
    Axes,
    Group,
    Label,
    Labels,
    Part,
    Weight,
    flat,
    fresh,
    lengths,
    renamed,
    spelled,
    together,
)
from .program import Kind, Leaf, Loop, Node

NONE: Labels = frozenset()

TRANSPOSED: list[Callable[..., Steps[Part | Stop | None]]] = []
"""How a contraction passes its sum on with one factor as weights: `adjoint` says so."""


def is_zero(kind: Kind, inputs: Sequence[Node]) -> bool:
    """Whether an operation on these inputs gives nothing but zeros, whatever their values.

    Not where it multiplies or divides: 0 · ∞ and 0 / 0 are not zero. There a zero is a number that
    varies along no axis, and 0 · x is taken once where x was made, not for every direction.
    """
    zero = [x.zero for x in inputs]
    match kind:
        case Zeros():
            return True
        case Pointwise(factors=factors) if factors:
            return all(zero[k] for k in factors)
        case Pointwise(linear=linear, masked=masked):
            alone = len(linear) == len(inputs) or any(zero[k] for k in masked[1:])
            return bool(linear) and alone and all(zero[k] for k in linear)
        case Contracted():
            return all(zero)
        case Permuted() | Broadcast() | Reshaped() | Diagonal() | Summed():
            return zero[0]
        case Acting(linear=linear, bilinear=bilinear):
            return not bilinear and len(linear) == len(inputs) and all(zero)
    return False


def is_nil(kind: Kind, inputs: Sequence[Node]) -> bool:
    """Whether it gives zeros wherever what it is made of is finite."""
    nil = [x.nil for x in inputs]
    match kind:
        case Pointwise(linear=linear, factors=factors):
            together = bool(linear) and all(nil[k] for k in linear)
            return together or any(nil[k] for k in factors)
        case Contracted():
            return any(nil)
        case Permuted() | Broadcast() | Reshaped() | Diagonal() | Summed():
            return nil[0]
        case Acting(linear=linear, bilinear=bilinear):
            of = (nil[k] for k in linear)
            return any(of) if bilinear else all(of)
    return False


def lets_sums_in(node: Node) -> bool:
    """Whether a sum has somewhere to go beyond rearrangements."""
    rest, seen = [node], {node.number}
    while rest:
        x = rest.pop()
        match x.kind:
            case Permuted() | Broadcast() | Reshaped() | Diagonal():
                behind: Sequence[int] = (0,)
            case Acting(linear=linear):
                behind = linear
            case Pointwise(linear=linear, factors=factors):
                if linear or factors:
                    return True
                continue
            case Leaf() | Opaque() | Zeros() | Identity() | Loop():
                continue
            case _:
                return True
        new = {x.inputs[k].number: x.inputs[k] for k in behind if x.inputs[k].number not in seen}
        seen |= new.keys()
        rest += new.values()
    return False


# ------------------------------------------------------------------ values


def whole(ask: Engine, node: Node, axes: Axes) -> Steps[Part]:
    """The operation on whole values."""
    operands = []
    for x in node.inputs:
        operands.append((yield ask.dense(x)))
    return ask.labelled(ask.arrays.issue(node, operands, node.shape), axes)


def parted(ask: Engine, node: Node, axes: Axes) -> Steps[Part | None]:
    """A diagonal of a value that is made whole."""
    own = tuple(tuple(Label(x.length) for x in group) for group in axes)
    names = dict(zip(spelled(own), spelled(axes), strict=True))
    part = yield ask.value(node, own)
    if part is None:
        return None
    return ask.labelled(part.array, tuple((names[x],) for x in part.labels))


@varying.register(Leaf | Opaque | Zeros | Loop)
def _(kind: Any, ask: Engine, node: Node, axes: Axes) -> Labels:
    return frozenset(flat(axes))


@compute.register(Leaf | Opaque | Zeros | Loop)
def _(
    kind: Any, ask: Engine, node: Node, axes: Axes, summed: Labels, weight: Weight
) -> Steps[Part] | Stop:
    """A value, in which everything may vary; sums do not pass."""
    if not summed:
        return whole(ask, node, axes)
    inside = isinstance(kind, Leaf)
    return Stop("an input" if inside else "not linear, or not known to be")


# ------------------------------------------------------------------ identity matrices
#
# Σ_i δ_ij x_i is x_j: nothing is multiplied and nothing added. So x is asked for with the label j
# in place of i, which is a diagonal of x where it has both.


def matched(x: Node, axes: Axes) -> list[tuple[Label, Label]] | None:
    """The pairs of labels which must agree where x is one, and not zero; None if it is no such."""
    while not isinstance(x.kind, Identity):
        if isinstance(x.kind, Rearranged):
            own = rearranged(x.kind, x.inputs[0].shape, axes)
            if own is None:
                return None
            axes = own
        elif not unchanged(x):
            return None
        x = x.inputs[0]
    first, second = axes[x.kind.first], axes[x.kind.second]
    if lengths(first) != lengths(second):
        return None
    return list(zip(first, second, strict=True))


def unchanged(x: Node) -> bool:
    """Whether it is its operand; not so if gradients are stopped there."""
    alone = x.kind == Pointwise(linear=(0,)) and len(x.inputs) == 1 and not x.flops
    return alone and x.dtype == x.inputs[0].dtype and not x.name.startswith("detach")


def is_one(x: Node, axes: Axes) -> bool:
    """Whether it is a matrix of ones and zeros of which only ones are asked for."""
    pairs = matched(x, axes)
    return pairs is not None and all(a is b for a, b in pairs)


def agreeing(x: Node, axes: Axes, summed: Labels) -> tuple[Label, Label] | None:
    """(i, j), where a sum over i with the factor x leaves the other factors at i = j."""
    for a, b in matched(x, axes) or ():
        if a is not b and (a in summed or b in summed):
            return (a, b) if a in summed else (b, a)
    return None


def replaced(ask: Engine, weight: Weight, old: Label, new: Label) -> Weight:
    if weight is None:
        return None
    return ask.labelled(weight.array, tuple((new if x is old else x,) for x in weight.labels))


@varying.register
def _(kind: Identity, ask: Engine, node: Node, axes: Axes) -> Labels:
    pairs = matched(node, axes)
    if pairs is None:
        return frozenset(flat(axes))
    return frozenset(x for a, b in pairs if a is not b for x in (a, b))


@compute.register
def _(
    kind: Identity, ask: Engine, node: Node, axes: Axes, summed: Labels, weight: Weight
) -> Steps[Part] | Part | Stop:
    if is_one(node, axes):
        return Part(ask.arrays.full((), 1.0, node), ())
    return Stop("an identity matrix") if summed else whole(ask, node, axes)


# ------------------------------------------------------------------ operands that are summed


def summed_operand(
    ask: Engine, x: Node, own: Axes, axes: Axes, summed: Labels, weight: Weight
) -> Steps[Part | None]:
    """An operand of a linear operation, summed; over labels that it lacks it counts repeatedly."""
    missing = (summed & frozenset(flat(axes))) - frozenset(flat(own))
    known = frozenset(weight.labels) if weight is not None else NONE
    given = ask.reduced(weight, missing & known) if weight is not None else None
    part = yield ask.ask(x, own, summed - missing, given)
    return None if part is None else ask.times(part, float(prod(lengths(missing - known))))


def homogeneous(node: Node, linear: Sequence[int]) -> bool:
    """Whether a factor of the operands is one of the value: not so if it is real and they are not.

    op(w·x) = w·op(x) holds for numbers w of the dtype that both have.
    """
    same = all(node.inputs[k].dtype == node.dtype for k in linear)
    return same and not (isinstance(node.kind, Pointwise) and node.kind.conjugates)


def by_zero(
    ask: Engine, sides: Sequence[tuple[Node, Axes]], axes: Axes, summed: Labels, weight: Weight
) -> Steps[Part | None]:
    """A product of which an operand is zero: not zero where the other one is infinite or nan."""
    for x, own in sides:
        if not x.zero:
            inner = frozenset(flat(own)) - frozenset(flat(axes))
            part = yield summed_operand(ask, x, own, axes, summed, weight)
            return None if part is None else ask.reduced(ask.times(part, 0.0), inner)
    return None


def by_ones_and_zeros(
    ask: Engine, part: Part | None, x: Node, own: Axes, axes: Axes, summed: Labels, weight: Weight
) -> Steps[Part | None]:
    """Σ_i δ_ij x_i = x_j, but for 0 · x_i, which is not zero where x_i is infinite or nan."""
    taint = yield from by_zero(ask, [(x, own)], axes, summed, weight)
    return part if part is None or taint is None else ask.tainted(part, [part, _taint(taint)])


def _taint(part: Part) -> Part:
    """A part that is nothing but a taint."""
    return Part(None, (), [part.untainted(), *part.taints])


# ------------------------------------------------------------------ pointwise


def operand_axes(x: Node, axes: Axes) -> Axes:
    """The labels of an operand that is broadcast to a result with these."""
    tail = axes[len(axes) - len(x.shape) :] if x.shape else ()
    return tuple(group if n != 1 else () for group, n in zip(tail, x.shape, strict=True))


@varying.register
def _(kind: Pointwise, ask: Engine, node: Node, axes: Axes) -> Steps[Labels]:
    found = NONE
    for x in node.inputs:
        found |= yield ask.varying(x, operand_axes(x, axes))
    return found


@compute.register
def _(
    kind: Pointwise, ask: Engine, node: Node, axes: Axes, summed: Labels, weight: Weight
) -> Steps[Part | Stop | None]:
    if unchanged(node):
        return (yield ask.ask(node.inputs[0], operand_axes(node.inputs[0], axes), summed, weight))
    if any(node.inputs[k].zero for k in kind.factors):
        sides = [(node.inputs[k], operand_axes(node.inputs[k], axes)) for k in kind.factors]
        return (yield from by_zero(ask, sides, axes, summed, weight))
    if not summed:
        for k, other in gates(kind):
            x, one = node.inputs[other], node.inputs[k]
            if x.dtype == node.dtype and is_one(one, operand_axes(one, axes)):
                return (yield ask.value(x, operand_axes(x, axes)))
        scaled = yield from _scaled(kind, ask, node, axes)
        return scaled or (yield from _applied(kind, ask, node, axes, summed, weight))
    for k, other in gates(kind):
        x, y = node.inputs[k], node.inputs[other]
        pair = agreeing(x, operand_axes(x, axes), summed)
        if pair is not None:
            names = dict([pair])
            rest, given = summed - {pair[0]}, replaced(ask, weight, *pair)
            part = yield ask.ask(node, renamed(axes, names), rest, given)
            if kind.factors:
                part = yield from by_ones_and_zeros(
                    ask, part, y, operand_axes(y, axes), axes, summed, weight
                )
            return part
    along = []
    for x in node.inputs:
        along.append((yield ask.varying(x, operand_axes(x, axes))) & summed)
    carrying = {k for k, labels in enumerate(along) if labels}
    if kind.factors and carrying <= {*kind.factors}:
        return (yield from _product(kind, ask, node, axes, summed, weight, along))
    for places in (kind.factors, kind.linear):
        stopping = NONE.union(*(x for k, x in enumerate(along) if k not in places))
        if places and stopping and stopping < summed:
            return Stop("not linear in what carries the axis", stopping)
    if kind.linear and carrying <= {*kind.linear}:
        if weight is not None and not homogeneous(node, kind.linear):
            return Stop("its weights do not pass a change of dtype or a conjugation")
        return (yield from _applied(kind, ask, node, axes, summed, weight))
    if len(node.inputs) == 1 and node.dtype != node.inputs[0].dtype and not node.flops:
        return Stop("the sum would be taken in the other dtype, with fewer digits")
    return Stop("not linear in what carries the axis")


def gates(kind: Pointwise) -> list[tuple[int, int]]:
    """(m, x): the result is zero where operand m is, and x where it is one."""
    return [pair for pair in (kind.factors, kind.factors[::-1], kind.masked) if pair]  # type: ignore[misc]


def _applied(
    kind: Pointwise, ask: Engine, node: Node, axes: Axes, summed: Labels, weight: Weight
) -> Steps[Part | None]:
    """The operation on operands of which those in which it is linear are summed."""
    parts: list[Part | None] = []
    for k, x in enumerate(node.inputs):
        own = operand_axes(x, axes)
        if summed and k in kind.linear:
            parts.append((yield summed_operand(ask, x, own, axes, summed, weight)))
        else:
            parts.append((yield ask.value(x, own)))
    if node.zero:
        return None
    zero = [k for k, part in enumerate(parts) if part is None]
    if kind.sign and len(zero) == 1:  # u ± 0, or 0 ± v
        (k,) = {0, 1} - {*zero}
        return ask.times(_known(parts[k]), -1.0 if k == 1 and kind.sign < 0 else 1.0)
    if kind.sign and node.inputs[0].nil != node.inputs[1].nil:
        k = int(node.inputs[0].nil)
        part, taint = _known(parts[k]), _known(parts[1 - k])
        part = ask.times(part, -1.0 if k == 1 and kind.sign < 0 else 1.0)
        return ask.tainted(part, [part, _taint(taint)])
    return issued(ask, node, parts)


def issued(ask: Engine, node: Node, parts: Sequence[Part | None]) -> Part:
    """A pointwise operation on parts, of which None are zeros."""
    assert isinstance(node.kind, Pointwise)
    passing = node.kind.factors or node.kind.linear
    if len(passing) == len(parts) or node.kind.arithmetic:
        tainted = [parts[k] for k in passing]
        if any(part and part.taints for part in tainted):
            bare = [x.untainted() if x and k in passing else x for k, x in enumerate(parts)]
            return ask.tainted(issued(ask, node, bare), tainted)
    labels = together(part for part in parts if part is not None)

    def make() -> Part:
        arrays = [
            ask.arrays.full([1] * len(labels), 0.0, x)
            if part is None
            else ask.aligned(part, labels)
            for part, x in zip(parts, node.inputs, strict=True)
        ]
        return Part(ask.arrays.issue(node, arrays, lengths(labels)), labels)

    alike = len(parts) == 2 and None not in parts and node.kind.arithmetic
    alike = alike and all(x.dtype == node.dtype for x in node.inputs)
    if alike and node.kind.factors:
        return ask.once(("product", frozenset(labels)), parts, make, symmetric=True)
    if alike and node.kind.sign > 0:
        return ask.once("sum", parts, make, symmetric=True)
    return (
        make()
        if node.operation is None
        else ask.once(("issue", node.operation, node.dtype), parts, make)
    )


def _product(
    kind: Pointwise,
    ask: Engine,
    node: Node,
    axes: Axes,
    summed: Labels,
    weight: Weight,
    along: Sequence[Labels],
) -> Steps[Part | Stop | None]:
    k, other = kind.factors
    own = {j: operand_axes(node.inputs[j], axes) for j in kind.factors}
    for j, rest in ((k, other), (other, k)):
        smaller = along[j] < along[rest] or not lets_sums_in(node.inputs[j])
        if along[j] and smaller and (yield ask.varying(node.inputs[j], own[j])) <= summed:
            # A factor of weights.
            vector = yield ask.value(node.inputs[j], own[j])
            if vector is None:
                return None
            x = node.inputs[rest]
            if weight is not None and not {*weight.labels} & {*vector.labels}:
                # Weights along both would pass less than those along the others.
                kept = summed & frozenset(vector.labels)
                part = yield summed_operand(ask, x, own[rest], axes, summed - kept, weight)
                return None if part is None else ask.product(part, vector, kept)
            weights = vector if weight is None else ask.product(vector, weight)
            return (yield summed_operand(ask, x, own[rest], axes, summed, weights))
    both = along[k] & along[other]
    alone = {j: along[j] - both for j in kind.factors}
    given: dict[int, Weight] = {k: None, other: None}
    last: Weight = None
    if weight is not None:
        needs = frozenset(weight.labels)
        if needs <= both:
            last = weight
        else:
            fits = [j for j in kind.factors if needs <= alone[j]]
            if not fits:
                return Stop("its weights vary along axes of both factors", needs)
            given[fits[0]] = weight
    operands = [(node.inputs[j], own[j], alone[j], given[j]) for j in kind.factors]
    if both:
        return (yield from _contraction(ask, operands, both, last))
    parts = []
    for operand in operands:
        parts.append((yield ask.ask(*operand)))
    if any(part is None for part in parts):
        return None
    return issued(ask, node, parts if k < other else parts[::-1])


# ------------------------------------------------------------------ factors that stay outside


def _contraction(
    ask: Engine, operands: Sequence[tuple[Node, Axes, Labels, Weight]], both: Labels, last: Weight
) -> Steps[Part | None]:
    """Σ a·b over labels along which both vary: factors that lack the labels may stay outside."""
    if not ask.choice.factored:
        return (yield from ask.summed_product(operands, both, last))
    parted: dict[Labels, list[tuple[Node, Axes, Scale]]] = {}
    for inner in [both, *(frozenset([label]) for label in both if len(both) > 1)]:
        parted[inner] = []
        for x, own, over, _ in operands:  # a factor along what x alone is summed over stays inside
            parted[inner].append((yield carrier(ask, x, own, inner | over)))
    partly = any(over for _, _, over, _ in operands)

    def square(inner: Labels) -> bool:
        (a, axes_a, _), (b, axes_b, _) = parted[inner]
        return a is b and axes_a == axes_b and not partly

    inner = next(filter(square, parted), both)
    made = [
        (base, own, over, given)
        for (base, own, _), (_, _, over, given) in zip(parted[inner], operands, strict=True)
    ]
    made.sort(key=lambda operand: operand[0].number)
    # Σ last · scales · (Σ a·b), the inner sum over labels that the scales lack.
    within = last if last is not None and frozenset(last.labels) <= inner else None
    part = yield from ask.summed_product(made, inner, within)
    if part is None:
        return None
    for _, _, scale in parted[inner]:
        if scale is not None:
            part = ask.product(part, (yield scale()))
    if last is not None and within is None:
        return ask.product(part, last, both - inner)
    return ask.reduced(part, both - inner)


def _scaled(kind: Pointwise, ask: Engine, node: Node, axes: Axes) -> Steps[Part | None]:
    """A product by factors that lack labels of the other one: the factors are multiplied first."""
    if not ask.choice.factored or not kind.factors:
        return None
    u = yield ask.varying(node.inputs[0], operand_axes(node.inputs[0], axes))
    v = yield ask.varying(node.inputs[1], operand_axes(node.inputs[1], axes))
    if u <= v:
        u, v = v, u
    if not v < u:
        return None
    base, own, scale = yield carrier(ask, node, axes, u - v)
    if base is node or scale is None:
        return None
    part = yield ask.value(base, own)
    return None if part is None else ask.product(part, (yield scale()))


Scale = Callable[[], Steps[Part]] | None
"""How to make a factor; None is one."""


def carrier(ask: Engine, x: Node, axes: Axes, summed: Labels) -> Steps[tuple[Node, Axes, Scale]]:
    """x as base · scale, where only the base varies along the labels."""
    key = (x.number, axes, summed)
    if key not in ask.carriers:
        ask.carriers[key] = yield from _carrier(ask, x, axes, summed)
    return ask.carriers[key]


def _carrier(ask: Engine, x: Node, axes: Axes, summed: Labels) -> Steps[tuple[Node, Axes, Scale]]:
    if isinstance(x.kind, Rearranged):
        inside = rearranged(x.kind, x.inputs[0].shape, axes)
        if inside is not None:
            return (yield carrier(ask, x.inputs[0], inside, summed))
    if not isinstance(x.kind, Pointwise) or not x.kind.arithmetic:
        return x, axes, None
    if any(x.inputs[k].zero for k in x.kind.factors):
        return x, axes, None
    found = {}
    for k, y in enumerate(x.inputs):
        own = operand_axes(y, axes)
        if (yield ask.varying(y, own)) & summed:
            found[k] = yield carrier(ask, y, own, summed)
    if x.kind.sign:
        if len(found) != 2:
            return x, axes, None
        (a, axes_a, _), (b, axes_b, _) = found.values()
        if a is not b or axes_a != axes_b:
            return x, axes, None
    elif len(found) != 1 or next(iter(found)) not in (x.kind.linear or x.kind.factors):
        return x, axes, None
    base, own, _ = next(iter(found.values()))
    scales = {k: scale for k, (_, _, scale) in found.items()}
    return base, own, _once(lambda: _scale(ask, x, axes, scales))


def _scale(ask: Engine, x: Node, axes: Axes, scales: Mapping[int, Scale]) -> Steps[Part]:
    """The operation on the scales of some operands and the values of the others."""
    assert isinstance(x.kind, Pointwise)
    if x.kind.factors and not any(scales.values()):
        (y,) = (y for k, y in enumerate(x.inputs) if k not in scales)
        return _known((yield ask.value(y, operand_axes(y, axes))))
    parts: list[Part] = []
    for k, y in enumerate(x.inputs):
        scale, alone = scales.get(k), 1.0 if k in scales else 0.0
        if k not in scales:
            part = yield ask.value(y, operand_axes(y, axes))
        else:
            part = (yield scale()) if scale is not None else None
        parts.append(part or Part(ask.arrays.full((), alone, y), ()))
    labels = together(parts)
    arrays = [ask.aligned(part, labels) for part in parts]
    return Part(ask.arrays.issue(x, arrays, lengths(labels)), labels)


def _once(make: Callable[[], Steps[Part]]) -> Callable[[], Steps[Part]]:
    """The same, made when it is first wanted."""
    made: list[Part] = []

    def wanted() -> Steps[Part]:
        if not made:
            made.append((yield make()))
        return made[0]

    return wanted


def _known(part: Part | None) -> Part:
    """The value of a node that is not zero."""
    assert part is not None
    return part


# ------------------------------------------------------------------ rearranged


@singledispatch
def rearranged(kind: Any, shape: Sequence[int], axes: Axes) -> Axes | None:
    """The labels of an operand of this shape, from those of the result; None if they do not fit."""
    raise NotImplementedError(kind)


@rearranged.register
def _(kind: Permuted, shape: Sequence[int], axes: Axes) -> Axes:
    own = dict(zip(kind.order, axes, strict=True))
    return tuple(own[k] for k in range(len(axes)))


@rearranged.register
def _(kind: Broadcast, shape: Sequence[int], axes: Axes) -> Axes:
    return tuple(axes[k] if n != 1 else () for k, n in zip(kind.dims, shape, strict=True))


@rearranged.register
def _(kind: Reshaped, shape: Sequence[int], axes: Axes) -> Axes | None:
    """The labels of all axes in a row, grouped anew; labels that cross a border do not fit."""
    rest = spelled(axes)
    own: list[Group] = []
    for n in shape:
        group: list[Label] = []
        while prod(lengths(group)) < n:
            if not rest:
                return None
            group.append(rest.pop(0))
        if prod(lengths(group)) != n:
            return None
        own.append(tuple(group))
    return None if rest else tuple(own)


@rearranged.register
def _(kind: Diagonal, shape: Sequence[int], axes: Axes) -> Axes:
    rest, last = list(axes[:-1]), axes[-1]
    return tuple(last if k in (kind.first, kind.second) else rest.pop(0) for k in range(len(shape)))


@varying.register(Rearranged)
def _(kind: Rearranged, ask: Engine, node: Node, axes: Axes) -> Steps[Labels] | Labels:
    own = rearranged(kind, node.inputs[0].shape, axes)
    return frozenset(flat(axes)) if own is None else ask.varying(node.inputs[0], own)


@compute.register(Rearranged)
def _(
    kind: Rearranged, ask: Engine, node: Node, axes: Axes, summed: Labels, weight: Weight
) -> Steps[Part | None] | Stop:
    own = rearranged(kind, node.inputs[0].shape, axes)
    if own is not None:
        return ask.ask(node.inputs[0], own, summed, weight)
    return (
        Stop("the axis is merged with another across the sum") if summed else whole(ask, node, axes)
    )


# ------------------------------------------------------------------ sums of the program


def summed_axes(kind: Summed, shape: Sequence[int], axes: Axes) -> tuple[Axes, Labels]:
    """The labels of the operand, and those of them that are summed over."""
    rest = list(axes)
    own: list[Group] = []
    new: list[Label] = []
    for k, n in enumerate(shape):
        if k not in kind.axes:
            own.append(rest.pop(0))
            continue
        if kind.keepdims:
            rest.pop(0)
        own += fresh([n])
        new += own[-1]
    return tuple(own), frozenset(new)


@varying.register
def _(kind: Summed, ask: Engine, node: Node, axes: Axes) -> Steps[Labels]:
    own, new = summed_axes(kind, node.inputs[0].shape, axes)
    return (yield ask.varying(node.inputs[0], own)) - new


@compute.register
def _(
    kind: Summed, ask: Engine, node: Node, axes: Axes, summed: Labels, weight: Weight
) -> Steps[Part | None]:
    own, new = summed_axes(kind, node.inputs[0].shape, axes)
    ask.begin(node)
    part = yield ask.ask(node.inputs[0], own, summed | new, weight)
    ask.end()
    return part


# ------------------------------------------------------------------ contractions


def contracted_axes(kind: Contracted, node: Node, axes: Axes) -> tuple[Axes, Axes, Labels]:
    """The labels of both operands, and those that are summed over."""
    names: dict[str, Group] = dict(zip(kind.out, axes, strict=True))
    inner: list[Label] = []
    sides: list[Axes] = []
    for side, x in zip((kind.left, kind.right), node.inputs, strict=True):
        for name, n in zip(side, x.shape, strict=True):
            if name not in names:
                (names[name],) = fresh([n])
                inner += names[name]
        own = zip(side, x.shape, strict=True)
        sides.append(tuple(names[name] if n != 1 else () for name, n in own))
    return sides[0], sides[1], frozenset(inner)


@varying.register
def _(kind: Contracted, ask: Engine, node: Node, axes: Axes) -> Steps[Labels]:
    left, right, inner = contracted_axes(kind, node, axes)
    a, b = node.inputs
    return ((yield ask.varying(a, left)) | (yield ask.varying(b, right))) - inner


@compute.register
def _(
    kind: Contracted, ask: Engine, node: Node, axes: Axes, summed: Labels, weight: Weight
) -> Steps[Part | Stop | None]:
    left, right, inner = contracted_axes(kind, node, axes)
    a, b = node.inputs
    alike = a.dtype == b.dtype == node.dtype
    if alike and (a.zero or b.zero):
        return (yield from by_zero(ask, ((a, left), (b, right)), axes, summed, weight))
    before, matches = (left, right, axes, inner, summed, weight), False
    for x, own in ((a, left), (b, right)) if alike else ():
        while (pair := agreeing(x, own, summed | inner)) is not None:
            names = dict([pair])
            left, right, axes = (renamed(y, names) for y in (left, right, axes))
            own = renamed(own, names)
            summed, inner, weight = (
                summed - {pair[0]},
                inner - {pair[0]},
                replaced(ask, weight, *pair),
            )
            matches = True
    for x, own, y, other, side in (
        ((a, left, b, right, before[1]), (b, right, a, left, before[0])) if alike else ()
    ):
        if is_one(x, own):
            every = (*other, *own)
            part = yield summed_operand(ask, y, other, every, inner | summed, weight)
            if not matches:
                return part
            left, right, _, inner, summed, weight = before
            every, over = (*left, *right), inner | summed
            return (yield from by_ones_and_zeros(ask, part, y, side, every, over, weight))
    left, right, axes, inner, summed, weight = before
    of_a, of_b = (yield ask.varying(a, left)), (yield ask.varying(b, right))
    if summed and not alike:
        return Stop("it changes the dtype, and the sum would be taken in the other one")
    # Σ_k w_k b_k with w a vector: a sum like others, with weights.
    for x, own, along, y, other in ((a, left, of_a, b, right), (b, right, of_b, a, left)):
        if along and along <= inner and weight is None and alike and lets_sums_in(y):
            vector = yield ask.value(x, own)
            if vector is None:
                return None
            if not summed:
                ask.begin(node)
            part = yield summed_operand(ask, y, other, (*other, *own), inner | summed, vector)
            if not summed:
                ask.end()
            return part
    if alike and weight is None and TRANSPOSED:
        moved = yield from TRANSPOSED[0](ask, node, (a, left), (b, right), inner | summed)
        if not isinstance(moved, Stop):
            return moved
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
            return Stop("its weights vary along axes of both operands", needs & summed)
    if alike:
        u = yield ask.ask(a, left, alone_a | lone_a, given_a)
        v = yield ask.ask(b, right, alone_b | lone_b, given_b)
        # An inner label that neither varies along counts its length.
        idle = inner - of_a - of_b
    else:  # no sum but the product's own is as exact
        u = _repeated(ask, a, (yield ask.value(a, left)), left, inner)
        v = _repeated(ask, b, (yield ask.value(b, right)), right, inner)
        idle = NONE
    assert u is not None and v is not None
    if last is not None:
        u = ask.product(u, last)
    # In the order in which a matrix product gives them: shared, of the left, of the right.
    kept = {x for x in flat(axes) if x not in summed}
    common = [x for x in u.labels if x in v.labels]
    out = list(dict.fromkeys(x for x in (*common, *u.labels, *v.labels) if x in kept))
    if alike:
        return ask.times(ask.contracted(node, u, v, out), float(prod(lengths(idle))))
    return Part(ask.arrays.contract(node, u, v, out), out)


def _repeated(ask: Engine, x: Node, part: Part | None, axes: Axes, inner: Labels) -> Part:
    """A value with all the inner labels, also those that it does not vary along."""
    part = part or Part(ask.arrays.full((), 0.0, x), ())
    if inner & frozenset(flat(axes)) <= frozenset(part.labels):
        return part
    labels = [x for x in flat(axes) if x in part.labels or x in inner]
    return Part(ask.arrays.broadcast_to(ask.aligned(part, labels), lengths(labels)), labels)


# ------------------------------------------------------------------ acting along some axes
#
# The other axes pass. One that is summed over, or that the value does not vary along, has length
# one in what is issued.


def acting_axes(kind: Acting, node: Node, axes: Axes, k: int) -> Axes:
    """The labels of the k-th linear operand: those of its batch axes, and fresh ones."""
    shape = node.inputs[kind.linear[k]].shape
    own = list(fresh(shape))
    for axis, theirs in kind.through[k]:
        own[theirs] = axes[axis] if shape[theirs] != 1 else ()
    return tuple(own)


@varying.register
def _(kind: Acting, ask: Engine, node: Node, axes: Axes) -> Steps[Labels]:
    found = frozenset(x for k in kind.acts for x in axes[k])
    for k, place in enumerate(kind.linear):
        found |= yield ask.varying(node.inputs[place], acting_axes(kind, node, axes, k))
    return found & frozenset(flat(axes))


@compute.register
def _(
    kind: Acting, ask: Engine, node: Node, axes: Axes, summed: Labels, weight: Weight
) -> Steps[Part | Stop | None]:
    gone = summed | (frozenset(flat(axes)) - (yield ask.varying(node, axes)))
    once, again = _once_each(axes)
    if not gone and not again:
        return (yield from whole(ask, node, axes))
    acts_on = {x for k in kind.acts for x in axes[k]}
    if again and (kind.bilinear or acts_on & {*again.values()}):
        if summed:
            return Stop("it acts along one axis of a diagonal")
        return (yield from parted(ask, node, axes))
    if summed & acts_on:
        return Stop("it acts along the axis", summed & acts_on)
    owns = {place: acting_axes(kind, node, once, k) for k, place in enumerate(kind.linear)}
    needs = frozenset(weight.labels) if weight is not None else NONE
    if kind.bilinear and not any(needs <= frozenset(flat(own)) for own in owns.values()):
        return Stop("its weights vary along axes of both operands", needs)
    if weight is not None and not homogeneous(node, kind.linear):
        return Stop("its weights do not pass a change of dtype")
    larger = sum(prod(node.inputs[k].shape) for k in kind.linear) > prod(node.shape)
    if summed and larger and not node.flops and not lets_sums_in(node):
        return Stop("it leaves out what the sum would have to add")
    arrays = []
    for k, x in enumerate(node.inputs):
        if k not in owns:
            arrays.append((yield ask.dense(x)))
            continue
        if kind.bilinear:
            theirs = summed & frozenset(flat(owns[k]))
            part = yield ask.ask(x, owns[k], theirs, weight if needs <= theirs else None)
        else:
            own = renamed(owns[k], again)
            part = yield summed_operand(ask, x, own, axes, summed, weight)
        arrays.append(_shortened(ask, x, part, owns[k], gone | frozenset(again)))
    array = ask.arrays.issue(node, arrays, _without(once, node.shape, gone | frozenset(again)))
    kept = [x for x in flat(axes) if x not in gone]
    return Part(ask.arrays.reshape(array, lengths(kept)), kept)


def _once_each(axes: Axes) -> tuple[Axes, dict[Label, Label]]:
    """Axes with other labels where one comes again, and what these stand for.

    Along a diagonal of batch axes a kind acts alike: one axis is left, the other has length one.
    """
    seen: set[Label] = set()
    again: dict[Label, Label] = {}
    made: list[Group] = []
    for group in axes:
        new = []
        for label in group:
            if label in seen:
                new.append(Label(label.length))
                again[new[-1]] = label
            else:
                new.append(label)
            seen.add(label)
        made.append(tuple(new))
    return tuple(made), again


def _shortened(ask: Engine, x: Node, part: Part | None, axes: Axes, gone: Labels) -> Any:
    """An operand with axes of length one where the labels are gone."""
    shape = _without(axes, x.shape, gone)
    if part is None:
        return ask.arrays.full(shape, 0.0, x)
    labels = [label for label in flat(axes) if label not in gone]
    array = ask.aligned(part, labels)
    if any(label not in part.labels for label in labels):
        array = ask.arrays.broadcast_to(array, lengths(labels))
    return ask.arrays.reshape(array, shape)


def _without(axes: Axes, shape: Sequence[int], gone: Labels) -> list[int]:
    """The shape when only the other labels are left of each axis."""
    return [
        prod(x.length for x in group if x not in gone) if group else n
        for group, n in zip(axes, shape, strict=True)
    ]
