"""What jetfold takes from JAX beyond its documented interface: all of it, and only here.

Each entry says why it is needed and what fails where a version of JAX has it no more.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cache
from importlib import import_module
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Primitive


def bind(primitive: Primitive, params: dict[str, Any], operands: Sequence[Any]) -> Any:
    """Execute an equation.

    Private: `Primitive.get_bind_params`, which makes of the parameters of an equation those of
    `bind`: functions for jaxprs. Without it no function with custom derivatives can be executed.
    """
    params = primitive.get_bind_params(params)
    functions: Sequence[Any] = ()
    if isinstance(params, tuple):  # versions of JAX that hand functions over separately
        functions, params = params
    return primitive.bind(*functions, *operands, **params)


def context(equation: JaxprEqn) -> AbstractContextManager[Any]:
    """What was set around an operation when it was traced: named scopes, default precisions.

    Private: `JaxprEqn.ctx.manager`. Without it these settings are lost, values are not.
    """
    found = getattr(getattr(equation, "ctx", None), "manager", None)
    return contextlib.nullcontext() if found is None else found


def operation_name(equation: JaxprEqn) -> str:
    """What an equation does, as the table calls it.

    Private: since JAX 0.12 some operations are objects (`HiPrim`), and one primitive calls them
    all: those of JAX go by the name of their class. Without it they would have no rules of their
    own, and so go through the general rule.
    """
    name = equation.primitive.name
    kind = type(equation.params.get("_prim"))
    of_jax = name == "call_hi_primitive" and kind.__module__.startswith("jax.")
    return kind.__name__ if of_jax else name


def array(x: Any) -> Any:
    """A result of a function, which JAX 0.8 gives in a class of its own if it is a constant.

    Private: `TypedNdArray`, which is no jax.Array there. Without it results that are constant are
    refused.
    """
    return jnp.asarray(x) if type(x).__name__ == "TypedNdArray" else x


def closed(jaxpr: Jaxpr | ClosedJaxpr) -> ClosedJaxpr:
    """A jaxpr with its constants, if it has any.

    Private: which of the two a parameter of an equation is.
    """
    return jaxpr if isinstance(jaxpr, ClosedJaxpr) else ClosedJaxpr(jaxpr, ())


def name_of(jaxpr: Jaxpr) -> str:
    """The name of the function that a jaxpr was traced from, for messages alone.

    Private: `Jaxpr.debug_info.func_src_info`. Without it messages name no function.
    """
    info = getattr(getattr(jaxpr, "debug_info", None), "func_src_info", None)
    return str(info or "").partition(" at ")[0]


def lengths_of_scan(params: dict[str, Any]) -> tuple[int, int]:
    """How many operands of a scan are constants, and how many are its carry; the rest is scanned.

    Private: JAX promises no parameters of an equation, and renamed these. Without them no scan can
    be read, and so no `fori_loop` of known length and no `lax.map`: KeyError.
    """
    if "ft_in" not in params:  # before JAX 0.11
        return params["num_consts"], params["num_carry"]
    constants, carry, _ = params["ft_in"].unpack()  # three trees
    return len(constants), len(carry)


def discharged(jaxpr: Jaxpr) -> Jaxpr:
    """The same function without mutable arrays of its own; its constants come first of all.

    Private: `jax._src.state.discharge.discharge_state`, by which JAX itself compiles them. Without
    it `jax.new_ref` inside of a function is refused.
    """
    everything = [*jaxpr.constvars, *jaxpr.invars]
    discharge = import_module("jax._src.state.discharge").discharge_state
    whole = jaxpr.replace(constvars=[], invars=everything)
    try:
        return discharge(ClosedJaxpr(whole, ())).jaxpr
    except (TypeError, AttributeError):  # versions of JAX that take the two apart
        return discharge(whole, ())[0]


# ------------------------------------------------------------------ devices


def varying(x: Any) -> frozenset[Any]:
    """The mesh axes along which an array differs from device to device, inside a shard_map.

    Private: the type of an array in a shard_map. Without it loops with jets fail in there.
    """
    described = jax.typeof(x)
    if hasattr(described, "manual_axis_type"):
        return described.manual_axis_type.varying
    return getattr(described, "vma", frozenset())  # before JAX 0.10


def is_alone(context: Any) -> bool:
    """Whether a program is compiled for one device.

    Args:
        context: that of a rule which lowers a primitive.

    Private: `ModuleContext.axis_context` and its `num_devices`. Without them it counts as one for
    several, and is compiled as a whole.
    """
    module = getattr(context, "module_context", None)
    return getattr(getattr(module, "axis_context", None), "num_devices", None) == 1


def is_here(context: Any) -> bool:
    """Whether a program is compiled for one device of this process, not to be exported.

    Private: `ModuleContext.lowering_parameters.for_export`. Without it no program counts as one
    that stays here, and has no loops in C.
    """
    module = getattr(context, "module_context", None)
    exported = getattr(getattr(module, "lowering_parameters", None), "for_export", True)
    return is_alone(context) and not exported


def made_varying(x: Any, axes: Sequence[Any]) -> Any:
    """An array taken to differ along further mesh axes."""
    if hasattr(lax, "pcast"):
        return lax.pcast(x, tuple(axes), to="varying")
    return lax.pvary(x, tuple(axes))  # before JAX 0.9


def made_alike(arrays: Sequence[Any]) -> Sequence[Any]:
    """Operands of one operation, which inside a shard_map must differ along the same axes."""
    found = [frozenset() if isinstance(x, list) else varying(x) for x in arrays]
    whole: frozenset[Any] = frozenset().union(*found)
    if all(axes == whole for axes in found):
        return arrays
    return [
        made_varying(x, tuple(whole - axes)) if whole - axes else x
        for x, axes in zip(arrays, found, strict=True)
    ]


# ------------------------------------------------------------------ who is tracing


def mapped_axes(x: Any) -> tuple[list[int], Any]:
    """The lengths of the axes over which `jax.vmap`s map an array, and what they map.

    Private: `BatchTracer`, its `batch_dim` and `val`. Without it no array is known to be mapped,
    and the whole of a batch is evaluated at once.
    """
    lengths = []
    while type(x).__name__ == "BatchTracer":
        axis, x = x.batch_dim, x.val
        if axis is not None:
            lengths.append(x.shape[axis])
    return lengths, x


# ------------------------------------------------------------------ rules of JAX itself

_SAME_INSIDE = (
    ("jax._src.numpy.linalg", ("_det", "_slogdet_lu", "_slogdet_qr", "_slogdet_small")),
    ("jax._src.nn.functions", ("_softmax",)),
)
"""Functions of JAX whose rule is the derivative of what they compute, in another form for speed."""

_SPECIAL = (
    ("jax._src.scipy.special", ()),
    ("jax._src.third_party.scipy.special", ()),
    ("jax._src.numpy.ufuncs", ("_frexp",)),
)
"""These, all of the first modules, act on every entry alone, though loops or bits are inside."""

_OTHERS = (
    ("jax._src.nn.functions", ()),
    ("jax._src.numpy.ufuncs", ()),
    ("jax._src.lax.other", ()),
)
"""Those in these modules do if their equations say so: it need not be asked of their rules."""


def same_inside(rule: Callable[..., Any] | None) -> bool:
    """Whether a derivative rule is that of one of JAX's own functions, of the first list.

    Private: those functions, and `derivative_rule`. Without them they go through the general rule,
    exactly, with a warning and more slowly.
    """
    return rule in _rules_of(_SAME_INSIDE)


def special(rule: Callable[..., Any] | None) -> bool:
    """Whether it is that of one of JAX's special functions; without these names, as above."""
    return rule in _rules_of(_SPECIAL)


def of_jax(rule: Callable[..., Any] | None) -> bool:
    """Whether it is that of another one; without these names, tracing takes longer."""
    return rule in _rules_of(_OTHERS)


@cache
def _rules_of(modules: Sequence[tuple[str, Sequence[str]]]) -> frozenset[Any]:
    """The rules of the functions in some modules: of those that are named, or of all."""
    found = []
    for module, names in modules:
        with contextlib.suppress(ImportError):
            inside = vars(import_module(module))
            for function in map(inside.get, names or inside):
                if isinstance(function, jax.custom_jvp) and function.jvp is not None:
                    found.append(function.jvp)
    return frozenset(found)


def derivative_rule(params: dict[str, Any]) -> Callable[..., Any] | None:
    """The function that was given to `defjvp`, by identity; None where it cannot be found.

    Args:
        params: those of a custom_jvp_call.

    Private: JAX keeps it in the closures of `jvp_jaxpr_fun`, a chain of functions of its own.
    """
    return _innermost(params.get("jvp_jaxpr_fun"))


def _innermost(x: Any) -> Callable[..., Any] | None:
    """The first function in a chain that is none of those that JAX puts around a rule."""
    x = x.f if type(x).__name__ == "WrappedFun" else x
    around = isinstance(x, types.FunctionType) and x.__module__ in _AROUND
    if not around or "defjvps" in x.__qualname__:  # a rule, made of one rule per operand
        return x
    inside = [cell.cell_contents for cell in x.__closure__ or ()]
    functions = (y for y in inside if type(y).__name__ in ("WrappedFun", "function"))
    return next((found for found in map(_innermost, functions) if found is not None), None)


_AROUND = (
    "jax._src.custom_derivatives",
    "jax._src.interpreters.partial_eval",
    "jax._src.linear_util",
)
"""Modules whose functions stand around a rule."""
