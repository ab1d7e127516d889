"""The pass on ATen graphs: which operations let sums through, and how they are issued anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import fx
from torch._decomp import get_decompositions
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from ..core.kinds import (
    Along,
    Bilinear,
    Contract,
    Elementwise,
    Leaf,
    Opaque,
    Rearranged,
    Sum,
    as_exact,
    broadcast,
    is_zero,
    permuted,
    reshaped,
)
from ..core.sums import Kind, Label, Node, Part, aligned

aten = torch.ops.aten


# ------------------------------------------------------------------ arrays


class TorchArrays:
    """`core.sums.Arrays` for PyTorch."""

    def issue(self, node: Node, arrays: Sequence[Any], shape: Sequence[int]) -> Any:
        """The operation; ATen broadcasts by itself.

        An operand without axes gets none: it may be of another device, and the dtype of the result
        does not follow it.
        """
        if not isinstance(node.kind, Elementwise):
            return node.issue(*arrays)
        operands = zip(node.inputs, arrays, strict=True)
        made = node.issue(*(array if x.shape else array.reshape(()) for x, array in operands))
        return made if made.dtype == node.dtype[0] else made.to(node.dtype[0])

    def contract(self, node: Node | None, left: Part, right: Part, out: Sequence[Label]) -> Any:
        """One matrix product; a product and a sum where axes that stay are shared."""
        shared = any(x in left.labels and x in right.labels for x in out)
        if node is None and (shared or not {*left.labels, *right.labels} - {*out}):
            labels = list(dict.fromkeys([*out, *left.labels, *right.labels]))
            u, v = (aligned(self, part, labels) for part in (left, right))
            product = u * v
            behind = list(range(len(out), len(labels)))
            product = product.sum(behind) if behind else product
            return product.expand([x.length for x in out])
        common = [x for x in left.labels if x in right.labels]
        batch = [x for x in common if x in out]
        inner = [x for x in common if x not in out]
        free_left = [x for x in left.labels if x not in common]
        free_right = [x for x in right.labels if x not in common]

        def matrix(part: Part, *groups: list[Label]) -> Any:
            order = [part.labels.index(x) for group in groups for x in group]
            array = part.array.permute(order)
            return array.reshape([prod(x.length for x in group) for group in groups])

        if batch:
            made = torch.bmm(
                matrix(left, batch, free_left, inner), matrix(right, batch, inner, free_right)
            )
        else:
            made = torch.mm(matrix(left, free_left, inner), matrix(right, inner, free_right))
        have = [*batch, *free_left, *free_right]
        made = made.reshape([x.length for x in have])
        return made.permute([have.index(x) for x in out])

    def total(self, array: Any, axes: Sequence[int]) -> Any:
        """The sum over some axes."""
        return array.sum(list(axes), dtype=array.dtype)

    def scale(self, array: Any, factor: float) -> Any:
        """factor · array."""
        return array * factor

    def permute(self, array: Any, order: Sequence[int]) -> Any:
        """The axes in another order."""
        return array.permute(list(order))

    def reshape(self, array: Any, shape: Sequence[int]) -> Any:
        """Another shape."""
        return array if tuple(array.shape) == tuple(shape) else array.reshape(list(shape))

    def broadcast(self, array: Any, shape: Sequence[int]) -> Any:
        """Axes of length one repeated."""
        return array.expand(list(shape))

    def full(self, node: Node, shape: Sequence[int], value: float) -> Any:
        """One value everywhere, in the dtype and on the device of a node."""
        dtype, device = node.dtype
        return torch.full(list(shape), value, dtype=dtype, device=device)


# ------------------------------------------------------------------ kinds

Make = Callable[["fx.Node", Sequence[Any], Any], tuple[Kind, dict[str, Any]]]
"""From the FX node, its operands and its value's description to the kind and its options."""


def elementwise(*linear: int) -> Make:
    """Linear in the operands at these positions together."""
    return lambda node, inputs, value: (Elementwise(linear=linear), {})


def summation(sign: int) -> Make:
    """u ± alpha·v."""

    def make(node: fx.Node, inputs: Sequence[Any], value: Any) -> tuple[Kind, dict[str, Any]]:
        linear = [k for k, x in enumerate(inputs) if isinstance(x, Node)]
        if len(linear) < len(node.args[:2]):  # a number beside a tensor
            return Elementwise(), {}
        if len(_of_its_dtype(inputs, value)) < len(inputs):
            return Elementwise(), {}
        alone = node.kwargs.get("alpha", 1) == 1
        return Elementwise(linear=linear), {"sum": sign, "arithmetic": True} if alone else {}

    return make


def negation(node: fx.Node, inputs: Sequence[Any], value: Any) -> tuple[Kind, dict[str, Any]]:
    """−u."""
    return Elementwise(linear=(0,)), {"arithmetic": True}


def conjugation(node: fx.Node, inputs: Sequence[Any], value: Any) -> tuple[Kind, dict[str, Any]]:
    """Additive; a factor would come out conjugated."""
    return Elementwise(linear=(0,)), {"conjugates": True}


def product(node: fx.Node, inputs: Sequence[Any], value: Any) -> tuple[Kind, dict[str, Any]]:
    """u · v; by a number it is linear."""
    places = [k for k in _of_its_dtype(inputs, value) if inputs[k].dtype[1] == value.device]
    if len(places) == 2:
        return Elementwise(factors=(0, 1)), {"arithmetic": True}
    return Elementwise(linear=places), {"arithmetic": len(inputs) == 1}


def quotient(node: fx.Node, inputs: Sequence[Any], value: Any) -> tuple[Kind, dict[str, Any]]:
    """u / v is linear in u."""
    plain = isinstance(node.args[0], fx.Node) and "rounding_mode" not in node.kwargs
    places = _of_its_dtype(inputs, value)
    linear = (0,) if plain and 0 in places else ()
    return Elementwise(linear=linear), {"arithmetic": plain and len(places) == len(inputs)}


def selection(node: fx.Node, inputs: Sequence[Any], value: Any) -> tuple[Kind, dict[str, Any]]:
    """where(mask, u, v)."""
    places = _of_its_dtype(inputs, value)
    return Elementwise(linear=places if places == [1, 2] and len(inputs) == 3 else ()), {}


def _of_its_dtype(inputs: Sequence[Any], value: Any) -> list[int]:
    """The operands that are summed as exactly as the value: those of its dtype."""
    return [k for k, x in enumerate(inputs) if x.zero or x.dtype[0] == value.dtype]


def conversion(node: fx.Node, inputs: Sequence[Any], value: Any) -> tuple[Kind, dict[str, Any]]:
    """Linear where a sum before it is at least as exact as one behind it."""
    before, after = inputs[0].dtype[0], value.dtype
    inexact = all(d.is_floating_point or d.is_complex for d in (before, after))
    if not inexact or inputs[0].dtype[1] != value.device:
        return Elementwise(), {}
    exact = as_exact(torch.finfo(before), torch.finfo(after))
    linear = exact and (after.is_complex or not before.is_complex)
    return Elementwise(linear=(0,) if linear else ()), {}


def permutation(order: Callable[..., Sequence[int]]) -> Make:
    """Axes in another order."""

    def make(node: fx.Node, inputs: Sequence[Any], value: Any) -> tuple[Kind, dict[str, Any]]:
        n = len(inputs[0].shape)
        found = [axis % n for axis in order(n, *node.args[1:])] if n else []
        return Rearranged(permuted), {"order": found}

    return make


def _swapped(n: int, a: int, b: int) -> list[int]:
    order = list(range(n))
    order[a], order[b] = order[b], order[a]
    return order


def expansion(node: fx.Node, inputs: Sequence[Any], value: Any) -> tuple[Kind, dict[str, Any]]:
    """expand: the axes of the operand are the last ones."""
    lead = len(value.shape) - len(inputs[0].shape)
    return Rearranged(broadcast), {"dims": [lead + k for k in range(len(inputs[0].shape))]}


def reshaping(node: fx.Node, inputs: Sequence[Any], value: Any) -> tuple[Kind, dict[str, Any]]:
    """view, unsqueeze, squeeze, …"""
    return Rearranged(reshaped), {}


def reduction(node: fx.Node, inputs: Sequence[Any], value: Any) -> tuple[Kind, dict[str, Any]]:
    """sum."""
    n = len(inputs[0].shape)
    dims = node.args[1] if len(node.args) > 1 else None
    keepdims = bool(node.args[2]) if len(node.args) > 2 else False
    if node.kwargs.get("dtype") not in (None, inputs[0].dtype[0]) or not n:
        return Opaque(), {}
    axes = tuple(k % n for k in dims) if dims else tuple(range(n))
    return Sum(), {"axes": axes, "keepdims": keepdims}


def contraction(left: str, right: str, out: str) -> Make:
    """A product of matrices."""
    return lambda node, inputs, value: (
        Contract(),
        {"left": list(left), "right": list(right), "out": list(out)},
    )


def along(acts: Callable[..., Sequence[int]], linear: Sequence[int] | None = (0,)) -> Make:
    """Linear and acting along some axes; the operands have the axes of the result."""

    def make(node: fx.Node, inputs: Sequence[Any], value: Any) -> tuple[Kind, dict[str, Any]]:
        n = len(value.shape)
        places = range(len(inputs)) if linear is None else linear
        if any(len(inputs[k].shape) != n for k in places):
            return Opaque(), {}
        acting = {axis % n for axis in acts(node, n)}
        through = {k: {a: a for a in range(n) if a not in acting} for k in places}
        return Along(tuple(places)), {"acts": tuple(acting), "through": through}

    return make


def convolution(node: fx.Node, inputs: Sequence[Any], value: Any) -> tuple[Kind, dict[str, Any]]:
    """The batch axis passes to the input, the features to the kernel."""
    bias, transposed, groups = node.args[2], bool(node.args[6]), node.args[8]
    if bias is not None or any(not isinstance(x, Node) for x in inputs[:2]):
        return Opaque(), {}  # the bias is added by a node of its own, where it matters
    n = len(value.shape)
    if groups != 1:
        return Along((0,)), {"acts": tuple(range(1, n)), "through": {0: {0: 0}}}
    kernel = {1: 1 if transposed else 0}
    return Bilinear((0, 1)), {"acts": tuple(range(2, n)), "through": {0: {0: 0}, 1: kernel}}


def indexed(node: fx.Node, inputs: Sequence[Any], value: Any) -> tuple[Kind, dict[str, Any]]:
    """x[:, index]: entries along one axis; those of the index stand in its place."""
    given: Any = node.args[1]
    places = [k for k, x in enumerate(given) if x is not None]
    if len(places) != 1 or inputs[1].dtype[0] in (torch.bool, torch.uint8):
        return Opaque(), {}
    (place,), wide = places, len(inputs[1].shape)
    acts = tuple(range(place, place + wide))
    through = {
        k: (k if k < place else k - wide + 1) for k in range(len(value.shape)) if k not in acts
    }
    return Along((0,)), {"acts": acts, "through": {0: through}}


def picked(node: fx.Node, inputs: Sequence[Any], value: Any) -> tuple[Kind, dict[str, Any]]:
    """select.int: one index of an axis, which disappears."""
    n = len(inputs[0].shape)
    axis = node.args[1] % n
    through = {k: (k if k < axis else k + 1) for k in range(n - 1)}
    return Along((0,)), {"acts": (), "through": {0: through}}


def zero(node: fx.Node, inputs: Sequence[Any], value: Any) -> tuple[Kind, dict[str, Any]]:
    """Nothing but zeros."""
    return Opaque(), {"zero": True}


def filled(position: int) -> Make:
    """full and its like: zeros if the number is."""
    return lambda node, inputs, value: (Opaque(), {"zero": node.args[position] == 0})


def _dim(node: fx.Node, n: int) -> list[Any]:
    return [node.args[1] if len(node.args) > 1 else 0]


LINEAR: dict[str, Make] = {
    "add.Tensor": summation(1),
    "sub.Tensor": summation(-1),
    "neg.default": negation,
    "alias.default": elementwise(0),
    "clone.default": elementwise(0),
    "detach.default": elementwise(0),
    "lift_fresh_copy.default": elementwise(0),
    "conj.default": conjugation,
    "_conj.default": conjugation,
    "conj_physical.default": conjugation,
    "_conj_physical.default": conjugation,
    "real.default": elementwise(0),
    "imag.default": elementwise(0),
    "complex.default": elementwise(0, 1),
    "_to_copy.default": conversion,
    "mul.Tensor": product,
    "mul.Scalar": product,
    "div.Tensor": quotient,
    "div.Scalar": quotient,
    "where.self": selection,
    "permute.default": permutation(lambda n, dims: dims),
    "t.default": permutation(lambda n: range(n)[::-1]),
    "transpose.int": permutation(_swapped),
    "expand.default": expansion,
    "view.default": reshaping,
    "_unsafe_view.default": reshaping,
    "reshape.default": reshaping,
    "unsqueeze.default": reshaping,
    "unsqueeze_.default": reshaping,
    "squeeze.default": reshaping,
    "squeeze.dim": reshaping,
    "squeeze.dims": reshaping,
    "squeeze_.dim": reshaping,
    "squeeze_.dims": reshaping,
    "squeeze_.default": reshaping,
    "sum.dim_IntList": reduction,
    "sum.default": reduction,
    "mm.default": contraction("ik", "kj", "ij"),
    "bmm.default": contraction("bik", "bkj", "bij"),
    "mv.default": contraction("ik", "k", "i"),
    "dot.default": contraction("k", "k", ""),
    "convolution.default": convolution,
    "select.int": picked,
    "index.Tensor": indexed,
    "slice.Tensor": along(_dim),
    "cat.default": along(_dim, None),
    "flip.default": along(lambda node, n: node.args[1]),
    "roll.default": along(lambda node, n: (*node.args, ())[2] or range(n)),
    "cumsum.default": along(_dim),
    "index_select.default": along(_dim),
    "constant_pad_nd.default": along(
        lambda node, n: (
            range(n)
            if len(node.args) > 2 and node.args[2]
            else range(n - len(node.args[1]) // 2, n)
        )
    ),
    "_fft_c2c.default": along(lambda node, n: node.args[1]),
    "_fft_r2c.default": along(lambda node, n: node.args[1]),
    "_fft_c2r.default": along(lambda node, n: node.args[1]),
    "zeros.default": zero,
    "zeros_like.default": zero,
    "new_zeros.default": zero,
    "_efficientzerotensor.default": zero,
    "full.default": filled(1),
    "full_like.default": filled(1),
    "new_full.default": filled(2),
    "scalar_tensor.default": filled(0),
}
"""How sums pass through an operation; they do not pass any other."""

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
        aten.select_backward,
        aten.slice_backward,
        aten.linear_backward,
        aten.native_layer_norm,
        aten.native_layer_norm_backward,
    ]
)
"""Operations that are traced as simpler ones."""


# ------------------------------------------------------------------ programs


class Program:
    """An ATen graph as nodes, equal ones taken together."""

    def __init__(
        self,
        module: fx.GraphModule,
        arguments: Sequence[Any],
        size: Callable[[Any], Any] = lambda n: n,
    ) -> None:
        self.nodes: list[Node] = []
        self.size = size
        """From a length as it was when the graph was traced to the same length now."""
        self._known: dict[Any, Any] = {}
        environment: dict[fx.Node, Any] = {}
        rest = iter(arguments)
        self.outputs: Any = ()
        for node in module.graph.nodes:
            if node.op == "placeholder":
                environment[node] = self._leaf(next(rest), node.name)
            elif node.op == "get_attr":
                environment[node] = self._leaf(_attribute(module, node.target), node.target)
            elif node.op == "output":
                self.outputs = fx.node.map_arg(node.args[0], lambda n: environment[n])
            else:
                environment[node] = self._operation(node, environment)

    def _add(self, node: Node) -> Node:
        node.number = len(self.nodes)
        self.nodes.append(node)
        return node

    def _leaf(self, value: Any, name: str) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        key = ("leaf", id(value))
        if key not in self._known:
            described = (value.dtype, value.device)
            node = Node(name, (), tuple(value.shape), described, Leaf(), lambda: value)
            node.options["array"] = value
            self._known[key] = self._add(node)
        return self._known[key]

    def _operation(self, node: fx.Node, environment: dict[fx.Node, Any]) -> Any:
        leaves, spec = tree_flatten(
            (node.args, node.kwargs), is_leaf=lambda x: isinstance(x, fx.Node)
        )
        leaves = [environment[x] if isinstance(x, fx.Node) else x for x in leaves]
        if not any(isinstance(x, Node) for x in leaves) and not hasattr(
            node.meta.get("val"), "shape"
        ):
            args, kwargs = tree_unflatten(leaves, spec)
            return node.target(*args, **kwargs)
        positions = [k for k, x in enumerate(leaves) if isinstance(x, Node)]
        inputs = [leaves[k] for k in positions]
        if node.target in (aten.copy.default, aten.copy_.default) and _alike(*inputs):
            return inputs[1]  # written into a whole new tensor
        if node.target in (aten.mean.default, aten.mean.dim) and "dtype" not in node.kwargs:
            return self._mean(node, inputs[0])
        key = self._key(node, leaves, spec)
        if key is not None and key in self._known:
            return self._known[key]
        target: Any = node.target
        if target in ISSUED_AS:
            target = ISSUED_AS[target]

        def issue(*arrays: Any) -> Any:
            filled = list(leaves)
            for k, x in zip(positions, arrays, strict=True):
                filled[k] = x
            args, kwargs = tree_unflatten(filled, spec)
            return target(*args, **kwargs)

        value = node.meta.get("val", node.meta.get("tensor_meta"))
        name = _name(node.target)
        kind: Kind = Opaque()
        options: dict[str, Any] = {}
        if not isinstance(value, torch.Tensor):
            made = self._add(Node(name, tuple(inputs), (), None, kind, issue))
        else:
            inexact = value.dtype.is_floating_point or value.dtype.is_complex
            if name in LINEAR and inexact:
                kind, options = LINEAR[name](node, inputs, value)
            elif torch.Tag.pointwise in getattr(node.target, "tags", ()):
                kind = Elementwise()
            described = (value.dtype, value.device)
            shape = tuple(map(self.size, value.shape))
            made = Node(name, tuple(inputs), shape, described, kind, issue)
            made.options = options
            made.zero = bool(options.get("zero")) or is_zero(kind, inputs)
            if name == "convolution.default":
                made.flops = 2.0 * prod(made.shape) * prod(inputs[1].shape) / inputs[1].shape[0]
            elif name.startswith(("cumsum", "_fft")) or (
                isinstance(kind, Elementwise) and name not in FREE
            ):
                made.flops = float(prod(made.shape))
            self._add(made)
        if key is not None:
            self._known[key] = made
        return made

    def _mean(self, node: fx.Node, x: Node) -> Node:
        """A sum, divided by how many there are."""
        _, options = reduction(node, [x], None)
        shape = tuple(map(self.size, node.meta["val"].shape))
        count = prod(x.shape[k] for k in options["axes"])

        def total(array: Any) -> Any:
            return array.sum(options["axes"], keepdim=options["keepdims"])

        summed = Node("sum.dim_IntList", (x,), shape, x.dtype, Sum(), total)
        summed.options, summed.zero = options, x.zero
        divided = Node("div.Scalar", (), shape, x.dtype, Elementwise(linear=(0,)), _divided(count))
        divided.inputs, divided.zero = (self._add(summed),), x.zero
        divided.flops = float(prod(shape))
        return self._add(divided)

    def _key(self, node: fx.Node, leaves: Sequence[Any], spec: Any) -> Any:
        """What makes two operations equal; None where that cannot be told, or for random ones."""
        tags = getattr(node.target, "tags", ())
        if torch.Tag.nondeterministic_seeded in tags or not isinstance(
            node.target, torch._ops.OpOverload
        ):
            return None
        if node.target._schema.is_mutable and node.target not in ISSUED_AS:
            return None
        parts = [("node", x.number) if isinstance(x, Node) else (type(x), x) for x in leaves]
        key = (node.target, str(spec), tuple(parts))
        try:
            hash(key)
        except TypeError:
            return None
        return key


def _divided(count: int) -> Callable[[Any], Any]:
    return lambda array: array / count


def _alike(a: Node, b: Node) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype


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


def writes(graph: fx.Graph) -> bool:
    """Whether a program writes into tensors that somebody else may see.

    Values are computed when they are asked for, so nothing may change underneath. Allowed are a new
    shape, and new contents, of a tensor that nobody uses but the operation that gives them to it.
    """
    for node in graph.nodes:
        target = node.target
        if not isinstance(target, torch._ops.OpOverload) or not target._schema.is_mutable:
            continue
        written = node.args[0]
        alone = isinstance(written, fx.Node) and len(written.users) == 1
        fresh = alone and written.op == "call_function" and written.target in FRESH
        if not (alone and target in ISSUED_AS) and not (fresh and target is aten.copy_.default):
            return True
    return False


FRESH = {
    aten._new_zeros_with_same_feature_meta.default,
    aten.new_empty.default,
    aten.new_zeros.default,
    aten.empty_like.default,
    aten.zeros_like.default,
}

FREE = ("alias.default", "clone.default", "detach.default", "_to_copy.default")


def _name(target: Any) -> str:
    """add.Tensor of aten.add.Tensor."""
    if isinstance(target, torch._ops.OpOverload) and target.namespace in ("aten", "prims"):
        return target._schema.name.split("::")[1] + "." + target._overloadname
    return getattr(target, "__name__", str(target))


def _attribute(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name)
    return module


def has_arrays(tree: Any) -> bool:
    """Whether a tensor is somewhere in the arguments."""
    return any(isinstance(x, torch.Tensor) for x in tree_flatten(tree)[0])


def arrays() -> TorchArrays:
    """What the engine issues operations with."""
    return TorchArrays()


def program(
    function: Callable[..., Any], args: Any, kwargs: Any
) -> tuple[list[Node], Any, Callable[[Sequence[Any]], Any]]:
    """The program of a call: its nodes, its outputs, and how to rebuild what it returns."""
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
    with torch.no_grad():  # what autograd saves is no part of the program
        module = make_fx(torch.func.functionalize(flat), DECOMPOSED)(*tensors)
    if writes(module.graph):
        raise NotImplementedError(
            "the function writes into its arguments or into tensors that it closes over, so it "
            "cannot be rewritten; return what is to be written instead"
        )
    made = Program(module, tensors)
    return made.nodes, made.outputs, lambda results: tree_unflatten(list(results), returned[0])
