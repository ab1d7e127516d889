"""Rules: how jets pass the operations of PyTorch. A rule is a value, and has a kind.

A rule is called as rule(level, func, args, kwargs), where `func` is what the user called, in
functional form, and at least one argument is a jet of that level. The kinds that serve many
operations stand here; those of products, arithmetic, matrices and choices have files of their own.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch

from ..core.arrays import Block
from ..core.jet import Jet, compose
from ..core.structure import Piece, Placed, Structured, between, dense, staying
from . import arrays as XP
from . import fused, structured, traced
from .arguments import (
    blocks_for,
    call,
    first_jet,
    full,
    is_jet,
    on_parts,
    second,
    shift,
    transpose,
    values,
    zeros,
)
from .dynamo_private import attempted
from .lifts import is_tensor
from .private import tree_leaves, tree_map

Function = Callable[..., Any]
Tower = Callable[..., list[Any]]
Past = tuple[Function, Sequence[Any], Any]
"""What is called on blocks: a function, and its arguments behind the block."""


@dataclass(frozen=True)
class Rule:
    """How jets pass an operation."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        """The operation of arguments of which some are jets of this level."""
        raise NotImplementedError


# ------------------------------------------------------------------ the value alone


@dataclass(frozen=True)
class Value(Rule):
    """An operation that asks about the value: it gives a plain answer."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        return call(func, *values(level, args), **values(level, kwargs))


@dataclass(frozen=True)
class Constant(Rule):
    """zeros_like, floor, …: a jet without coefficients, so that jets can be written into it."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        if func is torch.Tensor.new_tensor and first_jet(level, args[1:], kwargs) is not None:
            raise TypeError(
                "new_tensor copies numbers and would lose derivatives; use torch.stack or torch.cat"
            )
        out = call(func, *values(level, args), **values(level, kwargs))
        jet = first_jet(level, args, kwargs)
        if out.is_floating_point() or out.is_complex():
            return jet.like(out, [None] * jet.algebra.order)
        return out


@dataclass(frozen=True)
class Filled(Constant):
    """full_like and new_full, whose entry may be a jet: it is added to zeros."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        at = 2 if func is torch.Tensor.new_full else 1
        fill = args[at] if len(args) > at else kwargs["fill_value"]
        if not isinstance(fill, Jet):
            return super().__call__(level, func, args, kwargs)
        if len(args) > at:
            args = (*args[:at], 0, *args[at + 1 :])
        else:
            kwargs = kwargs | {"fill_value": 0}
        blank = call(func, *values(level, args), **kwargs)
        return blank + fill.to(blank.dtype)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Refused(Rule):
    """An operation that cannot act on jets.

    Attributes:
        hint: what to do.
        constants: whether it can act on jets without coefficients, which are constant.
    """

    hint: str
    constants: bool = False

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        if self.constants and all(b is None for b in first_jet(level, args, kwargs).stored):
            return Value()(level, func, args, kwargs)
        raise TypeError(
            f"{func.__name__} was called on the argument of a function that jetfold "
            f"differentiates, where it cannot keep the derivatives; {self.hint}"
        )


# ------------------------------------------------------------------ elementwise


@dataclass(frozen=True, init=False)
class Elementwise(Rule):
    """φ(x, *parameters) from its tower; the parameters are named in the order of the signature."""

    tower: Tower
    parameters: tuple[tuple[str, Any], ...]

    def __init__(self, tower: Tower, **parameters: Any) -> None:
        object.__setattr__(self, "tower", tower)
        object.__setattr__(self, "parameters", tuple(parameters.items()))

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        jet, *rest = args
        if not rest and not kwargs and not self.parameters:
            return apply_elementwise(jet, partial(call, func), self.tower)
        defaults = dict(self.parameters)
        given = dict(zip(defaults, rest, strict=False)) | kwargs
        given = {k: v for k, v in given.items() if k not in ("inplace", "out")}
        used = {k: given.get(k, default) for k, default in defaults.items()}
        tower = partial(self.tower, **used)
        if any(is_tensor(x) for x in given.values()):
            return apply_tower(jet, call(func, jet.primal, **given), tower)
        return apply_elementwise(jet, partial(call, func, **given), tower)


def apply_elementwise(jet: Any, function: Function, tower: Tower) -> Any:
    """The jet of φ(x), of which gradients keep no more than they must."""
    if torch.compiler.is_dynamo_compiling():
        waiting = traced.elementwise(jet, function, tower)
        if waiting is not None:
            return jet.awaiting(waiting)
        if traced.recomputable(jet):
            return jet.like(*traced.recomputed(jet, function, tower))
    else:
        made = fused.composed(jet, function, tower)
        if made is not None:
            return jet.holding(made)
    return apply_tower(jet, function(jet.primal), tower)


def apply_tower(jet: Any, y: Any, tower: Tower) -> Any:
    """The jet of φ(x), from y = φ(u) and t_k = φ^{(k)}(u)/k!."""
    coefficients = tower(jet.primal, y, jet.algebra.order, XP)
    return jet.like(y, compose(jet, coefficients, y.ndim, XP))


# ------------------------------------------------------------------ linear in the first argument


@dataclass(frozen=True)
class OfFirst(Rule):
    """A rule for a jet as the first argument; where another argument is one, its value serves.

    Such an argument tells a size, a position or a dtype, as in constant.expand_as(jet).
    """

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        jet = args[0]
        if not is_jet(level, jet):
            return Value()(level, func, args, kwargs)
        rest = values(level, args[1:]) if len(args) > 1 else ()
        return self.of_jet(func, jet, rest, values(level, kwargs) if kwargs else kwargs)

    def of_jet(self, func: Function, jet: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        """The operation of a jet and of arguments that are none."""
        raise NotImplementedError


@dataclass(frozen=True)
class Linear(OfFirst):
    """A function that is linear in its first argument.

    Attributes:
        lift: what it is for a block, past the leading axis; without it, the function itself.
        lazy: it leaves axes of length one alone, so blocks need not be broadcast first.
        entrywise: it acts on every entry, which stays where it is.
        moves: it does nothing but move entries, or leave zeros.
    """

    lift: Function | None = None
    lazy: bool = False
    entrywise: bool = False
    moves: bool = False

    def of_jet(self, func: Function, jet: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        primal = call(func, jet.primal, *args, **kwargs)
        of_block, rest, options = self.past(func, jet.primal.ndim, args, kwargs)
        shape, blocks = jet.primal.shape, []
        for b in jet.stored:
            if type(b) is Structured:
                b = self.of_structured(func, jet, primal, b, args, kwargs)
            elif b is not None:
                if not self.lazy and b.shape[1:] != shape:
                    b = b.expand((b.shape[0], *shape))
                b = of_block(b, *rest, **options)
            blocks.append(b)
        return transpose(jet, primal, blocks)

    def of_structured(
        self,
        func: Function,
        jet: Any,
        primal: Any,
        block: Any,
        args: tuple[Any, ...],
        kwargs: Any,
    ) -> Any:
        """The function of every row of a structured block; a list for several results."""
        several = isinstance(primal, (tuple, list))
        where = self.where(func, jet, args, kwargs)

        def act(rows: Any) -> Any:
            if not self.lazy:
                rows = rows.expand((rows.shape[0], *jet.primal.shape))
            out = self.of_block(func, rows, args, kwargs)
            return out if several else [out]

        if where is None:
            out = act(dense(block))
        else:
            ndims = [x.ndim for x in (primal if several else [primal])]
            out = structured.linear(block, ndims, act, where)
        return out if several else out[0]

    def where(self, func: Function, jet: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        """Where axes go (`structured.Where`); None if that is not known."""
        if self.entrywise:
            return structured.same
        if not self.moves:
            return None
        fixed, given = (self, func, tuple(kwargs)), (*args, *kwargs.values())
        return structured.moved(jet.primal.shape, _of_value, fixed, given)

    def of_value(self, func: Function, x: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        """The function of a tensor of the value's shape, with its constants left away."""
        out = self.of_block(func, x.unsqueeze(0), args, kwargs)
        return [y[0] for y in out] if isinstance(out, (tuple, list)) else out[0]

    def of_block(self, func: Function, block: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        """The function of every row of a block."""
        of_block, rest, options = self.past(func, block.ndim - 1, args, kwargs)
        return of_block(block, *rest, **options)

    def past(self, func: Function, ndim: int, args: Sequence[Any], kwargs: Any) -> Past:
        """What acts on every row of a block, and its arguments; ndim: of the value."""
        return self.lift or partial(call, func), args, kwargs


def _of_value(x: Any, rule: Linear, func: Function, names: Sequence[str], *given: Any) -> Any:
    split = len(given) - len(names)
    return rule.of_value(func, x, given[:split], dict(zip(names, given[split:], strict=True)))


@dataclass(frozen=True)
class Mapped(Linear):
    """A linear function of which no form for blocks is known: by vmap.

    Where another argument depends on the point too (a window, a spacing) it is not linear.
    """

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        if first_jet(level, args[1:], kwargs) is not None:
            return NotImplemented
        return super().__call__(level, func, args, kwargs)

    def past(self, func: Function, ndim: int, args: Sequence[Any], kwargs: Any) -> Past:
        return partial(XP.map_rows, lambda row: call(func, row, *args, **kwargs)), (), {}

    def of_value(self, func: Function, x: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        return func(x, *args, **kwargs)


@dataclass(frozen=True, init=False)
class Along(Linear):
    """A linear function with arguments that name axes: name=(position, default)."""

    dims: tuple[tuple[str, int, Any], ...] = ()

    def __init__(self, lazy: bool = False, moves: bool = False, **dims: tuple[int, Any]) -> None:
        super().__init__(None, lazy, moves=moves)
        found = tuple((name, position, default) for name, (position, default) in dims.items())
        object.__setattr__(self, "dims", found)

    def past(self, func: Function, ndim: int, args: Sequence[Any], kwargs: Any) -> Past:
        if ndim == 0:  # an axis of a scalar, 0 or −1, names none of the block
            return Mapped().past(func, ndim, args, kwargs)
        shifted, options = list(args), dict(kwargs)
        for name, position, default in self.dims:
            if len(args) >= position:
                shifted[position - 1] = shift(args[position - 1])
            else:
                options[name] = shift(options.get(name, default))
        return partial(call, func), shifted, options


@dataclass(frozen=True)
class Total(Linear):
    """sum and mean, over some axes or over all.

    Attributes:
        mean: whether it is the mean.
    """

    mean: bool = False

    def of_jet(self, func: Function, jet: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        if jet.primal.ndim:
            return super().of_jet(func, jet, args, kwargs)
        primal = call(func, jet.primal, *args, **kwargs)
        return jet.like(primal, blocks_for(jet.level, jet, jet.algebra.order, primal))

    def past(self, func: Function, ndim: int, args: Sequence[Any], kwargs: Any) -> Past:
        given = dict(zip(("dim", "keepdim"), args, strict=False)) | kwargs
        dim = given.pop("dim", None)
        if isinstance(dim, torch.dtype):  # x.sum(dtype)
            given["dtype"], dim = dim, None
        if dim is None or (isinstance(dim, (tuple, list)) and not dim):
            dim = tuple(range(ndim))
        return partial(call, func), (shift(dim),), given

    def of_structured(
        self,
        func: Function,
        jet: Any,
        primal: Any,
        block: Any,
        args: tuple[Any, ...],
        kwargs: Any,
    ) -> Any:
        given = dict(zip(("dim", "keepdim"), args, strict=False)) | kwargs
        dim, shape = given.get("dim"), jet.primal.shape
        if dim is None or isinstance(dim, torch.dtype) or dim in ((), []):
            dim = range(len(shape))
        axes = sorted({k % len(shape) for k in ([dim] if isinstance(dim, int) else dim)})
        keepdim = bool(given.get("keepdim", False)) and not isinstance(dim, torch.dtype)
        if primal.dtype != jet.primal.dtype:
            block = block.map(lambda rows: rows.to(primal.dtype))
        count = prod([shape[k] for k in axes]) if self.mean else 1
        return structured.summed(block, shape, axes, keepdim, 1 / count)


@dataclass(frozen=True)
class Converted(Linear):
    """A change of dtype, device or layout; where nothing changes it is the jet itself."""

    lazy: bool = True

    def of_jet(self, func: Function, jet: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        primal = call(func, jet.primal, *args, **kwargs)
        if primal is jet.primal:
            return jet
        if isinstance(primal, str):  # x.type()
            return primal
        kept = {k: v for k, v in kwargs.items() if k != "memory_format"}
        rest = [x for x in args if not isinstance(x, torch.memory_format)]
        return transpose(
            jet,
            primal,
            [on_parts(lambda part: call(func, part, *rest, **kept), b) for b in jet.stored],
        )


@dataclass(frozen=True)
class Strided(Linear):
    """as_strided, of a tensor that lies in memory in the order of its entries."""

    def of_jet(self, func: Function, jet: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        value = jet.primal
        if not value.is_contiguous() or value.storage_offset():
            raise NotImplementedError(
                "as_strided of a tensor that is a view, or not contiguous, shows memory beside its "
                "entries; call it on x.contiguous().clone(), or write it with indices, x[i], or "
                "x.unfold"
            )
        return super().of_jet(func, jet, args, kwargs)


@dataclass(frozen=True)
class Copied(OfFirst):
    """A copy of the value; blocks are never written to, so they need none."""

    def of_jet(self, func: Function, jet: Any, args: tuple[Any, ...], kwargs: Any) -> Any:
        return jet.like(call(func, jet.primal, *args, **kwargs), jet.stored)


@dataclass(frozen=True)
class Identity(Rule):
    """The jet itself."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        return args[0]


# ------------------------------------------------------------------ linear in several arguments


@dataclass(frozen=True, init=False)
class Jointly(Rule):
    """A function that is linear in its first argument and some others together, as scatter is.

    Attributes:
        names: of the arguments, in order.
        others: those of them behind the first that the function is linear in.
    """

    names: tuple[str, ...]
    others: tuple[str, ...]

    def __init__(self, signature: str, *others: str) -> None:
        object.__setattr__(self, "names", ("input", *signature.split()))
        object.__setattr__(self, "others", others)

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        if kwargs.get("reduce") is not None:
            raise NotImplementedError(
                f"{func.__name__} with reduce={kwargs['reduce']!r} has no derivative rule; write "
                "it with torch.scatter_add, torch.gather and products"
            )
        jet = first_jet(level, args, kwargs)
        named = enumerate(self.names[: len(args)])
        places: list[Any] = [k for k, name in named if k == 0 or name in self.others]
        places += [name for name in kwargs if name in self.others]
        given = [args[p] if isinstance(p, int) else kwargs[p] for p in places]
        numbers = [not is_tensor(x) for x in given]  # their part of a coefficient is zero

        def apply(operands: Any) -> Any:
            filled, options = list(args), dict(kwargs)
            for place, operand in zip(places, operands, strict=True):
                if isinstance(place, int):
                    filled[place] = operand
                else:
                    options[place] = operand
            return call(func, *filled, **options)

        def of_rows(*tensors: Any) -> Any:
            rest = iter(tensors)
            return apply([0 if number else next(rest) for number in numbers])

        tensors = [x for x, number in zip(given, numbers, strict=True) if not number]
        primal = apply(values(level, given))
        if is_structured(level, tensors):
            rest: dict[Any, Any] = {k: x for k, x in enumerate(args) if k not in places}
            rest |= {name: x for name, x in kwargs.items() if name not in places}
            blocks = self.of_structured(
                level, func, jet, primal, tensors, of_rows, rest, tuple(places), tuple(numbers)
            )
        else:
            blocks = [
                None if operands is None else XP.map_rows(of_rows, *operands)
                for operands in by_degree(level, jet, tensors)
            ]
        return jet.like(primal, blocks)

    def of_structured(
        self,
        level: int,
        func: Function,
        jet: Any,
        primal: Any,
        tensors: Any,
        of_rows: Function,
        rest: dict[Any, Any],
        places: tuple[Any, ...],
        numbers: tuple[bool, ...],
    ) -> list[Block]:
        """The blocks, of operands of which some have structure.

        Args:
            rest: the other arguments by position, or by name.
            places: the operands', of which those that are numbers are no tensors.
        """
        shapes = tuple([tuple(x.shape) for x in tensors])

        def act(size: int, stacks: Any) -> Any:
            return XP.map_rows(
                of_rows,
                *(
                    zeros(size, values(level, x), x.dtype)
                    if rows is None
                    else rows.expand((size, *x.shape))
                    for x, rows in zip(tensors, stacks, strict=True)
                ),
            )

        def where(k: int, piece: Piece) -> Placed | None:
            if piece.axis is None:
                return staying(None)

            if func is torch.complex:
                return None
            fixed = (func, k, shapes, places, numbers, tuple(rest))
            where = structured.moved(shapes[k], _of_operand, fixed, list(rest.values()), once=False)
            found = where(piece.axis, piece.owners)
            return None if found is None else found[0]

        return [
            None
            if all(b is None for b in of_degree)
            else structured.jointly(size, primal.ndim, of_degree, act, where)
            for size, of_degree in zip(
                jet.algebra.sizes[1:],
                zip(*(stored(level, x, jet.algebra.order) for x in tensors), strict=True),
                strict=True,
            )
        ]


def _of_operand(
    x: Any,
    func: Function,
    k: int,
    shapes: Sequence[Any],
    places: Sequence[Any],
    numbers: Sequence[bool],
    names: Sequence[Any],
    *rest: Any,
) -> Any:
    """The function with x in the place of operand k, zeros in those of the others."""
    operands = iter(
        x if j == k else torch.zeros(shape, dtype=x.dtype, device=x.device)
        for j, shape in enumerate(shapes)
    )
    filled = dict(zip(names, rest, strict=True))
    filled |= {
        place: 0 if number else next(operands)
        for place, number in zip(places, numbers, strict=True)
    }
    by_name = {name: item for name, item in filled.items() if isinstance(name, str)}
    return func(*[filled[j] for j in range(len(filled) - len(by_name))], **by_name)


@dataclass(frozen=True)
class Joined(Rule):
    """cat and stack: linear in a sequence of values of which some are jets."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        parts, dim = args[0], second(args, {"dim": 0} | kwargs, "dim")
        given = values(level, parts)
        primal = func(given, dim)
        if any([x.ndim != given[0].ndim for x in given]):  # cat passes over tensors of shape (0,)
            parts = [x for x in parts if tuple(x.shape) != (0,)]
        jet = first_jet(level, args[0], {})
        if is_structured(level, parts):
            return jet.like(primal, self.of_structured(level, func, jet, primal, parts, dim))
        blocks = [
            None if operands is None else func(operands, shift(dim))
            for operands in by_degree(level, jet, parts, primal.dtype)
        ]
        return jet.like(primal, blocks)

    def of_structured(
        self, level: int, func: Function, jet: Any, primal: Any, parts: Any, dim: int
    ) -> list[Block]:
        """The blocks, of operands of which some have structure."""
        dim %= primal.ndim
        new = primal.ndim > parts[0].ndim  # stack: the axis is a new one
        lengths = [1 if new else x.shape[dim] for x in parts]
        starts = [sum(lengths[:k]) for k in range(len(lengths))]
        dtype, device = primal.dtype, primal.device

        def act(size: int, stacks: Any) -> Any:
            there = [
                (rows.unsqueeze(dim + 1) if new else rows).to(dtype)
                for rows in stacks
                if rows is not None
            ]
            common = [max(rows.shape[k] for rows in there) for k in range(there[0].ndim)]
            filled, rest = [], iter(there)
            for rows, length in zip(stacks, lengths, strict=True):
                shape = [*common[: dim + 1], length, *common[dim + 2 :]]
                if rows is None:
                    filled.append(torch.zeros(shape, dtype=dtype, device=device))
                else:
                    filled.append(next(rest).expand(shape))
            return torch.cat(filled, dim + 1)

        def where(k: int, piece: Piece) -> Placed | None:
            axis, owners, _ = piece
            if new and axis is not None:
                axis += axis >= dim
            if axis is not None and axis != dim:
                return staying(axis, owners.length)
            return attempted(between, dim, axis is None, starts[k], lengths[k], sum(lengths))

        return [
            None
            if all(b is None for b in of_degree)
            else structured.jointly(size, primal.ndim, of_degree, act, where)
            for size, of_degree in zip(
                jet.algebra.sizes[1:],
                zip(*(stored(level, x, jet.algebra.order) for x in parts), strict=True),
                strict=True,
            )
        ]


def stored(level: int, x: Any, order: int) -> Any:
    """The blocks of an operand with their structure."""
    return x.stored if is_jet(level, x) else (None,) * order


def is_structured(level: int, operands: Any) -> bool:
    """Whether some of the operands have structured blocks."""
    for x in operands:
        if is_jet(level, x):
            for b in x.stored:
                if type(b) is Structured:
                    return True
    return False


def by_degree(level: int, jet: Any, tensors: Any, dtype: Any = None) -> list[list[Block] | None]:
    """For each degree the blocks of all operands, zeros written out; None where all are zero.

    dtype: of those zeros; the operand's own without it.
    """
    order = jet.algebra.order
    expanded = [full(x) if is_jet(level, x) else [None] * order for x in tensors]
    found: list[list[Block] | None] = []
    for m, size in enumerate(jet.algebra.sizes[1:]):
        if all(blocks[m] is None for blocks in expanded):
            found.append(None)
            continue
        found.append(
            [
                zeros(size, values(level, x), dtype or x.dtype) if blocks[m] is None else blocks[m]
                for x, blocks in zip(tensors, expanded, strict=True)
            ]
        )
    return found


# ------------------------------------------------------------------ in terms of other rules


@dataclass(frozen=True)
class ByDtype(Rule):
    """A rule for real and another for complex values."""

    real: Rule
    complex_: Rule

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        jet = first_jet(level, args, kwargs)
        return (self.complex_ if jet.primal.is_complex() else self.real)(level, func, args, kwargs)


@dataclass(frozen=True, init=False)
class ByKeyword(Rule):
    """A rule for each value of a keyword argument; the first is the default."""

    name: str
    cases: tuple[tuple[Any, Rule], ...]

    def __init__(self, name: str, **cases: Rule) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "cases", tuple(cases.items()))

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        chosen = dict(self.cases)[kwargs.get(self.name, self.cases[0][0])]
        return chosen(level, func, args, kwargs)


@dataclass(frozen=True)
class Reversed(Rule):
    """A function with its two operands exchanged: __rsub__, __rtruediv__, …"""

    function: Function

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        return self.function(args[1], args[0], **kwargs)


@dataclass(frozen=True, init=False)
class Decomposed(Rule):
    """The operation written in other operations.

    Attributes:
        function: takes the arguments as the user gave them.
        renamed: keyword arguments that it calls otherwise: theirs=its.
    """

    function: Function
    renamed: tuple[tuple[str, str], ...]

    def __init__(self, function: Function, **renamed: str) -> None:
        object.__setattr__(self, "function", function)
        object.__setattr__(self, "renamed", tuple(renamed.items()))

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        if kwargs and self.renamed:
            theirs = dict(self.renamed)
            renamed = {theirs.get(k, k): v for k, v in kwargs.items()}
        else:
            renamed = kwargs
        result = self.function(*args, **renamed)
        if torch.compiler.is_compiling():
            return result
        device = first_jet(level, args, kwargs).device.type
        if device == "meta" or not torch.is_autocast_enabled(device):
            return result
        dtype = _autocast_dtype(level, func, args, kwargs, result)
        if dtype is None:
            return result
        with torch.autocast(device, enabled=False):
            return self.function(*_in_dtype(dtype, args), **_in_dtype(dtype, renamed))


def _autocast_dtype(level: int, func: Function, args: Any, kwargs: Any, result: Any) -> Any:
    """The dtype in which torch.autocast has an operation evaluated, if that is not the result's.

    It knows the operation as a whole, not what it is written in. Asked by evaluating it on copies.
    """
    state = torch.get_rng_state()
    with torch.no_grad():
        copies = tree_map(
            lambda x: x.detach().clone() if is_tensor(x) else x, values(level, (args, kwargs))
        )
        plain = func(*copies[0], **copies[1])
    torch.set_rng_state(state)
    for x, y in zip(tree_leaves(result), tree_leaves(plain), strict=True):
        if is_tensor(y) and y.is_floating_point() and y.dtype != x.dtype:
            return y.dtype
    return None


def _in_dtype(dtype: Any, tree: Any) -> Any:
    """Every tensor or jet of real numbers in a dtype."""

    def cast(x: Any) -> Any:
        return x.to(dtype) if is_tensor(x) and x.is_floating_point() else x

    return tree_map(cast, tree)


def body(func: Any) -> Function:
    """A function that PyTorch wrote in Python, as one that may be run on jets.

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
    return copy


def _no(*_: Any) -> bool:
    return False
