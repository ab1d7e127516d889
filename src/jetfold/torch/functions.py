"""`torch.autograd.Function` on jets: the derivative that its author wrote, at every order.

Its code is never entered. The directional derivatives for the general rule are the transpose of
its `backward`: with pullback ct ↦ Jᵀct, which is linear in ct, the derivative of ⟨pullback(ct), v⟩
by ct is J v. Nested, that is what autograd of autograd gives, and so is the gradient for whatever
the function depends on. Where a Function has a `jvp` alone, that is its first derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import CheckpointFunction

from .. import warn
from ..core.jet import Jet
from . import hooks_private, modes, private
from .general import general, is_inexact
from .randomness import random_state, set_random_state
from .reverse import tracked_results

Flat = Callable[..., tuple[Any, ...]]
"""A function of tensors to tensors."""

Push = Callable[[Flat, Sequence[Any]], Flat]
"""From g and tangents v to x ↦ Dg(x)[v]."""


def apply(
    cls: Any, args: tuple[Any, ...], kwargs: dict[str, Any], original: Callable[..., Any]
) -> Any:
    """cls.apply(*args), of arguments of which some may be jets; original is PyTorch's."""
    if frozen := modes.frozen_at(0):
        args, kwargs = modes.settled(frozen, args), modes.settled(frozen, kwargs)
    jets = jets_in((args, kwargs))
    if not jets:
        modes.lift()  # so that jets are seen, which a checkpoint computes under no_grad
        try:
            result = original(*args, **kwargs)
        finally:
            modes.lower()
        if jets_in(result):
            raise NotImplementedError(_hidden(cls))
        return result
    if cls is CheckpointFunction:  # which has the derivatives of what it runs
        return args[0](*args[2:])
    if cls is hooks_private.OF_MODULES:
        return hooks_private.of_modules(args)
    if private.saves_inputs(cls):
        return _saved_inputs(args, original)
    for jet in jets:
        jet._refresh()
    own: list[Any] = []
    push = _by_pullback if private.inside_transform() else partial(_by_autograd, own)
    first = _first(cls, args, kwargs, push)
    warn.report(f"the autograd.Function {cls.__name__}")

    def func(*args: Any, **kwargs: Any) -> Any:
        tensors = [x for x in args if isinstance(x, torch.Tensor) and not isinstance(x, Jet)]
        inputs = [x for x in tensors if not x.is_inference()]
        versions = [x._version for x in inputs]
        result = cls.apply(*args, **kwargs)
        if [x._version for x in inputs] != versions:
            raise NotImplementedError(
                f"the autograd.Function {cls.__name__} writes into its arguments, which jetfold "
                "cannot follow; clone() in its forward what it writes to"
            )
        return result

    level = max([jet.level for jet in jets])
    rule = partial(_directional, own=own, first=first, push=push)
    return tracked_results(level, general(level, func, args, kwargs, directional=rule))


def apply_custom(level: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An operation of torch.library.custom_op: its register_autograd counts, as such a backward.

    Raises:
        NotImplementedError: it has none, or a transform of torch.func is running, in which PyTorch
            does not differentiate such operations at all.
    """
    if private.inside_transform():
        raise NotImplementedError(
            f"{func} is an operation of torch.library, which PyTorch does not differentiate inside "
            "of torch.func's transforms; call the operator with batch_dims= in place of vmap, or "
            "write it as a torch.autograd.Function with setup_context"
        )
    own: list[Any] = []
    push = partial(_by_autograd, own)
    rule = partial(_directional, own=own, first=push, push=push)
    warn.report(f"the operation {func}")
    try:
        return general(level, func, args, kwargs, directional=rule)
    except RuntimeError as error:
        raise NotImplementedError(
            f"{func} cannot be differentiated ({error}); give it a derivative by "
            "register_autograd, in operations that PyTorch differentiates"
        ) from error


class _Kept(NamedTuple):
    """A jet that PyTorch must not take for a tensor."""

    jet: Any


def _saved_inputs(args: tuple[Any, ...], original: Callable[..., Any]) -> Any:
    """What keeps the arguments of a checkpoint for its second run: jets are kept as they are."""
    saver = original(*[_Kept(x) if isinstance(x, Jet) else x for x in args])
    if saver.grad_fn is not None:
        get = saver.grad_fn.get_args
        saver.grad_fn.get_args = lambda saved: [
            x.jet if isinstance(x, _Kept) else x for x in get(saved)
        ]
    return saver


def jets_in(tree: Any) -> list[Any]:
    """The jets among arguments or results."""
    return [x for x in private.tree_leaves(tree) if isinstance(x, Jet)]


def _hidden(cls: Any) -> str:
    if cls is CheckpointFunction:
        return (
            "torch.utils.checkpoint.checkpoint(…, use_reentrant=True) of a function that reads the "
            "point from outside loses gradients; pass use_reentrant=False"
        )
    return (
        f"the autograd.Function {cls.__name__} depends on the point by more than its arguments, so "
        "its backward is not its derivative; pass to apply what it depends on"
    )


# ------------------------------------------------------------------ directional derivatives


_ONCE = once_differentiable(lambda: None).__code__  # what all such functions share


def _constant(name: str) -> str:
    return (
        f"{name} has a backward that PyTorch does not differentiate (once_differentiable, or "
        "not written with differentiable operations); jetfold needs its transpose, and derivatives"
    )


def _first(cls: Any, args: Any, kwargs: Any, push: Push) -> Push:
    """The first derivative of a Function: the transpose of its backward, or else its jvp.

    Where there are both they agree. The backward is taken, because then gradients need no more, and
    torch.func.jvp does not see what the jvp of a Function depends on: nested, it is wrong.
    """
    base = torch.autograd.Function
    if getattr(cls.backward, "__code__", None) is _ONCE:
        raise NotImplementedError(_constant(f"the autograd.Function {cls.__name__}"))
    if cls.jvp is base.jvp or cls.backward is not base.backward or cls.vjp is not base.vjp:
        return push
    if cls.setup_context is base.setup_context:
        raise NotImplementedError(
            f"the jvp of the autograd.Function {cls.__name__} has no derivative itself, because "
            "what its forward saves is computed without one; give it a setup_context, or a backward"
        )
    return _by_rule(cls, args, kwargs)


def _directional(
    func: Flat,
    primals: tuple[Any, ...],
    tangents: list[tuple[Any, ...]],
    own: list[Any],
    first: Push,
    push: Push,
) -> tuple[Any, ...]:
    """D^k func(primals)[tangents[0], …], for each entry of the leading axis of the tangents.

    One after the other: few such functions have a rule for vmap.
    """
    count, order, size = len(primals), len(tangents), len(tangents[0][0])

    def derivative(*arrays: Any) -> tuple[Any, ...]:
        outer = [x.level for x in arrays if isinstance(x, Jet)]
        if outer:
            rule = partial(_directional, own=own, first=push, push=push)
            return general(max(outer), derivative, arrays, {}, directional=rule)
        state = random_state(arrays)
        rows = []
        with torch.inference_mode(False), torch.enable_grad():
            arrays = tuple(x.clone() if x.is_inference() else x for x in arrays)
            points = arrays[:count]
            slots = [arrays[count * (s + 1) : count * (s + 2)] for s in range(order)]
            for n in range(size):
                set_random_state(state)
                g = func
                for s, slot in enumerate(slots):
                    g = (push if s else first)(g, [t[n] for t in slot])
                rows.append(g(*points))
        found = tuple(torch.stack(column) for column in zip(*rows, strict=True))
        kept = torch.is_grad_enabled() and (not own or _reach_others(found, own))
        return found if kept else tuple(x.detach() for x in found)

    return derivative(*primals, *(t for slot in tangents for t in slot))


def _reach_others(results: Sequence[Any], own: Sequence[Any]) -> bool:
    """Whether the gradient of results goes to other tensors than our own leaves."""
    ours = {id(x) for x in own}
    nodes = [x.grad_fn for x in results]
    seen = set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name().endswith("AccumulateGrad") and id(node.variable) not in ours:
            return True
        nodes.extend(following for following, _ in node.next_functions)
    return False


class _Context(torch.autograd.function.FunctionCtx):
    """What setup_context fills and jvp reads."""

    def __init__(self, asked: Sequence[bool]) -> None:
        self.needs_input_grad = tuple(asked)

    @property
    def saved_tensors(self) -> Any:
        return getattr(self, "saved_for_forward", None) or getattr(self, "to_save", ())


def _by_rule(cls: Any, args: Any, kwargs: Any) -> Push:
    """By the jvp of a Function, as code that is differentiated further."""
    leaves, spec = private.tree_flatten((args, kwargs))
    positions = [k for k, leaf in enumerate(leaves) if isinstance(leaf, Jet)]

    def filled(items: Sequence[Any]) -> Any:
        full = list(leaves)
        for k, item in zip(positions, items, strict=True):
            full[k] = item
        return private.tree_unflatten(full, spec)

    def push(_: Flat, tangents: Sequence[Any]) -> Flat:
        def pushed(*points: Any) -> Any:
            (inputs, named), (moving, _) = filled(points), filled(tangents)
            output = cls.apply(*inputs, **named)
            varies = [isinstance(x, Jet) for x in args]
            context = _Context(varies)
            cls.setup_context(context, inputs, output)
            rows = cls.jvp(
                context,
                *(
                    v if varying else torch.zeros_like(v) if is_inexact(v) else None
                    for v, varying in zip(moving, varies, strict=True)
                ),
            )
            values = private.tree_leaves(output)
            rows = rows if isinstance(rows, tuple) else (rows,)
            return tuple(
                torch.zeros_like(y) if row is None else row
                for y, row in zip(values, rows, strict=True)
                if is_inexact(y)
            )

        return pushed

    return push


def _by_pullback(func: Flat, tangents: Sequence[Any]) -> Flat:
    """By torch.func, inside of whose transforms autograd differentiates nothing."""

    def pushed(*points: Any) -> Any:
        values, pullback = torch.func.vjp(func, *points)
        zeros = tuple(torch.zeros_like(y) for y in values)
        transposed = torch.func.vjp(pullback, zeros)[1]
        return transposed(tuple(tangents))[0]

    return pushed


def _by_autograd(own: list[Any], func: Flat, tangents: Sequence[Any]) -> Flat:
    """By autograd, the one way for functions whose forward takes a ctx.

    own: takes the leaves that are made here.
    """

    def pushed(*points: Any) -> Any:
        points = tuple(
            x.clone() if x.requires_grad else x.detach().requires_grad_() for x in points
        )
        own.extend(x for x in points if x.is_leaf)
        values = func(*points)
        found = [torch.zeros_like(y) for y in values]
        live = [k for k, y in enumerate(values) if y.requires_grad]
        if not live:
            return tuple(found)
        outputs = [values[k] for k in live]
        cotangents = [torch.ones_like(y, requires_grad=True) for y in outputs]
        own.extend(cotangents)
        back = _grad(outputs, points, cotangents)
        pairs = [(b, t) for b, t in zip(back, tangents, strict=True) if b is not None]
        moving = [(b, t) for b, t in pairs if b.requires_grad]
        along = [None] * len(live)
        if moving:
            along = _grad([b for b, _ in moving], cotangents, [t for _, t in moving])
        linked = any(row is not None for row in along)
        if any(bool(b.any()) for b, _ in pairs if not (linked and b.requires_grad)):
            raise NotImplementedError(_constant("an autograd.Function"))  # linear, yet constant
        for k, row in zip(live, along, strict=True):
            found[k] = found[k] if row is None else row
        return tuple(found)

    return pushed


def _grad(outputs: Sequence[Any], inputs: Sequence[Any], cotangents: Sequence[Any]) -> Any:
    return torch.autograd.grad(outputs, inputs, cotangents, create_graph=True, allow_unused=True)
