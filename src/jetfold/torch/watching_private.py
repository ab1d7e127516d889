"""What of PyTorch is replaced while functions run on jets, because nothing hands jets over there.

Nothing stays replaced when the last of them ends, in whatever thread. Held against PyTorch 2.11 to
2.15; each entry says what fails where PyTorch takes it away.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch._dynamo.callback import callback_handler
from torch._guards import CompileContext
from torch.autograd.function import FunctionMeta, _SingleLevelFunction

from .dynamo_private import refuse_functions, until_compiled, watch_traced
from .private import ORIGINALS, TRANSFORMS, Switch, tree_leaves

_lock = threading.Lock()

Replaced = tuple[Any, str, Any, Any]
"""A class or a module, a name in it, what that is (None: nothing) and what takes its place."""


class Watch:
    """Replaces attributes of PyTorch from the first `enter` to the last `leave`, in any thread.

    Every call of an operator does: the table is made once, as long as it is true.
    compiling: a step to take when Dynamo begins to compile anything; it returns what undoes it.
    """

    def __init__(
        self,
        table: Callable[[], Sequence[Replaced]],
        compiling: Callable[[], Callable[[], None]] | None = None,
    ) -> None:
        self._make = table
        self._compiling = compiling
        self._began = self._begin  # one object, which Dynamo's list is searched for
        self._inside = 0
        self._table: Sequence[tuple[Any, Mapping[str, Any], str, Any, Any]] = ()

    def enter(self) -> None:
        """With the lock."""
        self._inside += 1
        if self._inside == 1:
            for _, attributes, name, was, _ in self._table:
                if attributes.get(name) is not was:  # somebody else has replaced something
                    self._table = ()
                    break
            if not self._table:
                self._table = [(row[0], vars(row[0]), *row[1:]) for row in self._make()]
            for owner, _, name, _, new in self._table:
                setattr(owner, name, new)
        # torch.compiler.reset() forgets who wants to know. (It is asked in every call.)
        if self._compiling and self._began not in callback_handler.start_callbacks:
            callback_handler.register_start_callback(self._began)

    def leave(self) -> None:
        """With the lock."""
        self._inside -= 1
        if self._inside == 0:
            for owner, _, name, was, _ in self._table[::-1]:
                if was is None:
                    delattr(owner, name)
                else:
                    setattr(owner, name, was)

    def _begin(self, _: Any) -> None:
        assert self._compiling
        until_compiled(self._compiling())


def enter(watches: Sequence[Watch]) -> None:
    """All of them."""
    with _lock:
        for watch in watches:
            watch.enter()


def leave(watches: Sequence[Watch]) -> None:
    """All of them."""
    with _lock:
        for watch in watches:
            watch.leave()


# ------------------------------------------------------------------ transforms inside


def transforms_through(handlers: dict[str, Callable[..., Any]]) -> Watch:
    """Within it, such a function is called as handler(original, *args, **kwargs)."""

    def table() -> list[Replaced]:
        ORIGINALS.update({name: getattr(module, name) for name, module in TRANSFORMS.items()})
        return [
            (TRANSFORMS[name], name, ORIGINALS[name], partial(handler, ORIGINALS[name]))
            for name, handler in handlers.items()
        ]

    return Watch(table)


# ------------------------------------------------------------------ torch.autograd.Function

# `custom_function_call` is what `Function.apply` calls inside of a transform of torch.func, and
# jets meet it by `__torch_function__`. Outside of one nothing asks its arguments:

_APPLY_IS_PYTHON = isinstance(vars(torch.autograd.Function)["apply"], classmethod)


def functions_through(handler: Callable[..., Any], cls: type) -> Watch:
    """Within it, `F.apply(*args)` of a Function is `handler(F, args, kwargs, original)`.

    Without it the code of a Function would run on jets, and its own derivative would not count.
    `Function.apply` goes on to `super().apply` of `_C._FunctionBase`; the class that stands between
    the two gets an `apply` for as long as jets run, in any thread. Replacing `Function.apply` would
    miss `cube = Cube.apply`, which was looked up before. Compiled functions that meet a jet (of
    class cls) refuse. Where `Function.apply` is that of `_C._FunctionBase` itself (since PyTorch
    2.14), see `_forward_through`. Functions of torch.jit.script that meet a jet hand it over, as
    scripted modules do; else they would run in C++, where nothing sees a jet.
    """

    def apply(function: Any, *args: Any, **kwargs: Any) -> Any:
        return handler(function, args, kwargs, super(_SingleLevelFunction, function).apply)

    scripts = torch.jit.ScriptFunction
    original = vars(scripts)["__call__"]

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _holds(cls, (args, kwargs)):
            return cls.__torch_function__(self, (), args, kwargs)  # type: ignore[attr-defined]
        return original(self, *args, **kwargs)

    def table() -> list[Replaced]:
        through: Replaced = (
            (_SingleLevelFunction, "apply", None, classmethod(apply))
            if _APPLY_IS_PYTHON
            else (FunctionMeta, "__getattribute__", None, _forward_through(handler, cls))
        )
        return [through, (scripts, "__call__", original, call)]

    return Watch(table, partial(refuse_functions, cls))


class _UnwatchedMeta(FunctionMeta):
    __getattribute__ = type.__getattribute__


class Unwatched(torch.autograd.Function, metaclass=_UnwatchedMeta):
    """A Function of our own, whose arguments are no jets: nothing looks for them.

    Without it each call would be searched for jets, and those of torch.func's transforms for more.
    """

    @classmethod
    def once(cls, *args: Any) -> Any:
        """`apply` outside of transforms of torch.func."""
        return super(_SingleLevelFunction, cls).apply(*args)


def _holds(cls: type, tree: Any) -> bool:
    return any(isinstance(x, cls) for x in tree_leaves(tree))


def _forward_through(handler: Callable[..., Any], cls: type) -> Callable[[type, str], Any]:
    """Attributes of Functions by which the handler stands in for their `forward`.

    An `apply` in C can be held by anyone, and calls nothing that could be replaced but what it
    looks up in the Function: `_backward_cls`, of which it makes the ctx, then `forward`, and when
    that has returned `setup_context`. Forward runs without a graph; the handler does not.
    """
    state = threading.local()

    def attribute(function: Any, name: str) -> Any:
        found = type.__getattribute__(function, name)
        if name == "_backward_cls":
            state.entered = function, torch.is_grad_enabled(), torch._C._is_fwd_grad_enabled()
        elif name == "forward" and getattr(state, "entered", (None,))[0] is function:
            modes = state.entered[1:]
            state.entered = (None,)
            return lambda *args: forward(function, found, args, modes)
        elif name == "setup_context" and getattr(state, "handled", None) is function:
            state.handled = None
            return lambda *args: None
        return found

    def forward(function: Any, original: Any, args: tuple[Any, ...], modes: Any) -> Any:
        with_ctx = function.setup_context is _SingleLevelFunction.setup_context
        rest = args[1:] if with_ctx else args
        if not _holds(cls, rest):
            return handler(function, rest, {}, lambda *_: original(*args))
        inside = torch.is_grad_enabled(), torch._C._is_fwd_grad_enabled()
        _set_modes(*modes)
        try:
            return handler(function, rest, {}, None)
        finally:
            _set_modes(*inside)
            state.handled = None if with_ctx else function

    return attribute


def _set_modes(grad: bool, forward: bool) -> None:
    """Reverse and forward differentiation; the public switches are for user's code."""
    torch._C._set_grad_enabled(grad)
    torch._C._set_fwd_grad_enabled(forward)


# ------------------------------------------------------------------ grad modes


def grad_modes_seen(switch: Switch) -> Watch:
    """Within it, `torch.no_grad()` and its like are heard of, in any thread.

    Their methods are replaced for as long as jets run, because grad mode itself does not tell
    whether it was switched off inside of f or around the operator. What calls
    `torch._C._set_grad_enabled` is not seen.
    """
    return Watch(partial(_methods, switch), partial(watch_traced, switch))


def _methods(switch: Switch) -> list[Replaced]:
    """What tells of grad modes."""
    found: list[Replaced] = []

    def replace(cls: type, name: str, make: Callable[[Any], Any]) -> None:
        original = vars(cls)[name]
        method = make(original)
        method.__name__ = name
        found.append((cls, name, original, method))

    def first(mode_of: Callable[..., bool]) -> Callable[[Any], Any]:
        def make(original: Any) -> Any:
            def method(self: Any, *args: Any) -> Any:
                if CompileContext.try_get() is not None:  # Dynamo's own, while it compiles
                    return original(self, *args)
                restore = switch(mode_of(self, *args))
                result = original(self, *args)  # which may make a set_grad_enabled of its own
                self._jetfold_restore = restore
                return result

            return method

        return make

    def again(original: Any) -> Any:  # of set_grad_enabled, which switches when it is made
        def method(self: Any) -> Any:
            result = original(self)
            if "_jetfold_restore" in self.__dict__:
                switch(self.mode)
            return result

        return method

    def last(original: Any) -> Any:
        def method(self: Any, *args: Any) -> Any:
            restore = self.__dict__.pop("_jetfold_restore", None)
            # What was entered before (by a generator that is collected only now) says nothing of f.
            restore = restore or switch(torch.is_grad_enabled())
            result = original(self, *args)
            restore()
            return result

        return method

    # What leaves comes first: in between a generator may be collected, and its no_grad() ends.
    replace(torch.no_grad, "__exit__", last)
    replace(torch.enable_grad, "__exit__", last)
    replace(torch.set_grad_enabled, "__call__", last)
    replace(torch.set_grad_enabled, "__exit__", last)
    replace(torch.inference_mode, "__exit__", last)
    replace(torch.no_grad, "__enter__", first(lambda self: False))
    replace(torch.enable_grad, "__enter__", first(lambda self: True))
    replace(torch.set_grad_enabled, "__enter__", again)
    replace(torch.inference_mode, "__enter__", first(lambda self: not self.mode))
    replace(torch.set_grad_enabled, "__init__", first(lambda self, mode: mode))
    return found
