"""Functions with a derivative rule of their own: it counts, at every order.

Never the derivative of the code inside: `jax.custom_jvp` and `jax.custom_vjp` say what is meant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn

from ..core.jet import Jet
from ..warn import report_inside
from . import private
from .general import Push, Value, by_jvp, entrywise, general, of_places, places_of_jets
from .interpreter import Operation, Rule, interpret_closed, rule_of
from .jets import algebra_of, is_inexact, values
from .matrices import slogdet
from .oneway import forward_only
from .rules import Linear

CALLS = ("jit", "pjit", "custom_jvp_call", "custom_vjp_call", "closed_call", "eval_jaxpr")


def is_entrywise(jaxpr: Jaxpr) -> bool:
    """Whether a function acts on every entry alone."""
    for equation in jaxpr.eqns:
        name, rule = equation.primitive.name, rule_of(equation)
        if rule is not None and rule.entrywise:
            continue
        if name == "broadcast_in_dim" and _as_numpy_does(equation):
            continue
        inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
        if name not in CALLS or inner is None or not is_entrywise(private.closed(inner).jaxpr):
            return False
    return True


def _as_numpy_does(equation: JaxprEqn) -> bool:
    """Whether the axes of what is broadcast become the last ones."""
    rank = len(equation.params["shape"])
    dims = equation.params["broadcast_dimensions"]
    return tuple(dims) == tuple(range(rank - len(dims), rank))


def _one_shape(operands: Sequence[Any], jaxpr: Jaxpr) -> bool:
    """Whether all results have one shape, and jets are broadcast to it."""
    results = [v.aval.shape for v in jaxpr.outvars]
    shapes = [x.primal.shape for x in operands if isinstance(x, Jet)]
    try:
        whole = [np.broadcast_shapes(shape, *results) for shape in shapes]
    except ValueError:
        return False
    return len({*results, *whole}) == 1


def _each_result(
    operation: Operation, operands: Sequence[Any], push: Push, of: Value, *, smooth: bool
) -> list[Any]:
    """The results of a function that acts on every entry alone."""
    places, plain = places_of_jets(operands), values(operands)
    results = of(of_places(operation, plain, places), [plain[k] for k in places])

    def result(k: int) -> Callable[..., Any]:
        return lambda *x: operation(*x)[k]

    return [
        entrywise(result(k), operands, push, of, smooth=smooth) if is_inexact(y) else y
        for k, y in enumerate(results)
    ]


@dataclass(frozen=True)
class CustomJvp(Rule):
    """A function with a derivative rule of its own.

    Elementwise ones (relu, softplus, logaddexp) have their derivatives from nested `jax.jvp`. Some
    of JAX's others have such rules for speed and are the same function inside; all the rest goes
    through the general rule, which nests `jax.jvp` too.
    """

    def __call__(self, operation: Operation, operands: Sequence[Any]) -> Any:
        inner: ClosedJaxpr = operation.params["call_jaxpr"]
        rule = private.derivative_rule(operation.params)
        if private.same_inside(rule):
            if private.name_of(inner.jaxpr) in ("_slogdet_lu", "_slogdet_qr"):
                return slogdet(operation, operands)
            return interpret_closed(inner, operands)
        if _one_shape(operands, inner.jaxpr):
            each = partial(_each_result, operation, operands, by_jvp, of_jvp)
            if private.special(rule) or (is_entrywise(inner.jaxpr) and private.of_jax(rule)):
                return each(smooth=True)
            if is_entrywise(inner.jaxpr) and _mixes_nothing(operation, operands):
                return each(smooth=False)
        name = f"the custom_jvp function {private.name_of(inner.jaxpr)}"
        return general(operation, operands, name, by_jvp, of_jvp)


@dataclass(frozen=True)
class CustomVjp(Rule):
    """A function with a reverse rule of its own: its forward derivative is the transpose of that.

    ct ↦ bwd(res, ct) is linear, and v ↦ J v its transpose. Nested, it is what nested reverse mode
    gives; elementwise functions need only ones as v. (Where a rule is not the derivative of what
    `fwd` returns, nested reverse mode uses both by turns; here the rule counts throughout.)
    """

    def __call__(self, operation: Operation, operands: Sequence[Any]) -> Any:
        inner = private.closed(next(operation.params[k] for k in _INSIDE if k in operation.params))
        if (
            _one_shape(operands, inner.jaxpr)
            and is_entrywise(inner.jaxpr)
            and _mixes_nothing(operation, operands, by_pullback)
        ):
            return _each_result(operation, operands, by_pullback, of_pullback, smooth=False)
        name = f"the custom_vjp function {private.name_of(inner.jaxpr)}"
        try:
            return general(operation, operands, name, by_pullback, of_pullback)
        except _NO_REVERSE_MODE as error:  # of a loop of any length, in JAX
            report_inside(name, error)
            try:
                found = interpret_closed(inner, operands)
            except NotImplementedError as of_code:
                raise NotImplementedError(
                    f"the second derivatives of {name} need those of the code that its forward "
                    "half runs (in JAX as well), and that has none; let the forward half call the "
                    "function itself, so that its rule counts there too: "
                    f"f.defvjp(lambda x: (f(x), ...), ...). The code: {of_code}"
                ) from error
            if not _loops(inner.jaxpr):
                return found
            return jax.tree.map(lambda x: forward_only(x, name) if is_inexact(x) else x, found)


def linear_call(operation: Operation, operands: Sequence[Any]) -> Any:
    """jax.custom_derivatives.linear_call: its rule is for transposes, forwards the code counts."""
    params = operation.params
    held = params["num_callee_consts"] + params["num_res"]
    if places_of_jets(operands[:held]):
        return interpret_closed(params["callee"], operands)
    return Linear(*range(held, len(operands)))(operation, operands)


_INSIDE = ("call_jaxpr", "fun_jaxpr")  # as versions of JAX call it

_NO_REVERSE_MODE = (ValueError, TypeError) if jax.__version_info__ < (0, 9) else (ValueError,)
"""What JAX raises; 0.8 stumbles on its way to the message, under vmap."""


def of_jvp(function: Callable[..., Any], points: Sequence[Any]) -> Any:
    """The value that a rule returns beside the derivative: with it JAX goes on."""
    return jax.jvp(function, tuple(points), tuple(jnp.ones_like(x) for x in points))[0]


def of_pullback(function: Callable[..., Any], points: Sequence[Any]) -> Any:
    """The value that the forward half of a reverse rule returns, likewise."""
    return jax.vjp(function, *points)[0]


def by_pullback(
    function: Callable[..., Any], points: Sequence[Any], tangents: Sequence[Any]
) -> Any:
    """Dφ(points)[tangents] as the transpose of the pullback, where JAX has no forward mode."""
    results, pullback = jax.vjp(function, *points)
    leaves, structure = jax.tree.flatten(results)

    def of_leaves(cotangents: Sequence[Any]) -> Any:
        return pullback(jax.tree.unflatten(structure, cotangents))

    return jax.tree.unflatten(structure, _transpose(of_leaves, leaves, tangents))


def _transpose(
    pullback: Callable[..., Any], like: Sequence[Any], tangents: Sequence[Any]
) -> list[Any]:
    """J v, from ct ↦ Jᵀ ct of cotangents like these."""
    described = [jax.ShapeDtypeStruct(y.shape, y.dtype) for y in like]
    if not _loops(jax.make_jaxpr(pullback)(described).jaxpr):
        (found,) = jax.linear_transpose(pullback, described)(tuple(tangents))
        return list(found)
    # A loop of any length has no transpose: Jᵀ, row by row.
    ends = np.cumsum([y.size for y in like])
    unit = jnp.split(jnp.eye(ends[-1]), ends[:-1], axis=1)
    basis = [u.reshape((-1, *y.shape)).astype(y.dtype) for u, y in zip(unit, like, strict=True)]
    rows = jax.vmap(pullback)(basis)
    terms = [
        (row * v).reshape((ends[-1], -1)).sum(1) for row, v in zip(rows, tangents, strict=True)
    ]
    flat = jnp.split(reduce(jnp.add, terms), ends[:-1])
    return [f.reshape(y.shape).astype(y.dtype) for f, y in zip(flat, like, strict=True)]


def _loops(jaxpr: Jaxpr) -> bool:
    """Whether a while loop is somewhere in a function."""
    return any(
        equation.primitive.name == "while"
        or any(
            _loops(private.closed(inner).jaxpr)
            for inner in jax.tree.leaves(equation.params)
            if isinstance(inner, (Jaxpr, ClosedJaxpr))
        )
        for equation in jaxpr.eqns
    )


def _mixes_nothing(operation: Operation, operands: Sequence[Any], push: Push = by_jvp) -> bool:
    """Whether the rule of a function, applied again and again, is elementwise too."""
    places = places_of_jets(operands)
    held = of_places(operation, operands, places)

    def of_jets(*points: Any) -> list[Any]:
        return [y for y in held(*points) if is_inexact(y)]

    def derivative(order: int, *points: Any) -> Any:
        if order:
            ones = tuple(jnp.ones_like(x) for x in points)
            return push(partial(derivative, order - 1), points, ones)
        return of_jets(*points)

    highest = partial(derivative, algebra_of(operands).order)
    return is_entrywise(jax.make_jaxpr(highest)(*(operands[k].primal for k in places)).jaxpr)
