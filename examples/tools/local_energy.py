"""The local energy of a wave function, as programs that use folx write it, with one import changed.

    python examples/tools/local_energy.py

−(Δ log ψ + |∇ log ψ|²)/2 + V of a log wave function log ψ(x): what NetKet's, DeepQMC's and
FermiNet's energies need. For ψ = exp(−Σ r²/2), the ground state in V = Σ r²/2, it is 3N/2
everywhere; with a neural Jastrow factor it is compared with nested differentiation.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jetfold.folx import forward_laplacian  # was: from folx import forward_laplacian


def local_energy(log_psi: Callable[[Any], Any], potential: Callable[[Any], Any]) -> Any:
    """x Float[electrons·3] -> the local energy."""
    forward = forward_laplacian(log_psi)

    def energy(x: Any) -> Any:
        found = forward(x)
        slope = found.jacobian.dense_array
        return -0.5 * (found.laplacian + jnp.sum(slope**2)) + potential(x)

    return energy


def nested(log_psi: Callable[[Any], Any], potential: Callable[[Any], Any]) -> Any:
    """The same by jax.hessian."""

    def energy(x: Any) -> Any:
        slope, curvature = jax.grad(log_psi)(x), jnp.trace(jax.hessian(log_psi)(x))
        return -0.5 * (curvature + jnp.sum(slope**2)) + potential(x)

    return energy


def trap(x: Any) -> Any:
    return 0.5 * jnp.sum(x**2)


def gaussian(x: Any) -> Any:
    return -0.5 * jnp.sum(x**2)


def with_jastrow(weights: Any) -> Callable[[Any], Any]:
    """A Gaussian times a neural function of all distances."""

    def log_psi(x: Any) -> Any:
        r = x.reshape(-1, 3)
        gap = r[:, None] - r[None]
        distance = jnp.sqrt(jnp.sum(gap**2, -1) + jnp.eye(len(r)))
        return gaussian(x) + jnp.sum(jnp.tanh(distance[..., None] @ weights[0]) @ weights[1])

    return log_psi


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--electrons", type=int, default=8)
    parser.add_argument("--quick", action="store_true", help="three electrons")
    options = parser.parse_args(arguments)
    electrons = 3 if options.quick else options.electrons
    keys = jax.random.split(jax.random.key(0), 3)
    walkers = jax.random.normal(keys[0], (5, 3 * electrons))
    exact = jax.vmap(local_energy(gaussian, trap))(walkers)
    print(f"oscillator: {exact.mean():.6f} (exact {1.5 * electrons}), spread {exact.std():.1e}")
    weights = 0.3 * jax.random.normal(keys[1], (1, 8)), 0.3 * jax.random.normal(keys[2], (8, 1))
    log_psi = with_jastrow(weights)
    found = jax.vmap(local_energy(log_psi, trap))(walkers)
    error = float(jnp.abs(found - jax.jit(jax.vmap(nested(log_psi, trap)))(walkers)).max())
    print(f"with a Jastrow factor: {found.mean():.4f}, {error:.1e} from nested differentiation")
    if not (jnp.abs(exact - 1.5 * electrons).max() < 1e-4 and error < 1e-3):
        raise SystemExit("FAILED: the local energies are not right")


if __name__ == "__main__":
    main()
