"""Rules of products and contractions: what is linear in each of two operands."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ..core import jet as core
from ..core import matrices as core_matrices
from ..core.arithmetic import RowByRow
from ..core.arrays import Block
from ..core.jet import product
from ..core.structure import Named, Structured, dense, one_sided
from . import arrays as XP
from . import fused, traced
from .arguments import call, full, full_along, is_jet, named, second, whole
from .decompositions.products import equation_from_sublists, explicit_equation, unused_letter
from .rules import Decomposed, Function, Rule

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
        self.letters = (left, right, out)

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

    def named(self) -> Named | None:
        """The letters are the names of the axes; None where one operand has a letter twice."""
        left, right, out = self.letters
        if len(set(left)) < len(left) or len(set(right)) < len(right):
            return None
        return _named(self, left, right, out)


def _named(kind: Any, left: str, right: str, out: str) -> Named:
    """A map that is the contraction of these letters."""

    def keeping(name: str) -> Contraction:
        return Contraction(left, right, name + out)

    def sharing(name: str, to_right: bool) -> Named:
        both = (left, name + right) if to_right else (name + left, right)
        return _named(Contraction(*both, out), *both, out)

    return Named(kind, left, right, out, keeping, sharing)


class MatrixProduct(core_matrices.MatrixProduct):
    """The product of matrices with the names of its axes, of which there are `ndim`."""

    def __init__(self, ndim: int) -> None:
        super().__init__(XP)
        self.ndim = ndim

    def named(self) -> Named:
        """The axes of a batch, rows and columns."""
        return _named(self, *contraction_of_matrices(self.ndim).letters)


def contraction_of_matrices(ndim: int) -> Contraction:
    """The product of matrices, behind ndim − 2 axes of a batch."""
    batch = LETTERS[: ndim - 2]
    return Contraction(f"{batch}XY", f"{batch}YZ", f"{batch}XZ")


LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUV"
"""What names the axes of a batch."""


def bilinear_product(level: int, kind: core.Bilinear, u: Any, v: Any) -> Any:
    """B(û, v̂) of two jets, or of a jet and a constant; blocks in full, for maps other than `*`."""
    jet = u if is_jet(level, u) else v
    nothing = [None] * jet.algebra.order
    left, right = ([x.primal, *whole(x)] if is_jet(level, x) else [x, *nothing] for x in (u, v))
    primal, *blocks = product(jet.algebra, left, right, kind, XP)
    return jet.like(primal, [_in_dtype(b, primal.dtype) for b in blocks])


def _in_dtype(block: Block, dtype: Any) -> Block:
    """A structured block in the dtype of the value, which autocast may have chosen for one of the
    products that make its parts."""
    if type(block) is not Structured:
        return block
    return block.map(lambda part: part if part.dtype == dtype else part.to(dtype))


def by_constant(
    jet: Any,
    dtype: Any,
    kind: Callable[[], Any],
    constant: Any,
    act: Callable[[Any], Any],
    axes: Sequence[int],
    right: bool = False,
) -> list[Block]:
    """The blocks of B(û, v) of a constant v, or of B(u, v̂) for right=True.

    Args:
        dtype: of the value.
        kind: makes the bilinear map, where blocks have structure.
        act: what it is for rows; these keep their axes of length one, but for `axes`.
    """
    shape, found = jet.primal.shape, []
    for b in jet.stored:
        if type(b) is Structured:
            b = _structured_by_constant(b, kind(), constant, act, (shape, axes), right)
            b = _in_dtype(b, dtype) if type(b) is Structured else b.to(dtype)
        elif b is not None:
            b = act(full_along(shape, b, axes))
        found.append(b)
    return found


def _structured_by_constant(
    block: Structured, kind: Any, constant: Any, act: Callable[[Any], Any], along: Any, right: bool
) -> Block:
    shape, axes = along

    def of_rows(of: Any, rows: Any) -> Any:
        rows = full_along(shape, rows, axes)
        if of is kind:
            return act(rows)
        return of.value_block(constant, rows) if right else of.block_value(rows, constant)

    named = core.named_of(kind)
    if named is None:
        return of_rows(kind, dense(block))
    return one_sided(XP, named, block, of_rows, right=right)


def contracted(
    level: int, kind: core.Bilinear, u: Any, v: Any, left: Sequence[int], right: Sequence[int]
) -> Any:
    """B(û, v̂) of a map that sums over the axes `left` of u and `right` of v.

    Of the product with a constant, coefficients keep their axes of length one, but for these.
    """
    if is_jet(level, u) and is_jet(level, v):
        return bilinear_product(level, kind, u, v)
    if is_jet(level, u):
        y = kind.one(u.primal, v)
        return u.like(
            y,
            by_constant(u, y.dtype, lambda: kind, v, lambda b: kind.block_value(b, v), left),
        )
    y = kind.one(u, v.primal)
    return v.like(
        y,
        by_constant(v, y.dtype, lambda: kind, u, lambda b: kind.value_block(u, b), right, True),
    )


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
        u, v = args[0], second(args, kwargs, "mat2")
        return contracted(level, MatrixProduct(u.ndim), u, v, (-1,), (-2,))


@dataclass(frozen=True, init=False)
class Matmul(Decomposed):
    """matmul of any operands; a constant matrix on the right needs no axes beside its two."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        u, v = args[0], second(args, kwargs, "mat2" if "mat2" in kwargs else "other")
        constant = is_jet(level, u) and not isinstance(v, core.Jet)
        whole = constant and (u.ndim == 2 or not any([type(b) is Structured for b in u.stored]))
        if whole and v.ndim == 2 and u.ndim >= 2 and v.layout == torch.strided:
            return contracted(level, MatrixProduct(u.ndim), u, v, (-1,), (-2,))
        return super().__call__(level, func, args, kwargs)


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
        return jet.like(torch.einsum(f"{letters}->{out}", jet.primal), _of_one(jet, letters, out))


def _of_one(jet: Any, letters: str, out: str) -> list[Block]:
    """The blocks of an einsum of one operand."""
    a, shape = unused_letter(letters + out), jet.primal.shape

    def act(spec: str, rows: Any) -> Any:
        return torch.einsum(spec, rows.expand((rows.shape[0], *shape)))

    spec = f"{a}{letters}->{a}{out}"
    named = Named(spec, letters, "", out, lambda name: f"{a}{letters}->{a}{name}{out}")
    found = []
    for b in jet.stored:
        if type(b) is Structured:
            if len(set(letters)) < len(letters):
                b = act(spec, dense(b))
            else:
                b = one_sided(XP, named, b, act, right=False)
        elif b is not None:
            b = act(spec, b)
        found.append(b)
    return found


def _summed(letters: str, out: str) -> list[int]:
    """The axes that a contraction sums over, or takes a diagonal of."""
    return [k for k, x in enumerate(letters) if x not in out or letters.count(x) > 1]


@dataclass(frozen=True)
class Affine(Rule):
    """func(x, weight, bias, …), with jets anywhere: bilinear in x and weight, bias added."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        if len(args) == 3 and not kwargs:  # as modules call it
            (x, weight, bias), rest, options = args, (), kwargs
        else:
            given, rest, options = named(("input", "weight", "bias"), args, kwargs)
            x, weight, bias = given["input"], given["weight"], given.get("bias")
        if is_jet(level, x) and not is_jet(level, weight) and not is_jet(level, bias):
            if func is F.linear and torch.compiler.is_dynamo_compiling():
                waiting = traced.affine(x, weight, bias)
                if waiting is not None:
                    return x.awaiting(waiting)
            elif func is F.linear:
                made = fused.affine(x, weight, bias)
                if made is not None:
                    return x.holding(made)
            primal = call(func, x.primal, weight, bias, *rest, **options)
            return x.like(primal, self.of_blocks(func, x, primal, weight, rest, options))

        def apply(x: Any, weight: Any) -> Any:
            return call(func, x, weight, None, *rest, **options)

        if is_jet(level, x) or is_jet(level, weight):
            out = bilinear_product(level, RowByRow(apply, XP), x, weight)
        else:
            out = apply(x, weight)
        return out if bias is None else out + self.aligned(bias, weight)

    def of_blocks(
        self, func: Function, x: Any, primal: Any, weight: Any, rest: Any, options: Any
    ) -> Any:
        """The blocks of a product with a constant weight. F.linear acts on the last axis alone."""

        def kind() -> Contraction:
            batch, new = LETTERS[: x.ndim - 1], "Z"[: weight.ndim - 1]
            return Contraction(f"{batch}Y", f"{new}Y", f"{batch}{new}")

        return by_constant(x, primal.dtype, kind, weight, lambda rows: func(rows, weight), (-1,))

    def aligned(self, bias: Any, weight: Any) -> Any:
        """The bias as it is added."""
        return bias


@dataclass(frozen=True)
class Convolution(Affine):
    """Convolutions: a block's leading axis joins the batch axis, or serves as one."""

    def of_blocks(
        self, func: Function, x: Any, primal: Any, weight: Any, rest: Any, options: Any
    ) -> Any:
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
