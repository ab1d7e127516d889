"""The state of PyTorch's generators: what runs more than once must draw the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch


def random_state(arrays: Sequence[Any]) -> Any:
    """That of the devices of these arrays; None to torch.compile."""
    if torch.compiler.is_compiling():
        return None
    devices = {x.device for x in arrays if x.is_cuda}
    return torch.get_rng_state(), [(d, torch.cuda.get_rng_state(d)) for d in devices]


def set_random_state(state: Any) -> None:
    """Back to a state."""
    if state is not None:
        torch.set_rng_state(state[0])
        for device, of_device in state[1]:
            torch.cuda.set_rng_state(of_device, device)
