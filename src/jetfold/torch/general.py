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
from . import fresh
from .arguments import full, is_jet
from .lifts import is_tensor
from .private import is_wrapped, tree_flatten, tree_unflatten
from .randomness import random_state, set_random_state
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
    if fresh.is_on():
        with fresh.off():
            return general(level, func, args, kwargs, strict, directional)
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

    # Some derivatives write in place, which an expanded tensor does not allow.
    primals = tuple(_apart(x.primal) if is_jet(level, x) else x for x in inputs)
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


def _apart(x: Any) -> Any:
    """A tensor whose entries do not share memory."""
    return x.contiguous() if x.layout == torch.strided else x


def _evaluated(func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """func(*args), in a way that PyTorch differentiates rightly."""
    if torch.compiler.is_compiling():
        return func(*args, **kwargs)
    with Substitutes(), torch.jit.optimized_execution(False):  # which forgets tangents
        return func(*args, **kwargs)


def is_inexact(leaf: Any) -> bool:
    """Whether something is a tensor of real or complex numbers, which have derivatives."""
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
        flat = [t for slot in slots for t in slot]

        def along(push: Push) -> Callable[..., Any]:
            def one(*flat: Any) -> Any:
                g = func
                for s in range(order):
                    g = push(g, flat[count * s : count * (s + 1)], strict and s == 0)
                return g(*points)

            return one

        return _first_that_works(along, flat)

    outer = [x.level for x in arrays if isinstance(x, Jet)]
    if outer:
        return general(max(outer), derivative, tuple(arrays), {})
    return derivative(*arrays)


Push = Callable[[Callable[..., Any], Any, bool], Callable[..., Any]]
"""From g, tangents v and `strict` to x ↦ Dg(x)[v]."""


def _first_that_works(along: Callable[[Push], Callable[..., Any]], tangents: Sequence[Any]) -> Any:
    """Forward mode mapped over the rows; else row by row; else the transpose of reverse mode.

    Some operations have no rule for vmap, some no forward derivative but a reverse one.
    """
    vmap = torch.func.vmap

    def in_turn(one: Callable[..., Any]) -> Callable[..., Any]:
        def rows(*stacked: Any) -> Any:
            found = [one(*row) for row in zip(*(t.unbind(0) for t in stacked), strict=True)]
            return tuple(torch.stack(column) for column in zip(*found, strict=True))

        return rows

    mapped = vmap(along(_pushforward), randomness="same")
    if torch.compiler.is_compiling():
        return mapped(*tangents)
    reverse = along(_pullback)
    ways = (
        mapped,
        in_turn(along(_pushforward)),
        vmap(reverse, randomness="same"),
        in_turn(reverse),
    )
    state = random_state(tangents)
    for way in ways:
        set_random_state(state)
        try:
            return way(*tangents)
        except (NotImplementedError, RuntimeError) as error:
            last = error
    raise NotImplementedError(
        f"PyTorch does not differentiate an operation, or not so often ({_first_line(last)}), and "
        "jetfold has no rule for it; write it with other operations, or apply it to x.detach() if "
        "its value alone is meant"
    ) from last


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].partition(". ")[0]


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


def _pullback(
    func: Callable[..., Any], tangents: tuple[Any, ...], strict: bool
) -> Callable[..., Any]:
    """The derivative as the transpose of its transpose, which is linear in the cotangents."""

    def pushed(*points: Any) -> Any:
        values, pull = torch.func.vjp(func, *points)
        zeros = tuple(torch.zeros_like(y) for y in values)
        transpose = torch.func.vjp(pull, zeros)[1]
        return transpose(tuple(tangents))[0]

    return pushed


class IndependentError(Exception):
    """An output of a function does not depend on its inputs, as far as PyTorch knows."""


class Substitutes(TorchFunctionMode):
    """Within it, functions whose derivatives PyTorch nests wrongly run as their substitutes.

    refuse: whether those that have none are refused.
    """

    def __init__(self, refuse: bool = True) -> None:
        super().__init__()
        self.refuse = refuse

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if func in SUBSTITUTES:
            return SUBSTITUTES[func](*args, **(kwargs or {}))
        if self.refuse and name in UNDIFFERENTIABLE and any(map(is_wrapped, args)):
            raise NotImplementedError(wrong_in_torch(name))
        return func(*args, **(kwargs or {}))


def wrong_in_torch(name: str) -> str:
    """Why a function is refused."""
    return (
        f"{name} has no rule of its own, and PyTorch's nested derivatives of it, which the general "
        "rule would use, are wrong; write it with other operations"
    )


SUBSTITUTES: dict[Callable[..., Any], Callable[..., Any]] = {
    function: NESTED_WRONGLY[key] for function, key in NAMES.items() if key in NESTED_WRONGLY
}
