"""Operators of one's own: partials, and polynomials in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from numbers import Number as AnyNumber
from typing import Any

from .core.estimators import in_order
from .core.polynomial import RADIAL, Polynomial
from .core.symbols import Polynomials
from .nested import plus
from .transform import Call, Transform


@dataclass(frozen=True)
class Term:
    """A coefficient that stays outside of the algebra, times a polynomial in ∂."""

    coefficient: Any
    symbol: Polynomial


class Operator(Transform):
    """A linear differential operator: a polynomial in the partial derivatives ∂/∂x_i.

    Operators come from `partials` and are combined with `+ - * / **`. Numbers enter the symbol;
    arrays and callables of the point may multiply from the left. An operator is a transform of
    functions, like `torch.func.grad`:

    >>> import torch, jetfold as jf
    >>> t, x, y = jf.partials(3, names="t x y")
    >>> heat = t - 0.1 * (x**2 + y**2)
    >>> heat
    Operator(t - 0.1*x**2 - 0.1*y**2)
    >>> u = lambda p: torch.exp(-p[0]) * torch.sin(p[1]) * p[2] ** 2
    >>> heat(u)(torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64))
    tensor(-1.8219, dtype=torch.float64)

    `jetfold.laplacian`, `jetfold.biharmonic` and `jetfold.value` are operators too, in any number
    of coordinates, and combine with others.

    Source: the product rule of symbols is Hörmander's, p(∂)(fg) = Σ_α (1/α!) p^{(α)}(∂)f ∂^αg.
    """

    __array_ufunc__ = None  # numpy arrays on the left leave the product to us
    __array_priority__ = 1000

    def __init__(
        self,
        terms: Sequence[Term],
        coordinates: int | None,
        names: Mapping[int, str] | None = None,
        name: str = "",
    ) -> None:
        number, outside = Polynomial(), []
        for term in terms:
            if term.coefficient is None:
                number = number + term.symbol
            elif term.symbol:
                outside.append(term)
        self.symbol = number
        self.outside: tuple[Term, ...] = tuple(outside)
        self.coordinates = coordinates
        self.names = dict(names or {})
        self.name = name or "the operator"
        self._named = bool(name)
        self.symbols = Polynomials(self.polynomials, coordinates, self.names)

    @property
    def order(self) -> int:
        """The highest number of derivatives in a term."""
        return max(map(in_order, self.polynomials))

    @property
    def polynomials(self) -> tuple[Polynomial, ...]:
        """The symbols that are propagated together: the numeric part and one per array."""
        return (self.symbol, *(term.symbol for term in self.outside))

    def assemble(self, results: Sequence[Any], call: Call) -> Any:
        frontend, point = call.frontend, call.points[0]
        total = results[0] if self.symbol or not self.outside else None
        for term, result in zip(self.outside, results[1:], strict=True):
            c = term.coefficient(*call.points) if callable(term.coefficient) else term.coefficient
            c = c if isinstance(c, complex) else frontend.xp.asarray(c, point)
            scaled = frontend.map_outputs(lambda leaf, c=c: c * leaf, result)
            total = scaled if total is None else frontend.map_outputs(plus, total, scaled)
        return total

    # ---- arithmetic

    def _make(self, terms: Sequence[Term], other: Operator | None = None) -> Operator:
        names, coordinates = self.names, self.coordinates
        if other is not None:
            names = names | other.names
            coordinates = other.coordinates if coordinates is None else coordinates
        return Operator(terms, coordinates, names)

    @property
    def _terms(self) -> tuple[Term, ...]:
        return (Term(None, self.symbol), *self.outside)

    def _coerce(self, other: object) -> Operator | None:
        """A number c as the operator c·u; None for what is no operator."""
        if isinstance(other, Operator):
            if None not in (self.coordinates, other.coordinates) and (
                other.coordinates != self.coordinates
            ):
                raise ValueError(
                    f"operators on {self.coordinates} and on {other.coordinates} coordinates do "
                    "not combine; take both from one partials(n)"
                )
            return other
        if isinstance(other, AnyNumber):
            return self._make([numeric(other, Polynomial.constant(1))])
        return None

    def __add__(self, other: object) -> Operator:
        operand = self._coerce(other)
        if operand is None:
            return NotImplemented
        return self._make([*self._terms, *operand._terms], operand)

    __radd__ = __add__

    def __neg__(self) -> Operator:
        return self * -1

    def __pos__(self) -> Operator:
        return self

    def __sub__(self, other: object) -> Operator:
        operand = self._coerce(other)
        return NotImplemented if operand is None else self + operand * -1

    def __rsub__(self, other: object) -> Operator:
        return -self + other

    def __mul__(self, other: object) -> Operator:
        operand = self._coerce(other)
        if operand is None:
            raise TypeError(
                f"({self}) * {type(other).__name__} is ambiguous: a coefficient multiplies an "
                f"operator from the left, coefficient * ({self})"
            )
        if (
            operand.outside
            and self.order > 0
            and any(not isinstance(t.coefficient, complex) for t in operand.outside)
        ):
            raise TypeError(
                f"the product ({self}) * ({operand}) would differentiate a coefficient that is an "
                "array or a callable; write it by nesting: "
                f"A(B(u)) with A = {self} and B = {operand}"
            )
        terms = []
        for a in self._terms:
            for b in operand._terms:
                terms.append(_times(a, b))
        return self._make(terms, operand)

    def __rmul__(self, other: object) -> Operator:
        if isinstance(other, (AnyNumber, Operator)):
            operand = self._coerce(other)
            assert operand is not None
            return operand * self
        return self._make([_left(other, term) for term in self._terms if term.symbol])

    def __truediv__(self, other: object) -> Operator:
        if not isinstance(other, AnyNumber):
            raise TypeError(
                f"an operator can be divided by a number, got {type(other).__name__}; multiply "
                "with the inverse array from the left"
            )
        return self * (1 / other if isinstance(other, (float, complex)) else _inverse(other))

    def __pow__(self, exponent: int) -> Operator:
        if isinstance(exponent, bool) or not isinstance(exponent, int) or exponent < 0:
            raise ValueError(
                f"the power of an operator is a non-negative integer, got {exponent!r}"
            )
        if not self.outside:
            return self._make([Term(None, self.symbol**exponent)])
        result = self._make([Term(None, Polynomial.constant(1))])
        for _ in range(exponent):
            result = result * self
        return result

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Operator)
            and self.coordinates == other.coordinates
            and self.symbol == other.symbol
            and len(self.outside) == len(other.outside)
            and all(
                a.symbol == b.symbol and a.coefficient is b.coefficient
                for a, b in zip(self.outside, other.outside, strict=True)
            )
        )

    def __hash__(self) -> int:
        return hash((self.coordinates, self.polynomials))

    def __str__(self) -> str:
        if self._named:
            return self.name
        names = {i: self.names.get(i, f"d{i}") for s in self.polynomials for i in s.variables}
        pieces = [self.symbol.format(names)] if self.symbol or not self.outside else []
        for term in self.outside:
            pieces.append(f"{described(term.coefficient)}*({term.symbol.format(names)})")
        return " + ".join(pieces)

    def __repr__(self) -> str:
        return f"Operator({self})"


def numeric(number: Any, symbol: Polynomial) -> Term | Any:
    """A number times a symbol; a complex one stays outside, so that jets stay real."""
    if isinstance(number, AnyNumber) and isinstance(number, complex):
        return Term(complex(number), symbol) if number.imag else Term(None, symbol * number.real)
    return Term(None, symbol * number)


def radial(power: int, name: str, doc: str) -> Operator:
    """|ξ|^{2·power} in any number of coordinates: a named operator."""
    term = Term(None, Polynomial({(RADIAL,) * power: 1}))
    operator = Operator([term], None, {RADIAL: "laplacian"}, name)
    operator.__doc__ = doc
    return operator


def _inverse(number: Any) -> Any:
    return Polynomial.constant(number).terms[()] ** -1 if number else 1 / number


def _times(a: Term, b: Term) -> Term:
    symbol = a.symbol * b.symbol
    if b.coefficient is None:
        return Term(a.coefficient, symbol)
    if a.coefficient is None:
        return Term(b.coefficient, symbol)
    if isinstance(a.coefficient, complex) and isinstance(b.coefficient, complex):
        return numeric(a.coefficient * b.coefficient, symbol)
    return Term(_product(a.coefficient, b.coefficient), symbol)


def _left(coefficient: Any, term: Term) -> Term:
    if not callable(coefficient) and not hasattr(coefficient, "shape"):
        raise TypeError(
            "a coefficient is a number, an array or a callable of the point, got "
            f"{type(coefficient).__name__}"
        )
    if term.coefficient is None:
        return Term(coefficient, term.symbol)
    return Term(_product(coefficient, term.coefficient), term.symbol)


def _product(a: Any, b: Any) -> Any:
    if not callable(a) and not callable(b):
        return a * b

    def product(*points: Any) -> Any:
        left = a(*points) if callable(a) else a
        return left * (b(*points) if callable(b) else b)

    return product


def described(coefficient: Any) -> str:
    if isinstance(coefficient, complex):
        return str(coefficient)
    if callable(coefficient):
        return getattr(coefficient, "__name__", type(coefficient).__name__)
    return f"array{tuple(coefficient.shape)}"


def partials(shape: int | Sequence[int], names: str | Sequence[str] | None = None) -> Any:
    """The operators ∂/∂(coordinate i) of a point.

    Args:
        shape: the number of coordinates, or the shape of the point.
        names: how to print them, `"t x y"` or a sequence of strings.

    Returns:
        a tuple of operators; for a shape (n, m) a tuple of n tuples of m operators.

    >>> t, x = partials(2, names="t x")
    >>> (t + x) ** 2
    Operator(t**2 + 2*t*x + x**2)
    """
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    if not sizes or any(not isinstance(n, int) or isinstance(n, bool) or n < 1 for n in sizes):
        raise ValueError(f"partials takes the number of coordinates or a shape, got {shape!r}")
    total = prod(sizes)
    texts = names.replace(",", " ").split() if isinstance(names, str) else list(names or ())
    if texts and len(texts) != total:
        raise ValueError(f"partials({shape}) needs {total} names, got {len(texts)}: {names!r}")
    known = dict(enumerate(texts))
    flat: list[Any] = [
        Operator([Term(None, Polynomial.variable(i))], total, {i: known[i]} if known else None)
        for i in range(total)
    ]
    for size in reversed(sizes[1:]):
        flat = [tuple(flat[k : k + size]) for k in range(0, len(flat), size)]
    return tuple(flat)
