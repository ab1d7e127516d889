"""The kinds of network in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from .backends import Backend
from .kinds import APART, HEADS, Apply, Weights
from .wavefunctions.molecule import diatomic
from .wavefunctions.torch import Psiformer

Norm = Callable[[Any, Any, Any], Any]
"""(h, gain, offset) -> h, normalised over its last axis."""


def layer_norm(h: Any, gain: Any, offset: Any) -> Any:
    """PyTorch's."""
    return F.layer_norm(h, h.shape[-1:], gain, offset)


def written_out_norm(h: Any, gain: Any, offset: Any, eps: float = 1e-5) -> Any:
    """The same function."""
    centred = h - h.mean(-1, keepdim=True)
    return centred * torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps) * gain + offset


def attention(for_nested: bool) -> AbstractContextManager[Any]:
    """Within it, attention is made of operations that have forward mode, if need be."""
    return sdpa_kernel(SDPBackend.MATH) if for_nested else nullcontext()


def ripple(w: Mapping[str, Any], x: Any, norm: Norm) -> Any:
    bell = torch.exp(-x.square().sum(-1, keepdim=True) / 4)
    return bell * torch.sin(0.5 + x.sum(-1, keepdim=True))


def resnet(w: Mapping[str, Any], x: Any, norm: Norm) -> Any:
    h = x @ w["in"]
    for inner, shift, outer in zip(w["inner"], w["shift"], w["outer"], strict=True):
        h = h + torch.tanh(h @ inner + shift) @ outer
    return h @ w["out"]


def transformer(w: Mapping[str, Any], x: Any, norm: Norm) -> Any:
    h = x[..., None] * w["embed"] + w["places"]
    layers = (w[name] for name in ("qkv", "mix", "up", "down", "gain", "offset"))
    for qkv, mix, up, down, gain, offset in zip(*layers, strict=True):
        q, k, v = (
            part.unflatten(-1, (HEADS, -1)).transpose(-3, -2)
            for part in (norm(h, gain[0], offset[0]) @ qkv).chunk(3, -1)
        )
        attended = F.scaled_dot_product_attention(q, k, v)
        h = h + attended.transpose(-3, -2).flatten(-2) @ mix
        h = h + F.gelu(norm(h, gain[1], offset[1]) @ up) @ down
    return h.mean(-2) @ w["out"]


def fno(w: Mapping[str, Any], x: Any, norm: Norm) -> Any:
    grid = torch.linspace(0, 1, x.shape[-1], dtype=x.dtype, device=x.device).expand(x.shape)
    h = torch.stack([x, grid], -1) @ w["lift"]
    layers = (w[name] for name in ("real", "imaginary", "local", "shift"))
    for real, imaginary, local, shift in zip(*layers, strict=True):
        modes = torch.fft.rfft(h, dim=-2, norm="ortho")[..., : len(real), :]
        mixed = torch.einsum("...ki,kio->...ko", modes, torch.complex(real, imaginary))
        smooth = torch.fft.irfft(mixed, h.shape[-2], dim=-2, norm="ortho")
        h = F.gelu(smooth + h @ local + shift)
    return h.mean(-2) @ w["out"]


NETWORKS = {"ripple": ripple, "resnet": resnet, "transformer": transformer, "fno": fno}


def made(
    kind: str, weights: Weights, backend: Backend, dtype: str, for_nested: bool
) -> tuple[list[Any], Apply]:
    """The parameters, and the network."""
    function = partial(NETWORKS[kind], norm=written_out_norm if for_nested else layer_norm)
    parameters = [torch.nn.Parameter(backend.array(array, dtype)) for array in weights.values()]

    def apply(parameters: Any, x: Any) -> Any:
        with attention(for_nested):
            return function(dict(zip(weights, parameters, strict=True)), x)

    return parameters, apply


class WrittenOut(torch.nn.Module):
    """A layer norm that nested differentiation differentiates rightly."""

    def __init__(self, norm: torch.nn.LayerNorm) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, h: Any) -> Any:
        return written_out_norm(h, self.weight, self.bias, self.eps)


def psiformer(
    electrons: int,
    width: int,
    heads: int,
    backend: Backend,
    dtype: str,
    seed: int,
    for_nested: bool,
) -> tuple[list[Any], Apply]:
    """log|ψ| of electrons between two nuclei. The module holds the parameters."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = Psiformer(diatomic(electrons), width, heads, determinants=2)
        with torch.no_grad():
            for layer in module.orbitals:
                layer.weight *= APART
    module.to(backend.device, getattr(torch, dtype))
    if for_nested:
        for layer in module.layers:
            layer.before, layer.between = WrittenOut(layer.before), WrittenOut(layer.between)

    def log(point: Any) -> Any:
        return module(point.reshape(electrons, 3))[1][None]

    def apply(parameters: Any, x: Any) -> Any:
        with attention(for_nested):
            return torch.func.vmap(log)(x)

    return list(module.parameters()), apply
