"""Programs as lines on entries: exactly the numbers of the program itself, or none."""

from __future__ import annotations

import math
from typing import NamedTuple

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

import jetfold as jf
from jetfold.core.algebra import jet_algebra
from jetfold.core.jet import Elementwise, product
from jetfold.jax import arrays as XP
from jetfold.jax import loops
from jetfold.jax.entries import EQUATIONS, MOST_FACTORS, MOST_NUMBERS, loop_of
from jetfold.jax.halves import sum_of_rows
from jetfold.jax.held import held, repeated

OPERATIONS = {"+": np.add, "-": np.subtract, "*": np.multiply, "/": np.divide}


def program_of(function, arrays):
    """The jaxpr of a function of arrays, in which nothing is called."""
    made = jax.make_jaxpr(function)(*arrays)
    return jax.make_jaxpr(lambda *x: loops._inlined(made, x))(*arrays)


def is_operand(program, k):
    """Whether a result is an operand, or a number."""
    v = program.jaxpr.outvars[k]
    return isinstance(v, Literal) or v in program.jaxpr.invars


def size_of(program, rank):
    """The lengths of the axes of entries."""
    shapes = [x.shape for x in program.in_avals]
    return np.broadcast_shapes(*(x[len(x) - rank :] if x else () for x in shapes))


def numbers_of(loop, program, arrays):
    """(results of a loop, what the program itself has for them), its further reads from XLA."""
    jaxpr = program.jaxpr
    further = [x.variable for x in loop.reads if x.variable not in jaxpr.invars]
    whole = ClosedJaxpr(jaxpr.replace(outvars=[*jaxpr.outvars, *further]), program.consts)
    out = list(map(np.asarray, jax.jit(jaxpr_as_fun(whole))(*arrays)))
    expected, others = out[: len(jaxpr.outvars)], out[len(jaxpr.outvars) :]
    found = dict(zip(jaxpr.invars, map(np.asarray, arrays), strict=True))
    found.update(zip(further, others, strict=True))
    size = size_of(program, loop.rank)
    known = {}
    for read in loop.reads:
        array, inner = found[read.variable], size[loop.rank - read.inner :]
        ones = (1,) * (loop.rank - read.inner)
        count = len(read.names)
        assert array.shape in ((), (*ones, *inner), (count, *ones, *inner))
        known.update(zip(read.names, array.reshape(count, *inner), strict=True))

    def of(x):
        return known[x] if isinstance(x, str) else np.float64(x)

    for name, operation, a, b in loop.lines:
        assert name not in known
        known[name] = OPERATIONS[operation](of(a), of(b))
    made = []
    for k, write in zip(loop.results, loop.writes, strict=True):
        shape = expected[k].shape
        assert shape in (size, (len(write), *size))
        assert len(write) == math.prod(shape[: len(shape) - loop.rank])
        rows = [np.broadcast_to(of(x), size) for x in write]
        made.append(np.stack(rows).reshape(shape) if rows else np.zeros(shape))
    return made, [expected[k] for k in loop.results]


def is_tidy(loop, program):
    """Numbers that C can write, no line twice, none in vain, no result that is there already."""
    numbers = [x for write in loop.writes for x in write]
    numbers += [x for _, _, a, b in loop.lines for x in (a, b)]
    finite = all(isinstance(x, str) or (isinstance(x, float) and np.isfinite(x)) for x in numbers)
    operations = [line[1:] for line in loop.lines]
    variables = [read.variable for read in loop.reads]
    results = loop.results
    return (
        finite
        and len(set(operations)) == len(operations)
        and {line[0] for line in loop.lines} <= set(numbers)
        and all(not set(numbers).isdisjoint(read.names) for read in loop.reads)
        and len(set(variables)) == len(variables)
        and results == sorted(set(results))
        and not any(is_operand(program, k) for k in results)
    )


def loop_for(function, *arrays, sizes=None):
    """The loop, which is right; None where there is none.

    Args:
        sizes: per result what no number on the way to it is larger than.
    """
    program = program_of(function, arrays)
    loop = loop_of(program)
    if loop is not None:
        assert is_tidy(loop, program)
        made, expected = numbers_of(loop, program, arrays)
        for k, x, y in zip(loop.results, made, expected, strict=True):
            # A difference of numbers that are nearly the same is as exact as they are.
            atol = 1e-13 * (np.abs(y).max(initial=1.0) if sizes is None else sizes[k])
            np.testing.assert_allclose(x, y, rtol=1e-12, atol=atol)
    return loop


def made_of_operands(loop, function, *arrays):
    """Whether a loop writes all results, and reads nothing that XLA has to make."""
    program = program_of(function, arrays)
    shapes = {x.aval.shape for x in (read.variable for read in loop.reads)}
    everything = list(range(len(program.out_avals)))
    return loop.results == everything and shapes <= {x.shape for x in program.in_avals}


def row_of(x, k):
    """Without a gather, which x[k] is in some versions of JAX."""
    return lax.index_in_dim(x, k, 0, keepdims=False)


def rows_of(x, first, last, stride=1):
    return lax.slice_in_dim(x, first, min(last, x.shape[0]), stride, axis=0)


def drawn(rng, *shape):
    """Numbers that are not small, of both signs."""
    return jnp.asarray(rng.uniform(0.5, 1.5, shape) * rng.choice([-1.0, 1.0], shape))


# ------------------------------------------------------------------ random programs


class Item(NamedTuple):
    """An array, and what none of the numbers on the way to it is larger than."""

    array: jax.Array
    size: float


LARGEST = 1e4


class Pool:
    """Arrays of the shapes that loops read: numbers, values and blocks.

    Attributes:
        shape: that of the values, the first of whose axes may be of length one.
    """

    def __init__(self, shape, arrays):
        self.shape, self.rank = shape, len(shape)
        self.items = [Item(x, 1.5) for x in arrays]

    def any(self, rng, fits=lambda x: True):
        """One of those that fit, often one of the last."""
        fitting = [x for x in self.items if fits(x.array)]
        return fitting[-min(int(rng.geometric(0.25)), len(fitting))]

    def of_rank(self, rng, more):
        """A value, or a block."""
        return self.any(rng, lambda x: x.ndim == self.rank + more)

    def value(self, rng):
        return self.of_rank(rng, 0)

    def block(self, rng):
        return self.of_rank(rng, 1)

    def full(self, item):
        """Repeated along all axes of entries."""
        x, rank = item.array, self.rank
        return Item(
            jnp.broadcast_to(x, (*x.shape[: max(x.ndim - rank, 0)], *self.shape)), item.size
        )

    def pair(self, rng):
        """Two that can be added, of which the second has no more rows."""
        a = self.any(rng)

        def fits(b):
            rows = b.shape[: b.ndim - self.rank] if b.ndim else ()
            return not rows or rows == (1,) or rows == a.array.shape[: a.array.ndim - self.rank]

        return a, self.any(rng, fits)

    def values(self, rng, count):
        """Values of the same shape."""
        return [self.full(self.value(rng)) for _ in range(count)]

    def fits(self, x):
        """Whether it is the shape of a value or a block."""
        entries, more = x.shape[max(x.ndim - self.rank, 0) :], x.ndim - self.rank
        first = next((k for k, n in enumerate(entries) if n != 1), self.rank)
        return more in (0, 1) and entries[first:] == self.shape[first:]


def binary(operation, size):
    def step(pool, rng):
        a, b = pool.pair(rng)
        return Item(operation(a.array, b.array), size(a.size, b.size))

    return step


def unary(operation, size=lambda n: n):
    def step(pool, rng):
        x = pool.any(rng)
        return Item(operation(x.array), size(x.size))

    return step


def of_value(operation):
    """A function that is no arithmetic: of a value alone."""

    def step(pool, rng):
        x = pool.value(rng)
        return Item(operation(x.array), max(x.size, 1.0))

    return step


def of_block(operation, size=lambda n, rows: n):
    """operation(block, rng)"""

    def step(pool, rng):
        x = pool.block(rng)
        return Item(operation(x.array, rng), size(x.size, x.array.shape[0]))

    return step


def quotient(a, b):
    return a / (1 + b * b)


def powers(pool, rng):
    x = pool.any(rng)
    n = int(rng.integers(0, 6))
    if n % 2:
        return Item(lax.integer_pow(x.array, n), x.size**n)
    return Item(lax.integer_pow(1 + x.array * x.array, -n), (1 + x.size**2) ** 2)


def by_number(pool, rng):
    x, c = pool.any(rng), float(rng.choice([-1.0, 0.5, 2.0, 3.25]))
    kind = rng.integers(4)
    return Item([x.array * c, c + x.array, c - x.array, x.array / c][kind], 2 * x.size + 4)


def by_constants(pool, rng):
    """The product with numbers per row."""
    x = pool.any(rng, lambda x: x.ndim >= pool.rank)
    rows = x.array.shape[0] if x.array.ndim > pool.rank else int(rng.integers(1, 5))
    numbers = rng.choice([-1.0, 0.5, 1.0, 2.0], (rows, *(1,) * pool.rank))
    if rng.integers(2):
        return Item(x.array * numbers, 2 * x.size)
    return Item(x.array + jnp.asarray(numbers), x.size + 2)


def some_rows(x, rng):
    first = int(rng.integers(x.shape[0]))
    return rows_of(x, first, int(rng.integers(first, x.shape[0])) + 1, int(rng.integers(1, 3)))


def part_of_rows(x, rng):
    first = int(rng.integers(x.shape[0]))
    sizes = [n for n in (first, x.shape[0] - first) if n]
    return lax.split(x, sizes, axis=0)[rng.integers(len(sizes))]


def one_row(x, rng):
    k = int(rng.integers(x.shape[0]))
    if hasattr(jnp, "unstack") and rng.integers(2):
        return jnp.unstack(x)[k]
    return row_of(x, k)


def stacked(pool, rng):
    """Values as rows, by a first axis or by a last one."""
    several = pool.values(rng, int(rng.integers(1, 4)))
    arrays, size = [x.array for x in several], sum(x.size for x in several)
    kind = rng.integers(3)
    if kind == 0:
        return Item(jnp.stack(arrays), size)
    if kind == 1:
        return Item(jnp.moveaxis(jnp.stack(arrays, -1), -1, 0), size)
    return Item(jnp.stack(arrays, -1).sum(-1), size)


def joined(pool, rng):
    several = [pool.full(pool.block(rng)) for _ in range(int(rng.integers(1, 3)))]
    several.append(Item(pool.full(pool.value(rng)).array[None], LARGEST**0.5))
    several = [several[k] for k in rng.permutation(len(several))]
    arrays = [x.array for x in several]
    return Item(rows_of(jnp.concatenate(arrays), 0, 5), sum(x.size for x in several))


def padded(x, rng):
    low, high, inside = map(int, rng.integers(0, 2, 3))
    none = ((0, 0, 0),) * (x.ndim - 1)
    return rows_of(lax.pad(x, jnp.zeros((), x.dtype), ((low, high, inside), *none)), 0, 5)


def summed(x, rng):
    return [
        lambda: jnp.sum(x, 0),
        lambda: sum_of_rows(x),
        lambda: jnp.sum(x, 0, keepdims=True),
        lambda: sum_of_rows(jnp.moveaxis(x, 0, -1), x.ndim - 1),
        lambda: jnp.sum(x[:, None] * x[None], (0, 1)) / x.shape[0] ** 2,
    ][rng.integers(5)]()


def spread(pool, rng):
    """Repeated along rows, or along the first axes of entries."""
    n = int(rng.integers(1, 5))
    x = pool.value(rng)
    return [
        lambda: Item(jnp.broadcast_to(x.array, (n, *x.array.shape)), x.size),
        lambda: Item(jnp.broadcast_to(x.array[None], (n, *pool.shape)), x.size),
        lambda: Item(repeated(x.array[None], 0, n), x.size),
        lambda: pool.full(x),
        lambda: pool.full(pool.any(rng)),
    ][rng.integers(5)]()


def repeated_entries(pool, rng):
    """A block or a value that is the same along the first axes of entries, repeated."""
    x = pool.any(rng, lambda x: x.ndim >= pool.rank)
    array = x.array
    for k in range(pool.rank):
        axis = array.ndim - pool.rank + k
        if array.shape[axis] == 1:
            array = repeated(array, axis, pool.shape[k])
    return Item(array, x.size)


def moved(pool, rng):
    """Axes at other places, where something is done, and back."""
    x = pool.any(rng, lambda x: x.ndim >= pool.rank)
    order = rng.permutation(x.array.ndim)
    there = jnp.transpose(x.array, order)
    return Item(jnp.transpose(2 * there + there, np.argsort(order)), 3 * x.size)


def with_ones(pool, rng):
    """Axes of length one come and go."""
    x = pool.any(rng, lambda x: x.ndim >= pool.rank)
    array = x.array
    kind = rng.integers(4)
    if kind == 0:
        axis = int(rng.integers(array.ndim + 1))
        return Item(jnp.squeeze(3 * jnp.expand_dims(array, axis), axis), 3 * x.size)
    if kind == 1:
        wide = lax.reshape(array, (1, *array.shape, 1))
        return Item(lax.reshape(wide * wide, array.shape), x.size**2)
    if kind == 2 and array.ndim > pool.rank:
        narrow = array.reshape(tuple(n for n in array.shape if n > 1))
        return Item((narrow + narrow).reshape(array.shape), 2 * x.size)
    return Item(array[None] if array.ndim == pool.rank else rows_of(array, 0, 1), x.size)


def chosen(pool, rng):
    a, b, c = pool.values(rng, 3)
    return Item(jnp.where(a.array > 0, b.array, c.array), max(b.size, c.size))


def called(pool, rng):
    a, b = pool.pair(rng)
    inner = jax.jit(lambda a, b: a * b - b)
    return Item(
        jax.jit(lambda a, b: inner(a, b) + 2 * a)(a.array, b.array), (a.size + 1) * (b.size + 2)
    )


def gradients(pool, rng):
    """The pullback of a product by a value."""
    a, b = pool.full(pool.block(rng)), pool.full(pool.value(rng))
    out, pull = jax.vjp(lambda a, b: a * b + a, a.array, b.array)
    return Item(pull(out)[rng.integers(2)], 5 * (2 + a.size) ** 2 * (2 + b.size) ** 2)


def held_product(pool, rng):
    a, b = pool.pair(rng)
    (out,) = held(lambda a, b: [a * b], [], [a.array], [b.array])
    return Item(out, a.size * b.size)


TAME = {
    "add": binary(jnp.add, lambda a, b: a + b),
    "subtract": binary(jnp.subtract, lambda a, b: a + b),
    "multiply": binary(jnp.multiply, lambda a, b: a * b),
    "divide": binary(quotient, lambda a, b: a * (1 + b * b)),
    "negative": unary(jnp.negative),
    "square": unary(jnp.square, lambda n: n * n),
    "power": powers,
    "number": by_number,
    "constants": by_constants,
    "slice": of_block(some_rows),
    "split": of_block(part_of_rows),
    "row": of_block(one_row),
    "stack": stacked,
    "concatenate": joined,
    "pad": of_block(padded),
    "sum": of_block(summed, lambda n, rows: rows * n * max(n, 1.0)),
    "broadcast": spread,
    "repeated": repeated_entries,
    "transpose": moved,
    "ones": with_ones,
    "tanh": of_value(jnp.tanh),
    "cos": of_value(jnp.cos),
    "silu": of_value(jax.nn.silu),
    "where": chosen,
    "jit": called,
    "gradient": gradients,
    "held": held_product,
}
"""What acts on every entry alone, and can be written or read."""


def along_entries(operation, size=lambda n, length: n):
    """operation(array, axis, rng), for an axis of entries, on a value or a block."""

    def step(pool, rng):
        x = pool.full(pool.any(rng, lambda x: x.ndim >= pool.rank))
        axis = x.array.ndim - pool.rank + int(rng.integers(pool.rank))
        return Item(operation(x.array, axis, rng), size(x.size, x.array.shape[axis]))

    return step


def cut(x, axis, rng):
    """A part of the entries, and others behind it."""
    n = x.shape[axis]
    k = int(rng.integers(n))
    first, last = lax.slice_in_dim(x, 0, k, axis=axis), lax.slice_in_dim(x, k, n, axis=axis)
    return [
        lambda: jnp.concatenate([last, first], axis),
        lambda: jnp.concatenate([first, last], axis),
        lambda: x + lax.slice_in_dim(x, k, k + 1, axis=axis),
        lambda: jnp.broadcast_to(lax.slice_in_dim(x, k, k + 1, axis=axis), x.shape),
        lambda: lax.pad(
            last,
            jnp.zeros((), x.dtype),
            [(k, 0, 0) if a == axis else (0, 0, 0) for a in range(x.ndim)],
        ),
        lambda: jnp.concatenate(lax.split(x, [m for m in (n - k, k) if m], axis=axis)[::-1], axis),
    ][rng.integers(6)]()


def summed_entries(x, axis, rng):
    return [
        lambda: x + jnp.sum(x, axis, keepdims=True),
        lambda: x * jnp.broadcast_to(jnp.sum(x, axis, keepdims=True), x.shape),
        lambda: jnp.expand_dims(sum_of_rows(x, axis), axis) + x,
        lambda: jnp.broadcast_to(jnp.sum(x, axis, keepdims=True), x.shape),
        lambda: jnp.broadcast_to(jnp.expand_dims(sum_of_rows(x, axis), axis), x.shape),
    ][rng.integers(5)]()


def restacked(x, axis, rng):
    """The entries along an axis as arrays of their own, in another order."""
    several = [lax.index_in_dim(x, k, axis, keepdims=False) for k in range(x.shape[axis])]
    return jnp.stack([several[k] for k in rng.permutation(len(several))], axis)


def swapped(pool, rng):
    """Two axes of the same length in each other's place, by any means."""
    x = pool.full(pool.any(rng, lambda x: x.ndim >= pool.rank))
    shape = x.array.shape
    pairs = [
        (a, b)
        for a in range(len(shape))
        for b in range(len(shape))
        if a != b and shape[a] == shape[b]
    ]
    if not pairs:
        return None
    a, b = pairs[rng.integers(len(pairs))]
    order = list(range(len(shape)))
    order[a], order[b] = b, a
    there = [
        lambda: jnp.transpose(x.array, order),
        lambda: lax.reshape(x.array, shape, dimensions=order),
        lambda: lax.broadcast_in_dim(jnp.transpose(x.array, order), shape, range(len(shape))),
        lambda: lax.reshape(jnp.transpose(x.array, order), shape),
    ][rng.integers(4)]()
    if rng.integers(2):
        return Item(there, x.size)
    other = pool.full(pool.value(rng))
    return Item(there + other.array, x.size + other.size)


def outer(pool, rng):
    """Products in which an axis of entries stands where rows do."""
    a, b = (pool.full(pool.value(rng)) for _ in range(2))
    axis = int(rng.integers(pool.rank))
    first = jnp.expand_dims(jnp.moveaxis(a.array, axis, 0), axis + 1)
    return [
        lambda: Item(first * b.array, a.size * b.size),
        lambda: Item(jnp.broadcast_to(first, (first.shape[0], *pool.shape)), a.size),
        lambda: Item(jnp.sum(first * b.array, 0), 4 * a.size * b.size),
        lambda: Item(first, a.size),
        lambda: Item(first + a.array, 2 * a.size),
    ][rng.integers(5)]()


def placed(pool, rng):
    """A value in which other axes are repeated than those that are the same."""
    x = pool.full(pool.value(rng))
    row = x.array.reshape(-1)[: pool.shape[-1]]
    places = [k for k, n in enumerate((pool.shape[0], *pool.shape)) if n == len(row)]
    to = int(rng.choice(places))
    return Item(lax.broadcast_in_dim(row, (pool.shape[0], *pool.shape), (to,)), x.size)


def of_matrices(pool, rng):
    a, b = (pool.full(pool.any(rng, lambda x: x.ndim >= pool.rank)) for _ in range(2))
    if pool.rank == 1 or pool.shape[-1] != pool.shape[-2]:
        return Item(
            jnp.broadcast_to(jnp.vdot(a.array[..., :1], a.array[..., :1]), pool.shape),
            256 * a.size**2,
        )
    if a.array.ndim > pool.rank and b.array.ndim > pool.rank:
        b = Item(b.array[0], b.size)
    return Item(a.array @ b.array, 4 * a.size * b.size)


def flat(pool, rng):
    """All entries in one axis, and back."""
    x = pool.full(pool.value(rng))
    along = x.array.reshape(-1)
    return [
        lambda: Item((along * along).reshape(pool.shape), x.size**2),
        lambda: Item(along[::-1].reshape(pool.shape), x.size),
        lambda: Item((along + along[0]).reshape(pool.shape), 2 * x.size),
        lambda: Item(2 * x.array.reshape(pool.shape[::-1]).T, 2 * x.size),
    ][rng.integers(4)]()


def taken(x, rng):
    """Rows by their numbers."""
    n = x.shape[0]
    return [
        lambda: jnp.take(x, rng.integers(n, size=2), 0),
        lambda: x[rng.permutation(n)],
        lambda: lax.dynamic_slice_in_dim(x, jnp.argmax(x.reshape(n, -1)[:, 0]) // 2, 1, 0),
        lambda: lax.dynamic_index_in_dim(x, int(rng.integers(n)), 0, keepdims=False),
        lambda: x.at[int(rng.integers(n))].multiply(2.0) / 2,
        lambda: x[::-1],
        lambda: lax.sort(x, dimension=0),
        lambda: jnp.tanh(x),
        lambda: jnp.where(x > 0, x, x[:1]),
        lambda: jnp.max(x, 0),
        lambda: jnp.prod(x, 0) / 1e3,
    ][rng.integers(11)]()


def of_positions(pool, rng):
    """Numbers that differ from entry to entry."""
    x = pool.full(pool.any(rng, lambda x: x.ndim >= pool.rank))
    rows = int(rng.integers(1, 4))
    numbers = rng.choice([-1.0, 0.5, 2.0], pool.shape)
    return [
        lambda: Item(x.array * numbers, 2 * x.size),
        lambda: Item(jnp.broadcast_to(numbers, (rows, *pool.shape)) * 1.0, 2.0),
        lambda: Item(x.array + lax.iota(x.array.dtype, pool.shape[-1]), x.size + 4),
    ][rng.integers(3)]()


HAZARDS = {
    "sum": along_entries(summed_entries, lambda n, length: n * n * length + n),
    "cut": along_entries(cut, lambda n, length: 2 * n),
    "reverse": along_entries(lambda x, axis, rng: jnp.flip(x, axis)),
    "roll": along_entries(lambda x, axis, rng: jnp.roll(x, 1, axis)),
    "cumsum": along_entries(lambda x, axis, rng: jnp.cumsum(x, axis), lambda n, length: n * length),
    "sort": along_entries(lambda x, axis, rng: jnp.sort(x, axis)),
    "take": along_entries(lambda x, axis, rng: jnp.take(x, rng.permutation(x.shape[axis]), axis)),
    "stack": along_entries(restacked),
    "running": of_block(lambda x, rng: jnp.cumsum(x, 0), lambda n, rows: n * rows),
    "rows": of_block(taken, lambda n, rows: max(n, 1.0, n**rows / 1e3)),
    "swap": swapped,
    "outer": outer,
    "place": placed,
    "matmul": of_matrices,
    "flatten": flat,
    "positions": of_positions,
}
"""What mixes entries, or what no rows are known of."""

SHAPES = [
    (1,), (3,), (4,), (2, 2), (3, 3), (1, 3), (3, 1), (2, 3), (1, 1),
    (2, 2, 2), (3, 1, 3), (1, 2, 2), (2, 1, 2), (1, 1, 3),
]  # fmt: skip

SEEDS = st.integers(0, 2**31)


def operands(rng, shape):
    """Values, blocks, the same along the first axes of entries, and a number."""
    inner = (*(1,) * (len(shape) - 1), shape[-1])
    rows = rng.choice([*shape, *range(1, 5)], 3)
    blocks = [(rows[0], *shape), (rows[1], *shape), (rows[2], *inner)]
    return [drawn(rng, *x) for x in (shape, shape, inner, *blocks, ())]


def composed(steps, shape, seed, sizes, raw):
    """The program of some steps, of which `sizes` says what its numbers are not larger than."""

    def function(*arrays):
        pool, rng = Pool(shape, arrays), np.random.default_rng(seed)
        for table, name, of_step in steps:
            item = table[name](pool, np.random.default_rng(of_step))
            if item is not None and item.size <= LARGEST and pool.fits(item.array):
                pool.items.append(item)
        results = pool.items[-1:] + [pool.any(rng) for _ in range(rng.integers(3))]
        if not raw:
            results = list(map(pool.full, results))
        first = pool.full(pool.items[-1])
        results.append(Item(first.array * arrays[0] + arrays[1], 2 * first.size + 2))
        sizes[:] = [x.size for x in results]
        return [x.array for x in results]

    return function


def steps_of(*tables):
    choices = [(table, name) for table in tables for name in table]
    step = st.tuples(st.sampled_from(choices), SEEDS).map(lambda x: (*x[0], x[1]))
    return st.lists(step, min_size=2, max_size=14)


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(steps_of(TAME), st.sampled_from(SHAPES), SEEDS)
def test_what_acts_on_every_entry_alone_is_a_loop(steps, shape, seed):
    sizes = []
    arrays = operands(np.random.default_rng(seed), shape)
    loop = loop_for(composed(steps, shape, seed, sizes, False), *arrays, sizes=sizes)
    assert loop is not None
    assert len(sizes) - 1 in loop.results


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(steps_of(TAME), steps_of(HAZARDS), st.sampled_from(SHAPES), SEEDS, st.booleans())
def test_what_mixes_entries_is_refused_or_read(tame, hazards, shape, seed, raw):
    """Never are there other numbers than those of the program."""
    rng = np.random.default_rng(seed)
    steps = tame + hazards[: rng.integers(1, 4)]
    steps = [steps[k] for k in rng.permutation(len(steps))]
    sizes = []
    loop = loop_for(composed(steps, shape, seed, sizes, raw), *operands(rng, shape), sizes=sizes)
    hypothesis.event("refused" if loop is None else f"{len(loop.results)} of {len(sizes)} results")


# ------------------------------------------------------------------ every primitive

CASES = {
    "add": lambda x, v, a: x + v,
    "add_any": lambda x, v, a: jax.vjp(lambda v: v * v, v)[1](v)[0],
    "sub": lambda x, v, a: (x - v, v - 2, 2 - v, x - x),
    "mul": lambda x, v, a: (x * v, a * v, v * 1.0, a * x * 3),
    "div": lambda x, v, a: (x / v, v / 4, 1 / v, v / 1.0, a / v),
    "neg": lambda x, v, a: (-x, -v),
    "integer_pow": lambda x, v, a: [
        lax.integer_pow(x, n) for n in (0, 1, 2, 3, 5, 7, 12, MOST_FACTORS, -1, -2, -5)
    ],
    "square": lambda x, v, a: (jnp.square(x), jnp.square(v)),
    "copy": lambda x, v, a: 2 * jnp.array(x, copy=True),
    "copy_p": lambda x, v, a: 2 * jnp.array(x, copy=True),
    "convert_element_type": lambda x, v, a: lax.convert_element_type(a, x.dtype) * x,
    "broadcast_in_dim": lambda x, v, a: (
        jnp.broadcast_to(v, (4, 4, 5)) + v,
        jnp.broadcast_to(a, x.shape),
        lax.broadcast_in_dim(2 * x, (1, 3, 4, 5, 1), (1, 2, 3)).reshape(x.shape),
        jnp.broadcast_to(sum_of_rows(x)[None], (2, 4, 5)),
        jnp.zeros((2, 4, 5)),
        jnp.ones((4, 5)),
    ),
    "repeated": lambda x, v, a: repeated(v[None], 0, 4) * v,
    "reshape": lambda x, v, a: (
        2 * lax.reshape(lax.reshape(x, (3, 1, 4, 5, 1)) * v[:, :, None], x.shape),
        lax.reshape(v, (1, 4, 5)) + x,
    ),
    "squeeze": lambda x, v, a: lax.squeeze(rows_of(x, 1, 2), (0,)) * v,
    "expand_dims": lambda x, v, a: lax.expand_dims(v, (0,)) * x,
    "transpose": lambda x, v, a: (
        jnp.transpose(jnp.transpose(x, (2, 0, 1)) * v.T[:, None], (1, 2, 0)),
        (2 * v.T).T,
    ),
    "slice": lambda x, v, a: (2 * rows_of(x, 1, 3), rows_of(x, 0, 3, 2) * v, rows_of(x, 2, 3) - v),
    "split": lambda x, v, a: [2 * y for y in lax.split(x, (1, 2), axis=0)],
    "stack": lambda x, v, a: (
        jnp.stack([v, row_of(x, 2), 2 * v]),
        jnp.moveaxis(jnp.stack([v, row_of(x, 2)], 1), 1, 0),
        jnp.stack([x, 2 * x], -1).sum(-1),
    ),
    "unstack": lambda x, v, a: (
        [2 * y for y in jnp.unstack(x)],
        [3 * y for y in jnp.unstack(jnp.moveaxis(x, 0, 1), axis=1)],
    ),
    "concatenate": lambda x, v, a: (
        jnp.concatenate([x, v[None], x * v]),
        jnp.concatenate([jnp.ones((2, 4, 5)), x]),
        jnp.moveaxis(jnp.concatenate([jnp.moveaxis(x, 0, 2), v[..., None]], 2), 2, 0),
    ),
    "pad": lambda x, v, a: (
        lax.pad(x, 0.0, ((1, 2, 0), (0, 0, 0), (0, 0, 0))),
        lax.pad(x, 2.0, ((0, 1, 2), (0, 0, 0), (0, 0, 0))),
        lax.pad(x * v, a, ((2, 0, 1), (0, 0, 0), (0, 0, 0))),
    ),
    "reduce_sum": lambda x, v, a: (
        jnp.sum(x, 0),
        jnp.sum(x[:, None] * x[None], (0, 1)),
        jnp.sum(jnp.broadcast_to(v, (3, 4, 5)), 0),
        jnp.sum(x, 0, keepdims=True),
    ),
    "sum_of_rows": lambda x, v, a: (
        sum_of_rows(x * v),
        sum_of_rows(jnp.moveaxis(x, 0, 2), 2),
        sum_of_rows(jnp.moveaxis(x, 0, 1), 1),
    ),
}
"""Of a block, a value and a number."""

SOMETIMES = ("copy", "copy_p", "expand_dims", "square", "split", "stack", "unstack")
"""Primitives that only some versions of JAX have, or make of these functions."""


@pytest.mark.parametrize("name", EQUATIONS)
def test_every_primitive_is_written(name, rng):
    """None of its results is read."""
    if name == "unstack" and not hasattr(jnp, name):
        pytest.skip("not in this version of JAX")

    def function(*arrays):
        return jax.tree.leaves(CASES[name](*arrays))

    arrays = drawn(rng, 3, 4, 5), drawn(rng, 4, 5), 1.25
    program = program_of(function, arrays)
    if name not in {equation.primitive.name for equation in program.jaxpr.eqns}:
        assert name in SOMETIMES
        pytest.skip("not in this version of JAX")
    loop = loop_for(function, *arrays)
    assert made_of_operands(loop, function, *arrays)


@pytest.mark.parametrize("shape", [(3,), (3, 3), (1, 3), (3, 1), (2, 3, 3), (1, 1), (0, 3)])
def test_as_many_rows_as_entries(shape, rng):
    """Entries along any number of axes, of any lengths."""
    arrays = drawn(rng, 3, *shape), drawn(rng, *shape)

    def function(x, v):
        rows = jnp.concatenate([rows_of(x, 1, 3) * v, v[None] - 2 * rows_of(x, 0, 1)])
        rows = jnp.moveaxis(jnp.moveaxis(rows, 0, -1) * 2, -1, 0)
        return rows * x, sum_of_rows(rows), rows_of(rows, 0, 3, 2), v * v

    loop = loop_for(function, *arrays)
    assert made_of_operands(loop, function, *arrays)
    assert loop.rank == len(shape)
    assert [len(write) for write in loop.writes] == [3, 1, 2, 1]


# ------------------------------------------------------------------ refused

VARYING = np.linspace(1.0, 2.0, 16).reshape(4, 4)

REFUSED = {
    "summed over entries": lambda x, v: jnp.sum(v * v, 0),
    "summed over all": lambda x, v: jnp.sum(x * v),
    "summed over entries, in place": lambda x, v: x * jnp.sum(x, 1, keepdims=True),
    "transposed entries": lambda x, v: v.T,
    "entries transposed, and something else": lambda x, v: 2 * v.T,
    "added to itself, transposed": lambda x, v: x + jnp.swapaxes(x, 1, 2),
    "rows for entries": lambda x, v: 2 * jnp.swapaxes(x, 0, 1),
    "rows for entries, added": lambda x, v: x + jnp.transpose(x, (1, 2, 0)),
    "transposed while reshaped": lambda x, v: lax.reshape(x, (4, 4, 4), dimensions=(0, 2, 1)) * v,
    "outer product": lambda x, v: v[:, None] * v[None],
    "outer product, summed": lambda x, v: jnp.sum(v[:, :, None] * v[None], 1),
    "entries as rows": lambda x, v: jnp.moveaxis(v[None], 1, 0) * v,
    "repeated along other axes": lambda x, v: lax.broadcast_in_dim(v, (4, 4, 4), (0, 1)) * x,
    "a part of the entries": lambda x, v: 2 * x[:, 1:],
    "joined along entries": lambda x, v: 2 * jnp.concatenate([x[:, 2:], x[:, :2]], 1),
    "padded along entries": lambda x, v: lax.pad(x, 0.0, ((0, 0, 0), (0, 0, 1), (0, 0, 0))),
    "cut": lambda x, v: lax.pad(x, 0.0, ((0, -1, 0), (0, 0, 0), (0, 0, 0))),
    "reversed": lambda x, v: 2 * x[:, ::-1],
    "rows reversed": lambda x, v: 2 * x[::-1],
    "rows taken": lambda x, v: 2 * jnp.take(x, np.array([0, 2, 1, 0]), 0),
    "product of matrices": lambda x, v: 2 * (x @ v),
    "running sums": lambda x, v: 2 * jnp.cumsum(x, 0),
    "flattened": lambda x, v: (2 * x.reshape(4, 16)).reshape(4, 4, 4),
    "another function of a block": lambda x, v: jnp.tanh(x) * v,
    "chosen by rows": lambda x, v: jnp.where(x > 0, x, v) * 2,
    "constants that differ from entry to entry": lambda x, v: x * VARYING,
    "an infinite number": lambda x, v: x * np.inf,
    "no number": lambda x, v: x * np.nan,
    "a quotient by zero": lambda x, v: x / 0.0,
    "a high power": lambda x, v: lax.integer_pow(x, MOST_FACTORS + 1),
    "a low power": lambda x, v: lax.integer_pow(x, -MOST_FACTORS - 1),
    "no program": lambda x, v: (x, v, 2.0),
    "of other functions alone": lambda x, v: (jnp.tanh(v), v),
    "more rows of rows": lambda x, v: 2 * jnp.broadcast_to(v, (2, 2, 4, 4)),
}


def test_axes_in_the_place_of_others(rng):
    """What is the same along one axis is added along another, or is as one row of length one."""
    v, w = drawn(rng, 4, 4), drawn(rng, 1, 4)
    assert loop_for(lambda v, w: jnp.broadcast_to(w.T, (4, 4)) * v, v, w) is None
    assert loop_for(lambda v, w: 2 * jnp.broadcast_to(w.T, (3, 4, 4)) + v, v, w) is None
    loop_for(lambda v, w: jnp.stack([w.T + v, v]), v, w)
    loop = loop_for(
        lambda x, v: lax.broadcast_in_dim(v, (3, 1, 4), (0, 2)) * x, drawn(rng, 3, 1, 4), w
    )
    assert [read.inner for read in loop.reads] == [2, 2]


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, rng):
    """Entries that are mixed, functions of blocks, numbers that are none."""
    arrays = drawn(rng, 4, 4, 4), drawn(rng, 4, 4)
    assert loop_for(REFUSED[name], *arrays) is None


def test_constants_are_written_if_they_are_few_and_finite(rng):
    """Others are read, where an array can be."""
    v = drawn(rng, 2, 3)

    def constants(*rows):
        return np.asarray(rows).reshape(-1, 1, 1)

    few, infinite = constants(2.0, 3.5, -1.0), constants(2.0, np.inf, 1.0)
    loop = loop_for(lambda v: v * few, v)
    assert (len(loop.reads), len(loop.lines)) == (1, 3)
    loop = loop_of(program_of(lambda v: v * infinite, (v,)))
    assert loop is None or (len(loop.reads), loop.reads[1].inner) == (2, 0)
    many = drawn(rng, 2 * MOST_NUMBERS // 3, 3)
    wide = drawn(rng, *many.shape)
    loop = loop_for(lambda x: x * np.asarray(many), wide)
    assert [read.inner for read in loop.reads] == [2, 2]
    assert loop_for(lambda x: x * np.asarray(many)[0] + np.asarray(many)[:, :1] * 0, wide) is None


def test_numbers_that_overflow_are_refused(rng):
    """What is made of constants is no infinity in C."""

    def function(v):
        large = lax.full_like(v, 1e308)
        return v + large * large, v * (1 / lax.full_like(v, 1e-320)), v * lax.integer_pow(large, 3)

    for k in range(3):
        loop_for(lambda v, k=k: function(v)[k], drawn(rng, 2, 3))


@pytest.mark.parametrize("dtype", ["int32", "int64", "bool", "complex64", "complex128"])
def test_other_numbers_are_refused(dtype):
    v = jnp.ones((3, 4), dtype)
    scale = {"b": True, "i": 2, "c": 1j}[v.dtype.kind]
    assert loop_for(lambda v: v * scale, v) is None
    assert loop_for(lambda v: v * v + v, v) is None


@pytest.mark.parametrize(
    "dtypes", [("bfloat16", "float32"), ("float32", "float64"), ("float64", "int64")]
)
def test_mixed_types_are_refused(dtypes):
    arrays = [jnp.ones((3, 4), dtype) for dtype in dtypes]
    assert loop_of(program_of(lambda x, y: (x * x, x * y), arrays)) is None


def test_operands_that_do_not_belong_together(rng):
    """Of other lengths; no operand at all."""
    assert loop_for(lambda v, w: v * v, drawn(rng, 3, 4), drawn(rng, 4, 3)) is None
    assert loop_for(lambda: jnp.ones((3, 4)) * 2) is None


def test_no_rows(rng):
    """Sums of none are zero, and joining none changes nothing; or it is refused."""
    programs = {
        "sum": lambda x, v: jnp.sum(rows_of(x, 0, 0), 0) + v,
        "concatenate": lambda x, v: lax.concatenate([rows_of(x, 0, 0) * v, x], 0) * v,
        "pad": lambda x, v: lax.pad(rows_of(x, 0, 0), 0.0, ((1, 1, 1), (0, 0, 0), (0, 0, 0))) + v,
        "product": lambda x, v: rows_of(x, 0, 0) * v,
    }
    for function in programs.values():
        loop_for(function, drawn(rng, 2, 3, 4), drawn(rng, 3, 4))
    loop_for(lambda x, v: x * v, drawn(rng, 0, 3, 4), drawn(rng, 3, 4))


def test_transposed_while_reshaped(rng):
    """A value so changed is read, or written in the order that it has then."""
    arrays = drawn(rng, 4, 4, 4), drawn(rng, 4, 4)
    loop_for(lambda x, v: x * lax.reshape(v, (4, 4), dimensions=(1, 0)), *arrays)
    loop_for(lambda x, v: lax.reshape(x, (4, 4, 4), dimensions=(1, 0, 2)) * v, *arrays)


# ------------------------------------------------------------------ what is read and written


def test_another_function_of_a_value_is_read(rng):
    """Once, as an array like others."""
    arrays = drawn(rng, 3, 4, 5), drawn(rng, 4, 5)

    def function(x, v):
        y = jnp.tanh(v) * 2
        return x * y, x * jnp.where(v > 0, y, v), jnp.tanh(v) + row_of(x, 0), jnp.roll(v, 1) * v

    loop = loop_for(function, *arrays)
    assert loop.results == [0, 1, 2, 3]
    # The operands, tanh twice, the choice, and the rolled value.
    assert sorted(len(read.names) for read in loop.reads) == [1, 1, 1, 1, 1, 3]


def test_results_that_others_have(rng):
    """Operands, numbers, and what only XLA can compute are left out."""

    def function(x, v):
        return v, x * v, 2.0, jnp.tanh(v), x, v + v, v > 0

    loop = loop_for(function, drawn(rng, 3, 4, 5), drawn(rng, 4, 5))
    assert loop.results == [1, 5]
    assert [len(write) for write in loop.writes] == [3, 1]


def test_a_result_that_is_read_and_written(rng):
    """What a loop reads from XLA can be a result as well."""

    def function(v):
        y = jnp.tanh(v)
        return y * v, y, y * v

    loop = loop_for(function, drawn(rng, 4, 5))
    assert {0, 2} <= set(loop.results)
    assert loop.writes[0] == loop.writes[-1]
    assert len(loop.lines) == 1


def test_lines_are_there_once(rng):
    """In either order of the operands, in whatever equations they are."""

    def function(x, v):
        stacked = jnp.stack([row_of(x, 0) * v, v])
        return x * v + (v * x), v * rows_of(x, 1, 2), stacked, jax.jit(lambda x: v * x)(x)

    loop = loop_for(function, drawn(rng, 2, 4, 5), drawn(rng, 4, 5))
    assert len(loop.lines) == 4
    loop = loop_for(lambda v: (v / 3 - 2, 2 - v / 3, v / 3), drawn(rng, 4, 5))
    assert len(loop.lines) == 3


def test_lines_that_nothing_needs_are_not_there(rng):
    """Those of other rows, of results that XLA has, of what is multiplied by one or added to zero."""

    def function(x, v):
        unused = jnp.concatenate([x * x / v, v[None]])
        rows = jnp.concatenate([x * v, x + v])
        last = row_of(unused, 3)
        return rows_of(rows, 3, 4), jnp.tanh(v * v), row_of(rows, 3) * 1.0, last - 0.0

    loop = loop_for(function, drawn(rng, 3, 4, 5), drawn(rng, 4, 5))
    assert [line[1] for line in loop.lines] == ["+"]
    loop = loop_for(lambda v: (v * 1.0, 0.0 + v, v - 0.0, v / 1.0), drawn(rng, 4, 5))
    assert (loop.lines, loop.writes) == ([], [["r0_0"]] * 4)


def test_the_same_along_the_first_axes(rng):
    """Read by the last axes alone; numbers and rows of numbers by none."""
    arrays = [
        drawn(rng, *shape)
        for shape in [(4, 5, 6), (3, 4, 5, 6), (1, 1, 6), (3, 1, 5, 6), (3, 1, 1, 1), (1, 1, 1), ()]
    ]

    def function(*arrays):
        out = arrays[0]
        for x in arrays[1:]:
            out = out * x + x
        return out

    loop = loop_for(function, *arrays)
    assert [read.inner for read in loop.reads] == [3, 3, 1, 2, 0, 0, 0]
    assert [len(read.names) for read in loop.reads] == [1, 3, 1, 3, 3, 1, 1]
    assert loop.rank == 3

    def of_the_rest(v, w):
        return v * jnp.tanh(w), jnp.broadcast_to(w[None] * w, (2, 4, 5))

    loop = loop_for(of_the_rest, drawn(rng, 4, 5), drawn(rng, 1, 5))
    assert sorted(read.inner for read in loop.reads) == [1, 1, 2]
    assert loop.results == [0, 1]
    assert loop_for(lambda v, w: v * w, drawn(rng, 4, 5), drawn(rng, 4, 1)) is None
    ones = loop_for(lambda v, w: v * w, drawn(rng, 1, 5), drawn(rng, 3, 1, 5))
    assert [read.inner for read in ones.reads] == [2, 2]


def test_numbers_alone_are_read(rng):
    """A number scales all rows and entries; and of numbers alone there is a loop too."""
    loop = loop_for(lambda a, x: (a * a) * x - a, 1.5, drawn(rng, 2, 3, 4))
    assert [(len(read.names), read.inner) for read in loop.reads] == [(1, 0), (1, 3)]
    loop = loop_for(lambda a, b: a * b - 2, 1.5, 2.5)
    assert loop is None or loop.rank == 0


def test_single_precision(rng):
    """The lines of doubles; numbers are those of the program."""
    v = drawn(rng, 3, 4).astype("float32")
    lines = [
        loop_of(program_of(lambda x: x * 0.5 + x / 3 + x**2, (x,))).lines
        for x in (v, v.astype("float64"))
    ]
    assert lines[0] == lines[1]


# ------------------------------------------------------------------ jets

t, x = jf.partials(2)

OPERATORS = {
    "first": (t, x),
    "second": (t, x**2),
    "third": (x**3, t * x),
    "fourth": (x**4, t, t**2 * x),
    "all of the third order": (t**3, t**2 * x, t * x**2, x**3),
}


def coefficients(rng, algebra, shape, inner=()):
    """A value and a block per degree; those of degrees in `inner` are the same for all entries
    along the first axis."""
    first = (1, *shape[1:])
    return [
        drawn(rng, *(first if k in inner else shape))
        if k == 0
        else drawn(rng, n, *(first if k in inner else shape))
        for k, n in enumerate(algebra.sizes)
    ]


@pytest.mark.parametrize("inner", [(), (1, 2)])
@pytest.mark.parametrize("name", OPERATORS)
def test_gradients_of_products_of_jets(name, inner, rng):
    """One loop, of the coefficients of the product and of all gradients."""
    algebra = jet_algebra(tuple(p.symbol for p in OPERATORS[name]))
    shape = (4, 3)
    u, v = coefficients(rng, algebra, shape), coefficients(rng, algebra, shape, inner)
    spread = [jnp.broadcast_to(b, (*b.shape[: b.ndim - 2], *shape)) for b in v]
    cts = coefficients(rng, algebra, shape)

    def step(u, v, cts):
        out, pull = jax.vjp(lambda u: product(algebra, u, v, Elementwise(XP, 2), XP), u)
        return [*out, *pull(cts)[0]]

    def flat(*arrays):
        n = len(u)
        return step(list(arrays[:n]), list(arrays[n : 2 * n]), list(arrays[2 * n :]))

    loop = loop_for(flat, *u, *v, *cts)
    assert made_of_operands(loop, flat, *u, *v, *cts)
    assert len(loop.reads) <= 3 * len(u)
    assert {read.inner for read in loop.reads} == ({1, 2} if inner else {2})
    whole = loop_for(flat, *u, *spread, *cts)
    assert [len(write) for write in whole.writes] == [*algebra.sizes] * 2


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("phi", [jnp.tanh, jnp.sin, lambda u: jnp.exp(-u * u)])
def test_compositions(name, phi, rng):
    """One loop for a composition and for its gradient, with what XLA makes of the value alone."""
    operator = jf.derivatives(list(OPERATORS[name]))
    w = drawn(rng, 2, 3) / 2

    def loss(points):
        return sum(jnp.sum(y) for y in operator(lambda y: phi(y @ w), batch_dims=1)(points))

    programs = []

    def collected(program):
        for equation in program.eqns:
            inside = equation.params.get(loops.INLINED.get(equation.primitive.name, ""))
            if equation.primitive.name in ("held", "ruled"):
                programs.append(inside)
            elif inside is not None:
                collected(getattr(inside, "jaxpr", inside))

    collected(jax.make_jaxpr(jax.grad(loss))(drawn(rng, 4, 2)).jaxpr)
    found = [
        loop_for(jaxpr_as_fun(made), *(drawn(rng, *y.shape) for y in made.in_avals))
        for made in programs
    ]
    assert sum(loop is not None for loop in found) >= 2
