"""Hooks of the backward pass on jets: `register_hook`, `grad_fn`, and those of modules.

Such a hook is told the gradient by one tensor, or just that a backward pass comes by. A jet has
several tensors: its value and its coefficients. A hook on it is told the gradient by the value, the
coefficients held fixed. It may look at it and not replace it: the coefficients' part would be
missing. So that this is one number, and that the hook runs after all that used the jet and before
all that computed it, value and coefficients first become the outputs of one node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch.autograd import _get_sequence_nr
from torch.nn.modules import _functions

from ..core.jet import Jet
from ..core.structure import Structured
from . import private
from .reverse import is_start
from .rules import Function, Refused, Rule
from .watching_private import Unwatched

OF_MODULES = _functions.BackwardHookFunction
"""What PyTorch puts around the arguments and the results of modules that have backward hooks."""

# ------------------------------------------------------------------ what hooks are told


class Unknown(torch.Tensor):
    """In the place of a gradient of which only a part is known: whoever looks at it is told."""

    @classmethod
    def __torch_function__(cls, *_: Any, **__: Any) -> Any:
        raise NotImplementedError(
            "a hook looked at the gradient by a tensor that depends on the point of a jetfold "
            "operator, and that had been used when the hook was registered: a part of it does not "
            "come by there. Register it as soon as the tensor is computed, or on x = x.clone()"
        )

    __torch_dispatch__ = __torch_function__


def _unknown(value: Any) -> Callable[[Any], Any]:
    """What makes of the gradients by a value what hooks are told of them."""
    shape, dtype, device = value.shape, value.dtype, value.device
    return lambda _: private.without_memory(Unknown, shape, dtype=dtype, device=device)


def _known(value: Any) -> Callable[[Any], Any]:
    """Likewise: the gradient, or zeros in the place of None."""
    shape, dtype, device = value.shape, value.dtype, value.device  # the value would hold the graph
    return lambda found: torch.zeros(shape, dtype=dtype, device=device) if found is None else found


def _look(hook: Callable[[], Any], told: Sequence[Any]) -> None:
    """Run a hook that must leave the gradients alone."""
    given = [g for g in told if not (g is None or type(g) is Unknown or g.is_inference())]
    before = [g._version for g in given]
    answer = hook()
    answers = answer if isinstance(answer, tuple) else (answer,) * len(told)
    same = answer is None or all(a is g for a, g in zip(answers, told, strict=False))
    if not same or [g._version for g in given] != before:
        raise NotImplementedError(
            "a hook replaced the gradient by a tensor that depends on the point of a jetfold "
            "operator. It was told the gradient by the value alone, and the coefficients that "
            "jetfold carries beside it have gradients of their own. Let it return None; to change "
            "the derivative write a torch.autograd.Function with that backward, to change "
            "gradients of parameters register the hook on these, or on the operator's result"
        )


# ------------------------------------------------------------------ one node for all arrays


class BackwardHookFunction(Unwatched):
    """The identity of several arrays. PyTorch looks for the nodes of modules' hooks by this name.

    Its nodes have `values`: for each jet the place of its value among the arrays (None where
    autograd does not follow it), and what makes of the gradient there what hooks are told.
    """

    @staticmethod
    def forward(ctx: Any, *arrays: Any) -> Any:
        """The same memory."""
        ctx.set_materialize_grads(False)
        return tuple(x.detach() for x in arrays)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """The gradients as they are."""
        return gradients


def _register(node: Any, hook: Callable[..., Any]) -> Any:
    """`Node.register_hook`: of results and arguments, which are the same, only of the values."""
    values = node.values  # not the node, which holds the hook

    def of_values(_: Any, gradients: Sequence[Any]) -> None:
        told = tuple(None if k is None else tell(gradients[k]) for k, tell in values)
        _look(partial(hook, told, told), told)

    return torch._C._FunctionBase.register_hook(node, of_values)


def _register_before(node: Any, hook: Callable[..., Any]) -> Any:
    """`Node.register_prehook`, likewise."""
    return _register(node, lambda _, gradients: hook(gradients))


_Node: Any = BackwardHookFunction._backward_cls
_Node.register_hook, _Node.register_prehook = _register, _register_before


def _through(jets: Sequence[Any], telling: Callable[[Any], Any]) -> list[Any]:
    """The same jets, of which all arrays that autograd follows come from one node."""
    arrays: list[Any] = []
    values = []
    for jet in jets:
        value = _value(jet)
        values.append((len(arrays) if value.requires_grad else None, telling(value)))
        arrays += _arrays(jet)
    with private.GradMode(True):
        found = BackwardHookFunction.once(*arrays)
    found[0].grad_fn.values = values
    anew = iter(found)
    return [_mapped(jet, lambda _: next(anew)) for jet in jets]


def _value(x: Any) -> Any:
    """The tensor below all levels."""
    while isinstance(x, Jet):
        x = x.primal
    return x


def _arrays(jet: Any) -> list[Any]:
    """The arrays of a jet, of all its levels, that autograd follows, the value first."""
    found: list[Any] = []
    _mapped(jet, lambda array: found.append(array) or array)  # type: ignore[func-returns-value]
    return found


def _mapped(x: Any, function: Callable[[Any], Any]) -> Any:
    """The same jet with function(array) in the place of each of them."""
    if isinstance(x, Jet):
        return x.like(_mapped(x.primal, function), [_mapped(b, function) for b in x.stored])
    if isinstance(x, Structured):
        return x.map(lambda rows: _mapped(rows, function))
    return function(x) if x is not None and x.requires_grad else x


def joined(jet: Any) -> Callable[[Any], Any]:
    """Make value and coefficients the outputs of one node; returns what its hooks are told.

    Nothing may have used them before, which would go past the node: so no node may have been made
    since, and no view may be the same tensor. Else the gradient there is unknown.
    """
    value, arrays = _value(jet), _arrays(jet)
    if len(arrays) == 1:
        return _known(value)
    nodes = [x.grad_fn for x in arrays]
    if value.requires_grad and isinstance(nodes[0], _Node) and len(set(nodes)) == 1:
        return dict(nodes[0].values).get(value.output_nr) or _unknown(value)
    base = None if jet._view is None else _value(jet._view.base)
    of_leaf = base is not None and base.requires_grad and base.is_leaf  # x.view_as(x) finds leaves
    if not value.requires_grad or None in nodes or of_leaf:
        return _unknown(value)
    if private.inside_transform() or is_start(jet):
        return _unknown(value)
    fresh = max(node._sequence_nr() for node in nodes) + 1 == _get_sequence_nr()
    telling = _known if fresh and not jet._lent and base is not value else _unknown
    (anew,) = _through([jet], telling)
    jet.primal, jet.stored, jet.made = anew.primal, anew.stored, None
    if telling is _known:
        jet._writes += 1  # for views without a node, which have the arrays of before
    return telling(value)


# ------------------------------------------------------------------ where jets meet them


def grad_fn(jet: Any) -> Any:
    """The node of the value, and of all."""
    if not torch.compiler.is_compiling():
        joined(jet)
    return jet.primal.grad_fn


@dataclass(frozen=True)
class RegisterHook(Rule):
    """x.register_hook(hook), for a hook that looks at the gradient, if at anything."""

    otherwise: ClassVar[Rule] = Refused("register it on the result of the operator")

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        jet, hook = args[0], kwargs["hook"] if "hook" in kwargs else args[1]
        module = str(getattr(getattr(hook, "func", hook), "__module__", ""))
        elsewhere = module.startswith("torch.distributed")  # what it does the backward pass needs
        if elsewhere or torch.compiler.is_compiling() or not jet.requires_grad:
            return self.otherwise(level, func, args, kwargs)
        tell = joined(jet)

        def told(gradient: Any) -> None:
            gradient = tell(gradient)
            _look(partial(hook, gradient), (gradient,))

        return _value(jet).register_hook(told)


def of_modules(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """OF_MODULES of arguments some of which are jets."""
    jets = [x for x in args if isinstance(x, Jet)]
    like = max(jets, key=lambda jet: jet.level)
    nothing = [None] * like.algebra.order
    return tuple(
        _through([x if isinstance(x, Jet) else like.like(x, nothing) for x in args], _known)
    )
