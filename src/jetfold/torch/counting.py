"""What a function costs in PyTorch: it is run on tensors of the device "meta".

These have shapes and no numbers. Nothing is computed, and jets are handled as they would be.
"""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.flop_counter import flop_registry

from .. import shared_library
from ..core import recorded
from ..core.costs import Cost, Gradient, Operation, Rates, UnpredictableError
from . import fused
from .private import TorchDispatchMode, tree_leaves, tree_map

_FUNCTIONS = (
    "acos acosh asin asinh atan atan2 atanh cos cosh digamma elu erf erfc erfinv exp "
    "exp2 expm1 gelu hardswish lgamma log log10 log1p log2 logaddexp logsumexp mish pow "
    "rsqrt sigmoid silu sin sinh softplus sqrt tan tanh _softmax _log_softmax"
)
FUNCTIONS = frozenset(_FUNCTIONS.split())

_REDUCTIONS = (
    "sum mean var std var_mean amax amin max min prod norm linalg_vector_norm cumsum "
    "logsumexp _softmax _log_softmax native_layer_norm native_group_norm "
    "native_batch_norm"
)
REDUCTIONS = frozenset(_REDUCTIONS.split())


class Counting(TorchDispatchMode):
    """Notes every operation that meets a tensor without numbers, and the memory that is alive.

    Attributes:
        operations: those that compute or copy something.
        alive: bytes of what was made and is alive.
        peak: the most that were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self.peak = self.alive = 0
        self._known: dict[StorageWeakRef, Any] = {}

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if any(x.is_meta for x in given):  # what does not depend on the point has its numbers
            args, kwargs = tree_map(described, (args, kwargs))
            if "device" in kwargs:
                kwargs["device"] = torch.device("meta")
        if kwargs.get("generator") is not None and _is_meta(kwargs.get("device"), given):
            kwargs = kwargs | {"generator": None}
        result = function(*args, **kwargs)
        made = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor) and x.is_meta]
        if made:
            self._note(function, args, kwargs, given, made, result)
        return result

    def _note(
        self, function: Any, args: Any, kwargs: Any, given: Any, made: Any, result: Any
    ) -> None:
        name = function.overloadpacket.__name__ if hasattr(function, "overloadpacket") else ""
        name = name or function.name().split("::")[-1].split(".")[0]
        written = function.is_view or not self._allocated(made)
        inplace = (name.endswith("_") and not name.endswith("__")) or "out" in kwargs
        if written and not inplace:
            return  # a view
        formula = flop_registry.get(getattr(torch.ops.aten, name, None))
        numbers = max(x.numel() for x in (*given, *made))
        pointwise = torch.Tag.pointwise in function.tags
        base = name.rstrip("_") if inplace else name
        bytes_ = sum(min(_bytes(x), x.untyped_storage().nbytes()) for x in (*given, *made))
        self.operations.append(
            Operation(
                products=formula(*args, **kwargs, out_val=result) if formula else 0,
                arithmetic=numbers if not formula and (pointwise or base in REDUCTIONS) else 0,
                functions=numbers if base in FUNCTIONS else 0,
                moved=bytes_,
                pointwise=pointwise,
            )
        )

    def _allocated(self, made: Sequence[Any]) -> bool:
        """Whether there is new memory; it is counted as long as it lives."""
        new = False
        for x in made:
            storage = x.untyped_storage()
            key = StorageWeakRef(storage)
            if key in self._known:
                continue
            new, size = True, storage.nbytes()
            self.alive += size
            self.peak = max(self.peak, self.alive)
            self._known[key] = weakref.ref(storage, partial(self._freed, key, size))
        return new

    def _freed(self, key: StorageWeakRef, size: int, _: Any) -> None:
        self.alive -= size
        self._known.pop(key, None)


def _is_meta(device: Any, given: Sequence[Any]) -> bool:
    return any(x.is_meta for x in given) or torch.device(device or "cpu").type == "meta"


def _bytes(x: Any) -> int:
    return prod(x.shape) * x.element_size()


def described(x: Any) -> Any:
    """A tensor of the same shape without numbers."""
    if not isinstance(x, torch.Tensor) or x.is_meta:
        return x
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")


@contextmanager
def predictable() -> Iterator[None]:
    """An error that tells of numbers which are not there, as such."""
    try:
        yield
    except (RuntimeError, NotImplementedError, ValueError, TypeError, AssertionError) as error:
        text = str(error)
        if not any(word in text for word in ("meta", "Meta")):
            raise
        raise UnpredictableError(
            "the function asks for numbers, which are not there before it is run "
            f"({next(iter(text.splitlines()), '')})"
        ) from error


def cost(function: Callable[..., Any], args: Sequence[Any], points: Sequence[int]) -> Cost:
    """Of a call, the points having no numbers; nothing is kept for autograd."""
    given = _without_numbers(args, points)
    with predictable(), torch.no_grad(), recorded.recording() as steps, Counting() as counted:
        alive = function(*given)
        del alive
    return Cost(tuple(counted.operations), counted.peak, len(steps))


def gradient(
    function: Callable[..., Any],
    args: Sequence[Any],
    points: Sequence[int],
    plain: Callable[..., Any],
) -> Gradient | None:
    """The bytes that a result holds alive; None where nothing requires gradients."""
    given = _without_numbers(args, points)
    looped = all([args[k].is_cpu for k in points]) and shared_library.compiler() is not None
    token = fused.looped.set(looped)
    try:
        with predictable(), torch.enable_grad(), Counting() as counted:
            leaves = [x for x in tree_leaves(function(*given)) if isinstance(x, torch.Tensor)]
    finally:
        fused.looped.reset(token)
    if not any(x.requires_grad for x in leaves):
        return None
    gc.collect()
    results = {StorageWeakRef(s): s.nbytes() for s in (x.untyped_storage() for x in leaves)}
    return Gradient(counted.alive - sum(results.values()))


def _without_numbers(args: Sequence[Any], positions: Sequence[int]) -> list[Any]:
    given = list(args)
    for k in positions:
        given[k] = described(args[k]).requires_grad_(args[k].requires_grad)
    return given


# ------------------------------------------------------------------ how fast the machine is


def _fastest(call: Callable[[], Any], device: Any, least: int = 12, budget: float = 8e-3) -> float:
    """Seconds of the fastest of some calls."""
    found: list[float] = []
    while len(found) < least or (sum(found) < budget and len(found) < 50):
        start = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - start)
    return min(found)


def rates(like: Any, fused: bool) -> Rates:
    """Those of the device of a tensor in its dtype, measured once per process."""
    return _rates(like.device, like.dtype, fused, torch.get_num_threads())


@lru_cache(maxsize=16)
@torch.no_grad()
def _rates(device: Any, dtype: Any, fused: bool, threads: int) -> Rates:
    def array(*shape: int) -> Any:
        return torch.ones(shape, dtype=dtype, device=device)

    n, far, near = 512, array(2**22), array(2**16)
    square, close = array(n, n), torch.empty_like(near)
    tiny = array(2, 2)
    width = far.element_size()
    return Rates(
        products=2 * n**3 / _fastest(lambda: square @ square, device),
        arithmetic=near.numel() / _fastest(lambda: torch.add(near, 1.5, out=close), device),
        functions=near.numel() / _fastest(lambda: torch.tanh(near, out=close), device),
        moved=2 * width * far.numel() / _fastest(lambda: far + 1.5, device),
        operation=1e-6 if fused else _fastest(lambda: F.linear(tiny, tiny), device),
        call=0.0 if fused else JET,
        fused=fused,
    )


JET = 25e-6
"""Seconds of Python for an operation on jets, on a processor of 2023."""
