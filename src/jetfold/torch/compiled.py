"""Functions in C for tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .. import shared_library

TYPES = {torch.float32: "float", torch.float64: "double"}
"""Numbers that C knows, too."""


def functions(source: str, *names: str) -> list[Callable[..., Any]] | None:
    """`shared_library.functions`, for what the processor has as PyTorch found it."""
    capability = torch.backends.cpu.get_cpu_capability()
    options = shared_library.INSTRUCTIONS.get(capability, ())
    return shared_library.functions(source, *names, options=options)
