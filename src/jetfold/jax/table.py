"""The table of rules: primitive → kind (→ tower). A new primitive is one line.

A primitive that is not here and that JAX differentiates in forward mode has the general rule.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive

from ..core import arithmetic, towers
from . import axes, reducers
from .control import Inlined, checkpointed, conditional, scan, shard_map, while_loop
from .custom import CustomJvp, CustomVjp, linear_call
from .flat import by_matrix_p
from .halves import sum_of_rows_p
from .held import held_p, repeated_p, ruled_p
from .interpreter import RULES, Rule
from .matrices import (
    cholesky,
    custom_linear_solve,
    eig,
    eigh,
    householder_product,
    lu,
    qr,
    svd,
    triangular_solve,
    tridiagonal_solve,
)
from .oneway import forward_only_p
from .pieces import pieces_p
from .registered import on_jets as on_registered
from .registered import registered_elementwise_p, registered_p
from .rules import (
    Arithmetic,
    Bilinear,
    ByDtype,
    ByTangents,
    Clamp,
    Concatenation,
    Converted,
    Decomposed,
    DotGeneral,
    Elementwise,
    Gather,
    General,
    Linear,
    Negative,
    OfValue,
    Own,
    PiecewiseLinear,
    Product,
    Scatter,
    ScatterProduct,
    Unchanged,
    minus,
    plus,
    power,
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


def one_minus_square(u: jax.Array, y: jax.Array, order: int, xp: Any) -> list[Any]:
    """1 − u²."""
    return [-2 * u, -jnp.ones_like(u), *[None] * order][:order]


def horner(x: jax.Array, *coefficients: jax.Array, **_: object) -> jax.Array:
    """Σ_k c_k x^k, as c_0 + x (c_1 + x (c_2 + …))."""
    return reduce(lambda higher, c: c + x * higher, reversed(coefficients))


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
    "acos": Elementwise(towers.acos),
    "acosh": Elementwise(towers.acosh),
    "asin": Elementwise(towers.asin),
    "asinh": Elementwise(towers.asinh),
    "atan": Elementwise(towers.atan),
    "atanh": Elementwise(towers.atanh),
    "cbrt": Elementwise(towers.cbrt),
    "cos": Elementwise(towers.cos),
    "cosh": Elementwise(towers.cosh),
    "digamma": Elementwise(towers.digamma),
    "erf": Elementwise(towers.erf),
    "erf_inv": Elementwise(towers.erfinv),
    "erfc": Elementwise(towers.erfc),
    "exp": Elementwise(towers.exp),
    "exp2": Elementwise(towers.exp2),
    "expm1": Elementwise(towers.expm1),
    "integer_pow": Elementwise(towers.power, {"exponent": "y"}),
    "lgamma": Elementwise(towers.lgamma),
    "log": Elementwise(towers.log),
    "log1p": Elementwise(towers.log1p),
    "log2": Elementwise(towers.log2),
    "logistic": Elementwise(towers.sigmoid),
    "one_minus_square": Elementwise(one_minus_square),
    "rsqrt": Elementwise(towers.rsqrt),
    "sin": Elementwise(towers.sin),
    "sinh": Elementwise(towers.sinh),
    "sqrt": Elementwise(towers.sqrt),
    "square": Elementwise(towers.square),
    "tan": Elementwise(towers.tan),
    "tanh": Elementwise(towers.tanh),
    "abs": ByDtype(Elementwise(magnitude), Decomposed(absolute), entrywise=True),
    "atan2": Decomposed(angle, entrywise=True),
    "polynomial": Decomposed(horner, entrywise=True),
    "pow": Arithmetic(power),
    "bessel_i0e": ByTangents(),
    "bessel_i1e": ByTangents(),
    "igamma": ByTangents(),
    "igammac": ByTangents(),
    "polygamma": ByTangents(),
    "random_gamma": ByTangents(entrywise=False),
    "regularized_incomplete_beta": ByTangents(),
    "zeta": ByTangents(),
    # ---- arithmetic
    "add": Arithmetic(plus, axes=axes.Signed(1)),
    "add_any": Arithmetic(plus, axes=axes.Signed(1)),
    "sub": Arithmetic(minus, axes=axes.Signed(-1)),
    "mul": Product(axes=axes.product),
    "div": Arithmetic(arithmetic.over, axes=axes.quotient),
    "neg": Negative(axes=axes.negation),
    "dot_general": DotGeneral(axes=axes.contraction),
    "conv_general_dilated": Bilinear(axes=axes.convolution),
    # ---- linear
    "all_gather": Linear(0),
    "all_gather_invariant": Linear(0),
    "all_to_all": Linear(0),
    "broadcast_in_dim": Linear(0, axes=axes.broadcasting),
    "complex": Linear(entrywise=True, axes=axes.Together(0, 1)),
    "concatenate": Concatenation(axes=axes.concatenation),
    "conj": Linear(0, entrywise=True, axes=axes.conjugation),
    "convert_element_type": Converted(entrywise=True, axes=axes.conversion),
    "copy": Unchanged(entrywise=True, axes=axes.Together(0)),
    "copy_p": Unchanged(entrywise=True, axes=axes.Together(0)),
    "cumsum": Linear(0, axes=axes.Along(axes.running)),
    "device_put": Linear(entrywise=True),
    "dynamic_slice": Linear(0, axes=axes.Along(axes.windowed)),
    "dynamic_update_slice": Linear(0, 1),
    "expand_dims": Linear(0, axes=axes.reshaping),
    "fft": Linear(0, axes=axes.Along(axes.transformed)),
    "gather": Gather(axes=axes.gathering),
    "imag": Linear(0, entrywise=True, axes=axes.Together(0)),
    "mesh_cast": Linear(entrywise=True),
    "name": Linear(entrywise=True),
    "optimization_barrier": Unchanged(),
    "pad": Linear(0, 1, axes=axes.Along(axes.padded)),
    "pbroadcast": Linear(entrywise=True),
    "ppermute": Linear(0),
    "psum": Linear(),
    "psum2": Linear(),
    "psum_invariant": Linear(),
    "pvary": Linear(entrywise=True),
    "real": Linear(0, entrywise=True, axes=axes.Together(0)),
    "reduce_precision": Linear(entrywise=True),
    "reduce_scatter": Linear(0),
    "reduce_sum": Linear(0, axes=axes.reduction),
    "reduce_window_sum": Linear(0),
    "reshape": Linear(0, axes=axes.reshaping),
    "reshard": Linear(entrywise=True),
    "rev": Linear(0, axes=axes.Along(axes.reversed)),
    "scatter": Scatter(),
    "scatter-add": Linear(0, 2),
    "scatter-sub": Linear(0, 2),
    "scatter_add": Linear(0, 2),
    "scatter_sub": Linear(0, 2),
    "select_n": Linear(*range(1, 64), entrywise=True, axes=axes.selection),
    "sharding_constraint": Linear(entrywise=True),
    "slice": Linear(0, axes=axes.Along(axes.cut)),
    "split": Linear(0),
    "squeeze": Linear(0, axes=axes.reshaping),
    "stack": Linear(),
    "tile": Linear(0),
    "transpose": Linear(0, axes=axes.transposition),
    "unstack": Linear(0),
    # ---- linear near every point
    "approx_top_k": PiecewiseLinear(),
    "clamp": Clamp(entrywise=True),
    "cummax": PiecewiseLinear(),
    "cummin": PiecewiseLinear(),
    "max": PiecewiseLinear(entrywise=True),
    "min": PiecewiseLinear(entrywise=True),
    "nextafter": PiecewiseLinear(entrywise=True),
    "reduce_max": PiecewiseLinear(),
    "reduce_min": PiecewiseLinear(),
    "reduce_window_max": PiecewiseLinear(),
    "reduce_window_min": PiecewiseLinear(),
    "rem": PiecewiseLinear(entrywise=True),
    "scatter-max": PiecewiseLinear(),
    "scatter-min": PiecewiseLinear(),
    "select_and_gather_add": PiecewiseLinear(),
    "select_and_scatter_add": PiecewiseLinear(),
    "sort": PiecewiseLinear(),
    "top_k": PiecewiseLinear(),
    # ---- products
    "cumlogsumexp": Decomposed(running_logsumexp),
    "cumprod": Decomposed(running_product),
    "ragged_dot_general": Bilinear(),
    "reduce": Decomposed(reducers.reduce),
    "reduce_prod": Decomposed(whole_product),
    "reduce_window": Decomposed(reducers.reduce_window),
    "scatter-mul": ScatterProduct(),
    "scatter_mul": ScatterProduct(),
    # ---- matrices
    "cholesky": Own(cholesky),
    "eig": Own(eig),
    "eigh": Own(eigh),
    "lu": Own(lu),
    "qr": Own(qr),
    "svd": Own(svd),
    "householder_product": Decomposed(householder_product),
    "triangular_solve": Own(triangular_solve),
    "tridiagonal_solve": Own(tridiagonal_solve),
    # ---- what asks about the value, or is constant in between
    "and": OfValue(entrywise=True),
    "argmax": OfValue(),
    "argmin": OfValue(),
    "bitcast_convert_type": OfValue(),
    "ceil": OfValue(entrywise=True),
    "debug_callback": OfValue(),
    "debug_print": OfValue(),
    "eq": OfValue(entrywise=True),
    "eq_to": OfValue(entrywise=True),
    "floor": OfValue(entrywise=True),
    "ge": OfValue(entrywise=True),
    "gt": OfValue(entrywise=True),
    "is_finite": OfValue(entrywise=True),
    "le": OfValue(entrywise=True),
    "le_to": OfValue(entrywise=True),
    "lt": OfValue(entrywise=True),
    "lt_to": OfValue(entrywise=True),
    "ne": OfValue(entrywise=True),
    "not": OfValue(entrywise=True),
    "or": OfValue(entrywise=True),
    "round": OfValue(entrywise=True),
    "sign": ByDtype(OfValue(), Decomposed(direction), entrywise=True),
    "stop_gradient": OfValue(entrywise=True),
    "xor": OfValue(entrywise=True),
    # ---- functions inside
    "checkpoint": Own(checkpointed),
    "closed_call": Inlined(),
    "cond": Own(conditional),
    "core_call": Inlined(),
    "custom_jvp_call": CustomJvp(),
    "custom_linear_solve": Own(custom_linear_solve),
    "custom_lin": General(),
    "custom_vjp_call": CustomVjp(),
    "custom_vmap_call": Inlined(),
    "custom_vjp_call_jaxpr": CustomVjp(),
    "eval_jaxpr": Inlined(),
    "jit": Inlined(),
    "linear_call": Own(linear_call),
    "pjit": Inlined(),
    "remat": Own(checkpointed),
    "remat2": Own(checkpointed),
    "scan": Own(scan),
    "shard_map": Own(shard_map),
    "while": Own(while_loop),
    # ---- objects, by the names of their classes
    "Frexp": PiecewiseLinear(),
    "Ldexp": Linear(0),
    "Nonzero": OfValue(),
    "SearchSorted": OfValue(),
}
"""By the name of the primitive."""

OWN: dict[Primitive, Rule] = {
    registered_elementwise_p: Own(on_registered, entrywise=True),
    registered_p: Own(on_registered),
    sum_of_rows_p: Linear(0, axes=axes.sum_of_rows),
    forward_only_p: Linear(0, axes=axes.Together(0), entrywise=True),
    by_matrix_p: Inlined(),
    held_p: Inlined(),
    pieces_p: Inlined(),
    repeated_p: Linear(0),
    ruled_p: Inlined(),
}
"""Those of jetfold itself: they are recognised by identity, for a user's may have any name."""

RULES.update({**TABLE, **OWN, "general": General()})
