"""φ(û) and products of it by arrays, in such a form that gradients keep û alone.

The differential of ĝ = φ(û) is a product of jets, dĝ = φ'(û)^ dû, so that neither towers nor powers
of the nilpotent part have to be kept; and a product ĝ W, whose gradient by W is made of ĝ, knows
what ĝ was made of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import factorial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..core import arithmetic
from ..core.algebra import JetAlgebra
from ..core.jet import Elementwise as ElementwiseProduct
from ..core.jet import Jet, add, product
from ..core.structure import Structured
from . import arrays as XP
from .flat import by_matrix
from .held import Axes, held, repeated, ruled
from .jets import Remembering, flatten_jet, unflatten_jet

Coefficients = Sequence[Any]


@dataclass(frozen=True)
class Composition:
    """û ↦ φ^{(m)}(û).

    Attributes:
        tower: that of φ.
        derivative: m.
    """

    algebra: JetAlgebra
    tower: Callable[..., list[Any]]
    derivative: int = 0

    def __call__(self, y: Any, u: Coefficients) -> list[Any]:
        """[value, block 1, …], from y = φ(u)."""
        m, tower = self.derivative, self.tower
        if m:
            series = _derived([y, *tower(u[0], y, self.algebra.order + m, XP)], m)
            y = _like(series[0], u[0])

            def tower(*_: Any) -> list[Any]:
                return series[1:]

        return arithmetic.composed(self.algebra, u, y, tower, XP)

    def tangent(self, y: Any, u: Coefficients, du: Coefficients) -> list[Any]:
        """φ'(û)^ dû."""
        slope = kept(replace(self, derivative=self.derivative + 1), y, u)
        du = [
            jnp.zeros_like(u[0]) if du[0] is None else du[0],
            *(_spread(b, u[0].shape) for b in du[1:]),
        ]
        return product(self.algebra, slope, du, _Slope(XP, u[0].ndim), XP)


class _Slope(ElementwiseProduct):
    """The product by a differential, whose gradient by the value sums rows as `halves` does."""

    def block_value(self, u: Any, v: Any) -> Any:
        """u[a] v for every row a."""
        u = XP.expand_dims(u, self.ndim)
        return u * repeated(v[None], 0, u.shape[0])


def _spread(b: Any, shape: Sequence[int]) -> Any:
    """A block of which many entries depend on one, as one of the value's shape."""
    for axis, n in enumerate(shape, 1):
        if b is not None and b.ndim > axis and b.shape[axis] == 1:
            b = repeated(b, axis, n)
    return b


def _derived(series: list[Any], m: int) -> list[Any]:
    """The series of the m-th derivative: (k + m)!/k! t_{k+m}."""
    return [
        None if t is None else t * (factorial(k + m) / factorial(k))
        for k, t in enumerate(series[m:])
    ]


def _like(t: Any, u: Any) -> Any:
    """An entry of a tower as an array."""
    return jnp.broadcast_to(jnp.asarray(0.0 if t is None else t, jnp.result_type(u)), u.shape)


class Packed:
    """Which of [value, block 1, …] are there, and how they become a list of those alone."""

    def __init__(self, coefficients: Coefficients) -> None:
        self.there = [b is not None for b in coefficients]
        self.count = sum(self.there)

    def flat(self, coefficients: Coefficients) -> list[Any]:
        """Those that are there."""
        return [b for b, there in zip(coefficients, self.there, strict=True) if there]

    def spread(self, arrays: Sequence[Any]) -> list[Any]:
        """The reverse."""
        found = iter(arrays)
        return [next(found) if there else None for there in self.there]

    def awaited(self, algebra: JetAlgebra) -> int:
        """How many of the first ones have to be waited for, so that nothing large is made before.

        Products of two coefficients of higher degrees reach no degree but the last. What is of
        second order XLA makes part of products of matrices, and needs less memory if all wait.
        """
        return self.count if algebra.order <= 2 else sum(self.there[: (algebra.order + 1) // 2])


def kept(of: Composition, y: Any, u: Coefficients) -> list[Any]:
    """φ(û), of which the gradient keeps û and y = φ(u)."""
    packed = Packed(u)
    n = packed.count + 1

    def value(y: Any, *arrays: Any) -> list[Any]:
        return of(y, packed.spread(arrays))

    def tangent(arrays: list[Any], tangents: list[Any]) -> list[Any]:
        moved = [k for k, t in enumerate(tangents) if t is not None and k]  # not y, which follows

        def of_moved(*both: Any) -> list[Any]:
            (y, *arrays), du = both[:n], [None] * n
            for k, t in zip(moved, both[n:], strict=True):
                du[k] = t
            out = of.tangent(y, packed.spread(arrays), packed.spread(du[1:]))
            return list(map(_filled, results.flat(out), results.flat(shapes)))

        late = 1 + packed.awaited(of.algebra)
        return held(of_moved, arrays[:late], arrays[late:], [tangents[k] for k in moved])

    def mapped(arrays: Sequence[Any], axes: Axes) -> tuple[list[Any], Axes]:
        """φ acts on every entry alone, so a mapped axis is one more."""
        y, *moved = _moved(arrays, axes, places)
        found = results.flat(kept(of, y, packed.spread(moved)))
        return _unmapped(found, results.flat(_places(shapes)))

    operands = [y, *packed.flat(u)]
    places = [0, *packed.flat(_places(u))]
    program, shapes = jax.make_jaxpr(value, return_shape=True)(*operands)  # with no room for a None
    results = Packed(shapes)
    return results.spread(ruled(program, tangent, operands, mapped, results.flat(_places(shapes))))


def _moved(arrays: Sequence[Any], axes: Axes, places: Sequence[int]) -> list[Any]:
    """Arrays with the mapped axes at these places, of length one where they are not mapped."""
    return [
        jnp.expand_dims(x, there) if axis is None else jnp.moveaxis(x, axis, there)
        for x, axis, there in zip(arrays, axes, places, strict=True)
    ]


def _unmapped(found: list[Any], axes: Sequence[int]) -> tuple[list[Any], Axes]:
    """Results and their mapped axes; what is the same for all rows (values, or blocks of a
    polynomial) has none."""
    same = [x.shape[axis] == 1 for x, axis in zip(found, axes, strict=True)]
    both = list(zip(found, axes, same, strict=True))
    return (
        [lax.squeeze(x, (axis,)) if one else x for x, axis, one in both],
        [None if one else axis for _, axis, one in both],
    )


def _places(coefficients: Coefficients) -> list[int]:
    """Where a further first axis of the values stands."""
    return [0] + [1] * (len(coefficients) - 1)


def _filled(b: Any, like: Any) -> Any:
    """A block of this shape and dtype."""
    if b is None:
        return jnp.zeros(like.shape, like.dtype)
    for axis, (n, m) in enumerate(zip(b.shape, like.shape, strict=True)):
        if m == 1 < n:  # all entries are the same, as those of the block are
            b = lax.slice_in_dim(b, 0, 1, axis=axis)
    return jnp.broadcast_to(b, like.shape).astype(like.dtype)


class Composed(Remembering):
    """φ(û), and what it was made of."""

    def __init__(self, whole: Jet, of: Composition, argument: Coefficients) -> None:
        super().__init__(whole)
        self.of, self.argument = of, argument


jax.tree_util.register_pytree_node(Composed, flatten_jet, unflatten_jet)


def is_plain(u: Coefficients) -> bool:
    """Whether no block has structure."""
    return not any(isinstance(b, Structured) for b in u)


Contraction = Callable[[Coefficients, Any], list[Any]]
"""([value, block 1, …], array) -> their products."""


def times_matrix(x: Composed, matrix: Any, **options: Any) -> list[Any]:
    """ĝ W for a matrix W, by the last axis of ĝ, with the options of `lax.dot_general`."""

    def contraction(blocks: Coefficients, matrix: Any) -> list[Any]:
        return [None if b is None else by_matrix(b, matrix, **options) for b in blocks]

    def again(u: Coefficients, g: Coefficients, matrix: Any) -> list[Any]:
        made = Composed(Jet(x.algebra, x.level, g[0], g[1:]), x.of, u)
        return times_matrix(made, matrix, **options)

    return times_array(x, matrix, contraction, again)


def times_array(
    x: Composed,
    array: Any,
    contraction: Contraction,
    again: Callable[[Coefficients, Coefficients, Any], list[Any]] | None = None,
) -> list[Any]:
    """ĝ W, for ĝ = φ(û), of which the gradient by W makes ĝ again.

    Args:
        again: the same for another û and ĝ, of which the values have a further first axis.
    """
    g = [x.primal, *x.stored]
    made, packed = Packed(x.argument), Packed(g)
    n = made.count
    awaited = made.awaited(x.algebra)

    def value(*arrays: Any) -> list[Any]:
        *blocks, array = arrays[n:]
        return packed.flat(contraction(packed.spread(blocks), array))

    def tangent(arrays: list[Any], tangents: list[Any]) -> list[Any]:
        moved = [k for k, t in enumerate(tangents) if t is not None and k >= n]

        def of_moved(*both: Any) -> list[Any]:
            (late, *u), (y, array), dg = (
                both[: n + 1],
                both[n + 1 : n + 3],
                dict(zip(moved, both[n + 3 :], strict=True)),
            )
            *moving, by = (dg.get(k) for k in range(n, n + packed.count + 1))
            out: list[Any] = [None] * len(g)
            if any(b is not None for b in moving):
                out = contraction(packed.spread(moving), array)
            if by is not None:
                made_again = [y, *kept(x.of, late, made.spread(u))[1:]]
                out = list(map(add, out, contraction(made_again, by)))
            there[:] = [b is not None for b in packed.flat(out)]
            return [b for b in out if b is not None]

        there: list[bool] = []
        late = [arrays[n], *arrays[:awaited]]
        residuals = [*arrays[awaited:n], arrays[n], arrays[-1]]
        found = iter(held(of_moved, late, residuals, [tangents[k] for k in moved]))
        return [next(found) if some else None for some in there]

    def mapped(arrays: Sequence[Any], axes: Axes) -> tuple[list[Any], Axes] | None:
        if again is None or axes[-1] is not None:
            return None
        moved = _moved(arrays[:-1], axes[:-1], places)
        found = again(made.spread(moved[:n]), packed.spread(moved[n:]), arrays[-1])
        return _unmapped(packed.flat(found), places[n:])

    operands = [*made.flat(x.argument), *packed.flat(g), array]
    places = [*made.flat(_places(x.argument)), *packed.flat(_places(g))]
    program = jax.make_jaxpr(value)(*operands)
    return packed.spread(ruled(program, tangent, operands, mapped, places[n:]))
