"""Which framework an array belongs to. A framework is imported when one of its arrays arrives."""

from __future__ import annotations

import sys

from .frontend import Frontend


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
