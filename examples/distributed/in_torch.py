"""DDP and FSDP2 over processes train to the parameters of one process.

    python examples/distributed/in_torch.py                       # two processes, gloo, CPU
    python examples/distributed/in_torch.py --processes 4 --ways ddp

The heat equation u_t = u_xx / 10 with u(0, x) = sin πx, float64. What is wrapped is the module
whose `forward` is the LOSS: tensors go in and a tensor comes out, so that every hook of
DistributedDataParallel and of `fully_shard` finds tensors. Jets stay inside. (A layer that is
sharded by itself inside of the operator would get jets; FSDP2 hooks what comes out of it, and
jetfold refuses that with an error.)
"""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

import jetfold as jf


class Loss(nn.Module):
    """The residual at points inside, and the values at t = 0."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        t, x = jf.partials(2)
        self.heat = t - 0.1 * x**2

    def forward(self, inside: Tensor, start: Tensor) -> Tensor:
        residual = self.heat(self.network, batch_dims=1)(inside)
        off = self.network(start)[:, 0] - torch.sin(torch.pi * start[:, 1])
        return residual.square().mean() + off.square().mean()


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1)
    return nn.Sequential(*layers).double()


def points(n: int) -> tuple[Tensor, Tensor]:
    """All points of all processes: inside, and at t = 0."""
    inside, start = torch.rand(2, n, 2, generator=torch.Generator().manual_seed(1)).double()
    return inside, start * torch.tensor([0.0, 1.0])


def train(
    loss: Callable[..., Tensor], module: nn.Module, data: Sequence[Tensor], steps: int
) -> None:
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(*data).backward()
        optimizer.step()


def furthest(found: Iterable[Tensor], others: Iterable[Tensor]) -> float:
    pairs = zip(found, others, strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def ddp(loss: nn.Module) -> nn.Module:
    return nn.parallel.DistributedDataParallel(loss)


def fsdp(loss: nn.Module) -> nn.Module:
    """Every process holds a part of every parameter, gradient and state of the optimiser."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    return fully_shard(loss, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))


WAYS = {"ddp": ddp, "fsdp": fsdp}


def work(rank: int, processes: int, port: int, ways: Sequence[str], steps: int) -> None:
    """One process: its share of the points; the first compares with training alone on all."""
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", address, rank=rank, world_size=processes)
    data = points(8 * processes)
    alone = Loss(network())
    before = [p.detach().clone() for p in alone.parameters()]
    train(alone, alone, data, steps)
    share = [part.chunk(processes)[rank] for part in data]
    for way in ways:
        wrapped = WAYS[way](Loss(network()))
        train(wrapped, wrapped, share, steps)
        found = [getattr(p, "full_tensor", lambda p=p: p)() for p in wrapped.parameters()]
        off, moved = furthest(found, alone.parameters()), furthest(before, alone.parameters())
        if rank == 0:
            held = sum(
                getattr(p, "to_local", lambda p=p: p)().numel() for p in wrapped.parameters()
            )
            whole = sum(p.numel() for p in alone.parameters())
            print(
                f"{way}: {processes} processes, {held} of {whole} parameters each; after {steps} "
                f"steps, by which they moved {moved:.1e}, {off:.0e} from one process"
            )
        if off > 1e-10:
            raise SystemExit(f"{way} trains to other parameters")
    dist.destroy_process_group()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args(arguments)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # A fork has PyTorch imported already; where there is none (Windows), or CUDA is used: "spawn".
    method = "fork" if sys.platform == "linux" else "spawn"
    torch.multiprocessing.start_processes(
        work,
        (options.processes, port, options.ways, options.steps),
        options.processes,
        start_method=method,
    )


if __name__ == "__main__":
    main()
