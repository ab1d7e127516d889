"""Which versions of PyTorch and JAX jetfold supports, and what is said of others.

jetfold reads jaxprs and answers `__torch_function__`, and both change with minor versions. One that
nobody tried is not refused, for most of them work; it is named once. What it lacks is an error.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from .warn import JetfoldWarning

SUPPORTED = {"torch": ("2.11", "2.15"), "jax": ("0.8", "0.12")}
"""The oldest and the newest minor version: those between them are supported too. The metadata says
the same; docs/versions.md has what was run."""


def requirement(framework: str) -> str:
    """For pip: `jax>=0.8,<0.13`."""
    oldest, newest = SUPPORTED[framework]
    major, minor = _numbers(newest)
    return f"{framework}>={oldest},<{major}.{minor + 1}"


@contextmanager
def supported(framework: str, version: str) -> Iterator[None]:
    """Within it, what jetfold needs of a framework is imported; done once, at its first array.

    Args:
        framework: "torch" or "jax".
        version: the one that is installed, "2.13.0+cpu".

    Raises:
        ImportError: it is older than all that are supported, or lacks what jetfold needs of it.

    Warns:
        JetfoldWarning: it is newer than all that are supported.
    """
    oldest, newest = SUPPORTED[framework]
    here = f"jetfold supports {framework} {oldest} to {newest}, and this is {framework} {version}"
    install = f"pip install '{requirement(framework)}'"
    if _numbers(version) < _numbers(oldest):
        raise ImportError(f"{here}; {install}")
    if _numbers(version) > _numbers(newest):
        warnings.warn(
            f"{here}, which it was not tested with: compare what matters to you by jetfold.check, "
            f"look for a newer jetfold, or {install}",
            JetfoldWarning,
            stacklevel=2,
        )
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{here}, which lacks what jetfold needs ({error}); {install}") from error


def _numbers(version: str) -> tuple[int, int]:
    """(2, 13) of 2.13.0+cpu."""
    major, minor = re.findall(r"\d+", version)[:2]
    return int(major), int(minor)
