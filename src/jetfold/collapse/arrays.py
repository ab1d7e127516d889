"""What the pass asks of an array library."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol

from ..core.arrays import Arrays as Vocabulary
from .labels import Array, Label, Part, lengths
from .program import Node


class Arrays(Protocol):
    """What the engine asks: real arrays (`Library`), or shapes alone (`plan.Shapes`).

    `reshape`, `permute_dims`, `broadcast_to` and `sum` are those of the vocabulary of
    `core.arrays`; so is `full`, which makes arrays like a node.
    """

    def issue(self, node: Node, arrays: Sequence[Array], shape: Sequence[int]) -> Array:
        """The node's operation on arrays that are broadcast to `shape`, its result's."""

    def contract(self, node: Node | None, left: Part, right: Part, out: Sequence[Label]) -> Array:
        """The product of two parts, summed over all labels that are not in `out`.

        Args:
            node: the product of the program that this is; None for one that the pass makes.
        """

    def times(self, array: Array, factor: float) -> Array:
        """factor · array."""

    def add(self, left: Array, right: Array) -> Array:
        """left + right, of one shape but for axes of length one."""

    def sum(self, array: Array, axes: Sequence[int]) -> Array: ...
    def permute_dims(self, array: Array, order: Sequence[int]) -> Array: ...
    def reshape(self, array: Array, shape: Sequence[int]) -> Array: ...
    def broadcast_to(self, array: Array, shape: Sequence[int]) -> Array: ...
    def diagonal(self, array: Array, first: int, second: int) -> Array:
        """Where the indices along two axes agree; these are the last axis of the result."""

    def full(self, shape: Sequence[int], value: float, like: Node) -> Array: ...


class Library(ABC):
    """`Arrays` on the arrays of a framework.

    Args:
        vocabulary: the framework's `arrays`.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.sum = vocabulary.sum
        self.permute_dims = vocabulary.permute_dims
        self.reshape = vocabulary.reshape
        self.broadcast_to = vocabulary.broadcast_to

    def issue(self, node: Node, arrays: Sequence[Array], shape: Sequence[int]) -> Array:
        """As the frontend made it."""
        return node.issue(arrays, shape)

    def add(self, left: Array, right: Array) -> Array:
        """left + right."""
        return left + right

    def diagonal(self, array: Array, first: int, second: int) -> Array:
        """NumPy, JAX and PyTorch spell it alike."""
        return array.diagonal(0, first, second)

    def full(self, shape: Sequence[int], value: float, like: Node) -> Array:
        """One value everywhere, in the dtype (and on the device) of a node."""
        return self.vocabulary.full(shape, value, like.dtype)

    def contract(self, node: Node | None, left: Part, right: Part, out: Sequence[Label]) -> Array:
        """One product of matrices; a product and a sum where axes that stay are shared.

        A product of matrices that the program has stays one.
        """
        labels = list(dict.fromkeys([*left.labels, *right.labels]))
        common = [x for x in left.labels if x in right.labels]
        batch, inner = [x for x in common if x in out], [x for x in common if x not in out]
        if node is None and (batch or len(labels) == len(out)):
            return self.multiplied(left, right, out, [x for x in labels if x not in out])
        made = self.matrices(node, left, right, batch, inner)
        free = [x for x in (*left.labels, *right.labels) if x not in common]
        return self.permute_dims(made, [[*batch, *free].index(x) for x in out])

    @abstractmethod
    def times(self, array: Array, factor: float) -> Array:
        """factor · array."""

    @abstractmethod
    def multiplied(
        self, left: Part, right: Part, out: Sequence[Label], inner: Sequence[Label]
    ) -> Array:
        """The product, entry by entry, summed over the inner labels; its axes are `out`."""

    @abstractmethod
    def matrices(
        self,
        node: Node | None,
        left: Part,
        right: Part,
        batch: Sequence[Label],
        inner: Sequence[Label],
    ) -> Array:
        """The product of matrices; its axes are the batch, then what is left of either operand."""


def aligned(arrays: Any, part: Part, labels: Sequence[Label]) -> Array:
    """A part as an array with an axis per label, in order, of length one where it lacks one."""
    present = [x for x in labels if x in part.labels]
    order = [part.labels.index(x) for x in present]
    array = part.array
    if order != list(range(len(order))):
        array = arrays.permute_dims(array, order)
    if len(present) != len(labels):
        array = arrays.reshape(array, [x.length if x in part.labels else 1 for x in labels])
    return array


def spread(arrays: Arrays, part: Part | None, labels: Sequence[Label], like: Node) -> Array:
    """A part as an array with an axis for each of the labels; None is zeros like a node."""
    if part is None:
        return arrays.full(lengths(labels), 0.0, like)
    array = aligned(arrays, part, labels)
    if any(label not in part.labels for label in labels):
        array = arrays.broadcast_to(array, lengths(labels))
    return array
