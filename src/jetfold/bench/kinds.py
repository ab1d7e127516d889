"""Further kinds of network, with the same numbers in both frameworks.

Each is a function (weights by name, Float[batch, D]) -> Float[batch, 1]; `kinds_torch` and
`kinds_jax` write it down. What the D coordinates are, is the network's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np

from .backends import Backend

Weights: TypeAlias = dict[str, np.ndarray]

Apply = Callable[[Any, Any], Any]
"""(parameters, Float[batch, D]) -> Float[batch, 1]."""

HEADS = 4
MODES = 6
"""Of the Fourier neural operator, at most: the frequencies whose amplitudes it learns to mix."""


class Drawn:
    """Random numbers of the sizes that keep activations of the order of 1, as float32."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def __call__(self, *shape: int, inputs: int) -> np.ndarray:
        return self.rng.normal(scale=inputs**-0.5, size=shape).astype(np.float32)


def scaled(width: int, factor: float, multiple: int = 1) -> int:
    """A width times a factor: a positive multiple of a number.

    >>> scaled(64, 0.1, 4)
    8
    """
    return multiple * max(1, round(width * factor / multiple))


# ------------------------------------------------------------------ their weights


def ripple(dimension: int, factor: float, draw: Drawn) -> Weights:
    """No network: exp(−|x|²/4) sin(1/2 + Σ x_i), whose derivatives mpmath knows."""
    return {}


def resnet(dimension: int, factor: float, draw: Drawn) -> Weights:
    """h + B tanh(A h), four times, between two linear layers. He et al. 2016 (1512.03385)."""
    n, m = scaled(256, factor), 4
    return {
        "in": draw(dimension, n, inputs=dimension),
        "inner": draw(m, n, n, inputs=n),
        "shift": draw(m, n, inputs=n),
        "outer": draw(m, n, n, inputs=4 * n),
        "out": draw(n, 1, inputs=n),
    }


def transformer(dimension: int, factor: float, draw: Drawn) -> Weights:
    """A token per coordinate; attention and GELU behind layer_norm. Vaswani et al. 2017."""
    n, m = scaled(64, factor, HEADS), 2
    return {
        "embed": draw(n, inputs=1),
        "places": draw(dimension, n, inputs=1),
        "qkv": draw(m, n, 3 * n, inputs=n),
        "mix": draw(m, n, n, inputs=n),
        "up": draw(m, n, 2 * n, inputs=n),
        "down": draw(m, 2 * n, n, inputs=2 * n),
        "gain": 1 + draw(m, 2, n, inputs=25),
        "offset": draw(m, 2, n, inputs=25),
        "out": draw(n, 1, inputs=n),
    }


def fno(dimension: int, factor: float, draw: Drawn) -> Weights:
    """The coordinates are a field on a grid; the output is a functional of it.

    Layers act on a few Fourier coefficients of every channel, and on every point of the grid. Li
    et al. 2021, "Fourier neural operator for parametric partial differential equations"
    (2010.08895).
    """
    n, m, k = scaled(32, factor), 4, min(MODES, dimension // 2 + 1)
    return {
        "lift": draw(2, n, inputs=2),
        "real": draw(m, k, n, n, inputs=2 * n),
        "imaginary": draw(m, k, n, n, inputs=2 * n),
        "local": draw(m, n, n, inputs=n),
        "shift": draw(m, n, inputs=n),
        "out": draw(n, 1, inputs=n),
    }


WEIGHTS: Mapping[str, Callable[[int, float, Drawn], Weights]] = {
    "ripple": ripple,
    "resnet": resnet,
    "transformer": transformer,
    "fno": fno,
}
"""By kind: (dimension, factor for the widths, random numbers) -> its weights."""

PSIFORMER = "psiformer"
"""log|ψ| of D/3 electrons between two nuclei, by `wavefunctions`; its weights are drawn there."""

APART = 10.0
"""A factor for the weights of its orbitals, which all start near 1: determinants of nearly equal
columns would cost nested differentiation all digits of float32."""

KINDS = (*WEIGHTS, PSIFORMER)


def network(
    kind: str,
    dimension: int,
    backend: Backend,
    dtype: str,
    *,
    factor: float = 1.0,
    seed: int = 0,
    for_nested: bool = False,
) -> tuple[Any, Apply]:
    """Parameters, and a network of (parameters, points).

    Args:
        factor: for the widths.
        for_nested: the same function by operations that nested differentiation differentiates
            rightly: PyTorch's nested derivatives of layer_norm are wrong from the third order on,
            and its fused attention on a CPU has none in forward mode.

    Raises:
        ValueError: no such kind; electrons have three coordinates each and come in pairs.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}")
    framework = import_module(f"{__package__}.kinds_{backend.name}")
    if kind == PSIFORMER:
        if dimension % 6:
            raise ValueError(
                f"{PSIFORMER} takes 3 coordinates of an even number of electrons: a multiple of "
                f"6, got {dimension}"
            )
        width = scaled(32, factor, HEADS)
        made = framework.psiformer(dimension // 3, width, HEADS, backend, dtype, seed, for_nested)
    else:
        weights = WEIGHTS[kind](dimension, factor, Drawn(seed))
        made = framework.made(kind, weights, backend, dtype, for_nested)
    found: tuple[Any, Apply] = made
    return found
