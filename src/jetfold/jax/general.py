"""The general rule, and functions of every entry alone: nested derivatives of JAX's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from itertools import permutations
from typing import Any

import jax
import jax.numpy as jnp

from ..core import general as of_several
from ..core.algebra import monomials
from ..core.arithmetic import aligned
from ..core.jet import Jet, compose_several
from ..warn import report
from . import arrays as XP
from .jets import algebra_of, coefficients, expanded, is_inexact, jet, mapped, values


def places_of_jets(operands: Sequence[Any]) -> list[int]:
    """Where the jets are among the operands."""
    return [k for k, x in enumerate(operands) if isinstance(x, Jet)]


def of_places(
    function: Callable[..., Any], operands: Sequence[Any], places: Sequence[int]
) -> Callable[..., Any]:
    """The function of the operands at some places, the others held."""

    def of_points(*points: Any) -> Any:
        filled = list(operands)
        for k, point in zip(places, points, strict=True):
            filled[k] = point
        return function(*filled)

    return of_points


def pushforward(
    function: Callable[..., Any], plain: Sequence[Any], places: Sequence[int], rows: Sequence[Any]
) -> Any:
    """Dφ(plain)[rows], with tangents for the operands at `places`."""
    return by_jvp(of_places(function, plain, places), [plain[k] for k in places], rows)


Push = Callable[[Callable[..., Any], Sequence[Any], Sequence[Any]], Any]
"""(function, points, tangents) -> Dφ(points)[tangents]."""


def by_jvp(function: Callable[..., Any], points: Sequence[Any], tangents: Sequence[Any]) -> Any:
    """Dφ(points)[tangents], by forward mode."""
    return jax.jvp(function, tuple(points), tuple(tangents))[1]


Value = Callable[[Callable[..., Any], Sequence[Any]], Any]
"""(function, points) -> φ(points)."""


def as_it_is(function: Callable[..., Any], points: Sequence[Any]) -> Any:
    """The value of a function."""
    return function(*points)


@contextmanager
def differentiated(name: str, push: Push = by_jvp) -> Iterator[None]:
    """Where JAX is asked for derivatives of an operation: if it has none, that is said."""
    try:
        yield
    except (NotImplementedError, TypeError, ValueError, AssertionError) as error:
        if push is not by_jvp:
            raise
        words = " ".join(str(error).split())[:300]
        raise NotImplementedError(
            f"{name} was called on the argument of a function that jetfold differentiates, and "
            f"neither jetfold nor JAX has that derivative of it (JAX says: {words}); write it in "
            "operations that have one, give the function around it a rule (jax.custom_jvp or "
            "jetfold.register_rule), or, if it is meant as a constant, wrap its argument in "
            "jax.lax.stop_gradient"
        ) from error


def general(
    operation: Callable[..., Any],
    operands: Sequence[Any],
    name: str,
    push: Push = by_jvp,
    of: Value = as_it_is,
) -> Any:
    """Any operation that JAX differentiates, from its nested directional derivatives, exactly.

    It is reported by name, for it is slow.
    """
    report(name)
    algebra, plain = algebra_of(operands), values(operands)
    places = places_of_jets(operands)
    several = getattr(operation, "several", True)
    held = of_places(operation, plain, places)

    def of_jets(*points: Any) -> list[Any]:
        out = held(*points)
        return list(out) if several else [out]

    points = [plain[k] for k in places]
    results = list(of(of_jets, points))
    varying = [k for k, y in enumerate(results) if is_inexact(y)]

    def directional(slots: Sequence[Sequence[Any]]) -> list[Any]:
        """D^kφ(points)[slot, …] for stacked tangents."""

        def one(*tangents: Any) -> Any:
            def derivative(*at: Any) -> list[Any]:
                out = of_jets(*at)
                return [out[k] for k in varying]

            n = len(points)
            for s in range(len(slots)):
                derivative = _pushed(push, derivative, tangents[s * n : (s + 1) * n])
            return derivative(*points)

        return mapped(one, *[stack for slot in slots for stack in slot])

    with differentiated(name, push):
        blocks = of_several.blocks(
            algebra,
            monomials(algebra.key),
            points,
            [expanded(operands[k], algebra.order) for k in places],
            directional,
            len(varying),
            XP,
        )
    for k, of_result in zip(varying, blocks, strict=True):
        results[k] = jet(algebra, results[k], of_result)
    return results if several else results[0]


def _pushed(
    push: Push, function: Callable[..., Any], tangents: Sequence[Any]
) -> Callable[..., Any]:
    return lambda *at: push(function, at, tangents)


def entrywise(
    function: Callable[..., Any],
    operands: Sequence[Any],
    push: Push = by_jvp,
    of: Value = as_it_is,
    *,
    smooth: bool = True,
) -> Any:
    """A function that acts on every entry alone, of one jet or more: t_α = ∂^αφ/α!.

    Its partial derivatives need no tangents but ones. Operands are broadcast where `function` does.
    If it is not smooth, as with a rule that somebody chose, ∂_x∂_yφ need not be ∂_y∂_xφ, and what
    counts is their mean.
    """
    algebra, plain = algebra_of(operands), values(operands)
    places = places_of_jets(operands)
    of_jets = of_places(function, plain, places)
    y = of(of_jets, [plain[k] for k in places])

    def along(function: Callable[..., Any], k: int) -> Callable[..., Any]:
        def derivative(*points: Any) -> Any:
            def of_one(point: Any) -> Any:
                return function(*points[:k], point, *points[k + 1 :])

            return push(of_one, (points[k],), (jnp.ones_like(points[k]),))

        return derivative

    points = [plain[k] for k in places]

    def taylor(alpha: Sequence[int]) -> Any:
        """∂^αφ/α!."""
        steps = [k for k, times in enumerate(alpha) for _ in range(times)]
        orders = [steps] if smooth else sorted(set(permutations(steps)))
        found = [reduce(along, order, of_jets)(*points) for order in orders]
        return reduce(jnp.add, found) / (len(orders) * math.prod(map(math.factorial, alpha)))

    order = algebra.order
    nilpotents = [[None, *aligned(coefficients(operands[k], order), y, XP)[1:]] for k in places]
    return jet(algebra, y, compose_several(algebra, nilpotents, taylor, y.ndim, XP))
