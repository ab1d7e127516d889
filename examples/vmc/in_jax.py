"""Variational Monte Carlo in JAX: every step is one compiled program over sharded walkers."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import spring
from energy import local_energy
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jetfold.bench.wavefunctions.ferminet import FermiNet
from jetfold.bench.wavefunctions.lapnet import LapNet
from jetfold.bench.wavefunctions.molecule import Molecule
from jetfold.bench.wavefunctions.psiformer import Psiformer

NETWORKS = {"ferminet": FermiNet, "psiformer": Psiformer, "lapnet": LapNet}


class State(NamedTuple):
    """What changes from step to step."""

    parameters: Any  # one vector
    increment: Any  # the last one, before it was scaled
    walkers: Any  # Float[walkers, n, 3]
    width: Any  # of the proposals of Metropolis
    key: Any
    step: Any


class Vmc:
    """One molecule and one network.

    Args:
        network: a name of `NETWORKS`.
        sizes: of the network, as `width` and `layers`.
        walkers: how many, on as many `devices` as that divides into.
        moves: of every walker before each step.
    """

    def __init__(
        self,
        molecule: Molecule,
        network: str,
        sizes: dict[str, int],
        walkers: int,
        moves: int,
        devices: int | None = None,
    ) -> None:
        self.molecule, self.shape, self.moves = molecule, (walkers, molecule.electrons, 3), moves
        self.network = NETWORKS[network](molecule, **sizes)
        found = jax.devices()[:devices]
        if walkers % len(found):
            raise ValueError(
                f"{walkers} walkers cannot be shared by {len(found)} devices equally; take a "
                f"multiple of {len(found)}"
            )
        self.sharding = NamedSharding(Mesh(np.array(found), ("walkers",)), PartitionSpec("walkers"))
        example = jnp.ones(self.shape[1:])
        shapes = jax.eval_shape(self.network.init, jax.random.key(0), example)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, example.dtype), shapes)
        self.unravel = ravel_pytree(zeros)[1]
        self.optimised, self.sampled = jax.jit(self._optimised), jax.jit(self._sampled)

    def log_psi(self, parameters: Any, electrons: Any) -> Any:
        return self.network.apply(self.unravel(parameters), electrons)[1]

    def start(self, seed: int) -> State:
        """Electrons around the nuclei, as many at each as it has charge."""
        ours, theirs, key = jax.random.split(jax.random.key(seed), 3)
        walkers = jnp.asarray(self.molecule.guess()) + jax.random.normal(theirs, self.shape)
        parameters = ravel_pytree(jax.jit(self.network.init)(ours, walkers[0]))[0]
        parameters = parameters.astype(walkers.dtype)
        width, step = jnp.full((), 0.5, walkers.dtype), jnp.zeros((), walkers.dtype)
        state = State(parameters, 0 * parameters, walkers, width, key, step)
        everywhere = NamedSharding(self.sharding.mesh, PartitionSpec())
        placed = jax.device_put(state, everywhere)
        return placed._replace(walkers=jax.device_put(walkers, self.sharding))

    def _moved(self, state: State) -> tuple[State, Any]:
        """Metropolis moves of all electrons of a walker at once; half of them shall be accepted."""
        of_walkers = jax.vmap(partial(self.log_psi, state.parameters))

        def move(carry: Any, key: Any) -> Any:
            walkers, logs = carry
            noise, luck = jax.random.split(key)
            new = walkers + state.width * jax.random.normal(noise, walkers.shape, walkers.dtype)
            of_new = of_walkers(new)
            chance = jnp.exp(2 * (of_new - logs))
            accept = jax.random.uniform(luck, logs.shape, logs.dtype) < chance
            carry = jnp.where(accept[:, None, None], new, walkers), jnp.where(accept, of_new, logs)
            return carry, accept.mean()

        key, now = jax.random.split(state.key)
        carry = state.walkers, of_walkers(state.walkers)
        (walkers, _), accepted = jax.lax.scan(move, carry, jax.random.split(now, self.moves))
        acceptance = accepted.mean()
        width = state.width * jnp.exp(acceptance - 0.5)
        return state._replace(walkers=walkers, width=width, key=key), acceptance

    def _energies(self, state: State) -> Any:
        log_psi = partial(self.log_psi, state.parameters)
        return jax.vmap(local_energy(self.molecule, log_psi))(state.walkers)

    def _sampled(self, state: State) -> tuple[State, Any, Any]:
        state, acceptance = self._moved(state)
        return state, self._energies(state), acceptance

    def _optimised(self, state: State) -> tuple[State, Any, Any]:
        state, energies, acceptance = self._sampled(state)
        jacobian = jax.vmap(jax.grad(self.log_psi), (None, 0))(state.parameters, state.walkers)
        increment = spring.increment(jnp, jacobian, energies, state.increment)
        parameters = state.parameters + spring.change(increment, state.step)
        state = state._replace(parameters=parameters, increment=increment, step=state.step + 1)
        return state, energies, acceptance
