"""torch.compile(f, backend="jetfold"): the pass, then Inductor."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import pytest

torch = pytest.importorskip("torch")
from torch.func import jvp, vmap

D = 5


def network(*widths):
    torch.manual_seed(0)
    layers = []
    for n, m in pairwise((D, *widths)):
        layers += [torch.nn.Linear(n, m), torch.nn.Tanh()]
    return torch.nn.Sequential(*layers, torch.nn.Linear(widths[-1], 1)).double()


def laplacian(net):
    eye = torch.eye(D, dtype=torch.float64)

    def second(x, v):
        return jvp(lambda y: jvp(net, (y,), (v,))[1], (x,), (v,))[1]

    return vmap(lambda x: vmap(lambda v: second(x, v))(eye).sum(0))


def points(n=4, seed=1):
    return torch.randn(n, D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def fresh():
    torch.compiler.reset()


def test_found_without_an_import_of_ours():
    code = "import sys, torch; assert 'jetfold' in torch._dynamo.list_backends(); assert 'jetfold' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_values_and_fewer_products(monkeypatch):
    from jetfold.collapse import backend

    seen = []
    rewritten = backend.rewritten
    monkeypatch.setattr(backend, "rewritten", lambda *a: seen.append(rewritten(*a)) or seen[-1])
    program, x = laplacian(network(9, 7)), points()
    with torch.no_grad():
        found = torch.compile(program, fullgraph=True, backend="jetfold")(x)
        torch.testing.assert_close(found, program(x))
    (graph,) = seen
    products = [
        n.meta["val"].shape[0] for n in graph.graph.nodes if n.target is torch.ops.aten.mm.default
    ]
    assert sum(products) <= len(x) * 3 * (D + 2)  # three layers, D + 2 vectors


def test_training():
    net, x = network(9), points()

    def loss(x):
        return (laplacian(net)(x) ** 2).mean()

    def gradients(f):
        net.zero_grad()
        point = x.clone().requires_grad_()
        f(point).backward()
        return [point.grad, *(p.grad.clone() for p in net.parameters() if p.grad is not None)]

    expected = gradients(loss)
    found = gradients(torch.compile(loss, fullgraph=True, backend="jetfold"))
    torch.testing.assert_close(found, expected)


def test_dynamic_shapes():
    program = laplacian(network(9))
    compiled = torch.compile(program, fullgraph=True, dynamic=True, backend="jetfold")
    with torch.no_grad():
        for n in (3, 4, 8):
            torch.testing.assert_close(compiled(points(n)), program(points(n)))


def test_programs_that_write_in_place():
    def program(x):
        y = x * 2
        y.add_(1.0)
        z = y[0]
        z.mul_(3.0)
        return (
            y.sum(0) @ torch.ones(D, dtype=torch.float64)
            + (x @ torch.ones(D, 2, dtype=torch.float64)).sum()
        )

    x = points()
    torch.testing.assert_close(torch.compile(program, backend="jetfold")(x), program(x))


def test_inductor_options():
    program, x = laplacian(network(9)), points()
    with torch.no_grad():
        compiled = torch.compile(program, backend="jetfold", options={"max_fusion_size": 8})
        torch.testing.assert_close(compiled(x), program(x))
