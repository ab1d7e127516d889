"""The arithmetic of jets: sums, products, quotients, powers, composition with a tower.

A jet is a list [value, block 1, …] here, a constant one has no blocks: [value, None, …]. Values may
have different shapes and are broadcast; `y` is the value of the result, as the framework computed
it. All results are lists that begin with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from . import towers
from .algebra import JetAlgebra
from .arrays import Array, Arrays, Block
from .jet import Elementwise, Jet, add, compose, expanded, solve_by_degrees
from .jet import product as bilinear_product
from .structure import Structured

Coefficients = Sequence[Any]
"""[value, block 1, …]."""

Tower = Callable[..., list[Any]]
"""tower(u, y, order, xp) -> [φ'(u), φ''(u)/2!, …], as those of `core.towers`."""


def is_constant(u: Coefficients) -> bool:
    """Whether no block is there."""
    return all(b is None for b in u[1:])


def aligned(u: Coefficients, y: Array, xp: Arrays) -> list[Block]:
    """The same with rows that have as many axes as a result: values are broadcast, blocks are not.

    Rows lie on the leading axis, so that broadcasting would take it for one of the value's.
    """
    n, (value, *blocks) = y.ndim, u
    return [value, *[b if b is None or b.ndim > n else expanded(b, n, xp) for b in blocks]]


# ------------------------------------------------------------------ linear and bilinear


def plus(u: Coefficients, v: Coefficients, y: Array, xp: Arrays) -> list[Block]:
    """û + v̂."""
    u, v = aligned(u, y, xp), aligned(v, y, xp)
    return [y, *map(add, u[1:], v[1:])]


def minus(u: Coefficients, v: Coefficients, y: Array, xp: Arrays) -> list[Block]:
    """û − v̂."""
    u, v = aligned(u, y, xp), aligned(v, y, xp)
    return [
        y,
        *(
            a if b is None else add(a, -b) if a is None or type(b) is Structured else a - b
            for a, b in zip(u[1:], v[1:], strict=True)
        ),
    ]


def times(algebra: JetAlgebra, u: Coefficients, v: Coefficients, xp: Arrays) -> list[Block]:
    """û v̂, elementwise."""
    ndim = max(getattr(u[0], "ndim", 0), getattr(v[0], "ndim", 0))
    return bilinear_product(algebra, u, v, Elementwise(xp, ndim), xp)


def over(
    algebra: JetAlgebra, u: Coefficients, v: Coefficients, y: Array, xp: Arrays
) -> list[Block]:
    """û/v̂ = q̂, by q_m = (u_m − Σ v_i q_j)/v_0; by a constant it is linear."""
    u = aligned(u, y, xp)
    if is_constant(v):
        return [y, *(None if b is None else b / v[0] for b in u[1:])]
    reciprocal = 1 / v[0]

    def of_block(right: Block) -> Block:
        return right * reciprocal

    def of_value(_: Array) -> Array:
        return y

    elementwise = Elementwise(xp, y.ndim)
    return solve_by_degrees(algebra, v, u, of_value, of_block, elementwise, xp)


class RowByRow:
    """Any bilinear function, applied to the rows of blocks."""

    def __init__(self, function: Callable[[Array, Array], Array], xp: Arrays) -> None:
        self.one, self.xp = function, xp

    def value_block(self, u: Array, v: Block) -> Block:
        """B(u, v[b]) for every row b."""
        return self.xp.map_rows(lambda row: self.one(u, row), v, held=(u,))

    def block_value(self, u: Block, v: Array) -> Block:
        """B(u[a], v) for every row a."""
        return self.xp.map_rows(lambda row: self.one(row, v), u, held=(v,))

    def blocks(self, u: Block, v: Block) -> Block:
        """B(u[a], v[a]) for every row a."""
        return self.xp.map_rows(self.one, u, v)

    def contract(self, u: Block, v: Block) -> Array:
        """Σ_a B(u[a], v[a])."""
        return self.xp.sum_rows(self.blocks(u, v))


# ------------------------------------------------------------------ functions of every entry


def composed(
    algebra: JetAlgebra, u: Coefficients, y: Array, tower: Tower, xp: Arrays
) -> list[Block]:
    """φ(û), from y = φ(u) and its tower; y may have more axes than u where φ has parameters."""
    coefficients = tower(u[0], y, algebra.order, xp)
    nilpotent = Jet(algebra, 0, u[0], aligned(u, y, xp)[1:])
    return [y, *compose(nilpotent, coefficients, y.ndim, xp)]


def power(
    algebra: JetAlgebra, u: Coefficients, p: Coefficients, y: Array, xp: Arrays
) -> list[Block]:
    """û^p̂: a tower in the base or in the exponent, exp(p̂ log û) where both have blocks.

    A constant base or exponent may be a Python number; its tower is shorter where that is 0, 1, ….
    """
    if is_constant(p):
        return composed(algebra, u, y, _of_base(p[0]), xp)
    if is_constant(u):
        return composed(algebra, p, y, _of_exponent(u[0]), xp)
    log = composed(algebra, u, xp.log(u[0]), towers.log, xp)
    return composed(algebra, times(algebra, p, log, xp), y, towers.exp, xp)


def _of_base(exponent: Any) -> Tower:
    """The tower of u ↦ u^p."""
    if isinstance(exponent, (int, float, complex)):
        return partial(towers.power, exponent=exponent)
    return partial(towers.power_of_array, exponent=exponent)


def _of_exponent(base: Any) -> Tower:
    """The tower of p ↦ u^p."""
    if isinstance(base, (int, float)):
        return partial(towers.exponential, base=base)
    return partial(towers.exponential_of_array, base=base)
