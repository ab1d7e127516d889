"""What the gradient of an operation keeps: its operands, and nothing that is made of them.

`ruled` is a function of arrays with a differential of its own. `held` is a function linear in some
of its operands, whose transpose keeps the others as they are, and makes what it needs of them when
the cotangents are there, not before. All transformations of JAX go through both: forward mode,
reverse mode, each over the other, vmap.

"Not before" has to be told to a compiler: XLA's scheduler for the CPU begins with whatever can
begin, so that what is made again would lie in memory since the forward pass, and it drops barriers
before it schedules. There the residuals are made to depend on the cotangents, by a choice that
always falls on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from operator import and_
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Literal, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir

from . import loops
from .halves import sum_of_rows

Evaluate = Callable[[ClosedJaxpr, Sequence[Any]], list[Any]]
"""(program, its operands) -> its results."""

Arrays = Sequence[Any]

Tangent = Callable[[list[Any], list[Any]], list[Any]]
"""(operands, tangents) -> the tangents of the results; None is zero."""

Axes = Sequence[int | None]

Mapped = Callable[[Arrays, Axes], tuple[list[Any], Axes] | None]
"""(operands, their mapped axes) -> results and their axes, or None: the equations are mapped."""


# ------------------------------------------------------------------ linear, with residuals


def held(
    function: Callable[..., list[Any]], late: Arrays, residuals: Arrays, operands: Arrays
) -> list[Any]:
    """function(*late, *residuals, *operands), linear in the operands together.

    Args:
        late: residuals of which the transpose makes things only when it has to.
    """
    closed = jax.make_jaxpr(function)(*late, *residuals, *operands)
    return _bound(closed, late, residuals, operands)


def _bound(
    jaxpr: ClosedJaxpr, late: Arrays, residuals: Arrays, operands: Arrays, tokens: Arrays = ()
) -> list[Any]:
    found: list[Any] = held_p.bind(
        *late,
        *residuals,
        *operands,
        *tokens,
        jaxpr=jaxpr,
        late=len(late),
        residuals=len(residuals),
        tokens=len(tokens),
    )
    return found


class _Operands:
    """Those of the primitive: two kinds of residuals, linear ones, and what is waited for."""

    def __init__(self, arrays: Arrays, late: int, residuals: int, tokens: int) -> None:
        arrays = list(arrays)
        first, last = late + residuals, len(arrays) - tokens
        self.late, self.residuals = arrays[:late], arrays[late:first]
        self.linear, self.tokens = arrays[first:last], arrays[last:]
        self.before = arrays[:first]


def _evaluated(*arrays: Any, jaxpr: ClosedJaxpr, **kinds: int) -> list[Any]:
    return _of_equations(jaxpr, arrays[: len(jaxpr.in_avals)])


def _of_equations(jaxpr: ClosedJaxpr, arrays: Arrays) -> list[Any]:
    return list(jaxpr_as_fun(jaxpr)(*arrays))


def _described(*arrays: Any, jaxpr: ClosedJaxpr, **kinds: int) -> list[Any]:
    return list(jaxpr.out_avals)


def _lowered(
    *arrays: Any, after: Callable[..., Arrays], evaluate: Evaluate, jaxpr: ClosedJaxpr, **kinds: int
) -> list[Any]:
    x = _Operands(arrays, **kinds)
    late: Arrays = x.late
    linear: Arrays = x.linear
    if x.tokens and late:
        late = after(late, x.tokens)
    elif x.tokens:
        linear = after(linear, x.tokens)
    return evaluate(jaxpr, [*late, *x.residuals, *linear])


def _lowered_on_cpu(context: Any, *arrays: Any, jaxpr: ClosedJaxpr, **kinds: int) -> Any:
    evaluate = partial(loops.evaluated, context=context)
    function = partial(_lowered, after=_after_on_cpu, evaluate=evaluate, jaxpr=jaxpr, **kinds)
    return mlir.lower_fun(function)(context, *arrays)


def _after_on_cpu(arrays: Arrays, tokens: Arrays) -> Arrays:
    """Arrays that depend on a number of every token, by a choice that always falls on them.

    The numbers are sorted, because XLA would compute them in every kernel that chooses.
    """
    numbers = [
        lax.slice(x, (0,) * x.ndim, (1,) * x.ndim).reshape((1,)).real.astype(jnp.float32)
        for x in tokens
        if x.size
    ]
    if not numbers:
        return arrays
    number = lax.sort(jnp.concatenate([*numbers, *numbers]))[0]
    never = jnp.isfinite(number) & (number != number)
    return [lax.select(jnp.broadcast_to(never, x.shape), jnp.zeros_like(x), x) for x in arrays]


def _after(late: Arrays, tokens: Arrays) -> Arrays:
    """Residuals behind a barrier."""
    behind: Arrays = lax.optimization_barrier((tuple(late), tuple(tokens)))[0]
    return behind


def _pushed(
    primals: Arrays, tangents: Arrays, *, jaxpr: ClosedJaxpr, **kinds: int
) -> tuple[list[Any], list[Any]]:
    """By the operands it is itself, by the residuals what JAX makes of the equations."""
    x, dx = _Operands(primals, **kinds), _Operands(tangents, **kinds)
    terms: list[list[Any]] = []
    if _some(dx.linear):
        moved = list(map(ad.instantiate_zeros, dx.linear))
        terms.append(_bound(jaxpr, x.late, x.residuals, moved, x.tokens))
    if _some(dx.before):

        def of_residuals(*before: Any) -> list[Any]:
            return _evaluated(*before, *x.linear, jaxpr=jaxpr)

        moved = list(map(ad.instantiate_zeros, dx.before))
        terms.append(jax.jvp(of_residuals, tuple(x.before), tuple(moved))[1])
    out = held_p.bind(*primals, jaxpr=jaxpr, **kinds)
    if not terms:  # tangents of tokens alone
        return out, list(map(still, out))
    return out, [sum(of[1:], of[0]) for of in zip(*terms, strict=True)]


def _transposed(cotangents: Arrays, *arrays: Any, jaxpr: ClosedJaxpr, **kinds: int) -> list[Any]:
    """Held too: first what needs no late residuals, then, waiting for it, the rest."""
    x = _Operands(arrays, **kinds)
    given = [k for k, ct in enumerate(cotangents) if not isinstance(ct, ad.Zero)]
    reached = _before(jaxpr, [jaxpr.jaxpr.outvars[k] for k in given])
    n = len(x.before)
    places = [k for k, y in enumerate(x.linear) if ad.is_undefined_primal(y) and reached[n + k]]
    shapes = [y.aval if ad.is_undefined_primal(y) else jax.typeof(y) for y in x.linear]

    def transpose(*both: Any) -> list[Any]:
        def of_places(*operands: Any) -> list[Any]:
            filled = list(map(_zeros, shapes))
            for k, y in zip(places, operands, strict=True):
                filled[k] = y
            out = _evaluated(*both[:n], *filled, jaxpr=jaxpr)
            return [out[k] for k in given]

        like = [_zeros(shapes[k]) for k in places]
        return list(jax.vjp(of_places, *like)[1](list(both[n:])))

    out: list[Any] = [ad.Zero(y.aval) if ad.is_undefined_primal(y) else None for y in arrays]
    if not places:
        return out
    cts = [cotangents[k] for k in given]
    found = _scheduled(transpose, x.late, x.residuals, cts)
    for k, ct in zip(places, found, strict=True):
        out[n + k] = ct
    return out


def _scheduled(
    transpose: Callable[..., list[Any]], late: Arrays, residuals: Arrays, cts: Arrays
) -> list[Any]:
    """transpose(*late, *residuals, *cts), in one step or two."""
    whole = jax.make_jaxpr(transpose)(*late, *residuals, *cts)
    waits = [any(_before(whole, [v])[: len(late)]) for v in whole.jaxpr.outvars]
    first: list[Any] = []
    if not all(waits):
        first = _bound(_of_results(whole, [not w for w in waits]), late, residuals, cts)
    last: list[Any] = []
    if any(waits):
        last = _bound(_of_results(whole, waits), late, residuals, cts, first or cts)
    if first and last:  # who uses the first results waits for the last ones
        k = min(range(len(first)), key=lambda k: first[k].size)
        same = jax.make_jaxpr(lambda x: [x])(first[k])
        (first[k],) = _bound(same, [], [], [first[k]], last)
    early, rest = iter(first), iter(last)
    return [next(rest if w else early) for w in waits]


def _of_results(closed: ClosedJaxpr, wanted: Sequence[bool]) -> ClosedJaxpr:
    """What some of the results need."""
    if all(wanted):
        return closed
    chosen = [v for v, w in zip(closed.jaxpr.outvars, wanted, strict=True) if w]
    return loops.of_variables(closed, chosen)


def _before(closed: ClosedJaxpr, results: Sequence[Any]) -> list[bool]:
    """Which operands some results depend on."""
    needed = {v for v in results if not isinstance(v, Literal)}
    for equation in reversed(closed.jaxpr.eqns):
        if not needed.isdisjoint(equation.outvars):
            needed.update(v for v in equation.invars if not isinstance(v, Literal))
    return [v in needed for v in closed.jaxpr.invars]


def _batched(
    arrays: Arrays, axes: Sequence[int | None], *, jaxpr: ClosedJaxpr, **kinds: int
) -> tuple[list[Any], list[Any]]:
    n = len(jaxpr.in_avals)
    if all(axis is None for axis in axes[:n]):
        out = held_p.bind(*arrays, jaxpr=jaxpr, **kinds)
        return out, [None] * len(out)
    mapped = jax.make_jaxpr(jax.vmap(jaxpr_as_fun(jaxpr), tuple(axes[:n])))(*arrays[:n])
    out = held_p.bind(*arrays, jaxpr=mapped, **kinds)
    return out, [0] * len(out)


def _zeros(described: Any) -> Any:
    return ad.instantiate_zeros(ad.Zero(described))


def still(x: Any) -> Any:
    """The tangent of an array that does not move."""
    return ad.Zero(jax.typeof(x).to_tangent_aval())


def _some(tangents: Arrays) -> bool:
    return any(not isinstance(t, ad.Zero) for t in tangents)


held_p = Primitive("held")
held_p.multiple_results = True
held_p.def_impl(_evaluated)
held_p.def_abstract_eval(_described)
ad.primitive_jvps[held_p] = _pushed
ad.primitive_transposes[held_p] = _transposed
batching.primitive_batchers[held_p] = _batched
mlir.register_lowering(
    held_p, mlir.lower_fun(partial(_lowered, after=_after, evaluate=_of_equations))
)
mlir.register_lowering(held_p, _lowered_on_cpu, platform="cpu")


# ------------------------------------------------------------------ with a differential of its own


def ruled(
    program: ClosedJaxpr,
    tangent: Tangent,
    operands: Arrays,
    mapped: Mapped | None,
    axes: Sequence[int],
) -> list[Any]:
    """The results of a program, of which `tangent` is the differential.

    Args:
        mapped: the program under vmap, where that is known better than by mapping its equations.
        axes: where the mapped axis stands in each result.
    """
    found: list[Any] = ruled_p.bind(
        *operands, jaxpr=program, tangent=tangent, mapped=mapped, axes=tuple(axes)
    )
    return found


def _ruled_pushed(
    primals: Arrays, tangents: Arrays, *, tangent: Tangent, **params: Any
) -> tuple[list[Any], list[Any]]:
    out = ruled_p.bind(*primals, tangent=tangent, **params)
    pushed = tangent(list(primals), [None if isinstance(t, ad.Zero) else t for t in tangents])
    return out, [still(y) if t is None else t for y, t in zip(out, pushed, strict=True)]


def _ruled_batched(
    arrays: Arrays,
    places: Axes,
    *,
    jaxpr: ClosedJaxpr,
    tangent: Tangent,
    mapped: Mapped | None,
    axes: Sequence[int],
) -> tuple[list[Any], Axes]:
    known = None if mapped is None else mapped(arrays, places)
    if known is not None:
        return known
    found = [
        axis if moves else None for axis, moves in zip(axes, _moves(jaxpr, places), strict=True)
    ]

    def of_rows(operands: list[Any], tangents: list[Any]) -> list[Any]:
        of_tangents = [None if t is None else k for t, k in zip(tangents, places, strict=True)]
        out = jax.vmap(tangent, (list(places), of_tangents), list(axes))(operands, tangents)
        # Tangents of what is the same for all rows are that too.
        return [
            t if t is None or there is not None else lax.index_in_dim(t, 0, axis, keepdims=False)
            for t, there, axis in zip(out, found, axes, strict=True)
        ]

    program = jax.make_jaxpr(jax.vmap(jaxpr_as_fun(jaxpr), tuple(places), found))(*arrays)
    return ruled(program, of_rows, arrays, None, axes), found


def _ruled_lowered_on_cpu(context: Any, *arrays: Any, jaxpr: ClosedJaxpr, **params: Any) -> Any:
    function = partial(loops.evaluated, jaxpr, context=context)
    return mlir.lower_fun(lambda *x: function(x))(context, *arrays)


def _moves(jaxpr: ClosedJaxpr, axes: Axes) -> list[bool]:
    """Which results depend on a mapped operand."""
    mapped = [axis is not None for axis in axes]
    return [any(map(and_, _before(jaxpr, [v]), mapped)) for v in jaxpr.jaxpr.outvars]


ruled_p = Primitive("ruled")
ruled_p.multiple_results = True
ruled_p.def_impl(_evaluated)
ruled_p.def_abstract_eval(_described)
ad.primitive_jvps[ruled_p] = _ruled_pushed
batching.primitive_batchers[ruled_p] = _ruled_batched
mlir.register_lowering(ruled_p, mlir.lower_fun(_evaluated))
mlir.register_lowering(ruled_p, _ruled_lowered_on_cpu, platform="cpu")


# ------------------------------------------------------------------ the transpose of a sum of rows


def repeated(x: Any, axis: int, count: int) -> Any:
    """An axis of length one repeated; the transpose is `halves.sum_of_rows`."""
    return x if count == 1 else repeated_p.bind(x, axis=axis, count=count)


def _repeated(x: Any, *, axis: int, count: int) -> Any:
    return jnp.broadcast_to(x, (*x.shape[:axis], count, *x.shape[axis + 1 :]))


def _repeated_type(x: Any, **options: int) -> Any:
    (described,) = jax.make_jaxpr(partial(_repeated, **options))(x).out_avals
    return described


def _summed(cotangent: Any, x: Any, *, axis: int, count: int) -> list[Any]:
    if isinstance(cotangent, ad.Zero):
        return [ad.Zero(x.aval)]
    return [jnp.expand_dims(sum_of_rows(cotangent, axis), axis)]


def _repeated_batched(
    operands: Sequence[Any], axes: Sequence[int], *, axis: int, count: int
) -> tuple[Any, int]:
    return repeated(jnp.moveaxis(operands[0], axes[0], 0), axis + 1, count), 0


repeated_p = Primitive("repeated")
repeated_p.def_impl(jax.jit(_repeated, static_argnames=("axis", "count")))
repeated_p.def_abstract_eval(_repeated_type)
ad.deflinear2(repeated_p, _summed)
batching.primitive_batchers[repeated_p] = _repeated_batched
mlir.register_lowering(repeated_p, mlir.lower_fun(_repeated, multiple_results=False))
