"""Which derivative a tensor is, in PyTorch (`jetfold.watched`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .. import watched
from ..columns import Column
from ..watched import any_network
from ..watched import clear as forget

__all__ = ["any_network", "find", "forget", "together"]


def find(ys: Any, xs: Any) -> tuple[Any, list[Column]] | None:
    """Where a tensor comes from, and which derivatives it holds."""
    return watched.find(ys, xs) if isinstance(ys, torch.Tensor) else None


def together(call: Any, parts: Sequence[Any]) -> Any:
    """Columns side by side, of which is known what they are."""
    whole = torch.cat(list(parts), 1)
    call.keep(whole, [column for part in parts for column in call.given[id(part)][2]])
    return whole
