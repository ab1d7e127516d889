"""Randomized operators: which estimator, and how its directions are drawn."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from .core import sampling
from .core.directions import scheme
from .core.polynomial import Polynomial
from .core.sampling import DISTRIBUTIONS, Estimator, Source, Sources
from .transform import Request, coordinate_symbols
from .warn import JetfoldWarning

_LARGE = 20_000  # terms up to which the exact operator's algebra is built to count its vectors


def check_options(samples: Any, distribution: Any, per_point: Any, batch_dims: int) -> None:
    """Refuse impossible keywords."""
    if not isinstance(samples, int) or isinstance(samples, bool) or samples < 1:
        raise ValueError(f"samples must be a positive integer, got {samples!r}")
    if distribution is not None and distribution not in DISTRIBUTIONS:
        raise ValueError(
            f"distribution must be one of {', '.join(DISTRIBUTIONS)}; got {distribution!r}"
        )
    if per_point and not batch_dims:
        raise ValueError(
            "per_point=True draws for every point of a batch, and needs batch_dims=; under vmap, "
            "map over split keys (or use torch.func.vmap's randomness='different') instead"
        )


def estimated(
    exact: Request,
    estimator_of: Callable[[int], Estimator],
    no_dearer: Callable[[int, Estimator], bool],
    samples: int,
    per_point: bool,
) -> Request:
    """A request whose value is a draw of an estimator, or exact where that is as cheap.

    Args:
        exact: the operator.
        estimator_of: from the number of coordinates to the estimator.
        no_dearer: (coordinates, estimator) -> whether the exact operator carries no more vectors;
            it is evaluated instead by the method "minimal" (the others do what they are told).
    """

    def estimator(n: int, method: str) -> Estimator | None:
        made = estimator_of(n)
        if not made.random or (method == "minimal" and no_dearer(n, made)):
            tell(exact.name, samples)
            return None
        return made

    return Request(
        exact.name,
        exact.symbols,
        exact.assemble,
        partial(draw, per_point),
        random=True,
        estimator=estimator,
        exact=exact,
    )


def tell(name: str, samples: int) -> None:
    """Say that nothing is random."""
    warnings.warn(
        f"{name}: {samples} samples carry no fewer vectors than the exact operator, which is "
        "evaluated instead (no variance, and no dearer)",
        JetfoldWarning,
        stacklevel=2,
    )


def draw(
    per_point: bool,
    sources: Sources,
    frontend: Any,
    point: Any,
    n: int,
    batch_dims: int,
    rng: Any,
) -> Any:
    """Directions (R, n), or with per_point (R, *batch, n)."""
    frontend.check_rng(rng)
    batch = tuple(point.shape[:batch_dims]) if per_point else ()
    keys = frontend.split(rng, sources.random)
    blocks, used = [], 0
    for source in sources.draws:
        if source.kind == "fixed":
            rows = frontend.constant(source.fixed, point)
            shape = (source.rows, *((1,) * len(batch)), n)
            blocks.append(frontend.broadcast(rows.reshape(shape), (source.rows, *batch, n)))
            continue
        key, used = keys[used], used + 1
        if source.kind == "isotropic":
            z = noise(
                frontend, key, source.distribution, source.samples, batch, source.dimension, point
            )
            if source.layout == "matrix":
                rows = frontend.constant(source.factor, point)
                z = frontend.einsum("s...r,rn->s...n", z, rows)
            elif source.layout == "some":
                scale = frontend.constant(source.scales, point)
                z = frontend.place(z * scale, source.places, n)
            blocks.append(z)
        else:
            blocks.append(_terms(frontend, key, source, batch, n, point))
    return blocks[0] if len(blocks) == 1 else frontend.concatenate_first(blocks)


def noise(
    frontend: Any,
    rng: Any,
    distribution: str,
    samples: int,
    batch: Sequence[int],
    dimension: int,
    point: Any,
) -> Any:
    """(samples, *batch, dimension) of mean 0 and variance 1."""
    if distribution == "rademacher":
        return frontend.signs(rng, (samples, *batch, dimension), point)
    if distribution == "gaussian":
        return frontend.normal(rng, (samples, *batch, dimension), point)
    found, left = [], samples
    for key in frontend.split(rng, -(-samples // dimension)):
        count = min(left, dimension)
        found.append(
            frontend.moveaxis(
                frontend.orthonormal(frontend.normal(key, (*batch, count, dimension), point)), -2, 0
            )
            * dimension**0.5
        )
        left -= count
    return found[0] if len(found) == 1 else frontend.concatenate_first(found)


def _terms(
    frontend: Any,
    rng: Any,
    source: Source,
    batch: Sequence[int],
    n: int,
    point: Any,
) -> Any:
    """One row per sample and factor."""
    shape = (source.samples, *batch)
    if source.weighted:
        which = frontend.weighted_indices(rng, source.ends, shape, point)
    else:
        which = frontend.indices(rng, source.total, shape, source.replace, point)
    if source.scale is None:
        scale = frontend.constant(source.scales, point)[which]
    else:
        scale = frontend.full(shape, source.scale, point)
    if source.layout == "all":
        return frontend.one_hot(scale, which, n)
    places = frontend.integers(source.places, point)[which]
    ones = frontend.full(shape, 1.0, point)
    rows = [
        frontend.one_hot(ones if k else scale, places[..., k], n) for k in range(source.factors)
    ]
    stacked = frontend.moveaxis(frontend.stack(rows), 0, 1)
    return stacked.reshape((source.samples * source.factors, *batch, n))


@dataclass(frozen=True)
class Mixing:
    """Random mixtures v_s of directions d_r, with Σ_s v_s v_sᵀ = Σ_r d_r d_rᵀ in the mean."""

    samples: int
    distribution: str
    replace: bool
    per_point: bool

    def saves(self, directions: int, variables: int, name: str) -> bool:
        """Whether fewer vectors are carried than with all directions."""
        if self.samples * (variables // directions) < variables:
            return True
        tell(name, self.samples)
        return False

    def mix(self, frontend: Any, rng: Any, directions: Any, point: Any, batch_dims: int) -> Any:
        """(R, *batch, n) or (R, n) -> (S, *batch, n) or (S, n)."""
        frontend.check_rng(rng)
        count, own = directions.shape[0], len(directions.shape) > 2
        batch = tuple(point.shape[:batch_dims]) if self.per_point else ()
        if self.distribution == "coordinates":
            which = frontend.indices(rng, count, (self.samples, *batch), self.replace, point)
            scale = (count / self.samples) ** 0.5
            z = frontend.one_hot(frontend.full((self.samples, *batch), scale, point), which, count)
        else:
            z = noise(frontend, rng, self.distribution, self.samples, batch, count, point)
            z = z / self.samples**0.5
        left, right = "..." if batch else "", "..." if own else ""
        joined = left or right
        return frontend.einsum(f"s{left}r,r{right}n->s{joined}n", z, directions)


def estimated_symbols(
    exact: Request, samples: int, distribution: str | None, replace: bool, per_point: bool
) -> Request:
    """A request of polynomials in the coordinates, randomized."""

    def estimator(n: int) -> Estimator:
        return of_symbols(exact.symbols(n), samples, distribution, replace)

    def no_dearer(n: int, estimator: Estimator) -> bool:
        return exact_is_cheaper(exact.symbols(n), estimator)

    return estimated(exact, estimator, no_dearer, samples, per_point)


def of_symbols(
    symbols: tuple[Polynomial, ...], samples: int, distribution: str | None, replace: bool
) -> Estimator:
    """The estimator of polynomials; the default distribution is the one that fits."""
    if distribution == "coordinates":
        return sampling.from_terms(symbols, samples, replace)
    if distribution is not None:
        return sampling.from_directions(symbols, samples, distribution)  # type: ignore[arg-type]
    order = max(symbol.degree for symbol in symbols)
    try:
        return sampling.from_directions(
            symbols, samples, "rademacher" if order <= 2 else "gaussian"
        )
    except ValueError:
        return sampling.from_terms(symbols, samples, replace)


def of_named(kind: str, n: int, samples: int, distribution: str | None, replace: bool) -> Estimator:
    """The estimator of "laplacian" or "biharmonic" in n coordinates, without large polynomials."""
    power = 1 if kind == "laplacian" else 2
    distribution = distribution or ("rademacher" if power == 1 else "gaussian")
    if distribution != "coordinates":
        return sampling.isotropic(power, 1.0, n, samples, distribution)  # type: ignore[arg-type]
    if power == 1:
        return sampling.of_squares(n, samples, replace)
    return sampling.from_terms(coordinate_symbols(kind, n), samples, replace)


def named_vectors(kind: str, n: int) -> int:
    """How many vectors the exact "laplacian" or "biharmonic" in n coordinates carries."""
    return n + 2 if kind == "laplacian" else 2 * n + 2 + n * (n + 1) // 2


def exact_vectors(symbols: tuple[Polynomial, ...]) -> int | None:
    """How many vectors the exact operator carries; None where its algebra is large to build."""
    if sum(len(symbol.terms) for symbol in symbols) > _LARGE:
        return None
    return scheme(symbols, "minimal").algebra.vectors


def exact_is_cheaper(symbols: tuple[Polynomial, ...], estimator: Estimator) -> bool:
    """Whether the exact operator carries no more vectors; counted only where that is quick."""
    used = {v for symbol in symbols for v in symbol.variables}
    if estimator.vectors < len(used) + 1:
        return False
    return estimator.no_cheaper_than(exact_vectors(symbols))
