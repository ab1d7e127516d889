"""Exact values where nested differentiation in float64 has too few digits, or too much to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from math import factorial, prod
from typing import Any

import mpmath
import numpy as np

from ..named import weighted_laplacian
from .backends import Backend
from .networks import Layer

DIGITS = 30
"""With which mpmath computes."""

ON_CIRCLE, RADIUS = 64, 0.75
"""At how many points of which circle a tanh network is evaluated. Its poles lie outside of it:
weights of the first layer are at most 1, and the others small."""

Function = Callable[..., Any]
"""Of coordinates, numbers of mpmath, to one of them."""


# ------------------------------------------------------------------ functions of mpmath's numbers


def ripple(*x: Any) -> Any:
    """exp(−|x|²/4) sin(1/2 + Σ x_i), whose derivatives grow slowly."""
    bell = mpmath.exp(-sum(c * c for c in x) / 4)
    return bell * mpmath.sin(mpmath.mpf(1) / 2 + sum(x))


def tanh_mlp(layers: Sequence[Layer]) -> Function:
    """The network of `networks.mlp` with one output."""

    def of(*x: Any) -> Any:
        h = list(x)
        for k, (matrix, bias) in enumerate(layers):
            h = [mpmath.tanh(value) for value in h] if k else h
            rows = zip(matrix.tolist(), bias.tolist(), strict=True)
            h = [mpmath.fdot(row, h) + shift for row, shift in rows]
        return h[0]

    return of


# ------------------------------------------------------------------ derivatives


def laplacians(function: Function, power: int, x: Sequence[float]) -> Any:
    """Δ^power f = Σ_|α|=power power!/α! ∂^{2α} f at x, from differences of f with many digits."""
    total = mpmath.mpf(0)
    for alpha in product(range(power + 1), repeat=len(x)):
        if sum(alpha) == power:
            count = factorial(power) // prod(map(factorial, alpha))
            total += count * along(function, [2 * a for a in alpha], x)
    return total


def along(function: Function, orders: Sequence[int], x: Sequence[float]) -> Any:
    """∂^α f at x, from differences of f with many digits."""
    point = [mpmath.mpf(value) for value in x]
    wanted = [k for k, order in enumerate(orders) if order]

    def of_wanted(*values: Any) -> Any:
        moved = list(point)
        for k, value in zip(wanted, values, strict=True):
            moved[k] = value
        return function(*moved)

    if not wanted:
        return function(*point)
    if len(wanted) == 1:
        return mpmath.diff(of_wanted, point[wanted[0]], orders[wanted[0]])
    return mpmath.diff(of_wanted, [point[k] for k in wanted], tuple(orders[k] for k in wanted))


def differences(operator: str, function: Function, order: int, points: np.ndarray) -> np.ndarray:
    """Float[points, 1] of the operators "laplacian^k" and "d_x^k" of an order.

    >>> differences("d_x^k", ripple, 1, np.zeros((1, 1))).round(6)  # cos(1/2)
    array([[0.877583]])
    """
    with mpmath.workdps(DIGITS):
        if operator == "laplacian^k":
            found = [laplacians(function, order // 2, x) for x in points.tolist()]
        else:
            found = [along(function, [order], x) for x in points.tolist()]
        return np.array([[float(value)] for value in found])


def on_a_circle(layers: Sequence[Layer], order: int, points: np.ndarray) -> np.ndarray:
    """f^(k)(x) = k!/r^k · mean_j f(x + r e^iθ_j) e^−ikθ_j, Cauchy's formula, of a tanh network.

    The half of the circle in the upper half-plane is enough, because f is real.

    Source: Lyness & Moler 1967, "Numerical differentiation of analytic functions".
    """
    angles = np.linspace(0, np.pi, 1 + ON_CIRCLE // 2)
    shares = np.full(len(angles), 2 / ON_CIRCLE)
    shares[[0, -1]] /= 2  # these two have no mirror image
    h = (points.astype(np.float64) + RADIUS * np.exp(1j * angles))[..., None]
    for k, (matrix, bias) in enumerate(layers):
        h = (np.tanh(h) if k else h) @ matrix.T.astype(np.float64) + bias
    coefficients = np.einsum("pjo,j->po", h, shares * np.exp(-1j * order * angles)).real
    return np.asarray(coefficients * factorial(order) / RADIUS**order)


# ------------------------------------------------------------------ many dimensions


def laplacian_of_mlp(layers: Sequence[Layer], points: np.ndarray, backend: Backend) -> np.ndarray:
    """The Laplacian of a tanh network in very many dimensions, by nested differentiation.

    Of f(x) = g(A x + b) it is Tr(A Aᵀ ∇²g), whose dimension is the width of the first layer.
    """
    (matrix, bias), *rest = ((m.astype(np.float64), b.astype(np.float64)) for m, b in layers)
    units = len(matrix)
    inner = points.astype(np.float64) @ matrix.T + bias
    outer = backend.network([(np.eye(units), np.zeros(units)), *rest], "float64")
    operator = weighted_laplacian(C=matrix @ matrix.T)
    x = backend.array(inner, "float64")
    return backend.numpy(operator(outer, batch_dims=1, method="nested")(x))
