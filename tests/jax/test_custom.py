"""jax.custom_vjp inside of a function: the author's reverse rule counts, at every order."""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.experimental import pallas

import jetfold as jf

POINT = np.array([0.8, 0.7, -1.2])


def close(found, expected, tolerance=1e-10):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def reverse_laplacian(f, *args):
    """By nested reverse mode, the reference."""
    return jnp.trace(jax.jacrev(jax.grad(f))(*args))


@jax.custom_vjp
def straight_through(x):
    return jnp.round(x)


straight_through.defvjp(lambda x: (straight_through(x), None), lambda _, ct: (ct,))


@jax.custom_vjp
def steep(x):
    """x³, of which the rule says that its derivative is 4.5 x²."""
    return x**3


steep.defvjp(lambda x: (steep(x), x), lambda x, ct: (4.5 * ct * x**2,))


@jax.custom_vjp
def log1pexp(x):
    return jnp.log1p(jnp.exp(x))


log1pexp.defvjp(
    lambda x: (jnp.where(x > 30, x, log1pexp(jnp.minimum(x, 30.0))), x),
    lambda x, ct: (ct * jax.nn.sigmoid(x),),
)


@jax.custom_vjp
def norm(x):
    return jnp.sqrt((x**2).sum())


def _norm_fwd(x):
    n = norm(x)
    return n, (x, n)


def _norm_bwd(res, ct):
    x, n = res
    return (ct * jnp.where(n > 0, x / jnp.where(n > 0, n, 1.0), 0.0),)


norm.defvjp(_norm_fwd, _norm_bwd)


@jax.custom_gradient
def area(x):
    return x[0] * x[1], lambda ct: ct * jnp.stack([x[1], x[0], 0 * x[2]])


@jax.custom_vjp
def pair(x, k, y):
    """Two results, and an integer among the operands."""
    return {"a": x * y.sum() * k, "b": jnp.arange(3)}


pair.defvjp(
    lambda x, k, y: (pair(x, k, y), (x, k, y)),
    lambda res, ct: (
        2 * ct["a"] * res[2].sum() * res[1],
        None,
        jnp.full(3, 2 * (ct["a"] * res[0] * res[1]).sum()),
    ),
)

FUNCTIONS = {
    "straight through": lambda x: (straight_through(x) ** 2).sum() * x[0],
    "another derivative": lambda x: (steep(x) * x[::-1]).sum(),
    "nested": lambda x: (steep(steep(x) * x[0]) * straight_through(x)).sum(),
    "all entries": lambda x: norm(x) ** 3 * jnp.sin(x[0]),
    "custom_gradient": lambda x: area(jnp.sin(x)) ** 2 * x[2],
    "two results": lambda x: (pair(jnp.sin(x), 3, x**2)["a"]).sum(),
    "in a scan": lambda x: lax.scan(lambda c, y: (steep(c) * y, None), x[0] * 0.3, x)[0],
    "in a cond": lambda x: lax.cond(x[0] > 0, steep, jnp.sin, x[1] * x[0]),
    "mapped": lambda x: (jax.vmap(norm)(jnp.stack([x, x * x[::-1]])) ** 2 * x[:2]).sum(),
    "jitted": lambda x: jax.jit(lambda y: (steep(y) ** 2).sum())(x * x[0]),
    "remat": lambda x: jax.checkpoint(lambda y: (steep(y) ** 2).sum())(x * x[0]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.filterwarnings("ignore:the custom_vjp function")
def test_nested_reverse_mode_is_what_counts(name):
    f = FUNCTIONS[name]
    operator = jf.derivatives({"g": jf.gradient, "h": jf.hessian, "l": jf.laplacian})
    found = jax.jit(operator(f))(jnp.asarray(POINT))
    close(found["g"], jax.jit(jax.grad(f))(POINT))
    hessian = jax.jit(jax.jacrev(jax.grad(f)))(POINT)
    close(found["h"], hessian)
    close(found["l"], jnp.trace(hessian))


@pytest.mark.filterwarnings("ignore:the custom_vjp function")
def test_fourth_order():
    f = FUNCTIONS["another derivative"]
    expected = jax.jit(lambda x: reverse_laplacian(lambda x: reverse_laplacian(f, x), x))(POINT)
    close(jax.jit(jf.biharmonic(f))(POINT), expected)
    close(jax.jit(jf.laplacian(jf.laplacian(f)))(POINT), expected)
    f = FUNCTIONS["all entries"]
    third = jax.jit(lambda x: jax.grad(lambda x: jax.grad(lambda x: jax.grad(f)(x)[0])(x)[0])(x)[2])
    a, _, c = jf.partials(3)
    close(jax.jit((a**2 * c)(f))(POINT), third(POINT))


@pytest.mark.filterwarnings("ignore:the custom_vjp function")
def test_gradients_to_parameters_and_maps():
    def u(w, x):
        return norm(w * x) ** 3 + (steep(w * x)).sum() ** 2

    w, points = jnp.array([1.3, 0.4, -0.8]), jnp.stack([POINT, 2 * POINT])

    def loss(laplacian, w):
        return (jax.vmap(lambda x: laplacian(lambda x: u(w, x), x))(points) ** 2).sum()

    ours = jax.jit(jax.grad(lambda w: loss(lambda f, x: jf.laplacian(f)(x), w)))(w)
    close(ours, jax.jit(jax.grad(lambda w: loss(reverse_laplacian, w)))(w))


def test_entrywise_ones_are_quick():
    """No general rule, so nothing for `strict()` to forbid."""
    with jf.strict():
        close(jf.laplacian(FUNCTIONS["another derivative"])(jnp.asarray(POINT)), jnp.sum(9 * POINT * POINT[::-1])
              + 2 * 4.5 * POINT[1] ** 2)  # fmt: skip
    with jf.strict(), pytest.raises(NotImplementedError, match="custom_vjp function norm"):
        jf.laplacian(norm)(jnp.asarray(POINT))
    with pytest.warns(jf.JetfoldWarning, match="the custom_vjp function norm"):
        jf.laplacian(norm)(jnp.asarray(POINT))


@pytest.mark.filterwarnings("ignore:the custom_vjp function")
def test_where_the_code_inside_has_no_finite_derivative():
    x = jnp.array(800.0)
    assert not jnp.isfinite(jnp.log1p(jnp.exp(x)))
    close(jf.gradient(log1pexp)(x), jax.grad(log1pexp)(x))
    y = jnp.array(-0.3)
    close(jf.laplacian(log1pexp)(y), jax.nn.sigmoid(y) * (1 - jax.nn.sigmoid(y)))
    close(jf.gradient(norm)(jnp.zeros(3)), jnp.zeros(3))
    close(jf.laplacian(lambda x: norm(x) * x[0])(jnp.zeros(3)), 0.0)


@jax.custom_vjp
def fixed_point(a):
    """y = a cos y."""

    def on(state):
        return jnp.abs(state[0] - state[1]) > 1e-13

    return lax.while_loop(on, lambda s: (a * jnp.cos(s[0]), s[0]), (a * 0 + 1.0, a * 0))[0]


def _fixed_point_bwd(res, ct):
    """Of the implicit function, again by iteration."""
    a, y = res
    step = lambda s: (ct - a * jnp.sin(y) * s[0], s[0])
    w = lax.while_loop(lambda s: jnp.abs(s[0] - s[1]) > 1e-13, step, (ct, ct * 0 + 5.0))[0]
    return (w * jnp.cos(y),)


fixed_point.defvjp(lambda a: ((y := fixed_point(a)), (a, y)), _fixed_point_bwd)


def test_loops_in_a_reverse_rule():
    """Gradients by the rule, row by row; JAX cannot differentiate it again, and that is said."""
    f = lambda x: fixed_point(0.3 * x[0] * x[1])
    x = jnp.asarray(POINT[:2])
    with pytest.warns(jf.JetfoldWarning, match="the custom_vjp function fixed_point has no rule"):
        close(jf.gradient(f)(x), jax.grad(f)(x))
    with pytest.warns(jf.JetfoldWarning, match="differentiates the code inside instead"):
        found = jf.laplacian(f)(x)
    a, y = 0.3 * x[0] * x[1], f(x)
    first = jnp.cos(y) / (1 + a * jnp.sin(y))
    # y'' of y = a cos y by a.
    second = -(2 * jnp.sin(y) * first + a * jnp.cos(y) * first**2) / (1 + a * jnp.sin(y))
    close(found, 0.09 * (x**2).sum() * second, 1e-8)
    scaled = lambda c: jf.laplacian(lambda x: fixed_point(c * x[0] * x[1]))(x)
    with (
        pytest.warns(jf.JetfoldWarning, match="fixed_point"),
        pytest.raises(NotImplementedError, match=r"cannot run backwards.*DirectAdjoint"),
    ):
        jax.grad(scaled)(0.3)
    with (
        jf.strict(),
        pytest.raises(NotImplementedError, match="custom_vjp function fixed_point"),
    ):
        jf.laplacian(f)(x)


# ------------------------------------------------------------------ functions without derivatives inside


def kernel(x_ref, y_ref):
    y_ref[...] = jnp.sin(x_ref[...]) * x_ref[...]


def by_pallas(x):
    return pallas.pallas_call(kernel, jax.ShapeDtypeStruct(x.shape, x.dtype), interpret=True)(x)


def by_callback(x):
    return jax.pure_callback(lambda v: np.sin(v) * v, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


def slope(x):
    return jnp.cos(x) * x + jnp.sin(x)


def truth(x):
    return (jnp.sin(x**2) * x**3).sum()


@pytest.mark.parametrize("code", [by_pallas, by_callback])
@pytest.mark.filterwarnings("ignore::jetfold.JetfoldWarning")
def test_kernels_and_callbacks_with_a_forward_rule(code):
    f, x = jax.custom_jvp(code), jnp.asarray(POINT)
    f.defjvp(lambda p, t: (f(*p), t[0] * slope(*p)))
    found = jf.gradient(lambda x: (f(x * x) * x).sum())(x)
    close(found, jax.grad(truth)(x), 1e-5)
    with pytest.raises(NotImplementedError, match=r"neither jetfold nor JAX .*jax\.custom_jvp"):
        jf.laplacian(lambda x: code(x).sum())(x)


@pytest.mark.filterwarnings("ignore::jetfold.JetfoldWarning")
def test_callbacks_with_a_reverse_rule():
    f, short = jax.custom_vjp(by_callback), jax.custom_vjp(by_callback)
    f.defvjp(lambda x: (f(x), x), lambda x, ct: (ct * slope(x),))
    short.defvjp(lambda x: (by_callback(x), x), lambda x, ct: (ct * slope(x),))
    x = jnp.asarray(POINT)
    found = jf.laplacian(lambda x: (f(x * x) * x).sum())(x)
    close(found, jnp.trace(jax.hessian(truth)(x)), 1e-5)
    close(jf.gradient(lambda x: (short(x * x) * x).sum())(x), jax.grad(truth)(x), 1e-5)
    with pytest.raises(NotImplementedError, match="let the forward half call the function itself"):
        jf.laplacian(lambda x: (short(x * x) * x).sum())(x)


# ------------------------------------------------------------------ rules with another value


def test_the_value_of_a_rule():
    """JAX goes on with what the rule returns, not with the function."""

    def g(x):
        return jnp.floor(3 * x)

    forward, whole, reverse = (
        jax.custom_jvp(g),
        jax.custom_jvp(lambda x: x.sum() * x),
        jax.custom_vjp(g),
    )
    for f in (forward, whole):
        f.defjvp(lambda p, t: (2 * jnp.sin(p[0]), 2 * jnp.cos(p[0]) * t[0]))
    reverse.defvjp(lambda x: (2 * jnp.sin(x), x), lambda x, ct: (2 * ct * jnp.cos(x),))
    x = jnp.asarray(POINT)
    for f in (forward, whole, reverse):
        outer = lambda x, f=f: jnp.exp(f(x) * x[0]).sum()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if f is whole else "error")
            found = jf.laplacian(outer)(x)
        close(found, jf.laplacian(lambda x: jnp.exp(2 * jnp.sin(x) * x[0]).sum())(x), 1e-5)
        derivative = jax.jacrev if f is reverse else jax.jacfwd
        close(found, jnp.trace(derivative(derivative(outer))(x)), 1e-5)


# ------------------------------------------------------------------ mutable arrays


def test_mutable_arrays():
    def f(x):
        total = jax.new_ref(jnp.zeros(3))
        total[...] = x * 2

        def step(i, carry):
            total[i] += jnp.sin(x[i])
            return carry

        lax.fori_loop(0, 3, step, 0)
        return total[...] * jax.jit(inner)(x) + total[0]

    def inner(x):
        row = jax.new_ref(x)
        row[1] = x[0] ** 2
        return jax.freeze(row)

    def plain(x):
        total = x * 2 + jnp.sin(x)
        return total * x.at[1].set(x[0] ** 2) + total[0]

    x = jnp.asarray(POINT)
    expected = jf.laplacian(plain)(x)
    with jf.strict():
        close(jf.laplacian(f)(x), expected, 1e-5)
        close(jax.jit(jf.laplacian(f))(x), expected, 1e-5)
