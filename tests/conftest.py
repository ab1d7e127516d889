"""What all tests share: hypothesis settings and a random generator of the test's own."""

from __future__ import annotations

import gc
import importlib.abc
import importlib.metadata
import importlib.util
import os
import sys
import zlib
from typing import Any

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


def pytest_configure(config: pytest.Config) -> None:
    """What takes most of a test's time is spared: optimising, and compiling again."""
    quick = {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_TRACEBACK_IN_LOCATIONS_LIMIT": "0",  # lowered programs do not say where they stand
        "TORCHINDUCTOR_VEC_ISA_OK": "1",  # the processor says what it has; no compiler is asked
    }
    if "jax" not in ABSENT and importlib.util.find_spec("jaxlib"):
        old = [int(n) for n in importlib.metadata.version("jaxlib").split(".")[:2]] < [0, 11]
        if old:  # later ones refuse an option that they do not know
            quick["XLA_FLAGS"] = (
                "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
            )
    if getattr(config, "cache", None) and not hasattr(config, "workerinput"):
        quick["JAX_COMPILATION_CACHE_DIR"] = str(config.cache.mkdir("jax"))
        quick["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.05"
        quick["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    for name, value in quick.items():  # workers inherit these
        os.environ.setdefault(name, value)


gc.disable()  # imports leave no garbage


def pytest_collection_finish() -> None:
    """What was imported stays: the collector of garbage need not look through it again and again."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    gc.enable()


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


# ------------------------------------------------------------------ randomized operators

RANDOM_OPERATORS = ["heat", "biharmonic", "mixed"]

ESTIMATES = [
    ("heat", 2, "gaussian", False),
    ("heat", 2, "rademacher", False),
    ("heat", 3, "orthogonal", False),
    ("heat", 2, "coordinates", False),
    ("heat", 2, "coordinates", True),
    ("biharmonic", 2, "gaussian", False),
    ("biharmonic", 3, "orthogonal", False),
    ("biharmonic", 4, "coordinates", True),
    ("mixed", 5, "coordinates", False),
    ("mixed", 5, None, True),
]
"""(operator, samples, distribution, replace)"""


def random_operator(name: str) -> Any:
    """An operator in six coordinates."""
    import jetfold

    x = jetfold.partials(6)
    squares = sum((v**2 for v in x), 0 * x[0])
    return {
        "heat": x[0] - 0.1 * (squares - x[0] ** 2),
        "biharmonic": squares**2,
        "mixed": x[0] ** 4 + x[1] ** 2 * x[2] ** 2 - 2 * x[3] * x[4] * x[5] + squares,
    }[name]


@pytest.fixture(params=RANDOM_OPERATORS)
def operator(request: pytest.FixtureRequest) -> Any:
    """Operators in six coordinates, of orders two to four."""
    return random_operator(request.param)


@pytest.fixture(params=ESTIMATES, ids=lambda case: "-".join(map(str, case)))
def estimated(request: pytest.FixtureRequest) -> Any:
    """An operator in six coordinates, and its estimate with draws of their own for every point."""
    import jetfold

    name, samples, distribution, replace = request.param
    exact = random_operator(name)
    options = {"replace": replace, "per_point": True}
    return exact, jetfold.randomize(exact, samples, distribution, **options)
