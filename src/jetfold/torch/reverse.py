"""Reverse passes over jets (`core.duals`), and torch.autograd.grad inside of a function.

Coefficients are tensors, so PyTorch's own reverse mode differentiates them: from all coefficients
of an output to all coefficients of an input. What it differentiates by are *starts*: tensors of
full shape, none missing, that belong to one jet alone and do not depend on each other. (The
coefficients of x + 1 are those of x, those of exp(x) are made of its value.) `requires_grad_` makes
them. Where a function differentiates by another jet, it runs again, with starts for its arguments,
or else for the result of every operation (`run`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .. import warn
from ..core import duals
from ..core.arrays import Block
from ..core.jet import Jet
from . import arrays as XP
from . import private
from .arguments import first_jet, full, is_jet, zeros
from .randomness import set_random_state
from .rules import Function, Rule

# ------------------------------------------------------------------ passes


@torch.compiler.assume_constant_result
def passes(key: int) -> tuple[duals.Pass, ...]:
    """The reverse passes of an algebra; a constant to torch.compile."""
    return duals.passes(key)


def dense(like: Any, x: Any) -> list[Any]:
    """[value, block 1, …] of a jet or of a constant, all of them and in full."""
    found = is_jet(like.level, x)
    primal = x.primal if found else x
    blocks = full(x) if found else [None] * like.algebra.order
    return [
        primal,
        *(
            zeros(size, primal, primal.dtype) if b is None else b
            for size, b in zip(like.algebra.sizes[1:], blocks, strict=True)
        ),
    ]


def entered(one: duals.Pass, like: Any, cotangent: Any) -> list[Block]:
    """The cotangents of [value[None], block 1, …] for ⟨v̂, ĝ⟩ at the top of a pass."""
    nothing: list[Block] = [None] * (like.algebra.order + 1)
    if is_jet(like.level, cotangent):
        rows = [cotangent.primal[None], *full(cotangent)]
    else:
        rows = [cotangent[None], *nothing[1:]]
    return duals.apply(one.enter, rows, nothing, XP)


def left(one: duals.Pass, gradients: Sequence[Any], total: list[Block]) -> list[Block]:
    """What the gradients of [value, block 1, …] add to the gradient."""
    value, *blocks = gradients
    rows = [None if value is None else value[None], *blocks]
    return duals.apply(one.leave, rows, total, XP)


def jet_of(like: Any, rows: Sequence[Block], value: Any) -> Any:
    """The jet that has the rows [value[None], block 1, …]."""
    primal = torch.zeros_like(value) if rows[0] is None else rows[0][0]
    return like.like(primal, rows[1:])


# ------------------------------------------------------------------ starts


class Untracked(BaseException):
    """Autograd was asked for derivatives by a jet that has no starts.

    No Exception: the function of the user, which it passes, must not catch it.
    """

    def __init__(self, level: int, everything: bool) -> None:
        super().__init__("torch.autograd.grad by a jet, outside of `run`")
        self.level, self.everything = level, everything


class _Run:
    """What is known of the function that runs at some level.

    Attributes:
        arguments: the values of its arguments.
        tracked: whether these are starts.
        everything: whether the result of every operation is made of starts.
        starts: by the identity of the value, [value, block 1, …].
    """

    def __init__(self, arguments: Sequence[Any], tracked: bool, everything: bool) -> None:
        self.arguments = arguments
        self.tracked, self.everything = tracked, everything
        self.starts: dict[int, list[Any]] = {}

    def begin(self, jet: Any) -> bool:
        """Whether the coefficients of a jet are starts."""
        start = self.starts.get(id(jet.primal))
        return start is not None and all(
            a is b for a, b in zip(start, [jet.primal, *jet.blocks], strict=True)
        )


class _State(threading.local):
    def __init__(self) -> None:
        self.runs: dict[int, _Run] = {}  # by level


_state = _State()
EVERYTHING = [0]
"""How many functions run of whose operations every result is tracked, in all threads: what every
operation asks. Almost always none."""


def run(
    function: Callable[..., Any],
    jets: Sequence[Any],
    seeds: Sequence[tuple[Any, Sequence[Block]]],
    state: Any,
) -> Any:
    """function(*jets), as often as it takes to have starts where autograd asks for them.

    seeds: the value and the blocks of each.
    state: of the generators, with which it began.
    """
    level, arguments = jets[0].level, [primal for primal, _ in seeds]
    tracked = everything = False
    while True:
        _state.runs[level] = _Run(arguments, tracked, everything)
        EVERYTHING[0] += everything
        try:
            return function(*([track(jet) for jet in jets] if tracked else jets))
        except Untracked as asked:
            if asked.level != level or everything:
                raise
            tracked, everything = True, asked.everything
        finally:
            EVERYTHING[0] -= _state.runs.pop(level).everything
        set_random_state(state)
        jets = [jet.like(*seed) for jet, seed in zip(jets, seeds, strict=True)]


def check_starts(jet: Any) -> None:
    """Make sure that autograd differentiates by the coefficients of a jet.

    Raises:
        Untracked: so that the run begins again.
    """
    found = _state.runs[jet.level]
    if found.begin(jet):
        return
    if found.everything:
        raise NotImplementedError(
            "torch.autograd.grad by a tensor that is not the result of an operation of PyTorch, "
            "inside of a function that jetfold differentiates; differentiate by a copy of it: "
            "z = z.clone()"
        )
    argument = any(jet.primal is x for x in found.arguments)
    raise Untracked(jet.level, found.tracked or not argument)


def track(jet: Any) -> Any:
    """Make the coefficients of a jet starts, from now on."""
    if private.inside_transform():
        raise NotImplementedError(_INSIDE)
    found = _state.runs.get(jet.level)
    if found is not None and not found.begin(jet):
        starts = [_start(x) for x in dense(jet, jet)]
        jet.primal, jet.stored, jet.made = starts[0], tuple(starts[1:]), None
        found.starts[id(jet.primal)] = starts
    return jet


def is_start(jet: Any) -> bool:
    """Whether its coefficients are starts."""
    found = _state.runs.get(jet.level)
    return found is not None and found.begin(jet)


def check_copies(inputs: Sequence[Any]) -> None:
    """Warn where autograd differentiates by a tensor that is a copy of an argument."""
    plain = [x for x in inputs if isinstance(x, torch.Tensor) and not private.is_wrapped(x)]
    for found in _state.runs.values():
        for argument in found.arguments:
            while isinstance(argument, Jet):
                argument = argument.primal
            if not private.is_wrapped(argument) and any(_equal(x, argument) for x in plain):
                warn.report_copy()


def _equal(a: Any, b: Any) -> bool:
    alike = a.shape == b.shape and a.dtype == b.dtype and a.device == b.device
    return alike and not a.is_meta and torch.equal(a, b)


def without_graph(x: Any) -> Any:
    """A tensor, or a jet with its derivatives, through which no gradient passes."""
    if not isinstance(x, Jet):
        return x.detach()
    return x.like(
        without_graph(x.primal), [None if b is None else without_graph(b) for b in x.blocks]
    )


def tracked_results(level: int, result: Any) -> Any:
    """The result of an operation, where everything is tracked."""
    found = _state.runs.get(level) if EVERYTHING[0] else None
    if found is not None and found.everything and not private.inside_transform():
        for leaf in private.tree_leaves(result):
            if is_jet(level, leaf):
                track(leaf)
    return result


_INSIDE = (
    "torch.autograd.grad by the argument of a function that jetfold differentiates, inside of a "
    "transform of torch.func: PyTorch's autograd does not work there. Write torch.func.grad in the "
    "function, or call the operator with batch_dims= in the place of torch.func.vmap"
)


def _start(x: Any) -> Any:
    """A tensor by which autograd differentiates; gradients go on to what it depends on."""
    if isinstance(x, Jet):
        return track(x.like(x.primal, x.blocks))
    if not x.requires_grad:
        return x.detach().requires_grad_()
    with torch.enable_grad():
        return x.view_as(x)


# ------------------------------------------------------------------ rules


@dataclass(frozen=True)
class RequiresGrad(Rule):
    """x.requires_grad_(): every coefficient becomes something to differentiate by.

    Where autograd follows x already, PyTorch does nothing, and what came before counts.
    """

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        jet, *rest = args
        wanted = rest[0] if rest else kwargs.get("requires_grad", True)
        if wanted and not jet.primal.requires_grad and not torch.compiler.is_compiling():
            track(jet)
        return jet


@dataclass(frozen=True)
class AutogradGrad(Rule):
    """torch.autograd.grad, where outputs or inputs are jets."""

    def __call__(self, level: int, func: Function, args: tuple[Any, ...], kwargs: Any) -> Any:
        return autograd_grad(level, *args, **kwargs)


def autograd_grad(
    level: int,
    outputs: Sequence[Any],
    inputs: Sequence[Any],
    grad_outputs: Any = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    only_inputs: bool = True,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> tuple[Any, ...]:
    """The jets of the gradients. They depend on the point whatever `create_graph` says.

    create_graph: as in PyTorch, whether gradients go through the result to parameters, and to
    whatever else autograd follows.
    """
    outputs, inputs = _listed(outputs), _listed(inputs)
    grads = [None] * len(outputs) if grad_outputs is None else _listed(grad_outputs)
    if is_grads_batched:
        rows = [
            autograd_grad(
                level, outputs, inputs, [None if g is None else g[k] for g in grads],
                True, create_graph, True, allow_unused, False, materialize_grads,
            )
            for k in range(next(len(g) for g in grads if g is not None))
        ]  # fmt: skip
        columns = zip(*rows, strict=True)
        return tuple(None if c[0] is None else torch.stack(c) for c in columns)
    like = first_jet(level, [outputs, inputs, grads], {})
    grads = [_cotangent(y, g) for y, g in zip(outputs, grads, strict=True)]
    for x in inputs:
        if isinstance(x, Jet):  # of outer levels too
            check_starts(x)
    found: list[Any] = [None] * len(inputs)
    # By all coefficients of a jet at once; by a constant each coefficient of the gradient takes a
    # pass of its own, (∇g)^_b = ∂ĝ_b/∂û_0.
    for through, kind in ((passes, True), (duals.single, False)):
        places = [k for k, x in enumerate(inputs) if is_jet(level, x) is kind]
        if not places:
            continue
        starts = [[inputs[k].primal, *inputs[k].blocks] if kind else [inputs[k]] for k in places]
        totals: dict[int, Any] = {}
        for one in through(like.algebra.key):
            gradients = iter(_one(one, like, outputs, grads, starts, create_graph))
            for k, start in zip(places, starts, strict=True):
                part = [next(gradients) for _ in start]
                if any(g is not None for g in part):
                    missing = [None] * (like.algebra.order + 1 - len(part))
                    so_far = totals.get(k, [None] * (like.algebra.order + 1))
                    totals[k] = left(one, [*part, *missing], so_far)
        for k, total in totals.items():
            found[k] = jet_of(like, total, starts[places.index(k)][0])
    for k, x in enumerate(inputs):
        if found[k] is None and materialize_grads:
            found[k] = torch.zeros_like(x)
        elif found[k] is None and not allow_unused:
            raise RuntimeError(
                "One of the differentiated Tensors appears to not have been used in the graph. "
                "Set allow_unused=True if this is the desired behavior."
            )
    return tuple(found)


def _listed(x: Any) -> list[Any]:
    return list(x) if isinstance(x, (tuple, list)) else [x]


def _cotangent(output: Any, given: Any) -> Any:
    if given is not None:
        if given.shape != output.shape:
            raise RuntimeError(
                f"Mismatch in shape: grad_output has a shape of {tuple(given.shape)} and output "
                f"has a shape of {tuple(output.shape)}."
            )
        return given
    if output.numel() != 1:
        raise RuntimeError("grad can be implicitly created only for scalar outputs")
    return torch.ones_like(output.detach())


def _one(
    one: duals.Pass,
    like: Any,
    outputs: Sequence[Any],
    grads: Sequence[Any],
    starts: Sequence[Sequence[Any]],
    create_graph: bool,
) -> Sequence[Any]:
    """The gradients of one pass by all starts, None where there is none."""
    ends, cotangents = [], []
    for output, grad in zip(outputs, grads, strict=True):
        found = is_jet(like.level, output)
        parts = [output.primal[None], *output.blocks] if found else [output[None]]
        for part, given in zip(parts, entered(one, like, grad), strict=False):
            if part is not None and given is not None and part.requires_grad:
                ends.append(part)
                cotangents.append(given.sum_to_size(part.shape))
    flat = [x for start in starts for x in start]
    if not ends:
        return [None] * len(flat)
    return torch.autograd.grad(
        ends, flat, cotangents, retain_graph=True, create_graph=create_graph, allow_unused=True
    )
