"""What an evaluation carried from operation to operation, for whoever asks: `explain` does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

from .jet import Jet
from .structure import Structured, parts


@dataclass(frozen=True)
class Step:
    """One operation that met jets.

    Attributes:
        name: of the operation.
        shape: of its result.
        level: of the transform whose jets its results are.
        vectors: how many coefficients these have.
        stored: how many numbers the coefficients of its results are.
        whole: how many they would be without structure and without axes of length one.
        pieces: of the results, lowest degree first: (axis, slots, rows), axis None for the same
            rows everywhere.
        lost: whether an operand had pieces, and no result has.
    """

    name: str
    shape: tuple[int, ...]
    level: int
    vectors: int
    stored: int
    whole: int
    pieces: tuple[tuple[int | None, int, int], ...]
    lost: bool


OPEN: list[list[Step]] = []
"""The recordings that are running."""


@contextmanager
def recording() -> Iterator[list[Step]]:
    """Collect the steps of what is evaluated inside."""
    steps: list[Step] = []
    OPEN.append(steps)
    try:
        yield steps
    finally:
        OPEN.remove(steps)


def lengths() -> list[int]:
    """How many steps there are; `cut` comes back to that."""
    return [len(steps) for steps in OPEN]


def cut(lengths: Sequence[int]) -> None:
    """Forget later steps: what they tell is evaluated again."""
    for steps, length in zip(OPEN, lengths, strict=True):
        del steps[length:]


def note(name: str, operands: Sequence[Any], results: Sequence[Any]) -> None:
    """An operation, to all recordings."""
    jets = [x for x in results if isinstance(x, Jet)]
    blocks = [block for x in jets for block in x.stored if block is not None]
    found = tuple(
        (piece.axis, piece.owners.slots, block.size)
        for block in blocks
        for piece in parts(block)[1]
    )
    had = any(
        isinstance(block, Structured) for x in operands if isinstance(x, Jet) for block in x.stored
    )
    step = Step(
        name,
        tuple(jets[0].primal.shape) if jets else (),
        jets[0].level if jets else -1,
        jets[0].algebra.vectors if jets else 0,
        sum(map(_numbers, blocks)),
        sum((x.algebra.vectors - 1) * prod(x.primal.shape) for x in jets),
        found,
        had and not found and bool(jets),
    )
    for steps in OPEN:
        steps.append(step)


def _numbers(block: Any) -> int:
    """How many numbers are stored."""
    rest, pieces = parts(block)
    arrays = [*([] if rest is None else [rest]), *(piece.block for piece in pieces)]
    return sum(prod(array.shape) for array in arrays)
