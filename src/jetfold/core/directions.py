"""Schemes: which directions are propagated for an operator, and with which symbols in them.

Every scheme is a set of symbols in abstract variables ζ_r = v_r·ξ, and the directions v_r:

    minimal    the operator's own symbols, their quadratic form diagonalised
    standard   ζ_r^k for every direction and order by itself (vanilla Taylor mode)
    collapsed  Σ_r w_r ζ_r^k, one sum per order (collapsed Taylor mode)

so that one algebra (`algebra.jet_algebra`) serves all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import combinations
from itertools import product as cartesian
from math import comb, factorial, gcd, lcm, prod
from typing import Literal, get_args

import numpy as np

from .algebra import JetAlgebra, jet_algebra
from .polynomial import TOLERANCE, Monomial, Number, Polynomial, absolute

Direction = tuple[tuple[int, Number], ...]
"""A sparse vector: ((coordinate, component), …), ascending."""

Method = Literal["minimal", "collapsed", "standard"]

METHODS: tuple[Method, ...] = get_args(Method)

_LARGE = 1000  # integer components of a direction stay below it, for the sake of narrow floats

_EQUILIBRATE = 10  # rounds of Ruiz's equilibration

_EXACT_LDL = 40  # up to this many variables a quadratic form is diagonalised in fractions


class Scheme:
    """An algebra in abstract variables and the direction of each; None: the coordinates."""

    def __init__(
        self, algebra: JetAlgebra, directions: tuple[Direction, ...] | None = None
    ) -> None:
        self.algebra = algebra
        self.directions = directions

    def seeds(self, degree: int, coordinates: int) -> np.ndarray | None:
        """(e_w(∂)x)_i for the basis elements of that degree: float64 (size, coordinates), or None.

        A coefficient of the input is linear in the point, so only the linear terms of e_w count.
        """
        entries = self.algebra.linear[degree]
        if not entries:
            return None
        seeds = np.zeros((self.algebra.sizes[degree], coordinates))
        for w, r, c in entries:
            direction = ((r, 1),) if self.directions is None else self.directions[r]
            for i, component in direction:
                seeds[w, i] += c * float(component)
        return seeds


@lru_cache(maxsize=256)
def scheme(symbols: tuple[Polynomial, ...], method: Method) -> Scheme:
    """The scheme that evaluates these symbols by that method."""
    if method == "minimal":
        return minimal(symbols)
    return taylor(symbols, collapse=method == "collapsed")


def minimal(symbols: tuple[Polynomial, ...]) -> Scheme:
    """The fewest coefficients; one quadratic form is diagonalised so that products are sparse."""
    forms = [symbol.part(2) for symbol in symbols if symbol.degree == 2]
    if max((symbol.degree for symbol in symbols), default=0) == 2 and _proportional(forms):
        form = forms[0]
        if any(a != b for a, b in form.terms):
            return _diagonal(symbols, form)
    return Scheme(jet_algebra(symbols))


def _proportional(forms: Sequence[Polynomial]) -> bool:
    first = forms[0]
    pivot, c = next(iter(first.terms.items()))
    return all(
        form.exact and form * c == first * form.terms.get(pivot, Fraction(0)) for form in forms[1:]
    )


def _diagonal(symbols: tuple[Polynomial, ...], form: Polynomial) -> Scheme:
    """Rewrite the symbols in ζ = Vᵀξ, where the form is Σ_r d_r ζ_r²."""
    weights, columns, inverse = diagonalise(form)
    variables = form.variables
    extra = sorted({v for s in symbols for v in s.variables} - set(variables))
    everything = [*variables, *extra]
    forms = {
        v: Polynomial({(r,): inverse[r][k] for r in range(len(variables)) if inverse[r][k]})
        for k, v in enumerate(variables)
    } | {v: Polynomial.variable(len(variables) + k) for k, v in enumerate(extra)}
    diagonal = Polynomial({(r, r): d for r, d in enumerate(weights)})
    pivot, c = next(iter(form.terms.items()))
    rewritten = []
    for symbol in symbols:
        ratio = symbol.terms.get(pivot, Fraction(0)) / c
        linear = (symbol.part(1) + symbol.part(0)).substitute(forms)
        rewritten.append(diagonal * ratio + linear)
    directions = (*columns, *(((v, Fraction(1)),) for v in everything[len(variables) :]))
    return Scheme(jet_algebra(tuple(rewritten)), directions)


def diagonalise(
    form: Polynomial,
) -> tuple[list[Number], list[Direction], list[list[Number]]]:
    """d, V and (V⁻ᵀ)ᵀ = V⁻¹ with ξᵀCξ = Σ_r d_r (v_r·ξ)², for a quadratic form.

    Fractions by LDLᵀ with symmetric pivoting (Lagrange's reduction) while the form is exact and
    small, otherwise in floating point the eigenvectors after equilibration. Indefinite forms give
    weights of both signs, a form of low rank gives zeros.

    Returns:
        the weights d_r, the directions v_r, and rows such that ξ_k = Σ_r rows[r][k] ζ_r.
    """
    variables = form.variables
    n = len(variables)
    index = {v: k for k, v in enumerate(variables)}
    inverse: list[list[Number]]
    if form.exact and n <= _EXACT_LDL:
        matrix: list[list[Number]] = [[Fraction(0)] * n for _ in range(n)]
        for (a, b), c in form.terms.items():
            matrix[index[a]][index[b]] += c / 2
            matrix[index[b]][index[a]] += c / 2
        weights, vectors = _lagrange(matrix)
        inverse = _inverse(vectors)
    else:
        dense = np.zeros((n, n))
        for (a, b), c in form.terms.items():
            dense[index[a], index[b]] += float(c) / 2
            dense[index[b], index[a]] += float(c) / 2
        # C = S (Σ_r d_r q_r q_rᵀ) S with v_r = S q_r: no term is small for its units alone.
        units = np.sqrt(np.abs(dense).max(0))
        for _ in range(_EQUILIBRATE):
            units *= np.sqrt(np.abs(dense / np.outer(units, units)).max(0))
        values, eigenvectors = np.linalg.eigh(dense / np.outer(units, units))
        values[np.abs(values) <= TOLERANCE * np.abs(values).max()] = 0
        weights = values.tolist()
        vectors = (eigenvectors.T * units).tolist()
        inverse = (eigenvectors.T / units).tolist()
    directions = [
        tuple((variables[k], c) for k, c in enumerate(vector) if c != 0) for vector in vectors
    ]
    return weights, directions, inverse


def _lagrange(matrix: list[list[Number]]) -> tuple[list[Number], list[list[Number]]]:
    """d and vectors v_r with C = Σ_r d_r v_r v_rᵀ, the v_r a basis; exact."""
    n = len(matrix)
    rest = [row[:] for row in matrix]
    weights: list[Number] = []
    vectors: list[list[Number]] = []

    def split_off(vector: list[Number], weight: Number) -> None:
        weights.append(weight)
        vectors.append(vector)
        for i in range(n):
            for j in range(n):
                rest[i][j] -= weight * vector[i] * vector[j]

    while any(any(row) for row in rest):
        # C − (Cx)(Cx)ᵀ / xᵀCx has a lower rank. A coordinate serves as x if its square is large
        # (a small one would leave large terms that cancel), else the sum of two that are coupled.
        k = max(range(n), key=lambda k: absolute(rest[k][k]))
        i, j = max(
            combinations(range(n), 2), key=lambda ij: absolute(rest[ij[0]][ij[1]]), default=(k, k)
        )
        if 2 * absolute(rest[k][k]) >= absolute(rest[i][j]):
            image, pivot = rest[k], rest[k][k]
        else:
            sign = 1 if rest[i][j] > 0 else -1
            image = [a + sign * b for a, b in zip(rest[i], rest[j], strict=True)]
            pivot = image[i] + sign * image[j]
        split_off([c / pivot for c in image], pivot)
    for unit in _complement(vectors, n):
        weights.append(Fraction(0))
        vectors.append(unit)
    return weights, vectors


def _eliminate(rows: list[list[Number]], width: int) -> None:
    """Gauss-Jordan in place on the first `width` columns."""
    rank = 0
    for column in range(width):
        pivot = next((r for r in range(rank, len(rows)) if rows[r][column]), None)
        if pivot is None:
            continue
        rows[rank], rows[pivot] = rows[pivot], rows[rank]
        rows[rank] = [c / rows[rank][column] for c in rows[rank]]
        for r in range(len(rows)):
            if r != rank and rows[r][column]:
                factor = rows[r][column]
                rows[r] = [c - factor * p for c, p in zip(rows[r], rows[rank], strict=True)]
        rank += 1


def _complement(vectors: list[list[Number]], n: int) -> list[list[Number]]:
    """Unit vectors that complete independent vectors to a basis of the whole space."""
    rows = [row[:] for row in vectors]
    _eliminate(rows, n)
    leading = {next(k for k, c in enumerate(row) if c) for row in rows}
    return [[Fraction(int(i == k)) for i in range(n)] for k in range(n) if k not in leading]


def _inverse(vectors: list[list[Number]]) -> list[list[Number]]:
    """rows with ξ_k = Σ_r rows[r][k] ζ_r, where ζ_r = vectors[r]·ξ."""
    n = len(vectors)
    rows = [[*row, *(Fraction(int(r == c)) for c in range(n))] for r, row in enumerate(vectors)]
    _eliminate(rows, n)
    return [[rows[k][n + r] for k in range(n)] for r in range(n)]


def taylor(symbols: tuple[Polynomial, ...], *, collapse: bool) -> Scheme:
    """Taylor mode along directions: p(ξ) = Σ_k Σ_r w_{kr} (v_r·ξ)^k, tops summed or kept apart."""
    found: dict[Direction, int] = {}
    wanted, tops = [], []
    for symbol in symbols:
        total = symbol.part(0)
        for degree in range(1, symbol.degree + 1):
            terms: dict[Monomial, Number] = {}
            for direction, weight in powers(symbol.part(degree)):
                monomial = (found.setdefault(direction, len(found)),) * degree
                terms[monomial] = terms.get(monomial, Fraction(0)) + weight
            part = Polynomial(terms)
            total = total + part
            if collapse:
                tops.append(part)
            else:
                tops.extend(Polynomial({monomial: 1}) for monomial in part.terms)
        wanted.append(total)
    return Scheme(jet_algebra(tuple(wanted), tuple(t for t in tops if t)), tuple(found))


def powers(form: Polynomial) -> Iterator[tuple[Direction, Number]]:
    """Write a homogeneous polynomial of degree k as Σ_r w_r (v_r·ξ)^k, each direction once."""
    degree = form.degree
    if degree == 1:
        yield _primitive({m[0]: c for m, c in form.terms.items()}, 1)
    elif degree == 2:
        if all(a == b for a, b in form.terms):
            yield from ((((a, Fraction(1)),), c) for (a, _), c in sorted(form.terms.items()))
        else:
            weights, directions, _ = diagonalise(form)
            for weight, direction in zip(weights, directions, strict=True):
                if weight:
                    primitive, scale = _primitive(dict(direction), 2)
                    yield primitive, weight * scale
    elif degree > 2:
        total: dict[Direction, Number] = {}
        for monomial, c in form.terms.items():
            for direction, weight in interpolate(monomial):
                total[direction] = total.get(direction, Fraction(0)) + weight * c
        yield from ((v, w) for v, w in sorted(total.items()) if w)


@lru_cache(maxsize=4096)
def interpolate(monomial: Monomial) -> tuple[tuple[Direction, Number], ...]:
    """ξ^i = Σ_{|j|=K} γ_{i,j}/K! · (j·ξ)^K (Griewank, Utke and Walther 1999), parallel j merged."""
    counts = sorted(Counter(monomial).items())
    i, K = tuple(power for _, power in counts), len(monomial)
    total: dict[Direction, Number] = {}
    for j in _compositions(K, len(i)):
        vector = {v: Fraction(jp) for (v, _), jp in zip(counts, j, strict=True)}
        direction, scale = _primitive(vector, K)
        total[direction] = total.get(direction, Fraction(0)) + gamma(i, j) / factorial(K) * scale
    return tuple((direction, weight) for direction, weight in total.items() if weight)


@lru_cache(maxsize=4096)
def gamma(i: tuple[int, ...], j: tuple[int, ...]) -> Fraction:
    """γ_{i,j} = Σ_{0 < m ≤ i} (−1)^{|i−m|} C(i,m) C(K·m/|m|, j) (|m|/K)^K, K = |i| = |j|.

    Griewank, Utke and Walther 1999; Dangel et al. 2025, appendix E.
    """
    K = sum(i)
    total = Fraction(0)
    for m in cartesian(*(range(p + 1) for p in i)):
        if size := sum(m):
            sign = (-1) ** (K - size)
            inner = prod(_binomial(Fraction(K * mp, size), jp) for mp, jp in zip(m, j, strict=True))
            outer = prod(comb(ip, mp) for ip, mp in zip(i, m, strict=True))
            total += sign * outer * inner * Fraction(size, K) ** K
    return total


def _binomial(a: Fraction, b: int) -> Fraction:
    """The generalised binomial Π_{l<b} (a−l)/(b−l)."""
    return prod(((a - k) / (b - k) for k in range(b)), start=Fraction(1))


def _compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    if parts == 1:
        yield (total,)
    else:
        for first in range(total, -1, -1):
            yield from ((first, *rest) for rest in _compositions(total - first, parts - 1))


def _primitive(components: Mapping[int, Number], degree: int) -> tuple[Direction, Number]:
    """v = s·u with u a primitive integer vector, first component positive: (u, s^degree).

    Parallel directions become equal, so a direction that two terms need is propagated once. Where
    the integers would be large, the largest component is 1 instead.
    """
    nonzero = {v: c for v, c in sorted(components.items()) if c}
    scale: Number = max(absolute(c) for c in nonzero.values())
    exact = [c for c in nonzero.values() if isinstance(c, Fraction)]
    if len(exact) == len(nonzero):
        denominator = lcm(*(c.denominator for c in exact))
        unit = Fraction(gcd(*(int(c * denominator) for c in exact)), denominator)
        if scale <= _LARGE * unit:
            scale = unit
    if next(iter(nonzero.values())) < 0:
        scale = -scale
    return tuple((v, c / scale) for v, c in nonzero.items()), scale**degree
