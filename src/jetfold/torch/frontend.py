"""What the transforms ask of a frontend (`frontend.Frontend`), by PyTorch."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint

from .. import warn
from ..core.arrays import Arrays
from ..core.structure import STATIC
from ..frontend import Counter
from . import (
    arrays,
    dynamo_private,
    fresh,
    functions,
    fused,
    inner,
    modes,
    overload,
    parameters,
    private,
    reverse,
    watching_private,
)
from .double import float64 as float64
from .double import in_float64 as in_float64
from .double import seeded as seeded
from .double import to_numpy as to_numpy
from .general import Substitutes, general
from .general import is_inexact as is_inexact
from .overload import Jet, NewLevel, report
from .private import tree_map
from .randomness import random_state, set_random_state

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


dynamo_private.take_any_constants()
for _function in STATIC:
    torch.compiler.assume_constant_result(_function)


@torch.compiler.assume_constant_result
def static(function: Callable[..., Any], *args: Any) -> Any:
    """function(*args), a constant to torch.compile."""
    return function(*[_MADE[arg[1]] if _is_token(arg) else arg for arg in args])


attempted = dynamo_private.attempted


@torch.compiler.assume_constant_result
def made(function: Callable[..., Any], *args: Any) -> Any:
    """The same of an object that torch.compile could not hand back: a token of it."""
    found = static(function, *args)
    if found not in _TOKENS:
        _TOKENS[found] = len(_MADE)
        _MADE.append(found)
    return _TOKEN, _TOKENS[found]


_TOKEN = "made while torch.compile traced"
_TOKENS: dict[Any, int] = {}
_MADE: list[Any] = []


def _is_token(arg: Any) -> bool:
    return isinstance(arg, tuple) and arg[:1] == (_TOKEN,)


def remembers() -> bool:
    """To torch.compile what it traces is what it was when it began."""
    return not torch.compiler.is_compiling()


def version(array: Any) -> int:
    """How often a tensor was written to, unless torch.compile traces or inference mode runs."""
    if torch.compiler.is_compiling() or not isinstance(array, torch.Tensor):
        return 0
    return 0 if isinstance(array, Jet) or array.is_inference() else array._version


def whole(*functions: Callable[..., Any]) -> None:
    """Where torch.compile cannot trace one to its end (a graph break in f), it runs without it."""
    if torch.compiler.is_dynamo_compiling():
        _whole(*functions)


@torch.compiler.assume_constant_result
def _whole(*functions: Callable[..., Any]) -> None:
    for function in functions:
        dynamo_private.take_whole(function)


@dataclass(frozen=True)
class History:
    """What a coefficient was made from: itself, or the leaves of the graph that computed it."""

    leaves: Sequence[parameters.Leaf]
    computed: bool


def history(array: Any) -> Any:
    """Of a tensor that may change, or be replaced, while an operator holds it."""
    if torch.compiler.is_compiling() or private.is_wrapped(array):
        return None
    if not array.requires_grad or array.grad_fn is None:
        alone = array.requires_grad or isinstance(array, torch.nn.Parameter)
        return History(parameters.leaves([array]), False) if alone else None
    tensors, seen, nodes = [], set(), [array.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            tensors.append(leaf)
        nodes.extend(following for following, _ in node.next_functions)
    return History(parameters.leaves(tensors), True)


def in_force(name: str, array: Any, history: Any) -> Any:
    """The array, or the parameter that stands in its place now; what was computed must be what it
    was. A warning says of a leaf that a transform around does not differentiate by it."""
    if history is None:
        return array
    if history.computed:
        compiling = torch.compiler.is_compiling()  # in later calls nothing would look
        if compiling or not all(leaf.is_the_same() for leaf in history.leaves):
            raise RuntimeError(
                f"the coefficient {name} was computed, when the operator was made, from tensors "
                "that require gradients and change, or are replaced: it would keep its old value. "
                "Pass a callable, (lambda p: k.exp()) * x**2 in place of k.exp() * x**2, which is "
                "evaluated in every call; or make the operator anew (inside of what torch.compile "
                "compiles)"
            )
        return array
    (leaf,) = history.leaves
    now = leaf.now()
    if len(now) != 1 or now[0] is None:
        raise RuntimeError(
            f"the coefficient {name} was a parameter of modules that have different ones in its "
            "place now, or none: which of them counts is not known. Pass a callable, "
            "(lambda p: module.k) * x**2 in place of module.k * x**2, which is evaluated in every "
            "call"
        )
    unseen = leaf.tensor.requires_grad and not leaf.places
    if unseen and not torch.compiler.is_compiling() and private.inside_grad():
        warnings.warn(
            f"the coefficient {name} requires gradients, and is a constant to the transform of "
            "torch.func around the operator. If it is to differentiate by the coefficient, make "
            "the operator inside of it, or write (lambda p: self.k) * x**2 in place of k * x**2",
            warn.JetfoldWarning,
            stacklevel=2,
        )
    return now[0]


FEWEST = {"cpu": 2**16, "cuda": 2**17}
"""From so many entries on (the rows of a block times the entries of all points, which stand for
those of every intermediate value) structure saves more than its two or three calls cost that take
the place of one."""


def structured(point: Any, rows: int) -> bool:
    """Whether blocks of so many rows at this point may be structured, which pays for large ones.

    Not where a program is traced but by torch.compile.
    """
    while isinstance(point, Jet):
        point = point.primal
    fewest = FEWEST["cuda" if point.is_cuda else "cpu"]
    if rows * dynamo_private.entries(point) < fewest:
        return False
    return torch.compiler.is_dynamo_compiling() or not private.is_traced(private.innermost(point))


def new_level(batch_dims: int = 0) -> AbstractContextManager[int]:
    """A level above those of all transforms that are running."""
    return NewLevel(batch_dims)


def make_jet(algebra: Any, level: int, point: Any, blocks: Sequence[Any]) -> Jet:
    """The seeded argument."""
    return overload.make_jet(algebra, level, point, blocks)


def run(function: Callable[..., Any], jets: Sequence[Any], batch_dims: int = 0) -> Any:
    """The function on jets; once more, where it writes jets into tensors that it makes."""
    seeds = [(jet.primal, jet.stored) for jet in jets]  # the function may write to its arguments
    if torch.compiler.is_compiling():
        try:
            return function(*jets)
        except fresh.PlainWriteError:
            pass
        jets = [jet.like(*seed) for jet, seed in zip(jets, seeds, strict=True)]
        order = len(jets[0].stored)
        return dynamo_private.run_with(lambda x: jets[0].like(x, [None] * order), function, jets)
    state = random_state([primal for primal, _ in seeds])
    stage = fresh.stage(function)
    if stage is None:
        try:
            return _attempt(function, jets, seeds, state)
        except fresh.PlainWriteError:
            stage = 0
    while True:
        set_random_state(state)
        jets = [jet.like(*seed) for jet, seed in zip(jets, seeds, strict=True)]
        try:
            with fresh.Writable(jets[0], fresh.STAGES[stage]).running():
                result = _attempt(function, jets, seeds, state)
        except fresh.PlainWriteError:
            stage += 1
            if stage == len(fresh.STAGES):
                raise
        else:
            fresh.remember(function, stage)
            return result


_watched = modes.Seen(
    watching_private.functions_through(functions.apply, Jet),
    watching_private.transforms_through(inner.HANDLERS),
)


def _attempt(function: Callable[..., Any], jets: Sequence[Any], seeds: Any, state: Any) -> Any:
    """The function on jets.

    Transforms of torch.func inside the function insist on tensors; such a function is, as a
    whole, one operation for the general rule.
    """
    try:
        with _watched:
            return reverse.run(function, jets, seeds, state)
    except Exception as error:
        if private.is_new_parameter(error):
            raise TypeError(
                "torch.nn.Parameter(x) would be a leaf, but x is the argument of a function that "
                "jetfold differentiates; write x itself, and "
                'torch.func.functional_call(module, {"weight": x}, inputs) to use it in a module'
            ) from error
        if type(error).__name__ == "UncapturedHigherOrderOpError":
            raise NotImplementedError(
                "scan, map and their like (and a cond or while_loop not written torch.cond, "
                "torch.while_loop) compile their functions, which does not see derivatives of the "
                "argument of a function that jetfold differentiates; write Python's for and if, or "
                "torch.func.vmap"
            ) from error
        if "TorchScript interpreter" in str(error):
            raise NotImplementedError(
                "a function made by torch.jit.script met the argument of a function that jetfold "
                "differentiates, and does not see its derivatives; call the function that was "
                "scripted itself"
            ) from error
        if not private.refused(error, Jet, overload.UnseenError):
            raise
        report(f"a function that calls torch.func transforms ({type(error).__name__}: {error})")
    with modes.seen:
        return general(jets[0].level, function, tuple(jets), {})


def map_outputs(func: Callable[..., Any], outputs: Any, *others: Any) -> Any:
    """func of every array that f returned (and of others alike); anything else is refused."""

    if is_array(outputs):
        return func(outputs, *others)

    def checked(leaf: Any, *rest: Any) -> Any:
        if not is_array(leaf):
            raise TypeError(
                "the function must return tensors (or a pytree of them), got "
                f"{type(leaf).__name__}; return the tensor that is to be differentiated"
            )
        return func(leaf, *rest)

    return tree_map(checked, outputs, *others)


def rehearse(function: Callable[..., Any], args: Sequence[Any]) -> None:
    """Run a function; torch.compile drops what has no use, gradients or not."""
    if torch.compiler.is_compiling():  # an error inside of no_grad would leave it behind
        function(*args)
    else:
        with torch.no_grad():
            function(*args)


def counter() -> Counter:
    """What programs cost."""
    from . import counting

    return counting


def opened(level: int, leaf: Any, by_rows: bool) -> tuple[Any, Sequence[Any]]:
    """The value and the blocks of a result; none where it does not depend on jets of this level."""
    if not isinstance(leaf, Jet):
        return leaf, ()
    leaf._refresh()
    if leaf.level == level and leaf.made is not None:
        return fused.results(leaf.made, by_rows)
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
            # PyTorch 2.11 has the hooks on for as long as the frames of the checkpoint live.
            traceback.clear_frames(error.__traceback__)
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


def call(function: Callable[..., Any], points: Sequence[Any]) -> Any:
    """The function of tensors; what it computes under no_grad is constant, in forward mode too."""
    if torch.compiler.is_compiling():
        _refuse_constants()
        with Substitutes(refuse=False):
            return function(*points)
    with modes.seen, Substitutes(refuse=False):
        return function(*points)


@torch.compiler.assume_constant_result
def _refuse_constants() -> None:
    dynamo_private.operators_are_methods(Jet, modes.refuse, inner.HANDLERS, fresh.is_made)


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
