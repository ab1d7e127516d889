"""Layers of neural networks in terms of simpler operations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from .. import modes
from .reductions import vector_norm


def layer_norm(
    input: Any,
    normalized_shape: Sequence[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *_: Any,
) -> Any:
    """(x − mean) / √(var + eps) · weight + bias over the last axes."""
    dims = tuple(range(-len(normalized_shape), 0))
    return _affine(_standardised(input, dims, eps), weight, bias)


def rms_norm(
    input: Any, normalized_shape: Sequence[int], weight: Any = None, eps: float | None = None
) -> Any:
    """x / √(mean x² + eps) · weight over the last axes."""
    eps = torch.finfo(input.dtype).eps if eps is None else eps
    dims = tuple(range(-len(normalized_shape), 0))
    return _affine(
        input * torch.rsqrt((input * input).mean(dims, keepdim=True) + eps), weight, None
    )


def group_norm(
    input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Any:
    """layer_norm over each group of channels."""
    shape = tuple(input.shape)
    grouped = input.reshape((shape[0], num_groups, math.prod(shape[1:]) // num_groups))
    out = _standardised(grouped, (-1,), eps).reshape(shape)
    return _affine(out, _channels(weight, input.ndim), _channels(bias, input.ndim))


def native_batch_norm(
    input: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = True,
) -> Any:
    """torch.batch_norm, whose arguments come in another order than those of F.batch_norm."""
    return batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


def native_instance_norm(
    input: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = True,
) -> Any:
    """torch.instance_norm, likewise."""
    return instance_norm(
        input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps
    )


def instance_norm(
    input: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *_: Any,
) -> Any:
    """Normalisation over the spatial axes of every sample and channel."""
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    if running_mean is not None:  # torch updates them from the values
        F.instance_norm(input.detach(), running_mean, running_var, None, None, True, momentum, eps)
    out = _standardised(input, tuple(range(2, input.ndim)), eps)
    return _affine(out, _channels(weight, input.ndim), _channels(bias, input.ndim))


_is_batched = torch.compiler.assume_constant_result(modes.is_batched)


def batch_norm(
    input: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *_: Any,
) -> Any:
    """Normalisation over all axes but the channels: by running statistics, or by the batch's own.

    In training the running statistics are updated from the values, as torch does.
    """
    if training:
        if _is_batched(input):
            raise NotImplementedError(
                "batch normalisation in training mode mixes the points of a batch, which "
                "batch_dims= declares to be independent: the derivatives by one point would be "
                "those by all. Call .eval() on the module, or normalise every point by itself "
                "(LayerNorm)"
            )
        out = _standardised(input, (0, *range(2, input.ndim)), eps)
        if running_mean is not None:
            F.batch_norm(input.detach(), running_mean, running_var, None, None, True, momentum, eps)
    else:
        mean, variance = _channels(running_mean, input.ndim), _channels(running_var, input.ndim)
        out = (input - mean) * torch.rsqrt(variance + eps)
    return _affine(out, _channels(weight, input.ndim), _channels(bias, input.ndim))


def _standardised(x: Any, dims: tuple[int, ...], eps: float) -> Any:
    centred, _, rstd = _moments(x, dims, eps)
    return centred * rstd


def _channels(parameter: Any, ndim: int) -> Any:
    return None if parameter is None else parameter.reshape((-1,) + (1,) * (ndim - 2))


def _affine(x: Any, weight: Any, bias: Any) -> Any:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def dropout(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """The same mask for a value and its coefficients."""
    if not training or p == 0:
        return input
    return input * F.dropout(torch.ones_like(input.detach()), p, True)


def dropout_channels(axes: int) -> Any:
    """dropout1d, dropout2d, dropout3d: whole channels of so many axes at once."""

    def rule(input: Any, p: float = 0.5, training: bool = True, inplace: bool = False) -> Any:
        if not training or p == 0:
            return input
        kept = tuple(input.shape)[: input.ndim - axes] + (1,) * axes
        mask = F.dropout(torch.ones(kept, dtype=input.dtype, device=input.device), p, True)
        return input * mask

    return rule


def feature_dropout(
    input: Any, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Any:
    """Whole channels, those of the second axis."""
    return dropout_channels(input.ndim - 2)(input, p, training)


def alpha_dropout(input: Any, p: float = 0.5, training: bool = False, inplace: bool = False) -> Any:
    """Dropout to −αλ of selu, scaled back to mean 0 and variance 1 (Klambauer and others 2017)."""
    return _alpha_dropout(input, p, training, tuple(input.shape))


def feature_alpha_dropout(
    input: Any, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Any:
    """The same for whole channels."""
    shape = tuple(input.shape)
    return _alpha_dropout(input, p, training, shape[:2] + (1,) * (len(shape) - 2))


def _alpha_dropout(input: Any, p: float, training: bool, shape: tuple[int, ...]) -> Any:
    if not training or p == 0:
        return input
    if p == 1:
        return input * 0
    alpha = -1.6732632423543772 * 1.0507009873554805
    keep = torch.bernoulli(torch.full(shape, 1 - p, dtype=input.dtype, device=input.device))
    a = 1 / math.sqrt((1 - p) * (1 + p * alpha**2))
    return input * (keep * a) + ((1 - keep) * alpha * a - a * alpha * p)


def scaled_dot_product_attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """softmax(q kᵀ / √d + mask) v, divided by the sum of the weights at the end: exponentials of
    products depend on one query and one key, normalised weights on all keys."""
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
        value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * scale) @ key.transpose(-2, -1)
    if is_causal:
        allowed = torch.ones(
            scores.shape[-2], scores.shape[-1], dtype=torch.bool, device=scores.device
        ).tril()
        scores = scores.masked_fill(~allowed, -math.inf)
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -math.inf)
        else:
            scores = scores + attn_mask
    if scores.numel() == 0:
        return dropout(torch.softmax(scores, -1), dropout_p) @ value
    weights = torch.exp(scores - scores.detach().amax(-1, keepdim=True))
    total = weights.sum(-1, keepdim=True)
    return (dropout(weights, dropout_p) @ value) * torch.reciprocal(total)


def embedding(
    input: Any, weight: Any, padding_idx: Any = None, max_norm: Any = None, *_: Any, **__: Any
) -> Any:
    """The rows of a weight that is a jet."""
    if max_norm is not None:
        raise NotImplementedError(
            "embedding with max_norm rewrites its weight; normalise the rows with F.normalize"
        )
    return weight[input]


def weight_norm(v: Any, g: Any, dim: int = 0) -> Any:
    """g · v/‖v‖, the norm over all axes but one (all, for −1)."""
    axes = tuple(k for k in range(v.ndim) if k != dim)
    return v * (g / vector_norm(v, 2, axes, keepdim=True))


def linear_cross_entropy(
    input: Any,
    linear_weight: Any,
    target: Any,
    *,
    linear_bias: Any = None,
    weight: Any = None,
    reduction: str = "mean",
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    options: Any = None,
) -> Any:
    """cross_entropy of a linear layer, in one piece: options say how PyTorch cuts it."""
    classes, features = linear_weight.shape[0], tuple(linear_weight.shape[1:-1])
    matrix = linear_weight.reshape(-1, input.shape[-1])
    bias = None if linear_bias is None else linear_bias.reshape(-1)
    logits = F.linear(input, matrix, bias)
    return F.cross_entropy(
        logits.reshape(*input.shape[:-1], classes, *features),
        target,
        weight,
        ignore_index=-100 if ignore_index is None else ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )


# ------------------------------------------------------------------ what the layers call


def native_layer_norm(
    input: Any, normalized_shape: Sequence[int], weight: Any, bias: Any, eps: float
) -> Any:
    """layer_norm, the mean and 1/√(var + eps)."""
    dims = tuple(range(-len(normalized_shape), 0))
    centred, mean, rstd = _moments(input, dims, eps)
    return _affine(centred * rstd, weight, bias), mean, rstd


def native_group_norm(
    input: Any, weight: Any, bias: Any, N: int, C: int, HxW: int, group: int, eps: float
) -> Any:
    """group_norm, the mean and 1/√(var + eps)."""
    centred, mean, rstd = _moments(input.reshape(N, group, C // group * HxW), (-1,), eps)
    out = (centred * rstd).reshape(tuple(input.shape))
    out = _affine(out, _channels(weight, input.ndim), _channels(bias, input.ndim))
    return out, mean.squeeze(-1), rstd.squeeze(-1)


def plain_batch_norm(
    input: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    training: bool,
    momentum: float,
    eps: float,
) -> Any:
    """batch_norm, and in training the mean and 1/√(var + eps) of the batch."""
    if isinstance(running_mean, bool):  # torch._native_batch_norm_legit without statistics
        training, momentum, eps = running_mean, running_var, training
        running_mean = running_var = None
    out = batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    if not training:
        empty = input.detach().new_empty(0)
        return out, empty, empty
    dims = (0, *range(2, input.ndim))
    _, mean, rstd = _moments(input, dims, eps)
    return out, mean.reshape(-1), rstd.reshape(-1)


def batch_norm_with_update(
    input: Any,
    weight: Any,
    bias: Any,
    running_mean: Any,
    running_var: Any,
    momentum: float,
    eps: float,
) -> Any:
    """The same in training, with a reserve that nobody looks at."""
    found = plain_batch_norm(input, weight, bias, running_mean, running_var, True, momentum, eps)
    return (*found, torch.empty(0, dtype=torch.uint8, device=input.device))


def _moments(x: Any, dims: tuple[int, ...], eps: float) -> Any:
    """x − mean, the mean and 1/√(var + eps)."""
    mean = x.mean(dims, keepdim=True)
    centred = x - mean
    return centred, mean, torch.rsqrt((centred * centred).mean(dims, keepdim=True) + eps)
