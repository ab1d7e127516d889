"""op(f)(x): seed the coordinates, propagate through f, read the operators out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial, wraps
from math import prod
from operator import index
from typing import Any, get_args

import numpy as np

from . import nested
from .core import directions
from .core.algebra import JetAlgebra, jet_algebra
from .core.polynomial import Polynomial
from .core.sampling import Estimator, Sources
from .frameworks import frontend_of

METHODS = ("minimal", "collapsed", "standard", "nested")
assert set(METHODS) == {*get_args(directions.Method), "nested"}


@dataclass(frozen=True, eq=False)
class Request:
    """What a transform evaluates, before it knows the function.

    Attributes:
        name: how errors call it.
        symbols: the symbols to propagate together, from the number of variables. The variables
            are the coordinates, or the directions where there are any.
        assemble: (results, points) -> the answer, where results[j] is symbol j applied to f, in
            the structure that f returns.
        directions: (frontend, points, n, batch_dims, rng) -> the directions as an array (R, n) or
            (R, *batch, n); None for the coordinates themselves.
        random: whether the call takes a keyword rng, which goes to `directions`.
        estimator: (number of coordinates, method) -> random directions and polynomials in them, or
            None where the exact request is evaluated. The directions then come from
            (sources, frontend, point, n, batch_dims, rng); see `sampling.draw`.
        exact: the request that is estimated.
        parts: what is cut into chunks; see `chunks`. With directions it is their number per unit.
    """

    name: str
    symbols: Callable[[int], tuple[Polynomial, ...]]
    assemble: Callable[[list[Any], tuple[Any, ...]], Any] | None = None
    directions: Callable[..., Any] | None = None
    random: bool = False
    estimator: Callable[[int, str], Estimator | None] | None = None
    exact: Request | None = None
    parts: Callable[[int], Parts] | None = None
    per_unit: int = 1
    plans: dict[Any, Any] = field(default_factory=dict)


class Seeds:
    """The static seeds of one degree: a matrix as nested lists, the identity, or nothing."""

    def __init__(self, scheme: directions.Scheme, degree: int, variables: int) -> None:
        seeds = scheme.seeds(degree, variables)
        self.empty = seeds is None
        self.identity = False
        self.rows: list[list[float]] = []
        if seeds is not None:
            n = seeds.shape[0]
            self.identity = seeds.shape == (n, n) and bool((seeds == np.eye(n)).all())
            self.rows = [] if self.identity else seeds.tolist()


class Plan:
    """All that is static about an evaluation, in plain attributes that a tracer can read."""

    def __init__(self, scheme: directions.Scheme, variables: int) -> None:
        self.algebra = scheme.algebra
        self.seeds = tuple(
            Seeds(scheme, degree, variables) for degree in range(1, scheme.algebra.order + 1)
        )


def plan(request: Request, variables: int, method: str) -> Plan:
    """The plan of a request; cached, because it depends on nothing that changes."""
    key = (variables, method)
    if key not in request.plans:
        symbols, rows = _symbols(request, variables, method)
        request.plans[key] = Plan(directions.scheme(symbols, method), rows)
    return request.plans[key]


def _symbols(request: Request, variables: int, method: str) -> tuple[tuple[Polynomial, ...], int]:
    """The symbols, and in how many variables: those of an estimator are its directions."""
    if request.estimator is None:
        return request.symbols(variables), variables
    found = estimator(request, variables, method)
    assert found is not None
    return found.symbols, sum(draw.rows for draw in found.draws)


class Recipes:
    """The recipes of the nested baseline, one per symbol."""

    def __init__(self, symbols: tuple[Polynomial, ...]) -> None:
        self.of_symbol = tuple(nested.Recipe(symbol) for symbol in symbols)


def recipes(request: Request, variables: int) -> Recipes:
    """The recipes of a request; cached like its plans."""
    key = (variables, "nested")
    if key not in request.plans:
        request.plans[key] = Recipes(_symbols(request, variables, "nested")[0])
    return request.plans[key]


def estimator(request: Request, n: int, method: str) -> Estimator | None:
    """The estimator for n coordinates, None where the exact request is evaluated; cached."""
    assert request.estimator is not None
    key = ("estimator", n, method)
    if key not in request.plans:
        request.plans[key] = request.estimator(n, method)
    found: Estimator | None = request.plans[key]
    return found


def sources(request: Request, n: int, method: str) -> Sources | None:
    """How the directions of the estimator are drawn; cached."""
    key = ("sources", n, method)
    if key not in request.plans:
        found = estimator(request, n, method)
        request.plans[key] = None if found is None else Sources(found, n)
    made: Sources | None = request.plans[key]
    return made


def transform(
    request: Request,
    function: Callable[..., Any],
    argnums: int | Sequence[int] = 0,
    batch_dims: int = 0,
    method: str = "minimal",
    chunk_size: int | None = None,
) -> Callable[..., Any]:
    """The function that evaluates the request for `function`, with the same arguments."""
    if not callable(function):
        raise TypeError(
            f"{request.name} transforms a function, got {type(function).__name__}; "
            f"write {request.name}(f)(x), not {request.name}(f(x))"
        )
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    if not isinstance(batch_dims, int) or isinstance(batch_dims, bool) or batch_dims < 0:
        raise ValueError(f"batch_dims must be a non-negative integer, got {batch_dims!r}")
    positions = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    if not positions or not all(isinstance(k, int) for k in positions):
        raise ValueError(f"argnums must be an integer or a tuple of integers, got {argnums!r}")

    if chunk_size is not None and (
        not isinstance(chunk_size, int) or isinstance(chunk_size, bool) or chunk_size < 1
    ):
        raise ValueError(f"chunk_size must be a positive integer or None, got {chunk_size!r}")

    def transformed(*args: Any, **kwargs: Any) -> Any:
        rng = kwargs.pop("rng", None) if request.random else None
        if any(not -len(args) <= k < len(args) for k in positions):
            raise TypeError(
                f"argnums={argnums!r} asks for positional arguments that are not there: "
                f"{len(args)} came; pass the point to differentiate by position"
            )
        points = tuple(args[k] for k in positions)
        frontend = frontend_of(points[0])
        for point in points:
            frontend.check_point(request.name, point, batch_dims)
        shapes = [tuple(point.shape) for point in points]
        if any(shape[:batch_dims] != shapes[0][:batch_dims] for shape in shapes):
            raise ValueError(
                f"the arguments {argnums!r} must share their first {batch_dims} (batch) axes, got "
                f"shapes {', '.join(map(str, shapes))}"
            )
        counts = [index(prod(shape[batch_dims:])) for shape in shapes]

        def of_points(*points: Any) -> Any:
            filled = list(args)
            for k, point in zip(positions, points, strict=True):
                filled[k] = point
            return function(*filled, **kwargs)

        n = sum(counts)
        call = Call(frontend, of_points, points, counts, batch_dims, method)
        results = call.results(request, n, rng, chunk_size)
        return results[0] if request.assemble is None else request.assemble(results, points)

    try:
        return wraps(function)(transformed)
    except AttributeError:  # a callable object without the attributes of a function
        return transformed


class Piece:
    """Σ_r ±(v_r·ξ)^power over many sparse directions; plain attributes for tracers.

    Attributes:
        symbol: to which of the symbols it belongs.
        count: how many directions there are.
        coordinates, components: per direction its entries, equally many; without any, direction r
            is the unit vector of coordinate r.
    """

    def __init__(
        self, symbol: int, power: int, sign: int, entries: Sequence[Mapping[int, float]] | int
    ) -> None:
        self.symbol, self.power, self.sign = symbol, power, sign
        self.coordinates: list[list[int]] = []
        self.components: list[list[float]] = []
        if isinstance(entries, int):
            self.count = entries
            return
        self.count = len(entries)
        width = max(map(len, entries))
        for vector in entries:
            rest = width - len(vector)
            self.coordinates.append([*vector] + [0] * rest)
            self.components.append([*vector.values()] + [0.0] * rest)


class Parts:
    """Symbols as what is cheap (order 0 and 1), and what is summed over directions."""

    def __init__(self, low: tuple[Polynomial, ...], pieces: Sequence[Piece]) -> None:
        self.low = low
        self.pieces = tuple(pieces)


def parts_of(symbols: Sequence[Polynomial]) -> Parts:
    """Symbols as sums of powers of directions."""
    low = tuple(symbol.part(0) + symbol.part(1) for symbol in symbols)
    pieces = []
    for j, symbol in enumerate(symbols):
        for degree in range(2, symbol.degree + 1):
            part = symbol.part(degree)
            weighted = list(directions.powers(part)) if part else []
            for sign in (1, -1):
                entries = [
                    {i: float(c) * abs(float(w)) ** (1 / degree) for i, c in v}
                    for v, w in weighted
                    if (w > 0) == (sign > 0)
                ]
                if entries:
                    pieces.append(Piece(j, degree, sign, entries))
    return Parts(low, pieces)


def parts(request: Request, n: int) -> Parts:
    """The parts of a request; cached like its plans."""
    key = ("parts", n)
    if key not in request.plans:
        made = parts_of(request.symbols(n)) if request.parts is None else request.parts(n)
        request.plans[key] = made
    found: Parts = request.plans[key]
    return found


def low_plan(request: Request, n: int, method: str) -> Plan | Recipes:
    """The plan of what is not cut into pieces; cached."""
    key = ("low", n, method)
    if key not in request.plans:
        request.plans[key] = _plan_of(parts(request, n).low, n, method)
    found: Plan | Recipes = request.plans[key]
    return found


@lru_cache(maxsize=256)
def power_plan(power: int, sign: int, count: int, method: str) -> Plan | Recipes:
    """The plan of Σ_r ±ζ_r^power in that many directions."""
    return _plan_of((Polynomial({(r,) * power: sign for r in range(count)}),), count, method)


def _plan_of(symbols: tuple[Polynomial, ...], variables: int, method: str) -> Plan | Recipes:
    if method == "nested":
        return Recipes(symbols)
    return Plan(directions.scheme(symbols, method), variables)


@dataclass(frozen=True)
class Call:
    """One call of a transformed function."""

    frontend: Any
    function: Callable[..., Any]
    points: tuple[Any, ...]
    counts: Sequence[int]
    batch_dims: int
    method: str

    def results(self, request: Request, n: int, rng: Any, chunk_size: int | None) -> list[Any]:
        """Every symbol of the request applied to the function, by the way that fits."""
        frontend = self.frontend
        if request.estimator is not None:
            assert request.exact is not None and request.directions is not None
            found = frontend.sources(request, n, self.method)
            if found is None:
                return self.results(request.exact, n, None, chunk_size)
            vectors = request.directions(
                found,
                frontend,
                self.points[0],
                n,
                self.batch_dims,
                rng,
            )
            return self.evaluate(self.static(request, n), vectors)
        if request.directions is not None:
            vectors = request.directions(frontend, self.points, n, self.batch_dims, rng)
            if chunk_size is not None:
                return self.directions_in_chunks(request, vectors, chunk_size)
            return self.evaluate(self.static(request, index(vectors.shape[0])), vectors)
        if chunk_size is not None:
            return self.in_chunks(request, n, chunk_size)
        return self.evaluate(self.static(request, n), None)

    def static(self, request: Request, variables: int) -> Any:
        """The plan of a request by the method."""
        if self.method == "nested":
            return self.frontend.recipes(request, variables)
        return self.frontend.plan(request, variables, self.method)

    def evaluate(self, static: Any, vectors: Any) -> list[Any]:
        """Every symbol of a plan applied to the function at once."""
        given = (self.function, self.points, self.counts, vectors, self.batch_dims)
        if self.method == "nested":
            return nested.evaluate(self.frontend, static.of_symbol, *given)
        return propagate(self.frontend, static, *given)

    def in_chunks(self, request: Request, n: int, size: int) -> list[Any]:
        """A few directions at a time, which are made when they are needed."""
        frontend, method = self.frontend, self.method
        results = self.evaluate(frontend.low_plan(request, n, method), None)
        for piece in frontend.parts(request, n).pieces:
            rows = frontend.sparse_rows(piece.coordinates, piece.components, n, self.points[0])

            def step(start: Any, count: int, piece: Any = piece, rows: Any = rows) -> list[Any]:
                static = frontend.power_plan(piece.power, piece.sign, count, method)
                return self.evaluate(static, rows(start, count))

            (total,) = self._sum(step, piece.count, size)
            results[piece.symbol] = frontend.map_two(_plus, results[piece.symbol], total)
        return results

    def directions_in_chunks(self, request: Request, vectors: Any, size: int) -> list[Any]:
        """A few at a time of directions that are there."""
        groups, units = request.per_unit, vectors.shape[0] // request.per_unit
        grouped = vectors.reshape((groups, units, *vectors.shape[1:]))

        def step(start: Any, count: int) -> list[Any]:
            cut = self.frontend.rows(grouped, start, count)
            some = cut.reshape((groups * count, *vectors.shape[1:]))
            return self.evaluate(self.static(request, groups * count), some)

        return self._sum(step, units, size)

    def _sum(self, step: Callable[[Any, int], list[Any]], units: int, size: int) -> list[Any]:
        size = min(size, units)
        if units > size:
            step = self.frontend.recomputed(step)
        total = self.frontend.add_up(lambda start: step(start, size), units // size, size)
        if units % size:
            rest = step(units - units % size, units % size)
            total = [self.frontend.map_two(_plus, a, b) for a, b in zip(total, rest, strict=True)]
        return list(total)


def _plus(a: Any, b: Any) -> Any:
    return a + b


def propagate(
    frontend: Any,
    static: Plan,
    function: Callable[..., Any],
    points: tuple[Any, ...],
    counts: Sequence[int],
    vectors: Any,
    batch_dims: int,
) -> list[Any]:
    """Every symbol of the plan applied to the function, from one forward pass on jets."""
    algebra = static.algebra
    with frontend.NewLevel() as level:
        jets, start = [], 0
        for point, count in zip(points, counts, strict=True):
            blocks = [
                frontend.seed(seeds, sum(counts), start, count, point, vectors, batch_dims)
                for seeds in static.seeds
            ]
            jets.append(frontend.make_jet(algebra, level, point, blocks))
            start += count
        out = frontend.run(function, jets)
        return [
            frontend.map_outputs(partial(frontend.read_out, level, entries), out)
            for entries in algebra.readout
        ]


@lru_cache(maxsize=256)
def coordinate_symbols(kind: str, n: int) -> tuple[Polynomial, ...]:
    """The symbols that depend on nothing but the number of coordinates."""
    square = Polynomial({(i, i): 1 for i in range(n)})
    return (square if kind == "laplacian" else square * square,)


@lru_cache(maxsize=64)
def path_algebra(order: int) -> JetAlgebra:
    """Jets along one path: e_k = ξ^k, so coefficient k is the k-th derivative by t."""
    xi = Polynomial.variable(0)
    return jet_algebra(tuple(xi**k for k in range(order + 1)))
