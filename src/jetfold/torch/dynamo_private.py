"""What of Dynamo, the tracer of torch.compile, is replaced so that it compiles operators of jets.

Held against PyTorch 2.11 to 2.15. Each entry says what fails where PyTorch takes it away.
"""

from __future__ import annotations

import itertools
import operator
import types
from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch._C._dynamo.eval_frame import (
    _FrameAction,
    _FrameExecStrategy,
    set_code_exec_strategy,
)
from torch._dynamo.callback import callback_handler

from ..core.structure import Structured
from .private import ORIGINALS, TRANSFORMS, Switch, constants, innermost


def take_any_constants() -> None:
    """Have Dynamo give objects of any class to functions of jetfold that `assume_constant_result`.

    As it does since PyTorch 2.12, but for what such functions gave. Without it 2.11 compiles no
    operator: what operators are made of is "not a constant" there; and where blocks have structure
    (`core.structure`) none compiles with any version. A symbolic number stands for itself there,
    where Dynamo gives up.
    """
    from torch._dynamo.source import is_constant_source
    from torch._dynamo.variables import functions
    from torch._dynamo.variables.constant import ConstantVariable
    from torch._dynamo.variables.tensor import SymNodeVariable
    from torch._dynamo.variables.user_defined import UserDefinedObjectVariable

    original = functions.invoke_and_store_as_constant
    package, count = __name__.partition(".")[0] + ".", itertools.count()
    oldest = torch.__version__.startswith("2.11.")

    def constant(x: Any) -> Any:
        x = x.realize()
        if isinstance(x, SymNodeVariable):  # for other numbers it compiles again
            return ConstantVariable.create(x.evaluate_expr())
        if not isinstance(x, UserDefinedObjectVariable):
            return x
        if x.source and is_constant_source(x.source):
            found = x.value
        elif oldest:
            found = x.guard_as_python_constant() if x.source else x.value
        else:
            return x
        return types.SimpleNamespace(is_tensor=lambda: False, as_python_constant=lambda: found)

    def invoke(tx: Any, fn: Any, name: str, args: Any, kwargs: Any) -> Any:
        if fn.__module__.startswith(package):
            args = [constant(x) for x in args]
            kwargs = {k: constant(x) for k, x in kwargs.items()}
            name = f"{name}_{next(count)}"  # of tensors, which no two may have
        return original(tx, fn, name, args, kwargs)

    functions.invoke_and_store_as_constant = invoke


def take_whole(function: Callable[..., Any]) -> None:
    """Have Dynamo trace a function from its caller, or leave it and all that it calls to Python.

    Without it what comes before a graph break would be compiled alone, with levels that begin and
    do not end, and an error would say something of an empty list.
    """
    set_code_exec_strategy(function.__code__, _ALONE)


_ALONE = _FrameExecStrategy(_FrameAction.SKIP, _FrameAction.SKIP)


@torch.compiler.assume_constant_result
def attempted(function: Callable[..., Any], *args: Any) -> Any:
    """function(*args), a constant to Dynamo; None where it does not know the arguments.

    They are numbers and the like, without symbolic ones, functions, or objects of its global
    variables.
    """
    return function(*args)


def entries(x: Any) -> int:
    """How many entries a tensor has inside of all transforms of torch.func.

    To Dynamo that is a number, which stands for itself in later calls with other numbers of points.
    """
    return int(innermost(x).numel())


_NAMES = ("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow")
LEFT = {getattr(operator, name): f"__{name}__" for name in _NAMES}
LEFT |= {getattr(operator, f"i{name}"): f"__i{name}__" for name in _NAMES}
LEFT |= {getattr(operator, name): f"__{name}__" for name in ("lt", "le", "gt", "ge", "eq", "ne")}
RIGHT = {getattr(operator, name): f"__r{name}__" for name in _NAMES}


def operators_are_methods(
    cls: type,
    switch: Switch,
    handlers: dict[str, Callable[..., Any]],
    is_made: Callable[[Any], bool],
) -> None:
    """Have Dynamo take objects of a class for tensors, until this compilation ends.

    And have it tell of grad modes, as `grad_modes_seen` does.

    `isinstance(x, torch.Tensor)` and `torch.is_tensor(x)` are true, as they are in Python of the
    subclass that Dynamo could not construct; without it code that asks refuses jets when compiled.
    What functions make of which `is_made` says so may become jets (`run_with`); without it writes
    of jets into them would be refused.

    The operators of the class are called as its methods, as Python does. Dynamo takes an operator
    between an object with `__torch_function__` and a tensor for the tensor's: it evaluates
    `jet @ tensor` as `tensor @ jet`, and `jet += tensor` as `jet = tensor + jet`, which no view of
    the jet sees; `jet @ jet` it does not know. It asks neither methods of the class nor polyfills
    first (`BuiltinVariable._handle_insert_op_in_graph`), so the function that it calls for
    operators is replaced for as long as it traces jets; for those of structured blocks too. Nor
    does it look into tuples for them, as it does into lists: `torch.cat((x, y))`.

    How often a tensor was written to is a constant while this is traced; without it layers that
    wait would not know of a write.
    """
    from torch._dynamo.variables import torch_function
    from torch._dynamo.variables.builtin import BuiltinVariable
    from torch._dynamo.variables.constant import ConstantVariable
    from torch._dynamo.variables.lists import TupleVariable
    from torch._dynamo.variables.tensor import TensorVariable
    from torch._dynamo.variables.torch import TorchInGraphFunctionVariable
    from torch._dynamo.variables.user_defined import UserDefinedObjectVariable

    if getattr(BuiltinVariable.call_function, "of", None) is cls:
        return

    def belongs(variable: Any, kinds: Any = cls) -> bool:
        return isinstance(variable, UserDefinedObjectVariable) and issubclass(
            variable.python_type(), kinds
        )

    def call_builtin(original: Any, self: Any, tx: Any, args: Any, kwargs: Any) -> Any:
        if len(args) == 2 and not kwargs:
            if self.fn in LEFT and belongs(args[0], (cls, Structured)):
                return args[0].call_method(tx, LEFT[self.fn], [args[1]], {})
            if self.fn in RIGHT and belongs(args[1], (cls, Structured)):
                return args[1].call_method(tx, RIGHT[self.fn], [args[0]], {})
            if self.fn is isinstance and belongs(args[0]) and _names_tensors(args[1]):
                return ConstantVariable.create(True)
        return original(self, tx, args, kwargs)

    def call_torch(original: Any, self: Any, tx: Any, args: Any, kwargs: Any) -> Any:
        if self.value is torch.is_tensor and args and belongs(args[0]):
            return ConstantVariable.create(True)
        if self.value is torch.autograd.grad:
            _refuse(
                cls,
                (args, kwargs),
                "torch.autograd.grad inside of a compiled operator or function. Write "
                "torch.func.grad there, which is compiled, or call all of it by "
                "torch.compiler.disable(operator(f))(x)",
            )
        result = original(self, tx, args, kwargs)
        return _constant(tx, result) if is_made(self.value) else result

    def call_method(original: Any, self: Any, tx: Any, name: str, args: Any, kwargs: Any) -> Any:
        result = original(self, tx, name, args, kwargs)
        return _constant(tx, result) if is_made(name) else result

    def set_item(original: Any, self: Any, tx: Any, key: Any, value: Any) -> Any:
        if belongs(value):
            written = BuiltinVariable(operator.setitem)
            return torch_function.dispatch_torch_function(tx, written, [self, key, value], {})
        return original(self, tx, key, value)

    def leaves(original: Any, variables: Any) -> list[Any]:
        return [
            leaf
            for x in original(variables)
            for leaf in (leaves(original, x.items) if isinstance(x, TupleVariable) else [x])
        ]

    def version(original: Any, self: Any, tx: Any) -> Any:  # of what is traced, as it is traced
        return ConstantVariable.create(self.proxy.node.meta["example_value"]._version)

    undo = [
        refuse_functions(cls),
        _replaced(torch_function, "_flatten_vts", leaves, cls),
        _replaced(BuiltinVariable, "call_function", call_builtin, cls),
        _replaced(TorchInGraphFunctionVariable, "call_function", call_torch, cls),
        watch_traced(switch),
        _trace_transforms(handlers, cls),
        _replaced(TensorVariable, "call_method", call_method, cls),
        _replaced(TensorVariable, "method_attr__version", version, cls),
    ]
    if hasattr(TensorVariable, "mp_ass_subscript_impl"):  # PyTorch 2.15 asks nobody else
        undo.append(_replaced(TensorVariable, "mp_ass_subscript_impl", set_item, cls))

    until_compiled(*undo)


_undo: list[Callable[[], None]] = []


def until_compiled(*steps: Callable[[], None]) -> None:
    """Take these steps when Dynamo has compiled what it is compiling, the last one first."""
    _undo.extend(steps)
    if _compiled not in callback_handler.end_callbacks:
        callback_handler.register_end_callback(_compiled)


def _compiled(_: Any) -> None:
    while _undo:
        _undo.pop()()
    # A list of its own: PyTorch is walking through this one.
    callbacks = callback_handler.end_callbacks
    callback_handler.end_callbacks = [c for c in callbacks if c is not _compiled]


def watch_traced(switch: Switch) -> Callable[[], None]:
    """Have Dynamo tell of the grad modes that it traces; returns what undoes it."""
    from torch._dynamo.variables.ctx_manager import GradModeVariable, InferenceModeVariable

    if getattr(GradModeVariable._call_func, "of", None) is switch:
        return lambda: None
    entered: dict[int, Callable[[], None]] = {}  # by the context

    def call_func(original: Any, self: Any, tx: Any, values: Any) -> None:
        """It enters with the values that it was made for, and leaves with those before."""
        original(self, tx, values)
        if values is self.target_values:
            back = switch(values[0])
            entered.setdefault(id(self), back)
        elif id(self) in entered:
            entered.pop(id(self))()

    def enter(original: Any, self: Any, *args: Any) -> Any:
        entered[id(self)] = switch(not self.target_values[0])
        return original(self, *args)

    def leave(original: Any, self: Any, *args: Any) -> Any:
        entered.pop(id(self))()
        return original(self, *args)

    undo = [
        _replaced(GradModeVariable, "_call_func", call_func, switch),
        _replaced(InferenceModeVariable, "enter", enter, switch),
        _replaced(InferenceModeVariable, "exit", leave, switch),
    ]

    def undo_all() -> None:
        for step in undo:
            step()

    return undo_all


def run_with(constant: Callable[[Any], Any], function: Callable[..., Any], args: Any) -> Any:
    """function(*args), in which Dynamo gives what torch.zeros and their like make to `constant`."""
    return function(*args)


def _constant(tx: Any, result: Any) -> Any:
    """A tensor that was made, as a jet, if the frame in which `run_with` runs called for it."""
    if not result.is_tensor() or result.dtype is None:
        return result
    if not (result.dtype.is_floating_point or result.dtype.is_complex):
        return result
    frame = tx
    while not frame.f_globals["__name__"].startswith("jetfold."):
        frame = frame.parent
        if frame is None:
            return result
    while frame.f_code.co_name == "of_points":  # of the transform, which calls the user's function
        frame = frame.parent
    if frame.f_code is not run_with.__code__:
        return result
    return frame.symbolic_locals["constant"].call_function(tx, [result], {})


def _names_tensors(variable: Any) -> bool:
    """Whether a class that Dynamo knows, or one of a tuple or a union, is torch.Tensor."""
    if not variable.is_python_constant():
        return False
    kinds = variable.as_python_constant()
    if isinstance(kinds, types.UnionType):
        kinds = kinds.__args__
    return torch.Tensor in (kinds if isinstance(kinds, tuple) else (kinds,))


def _replaced(owner: Any, name: str, function: Callable[..., Any], of: Any) -> Callable[[], None]:
    """Have owner.name be function(original, …) on behalf of something; returns what undoes it."""
    original = getattr(owner, name)

    def replacement(*args: Any) -> Any:
        return function(original, *args)

    def undo() -> None:
        if getattr(owner, name) is replacement:
            setattr(owner, name, original)

    replacement.of = of  # type: ignore[attr-defined]
    setattr(owner, name, replacement)
    return undo


def _refuse(cls: type, arguments: Any, message: str) -> None:
    """Raise, where there is an object of a class among what Dynamo calls a function with."""
    from torch._dynamo.variables.base import VariableTracker
    from torch._dynamo.variables.user_defined import UserDefinedObjectVariable

    def check(x: Any) -> None:
        if isinstance(x, UserDefinedObjectVariable) and issubclass(x.python_type(), cls):
            raise NotImplementedError(message)

    VariableTracker.visit(check, arguments)


def refuse_functions(cls: type) -> Callable[[], None]:
    """Have Dynamo refuse a torch.autograd.Function of objects of a class; returns what undoes it.

    Dynamo would trace its code, and the derivative that its author wrote would not count.
    """
    from torch._dynamo.variables.misc import AutogradFunctionVariable

    if getattr(AutogradFunctionVariable.call_apply, "of", None) is cls:
        return lambda: None

    def call_apply(original: Any, self: Any, tx: Any, args: Any, kwargs: Any) -> Any:
        _refuse(
            cls,
            (args, kwargs),
            f"the autograd.Function {self.fn_cls.__name__} inside of a compiled operator "
            "or function: torch.compile would trace its code in place of the derivative "
            "that its author wrote. Leave it out of what is compiled, or call all of it by "
            "torch.compiler.disable(operator(f))(x)",
        )
        return original(self, tx, args, kwargs)

    return _replaced(AutogradFunctionVariable, "call_apply", call_apply, cls)


def _entries(variable: Any) -> int:
    """Of the tensor that Dynamo traces with, symbolic lengths as they are in this call."""
    x = innermost(variable.realize().as_proxy().node.meta["example_value"])
    return prod(n if isinstance(n, int) else n.node.hint or 0 for n in x.shape)


def _is_known(variable: Any) -> bool:
    """Whether Dynamo knows what a variable stands for, whatever the function is called with."""
    from torch._dynamo.variables.user_defined import UserDefinedObjectVariable

    variable = variable.realize()
    if variable.is_tensor():
        known = _is_computed_from_numbers(variable.as_proxy().node)
        if known:
            with constants():
                variable.get_real_value()  # which is kept
        return known
    if isinstance(variable, UserDefinedObjectVariable):
        return variable.source is not None or variable.is_python_constant()
    return bool(variable.is_python_constant())


_MADE = """
tensor as_tensor array asarray arange triu_indices tril_indices full zeros ones getitem __getitem__
unbind to long int contiguous clone reshape view flatten ravel expand broadcast_to squeeze unsqueeze
flip roll transpose permute movedim repeat_interleave repeat cat stack concatenate nonzero add sub
mul remainder floordiv eq ne lt le gt ge
"""
"""Functions by which indices are made, all of which always give the same."""


def _is_computed_from_numbers(node: Any) -> bool:
    """Whether a node of a graph is made of numbers by functions that always give the same, and
    nothing was written into it."""
    made, nodes = set(), [node]
    while nodes:
        one = nodes.pop()
        if one not in made:
            if _name(one) not in _MADE.split() or "out" in one.kwargs:
                return False
            made.add(one)
            nodes.extend(one.all_input_nodes)
    return not any(made & _before(other) for other in node.graph.nodes if _may_write(other))


def _before(node: Any) -> set[Any]:
    """All nodes from which a node is computed."""
    found, nodes = set(), [node]
    while nodes:
        for one in nodes.pop().all_input_nodes:
            if one not in found:
                found.add(one)
                nodes.append(one)
    return found


def _name(node: Any) -> str:
    """The name of the method, or of the function of PyTorch or NumPy, that a node calls."""
    if node.op == "call_method":
        return str(node.target)
    function = node.target
    plain = isinstance(function, (types.BuiltinFunctionType, types.FunctionType))
    if node.op != "call_function" or not (plain or type(function).__module__.startswith(_OWN)):
        return ""
    if (getattr(function, "__module__", "") or "torch").partition(".")[0] not in _FAMILIAR:
        return ""
    return str(getattr(function, "__name__", "")).removeprefix("wrapped_")  # those of NumPy


_OWN = "torch._dynamo."
_FAMILIAR = ("torch", "_operator")


def _may_write(node: Any) -> bool:
    """Whether a node may call what writes into its arguments."""
    if node.op in ("placeholder", "get_attr", "output"):
        return False
    name = _name(node)
    return (
        not name
        or (name.endswith("_") and not name.endswith("__"))
        or name.strip("_") in ("setitem", *[f"i{name}" for name in _NAMES])
        or "out" in node.kwargs
        or any(x is True for x in (*node.args, node.kwargs.get("inplace")))
    )


def _trace_transforms(handlers: dict[str, Callable[..., Any]], cls: type) -> Callable[[], None]:
    """Have Dynamo trace handler(original, *args) for the functions of `TRANSFORMS`.

    As `transforms_through` does where functions run; a replaced attribute of a module would be a
    guard that fails afterwards. Returns what undoes it.
    """
    from torch._dynamo.variables.constant import ConstantVariable
    from torch._dynamo.variables.functions import UserFunctionVariable

    functions = {name: getattr(module, name) for name, module in TRANSFORMS.items()}
    by_function = {ORIGINALS.get(name, f): handlers[name] for name, f in functions.items()}

    def call_function(original: Any, self: Any, tx: Any, args: Any, kwargs: Any) -> Any:
        if self.fn is entries:
            return ConstantVariable.create(_entries(args[0]))
        if self.fn is attempted and not all(map(_is_known, args)):
            return ConstantVariable.create(None)
        handler = by_function.get(self.fn)
        if handler is None or getattr(self, "is_original", False):
            return original(self, tx, args, kwargs)
        itself = type(self)(self.fn, source=self.source)
        itself.is_original = True
        return original(UserFunctionVariable(handler), tx, [itself, *args], kwargs)

    return _replaced(UserFunctionVariable, "call_function", call_function, cls)
