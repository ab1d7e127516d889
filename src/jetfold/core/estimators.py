"""Randomized operators: a sum over directions whose expectation is a polynomial in ∂.

A `Draw` says how random directions come about, an `Estimator` which polynomial in them estimates
the symbols. With v of independent components of mean 0 and variance 1 (Gaussian or ±1),

    E[(v·ξ)²] = |ξ|²,

with Gaussian ones E[(v·ξ)^{2m}] = (2m−1)!!·|ξ|^{2m} (Isserlis 1918), and with u uniform on the unit
sphere of d dimensions E[(u·ξ)^{2m}] = (2m−1)!! |ξ|^{2m} / (d(d+2)…(d+2m−2)), also if the
directions are orthogonal to each other. A form Σ_r w_r (v_r·ξ)² with positive weights is |ξ|² in
other coordinates. Any polynomial is a sum of terms, of which some are drawn (Hu et al. 2024).

The estimators are polynomials in abstract directions, so they are propagated like any operator,
collapsed: K-th powers of S directions carry 1 + (K−1)S + 1 vectors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

import numpy as np

from .algebra import jet_algebra
from .directions import Direction, powers
from .polynomial import (
    RADIAL,
    Monomial,
    Number,
    Polynomial,
    absolute,
    in_coordinates,
    quadratic_root,
)

Distribution = Literal["gaussian", "rademacher", "orthogonal", "coordinates"]

DISTRIBUTIONS: tuple[Distribution, ...] = ("gaussian", "rademacher", "orthogonal", "coordinates")


@dataclass(frozen=True)
class Sampling:
    """How an operator is estimated: what `jetfold.randomize` is told.

    Attributes:
        samples: how many directions (or terms).
        distribution: of them; None for the one that fits.
        replace: whether a term may be drawn twice.
        per_point: whether every point of a batch has its own.

    Raises:
        ValueError: impossible options.
    """

    samples: int
    distribution: Distribution | None = None
    replace: bool = False
    per_point: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.samples, int) or isinstance(self.samples, bool) or self.samples < 1:
            raise ValueError(f"samples must be a positive integer, got {self.samples!r}")
        if self.distribution is not None and self.distribution not in DISTRIBUTIONS:
            raise ValueError(
                f"distribution must be one of {', '.join(DISTRIBUTIONS)}; got {self.distribution!r}"
            )

    def estimator(self, symbols: Sequence[Polynomial], n: int) -> Estimator:
        """Of symbols in n coordinates, in which `RADIAL` may stand for all of them."""
        if self.distribution == "coordinates":
            return self._of_terms(symbols, n)
        if self.distribution is not None:
            return from_directions(symbols, self.samples, self.distribution, n)
        order = max(in_order(symbol) for symbol in symbols)
        fitting: Distribution = "rademacher" if order <= 2 else "gaussian"
        try:
            return from_directions(symbols, self.samples, fitting, n)
        except ValueError:
            return self._of_terms(symbols, n)

    def _of_terms(self, symbols: Sequence[Polynomial], n: int) -> Estimator:
        laplacian = {(RADIAL,)}
        if len(symbols) == 1 and symbols[0].terms.keys() == laplacian:
            return of_squares(n, self.samples, self.replace, symbols[0].terms[(RADIAL,)])
        return from_terms([in_coordinates(s, n) for s in symbols], self.samples, self.replace)

    def pairs(self, n: int) -> Estimator:
        """Of Σ_i ζ_i ζ_{n+i}: random mixtures z of the n indices serve both of its factors."""
        square = self.estimator((Polynomial({(RADIAL,): 1}),), n)
        (draw,), (symbol,) = square.draws, square.symbols
        assert isinstance(draw, (Isotropic, Terms))
        count = draw.rows
        product = Polynomial({(s, count + s): c for (s, _), c in symbol.terms.items()})
        return Estimator((Twice(draw),), (product,), square.variance)


def in_order(symbol: Polynomial) -> int:
    """The order of an operator, |ξ|² counted twice."""
    return max((len(m) + m.count(RADIAL) for m in symbol.terms), default=0)


@dataclass(frozen=True, eq=False)
class Fixed:
    """Directions that are not random.

    Attributes:
        directions: sparse vectors.
    """

    directions: tuple[Direction, ...]

    @property
    def rows(self) -> int:
        """How many directions it gives."""
        return len(self.directions)


@dataclass(frozen=True, eq=False)
class Isotropic:
    """v = Σ_r z_r d_r with random z.

    Attributes:
        distribution: of z.
        samples: how many v.
        factor: the d_r, sparse vectors scaled by the root of their weight; None: the coordinates.
    """

    distribution: Distribution
    samples: int
    factor: tuple[Direction, ...] | None = None

    @property
    def rows(self) -> int:
        """How many directions it gives."""
        return self.samples


@dataclass(frozen=True, eq=False)
class Terms:
    """Terms c·ξ_i^a·ξ_j^b·… of one pattern of exponents, of which some are drawn.

    Each gives one direction per factor: unit vectors, the first of them scaled so that the
    product counts with the weight of the draw.

    Attributes:
        total: how many terms there are.
        factors: how many coordinates a term has.
        coordinates: (total, factors), which; None: term i has coordinate i.
        probabilities: of the terms; None if all are equally likely.
        scale: (total,), of the first factor, or one number for all.
        samples: how many are drawn.
        replace: whether a term may be drawn twice.
    """

    total: int
    factors: int
    coordinates: np.ndarray | None
    probabilities: np.ndarray | None
    scale: np.ndarray | float
    samples: int
    replace: bool

    @property
    def rows(self) -> int:
        """How many directions it gives."""
        return self.samples * self.factors


@dataclass(frozen=True, eq=False)
class Twice:
    """The rows z of a draw as (z, 0) and then as (0, z), in twice as many coordinates."""

    draw: Isotropic | Terms

    @property
    def rows(self) -> int:
        """How many directions it gives."""
        return 2 * self.draw.rows


Draw = Fixed | Isotropic | Terms | Twice


@dataclass(frozen=True, eq=False)
class Estimator:
    """Random directions, and polynomials in them with the wanted expectation.

    Attributes:
        draws: the directions, in order.
        symbols: the polynomials, in the directions as variables.
        variance: what the variance is made of, for people.
    """

    draws: tuple[Draw, ...]
    symbols: tuple[Polynomial, ...]
    variance: tuple[str, ...] = field(default=())

    @property
    def vectors(self) -> int:
        """How many vectors are carried."""
        return jet_algebra(self.symbols).vectors

    @property
    def random(self) -> bool:
        """Whether anything is left to chance."""
        return any(not isinstance(draw, Fixed) for draw in self.draws)


class _Builder:
    """Collects draws; equal ones are made once."""

    def __init__(self) -> None:
        self.draws: list[Draw] = []
        self.rows = 0
        self.known: dict[object, int] = {}
        self.variance: dict[str, None] = {}

    def add(self, draw: Draw, key: object = None) -> int:
        """The variable of the draw's first direction."""
        if key is not None and key in self.known:
            return self.known[key]
        start = self.rows
        self.draws.append(draw)
        self.rows += draw.rows
        if key is not None:
            self.known[key] = start
        return start

    def fixed(self, form: Polynomial) -> Polynomial:
        """A homogeneous polynomial exactly, as powers of directions or as its own monomials."""
        terms: dict[Monomial, Number] = {}
        for monomial, c in form.terms.items():
            variables = {v: self.add(Fixed((((v, 1),),)), ("coordinate", v)) for v in {*monomial}}
            terms[tuple(sorted(variables[v] for v in monomial))] = c
        return Polynomial(terms)


def moment(distribution: Distribution, power: int, dimension: int) -> float:
    """E[(z·ξ)^{2m}] / |ξ|^{2m}, where z has components of variance one."""
    odd = float(prod(range(1, 2 * power, 2)))
    if distribution == "orthogonal":  # z = √d·u
        return odd * prod(dimension / (dimension + 2 * k) for k in range(power))
    return odd


_VARIANCE = {
    "gaussian": "2‖A‖²/S with A the Hessian in the directions' coordinates",
    "rademacher": "2·Σ_{i≠j} A_ij²/S with A the Hessian in the directions' coordinates",
    "orthogonal": "(d − S)·2d/((d − 1)(d + 2)·S)·(‖A‖² − tr(A)²/d), A the Hessian in d dimensions",
}


class Source:
    """A draw in plain attributes that a tracer can read, arrays as nested lists.

    Attributes:
        kind: "fixed", "isotropic" or "terms".
        twice: whether the rows come twice, see `Twice`.
        rows, coordinates: the shape of the directions.
        layout: how random numbers become directions: "all" coordinates, "some", or a "matrix".
    """

    def __init__(self, draw: Draw, n: int) -> None:
        self.twice = isinstance(draw, Twice)
        if isinstance(draw, Twice):
            draw, n = draw.draw, n // 2
        self.kind = type(draw).__name__.lower()
        self.rows, self.coordinates = draw.rows, n
        self.distribution = ""
        self.samples = self.dimension = self.total = self.factors = 0
        self.layout = "all"
        self.replace = self.weighted = False
        self.scale: float | None = None
        self.fixed: list[list[float]] = []
        self.factor: list[list[float]] = []
        self.places: list[Any] = []
        self.scales: list[float] = []
        self.ends: list[float] = []
        if isinstance(draw, Fixed):
            self.fixed = matrix(draw.directions, n).tolist()
        elif isinstance(draw, Isotropic):
            self.distribution, self.samples = draw.distribution, draw.samples
            self.dimension = n if draw.factor is None else len(draw.factor)
            if draw.factor is not None and all(len(d) == 1 for d in draw.factor):
                self.layout = "some"
                self.places = [i for ((i, _),) in draw.factor]
                self.scales = [float(c) for ((_, c),) in draw.factor]
            elif draw.factor is not None:
                self.layout = "matrix"
                self.factor = matrix(draw.factor, n).tolist()
        else:
            self.samples, self.replace = draw.samples, draw.replace
            self.total, self.factors = draw.total, draw.factors
            self.weighted = draw.probabilities is not None
            if isinstance(draw.scale, float):
                self.scale = draw.scale
            else:
                self.scales = draw.scale.tolist()
            if draw.coordinates is not None:
                self.layout = "some"
                self.places = draw.coordinates.tolist()
            if draw.probabilities is not None:
                self.ends = draw.probabilities.cumsum().tolist()


class Sources:
    """The draws of an estimator."""

    def __init__(self, estimator: Estimator, n: int) -> None:
        self.draws = tuple(Source(draw, n) for draw in estimator.draws)
        self.random = sum(source.kind != "fixed" for source in self.draws)


def matrix(directions: Sequence[Direction], n: int) -> np.ndarray:
    """Sparse vectors as rows."""
    rows = np.zeros((len(directions), n))
    for r, direction in enumerate(directions):
        for i, c in direction:
            rows[r, i] = float(c)
    return rows


def _isotropic(
    builder: _Builder,
    power: int,
    coefficient: float,
    dimension: int,
    samples: int,
    distribution: Distribution,
    factor: tuple[Direction, ...] | None,
    key: object,
) -> Polynomial:
    if distribution == "rademacher" and power > 1:
        raise ValueError(
            f"directions of ±1 have no isotropic moments of order {2 * power}; use "
            "distribution='gaussian' or 'orthogonal'"
        )
    start = builder.add(Isotropic(distribution, samples, factor), (distribution, samples, key))
    weight = coefficient / (samples * moment(distribution, power, dimension))
    if power == 1:
        text = _VARIANCE[distribution]
    else:
        order = 2 * power
        scale = moment(distribution, power, dimension)
        text = f"(E[⟨∂^{order} f, v^⊗{order}⟩²]/{scale:.4g}² − (its mean)²)/S"
        if distribution == "orthogonal":
            text += " for S = 1; less than that for more, orthogonal ones"
    builder.variance[text] = None
    return Polynomial({(start + s,) * (2 * power): weight for s in range(samples)})


def from_directions(
    symbols: Sequence[Polynomial], samples: int, distribution: Distribution, n: int = 0
) -> Estimator:
    """Of polynomials whose parts from degree two on are powers of quadratic forms.

    Powers of |ξ|² in all n coordinates may be written with `RADIAL`: they need no large polynomial.

    Raises:
        ValueError: a part is no such power; its terms can be drawn instead.
    """
    builder = _Builder()
    made = []
    for whole in symbols:
        radial = {m: c for m, c in whole.terms.items() if m and set(m) == {RADIAL}}
        symbol = in_coordinates(whole - Polynomial(radial), n)
        total = symbol.part(0) + builder.fixed(symbol.part(1))
        for monomial, c in radial.items():
            total = total + _isotropic(
                builder, len(monomial), float(c), n, samples, distribution, None, "all"
            )
        for degree in range(2, symbol.degree + 1):
            part = symbol.part(degree)
            if not part:
                continue
            for power, coefficient, form in _roots(part):
                weighted = list(powers(form))
                factor = tuple(
                    tuple((i, float(c) * abs(float(w)) ** 0.5) for i, c in direction)
                    for direction, w in weighted
                )
                total = total + _isotropic(
                    builder,
                    power,
                    coefficient,
                    len(factor),
                    samples,
                    distribution,
                    factor,
                    form,
                )
        made.append(total)
    return Estimator(tuple(builder.draws), tuple(made), tuple(builder.variance))


def _roots(part: Polynomial) -> list[tuple[int, float, Polynomial]]:
    """(m, c, q) with part = Σ c·q^m and positive definite forms q."""
    if part.degree == 2:
        found = []
        weighted = list(powers(part))
        for sign in (1, -1):
            form = Polynomial()
            for direction, weight in weighted:
                if (weight > 0) == (sign > 0):
                    line = Polynomial({(i,): c for i, c in direction})
                    form = form + line * line * absolute(weight)
            if form:
                # A pivot of one, as `quadratic_root` gives it: equal forms share their draws.
                pivot = next(c for m, c in sorted(form.terms.items()) if m[0] == m[1])
                found.append((1, sign * float(pivot), form * (1 / pivot)))
        return found
    root = quadratic_root(part)
    if root is not None:
        c, form, power = root
        signs = {weight > 0 for _, weight in powers(form)}
        if signs == {False}:
            c, form = c * (-1) ** power, -form
        if len(signs) == 1:
            return [(power, float(c), form)]
    raise ValueError(
        f"the part of order {part.degree} is no power of a definite quadratic form, so isotropic "
        "directions cannot estimate it; use distribution='coordinates', which draws its terms"
    )


def from_terms(symbols: Sequence[Polynomial], samples: int, replace: bool) -> Estimator:
    """Of any polynomials: terms are drawn, apart for every pattern of exponents and sign.

    Raises:
        ValueError: fewer samples than patterns.
    """
    builder = _Builder()
    strata: list[dict[tuple[tuple[int, ...], bool], list[tuple[Monomial, float]]]] = []
    for symbol in symbols:
        groups: dict[tuple[tuple[int, ...], bool], list[tuple[Monomial, float]]] = {}
        for monomial, c in symbol.terms.items():
            counts = sorted(Counter(monomial).items(), key=lambda item: (-item[1], item[0]))
            pattern = tuple(power for _, power in counts)
            groups.setdefault((pattern, c > 0), []).append(
                (tuple(v for v, _ in counts), abs(float(c)))
            )
        strata.append(groups)
    made = []
    for symbol, groups, share in zip(symbols, strata, _shares(strata, samples), strict=True):
        total = symbol.part(0)
        for (pattern, positive), members in groups.items():
            if not pattern:
                continue
            count = share[pattern, positive]
            if count >= len(members):
                rest = {
                    tuple(
                        sorted(v for v, power in zip(m, pattern, strict=True) for _ in range(power))
                    ): c
                    for m, c in members
                }
                total = total + builder.fixed(Polynomial(rest)) * (1 if positive else -1)
                continue
            draw = terms(
                np.array([m for m, _ in members]),
                np.array([c for _, c in members]),
                pattern[0],
                count,
                replace,
            )
            total = total + _drawn(builder, draw, pattern) * (1 if positive else -1)
        made.append(total)
    return Estimator(tuple(builder.draws), tuple(made), tuple(builder.variance))


def terms(
    coordinates: np.ndarray | None,
    weights: np.ndarray | int,
    power: int,
    samples: int,
    replace: bool,
) -> Terms:
    """A draw of terms with positive weights; a number of terms stands for as many ones.

    With replacement term j is drawn with probability q_j ∝ c_j and counts c_j/(S q_j); without
    replacement every set of S of the T terms is equally likely, and a term counts c_j·T/S.
    """
    factors = 1 if coordinates is None else coordinates.shape[1]
    if isinstance(weights, int):
        scale = (weights / samples) ** (1 / power)
        return Terms(weights, factors, coordinates, None, scale, samples, replace)
    total = len(weights)
    if replace:
        equal = bool((weights == weights[0]).all())
        probabilities = None if equal else weights / weights.sum()
        scale = float(weights.sum() / samples) ** (1 / power)
        return Terms(total, factors, coordinates, probabilities, scale, samples, True)
    scales = (weights * (total / samples)) ** (1 / power)
    return Terms(total, factors, coordinates, None, scales, samples, False)


def _drawn(builder: _Builder, draw: Terms, pattern: tuple[int, ...]) -> Polynomial:
    start, factors = builder.add(draw), len(pattern)
    total, count = draw.total, draw.samples
    if draw.replace:
        text = f"(Σ_j (c_j ∂_j f)²/q_j − (Σ_j c_j ∂_j f)²)/S over {total} terms, S = {count}"
    else:
        text = f"T²·(1 − S/T)·var_j(c_j ∂_j f)/S over T = {total} terms, S = {count}"
    builder.variance[text] = None
    return Polynomial(
        {
            tuple(
                variable
                for k, power in enumerate(pattern)
                for variable in (start + s * factors + k,) * power
            ): 1
            for s in range(count)
        }
    )


def of_squares(dimension: int, samples: int, replace: bool, coefficient: Number = 1.0) -> Estimator:
    """Of coefficient·|ξ|² by its terms, not written out: fit for very many coordinates."""
    builder = _Builder()
    count = samples if replace else min(samples, dimension)
    draw = terms(None, dimension, 2, count, replace)
    symbol = _drawn(builder, draw, (2,)) * coefficient
    return Estimator(tuple(builder.draws), (symbol,), tuple(builder.variance))


def _shares(
    strata: Sequence[dict[tuple[tuple[int, ...], bool], list[tuple[Monomial, float]]]],
    samples: int,
) -> list[dict[tuple[tuple[int, ...], bool], int]]:
    """How many samples each group gets: in proportion to its weight, and one at least.

    Groups of one term are exact and count nothing.
    """
    sizes = {
        (k, key): len(members)
        for k, groups in enumerate(strata)
        for key, members in groups.items()
        if key[0]
    }
    mass = {
        (k, key): sum(c for _, c in members)
        for k, groups in enumerate(strata)
        for key, members in groups.items()
        if key[0]
    }
    shares = {where: 1 for where in sizes}
    drawn = [where for where, size in sizes.items() if size > 1]
    if samples < len(drawn):
        raise ValueError(
            f"samples={samples} is less than the {len(drawn)} kinds of terms (by exponents and "
            "sign) that this operator has; every kind needs one"
        )
    rest = samples - len(drawn)
    whole = sum(mass[where] for where in drawn)
    parts = {where: rest * mass[where] / whole for where in drawn}
    for where in drawn:
        shares[where] += int(parts[where])
    left = rest - sum(int(p) for p in parts.values())
    by_remainder = sorted(drawn, key=lambda where: int(parts[where]) - parts[where])
    for where in by_remainder[:left]:
        shares[where] += 1
    return [{key: shares[k, key] for key in groups if key[0]} for k, groups in enumerate(strata)]
