"""Jets: a value and its coefficients in a jet algebra, and the three ways in which they propagate.

A linear map acts on each coefficient alone; a multilinear map follows the product table,

    out[w] = Σ_{a,b} c^w_{ab} · B(u[a], v[b]),

and an elementwise function is the finite sum φ(u + N) = Σ_k φ^{(k)}(u)/k! · N^k, N nilpotent.
Everything here is written for any array library: arrays bring operators and indexing, the rest
comes from a namespace `xp` (`core.arrays`).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Protocol

from . import structure
from .algebra import JetAlgebra, Product
from .arrays import Array, Arrays, Block
from .structure import Named, Structured, dense

UNROLL = 512
"""Product tables with at most this many entries become straight-line arithmetic (see `product`)."""


class Jet:
    """A value and its coefficients.

    Attributes:
        algebra: the algebra of the coefficients.
        level: which transform made it; jets of a higher level belong to the inner transform.
        primal: the value, of any shape.
        stored: for degree 1, 2, …, order the block of shape (size, *broadcastable to the value),
            or None, or a `Structured` one. Axes of the value on which a coefficient does not depend
            may have length one.
        blocks: the same without structure.
    """

    def __init__(self, algebra: JetAlgebra, level: int, primal: Array, blocks: Sequence[Block]):
        self.algebra = algebra
        self.level = level
        self.primal = primal
        self.stored = tuple(blocks)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The stored blocks as arrays."""
        for block in self.stored:
            if type(block) is Structured:
                return tuple(map(dense, self.stored))
        return self.stored

    def like(self, primal: Array, blocks: Sequence[Block]) -> Jet:
        """Another jet of the same algebra and level."""
        return type(self)(self.algebra, self.level, primal, blocks)


class Bilinear(Protocol):
    """A bilinear map and how it acts on stacked coefficients."""

    def one(self, u: Array, v: Array) -> Array:
        """B(u, v)."""

    def value_block(self, u: Array, v: Block) -> Block:
        """B(u, v[b]) for every row b."""

    def block_value(self, u: Block, v: Array) -> Block:
        """B(u[a], v) for every row a."""

    def blocks(self, u: Block, v: Block) -> Block:
        """B(u[a], v[a]) for every row a."""

    def contract(self, u: Block, v: Block) -> Array:
        """Σ_a B(u[a], v[a])."""


class Elementwise:
    """The elementwise product, with broadcasting between values of different shapes."""

    def __init__(self, xp: Arrays, ndim: int):
        self.xp = xp
        self.ndim = ndim  # of the product

    def one(self, u: Array, v: Array) -> Array:
        return self.xp.multiply(u, v)

    def value_block(self, u: Array, v: Block) -> Block:
        return expanded(v, self.ndim, self.xp) * u  # in this order: v may be structured, u a jet

    def block_value(self, u: Block, v: Array) -> Block:
        return expanded(u, self.ndim, self.xp) * v

    def blocks(self, u: Block, v: Block) -> Block:
        return self.xp.expand_dims(u, self.ndim) * self.xp.expand_dims(v, self.ndim)

    def contract(self, u: Block, v: Block) -> Array:
        return self.xp.sum_rows(self.blocks(u, v))

    def named(self) -> Named:
        axes = range(self.ndim)
        return Named(self, axes, axes, axes, symmetric=True)


def named_of(bilinear: Bilinear) -> Named | None:
    """A bilinear map with the names of its axes, where it has them (a method `named`)."""
    names = getattr(bilinear, "named", None)
    return None if names is None else names()


def expanded(block: Block, ndim: int, xp: Arrays) -> Block:
    """Axes of length one behind that of the rows, until the rows have `ndim` axes."""
    return block.expanded(ndim) if type(block) is Structured else xp.expand_dims(block, ndim)


def of_value(bilinear: Bilinear, u: Array, v: Block, xp: Arrays) -> Block:
    """B(u, v[b]) for every row b."""
    if type(v) is Structured and not isinstance(bilinear, Elementwise):
        named = named_of(bilinear)
        if named is not None:
            return structure.one_sided(
                xp, named, v, lambda of, rows: of.value_block(u, rows), right=True
            )
        v = dense(v)
    return bilinear.value_block(u, v)


def by_value(bilinear: Bilinear, u: Block, v: Array, xp: Arrays) -> Block:
    """B(u[a], v) for every row a."""
    if type(u) is Structured and not isinstance(bilinear, Elementwise):
        named = named_of(bilinear)
        if named is not None:
            return structure.one_sided(
                xp, named, u, lambda of, rows: of.block_value(rows, v), right=False
            )
        u = dense(u)
    return bilinear.block_value(u, v)


def add(left: Array | None, right: Array | None) -> Array | None:
    """The sum of two blocks, None meaning zero."""
    if left is None or right is None:
        return right if left is None else left
    return right + left if type(right) is Structured else left + right


def scaled(c: float, array: Array) -> Array:
    """c · array, without the product when c is one."""
    return array if c == 1 else array * c


def weighted_sum(terms: Sequence[Array], weights: Sequence[float]) -> Array:
    """Σ_k weights[k] · terms[k], by the operators of arrays."""
    return reduce(operator.add, map(scaled, weights, terms))


def product(
    algebra: JetAlgebra, u: Sequence[Block], v: Sequence[Block], bilinear: Bilinear, xp: Arrays
) -> list[Block]:
    """All degrees of B(û, v̂): [value, block 1, …]. u[0] and v[0] are the values."""
    out: list[Block] = [bilinear.one(u[0], v[0])]
    for m in range(1, algebra.order + 1):
        total = None
        if v[m] is not None:
            total = of_value(bilinear, u[0], v[m], xp)
        if u[m] is not None:
            total = add(total, by_value(bilinear, u[m], v[0], xp))
        for table in algebra.products[m]:
            if u[table.i] is not None and v[table.j] is not None:
                total = plus_pair(total, table, u[table.i], v[table.j], bilinear, xp)
        out.append(total)
    return out


def plus_pair(
    total: Block, table: Product, u: Block, v: Block, bilinear: Bilinear, xp: Arrays
) -> Block:
    """total[w] + Σ c^w_{ab} B(u[a], v[b]) for one pair of degrees."""
    if type(u) is Structured or type(v) is Structured:
        return add(total, _structured_pair(table, u, v, bilinear, xp))
    sums, factor = _sums(table, u, v, bilinear, xp)
    if total is None or factor == 1 or type(total) is Structured:
        return add(total, scaled(factor, sums))
    return xp.multiply_add(total, sums, factor)


def _structured_pair(table: Product, u: Block, v: Block, bilinear: Bilinear, xp: Arrays) -> Block:
    """Σ c^w_{ab} B(u[a], v[b]) with the structure of the blocks, where the table allows that."""
    if isinstance(bilinear, Elementwise):  # operands may have fewer axes than their product
        same, u = u is v, expanded(u, bilinear.ndim, xp)
        v = u if same else expanded(v, bilinear.ndim, xp)
    named = named_of(bilinear)
    found = structure.UNKNOWN if named is None else structure.pair(table, u, v, named, xp)
    if found is structure.UNKNOWN:
        return plus_pair(None, table, dense(u), dense(v), bilinear, xp)
    (rest, _), (other, _) = structure.parts(u), structure.parts(v)
    if rest is None or other is None:
        return found
    return plus_pair(found, table, rest, other, bilinear, xp)


def _sums(
    table: Product, u: Block, v: Block, bilinear: Bilinear, xp: Arrays
) -> tuple[Block, float]:
    """Σ c^w_{ab} B(u[a], v[b]) as sums and a factor, which all c have in common."""
    if table.diagonal is not None:
        u = u if table.equal else xp.scale(u, table.diagonal)
        return bilinear.contract(u, v)[None], table.factor
    if table.rowwise is not None:
        u = u if table.equal else xp.scale(u, table.rowwise)
        return bilinear.blocks(u, v), table.factor
    if len(table.entries) > UNROLL:
        left = xp.take(u, [a for _, a, _, _ in table.entries])
        right = xp.take(v, [b for _, _, b, _ in table.entries])
        terms = bilinear.blocks(left, right)
        terms = terms if table.equal else xp.scale(terms, [c for *_, c in table.entries])
        return xp.segment_sum(terms, [w for w, *_ in table.entries], table.size), table.factor
    # Fewer operations, or a product that fuses with the rows before they are stacked.
    factor = 1.0 if xp.COMPILED else table.factor
    left, right = xp.unstack(u), xp.unstack(v)
    rows = [
        xp.weighted_sum(
            [bilinear.one(left[a], right[b]) for a, b, _ in terms],
            [c / factor for *_, c in terms],
        )
        for _, terms in table.rows
    ]
    block = xp.stack(rows)
    if len(rows) == table.size:
        return block, factor
    return xp.segment_sum(block, [w for w, _ in table.rows], table.size), factor


def compose(jet: Jet, tower: Sequence[Array | float | None], ndim: int, xp: Arrays) -> list[Block]:
    """The blocks of φ(û) = Σ_k t_k N^k, from the tower t_k = φ^{(k)}(u)/k!, k = 1 … order.

    A None in the tower stands for zero; `ndim` is the number of axes of the value.
    """
    algebra, elementwise = jet.algebra, Elementwise(xp, ndim)
    nilpotent: list[Block] = [None, *jet.stored]
    power = nilpotent  # N^k by degree; it starts at degree k
    out = [None if b is None or tower[0] is None else b * tower[0] for b in power]
    for k in range(2, algebra.order + 1):
        t = tower[k - 1]
        if t is None and all(later is None for later in tower[k:]):
            break
        if k < algebra.order:
            power = nilpotent_product(algebra, power, nilpotent, elementwise, xp, square=k == 2)
            out = _multiply_add(out, power, t, xp)
            continue
        left, right = power[k - 1], nilpotent[1]  # no others reach the top of N^k
        for table in algebra.products[k]:
            if table.i == k - 1 and table.j == 1 and left is not None and right is not None:
                chosen = table.square if k == 2 else table
                if type(left) is Structured or type(right) is Structured:
                    top = plus_pair(None, chosen, left, right, elementwise, xp)
                    out[k] = _plus_product(out[k], top, t, xp)
                    continue
                top, factor = _sums(chosen, left, right, elementwise, xp)
                out[k] = _plus_product(out[k], top, t, xp, factor)
    return out[1:]


def compose_several(
    algebra: JetAlgebra,
    nilpotents: Sequence[Sequence[Block]],
    taylor: Callable[[tuple[int, ...]], Array],
    ndim: int,
    xp: Arrays,
) -> list[Block]:
    """The blocks of φ(û_1, …, û_n) = Σ_α t_α N_1^{α_1} ⋯ N_n^{α_n}, from taylor(α) = ∂^αφ/α!."""
    elementwise, n = Elementwise(xp, ndim), len(nilpotents)
    out: list[Block] = [None] * (algebra.order + 1)
    monomials = {tuple(int(i == k) for i in range(n)): list(nilpotents[k]) for k in range(n)}
    for k in range(1, algebra.order + 1):
        following = {}
        for alpha, power in monomials.items():
            out = _multiply_add(out, power, taylor(alpha), xp)
            if k == algebra.order:
                continue
            last = max(i for i, exponent in enumerate(alpha) if exponent)
            for i in range(last, n):  # each monomial once
                raised = tuple(e + (j == i) for j, e in enumerate(alpha))
                following[raised] = nilpotent_product(
                    algebra, power, nilpotents[i], elementwise, xp
                )
        monomials = following
    return out[1:]


def _multiply_add(
    total: Sequence[Block], power: Sequence[Block], t: Array | float | None, xp: Arrays
) -> list[Block]:
    """total + power · t by degree."""
    out = list(total)
    for m, block in enumerate(power):
        if block is not None and t is not None:
            out[m] = _plus_product(out[m], block, t, xp)
    return out


def _plus_product(
    total: Block, block: Block, t: Array | float, xp: Arrays, factor: float = 1.0
) -> Block:
    """total + factor · block · t."""
    if total is None:
        return scaled(factor, block) * t
    if type(total) is Structured or type(block) is Structured:
        return add(total, scaled(factor, block) * t)
    return xp.multiply_add(total, block, t, factor)


def nilpotent_product(
    algebra: JetAlgebra,
    u: Sequence[Block],
    v: Sequence[Block],
    bilinear: Bilinear,
    xp: Arrays,
    square: bool = False,
) -> list[Block]:
    """B(U, V) of nilpotent elements [None, block 1, …], by degree.

    For the square of one element, U = V, the symmetry of the table halves the work; `bilinear` must
    then be symmetric too.
    """
    out: list[Block] = [None] * (algebra.order + 1)
    for m in range(2, algebra.order + 1):
        for table in algebra.products[m]:
            left, right = u[table.i], v[table.j]
            if left is None or right is None or (square and table.i > table.j):
                continue
            chosen = table.square if square else table
            out[m] = plus_pair(out[m], chosen, left, right, bilinear, xp)
    return out


def solve_by_degrees(
    algebra: JetAlgebra,
    a: Sequence[Block],
    b: Sequence[Block],
    solve: Callable[[Array], Array],
    solve_block: Callable[[Block], Block],
    bilinear: Bilinear,
    xp: Arrays,
) -> list[Block]:
    """All degrees of Ŷ with B(Â, Ŷ) = b̂: solve B(a_0, y_m) = b_m − (the rest of degree m).

    Args:
        a: [unused, block 1, …]; what belongs to the value is known to `solve` alone.
        b: [value, block 1, …].
        solve, solve_block: y with B(a_0, y) = right-hand side, of one or of stacked ones.
    """
    y: list[Block] = [solve(b[0])]
    for m in range(1, algebra.order + 1):
        rest = None if a[m] is None else by_value(bilinear, a[m], y[0], xp)
        for table in algebra.products[m]:
            if a[table.i] is not None and y[table.j] is not None:
                rest = plus_pair(rest, table, a[table.i], y[table.j], bilinear, xp)
        right = b[m] if rest is None else add(b[m], -rest)
        y.append(None if right is None else solve_block(right))
    return y
