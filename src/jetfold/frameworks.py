"""Which framework an array belongs to. A framework is imported when one of its arrays arrives."""

from __future__ import annotations

import sys
from typing import Any


def frontend_of(array: Any) -> Any:
    """The frontend module for an array.

    Raises:
        TypeError: the argument is no array of a supported framework.
    """
    if "torch" in sys.modules:
        from . import torch as frontend

        if frontend.is_array(array):
            return frontend
    raise TypeError(
        "expected the point of evaluation to be a torch.Tensor, got "
        f"{type(array).__module__}.{type(array).__qualname__}; convert it first, for example with "
        "torch.as_tensor(x)"
    )
