"""The general rule: any operation that PyTorch differentiates in forward mode, of any order.

The directional derivatives that `core.general` asks for come from `torch.func.jvp`, nested.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd.forward_ad import unpack_dual
from torch.overrides import TorchFunctionMode

from ..core.algebra import monomials
from ..core.general import blocks
from ..core.jet import Jet
from . import arrays as XP
from .arguments import full, is_jet
from .lifts import is_tensor
from .private import is_wrapped, tree_flatten, tree_unflatten
from .table import NAMES, NESTED_WRONGLY, UNDIFFERENTIABLE


@torch.compiler.assume_constant_result
def _monomials(key: int) -> Any:
    """The monomials of an algebra; a constant to torch.compile."""
    return monomials(key)


def general(
    level: int,
    func: Callable[..., Any],
    args: Any,
    kwargs: dict[str, Any],
    strict: bool = False,
    directional: Callable[..., tuple[Any, ...]] | None = None,
) -> Any:
    """func on jets, exactly, as one operation without a rule of its own.

    strict: refuse outputs that do not depend on the jets, by an IndependentError; PyTorch passes
    over some functions that it cannot differentiate as if they were constant.
    directional: of func, its inputs and tangents, in place of nested torch.func.jvp.
    """
    leaves, spec = tree_flatten((args, kwargs))
    # Jets of outer transforms are inputs too: torch.func must not meet them inside of func.
    positions = [k for k, leaf in enumerate(leaves) if isinstance(leaf, Jet)]
    inputs = [leaves[k] for k in positions]
    like = next(x for x in inputs if is_jet(level, x))
    algebra = like.algebra
    shape: list[Any] = []  # what func returns, met when it first runs

    def flat(*points: Any) -> tuple[Any, ...]:
        filled = list(leaves)
        for k, point in zip(positions, points, strict=True):
            filled[k] = point
        args, kwargs = tree_unflatten(filled, spec)
        out, out_spec = tree_flatten(_evaluated(func, args, kwargs))
        varying = [is_inexact(leaf) for leaf in out]
        shape[:] = [out, out_spec, varying]
        return tuple(leaf for leaf, varies in zip(out, varying, strict=True) if varies)

    primals = tuple(x.primal if is_jet(level, x) else x for x in inputs)
    before = random_state(primals)
    values = flat(*primals)
    after = random_state(primals)
    out, out_spec, varying = list(shape)
    expanded = [full(x) if is_jet(level, x) else [None] * algebra.order for x in inputs]

    def derivative(tangents: list[list[Any]]) -> tuple[Any, ...]:
        set_random_state(before)
        slots = [tuple(slot) for slot in tangents]
        if directional is not None:
            return directional(flat, primals, slots)
        return _directional(flat, primals, slots, strict)

    found = blocks(algebra, _monomials(algebra.key), primals, expanded, derivative, len(values), XP)
    set_random_state(after)
    results, index = list(out), 0
    for n, varies in enumerate(varying):
        if varies:
            results[n] = like.like(values[index], found[index])
            index += 1
    return tree_unflatten(results, out_spec)


def _evaluated(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """func(*args), in a way that PyTorch differentiates rightly."""
    if torch.compiler.is_compiling():
        return func(*args, **kwargs)
    with Substitutes(), torch.jit.optimized_execution(False):  # which forgets tangents
        return func(*args, **kwargs)


def is_inexact(leaf: Any) -> bool:
    return is_tensor(leaf) and (leaf.is_floating_point() or leaf.is_complex())


# ------------------------------------------------------------------ the derivatives


def _directional(
    func: Callable[..., tuple[Any, ...]],
    primals: tuple[Any, ...],
    tangents: list[tuple[Any, ...]],
    strict: bool,
) -> tuple[Any, ...]:
    """D^k func(primals)[tangents[0], …], mapped over the leading axis of the tangents.

    torch.func takes tensors alone; where the arrays are jets of an outer transform, the derivative
    as a whole is an operation for the general rule at that level.
    """
    count, order = len(primals), len(tangents)
    arrays = [*primals, *(t for slot in tangents for t in slot)]

    def derivative(*arrays: Any) -> tuple[Any, ...]:
        points = arrays[:count]
        slots = [arrays[count * (s + 1) : count * (s + 2)] for s in range(order)]

        def one(*flat: Any) -> tuple[Any, ...]:
            g = func
            for s in range(order):
                g = _pushforward(g, flat[count * s : count * (s + 1)], strict and s == 0)
            return g(*points)

        return torch.func.vmap(one, randomness="same")(*[t for slot in slots for t in slot])

    outer = [x.level for x in arrays if isinstance(x, Jet)]
    if outer:
        return general(max(outer), derivative, tuple(arrays), {})
    return derivative(*arrays)


def _pushforward(
    func: Callable[..., Any], tangents: tuple[Any, ...], strict: bool
) -> Callable[..., Any]:
    def watched(*points: Any) -> Any:
        out = func(*points)
        if strict and any(unpack_dual(x).tangent is None for x in out):
            raise IndependentError
        return out

    def pushed(*points: Any) -> Any:
        return torch.func.jvp(watched, points, tuple(tangents))[1]

    return pushed


class IndependentError(Exception):
    """An output of a function does not depend on its inputs, as far as PyTorch knows."""


class Substitutes(TorchFunctionMode):
    """Within it, functions whose derivatives PyTorch nests wrongly run as their substitutes."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in UNDIFFERENTIABLE and any(map(is_wrapped, args)):
            raise NotImplementedError(wrong_in_torch(name))
        return SUBSTITUTES.get(func, func)(*args, **(kwargs or {}))


def wrong_in_torch(name: str) -> str:
    """Why a function is refused."""
    return (
        f"{name} has no rule of its own, and PyTorch's nested derivatives of it, which the general "
        "rule would use, are wrong; write it with other operations"
    )


SUBSTITUTES: dict[Callable[..., Any], Callable[..., Any]] = {
    function: NESTED_WRONGLY[key] for function, key in NAMES.items() if key in NESTED_WRONGLY
}


# ------------------------------------------------------------------ random operations

# func runs once for its value and once per order; all must draw the same numbers.


def random_state(primals: Sequence[Any]) -> Any:
    if torch.compiler.is_compiling():
        return None
    devices = {x.device for x in primals if x.device.type == "cuda"}
    return torch.get_rng_state(), [(d, torch.cuda.get_rng_state(d)) for d in devices]


def set_random_state(state: Any) -> None:
    if state is not None:
        torch.set_rng_state(state[0])
        for device, of_device in state[1]:
            torch.cuda.set_rng_state(of_device, device)
