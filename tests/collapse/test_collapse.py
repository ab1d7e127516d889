"""The compiler pass: what it saves, and that it changes nothing else."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
import jax.numpy as jnp
from jax import lax
from jax.experimental.jet import jet as experimental_jet
from torch.fx.experimental.proxy_tensor import make_fx

import jetfold as jf
from jetfold.collapse import half_of
from jetfold.collapse.backend import rewritten
from jetfold.collapse.plan import plan
from jetfold.collapse.plan import planned as planned_structure
from jetfold.core.axes import Contracted

WIDTHS = (768, 768, 512, 512, 1)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def layers(dimension: int, widths=WIDTHS) -> list[Any]:
    rng, made, n = np.random.default_rng(0), [], dimension
    for m in widths:
        made.append((rng.normal(size=(n, m)) / n**0.5, rng.normal(size=m) / 3))
        n = m
    return made


def jax_network(dimension: int, widths=WIDTHS) -> Any:
    made = [(jnp.asarray(w), jnp.asarray(b)) for w, b in layers(dimension, widths)]

    def network(x):
        for k, (w, b) in enumerate(made):
            x = x @ w + b
            x = jnp.tanh(x) if k + 1 < len(made) else x
        return x

    return network


def torch_network(dimension: int, widths=WIDTHS) -> Any:
    modules: list[Any] = []
    for w, b in layers(dimension, widths):
        linear = torch.nn.Linear(*w.shape, dtype=torch.float64)
        with torch.no_grad():
            linear.weight.copy_(torch.as_tensor(w.T))
            linear.bias.copy_(torch.as_tensor(b))
        modules += [linear, torch.nn.Tanh()]
    return torch.nn.Sequential(*modules[:-1])


# The programs, as people write them: from a network, directions and an order to a function of
# a batch of points.


def jax_jvp(f, directions, order):
    def along(x, v):
        def once(g):
            return lambda y: jax.jvp(g, (y,), (v,))[1]

        g = f
        for _ in range(order):
            g = once(g)
        return g(x)

    return jax.vmap(lambda x: jax.vmap(lambda v: along(x, v))(directions).sum(0))


def jax_jet(f, directions, order):
    def along(x, v):
        rest = [jnp.zeros_like(v)] * (order - 1)
        return experimental_jet(f, (x,), ((v, *rest),))[1][-1]

    return jax.vmap(lambda x: jax.vmap(lambda v: along(x, v))(directions).sum(0))


def jax_ours(f, directions, order):
    def along(x, v):
        rest = [jnp.zeros_like(v)] * (order - 1)
        return jf.jet(f, (x,), ((v, *rest),))[1][-1]

    return jax.vmap(lambda x: jax.vmap(lambda v: along(x, v))(directions).sum(0))


def torch_jvp(f, directions, order):
    def along(x, v):
        def once(g):
            return lambda y: torch.func.jvp(g, (y,), (v,))[1]

        g = f
        for _ in range(order):
            g = once(g)
        return g(x)

    vmap = torch.func.vmap
    return vmap(lambda x: vmap(lambda v: along(x, v))(directions).sum(0))


def torch_batch_inside(f, directions, order):
    """The directions outside, the batch as it is."""

    def along(x, v):
        def once(g):
            return lambda y: torch.func.jvp(g, (y,), (v.expand(x.shape),))[1]

        g = f
        for _ in range(order):
            g = once(g)
        return g(x)

    return lambda x: torch.func.vmap(lambda v: along(x, v))(directions).sum(0)


def torch_ours(f, directions, order):
    def along(x, v):
        rest = [torch.zeros_like(v)] * (order - 1)
        return jf.jet(f, (x,), ((v, *rest),))[1][-1]

    vmap = torch.func.vmap
    return vmap(lambda x: vmap(lambda v: along(x, v))(directions).sum(0))


PROGRAMS = {
    "jax": (jax_jvp, jax_jet, jax_ours),
    "torch": (torch_jvp, torch_batch_inside, torch_ours),
}
CASES = [(framework, form) for framework, forms in PROGRAMS.items() for form in forms]
BY_NAME = pytest.mark.parametrize(
    ("framework", "form"), CASES, ids=lambda x: getattr(x, "__name__", x)
)


def arrays(framework: str, *values: np.ndarray) -> list[Any]:
    return [jnp.asarray(v) if framework == "jax" else torch.as_tensor(v) for v in values]


def network_of(framework: str, dimension: int, widths=WIDTHS) -> Any:
    return (jax_network if framework == "jax" else torch_network)(dimension, widths)


def planned(function, *args):
    return plan(half_of(args, {}).traced(function, args, {}).program)


def compiled(framework: str, function: Any) -> Any:
    if framework == "jax":
        return jax.jit(function)
    return torch.compile(function, fullgraph=True, dynamic=False, backend="aot_eager")


# ------------------------------------------------------------------ what it saves


@BY_NAME
def test_a_laplacian_costs_what_the_forward_laplacian_does(framework, form, rng):
    """≤ 1.03 × (D + 2) forward passes in matrix products, D = 50."""
    dimension = 50
    x, eye = arrays(framework, rng.normal(size=(4, dimension)), np.eye(dimension))
    f = network_of(framework, dimension)
    forward = planned(jax.vmap(f) if framework == "jax" else f, x).matmul_before
    found = planned(form(f, eye, 2), x)
    assert found.matmul_before > 1.8 * (dimension + 2) * forward
    assert found.matmul_after <= 1.03 * (dimension + 2) * forward


@pytest.mark.parametrize(
    ("framework", "form"), [("jax", jax_jet), ("jax", jax_ours), ("torch", torch_ours)]
)
def test_fourth_derivatives_along_directions(framework, form, rng):
    """≤ 1.03 × (3R + 2) forward passes."""
    dimension, count = 5, 12
    x, v = arrays(framework, rng.normal(size=(3, dimension)), rng.normal(size=(count, dimension)))
    f = network_of(framework, dimension)
    forward = planned(jax.vmap(f) if framework == "jax" else f, x).matmul_before
    found = planned(form(f, v, 4), x)
    assert found.matmul_after <= 1.03 * (3 * count + 2) * forward


@pytest.mark.parametrize(
    ("framework", "form", "order"),
    [
        *((framework, form, order) for framework, form in CASES for order in (2, 4)),
        ("jax", jax_ours, 3),
        ("torch", torch_jvp, 3),
    ],
    ids=lambda x: getattr(x, "__name__", x),
)
def test_values_are_the_same(framework, form, order, rng):
    x, v = arrays(framework, rng.normal(size=(3, 4)), rng.normal(size=(6, 4)))
    program = form(network_of(framework, 4, (7, 6, 2)), v, order)
    expected, found = program(x), jf.collapse(program)(x)
    np.testing.assert_allclose(
        found.detach() if framework == "torch" else found,
        expected.detach() if framework == "torch" else expected,
        rtol=1e-11,
        atol=1e-12,
    )


def test_sixth_derivatives(rng):
    x, v = arrays("jax", rng.normal(size=(2, 3)), rng.normal(size=(5, 3)))
    program = jax_ours(jax_network(3, (5, 4, 1)), v, 6)
    np.testing.assert_allclose(jf.collapse(program)(x), program(x), rtol=1e-10)
    assert planned(program, x).after < 0.9 * planned(program, x).before


# ------------------------------------------------------------------ other programs


def second(f, x, v):
    return jax.jvp(lambda y: jax.jvp(f, (y,), (v,))[1], (x,), (v,))[1]


def weighted_by_einsum(f, x, v, w):
    return jnp.einsum("r,ro->o", w, jax.vmap(lambda v: second(f, x, v))(v))


def weighted_by_dot(f, x, v, w):
    return w @ jax.vmap(lambda v: second(f, x, v))(v)


def weighted_by_product(f, x, v, w):
    return (w[:, None] * jax.vmap(lambda v: second(f, x, v))(v)).sum(0)


def mean(f, x, v, w):
    return jax.vmap(lambda v: second(f, x, v))(v).mean(0)


def over_two_axes(f, x, v, w):
    pairs = jax.vmap(lambda u: jax.vmap(lambda v: second(f, x, u + v))(v))(v)
    return pairs.sum((0, 1))


def mixed(f, x, v, w):
    """Σ_ij w_i w_j ∂_i ∂_j f."""

    def one(u, v):
        return jax.jvp(lambda y: jax.jvp(f, (y,), (u,))[1], (x,), (v,))[1]

    pairs = jax.vmap(lambda u: jax.vmap(lambda v: one(u, v))(v))(v)
    return jnp.einsum("i,j,ijo->o", w, w, pairs)


@pytest.mark.parametrize(
    "program",
    [weighted_by_einsum, weighted_by_dot, weighted_by_product, mean, over_two_axes, mixed],
)
def test_sums_of_other_forms(program, rng):
    f = jax_network(4, (9, 8, 2))
    x, v, w = arrays("jax", rng.normal(size=4), rng.normal(size=(6, 4)), rng.normal(size=6))
    found = planned(lambda *a: program(f, *a), x, v, w)
    assert found.matmul_after < 0.75 * found.matmul_before
    call = jf.collapse(lambda *a: program(f, *a))
    for batched in (False, True):
        expected = program(f, x, v, w)
        result = jax.jit(call)(x, v, w)
        if batched:
            xs = jnp.stack([x, 2 * x])
            expected = jax.vmap(lambda x: program(f, x, v, w))(xs)
            result = jf.collapse(jax.vmap(lambda x: program(f, x, v, w)))(xs)
        np.testing.assert_allclose(result, expected, rtol=1e-10, atol=1e-12)


def through_convolution(xp, x, k):
    if xp is Jax:
        return lax.conv(x, k, (1,), "SAME")
    return torch.nn.functional.conv1d(x, k, padding="same")


@pytest.mark.parametrize("xp", ["jax", "torch"])
@pytest.mark.parametrize("merged", [False, True])
def test_sums_pass_convolutions_and_indices(xp, merged, rng):
    xp = {"jax": Jax, "torch": Torch}[xp]
    x, k = xp.array(rng.normal(size=(6, 5, 3, 8))), xp.array(rng.normal(size=(4, 3, 3)))
    index = xp.array(np.array([1, 0, 1, 2]))

    def program(x, k):
        if merged:
            y = through_convolution(xp, x.reshape((30, 3, 8)), k).reshape((6, 5, 4, 8))
            return y[:, :, index].sum(0)
        return through_convolution(xp, x[:, 0], k)[:, index].sum(0)

    found = planned(program, x, k)
    assert found.after < found.before
    assert not any("conv" in name for move in found.moves for _, name in move.stopped)
    np.testing.assert_allclose(jf.collapse(program)(x, k), program(x, k), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("xp", ["jax", "torch"])
def test_sums_over_the_features_of_a_convolution(xp, rng):
    """The kernel is summed: it is linear too."""
    xp = {"jax": Jax, "torch": Torch}[xp]
    x, k = xp.array(rng.normal(size=(5, 3, 8))), xp.array(rng.normal(size=(4, 3, 3)))
    w = xp.array(rng.normal(size=4))

    def features(x, k, w):
        return xp.total(through_convolution(xp, x, k), 1)

    def weighted(x, k, w):
        return xp.total(through_convolution(xp, x, k) * w[:, None], 1)

    def both(x, k, w):
        y = through_convolution(xp, x, k)
        return xp.total(xp.total(y, 1), 0)

    for program in (features, weighted, both):
        found = planned(program, x, k, w)
        assert found.after < 0.7 * found.before
        result, expected = jf.collapse(program)(x, k, w), program(x, k, w)
        np.testing.assert_allclose(result, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("xp", ["jax", "torch"])
def test_sums_over_the_features_of_a_grouped_convolution_stop(xp, rng):
    """There the kernel's features meet different channels; the batch passes."""
    x, k = rng.normal(size=(5, 4, 8)), rng.normal(size=(6, 2, 3))
    if xp == "jax":
        convolve = partial(
            lax.conv_general_dilated, window_strides=(1,), padding="SAME", feature_group_count=2
        )
    else:
        convolve = partial(torch.nn.functional.conv1d, padding="same", groups=2)
    x, k = arrays(xp, x, k)
    assert planned(lambda x, k: convolve(x, k).sum(1), x, k).choice is None
    batch = lambda x, k: convolve(x, k).sum(0)
    assert planned(batch, x, k).after < 0.5 * planned(batch, x, k).before
    np.testing.assert_allclose(jf.collapse(batch)(x, k), batch(x, k), rtol=1e-9, atol=1e-11)


def test_sums_of_gathers(rng):
    """Axes of which whole slices are taken pass; not the axis of an index, nor one it varies along."""
    x, a = arrays("jax", rng.normal(size=(9, 7, 5)), rng.normal(size=(5, 5)))
    index = jnp.array([[1, 0], [3, 2], [1, 1]])
    each = jnp.array(rng.integers(5, size=(9, 7, 2)))
    take = jax.vmap(lambda row: row[:, index])
    passing = [
        lambda x, a: jnp.take(x @ a, index, 1).sum(0),
        lambda x, a: take(x @ a).sum(0),
        lambda x, a: (x @ a)[:, index, 1].sum(0),
        lambda x, a: jnp.take(x @ a, index, 0).sum(2),
    ]
    stopping = [
        lambda x, a: jnp.take(jnp.tanh(x @ a), index, 0).sum(1),
        lambda x, a: jnp.take_along_axis(jnp.tanh(x @ a), each, 2).sum(0),
        lambda x, a: jax.vmap(lambda row, k: row[k])(jnp.tanh(x @ a), each[:, 0, 0]).sum(0),
    ]
    for program in passing:
        assert planned(program, x, a).after < 0.5 * planned(program, x, a).before
    for program in stopping:
        assert planned(program, x, a).choice is None
    for program in (*passing, *stopping):
        whole = lambda x, a, program=program: (program(x, a), (x @ a).sum())
        result, expected = jf.collapse(whole)(x, a)[0], program(x, a)
        np.testing.assert_allclose(result, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("xp", ["jax", "torch"])
def test_sums_beside_an_index_of_any_rank(xp, rng):
    xp = {"jax": Jax, "torch": Torch}[xp]
    x, a = xp.array(rng.normal(size=(9, 5, 4, 3))), xp.array(rng.normal(size=(3, 3)))
    index = xp.array(np.array([[1, 0], [3, 2], [1, 1]]))

    def program(x, a):
        y = (x @ a)[:, :, index]  # (9, 5, 3, 2, 3)
        return y.sum(0), y[:, 2].sum(0)

    found = planned(program, x, a)
    assert found.after < 0.5 * found.before
    for result, expected in zip(jf.collapse(program)(x, a), program(x, a), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-9, atol=1e-11)

    def along_the_index(x, a):
        return (x @ a)[:, :, index].sum(2)

    assert planned(along_the_index, x, a).after <= planned(along_the_index, x, a).before
    np.testing.assert_allclose(
        jf.collapse(along_the_index)(x, a), along_the_index(x, a), rtol=1e-9, atol=1e-11
    )


def test_no_sum_no_change(rng):
    x, a = arrays("jax", rng.normal(size=(3, 4)), rng.normal(size=(4, 4)))

    def program(x):
        return jnp.tanh(x @ a) * jnp.sin(x) + jnp.concatenate([x, x])[:3]

    before = jax.make_jaxpr(program)(x)
    after = jax.make_jaxpr(jf.collapse(program))(x)
    assert len(after.eqns) == len(before.eqns)
    assert planned(program, x).choice is None


def test_no_sum_no_change_in_torch(rng):
    x, a = arrays("torch", rng.normal(size=(3, 4)), rng.normal(size=(4, 4)))

    def program(x):
        return torch.tanh(x @ a) * torch.sin(x) + torch.cat([x, x])[:3]

    def operations(function):
        graph = make_fx(function)(x).graph
        return [node.target for node in graph.nodes if node.op == "call_function"]

    assert operations(jf.collapse(program)) == operations(program)
    module = make_fx(lambda x: (program(x),))(x)
    assert rewritten(module, [x]) is module


# ------------------------------------------------------------------ dtypes, devices, lengths


def test_masks_are_factors_in_torch(rng):
    x, a, mask = arrays("torch", rng.normal(size=(8, 4)), rng.normal(size=(4, 4)), np.arange(4) > 1)

    def program(x):
        return ((x @ a) * mask).sum(0)

    assert planned(program, x).after < 0.5 * planned(program, x).before
    np.testing.assert_allclose(jf.collapse(program)(x), program(x), rtol=1e-11)


def test_sums_stay_as_exact_as_they_are(rng):
    """No sum moves to a dtype of fewer digits."""
    values = rng.normal(size=(50, 4)).astype(np.float32)
    x, a = arrays("torch", values, rng.normal(size=(4, 4)))

    def added(x):
        return ((x * 2.0) + x.double() @ a).sum(0)

    found = jf.collapse(added)(x)
    torch.testing.assert_close(found, added(x), rtol=1e-13, atol=1e-13)

    def product(x, a):
        options = {"preferred_element_type": jnp.float32}
        return lax.dot_general(x, a, (((1,), (0,)), ((), ())), **options).sum(0)

    coarse = [jnp.asarray(y, jnp.bfloat16) for y in (values, rng.normal(size=(4, 4)))]
    assert planned(product, *coarse).choice is None
    halves = jnp.asarray(values, jnp.float16)  # as many bits, but it does not reach as far
    convert = lambda x: (x * 2).astype(jnp.bfloat16).sum(0)
    assert planned(convert, halves).choice is None


def test_numbers_do_not_change_dtypes_in_torch(rng):
    """A tensor without axes follows the others, also where it is of another dtype."""
    x = torch.as_tensor(rng.normal(size=(8, 4)).astype(np.float32))
    number = torch.tensor(0.3, dtype=torch.float64)
    for program in (
        lambda x: ((x @ x.T) * number).sum(0),
        lambda x: ((x @ x.T) / number * 3.0).sum(0),
        lambda x: ((x @ x.T) / number * torch.sin(x @ x.T)).sum((0, 1)),
    ):
        assert planned(program, x).choice is not None
        torch.testing.assert_close(jf.collapse(program)(x), program(x), rtol=1e-4, atol=1e-4)


def test_numbers_on_the_cpu_beside_tensors_of_another_device():
    x, a = torch.empty(8, 4, device="meta"), torch.empty(4, 4, device="meta")
    number = torch.tensor(2.0)
    for program in (
        lambda x: ((x @ a) * number).sum(0),
        lambda x: ((x @ a) / number).sum(0),
        lambda x: ((x @ a) + number).sum(0),
        lambda x: torch.where(x > 0, x, number).sum(0) + (x @ a).sum(),
    ):
        assert planned(program, x).choice is not None
        found = jf.collapse(program)(x)
        assert (found.shape, found.device.type) == ((4,), "meta")


def test_rolls_of_all_axes_stop(rng):
    """Without dims, torch.roll goes from the end of a row to the next."""
    x, a = arrays("torch", rng.normal(size=(8, 4)), rng.normal(size=(4, 4)))
    for program in (
        lambda x: torch.roll(x @ a, 1).sum(0),
        lambda x: torch.roll(x @ a, 1, 1).sum(0),
    ):
        np.testing.assert_allclose(jf.collapse(program)(x), program(x), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("xp", ["jax", "torch"])
def test_axes_of_length_zero(xp, rng):
    xp = {"jax": Jax, "torch": Torch}[xp]
    x, a = xp.array(rng.normal(size=(8, 4))), xp.array(rng.normal(size=(4, 4)))
    for program in (
        lambda x: xp.total(xp.broadcast(x[0], (0, 4)) @ a, 0) + xp.total(x @ a, 0),
        lambda x: xp.total(xp.flip(xp.broadcast(x[0], (0, 4)), 1), 0) + xp.total(x @ a, 0),
        lambda x: xp.total(x[:, :0] @ a[:0], 0) + xp.total(x @ a, 0),
    ):
        np.testing.assert_allclose(jf.collapse(program)(x), program(x), rtol=1e-11)


def test_vectors_that_repeat(rng):
    """What an operation along an axis gives of a broadcast value repeats; it is one vector."""
    x, y = arrays("torch", rng.normal(size=6), rng.normal(size=(5, 6, 4)))

    def program(x, y):
        vectors = torch.flip(x.expand(5, 6), (1,))
        return (vectors[:, None] @ (y * 2.0)).sum(0)

    np.testing.assert_allclose(jf.collapse(program)(x, y), program(x, y), rtol=1e-11)


def test_values_needed_anyway_are_summed_where_they_are(rng):
    x, a = arrays("jax", rng.normal(size=(50, 4)), rng.normal(size=(4, 4)))

    def program(x):
        y = x @ a
        return y, y.sum(0)

    assert planned(program, x).choice is None

    def nonlinear(x):
        y = x @ a
        return jnp.tanh(y).sum(), y.sum(0)

    assert planned(nonlinear, x).matmul_after == planned(nonlinear, x).matmul_before


# ------------------------------------------------------------------ what composes


@BY_NAME
def test_gradients_to_inputs_and_parameters(framework, form, rng):
    x, v = arrays(framework, rng.normal(size=(3, 4)), rng.normal(size=(5, 4)))
    if framework == "jax":
        made = [tuple(map(jnp.asarray, layer)) for layer in layers(4, (6, 5, 1))]

        def loss(transform):
            def of(parameters, x):
                def f(x):
                    for k, (w, b) in enumerate(parameters):
                        x = x @ w + b
                        x = jnp.tanh(x) if k + 1 < len(parameters) else x
                    return x

                return (transform(form(f, v, 2))(x) ** 2).sum()

            return jax.grad(of, (0, 1))(made, x)

        expected, found = (jax.tree.leaves(loss(t)) for t in (lambda g: g, jf.collapse))
    else:
        network = network_of("torch", 4, (6, 5, 1))

        def gradients(transform):
            point = x.clone().requires_grad_()
            (transform(form(network, v, 2))(point) ** 2).sum().backward()
            found = [
                point.grad,
                *(p.grad.clone() for p in network.parameters() if p.grad is not None),
            ]
            network.zero_grad()
            return found

        expected, found = gradients(lambda g: g), gradients(jf.collapse)
    assert len(expected) == len(found)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-11)


def test_jax_transforms_around_and_inside(rng):
    x, v = arrays("jax", rng.normal(size=(3, 4)), rng.normal(size=(5, 4)))
    f = jax_network(4, (6, 1))

    def program(x):
        return jax.vmap(lambda v: second(f, x, v))(v).sum()

    collapsed = jf.collapse(program)
    np.testing.assert_allclose(jax.vmap(collapsed)(x), jax.vmap(program)(x), rtol=1e-10)
    np.testing.assert_allclose(jax.jit(jax.vmap(collapsed))(x), jax.vmap(program)(x), rtol=1e-10)
    np.testing.assert_allclose(jax.hessian(collapsed)(x[0]), jax.hessian(program)(x[0]), rtol=1e-8)
    inner = jf.collapse(jax.jit(jax.vmap(jax.checkpoint(program))))
    np.testing.assert_allclose(inner(x), jax.vmap(program)(x), rtol=1e-10)
    tree = jf.collapse(lambda p, scale=2.0: {"a": jax.vmap(program)(p["x"]) * scale})
    np.testing.assert_allclose(tree({"x": x}, scale=3.0)["a"], 3 * jax.vmap(program)(x), rtol=1e-10)


def test_errors():
    with pytest.raises(TypeError, match="takes a function, got int"):
        jf.collapse(3)
    with pytest.raises(TypeError, match="none of them holds"):
        jf.collapse(lambda x: x)(1.0)


# ------------------------------------------------------------------ called again


@pytest.mark.parametrize("xp", ["jax", "torch"])
def test_calls_with_the_same_shapes_are_planned_once(xp, rng):
    """Every call is traced: arrays and branches that the function closes over may change."""
    xp = {"jax": Jax, "torch": Torch}[xp]
    closed = {"weight": xp.array(rng.normal(size=(4, 3))), "bent": True}

    def program(x):
        y = x @ closed["weight"]
        return xp.total(xp.tanh(y) if closed["bent"] else y * 2.0, 0) + xp.total(y, 0)

    collapsed, points = jf.collapse(program), [rng.normal(size=(7, 4)) for _ in range(2)]

    def planned_anew(x):
        before = planned_structure.cache_info().misses
        np.testing.assert_allclose(collapsed(x), program(x), rtol=1e-10)
        return planned_structure.cache_info().misses - before

    planned_structure.cache_clear()
    x, y = map(xp.array, points)
    assert [planned_anew(x), planned_anew(x), planned_anew(y)] == [1, 0, 0]
    closed["weight"] = xp.array(rng.normal(size=(4, 3)))
    assert planned_anew(x) == 0
    closed["bent"] = False
    assert planned_anew(x) == 1
    assert planned_anew(x[:5]) == 1
    closed["bent"] = True
    assert planned_anew(x) == 0


@pytest.mark.parametrize("framework", ["jax", "torch"])
def test_a_factor_that_becomes_zero_is_another_program(framework, rng):
    x, a = arrays(framework, rng.normal(size=(7, 4)), rng.normal(size=(4, 4)))
    factor = [1.5]
    program = lambda x: (x @ a * factor[0] + x).sum(0)
    collapsed = jf.collapse(program)
    for factor[0] in (1.5, 0.0, 1.5, 2.5):
        np.testing.assert_allclose(collapsed(x), program(x), rtol=1e-10)


def test_programs_of_torch_that_write(rng):
    """Into tensors of their own they may; into what they are given they are refused."""
    x, buffer = arrays("torch", rng.normal(size=(7, 4)), np.zeros(4))

    def own(x):
        y = x * 2.0
        y.add_(1.0)
        y[0] = 3.0
        return y.sum(0)

    torch.testing.assert_close(jf.collapse(own)(x), own(x))
    for write in (lambda x: x.add_(1.0).sum(0), lambda x: (buffer.add_(1.0) * x).sum(0)):
        with pytest.raises(NotImplementedError, match="return what is to be written instead"):
            jf.collapse(write)(x)
    torch.testing.assert_close(buffer, torch.ones_like(buffer))  # run once, to be traced


@pytest.mark.parametrize("xp", ["jax", "torch"])
def test_zeros_times_what_is_not_finite(xp, rng):
    """Not finite where the program is not, and nowhere else: row 1 of x has an infinite number."""
    np_, second = {"jax": (jnp, jax_jvp), "torch": (torch, torch_jvp)}[xp]
    given = [rng.normal(size=size) for size in ((3, 4), (7, 3, 4), (4, 5), (4, 4))]
    given[0][1, 2] = np.inf
    x, y, w, v = arrays(xp, *given)
    laplacian = second(lambda x: np_.tanh(np_.tanh(x @ w) @ w.T).sum(), v, 2)
    eye = lambda: np_.eye(4, dtype=x.dtype)
    for program, rows in (
        (lambda y: ((y + x * np_.zeros_like(y)) @ w).sum(0), [1]),
        (lambda y: ((y + np_.zeros_like(y) / x) @ w).sum(0), []),
        (lambda y: ((y @ w + x @ np_.zeros_like(w)) * w[0]).sum(0), [1]),
        (lambda y: y.sum(0) + (x[:, :, None] * eye()).sum(1), [1]),
        (lambda y: y.sum(0) + (eye() @ x.T).T, [1]),
        (lambda y: (y + np_.where(eye()[:3] > 0, x, np_.zeros_like(x))).sum(0), []),
        (lambda y: laplacian(x + 0 * y[0]), [1] if xp == "torch" else []),
    ):
        expected, result = np.asarray(program(y)), np.asarray(jf.collapse(program)(y))
        finite = np.isfinite(expected)
        np.testing.assert_array_equal(np.isfinite(result), finite)
        np.testing.assert_allclose(result[finite], expected[finite], rtol=1e-9, atol=1e-11)
        assert [*(~finite.reshape(3, -1).all(1)).nonzero()[0]] == rows


@pytest.mark.parametrize("xp", ["jax", "torch"])
def test_programs_of_thousands_of_operations(xp, rng):
    xp, limit = {"jax": Jax, "torch": Torch}[xp], sys.getrecursionlimit()
    x, w = xp.array(rng.normal(size=(6, 3))), xp.array(rng.normal(size=(3, 2)))

    def program(x, w):
        y = x
        for k in range(2000):
            y = -y if k % 2 else y + x
        return xp.total(y @ w, 0)

    found = planned(program, x, w)
    assert len(found.moves[0].passed) > 2000
    assert found.after < 0.2 * found.before
    np.testing.assert_allclose(jf.collapse(program)(x, w), program(x, w), rtol=1e-9, atol=1e-9)
    assert sys.getrecursionlimit() == limit


@BY_NAME
def test_collapsed_in_collapsed(framework, form, rng):
    """The pass sees through itself."""
    x, v = arrays(framework, rng.normal(size=(3, 4)), rng.normal(size=(5, 4)))
    program = form(network_of(framework, 4, (6, 5, 1)), v, 2)
    once = jf.collapse(program)
    for twice in (jf.collapse(once), jf.collapse(lambda x: once(x) * 1.0)):
        found, expected = twice(x), program(x)
        if framework == "torch":
            found, expected = found.detach(), expected.detach()
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_functionalize_of_a_collapsed_function(rng):
    x, v = arrays("torch", rng.normal(size=(3, 4)), rng.normal(size=(5, 4)))
    program = torch_jvp(torch_network(4, (6, 5, 1)), v, 2)
    found = torch.func.functionalize(jf.collapse(program))(x)
    torch.testing.assert_close(found, program(x))


@pytest.mark.parametrize("framework", ["jax", "torch"])
def test_laplacians_of_laplacians(framework, rng):
    """Nested vmap(jvp∘jvp) of a network with two hidden layers."""
    x, eye = arrays(framework, rng.normal(size=2), np.eye(2))
    network = network_of(framework, 2, (3, 3, 1))
    along = jax_jvp if framework == "jax" else torch_jvp

    def laplacian(f):
        return lambda x: along(f, eye, 2)(x[None])[0]

    program = laplacian(laplacian(network))
    found, expected = jf.collapse(program)(x), program(x)
    if framework == "torch":
        found, expected = found.detach(), expected.detach()
    np.testing.assert_allclose(found, expected, rtol=1e-9)
    assert planned(program, x).after < planned(program, x).before


# ------------------------------------------------------------------ random programs


class Jax:
    name = "jax"
    array = staticmethod(jnp.asarray)
    tanh, where, cumsum = staticmethod(jnp.tanh), staticmethod(jnp.where), staticmethod(jnp.cumsum)
    concatenate = staticmethod(jnp.concatenate)
    broadcast = staticmethod(jnp.broadcast_to)
    transpose = staticmethod(jnp.transpose)
    flip = staticmethod(jnp.flip)
    pad = staticmethod(lambda x, axis: jnp.pad(x, [(int(k == axis), 0) for k in range(x.ndim)]))
    total = staticmethod(lambda x, axis: x.sum(axis))
    fft = staticmethod(lambda x, axis: jnp.fft.fft(x, axis=axis))
    real, conj = staticmethod(jnp.real), staticmethod(jnp.conj)
    take = staticmethod(lambda x, index, axis: jnp.take(x, index, axis))
    stack = staticmethod(jnp.stack)
    cast = staticmethod(lambda x, like: x.astype(like.dtype))
    to = staticmethod(lambda x, name: x.astype(name))
    convolve = staticmethod(lambda x, k: lax.conv(x, k, (1,), "SAME"))


class Torch:
    name = "torch"
    array = staticmethod(torch.as_tensor)
    tanh, where, cumsum = (
        staticmethod(torch.tanh),
        staticmethod(torch.where),
        staticmethod(torch.cumsum),
    )
    concatenate = staticmethod(torch.cat)
    broadcast = staticmethod(torch.broadcast_to)
    transpose = staticmethod(lambda x, order: x.permute(order))
    flip = staticmethod(lambda x, axis: torch.flip(x, (axis,)))
    pad = staticmethod(
        lambda x, axis: torch.nn.functional.pad(x, [0, 0] * (x.ndim - 1 - axis) + [1, 0])
    )
    total = staticmethod(lambda x, axis: x.sum(axis))
    fft = staticmethod(lambda x, axis: torch.fft.fft(x, dim=axis))
    real, conj = staticmethod(torch.real), staticmethod(torch.conj)
    take = staticmethod(lambda x, index, axis: torch.index_select(x, axis, index))
    stack = staticmethod(torch.stack)
    cast = staticmethod(lambda x, like: x.to(like.dtype))
    to = staticmethod(lambda x, name: x.to(getattr(torch, name)))
    convolve = staticmethod(lambda x, k: torch.nn.functional.conv1d(x, k, padding="same"))


def run_program(xp: Any, steps: list[tuple[str, int, int]], inputs: list[Any]) -> Any:
    """A program from a list of (operation, which operand, a number that decides the rest)."""
    values, first = list(inputs), inputs[0]

    def constant(number, *shape):
        return xp.cast(xp.array(np.random.default_rng(number).normal(size=shape)), first)

    for name, which, number in steps:
        x = values[which % len(values)]
        n = len(x.shape)
        axis = number % n if n else 0
        if name == "add":
            others = [y for y in values if y.shape == x.shape]
            y = x + others[number % len(others)]
        elif name == "mul":
            others = [y for y in values if y.shape == x.shape]
            y = x * others[number % len(others)]
        elif name == "scale":
            y = x * 0.5 - x / 3.0
        elif name == "tanh":
            y = xp.tanh(x)
        elif name == "sum" and n:
            y = xp.total(x, axis)
        elif name == "sums" and n > 1:
            y = xp.total(xp.total(x, axis), 0)
        elif name == "transpose" and n > 1:
            y = xp.transpose(x, (*range(1, n), 0))
        elif name == "merge" and n > 1:
            k = number % (n - 1)
            shape = tuple(x.shape)
            y = x.reshape((*shape[:k], shape[k] * shape[k + 1], *shape[k + 2 :]))
        elif name == "matmul" and n > 1:
            y = x @ constant(number, x.shape[-1], 3)
        elif name == "left" and n > 1:
            y = constant(number, 2, x.shape[-2]) @ x
        elif name == "dot" and n:
            y = x @ constant(number, x.shape[-1])
        elif name == "divide" and n:
            y = x / (2.0 + constant(number, x.shape[-1]) ** 2)
        elif name == "normalise" and n:
            y = x / (1.0 + xp.total(x * xp.conj(x), axis)).reshape(
                tuple(1 if k == axis else m for k, m in enumerate(x.shape))
            )
        elif name == "factor" and n > 1:  # what lacks an axis times what has it
            y = xp.tanh(xp.total(x, 0)) * x
        elif name == "conj":
            y = xp.conj(x) * 2.0
        elif name == "real" and x.dtype == first.dtype:
            y = xp.cast(xp.real(x) * 1.0, first)
        elif name == "take" and n:
            y = xp.take(x, xp.array(np.array([0, x.shape[axis] - 1, 0])), axis)
        elif name == "stack" and n < 3:
            y = xp.stack([x, x * 0.5, -x])
        elif name == "index" and n:
            index = xp.array(np.array([[0, x.shape[axis] - 1], [0, 0]]))
            y = x[(*[slice(None)] * axis, index)]
        elif name == "select" and n:
            y = x[(*[slice(None)] * axis, x.shape[axis] // 2)]
        elif name == "expand" and n:
            one = tuple(1 if k == axis else m for k, m in enumerate(x.shape))
            y = xp.broadcast(xp.tanh(xp.total(x, axis)).reshape(one), x.shape)
        elif name == "convert":
            there, back = OTHER[str(x.dtype).removeprefix("torch.")]
            y = xp.to(xp.to(x, there) * 0.5, back)
        elif name == "weigh" and n > 1:
            y = xp.total(constant(number, x.shape[0], *[1] * (n - 1)) * x, 0)
        elif name == "inner" and n > 1:
            others = [y for y in values if y.shape == x.shape]
            y = x @ xp.transpose(others[number % len(others)], (*range(n - 2), n - 1, n - 2))
        elif name == "split" and n and x.shape[axis] % 2 == 0 and x.shape[axis] > 2:
            y = x.reshape((*x.shape[:axis], 2, x.shape[axis] // 2, *x.shape[axis + 1 :]))
        elif name == "convolve" and n == 3:
            y = xp.convolve(x, constant(number, 2, x.shape[1], 3))
        elif name == "broadcast" and n < 4:
            y = xp.broadcast(x, (2 + number % 2, *x.shape))
        elif name == "slice" and n:
            y = x[1:] if number % 2 and x.shape[0] > 1 else x[..., :1]
        elif name == "concatenate" and n:
            y = xp.concatenate([x, x * 2.0], axis)
        elif name == "where" and n:
            mask = xp.array(np.random.default_rng(number).normal(size=x.shape[-1]) > 0)
            y = xp.where(mask, x, x * 0.25)
        elif name == "cumsum" and n:
            y = xp.cumsum(x, axis)
        elif name == "flip" and n:
            y = xp.flip(x, axis)
        elif name == "pad" and n:
            y = xp.pad(x, axis)
        elif name == "fft" and n:
            y = xp.cast(xp.real(xp.fft(x, axis)), first)
        else:
            continue
        if np.prod(y.shape) > 600:
            y = xp.total(y, 0)
        values.append(y)
    last = values[-1]
    summed = xp.total(last, 0) if last.shape else last
    return summed, last, values[len(values) // 2]


NAMES = [
    "add", "mul", "scale", "tanh", "sum", "sum", "sums", "transpose", "merge", "matmul", "left", "dot",
    "broadcast", "slice", "concatenate", "where", "cumsum", "flip", "pad", "fft", "divide", "normalise",
    "factor", "conj", "real", "take", "stack", "index", "select", "expand", "convert", "weigh", "inner",
    "split", "convolve",
]  # fmt: skip

steps = st.lists(
    st.tuples(st.sampled_from(NAMES), st.integers(-3, 3), st.integers(0, 5)),
    min_size=2,
    max_size=14,
)

TOLERANCES = {"float32": 2e-4, "float64": 1e-9, "complex128": 1e-9}

OTHER = {
    "float32": ("float64", "float32"),
    "float64": ("float32", "float64"),
    "complex64": ("complex128", "complex64"),
    "complex128": ("complex64", "complex128"),
}
"""The dtype to convert to, and back."""


def random_inputs(xp: Any, dtype: str, seed: int) -> list[Any]:
    rng, found = np.random.default_rng(seed), []
    for shape in ((5, 4), (4, 3, 4)):
        values = rng.normal(size=shape)
        if dtype.startswith("complex"):
            values = values + 1j * rng.normal(size=shape)
        found.append(xp.array(values.astype(dtype)))
    return found


def tolerance_of(steps: Any, dtype: str) -> float:
    return TOLERANCES["float32" if any(name == "convert" for name, *_ in steps) else dtype]


def agree(results: Any, expected: Any, tolerance: float) -> None:
    for result, value in zip(results, expected, strict=True):
        assert tuple(result.shape) == tuple(value.shape)
        assert result.dtype == value.dtype
        largest = float(np.abs(np.asarray(value)).max(initial=1.0))
        if largest < 1e30:  # what overflows does so in another order
            np.testing.assert_allclose(
                np.asarray(result) / largest, np.asarray(value) / largest, atol=tolerance
            )


@pytest.mark.parametrize("xp", [Jax, Torch], ids=["jax", "torch"])
@given(
    steps=steps,
    seed=st.integers(0, 99),
    keep=st.sampled_from([1, 1, 1, 2, 3]),
    dtype=st.sampled_from(sorted(TOLERANCES)),
)
def test_random_programs(xp, steps, seed, keep, dtype):
    """The same results, and never more operations."""
    with jax.enable_x64(True):
        inputs = random_inputs(xp, dtype, seed)

        def program(*inputs):
            return run_program(xp, steps, list(inputs))[:keep]

        found = planned(program, *inputs)
        assert found.after <= found.before
        tolerance = tolerance_of(steps, dtype)
        agree(jf.collapse(program)(*inputs), program(*inputs), tolerance)
        if xp is Jax:
            agree(jax.jit(jf.collapse(program))(*inputs), program(*inputs), tolerance)


@settings(max_examples=6)
@given(steps=steps, seed=st.integers(0, 99), dtype=st.sampled_from(sorted(TOLERANCES)))
def test_random_programs_compiled(steps, seed, dtype):
    """torch.compile with our backend gives what it gives without."""
    inputs = random_inputs(Torch, dtype, seed)

    def program(*inputs):
        return run_program(Torch, steps, list(inputs))

    torch.compiler.reset()
    operations = make_fx(program)(*inputs)  # Dynamo does not read the NumPy calls of the test
    compiled = torch.compile(operations, backend="jetfold", fullgraph=True, dynamic=False)
    agree(compiled(*inputs), program(*inputs), tolerance_of(steps, dtype))


# ------------------------------------------------------------------ explained


def test_explanation_and_pictures(tmp_path, rng):
    x, v = arrays("jax", rng.normal(size=3), rng.normal(size=(5, 3)))

    def program(x):
        return jax_ours(jnp.sin, v, 2)(x[None])

    found = jf.explain(jf.collapse(program), x)
    text = str(found)
    assert "reduce_sum moved through" in text
    assert "all operations (FLOPs)" in text
    assert found.plan.after < found.plan.before
    assert str(jf.explain(program, x)) == text
    files = found.save(tmp_path / "sin")
    assert [path.name for path in files] == ["sin-before.png", "sin-after.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in files)
    assert "# moved sum" in found.text(found.before)
    assert not any(isinstance(node.kind, Contracted) for node in found.before)


def test_a_program_of_torch_explained(rng):
    x, v = arrays("torch", rng.normal(size=(3, 4)), rng.normal(size=(5, 4)))
    program = torch_jvp(torch_network(4, (6, 5, 1)), v, 2)
    found = jf.explain(program, x)
    assert "sum.dim_IntList moved through" in str(found)
    sums = [node for node in found.after if node.name == "mm.default"]
    assert sum(node.shape[0] for node in sums) <= 3 * 3 * (5 + 2)


def test_what_stopped_a_sum(rng):
    x, a = arrays("jax", rng.normal(size=(50, 4)), rng.normal(size=(4, 4)))
    found = jf.explain(lambda x: jnp.tanh(x @ a).sum(0) + (x @ a).sum(0), x)
    assert "runs as it is" in str(found)
    found = jf.explain(lambda x: ((jnp.tanh(x) @ a).sum(0), lax.rsqrt(x[0])), x)
    assert "stopped at tanh: not linear" in str(found)
