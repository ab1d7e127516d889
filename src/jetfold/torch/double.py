"""Functions evaluated in float64, for references."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from .private import tree_map

_WIDER = {
    **dict.fromkeys((torch.float16, torch.bfloat16, torch.float32), torch.float64),
    **dict.fromkeys((torch.complex32, torch.complex64), torch.complex128),
}


def in_float64(tree: Any) -> Any:
    """A tree of arguments, or a function, with every floating-point tensor in float64."""

    def convert(leaf: Any) -> Any:
        return deepcopy(leaf).double() if isinstance(leaf, torch.nn.Module) else _wider(leaf)

    return tree_map(convert, tree)


def _wider(leaf: Any) -> Any:
    # Only where the dtype differs: a converted tensor is another tensor to autograd.
    if isinstance(leaf, torch.Tensor) and leaf.dtype in _WIDER:
        return leaf.to(_WIDER[leaf.dtype])
    return leaf


class _Promotion(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        in_place = name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))
        if in_place or "out" in kwargs:
            return func(*args, **kwargs)
        return func(*tree_map(_wider, args), **tree_map(_wider, kwargs))


def float64() -> AbstractContextManager[Any]:
    """Within it, every PyTorch operation takes its floating-point tensors in float64.

    So do the operations of a function on the tensors that it closes over. An operation that writes
    into its argument must have that argument itself, and is left alone.
    """
    return _Promotion()


@contextmanager
def seeded() -> Iterator[None]:
    """Within it, functions draw the same random numbers every time; those outside do not notice."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def to_numpy(array: torch.Tensor) -> np.ndarray:
    """A tensor as a NumPy array in double precision."""
    wide = torch.complex128 if array.is_complex() else torch.float64
    return array.detach().to("cpu", wide).resolve_conj().numpy()
