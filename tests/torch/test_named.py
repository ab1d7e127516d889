"""Gradient, divergence, curl, Jacobian and Hessian, and how operators combine, in PyTorch."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.func import grad, hessian, jacfwd, vmap

import jetfold as jf
from jetfold.core import plans

METHODS = ["minimal", "collapsed", "standard", "nested"]
methods = pytest.mark.parametrize("method", METHODS)
N = 4


def close(found, expected, tolerance=1e-10):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


@pytest.fixture
def x(rng):
    return torch.as_tensor(rng.normal(size=N))


@pytest.fixture
def net(rng):
    """A network from N coordinates to one number per point; weights in float64."""
    net = torch.nn.Sequential(
        torch.nn.Linear(N, 7), torch.nn.Tanh(), torch.nn.Linear(7, 1)
    ).double()
    for p in net.parameters():
        p.data = torch.as_tensor(rng.normal(size=p.shape))
    return net


@pytest.fixture
def field(rng):
    """A vector field of any number of coordinates."""
    a = torch.as_tensor(rng.normal(size=(8, 8)))
    return lambda p: torch.sin(p @ a[: p.shape[-1], : p.shape[-1]]) * p[..., :1].exp()


def scalar(p):
    return torch.sin(p[0] * p[1]) * p[-1] ** 3 + torch.tanh(p).prod()


def carried(operator, n):
    """How many vectors the minimal method propagates for n coordinates."""
    return plans.plan(operator.symbols, operator.variables(n), "minimal").algebra.vectors


def test_vectors():
    for n in (1, 2, 3, 6):
        for operator in (jf.gradient, jf.jacobian, jf.divergence, jf.curl):
            assert carried(operator, n) == n + 1
        full = 1 + n + n * (n + 1) // 2
        together = {"h": jf.hessian, "g": jf.gradient, "l": jf.laplacian, "u": jf.value}
        assert carried(jf.hessian, n) == full
        assert carried(jf.derivatives(together), n) == full
        assert carried(jf.derivatives([jf.gradient, jf.laplacian]), n) == n + 2
    x, y = jf.partials(2)
    heat = jf.derivatives(
        {"u": jf.value, "du": jf.gradient, "l": jf.laplacian, "h": x - 0.1 * y**2}
    )
    assert carried(heat, 2) == 5  # u, u_x, u_y, and the two of order two


@methods
def test_gradient(method, x, net):
    close(jf.gradient(scalar, method=method)(x), grad(scalar)(x))
    points = torch.stack([x, -x, 2 * x])
    found = jf.gradient(net, batch_dims=1, method=method)(points)
    close(found, vmap(grad(lambda p: net(p)[0]))(points))
    close(vmap(jf.gradient(scalar, method=method))(points), vmap(grad(scalar))(points))
    both = jf.gradient(lambda a, k, b: (a.sum() * b**2).sum() * k, argnums=(0, 2), method=method)
    a, b = x.reshape(2, 2), x[:3]
    expected = grad(lambda a, b: (a.sum() * b**2).sum() * 3.0, argnums=(0, 1))(a, b)
    for one, other in zip(both(a, 3.0, b), expected, strict=True):
        close(one, other)


@methods
def test_jacobian_and_divergence(method, x, field):
    close(jf.jacobian(field, method=method)(x), jacfwd(field)(x))
    close(jf.divergence(field, method=method)(x), jacfwd(field)(x).trace())
    points = torch.stack([x, -x, 2 * x])
    close(jf.jacobian(field, batch_dims=1, method=method)(points), vmap(jacfwd(field))(points))
    traces = vmap(jacfwd(field))(points).diagonal(0, -2, -1).sum(-1)
    close(jf.divergence(field, batch_dims=1, method=method)(points), traces)
    of_matrix = lambda p: {"a": p @ p, "b": p.sum()}
    found = jf.jacobian(of_matrix, method=method)(x.reshape(2, 2))
    expected = jacfwd(of_matrix)(x.reshape(2, 2))
    close(found["a"], expected["a"])
    close(found["b"], expected["b"])
    of_shape = jf.divergence(lambda p: p @ p, method=method)(x.reshape(2, 2))
    close(of_shape, torch.einsum("ijij->", expected["a"]))


@methods
def test_curl(method, x, field):
    p = x[:3]
    d = jacfwd(field)(p)  # d[i, j] = ∂_j f_i
    expected = torch.stack([d[2, 1] - d[1, 2], d[0, 2] - d[2, 0], d[1, 0] - d[0, 1]])
    close(jf.curl(field, method=method)(p), expected)
    points = torch.stack([p, -p])
    found = jf.curl(field, batch_dims=1, method=method)(points)
    close(found, torch.stack([jf.curl(field)(q) for q in points]))
    flat = jacfwd(field)(x[:2])
    close(jf.curl(field, method=method)(x[:2]), flat[1, 0] - flat[0, 1])


@methods
def test_hessian(method, x, net):
    close(jf.hessian(scalar, method=method)(x), hessian(scalar)(x))
    points = torch.stack([x, -x, 2 * x])
    close(jf.hessian(net, batch_dims=1, method=method)(points), vmap(hessian(net))(points))
    two = lambda a, b: (a**2).sum() * torch.sin(b).sum() + (a.sum() * b) ** 2
    found = jf.hessian(two, argnums=(0, 1), method=method)(x[:2], x[2])
    expected = hessian(two, argnums=(0, 1))(x[:2], x[2])
    for row, other in zip(found, expected, strict=True):
        for one, another in zip(row, other, strict=True):
            close(one, another)


@methods
def test_together(method, x, net):
    """One propagation gives what each gives alone; σ(x) and several directions beside it."""
    t = jf.partials(N, names="t x y z")
    sigma = lambda p: torch.stack([torch.sin(p), p**2], -1)
    tree = {
        "u": jf.value,
        "two": 2,
        "all": [jf.gradient, (jf.hessian, jf.laplacian)],
        "heat": t[0] - 0.1 * (t[1] ** 2 + t[2] ** 2),
        "weighted": jf.weighted_laplacian(sigma=sigma),
        "matrix": jf.weighted_laplacian(C=torch.eye(N, dtype=x.dtype) * x),
        "inner": jf.derivatives([jf.laplacian, t[3] ** 2]),
        "sum": jf.laplacian - 3 * jf.biharmonic + t[0],
    }
    calls = 0

    def counted(p):
        nonlocal calls
        calls += 1
        return net(p)

    points = torch.stack([x, -x, 2 * x])
    operator = jf.derivatives(tree)
    found = operator(counted, batch_dims=1, method=method)(points)
    assert calls == 1 or method == "nested"
    close(found["u"], net(points))
    close(found["two"], 2 * net(points))
    close(found["all"][0], jf.gradient(net, batch_dims=1)(points))
    close(found["all"][1][0], vmap(hessian(net))(points))
    laplacian = vmap(hessian(net))(points).diagonal(0, -2, -1).sum(-1)
    close(found["all"][1][1], laplacian)
    close(found["heat"], tree["heat"](net, batch_dims=1)(points))
    close(found["weighted"], jf.weighted_laplacian(net, sigma, batch_dims=1)(points))
    close(found["matrix"], tree["matrix"](net, batch_dims=1)(points))
    close(found["inner"][0], laplacian)
    close(found["inner"][1], (t[3] ** 2)(net, batch_dims=1)(points))
    expected = laplacian - 3 * jf.laplacian(jf.laplacian(net, batch_dims=1), batch_dims=1)(points)
    close(found["sum"], expected + t[0](net, batch_dims=1)(points), 1e-8)


def test_arithmetic_of_named_operators(x):
    t = jf.partials(N)
    assert jf.laplacian**2 == jf.biharmonic
    assert jf.laplacian * jf.laplacian + 0 * jf.value == jf.biharmonic
    assert (jf.laplacian + t[0]).coordinates == N
    assert str(jf.laplacian - 3 * jf.biharmonic) == "laplacian - 3*laplacian**2"
    spelled = sum((v**2 for v in t), 0 * t[0])
    close((jf.laplacian * t[0])(scalar)(x), (spelled * t[0])(scalar)(x))
    close((x.sum() * jf.laplacian)(scalar)(x), x.sum() * hessian(scalar)(x).trace())
    with pytest.raises(ValueError, match="on 2 and on 4 coordinates do not combine"):
        jf.derivatives([jf.partials(2)[0], t[0]])


def test_composes(x, net):
    """vmap, grad, compile, chunks and autograd of stacked operators."""
    points = torch.stack([x, -x, 2 * x])
    operator = jf.derivatives({"g": jf.gradient, "h": jf.hessian, "l": jf.laplacian})
    expected = operator(net, batch_dims=1)(points)
    mapped = vmap(operator(lambda p: net(p)[0]))(points)
    close(mapped["g"], expected["g"])
    close(mapped["h"], expected["h"][:, 0])
    chunked = operator(net, batch_dims=1, chunk_size=2)(points)
    compiled = torch.compile(operator(net, batch_dims=1), fullgraph=True, backend="aot_eager")
    for found in (chunked, compiled(points)):
        for key, value in expected.items():
            close(found[key], value)
    loss = expected["h"].square().sum() + expected["g"].sum()
    own = torch.autograd.grad(loss, net[0].weight)[0]
    reference = vmap(hessian(net))(points).square().sum() + vmap(jacfwd(net))(points).sum()
    close(own, torch.autograd.grad(reference, net[0].weight)[0])
    third = jacfwd(jf.hessian(scalar))(x)
    close(third, jacfwd(hessian(scalar))(x))
    close(jf.laplacian(jf.hessian(scalar))(x), jf.hessian(jf.laplacian(scalar))(x), 1e-8)


def test_estimates_beside_exact_ones(x, net):
    points = torch.stack([x, -x, 2 * x])
    tree = {"u": jf.value, "g": jf.gradient, "est": jf.randomize(jf.biharmonic, 1)}
    operator = jf.derivatives(
        [tree, jf.randomize(jf.weighted_laplacian(sigma=torch.eye(N) * 1.0), 1)]
    )
    generator = torch.Generator().manual_seed(3)
    (found, weighted) = operator(net.float(), batch_dims=1)(points.float(), rng=generator)
    net.double()
    close(found["u"].double(), net(points), 1e-5)
    close(found["g"].double(), jf.gradient(net, batch_dims=1)(points), 1e-5)
    assert found["est"].shape == weighted.shape == (3, 1)


def test_copies_and_repr():
    assert repr(jf.gradient) == "gradient"
    assert repr(jf.laplacian) == "Operator(laplacian)"
    assert "gradient" in repr(jf.derivatives({"g": jf.gradient}))
    assert copy.deepcopy(jf.laplacian) == jf.laplacian
    assert jf.laplacian.__doc__.startswith("The Laplacian")


def test_what_is_refused(x, field):
    with pytest.raises(
        ValueError, match=r"one number per point, got .* \(4,\); use jetfold.jacobian"
    ):
        jf.gradient(field)(x)
    with pytest.raises(ValueError, match=r"as many outputs per point as coordinates \(4\)"):
        jf.divergence(scalar)(x)
    with pytest.raises(ValueError, match="curl takes a field in 2 or 3 coordinates, got 4"):
        jf.curl(field)(x)
    with pytest.raises(TypeError, match=r"write laplacian\(f\)\(x\), not laplacian\(f, x\)"):
        jf.laplacian(scalar, x)
    with pytest.raises(TypeError, match="randomize estimates sums of derivatives, and gradient"):
        jf.randomize(jf.gradient, 2)(scalar)(x)
    with pytest.raises(TypeError, match="is random already"):
        jf.randomize(jf.randomize(jf.laplacian, 2), 2)(scalar)(x)
    with pytest.raises(TypeError, match="write laplacian, the operator itself, not laplacian"):
        jf.derivatives({"l": jf.laplacian(scalar)})
    with pytest.raises(TypeError, match=r"write weighted_laplacian\(sigma=sigma\)"):
        jf.weighted_laplacian(torch.eye(2))
