"""Rules of linear algebra: the formulas are `core.matrices`', the factors of values PyTorch's.

What they do not cover they leave to the general rule: pivot=False, mode="complete".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from ..core import matrices, towers
from . import arrays as XP
from .arguments import elements, first_jet, full, is_jet, named, second, whole
from .decompositions.products import SignLogabsdet
from .products import MatrixProduct
from .rules import Function, Rule, apply_tower

# ------------------------------------------------------------------ systems


def with_axes(x: Any, ndim: int) -> Any:
    """Axes of length one in front, until there are so many."""
    return x.reshape((1,) * (ndim - x.ndim) + tuple(x.shape)) if x.ndim < ndim else x


@dataclass(frozen=True)
class Inverse(Rule):
    """A⁻¹."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        jet = args[0]
        y = torch.linalg.inv(jet.primal)
        times = MatrixProduct(jet.ndim)
        return jet.like(y, matrices.inverted(jet.algebra, y, [None, *whole(jet)], times, XP)[1:])


@dataclass(frozen=True)
class Solve(Rule):
    """A⁻¹ B, or B A⁻¹ for left=False; B is a vector where torch.linalg.solve takes it for one."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        a, b = args[0], second(args, kwargs, "B")
        if not kwargs.get("left", True):
            return torch.linalg.solve(a.mT, b.mT).mT
        if b.ndim == 1 or (a.ndim - 1 == b.ndim and tuple(a.shape[:-1]) == tuple(b.shape)):
            return torch.linalg.solve(a, b.unsqueeze(-1)).squeeze(-1)
        a, b = with_axes(a, b.ndim), with_axes(b, a.ndim)
        jet = first_jet(level, (a, b), {})
        none, times = [None] * jet.algebra.order, MatrixProduct(a.ndim)
        a, b = ([x.primal, *whole(x)] if is_jet(level, x) else [x, *none] for x in (a, b))
        y = matrices.solve(jet.algebra, torch.linalg.inv(a[0]), a, b, times, XP)
        return jet.like(torch.linalg.solve(a[0], b[0]), y[1:])


@dataclass(frozen=True)
class SolveTriangular(Rule):
    """A⁻¹ B, or B A⁻¹ for left=False, A triangular."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        given, _, options = named(("A", "B"), args, kwargs)
        a, b = given["A"], given["B"]
        a, b = with_axes(a, b.ndim), with_axes(b, a.ndim)
        jet = first_jet(level, (a, b), {})
        a, b = (elements(level, x, jet.algebra.order) for x in (a, b))
        y = matrices.triangular_solve(jet.algebra, a, b, XP, **options)
        return jet.like(y[0], y[1:])


# ------------------------------------------------------------------ determinants


def _log_det(jet: Any, value: Any) -> Any:
    """log det A as a jet, of this value."""
    inverse = torch.linalg.inv(jet.primal)
    for axis, summed in ((-2, -1), (-1, -2)):
        if matrices.apart(jet, axis):
            ratios = (jet * inverse.mT).sum(summed)
            log = torch.log(1 + (ratios - ratios.primal)).sum(-1)
            return jet.like(value, log.stored)
    out = matrices.log_det(jet.algebra, value, inverse, [None, *full(jet)], XP)
    return jet.like(value, out[1:])


@dataclass(frozen=True)
class SignLogDet(Rule):
    """The sign (the phase, of a complex matrix) and the logarithm of the modulus of det A."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        jet = args[0]
        sign, modulus = torch.linalg.slogdet(jet.primal)
        if not sign.is_complex():
            constant = jet.like(sign, [None] * jet.algebra.order)
            return SignLogabsdet(constant, _log_det(jet, modulus))
        log = _log_det(jet, torch.zeros_like(sign))
        return SignLogabsdet(torch.exp(1j * log.imag) * sign, log.real + modulus)


@dataclass(frozen=True)
class Det(Rule):
    """det A: the polynomial up to 3 × 3, which knows no singular matrix; beyond, exp log det A."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        jet = args[0]
        n = jet.primal.shape[-1]
        if n == 0:  # det = 1
            return jet.like(torch.linalg.det(jet.primal), [None] * jet.algebra.order)
        if n in (1, 2, 3):
            return _cofactors([[jet[..., i, j] for j in range(n)] for i in range(n)])
        zero = torch.zeros_like(jet.primal[..., 0, 0])
        return torch.exp(_log_det(jet, zero)) * torch.linalg.det(jet.primal)


def _cofactors(entry: list[list[Any]]) -> Any:
    """The expansion of a determinant along its first row."""
    if len(entry) == 1:
        return entry[0][0]
    total = None
    for j, first in enumerate(entry[0]):
        minor = _cofactors([row[:j] + row[j + 1 :] for row in entry[1:]])
        term = first * minor
        total = term if total is None else (total - term if j % 2 else total + term)
    return total


# ------------------------------------------------------------------ factorisations


@dataclass(frozen=True)
class Cholesky(Rule):
    """L with A = L Lᴴ, or Lᴴ for upper=True."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        jet, upper = args[0], args[1] if len(args) > 1 else kwargs.get("upper", False)
        l0 = torch.linalg.cholesky(jet.primal)
        out = matrices.cholesky(jet.algebra, l0, [None, *full(jet)], XP)
        factor = jet.like(l0, out[1:])
        return factor.mH if upper else factor


class FactorsQR(NamedTuple):
    """What torch.linalg.qr returns."""

    Q: Any
    R: Any


@dataclass(frozen=True)
class QR(Rule):
    """A = Q R, Q with as many columns as R has rows; more columns nothing determines."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        jet = args[0]
        n, k = jet.primal.shape[-2:]
        mode = args[1] if len(args) > 1 else kwargs.get("mode", kwargs.get("some", True))
        if mode not in ("reduced", True) and not (n <= k and mode in ("complete", False)):
            return NotImplemented
        q0, r0 = torch.linalg.qr(jet.primal)
        q, r = matrices.qr(jet.algebra, q0, r0, [None, *full(jet)], XP)
        return FactorsQR(jet.like(q0, q[1:]), jet.like(r0, r[1:]))


class Eigen(NamedTuple):
    """What torch.linalg.eigh returns."""

    eigenvalues: Any
    eigenvectors: Any


@dataclass(frozen=True)
class Eigh(Rule):
    """Eigenvalues and eigenvectors of a Hermitian matrix.

    Attributes:
        vectors: whether they are asked for.
    """

    vectors: bool

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        jet = args[0]
        w0, v0 = torch.linalg.eigh(jet.primal, *args[1:], **kwargs)
        v, w = matrices.eigh(jet.algebra, v0, w0, [None, *full(jet)], XP)
        values = jet.like(w0, w[1:])
        return Eigen(values, jet.like(v0, v[1:])) if self.vectors else values


def _completed(vectors: Any, value: Any) -> Any:
    """With the columns that nothing determines: they have no derivatives, and so are not finite."""
    missing = value.shape[-1] - vectors.shape[-1]
    blocks = [
        None if b is None else F.pad(b, (0, missing), value=torch.nan) for b in vectors.blocks
    ]
    return vectors.like(value, blocks) if missing else vectors


class FactorsSVD(NamedTuple):
    """What torch.linalg.svd returns."""

    U: Any
    S: Any
    Vh: Any


@dataclass(frozen=True)
class SVD(Rule):
    """Singular values and vectors.

    Attributes:
        vectors: whether they are asked for.
    """

    vectors: bool

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        given, _, options = named(("A", "full_matrices"), args, kwargs)
        jet = given["A"] if "A" in given else args[0]
        n, k = jet.primal.shape[-2:]
        if n < k:
            v, s, uh = self._tall(jet.mH, options)
            found = FactorsSVD(uh.mH, s, v.mH)
        else:
            found = self._tall(jet, options)
        if not self.vectors:
            return found.S
        if n == k or not given.get("full_matrices", True):
            return found
        u0, _, vh0 = torch.linalg.svd(jet.primal, full_matrices=True, **options)
        return FactorsSVD(_completed(found.U, u0), found.S, _completed(found.Vh.mH, vh0.mH).mH)

    def _tall(self, jet: Any, options: Any) -> FactorsSVD:
        """AᴴA = V diag(s²) Vᴴ with the V and s of the value, and U = A V/s.

        Equal singular values have no derivatives, nor has one that is zero: they are not finite.
        """
        u0, s0, vh0 = torch.linalg.svd(jet.primal, full_matrices=False, **options)
        gram = jet.mH @ jet
        v, w = matrices.eigh(jet.algebra, vh0.mH, s0 * s0, [None, *full(gram)], XP)
        s = apply_tower(jet.like(w[0], w[1:]), s0, towers.sqrt)
        v = jet.like(vh0.mH, v[1:])
        u = (jet @ v) / s.unsqueeze(-2) if self.vectors else jet
        return FactorsSVD(jet.like(u0, u.blocks), s, v.mH)


@dataclass(frozen=True)
class Eig(Rule):
    """Eigenvalues and eigenvectors of any matrix, the vectors of length one.

    Attributes:
        vectors: whether they are asked for.
    """

    vectors: bool

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        jet = args[0]
        w0, v0 = torch.linalg.eig(jet.primal)
        a = [None, *(None if b is None else b.to(w0.dtype) for b in full(jet))]
        v, w = matrices.eig(jet.algebra, v0, w0, torch.linalg.inv(v0), a, XP)
        values = jet.like(w0, w[1:])
        if not self.vectors:
            return values
        vectors = jet.like(v0, v[1:])
        return Eigen(values, vectors / torch.linalg.vector_norm(vectors, dim=-2, keepdim=True))


@dataclass(frozen=True)
class MatrixExp(Rule):
    """The exponential of a matrix."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        jet = args[0]
        a = [jet.primal, *full(jet)]
        y = matrices.analytic(jet.algebra, a, torch.linalg.matrix_exp, XP)
        return jet.like(y[0], y[1:])


class FactorsLU(NamedTuple):
    """What torch.linalg.lu returns."""

    P: Any
    L: Any
    U: Any


@dataclass(frozen=True)
class LU(Rule):
    """A = P L U; the permutation is that of the value."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        jet = args[0]
        if not kwargs.get("pivot", True):
            return NotImplemented
        p, l0, u0 = torch.linalg.lu(jet.primal)
        permuted = [None, *(None if b is None else p.mT @ b for b in full(jet))]
        lower, upper = matrices.lu(jet.algebra, l0, u0, permuted, XP)
        return FactorsLU(p, jet.like(l0, lower[1:]), jet.like(u0, upper[1:]))


class Compact(NamedTuple):
    """What torch.linalg.lu_factor returns."""

    LU: Any
    pivots: Any


@dataclass(frozen=True)
class LUFactor(Rule):
    """The factors of A = P L U in one, L + U − 1 where they are square, and the pivots."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        jet = args[0]
        if not kwargs.get("pivot", True):
            return NotImplemented
        _, lower, upper = torch.linalg.lu(jet)
        factors, pivots = torch.linalg.lu_factor(jet.primal)
        n, k = factors.shape[-2:]
        left = F.pad(lower, (0, k - lower.shape[-1]))
        right = F.pad(upper, (0, 0, 0, n - upper.shape[-2]))
        both = left + right  # the ones on L's diagonal are constant
        return Compact(jet.like(factors, both.blocks), pivots)
