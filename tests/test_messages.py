"""What people write first: each mistake is answered with what to write."""

from __future__ import annotations

import pickle
import re
import warnings

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import jetfold as jf
from jetfold.__main__ import explained
from jetfold.expressions import ExpressionError, parse


def net(p):
    return torch.tanh(p @ torch.arange(1.0, p.shape[-1] + 1, dtype=p.dtype)[:, None])


X = torch.linspace(-1, 1, 10).reshape(5, 2)
T, Y = jf.partials("t y")


def says(*parts):
    """An error whose text holds all of these."""
    return re.compile(".*".join(map(re.escape, parts)), re.DOTALL)


# ------------------------------------------------------------------ batch_dims


def test_many_vectors_name_batch_dims():
    points = torch.rand(260, 2)
    text = says("laplacian carries 522 vectors", "shape (260, 2)", "pass batch_dims=1")
    with pytest.warns(jf.JetfoldWarning, match=text):
        jf.laplacian(lambda p: p.sum(-1))(points)
    with pytest.warns(jf.JetfoldWarning, match="derivatives carries 522 vectors"):
        jf.derivatives([jf.value, jf.laplacian])(lambda p: p.sum(-1))(points)
    with (
        pytest.warns(jf.JetfoldWarning, match="gradient carries 521 vectors"),
        pytest.raises(ValueError, match=says("one number per point", "pass batch_dims=1")),
    ):
        jf.gradient(lambda p: p.sum(-1))(points)


def test_many_vectors_that_are_meant_are_no_mistake():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jf.laplacian(lambda p: p.sum())(torch.rand(600))
        jf.laplacian(lambda p: p.sum(), chunk_size=200)(torch.rand(300, 2))
        jf.laplacian(lambda p: p.sum(-1), batch_dims=1)(torch.rand(300, 2))
        (3 * jf.value)(lambda p: p.sum(-1))(torch.rand(300, 2))


def test_coordinates_that_would_fit_name_batch_dims():
    with pytest.raises(ValueError, match=says("acts on 2 coordinates", "(5, 2)", "batch_dims=1")):
        T(net)(X)


# ------------------------------------------------------------------ sums and calls


@pytest.mark.parametrize("nu", [torch.tensor(0.1), np.array(0.1), torch.ones(5)], ids=str)
def test_a_coefficient_alone_is_spelled_out(nu):
    for write in (lambda: nu + T, lambda: T + nu, lambda: nu - T, lambda: T - nu):
        with pytest.raises(TypeError, match=says("coefficient * jetfold.value + (", "t)")):
            write()
    found = (nu * jf.value + T)(net, batch_dims=1)(X)
    nu = torch.as_tensor(nu)[..., None]
    torch.testing.assert_close(found, (nu * net(X) + T(net, batch_dims=1)(X)).to(found.dtype))


def test_a_coefficient_alone_in_a_compiled_function():
    with pytest.raises(Exception, match=r"coefficient \* jetfold\.value"):
        torch.compile(lambda nu: (nu + T)(net)(X[0]), backend="eager")(torch.tensor(0.1))


@pytest.mark.parametrize(
    ("write", "text"),
    [
        (lambda: jf.laplacian(net, X), "write laplacian(f)(x), not laplacian(f, x)"),
        (lambda: jf.laplacian(net(X)), "write laplacian(f)(x), not laplacian(f(x))"),
        (lambda: jf.laplacian(), 'laplacian(over="x y", names="t x y")'),
        (lambda: jf.derivatives({"l": jf.laplacian}, net, X), "derivatives({...})(f)(x), not"),
        (lambda: jf.derivatives({"l": jf.laplacian})(net, X), "write derivatives(f)(x), not"),
        (lambda: jf.derivatives({"l": jf.laplacian(net)}), "write laplacian, the operator itself"),
        (lambda: jf.derivatives({"l": jf.weighted_laplacian}), "weighted_laplacian(...)"),
        (lambda: jf.gradient + T, 'derivatives({"a": gradient, "b": ...})(f)(x)'),
        (lambda: T - 2 * jf.value + jf.gradient, '"b": gradient})(f)(x)'),
        (lambda: 2 * jf.hessian, 'derivatives({"a": hessian'),
        (lambda: 1 / T, "coefficient * operator"),
        (lambda: T + "x", "coefficient * jetfold.value"),
        (lambda: jf.directional_derivative("x"), "directional_derivative(v)(f)(x)"),
        (lambda: jf.output(0, net), "output(...)(net)(x)"),
        (lambda: jf.output(jf.laplacian, 0), "output(0, operator)"),
    ],
)
def test_type_errors(write, text):
    with pytest.raises(TypeError, match=says(text)):
        write()


@pytest.mark.parametrize(
    ("write", "text"),
    [
        (lambda: T + jf.partials("x y")[1], 'take both from one partials("t y x")'),
        (lambda: T * jf.partials("y t")[0], 'take both from one partials("t y")'),
        (lambda: jf.derivatives([T, jf.partials("x y")[1]]), 'from one partials("t y x")'),
        (lambda: T + jf.partials(3)[0], 'take both from one partials("t y")'),
        (lambda: jf.partials("t t"), "a name of its own"),
        (lambda: jf.partials("t x", names="t x"), "leave names= out"),
        (lambda: jf.laplacian(over="x y"), 'over="x y", names="t x y"'),
        (lambda: jf.laplacian(over=(1, 1)), "over=(1, 2)"),
        (lambda: jf.laplacian(over=[T**2]), 't, x, y = jetfold.partials("t x y")'),
        (lambda: jf.laplacian(net, over=(1, 2), batch_dims=1)(X), "the point has 2, from 0 on"),
        (
            lambda: jf.randomize(jf.laplacian(over=(0, 2)), 1)(net)(X[0]),
            "the point has 2, from 0 on",
        ),
        (lambda: jf.normal_derivative([0, 0]), "length zero"),
        (lambda: jf.normal_derivative(torch.ones(3))(net, batch_dims=1)(X), "has shape (2,)"),
        (lambda: jf.output(3, T)(net, batch_dims=1)(X), "the function has 1 outputs"),
    ],
)
def test_value_errors(write, text):
    with pytest.raises(ValueError, match=says(text)):
        write()


def test_names_that_agree_combine():
    again = jf.partials("t y")[1]
    assert T * again == T * Y
    assert (T + jf.partials(2)[1]) == T + Y
    assert jf.partials("x y")[0] != T


# ------------------------------------------------------------------ what they should have written


def u(p):
    t, x, y = p[..., 0], p[..., 1], p[..., 2]
    return torch.stack([torch.sin(t * x) * y**3, torch.exp(x * y) + t**2], -1)


def derivative(p, *axes, entry=0):
    f = lambda q: u(q)[entry]
    for axis in axes:
        f = lambda q, f=f, axis=axis: torch.func.jacfwd(f)(q)[axis]
    return f(p)


@pytest.mark.parametrize("method", ["minimal", "collapsed", "nested"])
def test_laplacians_over_some_coordinates(method, rng):
    p = torch.as_tensor(rng.normal(size=3))
    t, x, y = jf.partials("t x y")
    f = lambda q: u(q)[0]
    spelled = derivative(p, 1, 1) + derivative(p, 2, 2)
    for over in ("x y", (1, 2), [x, y]):
        names = "t x y" if over == "x y" else None
        assert jf.laplacian(over=over, names=names) == jf.laplacian(over="x y", names="t x y") or (
            names is None
        )
        found = jf.laplacian(f, over=over, names=names, method=method)(p)
        torch.testing.assert_close(found, spelled)
    heat = t - 2 * jf.laplacian(over="x y", names="t x y")
    torch.testing.assert_close(heat(f, method=method)(p), derivative(p, 0) - 2 * spelled)
    assert jf.biharmonic(over=[x, y]) == (x**2 + y**2) ** 2
    assert jf.identity == jf.value


@pytest.mark.parametrize("method", ["minimal", "standard", "nested"])
def test_directional_and_normal_derivatives(method, rng):
    points, v = (torch.as_tensor(rng.normal(size=(4, 3))) for _ in range(2))
    options = {"batch_dims": 1, "method": method}
    unit = v / v.norm(dim=-1, keepdim=True)
    jacobians = torch.stack([torch.func.jacfwd(u)(p) for p in points])
    along = torch.einsum("bki,bi->bk", jacobians, v)
    torch.testing.assert_close(jf.directional_derivative(v)(u, **options)(points), along)
    normal = jf.normal_derivative(lambda p: v, order=2)(u, **options)(points)
    hessians = torch.stack([torch.func.hessian(u)(p) for p in points])
    torch.testing.assert_close(normal, torch.einsum("bkij,bi,bj->bk", hessians, unit, unit))
    one = v[0].requires_grad_()
    robin = jf.derivatives({"u": 1, "n": jf.normal_derivative(one), "l": jf.laplacian})
    found = robin(u, **options)(points)
    torch.testing.assert_close(found["n"], torch.einsum("bki,i->bk", jacobians, unit[0]))
    torch.testing.assert_close(found["u"], u(points))
    found["n"].sum().backward()
    assert one.grad.norm() > 0
    numbers = jf.normal_derivative([3, 0, 4]) + 2 * jf.value
    expected = jacobians @ torch.tensor([0.6, 0, 0.8]).double() + 2 * u(points)
    torch.testing.assert_close(numbers(u, **options)(points), expected)


def test_operators_of_outputs(rng):
    points = torch.as_tensor(rng.normal(size=(4, 3)))
    t, x, y = jf.partials("t x y")
    calls = []
    field = lambda p: (calls.append(1), u(p))[1]
    wanted = {
        "heat": jf.output(0, t - x**2 - y**2),
        "p": jf.output(1, 2),
        "grad": jf.output(-1, jf.gradient),
        "both": jf.output([1, 0], x),
        "inner": jf.output(1, jf.derivatives([t, jf.gradient])),
    }
    found = jf.derivatives(wanted)(field, batch_dims=1)(points)
    assert len(calls) == 1
    for k, p in enumerate(points):
        heat = derivative(p, 0) - derivative(p, 1, 1) - derivative(p, 2, 2)
        torch.testing.assert_close(found["heat"][k], heat)
        grad = torch.func.grad(lambda q: u(q)[1])(p)
        torch.testing.assert_close(found["grad"][k], grad)
        torch.testing.assert_close(found["inner"][1][k], grad)
        torch.testing.assert_close(found["inner"][0][k], grad[0])
        both = torch.stack([derivative(p, 1, entry=1), derivative(p, 1)])
        torch.testing.assert_close(found["both"][k], both)
    torch.testing.assert_close(found["p"], 2 * u(points)[:, 1])
    named = lambda p: {"u": u(p)[..., 0], "v": u(p)[..., 1]}
    of_key = jf.output("v", x)(named, batch_dims=1)(points)
    torch.testing.assert_close(of_key, found["both"][:, 0])
    with pytest.raises(KeyError, match="returns a mapping with that key"):
        jf.output("p", x)(named, batch_dims=1)(points)
    with pytest.raises(ValueError, match="several numbers per point"):
        jf.output(0, jf.gradient)(lambda p: u(p)[..., 0], batch_dims=1)(points)


# ------------------------------------------------------------------ results


def test_what_is_applied_can_be_pickled_and_says_what_it_is():
    module = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh())
    wanted = {"u": jf.value, "l": jf.laplacian, "g": jf.jacobian, "n": jf.normal_derivative([3, 4])}
    applied = jf.derivatives(wanted)(module, batch_dims=1)
    again = pickle.loads(pickle.dumps(applied))
    torch.testing.assert_close(again(X), applied(X))
    found = jf.laplacian(module)
    assert "The Laplacian Σ_i ∂²f/∂x_i²" in found.__doc__
    assert found.__name__ == "laplacian(Sequential)"
    assert repr(jf.laplacian(net)).startswith("Operator(laplacian)(<function net")


# ------------------------------------------------------------------ expressions


def test_subscripts_are_derivatives():
    t, x = jf.partials("t x")
    assert parse("u_t + u_xx + u_xxxx") == t + x**2 + x**4
    assert parse("u_t - 0.1*u_xx + 3*u", ["t", "x"]) == t - 0.1 * x**2 + 3
    assert parse("u_yx", ["x", "y"]).symbol.terms == {(0, 1): 1}
    assert "5 = 1 + 1 + 1 + 1 + 1" in str(explained("u_t + u_xx + u_xxxx"))
    assert parse("x_1**2 + x_2**2").coordinates == 2  # names of coordinates, as before
    assert parse("u_t**2", names=["u_t", "u_x"]).symbol.terms == {(0, 0): 1}


@pytest.mark.parametrize(
    ("expression", "marked", "text"),
    [
        ("u_t + u*u_x", "u*u_x", "jetfold.residual"),
        ("u_t + u_x**2", "u_x**2", "the second derivative is u_xx"),
        ("u_t + x**2", "x", "either u_t + u_xx or t + x**2"),
        ("u_t + v_x", "v_x", "one function"),
    ],
)
def test_subscripts_that_are_no_operator(expression, marked, text):
    with pytest.raises(ExpressionError, match=says(text)) as raised:
        parse(expression)
    _, shown, marks = str(raised.value).replace("\n\n", "\n").split("\n")
    assert shown[marks.index("^") : marks.rindex("^") + 1] == marked
