"""The pass on jaxprs: how they are read, and how operations are issued anew."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal  # what jax.make_jaxpr returns

from ..core.axes import (
    Acting,
    Action,
    Identity,
    Opaque,
    Pointwise,
    Rearranged,
    Summed,
    acting,
    alongside,
    as_exact,
)
from ..jax import arrays as vocabulary
from ..jax import private
from ..jax import table as table  # registers the rules
from ..jax.flat import by_matrix_p
from ..jax.held import held_p, ruled_p
from ..jax.interpreter import Operation, rule_of
from ..jax.pieces import pieces_p
from .arrays import Library, aligned
from .builder import Builder, Traced
from .labels import Label, Part, lengths
from .loops import Step
from .program import Issue, Loop, Node, Program, Result, Slot

# ------------------------------------------------------------------ primitives


def action(operation: Operation, operands: Sequence[Any]) -> Action:
    """How a primitive with one result acts on the axes of its operands."""
    (result,), rule = operation.results, rule_of(operation.equation)
    if operation.name == "stack" and jnp.issubdtype(result.dtype, jnp.inexact):
        return stacked(operation, len(operands), len(result.shape))
    if rule is None:
        return Opaque()
    if rule.axes is not None:
        found: Action = rule.axes(operation.params, operands, result)
        if jnp.issubdtype(result.dtype, jnp.inexact) or isinstance(found, Rearranged):
            return found
    return Pointwise() if rule.entrywise else Opaque()


def stacked(operation: Operation, count: int, rank: int) -> Action:
    """stack: linear in all operands together, which lack one axis."""
    axis = operation.params["axis"] % rank
    places = {k: k - (k > axis) for k in range(rank) if k != axis}
    return acting([axis], dict.fromkeys(range(count), places), rank)


CALLS = ("jit", "pjit", "closed_call", "eval_jaxpr", "core_call", "checkpoint", "remat", "remat2")
"""Their equations become part of the program."""

OWN_CALLS = (by_matrix_p, held_p, pieces_p, ruled_p)

FREE = ("convert_element_type", "copy")


def flops(operation: Operation, kind: Action, operands: Sequence[Any]) -> float:
    """Of one evaluation; those of sums and products of matrices follow from their kinds."""
    size, name = prod(operation.results[0].shape), operation.name
    if name == "conv_general_dilated":
        kernel = operands[1].shape
        return 2.0 * size * prod(kernel) / kernel[operation.params["dimension_numbers"].rhs_spec[0]]
    counts = isinstance(kind, Pointwise) and name not in FREE
    return float(size) if counts or name in ("cumsum", "fft") else 0.0


# ------------------------------------------------------------------ issued anew


@dataclass(frozen=True)
class Issued:
    """An operation on operands of which some axes may have length one; see `program.Issue`."""

    operation: Operation
    kind: Action

    def __call__(self, arrays: Sequence[Any], shape: Sequence[int]) -> Any:
        """Operands of a pointwise one are broadcast first: primitives take numbers or one shape."""
        operation, kind, arrays = self.operation, self.kind, private.made_alike(arrays)
        if isinstance(kind, Pointwise):
            as_they_are = [tuple(shape)]
            if len(arrays) < 3 and operation.name != "select_n":
                as_they_are.append(())
            arrays = [
                x if jnp.shape(x) in as_they_are else jnp.broadcast_to(x, shape) for x in arrays
            ]
        elif isinstance(kind, Acting) and operation.name in RESIZED:
            params = RESIZED[operation.name](operation.params, kind, shape)
            return operation.primitive.bind(*arrays, **params)
        return operation(*arrays)


Params = Mapping[str, Any]


def _sliced(params: Params, kind: Acting, shape: Sequence[int]) -> dict[str, Any]:
    """What slice cuts of an axis of length one."""
    strides = params["strides"] or (1,) * len(shape)
    start, limit = list(params["start_indices"]), list(params["limit_indices"])
    for k, n in enumerate(shape):
        if n == 1 and -(-(limit[k] - start[k]) // strides[k]) != 1:
            start[k], limit[k] = 0, 1
    return {**params, "start_indices": tuple(start), "limit_indices": tuple(limit)}


def _gathered(params: Params, kind: Acting, shape: Sequence[int]) -> dict[str, Any]:
    sizes = list(params["slice_sizes"])
    for out, axis in kind.through[0]:
        sizes[axis] = shape[out]
    return {**params, "slice_sizes": tuple(sizes)}


def _windowed(params: Params, kind: Acting, shape: Sequence[int]) -> dict[str, Any]:
    return {**params, "slice_sizes": tuple(shape)}


RESIZED = {"slice": _sliced, "gather": _gathered, "dynamic_slice": _windowed}
"""Primitives whose parameters say the shape of the result: those for another one."""


class JaxArrays(Library):
    """`arrays.Arrays` and `loops.LoopArrays` for JAX."""

    def __init__(self) -> None:
        super().__init__(vocabulary)

    def times(self, array: Any, factor: float) -> Any:
        """factor · array."""
        return array * jnp.asarray(factor, array.dtype)

    def multiplied(
        self, left: Part, right: Part, out: Sequence[Label], inner: Sequence[Label]
    ) -> Any:
        """The inner axes in front, where XLA likes to add."""
        u, v = (aligned(self, part, [*inner, *out]) for part in (left, right))
        dtype = jnp.result_type(u, v)
        narrow = inner and jnp.finfo(dtype).bits < 32  # JAX adds such numbers in wider ones
        product = u.astype(jnp.float32) * v.astype(jnp.float32) if narrow else u * v
        for _ in inner:
            product = vocabulary.sum_rows(product)
        product = product.astype(dtype) if narrow else product
        return jnp.broadcast_to(product, lengths(out))

    def matrices(
        self,
        node: Node | None,
        left: Part,
        right: Part,
        batch: Sequence[Label],
        inner: Sequence[Label],
    ) -> Any:
        """One dot_general, in the program's precision where it is the program's."""

        def places(labels: Sequence[Label]) -> Any:
            return tuple([part.labels.index(x) for x in labels] for part in (left, right))

        options: dict[str, Any] = {"precision": lax.Precision.HIGHEST}
        if node is not None:
            assert isinstance(node.issue, Issued)
            params = node.issue.operation.params
            options = {k: params[k] for k in ("precision", "preferred_element_type")}
        numbers = (places(inner), places(batch))
        return lax.dot_general(left.array, right.array, numbers, **options)

    def mapped(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """jax.vmap."""
        return jax.vmap(function)

    def stacked(self, arrays: Sequence[Any]) -> Any:
        """jnp.stack."""
        return jnp.stack(arrays)

    def counted(self, start: Any, step: int, length: int) -> Any:
        """jnp.arange."""
        return start + step * jnp.arange(length, dtype=jnp.result_type(start))

    def total(self, array: Any) -> Any:
        """jnp.sum."""
        return jnp.sum(array, 0)

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

        options = {"length": loop.length, "reverse": loop.reverse, "unroll": loop.unroll}
        last, stacked = lax.scan(body, list(carried), list(entries), **options)
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


# ------------------------------------------------------------------ programs


class JaxprBuilder(Builder):
    """A jaxpr as nodes.

    Args:
        closed: the jaxpr.
        arguments: its inputs; None for the body of a loop.
        same: of the body of a loop, per input the first one that is equal.
    """

    def __init__(
        self,
        closed: ClosedJaxpr,
        arguments: Sequence[Any] | None,
        same: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.indices: dict[int, int] = {}  # of the nodes that number an axis, which one
        if arguments is None:
            slots = [self._slot(k, aval) for k, aval in enumerate(closed.in_avals)]
            inputs = [slots[k] for k in same or range(len(slots))]
        else:
            inputs = [self._leaf(x, f"input {k}") for k, x in enumerate(arguments)]
        self.outputs = self._inline(closed.jaxpr, closed.consts, inputs)

    def _leaf(self, array: Any, name: str) -> Node:
        if np.ndim(array) == 0 and not isinstance(array, jax.core.Tracer):
            return self._number(array)
        shape, dtype = jnp.shape(array), jnp.result_type(array)
        return self.constant(array, name, shape, dtype, ("leaf", id(array)))

    def _number(self, value: Any) -> Node:
        value = np.asarray(value, getattr(value, "dtype", None) or jnp.result_type(value))
        zero = bool(jnp.issubdtype(value.dtype, jnp.inexact) and not np.any(value))
        key = ("number", str(value.dtype), value.tobytes())
        return self.constant(value, "number", (), value.dtype, key, zero)

    def _slot(self, position: int, aval: Any) -> Node:
        """An input of a body."""
        given = lambda arrays, shape: arrays[0]  # noqa: E731
        return self.add(f"input {position}", (), aval.shape, aval.dtype, Slot(position), given)

    def _inline(self, jaxpr: Jaxpr, consts: Sequence[Any], operands: Sequence[Node]) -> list[Node]:
        environment = dict(zip(jaxpr.invars, operands, strict=True))
        for variable, const in zip(jaxpr.constvars, consts, strict=True):
            environment[variable] = self._leaf(const, "const")

        def read(atom: Any) -> Node:
            return self._number(atom.val) if isinstance(atom, Literal) else environment[atom]

        for equation in jaxpr.eqns:
            inputs = [read(atom) for atom in equation.invars]
            if equation.primitive.name in CALLS or equation.primitive in OWN_CALLS:
                params = equation.params
                inner = params.get("jaxpr", params.get("call_jaxpr"))
                if isinstance(inner, ClosedJaxpr):
                    read_inside = inputs[: len(inner.in_avals)]  # not what `held` waits for
                    results = self._inline(inner.jaxpr, inner.consts, read_inside)
                else:
                    results = self._inline(inner, (), inputs)
            else:
                results = self._equation(equation, inputs)
            environment.update(zip(equation.outvars, results, strict=True))
        return [read(atom) for atom in jaxpr.outvars]

    def _equation(self, equation: Any, inputs: Sequence[Node]) -> list[Node]:
        key = _key(equation, inputs)
        if key is not None and key in self.known:
            return self.known[key]
        operation = Operation(equation)
        loop = _loop(equation, inputs)
        if operation.name == "split":
            results = self._split(operation, inputs[0])
        elif (narrow := _narrow(operation, inputs)) is not None:
            results = [self._sum(operation, narrow, inputs[0])]
        elif operation.name == "cond" and (branch := _anywhere(equation, inputs)) is not None:
            results = self._inline(branch.jaxpr, branch.consts, inputs[1:])
        elif loop is not None:
            results = self._loop(operation, inputs, *loop)
        elif operation.several or len(operation.results) != 1:
            whole = self.add(
                operation.name, inputs, (), None, Opaque(), Issued(operation, Opaque())
            )
            results = [
                self.add(operation.name, (whole,), x.shape, x.dtype, Opaque(), _item(k))
                for k, x in enumerate(operation.results)
            ]
        else:
            (result,) = operation.results
            kind = self._of_indices(operation, inputs) or action(operation, inputs)
            results = [
                self.add(
                    operation.name,
                    inputs,
                    result.shape,
                    result.dtype,
                    kind,
                    Issued(operation, kind),
                    flops(operation, kind, inputs),
                    operation=None if key is None else key[:2],
                )
            ]
        if key is not None:
            self.known[key] = results
        return results

    def _of_indices(self, operation: Operation, inputs: Sequence[Node]) -> Action | None:
        """Identity matrices are made of indices that are compared, and masks are converted."""
        match operation.name, [self.indices.get(x.number) for x in inputs]:
            case "iota", _:
                self.indices[len(self.nodes)] = operation.params["dimension"]
            case "convert_element_type", [int(axis)]:
                self.indices[len(self.nodes)] = axis
            case "add", [int(axis), None] if _is_number(inputs[1], 0):
                self.indices[len(self.nodes)] = axis
            case "eq", [int(first), int(second)] if first != second:
                return Identity(first, second)
            case "convert_element_type", _ if isinstance(inputs[0].kind, Identity):
                return inputs[0].kind
        return None

    def _split(self, operation: Operation, x: Node) -> list[Node]:
        """Slices; one that takes all is the array."""
        axis, sizes = operation.params["axis"], operation.params["sizes"]
        if len(sizes) == 1:
            return [x]
        kind = alongside([axis], (0,), len(x.shape))
        return [
            self.add("slice", (x,), y.shape, y.dtype, kind, _cut(axis, sum(sizes[:k]), size))
            for k, (y, size) in enumerate(zip(operation.results, sizes, strict=True))
        ]

    def _sum(self, operation: Operation, x: Node, total: Node) -> Node:
        """A sum of narrow numbers, taken as JAX takes it: in wide ones, and rounded once."""
        (result,) = operation.results
        assert isinstance(total.kind, Summed)
        axes = total.kind.axes
        add: Issue = lambda arrays, shape: jnp.sum(arrays[0], axes)  # noqa: E731
        return self.add("reduce_sum", (x,), result.shape, result.dtype, total.kind, add)

    def _loop(
        self, operation: Operation, inputs: Sequence[Node], loop: Loop, first: Sequence[int]
    ) -> list[Node]:
        """A loop and its results, of which equal ones are one."""
        whole = self.add(operation.name, inputs, (), None, loop, Issued(operation, Opaque()))
        made: dict[int, Node] = {}
        for k in dict.fromkeys(first):
            x = operation.results[k]
            made[k] = self.add(operation.name, (whole,), x.shape, x.dtype, Result(k), _item(k))
        return [made[k] for k in first]


def _item(position: int) -> Callable[[Sequence[Any], Sequence[int]], Any]:
    """One result of an operation that has several."""
    return lambda arrays, shape: arrays[0][position]


def _narrow(operation: Operation, inputs: Sequence[Node]) -> Node | None:
    """What is summed, if an operation rounds a sum of widened numbers to what they were."""
    if operation.name != "convert_element_type" or not isinstance(inputs[0].kind, Summed):
        return None
    (wide,) = inputs[0].inputs
    if wide.name != "convert_element_type" or wide.inputs[0].dtype != operation.results[0].dtype:
        return None
    x = wide.inputs[0]
    narrower = jnp.issubdtype(x.dtype, jnp.floating) and jnp.issubdtype(wide.dtype, jnp.floating)
    return x if narrower and as_exact(jnp.finfo(wide.dtype), jnp.finfo(x.dtype)) else None


def _cut(axis: int, start: int, size: int) -> Issue:
    """A slice along an axis."""
    return lambda arrays, shape: lax.slice_in_dim(arrays[0], start, start + size, axis=axis)


def _is_number(x: Node, value: int) -> bool:
    return x.name == "number" and bool(x.issue((), ()) == value)


def _anywhere(equation: Any, inputs: Sequence[Node]) -> ClosedJaxpr | None:
    """Of branches for several platforms, which all compute the same, the one of plain operations.

    `jnp.diagonal` multiplies by an identity matrix in Pallas's kernels, and gathers elsewhere.
    """
    kernels = inputs[0].name == "platform_index"
    kernels = kernels and equation.params.get("branches_platforms") == (("mosaic",), None)
    return equation.params["branches"][0] if kernels else None


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
        made = [JaxprBuilder(closed, None, same) for closed in params["branches"]]
        results = _first(list(zip(*(branch.outputs for branch in made), strict=True)))
        return Loop(tuple(branch.program() for branch in made), len(same), 0, None), results
    constants, carried = private.lengths_of_scan(params)
    carries = _first(inputs[constants : constants + carried])
    while True:
        same = [
            *_first(inputs[:constants]),
            *(constants + k for k in carries),
            *(constants + carried + k for k in _first(inputs[constants + carried :])),
        ]
        body = JaxprBuilder(params["jaxpr"], None, same)
        found = _first(list(zip(carries, body.outputs[:carried], strict=True)))
        if found == carries:
            break
        carries = found
    stacked = [carried + k for k in _first(body.outputs[carried:])]
    how = {k: params[k] for k in ("length", "reverse", "unroll")}
    return Loop((body.program(),), constants, carried, **how), [*carries, *stacked]


def _first(items: Sequence[Any]) -> list[int]:
    """Per item the position of the first one equal to it."""
    return [next(j for j, other in enumerate(items) if other == item) for item in items]


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


# ------------------------------------------------------------------ what the pass asks of a half


def has_arrays(tree: Any) -> bool:
    """Whether an array is somewhere in the arguments."""
    return any(isinstance(x, (jax.Array, np.ndarray)) for x in jax.tree.leaves(tree))


def arrays() -> JaxArrays:
    """What the engine issues operations with."""
    return JaxArrays()


def is_symbolic(args: Any, kwargs: Any) -> bool:
    """Whether some size is a name, as in jax.export: then nothing can be counted."""
    leaves = jax.tree.leaves((args, kwargs))
    return any(not isinstance(n, int) for x in leaves if has_arrays(x) for n in x.shape)


def traced(function: Callable[..., Any], args: Any, kwargs: Any) -> Traced:
    """A call as a program."""
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

    def again(arrays: Sequence[Any]) -> Program:
        return JaxprBuilder(closed, arrays).program()

    return Traced(again(given), given, lambda out: jax.tree.unflatten(structure, out), again)
