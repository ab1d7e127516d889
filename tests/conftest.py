"""What all tests share: hypothesis settings and a random generator of the test's own."""

from __future__ import annotations

import os
import zlib

import hypothesis
import numpy as np
import pytest

hypothesis.settings.register_profile(
    "jetfold",
    deadline=None,  # machines are noisy
    max_examples=40,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("jetfold")


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """A generator seeded by the name of the test: the same numbers in every run and order."""
    return np.random.default_rng(zlib.crc32(request.node.name.encode()))
