"""Sparse polynomials in the symbols ξ_0, ξ_1, … (ξ_i is ∂/∂x_i), exact wherever they can be."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import lru_cache
from math import factorial, inf, isfinite, log, prod
from numbers import Integral, Rational, Real

Number = Fraction | float
Monomial = tuple[int, ...]
"""A monomial is the sorted tuple of its variables: ξ_0² ξ_3 is (0, 0, 3), and 1 is ()."""

TOLERANCE = 1e-10
"""What cancels to this fraction of its parts counts as zero once a polynomial is not exact."""

RADIAL = -1
"""The variable that stands for |ξ|² = Σ_i ξ_i², whatever the number of coordinates."""

_ROUNDS = 20  # of equilibration

_SHORT = 10**12  # a float that prints with fewer digits than this is read as that decimal


def as_number(value: object) -> Number:
    """A real coefficient: a fraction where the number is one (0.1 is 1/10), else a float (√2)."""
    if type(value) is Fraction:
        return value
    if isinstance(value, Rational):
        return Fraction(int(value.numerator), int(value.denominator))
    if isinstance(value, Real):
        number = float(value)
        if not isfinite(number):
            raise ValueError(f"a coefficient of an operator must be finite, got {number}")
        decimal = Fraction(repr(number))
        if decimal.denominator <= _SHORT and abs(decimal.numerator) <= _SHORT:
            return decimal
        return number
    raise TypeError(f"a coefficient must be a real number, got {type(value).__name__}")


def absolute(value: Number) -> Number:
    """|value|, of the same type."""
    return -value if value < 0 else value


def multiply(left: Monomial, right: Monomial) -> Monomial:
    """The product of two monomials."""
    return tuple(sorted(left + right))


def multiplicity(monomial: Monomial) -> int:
    """α! of a monomial ξ^α."""
    return prod(factorial(power) for power in Counter(monomial).values())


def divisors(monomial: Monomial) -> Iterator[tuple[Monomial, Monomial, int]]:
    """Every way to write ξ^μ = ξ^α ξ^β, with the binomial C(μ, α): the terms of (ξ+η)^μ."""
    powers = sorted(Counter(monomial).items())
    splits: list[tuple[Monomial, Monomial]] = [((), ())]
    for variable, power in powers:
        splits = [
            (left + (variable,) * k, right + (variable,) * (power - k))
            for left, right in splits
            for k in range(power + 1)
        ]
    whole = multiplicity(monomial)
    for left, right in splits:
        yield left, right, whole // (multiplicity(left) * multiplicity(right))


class Polynomial:
    """An immutable polynomial: a mapping from monomials to nonzero coefficients.

    Coefficients are `fractions.Fraction` as long as every number that entered was rational;
    a float among them makes the polynomial inexact, and elimination uses `TOLERANCE`.
    """

    __slots__ = ("_hash", "terms")

    def __init__(self, terms: Mapping[Monomial, object] = {}):
        numbers = {monomial: as_number(c) for monomial, c in terms.items()}
        self.terms: dict[Monomial, Number] = {m: c for m, c in numbers.items() if c != 0}
        self._hash: int | None = None

    @classmethod
    def constant(cls, value: object) -> Polynomial:
        """The polynomial of degree 0."""
        return cls({(): value})

    @classmethod
    def variable(cls, index: int) -> Polynomial:
        """ξ_index."""
        return cls({(index,): 1})

    @property
    def degree(self) -> int:
        """The highest total degree of a term; −1 for the zero polynomial."""
        return max(map(len, self.terms), default=-1)

    @property
    def exact(self) -> bool:
        """Whether every coefficient is a fraction."""
        return all(isinstance(c, Fraction) for c in self.terms.values())

    @property
    def variables(self) -> tuple[int, ...]:
        """The indices of the variables that occur, ascending."""
        return tuple(sorted({variable for monomial in self.terms for variable in monomial}))

    def part(self, degree: int) -> Polynomial:
        """The homogeneous part of that degree."""
        return Polynomial({m: c for m, c in self.terms.items() if len(m) == degree})

    def derivative(self, variable: int) -> Polynomial:
        """∂/∂ξ_variable."""
        terms = {}
        for monomial, c in self.terms.items():
            if power := monomial.count(variable):
                at = monomial.index(variable)
                terms[monomial[:at] + monomial[at + 1 :]] = c * power
        return Polynomial(terms)

    def derivatives(self) -> list[Polynomial]:
        """All first partial derivatives that are not zero, in the order of the variables."""
        terms: dict[int, dict[Monomial, Number]] = {}
        for monomial, c in self.terms.items():
            for variable, power in Counter(monomial).items():
                at = monomial.index(variable)
                rest = monomial[:at] + monomial[at + 1 :]
                terms.setdefault(variable, {})[rest] = c * power
        return [Polynomial(terms[variable]) for variable in sorted(terms)]

    def substitute(self, forms: Mapping[int, Polynomial]) -> Polynomial:
        """The polynomial with each variable replaced by a polynomial."""
        total = Polynomial()
        for monomial, c in self.terms.items():
            term = Polynomial.constant(c)
            for variable in monomial:
                term = term * forms[variable]
            total = total + term
        return total

    def __add__(self, other: Polynomial) -> Polynomial:
        terms = dict(self.terms)
        for monomial, c in other.terms.items():
            terms[monomial] = terms.get(monomial, Fraction(0)) + c
        return Polynomial(terms)

    def __sub__(self, other: Polynomial) -> Polynomial:
        return self + other * -1

    def __neg__(self) -> Polynomial:
        return self * -1

    def __mul__(self, other: Polynomial | Number | int) -> Polynomial:
        if not isinstance(other, Polynomial):
            factor = as_number(other)
            return Polynomial({m: c * factor for m, c in self.terms.items()})
        terms: dict[Monomial, Number] = {}
        for left, a in self.terms.items():
            for right, b in other.terms.items():
                monomial = multiply(left, right)
                terms[monomial] = terms.get(monomial, Fraction(0)) + a * b
        return Polynomial(terms)

    def __pow__(self, exponent: int) -> Polynomial:
        if not isinstance(exponent, Integral) or exponent < 0:
            raise ValueError(f"a power must be a non-negative integer, got {exponent!r}")
        result, square, rest = Polynomial.constant(1), self, int(exponent)
        while rest:
            if rest & 1:
                result = result * square
            square, rest = (square * square if rest > 1 else square), rest >> 1
        return result

    def __bool__(self) -> bool:
        return len(self.terms) > 0  # PyTorch 2.11 does not compile bool(dict)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Polynomial) and self.terms == other.terms

    def __hash__(self) -> int:
        if self._hash is None:
            self._hash = hash(frozenset(self.terms.items()))
        return self._hash

    def __repr__(self) -> str:
        return f"Polynomial({self.format()})"

    def format(self, names: Mapping[int, str] | None = None) -> str:
        """The polynomial as one writes it, highest degree last: `t - 0.1*x**2`."""
        if not self.terms:
            return "0"
        pieces = []
        for monomial in sorted(self.terms, key=lambda m: (len(m), m)):
            c = self.terms[monomial]
            factors = [
                (names[v] if names else f"d{v}") + (f"**{power}" if power > 1 else "")
                for v, power in sorted(Counter(monomial).items())
            ]
            size = format_number(absolute(c))
            if factors and size == "1":
                size = ""
            body = "*".join(([size] if size else []) + factors)
            pieces.append((" - " if c < 0 else " + ") + body)
        text = "".join(pieces)
        return ("-" if text.startswith(" - ") else "") + text[3:]


@lru_cache(maxsize=512)
def in_coordinates(polynomial: Polynomial, n: int) -> Polynomial:
    """The polynomial with |ξ|² (`RADIAL`) written out in n coordinates."""
    if RADIAL not in polynomial.variables:
        return polynomial
    square = Polynomial({(i, i): 1 for i in range(n)})
    powers: dict[int, dict[Monomial, Number]] = {}
    for monomial, c in polynomial.terms.items():
        power = monomial.count(RADIAL)
        powers.setdefault(power, {})[monomial[power:]] = c
    total = Polynomial()
    for power, rest in powers.items():
        total = total + square**power * Polynomial(rest)
    return total


def quadratic_root(part: Polynomial) -> tuple[Number, Polynomial, int] | None:
    """(c, q, m) with part = c·q^m for a quadratic form q, if there is one.

    With x a variable whose pure power occurs, part / (c x^{2m}) = (1 + L/x + Q/x²)^m, and L and Q
    follow from the terms with x^{2m−1} and x^{2m−2}.
    """
    degree = part.degree
    if degree % 2 or not part.exact:
        return None
    power = degree // 2
    x = next((m[0] for m in sorted(part.terms) if m[0] == m[-1]), None)
    if x is None:
        return None
    c = part.terms[(x,) * degree]

    def beside(rest: int) -> Polynomial:
        """The terms with x to the power degree − rest, that power left out."""
        return Polynomial(
            {
                tuple(v for v in m if v != x): value / c
                for m, value in part.terms.items()
                if m.count(x) == degree - rest
            }
        )

    linear = beside(1) * Fraction(1, power)
    quadratic = (beside(2) - linear * linear * Fraction(power * (power - 1), 2)) * Fraction(
        1, power
    )
    variable = Polynomial.variable(x)
    form = variable * variable + variable * linear + quadratic
    return (c, form, power) if form**power * c == part else None


def format_number(value: Number) -> str:
    """A coefficient for people: 3, 0.1, 1/3, 1.4142135623730951."""
    if isinstance(value, Fraction) and value.denominator != 1:
        decimal = repr(float(value))
        return decimal if Fraction(decimal) == value else f"({value})"
    return str(value)


def _logarithm(c: Number) -> float:
    size = float(absolute(c))
    return log(size) if size else -inf


def _units(symbols: Iterable[Polynomial]) -> dict[int, float]:
    """Units (logarithms) of the variables in which the largest coefficients of all are alike.

    In metres and seconds the wave operator is 1.1e-17 ∂_t² − ∂_x², yet no term is negligible.
    Ruiz's equilibration (2001): every variable is raised until it takes part in a largest term of
    a homogeneous part.
    """
    parts = [
        [(monomial, _logarithm(c)) for monomial, c in symbol.part(degree).terms.items()]
        for symbol in symbols
        for degree in range(1, symbol.degree + 1)
    ]
    units = {variable: 0.0 for part in parts for monomial, _ in part for variable in monomial}
    degree = max((len(monomial) for part in parts for monomial, _ in part), default=1)
    for _ in range(_ROUNDS):
        below = dict.fromkeys(units, inf)  # how far each variable's largest term is from the top
        for part in parts:
            sizes = [c + sum(units[v] for v in monomial) for monomial, c in part]
            top = max(sizes, default=0.0)
            for (monomial, _), own in zip(part, sizes, strict=True):
                for v in monomial:
                    below[v] = min(below[v], top - own)
        for v, gap in below.items():
            units[v] += gap / degree if gap < inf else 0.0
    return units


def inverse_system(symbols: Iterable[Polynomial]) -> dict[Monomial, Polynomial]:
    """A reduced basis of the span of the symbols and of all their partial derivatives.

    Gauss-Jordan elimination over graded monomials. Every basis polynomial is 1 at its own pivot
    (the key, a monomial of its highest degree) and 0 at every other pivot, so the coordinates of
    a member of the span are its coefficients at the pivots.
    """
    basis: dict[Monomial, Polynomial] = {}
    users: dict[Monomial, set[Monomial]] = {}  # monomial -> pivots of the polynomials that hold it
    queue = list(symbols)
    exact = all(symbol.exact for symbol in queue)
    units = {} if exact else _units(queue)

    def store(pivot: Monomial, polynomial: Polynomial) -> None:
        for monomial in basis.get(pivot, Polynomial()).terms:
            users[monomial].discard(pivot)
        basis[pivot] = polynomial
        for monomial in polynomial.terms:
            users.setdefault(monomial, set()).add(pivot)

    def size(monomial: Monomial, c: Number) -> float:
        return _logarithm(c) + sum(units[variable] for variable in monomial)

    def without(polynomial: Polynomial, pivots: Sequence[Monomial]) -> Polynomial:
        terms = dict(polynomial.terms)
        peaks = [-inf] * (
            polynomial.degree + 1
        )  # the largest term of each degree before it cancels
        for pivot in pivots:
            c = terms[pivot]
            for monomial, b in basis[pivot].terms.items():
                before = terms.get(monomial, Fraction(0))
                terms[monomial] = before - c * b
                if not exact:
                    peaks[len(monomial)] = max(peaks[len(monomial)], size(monomial, before))
            terms[pivot] = Fraction(0)
        if pivots and not exact:
            for monomial, c in terms.items():
                peaks[len(monomial)] = max(peaks[len(monomial)], size(monomial, c))
            terms = {m: c for m, c in terms.items() if size(m, c) > log(TOLERANCE) + peaks[len(m)]}
        return Polynomial(terms)

    while queue:
        symbol = queue.pop()
        rest = without(symbol, [m for m in symbol.terms if m in basis])
        if not rest:
            continue
        top = [m for m in rest.terms if len(m) == rest.degree]
        pivot = min(top) if exact else max(top, key=lambda m: size(m, rest.terms[m]))
        new = Polynomial({m: c / rest.terms[pivot] for m, c in rest.terms.items()})
        # Elimination with a polynomial of this degree can only touch others of the same or a
        # higher one, and those lose the pivot now.
        holders = [p for p in users.get(pivot, ()) if p != pivot]
        store(pivot, new)
        for holder in holders:
            store(holder, without(basis[holder], [pivot]))
        queue.extend(new.derivatives())
    return basis
