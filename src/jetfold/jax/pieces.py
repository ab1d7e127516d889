"""Values at many points, a few at a time: what lives at once then fits into a processor's caches.

An operator mapped over points is one large product after another, and carries the vectors of every
point through all of them. On a CPU that is slower than to take a few points through the whole
function, and then the next few: arrays beyond the caches come from memory, and there they are all
kept.

Whether that may be done is known late. `pieces_p` is a primitive, a program that stays as it is
until it is compiled; it is mapped by `vmap`, and the loop is written when XLA's program for a CPU
is. Whoever differentiates before that meets the program itself, for a loop would keep what its
gradients need of every turn; so does a program for another device, or for several.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Primitive, jaxpr_as_fun
from jax.interpreters import ad, batching, mlir
from jax.interpreters import partial_eval as pe

from . import private
from .held import still
from .rows import MixedError, of_few

Arrays = Sequence[Any]
Axes = tuple[int | None, ...]

CACHE = 2**19
"""Bytes of the largest array of a piece, per core: what lives beside it fits into caches too."""

WORTH = 8
"""How many pieces there must be at least."""


_AT_ONCE: ContextVar[bool] = ContextVar("at_once", default=False)


@contextmanager
def at_once() -> Iterator[None]:
    """Within it, what is traced is evaluated at all points at once: to compare, and to count.

    >>> import jax, jetfold as jf
    >>> from jetfold.jax.pieces import at_once
    >>> with at_once():
    ...     found = jax.jit(jax.vmap(jf.laplacian(lambda x: (x**2).sum())))(jax.numpy.ones((3, 2)))
    >>> found
    Array([4., 4., 4.], dtype=float32)
    """
    token = _AT_ONCE.set(True)
    try:
        yield
    finally:
        _AT_ONCE.reset(token)


@dataclass(frozen=True)
class Few:
    """A program for a few rows of points that share an axis.

    Attributes:
        program: of (some operands, the first row, the rows of the points).
        operands: which operands come first.
        points: where the operands begin that are points.
        size, few: how many rows there are, and how many at a time.
        axes: of each result, that of its rows; None if it is the same for all.
    """

    program: ClosedJaxpr
    operands: tuple[int, ...]
    points: int
    size: int
    few: int
    axes: Axes


@dataclass(frozen=True)
class Pieces:
    """How a program is taken apart.

    Attributes:
        point: the program for one point, or for all that share an axis.
        levels: per `vmap`, the first one first: which axes of the operands are mapped, and how
            many points there are.
        few: the program for a few of those that share an axis.
    """

    point: ClosedJaxpr
    levels: tuple[tuple[Axes, int], ...] = ()
    few: Few | None = None


# ------------------------------------------------------------------ whether


Propagate = Callable[[ClosedJaxpr, Any, int, Arrays], Any]
"""(function, first row, how many rows, points) -> a pytree of arrays."""


def evaluated(
    propagate: Propagate, f: ClosedJaxpr, points: Arrays, vectors: int, batch_dims: int
) -> Any:
    """propagate(f, 0, rows, points): in pieces where that is found to be worth it later.

    Args:
        f: the function that is propagated through, with what it reads from outside.
        vectors: how many are carried.
    """
    rows = points[0].shape[0] if batch_dims else 1
    mapped = max((private.mapped_axes(x)[0] for x in points), key=len)

    def whole(*points: Any) -> Any:
        return propagate(f, 0, rows, points)

    static = not _AT_ONCE.get() and _is_static([rows, *mapped])
    count = prod(mapped) if static else 0
    likely = count * vectors * _widest(f.jaxpr) >= WORTH * CACHE
    if count * rows == 1 or not (likely and _may(f, points)):
        return whole(*points)
    closed, shape = jax.make_jaxpr(whole, return_shape=True)(*points)
    small = count * _widest(closed.jaxpr) < WORTH * CACHE
    if small or closed.effects or not all(map(_is_array, closed.out_avals)):
        return jax.tree.unflatten(jax.tree.structure(shape), jaxpr_as_fun(closed)(*points))
    program, traced = _explicit(closed)
    few = _few_rows(propagate, f, closed, traced, points, rows) if batch_dims else None
    flat = pieces_p.bind(*traced, *points, jaxpr=program, pieces=Pieces(program, (), few))
    return jax.tree.unflatten(jax.tree.structure(shape), flat)


def _explicit(closed: ClosedJaxpr) -> tuple[ClosedJaxpr, list[Any]]:
    """A program with what is traced around it as its first operands, and these."""
    jaxpr = closed.jaxpr
    both = list(zip(jaxpr.constvars, closed.consts, strict=True))
    traced = [(v, x) for v, x in both if isinstance(x, jax.core.Tracer)]
    fixed = [(v, x) for v, x in both if not isinstance(x, jax.core.Tracer)]
    jaxpr = jaxpr.replace(
        constvars=[v for v, _ in fixed], invars=[*(v for v, _ in traced), *jaxpr.invars]
    )
    return ClosedJaxpr(jaxpr, [x for _, x in fixed]), [x for _, x in traced]


def _few_rows(
    propagate: Propagate,
    f: ClosedJaxpr,
    whole: ClosedJaxpr,
    traced: Arrays,
    points: Arrays,
    size: int,
) -> Few | None:
    """The program for a few rows; None if rows depend on others, or that is not known."""
    room, widest = CACHE * _cores(), _widest(whole.jaxpr)
    few = _few(size, room * size // widest)
    if widest < WORTH * room or few >= size:
        return None
    try:
        function = of_few(f, [0] * len(points), size)
    except MixedError:
        return None

    def of_rows(start: Any, *rows: Any) -> Any:
        of_points = jax.make_jaxpr(lambda *x: function(start, few, x))
        return propagate(of_points(*rows), start, few, rows)

    described = [jax.ShapeDtypeStruct((few, *x.shape[1:]), x.dtype) for x in points]
    program, operands = _explicit(jax.make_jaxpr(of_rows)(jnp.int32(0), *described))
    places = {id(x): k for k, x in enumerate(traced)}
    axes = [_axis(a, b) for a, b in zip(whole.out_avals, program.out_avals, strict=True)]
    moves = [k >= len(operands) for k in range(len(program.in_avals))]
    if -1 in axes or _repeats(program, moves) or not all(id(x) in places for x in operands):
        return None
    return Few(program, tuple(places[id(x)] for x in operands), len(traced), size, few, tuple(axes))


def _axis(whole: Any, few: Any) -> int | None:
    """The axis of the rows of a result, -1 if it cannot be told."""
    both = zip(whole.shape, few.shape, strict=True)
    axes = [k for k, (a, b) in enumerate(both) if a != b]
    return -1 if len(axes) > 1 else axes[0] if axes else None


def _may(f: ClosedJaxpr, points: Arrays) -> bool:
    """Whether a program of its own may be made of a function: it is compiled, on one device;
    nobody differentiates it already, and every point may be evaluated without the others."""
    arrays = [private.mapped_axes(x)[1] for x in (*f.consts, *points)]
    traced = [x for x in arrays if isinstance(x, jax.core.Tracer)]
    return (
        bool(traced)
        and all(isinstance(x, pe.DynamicJaxprTracer) for x in traced)
        and not f.effects  # what is printed, and axes that collectives name
        and jax.sharding.get_abstract_mesh().empty
        and not any(map(_together, _equations(f.jaxpr)))
    )


TOGETHER = frozenset({"custom_vmap_call", "rng_bit_generator", "rng_uniform", "shard_map"})
"""Primitives that do something of their own for a whole batch."""


def _together(equation: JaxprEqn) -> bool:
    """Whether what an equation gives for a point may depend on how many there are."""
    name, types = equation.primitive.name, [getattr(v.aval, "dtype", "") for v in equation.invars]
    return name in TOGETHER or (name[:7] == "random_" and any("rbg" in str(t) for t in types))


def _equations(jaxpr: Jaxpr) -> Iterator[JaxprEqn]:
    """All equations, and those inside of them."""
    for equation in jaxpr.eqns:
        yield equation
        yield from _inside(equation)


def _inside(equation: JaxprEqn) -> Iterator[JaxprEqn]:
    """The equations inside of one."""
    for value in equation.params.values():
        for found in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(found, (ClosedJaxpr, Jaxpr)):
                yield from _equations(getattr(found, "jaxpr", found))


def _is_array(described: Any) -> bool:
    """Whether a result is one of numbers, not of keys."""
    return not jax.dtypes.issubdtype(described.dtype, jax.dtypes.extended)


def _repeats(program: ClosedJaxpr, moves: Sequence[bool]) -> bool:
    """Whether every piece would compute again what is the same for all, and XLA leaves in a loop.

    Args:
        moves: which operands are different in every piece.
    """
    jaxpr = program.jaxpr
    moving = {v for v, moved in zip(jaxpr.invars, moves, strict=True) if moved}
    for equation in jaxpr.eqns:
        if any(not isinstance(v, Literal) and v in moving for v in equation.invars):
            moving.update(equation.outvars)
        elif any(e.primitive.name in STAYS for e in (equation, *_inside(equation))):
            return True
    return False


STAYS = frozenset(
    """
    cholesky cond eig eigh geqp3 geqrf hessenberg householder_product lu qr scan schur sort svd
    triangular_solve tridiagonal tridiagonal_solve while
    """.split()  # noqa: SIM905
)
"""Primitives that XLA does not take out of a loop."""


def _widest(jaxpr: Jaxpr) -> int:
    """The bytes of the largest array that is made."""
    return max((_bytes(v.aval) for e in _equations(jaxpr) for v in e.outvars), default=0)


def _bytes(described: Any) -> int:
    shape, dtype = getattr(described, "shape", ()), getattr(described, "dtype", None)
    return prod(shape) * getattr(dtype, "itemsize", 0) if _is_static(shape) else 0


def _is_static(shape: Sequence[Any]) -> bool:
    """Whether lengths are numbers, not the symbols of `jax.export`."""
    return all(isinstance(n, int) for n in shape)


# ------------------------------------------------------------------ the whole, and in pieces


def _mapping(
    levels: Sequence[tuple[Axes, int]], function: Callable[..., Any]
) -> Callable[..., Any]:
    """The function under some `vmap`s."""
    for axes, size in levels:
        function = jax.vmap(function, axes, axis_size=size)
    return function


def _in_pieces(pieces: Pieces, arrays: Arrays, results: Arrays) -> list[Any]:
    """The program for a CPU.

    Args:
        results: what describes them, by `shape` and `dtype`.
    """
    if not pieces.levels:
        return _in_rows(pieces, arrays, results)
    *inner, (axes, size) = pieces.levels
    of_one = _mapping(inner, jaxpr_as_fun(pieces.point))
    room = CACHE * _cores()
    widest = _widest(pieces.point.jaxpr) * prod(n for _, n in inner)
    few = _few(size, room // max(widest, 1))
    moves = [axis is not None for axis in axes]
    if size * widest < WORTH * room or _repeats(pieces.point, moves):
        return list(jax.vmap(of_one, axes, axis_size=size)(*arrays))

    def of_some(start: Any) -> list[Any]:
        rows = _taken(arrays, axes, start, few)
        if few > 1:
            return list(jax.vmap(of_one, axes, axis_size=few)(*rows))
        rows = [x if k is None else lax.squeeze(x, (k,)) for x, k in zip(rows, axes, strict=True)]
        shapes = [jax.ShapeDtypeStruct(x.shape[1:], x.dtype) for x in results]
        one = _in_pieces(replace(pieces, levels=tuple(inner)), rows, shapes)
        return [x[None] for x in one]

    return _looped(of_some, size, few, results, (0,) * len(results))


def _in_rows(pieces: Pieces, arrays: Arrays, results: Arrays) -> list[Any]:
    """The same of points that share an axis."""
    if (of := pieces.few) is None:
        return list(jaxpr_as_fun(pieces.point)(*arrays))
    fixed, points = [arrays[k] for k in of.operands], arrays[of.points :]

    def of_some(start: Any) -> list[Any]:
        rows = _taken(points, (0,) * len(points), start, of.few)
        return list(jaxpr_as_fun(of.program)(*fixed, start, *rows))

    return _looped(of_some, of.size, of.few, results, of.axes)


def _taken(arrays: Arrays, axes: Axes, start: Any, few: int) -> list[Any]:
    """Some rows of arrays."""
    return [
        x if axis is None else lax.dynamic_slice_in_dim(x, start, few, axis)
        for x, axis in zip(arrays, axes, strict=True)
    ]


def _looped(
    of_some: Callable[[Any], list[Any]], size: int, few: int, results: Arrays, axes: Axes
) -> list[Any]:
    """The results for all rows, from those for a few."""

    def further(k: Any, done: list[Any]) -> list[Any]:
        start = jnp.minimum(k * few, size - few)  # the last ones may be computed twice
        return [
            x if axis is None else lax.dynamic_update_slice_in_dim(whole, x, start, axis)
            for whole, x, axis in zip(done, of_some(start), axes, strict=True)
        ]

    empty = [jnp.zeros(x.shape, x.dtype) for x in results]
    found: list[Any] = lax.fori_loop(jnp.int32(0), jnp.int32(-(-size // few)), further, empty)
    return found


def _few(size: int, most: int) -> int:
    """How many of `size` points at a time: a divisor if there is a good one."""
    most = max(1, min(most, size))
    divisors = [k for k in range(max(most * 3 // 4, 1), most + 1) if size % k == 0]
    return max(divisors, default=-(-size // -(-size // most)))


def _cores() -> int:
    """How many cores a program of this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


# ------------------------------------------------------------------ the primitive


def _evaluated(*arrays: Any, jaxpr: ClosedJaxpr, **of: Pieces) -> list[Any]:
    return list(jaxpr_as_fun(jaxpr)(*arrays))


def _described(*arrays: Any, jaxpr: ClosedJaxpr, pieces: Pieces) -> list[Any]:
    return list(jaxpr.out_avals)


def _pushed(
    primals: Arrays, tangents: Arrays, *, jaxpr: ClosedJaxpr, pieces: Pieces
) -> tuple[list[Any], list[Any]]:
    """By the program as a whole."""
    places = [k for k, t in enumerate(tangents) if not isinstance(t, ad.Zero)]

    def of_places(*points: Any) -> list[Any]:
        filled = list(primals)
        for k, point in zip(places, points, strict=True):
            filled[k] = point
        return _evaluated(*filled, jaxpr=jaxpr, pieces=pieces)

    out, moved = jax.jvp(of_places, [primals[k] for k in places], [tangents[k] for k in places])
    whole = jax.dtypes.float0  # of integers
    return out, [still(y) if t.dtype == whole else t for y, t in zip(out, moved, strict=True)]


def _batched(
    axis: Any, arrays: Arrays, axes: Axes, *, jaxpr: ClosedJaxpr, pieces: Pieces
) -> tuple[list[Any], Axes]:
    if all(k is None for k in axes):
        found = pieces_p.bind(*arrays, jaxpr=jaxpr, pieces=pieces)
        return found, (None,) * len(found)
    named = {} if axis.spmd_name is None else {"spmd_axis_name": axis.spmd_name}
    mapped = jax.vmap(jaxpr_as_fun(jaxpr), tuple(axes), axis_size=axis.size, **named)
    if named or not _is_static([axis.size]):
        found = mapped(*arrays)
    else:
        whole = jax.make_jaxpr(mapped)(*arrays)
        pieces = replace(pieces, levels=(*pieces.levels, (tuple(axes), axis.size)))
        found = pieces_p.bind(*arrays, jaxpr=whole, pieces=pieces)
    return list(found), (0,) * len(found)


def _lowered_on_cpu(context: Any, *arrays: Any, jaxpr: ClosedJaxpr, pieces: Pieces) -> Any:
    if private.is_alone(context):
        return mlir.lower_fun(lambda *x: _in_pieces(pieces, x, jaxpr.out_avals))(context, *arrays)
    return mlir.lower_fun(jaxpr_as_fun(jaxpr))(context, *arrays)


pieces_p = Primitive("pieces")
pieces_p.multiple_results = True
pieces_p.def_impl(_evaluated)
pieces_p.def_abstract_eval(_described)
ad.primitive_jvps[pieces_p] = _pushed
batching.fancy_primitive_batchers[pieces_p] = _batched
mlir.register_lowering(pieces_p, mlir.lower_fun(_evaluated))
mlir.register_lowering(pieces_p, _lowered_on_cpu, platform="cpu")
