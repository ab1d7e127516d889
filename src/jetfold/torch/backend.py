"""`torch.compile(f, backend="jetfold")`: the pass, then Inductor.

PyTorch finds it through the entry point `torch_dynamo_backends`. The graph that Dynamo captured is
rewritten before autograd splits it, so the backward graph is that of the rewritten program.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import sympy
import torch
from torch import fx
from torch._inductor.compile_fx import compile_fx
from torch.fx.experimental.proxy_tensor import make_fx

from ..core.plan import plan
from .collapse import DECOMPOSED, Program, TorchArrays, writes


def backend(module: fx.GraphModule, inputs: Sequence[Any], **options: Any) -> Callable[..., Any]:
    """Compile a captured graph.

    Args:
        module: from Dynamo.
        inputs: what it is called with; tensors without data.
        options: for Inductor, as `torch.compile(..., options={...})`.
    """
    settings = options.get("options") or {}
    return compile_fx(rewritten(module, inputs), list(inputs), config_patches=settings)


def rewritten(module: fx.GraphModule, inputs: Sequence[Any]) -> fx.GraphModule:
    """The graph with its sums moved; the same graph if nothing can be saved."""
    dynamic = any(
        isinstance(x, torch.SymInt)
        or (isinstance(x, torch.Tensor) and any(isinstance(n, torch.SymInt) for n in x.shape))
        for x in inputs
    )
    mode = "symbolic" if dynamic else "real"

    def trace(function: Callable[..., Any]) -> fx.GraphModule:
        with torch.no_grad():
            return make_fx(function, DECOMPOSED, tracing_mode=mode, _allow_non_fake_inputs=True)(
                *inputs
            )

    traced = trace(module)
    if writes(traced.graph):
        try:
            traced = trace(torch.func.functionalize(module))
        except RuntimeError:  # it calls transforms of torch.func, step by step
            return module
        if writes(traced.graph):
            return module
    program = Program(traced, inputs)
    found = plan(program.nodes, program.outputs)
    if found.needed is None:
        return module

    def collapsed(*arguments: Any) -> Any:
        again = Program(traced, arguments, sizes(arguments))
        return found.run(TorchArrays(), again.nodes, again.outputs)

    return trace(collapsed)


def sizes(arguments: Sequence[Any]) -> Callable[[Any], Any]:
    """From symbolic lengths of an earlier trace to those of the arguments of this one."""
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
