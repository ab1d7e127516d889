"""`shard_map` over devices trains to the parameters of one device; the buffers are donated.

    python examples/distributed/in_jax.py                # two virtual devices of the CPU
    python examples/distributed/in_jax.py --devices 4

The heat equation u_t = u_xx / 10 with u(0, x) = sin πx, float64. Points are shared among the
devices, parameters are on all, and the loss is averaged by `pmean`. jetfold is traced with the
loss, as all else is.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    return parser.parse_args(arguments)


def start(rng: np.random.Generator) -> list[Any]:
    sizes = (2, 32, 32, 1)
    return [(rng.normal(size=(n, m)) / n**0.5, np.zeros(m)) for n, m in pairwise(sizes)]


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    # Virtual devices have to be asked for before JAX starts; real ones are there by themselves.
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={options.devices}"
    import jax
    import jax.numpy as jnp
    from jax.sharding import Mesh, NamedSharding
    from jax.sharding import PartitionSpec as P

    import jetfold as jf

    jax.config.update("jax_enable_x64", True)
    t, x = jf.partials(2)
    heat = t - 0.1 * x**2

    def network(parameters: Any, p: Any) -> Any:
        *hidden, (weight, bias) = parameters
        for w, b in hidden:
            p = jnp.tanh(p @ w + b)
        return (p @ weight + bias)[..., 0]

    def loss(parameters: Any, inside: Any, beginning: Any) -> Any:
        residual = heat(partial(network, parameters), batch_dims=1)(inside)
        off = network(parameters, beginning) - jnp.sin(jnp.pi * beginning[:, 1])
        return jnp.mean(residual**2) + jnp.mean(off**2)

    mesh = Mesh(np.array(jax.devices()[: options.devices]), ("points",))

    @partial(jax.shard_map, mesh=mesh, in_specs=(P(), P("points"), P("points")), out_specs=P())
    def gradient_of_all(parameters: Any, *share: Any) -> Any:
        return jax.grad(lambda p: jax.lax.pmean(loss(p, *share), "points"))(parameters)

    def momentum_step(gradient: Any, state: Any, *data: Any) -> Any:
        parameters, velocity = state
        slope = gradient(parameters, *data)
        velocity = jax.tree.map(lambda v, g: 0.9 * v - 0.01 * g, velocity, slope)
        return jax.tree.map(jnp.add, parameters, velocity), velocity

    rng = np.random.default_rng(0)
    first = start(rng)
    inside, beginning = rng.uniform(size=(2, 8 * options.devices, 2))
    data = inside, beginning * np.array([0.0, 1.0])

    def trained(gradient: Any, parameters: Any, data: Any) -> Any:
        step = jax.jit(partial(momentum_step, gradient), donate_argnums=0)
        state = parameters, jax.tree.map(jnp.zeros_like, parameters)
        for _ in range(options.steps):
            state = step(state, *data)  # the old state is given away
        return state[0]

    alone = trained(jax.grad(loss), jax.tree.map(jnp.asarray, first), data)
    everywhere = jax.device_put(first, NamedSharding(mesh, P()))
    shared = jax.device_put(data, NamedSharding(mesh, P("points")))
    found = trained(gradient_of_all, everywhere, shared)

    def furthest(a: Any, b: Any) -> float:
        pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        return max(float(np.abs(np.asarray(x) - np.asarray(y)).max()) for x, y in pairs)

    off, moved = furthest(found, alone), furthest(alone, first)
    devices = {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(found)}
    print(
        f"shard_map: {devices.pop()} devices; after {options.steps} steps, by which the parameters "
        f"moved {moved:.1e}, {off:.0e} from one device"
    )
    if off > 1e-10:
        raise SystemExit("shard_map trains to other parameters")


if __name__ == "__main__":
    main()
