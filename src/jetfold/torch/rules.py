"""The kinds of rules by which PyTorch operations act on jets.

A rule takes (level, func, args, kwargs), where `func` is what the user called, in functional form,
and at least one argument is a jet of that level. Jets of lower levels are plain values to it.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from ..core import towers
from ..core.arrays import Block
from ..core.jet import (
    Elementwise,
    Jet,
    add,
    compose,
    nilpotent_product,
    product,
    solve_by_degrees,
)
from . import arrays as XP
from .decompositions import SignLogabsdet, equation_from_sublists, explicit_equation, unused_letter
from .lifts import explicit_index, index_past, is_tensor

Rule = Callable[[int, Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


# ------------------------------------------------------------------ looking at arguments


def call(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """func(*args): methods of torch.Tensor do not find by themselves that they meet a jet."""
    if args and isinstance(args[0], Jet):
        return args[0].__torch_function__(func, (), args, kwargs)  # type: ignore[attr-defined]
    return func(*args, **kwargs)


def is_jet(level: int, x: object) -> bool:
    """Whether x is a jet of this level."""
    return isinstance(x, Jet) and x.level == level


def values(level: int, tree: Any) -> Any:
    """The arguments with every jet of this level replaced by its value."""
    if isinstance(tree, Jet):
        return tree.primal if tree.level == level else tree
    if isinstance(tree, (tuple, list)):
        items = [values(level, item) for item in tree]
        return items if isinstance(tree, list) else tuple(items)
    if isinstance(tree, dict):
        return {key: values(level, item) for key, item in tree.items()}
    return tree


def first_jet(level: int, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Any jet of this level among the arguments (lists are searched too)."""
    for item in (*args, *kwargs.values()):
        if is_jet(level, item):
            return item
        if isinstance(item, (tuple, list)):
            found = first_jet(level, item, {})
            if found is not None:
                return found
    return None


def make(like: Any, primal: Any, blocks: Sequence[Block]) -> Any:
    """A jet of the same level and algebra."""
    return type(like)(like.algebra, like.level, primal, blocks)


def full(jet: Any, axes: Sequence[int] | None = None) -> list[Block]:
    """The blocks, broadcast to the shape of the value: along all of its axes, or along some."""
    shape = tuple(jet.primal.shape)
    kept = () if axes is None else set(range(len(shape))) - {k % len(shape) for k in axes}
    found: list[Block] = []
    for b in jet.blocks:
        if b is not None:
            rows = tuple(b.shape[1 + k] if k in kept else n for k, n in enumerate(shape))
            b = b if b.shape[1:] == rows else b.expand((b.shape[0], *rows))
        found.append(b)
    return found


def transpose(like: Any, primal: Any, blocks: Sequence[Any]) -> Any:
    """Jets from a value and blocks; an operation with several outputs gives a sequence of jets."""
    if isinstance(primal, (tuple, list)):
        jets = [
            transpose(like, p, [None if b is None else b[k] for b in blocks])
            for k, p in enumerate(primal)
        ]
        return type(primal)(jets) if type(primal) in (tuple, list) else tuple(jets)
    if is_tensor(primal) and (primal.is_floating_point() or primal.is_complex()):
        return make(like, primal, blocks)
    return primal


def rows(func: Callable[..., Any], *blocks: Any, fixed: Any = None) -> Any:
    """func of every row of some blocks, by vmap; row by row where jets take part in it.

    fixed: a further operand, that func holds.
    """
    if any(isinstance(operand, Jet) for operand in (*blocks, fixed)):
        results = [func(*[block[a] for block in blocks]) for a in range(blocks[0].shape[0])]
        if isinstance(results[0], (tuple, list)):
            return [torch.stack(parts) for parts in zip(*results, strict=True)]
        return torch.stack(results)
    return torch.func.vmap(func)(*blocks)


def blocks_for(level: int, x: Any, order: int, primal: Any) -> list[Block]:
    """The blocks of an operand with as many axes as a result, and in its dtype."""
    if not is_jet(level, x):
        return [None] * order
    blocks = []
    for b in x.blocks:
        if b is not None:
            b = XP.expand_dims(b, primal.ndim)
            b = b if b.dtype == primal.dtype else b.to(primal.dtype)
        blocks.append(b)
    return blocks


def second(args: tuple[Any, ...], kwargs: dict[str, Any], name: str = "other") -> Any:
    """The second argument, however it was given."""
    return args[1] if len(args) > 1 else kwargs[name]


def of_first(rule: Rule) -> Rule:
    """A rule for jets as the first argument; where another argument is one, its value serves.

    Such an argument tells a size, a position or a dtype, as in constant.expand_as(jet).
    """

    def checked(level: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        chosen = rule if is_jet(level, args[0]) else value
        return chosen(level, func, args, kwargs)

    return checked


# ------------------------------------------------------------------ elementwise


def elementwise(tower: Callable[..., list[Any]], **parameters: Any) -> Rule:
    """φ(x, *parameters) from its tower; the parameters are named in the order of the signature."""

    def rule(level: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        jet, *rest = args
        given = dict(zip(parameters, rest, strict=False)) | kwargs
        given = {k: v for k, v in given.items() if k not in ("inplace", "out")}
        y = call(func, jet.primal, **given)
        used = {k: given.get(k, default) for k, default in parameters.items() if k != "approximate"}
        return apply_tower(jet, y, partial(tower, **used))

    return rule


def apply_tower(jet: Any, y: Any, tower: Callable[..., list[Any]]) -> Any:
    """The jet of φ(x), from y = φ(u) and t_k = φ^{(k)}(u)/k!."""
    coefficients = tower(jet.primal, y, jet.algebra.order, XP)
    return make(jet, y, compose(jet, coefficients, y.ndim, XP))


# ------------------------------------------------------------------ linear


def linear(lift: Callable[..., Any] | None = None, lazy: bool = False) -> Rule:
    """A function that is linear in its first argument.

    Args:
        lift: what it is for a block, past the leading axis; without it, the function itself.
        lazy: it leaves axes of length one alone, so blocks need not be broadcast first.
    """

    def rule(level: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        jet, args, kwargs = split_off(level, args, kwargs)
        primal = call(func, jet.primal, *args, **kwargs)
        on_block = lift or partial(call, func)
        blocks = jet.blocks if lazy else full(jet)
        return transpose(
            jet, primal, [None if b is None else on_block(b, *args, **kwargs) for b in blocks]
        )

    return of_first(rule)


def along(lazy: bool = False, **dims: tuple[int, Any]) -> Rule:
    """A linear function with arguments that name axes: name=(position, default)."""

    def rule(level: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args[0].ndim == 0:  # an axis of a scalar, 0 or −1, names none of the block
            return mapped(level, func, args, kwargs)

        def lift(block: Any, *rest: Any, **options: Any) -> Any:
            shifted = list(rest)
            for name, (position, default) in dims.items():
                if len(rest) >= position:
                    shifted[position - 1] = shift(rest[position - 1])
                else:
                    options[name] = shift(options.get(name, default))
            return call(func, block, *shifted, **options)

        return linear(lift, lazy)(level, func, args, kwargs)

    return of_first(rule)


def shift(dim: Any) -> Any:
    """The same axis, or axes, of a value behind a leading axis."""
    if isinstance(dim, (tuple, list)):
        return type(dim)([shift(d) for d in dim])
    return dim + 1 if dim >= 0 else dim


@of_first
def mapped(level: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A function that is linear in its one jet argument, applied to every coefficient by vmap."""
    jet, args, kwargs = split_off(level, args, kwargs)
    primal = call(func, jet.primal, *args, **kwargs)
    blocks = [
        None if b is None else rows(lambda row: call(func, row, *args, **kwargs), b)
        for b in full(jet)
    ]
    return transpose(jet, primal, blocks)


@of_first
def converted(level: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A change of dtype, device or layout; where nothing changes it is the jet itself."""
    jet, args, kwargs = split_off(level, args, kwargs)
    primal = call(func, jet.primal, *args, **kwargs)
    if primal is jet.primal:
        return jet
    options = {k: v for k, v in kwargs.items() if k != "memory_format"}
    rest = [x for x in args if not isinstance(x, torch.memory_format)]
    if isinstance(primal, str):  # x.type()
        return primal
    blocks = [None if b is None else call(func, b, *rest, **options) for b in jet.blocks]
    return transpose(jet, primal, blocks)


def copied(level: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A copy of the value; blocks are never written to, so they need none."""
    return make(args[0], call(func, args[0].primal, *args[1:], **kwargs), args[0].blocks)


def split_off(
    level: int, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """The jet that is the first argument, and the rest, free of jets."""
    return args[0], values(level, args[1:]), values(level, kwargs)


def getitem(level: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """x[index]."""
    jet, index = args
    if not is_jet(level, jet):
        raise TypeError("a jet cannot be an index: only integers and masks can")
    if isinstance(index, list) and any(isinstance(entry, (list, tuple)) for entry in index):
        raise TypeError(
            "x[[[…], […]]] is a tuple of indices to some versions of PyTorch and one index tensor "
            "to others; write x[[…], […]] or x[torch.tensor([[…], […]])]"
        )
    shape = jet.primal.shape
    entries = explicit_index(index, len(shape))
    blocks = [None if b is None else index_past(b, entries, shape) for b in jet.blocks]
    return make(jet, jet.primal[index], blocks)


def jointly(signature: str, *others: str) -> Rule:
    """A function that is linear in its first argument and some others together, as scatter is.

    Args:
        signature: the names of the arguments behind the first, in order.
        others: those of them that the function is linear in.
    """
    names = ("input", *signature.split())

    def rule(level: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if kwargs.get("reduce") is not None:
            raise NotImplementedError(
                f"{func.__name__} with reduce={kwargs['reduce']!r} has no derivative rule; write "
                "it with torch.scatter_add, torch.gather and products"
            )
        jet = first_jet(level, args, kwargs)
        places: list[Any] = [k for k, n in enumerate(names[: len(args)]) if k == 0 or n in others]
        places += [name for name in kwargs if name in others]
        given = [args[p] if isinstance(p, int) else kwargs[p] for p in places]

        def apply(*operands: Any) -> Any:
            filled, options = list(args), dict(kwargs)
            for place, operand in zip(places, operands, strict=True):
                if isinstance(place, int):
                    filled[place] = operand
                else:
                    options[place] = operand
            return call(func, *filled, **options)

        primal = apply(*values(level, given))
        expanded = [full(x) if is_jet(level, x) else None for x in given]
        blocks: list[Block] = []
        for m in range(jet.algebra.order):
            if all(e is None or e[m] is None for e in expanded):
                blocks.append(None)
                continue
            size = jet.algebra.sizes[m + 1]
            numbers = [not is_tensor(x) for x in given]
            operands = [
                zeros(size, values(level, x), x.dtype) if e is None or e[m] is None else e[m]
                for x, e, number in zip(given, expanded, numbers, strict=True)
                if not number
            ]

            def of_rows(*operands: Any, numbers: list[bool] = numbers) -> Any:
                rest = iter(operands)
                return apply(*[0 if number else next(rest) for number in numbers])

            blocks.append(rows(of_rows, *operands))
        return make(jet, primal, blocks)

    return rule


def affine(level: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """func(x, weight, bias, …), with jets anywhere: bilinear in x and weight, bias added."""
    names = ("input", "weight", "bias")
    given = dict(zip(names, args, strict=False)) | {k: v for k, v in kwargs.items() if k in names}
    rest, options = args[3:], {k: v for k, v in kwargs.items() if k not in names}
    x, weight, bias = given["input"], given["weight"], given.get("bias")
    jet = x if is_jet(level, x) else weight

    def apply(x: Any, weight: Any) -> Any:
        return call(func, x, weight, None, *rest, **options)

    if is_jet(level, x) and not is_jet(level, weight) and not is_jet(level, bias):
        primal = call(func, x.primal, weight, bias, *rest, **options)
        if func is F.linear:  # acts on the last axis alone: blocks pass as they are
            return linear_in(x, primal, lambda b: F.linear(b, weight), (-1,))
        blocks = [
            None
            if b is None
            else _convolve_block(lambda b: apply(b, weight), b, x.primal.ndim == weight.ndim)
            for b in full(x)
        ]
        return make(x, primal, blocks)
    if is_jet(level, x) or is_jet(level, weight):
        out = bilinear_product(level, jet, RowByRow(apply), x, weight)
    else:
        out = apply(x, weight)
    if bias is not None:
        if func is not F.linear:  # channels come before the spatial axes
            bias = bias.reshape((-1,) + (1,) * (weight.ndim - 2))
        out = out + bias
    return out


def _convolve_block(func: Callable[[Any], Any], block: Any, batched: bool) -> Any:
    """A convolution of a block: the leading axis joins the batch axis, or serves as one."""
    if not batched:
        return func(block)
    merged = func(block.reshape((block.shape[0] * block.shape[1], *block.shape[2:])))
    return merged.reshape((block.shape[0], block.shape[1], *merged.shape[1:]))


def joined(default: int = 0) -> Rule:
    """cat and stack: linear in a sequence of values of which some are jets."""

    def rule(level: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        parts, dim = args[0], second(args, {"dim": default} | kwargs, "dim")
        jet = first_jet(level, parts, {})
        primal = func(values(level, parts), dim)
        if any(x.ndim != parts[0].ndim for x in parts):  # cat passes over tensors of shape (0,)
            parts = [x for x in parts if tuple(x.shape) != (0,)]
        expanded = [full(x) if is_jet(level, x) else [None] * jet.algebra.order for x in parts]
        blocks: list[Block] = []
        for m in range(jet.algebra.order):
            if all(e[m] is None for e in expanded):
                blocks.append(None)
                continue
            size = jet.algebra.sizes[m + 1]
            blocks.append(
                func(
                    [
                        zeros(size, values(level, x), primal.dtype) if e[m] is None else e[m]
                        for x, e in zip(parts, expanded, strict=True)
                    ],
                    shift(dim),
                )
            )
        return make(jet, primal, blocks)

    return rule


def zeros(size: int, value: Any, dtype: Any) -> Any:
    """A block of zeros for a value."""
    return torch.zeros((size, *value.shape), dtype=dtype, device=value.device)


@of_first
def total(level: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """sum and mean, over some axes or over all."""
    jet, args, kwargs = split_off(level, args, kwargs)
    primal = call(func, jet.primal, *args, **kwargs)
    given = dict(zip(("dim", "keepdim"), args, strict=False)) | kwargs
    dim = given.pop("dim", None)
    if isinstance(dim, torch.dtype):  # x.sum(dtype)
        given["dtype"], dim = dim, None
    if jet.primal.ndim == 0:
        return make(jet, primal, blocks_for(level, jet, len(jet.blocks), primal))
    if dim is None or (isinstance(dim, (tuple, list)) and not dim):
        dim = tuple(range(jet.primal.ndim))
    blocks = [None if b is None else call(func, b, shift(dim), **given) for b in full(jet)]
    return make(jet, primal, blocks)


# ------------------------------------------------------------------ bilinear


class RowByRow:
    """Any bilinear function, applied to the rows of blocks."""

    def __init__(self, func: Callable[[Any, Any], Any]) -> None:
        self.one = func

    def value_block(self, u: Any, v: Any) -> Any:
        return rows(lambda row: self.one(u, row), v, fixed=u)

    def block_value(self, u: Any, v: Any) -> Any:
        return rows(lambda row: self.one(row, v), u, fixed=v)

    def blocks(self, u: Any, v: Any) -> Any:
        return torch.stack([self.one(u[a], v[a]) for a in range(u.shape[0])])

    def contract(self, u: Any, v: Any) -> Any:
        return self.blocks(u, v).sum(0)


def matrix_product(u: Any, v: Any) -> Any:
    """torch.matmul; by one matrix for all it is one large product, not many small ones."""
    if v.ndim > 2 and all(n == 1 for n in v.shape[:-2]) and u.ndim >= v.ndim:
        v = v.reshape(v.shape[-2:])
    return torch.matmul(u, v)


class Matmul:
    """torch.matmul of operands that have two axes or more, and as many as each other."""

    one = staticmethod(matrix_product)
    value_block = staticmethod(matrix_product)
    block_value = staticmethod(matrix_product)
    blocks = staticmethod(matrix_product)

    @staticmethod
    def contract(u: Any, v: Any) -> Any:
        """Σ_a u[a] @ v[a] as one product over the axes (a, k)."""
        if u.ndim > 3 or v.ndim > 3:
            return torch.matmul(u, v).sum(0)
        left = u.movedim(0, 1).reshape(u.shape[1], -1)
        return left @ v.reshape(-1, v.shape[-1])


class Einsum:
    """torch.einsum of two operands; a letter of its own stands for the leading axis."""

    def __init__(self, left: str, right: str, out: str) -> None:
        self.left, self.right, self.out = left, right, out
        self.letter = unused_letter(left + right + out)

    def one(self, u: Any, v: Any) -> Any:
        return torch.einsum(f"{self.left},{self.right}->{self.out}", u, v)

    def value_block(self, u: Any, v: Any) -> Any:
        return torch.einsum(f"{self.left},{self.letter}{self.right}->{self.letter}{self.out}", u, v)

    def block_value(self, u: Any, v: Any) -> Any:
        return torch.einsum(f"{self.letter}{self.left},{self.right}->{self.letter}{self.out}", u, v)

    def blocks(self, u: Any, v: Any) -> Any:
        a = self.letter
        return torch.einsum(f"{a}{self.left},{a}{self.right}->{a}{self.out}", u, v)

    def contract(self, u: Any, v: Any) -> Any:
        a = self.letter
        return torch.einsum(f"{a}{self.left},{a}{self.right}->{self.out}", u, v)


def bilinear_product(level: int, jet: Any, kind: Any, u: Any, v: Any) -> Any:
    """B(û, v̂) of two jets, or of a jet and a constant; blocks in full, for maps other than `*`."""
    order = jet.algebra.order
    left = [u.primal, *full(u)] if is_jet(level, u) else [u] + [None] * order
    right = [v.primal, *full(v)] if is_jet(level, v) else [v] + [None] * order
    out = product(jet.algebra, left, right, kind, XP)
    return make(jet, out[0], out[1:])


def stacked_matmul(level: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """matmul of operands with two axes or more, and as many as each other."""
    u, v = args[0], second(args, kwargs, "mat2")
    if is_jet(level, u) and is_jet(level, v):
        return bilinear_product(level, u, Matmul, u, v)
    if is_jet(level, u):
        return linear_in(u, matrix_product(u.primal, v), lambda b: matrix_product(b, v), (-1,))
    return linear_in(v, matrix_product(u, v.primal), lambda b: matrix_product(u, b), (-2,))


def linear_in(
    jet: Any, primal: Any, on_block: Callable[[Any], Any], contracted: Sequence[int]
) -> Any:
    """A product with a constant: axes of length one stay, except those that are summed over."""
    blocks = full(jet, contracted)
    return make(jet, primal, [None if b is None else on_block(b) for b in blocks])


def einsum(level: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Contractions of any number of operands, two at a time."""
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
    if len(operands) == 2:
        if not any(is_jet(level, x) for x in operands):
            return torch.einsum(f"{inputs[0]},{inputs[1]}->{out}", *operands)
        u, v = operands
        kind = Einsum(inputs[0], inputs[1], out)
        if is_jet(level, u) and is_jet(level, v):
            return bilinear_product(level, u, kind, u, v)
        letters = inputs[0] if is_jet(level, u) else inputs[1]
        summed = [k for k, x in enumerate(letters) if x not in out or letters.count(x) > 1]
        if is_jet(level, u):
            return linear_in(u, kind.one(u.primal, v), lambda b: kind.block_value(b, v), summed)
        return linear_in(v, kind.one(u, v.primal), lambda b: kind.value_block(u, b), summed)
    (jet,) = operands
    letter = unused_letter(inputs[0] + out)
    primal = torch.einsum(f"{inputs[0]}->{out}", jet.primal)
    lifted = f"{letter}{inputs[0]}->{letter}{out}"
    return make(jet, primal, [None if b is None else torch.einsum(lifted, b) for b in full(jet)])


def bilinear(level: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A function that is bilinear in its two arguments, by rows."""
    u, v = args[0], second(args, kwargs)
    kind = RowByRow(lambda a, b: call(func, a, b))
    return bilinear_product(level, first_jet(level, (u, v), {}), kind, u, v)


def multiply(level: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The elementwise product."""
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
    blocks = blocks_for(level, jet, len(jet.blocks), primal)
    return make(jet, primal, [None if b is None else b * c for b in blocks])


def divide(level: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """u / v; by a constant it is linear, otherwise the product with the reciprocal."""
    u, v = args[0], second(args, kwargs)
    mode = kwargs.get("rounding_mode")
    if mode is not None:
        return constant(level, func, args, kwargs)
    if is_jet(level, v):
        return u * torch.reciprocal(v)
    primal = u.primal / v
    blocks = blocks_for(level, u, len(u.blocks), primal)
    return make(u, primal, [None if b is None else b / v for b in blocks])


def plus(sign: int) -> Rule:
    """u ± alpha·v."""

    def rule(level: int, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        u, v = args[0], second(args, kwargs)
        alpha = kwargs.get("alpha", 1)
        if alpha != 1:
            v = v * alpha
        jet = u if is_jet(level, u) else v
        left, right = values(level, u), values(level, v)
        primal = left + right if sign > 0 else left - right
        blocks: list[Block] = []
        for a, b in zip(
            blocks_for(level, u, len(jet.blocks), primal),
            blocks_for(level, v, len(jet.blocks), primal),
            strict=True,
        ):
            if b is None:
                blocks.append(a)
            elif a is None:
                blocks.append(b if sign > 0 else -b)
            else:
                blocks.append(a + b if sign > 0 else a - b)
        return make(jet, primal, blocks)

    return rule


def power(level: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """x ** y: a tower in the base, or in the exponent; exp(y log x) where both are jets."""
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


def polygamma(level: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The n-th derivative of digamma: torch.polygamma(n, x) and x.polygamma(n)."""
    x, n = args[0], second(args, kwargs, "n")
    x, n = (n, x) if is_jet(level, n) else (x, n)
    y = torch.polygamma(n, x.primal)
    return apply_tower(x, y, partial(towers.polygamma, n=n))


def reverse(func: Callable[..., Any]) -> Rule:
    """func with its two operands exchanged: __rsub__, __rtruediv__, …"""

    def rule(level: int, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(args[1], args[0], **kwargs)

    return rule


# ------------------------------------------------------------------ matrices


def _solve(algebra: Any, a: Sequence[Block], b: Sequence[Block], inverse: Any) -> list[Block]:
    """All degrees of Y with Â Ŷ = B̂, from A_0⁻¹."""

    def solve(right: Any) -> Any:
        return inverse @ right

    return solve_by_degrees(algebra, a, b, solve, solve, Matmul, XP)


def inverse(level: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A⁻¹: the solution of A Y = 1."""
    (jet,), order = args, args[0].algebra.order
    a0 = torch.linalg.inv(jet.primal)
    one = torch.eye(jet.primal.shape[-1], dtype=jet.primal.dtype, device=jet.primal.device)
    y = _solve(jet.algebra, [None, *full(jet)], [one] + [None] * order, a0)
    return make(jet, a0, y[1:])


def solve(level: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A⁻¹ B, or B A⁻¹ for left=False; B is a vector where torch.linalg.solve takes it for one."""
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
    left, right = (
        [x.primal, *full(x)] if is_jet(level, x) else [x] + [None] * jet.algebra.order
        for x in (a, b)
    )
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
            power = nilpotent_product(algebra, power, e[:], Matmul, XP)
    return out[1:]


def slogdet(level: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The sign (the phase, of a complex matrix) and the logarithm of the modulus of det A."""
    jet = args[0]
    sign, modulus = torch.linalg.slogdet(jet.primal)
    blocks = _log_det(jet)
    if not sign.is_complex():
        return SignLogabsdet(make(jet, sign, [None] * len(blocks)), make(jet, modulus, blocks))
    log = make(jet, torch.zeros_like(sign), blocks)
    return SignLogabsdet(torch.exp(1j * log.imag) * sign, log.real + modulus)


def det(level: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """det A: the polynomial up to 3 × 3, which knows no singular matrix; beyond, exp log det A."""
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


# ------------------------------------------------------------------ choosing between rules


def select(name: str, **cases: Rule) -> Rule:
    """A rule for each value of a keyword argument; the first is the default."""

    def rule(level: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        chosen = cases[kwargs.get(name, next(iter(cases)))]
        return chosen(level, func, args, kwargs)

    return rule


def by_dtype(real: Rule, complex_: Rule) -> Rule:
    """A rule for real and another for complex values."""

    def rule(level: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        jet = first_jet(level, args, kwargs)
        return (complex_ if jet.primal.is_complex() else real)(level, func, args, kwargs)

    return rule


# ------------------------------------------------------------------ selection and constants


class ValuesIndices(NamedTuple):
    """What max, sort and their like return along an axis."""

    values: Any
    indices: Any


def selection(*names: str) -> Rule:
    """func gives (values, indices) along an axis: the coefficients follow the indices.

    Args:
        names: of the arguments behind the input, in order.
    """

    def rule(level: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        jet = args[0]
        given = dict(zip(names, args[1:], strict=False)) | kwargs
        dim = given.get("dim", -1)
        primal, indices = call(func, jet.primal, *args[1:], **kwargs)
        if jet.primal.ndim == 0:
            return ValuesIndices(make(jet, primal, jet.blocks), indices)
        gone = indices.ndim < jet.primal.ndim
        kept = indices.unsqueeze(dim) if gone else indices
        blocks: list[Block] = []
        for b in full(jet):
            if b is not None:
                b = torch.take_along_dim(b, kept.unsqueeze(0), shift(dim))
                b = b.squeeze(shift(dim)) if gone else b
            blocks.append(b)
        return ValuesIndices(make(jet, primal, blocks), indices)

    return rule


_along_axis = selection("dim", "keepdim")


def chosen(level: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """max, min, median: along an axis (values and indices), or the one entry of all."""
    if len(args) > 1 or kwargs:
        return _along_axis(level, func, args, kwargs)
    flat = args[0].reshape(-1)
    return torch.index_select(flat, 0, call(func, flat.detach(), 0)[1].reshape(1)).squeeze(0)


def extreme(of_two: Callable[[Any, Any], Any]) -> Rule:
    """torch.max and torch.min: those two forms, and that of two tensors."""

    def rule(level: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        other = args[1] if len(args) > 1 else kwargs.get("other")
        if is_tensor(other):
            return of_two(args[0], other)
        return chosen(level, func, args, kwargs)

    return rule


def where(level: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """input where the condition holds, other elsewhere: the mask is constant."""
    if len(args) == 1 and not kwargs:
        return value(level, func, args, kwargs)  # the positions that are not zero
    given = dict(zip(("condition", "input", "other"), args, strict=False)) | kwargs
    condition, u, v = given["condition"], given.get("input", given.get("self")), given["other"]
    if "condition" in kwargs and len(args) == 1:  # x.where(condition=…, other=…)
        u = args[0]
    elif condition.dtype not in (torch.bool, torch.uint8):  # x.where(condition, other)
        condition, u = u, condition
    primal = torch.where(condition, values(level, u), values(level, v))
    jet: Any = u if is_jet(level, u) else v
    order = jet.algebra.order
    blocks: list[Block] = []
    for a, b in zip(
        blocks_for(level, u, order, primal), blocks_for(level, v, order, primal), strict=True
    ):
        if a is None and b is None:
            blocks.append(None)
        else:
            a, b = (0.0 if c is None else c for c in (a, b))
            blocks.append(torch.where(condition, a, b))
    return make(jet, primal, blocks)


def value(level: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operation that asks about the value: it gives a plain answer."""
    return call(func, *values(level, args), **values(level, kwargs))


def constant(level: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """zeros_like, floor, …: a jet without coefficients, so that jets can be written into it."""
    if func is torch.Tensor.new_tensor and first_jet(level, args[1:], kwargs) is not None:
        raise TypeError(
            "new_tensor copies numbers and would lose derivatives; use torch.stack or torch.cat"
        )
    out = call(func, *values(level, args), **values(level, kwargs))
    jet = first_jet(level, args, kwargs)
    if out.is_floating_point() or out.is_complex():
        return make(jet, out, [None] * jet.algebra.order)
    return out


def filled(level: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """full_like and new_full, whose entry may be a jet: it is added to zeros."""
    at = 2 if func is torch.Tensor.new_full else 1
    fill = args[at] if len(args) > at else kwargs["fill_value"]
    if not isinstance(fill, Jet):
        return constant(level, func, args, kwargs)
    if len(args) > at:
        args = (*args[:at], 0, *args[at + 1 :])
    else:
        kwargs = kwargs | {"fill_value": 0}
    blank = call(func, *values(level, args), **kwargs)
    return blank + fill.to(blank.dtype)  # type: ignore[attr-defined]


def identity(level: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The jet itself."""
    return args[0]


def refused(hint: str) -> Rule:
    """An operation that cannot act on jets."""

    def rule(level: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        raise TypeError(
            f"{func.__name__} was called on the argument of a function that jetfold "
            f"differentiates, where it cannot keep the derivatives; {hint}"
        )

    return rule


# ------------------------------------------------------------------ decompositions


def decomposed(func: Callable[..., Any], **names: str) -> Rule:
    """The operation written in other operations.

    Args:
        func: takes the arguments as the user gave them.
        names: keyword arguments that func calls otherwise: theirs=its.
    """

    def rule(level: int, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(*args, **{names.get(k, k): v for k, v in kwargs.items()})

    return rule


def body(func: Any) -> Rule:
    """A function that PyTorch wrote in Python: its own body, run on jets.

    Such functions first ask `has_torch_function` and hand over; with that answer fixed to no, the
    operations of the body meet the jets one by one.
    """
    scope = dict(func.__globals__)
    for name in ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"):
        scope[name] = _no
    copy = types.FunctionType(
        func.__code__, scope, func.__name__, func.__defaults__, func.__closure__
    )
    copy.__kwdefaults__ = func.__kwdefaults__
    return decomposed(copy)


def _no(*_: Any) -> bool:
    return False
