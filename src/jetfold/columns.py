"""Derivatives of the outputs of a network, as tools for physics-informed networks ask for them."""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

from .derivatives import Derivatives, derivatives
from .operators import partials

Index = tuple[int, ...]
"""By which coordinates, sorted: (0, 0, 1) is ∂³/∂x_0²∂x_1."""

Symbol = tuple[Index, ...]
"""A sum of such, sorted: ((0, 0), (1, 1)) is the Laplacian in two coordinates."""

VALUE: Symbol = ((),)

Column = tuple[int, Symbol]
"""A derivative of one output of the network."""


def times(symbol: Symbol, factor: Symbol) -> Symbol:
    """The product of two symbols: derivatives of derivatives."""
    return tuple(sorted(tuple(sorted(a + b)) for a in symbol for b in factor))


@lru_cache(maxsize=256)
def operators(n: int, wanted: frozenset[Column]) -> Derivatives:
    """The value and the derivatives wanted, in n coordinates."""
    x = partials(n)
    members: dict[Symbol, Any] = {VALUE: 1}
    for symbol in sorted({symbol for _, symbol in wanted}):
        terms = [prod((x[j] for j in index[1:]), start=x[index[0]]) for index in symbol]
        members[symbol] = sum(terms[1:], start=terms[0])
    return derivatives(members)
