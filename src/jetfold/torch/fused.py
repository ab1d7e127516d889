"""Nonlinearities and affine maps as single nodes of autograd's graph, which keep little.

Where gradients are kept, φ(û) is computed at once but enters the graph when it is asked for: an
affine map that follows takes both into one node. Such a node keeps û and φ(u), and computes again
what else its gradient needs: elementwise work, little beside the products of matrices. All
coefficients stand in one array, and meet the weight in one product. With

    φ(û) = Σ_k φ^{(k)}(u)/k! N^k    and    dφ(û) = φ'(û) dû, a product of jets,

the gradient by û is the transposed product of the cotangent with the jet φ'(û),

    ∂L/∂û_a = Σ_{w,b} c^w_{ab} (∂L/∂φ(û)_w) φ'(û)_b.

Gradients that are differentiated again go by the plain operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from ..core.algebra import JetAlgebra
from ..core.jet import UNROLL, Jet, compose
from ..core.structure import Structured
from . import arrays as XP
from . import inplace, kernels, opaque, private
from .inplace import Composition, Function, Opened, Part, Places
from .watching_private import Unwatched

SMALL = 2**17
"""So many numbers of second order, or fewer, are not worth the Python of a node."""


class Stacked:
    """Coefficients in one array that is in autograd's graph."""

    def __init__(self, rows: Any, sizes: tuple[int, ...]) -> None:
        self.rows, self.sizes = rows, sizes
        self.shape, self.dtype, self.device = rows.shape[1:], rows.dtype, rows.device

    def attached(self) -> Stacked:
        """This."""
        return self


class Composed:
    """φ(û), of which only the value is computed yet.

    Attributes:
        of, arrays: φ, and û where `of.given` says.
        kernel: the loops that compute it, or None.
        follows: whether autograd does, or is told of it.
        y: φ(u).
    """

    def __init__(self, of: Composition, arrays: Sequence[Any], kernel: Any, follows: bool) -> None:
        self.of, self.arrays, self.kernel, self.follows = of, arrays, kernel, follows
        self._attached: Stacked | None = None
        with private.GradMode(False):
            self.y = of.function(of.value(arrays))
        if kernel is not None and not self.y.is_contiguous():
            self.kernel = None
        self.shape, self.dtype, self.device = self.y.shape, self.y.dtype, self.y.device

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
        sizes: list[int] = []
        if not self.follows:
            rows = evaluate(self.of, self.kernel, sizes, self.y, weight, bias, self.arrays)
            return Stacked(rows, tuple(sizes))
        with private.GradMode(True):
            if private.is_followed():
                return Stacked(*self.of.plain(self.arrays))
            rows = Node.once(self.of, self.kernel, sizes, self.y, weight, bias, *self.arrays)
            return Stacked(rows, tuple(sizes))


class Node(Unwatched):
    """W φ(û) + b, or φ(û)."""

    @staticmethod
    def forward(
        ctx: Any, of: Composition, kernel: Any, sizes: list[int], y: Any, weight: Any, bias: Any,
        *arrays: Any,
    ) -> Any:  # fmt: skip
        """All coefficients in one array; `sizes` takes how many of them belong to each degree."""
        ctx.of, ctx.kernel = of, kernel
        ctx.save_for_backward(y, weight, *arrays)
        return evaluate(of, kernel, sizes, y, weight, bias, arrays)

    @staticmethod
    def backward(ctx: Any, cotangent: Any) -> Any:
        """By weight, bias and û."""
        of, (y, weight, *arrays) = ctx.of, ctx.saved_tensors
        _, _, _, _, by_weight, by_bias, *_ = ctx.needs_input_grad
        bias = cotangent[0].reshape(-1, cotangent.shape[-1]).sum(0) if by_bias else None
        if torch.is_grad_enabled() or private.is_followed(cotangent):
            weight, *found = _differentiable(of, cotangent, [weight, *arrays])
            return None, None, None, None, weight, bias, *found
        if ctx.kernel is not None and not private.is_observed():
            arrays, y = [kernels.plain(x) for x in arrays], kernels.plain(y)  # hooks may move them
            layer = kernels.Layer(ctx.kernel, of, arrays, y, weight)
            weight, found = layer.reverse(cotangent, by_weight)
            return None, None, None, None, weight, bias, *found
        order = of.algebra.order + 1
        of_weight: Any = None
        whole: Any = None
        rows: Any = None
        for part in parts(of, y):
            here = Opened(of, arrays, y, order, part)
            if part is None:
                given = cotangent
                if by_weight:
                    rows = here.evaluate().flatten(0, -2)
                    of_weight = cotangent.flatten(0, -2).t() @ rows
                    rows = None  # its memory may serve again
                if weight is not None:
                    given = cotangent @ weight
                whole = here.transpose(given, None, weight is not None)
                continue
            given = part.of(cotangent)
            if by_weight:
                of_weight = torch.zeros_like(weight) if of_weight is None else of_weight
                rows = here.evaluate(part.again(rows))
                part.add_product(given, rows, of_weight)
            if weight is not None:
                rows = here.new_rows() if rows is None else part.again(rows)
                given = part.multiply(given, weight, rows)
            if whole is None:
                whole = y.new_empty((sum(of.given.sizes), *y.shape))
            here.transpose(given, part.of(whole))
        if of.given.together:
            return None, None, None, None, of_weight, bias, whole
        found = [
            x if x.shape == array.shape else x.sum_to_size(array.shape)
            for x, array in zip(of.given.apart(whole), arrays, strict=True)
        ]
        return None, None, None, None, of_weight, bias, *found


def evaluate(
    of: Composition, kernel: Any, sizes: list[int], y: Any, weight: Any, bias: Any, arrays: Any
) -> Any:
    """W φ(û) + b, or φ(û), in one array; `sizes` takes how many rows belong to each degree."""
    if kernel is not None:
        sizes.extend(kernel.sizes)
        return kernels.Layer(kernel, of, arrays, y, weight).forward(bias)
    out: Any = None
    scratch: Any = None
    for part in parts(of, y):
        here = Opened(of, arrays, y, of.algebra.order, part)
        if out is None:
            sizes.extend(here.plan.sum.sizes)
        if part is None:
            out = here.evaluate()
            out = out if weight is None else F.linear(out, weight)
            continue
        if out is None:
            shape = y.shape if weight is None else (*y.shape[:-1], weight.shape[0])
            out = y.new_empty((here.plan.sum.size, *shape))
        if weight is None:
            here.evaluate(part.of(out))
        else:
            scratch = here.evaluate(part.again(scratch))
            part.multiply(scratch, weight.t(), part.of(out))
    if bias is not None:
        out[0].add_(bias)
    return out


def _differentiable(of: Composition, cotangent: Any, inputs: Sequence[Any]) -> list[Any]:
    """The gradients by autograd, of the plain operations."""
    weight, *arrays = inputs
    with torch.enable_grad():
        out, _ = of.plain(arrays)
        if weight is not None:
            out = F.linear(out, weight)
    moving = [x for x in inputs if x is not None and x.requires_grad]
    create = torch.is_grad_enabled()
    gradients = iter(torch.autograd.grad(out, moving, cotangent, create_graph=create))
    return [next(gradients) if x is not None and x.requires_grad else None for x in inputs]


# ------------------------------------------------------------------ some points at a time


CACHE = 2**19
"""So many numbers at a time are worked on, of all coefficients: then they stay in the cache."""
FEWEST = 2**7
"""So many points make a product of matrices worth while."""


def parts(of: Composition, y: Any) -> Sequence[Part | None]:
    """The points of φ(u), a part after the other on a CPU, where memory is slow; None for all."""
    if y.ndim < 2 or not y.is_cpu:
        return _ALL
    count, points = CACHE * torch.get_num_threads(), y.shape[0]
    count = max(count * points // (of.algebra.vectors * y.numel() or 1), FEWEST)
    if points < 4 * count:
        return _ALL
    return [Part(k, min(count, points - k)) for k in range(0, points, count)]


_ALL = (None,)

# ------------------------------------------------------------------ where it serves


def composed(jet: Any, function: Function, tower: Function) -> Composed | None:
    """φ(û) of a jet, where it is worth a node of its own, or there is a kernel for it."""
    if private.is_followed() or not hasattr(jet, "holding"):
        return None
    made = jet.made
    if made is not None:
        stack = made.attached()
        arrays, places = (stack.rows,), Places(stack.sizes, True)
    else:
        u, found = jet.primal, [b for b in jet.stored if b is not None]
        arrays = (u, *found)
        if not all([type(x) is torch.Tensor for x in arrays]) or u.dtype not in _DTYPES:
            return None
        if not found or any([x.dtype != u.dtype or x.ndim != u.ndim + 1 for x in found]):
            return None
        sizes = [0 if b is None else b.shape[0] for b in jet.stored]
        places = Places((1, *sizes), False)
    of = Composition(jet.algebra, function, tower, places)
    follows = torch.is_grad_enabled() and any([x.requires_grad for x in arrays])
    kernel = kernels.find(of, arrays)
    if kernel is None:
        entries = arrays[0].numel() // (sum(places.sizes) if places.together else 1)
        if not follows or (jet.algebra.order <= 2 and entries * jet.algebra.vectors <= SMALL):
            return None
        if _entries(jet.algebra) > UNROLL and entries < inplace.LONG:
            return None
    return Composed(of, arrays, kernel, follows)


_DTYPES = (torch.float32, torch.float64)


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
    """The value and the blocks, views in autograd's graph whatever grad mode says now."""
    stack = made.attached()
    with private.GradMode(True):
        value, *blocks = Places(stack.sizes, True).opened([stack.rows])
        return value.squeeze(0), tuple(blocks)


def affine(jet: Any, weight: Any, bias: Any) -> Stacked | None:
    """W φ(û) + b of a jet that is φ(û)."""
    made = jet.made
    if type(made) is not Composed or private.is_followed():
        return None
    for x in (weight, bias):
        if x is not None and (type(x) not in _PLAIN or x.dtype != made.y.dtype):
            return None
    if weight.ndim != 2 or made.y.ndim == 0:
        return None
    grad = torch.is_grad_enabled()
    if made.follows and not grad:
        return None
    if (
        grad
        and not made.follows
        and any([x is not None and x.requires_grad for x in (weight, bias)])
    ):
        made = made.followed()
    return made.through(weight, bias)


_PLAIN = (torch.Tensor, torch.nn.Parameter)


# ------------------------------------------------------------------ in what torch.compile compiles


_inside_transform = torch.compiler.assume_constant_result(private.inside_transform)


def recomputable(jet: Any) -> bool:
    """Whether φ(û), traced by Dynamo, may be computed again for its gradient."""
    if isinstance(jet.primal, Jet) or not torch.is_grad_enabled() or _inside_transform():
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
