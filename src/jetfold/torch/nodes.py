"""Nonlinearities and affine maps as single nodes of autograd's graph, which keep little.

A node keeps û, and computes again what else its gradient needs: elementwise work, little beside the
products of matrices. All coefficients stand in one array, and meet the weight in one product. With

    φ(û) = Σ_k φ^{(k)}(u)/k! N^k    and    dφ(û) = φ'(û) dû, a product of jets,

the gradient by û is the transposed product of the cotangent with the jet φ'(û),

    ∂L/∂û_a = Σ_{w,b} c^w_{ab} (∂L/∂φ(û)_w) φ'(û)_b.

Gradients that are differentiated again go by the plain operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from . import chains, kernels, private
from .chains import Stage
from .inplace import Composition, Opened, Part
from .watching_private import Unwatched


class Node(Unwatched):
    """Layers: W x̂ + b to begin with, or not; W φ(û) + b, one after the other; or φ(û) alone.

    Its inputs are x̂ or û, and of every layer the weight and the bias.
    """

    @staticmethod
    def forward(ctx: Any, stages: Sequence[Stage], sizes: Any, y: Any, *inputs: Any) -> Any:
        """The coefficients of every layer, each in one array; of the first one apart."""
        # A stage that were kept would keep its weight alive, and be none of autograd's.
        ctx.stages = [stage._replace(weight=None, bias=None) for stage in stages]
        ctx.set_materialize_grads(False)
        arrays = inputs[: len(inputs) - 2 * len(stages)]
        if stages[0].of is None:
            found = evaluate_from(stages[0], arrays, stages[1:])
        else:
            found = evaluate(stages, sizes, y, arrays)
        ctx.save_for_backward(*inputs, *found[:-1])
        return tuple(found)

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        """By the inputs."""
        stages, kept = ctx.stages, len(cotangents) - 1
        saved = ctx.saved_tensors
        inputs, between = saved[: len(saved) - kept], saved[len(saved) - kept :]
        given = len(inputs) - 2 * len(stages)
        arrays, rest = inputs[:given], inputs[given:]
        stages = [
            stage._replace(weight=weight, bias=bias)
            for stage, weight, bias in zip(stages, rest[::2], rest[1::2], strict=True)
        ]
        there = [c for c in cotangents if c is not None]
        if not there:  # a node behind this one gave none
            return None, None, None, *[None] * len(inputs)
        if torch.is_grad_enabled() or any([private.is_followed(c) for c in there]):
            return None, None, None, *_differentiable(stages, cotangents, inputs)
        needed = ctx.needs_input_grad[3 + given :]
        wanted = list(zip(needed[::2], needed[1::2], strict=True))
        if stages[0].of is not None:
            of_layers, by = _reverse_all(stages, arrays, between, cotangents, wanted)
            return None, None, None, *by, *[x for pair in of_layers for x in pair]
        start = stages[0], arrays
        if not any([c is not None for c in cotangents[:-1]]) and not private.is_observed():
            of_layers, _ = _reverse(
                stages[1:], between[:given], between[given:], cotangents[-1], wanted, start
            )
            return None, None, None, *[None] * given, *[x for pair in of_layers for x in pair]
        of_layers, by = _reverse_all(
            stages[1:], between[:given], between[given:], cotangents[given:], wanted[1:]
        )
        by = [_sum(x, c) for x, c in zip(by, cotangents[:given], strict=True)]
        of_layers = [_reverse_start(arrays, by, *wanted[0]), *of_layers]
        return None, None, None, *[None] * given, *[x for pair in of_layers for x in pair]


def _sum(a: Any, b: Any) -> Any:
    """a + b, None meaning zero."""
    return b if a is None else a if b is None else a + b


def _reverse_all(
    stages: Sequence[Stage], arrays: Sequence[Any], between: Sequence[Any],
    cotangents: Sequence[Any], wanted: Sequence[tuple[bool, bool]],
) -> tuple[list[tuple[Any, Any]], list[Any]]:  # fmt: skip
    """The gradients by weights and biases of layers, and by û, whose values may all be used."""
    of_layers: list[tuple[Any, Any]] = [(None, None)] * len(stages)
    by: list[Any] = [None] * len(arrays)
    end, cotangent = len(stages), cotangents[-1]
    while end:
        start = end - 1
        if cotangent is not None:
            while start and cotangents[start - 1] is None:
                start -= 1
            of_layers[start:end], by = _reverse(
                stages[start:end], between[start - 1 : start] if start else arrays,
                between[start : end - 1], cotangent, wanted[start:end],
            )  # fmt: skip
            cotangent = by[0]
        end = start
        if end:
            cotangent = _sum(cotangent, cotangents[end - 1])
    return of_layers, by


def _reverse_start(
    given: Sequence[Any], cotangents: Sequence[Any], by_weight: bool, by_bias: bool
) -> tuple[Any, Any]:
    """The gradients by weight and bias of W x̂ + b."""
    of_weight: Any = None
    for x, c in zip(given, cotangents, strict=True):
        if by_weight and c is not None:
            term = _matrix(c).t() @ _matrix(x)
            of_weight = _sum(of_weight, term)
    value = cotangents[0]
    return of_weight, _matrix(value).sum(0) if by_bias and value is not None else None


def _matrix(x: Any) -> Any:
    return x.reshape(-1, x.shape[-1])


def _reverse(
    stages: Sequence[Stage], arrays: Sequence[Any], between: Sequence[Any],
    cotangent: Any, wanted: Sequence[tuple[bool, bool]], start: tuple[Any, ...] = (),
) -> tuple[list[tuple[Any, Any]], list[Any]]:  # fmt: skip
    """The gradients by weights and biases of layers, and by û; with a start, by its instead."""
    of, kernel, *_ = stages[0]
    if kernel is not None and not private.is_observed():
        arrays = [kernels.plain(x) for x in arrays]  # hooks may move them
        between = [kernels.plain(x) for x in between]
        y: Any = None
        if not kernel.inside:
            y = kernels.plain(of.function(of.value(arrays)))
        if start or len(stages) > 1:
            stages = [s._replace(weight=kernels.plain(s.weight)) for s in stages]
        return chains.Chain(stages, arrays, y, *start).reverse(between, cotangent, wanted)
    of_layers: list[tuple[Any, Any]] = []
    for k in range(len(stages))[::-1]:
        of_layer, by = _reverse_one(
            stages[k], between[k - 1 : k] if k else arrays, cotangent, *wanted[k]
        )
        of_layers.insert(0, of_layer)
        cotangent = by[0]
    return of_layers, by


def _reverse_one(
    stage: Stage, arrays: Sequence[Any], cotangent: Any, by_weight: bool, by_bias: bool
) -> tuple[tuple[Any, Any], list[Any]]:
    """The gradients by weight and bias, and by û, by PyTorch's operations."""
    of, weight = stage.of, stage.weight
    of_bias = _matrix(cotangent[0]).sum(0) if by_bias else None
    y = of.function(of.value(arrays))
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
        return (of_weight, of_bias), [whole]
    found = [
        x if x.shape == array.shape else x.sum_to_size(array.shape)
        for x, array in zip(of.given.apart(whole), arrays, strict=True)
    ]
    return (of_weight, of_bias), found


def evaluate_from(start: Stage, point: Sequence[Any], stages: Sequence[Stage]) -> list[Any]:
    """The arrays of W x̂ + b, and the values of the layers behind it."""
    arrays = [x.new_empty((*x.shape[:-1], start.weight.shape[0])) for x in point]
    return arrays + chains.Chain(stages, arrays, None, start, point).forward()


def evaluate(stages: Sequence[Stage], sizes: Any, y: Any, arrays: Any) -> list[Any]:
    """The values of all layers, each in one array; `sizes` takes how many rows of the last belong
    to each degree."""
    of, kernel, weight, bias = stages[0]
    if kernel is not None:
        if sizes is not None:
            sizes.extend(stages[-1].kernel.sizes)  # type: ignore[union-attr]
        return chains.Chain(stages, arrays, y).forward()
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
    return [out]


def plain(stages: Sequence[Stage], arrays: Sequence[Any], sizes: Any = None) -> list[Any]:
    """The values of all layers by operations that autograd follows."""
    found: list[Any] = []
    held: tuple[int, ...] = ()
    if stages[0].of is None:
        found = arrays = begin(stages[0], arrays)
        stages = stages[1:]
    for k, (of, _, weight, bias) in enumerate(stages):
        out, held = of.plain(found[-1:] if k else arrays)
        if weight is not None:
            out = F.linear(out, weight)
        if bias is not None:
            out = torch.cat([out[:1] + bias, out[1:]])
        found.append(out)
    if sizes is not None:
        sizes.extend(held)
    return found


def _differentiable(
    stages: Sequence[Stage], cotangents: Sequence[Any], inputs: Sequence[Any]
) -> list[Any]:
    """The gradients by autograd, of the plain operations."""
    with torch.enable_grad():
        out = plain(stages, inputs[: len(inputs) - 2 * len(stages)])
    moving = [x for x in inputs if x is not None and x.requires_grad]
    there = [k for k, cotangent in enumerate(cotangents) if cotangent is not None]
    gradients = iter(
        torch.autograd.grad(
            [out[k] for k in there],
            moving,
            [cotangents[k] for k in there],
            create_graph=torch.is_grad_enabled(),
            allow_unused=True,
        )
    )
    return [next(gradients) if x is not None and x.requires_grad else None for x in inputs]


def begin(stage: Stage, given: Sequence[Any]) -> list[Any]:
    """The arrays of W x̂ + b."""
    value, *blocks = given
    value = F.linear(value, stage.weight, stage.bias)
    return [value, *[F.linear(b, stage.weight) for b in blocks]]


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
