"""`randomize`: operators from random directions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from . import sampling
from .core.sampling import Estimator
from .operators import Operator, biharmonic, laplacian
from .transform import transform


class Randomized:
    """An unbiased estimate of an operator; made by `randomize`.

    A transform like the operator itself; the function that it gives also takes the keyword `rng`.
    """

    def __init__(
        self,
        operator: Operator,
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
        self._request = sampling.estimated_symbols(
            operator._request, samples, distribution, replace, per_point
        )

    @property
    def estimator(self) -> Estimator:
        """The directions that are drawn, and the polynomials in them."""
        return sampling.of_symbols(
            self.operator.symbols, self.samples, self.distribution, self.replace
        )

    @property
    def exact(self) -> bool:
        """Whether the exact operator is evaluated, because it carries no more vectors."""
        estimator = self.estimator
        return not estimator.random or sampling.exact_is_cheaper(self.operator.symbols, estimator)

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

    def __repr__(self) -> str:
        name = f", distribution={self.distribution!r}" if self.distribution else ""
        return f"randomize({self.operator}, samples={self.samples}{name})"


def randomize(
    operator: Any,
    samples: int,
    distribution: str | None = None,
    *,
    replace: bool = False,
    per_point: bool = False,
) -> Any:
    """An unbiased estimate of an operator from random directions, in one collapsed propagation.

    Args:
        operator: an `Operator`, or `jetfold.laplacian` or `jetfold.biharmonic`.
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
        a transform of functions with the keywords argnums, batch_dims and method. The function that
        it returns takes `rng`: a `torch.Generator` (PyTorch's global state if not given), or a JAX
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
    if operator is laplacian or operator is biharmonic:
        sampling.check_options(samples, distribution, per_point, 1)

        def apply(f: Callable[..., Any], **options: Any) -> Callable[..., Any]:
            return operator(
                f,
                samples=samples,
                distribution=distribution,
                replace=replace,
                per_point=per_point,
                **options,
            )

        return apply
    if not isinstance(operator, Operator):
        raise TypeError(
            "randomize takes an Operator made with partials(n), or jetfold.laplacian or "
            f"jetfold.biharmonic, got {type(operator).__name__}; a weighted Laplacian takes "
            "samples= itself"
        )
    sampling.check_options(samples, distribution, per_point, 1)
    return Randomized(operator, samples, distribution, replace, per_point)
