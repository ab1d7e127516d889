"""Psiformer in PyTorch: the same function as `psiformer.Psiformer`, from PyTorch's own layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from .molecule import Molecule


class Psiformer(nn.Module):
    """Float[n, 3] -> the sign of ψ and log|ψ|; von Glehn, Spencer & Pfau 2023 (arXiv 2211.13672).

    >>> helium = Molecule(((0.0, 0.0, 0.0),), (2.0,), (1, 1))
    >>> network = Psiformer(helium, width=8, heads=2, determinants=1)
    >>> sign, log = network(torch.tensor([[0.3, -0.2, 0.5], [-0.4, 0.1, 0.2]]))
    >>> log.shape
    torch.Size([])
    """

    def __init__(
        self,
        molecule: Molecule,
        width: int = 64,
        heads: int = 4,
        layers: int = 2,
        determinants: int = 4,
    ) -> None:
        super().__init__()
        n, nuclei = molecule.electrons, len(molecule.nuclei)
        self.shape = (n, determinants, n)
        self.register_buffer("nuclei", torch.tensor(molecule.nuclei))
        self.register_buffer("spin", torch.tensor([1.0, -1.0]).repeat_interleave(
            torch.tensor(molecule.spins))[:, None])  # fmt: skip
        self.embed = nn.Linear(4 * nuclei + 1, width)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.occupied = [count for count in molecule.spins if count]
        self.orbitals = nn.ModuleList(
            orbitals(width, own, determinants) for own in molecule.own_orbitals
        )
        self.envelopes = nn.ModuleList(Envelopes(nuclei, determinants * n) for _ in self.occupied)
        self.cusps = Cusps(molecule)

    def forward(self, electrons: Any) -> tuple[Any, Any]:
        apart = electrons[:, None] - self.nuclei
        lengths = torch.linalg.vector_norm(apart, dim=-1)
        grown = torch.log1p(lengths)[..., None]
        features = torch.cat([grown * apart / lengths[..., None], grown], dim=-1)
        h = self.embed(torch.cat([features.flatten(1), self.spin], dim=-1))
        for layer in self.layers:
            h = layer(h)
        streams, near = h.split(self.occupied), lengths.split(self.occupied)
        each = zip(self.orbitals, self.envelopes, streams, near, strict=True)
        rows = [dense(part) * envelopes(close) for dense, envelopes, part, close in each]
        signs, logs = torch.linalg.slogdet(torch.cat(rows).reshape(self.shape).transpose(0, 1))
        largest = logs.max().detach()
        total = torch.sum(signs * torch.exp(logs - largest))
        return total.sign(), largest + total.abs().log() + self.cusps(electrons)


class Layer(nn.Module):
    """Attention over the electrons, then one layer for each of them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.attention = nn.MultiheadAttention(width, heads)
        self.dense = nn.Linear(width, width)

    def forward(self, h: Any) -> Any:
        normed = self.before(h)
        h = h + self.attention(normed, normed, normed, need_weights=False)[0]
        return h + torch.tanh(self.dense(self.between(h)))


def orbitals(width: int, own: tuple[bool, ...], determinants: int) -> nn.Linear:
    """Near 1 for orbitals of one's own spin and near 0 for others, as `parts.Orbitals`."""
    layer = nn.Linear(width, determinants * len(own))
    with torch.no_grad():
        layer.weight.normal_(std=0.1 * width**-0.5)
        layer.bias.copy_(torch.tensor(own * determinants))
    return layer


class Envelopes(nn.Module):
    """Σ_I π_Ik exp(−σ_Ik |r_i − R_I|): Float[n, nuclei] -> Float[n, orbitals]."""

    def __init__(self, nuclei: int, orbitals: int) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.ones(nuclei, orbitals))
        self.weight = nn.Parameter(torch.ones(nuclei, orbitals))

    def forward(self, lengths: Any) -> Any:
        return torch.sum(self.weight * torch.exp(-self.decay.abs() * lengths[..., None]), dim=1)


class Cusps(nn.Module):
    """−Σ_{i<j} c α²/(α + |r_i − r_j|), c = ¼ for equal spins and ½ for others: Kato's cusps."""

    def __init__(self, molecule: Molecule) -> None:
        super().__init__()
        spin = np.repeat([0, 1], molecule.spins)
        one, other = np.triu_indices(molecule.electrons, k=1)
        equal = spin[one] == spin[other]
        self.alpha = nn.Parameter(torch.ones(2))
        self.register_buffer("one", torch.tensor(one))
        self.register_buffer("other", torch.tensor(other))
        self.register_buffer("kind", torch.tensor(np.where(equal, 0, 1)))
        self.register_buffer("slope", torch.tensor(np.where(equal, 0.25, 0.5), dtype=torch.float32))

    def forward(self, electrons: Any) -> Any:
        alpha = self.alpha[self.kind]
        apart = electrons[self.one] - electrons[self.other]
        lengths = torch.linalg.vector_norm(apart, dim=-1)
        return -torch.sum(self.slope * alpha**2 / (alpha + lengths))
