"""Quantiles, covariances, integrals of samples and the like, in terms of simpler operations."""

from __future__ import annotations

from typing import Any

import torch

from ..lifts import is_tensor
from .reductions import vector_norm


def quantile(
    input: Any,
    q: Any,
    dim: int | None = None,
    keepdim: bool = False,
    *,
    interpolation: str = "linear",
    skip: bool = False,
) -> Any:
    """Between the two sorted entries beside q (n − 1); nan where there is one, or skip them."""
    x = input
    ndim = x.ndim
    x = x.reshape(-1) if dim is None or ndim == 0 else x.movedim(dim, -1)
    q = q if is_tensor(q) else torch.tensor(q, dtype=x.dtype, device=x.device)
    missing = torch.isnan(x.detach())
    n = x.shape[-1]
    last = (
        (n - 1 - missing.sum(-1, keepdim=True)).clamp(min=0)
        if skip
        else torch.full_like(missing[..., :1], n - 1, dtype=torch.int64)
    )
    rank = q.reshape(-1) * last.to(x.dtype)
    if not skip:  # numbers that are none are sorted last
        rank = torch.where(missing.any(-1, keepdim=True), n - 1.0, rank)
    ordered = torch.sort(x, -1)[0]
    at = rank.detach()
    if interpolation in ("lower", "higher", "nearest"):
        at = {"lower": torch.floor, "higher": torch.ceil, "nearest": torch.round}[interpolation](at)
        out = torch.gather(ordered, -1, at.long())
    else:
        low = torch.gather(ordered, -1, at.floor().long())
        high = torch.gather(ordered, -1, at.ceil().long())
        weight = 0.5 if interpolation == "midpoint" else rank - at.floor()
        weight = (
            torch.where(at == at.floor(), 0.0, weight) if interpolation == "midpoint" else weight
        )
        out = low + weight * (high - low)
    out = out.movedim(-1, 0)
    if keepdim:
        out = (
            out.reshape(-1, *[1] * ndim)
            if dim is None
            else out.unsqueeze(dim % ndim + 1 if ndim else 1)
        )
        out = out if ndim else out.reshape(-1)
    return out.squeeze(0) if q.ndim == 0 else out


def nanquantile(*args: Any, **kwargs: Any) -> Any:
    """The quantile of what is a number."""
    return quantile(*args, **kwargs, skip=True)


def cov(input: Any, *, correction: int = 1, fweights: Any = None, aweights: Any = None) -> Any:
    """Covariances of the rows, each a variable, over the columns, each weighted with f·a."""
    x = input.reshape(1, -1) if input.ndim < 2 else input
    weights = [w for w in (fweights, aweights) if w is not None]
    w = torch.ones(x.shape[1], dtype=x.dtype, device=x.device)
    for factor in weights:
        w = w * factor
    total = w.sum()
    centred = x - (x * w).sum(1, keepdim=True) / total
    norm = total - correction
    if aweights is not None:
        norm = total - correction * (w * aweights).sum() / total
    out = (centred * w) @ centred.mH / norm.clamp_min(0)
    return out.squeeze() if input.ndim < 2 else out


def corrcoef(input: Any) -> Any:
    """Correlations of the rows."""
    c = cov(input)
    if c.ndim == 0:
        return c / c
    scale = torch.sqrt(torch.diagonal(c).real)
    out = c / scale.unsqueeze(-1) / scale
    if out.is_complex():
        return torch.complex(out.real.clamp(-1, 1), out.imag.clamp(-1, 1))
    return out.clamp(-1, 1)


def _steps(y: Any, x: Any, dx: Any, dim: int) -> Any:
    """The areas between neighbours."""
    n = y.shape[dim]
    pairs = (y.narrow(dim, 1, n - 1) + y.narrow(dim, 0, n - 1)) / 2 if n else y
    if x is None:
        return pairs * dx
    if x.ndim == 1:
        x = x.reshape([-1 if k == dim % y.ndim else 1 for k in range(y.ndim)])
        dim = dim % y.ndim
    else:
        dim = dim if dim < 0 else dim - y.ndim
    widths = x.narrow(dim, 1, x.shape[dim] - 1) - x.narrow(dim, 0, x.shape[dim] - 1)
    return pairs * widths


def trapezoid(y: Any, x: Any = None, *, dx: Any = 1, dim: int = -1) -> Any:
    """∫ y dx by the trapezoidal rule."""
    return _steps(y, x, dx, dim).sum(dim if dim < 0 else dim - y.ndim)


def cumulative_trapezoid(y: Any, x: Any = None, *, dx: Any = 1, dim: int = -1) -> Any:
    """The running integral."""
    return _steps(y, x, dx, dim).cumsum(dim if dim < 0 else dim - y.ndim)


def renorm(input: Any, p: float, dim: int, maxnorm: float) -> Any:
    """Slices along an axis that are longer than maxnorm shortened to it."""
    axes = tuple(k for k in range(input.ndim) if k != dim % input.ndim)
    length = vector_norm(input, p, axes, keepdim=True)
    longer = length.detach() > maxnorm
    return torch.where(longer, input * (maxnorm / (length + 1e-7)), input)


def logcumsumexp(input: Any, dim: int) -> Any:
    """Running log Σ e^x along an axis, in ⌈log₂ n⌉ doubling steps."""
    if input.ndim == 0:
        return input
    x, length, step = input, input.shape[dim], 1
    while step < length:
        ahead = torch.logaddexp(x.narrow(dim, step, length - step), x.narrow(dim, 0, length - step))
        x = torch.cat([x.narrow(dim, 0, step), ahead], dim)
        step *= 2
    return x


def combinations(input: Any, r: int = 2, with_replacement: bool = False) -> Any:
    """All choices of r entries, as rows."""
    places = torch.arange(input.shape[0], device=input.device)
    return input[torch.combinations(places, r, with_replacement)]
