"""Sampling a grid of pixels at any points, in terms of simpler operations."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch

BILINEAR, NEAREST, BICUBIC = range(3)
ZEROS, BORDER, REFLECTION = range(3)


def grid_sampler(
    input: Any, grid: Any, interpolation_mode: int, padding_mode: int, align_corners: bool
) -> Any:
    """Values of the input (N, C, *sizes) at the points of the grid (N, *points, axes).

    The last axis of the grid is (x, y) or (x, y, z), from −1 to 1; x runs along the last axis.
    """
    sizes = tuple(input.shape[2:])
    at = [_pixels(grid[..., len(sizes) - 1 - k], n, align_corners) for k, n in enumerate(sizes)]

    def inside(x: Any, n: int) -> Any:
        return _padded(x, n, padding_mode, align_corners)

    if interpolation_mode == BICUBIC:
        taps = [
            [
                (_cubic(x - x.detach().floor(), j), inside(x.detach().floor() + j - 1, n))
                for j in range(4)
            ]
            for x, n in zip(at, sizes, strict=True)
        ]
    elif interpolation_mode == NEAREST:
        taps = [
            [(None, torch.round(inside(x, n).detach()))] for x, n in zip(at, sizes, strict=True)
        ]
    else:
        taps = []
        for x, n in zip(at, sizes, strict=True):
            x = inside(x, n)
            low = x.detach().floor()
            taps.append([(low + 1 - x, low), (x - low, low + 1)])
    total = None
    for corner in itertools.product(*taps):
        value = _lookup(input, [place for _, place in corner])
        for weight, _ in corner:
            value = value if weight is None else value * weight.unsqueeze(1)
        total = value if total is None else total + value
    return total


def _pixels(x: Any, n: int, align_corners: bool) -> Any:
    """From [−1, 1] to the positions of pixels."""
    return (x + 1) * ((n - 1) / 2) if align_corners else ((x + 1) * n - 1) / 2


def _padded(x: Any, n: int, mode: int, align_corners: bool) -> Any:
    """Positions outside brought inside, by the padding mode."""
    if mode == ZEROS:
        return x
    if mode == REFLECTION:
        low, span = (0.0, n - 1.0) if align_corners else (-0.5, float(n))
        if span == 0:
            return x * 0
        distance = (x - low).abs()
        rest = torch.fmod(distance, span)
        odd = torch.floor(distance.detach() / span) % 2 == 1
        x = torch.where(odd, span - rest, rest) + low
    return x.clamp(0, n - 1)


def _cubic(t: Any, j: int) -> Any:
    """The weight of the j-th of four neighbours, t behind the second (Keys 1981, A = −3/4)."""
    a = -0.75
    x = (t + 1, t, 1 - t, 2 - t)[j]
    near: Callable[[Any], Any] = lambda x: ((a + 2) * x - (a + 3)) * x * x + 1  # noqa: E731
    far: Callable[[Any], Any] = lambda x: ((a * x - 5 * a) * x + 8 * a) * x - 4 * a  # noqa: E731
    return near(x) if j in (1, 2) else far(x)


def _lookup(input: Any, places: list[Any]) -> Any:
    """The pixels (N, C, *points) at these positions, zero outside."""
    sizes = tuple(input.shape[2:])
    flat: Any = 0
    there: Any = True
    for place, n in zip(places, sizes, strict=True):
        there = there & (place >= 0) & (place <= n - 1)
        flat = flat * n + place.clamp(0, n - 1).nan_to_num().long()
    points = tuple(flat.shape[1:])
    index = flat.reshape(flat.shape[0], 1, -1).expand(-1, input.shape[1], -1)
    pixels = torch.gather(input.flatten(2), 2, index)
    pixels = pixels.reshape(input.shape[0], input.shape[1], *points)
    return torch.where(there.unsqueeze(1), pixels, 0.0)
