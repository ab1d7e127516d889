"""What all tests share: hypothesis settings and a random generator of the test's own."""

from __future__ import annotations

import importlib.abc
import os
import sys
import zlib

import hypothesis
import numpy as np
import pytest

ABSENT = os.environ.get("JETFOLD_WITHOUT", "").split()
"""Packages that the tests shall do without, as if they were not installed."""


class Absent(importlib.abc.MetaPathFinder):
    """Refuses to find them."""

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


sys.meta_path.insert(0, Absent())

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
