"""The pass on jaxprs: which primitives let sums through, and how they are issued anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

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
from ..core.loops import Body, Loop, Result, Slot, Step
from ..core.sums import Kind, Label, Node, Part, aligned
from .arrays import sum_rows
from .halves import is_sum_of_rows
from .interpreter import Operation
from .table import ELEMENTWISE

# ------------------------------------------------------------------ arrays


class JaxArrays:
    """`core.sums.Arrays` for JAX."""

    def issue(self, node: Node, arrays: Sequence[Any], shape: Sequence[int]) -> Any:
        """The primitive; operands of an elementwise one are broadcast first."""
        if isinstance(node.kind, Elementwise):
            arrays = [
                x
                if jnp.shape(x) in ((), tuple(shape)) and not node.options.get("strict")
                else jnp.broadcast_to(x, shape)
                for x in arrays
            ]
            return node.issue(*arrays)
        if isinstance(node.kind, Along) and tuple(shape) != tuple(node.shape):
            return node.options["resized"](shape)(*arrays)
        return node.issue(*arrays)

    def contract(self, node: Node | None, left: Part, right: Part, out: Sequence[Label]) -> Any:
        """One dot_general; a product and a sum where axes that stay are shared."""
        shared = any(x in left.labels and x in right.labels for x in out)
        if node is None and (shared or not {*left.labels, *right.labels} - {*out}):
            labels = [*out, *(x for x in (*left.labels, *right.labels) if x not in out)]
            labels = list(dict.fromkeys(labels))
            inner = [x for x in labels if x not in out]
            order = [*inner, *out]
            u, v = (aligned(self, part, order) for part in (left, right))
            product = u * v
            for _ in inner:
                product = sum_rows(product)
            return jnp.broadcast_to(product, tuple(x.length for x in out))
        common = [x for x in left.labels if x in right.labels]
        batch = [x for x in common if x in out]
        inner = [x for x in common if x not in out]

        def places(part: Part, labels: Sequence[Label]) -> tuple[int, ...]:
            return tuple(part.labels.index(x) for x in labels)

        dimensions = (
            (places(left, inner), places(right, inner)),
            (places(left, batch), places(right, batch)),
        )
        options = (
            {"precision": lax.Precision.HIGHEST} if node is None else node.options["precision"]
        )
        made = lax.dot_general(left.array, right.array, dimensions, **options)
        have = [*batch]
        have += [x for x in left.labels if x not in common]
        have += [x for x in right.labels if x not in common]
        return jnp.transpose(made, [have.index(x) for x in out])

    def total(self, array: Any, axes: Sequence[int]) -> Any:
        """The sum; over a leading axis as XLA likes it."""
        if len(axes) == 1 and axes[0] == 0 and 1 < array.shape[0] <= 4096 and array.ndim > 1:
            return sum_rows(array)
        return jnp.sum(array, tuple(axes), dtype=array.dtype)

    def scale(self, array: Any, factor: float) -> Any:
        """factor · array."""
        return array * jnp.asarray(factor, array.dtype)

    def permute(self, array: Any, order: Sequence[int]) -> Any:
        """The axes in another order."""
        return jnp.transpose(array, order)

    def reshape(self, array: Any, shape: Sequence[int]) -> Any:
        """Another shape."""
        return array if array.shape == tuple(shape) else jnp.reshape(array, shape)

    def broadcast(self, array: Any, shape: Sequence[int]) -> Any:
        """Axes of length one repeated."""
        return jnp.broadcast_to(array, shape)

    def repeat(
        self,
        loop: Loop,
        step: Step,
        constants: Sequence[Any],
        carried: Sequence[Any],
        entries: Sequence[Any],
        weights: Sequence[Any],
    ) -> list[Any]:
        """lax.scan."""

        def body(carry: list[Any], each: list[Any]) -> tuple[list[Any], list[Any]]:
            made = step(self, [*constants, *carry, *each], weights)
            return made[: len(carry)], made[len(carry) :]

        last, stacked = lax.scan(
            body, list(carried), list(entries), length=loop.length, **loop.issue
        )
        return [*last, *stacked]

    def choose(
        self,
        loop: Loop,
        index: Any,
        branches: Sequence[Step],
        operands: Sequence[Any],
        weights: Sequence[Any],
    ) -> list[Any]:
        """lax.switch."""

        def branch(step: Step) -> Callable[..., list[Any]]:
            return lambda *operands: step(self, operands, weights)

        return list(lax.switch(index, [branch(step) for step in branches], *operands))

    def full(self, node: Node, shape: Sequence[int], value: float) -> Any:
        """One value everywhere, in the dtype of a node."""
        return jnp.full(shape, value, node.dtype)


# ------------------------------------------------------------------ kinds

Make = Callable[[Any, Operation, Sequence[Any]], tuple[Kind, dict[str, Any]]]
"""From the equation, its operation and operands to the kind of the node and its options."""


def elementwise(*linear: int) -> Make:
    """Linear in the operands at these positions together."""
    return lambda eqn, op, inputs: (Elementwise(linear=linear), {})


def summation(sign: int) -> Make:
    """u ± v."""
    options = {"sum": sign, "arithmetic": True}
    return lambda eqn, op, inputs: (Elementwise(linear=(0, 1)), dict(options))


def negation(eqn: Any, op: Operation, inputs: Sequence[Any]) -> tuple[Kind, dict[str, Any]]:
    """−u."""
    return Elementwise(linear=(0,)), {"arithmetic": True}


def conjugation(eqn: Any, op: Operation, inputs: Sequence[Any]) -> tuple[Kind, dict[str, Any]]:
    """Additive; a factor would come out conjugated."""
    return Elementwise(linear=(0,)), {"conjugates": True}


def product(eqn: Any, op: Operation, inputs: Sequence[Any]) -> tuple[Kind, dict[str, Any]]:
    """u · v; by a number it is linear."""
    nodes = [k for k, x in enumerate(inputs) if isinstance(x, Node)]
    if len(nodes) == 2:
        return Elementwise(factors=(0, 1)), {"arithmetic": True}
    return Elementwise(linear=nodes), {"arithmetic": True}


def quotient(eqn: Any, op: Operation, inputs: Sequence[Any]) -> tuple[Kind, dict[str, Any]]:
    """u / v is linear in u."""
    return Elementwise(linear=(0,) if isinstance(inputs[0], Node) else ()), {"arithmetic": True}


def selection(eqn: Any, op: Operation, inputs: Sequence[Any]) -> tuple[Kind, dict[str, Any]]:
    """select_n: linear in the cases; all operands need one shape."""
    cases = range(1, len(inputs))
    return Elementwise(linear=[k for k in cases if isinstance(inputs[k], Node)]), {"strict": True}


def conversion(eqn: Any, op: Operation, inputs: Sequence[Any]) -> tuple[Kind, dict[str, Any]]:
    """Linear where a sum before it is at least as exact as one behind it."""
    before, after = inputs[0].dtype, eqn.outvars[0].aval.dtype
    inexact = all(jnp.issubdtype(d, jnp.inexact) for d in (before, after))
    complex_before = jnp.issubdtype(before, jnp.complexfloating)
    complex_after = jnp.issubdtype(after, jnp.complexfloating)
    exact = inexact and as_exact(jnp.finfo(before), jnp.finfo(after))
    linear = exact and (complex_after or not complex_before)
    return Elementwise(linear=(0,) if linear else ()), {}


def transpose(eqn: Any, op: Operation, inputs: Sequence[Any]) -> tuple[Kind, dict[str, Any]]:
    """Axes in another order."""
    return Rearranged(permuted), {"order": eqn.params["permutation"]}


def broadcasting(eqn: Any, op: Operation, inputs: Sequence[Any]) -> tuple[Kind, dict[str, Any]]:
    """broadcast_in_dim."""
    return Rearranged(broadcast), {"dims": eqn.params["broadcast_dimensions"]}


def reshaping(eqn: Any, op: Operation, inputs: Sequence[Any]) -> tuple[Kind, dict[str, Any]]:
    """reshape, squeeze, expand_dims."""
    return Rearranged(reshaped), {}


def reduction(eqn: Any, op: Operation, inputs: Sequence[Any]) -> tuple[Kind, dict[str, Any]]:
    """reduce_sum."""
    return Sum(), {"axes": tuple(eqn.params["axes"])}


def contraction(eqn: Any, op: Operation, inputs: Sequence[Any]) -> tuple[Kind, dict[str, Any]]:
    """dot_general."""
    (inner_l, inner_r), (batch_l, batch_r) = eqn.params["dimension_numbers"]
    left: list[Any] = [f"l{k}" for k in range(len(inputs[0].shape))]
    right: list[Any] = [f"r{k}" for k in range(len(inputs[1].shape))]
    for k, (i, j) in enumerate(zip(inner_l, inner_r, strict=True)):
        left[i] = right[j] = f"i{k}"
    for k, (i, j) in enumerate(zip(batch_l, batch_r, strict=True)):
        left[i] = right[j] = f"b{k}"
    out = [f"b{k}" for k in range(len(batch_l))]
    out += [x for x in left if x[0] == "l"] + [x for x in right if x[0] == "r"]
    precision = {k: eqn.params[k] for k in ("precision", "preferred_element_type")}
    return Contract(), {"left": left, "right": right, "out": out, "precision": precision}


def along(
    acts: Callable[[Any, Sequence[Any]], Sequence[int]],
    linear: Sequence[int] = (0,),
    resize: Callable[[dict[str, Any], Sequence[int]], dict[str, Any]] | None = None,
) -> Make:
    """Linear and acting along some axes; all operands in `linear` have the axes of the result."""

    def make(eqn: Any, op: Operation, inputs: Sequence[Any]) -> tuple[Kind, dict[str, Any]]:
        shape = eqn.outvars[0].aval.shape
        acting = set(acts(eqn.params, inputs))
        positions = linear if linear else range(len(inputs))
        if any(
            isinstance(inputs[k], Node) and len(inputs[k].shape) != len(shape) for k in positions
        ):
            return Opaque(), {}
        through = {k: {a: a for a in range(len(shape)) if a not in acting} for k in positions}

        def resized(new: Sequence[int]) -> Callable[..., Any]:
            params = eqn.params if resize is None else resize(eqn.params, new)
            return lambda *arrays: op.primitive.bind(*arrays, **params)

        options = {"acts": tuple(acting), "through": through, "resized": resized}
        return Along(tuple(positions)), options

    return make


def _sliced(params: dict[str, Any], shape: Sequence[int]) -> dict[str, Any]:
    """The parameters of slice for operands of which some axes have length one."""
    strides = params["strides"] or (1,) * len(shape)
    start, limit = list(params["start_indices"]), list(params["limit_indices"])
    for k, n in enumerate(shape):
        if n == 1 and -(-(limit[k] - start[k]) // strides[k]) != 1:
            start[k], limit[k] = 0, 1
    return params | {"start_indices": tuple(start), "limit_indices": tuple(limit)}


def _changed(params: dict[str, Any], inputs: Sequence[Any]) -> list[int]:
    """The axes that slice cuts."""
    strides = params["strides"] or (1,) * len(inputs[0].shape)
    whole = zip(
        params["start_indices"], params["limit_indices"], strides, inputs[0].shape, strict=True
    )
    return [k for k, cut in enumerate(whole) if cut[:3] != (0, cut[3], 1)]


def _padded(params: dict[str, Any], inputs: Sequence[Any]) -> list[int]:
    """The axes that pad lengthens; with another value than zero all count."""
    value = inputs[1]
    zero = value.zero if isinstance(value, Node) else np.all(np.asarray(value) == 0)
    config = params["padding_config"]
    return [k for k, amounts in enumerate(config) if tuple(amounts) != (0, 0, 0) or not zero]


def _window(params: dict[str, Any], inputs: Sequence[Any]) -> list[int]:
    """The axes that dynamic_slice cuts."""
    sizes = zip(params["slice_sizes"], inputs[0].shape, strict=True)
    return [k for k, (size, n) in enumerate(sizes) if size != n]


def convolution(eqn: Any, op: Operation, inputs: Sequence[Any]) -> tuple[Kind, dict[str, Any]]:
    """conv_general_dilated: the batch axis passes to its input, the features to its kernel."""
    changed = any(x.dtype != eqn.outvars[0].aval.dtype for x in inputs)
    if eqn.params["batch_group_count"] != 1 or changed:
        return Opaque(), {}
    numbers = eqn.params["dimension_numbers"]
    through = {0: {numbers.out_spec[0]: numbers.lhs_spec[0]}, 1: {}}
    if eqn.params["feature_group_count"] == 1:
        through[1] = {numbers.out_spec[1]: numbers.rhs_spec[0]}
    passing = {*through[0], *through[1]}
    acts = tuple(k for k in range(len(eqn.outvars[0].aval.shape)) if k not in passing)

    def resized(new: Sequence[int]) -> Callable[..., Any]:
        return op

    return Bilinear((0, 1)), {"acts": acts, "through": through, "resized": resized}


def gathering(eqn: Any, op: Operation, inputs: Sequence[Any]) -> tuple[Kind, dict[str, Any]]:
    """gather: the axes of which whole slices are taken pass through."""
    numbers, sizes = eqn.params["dimension_numbers"], eqn.params["slice_sizes"]
    shape = inputs[0].shape
    gone = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    left = [axis for axis in range(len(shape)) if axis not in gone]
    through = {
        out: axis
        for out, axis in zip(numbers.offset_dims, left, strict=True)
        if sizes[axis] == shape[axis] and axis not in numbers.start_index_map
    }
    acts = tuple(k for k in range(len(eqn.outvars[0].aval.shape)) if k not in through)

    def resized(new: Sequence[int]) -> Callable[..., Any]:
        fewer = list(sizes)
        for out, axis in through.items():
            fewer[axis] = new[out]
        params = eqn.params | {"slice_sizes": tuple(fewer)}
        return lambda *arrays: op.primitive.bind(*arrays, **params)

    return Along((0,)), {"acts": acts, "through": {0: through}, "resized": resized}


LINEAR = {
    "add": summation(1),
    "add_any": summation(1),
    "sub": summation(-1),
    "neg": negation,
    "real": elementwise(0),
    "imag": elementwise(0),
    "conj": conjugation,
    "complex": elementwise(0, 1),
    "copy": elementwise(0),
    "copy_p": elementwise(0),
    "convert_element_type": conversion,
    "mul": product,
    "div": quotient,
    "select_n": selection,
    "transpose": transpose,
    "broadcast_in_dim": broadcasting,
    "reshape": reshaping,
    "squeeze": reshaping,
    "expand_dims": reshaping,
    "reduce_sum": reduction,
    "dot_general": contraction,
    "conv_general_dilated": convolution,
    "gather": gathering,
    "slice": along(_changed, resize=_sliced),
    "pad": along(_padded),
    "rev": along(lambda p, x: p["dimensions"]),
    "cumsum": along(lambda p, x: [p["axis"]]),
    "concatenate": along(lambda p, x: [p["dimension"]], linear=()),
    "fft": along(lambda p, x: range(len(x[0].shape) - len(p["fft_lengths"]), len(x[0].shape))),
    "dynamic_slice": along(
        _window,
        resize=lambda p, shape: p | {"slice_sizes": tuple(shape)},
    ),
}
"""How sums pass through a primitive; they do not pass any other."""

CALLS = ("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat", "remat2")
"""Their equations become part of the program."""


# ------------------------------------------------------------------ programs


class Program:
    """A jaxpr as nodes, equal ones taken together."""

    def __init__(
        self,
        closed: ClosedJaxpr,
        arguments: Sequence[Any] | None,
        same: Sequence[int] | None = None,
    ) -> None:
        self.nodes: list[Node] = []
        self._known: dict[Any, Any] = {}
        if arguments is None:  # the body of a loop
            slots = [self._slot(k, aval) for k, aval in enumerate(closed.in_avals)]
            inputs = [slots[k] for k in same or range(len(slots))]
        else:
            inputs = [self._leaf(x, f"input {k}") for k, x in enumerate(arguments)]
        self.outputs = self._inline(closed.jaxpr, closed.consts, inputs)

    def _add(self, node: Node) -> Node:
        node.number = len(self.nodes)
        self.nodes.append(node)
        return node

    def _leaf(self, array: Any, name: str) -> Any:
        if np.ndim(array) == 0 and not isinstance(array, jax.core.Tracer):
            return self._scalar(array)
        key = ("leaf", id(array))
        if key not in self._known:
            node = Node(name, (), jnp.shape(array), jnp.result_type(array), Leaf(), lambda: array)
            node.options["array"] = array
            self._known[key] = self._add(node)
        return self._known[key]

    def _slot(self, position: int, aval: Any) -> Node:
        """An input of a body."""
        node = Node(f"input {position}", (), aval.shape, aval.dtype, Slot(), lambda x: x)
        node.options["slot"] = position
        return self._add(node)

    def _scalar(self, value: Any) -> Node:
        """A number."""
        value = np.asarray(value, getattr(value, "dtype", None) or jnp.result_type(value))
        key = ("number", str(value.dtype), value.tobytes())
        if key not in self._known:
            node = Node("number", (), (), value.dtype, Leaf(), lambda: value)
            node.options["array"] = value
            node.zero = jnp.issubdtype(value.dtype, jnp.inexact) and not np.any(value)
            self._known[key] = self._add(node)
        return self._known[key]

    def _inline(self, jaxpr: Jaxpr, consts: Sequence[Any], operands: Sequence[Any]) -> list[Any]:
        environment = dict(zip(jaxpr.invars, operands, strict=True))
        for variable, const in zip(jaxpr.constvars, consts, strict=True):
            environment[variable] = const if isinstance(const, Node) else self._leaf(const, "const")

        def read(atom: Any) -> Any:
            return self._scalar(atom.val) if isinstance(atom, Literal) else environment[atom]

        for equation in jaxpr.eqns:
            inputs = [read(atom) for atom in equation.invars]
            if is_sum_of_rows(equation):
                results = [self._sum_of_rows(equation, inputs[0])]
            elif equation.primitive.name in CALLS:
                params = equation.params
                inner = params.get("jaxpr", params.get("call_jaxpr"))
                if isinstance(inner, ClosedJaxpr):
                    results = self._inline(inner.jaxpr, inner.consts, inputs)
                else:
                    results = self._inline(inner, (), inputs)
            else:
                results = self._equation(equation, inputs)
            environment.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _sum_of_rows(self, equation: Any, block: Node) -> Node:
        """Our own sum over a leading axis, as the sum that it is."""
        aval = equation.outvars[0].aval
        node = Node("reduce_sum", (block,), aval.shape, aval.dtype, Sum(), sum_rows)
        node.options["axes"] = (0,)
        node.zero = block.zero
        return self._add(node)

    def _equation(self, equation: Any, inputs: Sequence[Node]) -> list[Node]:
        key = _key(equation, inputs)
        if key is not None and key in self._known:
            return self._known[key]
        operation = Operation(equation)
        name = equation.primitive.name
        avals = [v.aval for v in equation.outvars]
        loop = _loop(equation, inputs)
        if loop is not None:
            whole = self._add(Node(name, tuple(inputs), (), None, Opaque(), operation))
            whole.options = {"loop": loop[0], "first": int(loop[0].length is None)}
            made: dict[int, Node] = {}
            for k in loop[1]:
                if k not in made:
                    a = avals[k]
                    made[k] = Node(name, (whole,), a.shape, a.dtype, Result(), operation)
                    made[k].options["position"] = k
                    self._add(made[k])
            results = [made[k] for k in loop[1]]
        elif operation.several or len(avals) != 1:
            whole = self._add(Node(name, tuple(inputs), (), None, Opaque(), operation))
            results = [
                self._add(Node(name, (whole,), a.shape, a.dtype, _Item(k), lambda x, k=k: x[k]))
                for k, a in enumerate(avals)
            ]
        else:
            kind: Kind = Opaque()
            options: dict[str, Any] = {}
            if name in LINEAR and jnp.issubdtype(avals[0].dtype, jnp.inexact):
                kind, options = LINEAR[name](equation, operation, inputs)
            elif name in ELEMENTWISE:  # they stop sums, but what was broadcast stays small
                kind, options = Elementwise(), {"strict": len(inputs) > 2}
            node = Node(name, tuple(inputs), avals[0].shape, avals[0].dtype, kind, operation)
            node.options = options
            if isinstance(kind, Elementwise) and name not in ("convert_element_type", "copy"):
                node.flops = float(prod(node.shape))
            if name == "conv_general_dilated":
                channels = inputs[1].shape[equation.params["dimension_numbers"].rhs_spec[0]]
                node.flops = 2.0 * prod(node.shape) * prod(inputs[1].shape) / channels
            elif name in ("cumsum", "fft"):
                node.flops = float(prod(node.shape))
            node.zero = is_zero(kind, inputs)
            results = [self._add(node)]
        if key is not None:
            self._known[key] = results
        return results


def _loop(equation: Any, inputs: Sequence[Node]) -> tuple[Loop, list[int]] | None:
    """The loop of a scan, or the branches of a cond; and per result the first one that is equal.

    Equal inputs are one input of the body: nested jvp carries the same tangent twice. Carries are
    equal if they start and go on equal.
    """
    params, name = equation.params, equation.primitive.name
    if equation.effects or name not in ("scan", "cond"):
        return None
    if name == "cond":
        same = _first(inputs[1:])
        made = [Program(closed, None, same) for closed in params["branches"]]
        results = _first(list(zip(*(program.outputs for program in made), strict=True)))
        return Loop([Body(x.nodes, x.outputs) for x in made], len(same), 0, None), results
    constants, carried = params["num_consts"], params["num_carry"]
    carries = _first(inputs[constants : constants + carried])
    while True:
        same = [
            *_first(inputs[:constants]),
            *(constants + k for k in carries),
            *(constants + carried + k for k in _first(inputs[constants + carried :])),
        ]
        program = Program(params["jaxpr"], None, same)
        found = _first(list(zip(carries, program.outputs[:carried], strict=True)))
        if found == carries:
            break
        carries = found
    stacked = [carried + k for k in _first(program.outputs[carried:])]
    issue = {k: params[k] for k in ("reverse", "unroll")}
    body = Body(program.nodes, program.outputs)
    return Loop([body], constants, carried, params["length"], issue), [*carries, *stacked]


def _first(items: Sequence[Any]) -> list[int]:
    """Per item the position of the first one equal to it."""
    return [next(j for j, other in enumerate(items) if other == item) for item in items]


class _Item(Opaque):
    """One result of an operation that has several."""

    def __init__(self, position: int) -> None:
        self.position = position


def _key(equation: Any, inputs: Sequence[Node]) -> Any:
    """What makes two equations equal; None where that cannot be told."""
    if equation.effects:
        return None
    try:
        params = tuple(sorted((k, v) for k, v in equation.params.items()))
        key = (equation.primitive, params, tuple(x.number for x in inputs))
        hash(key)
    except TypeError:
        return None
    return key


def has_arrays(tree: Any) -> bool:
    """Whether an array is somewhere in the arguments."""
    return any(isinstance(x, (jax.Array, np.ndarray)) for x in jax.tree.leaves(tree))


def arrays() -> JaxArrays:
    """What the engine issues operations with."""
    return JaxArrays()


def program(
    function: Callable[..., Any], args: Any, kwargs: Any
) -> tuple[list[Node], list[Any], Callable[[Sequence[Any]], Any]]:
    """The program of a call: its nodes, its outputs, and how to rebuild what it returns."""
    leaves, spec = jax.tree.flatten((args, kwargs))
    dynamic = [k for k, x in enumerate(leaves) if isinstance(x, (jax.Array, np.ndarray))]

    def flat(*arrays: Any) -> Any:
        filled = list(leaves)
        for k, x in zip(dynamic, arrays, strict=True):
            filled[k] = x
        args, kwargs = jax.tree.unflatten(spec, filled)
        return function(*args, **kwargs)

    given = [leaves[k] for k in dynamic]
    closed, shape = jax.make_jaxpr(flat, return_shape=True)(*given)
    structure = jax.tree.structure(shape)
    made = Program(closed, given)
    return made.nodes, made.outputs, lambda results: jax.tree.unflatten(structure, results)
