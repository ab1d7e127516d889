"""Randomized and chunked operators in PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import jetfold as jf

N = 6
x = jf.partials(N)
laplacian = sum((v**2 for v in x), 0 * x[0])


@pytest.fixture
def function(rng):
    a = torch.as_tensor(rng.normal(size=(N, 4)))
    return lambda p: torch.sin(p @ a).sum(-1) * torch.exp(-p[..., 0])


@pytest.fixture
def points(rng):
    return torch.as_tensor(rng.normal(size=(3, N)))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_unbiased(estimated, function, points):
    """Within four standard errors of the exact operator, over 4,000 independent draws."""
    (operator, estimate), draws = estimated, 4000
    exact = operator(function)(points[0])
    same = points[:1].expand(draws, N)
    values = estimate(function, batch_dims=1, method="collapsed")(same, rng=generator())
    assert values.shape == (draws,)
    error = (values.mean() - exact).abs()
    assert values.std() > 0
    assert error < 4 * values.std() / draws**0.5


@pytest.mark.parametrize("method", ["minimal", "collapsed", "standard", "nested"])
@pytest.mark.parametrize("distribution", ["gaussian", "coordinates"])
def test_methods_agree_on_a_draw(method, distribution, function, points):
    for operator in (jf.laplacian, jf.biharmonic):
        values = [
            jf.randomize(operator, 2, distribution)(function, batch_dims=1, method=m)(
                points, rng=generator(3)
            )
            for m in ("minimal", method)
        ]
        torch.testing.assert_close(*values, rtol=1e-9, atol=1e-9)


def test_generators(function, points):
    """The same seed, the same number; the global state otherwise."""
    estimate = jf.randomize(jf.laplacian, 2)(function, batch_dims=1)
    first = estimate(points, rng=generator(1))
    assert torch.equal(first, estimate(points, rng=generator(1)))
    assert not torch.equal(first, estimate(points, rng=generator(2)))
    one = generator(1)
    assert not torch.equal(estimate(points, rng=one), estimate(points, rng=one))
    torch.manual_seed(4)
    drawn = estimate(points)
    assert not torch.equal(drawn, estimate(points))
    torch.manual_seed(4)
    assert torch.equal(drawn, estimate(points))


def test_per_point(points):
    """Independent draws differ where one draw for all gives equal values."""
    same = points[:1].expand(5, N)

    def f(p):
        return p[..., 0] * p[..., 1]

    shared = jf.randomize(jf.laplacian, 2)(f, batch_dims=1)(same, rng=generator())
    assert torch.equal(shared, shared[:1].expand(5))
    estimate = jf.randomize(jf.laplacian, 2, per_point=True)
    each = estimate(f, batch_dims=1)(same, rng=generator())
    assert len(each.unique()) > 1


def test_exact_where_that_is_as_cheap(function, points):
    exact = jf.laplacian(function, batch_dims=1)(points)
    with pytest.warns(jf.JetfoldWarning, match="6 samples carry no fewer vectors"):
        found = jf.randomize(jf.laplacian, 6)(function, batch_dims=1)(points)
    assert torch.equal(found, exact)
    with pytest.warns(jf.JetfoldWarning, match="which is evaluated instead"):
        found = jf.randomize(laplacian, 7)(function, batch_dims=1)(points)
    torch.testing.assert_close(found, exact)
    sigma = torch.eye(N, 3, dtype=torch.float64)
    with pytest.warns(jf.JetfoldWarning, match="3 samples"):
        weighted = jf.randomize(jf.weighted_laplacian(sigma=sigma), 3)
        found = weighted(function, batch_dims=1)(points)
    torch.testing.assert_close(found, jf.weighted_laplacian(function, sigma, batch_dims=1)(points))


def test_variances(function, points):
    """Orthogonal directions vary less than Gaussian ones, and so on; 1/S for more samples."""

    def variance(samples, distribution):
        estimate = jf.randomize(jf.laplacian, samples, distribution, per_point=True)
        same = points[:1].expand(4000, N)
        values = estimate(function, batch_dims=1)(same, rng=generator())
        return float(values.var())

    hessian = torch.func.hessian(function)(points[0])
    square = float((hessian**2).sum())
    for samples in (1, 3):
        gaussian = variance(samples, "gaussian")
        assert gaussian == pytest.approx(2 * square / samples, rel=0.15)
        off = square - float((hessian.diagonal() ** 2).sum())
        assert variance(samples, "rademacher") == pytest.approx(2 * off / samples, rel=0.15)
        scale = 2 * N * (N - samples) / (samples * (N - 1) * (N + 2))
        orthogonal = scale * (square - float(hessian.trace()) ** 2 / N)
        assert variance(samples, "orthogonal") == pytest.approx(orthogonal, rel=0.15)
        assert orthogonal < gaussian
        drawn = N**2 * (1 - samples / N) * float(hessian.diagonal().var()) / samples
        assert variance(samples, "coordinates") == pytest.approx(drawn, rel=0.15)


@pytest.mark.parametrize("distribution", ["gaussian", "rademacher", "orthogonal", "coordinates"])
def test_weighted_laplacians(distribution, function, points, rng):
    """σ constant, σ(x), a matrix C as an array and as a tensor."""
    sigma = torch.as_tensor(rng.normal(size=(N, 4)))
    C = sigma @ sigma.T
    same = points[:1].expand(4000, N)
    exact = jf.weighted_laplacian(function, sigma)(points[0])
    for given, factor in (
        ({"sigma": sigma}, 1),
        ({"sigma": lambda p: sigma * p[..., :1, None]}, points[0, 0] ** 2),
        ({"C": C}, 1),
        ({"C": C.numpy()}, 1),
    ):
        if distribution == "coordinates" and isinstance(given.get("C"), np.ndarray):
            continue  # a dense C has more kinds of terms than samples
        weighted = jf.weighted_laplacian(**given)
        estimate = jf.randomize(weighted, 2, distribution, per_point=True)
        values = estimate(function, batch_dims=1)(same, rng=generator())
        assert (values.mean() - exact * factor).abs() < 4 * values.std() / 4000**0.5


def test_parameters_and_points_are_differentiated(points):
    net = torch.nn.Sequential(torch.nn.Linear(N, 5), torch.nn.Tanh(), torch.nn.Linear(5, 1))
    net.double()
    point = points.clone().requires_grad_()
    estimate = jf.randomize(jf.laplacian, 2)(net, batch_dims=1)
    estimate(point, rng=generator()).square().sum().backward()
    assert point.grad.abs().sum() > 0
    assert net[0].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("distribution", ["rademacher", "orthogonal", "coordinates"])
def test_compiled_and_mapped(distribution, function, points):
    torch.compiler.reset()
    randomized = jf.randomize(jf.laplacian, 2, distribution)
    estimate = randomized(function, batch_dims=1)
    compiled = torch.compile(estimate, fullgraph=True, backend="aot_eager")
    torch.manual_seed(7)
    expected = estimate(points)
    torch.manual_seed(7)
    torch.testing.assert_close(compiled(points), expected)
    one = randomized(function)
    torch.manual_seed(7)
    torch.testing.assert_close(torch.func.vmap(one, randomness="same")(points), expected)
    if distribution != "orthogonal":
        independent = torch.func.vmap(one, randomness="different")(points[:1].expand(9, N))
        assert len(independent.unique()) > 1


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_chunks(operator, size, function, points):
    expected = operator(function, batch_dims=1)(points)
    for method in ("minimal", "nested"):
        found = operator(function, batch_dims=1, chunk_size=size, method=method)(points)
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)
    tree = jf.derivatives({"u": 1, "of": [operator, x[1] ** 2]})(
        function, batch_dims=1, chunk_size=size
    )
    found = tree(points)
    torch.testing.assert_close(found["u"], function(points))
    torch.testing.assert_close(found["of"][0], expected, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(found["of"][1], (x[1] ** 2)(function, batch_dims=1)(points))


def test_chunks_of_named_operators(function, points, rng):
    tree = lambda p: {"a": function(p), "b": p.sum(-1) ** 3}
    found = jf.laplacian(tree, batch_dims=1, chunk_size=4)(points)
    for key, value in jf.laplacian(tree, batch_dims=1)(points).items():
        torch.testing.assert_close(found[key], value)
    torch.testing.assert_close(
        jf.biharmonic(function, batch_dims=1, chunk_size=7)(points),
        jf.biharmonic(function, batch_dims=1)(points),
        rtol=1e-8,
        atol=1e-9,
    )
    sigma = torch.as_tensor(rng.normal(size=(N, 5)))
    for given in (
        {"sigma": sigma},
        {"sigma": lambda p: sigma * p[..., :1, None]},
        {"C": sigma @ sigma.T},
        {"C": (sigma @ sigma.T).numpy()},
    ):
        torch.testing.assert_close(
            jf.weighted_laplacian(function, **given, batch_dims=1, chunk_size=2)(points),
            jf.weighted_laplacian(function, **given, batch_dims=1)(points),
        )
    compiled = torch.compile(
        jf.laplacian(function, batch_dims=1, chunk_size=4), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(compiled(points), jf.laplacian(function, batch_dims=1)(points))


@pytest.mark.parametrize("size", [7, 20, 64])
def test_gradients_of_chunks_keep_nothing_of_them(size):
    """They equal those of the whole, of second order too; outside of the chunks little is saved."""
    n = 60
    net = torch.nn.Sequential(torch.nn.Linear(n, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    net = net.double()
    weights = list(net.parameters())
    point = torch.linspace(-1, 1, 8 * n, dtype=torch.float64).reshape(8, n).requires_grad_()
    saved, gradients = [], []
    transforms = [
        jf.laplacian(net, batch_dims=1, chunk_size=k, structure=False) for k in (None, size)
    ]
    for function in (*transforms, net):
        kept = 0

        def pack(x):
            nonlocal kept
            kept += x.numel()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            values = function(point)
        saved.append(kept)
        first = torch.autograd.grad(values.square().sum(), [point, *weights[:3]], create_graph=True)
        norm = sum(g.square().sum() for g in first)
        gradients.append([*first, *torch.autograd.grad(norm, [point, *weights[:3]])])
    torch.testing.assert_close(gradients[1], gradients[0])
    whole, chunked, forward = saved
    assert chunked < 1.2 * forward + (whole if size > n else 0)
    assert whole > 3 * forward


def test_gradients_of_chunks_inside_transforms(function, points):
    chunked = jf.laplacian(function, batch_dims=1, chunk_size=4)
    expected = torch.func.grad(lambda p: jf.laplacian(function, batch_dims=1)(p).sum())(points)
    torch.testing.assert_close(torch.func.grad(lambda p: chunked(p).sum())(points), expected)
    torch.testing.assert_close(
        torch.func.vmap(torch.func.grad(jf.laplacian(function, chunk_size=4)))(points), expected
    )
    points.requires_grad_()
    nested = jf.laplacian(jf.laplacian(function, chunk_size=4), chunk_size=4)(points[0])
    whole = jf.biharmonic(function)(points[0])
    torch.testing.assert_close(nested, whole)
    torch.testing.assert_close(*(torch.autograd.grad(x, points) for x in (nested, whole)))
    inner = torch.func.vmap(torch.func.grad(lambda p: function(p)))  # a transform in the function
    values = [
        jf.laplacian(lambda p: inner(p)[..., 0], batch_dims=1, chunk_size=chunk_size)(points)
        for chunk_size in (4, None)
    ]
    torch.testing.assert_close(*values)


def test_memory_of_chunks_and_samples(points):
    """Nothing of size D² is made."""
    n, largest = 3000, 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for leaf in torch.utils._pytree.tree_leaves(out):
                if isinstance(leaf, torch.Tensor):
                    largest = max(largest, leaf.numel())
            return out

    w = torch.linspace(-1, 1, n, dtype=torch.float64)

    def f(p):
        return torch.tanh(p * w).sum(-1)

    p = torch.linspace(0, 1, n, dtype=torch.float64)
    t = torch.tanh(p * w)
    exact = (-2 * t * (1 - t**2) * w**2).sum()
    with Watch():
        found = jf.laplacian(f, chunk_size=20)(p)
        jf.randomize(jf.laplacian, 20)(f)(p, rng=generator())
    torch.testing.assert_close(found, exact)
    assert largest <= 25 * n


def test_explained(function, points):
    estimate = jf.randomize(laplacian, 2, "gaussian")
    text = str(jf.explain(estimate))
    assert "sampled   4" in text
    assert "exact     8" in text
    assert "2‖A‖²/S" in text
    found = jf.explain(estimate, function, points, batch_dims=1, rng=generator(), draws=400)
    hessian = torch.func.vmap(torch.func.hessian(function))(points)
    expected = (hessian**2).sum((-1, -2)).sqrt()
    np.testing.assert_allclose(found.deviation[0], expected, rtol=0.2)
    assert "Values of 400 draws" in str(found)
    assert "none: the exact operator" in str(jf.explain(jf.randomize(laplacian, 9)))


def test_named_operators_are_explained(function, points):
    """σ(x) too: the variance is that of the Laplacian along its columns."""
    n = points.shape[-1]
    draws = {"rng": generator(), "draws": 400, "batch_dims": 1}
    for operator in (jf.laplacian, jf.biharmonic):
        estimate = jf.randomize(operator, 2, "gaussian")
        assert jf.explain(estimate, coordinates=n).vectors == (
            jf.explain(estimate, function, points, **draws).vectors
        )
        with pytest.raises(ValueError, match="give coordinates="):
            jf.explain(estimate)
    columns = lambda p: torch.stack([torch.sin(p), p**2, torch.cos(p), 1 + p], -1)
    estimate = jf.randomize(jf.weighted_laplacian(sigma=columns), 2)
    found = jf.explain(estimate, function, points, **draws)
    assert found.vectors == (4, 6)
    assert not found.exact
    sigma = columns(points)
    hessian = torch.func.vmap(torch.func.hessian(function))(points)
    along = sigma.mT @ hessian @ sigma
    off = along - torch.diag_embed(along.diagonal(dim1=-2, dim2=-1))
    np.testing.assert_allclose(found.deviation[0], (off**2).sum((-1, -2)).sqrt(), rtol=0.2)
    exact = jf.weighted_laplacian(function, columns, batch_dims=1)(points)
    error = found.deviation[0] / 400**0.5
    assert (np.abs(found.mean[0] - exact.numpy()) < 5 * error).all()
    assert jf.explain(jf.randomize(jf.weighted_laplacian(sigma=columns), 9), coordinates=4).exact
    matrix = jf.randomize(jf.weighted_laplacian(C=np.eye(n)), 2)
    assert jf.explain(matrix, function, points, **draws).vectors == (4, n + 2)


def test_errors(function, points):
    with pytest.raises(TypeError, match=r"rng must be a torch.Generator"):
        jf.randomize(jf.laplacian, 2)(function)(points[0], rng=3)
    with pytest.raises(ValueError, match="distribution must be one of gaussian"):
        jf.randomize(jf.laplacian, 2, "uniform")
    with pytest.raises(ValueError, match="samples must be a positive integer"):
        jf.randomize(laplacian, 0)
    with pytest.raises(ValueError, match=r"per_point=True .* needs batch_dims"):
        jf.randomize(jf.laplacian, 2, per_point=True)(function)
    with pytest.raises(TypeError, match=r"randomize takes an operator.*not operator\(f\)"):
        jf.randomize(jf.laplacian(function), 3)
    with pytest.raises(ValueError, match="chunk_size must be a positive integer"):
        jf.laplacian(function, chunk_size=0)
    with pytest.raises(ValueError, match="no isotropic moments of order 4"):
        jf.randomize(jf.biharmonic, 2, "rademacher")(function)(points[0])
    with pytest.raises(ValueError, match="use distribution='coordinates'"):
        jf.randomize(x[0] ** 3, 2, "gaussian")(function)(points[0])
