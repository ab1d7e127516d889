"""Jets: a value and its coefficients in a jet algebra, and the three ways in which they propagate.

A linear map acts on each coefficient alone; a multilinear map follows the product table,

    out[w] = Σ_{a,b} c^w_{ab} · B(u[a], v[b]),

and an elementwise function is the finite sum φ(u + N) = Σ_k φ^{(k)}(u)/k! · N^k, N nilpotent.
Everything here is written for any array library: arrays bring operators and indexing, the rest
comes from a namespace `xp` (`core.arrays`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from .algebra import JetAlgebra, Product
from .arrays import Array, Arrays, Block

UNROLL = 512
"""Product tables with at most this many entries become straight-line arithmetic (see `product`)."""


class Jet:
    """A value and its coefficients.

    Attributes:
        algebra: the algebra of the coefficients.
        level: which transform made it; jets of a higher level belong to the inner transform.
        primal: the value, of any shape.
        blocks: for degree 1, 2, …, order the block of shape (size, *broadcastable to the value),
            or None. Axes of the value on which a coefficient does not depend may have length one.
    """

    def __init__(self, algebra: JetAlgebra, level: int, primal: Array, blocks: Sequence[Block]):
        self.algebra = algebra
        self.level = level
        self.primal = primal
        self.blocks = tuple(blocks)

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
        return u * v

    def value_block(self, u: Array, v: Block) -> Block:
        return u * self.xp.expand_dims(v, self.ndim)

    def block_value(self, u: Block, v: Array) -> Block:
        return self.xp.expand_dims(u, self.ndim) * v

    def blocks(self, u: Block, v: Block) -> Block:
        return self.xp.expand_dims(u, self.ndim) * self.xp.expand_dims(v, self.ndim)

    def contract(self, u: Block, v: Block) -> Array:
        return self.xp.sum_rows(self.blocks(u, v))


def add(left: Array | None, right: Array | None) -> Array | None:
    """The sum of two blocks, None meaning zero."""
    if left is None or right is None:
        return right if left is None else left
    return left + right


def scaled(c: float, array: Array) -> Array:
    """c · array, without the product when c is one."""
    return array if c == 1 else array * c


def product(
    algebra: JetAlgebra, u: Sequence[Block], v: Sequence[Block], bilinear: Bilinear, xp: Arrays
) -> list[Block]:
    """All degrees of B(û, v̂): [value, block 1, …]. u[0] and v[0] are the values."""
    out: list[Block] = [bilinear.one(u[0], v[0])]
    for m in range(1, algebra.order + 1):
        total = None
        if v[m] is not None:
            total = bilinear.value_block(u[0], v[m])
        if u[m] is not None:
            total = add(total, bilinear.block_value(u[m], v[0]))
        for table in algebra.products[m]:
            if u[table.i] is not None and v[table.j] is not None:
                part = pair(table, algebra.sizes[m], u[table.i], v[table.j], bilinear, xp)
                total = add(total, part)
        out.append(total)
    return out


def pair(table: Product, size: int, u: Block, v: Block, bilinear: Bilinear, xp: Arrays) -> Block:
    """out[w] = Σ c^w_{ab} B(u[a], v[b]) for one pair of degrees."""
    weights = table.diagonal
    if weights is not None:
        if any(c != weights[0] for c in weights):
            return bilinear.contract(xp.scale(u, weights), v)[None]
        return scaled(weights[0], bilinear.contract(u, v))[None]
    weights = table.rowwise
    if weights is not None:
        if any(c != weights[0] for c in weights):
            return bilinear.blocks(xp.scale(u, weights), v)
        return scaled(weights[0], bilinear.blocks(u, v))
    if len(table.entries) > UNROLL:
        left = xp.take(u, [a for _, a, _, _ in table.entries])
        right = xp.take(v, [b for _, _, b, _ in table.entries])
        terms = xp.scale(bilinear.blocks(left, right), [c for *_, c in table.entries])
        return xp.segment_sum(terms, [w for w, *_ in table.entries], size)
    left, right = xp.unstack(u), xp.unstack(v)
    rows = []
    for _, terms in table.rows:
        total = None
        for a, b, c in terms:
            total = add(total, scaled(c, bilinear.one(left[a], right[b])))
        rows.append(total)
    block = xp.stack(rows)
    return block if len(rows) == size else xp.segment_sum(block, [w for w, _ in table.rows], size)


def compose(jet: Jet, tower: Sequence[Array | float | None], ndim: int, xp: Arrays) -> list[Block]:
    """The blocks of φ(û) = Σ_k t_k N^k, from the tower t_k = φ^{(k)}(u)/k!, k = 1 … order.

    A None in the tower stands for zero; `ndim` is the number of axes of the value.
    """
    algebra, elementwise = jet.algebra, Elementwise(xp, ndim)
    nilpotent: list[Block] = [None, *jet.blocks]
    power = nilpotent  # N^k by degree; it starts at degree k
    out = [None if b is None or tower[0] is None else b * tower[0] for b in power]
    for k in range(2, algebra.order + 1):
        if all(t is None for t in tower[k - 1 :]):
            break
        power = nilpotent_product(algebra, power, nilpotent, elementwise, xp, square=k == 2)
        out = _multiply_add(out, power, tower[k - 1], xp)
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
            out[m] = block * t if out[m] is None else xp.multiply_add(out[m], block, t)
    return out


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
            out[m] = add(out[m], pair(chosen, algebra.sizes[m], left, right, bilinear, xp))
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
        rest = None if a[m] is None else bilinear.block_value(a[m], y[0])
        for table in algebra.products[m]:
            if a[table.i] is not None and y[table.j] is not None:
                part = pair(table, algebra.sizes[m], a[table.i], y[table.j], bilinear, xp)
                rest = add(rest, part)
        right = b[m] if rest is None else add(b[m], -rest)
        y.append(None if right is None else solve_block(right))
    return y
