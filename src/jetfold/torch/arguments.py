"""Looking at arguments of which some are jets, and making jets of results.

Rules are written in these terms. Jets of a lower level than the rule's are plain values to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..core.arrays import Block
from ..core.jet import Jet, expanded
from ..core.structure import Structured
from . import arrays as XP
from .lifts import is_tensor


def call(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """func(*args): methods of torch.Tensor do not find by themselves that they meet a jet."""
    if args and isinstance(args[0], Jet):
        return args[0].__torch_function__(func, (), args, kwargs)  # type: ignore[attr-defined]
    return func(*args, **kwargs)


# ------------------------------------------------------------------ finding jets


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


@torch.compiler.assume_constant_result
def promoted(left: Any, left_is_0d: bool, right: Any, right_is_0d: bool) -> Any:
    """The dtype of u · v, as torch.result_type(u, v) tells it."""
    u, v = (
        torch.empty((1,) * (not is_0d), dtype=dtype)
        for dtype, is_0d in ((left, left_is_0d), (right, right_is_0d))
    )
    return torch.result_type(u, v)


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


def named(
    names: Sequence[str], args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[dict[str, Any], tuple[Any, ...], dict[str, Any]]:
    """The arguments that have these names, in their order; the others by position; by name."""
    given, rest = dict(zip(names, args, strict=False)), tuple(args[len(names) :])
    if not kwargs:
        return given, rest, kwargs
    given |= {k: v for k, v in kwargs.items() if k in names}
    return given, rest, {k: v for k, v in kwargs.items() if k not in names}


def second(args: tuple[Any, ...], kwargs: dict[str, Any], name: str = "other") -> Any:
    """The second argument, however it was given."""
    return args[1] if len(args) > 1 else kwargs[name]


def shift(dim: Any) -> Any:
    """The same axis, or axes, of a value behind a leading axis."""
    if isinstance(dim, (tuple, list)):
        return type(dim)([shift(d) for d in dim])
    return dim + 1 if dim >= 0 else dim


# ------------------------------------------------------------------ blocks


def full(jet: Any) -> list[Block]:
    """The blocks, broadcast to the shape of the value."""
    shape = jet.primal.shape
    return [
        b if b is None or b.shape[1:] == shape else b.expand((b.shape[0], *shape))
        for b in jet.blocks
    ]


def full_along(shape: Sequence[int], block: Any, axes: Sequence[int]) -> Any:
    """Rows of a value of this shape, broadcast to it along some of its axes."""
    sizes = None
    for axis in axes:
        k = axis if axis < 0 else axis - len(shape)
        if block.shape[k] != shape[k]:
            sizes = sizes or list(block.shape)
            sizes[k] = shape[k]
    return block if sizes is None else block.expand(sizes)


def on_parts(function: Callable[[Any], Any], block: Block) -> Block:
    """A function of rows, linear and of every entry alone, of a block."""
    if block is None:
        return None
    return block.map(function) if type(block) is Structured else function(block)


def whole(jet: Any) -> list[Block]:
    """The blocks with their structure, all parts broadcast to the shape of the value."""
    shape = jet.primal.shape

    def expand(part: Any) -> Any:
        return part if part.shape[1:] == shape else part.expand((part.shape[0], *shape))

    return [on_parts(expand, b) for b in jet.stored]


def elements(level: int, x: Any, order: int) -> list[Any]:
    """[value, block 1, …] of an operand, in full; a constant has no blocks."""
    return [x.primal, *full(x)] if is_jet(level, x) else [x] + [None] * order


def coefficients(level: int, x: Any, order: int, dtype: Any) -> list[Any]:
    """[value, block 1, …] of an operand, the blocks in a dtype (None: as they are)."""
    if not is_jet(level, x):
        return [x] + [None] * order
    if dtype is None or dtype == x.primal.dtype:
        return [x.primal, *x.stored]
    return [x.primal, *(on_parts(lambda part: part.to(dtype), b) for b in x.stored)]


def blocks_for(level: int, x: Any, order: int, primal: Any) -> list[Block]:
    """The blocks of an operand with as many axes as a result, and in its dtype."""
    if not is_jet(level, x):
        return [None] * order
    blocks = []
    for b in x.stored:
        if b is not None:
            b = expanded(b, primal.ndim, XP)
            if x.primal.dtype != primal.dtype:
                b = on_parts(lambda part: part.to(primal.dtype), b)
        blocks.append(b)
    return blocks


def zeros(size: int, value: Any, dtype: Any) -> Any:
    """A block of zeros for a value."""
    return torch.zeros((size, *value.shape), dtype=dtype, device=value.device)


# ------------------------------------------------------------------ making jets


def transpose(like: Any, primal: Any, blocks: Sequence[Any]) -> Any:
    """Jets from a value and blocks; an operation with several outputs gives a sequence of jets."""
    if isinstance(primal, (tuple, list)):
        jets = [
            transpose(like, p, [None if b is None else b[k] for b in blocks])
            for k, p in enumerate(primal)
        ]
        return type(primal)(jets) if type(primal) in (tuple, list) else tuple(jets)
    if is_tensor(primal) and (primal.is_floating_point() or primal.is_complex()):
        return like.like(primal, blocks)
    return primal
