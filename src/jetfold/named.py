"""The operators that have a name: each is one value."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import prod
from typing import Any, Unpack, overload

import numpy as np

from .core.arrays import Array
from .core.polynomial import RADIAL, Polynomial
from .core.symbols import Entries, Polynomials, Products, Variables
from .names import names_of
from .operators import Operator, Term, described, factor, partials
from .transform import Call, Transform
from .typed import Module, Options, P, T

value = Operator([Term((), Polynomial.constant(1))], None, name="value")
value.__doc__ = """The function itself, an operator of order 0: for `derivatives`, and for sums.

>>> import torch, jetfold as jf
>>> x = torch.tensor([1.0, 2.0])
>>> (jf.laplacian + 3 * jf.value)(lambda x: (x**2).sum())(x)
tensor(19.)
"""

identity = value
"""`value` by its other name: u ↦ u, an operator like the others."""


class Radial(Operator):
    """A power of the Laplacian, over all coordinates or over some: a named operator."""

    def __init__(self, power: int, name: str, doc: str) -> None:
        term = Term((), Polynomial({(RADIAL,) * power: 1}))
        super().__init__([term], None, {RADIAL: "laplacian"}, name)
        self.power = power
        self.__doc__ = doc

    @overload
    def __call__(
        self, f: Module[T], *, over: Any = None, names: Any = None, **options: Unpack[Options]
    ) -> Callable[..., T]: ...
    @overload
    def __call__(
        self, f: Callable[P, T], *, over: Any = None, names: Any = None, **options: Unpack[Options]
    ) -> Callable[P, T]: ...
    @overload
    def __call__(self, f: None = None, *, over: Any, names: Any = None) -> Operator: ...
    def __call__(
        self,
        f: Any = None,
        *point: Any,
        over: Any = None,
        names: Any = None,
        **options: Any,
    ) -> Any:
        operator = self if over is None else self.over(over, names)
        if f is None and over is None:
            raise TypeError(
                f"{self.name} is an operator as it is: {self.name}(f)(x), or, over some of the "
                f'coordinates, {self.name}(over="x y", names="t x y")'
            )
        return operator if f is None else Transform.__call__(operator, f, *point, **options)

    def over(self, coordinates: Any, names: str | Sequence[str] | None = None) -> Operator:
        """The same in some coordinates: operators of `partials`, indices, or names."""
        squares = [one**2 for one in _chosen(self.name, coordinates, names_of(names))]
        total = squares[0]
        for square in squares[1:]:
            total = total + square
        return total**self.power


def _chosen(name: str, coordinates: Any, names: Sequence[str]) -> list[Operator]:
    """The operators ∂/∂x_i over which a Laplacian sums."""
    wanted: Any = names_of(coordinates) if isinstance(coordinates, str) else coordinates
    wanted = list(wanted) if isinstance(wanted, (list, tuple)) else [wanted]
    if wanted and all(isinstance(one, Operator) and _is_partial(one) for one in wanted):
        return list(wanted)
    if wanted and names and all(one in names for one in wanted):
        known = dict(zip(names, partials(len(names), names), strict=True))
        return [known[one] for one in wanted]
    whole = all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in wanted)
    if wanted and whole and len(set(wanted)) == len(wanted):
        n = len(names) or None
        if n is None or max(wanted) < n:
            named = dict(enumerate(names))
            return [Operator([Term((), Polynomial.variable(i))], n, named) for i in wanted]
    raise ValueError(
        f'{name}(over=...) takes names beside those of all coordinates, over="x y", names="t x y"; '
        'or operators, over=[x, y] after t, x, y = jetfold.partials("t x y"); or indices, '
        f"over=(1, 2); got over={coordinates!r}, names={' '.join(names) or None!r}"
    )


def _is_partial(operator: Operator) -> bool:
    one = next(iter(operator.symbol.terms.items()), ((), 0))
    return len(operator.symbol.terms) == 1 and len(one[0]) == one[1] == 1 and not operator.outside


laplacian = Radial(
    1,
    "laplacian",
    """The Laplacian Σ_i ∂²f/∂x_i², equivalent to the trace of `torch.func.hessian(f)(x)`.

An operator in any number D of coordinates: called, differentiated, mapped and combined with others
like those of `partials`. Carries D+2 vectors by "minimal" and "collapsed", 1+2D by "standard".

Args:
    f: a function of an array `Float[*batch, *point]`; it may return any pytree of arrays.
    argnums: the argument to differentiate, or several, their coordinates concatenated.
    batch_dims: how many leading axes index independent points.
    method: "minimal", "collapsed", "standard" or "nested".
    over, names: some of the coordinates instead of all, by name, `over="x y", names="t x y"`, as
        operators of `partials`, `over=[x, y]`, or by index, `over=(1, 2)`. Without f that is an
        operator, to be combined with others.
    chunk_size: evaluate that many directions at a time, one piece after the other: the same
        value, in the memory of chunk_size+2 vectors. Its gradient computes the pieces again (in
        PyTorch not inside torch.compile and torch.func, which keep what all of them save).

Returns:
    a function with the arguments of f and results of the shape of f's.

Raises:
    TypeError: f is no function, or the point is no floating-point array.
    ValueError: unknown method, impossible batch_dims, argnums or chunk_size.

>>> import torch
>>> laplacian(lambda x: (x**3).sum())(torch.tensor([1.0, 2.0]))
tensor(18.)
>>> laplacian(over="x y", names="t x y")
Operator(x**2 + y**2)
""",
)

biharmonic = Radial(
    2,
    "biharmonic",
    """The biharmonic Δ²f = Σ_ij ∂⁴f/∂x_i²∂x_j², equivalent to `laplacian(laplacian(f))`.

It equals `laplacian**2`. Arguments, results and errors are those of `laplacian`.

>>> import torch
>>> biharmonic(lambda x: (x[0] * x[1]) ** 2)(torch.tensor([1.0, 2.0]))
tensor(8.)
>>> biharmonic == laplacian**2
True
""",
)


# ------------------------------------------------------------------ all derivatives of an order


class Stacked(Transform):
    """An operator whose answer is made of all derivatives of one order.

    Attributes:
        arranged: (call, x) -> the answer for one result of f, of shape `out`, from all its
            derivatives x: `(n, *out)`, or `(n(n+1)/2, *out)` for the pairs i ≤ j.
    """

    def __init__(
        self, name: str, order: int, arranged: Callable[[Call, Array], Any], doc: str
    ) -> None:
        self.name = name
        self.symbols = Entries(order, name)
        self.arranged = arranged
        self.__doc__ = doc

    def assemble(self, results: Sequence[Any], call: Call) -> Any:
        return call.frontend.map_outputs(partial(self.arranged, call), results[0])

    def __repr__(self) -> str:
        return self.name


def _arguments(call: Call) -> Iterator[tuple[slice, tuple[int, ...]]]:
    """Per differentiated argument its coordinates, and the shape of a point."""
    start = 0
    for point, count in zip(call.points, call.counts, strict=True):
        yield slice(start, start + count), tuple(point.shape)[call.batch_dims :]
        start += count


def _by_argument(call: Call, x: Array) -> Any:
    """(*out, n) -> (*out, *point); a tuple of them where argnums is one."""
    out = tuple(x.shape[:-1])
    parts = tuple(x[..., own].reshape((*out, *shape)) for own, shape in _arguments(call))
    return parts[0] if call.one else parts


def _jacobian(call: Call, x: Array) -> Any:
    return _by_argument(call, call.frontend.xp.moveaxis(x, 0, -1))


def _gradient(call: Call, x: Array) -> Any:
    out, batch = tuple(x.shape[1:]), call.batch
    if prod(out) != prod(batch):
        raise ValueError(
            "gradient takes a function with one number per point, got a result of shape "
            f"{out[len(batch) :]}; use jetfold.jacobian, or return one entry"
            + _or_batch_dims(call, out)
        )
    return _jacobian(call, x.reshape((call.n, *batch)))


def _or_batch_dims(call: Call, out: tuple[int, ...]) -> str:
    """A hint, where the first axis of the point is one of the result too."""
    shape = tuple(call.points[0].shape)
    meant = not call.batch_dims and len(shape) > 1 and out[:1] == shape[:1]
    return "; if its first axis indexes points, pass batch_dims=1" if meant else ""


def _hessian(call: Call, x: Array) -> Any:
    xp, n, out = call.frontend.xp, call.n, tuple(x.shape[1:])
    full = xp.moveaxis(xp.take(x, call.frontend.static(unpacked, n)), 0, -1).reshape((*out, n, n))
    blocks = tuple(
        tuple(full[..., a, b].reshape((*out, *left, *right)) for b, right in _arguments(call))
        for a, left in _arguments(call)
    )
    return blocks[0][0] if call.one else blocks


def unpacked(n: int) -> tuple[int, ...]:
    """Where the pair (i, j) is among the pairs i ≤ j, row by row."""
    place = {pair: k for k, pair in enumerate((i, j) for i in range(n) for j in range(i, n))}
    return tuple(place[min(i, j), max(i, j)] for i in range(n) for j in range(n))


def _fields(name: str, call: Call, x: Array) -> Array:
    """(n, *batch, *point) -> (n, *batch, n) of a function with one output per coordinate."""
    n, batch, out = call.n, call.batch, tuple(x.shape[1:])
    if prod(out) != prod(batch) * n:
        raise ValueError(
            f"{name} takes a vector field, as many outputs per point as coordinates ({n}), got a "
            f"result of shape {out[len(batch) :]} per point"
        )
    return x.reshape((n, *batch, n))


def _divergence(call: Call, x: Array) -> Any:
    return call.frontend.xp.einsum("i...i->...", _fields("divergence", call, x))


def _curl(call: Call, x: Array) -> Any:
    if call.n not in (2, 3):
        raise ValueError(f"curl takes a field in 2 or 3 coordinates, got {call.n}")
    d = _fields("curl", call, x)  # d[j, …, i] = ∂_j f_i

    def turned(j: int, i: int) -> Array:
        return d[j][..., i] - d[i][..., j]

    if call.n == 2:
        return turned(0, 1)
    xp = call.frontend.xp
    rows = xp.stack([turned(1, 2), turned(2, 0), turned(0, 1)])
    return xp.moveaxis(rows, 0, -1).reshape(x.shape[1:])


gradient = Stacked(
    "gradient",
    1,
    _gradient,
    """∇f of a function with one number per point, equivalent to `torch.func.grad(f)(x)`.

Carries 1+n vectors for n coordinates; in `derivatives` beside a Laplacian it costs nothing.

Returns:
    a function with the arguments of f and a result of the shape of the point (with batch_dims, of
    the points); for a tuple of argnums a tuple of them, as `jax.grad` has it.

Raises:
    ValueError (in the call): f returns more than one number per point; see `jacobian`.

>>> import torch
>>> gradient(lambda x: (x**3).sum())(torch.tensor([1.0, 2.0]))
tensor([ 3., 12.])
""",
)

jacobian = Stacked(
    "jacobian",
    1,
    _jacobian,
    """∂f_k/∂x_i, equivalent to `torch.func.jacfwd(f)(x)`: f's shape, then the point's.

With batch_dims the result is (*batch, *out, *point). Carries 1+n vectors.

>>> import torch
>>> jacobian(lambda x: torch.stack([x[0] * x[1], x[1] ** 2]))(torch.tensor([1.0, 2.0]))
tensor([[2., 1.],
        [0., 4.]])
""",
)

hessian = Stacked(
    "hessian",
    2,
    _hessian,
    """∂²f/∂x_i∂x_j, equivalent to `torch.func.hessian(f)(x)`: f's shape, then twice the point's.

Carries 1+n+n(n+1)/2 vectors; the gradient and the Laplacian come along for nothing.

>>> import torch
>>> hessian(lambda x: x[0] ** 2 * x[1])(torch.tensor([1.0, 2.0]))
tensor([[4., 2.],
        [2., 0.]])
""",
)

divergence = Stacked(
    "divergence",
    1,
    _divergence,
    """Σ_i ∂f_i/∂x_i of a vector field: as many outputs per point as coordinates.

>>> import torch
>>> divergence(lambda x: x**2)(torch.tensor([1.0, 2.0, 3.0]))
tensor(12.)
""",
)

curl = Stacked(
    "curl",
    1,
    _curl,
    """∇×f of a vector field in three coordinates; in two ∂f_1/∂x_0 − ∂f_0/∂x_1.

>>> import torch
>>> curl(lambda x: torch.stack([-x[1], x[0], x[2]]))(torch.tensor([1.0, 2.0, 3.0]))
tensor([0., 0., 2.])
""",
)


# ------------------------------------------------------------------ weighted Laplacians


class Weighted(Transform):
    """Tr(σσᵀ∇²f): the Laplacian in the columns of σ as directions."""

    name = "weighted_laplacian"
    symbols = laplacian.symbols

    def __init__(self, sigma: Any) -> None:
        self.sigma = sigma
        self._factor = factor(sigma)

    def directions(self, call: Call) -> tuple[Array | None, Variables]:
        """The columns of σ, (R, n) or (R, *batch, n)."""
        sigma, n = self.sigma, call.n
        array = self._factor.at(call)
        batch = call.batch if callable(sigma) else ()
        shape = tuple(array.shape)
        fits = shape[:-1] == (*batch, n) or (callable(sigma) and shape[:-1] == (n,))
        if len(shape) < 2 or not fits:
            expected = "(" + ", ".join([*map(str, batch), str(n), "R"]) + ")"
            raise ValueError(
                f"sigma must have shape {expected}, one row per coordinate and one column per "
                f"direction, got {shape}"
            )
        return call.frontend.xp.moveaxis(array, -1, 0), shape[-1]

    def __repr__(self) -> str:
        return f"weighted_laplacian(sigma={described(self.sigma)})"


class WeightedByMatrix(Transform):
    """Tr(C∇²f) = Σ_i ∂_{e_i} ∂_{C e_i} f for a matrix that may be trainable (C symmetrised)."""

    name = "weighted_laplacian"
    symbols = Products()

    def __init__(self, C: Any) -> None:
        self.C = C
        self._factor = factor(C)
        self.coordinates = tuple(C.shape)[-1] if getattr(C, "ndim", 0) else None

    def variables(self, n: int) -> Variables:
        return 2 * n

    def directions(self, call: Call) -> tuple[Array | None, Variables]:
        """The directions e_i, and behind them C e_i: (2n, n)."""
        xp, n, point = call.frontend.xp, call.n, call.points[0]
        array = self._factor.at(call)
        if tuple(array.shape) != (n, n):
            raise ValueError(f"C must have shape ({n}, {n}), got {tuple(array.shape)}")
        symmetric = (array + xp.moveaxis(array, 0, 1)) / 2
        return xp.concat([xp.eye(n, point), symmetric], 0), 2 * n

    def __repr__(self) -> str:
        return f"weighted_laplacian(C={described(self.C)})"


def _by_constant_matrix(C: np.ndarray) -> Operator:
    """Tr(C∇²f) for numbers: a polynomial like any other."""
    if C.ndim != 2 or C.shape[0] != C.shape[1]:
        raise ValueError(f"C must be a square matrix, got shape {C.shape}")
    if not np.allclose(C, C.T, rtol=1e-6, atol=1e-12 * float(np.abs(C).max(initial=0))):
        raise ValueError("C must be symmetric; Tr(C∇²f) sees only (C + Cᵀ)/2, pass that")
    n = C.shape[0]
    entries = {(i, j): (C[i, j] + C[j, i]) / (1 + (i == j)) for i in range(n) for j in range(i, n)}
    form = Polynomial({m: float(c) for m, c in entries.items()})
    operator = Operator([Term((), form)], n, name="weighted_laplacian")
    misfit = f"C must have shape ({{n}}, {{n}}), one row per coordinate, got {C.shape}"
    operator.symbols = Polynomials(operator.polynomials, n, {}, misfit)
    return operator


@overload
def weighted_laplacian(f: None = None, sigma: Any = None, *, C: Any = None) -> Transform: ...
@overload
def weighted_laplacian(
    f: Module[T], sigma: Any = None, *, C: Any = None, **options: Unpack[Options]
) -> Callable[..., T]: ...
@overload
def weighted_laplacian(
    f: Callable[P, T], sigma: Any = None, *, C: Any = None, **options: Unpack[Options]
) -> Callable[P, T]: ...
def weighted_laplacian(
    f: Any = None,
    sigma: Any = None,
    *,
    C: Any = None,
    argnums: int | Sequence[int] = 0,
    batch_dims: int = 0,
    method: str = "minimal",
    chunk_size: int | None = None,
    structure: bool = True,
) -> Any:
    """Tr(σσᵀ∇²f), or Tr(C∇²f) for any symmetric matrix C.

    Args:
        f: as in `laplacian`; n is the number of its coordinates. Without it the operator itself is
            returned, for `derivatives`, `randomize`, or to be called later.
        sigma: `Float[n, R]`, R the rank; or a callable of the point that returns it (of the points,
            with several argnums), `Float[*batch, n, R]` with batch_dims. It may be trainable.
        C: instead of sigma a symmetric matrix `Float[n, n]`, definite or not. A numpy array is
            split into its eigenvectors once (R = its rank); a framework's array may be trainable
            and is used as it is, with 2n directions; or a callable of the point that returns one.
        argnums, batch_dims, method, chunk_size, structure: as in `laplacian`.

    Returns:
        a function with the arguments of f and results of the shape of f's; without f an operator.

    Raises:
        TypeError: neither sigma nor C, or both.
        ValueError: a matrix that is not square or not symmetric; (in the call) a wrong shape.

    >>> import numpy as np, torch
    >>> f = lambda x: x[0] ** 2 * x[1]
    >>> sigma = torch.tensor([[1.0], [2.0]])
    >>> weighted_laplacian(f, sigma)(torch.tensor([3.0, 5.0]))
    tensor(34.)
    >>> weighted_laplacian(C=np.array([[0.0, 1.0], [1.0, 0.0]]))(f)(torch.tensor([3.0, 5.0]))
    tensor(12.)
    """
    if (sigma is None) == (C is None):
        raise TypeError(
            "weighted_laplacian takes either sigma or C: Tr(σσᵀ∇²f) or Tr(C∇²f); without a "
            "function write weighted_laplacian(sigma=sigma)"
        )
    operator: Transform
    if C is None:
        operator = Weighted(sigma)
    elif isinstance(C, np.ndarray):
        operator = _by_constant_matrix(C)
    else:
        operator = WeightedByMatrix(C)
    if f is None:
        return operator
    return operator(
        f,
        argnums=argnums,
        batch_dims=batch_dims,
        method=method,
        chunk_size=chunk_size,
        structure=structure,
    )


__test__ = {
    operator.name: operator.__doc__
    for operator in (
        value, laplacian, biharmonic, gradient, jacobian, hessian, divergence, curl
    )
}  # fmt: skip
"""Where doctest looks for the examples of values."""
