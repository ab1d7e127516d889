"""Looking at arguments of which some are jets, and making jets of results.

Rules are written in these terms. Jets of a lower level than the rule's are plain values to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..core.arrays import Block
from ..core.jet import Jet
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
    given = dict(zip(names, args, strict=False)) | {k: v for k, v in kwargs.items() if k in names}
    return given, tuple(args[len(names) :]), {k: v for k, v in kwargs.items() if k not in names}


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


def full_along(jet: Any, axes: Sequence[int]) -> list[Block]:
    """The blocks, broadcast to the shape of the value along some of its axes."""
    shape = jet.primal.shape
    axes = [k if k < 0 else k - len(shape) for k in axes]
    found: list[Block] = []
    for b in jet.blocks:
        if b is not None and any(b.shape[k] != shape[k] for k in axes):
            sizes = list(b.shape)
            for k in axes:
                sizes[k] = shape[k]
            b = b.expand(sizes)
        found.append(b)
    return found


def elements(level: int, x: Any, order: int) -> list[Any]:
    """[value, block 1, …] of an operand, in full; a constant has no blocks."""
    return [x.primal, *full(x)] if is_jet(level, x) else [x] + [None] * order


def coefficients(level: int, x: Any, order: int, dtype: Any) -> list[Any]:
    """[value, block 1, …] of an operand, the blocks in a dtype (None: as they are)."""
    if not is_jet(level, x):
        return [x] + [None] * order
    if dtype is None or dtype == x.primal.dtype:
        return [x.primal, *x.blocks]
    return [x.primal, *(None if b is None else b.to(dtype) for b in x.blocks)]


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
