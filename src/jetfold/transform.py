"""op(f)(x): seed the coordinates, propagate through f, read the operators out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        choose: from the number of coordinates to the request that is evaluated instead.
        parts: what is cut into chunks; see `chunks`. With directions it is their number per unit.
    """

    name: str
    symbols: Callable[[int], tuple[Polynomial, ...]]
    assemble: Callable[[list[Any], tuple[Any, ...]], Any] | None = None
    directions: Callable[[Any, tuple[Any, ...], int, int, Any], Any] | None = None
    random: bool = False
    choose: Callable[[int], Request] | None = None
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
        scheme = directions.scheme(request.symbols(variables), method)
        request.plans[key] = Plan(scheme, variables)
    return request.plans[key]


class Recipes:
    """The recipes of the nested baseline, one per symbol."""

    def __init__(self, symbols: tuple[Polynomial, ...]) -> None:
        self.of_symbol = tuple(nested.Recipe(symbol) for symbol in symbols)


def recipes(request: Request, variables: int) -> Recipes:
    """The recipes of a request; cached like its plans."""
    key = (variables, "nested")
    if key not in request.plans:
        request.plans[key] = Recipes(request.symbols(variables))
    return request.plans[key]


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
        asked = request if request.choose is None else frontend.chosen(request, n)
        vectors = None
        if asked.directions is not None:
            vectors = asked.directions(frontend, points, n, batch_dims, rng)
        call = Call(frontend, of_points, points, counts, batch_dims, method)
        if chunk_size is None:
            results = call.evaluate(asked, vectors)
        elif vectors is None:
            results = call.in_chunks(asked, chunk_size)
        else:
            results = call.directions_in_chunks(asked, vectors, chunk_size)
        return results[0] if request.assemble is None else request.assemble(results, points)

    try:
        return wraps(function)(transformed)
    except AttributeError:  # a callable object without the attributes of a function
        return transformed


@dataclass(frozen=True)
class Piece:
    """Σ_r ±(v_r·ξ)^power over many sparse directions.

    Attributes:
        symbol: to which of the symbols it belongs.
        coordinates, components: (R, P), of the directions.
    """

    symbol: int
    power: int
    sign: int
    coordinates: np.ndarray
    components: np.ndarray


@dataclass(frozen=True, eq=False)
class Parts:
    """Symbols as what is cheap (order 0 and 1), and what is summed over directions."""

    low: Request
    pieces: tuple[Piece, ...]


def parts_of(symbols: Sequence[Polynomial]) -> Parts:
    """Symbols as sums of powers of directions."""
    low = tuple(symbol.part(0) + symbol.part(1) for symbol in symbols)
    pieces = []
    for j, symbol in enumerate(symbols):
        for degree in range(2, symbol.degree + 1):
            part = symbol.part(degree)
            weighted = list(directions.powers(part)) if part else []
            for sign in (1, -1):
                chosen = [(v, abs(float(w))) for v, w in weighted if (w > 0) == (sign > 0)]
                width = max((len(v) for v, _ in chosen), default=0)
                coordinates = np.zeros((len(chosen), width), dtype=np.int64)
                components = np.zeros((len(chosen), width))
                for r, (vector, weight) in enumerate(chosen):
                    for p, (i, c) in enumerate(vector):
                        coordinates[r, p] = i
                        components[r, p] = float(c) * weight ** (1 / degree)
                if chosen:
                    pieces.append(Piece(j, degree, sign, coordinates, components))
    return Parts(Request("the operator", lambda n: low), tuple(pieces))


@lru_cache(maxsize=64)
def power_sum(power: int, sign: int) -> Request:
    """Σ_r ±ζ_r^power in as many directions as there are."""
    return Request("the operator", lambda n: (Polynomial({(r,) * power: sign for r in range(n)}),))


def chosen(request: Request, n: int) -> Request:
    """The request that is evaluated for n coordinates."""
    assert request.choose is not None
    key = ("chosen", n)
    if key not in request.plans:
        request.plans[key] = request.choose(n)
    return request.plans[key]


def parts(request: Request, n: int) -> Parts:
    """The parts of a request; cached like its plans."""
    key = ("parts", n)
    if key not in request.plans:
        made = parts_of(request.symbols(n)) if request.parts is None else request.parts(n)
        request.plans[key] = made
    return request.plans[key]


@dataclass(frozen=True)
class Call:
    """One call of a transformed function."""

    frontend: Any
    function: Callable[..., Any]
    points: tuple[Any, ...]
    counts: Sequence[int]
    batch_dims: int
    method: str

    def evaluate(self, request: Request, vectors: Any) -> list[Any]:
        """Every symbol of the request applied to the function."""
        variables = sum(self.counts) if vectors is None else index(vectors.shape[0])
        given = (self.function, self.points, self.counts, vectors, self.batch_dims)
        if self.method == "nested":
            recipes = self.frontend.recipes(request, variables).of_symbol
            return nested.evaluate(self.frontend, recipes, *given)
        return propagate(self.frontend, self.frontend.plan(request, variables, self.method), *given)

    def in_chunks(self, request: Request, size: int) -> list[Any]:
        """The same, a few directions at a time, which are made when they are needed."""
        n = sum(self.counts)
        found = self.frontend.parts(request, n)
        results = self.evaluate(found.low, None)
        for piece in found.pieces:
            rows = self.frontend.sparse_rows(piece.coordinates, piece.components, n, self.points[0])
            total = self._sum(
                power_sum(piece.power, piece.sign), rows, piece.coordinates.shape[0], size
            )
            results[piece.symbol] = self.frontend.map_two(
                lambda a, b: a + b, results[piece.symbol], total[0]
            )
        return results

    def directions_in_chunks(self, request: Request, vectors: Any, size: int) -> list[Any]:
        """The same with directions that are there."""
        groups, units = request.per_unit, vectors.shape[0] // request.per_unit
        grouped = vectors.reshape((groups, units, *vectors.shape[1:]))

        def rows(start: Any, count: int) -> Any:
            cut = self.frontend.rows(grouped, start, count)
            return cut.reshape((groups * count, *vectors.shape[1:]))

        return self._sum(request, rows, units, size)

    def _sum(self, request: Request, rows: Any, units: int, size: int) -> list[Any]:
        size = min(size, units)

        def step(start: Any, count: int) -> list[Any]:
            return self.evaluate(request, rows(start, count))

        total = self.frontend.add_up(lambda start: step(start, size), units // size, size)
        if units % size:
            rest = step(units - units % size, units % size)
            total = self.frontend.map_two(lambda a, b: a + b, total, rest)
        return total


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
