"""A plate in PINA, before and after one changed import: the same parameters, and both times.

    python examples/tools/in_pina.py

Δ²w = 1 on a square with clamped edges, the Laplacian of the Laplacian, by PINA's solver for
physics-informed networks and its trainer. Needs pina-mathlab beside PyTorch.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any

import pina.operator
import torch
from pina import Condition, Trainer
from pina.domain import CartesianDomain
from pina.equation import Equation
from pina.problem import SpatialProblem
from pina.solver import PhysicsInformedSingleModelSolver as PINN

import jetfold.pina


def plate(operator: Any) -> SpatialProblem:
    """What a user writes: `from pina.operator import laplacian`, or from jetfold.pina."""
    laplacian = operator.laplacian

    def bending(x: Any, w: Any) -> Any:
        return laplacian(laplacian(w, x), x) - 1

    class Plate(SpatialProblem):
        output_variables = ["w"]  # noqa: RUF012
        spatial_domain = CartesianDomain({"x": [0, 1], "y": [0, 1]})
        domains = {"plate": spatial_domain}  # noqa: RUF012
        conditions = {  # noqa: RUF012
            "plate": Condition(domain="plate", equation=Equation(bending)),
        }

    return Plate()


class Clamped(torch.nn.Module):
    """A network whose value and slope vanish at the edges."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(2, width), torch.nn.Tanh(),
            torch.nn.Linear(width, width), torch.nn.Tanh(),
            torch.nn.Linear(width, width), torch.nn.Tanh(),
            torch.nn.Linear(width, 1),
        )  # fmt: skip

    def forward(self, points: Any) -> Any:
        x, y = points.extract(["x"]), points.extract(["y"])
        return (16 * x * (1 - x) * y * (1 - y)) ** 2 * self.layers(points)


def trained(operator: Any, side: int, width: int, epochs: int) -> tuple[torch.Tensor, float]:
    """The parameters after training, as one vector, and the seconds it took."""
    torch.manual_seed(0)
    problem = plate(operator)
    problem.discretise_domain(side, "grid", domains=["plate"])
    net = Clamped(width)
    quiet = dict.fromkeys(
        ("enable_progress_bar", "logger", "enable_checkpointing", "enable_model_summary"), False
    )
    trainer = Trainer(PINN(problem, net), max_epochs=epochs, accelerator="cpu", **quiet)
    begin = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - begin
    return torch.nn.utils.parameters_to_vector(net.parameters()).detach(), seconds


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small sizes")
    options = parser.parse_args(arguments)
    sizes = (4, 8, 4) if options.quick else (30, 40, 30)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        expected, slow = trained(pina.operator, *sizes)
        found, fast = trained(jetfold.pina, *sizes)
    finally:
        torch.set_default_dtype(before)
    error = float((found - expected).abs().max())
    print(
        f"{slow:.2f} s before, {fast:.2f} s after: {slow / fast:.2f} ×; parameters to {error:.0e}"
    )
    if not error < 1e-8:
        raise SystemExit(f"FAILED: the parameters differ by {error:.0e}")


if __name__ == "__main__":
    main()
