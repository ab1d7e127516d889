"""Rules are values; each primitive is declared once; what has no rule of its own says so."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp
import jax.scipy as jsp
from jax import lax

import jetfold as jf
from jetfold.core import towers
from jetfold.jax import rules
from jetfold.jax.interpreter import Rule, rule_of
from jetfold.jax.table import TABLE

POINT = np.array([0.5, 1.2, 0.3])


def laplacian(f, x):
    """Forward over forward, as one compiled program."""

    def trace(x):
        def along(v):
            return jax.jvp(lambda x: jax.jvp(f, (x,), (v,))[1], (x,), (v,))[1]

        return jax.tree.map(lambda h: h.sum(0), jax.vmap(along)(jnp.eye(len(x), dtype=x.dtype)))

    return jax.jit(trace)(jnp.asarray(x))


# ------------------------------------------------------------------ values


def test_rules_are_values():
    assert rules.Linear(0, 2) == rules.Linear(0, 2) != rules.Linear(0)
    assert rules.Elementwise(towers.exp) == TABLE["exp"] != TABLE["sin"]
    assert hash(rules.Linear(0)) == hash(TABLE["tile"])
    assert all(isinstance(rule, Rule) and hash(rule) for rule in TABLE.values())
    with pytest.raises(dataclasses.FrozenInstanceError):
        TABLE["exp"].tower = towers.sin


def test_what_is_declared_beside_the_kind():
    axes = lambda equation, operands: ()
    rule = rules.Linear(0, axes=axes, entrywise=True)
    assert rule.axes is axes
    assert rule.entrywise
    assert rule.places == (0,)
    assert TABLE["tile"].axes is None
    assert not TABLE["tile"].entrywise
    assert dataclasses.replace(TABLE["exp"], axes=axes).axes is axes


def test_entrywise_primitives():
    """Every one of them, alone, has a diagonal derivative or none."""
    elementwise = {name for name, rule in TABLE.items() if rule.entrywise}
    assert {"exp", "add", "select_n", "max", "clamp", "ne"} <= elementwise
    assert not {"sort", "cumsum", "dot_general", "reduce_max", "scan"} & elementwise
    x = jnp.asarray(POINT)
    forms = [jnp.sin, jnp.abs, lambda x: x**3, lambda x: x / (x + 1), lambda x: jnp.maximum(x, 1.0)]
    for f in forms:
        assert {e.primitive.name for e in jax.make_jaxpr(f)(x).jaxpr.eqns} <= elementwise | {"jit"}
        jacobian = jax.jacfwd(f)(x)
        np.testing.assert_array_equal(jacobian, jnp.diag(jnp.diag(jacobian)))


def test_a_primitive_of_jax_has_a_rule_by_its_name():
    (equation,) = jax.make_jaxpr(jnp.exp)(jnp.asarray(POINT)).jaxpr.eqns
    assert rule_of(equation) is TABLE["exp"]


# ------------------------------------------------------------------ the general rule says so


def test_the_general_rule_is_reported():
    def newton(f, y):
        return lax.fori_loop(0, 30, lambda _, y: y - f(y) / (3 * y**2), y)

    def f(x):
        solve = lambda g, y: y / g(jnp.ones_like(y))
        return lax.custom_root(lambda y: y**3 - x, x, newton, solve)

    text = "[cC]ustom_?[rR]oot has no rule of its own"  # as versions of JAX call it
    with pytest.warns(jf.JetfoldWarning, match=text):
        found = jax.jit(jf.laplacian(f))(POINT)
    np.testing.assert_allclose(found, -2 / 9 * POINT ** (-5 / 3), atol=1e-9)
    with jf.strict(), pytest.raises(NotImplementedError, match=text):
        jf.laplacian(f)(POINT)


REFUSED = {
    "apply": (lambda x: x.at[1].apply(jnp.sin), r"write x\.at\[index\]\.set\(function\(x\[index\]"),
    "full svd": (lambda x: jnp.linalg.svd(jnp.stack([x, x**2]))[2], "full_matrices=False"),
    "eigenvectors": (
        lambda x: jnp.linalg.eig(jnp.outer(x, x**2) + jnp.diag(x))[1].real,
        "enable_eigvec_derivs=True",
    ),
    "scatter_mul": (
        lambda x: x.at[jnp.array([0, 0])].multiply(x[:2]),
        "unique_indices=True",
    ),
    "schur": (lambda x: jsp.linalg.schur(jnp.outer(x, x))[0], r"schur .*jax\.custom_jvp"),
    "betainc": (lambda x: jsp.special.betainc(x, 1.0, 0.5), "neither jetfold nor JAX"),
}


if jax.__version_info__ < (0, 12):  # then it is the identity
    step = lambda x: jnp.nextafter(x, 2.0)
    REFUSED["nextafter"] = (step, r"nextafter .* jax\.lax\.stop_gradient")


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore::jetfold.JetfoldWarning")
def test_what_has_no_derivative(name):
    f, text = REFUSED[name]
    with pytest.raises(NotImplementedError, match=text):
        jf.laplacian(f)(POINT)


def test_what_to_write_instead():
    f = lambda x: x.at[1].set(jnp.sin(x[1])) * jnp.nextafter(lax.stop_gradient(x), 2.0)
    exact = lambda x: x.at[1].set(jnp.sin(x[1])) * lax.stop_gradient(x)
    found = jax.jit(jf.laplacian(f))(POINT)
    np.testing.assert_allclose(found, laplacian(exact, POINT), atol=1e-12)


# ------------------------------------------------------------------ numbers beside arrays

NUMBERS = {
    "power": lambda n: jnp.exp(-(n ** jnp.arange(1, 4))),
    "power of powers": lambda n: lax.pow(n, jnp.array([[1.0, 2.0], [0.5, -1.0]])),
    "exponent": lambda n: jnp.arange(1.0, 4.0) ** n,
    "both": lambda n: (n * jnp.arange(1.0, 3.0)[:, None]) ** n,
    "igamma": lambda n: jsp.special.gammainc(jnp.arange(1.0, 4.0), n),
    "igammac": lambda n: jsp.special.gammaincc(jnp.arange(1.0, 4.0), n),
    "polygamma": lambda n: jsp.special.polygamma(jnp.arange(1, 4), n),
    "divided": lambda n: jnp.arange(1.0, 4.0) / n + n / jnp.arange(1.0, 4.0),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_beside_arrays(name):
    f = lambda x: NUMBERS[name](jnp.linalg.norm(x))
    with jf.strict():
        once, twice = jax.jit(lambda x: (jf.laplacian(f)(x), jf.biharmonic(f)(x)))(POINT)
    np.testing.assert_allclose(once, laplacian(f, POINT), atol=1e-9)
    expected = laplacian(lambda x: laplacian(f, x), POINT)
    np.testing.assert_allclose(twice, expected, atol=1e-8)


def test_a_power_in_numbers():
    f = lambda x: jnp.exp(-(jnp.linalg.norm(x) ** jnp.arange(1, 4)))
    np.testing.assert_allclose(jf.laplacian(f)(POINT), [-0.131, 0.189, 1.163], atol=1e-3)


# ------------------------------------------------------------------ functions with rules of their own


def named(name, value, truth):
    """A custom_jvp function of a user, whose name means nothing."""

    def pretended(*x):
        return value(*x)

    pretended.__name__ = pretended.__qualname__ = name
    pretended = jax.custom_jvp(pretended)
    rule = lambda primals, tangents: (pretended(*primals), jax.jvp(truth, primals, tangents)[1])
    rule.__name__ = f"{name}_jvp"
    pretended.defjvp(rule)
    return pretended


@pytest.mark.parametrize("name", ["_softmax", "_det", "_slogdet_lu", "sum_by_halves", "expi"])
def test_a_user_is_never_taken_for_jax(name):
    truth = lambda x: jnp.sin(x) * x.sum()
    f = named(name, lambda x: jnp.sum(x) * x, truth)
    with pytest.warns(jf.JetfoldWarning, match=f"the custom_jvp function {name} has no rule"):
        found = jax.jit(jf.laplacian(f))(POINT)
    np.testing.assert_allclose(found, laplacian(truth, POINT), atol=1e-12)


@pytest.mark.parametrize("around", [lambda f: f, jax.jit, jax.checkpoint], ids=["", "jit", "remat"])
def test_functions_of_jax_are_known_in_every_form(around):
    """Under transforms too, where JAX wraps their rules again."""

    def f(x):
        matrices = jnp.stack([jnp.outer(x, x) + jnp.eye(3), jnp.diag(x)])
        det = jax.vmap(jnp.linalg.det)(matrices) + jax.vmap(jnp.linalg.slogdet)(matrices)[1]
        special = jsp.special.expi(x) + jsp.special.xlogy(x, x) + jnp.logaddexp(x, x[::-1])
        return det.sum() * special * jax.vmap(jax.nn.softmax)(matrices)[0, 0]

    with jf.strict():
        found = jax.jit(jf.laplacian(around(f)))(POINT)
    np.testing.assert_allclose(found, laplacian(f, POINT), rtol=1e-8, atol=1e-9)


def quantized(x, s):
    """x in steps of s, as LSQ (Esser et al., 2020) trains them: the rule is no gradient."""
    return jnp.round(x / s) * s


def quantized_jvp(primals, tangents):
    (x, s), (dx, ds) = primals, tangents
    return quantized(x, s), dx + (jnp.round(x / s) - x / s) * ds


def test_what_does_not_commute():
    """∂_x∂_s of a rule need not be ∂_s∂_x: what nested differentiation makes of both counts."""
    forward, reverse = jax.custom_jvp(quantized), jax.custom_vjp(quantized)
    forward.defjvp(quantized_jvp)
    of_step = lambda res, ct: (ct, (jnp.round(res[0] / res[1]) - res[0] / res[1]) * ct)
    reverse.defvjp(lambda x, s: (reverse(x, s), (x, s)), of_step)
    f = lambda q, x: q(jnp.sin(x), 0.1 + x**2)
    expected = laplacian(lambda x: f(forward, x), POINT)
    for q in (forward, reverse):
        with jf.strict():
            found = jax.jit(jf.laplacian(lambda x, q=q: f(q, x)))(POINT)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_several_results_entry_by_entry():
    """As those of jnp.hypot in JAX 0.12, one of them of integers."""

    @jax.custom_jvp
    def both(x, y):
        return jnp.sin(x) * y, jnp.floor(y).astype(int), jnp.exp(y)

    @both.defjvp
    def rule(primals, tangents):
        (x, y), (dx, dy) = primals, tangents
        none = np.zeros(x.shape, jax.dtypes.float0)
        return both(x, y), (2 * jnp.cos(x) * y * dx + jnp.sin(x) * dy, none, jnp.exp(y) * dy)

    def f(x):
        a, b, c = both(x, x**2)
        return a * b * c + jnp.hypot(x, jnp.sin(x))

    with jf.strict():
        found = jax.jit(jf.laplacian(f))(POINT)
    np.testing.assert_allclose(found, laplacian(f, POINT), rtol=1e-12)


@pytest.mark.skipif(jax.__version_info__ < (0, 12), reason="overflows in JAX itself")
def test_short_hypotenuses():
    """Δ|x| = 1/|x| in the plane; whatever is scaled within must not overflow."""
    x = np.array([1e-30, 2e-30], np.float32)
    found = jf.laplacian(lambda x: jnp.hypot(x[0], x[1]))(x)
    np.testing.assert_allclose(found, 1e30 / np.sqrt(5), rtol=1e-5)


# ------------------------------------------------------------------ matrices that are not symmetric


@pytest.mark.parametrize(
    ("name", "dtype"), [("cholesky", float), ("cholesky", complex), ("eigh", complex)]
)
def test_matrices_of_which_one_triangle_is_read(name, dtype):
    """symmetrize_input=False: what JAX takes for the derivative.

    It is that of the whole matrix; of Cholesky's factor since JAX 0.11 that of the lower half.
    """
    with jax.enable_x64(True):
        rng = np.random.default_rng(4)
        a, *along = rng.standard_normal((3, 3, 3)) * (1 if dtype is float else np.exp(0.3j))
        start = a @ a.conj().T + 3 * np.diag([1, 2, 3])
        factor = {
            "cholesky": lambda m: lax.linalg.cholesky(m, symmetrize_input=False),
            "eigh": lambda m: lax.linalg.eigh(m, symmetrize_input=False)[0],
        }[name]
        f = lambda p: factor(jnp.asarray(start) + p[0] * along[0] + p[1] * along[1])
        x, y = jf.partials(2)
        p = jnp.array([0.1, -0.2])

        def nested(v, order):
            g = f
            for _ in range(order):
                g = lambda p, g=g: jax.jvp(g, (p,), (v,))[1]
            return jax.jit(g)(p)

        e = jnp.eye(2)
        third = 2 if name == "eigh" else 3  # the phase of complex vectors is free
        operators = [x - 2 * y, x**2 + 3 * y**2, x**3 - y**3][:third]
        weights = [(1, -2), (1, 3), (1, -1)]
        found = jax.jit(jf.derivatives(tuple(operators))(f))(p)
        for k, (ours, (c, d)) in enumerate(zip(found, weights, strict=False), 1):
            exact = c * nested(e[0], k) + d * nested(e[1], k)
            np.testing.assert_allclose(ours, exact, rtol=1e-9, atol=1e-9)


def test_what_jax_symmetrizes_is_known():
    """Then fewer products are needed."""

    def products(factor):
        f = lambda x: factor(jnp.outer(x, x) + jnp.eye(3))
        return str(jax.make_jaxpr(jf.laplacian(f))(POINT)).count("dot_general")

    known = products(jnp.linalg.cholesky)
    assert products(lambda m: jax.vmap(jnp.linalg.cholesky)(m[None])) <= known
    assert products(lambda m: jnp.linalg.cholesky(m * (1 + 0j))) <= known
    if jax.__version_info__ < (0, 11):  # then half of the matrix is all that counts
        assert products(lambda m: lax.linalg.cholesky(m, symmetrize_input=False)) > known


@pytest.mark.skipif(jax.__version_info__ < (0, 11), reason="all of the matrix counts")
def test_the_lower_half_counts():
    """What stands above the diagonal changes neither the value nor a derivative."""
    lower = lambda x: jnp.tril(jnp.outer(x, x**2)) + 2 * jnp.eye(3)
    factor = lambda m: lax.linalg.cholesky(m, symmetrize_input=False)
    found = jf.laplacian(lambda x: factor(lower(x) + jnp.triu(jnp.outer(jnp.sin(x), x), 1)))(POINT)
    whole = lambda x: jnp.linalg.cholesky(lower(x) + jnp.tril(lower(x), -1).T)
    np.testing.assert_allclose(found, jf.laplacian(whole)(POINT), rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------ what has a rule of its own

OWN = {
    "svd": lambda x: jnp.linalg.svd(jnp.outer(x, x) + jnp.diag(x), full_matrices=False)[0] ** 2,
    "scatter_mul": lambda x: jnp.ones(4).at[1].multiply(x[0]) * x[1],
    "reduce": lambda x: lax.reduce(x, 1.0, lambda a, b: a * b + 0 * a, (0,)),
    "logaddexp": lambda x: jnp.logaddexp(x[:, None], x[0]),
    "slogdet by qr": lambda x: jnp.linalg.slogdet(jnp.outer(x, x) + jnp.diag(x), method="qr")[1],
}


@pytest.mark.parametrize("name", OWN)
def test_what_went_the_general_way(name):
    f = OWN[name]
    with jf.strict():
        found = jax.jit(jf.laplacian(f))(POINT)
    np.testing.assert_allclose(found, laplacian(f, POINT), rtol=1e-4, atol=1e-4)
