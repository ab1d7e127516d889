"""LapNet: attention whose weights depend on two electrons only.

Queries and keys come from a stream in which every electron stands for itself, values from one in
which it has met the others. So q_i·k_j has derivatives along 6 coordinates, not along 3 n.

Source: Li et al. 2024, "A computational framework for neural network-based variational Monte Carlo
with Forward Laplacian" (arXiv 2307.08214), there with 4 layers 256 wide and 16 determinants.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from .molecule import Molecule
from .parts import Determinants, one_electron_features


class SparseAttention(nn.Module):
    """Σ_j exp(q_i·k_j) v_j / Σ_j exp(q_i·k_j), divided last: the exponentials stay sparse."""

    heads: int

    @nn.compact
    def __call__(self, alone: Any, met: Any) -> Any:
        width = met.shape[-1]
        shape = (self.heads, width // self.heads)
        q, k = nn.DenseGeneral(shape)(alone), nn.DenseGeneral(shape)(alone)
        v = nn.DenseGeneral(shape)(met)
        logits = jnp.einsum("ihd,jhd->hij", q, k) / shape[-1] ** 0.5
        weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True)))
        mixed = jnp.einsum("hij,jhd->ihd", weights, v) / weights.sum(axis=-1).T[..., None]
        return nn.DenseGeneral(width, axis=(-2, -1))(mixed)


class LapNet(nn.Module):
    """Float[n, 3] -> the sign of ψ and log|ψ|."""

    molecule: Molecule
    width: int = 64
    heads: int = 4
    layers: int = 2
    determinants: int = 4

    @nn.compact
    def __call__(self, electrons: Any) -> tuple[Any, Any]:
        alone = nn.Dense(self.width)(one_electron_features(electrons, self.molecule))
        met = alone
        for layer in range(self.layers):
            met = met + SparseAttention(self.heads)(nn.LayerNorm()(alone), nn.LayerNorm()(met))
            met = met + nn.tanh(nn.Dense(self.width)(nn.LayerNorm()(met)))
            if layer < self.layers - 1:
                for _ in range(2):
                    alone = alone + nn.tanh(nn.Dense(self.width)(alone))
        return Determinants(self.molecule, self.determinants)(met, electrons)
