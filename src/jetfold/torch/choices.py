"""Rules of choices: the value decides, the coefficients follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from ..core.arrays import Block
from ..core.jet import add
from ..core.structure import Owners, Placed, Structured
from . import structured
from .arguments import blocks_for, call, full, is_jet, named, on_parts, values
from .lifts import explicit_index, index_past, is_tensor
from .rules import Function, Rule, Value


class ValuesIndices(NamedTuple):
    """What max, sort and their like return along an axis."""

    values: Any
    indices: Any


@dataclass(frozen=True, init=False)
class Selection(Rule):
    """func gives (values, indices) along an axis: the coefficients follow the indices.

    Attributes:
        names: of the arguments behind the input, in order.
    """

    names: tuple[str, ...]

    def __init__(self, *names: str) -> None:
        object.__setattr__(self, "names", names)

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        jet = args[0]
        given = dict(zip(self.names, args[1:], strict=False)) | kwargs
        dim = given.get("dim", -1)
        primal, indices = call(func, jet.primal, *args[1:], **kwargs)
        if jet.primal.ndim == 0:
            return ValuesIndices(jet.like(primal, jet.stored), indices)
        gone = indices.ndim < jet.primal.ndim
        kept = (indices.unsqueeze(dim) if gone else indices).unsqueeze(0)
        shape, at = jet.primal.shape, dim % jet.primal.ndim

        def act(rows: Any) -> Any:
            rows = torch.take_along_dim(rows.expand((rows.shape[0], *shape)), kept, at + 1)
            return [rows.squeeze(at + 1) if gone else rows]

        def where(axis: int, owners: Owners) -> Sequence[Placed] | None:
            return None if axis == at else structured.same(axis - int(gone and axis > at), owners)

        blocks: list[Block] = []
        for b in jet.stored:
            if type(b) is Structured:
                b = structured.linear(b, [primal.ndim], act, where)[0]
            elif b is not None:
                b = act(b)[0]
            blocks.append(b)
        return ValuesIndices(jet.like(primal, blocks), indices)


_ALONG = Selection("dim", "keepdim")


@dataclass(frozen=True)
class Extreme(Rule):
    """max, min, median: along an axis (values and indices), the one entry of all, or of two.

    Attributes:
        of_two: what the function is of two tensors.
    """

    of_two: Callable[[Any, Any], Any] | None = None

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        other = args[1] if len(args) > 1 else kwargs.get("other")
        if self.of_two is not None and is_tensor(other):
            return self.of_two(args[0], other)
        if len(args) > 1 or kwargs:
            return _ALONG(level, func, args, kwargs)
        flat = args[0].reshape(-1)
        return torch.index_select(flat, 0, call(func, flat.detach(), 0)[1].reshape(1)).squeeze(0)


@dataclass(frozen=True)
class Pooled(Rule):
    """Maxima of windows: the coefficients follow the indices, which count through the last axes.

    Attributes:
        with_indices: the function that returns them too.
        axes: how many axes are pooled.
    """

    with_indices: Callable[..., Any]
    axes: int

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        jet, options = args[0], dict(kwargs)
        wanted = options.pop("return_indices", "with_indices" in func.__name__)
        primal, indices = call(self.with_indices, jet.primal, *args[1:], **options)
        out = jet.like(primal, [self._chosen(b, indices) for b in full(jet)])
        return (out, indices) if wanted else out

    def _chosen(self, block: Block, indices: Any) -> Block:
        """Every row of a block at the indices."""
        if block is None:
            return None
        flat, places = block.flatten(-self.axes), indices.flatten(-self.axes)
        rows = torch.gather(flat, -1, places.expand(block.shape[0], *places.shape))
        return rows.reshape(block.shape[0], *indices.shape)


@dataclass(frozen=True)
class Where(Rule):
    """input where the condition holds, other elsewhere: the mask is constant."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        if len(args) == 1 and not kwargs:
            return Value()(level, func, args, kwargs)  # the positions that are not zero
        given, _, others = named(("condition", "input", "other"), args, kwargs)
        condition, u, v = given["condition"], given.get("input", others.get("self")), given["other"]
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
            elif type(a) is Structured or type(b) is Structured:
                a = on_parts(lambda part: torch.where(condition, part, 0.0), a)
                b = on_parts(lambda part: torch.where(condition, 0.0, part), b)
                blocks.append(add(a, b))
            else:
                a, b = (0.0 if c is None else c for c in (a, b))
                blocks.append(torch.where(condition, a, b))
        return jet.like(primal, blocks)


@dataclass(frozen=True)
class Indexed(Rule):
    """x[index]."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        jet, index = args
        if not is_jet(level, jet):
            raise TypeError("a jet cannot be an index: only integers and masks can")
        if isinstance(index, list) and any(isinstance(entry, (list, tuple)) for entry in index):
            raise TypeError(
                "x[[[…], […]]] is a tuple of indices to some versions of PyTorch and one index "
                "tensor to others; write x[[…], […]] or x[torch.tensor([[…], […]])]"
            )
        shape = jet.primal.shape
        entries, primal = explicit_index(index, len(shape)), jet.primal[index]
        blocks: list[Block] = []
        for b in jet.stored:
            if type(b) is Structured:
                b = self.of_structured(b, index, entries, shape, primal.ndim)
            elif b is not None:
                b = index_past(b, entries, shape)
            blocks.append(b)
        return jet.like(primal, blocks)

    def of_structured(self, block: Any, index: Any, entries: Any, shape: Any, ndim: int) -> Block:
        """The entries of a structured block."""

        def act(rows: Any) -> Any:
            return [index_past(rows, entries, shape)]

        given = index if isinstance(index, tuple) else (index,)
        where = structured.moved(shape, _entries, (), given)
        return structured.linear(block, [ndim], act, where)[0]


def _entries(x: Any, *index: Any) -> Any:
    return index_past(x.unsqueeze(0), explicit_index(index, x.ndim), x.shape)[0]
