"""The symbols of a transform, for any number of coordinates: what is static about an operator.

Everything that is known about an operator before a function and a point arrive stands here: which
symbols are propagated together, how many vectors they carry, how the sums that they are can be cut
into pieces, how they are estimated. It is immutable, holds no array, and is found once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from math import comb
from typing import Any

from . import directions
from .estimators import Estimator, Sampling
from .polynomial import RADIAL, Monomial, Polynomial, in_coordinates

Wanted = Polynomial | tuple[Polynomial, ...]
"""What is read out: one symbol, or several whose results are stacked along a new leading axis."""

Variables = int | tuple[Any, ...]
"""In what the symbols are written: so many coordinates (or directions); of several transforms
together, and of an estimate, what their `at` says."""

LARGE = 20_000  # terms up to which an algebra is built only to count its vectors


class Symbols:
    """What an operator wants to know of a function; as long as `at` is."""

    def __len__(self) -> int:
        return 1

    def at(self, variables: Variables) -> tuple[Wanted, ...]:
        """The symbols in so many variables.

        Raises:
            ValueError: the operator has another number of coordinates.
        """
        raise NotImplementedError

    def count(self, variables: Variables) -> int:
        """The number of variables."""
        assert isinstance(variables, int)
        return variables

    def vectors(self, variables: Variables) -> int | None:
        """How many vectors `method="minimal"` carries; None where that is too many to count."""
        return directions.scheme(flat(self.at(variables)), "minimal").algebra.vectors

    def parts(self, variables: Variables) -> Parts:
        """As sums over directions, for chunks."""
        return parts_of(self.at(variables), self.count(variables))

    def estimator(self, n: int, sampling: Sampling) -> Estimator:
        """An estimate in n variables, with as many symbols as `flat(self.at(n))`.

        Raises:
            TypeError, ValueError: there is none, or none with this distribution.
        """
        return sampling.estimator(flat(self.at(n)), n)


def flat(wanted: Sequence[Wanted]) -> tuple[Polynomial, ...]:
    """All symbols, one after the other."""
    return tuple(
        symbol for one in wanted for symbol in ((one,) if isinstance(one, Polynomial) else one)
    )


def grouped(symbols: Sequence[Any], wanted: Sequence[Wanted]) -> tuple[Any, ...]:
    """As many things as there are symbols, in the structure of what is wanted."""
    rest = iter(symbols)
    return tuple(
        next(rest) if isinstance(one, Polynomial) else tuple(next(rest) for _ in one)
        for one in wanted
    )


class Polynomials(Symbols):
    """Polynomials in the coordinates; `RADIAL` stands for |ξ|² in however many there are.

    Attributes:
        polynomials: one per symbol.
        coordinates: how many; None for any number.
        names: how errors call them.
        misfit: the error for another number n of coordinates, with {n} in it.
    """

    def __init__(
        self,
        polynomials: Sequence[Polynomial],
        coordinates: int | None,
        names: Mapping[int, str] | None = None,
        misfit: str = (
            "{self} acts on {self.coordinates} coordinates, but the point has {n} (after "
            "batch_dims); make the operator with partials({n}), or check batch_dims= and argnums="
        ),
    ) -> None:
        self.polynomials = tuple(polynomials)
        self.coordinates = coordinates
        self.names = dict(names or {})
        self.misfit = misfit

    def __len__(self) -> int:
        return len(self.polynomials)

    def at(self, variables: Variables) -> tuple[Wanted, ...]:
        n = self.count(variables)
        self.check(n)
        return tuple(in_coordinates(polynomial, n) for polynomial in self.polynomials)

    def check(self, n: int) -> None:
        """Whether the number of coordinates fits.

        Raises:
            ValueError: it does not.
        """
        if self.coordinates not in (None, n):
            raise ValueError(self.misfit.format(self=self, n=n))
        if (highest := max((v for p in self.polynomials for v in p.variables), default=0)) >= n > 0:
            raise ValueError(f"{self} has coordinate {highest}, but the point has {n}, from 0 on")

    def vectors(self, variables: Variables) -> int | None:
        n = self.count(variables)
        radial = all(set(m) <= {RADIAL} for p in self.polynomials for m in p.terms)
        if radial and len(self.polynomials) == 1:
            return _vectors_of_radial(n, self.polynomials[0].degree)
        terms = sum(
            comb(n + m.count(RADIAL) - 1, m.count(RADIAL))
            for p in self.polynomials
            for m in p.terms
        )
        return super().vectors(variables) if terms <= LARGE else None

    def parts(self, variables: Variables) -> Parts:
        if [p.terms for p in self.polynomials] == [{(RADIAL,): 1}]:
            return Parts((Polynomial(),), [Piece(0, 2, 1, self.count(variables))])
        return super().parts(variables)

    def estimator(self, n: int, sampling: Sampling) -> Estimator:
        self.check(n)
        return sampling.estimator(self.polynomials, n)

    def __str__(self) -> str:
        names = {v: self.names.get(v, f"d{v}") for p in self.polynomials for v in p.variables}
        return f"Operator({' + '.join(p.format(names) for p in self.polynomials if p) or '0'})"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Polynomials)
            and self.coordinates == other.coordinates
            and self.polynomials == other.polynomials
        )

    def __hash__(self) -> int:
        return hash((self.coordinates, self.polynomials))


def _vectors_of_radial(n: int, power: int) -> int:
    """Of Σ_{k ≤ m} c_k |ξ|^{2k}: its derivatives of order d are independent up to d = m, and
    those of order 2m − d are all polynomials of degree d."""
    order = 2 * power
    return sum(comb(n - 1 + min(d, order - d), min(d, order - d)) for d in range(order + 1))


def polynomials(
    coordinates: int | None, names: tuple[tuple[int, str], ...], *of: Polynomial
) -> Polynomials:
    """Made by `frontend.static`, as those below."""
    return Polynomials(of, coordinates, dict(names))


class Entries(Symbols):
    """All derivatives of one order, stacked: the gradient, the Hessian packed as i ≤ j.

    Attributes:
        order: 1 or 2.
        text: how errors call them.
    """

    def __init__(self, order: int, text: str) -> None:
        self.order = order
        self.text = text

    def at(self, variables: Variables) -> tuple[Wanted, ...]:
        return (entries(self.count(variables), self.order),)

    def vectors(self, variables: Variables) -> int | None:
        n = self.count(variables)
        return sum(comb(n - 1 + d, d) for d in range(self.order + 1))

    def estimator(self, n: int, sampling: Sampling) -> Estimator:
        raise TypeError(
            f"randomize estimates sums of derivatives, and {self.text} is made of single ones: "
            f"leave it as it is, beside an estimate in jetfold.derivatives({{...}}) if you like"
        )


@lru_cache(maxsize=64)
def entries(n: int, order: int) -> tuple[Polynomial, ...]:
    """ξ_i, or ξ_i ξ_j for i ≤ j, row by row."""
    if order == 1:
        return tuple(Polynomial.variable(i) for i in range(n))
    return tuple(Polynomial({(i, j): 1}) for i in range(n) for j in range(i, n))


class Products(Symbols):
    """Σ_i ζ_i ζ_{n+i} in 2n directions: Tr(C∇²) for the directions e_i and C e_i."""

    def at(self, variables: Variables) -> tuple[Wanted, ...]:
        return (_products(self.count(variables) // 2),)

    def vectors(self, variables: Variables) -> int | None:
        return self.count(variables) + 2

    def parts(self, variables: Variables) -> Parts:
        half = self.count(variables) // 2

        def squares(sign: float) -> list[Mapping[int, float]]:
            """(ζ_i ± ζ_{n+i})/2, of which the squares differ by the product."""
            return [{i: 0.5, half + i: 0.5 * sign} for i in range(half)]

        pieces = [Piece(0, 2, sign, squares(sign)) for sign in (1, -1)]
        return Parts((Polynomial(),), pieces)

    def estimator(self, n: int, sampling: Sampling) -> Estimator:
        return sampling.pairs(n // 2)


@lru_cache(maxsize=64)
def _products(half: int) -> Polynomial:
    return Polynomial({(i, half + i): 1 for i in range(half)})


class Together(Symbols):
    """The symbols of several transforms, propagated together.

    Their variables are (how many in all, ((variables of each, where its own begin), …)).
    """

    def __init__(self, members: Sequence[Symbols]) -> None:
        self.members = tuple(members)

    def __len__(self) -> int:
        return sum(map(len, self.members))

    def at(self, variables: Variables) -> tuple[Wanted, ...]:
        assert isinstance(variables, tuple)
        return tuple(
            shifted(one, start)
            for member, (own, start) in zip(self.members, variables[1], strict=True)
            for one in member.at(own)
        )

    def count(self, variables: Variables) -> int:
        assert isinstance(variables, tuple)
        return variables[0]

    def vectors(self, variables: Variables) -> int | None:
        assert isinstance(variables, tuple)
        counts = [m.vectors(own) for m, (own, _) in zip(self.members, variables[1], strict=True)]
        return None if None in counts else super().vectors(variables)

    def estimator(self, n: int, sampling: Sampling) -> Estimator:
        polynomials: list[Polynomial] = []
        for member in self.members:
            if not isinstance(member, Polynomials):
                raise TypeError(
                    "of several operators together, randomize estimates polynomials in the "
                    "partial derivatives; randomize the others one by one inside of derivatives"
                )
            member.at(n)
            polynomials += member.polynomials
        return sampling.estimator(polynomials, n)


def together(*members: Symbols) -> Together:
    """Of several transforms."""
    return Together(members)


def shifted(wanted: Wanted, start: int) -> Wanted:
    """Symbols in later variables."""
    if isinstance(wanted, tuple):
        return tuple(_shifted(symbol, start) for symbol in wanted) if start else wanted
    return _shifted(wanted, start) if start else wanted


def _shifted(symbol: Polynomial, start: int) -> Polynomial:
    return Polynomial({tuple(v + start for v in m): c for m, c in symbol.terms.items()})


class Estimated(Symbols):
    """An estimate of others, in random directions.

    Its variables are (those of the base, how many directions are drawn): 0 for the base itself.
    """

    def __init__(self, base: Symbols, sampling: Sampling) -> None:
        self.base = base
        self.sampling = sampling

    def __len__(self) -> int:
        return len(self.base)

    def at(self, variables: Variables) -> tuple[Wanted, ...]:
        assert isinstance(variables, tuple)
        inner, drawn = variables
        wanted = self.base.at(inner)
        if not drawn:
            return wanted
        return grouped(estimator(self, inner).symbols, wanted)

    def count(self, variables: Variables) -> int:
        assert isinstance(variables, tuple)
        inner, drawn = variables
        return drawn or self.base.count(inner)

    def vectors(self, variables: Variables) -> int | None:
        assert isinstance(variables, tuple)
        inner, drawn = variables
        return estimator(self, inner).vectors if drawn else self.base.vectors(inner)

    def estimator(self, n: int, sampling: Sampling) -> Estimator:
        raise TypeError("a randomized operator is random already; randomize the exact one")


def estimated(base: Symbols, sampling: Sampling) -> Estimated:
    """Of an estimate."""
    return Estimated(base, sampling)


@lru_cache(maxsize=256)
def estimator(symbols: Estimated, inner: Variables) -> Estimator:
    """The estimator in the variables of the base."""
    return symbols.base.estimator(symbols.base.count(inner), symbols.sampling)


def exact_is_as_cheap(symbols: Estimated, inner: Variables) -> bool:
    """Whether the exact operator carries no more vectors than its estimate, or is no estimate."""
    found = estimator(symbols, inner)
    exact = symbols.base.vectors(inner)
    return not found.random or (exact is not None and exact <= found.vectors)


# ------------------------------------------------------------------ in pieces


WIDE = 4
"""Directions with more entries than this are kept as whole rows."""


class Piece:
    """Σ_r ±(v_r·ξ)^power over many directions; plain attributes for tracers.

    Attributes:
        symbol: to which of the symbols (`flat`) it belongs.
        count: how many directions there are.
        coordinates, components: per direction its entries, equally many; without any, direction r
            is the unit vector of coordinate r.
        dense: the directions as rows of n components, where they have many entries.
    """

    def __init__(
        self,
        symbol: int,
        power: int,
        sign: int,
        entries: Sequence[Mapping[int, float]] | int,
        n: int = 0,
    ) -> None:
        self.symbol, self.power, self.sign = symbol, power, sign
        self.coordinates: list[list[int]] = []
        self.components: list[list[float]] = []
        self.dense: list[list[float]] = []
        if isinstance(entries, int):
            self.count = entries
            return
        self.count = len(entries)
        width = max(map(len, entries))
        if width > WIDE:
            self.dense = [[vector.get(i, 0.0) for i in range(n)] for vector in entries]
            return
        for vector in entries:
            rest = width - len(vector)
            self.coordinates.append([*vector] + [0] * rest)
            self.components.append([*vector.values()] + [0.0] * rest)


class Parts:
    """Symbols as what is cheap (order 0 and 1), and what is summed over directions."""

    def __init__(self, low: Sequence[Wanted], pieces: Sequence[Piece]) -> None:
        self.low = tuple(low)
        self.pieces = tuple(pieces)


def parts_of(wanted: Sequence[Wanted], n: int) -> Parts:
    """Symbols in n variables as sums of powers of directions."""
    symbols = flat(wanted)
    low = [symbol.part(0) + symbol.part(1) for symbol in symbols]
    return Parts(grouped(low, wanted), list(_pieces(symbols, n)))


def _pieces(symbols: Sequence[Polynomial], n: int) -> Iterator[Piece]:
    for j, symbol in enumerate(symbols):
        parts: dict[int, dict[Monomial, Any]] = {}
        for monomial, c in symbol.terms.items():
            parts.setdefault(len(monomial), {})[monomial] = c
        for degree in sorted(parts):
            if degree < 2:
                continue
            weighted = list(directions.powers(Polynomial(parts[degree])))
            for sign in (1, -1):
                entries = [
                    {i: float(c) * abs(float(w)) ** (1 / degree) for i, c in v}
                    for v, w in weighted
                    if (w > 0) == (sign > 0)
                ]
                if entries:
                    yield Piece(j, degree, sign, entries, n)
