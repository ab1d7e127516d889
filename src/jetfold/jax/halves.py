"""Sums over an axis of blocks, as one primitive; how they are computed is decided here alone.

On a CPU XLA's reduction is not used, for two reasons. Over a leading axis it is up to 100 times
slower than additions (of those, more than eight rows that are read side by side evict each other:
hence halves). And from jaxlib 0.10 to 0.12 it gathers products, matrix products and other
reductions around it into one kernel (a fusion of kind `__ynn_fusion`), which needs little memory
and may be wrong. It reads memory that is not there where what is summed is broadcast along an axis
that stays, as constant weights make it, for s of shape (32, 16, 2, 1) and x (16, 2):

    jax.jit(lambda s, x: (s * (x[..., None] * jnp.ones((2, 64)))).sum(1))

and where a matrix product in it has a matrix of equal entries, for y of shape (16, 50, 64):

    jax.jit(lambda y: ((y @ jnp.full((64, 64), 0.3)) ** 2).sum(1))

The second is Σ_i (∂_i u)² as Laplacians have it. No form of the sum mends it, and whether entries
are equal is known only after XLA has folded constants, for a caller may pass them. Additions, and
over a last axis products with ones, gather nothing around them. On other devices the sum is XLA's
reduction.

A primitive keeps the sum in one piece: its transpose is one broadcast, where each of the slices
would become a padded array, and jets and the pass know it for the sum that it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce
from operator import add
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

UNROLLED_ROWS = 8
"""How many rows are read side by side."""


def sum_of_rows(x: Any, axis: int = 0) -> Any:
    """The sum over an axis."""
    if x.shape[axis] == 1:
        return lax.squeeze(x, (axis,))
    return sum_of_rows_p.bind(x, axis=axis)


def _reduction(x: Any, *, axis: int) -> Any:
    """The sum, as XLA has it."""
    return jnp.sum(x, axis, dtype=x.dtype)


def _on_cpu(x: Any, *, axis: int) -> Any:
    """The sum, as neither slow nor wrong."""
    if 0 < axis == x.ndim - 1:
        ones = jnp.ones(x.shape[axis], x.dtype)
        return lax.dot_general(x, ones, (((axis,), (0,)), ((), ())), precision="highest")
    return _additions(x, axis=axis)


def _additions(x: Any, *, axis: int) -> Any:
    """The sum, written out by halves."""
    rest = []
    while (length := x.shape[axis]) > UNROLLED_ROWS:
        half = length // 2
        if length % 2:
            rest.append(lax.index_in_dim(x, length - 1, axis, keepdims=False))
        first = lax.slice_in_dim(x, 0, half, axis=axis)
        x = first + lax.slice_in_dim(x, half, 2 * half, axis=axis)
    rows = [lax.index_in_dim(x, a, axis, keepdims=False) for a in range(x.shape[axis])]
    return reduce(add, rows + rest)


def _described(x: Any, *, axis: int) -> Any:
    """The type of the sum: that of what it is lowered to."""
    (described,) = jax.make_jaxpr(partial(_reduction, axis=axis))(x).out_avals
    return described


def _transposed(cotangent: Any, x: Any, *, axis: int) -> list[Any]:
    """One broadcast."""
    if isinstance(cotangent, ad.Zero):
        return [ad.Zero(x.aval)]
    return [jnp.broadcast_to(jnp.expand_dims(cotangent, axis), x.aval.shape)]


def _batched(operands: Sequence[Any], axes: Sequence[int], *, axis: int) -> tuple[Any, int]:
    (x,), (mapped,) = operands, axes
    summed = axis + (mapped <= axis)
    return sum_of_rows(x, summed), mapped - (summed < mapped)


sum_of_rows_p = Primitive("sum_of_rows")
sum_of_rows_p.def_impl(jax.jit(sum_of_rows, static_argnames="axis"))
sum_of_rows_p.def_abstract_eval(_described)
ad.deflinear2(sum_of_rows_p, _transposed)
batching.primitive_batchers[sum_of_rows_p] = _batched
mlir.register_lowering(sum_of_rows_p, mlir.lower_fun(_reduction, multiple_results=False))
mlir.register_lowering(
    sum_of_rows_p, mlir.lower_fun(_on_cpu, multiple_results=False), platform="cpu"
)
