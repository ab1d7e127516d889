"""JAX: jets on jaxprs, and what the transforms ask of a frontend."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..core.jet import Jet
from ..transform import low_plan, parts, path_algebra, plan, power_plan, recipes, sources
from . import table as table  # registers the rules
from .double import float64, in_float64, to_numpy
from .interpreter import interpret_closed

NAME = "jax"


def is_array(x: object) -> bool:
    """Whether x is an array or a tracer of JAX, or a NumPy array, which JAX takes for one."""
    return isinstance(x, (jax.Array, np.ndarray))


def check_point(name: str, point: Any, batch_dims: int) -> None:
    """Refuse what has no real derivative, with a hint."""
    if not is_array(point):
        raise TypeError(
            f"{name} differentiates a jax.Array, got {type(point).__name__}; other arguments pass "
            "through untouched: name the one to differentiate with argnums="
        )
    if jnp.issubdtype(point.dtype, jnp.complexfloating):
        raise TypeError(
            f"{name} takes derivatives in real coordinates, got a point of dtype {point.dtype}; "
            "pass real and imaginary part as real coordinates and build z = x + 1j * y inside "
            "the function (its values may be complex)"
        )
    if not jnp.issubdtype(point.dtype, jnp.floating):
        raise TypeError(
            f"{name} needs a floating-point point, got dtype {point.dtype}; convert it with "
            "x.astype(float)"
        )
    if point.ndim < batch_dims:
        raise ValueError(
            f"batch_dims={batch_dims} needs a point with at least as many axes, got shape "
            f"{tuple(point.shape)}"
        )


@contextlib.contextmanager
def NewLevel() -> Iterator[int]:
    """Functions are traced before jets meet them, so jets of two transforms never meet."""
    yield 0


def seed(
    seeds: Any, coordinates: int, start: int, count: int, point: Any, vectors: Any, batch_dims: int
) -> Any:
    """The coefficients (e_w(∂)x)_i of one degree: (size, *ones or batch, *shape of a point)."""
    if seeds.empty:
        return None
    dtype = jnp.result_type(point)
    if vectors is None:
        block = jnp.asarray(np.eye(coordinates) if seeds.identity else seeds.rows, dtype)
    else:
        block = vectors
        if not seeds.identity:
            block = jnp.tensordot(jnp.asarray(seeds.rows, dtype), vectors, 1)
    batch = tuple(block.shape[1:-1]) or (1,) * batch_dims
    block = block[..., start : start + count]
    return block.reshape((block.shape[0], *batch, *point.shape[batch_dims:]))


def make_jet(algebra: Any, level: int, point: Any, blocks: Sequence[Any]) -> Jet:
    """The seeded argument."""
    return Jet(algebra, level, jnp.asarray(point), blocks)


def run(function: Callable[..., Any], jets: Sequence[Jet]) -> Any:
    """The function on jets: its jaxpr, interpreted.

    JAX keeps the jaxpr of a function; `checked` is a new one, so what f reads from outside counts
    in every call.
    """

    def checked(*points: Any) -> Any:
        return map_outputs(lambda leaf: leaf, function(*points))

    closed, shapes = jax.make_jaxpr(checked, return_shape=True)(*[x.primal for x in jets])
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        out = interpret_closed(closed, jets)
    return jax.tree.unflatten(jax.tree.structure(shapes), out)


def map_outputs(func: Callable[[Any], Any], outputs: Any) -> Any:
    """func of every array that f returned; anything else is refused."""

    def checked(leaf: Any) -> Any:
        if not isinstance(leaf, (Jet, jax.Array, np.ndarray, np.generic, float, int, complex)):
            raise TypeError(
                "the function must return arrays (or a pytree of them), got "
                f"{type(leaf).__name__}; return the array that is to be differentiated"
            )
        return func(leaf)

    if not jax.tree.leaves(outputs):
        raise TypeError(
            f"the function must return arrays (or a pytree of them), got {outputs!r}; return the "
            "array that is to be differentiated"
        )
    return jax.tree.map(checked, outputs, is_leaf=lambda x: isinstance(x, Jet))


def read_out(level: int, entries: Sequence[tuple[int, int, float]], leaf: Any) -> Any:
    """Σ c · coefficient, for the coordinates (degree, position, c) of a symbol."""
    value = leaf.primal if isinstance(leaf, Jet) else jnp.asarray(leaf)
    total = None
    for degree, position, c in entries:
        if degree and not (isinstance(leaf, Jet) and leaf.blocks[degree - 1] is not None):
            continue
        term = leaf.blocks[degree - 1][position] if degree else value
        term = term if c == 1 else term * c
        total = term if total is None else total + term
    return jnp.zeros_like(value) if total is None else jnp.broadcast_to(total, value.shape)


def asarray(x: Any, like: Any) -> Any:
    """A coefficient or a σ in the dtype of the point (complex stays complex)."""
    array = jnp.asarray(x)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        return array
    return array.astype(jnp.result_type(like))


def moveaxis(x: Any, source: int, destination: int) -> Any:
    """Move one axis."""
    return jnp.moveaxis(x, source, destination)


def concatenate_first(parts: Sequence[Any]) -> Any:
    """Along the first axis."""
    return jnp.concatenate(list(parts), 0)


# ------------------------------------------------------------------ in chunks


def sparse_rows(coordinates: Any, components: Any, n: int, like: Any) -> Callable[[Any, int], Any]:
    """(start, count) -> the directions from `start` on, as rows."""
    dtype = jnp.result_type(like)
    if coordinates:
        places, values = jnp.asarray(np.asarray(coordinates)), constant(components, like)

    def rows(start: Any, count: int) -> Any:
        if not coordinates:
            return jax.nn.one_hot(start + jnp.arange(count), n, dtype=dtype)
        where, what = (jax.lax.dynamic_slice_in_dim(x, start, count) for x in (places, values))
        return jnp.zeros((count, n), dtype).at[jnp.arange(count)[:, None], where].add(what)

    return rows


def rows(grouped: Any, start: Any, count: int) -> Any:
    """Entries along the second axis."""
    return jax.lax.dynamic_slice_in_dim(grouped, start, count, 1)


def recomputed(step: Callable[[Any, int], Any]) -> Callable[[Any, int], Any]:
    """The step, computed again for its gradient instead of keeping what it saves."""
    return jax.checkpoint(step, static_argnums=1)


def add_up(step: Callable[[Any], Any], count: int, size: int) -> Any:
    """Σ_k step(k·size), one after the other."""

    def further(total: Any, k: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, step(k * size)), None

    return jax.lax.scan(further, step(0), jnp.arange(1, count))[0]


# ------------------------------------------------------------------ at random


def check_rng(rng: Any) -> None:
    """Refuse what is no key."""
    if rng is None:
        raise TypeError(
            "a randomized operator needs a JAX key: pass rng=jax.random.key(0), and another key "
            "for another draw"
        )
    typed = isinstance(rng, jax.Array) and jnp.issubdtype(rng.dtype, jax.dtypes.prng_key)
    raw = isinstance(rng, (jax.Array, np.ndarray)) and rng.dtype == np.uint32 and rng.ndim == 1
    if not raw and not (typed and rng.ndim == 0):
        raise TypeError(f"rng must be one JAX key, made by jax.random.key(seed), got {rng!r}")


def generators(rng: Any, count: int) -> list[Any]:
    """For that many draws."""
    return list(jax.random.split(jax.random.key(0) if rng is None else rng, count))


def split(rng: Any, count: int) -> list[Any]:
    """Independent keys."""
    return [rng] if count == 1 else list(jax.random.split(rng, count)) if count else []


def normal(rng: Any, shape: Sequence[int], like: Any) -> Any:
    """Standard normal numbers in the dtype of an array."""
    return jax.random.normal(rng, tuple(shape), jnp.result_type(like))


def signs(rng: Any, shape: Sequence[int], like: Any) -> Any:
    """±1 with equal probability."""
    return jax.random.rademacher(rng, tuple(shape), jnp.result_type(like))


def indices(rng: Any, count: int, shape: Sequence[int], replace: bool, like: Any) -> Any:
    """Random integers below count; without replacement they differ along the first axis."""
    if replace:
        return jax.random.randint(rng, tuple(shape), 0, count)
    noise = jax.random.bits(rng, (*shape[1:], count))
    return jnp.moveaxis(jax.lax.top_k(noise, shape[0])[1], -1, 0)


def weighted_indices(rng: Any, ends: Any, shape: Sequence[int], like: Any) -> Any:
    """Random integers, from the sums of their probabilities."""
    ends = jnp.asarray(np.asarray(ends))
    drawn = jax.random.uniform(rng, tuple(shape), ends.dtype)
    return jnp.minimum(jnp.searchsorted(ends, drawn * ends[-1]), ends.shape[0] - 1)


def constant(values: Any, like: Any) -> Any:
    """Nested lists as an array, in the dtype of another."""
    return jnp.asarray(np.asarray(values), jnp.result_type(like))


def integers(values: Any, like: Any) -> Any:
    """Nested lists of indices as an array."""
    return jnp.asarray(np.asarray(values))


def full(shape: Sequence[int], value: float, like: Any) -> Any:
    """One value everywhere, in the dtype of an array."""
    return jnp.full(tuple(shape), value, jnp.result_type(like))


def orthonormal(noise: Any) -> Any:
    """Rows that span what the rows of (…, rows, n) span, orthonormal."""
    return jnp.linalg.qr(noise.mT)[0].mT


def one_hot(values: Any, places: Any, n: int) -> Any:
    """Vectors (…, n) with one entry."""
    return values[..., None] * jax.nn.one_hot(places, n, dtype=values.dtype)


def place(values: Any, places: Any, n: int) -> Any:
    """The last axis of `values` at these coordinates of n."""
    return jnp.zeros((*values.shape[:-1], n), values.dtype).at[..., np.asarray(places)].set(values)


def broadcast(x: Any, shape: Sequence[int]) -> Any:
    """Axes of length one repeated."""
    return jnp.broadcast_to(x, tuple(shape))


def einsum(spec: str, a: Any, b: Any) -> Any:
    """A product of two arrays."""
    return jnp.einsum(spec, a, b)


# ------------------------------------------------------------------ for the nested baseline


def concatenate(parts: Sequence[Any]) -> Any:
    """Along the last axis."""
    return jnp.asarray(parts[0]) if len(parts) == 1 else jnp.concatenate(list(parts), -1)


def stack(parts: Sequence[Any]) -> Any:
    """Along a new leading axis."""
    return jnp.stack(list(parts))


def identity(n: int, like: Any) -> Any:
    """The identity matrix in the dtype of an array."""
    return jnp.eye(n, dtype=jnp.result_type(like))


def weighted_sum(weights: Sequence[float], stacked: Any) -> Any:
    """Σ_s w_s stacked[s]."""
    if all(w == weights[0] for w in weights):
        total = stacked.sum(0)
        return total if weights[0] == 1 else total * weights[0]
    return jnp.tensordot(jnp.asarray(weights, stacked.dtype), stacked, 1)


def map_two(func: Callable[[Any, Any], Any], first: Any, second: Any) -> Any:
    """func over two pytrees of the same structure."""
    return jax.tree.map(func, first, second)


def vmap(func: Callable[[Any], Any], over: Any) -> Any:
    """func over a leading axis."""
    return jax.vmap(func)(over)


def jvp(func: Callable[[Any], Any], point: Any, tangent: Any) -> Any:
    """The derivative along a tangent that is broadcast to the point."""
    return jax.jvp(func, (point,), (jnp.broadcast_to(tangent, point.shape),))[1]


def is_scalar(func: Callable[[Any], Any], point: Any, points: int) -> bool:
    """Whether func gives one real number per point."""
    out = jax.eval_shape(func, point)
    return (
        isinstance(out, jax.ShapeDtypeStruct)
        and jnp.issubdtype(out.dtype, jnp.floating)
        and out.size == points
    )


def vector_hessian_vector(func: Callable[[Any], Any], point: Any, tangent: Any) -> Any:
    """vᵀ(∇²f)v of a function with one number per point: forward over reverse, in f's shape."""
    tangent = jnp.broadcast_to(tangent, point.shape)
    shape = jax.eval_shape(func, point).shape

    def gradient(z: Any) -> Any:
        out, pullback = jax.vjp(func, z)
        return pullback(jnp.ones_like(out))[0]

    product = jax.jvp(gradient, (point,), (tangent,))[1]
    return (product * tangent).sum(-1).reshape(shape)


__all__ = [
    "Jet",
    "NewLevel",
    "asarray",
    "check_point",
    "float64",
    "in_float64",
    "is_array",
    "low_plan",
    "make_jet",
    "map_outputs",
    "parts",
    "path_algebra",
    "plan",
    "power_plan",
    "read_out",
    "recipes",
    "run",
    "seed",
    "sources",
    "to_numpy",
]
