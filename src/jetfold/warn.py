"""Strictness: what happens when an operation has no rule of its own. Shared by all frameworks."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager


class JetfoldWarning(UserWarning):
    """Something works, but slower than it could."""


_state = threading.local()


@contextmanager
def strict() -> Iterator[None]:
    """Within it, an operation without a rule of its own is an error instead of a warning.

    Raises (inside):
        NotImplementedError: the operation, by name, and what to do.

    >>> import torch, jetfold as jf
    >>> with jf.strict():
    ...     jf.laplacian(torch.special.i0)(torch.tensor(1.0))
    Traceback (most recent call last):
    NotImplementedError: special_i0 has no rule of its own, and jetfold.strict() forbids ...
    """
    before = getattr(_state, "strict", False)
    _state.strict = True
    try:
        yield
    finally:
        _state.strict = before


def report(name: str) -> bool:
    """Warn that an operation goes through the general rule, or refuse it under `strict()`.

    Python's default filter shows a warning once per text, so once per operation.
    """
    if getattr(_state, "strict", False):
        raise NotImplementedError(
            f"{name} has no rule of its own, and jetfold.strict() forbids the general rule; leave "
            "strict() to have it evaluated exactly by nested differentiation, only slower"
        )
    warnings.warn(
        f"{name} has no rule of its own: jetfold evaluates it by nested differentiation, exactly "
        "but more slowly (jetfold.strict() makes this an error)",
        JetfoldWarning,
        stacklevel=2,
    )
    return True


def report_inside(name: str, reason: object) -> None:
    """Warn that the code of a function counts, not its own rule; an error under `strict()`."""
    text = (
        f"the reverse rule of {name} cannot be differentiated again ({reason}): jetfold "
        "differentiates the code inside instead, which is right only if the rule is its derivative"
    )
    if getattr(_state, "strict", False):
        raise NotImplementedError(f"{text}; give it a forward rule, by jax.custom_jvp")
    warnings.warn(text, JetfoldWarning, stacklevel=2)
