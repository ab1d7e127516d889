"""Layers that wait: W φ(û) + b is computed when somebody asks for more than the next layer.

Where gradients are kept, φ(û) enters autograd's graph with the affine map behind it, as one node
(`nodes`), and layers that follow each other as one of all (`chains`).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from copy import copy
from functools import lru_cache
from itertools import accumulate
from math import prod
from typing import Any

import torch
from torch.autograd.graph import saved_tensors_hooks

from ..core.algebra import JetAlgebra
from ..core.jet import UNROLL
from . import chains, inplace, kernels, nodes, private
from .chains import WRITTEN, Stage
from .compiled import TYPES
from .inplace import Composition, Function, Places
from .nodes import Node

SMALL = 2**17
"""So many numbers of second order, or fewer, are not worth the Python of a node."""

looped: ContextVar[bool] = ContextVar("looped", default=False)
"""Whether tensors without numbers stand for some that compiled loops read (`counting`)."""


class Stacked:
    """Coefficients in one array that is in autograd's graph."""

    waits = False
    """Whether they are not computed yet."""
    unbound: Any = None
    """The rows one by one, once they were asked for."""
    broadcast: tuple[bool, ...] | None = (False,)
    """Which arrays have no axis of points; None where loops do not read them."""

    def __init__(self, rows: Any, sizes: tuple[int, ...]) -> None:
        self.rows, self.places = rows, Places(sizes, True)
        self.shape, self.dtype, self.device = rows.shape[1:], rows.dtype, rows.device

    @property
    def arrays(self) -> tuple[Any, ...]:
        """What `places` speaks of."""
        return (self.rows,)

    def attached(self) -> Stacked:
        """This."""
        return self


class Layered(Stacked):
    """W φ(û) + b, computed when it is asked for, together with the layers that it is made of."""

    def __init__(self, composed: Composed, stage: Stage) -> None:
        self.composed, self.stage = composed, stage
        self.places = Places(stage.kernel.sizes, True)  # type: ignore[union-attr]
        self.shape = (*composed.shape[:-1], stage.weight.shape[0])
        self.dtype, self.device = composed.dtype, composed.device
        self.versions, self.moving = _versions(stage), _moving(stage)
        self.waits = True

    def __getattr__(self, name: str) -> Any:
        if name != "rows":
            raise AttributeError(name)
        self._compute()
        return self.rows

    def _compute(self) -> None:
        layers: list[Any] = [self]
        before = self.composed.source
        while type(before) is Layered and before.waits:
            layers.insert(0, before)
            before = before.composed.source
        first = layers[0].composed
        if type(before) is Started and before.waits:
            layers.insert(0, before)
        check_unwritten(layers)
        found = list(first.run([layer.stage for layer in layers]))
        if layers[0] is before:
            count = len(before.given)
            before.computed, found = tuple(found[:count]), found[count:]
            del layers[0]
        for layer, rows in zip(layers, found, strict=True):
            layer.rows, layer.waits = rows, False
            del layer.composed  # and with it what it was computed from


class Started:
    """W x̂ + b of a point that is constant, the layer that a chain begins with.

    Attributes:
        stage: its weight and bias.
        given: x̂, the value and the blocks that are not zero.
        places: where these stand, in û = W x̂ + b as well.
    """

    def __init__(self, given: Sequence[Any], places: Places, stage: Stage) -> None:
        self.stage, self.given, self.places = stage, given, places
        width = stage.weight.shape[0]
        self.shape, *blocks = [(*x.shape[:-1], width) for x in given]
        lacking = kernels.without_points(blocks, self.shape)
        self.broadcast = None if lacking is None else (False, *lacking)
        self.dtype, self.device = given[0].dtype, given[0].device
        self.versions, self.moving = _versions(stage), _moving(stage)
        self.computed: tuple[Any, ...] = ()

    @property
    def waits(self) -> bool:
        """Whether û is not computed yet."""
        return not self.computed

    @property
    def arrays(self) -> tuple[Any, ...]:
        """û, in autograd's graph."""
        if not self.computed:
            check_unwritten([self])
            with private.GradMode(True):
                self.computed = tuple(nodes.begin(self.stage, self.given))
        return self.computed

    def attached(self) -> Started:
        """This."""
        return self


def check_unwritten(layers: Sequence[Any]) -> None:
    """Refuse to compute layers whose parameters are others now."""
    if any([layer.moving != _moving(layer.stage) for layer in layers]):
        raise RuntimeError(
            "a function that jetfold differentiates switched requires_grad of the weight or the "
            "bias of a layer off after it had called the layer: switch it off before, or give the "
            "layer weight.detach()"
        )
    if any([layer.versions != _versions(layer.stage) for layer in layers]):
        raise RuntimeError(WRITTEN)


def _held(stage: Stage) -> Stage:
    """Parameters that are frozen stay so until they are computed with."""
    of, kernel, *rest = stage
    weight, bias = [x if x is None or x.requires_grad else x.detach() for x in rest]
    return Stage(of, kernel, weight, bias)


def _moving(stage: Stage) -> list[bool]:
    return [x is not None and x.requires_grad for x in (stage.weight, stage.bias)]


def _versions(stage: Stage) -> list[tuple[int, int]]:
    """Of weight and bias; they stand elsewhere once something was assigned to `.data`."""
    return [
        (x.data_ptr(), 0 if x.is_inference() else x._version)
        for x in (stage.weight, stage.bias)
        if x is not None
    ]


class Composed:
    """φ(û), of which only the value is computed yet, if that.

    Attributes:
        of: φ, and where û stands.
        source: what û is read from: the arrays, or a layer that may not be computed yet.
        kernel: the loops that compute it, or None.
        follows: whether autograd does, or is told of it.
        observed: whether somebody is told of what it computes.
        y: φ(u); None where the loops compute it.
    """

    def __init__(self, of: Composition, source: Any, kernel: Any, follows: bool) -> None:
        self.of, self.source, self.kernel, self.follows = of, source, kernel, follows
        self.observed = kernel is None and private.is_observed()  # else there is no kernel
        self._attached: Stacked | None = None
        self.y: Any = None
        of_source = source
        if kernel is None or not kernel.inside:
            with private.GradMode(False):
                of_source = self.y = of.function(of.value(self.arrays))
            if kernel is not None and not self.y.is_contiguous():
                self.kernel = None
        elif type(source) is tuple:
            with private.GradMode(False):
                of_source = of.value(source)
        self.shape, self.dtype = tuple(of_source.shape), of_source.dtype
        self.device = of_source.device

    @property
    def arrays(self) -> Sequence[Any]:
        """û."""
        return self.source if type(self.source) is tuple else self.source.arrays

    def followed(self) -> Composed:
        """The same, where autograd follows what comes next."""
        other = copy(self)
        other.follows = True
        return other

    def attached(self) -> Stacked:
        """All coefficients in autograd's graph."""
        if self._attached is None:
            self._attached = self.through(None, None)
        return self._attached

    def through(self, weight: Any, bias: Any) -> Stacked:
        """All coefficients of W φ(û) + b, or of φ(û) alone."""
        stage = Stage(self.of, self.kernel, weight, bias)
        if not self.follows:
            sizes: list[int] = []
            (rows,) = nodes.evaluate((stage,), sizes, self.y, self.arrays)
            return Stacked(rows, tuple(sizes))
        if self.kernel is not None and self.kernel.alone and chains.joins(stage, self.shape):
            return Layered(self, _held(stage))
        sizes = []
        (rows,) = self.run([stage], sizes)
        return Stacked(rows, tuple(sizes))

    def run(self, stages: Sequence[Stage], sizes: list[int] | None = None) -> Sequence[Any]:
        """The values of this layer and of further ones, in autograd's graph; `sizes` takes how many
        rows of the last belong to each degree."""
        arrays = self.arrays if stages[0].of is self.of else self.source.given
        with private.GradMode(True):
            if private.is_followed():
                return nodes.plain(stages, arrays, sizes)
            further = [x for stage in stages for x in (stage.weight, stage.bias)]
            if self.observed or not private.is_observed():
                return Node.once(stages, sizes, self.y, *arrays, *further)
            with saved_tensors_hooks(_as_it_is, _as_it_is):  # no part of a checkpoint around this
                return Node.once(stages, sizes, self.y, *arrays, *further)


def _as_it_is(x: Any) -> Any:
    return x


# ------------------------------------------------------------------ where it serves


def composed(jet: Any, function: Function, tower: Function) -> Composed | None:
    """φ(û) of a jet, where it is worth a node of its own, or there is a kernel for it."""
    if private.is_followed() or not hasattr(jet, "holding"):
        return None
    made = jet.made
    if made is not None:
        made = made.attached()
        places = made.places
        if made.waits and torch.is_grad_enabled():
            of = Composition(jet.algebra, function, tower, places)
            kernel = kernels.find_for(of, made.dtype, made.broadcast)
            return Composed(of, made, kernel, True) if worth(of, kernel, made.shape, True) else None
        arrays = made.arrays
    else:
        u, found = jet.primal, [b for b in jet.stored if b is not None]
        arrays = (u, *found)
        if not all([type(x) is torch.Tensor for x in arrays]) or u.dtype not in TYPES:
            return None
        if not found or any([x.dtype != u.dtype or x.ndim != u.ndim + 1 for x in found]):
            return None
        sizes = [0 if b is None else b.shape[0] for b in jet.stored]
        places = Places((1, *sizes), False)
    of = Composition(jet.algebra, function, tower, places)
    follows = torch.is_grad_enabled() and any([x.requires_grad for x in arrays])
    kernel = kernels.find(of, arrays)
    shape = of.value(arrays).shape
    return Composed(of, arrays, kernel, follows) if worth(of, kernel, shape, follows) else None


def worth(of: Composition, kernel: Any, shape: Sequence[int], follows: bool) -> bool:
    """Whether a composition of a value of such a shape is a node of its own."""
    if kernel is not None or (looped.get() and kernels.may_have_one(of)):
        return True
    algebra, entries = of.algebra, prod(shape)
    if not follows or (algebra.order <= 2 and entries * algebra.vectors <= SMALL):
        return False
    return _entries(algebra) <= UNROLL or entries >= inplace.LONG


@lru_cache(maxsize=256)
def _entries(algebra: JetAlgebra) -> int:
    """The length of its longest table without structure."""
    return max(
        [
            len(table.entries)
            for tables in algebra.products
            for table in tables
            if table.diagonal is None and table.rowwise is None
        ],
        default=0,
    )


def opened(made: Any) -> tuple[Any, tuple[Any, ...]]:
    """The value and the blocks, views in autograd's graph whatever modes say now."""
    with private.as_before():
        made = made.attached()
        value, *blocks = made.places.opened(made.arrays)
        return value.squeeze(0), tuple(blocks)


def results(made: Any, by_rows: bool) -> tuple[Any, tuple[Any, ...]]:
    """The value and the blocks, or rows of each, in memory of their own: users may write there."""
    made = made.attached()
    if by_rows and made.places.together:
        if made.unbound is None:
            with private.GradMode(True):
                made.unbound = torch.unbind_copy(made.rows, 0)
        value, *blocks = _cut(made.unbound, made.places.sizes)
        return value[0], tuple(blocks)
    first, found = opened(made)
    with private.GradMode(True):
        return first.clone(), tuple([None if b is None else b.clone() for b in found])


def _cut(rows: Sequence[Any], sizes: Sequence[int]) -> list[Any]:
    """Pieces of such lengths, None for none."""
    ends = list(accumulate(sizes))
    return [
        rows[start:end] if end > start else None
        for start, end in zip([0, *ends], ends, strict=False)
    ]


def affine(jet: Any, weight: Any, bias: Any) -> Stacked | Started | None:
    """W φ(û) + b of a jet that is φ(û), or W x̂ + b of one that is a constant point."""
    made = jet.made
    value = jet.primal if made is None else made  # of a jet that was made it would be computed
    if weight.ndim != 2 or not value.shape or private.is_followed():
        return None
    for x in (weight, bias):
        if x is not None and (type(x) not in _PLAIN or x.dtype != value.dtype):
            return None
    if bias is not None and bias.ndim > 1:  # another one at every point
        return None
    grad = torch.is_grad_enabled()
    moving = grad and any([x is not None and x.requires_grad for x in (weight, bias)])
    if type(made) is not Composed:
        return _started(jet, weight, bias) if made is None and moving else None
    if made.follows and not grad:
        return None
    if moving and not made.follows:
        made = made.followed()
    return made.through(weight, bias)


def _started(jet: Any, weight: Any, bias: Any) -> Started | None:
    """W x̂ + b of a point that nothing differentiates by."""
    u, found = jet.primal, [b for b in jet.stored if b is not None]
    given = (u, *found)
    if not (found and hasattr(jet, "holding")) or private.is_observed():
        return None
    if not all([type(x) is torch.Tensor and not x.requires_grad for x in given]):
        return None
    if u.dtype not in TYPES or not u.numel() or u.shape[-1] != weight.shape[1]:
        return None
    alike = [
        b.dtype == u.dtype and b.ndim == u.ndim + 1 and b.shape[-1] == u.shape[-1] for b in found
    ]
    stage = Stage(None, None, weight, bias)
    if not (all(alike) and u.is_cpu and chains.is_readable(stage)):
        return None
    sizes = [0 if b is None else b.shape[0] for b in jet.stored]
    return Started(given, Places((1, *sizes), False), _held(stage))


_PLAIN = (torch.Tensor, torch.nn.Parameter)
