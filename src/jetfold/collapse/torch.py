"""The pass on ATen graphs: how they are read, and how operations are issued anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from operator import getitem
from typing import Any, NamedTuple

import torch
from torch import fx

from ..core.axes import Action, Opaque, Pointwise, Summed, alongside
from ..torch import arrays as vocabulary
from .arrays import Library, aligned
from .aten import action, flops, reduction
from .builder import Builder, Traced
from .labels import Label, Part, lengths
from .program import Issue, Node, Program
from .torch_private import (
    is_mutable,
    is_operation,
    operation_name,
    trace,
    tree_flatten,
    tree_unflatten,
)

aten = torch.ops.aten


class Described(NamedTuple):
    """The `dtype` of nodes of PyTorch."""

    dtype: Any
    device: Any


class TorchArrays(Library):
    """`arrays.Arrays` for PyTorch."""

    def __init__(self) -> None:
        super().__init__(vocabulary)

    def times(self, array: Any, factor: float) -> Any:
        """factor · array."""
        return array * factor

    def multiplied(
        self, left: Part, right: Part, out: Sequence[Label], inner: Sequence[Label]
    ) -> Any:
        """The inner axes behind."""
        u, v = (aligned(self, part, [*out, *inner]) for part in (left, right))
        product = u * v
        if inner:
            product = self.sum(product, range(len(out), len(out) + len(inner)))
        return self.broadcast_to(product, lengths(out))

    def mapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """torch.func.vmap."""
        return torch.func.vmap(function)

    def stacked(self, arrays: Sequence[Any]) -> Any:
        """torch.stack."""
        return torch.stack(list(arrays))

    def counted(self, start: Any, step: int, length: int) -> Any:
        """Programs of PyTorch have no loops."""
        raise NotImplementedError

    def total(self, array: Any) -> Any:
        """Over the first axis."""
        return array.sum(0)

    def matrices(
        self,
        node: Node | None,
        left: Part,
        right: Part,
        batch: Sequence[Label],
        inner: Sequence[Label],
    ) -> Any:
        """mm or bmm of axes in groups."""
        common = [*batch, *inner]
        free_left = [x for x in left.labels if x not in common]
        free_right = [x for x in right.labels if x not in common]

        def matrix(part: Part, *groups: Sequence[Label]) -> Any:
            array = aligned(self, part, [x for group in groups for x in group])
            return array.reshape([prod(lengths(group)) for group in groups])

        if batch:
            u, v = matrix(left, batch, free_left, inner), matrix(right, batch, inner, free_right)
            made = torch.bmm(u, v)
        else:
            made = torch.mm(matrix(left, free_left, inner), matrix(right, inner, free_right))
        return self.reshape(made, lengths([*batch, *free_left, *free_right]))


# ------------------------------------------------------------------ programs


ISSUED_AS = {
    aten.squeeze_.dims: aten.squeeze.dims,
    aten.squeeze_.dim: aten.squeeze.dim,
    aten.squeeze_.default: aten.squeeze.default,
    aten.unsqueeze_.default: aten.unsqueeze.default,
    aten.view.default: aten.reshape.default,
    aten._unsafe_view.default: aten.reshape.default,
}
"""Forms that change a shape in place, which nobody else sees in a traced program, and views, which
need strides that an operand may no longer have."""

FRESH = {
    aten._new_zeros_with_same_feature_meta.default,
    aten.new_empty.default,
    aten.new_zeros.default,
    aten.empty_like.default,
    aten.zeros_like.default,
}
"""What makes a tensor that nobody else has."""


def written(graph: fx.Graph) -> list[Any]:
    """What a program writes into though somebody else may see it.

    Values are computed when they are asked for, so nothing may change underneath. Allowed are a new
    shape, and new contents, of a tensor that nobody uses but the operation that gives them to it.
    """
    found = []
    for node in graph.nodes:
        target = node.target
        if not is_operation(target) or not is_mutable(target):
            continue
        tensor = node.args[0]
        alone = isinstance(tensor, fx.Node) and len(tensor.users) == 1
        fresh = alone and tensor.op == "call_function" and tensor.target in FRESH
        if not (alone and target in ISSUED_AS) and not (fresh and target is aten.copy_.default):
            found.append(tensor)
    return found


class GraphBuilder(Builder):
    """An ATen graph as nodes.

    Args:
        module: the graph.
        arguments: its inputs.
        size: from a length as it was when the graph was traced to the same length now.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        arguments: Sequence[Any],
        size: Callable[[Any], Any] = lambda n: n,
    ) -> None:
        super().__init__()
        self.size = size
        environment: dict[fx.Node, Any] = {}
        rest = iter(arguments)
        for node in module.graph.nodes:
            if node.op == "placeholder":
                environment[node] = self._leaf(next(rest), node.name)
            elif node.op == "get_attr":
                environment[node] = self._leaf(_attribute(module, node.target), node.target)
            elif node.op == "output":
                self.outputs = fx.node.map_arg(node.args[0], lambda n: environment[n])
            else:
                environment[node] = self._operation(node, environment)

    def _leaf(self, value: Any, name: str) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        described = Described(value.dtype, value.device)
        return self.constant(value, name, value.shape, described, ("leaf", id(value)))

    def _operation(self, node: fx.Node, environment: dict[fx.Node, Any]) -> Any:
        leaves, spec = tree_flatten(
            (node.args, node.kwargs), is_leaf=lambda x: isinstance(x, fx.Node)
        )
        leaves = [environment[x] if isinstance(x, fx.Node) else x for x in leaves]
        inputs = [x for x in leaves if isinstance(x, Node)]
        if not inputs and not hasattr(node.meta.get("val"), "shape"):
            args, kwargs = tree_unflatten(leaves, spec)
            return node.target(*args, **kwargs)
        if node.target in (aten.copy.default, aten.copy_.default) and _alike(*inputs):
            return inputs[1]  # written into a whole new tensor
        if node.target is aten.add.Tensor and len(leaves) == 2 and _adds_nothing(*leaves):
            return inputs[0]  # as the built-in sum begins
        if node.target is aten.cat.default and len(leaves) <= 2 and len(inputs) == 1:
            return inputs[0]
        if node.target is getitem and (part := self._split(node, environment)) is not None:
            return part
        if node.target in (aten.mean.default, aten.mean.dim) and "dtype" not in node.kwargs:
            return self._mean(node, inputs[0])
        key = _key(node, leaves, spec)
        if key is not None and key in self.known:
            return self.known[key]
        made = self._made(node, inputs, leaves, spec, key)
        if key is not None:
            self.known[key] = made
        return made

    def _made(
        self, node: fx.Node, inputs: Sequence[Node], leaves: Any, spec: Any, key: Any
    ) -> Node:
        value = node.meta.get("val", node.meta.get("tensor_meta"))
        name = operation_name(node.target)
        if not isinstance(value, torch.Tensor):
            return self.add(name, inputs, (), None, Opaque(), _issued(node, leaves, spec))
        kind, shape = action(node, inputs, value), tuple(map(self.size, value.shape))
        described = Described(value.dtype, value.device)
        issue = _issued(node, leaves, spec)
        if isinstance(kind, Pointwise):
            issue = _broadcast(issue, inputs, value.dtype)
        operation = None
        if key is not None:  # all but which nodes the operands are
            operation = (*key[:2], *((None,) if x[0] == "node" else x for x in key[2]))
        cost = flops(name, kind, inputs, shape)
        return self.add(name, inputs, shape, described, kind, issue, cost, operation=operation)

    def _split(self, node: fx.Node, environment: dict[fx.Node, Any]) -> Any:
        """A part of what was split, as a slice; one that is all of it is the tensor."""
        whole, place = node.args
        if not isinstance(whole, fx.Node) or whole.target is not aten.split_with_sizes.default:
            return None
        x, sizes = environment[whole.args[0]], list(map(self.size, whole.args[1]))
        if len(sizes) == 1:
            return x
        axis = (*whole.args, 0)[2] % len(x.shape)
        start, size = sum(sizes[:place]), sizes[place]
        cut: Issue = lambda arrays, shape: arrays[0].narrow(axis, start, size)  # noqa: E731
        shape = (*x.shape[:axis], size, *x.shape[axis + 1 :])
        kind = alongside([axis], (0,), len(shape))
        return self.add("slice.Tensor", (x,), shape, x.dtype, kind, cut)

    def _mean(self, node: fx.Node, x: Node) -> Node:
        """A sum, divided by how many there are."""
        kind, shape = reduction(node, [x], None), tuple(map(self.size, node.meta["val"].shape))
        assert isinstance(kind, Summed)
        axes, keepdims = kind.axes, kind.keepdims
        count = prod(x.shape[k] for k in axes)
        total: Issue = lambda arrays, shape: arrays[0].sum(axes, keepdim=keepdims)  # noqa: E731
        share: Issue = lambda arrays, shape: arrays[0] / count  # noqa: E731
        summed = self.add("sum.dim_IntList", (x,), shape, x.dtype, kind, total)
        divided: Action = Pointwise(linear=(0,))
        return self.add("div.Scalar", (summed,), shape, x.dtype, divided, share, float(prod(shape)))


def _issued(node: fx.Node, leaves: Sequence[Any], spec: Any) -> Issue:
    """The operation with its static arguments, of arrays in place of nodes."""
    target: Any = ISSUED_AS.get(node.target, node.target)
    places = [k for k, x in enumerate(leaves) if isinstance(x, Node)]
    static = [None if isinstance(x, Node) else x for x in leaves]

    def issue(arrays: Sequence[Any], shape: Sequence[int]) -> Any:
        filled = list(static)
        for k, x in zip(places, arrays, strict=True):
            filled[k] = x
        args, kwargs = tree_unflatten(filled, spec)
        return target(*args, **kwargs)

    return issue


def _broadcast(issue: Issue, inputs: Sequence[Node], dtype: Any) -> Issue:
    """ATen broadcasts by itself.

    An operand without axes gets none: it may be of another device, and the dtype of the result does
    not follow it.
    """
    numbers = [not x.shape for x in inputs]

    def issued(arrays: Sequence[Any], shape: Sequence[int]) -> Any:
        operands = zip(arrays, numbers, strict=True)
        made = issue([x.reshape(()) if number else x for x, number in operands], shape)
        return made if made.dtype == dtype else made.to(dtype)

    return issued


def _key(node: fx.Node, leaves: Sequence[Any], spec: Any) -> Any:
    """What makes two operations equal; None where that cannot be told, or for random ones."""
    target: Any = node.target
    if not is_operation(target) or torch.Tag.nondeterministic_seeded in target.tags:
        return None
    if is_mutable(target) and target not in ISSUED_AS:
        return None
    parts = [("node", x.number) if isinstance(x, Node) else (type(x), x) for x in leaves]
    key = (target, str(spec), tuple(parts))
    try:
        hash(key)
    except TypeError:
        return None
    return key


def _adds_nothing(x: Any, number: Any) -> bool:
    """x + 0, where this has no other dtype."""
    whole = isinstance(number, int) and number == 0
    return whole and isinstance(x, Node) and x.dtype.dtype.is_floating_point


def _alike(a: Node, b: Node) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype


def _attribute(module: Any, path: Any) -> Any:
    for name in path.split("."):
        module = getattr(module, name)
    return module


# ------------------------------------------------------------------ what the pass asks of a half


def has_arrays(tree: Any) -> bool:
    """Whether a tensor is somewhere in the arguments."""
    return any(isinstance(x, torch.Tensor) for x in tree_flatten(tree)[0])


def arrays() -> TorchArrays:
    """What the engine issues operations with."""
    return TorchArrays()


def graph(
    function: Callable[..., Any], tensors: Sequence[Any], symbolic: bool = False
) -> fx.GraphModule:
    """A function as an ATen graph, which writes nothing if that can be had.

    What writes into its inputs always does, and is not run a second time.
    """
    found = trace(function, tensors, symbolic)
    targets = written(found.graph)
    if not targets or any(getattr(x, "op", "") in ("placeholder", "get_attr") for x in targets):
        return found
    return trace(torch.func.functionalize(function), tensors, symbolic)


def is_symbolic(args: Any, kwargs: Any) -> bool:
    """Whether some size is a name; make_fx takes sizes as they are."""
    return False


def traced(function: Callable[..., Any], args: Any, kwargs: Any) -> Traced:
    """A call as a program."""
    leaves, spec = tree_flatten((args, kwargs))
    dynamic = [k for k, x in enumerate(leaves) if isinstance(x, torch.Tensor)]
    returned: list[Any] = []

    def flat(*tensors: Any) -> Any:
        filled = list(leaves)
        for k, x in zip(dynamic, tensors, strict=True):
            filled[k] = x
        args, kwargs = tree_unflatten(filled, spec)
        out, out_spec = tree_flatten(function(*args, **kwargs))
        returned[:] = [out_spec]
        return tuple(out)

    tensors = [leaves[k] for k in dynamic]
    module = graph(flat, tensors)
    if written(module.graph):
        raise NotImplementedError(
            "the function writes into its arguments or into tensors that it closes over, so it "
            "cannot be rewritten; return what is to be written instead"
        )

    def again(tensors: Sequence[Any]) -> Program:
        return GraphBuilder(module, tensors).program()

    def rebuild(outputs: Sequence[Any]) -> Any:
        return tree_unflatten(list(outputs), returned[0])

    return Traced(again(tensors), tensors, rebuild, again)
