"""Electrons among fixed nuclei, in atomic units: lengths in bohr, energies in hartree."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, cycle, islice
from math import dist


@dataclass(frozen=True)
class Molecule:
    """Nuclei, their charges, and how many electrons have spin up and spin down.

    >>> helium = Molecule(((0.0, 0.0, 0.0),), (2.0,), (1, 1))
    >>> helium.electrons
    2
    >>> Molecule(((0.0, 0.0, -0.7), (0.0, 0.0, 0.7)), (1.0, 1.0), (1, 1)).repulsion
    0.714...
    """

    nuclei: tuple[tuple[float, float, float], ...]
    charges: tuple[float, ...]
    spins: tuple[int, int]

    def __post_init__(self) -> None:
        if len(self.nuclei) != len(self.charges):
            raise ValueError(
                f"every nucleus needs one charge; got {len(self.nuclei)} positions and "
                f"{len(self.charges)} charges"
            )
        if min(self.spins) < 0 or not self.electrons:
            raise ValueError(
                f"spins are the numbers of electrons up and down, as (1, 1); got {self.spins}"
            )

    @property
    def electrons(self) -> int:
        return sum(self.spins)

    @property
    def repulsion(self) -> float:
        """Of the nuclei: Σ_{I<J} Z_I Z_J / |R_I − R_J|."""
        bodies = zip(self.nuclei, self.charges, strict=True)
        return sum(z * w / dist(a, b) for (a, z), (b, w) in combinations(bodies, 2))

    @property
    def own_orbitals(self) -> list[tuple[bool, ...]]:
        """For each spin that electrons have: which of as many orbitals are its own.

        >>> Molecule(((0.0, 0.0, 0.0),), (3.0,), (2, 1)).own_orbitals
        [(True, True, False), (False, False, True)]
        """
        up, down = self.spins
        own = (True,) * up + (False,) * down, (False,) * up + (True,) * down
        return [orbitals for orbitals, count in zip(own, self.spins, strict=True) if count]

    def guess(self) -> tuple[tuple[float, float, float], ...]:
        """A nucleus for each electron, where a walker may start: shared out evenly to both spins.

        >>> Molecule(((0.0, 0.0, 0.0), (0.0, 0.0, 3.0)), (3.0, 1.0), (2, 2)).guess()
        ((0.0, 0.0, 0.0), (0.0, 0.0, 3.0), (0.0, 0.0, 0.0), (0.0, 0.0, 0.0))
        """
        needed = [
            (k, nucleus)
            for nucleus, charge in zip(self.nuclei, self.charges, strict=True)
            for k in range(max(1, round(charge)))
        ]
        turns = cycle(nucleus for _, nucleus in sorted(needed, key=lambda each: each[0]))
        return tuple(islice(turns, self.electrons))


def diatomic(electrons: int, distance: float = 2.5) -> Molecule:
    """Two equal nuclei with as many electrons as balance them: He₂, Be₂, O₂, S₂ for 4, 8, 16, 32.

    >>> diatomic(16).charges, diatomic(16).spins
    ((8.0, 8.0), (8, 8))

    Raises:
        ValueError: an odd number of electrons.
    """
    if electrons % 2 or electrons < 2:
        raise ValueError(f"two equal nuclei need an even number of electrons; got {electrons}")
    ends = ((0.0, 0.0, -distance / 2), (0.0, 0.0, distance / 2))
    return Molecule(ends, (electrons / 2,) * 2, (electrons // 2, electrons - electrons // 2))
