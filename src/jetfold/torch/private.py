"""All that jetfold uses of PyTorch beyond its documented interface, with the reason for each.

Held against PyTorch 2.11 to 2.15. Each entry says what fails where PyTorch takes it away.
"""

from __future__ import annotations

import sys
import traceback
import types
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch._C._functorch import (
    TransformType,
    get_interpreter_stack,
    get_unwrapped,
    is_functorch_wrapped_tensor,
    is_gradtrackingtensor,
    is_legacy_batchedtensor,
    peek_interpreter_stack,
)
from torch._functorch import apis, eager_transforms
from torch._functorch.autograd_function import custom_function_call
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch._ops import OpOverload, OpOverloadPacket
from torch.nn.utils.stateless import _functional_call
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import (
    _broadcast_to_and_flatten as broadcast_to_tree,
)
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

__all__ = [
    "BUILT_IN",
    "LISTS",
    "OPERATIONS",
    "ORIGINALS",
    "TRANSFORMS",
    "GradMode",
    "Switch",
    "TorchDispatchMode",
    "as_before",
    "become",
    "broadcast_to_tree",
    "class_to_make",
    "constants",
    "custom_function_call",
    "forward_mode",
    "in_backward",
    "innermost",
    "inside_functional_call",
    "inside_grad",
    "inside_transform",
    "is_folding",
    "is_followed",
    "is_new_parameter",
    "is_traced",
    "is_tracer",
    "is_wrapped",
    "known",
    "linearized",
    "refused",
    "refused_hooks",
    "saves_inputs",
    "tree_flatten",
    "tree_leaves",
    "tree_map",
    "tree_unflatten",
    "without_memory",
    "writes",
]
# Pytrees as torch.func and torch.compile know them: `torch.utils._pytree` has no public name.

BUILT_IN = (torch._C._nn,)
"""The functions behind torch.nn.functional, which jets meet as themselves: F.gelu, F.pad, ….

Without them those functions have no rule and go the general way, and say so: () would do.
"""

LISTS = (torch._VF,)
"""What torch.meshgrid, torch.atleast_1d, … call when they are given one list; likewise."""


OPERATIONS = (OpOverload, OpOverloadPacket)
"""What stands in torch.ops; its text is "namespace.name", "namespace.name.overload".

Without them torch.ops.aten.sin(x) goes the general way, and those of torch.library are refused.
"""


without_memory = torch.Tensor._make_wrapper_subclass
"""A tensor of a subclass with a shape, a dtype and a device alone.

Without it jets are no tensors, and code that asks for one refuses them.
"""


def writes(func: Any) -> bool:
    """Whether an operation of ATen writes into its arguments.

    Without it such an operation, called from C++, would be taken for one that does not.
    """
    return hasattr(func, "overloadpacket") and func._schema.is_mutable


def class_to_make(frame: types.FrameType) -> Any:
    """The class of which `super().__new__(cls, x)`, called in a frame, makes a tensor.

    torch.Tensor's copies x and asks for an object of that class, and tells nobody which. Without it
    such an object cannot be made of a jet, and PyTorch says so.
    """
    code = frame.f_code
    if code.co_name != "__new__" or not code.co_argcount:
        return torch.Tensor
    return frame.f_locals[code.co_varnames[0]]


def is_new_parameter(error: BaseException) -> bool:
    """Whether the error is that torch.nn.Parameter(x) does not take such a tensor.

    It is a RuntimeError about the class alone; should the module move, it reaches the user.
    """
    return any(f.f_globals.get("__name__") == "torch.nn.parameter" for f in _frames(error)[-1:])


def become(old: Any, new: Any) -> None:
    """Make one tensor object another tensor, also where something else holds it.

    As `torch.utils.swap_tensors` does, whose checks must not be functions of jets. Where PyTorch
    refuses, it stays what it was; without the switch it always would.
    """
    with torch._C.DisableTorchFunctionSubclass(), suppress(RuntimeError):
        torch.utils.swap_tensors(old, new.view(new.shape))


# ------------------------------------------------------------------ torch.func


def is_wrapped(x: object) -> bool:
    """Whether a tensor is inside of a transform of torch.func.

    Functions that PyTorch nests wrongly are refused there and are harmless elsewhere. Nothing
    public tells: `requires_grad` and forward tangents do not see a vmap in between.
    """
    return isinstance(x, torch.Tensor) and is_functorch_wrapped_tensor(x)


def known(x: Any) -> Any:
    """The tensor inside of transforms that differentiate; None inside of a vmap, or of a tracer.

    Its entries can be looked at. Without it what moves entries by an index loses the structure of
    coefficients where torch.func.grad runs around an operator.
    """
    while is_functorch_wrapped_tensor(x):
        if not is_gradtrackingtensor(x):
            return None
        x = get_unwrapped(x)
    return None if x.is_meta or is_traced(x) else x


def innermost(x: Any) -> Any:
    """The tensor inside of all transforms of torch.func."""
    while is_functorch_wrapped_tensor(x):
        x = get_unwrapped(x)
    return x


def is_traced(x: Any) -> bool:
    """Whether a tensor stands for one in a program that is traced.

    Without it tables of numbers would be mixed with tensors that have none.
    """
    mode, key = torch._C._get_dispatch_mode, torch._C._TorchDispatchModeKey
    own = type(x).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__
    return own or mode(key.FAKE) is not None or mode(key.PROXY) is not None


@contextmanager
def constants() -> Iterator[None]:
    """Within it operations are computed at once, whatever transform or mode is running.

    Without it numbers that are known beforehand would be traced, or belong to a transform.
    """
    with (
        torch.no_grad(),
        torch._C.DisableTorchFunction(),
        torch._C._DisableFuncTorch(),
    ):
        yield


def inside_transform() -> bool:
    """Whether a transform of torch.func is running: what it saves for its gradient is its own.

    Without it, gradients in chunks inside of torch.func.grad raise PyTorch's error instead of
    keeping all chunks.
    """
    return peek_interpreter_stack() is not None


def is_followed(x: Any = None) -> bool:
    """Whether anything but autograd follows what is computed, or what x stands for.

    Transforms of torch.func, forward mode, autocast, a tracer; x may be a batch of gradients.
    Without it nodes with a backward of our own would be entered there, where their arrays cannot be
    written to.
    """
    mode, key = torch._C._get_dispatch_mode, torch._C._TorchDispatchModeKey
    return (
        peek_interpreter_stack() is not None
        or torch.autograd.forward_ad._current_level >= 0
        or torch.is_autocast_enabled()
        or torch.is_autocast_enabled("cpu")
        or mode(key.FAKE) is not None
        or mode(key.PROXY) is not None
        or (x is not None and (is_functorch_wrapped_tensor(x) or is_legacy_batchedtensor(x)))
    )


def is_observed() -> bool:
    """Whether somebody is told of every operation, or will run them again and compare.

    Modes that count, profile or print, torch.jit's tracer, and checkpoints, which run what they
    hold twice and want as many tensors kept. Without it what is done elsewhere, and not every time,
    would be missing there.
    """
    if torch._C._len_torch_dispatch_stack() or torch.jit.is_tracing():
        return True
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(True)
    return hooks is not None and hooks[0].__module__ == "torch.utils.checkpoint"


def inside_grad() -> bool:
    """Whether a transform of torch.func that differentiates is running.

    Without it nobody is told that torch.func.functional_call does not reach a coefficient.
    """
    kinds = (TransformType.Grad, TransformType.Jvp)
    return any(interpreter.key() in kinds for interpreter in get_interpreter_stack() or ())


def inside_functional_call() -> bool:
    """Whether torch.func.functional_call runs, and other tensors stand in for parameters.

    Without it an operator that is made there would follow its parameter to where that stands in.
    """
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not _functional_call.__code__:
        frame = frame.f_back
    return frame is not None


def refused(error: BaseException, kind: type, unseen: type[BaseException]) -> bool:
    """Whether code of torch.func that jets do not pass met an object of this kind.

    The exceptions have no type of their own; that they were raised there tells them from those of
    the user. Should the modules move, that error reaches the user. (`unseen` is raised by jets.)
    """
    modules = ("torch._functorch", "torch.nn.utils._named_member_accessor")
    frames = _frames(error) if isinstance(error, unseen) else _frames(error)[-1:]
    frames = [f for f in frames if f.f_globals.get("__name__", "").startswith(modules)]
    return any(isinstance(x, kind) for f in frames for x in tree_leaves(list(f.f_locals.values())))


def refused_hooks(error: BaseException) -> bool:
    """Whether the error is that torch.func.grad does not run beside hooks of saved tensors.

    A checkpoint sets such hooks, and cannot know beforehand what the function will call. It is a
    RuntimeError like many; should torch.autograd.graph raise it elsewhere, it reaches the user.
    """
    return any(f.f_code.co_name == "disable_saved_tensors_hooks" for f in _frames(error)[-1:])


def saves_inputs(cls: Any) -> bool:
    """Whether a Function is that by which checkpoints of PyTorch 2.11 keep their arguments.

    It is called for what it saves, and has no derivative: without it such a checkpoint of jets
    raises that Function's AssertionError. Later versions have no such Function.
    """
    return cls is getattr(torch.utils.checkpoint, "_NoopSaveInputs", None)


def _frames(error: BaseException) -> list[types.FrameType]:
    """From where an error was caught to where it was raised."""
    return [frame for frame, _ in traceback.walk_tb(error.__traceback__)]


# ------------------------------------------------------------------ transforms inside

TRANSFORMS = {
    "vmap_impl": apis,
    "_jvp_with_argnums": eager_transforms,
    "_vjp_with_argnums": eager_transforms,
    "grad_and_value_impl": eager_transforms,
    "_make_grads": torch.autograd,
    "_engine_run_backward": torch.autograd,
    "_grad_preprocess": torch.autograd.functional,
    "_grad_postprocess": torch.autograd.functional,
    "_jacfwd": torch.autograd.functional,
    "linearize": eager_transforms,
    "lazy_dynamo_disallow": eager_transforms,
    "cond": torch,
    "while_loop": torch,
}
"""What vmap, jvp, vjp and grad of torch.func come down to, torch.autograd.grad of tensors, what
torch.autograd.functional does with arguments and results, torch.cond and while_loop, and linearize,
which torch.compile finds; Python finds what that hands its function to.

Each is looked up in its module when it is called, also by transforms that were made before, and by
jacfwd, jacrev and hessian. Without them those transforms refuse jets, as no tensors.
"""

ORIGINALS: dict[str, Callable[..., Any]] = {}
"""Those of them that are replaced now (`watching_private`)."""


def is_tracer(func: Callable[..., Any]) -> bool:
    """Whether linearize hands its function to this, which does not see jets."""
    return func is eager_transforms.make_fx


def is_folding(func: Callable[..., Any]) -> bool:
    """Whether it hands what that returned to this."""
    return func is eager_transforms.const_fold.split_const_subgraphs


def linearized(trace: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Of the function that linearize hands over: its own function, and the primals.

    They stand in the variables of the code of linearize; should those have other names, it is a
    KeyError.
    """
    cells = zip(trace.__code__.co_freevars, trace.__closure__, strict=True)
    found = {name: cell.cell_contents for name, cell in cells}
    return found["func"], tree_unflatten(found["flat_primals"], found["primals_argspec"])


# ------------------------------------------------------------------ grad modes


class GradMode:
    """`torch.set_grad_enabled(mode)` of our own, which says nothing of the user's function.

    Without it what a jet holds would be a constant where it is looked at under `torch.no_grad()`.
    """

    def __init__(self, mode: bool) -> None:
        self.mode = mode

    def __enter__(self) -> None:
        self.before = torch.is_grad_enabled()
        torch._C._set_grad_enabled(self.mode)

    def __exit__(self, *_: object) -> None:
        torch._C._set_grad_enabled(self.before)


@contextmanager
def as_before() -> Iterator[None]:
    """Where autograd alone follows, as when `fused` took what it computes only now.

    A transform of torch.func, a tracer, autocast or inference mode may have begun since. Without it
    a jet that is looked at within would hold tensors of a transform that is over, or rounded ones,
    or lose its gradient.
    """
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch._C._InferenceMode(False))
        if is_followed():
            stack.enter_context(temporarily_clear_interpreter_stack())
            stack.enter_context(torch.autocast("cpu", enabled=False))
            stack.enter_context(_disable_current_modes())
        stack.enter_context(GradMode(True))
        yield


def in_backward() -> bool:
    """Whether this thread runs a backward pass.

    A checkpoint calls its function again there, with jets of a transform that is over. Without it
    that is refused as a use of jets that were kept.
    """
    return bool(torch._C._current_graph_task_id() != -1)


def forward_mode(mode: bool) -> Callable[[], None]:
    """Switch forward mode on or off; returns what puts it back.

    torch.no_grad() leaves it alone. Without it f would have other derivatives in forward mode.
    """
    before = torch._C._is_fwd_grad_enabled()
    torch._C._set_fwd_grad_enabled(mode)
    return lambda: torch._C._set_fwd_grad_enabled(before)


Switch = Callable[[bool], Callable[[], None]]
"""Hears of a grad mode that is entered, and returns what is called when it is left."""
