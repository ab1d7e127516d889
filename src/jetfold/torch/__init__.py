"""PyTorch: jets on `__torch_function__`, and what the transforms ask of a frontend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_map
from torch.utils.checkpoint import checkpoint

from .. import transform
from . import private
from .double import float64, in_float64, to_numpy
from .general import general
from .overload import Jet, NewLevel, report

NAME = "torch"


def is_array(x: object) -> bool:
    """Whether x is a tensor, or a jet of an outer transform."""
    return isinstance(x, (torch.Tensor, Jet))


def check_point(name: str, point: Any, batch_dims: int) -> None:
    """Refuse what has no real derivative, with a hint."""
    if not is_array(point):
        raise TypeError(
            f"{name} differentiates a torch.Tensor, got {type(point).__name__}; other arguments "
            "pass through untouched: name the one to differentiate with argnums="
        )
    if point.is_complex():
        raise TypeError(
            f"{name} takes derivatives in real coordinates, got a point of dtype {point.dtype}; "
            "pass real and imaginary part as real coordinates, e.g. torch.view_as_real(z), and "
            "build z inside the function (its values may be complex)"
        )
    if not point.is_floating_point():
        raise TypeError(
            f"{name} needs a floating-point point, got dtype {point.dtype}; convert it with "
            "x.float() or x.double()"
        )
    if point.ndim < batch_dims:
        raise ValueError(
            f"batch_dims={batch_dims} needs a point with at least as many axes, got shape "
            f"{tuple(point.shape)}"
        )


@torch.compiler.assume_constant_result
def plan(request: Any, variables: int, method: str) -> Any:
    """The scheme of a request; a constant to torch.compile."""
    return transform.plan(request, variables, method)


@torch.compiler.assume_constant_result
def path_algebra(order: int) -> Any:
    """The algebra of jets along a path; a constant to torch.compile."""
    return transform.path_algebra(order)


@torch.compiler.assume_constant_result
def recipes(request: Any, variables: int) -> Any:
    """The recipes of the nested baseline; a constant to torch.compile."""
    return transform.recipes(request, variables)


def seed(
    seeds: Any, coordinates: int, start: int, count: int, point: Any, vectors: Any, batch_dims: int
) -> Any:
    """The coefficients (e_w(∂)x)_i of one degree: (size, *ones or batch, *shape of a point)."""
    if seeds.empty:
        return None
    like = {"dtype": point.dtype, "device": point.device}
    if vectors is None:
        block = (
            torch.eye(coordinates, **like) if seeds.identity else torch.tensor(seeds.rows, **like)
        )
    else:
        block = vectors
        if not seeds.identity:
            block = torch.tensordot(torch.tensor(seeds.rows, **like), vectors, 1)
    batch = tuple(block.shape[1:-1]) or (1,) * batch_dims
    if count != coordinates:
        block = block.narrow(-1, start, count)
    return block.reshape((block.shape[0], *batch, *tuple(point.shape)[batch_dims:]))


def make_jet(algebra: Any, level: int, point: Any, blocks: Sequence[Any]) -> Jet:
    """The seeded argument."""
    return Jet(algebra, level, point, blocks)


def run(function: Callable[..., Any], jets: Sequence[Any]) -> Any:
    """The function on jets.

    Transforms of torch.func inside the function insist on tensors; such a function is, as a
    whole, one operation for the general rule.
    """
    if torch.compiler.is_compiling():
        return function(*jets)
    try:
        return function(*jets)
    except Exception as error:
        if not private.refused(error, Jet):
            raise
        report(f"a function that calls torch.func transforms ({type(error).__name__}: {error})")
    return general(jets[0].level, function, tuple(jets), {})


def map_outputs(func: Callable[[Any], Any], outputs: Any) -> Any:
    """func of every array that f returned; anything else is refused."""

    def checked(leaf: Any) -> Any:
        if not is_array(leaf):
            raise TypeError(
                "the function must return tensors (or a pytree of them), got "
                f"{type(leaf).__name__}; return the tensor that is to be differentiated"
            )
        return func(leaf)

    return tree_map(checked, outputs)


def read_out(level: int, entries: Sequence[tuple[int, int, float]], leaf: Any) -> Any:
    """Σ c · coefficient, for the coordinates (degree, position, c) of a symbol."""
    is_jet = isinstance(leaf, Jet)
    if is_jet:
        leaf._refresh()
    is_jet = is_jet and leaf.level == level
    value = leaf.primal if is_jet else leaf
    total = None
    for degree, position, c in entries:
        if degree and not (is_jet and leaf.blocks[degree - 1] is not None):
            continue
        term = leaf.blocks[degree - 1][position] if degree else value
        term = term if c == 1 else term * c
        total = term if total is None else total + term
    if total is None:
        return torch.zeros_like(value)
    return total if total.shape == value.shape else total.expand(value.shape).clone()


def asarray(x: Any, like: Any) -> Any:
    """A coefficient or a σ in the dtype and on the device of the point (complex stays complex)."""
    if is_array(x):
        return x
    array = torch.as_tensor(x, device=like.device)
    return array if array.is_complex() else array.to(like.dtype)


def moveaxis(x: Any, source: int, destination: int) -> Any:
    """Move one axis."""
    return x.movedim(source, destination)


def concatenate_first(parts: Sequence[Any]) -> Any:
    """Along the first axis."""
    return torch.cat(list(parts), 0)


# ------------------------------------------------------------------ in chunks


@torch.compiler.assume_constant_result
def parts(request: Any, n: int) -> Any:
    """What is cut into chunks; a constant to torch.compile."""
    return transform.parts(request, n)


@torch.compiler.assume_constant_result
def low_plan(request: Any, n: int, method: str) -> Any:
    """The scheme of what is not cut; a constant to torch.compile."""
    return transform.low_plan(request, n, method)


@torch.compiler.assume_constant_result
def power_plan(power: int, sign: int, count: int, method: str) -> Any:
    """The scheme of a sum of powers; a constant to torch.compile."""
    return transform.power_plan(power, sign, count, method)


def sparse_rows(coordinates: Any, components: Any, n: int, like: Any) -> Callable[[int, int], Any]:
    """(start, count) -> the directions from `start` on, as rows."""
    if coordinates:
        places = torch.tensor(coordinates, device=like.device)
        values = torch.tensor(components, dtype=like.dtype, device=like.device)

    def rows(start: int, count: int) -> Any:
        empty = torch.zeros((count, n), dtype=like.dtype, device=like.device)
        if not coordinates:
            where = torch.arange(start, start + count, device=like.device)
            return empty.scatter(1, where[:, None], 1.0)
        return empty.scatter_add(1, places[start : start + count], values[start : start + count])

    return rows


def rows(grouped: Any, start: int, count: int) -> Any:
    """Entries along the second axis."""
    return grouped[:, start : start + count]


def recomputed(step: Callable[[Any, int], Any]) -> Callable[[Any, int], Any]:
    """The step, computed again for its gradient instead of keeping what it saves.

    Transforms of torch.func (around the step or in it) and torch.compile keep everything: saved
    tensors are theirs.
    """
    kept = torch.compiler.is_compiling() or private.inside_transform()
    if kept or not torch.is_grad_enabled():
        return step

    def run(start: Any, count: int) -> Any:
        try:
            return checkpoint(step, start, count, use_reentrant=False)
        except RuntimeError as error:
            if not private.refused_hooks(error):
                raise
            return step(start, count)

    return run


def add_up(step: Callable[[int], Any], count: int, size: int) -> Any:
    """Σ_k step(k·size)."""
    total = step(0)
    for k in range(1, count):
        total = tree_map(torch.add, total, step(k * size))
    return total


# ------------------------------------------------------------------ at random


def check_rng(rng: Any) -> None:
    """Refuse what is no generator."""
    if rng is not None and not isinstance(rng, torch.Generator):
        raise TypeError(
            "rng must be a torch.Generator, or None for PyTorch's global state, got "
            f"{type(rng).__name__}"
        )


def generators(rng: Any, count: int) -> list[Any]:
    """For that many draws."""
    return [rng] * count


def split(rng: Any, count: int) -> list[Any]:
    """A generator goes on by itself."""
    return [rng] * count


def normal(rng: Any, shape: Sequence[int], like: Any) -> Any:
    """Standard normal numbers in the dtype and on the device of an array."""
    return torch.randn(tuple(shape), generator=rng, dtype=like.dtype, device=like.device)


def signs(rng: Any, shape: Sequence[int], like: Any) -> Any:
    """±1 with equal probability."""
    bits = torch.randint(0, 2, tuple(shape), generator=rng, device=like.device)
    return (2 * bits - 1).to(like.dtype)


@torch.compiler.assume_constant_result
def sources(request: Any, n: int, method: str) -> Any:
    """How directions are drawn; a constant to torch.compile."""
    return transform.sources(request, n, method)


def indices(rng: Any, count: int, shape: Sequence[int], replace: bool, like: Any) -> Any:
    """Random integers below count; without replacement they differ along the first axis."""
    if replace:
        return torch.randint(0, count, tuple(shape), generator=rng, device=like.device)
    each = (*shape[1:], count)
    noise = torch.rand(each, generator=rng, dtype=torch.float64, device=like.device)
    return torch.movedim(noise.topk(shape[0], -1).indices, -1, 0)


def weighted_indices(rng: Any, ends: Any, shape: Sequence[int], like: Any) -> Any:
    """Random integers, from the sums of their probabilities."""
    ends = torch.tensor(ends, dtype=torch.float64, device=like.device)
    drawn = torch.rand(tuple(shape), generator=rng, dtype=ends.dtype, device=like.device)
    return torch.searchsorted(ends, drawn * ends[-1]).clamp(max=ends.shape[0] - 1)


def constant(values: Any, like: Any) -> Any:
    """Nested lists as an array, in the dtype and on the device of another."""
    return torch.tensor(values, dtype=like.dtype, device=like.device)


def integers(values: Any, like: Any) -> Any:
    """Nested lists of indices as an array on the device of another."""
    return torch.tensor(values, device=like.device)


def full(shape: Sequence[int], value: float, like: Any) -> Any:
    """One value everywhere, in the dtype and on the device of an array."""
    return torch.full(tuple(shape), value, dtype=like.dtype, device=like.device)


def orthonormal(noise: Any) -> Any:
    """Rows that span what the rows of (…, rows, n) span, orthonormal."""
    return torch.linalg.qr(noise.mT)[0].mT


def one_hot(values: Any, places: Any, n: int) -> Any:
    """Vectors (…, n) with one entry."""
    empty = torch.zeros((*places.shape, n), dtype=values.dtype, device=values.device)
    return empty.scatter(-1, places[..., None], values[..., None])


def place(values: Any, places: Any, n: int) -> Any:
    """The last axis of `values` at these coordinates of n."""
    empty = torch.zeros((*values.shape[:-1], n), dtype=values.dtype, device=values.device)
    return empty.index_copy(-1, torch.tensor(places, device=values.device), values)


def broadcast(x: Any, shape: Sequence[int]) -> Any:
    """Axes of length one repeated."""
    return x.expand(tuple(shape))


def einsum(spec: str, a: Any, b: Any) -> Any:
    """A product of two arrays."""
    return torch.einsum(spec, a, b)


# ------------------------------------------------------------------ for the nested baseline


def concatenate(parts: Sequence[Any]) -> Any:
    """Along the last axis."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), -1)


def stack(parts: Sequence[Any]) -> Any:
    """Along a new leading axis."""
    return torch.stack(list(parts))


def identity(n: int, like: Any) -> Any:
    """The identity matrix in the dtype and on the device of an array."""
    return torch.eye(n, dtype=like.dtype, device=like.device)


def weighted_sum(weights: Sequence[float], stacked: Any) -> Any:
    """Σ_s w_s stacked[s]."""
    if all(w == weights[0] for w in weights):
        total = stacked.sum(0)
        return total if weights[0] == 1 else total * weights[0]
    column = torch.tensor(weights, dtype=stacked.dtype, device=stacked.device)
    return torch.tensordot(column, stacked, 1)


def map_two(func: Callable[[Any, Any], Any], first: Any, second: Any) -> Any:
    """func over two pytrees of the same structure."""
    return tree_map(func, first, second)


def vmap(func: Callable[[Any], Any], over: Any) -> Any:
    """func over a leading axis."""
    return torch.func.vmap(func, randomness="same")(over)


def jvp(func: Callable[[Any], Any], point: Any, tangent: Any) -> Any:
    """The derivative along a tangent that is broadcast to the point."""
    return torch.func.jvp(func, (point,), (tangent.expand(point.shape),))[1]


def is_scalar(func: Callable[[Any], Any], point: Any, points: int) -> bool:
    """Whether func gives one real number per point. (A compiler drops the values again.)"""
    out = func(point)
    return isinstance(out, torch.Tensor) and not out.is_complex() and out.numel() == points


def vector_hessian_vector(func: Callable[[Any], Any], point: Any, tangent: Any) -> Any:
    """vᵀ(∇²f)v of a function with one number per point: forward over reverse, in f's shape."""
    tangent = tangent.expand(point.shape)
    shape: list[int] = []

    def gradient(z: Any) -> Any:
        out, pullback = torch.func.vjp(func, z)
        shape[:] = out.shape
        return pullback(torch.ones_like(out))[0]

    product = torch.func.jvp(gradient, (point,), (tangent,))[1]
    return (product * tangent).sum(-1).reshape(shape)


__all__ = [
    "Jet",
    "NewLevel",
    "asarray",
    "check_point",
    "float64",
    "general",
    "in_float64",
    "is_array",
    "make_jet",
    "map_outputs",
    "plan",
    "read_out",
    "recipes",
    "run",
    "seed",
    "to_numpy",
]
