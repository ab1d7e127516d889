"""Forward mode over jets, and the dual numbers of torch.autograd.forward_ad inside of a function.

A dual number of jets is a jet of dual numbers: the derivative along û̇ is linear in û̇ over the
algebra, so its coefficients are the derivatives of the coefficients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from .arguments import call, first_jet, is_jet
from .rules import Function, Rule


def alike(like: Any, x: Any, v: Any) -> tuple[Any, Any]:
    """A point and a tangent as jets with the same blocks, of the same shapes."""
    none = [None] * like.algebra.order
    x, v = (y if is_jet(like.level, y) else like.like(y, none) for y in (x, v))
    pairs = []
    for a, b in zip(x.blocks, v.blocks, strict=True):
        if a is not None and b is not None:
            shape = torch.broadcast_shapes(a.shape, b.shape)
            pairs.append((a.expand(shape), b.expand(shape)))
        else:
            some = b if a is None else a
            empty = None if some is None else torch.zeros_like(some)
            pairs.append((empty if a is None else a, empty if b is None else b))
    return x.like(x.primal, [a for a, _ in pairs]), v.like(v.primal, [b for _, b in pairs])


def settled(x: Any) -> Any:
    """A tensor that was expanded, as one with memory of its own: tangents take its strides."""
    repeated = any(s == 0 and n > 1 for s, n in zip(x.stride(), x.shape, strict=True))
    return x.clone(memory_format=torch.contiguous_format) if repeated else x


# ------------------------------------------------------------------ rules


@dataclass(frozen=True)
class MakeDual(Rule):
    """What make_dual(x, tangent) comes down to."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        x, v = alike(first_jet(level, args, kwargs), *args)
        blocks = [
            None if a is None else call(func, settled(a), b, **kwargs)
            for a, b in zip(x.blocks, v.blocks, strict=True)
        ]
        return x.like(call(func, settled(x.primal), v.primal, **kwargs), blocks)


@dataclass(frozen=True)
class UnpackDual(Rule):
    """What unpack_dual(x) comes down to: the primal, and the tangent if there is one."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        (jet,) = args
        parts = [jet.primal, *jet.blocks]
        pairs = [(None, None) if x is None else call(func, x, **kwargs) for x in parts]
        primals, tangents = zip(*pairs, strict=True)
        if all(v is None for v in tangents):
            return jet.like(primals[0], primals[1:]), None
        value = torch.zeros_like(primals[0]) if tangents[0] is None else tangents[0]
        return jet.like(primals[0], primals[1:]), jet.like(value, tangents[1:])
