"""Primitives that hold other functions: calls, loops, branches, custom derivatives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, jaxpr_as_fun

from ..core.algebra import JetAlgebra
from ..core.jet import Jet
from ..warn import report
from .interpreter import Operation, interpret, interpret_closed
from .rules import (
    algebra_of,
    blocks_of,
    elementwise_by_tangents,
    expanded,
    general,
    is_inexact,
    jet,
    of_places,
    value,
    zeros,
)


def _flatten(x: Jet) -> tuple[tuple[Any, Any], tuple[JetAlgebra, int]]:
    return (x.primal, x.blocks), (x.algebra, x.level)


def _unflatten(static: tuple[JetAlgebra, int], children: Any) -> Jet:
    return Jet(*static, *children)


# A jet enters loops, branches and checkpoints as the pytree of its arrays.
jax.tree_util.register_pytree_node(Jet, _flatten, _unflatten)


def closed(jaxpr: Jaxpr | ClosedJaxpr) -> ClosedJaxpr:
    """A jaxpr with its constants, if it has any."""
    return jaxpr if isinstance(jaxpr, ClosedJaxpr) else ClosedJaxpr(jaxpr, ())


# ------------------------------------------------------------------ calls


def inlined(operation: Operation, operands: Sequence[Any]) -> Any:
    """The function's own equations, here (jit, closed_call, custom_vjp_call, custom_vmap_call)."""
    params = operation.params
    inner = next(params[k] for k in ("jaxpr", "call_jaxpr", "fun_jaxpr", "call") if k in params)
    return interpret_closed(closed(inner), operands)


def checkpointed(operation: Operation, operands: Sequence[Any]) -> Any:
    """jax.checkpoint of the function on jets."""
    params = operation.params
    inner = closed(params["jaxpr"])
    options = {k: params[k] for k in ("prevent_cse", "policy")}
    return jax.checkpoint(lambda *x: interpret_closed(inner, x), **options)(*operands)


# ------------------------------------------------------------------ custom derivatives


_NAMES = """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e cbrt ceil
    clamp convert_element_type copy cos cosh digamma div eq erf erf_inv erfc exp exp2 expm1 floor ge
    gt igamma igammac integer_pow is_finite le lgamma log log1p logistic lt max min mul ne neg
    nextafter not or polygamma pow regularized_incomplete_beta rem round rsqrt select_n sign sin
    sinh sqrt square stop_gradient sub tan tanh xor zeta
"""
ELEMENTWISE = frozenset(_NAMES.split())
"""Primitives that act on every entry alone."""


def is_elementwise(jaxpr: Jaxpr) -> bool:
    """Whether a function acts on every entry alone."""
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name in ELEMENTWISE:
            continue
        if name == "broadcast_in_dim" and not equation.invars[0].aval.shape:
            continue  # of a number
        inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
        if name not in ("jit", "pjit", "custom_jvp_call", "closed_call") or inner is None:
            return False
        if not is_elementwise(closed(inner).jaxpr):
            return False
    return True


def custom_jvp(operation: Operation, operands: Sequence[Any]) -> Any:
    """A function with a derivative rule of its own, which counts, at every order.

    Elementwise ones (relu, softplus, logaddexp) have their derivatives from nested `jax.jvp`.
    Some of JAX's others have such rules for speed and are the same function inside; all the rest
    goes through the general rule, which nests `jax.jvp` too.
    """
    inner: ClosedJaxpr = operation.params["call_jaxpr"]
    name, _, file = str(getattr(inner.jaxpr.debug_info, "func_src_info", "")).partition(" at ")
    ours = file.startswith(_OURS)
    if ours and name in SAME_INSIDE:
        return interpret_closed(inner, operands)
    shapes = {x.primal.shape for x in operands if isinstance(x, Jet)}
    if [*shapes] == [v.aval.shape for v in inner.jaxpr.outvars]:
        series = ours and "special.py" in file  # of every entry alone, though loops are inside
        mixing = not (is_elementwise(inner.jaxpr) and (ours or _mixes_nothing(operation, operands)))
        if series or not mixing:
            return [elementwise_by_tangents(lambda *x: operation(*x)[0], operands)]
    report(f"the custom_jvp function {name}")
    return general(operation, operands)


_OURS = (str(Path(jax.__file__).parent), str(Path(__file__).parent))

SAME_INSIDE = frozenset(
    {"_det", "_slogdet_lu", "_slogdet_qr", "_slogdet_small", "_softmax", "sum_by_halves"}
)
"""Functions of JAX, and ours, whose rule is the derivative of what they compute."""


def _mixes_nothing(operation: Operation, operands: Sequence[Any]) -> bool:
    """Whether the rule of a custom_jvp function, applied again and again, is elementwise too."""
    places = [k for k, x in enumerate(operands) if isinstance(x, Jet)]
    of_jets = of_places(operation, operands, places)

    def derivative(order: int, *points: Any) -> Any:
        if order:
            ones = tuple(jnp.ones_like(x) for x in points)
            return jax.jvp(partial(derivative, order - 1), points, ones)[1]
        return of_jets(*points)[0]

    highest = partial(derivative, algebra_of(operands).order)
    return is_elementwise(jax.make_jaxpr(highest)(*(operands[k].primal for k in places)).jaxpr)


def custom_linear_solve(operation: Operation, operands: Sequence[Any]) -> Any:
    """x with A x = b, degree by degree: A_0 x_m = b_m − (A x)_m, with x_m = 0 in A x."""
    lengths, jaxprs = operation.params["const_lengths"], operation.params["jaxprs"]
    counts = [lengths.matvec, lengths.vecmat, lengths.solve, lengths.transpose_solve]
    starts = [sum(counts[:k]) for k in range(5)]
    matrix = operands[starts[0] : starts[1]]
    right = operands[starts[4] :]
    algebra = algebra_of(operands)
    plain = [value(x) for x in operands[: starts[4]]]
    x0 = operation(*plain, *[value(b) for b in right])
    known: list[list[Any]] = [[] for _ in right]
    for m in range(algebra.order):
        empty = [None] * (algebra.order - m)
        guess = [jet(algebra, x, [*k, *empty]) for x, k in zip(x0, known, strict=True)]
        product = interpret_closed(jaxprs.matvec, [*matrix, *guess])
        rest = []
        for b, ax in zip(right, product, strict=True):
            b_m, ax_m = expanded(b, algebra.order)[m], expanded(ax, algebra.order)[m]
            if b_m is None and ax_m is not None:
                rest.append(-ax_m)
            else:
                rest.append(b_m if ax_m is None else b_m - ax_m)
        if all(r is None for r in rest):
            for k in known:
                k.append(None)
            continue
        size = algebra.sizes[m + 1]
        stacks = [zeros(size, b) if r is None else r for b, r in zip(right, rest, strict=True)]
        solved = jax.vmap(lambda *b: operation(*plain, *b))(*stacks)
        for k, block in zip(known, solved, strict=True):
            k.append(block)
    return [jet(algebra, x, k) for x, k in zip(x0, known, strict=True)]


# ------------------------------------------------------------------ loops and branches

# The jets that a loop carries must have the same blocks in every round, and the branches of a
# conditional must agree: a pattern says which blocks a value has.

Pattern = tuple[bool, ...]


def pattern(x: Any, order: int) -> Pattern:
    """Which blocks are there."""
    return tuple(b is not None for b in blocks_of(x, order))


def union(first: Sequence[Pattern], second: Sequence[Pattern]) -> list[Pattern]:
    """Which blocks are there in either."""
    return [
        tuple(a or b for a, b in zip(p, q, strict=True)) for p, q in zip(first, second, strict=True)
    ]


def conform(algebra: JetAlgebra, x: Any, wanted: Pattern) -> Any:
    """The same value with exactly these blocks, of full shape, zeros where it has none."""
    if not any(wanted):
        return value(x)
    primal = jnp.asarray(value(x))
    blocks = [
        None if not there else like_value(primal, zeros(size, x) if b is None else b)
        for there, b, size in zip(
            wanted, expanded(x, algebra.order), algebra.sizes[1:], strict=True
        )
    ]
    return Jet(algebra, 0, primal, blocks)


def like_value(primal: Any, block: Any) -> Any:
    """A block of the type of the value: its dtype and, inside a shard_map, its varying axes."""
    block = block.astype(primal.dtype)
    missing = _varying(primal) - _varying(block)
    if not missing:
        return block
    if hasattr(lax, "pcast"):
        return lax.pcast(block, tuple(missing), to="varying")
    return lax.pvary(block, tuple(missing))  # before JAX 0.9


def _varying(x: Any) -> frozenset[Any]:
    """The mesh axes along which an array differs from device to device."""
    described = jax.typeof(x)
    if hasattr(described, "manual_axis_type"):
        return described.manual_axis_type.varying
    return getattr(described, "vma", frozenset())  # before JAX 0.10


def conform_all(algebra: JetAlgebra, xs: Sequence[Any], wanted: Sequence[Pattern]) -> list[Any]:
    """`conform` for several values."""
    return [conform(algebra, x, p) for x, p in zip(xs, wanted, strict=True)]


def rows_behind(x: Any) -> Any:
    """A jet over a scanned axis, that axis before the rows of each block."""
    if not isinstance(x, Jet):
        return x
    blocks = [None if b is None else jnp.swapaxes(b, 0, 1) for b in expanded(x, x.algebra.order)]
    return Jet(x.algebra, 0, x.primal, blocks)


def rows_before(x: Any) -> Any:
    """The reverse."""
    if not isinstance(x, Jet):
        return x
    blocks = [None if b is None else jnp.swapaxes(b, 0, 1) for b in x.blocks]
    return Jet(x.algebra, 0, x.primal, blocks)


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
    first, count = params["num_consts"], params["num_carry"]
    consts, init = operands[:first], operands[first : first + count]
    if not params["length"]:
        return [*init, *operation(*map(value, operands))[count:]]
    xs = [rows_behind(x) for x in operands[first + count :]]

    def step(carry: Sequence[Any], x: Sequence[Any]) -> tuple[list[Any], list[Any]]:
        out = interpret_closed(body, [*consts, *carry, *x])
        return out[:count], out[count:]

    slices = jax.tree.map(lambda leaf: leaf[0], xs)
    carried, after = None, [pattern(x, algebra.order) for x in init]
    while carried != after:  # until no value of the carry becomes a jet any more
        carried, start = after, conform_all(algebra, init, after)
        on_jets, (new, results) = traced(algebra.order, step, start, slices)
        after = union(carried, new)

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
    while carried != after:
        carried, start = after, conform_all(algebra, init, after)
        on_jets, new = traced(algebra.order, body, start)
        after = union(carried, new)

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
    blocks = jax.tree.map(partial(of_arrays, 1), new.blocks, old.blocks)
    return Jet(new.algebra, 0, of_arrays(0, new.primal, old.primal), blocks)


def conditional(operation: Operation, operands: Sequence[Any]) -> Any:
    """lax.cond and lax.switch: the branches on jets, with the blocks that any of them has."""
    index, *rest = operands
    algebra, branches = algebra_of(operands), operation.params["branches"]
    found = [traced(algebra.order, partial(_branch, b), *rest) for b in branches]
    wanted = reduce(union, [patterns for _, patterns in found])

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
        everything = (True,) * algebra.order
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
