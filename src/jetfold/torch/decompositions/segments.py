"""Reductions of entries that share an index, in terms of simpler operations."""

from __future__ import annotations

import math
from typing import Any

import torch


def scatter_reduce(
    input: Any, dim: int, index: Any, src: Any, reduce: str, *, include_self: bool = True
) -> Any:
    """The entries of src that have an index reduced to one, with that of the input or without."""
    if input.ndim == 0:
        one = scatter_reduce(
            input.reshape(1),
            0,
            index.reshape(-1),
            src.reshape(-1),
            reduce,
            include_self=include_self,
        )
        return one.reshape(())
    dim = dim % input.ndim
    src = src[tuple(slice(n) for n in index.shape)]
    if reduce in ("sum", "mean"):
        base = input if include_self else torch.scatter(input, dim, index, 0)
        total = torch.scatter_add(base, dim, index, src)
        if reduce == "sum":
            return total
        ones = torch.ones(input.shape, dtype=total.dtype, device=total.device)
        counts = ones if include_self else torch.scatter(ones, dim, index, 0)
        counts = torch.scatter_add(counts, dim, index, torch.ones_like(src.detach()))
        return total / counts.clamp(min=1)
    places, src = _places(input, dim, index).reshape(-1), src.reshape(-1)
    if reduce == "prod":
        out = _product(input.reshape(-1), places, src, include_self)
    else:
        out = _extreme(input.reshape(-1), places, src, include_self, largest=reduce == "amax")
    return out.reshape(input.shape)


def _places(input: Any, dim: int, index: Any) -> Any:
    """Where in the raveled input the entries of src go."""
    places = torch.arange(input.numel(), device=input.device).reshape(input.shape)
    kept = [slice(n if k != dim else None) for k, n in enumerate(index.shape)]
    return torch.gather(places[tuple(kept)], dim, index)


def _product(out: Any, places: Any, src: Any, include_self: bool) -> Any:
    """The first entry of every place, then the second of those that have two, …"""
    ordered, back = torch.sort(places, stable=True)
    count = torch.arange(places.numel(), device=places.device)
    nth = count - torch.searchsorted(ordered, ordered)
    for n in range(int(nth.max()) + 1 if places.numel() else 0):
        chosen = back[nth == n]
        at, new = places[chosen], src[chosen]
        if n or include_self:
            new = out[at] * new
        out = torch.index_copy(out, 0, at, new)
    return out


def _extreme(input: Any, places: Any, src: Any, include_self: bool, largest: bool) -> Any:
    """The mean of the entries of a place that are equal to its extreme one, as PyTorch has it."""
    n = input.numel()
    own = torch.arange(n, device=places.device)
    if not include_self:  # the own entry of a place counts if it has no other
        taken = torch.zeros(n, dtype=torch.bool, device=places.device)
        own = own + n * taken.index_fill(0, places, True)
    values, at = torch.cat([src, input]), torch.cat([places, own])
    order = torch.argsort(values.detach(), descending=largest, stable=True)
    order = order[torch.argsort(at[order], stable=True)]
    first = order[torch.searchsorted(at[order], torch.arange(n, device=at.device))]
    ties = (values == values[first][at % n]) & (at < n)
    total = torch.zeros_like(input).index_add(0, at % n, torch.where(ties, values, 0))
    return total / torch.bincount(at % n, ties, n)


def index_reduce(
    input: Any, dim: int, index: Any, source: Any, reduce: str, *, include_self: bool = True
) -> Any:
    """The same for whole slices along an axis."""
    if input.ndim == 0:
        index, dim = index.reshape(()), 0
        return scatter_reduce(input, dim, index, source, reduce, include_self=include_self)
    shape = [-1 if k == dim % input.ndim else 1 for k in range(input.ndim)]
    index = index.reshape(shape).expand(source.shape)
    return scatter_reduce(input, dim, index, source, reduce, include_self=include_self)


EMPTY = {"sum": 0.0, "mean": math.nan, "prod": 1.0, "max": -math.inf, "min": math.inf}
"""What a segment without entries reduces to."""


def segment_reduce(
    data: Any,
    reduce: str,
    *,
    lengths: Any = None,
    indices: Any = None,
    offsets: Any = None,
    axis: int = 0,
    unsafe: bool = False,
    initial: Any = None,
) -> Any:
    """Consecutive entries along an axis reduced to one, of these lengths or from these offsets."""
    lengths = torch.diff(offsets, dim=-1) if lengths is None else lengths
    rest, batch, count = tuple(data.shape[axis + 1 :]), tuple(data.shape[:axis]), lengths.shape[-1]
    flat = data.reshape(-1, *rest)
    segment = torch.arange(lengths.numel(), device=flat.device)
    segment = segment.repeat_interleave(lengths.reshape(-1))
    empty = EMPTY[reduce] if initial is None else initial
    base = torch.full((lengths.numel(), *rest), empty, dtype=flat.dtype, device=flat.device)
    kind = {"max": "amax", "min": "amin"}.get(reduce, reduce)
    if reduce == "mean" and initial is not None:
        total = index_reduce(base, 0, segment, flat, "sum")
        out = total / lengths.reshape(-1, *[1] * len(rest))
    else:
        out = index_reduce(base, 0, segment, flat, kind, include_self=initial is not None)
    return out.reshape(*batch, count, *rest)


def embedding_bag(
    weight: Any,
    indices: Any,
    offsets: Any,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Any = None,
    include_last_offset: bool = False,
    padding_idx: Any = None,
) -> Any:
    """Sums (0), means (1) or maxima (2) of bags of rows, and three tensors that nobody looks at."""
    starts = offsets[:-1] if include_last_offset else offsets
    if padding_idx is not None and padding_idx != -1:
        kept = indices != padding_idx % weight.shape[0]
    else:
        kept = torch.ones_like(indices, dtype=torch.bool)
    place = torch.arange(indices.numel(), device=indices.device)
    bag = torch.searchsorted(starts.contiguous(), place, right=True)[kept] - 1
    rows = weight[indices[kept]]
    if per_sample_weights is not None:
        rows = rows * per_sample_weights[kept].unsqueeze(-1)
    empty = torch.zeros(starts.numel(), weight.shape[1], dtype=rows.dtype, device=rows.device)
    kind = ("sum", "mean", "amax")[mode]
    out = index_reduce(empty, 0, bag, rows, kind, include_self=False)
    return out, bag, bag, bag
