"""Writing jets into tensors that a function makes: torch.zeros, x.new_empty, weight.clone(), …

A jet does not fit into memory that holds numbers alone. So the first such write ends the run of the
function (`PlainWriteError`), and the function runs again as `Writable`: what it makes are jets that
are constant so far, and the write is one into a jet, which its views follow. A function that writes
no jets pays nothing.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import wraps
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ..core.jet import Jet
from . import private
from .arguments import is_jet, transpose, values
from .arithmetic import Power, Product, Quotient, Sum
from .products import Affine, Bilinear, Convolution, Einsum, Matmul, StackedMatmul
from .rules import Constant, Copied, Elementwise, Joined, Total
from .table import NAMES, RULES, words


class PlainWriteError(RuntimeError):
    """A jet would be written into a plain tensor.

    (A TypeError from `out += jet` would make Python try `out = out + jet`.)
    """


# ------------------------------------------------------------------ what is fresh

_FACTORIES = words(
    "zeros ones empty full rand randn eye tensor arange linspace logspace normal complex polar "
    "empty_strided empty_permuted scalar_tensor"
)


def _functions(*kinds: type) -> frozenset[Callable[..., Any]]:
    return frozenset(f for f, key in NAMES.items() if isinstance(RULES[key], kinds))


_OTHERS = words(
    "mv dot vdot inner outer ger addmm addmv addbmm baddbmm addr tensordot linalg.multi_dot "
    "neg negative __neg__ rsub __rsub__ cross linalg.cross"
)
COMPUTED = _functions(
    Sum, Product, Quotient, Power, Elementwise,
    Affine, Bilinear, Convolution, Einsum, Matmul, StackedMatmul, Total, Joined,
) | {f for f, key in NAMES.items() if key in _OTHERS}  # fmt: skip
MADE = _functions(Constant, Copied) | {getattr(torch, name) for name in _FACTORIES}


def _name(function: Any) -> str:
    return getattr(function, "__name__", "")


_METHODS = {name for name in map(_name, MADE) if getattr(torch.Tensor, name, None) in MADE}


def is_made(function: Any) -> bool:
    """Whether a function, or a method by its name, makes a tensor."""
    return function in (_METHODS if isinstance(function, str) else MADE)


STAGES = (MADE, MADE | COMPUTED - _functions(Einsum))
"""Functions whose results become jets, in the attempts to run a function: each makes new memory,
which einsum("ij->ji", x) does not."""


# ------------------------------------------------------------------ functions that write

_stages: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()


def _code(function: Any) -> Any:
    """What stays of a function of the user, also where it is made anew for every call."""
    held = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    for inner in held:  # of the function that a transform makes around it
        if callable(inner) and function.__module__.startswith("jetfold."):
            return _code(inner)
    function = getattr(function, "__func__", function)
    return getattr(function, "__code__", function)


def stage(function: Any) -> int | None:
    """In which attempt the function ran that wrote jets when it was called before."""
    if not _stages:
        return None
    with suppress(TypeError):  # of an object without weak references, or without a hash
        return _stages.get(_code(function))
    return None


def remember(function: Any, stage: int) -> None:
    """The next call begins with this attempt."""
    with suppress(TypeError):
        _stages[_code(function)] = stage


# ------------------------------------------------------------------ the mode

WRITABLE = [0]
"""How many functions run as writable, in all threads: almost always none."""


class _State(threading.local):
    def __init__(self) -> None:
        self.on = False  # whether the user's code runs, whose results may be written to
        self.modes: dict[int, Writable] = {}  # by level


_state = _State()


def is_on() -> bool:
    """Whether what is made here becomes a jet."""
    return _state.on


@contextmanager
def _switched(on: bool) -> Iterator[None]:
    before, _state.on = _state.on, on
    try:
        yield
    finally:
        _state.on = before


def off() -> AbstractContextManager[None]:
    """Within it code of ours runs: what it makes are plain tensors."""
    return _switched(False)


def switched_on(function: Callable[..., Any]) -> Callable[..., Any]:
    """Code of the user that code of ours calls."""

    @wraps(function, updated=())
    def run(*args: Any, **kwargs: Any) -> Any:
        with _switched(True):
            return function(*args, **kwargs)

    return run


class Writable(TorchFunctionMode):
    """Within it the results of some functions are jets that are constant, like a given jet."""

    def __init__(self, jet: Any, functions: frozenset[Any]) -> None:
        super().__init__()
        self.jet = jet
        self.functions = functions
        self.made: list[weakref.ref[Any]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if not _state.on or func not in self.functions or not isinstance(out, torch.Tensor):
            return out
        if isinstance(out, Jet) and out.level >= self.jet.level:
            return out
        if not (out.is_floating_point() or out.is_complex()) or any(out is x for x in args):
            return out
        if sys._getframe(1).f_globals.get("__name__", "").startswith("jetfold."):
            return out
        jet = self.jet.like(out, [None] * self.jet.algebra.order)
        note(jet)
        return jet

    @contextmanager
    def running(self) -> Iterator[None]:
        """While the user's function runs."""
        level = self.jet.level
        WRITABLE[0] += 1
        _state.modes[level] = self
        try:
            with _switched(True), self:
                yield
        finally:
            WRITABLE[0] -= 1
            del _state.modes[level]
            self.settle()

    def settle(self) -> None:
        """What is left of the jets that are constant, in a cache of the user's, becomes plain."""
        jets = [jet for jet in (ref() for ref in self.made) if jet is not None]
        self.made.clear()  # tensors with weak references cannot be swapped
        for jet in jets:
            if isinstance(jet, Jet) and is_constant(jet):  # one that was noted twice is none now
                private.become(jet, jet.primal)


def is_constant(jet: Any) -> bool:
    """Whether it has no coefficients at its level."""
    return all(block is None for block in jet.stored)


def note(result: Any) -> None:
    """Remember those jets among the results that are constant."""
    for jet in result if isinstance(result, (tuple, list)) else (result,):
        if isinstance(jet, Jet) and is_constant(jet):
            mode = _state.modes.get(jet.level)
            if mode is not None:
                mode.made.append(weakref.ref(jet))


def plain(level: int, func: Any, args: Any, kwargs: Any) -> Any:
    """An entrywise or multilinear function of jets that are all constant: of their values."""
    jets = [x for x in private.tree_leaves((args, kwargs)) if is_jet(level, x)]
    if func not in COMPUTED or not all(map(is_constant, jets)):
        return NotImplemented
    return transpose(jets[0], func(*values(level, args), **values(level, kwargs)), jets[0].stored)
