"""`randomize`: operators from random directions, and how these are drawn."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, overload

from .core import plans
from .core.arrays import Array
from .core.estimators import Distribution, Estimator, Sampling, Source, Sources
from .core.symbols import Estimated, Variables, estimated, estimator
from .frameworks import made, static
from .frontend import Frontend
from .transform import Call, Transform
from .typed import Several, TakesRandomness
from .warn import JetfoldWarning


class Randomized(Transform):
    """An unbiased estimate of an operator; made by `randomize`.

    A transform like the operator itself, with the same arguments; the function that it gives also
    takes the keyword `rng`.

    Attributes:
        base: the operator.
        sampling: how it is estimated.
    """

    symbols: Estimated
    random = True
    if TYPE_CHECKING:
        __call__: TakesRandomness

    def __init__(self, base: Transform, sampling: Sampling) -> None:
        self.base = base
        self.sampling = sampling
        self.name, self.coordinates = base.name, base.coordinates
        self.symbols = made(estimated, base.symbols, sampling)

    def check(self, batch_dims: int) -> None:
        self.base.check(batch_dims)
        if static(getattr, self.sampling, "per_point") and not batch_dims:
            raise ValueError(
                "per_point=True draws for every point of a batch, and needs batch_dims=; under "
                "vmap, map over split keys (or use torch.func.vmap's randomness='different') "
                "instead"
            )

    def variables(self, n: int) -> Variables:
        return self.base.variables(n), 0

    def directions(self, call: Call) -> tuple[Array | None, Variables]:
        """The base's own directions, or random mixtures of them."""
        vectors, inner = self.base.directions(call)
        sources = call.frontend.static(sources_of, self.symbols, inner, call.method, self.name)
        if sources is None:
            return vectors, (inner, 0)
        batch = call.batch if static(getattr, self.sampling, "per_point") else ()
        drawn = draw(sources, call.frontend, call.points[0], batch, call.rng)
        if vectors is not None:
            left, right = "..." if drawn.ndim > 2 else "", "..." if vectors.ndim > 2 else ""
            spec = f"s{left}v,v{right}n->s{left or right}n"
            drawn = call.frontend.xp.einsum(spec, drawn, vectors)
        return drawn, (inner, drawn.shape[0])

    def assemble(self, results: Sequence[Any], call: Call) -> Any:
        return self.base.assemble(results, call)

    def estimator(self, n: int) -> Estimator:
        """The directions that are drawn, and the polynomials in them, for n coordinates."""
        return estimator(self.symbols, self.base.variables(n))

    def __repr__(self) -> str:
        drawn = f", distribution={self.sampling.distribution!r}" * bool(self.sampling.distribution)
        return f"randomize({self.base}, samples={self.sampling.samples}{drawn})"


def sources_of(symbols: Estimated, inner: Variables, method: str, name: str) -> Sources | None:
    """How directions are drawn; None, with a warning, where the exact operator is as cheap."""
    found = plans.sources(symbols, inner, method)
    if found is None:
        warnings.warn(
            f"{name}: {symbols.sampling.samples} samples carry no fewer vectors than the exact "
            "operator, which is evaluated instead (no variance, and no dearer)",
            JetfoldWarning,
            stacklevel=2,
        )
    return found


@overload
def randomize(
    operator: Several,
    samples: int,
    distribution: Distribution | None = None,
    *,
    replace: bool = False,
    per_point: bool = False,
) -> Several: ...
@overload
def randomize(
    operator: Transform,
    samples: int,
    distribution: Distribution | None = None,
    *,
    replace: bool = False,
    per_point: bool = False,
) -> Randomized: ...
def randomize(
    operator: Any,
    samples: int,
    distribution: Distribution | None = None,
    *,
    replace: bool = False,
    per_point: bool = False,
) -> Any:
    """An unbiased estimate of an operator from random directions, in one collapsed propagation.

    Args:
        operator: an `Operator`, `jetfold.laplacian` or `jetfold.biharmonic`,
            `jetfold.weighted_laplacian(sigma=…)` or `(C=…)`, or several polynomials together, by
            `jetfold.derivatives`.
        samples: the number S of directions (or of terms); K-th derivatives along S directions carry
            1+(K−1)S+1 vectors. Where the exact operator carries no more, it is evaluated instead,
            and a `JetfoldWarning` says so.
        distribution:
            "rademacher": directions of ±1; order two. The smallest variance of independent ones
            where the Hessian is large on its diagonal.
            "gaussian": also for powers (Σ_i a_i ∂_i²)^m of definite quadratic forms, by
            E[(v·ξ)^{2m}] = (2m−1)!!·|ξ|^{2m}.
            "orthogonal": uniform on the sphere and orthogonal to each other: as Gaussian, with a
            smaller variance that vanishes at order two as S reaches the number of coordinates.
            "coordinates": S terms of the polynomial, of any operator.
            None: Rademacher at order two, else Gaussian, else coordinates: the first that fits.
        replace: with "coordinates": terms may be drawn twice, with probability ∝ |coefficient|;
            without, all sets of S terms are equally likely.
        per_point: independent directions for every point of a batch (`batch_dims` axes); one draw
            for all of them otherwise.

    Returns:
        a transform of functions with the arguments of the operator itself. The function that it
        returns takes `rng`: a `torch.Generator` (PyTorch's global state if not given), or a JAX
        key, which has to be given and gives the same number whenever it is the same.

    Raises:
        TypeError: not an operator; rng is no generator or key.
        ValueError: unknown distribution, or one that does not fit the operator; samples < 1.

    Odd moments vanish, so antithetic pairs ±v would give every even derivative twice.

    Sources: Hutchinson 1989 (order two), Dangel et al. 2025 (higher order, collapsed), Hu et al.
    2024, "Stochastic Taylor derivative estimator" (terms).

    >>> import torch, jetfold as jf
    >>> x, y, z = jf.partials(3, names="x y z")
    >>> estimate = jf.randomize(x**2 + y**2 + z**2, samples=2, distribution="rademacher")
    >>> f = lambda p: (p**2 * torch.tensor([1.0, 2.0, 3.0])).sum()
    >>> estimate(f)(torch.tensor([1.0, 2.0, 3.0]), rng=torch.Generator().manual_seed(0))
    tensor(12.)
    """
    if not isinstance(operator, Transform):
        raise TypeError(
            "randomize takes an operator: one made with partials(n), jetfold.laplacian or "
            "biharmonic, jetfold.weighted_laplacian(sigma=…); got "
            f"{type(operator).__name__}"
            + (" (the operator itself, not operator(f))" if callable(operator) else "")
        )
    sampling = made(Sampling, samples, distribution, replace, per_point)
    return Randomized(operator, sampling)


# ------------------------------------------------------------------ drawing


def draw(
    sources: Sources, frontend: Frontend, point: Array, batch: Sequence[int], rng: Any
) -> Array:
    """Directions (R, n) like the point, or (R, *batch, n) with other ones for every point."""
    frontend.check_rng(rng)
    xp, keys = frontend.xp, list(frontend.split(rng, sources.random))
    blocks = []
    for source in sources.draws:
        n = source.coordinates
        if source.kind == "fixed":
            rows = xp.asarray(source.fixed, point).reshape((-1, *(1,) * len(batch), n))
            block = xp.broadcast_to(rows, (source.rows, *batch, n))
        elif source.kind == "isotropic":
            block = _isotropic(frontend, keys.pop(0), source, batch, point)
        else:
            block = _terms(frontend, keys.pop(0), source, batch, point)
        if source.twice:
            block = xp.concat(
                [
                    xp.place(block, list(range(n)), 2 * n),
                    xp.place(block, list(range(n, 2 * n)), 2 * n),
                ],
                0,
            )
        blocks.append(block)
    return xp.concat(blocks, 0)


def _isotropic(
    frontend: Frontend, rng: Any, source: Source, batch: Sequence[int], point: Array
) -> Array:
    """Random mixtures of the directions of a draw, or of the coordinates."""
    xp = frontend.xp
    z = noise(frontend, rng, source, batch, point)
    if source.layout == "matrix":
        return xp.einsum("s...r,rn->s...n", z, xp.asarray(source.factor, point))
    if source.layout == "some":
        scaled = z * xp.asarray(source.scales, point)
        return xp.place(scaled, source.places, source.coordinates)
    return z


def noise(
    frontend: Frontend, rng: Any, source: Source, batch: Sequence[int], point: Array
) -> Array:
    """(samples, *batch, dimension) of mean 0 and variance 1."""
    samples, dimension = source.samples, source.dimension
    if source.distribution == "rademacher":
        return frontend.signs(rng, (samples, *batch, dimension), point)
    if source.distribution == "gaussian":
        return frontend.normal(rng, (samples, *batch, dimension), point)
    xp, found, left = frontend.xp, [], samples
    for key in frontend.split(rng, -(-samples // dimension)):
        count = min(left, dimension)
        rows = xp.orthonormal(frontend.normal(key, (*batch, count, dimension), point))
        found.append(xp.moveaxis(rows, -2, 0) * dimension**0.5)
        left -= count
    return xp.concat(found, 0)


def _terms(
    frontend: Frontend, rng: Any, source: Source, batch: Sequence[int], point: Array
) -> Array:
    """One row per sample and factor."""
    xp, n = frontend.xp, source.coordinates
    shape = (source.samples, *batch)
    if source.weighted:
        which = frontend.weighted_indices(rng, source.ends, shape, point)
    else:
        which = frontend.indices(rng, source.total, shape, source.replace, point)
    if source.scale is None:
        scale = xp.asarray(source.scales, point)[which]
    else:
        scale = xp.full(shape, source.scale, point)
    if source.layout == "all":
        return xp.one_hot(scale, which, n)
    places = xp.integers(source.places, point)[which]
    ones = xp.full(shape, 1.0, point)
    rows = [xp.one_hot(ones if k else scale, places[..., k], n) for k in range(source.factors)]
    stacked = xp.moveaxis(xp.stack(rows), 0, 1)
    return stacked.reshape((source.samples * source.factors, *batch, n))
