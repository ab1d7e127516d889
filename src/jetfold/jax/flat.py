"""Products of an array of any rank by a matrix, as one product of two matrices.

All axes but the last are rows, and stay so under vmap and in gradients: where they are several, XLA
moves them around before it multiplies, and the gradient by the matrix copies both operands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir


def by_matrix(x: Any, matrix: Any, **options: Any) -> Any:
    """x (*shape, k) times a matrix (k, n), with the options of `lax.dot_general`."""
    closed = jax.make_jaxpr(lambda x, matrix: _written(x, matrix, **options))(x, matrix)
    return by_matrix_p.bind(x, matrix, jaxpr=closed, **options)


def _written(x: Any, matrix: Any, **options: Any) -> Any:
    return lax.dot_general(x, matrix, (((x.ndim - 1,), (0,)), ((), ())), **options)


def _flat(x: Any, matrix: Any, *, jaxpr: ClosedJaxpr, **options: Any) -> Any:
    out = _written(x.reshape((-1, x.shape[-1])), matrix, **options)
    return out.reshape((*x.shape[:-1], matrix.shape[-1]))


def _described(x: Any, matrix: Any, *, jaxpr: ClosedJaxpr, **options: Any) -> Any:
    return jaxpr.out_avals[0]


def _by_array(cotangent: Any, x: Any, matrix: Any, *, jaxpr: ClosedJaxpr, **options: Any) -> Any:
    options["preferred_element_type"] = x.aval.dtype
    return by_matrix(cotangent, matrix.T, **options)


def _by_matrix(cotangent: Any, x: Any, matrix: Any, *, jaxpr: ClosedJaxpr, **options: Any) -> Any:
    options["preferred_element_type"] = matrix.aval.dtype
    rows, of_rows = (y.reshape((-1, y.shape[-1])) for y in (x, cotangent))
    return lax.dot_general(rows, of_rows, (((0,), (0,)), ((), ())), **options)


def _batched(
    operands: Sequence[Any], axes: Sequence[int | None], *, jaxpr: ClosedJaxpr, **options: Any
) -> tuple[Any, int]:
    (x, matrix), (of_x, of_matrix) = operands, axes
    if of_x is not None and of_matrix is None:
        if of_x == x.ndim - 1:
            x, of_x = jnp.moveaxis(x, of_x, 0), 0
        return by_matrix(x, matrix, **options), of_x
    return jax.vmap(jaxpr_as_fun(jaxpr), tuple(axes))(x, matrix)[0], 0


by_matrix_p = Primitive("by_matrix")
by_matrix_p.def_impl(
    jax.jit(_flat, static_argnames=("jaxpr", "precision", "preferred_element_type"))
)
by_matrix_p.def_abstract_eval(_described)
ad.defbilinear(by_matrix_p, _by_array, _by_matrix)
batching.primitive_batchers[by_matrix_p] = _batched
mlir.register_lowering(by_matrix_p, mlir.lower_fun(_flat, multiple_results=False))
