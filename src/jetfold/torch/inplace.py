"""Σ_k t_k N^k and the gradient of it, coefficient by coefficient, in memory that is there.

What the nodes of `fused` compute with; autograd follows `Composition.plain` alone. What depends on
the algebra, and on which coefficients are there, is a `Plan`, made once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch

from ..core.algebra import JetAlgebra
from ..core.jet import Jet, compose
from . import arrays as XP

LONG = 2**13
"""Rows of so many entries are worth an operation each."""

Function = Callable[..., Any]
Place = tuple[int, int]
"""A degree, and a position within it."""


class Places(NamedTuple):
    """Where coefficients stand: in an array each, or all in one, those of degree 0, 1, … in turn.

    Attributes:
        sizes: how many belong to each degree, 0 where they are all zero.
        together: whether it is one array.
    """

    sizes: tuple[int, ...]
    together: bool

    def opened(self, arrays: Sequence[Any], rows: bool = False) -> list[Any]:
        """[value[None], block 1, …], None for zeros; rows: the value is value[None] already."""
        if self.together:
            rest = iter(arrays[0].split_with_sizes([size for size in self.sizes if size]))
        else:
            rest = iter(arrays if rows else [arrays[0][None], *arrays[1:]])
        return [next(rest) if size else None for size in self.sizes]

    def apart(self, stack: Any) -> list[Any]:
        """The value and the blocks that are there, of a stack."""
        value, *blocks = stack.split_with_sizes([size for size in self.sizes if size])
        return [value[0], *blocks]


class Composition(NamedTuple):
    """An elementwise function of jets.

    Attributes:
        function, tower: φ of values, and its tower.
        given: where û stands.
    """

    algebra: JetAlgebra
    function: Function
    tower: Function
    given: Places

    def value(self, arrays: Sequence[Any]) -> Any:
        """u."""
        return arrays[0][0] if self.given.together else arrays[0]

    def plain(self, arrays: Sequence[Any]) -> tuple[Any, tuple[int, ...]]:
        """All coefficients of φ(û) by operations that autograd follows, and how many there are."""
        u, *blocks = self.given.opened(arrays)
        y = self.function(u[0])
        tower = self.tower(u[0], y, self.algebra.order, XP)
        found = compose(Jet(self.algebra, 0, u[0], blocks), tower, y.ndim, XP)
        rows = [None if b is None else b.expand(b.shape[0], *y.shape) for b in found]
        stack = torch.cat([y[None], *[b for b in rows if b is not None]])
        return stack, (1, *[0 if b is None else b.shape[0] for b in rows])


class Part(NamedTuple):
    """So many points of a batch from `start` on."""

    start: int
    points: int

    def of(self, x: Any, axis: int = 1) -> Any:
        """Those of an array; one on which it does not depend has length one."""
        return x if x.shape[axis] == 1 else x.narrow(axis, self.start, self.points)

    def again(self, scratch: Any) -> Any:
        """An array that was made for a part, for this one, which may be shorter."""
        return None if scratch is None else scratch.narrow(1, 0, self.points)

    def multiply(self, rows: Any, matrix: Any, out: Any) -> Any:
        """rows @ matrix."""
        for x, to in zip(rows.unbind(0), out.unbind(0), strict=True):
            torch.mm(x.flatten(0, -2), matrix, out=to.flatten(0, -2))
        return out

    def add_product(self, left: Any, right: Any, out: Any) -> None:
        """leftᵀ @ right, added."""
        for x, y in zip(left.unbind(0), right.unbind(0), strict=True):
            out.addmm_(x.flatten(0, -2).t(), y.flatten(0, -2))


# ------------------------------------------------------------------ the algebra, in place


class Rows:
    """Coefficients one after the other.

    Attributes:
        rows: each of them; others may follow.
        arrays: the arrays that they stand in.
    """

    __slots__ = ("arrays", "rows")

    def __init__(self, arrays: Sequence[Any]) -> None:
        self.arrays = arrays
        self.rows: list[Any] = []
        for array in arrays:
            self.rows += array.unbind(0)

    def several(self, start: int, n: int) -> Any:
        """Some of them."""
        offset = 0
        for array in self.arrays:
            if offset <= start and start + n <= offset + array.shape[0]:
                return array[start - offset : start - offset + n]
            offset += array.shape[0]
        return XP.stack(self.rows[start : start + n])


class Run(NamedTuple):
    """out[to + i] += c · left[a + i] · right[b + i] for i < n.

    Attributes:
        moves: which of `to`, `a`, `b` go on with i; where `to` does not it is a sum.
    """

    to: int
    a: int
    b: int
    c: float
    n: int = 1
    moves: tuple[bool, bool, bool] = (False, False, False)


def add_runs(runs: Sequence[Run], out: Rows, left: Rows, right: Rows) -> None:
    """All of them, in place. Where the next row of `out` is not there, it is made."""
    to, x, y = out.rows, left.rows, right.rows
    for w, a, b, c, n, moves in runs:
        if w == len(to):
            to.append(x[a] * y[b])
            if c != 1:
                to[w].mul_(c)
        elif n == 1:
            to[w].addcmul_(x[a], y[b], value=c)
        elif moves[0]:
            u = left.several(a, n) if moves[1] else x[a]
            v = right.several(b, n) if moves[2] else y[b]
            out.several(w, n).addcmul_(u, v, value=c)
        elif n <= 4 or to[w].numel() >= LONG:
            for u, v in zip(x[a : a + n], y[b : b + n], strict=True):
                to[w].addcmul_(u, v, value=c)
        else:
            to[w].add_((left.several(a, n) * right.several(b, n)).sum(0), alpha=c)


class Term(NamedTuple):
    """out[to] += c · t_k · r[a]."""

    to: int
    k: int
    a: int
    c: float


Powers = list[dict[Place, tuple[int, float]]]
"""By k, the row and a factor of every coefficient of N^k."""


class Sum:
    """What is static about Σ_k t_k N^k.

    Attributes:
        sizes, size: how many coefficients belong to each degree, and all; one for the value.
        places: where they stand.
        terms: those for k ≥ 2.
        whole: whether they are those of û, so that t_1 û is one product.
    """

    def __init__(
        self, algebra: JetAlgebra, given: Places, powers: Powers, present: Sequence[bool]
    ) -> None:
        several = range(2, len(powers))
        held = {0} | {m for k in (1, *several) if present[k] for m, _ in powers[k]}
        self.sizes = tuple([n if m in held else 0 for m, n in enumerate(algebra.sizes)])
        self.size = sum(self.sizes)
        self.places = places(self.sizes)
        self.whole = given.together and given.sizes == self.sizes and present[1]
        self.terms = [
            Term(self.places[w], k, *row)
            for k in several
            if present[k]
            for w, row in powers[k].items()
        ]


def places(sizes: Sequence[int]) -> dict[Place, int]:
    """Where each coefficient stands."""
    found = [(m, w) for m, size in enumerate(sizes) for w in range(size)]
    return {place: n for n, place in enumerate(found)}


def structure_constants(algebra: JetAlgebra) -> list[tuple[Place, Place, Place, float]]:
    """All (w, a, b, c^w_{ab}) but for products with the unit."""
    return [
        ((m, w), (t.i, a), (t.j, b), c)
        for m, of_degree in enumerate(algebra.products)
        for t in of_degree
        for w, a, b, c in t.entries
    ]


class Plan:
    """What is static about φ(û) = Σ_k t_k N^k and its gradient, of which some t_k are there.

    Coefficients are numbered as they stand in an array. Behind those of û, as rows r, come those of
    N², N³, ….

    Attributes:
        given: where û stands.
        products: what makes the further rows.
        sum, slope: φ(û) and, where t_{K+1} is known, φ'(û).
        pairs: from the cotangent and φ'(û) to the gradient; for order 2 without what goes to the
            value, and by N and the cotangent times t_2.
        dots: for order 2, ⟨cotangent, N⟩ and ⟨cotangent, N²⟩.
    """

    def __init__(self, algebra: JetAlgebra, given: Places, present: tuple[bool, ...]) -> None:
        self.given, self.order = given, algebra.order
        table = structure_constants(algebra)
        here = places(given.sizes)
        base = {place: (n, 1.0) for place, n in here.items() if n}
        powers: Powers = [{}, base]
        self.products: list[Run] = []
        count, highest = len(here), max(k for k, there in enumerate(present) if there)
        for k in range(2, min(highest, self.order) + 1):
            sums: dict[Place, dict[tuple[int, int], float]] = {}
            for w, a, b, c in table:
                if a in powers[-1] and b in base:
                    left, scale = powers[-1][a]
                    pair = (left, base[b][0])
                    pair = (min(pair), max(pair)) if k == 2 else pair
                    terms = sums.setdefault(w, {})
                    terms[pair] = terms.get(pair, 0.0) + c * scale
            powers.append({})
            for w, terms in sorted(sums.items()):
                factors = set(terms.values())
                scale = factors.pop() if len(factors) == 1 else 1.0
                powers[-1][w] = (count, scale)
                made = [Run(count, a, b, c / scale) for (a, b), c in sorted(terms.items())]
                self.products += _runs(made, fill=True)
                count += 1
        self.sum = Sum(algebra, given, powers, present)
        if len(present) < self.order + 2:
            return
        self.slope = Sum(algebra, given, powers, present[1:])
        there = self.sum.places
        if self.order == 2:
            start = self.sum.size - self.sum.sizes[2]
            linear = [Run(0, there[w], n, 1.0) for w, (n, _) in base.items() if w in there]
            square = (
                [Run(0, there[w], *row) for w, row in powers[2].items()]
                if count > len(here)
                else []
            )
            self.dots = [_runs(linear, fill=True), _runs(square, fill=True)]
            pairs = [
                Run(here[a], there[w] - start, here[b], 2 * c)
                for w, a, b, c in table
                if a in here and w in there and b in here
            ]
            self.pairs = _runs(sorted(pairs))
            return
        slope = self.slope.places
        pairs = [Run(0, there[w], n, 1.0) for w, n in slope.items() if n and w in there]
        pairs += [
            Run(here[a], there[w], slope[b], c)
            for w, a, b, c in table
            if a in here and w in there and b in slope
        ]
        self.pairs = _runs(sorted(pairs))


def _runs(entries: Sequence[Run], fill: bool = False) -> list[Run]:
    """As few as they can be; fill: with the first one alone, which finds nothing there."""
    found: list[Run] = []
    for k, one in enumerate(entries):
        joined = _joined(found[-1], one) if k > int(fill) else None
        if joined is None:
            found.append(one)
        else:
            found[-1] = joined
    return found


def _joined(run: Run, one: Run) -> Run | None:
    """A run that goes on with one more entry."""
    if run.c != one.c:
        return None
    steps = [new - old for new, old in zip(one[:3], run[:3], strict=True)]
    moves = tuple([step == run.n for step in steps])
    still = [step == 0 for step in steps]
    if not all(a or b for a, b in zip(moves, still, strict=True)):
        return None
    if (run.n > 1 and moves != run.moves) or sum(moves) < 2:
        return None
    return run._replace(n=run.n + 1, moves=(moves[0], moves[1], moves[2]))


@lru_cache(maxsize=1024)
def plan_of(algebra: JetAlgebra, given: Places, present: tuple[bool, ...]) -> Plan:
    """Made once."""
    return Plan(algebra, given, present)


class Opened:
    """û = u + N and a tower, for some points, and what is made of them.

    Attributes:
        arrays: û.
        tower: [t_0, t_1, …].
        rows: û, N², N³, ….
    """

    def __init__(
        self, of: Composition, arrays: Sequence[Any], y: Any, order: int, part: Part | None
    ) -> None:
        if part is not None:
            first, *rest = arrays
            first = part.of(first, 1 if of.given.together else 0)
            arrays, y = (first, *[part.of(x) for x in rest]), part.of(y, 0)
        self.arrays = arrays if of.given.together else (arrays[0][None], *arrays[1:])
        self.tower = [y, *of.tower(of.value(arrays), y, order, XP)]
        self.plan = plan_of(of.algebra, of.given, tuple([t is not None for t in self.tower]))
        self.rows = Rows(self.arrays)
        add_runs(self.plan.products, self.rows, self.rows, self.rows)

    def evaluate(self, out: Any = None) -> Any:
        """φ(û)."""
        out = self._sum(self.plan.sum, self.tower, out)
        out[0].copy_(self.tower[0])
        return out

    def new_rows(self) -> Any:
        """An array for φ(û)."""
        y = self.tower[0]
        return y.new_empty((self.plan.sum.size, *y.shape))

    def _sum(self, of: Sum, tower: Sequence[Any], out: Any) -> Any:
        """Σ_k t_k N^k; the value is left open."""
        y, first = self.tower[0], tower[1]
        if of.whole:
            out = (
                self.arrays[0] * first if out is None else torch.mul(self.arrays[0], first, out=out)
            )
        else:
            out = y.new_empty((of.size, *y.shape)) if out is None else out
            blocks = self.plan.given.opened(self.arrays, True)
            for block, to in zip(blocks[1:], Places(of.sizes, True).opened([out])[1:], strict=True):
                scale(block, first, to)
        rows = out.unbind(0) if of.terms else ()
        for w, k, a, c in of.terms:
            plus(rows[w], self.rows.rows[a], tower[k], c)
        return out

    def transpose(self, cotangent: Any, out: Any = None, in_place: bool = False) -> Any:
        """Σ c^w_{ab} cotangent[w] φ'(û)[b] for all a; it may take the place of the cotangent."""
        plan, tower, given = self.plan, self.tower, Rows((cotangent,))
        second = plan.order == 2
        if second:  # φ'(û) = t_1 + 2 t_2 N + 3 t_3 N² need not be made
            linear, square = [
                self._dot(given, runs, t) for runs, t in zip(plan.dots, tower[2:], strict=True)
            ]
            curved = None
            if plan.pairs and tower[2] is not None:
                curved = Rows((cotangent[plan.sum.size - plan.sum.sizes[2] :] * tower[2],))
        first = tower[1]
        if plan.sum.whole:
            if in_place and second:
                out = cotangent.mul_(first)
            else:
                out = cotangent * first if out is None else torch.mul(cotangent, first, out=out)
        else:
            shape = cotangent.shape[1:]
            out = cotangent.new_empty((sum(plan.given.sizes), *shape)) if out is None else out
            blocks = Places(plan.sum.sizes, True).opened([cotangent])
            for block, to in zip(blocks, Places(plan.given.sizes, True).opened([out]), strict=True):
                scale(block, first, to)
        found = Rows((out,))
        if second:
            plus(found.rows[0], linear, tower[2], 2.0)
            plus(found.rows[0], square, tower[3], 3.0)
            if curved is not None:
                add_runs(plan.pairs, found, curved, self.rows)
        elif plan.pairs:
            slope = [None if t is None else t * k for k, t in enumerate(tower[1:], 1)]
            jet = self._sum(plan.slope, slope, None)
            add_runs(plan.pairs, found, given, Rows((jet,)))
        return out

    def _dot(self, cotangent: Rows, runs: Sequence[Run], t: Any) -> Any:
        """⟨cotangent, N^k⟩, where t is there."""
        if t is None or not runs:
            return None
        total = Rows(())
        add_runs(runs, total, cotangent, self.rows)
        return total.rows[0]


def plus(out: Any, row: Any, t: Any, c: float) -> None:
    """out + c · t · row, for an entry t of a tower."""
    if row is None or t is None:
        return
    if isinstance(t, float):
        out.add_(row, alpha=c * t)
    else:
        out.addcmul_(row, t, value=c)


def scale(block: Any, t: Any, out: Any) -> None:
    """out = t · block."""
    if out is None:
        return
    if block is None or t is None:
        out.zero_()
    else:
        torch.mul(block.expand(out.shape), t, out=out)
