"""Vanilla Taylor mode: `jet`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, overload

from .core import plans
from .frameworks import frontend_of
from .transform import read
from .typed import Module, T


@overload
def jet(
    f: Module[T], primals: Sequence[Any], series: Sequence[Sequence[Any]]
) -> tuple[T, list[T]]: ...
@overload
def jet(
    f: Callable[..., T], primals: Sequence[Any], series: Sequence[Sequence[Any]]
) -> tuple[T, list[T]]: ...
def jet(f: Any, primals: Sequence[Any], series: Sequence[Sequence[Any]]) -> tuple[Any, Any]:
    """Vanilla Taylor mode, with the signature and conventions of `jax.experimental.jet.jet`.

    The path x(t) = x_0 + t x_1 + t²/2! x_2 + … is pushed through f: coefficients are derivatives.

    Args:
        f: the function of the primals.
        primals: the points x_0, one per argument.
        series: per argument the derivatives (x_1, …, x_K) of its path, of the shape of the primal;
            none, for K = 0, gives the value alone.

    Returns:
        (f(x_0), [the derivatives 1 … K of f(x(t)) at t = 0]), in the structure that f returns.

    >>> import torch
    >>> x = torch.tensor(0.5)
    >>> jet(torch.exp, (x,), ([torch.tensor(1.0), torch.tensor(0.0)],))
    (tensor(1.6487), [tensor(1.6487), tensor(1.6487)])
    """
    if len(primals) != len(series):
        raise ValueError(
            f"jet needs one series per primal, got {len(primals)} primals and {len(series)} series"
        )
    orders = {len(terms) for terms in series}
    if len(orders) != 1:
        raise ValueError(
            "all series must have the same number of terms, got "
            f"{sorted(len(terms) for terms in series)}"
        )
    (order,) = orders
    frontend = frontend_of(primals[0])
    for point, terms in zip(primals, series, strict=True):
        frontend.check_point("jet", point, 0)
        for term in terms:
            if tuple(getattr(term, "shape", ())) != tuple(point.shape):
                raise ValueError(
                    f"the series of a primal of shape {tuple(point.shape)} must have that shape, "
                    f"got {tuple(getattr(term, 'shape', ()))}"
                )
    if not order:
        return frontend.map_outputs(lambda leaf: leaf, f(*primals)), []
    algebra = frontend.static(plans.path_algebra, order)
    with frontend.new_level() as level:
        jets = [
            frontend.make_jet(
                algebra, level, point, [frontend.xp.asarray(term, point)[None] for term in terms]
            )
            for point, terms in zip(primals, series, strict=True)
        ]
        out = frontend.run(f, jets)
        values = [
            frontend.map_outputs(partial(read, frontend, level, plans.one(entries)), out)
            for entries in algebra.readout
        ]
    return values[0], values[1:]
