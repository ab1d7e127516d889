"""Linear algebra in terms of factorisations that have rules."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from .. import private

# ------------------------------------------------------------------ pseudoinverse, least squares


def pinv(
    input: Any,
    rcond: Any = None,
    hermitian: bool = False,
    *,
    atol: Any = None,
    rtol: Any = None,
) -> Any:
    """A⁺ of a matrix that keeps its rank, from the singular vectors U, V and values S of its value.

    Where the rank is constant A = B (UᴴAV)⁻¹ C with B = AV, C = UᴴA, so that (with S⁻¹ on either
    side, for the sake of rounding) A⁺ = C⁺ (S⁻¹UᴴAVS⁻¹) B⁺, B and C of full rank.
    """
    if hermitian:
        lower = torch.tril(input, -1)
        diagonal = torch.diag_embed(torch.diagonal(input, 0, -2, -1))
        input = lower + lower.mH + diagonal
    value = input.detach()
    u, s, vh = torch.linalg.svd(value, full_matrices=False)
    kept = s > _tolerance(value, s, rtol if rcond is None else rcond, atol)[..., None]
    inverse = torch.where(kept, 1 / torch.where(kept, s, 1), 0).to(value.dtype)
    left, right = u * inverse.unsqueeze(-2), vh.mH * inverse.unsqueeze(-2)
    dropped = ~kept & (s > 100 * max(value.shape[-2:]) * torch.finfo(s.dtype).eps * s[..., :1])
    if not (private.inside_transform() or torch.compiler.is_compiling()) and bool(dropped.any()):
        raise NotImplementedError(
            "the tolerance of linalg.pinv drops singular values that are not zero, which has no "
            "rule; write it with torch.linalg.svd"
        )
    one = torch.diag_embed((~kept).to(value.dtype))
    # Where that cannot be asked for, the result is no number.
    input = input * torch.where(dropped.any(-1), torch.nan, 1.0)[..., None, None].to(value.dtype)
    b, c = input @ right, left.mH @ input
    middle = left.mH @ input @ right
    b = torch.linalg.inv(b.mH @ b + one) @ b.mH
    c = c.mH @ torch.linalg.inv(c @ c.mH + one)
    return c @ middle @ b


def _tolerance(value: Any, s: Any, rtol: Any, atol: Any) -> Any:
    """Singular values up to here are zero, as torch.linalg.pinv has it."""
    if rtol is None:
        rtol = max(value.shape[-2:]) * torch.finfo(value.dtype).eps if atol is None else 0.0
    largest = s.amax(-1) if s.shape[-1] else s.sum(-1)
    return torch.maximum(
        torch.as_tensor(0.0 if atol is None else atol, dtype=s.dtype, device=s.device),
        torch.as_tensor(rtol, dtype=s.dtype, device=s.device) * largest,
    )


def lstsq(A: Any, B: Any, rcond: Any = None, *, driver: Any = None) -> Any:
    """torch.linalg.lstsq by the pseudoinverse, for matrices that keep their rank."""
    vector = B.ndim == 1 or (A.ndim - 1 == B.ndim and tuple(A.shape[:-1]) == tuple(B.shape))
    right = B.unsqueeze(-1) if vector else B
    x = pinv(A, rcond) @ right
    plain = torch.linalg.lstsq(A.detach(), B.detach(), rcond, driver=driver)
    residuals = plain.residuals
    if residuals.numel():
        residuals = torch.linalg.vector_norm(A @ x - right, dim=-2) ** 2
    x = x.squeeze(-1) if vector else x
    return LeastSquares(x, residuals, plain.rank, plain.singular_values)


class LeastSquares(NamedTuple):
    """What torch.linalg.lstsq returns."""

    solution: Any
    residuals: Any
    rank: Any
    singular_values: Any


# ------------------------------------------------------------------ norms


def matrix_norm(
    A: Any,
    ord: Any = "fro",
    dim: Any = (-2, -1),
    keepdim: bool = False,
    *,
    dtype: Any = None,
) -> Any:
    """Frobenius, nuclear, spectral (±2), row and column norms (±∞, ±1)."""
    x = A if dtype is None else A.to(dtype)
    rows, columns = (d % x.ndim for d in dim)
    if ord == "fro":
        return torch.linalg.vector_norm(x, 2, (rows, columns), keepdim)
    if ord in ("nuc", 2, -2):
        s = torch.linalg.svdvals(x.movedim((rows, columns), (-2, -1)))
        out = s.sum(-1) if ord == "nuc" else s.amax(-1) if ord > 0 else s.amin(-1)
        for d in sorted((rows, columns)) if keepdim else ():
            out = out.unsqueeze(d)
        return out
    summed, kept = (rows, columns) if abs(ord) == 1 else (columns, rows)
    sums = torch.abs(x).sum(summed, keepdim=True)
    out = sums.amax(kept, True) if ord > 0 else sums.amin(kept, True)
    for d in sorted((rows, columns), reverse=True) if not keepdim else ():
        out = out.squeeze(d)
    return out


def cond(A: Any, p: Any = None) -> Any:
    """‖A‖ ‖A⁻¹‖, of singular values for p = None, 2, −2."""
    if p in (None, 2, -2):
        s = torch.linalg.svdvals(A)
        largest, smallest = s.amax(-1), s.amin(-1)
        return smallest / largest if p == -2 else largest / smallest
    return matrix_norm(A, p) * matrix_norm(torch.linalg.inv(A), p)


# ------------------------------------------------------------------ systems


def lu_unpack(
    LU_data: Any, LU_pivots: Any, unpack_data: bool = True, unpack_pivots: bool = True
) -> Any:
    """P, L, U from the factors in one."""
    n, k = LU_data.shape[-2:]
    rank = min(n, k)
    p, _, _ = torch.lu_unpack(LU_data.detach(), LU_pivots, unpack_data, unpack_pivots)
    if not unpack_data:
        empty = LU_data.detach().new_empty(0)
        return FactorsPLU(p, empty, empty)
    one = torch.eye(n, rank, dtype=LU_data.dtype, device=LU_data.device)
    return FactorsPLU(
        p, torch.tril(LU_data[..., :, :rank], -1) + one, torch.triu(LU_data[..., :rank, :])
    )


class FactorsPLU(NamedTuple):
    """What torch.lu_unpack returns."""

    P: Any
    L: Any
    U: Any


def lu_solve(LU: Any, pivots: Any, B: Any, *, left: bool = True, adjoint: bool = False) -> Any:
    """A⁻¹ B, B A⁻¹, A⁻ᴴ B or B A⁻ᴴ from the factors of A."""
    if not left:  # X A = B is Aᴴ Xᴴ = Bᴴ
        return lu_solve(LU, pivots, B.mH, adjoint=not adjoint).mH
    p, lower, upper = lu_unpack(LU, pivots)
    if adjoint:
        middle = torch.linalg.solve_triangular(upper.mH, B, upper=False)
        return p @ torch.linalg.solve_triangular(lower.mH, middle, upper=True, unitriangular=True)
    middle = torch.linalg.solve_triangular(lower, p.mT @ B, upper=False, unitriangular=True)
    return torch.linalg.solve_triangular(upper, middle, upper=True)


def old_lu_solve(b: Any, LU_data: Any, LU_pivots: Any) -> Any:
    """torch.lu_solve, whose arguments come in another order."""
    return lu_solve(LU_data, LU_pivots, b)


def lu_factor_ex(A: Any, *, pivot: bool = True, check_errors: bool = False) -> Any:
    """torch.linalg.lu_factor_ex, of a matrix that is not singular."""
    factors, pivots = torch.linalg.lu_factor(A, pivot=pivot)
    return factors, pivots, torch.zeros(A.shape[:-2], dtype=torch.int32, device=A.device)


def old_lu(A: Any, pivot: bool = True, get_infos: bool = False, out: Any = None) -> Any:
    """torch.lu."""
    factors, pivots, info = lu_factor_ex(A, pivot=pivot)
    return (factors, pivots, info) if get_infos else (factors, pivots)


def triangular_solve(
    input: Any, A: Any, upper: bool = True, transpose: bool = False, unitriangular: bool = False
) -> Any:
    """torch.triangular_solve: the solution, and the matrix."""
    a = A.mT if transpose else A
    x = torch.linalg.solve_triangular(
        a, input, upper=upper != transpose, unitriangular=unitriangular
    )
    return x, A


def tensorinv(input: Any, ind: int = 2) -> Any:
    """The inverse of a tensor as a map from its last axes to its first `ind`."""
    shape = tuple(input.shape)
    n = math.prod(shape[:ind])
    return torch.linalg.inv(input.reshape(n, -1)).reshape(shape[ind:] + shape[:ind])


def tensorsolve(input: Any, other: Any, dims: Any = None) -> Any:
    """X with tensordot(A, X, X.ndim) = B."""
    a = input
    if dims is not None:
        a = a.movedim(tuple(dims), tuple(range(a.ndim - len(dims), a.ndim)))
    shape = tuple(a.shape)[other.ndim :]
    matrix = a.reshape(other.numel(), -1)
    return torch.linalg.solve(matrix, other.reshape(-1)).reshape(shape)


# ------------------------------------------------------------------ factorisations


def svd(input: Any, some: bool = True, compute_uv: bool = True) -> Any:
    """torch.svd: U, S and V, not its adjoint."""
    if not compute_uv:
        raise NotImplementedError(
            "torch.svd(x, compute_uv=False) has no derivative; use torch.linalg.svdvals(x)"
        )
    u, s, vh = torch.linalg.svd(input, full_matrices=not some)
    return OldSVD(u, s, vh.mH)


class OldSVD(NamedTuple):
    """What torch.svd returns."""

    U: Any
    S: Any
    V: Any


def householder_product(input: Any, tau: Any) -> Any:
    """The first columns of Π_i (1 − τ_i v_i v_iᴴ), v_i the columns below a diagonal of ones."""
    n, k = input.shape[-2:]
    out = torch.eye(n, k, dtype=input.dtype, device=input.device).expand(input.shape)
    return reflected(input, tau, out)


def reflected(input: Any, tau: Any, x: Any, adjoint: bool = False) -> Any:
    """Q x of such reflections, or Qᴴ x."""
    count = tau.shape[-1]
    for i in range(count) if adjoint else range(count - 1, -1, -1):
        one = torch.zeros(input.shape[-2], dtype=input.dtype, device=input.device)
        one[i] = 1
        below = (torch.arange(input.shape[-2], device=input.device) > i).to(input.dtype)
        v = (input[..., :, i] * below + one).unsqueeze(-1)
        t = tau[..., i, None, None]
        x = x - (t.conj() if adjoint else t) * (v @ (v.mH @ x))
    return x


def ormqr(input: Any, tau: Any, other: Any, left: bool = True, transpose: bool = False) -> Any:
    """Q C, Qᴴ C, C Q or C Qᴴ, Q of Householder reflections."""
    if left:
        return reflected(input, tau, other, transpose)
    return reflected(input, tau, other.mH, not transpose).mH


def vander(x: Any, *, N: int | None = None) -> Any:
    """Powers of the entries along a new last axis."""
    n = x.shape[-1] if N is None else N
    found = [torch.ones_like(x)]
    for _ in range(n - 1):
        found.append(found[-1] * x)
    return torch.stack(found[:n], -1)


def old_vander(x: Any, N: int | None = None, increasing: bool = False) -> Any:
    """torch.vander: the highest power first."""
    out = vander(x, N=N)
    return out if increasing else out.flip(-1)
