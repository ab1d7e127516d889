"""PyTorch in the measurements."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any
from weakref import WeakSet

import numpy as np
import torch

from ..torch import kernels
from .backends import Along, Loss, Powers, at_a_point, empty_folder, processor
from .measure import resident_growth, resident_peak
from .networks import Layer
from .torch_private import ZerosInMemory


class Step:
    """See `backends.Step`."""

    def __init__(self, loss: Callable[[Any], Any]) -> None:
        self.loss = loss

    def __call__(self, parameters: Any, x: Any) -> Any:
        # What an operator leaves out, as the Laplacian the last bias, has zeros.
        return torch.autograd.grad(
            self.loss(x), parameters, allow_unused=True, materialize_grads=True
        )

    def forward(self, parameters: Any, x: Any) -> Any:
        return self.loss(x)

    def kept(self, parameters: Any, x: Any) -> int | None:
        self.loss(x)  # compiled without hooks: torch.func, which refuses them, would leave them off
        try:
            return self._saved({t.untyped_storage().data_ptr() for t in (*parameters, x)}, x)
        except RuntimeError as error:
            if "saved tensor hooks" not in str(error):
                raise
            return self.held(parameters, x)  # torch.func refuses the hooks

    def _saved(self, given: set[int], x: Any) -> int:
        """The storages that wait for the backward pass."""
        waiting: WeakSet[_Saved] = WeakSet()

        def pack(tensor: Any) -> _Saved:
            waiting.add(saved := _Saved(tensor))
            return saved

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
            alive = self.loss(x)
        storages = [saved.tensor.untyped_storage() for saved in waiting]
        del alive
        found = {storage.data_ptr(): storage.nbytes() for storage in storages}
        return sum(size for place, size in found.items() if place not in given)

    def held(self, parameters: Any, x: Any) -> int | None:
        if x.is_cuda:
            before = torch.cuda.memory_allocated(x.device)
            alive = self.loss(x)
            after = torch.cuda.memory_allocated(x.device)
            del alive
            return int(after - before)
        return resident_growth(lambda: self.loss(x))


@dataclass(frozen=True, eq=False)
class _Saved:
    """A tensor that is saved for the backward pass."""

    tensor: Any


class Torch:
    """See `backends.Backend`."""

    name = "torch"
    modes = ("eager", "compiled")
    peers = ()
    warm_calls = kernels.AFTER

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

    def trainable(
        self, layers: Sequence[Layer], dtype: str | None = None
    ) -> tuple[Any, Callable[[Any, Any], Any]]:
        module: Any = self.network(layers, dtype)
        return list(module.parameters()), lambda parameters, x: module(x)

    def step(self, loss: Loss, parameters: Any, x: Any, compiled: bool) -> Step:
        """A module holds the parameters, and only the loss is compiled: so users write it."""

        def of_points(x: Any) -> Any:
            return loss(parameters, x)

        return Step(self.compiled(of_points) if compiled else of_points)

    def value(self, function: Loss, parameters: Any, compiled: bool) -> Callable[[Any], Any]:
        def of_points(x: Any) -> Any:
            return function(parameters, x)

        return torch.no_grad()(self.compiled(of_points) if compiled else of_points)

    def nested(
        self,
        network: Callable[[Any], Any],
        residual: Callable[[Along], Sequence[Any]],
        compiled: bool,
    ) -> Callable[[Any], Sequence[Any]]:
        """`torch.autograd.grad` of sums; compiled, which refuses that, `torch.func.grad`."""

        def by_autograd(x: Any) -> Sequence[Any]:
            x = x.detach().requires_grad_()
            with torch.enable_grad():
                u = network(x)

            @cache
            @torch.enable_grad()
            def along(output: int, path: tuple[int, ...]) -> Any:
                return slopes(output, path[:-1])[:, path[-1]] if path else u[:, output]

            @cache
            def slopes(output: int, path: tuple[int, ...]) -> Any:
                (found,) = torch.autograd.grad(along(output, path).sum(), x, create_graph=True)
                return found

            return residual(along)

        if compiled:
            return torch.func.vmap(at_a_point(network, residual, torch.func.grad))
        return by_autograd

    def peer(
        self, method: str, operator: str, powers: Powers | None, network: Callable[[Any], Any]
    ) -> Callable[[Any], Any] | None:
        return None

    def nested_jvp(
        self, powers: Powers, network: Callable[[Any], Any], dtype: str | None = None
    ) -> Callable[[Any], Any]:
        directions = self.array(powers.directions, dtype)
        weights = self.array(powers.weights, dtype)

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
        # Random numbers are those that are drawn eagerly, so that values can be compared.
        options = {"joint_custom_pre_pass": ZerosInMemory(), "fallback_random": True}
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

    def seeded(self, seed: int) -> Any:
        torch.manual_seed(seed)  # the global state, because a compiled function takes no generator

    def peak(self, call: Callable[[], object]) -> int | None:
        if torch.device(self.device).type == "cpu":
            return resident_peak(call)
        torch.cuda.synchronize(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        call()
        return torch.cuda.max_memory_allocated(self.device) - before

    def forget(self) -> None:
        torch.compiler.reset()

    def wait(self, result: Any) -> None:
        if torch.device(self.device).type == "cuda":
            torch.cuda.synchronize(self.device)

    def doubles(self) -> AbstractContextManager[Any]:
        return nullcontext()

    @contextmanager
    def alone(self) -> Iterator[None]:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)

    @contextmanager
    def cold(self) -> Iterator[None]:
        with empty_folder("TORCHINDUCTOR_CACHE_DIR", "XDG_CACHE_HOME"):
            torch.compile(torch.sin)(torch.ones(2, device=self.device))  # headers, once
            yield

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
