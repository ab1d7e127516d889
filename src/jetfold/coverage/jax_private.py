"""What the coverage uses of JAX beyond its documented interface."""

from __future__ import annotations

from typing import Any


def harnesses() -> list[Any]:
    """JAX's own test cases: a primitive, a function and what it is called with (a Harness each)."""
    from jax._src.internal_test_util.test_harnesses import all_harnesses

    return list(all_harnesses)
