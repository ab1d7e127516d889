"""Psiformer: electrons that attend to one another.

Source: von Glehn, Spencer & Pfau 2023 (arXiv 2211.13672), there with 4 layers of 4 heads of 64 and
16 determinants.
"""

from __future__ import annotations

from typing import Any

from flax import linen as nn

from .molecule import Molecule
from .parts import Determinants, one_electron_features


class Psiformer(nn.Module):
    """Float[n, 3] -> the sign of ψ and log|ψ|."""

    molecule: Molecule
    width: int = 64
    heads: int = 4
    layers: int = 2
    determinants: int = 4

    @nn.compact
    def __call__(self, electrons: Any) -> tuple[Any, Any]:
        h = nn.Dense(self.width)(one_electron_features(electrons, self.molecule))
        for _ in range(self.layers):
            h = h + nn.MultiHeadDotProductAttention(self.heads)(nn.LayerNorm()(h))
            h = h + nn.tanh(nn.Dense(self.width)(nn.LayerNorm()(h)))
        return Determinants(self.molecule, self.determinants)(h, electrons)
