"""What the transforms ask of a frontend (`frontend.Frontend`), by JAX."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..core.arrays import Arrays
from ..core.jet import Jet
from ..frontend import Counter
from . import arrays
from . import table as table  # registers the rules
from .double import float64 as float64
from .double import in_float64 as in_float64
from .double import to_numpy as to_numpy
from .interpreter import interpret_closed
from .pieces import evaluated

NAME = "jax"
xp: Arrays = arrays


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


def structured(point: Any, rows: int) -> bool:
    """Whether blocks may be structured: a compiled program has no calls to save."""
    return True


@contextlib.contextmanager
def new_level(batch_dims: int = 0) -> Iterator[int]:
    """Functions are traced before jets meet them, so jets of two transforms never meet."""
    yield 0


def static(function: Callable[..., Any], *args: Any) -> Any:
    """function(*args): what is static is no business of JAX's tracers."""
    return function(*args)


attempted = static


def whole(*functions: Callable[..., Any]) -> None:
    """JAX traces all of a function."""


def history(array: Any) -> Any:
    """Arrays of JAX never change."""
    return None


def in_force(name: str, array: Any, history: Any) -> Any:
    """The array itself."""
    return array


def make_jet(algebra: Any, level: int, point: Any, blocks: Sequence[Any]) -> Jet:
    """The seeded argument."""
    return Jet(algebra, level, jnp.asarray(point), blocks)


def run(function: Callable[..., Any], jets: Sequence[Jet], batch_dims: int = 0) -> Any:
    """The function on jets: its jaxpr, interpreted; on a CPU perhaps a few points at a time.

    JAX keeps the jaxpr of a function; `checked` is a new one, so what f reads from outside counts
    in every call.
    """

    def checked(*points: Any) -> Any:
        return map_outputs(lambda leaf: leaf, function(*points))

    closed, shapes = jax.make_jaxpr(checked, return_shape=True)(*[x.primal for x in jets])

    def propagated(program: Any, start: Any, rows: int, points: Sequence[Any]) -> list[Any]:
        seeded = [
            x.like(point, [_of_rows(block, start, rows, batch_dims) for block in x.stored])
            for x, point in zip(jets, points, strict=True)
        ]
        with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
            return interpret_closed(program, seeded)

    points = [x.primal for x in jets]
    out = evaluated(propagated, closed, points, jets[0].algebra.vectors, batch_dims)
    return jax.tree.unflatten(jax.tree.structure(shapes), out)


def _of_rows(block: Any, start: Any, rows: int, batch_dims: int) -> Any:
    """Seeds for some of the points, if they are not the same for all."""
    shape = getattr(block, "shape", (0, 1))
    if not batch_dims or shape[1] in (1, rows):
        return block
    return xp.narrow(block, 1, start, rows)


def remembers() -> bool:
    """What is static stays so."""
    return True


def version(array: Any) -> int:
    """Arrays of JAX are never written to."""
    return 0


def rehearse(function: Callable[..., Any], args: Sequence[Any]) -> None:
    """Trace a function."""
    jax.eval_shape(lambda *x: function(*x), *args)


def counter() -> Counter:
    """What programs cost."""
    from . import counting

    return counting


def seeded() -> contextlib.AbstractContextManager[Any]:
    """Random numbers of JAX are always the same."""
    return contextlib.nullcontext()


def map_outputs(func: Callable[..., Any], outputs: Any, *others: Any) -> Any:
    """func of every array that f returned (and of others alike); anything else is refused."""

    def checked(leaf: Any, *rest: Any) -> Any:
        if not isinstance(leaf, (Jet, jax.Array, np.ndarray, np.generic, float, int, complex)):
            raise TypeError(
                "the function must return arrays (or a pytree of them), got "
                f"{type(leaf).__name__}; return the array that is to be differentiated"
            )
        return func(leaf, *rest)

    if not jax.tree.leaves(outputs):
        raise TypeError(
            f"the function must return arrays (or a pytree of them), got {outputs!r}; return the "
            "array that is to be differentiated"
        )
    return jax.tree.map(checked, outputs, *others, is_leaf=lambda x: isinstance(x, Jet))


def opened(level: int, leaf: Any, by_rows: bool) -> tuple[Any, Sequence[Any]]:
    """The value and the blocks of a result; none where it does not depend on the jets."""
    return (leaf.primal, leaf.blocks) if isinstance(leaf, Jet) else (jnp.asarray(leaf), ())


def settled(x: Any) -> Any:
    """Arrays of JAX are never written to."""
    return x


# ------------------------------------------------------------------ in chunks


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


# ------------------------------------------------------------------ for the nested baseline


def call(function: Callable[..., Any], points: Sequence[Any]) -> Any:
    """The function of arrays."""
    return function(*points)


def vmap(func: Callable[[Any], Any], over: Any) -> Any:
    """func over a leading axis."""
    return jax.vmap(func)(over)


def jvp(func: Callable[[Any], Any], point: Any, tangent: Any) -> Any:
    """The derivative along a tangent that is broadcast to the point."""
    return jax.jvp(func, (point,), (jnp.broadcast_to(tangent, point.shape),))[1]


def is_inexact(x: Any) -> bool:
    """Whether an array holds real or complex numbers."""
    return bool(jnp.issubdtype(jnp.result_type(x), jnp.inexact))


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
