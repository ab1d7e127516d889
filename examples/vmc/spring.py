"""Natural gradient steps, solved over walkers instead of parameters, with momentum: SPRING.

Source: Goldshlager, Abrahamsen & Lin 2024, "A Kaczmarz-inspired approach to accelerate the
optimization of neural network wavefunctions" (arXiv 2401.10190); without momentum it is the MinSR
of Chen & Heyl 2024. As in FermiNet, energies far off the median are clipped.
"""

from __future__ import annotations

from typing import Any


def clipped(xp: Any, energies: Any, width: float = 5.0) -> Any:
    """No further from the median than so many mean absolute deviations."""
    centre = xp.median(energies)
    reach = width * abs(energies - centre).mean()
    return xp.clip(energies, centre - reach, centre + reach)


def increment(
    xp: Any,
    jacobian: Any,
    energies: Any,
    previous: Any,
    damping: float = 1e-3,
    momentum: float = 0.95,
) -> Any:
    """The change of the parameters before it is scaled, φ = μφ' + Ōᵀ (ŌŌᵀ + λ1)⁻¹ (ε − Ō μφ').

    Args:
        xp: `torch` or `jax.numpy`.
        jacobian: ∂ log|ψ|/∂parameters of each walker, Float[walkers, parameters].
        energies: the local energies Float[walkers].
        previous: φ' of the step before.
    """
    count = len(energies)
    energies = clipped(xp, energies)
    scores = (jacobian - jacobian.mean(0)) / count**0.5
    errors = (energies.mean() - energies) / count**0.5
    gram = scores @ scores.T + damping * xp.eye(count, dtype=scores.dtype) + 1 / count
    kept = momentum * previous
    return kept + scores.T @ xp.linalg.solve(gram, errors - scores @ kept)


def change(phi: Any, step: Any, rate: float = 0.1, decay: float = 100.0, norm: float = 1.0) -> Any:
    """η φ with η falling as 1/(1 + step/decay), and no longer than `norm`."""
    rate = rate / (1 + step / decay)
    return phi * rate * (norm / (rate * (phi**2).sum() ** 0.5 + 1e-12)).clip(max=1.0)
