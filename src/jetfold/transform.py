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
        directions: points -> the directions as an array (R, n) or (R, *batch, n); None for the
            coordinates themselves.
    """

    name: str
    symbols: Callable[[int], tuple[Polynomial, ...]]
    assemble: Callable[[list[Any], tuple[Any, ...]], Any] | None = None
    directions: Callable[[Any, tuple[Any, ...], int, int], Any] | None = None
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

    def transformed(*args: Any, **kwargs: Any) -> Any:
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

        vectors = None
        if request.directions is not None:
            vectors = request.directions(frontend, points, sum(counts), batch_dims)
        variables = sum(counts) if vectors is None else index(vectors.shape[0])
        if method == "nested":
            recipes = frontend.recipes(request, variables).of_symbol
            results = nested.evaluate(
                frontend, recipes, of_points, points, counts, vectors, batch_dims
            )
        else:
            static = frontend.plan(request, variables, method)
            results = propagate(frontend, static, of_points, points, counts, vectors, batch_dims)
        return results[0] if request.assemble is None else request.assemble(results, points)

    try:
        return wraps(function)(transformed)
    except AttributeError:  # a callable object without the attributes of a function
        return transformed


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
