"""The array vocabulary (`core.arrays.Arrays`) in JAX, written with an eye on XLA."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.special as special
import numpy as np
from jax import lax

from ..core import jet
from .halves import sum_of_rows
from .jets import mapped

COMPILED = True
exp, log, sqrt = jnp.exp, jnp.log, jnp.sqrt
sin, cos, tan = jnp.sin, jnp.cos, jnp.tan
sinh, cosh, tanh = jnp.sinh, jnp.cosh, jnp.tanh
sigmoid, erf, digamma = jax.nn.sigmoid, special.erf, special.digamma
abs, sign, where = jnp.abs, jnp.sign, jnp.where
polygamma, zeros_like = special.polygamma, jnp.zeros_like


# ------------------------------------------------------------------ made from numbers


def asarray(x: Any, like: Any) -> Any:
    """An array or nested lists of numbers like another; complex ones stay complex."""
    array = jnp.asarray(x if isinstance(x, jax.Array) else np.asarray(x))
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        return array
    return array.astype(jnp.result_type(like))


def integers(values: Any, like: Any) -> Any:
    """Nested lists of indices."""
    return jnp.asarray(np.asarray(values))


def full(shape: Sequence[int], value: float, like: Any) -> Any:
    """One value everywhere."""
    return jnp.full(tuple(shape), value, jnp.result_type(like))


def arange(start: Any, count: int, like: Any) -> Any:
    """The integers start … start + count − 1; `start` may be traced."""
    return start + jnp.arange(count)


def eye(n: int, like: Any) -> Any:
    """The identity matrix: a constant that XLA folds into what it meets, unless it is large."""
    dtype = jnp.result_type(like)
    return jnp.asarray(np.eye(n), dtype) if n <= FOLDED else jnp.eye(n, dtype=dtype)


def one_hot(values: Any, places: Any, n: int) -> Any:
    """Vectors (*shape, n) with one entry each."""
    return values[..., None] * jax.nn.one_hot(places, n, dtype=values.dtype)


def place(values: Any, places: Sequence[int], n: int) -> Any:
    """The last axis of (*shape, m) put at these m of n coordinates."""
    return jnp.zeros((*values.shape[:-1], n), values.dtype).at[..., np.asarray(places)].set(values)


# ------------------------------------------------------------------ axes


def stack(rows: Sequence[Any]) -> Any:
    """Stack along a new leading axis; the rows are broadcast against each other."""
    return jnp.stack(jnp.broadcast_arrays(*rows))


def unstack(block: Any) -> Sequence[Any]:
    """All rows."""
    if block.shape[0] == 1:
        return [block[0]]
    parts = lax.split(block, (1,) * block.shape[0])
    return [lax.squeeze(part, (0,)) for part in parts]


def concat(parts: Sequence[Any], axis: int) -> Any:
    """Join along an axis."""
    return jnp.asarray(parts[0]) if len(parts) == 1 else jnp.concatenate(list(parts), axis)


def moveaxis(x: Any, source: int, destination: int) -> Any:
    """Move one axis."""
    return jnp.moveaxis(x, source, destination)


def permute_dims(x: Any, order: Sequence[int]) -> Any:
    """Axis k of the result is axis order[k]."""
    return jnp.transpose(x, tuple(order))


def reshape(x: Any, shape: Sequence[int]) -> Any:
    """Another shape of the same size."""
    return x if jnp.shape(x) == tuple(shape) else jnp.reshape(x, tuple(shape))


def broadcast_to(x: Any, shape: Sequence[int]) -> Any:
    """Axes of length one repeated."""
    return jnp.broadcast_to(x, tuple(shape))


def narrow(x: Any, axis: int, start: Any, count: int) -> Any:
    """Entries start … start + count − 1 along an axis; `start` may be traced."""
    return lax.dynamic_slice_in_dim(x, start, count, axis)


def expand_dims(block: Any, ndim: int) -> Any:
    """Insert axes of length one behind the leading axis until the rows have `ndim` axes."""
    missing = ndim + 1 - block.ndim
    return jnp.expand_dims(block, tuple(range(1, missing + 1))) if missing > 0 else block


# ------------------------------------------------------------------ rows of blocks


def take(block: Any, positions: Sequence[int]) -> Any:
    """The rows at these positions of the leading axis."""
    return block[np.array(positions)]


def scale(block: Any, weights: Sequence[float]) -> Any:
    """Each row of a block times its weight."""
    column = jnp.asarray(weights, block.dtype)
    return block * column.reshape((-1,) + (1,) * (block.ndim - 1))


def segment_sum(block: Any, positions: Sequence[int], size: int) -> Any:
    """A block of `size` rows: row k is added to row positions[k]."""
    return jax.ops.segment_sum(block, np.array(positions), size)


def place_rows(block: Any, positions: Sequence[int], size: int) -> Any:
    """A block of `size` rows with these at some positions, each once, and zeros elsewhere."""
    first, count = positions[0], len(positions)
    if list(positions) == list(range(first, first + count)):
        beside = ((first, size - first - count), *((0, 0),) * (block.ndim - 1))
        return jnp.pad(block, beside)
    wide = jnp.zeros((size, *block.shape[1:]), block.dtype)
    return wide.at[np.array(positions)].set(block)


def mask(here: Any, like: Any) -> Any:
    """A static table of booleans."""
    return jnp.asarray(here.array)


def map_rows(function: Callable[..., Any], *blocks: Any, held: Sequence[Any] = ()) -> Any:
    """function(*rows) for the rows of some blocks, all at once where JAX can."""
    return mapped(function, *blocks)


FOLDED = 512
"""Identity matrices up to this size are constants of a program."""

MOST_ROWS = 4096
"""Up to so many rows `sum` takes a leading axis for the rows of a block."""


def sum_rows(block: Any) -> Any:
    """block.sum(0), as `halves` has it."""
    return sum_of_rows(block)


# ------------------------------------------------------------------ arithmetic


def multiply(left: Any, right: Any) -> Any:
    """left · right, elementwise."""
    return lax.mul(left, right) if _are_alike(left, right) else left * right


def weighted_sum(terms: Sequence[Any], weights: Sequence[float]) -> Any:
    """Σ_k weights[k] · terms[k]."""
    if not _are_alike(*terms):
        return jet.weighted_sum(terms, weights)
    number = terms[0].dtype.type
    products = (x if c == 1 else lax.mul(x, number(c)) for c, x in zip(weights, terms, strict=True))
    return reduce(lax.add, products)


def _are_alike(*arrays: Any) -> bool:
    """Whether nothing is promoted or broadcast.

    Then operations are those of `jax.lax`: `jax.numpy` takes nearly twice as long to trace one, and
    the products of rows are most of what is traced.
    """
    first = arrays[0]
    return all(
        isinstance(x, jax.Array) and x.shape == first.shape and x.dtype == first.dtype
        for x in arrays
    ) and jnp.issubdtype(first.dtype, jnp.inexact)


def multiply_add(total: Any, left: Any, right: Any, factor: float = 1.0) -> Any:
    """total + factor · left · right."""
    return total + (left if factor == 1 else left * factor) * right


def einsum(spec: str, *operands: Any) -> Any:
    """A contraction."""
    return jnp.einsum(spec, *operands)


def sum(x: Any, axes: Sequence[int]) -> Any:
    """The sum over some axes, in the dtype of the array; over a leading axis as XLA likes it."""
    if tuple(axes) == (0,) and 1 < x.shape[0] <= MOST_ROWS and x.ndim > 1:
        return sum_rows(x)
    return jnp.sum(x, tuple(axes), dtype=x.dtype)


# ------------------------------------------------------------------ matrices


def matmul(a: Any, b: Any) -> Any:
    """The product of matrices."""
    return jnp.matmul(a, b)


def adjoint(a: Any) -> Any:
    """The conjugate transpose."""
    return jnp.conj(jnp.swapaxes(a, -1, -2))


def tril(a: Any, offset: int = 0) -> Any:
    """What is on and below a diagonal."""
    return jnp.tril(a, offset)


def triu(a: Any, offset: int = 0) -> Any:
    """What is on and above a diagonal."""
    return jnp.triu(a, offset)


def diagonal(a: Any) -> Any:
    """(*shape, n, n) -> (*shape, n)."""
    return jnp.diagonal(a, 0, -2, -1)


def orthonormal(rows: Any) -> Any:
    """Orthonormal rows that span what the rows of (*shape, r, n) span."""
    return jnp.linalg.qr(rows.mT)[0].mT


SMALL, COLUMNS = 64, 256
"""Triangular matrices up to this size are inverted where so many columns are to be solved for:
LAPACK would start threads for every one of a batch, and wait for them where others use the cores.
"""


def solve_triangular(
    a: Any, b: Any, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Any:
    """X with A X = B, or X A = B for left=False, A (broadcast against B) triangular."""
    options = {"upper": upper, "unitriangular": unitriangular}
    if b.ndim > a.ndim and a.shape[-1] <= SMALL and b.shape[0] * b.shape[-1] >= COLUMNS:
        inverse = solve_triangular(a, jnp.eye(a.shape[-1], dtype=a.dtype), left=left, **options)
        return jnp.matmul(inverse, b) if left else jnp.matmul(b, inverse)
    if b.ndim > a.ndim:  # one matrix for all: XLA takes the right-hand sides as columns of one
        return jax.vmap(lambda row: solve_triangular(a, row, left=left, **options))(b)
    batch = jnp.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = (jnp.broadcast_to(x, (*batch, *x.shape[-2:])) for x in (a, b))
    return lax.linalg.triangular_solve(
        a, b, left_side=left, lower=not upper, unit_diagonal=unitriangular
    )
