"""Matrices: the factors of a value come from JAX, the coefficients from `core.matrices`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ..core import matrices
from ..core.jet import Jet
from . import arrays as XP
from .general import general
from .interpreter import Operation, interpret_closed
from .jets import algebra_of, expanded, full_coefficients, jet, value, values, zeros
from .rules import Linear


def _jet(x: Jet, coefficients: Sequence[Any]) -> Any:
    """A result in the algebra of an operand."""
    return jet(x.algebra, coefficients[0], coefficients[1:])


def triangular_solve(operation: Operation, operands: Sequence[Any]) -> Any:
    """The solution of op(A) X = B or X op(A) = B, A triangular."""
    a, b = operands
    if not isinstance(a, Jet):
        return Linear(1)(operation, operands)
    order, options = a.algebra.order, operation.params

    def op(matrix: Any) -> Any:
        matrix = jnp.swapaxes(matrix, -1, -2) if options["transpose_a"] else matrix
        return jnp.conj(matrix) if options["conjugate_a"] else matrix

    x = matrices.triangular_solve(
        a.algebra,
        [None if c is None else op(c) for c in full_coefficients(a, order)],
        full_coefficients(b, order),
        XP,
        upper=bool(options["lower"]) == bool(options["transpose_a"]),
        left=options["left_side"],
        unitriangular=options["unit_diagonal"],
    )
    return _jet(a, x)


def cholesky(operation: Operation, operands: Sequence[Any]) -> Any:
    """A = L Lᴴ; of A only (A + Aᴴ)/2 counts."""
    (x,) = operands
    l0 = jnp.tril(operation(x.primal))  # the primitive leaves the rest of A above
    a = full_coefficients(x, x.algebra.order)
    return _jet(x, matrices.cholesky(x.algebra, l0, a, XP))


def lu(operation: Operation, operands: Sequence[Any]) -> Any:
    """P A = L U, both in one array: L's ones are left out."""
    (x,) = operands
    (n, k), rank = x.primal.shape[-2:], min(x.primal.shape[-2:])
    packed, pivots, permutation = operation(x.primal)
    permuted = [
        None if b is None else jnp.take_along_axis(b, permutation[None, ..., None], -2)
        for b in expanded(x, x.algebra.order)
    ]
    l0 = jnp.tril(packed, -1)[..., :rank] + jnp.eye(n, rank, dtype=packed.dtype)
    u0 = jnp.triu(packed)[..., :rank, :]
    lower, upper = matrices.lu(x.algebra, l0, u0, [None, *permuted], XP)
    none = [(0, 0)] * (packed.ndim - 1)  # the leading axis of a block is one more
    both = [
        None
        if a is None
        else jnp.pad(a, [*none, (0, 0), (0, k - rank)]) + jnp.pad(b, [*none, (0, n - rank), (0, 0)])
        for a, b in zip(lower[1:], upper[1:], strict=True)
    ]
    return [jet(x.algebra, packed, both), pivots, permutation]


def qr(operation: Operation, operands: Sequence[Any]) -> Any:
    """A = Q R."""
    (x,), params = operands, operation.params
    rows, columns = x.primal.shape[-2:]
    if params.get("full_matrices") and rows > columns:
        return general(operation, operands, "qr with columns of Q that A does not determine")
    if params.get("pivoting"):
        return general(operation, operands, "qr with pivoting")
    a = full_coefficients(x, x.algebra.order)
    q0, r0 = operation(x.primal)
    q, r = matrices.qr(x.algebra, q0, r0, a, XP)
    return [_jet(x, q), _jet(x, r)]


def eigh(operation: Operation, operands: Sequence[Any]) -> Any:
    """A V = V diag(w), (V, w)."""
    (x,) = operands
    if operation.params.get("subset_by_index") is not None:
        return general(operation, operands, "eigh of some eigenvalues")
    v0, w0 = operation(x.primal)
    v, w = matrices.eigh(x.algebra, v0, w0, full_coefficients(x, x.algebra.order), XP)
    return [_jet(x, v), _jet(x, w)]


def custom_linear_solve(operation: Operation, operands: Sequence[Any]) -> Any:
    """x with A x = b, degree by degree: A_0 x_m = b_m − (A x)_m, with x_m = 0 in A x."""
    lengths, jaxprs = operation.params["const_lengths"], operation.params["jaxprs"]
    counts = [lengths.matvec, lengths.vecmat, lengths.solve, lengths.transpose_solve]
    starts = [sum(counts[:k]) for k in range(5)]
    matrix = operands[starts[0] : starts[1]]
    right = operands[starts[4] :]
    algebra = algebra_of(operands)
    plain = [value(x) for x in operands[: starts[4]]]
    x0 = operation(*plain, *values(right))
    known: list[list[Any]] = [[] for _ in right]
    for m in range(algebra.order):
        empty = [None] * (algebra.order - m)
        guess = [jet(algebra, x, [*k, *empty]) for x, k in zip(x0, known, strict=True)]
        product = interpret_closed(jaxprs.matvec, [*matrix, *guess])
        rest = [
            matrices.minus(expanded(b, algebra.order)[m], expanded(ax, algebra.order)[m])
            for b, ax in zip(right, product, strict=True)
        ]
        if all(r is None for r in rest):
            for k in known:
                k.append(None)
            continue
        size = algebra.sizes[m + 1]
        stacks = [zeros(size, b) if r is None else r for b, r in zip(right, rest, strict=True)]
        solved = jax.vmap(lambda *b: operation(*plain, *b))(*stacks)
        for k, block in zip(known, solved, strict=True):
            k.append(block)
    return [jet(algebra, x, k) for x, k in zip(x0, known, strict=True)]
