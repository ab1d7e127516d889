"""The table of rules: primitive → kind (→ tower). A new primitive is one line.

A primitive that is not here and that JAX differentiates in forward mode has the general rule.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from ..core import towers
from .control import (
    checkpointed,
    conditional,
    custom_jvp,
    custom_linear_solve,
    inlined,
    scan,
    shard_map,
    while_loop,
)
from .interpreter import RULES, Rule
from .rules import (
    bilinear,
    by_dtype,
    cholesky,
    clamped,
    contraction,
    converted,
    decomposed,
    divide,
    eigh,
    elementwise,
    elementwise_by_tangents,
    gathered,
    general,
    linear,
    lu,
    multiply,
    negated,
    of_value,
    piecewise_linear,
    plus,
    power,
    qr,
    triangular_solve,
    unchanged,
)


def magnitude(u: jax.Array, y: jax.Array, order: int, xp: Any) -> list[Any]:
    """|u|: the derivative at zero is 1, as JAX has it."""
    return [xp.where(u < 0, -1, jnp.ones_like(u)), *[None] * (order - 1)]


def absolute(z: jax.Array) -> jax.Array:
    """|z| = √(re² + im²) of complex z."""
    return jnp.sqrt(z.real**2 + z.imag**2)


def direction(z: jax.Array) -> jax.Array:
    """z/|z| of complex z, which JAX takes for constant."""
    return z * lax.rsqrt(z.real**2 + z.imag**2)


def angle(y: jax.Array, x: jax.Array) -> jax.Array:
    """atan2: atan(y/x), or −atan(x/y) where |y| is larger, up to a constant."""
    y, x = jnp.broadcast_arrays(y, x)
    steep = jnp.abs(y) > jnp.abs(x)
    turned = -lax.atan(jnp.where(steep, x, 0) / jnp.where(steep, y, 1))
    found = jnp.where(steep, turned, lax.atan(jnp.where(steep, 0, y) / jnp.where(steep, 1, x)))
    # Values first: an atan2 of jets would come back here.
    return found + (lax.atan2(*lax.stop_gradient((y, x))) - lax.stop_gradient(found))


def running_product(x: jax.Array, *, axis: int, reverse: bool) -> jax.Array:
    """Running products along an axis, without division."""
    return lax.associative_scan(lax.mul, x, reverse=reverse, axis=axis)


def running_logsumexp(x: jax.Array, *, axis: int, reverse: bool) -> jax.Array:
    """log of running sums of e^x."""
    return lax.associative_scan(jnp.logaddexp, x, reverse=reverse, axis=axis)


def whole_product(x: jax.Array, *, axes: tuple[int, ...], **_: object) -> jax.Array:
    """The product over some axes, by halves: no division, so zeros are welcome."""
    for axis in sorted(axes, reverse=True):
        if x.shape[axis] == 0:
            x = jnp.ones_like(x, shape=(*x.shape[:axis], 1, *x.shape[axis + 1 :]))
        while (length := x.shape[axis]) > 1:
            half = length // 2
            first = lax.slice_in_dim(x, 0, half, axis=axis)
            second = lax.slice_in_dim(x, half, 2 * half, axis=axis)
            rest = lax.slice_in_dim(x, 2 * half, length, axis=axis)
            x = jnp.concatenate([first * second, rest], axis)
        x = lax.squeeze(x, (axis,))
    return x


TABLE: dict[str, Rule] = {
    # ---- elementwise
    "acos": elementwise(towers.acos),
    "acosh": elementwise(towers.acosh),
    "asin": elementwise(towers.asin),
    "asinh": elementwise(towers.asinh),
    "atan": elementwise(towers.atan),
    "atanh": elementwise(towers.atanh),
    "cbrt": elementwise(towers.cbrt),
    "cos": elementwise(towers.cos),
    "cosh": elementwise(towers.cosh),
    "digamma": elementwise(towers.digamma),
    "erf": elementwise(towers.erf),
    "erf_inv": elementwise(towers.erfinv),
    "erfc": elementwise(towers.erfc),
    "exp": elementwise(towers.exp),
    "exp2": elementwise(towers.exp2),
    "expm1": elementwise(towers.expm1),
    "integer_pow": elementwise(towers.power, exponent="y"),
    "lgamma": elementwise(towers.lgamma),
    "log": elementwise(towers.log),
    "log1p": elementwise(towers.log1p),
    "logistic": elementwise(towers.sigmoid),
    "rsqrt": elementwise(towers.rsqrt),
    "sin": elementwise(towers.sin),
    "sinh": elementwise(towers.sinh),
    "sqrt": elementwise(towers.sqrt),
    "square": elementwise(towers.square),
    "tan": elementwise(towers.tan),
    "tanh": elementwise(towers.tanh),
    "abs": by_dtype(elementwise(magnitude), decomposed(absolute)),
    "atan2": decomposed(angle),
    "pow": power,
    "bessel_i0e": elementwise_by_tangents,
    "bessel_i1e": elementwise_by_tangents,
    "igamma": elementwise_by_tangents,
    "igammac": elementwise_by_tangents,
    "polygamma": elementwise_by_tangents,
    "regularized_incomplete_beta": elementwise_by_tangents,
    "zeta": elementwise_by_tangents,
    # ---- arithmetic
    "add": plus(1),
    "add_any": plus(1),
    "sub": plus(-1),
    "mul": multiply,
    "div": divide,
    "neg": negated,
    "dot_general": contraction,
    "conv_general_dilated": bilinear(),
    # ---- linear
    "all_gather": linear(0),
    "all_to_all": linear(0),
    "broadcast_in_dim": linear(0),
    "complex": linear(),
    "concatenate": linear(),
    "conj": linear(0),
    "convert_element_type": converted,
    "copy": unchanged,
    "copy_p": unchanged,
    "cumsum": linear(0),
    "device_put": linear(),
    "dynamic_slice": linear(0),
    "dynamic_update_slice": linear(0, 1),
    "expand_dims": linear(0),
    "fft": linear(0),
    "gather": gathered,
    "imag": linear(0),
    "mesh_cast": linear(),
    "name": linear(),
    "optimization_barrier": unchanged,
    "pad": linear(0, 1),
    "pbroadcast": linear(),
    "ppermute": linear(0),
    "psum": linear(),
    "psum2": linear(),
    "psum_invariant": linear(),
    "pvary": linear(),
    "real": linear(0),
    "reduce_precision": linear(),
    "reduce_sum": linear(0),
    "reduce_window_sum": linear(0),
    "reshape": linear(0),
    "reshard": linear(),
    "rev": linear(0),
    "scatter": linear(0, 2),
    "scatter-add": linear(0, 2),
    "scatter-mul": linear(0),
    "scatter-sub": linear(0, 2),
    "scatter_add": linear(0, 2),
    "scatter_sub": linear(0, 2),
    "select_n": linear(*range(1, 64)),
    "sharding_constraint": linear(),
    "slice": linear(0),
    "split": linear(0),
    "squeeze": linear(0),
    "stack": linear(),
    "tile": linear(0),
    "transpose": linear(0),
    "unstack": linear(0),
    # ---- linear near every point
    "clamp": clamped,
    "cummax": piecewise_linear,
    "cummin": piecewise_linear,
    "max": piecewise_linear,
    "min": piecewise_linear,
    "reduce_max": piecewise_linear,
    "reduce_min": piecewise_linear,
    "reduce_window_max": piecewise_linear,
    "reduce_window_min": piecewise_linear,
    "rem": piecewise_linear,
    "scatter-max": piecewise_linear,
    "scatter-min": piecewise_linear,
    "sort": piecewise_linear,
    "top_k": piecewise_linear,
    # ---- products
    "cumlogsumexp": decomposed(running_logsumexp),
    "cumprod": decomposed(running_product),
    "reduce": general,
    "reduce_prod": decomposed(whole_product),
    "reduce_window": general,
    # ---- matrices
    "cholesky": cholesky,
    "eigh": eigh,
    "lu": lu,
    "qr": qr,
    "svd": general,
    "householder_product": general,
    "triangular_solve": triangular_solve,
    # ---- what asks about the value, or is constant in between
    "argmax": of_value,
    "argmin": of_value,
    "bitcast_convert_type": of_value,
    "ceil": of_value,
    "debug_callback": of_value,
    "debug_print": of_value,
    "eq": of_value,
    "eq_to": of_value,
    "floor": of_value,
    "ge": of_value,
    "gt": of_value,
    "is_finite": of_value,
    "le": of_value,
    "le_to": of_value,
    "lt": of_value,
    "lt_to": of_value,
    "ne": of_value,
    "nextafter": of_value,
    "round": of_value,
    "sign": by_dtype(of_value, decomposed(direction)),
    "stop_gradient": of_value,
    # ---- functions inside
    "checkpoint": checkpointed,
    "closed_call": inlined,
    "cond": conditional,
    "core_call": inlined,
    "custom_jvp_call": custom_jvp,
    "custom_linear_solve": custom_linear_solve,
    "custom_lin": general,
    "custom_vjp_call": inlined,
    "custom_vmap_call": inlined,
    "custom_vjp_call_jaxpr": inlined,
    "jit": inlined,
    "pjit": inlined,
    "remat": checkpointed,
    "remat2": checkpointed,
    "scan": scan,
    "shard_map": shard_map,
    "while": while_loop,
}
"""By the name of the primitive."""

RULES.update(TABLE, general=general)
