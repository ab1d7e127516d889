"""What is refused, and in which words."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("jax")

import jax
import jax.numpy as jnp

import jetfold as jf

methods = pytest.mark.parametrize("method", ["minimal", "collapsed", "standard", "nested"])


def square(x):
    return (x**2).sum()


@pytest.mark.parametrize("dtype", [int, bool])
def test_integer_input(dtype):
    with pytest.raises(
        TypeError, match=r"laplacian needs a floating-point point, .*astype\(float\)"
    ):
        jf.laplacian(square)(jnp.ones(3, dtype))


def test_complex_input():
    with pytest.raises(TypeError, match=r"derivatives in real coordinates, .*z = x \+ 1j \* y"):
        jf.biharmonic(square)(jnp.ones(3, complex))


def test_wrong_number_of_coordinates():
    t, x = jf.partials(2)
    text = r"acts on 2 coordinates, but the point has 3 .*partials\(3\)"
    with pytest.raises(ValueError, match=text):
        (t + x)(square)(jnp.ones(3))
    with pytest.raises(ValueError, match=text):
        jax.jit((t + x)(square, batch_dims=1))(jnp.ones((2, 3)))


def test_unknown_method():
    with pytest.raises(ValueError, match=r"method must be one of minimal, .* got 'fastest'"):
        jf.laplacian(square, method="fastest")


@pytest.mark.parametrize(
    ("sigma", "text"),
    [
        (np.ones((2, 2)), r"sigma must have shape \(3, R\).*got \(2, 2\)"),
        (np.ones(3), r"sigma must have shape \(3, R\).*got \(3,\)"),
        (lambda x: jnp.ones((2, 3)), r"sigma must have shape \(3, R\).*got \(2, 3\)"),
    ],
)
def test_sigma_of_a_wrong_shape(sigma, text):
    with pytest.raises(ValueError, match=text):
        jf.weighted_laplacian(square, sigma)(jnp.ones(3))


def test_matrices_that_do_not_fit():
    with pytest.raises(ValueError, match="must be symmetric"):
        jf.weighted_laplacian(square, C=np.array([[0.0, 1.0], [0.0, 0.0]]))
    for C in (np.eye(2), jnp.eye(2)):
        with pytest.raises(ValueError, match=r"C must have shape \(3, 3\).*got \(2, 2\)"):
            jf.weighted_laplacian(square, C=C)(jnp.ones(3))
    with pytest.raises(TypeError, match="either sigma or C"):
        jf.weighted_laplacian(square)


@methods
@pytest.mark.parametrize(
    "result", ["text", None, ["a", "b"], {}, object()], ids=lambda x: type(x).__name__
)
def test_function_that_returns_no_array(result, method):
    with pytest.raises(TypeError, match=r"the function must return arrays \(or a pytree of them\)"):
        jf.laplacian(lambda x: result, method=method)(jnp.ones(3))


def test_path_of_a_function_that_returns_no_array():
    with pytest.raises(TypeError, match="the function must return arrays"):
        jf.jet(lambda x: "text", (jnp.ones(3),), ((jnp.ones(3),),))


@methods
def test_numbers_are_constants(method):
    out = jf.laplacian(lambda x: {"one": 1.0, "y": x**2}, method=method)(jnp.ones(3))
    assert out["one"] == 0
    assert out["one"].shape == ()


@pytest.mark.parametrize("point", [[1.0, 2.0], 3.0, None, "x", {"a": np.ones(2)}], ids=repr)
def test_points_that_are_no_array(point):
    with pytest.raises(TypeError, match=r"torch.Tensor or a jax.Array, got builtins\.\w+; convert"):
        jf.laplacian(square)(point)


def test_second_point_that_is_no_array():
    with pytest.raises(TypeError, match=r"differentiates a jax.Array, got float; .*argnums="):
        jf.laplacian(lambda x, y: square(x) * y, argnums=(0, 1))(jnp.ones(2), 3.0)


def test_argnums_out_of_range():
    with pytest.raises(TypeError, match=r"argnums=2 asks for positional arguments .*: 1 came"):
        jf.laplacian(square, argnums=2)(jnp.ones(3))
    with pytest.raises(TypeError, match="pass the point to differentiate by position"):
        jf.laplacian(square)(x=jnp.ones(3))
    with pytest.raises(ValueError, match="argnums must be an integer or a tuple of integers"):
        jf.laplacian(square, argnums=())


def test_batch_dims_that_do_not_fit():
    with pytest.raises(ValueError, match="at least as many axes"):
        jf.laplacian(square, batch_dims=2)(jnp.ones(3))
    with pytest.raises(ValueError, match="share their first 1"):
        jf.laplacian(jnp.add, argnums=(0, 1), batch_dims=1)(jnp.ones((2, 3)), jnp.ones((4, 3)))


def test_values_instead_of_functions():
    with pytest.raises(TypeError, match=r"write laplacian\(f\)\(x\)"):
        jf.laplacian(square(jnp.ones(3)))


def test_series_that_do_not_fit():
    x = jnp.ones(3)
    with pytest.raises(ValueError, match="one series per primal"):
        jf.jet(jnp.sin, (x,), ())
    with pytest.raises(ValueError, match=r"must have that shape, got \(2,\)"):
        jf.jet(jnp.sin, (x,), ((jnp.ones(2),),))


def test_python_branches_are_refused_by_jax():
    def f(x):
        return square(x) if x[0] > 0 else x.sum()

    for method in ("minimal", "nested"):
        with pytest.raises(jax.errors.TracerBoolConversionError, match="boolean conversion"):
            jf.laplacian(f, method=method)(jnp.ones(3))
    with pytest.raises(jax.errors.ConcretizationTypeError):
        jf.laplacian(lambda x: x * float(x[0]))(jnp.ones(3))


def test_errors_of_the_function_are_its_own():
    def f(x):
        raise RuntimeError("the user's own words")

    with pytest.raises(RuntimeError, match="the user's own words"):
        jf.laplacian(f)(jnp.ones(3))
    with pytest.raises(TypeError, match="incompatible shapes for broadcasting"):
        jf.laplacian(lambda x: x + jnp.ones(2))(jnp.ones(3))


def test_operations_without_derivatives():
    f = jax.custom_jvp(lambda x: jnp.fft.fft(x).real)
    with pytest.raises(AttributeError, match="No JVP defined for custom_jvp function"):
        jf.laplacian(f)(jnp.ones(3))
    f.defjvp(lambda x, t: (f(*x), f(*t)))
    with jf.strict(), pytest.raises(NotImplementedError, match="forbids the general rule"):
        jf.laplacian(f)(jnp.ones(3))
