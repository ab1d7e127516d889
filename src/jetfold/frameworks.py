"""Which framework an array belongs to. A framework is imported when one of its arrays arrives."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from typing import Any

import numpy as np

from .frontend import Frontend, Result

TITLES = {"torch": "PyTorch", "jax": "JAX"}
"""How the frameworks write themselves."""


def frontend_of(array: object) -> Frontend:
    """The frontend module for an array.

    Raises:
        TypeError: the argument is no array of a supported framework.
    """
    if "torch" in sys.modules:
        from .torch import frontend as of_torch

        if of_torch.is_array(array):
            return of_torch
    if "jax" in sys.modules:
        from .jax import frontend as of_jax

        if of_jax.is_array(array):
            return of_jax
    raise TypeError(
        "expected the point of evaluation to be a torch.Tensor or a jax.Array, got "
        f"{type(array).__module__}.{type(array).__qualname__}; convert it first, for example with "
        "torch.as_tensor(x) or jax.numpy.asarray(x)"
    )


def ones() -> Iterator[Any]:
    """The array [1] of each framework that is imported; if none is, of those that can be."""
    modules = {"torch": "torch", "jax": "jax.numpy"}
    imported = [name for name in modules if sys.modules.get(name) is not None]
    for name in imported or modules:
        with suppress(ModuleNotFoundError):
            yield import_module(modules[name]).ones((1,))


def history_of(array: object) -> Any:
    """What tells later whether an array is still what was computed; None if it cannot change."""
    return None if isinstance(array, np.ndarray) else frontend_of(array).history(array)


def static(function: Callable[..., Result], *args: Any) -> Result:
    """function(*args): to torch.compile, if that is tracing, a constant (`Frontend.static`)."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.compiler.is_compiling():
        return function(*args)
    from .torch import frontend as of_torch

    return of_torch.static(function, *args)


def made(function: Callable[..., Result], *args: Any) -> Result:
    """The same of an immutable object, as an argument for `static` and `made`.

    To torch.compile, which knows no objects that were made while it traces, a token of it.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.compiler.is_compiling():
        return function(*args)
    from .torch import frontend as of_torch

    return of_torch.made(function, *args)
