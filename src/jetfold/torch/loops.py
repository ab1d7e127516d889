"""Loops in C over entries, written from an algebra's table and from the tower of φ.

What `inplace` does operation by operation, over arrays, is done here entry by entry, in registers:
each coefficient is read and written once. A tower runs on `Scalar`s, by the same code that runs on
tensors. Functions in it that are more than arithmetic are computed where they are needed, if they
stand in functions.c; others are PyTorch's, and come as further arrays. So do all entries of a tower
that asks for more than scalars know.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from .. import shared_library
from ..core import towers
from ..core.algebra import JetAlgebra
from .compiled import TYPES
from .inplace import Place, Places, places, structure_constants
from .scalars import Program, text, unknown

# ------------------------------------------------------------------ values

VALUES: dict[Any, Callable[[Any, Any], Any]] = {
    towers.exp: lambda u, xp: xp.exp(u),
    towers.sin: lambda u, xp: xp.sin(u),
    towers.cos: lambda u, xp: xp.cos(u),
    towers.sinh: lambda u, xp: xp.sinh(u),
    towers.cosh: lambda u, xp: xp.cosh(u),
    towers.tanh: lambda u, xp: xp.tanh(u),
    towers.sigmoid: lambda u, xp: xp.sigmoid(u),
    towers.erf: lambda u, xp: xp.erf(u),
    towers.softplus: lambda u, xp: xp.softplus(u),
    towers.silu: lambda u, xp: u * xp.sigmoid(u),
    towers.mish: lambda u, xp: u * xp.tanh(xp.softplus(u)),
    towers.gelu: lambda u, xp: u * (0.5 * (1 + xp.erf(u * math.sqrt(0.5)))),
    towers.gelu_tanh: lambda u, xp: (
        u * xp.sigmoid(math.sqrt(8 / math.pi) * u * (1 + 0.044715 * (u * u)))
    ),
}
"""φ(u) on scalars, for towers of which φ needs no more than functions.c has."""


def _value(tower: Any) -> Callable[[Any, Any], Any] | None:
    """φ(u) on scalars, where the parameters of the tower are those of `VALUES`."""
    if not isinstance(tower, partial):
        return VALUES.get(tower) if callable(tower) else None
    usual = (tower.func.__kwdefaults__ or {}).items()
    return VALUES.get(tower.func) if tower.keywords.items() <= usual and not tower.args else None


# ------------------------------------------------------------------ the algebra


Element = dict[Place, Any]
"""An element of the algebra: its coefficients, zeros left out."""


class Loops:
    """The two loops of a composition.

    With N = û − u: out = y + Σ_k t_k N^k, slope = φ'(û) = Σ_k k t_k N^{k−1}, and the gradient
    by û_a is Σ_{w,b} c^w_{ab} g_w slope_b of a cotangent g (`fused`).

    Attributes:
        tower: a function, or its entries, `ARRAY` for those that come as arrays.
        inside: whether y is computed by the loops, and comes as no array.
    """

    def __init__(
        self, algebra: JetAlgebra, given: Places, tower: Any, sizes: Sequence[int]
    ) -> None:
        self.algebra, self.given, self.tower = algebra, given, tower
        self._value = _value(tower)
        self.inside = self._value is not None
        self.table = structure_constants(algebra)
        self.out, self.held = list(places(sizes)), list(places(given.sizes))

    def _start(self, order: int) -> tuple[Program, Element, list[Any]]:
        """A program that knows û, y and the tower."""
        program = Program()
        rows = {
            place: program.let(f"r{n}[i]", (lambda u, y: u) if n == 0 else unknown)
            for n, place in enumerate(self.held)
        }
        u, functions = rows[0, 0], program.functions()
        if self._value is not None:
            y = self._value(u, functions)
        else:
            y = program.let("y[i]", lambda u, y: y)
        if callable(self.tower):
            entries = self.tower(u, y, order, functions)
        else:
            entries = [
                program.outside(unknown) if entry is ARRAY else entry
                for entry in self.tower[:order]
            ]
        return program, rows, [y, *entries]

    def _times(self, left: Element, right: Element, slots: tuple[int, int, int]) -> Element:
        """Σ c left right over the table, whose places serve as `slots` says: (to, left, right)."""
        out: Element = {}
        for *where, c in self.table:
            to, a, b = [where[slot] for slot in slots]
            if a in left and b in right:
                term = left[a] * right[b]
                _add(out, to, term if c == 1 else term * c)
        return out

    def _powers(self, nilpotent: Element, highest: int) -> list[Element]:
        """[N, N², …]."""
        powers = [nilpotent]
        while len(powers) < highest:
            powers.append(self._times(powers[-1], nilpotent, (0, 1, 2)))
        return powers

    def forward(self) -> tuple[Program, list[Any]]:
        """All coefficients of φ(û), in the order of `out`."""
        program, rows, (y, *tower) = self._start(self.algebra.order)
        nilpotent = {place: x for place, x in rows.items() if place != (0, 0)}
        total: Element = {(0, 0): y}
        for t, power in zip(tower, self._powers(nilpotent, len(tower)), strict=True):
            _add_multiple(total, t, power)
        return program, [total.get(place) for place in self.out]

    def reverse(self, values: bool) -> tuple[Program, list[Any], list[Any]]:
        """The gradient by all coefficients of û, in the order of `held`, and those of φ(û)."""
        program, rows, (y, first, *tower) = self._start(self.algebra.order + 1)
        nilpotent = {place: x for place, x in rows.items() if place != (0, 0)}
        slope: Element = {}
        value: Element = {(0, 0): y}
        powers = self._powers(nilpotent, len(tower))
        for t, power in zip([first, *tower[:-1]], powers, strict=True) if values else ():
            _add_multiple(value, t, power)
        for k, (t, power) in enumerate(zip(tower, powers, strict=True), 2):
            _add_multiple(slope, None if t is None else t * float(k), power)
        cotangent = {place: program.let(f"g{n}[i]") for n, place in enumerate(self.out)}
        total = self._times(cotangent, slope, (1, 0, 2))
        for place, x in slope.items():  # c^w_{0b} = δ_{wb}
            if place in cotangent:
                _add(total, (0, 0), cotangent[place] * x)
        if first is not None:  # c^w_{a0} = δ_{wa}
            _add_multiple(total, first, cotangent)
        gradients = [total.get(place) for place in self.held]
        return program, gradients, [value.get(place) for place in self.out]


def _add(total: Element, place: Place, x: Any) -> None:
    total[place] = total[place] + x if place in total else x


def _add_multiple(total: Element, t: Any, x: Element) -> None:
    for place, entry in x.items() if t is not None else ():
        _add(total, place, entry * t)


class _Array:
    """Stands for an entry of a tower that comes as an array."""


ARRAY = _Array()


# ------------------------------------------------------------------ from lines to functions


FIELDS = [
    "TOTAL", "INNER", "INNER_WIDTH", "PART", "THREADS", "GEMM", "FILL", "TIMES", "LONGEST",
    "WEIGHT", "BIAS", "PANELS", "IN", "OUT", "ROOM", "ROOM_SIZE", "RESULT", "RESULT_ROW",
    "COTANGENT", "COTANGENT_ROW", "COTANGENT_ROOM", "OF_WEIGHT", "OTHERS", "OF_BIAS", "SUMS",
    "SUMS_SIZE",
]  # fmt: skip
"""What a layer is told before its arrays.

Points along the first axis, entries of each, so many of them at a time for arrays without an axis
of points (0: all), points of a part, threads; the functions of `gemm.Products`, and how many terms
sums may have; weight (out, in) and bias, 0 where there is none, and room for the weight in panels,
0 where BLAS multiplies; room for every thread: the rows of a part, then one gradient by the weight,
the rows of one coefficient in panels, or the sums of `gradient`; where the result goes; the
cotangent, or, with COTANGENT_ROOM, that of a part, for every thread; where the gradients by weight
and bias go, 0 where they are not wanted, with room for the weight's of further threads; sums of
every thread in double precision, first of the bias. Rows are so many entries apart.
"""

_HEAD = """#include <stdint.h>
#ifdef _OPENMP
#include <omp.h>
#define THREAD omp_get_thread_num()
#else
#define THREAD 0
#endif
typedef {type} T;
#define DOUBLE {double}
enum {{ {fields}, ARRAYS }};
#define ROWS {rows}

// Coefficients without an axis of points: in which array they stand, and in which row.
#define BROADCAST {broadcast}
static const int64_t broadcast_array[] = {{ {arrays} }}, broadcast_row[] = {{ {array_rows} }};

{functions}
static void values(const int64_t *s, int64_t offset, int64_t points, int64_t width, T *out,
                   int64_t row)
{{
  {forward}
}}

// `offset` entries from the beginning, `inside` of them in this part.
static void gradient(const int64_t *s, int64_t thread, int64_t offset, int64_t inside,
                     int64_t points, int64_t width, const T *g, int64_t row, T *sums)
{{
  {reverse}
}}

// The same with the values.
#define FUSED {fused}
static void gradient_and_values(const int64_t *s, int64_t thread, int64_t offset, int64_t inside,
                                int64_t points, int64_t width, const T *g, int64_t row, T *sums,
                                T *out, int64_t out_row)
{{
  {both}
}}

"""

_LOOP = """for (int64_t p = 0; p < points; p++) {{
    {pointers}
    {entries}
  }}"""

_ENTRIES = """#pragma GCC ivdep
    for (int64_t i = 0; i < width; i++) {{
      {lines}
    }}"""

_WAVES = """if (within(r0, width)) {{
    enum {{ exact = 0 }};
    {entries}
    }} else {{
    enum {{ exact = 1 }};
    {entries}
    }}"""

SHORT = 200
"""Lines of a loop of values that is short enough to be one with that of the gradient."""


def _loop(pointers: Sequence[str], program: Program, stores: Sequence[str]) -> str:
    entries = _ENTRIES.format(lines="\n      ".join([*program.lines, *stores]))
    if program.waves:
        entries = _WAVES.format(entries=entries)
    return _LOOP.format(pointers="\n    ".join(pointers), entries=entries)


def _pointer(name: str, array: int, row: int) -> str:
    """Of an array behind the fields: address, entries from row to row, whether it has points."""
    at = f"ARRAYS + {3 * array}"
    return (
        f"const T *{name} = (const T *)s[{at}] + {row} * s[{at} + 1]"
        f" + s[{at} + 2] * (offset + p * width);"
    )


def source(loops: Loops, dtype: Any, broadcast: Sequence[bool]) -> tuple[str, Program, Program]:
    """The functions `forward` and `reverse`, and what further arrays their loops read.

    Arrays are numbered: those of û, y unless it is computed inside, the further ones, and those
    that `reverse` writes, each an address, the entries from row to row, and whether it has points
    (of the last: what a thread has there, where each has its own).
    """
    forward, values = loops.forward()
    fused = len(forward.lines) <= SHORT
    reverse, gradients, again = loops.reverse(fused)
    homes = _homes(loops.given)
    shared = [_pointer(f"r{n}", *home) for n, home in enumerate(homes)]
    if not loops.inside:
        shared.append(_pointer("y", len(broadcast), 0))
    count = len(broadcast) + (not loops.inside)

    def reads(program: Program) -> list[str]:
        further = range(len(program.outsiders))
        return shared + [_pointer(f"x{k}", count + k, 0) for k in further]

    to = [f"T *o{n} = out + {n} * row + p * width;" for n in range(len(values))]
    stores = [f"o{n}[i] = {'0' if x is None else text(x)};" for n, x in enumerate(values)]
    first = _loop(reads(forward) + to, forward, stores)

    to = [f"const T *g{n} = g + {n} * row + p * width;" for n in range(len(values))]
    stores, behind = [], count + len(reverse.outsiders)
    without_points: list[tuple[str, int]] = []
    for n, (x, (array, row)) in enumerate(zip(gradients, homes, strict=True)):
        at = f"ARRAYS + {3 * (behind + array)}"
        value = "0" if x is None else text(x)
        if broadcast[array]:  # a sum over points
            to.append(f"T *o{n} = sums + {len(without_points)} * width;")
            stores.append(f"o{n}[i] += {value};")
            without_points.append((at, row))
        else:  # with a third number: in the room of a thread
            start = f"(s[{at} + 2] ? thread * s[{at} + 2] + inside : offset)"
            to.append(f"T *o{n} = (T *)s[{at}] + {row} * s[{at} + 1] + {start} + p * width;")
            stores.append(f"o{n}[i] = {value};")
    second = _loop(reads(reverse) + to, reverse, stores)
    third = "// never called"
    if fused:
        to += [f"T *w{n} = out + {n} * out_row + p * width;" for n in range(len(again))]
        stores += [f"w{n}[i] = {'0' if x is None else text(x)};" for n, x in enumerate(again)]
        third = _loop(reads(reverse) + to, reverse, stores)
    head = _HEAD.format(
        type=TYPES[dtype],
        double=int(dtype == torch.float64),
        functions=shared_library.text("torch/functions.c"),
        fields=", ".join(FIELDS),
        rows=len(values),
        broadcast=len(without_points),
        arrays=", ".join([at for at, _ in without_points] or ["0"]),
        array_rows=", ".join([str(row) for _, row in without_points] or ["0"]),
        forward=first,
        reverse=second,
        fused=int(fused),
        both=third,
    )
    return head + shared_library.text("torch/layer.c"), forward, reverse


def _homes(given: Places) -> list[tuple[int, int]]:
    """In which array each coefficient of û stands, and in which row."""
    if given.together:
        return [(0, n) for n in range(sum(given.sizes))]
    held = [size for size in given.sizes if size]
    return [(k, row) for k, size in enumerate(held) for row in range(size)]
