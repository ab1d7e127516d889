"""The kinds of rules by which JAX primitives act on jets.

A rule is a value: a kind with what tells one primitive of that kind from another. Called with an
operation and its operands, arrays and at least one jet, it returns the result. What acts on a
coefficient alone is mapped over the leading axis of its block by `jax.vmap`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from ..core import arithmetic
from ..core.algebra import JetAlgebra
from ..core.arithmetic import RowByRow
from ..core.arrays import Block
from ..core.axes import Contracted
from ..core.jet import Jet, add, product
from ..core.structure import Named, Structured, one_sided, parts
from . import arrays as XP
from . import axes
from .composition import Composed, Composition, is_plain, kept, times_array, times_matrix
from .flat import by_matrix
from .general import differentiated, entrywise, general, places_of_jets, pushforward
from .interpreter import Operation, Rule, call
from .jets import (
    Joined,
    algebra_of,
    coefficients,
    full_coefficients,
    is_complex,
    is_inexact,
    jet,
    on_parts,
    stored_of,
    value,
    values,
    whole,
)
from .linear import Map

# ------------------------------------------------------------------ constants


@dataclass(frozen=True)
class OfValue(Rule):
    """It asks about the value, or is constant in between: no coefficients."""

    def __call__(self, operation: Operation, operands: Sequence[Any]) -> Any:
        return operation(*values(operands))


@dataclass(frozen=True)
class Unchanged(Rule):
    """The operands themselves."""

    def __call__(self, operation: Operation, operands: Sequence[Any]) -> Any:
        return list(operands) if operation.several else operands[0]


# ------------------------------------------------------------------ linear


@dataclass(frozen=True, init=False)
class Linear(Rule):
    """Linear in the operands at these places together; in all, if none is named."""

    places: tuple[int, ...]

    def __init__(self, *places: int, **declared: Any) -> None:
        super().__init__(**declared)
        object.__setattr__(self, "places", places)

    def __call__(self, operation: Operation, operands: Sequence[Any]) -> Any:
        places = self.places or range(len(operands))
        if any(k not in places for k in places_of_jets(operands)):
            return general(operation, operands, operation.name)
        return by_rows(operation, operands, [k for k in places if k < len(operands)], operation)


@dataclass(frozen=True)
class Concatenation(Rule):
    """concatenate; the result remembers its operands."""

    def __call__(self, operation: Operation, operands: Sequence[Any]) -> Any:
        whole = Linear()(operation, operands)
        if not isinstance(whole, Jet):
            return whole
        return Joined(whole, operation.params["dimension"], operands)


def by_rows(
    operation: Operation,
    operands: Sequence[Any],
    places: Sequence[int],
    on_rows: Callable[..., Any],
) -> Any:
    """The operation on the values; on_rows, linear in the operands at `places`, on each row."""
    algebra, plain = algebra_of(operands), values(operands)
    result = operation(*plain)
    rows = Map(operation, plain, places, on_rows)
    stored = [stored_of(operands[k], algebra.order) for k in places]
    blocks: list[Any] = []
    for m, of_degree in enumerate(zip(*stored, strict=True)):
        some = any(block is not None for block in of_degree)
        blocks.append(rows(algebra.sizes[m + 1], of_degree) if some else None)
    return assemble(operation, algebra, result, blocks)


def assemble(operation: Operation, algebra: JetAlgebra, result: Any, blocks: Sequence[Any]) -> Any:
    """Jets from the value and the blocks; of several results, from lists of them."""
    if not operation.several:
        return jet(algebra, result, blocks) if is_inexact(result) else result
    return [
        jet(algebra, y, [None if b is None else b[k] for b in blocks]) if is_inexact(y) else y
        for k, y in enumerate(result)
    ]


@dataclass(frozen=True)
class Gather(Rule):
    """x[indices]; what fills places out of bounds is a constant: zero in the coefficients."""

    def __call__(self, operation: Operation, operands: Sequence[Any]) -> Any:
        def on_rows(row: Any, indices: Any) -> Any:
            return operation.primitive.bind(row, indices, **operation.params | {"fill_value": 0})

        return by_rows(operation, operands, [0], on_rows)


@dataclass(frozen=True)
class Scatter(Rule):
    """x.at[indices].set(y), linear in x and y; x.at[indices].apply(f) is not."""

    def __call__(self, operation: Operation, operands: Sequence[Any]) -> Any:
        if operation.params.get("update_jaxpr") is not None:
            raise NotImplementedError(
                "x.at[index].apply(function) was called on the argument of a function that jetfold "
                "differentiates, and neither JAX nor jetfold has a derivative of it; write "
                "x.at[index].set(function(x[index]))"
            )
        return Linear(0, 2)(operation, operands)


@dataclass(frozen=True)
class ScatterProduct(Rule):
    """x.at[indices].multiply(y): x times an array of ones in which y is written."""

    def __call__(self, operation: Operation, operands: Sequence[Any]) -> Any:
        _, _, y = operands
        if not isinstance(y, Jet):
            return Linear(0)(operation, operands)
        if not operation.params["unique_indices"]:
            raise NotImplementedError(
                "x.at[index].multiply(y) with a y that depends on the argument of a function that "
                "jetfold differentiates needs indices that do not repeat (JAX has no derivative of "
                "it either); if they do not, say so: x.at[index].multiply(y, unique_indices=True)"
            )
        options = {k: v for k, v in operation.params.items() if not k.startswith("update_")}

        def product(x: Any, indices: Any, y: Any) -> Any:
            return x * lax.scatter(jnp.ones_like(x), indices, y, **options)

        return call(product, *operands)


@dataclass(frozen=True)
class PiecewiseLinear(Rule):
    """Linear near every point, as max, sort and clamp are: JAX's own tangents, row by row.

    Where pieces meet, the derivative is the one that JAX chose.
    """

    def __call__(self, operation: Operation, operands: Sequence[Any]) -> Any:
        plain, places = values(operands), places_of_jets(operands)

        def tangent(*filled: Any) -> Any:
            with differentiated(operation.name):
                return pushforward(operation, plain, places, [filled[k] for k in places])

        return by_rows(operation, operands, places, tangent)


@dataclass(frozen=True)
class Clamp(Rule):
    """clamp(low, x, high), its bounds numbers or arrays; JAX has no tangents of jets as numbers."""

    def __call__(self, operation: Operation, operands: Sequence[Any]) -> Any:
        low, x, high = operands
        shape = jnp.shape(value(x))
        if any(isinstance(b, Jet) and jnp.shape(b.primal) != shape for b in (low, high)):
            low, high = (call(lambda b: jnp.broadcast_to(b, shape), b) for b in (low, high))
        return PiecewiseLinear()(operation, [low, x, high])


@dataclass(frozen=True)
class Converted(Rule):
    """A change of dtype; coefficients of integers are none."""

    def __call__(self, operation: Operation, operands: Sequence[Any]) -> Any:
        (x,), dtype = operands, operation.results[0].dtype
        y = operation(x.primal)
        if not is_inexact(y):
            return y
        real = is_complex(x.primal) and not is_complex(dtype)

        def converted(block: Any) -> Any:
            return (block.real if real else block).astype(dtype)

        return jet(x.algebra, y, [on_parts(converted, b) for b in x.stored])


@dataclass(frozen=True)
class Negative(Rule):
    """−u."""

    entrywise: bool = field(default=True, kw_only=True)

    def __call__(self, operation: Operation, operands: Sequence[Any]) -> Any:
        (x,) = operands
        return jet(x.algebra, -x.primal, [None if b is None else -b for b in x.stored])


# ------------------------------------------------------------------ arithmetic


@dataclass(frozen=True)
class Arithmetic(Rule):
    """What `core.arithmetic` does with the coefficients of two operands and the value."""

    function: Callable[..., list[Any]]
    entrywise: bool = field(default=True, kw_only=True)

    def __call__(self, operation: Operation, operands: Sequence[Any]) -> Any:
        algebra = algebra_of(operands)
        u, v = (coefficients(x, algebra.order) for x in operands)
        out = self.function(algebra, u, v, operation(*values(operands)), XP)
        return jet(algebra, out[0], out[1:])


def plus(algebra: JetAlgebra, *rest: Any) -> list[Any]:
    """u + v."""
    return arithmetic.plus(*rest)


def minus(algebra: JetAlgebra, *rest: Any) -> list[Any]:
    """u − v."""
    return arithmetic.minus(*rest)


def power(algebra: JetAlgebra, u: Any, p: Any, y: Any, xp: Any) -> list[Any]:
    """u^p; a constant base is an array of the result's dtype, an exponent a number if it can be."""
    if arithmetic.is_constant(u):
        u = [jnp.asarray(u[0], y.dtype), *u[1:]]
    if arithmetic.is_constant(p):
        number = np.ndim(p[0]) == 0 and not isinstance(p[0], jax.core.Tracer)
        p = [np.asarray(p[0]).item() if number else jnp.asarray(p[0]), *p[1:]]
    return arithmetic.power(algebra, u, p, y, xp)


@dataclass(frozen=True)
class Product(Rule):
    """The elementwise product."""

    entrywise: bool = field(default=True, kw_only=True)

    def __call__(self, operation: Operation, operands: Sequence[Any]) -> Any:
        if operation.params.get("out_dtype") is not None:
            return Bilinear()(operation, operands)
        algebra = algebra_of(operands)
        u, v = (coefficients(x, algebra.order) for x in operands)
        out = arithmetic.times(algebra, u, v, XP)
        return jet(algebra, out[0], out[1:])


# ------------------------------------------------------------------ bilinear


def row_by_row(operation: Operation, *held: Any) -> RowByRow:
    """Any bilinear operation, mapped over the rows of blocks; further operands are held."""
    return RowByRow(lambda u, v: operation(u, v, *held), XP)


class _Broadcast(RowByRow):
    """A contraction that takes rows with axes of length one; `full` repeats those that it needs."""

    def value_block(self, u: Any, v: Any) -> Any:
        """u · v[b]."""
        return super().value_block(u, self.full(v, 1))

    def block_value(self, u: Any, v: Any) -> Any:
        """u[a] · v."""
        return super().block_value(self.full(u, 0), v)

    def blocks(self, u: Any, v: Any) -> Any:
        """u[a] · v[a]."""
        return super().blocks(self.full(u, 0), self.full(v, 1))

    def full(self, rows: Any, side: int) -> Any:
        """Rows of the left operand (0) or of the right one (1)."""
        raise NotImplementedError


class Contraction(_Broadcast):
    """dot_general; a sum over rows contracts their axis along with the others."""

    def __init__(self, operation: Operation, left: Any, right: Any) -> None:
        super().__init__(operation, XP)
        self.operation = operation
        self.shapes = jnp.shape(left), jnp.shape(right)
        (self.contracted, self.batch) = operation.params["dimension_numbers"]
        self.options = {k: operation.params[k] for k in ("precision", "preferred_element_type")}

    def contract(self, u: Any, v: Any) -> Any:
        """Σ_a u[a] · v[a] as one dot_general."""
        contracted, batch = (
            tuple(tuple(axis + 1 for axis in axes) for axes in of_both)
            for of_both in (self.contracted, self.batch)
        )
        contracted = ((0, *contracted[0]), (0, *contracted[1]))
        u, v = self.full(u, 0), self.full(v, 1)
        return lax.dot_general(u, v, (contracted, batch), **self.options)

    def full(self, rows: Any, side: int) -> Any:
        """Rows of the whole shape of an operand."""
        return jnp.broadcast_to(rows, (rows.shape[0], *self.shapes[side]))

    def named(self) -> Named:
        """The names of the axes."""
        sides = [jax.ShapeDtypeStruct(shape, float) for shape in self.shapes]
        found = axes.contraction(self.operation.params, sides, None)
        lengths = dict(zip(found.left, self.shapes[0], strict=True))
        lengths |= zip(found.right, self.shapes[1], strict=True)
        return _named(self, found, lengths, self.options)


class _OfNames(_Broadcast):
    """The contraction of two operands whose axes have names, of any rows that broadcast."""

    def __init__(self, names: Contracted, lengths: Mapping[str, int], options: Mapping[str, Any]):
        letter = {name: chr(ord("a") + k) for k, name in enumerate(lengths)}
        left, right, out = (
            "".join(map(letter.__getitem__, side)) for side in (names.left, names.right, names.out)
        )
        self.einsum = partial(jnp.einsum, **options)
        super().__init__(partial(self.einsum, f"{left},{right}->{out}"), XP)
        self.summed = f"Z{left},Z{right}->{out}"
        shared = {*names.left} & {*names.right}
        self.needed = [
            [lengths[name] if name in shared else None for name in side]
            for side in (names.left, names.right)
        ]

    def contract(self, u: Any, v: Any) -> Any:
        """Σ_a u[a] · v[a]."""
        return self.einsum(self.summed, self.full(u, 0), self.full(v, 1))

    def full(self, rows: Any, side: int) -> Any:
        """Rows whose axes are whole where both operands have them."""
        axes = zip(self.needed[side], rows.shape[1:], strict=True)
        return jnp.broadcast_to(rows, (rows.shape[0], *(m if n is None else n for n, m in axes)))


def _named(
    kind: Any, names: Contracted, lengths: Mapping[str, int], options: Mapping[str, Any]
) -> Named:
    """A map that is the contraction of these names."""
    left, right, out = names.left, names.right, names.out

    def keeping(name: str) -> _OfNames:
        return _OfNames(Contracted(left, right, (name, *out)), lengths, options)

    def sharing(name: str, to_right: bool) -> Named:
        both = (left, (name, *right)) if to_right else ((name, *left), right)
        shared = Contracted(*both, out)
        return _named(_OfNames(shared, lengths, options), shared, lengths, options)

    return Named(kind, left, right, out, keeping, sharing)


@dataclass(frozen=True)
class Bilinear(Rule):
    """B(u, v) of two jets, or of a jet and an array; `kind` makes B of the operation.

    What follows these two operands is no jet.
    """

    kind: Callable[..., Any] = row_by_row

    def __call__(self, operation: Operation, operands: Sequence[Any]) -> Any:
        algebra = algebra_of(operands)
        left, right = (full_coefficients(x, algebra.order) for x in operands[:2])
        out = product(algebra, left, right, self.kind(operation, *operands[2:]), XP)
        return jet(algebra, out[0], out[1:])


@dataclass(frozen=True)
class DotGeneral(Rule):
    """dot_general: by an array it maps blocks as they are, so that axes of length one stay."""

    def __call__(self, operation: Operation, operands: Sequence[Any]) -> Any:
        u, v = operands
        if isinstance(u, Jet) and isinstance(v, Jet):
            algebra = algebra_of(operands)
            of_left, of_right = (
                [x.primal, *(whole(x, block) for block in x.stored)] for x in (u, v)
            )
            out = product(algebra, of_left, of_right, Contraction(operation, *values(operands)), XP)
            return jet(algebra, out[0], out[1:])
        left = isinstance(u, Jet)
        x: Jet = u if left else v
        if isinstance(x, Composed):
            array = v if left else u
            factor = _Factor(operation, x, array, left)
            if factor.flat:
                out = times_matrix(x, array, **factor.kind.options)
            else:
                out = times_array(x, array, partial(_each_block, operation, x, left))
            return jet(x.algebra, out[0], out[1:])
        blocks: list[Block] = [None] * x.algebra.order
        for jets, arrays in _apart(x, v if left else u, operation, left):
            factor = _Factor(operation, jets, arrays, left)
            blocks = [
                add(total, None if b is None else factor(b))
                for total, b in zip(blocks, jets.stored, strict=True)
            ]
        return jet(x.algebra, operation(*values(operands)), blocks)


def _each_block(
    operation: Operation, x: Jet, left: bool, blocks: Sequence[Block], array: Any
) -> list[Block]:
    """A contraction with an array, of [value, block 1, …]."""
    factor = _Factor(operation, x, array, left)
    operands = (blocks[0], array) if left else (array, blocks[0])
    value = None if blocks[0] is None else operation(*operands)
    return [value, *(None if b is None else factor(b) for b in blocks[1:])]


class _Factor:
    """A contraction with an array, of blocks of a jet."""

    def __init__(self, operation: Operation, x: Jet, array: Any, left: bool) -> None:
        self.x, self.array, self.left = x, array, left
        operands = (x.primal, array) if left else (array, x.primal)
        self.kind = Contraction(operation, *operands)
        contracted, batch = operation.params["dimension_numbers"]
        self.needed = {*contracted[1 - left], *batch[1 - left]}
        shifted = [tuple(k + 1 for k in axes[1 - left]) for axes in (contracted, batch)]
        self.dimensions = tuple(
            (own, axes[1]) if left else (axes[0], own)
            for own, axes in zip(shifted, (contracted, batch), strict=True)
        )
        along = (((x.primal.ndim,), (0,)), ((), ()))
        self.flat = left and jnp.ndim(array) == 2 and self.dimensions == along
        # The rows are a free axis, behind the batch axes and, on the right, those free on the left.
        self.rows = len(batch[0]) if left else jnp.ndim(array) - len(contracted[0])

    def __call__(self, block: Block) -> Block:
        """Of a block."""
        if isinstance(block, Structured):
            return one_sided(XP, self.kind.named(), block, self.of_rows, right=not self.left)
        return self.of_rows(self.kind, block)

    def of_rows(self, of: Any, b: Any) -> Any:
        """Of rows, by the contraction or by one that keeps an axis."""
        if of is not self.kind:
            return of.block_value(b, self.array) if self.left else of.value_block(self.array, b)
        pairs = enumerate(zip(self.x.primal.shape, b.shape[1:], strict=True))
        shape = [n if k in self.needed else m for k, (n, m) in pairs]
        b = jnp.broadcast_to(b, (b.shape[0], *shape))
        if self.flat:
            return by_matrix(b, self.array, **self.kind.options)
        operands = (b, self.array) if self.left else (self.array, b)
        found = lax.dot_general(*operands, self.dimensions, **self.kind.options)
        return jnp.moveaxis(found, self.rows, 0)


def _apart(x: Jet, array: Any, operation: Operation, left: bool) -> list[tuple[Jet, Any]]:
    """The jets that are joined along a contracted axis, each with its part of the other operand.

    Neighbours whose coefficients have the same axes stay together.
    """
    contracted, _ = operation.params["dimension_numbers"]
    own, other = contracted[1 - left], contracted[left]
    if not isinstance(x, Joined) or x.axis not in own:
        return [(x, array)]
    along = other[own.index(x.axis)]
    groups: list[tuple[Any, list[Any], int]] = []
    start = 0
    for operand in x.operands:
        kind = _axes_of(operand, x.axis)
        if groups and groups[-1][0] == kind:
            groups[-1][1].append(operand)
        else:
            groups.append((kind, [operand], start))
        start += jnp.shape(value(operand))[x.axis]
    if len(groups) == 1:
        return [(x, array)]
    found = []
    for kind, operands, start in groups:
        if kind is None:
            continue
        whole = operands[0]
        if len(operands) > 1:
            whole = call(lambda *parts: lax.concatenate(parts, x.axis), *operands)
        length = whole.primal.shape[x.axis]
        found.append((whole, lax.slice_in_dim(array, start, start + length, axis=along)))
    return found


def _axes_of(x: Any, axis: int) -> Any:
    """Which axes the coefficients of an operand have, but for one; None of an array."""
    if not isinstance(x, Jet):
        return None
    found = []
    for block in x.stored:
        rest, pieces = parts(block)
        shapes = [(piece.axis, piece.owners, piece.block.shape) for piece in pieces]
        for _, _, shape in [*shapes, *([] if rest is None else [(None, None, rest.shape)])]:
            found.append(tuple(n > 1 for k, n in enumerate(shape) if k not in (0, axis + 1)))
        found.append(tuple((at, owners) for at, owners, _ in shapes))
    return found


# ------------------------------------------------------------------ elementwise


@dataclass(frozen=True)
class Elementwise(Rule):
    """φ(x) from its tower; parameters: what the tower calls a parameter of the primitive."""

    tower: Callable[..., list[Any]]
    parameters: Mapping[str, str] = field(default_factory=dict, hash=False)
    entrywise: bool = field(default=True, kw_only=True)

    def __call__(self, operation: Operation, operands: Sequence[Any]) -> Any:
        (x,) = operands
        used = {k: operation.params[theirs] for k, theirs in self.parameters.items()}
        tower = partial(self.tower, **used)
        u = coefficients(x, x.algebra.order)
        if not is_plain(u):
            return composed(x, operation(x.primal), tower)
        of = Composition(x.algebra, tower)
        out = kept(of, operation(x.primal), u)
        found = jet(x.algebra, out[0], out[1:])
        return Composed(found, of, u) if isinstance(found, Jet) else found


def composed(x: Jet, y: Any, tower: Callable[..., list[Any]]) -> Any:
    """The jet of φ(x), from y = φ(u) and t_k = φ^{(k)}(u)/k!."""
    out = arithmetic.composed(x.algebra, coefficients(x, x.algebra.order), y, tower, XP)
    return jet(x.algebra, y, out[1:])


@dataclass(frozen=True)
class ByTangents(Rule):
    """Any elementwise function of one operand or more: its derivatives from nested `jax.jvp`."""

    entrywise: bool = field(default=True, kw_only=True)

    def __call__(self, operation: Operation, operands: Sequence[Any]) -> Any:
        with differentiated(operation.name):
            return entrywise(operation, operands)


# ------------------------------------------------------------------ made of other rules


@dataclass(frozen=True)
class ByDtype(Rule):
    """A rule for real and another for complex operands."""

    real: Rule
    complex: Rule

    def __call__(self, operation: Operation, operands: Sequence[Any]) -> Any:
        chosen = self.complex if is_complex(jnp.result_type(*values(operands))) else self.real
        return chosen(operation, operands)


@dataclass(frozen=True)
class Decomposed(Rule):
    """The operation written in other operations: function(*operands, **parameters)."""

    function: Callable[..., Any]

    def __call__(self, operation: Operation, operands: Sequence[Any]) -> Any:
        return call(partial(self.function, **operation.params), *operands)


@dataclass(frozen=True)
class Own(Rule):
    """A rule that one primitive has for itself: function(operation, operands)."""

    function: Callable[[Operation, Sequence[Any]], Any]

    def __call__(self, operation: Operation, operands: Sequence[Any]) -> Any:
        return self.function(operation, operands)


@dataclass(frozen=True)
class General(Rule):
    """Nested forward mode of the operation: exact, slow, and reported."""

    def __call__(self, operation: Operation, operands: Sequence[Any]) -> Any:
        return general(operation, operands, operation.name)
