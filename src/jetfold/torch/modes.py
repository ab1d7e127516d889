"""Which jets are alive, and which are constants: the levels of transforms, and `torch.no_grad()`.

Every transform that runs has a level, above those of all that run. Its number is taken again when
it is over, so that compiled functions meet the same numbers, but not while a jet with that number
is still there: so a jet that its function kept, and that is met later, is known for what it is.

`with torch.no_grad()` inside of a function makes constants, as it does for torch.func.grad. Around
a transform it only says that no graph is kept. PyTorch's grad mode does not tell these apart, so
entering such a context is seen (`watching_private.grad_modes_seen`). It makes all levels constants
that are there; transforms that begin inside of it have higher ones.
"""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

from ..core.jet import Jet
from . import private, watching_private


class _State(threading.local):
    """As PyTorch's own grad mode, one per thread."""

    def __init__(self) -> None:
        self.frozen = 0  # jets up to this level are constants
        self.base = 0  # what that was when the innermost transform began
        self.outer: list[tuple[int, int, int]] = []  # the level and both of them, per transform
        self.watching = 0  # how many functions run here, of jets or in forward mode
        self.traced = False  # whether Dynamo has met jets
        self.lifted: list[int] = []  # `frozen`, where that does not count


class Run:
    """One call of a transform; every jet that it makes holds it."""


state = _State()
frozen_now = False
"""Whether `state.frozen` says something: what is compiled asks, and so is compiled for either."""
alive = {0}
"""The levels of the transforms that run, in any thread; 0 is that of no jet."""
batched: set[int] = set()
"""Those of them whose point has batch axes."""
runs: dict[int, Run] = {}
_ended: dict[int, weakref.ref[Run]] = {}
_lock = threading.RLock()  # collecting garbage may run anything


def begin(is_batched: bool = False) -> int:
    """A level for a transform, whose points may have batch axes."""
    with _lock:
        level = max(*alive, state.frozen) + 1
        if state.traced and _is_kept(level):  # by what Dynamo leaves behind, in circles
            gc.collect()
            state.traced = False
        while _is_kept(level):
            level += 1
        alive.add(level)
        if is_batched:
            batched.add(level)
        runs[level] = Run()
    state.outer.append((level, state.base, state.frozen))
    state.base = state.frozen
    return level


def _highest() -> int:
    """No level that is there is higher."""
    with _lock:
        return max(*alive, state.frozen)


def _is_kept(level: int) -> bool:
    """Whether jets are still there that had this level."""
    return level in _ended and _ended[level]() is not None


def end() -> None:
    """The transform that began last in this thread is over, and its jets are."""
    level, state.base, before = state.outer.pop()
    _freeze(before)
    with _lock:
        alive.discard(level)
        batched.discard(level)
        _ended[level] = weakref.ref(runs.pop(level))


def end_all(count: int) -> None:
    """All but so many transforms of this thread are over: their trace was not finished."""
    while len(state.outer) > count:
        end()


def _freeze(level: int) -> None:
    global frozen_now
    state.frozen = level
    frozen_now = level > 0


def refuse_dead(level: int) -> None:
    """A jet of a transform that is over. In a backward pass a checkpoint may run f again."""
    if level in alive or private.in_backward():
        return
    raise RuntimeError(
        "a tensor that depends on the point of a jetfold operator was kept by the function (in an "
        "attribute, a list, a cache, a hook) and is used after that call of the operator ended, "
        "where it has no derivatives. Return it from the function, as one of its outputs, or keep "
        "x.detach()"
    )


# ------------------------------------------------------------------ grad modes


def switch(mode: bool) -> Callable[[], None]:
    """Grad mode is switched inside of a function; returns what puts things back."""
    if state.lifted:
        return lambda: None
    before, forward = state.frozen, private.forward_mode(mode) if state.watching else None
    _freeze(state.base if mode else _highest())

    def restore() -> None:
        _freeze(before)
        if forward is not None:
            forward()

    return restore


def refuse(mode: bool) -> Callable[[], None]:
    """For functions in forward mode that torch.compile traces, where `switch` has no effect."""
    if not mode:
        raise NotImplementedError(
            'a function that enters torch.no_grad() (or its like), with method="nested" inside of '
            "torch.compile: its forward mode would differentiate what is constant. Use .detach(), "
            "another method, or no torch.compile"
        )
    return lambda: None


def lift() -> None:
    """Jets have derivatives whatever grad mode says, until `lower`."""
    state.lifted.append(state.frozen)
    _freeze(0)


def lower() -> None:
    """Grad mode counts again."""
    _freeze(state.lifted.pop())


class Seen:
    """Within it, `switch` hears of grad modes, and other watches are on."""

    def __init__(self, *others: watching_private.Watch) -> None:
        self._watches = (*others, _grad_modes)

    def __enter__(self) -> None:
        state.watching += 1
        watching_private.enter(self._watches)

    def __exit__(self, *_: object) -> None:
        watching_private.leave(self._watches)
        state.watching -= 1


_grad_modes = watching_private.grad_modes_seen(switch)
seen = Seen()


def is_batched(x: Any) -> bool:
    """Whether x depends on points that are independent of each other."""
    return isinstance(x, Jet) and (x.level in batched or is_batched(x.primal))


# ------------------------------------------------------------------ constants


def frozen(now: bool) -> int:
    """Up to which level jets are constants, for torch.compile, which has asked `frozen_now`."""
    state.traced = True
    return state.frozen


def frozen_at(level: int) -> int:
    """Up to which level jets are constants, where the highest one is still alive."""
    if level not in alive:
        refuse_dead(level)
    return state.frozen


def is_constant(frozen: int, x: Any) -> bool:
    """Whether x is a jet that is a constant here."""
    return isinstance(x, Jet) and x.level <= frozen


def settled(frozen: int, tree: Any) -> Any:
    """The arguments with their values in place of jets that are constants."""
    if isinstance(tree, Jet):
        return settled(frozen, tree.primal) if tree.level <= frozen else tree
    if isinstance(tree, (tuple, list)):
        items = [settled(frozen, item) for item in tree]
        return items if isinstance(tree, list) else tuple(items)
    if isinstance(tree, dict):
        return {key: settled(frozen, item) for key, item in tree.items()}
    return tree
