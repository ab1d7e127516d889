"""Rules of one's own in JAX: the function itself on arrays, the rule on jets."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp
from jax import lax

import jetfold as jf
from jetfold.core import jet as jets
from jetfold.jax import arrays as XP

N = 3
POINT = np.array([0.3, -0.7, 1.1])


def laplacian(f, x):
    """Forward over forward, as one compiled program."""

    def trace(x):
        def along(v):
            return jax.jvp(lambda x: jax.jvp(f, (x,), (v,))[1], (x,), (v,))[1]

        return jax.tree.map(lambda h: h.sum(0), jax.vmap(along)(jnp.eye(len(x), dtype=x.dtype)))

    return jax.jit(trace)(x)


def biharmonic(f, x):
    return laplacian(lambda x: laplacian(f, x), x)


def close(found, expected, tolerance=1e-9):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert jnp.shape(one) == jnp.shape(other)
        scale = max(1.0, float(np.abs(other).max()))
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * scale)


# ------------------------------------------------------------------ two rules, that count


class Counted:
    """A rule that knows how often it was asked."""

    def __init__(self, rule):
        self.rule, self.times = rule, 0

    def __call__(self, *args, **kwargs):
        self.times += 1
        return self.rule(*args, **kwargs)


def sine_tower(u, y, order, xp):
    circle = [xp.cos(u), -y, -xp.cos(u), y]
    return [circle[k % 4] / math.factorial(k + 1) for k in range(order)]


def energy(x, w, power=2):
    """Σ w x^power, and x."""
    return {"energy": (w * x**power).sum(-1), "x": x}


def energy_of_jets(x, w, power=2):
    def multiplied(u, v):
        ndim = max(u.primal.ndim, v.primal.ndim)
        of_both = [(z.primal, *z.blocks) for z in (u, v)]
        out = jets.product(u.algebra, *of_both, jets.Elementwise(XP, ndim), XP)
        return u.like(out[0], out[1:])

    if not isinstance(x, jets.Jet):
        x = w.like(x, [None] * w.algebra.order)
    total = x
    for _ in range(power - 1):
        total = multiplied(total, x)
    w = w if isinstance(w, jets.Jet) else x.like(w, [None] * x.algebra.order)
    total = multiplied(w, total)
    shape = total.primal.shape
    blocks = [
        None if b is None else jnp.broadcast_to(b, (len(b), *shape)).sum(-1) for b in total.blocks
    ]
    return {"energy": total.like(total.primal.sum(-1), blocks), "x": x}


@pytest.fixture
def sine():
    tower = Counted(sine_tower)
    function = jf.register_rule(jnp.sin, tower=tower)
    function.rule = tower
    return function


@pytest.fixture
def total():
    rule = Counted(energy_of_jets)
    function = jf.register_rule(energy, jet=rule)
    function.rule = rule
    return function


W = np.array([1.0, 2.0, -1.0])
MATRIX = np.linspace(-1, 1, 9).reshape(3, 3)

TOWERS = {
    "alone": lambda s, x: s(x),
    "composed": lambda s, x: (s(x * x[0]) * jnp.exp(s(x[::-1]))).sum(),
    "jit": lambda s, x: jax.jit(s)(x**2),
    "vmap": lambda s, x: jax.vmap(lambda a: s(a * x), out_axes=1)(MATRIX @ x),
    "vmap of vmap": lambda s, x: jax.vmap(jax.vmap(s, 1), 0)(jnp.outer(x, x) * W[:2, None, None]),
    "scan": lambda s, x: lax.scan(lambda c, m: (s(c * m) + x, s(c[0])), x, MATRIX),
    "cond": lambda s, x: lax.cond(x[0] > 0, s, lambda x: x, x),
    "checkpoint": lambda s, x: jax.checkpoint(s)(x * x[1]),
}

TOTALS = {
    "point": lambda f, x: f(x, W),
    "weights": lambda f, x: f(W, x),
    "both, by name": lambda f, x: f(jnp.sin(x), w=x * x[0], power=3),
    "jit": lambda f, x: jax.jit(lambda x: f(x, W))(x**2),
    "vmap of both": lambda f, x: jax.vmap(f, (0, 1))(MATRIX * x, jnp.outer(x, W)),
    "vmap of one": lambda f, x: jax.vmap(f, (None, 0))(x, MATRIX),
    "vmap of vmap": lambda f, x: jax.vmap(jax.vmap(f, (0, None)), (None, 1))(MATRIX * x, MATRIX),
    "scan": lambda f, x: lax.scan(lambda c, m: (c * f(c * x, m)["energy"], f(x, m)), x, MATRIX),
}


@pytest.mark.parametrize("name", TOWERS)
def test_towers(name, sine):
    f, plain = (functools.partial(TOWERS[name], s) for s in (sine, jnp.sin))
    with jf.strict():
        close(jax.jit(jf.biharmonic(f))(POINT), biharmonic(plain, POINT), 1e-8)
        close(jax.jit(jf.laplacian(f))(POINT), laplacian(plain, POINT))
    assert sine.rule.times


@pytest.mark.parametrize("name", TOTALS)
def test_rules_for_jets(name, total):
    f, plain = (functools.partial(TOTALS[name], s) for s in (total, energy))
    with jf.strict():
        close(jax.jit(jf.biharmonic(f))(POINT), biharmonic(plain, POINT), 1e-8)
        close(jax.jit(jf.laplacian(f))(POINT), laplacian(plain, POINT))
    assert total.rule.times


def test_the_rule_counts(sine):
    """Not the derivative of what is inside."""
    cosine = jf.register_rule(jnp.sin, tower=lambda u, y, order, xp: [2.0] + [None] * (order - 1))
    x = jf.partials(N)
    close(x[0](cosine)(POINT), np.array([2.0, 0, 0]))
    close(jax.jit(jf.laplacian(lambda x: cosine(x) ** 2))(POINT), np.full(N, 8.0))


# ------------------------------------------------------------------ on arrays it is the function


def test_on_arrays(sine, total):
    x = jnp.asarray(POINT)
    close(sine(x), jnp.sin(x))
    assert isinstance(sine(0.5), jax.Array)
    close(total(x, w=W, power=3), energy(x, W, 3))
    close(jax.jit(total, static_argnames="power")(x, W, power=4), energy(x, W, 4))
    close(jax.grad(lambda x: total(x, W)["energy"])(x), 2 * W * x)
    close(jax.hessian(lambda x: sine(x).sum())(x), jnp.diag(-jnp.sin(x)))
    close(jax.jit(jax.vmap(jax.grad(lambda x: sine(x) ** 2)))(x), jnp.sin(2 * x))
    close(jax.vmap(total, (0, None))(MATRIX, W), jax.vmap(energy, (0, None))(MATRIX, W))
    close(jax.jit(lambda x: lax.map(sine, x))(x), jnp.sin(x))
    close(jax.jacfwd(jax.jacrev(jax.jit(sine)))(x), jax.jacfwd(jax.jacrev(jnp.sin))(x))
    assert not sine.rule.times + total.rule.times
    assert sine.__name__ == "sin"
    assert sine.__wrapped__ is jnp.sin
    assert total.__doc__ == energy.__doc__


def test_a_function_that_asks_for_values():
    @jf.register_rule(jet=lambda x: x)
    def f(x):
        return 2 * x if x > 0 else x

    close(jax.grad(f)(1.0), jnp.asarray(2.0))
    with pytest.raises(jax.errors.TracerBoolConversionError):
        jax.jit(f)(1.0)


def test_integers_pass_through():
    @jf.register_rule(jet=lambda x, n: (x, n))
    def f(x, n):
        return x, n

    x, n = jnp.asarray(POINT), jnp.arange(3)
    close(jax.jit(f)(x, n), (x, n))
    close(jax.jacfwd(lambda x: f(x, n)[0] * f(x, n)[1])(x), jnp.diag(n * 1.0))
    close(jf.laplacian(lambda x: f(x**2, n)[0])(x), jnp.full(3, 2.0))


def test_gradient_inside_and_outside(sine):
    """Differentiated otherwise, the function has its own derivatives."""
    f, plain = (lambda x, s=s: s(x * x[0]).sum() for s in (sine, jnp.sin))
    points = np.stack([POINT, 2 * POINT])

    @jax.jit
    def ours(x, points):
        return (
            jf.laplacian(jax.grad(f))(x),
            jax.grad(jf.laplacian(f))(x),
            jax.vmap(jf.laplacian(f))(points),
        )

    @jax.jit
    def theirs(x, points):
        return (
            laplacian(jax.grad(plain), x),
            jax.grad(lambda x: laplacian(plain, x))(x),
            jnp.stack([laplacian(plain, p) for p in points]),
        )

    close(ours(POINT, points), theirs(POINT, points))
    close(jax.jit(jf.laplacian(jf.laplacian(f)))(POINT), biharmonic(plain, POINT), 1e-8)


def test_no_tracer_is_kept(sine, total):
    with jax.checking_leaks():
        jax.jit(jf.laplacian(lambda x: sine(x).sum() * total(x, W)["energy"]))(POINT)


def test_a_point_read_from_outside(sine):
    """The rule knows the arguments alone, so such a call is taken apart."""

    def f(x):
        inner = jf.register_rule(lambda y: y.sum() * x, jet=lambda y: y)
        return inner(x) * jax.vmap(lambda a: inner(x * a))(x).sum()

    close(
        jax.jit(jf.laplacian(f))(POINT),
        laplacian(lambda x: x.sum() * x * (x.sum() * x * x.sum()).sum(), POINT),
    )


# ------------------------------------------------------------------ errors


def test_neither_or_both():
    with pytest.raises(TypeError, match=r"either tower= .* or jet= .*, got neither"):
        jf.register_rule(jnp.sin)
    with pytest.raises(TypeError, match="got both"):
        jf.register_rule(tower=sine_tower, jet=energy_of_jets)
    with pytest.raises(TypeError, match="tower must be callable, got list"):
        jf.register_rule(jnp.sin, tower=[1.0])


def test_as_a_decorator():
    @jf.register_rule(tower=sine_tower)
    def sine(x: Any) -> Any:
        return jnp.sin(x)

    close(jf.laplacian(sine)(POINT), laplacian(jnp.sin, POINT))


ERRORS = {
    "length": (
        jf.register_rule(jnp.sin, tower=lambda u, y, order, xp: [y]),
        ValueError,
        r"the tower of sin must be a list of 2 entries, .* got 1 entries; the order is the third",
    ),
    "no list": (
        jf.register_rule(jnp.sin, tower=lambda u, y, order, xp: None),
        ValueError,
        "the tower of sin must be a list of 2 entries, .* got NoneType",
    ),
    "shape": (
        jf.register_rule(jnp.sum, tower=sine_tower),
        ValueError,
        r"sum was registered with a tower, .* it makes shape \(\) of \(3,\); register it with jet=",
    ),
    "arguments": (
        functools.partial(jf.register_rule(jnp.multiply, tower=sine_tower), 2.0),
        TypeError,
        "multiply was registered with a tower, so it takes one array, got 2 arguments",
    ),
    "value": (
        jf.register_rule(jnp.sum, jet=lambda x: x),
        ValueError,
        r"the rule of sum returned a value of shape \(3,\), where the function has \(\)",
    ),
    "blocks": (
        jf.register_rule(jnp.sin, jet=lambda x: x.like(x.primal, x.blocks[:1])),
        ValueError,
        "the rule of sin returned 1 blocks; one for each degree is needed, 2 here",
    ),
    "structure": (
        jf.register_rule(jnp.sin, jet=lambda x: (x, x)),
        ValueError,
        "the rule of sin returned the structure .* where the function returns",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors(name):
    f, error, text = ERRORS[name]
    with pytest.raises(error, match=text):
        jf.laplacian(lambda x: f(x).sum())(jnp.asarray(POINT))
