"""Nonlinear equations as they are written: u_t + u u_x − ν u_xx, from one propagation.

An equation is a function of arrays that asks for derivatives, `d.x(u)`. It is run twice: on other
arrays first, to learn for which derivatives it asks; then all of them are propagated together, and
it runs on their values. Nothing but `d` is special to it: what it is given are arrays.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import combinations_with_replacement
from math import prod
from numbers import Real
from types import FunctionType
from typing import Any, Generic, Protocol, TypeVar

from .core.arrays import Array
from .core.polynomial import Monomial, Polynomial
from .core.symbols import Polynomials, Symbols
from .frameworks import made
from .frontend import Frontend
from .names import check_alike, names_of
from .operators import Operator, partials
from .transform import Call, Function, called, check_options, refuse_other_coordinates

Symbol = tuple[tuple[Monomial, Any], ...]
"""Σ c ∂^m as the pairs (m, c), sorted: what tells one derivative from another. To torch.compile,
which computes with no fractions, a token of it (`frameworks.made`)."""

VALUE: Symbol = (((), 1),)

T = TypeVar("T")
Result = TypeVar("Result")

WRITTEN = (
    "the equation writes into a field or a derivative, which is no longer itself then; write "
    "u = 2 * u, not u *= 2"
)

RESERVED = ("laplacian", "biharmonic", "gradient", "divergence", "along")


class Residual(Generic[Result]):
    """What a function lacks to solve an equation, as a transform of functions; see `residual`.

    To type checkers `Residual[Tensor]` gives what the equation returns, a tensor.

    Attributes:
        equation: of the fields, `d`, and what else it names.
        fields: the names of its fields.
        coordinates: the names of the coordinates; without names, as many empty ones.
        given: which of the coordinates, or "point", the equation takes beside the fields.
        parameters: what else it takes, by keyword.
        asked: for which derivatives it asked when it was called last; kept to ask once.
    """

    def __init__(self, equation: Callable[..., Result], coordinates: Sequence[str]) -> None:
        self.equation = equation
        self.coordinates = tuple(coordinates)
        taken = _arguments(equation)
        if "d" not in taken[1:]:
            raise TypeError(
                "the equation takes its fields and then d, which differentiates them, as in "
                'jetfold.residual(lambda u, d: d.t(u) + u * d.x(u) - 0.01 * d.xx(u), "t x"); got '
                f"a function of ({', '.join(taken)})"
            )
        self.fields = tuple(taken[: taken.index("d")])
        rest = taken[len(self.fields) + 1 :]
        self.given = tuple(name for name in rest if name in (*self.coordinates, "point"))
        self.parameters = tuple(name for name in rest if name not in self.given)
        self.asked: tuple[Symbol, ...] = (VALUE,)

    def __call__(
        self,
        f: Function,
        *point: Any,
        argnums: int | Sequence[int] = 0,
        batch_dims: int = 0,
        method: str = "minimal",
        structure: bool = True,
    ) -> Callable[..., Result]:
        """The function that evaluates the residual, with the arguments of f, and by keyword the
        parameters of the equation. The options are those of every operator."""
        if not callable(f) or point:
            raise TypeError(
                "a residual transforms a function: write residual(...)(f, batch_dims=1)(points); "
                f"got {', '.join(type(one).__name__ for one in (f, *point))}"
            )
        check_options(argnums, batch_dims, method)
        return Solving(self, f, argnums, batch_dims, method, structure)

    def evaluate(self, call: Call, parameters: Mapping[str, Any]) -> Any:
        """The equation on the values at the points of a call."""
        if call.n != len(self.coordinates):
            refuse_other_coordinates("the equation", len(self.coordinates), call)
        beside = self._beside(call, parameters)
        asked = self.asked if call.frontend.remembers() else (VALUE,)
        if asked == (VALUE,):
            asked = self._rehearsed(call, beside)
        while True:
            symbols = made(_symbols, len(self.coordinates), *asked)
            results = Call.at_once(call, symbols, call.n, None)
            fields = [self._split(call, result) for result in results]
            d = D(call.frontend, self.coordinates, self.fields, asked, fields)
            found = self._run(d, beside)
            if not d.missing:
                break
            asked = (*asked, *d.missing)  # it asks for more, by these values
        if call.frontend.remembers():
            self.asked = asked
        return call.frontend.map_outputs(partial(_of_points, call), found)

    def _run(self, d: D, beside: Mapping[str, Any]) -> Any:
        try:
            return self.equation(*d.values(), d, **beside)
        except (RuntimeError, TypeError) as error:
            if "more than one element of the written-to" in str(error):
                raise RuntimeError(WRITTEN) from error
            if "bool" not in str(error).lower():
                raise
            raise TypeError(
                "the equation takes all points at once, so it cannot branch on the values of "
                "fields or coordinates: choose between them by torch.where or jnp.where, not by if"
            ) from error

    def _beside(self, call: Call, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """What the equation takes beside the fields and d."""
        found = dict(parameters)
        if not self.given:
            return found
        columns = []
        for point, count in zip(call.points, call.counts, strict=True):
            flat = point.reshape((*call.batch, count))
            columns += [flat[..., k] for k in range(count)]
        for name in self.given:
            if name == "point":
                found[name] = call.points[0] if call.one else call.points
            else:
                found[name] = columns[self.coordinates.index(name)]
        return found

    def _rehearsed(self, call: Call, beside: Mapping[str, Any]) -> tuple[Symbol, ...]:
        """For which derivatives the equation asks at the points of a call."""
        like = call.points[0].reshape((*call.batch, call.counts[0]))[..., 0]
        return self.asks(call.frontend, like, beside)

    def asks(
        self, frontend: Frontend, like: Array, beside: Mapping[str, Any]
    ) -> tuple[Symbol, ...]:
        """For which derivatives the equation asks: it is run on arrays like one."""
        heard = D(frontend, self.coordinates, self.fields)

        def run(like: Array) -> Any:
            heard.stand_in(like)
            return self._run(heard, beside)

        frontend.rehearse(run, [like])
        return tuple(heard.symbols())

    def _split(self, call: Call, result: Any) -> list[Array]:
        """What a function returned, or a derivative of it, by fields: arrays (*batch,)."""
        count, batch = len(self.fields), call.batch
        parts: list[Any]
        if isinstance(result, Mapping):
            if missing := [name for name in self.fields if name not in result]:
                raise ValueError(
                    f"the equation has the fields {' '.join(self.fields)}, and the function "
                    f"returns {' '.join(map(str, result))}: {missing[0]} is missing"
                )
            parts = [result[name] for name in self.fields]
        elif isinstance(result, (tuple, list)):
            parts = list(result)
        elif count == 1 and prod(result.shape) == prod(batch):
            parts = [result]
        elif tuple(result.shape) == (*batch, count):
            parts = [result[..., k] for k in range(count)]
        else:
            parts = []
        if len(parts) != count or any([prod(one.shape) != prod(batch) for one in parts]):
            returned = getattr(result, "shape", None)
            returned = f"shape {tuple(returned)}" if returned is not None else "others"
            raise ValueError(
                f"the equation has {count} fields ({' '.join(self.fields)}): the function returns "
                f"them along the last axis, {(*batch, count)}, or as a dict or a tuple of arrays "
                f"{batch}; got {returned} at points of the batch shape {batch}"
            )
        return [one.reshape(batch) for one in parts]

    def __repr__(self) -> str:
        count = len(self.coordinates)
        names = " ".join(filter(None, self.coordinates)) or f"{count} coordinates"
        name = getattr(self.equation, "__name__", type(self.equation).__name__)
        return f"residual({name}: {' '.join(self.fields)} of {names})"


class Solving:
    """A residual of a function: a function of the point."""

    def __init__(
        self,
        residual: Residual[Any],
        function: Function,
        argnums: int | Sequence[int],
        batch_dims: int,
        method: str,
        structure: bool,
    ) -> None:
        self.residual = residual
        self.function = function
        self.options = (argnums, batch_dims, method, None, structure)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        residual = self.residual
        parameters = {name: kwargs.pop(name) for name in residual.parameters if name in kwargs}
        call = called("residual", self.function, args, kwargs, *self.options)
        return residual.evaluate(call, parameters)

    def __repr__(self) -> str:
        return f"{self.residual!r}({self.function!r})"


# ------------------------------------------------------------------ what differentiates


class Derivative(Protocol):
    """d.x: an array, of an array."""

    def __call__(self, u: T, /) -> T: ...


class D:
    """The derivatives of the fields of an equation: `d.x(u)`, `d.xx(u)`, `d.laplacian(u)`.

    A derivative takes a field or another derivative, d.x(d.x(u)); of products, sums and functions
    of fields it is written out by the rules of differentiation.
    """

    def __init__(
        self,
        frontend: Frontend,
        coordinates: Sequence[str],
        fields: Sequence[str],
        symbols: Sequence[Symbol] = (),
        values: Sequence[Sequence[Array]] = (),
    ) -> None:
        self._frontend = frontend
        self._coordinates = coordinates
        self._fields = fields
        self._known: list[tuple[Array, int, Symbol, int]] = []
        for symbol, arrays in zip(symbols, values, strict=True):
            for k, array in enumerate(arrays):
                self._known.append((array, k, symbol, frontend.version(array)))
        self._like: Any = None
        self._batch: tuple[int, ...] = ()
        self.missing: list[Symbol] = []

    # ---- d.x, d.xx, d[0], d(operator)

    def __getattr__(self, name: str) -> Derivative:
        if name.startswith("_"):
            raise AttributeError(name)
        monomial = spelled(name, self._coordinates)
        if monomial is None:
            raise AttributeError(
                f"d.{name} is no derivative: the coordinates are {' '.join(self._coordinates)}, so "
                f"that d.{self._coordinates[0] or '[0]'}(u) is a first and "
                f"d.{self._coordinates[0] * 2 or '[0, 0]'}(u) a second derivative"
            )
        return partial(self._of, f"d.{name}", ((monomial, 1),))

    def __getitem__(self, which: int | Sequence[int]) -> Derivative:
        """By indices of coordinates: d[0], d[0, 0]."""
        indices = (which,) if isinstance(which, int) else tuple(which)
        n = len(self._coordinates)
        if not all([isinstance(k, int) and 0 <= k < n for k in indices]):
            raise IndexError(f"d[{which}]: the coordinates are numbered from 0 to {n - 1}")
        return partial(self._of, f"d{list(indices)}", ((tuple(sorted(indices)), 1),))

    def __call__(self, operator: Operator) -> Derivative:
        """By an operator of `partials` with numbers as coefficients."""
        if not isinstance(operator, Operator) or operator.outside:
            raise TypeError(
                "d(...) takes an operator with numbers as coefficients, d(t - 0.1 * x**2)(u); of a "
                "field write d.x(u), and with an array as coefficient d.t(u) - k * d.xx(u)"
            )
        check_alike([operator, partials(len(self._coordinates), self._names())[0]])
        symbol = made(_symbol, operator.symbols, len(self._coordinates))
        return partial(self._of, "d(operator)", symbol)

    # ---- by name

    def laplacian(self, u: T, over: str | Sequence[str] | None = None) -> T:
        """Σ ∂²u/∂x_i² over all coordinates, or some: d.laplacian(u, over="x y"). In several
        coordinates it takes fewer vectors than its terms."""
        symbol = tuple([((i, i), 1) for i in self._over(over)])
        return self._of("d.laplacian", symbol, u)

    def biharmonic(self, u: T, over: str | Sequence[str] | None = None) -> T:
        """Δ²u over all coordinates, or some."""
        pairs = combinations_with_replacement(self._over(over), 2)
        symbol = tuple([((i, i, j, j), 1 if i == j else 2) for i, j in pairs])
        return self._of("d.biharmonic", symbol, u)

    def gradient(self, u: T, over: str | Sequence[str] | None = None) -> tuple[T, ...]:
        """One array per coordinate."""
        return tuple([self._of("d.gradient", (((i,), 1),), u) for i in self._over(over)])

    def divergence(self, v: Sequence[T], over: str | Sequence[str] | None = None) -> T:
        """Σ_i ∂v_i/∂x_i of as many fields as coordinates."""
        return self._sum("d.divergence", v, [1] * len(v), over)

    def along(self, u: T, v: Sequence[Any], over: str | Sequence[str] | None = None) -> T:
        """(v·∇)u = Σ_i v_i ∂u/∂x_i: the derivative along a vector, a normal, a velocity."""
        return self._sum("d.along", [u] * len(v), v, over)

    def _sum(self, name: str, fields: Sequence[Any], factors: Sequence[Any], over: Any) -> Any:
        chosen = self._over(over)
        if len(fields) != len(chosen):
            raise ValueError(
                f"{name} takes one entry per coordinate, {len(chosen)} here, got {len(fields)}; "
                'name the coordinates, over="x y"'
            )
        total = None
        for i, u, factor in zip(chosen, fields, factors, strict=True):
            term = self._of(name, (((i,), 1),), u)
            term = term if isinstance(factor, Real) and factor == 1 else factor * term
            total = term if total is None else total + term
        return total

    def _over(self, over: str | Sequence[str] | None) -> list[int]:
        if over is None:
            return list(range(len(self._coordinates)))
        wanted = names_of(over)
        if not wanted or not all([name in self._coordinates for name in wanted]):
            raise ValueError(
                f"over={over!r}: the coordinates are {' '.join(self._coordinates)}, and are named "
                'as in over="x y"'
            )
        return sorted([self._coordinates.index(name) for name in wanted])

    # ---- values

    def _of(self, name: str, symbol: Symbol, u: Any) -> Any:
        """A derivative of a field, or of a derivative."""
        for array, field, inner, version in self._known:
            if array is u:
                if self._frontend.version(array) != version:
                    raise RuntimeError(WRITTEN)
                return self._value(field, made(times, symbol, inner))
        given = getattr(u, "__name__", type(u).__name__)
        raise TypeError(
            f"{name}(...) takes a field of the equation ({', '.join(self._fields)}) or a "
            f"derivative of one, got another {given}; derivatives of products, sums and functions "
            "of them are written out: d.x(u * v) is v * d.x(u) + u * d.x(v), and d.x(u**2) is "
            "2 * u * d.x(u)"
        )

    def _value(self, field: int, symbol: Symbol) -> Any:
        for array, k, other, _ in self._known:
            if k == field and other == symbol:
                return array
        if self._like is None:
            self.missing.append(symbol)
            array = self._known[0][0] * 1.0  # another array, told apart by identity
        else:
            array = self._frontend.xp.broadcast_to(self._like * 1.0, self._batch)
        self._known.append((array, field, symbol, self._frontend.version(array)))
        return array

    def values(self) -> list[Array]:
        """The fields themselves."""
        return [self._value(k, VALUE) for k in range(len(self._fields))]

    def stand_in(self, like: Array) -> None:
        """From now on derivatives that are not known are arrays like this one: one number that is
        repeated, which PyTorch does not write to (torch.compile sees no versions)."""
        self._like, self._batch = like.sum() * 0.0 + 1.0, tuple(like.shape)

    def symbols(self) -> list[Symbol]:
        """All that was asked for, the fields themselves first."""
        return list(dict.fromkeys([VALUE, *[symbol for _, _, symbol, _ in self._known]]))

    def _names(self) -> list[str]:
        return [name for name in self._coordinates if name]


def _arguments(equation: Callable[..., Any]) -> list[str]:
    """The names of a function's arguments."""
    if not isinstance(equation, FunctionType) or hasattr(equation, "__wrapped__"):
        return list(inspect.signature(equation).parameters)
    code = equation.__code__  # torch.compile traces no signatures
    return list(code.co_varnames[: code.co_argcount + code.co_kwonlyargcount])


def _symbol(symbols: Symbols, coordinates: int) -> Symbol:
    """Of an operator with numbers as coefficients."""
    (symbol,) = symbols.at(coordinates)
    assert isinstance(symbol, Polynomial)
    return tuple(sorted(symbol.terms.items()))


def times(a: Symbol, b: Symbol) -> Symbol:
    """The product of two symbols."""
    terms: dict[Monomial, Any] = {}
    for m, c in a:
        for n, e in b:
            key = tuple(sorted(m + n))
            terms[key] = terms.get(key, 0) + c * e
    return tuple(sorted(terms.items()))


def spelled(name: str, coordinates: Sequence[str]) -> Monomial | None:
    """Which derivative a name means: "xx" is (1, 1) among the coordinates t and x."""
    if name in coordinates:
        return (coordinates.index(name),)
    found = []
    for part in name.split("_"):
        if part in coordinates:
            found.append(coordinates.index(part))
        else:
            letters = [coordinates.index(c) if c in coordinates else -1 for c in part]
            if not letters or -1 in letters:
                return None
            found += letters
    return tuple(sorted(found))


def _symbols(coordinates: int, *asked: Symbol) -> Polynomials:
    return _found_symbols(coordinates, asked)


@lru_cache(maxsize=256)
def _found_symbols(coordinates: int, asked: tuple[Symbol, ...]) -> Polynomials:
    return Polynomials([Polynomial(dict(symbol)) for symbol in asked], coordinates)


def _of_points(call: Call, leaf: Array) -> Array:
    if tuple(leaf.shape) != call.batch:
        raise ValueError(
            f"an equation gives one number per point, an array {call.batch}, got shape "
            f"{tuple(leaf.shape)}; several equations are returned as a dict or a tuple, and a "
            f"parameter has shape () or {call.batch}"
        )
    return leaf


def residual(
    equation: Callable[..., Result], coordinates: str | int | Sequence[str]
) -> Residual[Result]:
    """A nonlinear differential equation as it is written, from ONE propagation.

    Args:
        equation: a function of the fields, by any names, and then of `d`, by which they are
            differentiated: `d.t(u)`, `d.xx(u)`, `d.x(d.x(u))`; `d[0](u)` by index;
            `d.laplacian(u)`, `d.biharmonic`, `d.gradient`, `d.divergence((u, v))`,
            `d.along(u, v)`, all with `over="x y"` for some of the coordinates; `d(t - x**2)(u)` by
            an operator. Fields and derivatives are plain arrays `Float[*batch]`, so anything may
            be done with them. Behind d it may name coordinates, which are arrays like the fields,
            the `point`, and parameters, which come by keyword. It returns one array `[*batch]`,
            or a dict or tuple of them.
        coordinates: their names in the order of the point, `"t x y"`, or their number.

    Returns:
        a transform of functions, called as operators are. The function returns the fields along its
        last axis, `Float[*batch, fields]`, or as a dict by the names that the equation gives them,
        or as a tuple; of one field the last axis may be missing.

    Raises:
        TypeError: the equation takes no d; (in the call) d.x of what is no field or derivative.
        ValueError: coordinates without a name, or twice; (in the call) shapes that do not fit.

    >>> import torch
    >>> burgers = residual(lambda u, d, nu: d.t(u) + u * d.x(u) - nu * d.xx(u), "t x")
    >>> wave = lambda p: 1 - torch.tanh((p[..., 1] - p[..., 0]) / 0.2)  # its solution for ν = 0.1
    >>> points = torch.rand(3, 2, dtype=torch.float64)
    >>> (burgers(wave, batch_dims=1)(points, nu=0.1).abs() < 1e-12).all()
    tensor(True)

    Several equations of several fields, with a source that depends on the point:

    >>> def stokes(u, v, p, d, x):
    ...     return {
    ...         "x": d.x(p) - d.laplacian(u) - torch.sin(x),
    ...         "y": d.y(p) - d.laplacian(v),
    ...         "mass": d.divergence((u, v)),
    ...     }
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    >>> terms = residual(stokes, "x y")(net, batch_dims=1)(torch.rand(5, 2))
    >>> sum(term.square().mean() for term in terms.values()).backward()
    """
    if not callable(equation):
        raise TypeError(
            "residual takes an equation as a function, residual(lambda u, d: d.t(u) - d.xx(u), "
            f'"t x"), got {type(equation).__name__}'
        )
    if isinstance(coordinates, int) and not isinstance(coordinates, bool) and coordinates > 0:
        return Residual(equation, [""] * coordinates)
    names = names_of(coordinates) if isinstance(coordinates, (str, list, tuple)) else []
    if not names or not all(isinstance(name, str) and name.isidentifier() for name in names):
        raise ValueError(
            'the coordinates are named in the order of the point, as in "t x y"; got '
            f"{coordinates!r}"
        )
    if taken := [name for name in names if name in (*RESERVED, "d", "point")]:
        raise ValueError(f"a coordinate cannot be called {taken[0]}; choose another name")
    return Residual(equation, names)
