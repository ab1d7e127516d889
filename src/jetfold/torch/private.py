"""All that jetfold uses of PyTorch beyond its documented interface, with the reason for each.

Held against PyTorch 2.11 to 2.13. Each entry says what fails where PyTorch takes it away.
"""

from __future__ import annotations

import operator
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch._C._functorch import is_functorch_wrapped_tensor, peek_interpreter_stack
from torch._functorch.autograd_function import custom_function_call
from torch.autograd.function import _SingleLevelFunction
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

__all__ = [
    "BUILT_IN",
    "LISTS",
    "custom_function_call",
    "functions_through",
    "inside_transform",
    "is_wrapped",
    "operators_are_methods",
    "refused",
    "refused_hooks",
    "tree_flatten",
    "tree_leaves",
    "tree_map",
    "tree_unflatten",
]
# Pytrees as torch.func and torch.compile know them: `torch.utils._pytree` has no public name.

BUILT_IN = (torch._C._nn,)
"""The functions behind torch.nn.functional, which jets meet as themselves: F.gelu, F.pad, ….

Without them those functions have no rule and go the general way, and say so: () would do.
"""

LISTS = (torch._VF,)
"""What torch.meshgrid, torch.atleast_1d, … call when they are given one list; likewise."""


# ------------------------------------------------------------------ torch.func


def is_wrapped(x: object) -> bool:
    """Whether a tensor is inside of a transform of torch.func.

    Functions that PyTorch nests wrongly are refused there and are harmless elsewhere. Nothing
    public tells: `requires_grad` and forward tangents do not see a vmap in between.
    """
    return isinstance(x, torch.Tensor) and is_functorch_wrapped_tensor(x)


def inside_transform() -> bool:
    """Whether a transform of torch.func is running: what it saves for its gradient is its own.

    Without it, gradients in chunks inside of torch.func.grad raise PyTorch's error instead of
    keeping all chunks.
    """
    return peek_interpreter_stack() is not None


def refused(error: BaseException, kind: type) -> bool:
    """Whether code of torch.func raised the error while it held an object of this kind.

    Its transforms take tensors alone. The exceptions have no type of their own; where one was
    raised tells it from those of the user. Should the modules move, that error reaches the user.
    """
    frame = _raised_in(error)
    modules = ("torch._functorch", "torch.nn.utils._named_member_accessor")
    return (
        frame is not None
        and frame.f_globals.get("__name__", "").startswith(modules)
        and any(isinstance(x, kind) for x in tree_leaves(list(frame.f_locals.values())))
    )


def refused_hooks(error: BaseException) -> bool:
    """Whether the error is that torch.func.grad does not run beside hooks of saved tensors.

    A checkpoint sets such hooks, and cannot know beforehand what the function will call. It is a
    RuntimeError like many; should torch.autograd.graph raise it elsewhere, it reaches the user.
    """
    frame = _raised_in(error)
    return frame is not None and frame.f_code.co_name == "disable_saved_tensors_hooks"


def _raised_in(error: BaseException) -> types.FrameType | None:
    """The frame in which an error was raised."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    return None if traceback is None else traceback.tb_frame


# ------------------------------------------------------------------ torch.autograd.Function

# `custom_function_call` is what `Function.apply` calls inside of a transform of torch.func, and
# jets meet it by `__torch_function__`. Outside of one nothing asks its arguments:

_running = [0]  # in all threads
_undo: list[Callable[[], None]] = []  # when the last one ends
_lock = threading.Lock()


@contextmanager
def functions_through(handler: Callable[..., Any], cls: type) -> Iterator[None]:
    """Within it, `F.apply(*args)` of a Function is `handler(F, args, kwargs, original)`.

    Without it the code of a Function would run on jets, and its own derivative would not count.
    `Function.apply` goes on to `super().apply` of `_C._FunctionBase`; the class that stands between
    the two gets an `apply` for as long as jets run, in any thread. Replacing `Function.apply` would
    miss `cube = Cube.apply`, which was looked up before. Compiled functions that meet a jet (of
    class cls) refuse.
    """

    def apply(function: Any, *args: Any, **kwargs: Any) -> Any:
        return handler(function, args, kwargs, super(_SingleLevelFunction, function).apply)

    with _lock:
        _running[0] += 1
        if _running[0] == 1:
            _SingleLevelFunction.apply = classmethod(apply)
        if "torch._dynamo" in sys.modules:  # importing it takes seconds
            _undo.append(_refuse_functions(cls))
    try:
        yield
    finally:
        with _lock:
            _running[0] -= 1
            if _running[0] == 0:
                del _SingleLevelFunction.apply
                while _undo:
                    _undo.pop()()


# ------------------------------------------------------------------ torch.compile

_NAMES = ("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow")
LEFT = {getattr(operator, name): f"__{name}__" for name in _NAMES}
LEFT |= {getattr(operator, f"i{name}"): f"__i{name}__" for name in _NAMES}
LEFT |= {getattr(operator, name): f"__{name}__" for name in ("lt", "le", "gt", "ge", "eq", "ne")}
RIGHT = {getattr(operator, name): f"__r{name}__" for name in _NAMES}


def operators_are_methods(cls: type) -> None:
    """Have Dynamo call the operators of a class as its methods, until this compilation ends.

    As Python does. Dynamo takes an operator between an object with `__torch_function__` and a
    tensor for the tensor's: it evaluates `jet @ tensor` as `tensor @ jet`, and `jet += tensor` as
    `jet = tensor + jet`, which no view of the jet sees; `jet @ jet` it does not know. It asks
    neither methods of the class nor polyfills first (`BuiltinVariable._handle_insert_op_in_graph`),
    so the function that it calls for operators is replaced for as long as it traces jets.
    """
    from torch._dynamo.callback import callback_handler
    from torch._dynamo.variables.builtin import BuiltinVariable
    from torch._dynamo.variables.user_defined import UserDefinedObjectVariable

    original = BuiltinVariable.call_function
    if getattr(original, "of", None) is cls:
        return

    def belongs(variable: Any) -> bool:
        return isinstance(variable, UserDefinedObjectVariable) and issubclass(
            variable.python_type(), cls
        )

    def call_function(self: Any, tx: Any, args: Any, kwargs: Any) -> Any:
        if len(args) == 2 and not kwargs:
            if self.fn in LEFT and belongs(args[0]):
                return args[0].call_method(tx, LEFT[self.fn], [args[1]], {})
            if self.fn in RIGHT and belongs(args[1]):
                return args[1].call_method(tx, RIGHT[self.fn], [args[0]], {})
        return original(self, tx, args, kwargs)

    def restore(_: Any) -> None:
        if BuiltinVariable.call_function is call_function:
            BuiltinVariable.call_function = original
        allow_functions()
        # A list of its own: PyTorch is walking through this one.
        callbacks = callback_handler.end_callbacks
        callback_handler.end_callbacks = [c for c in callbacks if c is not restore]

    allow_functions = _refuse_functions(cls)
    call_function.of = cls  # type: ignore[attr-defined]
    BuiltinVariable.call_function = call_function
    callback_handler.register_end_callback(restore)


def _refuse_functions(cls: type) -> Callable[[], None]:
    """Have Dynamo refuse a torch.autograd.Function of objects of a class; returns what undoes it.

    Dynamo would trace its code, and the derivative that its author wrote would not count.
    """
    from torch._dynamo.variables.base import VariableTracker
    from torch._dynamo.variables.misc import AutogradFunctionVariable
    from torch._dynamo.variables.user_defined import UserDefinedObjectVariable

    original = AutogradFunctionVariable.call_apply
    if getattr(original, "of", None) is cls:
        return lambda: None

    def call_apply(self: Any, tx: Any, args: Any, kwargs: Any) -> Any:
        def check(x: Any) -> None:
            if isinstance(x, UserDefinedObjectVariable) and issubclass(x.python_type(), cls):
                raise NotImplementedError(
                    f"the autograd.Function {self.fn_cls.__name__} inside of a compiled operator "
                    "or function: torch.compile would trace its code in place of the derivative "
                    "that its author wrote. Leave it out of what is compiled, or call all of it by "
                    "torch.compiler.disable(operator(f))(x)"
                )

        VariableTracker.visit(check, (args, kwargs))
        return original(self, tx, args, kwargs)

    def undo() -> None:
        if AutogradFunctionVariable.call_apply is call_apply:
            AutogradFunctionVariable.call_apply = original

    call_apply.of = cls  # type: ignore[attr-defined]
    AutogradFunctionVariable.call_apply = call_apply
    return undo
