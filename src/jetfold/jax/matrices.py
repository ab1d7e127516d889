"""Matrices: the factors of a value come from JAX, the coefficients from `core.matrices`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Literal

from ..core import arithmetic, matrices
from ..core.algebra import JetAlgebra
from ..core.arithmetic import RowByRow
from ..core.jet import Jet, add, nilpotent_product, product, solve_by_degrees
from ..core.structure import Structured, dense
from . import arrays as XP
from .general import general
from .interpreter import Operation, call, interpret_closed
from .jets import (
    algebra_of,
    expanded,
    full_coefficients,
    is_complex,
    jet,
    mapped,
    stored_of,
    value,
    values,
    zeros,
)
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


def tridiagonal_solve(operation: Operation, operands: Sequence[Any]) -> Any:
    """X with T X = B, of what stands below, on and above T's diagonal, and B."""
    *diagonals, right = operands
    if not any(isinstance(x, Jet) for x in diagonals):
        return Linear(3)(operation, operands)
    algebra, plain = algebra_of(operands), values(diagonals)
    degrees = zip(*(full_coefficients(x, algebra.order) for x in diagonals), strict=True)
    t: list[Any] = []
    for m, of_degree in enumerate(degrees):
        none = all(b is None for b in of_degree)
        filled = [
            zeros(algebra.sizes[m], x) if b is None else b
            for b, x in zip(of_degree, plain, strict=True)
        ]
        t.append(None if none else jnp.stack(filled, -2))

    def applied(t: Any, x: Any) -> Any:
        low, middle, high = (t[..., k, :, None] for k in range(3))
        before = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(1, 0), (0, 0)])[..., :-1, :]
        after = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, 1), (0, 0)])[..., 1:, :]
        return low * before + middle * x + high * after

    def solve(b: Any) -> Any:
        return operation(*plain, b)

    def solve_rows(block: Any) -> Any:
        return mapped(solve, block)

    b = full_coefficients(right, algebra.order)
    x = solve_by_degrees(algebra, t, b, solve, solve_rows, RowByRow(applied, XP), XP)
    return jet(algebra, x[0], x[1:])


def householder_product(a: Any, taus: Any) -> Any:
    """H_1 H_2 ⋯ of H_k = 1 − τ_k v vᴴ; v is column k of A below its diagonal, and 1 on it."""
    n, columns = a.shape[-2:]
    q = jnp.broadcast_to(jnp.eye(n, columns, dtype=a.dtype), a.shape)
    for k in reversed(range(taus.shape[-1])):
        v = jnp.tril(a, -1)[..., k : k + 1] + jnp.eye(n, 1, -k, dtype=a.dtype)
        q = q - taus[..., k, None, None] * v * (XP.adjoint(v) @ q)
    return q


def is_hermitian(operation: Operation) -> bool:
    """Whether the operand is (x + xᴴ)/2, as JAX writes it for symmetrize_input=True."""
    made = {v: e for e in getattr(operation.jaxpr, "eqns", ()) for v in e.outvars}

    def by(variable: Any, *names: str) -> Any:
        equation = None if isinstance(variable, Literal) else made.get(variable)
        return equation if equation is not None and equation.primitive.name in names else None

    half = by(operation.equation.invars[0], "div", "mul")
    both = None if half is None else by(half.invars[0], "add")
    if both is None:
        return False
    for x, y in (both.invars, both.invars[::-1]):
        turned = 0
        while step := by(y, "transpose", "conj"):
            if step.primitive.name == "transpose":
                order, n = step.params["permutation"], len(step.params["permutation"])
                turned += tuple(order) == (*range(n - 2), n - 1, n - 2)
            y = step.invars[0]
        if turned == 1 and x is y:
            return True
    return False


def cholesky(operation: Operation, operands: Sequence[Any]) -> Any:
    """A = L Lᴴ."""
    (x,) = operands
    l0 = jnp.tril(operation(x.primal))  # the primitive leaves the rest of A above
    a = full_coefficients(x, x.algebra.order)
    if is_hermitian(operation):
        return _jet(x, matrices.cholesky(x.algebra, l0, a, XP))
    if _lower_half_counts():
        a = _each(lambda b: jnp.tril(b) + XP.adjoint(jnp.tril(b, -1)), a)
        return _jet(x, matrices.cholesky(x.algebra, l0, a, XP))
    return _jet(x, _cholesky(x.algebra, l0, a, XP))


@cache
def _lower_half_counts() -> bool:
    """Whether to JAX the lower half of A' stands for all of it, as since 0.11: it is asked."""
    factor = partial(lax.linalg.cholesky, symmetrize_input=False)
    with jax.ensure_compile_time_eval():
        point, above = jnp.eye(2) + 1, jnp.eye(2, k=1)
        return not jax.jvp(factor, (point,), (above,))[1].any()


def _cholesky(algebra: JetAlgebra, l0: Any, a: Sequence[Any], xp: Any) -> list[Any]:
    """L of a matrix that need not be Hermitian, with L' = L Φ(L⁻¹ A' L⁻ᴴ) of all of A'.

    Along A_0 + s N, with L = L_0 M, Q = M⁻¹ and P = L_0⁻¹ N L_0⁻ᴴ, that is M' = M B and Q' = −B Q,
    B = Φ(Q P Qᴴ): power series in s, which end, for N is nilpotent; at s = 1.
    """
    inverse = xp.solve_triangular(l0, xp.eye(l0.shape[-1], l0), upper=False)
    p = _each(lambda b: inverse @ b @ xp.adjoint(inverse), [None, *a[1:]])
    one: Any = None
    m, q, b = [one], [one], []

    def times(u: Any, v: Any) -> Any:
        if u is one or v is one:
            return v if u is one else u
        return nilpotent_product(algebra, u, [*v], matrices.MatrixProduct(xp), xp)

    def total(terms: Iterable[Any]) -> Any:
        return reduce(lambda u, v: [*map(add, u, v)], terms)

    for k in range(algebra.order):
        around = total(times(times(q[i], p), _adjoint(q[k - i], xp)) for i in range(k + 1))
        b.append(_each(lambda x: xp.tril(x) - matrices.diagonal_part(x, xp) / 2, around))
        following = (total(times(m[i], b[k - i]) for i in range(k + 1)), 1 / (k + 1))
        before = (total(times(b[k - i], q[i]) for i in range(k + 1)), -1 / (k + 1))
        for series, (found, c) in ((m, following), (q, before)):
            series.append(_each(lambda x, c=c: x * c, found))
    return [l0, *_each(lambda x: l0 @ x, total(m[1:]))[1:]]


def _each(function: Callable[..., Any], blocks: Sequence[Any]) -> list[Any]:
    """The function of every block that there is."""
    return [None if b is None else function(b) for b in blocks]


def _adjoint(blocks: Sequence[Any] | None, xp: Any) -> Any:
    """Of nilpotent elements; of 1, itself."""
    return None if blocks is None else _each(xp.adjoint, blocks)


def slogdet(operation: Operation, operands: Sequence[Any]) -> Any:
    """The sign (the phase, of a complex matrix) and the logarithm of the modulus of det A."""
    (x,) = operands
    sign, modulus = operation(x.primal)
    inverse = jnp.linalg.inv(x.primal)
    if is_complex(x.primal):
        a = full_coefficients(x, x.algebra.order)
        log = matrices.log_det(x.algebra, jnp.zeros_like(sign), inverse, a, XP)
        log = jet(x.algebra, log[0], log[1:])
        return list(call(lambda log: (sign * jnp.exp(1j * log.imag), modulus + log.real), log))
    for axis, summed in ((-2, -1), (-1, -2)):
        if matrices.apart(x, axis):

            def of_lines(a: Any, summed: int = summed) -> Any:
                ratios = jnp.sum(a * inverse.mT, summed)
                return jnp.log(1 + (ratios - lax.stop_gradient(ratios))).sum(-1) + modulus

            return [sign, call(of_lines, x)]
    out = matrices.log_det(x.algebra, modulus, inverse, full_coefficients(x, x.algebra.order), XP)
    return [sign, jet(x.algebra, out[0], out[1:])]


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
    """A = Q R; a whole Q has further columns, and R zeros below."""
    (x,), size = operands, min(operands[0].primal.shape[-2:])
    a = full_coefficients(x, x.algebra.order)
    q0, r0, *order = operation(x.primal)
    for pivots in order:  # A[:, order] = Q R
        a = [None if b is None else _columns(b, pivots) for b in a]
    q, r = matrices.qr(x.algebra, q0[..., :size], r0[..., :size, :], a, XP)
    of_q = _jet(x, q)
    if (missing := q0.shape[-1] - size) and size:
        of_q = jet(x.algebra, q0, call(completed, of_q).blocks)
        below = [(0, 0)] * (r0.ndim - 1) + [(0, missing), (0, 0)]
        r = [r0, *_each(lambda b: jnp.pad(b, below), r[1:])]
    return [of_q, _jet(x, r), *order]


def completed(q: Any) -> Any:
    """All of Q = H_1 H_2 ⋯, a product of Householder's reflections, from its first columns.

    Q − 1 = −V T Vᴴ with V of as many columns (Schreiber and Van Loan, 1989): with M = V T V_1ᴴ,
    the columns of 1 − Q that are known, V_2 V_1⁻¹ = M_2 M_1⁻¹, and that gives the others.
    """
    rows, columns = q.shape[-2:]
    one = jnp.eye(rows, dtype=q.dtype)
    m = one[:, :columns] - q
    upper, lower = XP.adjoint(m[..., :columns, :]), XP.adjoint(m[..., columns:, :])
    rest = one[:, columns:] - m @ jnp.linalg.solve(upper, lower)
    return jnp.concatenate([q, rest], -1)


def _columns(matrix: Any, order: Any) -> Any:
    """The columns of (…, *batch, n, k) in another order, (*batch, k)."""
    order = order.reshape((1,) * (matrix.ndim - order.ndim - 1) + (*order.shape[:-1], 1, -1))
    return jnp.take_along_axis(matrix, order, -1)


def svd(operation: Operation, operands: Sequence[Any]) -> Any:
    """A = U diag(s) Vᴴ, (s, U, Vᴴ)."""
    (x,), params = operands, operation.params
    n, k = x.primal.shape[-2:]
    vectors = params["compute_uv"]
    if params.get("subset_by_index") is not None:
        return general(operation, operands, "svd of some singular values")
    if vectors and params["full_matrices"] and n != k:
        raise NotImplementedError(
            f"svd with full_matrices=True of a matrix of {n} rows and {k} columns has vectors that "
            "the matrix does not determine, so they have no derivatives; pass full_matrices=False, "
            "or compute_uv=False for the singular values alone"
        )
    thin = operation.params | {"full_matrices": False, "compute_uv": True}
    s0, u0, vh0 = operation.primitive.bind(x.primal, **thin)
    a = full_coefficients(x, x.algebra.order)
    factors = u0, s0, XP.adjoint(vh0)
    u, s, v = matrices.thin_svd(x.algebra, factors, a, XP, vectors=vectors)
    found = [_jet(x, s)]
    if vectors:
        adjoints = [None if b is None else XP.adjoint(b) for b in v]
        found += [_jet(x, u), _jet(x, adjoints)]
    return found


def eigh(operation: Operation, operands: Sequence[Any]) -> Any:
    """A V = V diag(w), (V, w)."""
    (x,), known = operands, is_hermitian(operation)
    n = x.primal.shape[-1]
    if operation.params.get("subset_by_index") not in (None, (0, n)):
        return general(operation, operands, "eigh of some eigenvalues")
    v0, w0 = operation(x.primal if known else matrices.hermitian_part(x.primal, XP))
    a = full_coefficients(x, x.algebra.order)
    v, w = matrices.eigh(x.algebra, v0, w0, a, XP)
    if not known:
        v = [*map(add, v, _of_skew_part(x.algebra, v0, w0, a))]
    return [_jet(x, v), _jet(x, w)]


def _of_skew_part(algebra: JetAlgebra, v0: Any, w0: Any, a: Sequence[Any]) -> list[Any]:
    """What the skew part K of A adds to the eigenvectors V of its Hermitian part S, as JAX has it.

    Its first derivative, V F∘(Vᴴ A' V) with F_ij = 1/(w_j − w_i), takes A' as it is; V and w in it
    are functions of S: along S_0 + s N that is ∫ V F∘(Vᴴ K V) ds, of a polynomial in s.
    """
    half = [None, *(None if b is None else b / 2 for b in a[1:])]
    s, k = ([*map(join, half, _adjoint(half, XP))] for join in (add, matrices.minus))
    n, of_matrices = w0.shape[-1], matrices.MatrixProduct(XP)
    unit = jnp.eye(n, dtype=w0.dtype)
    out: list[Any] = [None] * (algebra.order + 1)
    places, weights = np.polynomial.legendre.leggauss((algebra.order + 1) // 2)
    for place, weight in zip((places + 1) / 2, weights / 2, strict=True):
        here = _each(lambda b, place=place: b * place, s)
        v, w = matrices.eigh(algebra, v0, w0, here, XP)
        gaps = _each(lambda b: b[..., None, :] - b[..., :, None], w)
        gaps[0] = gaps[0] + unit
        none = [None] * algebra.order
        f = arithmetic.over(algebra, [1 - unit, *none], gaps, (1 - unit) / gaps[0], XP)
        inner = product(algebra, _adjoint(v, XP), [0 * a[0], *k[1:]], of_matrices, XP)
        inner = product(algebra, inner, v, of_matrices, XP)
        inner = arithmetic.times(algebra, f, inner, XP)
        found = product(algebra, v, inner, of_matrices, XP)
        out = [*map(add, out, _each(lambda b, c=weight: b * c, [None, *found[1:]]))]
    return out


def eig(operation: Operation, operands: Sequence[Any]) -> Any:
    """A V = V diag(w) of any matrix, (w, left V, right V); the left ones are those of Aᴴ."""
    (x,), params = operands, operation.params
    left, right = params["compute_left_eigenvectors"], params["compute_right_eigenvectors"]
    if (left or right) and not params.get("enable_eigvec_derivs"):
        raise NotImplementedError(
            "eig was called on the argument of a function that jetfold differentiates, and "
            "eigenvectors have derivatives only while LAPACK keeps to its choice of their length "
            "and phase, which nobody checks; if that is meant pass enable_eigvec_derivs=True to "
            "jax.lax.linalg.eig (JAX 0.10 and later), or take jnp.linalg.eigvals"
        )
    w0, *vectors = operation.primitive.bind(
        x.primal, **params | {"compute_right_eigenvectors": True}
    )
    a = [b if b is None else b.astype(w0.dtype) for b in full_coefficients(x, x.algebra.order)]

    def factors(v0: Any, w0: Any, a: Sequence[Any]) -> tuple[Any, Any]:
        v, w = matrices.eig(x.algebra, v0, w0, jnp.linalg.inv(v0), a, XP)
        return _jet(x, w), call(partial(normalized, like=v0), _jet(x, v))

    w, of_right = factors(vectors[-1], w0, a)
    of_left = [factors(vectors[0], jnp.conj(w0), _each(XP.adjoint, a))[1]] if left else []
    return [w, *of_left, of_right][: 1 + left + right]


def normalized(v: Any, like: Any) -> Any:
    """Columns of length one whose largest component is real, as LAPACK has them."""
    rows = jnp.arange(like.shape[-2])[:, None]
    largest = rows == jnp.argmax(jnp.abs(like), -2, keepdims=True)
    pivot = jnp.where(largest, v, 0).sum(-2, keepdims=True)
    sign = jnp.sign(jnp.where(largest, like, 0).sum(-2, keepdims=True).real)
    return v * (sign * jnp.abs(pivot) / pivot) / jnp.linalg.norm(v, axis=-2, keepdims=True)


def custom_linear_solve(operation: Operation, operands: Sequence[Any]) -> Any:
    """x with A x = b, degree by degree: A_0 x_m = b_m − (A x)_m, with x_m = 0 in A x.

    Where A is a matrix, that is by A_0⁻¹ if the right-hand side has structure.
    """
    lengths, jaxprs = operation.params["const_lengths"], operation.params["jaxprs"]
    counts = [lengths.matvec, lengths.vecmat, lengths.solve, lengths.transpose_solve]
    starts = [sum(counts[:k]) for k in range(5)]
    matrix = operands[starts[0] : starts[1]]
    right = operands[starts[4] :]
    algebra = algebra_of(operands)
    order = algebra.order
    plain = [value(x) for x in operands[: starts[4]]]
    x0 = operation(*plain, *values(right))
    known: list[list[Any]] = [[] for _ in right]
    for m in range(order):
        empty = [None] * (order - m)
        guess = [jet(algebra, x, [*k, *empty]) for x, k in zip(x0, known, strict=True)]
        product = interpret_closed(jaxprs.matvec, [*matrix, *guess])
        rest = [
            matrices.minus(stored_of(b, order)[m], stored_of(ax, order)[m])
            for b, ax in zip(right, product, strict=True)
        ]
        if all(r is None for r in rest):
            for k in known:
                k.append(None)
            continue
        if len(rest) == 1 and isinstance(rest[0], Structured) and is_matrix(jaxprs.matvec):
            inverse = jnp.linalg.inv(plain[starts[0]])
            of_degree = jet(algebra, x0[0], [rest[0] if k == m else None for k in range(order)])
            solved = interpret_closed(jaxprs.matvec, [inverse, of_degree])
            known[0].append(solved[0].stored[m])
            continue
        size = algebra.sizes[m + 1]
        stacks = [
            zeros(size, b)
            if r is None
            else jnp.broadcast_to(dense(r), (size, *jnp.shape(value(b))))
            for b, r in zip(right, rest, strict=True)
        ]
        solved = jax.vmap(lambda *b: operation(*plain, *b))(*stacks)
        for k, block in zip(known, solved, strict=True):
            k.append(block)
    return [jet(algebra, x, k) for x, k in zip(x0, known, strict=True)]


def is_matrix(matvec: Any) -> bool:
    """Whether x ↦ A x is one product of A's last two axes with x, as `jnp.linalg.solve` has it.

    A⁻¹ can then stand for A.
    """
    jaxpr = matvec.jaxpr
    if len(jaxpr.invars) != 2 or [e.primitive.name for e in jaxpr.eqns[:1]] != ["dot_general"]:
        return False
    (a, x), contraction = jaxpr.invars, jaxpr.eqns[0]
    n = a.aval.ndim
    (of_a, of_x), (batch_a, batch_x) = contraction.params["dimension_numbers"]
    batch = tuple(range(n - 2))
    if contraction.invars != [a, x] or (of_a, batch_a, batch_x) != ((n - 1,), batch, batch):
        return False
    # Where the axes of x come to lie: of its batch, the row of A in place of that which is summed
    # over, and the others.
    axes = [*batch, *of_x, *(k for k in range(x.aval.ndim) if k not in (*batch, *of_x))]
    out = contraction.outvars
    for moved in jaxpr.eqns[1:]:
        if moved.primitive.name != "transpose" or moved.invars != out:
            return False
        axes, out = [axes[k] for k in moved.params["permutation"]], moved.outvars
    return bool(jaxpr.outvars == out and axes == sorted(axes))
