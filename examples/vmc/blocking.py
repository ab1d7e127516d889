"""Means of correlated series and their standard errors.

Source: Flyvbjerg & Petersen 1989, "Error estimates on averages of correlated data".
"""

from __future__ import annotations

import numpy as np


def mean_and_error(series: np.ndarray, blocks: int = 16) -> tuple[float, float]:
    """The mean, and its error: the largest found from halves, quarters, ... of the resolution.

    Args:
        series: Float[steps].
        blocks: how many averages are left at the coarsest.
    """
    series = np.asarray(series, np.float64)
    mean, errors = float(series.mean()), []
    while not errors or len(series) >= blocks:
        errors.append(series.std(ddof=1) / len(series) ** 0.5 if len(series) > 1 else 0.0)
        paired = series[: len(series) // 2 * 2]
        series = paired.reshape(-1, 2).mean(axis=1)
    return mean, float(max(errors))
