"""Jets of solutions and factorisations of matrices, degree by degree.

Each defining equation, written by degrees, is linear in the unknown of degree m; what it says of
the lower degrees goes to the right-hand side:

    A_m − Σ_{i,j ≥ 1} c^m_{ij} L_i U_j = L_0 U_m + L_m U_0.

A jet of matrices is a list [value, block 1, …] here: the value (*batch, n, n'), the blocks
(size, *batch, n, n') of full shape, None where all coefficients are zero. The frontend brings the
factors of the value, as it computed them; what is returned begins with them.

The first-order rules are those of Giles (2008), "An extended collection of matrix derivative
results for forward and reverse mode algorithmic differentiation", and for QR of Walter and Lehmann
(2010), "Algorithmic differentiation of linear algebra functions with application in optimum
experimental design".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from . import structure
from .algebra import JetAlgebra
from .arrays import Array, Arrays, Block
from .jet import (
    Bilinear,
    Jet,
    add,
    nilpotent_product,
    of_value,
    plus_pair,
    product,
    solve_by_degrees,
)
from .structure import Structured

Matrix = Sequence[Any]
"""[value, block 1, …]."""


# ------------------------------------------------------------------ products


class MatrixProduct:
    """U V, of operands that have two axes or more, and as many as each other."""

    def __init__(self, xp: Arrays) -> None:
        self.xp = xp

    def one(self, u: Array, v: Array) -> Array:
        """U V."""
        return self.xp.matmul(u, v)

    value_block = block_value = blocks = one

    def contract(self, u: Block, v: Block) -> Array:
        """Σ_a U[a] V[a], as one product over the axes (a, k) where the matrices are no batch."""
        if u.ndim > 3 or v.ndim > 3:
            return self.xp.sum_rows(self.xp.matmul(u, v))
        rows, n, inner = u.shape
        left = self.xp.reshape(self.xp.moveaxis(u, 0, 1), (n, rows * inner))
        return self.xp.matmul(left, self.xp.reshape(v, (rows * inner, v.shape[-1])))


class Reversed:
    """B(V, U) for a bilinear B(U, V)."""

    def __init__(self, bilinear: Bilinear) -> None:
        self.of = bilinear

    def one(self, u: Array, v: Array) -> Array:
        """B(V, U)."""
        return self.of.one(v, u)

    def value_block(self, u: Array, v: Block) -> Block:
        """B(V[b], U) for every row b."""
        return self.of.block_value(v, u)

    def block_value(self, u: Block, v: Array) -> Block:
        """B(V, U[a]) for every row a."""
        return self.of.value_block(v, u)

    def blocks(self, u: Block, v: Block) -> Block:
        """B(V[a], U[a]) for every row a."""
        return self.of.blocks(v, u)

    def contract(self, u: Block, v: Block) -> Array:
        """Σ_a B(V[a], U[a])."""
        return self.of.contract(v, u)


class TraceOfProduct:
    """tr(U V)."""

    def __init__(self, xp: Arrays) -> None:
        self.xp = xp

    def one(self, u: Array, v: Array) -> Array:
        """tr(U V)."""
        return self.xp.sum(u * self.xp.moveaxis(v, -2, -1), (-2, -1))

    value_block = block_value = blocks = one

    def contract(self, u: Block, v: Block) -> Array:
        """Σ_a tr(U[a] V[a])."""
        return self.xp.sum(u * self.xp.moveaxis(v, -2, -1), (0, -2, -1))


def lower_products(algebra: JetAlgebra, m: int, u: Matrix, v: Matrix, xp: Arrays) -> Block:
    """Σ_{i,j ≥ 1} c^m_{ij} U_i V_j: what the lower degrees contribute to degree m of U V."""
    total: Block = None
    for table in algebra.products[m]:
        if u[table.i] is not None and v[table.j] is not None:
            total = plus_pair(total, table, u[table.i], v[table.j], MatrixProduct(xp), xp)
    return total


def minus(left: Block, right: Block) -> Block:
    """left − right, None meaning zero."""
    return left if right is None else add(left, -right)


# ------------------------------------------------------------------ parts of matrices


def diagonal_part(x: Array, xp: Arrays) -> Array:
    """The square matrices with everything beside the diagonal set to zero."""
    return x * xp.eye(x.shape[-1], x)


def hermitian_part(x: Block, xp: Arrays) -> Block:
    """(X + Xᴴ)/2."""
    return None if x is None else (x + xp.adjoint(x)) / 2


# ------------------------------------------------------------------ solutions


def solve(
    algebra: JetAlgebra, inverse: Array, a: Matrix, b: Matrix, times: Bilinear, xp: Arrays
) -> list[Block]:
    """X with A X = B, by X_m = A_0⁻¹ (B_m − Σ A_i X_j).

    Args:
        inverse: A_0⁻¹.
        a: (*batch, n, n).
        b: (*batch, n, k), with as many axes.
        times: the product of matrices. If it has names, blocks keep their structure: where row i
            of A has directions of its own, A_i X_j is a sum over the rows, not over all entries.
    """

    return solve_by_degrees(
        algebra,
        a,
        b,
        lambda right: times.one(inverse, right),
        lambda right: of_value(times, inverse, right, xp),
        times,
        xp,
    )


def inverted(
    algebra: JetAlgebra, inverse: Array, a: Matrix, times: Bilinear, xp: Arrays
) -> list[Block]:
    """A⁻¹, the solution of A X = 1; the arguments are those of `solve`."""
    none: list[Block] = [None] * algebra.order
    return solve_by_degrees(
        algebra,
        a,
        [None, *none],
        lambda _: inverse,
        lambda right: of_value(times, inverse, right, xp),
        times,
        xp,
    )


def triangular_solve(
    algebra: JetAlgebra,
    a: Matrix,
    b: Matrix,
    xp: Arrays,
    *,
    upper: bool,
    left: bool = True,
    unitriangular: bool = False,
) -> list[Block]:
    """X with A X = B, or X A = B for left=False, A triangular: what stands beside is not read."""

    def solved(right: Array) -> Array:
        return xp.solve_triangular(a[0], right, upper=upper, left=left, unitriangular=unitriangular)

    part, offset = (xp.triu, 1) if upper else (xp.tril, -1)
    offset = offset if unitriangular else 0
    triangles = [None, *(None if c is None else part(c, offset) for c in a[1:])]
    acting: Bilinear = MatrixProduct(xp) if left else Reversed(MatrixProduct(xp))
    return solve_by_degrees(algebra, triangles, b, solved, solved, acting, xp)


def log_det(
    algebra: JetAlgebra, value: Array, inverse: Array, a: Matrix, xp: Arrays
) -> list[Block]:
    """log det A = log det A_0 + Σ_k (−1)^{k+1}/k · tr (A_0⁻¹ N)^k.

    Args:
        value: log det A_0, (*batch).
        inverse: A_0⁻¹, (*batch, n, n).
    """
    transposed = xp.moveaxis(inverse, -2, -1)
    out: list[Block] = [value]
    out += [None if b is None else xp.sum(b * transposed, (-2, -1)) for b in a[1:]]
    e: list[Block] = [None] * (algebra.order + 1)
    for m in range(1, algebra.order):  # the highest enters by its trace alone
        if a[m] is not None:
            e[m] = xp.einsum("...ij,z...jk->z...ik", inverse, a[m])
    trace, of_matrices = TraceOfProduct(xp), MatrixProduct(xp)
    power = e
    for k in range(2, algebra.order + 1):
        # Never as a square: (A_0⁻¹ N)² has no symmetry, its factors do not commute.
        traces = nilpotent_product(algebra, power, e, trace, xp)
        for m in range(k, algebra.order + 1):
            if traces[m] is not None:
                out[m] = add(out[m], traces[m] * ((-1) ** (k + 1) / k))
        if k < algebra.order:
            power = nilpotent_product(algebra, power, e, of_matrices, xp)
    return out


def apart(x: Jet, axis: int) -> bool:
    """Whether each row (axis −2) or column (−1) of a matrix has directions of its own, which no
    product mixes.

    det is linear in each row. So log det A is then Σ_i log (Σ_j A_ij (A_0⁻¹)_ji) up to a constant,
    for derivatives along two rows together are never asked for.
    """
    if any(table.aligned is None for tables in x.algebra.products for table in tables):
        return False
    lower = [block for block in x.stored[:-1] if block is not None]
    place = x.primal.ndim + axis
    return len(lower) > 0 and all(
        isinstance(block, Structured)
        and block.dense is None
        and all(piece.axis == place and structure.apart(piece.owners) for piece in block.pieces)
        for block in lower
    )


# ------------------------------------------------------------------ factorisations


def thin_svd(
    algebra: JetAlgebra,
    factors: tuple[Array, Array, Array],
    a: Matrix,
    xp: Arrays,
    *,
    vectors: bool = True,
) -> tuple[list[Block], list[Block], list[Block]]:
    """A = U diag(s) Vᴴ, UᴴU = VᴴV = 1, as A V = U diag(s) and Aᴴ U = V diag(s).

    With x = U_0ᴴ U_m, y = V_0ᴴ V_m and E, F what the rest of degree m of the two equations is in
    these bases: s_m is the diagonal of (E + F)/2, and off the diagonal

        x_ij (s_j² − s_i²) = s_j E_ij + s_i F_ij,   y_ij (s_j² − s_i²) = s_j F_ij + s_i E_ij.

    The diagonals of y follow from VᴴV = 1, those of x from s (x − y) = (E − F)/2: the phase of a
    pair, which nothing determines, is that of U, as in JAX. Outside of the spaces of U_0 and V_0
    the equations are divided by s. Equal singular values have no derivatives.

    Args:
        factors: U_0 (*batch, n, l), s_0 (*batch, l) and V_0 (*batch, k, l), with l = min(n, k).
        a: (*batch, n, k); the value is not read.
        vectors: whether U and V are wanted; if not they are not made of the highest degree.

    Returns:
        U, s and V.
    """
    u0, s0, v0 = factors
    n, k, rank = u0.shape[-2], v0.shape[-2], s0.shape[-1]
    of_row, of_column = s0[..., :, None], s0[..., None, :]
    unit = xp.eye(rank, s0)
    weights = (1 - unit) / ((of_column - of_row) * (of_column + of_row) + unit)
    nonzero = s0 != 0
    halves = xp.where(nonzero, 0.5 / xp.where(nonzero, s0, 1), 0)[..., None, :] * unit
    outer = 1 / of_column
    adjoint = xp.adjoint
    u, ut, v, vt = ([x] for x in (u0, adjoint(u0), v0, adjoint(v0)))
    s: list[Block] = [None]  # diagonal matrices
    b: list[Block] = [None, *(None if x is None else adjoint(x) for x in a[1:])]
    for m in range(1, algebra.order + 1):
        left = None if a[m] is None else xp.matmul(a[m], v0)
        left = add(left, lower_products(algebra, m, a, v, xp))
        left = minus(left, lower_products(algebra, m, u, s, xp))
        right = None if b[m] is None else xp.matmul(b[m], u0)
        right = add(right, lower_products(algebra, m, b, u, xp))
        right = minus(right, lower_products(algebra, m, v, s, xp))
        if left is None or right is None:  # both: no coefficient of a lower degree meets here
            for factor in (u, ut, v, vt, s):
                factor.append(None)
            continue
        e, f = xp.matmul(ut[0], left), xp.matmul(vt[0], right)
        s.append(diagonal_part((e + adjoint(e) + f + adjoint(f)) / 4, xp))
        if not vectors and m == algebra.order:
            break
        y = weights * (of_column * f + of_row * e)
        x = weights * (of_column * e + of_row * f)
        gram = lower_products(algebra, m, vt, v, xp)
        if gram is not None:
            y = y - diagonal_part(gram, xp) / 2
            x = x - diagonal_part(gram, xp) / 2
        x = x + halves * (e - f)
        u_m, v_m = xp.matmul(u0, x), xp.matmul(v0, y)
        if n > rank:
            u_m = u_m + (left - xp.matmul(u0, e)) * outer
        if k > rank:
            v_m = v_m + (right - xp.matmul(v0, f)) * outer
        for factor, of_degree in ((u, u_m), (ut, adjoint(u_m)), (v, v_m), (vt, adjoint(v_m))):
            factor.append(of_degree)
    values = [None if x is None else xp.diagonal(x).real for x in s[1:]]
    return u, [s0, *values], v


def cholesky(algebra: JetAlgebra, l0: Array, a: Matrix, xp: Arrays) -> list[Block]:
    """A = L Lᴴ: L_m = L_0 Φ(L_0⁻¹ R L_0⁻ᴴ), R = A_m − Σ L_i L_jᴴ, Φ the lower half.

    Args:
        l0: the lower triangular factor of the value, zeros above.
        a: only its Hermitian part (A + Aᴴ)/2 counts; the value is not read.
    """
    inverse = xp.solve_triangular(l0, xp.eye(l0.shape[-1], l0), upper=False)
    lower, adjoint = [l0], [xp.adjoint(l0)]
    for m in range(1, algebra.order + 1):
        r = minus(hermitian_part(a[m], xp), lower_products(algebra, m, lower, adjoint, xp))
        if r is not None:
            inner = xp.tril(xp.matmul(xp.matmul(inverse, r), xp.adjoint(inverse)))
            r = xp.matmul(l0, inner - diagonal_part(inner, xp) / 2)
        lower.append(r)
        adjoint.append(None if r is None else xp.adjoint(r))
    return lower


def lu(
    algebra: JetAlgebra, l0: Array, u0: Array, a: Matrix, xp: Arrays
) -> tuple[list[Block], list[Block]]:
    """P A = L U: L_m = L_0 tril(F, −1), U_m = triu(F) U_0, F = L_0⁻¹ (P A_m − Σ L_i U_j) U_0⁻¹.

    That is for square matrices. Of others it holds for the square part that both factors share;
    further rows of L and further columns of U follow from the equation L_0 U_m + L_m U_0 = R.

    Args:
        l0, u0: the factors of the value, (*batch, n, l) and (*batch, l, k) with l = min(n, k), L
            with ones on its diagonal.
        a: P A, (*batch, n, k); the value is not read.

    Returns:
        L and U.
    """
    rank, (n, k) = l0.shape[-1], (l0.shape[-2], u0.shape[-1])
    l1, u1 = l0[..., :rank, :], u0[..., :, :rank]
    lower: list[Block] = [l0]
    upper: list[Block] = [u0]
    for m in range(1, algebra.order + 1):
        r = minus(a[m], lower_products(algebra, m, lower, upper, xp))
        if r is None:
            lower.append(None)
            upper.append(None)
            continue
        f = xp.solve_triangular(l1, r[..., :rank, :rank], upper=False, unitriangular=True)
        f = xp.solve_triangular(u1, f, upper=True, left=False)
        l_m, u_m = xp.matmul(l1, xp.tril(f, -1)), xp.matmul(xp.triu(f), u1)
        if n > rank:
            below = r[..., rank:, :] - xp.matmul(l0[..., rank:, :], u_m)
            below = xp.solve_triangular(u1, below, upper=True, left=False)
            l_m = xp.concat([l_m, below], -2)
        elif k > rank:
            beside = r[..., :, rank:] - xp.matmul(l_m, u0[..., :, rank:])
            beside = xp.solve_triangular(l1, beside, upper=False, unitriangular=True)
            u_m = xp.concat([u_m, beside], -1)
        lower.append(l_m)
        upper.append(u_m)
    return lower, upper


def qr(
    algebra: JetAlgebra, q0: Array, r0: Array, a: Matrix, xp: Arrays
) -> tuple[list[Block], list[Block]]:
    """A = Q R, QᴴQ = 1. Of wide matrices Q is that of the first n columns, and R = Qᴴ A.

    With C = (A_m − Σ Q_i R_j) R_0⁻¹ and H = Q_0ᴴ C, the matrix Y = Q_0ᴴ Q_m has H's strict lower
    half, for R is upper triangular; the rest follows from Y + Yᴴ = −Σ Q_iᴴ Q_j, and R's diagonal
    stays real. Then R_m = (H − Y) R_0 and Q_m = C − Q_0 (H − Y).

    Args:
        q0, r0: the factors of the value, (*batch, n, l) and (*batch, l, k) with l = min(n, k).
        a: (*batch, n, k); the value is not read.

    Returns:
        Q and R.
    """
    n, k = q0.shape[-2], r0.shape[-1]
    if n < k:
        first = [None, *(None if b is None else b[..., :, :n] for b in a[1:])]
        square, _ = qr(algebra, q0, r0[..., :, :n], first, xp)
        adjoints = [None if b is None else xp.adjoint(b) for b in square]
        value = xp.matmul(q0, r0)
        return square, [r0, *product(algebra, adjoints, [value, *a[1:]], MatrixProduct(xp), xp)[1:]]
    q: list[Block] = [q0]
    r: list[Block] = [r0]
    adjoint: list[Block] = [xp.adjoint(q0)]
    for m in range(1, algebra.order + 1):
        rest = minus(a[m], lower_products(algebra, m, q, r, xp))
        gram = lower_products(algebra, m, adjoint, q, xp)
        if rest is None:  # then the Gram matrix has no part of degree m either
            for factor in (q, r, adjoint):
                factor.append(None)
            continue
        c = xp.solve_triangular(r0, rest, upper=True, left=False)
        h = xp.matmul(adjoint[0], c)
        strict = xp.tril(h, -1)
        y = strict - xp.adjoint(strict) + diagonal_part(h - xp.adjoint(h), xp) / 2
        if gram is not None:
            y = y - xp.triu(gram, 1) - diagonal_part(gram, xp) / 2
        q.append(c - xp.matmul(q0, h - y))
        r.append(xp.matmul(h - y, r0))
        adjoint.append(xp.adjoint(q[-1]))
    return q, r


def _eigen(
    algebra: JetAlgebra, c: Matrix, w0: Array, unitary: bool, xp: Arrays
) -> tuple[list[Block], list[Block]]:
    """X and w with (diag(w_0) + C)(1 + X) = (1 + X) diag(w), X = 0 for C = 0.

    Off the diagonal X_ij (w_j − w_i) = R_ij, on it w follows from R, and X is zero there, or for
    a unitary 1 + X follows from its columns' length; a complex phase, which nothing determines, is
    held fixed. Equal eigenvalues have no derivatives: the result is not finite.

    Args:
        c: (*batch, n, n), Hermitian where the result is to be unitary.
        w0: the eigenvalues (*batch, n).

    Returns:
        X (*batch, n, n) and w as diagonal matrices; the entries of degree 0 are None.
    """
    one = xp.eye(w0.shape[-1], w0)
    weights = (1 - one) / (w0[..., None, :] - w0[..., :, None] + one)
    x: list[Block] = [None]
    adjoint: list[Block] = [None]
    w: list[Block] = [None]
    for m in range(1, algebra.order + 1):
        r = add(c[m], lower_products(algebra, m, c, x, xp))
        r = minus(r, lower_products(algebra, m, x, w, xp))
        gram = lower_products(algebra, m, adjoint, x, xp) if unitary else None
        w.append(None if r is None else diagonal_part(r, xp))
        beside = None if r is None else r * weights
        x.append(minus(beside, None if gram is None else diagonal_part(gram, xp) / 2))
        adjoint.append(None if x[m] is None else xp.adjoint(x[m]))
    return x, w


def eigh(
    algebra: JetAlgebra, v0: Array, w0: Array, a: Matrix, xp: Arrays
) -> tuple[list[Block], list[Block]]:
    """A V = V diag(w) with V = V_0 (1 + X), VᴴV = 1: `_eigen` of V_0ᴴ A V_0.

    Args:
        v0, w0: eigenvectors (*batch, n, n) and eigenvalues (*batch, n) of the value.
        a: only its Hermitian part (A + Aᴴ)/2 counts; the value is not read.

    Returns:
        V and w.
    """
    hermitian = [None, *(hermitian_part(b, xp) for b in a[1:])]
    c = _in_basis(xp.adjoint(v0), hermitian, v0, xp)
    x, w = _eigen(algebra, c, w0, True, xp)
    vectors = [None if b is None else xp.matmul(v0, b) for b in x[1:]]
    return [v0, *vectors], [w0, *(None if b is None else xp.diagonal(b).real for b in w[1:])]


def eig(
    algebra: JetAlgebra, v0: Array, w0: Array, inverse: Array, a: Matrix, xp: Arrays
) -> tuple[list[Block], list[Block]]:
    """A V = V diag(w) of any matrix, V = V_0 (1 + X), the diagonal of X zero.

    Args:
        v0, w0, inverse: V_0 and its inverse (*batch, n, n), and w_0 (*batch, n).
        a: (*batch, n, n), of their dtype; the value is not read.

    Returns:
        V, whose columns are not normalised, and w.
    """
    x, w = _eigen(algebra, _in_basis(inverse, a, v0, xp), w0, False, xp)
    vectors = [None if b is None else xp.matmul(v0, b) for b in x[1:]]
    return [v0, *vectors], [w0, *(None if b is None else xp.diagonal(b) for b in w[1:])]


def _in_basis(left: Array, a: Matrix, right: Array, xp: Arrays) -> Matrix:
    """L A R of every degree but the value."""
    return [
        None,
        *(None if b is None else xp.matmul(xp.matmul(left, b), right) for b in a[1:]),
    ]


# ------------------------------------------------------------------ functions of matrices


def analytic(
    algebra: JetAlgebra, a: Matrix, function: Callable[[Array], Array], xp: Arrays
) -> list[Block]:
    """f(A), as the matrix exponential: the first block column of f(L).

    L = Σ_a A_a ⊗ (multiplication by e_a) is a matrix of blocks: L X is the product of jets.

    Args:
        a: (*batch, n, n).
        function: f of one matrix, any square one.
    """
    n, count = a[0].shape[-1], sum(algebra.sizes)
    starts = [sum(algebra.sizes[:m]) for m in range(algebra.order + 1)]
    entries: dict[tuple[int, int], Array] = {(k, k): a[0] for k in range(count)}
    rows: list[Any] = [None, *(None if b is None else xp.unstack(b) for b in a[1:])]
    for m in range(1, algebra.order + 1):
        for w in range(algebra.sizes[m] if rows[m] is not None else 0):
            entries[starts[m] + w, 0] = rows[m][w]
        for table in algebra.products[m]:
            if rows[table.i] is None:
                continue
            for w, i, j, c in table.entries:
                place = (starts[m] + w, starts[table.j] + j)
                entries[place] = add(entries.get(place), rows[table.i][i] * c)
    zero = xp.zeros_like(a[0])
    lines = [xp.concat([entries.get((w, k), zero) for k in range(count)], -1) for w in range(count)]
    column = function(xp.concat(lines, -2))[..., :, :n]
    parts = [column[..., k * n : (k + 1) * n, :] for k in range(count)]
    stacked = [xp.stack(parts[s : s + size]) for s, size in zip(starts, algebra.sizes, strict=True)]
    return [parts[0], *stacked[1:]]
