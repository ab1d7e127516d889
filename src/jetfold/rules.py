"""Rules of one's own: `register_rule` tells jetfold how a function acts on jets.

No framework is imported here: the halves are `torch/registered.py` and `jax/registered.py`, each
with `apply(rule, args, kwargs)`, which is asked when jets (PyTorch) or tracers (JAX) may have come.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial, wraps
from typing import Any, TypeVar, overload

from .core.jet import Jet
from .core.registered import Function, Registered

F = TypeVar("F", bound=Function)


@overload
def register_rule(
    function: F, *, tower: Function | None = None, jet: Function | None = None
) -> F: ...
@overload
def register_rule(
    function: None = None, *, tower: Function | None = None, jet: Function | None = None
) -> Callable[[F], F]: ...
def register_rule(
    function: Any = None, *, tower: Function | None = None, jet: Function | None = None
) -> Any:
    """The function, with a rule of its own for jets: exact derivatives at any order, in one pass.

    Use it as a function or as a decorator. What comes back is the function on arrays, in every way
    (`jit`, `vmap`, `grad`, `torch.compile`), and its own derivatives serve wherever it is
    differentiated otherwise. Inside of a function that jetfold evaluates, the rule counts.

    Args:
        function: of arrays, which are its arguments: what it reads from outside is constant to it.
        tower: for a function of one array that acts on every entry alone,
            `tower(u, y, order, xp) -> [φ'(u), φ''(u)/2!, …, φ^(order)(u)/order!]`, with y = φ(u)
            and xp the array vocabulary (`jetfold.core.arrays.Arrays`: exp, sin, where, …). An entry
            that is zero everywhere may be None, a constant one a float.
        jet: for any other function, `jet(*args, **kwargs)`: it is called with the arguments of the
            function, `jetfold.core.jet.Jet` in place of arrays that depend on the point, and
            returns what the function returns, jets in place of arrays. A jet has `.primal`, its
            value, and `.blocks`, for each degree the coefficients along a leading axis (or None);
            axes of length one are broadcast. `u.like(primal, blocks)` makes a jet;
            `jetfold.core.jet.product` multiplies the coefficients of two.

    Returns:
        the function; without `function`, a decorator.

    Raises:
        TypeError: neither or both of tower and jet were given.
        ValueError (when jets arrive): a tower or a result of the wrong length or shape.

    >>> import math, jax.numpy as jnp, jetfold as jf
    >>> def sine_tower(u, y, order, xp):  # φ^(k)/k! of sin u: the derivatives go in a circle
    ...     circle = [xp.cos(u), -y, -xp.cos(u), y]
    ...     return [circle[k % 4] / math.factorial(k + 1) for k in range(order)]
    >>> sine = jf.register_rule(jnp.sin, tower=sine_tower)
    >>> jf.biharmonic(lambda x: sine(x[0] * x[1]))(jnp.array([1.0, 2.0]))
    Array(..., dtype=float32)
    """
    if (tower is None) == (jet is None):
        given = "neither" if tower is None else "both"
        raise TypeError(
            f"register_rule takes either tower= (a function of every entry alone) or jet= (any "
            f"other function), got {given}"
        )
    if function is None:
        return partial(register_rule, tower=tower, jet=jet)
    for called, x in {"function": function, "tower": tower, "jet": jet}.items():
        if x is not None and not callable(x):
            raise TypeError(f"{called} must be callable, got {type(x).__name__}")
    name = getattr(function, "__name__", type(function).__name__)
    rule = Registered(function, tower, jet, name)

    def registered(*args: Any, **kwargs: Any) -> Any:
        arrays = list(_leaves((args, kwargs)))
        if any(hasattr(x, "__torch_function__") for x in arrays):
            if not any(isinstance(x, Jet) for x in arrays):
                return rule.function(*args, **kwargs)
            from .torch import registered as of_torch

            return of_torch.apply(rule, args, kwargs)
        if "jax" in sys.modules:
            from .jax import registered as of_jax

            return of_jax.apply(rule, args, kwargs)
        return rule.function(*args, **kwargs)

    return wraps(function, updated=())(registered)


def _leaves(tree: Any) -> Iterator[Any]:
    """What stands in tuples, lists and dictionaries."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    if isinstance(tree, (tuple, list)):
        for item in tree:
            yield from _leaves(item)
    else:
        yield tree
