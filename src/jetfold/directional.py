"""Derivatives along a direction: one vector for every point, its normal for instance."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from numbers import Real
from typing import Any

import numpy as np

from .core.arrays import Array
from .core.polynomial import Polynomial
from .core.symbols import Polynomials, Variables
from .operators import Operator, described, factor, partials
from .transform import Call, Transform


class Directional(Transform):
    """(v·∇)^order along directions that are found in each call; made by the functions below.

    Attributes:
        direction: an array, or a callable of the points.
        order: how often it is differentiated.
        unit: whether the direction is scaled to length one.
    """

    name = "directional_derivative"

    def __init__(self, direction: Any, order: int, unit: bool) -> None:
        self.direction, self.order, self.unit = direction, order, unit
        self.symbols = Polynomials([Polynomial({(0,) * order: 1})], 1)
        self._factor = factor(direction)
        self.name = "normal_derivative" if unit else "directional_derivative"

    def variables(self, n: int) -> Variables:
        return 1

    def directions(self, call: Call) -> tuple[Array | None, Variables]:
        """One, (1, n), or one per point, (1, *batch, n)."""
        array = self._factor.at(call)
        shape, n, batch = tuple(array.shape), call.n, call.batch
        if prod(shape) == n and not (batch and shape[: len(batch)] == batch):
            array = array.reshape((1, n))
        elif shape[: len(batch)] == batch and prod(shape) == prod(batch) * n:
            array = array.reshape((1, *batch, n))
        else:
            per_point = f", or {(*batch, n)}, one per point" if batch else ""
            raise ValueError(
                f"a direction has shape {(n,)}, one entry per coordinate{per_point}; got {shape}"
            )
        if self.unit:
            array = array / call.frontend.xp.sqrt((array**2).sum(-1))[..., None]
        return array, 1

    def __repr__(self) -> str:
        order = "" if self.order == 1 else f", order={self.order}"
        return f"{self.name}({described(self.direction)}{order})"


def directional_derivative(direction: Any, order: int = 1) -> Transform:
    """(v·∇)^order: the derivative along v, equivalent to nested `jvp` with that tangent.

    Args:
        direction: numbers, one per coordinate (then the result is an `Operator`, to be combined
            with others); or an array `Float[n]`, or with batch_dims `Float[*batch, n]`, one per
            point; or a callable of the points that returns one. Arrays may be trainable.
        order: how often it is differentiated.

    Returns:
        an operator, called like the others. It carries 1+order vectors.

    Raises:
        TypeError: the direction is something else.
        ValueError: no positive order; (in the call) a direction of another shape.

    >>> import torch
    >>> f = lambda x: x[0] ** 2 * x[1]
    >>> directional_derivative(torch.tensor([1.0, 2.0]))(f)(torch.tensor([3.0, 5.0]))
    tensor(48.)
    >>> directional_derivative([1, 2])
    Operator(d0 + 2*d1)
    """
    return _along(direction, order, False)


def normal_derivative(normal: Any, order: int = 1) -> Transform:
    """∂u/∂n, the derivative along a normal that is scaled to length one: of Neumann conditions.

    Arguments, result and errors are those of `directional_derivative`. A boundary condition of
    several orders takes one propagation: `derivatives({"u": value, "u_n": normal_derivative(n)})`.

    >>> import torch
    >>> points = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # of the unit circle, its own normals
    >>> normal_derivative(lambda p: p)(lambda p: (p**2).sum(-1), batch_dims=1)(points)
    tensor([2., 2.])
    """
    return _along(normal, order, True)


def _along(direction: Any, order: int, unit: bool) -> Transform:
    if not isinstance(order, int) or isinstance(order, bool) or order < 1:
        raise ValueError(f"order must be a positive integer, got {order!r}")
    if isinstance(direction, (list, tuple)) or type(direction) is np.ndarray:
        numbers = np.asarray(direction)
        if numbers.ndim == 1 and numbers.dtype.kind in "iuf" and numbers.size:
            return _along_numbers(numbers.tolist(), order, unit)
    if isinstance(direction, Operator) or not (callable(direction) or hasattr(direction, "shape")):
        raise TypeError(
            "a direction is a list of numbers, an array or a callable of the point, got "
            f"{type(direction).__name__}; write directional_derivative(v)(f)(x)"
        )
    return Directional(direction, order, unit)


def _along_numbers(numbers: Sequence[Real], order: int, unit: bool) -> Operator:
    length = float(np.linalg.norm(np.asarray(numbers, dtype=float))) if unit else 1
    if not length:
        raise ValueError("a normal of length zero has no direction")
    parts = partials(len(numbers))
    total = 0 * parts[0]
    for c, d in zip(numbers, parts, strict=True):
        total = total + c * d
    return (total / length if length != 1 else total) ** order
