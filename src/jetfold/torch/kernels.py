"""Compositions as compiled loops (`loops`): which have them. `chains` runs them.

Everything here is optional: where there is no compiler, or tensors lie in memory as no loop reads
them, `inplace` does the same by PyTorch's operations.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from .. import shared_library
from . import arrays as XP
from . import compiled, private
from .compiled import TYPES
from .inplace import Composition, plan_of
from .loops import ARRAY, Loops, source
from .scalars import Program

AFTER = 8
"""A composition is compiled when it is met for this time: what runs a few times does not wait."""

MANY = 2**12
"""Kernels that are remembered."""

MOST = 3000
"""Loops of more lines are left to PyTorch: a compiler would take seconds."""

WIDE = 20
"""Second order with more vectors is a few operations on large blocks: PyTorch does them as well."""


STEPS = "forward_part", "reverse_part", "prepare", "finish"
"""The functions of layer.c by which a layer takes part in a chain, in the order in which it counts
them; there are others, `start_…`, of the layer that a chain begins with."""


@dataclass(eq=False)
class Kernel:
    """The functions of one composition, compiled.

    Attributes:
        source: in C.
        sizes: how many coefficients of φ(û) belong to each degree.
        broadcast: which arrays of û have no axis of points.
        inside: whether φ(u) is computed by the loops, and kept nowhere.
        outside: of the values and of the gradient what further arrays are read, of u and y; None
            where these are the entries of the tower.
        forward, reverse: of a chain of layers of which this is the first.
        steps, start: where the `STEPS` stand of a layer, and of one to begin with.
    """

    source: str
    sizes: tuple[int, ...]
    broadcast: tuple[bool, ...]
    inside: bool
    outside: tuple[Any, Any]
    forward: Callable[..., Any]
    reverse: Callable[..., Any]
    steps: tuple[int, ...]
    start: tuple[int, ...]

    @property
    def lines(self) -> int:
        """Of the source."""
        return self.source.count("\n")

    def __post_init__(self) -> None:
        self.rows = sum(self.sizes)
        self.alone = self.inside and self.outside == ([], [])
        """Whether it reads nothing but û."""


def may_have_one(of: Composition) -> bool:
    """Whether a composition is worth a kernel, as far as can be told before it is written."""
    algebra = of.algebra
    return name_of(of.tower) is not None and (algebra.order > 2 or algebra.vectors <= WIDE)


def built(of: Composition, dtype: Any, broadcast: tuple[bool, ...]) -> Kernel | None:
    """The kernel of a composition, compiled now; None where it is not worth one, or has none."""
    algebra, name = of.algebra, name_of(of.tower)
    if not may_have_one(of):
        return None
    tower: Any = of.tower
    entries = _on_scalars(name, algebra.order + 1)
    if entries is None:
        u = torch.zeros(1, dtype=dtype, device="cpu")
        entries = of.tower(u, of.function(u), algebra.order + 1, XP)
        tower = entries = [ARRAY if isinstance(t, torch.Tensor) else t for t in entries]
    there = (True, *[t is not None for t in entries])
    sizes = plan_of(algebra, of.given, there[:-1]).sum.sizes
    loops = Loops(algebra, of.given, tower, sizes)
    written, forward, reverse = source(loops, dtype, broadcast)
    if len(forward.lines) + len(reverse.lines) > MOST:
        return None
    start = [f"start_{step}" for step in STEPS]
    made = compiled.functions(written, "forward", "reverse", *STEPS, *start)
    if made is None:
        return None
    outside = (forward.outsiders, reverse.outsiders) if callable(tower) else (None, None)
    steps = tuple(map(shared_library.address, made[2:]))
    return Kernel(
        written, sizes, broadcast, loops.inside, outside, made[0], made[1], steps[:4], steps[4:]
    )


# ------------------------------------------------------------------ which composition has one


_met: dict[Any, int] = {}
"""How often a function was composed with the jets of an algebra, in a dtype."""

_found: dict[Any, Kernel | None] = {}
"""The kernels of those that were met often enough, by how their coefficients lie in memory."""


def find(of: Composition, arrays: Sequence[Any]) -> Kernel | None:
    """The kernel of a composition of these arrays, where there is one."""
    first = arrays[0]
    if not first.is_cpu or first.dtype not in TYPES or not first.numel():
        return None
    if not all([is_plain(x) for x in arrays]):
        return None
    lacking = without_points([x.shape for x in arrays[1:]], first.shape)  # of one array, none
    return find_for(of, first.dtype, None if lacking is None else (False, *lacking))


def find_for(of: Composition, dtype: Any, broadcast: tuple[bool, ...] | None) -> Kernel | None:
    """The same of arrays that are plain memory, of which some have no axis of points."""
    if broadcast is None or private.is_observed() or shared_library.compiler() is None:
        return None
    name = name_of(of.tower)
    if name is None:
        return None
    kind = (of.algebra.key, name, dtype)
    _met[kind] = met = _met.get(kind, 0) + 1
    if met < AFTER:
        return None
    key = (kind, of.given, broadcast)
    if key not in _found:
        if len(_found) >= MANY:
            _found.clear()
            _met.clear()
        _found[key] = built(of, dtype, broadcast)
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
    """Which blocks, of such shapes, lack the leading axes of a value's; None where not all lack as
    many, or other axes. Dynamo traces it too."""
    found, lacking = [], []
    for block in blocks:
        full = block[1:] == shape
        found.append(not full)
        if not full:
            lacking.append(_lacking_axes(block[1:], shape))
    if None in lacking or any([axes != lacking[0] for axes in lacking]):
        return None
    return found


def _lacking_axes(shape: Sequence[int], full: Sequence[int]) -> int | None:
    """So many leading axes have length one, and the others are in full; None if it is otherwise."""
    for axes in range(1, len(full)):
        if all([n == 1 for n in shape[:axes]]) and shape[axes:] == full[axes:]:
            return axes
    return None


def is_plain(x: Any) -> bool:
    """Whether its memory holds its numbers, one after the other."""
    return x.is_contiguous() and not x.is_neg() and not x._is_zerotensor()


def plain(x: Any) -> Any:
    """The same numbers in memory, one after the other."""
    return x if is_plain(x) else x.clone(memory_format=torch.contiguous_format)
