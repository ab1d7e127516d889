"""Compositions and layers as Dynamo traces them, in what torch.compile compiles.

A composition is computed again for its gradient. Layers of a constant point x̂, W x̂ + b, then φ and
W û + b in turn, wait until somebody asks for more than the next layer; then they are one operation,
done some points at a time (`chains`), where Inductor would do layer after layer in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..core.jet import Jet, compose
from ..core.structure import Structured
from . import arrays as XP
from . import opaque, private
from .chains import CACHE, FEWEST, WRITTEN, Chain, Stage
from .compiled import TYPES
from .inplace import Function
from .kernels import plain
from .opaque import known, named, places_of


class Layers:
    """A layer that is not computed yet, and those before it.

    Attributes:
        algebra: of the jet.
        before: the layer before it, or None.
        given, places: x̂ of the first, the value and the blocks that are there, and how they lie.
        weights: W and b of every layer, one after the other.
        keys: what stands for each φ.
        sizes: how many coefficients of each degree û has.
        function, tower: φ, if this is one.
        uses: how many layers follow.
    """

    def __init__(
        self, algebra: Any, before: Any, given: list[Any], places: str, weights: list[Any],
        keys: tuple[str, ...], sizes: tuple[int, ...], function: Any = None, tower: Any = None,
    ) -> None:  # fmt: skip
        self.algebra, self.before = algebra, before
        self.given, self.places, self.weights = given, places, weights
        self.keys, self.sizes = keys, sizes
        self.function, self.tower = function, tower
        self.uses = 0
        self.computed: Any = None
        noted = [] if before is None else before.versions
        self.versions = noted + self._versions()[len(noted) :]
        if before is not None:
            before.uses += 1

    def values(self) -> tuple[Any, tuple[Any, ...]]:
        """The value and the blocks, as if they had been computed where the layer was called."""
        if self.computed is None:
            if self.versions != self._versions():
                raise RuntimeError(WRITTEN)
            if torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu"):
                self.computed = self._values()
            else:  # which began later
                with torch.enable_grad(), torch.autocast("cpu", enabled=False):
                    self.computed = self._values()
        return self.computed

    def _versions(self) -> list[int]:
        return [0 if x is None else x._version for x in self.weights]

    def _values(self) -> tuple[Any, tuple[Any, ...]]:
        if self.function is not None:
            jet = Jet(self.algebra, 0, *self.before.values())
            return at_once(jet, self.function, self.tower)
        if self.before is None or self._follows_what_is_shared():
            weight, bias = self.weights[-2:]
            value, blocks = (
                (self.given[0], self._with_zeros(self.given[1:]))
                if self.before is None
                else self.before.values()
            )
            found = [None if b is None else F.linear(b, weight) for b in blocks]
            return F.linear(value, weight, bias), tuple(found)
        there = [x for x in self.weights if x is not None]
        biases = "".join(["b" if bias is not None else "-" for bias in self.weights[1::2]])
        described = ";".join([str(len(self.given)), biases, *self.keys])
        rows = torch.ops.jetfold.chain([*self.given, *there], described)[-1]
        value, *found = rows.split([n for n in self.sizes if n])
        return value[0], self._with_zeros(found)

    def _follows_what_is_shared(self) -> bool:
        """Whether something before it is used by others too: it is computed once."""
        before = self.before
        while before is not None:
            if before.uses > 1 or before.computed is not None:
                return True
            before = before.before
        return False

    def _with_zeros(self, found: Sequence[Any]) -> tuple[Any, ...]:
        rest = iter(found)
        return tuple([next(rest) if n else None for n in self.sizes[1:]])


# ------------------------------------------------------------------ what waits


def affine(jet: Any, weight: Any, bias: Any) -> Layers | None:
    """W φ(û) + b, or W x̂ + b of a constant point, as layers that wait; None where it does not."""
    made = jet.layers
    if not torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return None
    if made is not None:
        if made.function is None or not _fits(weight, bias, made.weights[-2].shape[0], made.given):
            return None
        weights = [*made.weights, weight, bias]
        return Layers(jet.algebra, made, made.given, made.places, weights, made.keys, made.sizes)
    u = jet.primal
    found = [b for b in jet.stored if b is not None]
    if u.ndim != 2 or not u.shape[0] or u.device.type != "cpu" or u.dtype not in TYPES:
        return None
    if not weight.requires_grad:
        return None
    if not all([type(x) is Tensor and not x.requires_grad for x in (u, *found)]):
        return None
    if torch.compiler.is_exporting() or inside_transform():
        return None
    if not _fits(weight, bias, u.shape[1], [u]) or (places := places_of(jet)) is None:
        return None
    zeros = [kind == "-" for kind in places]
    sizes = [0 if zero else n for n, zero in zip(jet.algebra.sizes, zeros, strict=True)]
    return Layers(jet.algebra, None, [u, *found], places, [weight, bias], (), tuple(sizes))


def _fits(weight: Any, bias: Any, width: int, given: Sequence[Any]) -> bool:
    """Whether these are parameters of a layer of so many inputs."""
    if not isinstance(weight, Tensor) or weight.ndim != 2 or weight.shape[1] != width:
        return False
    if weight.dtype != given[0].dtype or weight.device.type != "cpu":
        return False
    if bias is None:
        return True
    return (
        isinstance(bias, Tensor) and bias.shape == weight.shape[:1] and bias.dtype == weight.dtype
    )


def elementwise(jet: Any, function: Any, tower: Any) -> Layers | None:
    """φ of layers that wait; None where it is computed at once."""
    made = jet.layers
    if made is None or made.function is not None or not torch.is_grad_enabled():
        return None
    width, dtype, algebra = made.weights[-2].shape[0], made.given[0].dtype, jet.algebra
    places = made.places
    if made.keys:
        places = "".join(["t" if n else "-" for n in made.sizes])
    key, sizes = named(function, tower, algebra.key, places, dtype, None)
    if not key or FEWEST * sum(sizes) * width > CACHE:
        return None
    keys = (*made.keys, key)
    return Layers(
        algebra, made, made.given, made.places, made.weights, keys, sizes, function, tower
    )


# ------------------------------------------------------------------ what does not wait


inside_transform = torch.compiler.assume_constant_result(private.inside_transform)


def at_once(jet: Any, function: Function, tower: Function) -> tuple[Any, tuple[Any, ...]]:
    """The value and the blocks of φ(û), traced by Dynamo."""
    if recomputable(jet):
        value, blocks = recomputed(jet, function, tower)
    else:
        value = function(jet.primal)
        blocks = compose(jet, tower(jet.primal, value, jet.algebra.order, XP), value.ndim, XP)
    return value, tuple(blocks)


def recomputable(jet: Any) -> bool:
    """Whether φ(û), traced by Dynamo, may be computed again for its gradient."""
    if isinstance(jet.primal, Jet) or not torch.is_grad_enabled() or inside_transform():
        return False
    if any([type(b) is Structured for b in jet.stored]):
        return False
    return any([x is not None and x.requires_grad for x in (jet.primal, *jet.stored)])


def recomputed(jet: Any, function: Function, tower: Function) -> tuple[Any, list[Any]]:
    """φ(û), computed again for its gradient: what is kept is û."""
    there, algebra = [b is not None for b in jet.stored], jet.algebra

    def compute(u: Any, *given: Any) -> Any:
        rest = iter(given)
        blocks = [next(rest) if held else None for held in there]
        whole = opaque.composed(Jet(algebra, 0, u, blocks), function, tower)
        if whole is not None:
            return whole[0], *whole[1]
        y = function(u)
        entries = tower(u, y, algebra.order, XP)
        return y, *compose(Jet(algebra, 0, u, blocks), entries, y.ndim, XP)

    found = [b for b in jet.stored if b is not None]
    y, *blocks = checkpoint(compute, jet.primal, *found, use_reentrant=False)
    return y, blocks


# ------------------------------------------------------------------ the operation


@lru_cache(maxsize=1024)
def _described(described: str) -> tuple[int, list[bool], list[Any]]:
    """How many arrays x̂ has, which layers have a bias, and kernel and composition of each φ."""
    given, biases, *keys = described.split(";")
    return int(given), [bias == "b" for bias in biases], [known(key) for key in keys]


def _chain(inputs: Sequence[Any], described: str, arrays: Any = None) -> Chain:
    given, biases, kernels = _described(described)
    inputs = [plain(x) for x in inputs]
    rest = iter(inputs[given:])
    weights = [(next(rest), next(rest) if bias else None) for bias in biases]
    start = Stage(None, None, *weights[0])
    stages = [
        Stage(of, kernel, weight, bias)
        for (kernel, of), (weight, bias) in zip(kernels, weights[1:], strict=True)
    ]
    if arrays is None:
        arrays = _first(inputs, described)
    return Chain(stages, arrays, None, start, inputs[:given])


def _first(inputs: Sequence[Any], described: str) -> list[Any]:
    """Room for û = W x̂ + b."""
    given, _, _ = _described(described)
    width = inputs[given].shape[0]
    return [x.new_empty((*x.shape[:-1], width)) for x in inputs[:given]]


torch.library.define("jetfold::chain", "(Tensor[] inputs, str described) -> Tensor[]")
torch.library.define(
    "jetfold::chain_backward",
    "(Tensor[] inputs, Tensor[] between, Tensor cotangent, str described, bool[] wanted)"
    " -> Tensor[]",
)


@torch.library.impl("jetfold::chain", "CPU")
def _compute(inputs: list[Tensor], described: str) -> list[Tensor]:
    """û after the first layer, in its arrays, and the values of every further one."""
    chain = _chain(inputs, described)
    return [*chain.arrays, *chain.forward()]


@torch.library.register_fake("jetfold::chain")
def _(inputs: list[Tensor], described: str) -> list[Tensor]:
    given, biases, kernels = _described(described)
    first, rest = _first(inputs, described), iter(inputs[given:])
    widths = []
    for bias in biases:
        widths.append(next(rest).shape[0])
        if bias:
            next(rest)
    lead = inputs[0].shape[:-1]
    return first + [
        inputs[0].new_empty((sum(kernel.sizes), *lead, width))
        for (kernel, _), width in zip(kernels, widths[1:], strict=True)
    ]


@torch.library.impl("jetfold::chain_backward", "CPU")
def _compute_backward(
    inputs: list[Tensor], between: list[Tensor], cotangent: Tensor, described: str,
    wanted: list[bool],
) -> list[Tensor]:  # fmt: skip
    """The gradients by the weights and biases that are wanted."""
    given, biases, _ = _described(described)
    between = [plain(x) for x in between]
    chain = _chain(inputs, described, between[:given])
    rest = iter(wanted)
    pairs = [(next(rest), next(rest) if bias else False) for bias in biases]
    of_layers, _ = chain.reverse(between[given:], cotangent, pairs)
    return [x for pair in of_layers for x in pair if x is not None]


@torch.library.register_fake("jetfold::chain_backward")
def _(
    inputs: list[Tensor], between: list[Tensor], cotangent: Tensor, described: str,
    wanted: list[bool],
) -> list[Tensor]:  # fmt: skip
    given = _described(described)[0]
    found = zip(inputs[given:], wanted, strict=True)
    return [x.new_empty(x.shape) for x, wants in found if wants]


def _remember(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.inputs, ctx.described = len(inputs[0]), inputs[1]
    ctx.wanted = [x.requires_grad for x in inputs[0]]
    ctx.save_for_backward(*inputs[0], *output[:-1])


def _backward(ctx: Any, cotangents: Sequence[Any]) -> Any:
    given = _described(ctx.described)[0]
    inputs, between = ctx.saved_tensors[: ctx.inputs], ctx.saved_tensors[ctx.inputs :]
    wanted = ctx.wanted[given:]
    found = iter(
        torch.ops.jetfold.chain_backward(
            list(inputs), list(between), cotangents[-1], ctx.described, wanted
        )
    )
    return [None] * given + [next(found) if wants else None for wants in wanted], None


def _refuse(*_: Any) -> Any:
    raise NotImplementedError(
        "gradients of gradients of layers that torch.compile compiled; differentiate twice without "
        "torch.compile"
    )


torch.library.register_autograd("jetfold::chain", _backward, setup_context=_remember)
torch.library.register_autograd("jetfold::chain_backward", _refuse)
