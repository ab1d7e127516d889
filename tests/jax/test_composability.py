"""What operators compose with, each against nested automatic differentiation in float64."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import textwrap
from collections import namedtuple

import numpy as np
import pytest

pytest.importorskip("jax")

import jax
import jax.numpy as jnp
from jax import lax

import jetfold as jf

N = 3


def close(ours, expected, rtol=1e-9, atol=1e-9):
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), ours, expected
    )


def parameters():
    """Of a residual, gated, normalised network R³ → R."""
    draw = np.random.default_rng(0).normal
    return {
        "inner": {"w": draw(size=(N, 4)) / 2, "b": draw(size=4)},
        "gate": draw(size=(4, 4)) / 2,
        "outer": draw(size=4),
    }


def network(params, x):
    h = jnp.tanh(x @ params["inner"]["w"] + params["inner"]["b"])
    centred = h - h.mean(-1, keepdims=True)
    normal = centred / jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-2)
    h = h + jnp.sin(normal) * jax.nn.sigmoid(h @ params["gate"])
    return h @ params["outer"]


def net(x):
    """The network with its parameters closed over."""
    return network(parameters(), x)


@pytest.fixture
def x(rng):
    return jnp.asarray(rng.normal(size=N))


@pytest.fixture
def xs(rng):
    return jnp.asarray(rng.normal(size=(4, N)))


def true_laplacian(f, x):
    """The sum over the axes of forward over forward, of every output."""

    def along(v):
        return jax.jvp(lambda x: jax.jvp(f, (x,), (v,))[1], (x,), (v,))[1]

    return jax.tree.map(lambda h: h.sum(0), jax.vmap(along)(jnp.eye(len(x), dtype=x.dtype)))


def true_biharmonic(f, x):
    return true_laplacian(lambda x: true_laplacian(f, x), x)


OPERATORS = {
    "laplacian": (jf.laplacian, true_laplacian),
    "biharmonic": (jf.biharmonic, true_biharmonic),
}
operators = pytest.mark.parametrize("name", OPERATORS)
methods = pytest.mark.parametrize("method", ["minimal", "collapsed", "standard", "nested"])


both_and_all_methods = pytest.mark.parametrize(
    ("name", "method"),
    [
        *(("laplacian", method) for method in ("minimal", "collapsed", "standard", "nested")),
        ("biharmonic", "minimal"),
    ],
)


@functools.cache  # compiled once for all tests
def truth_of(name, f=net):
    """The operator by nested differentiation, as a compiled function of the point."""
    return jax.jit(functools.partial(OPERATORS[name][1], f))


@functools.cache
def true_gradient():
    """Of the Laplacian of the network."""
    return jax.jit(jax.grad(truth_of("laplacian")))


@functools.cache
def true_derivatives():
    """The gradient and the Hessian of the network."""
    return jax.jit(lambda x: (jax.grad(net)(x), jax.hessian(net)(x)))


@functools.cache
def true_gradient_to_parameters():
    """Of the mean square of the Laplacian over points."""

    def loss(params, xs):
        laplacian = lambda x: true_laplacian(lambda x: network(params, x), x)
        return jnp.mean(jax.vmap(laplacian)(xs) ** 2)

    return jax.jit(jax.grad(loss))


# ------------------------------------------------------------------ eager, jit


@pytest.mark.parametrize(
    ("name", "method"),
    [("laplacian", "minimal"), ("laplacian", "nested"), ("biharmonic", "minimal")],
)
def test_eager(name, method, x):
    close(OPERATORS[name][0](net, method=method)(x), truth_of(name)(x))


@both_and_all_methods
def test_jit_of_operator(name, method, x):
    close(jax.jit(OPERATORS[name][0](net, method=method))(x), truth_of(name)(x))


@operators
def test_operator_of_jit(name, x):
    close(OPERATORS[name][0](jax.jit(net))(x), truth_of(name)(x))


def test_jit_with_static_arguments(x):
    f = jf.laplacian(lambda x, power, scale: scale * (x**power).sum())
    ours = jax.jit(f, static_argnums=1)(x, 3, 2.0)
    close(ours, 12 * x.sum())
    named = jax.jit(
        lambda x, *, power: jf.laplacian(lambda x: (x**power).sum())(x), static_argnames="power"
    )
    close(named(x, power=4), 12 * (x**2).sum())


@pytest.mark.filterwarnings("ignore:Some donated buffers were not usable")
def test_donated_arguments(x):
    expected = truth_of("laplacian", jnp.sin)(x)
    close(jax.jit(jf.laplacian(jnp.sin), donate_argnums=0)(x.copy()), expected)


def test_aot_compilation(x):
    compiled = jax.jit(jf.biharmonic(net)).lower(jax.ShapeDtypeStruct((N,), float)).compile()
    close(compiled(x), truth_of("biharmonic")(x))


def test_compiled_once(x):
    traces = []

    def f(x):
        traces.append(x)
        return net(x)

    step = jax.jit(jf.laplacian(f))
    step(x), step(2 * x)
    assert len(traces) == 1


def test_functions_that_read_from_outside_are_not_cached(x):
    scale = {"a": 1.0}
    f = lambda x: scale["a"] * (x**2).sum()
    operator, along = jf.laplacian(f), (jnp.ones(N), jnp.zeros(N))
    close(operator(x), jnp.asarray(6.0))
    close(jf.jet(f, (x,), (along,))[1][1], jnp.asarray(6.0))
    scale["a"] = 2.0
    close(operator(x), jnp.asarray(12.0))
    close(jf.jet(f, (x,), (along,))[1][1], jnp.asarray(12.0))


# ------------------------------------------------------------------ vmap


@both_and_all_methods
def test_vmap_of_operator_and_batch_dims(name, method, xs):
    operator = OPERATORS[name][0]
    expected = jax.vmap(truth_of(name))(xs)
    close(jax.jit(jax.vmap(operator(net, method=method)))(xs), expected)
    close(jax.jit(operator(net, batch_dims=1, method=method))(xs), expected)


def test_operator_of_vmap(x, xs):
    mapped = lambda x: jax.vmap(net)(x * xs)
    close(jax.jit(jf.laplacian(mapped))(x), truth_of("laplacian", mapped)(x))
    ours = jax.jit(jf.laplacian(jax.vmap(net), batch_dims=1))(xs)
    close(ours, jax.vmap(truth_of("laplacian"))(xs))


def test_vmap_with_axes(xs):
    f = lambda x, c, k: {"a": c * jnp.sin(x * k)}
    ours = jax.jit(jax.vmap(jf.laplacian(f), in_axes=(1, None, 0), out_axes={"a": 1}))
    scales = jnp.arange(1.0, 5.0)
    expected = -jnp.sin(xs * scales[:, None]) * (scales**2)[:, None] * 2.0
    close(ours(xs.T, 2.0, scales), {"a": expected.T})


def test_nested_vmaps(xs):
    grid = xs[:, None] * jnp.array([1.0, 0.5])[None, :, None]
    expected = jax.vmap(jax.vmap(truth_of("biharmonic")))(grid)
    for mapped in (
        jax.vmap(jax.vmap(jf.biharmonic(net))),
        jf.biharmonic(net, batch_dims=2),
        jax.vmap(jf.biharmonic(net, batch_dims=1), in_axes=1, out_axes=1),
    ):
        close(jax.jit(mapped)(grid), expected)


# ------------------------------------------------------------------ derivatives of operators


@operators
def test_gradient_of_operator(name, x):
    expected = jax.jit(jax.jacfwd(truth_of(name)))(x)
    transforms = (jax.grad, jax.jacrev, jax.jacfwd) if name == "laplacian" else (jax.grad,)
    for transform in transforms:
        close(jax.jit(transform(OPERATORS[name][0](net)))(x), expected)


def test_hessian_of_operator(x):
    close(
        jax.jit(jax.hessian(jf.laplacian(net)))(x), jax.jit(jax.hessian(truth_of("laplacian")))(x)
    )


def test_jvp_vjp_and_linearize_of_operator(x):
    operator, truth, v = jf.laplacian(net), truth_of("laplacian"), jnp.arange(1.0, 4.0)

    def linearized(x, v):
        value, push = jax.linearize(operator, x)
        return value, push(v)

    pushed = lambda f: jax.jit(lambda x, v: jax.jvp(f, (x,), (v,)))
    pulled = lambda f: jax.jit(lambda x: jax.vjp(f, x)[1](1.0)[0])
    expected = pushed(truth)(x, v)
    close(pushed(operator)(x, v), expected)
    close(jax.jit(linearized)(x, v), expected)
    close(pulled(operator)(x), pulled(truth)(x))


@methods
def test_gradient_of_every_method(method, x):
    ours = jax.jit(jax.grad(jf.laplacian(net, method=method)))(x)
    close(ours, true_gradient()(x))


def test_per_sample_gradients(xs):
    ours = jax.jit(jax.vmap(jax.grad(jf.laplacian(net))))(xs)
    close(ours, jnp.stack([true_gradient()(x) for x in xs]))


@pytest.mark.parametrize("transform", [jax.grad, jax.jacrev, jax.jacfwd, jax.hessian])
def test_operator_over_derivatives(transform, x):
    f = transform(net)
    close(jax.jit(jf.laplacian(f))(x), truth_of("laplacian", f)(x))


def test_operator_over_jvp_vjp_and_linearize(x):
    v = jnp.arange(1.0, 4.0)
    for f in (
        lambda x: jax.jvp(net, (x,), (jnp.sin(x),))[1],
        lambda x: jax.vjp(net, x)[1](x[0])[0],
        lambda x: jax.linearize(net, x)[1](v),
        lambda x: jax.value_and_grad(net)(x),
    ):
        close(jax.jit(jf.laplacian(f))(x), truth_of("laplacian", f)(x))


# ------------------------------------------------------------------ parameters


@methods
def test_gradient_to_parameters(method, xs):
    operator = jf.laplacian
    params = jax.tree.map(jnp.asarray, parameters())

    def closed_over(params):
        return jnp.mean(
            operator(lambda x: network(params, x), batch_dims=1, method=method)(xs) ** 2
        )

    def as_argument(params):
        mapped = jax.vmap(operator(network, argnums=1, method=method), in_axes=(None, 0))
        return jnp.mean(mapped(params, xs) ** 2)

    expected = true_gradient_to_parameters()(params, xs)
    close(jax.jit(jax.grad(closed_over))(params), expected)
    close(jax.jit(jax.grad(as_argument))(params), expected)


def test_gradients_pad_no_rows(xs):
    """Rows of blocks are taken apart at once; one by one, each would become a padded block."""

    def loss(w):
        return (jf.biharmonic(lambda x: jnp.tanh(x @ w).sum(-1), batch_dims=1)(xs) ** 2).sum()

    def names(jaxpr):
        for eqn in jaxpr.eqns:
            yield eqn.primitive.name
            for inner in jax.tree.leaves(eqn.params, is_leaf=lambda p: hasattr(p, "jaxpr")):
                if hasattr(inner, "jaxpr"):
                    yield from names(inner.jaxpr)

    found = list(names(jax.make_jaxpr(jax.grad(loss))(jnp.ones((N, 4))).jaxpr))
    assert "split" in found
    assert found.count("pad") <= 1  # the coefficient that is read out


def test_gradient_to_parameters_and_point(x):
    params = jax.tree.map(jnp.asarray, parameters())
    ours = jax.jit(jax.grad(jf.laplacian(network, argnums=1), argnums=(0, 1)))(params, x)
    truth = lambda params, x: true_laplacian(lambda x: network(params, x), x)
    close(ours, jax.jit(jax.grad(truth, argnums=(0, 1)))(params, x))


def test_training_step_of_a_pinn(xs):
    t, *space = jf.partials(N)
    heat = jf.derivatives({"u": 1, "residual": t - 0.1 * sum(d**2 for d in space)})

    def loss(params, xs, evaluate):
        out = evaluate(lambda p: network(params, p), xs)
        return jnp.mean(out["residual"] ** 2) + jnp.mean(out["u"] ** 2)

    def slow(u, xs):
        def of_point(p):
            h = jax.hessian(u)(p)
            return {"u": u(p), "residual": jax.grad(u)(p)[0] - 0.1 * (h[1, 1] + h[2, 2])}

        return jax.vmap(of_point)(xs)

    def train(evaluate):
        @functools.partial(jax.jit, donate_argnums=0)
        def step(params, xs):
            value, grads = jax.value_and_grad(loss)(params, xs, evaluate)
            return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), value

        params, history = jax.tree.map(jnp.asarray, parameters()), []
        for _ in range(4):
            params, value = step(params, xs)
            history.append(value)
        return params, history

    ours, expected = train(lambda u, xs: heat(u, batch_dims=1)(xs)), train(slow)
    close(ours, expected)
    assert ours[1][-1] < ours[1][0]


# ------------------------------------------------------------------ checkpoint, eval_shape, jaxprs


def test_checkpoint_inside_and_around(x):
    operator = jf.laplacian
    expected = true_gradient()(x)
    inside = operator(jax.checkpoint(net))
    around = jax.checkpoint(operator(net))
    close(jax.jit(jax.grad(inside))(x), expected)
    close(jax.jit(jax.grad(around))(x), expected)


def test_eval_shape_and_make_jaxpr(x):
    operator = jf.laplacian(lambda x: {"a": x**2, "b": net(x)})
    shapes = jax.eval_shape(operator, jax.ShapeDtypeStruct((N,), jnp.float32))
    assert shapes["a"] == jax.ShapeDtypeStruct((N,), jnp.float32)
    assert shapes["b"].shape == ()
    closed = jax.make_jaxpr(operator)(x)
    evaluate = jax.jit(lambda x: jax.core.eval_jaxpr(closed.jaxpr, closed.consts, x))
    close(evaluate(x), jax.tree.leaves(jax.jit(operator)(x)))


# ------------------------------------------------------------------ devices


def run_on_two_devices(code):
    """Runs code in a process with two virtual devices."""
    program = textwrap.dedent("""
        import warnings
        import jax, jax.numpy as jnp, numpy as np, jetfold as jf
        from jetfold.jax import private
        from functools import partial
        from jax import lax
        from jax.sharding import NamedSharding, PartitionSpec as P
        jax.config.update("jax_enable_x64", True)
        mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
        w = np.linspace(-1, 1, 12).reshape(3, 4)
        net = lambda x: jnp.tanh(x @ w).sum(-1) ** 2
        xs = jnp.linspace(-1, 1, 12).reshape(4, 3)
        def truth(f, x):
            hessian = jax.jit(jax.jacfwd(jax.jacfwd(f)))(x)
            return jnp.trace(hessian, axis1=-2, axis2=-1)
        expected = jax.vmap(lambda x: truth(net, x))(xs)
        close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-11)
    """)
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    done = subprocess.run(
        [sys.executable, "-c", program + textwrap.dedent(code)],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def test_sharded_inputs():
    run_on_two_devices("""
        sharding = NamedSharding(mesh, P("d"))
        placed = jax.device_put(xs, sharding)
        for method in ("minimal", "collapsed", "standard", "nested"):
            for operator in (jf.laplacian(net, batch_dims=1, method=method),
                             jax.vmap(jf.laplacian(net, method=method))):
                out = jax.jit(operator)(placed)
                close(out, expected)
                assert out.sharding.is_equivalent_to(sharding, 1), out.sharding
        close(jf.laplacian(net, batch_dims=1)(placed), expected)  # eager

        # one key gives one number, and chunks are summed, wherever the points are
        key = jax.random.key(5)
        for options in ({"samples": 2}, {"samples": 2, "per_point": True},
                        {"samples": 1, "distribution": "coordinates"}):
            operator = jf.randomize(jf.laplacian, **options)(net, batch_dims=1)
            close(jax.jit(operator)(placed, rng=key), jax.jit(operator)(xs, rng=key))
        close(jax.jit(jf.laplacian(net, batch_dims=1, chunk_size=2))(placed), expected)

        def f(x):  # constraints inside of the function
            return net(lax.with_sharding_constraint(jnp.sin(x), sharding))

        close(jax.jit(jf.laplacian(f, batch_dims=1))(placed),
              jax.vmap(lambda x: truth(lambda x: net(jnp.sin(x)), x))(xs))
    """)


def test_collapsed_in_shard_map_and_export():
    run_on_two_devices("""
        from jax import export

        def second(x, v):
            return jax.jvp(lambda y: jax.jvp(net, (y,), (v,))[1], (x,), (v,))[1]

        written = jax.vmap(lambda x: jax.vmap(lambda v: second(x, v))(jnp.eye(3)).sum())
        mapped = partial(jax.shard_map, mesh=mesh, in_specs=P("d"), out_specs=P("d"))
        close(jax.jit(mapped(jf.collapse(written)))(xs), expected)
        close(jf.collapse(mapped(written))(xs), expected)

        (n,) = export.symbolic_shape("n")
        points = jax.ShapeDtypeStruct((n, 3), xs.dtype)
        operator = jax.jit(jf.laplacian(net, batch_dims=1))
        close(export.export(operator)(points).call(xs), expected)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            close(export.export(jax.jit(jf.collapse(written)))(points).call(xs), expected)
        assert any("sizes that are names" in str(w.message) for w in caught)
    """)


def test_shard_map():
    run_on_two_devices("""
        # the operator inside
        inside = jax.shard_map(jf.laplacian(net, batch_dims=1),
                               mesh=mesh, in_specs=P("d"), out_specs=P("d"))
        close(jax.jit(inside)(xs), expected)
        mean = jax.shard_map(lambda x: lax.pmean(jf.laplacian(net, batch_dims=1)(x).mean(), "d"),
                             mesh=mesh, in_specs=P("d"), out_specs=P())
        close(jax.jit(mean)(xs), expected.mean())

        # the function inside: coordinates on different devices, summed by psum
        x = jnp.array([0.3, -0.7, 1.1, 0.4])
        v = np.array([0.5, 1.5, -1.0, 2.0])

        def on_shards(x, v):
            total = lax.psum(jnp.sin(x * v).sum(), "d")
            return total**2 * x, total

        def plain(x):
            total = jnp.sin(x * v).sum()
            return jnp.sum((total**2 * x) ** 2) + total**3

        operators = lambda once, twice, f: jax.jit(
            lambda x: (once(f)(x), twice(f)(x), jax.grad(once(f))(x)))
        true = lambda f: lambda x: truth(f, x)
        exact = operators(true, lambda f: true(true(f)), plain)(x)
        for check in (True, False):
            mapped = jax.shard_map(on_shards, mesh=mesh, in_specs=(P("d"), P("d")),
                                   out_specs=(P("d"), P()), check_vma=check)
            f = lambda x: jnp.sum(mapped(x, v)[0] ** 2) + mapped(x, v)[1] ** 3
            for ours, theirs in zip(operators(jf.laplacian, jf.biharmonic, f)(x), exact):
                close(ours, theirs)

        # loops and branches inside of it, whose jets start as constants
        def looped(x):
            carry = private.made_varying(jnp.ones(2), "d")
            out, _ = lax.scan(lambda c, s: (jnp.sin(c * s) + x, None), carry, jnp.arange(3.0))
            ones = private.made_varying(jnp.ones(2), "d")
            out = lax.cond(x[0] > 0, lambda o: o * x, lambda o: ones, out)
            return lax.psum(out.sum(), "d")

        mapped = jax.shard_map(looped, mesh=mesh, in_specs=P("d"), out_specs=P())

        def plain(x):
            total = 0.0
            for half in (x[:2], x[2:]):
                c = jnp.ones(2)
                for s in range(3):
                    c = jnp.sin(c * s) + half
                total = total + jnp.where(half[0] > 0, c * half, jnp.ones(2)).sum()
            return total

        ours, theirs = jax.jit(jf.laplacian(mapped)), jax.jit(lambda x: truth(plain, x))
        for point in (x, x[::-1]):
            close(ours(point), theirs(point))
    """)


def test_pmap_axis_names_inside_vmap(xs):
    f = lambda x: net(x - lax.pmean(jnp.sin(x), "batch"))
    mapped = lambda f: jax.jit(jax.vmap(f, axis_name="batch"))
    close(mapped(jf.laplacian(f))(xs), mapped(lambda x: true_laplacian(f, x))(xs))


# ------------------------------------------------------------------ dtypes


@both_and_all_methods
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-4), (jnp.bfloat16, 0.3)])
def test_dtypes(name, method, dtype, tolerance, x):
    params = jax.tree.map(lambda p: jnp.asarray(p, dtype), parameters())
    f = lambda x: network(params, x)
    result = jax.jit(OPERATORS[name][0](f, method=method))(x.astype(dtype))
    assert result.dtype == dtype
    exact = truth_of(name)(x.astype(dtype).astype(float))
    if (name, dtype) != ("biharmonic", jnp.bfloat16):  # cancels eight bits
        assert abs(float(result) - exact) <= tolerance * (abs(exact) + 5)


@methods
def test_without_x64(method):
    with jax.enable_x64(False):
        x = np.array([0.3, -0.7, 1.1])
        result = jf.laplacian(lambda x: jnp.sin(x).sum(), method=method)(x)
        assert result.dtype == jnp.float32
        np.testing.assert_allclose(result, -np.sin(x).sum(), rtol=1e-5)
        C, operator = jnp.eye(3), np.ones(3) * jf.partials(3)[0] ** 2

        @jax.jit
        def others(x):
            sigma = jf.weighted_laplacian(lambda x: jnp.sin(x).sum(), np.eye(3), method=method)(x)
            matrix = jf.weighted_laplacian(lambda x: (x**2).sum(), C=C, method=method)(x)
            return sigma, matrix, operator(jnp.sin, method=method)(x)

        assert [out.dtype for out in others(x)] == [jnp.float32] * 3


@methods
def test_numpy_points(method, xs):
    ours = jax.jit(jf.laplacian(net, batch_dims=1, method=method))(np.asarray(xs))
    close(ours, jax.vmap(truth_of("laplacian"))(xs))
    assert isinstance(ours, jax.Array)


@methods
def test_complex_outputs(method, x):
    k = jnp.arange(1.0, 4.0)
    f = lambda x: jnp.exp(1j * (k * x).sum()) * net(x)
    real = truth_of("laplacian", lambda x: jnp.cos((k * x).sum()) * net(x))(x)
    imag = truth_of("laplacian", lambda x: jnp.sin((k * x).sum()) * net(x))(x)
    close(jax.jit(jf.laplacian(f, method=method))(x), real + 1j * imag)


# ------------------------------------------------------------------ pytrees


@methods
def test_pytrees_out(method, x):
    Pair = namedtuple("Pair", "first second")
    f = lambda x: {"a": x**3, "b": (net(x), Pair([jnp.sin(x)], jnp.ones(2)))}
    out = jax.jit(jf.laplacian(f, method=method))(x)
    close(out, truth_of("laplacian", f)(x))
    assert isinstance(out["b"][1], Pair)


@methods
def test_several_arguments_and_keywords(method, x):
    f = lambda tree, a, b, *, power: tree["c"] * jnp.sin(a[0] * b).sum() * a[1] ** power
    a, b = x[:2], jnp.array([[0.3], [0.8]])
    whole = lambda z: f({"c": 2.0}, z[:2], z[2:].reshape(2, 1), power=3)
    expected = truth_of("laplacian", whole)(jnp.concatenate([a, b.ravel()]))
    only = truth_of("laplacian", lambda a: f({"c": 2.0}, a, b, power=3))(a)

    @jax.jit
    def ours(a, b):
        of_both, of_a = (jf.laplacian(f, argnums=n, method=method) for n in ((1, 2), -2))
        return of_both({"c": 2.0}, a, b, power=3), of_a({"c": 2.0}, a, b, power=3)

    close(ours(a, b), (expected, only))


def test_derivatives_over_a_pytree(x):
    t, y, _ = jf.partials(N)
    f = lambda x: {"n": net(x), "s": jnp.sin(x)}
    out = jax.jit(jf.derivatives({"u": 1, "d": [t, (t * y, y**3)]})(f))(x)
    assert {*out} == {"u", "d"}

    @jax.jit
    def expected(x):
        once, twice = jax.jacfwd(f), jax.hessian(f)
        return f(x), once(x), twice(x), jax.jacfwd(jax.jacfwd(once))(x)

    value, first, second, third = jax.tree.map(np.asarray, expected(x))
    close(out["u"], value)
    close(out["d"][0], jax.tree.map(lambda j: j[..., 0], first))
    close(out["d"][1][0], jax.tree.map(lambda h: h[..., 0, 1], second))
    close(out["d"][1][1], jax.tree.map(lambda d: d[..., 1, 1, 1], third))


# ------------------------------------------------------------------ libraries of networks


def test_equinox(x):
    eqx = pytest.importorskip("equinox")
    operator, truth = jf.laplacian, true_laplacian
    model = eqx.nn.MLP(N, "scalar", 4, 2, jnp.tanh, key=jax.random.key(0))
    close(jax.jit(operator(model))(x), jax.jit(functools.partial(truth, model))(x))

    @eqx.filter_jit
    @eqx.filter_grad
    def gradient(model, evaluate):
        return evaluate(model, x) ** 2

    ours = gradient(model, lambda f, x: operator(f)(x))
    expected = gradient(model, truth)
    close(jax.tree.leaves(ours), jax.tree.leaves(expected))


def test_flax_linen(x):
    nn = pytest.importorskip("flax.linen")
    operator, truth = jf.laplacian, true_laplacian
    model = nn.Sequential([nn.Dense(4), nn.LayerNorm(), nn.gelu, nn.Dense(1)])
    params = model.init(jax.random.key(0), x)
    params = jax.tree.map(lambda p: p.astype(float), params)
    ours = jax.jit(operator(model.apply, argnums=1))(params, x)
    close(ours, jax.jit(lambda x: truth(lambda x: model.apply(params, x), x))(x))


def test_flax_nnx(x):
    nnx = pytest.importorskip("flax.nnx")
    operator, truth = jf.laplacian, true_laplacian

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.inner = nnx.Linear(N, 4, rngs=rngs, param_dtype=jnp.float64)
            self.outer = nnx.Linear(4, 1, rngs=rngs, param_dtype=jnp.float64)

        def __call__(self, x):
            return self.outer(nnx.silu(self.inner(x)))[..., 0]

    model = Net(nnx.Rngs(0))
    expected = nnx.jit(truth)(model, x)
    close(nnx.jit(lambda model, x: operator(model)(x))(model, x), expected)
    ours = nnx.jit(nnx.grad(lambda model: operator(model)(x) ** 2))(model)
    expected = nnx.jit(nnx.grad(lambda model: truth(model, x) ** 2))(model)
    close(jax.tree.leaves(ours), jax.tree.leaves(expected))


# ------------------------------------------------------------------ operators in operators


def test_laplacian_of_laplacian_is_biharmonic(x):
    expected = truth_of("biharmonic")(x)
    close(jax.jit(jf.laplacian(jf.laplacian(net)))(x), expected)
    mixed = jf.laplacian(jf.laplacian(net, method="standard"), method="nested")
    close(jax.jit(mixed)(x), expected)


@pytest.mark.parametrize("inner", [jf.laplacian, lambda f: lambda x: true_laplacian(f, x)])
def test_inner_function_closes_over_the_outer_point(inner, x):
    y = jnp.array([0.3, -0.4, 0.9])

    def elsewhere(op, x):
        return op(lambda y: (x * y).sum() ** 2 * jnp.sin(y[0] * x[1]), y)

    def at_the_same_point(op, x):
        return op(lambda y: jnp.exp((x * y).sum() / 3) + y[0] ** 2 * x[2], x)

    for f in (elsewhere, at_the_same_point):
        ours = jax.jit(jf.laplacian(lambda x, f=f: f(lambda g, p: inner(g)(p), x)))(x)
        close(ours, truth_of("laplacian", functools.partial(f, true_laplacian))(x))


def test_perturbations_are_not_confused():
    # d/dx [x · d/dy (x + y)] = 1, and 2 where the perturbations of x and y are confused
    d = jf.partials(1)[0]
    inner = lambda x: d(lambda y: (x + y).sum())(jnp.ones(1))
    close(jax.jit(d(lambda x: (x * inner(x)).sum()))(jnp.ones(1)), jnp.asarray(1.0))


def test_operator_inside_of_loops_and_branches(x):
    lap = jf.laplacian(net)
    truth = truth_of("laplacian")
    carried, ys = lax.scan(lambda c, s: (jnp.sin(c) * s, lap(c * s)), x, jnp.arange(1.0, 4.0))
    expected, c = [], x
    for s in (1.0, 2.0, 3.0):
        expected.append(truth(c * s))
        c = jnp.sin(c) * s
    close((carried, ys), (c, jnp.stack(expected)))
    for sign in (1.0, -1.0):
        ours = lax.cond(sign > 0, lap, lambda x: jf.biharmonic(net)(x), x)
        close(ours, truth(x) if sign > 0 else truth_of("biharmonic")(x))
    step = lambda c: (c[0] + 1, c[1] + 0.1 * lap(x * c[1]))
    ours = lax.while_loop(lambda c: c[0] < 3, step, (0, jnp.ones(())))[1]
    value = jnp.ones(())
    for _ in range(3):
        value = value + 0.1 * truth(x * value)
    close(ours, value)


# ------------------------------------------------------------------ jets


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_jet_is_jax_experimental_jet(order, x, rng):
    experimental = pytest.importorskip("jax.experimental.jet")
    series = [jnp.asarray(rng.normal(size=N)) for _ in range(order)]
    for f in (
        lambda x: jnp.tanh(x @ parameters()["inner"]["w"]),
        lambda x: jnp.sin(x) * jnp.exp(x) / (2 + x**2),
        lambda x: (jnp.log(3 + x.sum()), jnp.cumsum(x**3)),
    ):
        ours, theirs = (
            jax.jit(lambda x, s, f=f, jet=jet: jet(f, (x,), (s,)))(x, series)
            for jet in (jf.jet, experimental.jet)
        )
        close(ours[0], theirs[0])
        for k, term in enumerate(ours[1]):
            pick = lambda s, k=k: s[k]
            expected = jax.tree.map(pick, theirs[1], is_leaf=lambda s: isinstance(s, list))
            close(term, expected)


def test_transforms_of_jets(x, xs):
    f = lambda x, v: jf.jet(net, (x,), ((v, jnp.zeros(N)),))[1][1]
    truth = lambda x, v: v @ jax.hessian(net)(x) @ v
    v = jnp.arange(1.0, 4.0)
    for transform in (
        lambda f: f,
        lambda f: jax.grad(f, argnums=(0, 1)),
        lambda f: lambda _, v: jax.vmap(f, (0, None))(xs, v),
    ):
        close(jax.jit(transform(f))(x, v), jax.jit(transform(truth))(x, v))


# ------------------------------------------------------------------ coefficients


@methods
def test_weighted_laplacian(method, x, rng):
    h = np.asarray(true_derivatives()(x)[1])
    sigma = rng.normal(size=(N, 2))
    C = sigma @ sigma.T - np.eye(N)
    of_jax, C_of_jax = jnp.asarray(sigma), jnp.asarray(C)
    weighted = functools.partial(jf.weighted_laplacian, net, method=method)

    @jax.jit
    def ours(s, c, x):
        return {
            "sigma": [weighted(given)(x) for given in (of_jax, sigma, s)],
            "gradient": jax.grad(lambda s: weighted(s)(x))(s),
            "C": [weighted(C=given)(x) for given in (C, C_of_jax)],
            "gradient to C": jax.grad(lambda c: weighted(C=c)(x))(c),
        }

    expected = {
        "sigma": [np.einsum("ir,jr,ij->", sigma, sigma, h)] * 3,
        "gradient": 2 * h @ sigma,
        "C": [(C * h).sum()] * 2,
        "gradient to C": h,
    }
    close(ours(of_jax, C_of_jax, x), expected)


@methods
def test_weighted_laplacian_with_a_sigma_of_the_point(method, xs):
    sigma = lambda x: jnp.stack([jnp.sin(x), x**2], -1)
    of_one = lambda x: jnp.einsum("ir,jr,ij->", sigma(x), sigma(x), jax.hessian(net)(x))
    weighted = functools.partial(jf.weighted_laplacian, net, sigma, method=method)
    expected = jax.jit(jax.vmap(of_one))(xs)
    close(jax.jit(weighted(batch_dims=1))(xs), expected)
    close(jax.jit(jax.vmap(weighted()))(xs), expected)


@methods
def test_coefficients_of_operators(method, xs):
    t, y, _ = jf.partials(N)
    a, drift = jnp.arange(1.0, 5.0), lambda xs: jnp.cos(xs[..., 0])

    def ours(a, xs):  # a is a tracer
        operator = a * t**2 + drift * (t * y) - y + np.float64(2.0) * t
        return operator(net, batch_dims=1, method=method)(xs)

    def truth(a, xs):
        h, g = jax.vmap(jax.hessian(net))(xs), jax.vmap(jax.grad(net))(xs)
        return a * h[:, 0, 0] + drift(xs) * h[:, 0, 1] - g[:, 1] + 2 * g[:, 0]

    close(jax.jit(ours)(a, xs), jax.jit(truth)(a, xs))
    close(jax.jit(jax.jacrev(ours))(a, xs), jax.jit(jax.jacrev(truth))(a, xs))
    schroedinger = 1j * t + y**2 / 2
    g, h = map(np.asarray, true_derivatives()(xs[0]))
    close(jax.jit(schroedinger(net, method=method))(xs[0]), 1j * g[0] + h[1, 1] / 2)


# ------------------------------------------------------------------ strict


def test_strict(x):
    with jf.strict():
        close(jax.jit(jf.biharmonic(net))(x), truth_of("biharmonic")(x))
        with pytest.raises(NotImplementedError, match=r"custom_jvp function \w+ has no rule"):
            jf.laplacian(lambda x: jnp.linalg.pinv(jnp.outer(x, x) + jnp.eye(N)))(x)


def test_threads(xs):
    from concurrent.futures import ThreadPoolExecutor

    def work(x):
        with jax.enable_x64(True):
            return jax.jit(jf.laplacian(jf.laplacian(net)))(x)

    with ThreadPoolExecutor(2) as pool:
        close(list(pool.map(work, xs)), list(jax.vmap(truth_of("biharmonic"))(xs)), rtol=1e-8)


@pytest.mark.parametrize("batch", [1, 4])
def test_vmap_of_coefficients_that_are_the_same_at_every_point(batch, rng):
    """Those of polynomials: a result for every point, all of them equal or not."""
    a = jnp.asarray(rng.normal(size=(N, 4)))
    points, scales = jnp.asarray(rng.normal(size=(batch, N))), jnp.arange(1.0, 3.0)

    def trace(f):
        return lambda x: jnp.trace(jax.hessian(f)(x), axis1=-2, axis2=-1)

    for operator, truth, order, f in (
        (jf.laplacian, trace, 2, lambda x: (x**2).sum()),
        (jf.laplacian, trace, 2, lambda x: (x @ a) ** 2 @ jnp.sin(a.T) @ a),
        (jf.biharmonic, lambda f: trace(trace(f)), 4, lambda x: ((x @ a) ** 4).sum()),
    ):
        exact = jax.jit(jax.vmap(truth(f)))
        close(jax.vmap(operator(f))(points), exact(points))
        close(jax.jit(jax.vmap(jax.vmap(operator(f))))(points[None]), exact(points)[None])

        def scaled(s, operator=operator, f=f):
            return jax.vmap(operator(lambda x: f(s * x)))(points)

        expected = jnp.stack([s**order * exact(s * points) for s in scales])
        close(jax.jit(jax.vmap(scaled))(scales), expected, rtol=1e-8)


@pytest.mark.parametrize(("operator", "order"), [(jf.laplacian, 2), (jf.biharmonic, 4)])
def test_mapped_functions_whose_highest_derivative_is_a_constant(operator, order, rng):
    """The fourth derivative of x⁴ is the same for all rows: as one row after the other."""
    matrix = rng.standard_normal((2, 2))

    def f(p, q):
        return p[0] ** order * q[1] + ((p @ matrix) ** order @ matrix).sum() * q[0] + (q**2).sum()

    def both(p, q):
        found = operator(f)(p, q)
        return found, jax.grad(lambda q: operator(f)(p, q))(q)

    p, q = rng.standard_normal((3, 2)), rng.standard_normal((2, 2))
    single = jax.jit(both)
    expected = jax.tree.map(
        lambda *rows: np.reshape(rows, (3, 2, *rows[0].shape)),
        *[single(one, other) for one in p for other in q],
    )
    rows = jax.vmap(jax.vmap(both, (None, 0)), (0, None))
    close(jax.jit(rows)(p, q), expected)
    close(jax.vmap(operator(f))(p, np.stack([q[0]] * 3)), expected[0][:, 0])  # not compiled
    np.testing.assert_allclose(expected[0][1, 1], operator(f, method="nested")(p[1], q[1]))
