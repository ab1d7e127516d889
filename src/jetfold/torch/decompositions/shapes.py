"""Operations that move entries, in terms of simpler ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F


def take(input: Any, index: Any) -> Any:
    """Entries of the raveled tensor."""
    return input.reshape(-1)[index]


def take_along_dim(input: Any, indices: Any, dim: int | None = None) -> Any:
    """gather, of indices that are broadcast."""
    if dim is None:
        return torch.gather(input.reshape(-1), 0, indices.reshape(-1))
    shape = list(torch.broadcast_shapes(*(_without(x.shape, dim) for x in (input, indices))))
    at = dim % input.ndim
    input = input.expand([*shape[:at], input.shape[at], *shape[at + 1 :]])
    return torch.gather(
        input, dim, indices.expand([*shape[:at], indices.shape[at], *shape[at + 1 :]])
    )


def _without(shape: Sequence[int], dim: int) -> list[int]:
    """The shape with length one along an axis."""
    at = dim % len(shape)
    return [*shape[:at], 1, *shape[at + 1 :]]


def put(input: Any, index: Any, source: Any, accumulate: bool = False) -> Any:
    """Entries of the raveled tensor replaced, or added to."""
    flat = input.reshape(-1)
    out = torch.index_put(flat, (index.reshape(-1),), source.reshape(-1), accumulate)
    return out.reshape(input.shape)


def masked_scatter(input: Any, mask: Any, source: Any) -> Any:
    """The entries where the mask holds from the source, in order."""
    shape = torch.broadcast_shapes(tuple(input.shape), tuple(mask.shape))
    flat, chosen = input.expand(shape).reshape(-1), mask.expand(shape).reshape(-1).nonzero()[:, 0]
    out = torch.index_copy(flat, 0, chosen, source.reshape(-1)[: chosen.numel()])
    return out.reshape(shape)


def diagflat(input: Any, offset: int = 0) -> Any:
    """The entries along a diagonal."""
    return torch.diag(input.reshape(-1), offset)


def masked_select(input: Any, mask: Any) -> Any:
    """The entries where the mask holds."""
    input, mask = torch.broadcast_tensors(input, mask)
    return input[mask]


def unflatten(input: Any, dim: int, sizes: Sequence[int]) -> Any:
    """One axis as several."""
    shape, at = list(input.shape), dim % input.ndim
    return input.reshape([*shape[:at], *sizes, *shape[at + 1 :]])


def broadcast_tensors(*tensors: Any) -> Any:
    """All arguments expanded to their common shape."""
    if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)):
        tensors = tuple(tensors[0])
    shape = torch.broadcast_shapes(*[tuple(x.shape) for x in tensors])
    return tuple(x.expand(shape) for x in tensors)


def meshgrid(*tensors: Any, indexing: str | None = None) -> Any:
    """Coordinate arrays of a grid."""
    if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)):
        tensors = tuple(tensors[0])
    n = len(tensors)
    axes = [x.reshape((1,) * k + (-1,) + (1,) * (n - k - 1)) for k, x in enumerate(tensors)]
    out = broadcast_tensors(*axes)
    return tuple(x.transpose(0, 1) for x in out) if indexing == "xy" and n > 1 else out


def hstack(tensors: Sequence[Any]) -> Any:
    """cat along the second axis, of vectors along the first."""
    tensors = [x.reshape(1) if x.ndim == 0 else x for x in tensors]
    return torch.cat(tensors, 0 if tensors[0].ndim == 1 else 1)


def atleast(ndim: int) -> Any:
    """atleast_1d, atleast_2d, atleast_3d."""

    def one(x: Any) -> Any:
        if x.ndim == 0:
            return x.reshape((1,) * ndim)
        if x.ndim == 1 and ndim > 1:
            x = x.unsqueeze(0)
        return x.unsqueeze(-1) if x.ndim == 2 and ndim == 3 else x

    def rule(*tensors: Any) -> Any:
        if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)):
            tensors = tuple(tensors[0])
        out = tuple(one(x) for x in tensors)
        return out[0] if len(out) == 1 else out

    return rule


def split_along(axis: int) -> Any:
    """hsplit, vsplit, dsplit: tensor_split along a given axis."""

    def rule(input: Any, indices_or_sections: Any = None, **given: Any) -> Any:
        parts = indices_or_sections
        if parts is None:
            parts = given.get("indices", given.get("sections"))
        return torch.tensor_split(input, parts, 0 if axis == 1 and input.ndim == 1 else axis)

    return rule


def block_diag(*tensors: Any) -> Any:
    """The matrices along a diagonal, zeros elsewhere."""
    blocks = [atleast(2)(x) for x in tensors]
    width, left, rows = sum(x.shape[1] for x in blocks), 0, []
    for x in blocks:
        rows.append(F.pad(x, (left, width - left - x.shape[1])))
        left += x.shape[1]
    return torch.cat(rows, 0)


def cartesian_prod(*tensors: Any) -> Any:
    """All tuples of entries, as rows."""
    if len(tensors) == 1:
        return tensors[0]
    return torch.stack([x.reshape(-1) for x in meshgrid(*tensors, indexing="ij")], -1)


def dstack(tensors: Sequence[Any]) -> Any:
    """cat along the third axis."""
    return torch.cat([atleast(3)(x) for x in tensors], 2)


def vstack(tensors: Sequence[Any]) -> Any:
    """cat along the first axis, of vectors as rows."""
    return torch.cat([x.reshape(1, -1) if x.ndim < 2 else x for x in tensors], 0)


def column_stack(tensors: Sequence[Any]) -> Any:
    """cat along the second axis, of vectors as columns."""
    return torch.cat([x.reshape(-1, 1) if x.ndim < 2 else x for x in tensors], 1)


def as_strided_scatter(
    input: Any, src: Any, size: Sequence[int], stride: Sequence[int], storage_offset: Any = None
) -> Any:
    """The entries that as_strided shows replaced."""
    entries = torch.arange(input.numel(), device=input.device)
    places = entries.as_strided(tuple(size), tuple(stride), storage_offset or 0)
    flat = torch.index_copy(input.reshape(-1), 0, places.reshape(-1), src.reshape(-1))
    return flat.reshape(input.shape)


def fill(input: Any, value: Any) -> Any:
    """One value everywhere."""
    return torch.zeros_like(input.detach()) + value


def slice_along(
    input: Any, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Any:
    """x[start:end:step] along an axis."""
    return input[(slice(None),) * (dim % input.ndim) + (slice(start, end, step),)]
