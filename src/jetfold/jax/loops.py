"""Programs that act on every entry alone, as loops in C that XLA calls.

XLA's kernels for a CPU write what has several users to memory, and read it again: all products of
rows, and whatever is stacked. A loop reads and writes every coefficient once. Which programs that
is good for is found when XLA's program for one CPU is written: large ones, on a machine with a
compiler. All others stay XLA's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from math import prod
from threading import Lock
from typing import Any

import jax
import jaxlib
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun
from jax.interpreters import partial_eval as pe

from .. import shared_library
from . import private
from .entries import Loop, Number, loop_of

Arrays = Sequence[Any]

TYPES = {"float32": "float", "float64": "double"}

WORTH = 1 << 17
"""Fewer numbers are not worth a compiler's time."""

HEAVY = 3
"""Operations for each number that is read or written, from which on a loop is faster: what is light
XLA makes part of the products of matrices around it."""

MOST_LINES = 1600
"""A C compiler takes seconds for them, and for longer loops much more than XLA."""

LEVEL = "-O1"
"""Of optimisation: a higher one takes a C compiler half as long again, and gains nothing for lines
that have been written once each."""

MOST_REPEATED = 256
"""Rows of inner entries alone, for which a thread has room on its stack."""

INLINED = {
    "closed_call": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "held": "jaxpr",
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "ruled": "jaxpr",
}
"""Primitives that are what a jaxpr says which is one of their parameters."""


def evaluated(program: ClosedJaxpr, arrays: Arrays, context: Any) -> list[Any]:
    """The results of a program, by a loop where that is worth it.

    Args:
        context: that of a rule which lowers a primitive for a CPU.
    """
    if (
        private.is_here(context)
        and sum(prod(x.shape) for x in program.out_avals) >= WORTH
        and shared_library.compiler() is not None
    ):
        flat = jax.make_jaxpr(lambda *x: _inlined(program, x))(*arrays)
        loop = loop_of(flat)
        if loop is not None and _is_worth(loop):
            source = _source(loop, flat.in_avals[0].dtype.name)
            name = None if source is None else _target(source)
            if name is not None:
                return _looped(flat, loop, name, arrays)
    return list(jaxpr_as_fun(program)(*arrays))


def _is_worth(loop: Loop) -> bool:
    numbers = sum(len(read.names) for read in loop.reads) + sum(map(len, loop.writes))
    return HEAVY * numbers <= len(loop.lines) <= MOST_LINES


def _looped(program: ClosedJaxpr, loop: Loop, name: str, arrays: Arrays) -> list[Any]:
    """The results, those of the loop from what XLA knows by this name."""
    jaxpr = program.jaxpr
    others = [v for k, v in enumerate(jaxpr.outvars) if k not in loop.results]
    further = [x.variable for x in loop.reads if x.variable not in jaxpr.invars]
    of_xla = iter(jaxpr_as_fun(of_variables(program, [*further, *others]))(*arrays))
    found = dict(zip(jaxpr.invars, arrays, strict=True))
    found.update((v, next(of_xla)) for v in further)
    described = [program.out_avals[k] for k in loop.results]
    call = jax.ffi.ffi_call(name, [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in described])
    written = iter(call(*(found[x.variable] for x in loop.reads)))
    return [next(written if k in loop.results else of_xla) for k in range(len(jaxpr.outvars))]


def _inlined(program: ClosedJaxpr, arrays: Arrays) -> list[Any]:
    """The equations, and those inside of them."""
    jaxpr = program.jaxpr
    found: dict[Any, Any] = dict(zip(jaxpr.constvars, program.consts, strict=True))
    found.update(zip(jaxpr.invars, arrays, strict=False))  # a held program may wait for more

    def of(atom: Any) -> Any:
        return atom.val if isinstance(atom, Literal) else found[atom]

    for equation in jaxpr.eqns:
        operands = list(map(of, equation.invars))
        inside = INLINED.get(equation.primitive.name)
        if inside is not None:
            out = _inlined(private.closed(equation.params[inside]), operands)
        else:
            bound = private.bind(equation.primitive, equation.params, operands)
            out = list(bound) if equation.primitive.multiple_results else [bound]
        found.update(zip(equation.outvars, out, strict=True))
    return list(map(of, jaxpr.outvars))


def of_variables(program: ClosedJaxpr, variables: Sequence[Any]) -> ClosedJaxpr:
    """The program of some of its variables."""
    whole = program.jaxpr.replace(outvars=list(variables))
    jaxpr, _ = pe.dce_jaxpr(whole, [True] * len(variables), instantiate=True)
    return ClosedJaxpr(jaxpr, program.consts)


# ------------------------------------------------------------------ in C

_PART = """// jaxlib {version}
#define _GNU_SOURCE
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include "xla/ffi/api/c_api.h"

typedef {type} T;
enum {{ FROM = {reads}, TO = {writes}, AXES = {rank}, INNER_AXES = {inner}, INNER_ROWS = {rows} }};
// Rows of inner entries alone are repeated until a loop is so long.
enum {{ LONG = 256 }};

static const T *repeated_row(const T *row, int64_t inner, int64_t times, T *to)
{{
  if (times == 1) return row;
  for (int64_t k = 0; k < times; k++) memcpy(to + k * inner, row, inner * sizeof(T));
  return to;
}}

static void part(const T *const *from, T *const *to, int64_t total, int64_t inner, int64_t first,
                 int64_t count)
{{
  const int64_t times = INNER_ROWS && inner < LONG ? LONG / inner : 1;
  const int64_t run = INNER_ROWS ? times * inner : count;
  T repeated[INNER_ROWS + 1][LONG];
  {pointers}
  for (int64_t p = first, end = first + count; p < end; p += run) {{
    const int64_t n = end - p < run ? end - p : run;
    {moved}
#pragma GCC ivdep
    for (int64_t i = 0; i < n; i++) {{
      {lines}
    }}
  }}
}}

"""


def _source(loop: Loop, dtype: str) -> str | None:
    """The loop in C; None for a type, or axes, that it does not know."""
    inner = {read.inner for read in loop.reads} - {0, loop.rank}
    repeated = sum(len(read.names) for read in loop.reads if read.inner in inner)
    if dtype not in TYPES or len(inner) > 1 or repeated > MOST_REPEATED:
        return None
    pointers, moved, lines = [], [], []
    free = iter(range(repeated))
    for k, read in enumerate(loop.reads):
        for row, name in enumerate(read.names):
            if read.inner == 0:
                pointers.append(f"const T {name} = from[{k}][{row}];")
                continue
            if read.inner == loop.rank:
                moved.append(f"const T *a{name} = from[{k}] + {row} * total + p;")
            else:
                row_at = f"from[{k}] + {row} * inner, inner, times, repeated[{next(free)}]"
                pointers.append(f"const T *a{name} = repeated_row({row_at});")
            lines.append(f"const T {name} = a{name}[i];")
    lines += [
        f"const T {name} = {_text(a)} {symbol} {_text(b)};" for name, symbol, a, b in loop.lines
    ]
    for k, array in enumerate(loop.writes):
        for row, x in enumerate(array):
            moved.append(f"T *w{k}_{row} = to[{k}] + {row} * total + p;")
            lines.append(f"w{k}_{row}[i] = {_text(x)};")
    head = _PART.format(
        version=jaxlib.__version__,
        type=TYPES[dtype],
        reads=len(loop.reads),
        writes=len(loop.writes),
        rank=loop.rank,
        inner=next(iter(inner), 0),
        rows=repeated,
        pointers="\n  ".join(pointers),
        moved="\n    ".join(moved),
        lines="\n      ".join(lines),
    )
    return head + shared_library.text("jax/loops.c")


def _text(x: Number) -> str:
    return x if isinstance(x, str) else f"(T){float(x)!r}"


def _target(source: str) -> str | None:
    """The name by which XLA knows a loop."""
    with _REGISTERING:
        return _registered(source)


_REGISTERING = Lock()
"""XLA takes a name once."""


@cache
def _registered(source: str) -> str | None:
    options = (LEVEL, "-I", jax.ffi.include_dir(), *shared_library.instructions())
    made = shared_library.functions(source, "loop", options=options)
    if made is None:
        return None
    name = f"jetfold_{hashlib.sha256(source.encode()).hexdigest()[:32]}"
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(made[0]), platform="cpu")
    return name
