"""The named operators: laplacian, biharmonic and weighted_laplacian, exact and randomized."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np

from . import sampling
from .core.polynomial import Polynomial
from .core.sampling import Estimator
from .transform import Parts, Piece, Request, coordinate_symbols, transform

Function = Callable[..., Any]


def _squares_in_parts(n: int) -> Parts:
    """The Laplacian cut into coordinates, without its polynomial."""
    return Parts((Polynomial(),), [Piece(0, 2, 1, n)])


_EXACT = {
    "laplacian": Request(
        "laplacian", partial(coordinate_symbols, "laplacian"), parts=_squares_in_parts
    ),
    "biharmonic": Request("biharmonic", partial(coordinate_symbols, "biharmonic")),
}


@lru_cache(maxsize=256)
def _estimated(
    kind: str, samples: int, distribution: str | None, replace: bool, per_point: bool
) -> Request:
    """The Laplacian or the biharmonic, randomized."""

    def estimator(n: int) -> Estimator:
        return sampling.of_named(kind, n, samples, distribution, replace)

    def no_dearer(n: int, estimator: Estimator) -> bool:
        return estimator.no_cheaper_than(sampling.named_vectors(kind, n))

    return sampling.estimated(_EXACT[kind], estimator, no_dearer, samples, per_point)


def _named(
    kind: str,
    f: Function,
    argnums: int | Sequence[int],
    batch_dims: int,
    method: str,
    chunk_size: int | None,
    samples: int | None,
    distribution: str | None,
    replace: bool,
    per_point: bool,
) -> Function:
    if samples is None:
        _only_with_samples(distribution, replace, per_point)
        return transform(_EXACT[kind], f, argnums, batch_dims, method, chunk_size)
    sampling.check_options(samples, distribution, per_point, batch_dims)
    request = _estimated(kind, samples, distribution, replace, per_point)
    return transform(request, f, argnums, batch_dims, method, chunk_size)


def _only_with_samples(distribution: str | None, replace: bool, per_point: bool) -> None:
    if distribution is not None or replace or per_point:
        raise TypeError(
            "distribution=, replace= and per_point= belong to a randomized operator: give the "
            "number of directions with samples="
        )


def laplacian(
    f: Function,
    *,
    argnums: int | Sequence[int] = 0,
    batch_dims: int = 0,
    method: str = "minimal",
    chunk_size: int | None = None,
    samples: int | None = None,
    distribution: str | None = None,
    replace: bool = False,
    per_point: bool = False,
) -> Function:
    """The Laplacian Σ_i ∂²f/∂x_i², equivalent to the trace of `torch.func.hessian(f)(x)`.

    Args:
        f: a function of an array `Float[*batch, *point]`; it may return any pytree of arrays.
        argnums: the argument to differentiate, or several, their coordinates concatenated.
        batch_dims: how many leading axes index independent points.
        method: "minimal" and "collapsed" carry D+2 vectors, "standard" 1+2D, "nested" none.
        chunk_size: evaluate that many directions at a time, one piece after the other: the same
            value, in the memory of chunk_size+2 vectors. Its gradient computes the pieces again (in
            PyTorch not inside torch.compile and torch.func, which keep what all of them save).
        samples: estimate it from that many random directions, S+2 vectors; see `randomize` for
            `distribution` ("rademacher" if not given), `replace` and `per_point`.

    Returns:
        a function with the arguments of f and results of the shape of f's; a randomized one also
        takes the keyword `rng`, a `torch.Generator` or a JAX key.

    Raises:
        TypeError: f is no function, the point is no floating-point array, rng is no generator.
        ValueError: unknown method, impossible batch_dims, argnums, chunk_size or samples.

    >>> import torch
    >>> laplacian(lambda x: (x**3).sum())(torch.tensor([1.0, 2.0]))
    tensor(18.)
    """
    return _named(
        "laplacian", f, argnums, batch_dims, method, chunk_size,
        samples, distribution, replace, per_point,
    )  # fmt: skip


def biharmonic(
    f: Function,
    *,
    argnums: int | Sequence[int] = 0,
    batch_dims: int = 0,
    method: str = "minimal",
    chunk_size: int | None = None,
    samples: int | None = None,
    distribution: str | None = None,
    replace: bool = False,
    per_point: bool = False,
) -> Function:
    """The biharmonic Δ²f = Σ_ij ∂⁴f/∂x_i²∂x_j², equivalent to `laplacian(laplacian(f))`.

    Arguments, results and errors are those of `laplacian`; random directions are Gaussian if not
    said otherwise, and carry 3S+2 vectors.

    >>> import torch
    >>> biharmonic(lambda x: (x[0] * x[1]) ** 2)(torch.tensor([1.0, 2.0]))
    tensor(8.)
    """
    return _named(
        "biharmonic", f, argnums, batch_dims, method, chunk_size,
        samples, distribution, replace, per_point,
    )  # fmt: skip


def _sum_of_squares(n: int) -> tuple[Polynomial, ...]:
    return coordinate_symbols("laplacian", n)


def _sum_of_pairs(n: int) -> tuple[Polynomial, ...]:
    """Σ_i ζ_i ζ_{n/2+i}."""
    half = n // 2
    return (Polynomial({(i, half + i): 1 for i in range(half)}),)


def weighted_laplacian(
    f: Function,
    sigma: Any = None,
    *,
    C: Any = None,
    argnums: int | Sequence[int] = 0,
    batch_dims: int = 0,
    method: str = "minimal",
    chunk_size: int | None = None,
    samples: int | None = None,
    distribution: str | None = None,
    replace: bool = False,
    per_point: bool = False,
) -> Function:
    """Tr(σσᵀ∇²f), or Tr(C∇²f) for any symmetric matrix C.

    Args:
        f: as in `laplacian`; n is the number of its coordinates.
        sigma: `Float[n, R]`, R the rank; or a callable of the point that returns it (of the points,
            with several argnums), `Float[*batch, n, R]` with batch_dims. It may be trainable.
        C: instead of sigma a symmetric matrix `Float[n, n]`, definite or not. A numpy array is
            split into its eigenvectors once (R = its rank); a framework's array may be trainable
            and is used as it is, with 2n directions.
        argnums, batch_dims, method, chunk_size: as in `laplacian`.
        samples, distribution, replace, per_point: as in `laplacian`; the random directions are σv
            with v in R dimensions.

    Returns:
        a function with the arguments of f and results of the shape of f's; a randomized one also
        takes the keyword `rng`.

    >>> import numpy as np, torch
    >>> f = lambda x: x[0] ** 2 * x[1]
    >>> sigma = torch.tensor([[1.0], [2.0]])
    >>> weighted_laplacian(f, sigma)(torch.tensor([3.0, 5.0]))
    tensor(34.)
    >>> weighted_laplacian(f, C=np.array([[0.0, 1.0], [1.0, 0.0]]))(torch.tensor([3.0, 5.0]))
    tensor(12.)
    """
    if (sigma is None) == (C is None):
        raise TypeError("weighted_laplacian takes either sigma or C: Tr(σσᵀ∇²f) or Tr(C∇²f)")
    draw: sampling.Mixing | None = None
    if samples is None:
        _only_with_samples(distribution, replace, per_point)
    else:
        sampling.check_options(samples, distribution, per_point, batch_dims)
        draw = sampling.Mixing(samples, distribution or "rademacher", replace, per_point)
    name = "weighted_laplacian"
    random = draw is not None
    if C is None:
        given = partial(_columns, sigma, draw)
        request = Request(name, _sum_of_squares, None, given, random)
    elif not isinstance(C, np.ndarray):
        given = partial(_matrix_pairs, C, draw)
        request = Request(name, _sum_of_pairs, None, given, random, per_unit=2)
    else:
        request = _constant_matrix(C)
        if samples is not None:
            request = sampling.estimated_symbols(
                request, samples, distribution or "rademacher", replace, per_point
            )
    return transform(request, f, argnums, batch_dims, method, chunk_size)


def _columns(
    sigma: Any,
    draw: sampling.Mixing | None,
    frontend: Any,
    points: tuple[Any, ...],
    n: int,
    batch_dims: int,
    rng: Any,
) -> Any:
    """The columns of σ, or random mixtures of them, as directions (R, *batch, n)."""
    array = frontend.asarray(sigma(*points) if callable(sigma) else sigma, points[0])
    batch = tuple(points[0].shape)[:batch_dims] if callable(sigma) else ()
    shape = tuple(array.shape)
    fits = shape[:-1] == (*batch, n) or (callable(sigma) and shape[:-1] == (n,))
    if len(shape) < 2 or not fits:
        expected = "(" + ", ".join([*map(str, batch), str(n), "R"]) + ")"
        raise ValueError(
            f"sigma must have shape {expected}, one row per coordinate and one column per "
            f"direction, got {shape}"
        )
    columns = frontend.moveaxis(array, -1, 0)
    if draw is None or not draw.saves(shape[-1], shape[-1], "weighted_laplacian"):
        return columns
    return draw.mix(frontend, rng, columns, points[0], batch_dims)


def _matrix_pairs(
    C: Any,
    draw: sampling.Mixing | None,
    frontend: Any,
    points: tuple[Any, ...],
    n: int,
    batch_dims: int,
    rng: Any,
) -> Any:
    """Tr(C∇²f) = Σ_i ∂_{e_i} ∂_{C e_i} f: the directions e_i and C e_i (C symmetrised).

    With any v_s instead of e_i whose Σ_s v_s v_sᵀ is the identity in the mean it is an estimate.
    """
    array = frontend.asarray(C, points[0])
    if tuple(array.shape) != (n, n):
        raise ValueError(f"C must have shape ({n}, {n}), got {tuple(array.shape)}")
    symmetric = (array + frontend.moveaxis(array, 0, 1)) / 2
    unit = frontend.identity(n, points[0])
    if draw is not None and draw.saves(n, 2 * n, "weighted_laplacian"):
        unit = draw.mix(frontend, rng, unit, points[0], batch_dims)
        symmetric = frontend.einsum("s...i,ij->s...j", unit, symmetric)
        return frontend.concatenate_first([unit, symmetric])
    return frontend.concatenate_first([unit, symmetric])


def _constant_matrix(C: np.ndarray) -> Request:
    if C.ndim != 2 or C.shape[0] != C.shape[1]:
        raise ValueError(f"C must be a square matrix, got shape {C.shape}")
    if not np.allclose(C, C.T, rtol=1e-6, atol=1e-12 * float(np.abs(C).max(initial=0))):
        raise ValueError("C must be symmetric; Tr(C∇²f) sees only (C + Cᵀ)/2, pass that")
    n = C.shape[0]
    entries = {(i, j): (C[i, j] + C[j, i]) / (1 + (i == j)) for i in range(n) for j in range(i, n)}
    form = Polynomial({m: float(c) for m, c in entries.items()})

    def symbols(coordinates: int) -> tuple[Polynomial, ...]:
        if coordinates != n:
            raise ValueError(
                f"C must have shape ({coordinates}, {coordinates}), one row per coordinate, got "
                f"{C.shape}"
            )
        return (form,)

    return Request("weighted_laplacian", symbols)
