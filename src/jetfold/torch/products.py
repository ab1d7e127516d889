"""Rules of products and contractions: what is linear in each of two operands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..core import jet as core
from ..core.arithmetic import RowByRow
from ..core.jet import product
from ..core.matrices import MatrixProduct
from . import arrays as XP
from .arguments import (
    call,
    elements,
    full,
    full_along,
    is_jet,
    named,
    second,
)
from .decompositions.products import equation_from_sublists, explicit_equation, unused_letter
from .rules import Function, Rule

# ------------------------------------------------------------------ bilinear maps


class Contraction:
    """torch.einsum of two operands; a letter of its own stands for the leading axis."""

    def __init__(self, left: str, right: str, out: str) -> None:
        a = unused_letter(left + right + out)
        self.of_values = f"{left},{right}->{out}"
        self.of_right = f"{left},{a}{right}->{a}{out}"
        self.of_left = f"{a}{left},{right}->{a}{out}"
        self.of_both = f"{a}{left},{a}{right}->{a}{out}"
        self.summed = f"{a}{left},{a}{right}->{out}"

    def one(self, u: Any, v: Any) -> Any:
        return torch.einsum(self.of_values, u, v)

    def value_block(self, u: Any, v: Any) -> Any:
        return torch.einsum(self.of_right, u, v)

    def block_value(self, u: Any, v: Any) -> Any:
        return torch.einsum(self.of_left, u, v)

    def blocks(self, u: Any, v: Any) -> Any:
        return torch.einsum(self.of_both, u, v)

    def contract(self, u: Any, v: Any) -> Any:
        return torch.einsum(self.summed, u, v)


def bilinear_product(level: int, kind: core.Bilinear, u: Any, v: Any) -> Any:
    """B(û, v̂) of two jets, or of a jet and a constant; blocks in full, for maps other than `*`."""
    jet = u if is_jet(level, u) else v
    order = jet.algebra.order
    out = product(jet.algebra, elements(level, u, order), elements(level, v, order), kind, XP)
    return jet.like(out[0], out[1:])


def contracted(
    level: int, kind: core.Bilinear, u: Any, v: Any, left: Sequence[int], right: Sequence[int]
) -> Any:
    """B(û, v̂) of a map that sums over the axes `left` of u and `right` of v.

    Of the product with a constant, coefficients keep their axes of length one, but for these.
    """
    if is_jet(level, u) and is_jet(level, v):
        return bilinear_product(level, kind, u, v)
    if is_jet(level, u):
        blocks = [None if b is None else kind.block_value(b, v) for b in full_along(u, left)]
        return u.like(kind.one(u.primal, v), blocks)
    blocks = [None if b is None else kind.value_block(u, b) for b in full_along(v, right)]
    return v.like(kind.one(u, v.primal), blocks)


# ------------------------------------------------------------------ rules


@dataclass(frozen=True)
class Bilinear(Rule):
    """A function that is linear in each of its two arguments, by rows."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        kind = RowByRow(lambda u, v: call(func, u, v), XP)
        return bilinear_product(level, kind, args[0], second(args, kwargs))


@dataclass(frozen=True)
class StackedMatmul(Rule):
    """matmul of operands with two axes or more, and as many as each other."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        return contracted(
            level, MatrixProduct(XP), args[0], second(args, kwargs, "mat2"), (-1,), (-2,)
        )


@dataclass(frozen=True)
class SparseProduct(Rule):
    """S X of a constant sparse matrix: the coefficients are further columns of X."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        s, x = args[0], second(args, kwargs, "mat2")
        if is_jet(level, s) or s.layout == torch.strided:
            return torch.matmul(s, x)

        def of_block(b: Any) -> Any:
            columns = b.movedim(0, -1).reshape(b.shape[1], -1)
            return call(func, s, columns).reshape(-1, b.shape[2], b.shape[0]).movedim(-1, 0)

        blocks = [None if b is None else of_block(b) for b in full(x)]
        return x.like(call(func, s, x.primal), blocks)


@dataclass(frozen=True)
class Einsum(Rule):
    """Contractions of any number of operands, two at a time."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        if isinstance(args[0], str):
            equation, operands = args[0], list(args[1:])
            if len(operands) == 1 and isinstance(operands[0], (list, tuple)):
                operands = list(operands[0])
        else:
            equation, operands = equation_from_sublists(args)
        inputs, out = explicit_equation(equation, operands)
        while len(operands) > 2:
            rest = set("".join(inputs[2:]) + out)
            middle = "".join(dict.fromkeys(c for c in inputs[0] + inputs[1] if c in rest))
            merged = torch.einsum(f"{inputs[0]},{inputs[1]}->{middle}", operands[0], operands[1])
            operands, inputs = [merged, *operands[2:]], [middle, *inputs[2:]]
        if not any(is_jet(level, x) for x in operands):
            return torch.einsum(f"{','.join(inputs)}->{out}", *operands)
        if len(operands) == 2:
            summed = [_summed(letters, out) for letters in inputs]
            return contracted(level, Contraction(inputs[0], inputs[1], out), *operands, *summed)
        (jet,), (letters,) = operands, inputs
        a = unused_letter(letters + out)
        lifted = f"{a}{letters}->{a}{out}"
        blocks = [None if b is None else torch.einsum(lifted, b) for b in full(jet)]
        return jet.like(torch.einsum(f"{letters}->{out}", jet.primal), blocks)


def _summed(letters: str, out: str) -> list[int]:
    """The axes that a contraction sums over, or takes a diagonal of."""
    return [k for k, x in enumerate(letters) if x not in out or letters.count(x) > 1]


@dataclass(frozen=True)
class Affine(Rule):
    """func(x, weight, bias, …), with jets anywhere: bilinear in x and weight, bias added."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        given, rest, options = named(("input", "weight", "bias"), args, kwargs)
        x, weight, bias = given["input"], given["weight"], given.get("bias")
        if is_jet(level, x) and not is_jet(level, weight) and not is_jet(level, bias):
            primal = call(func, x.primal, weight, bias, *rest, **options)
            return x.like(primal, self.of_blocks(func, x, weight, rest, options))

        def apply(x: Any, weight: Any) -> Any:
            return call(func, x, weight, None, *rest, **options)

        if is_jet(level, x) or is_jet(level, weight):
            out = bilinear_product(level, RowByRow(apply, XP), x, weight)
        else:
            out = apply(x, weight)
        return out if bias is None else out + self.aligned(bias, weight)

    def of_blocks(self, func: Function, x: Any, weight: Any, rest: Any, options: Any) -> Any:
        """The blocks of a product with a constant weight. F.linear acts on the last axis alone."""
        return [None if b is None else func(b, weight) for b in full_along(x, (-1,))]

    def aligned(self, bias: Any, weight: Any) -> Any:
        """The bias as it is added."""
        return bias


@dataclass(frozen=True)
class Convolution(Affine):
    """Convolutions: a block's leading axis joins the batch axis, or serves as one."""

    def of_blocks(self, func: Function, x: Any, weight: Any, rest: Any, options: Any) -> Any:
        batched = x.primal.ndim == weight.ndim
        blocks = []
        for b in full(x):
            if b is not None:
                rows = b.flatten(0, 1) if batched else b
                out = call(func, rows, weight, None, *rest, **options)
                b = out.reshape((*b.shape[:2], *out.shape[1:])) if batched else out
            blocks.append(b)
        return blocks

    def aligned(self, bias: Any, weight: Any) -> Any:
        """Channels come before the spatial axes."""
        return bias.reshape((-1,) + (1,) * (weight.ndim - 2))
