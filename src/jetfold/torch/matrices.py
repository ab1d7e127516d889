"""Rules of linear algebra: systems, inverses and determinants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..core.arrays import Block
from ..core.jet import add, nilpotent_product, solve_by_degrees
from . import arrays as XP
from .arguments import elements, first_jet, full, make, second
from .decompositions import SignLogabsdet
from .products import Matrices
from .rules import Function, Rule


def _solve(algebra: Any, a: Sequence[Block], b: Sequence[Block], inverse: Any) -> list[Block]:
    """All degrees of Y with Â Ŷ = B̂, from A_0⁻¹."""

    def solve(right: Any) -> Any:
        return inverse @ right

    return solve_by_degrees(algebra, a, b, solve, solve, Matrices, XP)


@dataclass(frozen=True)
class Inverse(Rule):
    """A⁻¹: the solution of A Y = 1."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        (jet,), order = args, args[0].algebra.order
        a0 = torch.linalg.inv(jet.primal)
        one = XP.eye(jet.primal.shape[-1], jet.primal)
        y = _solve(jet.algebra, [None, *full(jet)], [one] + [None] * order, a0)
        return make(jet, a0, y[1:])


@dataclass(frozen=True)
class Solve(Rule):
    """A⁻¹ B, or B A⁻¹ for left=False; B is a vector where torch.linalg.solve takes it for one."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        a, b = args[0], second(args, kwargs, "B")
        if not kwargs.get("left", True):
            return torch.linalg.solve(a.mT, b.mT).mT
        if b.ndim == 1 or (a.ndim - 1 == b.ndim and tuple(a.shape[:-1]) == tuple(b.shape)):
            return torch.linalg.solve(a, b.unsqueeze(-1)).squeeze(-1)
        while a.ndim < b.ndim:
            a = a.unsqueeze(0)
        while b.ndim < a.ndim:
            b = b.unsqueeze(0)
        jet = first_jet(level, (a, b), {})
        left, right = (elements(level, x, jet.algebra.order) for x in (a, b))
        y = _solve(jet.algebra, left, right, torch.linalg.inv(left[0]))
        return make(jet, torch.linalg.solve(left[0], right[0]), y[1:])


class TraceOfProduct:
    """tr(u v)."""

    @staticmethod
    def one(u: Any, v: Any) -> Any:
        return (u * v.transpose(-2, -1)).sum((-2, -1))

    value_block = block_value = blocks = one

    @staticmethod
    def contract(u: Any, v: Any) -> Any:
        """Σ_a tr(u[a] v[a])."""
        return (u * v.transpose(-2, -1)).sum((0, -2, -1))


def _log_det(jet: Any) -> list[Block]:
    """The blocks of log det A = log det A_0 + Σ_k (−1)^{k+1}/k tr (A_0⁻¹N)^k."""
    algebra = jet.algebra
    a0 = torch.linalg.inv(jet.primal)
    e = [None, *(None if b is None else a0 @ b for b in full(jet))]
    out = [None if b is None else b.diagonal(0, -2, -1).sum(-1) for b in e]
    power = e
    for k in range(2, algebra.order + 1):
        traces = nilpotent_product(algebra, power, e[:], TraceOfProduct, XP)
        for m in range(k, algebra.order + 1):
            if traces[m] is not None:
                out[m] = add(out[m], traces[m] * ((-1) ** (k + 1) / k))
        if k < algebra.order:
            power = nilpotent_product(algebra, power, e[:], Matrices, XP)
    return out[1:]


@dataclass(frozen=True)
class SignLogDet(Rule):
    """The sign (the phase, of a complex matrix) and the logarithm of the modulus of det A."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        jet = args[0]
        sign, modulus = torch.linalg.slogdet(jet.primal)
        blocks = _log_det(jet)
        if not sign.is_complex():
            return SignLogabsdet(make(jet, sign, [None] * len(blocks)), make(jet, modulus, blocks))
        log = make(jet, torch.zeros_like(sign), blocks)
        return SignLogabsdet(torch.exp(1j * log.imag) * sign, log.real + modulus)


@dataclass(frozen=True)
class Det(Rule):
    """det A: the polynomial up to 3 × 3, which knows no singular matrix; beyond, exp log det A."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        jet = args[0]
        n = jet.primal.shape[-1]
        if n in (1, 2, 3):
            entry = [[jet[..., i, j] for j in range(n)] for i in range(n)]
            return _cofactors(entry)
        out = torch.exp(make(jet, torch.zeros_like(jet.primal[..., 0, 0]), _log_det(jet)))
        return out * torch.linalg.det(jet.primal)


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
