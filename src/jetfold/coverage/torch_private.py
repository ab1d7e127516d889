"""What the coverage uses of PyTorch beyond its documented interface."""

from __future__ import annotations

from typing import Any


def operations() -> list[Any]:
    """PyTorch's own test database: every operation with sample inputs (an OpInfo each)."""
    from torch.testing._internal.common_methods_invocations import op_db

    return list(op_db)
