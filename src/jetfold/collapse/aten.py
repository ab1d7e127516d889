"""How ATen's operations act on the axes of their operands, as values of `core.axes`.

Every function here declares a kind of operation:

    declare(node, inputs, value) -> Action

from an FX node with its arguments, its operands that are tensors (`program.Node`), and a tensor
without data that is like its value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import fx

from ..core.axes import (
    Acting,
    Action,
    Broadcast,
    Contracted,
    Diagonal,
    Identity,
    Opaque,
    Permuted,
    Pointwise,
    Rearranged,
    Reshaped,
    Summed,
    Zeros,
    alongside,
    as_exact,
)
from .program import Node
from .torch_private import operation_name

Declare = Callable[[fx.Node, Sequence[Node], Any], Action]


def elementwise(*linear: int) -> Declare:
    """Linear in the operands at these positions together."""
    return lambda node, inputs, value: Pointwise(linear=linear)


def summation(sign: int) -> Declare:
    """u ± alpha·v."""

    def declare(node: fx.Node, inputs: Sequence[Node], value: Any) -> Action:
        if len(inputs) < len(node.args[:2]):  # a number beside a tensor
            return Pointwise()
        if len(_of_its_dtype(inputs, value)) < len(inputs):
            return Pointwise()
        linear = tuple(range(len(inputs)))
        if node.kwargs.get("alpha", 1) != 1 or len(inputs) != 2:
            return Pointwise(linear)
        return Pointwise(linear, sign=sign, arithmetic=True)

    return declare


def negation(node: fx.Node, inputs: Sequence[Node], value: Any) -> Action:
    """−u."""
    return Pointwise(linear=(0,), arithmetic=True)


def conjugation(node: fx.Node, inputs: Sequence[Node], value: Any) -> Action:
    """Additive; a factor would come out conjugated."""
    return Pointwise(linear=(0,), conjugates=True)


def product(node: fx.Node, inputs: Sequence[Node], value: Any) -> Action:
    """u · v; by a number it is linear."""
    places = [k for k in _of_its_dtype(inputs, value) if inputs[k].dtype.device == value.device]
    if len(places) == 2:
        return Pointwise(factors=(0, 1), arithmetic=True)
    return Pointwise(tuple(places), arithmetic=len(inputs) == 1)


def quotient(node: fx.Node, inputs: Sequence[Node], value: Any) -> Action:
    """u / v is linear in u."""
    plain = isinstance(node.args[0], fx.Node) and "rounding_mode" not in node.kwargs
    places = _of_its_dtype(inputs, value)
    linear = (0,) if plain and 0 in places else ()
    return Pointwise(linear, arithmetic=plain and len(places) == len(inputs))


def selection(node: fx.Node, inputs: Sequence[Node], value: Any) -> Action:
    """where(mask, u, v)."""
    places = _of_its_dtype(inputs, value)
    if places != [1, 2] or len(inputs) != 3:
        return Pointwise()
    return Pointwise((1, 2), masked=(0, 1) if inputs[2].zero else ())


def _of_its_dtype(inputs: Sequence[Node], value: Any) -> list[int]:
    """The operands that are summed as exactly as the value: those of its dtype."""
    return [k for k, x in enumerate(inputs) if x.zero or x.dtype.dtype == value.dtype]


def conversion(node: fx.Node, inputs: Sequence[Node], value: Any) -> Action:
    """Linear where a sum before it is at least as exact as one behind it."""
    before, after = inputs[0].dtype.dtype, value.dtype
    inexact = all(d.is_floating_point or d.is_complex for d in (before, after))
    if not inexact or inputs[0].dtype.device != value.device:
        return Pointwise()
    exact = as_exact(torch.finfo(before), torch.finfo(after))
    linear = exact and (after.is_complex or not before.is_complex)
    return Pointwise((0,) if linear else ())


def permutation(order: Callable[..., Sequence[int]]) -> Declare:
    """Axes in another order."""

    def declare(node: fx.Node, inputs: Sequence[Node], value: Any) -> Action:
        n = len(inputs[0].shape)
        found = [axis % n for axis in order(n, *node.args[1:])] if n else []
        return Permuted(tuple(found))

    return declare


def _swapped(n: int, a: int, b: int) -> list[int]:
    order = list(range(n))
    order[a], order[b] = order[b], order[a]
    return order


def expansion(node: fx.Node, inputs: Sequence[Node], value: Any) -> Action:
    """expand: the axes of the operand are the last ones."""
    lead = len(value.shape) - len(inputs[0].shape)
    return Broadcast(tuple(range(lead, len(value.shape))))


def reshaping(node: fx.Node, inputs: Sequence[Node], value: Any) -> Action:
    """view, unsqueeze, squeeze, …"""
    return Reshaped()


def reduction(node: fx.Node, inputs: Sequence[Node], value: Any) -> Action:
    """sum."""
    n = len(inputs[0].shape)
    dims = node.args[1] if len(node.args) > 1 else None
    keepdims = bool(node.args[2]) if len(node.args) > 2 else False
    if node.kwargs.get("dtype") not in (None, inputs[0].dtype.dtype) or not n:
        return Opaque()
    axes = tuple(k % n for k in dims) if dims else tuple(range(n))
    return Summed(axes, keepdims)


def contraction(left: str, right: str, out: str) -> Declare:
    """A product of matrices."""
    return lambda node, inputs, value: Contracted(tuple(left), tuple(right), tuple(out))


def along(acts: Callable[..., Sequence[int]], linear: Sequence[int] | None = (0,)) -> Declare:
    """Linear and acting along some axes; the operands have the axes of the result."""

    def declare(node: fx.Node, inputs: Sequence[Node], value: Any) -> Action:
        n = len(value.shape)
        places = range(len(inputs)) if linear is None else linear
        if any(len(inputs[k].shape) != n for k in places):
            return Opaque()
        return alongside(acts(node, n), places, n)

    return declare


def convolution(node: fx.Node, inputs: Sequence[Node], value: Any) -> Action:
    """The batch axis passes to the input, the features to the kernel."""
    bias, transposed, groups = node.args[2], bool(node.args[6]), node.args[8]
    if bias is not None or len(inputs) < 2:
        return Opaque()  # the bias is added by a node of its own, where it matters
    n = len(value.shape)
    if groups != 1:
        return Acting(tuple(range(1, n)), (0,), (((0, 0),),))
    kernel = (1, 1 if transposed else 0)
    return Acting(tuple(range(2, n)), (0, 1), (((0, 0),), (kernel,)), bilinear=True)


def indexed(node: fx.Node, inputs: Sequence[Node], value: Any) -> Action:
    """x[:, index]: entries along one axis; those of the index stand in its place."""
    given: Any = node.args[1]
    places = [k for k, x in enumerate(given) if x is not None]
    if len(places) != 1 or inputs[1].dtype.dtype in (torch.bool, torch.uint8):
        return Opaque()
    (place,), wide = places, len(inputs[1].shape)
    acts = tuple(range(place, place + wide))
    through = {
        k: (k if k < place else k - wide + 1) for k in range(len(value.shape)) if k not in acts
    }
    return Acting(acts, (0,), (tuple(through.items()),))


def picked(node: fx.Node, inputs: Sequence[Node], value: Any) -> Action:
    """select.int: one index of an axis, which disappears."""
    n = len(inputs[0].shape)
    axis = node.args[1] % n
    through = {k: (k if k < axis else k + 1) for k in range(n - 1)}
    return Acting((), (0,), (tuple(through.items()),))


def diagonal(node: fx.Node, inputs: Sequence[Node], value: Any) -> Action:
    """The main diagonal of a square."""
    pair = _square(node.args[1:], inputs[0].shape)
    return Diagonal(*pair) if pair else Opaque()


def ones_on_the_diagonal(node: fx.Node, inputs: Sequence[Node], value: Any) -> Action:
    """diagonal_scatter of ones into zeros, as torch.func makes its basis."""
    ones = node.args[1]
    filled = isinstance(ones, fx.Node) and operation_name(ones.target) == "fill.Scalar"
    pair = _square(node.args[2:], value.shape)
    return Identity(*pair) if pair and filled and inputs[0].zero and ones.args[1] == 1 else Opaque()


def _square(arguments: Sequence[Any], shape: Sequence[int]) -> tuple[int, int] | None:
    """The two axes of a main diagonal, from (offset, first, second)."""
    given = [*arguments, *(0, 0, 1)[len(arguments) :]]
    offset, first, second = given
    first, second = first % len(shape), second % len(shape)
    return (first, second) if offset == 0 and shape[first] == shape[second] else None


def identity(node: fx.Node, inputs: Sequence[Node], value: Any) -> Action:
    """eye."""
    return Identity(0, 1)


def solution(matrix: int, right: int) -> Declare:
    """Linear in the right-hand side; its columns pass, and a batch that the matrix lacks.

    Args:
        matrix, right: which operands these are.
    """

    def declare(node: fx.Node, inputs: Sequence[Node], value: Any) -> Action:
        rank, of_matrix = len(value.shape), inputs[matrix].shape
        if len(inputs[right].shape) != rank or rank < 2:
            return Opaque()
        lacks = rank - len(of_matrix)
        passing = [k for k in range(rank - 2) if k < lacks or of_matrix[k - lacks] == 1]
        passing.append(rank - 1 if node.kwargs.get("left", True) else rank - 2)
        return alongside([k for k in range(rank) if k not in passing], (right,), rank)

    return declare


def zero(node: fx.Node, inputs: Sequence[Node], value: Any) -> Action:
    """Nothing but zeros."""
    return Zeros()


def filled(position: int) -> Declare:
    """full and its like: zeros if the number is."""
    return lambda node, inputs, value: Zeros() if node.args[position] == 0 else Opaque()


def _dim(node: fx.Node, n: int) -> list[Any]:
    return [node.args[1] if len(node.args) > 1 else 0]


AXES: dict[str, Declare] = {
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
    "diagonal.default": diagonal,
    "diagonal_copy.default": diagonal,
    "diagonal_scatter.default": ones_on_the_diagonal,
    "eye.default": identity,
    "eye.m": identity,
    "linalg_lu_solve.default": solution(0, 2),
    "linalg_solve_triangular.default": solution(0, 1),
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
"""By the name of the operation; nothing is said of any other, for values of inexact dtype."""


def action(node: fx.Node, inputs: Sequence[Node], value: Any) -> Action:
    """How an operation acts on the axes of its operands."""
    name = operation_name(node.target)
    if name in AXES:
        found = AXES[name](node, inputs, value)
        inexact = value.dtype.is_floating_point or value.dtype.is_complex
        if inexact or isinstance(found, Rearranged):
            return found
    pointwise = torch.Tag.pointwise in getattr(node.target, "tags", ())
    return Pointwise() if pointwise else Opaque()


FREE = ("alias.default", "clone.default", "detach.default", "_to_copy.default")


def flops(name: str, kind: Action, inputs: Sequence[Node], shape: Sequence[int]) -> float:
    """Of one evaluation; those of sums and products of matrices follow from their kinds."""
    if name == "convolution.default":
        return 2.0 * prod(shape) * prod(inputs[1].shape) / inputs[1].shape[0]
    counts = isinstance(kind, Pointwise) and name not in FREE
    return float(prod(shape)) if counts or name.startswith(("cumsum", "_fft")) else 0.0
