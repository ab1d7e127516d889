"""The kinds of rules by which JAX primitives act on jets.

A rule takes an operation and its operands, arrays and at least one jet, and returns the result.
What acts on a coefficient alone is mapped over the leading axis of its block by `jax.vmap`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..core import general as of_several
from ..core import towers
from ..core.algebra import JetAlgebra, monomials
from ..core.arrays import Block
from ..core.jet import (
    Elementwise,
    Jet,
    add,
    compose,
    compose_several,
    pair,
    product,
    solve_by_degrees,
)
from . import arrays as XP
from .interpreter import Operation, Rule, call

# ------------------------------------------------------------------ looking at operands


def value(x: Any) -> Any:
    """The value of a jet, anything else as it is."""
    return x.primal if isinstance(x, Jet) else x


def values(operands: Sequence[Any]) -> list[Any]:
    """The operands with every jet replaced by its value."""
    return [value(x) for x in operands]


def algebra_of(operands: Sequence[Any]) -> JetAlgebra:
    """The algebra of the jets among the operands."""
    return next(x.algebra for x in operands if isinstance(x, Jet))


def jet(algebra: JetAlgebra, primal: Any, blocks: Sequence[Block]) -> Any:
    """A jet, or the plain value where no coefficient is left."""
    if all(b is None for b in blocks):
        return primal
    return Jet(algebra, 0, primal, blocks)


def blocks_of(x: Any, order: int) -> Sequence[Block]:
    """The blocks of an operand; none, of an array."""
    return x.blocks if isinstance(x, Jet) else (None,) * order


def expanded(x: Any, order: int) -> list[Block]:
    """The blocks, broadcast to the whole shape of the value."""
    shape = jnp.shape(value(x))
    return [
        None if b is None else jnp.broadcast_to(b, (b.shape[0], *shape))
        for b in blocks_of(x, order)
    ]


def is_inexact(x: Any) -> bool:
    """Whether an array (or what describes one) can have derivatives."""
    return jnp.issubdtype(x.dtype, jnp.inexact)


def zeros(size: int, x: Any) -> Any:
    """A block of zeros for an operand."""
    return jnp.zeros((size, *jnp.shape(value(x))), jnp.result_type(value(x)))


# ------------------------------------------------------------------ constants


def of_value(operation: Operation, operands: Sequence[Any]) -> Any:
    """An operation that asks about the value, or is constant in between: no coefficients."""
    return operation(*values(operands))


def unchanged(operation: Operation, operands: Sequence[Any]) -> Any:
    """The operands themselves."""
    return list(operands) if operation.several else operands[0]


# ------------------------------------------------------------------ linear


def linear(*positions: int) -> Rule:
    """Linear in the operands at these positions together (in all, if none is named)."""

    def rule(operation: Operation, operands: Sequence[Any]) -> Any:
        places = [k for k in range(len(operands)) if not positions or k in positions]
        if any(isinstance(x, Jet) for k, x in enumerate(operands) if k not in places):
            return general(operation, operands)
        return _by_rows(operation, operands, places, operation)

    return rule


def _by_rows(
    operation: Operation,
    operands: Sequence[Any],
    places: Sequence[int],
    on_rows: Callable[..., Any],
) -> Any:
    """The operation on the values; on_rows, linear in the operands at `places`, on each row."""
    algebra, plain = algebra_of(operands), values(operands)
    result = operation(*plain)
    taken = [expanded(operands[k], algebra.order) for k in places]
    blocks: list[Any] = []
    for m in range(algebra.order):
        if all(of_operand[m] is None for of_operand in taken):
            blocks.append(None)
            continue

        def of_row(*rows: Any) -> Any:
            filled = list(plain)
            for k, row in zip(places, rows, strict=True):
                filled[k] = row
            return on_rows(*filled)

        size = algebra.sizes[m + 1]
        stacks = [
            zeros(size, operands[k]) if of_operand[m] is None else of_operand[m]
            for k, of_operand in zip(places, taken, strict=True)
        ]
        blocks.append(jax.vmap(of_row)(*stacks))
    return assemble(operation, algebra, result, blocks)


def gathered(operation: Operation, operands: Sequence[Any]) -> Any:
    """x[indices]; what fills places out of bounds is a constant: zero in the coefficients."""
    x, indices = operands

    def on_rows(row: Any, indices: Any) -> Any:
        params = operation.params | {"fill_value": 0}
        return operation.primitive.bind(row, indices, **params)

    return _by_rows(operation, [x, indices], [0], on_rows)


def assemble(operation: Operation, algebra: JetAlgebra, result: Any, blocks: Sequence[Any]) -> Any:
    """Jets from the value and the blocks; of several results, from lists of them."""
    if not operation.several:
        return jet(algebra, result, blocks) if is_inexact(result) else result
    return [
        jet(algebra, y, [None if b is None else b[k] for b in blocks]) if is_inexact(y) else y
        for k, y in enumerate(result)
    ]


def piecewise_linear(operation: Operation, operands: Sequence[Any]) -> Any:
    """Linear near every point, as max, sort and clamp are: JAX's own tangents, row by row.

    Where pieces meet, the derivative is the one that JAX chose.
    """
    plain = values(operands)
    places = [k for k, x in enumerate(operands) if isinstance(x, Jet)]

    def tangent(*filled: Any) -> Any:
        rows = [filled[k] for k in places]
        return pushforward(operation, plain, places, rows)

    return _by_rows(operation, operands, places, tangent)


def clamped(operation: Operation, operands: Sequence[Any]) -> Any:
    """clamp(low, x, high), its bounds numbers or arrays; JAX has no tangents of jets as numbers."""
    low, x, high = operands
    shape = jnp.shape(value(x))
    if any(isinstance(b, Jet) and jnp.shape(b.primal) != shape for b in (low, high)):
        low, high = (call(lambda b: jnp.broadcast_to(b, shape), b) for b in (low, high))
    return piecewise_linear(operation, [low, x, high])


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
    return jax.jvp(
        of_places(function, plain, places), tuple(plain[k] for k in places), tuple(rows)
    )[1]


def converted(operation: Operation, operands: Sequence[Any]) -> Any:
    """A change of dtype; coefficients of integers are none."""
    (x,), dtype = operands, operation.results[0].dtype
    y = operation(x.primal)
    if not is_inexact(y):
        return y
    if jnp.issubdtype(x.primal.dtype, jnp.complexfloating) and not jnp.issubdtype(
        dtype, jnp.complexfloating
    ):
        return jet(x.algebra, y, [None if b is None else b.real.astype(dtype) for b in x.blocks])
    return jet(x.algebra, y, [None if b is None else b.astype(dtype) for b in x.blocks])


def negated(operation: Operation, operands: Sequence[Any]) -> Any:
    """−u."""
    (x,) = operands
    return jet(x.algebra, -x.primal, [None if b is None else -b for b in x.blocks])


def plus(sign: int) -> Rule:
    """u ± v."""

    def rule(operation: Operation, operands: Sequence[Any]) -> Any:
        u, v = operands
        algebra, y = algebra_of(operands), operation(*values(operands))
        blocks: list[Block] = []
        for a, b in zip(blocks_of(u, algebra.order), blocks_of(v, algebra.order), strict=True):
            a, b = (None if x is None else XP.expand_dims(x, y.ndim) for x in (a, b))
            if sign < 0 and b is not None:
                b = -b
            blocks.append(add(a, b))
        return jet(algebra, y, blocks)

    return rule


# ------------------------------------------------------------------ bilinear


class RowByRow:
    """Any bilinear function, mapped over the rows of blocks."""

    def __init__(self, func: Callable[[Any, Any], Any]) -> None:
        self.one = func
        self.value_block = jax.vmap(func, (None, 0))
        self.block_value = jax.vmap(func, (0, None))
        self.blocks = jax.vmap(func)

    def contract(self, u: Any, v: Any) -> Any:
        """Σ_a B(u[a], v[a])."""
        return self.blocks(u, v).sum(0)


class Contraction(RowByRow):
    """dot_general; a sum over rows contracts their axis along with the others."""

    def __init__(self, operation: Operation) -> None:
        super().__init__(operation)
        (self.contracted, self.batch) = operation.params["dimension_numbers"]
        self.options = {k: operation.params[k] for k in ("precision", "preferred_element_type")}

    def contract(self, u: Any, v: Any) -> Any:
        """Σ_a u[a] · v[a] as one dot_general."""
        contracted, batch = (
            tuple(tuple(axis + 1 for axis in axes) for axes in of_both)
            for of_both in (self.contracted, self.batch)
        )
        contracted = ((0, *contracted[0]), (0, *contracted[1]))
        return lax.dot_general(u, v, (contracted, batch), **self.options)


def bilinear(kind: Callable[[Operation], Any] = RowByRow) -> Rule:
    """B(u, v) of two jets, or of a jet and an array."""

    def rule(operation: Operation, operands: Sequence[Any]) -> Any:
        u, v = operands
        algebra = algebra_of(operands)
        left, right = ([value(x), *expanded(x, algebra.order)] for x in (u, v))
        out = product(algebra, left, right, kind(operation), XP)
        return jet(algebra, out[0], out[1:])

    return rule


def contraction(operation: Operation, operands: Sequence[Any]) -> Any:
    """dot_general: by an array it maps blocks as they are, so that axes of length one stay."""
    u, v = operands
    if isinstance(u, Jet) and isinstance(v, Jet):
        return bilinear(Contraction)(operation, operands)
    left = isinstance(u, Jet)
    x: Jet = u if left else v
    contracted, batch = operation.params["dimension_numbers"]
    needed = {*contracted[1 - left], *batch[1 - left]}
    shifted = [tuple(k + 1 for k in axes[1 - left]) for axes in (contracted, batch)]
    dimensions = tuple(
        (own, axes[1]) if left else (axes[0], own)
        for own, axes in zip(shifted, (contracted, batch), strict=True)
    )
    # The rows are a free axis, behind the batch axes and, on the right, those free on the left.
    rows = len(batch[0]) if left else jnp.ndim(u) - len(contracted[0])
    options = {k: operation.params[k] for k in ("precision", "preferred_element_type")}
    blocks: list[Block] = []
    for b in x.blocks:
        if b is not None:
            shape = [n if k in needed else m for k, (n, m) in enumerate(_pairs(x, b))]
            b = jnp.broadcast_to(b, (b.shape[0], *shape))
            b = lax.dot_general(*((b, v) if left else (u, b)), dimensions, **options)
            b = jnp.moveaxis(b, rows, 0)
        blocks.append(b)
    return jet(x.algebra, operation(*values(operands)), blocks)


def _pairs(x: Jet, block: Any) -> Iterable[tuple[int, int]]:
    """The lengths of the axes of a value and of a block's rows."""
    return zip(x.primal.shape, block.shape[1:], strict=True)


def multiply(operation: Operation, operands: Sequence[Any]) -> Any:
    """The elementwise product."""
    u, v = operands
    algebra = algebra_of(operands)
    if operation.params.get("out_dtype") is not None:
        return bilinear()(operation, operands)
    kind = Elementwise(XP, max(jnp.ndim(value(u)), jnp.ndim(value(v))))
    left, right = ([value(x), *blocks_of(x, algebra.order)] for x in (u, v))
    out = product(algebra, left, right, kind, XP)
    return jet(algebra, out[0], out[1:])


def divide(operation: Operation, operands: Sequence[Any]) -> Any:
    """u / v; by an array it is linear, otherwise the product with the reciprocal."""
    u, v = operands
    if isinstance(v, Jet):
        inverse = apply_tower(v, 1 / v.primal, towers.reciprocal)
        algebra, y = v.algebra, operation(*values(operands))
        kind = Elementwise(XP, y.ndim)
        left, right = ([value(x), *blocks_of(x, algebra.order)] for x in (u, inverse))
        return jet(algebra, y, product(algebra, left, right, kind, XP)[1:])
    y = operation(u.primal, v)
    blocks = [None if b is None else XP.expand_dims(b, y.ndim) / v for b in u.blocks]
    return jet(u.algebra, y, blocks)


# ------------------------------------------------------------------ elementwise


def elementwise(tower: Callable[..., list[Any]], **parameters: str) -> Rule:
    """φ(x) from its tower; parameters: what the tower calls a parameter of the primitive."""

    def rule(operation: Operation, operands: Sequence[Any]) -> Any:
        (x,) = operands
        used = {k: operation.params[theirs] for k, theirs in parameters.items()}
        return apply_tower(x, operation(x.primal), partial(tower, **used))

    return rule


def apply_tower(x: Jet, y: Any, tower: Callable[..., list[Any]]) -> Any:
    """The jet of φ(x), from y = φ(u) and t_k = φ^{(k)}(u)/k!."""
    coefficients = tower(x.primal, y, x.algebra.order, XP)
    return jet(x.algebra, y, compose(x, coefficients, y.ndim, XP))


def elementwise_by_tangents(operation: Callable[..., Any], operands: Sequence[Any]) -> Any:
    """Any elementwise function of one jet or more, its partial derivatives from nested `jax.jvp`.

    The operands have one shape; t_α = ∂^αφ/α! needs no tangents but ones.
    """
    algebra, plain = algebra_of(operands), values(operands)
    places = [k for k, x in enumerate(operands) if isinstance(x, Jet)]
    y, of_jets = operation(*plain), of_places(operation, plain, places)

    def along(function: Callable[..., Any], k: int) -> Callable[..., Any]:
        def derivative(*points: Any) -> Any:
            def of_one(point: Any) -> Any:
                return function(*points[:k], point, *points[k + 1 :])

            return jax.jvp(of_one, (points[k],), (jnp.ones_like(points[k]),))[1]

        return derivative

    points = [plain[k] for k in places]

    def taylor(alpha: Sequence[int]) -> Any:
        """∂^αφ/α!."""
        function, scale = of_jets, 1.0
        for k, times in enumerate(alpha):
            for n in range(times):
                function, scale = along(function, k), scale / (n + 1)
        return function(*points) * scale

    nilpotents = [[None, *operands[k].blocks] for k in places]
    return jet(algebra, y, compose_several(algebra, nilpotents, taylor, y.ndim, XP))


def by_dtype(real: Rule, complex_: Rule) -> Rule:
    """A rule for real and another for complex operands."""

    def rule(operation: Operation, operands: Sequence[Any]) -> Any:
        dtype = jnp.result_type(*values(operands))
        chosen = complex_ if jnp.issubdtype(dtype, jnp.complexfloating) else real
        return chosen(operation, operands)

    return rule


def power(operation: Operation, operands: Sequence[Any]) -> Any:
    """x ** y: a tower in the base, or in the exponent; exp(y log x) where both are jets."""
    x, exponent = operands
    y = operation(*values(operands))
    if isinstance(x, Jet) and isinstance(exponent, Jet):
        out = call(lambda x, e: jnp.exp(e * jnp.log(x)), x, exponent)
        return jet(x.algebra, y, out.blocks)
    if isinstance(exponent, Jet):
        return apply_tower(
            exponent, y, partial(towers.exponential_of_array, base=jnp.asarray(x, y.dtype))
        )
    if np.ndim(exponent) == 0 and not isinstance(exponent, jax.core.Tracer):
        return apply_tower(x, y, partial(towers.power, exponent=np.asarray(exponent).item()))
    return apply_tower(x, y, partial(towers.power_of_array, exponent=jnp.asarray(exponent)))


def decomposed(func: Callable[..., Any]) -> Rule:
    """The operation written in other operations: func(*operands, **parameters)."""

    def rule(operation: Operation, operands: Sequence[Any]) -> Any:
        return call(partial(func, **operation.params), *operands)

    return rule


# ------------------------------------------------------------------ the general rule


def general(operation: Callable[..., Any], operands: Sequence[Any]) -> Any:
    """Any operation that JAX differentiates in forward mode, from nested `jax.jvp`, exactly."""
    algebra, plain = algebra_of(operands), values(operands)
    places = [k for k, x in enumerate(operands) if isinstance(x, Jet)]
    several = getattr(operation, "several", True)
    held = of_places(operation, plain, places)

    def of_jets(*points: Any) -> list[Any]:
        out = held(*points)
        return list(out) if several else [out]

    points = [plain[k] for k in places]
    results = of_jets(*points)
    varying = [k for k, y in enumerate(results) if is_inexact(y)]

    def directional(slots: Sequence[Sequence[Any]]) -> list[Any]:
        """D^kφ(points)[slot, …] for stacked tangents."""

        def one(*tangents: Any) -> Any:
            def derivative(*at: Any) -> list[Any]:
                out = of_jets(*at)
                return [out[k] for k in varying]

            n = len(points)
            for s in range(len(slots)):
                derivative = _pushed(derivative, tangents[s * n : (s + 1) * n])
            return derivative(*points)

        return jax.vmap(one)(*[stack for slot in slots for stack in slot])

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


def _pushed(function: Callable[..., Any], tangents: Sequence[Any]) -> Callable[..., Any]:
    def derivative(*at: Any) -> Any:
        return jax.jvp(function, at, tuple(tangents))[1]

    return derivative


# ------------------------------------------------------------------ matrices


MATMUL = RowByRow(jnp.matmul)


def dagger(x: Any) -> Any:
    """The conjugate transpose of matrices."""
    return jnp.conj(jnp.swapaxes(x, -1, -2))


def lower_products(
    algebra: JetAlgebra, m: int, u: Sequence[Block], v: Sequence[Block], like: Any
) -> Any:
    """Σ_{i,j ≥ 1} of U_i V_j into degree m; zeros where nothing contributes."""
    total: Block = None
    for table in algebra.products[m]:
        if u[table.i] is not None and v[table.j] is not None:
            part = pair(table, algebra.sizes[m], u[table.i], v[table.j], MATMUL, XP)
            total = add(total, part)
    return zeros(algebra.sizes[m], like) if total is None else total


def _dense(x: Jet) -> list[Any]:
    """[value, block 1, …] with zeros for what is missing."""
    blocks = expanded(x, x.algebra.order)
    sizes = x.algebra.sizes[1:]
    filled = [zeros(n, x) if b is None else b for n, b in zip(sizes, blocks, strict=True)]
    return [x.primal, *filled]


def triangular_solve(operation: Operation, operands: Sequence[Any]) -> Any:
    """The solution of op(A) X = B or X op(A) = B, A triangular, degree by degree."""
    a, b = operands
    if not isinstance(a, Jet):
        return linear(1)(operation, operands)
    algebra, options = a.algebra, operation.params
    part = jnp.tril if options["lower"] else jnp.triu
    offset = (-1 if options["lower"] else 1) if options["unit_diagonal"] else 0

    def op(matrix: Any) -> Any:
        """What stands before X, of a coefficient of A."""
        matrix = part(matrix, offset)
        matrix = jnp.swapaxes(matrix, -1, -2) if options["transpose_a"] else matrix
        return jnp.conj(matrix) if options["conjugate_a"] else matrix

    def apply_matrix(matrix: Any, x: Any) -> Any:
        return matrix @ x if options["left_side"] else x @ matrix

    left = [None, *(None if c is None else op(c) for c in expanded(a, algebra.order))]
    right = [value(b), *expanded(b, algebra.order)]
    inverse = partial(operation, a.primal)
    x = solve_by_degrees(
        algebra, left, right, inverse, jax.vmap(inverse), RowByRow(apply_matrix), XP
    )
    return jet(algebra, x[0], x[1:])


def cholesky(operation: Operation, operands: Sequence[Any]) -> Any:
    """A = L Lᴴ: L_m = L_0 Φ(L_0⁻¹ R L_0⁻ᴴ), R = A_m − Σ L_i L_jᴴ, Φ the lower half.

    Of A only (A + Aᴴ)/2 counts, as in JAX.
    """
    (x,) = operands
    algebra = x.algebra
    l0 = jnp.tril(operation(x.primal))  # the primitive leaves the rest of A above
    inverse = lax.linalg.triangular_solve(
        l0,
        jnp.broadcast_to(jnp.eye(l0.shape[-1], dtype=l0.dtype), l0.shape),
        left_side=True,
        lower=True,
    )
    blocks, adjoint = [l0], [l0]
    for m, a in enumerate(_dense(x)[1:], 1):
        rest = (a + dagger(a)) / 2 - lower_products(algebra, m, blocks, adjoint, l0)
        inner = jnp.tril(inverse @ rest @ dagger(inverse))
        halved = inner - _diagonal(inner) / 2
        blocks.append(l0 @ halved)
        adjoint.append(dagger(blocks[-1]))
    return jet(algebra, l0, blocks[1:])


def _diagonal(x: Any) -> Any:
    """The matrices with everything beside the diagonal set to zero."""
    return x * jnp.eye(x.shape[-1], dtype=x.dtype)


def lu(operation: Operation, operands: Sequence[Any]) -> Any:
    """P A = L U: L_m = L_0 tril(F, −1), U_m = triu(F) U_0, F = L_0⁻¹ (P A_m − Σ L_i U_j) U_0⁻¹."""
    (x,) = operands
    if x.primal.shape[-1] != x.primal.shape[-2]:
        return general(operation, operands)
    algebra = x.algebra
    packed, pivots, permutation = operation(x.primal)
    one = jnp.eye(packed.shape[-1], dtype=packed.dtype)
    l0, u0 = jnp.tril(packed, -1) + one, jnp.triu(packed)
    solve = lax.linalg.triangular_solve
    lower, upper = [l0], [u0]
    for m, a in enumerate(_dense(x)[1:], 1):
        permuted = jnp.take_along_axis(a, permutation[None, ..., None], -2)
        rest = permuted - lower_products(algebra, m, lower, upper, l0)

        def normalised(r: Any) -> Any:
            half = solve(l0, r, left_side=True, lower=True, unit_diagonal=True)
            return solve(u0, half, left_side=False, lower=False)

        f = jax.vmap(normalised)(rest)
        lower.append(l0 @ jnp.tril(f, -1))
        upper.append(jnp.triu(f) @ u0)
    both = [a + b for a, b in zip(lower[1:], upper[1:], strict=True)]
    return [jet(algebra, packed, both), pivots, permutation]


def eigh(operation: Operation, operands: Sequence[Any]) -> Any:
    """A V = V diag(w) with V = V_0 (1 + X), degree by degree.

    Off the diagonal X_ij (w_j − w_i) = R_ij, on it w follows from R and X from VᴴV = 1; a complex
    phase of the eigenvectors, which nothing determines, is held fixed. Equal eigenvalues have no
    derivatives (JAX and we return what is not finite).
    """
    (x,) = operands
    algebra = x.algebra
    if operation.params.get("subset_by_index") is not None:
        return general(operation, operands)
    v0, w0 = operation(x.primal)
    gaps = w0[..., None, :] - w0[..., :, None]
    one = jnp.eye(w0.shape[-1], dtype=v0.dtype)
    weights = (1 - one) / (gaps + jnp.eye(w0.shape[-1], dtype=w0.dtype))
    a: list[Any] = [None]
    vectors: list[Any] = [None]  # X, without the 1
    adjoint: list[Any] = [None]
    eigenvalues: list[Any] = [None]  # as diagonal matrices
    for m, of_degree in enumerate(_dense(x)[1:], 1):
        a.append(dagger(v0) @ ((of_degree + dagger(of_degree)) / 2) @ v0)
        r = a[m] + lower_products(algebra, m, a, vectors, v0)
        r = r - lower_products(algebra, m, vectors, eigenvalues, v0)
        gram = lower_products(algebra, m, adjoint, vectors, v0)
        eigenvalues.append(_diagonal(r))
        vectors.append(r * weights - _diagonal(gram) / 2)
        adjoint.append(dagger(vectors[-1]))
    w = [jnp.diagonal(e, 0, -2, -1).real.astype(w0.dtype) for e in eigenvalues[1:]]
    return [jet(algebra, v0, [v0 @ b for b in vectors[1:]]), jet(algebra, w0, w)]


def qr(operation: Operation, operands: Sequence[Any]) -> Any:
    """A = Q R with QᴴQ = 1: with C = (A_m − Σ Q_i R_j) R_0⁻¹ and H = Q_0ᴴ C, Y = Q_0ᴴ Q_m takes
    the strict lower half of H, and the rest from Y + Yᴴ = −Σ Q_iᴴ Q_j; R's diagonal is real."""
    (x,) = operands
    rows, columns = x.primal.shape[-2:]
    if rows < columns or operation.params.get("pivoting"):
        return general(operation, operands)
    if operation.params.get("full_matrices") and rows != columns:
        return general(operation, operands)
    algebra = x.algebra
    q0, r0 = operation(x.primal)
    q, r, adjoint = [q0], [r0], [dagger(q0)]
    for m, a in enumerate(_dense(x)[1:], 1):
        rest = a - lower_products(algebra, m, q, r, q0)
        c = jax.vmap(lambda b: lax.linalg.triangular_solve(r0, b, left_side=False, lower=False))(
            rest
        )
        h = adjoint[0] @ c
        strict = jnp.tril(h, -1)
        y = strict - dagger(strict)
        gram = lower_products(algebra, m, adjoint, q, r0)
        y = y - jnp.triu(gram, 1) - _diagonal(gram) / 2
        if jnp.issubdtype(h.dtype, jnp.complexfloating):
            y = y + _diagonal(h - h.real)
        t = h - y
        q.append(c - q0 @ t)
        r.append(t @ r0)
        adjoint.append(dagger(q[-1]))
    return [jet(algebra, q0, q[1:]), jet(algebra, r0, r[1:])]
