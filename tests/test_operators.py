"""Operators: arithmetic, arguments, coefficients, trees of operators, jets, and what is refused."""

from __future__ import annotations

from collections import namedtuple
from fractions import Fraction
from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import jetfold as jf

F64 = torch.float64
METHODS = ["minimal", "collapsed", "standard", "nested"]
methods = pytest.mark.parametrize("method", METHODS)


def close(a, b, rtol=1e-9, atol=1e-9):
    torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def u(p):
    """A function of three coordinates along the last axis."""
    t, x, y = p[..., 0], p[..., 1], p[..., 2]
    return torch.sin(t * x) * torch.exp(0.3 * y * x) + t**3 * y**2 + torch.tanh(x + y) * x**4


def _along(f, axis, p):
    return torch.func.jacfwd(f)(p)[..., axis]


def derivative(f, *axes):
    """Nested forward mode along coordinate axes."""
    for axis in axes:
        f = partial(_along, f, axis)
    return f


def hessian(f, x):
    return torch.func.hessian(f)(x)


def point(n=3):
    return torch.randn(n, dtype=F64)


# ------------------------------------------------------------------ arithmetic


@methods
def test_polynomials_in_partials(method):
    t, x, y = jf.partials(3)
    p = point()
    operator = t * x - 3 * x**2 * y + (x + 2 * y) ** 3 / 4 - t / 2 + 5
    d = lambda *axes: derivative(u, *axes)(p)
    cubic = d(1, 1, 1) + 6 * d(1, 1, 2) + 12 * d(1, 2, 2) + 8 * d(2, 2, 2)
    expected = d(0, 1) - 3 * d(1, 1, 2) + cubic / 4 - d(0) / 2 + 5 * u(p)
    close(operator(u, method=method)(p), expected)


def test_repr_is_what_one_writes():
    t, x, y = jf.partials(3, names="t x y")
    assert repr(t - 0.1 * (x**2 + y**2)) == "Operator(t - 0.1*x**2 - 0.1*y**2)"
    assert repr(jf.partials(2)[1] ** 2 * Fraction(1, 3) + 2) == "Operator(2 + (1/3)*d1**2)"
    assert repr(-(t * x)) == "Operator(-t*x)"


def test_operators_compare_hash_and_sum():
    x, y = jf.partials(2)
    assert x * y == y * x
    assert hash((x + y) ** 2) == hash(x**2 + 2 * x * y + y**2)
    assert sum([x**2, y**2]) == x**2 + y**2
    assert x - x == 0 * x
    assert x**0 == 1 + 0 * x
    assert 2 - x == -(x - 2)


def test_partials_of_a_shape_nest():
    grid = jf.partials((2, 3))
    p = torch.randn(2, 3, dtype=F64)
    f = lambda p: (p**3).sum() * p[0, 1]
    result = (grid[0][1] * grid[1][2])(f)(p)
    close(result, torch.func.hessian(f)(p)[0, 1, 1, 2])


def test_irrational_coefficients():
    x, y = jf.partials(2)
    p = point(2)
    f = lambda p: torch.sin(p[0] * p[1]) * p[1]
    h = hessian(f, p)
    op = np.sqrt(2) * x**2 + np.pi * x * y
    close(op(f)(p), np.sqrt(2) * h[0, 0] + np.pi * h[0, 1])


def test_complex_coefficients_stay_outside():
    t, x = jf.partials(2)
    p = point(2)
    f = lambda p: torch.sin(p[0] * p[1]) * p[1]
    schroedinger = 1j * t + x**2 / 2
    close(
        schroedinger(f)(p),
        1j * torch.func.grad(f)(p)[0] + hessian(f, p)[1, 1].to(torch.complex128) / 2,
    )


def test_zero_operator():
    x, _ = jf.partials(2)
    close((0 * x)(torch.sin)(torch.randn(2, dtype=F64)), torch.zeros(2, dtype=F64))


# ------------------------------------------------------------------ coefficients outside


@methods
def test_array_and_callable_coefficients(method):
    _, x, y = jf.partials(3)
    p = torch.randn(6, 3, dtype=F64)
    a = torch.randn(6, dtype=F64, requires_grad=True)

    def drift(p):
        return torch.cos(p[:, 0])

    operator = a * x**2 + drift * (x * y) - y
    assert repr(operator) == "Operator(-d2 + array(6,)*(d1**2) + drift*(d1*d2))"
    h = torch.stack([hessian(u, row) for row in p])
    g = torch.stack([torch.func.grad(u)(row) for row in p])
    expected = a * h[:, 1, 1] + drift(p) * h[:, 1, 2] - g[:, 2]
    result = operator(u, batch_dims=1, method=method)(p)
    close(result, expected)
    close(torch.autograd.grad(result.sum(), a)[0], h[:, 1, 1])


def test_numpy_coefficients():
    x, y = jf.partials(2)
    p = point(2)
    f = lambda p: p[0] ** 2 * p[1] ** 2
    close((np.array(3.0) * x * y)(f)(p), 3 * hessian(f, p)[0, 1])


def test_products_that_would_differentiate_a_coefficient_are_refused():
    x, y = jf.partials(2)
    a = torch.randn(4)
    with pytest.raises(TypeError, match=r"write it by nesting: A\(B\(u\)\)"):
        x * (a * y)
    with pytest.raises(TypeError, match="coefficient multiplies an operator from the left"):
        x * a
    assert ((a * x) * y).outside[0].symbol == (x * y).symbol


# ------------------------------------------------------------------ arguments and outputs


@methods
def test_argnums(method):
    a, b = point(2), point(1)
    f = lambda c, a, b, k: c * torch.sin(a[0] * b[0]) * a[1] ** 2 * k
    whole = lambda z: f(2.0, z[:2], z[2:], 3.0)
    expected = hessian(whole, torch.cat([a, b])).trace()
    result = jf.laplacian(f, argnums=(1, 2), method=method)(2.0, a, b, k=3.0)
    close(result, expected)
    first = jf.laplacian(f, argnums=1, method=method)(2.0, a, b, k=3.0)
    close(first, hessian(whole, torch.cat([a, b]))[:2, :2].trace())


@methods
def test_points_of_any_shape(method):
    p = torch.randn(2, 3, dtype=F64)
    f = lambda p: torch.sin(p).prod() + (p[0] * p[1]).sum() ** 2
    expected = hessian(lambda z: f(z.reshape(2, 3)), p.reshape(-1)).trace()
    close(jf.laplacian(f, method=method)(p), expected)
    two = torch.stack([torch.stack([p, 2 * p]), torch.stack([-p, p + 1])])
    batched = lambda p: torch.sin(p).prod(-1).prod(-1) + (p[..., 0, :] * p[..., 1, :]).sum(-1) ** 2
    ours = jf.laplacian(batched, batch_dims=2, method=method)(two)
    each = [[hessian(lambda z: f(z.reshape(2, 3)), q.reshape(-1)).trace() for q in r] for r in two]
    close(ours, torch.stack([torch.stack(row) for row in each]))


@methods
def test_pytree_outputs(method):
    p = point()
    f = lambda p: {"a": p**3, "b": [torch.sin(p[0] * p[1]), (p.sum() ** 4, torch.ones(2))]}
    out = jf.laplacian(f, method=method)(p)
    close(out["a"], 6 * p)
    close(out["b"][0], hessian(lambda p: torch.sin(p[0] * p[1]), p).trace())
    close(out["b"][1][0], 3 * 12 * p.sum() ** 2)
    close(out["b"][1][1], torch.zeros(2, dtype=out["b"][1][1].dtype))


def test_scalar_point():
    x = torch.tensor(0.7, dtype=F64)
    close(jf.laplacian(torch.sin)(x), -torch.sin(x))
    close(jf.biharmonic(torch.sin)(x), torch.sin(x))


def test_the_point_is_not_changed():
    def f(x):
        x += 1
        x[0] = 0
        return (x**2).sum()

    x = point()
    before = x.clone()
    close(jf.laplacian(f)(x), torch.tensor(4.0, dtype=F64))
    assert torch.equal(x, before)


# ------------------------------------------------------------------ weighted Laplacians


@methods
@pytest.mark.parametrize("rank", [1, 2, 3, 5])
def test_weighted_laplacian_of_any_rank(method, rank):
    p, sigma = point(), torch.randn(3, rank, dtype=F64)
    expected = torch.einsum("ir,jr,ij->", sigma, sigma, hessian(u, p))
    close(jf.weighted_laplacian(u, sigma, method=method)(p), expected)
    close(jf.weighted_laplacian(u, sigma.numpy(), method=method)(p), expected)


@methods
def test_state_dependent_sigma(method):
    p = torch.randn(4, 3, dtype=F64)

    def sigma(p):
        return torch.stack([torch.sin(p), p**2], -1)

    h = torch.stack([hessian(u, row) for row in p])
    s = sigma(p)
    expected = torch.einsum("bir,bjr,bij->b", s, s, h)
    close(jf.weighted_laplacian(u, sigma, batch_dims=1, method=method)(p), expected)
    close(torch.func.vmap(jf.weighted_laplacian(u, sigma, method=method))(p), expected)


@methods
def test_symmetric_indefinite_matrix(method):
    p = point()
    c = torch.randn(3, 3, dtype=F64)
    c = c + c.T
    expected = (c * hessian(u, p)).sum()
    close(jf.weighted_laplacian(u, C=c.numpy(), method=method)(p), expected)
    trainable = c.clone().requires_grad_()
    result = jf.weighted_laplacian(u, C=trainable, method=method)(p)
    close(result, expected)
    close(torch.autograd.grad(result, trainable)[0], hessian(u, p))


def test_trainable_sigma():
    p, sigma = point(), torch.randn(3, 2, dtype=F64, requires_grad=True)
    ours = torch.autograd.grad(jf.weighted_laplacian(u, sigma)(p), sigma)[0]
    close(ours, 2 * hessian(u, p) @ sigma)


# ------------------------------------------------------------------ several at once, jets


def test_derivatives_in_any_tree():
    t, x, y = jf.partials(3)
    Pair = namedtuple("Pair", "first second")
    p = point()
    out = jf.derivatives({"u": 1, "d": [t, (x * y,)], "pair": Pair(y**3, t + x**2)})(u)(p)
    close(out["u"], u(p))
    close(out["d"][0], derivative(u, 0)(p))
    close(out["d"][1][0], derivative(u, 1, 2)(p))
    assert isinstance(out["pair"], Pair)
    close(out["pair"].first, derivative(u, 2, 2, 2)(p))
    close(out["pair"].second, derivative(u, 0)(p) + derivative(u, 1, 1)(p))


@methods
def test_derivatives_with_coefficients_and_trees_of_outputs(method):
    _, x, _ = jf.partials(3)
    p, c = point(), torch.tensor(2.5, dtype=F64)
    out = jf.derivatives([c * x, x**2])(lambda p: (u(p), p**2), method=method)(p)
    close(out[0][0], 2.5 * derivative(u, 1)(p))
    close(out[1][1], torch.tensor([0.0, 2.0, 0.0], dtype=F64))


def test_jet_follows_the_path():
    x0, x1, x2, x3 = (torch.randn(4, dtype=F64) for _ in range(4))
    f = lambda x: torch.sin(x).prod() * torch.exp(x[0])

    def along(t):
        return f(x0 + t * x1 + t**2 / 2 * x2 + t**3 / 6 * x3)

    value, series = jf.jet(f, (x0,), ((x1, x2, x3),))
    close(value, f(x0))
    g, zero = along, torch.zeros((), dtype=F64)
    for term in series:
        g = torch.func.grad(g) if g is along else torch.func.jacfwd(g)
        close(term, g(zero))


def test_jet_of_several_arguments():
    a, b = torch.randn(2, dtype=F64), torch.randn(2, dtype=F64)
    value, (first, second) = jf.jet(lambda a, b: a * torch.exp(b), (a, b), ((a, a * 0), (b, b * 0)))
    close(value, a * b.exp())
    close(first, a * b.exp() * (1 + b))
    close(second, a * b.exp() * (2 * b + b**2))


# ------------------------------------------------------------------ what is refused


def test_integer_input():
    with pytest.raises(TypeError, match=r"needs a floating-point point, got dtype torch.int64"):
        jf.laplacian(torch.sin)(torch.arange(3))


def test_complex_input():
    with pytest.raises(TypeError, match=r"derivatives in real coordinates, .*view_as_real"):
        jf.laplacian(torch.sin)(torch.randn(3, dtype=torch.complex64))


def test_wrong_number_of_coordinates():
    t, x = jf.partials(2)
    with pytest.raises(
        ValueError, match=r"acts on 2 coordinates, but the point has 3 .*partials\(3\)"
    ):
        (t + x)(torch.sin)(torch.randn(3))


def test_operators_of_different_coordinates():
    with pytest.raises(ValueError, match="on 2 and on 3 coordinates do not combine"):
        jf.partials(2)[0] + jf.partials(3)[0]


def test_unknown_method():
    with pytest.raises(ValueError, match=r"method must be one of minimal, .* got 'fastest'"):
        jf.laplacian(torch.sin, method="fastest")


@pytest.mark.parametrize(
    ("sigma", "text"),
    [
        (torch.ones(2, 2), r"sigma must have shape \(3, R\).*got \(2, 2\)"),
        (torch.ones(3), r"sigma must have shape \(3, R\).*got \(3,\)"),
        (lambda p: torch.ones(2, 3), r"sigma must have shape \(3, R\).*got \(2, 3\)"),
    ],
)
def test_sigma_of_a_wrong_shape(sigma, text):
    with pytest.raises(ValueError, match=text):
        jf.weighted_laplacian(torch.sin, sigma)(torch.randn(3))


def test_matrices_that_do_not_fit():
    with pytest.raises(ValueError, match="must be symmetric"):
        jf.weighted_laplacian(torch.sin, C=np.array([[0.0, 1.0], [0.0, 0.0]]))
    with pytest.raises(ValueError, match=r"must have shape \(3, 3\)"):
        jf.weighted_laplacian(torch.sin, C=np.eye(2))(torch.randn(3))
    with pytest.raises(TypeError, match="either sigma or C"):
        jf.weighted_laplacian(torch.sin)


@pytest.mark.parametrize("result", ["text", None, 3.0])
@methods
def test_function_that_returns_no_array(result, method):
    with pytest.raises(TypeError, match="must return tensors"):
        jf.laplacian(lambda x: result, method=method)(torch.randn(3))


def test_writing_a_jet_into_a_plain_tensor():
    out = torch.zeros(3)

    def f(x):
        out[1] = x.sum()
        return out

    with pytest.raises(RuntimeError, match=r"out\[i\] = jet would write a jet into a plain tensor"):
        jf.laplacian(f)(torch.randn(3))


def test_values_instead_of_functions():
    with pytest.raises(TypeError, match=r"write laplacian\(f\)\(x\)"):
        jf.laplacian(torch.randn(3))


def test_points_of_no_framework():
    with pytest.raises(TypeError, match=r"a torch.Tensor or a jax.Array, got builtins.list"):
        jf.laplacian(torch.sin)([1.0, 2.0])
    with pytest.raises(TypeError, match="argnums"):
        jf.laplacian(torch.sin, argnums=2)(torch.ones(3))


def test_batch_dims_that_do_not_fit():
    with pytest.raises(ValueError, match="at least as many axes"):
        jf.laplacian(torch.sin, batch_dims=2)(torch.randn(3))
    with pytest.raises(ValueError, match="non-negative integer"):
        jf.laplacian(torch.sin, batch_dims=-1)
    with pytest.raises(ValueError, match="share their first 1"):
        jf.laplacian(torch.add, argnums=(0, 1), batch_dims=1)(torch.randn(2, 3), torch.randn(4, 3))


def test_series_that_do_not_fit():
    x = torch.randn(3)
    with pytest.raises(ValueError, match="one series per primal"):
        jf.jet(torch.sin, (x,), ())
    with pytest.raises(ValueError, match="same number of terms"):
        jf.jet(torch.add, (x, x), ((x,), (x, x)))
    with pytest.raises(ValueError, match=r"must have that shape, got \(2,\)"):
        jf.jet(torch.sin, (x,), ((torch.ones(2),),))


def test_bad_partials_and_powers():
    with pytest.raises(ValueError, match="number of coordinates or a shape"):
        jf.partials(0)
    with pytest.raises(ValueError, match="needs 2 names, got 1"):
        jf.partials(2, names="x")
    x = jf.partials(1)[0]
    with pytest.raises(ValueError, match="non-negative integer"):
        x**-1
    with pytest.raises(TypeError, match="divided by a number"):
        x / torch.ones(2)
    with pytest.raises(TypeError, match="at least one operator"):
        jf.derivatives({"u": 1})
    with pytest.raises(TypeError, match="takes operators and numbers, got str"):
        jf.derivatives([x, "u"])


@methods
def test_integers_and_booleans_beside_numbers(method):
    x, y, _ = jf.partials(3)
    p = point()
    f = lambda p: (torch.sin(p[0] * p[1]), p > 0, (p > 0) * 3)
    real, boolean, integer = (x * y + 1)(f, method=method)(p)
    close(real, hessian(lambda p: f(p)[0], p)[0, 1] + f(p)[0])
    assert torch.equal(boolean, p > 0) and torch.equal(integer, (p > 0) * 3)
    for zero in jf.laplacian(f, method=method)(p)[1:]:
        assert not zero.any() and not zero.is_floating_point()
    assert jf.hessian(f, method=method)(p)[2].shape == (3, 3, 3)


def test_jets_of_order_zero():
    p = point()
    value, series = jf.jet(lambda p, q: (torch.sin(p) * q, p > 0), (p, p), ([], []))
    close(value[0], torch.sin(p) * p)
    assert series == []
