"""Operators of one's own: partials and their polynomials, derivatives, jet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from numbers import Number as AnyNumber
from typing import Any

from .core.polynomial import Polynomial
from .frameworks import frontend_of
from .transform import Request, transform

Function = Callable[..., Any]


@dataclass(frozen=True)
class Term:
    """A coefficient that stays outside of the algebra, times a polynomial in ∂."""

    coefficient: Any
    symbol: Polynomial


class Operator:
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

    Args of a call:
        f: the function; its first argument is the point, all its axes are coordinates.
        argnums: another position, or several: their raveled coordinates are concatenated.
        batch_dims: the first axes of the point that index independent points.
        method: "minimal", "collapsed", "standard" or "nested".
        chunk_size: evaluate the sum of directional derivatives that the operator is in pieces of
            that many directions, one after the other: the same value, in the memory of one piece.

    Returns of a call: the function that evaluates the operator, with the arguments of f and a
    result of the shape of f's result.

    Source: the product rule of symbols is Hörmander's, p(∂)(fg) = Σ_α (1/α!) p^{(α)}(∂)f ∂^αg.
    """

    __array_ufunc__ = None  # numpy arrays on the left leave the product to us
    __array_priority__ = 1000

    def __init__(
        self, terms: Sequence[Term], coordinates: int, names: Mapping[int, str] | None = None
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
        self._request = Request("the operator", self._symbols, self._assemble)

    @property
    def order(self) -> int:
        """The highest number of derivatives in a term."""
        return max(self.symbol.degree, *(t.symbol.degree for t in self.outside), 0)

    @property
    def symbols(self) -> tuple[Polynomial, ...]:
        """The polynomials that are propagated together: the numeric part and one per array."""
        return (self.symbol, *(term.symbol for term in self.outside))

    def _symbols(self, n: int) -> tuple[Polynomial, ...]:
        if n != self.coordinates:
            raise ValueError(
                f"{self!r} acts on {self.coordinates} coordinates, but the point has {n} (after "
                f"batch_dims); make the operator with partials({n}), or check batch_dims= and "
                "argnums="
            )
        return self.symbols

    def _assemble(self, results: list[Any], points: tuple[Any, ...]) -> Any:
        frontend = frontend_of(points[0])
        total = results[0] if self.symbol or not self.outside else None
        for term, result in zip(self.outside, results[1:], strict=True):
            c = term.coefficient(*points) if callable(term.coefficient) else term.coefficient
            c = c if isinstance(c, complex) else frontend.asarray(c, points[0])
            scaled = frontend.map_outputs(lambda leaf, c=c: c * leaf, result)
            total = scaled if total is None else frontend.map_two(_plus, total, scaled)
        return total

    def __call__(
        self,
        f: Function,
        *,
        argnums: int | Sequence[int] = 0,
        batch_dims: int = 0,
        method: str = "minimal",
        chunk_size: int | None = None,
    ) -> Function:
        return transform(self._request, f, argnums, batch_dims, method, chunk_size)

    # ---- arithmetic

    def _make(self, terms: Sequence[Term], other: Operator | None = None) -> Operator:
        names = self.names | (other.names if other is not None else {})
        return Operator(terms, self.coordinates, names)

    @property
    def _terms(self) -> tuple[Term, ...]:
        return (Term(None, self.symbol), *self.outside)

    def _coerce(self, other: object) -> Operator | None:
        """A number c as the operator c·u; None for what is no operator."""
        if isinstance(other, Operator):
            if other.coordinates != self.coordinates:
                raise ValueError(
                    f"operators on {self.coordinates} and on {other.coordinates} coordinates do "
                    "not combine; take both from one partials(n)"
                )
            return other
        if isinstance(other, AnyNumber):
            return self._make([_numeric(other, Polynomial.constant(1))])
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
        return hash((self.coordinates, self.symbol, tuple(t.symbol for t in self.outside)))

    def __str__(self) -> str:
        names = {i: self.names.get(i, f"d{i}") for s in self.symbols for i in s.variables}
        pieces = [self.symbol.format(names)] if self.symbol or not self.outside else []
        for term in self.outside:
            pieces.append(f"{_describe(term.coefficient)}*({term.symbol.format(names)})")
        return " + ".join(pieces)

    def __repr__(self) -> str:
        return f"Operator({self})"


def _plus(a: Any, b: Any) -> Any:
    return a + b


def _numeric(number: Any, symbol: Polynomial) -> Term | Any:
    """A number times a symbol; a complex one stays outside, so that jets stay real."""
    if isinstance(number, AnyNumber) and isinstance(number, complex):
        return Term(complex(number), symbol) if number.imag else Term(None, symbol * number.real)
    return Term(None, symbol * number)


def _inverse(number: Any) -> Any:
    return Polynomial.constant(number).terms[()] ** -1 if number else 1 / number


def _times(a: Term, b: Term) -> Term:
    symbol = a.symbol * b.symbol
    if b.coefficient is None:
        return Term(a.coefficient, symbol)
    if a.coefficient is None:
        return Term(b.coefficient, symbol)
    if isinstance(a.coefficient, complex) and isinstance(b.coefficient, complex):
        return _numeric(a.coefficient * b.coefficient, symbol)
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


def _describe(coefficient: Any) -> str:
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


# ------------------------------------------------------------------ several at once


def derivatives(operators: Any) -> Callable[..., Function]:
    """Several operators of one function from ONE propagation.

    Args:
        operators: any nesting of dicts, lists, tuples and named tuples of operators; the number 1
            stands for the value itself.

    Returns:
        a transform with the keywords argnums, batch_dims, method and chunk_size of an operator; its
        result has the structure of `operators`, with the results of the operators at the leaves.

    >>> import torch
    >>> t, x = partials(2)
    >>> u = lambda p: torch.sin(p[1]) * p[0] ** 2
    >>> derivatives({"u": 1, "u_t": t, "u_xx": x**2})(u)(torch.tensor([3.0, 0.0]))
    {'u': tensor(0.), 'u_t': tensor(0.), 'u_xx': tensor(0.)}
    """
    leaves = tree_leaves(operators)
    known = [leaf for leaf in leaves if isinstance(leaf, Operator)]
    if not known:
        raise TypeError("derivatives needs at least one operator made with partials(n)")
    flat = [known[0]._coerce(leaf) for leaf in leaves]
    for leaf, operator in zip(leaves, flat, strict=True):
        if operator is None:
            raise TypeError(
                f"derivatives takes operators and numbers, got {type(leaf).__name__} in its tree"
            )
    found: list[Operator] = [operator for operator in flat if operator is not None]

    def symbols(n: int) -> tuple[Polynomial, ...]:
        return tuple(symbol for operator in found for symbol in operator._symbols(n))

    def assemble(results: list[Any], points: tuple[Any, ...]) -> Any:
        rest = iter(results)
        values = iter(
            [
                operator._assemble([next(rest) for _ in operator.symbols], points)
                for operator in found
            ]
        )
        return _map_tree(lambda _: next(values), operators)

    request = Request("derivatives", symbols, assemble)

    def apply(
        f: Function,
        *,
        argnums: int | Sequence[int] = 0,
        batch_dims: int = 0,
        method: str = "minimal",
        chunk_size: int | None = None,
    ) -> Function:
        return transform(request, f, argnums, batch_dims, method, chunk_size)

    return apply


def tree_leaves(tree: Any) -> list[Any]:
    """The leaves of a nesting of dicts, lists and tuples."""
    leaves: list[Any] = []
    _map_tree(leaves.append, tree)
    return leaves


def _map_tree(func: Callable[[Any], Any], tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return type(tree)({k: _map_tree(func, v) for k, v in tree.items()})  # type: ignore[call-arg]
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(_map_tree(func, v) for v in tree))
    if isinstance(tree, (list, tuple)):
        return type(tree)([_map_tree(func, v) for v in tree])
    return func(tree)


# ------------------------------------------------------------------ vanilla Taylor mode


def jet(f: Function, primals: Sequence[Any], series: Sequence[Sequence[Any]]) -> tuple[Any, Any]:
    """Vanilla Taylor mode, with the signature and conventions of `jax.experimental.jet.jet`.

    The path x(t) = x_0 + t x_1 + t²/2! x_2 + … is pushed through f: coefficients are derivatives.

    Args:
        f: the function of the primals.
        primals: the points x_0, one per argument.
        series: per argument the derivatives (x_1, …, x_K) of its path, of the shape of the primal.

    Returns:
        (f(x_0), [the derivatives 1 … K of f(x(t)) at t = 0]), in the structure that f returns.

    >>> import torch
    >>> x = torch.tensor(0.5)
    >>> jet(torch.exp, (x,), ([torch.tensor(1.0), torch.tensor(0.0)],))
    (tensor(1.6487), [tensor(1.6487), tensor(1.6487)])
    """
    if len(primals) != len(series):
        raise ValueError(
            f"jet needs one series per primal, got {len(primals)} primals and {len(series)} series"
        )
    orders = {len(terms) for terms in series}
    if len(orders) != 1 or 0 in orders:
        raise ValueError(
            "all series must have the same number of terms, at least one, got "
            f"{sorted(len(terms) for terms in series)}"
        )
    (order,) = orders
    frontend = frontend_of(primals[0])
    for point, terms in zip(primals, series, strict=True):
        frontend.check_point("jet", point, 0)
        for term in terms:
            if tuple(getattr(term, "shape", ())) != tuple(point.shape):
                raise ValueError(
                    f"the series of a primal of shape {tuple(point.shape)} must have that shape, "
                    f"got {tuple(getattr(term, 'shape', ()))}"
                )
    algebra = frontend.path_algebra(order)
    with frontend.NewLevel() as level:
        jets = [
            frontend.make_jet(
                algebra, level, point, [frontend.asarray(term, point)[None] for term in terms]
            )
            for point, terms in zip(primals, series, strict=True)
        ]
        out = frontend.run(f, jets)
        values = [
            frontend.map_outputs(partial(frontend.read_out, level, entries), out)
            for entries in algebra.readout
        ]
    return values[0], values[1:]
