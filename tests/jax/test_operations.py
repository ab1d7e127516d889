"""Every primitive of the table, in every form, against nested jax.jvp, second to fourth order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp
import jax.scipy as jsp
from jax import lax, nn
from jax.ad_checkpoint import checkpoint_name
from jax.extend import core as jex_core
from jax.interpreters import ad, batching, mlir

import jetfold as jf
from jetfold.jax.private import operation_name
from jetfold.jax.table import TABLE


@pytest.fixture(autouse=True)
def _double_precision() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


# ------------------------------------------------------------------ functions and their derivatives


class Case(NamedTuple):
    """Expressions in x, y, z, arrays of the given shapes, and in constants c, d, e like them.

    form := reference, where JAX's own nested derivatives of the form are missing or wrong.
    """

    shapes: Sequence[tuple[int, ...]]
    domain: tuple[float, float]
    forms: Sequence[str]
    order: int

    def function(self, which: int) -> Callable[..., list[Any]]:
        """The forms (0) or their references (-1), of x, y, z."""
        generator = np.random.default_rng(1)
        constants = [jnp.asarray(generator.uniform(*self.domain, s)) for s in self.shapes]

        def function(*arrays: Any) -> list[Any]:
            names = dict(zip("xyz", arrays, strict=False)) | dict(
                zip("cde", constants, strict=False)
            )
            scope = SCOPE | names
            return [eval(form.split(":=")[which].strip(), scope) for form in self.forms]

        return function


SCOPE: dict[str, Any] = {"jax": jax, "jnp": jnp, "lax": lax, "nn": nn, "np": np, "math": math}
SCOPE |= {
    "sp": jsp.special,
    "jsp": jsp,
    "la": jnp.linalg,
    "fft": jnp.fft,
    "ll": lax.linalg,
    "name": checkpoint_name,
}


def cases(shapes: str, low: float, high: float, order: int, *rows: str) -> list[Case]:
    """One case per row; a row lists the forms of one operation, separated by semicolons."""
    parsed = [tuple(int(n) for n in s.split(",") if n) for s in shapes.split(" ")]
    forms = [[f.strip() for f in row.split(";")] for row in rows]
    known = [[f for f in row if not any(new in f for new in TOO_NEW)] for row in forms]
    return [Case(parsed, (low, high), row, order) for row in known if row]


SINCE = {
    "lax.tile(": (0, 9),
    "mode='complete'": (0, 10),
    "enable_eigvec_derivs": (0, 10),
    "lax.one_minus_square(": (0, 12),
    "lax.nextafter(": (0, 12),
}
"""What older versions of JAX lack, or have no derivatives of to compare with."""

TOO_NEW = [written for written, version in SINCE.items() if jax.__version_info__ < version]


T, X, Y = jf.partials(3, names="t x y")
STEPS = (1, 0, 1, 2)  # the coordinates of nested derivatives: x, t, x, y
OPERATORS = {
    2: {"x": X, "tx": 2 * T * X + X + 3},
    3: {"txx": T * X**2 + X**2},
    4: {"txxy": T * X**2 * Y - X * Y + T * Y},
}
POINT = np.array([0.3, -0.7, 0.45])


def nested(function: Callable[[Any], Any], p: Any, order: int) -> dict[tuple[int, ...], Any]:
    """The derivatives along all the subsets of the first STEPS, by nested jax.jvp."""
    steps = STEPS[:order]
    derivatives = function
    for step in steps:

        def derivatives(p: Any, of: Any = derivatives, step: int = step) -> Any:
            return jax.jvp(of, (p,), (jnp.zeros(3).at[step].set(1.0),))

    found: dict[tuple[int, ...], Any] = {(): derivatives(p)}
    for step in reversed(steps):
        found = {
            tuple(sorted((*key, *taken))): pair[k]
            for key, pair in found.items()
            for k, taken in enumerate([(), (step,)])
        }
    return found


def laplacian(function: Callable[[Any], Any], p: Any) -> Any:
    """By jax.jvp twice along every axis, of a shift of all points."""

    def along(v: Any) -> Any:
        pushed = lambda p: jax.jvp(function, (p,), (jnp.broadcast_to(v, p.shape),))[1]
        return jax.jvp(pushed, (p,), (jnp.broadcast_to(v, p.shape),))[1]

    return jax.tree.map(lambda h: h.sum(0), jax.vmap(along)(jnp.eye(3, dtype=p.dtype)))


def close(result: Any, expected: Any, tolerance: float = 1e-9) -> None:
    """Equal to rounding, relative to the largest entry."""
    assert result.shape == expected.shape, (result.shape, expected.shape)
    assert result.dtype == expected.dtype, (result.dtype, expected.dtype)
    expected = np.asarray(expected)
    assert np.isfinite(expected).all(), expected
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    np.testing.assert_allclose(np.asarray(result), expected, rtol=0, atol=tolerance * scale)


def agree(function: Any, reference: Any, p: Any, order: int, labels: Sequence[str]) -> None:
    """Operators of the function at p are what nested jax.jvp says; order 0: the Laplacian."""
    if order:
        exact = jax.jit(lambda p: nested(reference, p, order))(p)
        wanted = {k: op for m, ops in OPERATORS.items() if m <= order for k, op in ops.items()}
        results = jax.jit(jf.derivatives(wanted)(function))(p)
    else:
        exact = jax.jit(lambda p: {(0, 0): laplacian(reference, p), (): reference(p)})(p)
        wanted = {"laplacian": T**2}
        results = {"laplacian": jax.jit(jf.laplacian(function, batch_dims=p.ndim - 1))(p)}
    exact = jax.tree.map(np.asarray, exact)  # NumPy compiles nothing
    for name, operator in wanted.items():
        for k, (label, result) in enumerate(zip(labels, results[name], strict=True)):
            terms = [float(c) * exact[key][k] for key, c in operator.symbol.terms.items()]
            try:
                close(result, sum(terms[1:], terms[0]).astype(exact[()][k].dtype))
            except AssertionError as error:
                raise AssertionError(f"{name} of {label}: {error}") from error


def embedding(case: Case, lazy: bool) -> tuple[Callable[[Any], list[Any]], Any]:
    """A smooth map from points into arrays of the case's shapes, and the points.

    Lazy: the points are a batch, so the derivatives of the first array have axes of length one.
    """
    generator = np.random.default_rng(0)
    low, high = case.domain
    middle, half = (low + high) / 2, (high - low) / 2
    batch = case.shapes[0][:-1] if lazy else ()
    random = lambda *size: jnp.asarray(generator.uniform(-1, 1, size))
    sizes = [math.prod(s) for s in case.shapes]
    weights = [(random(3, n), random(n), random(3, n)) for n in sizes]
    last = case.shapes[0][-1:]
    w, bias = random(3, *last), random(*case.shapes[0])

    def maps(p: Any) -> list[Any]:
        one = p.mean(tuple(range(len(batch))))
        out = [
            (middle + half * (jnp.sin(one @ w + phase) * 0.5 + jnp.cos(one @ v) * 0.4)).reshape(s)
            for s, (w, phase, v) in zip(case.shapes, weights, strict=True)
        ]
        if lazy:
            out[0] = bias * (0.4 * half) + middle + jnp.sin(p @ w * 0.5) * (0.5 * half)
        return out

    points = POINT + 0.2 * generator.uniform(-1, 1, (*batch, 3)) if lazy else POINT
    return maps, jnp.asarray(points)


def check(case: Case) -> None:
    """Several operators; those of third order also with the Laplacian of lazy derivatives."""
    for order in (2,) if case.order == 2 else (case.order, 0):
        maps, p = embedding(case, lazy=not order)
        form, reference = [composed(case.function(which), maps) for which in (0, -1)]
        agree(form, reference, p, order, case.forms)


def composed(outer: Callable[..., Any], inner: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda p: outer(*inner(p))


CASES = [
    # ---- elementary and special functions
    *cases(
        "2,3",
        -0.9,
        0.8,
        3,
        "jnp.sin(x); jnp.cos(x); jnp.tan(x); jnp.exp(x); jnp.exp2(x); jnp.expm1(x); jnp.square(x)",
        "jnp.sinh(x); jnp.cosh(x); jnp.tanh(x); jnp.arctan(x); jnp.arcsinh(x); jnp.cbrt(x + 1)",
        "jnp.arcsin(x); jnp.arccos(x); jnp.arctanh(x); sp.erfinv(x); jnp.arccosh(x + 2)",
        "sp.erf(x); sp.erfc(x); sp.expit(x); jnp.log1p(x); jnp.sinc(x); x ** 0; x ** 1; x ** 5",
        "2.0 ** x; jnp.abs(c) ** x; x ** c.round(); x ** jnp.array([0, 1, 3]); (x + 1) ** (c + 2)",
        "lax.pow(x, 3); lax.pow(x, 0); lax.pow(x, 2.0); 0.0 ** (x + 2)",
    ),
    *cases(
        "2,3 2,3",
        0.3,
        1.9,
        3,
        "jnp.log(x); jnp.sqrt(x); lax.rsqrt(x); jnp.log2(x); jnp.log10(x); 1 / x; x ** -2; x ** 0.5",
        "x ** y; x ** -1.5; x ** c; c ** y; x[0, 0] ** y; x ** y[0, 0]; lax.pow(x, -3)",
        "jnp.arctan2(x, y); jnp.arctan2(-x, c); jnp.hypot(x, y); jnp.logaddexp(x, y)",
        "x / y; y / x[0]; c / y; x / d; x[0, 0] / y; x / y[1, 1]; jnp.reciprocal(x); x / 3",
    ),
    *cases(
        "2,2 2,2",
        0.2,
        0.8,
        2,
        "sp.gammaln(x); sp.digamma(x); sp.polygamma(1, x); sp.polygamma(2, y); sp.logit(x)",
        "sp.i0e(x); sp.i1e(x); sp.i0(x); sp.i1(y)",
        "sp.xlogy(x, y); sp.xlog1py(x, y); sp.ndtr(x); sp.log_ndtr(x); sp.ndtri(x); sp.entr(x)",
        "sp.zeta(x + 2, y); sp.gamma(x); sp.beta(x, y); sp.betaln(x, y); sp.factorial(x)",
        "sp.kl_div(x, y); sp.rel_entr(x, y); jnp.i0(x); jnp.logaddexp2(x, y); sp.multigammaln(x + 1, 2)",
        "jsp.stats.norm.logpdf(x, y); jsp.stats.norm.cdf(x); jsp.stats.beta.logpdf(x, y + 1, 2.0)",
    ),
    *cases(
        "2,2 2,2",
        0.5,
        1.8,
        2,
        "sp.gammainc(c, x); sp.gammaincc(c, x)",
        "sp.betainc(c, d, x / 2)",
    ),
    # ---- arithmetic, broadcasting
    *cases(
        "2,3 3 2,1",
        -2,
        2,
        3,
        "x + y; y + x; x - y; y - x; c - y; x - d; -x; +x; x * y; y * x; c * y; x * d; 2 * x; x * 0.1",
        "x * z; z * y; z + y; x[0, 0] * x; x[0, 0] + y; y - x[0, 0]; x[0, 0] * c; c[0, 0] * x[0, 0]",
        "lax.mul(x, 2.0); lax.add(x[0, 0], x[1, 1]); jnp.float64(3) * x; np.float64(2) - z; x * True",
        "jnp.add(x, 1j) * y := (x + 1j) * y; x % 1.3; c % x := c - jnp.floor(c / x) * x; lax.rem(x, c); jnp.fmod(x, 0.7)",
        "x % y := x - lax.stop_gradient(jnp.floor(x / y)) * y; lax.rem(x, x + 9); jnp.remainder(x, y)",
        "x // 0.5 + x; jnp.floor(x) * x; jnp.ceil(x) * x; jnp.round(x, 1) * x; jnp.sign(x) * x; jnp.trunc(x) + x",
        "jnp.modf(x)[0]; jnp.divmod(x, 0.7)[1]; jnp.nan_to_num(x); jnp.copysign(x, c); jnp.heaviside(x, 0.5) * x",
        "lax.one_minus_square(x); jnp.frexp(x)[0]; lax.nextafter(x, 9 * c) := x; jnp.ldexp(x, 2); x[:, jnp.nonzero(y, size=2)[0]]",
        "jnp.vdot(x, c); jnp.cross(y, d); jnp.cross(x, c); jnp.deg2rad(x); jnp.interp(y, jnp.arange(-3.0, 4), jnp.arange(7.0) ** 2)",
    ),
    # ---- activations
    *cases(
        "2,4",
        -4.1,
        4.2,
        2,
        "nn.relu(x); nn.relu6(x * 2); nn.sigmoid(x); nn.softplus(x); nn.soft_sign(x); nn.squareplus(x)",
        "nn.silu(x); nn.swish(x); nn.log_sigmoid(x); nn.leaky_relu(x); nn.leaky_relu(x, 0.3); nn.sparse_plus(x)",
        "nn.elu(x); nn.elu(x, 0.7); nn.celu(x, 1.5); nn.selu(x); nn.mish(x); nn.hard_tanh(x)",
        "nn.gelu(x); nn.gelu(x, approximate=False); nn.hard_sigmoid(x); nn.hard_silu(x); nn.sparse_sigmoid(x)",
        "nn.glu(x); nn.glu(x, 0); nn.identity(x); nn.one_hot(x[0].argsort(), 4) @ x[1]; nn.log1mexp(jnp.abs(x))",
        "nn.softmax(x); jsp.special.log_softmax(x, axis=0); nn.log_softmax(x); nn.softmax(x, 0); nn.softmax(x, where=c > -2, axis=1); nn.logsumexp(x)",
        "sp.logsumexp(x, 1); sp.logsumexp(x, (0, 1), c); sp.logsumexp(x, 0, keepdims=True)",
        "nn.standardize(x); nn.standardize(x, 0, epsilon=0.1); jnp.var(x); jnp.std(x, 1); x.mean(0); nn.logmeanexp(x)",
    ),
    # ---- kinks and choices
    *cases(
        "3,4 4",
        -2,
        2,
        2,
        "jnp.abs(x); jnp.maximum(x, y); jnp.minimum(x, c); jnp.maximum(d, x); jnp.clip(x, -0.5, 0.7)",
        "lax.clamp(c - 0.5, x, c + 0.5); lax.clamp(-1.0, x, 1.0); lax.clamp(x[0, 0], c, x[0, 0] + 1) := jnp.clip(c, x[0, 0], x[0, 0] + 1)",
        "x.max(); x.max(1); x.min((0, 1)); x.min(0, keepdims=True); jnp.ptp(x, 1); jnp.fmax(x, y); jnp.median(x, 0)",
        "jnp.sort(x); jnp.sort(x, 0, descending=True); lax.sort((x, c + x), dimension=0)[1]; lax.sort((c, x, x * x), num_keys=2)[2]",
        "lax.top_k(x, 2)[0]; lax.top_k(x, 1)[0] * lax.top_k(x, 3)[1]; jnp.quantile(x, 0.3, 1); jnp.percentile(y, 40.0)",
        "lax.cummax(x, 0); lax.cummin(x, 1, reverse=True); lax.cummax(x, 1, reverse=True); jnp.partition(x, 2)",
        "jnp.where(x > 0, x, y); jnp.where(c > 0, x, 1.0); jnp.where(d > 0, 2.0, x); lax.select_n(c > 0, x, c)",
        "lax.select_n(jnp.arange(12).reshape(3, 4) % 3, x, c, x * x); lax.select_n(c[0, 0] > 0, c, x); lax.select(d > 0, y, d)",
        "jnp.select([x > 1, x > 0], [x, x * x], 0.3); jnp.piecewise(y, [y < 0], [lambda t: -t, lambda t: t**2])",
        "x[jnp.argmax(x, 0)]; x[:, jnp.argmin(y)]; jnp.argsort(x) * x; y[jnp.argsort(y)[::-1]]; jnp.sum(x > 0) * y",
        "jnp.where((x > 0) & ~(x < 1) | (c == x), x, x * x); (x != c) * x; (x >= 0).astype(float) * x; (x <= y).any(1) * x[:, 0]",
        "jnp.isfinite(x) * x; lax.nextafter(lax.stop_gradient(x), c) * x; lax.stop_gradient(x) * x; x.astype(int) * x; x.astype(jnp.int32).astype(float) + x",
        "lax.reduce_precision(x, 11, 52); jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1.0)), 0.0); jnp.searchsorted(jnp.sort(d), y) * y",
        "lax.expand_dims(x, (0,)); lax.optimization_barrier(x); jax.random.normal(jax.random.key(3), (3, 4)) * x; jax.random.permutation(jax.random.key(1), x)",
        "lax.tile(x, (1, 2)); jnp.bitwise_and(x.astype(int), 3) * x; jax.random.choice(jax.random.key(0), y, (2,))",
    ),
    # ---- contractions
    *cases(
        "3,4 4,2 4",
        -2,
        2,
        2,
        "x @ y; x @ d; c @ y; x @ z; z @ y; c @ z; e @ y; z @ z; x @ e; jnp.outer(z, e); jnp.inner(x, c)",
        "jnp.einsum('ij,jk,j->ik', x, y, z); jnp.einsum('ii->i', x[:3, :3]); jnp.einsum('ij->ji', x); jnp.trace(x)",
        "jnp.tensordot(x, y, 1); jnp.tensordot(x, x, ([0, 1], [0, 1])); jnp.tensordot(z, e, 0); jnp.kron(x[:2], y)",
        "jnp.dot(x, y, precision='highest'); jnp.vecdot(x, z); jnp.matvec(x, z); jnp.vecmat(z, y); la.multi_dot([c, y, x[:2]])",
        "jnp.convolve(z, y[:, 0]); jnp.correlate(e, z); jnp.polyval(z, x); jnp.vander(z, 3); jnp.convolve(z, e, 'same')",
    ),
    *cases(
        "2,3,4 2,4,3",
        -2,
        2,
        2,
        "lax.dot_general(x, y, (((2,), (1,)), ((0,), (0,)))); lax.dot_general(x, d, (((1,), (2,)), ((0,), (0,))))",
        "lax.dot_general(c, y, (((2,), (1,)), ((0,), (0,)))); lax.dot_general(x, y, (((0, 2), (0, 1)), ((), ())))",
        "lax.dot_general(x, y, (((1,), (2,)), ((), ()))); lax.dot_general(x, d, (((), ()), ((), ()))); lax.dot_general(c, y, (((0,), (0,)), ((), ())))",
        "lax.dot_general(x, y, (((), ()), ((1, 0), (2, 0)))); lax.dot_general(c, y, (((0,), (0,)), ((2, 1), (1, 2)))); lax.dot_general(y, c, (((0,), (0,)), ((2, 1), (1, 2))))",
        "lax.batch_matmul(x, y); x @ d[0]; c[0] @ y; jnp.einsum('bij,bjk->bk', x, y); jnp.einsum('bij,cjk->ick', c, y)",
        "jax.vmap(jnp.dot)(x, y); jax.vmap(lambda a: jnp.tanh(a) @ d[0])(x); jax.vmap(jnp.outer)(x[:, 0], c[:, 1])",
        "lax.dot_general(x, y, (((2,), (1,)), ((0,), (0,))), preferred_element_type=jnp.float64); x.mT @ x; la.matmul(c, y)",
    ),
    *cases(
        "2,3,7 4,3,3",
        -1,
        1,
        2,
        "lax.conv(x, d, (1,), 'VALID'); lax.conv(x, y, (2,), 'SAME'); lax.conv(c, y, (1,), 'VALID')",
        "lax.conv_general_dilated(x, d, (2,), [(1, 2)], rhs_dilation=(2,)); lax.conv_general_dilated(x, y, (1,), [(2, 1)], lhs_dilation=(2,))",
        "lax.conv_general_dilated(x, y[:3, :1], (1,), 'SAME', feature_group_count=3); lax.conv_general_dilated(c, y[:, :3], (1,), [(-1, 0)])",
        "lax.conv_general_dilated(x, y[:, :3], (1,), 'VALID', batch_group_count=2)",
        "lax.conv_transpose(x.mT, y.transpose(2, 1, 0), (2,), 'SAME'); lax.conv_transpose(c.mT, y.transpose(2, 0, 1), (2,), 'VALID', transpose_kernel=True)",
        "lax.conv_general_dilated(x.mT, y.transpose(2, 1, 0), (1,), 'SAME', dimension_numbers=('NHC', 'HIO', 'NHC')); lax.conv_general_dilated_patches(x, (2,), (1,), 'VALID')",
    ),
    *cases(
        "1,2,4,4 3,2,2,2",
        -1,
        1,
        2,
        "lax.conv(x, d, (1, 1), 'SAME'); lax.conv(x, y, (2, 1), 'VALID'); lax.conv_general_dilated(c, y, (1, 1), [(1, 0), (0, 2)], rhs_dilation=(1, 2))",
        "lax.reduce_window(x, 0.0, lax.add, (1, 1, 2, 2), (1, 1, 2, 1), 'SAME'); lax.reduce_window(x, -jnp.inf, lax.max, (1, 1, 2, 3), (1, 1, 1, 1), 'VALID')",
        "lax.reduce_window(x, jnp.inf, lax.min, (1, 1, 2, 2), (1, 1, 2, 2), 'VALID')",
    ),
    # ---- reductions and running ones
    *cases(
        "2,3,2 3",
        -2,
        2,
        2,
        "x.sum(); x.sum((0, 2)); x.sum(1, keepdims=True); x.mean((1, 2)); jnp.average(x, 1, y); x.sum(where=c > 0)",
        "x.prod(); x.prod(1); x.prod((0, 2)); jnp.prod(x[:, :0], 1) * y[:2, None]; jnp.prod(y * jnp.array([1.0, 0.0, 0.0]))",
        "jnp.cumsum(x, 0); jnp.cumsum(x); lax.cumsum(x, 1, reverse=True); jnp.diff(x, 2, 1); jnp.gradient(y); jnp.trapezoid(y)",
        "jnp.cumprod(x, 1); lax.cumprod(x, 0, reverse=True); lax.cumlogsumexp(x, 1); lax.cumlogsumexp(x, 2, reverse=True)",
        "lax.associative_scan(jnp.multiply, y); jnp.nansum(x, 0); jnp.nanmean(x); jnp.count_nonzero(x) * y; (x > 0).all() * y; jnp.cov(x[0])",
        "lax.reduce(x, 0.0, lax.add, (0, 1)); lax.reduce(x, 1.0, lax.mul, (1,)); lax.reduce(x, -9.0, lax.max, (2,)); lax.reduce_and(x > 0, (0,)) * x[0]",
        "(lax.reduce_or(x > 1, (0, 1)) * y[:2]); jnp.bincount(jnp.array([0, 1, 1]), weights=y, length=2); jnp.logical_xor(x > 0, c > 0) * x",
    ),
    # ---- rearrangement: two points of a mixture are enough
    *cases(
        "3,4 4",
        -2,
        2,
        2,
        "x.reshape(2, 6); x.ravel(); x.T; jnp.moveaxis(x, 0, 1); x[None]; jnp.squeeze(x[:1]); jnp.flip(x, 0); jnp.rot90(x); lax.rev(x, (0, 1))",
        "jnp.broadcast_to(y, (3, 4)) * x; jnp.tile(x, (2, 1)); jnp.repeat(x, 2, 1); jnp.repeat(y, jnp.array([1, 0, 2, 1]), total_repeat_length=4); jnp.roll(x, 1, 0)",
        "jnp.concatenate([x, c]); jnp.concatenate([c, x, x], 1); jnp.stack([x, c]); jnp.vstack([x, y]); jnp.hstack([x, d[:3, None]]); jnp.append(x, y)",
        "jnp.split(x, 2, 1)[1]; jnp.array_split(y, 3)[0]; lax.split(x, (1, 3), 1)[1]; jnp.pad(x, 1); jnp.pad(x, ((0, 1), (2, 0)), constant_values=3.0)",
        "jnp.pad(y, 2, 'reflect'); jnp.pad(y, 2, 'wrap'); jnp.pad(x, 1, 'edge'); lax.pad(x, 0.5, ((1, -1, 1), (0, 2, 0))); lax.pad(c, y[0], ((1, 1, 0), (0, 0, 1)))",
        "x[1]; x[:, 1:3]; x[..., ::-2]; x[::2]; x[-1, -1]; x[jnp.array([0, 2, 2])]; x[:, jnp.array([[0, 1], [2, 3]])]; x[jnp.array([0, 1]), jnp.array([2, 3])]",
        "x[jnp.argmax(c[0])]; x[jnp.array(1), 1:]; lax.dynamic_slice(x, (1, jnp.argmin(d)), (2, 2)); lax.dynamic_index_in_dim(x, 1, 0); lax.dynamic_slice(x, (9, 9), (2, 2))",
        "lax.dynamic_update_slice(x, c[:1, :2], (1, 1)); lax.dynamic_update_slice(c, x[:2], (0, 0)); lax.dynamic_update_slice(x, x[:1] ** 2, (jnp.argmax(d), 0))",
        "jnp.take(x, jnp.array([1, 0]), 0); jnp.take(x, jnp.array([7]), 1, mode='clip'); jnp.take(x, jnp.array([5, 1]), 1, mode='fill', fill_value=2.0); jnp.take(y, jnp.array([-1]), mode='wrap')",
        "jnp.take_along_axis(x, jnp.argsort(c, 1), 1); jnp.take_along_axis(x, jnp.argmax(x, 0, keepdims=True), 0); jnp.diagonal(x); jnp.diag(y); jnp.tril(x); jnp.triu(x, 1)",
        "x.at[0].set(y); x.at[1, 2].set(5.0); c.at[0].set(y); x.at[:, jnp.array([0, 3])].set(c[:, :2]); x.at[jnp.array([0, 0, 1])].add(x); c.at[jnp.array([1])].add(y)",
        "x.at[0].mul(2.0); x.at[0].mul(y, unique_indices=True); c.at[jnp.array([0, 2])].mul(x[:2], unique_indices=True); x.at[0, 1].multiply(c[0, 1]); x.at[0].divide(3.0)",
        "x.at[0].max(y); x.at[0].min(0.1); c.at[0].max(y); x.at[jnp.array([0, 1])].min(c[:2]); x.at[1].subtract(y)",
        "x.at[jnp.array([0, 7])].set(9.0, mode='drop'); x.at[7].add(1.0, mode='clip'); x.at[jnp.array([0, 2])].get(unique_indices=True, indices_are_sorted=True); jnp.put_along_axis(x, jnp.array([[1], [2], [0]]), c[:, :1], 1, inplace=False)",
        "jax.ops.segment_sum(x, jnp.array([0, 1, 0]), 2); jax.ops.segment_max(x, jnp.array([0, 1, 1]), 2); jax.ops.segment_prod(d, jnp.array([0, 1, 0, 1]), 2) * y[:2]",
        "jnp.where(jnp.eye(3, 4) > 0, x, 0); jnp.fill_diagonal(x, 1.0, inplace=False); jnp.meshgrid(y, d)[0]; jnp.block([[x, c], [c, x]]); jnp.apply_along_axis(jnp.cumsum, 1, x)",
        "jax.vmap(lambda r, i: r[i])(x, jnp.array([1, 0, 3])); jax.vmap(lambda r, i: r.at[i].set(0.5))(x, jnp.array([1, 0, 3])); jax.vmap(lambda r, i: lax.dynamic_slice(r, (i,), (2,)))(x, jnp.array([1, 0, 2]))",
        "jnp.copy(x); jnp.array(x); x.astype(jnp.float64); jax.device_put(x); x.astype(jnp.float32).astype(float) * 0 + x := x; x.astype(complex).real; lax.convert_element_type(x, jnp.bool_) * x",
        "jnp.zeros_like(x) + x; jnp.full_like(x, 2.0) * x; jnp.ones(4) * y; jnp.arange(4) * y; lax.iota(float, 4) * y; jnp.linspace(x[0], x[1], 4); jnp.full((2,), y[0])",
        "lax.map(lambda r: r**2, x); lax.scan(lambda s, r: (s * r, s), y, x)[0]; lax.cond(c[0, 0] > 0, jnp.sin, jnp.cos, x); lax.fori_loop(0, 3, lambda i, s: s * y, y)",
        "jax.checkpoint(jnp.sin)(x); jax.jit(jnp.tanh)(x); jnp.vectorize(lambda a: a * a, signature='(n)->(n)')(x); jax.checkpoint(lambda a: a * a)(y)",
        "name(x, 'kept'); lax.while_loop(lambda s: s.max() < 9, lambda s: 2 * jnp.abs(s), y); lax.platform_dependent(x, default=jnp.sin)",
        "jnp.array([y[0], 1.0, y[1]]); jnp.stack([y[k] for k in range(3)]).sum(); jnp.ones(2) * y[:2]",
    ),
    # ---- complex values of real points
    *cases(
        "2,4",
        0.3,
        2.0,
        2,
        "x * 1j; lax.complex(x, x * x); jnp.abs(x + 1j * c); jnp.abs(lax.complex(x, x * x)); jnp.conj(x * (1 + 2j)); jnp.angle(lax.complex(x, x * x))",
        "jnp.exp(1j * x); jnp.exp(1j * x).real; (x * 2j).imag; jnp.real(x * (1 - 1j)); jnp.imag(x); jnp.conj(x); jnp.sin(x + 1j); jnp.log(x + 2j * c)",
        "jnp.sqrt(x + 1j); (x + 1j) ** 2; (x + 1j) ** 2.5; (x + 1j) ** (x * 1j); 1 / (x + 1j); x / (2 + 1j); jnp.tanh(x * 1j); jnp.square(x * 1j)",
        "(x + 1j) @ (x.T * 1j); jnp.vdot(x * 1j, c * (1 + 1j)); ((x + 1j) * 2).sum(); jnp.var(x * 1j); jnp.abs(x * 1j).sum(); jnp.prod(x + 1j, 1); jnp.cumsum(x * 1j, 1)",
        "fft.fft(x); fft.ifft(x * 1j, axis=0); fft.rfft(x); fft.irfft(x * (1 + 1j)); fft.fft2(x); fft.rfft2(x); fft.irfft2(x + 0j); fft.fftn(x + 1j); fft.hfft(x + 1j); fft.fftshift(x)",
        "la.norm(x + 1j * c, axis=1); jnp.cumprod(x + 1j, 1); lax.expm1(x * 1j); jnp.cosh(x + 1j); lax.rsqrt(x + 1j); nn.sigmoid(x + 1j); jnp.log1p(x * 1j); jnp.sign(x + 1j) := (x + 1j) / jnp.sqrt(x**2 + 1)",
        "la.det(x[:, :2] + 1j * c[:, :2]); la.slogdet(x[:, :2] + 1j * c[:, :2])[1]; la.inv(x[:, :2] + 1j * c[:, 2:]); la.solve(x[:, :2] + 1j * c[:, :2], x[0, :2] * 1j)",
        "ll.cholesky((x + 1j * c) @ (x - 1j * c).T + 9 * jnp.eye(2)); la.eigvalsh((x + 1j * c) @ (x - 1j * c).T); jnp.where(c > 1, x * 1j, x); jnp.pad(x * 1j, 1); x.astype(jnp.complex128)",
        "ll.triangular_solve(x[:, :2] + 1j * c[:, :2], c[:, :2] * 1j, left_side=True, conjugate_a=True, transpose_a=True); ll.triangular_solve(c[:, :2] * (1 + 1j), x[:, :2] * 1j, lower=True)",
        "la.qr(x[:, :2] + 1j * c[:, :2])[0]; la.qr(x[:, :2] + 1j * c[:, :2])[1]; ll.lu(x[:, :2] + 1j * c[:, :2])[0]; jnp.cos(x + 2j); jnp.arctan(x + 0.5j); lax.real(jnp.outer(x[0] * 1j, x[1] * 1j))",
    ),
    # ---- linear algebra
    *cases(
        "3,3 3",
        -1,
        1.2,
        2,
        "la.inv(x + 3 * jnp.eye(3)); la.solve(x + 3 * jnp.eye(3), y); la.solve(c + 3 * jnp.eye(3), x); la.det(x); la.matrix_power(x, 3)",
        "la.slogdet(x + c)[1]; la.det(x[:2, :2]); la.slogdet(x[:2, :2])[1]; la.matrix_power(x + 3 * jnp.eye(3), -2); la.det(jnp.pad(x, (0, 2)) + jnp.diag(jnp.arange(1.0, 6)))",
        "la.cholesky(x @ x.T + jnp.eye(3)); la.cholesky(x @ x.T + jnp.eye(3), upper=True); jsp.linalg.cho_solve((la.cholesky(x @ x.T + jnp.eye(3)), True), y)",
        "la.eigvalsh(x + x.T); (lambda w, v: (v * jnp.exp(w)) @ v.T)(*la.eigh(x + x.T)); jnp.abs(la.eigh(c + x * x.T)[1]); la.eigh(x, symmetrize_input=True)[0]",
        "la.qr(x)[0]; la.qr(x)[1]; la.qr(x[:, :2])[0]; la.qr(x[:, :2])[1]; la.qr(x[:2], mode='r') := la.qr(x[:2, :2])[0].T @ x[:2]",
        "jsp.linalg.lu(x)[1]; jsp.linalg.lu(x)[2]; jsp.linalg.lu_factor(x)[0]; jsp.linalg.lu_solve(jsp.linalg.lu_factor(x), y); ll.lu(x[:, :2])[0]",
        "ll.triangular_solve(x + 2 * jnp.eye(3), c); ll.triangular_solve(x + 2 * jnp.eye(3), y[:, None], left_side=True, lower=True); ll.triangular_solve(c + 2 * jnp.eye(3), x, left_side=True, transpose_a=True)",
        "ll.triangular_solve(x, x @ c, left_side=True, lower=True, unit_diagonal=True, transpose_a=True); ll.triangular_solve(x, c, lower=True, unit_diagonal=True); ll.triangular_solve(x + 2 * jnp.eye(3), x, left_side=False, transpose_a=True)",
        "jsp.linalg.solve_triangular(x + 2 * jnp.eye(3), y, lower=True); jsp.linalg.solve(x @ x.T + jnp.eye(3), y, assume_a='pos'); la.norm(x); la.norm(x, 1); la.norm(x, jnp.inf); la.norm(y, 3); la.norm(x, axis=0)",
        "jnp.stack([x, c, x @ c]) @ y; la.inv(jnp.stack([x, c]) + 3 * jnp.eye(3)); la.cholesky(jnp.stack([x @ x.T, c @ c.T]) + jnp.eye(3)); la.eigvalsh(jnp.stack([x + x.T, c + c.T]))",
    ),
    *cases(
        "3,3 3",
        -1,
        1.2,
        2,
        "ll.tridiagonal_solve(y.at[0].set(0.0), y + 3, y * c[0], x); ll.tridiagonal_solve(d, d + 3, d, x); ll.tridiagonal_solve(y, d + 3, y, c)",
        "lax.ragged_dot(x, jnp.stack([c, x]), jnp.array([1, 2])); lax.ragged_dot(c, jnp.stack([c, x]), jnp.array([2, 1])); lax.approx_max_k(y, 2)[0]",
        "ll.householder_product(x[:, :1], y[:1]) := jnp.eye(3, 1) - y[0] * x[:, :1].at[0].set(1.0); ll.qr(x, pivoting=True)[0]; ll.qr(x, pivoting=True)[1]",
        "lax.reduce_window(x, 0.0, lambda a, b: a + b + a * b, (2, 2), (1, 1), 'VALID') := (1 + x[:2, :2]) * (1 + x[1:, :2]) * (1 + x[:2, 1:]) * (1 + x[1:, 1:]) - 1",
        "jax.grad(lambda a: (lax.reduce_window(a, -jnp.inf, lax.max, (2, 2), (1, 1), 'VALID') ** 2).sum())(x); jax.jvp(lambda a: lax.reduce_window(a, -jnp.inf, lax.max, (2, 2), (1, 1), 'VALID'), (x,), (c * x,))[1]",
        "jnp.vstack(ll.eig(3 * c + x, enable_eigvec_derivs=True)); ll.eig(c + 1j * x, enable_eigvec_derivs=True)[1]",
        "jax.custom_derivatives.linear_call(lambda r, v: r @ v, lambda r, v: r.T @ v, x, y) := x @ y; jax.custom_derivatives.linear_call(lambda r, v: r @ v, lambda r, v: r.T @ v, c, y) := c @ y",
        "la.slogdet(x + 2 * c, method='qr')[1]; lax.reduce((x, y[:, None] * c), (1.0, 0.0), lambda a, b: (a[0] * b[0], a[1] + b[1]), (1,))[0] := x.prod(1)",
    ),
    *cases(
        "3,2 3",
        -1,
        1.2,
        2,
        "la.svd(x, compute_uv=False); la.norm(x, 2); la.norm(x, 'nuc'); la.norm(x, -2); la.cond(x)",
        "(lambda u, s, v: (u * s**2) @ v)(*la.svd(x, full_matrices=False)); la.lstsq(x, y)[0]; la.matrix_norm(x)",
        "la.svd(x.T, full_matrices=False)[0]; jnp.abs(la.svd(x * (1 + 1j), full_matrices=False)[2]); la.svd(x + 1j * c, compute_uv=False); la.svd(x[:2])[0] := la.svd(x[:2], full_matrices=False)[0]; la.svdvals(x)",
        "jsp.linalg.expm(x @ x.T); jnp.hstack(la.qr(x, mode='complete')); la.qr(x + 1j * c, mode='complete')[0]; la.qr(x.T)[1] := la.qr(x.T[:, :2])[0].T @ x.T",
        "lax.custom_linear_solve(lambda v: (c @ c.T + jnp.diag(y**2) + jnp.eye(3)) @ v, y, lambda mv, b: la.solve(jax.jacfwd(mv)(b), b), symmetric=True)",
        "jsp.sparse.linalg.cg(lambda v: (x @ x.T + 3 * jnp.eye(3)) @ v, y, tol=1e-14)[0] := la.solve(x @ x.T + 3 * jnp.eye(3), y)",
    ),
]


@pytest.mark.parametrize("k", range(len(CASES)), ids=lambda k: "; ".join(CASES[k].forms)[:60])
def test_operation(k: int) -> None:
    check(CASES[k])


TOWERS = "tanh exp sin log1p sqrt"


@pytest.mark.parametrize("method", ["minimal", "collapsed", "nested"])
def test_fourth_order(method: str) -> None:
    x = jnp.asarray(POINT) ** 2 + 0.3
    w = jnp.asarray(np.random.default_rng(3).uniform(0.2, 1, (3, 2)))

    def f(x: Any) -> Any:
        y = x @ w
        return jnp.stack([getattr(jnp, name)(y).prod() * x[0] for name in TOWERS.split()])

    exact = jax.jit(lambda p: nested(f, p, 4))(x)
    found = jax.jit(OPERATORS[4]["txxy"](f, method=method))(x)
    terms = [float(c) * exact[key] for key, c in OPERATORS[4]["txxy"].symbol.terms.items()]
    close(found, sum(terms))


# ------------------------------------------------------------------ points where pieces meet

KINKS = """
nn.relu(x); jnp.abs(x); jnp.maximum(x, 0.0); jnp.minimum(x, x); nn.relu6(x); nn.leaky_relu(x)
jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1.0)), 0.0); jnp.clip(x, 0.0, 1.0); nn.elu(x)
x**0; x**1; x**2; x**3; lax.pow(x, 3); jnp.sort(x); jnp.max(x); x.prod()
jnp.cumprod(x); jnp.sinc(x); jnp.sign(x); x.at[0].max(x[1]); lax.clamp(x[0], x + 1, x[0] + 1)
"""


@pytest.mark.parametrize("form", KINKS.replace("\n", ";").strip(";").split(";"))
def test_kinks(form: str) -> None:
    """The derivatives that JAX chose, at zero and at ties."""
    form = form.strip()
    f = lambda x: eval(form, SCOPE | {"x": x})
    reference = (
        f
        if "lax.clamp" not in form
        else lambda x: lax.clamp(*jnp.broadcast_arrays(x[0], x + 1, x[0] + 1))
    )
    x = jnp.zeros(3)
    along = jnp.array([2.0, 1, 0])

    @jax.jit
    def both(x: Any) -> Any:
        ours = (2 * T + X)(f)(x), jf.laplacian(f)(x)
        return ours, (jax.jvp(reference, (x,), (along,))[1], laplacian(reference, x))

    for found, expected in zip(*both(x), strict=True):
        close(found, expected)


def test_powers_at_zero() -> None:
    """Where JAX's own second derivatives are NaN."""
    result = jax.jit(jf.laplacian(lambda x: x ** jnp.array([0, 1, 2])))(jnp.zeros(3))
    close(result, jnp.array([0.0, 0.0, 2.0]))


def test_complex_absolute_value_has_no_derivative_at_zero() -> None:
    x = jnp.zeros(2)
    assert not np.isfinite(jax.jit(jf.laplacian(lambda x: jnp.abs(x[0] + 1j * x[1])))(x))


# ------------------------------------------------------------------ dtypes and settings of the user

KEPT = "jnp.tanh(x) * x / 3; x ** 3 + 0.1; x @ w; nn.gelu(x); nn.softmax(x); x ** 0.5; nn.relu(x)"
KEPT += "; x.prod(); jnp.cumsum(x); jnp.sort(x); jnp.where(x > 0, x, 0.5); x[jnp.array([1, 0])]; sp.erf(x)"


@pytest.mark.parametrize("x64", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_dtype_stays(dtype: str, x64: bool) -> None:
    with jax.enable_x64(x64):
        x = jnp.array([0.3, 0.7, 1.1], dtype)
        w = jnp.asarray(np.arange(6.0).reshape(3, 2) / 6, dtype)

        def f(x: Any) -> list[Any]:
            return [eval(form.strip(), SCOPE | {"x": x, "w": w}) for form in KEPT.split(";")]

        wide = jax.jit(lambda x: laplacian(f, x))(x.astype(float))
        found, values = jax.jit(lambda x: (jf.laplacian(f)(x), f(x)))(x)
        for form, ours, y, exact in zip(KEPT.split(";"), found, values, wide, strict=True):
            assert ours.dtype == y.dtype == jnp.dtype(dtype), form
            tolerance = 1e-5 if dtype == "float32" else 0.1
            np.testing.assert_allclose(
                np.asarray(ours, float), np.asarray(exact, float), rtol=tolerance, atol=tolerance
            )


def test_strict_promotion_of_the_user() -> None:
    w = jnp.ones((3, 4))

    def f(x: Any) -> Any:
        y = jnp.tanh(x @ w) * 2 + x[0]
        return jnp.sum(y[None] / jnp.exp(y)[None] + y[None] ** 3) + jnp.linalg.det(jnp.diag(x))

    x = jnp.asarray(POINT)
    expected = jax.jit(jf.laplacian(f))(x)
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        close(jax.jit(jf.laplacian(f))(x), expected)


# ------------------------------------------------------------------ what has no rule


def primitive(name: str, several: bool = False) -> Any:
    """x ↦ x y² (and y³), as a primitive that jetfold cannot know."""
    p = jex_core.Primitive(name)
    p.multiple_results = several

    def impl(x: Any, y: Any) -> Any:
        return [x * y**2, y**3] if several else x * y**2

    p.def_impl(impl)
    p.def_abstract_eval(lambda x, y: [x, x] if several else x)
    mlir.register_lowering(p, mlir.lower_fun(impl, multiple_results=several))

    def batched(args: Any, axes: Any) -> Any:
        size = next(a.shape[k] for a, k in zip(args, axes, strict=True) if k is not None)
        moved = [
            jnp.broadcast_to(a, (size, *a.shape)) if k is None else jnp.moveaxis(a, k, 0)
            for a, k in zip(args, axes, strict=True)
        ]
        out = p.bind(*moved)
        return out, [0, 0] if several else 0

    batching.primitive_batchers[p] = batched

    def pushed(primals: Any, tangents: Any) -> Any:
        tangents = [ad.instantiate_zeros(t) for t in tangents]
        return p.bind(*primals), jax.jvp(impl, tuple(primals), tuple(tangents))[1]

    ad.primitive_jvps[p] = pushed
    return p


@pytest.mark.parametrize("several", [False, True])
def test_the_general_rule(several: bool) -> None:
    name = f"unheard_of_{several}"
    p = primitive(name, several)

    def both(x: Any, y: Any) -> Any:
        return p.bind(x, y) if several else [p.bind(x, y)]

    forms = {
        "both": lambda x: both(jnp.sin(x), x * x[0]),
        "first": lambda x: both(jnp.sin(x), jnp.ones(3) * 2),
        "second": lambda x: both(jnp.ones(3) * 2, jnp.sin(x)),
    }
    x = jnp.asarray(POINT)
    for f in forms.values():
        with pytest.warns(jf.JetfoldWarning, match=f"{name} has no rule of its own") as caught:
            found = jax.jit(jf.derivatives(OPERATORS[3])(f))(x)["txx"]
        assert len(caught) == 1
        exact = jax.jit(lambda x, f=f: nested(f, x, 3))(x)
        for k, result in enumerate(found):
            close(result, exact[(0, 1, 1)][k] + exact[(1, 1)][k])
    with jf.strict(), pytest.raises(NotImplementedError, match=f"{name} has no rule of its own"):
        jf.laplacian(forms["both"])(x)


# ------------------------------------------------------------------ the list is complete


def primitives(jaxpr: Any) -> set[str]:
    """The names of all the primitives in a jaxpr, also those inside of others."""
    found = set()
    for equation in jaxpr.eqns:
        found.add(operation_name(equation))
        for part in jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr):
            if _is_jaxpr(part):
                found |= primitives(getattr(part, "jaxpr", part))
    return found


def _is_jaxpr(x: Any) -> bool:
    return isinstance(x, (jex_core.Jaxpr, jex_core.ClosedJaxpr))


def test_every_rule_has_a_case() -> None:
    met: set[str] = set()
    for case in CASES:
        points = [jnp.full(s, sum(case.domain) / 2) for s in case.shapes]
        met |= primitives(jax.make_jaxpr(case.function(0))(*points).jaxpr)
    assert sorted(set(TABLE) - met - set(ELSEWHERE)) == []


DEVICES = (
    "all_gather all_to_all mesh_cast pbroadcast ppermute psum psum2 psum_invariant pvary reshard "
)
DEVICES += "shard_map sharding_constraint all_gather_invariant reduce_scatter"
OLD = "copy_p core_call custom_vjp_call_jaxpr eq_to le_to lt_to expand_dims remat remat2 checkpoint pjit "
OLD += "scatter_add scatter_sub scatter_mul closed_call eval_jaxpr"
ELSEWHERE = dict.fromkeys(DEVICES.split(), "of several devices; test_control")
NEW = {
    (0, 10): "eig stack tile",
    (0, 12): "log2 one_minus_square polynomial nextafter Frexp Ldexp Nonzero SearchSorted",
}
for version, names in NEW.items():
    if jax.__version_info__ < version:
        ELSEWHERE |= dict.fromkeys(names.split(), "not there yet, or without derivatives")
ELSEWHERE |= dict.fromkeys(OLD.split(), "a name in other versions of JAX, or rarely; test_control")
ELSEWHERE |= {
    "add_any": "only where JAX differentiates",
    "custom_lin": "likewise",
    "custom_vjp_call": "test_custom",
    "custom_vmap_call": "test_control",
    "and": "of integers and booleans, which have no jets",
    "not": "likewise",
    "or": "likewise",
    "xor": "likewise",
    "debug_callback": "prints; test_control",
    "debug_print": "prints; test_control",
    "unstack": "a name in other versions of JAX",
    "random_gamma": "compiles slowly; on the page of the coverage",
}
"""Names without a case, with the reason."""
