"""Composite operations of PyTorch in terms of simpler ones, for jets.

Signatures follow torch.nn.functional and torch; the formulas are those of its documentation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from .lifts import is_tensor

_EINSUM_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


def softmax(
    input: Any, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None, **_: Any
) -> Any:
    """e^x / Σ e^x; shifting by the maximum changes no derivative."""
    if isinstance(_stacklevel, torch.dtype):  # torch.softmax(x, dim, dtype)
        dtype = _stacklevel
    x = input if dtype is None else input.to(dtype)
    dim = _softmax_dim(x, dim)
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
    m = input.detach().amax(dim, keepdim=True)
    m = torch.where(torch.isfinite(m), m, torch.zeros_like(m))
    total = torch.log(torch.exp(input - m).sum(dim, keepdim=True)) + m
    if keepdim:
        return total
    dims = sorted((d % input.ndim for d in ([dim] if isinstance(dim, int) else dim)), reverse=True)
    for d in dims:
        total = total.squeeze(d)
    return total


def logaddexp(input: Any, other: Any) -> Any:
    """log(e^x + e^y) = max + log1p(e^{−|x−y|})."""
    difference = input - other
    return other + F.softplus(difference, threshold=math.inf)


def logaddexp2(input: Any, other: Any) -> Any:
    """log2(2^x + 2^y)."""
    return logaddexp(input * math.log(2), other * math.log(2)) / math.log(2)


def glu(input: Any, dim: int = -1) -> Any:
    """a · σ(b), a and b the halves of the input."""
    a, b = torch.chunk(input, 2, dim)
    return a * torch.sigmoid(b)


def prelu(input: Any, weight: Any) -> Any:
    """x for x > 0, w·x below."""
    if weight.numel() > 1:
        weight = weight.reshape((-1,) + (1,) * max(input.ndim - 2, 0))
    return torch.where(input > 0, input, weight * input)


def square_length(x: Any) -> Any:
    """|x|², also of complex x."""
    return x.real**2 + x.imag**2 if x.is_complex() else x * x


def root(square: Any) -> Any:
    """√s of a sum of squares: as in torch, all derivatives are zero where s is."""
    zero = square.detach() == 0
    return torch.where(zero, 0.0, torch.sqrt(torch.where(zero, 1.0, square)))


def absolute(input: Any) -> Any:
    """|z| = √(re² + im²) of complex z."""
    return root(square_length(input))


def phase(input: Any) -> Any:
    """z/|z| of complex z, 0 at 0."""
    return input / torch.where(input.detach() == 0, 1.0, absolute(input))


def angle(input: Any) -> Any:
    """The angle of complex z."""
    return atan2(input.imag, input.real)


def polar(abs: Any, angle: Any) -> Any:
    """r e^{iφ}."""
    return torch.complex(abs * torch.cos(angle), abs * torch.sin(angle))


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
        raise NotImplementedError(
            "torch.norm(x, 'nuc') has no rule; write torch.linalg.svdvals(x).sum(-1)"
        )
    return vector_norm(input, 2 if p in ("fro", None) else p, dim, keepdim, dtype=dtype)


def linalg_norm(
    input: Any, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None
) -> Any:
    """torch.linalg.norm: vector norms, and the Frobenius norm of matrices."""
    axes = input.ndim if dim is None else (1 if isinstance(dim, int) else len(dim))
    if ord is None or ord == "fro":
        return vector_norm(input, 2, dim, keepdim, dtype=dtype)
    if axes == 1 and ord != "nuc":
        return vector_norm(input, ord, dim, keepdim, dtype=dtype)
    raise NotImplementedError(
        f"torch.linalg.norm with ord={ord!r} of matrices has no rule; write it with "
        "torch.linalg.svdvals, or use the Frobenius norm (ord=None)"
    )


def normalize(input: Any, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Any = None) -> Any:
    """x / max(‖x‖_p, eps)."""
    return input / vector_norm(input, p, dim, keepdim=True).clamp_min(eps)


def cosine_similarity(x1: Any, x2: Any, dim: int = 1, eps: float = 1e-8) -> Any:
    """x·y / (max(‖x‖, eps) · max(‖y‖, eps))."""
    scale = vector_norm(x1, 2, dim).clamp_min(eps) * vector_norm(x2, 2, dim).clamp_min(eps)
    return (x1 * x2).sum(dim) / scale


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
    grouped = input.reshape((shape[0], num_groups, -1))
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
        out = _standardised(input, (0, *range(2, input.ndim)), eps)
        if running_mean is not None:
            F.batch_norm(input.detach(), running_mean, running_var, None, None, True, momentum, eps)
    else:
        mean, variance = _channels(running_mean, input.ndim), _channels(running_var, input.ndim)
        out = (input - mean) * torch.rsqrt(variance + eps)
    return _affine(out, _channels(weight, input.ndim), _channels(bias, input.ndim))


def _standardised(x: Any, dims: tuple[int, ...], eps: float) -> Any:
    centred = x - x.mean(dims, keepdim=True)
    return centred * torch.rsqrt((centred * centred).mean(dims, keepdim=True) + eps)


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


def rrelu(
    input: Any,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Any:
    """leaky_relu with a random slope in training, with the mean slope otherwise."""
    if not training:
        return F.leaky_relu(input, (lower + upper) / 2)
    slopes = torch.empty_like(input.detach()).uniform_(lower, upper)
    return torch.where(input.detach() > 0, input, input * slopes)


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
    """softmax(q kᵀ / √d + mask) v."""
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
    return dropout(torch.softmax(scores, -1), dropout_p) @ value


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


def matmul(input: Any, other: Any) -> Any:
    """torch.matmul with every operand brought to the same number of axes, at least two."""
    left, right = input.ndim == 1, other.ndim == 1
    u = input.unsqueeze(0) if left else input
    v = other.unsqueeze(-1) if right else other
    while u.ndim < v.ndim:
        u = u.unsqueeze(0)
    while v.ndim < u.ndim:
        v = v.unsqueeze(0)
    out = torch.bmm(u, v)  # to the rule for stacked matrices, of any number of axes
    if right:
        out = out.squeeze(-1)
    return out.squeeze(-1 if right else -2) if left else out


def addmm(input: Any, mat1: Any, mat2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """β·input + α·mat1 @ mat2; also addmv, addbmm and baddbmm in their own shapes."""
    return beta * input + alpha * torch.matmul(mat1, mat2)


def addbmm(input: Any, batch1: Any, batch2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """β·input + α·Σ_b batch1[b] @ batch2[b]."""
    return beta * input + alpha * torch.matmul(batch1, batch2).sum(0)


def addr(input: Any, vec1: Any, vec2: Any, *, beta: Any = 1, alpha: Any = 1) -> Any:
    """β·input + α·vec1 vec2ᵀ."""
    return beta * input + alpha * outer(vec1, vec2)


def outer(input: Any, vec2: Any) -> Any:
    """u vᵀ."""
    return input.unsqueeze(-1) * vec2.unsqueeze(0)


def dot(input: Any, other: Any) -> Any:
    """Σ u v."""
    return (input * other).sum()


def inner(input: Any, other: Any) -> Any:
    """Σ over the last axes of both."""
    if input.ndim == 0 or other.ndim == 0:
        return input * other
    return tensordot(input, other, ([-1], [-1]))


def multi_dot(*tensors: Any) -> Any:
    """A product of several matrices, from the left."""
    if len(tensors) == 1 and isinstance(tensors[0], (list, tuple)):
        tensors = tuple(tensors[0])
    out = tensors[0]
    for other in tensors[1:]:
        out = torch.matmul(out, other)
    return out


def matrix_power(input: Any, n: int) -> Any:
    """Aⁿ by repeated squares, of the inverse for n < 0."""
    base = input if n >= 0 else torch.linalg.inv(input)
    out, n = None, abs(n)
    while n:
        if n % 2:
            out = base if out is None else torch.matmul(out, base)
        n //= 2
        base = torch.matmul(base, base) if n else base
    if out is None:
        one = torch.eye(input.shape[-1], dtype=input.dtype, device=input.device)
        return torch.zeros_like(input) + one
    return out


def cholesky_inverse(L: Any, upper: bool = False) -> Any:
    """(L Lᵀ)⁻¹ of the triangle of a Cholesky factor."""
    factor = torch.triu(L).mT if upper else torch.tril(L)
    return torch.linalg.inv(factor @ factor.mT.conj())


def cholesky_solve(B: Any, L: Any, upper: bool = False) -> Any:
    """(L Lᴴ)⁻¹ B, or (Uᴴ U)⁻¹ B of an upper factor."""
    middle = torch.linalg.solve_triangular(L.mH if upper else L, B, upper=False)
    return torch.linalg.solve_triangular(L if upper else L.mH, middle, upper=True)


def cholesky_ex(A: Any, *, upper: bool = False, check_errors: bool = False) -> Any:
    """torch.linalg.cholesky_ex, of a matrix that is positive definite."""
    factor = torch.linalg.cholesky(A, upper=upper)
    return FactorInfo(factor, torch.zeros(A.shape[:-2], dtype=torch.int32, device=A.device))


class FactorInfo(NamedTuple):
    """What torch.linalg.cholesky_ex returns."""

    L: Any
    info: Any


def solve_ex(A: Any, B: Any, *, left: bool = True, check_errors: bool = False) -> Any:
    """torch.linalg.solve_ex, without a look at the pivots."""
    x = torch.linalg.solve(A, B, left=left)
    return x, torch.zeros(A.shape[:-2], dtype=torch.int32, device=A.device)


def inv_ex(A: Any, *, check_errors: bool = False) -> Any:
    """torch.linalg.inv_ex, likewise."""
    x = torch.linalg.inv(A)
    return x, torch.zeros(A.shape[:-2], dtype=torch.int32, device=A.device)


def slogdet_by_factors(A: Any) -> Any:
    """slogdet from the factors L U of A: for plain tensors, where derivatives are nested."""
    factors, pivots = torch.linalg.lu_factor(A)
    u = factors.diagonal(0, -2, -1)
    swaps = (pivots != torch.arange(1, A.shape[-1] + 1, device=A.device)).sum(-1)
    sign = torch.where(swaps % 2 == 0, 1, -1) * torch.sgn(u).prod(-1)
    return SignLogabsdet(sign, torch.log(torch.abs(u)).sum(-1))


def det_by_factors(A: Any) -> Any:
    """det, likewise."""
    factors, pivots = torch.linalg.lu_factor(A)
    swaps = (pivots != torch.arange(1, A.shape[-1] + 1, device=A.device)).sum(-1)
    return torch.where(swaps % 2 == 0, 1, -1) * factors.diagonal(0, -2, -1).prod(-1)


def log_det_by_factors(A: Any) -> Any:
    """logdet, likewise."""
    sign, modulus = slogdet_by_factors(A)
    return modulus + torch.log(sign)


def solve_by_inverse(A: Any, B: Any, *, left: bool = True) -> Any:
    """solve, likewise."""
    inverse = torch.linalg.inv(A)
    if not left:
        return B @ inverse
    if B.ndim == 1 or (A.ndim - 1 == B.ndim and tuple(A.shape[:-1]) == tuple(B.shape)):
        return (inverse @ B.unsqueeze(-1)).squeeze(-1)
    return inverse @ B


class SignLogabsdet(NamedTuple):
    """What torch.linalg.slogdet returns."""

    sign: Any
    logabsdet: Any


def log_det(input: Any) -> Any:
    """log det A, nan where it is negative."""
    sign, modulus = torch.linalg.slogdet(input)
    if sign.is_complex():
        return modulus + torch.log(sign)
    return torch.where(sign.detach() < 0, math.nan, modulus)


def bilinear(input1: Any, input2: Any, weight: Any, bias: Any = None) -> Any:
    """xᵀ W_k y + b_k."""
    out = torch.einsum("...i,kij,...j->...k", input1, weight, input2)
    return out if bias is None else out + bias


def embedding(
    input: Any, weight: Any, padding_idx: Any = None, max_norm: Any = None, *_: Any, **__: Any
) -> Any:
    """The rows of a weight that is a jet."""
    if max_norm is not None:
        raise NotImplementedError(
            "embedding with max_norm rewrites its weight; normalise the rows with F.normalize"
        )
    return weight[input]


def vdot(input: Any, other: Any) -> Any:
    """Σ ū v."""
    return (torch.conj(input) * other).sum() if input.is_complex() else (input * other).sum()


def vecdot(x: Any, y: Any, *, dim: int = -1) -> Any:
    """Σ x̄ y along an axis."""
    return ((torch.conj(x) if x.is_complex() else x) * y).sum(dim)


def first_cross(input: Any, other: Any, dim: int | None = None) -> Any:
    """torch.cross: along the first axis of length three, unless another is named."""
    if dim is None:
        dim = list(input.shape).index(3) - input.ndim
    return cross(input, other, dim=dim)


def cross(input: Any, other: Any, *, dim: int = -1) -> Any:
    """The cross product along an axis of length three."""
    a, b = input.unbind(dim), other.unbind(dim)
    return torch.stack(
        [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]], dim
    )


def addcmul(input: Any, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Any:
    """input + value · tensor1 · tensor2."""
    term = tensor1 * tensor2
    return input + (term if isinstance(value, int) and value == 1 else term * value)


def addcdiv(input: Any, tensor1: Any, tensor2: Any, *, value: Any = 1) -> Any:
    """input + value · tensor1 / tensor2."""
    return input + value * (tensor1 / tensor2)


def lerp(input: Any, end: Any, weight: Any) -> Any:
    """start + weight · (end − start)."""
    return input + weight * (end - input)


def hypot(input: Any, other: Any) -> Any:
    """√(x² + y²)."""
    return root(input * input + other * other)


def atan2(input: Any, other: Any) -> Any:
    """The angle of (x, y): the derivatives of atan(y/x), or of −atan(x/y) where |y| is larger."""
    y, x = input, other
    y0 = y.detach() if is_tensor(y) else torch.as_tensor(y)
    x0 = x.detach() if is_tensor(x) else torch.as_tensor(x)
    steep = y0.abs() > x0.abs()
    one = torch.ones_like(steep, dtype=y0.dtype)
    flat = torch.atan(y / torch.where(steep, one, x))
    turned = -torch.atan(x / torch.where(steep, y, one))
    angle = torch.where(steep, turned, flat)
    return angle + (torch.atan2(y0, x0) - angle.detach())


def xlogy(input: Any, other: Any) -> Any:
    """x log y; 0 where x = 0 and log y is no number."""
    if not is_tensor(other):
        return input * (math.log(other) if other > 0 else math.nan)
    masked = (_value(other) <= 0) & (_value(input) == 0)
    return torch.where(masked, 0.0, input * torch.log(torch.where(masked, 1.0, other)))


def _value(x: Any) -> Any:
    return x.detach() if is_tensor(x) else x


def remainder(input: Any, other: Any) -> Any:
    """x − ⌊x/y⌋ y."""
    quotient = torch.floor(_value(input) / _value(other))
    return input - quotient * other


def fmod(input: Any, other: Any) -> Any:
    """x − trunc(x/y) y."""
    quotient = torch.trunc(_value(input) / _value(other))
    return input - quotient * other


def frac(input: Any) -> Any:
    """x − trunc(x)."""
    return input - torch.trunc(input.detach())


def copysign(input: Any, other: Any) -> Any:
    """|x| with the sign of y."""
    flips = torch.signbit(input.detach()) != torch.signbit(torch.as_tensor(_value(other)))
    return torch.where(flips, -input, input)


def ldexp(input: Any, other: Any) -> Any:
    """x 2^y."""
    return input * torch.pow(2.0, other)


def nan_to_num(
    input: Any, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Any:
    """Numbers in the place of nan and ±∞."""
    u = input.detach()
    return torch.where(torch.isfinite(u), input, torch.nan_to_num(u, nan, posinf, neginf))


def maximum(input: Any, other: Any) -> Any:
    """The larger of the two; nan wins."""
    a, b = _value(input), _value(other)
    return torch.where((a >= b) | torch.isnan(a), input, other)


def minimum(input: Any, other: Any) -> Any:
    """The smaller of the two; nan wins."""
    a, b = _value(input), _value(other)
    return torch.where((a <= b) | torch.isnan(a), input, other)


def fmax(input: Any, other: Any) -> Any:
    """The larger of the two; nan loses."""
    a, b = _value(input), _value(other)
    return torch.where((a >= b) | torch.isnan(b), input, other)


def fmin(input: Any, other: Any) -> Any:
    """The smaller of the two; nan loses."""
    a, b = _value(input), _value(other)
    return torch.where((a <= b) | torch.isnan(b), input, other)


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


def clamp(input: Any, min: Any = None, max: Any = None) -> Any:
    """The input between two bounds; at a bound the derivative is that of the input, as in torch."""
    if min is not None:
        input = torch.where(_value(input) < _value(min), min, input)
    if max is not None:
        input = torch.where(_value(input) > _value(max), max, input)
    return input


def clamp_min(input: Any, min: Any) -> Any:
    """The input, at least `min`."""
    return clamp(input, min)


def clamp_max(input: Any, max: Any) -> Any:
    """The input, at most `max`."""
    return clamp(input, None, max)


def masked_fill(input: Any, mask: Any, value: Any) -> Any:
    """`value` where the mask is set."""
    return torch.where(mask, value, input)


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


def lgamma_sum(input: Any, p: int) -> Any:
    """log Γ_p(x) = p(p−1)/4 log π + Σ_j log Γ(x − j/2)."""
    shifts = torch.arange(p, dtype=input.dtype, device=input.device) / 2
    return torch.lgamma(input.unsqueeze(-1) - shifts).sum(-1) + p * (p - 1) / 4 * math.log(math.pi)


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


def diff(input: Any, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Any:
    """x[k + 1] − x[k], n times."""
    parts = [x for x in (prepend, input, append) if x is not None]
    x = torch.cat(parts, dim) if len(parts) > 1 else input
    for _ in range(n):
        length = x.shape[dim] - 1
        x = x.narrow(dim, 1, length) - x.narrow(dim, 0, length)
    return x


def weight_norm(v: Any, g: Any, dim: int = 0) -> Any:
    """g · v/‖v‖, the norm over all axes but one (all, for −1)."""
    axes = tuple(k for k in range(v.ndim) if k != dim)
    return v * (g / vector_norm(v, 2, axes, keepdim=True))


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


def sum_to_size(input: Any, *size: Any) -> Any:
    """Summed over the axes that a tensor of this size would be broadcast along."""
    target = tuple(size[0]) if len(size) == 1 and isinstance(size[0], (list, tuple)) else size
    lead = input.ndim - len(target)
    x = input.sum(tuple(range(lead))) if lead else input
    axes = tuple(k for k, n in enumerate(target) if n == 1 and x.shape[k] != 1)
    return x.sum(axes, keepdim=True) if axes else x


def vstack(tensors: Sequence[Any]) -> Any:
    """cat along the first axis, of vectors as rows."""
    return torch.cat([x.reshape(1, -1) if x.ndim < 2 else x for x in tensors], 0)


def column_stack(tensors: Sequence[Any]) -> Any:
    """cat along the second axis, of vectors as columns."""
    return torch.cat([x.reshape(-1, 1) if x.ndim < 2 else x for x in tensors], 1)


def unused_letter(letters: str) -> str:
    """A letter for an axis of its own."""
    return next(c for c in reversed(_EINSUM_LETTERS) if c not in letters)


def equation_from_sublists(args: Sequence[Any]) -> tuple[str, list[Any]]:
    """The text form of einsum(x, [0, 1], y, [1, 2], [0, 2])."""
    names = _EINSUM_LETTERS

    def text(sublist: Sequence[Any]) -> str:
        return "".join("..." if item is Ellipsis else names[item] for item in sublist)

    pairs = len(args) // 2
    equation = ",".join(text(args[2 * k + 1]) for k in range(pairs))
    if len(args) % 2:
        equation += "->" + text(args[-1])
    return equation, [args[2 * k] for k in range(pairs)]


def explicit_equation(equation: str, operands: Sequence[Any]) -> tuple[list[str], str]:
    """The equation with its output written out and letters in the place of the ellipsis."""
    equation = equation.replace(" ", "")
    left, arrow, out = equation.partition("->")
    inputs = left.split(",")
    used = set(equation)
    free = [c for c in _EINSUM_LETTERS if c not in used]
    counts = [
        x.ndim - len(term.replace("...", "")) for term, x in zip(inputs, operands, strict=True)
    ]
    most = max([0, *[n for n, term in zip(counts, inputs, strict=True) if "..." in term]])
    batch = "".join(free[:most])
    inputs = [
        term.replace("...", batch[most - n :]) for n, term in zip(counts, inputs, strict=True)
    ]
    if arrow:
        return inputs, out.replace("...", batch)
    letters = left.replace("...", "").replace(",", "")
    return inputs, batch + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))


def tensordot(a: Any, b: Any, dims: Any = 2, out: Any = None) -> Any:
    """Σ over paired axes."""
    if isinstance(dims, int):
        dims = (list(range(a.ndim - dims, a.ndim)), list(range(dims)))
    left = [d % a.ndim for d in dims[0]]
    right = [d % b.ndim for d in dims[1]]
    names = _EINSUM_LETTERS
    a_letters = list(names[: a.ndim])
    b_letters = list(names[a.ndim : a.ndim + b.ndim])
    for i, j in zip(left, right, strict=True):
        b_letters[j] = a_letters[i]
    kept = [c for k, c in enumerate(a_letters) if k not in left]
    kept += [c for k, c in enumerate(b_letters) if k not in right]
    equation = f"{''.join(a_letters)},{''.join(b_letters)}->{''.join(kept)}"
    return torch.einsum(equation, a, b)


def mse_loss(input: Any, target: Any, *_: Any, reduction: str = "mean", **__: Any) -> Any:
    """(x − y)², reduced."""
    return _reduced((input - target) ** 2, reduction)


def l1_loss(input: Any, target: Any, *_: Any, reduction: str = "mean", **__: Any) -> Any:
    """|x − y|, reduced."""
    return _reduced((input - target).abs(), reduction)


def _reduced(x: Any, reduction: str) -> Any:
    return x.mean() if reduction == "mean" else (x.sum() if reduction == "sum" else x)
