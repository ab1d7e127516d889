"""What the tests of the JAX frontend share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _double_precision() -> Iterator[None]:
    """float64, for each test of its own."""
    jax = pytest.importorskip("jax")
    with jax.enable_x64(True):
        yield
