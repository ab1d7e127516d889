"""What jetfold asks of an array library: one vocabulary, which each framework's `arrays` fulfils.

Beside these functions arrays bring arithmetic, indexing, `shape`, `ndim`, `dtype` and `reshape`.
Where an argument is called `like`, the result has its dtype and is on its device. A *block* is the
coefficients of one degree, stacked along a leading axis: its rows are arrays like the value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

Array = Any
Block = Any
"""The coefficients of one degree: stacked along a leading axis, or None where all are zero."""

Entrywise = Callable[[Array], Array]


class Arrays(Protocol):
    """The vocabulary; a module fulfils it."""

    # ---- of every entry: what towers are made of

    @property
    def exp(self) -> Entrywise: ...
    @property
    def log(self) -> Entrywise: ...
    @property
    def sqrt(self) -> Entrywise: ...
    @property
    def sin(self) -> Entrywise: ...
    @property
    def cos(self) -> Entrywise: ...
    @property
    def tan(self) -> Entrywise: ...
    @property
    def sinh(self) -> Entrywise: ...
    @property
    def cosh(self) -> Entrywise: ...
    @property
    def tanh(self) -> Entrywise: ...
    @property
    def sigmoid(self) -> Entrywise: ...
    @property
    def erf(self) -> Entrywise: ...
    @property
    def digamma(self) -> Entrywise: ...
    @property
    def abs(self) -> Entrywise: ...
    @property
    def sign(self) -> Entrywise: ...
    @property
    def where(self) -> Callable[..., Array]: ...
    @property
    def polygamma(self) -> Callable[[Any, Array], Array]: ...
    @property
    def zeros_like(self) -> Entrywise: ...

    COMPILED: bool
    """Whether operations are compiled together, so that their number does not matter."""

    # ---- made from numbers

    def asarray(self, x: Any, like: Array) -> Array:
        """Nested lists of numbers, or another library's array, like an array; complex ones stay
        complex."""

    def integers(self, values: Any, like: Array) -> Array:
        """Nested lists of indices, on the device of another array."""

    def full(self, shape: Sequence[int], value: float, like: Array) -> Array:
        """One value everywhere."""

    def arange(self, start: Any, count: int, like: Array) -> Array:
        """The integers start … start + count − 1; in JAX `start` may be traced."""

    def eye(self, n: int, like: Array) -> Array:
        """The identity matrix."""

    def one_hot(self, values: Array, places: Array, n: int) -> Array:
        """Vectors (*shape, n) with one entry each: values (*shape) at places (*shape)."""

    def place(self, values: Array, places: Sequence[int], n: int) -> Array:
        """The last axis of (*shape, m) put at these m of n coordinates, zero at the others."""

    # ---- axes

    def stack(self, rows: Sequence[Array]) -> Array:
        """Stack along a new leading axis; the rows are broadcast against each other."""

    def unstack(self, block: Block) -> Sequence[Array]:
        """All rows, by one operation: that of its gradient is one too."""

    def concat(self, parts: Sequence[Array], axis: int) -> Array:
        """Join along an axis."""

    def moveaxis(self, x: Array, source: int, destination: int) -> Array:
        """Move one axis."""

    def permute_dims(self, x: Array, order: Sequence[int]) -> Array:
        """Axis k of the result is axis order[k]."""

    def reshape(self, x: Array, shape: Sequence[int]) -> Array:
        """Another shape of the same size; the same array where nothing changes."""

    def broadcast_to(self, x: Array, shape: Sequence[int]) -> Array:
        """Axes of length one repeated, without a copy where the framework can."""

    def narrow(self, x: Array, axis: int, start: Any, count: int) -> Array:
        """Entries start … start + count − 1 along an axis; in JAX `start` may be traced."""

    def expand_dims(self, block: Block, ndim: int) -> Block:
        """Insert axes of length one behind the leading axis until the rows have `ndim` axes."""

    # ---- rows of blocks

    def take(self, block: Block, positions: Sequence[int]) -> Block:
        """The rows at these positions of the leading axis."""

    def scale(self, block: Block, weights: Sequence[float]) -> Block:
        """Each row of a block times its weight."""

    def sum_rows(self, block: Block) -> Array:
        """The sum over the leading axis."""

    def segment_sum(self, block: Block, positions: Sequence[int], size: int) -> Block:
        """A block of `size` rows: row k is added to row positions[k]."""

    def place_rows(self, block: Block, positions: Sequence[int], size: int) -> Block:
        """A block of `size` rows with these at some positions, each once, and zeros elsewhere."""

    def mask(self, here: Any, like: Array) -> Array:
        """A static table of booleans (`core.structure`), on the device of another array."""

    def map_rows(
        self, function: Callable[..., Any], *blocks: Block, held: Sequence[Array] = ()
    ) -> Any:
        """function(*rows) for the rows of some blocks, all at once; it may give several arrays.

        `held`: further arrays that the function holds, so that the framework knows of them.
        """

    # ---- arithmetic

    def multiply(self, left: Array, right: Array) -> Array:
        """left · right, elementwise; one of them may be a number."""

    def weighted_sum(self, terms: Sequence[Array], weights: Sequence[float]) -> Array:
        """Σ_k weights[k] · terms[k], without products where a weight is one."""

    def multiply_add(self, total: Array, left: Array, right: Array, factor: float = 1.0) -> Array:
        """total + factor · left · right."""

    def einsum(self, spec: str, *operands: Array) -> Array:
        """A contraction."""

    def sum(self, x: Array, axes: Sequence[int]) -> Array:
        """The sum over some axes, in the dtype of the array."""

    # ---- matrices: the last two axes

    def matmul(self, a: Array, b: Array) -> Array:
        """The product of matrices."""

    def adjoint(self, a: Array) -> Array:
        """The conjugate transpose."""

    def tril(self, a: Array, offset: int = 0) -> Array:
        """What is on and below a diagonal."""

    def triu(self, a: Array, offset: int = 0) -> Array:
        """What is on and above a diagonal."""

    def diagonal(self, a: Array) -> Array:
        """(*shape, n, n) -> (*shape, n)."""

    def orthonormal(self, rows: Array) -> Array:
        """Orthonormal rows that span what the rows of (*shape, r, n) span, r ≤ n."""

    def solve_triangular(
        self, a: Array, b: Array, *, upper: bool, left: bool = True, unitriangular: bool = False
    ) -> Array:
        """X with A X = B, or X A = B for left=False, A (broadcast against B) triangular."""
