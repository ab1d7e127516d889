"""What all of them share, in flax: distances, envelopes, the cusp factor, a sum of determinants.

Sources: Pfau, Spencer, Matthews & Foulkes 2020, "Ab initio solution of the many-electron
Schrödinger equation with deep neural networks" (arXiv 1909.02487); for the cusp factor von Glehn,
Spencer & Pfau 2023, "A self-attention ansatz for ab-initio quantum chemistry" (arXiv 2211.13672).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from .molecule import Molecule


def to_nuclei(electrons: Any, molecule: Molecule) -> tuple[Any, Any]:
    """r_i − R_I and its length: Float[n, m, 3] and Float[n, m] for n electrons and m nuclei."""
    apart = electrons[:, None] - jnp.asarray(molecule.nuclei, electrons.dtype)
    return apart, jnp.linalg.norm(apart, axis=-1)


def to_electrons(electrons: Any) -> tuple[Any, Any]:
    """r_i − r_j and its length: Float[n, n, 3] and Float[n, n]; zero, and smooth, where i = j."""
    apart = electrons[:, None] - electrons[None]
    same = jnp.eye(len(electrons), dtype=electrons.dtype)
    return apart, jnp.linalg.norm(apart + same[..., None], axis=-1) * (1 - same)


def one_electron_features(electrons: Any, molecule: Molecule) -> Any:
    """log(1 + r) (d/r, 1) for every nucleus, and the spin: Float[n, 4 m + 1]."""
    apart, lengths = to_nuclei(electrons, molecule)
    grown = jnp.log1p(lengths)[..., None]
    features = jnp.concatenate([grown * apart / lengths[..., None], grown], axis=-1)
    spin = jnp.repeat(jnp.array([1, -1], electrons.dtype), np.array(molecule.spins))
    return jnp.concatenate([features.reshape(len(electrons), -1), spin[:, None]], axis=-1)


def by_spin(streams: Any, molecule: Molecule, axis: int = 0) -> list[Any]:
    """The electrons with spin up and those with spin down; spins that nobody has are left out."""
    parts = jnp.split(streams, [molecule.spins[0]], axis=axis)
    return [part for part in parts if part.shape[axis]]


class Envelopes(nn.Module):
    """Σ_I π_Ik exp(−σ_Ik |r_i − R_I|), for orbitals that end: Float[n, m] -> Float[n, orbitals]."""

    orbitals: int

    @nn.compact
    def __call__(self, lengths: Any) -> Any:
        shape = (lengths.shape[-1], self.orbitals)
        decay = self.param("decay", nn.initializers.ones, shape)
        weight = self.param("weight", nn.initializers.ones, shape)
        each = jnp.exp(-jnp.abs(decay) * lengths[..., None])
        return jnp.einsum("nmk,mk->nk", each, weight)


class Orbitals(nn.Module):
    """A dense layer, near 1 for orbitals of one's own spin and near 0 for others when it starts.

    So ψ of one electron per spin starts without nodes. What one of them encloses would stay
    there: where ψ vanishes, no walker passes and no gradient tells.
    """

    own: tuple[bool, ...]
    determinants: int

    @nn.compact
    def __call__(self, stream: Any) -> Any:
        return nn.Dense(
            self.determinants * len(self.own),
            kernel_init=nn.initializers.variance_scaling(0.01, "fan_in", "normal"),
            bias_init=lambda key, shape, dtype: jnp.tile(
                jnp.array(self.own, dtype), self.determinants
            ),
        )(stream)


class Cusps(nn.Module):
    """−Σ_{i<j} c α²/(α + |r_i − r_j|), c = ¼ for equal spins and ½ for others: Kato's cusps."""

    molecule: Molecule

    @nn.compact
    def __call__(self, electrons: Any) -> Any:
        one, other = np.triu_indices(len(electrons), k=1)
        spin = np.repeat([0, 1], self.molecule.spins)
        equal = spin[one] == spin[other]
        alpha = self.param("alpha", nn.initializers.ones, (2,))[np.where(equal, 0, 1)]
        lengths = jnp.linalg.norm(electrons[one] - electrons[other], axis=-1)
        slopes = jnp.asarray(np.where(equal, 0.25, 0.5), electrons.dtype)
        return -jnp.sum(slopes * alpha**2 / (alpha + lengths))


class Determinants(nn.Module):
    """Of the streams Float[n, width] of all electrons: the sign and the logarithm of
    |exp(cusps) Σ_k det(orbitals_k · envelopes_k)|, with orbitals of their own for each spin."""

    molecule: Molecule
    determinants: int

    @nn.compact
    def __call__(self, streams: Any, electrons: Any) -> tuple[Any, Any]:
        n = self.molecule.electrons
        lengths = to_nuclei(electrons, self.molecule)[1]
        rows = [
            Orbitals(own, self.determinants)(part) * Envelopes(self.determinants * n)(near)
            for own, part, near in zip(
                self.molecule.own_orbitals,
                by_spin(streams, self.molecule),
                by_spin(lengths, self.molecule),
                strict=True,
            )
        ]
        matrices = jnp.concatenate(rows).reshape(n, self.determinants, n).swapaxes(0, 1)
        signs, logs = jnp.linalg.slogdet(matrices)
        log, sign = jax.scipy.special.logsumexp(logs, b=signs, return_sign=True)
        return sign, log + Cusps(self.molecule)(electrons)
