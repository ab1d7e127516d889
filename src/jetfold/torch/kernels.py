"""Compositions as compiled loops (`loops`): which have them, and how a layer runs by them.

A layer W φ(û) + b is done some points at a time, so that φ(û) never leaves the cache; its gradient
likewise. Everything here is optional: where there is no compiler, or tensors lie in memory as no
loop reads them, `inplace` does the same by PyTorch's operations.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from . import arrays as XP
from . import private, shared_library
from .inplace import Composition, plan_of
from .loops import ARRAY, TYPES, Loops, source
from .scalars import Program

AFTER = 8
"""A composition is compiled when it is met for this time: what runs a few times does not wait."""

MANY = 2**12
"""Kernels that are remembered."""

MOST = 3000
"""Loops of more lines are left to PyTorch: a compiler would take seconds."""

WIDE = 20
"""Second order with more vectors is a few operations on large blocks: PyTorch does them as well."""


class Kernel(NamedTuple):
    """The functions of one composition, compiled.

    Attributes:
        source: in C.
        sizes: how many coefficients of φ(û) belong to each degree.
        broadcast: which arrays of û have no axis of points.
        forward, reverse: the functions.
        outside: for each of them what further arrays it reads, of u and y; None where these are
            the entries of the tower.
    """

    source: str
    sizes: tuple[int, ...]
    broadcast: tuple[bool, ...]
    forward: Callable[..., Any]
    reverse: Callable[..., Any]
    outside: tuple[Any, Any]


def built(of: Composition, dtype: Any, broadcast: tuple[bool, ...]) -> Kernel | None:
    """The kernel of a composition, compiled now; None where it is not worth one, or has none."""
    algebra, name = of.algebra, name_of(of.tower)
    if name is None or (algebra.order <= 2 and algebra.vectors > WIDE):
        return None
    tower: Any = of.tower
    entries = _on_scalars(name, algebra.order + 1)
    if entries is None:
        u = torch.zeros(1, dtype=dtype, device="cpu")
        entries = of.tower(u, of.function(u), algebra.order + 1, XP)
        tower = entries = [ARRAY if isinstance(t, torch.Tensor) else t for t in entries]
    there = (True, *[t is not None for t in entries])
    sizes = plan_of(algebra, of.given, there[:-1]).sum.sizes
    written, forward, reverse = source(Loops(algebra, of.given, tower, sizes), dtype, broadcast)
    if len(forward.lines) + len(reverse.lines) > MOST:
        return None
    made = shared_library.functions(written, "forward", "reverse")
    if made is None:
        return None
    outside = (forward.outsiders, reverse.outsiders) if callable(tower) else (None, None)
    return Kernel(written, sizes, broadcast, made[0], made[1], outside)


# ------------------------------------------------------------------ which composition has one


_met: dict[Any, int] = {}
"""How often a function was composed with the jets of an algebra, in a dtype."""

_found: dict[Any, Kernel | None] = {}
"""The kernels of those that were met often enough, by how their coefficients lie in memory."""


def find(of: Composition, arrays: Sequence[Any]) -> Kernel | None:
    """The kernel of a composition of these arrays, where there is one."""
    first = arrays[0]
    if not first.is_cpu or first.dtype not in TYPES or private.is_observed():
        return None
    if shared_library.compiler() is None:
        return None
    if not first.numel() or not all([_is_plain(x) for x in arrays]):
        return None
    lacking = without_points(arrays[1:], first.shape)  # of one array, none
    if lacking is None:
        return None
    broadcast = (False, *lacking)
    name = name_of(of.tower)
    if name is None:
        return None
    kind = (of.algebra.key, name, first.dtype)
    _met[kind] = met = _met.get(kind, 0) + 1
    if met < AFTER:
        return None
    key = (kind, of.given, broadcast)
    if key not in _found:
        if len(_found) >= MANY:
            _found.clear()
            _met.clear()
        _found[key] = built(of, first.dtype, broadcast)
    return _found[key]


def name_of(tower: Any) -> Any:
    """What stands for a tower: equal for equal ones. None where nothing does."""
    if not isinstance(tower, partial):
        return (tower, ()) if isinstance(tower, Hashable) else None
    if tower.args or not all(
        type(v) in (int, float, bool, str, type(None)) for v in tower.keywords.values()
    ):
        return None
    return (tower.func, tuple(sorted(tower.keywords.items())))


def _on_scalars(name: Any, order: int) -> list[Any] | None:
    """The entries of a tower, where it runs on scalars."""
    tower, keywords = name
    program = Program()
    u, y = program.let("r0[i]", lambda u, y: u), program.let("y[i]", lambda u, y: y)
    try:
        return list(tower(u, y, order, program.functions(), **dict(keywords)))
    except (TypeError, AttributeError):
        return None


def without_points(blocks: Sequence[Any], shape: Sequence[int]) -> list[bool] | None:
    """Which blocks lack the leading axes of a value's shape; None where not all lack as many, or
    other axes. Dynamo traces it too."""
    found, lacking = [], []
    for block in blocks:
        full = block.shape[1:] == shape
        found.append(not full)
        if not full:
            lacking.append(_lacking_axes(block.shape[1:], shape))
    if None in lacking or any([axes != lacking[0] for axes in lacking]):
        return None
    return found


def _lacking_axes(shape: Sequence[int], full: Sequence[int]) -> int | None:
    """So many leading axes have length one, and the others are in full; None if it is otherwise."""
    for axes in range(1, len(full)):
        if all([n == 1 for n in shape[:axes]]) and shape[axes:] == full[axes:]:
            return axes
    return None


# ------------------------------------------------------------------ running them


CACHE = 2**16
"""So many numbers of φ(û) at a time stay in the cache of a core."""
LONGEST = 2**9
"""Sums over more points than this are made of such: fewer roundings follow each other."""
FEWEST = 2**5
"""So many points make a product of matrices worth while."""
ALONE = 2**15
"""So many numbers, or fewer, are not worth a second thread."""


class Layer:
    """W φ(û) + b, or φ(û), for all points.

    Attributes:
        of, arrays, y: φ, û and φ(u).
        weight: W.
        inside: whether the kernel multiplies by it, part by part.
    """

    def __init__(
        self, kernel: Kernel, of: Composition, arrays: Sequence[Any], y: Any, weight: Any
    ) -> None:
        self.kernel, self.of, self.arrays, self.y, self.weight = kernel, of, arrays, y, weight
        self.rows, count = sum(kernel.sizes), y.numel()
        self.width = 0
        for x, broadcast in zip(arrays, kernel.broadcast, strict=True):
            if broadcast:
                self.width = x.numel() // x.shape[0]
        self.total = y.shape[0] if y.ndim > 1 else 1
        part = CACHE * self.total // (self.rows * count)
        self.inside = (
            weight is not None
            and part >= FEWEST
            and weight.is_cpu
            and weight.shape[1] == y.shape[-1]
            and _is_plain(weight)
            and shared_library.gemm(y.dtype) != 0
        )
        if self.inside:
            part = min(part, LONGEST)
        else:
            self.total = self.total if self.width else count
            part = self.total
        threads = torch.get_num_threads() if count * self.rows > ALONE else 1
        self.part = min(part or 1, -(-self.total // threads))
        self.threads = min(threads, -(-self.total // self.part))

    def forward(self, bias: Any = None) -> Any:
        """The values, in one array."""
        y, weight = self.y, self.weight
        shape = (*y.shape[:-1], weight.shape[0]) if self.inside else y.shape
        out = y.new_empty((self.rows, *shape))
        added = self.inside and bias is not None and bias.is_cpu and bias.shape == weight.shape[:1]
        self._call(0, bias if added else None, [out.data_ptr(), out.stride(0), 0, 0], ())
        if weight is not None and not self.inside:
            out = F.linear(out, weight)
        if bias is not None and not added:
            out[0].add_(bias)
        return out

    def reverse(self, cotangent: Any, by_weight: bool) -> tuple[Any, list[Any]]:
        """The gradients by the weight, where it is asked for, and by û."""
        y, of = self.y, self.of
        of_weight: Any = None
        if self.weight is not None and not self.inside:
            if by_weight:
                of_weight = cotangent.flatten(0, -2).t() @ Layer(
                    self.kernel, of, self.arrays, y, None
                ).forward().flatten(0, -2)
            cotangent = cotangent @ self.weight
        elif by_weight:
            of_weight = y.new_zeros((self.threads, *self.weight.shape))
        sizes = [n for n in of.given.sizes if n]
        sizes = [sum(sizes)] if of.given.together else sizes
        to = [
            y.new_zeros((self.threads, *x.shape), dtype=torch.float64)
            if broadcast
            else y.new_empty((n, *y.shape))
            for n, x, broadcast in zip(sizes, self.arrays, self.kernel.broadcast, strict=True)
        ]
        cotangent = plain(cotangent)
        where = of_weight.data_ptr() if self.inside and by_weight else 0
        self._call(1, None, [where, 0, cotangent.data_ptr(), cotangent.stride(0)], to)
        if self.inside and by_weight:
            of_weight = of_weight[0] if self.threads == 1 else of_weight.sum(0)
        found = [
            x.sum(0).to(y.dtype) if broadcast else x
            for x, broadcast in zip(to, self.kernel.broadcast, strict=True)
        ]
        return of_weight, found if of.given.together else [found[0][0], *found[1:]]

    def _call(self, which: int, bias: Any, ends: list[int], written: Sequence[Any]) -> None:
        """Count out the fields and the arrays."""
        y, inner = self.y, self.y.numel() // self.total
        numbers = [self.total, inner, self.width, self.part, self.threads]
        if self.inside:
            out, in_ = self.weight.shape
            size = self.rows * self.part * inner + out * in_
            scratch = y.new_empty(self.threads * size)
            bias = None if bias is None else plain(bias)
            numbers += [
                shared_library.gemm(y.dtype), self.weight.data_ptr(),
                0 if bias is None else bias.data_ptr(), in_, out, scratch.data_ptr(), size,
            ]  # fmt: skip
        else:
            numbers += [0, 0, 0, 1, 1, 0, 0]
        numbers += ends
        for x, broadcast in zip(self.arrays, self.kernel.broadcast, strict=True):
            numbers += [x.data_ptr(), x.stride(0) if x.ndim > y.ndim else 0, not broadcast]
        outside = self._outside(which)
        for x in (y, *outside):
            numbers += [x.data_ptr(), 0, 1]
        for x, broadcast in zip(written, self.kernel.broadcast, strict=False):
            if broadcast:  # rows of every thread
                numbers += [x.data_ptr(), x.stride(1), x.shape[1]]
            else:
                numbers += [x.data_ptr(), x.stride(0), 0]
        function = self.kernel.reverse if which else self.kernel.forward
        function((ctypes.c_int64 * len(numbers))(*numbers))

    def _outside(self, which: int) -> list[Any]:
        """The further arrays that a loop reads."""
        of, y, recipes = self.of, self.y, self.kernel.outside[which]
        u = of.value(self.arrays)
        if recipes is not None:
            return [recipe(u, y).contiguous() for recipe in recipes]
        entries = of.tower(u, y, of.algebra.order + which, XP)
        return [x.contiguous() for x in entries if isinstance(x, torch.Tensor)]


def _is_plain(x: Any) -> bool:
    """Whether its memory holds its numbers, one after the other."""
    return x.is_contiguous() and not x.is_neg() and not x._is_zerotensor()


def plain(x: Any) -> Any:
    """The same numbers in memory, one after the other."""
    return x if _is_plain(x) else x.clone(memory_format=torch.contiguous_format)
