"""What the measurements ask of a framework. A further one is a class with these methods."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .networks import Layer

FRAMEWORKS = ("torch", "jax")

PEERS = ("folx", "jet")
"""Other libraries that evaluate some of the operators: folx, and jax.experimental.jet."""

REWRITTEN = "rewritten"
"""A program that sums nested `jvp` along directions, compiled with our pass."""


@dataclass(frozen=True)
class Powers:
    """An operator as Σ_r w_r (v_r·∂)^K.

    Attributes:
        directions: v_r, Float[R, D].
        weights: w_r, Float[R].
    """

    directions: np.ndarray
    weights: np.ndarray
    order: int


Loss = Callable[[Any, Any], Any]
"""(parameters, points) -> a number."""

Along = Callable[[int, tuple[int, ...]], Any]
"""(output, coordinates) -> the derivative of that output along these, one after the other."""


class Step(Protocol):
    """The gradient of a loss to all parameters."""

    def __call__(self, parameters: Any, x: Any) -> Any:
        """The gradients, in the order of the parameters."""

    def forward(self, parameters: Any, x: Any) -> Any:
        """PyTorch: the loss, which holds what a backward pass needs. JAX: the gradients."""

    def held(self, parameters: Any, x: Any) -> int | None:
        """Bytes by which the memory has grown after `forward`; None where nothing waits."""

    def kept(self, parameters: Any, x: Any) -> int | None:
        """Bytes needed beside parameters, points and results; None where nobody knows.

        PyTorch: tensors saved for the backward pass, each storage once. JAX: the temporary memory
        of the compiled step.
        """


def at_a_point(
    network: Callable[[Any], Any],
    residual: Callable[[Along], Sequence[Any]],
    grad: Callable[[Callable[[Any], Any]], Callable[[Any], Any]],
) -> Callable[[Any], tuple[Any, ...]]:
    """The residuals at one point, by `grad` of `grad` of each output."""

    def of_point(p: Any) -> tuple[Any, ...]:
        def along(output: int, path: tuple[int, ...]) -> Callable[[Any], Any]:
            if not path:
                return lambda q: network(q)[output]
            before = along(output, path[:-1])
            return lambda q: grad(before)(q)[path[-1]]

        return tuple(residual(lambda output, path: along(output, path)(p)))

    return of_point


class Backend(Protocol):
    """A framework on a device, in a dtype."""

    name: str
    device: str
    dtype: str
    modes: Sequence[str]
    """Those worth measuring."""
    peers: Sequence[str]
    """The other libraries that are installed for this framework."""
    warm_calls: int
    """After so many calls every part that is compiled while it runs has been compiled."""

    def versions(self) -> str:
        """The framework's version and the device, for people."""

    def array(self, values: np.ndarray, dtype: str | None = None) -> Any:
        """An array of the framework."""

    def numpy(self, array: Any) -> np.ndarray:
        """A result as a numpy array in float64."""

    def network(self, layers: Sequence[Layer], dtype: str | None = None) -> Callable[[Any], Any]:
        """The tanh MLP with these layers."""

    def trainable(
        self, layers: Sequence[Layer], dtype: str | None = None
    ) -> tuple[Any, Callable[[Any, Any], Any]]:
        """Parameters, and the tanh MLP of (parameters, points)."""

    def step(self, loss: Loss, parameters: Any, x: Any, compiled: bool) -> Step:
        """The gradient of a loss; compiled as a whole for the shapes of these arguments."""

    def value(self, function: Loss, parameters: Any, compiled: bool) -> Callable[[Any], Any]:
        """The same function of the points alone, without gradients to come."""

    def nested(
        self,
        network: Callable[[Any], Any],
        residual: Callable[[Along], Sequence[Any]],
        compiled: bool,
    ) -> Callable[[Any], Sequence[Any]]:
        """The residuals at a batch of points by nested reverse mode, as training codes write it."""

    def peer(
        self, method: str, operator: str, powers: Powers | None, network: Callable[[Any], Any]
    ) -> Callable[[Any], Any] | None:
        """The operator of the network at a batch of points by a peer; None if it has none."""

    def nested_jvp(
        self, powers: Powers, network: Callable[[Any], Any], dtype: str | None = None
    ) -> Callable[[Any], Any]:
        """The program that users write: Σ_r w_r of jvp of jvp … along v_r, mapped over a batch."""

    def compiled(
        self, function: Callable[[Any], Any], rewrite: bool = False
    ) -> Callable[[Any], Any]:
        """The function, compiled as a whole for its shapes, after our pass or without it."""

    def sampled(self, function: Callable[..., Any], compiled: bool) -> Callable[[Any, int], Any]:
        """(x, seed) -> value, of a function (x, rng=…) -> value; compiled as a whole or not."""

    def seeded(self, seed: int) -> Any:
        """What `rng=` takes, so that the next call draws what it always draws with this seed."""

    def peak(self, call: Callable[[], object]) -> int | None:
        """The bytes that a call needs at most beyond what was there; None where nobody knows."""

    def forget(self) -> None:
        """Drop what was compiled."""

    def wait(self, result: Any) -> None:
        """Until the device has computed the result."""

    def doubles(self) -> AbstractContextManager[Any]:
        """Within it, there are arrays of float64."""

    def alone(self) -> AbstractContextManager[Any]:
        """Within it, one thread computes (where it can be told)."""

    def cold(self) -> AbstractContextManager[Any]:
        """Within it, nothing that was compiled before is found on disk."""

    def inference(self) -> AbstractContextManager[Any]:
        """Within it, nothing is recorded for a later differentiation."""


def backend(framework: str, device: str, dtype: str, threads: int | None) -> Backend:
    """The backend of a framework, imported now."""
    if framework not in FRAMEWORKS:
        raise ValueError(f"framework must be one of {', '.join(FRAMEWORKS)}; got {framework!r}")
    made: Backend = import_module(f"{__package__}.{framework}").make(device, dtype, threads)
    return made


@contextmanager
def empty_folder(*names: str) -> Iterator[None]:
    """Within it, these environment variables name a folder where nothing lies yet."""
    before = {name: os.environ.get(name) for name in names}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ.update(dict.fromkeys(names, folder))
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value


def processor() -> str:
    """The name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()
