"""`randomize`: operators from random directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from . import sampling
from .core.sampling import Estimator
from .named import biharmonic, laplacian, weighted_laplacian
from .operators import Operator
from .transform import transform

NAMED = (laplacian, biharmonic, weighted_laplacian)


class Randomized:
    """An unbiased estimate of an operator; made by `randomize`.

    A transform like the operator itself, with the same arguments; the function that it gives also
    takes the keyword `rng`.
    """

    def __init__(
        self,
        operator: Any,
        samples: int,
        distribution: str | None,
        replace: bool,
        per_point: bool,
    ) -> None:
        self.operator = operator
        self.samples = samples
        self.distribution = distribution
        self.replace = replace
        self.per_point = per_point

    def __call__(self, f: Callable[..., Any], *args: Any, **options: Any) -> Callable[..., Any]:
        raise NotImplementedError

    def estimator(self, coordinates: int | None = None) -> Estimator:
        """The directions that are drawn, and the polynomials in them.

        Args:
            coordinates: of a named operator, how many there are; of a weighted Laplacian, how many
                columns σ has.
        """
        raise NotImplementedError

    def exact_vectors(self, coordinates: int | None = None) -> int | None:
        """How many vectors the exact operator carries; None if that is too many to count."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """The operator, as one writes it."""
        return str(self.operator)

    def __repr__(self) -> str:
        drawn = f", distribution={self.distribution!r}" if self.distribution else ""
        return f"randomize({self.name}, samples={self.samples}{drawn})"


class _OfOperator(Randomized):
    """Of an operator made with `partials`."""

    def __init__(self, operator: Operator, *options: Any) -> None:
        super().__init__(operator, *options)
        self._request = sampling.estimated_symbols(operator._request, *options)

    def __call__(
        self,
        f: Callable[..., Any],
        *,
        argnums: int | Sequence[int] = 0,
        batch_dims: int = 0,
        method: str = "minimal",
    ) -> Callable[..., Any]:
        sampling.check_options(self.samples, self.distribution, self.per_point, batch_dims)
        return transform(self._request, f, argnums, batch_dims, method)

    def estimator(self, coordinates: int | None = None) -> Estimator:
        return sampling.of_symbols(
            self.operator.symbols, self.samples, self.distribution, self.replace
        )

    def exact_vectors(self, coordinates: int | None = None) -> int | None:
        return sampling.exact_vectors(self.operator.symbols)


class _OfNamed(Randomized):
    """Of a named operator, which takes the samples itself and has any number of coordinates."""

    def __call__(self, f: Callable[..., Any], *args: Any, **options: Any) -> Callable[..., Any]:
        return self.operator(
            f,
            *args,
            samples=self.samples,
            distribution=self.distribution,
            replace=self.replace,
            per_point=self.per_point,
            **options,
        )

    def estimator(self, coordinates: int | None = None) -> Estimator:
        n = self._count(coordinates)
        return sampling.of_named(self._kind, n, self.samples, self.distribution, self.replace)

    def exact_vectors(self, coordinates: int | None = None) -> int | None:
        return sampling.named_vectors(self._kind, self._count(coordinates))

    @property
    def name(self) -> str:
        return self.operator.__name__

    @property
    def _kind(self) -> str:
        return "biharmonic" if self.operator is biharmonic else "laplacian"

    def _count(self, coordinates: int | None) -> int:
        if coordinates is None:
            raise ValueError(
                f"{self} does not say how many coordinates it has (or how many columns sigma has): "
                "give coordinates="
            )
        return coordinates


def randomize(
    operator: Any,
    samples: int,
    distribution: str | None = None,
    *,
    replace: bool = False,
    per_point: bool = False,
) -> Randomized:
    """An unbiased estimate of an operator from random directions, in one collapsed propagation.

    Args:
        operator: an `Operator`, or `jetfold.laplacian`, `jetfold.biharmonic` or
            `jetfold.weighted_laplacian`.
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
    of_operator = isinstance(operator, Operator)
    if not of_operator and all(operator is not x for x in NAMED):
        raise TypeError(
            "randomize takes an Operator made with partials(n), or jetfold.laplacian, "
            f"jetfold.biharmonic or jetfold.weighted_laplacian, got {type(operator).__name__}"
            + (" (the operator itself, not operator(f))" if callable(operator) else "")
        )
    sampling.check_options(samples, distribution, per_point, 1)
    kind = _OfOperator if of_operator else _OfNamed
    return kind(operator, samples, distribution, replace, per_point)
