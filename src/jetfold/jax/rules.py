"""The kinds of rules by which JAX primitives act on jets.

A rule is a value: a kind with what tells one primitive of that kind from another. Called with an
operation and its operands, arrays and at least one jet, it returns the result. What acts on a
coefficient alone is mapped over the leading axis of its block by `jax.vmap`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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
from ..core.jet import Jet, product
from . import arrays as XP
from .general import differentiated, entrywise, general, places_of_jets, pushforward
from .interpreter import Operation, Rule, call
from .jets import (
    algebra_of,
    coefficients,
    expanded,
    full_coefficients,
    is_complex,
    is_inexact,
    jet,
    mapped,
    value,
    values,
    zeros,
)

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


@dataclass(frozen=True)
class Refused(Rule):
    """It has no derivative; the hint says what to write instead."""

    hint: str

    def __call__(self, operation: Operation, operands: Sequence[Any]) -> Any:
        raise NotImplementedError(
            f"{operation.name} was called on the argument of a function that jetfold "
            f"differentiates, and neither JAX nor jetfold has a derivative of it; {self.hint}"
        )


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


def by_rows(
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
        blocks.append(mapped(of_row, *stacks))
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
        blocks = [b.real if real and b is not None else b for b in x.blocks]
        return jet(x.algebra, y, [None if b is None else b.astype(dtype) for b in blocks])


@dataclass(frozen=True)
class Negative(Rule):
    """−u."""

    entrywise: bool = field(default=True, kw_only=True)

    def __call__(self, operation: Operation, operands: Sequence[Any]) -> Any:
        (x,) = operands
        return jet(x.algebra, -x.primal, [None if b is None else -b for b in x.blocks])


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


class Contraction(RowByRow):
    """dot_general; a sum over rows contracts their axis along with the others."""

    def __init__(self, operation: Operation) -> None:
        super().__init__(operation, XP)
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
            return Bilinear(Contraction)(operation, operands)
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
                shape = [n if k in needed else m for k, (n, m) in enumerate(_lengths(x, b))]
                b = jnp.broadcast_to(b, (b.shape[0], *shape))
                b = lax.dot_general(*((b, v) if left else (u, b)), dimensions, **options)
                b = jnp.moveaxis(b, rows, 0)
            blocks.append(b)
        return jet(x.algebra, operation(*values(operands)), blocks)


def _lengths(x: Jet, block: Any) -> Iterable[tuple[int, int]]:
    """The lengths of the axes of a value and of a block's rows."""
    return zip(x.primal.shape, block.shape[1:], strict=True)


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
        return composed(x, operation(x.primal), partial(self.tower, **used))


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
