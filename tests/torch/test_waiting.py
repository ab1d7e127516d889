"""Layers in what torch.compile compiles: one operation, where they follow each other."""

from __future__ import annotations

from copy import deepcopy
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch._dynamo.backends.debugging import aot_eager

import jetfold as jf
from jetfold import shared_library

pytestmark = [
    pytest.mark.skipif(shared_library.compiler() is None, reason="no C compiler here"),
    pytest.mark.usefixtures("loops_at_once", "quick_compiler", "anew"),
]

t, x = jf.partials(2)
OPERATOR = jf.derivatives({"u": 1, "x": x, "heat": t - 0.1 * x**2})


@pytest.fixture
def anew():
    """Nothing is compiled yet."""
    torch.compiler.reset()


class Two(nn.Module):
    """A trunk, two heads on it, and a head that looks at something in between."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 7, bias=False), nn.SiLU()
        )
        self.first, self.second = nn.Linear(7, 3), nn.Linear(7, 2)
        self.last = nn.Linear(3, 2)

    def forward(self, p):
        h = self.trunk(p)
        return self.last(torch.sin(self.first(h))) * self.second(h)


def mlp(*widths, act=nn.Tanh):
    layers = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), act()]
    return nn.Sequential(*layers[:-1])


def frozen():
    net = mlp(2, 4, 6, 3)
    net[2].weight.requires_grad_(False)
    net[4].bias.requires_grad_(False)
    return net


NETWORKS = {
    "mlp": lambda: mlp(2, 8, 5, 2),
    "sine": lambda: mlp(2, 6, 6, 1, act=lambda: Sine()),
    "frozen": frozen,
    "ends with a nonlinearity": lambda: nn.Sequential(mlp(2, 4, 3), nn.Tanh()),
    "one layer": lambda: nn.Sequential(nn.Linear(2, 3)),
    "two heads": Two,
    "another function between": lambda: nn.Sequential(mlp(2, 4, 5), nn.LayerNorm(5), mlp(5, 3, 2)),
}
OPERATIONS = {"mlp": 1, "sine": 1, "frozen": 1, "one layer": 0}


class Sine(nn.Module):
    def forward(self, h):
        return torch.sin(h)


def gradients(step, net, at):
    wanted = [p for p in net.parameters() if p.requires_grad]
    loss = step(at)
    return loss, torch.autograd.grad(loss, wanted, materialize_grads=True)


@pytest.mark.parametrize("name", NETWORKS)
def test_steps_are_those_of_nested_autograd(name, taken_for_an_export):
    torch.manual_seed(2)
    net, code = NETWORKS[name]().double(), []

    def backend(graph, inputs):
        code.append(graph.code)
        return aot_eager(graph, inputs)

    def loss(at, method="minimal"):
        d = OPERATOR(net, batch_dims=1, method=method)(at)
        return (d["heat"] + d["u"] * d["x"]).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    for count in (6, 9, 67, 0) if name == "mlp" else (6, 9, 67):
        at = torch.rand(count, 2, dtype=torch.float64)
        found = gradients(compiled, net, at)
        torch.testing.assert_close(found, gradients(lambda p: loss(p, "nested"), net, at))
    if name in OPERATIONS and not taken_for_an_export:
        assert code[0].count("jetfold.chain") == OPERATIONS[name]


def test_where_they_do_not_wait(taken_for_an_export):
    """Points that are trained, values without gradients, and gradients of gradients."""
    net = mlp(2, 4, 3, 1).double()
    at = torch.rand(5, 2, dtype=torch.float64)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def values(p):
        return OPERATOR(net, batch_dims=1)(p)

    exact = OPERATOR(net, batch_dims=1, method="nested")(at)
    with torch.no_grad():
        torch.testing.assert_close(values(at), exact)
    moving = at.clone().requires_grad_()
    found = torch.autograd.grad(values(moving)["heat"].sum(), moving)
    nested = OPERATOR(net, batch_dims=1, method="nested")(moving)["heat"].sum()
    torch.testing.assert_close(found, torch.autograd.grad(nested, moving))

    if taken_for_an_export:
        return
    once = torch.compile(values._torchdynamo_orig_callable, fullgraph=True, backend="eager")
    (slope,) = torch.autograd.grad(once(at)["heat"].sum(), net[0].weight, create_graph=True)
    with pytest.raises(NotImplementedError, match="differentiate twice without"):
        slope.sum().backward()


def test_a_compiled_step_trains_as_an_eager_one():
    torch.manual_seed(3)
    net = mlp(2, 8, 8, 1)
    twin = deepcopy(net)
    at = torch.rand(40, 2)

    def loss(module, p):
        d = OPERATOR(module, batch_dims=1)(p)
        return (d["heat"] + d["u"] * d["x"] - 1).square().mean()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for module, step in ((net, compiled), (twin, loss)):
        optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
        for _ in range(12):
            optimizer.zero_grad()
            step(module, at).backward()
            optimizer.step()
    for ours, theirs in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
