"""The heat equation u_t = k u_xx with an Equinox or a Flax network, trained by optax.

    python examples/tools/in_jax_libraries.py --library equinox
    python examples/tools/in_jax_libraries.py --library flax

An operator of jetfold takes any function: an Equinox module is one, a Flax module with its
parameters is one. The error against the exact solution exp(−k π² t) sin(π x) is printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jetfold as jf

K = 0.3
t, x = jf.partials(2, names="t x")
heat = t - K * x**2


def exact(p: Any) -> Any:
    """Float[..., 2] -> Float[...]."""
    return jnp.exp(-K * jnp.pi**2 * p[..., 0]) * jnp.sin(jnp.pi * p[..., 1])


def constrained(raw: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A function that is exact at t = 0 and 0 at x = 0 and 1, whatever the network gives."""

    def u(p: Any) -> Any:
        wall = p[1] * (1 - p[1])
        return jnp.sin(jnp.pi * p[1]) + p[0] * wall * raw(p)

    return u


def in_equinox(width: int) -> tuple[Any, Callable[[Any], Callable[[Any], Any]]]:
    """(parameters, parameters -> u): an Equinox module is both."""
    import equinox as eqx

    net = eqx.nn.MLP(2, "scalar", width, 2, jnp.tanh, key=jax.random.key(0))
    parameters, static = eqx.partition(net, eqx.is_array)
    return parameters, lambda parameters: constrained(eqx.combine(parameters, static))


def in_flax(width: int) -> tuple[Any, Callable[[Any], Callable[[Any], Any]]]:
    """(parameters, parameters -> u): of a Flax module with `init` and `apply`."""
    from flax import linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, p: Any) -> Any:
            for _ in range(2):
                p = nn.tanh(nn.Dense(width)(p))
            return nn.Dense(1)(p)[..., 0]

    net = Net()
    parameters = net.init(jax.random.key(0), jnp.zeros(2))
    return parameters, lambda parameters: constrained(lambda p: net.apply(parameters, p))


LIBRARIES = {"equinox": in_equinox, "flax": in_flax}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--library", choices=LIBRARIES, default="equinox")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--quick", action="store_true", help="fewer steps, a looser target")
    options = parser.parse_args(arguments)
    steps, target = (600, 0.1) if options.quick else (options.steps, 0.01)
    parameters, function = LIBRARIES[options.library](16)
    optimiser = optax.adam(optax.cosine_decay_schedule(1e-2, steps))
    points = jax.random.uniform(jax.random.key(1), (256, 2))

    def loss(parameters: Any) -> Any:
        return jnp.mean(jax.vmap(heat(function(parameters)))(points) ** 2)

    @jax.jit
    def step(parameters: Any, state: Any) -> Any:
        slopes = jax.grad(loss)(parameters)
        updates, state = optimiser.update(slopes, state)
        return optax.apply_updates(parameters, updates), state

    state = optimiser.init(parameters)
    for _ in range(steps):
        parameters, state = step(parameters, state)
    grid = jnp.asarray(np.stack(np.meshgrid(*2 * [np.linspace(0, 1, 30)]), -1).reshape(-1, 2))
    error = exact(grid) - jax.vmap(function(parameters))(grid)
    relative = float(jnp.linalg.norm(error) / jnp.linalg.norm(exact(grid)))
    print(f"{options.library}: relative error {relative:.2%} after {steps} steps")
    if not relative < target:
        raise SystemExit(f"FAILED: an error of {target:.0%} was not reached")


if __name__ == "__main__":
    main()
