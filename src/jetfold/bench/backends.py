"""What the measurements ask of a framework. A further one is a class with these methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from .networks import Layer

FRAMEWORKS = ("torch",)


class Backend(Protocol):
    """A framework on a device, in a dtype."""

    name: str
    device: str
    dtype: str

    def versions(self) -> str:
        """The framework's version and the device, for people."""

    def array(self, values: np.ndarray, dtype: str | None = None) -> Any:
        """An array of the framework."""

    def numpy(self, array: Any) -> np.ndarray:
        """A result as a numpy array in float64."""

    def network(self, layers: Sequence[Layer], dtype: str | None = None) -> Callable[[Any], Any]:
        """The tanh MLP with these layers."""

    def compiled(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """The function, compiled as a whole for the shapes that it is called with."""

    def forget(self) -> None:
        """Drop what was compiled."""

    def wait(self, result: Any) -> None:
        """Until the device has computed the result."""

    def inference(self) -> AbstractContextManager[Any]:
        """Within it, nothing is recorded for a later differentiation."""


def backend(framework: str, device: str, dtype: str, threads: int | None) -> Backend:
    """The backend of a framework, imported now."""
    if framework not in FRAMEWORKS:
        raise ValueError(f"framework must be one of {', '.join(FRAMEWORKS)}; got {framework!r}")
    made: Backend = import_module(f"{__package__}.{framework}").make(device, dtype, threads)
    return made
