"""Labels of axes, as in einsum: an axis is a group of labels, a merged axis has several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

Array = Any


class Label:
    """An index that runs along (a factor of) an axis."""

    __slots__ = ("length",)

    def __init__(self, length: int) -> None:
        self.length = length


Group = tuple[Label, ...]
Axes = tuple[Group, ...]
"""Per axis its labels, the slowest first; none for an axis of length one.

A label may come twice: what is asked for are then the entries at which both indices agree.
"""

Labels = frozenset[Label]


class Part:
    """An array with one axis per label, in this order; it does not vary along any other.

    Attributes:
        labels: one per axis of the array.
        bare, own: the array without the taints, and its labels.
        taints: what is still to be added: zeros, which are nan where the program multiplies a zero
            by what is not finite.
        add: how to add them.
    """

    __slots__ = ("_whole", "add", "bare", "labels", "own", "taints")
    labels: tuple[Label, ...]

    def __init__(
        self,
        array: Array,
        labels: Sequence[Label],
        taints: Sequence[Part] = (),
        add: Callable[[Part], Array] | None = None,
    ) -> None:
        self.bare, self.own = array, tuple(labels)
        self.taints, self.add = tuple(taints), add
        every = [*labels, *(x for taint in taints for x in taint.labels)]
        self.labels = tuple(dict.fromkeys(every)) if taints else self.own
        self._whole = None if taints else array

    @property
    def array(self) -> Array:
        """With what is to be added."""
        if self._whole is None:
            assert self.add is not None
            self._whole = self.add(self)
        return self._whole

    def untainted(self) -> Part:
        """Without it."""
        return Part(self.bare, self.own) if self.taints else self

    def renamed(self, names: Mapping[Any, Any]) -> Part:
        """With other labels in their places."""
        taints = [taint.renamed(names) for taint in self.taints]
        return Part(self.bare, [names[x] for x in self.own], taints, self.add)

    def identity(self, names: Mapping[Label, int]) -> Any:
        """What tells it from others."""
        own = (id(self.bare), *(names[x] for x in self.own))
        return own, frozenset(taint.identity(names) for taint in self.taints)


Weight = Part | None
"""Factors along summed labels; None is one."""


def spelled(axes: Axes) -> list[Label]:
    """The labels of all axes in order, those of a diagonal twice."""
    return [label for group in axes for label in group]


def flat(axes: Axes) -> list[Label]:
    """All labels once, in order."""
    return list(dict.fromkeys(spelled(axes)))


def repeated(axes: Axes) -> bool:
    """Whether a diagonal is asked for."""
    every = spelled(axes)
    return len(set(every)) < len(every)


def renamed(axes: Axes, names: Mapping[Label, Label]) -> Axes:
    """With other labels for some."""
    return tuple(tuple(names.get(label, label) for label in group) for group in axes)


def lengths(labels: Iterable[Label]) -> tuple[int, ...]:
    """Their lengths."""
    return tuple(label.length for label in labels)


def fresh(shape: Iterable[int]) -> Axes:
    """New labels, one per axis."""
    return tuple((Label(n),) if n != 1 else () for n in shape)


def together(parts: Iterable[Part]) -> list[Label]:
    """The labels of several parts; each part's stay in their order where they agree on one.

    A label that comes in by broadcasting then stays in front of those that both have: memory
    is still read along the last axis.
    """
    found: list[Label] = []
    for part in sorted(parts, key=lambda part: -len(part.labels)):
        found = _merged(found, part.labels)
    return found


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
