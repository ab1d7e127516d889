"""Products of vectors and matrices, and linear algebra, in terms of simpler operations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

_EINSUM_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def matmul(input: Any, other: Any) -> Any:
    """torch.matmul with every operand brought to the same number of axes, at least two."""
    if input.layout != torch.strided:
        column = other.unsqueeze(-1) if other.ndim == 1 else other
        out = torch.sparse.mm(input, column)
        return out.squeeze(-1) if other.ndim == 1 else out
    if other.layout != torch.strided:
        return matmul(other.t(), input.t()).t()
    left, right = input.ndim == 1, other.ndim == 1
    u = input.unsqueeze(0) if left else input
    v = other.unsqueeze(-1) if right else other
    while u.ndim < v.ndim:
        u = u.unsqueeze(0)
    while v.ndim < u.ndim:
        v = v.unsqueeze(0)
    out = torch.bmm(u, v)  # to the rule for stacked matrices, of any number of axes
    if right:
        out = out.squeeze(-1)
    return out.squeeze(-1 if right else -2) if left else out


def addmm(input: Any, mat1: Any, mat2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """β·input + α·mat1 @ mat2; also addmv, addbmm and baddbmm in their own shapes."""
    return beta * input + alpha * torch.matmul(mat1, mat2)


def addbmm(input: Any, batch1: Any, batch2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """β·input + α·Σ_b batch1[b] @ batch2[b]."""
    return beta * input + alpha * torch.matmul(batch1, batch2).sum(0)


def addr(input: Any, vec1: Any, vec2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """β·input + α·vec1 vec2ᵀ."""
    return beta * input + alpha * outer(vec1, vec2)


def outer(input: Any, vec2: Any) -> Any:
    """u vᵀ."""
    return input.unsqueeze(-1) * vec2.unsqueeze(0)


def dot(input: Any, other: Any) -> Any:
    """Σ u v."""
    return (input * other).sum()


def inner(input: Any, other: Any) -> Any:
    """Σ over the last axes of both."""
    if input.ndim == 0 or other.ndim == 0:
        return input * other
    return tensordot(input, other, ([-1], [-1]))


def vdot(input: Any, other: Any) -> Any:
    """Σ ū v."""
    return (torch.conj(input) * other).sum() if input.is_complex() else (input * other).sum()


def vecdot(x: Any, y: Any, *, dim: int = -1) -> Any:
    """Σ x̄ y along an axis."""
    return ((torch.conj(x) if x.is_complex() else x) * y).sum(dim)


def first_cross(input: Any, other: Any, dim: int | None = None) -> Any:
    """torch.cross: along the first axis of length three, unless another is named."""
    if dim is None:
        dim = list(input.shape).index(3) - input.ndim
    return cross(input, other, dim=dim)


def cross(input: Any, other: Any, *, dim: int = -1) -> Any:
    """The cross product along an axis of length three."""
    a, b = input.unbind(dim), other.unbind(dim)
    return torch.stack(
        [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]], dim
    )


def multi_dot(*tensors: Any) -> Any:
    """A product of several matrices, from the left."""
    if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)):
        tensors = tuple(tensors[0])
    out = tensors[0]
    for other in tensors[1:]:
        out = torch.matmul(out, other)
    return out


def bilinear(input1: Any, input2: Any, weight: Any, bias: Any = None) -> Any:
    """xᵀ W_k y + b_k."""
    out = torch.einsum("...i,kij,...j->...k", input1, weight, input2)
    return out if bias is None else out + bias


def tensordot(a: Any, b: Any, dims: Any = 2, out: Any = None) -> Any:
    """Σ over paired axes."""
    if isinstance(dims, int):
        dims = (list(range(a.ndim - dims, a.ndim)), list(range(dims)))
    left = [d % a.ndim for d in dims[0]]
    right = [d % b.ndim for d in dims[1]]
    names = _EINSUM_LETTERS
    a_letters = list(names[: a.ndim])
    b_letters = list(names[a.ndim : a.ndim + b.ndim])
    for i, j in zip(left, right, strict=True):
        b_letters[j] = a_letters[i]
    kept = [c for k, c in enumerate(a_letters) if k not in left]
    kept += [c for k, c in enumerate(b_letters) if k not in right]
    equation = f"{''.join(a_letters)},{''.join(b_letters)}->{''.join(kept)}"
    return torch.einsum(equation, a, b)


def unused_letter(letters: str) -> str:
    """A letter for an axis of its own."""
    return next(c for c in reversed(_EINSUM_LETTERS) if c not in letters)


def equation_from_sublists(args: Sequence[Any]) -> tuple[str, list[Any]]:
    """The text form of einsum(x, [0, 1], y, [1, 2], [0, 2])."""
    names = _EINSUM_LETTERS

    def text(sublist: Sequence[Any]) -> str:
        return "".join("..." if item is Ellipsis else names[item] for item in sublist)

    pairs = len(args) // 2
    equation = ",".join(text(args[2 * k + 1]) for k in range(pairs))
    if len(args) % 2:
        equation += "->" + text(args[-1])
    return equation, [args[2 * k] for k in range(pairs)]


def explicit_equation(equation: str, operands: Sequence[Any]) -> tuple[list[str], str]:
    """The equation with its output written out and letters in the place of the ellipsis."""
    equation = equation.replace(" ", "")
    left, arrow, out = equation.partition("->")
    inputs = left.split(",")
    used = set(equation)
    free = [c for c in _EINSUM_LETTERS if c not in used]
    counts = [
        x.ndim - len(term.replace("...", "")) for term, x in zip(inputs, operands, strict=True)
    ]
    most = max([0, *[n for n, term in zip(counts, inputs, strict=True) if "..." in term]])
    batch = "".join(free[:most])
    inputs = [
        term.replace("...", batch[most - n :]) for n, term in zip(counts, inputs, strict=True)
    ]
    if arrow:
        return inputs, out.replace("...", batch)
    letters = left.replace("...", "").replace(",", "")
    return inputs, batch + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))


def matrix_power(input: Any, n: int) -> Any:
    """Aⁿ by repeated squares, of the inverse for n < 0."""
    base = input if n >= 0 else torch.linalg.inv(input)
    out, n = None, abs(n)
    while n:
        if n % 2:
            out = base if out is None else torch.matmul(out, base)
        n //= 2
        base = torch.matmul(base, base) if n else base
    if out is None:
        one = torch.eye(input.shape[-1], dtype=input.dtype, device=input.device)
        return torch.zeros_like(input) + one
    return out


def cholesky_inverse(L: Any, upper: bool = False) -> Any:
    """(L Lᵀ)⁻¹ of the triangle of a Cholesky factor."""
    factor = torch.triu(L).mT if upper else torch.tril(L)
    return torch.linalg.inv(factor @ factor.mT.conj())


def cholesky_solve(B: Any, L: Any, upper: bool = False) -> Any:
    """(L Lᴴ)⁻¹ B, or (Uᴴ U)⁻¹ B of an upper factor."""
    middle = torch.linalg.solve_triangular(L.mH if upper else L, B, upper=False)
    return torch.linalg.solve_triangular(L if upper else L.mH, middle, upper=True)


def cholesky_ex(A: Any, *, upper: bool = False, check_errors: bool = False) -> Any:
    """torch.linalg.cholesky_ex, of a matrix that is positive definite."""
    factor = torch.linalg.cholesky(A, upper=upper)
    return FactorInfo(factor, torch.zeros(A.shape[:-2], dtype=torch.int32, device=A.device))


class FactorInfo(NamedTuple):
    """What torch.linalg.cholesky_ex returns."""

    L: Any
    info: Any


def solve_ex(A: Any, B: Any, *, left: bool = True, check_errors: bool = False) -> Any:
    """torch.linalg.solve_ex, without a look at the pivots."""
    x = torch.linalg.solve(A, B, left=left)
    return x, torch.zeros(A.shape[:-2], dtype=torch.int32, device=A.device)


def inv_ex(A: Any, *, check_errors: bool = False) -> Any:
    """torch.linalg.inv_ex, likewise."""
    x = torch.linalg.inv(A)
    return x, torch.zeros(A.shape[:-2], dtype=torch.int32, device=A.device)


def slogdet_by_factors(A: Any) -> Any:
    """slogdet from the factors L U of A: for plain tensors, where derivatives are nested."""
    factors, pivots = torch.linalg.lu_factor(A)
    u = factors.diagonal(0, -2, -1)
    swaps = (pivots != torch.arange(1, A.shape[-1] + 1, device=A.device)).sum(-1)
    sign = torch.where(swaps % 2 == 0, 1, -1) * torch.sgn(u).prod(-1)
    return SignLogabsdet(sign, torch.log(torch.abs(u)).sum(-1))


def det_by_factors(A: Any) -> Any:
    """det, likewise."""
    factors, pivots = torch.linalg.lu_factor(A)
    swaps = (pivots != torch.arange(1, A.shape[-1] + 1, device=A.device)).sum(-1)
    return torch.where(swaps % 2 == 0, 1, -1) * factors.diagonal(0, -2, -1).prod(-1)


def log_det_by_factors(A: Any) -> Any:
    """logdet, likewise."""
    sign, modulus = slogdet_by_factors(A)
    return modulus + torch.log(sign)


def solve_by_inverse(A: Any, B: Any, *, left: bool = True) -> Any:
    """solve, likewise."""
    inverse = torch.linalg.inv(A)
    if not left:
        return B @ inverse
    if B.ndim == 1 or (A.ndim - 1 == B.ndim and tuple(A.shape[:-1]) == tuple(B.shape)):
        return (inverse @ B.unsqueeze(-1)).squeeze(-1)
    return inverse @ B


class SignLogabsdet(NamedTuple):
    """What torch.linalg.slogdet returns."""

    sign: Any
    logabsdet: Any


def log_det(input: Any) -> Any:
    """log det A, nan where it is negative."""
    sign, modulus = torch.linalg.slogdet(input)
    if sign.is_complex():
        return modulus + torch.log(sign)
    return torch.where(sign.detach() < 0, math.nan, modulus)
