"""Functions of every entry, in terms of simpler ones."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from ..lifts import is_tensor


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
    u = input.detach()  # the very slopes that PyTorch draws
    slopes = torch.where(u < 0, F.rrelu(u, lower, upper, True) / torch.where(u < 0, u, 1.0), 1.0)
    return input * slopes


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


def xlogy(input: Any, other: Any) -> Any:
    """x log y; 0 where x = 0 and log y is no number."""
    if not is_tensor(other):
        return input * (math.log(other) if other > 0 else math.nan)
    masked = (_value(other) <= 0) & (_value(input) == 0)
    return torch.where(masked, 0.0, input * torch.log(torch.where(masked, 1.0, other)))


def xlog1py(input: Any, other: Any) -> Any:
    """x log(1 + y); 0 where x = 0 and the logarithm is no number."""
    if not is_tensor(other):
        return input * (math.log1p(other) if other > -1 else math.nan)
    masked = (_value(other) <= -1) & (_value(input) == 0)
    return torch.where(masked, 0.0, input * torch.log1p(torch.where(masked, 0.0, other)))


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


def frexp(input: Any) -> Any:
    """x = mantissa · 2^exponent, the exponent constant."""
    exponent = torch.frexp(input.detach()).exponent
    return MantissaExponent(torch.ldexp(input, -exponent), exponent)


class MantissaExponent(NamedTuple):
    """What torch.frexp returns."""

    mantissa: Any
    exponent: Any


def lgamma_sum(input: Any, p: int) -> Any:
    """log Γ_p(x) = p(p−1)/4 log π + Σ_j log Γ(x − j/2)."""
    shifts = torch.arange(p, dtype=input.dtype, device=input.device) / 2
    return torch.lgamma(input.unsqueeze(-1) - shifts).sum(-1) + p * (p - 1) / 4 * math.log(math.pi)
