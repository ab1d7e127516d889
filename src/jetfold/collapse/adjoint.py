"""Sums that pass products with one factor as weights: a part of the program, transposed.

    Σ_dk w[d,k] (c @ W.T)[d,k] f[k]  =  Σ_dl c[d,l] ((w · f) @ W)[d,l]

The trace of a Hessian that was made by forward over reverse mode is such a sum. Its weights, pushed
through the reverse pass, are the tangents of the forward pass, which the program has: equal values
are made once (`Engine.once`), and the reverse pass along all directions is never computed.

A node may be asked for by several others, so weights are collected before they move on: nodes are
visited against their order, as reverse mode does.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from ..core.axes import Contracted, Pointwise, Rearranged, Summed
from .engine import SPLITTING, Engine, Steps, Stop
from .kinds import (
    TRANSPOSED,
    agreeing,
    contracted_axes,
    gates,
    homogeneous,
    is_one,
    issued,
    lets_sums_in,
    operand_axes,
    rearranged,
    replaced,
    summed_axes,
    unchanged,
)
from .labels import Axes, Labels, Part, Weight, flat, lengths, renamed, together
from .program import Node

Side = tuple[Node, Axes]


def entered(
    ask: Engine, node: Node, left: Side, right: Side, summed: Labels
) -> Steps[Part | Stop | None]:
    """Σ left · right, if it can pass on with one of them as weights and that was chosen."""
    sides = yield from choices(ask, left, right, summed)
    if sides:
        ask.transposable.add(node.number)
    if not sides or ask.choice.transposed is None or node.number < ask.choice.transposed:
        return Stop("not transposed")
    ((x, own), (y, other)) = sides[0]
    weight = yield ask.value(x, own)
    if weight is None:
        return None
    weight = ask.reduced(weight, summed - frozenset(flat(other)))
    wanted = Wanted(y, other, summed & frozenset(flat(other)), weight)
    return (yield from transposed(ask, wanted))


TRANSPOSED.append(entered)


@dataclass(frozen=True)
class Wanted:
    """Σ weight · node over labels; the weight may vary along others too."""

    node: Node
    axes: Axes
    summed: Labels
    weight: Weight


def transposed(ask: Engine, wanted: Wanted) -> Steps[Part | None]:
    """The sum that is wanted."""
    pending: dict[int, list[Wanted]] = {wanted.node.number: [wanted]}
    total: Part | None = None
    while pending:
        for item in pending.pop(max(pending)):
            if item.node.zero:
                total = ask.plus(total, _of_zeros(ask, item))
                continue
            present = yield from _present(ask, item)
            further = None if item.node.nil else (yield from _further(ask, present))
            if further is None:
                total = ask.plus(total, (yield from _settled(ask, present)))
                continue
            ask.passed(item.node)
            for new in further:
                waiting = pending.setdefault(new.node.number, [])
                waiting[:] = _collected(ask, waiting, new)
    return total


def _collected(ask: Engine, waiting: list[Wanted], new: Wanted) -> list[Wanted]:
    """With one more; weights of the same sum are added."""
    for k, old in enumerate(waiting):
        names = dict(zip(flat(new.axes), flat(old.axes), strict=False))
        kept = all(a.length == b.length if a in new.summed else a is b for a, b in names.items())
        same = kept and renamed(new.axes, names) == old.axes
        if same and frozenset(names.get(x, x) for x in new.summed) == old.summed:
            if new.weight is None or old.weight is None:
                continue
            weight = new.weight.renamed({x: names.get(x, x) for x in new.weight.labels})
            merged = replace(old, weight=ask.plus(old.weight, weight))
            return [*waiting[:k], merged, *waiting[k + 1 :]]
    return [*waiting, new]


def _of_zeros(ask: Engine, item: Wanted) -> Part | None:
    """Σ weight · 0, which is zero where the weight is finite."""
    if item.weight is None:
        return None
    return ask.reduced(ask.times(item.weight, 0.0), item.summed)


def _present(ask: Engine, item: Wanted) -> Steps[Wanted]:
    """Without labels that the node does not vary along."""
    summed = item.summed & frozenset(flat(item.axes))
    absent = summed - (yield ask.varying(item.node, item.axes))
    weight = _repeated(ask, item, item.weight, absent)
    return replace(item, summed=summed - absent, weight=weight)


def _repeated(ask: Engine, item: Wanted, weight: Weight, absent: Labels) -> Weight:
    """The weight of what is summed over labels that it lacks, and counts repeatedly."""
    given = frozenset(weight.labels) if weight is not None else frozenset()
    factor = float(prod(lengths(absent - given)))
    if weight is not None:
        return ask.times(ask.reduced(weight, absent & given), factor)
    return Part(ask.arrays.full((), factor, item.node), ()) if factor != 1 else None


def _settled(ask: Engine, item: Wanted) -> Steps[Part | None]:
    """A sum that moves on without transposing, or is taken here."""
    weight, tried = item.weight, isinstance(item.node.kind, SPLITTING)
    if weight is None or (not tried and item.summed >= frozenset(weight.labels) and item.summed):
        return (yield ask.ask(item.node, item.axes, item.summed, weight))
    part = yield ask.value(item.node, item.axes)
    return None if part is None else ask.product(part, weight, item.summed)


def _further(ask: Engine, item: Wanted) -> Steps[list[Wanted] | None]:
    """What is wanted of operands instead; None where the sum does not pass."""
    node, kind = item.node, item.node.kind
    first = ask.choice.transposed
    assert first is not None
    if not item.summed or node.number < first or node.number in ask.choice.needed:
        return None
    if not lets_sums_in(node):
        return None
    if isinstance(kind, Rearranged):
        own = rearranged(kind, node.inputs[0].shape, item.axes)
        return None if own is None else [replace(item, node=node.inputs[0], axes=own)]
    if isinstance(kind, Summed):
        own, new = summed_axes(kind, node.inputs[0].shape, item.axes)
        return [Wanted(node.inputs[0], own, item.summed | new, item.weight)]
    if isinstance(kind, Contracted):
        return (yield from _through_contraction(ask, item, kind))
    if isinstance(kind, Pointwise):
        return (yield from _through_pointwise(ask, item, kind))
    return None


def _through_pointwise(ask: Engine, item: Wanted, kind: Pointwise) -> Steps[list[Wanted] | None]:
    node, axes, summed, weight = item.node, item.axes, item.summed, item.weight
    owns = [operand_axes(x, axes) for x in node.inputs]
    if unchanged(node):
        return [Wanted(node.inputs[0], owns[0], summed, weight)]
    for k, other in gates(kind):
        pair = agreeing(node.inputs[k], owns[k], summed)
        if pair is not None and kind.factors:
            return None  # what is multiplied by the zeros counts too: `kinds` knows
        if pair is not None:
            rest, given = summed - {pair[0]}, replaced(ask, weight, *pair)
            return [Wanted(node, renamed(axes, dict([pair])), rest, given)]
        if node.inputs[other].dtype == node.dtype and is_one(node.inputs[k], owns[k]):
            return [_of_operand(ask, item, node.inputs[other], owns[other], summed, weight)]
    along = []
    for x, own in zip(node.inputs, owns, strict=True):
        along.append((yield ask.varying(x, own)) & summed)
    if kind.factors:
        for k, other in (kind.factors, kind.factors[::-1]):
            x, y = node.inputs[other], node.inputs[k]
            if along[other] < along[k] and homogeneous(node, kind.factors):
                factor = yield ask.value(x, owns[other])
                if factor is None:
                    return []
                given = factor if weight is None else ask.product(weight, factor)
                return [Wanted(y, owns[k], along[k], given)]
        return None
    carrying = {k for k, labels in enumerate(along) if labels}
    if not kind.linear or not carrying <= {*kind.linear} or not homogeneous(node, kind.linear):
        return None
    if weight is None and not kind.sign:
        return None
    found = []
    for k in kind.linear:
        x = node.inputs[k]
        if kind.sign:
            given = weight
            if k == 1 and kind.sign < 0:
                one = weight or Part(ask.arrays.full((), 1.0, node), ())
                given = ask.times(one, -1.0)
        else:  # it is symmetric: what it does to the operand it does to the weight
            parts: list[Part | None] = []
            for j, beside in enumerate(node.inputs):
                if j == k:
                    parts.append(weight)
                else:
                    parts.append(None if j in kind.linear else (yield ask.value(beside, owns[j])))
            given = issued(ask, node, parts)
        found.append(_of_operand(ask, item, x, owns[k], summed, given))
    return found


def _of_operand(
    ask: Engine, item: Wanted, x: Node, own: Axes, summed: Labels, weight: Weight
) -> Wanted:
    """An operand; over labels that it lacks it counts repeatedly."""
    missing = (summed & frozenset(flat(item.axes))) - frozenset(flat(own))
    return Wanted(x, own, summed - missing, _repeated(ask, item, weight, missing))


def _through_contraction(ask: Engine, item: Wanted, kind: Contracted) -> Steps[list[Wanted] | None]:
    node, weight = item.node, item.weight
    a, b = node.inputs
    if not a.dtype == b.dtype == node.dtype:
        return None
    left, right, inner = contracted_axes(kind, node, item.axes)
    summed = item.summed | inner
    if agreeing(a, left, summed) or agreeing(b, right, summed):
        return None  # what is multiplied by the zeros counts too: `kinds` knows
    for x, own, y, other in ((a, left, b, right), (b, right, a, left)):
        if is_one(x, own):
            every = replace(item, axes=(*left, *right))
            return [_of_operand(ask, every, y, other, summed, weight)]
    sides = yield from choices(ask, (a, left), (b, right), summed)
    if sides:
        ask.transposable.add(node.number)
    for (x, own), (y, other) in sides:
        factor = yield ask.value(x, own)
        if factor is None:
            return []
        return [
            Wanted(
                y,
                other,
                summed & frozenset(flat(other)),
                _folded(ask, node, weight, factor, other, summed),
            )
        ]
    return None


def _folded(
    ask: Engine, node: Node, weight: Weight, factor: Part, other: Axes, summed: Labels
) -> Part:
    """weight · factor, summed over what the other factor lacks."""
    gone = summed - frozenset(flat(other))
    if weight is None:
        return ask.reduced(factor, gone)
    out = [x for x in together([weight, factor]) if x not in gone]
    alone = gone - (frozenset(weight.labels) & frozenset(factor.labels))
    weight, factor = ask.reduced(weight, alone), ask.reduced(factor, alone)
    return ask.contracted(node if gone - alone else None, weight, factor, out)


def choices(ask: Engine, left: Side, right: Side, summed: Labels) -> Steps[list[tuple[Side, Side]]]:
    """(what becomes weights, what the sum goes on to), the better one first.

    Weights may have no label of the result that the other factor lacks: they would grow. Of a
    forward and a reverse pass the reverse one is computed later, and that is where sums go on to.
    """
    found = []
    of_left, of_right = (yield ask.varying(*left)), (yield ask.varying(*right))
    for x, of_x, y, of_y in ((left, of_left, right, of_right), (right, of_right, left, of_left)):
        fits = of_x - summed <= of_y and len(of_y & summed) > 1 and lets_sums_in(y[0])
        if fits and of_x & of_y & summed and x[0] is not y[0]:
            found.append((x, y))
    return sorted(found, key=lambda pair: -pair[1][0].number)
