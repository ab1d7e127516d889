"""`torch.compile(f, backend="jetfold")`: the pass, then Inductor.

PyTorch finds it through the entry point `torch_dynamo_backends`. The graph that Dynamo captured is
rewritten before autograd splits it, so the backward graph is that of the rewritten program.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import fx

from .plan import plan
from .rolled import SAVING, rollable, values
from .torch import GraphBuilder, TorchArrays, graph, written
from .torch_private import compile_fx, sizes


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
    symbolic = any(
        isinstance(x, torch.SymInt)
        or (isinstance(x, torch.Tensor) and any(isinstance(n, torch.SymInt) for n in x.shape))
        for x in inputs
    )
    try:
        traced = graph(module, inputs, symbolic)
    except RuntimeError:  # it writes, and calls transforms of torch.func, step by step
        return module
    if written(traced.graph):
        return module
    program = GraphBuilder(traced, inputs).program()
    found = plan(program)
    if rollable(program):

        def rolled(*arguments: Any) -> Any:
            again = GraphBuilder(traced, arguments, sizes(arguments)).program()
            return values(again, TorchArrays())

        with suppress(Exception):  # what cannot be mapped stays as it is
            other = graph(rolled, inputs, symbolic)
            of_rolled = plan(GraphBuilder(other, inputs).program())
            if of_rolled.choice is not None and of_rolled.after < SAVING * found.after:
                traced, found = other, of_rolled
    if found.choice is None:
        return module

    def collapsed(*arguments: Any) -> Any:
        again = GraphBuilder(traced, arguments, sizes(arguments)).program()
        return found.run(TorchArrays(), again)

    return graph(collapsed, inputs, symbolic)
