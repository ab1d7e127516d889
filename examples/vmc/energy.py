"""The local energy H ψ/ψ of a wave function, in PyTorch and JAX alike; atomic units.

    E(r) = −½ (∇² log|ψ| + |∇ log|ψ||²) + V(r)

Both derivatives come out of one propagation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import jetfold as jf
from jetfold.bench.wavefunctions.molecule import Molecule

derivatives = jf.derivatives({"gradient": jf.gradient, "laplacian": jf.laplacian})

EXACT = {
    "H": -0.5,
    "He": -2.903724,  # Pekeris 1958
    "H2": -1.174476,  # Sims & Hagstrom 2006
    "Li": -7.478060,  # Yan & Drake 1995
}
"""The energies of the ground states with fixed nuclei, in hartree."""

ORIGIN = (0.0, 0.0, 0.0)
MOLECULES = {
    "H": Molecule((ORIGIN,), (1.0,), (1, 0)),
    "He": Molecule((ORIGIN,), (2.0,), (1, 1)),
    "H2": Molecule(((0.0, 0.0, -0.7), (0.0, 0.0, 0.7)), (1.0, 1.0), (1, 1)),
    "Li": Molecule((ORIGIN,), (3.0,), (2, 1)),
}


def potential(molecule: Molecule, electrons: Any) -> Any:
    """V of the electrons Float[n, 3] among the nuclei and each other, and of the nuclei."""
    energy = molecule.repulsion
    for nucleus, charge in zip(molecule.nuclei, molecule.charges, strict=True):
        squares = sum((electrons[:, k] - nucleus[k]) ** 2 for k in range(3))
        energy = energy - charge * (squares**-0.5).sum()
    one, other = np.triu_indices(molecule.electrons, k=1)
    squares = ((electrons[one] - electrons[other]) ** 2).sum(-1)
    return energy + (squares**-0.5).sum()


def local_energy(molecule: Molecule, log_psi: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The function Float[n, 3] -> Float[] of the electrons of one walker."""

    def of_electrons(electrons: Any) -> Any:
        found = derivatives(log_psi)(electrons)
        kinetic = -(found["laplacian"] + (found["gradient"] ** 2).sum()) / 2
        return kinetic + potential(molecule, electrons)

    return of_electrons
