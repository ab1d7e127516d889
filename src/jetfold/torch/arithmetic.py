"""Rules of arithmetic: the formulas of `core.arithmetic`, with PyTorch's promotion of dtypes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from ..core import towers
from ..core.arithmetic import minus, over, plus, power, times
from . import arrays as XP
from .arguments import call, coefficients, is_jet, promoted, second, values
from .lifts import is_tensor
from .rules import Constant, Function, Rule, apply_tower


@dataclass(frozen=True)
class Sum(Rule):
    """u ± alpha·v."""

    sign: int

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        u, v = args[0], args[-1] if len(args) > 1 else kwargs["other"]
        alpha = args[1] if len(args) > 2 else kwargs.get("alpha", 1)  # torch.add(u, alpha, v), too
        if alpha != 1:
            v = v * alpha
        jet = u if is_jet(level, u) else v
        left, right = values(level, u), values(level, v)
        y = left + right if self.sign > 0 else left - right
        order = jet.algebra.order
        a, b = coefficients(level, u, order, y.dtype), coefficients(level, v, order, y.dtype)
        return jet.like(y, (plus if self.sign > 0 else minus)(a, b, y, XP)[1:])


@dataclass(frozen=True)
class Product(Rule):
    """The elementwise product."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        u, v = args[0], second(args, kwargs)
        jet = u if is_jet(level, u) else v
        dtype = None
        if is_tensor(u) and is_tensor(v) and u.dtype != v.dtype:
            # Rows would not be promoted as values are.
            dtype = promoted(u.dtype, u.ndim == 0, v.dtype, v.ndim == 0)
        order = jet.algebra.order
        a, b = coefficients(level, u, order, dtype), coefficients(level, v, order, dtype)
        out = times(jet.algebra, a, b, XP)
        return jet.like(out[0], out[1:])


@dataclass(frozen=True)
class Quotient(Rule):
    """u / v."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        u, v = args[0], second(args, kwargs)
        if kwargs.get("rounding_mode") is not None:
            return Constant()(level, func, args, kwargs)
        jet = u if is_jet(level, u) else v
        y = values(level, u) / values(level, v)
        order = jet.algebra.order
        a, b = coefficients(level, u, order, y.dtype), coefficients(level, v, order, y.dtype)
        return jet.like(y, over(jet.algebra, a, b, y, XP)[1:])


@dataclass(frozen=True)
class Power(Rule):
    """x ** y: a tower in the base, or in the exponent; exp(y log x) where both are jets."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        u, p = (
            x.item() if isinstance(x, np.generic) else x
            for x in (args[0], second(args, kwargs, "exponent"))
        )
        jet = u if is_jet(level, u) else p
        y = torch.pow(values(level, u), values(level, p))
        order = jet.algebra.order
        a, b = coefficients(level, u, order, y.dtype), coefficients(level, p, order, y.dtype)
        return jet.like(y, power(jet.algebra, a, b, y, XP)[1:])


@dataclass(frozen=True)
class Polygamma(Rule):
    """The n-th derivative of digamma: torch.polygamma(n, x) and x.polygamma(n)."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        x, n = args[0], second(args, kwargs, "n")
        x, n = (n, x) if is_jet(level, n) else (x, n)
        y = torch.polygamma(n, x.primal)
        return apply_tower(x, y, partial(towers.polygamma, n=n))


@dataclass(frozen=True)
class IncompleteGamma(Rule):
    """P(a, x) or Q(a, x) as functions of x.

    Attributes:
        tower: that of the function.
    """

    tower: Any

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        a, x = args[0], second(args, kwargs)
        if is_jet(level, a):
            raise NotImplementedError(
                f"{func.__name__}(a, x) has no derivative by a, in PyTorch as in jetfold; pass "
                "a.detach() if it is meant to be constant"
            )
        a, x = torch.broadcast_tensors(torch.as_tensor(a), x)
        return apply_tower(x, call(func, a, x.primal), partial(self.tower, a=a))


@dataclass(frozen=True)
class Zeta(Rule):
    """Hurwitz' ζ(s, q) as a function of q: t_k = (−1)^k s (s + 1) ⋯ (s + k − 1)/k! ζ(s + k, q)."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        s, q = args[0], second(args, kwargs)
        if is_jet(level, s):
            raise NotImplementedError(
                "torch.special.zeta(s, q) has no derivative by s, in PyTorch as in jetfold; pass "
                "s.detach() if it is meant to be constant"
            )
        s, q = torch.broadcast_tensors(torch.as_tensor(s), q)
        order, factor = q.algebra.order, torch.ones_like(s)
        tower = []
        for k in range(1, order + 1):
            factor = factor * (s + (k - 1)) * (-1 / k)
            tower.append(factor * call(func, s + k, q.primal))
        return apply_tower(q, call(func, s, q.primal), lambda *_: tower)
