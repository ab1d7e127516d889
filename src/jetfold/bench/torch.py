"""PyTorch in the measurements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch

from .backends import Powers, processor
from .measure import resident_peak
from .networks import Layer
from .torch_private import ZerosInMemory


class Torch:
    """See `backends.Backend`."""

    name = "torch"
    modes = ("eager", "compiled")
    peers = ()

    def __init__(self, device: str, dtype: str) -> None:
        self.device = device
        self.dtype = dtype

    def versions(self) -> str:
        kind = torch.device(self.device)
        if kind.type == "cuda":
            return f"torch {torch.__version__}, {torch.cuda.get_device_name(kind)}"
        threads = torch.get_num_threads()
        return f"torch {torch.__version__}, {processor()}, {threads} thread{'s' * (threads != 1)}"

    def array(self, values: np.ndarray, dtype: str | None = None) -> Any:
        return torch.as_tensor(values).to(self.device, getattr(torch, dtype or self.dtype))

    def numpy(self, array: Any) -> np.ndarray:
        return array.detach().double().cpu().numpy()

    def network(self, layers: Sequence[Layer], dtype: str | None = None) -> Callable[[Any], Any]:
        modules: list[Any] = []
        for matrix, bias in layers:
            linear = torch.nn.Linear(matrix.shape[1], matrix.shape[0], device="meta")
            linear.weight = torch.nn.Parameter(self.array(matrix, dtype))
            linear.bias = torch.nn.Parameter(self.array(bias, dtype))
            modules += [linear, torch.nn.Tanh()]
        return torch.nn.Sequential(*modules[:-1])

    def peer(
        self, method: str, operator: str, powers: Powers | None, network: Callable[[Any], Any]
    ) -> Callable[[Any], Any] | None:
        return None

    def nested_jvp(self, powers: Powers, network: Callable[[Any], Any]) -> Callable[[Any], Any]:
        directions, weights = self.array(powers.directions), self.array(powers.weights)

        def along(x: Any, direction: Any) -> Any:
            def derivative(f: Callable[[Any], Any]) -> Callable[[Any], Any]:
                return lambda y: torch.func.jvp(f, (y,), (direction,))[1]

            f = network
            for _ in range(powers.order):
                f = derivative(f)
            return f(x)

        def of_point(x: Any) -> Any:
            each = torch.func.vmap(lambda v: along(x, v))(directions)
            return torch.tensordot(weights, each, 1)

        return torch.func.vmap(of_point)

    def compiled(
        self, function: Callable[[Any], Any], rewrite: bool = False
    ) -> Callable[[Any], Any]:
        if rewrite:
            return torch.compile(function, fullgraph=True, dynamic=False, backend="jetfold")
        options = {"joint_custom_pre_pass": ZerosInMemory()}
        return torch.compile(function, fullgraph=True, dynamic=False, options=options)

    def sampled(self, function: Callable[..., Any], compiled: bool) -> Callable[[Any, int], Any]:
        if compiled:  # a compiled function draws from the global state
            run = self.compiled(function)

            def call(x: Any, seed: int) -> Any:
                torch.manual_seed(seed)
                return run(x)

            return call
        generator = torch.Generator(self.device)
        return lambda x, seed: function(x, rng=generator.manual_seed(seed))

    def peak(self, call: Callable[[], object]) -> int | None:
        if torch.device(self.device).type == "cpu":
            return resident_peak(call)
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        call()
        return torch.cuda.max_memory_allocated(self.device) - before

    def forget(self) -> None:
        torch.compiler.reset()

    def wait(self, result: Any) -> None:
        if result.is_cuda:
            torch.cuda.synchronize(result.device)

    def inference(self) -> AbstractContextManager[Any]:
        return torch.no_grad()


def make(device: str, dtype: str, threads: int | None) -> Torch:
    """The backend on a device, after checking that it is there."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {device!r} cannot be used: {error}") from None
    if threads is not None:
        torch.set_num_threads(threads)
    return Torch(device, dtype)
