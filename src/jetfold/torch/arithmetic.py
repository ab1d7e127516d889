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
from .arguments import coefficients, is_jet, second, values
from .lifts import is_tensor
from .rules import Constant, Function, Rule, apply_tower


@dataclass(frozen=True)
class Sum(Rule):
    """u ± alpha·v."""

    sign: int

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        u, v = args[0], second(args, kwargs)
        alpha = kwargs.get("alpha", 1)
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
            dtype = torch.result_type(u, v)  # rows would not be promoted as values are
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
