"""Variational Monte Carlo in PyTorch, eagerly: the steps of `in_jax` for the Psiformer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import spring
import torch
from energy import local_energy
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from jetfold.bench.wavefunctions.molecule import Molecule
from jetfold.bench.wavefunctions.torch import Psiformer

NETWORKS = {"psiformer": Psiformer}


@dataclass
class State:
    """What changes from step to step."""

    parameters: torch.Tensor  # one vector
    increment: torch.Tensor  # the last one, before it was scaled
    walkers: torch.Tensor  # Float[walkers, n, 3]
    width: float  # of the proposals of Metropolis
    random: torch.Generator
    step: int = 0


class Vmc:
    """One molecule and one network; `devices` is for JAX."""

    def __init__(
        self,
        molecule: Molecule,
        network: str,
        sizes: dict[str, int],
        walkers: int,
        moves: int,
        devices: int | None = None,
    ) -> None:
        if devices not in (None, 1):
            raise ValueError(f"walkers are shared out in JAX only; got devices={devices}")
        self.molecule, self.shape, self.moves = molecule, (walkers, molecule.electrons, 3), moves
        self.make = partial(NETWORKS[network], molecule, **sizes)
        self.network = self.make()

    def log_psi(self, parameters: torch.Tensor, electrons: torch.Tensor) -> torch.Tensor:
        shapes = {name: p.shape for name, p in self.network.named_parameters()}
        pieces = parameters.split([shape.numel() for shape in shapes.values()])
        named = {n: p.view(s) for p, (n, s) in zip(pieces, shapes.items(), strict=True)}
        with sdpa_kernel(SDPBackend.MATH):  # the others neither batch under vmap nor differentiate
            return functional_call(self.network, named, (electrons,))[1]

    def start(self, seed: int) -> State:
        torch.manual_seed(seed)  # PyTorch's layers draw their parameters from here
        random = torch.Generator().manual_seed(seed)
        parameters = torch.cat([p.detach().flatten() for p in self.make().parameters()])
        guess = torch.tensor(self.molecule.guess(), dtype=parameters.dtype)
        walkers = guess + torch.randn(self.shape, generator=random)
        return State(parameters, 0 * parameters, walkers, 0.5, random)

    @torch.no_grad()
    def _move(self, state: State) -> float:
        """Metropolis moves of all electrons of a walker at once; half of them shall be accepted."""
        of_walkers = vmap(partial(self.log_psi, state.parameters))
        logs, accepted = of_walkers(state.walkers), 0.0
        for _ in range(self.moves):
            noise = torch.randn(self.shape, generator=state.random)
            new = state.walkers + state.width * noise
            of_new = of_walkers(new)
            luck = torch.rand(len(new), generator=state.random)
            accept = luck < torch.exp(2 * (of_new - logs))
            state.walkers = torch.where(accept[:, None, None], new, state.walkers)
            logs = torch.where(accept, of_new, logs)
            accepted += float(accept.float().mean()) / self.moves
        state.width *= 2.718 ** (accepted - 0.5)
        return accepted

    @torch.no_grad()
    def sampled(self, state: State) -> tuple[State, Any, float]:
        acceptance = self._move(state)
        log_psi = partial(self.log_psi, state.parameters)
        energies = vmap(local_energy(self.molecule, log_psi))(state.walkers)
        return state, energies, acceptance

    @torch.no_grad()
    def optimised(self, state: State) -> tuple[State, Any, float]:
        state, energies, acceptance = self.sampled(state)
        jacobian = vmap(grad(self.log_psi), (None, 0))(state.parameters, state.walkers)
        state.increment = spring.increment(torch, jacobian, energies, state.increment)
        state.parameters = state.parameters + spring.change(state.increment, state.step)
        state.step += 1
        return state, energies, acceptance
