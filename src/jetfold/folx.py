"""The forward Laplacian with folx's signature: `from jetfold.folx import forward_laplacian`.

>>> import torch
>>> found = forward_laplacian(lambda x: (x**3).sum())(torch.tensor([1.0, 2.0]))
>>> found.x, found.jacobian.dense_array, found.laplacian
(tensor(9.), tensor([ 3., 12.]), tensor(18.))
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from .derivatives import derivatives, map_tree, tree_leaves
from .frameworks import frontend_of
from .named import Stacked, laplacian, value

__all__ = ["ForwardLaplacianOperator", "FwdJacobian", "FwdLaplArray", "forward_laplacian"]

rows = Stacked("jacobian", 1, lambda call, x: x, "∂f/∂x_i, with the coordinates first.")


class FwdJacobian(NamedTuple):
    """∂f/∂x_i for all coordinates of all arguments: `data` is (n, *shape of f's result)."""

    data: Any

    @property
    def dense_array(self) -> Any:
        """The same: no zeros are left out of it."""
        return self.data


class FwdLaplArray(NamedTuple):
    """A result of a function, its Jacobian and its Laplacian; the attributes are folx's."""

    x: Any
    jacobian: FwdJacobian
    laplacian: Any

    @property
    def shape(self) -> Any:
        return self.x.shape

    @property
    def ndim(self) -> int:
        return len(self.x.shape)

    @property
    def dtype(self) -> Any:
        return self.x.dtype

    @property
    def dense_jacobian(self) -> Any:
        return self.jacobian.data


def forward_laplacian(
    fn: Callable[..., Any], sparsity_threshold: float = 0, disable_jit: bool = False
) -> Callable[..., Any]:
    """Value, Jacobian and Laplacian of a function, equivalent to `folx.forward_laplacian(fn)`.

    Args:
        fn: a function of arrays, or pytrees of them, that returns an array or a pytree of them. All
            positional arguments are differentiated, as coordinates of one point; constants pass
            as keywords.
        sparsity_threshold: taken and not needed: zeros that are known are always left out.
        disable_jit: not to compile in JAX. PyTorch runs eagerly; `torch.compile` the result.

    Returns:
        a function with the arguments of fn and `weights`, by which derivatives are multiplied (a
        number, or one for every coordinate, or a tuple of such for the arguments); its result has
        an `FwdLaplArray` for every array of fn's.

    Raises (in the call):
        TypeError: an argument that is no floating-point array.
        ValueError: weights that do not fit the arguments.
    """
    if not callable(fn):
        raise TypeError(
            f"forward_laplacian takes a function, got {type(fn).__name__}: write "
            "forward_laplacian(f)(x)"
        )

    def wrapped(*args: Any, weights: Any = 1.0, **kwargs: Any) -> Any:
        leaves, rebuilt = _flat(args)
        if not leaves:
            raise TypeError("forward_laplacian(f) differentiates by its positional arguments: none")
        frontend = frontend_of(leaves[0])

        def of_leaves(*leaves: Any) -> Any:
            return fn(*rebuilt(leaves), **kwargs)

        function, points = of_leaves, leaves
        if weights is not None and not (isinstance(weights, (int, float)) and weights == 1):
            scales = _scales(weights, leaves)
            points = [frontend.xp.zeros_like(leaf) for leaf in leaves]

            def function(*steps: Any) -> Any:
                moved = zip(leaves, scales, steps, strict=True)
                return of_leaves(*(x + w * step for x, w, step in moved))

        operator = derivatives((value, rows, laplacian))
        found = operator(function, argnums=tuple(range(len(points))))(*points)
        return frontend.map_outputs(
            lambda x, jacobian, lap: FwdLaplArray(x, FwdJacobian(jacobian), lap), *found
        )

    def compiled(*args: Any, **kwargs: Any) -> Any:
        leaves, _ = _flat(args)
        jax = sys.modules.get("jax")
        if disable_jit or jax is None or not any(isinstance(x, jax.Array) for x in leaves):
            return wrapped(*args, **kwargs)
        return jitted(*args, **kwargs)

    jax = sys.modules.get("jax")
    jitted = wrapped if jax is None else jax.jit(wrapped)
    return compiled


def _flat(args: Any) -> tuple[list[Any], Callable[[Any], Any]]:
    """The arrays of the arguments, and how to put others in their place."""
    leaves = tree_leaves(args)
    jax = sys.modules.get("jax")
    if jax is not None and not all("torch" in type(x).__module__ for x in leaves):
        leaves, structure = jax.tree.flatten(args)
        return leaves, lambda new: jax.tree.unflatten(structure, new)

    def rebuilt(new: Any) -> Any:
        rest = iter(new)
        return map_tree(lambda _: next(rest), args)

    return leaves, rebuilt


def _scales(weights: Any, leaves: list[Any]) -> list[Any]:
    """A weight for every array: a number, or an array like it."""
    count = len(leaves)
    each = list(weights) if isinstance(weights, (tuple, list)) else [weights] * count
    if len(each) != count:
        raise ValueError(
            f"weights is a number, or one for each of the {count} arrays; got {len(each)}"
        )
    for weight, leaf in zip(each, leaves, strict=True):
        shape = tuple(getattr(weight, "shape", ()))
        if shape not in ((), tuple(leaf.shape)):
            raise ValueError(
                f"a weight is a number, or an array {tuple(leaf.shape)} like the argument, one for "
                f"every coordinate; got {shape}"
            )
    return each


@dataclass(frozen=True)
class ForwardLaplacianOperator:
    """f -> (x -> (Laplacian, Jacobian)), equivalent to `folx.ForwardLaplacianOperator`.

    >>> import torch
    >>> ForwardLaplacianOperator()(lambda x: (x**2).sum())(torch.tensor([1.0, 2.0]))
    (tensor(4.), tensor([2., 4.]))
    """

    sparsity_threshold: float = 0

    def __call__(self, f: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, Any]]:
        forward = forward_laplacian(f, self.sparsity_threshold)

        def laplacian_and_jacobian(x: Any) -> tuple[Any, Any]:
            found = forward(x)
            return found.laplacian, found.jacobian.dense_array

        return laplacian_and_jacobian
