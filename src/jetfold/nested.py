"""The baseline: nested first-order automatic differentiation of the framework itself.

Second-order parts are forward-over-reverse: Σ_s d_s v_sᵀ(∇²f)v_s as the directional derivative of
the gradient, mapped over the directions. Higher orders nest that: a power of a quadratic form (the
biharmonic is (Σ ξ_i²)²) applies its second-order operator repeatedly, anything else pulls out pairs
of derivatives. Functions with more than one output per point use forward-over-forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from math import prod
from typing import Any

from .core import plans
from .core.arrays import Array
from .core.directions import diagonalise
from .core.polynomial import Monomial, Number, Polynomial, quadratic_root
from .core.symbols import Symbols, Variables, Wanted
from .frontend import Frontend

Function = Callable[[Any], Any]
"""From the flattened point (*batch, n) to the outputs of f."""

Components = tuple[tuple[int, float], ...]
"""A direction: Σ c·v_r over the pairs (r, c)."""


class Stage:
    """Σ_s w_s v_sᵀ(∇²f)v_s if `second`, else the one derivative along v_0."""

    def __init__(self, second: bool, weights: tuple[float, ...], vectors: tuple[Components, ...]):
        self.second = second
        self.weights = weights
        self.vectors = vectors


class Recipe:
    """A symbol as a sum of chains: factor · (stage ∘ … ∘ stage), the first applied first."""

    def __init__(self, symbol: Polynomial) -> None:
        self.chains: list[tuple[float, list[Stage]]] = []
        for degree in range(symbol.degree + 1):
            self.chains.extend(_chains(symbol.part(degree)))


class Entries:
    """Single derivatives of one order, one or two, stacked: ∂_i, or ∂_i ∂_j.

    Attributes:
        variables: per derivative the variables.
    """

    def __init__(self, symbols: Sequence[Polynomial]) -> None:
        self.variables = [next(iter(symbol.terms)) for symbol in symbols]
        for symbol, monomial in zip(symbols, self.variables, strict=True):
            assert symbol.terms == {monomial: 1}
            assert 1 <= len(monomial) == len(self.variables[0]) <= 2


class Recipes:
    """How each wanted symbol, or stack of symbols, is evaluated."""

    def __init__(self, wanted: Sequence[Wanted]) -> None:
        self.of: tuple[Any, ...] = tuple(
            Recipe(one)
            if isinstance(one, Polynomial)
            else Entries(one)
            if all(one)
            else [Recipe(symbol) for symbol in one]
            for one in wanted
        )


def recipes(symbols: Symbols, variables: Variables) -> Recipes:
    """Of the symbols in so many variables; called by `frontend.static`, as those below."""
    return _recipes(symbols, variables)


def low_recipes(symbols: Symbols, variables: Variables) -> Recipes:
    """Of what is not cut into pieces."""
    return _low_recipes(symbols, variables)


def power_recipes(power: int, sign: int, count: int) -> Recipes:
    """Of Σ_r ±ζ_r^power in that many directions."""
    return _power_recipes(power, sign, count)


@lru_cache(maxsize=256)
def _recipes(symbols: Symbols, variables: Variables) -> Recipes:
    return Recipes(symbols.at(variables))


@lru_cache(maxsize=256)
def _low_recipes(symbols: Symbols, variables: Variables) -> Recipes:
    return Recipes(plans.parts(symbols, variables).low)


@lru_cache(maxsize=256)
def _power_recipes(power: int, sign: int, count: int) -> Recipes:
    return Recipes((plans.sum_of_powers(power, sign, count),))


def _chains(part: Polynomial) -> list[tuple[float, list[Stage]]]:
    """The chains of a homogeneous symbol."""
    degree = part.degree
    if degree < 0:
        return []
    if degree == 0:
        return [(float(part.terms[()]), [])]
    if degree == 1:  # one derivative along the combined direction
        components = tuple((m[0], float(c)) for m, c in sorted(part.terms.items()))
        return [(1.0, [Stage(False, (1.0,), (components,))])]
    if degree == 2:
        return [(1.0, [_curvature(part)])]
    root = quadratic_root(part)
    if root is not None:
        factor, form, power = root
        return [(float(factor), [_curvature(form)] * power)]
    # h = Σ ξ_i ξ_j h_ij, for an odd degree h = Σ ξ_i h_i
    take = 1 if degree % 2 else 2
    rests: dict[Monomial, dict[Monomial, Number]] = {}
    for monomial, c in part.terms.items():
        rests.setdefault(monomial[:take], {})[monomial[take:]] = c
    return [
        (factor, [*stages, *_chains(Polynomial({head: 1}))[0][1]])
        for head, rest in rests.items()
        for factor, stages in _chains(Polynomial(rest))
    ]


def _curvature(form: Polynomial) -> Stage:
    """A quadratic form by the directions that diagonalise it."""
    weights, directions, _ = diagonalise(form)
    kept = [(float(d), v) for d, v in zip(weights, directions, strict=True) if d]
    vectors = tuple(tuple((r, float(c)) for r, c in v) for _, v in kept)
    return Stage(True, tuple(d for d, _ in kept), vectors)


def evaluate(
    frontend: Frontend,
    recipes: Recipes,
    function: Callable[..., Any],
    points: tuple[Array, ...],
    counts: Sequence[int],
    vectors: Array | None,
    batch_dims: int,
) -> list[Any]:
    """Every wanted symbol applied to the function, each by nested differentiation."""
    shapes = [tuple(point.shape) for point in points]
    batch = shapes[0][:batch_dims]
    flat = frontend.xp.concat(
        [point.reshape((*batch, n)) for point, n in zip(points, counts, strict=True)], -1
    )

    unmoved: list[bool] = []  # whether some output is of integers, which have no derivative

    def of_flat(z: Array) -> Any:
        start, parts = 0, []
        for shape, count in zip(shapes, counts, strict=True):
            parts.append(z[..., start : start + count].reshape(shape))
            start += count
        return frontend.map_outputs(moving, frontend.call(function, parts))

    def moving(leaf: Array) -> Array:
        if frontend.is_inexact(leaf):
            return leaf
        unmoved.append(True)
        return frontend.xp.asarray(0.0, flat) * leaf

    if vectors is None:
        vectors = frontend.xp.eye(sum(counts), flat)
    vectors = vectors.reshape(
        (vectors.shape[0], *(tuple(vectors.shape[1:-1]) or (1,) * batch_dims), vectors.shape[-1])
    )
    scalar = frontend.is_scalar(of_flat, flat, prod(batch))

    def one(recipe: Any) -> Any:
        if isinstance(recipe, Recipe):
            return _sum_of_chains(frontend, recipe, of_flat, flat, vectors, scalar)
        if isinstance(recipe, Entries):
            return _entries(frontend, recipe, of_flat, flat, vectors)
        rows = [_sum_of_chains(frontend, r, of_flat, flat, vectors, scalar) for r in recipe]
        return frontend.map_outputs(lambda *x: frontend.xp.stack(x), *rows)

    found = [one(recipe) for recipe in recipes.of]
    if not unmoved:
        return found
    values = frontend.call(function, points)
    return [
        frontend.map_outputs(partial(_of_integers, frontend, recipe), values, result)
        for recipe, result in zip(recipes.of, found, strict=True)
    ]


def _of_integers(frontend: Frontend, recipe: Any, value: Array, result: Array) -> Array:
    """What is found, or of integers their multiple by the constant term."""
    if frontend.is_inexact(value):
        return result
    if isinstance(recipe, Recipe):
        c = sum(factor for factor, stages in recipe.chains if not stages)
        return value if c == 1 else value * c if c else frontend.xp.zeros_like(value)
    return frontend.xp.stack([frontend.xp.zeros_like(value)] * result.shape[0])


def _entries(
    frontend: Frontend, entries: Entries, function: Function, point: Array, vectors: Array
) -> Any:
    """Single derivatives, mapped over their directions."""
    xp = frontend.xp
    first = xp.take(vectors, [monomial[0] for monomial in entries.variables])
    if len(entries.variables[0]) == 1:
        return frontend.vmap(lambda v: frontend.jvp(function, point, v), first)
    second = xp.take(vectors, [monomial[1] for monomial in entries.variables])

    def mixed(pair: Array) -> Any:
        return frontend.jvp(lambda z: frontend.jvp(function, z, pair[0]), point, pair[1])

    both = xp.moveaxis(xp.stack([first, second]), 0, 1)
    return frontend.vmap(mixed, both)


def _sum_of_chains(
    frontend: Frontend,
    recipe: Recipe,
    function: Function,
    point: Array,
    vectors: Array,
    scalar: bool,
) -> Any:
    total = None
    for factor, stages in recipe.chains:
        chain = function
        for stage in stages:
            chain = _apply(frontend, stage, chain, vectors, scalar)
        result = chain(point)
        if factor != 1:
            result = frontend.map_outputs(lambda leaf, factor=factor: leaf * factor, result)
        total = result if total is None else frontend.map_outputs(plus, total, result)
    if total is None:
        return frontend.map_outputs(lambda leaf: leaf * 0, function(point))
    return total


def plus(a: Array, b: Array) -> Array:
    """a + b."""
    return a + b


def _apply(
    frontend: Frontend, stage: Stage, function: Function, vectors: Array, scalar: bool
) -> Function:
    """The function that a stage makes of a function."""
    tangents = [_direction(components, vectors) for components in stage.vectors]
    if not stage.second:
        return lambda z: frontend.jvp(function, z, tangents[0])
    stacked = frontend.xp.stack(tangents)

    def curvature(z: Array, tangent: Array) -> Any:
        if scalar:
            return frontend.vector_hessian_vector(function, z, tangent)
        return frontend.jvp(lambda z: frontend.jvp(function, z, tangent), z, tangent)

    def applied(z: Array) -> Any:
        terms = frontend.vmap(lambda tangent: curvature(z, tangent), stacked)
        return frontend.map_outputs(partial(_weighted_sum, frontend, stage.weights), terms)

    return applied


def _weighted_sum(frontend: Frontend, weights: Sequence[float], stacked: Array) -> Array:
    """Σ_s w_s stacked[s]."""
    xp = frontend.xp
    if all(w == weights[0] for w in weights):
        total = xp.sum(stacked, (0,))
        return total if weights[0] == 1 else total * weights[0]
    return xp.einsum("s,s...->...", xp.asarray(list(weights), stacked), stacked)


def _direction(components: Components, vectors: Array) -> Array:
    total = None
    for r, c in components:
        term = vectors[r] if c == 1 else vectors[r] * c
        total = term if total is None else total + term
    return total
