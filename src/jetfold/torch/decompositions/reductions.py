"""Reductions along axes, in terms of simpler operations: sums, norms, extremes, distances."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from .algebra import matrix_norm
from .entries import root, square_length


def softmax(
    input: Any, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None, **_: Any
) -> Any:
    """e^x / Σ e^x; shifting by the maximum changes no derivative."""
    if isinstance(_stacklevel, torch.dtype):  # torch.softmax(x, dim, dtype)
        dtype = _stacklevel
    x = input if dtype is None else input.to(dtype)
    dim = _softmax_dim(x, dim)
    if 0 in x.shape:
        return x
    e = torch.exp(x - x.detach().amax(dim, keepdim=True))
    return e * torch.reciprocal(e.sum(dim, keepdim=True))


def log_softmax(
    input: Any, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None, **_: Any
) -> Any:
    """x − log Σ e^x."""
    if isinstance(_stacklevel, torch.dtype):
        dtype = _stacklevel
    x = input if dtype is None else input.to(dtype)
    return x - torch.logsumexp(x, _softmax_dim(x, dim), keepdim=True)


def _softmax_dim(x: Any, dim: int | None) -> int:
    return dim if dim is not None else (0 if x.ndim in (0, 1, 3) else 1)


def softmin(input: Any, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Any:
    """softmax(−x)."""
    return softmax(-input, dim, 3, dtype)


def logsumexp(input: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """m + log Σ e^{x−m}, m the maximum."""
    if dim is None or dim == ():
        dim = tuple(range(input.ndim))
    if input.ndim == 0:
        return input
    if input.numel() == 0:
        return torch.log(torch.exp(input).sum(dim, keepdim))
    m = input.detach().amax(dim, keepdim=True)
    m = torch.where(torch.isfinite(m), m, torch.zeros_like(m))
    total = torch.log(torch.exp(input - m).sum(dim, keepdim=True)) + m
    if keepdim:
        return total
    dims = sorted((d % input.ndim for d in ([dim] if isinstance(dim, int) else dim)), reverse=True)
    for d in dims:
        total = total.squeeze(d)
    return total


def vector_norm(
    x: Any, ord: Any = 2, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    """(Σ |x|^p)^{1/p}, the largest and smallest |x| for p = ±∞."""
    x = x if dtype is None else x.to(dtype)
    if dim is None:
        dim = tuple(range(x.ndim))
    if ord in (math.inf, float("inf")):
        return x.abs().amax(dim, keepdim)
    if ord in (-math.inf, float("-inf")):
        return x.abs().amin(dim, keepdim)
    if ord == 2:
        return root(square_length(x).sum(dim, keepdim))
    if ord == 1:
        return x.abs().sum(dim, keepdim)
    if ord == 0:
        return (x.detach() != 0).to(x.dtype).sum(dim, keepdim)
    total = (x.abs() ** ord).sum(dim, keepdim)
    zero = total.detach() == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, total) ** (1 / ord))


def norm(
    input: Any,
    p: Any = "fro",
    dim: Any = None,
    keepdim: bool = False,
    out: Any = None,
    dtype: Any = None,
) -> Any:
    """torch.norm: a vector norm over the given axes."""
    if p == "nuc":
        axes = (-2, -1) if dim is None else dim
        return matrix_norm(input, "nuc", axes, keepdim, dtype=dtype)
    return vector_norm(input, 2 if p in ("fro", None) else p, dim, keepdim, dtype=dtype)


def linalg_norm(
    input: Any, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    """torch.linalg.norm: of vectors, or of matrices where there are two axes and an order."""
    axes = input.ndim if dim is None else (1 if isinstance(dim, int) else len(dim))
    if ord is None or axes == 1:
        return vector_norm(input, 2 if ord is None else ord, dim, keepdim, dtype=dtype)
    return matrix_norm(input, ord, (-2, -1) if dim is None else dim, keepdim, dtype=dtype)


def normalize(input: Any, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Any = None) -> Any:
    """x / max(‖x‖_p, eps)."""
    return input / vector_norm(input, p, dim, keepdim=True).clamp_min(eps)


def cosine_similarity(x1: Any, x2: Any, dim: int = 1, eps: float = 1e-8) -> Any:
    """x·y / (max(‖x‖, eps) · max(‖y‖, eps))."""
    x1, x2 = torch.broadcast_tensors(x1, x2)
    scale = vector_norm(x1, 2, dim).clamp_min(eps) * vector_norm(x2, 2, dim).clamp_min(eps)
    return (x1 * x2).sum(dim) / scale


def cdist(x1: Any, x2: Any, p: float = 2.0, compute_mode: str | None = None) -> Any:
    """‖x_i − y_j‖_p of all pairs of rows."""
    return vector_norm(x1.unsqueeze(-2) - x2.unsqueeze(-3), p, -1)


def pdist(input: Any, p: float = 2.0) -> Any:
    """‖x_i − x_j‖_p for i < j."""
    n = input.shape[0]
    i, j = torch.triu_indices(n, n, 1, device=input.device).unbind(0)
    return vector_norm(input[i] - input[j], p, -1)


def dist(input: Any, other: Any, p: float = 2.0) -> Any:
    """‖x − y‖_p over all axes."""
    return vector_norm(input - other, p)


def pairwise_distance(
    x1: Any, x2: Any, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Any:
    """‖x − y + eps‖_p over the last axis."""
    return vector_norm(x1 - x2 + eps, p, -1, keepdim)


def var(
    input: Any,
    dim: Any = None,
    unbiased: Any = None,
    keepdim: bool = False,
    *,
    correction: Any = None,
) -> Any:
    """Σ |x − mean|² / (n − correction)."""
    if isinstance(dim, bool):  # torch.var(x, unbiased)
        dim, unbiased = None, dim
    if correction is None:
        correction = 1 if unbiased is None or unbiased else 0
    if dim is None or dim == ():
        dim = tuple(range(input.ndim))
    axes = [dim] if isinstance(dim, int) else dim
    n = math.prod([input.shape[d] for d in axes])
    centred = input - input.mean(dim, keepdim=True)
    return square_length(centred).sum(dim, keepdim) / max(n - correction, 0)


def std(*args: Any, **kwargs: Any) -> Any:
    """The square root of the variance."""
    return root(var(*args, **kwargs))


def var_mean(*args: Any, **kwargs: Any) -> Any:
    """(var, mean)."""
    return var(*args, **kwargs), _mean_like(*args, **kwargs)


def std_mean(*args: Any, **kwargs: Any) -> Any:
    """(std, mean)."""
    return std(*args, **kwargs), _mean_like(*args, **kwargs)


def _mean_like(
    input: Any, dim: Any = None, unbiased: Any = None, keepdim: bool = False, **_: Any
) -> Any:
    if dim is None or isinstance(dim, bool) or dim == ():
        dim = tuple(range(input.ndim))
    return input.mean(dim, keepdim)


def aminmax(input: Any, *, dim: int | None = None, keepdim: bool = False) -> Any:
    """(min, max), over one axis or over all."""
    if dim is None:
        low, high = input.min(), input.max()
        if keepdim:
            low, high = (x.reshape((1,) * input.ndim) for x in (low, high))
        return MinMax(low, high)
    return MinMax(amin(input, dim, keepdim), amax(input, dim, keepdim))


class MinMax(NamedTuple):
    """What torch.aminmax returns."""

    min: Any
    max: Any


def amax(input: Any, dim: Any = (), keepdim: bool = False) -> Any:
    """The largest entry over some axes."""
    return _over_axes(torch.max, input, dim, keepdim)


def amin(input: Any, dim: Any = (), keepdim: bool = False) -> Any:
    """The smallest entry over some axes."""
    return _over_axes(torch.min, input, dim, keepdim)


def _over_axes(func: Any, input: Any, dim: Any, keepdim: bool) -> Any:
    if input.ndim == 0:
        return input
    dims = [dim] if isinstance(dim, int) else list(dim)
    dims = sorted({d % input.ndim for d in dims} if dims else range(input.ndim), reverse=True)
    for d in dims:
        input = func(input, d, keepdim)[0]
    return input


def prod(input: Any, dim: int | None = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """The product along an axis, by halves: no division, so zeros are welcome."""
    x = input if dtype is None else input.to(dtype)
    if dim is None:
        x, dim = x.reshape(-1), 0
    if x.ndim == 0:
        return x
    dim = dim % x.ndim
    if x.shape[dim] == 0:
        return torch.prod(x.detach(), dim, keepdim)
    while (length := x.shape[dim]) > 1:
        half = length // 2
        paired = x.narrow(dim, 0, half) * x.narrow(dim, half, half)
        rest = length - 2 * half
        x = torch.cat([paired, x.narrow(dim, length - 1, 1)], dim) if rest else paired
    return x if keepdim else x.squeeze(dim)


def cumprod(input: Any, dim: int, *, dtype: Any = None) -> Any:
    """Running products along an axis, in ⌈log₂ n⌉ doubling steps."""
    x = input if dtype is None else input.to(dtype)
    if x.ndim == 0:
        return x
    length, step = x.shape[dim], 1
    while step < length:
        ahead = x.narrow(dim, step, length - step) * x.narrow(dim, 0, length - step)
        x = torch.cat([x.narrow(dim, 0, step), ahead], dim)
        step *= 2
    return x


def nansum(input: Any, *args: Any, **kwargs: Any) -> Any:
    """The sum of what is a number."""
    return torch.where(torch.isnan(input.detach()), 0.0, input).sum(*args, **kwargs)


def nanmean(input: Any, *args: Any, dtype: Any = None, **kwargs: Any) -> Any:
    """The mean of what is a number."""
    x = input if dtype is None else input.to(dtype)
    there = ~torch.isnan(x.detach())
    return nansum(x, *args, **kwargs) / there.sum(*args, **kwargs)


def sum_to_size(input: Any, *size: Any) -> Any:
    """Summed over the axes that a tensor of this size would be broadcast along."""
    target = tuple(size[0]) if len(size) == 1 and isinstance(size[0], (list, tuple)) else size
    lead = input.ndim - len(target)
    x = input.sum(tuple(range(lead))) if lead else input
    axes = tuple(k for k, n in enumerate(target) if n == 1 and x.shape[k] != 1)
    return x.sum(axes, keepdim=True) if axes else x


def diff(input: Any, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Any:
    """x[k + 1] − x[k], n times."""
    if n == 0:  # then PyTorch passes over what is prepended
        return input
    parts = [x for x in (prepend, input, append) if x is not None]
    x = torch.cat(parts, dim) if len(parts) > 1 else input
    for _ in range(n):
        length = max(x.shape[dim] - 1, 0)
        x = x.narrow(dim, 1, length) - x.narrow(dim, 0, length)
    return x
