"""`dde.grad` with one propagation: jacobian and hessian as DeepXDE has them, and more."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import deepxde

from ..columns import Column, Index, Symbol
from ..warn import JetfoldWarning

if deepxde.backend.backend_name == "jax":
    from .pairs import any_network, find, forget, together
else:
    from .tensors import any_network, find, forget, together

__all__ = ["biharmonic", "clear", "derivative", "hessian", "jacobian", "laplacian"]


def jacobian(ys: Any, xs: Any, i: int | None = None, j: int | None = None) -> Any:
    """∂y_i/∂x_j, equivalent to `deepxde.grad.jacobian`.

    Args:
        ys: the outputs Float[points, outputs], columns of them, or derivatives found before.
        xs: the inputs Float[points, coordinates].
        i: which output; None for all of them, or the only one.
        j: which coordinate; None for all of them: the gradient of output i.

    Returns:
        Float[points, 1]; Float[points, coordinates] without j, Float[points, outputs] without i.

    Raises:
        ValueError: there is no such output or coordinate, or neither i nor j says which.
    """
    if not any_network():
        warnings.warn(
            "no network is watched, so derivatives come from autograd as before: make the model "
            "by Model of jetfold.deepxde (import jetfold.deepxde as dde), or call "
            "jetfold.deepxde.watch(net)",
            JetfoldWarning,
            stacklevel=2,
        )
    return of_any(ys, xs, i, j)


def of_any(ys: Any, xs: Any, i: int | None = None, j: int | None = None) -> Any:
    """`jacobian`, of networks that are watched and of others: what DeepXDE's own code calls."""
    found = find(ys, xs)
    if found is None:
        return deepxde.gradients.jacobian(ys, xs, i=i, j=j)
    call, columns = found
    n = xs.shape[1]
    if i is None and j is None and (n > 1 or len(columns) > 1):
        raise ValueError("i and j cannot be both None.")
    if i is not None and not 0 <= i < len(columns):
        raise ValueError(f"i={i} is not valid.")
    if j is not None and not 0 <= j < n:
        raise ValueError(f"j={j} is not valid.")
    if i is not None or len(columns) == 1:
        column = columns[i or 0]
        if j is None and n > 1:
            return _row(call, column, n)
        return call.derivative(column, ((j or 0,),))
    parts = [call.derivative(column, ((j or 0,),)) for column in columns]
    return together(call, parts)


def hessian(ys: Any, xs: Any, component: int = 0, i: int = 0, j: int = 0) -> Any:
    """∂²y_component/∂x_i∂x_j, equivalent to `deepxde.grad.hessian`: Float[points, 1].

    Of a derivative found before, a derivative of higher order: `hessian(hessian(y, x), x)` is
    ∂⁴y/∂x⁴, from the propagation of all.
    """
    return derivative(ys, xs, i, j, component=component)


def derivative(ys: Any, xs: Any, *coordinates: int, component: int = 0) -> Any:
    """A derivative of any order: `derivative(y, x, 0, 0, 1)` is ∂³y/∂x_0²∂x_1, Float[points, 1]."""
    if not coordinates or not all(0 <= j < xs.shape[1] for j in coordinates):
        raise ValueError(
            f"a derivative is by coordinates 0 to {xs.shape[1] - 1}, got {coordinates}"
        )
    return _applied(ys, xs, (coordinates,), component)


def laplacian(ys: Any, xs: Any, component: int = 0, over: Sequence[int] | None = None) -> Any:
    """Σ_j ∂²y_component/∂x_j² over some coordinates or all: Float[points, 1]."""
    return _applied(ys, xs, tuple((j, j) for j in _coordinates(xs, over)), component)


def biharmonic(ys: Any, xs: Any, component: int = 0, over: Sequence[int] | None = None) -> Any:
    """The Laplacian of the Laplacian, Float[points, 1]."""
    js = _coordinates(xs, over)
    return _applied(ys, xs, tuple((i, i, j, j) for i in js for j in js), component)


def clear() -> None:
    """Forget derivatives, DeepXDE's and ours; a `Model` does so after each evaluation."""
    forget()
    deepxde.gradients.clear()


def _coordinates(xs: Any, over: Sequence[int] | None) -> Sequence[int]:
    n = xs.shape[1]
    if over is not None and not (over and all(0 <= j < n for j in over)):
        raise ValueError(f"over= lists coordinates, 0 to {n - 1}, got {over!r}")
    return range(n) if over is None else over


def _applied(ys: Any, xs: Any, symbol: Symbol, component: int) -> Any:
    """A sum of derivatives of one column."""
    found = find(ys, xs)
    if found is not None:
        call, columns = found
        if not 0 <= component < len(columns):
            raise ValueError(
                f"The component of ys={component} cannot be larger than the "
                f"dimension={len(columns)}."
            )
        return call.derivative(columns[component], symbol)
    total = None
    for index in symbol:
        total = _plus(total, _original(ys, xs, index, component))
    return total


def _original(ys: Any, xs: Any, index: Index, component: int) -> Any:
    """A derivative as DeepXDE has it: by its own hessians, and a jacobian of what remains."""
    while len(index) > 1:
        ys = deepxde.gradients.hessian(ys, xs, component=component, i=index[0], j=index[1])
        component, index = 0, index[2:]
    return deepxde.gradients.jacobian(ys, xs, i=component, j=index[0]) if index else ys


def _plus(a: Any, b: Any) -> Any:
    if a is None:
        return b
    if isinstance(a, tuple):  # DeepXDE's pairs of values and their function, for JAX
        return a[0] + b[0], lambda x: a[1](x) + b[1](x)
    return a + b


def _row(call: Any, column: Column, n: int) -> Any:
    """The gradient of one column."""
    return together(call, [call.derivative(column, ((j,),)) for j in range(n)])
