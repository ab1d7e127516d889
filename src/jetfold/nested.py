"""The baseline: nested first-order automatic differentiation of the framework itself.

Second-order parts are forward-over-reverse: Σ_s d_s v_sᵀ(∇²f)v_s as the directional derivative of
the gradient, mapped over the directions. Higher orders nest that: a power of a quadratic form (the
biharmonic is (Σ ξ_i²)²) applies its second-order operator repeatedly, anything else pulls out pairs
of derivatives. Functions with more than one output per point use forward-over-forward.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from .core.directions import diagonalise
from .core.polynomial import Monomial, Number, Polynomial, quadratic_root

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
    frontend: Any,
    recipes: Sequence[Recipe],
    function: Callable[..., Any],
    points: tuple[Any, ...],
    counts: Sequence[int],
    vectors: Any,
    batch_dims: int,
) -> list[Any]:
    """Every symbol applied to the function, each by nested differentiation."""
    shapes = [tuple(point.shape) for point in points]
    batch = shapes[0][:batch_dims]
    flat = frontend.concatenate(
        [point.reshape((*batch, n)) for point, n in zip(points, counts, strict=True)]
    )

    def of_flat(z: Any) -> Any:
        start, parts = 0, []
        for shape, count in zip(shapes, counts, strict=True):
            parts.append(z[..., start : start + count].reshape(shape))
            start += count
        return frontend.map_outputs(lambda leaf: leaf, function(*parts))

    if vectors is None:
        vectors = frontend.identity(sum(counts), flat)
    vectors = vectors.reshape(
        (vectors.shape[0], *(tuple(vectors.shape[1:-1]) or (1,) * batch_dims), vectors.shape[-1])
    )
    scalar = frontend.is_scalar(of_flat, flat, prod(batch))
    return [_sum_of_chains(frontend, recipe, of_flat, flat, vectors, scalar) for recipe in recipes]


def _sum_of_chains(
    frontend: Any, recipe: Recipe, function: Function, point: Any, vectors: Any, scalar: bool
) -> Any:
    total = None
    for factor, stages in recipe.chains:
        chain = function
        for stage in stages:
            chain = _apply(frontend, stage, chain, vectors, scalar)
        result = chain(point)
        if factor != 1:
            result = frontend.map_outputs(lambda leaf, factor=factor: leaf * factor, result)
        total = result if total is None else frontend.map_two(lambda a, b: a + b, total, result)
    if total is None:
        return frontend.map_outputs(lambda leaf: leaf * 0, function(point))
    return total


def _apply(frontend: Any, stage: Stage, function: Function, vectors: Any, scalar: bool) -> Function:
    """The function that a stage makes of a function."""
    tangents = [_direction(components, vectors) for components in stage.vectors]
    if not stage.second:
        return lambda z: frontend.jvp(function, z, tangents[0])
    stacked = frontend.stack(tangents)

    def curvature(z: Any, tangent: Any) -> Any:
        if scalar:
            return frontend.vector_hessian_vector(function, z, tangent)
        return frontend.jvp(lambda z: frontend.jvp(function, z, tangent), z, tangent)

    def applied(z: Any) -> Any:
        terms = frontend.vmap(lambda tangent: curvature(z, tangent), stacked)
        return frontend.map_outputs(lambda leaf: frontend.weighted_sum(stage.weights, leaf), terms)

    return applied


def _direction(components: Components, vectors: Any) -> Any:
    total = None
    for r, c in components:
        term = vectors[r] if c == 1 else vectors[r] * c
        total = term if total is None else total + term
    return total
