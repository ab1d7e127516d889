"""Programs that act on every entry alone, evaluated with names in the place of numbers.

In a jaxpr of jets most is arithmetic on rows, entry by entry. Evaluated on symbols it becomes a
list of lines, one operation on two numbers each, which a loop over the entries can hold in
registers (`loops`). Rows are written out; of the axes of entries it is known only which one each
is, and what would mix entries is refused. What is no arithmetic (another function of the value,
say) is left to XLA and read, if it is no larger than the value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial, reduce
from math import isfinite, prod
from typing import Any

import numpy as np
from jax.extend.core import ClosedJaxpr, JaxprEqn, Literal

Number = str | float
"""A name, or a number that is known."""

Shape = tuple[int, ...]


class RefusedError(Exception):
    """An equation, or a program, that cannot be written in lines."""


class TooLongError(Exception):
    """A program of too many lines."""


# ------------------------------------------------------------------ lines


@dataclass
class Lines:
    """Operations on numbers, each with a name of its own; none is there twice."""

    names: dict[tuple[Any, ...], str] = field(default_factory=dict)

    def add(self, a: Number, b: Number) -> Number:
        """a + b."""
        if a == 0.0 or b == 0.0:
            return b if a == 0.0 else a
        return self._let("+", a, b, commutes=True)

    def subtract(self, a: Number, b: Number) -> Number:
        """a − b."""
        return a if b == 0.0 else self._let("-", a, b)

    def multiply(self, a: Number, b: Number) -> Number:
        """a b."""
        if a == 1.0 or b == 1.0:
            return b if a == 1.0 else a
        return self._let("*", a, b, commutes=True)

    def divide(self, a: Number, b: Number) -> Number:
        """a/b."""
        if b == 0.0:
            raise RefusedError
        return a if b == 1.0 else self._let("/", a, b)

    def negative(self, a: Number) -> Number:
        """−a."""
        return self.multiply(a, -1.0)

    def power(self, a: Number, exponent: int) -> Number:
        """a^exponent."""
        if abs(exponent) > MOST_FACTORS:
            raise RefusedError
        if exponent < 0:
            return self.divide(1.0, self.power(a, -exponent))
        if exponent < 2:
            return a if exponent else 1.0
        half = self.power(a, exponent // 2)
        square = self.multiply(half, half)
        return self.multiply(square, a) if exponent % 2 else square

    def _let(self, symbol: str, a: Number, b: Number, commutes: bool = False) -> Number:
        if isinstance(a, float) and isinstance(b, float):
            with suppress(OverflowError):
                if isfinite(known := _OF_NUMBERS[symbol](a, b)):
                    return known
            raise RefusedError
        if len(self.names) == MOST_LINES:
            raise TooLongError
        if commutes and str(b) < str(a):
            a, b = b, a
        return self.names.setdefault((symbol, a, b), f"v{len(self.names)}")

    def needed(self, wanted: Sequence[Number]) -> list[tuple[str, str, Number, Number]]:
        """(name, operation, operand, operand) of what is wanted, in order."""
        found, names = [], {x for x in wanted if isinstance(x, str)}
        for (symbol, a, b), name in reversed(self.names.items()):
            if name in names:
                names.update(x for x in (a, b) if isinstance(x, str))
                found.append((name, symbol, a, b))
        return found[::-1]


MOST_LINES = 4000
"""Of a program, needed or not."""

MOST_FACTORS = 16
"""Of powers that are written as products."""

_OF_NUMBERS: dict[str, Callable[[float, float], float]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
}


# ------------------------------------------------------------------ arrays of symbols


@dataclass(frozen=True)
class Symbols:
    """An array in which the axes of entries are not written out.

    Attributes:
        rows: names and numbers; axes of length one stand for those of entries, and for any along
            which all is the same.
        axes: per axis which one of the entries it is; None if none.
        shape: that of the array.
    """

    rows: np.ndarray
    axes: tuple[int | None, ...]
    shape: Shape

    def is_free(self, axis: int) -> bool:
        """Whether an axis may be sliced, summed and joined: it is none of the entries'."""
        return self.axes[axis] is None or self.shape[axis] == 1

    def along(self, axis: int) -> np.ndarray:
        """The rows, with a free axis written out."""
        if not self.is_free(axis):
            raise RefusedError
        lengths = [*self.rows.shape[:axis], self.shape[axis], *self.rows.shape[axis + 1 :]]
        if not 0 < prod(lengths) <= MOST_NUMBERS:
            raise RefusedError
        return np.broadcast_to(self.rows, lengths)

    def freed(self, axis: int) -> tuple[int | None, ...]:
        """The axes, one of them written out."""
        return (*self.axes[:axis], None, *self.axes[axis + 1 :])


def number(value: float) -> Symbols:
    """A number that is known."""
    if not isfinite(value):
        raise RefusedError
    return Symbols(np.array(value, object), (), ())


def constant(array: np.ndarray) -> Symbols:
    """An array of numbers that are known."""
    if array.size > MOST_NUMBERS or not np.isfinite(array).all():
        raise RefusedError
    return Symbols(array.astype(object), (None,) * array.ndim, array.shape)


MOST_ROWS = 1024
"""Of an array that is read."""

MOST_NUMBERS = 1 << 14
"""Of an array whose rows are written out."""


# ------------------------------------------------------------------ equations


@dataclass(frozen=True)
class Equation:
    """What is written, beside the operands.

    Attributes:
        lines: where.
        size: the lengths of the axes of entries.
        shapes: those of the results.
        params: the parameters.
    """

    lines: Lines
    size: Shape
    shapes: Sequence[Shape]
    params: Mapping[str, Any]


Write = Callable[..., list[Symbols]]
"""(equation, *operands) -> the results."""


def _alike(*operands: Symbols) -> tuple[int | None, ...]:
    """Which axes of entries those of arrays are that are combined entry by entry."""
    axes = []
    for both in zip(*(zip(x.axes, x.rows.shape, strict=True) for x in operands), strict=True):
        found = {axis for axis, _ in both if axis is not None}
        if len(found) > 1 or (found and any(n > 1 for _, n in both)):
            raise RefusedError
        axes.append(next(iter(found), None))
    there = [axis for axis in axes if axis is not None]
    if len(set(there)) < len(there):
        raise RefusedError
    return tuple(axes)


def _entrywise(operation: str, of: Equation, *operands: Symbols) -> list[Symbols]:
    (shape,) = of.shapes
    spread = [
        x if x.shape else Symbols(x.rows.reshape((1,) * len(shape)), (None,) * len(shape), shape)
        for x in operands
    ]
    function = np.frompyfunc(getattr(of.lines, operation), len(spread), 1)
    rows = np.asarray(function(*(x.rows for x in spread)), object)
    return [Symbols(rows, _alike(*spread), shape)]


def _power(of: Equation, x: Symbols) -> list[Symbols]:
    function = np.frompyfunc(lambda a: of.lines.power(a, of.params.get("y", 2)), 1, 1)
    return [Symbols(np.asarray(function(x.rows), object), x.axes, x.shape)]


def _same(of: Equation, x: Symbols) -> list[Symbols]:
    return [x]


def _moved(of: Equation, x: Symbols, places: Iterable[tuple[int, int]]) -> list[Symbols]:
    """The axes at other places, (from, to) in the same order."""
    (shape,) = of.shapes
    rows, axes = [1] * len(shape), list[int | None]([None] * len(shape))
    for k, to in places:
        rows[to] = x.rows.shape[k]
        axis = x.axes[k]
        if axis is not None and shape[to] in (x.shape[k], of.size[axis]):
            axes[to] = axis
    return [Symbols(x.rows.reshape(rows), tuple(axes), shape)]


def _broadcast(of: Equation, x: Symbols) -> list[Symbols]:
    return _moved(of, x, enumerate(of.params["broadcast_dimensions"]))


def _repeated(of: Equation, x: Symbols) -> list[Symbols]:
    return _moved(of, x, enumerate(range(len(x.shape))))


def _reshaped(of: Equation, x: Symbols) -> list[Symbols]:
    """Axes of length one come and go."""
    (shape,) = of.shapes
    if "new_sizes" in of.params and of.params.get("dimensions") is not None:
        raise RefusedError  # axes are permuted before
    kept = [k for k, n in enumerate(x.shape) if n != 1]
    to = [k for k, n in enumerate(shape) if n != 1]
    if [x.shape[k] for k in kept] != [shape[k] for k in to]:
        raise RefusedError
    return _moved(of, x, zip(kept, to, strict=True))


def _transposed(of: Equation, x: Symbols) -> list[Symbols]:
    order = of.params["permutation"]
    axes = tuple(x.axes[k] for k in order)
    return [Symbols(x.rows.transpose(order), axes, of.shapes[0])]


def _sliced(of: Equation, x: Symbols) -> list[Symbols]:
    first, last = of.params["start_indices"], of.params["limit_indices"]
    strides = of.params["strides"] or (1,) * len(first)
    for k, cut in enumerate(zip(first, last, strides, strict=True)):
        if cut != (0, x.shape[k], 1):
            rows = x.along(k)[(slice(None),) * k + (slice(*cut),)]
            x = Symbols(rows, x.freed(k), (*x.shape[:k], rows.shape[k], *x.shape[k + 1 :]))
    return [x]


def _split(of: Equation, x: Symbols) -> list[Symbols]:
    axis = of.params["axis"]
    parts = np.split(x.along(axis), np.cumsum(of.params["sizes"])[:-1], axis)
    return [Symbols(rows, x.freed(axis), to) for rows, to in zip(parts, of.shapes, strict=True)]


def _unstacked(of: Equation, x: Symbols) -> list[Symbols]:
    axis = of.params["axis"]
    rows, axes = np.moveaxis(x.along(axis), axis, 0), (*x.axes[:axis], *x.axes[axis + 1 :])
    return [
        Symbols(np.asarray(row, object), axes, shape)
        for row, shape in zip(rows, of.shapes, strict=True)
    ]


def _concatenated(of: Equation, *operands: Symbols) -> list[Symbols]:
    return _joined(of, of.params["dimension"], operands)


def _joined(of: Equation, axis: int, operands: Sequence[Symbols]) -> list[Symbols]:
    parts = [x.along(axis) for x in operands]
    others = [
        Symbols(rows.take([0], axis), x.freed(axis), x.shape)
        for rows, x in zip(parts, operands, strict=True)
    ]
    whole = np.broadcast_shapes(*(x.rows.shape for x in others))
    rows = [
        np.broadcast_to(rows, (*whole[:axis], rows.shape[axis], *whole[axis + 1 :]))
        for rows in parts
    ]
    return [Symbols(np.concatenate(rows, axis), _alike(*others), of.shapes[0])]


def _stacked(of: Equation, *operands: Symbols) -> list[Symbols]:
    axis = of.params["axis"]
    wide = [
        Symbols(
            np.expand_dims(x.rows, axis),
            (*x.axes[:axis], None, *x.axes[axis:]),
            (*x.shape[:axis], 1, *x.shape[axis:]),
        )
        for x in operands
    ]
    return _joined(of, axis, wide)


def _padded(of: Equation, x: Symbols, filling: Symbols) -> list[Symbols]:
    for k, (low, high, inside) in enumerate(of.params["padding_config"]):
        if (low, high, inside) == (0, 0, 0):
            continue
        if min(low, high) < 0:
            raise RefusedError
        rows = x.along(k)
        lengths = [*rows.shape[:k], of.shapes[0][k], *rows.shape[k + 1 :]]
        whole = np.full(lengths, filling.rows.item(), object)
        last = low + (rows.shape[k] - 1) * (inside + 1) + 1
        whole[(slice(None),) * k + (slice(low, last, inside + 1),)] = rows
        x = Symbols(whole, x.freed(k), (*x.shape[:k], lengths[k], *x.shape[k + 1 :]))
    return [x]


def _summed(of: Equation, x: Symbols) -> list[Symbols]:
    over = of.params["axes"] if "axes" in of.params else (of.params["axis"],)
    add = np.frompyfunc(of.lines.add, 2, 1)
    for k in sorted(over, reverse=True):
        rows = np.asarray(reduce(add, np.moveaxis(x.along(k), k, 0)), object)
        x = Symbols(rows, (*x.axes[:k], *x.axes[k + 1 :]), (*x.shape[:k], *x.shape[k + 1 :]))
    return [x]


EQUATIONS: dict[str, Write] = {
    "add": partial(_entrywise, "add"),
    "add_any": partial(_entrywise, "add"),
    "sub": partial(_entrywise, "subtract"),
    "mul": partial(_entrywise, "multiply"),
    "div": partial(_entrywise, "divide"),
    "neg": partial(_entrywise, "negative"),
    "integer_pow": _power,
    "square": _power,
    "copy": _same,
    "copy_p": _same,
    "convert_element_type": _same,
    "broadcast_in_dim": _broadcast,
    "repeated": _repeated,
    "reshape": _reshaped,
    "squeeze": _reshaped,
    "expand_dims": _reshaped,
    "transpose": _transposed,
    "slice": _sliced,
    "split": _split,
    "stack": _stacked,
    "unstack": _unstacked,
    "concatenate": _concatenated,
    "pad": _padded,
    "reduce_sum": _summed,
    "sum_of_rows": _summed,
}
"""Primitives by name."""


# ------------------------------------------------------------------ programs


@dataclass(frozen=True)
class Read:
    """An array that a loop reads.

    Attributes:
        variable: of the program.
        names: of its rows.
        inner: how many axes of entries it has, the last ones; it is the same for all others.
    """

    variable: Any
    names: list[str]
    inner: int


@dataclass(frozen=True)
class Loop:
    """What a loop reads, does and writes.

    Attributes:
        rank: how many axes entries have.
        lines: (name, operation, operand, operand).
        writes: per array the number of every row.
        results: which results of the program the arrays are.
    """

    rank: int
    reads: list[Read]
    lines: list[tuple[str, str, Number, Number]]
    writes: list[list[Number]]
    results: list[int]


def loop_of(program: ClosedJaxpr) -> Loop | None:
    """The loop that computes a program; None where there is none.

    Left out are results that are operands, and those that only XLA can compute.
    """
    try:
        return _Evaluation(program).loop()
    except (RefusedError, TooLongError):
        return None


class _Evaluation:
    """A program on symbols; None stands for what is not written in lines."""

    def __init__(self, program: ClosedJaxpr) -> None:
        self.jaxpr = program.jaxpr
        described = [v.aval for v in self.jaxpr.invars]
        if len({x.dtype for x in described}) != 1:
            raise RefusedError
        self.dtype = described[0].dtype
        if not np.issubdtype(self.dtype, np.floating):
            raise RefusedError
        self.rank = min((len(x.shape) for x in described if x.shape), default=0)
        try:
            self.size = np.broadcast_shapes(*(self._entries(x.shape) for x in described))
        except ValueError:
            raise RefusedError from None
        self.lines = Lines()
        self.reads: list[Read] = []
        self.known: dict[Any, Symbols | None] = dict.fromkeys(self.jaxpr.invars)
        for v, x in zip(self.jaxpr.constvars, program.consts, strict=True):
            self.known[v] = None
            if x.dtype == self.dtype:
                with suppress(RefusedError):
                    self.known[v] = constant(np.asarray(x))

    def loop(self) -> Loop:
        for equation in self.jaxpr.eqns:
            found: Sequence[Symbols | None]
            try:
                found = self._written(equation)
            except RefusedError:
                if any(prod(v.aval.shape) > prod(self.size) for v in equation.outvars):
                    raise
                found = [None] * len(equation.outvars)
            self.known.update(zip(equation.outvars, found, strict=True))
        writes = {}
        for k, v in enumerate(self.jaxpr.outvars):
            is_there = isinstance(v, Literal) or v in self.jaxpr.invars
            if not is_there and (made := self.known[v]) is not None:
                writes[k] = self._stored(made)
        if not writes:
            raise RefusedError
        wanted = [x for numbers in writes.values() for x in numbers]
        lines = self.lines.needed(wanted)
        used = {x for line in lines for x in line[2:]}.union(wanted)
        reads = [read for read in self.reads if not used.isdisjoint(read.names)]
        return Loop(self.rank, reads, lines, list(writes.values()), list(writes))

    def _entries(self, shape: Shape) -> Shape:
        return shape[max(len(shape) - self.rank, 0) :]

    def _written(self, equation: JaxprEqn) -> list[Symbols]:
        write = EQUATIONS.get(equation.primitive.name)
        described = [v.aval for v in equation.outvars]
        if write is None or any(x.dtype != self.dtype for x in described):
            raise RefusedError
        operands = list(map(self._operand, equation.invars))
        shapes = [x.shape for x in described]
        return write(Equation(self.lines, self.size, shapes, equation.params), *operands)

    def _operand(self, atom: Any) -> Symbols:
        if isinstance(atom, Literal):
            if np.ndim(atom.val):
                raise RefusedError
            return number(float(atom.val))
        if (found := self.known[atom]) is None:
            found = self.known[atom] = self._read(atom)
        return found

    def _read(self, variable: Any) -> Symbols:
        """One more array that the loop reads: a number, a value, or a block, of which the last two
        may be the same along the first axes of entries."""
        shape, name = variable.aval.shape, f"r{len(self.reads)}"
        entries, rank = self._entries(shape), self.rank
        rows = shape[: len(shape) - len(entries)]
        first = next((k for k, n in enumerate(entries) if n != 1), rank)
        if variable.aval.dtype != self.dtype:
            raise RefusedError
        if not shape:
            self.reads.append(Read(variable, [name], 0))
            return Symbols(np.array(name, object), (), ())
        if len(entries) < rank or len(rows) > 1 or prod(rows) > MOST_ROWS:
            raise RefusedError
        if entries[first:] != self.size[first:]:
            raise RefusedError
        if all(n == 1 for n in self.size[:first]):
            first = 0
        names = [f"{name}_{row}" for row in range(prod(rows))]
        self.reads.append(Read(variable, names, rank - first))
        array = np.array(names, object).reshape((*rows, *(1,) * rank))
        axes = (*(None for _ in rows), *(k if k >= first else None for k in range(rank)))
        return Symbols(array, axes, shape)

    def _stored(self, x: Symbols) -> list[Number]:
        """The numbers of a result."""
        entries = len(x.shape) - self.rank
        here = zip(x.axes[entries:], x.rows.shape[entries:], range(self.rank), strict=False)
        if not 0 <= entries <= 1 or self._entries(x.shape) != self.size:
            raise RefusedError
        if any(axis not in (None, k) or n > 1 for axis, n, k in here):
            raise RefusedError
        return list((x.along(0) if entries else x.rows).reshape(-1))
