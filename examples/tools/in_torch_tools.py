"""One physics-informed network through PyTorch's own tools.

    python examples/tools/in_torch_tools.py              # DataLoader, safetensors, torch.export
    python examples/tools/in_torch_tools.py --lightning  # the same training by Lightning

u_t = k u_xx, trained on points from a DataLoader; the trained weights saved by safetensors and
loaded into another network; the residual exported by torch.export, saved, loaded and run. Each
has to give the same numbers. (Two processes, DDP: examples/distributed/in_torch.py.)
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

import jetfold as jf

K = 0.3
t, x = jf.partials(2, names="t x")
heat = t - K * x**2


class Solution(torch.nn.Module):
    """u(t, x) of points Float[points, 2]: exact at t = 0, and 0 at x = 0 and 1."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(
            torch.nn.Linear(2, width), torch.nn.Tanh(),
            torch.nn.Linear(width, width), torch.nn.Tanh(), torch.nn.Linear(width, 1),
        )  # fmt: skip

    def forward(self, p: torch.Tensor) -> torch.Tensor:
        at = p[:, 1:]
        return torch.sin(torch.pi * at) + p[:, :1] * at * (1 - at) * self.net(p)


class Residual(torch.nn.Module):
    """u_t − k u_xx of a solution: a module, so that it can be compiled and exported."""

    def __init__(self, u: Solution) -> None:
        super().__init__()
        self.u = u

    def forward(self, p: torch.Tensor) -> torch.Tensor:
        return heat(self.u, batch_dims=1)(p)


def trained(u: Solution, points: DataLoader, epochs: int) -> None:
    """By hand."""
    residual = Residual(u)
    optimiser = torch.optim.Adam(u.parameters(), 1e-2)
    for _ in range(epochs):
        for (batch,) in points:
            optimiser.zero_grad()
            residual(batch).square().mean().backward()
            optimiser.step()


def trained_by_lightning(u: Solution, points: DataLoader, epochs: int) -> None:
    """The same by a LightningModule."""
    import lightning

    class Heat(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.residual = Residual(u)

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            return self.residual(batch[0]).square().mean()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), 1e-2)

    quiet = dict.fromkeys(
        ("enable_progress_bar", "logger", "enable_checkpointing", "enable_model_summary"), False
    )
    lightning.Trainer(max_epochs=epochs, accelerator="cpu", **quiet).fit(Heat(), points)


def error(u: Solution) -> float:
    """Relative, against exp(−k π² t) sin(π x)."""
    side = torch.linspace(0, 1, 30)
    p = torch.cartesian_prod(side, side)
    exact = torch.exp(-K * torch.pi**2 * p[:, :1]) * torch.sin(torch.pi * p[:, 1:])
    return float(((u(p) - exact).norm() / exact.norm()).detach())


def saved_and_loaded(u: Solution, folder: Path) -> Solution:
    """Another network with the weights of this one, through a file of safetensors."""
    from safetensors.torch import load_file, save_file

    save_file(u.state_dict(), folder / "u.safetensors")
    other = Solution()
    other.load_state_dict(load_file(folder / "u.safetensors"))
    return other


def exported(u: Solution) -> Any:
    """The residual as a program of torch.export, saved and loaded; any number of points."""
    count = torch.export.Dim("count", min=2, max=4096)
    program = torch.export.export(Residual(u), (torch.rand(8, 2),), dynamic_shapes=({0: count},))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file).module()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lightning", action="store_true", help="train by Lightning")
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--quick", action="store_true", help="fewer epochs, a looser target")
    options = parser.parse_args(arguments)
    epochs, target = (60, 0.1) if options.quick else (options.epochs, 0.02)
    torch.manual_seed(0)
    u = Solution()
    points = DataLoader(TensorDataset(torch.rand(512, 2)), batch_size=128, shuffle=True)
    train = trained_by_lightning if options.lightning else trained
    train(u, points, epochs)
    print(f"relative error {error(u):.2%} after {epochs} epochs")
    if not error(u) < target:
        raise SystemExit(f"FAILED: an error of {target:.0%} was not reached")
    p = torch.rand(50, 2)
    expected = Residual(u)(p).detach()
    with tempfile.TemporaryDirectory() as folder:
        try:
            again = Residual(saved_and_loaded(u, Path(folder)))(p)
        except ModuleNotFoundError:
            print("safetensors is not installed: pip install safetensors")
        else:
            print(f"safetensors: {float((again - expected).detach().abs().max()):.0e}")
            torch.testing.assert_close(again, expected, rtol=0, atol=0)
    program = exported(u)
    print(f"torch.export: {float((program(p) - expected).detach().abs().max()):.0e}")
    torch.testing.assert_close(program(p), expected)


if __name__ == "__main__":
    main()
