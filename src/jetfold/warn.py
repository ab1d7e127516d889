"""Strictness: what happens when an operation has no rule of its own. Shared by all frameworks."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class JetfoldWarning(UserWarning):
    """Something works, but more slowly than it could, perhaps not as meant, or untested."""


_state = threading.local()


@contextmanager
def strict() -> Iterator[None]:
    """Within it, an operation without a rule of its own is an error instead of a warning.

    Raises (inside):
        NotImplementedError: the operation, by name, and what to do.

    >>> import torch, jetfold as jf
    >>> with jf.strict():
    ...     jf.laplacian(torch.ops.aten._safe_softmax)(torch.ones(2), 0)
    Traceback (most recent call last):
    NotImplementedError: _safe_softmax has no rule of its own, and jetfold.strict() forbids ...
    """
    before = getattr(_state, "strict", False)
    _state.strict = True
    try:
        yield
    finally:
        _state.strict = before


def report_copy() -> None:
    """Warn that autograd differentiates by a copy of the argument that has no derivatives."""
    warnings.warn(
        "torch.autograd.grad differentiates by a detached copy of the argument: to the operator "
        "its result is a constant. If that is not meant, write x.requires_grad_() or "
        "x.clone().requires_grad_() in the place of x.detach().requires_grad_()",
        JetfoldWarning,
        stacklevel=2,
    )


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


def report_many(name: str, vectors: int | None, shape: Sequence[int]) -> None:
    """Warn that all axes of a large point are coordinates."""
    count = "very many" if vectors is None else f"{vectors:,}"
    warnings.warn(
        f"{name} carries {count} vectors: all axes of the argument of shape {tuple(shape)} are "
        "coordinates of one point. If the first axis indexes independent points, pass "
        "batch_dims=1; if they are coordinates, chunk_size= bounds the memory, and "
        "jetfold.randomize the number of vectors",
        JetfoldWarning,
        stacklevel=2,
    )


def report_inside(name: str, reason: object) -> None:
    """Warn that the code of a function counts, not its own rule; an error under `strict()`."""
    text = (
        f"the reverse rule of {name} cannot be differentiated again ({reason}): jetfold "
        "differentiates the code inside instead, which is right only if the rule is its derivative"
    )
    if getattr(_state, "strict", False):
        raise NotImplementedError(f"{text}; give it a forward rule, by jax.custom_jvp")
    warnings.warn(text, JetfoldWarning, stacklevel=2)


def report_symbolic() -> None:
    """Warn that a program runs as it is written; an error under `strict()`."""
    text = (
        "jetfold.collapse counts operations to decide which sums move, and sizes that are names, "
        "as in jax.export, cannot be counted: the function runs as it is written, with the same "
        "result; export it with fixed sizes, or use operators such as jetfold.laplacian"
    )
    if getattr(_state, "strict", False):
        raise NotImplementedError(text)
    warnings.warn(text, JetfoldWarning, stacklevel=3)
