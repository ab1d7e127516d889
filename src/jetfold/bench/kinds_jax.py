"""The kinds of network in JAX."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .backends import Backend
from .kinds import APART, HEADS, Apply, Weights
from .wavefunctions.molecule import diatomic


def layer_norm(h: Any, gain: Any, offset: Any, eps: float = 1e-5) -> Any:
    centred = h - h.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + eps) * gain + offset


def ripple(w: Mapping[str, Any], x: Any) -> Any:
    bell = jnp.exp(-(x**2).sum(-1, keepdims=True) / 4)
    return bell * jnp.sin(0.5 + x.sum(-1, keepdims=True))


def resnet(w: Mapping[str, Any], x: Any) -> Any:
    h = x @ w["in"]
    for inner, shift, outer in zip(w["inner"], w["shift"], w["outer"], strict=True):
        h = h + jnp.tanh(h @ inner + shift) @ outer
    return h @ w["out"]


def attention(*qkv: Any) -> Any:
    """Softmax of the products of queries and keys, by heads. (JAX's own rounds to float32.)"""
    q, k, v = (part.reshape(*part.shape[:-1], HEADS, -1) for part in qkv)
    products = jnp.einsum("...qhd,...khd->...hqk", q, k) * q.shape[-1] ** -0.5
    return jnp.einsum("...hqk,...khd->...qhd", jax.nn.softmax(products), v).reshape(qkv[0].shape)


def transformer(w: Mapping[str, Any], x: Any) -> Any:
    h = x[..., None] * w["embed"] + w["places"]
    layers = (w[name] for name in ("qkv", "mix", "up", "down", "gain", "offset"))
    for qkv, mix, up, down, gain, offset in zip(*layers, strict=True):
        h = h + attention(*jnp.split(layer_norm(h, gain[0], offset[0]) @ qkv, 3, -1)) @ mix
        h = h + jax.nn.gelu(layer_norm(h, gain[1], offset[1]) @ up, approximate=False) @ down
    return h.mean(-2) @ w["out"]


def fno(w: Mapping[str, Any], x: Any) -> Any:
    grid = jnp.broadcast_to(jnp.linspace(0, 1, x.shape[-1], dtype=x.dtype), x.shape)
    h = jnp.stack([x, grid], -1) @ w["lift"]
    layers = (w[name] for name in ("real", "imaginary", "local", "shift"))
    for real, imaginary, local, shift in zip(*layers, strict=True):
        modes = jnp.fft.rfft(h, axis=-2, norm="ortho")[..., : len(real), :]
        mixed = jnp.einsum("...ki,kio->...ko", modes, jax.lax.complex(real, imaginary))
        smooth = jnp.fft.irfft(mixed, h.shape[-2], axis=-2, norm="ortho")
        h = jax.nn.gelu(smooth + h @ local + shift, approximate=False)
    return h.mean(-2) @ w["out"]


NETWORKS = {"ripple": ripple, "resnet": resnet, "transformer": transformer, "fno": fno}


def made(
    kind: str, weights: Weights, backend: Backend, dtype: str, for_nested: bool
) -> tuple[dict[str, Any], Apply]:
    """The parameters, and the network. (Nested differentiation needs no other.)"""
    return {name: backend.array(array, dtype) for name, array in weights.items()}, NETWORKS[kind]


def psiformer(
    electrons: int,
    width: int,
    heads: int,
    backend: Backend,
    dtype: str,
    seed: int,
    for_nested: bool,
) -> tuple[Any, Apply]:
    """log|ψ| of electrons between two nuclei."""
    from .wavefunctions.psiformer import Psiformer

    network = Psiformer(diatomic(electrons), width, heads, determinants=2)
    with jax.enable_x64(False):  # the same numbers in every dtype
        drawn = jax.jit(network.init)(jax.random.key(seed), jnp.ones((electrons, 3)))
        determinants = drawn["params"]["Determinants_0"]
        for name in (name for name in determinants if name.startswith("Orbitals")):
            determinants[name]["Dense_0"]["kernel"] *= APART
    parameters = jax.tree.map(lambda leaf: backend.array(np.asarray(leaf), dtype), drawn)

    def apply(parameters: Any, x: Any) -> Any:
        def log(point: Any) -> Any:
            return network.apply(parameters, point.reshape(electrons, 3))[1][None]

        return jax.vmap(log)(x)

    return parameters, apply
