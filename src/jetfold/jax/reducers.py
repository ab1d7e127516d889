"""Reductions by any associative function, written in operations that have rules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun

Arrays = Sequence[Any]
Combine = Callable[[Arrays, Arrays], Arrays]
"""Of every entry of several arrays and of as many others."""


def combination(reducer: ClosedJaxpr) -> Combine:
    """A reducer, of numbers, acting on every entry."""
    function = jaxpr_as_fun(reducer)

    def combine(left: Arrays, right: Arrays) -> Arrays:
        shape = left[0].shape
        flat = [x.reshape(-1) for x in (*left, *right)]
        return [x.reshape(shape) for x in jax.vmap(function)(*flat)]

    return combine


def from_start(combine: Combine, starts: Arrays, xs: Arrays) -> Arrays:
    """What has been combined, and the starting values before it."""
    return combine([jnp.broadcast_to(s, x.shape) for s, x in zip(starts, xs, strict=True)], xs)


def reduce(*operands: Any, jaxpr: ClosedJaxpr, dimensions: Sequence[int], **_: object) -> list[Any]:
    """lax.reduce: neighbours are combined until one entry is left along every axis."""
    count = len(operands) // 2
    xs, starts = list(operands[:count]), operands[count:]
    combine = combination(jaxpr)
    for axis in sorted(dimensions, reverse=True):
        if xs[0].shape[axis] == 0:  # as one entry, the start
            shape = tuple(1 if k == axis else n for k, n in enumerate(xs[0].shape))
            xs = [jnp.broadcast_to(start, shape) for start in starts]
        while (length := xs[0].shape[axis]) > 1:
            pairs = length // 2 * 2
            left, right, rest = (
                [lax.slice_in_dim(x, *limits, axis=axis) for x in xs]
                for limits in ((0, pairs, 2), (1, pairs, 2), (pairs, length))
            )
            joined = zip(combine(left, right), rest, strict=True)
            xs = [lax.concatenate(both, axis) for both in joined]
        xs = [lax.squeeze(x, (axis,)) for x in xs]
    return list(from_start(combine, starts, xs))


def reduce_window(
    *operands: Any,
    jaxpr: Jaxpr,
    consts: Sequence[Any],
    window_dimensions: Sequence[int],
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    base_dilation: Sequence[int],
    window_dilation: Sequence[int],
) -> list[Any]:
    """lax.reduce_window: axis by axis, the entries at every place of the window."""
    count = len(operands) // 2
    xs, starts = list(operands[:count]), operands[count:]
    combine = combination(ClosedJaxpr(jaxpr, consts))
    inside = [(*around, d - 1) for around, d in zip(padding, base_dilation, strict=True)]
    xs = [lax.pad(x, start, inside) for x, start in zip(xs, starts, strict=True)]
    windows = zip(window_dimensions, window_strides, window_dilation, strict=True)
    for axis, (size, stride, dilation) in enumerate(windows):
        last = xs[0].shape[axis] - (size - 1) * dilation  # the first entries of all windows
        found: Arrays = []
        for place in range(0, size * dilation, dilation):
            here = [lax.slice_in_dim(x, place, place + last, stride, axis) for x in xs]
            found = combine(found, here) if found else here
        xs = list(found)
    return list(from_start(combine, starts, xs))
