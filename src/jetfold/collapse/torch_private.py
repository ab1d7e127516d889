"""All of PyTorch's private interfaces that the pass uses, each with what fails without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sympy
import torch
from torch import fx

# Composite operations written as simpler ones while a program is traced; torch.export's public
# tables are for exported modules. Without it addmm, tanh_backward, layer_norm … stop sums.
from torch._decomp import get_decompositions

# Inductor, which our backend hands its graph to; it has no public name but "inductor", which takes
# functions. Without it there is no `backend="jetfold"`.
from torch._inductor.compile_fx import compile_fx

# The class of torch.ops.aten.add.Tensor and its like. Without it equal operations cannot be told
# from functions of Python, and nothing says which of them write.
from torch._ops import OpOverload

# From a function to a graph of ATen operations. It is meant to be used, though experimental; public
# torch.fx.symbolic_trace does not see through torch.func's transforms. Without it there is no pass.
from torch.fx.experimental.proxy_tensor import make_fx

# The pytrees that torch.func itself maps over; they have no public name. Without it arguments would
# be arrays alone.
from torch.utils._pytree import tree_flatten, tree_unflatten

aten = torch.ops.aten

DECOMPOSED = get_decompositions(
    [
        aten.tanh_backward,
        aten.sigmoid_backward,
        aten.gelu_backward,
        aten.silu_backward,
        aten.softplus_backward,
        aten.elu_backward,
        aten.mish_backward,
        aten.threshold_backward,
        aten.leaky_relu_backward,
        aten._softmax_backward_data,
        aten.addmm,
        aten.addmv,
        aten.baddbmm,
        aten.addcmul,
        aten.addcdiv,
        aten.lerp,
        aten.rsub,
        aten.stack,
        aten.trace,
        aten.select_backward,
        aten.slice_backward,
        aten.linear_backward,
        aten.native_layer_norm,
        aten.native_layer_norm_backward,
    ]
)
"""Operations that are traced as simpler ones."""


def trace(
    function: Callable[..., Any], inputs: Sequence[Any], symbolic: bool = False
) -> fx.GraphModule:
    """The operations of a function on tensors, as a graph.

    A backend's inputs have no data, and the parameters that its graph holds may have some; make_fx
    takes both together only if told so.
    """
    mode = "symbolic" if symbolic else "real"
    traced = make_fx(function, DECOMPOSED, tracing_mode=mode, _allow_non_fake_inputs=True)
    with torch.no_grad():  # what autograd saves is no part of the program
        return traced(*inputs)


def is_operation(target: Any) -> bool:
    """Whether the target of an FX node is an operation of PyTorch."""
    return isinstance(target, OpOverload)


def is_mutable(target: Any) -> bool:
    """Whether an operation writes into an operand.

    Only its schema says so. Without it every operation would have to count as writing, and nothing
    would be rewritten.
    """
    return bool(target._schema.is_mutable)


def operation_name(target: Any) -> str:
    """add.Tensor of aten.add.Tensor."""
    if is_operation(target) and target.namespace in ("aten", "prims"):
        return str(target).partition(".")[2]
    return getattr(target, "__name__", str(target))


def sizes(arguments: Sequence[Any]) -> Callable[[Any], Any]:
    """From symbolic lengths of an earlier trace to those of the arguments of this one.

    Reads the expression behind a torch.SymInt. Without it: `dynamic=True` would have to be compiled
    without the pass.
    """
    known: dict[Any, Any] = {}
    for x in arguments:
        for n in x.shape if isinstance(x, torch.Tensor) else (x,):
            if isinstance(n, torch.SymInt):
                known[n.node.expr] = n

    def now(n: Any) -> Any:
        if not isinstance(n, torch.SymInt):
            return n
        expression = n.node.expr
        if expression in known:
            return known[expression]
        symbols = sorted(expression.free_symbols, key=str)
        return sympy.lambdify(symbols, expression, "math")(*[known[s] for s in symbols])

    return now


__all__ = [
    "compile_fx",
    "is_mutable",
    "is_operation",
    "operation_name",
    "sizes",
    "trace",
    "tree_flatten",
    "tree_unflatten",
]
