"""Nonlinear equations as they are written, in PyTorch and in JAX, against nested differentiation."""

from __future__ import annotations

import pickle
from functools import partial, wraps

import numpy as np
import pytest

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
import jax.numpy as jnp

import jetfold as jf
from jetfold.core import plans

SIZES = (3, 6, 3)


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def weights(rng):
    return [rng.normal(size=s) / 2 for s in [(3, 6), (6,), (6, 3)]]


def network(xp, parameters, p):
    """(…, 3) -> (…, 3): u, v and p."""
    first, shift, last = parameters
    return xp.tanh(p @ first + shift) @ last


def nested(parameters, p, k, *axes):
    """A derivative of output k at one point, by nested forward mode of JAX."""
    f = lambda q: network(jnp, parameters, q)[k]
    for axis in axes:
        f = lambda q, f=f, axis=axis: jax.jacfwd(f)(q)[axis]
    return f(p)


def navier_stokes(u, v, p, d, t, nu):
    return {
        "x": d.t(u) + u * d.x(u) + v * d.y(u) + d.x(p) - nu * d.laplacian(u, over="x y") - t,
        "y": d.t(v) + d.along(v, (u, v), over="x y") + d.y(p) - nu * (d.xx(v) + d.y(d.y(v))),
        "mass": d.divergence((u, v), over="x y"),
    }


FLOW = jf.residual(navier_stokes, "t x y")


def expected(parameters, p, nu):
    D = partial(nested, parameters, p)
    u, v, _ = network(jnp, parameters, p)
    return {
        "x": D(0, 0) + u * D(0, 1) + v * D(0, 2) + D(2, 1) - nu * (D(0, 1, 1) + D(0, 2, 2)) - p[0],
        "y": D(1, 0) + u * D(1, 1) + v * D(1, 2) + D(2, 2) - nu * (D(1, 1, 1) + D(1, 2, 2)),
        "mass": D(0, 1) + D(1, 2),
    }


def in_torch(arrays, grad=False):
    return [torch.as_tensor(a).requires_grad_(grad) for a in arrays]


def close(found, wanted, tolerance=1e-11):
    found = found.detach() if isinstance(found, torch.Tensor) else found
    np.testing.assert_allclose(np.asarray(found), np.asarray(wanted), tolerance, tolerance)


@pytest.mark.parametrize("method", ["minimal", "collapsed", "nested"])
def test_navier_stokes(method, rng):
    parameters, points = weights(rng), rng.normal(size=(5, 3))
    wanted = jax.jit(jax.vmap(partial(expected, parameters, nu=0.3)))(points)
    calls = []
    ours = in_torch(parameters)
    net = lambda p: (calls.append(1), network(torch, ours, p))[1]
    nu = torch.tensor(0.3, dtype=torch.float64)
    for _ in range(2):  # the second call knows what it is asked for
        found = FLOW(net, batch_dims=1, method=method)(torch.as_tensor(points), nu=nu)
        for name, values in wanted.items():
            assert found[name].shape == (5,)
            close(found[name], values)
    assert method == "nested" or len(calls) == 2
    net = partial(network, jnp, parameters)
    found = jax.jit(FLOW(net, batch_dims=1, method=method))(points, nu=0.3)
    one = jax.jit(jax.vmap(partial(FLOW(net, method=method), nu=0.3)))(points)
    for name, values in wanted.items():
        close(found[name], values)
        close(one[name], values)


def loss_of(xp, parameters, points, nu):
    terms = FLOW(partial(network, xp, parameters), batch_dims=1)(points, nu=nu)
    return sum((term**2).mean() for term in terms.values())


def test_gradients_to_parameters_of_network_and_equation(rng):
    parameters, points, nu = weights(rng), rng.normal(size=(5, 3)), 0.3

    def reference(parameters, nu):
        terms = jax.vmap(partial(expected, parameters, nu=nu))(jnp.asarray(points))
        return sum((term**2).mean() for term in terms.values())

    wanted = jax.jit(jax.grad(reference, argnums=(0, 1)))([jnp.asarray(w) for w in parameters], nu)
    found = jax.jit(jax.grad(partial(loss_of, jnp), argnums=(0, 2)))(
        [jnp.asarray(w) for w in parameters], points, nu
    )
    leaves, nu = (
        in_torch(parameters, grad=True),
        torch.tensor(nu, dtype=torch.float64, requires_grad=True),
    )
    loss_of(torch, leaves, torch.as_tensor(points), nu).backward()
    functional = torch.func.grad(partial(loss_of, torch), argnums=(0, 2))(
        in_torch(parameters), torch.as_tensor(points), nu.detach()
    )
    for k in range(3):
        close(found[0][k], wanted[0][k])
        close(leaves[k].grad, wanted[0][k])
        close(functional[0][k], wanted[0][k])
    for each in (found[1], nu.grad, functional[1]):
        close(each, wanted[1])


def test_compiled(rng):
    """As a whole, made inside too: what is asked for is learned while it is traced."""
    flow = jf.residual(navier_stokes, "t x y")
    module = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    points, nu = torch.rand(7, 3), torch.tensor(0.3, requires_grad=True)

    def loss(points, nu):
        inside = jf.residual(navier_stokes, "t x y")
        terms = inside(module, batch_dims=1)(points, nu=nu)
        return sum(term.square().mean() for term in terms.values())

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = torch.autograd.grad(compiled(points, nu), [nu, *module.parameters()], allow_unused=True)
    wanted = torch.autograd.grad(loss(points, nu), [nu, *module.parameters()], allow_unused=True)
    for one, other in zip(found[:-1], wanted[:-1], strict=True):
        torch.testing.assert_close(one, other)
    mapped = torch.func.vmap(lambda p: flow(module)(p, nu=0.3))(points)
    torch.testing.assert_close(mapped["x"], flow(module, batch_dims=1)(points, nu=0.3)["x"])


def test_operators_in_a_compiled_equation():
    """Made inside and outside, with fractions, of fields and of derivatives."""
    t, x = jf.partials("t x")
    outside = t - 0.3 * x**2

    def equation(u, d):
        return d(outside)(u) + u * d.x(u) + d(t - x / 3)(d.x(u))

    def apart(u, d):
        mixed = d.tx(u) - d.xx(u) / 3
        return d.t(u) - 0.3 * d.xx(u) + u * d.x(u) + mixed

    module = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    points = torch.rand(5, 2)
    solve = jf.residual(equation, "t x")(module, batch_dims=1)
    found = torch.compile(solve, fullgraph=True, backend="aot_eager")(points)
    torch.testing.assert_close(found, solve(points))
    torch.testing.assert_close(found, jf.residual(apart, "t x")(module, batch_dims=1)(points))


def test_compiled_with_other_numbers(rng):
    """To Dynamo a number that changes is a symbol; operators are made of numbers."""
    t, x = jf.partials(2)
    points, weight = torch.as_tensor(rng.normal(size=(4, 2))), torch.as_tensor(rng.normal(size=2))

    def solve(points, nu):
        burgers = jf.residual(lambda u, d: d(t - nu * x**2)(u) + u * d.x(u), "t x")
        return burgers(lambda p: torch.tanh(p @ weight), batch_dims=1)(points)

    compiled = torch.compile(solve, fullgraph=True, backend="eager")
    for nu in (0.1, 0.25, 0.7, 0.25):
        torch.testing.assert_close(compiled(points, nu), solve(points, nu))
        u = torch.tanh(points @ weight)
        slope, curvature = 1 - u**2, -2 * u * (1 - u**2)
        exact = slope * weight[0] - nu * curvature * weight[1] ** 2 + u * slope * weight[1]
        torch.testing.assert_close(compiled(points, nu), exact)


def test_what_is_linear_as_one_operator_carries_fewer_vectors():
    t, x = jf.partials("t x")
    for together, apart, vectors in (
        (lambda u, d: d(t - 0.01 * x**2)(u) + u * d.x(u),
         lambda u, d: d.t(u) - 0.01 * d.xx(u) + u * d.x(u), (3, 4)),
        (lambda u, d: d(t + x**2 + x**4)(u) + u * d.x(u),
         lambda u, d: d.t(u) + d.xx(u) + d.xxxx(u) + u * d.x(u), (5, 6)),
    ):  # fmt: skip
        equations = [jf.residual(one, "t x") for one in (together, apart)]
        assert tuple(jf.explain(one).vectors["minimal"] for one in equations) == vectors


def test_few_vectors():
    """Those of the union of what is asked for, and of a Laplacian as a whole."""
    f = lambda p: torch.sin(p).prod(-1)
    points = torch.rand(4, 3)

    def carried(equation, coordinates="t x y"):
        made = jf.residual(equation, coordinates)
        made(f, batch_dims=1)(points)
        symbols = jf.residual.__globals__["_symbols"](3, *made.asked)
        return plans.plan(symbols, 3, "minimal").algebra.vectors

    assert carried(lambda u, d: d.t(u) + u * d.x(u) - d.xx(u)) == 4
    assert carried(lambda u, d: d.t(u) + u * d.x(u) + d.xx(u) + d.xxxx(u)) == 6
    assert carried(lambda u, d: d.t(u) - d.laplacian(u, over="x y") + u**3) == 5
    assert carried(lambda u, d: d.biharmonic(u, over="x y") - u) == 9
    assert carried(lambda u, d: u - 1) == 1


def test_every_way_to_differentiate(rng):
    p = torch.as_tensor(rng.normal(size=(4, 3)))
    f = lambda q: torch.sin(q[..., 0] * q[..., 1]) * torch.exp(q[..., 2]) + q[..., 1] ** 5
    _, x, y = jf.partials("t x y")

    def of(*axes):
        g = f
        for axis in axes:
            g = lambda q, g=g, axis=axis: torch.func.jacfwd(g)(q)[axis]
        return torch.func.vmap(g)(p)

    def value(write, coordinates="t x y"):
        return jf.residual(write, coordinates)(f, batch_dims=1)(p)

    close(value(lambda u, d: d.txy(u)), of(0, 1, 2))
    close(value(lambda u, d: d.x(d.yx(u)) * u), of(1, 1, 2) * f(p))
    close(value(lambda u, d: d[1](u) + d[0, 2](u), 3), of(1) + of(0, 2))
    close(value(lambda u, d: d(x**2 - 3 * x * y)(d.x(u))), of(1, 1, 1) - 3 * of(1, 1, 2))
    close(value(lambda u, d: d.laplacian(u)), of(0, 0) + of(1, 1) + of(2, 2))
    bih = of(1, 1, 1, 1) + 2 * of(1, 1, 2, 2) + of(2, 2, 2, 2)
    close(value(lambda u, d: d.biharmonic(u, over="x y")), bih)
    close(value(lambda u, d: d.laplacian(d.laplacian(u, over="y x"), over="x y")), bih)
    close(value(lambda u, d: sum(d.gradient(u, over="y t"))), of(0) + of(2))
    normal = torch.as_tensor(rng.normal(size=(3, 4)))
    along = sum(normal[k] * of(k) for k in range(3))
    close(value(lambda u, d: d.along(u, normal)), along)
    close(value(lambda u, d: d.theta_r(u) + d.r(u), "r theta z"), of(0, 1) + of(0))
    close(
        value(lambda u, d, y, t, point: d.x(u) * y * t - point[:, 1]),
        of(1) * p[:, 2] * p[:, 0] - p[:, 1],
    )
    separate = jf.residual(lambda u, d, y: d.ty(u) * y, "t x y")
    found = torch.func.vmap(
        separate(lambda a, k, b: f(torch.cat([a, b])) * k, argnums=(0, 2)), (0, None, 0)
    )
    close(found(p[:, :1], 2.0, p[:, 1:]), 2 * of(0, 2) * p[:, 2])


def test_fields_by_name_and_apart(rng):
    p = torch.as_tensor(rng.normal(size=(4, 2)))
    u, v = lambda p: torch.sin(p[:, 0] * p[:, 1]), lambda p: (p**2).sum(-1, keepdim=True)
    mixed = jf.residual(lambda u, v, d: (d.x(u) * v, d.xt(v) + d.xx(v)), "t x")
    wanted = p[:, 0] * torch.cos(p.prod(-1)) * (p**2).sum(-1), 2 * torch.ones(4)
    for f in (
        lambda p: torch.cat([u(p)[:, None], v(p)], -1),
        lambda p: {"v": v(p), "u": u(p), "more": p},
        lambda p: (u(p), v(p)),
    ):
        for one, other in zip(mixed(f, batch_dims=1)(p), wanted, strict=True):
            close(one, other)
    psi = lambda p: torch.exp(1j * (p[:, 1] - 2 * p[:, 0]))  # of i ψ_t = −ψ_xx + |ψ|² ψ
    cubic = jf.residual(lambda u, d: 1j * d.t(u) + d.xx(u) - u.abs() ** 2 * u, "t x")
    close(cubic(psi, batch_dims=1)(p).abs(), torch.zeros(4), 1e-12)


def test_jets_of_residuals(rng):
    """A residual may be differentiated again: gradient-enhanced training."""
    p = torch.as_tensor(rng.normal(size=(4, 2)))
    f = lambda p: torch.sin(p[..., 0] * p[..., 1]) + p[..., 1] ** 3
    burgers = jf.residual(lambda u, d: d.t(u) + u * d.x(u) - d.xx(u), "t x")
    found = jf.gradient(burgers(f, batch_dims=1), batch_dims=1)(p)
    wanted = torch.func.vmap(torch.func.jacrev(burgers(f)))(p)
    close(found, wanted)


def test_decorated_equations_and_methods():
    @wraps(navier_stokes)
    def logged(*args, **kwargs):
        return navier_stokes(*args, **kwargs)

    class Heat:
        k = 2.0

        def equation(self, u, d):
            return d.t(u) - self.k * d.xx(u)

    assert jf.residual(logged, "t x y").fields == ("u", "v", "p")
    p = torch.rand(3, 2)
    found = jf.residual(Heat().equation, "t x")(lambda p: p[:, 1] ** 2, batch_dims=1)(p)
    close(found, -4 * torch.ones(3), 1e-6)


def test_branches_on_values_are_followed():
    """A branch that the placeholders did not take asks for more; the values decide."""
    one_sided = jf.residual(lambda u, d: d.xx(u) if u.sum() < 0 else d.x(u), "x")
    x = torch.tensor([0.5], dtype=torch.float64)
    close(one_sided(lambda p: p[0] ** 3)(x), 0.75)
    close(one_sided(lambda p: -(p[0] ** 3))(x), -3)
    several = jf.residual(lambda u, d: d.xx(u) if u < 0 else d.x(u), "x")
    with pytest.raises(TypeError, match=r"choose between them by torch\.where or jnp\.where"):
        several(lambda p: p**3, batch_dims=1)(x.expand(3)[:, None])
    with pytest.raises(TypeError, match=r"choose between them by torch\.where or jnp\.where"):
        several(lambda p: p**3)(jnp.ones(1))


def test_fields_that_were_written_to():
    def doubled(u, d):
        u *= 2
        return d.x(u)

    f = lambda p: p.prod(-1, keepdim=True)
    with pytest.raises(RuntimeError, match=r"write u = 2 \* u, not u \*= 2"):
        jf.residual(doubled, "t x")(f, batch_dims=1)(torch.rand(3, 2))
    compiled = torch.compile(jf.residual(doubled, "t x")(f, batch_dims=1), backend="eager")
    with pytest.raises(RuntimeError, match="written-to tensor"):
        compiled(torch.rand(3, 2))
    assert torch.is_grad_enabled()
    with pytest.raises(TypeError, match="another DynamicJaxprTracer"):
        jf.residual(doubled, "t x")(lambda p: p.prod(-1), batch_dims=1)(jnp.ones((3, 2)))


def test_pickled():
    again = pickle.loads(pickle.dumps(FLOW))
    p = torch.rand(3, 3)
    found = pickle.loads(pickle.dumps(again(torch.sin, batch_dims=1)))(p, nu=1.0)
    torch.testing.assert_close(found, FLOW(torch.sin, batch_dims=1)(p, nu=1.0))
    assert repr(FLOW) == "residual(navier_stokes: u v p of t x y)"


P = torch.rand(5, 2)
NET = lambda p: p.prod(-1)


@pytest.mark.parametrize(
    ("equation", "says"),
    [
        (lambda u, d: d.x(u * u), r"d\.x\(u\*\*2\) is 2 \* u \* d\.x\(u\)"),
        (lambda u, d: d.xx(d.x(u) + d.t(u)), r"a field of the equation \(u\) or a derivative"),
        (lambda u, d, x: d.x(x), "another Tensor"),
        (lambda u, d: d(P)(u), r"d\(t - 0\.1 \* x\*\*2\)\(u\)"),
        (lambda u, d: d(u), r"of a field write d\.x\(u\)"),
    ],
)
def test_what_is_no_derivative(equation, says):
    with pytest.raises(TypeError, match=says):
        jf.residual(equation, "t x")(NET, batch_dims=1)(P)


@pytest.mark.parametrize(
    ("equation", "says"),
    [
        (lambda u, v, d: u, r"2 fields \(u v\).*\(5, 2\).*got shape \(5,\)"),
        (
            lambda u, d: d.x(u) * torch.ones(5, 1),
            r"one number per point, an array \(5,\), got shape \(5, 5\)",
        ),
        (lambda u, d: d.laplacian(u, over="x z"), "the coordinates are t x"),
        (lambda u, d: d.divergence((u,)), "one entry per coordinate, 2 here, got 1"),
        (lambda u, d: d(jf.partials("x t")[0])(u), r'partials\("x t"\)'),
    ],
)
def test_what_does_not_fit(equation, says):
    with pytest.raises(ValueError, match=says):
        jf.residual(equation, "t x")(NET, batch_dims=1)(P)


def test_what_is_misspelled():
    with pytest.raises(AttributeError, match=r"d\.xz is no derivative.*d\.tt\(u\) a second"):
        jf.residual(lambda u, d: d.xz(u), "t x")(NET, batch_dims=1)(P)
    with pytest.raises(IndexError, match="numbered from 0 to 1"):
        jf.residual(lambda u, d: d[2](u), 2)(NET, batch_dims=1)(P)
    with pytest.raises(TypeError, match=r"fields and then d.*got a function of \(u, v\)"):
        jf.residual(lambda u, v: u * v, "t x")
    with pytest.raises(TypeError, match="an equation as a function"):
        jf.residual("u_t + u*u_x", "t x")
    with pytest.raises(TypeError, match="write residual"):
        jf.residual(lambda u, d: u, "t x")(NET, P)
    with pytest.raises(ValueError, match='in the order of the point, as in "t x y"'):
        jf.residual(lambda u, d: u, "")
    with pytest.raises(ValueError, match="cannot be called laplacian"):
        jf.residual(lambda u, d: u, "x laplacian")
    with pytest.raises(ValueError, match="pass batch_dims=1"):
        jf.residual(lambda u, d: d.x(u), "t x")(NET)(P)
    with pytest.raises(TypeError, match="'nu'"):
        jf.residual(lambda u, d, nu: nu * d.x(u), "t x")(NET, batch_dims=1)(P)
