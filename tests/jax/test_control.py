"""Primitives that hold other functions, on jets: each against nested automatic differentiation."""

from __future__ import annotations

import functools
import time

import numpy as np
import pytest

pytest.importorskip("jax")

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from jax.extend.core import jaxpr_as_fun

import jetfold as jf

N = 3


def close(ours, expected, rtol=1e-9, atol=1e-10):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), ours, expected
    )


def true_laplacian(f, x):
    """The sum over the axes of forward over forward, of every output."""

    def along(v):
        return jax.jvp(lambda x: jax.jvp(f, (x,), (v,))[1], (x,), (v,))[1]

    return jax.tree.map(lambda h: h.sum(0), jax.vmap(along)(jnp.eye(len(x), dtype=x.dtype)))


def true_biharmonic(f, x):
    return true_laplacian(lambda x: true_laplacian(f, x), x)


def agrees(f, x=None, reference=None, biharmonic=False, **tolerance):
    """Both operators of f against forward over forward of `reference`."""
    x = np.array([0.3, -0.7, 1.1]) if x is None else x
    pairs = [(jf.laplacian, true_laplacian)] + [(jf.biharmonic, true_biharmonic)] * biharmonic
    for operator, truth in pairs:
        expected = jax.jit(lambda x, truth=truth: truth(reference or f, x))(x)
        close(jax.jit(operator(f))(x), expected, **tolerance)


def mix(x):
    """Something smooth of three coordinates, with mixed derivatives of every order."""
    return jnp.sin(x[0] * x[1]) * jnp.exp(0.3 * x[2]) + x[1] ** 3 * x[2] ** 2


# ------------------------------------------------------------------ calls


def test_jit_inside():
    inner = jax.jit(lambda x, y: (jnp.sin(x) * y, {"b": x.sum() * y}))
    agrees(lambda x: inner(x, 2 * x)[1]["b"] * inner(x, x)[0])


def test_jit_with_static_arguments_inside():
    @functools.partial(jax.jit, static_argnames=("power",))
    def inner(x, power):
        return jnp.sin(x) ** power

    agrees(lambda x: inner(x, power=3).sum() * inner(x, power=2).prod())


def test_jit_of_something_constant_inside():
    inner = jax.jit(lambda x: (x, jnp.arange(3.0)))
    agrees(lambda x: (inner(x)[0] ** 4 * inner(x)[1]).sum())


def test_constants_hoisted_into_the_jaxpr():
    table = np.linspace(0.1, 1.0, 12).reshape(N, 4)
    inner = jax.jit(lambda x: jnp.tanh(x @ table) @ jnp.asarray(table.T))
    agrees(lambda x: inner(inner(x)))


def test_remat():
    agrees(jax.checkpoint(mix))
    agrees(lambda x: mix(jax.checkpoint(jnp.sin)(x)) * jax.checkpoint(mix)(x), biharmonic=True)


@pytest.mark.parametrize(
    "policy",
    ["everything_saveable", "nothing_saveable", "dots_saveable", "save_only_these_names"],
)
def test_remat_with_a_policy(policy):
    chosen = getattr(jax.checkpoint_policies, policy)
    chosen = chosen("kept") if policy == "save_only_these_names" else chosen
    w = jnp.linspace(-1, 1, 9).reshape(N, N)

    @functools.partial(jax.checkpoint, policy=chosen)
    def f(x):
        return jnp.tanh(checkpoint_name(jnp.sin(w @ x), "kept") @ w).sum() ** 2

    agrees(f)
    x = jnp.array([0.3, -0.7, 1.1])
    expected = jax.jit(jax.grad(lambda x: true_laplacian(f, x)))(x)
    close(jax.jit(jax.grad(jf.laplacian(f)))(x), expected)


def test_remat_keeps_rematerialising():
    jaxpr = jax.make_jaxpr(jf.laplacian(jax.checkpoint(mix)))(jnp.ones(N))
    assert any(
        equation.primitive.name.startswith(("remat", "checkpoint")) for equation in jaxpr.eqns
    )


def test_remat_with_static_arguments():
    f = jax.checkpoint(lambda x, double: mix(2 * x) if double else mix(x), static_argnums=(1,))
    agrees(lambda x: f(x, True) + f(x, False))


def test_jaxprs_and_custom_vmap():
    closed = jax.make_jaxpr(mix)(jnp.ones(N))
    agrees(lambda x: jaxpr_as_fun(closed)(x)[0] ** 2)
    mapped = jax.custom_batching.custom_vmap(mix)
    mapped.def_vmap(lambda size, batched, x: (jax.vmap(mix)(x), True))
    agrees(mapped, reference=mix)


def test_names_barriers_and_platforms():
    agrees(lambda x: mix(checkpoint_name(jnp.sin(x), "hidden")))
    agrees(lambda x: mix(lax.optimization_barrier((jnp.sin(x), x))[0]))
    other = lambda x: x[0] * jnp.nan
    agrees(lambda x: lax.platform_dependent(x, cpu=mix, tpu=mix, default=mix))
    agrees(lambda x: lax.platform_dependent(x, cpu=mix, tpu=other, cuda=mix), reference=mix)
    agrees(
        lambda x: lax.platform_dependent(
            x, 2.0, tpu=lambda x, c: c * x[0], default=lambda x, c: c * mix(x)
        ),
        reference=lambda x: 2 * mix(x),
    )


# ------------------------------------------------------------------ custom_jvp, elementwise


def test_relu_at_zero():
    x = jnp.array([0.0, -0.5, 0.7])
    agrees(lambda x: jax.nn.relu(x) ** 2 * jnp.exp(x), x, biharmonic=True)
    close(jax.jit(jf.partials(3)[0](jax.nn.relu))(x), np.zeros(3))  # JAX's choice at 0


@pytest.mark.parametrize(
    "name",
    [
        "softplus",
        "silu",
        "gelu",
        "elu",
        "selu",
        "celu",
        "relu6",
        "log_sigmoid",
        "mish",
        "squareplus",
    ],
)
def test_activations(name):
    agrees(getattr(jax.nn, name), jnp.array([0.4, -0.7, 1.3]))


def test_logaddexp_at_ties():
    agrees(
        lambda x: jnp.logaddexp(x, x[::-1]), jnp.array([0.4, -0.7, 1.3]), biharmonic=True
    )  # a tie in the middle
    agrees(lambda x: jnp.logaddexp(x * x[0], jnp.sin(x)), jnp.array([0.0, 0.0, 0.0]))
    agrees(lambda x: jnp.logaddexp(x, 0.2) + jnp.logaddexp2(1.0, x))


def test_sinc_where_the_quotient_is_undefined():
    agrees(lambda x: jnp.sinc(x), jnp.array([0.0, 0.3, 1.2]), atol=1e-6, rtol=1e-6)


def test_special_functions_that_are_series():
    # expi'(x) = eˣ/x: what is differentiated is the rule, not the approximation of the value.
    x = jnp.array([0.4, 0.9, 2.3])
    expi = jax.scipy.special.expi
    y = np.asarray(x)
    ours = jax.jit(jf.laplacian(lambda x: expi(x).sum()))(x)
    close(ours, (np.exp(y) * (y - 1) / y**2).sum())
    agrees(lambda x: jax.scipy.special.xlogy(x, x[::-1]), x)
    agrees(lambda x: jax.scipy.special.expi(x * x[0]), x)


def pretend(value, truth):
    """A function with the value of one function and the derivatives of another."""

    @jax.custom_jvp
    def pretended(*x):
        return value(*x)

    @pretended.defjvp
    def _(primals, tangents):
        return pretended(*primals), jax.jvp(truth, primals, tangents)[1]

    return pretended


def test_elementwise_rule_counts_at_every_order():
    f = pretend(lambda x: 1.0 * x, jnp.sin)
    with jf.strict():
        agrees(f, reference=jnp.sin, biharmonic=True)
        agrees(lambda x: mix(f(x)), biharmonic=True)


def test_elementwise_rule_of_two_operands():
    f = pretend(lambda x, y: x * y, lambda x, y: jnp.sin(x) * y**2)
    with jf.strict():
        agrees(lambda x: f(x, jnp.cos(x)), biharmonic=True)
        agrees(lambda x: f(2.0, x) + f(x, jnp.arange(3.0)))


def test_elementwise_value_whose_rule_mixes():
    f = pretend(jnp.sin, lambda x: jnp.sin(x - x.mean()))
    with pytest.warns(jf.JetfoldWarning, match="the custom_jvp function pretended has no rule"):
        agrees(lambda x: mix(f(x)), biharmonic=True)


# ------------------------------------------------------------------ custom_jvp, others


def test_rule_of_a_user_counts_at_every_order_and_is_named():
    truth = lambda x: jnp.sin(x) * x.sum()
    f = pretend(lambda x: jnp.sum(x) * x, truth)
    with pytest.warns(jf.JetfoldWarning, match="the custom_jvp function pretended has no rule"):
        agrees(f, reference=truth, biharmonic=True)
        agrees(lambda x: mix(f(jnp.sin(x))))
    with (
        jf.strict(),
        pytest.raises(NotImplementedError, match="the custom_jvp function pretended has no rule"),
    ):
        jf.laplacian(f)(jnp.ones(N))


@pytest.mark.filterwarnings("ignore::jetfold.JetfoldWarning")
def test_nondiff_argnums():
    truth = lambda outer, x, power: outer(x).sum() * jnp.cos(x) ** power

    @functools.partial(jax.custom_jvp, nondiff_argnums=(0, 2))
    def f(outer, x, power):
        return outer(x).sum() * x**power

    @f.defjvp
    def _(outer, power, primals, tangents):
        tangent = jax.jvp(lambda x: truth(outer, x, power), primals, tangents)[1]
        return f(outer, *primals, power), tangent

    agrees(lambda x: f(lambda z: 3 * z, x, 2), reference=lambda x: truth(lambda z: 3 * z, x, 2))
    agrees(lambda x: mix(f(lambda z: 3 * z, x, 2)), biharmonic=True)


@pytest.mark.filterwarnings("ignore::jetfold.JetfoldWarning")
def test_custom_jvp_of_pytrees():
    @jax.custom_jvp
    def f(tree):
        return {"s": tree["a"].sum() * tree["b"], "n": jnp.argmax(tree["a"])}

    @f.defjvp
    def _(primals, tangents):
        truth = lambda tree: jnp.sin(tree["a"]).sum() * tree["b"]
        tangent = jax.jvp(truth, primals, tangents)[1]
        return f(*primals), {"s": tangent, "n": np.zeros((), jax.dtypes.float0)}

    reference = lambda x: jnp.sin(x).sum() * jnp.exp(x)
    agrees(lambda x: f({"a": x, "b": jnp.exp(x)})["s"], reference=reference)


def test_functions_of_jax_that_are_the_same_inside():
    factors = lambda x: (jnp.append(x, 1), jnp.sin(jnp.append(2.0, x)))
    matrix = lambda x: jnp.eye(4) * 2 + jnp.outer(*factors(x))
    by_the_lemma = lambda x: jnp.log(jnp.abs(16 + 8 * jnp.dot(*factors(x))))  # of determinants
    with jf.strict():
        agrees(lambda x: jnp.linalg.slogdet(matrix(x))[1], None, by_the_lemma, biharmonic=True)
        agrees(lambda x: jnp.linalg.det(matrix(x)))
        agrees(lambda x: jnp.linalg.slogdet(matrix(x)[:2, :2])[1])
        agrees(lambda x: jax.nn.softmax(x * x[0]))
        agrees(lambda x: jax.nn.log_softmax(x * x[0]) + jax.nn.logsumexp(x * x))


def test_determinants_take_one_inverse_and_no_factors_of_jets(rng):
    a = jnp.asarray(rng.normal(size=(2, 5, 5, 3)))
    b = jnp.asarray(rng.normal(size=(2, 5, 5)))
    phase_and_log = lambda x: tuple(jnp.linalg.slogdet(jnp.sin(a @ x) + 1j * x[0] * b))
    with jf.strict():
        agrees(lambda x: phase_and_log(x)[0])
        agrees(lambda x: phase_and_log(x)[1])
    log = jf.laplacian(lambda x: jnp.linalg.slogdet(jnp.sin(a @ x))[1])
    lines = str(jax.make_jaxpr(log)(jnp.ones(3))).splitlines()
    solves = [line for line in lines if "triangular_solve[" in line]
    assert solves
    assert all("[2,5,5]" in line for line in solves), solves  # as many columns as the matrices have


@pytest.mark.filterwarnings("ignore::jetfold.JetfoldWarning")
def test_custom_root():
    """The value is found by bisection, which has no derivative: only the rule knows one."""

    def cube_root(c):
        def bisect(f, _):
            def halve(_, ends):
                low, high = ends
                middle = (low + high) / 2
                right = f(middle) < 0
                return jnp.where(right, middle, low), jnp.where(right, high, middle)

            return lax.fori_loop(0, 60, halve, (0.0 * c, 4 + 0.0 * c))[0]

        return lax.custom_root(lambda z: z**3 - c, 1.0 + 0 * c, bisect, lambda g, y: y / g(1.0))

    agrees(
        lambda x: cube_root(3 + mix(x)),
        reference=lambda x: (3 + mix(x)) ** (1 / 3),
        rtol=1e-7,
    )


# ------------------------------------------------------------------ custom_vjp


@pytest.mark.filterwarnings("ignore:the custom_vjp function")
def test_gradient_of_operator_over_custom_vjp():
    @jax.custom_vjp
    def f(x):
        return jnp.sin(x) * x[0]

    f.defvjp(lambda x: jax.vjp(lambda x: jnp.sin(x) * x[0], x), lambda pull, g: pull(g))
    plain = lambda x: mix(jnp.sin(x) * x[0])
    x = jnp.array([0.3, -0.7, 1.1])
    ours = jax.jit(jax.grad(jf.laplacian(lambda x: mix(f(x)))))(x)
    close(ours, jax.jit(jax.grad(lambda x: true_laplacian(plain, x)))(x))


# ------------------------------------------------------------------ linear solves


def spd(x):
    return jnp.eye(N) * 3 + jnp.outer(jnp.sin(x), jnp.sin(x)) + jnp.diag(x**2)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: jnp.linalg.solve(spd(x), jnp.arange(1.0, 4.0)),
        lambda x: jnp.linalg.solve(spd(jnp.ones(N)), jnp.exp(x * x[1])),
        lambda x: jnp.linalg.solve(spd(x), jnp.exp(x * x[1])),
        lambda x: jnp.linalg.solve(spd(x), jnp.stack([x, x[::-1] ** 2], 1)),
        lambda x: jnp.linalg.inv(spd(x)),
        lambda x: jax.vmap(jnp.linalg.solve)(jnp.stack([spd(x), spd(2 * x)]), jnp.ones((2, N))),
    ],
    ids=["matrix", "right", "both", "columns", "inverse", "vmapped"],
)
def test_solve(f, request):
    agrees(f, biharmonic=request.node.callspec.id == "both")


def test_custom_linear_solve_by_a_user():
    def solve(a, b):
        factors = jax.scipy.linalg.cho_factor(lax.stop_gradient(a))
        inverse = lambda _, r: jax.scipy.linalg.cho_solve(factors, r)
        return lax.custom_linear_solve(lambda z: a @ z, b, inverse, symmetric=True)

    plain = lambda x: jnp.linalg.solve(spd(x), jnp.sin(x))
    agrees(lambda x: solve(spd(x), jnp.sin(x)), reference=plain, biharmonic=True)
    agrees(lambda x: solve(spd(x), jnp.ones(N)).sum() ** 2)


def test_custom_linear_solve_of_a_pytree():
    def f(x):
        d = {"a": 2 + x[0] ** 2, "b": 1 + x**2}
        matvec = lambda z: {"a": d["a"] * z["a"], "b": d["b"] * z["b"]}
        solve = lambda _, r: jax.tree.map(lambda r, d: r / lax.stop_gradient(d), r, d)
        out = lax.custom_linear_solve(matvec, {"a": 1.0, "b": x}, solve, symmetric=True)
        return out["a"] + out["b"] * out["a"]

    agrees(f)


@pytest.mark.parametrize("name", ["cg", "bicgstab"])
def test_iterative_solvers(name):
    solver = functools.partial(getattr(jax.scipy.sparse.linalg, name), tol=1e-13)
    f = lambda x: solver(lambda v: spd(x) @ v, jnp.exp(x))[0]
    agrees(f, reference=lambda x: jnp.linalg.solve(spd(x), jnp.exp(x)), rtol=1e-8)


# ------------------------------------------------------------------ scan

XS = np.linspace(-0.9, 0.8, 12).reshape(4, N)

SCANS = {
    "consts": lambda x: lax.scan(lambda c, s: (jnp.sin(c * s) + x, c.sum()), jnp.ones(N), XS),
    "init": lambda x: lax.scan(lambda c, s: (jnp.sin(c * s) + s, c * c[0]), x, XS),
    "xs": lambda x: lax.scan(lambda c, s: (jnp.tanh(c + s) * c, s * s), jnp.ones(N), XS * x),
    "all": lambda x: lax.scan(lambda c, s: (jnp.tanh(c + s) * x, c * s), x, XS * x),
    "reverse": lambda x: lax.scan(lambda c, s: (jnp.sin(c * s) + s, c), x, XS * x, reverse=True),
    "unroll": lambda x: lax.scan(lambda c, s: (jnp.sin(c * s) + x, c), x, XS, unroll=3),
    "jet after a round": lambda x: lax.scan(
        lambda c, s: ((jnp.sin(c[0] * s), c[0] * x), c[1]), (jnp.ones(N), jnp.zeros(N)), XS
    ),
    "jet after two rounds": lambda x: lax.scan(
        lambda c, s: ((s + c[1], c[2] * c[1], jnp.cos(x) * s), c[0]),
        (jnp.ones(N), jnp.ones(N), jnp.zeros(N)),
        XS,
    ),
    "carry that becomes constant": lambda x: lax.scan(lambda c, s: (s, jnp.sin(c) * x), x, XS),
    "constant ys": lambda x: lax.scan(lambda c, s: (jnp.sin(c) + x, (s, jnp.ones(2))), x, XS),
    "integer carry": lambda x: lax.scan(
        lambda c, _: ((c[0] + 1, c[1] * jnp.sin(x) + c[0]), c[0]), (0, x), None, length=4
    ),
    "no xs": lambda x: lax.scan(lambda c, _: (jnp.sin(c) * x, None), x, None, length=3)[0],
    "no carry": lambda x: lax.scan(lambda c, s: (None, jnp.sin(s * x)), None, XS)[1],
    "length zero": lambda x: lax.scan(
        lambda c, s: (jnp.sin(c) * x, c * s), x**4, jnp.zeros((0, N))
    ),
    "length zero, ys": lambda x: lax.scan(
        lambda c, s: (c * x, c * s), jnp.ones(N), jnp.zeros((0, N)) * x
    ),
    "length one": lambda x: lax.scan(lambda c, s: (jnp.sin(c) * x, c * s), jnp.ones(N), XS[:1]),
    "pytrees": lambda x: lax.scan(
        lambda c, s: ({"a": c["b"][0] * s["p"], "b": (jnp.sin(c["a"]),)}, {"y": c["a"].sum() * x}),
        {"a": x, "b": (jnp.ones(N),)},
        {"p": XS, "q": XS * x},
    ),
    "nested": lambda x: lax.scan(
        lambda c, s: lax.scan(lambda d, t: (jnp.sin(d * t) + c, d[0]), x * c, XS * s),
        jnp.ones(N),
        XS[:2],
    ),
    "blocks with axes of length one": lambda x: lax.scan(
        lambda c, s: (c * s[0] + x[:, None], c.sum()), jnp.zeros((N, 1)) + x[:, None], XS
    ),
    "outer product": lambda x: lax.scan(
        lambda c, s: (c * s + x[None, :], c), x[:, None] * jnp.ones(N), XS
    ),
    "weak carry": lambda x: lax.scan(lambda c, s: (c * x.sum() + 1, s), 1.0, XS),
    "random keys": lambda x: lax.scan(
        lambda c, k: (c * jnp.sin(x), jax.random.normal(k, (N,)) * c),
        x,
        jax.random.split(jax.random.key(0), 3),
    ),
    "jit in the body": lambda x: lax.scan(
        lambda c, s: jax.jit(lambda c, s: (c * jnp.sin(s + x), c))(c, s), x, XS
    ),
    "remat in the body": lambda x: lax.scan(
        jax.checkpoint(lambda c, s: (c * jnp.sin(s + x), c)), x, XS
    ),
    "cond in the body": lambda x: lax.scan(
        lambda c, s: (lax.cond(s[0] > 0, lambda c: jnp.sin(c) * x, lambda c: s, c), c.sum()),
        jnp.ones(N),
        XS,
    ),
}


@pytest.mark.parametrize("name", SCANS)
def test_scan(name):
    floats = lambda x: [y for y in jax.tree.leaves(SCANS[name](x)) if y.dtype == x.dtype]
    agrees(
        floats, biharmonic=name in ("all", "jet after two rounds", "carry that becomes constant")
    )


def test_scan_values_are_kept():
    x = jnp.array([0.3, -0.7, 1.1])
    one = jf.partials(N)[0] ** 0
    ours = jax.jit(lambda x: [one(f)(x) for f in SCANS.values()])(x)
    close(ours, jax.jit(lambda x: [f(x) for f in SCANS.values()])(x))


def test_scan_in_bfloat16():
    x = jnp.array([0.3, -0.7, 1.1], jnp.bfloat16)
    f = lambda x: lax.scan(lambda c, s: (jnp.sin(c * s) + x, c), x, XS.astype(jnp.bfloat16))
    last, ys = jax.jit(jf.laplacian(f))(x)
    assert last.dtype == ys.dtype == jnp.bfloat16
    expected = jax.jit(lambda x: true_laplacian(f, x))(x.astype(float))
    close(jax.tree.map(lambda a: a.astype(float), (last, ys)), expected, rtol=0.1, atol=0.1)


def test_deep_nests_of_loops_are_traced_quickly():
    f = jnp.sin
    for _ in range(6):
        f = lambda x, f=f: lax.scan(lambda c, s: (f(c * s), None), x, XS[:1])[0]
    start = time.process_time()
    jax.make_jaxpr(jf.laplacian(f))(jnp.ones(N))
    assert time.process_time() - start < 10  # with three rounds a level it would take minutes


def test_gradient_through_scan():
    f = lambda x: SCANS["all"](x)[0].sum()
    x = jnp.array([0.3, -0.7, 1.1])
    truth = jax.jit(lambda x: true_laplacian(f, x))
    expected = jax.jit(jax.grad(truth))(x)
    close(jax.jit(jax.grad(jf.laplacian(f)))(x), expected)
    close(jax.jit(jax.jacfwd(jf.laplacian(f)))(x), expected)
    points = jnp.stack([x, 2 * x])
    close(jax.jit(jax.vmap(jf.laplacian(f)))(points), np.stack([truth(p) for p in points]))


# ------------------------------------------------------------------ loops


def test_fori_loop_with_static_bounds():
    agrees(
        lambda x: lax.fori_loop(0, 4, lambda i, c: jnp.sin(c) * x + i, jnp.ones(N)), biharmonic=True
    )
    agrees(lambda x: lax.fori_loop(0, 0, lambda i, c: jnp.sin(c) * x + i, x**2))
    agrees(lambda x: lax.fori_loop(2, 5, lambda i, c: c.at[i % N].set(c[0] * x[i - 2]), x))


def test_fori_loop_with_dynamic_bounds():
    def f(x, n):
        return lax.fori_loop(1, n, lambda i, c: (jnp.sin(c[1]) * i, c[0] * x), (jnp.ones(N), x))

    x = jnp.array([0.3, -0.7, 1.1])
    for n in (0, 1, 4):
        ours = jax.jit(lambda x, n: jf.laplacian(f)(x, n))(x, n)
        close(ours, jax.jit(lambda x, n=n: true_laplacian(lambda x: f(x, n), x))(x))


def test_while_loop_whose_condition_asks_a_jet():
    def f(x):
        limit = 3 + x.sum()
        return lax.while_loop(
            lambda c: (c[0] < limit) & (c[1].sum() < 50),
            lambda c: (c[0] + 1, c[1] * (1 + x**2) + jnp.sin(c[2]), c[1]),
            (0, x, jnp.ones(N)),
        )[1:]

    agrees(f)
    x = jnp.array([0.3, -0.7, 1.1])
    points = jnp.stack([x, 2 * x + 1])
    truth = jax.jit(lambda x: true_laplacian(f, x))
    expected = jax.tree.map(lambda *p: np.stack(p), *[truth(p) for p in points])
    close(jax.jit(jax.vmap(jf.laplacian(f)))(points), expected)
    mapped = lambda x: jax.vmap(f)(jnp.stack([x, 2 * x + 1]))
    agrees(mapped)


def test_while_loop_that_does_not_touch_the_point():
    def f(x):
        _, total = lax.while_loop(lambda c: c[0] < 4, lambda c: (c[0] + 1, c[1] * 2), (0, 1.0))
        return mix(x) * total

    agrees(f)


def test_newton_in_a_while_loop():
    def root(c):
        step = lambda z: z - (z**2 - c) / (2 * z)
        return lax.while_loop(lambda z: jnp.abs(z**2 - c) > 1e-13, step, jnp.ones(()))

    # the last steps square the error of every coefficient too
    f = lambda x: lax.fori_loop(
        0, 3, lambda _, z: (z + (2 + x[0] * x[1]) / z) / 2, root(2 + x[0] * x[1])
    )
    agrees(f, reference=lambda x: jnp.sqrt(2 + x[0] * x[1]), atol=1e-8)


# ------------------------------------------------------------------ branches

POINTS = [np.array([0.3, -0.7, 1.1]), np.array([-0.3, 0.5, 0.9])]

BRANCHES = {
    "both": lambda x: lax.cond(x[0] > 0, jnp.sin, lambda x: x**3 * x[1], x),
    "one constant": lambda x: lax.cond(x[0] > 0, lambda x: x * x[1], lambda x: jnp.ones(N), x),
    "different jets": lambda x: lax.cond(
        x[0] > 0, lambda a, b: (a * 2, b), lambda a, b: (b, a**2 * b), x, jnp.ones(N)
    ),
    "nothing constant": lambda x: lax.cond(x[0] > 0, lambda: jnp.ones(N), lambda: x**2),
    "integers": lambda x: lax.cond(x[0] > 0, lambda x: (x**2, 1), lambda x: (x, 2), x)[0],
    "pytrees": lambda x: lax.cond(
        x[0] > 0, lambda t: {"y": t["a"] ** 2}, lambda t: {"y": t["b"] * x}, {"a": x, "b": x**2}
    ),
    "switch": lambda x: lax.switch(
        jnp.floor(x[1] * 2 + 2).astype(int),
        [jnp.sin, lambda x: x * 0 + 1.0, lambda x: x**3, lambda x: x[0] * x],
        x,
    ),
    "switch out of range": lambda x: lax.switch(7, [jnp.cos, lambda x: x**3 * x[0]], x),
    "nested": lambda x: lax.cond(
        x[0] > 0, lambda x: lax.cond(x[1] > 0, jnp.sin, jnp.cos, x), lambda x: x * x[2], x
    ),
    "vmapped": lambda x: jax.vmap(lambda s: lax.cond(s > 0, jnp.sin, lambda s: s**3, s))(x * x[1]),
    "vmapped, one constant": lambda x: jax.vmap(
        lambda s: lax.cond(s > 0, lambda s: s**2 * x[0], lambda s: 1.0, s)
    )(x),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_branches(name):
    for point in POINTS:
        agrees(BRANCHES[name], point, biharmonic=name == "different jets")


def test_vmap_of_an_operator_over_branches():
    points = jnp.stack(POINTS)
    for f in (BRANCHES["both"], BRANCHES["switch"], BRANCHES["one constant"]):
        truth = jax.jit(lambda x, f=f: true_laplacian(f, x))
        expected = np.stack([truth(p) for p in points])
        close(jax.jit(jax.vmap(jf.laplacian(f)))(points), expected)
        close(jax.jit(jf.laplacian(jax.vmap(f), batch_dims=1))(points), expected)


def test_gradient_over_branches():
    for f in (BRANCHES["both"], BRANCHES["one constant"]):
        ours = jax.jit(jax.jacrev(jf.laplacian(f)))
        truth = jax.jit(jax.jacrev(lambda x, f=f: true_laplacian(f, x)))
        for x in POINTS:
            close(ours(x), truth(x))


# ------------------------------------------------------------------ made of these


def test_map_and_associative_scan():
    agrees(lambda x: lax.map(lambda s: jnp.sin(s * x), x * x[0]), biharmonic=True)
    agrees(lambda x: lax.map(lambda s: jnp.sin(s * x), x * x[0], batch_size=2))
    agrees(lambda x: lax.associative_scan(jnp.multiply, jnp.concatenate([x, jnp.sin(x)])))
    pair = lambda a, b: (a[0] * b[0], b[0] * a[1] + b[1])
    agrees(lambda x: lax.associative_scan(pair, (jnp.cos(x), x**2), reverse=True))


def test_vectorize():
    f = jnp.vectorize(lambda m, v: jnp.tanh(m @ v), signature="(n,n),(n)->(n)")
    agrees(lambda x: f(jnp.stack([spd(x), jnp.eye(N)]), x))


# ------------------------------------------------------------------ effects and callbacks


def test_debug_print_and_callback(capfd):
    seen = []

    def f(x):
        jax.debug.print("x[0] = {}", x[0])
        jax.debug.callback(lambda v: seen.append(np.asarray(v)), x * 2)
        out, _ = lax.scan(
            lambda c, s: (jax.debug.callback(seen.append, c) or c * x, None), x, XS[:2]
        )
        return mix(out)

    agrees(f)
    jax.effects_barrier()
    seen.clear()
    capfd.readouterr()
    x = jnp.array([0.25, -0.7, 1.1])
    jax.jit(jf.laplacian(f))(x)
    jax.effects_barrier()
    assert capfd.readouterr().out == "x[0] = 0.25\n"
    assert len(seen) == 3  # once outside of the scan, once in each of its rounds
    close(seen[0], 2 * x)


def test_ordered_print(capfd):
    def f(x):
        jax.debug.print("first {}", x[0], ordered=True)
        jax.debug.print("second {}", x[1], ordered=True)
        return mix(x)

    jax.jit(jf.laplacian(f))(jnp.array([0.25, -0.5, 1.1]))
    jax.effects_barrier()
    assert capfd.readouterr().out == "first 0.25\nsecond -0.5\n"


def host_sine(x):
    shape = jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x))
    return jax.pure_callback(np.sin, shape, x, vmap_method="expand_dims")


def test_callback_of_constants():
    agrees(lambda x: mix(x) * host_sine(jnp.arange(2.0)).sum())
    agrees(lambda x: mix(x) * host_sine(lax.stop_gradient(x)).sum())


@pytest.mark.filterwarnings("ignore::jetfold.JetfoldWarning")
def test_callback_of_the_point_needs_a_rule():
    with pytest.raises(NotImplementedError, match=r"Pure callbacks do not support JVP.*custom_jvp"):
        jf.laplacian(host_sine)(jnp.ones(N))

    sine = jax.custom_jvp(host_sine)
    sine.defjvp(lambda x, t: (sine(*x), t[0] * sine(*x) / jnp.tan(*x)))
    agrees(lambda x: mix(sine(x)), reference=lambda x: mix(jnp.sin(x)))


def test_contexts_of_equations():
    def f(x):
        with jax.default_matmul_precision("highest"), jax.named_scope("block"):
            return mix(spd(x) @ x)

    agrees(f)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        expected = jax.jit(lambda x: true_laplacian(mix, x))(POINTS[0])
        close(jax.jit(jf.laplacian(mix))(POINTS[0]), expected)
    with jax.checking_leaks():
        expected = jax.jit(lambda x: true_laplacian(SCANS["all"], x))(POINTS[0])
        close(jax.jit(jf.laplacian(SCANS["all"]))(POINTS[0]), expected)
