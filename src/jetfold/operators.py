"""Operators of one's own: partials, and polynomials in them."""

from __future__ import annotations

import operator as python
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from numbers import Number as AnyNumber
from typing import Any, overload

from .core.arrays import Array
from .core.estimators import in_order
from .core.polynomial import Polynomial
from .core.symbols import polynomials
from .frameworks import history_of, made, static
from .names import check_alike, differ, names_of
from .nested import plus
from .transform import Call, Transform


@dataclass(frozen=True)
class Factor:
    """A coefficient that stays outside of the algebra, because it may change from call to call.

    Attributes:
        value: a complex number, an array or a callable of the points.
        history: what tells whether an array is still what counts (`Frontend.history`).
    """

    value: Any
    history: Any = None

    def at(self, call: Call) -> Any:
        """A number or an array."""
        value = self.value
        if isinstance(value, complex):
            return value
        if self.history is not None:
            value = call.frontend.in_force(described(value), value, self.history)
        given = value(*call.points) if callable(value) else value
        return call.frontend.xp.asarray(given, call.points[0])


@dataclass(frozen=True)
class Term:
    """A product of factors, evaluated in each call, times a polynomial in ∂."""

    factors: tuple[Factor, ...]
    symbol: Polynomial


class Operator(Transform):
    """A linear differential operator: a polynomial in the partial derivatives ∂/∂x_i.

    Operators come from `partials` and are combined with `+ - * / **`. Numbers enter the symbol;
    coefficients, arrays and callables of the point, may multiply from the left. An operator is a
    transform of functions, like `torch.func.grad`:

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

    A coefficient is one value, one per point (the shape of the batch axes), or has the shape of
    the output; a callable gets the points as f does. It is read, and products of several are
    evaluated, in every call: an operator that is made once follows a tensor that an optimiser
    changes, and a parameter of a module also where another takes its place there (by
    `torch.func.functional_call`, or `load_state_dict(assign=True)`). What was computed from
    parameters is not computed again: as a callable it is, and so is what is found by any other
    name, such as a buffer that may be replaced:

    >>> class Diffusion(torch.nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.k = torch.nn.Parameter(torch.tensor(0.0))
    ...         self.log_k = torch.nn.Parameter(torch.tensor(0.0))
    ...         self.net = torch.nn.Linear(3, 1)
    ...         self.operator = self.k * t - (lambda p: self.log_k.exp()) * (x**2 + y**2)
    ...
    ...     def forward(self, p):
    ...         return self.operator(self.net, batch_dims=1)(p)

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
        self.symbol: Polynomial = made(_sum, *(t.symbol for t in terms if not t.factors))
        self.outside = tuple(term for term in terms if term.factors and _nonzero(term))
        self.coordinates = coordinates
        self.names = dict(names or {})
        self.name = name or "the operator"
        self._named = bool(name)
        self.symbols = made(polynomials, coordinates, tuple(self.names.items()), *self.polynomials)

    @property
    def order(self) -> int:
        """The highest number of derivatives in a term."""
        return static(_order, *self.polynomials)

    @property
    def polynomials(self) -> tuple[Polynomial, ...]:
        """The symbols that are propagated together: the numeric part and one per array."""
        return (self.symbol, *(term.symbol for term in self.outside))

    def assemble(self, results: Sequence[Any], call: Call) -> Any:
        if not self.outside:
            return results[0]
        frontend = call.frontend
        total = results[0] if static(_is_nonzero, self.symbol) else None
        for term, result in zip(self.outside, results[1:], strict=True):
            factors = [factor.at(call) for factor in term.factors]
            scaled = frontend.map_outputs(partial(_scaled, factors, call.batch), result)
            total = scaled if total is None else frontend.map_outputs(plus, total, scaled)
        return total

    # ---- arithmetic

    def _make(self, terms: Sequence[Term], other: Operator | None = None) -> Operator:
        names, coordinates = dict(self.names), self.coordinates
        if other is not None:
            names |= other.names
            coordinates = other.coordinates if coordinates is None else coordinates
        return Operator(terms, coordinates, names)

    @property
    def _terms(self) -> tuple[Term, ...]:
        return (Term((), self.symbol), *self.outside)

    def _coerce(self, other: object) -> Operator | None:
        """A number c as the operator c·u; None for what is no operator."""
        if isinstance(other, Operator):
            check_alike([self, other])
            return other
        if isinstance(other, AnyNumber):
            return self._make([numeric(other)])
        return None

    def __add__(self, other: object) -> Operator:
        operand = self._coerce(other)
        if operand is None:
            raise _no_summand(self, other)
        return self._make([*self._terms, *operand._terms], operand)

    __radd__ = __add__

    def __neg__(self) -> Operator:
        return self * -1

    def __pos__(self) -> Operator:
        return self

    def __sub__(self, other: object) -> Operator:
        operand = self._coerce(other)
        if operand is None:
            raise _no_summand(self, other)
        return self + operand * -1

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
            and any(not isinstance(c.value, complex) for t in operand.outside for c in t.factors)
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
        factor = _factor(other)
        terms = [term for term in self._terms if _nonzero(term)]
        return self._make([Term((factor, *term.factors), term.symbol) for term in terms])

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """A tensor times an operator, which torch.compile takes for a product of tensors."""
        left, right = args
        if func.__name__ in ("mul", "__mul__", "__rmul__") and isinstance(right, Operator):
            return right.__rmul__(left)
        if func.__name__.strip("_") in ("add", "radd", "sub", "rsub"):
            if isinstance(left, Operator):
                raise _no_summand(left, right)
            raise _no_summand(right, left)
        return NotImplemented

    def __truediv__(self, other: object) -> Operator:
        if not isinstance(other, AnyNumber):
            raise TypeError(
                f"an operator can be divided by a number, got {type(other).__name__}; multiply "
                "with the inverse array from the left"
            )
        if isinstance(other, complex):
            return self * (1 / other)
        terms = [Term(term.factors, made(_over, term.symbol, other)) for term in self._terms]
        return self._make(terms)

    def __rtruediv__(self, other: object) -> Operator:
        raise TypeError(
            f"an operator is no divisor: {type(other).__name__} / ({self}) would be the solution "
            "of a differential equation; operators are multiplied, coefficient * operator"
        )

    def __pow__(self, exponent: int) -> Operator:
        if isinstance(exponent, bool) or not isinstance(exponent, int) or exponent < 0:
            raise ValueError(
                f"the power of an operator is a non-negative integer, got {exponent!r}"
            )
        if not self.outside:
            return self._make([Term((), made(python.pow, self.symbol, exponent))])
        result = self._make([numeric(1)])
        for _ in range(exponent):
            result = result * self
        return result

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Operator)
            and self.coordinates == other.coordinates
            and not differ(self.names, other.names)
            and self.symbol == other.symbol
            and len(self.outside) == len(other.outside)
            and all(
                a.symbol == b.symbol
                and len(a.factors) == len(b.factors)
                and all(c.value is d.value for c, d in zip(a.factors, b.factors, strict=True))
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
            pieces.append(f"{coefficient_of(term)}*({term.symbol.format(names)})")
        return " + ".join(pieces)

    def __repr__(self) -> str:
        return f"Operator({self})"


def numeric(number: Any) -> Term:
    """A number as a term; a complex one stays outside, so that jets stay real."""
    if isinstance(number, AnyNumber) and isinstance(number, complex):
        if number.imag:
            return Term((Factor(complex(number)),), made(_constant, 1))
        number = number.real
    return Term((), made(_constant, number))


# What is static about arithmetic is found by `static`, so these are plain functions of a module.


def _constant(number: Any) -> Polynomial:
    return Polynomial.constant(number)


def _variable(index: int) -> Polynomial:
    return Polynomial.variable(index)


def _over(symbol: Polynomial, number: Any) -> Polynomial:
    if isinstance(number, float):
        return symbol * (1 / number)
    return symbol * (Polynomial.constant(number).terms[()] ** -1 if number else 1 / number)


def _sum(*symbols: Polynomial) -> Polynomial:
    return sum(symbols, Polynomial())


def _is_nonzero(symbol: Polynomial) -> bool:
    return bool(symbol)


def _order(*symbols: Polynomial) -> int:
    return max(map(in_order, symbols))


# ------------------------------------------------------------------ coefficients


def _no_summand(operator: Operator, other: object) -> TypeError:
    """Why something cannot be added to an operator, and what to write."""
    if isinstance(other, Transform):
        return TypeError(
            f"({operator}) and {other.name} do not add up, because {other.name} is no polynomial "
            f'in partial derivatives; evaluate both: jetfold.derivatives({{"a": {operator}, "b": '
            f"{other.name}}})(f)(x)"
        )
    what = described(other) if hasattr(other, "shape") else type(other).__name__
    if hasattr(other, "shape") or callable(other):
        return TypeError(
            f"{what} + ({operator}) adds a coefficient to an operator; for the coefficient times "
            "the function itself (as a number stands for that many times the function) write "
            f"coefficient * jetfold.value + ({operator}), for its product with the operator "
            f"coefficient * ({operator})"
        )
    return TypeError(
        f"({operator}) + {what} is no operator; add operators, numbers (c stands for c times the "
        "function itself), or coefficient * jetfold.value"
    )


def _nonzero(term: Term) -> bool:
    return static(_is_nonzero, term.symbol)


def _times(a: Term, b: Term) -> Term:
    """Complex numbers become one; everything else waits for the call."""
    symbol = made(python.mul, a.symbol, b.symbol)
    numbers = [c.value for c in (*a.factors, *b.factors) if isinstance(c.value, complex)]
    others = tuple(c for c in (*a.factors, *b.factors) if not isinstance(c.value, complex))
    number = prod(numbers)
    if not isinstance(number, complex):
        return Term(others, symbol)
    if not number.imag:
        return Term(others, made(python.mul, symbol, number.real))
    return Term((Factor(number), *others), symbol)


def _factor(coefficient: Any) -> Factor:
    if not callable(coefficient) and not hasattr(coefficient, "shape"):
        raise TypeError(
            "a coefficient is a number, an array or a callable of the point, got "
            f"{type(coefficient).__name__}"
        )
    return factor(coefficient)


def factor(value: Any) -> Factor:
    """Of an array, nested lists of numbers, or a callable of the points."""
    plain = callable(value) or not hasattr(value, "shape")
    return Factor(value, None if plain else history_of(value))


def _scaled(factors: Sequence[Any], batch: tuple[int, ...], leaf: Array) -> Array:
    """The product of coefficients with what the operator makes of one output."""
    for c in reversed(factors):
        leaf = (c if isinstance(c, complex) else lined_up(c, leaf, batch)) * leaf
    return leaf


def lined_up(c: Array, leaf: Array, batch: tuple[int, ...]) -> Array:
    """A coefficient as an array that multiplies an output without changing its shape.

    Raises:
        ValueError: it is neither one value, nor one per point, nor shaped like the output.
    """
    shape, out, axes = tuple(c.shape), tuple(leaf.shape), len(batch)
    if len(shape) == len(out) and all(n in (1, m) for n, m in zip(shape, out, strict=True)):
        return c
    if prod(shape) == 1:
        return c.reshape(())
    if shape[:axes] == batch == out[:axes] and prod(shape[axes:]) == 1:
        return c.reshape((*batch, *(1,) * (len(out) - axes)))
    raise ValueError(
        f"a coefficient of shape {shape} does not go with an output of shape {out} at points of "
        f"the batch shape {batch}: it is one value (), one per point {batch}, or has the shape "
        "of the output; reshape it, or pass batch_dims= if the point has batch axes"
    )


def coefficient_of(term: Term) -> str:
    """How a term's coefficient is printed."""
    return "*".join(described(factor.value) for factor in term.factors)


def described(coefficient: Any) -> str:
    """How a coefficient is printed."""
    if isinstance(coefficient, complex):
        return str(coefficient)
    if callable(coefficient):
        return getattr(coefficient, "__name__", type(coefficient).__name__)
    return f"array{tuple(coefficient.shape)}"


@overload
def partials(
    shape: int | str, names: str | Sequence[str] | None = None
) -> tuple[Operator, ...]: ...
@overload
def partials(
    shape: tuple[int, int], names: str | Sequence[str] | None = None
) -> tuple[tuple[Operator, ...], ...]: ...
@overload
def partials(shape: Sequence[int], names: str | Sequence[str] | None = None) -> tuple[Any, ...]: ...
def partials(shape: int | str | Sequence[int], names: str | Sequence[str] | None = None) -> Any:
    """The operators ∂/∂(coordinate i) of a point.

    Args:
        shape: the names of the coordinates, `"t x y"`; or their number, or the shape of the point.
        names: of a number or a shape: how to call them, `"t x y"` or a sequence of strings.

    Returns:
        a tuple of operators; for a shape (n, m) a tuple of n tuples of m operators.

    Raises:
        ValueError: no name, no coordinate, a name twice, or another number of names.

    >>> t, x = partials("t x")
    >>> (t + x) ** 2
    Operator(t**2 + 2*t*x + x**2)
    """
    if isinstance(shape, str):
        if names is not None:
            raise ValueError(f'partials("{shape}") has its names already; leave names= out')
        names, shape = shape, len(names_of(shape))
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    if not sizes or any(not isinstance(n, int) or isinstance(n, bool) or n < 1 for n in sizes):
        raise ValueError(
            f'partials takes names, "t x y", or the number of coordinates or a shape, got {shape!r}'
        )
    total = prod(sizes)
    texts = names_of(names)
    if texts and len(texts) != total:
        raise ValueError(f"partials({shape}) needs {total} names, got {len(texts)}: {names!r}")
    known = dict(enumerate(texts))
    flat: list[Any] = [
        Operator([Term((), made(_variable, i))], total, known or None) for i in range(total)
    ]
    for size in reversed(sizes[1:]):
        flat = [tuple(flat[k : k + size]) for k in range(0, len(flat), size)]
    return tuple(flat)
