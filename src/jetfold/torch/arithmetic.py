"""Rules of arithmetic: sums, products, quotients and powers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from ..core import towers
from ..core.arrays import Block
from ..core.jet import Elementwise, product
from . import arrays as XP
from .arguments import blocks_for, call, is_jet, make, second, values
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
        jet, plus = u if is_jet(level, u) else v, self.sign > 0
        left, right = values(level, u), values(level, v)
        primal = left + right if plus else left - right
        blocks: list[Block] = []
        for a, b in zip(
            blocks_for(level, u, jet.algebra.order, primal),
            blocks_for(level, v, jet.algebra.order, primal),
            strict=True,
        ):
            if b is None:
                blocks.append(a)
            elif a is None:
                blocks.append(b if plus else -b)
            else:
                blocks.append(a + b if plus else a - b)
        return make(jet, primal, blocks)


@dataclass(frozen=True)
class Product(Rule):
    """The elementwise product."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        u, v = args[0], second(args, kwargs)
        if is_jet(level, u) and is_jet(level, v):
            left, right = u.primal, v.primal
            kind = Elementwise(XP, max(left.ndim, right.ndim))
            if left.dtype == right.dtype:
                out = product(u.algebra, (left, *u.blocks), (right, *v.blocks), kind, XP)
            else:
                primal, order = left * right, u.algebra.order
                a, b = (blocks_for(level, x, order, primal) for x in (u, v))
                out = [primal, *product(u.algebra, (left, *a), (right, *b), kind, XP)[1:]]
            return make(u, out[0], out[1:])
        jet, c = (u, v) if is_jet(level, u) else (v, u)
        primal = jet.primal * c
        blocks = blocks_for(level, jet, jet.algebra.order, primal)
        return make(jet, primal, [None if b is None else b * c for b in blocks])


@dataclass(frozen=True)
class Quotient(Rule):
    """u / v; by a constant it is linear, otherwise the product with the reciprocal."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        u, v = args[0], second(args, kwargs)
        if kwargs.get("rounding_mode") is not None:
            return Constant()(level, func, args, kwargs)
        if is_jet(level, v):
            return u * torch.reciprocal(v)
        primal = u.primal / v
        blocks = blocks_for(level, u, u.algebra.order, primal)
        return make(u, primal, [None if b is None else b / v for b in blocks])


@dataclass(frozen=True)
class Power(Rule):
    """x ** y: a tower in the base, or in the exponent; exp(y log x) where both are jets."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        x, exponent = args[0], second(args, kwargs, "exponent")
        if is_jet(level, exponent):
            if is_jet(level, x):
                out = torch.exp(exponent * torch.log(x))
                return make(out, torch.pow(x.primal, exponent.primal), out.blocks)
            return _exponential(level, x, exponent)
        exponent = exponent.item() if isinstance(exponent, np.generic) else exponent
        y = call(func, x.primal, exponent)
        if isinstance(exponent, (int, float, complex)):
            return apply_tower(x, y, partial(towers.power, exponent=exponent))
        aligned = make(x, x.primal, blocks_for(level, x, x.algebra.order, y))
        return apply_tower(aligned, y, partial(towers.power_of_array, exponent=exponent))


def _exponential(level: int, base: Any, exponent: Any) -> Any:
    """c^y of a constant base."""
    y = torch.pow(base, exponent.primal)
    if isinstance(base, np.generic):
        base = base.item()
    if not is_tensor(base):
        return apply_tower(exponent, y, partial(towers.exponential, base=base))
    aligned = make(
        exponent, exponent.primal, blocks_for(level, exponent, exponent.algebra.order, y)
    )
    return apply_tower(aligned, y, partial(towers.exponential_of_array, base=base))


@dataclass(frozen=True)
class Polygamma(Rule):
    """The n-th derivative of digamma: torch.polygamma(n, x) and x.polygamma(n)."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        x, n = args[0], second(args, kwargs, "n")
        x, n = (n, x) if is_jet(level, n) else (x, n)
        y = torch.polygamma(n, x.primal)
        return apply_tower(x, y, partial(towers.polygamma, n=n))
