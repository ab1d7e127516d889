"""The network of the experiments: a tanh MLP D → 768 → 768 → 512 → 512 → 1 (Dangel et al. 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

HIDDEN = (768, 768, 512, 512)

Layer = tuple[np.ndarray, np.ndarray]
"""The matrix Float[outputs, inputs] and the bias Float[outputs] of one layer."""


def widths(
    dimension: int, scale: float = 1.0, hidden: Sequence[int] = HIDDEN, outputs: int = 1
) -> tuple[int, ...]:
    """The numbers of units, from the input to the output.

    >>> widths(50)
    (50, 768, 768, 512, 512, 1)
    """
    return (dimension, *(max(1, round(width * scale)) for width in hidden), outputs)


def mlp(
    dimension: int,
    scale: float = 1.0,
    seed: int = 0,
    hidden: Sequence[int] = HIDDEN,
    outputs: int = 1,
) -> list[Layer]:
    """The layers, uniform in ±1/√inputs as in `torch.nn.Linear`.

    They are float32 numbers, so that a float64 copy is the same function.

    Args:
        dimension: the number of coordinates D.
        scale: a factor for the hidden widths.
        seed: of the random numbers.
        hidden: the hidden widths.
        outputs: how many numbers come out.
    """
    rng = np.random.default_rng(seed)
    return [
        (
            rng.uniform(-(n**-0.5), n**-0.5, (m, n)).astype(np.float32),
            rng.uniform(-(n**-0.5), n**-0.5, m).astype(np.float32),
        )
        for n, m in pairwise(widths(dimension, scale, hidden, outputs))
    ]
