"""What the measurements use of PyTorch beyond its documented interface."""

from __future__ import annotations

from typing import Any

import torch

# A pass over Inductor's graphs, by the interface that its caches know. Without it the compiled
# nested baseline cannot be measured.
from torch._inductor.custom_graph_pass import CustomGraphPass


class ZerosInMemory(CustomGraphPass):
    """A pass of Inductor: the zero tangents of forward mode become ordinary zeros.

    `torch.func.jvp` makes tensors of zeros without memory, and Inductor's kernels for the CPU read
    it: nested differentiation, once compiled, crashes (pytorch/pytorch#190856).
    """

    def __call__(self, graph: Any) -> None:
        for node in graph.nodes:
            if node.target is torch.ops.aten._efficientzerotensor.default:
                node.target = torch.ops.aten.full.default
                node.args = (*node.args, 0)

    def uuid(self) -> Any:  # for Inductor's cache on disk
        return "jetfold.bench ZerosInMemory 1"
