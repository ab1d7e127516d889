"""Shape operations past the leading axis of a block, with the signatures of their originals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..core.jet import Jet


def is_tensor(x: object) -> bool:
    """Whether x is a tensor or a jet of tensors."""
    return isinstance(x, (torch.Tensor, Jet))


def _sizes(given: Sequence[Any]) -> tuple[Any, ...]:
    """x.view(2, 3) and x.view((2, 3)) alike."""
    if len(given) == 1 and isinstance(given[0], (tuple, list)):
        return tuple(given[0])
    return tuple(given)


def reshape_past(block: Any, *shape: Any, **named: Any) -> Any:
    """reshape, view; view(dtype) is not linear and refused."""
    sizes = _sizes(shape or (named.get("shape", named.get("size")),))
    if any(isinstance(n, torch.dtype) for n in sizes):
        raise TypeError("a view as another dtype reads bits; it has no derivative")
    return block.reshape((block.shape[0], *sizes))


def flatten_past(block: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    """flatten, ravel."""
    if block.ndim == 1:
        return block.unsqueeze(-1)
    start = start_dim + 1 if start_dim >= 0 else start_dim
    return block.flatten(start, end_dim + 1 if end_dim >= 0 else end_dim)


def expand_past(block: Any, *sizes: Any, **named: Any) -> Any:
    """expand, broadcast_to: new axes come behind the leading one; none is repeated."""
    target = _sizes(sizes or (named.get("size", named.get("shape")),))
    missing = len(target) - (block.ndim - 1)
    return block.reshape((block.shape[0],) + (1,) * missing + tuple(block.shape[1:]))


def tile_past(block: Any, *repeats: Any, **named: Any) -> Any:
    """repeat, tile."""
    counts = _sizes(repeats or (named.get("repeats", named.get("dims")),))
    missing = len(counts) - (block.ndim - 1)
    if missing > 0:
        block = block.reshape((block.shape[0],) + (1,) * missing + tuple(block.shape[1:]))
    return block.repeat((1,) + (1,) * max(-missing, 0) + counts)


def permute_past(block: Any, *dims: Any, **named: Any) -> Any:
    """permute."""
    order = _sizes(dims or (named["dims"],))
    return block.permute((0, *(d + 1 if d >= 0 else d for d in order)))


def transpose_past(block: Any) -> Any:
    """t, of a matrix or of less."""
    return block.transpose(1, 2) if block.ndim == 3 else block


def view_as_complex_past(block: Any) -> Any:
    """view_as_complex, which wants the two parts side by side in memory."""
    return torch.view_as_complex(block.contiguous())


def squeeze_past(block: Any, dim: Any = None) -> Any:
    """squeeze, of all axes of length one or of those named."""
    if dim is None:
        return block.reshape((block.shape[0], *(n for n in block.shape[1:] if n != 1)))
    if block.ndim == 1:
        return block
    dims = [dim] if isinstance(dim, int) else list(dim)
    shifted = sorted({d % (block.ndim - 1) + 1 for d in dims}, reverse=True)
    for d in shifted:
        block = block.squeeze(d)
    return block


def flip_past(block: Any, *dims: Any, **named: Any) -> Any:
    """flip."""
    order = _sizes(dims or (named["dims"],))
    if block.ndim == 1:
        return block
    return block.flip([d + 1 if d >= 0 else d for d in order])


def diagonal_past(block: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    """diagonal."""
    return block.diagonal(offset, dim1 + 1 if dim1 >= 0 else dim1, dim2 + 1 if dim2 >= 0 else dim2)


def unfold_past(block: Any, dimension: int, size: int, step: int) -> Any:
    """Tensor.unfold."""
    if block.ndim == 1:  # of a scalar, which has one entry along any axis
        return block.unsqueeze(-1)[:, :size]
    return block.unfold(dimension + 1 if dimension >= 0 else dimension, size, step)


def as_strided_past(
    block: Any, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> Any:
    """as_strided of a tensor that lies in memory as its entries are counted."""
    entries = torch.arange(block[0].numel(), device=block.device)
    places = entries.as_strided(tuple(size), tuple(stride), storage_offset or 0)
    return block.reshape(block.shape[0], -1)[:, places]


def pad_past(block: Any, pad: Any, mode: str = "constant", value: Any = None) -> Any:
    """pad: a constant has no derivative, so coefficients are padded with zeros."""
    if mode == "constant":
        return F.pad(block, pad)
    return torch.stack([F.pad(row, pad, mode) for row in block])


def index_past(block: Any, entries: tuple[Any, ...], shape: Sequence[int]) -> Any:
    """x[entries], an explicit index, x of this shape.

    Slices and integers pass behind a full slice, and leave axes alone on which the block does not
    depend. Index tensors may move axes to the front, so the leading axis of the block waits at the
    end meanwhile.
    """
    if all(e is None or isinstance(e, slice) or _is_int(e) for e in entries):
        lengths = zip(block.shape[1:], shape, strict=True)
        lazy = [given != wanted for given, wanted in lengths]
        return block[(slice(None), *_leaving(entries, lazy))]
    block = block.expand((block.shape[0], *shape))
    return block.movedim(0, -1)[entries].movedim(-1, 0)


def _leaving(entries: Sequence[Any], lazy: Sequence[bool]) -> list[Any]:
    """The entries, but those at lazy axes take the one row that is there."""
    out, axis = [], 0
    for entry in entries:
        if entry is not None:
            if lazy[axis]:
                entry = slice(None) if isinstance(entry, slice) else 0
            axis += 1
        out.append(entry)
    return out


def explicit_index(index: Any, ndim: int) -> tuple[Any, ...]:
    """The index as a tuple that names every axis, its ellipsis written out."""
    entries = index if isinstance(index, tuple) else (index,)
    entries = tuple(_as_tensor(entry) for entry in entries)
    consumed = sum(_axes(e) for e in entries)
    fill = (slice(None),) * (ndim - consumed)
    where = [k for k, e in enumerate(entries) if e is Ellipsis]
    if not where:
        return (*entries, *fill)
    return (*entries[: where[0]], *fill, *entries[where[0] + 1 :])


def is_basic(index: Any) -> bool:
    """Whether an index is made of slices and integers alone: then it gives a view, no copy."""
    entries = index if isinstance(index, tuple) else (index,)
    return all(
        e is None
        or e is Ellipsis
        or isinstance(e, (slice, np.integer))
        or _is_int(e)
        or (isinstance(e, torch.Tensor) and e.ndim == 0 and e.dtype != torch.bool)
        for e in entries
    )


def viewable(shape: Sequence[int], strides: Sequence[int], target: Sequence[int]) -> bool:
    """Whether reshape gives a view: on a tensor without data, view says so."""
    try:
        torch.empty_strided(tuple(shape), tuple(strides), device="meta").view(tuple(target))
    except RuntimeError:
        return False
    return True


def _as_tensor(entry: Any) -> Any:
    """Sequences of indices and NumPy arrays as tensors."""
    if isinstance(entry, np.integer):
        return int(entry)
    if isinstance(entry, (list, tuple, range, np.ndarray)):
        return torch.as_tensor(list(entry) if isinstance(entry, range) else entry)
    return entry


def _axes(entry: Any) -> int:
    if entry is None or entry is Ellipsis or isinstance(entry, bool):
        return 0
    if is_tensor(entry) and entry.dtype in (torch.bool, torch.uint8):
        return entry.ndim
    return 1


def _is_int(entry: Any) -> bool:
    return isinstance(entry, int) and not isinstance(entry, bool)
