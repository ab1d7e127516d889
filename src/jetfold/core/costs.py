"""What a program costs, counted from the shapes of its operations; and how long that takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


class UnpredictableError(Exception):
    """What a program costs depends on more than shapes; the message says on what."""


@dataclass(frozen=True)
class Operation:
    """One operation of a program.

    Attributes:
        products: floating-point operations of matrix products and convolutions.
        arithmetic: numbers that other arithmetic gives, or a reduction takes.
        functions: how many of these are values of exp, tanh and their like.
        moved: bytes read and written.
        pointwise: whether a compiler makes it part of another operation.
        copies: how often it is done.
    """

    products: float = 0
    arithmetic: float = 0
    functions: float = 0
    moved: float = 0
    pointwise: bool = False
    copies: float = 1


@dataclass(frozen=True)
class Cost:
    """What a program costs.

    Attributes:
        operations: all that compute or copy something.
        peak: bytes of all arrays that it makes and that live at the same time, at most.
        calls: how many operations on jets Python dispatches.
    """

    operations: Sequence[Operation]
    peak: float
    calls: int = 0

    @property
    def products(self) -> float:
        """Floating-point operations of matrix products and convolutions."""
        return sum(x.products * x.copies for x in self.operations)

    @property
    def arithmetic(self) -> float:
        """All other floating-point operations, one for every number."""
        return sum(x.arithmetic * x.copies for x in self.operations)

    @property
    def flops(self) -> float:
        """Both."""
        return self.products + self.arithmetic

    def on(self, rows: int) -> Cost:
        """The same program on so many times the points."""
        larger = [
            replace(
                x,
                products=rows * x.products,
                arithmetic=rows * x.arithmetic,
                functions=rows * x.functions,
                moved=rows * x.moved,
            )
            for x in self.operations
        ]
        return Cost(larger, rows * self.peak, self.calls)


@dataclass(frozen=True)
class Gradient:
    """What a gradient to the parameters costs in memory.

    Attributes:
        kept: bytes of arrays that wait for the backward pass.
        temporary: bytes of all arrays that a compiled gradient makes and that live at the same
            time, at most; None where nothing tells.
    """

    kept: int
    temporary: float | None = None


CACHE = 2**20
"""So many bytes stay near the processor from one operation to the next."""


@dataclass(frozen=True)
class Rates:
    """What a machine does in a second, measured.

    Attributes:
        products: floating-point operations of matrix products.
        arithmetic: numbers added, in the cache.
        functions: values of tanh.
        moved: bytes read and written, beyond the cache.
        operation: seconds that an operation costs whatever its size.
        call: seconds that Python costs for an operation on jets beside those.
        fused: whether pointwise operations become part of others, and read and write nothing.
    """

    products: float
    arithmetic: float
    functions: float
    moved: float
    operation: float
    call: float
    fused: bool

    def seconds(self, cost: Cost) -> float:
        """How long a program takes: the slowest part of every operation."""
        return self.call * cost.calls + sum(map(self._of, cost.operations))

    def _of(self, x: Operation) -> float:
        inside = self.fused and x.pointwise
        moved = x.moved / self.moved if x.moved > CACHE and not inside else 0.0
        slowest = max(x.products / self.products, x.arithmetic / self.arithmetic, moved)
        once = slowest + x.functions / self.functions + (0.0 if inside else self.operation)
        return once * x.copies
