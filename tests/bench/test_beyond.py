"""Experiments beyond the paper: networks, operators and references against something independent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import sympy

from jetfold.bench import beyond, evidence, experiments, references
from jetfold.bench.backends import backend
from jetfold.bench.cells import How, measure
from jetfold.bench.kinds import network
from jetfold.bench.networks import mlp
from jetfold.bench.processes import here
from jetfold.bench.questions import QUESTIONS
from jetfold.bench.results import Cell, Results, Spec

TORCH = Spec("order", "torch", "eager", "d_x^k", "minimal", "order", 1, 3, order=3, width=0.05)
ONCE = How(budget=0, least=1, most=1, memory=False, threads=1)
EXACT = {"rtol": 1e-10, "atol": 1e-13}


def evaluated(spec):
    """In float64, and what is exact."""
    made = backend(spec.framework, "cpu", "float64", None)
    exact = experiments.exact(spec, made)
    with made.doubles():
        ready = experiments.prepare(spec, made, "float64")
        call = made.value(ready.function, ready.parameters, spec.mode == "compiled")
        return made.numpy(call(ready.points)), exact


# ------------------------------------------------------------------ kinds of network


@pytest.mark.parametrize("kind", ["resnet", "transformer", "fno", "psiformer"])
@pytest.mark.parametrize(("operator", "dimension"), [("laplacian", 12), ("biharmonic", 6)])
def test_kinds_in_pytorch(kind, operator, dimension):
    spec = replace(TORCH, operator=operator, dimension=dimension, network=kind, width=0.1)
    if (kind, operator) == ("psiformer", "biharmonic"):
        pytest.skip("PyTorch cannot nest so many derivatives of determinants")
    for method in ("standard", "collapsed", "minimal"):
        value, exact = evaluated(replace(spec, method=method))
        np.testing.assert_allclose(value, exact, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["resnet", "transformer", "fno"])
def test_kinds_in_jax_are_those_in_pytorch(kind):
    spec = replace(TORCH, operator="laplacian", dimension=12, network=kind, width=0.1, batch=2)
    theirs, _ = evaluated(spec)
    made = backend("jax", "cpu", "float64", None)
    with made.doubles():
        ready = experiments.prepare(replace(spec, framework="jax"), made, "float64")
        ours = made.numpy(made.value(ready.function, ready.parameters, True)(ready.points))
    np.testing.assert_allclose(ours, theirs, **EXACT)


def test_a_wave_function_in_jax():
    jax = pytest.importorskip("jax")
    made = backend("jax", "cpu", "float64", None)
    with made.doubles():
        parameters, apply = network("psiformer", 6, made, "float64", factor=0.1)
        x = made.array(np.random.default_rng(5).normal(size=(1, 6)))
        spec = Spec("kinds", "jax", "compiled", "laplacian", "minimal", "network", 6, 1)
        operator = experiments.operator_of(spec, made.array)
        found = jax.jit(operator(lambda z: apply(parameters, z), batch_dims=1))(x)
        h = 1e-4 * np.eye(6)
        points = np.concatenate([x, x + h, x - h])
        values = made.numpy(jax.jit(apply)(parameters, points))[:, 0]
        differences = (values[1:].sum() - 12 * values[0]) / 1e-8
    np.testing.assert_allclose(made.numpy(found)[0, 0], differences, rtol=1e-5)


def test_what_is_no_kind():
    made = backend("torch", "cpu", "float32", None)
    with pytest.raises(ValueError, match=r"kind must be one of .*psiformer; got 'cnn'"):
        network("cnn", 3, made, "float32")
    with pytest.raises(ValueError, match="a multiple of 6, got 9"):
        network("psiformer", 9, made, "float32")


# ------------------------------------------------------------------ what is exact


def test_differences_with_many_digits_are_sympys_derivatives(rng):
    x, y = symbols = sympy.symbols("x y")
    ripple = sympy.exp(-(x**2 + y**2) / 4) * sympy.sin(sympy.Rational(1, 2) + x + y)
    points = rng.normal(size=(2, 2))

    def at(expression, variables):
        return [
            [float(expression.subs(dict(zip(variables, map(sympy.Float, p), strict=False))))]
            for p in points.tolist()
        ]

    laplacians = [ripple]
    for k in (1, 2, 3):
        laplacians.append(sum(sympy.diff(laplacians[-1], s, 2) for s in symbols))
        found = references.differences("laplacian^k", references.ripple, 2 * k, points)
        np.testing.assert_allclose(found, at(laplacians[-1], symbols), rtol=1e-12)
    line = ripple.subs(y, 0)
    found = references.differences("d_x^k", references.ripple, 7, points[:, :1])
    np.testing.assert_allclose(found, at(sympy.diff(line, x, 7), (x,)), rtol=1e-12)


@pytest.mark.parametrize("order", [1, 4, 10])
def test_a_circle_and_mpmath_agree_on_derivatives_of_a_network(order, rng):
    layers, points = mlp(1, 1.0, 3, (6, 5)), rng.normal(size=(3, 1))
    on_a_circle = references.on_a_circle(layers, order, points)
    by_mpmath = references.differences("d_x^k", references.tanh_mlp(layers), order, points)
    np.testing.assert_allclose(on_a_circle, by_mpmath, rtol=1e-10)


def test_the_laplacian_in_many_dimensions_is_that_of_the_inner_layer():
    spec = replace(TORCH, operator="laplacian", dimension=40, chunk=16, width=0.02)
    made = backend("torch", "cpu", "float64", None)
    points = experiments.points_of(spec)
    found = references.laplacian_of_mlp(experiments.layers_of(spec), points, made)
    value, exact = evaluated(spec)  # nested in all dimensions
    np.testing.assert_allclose(found, exact, **EXACT)
    np.testing.assert_allclose(value, exact, **EXACT)


# ------------------------------------------------------------------ operators of any order


@pytest.mark.parametrize("framework", ["torch", "jax"])
@pytest.mark.parametrize("method", ["nested", "minimal"])
def test_orders(framework, method):
    mode = "compiled" if framework == "jax" else "eager"
    spec = replace(TORCH, framework=framework, mode=mode, method=method)
    np.testing.assert_allclose(*evaluated(spec), **EXACT)


@pytest.mark.parametrize("method", ["nested", "standard", "collapsed", "minimal"])
@pytest.mark.parametrize("dimension", [2, 3])
def test_powers_of_the_laplacian(dimension, method):
    spec = replace(TORCH, operator="laplacian^k", order=4, dimension=dimension, batch=1)
    for known in ("small", "ripple"):
        found = evaluated(replace(spec, network=known, method=method))
        np.testing.assert_allclose(*found, **EXACT)


def test_an_order_is_needed():
    for operator, order in (("d_x^k", None), ("laplacian^k", 3)):
        with pytest.raises(ValueError, match=f"needs an order, an even one for Δᵏ; got {order}"):
            experiments.operator_of(replace(TORCH, operator=operator, order=order), np.asarray)


# ------------------------------------------------------------------ grids


@pytest.mark.parametrize("size", beyond.GRIDS)
def test_every_question_is_measured_and_nothing_twice(size):
    groups = beyond.grid(size, ("torch", "jax"), "cpu")
    specs = [spec for group, _ in groups for spec in group]
    assert len(set(specs)) == len(specs)
    asked = {(spec.experiment, spec.operator) for spec in specs}
    assert asked == set(QUESTIONS) or (size == "quick" and asked < set(QUESTIONS))
    assert all(group for group, _ in groups)
    assert all(spec.method != "nested" or beyond.bounded(spec) for spec in specs)
    assert not {"jax"} & {s.framework for g, _ in beyond.grid(size, ("torch",), "cpu") for s in g}


def test_methods_that_are_the_same_are_measured_once():
    laplacian = beyond.Sweep("depth", "laplacian", "depth", (2,), {"dimension": 4}, [beyond.EAGER])
    specs = laplacian.specs(beyond.EAGER, 2, "cpu")
    assert [spec.method for spec in specs] == ["nested", "standard", "minimal"]
    line = beyond.Sweep("order", "d_x^k", "order", (3, 9), {})
    assert [spec.method for spec in line.specs(beyond.EAGER, 3, "cpu")] == ["nested", "minimal"]
    assert [spec.method for spec in line.specs(beyond.EAGER, 9, "cpu")] == ["minimal"]


def test_pieces_carry_what_a_piece_carries_and_the_limit_is_that_of_all():
    spec = replace(TORCH, experiment="dimension", operator="laplacian", variable="dimension")
    (cell,) = measure([replace(spec, dimension=10, chunk=4)], ONCE, here)
    assert cell.vectors == 6 and cell.error < 1e-5
    assert cell.limit > 0
    made = backend("torch", "cpu", "float32", None)
    assert experiments.prepare(replace(spec, dimension=10, chunk=4), made).passes == 3


def test_a_wrong_value_of_any_experiment_is_a_problem():
    results = Results("quick")
    specs = [TORCH, replace(TORCH, experiment="error"), replace(TORCH, network="psiformer")]
    results.add(
        Cell(spec, error=error) for spec, error in zip(specs, (1e-4, 1e-1, 1e-4), strict=True)
    )
    first, second = evidence.problems(results, [(specs, ONCE)])
    assert "d_x^k, minimal, torch eager, order 3: relative error 1.0e-04 exceeds" in first
    assert "1.0e-01" in second
