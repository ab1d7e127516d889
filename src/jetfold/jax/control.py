"""Primitives that hold other functions: calls, loops, branches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from ..core import recorded
from ..core.algebra import JetAlgebra
from ..core.arrays import Block
from ..core.jet import Jet
from ..core.structure import Owners, Piece, Structured, parts, rows_of
from . import arrays as XP
from . import private
from .interpreter import Operation, Rule, interpret, interpret_closed
from .jets import (
    algebra_of,
    expanded,
    is_inexact,
    jet,
    rows_before,
    rows_behind,
    stored_of,
    value,
    whole,
    zeros,
)

# ------------------------------------------------------------------ calls


@dataclass(frozen=True)
class Inlined(Rule):
    """The function's own equations, here."""

    def __call__(self, operation: Operation, operands: Sequence[Any]) -> Any:
        params = operation.params
        inner = next(params[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr", "call") if k in params)
        function = private.closed(inner)
        # What `held` waits for comes last, and is not read.
        results = interpret_closed(function, operands[: len(function.in_avals)])
        return results if operation.several else results[0]


def checkpointed(operation: Operation, operands: Sequence[Any]) -> Any:
    """jax.checkpoint of the function on jets."""
    params = operation.params
    inner = private.closed(params["jaxpr"])
    options = {k: params[k] for k in ("prevent_cse", "policy")}
    return jax.checkpoint(lambda *x: interpret_closed(inner, x), **options)(*operands)


# ------------------------------------------------------------------ loops and branches

# The jets that a loop carries must have the same blocks in every round, and the branches of a
# conditional must agree: a pattern says which blocks a value has.

Kind = tuple[bool, tuple[tuple[int | None, Owners], ...]]
"""Of a block: whether it has a dense rest, and the axes and owners of its pieces."""

NOTHING: Kind = (False, ())
DENSE: Kind = (True, ())

Pattern = tuple[Kind, ...]


def pattern(x: Any, order: int) -> Pattern:
    """Which blocks are there, and of what parts."""
    found = []
    for block in stored_of(x, order):
        rest, pieces = parts(block)
        found.append((rest is not None, tuple((piece.axis, piece.owners) for piece in pieces)))
    return tuple(found)


def union(
    algebra: JetAlgebra, first: Sequence[Pattern], second: Sequence[Pattern]
) -> list[Pattern]:
    """What is there in either."""
    return [
        tuple(either(*kinds) for kinds in zip(algebra.sizes[1:], p, q, strict=True))
        for p, q in zip(first, second, strict=True)
    ]


def either(size: int, first: Kind, second: Kind) -> Kind:
    """The parts of two blocks; dense, where that stores no more."""
    pieces = tuple(dict.fromkeys((*first[1], *second[1])))
    if sum(owners.slots for _, owners in pieces) >= size:
        return DENSE
    return first[0] or second[0], pieces


def conform(algebra: JetAlgebra, x: Any, wanted: Pattern) -> Any:
    """The same value with exactly these blocks, of full shape, zeros where it has none."""
    if not any(kind != NOTHING for kind in wanted):
        return value(x)
    primal = jnp.asarray(value(x))
    blocks = [
        of_kind(kind, primal, size, whole(x, block))
        for kind, size, block in zip(
            wanted, algebra.sizes[1:], stored_of(x, algebra.order), strict=True
        )
    ]
    return Jet(algebra, 0, primal, blocks)


def of_kind(kind: Kind, primal: Any, size: int, block: Block) -> Block:
    """A block with exactly these parts."""
    has_rest, kinds = kind
    if kind == NOTHING:
        return None
    rest, pieces = parts(block)
    there = {
        (piece.axis, piece.owners): piece.block
        for piece in pieces
        if (piece.axis, piece.owners) in kinds
    }
    for piece in pieces:
        if (piece.axis, piece.owners) not in there:
            rows = rows_of(XP, size, piece)
            rest = rows if rest is None else rest + rows
    if has_rest or rest is not None:
        rest = like_value(primal, zeros(size, primal) if rest is None else rest)
    if not kinds:
        return rest
    made = [
        Piece(*key, like_value(primal, there.get(key, zeros(key[1].slots, primal))))
        for key in kinds
    ]
    return Structured(XP, size, primal.ndim + 1, rest, made)


def like_value(primal: Any, block: Any) -> Any:
    """A block of the type of the value: its dtype and, inside a shard_map, its varying axes."""
    block = block.astype(primal.dtype)
    missing = private.varying(primal) - private.varying(block)
    return private.made_varying(block, tuple(missing)) if missing else block


def conform_all(algebra: JetAlgebra, xs: Sequence[Any], wanted: Sequence[Pattern]) -> list[Any]:
    """`conform` for several values."""
    return [conform(algebra, x, p) for x, p in zip(xs, wanted, strict=True)]


def traced(
    order: int, function: Callable[..., Any], *operands: Any
) -> tuple[Callable[..., Any], Any]:
    """A function on jets, traced once: how to evaluate it, and the patterns of its results."""
    jaxpr, shapes = jax.make_jaxpr(lambda *x: function(*x), return_shape=True)(*operands)
    structure, evaluate = jax.tree.structure(shapes), jaxpr_as_fun(jaxpr)

    def again(*operands: Any) -> Any:
        return jax.tree.unflatten(structure, evaluate(*jax.tree.leaves(operands)))

    return again, jax.tree.map(
        lambda x: pattern(x, order), shapes, is_leaf=lambda x: isinstance(x, Jet)
    )


def scan(operation: Operation, operands: Sequence[Any]) -> Any:
    """lax.scan with jets among the constants, in the carry and along the scanned axis."""
    params, algebra = operation.params, algebra_of(operands)
    body: ClosedJaxpr = params["jaxpr"]
    first, count = private.lengths_of_scan(params)
    consts, init = operands[:first], operands[first : first + count]
    if not params["length"]:
        return [*init, *operation(*map(value, operands))[count:]]
    xs = [rows_behind(x) for x in operands[first + count :]]

    def step(carry: Sequence[Any], x: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        out = interpret_closed(body, [*consts, *carry, *x])
        return out[:count], out[count:]

    slices = jax.tree.map(lambda leaf: leaf[0], xs)
    carried, after = None, [pattern(x, algebra.order) for x in init]
    begun = recorded.lengths()
    while carried != after:  # until no value of the carry becomes a jet any more
        recorded.cut(begun)
        carried, start = after, conform_all(algebra, init, after)
        on_jets, (new, results) = traced(algebra.order, step, start, slices)
        after = union(algebra, carried, new)

    def conformed(carry: Sequence[Any], x: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        new, out = on_jets(carry, x)
        return conform_all(algebra, new, carried), conform_all(algebra, out, results)

    last, out = lax.scan(
        conformed,
        start,
        xs,
        params["length"],
        reverse=params["reverse"],
        unroll=params["unroll"],
    )
    return [*last, *map(rows_before, out)]


def while_loop(operation: Operation, operands: Sequence[Any]) -> Any:
    """lax.while_loop with jets among the constants and in the carry; values decide when to stop."""
    params, algebra = operation.params, algebra_of(operands)
    n, k = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
    asked, consts, init = map(list, (operands[:n], operands[n:k], operands[k:]))

    def body(carry: Sequence[Any]) -> list[Any]:
        return interpret_closed(params["body_jaxpr"], [*consts, *carry])

    def condition(carry: Sequence[Any]) -> Any:
        plain = [value(x) for x in (*asked, *carry)]
        return interpret_closed(params["cond_jaxpr"], plain)[0]

    carried, after = None, [pattern(x, algebra.order) for x in init]
    begun = recorded.lengths()
    while carried != after:
        recorded.cut(begun)
        carried, start = after, conform_all(algebra, init, after)
        on_jets, new = traced(algebra.order, body, start)
        after = union(algebra, carried, new)

    def conformed(carry: Sequence[Any]) -> list[Any]:
        return conform_all(algebra, on_jets(carry), carried)

    if not params["cond_jaxpr"].out_avals[0].shape:
        return lax.while_loop(condition, conformed, start)

    # Under vmap the condition has one answer per loop: those that have ended stand still.
    def those_that_run(carry: Sequence[Any]) -> list[Any]:
        on = condition(carry)
        return [chosen(on, x, old) for x, old in zip(conformed(carry), carry, strict=True)]

    return lax.while_loop(lambda carry: condition(carry).any(), those_that_run, start)


def chosen(on: Any, new: Any, old: Any) -> Any:
    """The new value where `on`, which has the first axes of the value, else the old one."""

    def of_arrays(first: int, new: Any, old: Any) -> Any:
        behind = jnp.ndim(new) - first - on.ndim
        return jnp.where(on.reshape((1,) * first + on.shape + (1,) * behind), new, old)

    if not isinstance(new, Jet):
        return of_arrays(0, new, old)
    blocks = jax.tree.map(partial(of_arrays, 1), new.stored, old.stored)
    return Jet(new.algebra, 0, of_arrays(0, new.primal, old.primal), blocks)


def conditional(operation: Operation, operands: Sequence[Any]) -> Any:
    """lax.cond and lax.switch: the branches on jets, with the blocks that any of them has."""
    index, *rest = operands
    algebra, branches = algebra_of(operands), operation.params["branches"]
    found = [traced(algebra.order, partial(_branch, b), *rest) for b in branches]
    wanted = reduce(partial(union, algebra), [patterns for _, patterns in found])

    def conformed(on_jets: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *x: conform_all(algebra, on_jets(*x), wanted)

    chosen = [conformed(on_jets) for on_jets, _ in found]
    platforms = operation.params.get("branches_platforms")
    if platforms is None:
        return lax.switch(value(index), chosen, *rest)
    # of lax.platform_dependent: one branch is compiled, None names the default
    named = {name: b for names, b in zip(platforms, chosen, strict=True) for name in names or ()}
    default = chosen[-1] if platforms[-1] is None else None
    return lax.platform_dependent(*rest, default=default, **named)


def _branch(branch: ClosedJaxpr, *operands: Any) -> list[Any]:
    return interpret_closed(branch, operands)


# ------------------------------------------------------------------ many devices


_MANUAL_AXES = ("newly_manual_axes", "manual_axes")  # as versions of JAX call them


def shard_map(operation: Operation, operands: Sequence[Any]) -> Any:
    """jax.shard_map of the function on jets: the rows of a block stay together."""
    params, algebra = operation.params, algebra_of(operands)
    inner = params["jaxpr"]
    specs_in, specs_out = params["in_specs"], params["out_specs"]
    P = jax.sharding.PartitionSpec
    varying = [is_inexact(v.aval) for v in inner.outvars]

    def spec(x: Any, of_value: Any) -> Any:
        return jax.tree.map(lambda _: P(None, *of_value), x)

    arrays, in_specs = [], []
    for x, of_value in zip(operands, specs_in, strict=True):
        blocks = expanded(x, algebra.order)
        arrays.append((value(x), blocks))
        in_specs.append((of_value, spec(blocks, of_value)))
    out_specs = [
        (of_value, [P(None, *of_value)] * algebra.order) if varies else (of_value, [])
        for of_value, varies in zip(specs_out, varying, strict=True)
    ]

    def on_shards(*pieces: Any) -> Any:
        found = interpret(inner, (), [jet(algebra, *piece) for piece in pieces])
        everything = (DENSE,) * algebra.order
        return [
            (value(x), list(conform(algebra, x, everything).blocks) if varies else [])
            for x, varies in zip(found, varying, strict=True)
        ]

    out = jax.shard_map(
        on_shards,
        mesh=params["mesh"],
        in_specs=tuple(in_specs),
        out_specs=out_specs,
        axis_names=set(next(params[k] for k in _MANUAL_AXES if k in params)),
        check_vma=params["check_vma"],
    )(*arrays)
    return [jet(algebra, y, blocks) if blocks else y for y, blocks in out]
