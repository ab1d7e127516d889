"""What could give wrong numbers without a word: for each, the right numbers or an error with text."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback

import jetfold as jf

x, y, z = jf.partials(3, names="x y z")
W = jnp.array([1.0, 0.4, -0.7])


def close(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def agree(pairs, *args):
    """The first and the second of all pairs that a function gives, in one compiled program."""
    for name, (a, b) in jax.jit(pairs)(*args).items():
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9, err_msg=name)


def points(n=5, seed=0):
    return jax.random.normal(jax.random.key(seed), (n, 3))


def net(p, outputs=1):
    weights = jax.random.normal(jax.random.key(1), (3, outputs))
    return jnp.tanh(p @ weights) * jnp.sin(p[..., :1])


# ------------------------------------------------------------------ coefficients


def test_a_coefficient_is_lined_up_with_the_points():
    def pairs(p, c):
        found = {}
        for out in ((5,), (5, 1), (5, 4)):
            f = (lambda p: net(p)[:, 0]) if out == (5,) else lambda p, n=out[1]: net(p, n)
            bare = (x**2)(f, batch_dims=1)(p)
            for shape in ((), (1,), (5,), (5, 1)):
                one = jnp.resize(c, shape)
                rows = jnp.broadcast_to(one.reshape(-1), (5,)).reshape(5, *(1,) * (len(out) - 1))
                given = one if out != (5, 1) else lambda p, one=one: one
                found[f"{shape} and {out}"] = (given * x**2)(f, batch_dims=1)(p), rows * bare
        several = jf.derivatives([c * x**2])(f, batch_dims=1, method="nested")(p)[0]
        return {**found, "several": (several, c[:, None] * bare)}

    agree(pairs, points(), jax.random.uniform(jax.random.key(2), (5,)))


@pytest.mark.parametrize("shape", [(4,), (3, 1), (1, 5), (2, 5, 1)], ids=str)
def test_a_coefficient_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"coefficient of shape .* output of shape \(5, 1\)"):
        jax.eval_shape((jnp.ones(shape) * x)(net, batch_dims=1), points())


def test_a_product_of_coefficients_is_evaluated_in_every_call():
    def of(k, p):
        return (k * (k * x**2))(net, batch_dims=1)(p).sum()

    numbers = np.full((), 2.0)
    operator = numbers * (numbers * x**2)

    def pairs(k, p):
        bare = (x**2)(net, batch_dims=1)(p)
        return {
            "value": (of(k, p), k**2 * bare.sum()),
            "gradient": (jax.grad(of)(k, p), 2 * k * bare.sum()),
            "numpy": (operator(net, batch_dims=1)(p), numbers**2 * bare),
        }

    agree(pairs, 2.0, points())
    numbers[...] = 3.0  # arrays of NumPy may change
    agree(lambda k, p: pairs(k, p), 3.0, points())


def test_a_coefficient_of_a_trace_that_is_over():
    kept = []

    @jax.jit
    def make(k):
        kept.append(k * x**2)
        kept.append((lambda p: k) * x)
        return k

    make(2.0)
    for operator in kept:
        with pytest.raises(jax.errors.UnexpectedTracerError):
            operator(net, batch_dims=1)(points())


# ------------------------------------------------------------------ constants, effects, closures


@jax.custom_batching.custom_vmap
def mapped(a):
    return jnp.sin(a) * a


@mapped.def_vmap
def _(size, batched, a):
    return jnp.sin(a) * a, True


def stopped(p):
    return jax.lax.stop_gradient((p**3).sum()) * (p**2 * W).sum()


def straight_through(p):
    return ((p**3 + jax.lax.stop_gradient(jnp.round(p**3) - p**3)) ** 2).sum()


def debugged(p):
    jax.debug.print("{}", p[0])
    jax.debug.callback(lambda value: None, p)
    return (p**3 * W).sum()


def callback_of_a_constant(p):
    shape = jax.ShapeDtypeStruct(p.shape, p.dtype)
    return (io_callback(np.sin, shape, jax.lax.stop_gradient(p)) * p**2).sum()


def custom_batching(p):
    return (jax.vmap(mapped)(p) * W).sum()


def of_numpy_numbers(p):
    return (np.float64(2.0) * p**3 * np.arange(3)).sum() + (p > 0) @ p**2


def other_dtypes(p):
    return (p.astype(jnp.float32) ** 2).sum().astype(jnp.float64) + (p * 3).astype(int).sum()


def random_numbers(p):
    key = jax.random.key(0)
    return (jax.random.bernoulli(key, 0.5, (3,)) * p**3).sum() * jax.random.normal(key)


SEEN = [
    stopped,
    straight_through,
    debugged,
    callback_of_a_constant,
    custom_batching,
    of_numpy_numbers,
    other_dtypes,
    random_numbers,
]


def test_derivatives_are_those_of_jax():
    def pairs(p):
        both = lambda f: (jf.laplacian(f)(p), jnp.trace(jax.jacrev(jax.jacrev(f))(p)))
        return {f.__name__: both(f) for f in SEEN}

    agree(pairs, points()[0])


LOST = {
    "numpy": (lambda p: np.sin(p), jax.errors.TracerArrayConversionError),
    "float": (lambda p: float(p[0]), jax.errors.ConcretizationTypeError),
    "io_callback": (
        lambda p: io_callback(np.sin, jax.ShapeDtypeStruct(p.shape, p.dtype), p),
        NotImplementedError,
    ),
    "pure_callback": (
        lambda p: jax.pure_callback(np.sin, jax.ShapeDtypeStruct(p.shape, p.dtype), p),
        NotImplementedError,
    ),
}


@pytest.mark.filterwarnings("ignore::jetfold.JetfoldWarning")
@pytest.mark.parametrize(("copied", "error"), LOST.values(), ids=LOST)
def test_copies_that_would_lose_derivatives_are_refused(copied, error):
    with pytest.raises(error):
        jax.eval_shape(jf.laplacian(lambda p: jnp.sum(copied(p) * p)), points()[0])


def test_what_a_function_keeps_is_no_number_later():
    kept, p = [], points()[0]
    jax.eval_shape(jf.laplacian(lambda p: kept.append(p) or (p**2).sum()), p)
    for use in (lambda: kept[0] * 2, lambda: jf.laplacian(lambda p: (p * kept[0]).sum())(p)):
        with pytest.raises(jax.errors.UnexpectedTracerError):
            use()


def test_closures_over_outer_transforms():
    def pairs(p, ks):
        of = lambda k: jf.laplacian(lambda q: (jnp.sin(k * q) * W).sum())(p)
        exact = lambda k: -(k**2 * jnp.sin(k * p) * W).sum()
        nested = lambda q: jf.laplacian(lambda r: (jnp.sin(r * q) * W).sum())(q)
        at_the_point = lambda q: -(q**2 * jnp.sin(q * q) * W).sum()
        scanned = jax.lax.scan(lambda c, k: (c, jax.grad(of)(k)), 0.0, ks)[1]
        return {
            "hessian": (jax.hessian(of)(ks[0]), jax.hessian(exact)(ks[0])),
            "scan": (scanned, jax.vmap(jax.grad(exact))(ks)),
            "nested": (jf.laplacian(nested)(p), jnp.trace(jax.hessian(at_the_point)(p))),
        }

    agree(pairs, points()[0], jnp.arange(1.0, 4.0))


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64])
def test_dtypes_are_those_of_the_function(dtype):
    p = points()[0].astype(dtype)
    for f in (lambda p: (p**3 * 2 + 1).sum(), lambda p: (p**3 * np.float64(2)).sum()):
        expected = jax.eval_shape(f, p).dtype
        assert jax.eval_shape(jf.laplacian(f), p).dtype == expected
        assert jax.eval_shape(jf.value(f), p).dtype == expected


# ------------------------------------------------------------------ functions that mix points


def test_check_finds_functions_that_mix_points():
    p = points(7)
    mean_free, neighbours = lambda p: p[:, 0] - p[:, 0].mean(), lambda p: p[:, 0] * p[::-1, 0]
    for f in (jax.jit(mean_free), jax.jit(neighbours)):
        report = jf.check(jf.laplacian, f, p, batch_dims=1, methods=(), mixing=True)
        assert report.mixing > 1e-6 and report.worst == float("inf")
        assert "mixes the points" in str(report)
    report = jf.check(jf.laplacian, jax.jit(net), p, batch_dims=1, methods=(), mixing=True)
    assert report.mixing == report.worst == 0


# ------------------------------------------------------------------ outputs without derivatives


@pytest.mark.parametrize("method", ["minimal", "nested"])
def test_integers_and_booleans_beside_numbers(method):
    p = points()[0]
    f = lambda p: (jnp.sin(p[0] * p[1]), p > 0, (p > 0) * 3)
    several = jf.derivatives([x * y + 1, jf.laplacian, jf.hessian])(f, method=method)
    (real, boolean, integer), zeros, stacked = jax.jit(several)(p)
    close(real, -p[0] * p[1] * jnp.sin(p[0] * p[1]) + jnp.cos(p[0] * p[1]) + f(p)[0])
    assert (boolean == (p > 0)).all() and (integer == (p > 0) * 3).all()
    assert boolean.dtype == bool and jnp.issubdtype(integer.dtype, jnp.integer)
    for zero in zeros[1:]:
        assert not zero.any() and not jnp.issubdtype(zero.dtype, jnp.inexact)
    assert stacked[1].shape == (3, 3, 3) and not stacked[1].any()


def test_jets_of_order_zero():
    p = points()[0]
    value, series = jf.jet(lambda p: (jnp.sin(p), p > 0), (p,), ([],))
    close(value[0], jnp.sin(p))
    assert series == []


# ------------------------------------------------------------------ what XLA makes of a program

CONSTANT_WEIGHTS = {
    "envelopes": lambda r: jnp.prod(jnp.exp(-lengths(r)[..., None] * jnp.ones(64)).sum(1), 1).sum(),
    "first layers": lambda r: jnp.tanh(jnp.tanh(r @ jnp.ones((3, 64)) / 3) @ matrix(64, 64)).sum(),
    "last layers": lambda r: (jnp.sin(r[..., None] * jnp.ones((3, 64))) @ jnp.ones((64, 5))).sum(),
}


def lengths(r):
    nuclei = jnp.asarray([[0.0, 0.0, -0.7], [0.0, 0.0, 0.7]], r.dtype)
    return jnp.sqrt(((r[:, None] - nuclei) ** 2).sum(-1) + 0.1)


def matrix(n, m):
    return jnp.asarray(np.random.default_rng(0).normal(size=(n, m)) / n)


@pytest.mark.parametrize("name", CONSTANT_WEIGHTS)
def test_weights_that_are_all_one_in_float32(name):
    """XLA:CPU reads memory that is not there where it fuses reductions of such arrays.

    In float64 and in nested derivatives too: what is compared with is not compiled as a whole.
    """
    f = CONSTANT_WEIGHTS[name]
    points = jnp.asarray(np.random.default_rng(1).normal(size=(4, 16, 3)) / 2)
    operator = jf.derivatives({"gradient": jf.gradient, "laplacian": jf.laplacian})
    wanted = operator(f, method="nested")(points[0])
    with jax.enable_x64(False):
        narrow = jnp.asarray(points, jnp.float32)
        found = jax.jit(jax.vmap(operator(f)))(narrow)
        alone = jax.jit(operator(f))(narrow[0])
    for key, exact in wanted.items():
        scale = np.abs(exact).max()
        np.testing.assert_allclose(found[key][0] / scale, exact / scale, atol=1e-4)
        np.testing.assert_allclose(alone[key] / scale, exact / scale, atol=1e-4)


def test_a_layer_of_equal_weights_in_between_in_float32():
    """Here no sum but the product before it is wrong, where XLA:CPU fuses both with others.

    No care in the sum helps: a term that is broadcast along no axis, say.
    """
    first, last = (matrix(*shape).astype(jnp.float32) for shape in ((18, 32), (32, 1)))
    f = lambda x: (jnp.tanh(jnp.tanh(x @ first) @ jnp.full((32, 32), 1 / 32)) @ last)[0]
    points = jnp.asarray(np.random.default_rng(1).normal(size=(128, 18)))
    wanted = [jf.laplacian(f, method="nested")(p) for p in points[:2]]
    with jax.enable_x64(False):
        narrow = jnp.asarray(points, jnp.float32)
        found = jax.jit(jax.vmap(jf.laplacian(f)))(narrow)
        batched = jax.jit(jf.laplacian(jax.vmap(f), batch_dims=1))(narrow)
    np.testing.assert_allclose(found[:2], wanted, rtol=1e-4)
    np.testing.assert_allclose(batched, found, rtol=1e-4, atol=1e-6)
