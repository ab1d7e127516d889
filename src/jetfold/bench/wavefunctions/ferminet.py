"""FermiNet: streams of electrons and of pairs that exchange means over spins.

Source: Pfau, Spencer, Matthews & Foulkes 2020 (arXiv 1909.02487), there with streams of 256 and 32,
4 layers and 16 determinants.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from .molecule import Molecule
from .parts import Determinants, by_spin, one_electron_features, to_electrons


class FermiNet(nn.Module):
    """Float[n, 3] -> the sign of ψ and log|ψ|.

    >>> import jax
    >>> helium = Molecule(((0.0, 0.0, 0.0),), (2.0,), (1, 1))
    >>> network = FermiNet(helium, width=8, pair_width=4, layers=2, determinants=1)
    >>> electrons = jnp.array([[0.3, -0.2, 0.5], [-0.4, 0.1, 0.2]])
    >>> parameters = jax.jit(network.init)(jax.random.key(0), electrons)
    >>> sign, log = jax.jit(network.apply)(parameters, electrons)
    >>> log.shape
    ()
    """

    molecule: Molecule
    width: int = 64
    pair_width: int = 16
    layers: int = 3
    determinants: int = 4

    @nn.compact
    def __call__(self, electrons: Any) -> tuple[Any, Any]:
        one = one_electron_features(electrons, self.molecule)
        apart, lengths = to_electrons(electrons)
        pair = jnp.concatenate([apart, lengths[..., None]], axis=-1)
        for layer in range(self.layers):
            one = residual(one, self.width, self.gathered(one, pair))
            if layer < self.layers - 1:  # the last pair stream would meet nobody
                pair = residual(pair, self.pair_width, pair)
        return Determinants(self.molecule, self.determinants)(one, electrons)

    def gathered(self, one: Any, pair: Any) -> Any:
        """h_i, the means of h_j over each spin, and the means of h_ij over the j of each spin."""
        means = [part.mean(axis=0) for part in by_spin(one, self.molecule)]
        of_all = [jnp.broadcast_to(mean, one.shape) for mean in means]
        of_pairs = [part.mean(axis=1) for part in by_spin(pair, self.molecule, axis=1)]
        return jnp.concatenate([one, *of_all, *of_pairs], axis=-1)


def residual(stream: Any, width: int, inputs: Any) -> Any:
    new = nn.tanh(nn.Dense(width)(inputs))
    return stream + new if stream.shape == new.shape else new
