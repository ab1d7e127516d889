"""Losses in terms of simpler operations.

These are the functions that those of torch.nn.functional call, whose bodies run as they are: their
reduction is a number, and without one there is none.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from .entries import square_length, xlogy

NONE, MEAN, SUM = range(3)


def reduced(x: Any, reduction: int) -> Any:
    """All of it, its mean, or its sum."""
    return x if reduction == NONE else x.mean() if reduction == MEAN else x.sum()


# ------------------------------------------------------------------ of two like tensors


def mse_loss(input: Any, target: Any, reduction: int = NONE) -> Any:
    """(x − y)²."""
    difference = input - target
    return reduced(difference * difference, reduction)


def l1_loss(input: Any, target: Any, reduction: int = NONE) -> Any:
    """|x − y|."""
    return reduced((input - target).abs(), reduction)


def smooth_l1_loss(input: Any, target: Any, reduction: int = NONE, beta: float = 1.0) -> Any:
    """d²/(2β) for |d| < β, else |d| − β/2."""
    d = (input - target).abs()
    return reduced(torch.where(d < beta, d * d * (0.5 / beta), d - beta / 2), reduction)


def huber_loss(input: Any, target: Any, reduction: int = NONE, delta: float = 1.0) -> Any:
    """d²/2 for |d| ≤ δ, else δ (|d| − δ/2)."""
    d = (input - target).abs()
    return reduced(torch.where(d <= delta, d * d * 0.5, (d - delta / 2) * delta), reduction)


def soft_margin_loss(input: Any, target: Any, reduction: int = NONE) -> Any:
    """log(1 + e^{−yx})."""
    return reduced(F.softplus(-target * input, threshold=math.inf), reduction)


def binary_cross_entropy(input: Any, target: Any, weight: Any = None, reduction: int = NONE) -> Any:
    """−y log x − (1 − y) log(1 − x), both logarithms at least −100."""
    yes, no = (torch.clamp_min(log, -100) for log in (torch.log(input), torch.log1p(-input)))
    loss = (target - 1) * no - target * yes
    return reduced(loss if weight is None else loss * weight, reduction)


def binary_cross_entropy_with_logits(
    input: Any, target: Any, weight: Any = None, pos_weight: Any = None, reduction: int = NONE
) -> Any:
    """−p y log σ(x) − (1 − y) log(1 − σ(x))."""
    minus_log = F.softplus(-input, threshold=math.inf)
    if pos_weight is not None:
        minus_log = minus_log * (1 + (pos_weight - 1) * target)
    loss = (1 - target) * input + minus_log
    return reduced(loss if weight is None else loss * weight, reduction)


def kl_div(input: Any, target: Any, reduction: int = NONE, *, log_target: bool = False) -> Any:
    """y (log y − x), y or log y given."""
    if log_target:
        return reduced(torch.exp(target) * (target - input), reduction)
    return reduced(xlogy(target, target) - target * input, reduction)


def poisson_nll_loss(
    input: Any, target: Any, log_input: bool, full: bool, eps: float, reduction: int
) -> Any:
    """e^x − y x, or x − y log(x + ε), with Stirling's approximation of log y! if full."""
    loss = (
        torch.exp(input) - target * input if log_input else input - target * torch.log(input + eps)
    )
    if full:
        safe = torch.where(target > 1, target, 1.0)
        stirling = safe * torch.log(safe) - safe + 0.5 * torch.log(2 * math.pi * safe)
        loss = loss + torch.where(target > 1, stirling, 0.0)
    return reduced(loss, reduction)


# ------------------------------------------------------------------ of margins


def hinge_embedding_loss(
    input: Any, target: Any, margin: float = 1.0, reduction: int = NONE
) -> Any:
    """x where y is 1, max(margin − x, 0) where it is −1."""
    far = torch.where(target != 1, torch.clamp_min(margin - input, 0), 0.0)
    return reduced(far + torch.where(target != -1, input, 0.0), reduction)


def cosine_embedding_loss(
    input1: Any, input2: Any, target: Any, margin: float = 0.0, reduction: int = NONE
) -> Any:
    """1 − cos where y is 1, max(cos − margin, 0) where it is −1."""
    product = (input1 * input2).sum(-1)
    lengths = [square_length(x).sum(-1) + 1e-12 for x in (input1, input2)]
    cosine = product / torch.sqrt(lengths[0] * lengths[1])
    near = torch.where(target == 1, 1 - cosine, 0.0)
    return reduced(
        near + torch.where(target == -1, torch.clamp_min(cosine - margin, 0), 0.0), reduction
    )


def margin_ranking_loss(
    input1: Any, input2: Any, target: Any, margin: float = 0.0, reduction: int = NONE
) -> Any:
    """max(−y (x_1 − x_2) + margin, 0)."""
    return reduced(torch.clamp_min(margin - target * (input1 - input2), 0), reduction)


def triplet_margin_loss(
    anchor: Any,
    positive: Any,
    negative: Any,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: int = NONE,
) -> Any:
    """max(d(a, p) − d(a, n) + margin, 0)."""
    near = torch.pairwise_distance(anchor, positive, p, eps)
    far = torch.pairwise_distance(anchor, negative, p, eps)
    if swap:
        far = torch.minimum(far, torch.pairwise_distance(positive, negative, p, eps))
    return reduced(torch.clamp_min(margin + near - far, 0), reduction)


def multi_margin_loss(
    input: Any,
    target: Any,
    p: int = 1,
    margin: float = 1.0,
    weight: Any = None,
    reduction: int = NONE,
) -> Any:
    """Σ_{i ≠ y} w_y max(margin − x_y + x_i, 0)^p / n."""
    x, y = (input, target) if input.ndim == 2 else (input.reshape(1, -1), target.reshape(1))
    right = torch.gather(x, 1, y.unsqueeze(1))
    loss = torch.clamp_min(margin - right + x, 0) ** p
    if weight is not None:
        loss = loss * weight[y].unsqueeze(1)
    others = torch.arange(x.shape[1], device=x.device) != y.unsqueeze(1)
    loss = torch.where(others, loss, 0.0).sum(1) / x.shape[1]
    return reduced(loss if input.ndim == 2 else loss.squeeze(0), reduction)


def multilabel_margin_loss(input: Any, target: Any, reduction: int = NONE) -> Any:
    """Σ_{y, i ∉ Y} max(1 − x_y + x_i, 0) / n, the labels y before the first −1."""
    x, y = (v.reshape(-1, v.shape[-1]) if v.ndim else v.reshape(1, 1) for v in (input, target))
    named = (y < 0).cumsum(1) == 0
    labels = torch.where(named, y, 0)
    count = torch.zeros(x.shape, dtype=torch.int64, device=x.device)
    others = count.scatter_add(1, labels, named.to(count.dtype)) == 0
    margins = torch.clamp_min(1 - torch.gather(x, 1, labels).unsqueeze(2) + x.unsqueeze(1), 0)
    loss = torch.where(named.unsqueeze(2) & others.unsqueeze(1), margins, 0.0)
    loss = loss.sum((1, 2)) / x.shape[1]
    return reduced(loss if input.ndim == 2 else loss.squeeze(0), reduction)


# ------------------------------------------------------------------ of classes


def nll_loss(
    input: Any, target: Any, weight: Any = None, reduction: int = NONE, ignore_index: int = -100
) -> Any:
    """−w_y x_y, x of shape (C) or (N, C, …), y of classes; the mean is that weighted with w_y."""
    axis = 1 if input.ndim > 1 else 0
    kept = target != ignore_index
    classes = torch.where(kept, target, 0)
    chosen = torch.gather(input, axis, classes.unsqueeze(axis)).squeeze(axis)
    weights = kept.to(input.dtype) if weight is None else torch.where(kept, weight[classes], 0.0)
    loss = torch.where(kept, -chosen * weights, 0.0)
    if reduction == MEAN:
        return loss.sum() / weights.sum()
    return reduced(loss, reduction)


def cross_entropy_loss(
    input: Any,
    target: Any,
    weight: Any = None,
    reduction: int = NONE,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
) -> Any:
    """−Σ_c w_c y_c log softmax(x)_c, y of classes or probabilities."""
    axis = 1 if input.ndim > 1 else 0
    log = torch.log_softmax(input, axis)
    n, s = input.shape[axis], label_smoothing
    shape = (-1,) + (1,) * (input.ndim - axis - 1)
    weighted = log if weight is None else log * weight.reshape(shape)
    if target.shape == input.shape and target.is_floating_point():
        y = target * (1 - s) + s / n if s > 0 else target
        loss = -(weighted * y).sum(axis)
        count = max(loss.numel(), 1) if axis == 0 else loss.numel()
        return loss.sum() / count if reduction == MEAN else reduced(loss, reduction)
    plain = nll_loss(log, target, weight, reduction, ignore_index)
    if s == 0:
        return plain
    kept = target != ignore_index
    smooth = torch.where(kept, -weighted.sum(axis), 0.0)
    if reduction == MEAN:
        classes = torch.where(kept, target, 0)
        total = kept.sum() if weight is None else torch.where(kept, weight[classes], 0.0).sum()
        smooth = smooth.sum() / total
    else:
        smooth = reduced(smooth, reduction)
    return (1 - s) * plain + s / n * smooth
