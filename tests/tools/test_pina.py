"""PINA's operators give the same numbers and labels; solvers train as they did."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("pina")

import pina.operator as theirs
from pina import Condition, LabelTensor, Trainer
from pina.domain import CartesianDomain
from pina.equation import Equation
from pina.problem import SpatialProblem
from pina.solver import PINN

import jetfold.pina as ours
from jetfold import watched
from jetfold.watched import calling, clear, find


@pytest.fixture(autouse=True)
def forgotten():
    yield
    clear()


class Net(torch.nn.Module):
    """A model with a hard constraint, which takes its points apart by their labels."""

    def __init__(self, outputs=2, coordinates=3):
        super().__init__()
        layers = [torch.nn.Linear(coordinates, 8), torch.nn.Tanh(), torch.nn.Linear(8, outputs)]
        self.layers = torch.nn.Sequential(*layers).double()

    def forward(self, x):
        return self.layers(x) * x.extract(["y"]) * (1 - x.extract("x"))


def everything(lib, u, x):
    """All operators, of outputs, of parts of them, and of derivatives."""
    lap = lib.laplacian(u, x, d=["x", "y"])
    return [
        lap,
        lib.grad(u, x),
        lib.grad(u, x, "v", "t"),
        lib.grad(u, x, ["v", "u"], ["t", "x"]),
        lib.div(u, x, ["u", "v"], ["x", "y"]),
        lib.laplacian(u.extract(["v"]), x, d=["y"]),
        lib.laplacian(u, x, method="divgrad"),
        lib.laplacian(lap, x, d=["x", "y"]),
        lib.grad(lib.grad(u, x, ["u"], ["x"]), x, d=["x", "t"]),
        lib.advection(u, x, ["u", "v"], ["v"], ["x", "y"]),
        lib.grad(LabelTensor(u.extract("u") * u.extract("v"), ["uv"]), x, d=["x"]),
    ]


@pytest.mark.parametrize("order", [["x", "y", "t"], ["t", "x", "y"]])
def test_the_same_numbers_and_labels(order):
    net = Net()
    ours.watch(net, always=True)

    def evaluated(lib):
        points = LabelTensor(values, order).requires_grad_()
        u = net(points.extract(["x", "t", "y"])).as_subclass(LabelTensor)
        u.labels = ["u", "v"]
        found = everything(lib, u, points)
        call = find(u, points, ours._extracted)
        loss = sum(a.as_subclass(torch.Tensor).square().mean() for a in found)
        return found, call, torch.autograd.grad(loss, list(net.parameters()))

    values = torch.randn(6, 3, dtype=torch.float64)
    evaluated(ours)
    found, call, slopes = evaluated(ours)
    assert call is not None and len(call[0].found) > 8 and not call[0].rows
    with calling(False):
        expected, nothing, expected_slopes = evaluated(theirs)
    assert nothing is None
    for a, b in zip(found, expected, strict=True):
        assert type(a) is LabelTensor and a.labels == b.labels
        torch.testing.assert_close(
            a.as_subclass(torch.Tensor), b.as_subclass(torch.Tensor), rtol=1e-10, atol=1e-12
        )
    torch.testing.assert_close(slopes, expected_slopes, rtol=1e-9, atol=1e-11)


def test_what_pina_refuses_it_still_refuses():
    net, x = Net(), LabelTensor(torch.randn(4, 3, dtype=torch.float64), ["x", "y", "t"])
    ours.watch(net)
    u = net(x.requires_grad_()).as_subclass(LabelTensor)
    u.labels = ["u", "v"]
    for operator in (ours.grad, ours.laplacian, ours.div):
        with pytest.raises(RuntimeError, match="Component label missing"):
            operator(u, x, components=["w"])
        with pytest.raises(TypeError, match="must be a LabelTensor"):
            operator(u, torch.randn(4, 3))
    with pytest.raises(RuntimeError, match="Velocity dimensionality"):
        ours.advection(u, x, ["u"])


def problem_with(lib):
    """Δ²w = 1 on a square, by the Laplacian of the Laplacian; slopes at one side."""

    def plate(x, w):
        lap = lib.laplacian(w, x)
        return lib.laplacian(lap, x) - 1

    class Plate(SpatialProblem):
        output_variables = ("w",)
        spatial_domain = CartesianDomain({"x": [0, 1], "y": [0, 1]})
        domains = {  # noqa: RUF012
            "inside": spatial_domain,
            "side": CartesianDomain({"x": 1, "y": [0, 1]}),
            "bottom": CartesianDomain({"x": [0, 1], "y": 0}),
        }
        conditions = {  # noqa: RUF012
            "inside": Condition(domain="inside", equation=Equation(plate)),
            "side": Condition(
                domain="side", equation=Equation(lambda x, w: lib.grad(w, x, d=["x"]))
            ),
            "bottom": Condition(domain="bottom", equation=Equation(lambda x, w: w)),
        }

    Plate.output_variables = ["w"]
    return Plate()


def test_training_gives_the_same_losses(tmp_path):
    def trained(lib):
        torch.manual_seed(5)
        problem = problem_with(lib)
        problem.discretise_domain(12, "grid", domains=["inside"])
        problem.discretise_domain(5, "grid", domains=["side", "bottom"])
        for name, points in problem.discretised_domains.items():
            problem.discretised_domains[name] = points.double()
            problem.discretised_domains[name].labels = points.labels
        net = Net(1, 2)
        solver = PINN(problem, net)
        options = {"enable_progress_bar": False, "logger": False, "enable_checkpointing": False}
        Trainer(
            solver, max_epochs=4, accelerator="cpu", default_root_dir=tmp_path, batch_size=None,
            enable_model_summary=False, **options,
        ).train()  # fmt: skip
        return net

    torch.set_default_dtype(torch.float64)
    try:
        expected, found = trained(theirs), trained(ours)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(
        list(found.parameters()), list(expected.parameters()), rtol=1e-10, atol=1e-10
    )
    trusted = {symbol for symbol, _, _ in watched._networks[found].trusted}
    assert ((0, 0, 0, 0), (0, 0, 1, 1), (0, 0, 1, 1), (1, 1, 1, 1)) in trusted
