"""Sums of rows as additions: one primitive, to JAX, to jets and to the pass."""

from __future__ import annotations

import functools

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp

import jetfold as jf
from jetfold.core.axes import Summed
from jetfold.jax.halves import sum_of_rows, sum_of_rows_p
from jetfold.jax.interpreter import rule_of
from jetfold.jax.table import OWN

LENGTHS = [2, 3, 8, 9, 17, 64, 101]


def names(function, *arrays):
    """The primitives of a function, also those inside of others."""

    def of(jaxpr):
        for equation in jaxpr.eqns:
            yield equation.primitive.name
            for x in jax.tree.leaves(list(equation.params.values())):
                if hasattr(x, "jaxpr"):
                    yield from of(x.jaxpr)

    return list(of(jax.make_jaxpr(function)(*arrays).jaxpr))


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_value(length, axis, rng):
    x = np.moveaxis(rng.normal(size=(length, 2, 3)), 0, axis)
    for f in (sum_of_rows, jax.jit(sum_of_rows, static_argnums=1)):
        np.testing.assert_allclose(f(jnp.asarray(x), axis), x.sum(axis), atol=1e-12)
    assert sum_of_rows(jnp.asarray(x, jnp.bfloat16), axis).dtype == jnp.bfloat16


@pytest.mark.parametrize("mapped", [0, 1, 2])
@pytest.mark.parametrize("axis", [0, 1])
def test_vmap(mapped, axis, rng):
    x = jnp.asarray(rng.normal(size=(4, 5, 6)))
    found = jax.vmap(functools.partial(sum_of_rows, axis=axis), mapped, 1)(x)
    expected = jax.vmap(lambda x: x.sum(axis), mapped, 1)(x)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_derivatives(rng):
    x, t = jnp.asarray(rng.normal(size=(17, 3))), jnp.asarray(rng.normal(size=(17, 3)))
    np.testing.assert_allclose(jax.jvp(sum_of_rows, (x,), (t,))[1], t.sum(0), atol=1e-12)
    gradient = jax.grad(lambda x: (sum_of_rows(x) ** 2).sum())
    np.testing.assert_allclose(gradient(x), jnp.broadcast_to(2 * x.sum(0), x.shape), atol=1e-12)
    np.testing.assert_allclose(jax.hessian(lambda x: sum_of_rows(x)[0] ** 2)(x)[3, 0, 5, 0], 2.0)
    (back,) = jax.linear_transpose(sum_of_rows, x)(jnp.arange(3.0))
    np.testing.assert_allclose(back, jnp.broadcast_to(jnp.arange(3.0), x.shape))


def test_its_gradient_is_one_broadcast(rng):
    x = jnp.asarray(rng.normal(size=(17, 3)))
    made = names(jax.grad(lambda x: (sum_of_rows(x) ** 2).sum()), x)
    assert made.count("sum_of_rows") == 1
    assert not {"pad", "slice", "add_any"} & set(made)


def test_jets(rng):
    w = jnp.asarray(rng.normal(size=(17, 3)))
    f = lambda x: sum_of_rows(jnp.sin(w * x)) ** 2
    expected = lambda x: (jnp.sin(w * x).sum(0)) ** 2
    with jf.strict():
        found = jf.laplacian(f)(jnp.ones(3))
    np.testing.assert_allclose(found, jf.laplacian(expected, method="nested")(jnp.ones(3)))


def test_it_is_known_by_identity():
    """Not by its name, which a function of a user may have too."""

    @jax.custom_jvp
    def sum_by_halves(x):
        return x.sum(0)

    @sum_by_halves.defjvp
    def sum_of_rows_jvp(primals, tangents):
        return sum_by_halves(*primals), 2 * tangents[0].sum(0)  # its rule counts

    x = jnp.ones((4, 3))
    (equation,) = jax.make_jaxpr(sum_by_halves)(x).jaxpr.eqns
    assert rule_of(equation) is not OWN[sum_of_rows_p]
    (equation,) = jax.make_jaxpr(lambda x: sum_of_rows(x, 1))(x).jaxpr.eqns
    assert equation.primitive is sum_of_rows_p
    assert rule_of(equation).axes(equation.params, [x], x) == Summed((1,))
    with pytest.warns(jf.JetfoldWarning, match="the custom_jvp function sum_by_halves"):
        found = jf.partials(3)[0](lambda p: sum_by_halves(x * p))(jnp.ones(3))
    np.testing.assert_allclose(found, jnp.array([8.0, 0, 0]))
