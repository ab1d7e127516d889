"""What the transforms ask of a frontend (`frontend.Frontend`), by PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from ..core.arrays import Arrays
from . import arrays, functions, private
from .double import float64 as float64
from .double import in_float64 as in_float64
from .double import to_numpy as to_numpy
from .general import general
from .overload import Jet, NewLevel, report
from .private import tree_map

NAME = "torch"
xp: Arrays = arrays


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
def static(function: Callable[..., Any], *args: Any) -> Any:
    """function(*args), a constant to torch.compile."""
    return function(*args)


def new_level() -> AbstractContextManager[int]:
    """A level above those of all transforms that are running."""
    return NewLevel()


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
        with private.functions_through(functions.apply, Jet):
            return function(*jets)
    except Exception as error:
        if not private.refused(error, Jet):
            raise
        report(f"a function that calls torch.func transforms ({type(error).__name__}: {error})")
    return general(jets[0].level, function, tuple(jets), {})


def map_outputs(func: Callable[..., Any], outputs: Any, *others: Any) -> Any:
    """func of every array that f returned (and of others alike); anything else is refused."""

    def checked(leaf: Any, *rest: Any) -> Any:
        if not is_array(leaf):
            raise TypeError(
                "the function must return tensors (or a pytree of them), got "
                f"{type(leaf).__name__}; return the tensor that is to be differentiated"
            )
        return func(leaf, *rest)

    return tree_map(checked, outputs, *others)


def opened(level: int, leaf: Any) -> tuple[Any, Sequence[Any]]:
    """The value and the blocks of a result; none where it does not depend on jets of this level."""
    if not isinstance(leaf, Jet):
        return leaf, ()
    leaf._refresh()
    return (leaf.primal, leaf.blocks) if leaf.level == level else (leaf, ())


def settled(x: Any) -> Any:
    """A tensor that was expanded, as one that may be written to."""
    return x.clone()


# ------------------------------------------------------------------ in chunks


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


# ------------------------------------------------------------------ for the nested baseline


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
