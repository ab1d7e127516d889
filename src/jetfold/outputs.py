"""Operators of some outputs of a function: of the u, v or p of a network that gives all three."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from .core.arrays import Array
from .core.symbols import Entries, Variables
from .derivatives import Derivatives, map_tree, member
from .transform import Call, Transform


class Output(Transform):
    """An operator of some outputs of the function; made by `output`.

    Attributes:
        which: the index on the last axis, or the key of a mapping.
        operator: what acts on them.
    """

    def __init__(self, which: Any, operator: Transform) -> None:
        self.which, self.operator = which, operator
        self.name = f"output({which!r}, {operator.name})"
        self.symbols, self.coordinates = operator.symbols, operator.coordinates
        self.names, self.random = operator.names, operator.random

    def check(self, batch_dims: int) -> None:
        self.operator.check(batch_dims)

    def variables(self, n: int) -> Variables:
        return self.operator.variables(n)

    def directions(self, call: Call) -> tuple[Array | None, Variables]:
        return self.operator.directions(call)

    def assemble(self, results: Sequence[Any], call: Call) -> Any:
        stacked = isinstance(self.symbols, Entries)  # along a leading axis
        select = partial(chosen, self.which, call, stacked)
        return self.operator.assemble([select(result) for result in results], call)

    def __repr__(self) -> str:
        return f"output({self.which!r}, {self.operator!r})"


def chosen(which: Any, call: Call, stacked: bool, result: Any) -> Any:
    """Some of what a function returned, or of what an operator made of it."""
    if isinstance(which, str):
        try:
            return result[which]
        except (TypeError, KeyError, IndexError):
            raise KeyError(
                f"output({which!r}, ...) takes a function that returns a mapping with that key; of "
                "an array give the index on its last axis"
            ) from None
    return call.frontend.map_outputs(partial(_entries, which, len(call.batch) + stacked), result)


def _entries(which: Any, axes: int, leaf: Array) -> Array:
    if leaf.ndim <= axes:
        raise ValueError(
            f"output({which!r}, ...) takes a function with several numbers per point, along the "
            f"last axis; got a result of shape {tuple(leaf.shape)}"
        )
    size = tuple(leaf.shape)[-1]
    for k in which if isinstance(which, list) else [which]:
        if not -size <= k < size:
            raise ValueError(f"output({which!r}, ...): the function has {size} outputs per point")
    return leaf[..., which]


def output(which: Any, operator: Any) -> Transform:
    """An operator of one output of a function: the u, v or p of a network that gives all three.

    Args:
        which: the index on the last axis of what the function returns, or a list of indices; or the
            key of a mapping that it returns.
        operator: any operator, or a number c, which stands for c times the value.

    Returns:
        an operator. In `derivatives` all of them take ONE propagation, with the fewest vectors.

    Raises:
        TypeError: which is something else, or operator is none.
        ValueError, KeyError (in the call): there is no such output.

    >>> import torch, jetfold as jf
    >>> t, x = jf.partials("t x")
    >>> flow = lambda p: torch.stack([p[..., 1] ** 2, p[..., 0] * p[..., 1]], -1)  # u, p
    >>> terms = jf.derivatives({"u_xx": output(0, x**2), "p": output(1, jf.value)})
    >>> terms(flow)(torch.tensor([2.0, 3.0]))
    {'u_xx': tensor(2.), 'p': tensor(6.)}
    """
    if not isinstance(which, str):
        which = list(which) if isinstance(which, (list, tuple, range)) else which
        indices = which if isinstance(which, list) else [which]
        if not indices or any(not isinstance(k, int) or isinstance(k, bool) for k in indices):
            raise TypeError(
                "output takes an index on the last axis, a list of them, or the key of a mapping, "
                f"and then the operator, output(0, operator); got {which!r}"
            )
    if isinstance(operator, Derivatives):
        return Derivatives(map_tree(partial(output, which), operator.tree))
    return Output(which, member(operator, "output"))
