"""Loops in C over entries, written from an algebra's table and from the tower of φ.

What `inplace` does operation by operation, over arrays, is done here entry by entry, in registers:
each coefficient is read and written once. A tower runs on `Scalar`s, by the same code that runs on
tensors. Functions in it that are more than arithmetic (the cosine of a sine) are PyTorch's, and
come as further arrays; so do all entries of a tower that asks where its argument lies.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..core.algebra import JetAlgebra
from .inplace import Place, Places, places, structure_constants
from .scalars import Program, text, unknown

# ------------------------------------------------------------------ the algebra


Element = dict[Place, Any]
"""An element of the algebra: its coefficients, zeros left out."""


class Loops:
    """The two loops of a composition.

    With N = û − u: out = y + Σ_k t_k N^k, slope = φ'(û) = Σ_k k t_k N^{k−1}, and the gradient
    by û_a is Σ_{w,b} c^w_{ab} g_w slope_b of a cotangent g (`fused`).
    """

    def __init__(
        self, algebra: JetAlgebra, given: Places, tower: Any, sizes: Sequence[int]
    ) -> None:
        self.algebra, self.given, self.tower = algebra, given, tower
        self.table = structure_constants(algebra)
        self.out, self.held = list(places(sizes)), list(places(given.sizes))

    def _start(self, order: int) -> tuple[Program, Element, list[Any]]:
        """A program that knows û, y and the tower."""
        program = Program()
        rows = {
            place: program.let(f"r{n}[i]", (lambda u, y: u) if n == 0 else unknown)
            for n, place in enumerate(self.held)
        }
        y = program.let("y[i]", lambda u, y: y)
        if callable(self.tower):
            entries = self.tower(rows[0, 0], y, order, program.functions())
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

    def reverse(self) -> tuple[Program, list[Any]]:
        """The gradient by all coefficients of û, in the order of `held`."""
        program, rows, (_, first, *tower) = self._start(self.algebra.order + 1)
        nilpotent = {place: x for place, x in rows.items() if place != (0, 0)}
        slope: Element = {}
        for k, (t, power) in enumerate(
            zip(tower, self._powers(nilpotent, len(tower)), strict=True), 2
        ):
            _add_multiple(slope, None if t is None else t * float(k), power)
        cotangent = {place: program.let(f"g{n}[i]") for n, place in enumerate(self.out)}
        total = self._times(cotangent, slope, (1, 0, 2))
        for place, x in slope.items():  # c^w_{0b} = δ_{wb}
            if place in cotangent:
                _add(total, (0, 0), cotangent[place] * x)
        if first is not None:  # c^w_{a0} = δ_{wa}
            _add_multiple(total, first, cotangent)
        return program, [total.get(place) for place in self.held]


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
    "TOTAL", "INNER", "INNER_WIDTH", "PART", "THREADS", "GEMM", "WEIGHT", "BIAS", "IN", "OUT",
    "SCRATCH", "SCRATCH_SIZE", "RESULT", "RESULT_ROW", "COTANGENT", "COTANGENT_ROW",
]  # fmt: skip
"""What a function is told before its arrays.

Points along the first axis, entries of each, so many of them at a time for arrays without an axis
of points (0: all), points of a part, threads; BLAS's product of matrices, weight (out, in) and
bias, 0 where there is none; room for every thread, the rows of a part and one gradient by the
weight; where the result of `forward` goes, or the gradient by the weight of every thread; the
cotangent. Rows are so many entries apart.
"""

_HEAD = """#include <stdint.h>
#ifdef _OPENMP
#include <omp.h>
#define THREAD omp_get_thread_num()
#else
#define THREAD 0
#endif
typedef {type} T;
enum {{ {fields}, ARRAYS }};
#define ROWS {rows}

static void values(const int64_t *s, int64_t offset, int64_t points, int64_t width, T *out,
                   int64_t row)
{{
  {forward}
}}

static void gradient(const int64_t *s, int64_t thread, int64_t offset, int64_t points,
                     int64_t width, const T *g, int64_t row)
{{
  {reverse}
}}

"""

_LOOP = """for (int64_t p = 0; p < points; p++) {{
    {pointers}
    #pragma GCC ivdep
    for (int64_t i = 0; i < width; i++) {{
      {lines}
    }}
  }}"""

TYPES = {torch.float32: "float", torch.float64: "double"}


def _loop(pointers: Sequence[str], program: Program, stores: Sequence[str]) -> str:
    lines = [*program.lines, *stores]
    return _LOOP.format(pointers="\n    ".join(pointers), lines="\n      ".join(lines))


def _pointer(name: str, array: int, row: int) -> str:
    """Of an array behind the fields: address, entries from row to row, whether it has points."""
    at = f"ARRAYS + {3 * array}"
    return (
        f"const T *{name} = (const T *)s[{at}] + {row} * s[{at} + 1]"
        f" + s[{at} + 2] * (offset + p * width);"
    )


def source(loops: Loops, dtype: Any, broadcast: Sequence[bool]) -> tuple[str, Program, Program]:
    """The functions `forward` and `reverse`, and what further arrays their loops read.

    Arrays are numbered: those of û, y, the further ones, and those that `reverse` writes.
    """
    forward, values = loops.forward()
    reverse, gradients = loops.reverse()
    homes = _homes(loops.given)
    count = len(broadcast)
    shared = [_pointer(f"r{n}", *home) for n, home in enumerate(homes)]
    shared.append(_pointer("y", count, 0))

    def reads(program: Program) -> list[str]:
        further = range(len(program.outsiders))
        return shared + [_pointer(f"x{k}", count + 1 + k, 0) for k in further]

    to = [f"T *o{n} = out + {n} * row + p * width;" for n in range(len(values))]
    stores = [f"o{n}[i] = {'0' if x is None else text(x)};" for n, x in enumerate(values)]
    first = _loop(reads(forward) + to, forward, stores)

    to = [f"const T *g{n} = g + {n} * row + p * width;" for n in range(len(values))]
    stores, behind = [], count + 1 + len(reverse.outsiders)
    for n, (x, (array, row)) in enumerate(zip(gradients, homes, strict=True)):
        at = f"ARRAYS + {3 * (behind + array)}"
        value = "0" if x is None else text(x)
        if broadcast[array]:  # a sum over points, in double precision, for every thread
            to.append(
                f"double *o{n} = (double *)s[{at}] + ({row} + thread * s[{at} + 2]) * s[{at} + 1];"
            )
            stores.append(f"o{n}[i] += {value};")
        else:
            to.append(f"T *o{n} = (T *)s[{at}] + {row} * s[{at} + 1] + offset + p * width;")
            stores.append(f"o{n}[i] = {value};")
    second = _loop(reads(reverse) + to, reverse, stores)
    head = _HEAD.format(
        type=TYPES[dtype],
        fields=", ".join(FIELDS),
        rows=len(values),
        forward=first,
        reverse=second,
    )
    return head + LAYER, forward, reverse


LAYER = Path(__file__).with_name("layer.c").read_text()


def _homes(given: Places) -> list[tuple[int, int]]:
    """In which array each coefficient of û stands, and in which row."""
    if given.together:
        return [(0, n) for n in range(sum(given.sizes))]
    held = [size for size in given.sizes if size]
    return [(k, row) for k, size in enumerate(held) for row in range(size)]
