"""Functions of which only directional derivatives are known.

    φ(û)_w = Σ_k 1/k! Σ_{a_1 … a_k} (ê_{a_1} ⋯ ê_{a_k})_w · D^kφ(u)[û_{a_1}, …, û_{a_k}]

This serves every operation that a framework differentiates in forward mode but that has no rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .algebra import JetAlgebra
from .arrays import Array, Block

Monomials = Sequence[Sequence[tuple[tuple[int, ...], tuple[tuple[int, float], ...]]]]
"""What `algebra.monomials` returns."""


def blocks(
    algebra: JetAlgebra,
    monomials: Monomials,
    primals: Sequence[Array],
    inputs: Sequence[Sequence[Block]],
    directional: Callable[[list[list[Array]]], Sequence[Array]],
    outputs: int,
    xp: Any,
) -> list[list[Block]]:
    """The blocks of every output of φ.

    Args:
        monomials: those of the algebra.
        primals: the inputs of φ.
        inputs: per input its blocks, of the full shape of the primal.
        directional: from k lists of tangents, one per input, all stacked along a leading axis, to
            D^kφ(primals)[tangents_1, …, tangents_k] of every output, stacked likewise.
        outputs: how many φ has.
        xp: `stack`, `unstack` and `zeros_like`.
    """
    rows: list[list[Array | None]] = []  # per basis element beyond the unit, a tangent per input
    for degree in range(1, algebra.order + 1):
        of_degree = [found[degree - 1] for found in inputs]
        of_degree = [None if b is None else xp.unstack(b) for b in of_degree]
        for a in range(algebra.sizes[degree]):
            rows.append([None if b is None else b[a] for b in of_degree])
    totals: list[list[Array | None]] = [[None] * (algebra.vectors - 1) for _ in range(outputs)]
    for k, terms in enumerate(monomials, 1):
        met = [t for t in terms if all(any(r is not None for r in rows[a - 1]) for a in t[0])]
        if not met:
            continue
        slots = [
            [
                xp.stack([_or_zeros(rows[t[0][slot] - 1][j], p, xp) for t in met])
                for j, p in enumerate(primals)
            ]
            for slot in range(k)
        ]
        for total, stacked in zip(totals, directional(slots), strict=True):
            for row, (_, combination) in zip(xp.unstack(stacked), met, strict=True):
                for w, c in combination:
                    term = row * c
                    so_far = total[w - 1]
                    total[w - 1] = term if so_far is None else so_far + term
    return [_by_degree(algebra, total, xp) for total in totals]


def _or_zeros(row: Array | None, like: Array, xp: Any) -> Array:
    return xp.zeros_like(like) if row is None else row


def _by_degree(algebra: JetAlgebra, rows: Sequence[Array | None], xp: Any) -> list[Block]:
    """The rows of all degrees as one block per degree."""
    found: list[Block] = []
    start = 0
    for size in algebra.sizes[1:]:
        part = rows[start : start + size]
        start += size
        some = next((row for row in part if row is not None), None)
        found.append(None if some is None else xp.stack([_or_zeros(r, some, xp) for r in part]))
    return found
