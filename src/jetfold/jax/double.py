"""Functions evaluated in float64, for references."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def in_float64(tree: Any) -> Any:
    """A pytree (arguments, or a function that is one) with its real arrays in float64."""

    def convert(leaf: Any) -> Any:
        if not isinstance(leaf, (jax.Array, np.ndarray)):
            return leaf
        if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            return jnp.asarray(leaf, np.complex128)
        return jnp.asarray(leaf, np.float64) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    with float64():
        return jax.tree.map(convert, tree)


def float64() -> AbstractContextManager[Any]:
    """Within it, arrays can be float64; what a function closes over is promoted by JAX."""
    return jax.enable_x64(True)


def to_numpy(array: Any) -> np.ndarray:
    """An array as a NumPy array in double precision."""
    array = np.asarray(array)
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)
