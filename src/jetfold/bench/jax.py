"""JAX in the measurements, and two other libraries beside us: folx and jax.experimental.jet."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.jet import jet

from ..collapse import collapse
from .backends import Along, Loss, Powers, at_a_point, empty_folder, processor
from .measure import one_core, resident_peak
from .networks import Layer


def temporary(program: Any) -> int | None:
    """The bytes that a compiled program needs beside its arguments and results."""
    analysis = program.memory_analysis()
    return None if analysis is None else int(analysis.temp_size_in_bytes)


class Step:
    """See `backends.Step`."""

    def __init__(self, loss: Loss, parameters: Any, x: Any) -> None:
        self.shape = x.shape
        self._lowered = jax.jit(jax.grad(loss)).lower
        self._program = self._lowered(parameters, x).compile()

    def __call__(self, parameters: Any, x: Any) -> Any:
        return self._program(parameters, x)

    def forward(self, parameters: Any, x: Any) -> Any:
        return self._program(parameters, x)

    def held(self, parameters: Any, x: Any) -> int | None:
        return None

    def kept(self, parameters: Any, x: Any) -> int | None:
        same = x.shape == self.shape
        return temporary(self._program if same else self._lowered(parameters, x).compile())


class Jax:
    """See `backends.Backend`. Without jit, JAX runs one operation at a time: nobody measures that.

    Float64 is enabled for the reference; float32 arrays stay float32 under it.
    """

    name = "jax"
    modes: Sequence[str] = ("compiled",)
    warm_calls = 0

    def __init__(self, device: str, dtype: str) -> None:
        self.device = device
        self.dtype = dtype
        self.peers: Sequence[str] = ("folx", "jet") if find_spec("folx") else ("jet",)
        self._device = jax.devices(device)[0]

    def versions(self) -> str:
        if self._device.platform != "cpu":
            return f"jax {jax.__version__}, {self._device.device_kind}"
        return f"jax {jax.__version__}, {processor()}, {_cores()} cores"

    def array(self, values: np.ndarray, dtype: str | None = None) -> Any:
        return jax.device_put(np.asarray(values, dtype or self.dtype), self._device)

    def numpy(self, array: Any) -> np.ndarray:
        return np.asarray(array, np.float64)

    def network(self, layers: Sequence[Layer], dtype: str | None = None) -> Callable[[Any], Any]:
        return partial(_tanh_mlp, self.trainable(layers, dtype)[0])

    def trainable(
        self, layers: Sequence[Layer], dtype: str | None = None
    ) -> tuple[Any, Callable[[Any, Any], Any]]:
        made = [(self.array(matrix.T, dtype), self.array(bias, dtype)) for matrix, bias in layers]
        return made, _tanh_mlp

    def step(self, loss: Loss, parameters: Any, x: Any, compiled: bool) -> Step:
        return Step(loss, parameters, x)

    def value(self, function: Loss, parameters: Any, compiled: bool) -> Callable[[Any], Any]:
        return partial(jax.jit(function), parameters)

    def nested(
        self,
        network: Callable[[Any], Any],
        residual: Callable[[Along], Sequence[Any]],
        compiled: bool,
    ) -> Callable[[Any], Sequence[Any]]:
        """`jax.grad` of `jax.grad` at one point, mapped over the batch."""
        return jax.vmap(at_a_point(network, residual, jax.grad))

    def peer(
        self, method: str, operator: str, powers: Powers | None, network: Callable[[Any], Any]
    ) -> Callable[[Any], Any] | None:
        if method == "folx":
            return _folx(operator, network)
        return None if powers is None else _experimental_jet(powers, network, self.array)

    def nested_jvp(
        self, powers: Powers, network: Callable[[Any], Any], dtype: str | None = None
    ) -> Callable[[Any], Any]:
        directions = self.array(powers.directions, dtype)
        weights = self.array(powers.weights, dtype)

        def along(x: Any, direction: Any) -> Any:
            def derivative(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
                return lambda y: jax.jvp(f, (y,), (direction,))[1]

            f = network
            for _ in range(powers.order):
                f = derivative(f)
            return f(x)

        def of_point(x: Any) -> Any:
            return jnp.tensordot(weights, jax.vmap(lambda v: along(x, v))(directions), 1)

        return jax.vmap(of_point)

    def compiled(
        self, function: Callable[[Any], Any], rewrite: bool = False
    ) -> Callable[[Any], Any]:
        return jax.jit(collapse(function) if rewrite else function)

    def sampled(self, function: Callable[..., Any], compiled: bool) -> Callable[[Any, int], Any]:
        def of_key(x: Any, key: Any) -> Any:
            return function(x, rng=key)

        run = jax.jit(of_key) if compiled else of_key
        key = cache(lambda seed: jax.device_put(jax.random.key(seed), self._device))
        return lambda x, seed: run(x, key(seed))

    def seeded(self, seed: int) -> Any:
        return jax.device_put(jax.random.key(seed), self._device)

    def peak(self, call: Callable[[], object]) -> int | None:
        """The allocator never forgets its peak: a call that stays below it is not known."""
        if self._device.platform == "cpu":
            return resident_peak(call)
        before = self._device.memory_stats()
        self.wait(call())
        after = self._device.memory_stats()
        if not before or after["peak_bytes_in_use"] <= before["peak_bytes_in_use"]:
            return None
        return int(after["peak_bytes_in_use"] - before["bytes_in_use"])

    def forget(self) -> None:
        jax.clear_caches()

    def wait(self, result: Any) -> None:
        jax.block_until_ready(result)

    def doubles(self) -> AbstractContextManager[Any]:
        return jax.enable_x64(True)

    def alone(self) -> AbstractContextManager[Any]:
        return one_core() if self._device.platform == "cpu" else nullcontext()

    def cold(self) -> AbstractContextManager[Any]:
        return empty_folder("XDG_CACHE_HOME")

    def inference(self) -> AbstractContextManager[Any]:
        return self.doubles()


def _tanh_mlp(parameters: Sequence[tuple[Any, Any]], x: Any) -> Any:
    *hidden, (matrix, bias) = parameters
    for weights, shift in hidden:
        x = jnp.tanh(x @ weights + shift)
    return x @ matrix + bias


def _folx(operator: str, network: Callable[[Any], Any]) -> Callable[[Any], Any] | None:
    """folx' dense forward Laplacian, nested for the biharmonic."""
    from folx import ForwardLaplacianOperator

    forward_laplacian = ForwardLaplacianOperator(0)

    def laplacian(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda x: forward_laplacian(f)(x)[0]

    def scalar(x: Any) -> Any:
        return network(x)[0]

    def in_columns(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
        return lambda points: jax.vmap(f)(points)[:, None]

    if operator == "laplacian":
        return in_columns(laplacian(scalar))
    return in_columns(laplacian(laplacian(scalar))) if operator == "biharmonic" else None


def _experimental_jet(
    powers: Powers, network: Callable[[Any], Any], array: Callable[[np.ndarray], Any]
) -> Callable[[Any], Any]:
    """Σ_r w_r ∂^K f/∂v_r^K by vanilla Taylor mode."""
    directions, weights = array(powers.directions), array(powers.weights)

    def top(x: Any, direction: Any) -> Any:
        rest = [jnp.zeros_like(direction)] * (powers.order - 1)
        return jet(network, (x,), ([direction, *rest],))[1][-1]

    def of_point(x: Any) -> Any:
        return jnp.tensordot(weights, jax.vmap(lambda v: top(x, v))(directions), 1)

    return jax.vmap(of_point)


def _cores() -> int:
    """How many cores the process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def make(device: str, dtype: str, threads: int | None) -> Jax:
    """The backend on a device, after checking that it is there."""
    if threads is not None:
        raise ValueError(
            "--threads is PyTorch's; JAX takes all cores that the process may use (on Linux: "
            "taskset -c 0,1 jetfold bench --framework jax)"
        )
    try:
        return Jax({"cuda": "gpu"}.get(device, device), dtype)
    except RuntimeError as error:
        raise ValueError(f"device {device!r} cannot be used: {error}") from None
