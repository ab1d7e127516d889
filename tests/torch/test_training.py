"""Training steps: gradients by parameters, whatever follows them, and what is kept for them."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.autograd.forward_ad as fwAD
from torch import nn
from torch.func import functional_call

import jetfold as jf
from jetfold.torch import fused, inplace, nodes

t, x = jf.partials(2)
PINN = jf.derivatives({"u": 1, "u_t": t, "u_x": x, "u_xx": x**2})
FOURTH = jf.derivatives({"u_xx": x**2, "u_xxxx": x**4, "u_t": t})
OPERATORS = {
    "pinn": PINN,
    "fourth": FOURTH,
    "laplacian": jf.laplacian,
    "biharmonic": jf.biharmonic,
    "mixed": t * x + x**3 - 2 * t**2,
}


class Residual(nn.Module):
    """A nonlinearity that two operations use, and others than affine maps."""

    def __init__(self, width: int = 5) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, width), nn.Linear(width, width)
        self.last = nn.Linear(width, 2)

    def forward(self, x):
        h = torch.sin(self.first(x))
        with torch.no_grad():
            scale = 1 + h.shape[-1]
        h = h + torch.tanh(self.second(h)) * torch.sigmoid(h) / scale
        return self.last(torch.nn.functional.silu(h) ** 2)


@pytest.fixture(autouse=True)
def _small_ones_too(monkeypatch):
    monkeypatch.setattr(fused, "SMALL", 0)


def mlp(activation: type[nn.Module] = nn.Tanh, width: int = 6, outputs: int = 2) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(2, width), activation(), nn.Linear(width, 5), activation()]
    return nn.Sequential(*layers, nn.Linear(5, outputs)).double()


def points(count: int = 4) -> torch.Tensor:
    return torch.linspace(-1, 1, 2 * count, dtype=torch.float64).reshape(count, 2).cos()


def loss_of(operator, net, at, **options):
    found = operator(net, batch_dims=1, **options)(at)
    return sum((v**2).sum() for v in (found.values() if isinstance(found, dict) else [found]))


def gradients(loss, net):
    found = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
    return [
        torch.zeros_like(p) if g is None else g
        for g, p in zip(found, net.parameters(), strict=True)
    ]


@pytest.mark.parametrize("activation", [nn.Tanh, nn.GELU, nn.ReLU])
@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_gradients_are_those_of_nested_autograd(operator, activation):
    net, at = mlp(activation), points()
    expected = gradients(loss_of(operator, net, at, method="nested") + net(at).sum(), net)
    for method in ("minimal", "standard"):
        found = gradients(loss_of(operator, net, at, method=method) + net(at).sum(), net)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("operator", [PINN, jf.biharmonic], ids=["pinn", "biharmonic"])
def test_a_nonlinearity_that_several_operations_use(operator):
    torch.manual_seed(0)
    net, at = Residual().double(), points()
    expected = gradients(loss_of(operator, net, at, method="nested"), net)
    torch.testing.assert_close(gradients(loss_of(operator, net, at), net), expected)


def test_many_points_are_taken_in_parts(monkeypatch):
    net, at = mlp(), points(23)
    for operator in (PINN, FOURTH):
        expected = gradients(loss_of(operator, net, at), net)
        with monkeypatch.context() as patch:
            patch.setattr(nodes, "CACHE", 64)
            patch.setattr(nodes, "FEWEST", 2)
            patch.setattr(inplace, "LONG", 1)
            torch.testing.assert_close(gradients(loss_of(operator, net, at), net), expected)


@pytest.mark.parametrize("operator", [PINN, jf.biharmonic], ids=["pinn", "biharmonic"])
def test_second_derivatives_of_the_loss(operator):
    """Reverse over reverse, forward over reverse by torch.func and by dual numbers, batched."""
    net, at = mlp(width=3, outputs=1), points(3)
    names, values = zip(*net.named_parameters(), strict=True)
    torch.manual_seed(1)
    v = tuple(torch.randn_like(p) for p in values)

    def loss(parameters, **options):
        given = dict(zip(names, parameters, strict=True))
        return loss_of(operator, lambda z: functional_call(net, given, (z,)), at, **options)

    def gradient(parameters, **options):
        return torch.func.grad(lambda p: loss(p, **options))(parameters)

    plain = tuple(p.detach() for p in values)
    expected = torch.func.jvp(lambda p: gradient(p, method="nested"), (plain,), (v,))[1]
    torch.testing.assert_close(torch.func.jvp(gradient, (plain,), (v,))[1], expected)

    def close(found):
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(torch.zeros_like(b) if a is None else a, b)

    first = torch.autograd.grad(loss(values), values, create_graph=True)
    close(torch.autograd.grad(first, values, v, allow_unused=True, retain_graph=True))
    two = tuple(torch.stack([a, 2 * a]) for a in v)
    rows = torch.autograd.grad(first, values, two, allow_unused=True, is_grads_batched=True)
    close([None if row is None else row[1] / 2 for row in rows])
    with fwAD.dual_level():
        duals = [fwAD.make_dual(p, w) for p, w in zip(values, v, strict=True)]
        found = torch.autograd.grad(loss(duals), duals, allow_unused=True)
        close([None if g is None else fwAD.unpack_dual(g).tangent for g in found])


def test_gradients_of_every_output_at_once():
    """A Gauss-Newton matrix needs all of them: batched cotangents, and vmap of a gradient."""
    net, at = mlp(outputs=1), points()
    weight = net[2].weight
    values = jf.laplacian(net, batch_dims=1)(at).squeeze(-1)
    rows = torch.autograd.grad(
        values, weight, torch.eye(4, dtype=torch.float64), is_grads_batched=True, retain_graph=True
    )[0]
    for k, row in enumerate(rows):
        torch.testing.assert_close(
            row, torch.autograd.grad(values[k], weight, retain_graph=True)[0]
        )
    given = dict(net.named_parameters())

    def one(parameters, z):
        return jf.laplacian(lambda z: functional_call(net, parameters, (z,)).sum())(z)

    per_point = torch.func.vmap(torch.func.grad(one), in_dims=(None, 0))(given, at)
    torch.testing.assert_close(per_point["2.weight"], rows)


def test_chunks_randomized_and_weighted_operators():
    net, at = mlp(), points()
    rng = torch.Generator()
    sigma = torch.tensor([[1.0, 0.5], [0.0, 2.0]], dtype=torch.float64)
    transforms = {
        "chunks": lambda f, **o: jf.laplacian(f, chunk_size=1, **o),
        "weighted": lambda f, **o: jf.weighted_laplacian(f, sigma, **o),
    }
    for transform in transforms.values():
        expected = gradients(loss_of(transform, net, at, method="nested"), net)
        torch.testing.assert_close(gradients(loss_of(transform, net, at), net), expected)
    random = jf.randomize(x**4, samples=1)
    found = []
    for method in ("collapsed", "nested"):
        values = random(net, batch_dims=1, method=method)(at, rng=rng.manual_seed(0))
        found.append(gradients((values**2).sum(), net))
    torch.testing.assert_close(*found)


def test_what_is_asked_for_without_gradients_keeps_its_graph():
    net, at = mlp(), points()

    def f(z):
        h = torch.tanh(net[0](z))
        with torch.no_grad():
            bound = h.abs().max().item()  # the value is taken out here
        return net[2](h) * (1 + 0 * bound)

    expected = gradients(loss_of(PINN, f, at, method="nested"), net)
    torch.testing.assert_close(gradients(loss_of(PINN, f, at), net), expected)


def kept(operator, dimension, widths, compiled=False, batch=3):
    """The bytes that a step keeps, in sets of activations."""
    sizes = (dimension, *widths, 1)
    layers: list[nn.Module] = []
    for n, m in pairwise(sizes):
        layers += [nn.Linear(n, m), nn.Tanh()]
    net, at = nn.Sequential(*layers[:-1]), torch.rand(batch, dimension)
    skipped = {p.data_ptr() for p in net.parameters()} | {at.data_ptr()}
    found: dict[int, int] = {}

    def pack(tensor):
        if tensor.data_ptr() not in skipped:
            storage = tensor.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    step = loss_of
    if compiled:  # as Inductor has the graph divided
        step = torch.compile(step, fullgraph=True, backend="aot_eager_decomp_partition")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = step(operator, net, at)
    found_gradients = gradients(loss, net)
    torch.testing.assert_close(found_gradients, gradients(loss_of(operator, net, at), net))
    return sum(found.values()) / (4 * batch * sum(widths))


@pytest.mark.parametrize(
    ("operator", "dimension", "vectors"), [(jf.laplacian, 50, 52), (jf.biharmonic, 5, 27)]
)
def test_bytes_kept_for_the_gradient(operator, dimension, vectors):
    """The coefficients before every nonlinearity, and its values; neither towers nor powers."""
    assert kept(operator, dimension, (24, 24, 16, 16)) < 1.05 * vectors


def test_bytes_kept_by_a_compiled_step():
    assert kept(jf.laplacian, 50, (24, 24, 16, 16), compiled=True) < 1.05 * 52
