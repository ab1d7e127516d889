"""Layers one after the other, W … φ(W φ(û) + b) … + b, run by compiled loops.

They are done some points at a time, all layers of the points before the next ones, so that φ(û)
never leaves the cache, and what one layer makes is still there for the next; gradients likewise.
What C is told (`loops.FIELDS`) depends on shapes alone, but for addresses: it is written once for
each kind of chain, with gaps (`Message`), and a call fills these.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from . import arrays as XP
from .gemm import Products, products
from .kernels import STEPS, Kernel, is_plain, plain

CACHE = 2**16
"""So many numbers of φ(û) at a time stay in the cache of a core."""
LONGEST = 2**9
"""Sums over more points than this are made of such: fewer roundings follow each other."""
FEWEST = 2**5
"""So many points make a product of matrices worth while."""
ALONE = 2**15
"""So many numbers, or fewer, are not worth a second thread."""
LINE = 64
"""Bytes of a line of the cache."""


WRITTEN = (
    "a function that jetfold differentiates wrote into the weight or the bias of a layer after it "
    "had called the layer, by which the gradient would be lost in plain PyTorch too: write into it "
    "before, or into a copy"
)
"""What those are told who write into parameters of layers that wait."""


class Stage(NamedTuple):
    """W φ(û) + b, or φ(û), or W û + b.

    Attributes:
        of, kernel: φ, and the loops that compute it, or None.
        weight, bias: W and b, or None.
    """

    of: Any
    kernel: Kernel | None
    weight: Any
    bias: Any


def joins(stage: Stage, shape: Sequence[int]) -> bool:
    """Whether values of such a shape are multiplied by W part by part, never all in memory."""
    weight, kernel = stage.weight, stage.kernel
    if kernel is None or weight is None or weight.shape[1] != shape[-1]:
        return False
    if not (is_readable(stage) and products(weight.dtype)):
        return False
    return bool(FEWEST * kernel.rows * prod(shape[1 if len(shape) > 1 else 0 :]) <= CACHE)


def is_readable(stage: Stage) -> bool:
    """Whether weight and bias fit, and lie in memory as C reads them."""
    weight, bias = stage.weight, stage.bias
    if not (weight.is_cpu and weight.layout is torch.strided and weight.numel()):
        return False
    if not is_plain(weight):
        return False
    return bias is None or (bias.is_cpu and bias.shape == weight.shape[:1] and is_plain(bias))


# ------------------------------------------------------------------ messages with gaps


class At(int):
    """The address of one of the tensors of a call, by its number among them."""


class In(int):
    """An address in the scratch memory of a call, by its distance from the beginning."""


class Message:
    """Numbers for C, and the gaps between them."""

    def __init__(self, numbers: Sequence[int], memory: int) -> None:
        self.memory = memory
        self.tensors = [(k, int(n)) for k, n in enumerate(numbers) if type(n) is At]
        self.scratch = [(k, int(n)) for k, n in enumerate(numbers) if type(n) is In]
        self.type: Any = ctypes.c_int64 * len(numbers)
        self.numbers = bytes(self.type(*numbers))

    def send(self, function: Any, tensors: Sequence[Any], like: Any) -> None:
        """Call a function of C with the addresses of tensors; None stands for no address."""
        numbers = self.type.from_buffer_copy(self.numbers)
        addresses = [0 if x is None else x.data_ptr() for x in tensors]
        for k, which in self.tensors:
            numbers[k] = addresses[which]
        memory = like.new_empty(self.memory, dtype=torch.uint8)
        start = memory.data_ptr()
        for k, distance in self.scratch:
            numbers[k] = start + distance
        function(numbers)


class Memory:
    """Scratch memory in one piece, of which bytes are taken before it is there."""

    def __init__(self) -> None:
        self.size = 0

    def take(self, size: int) -> In:
        """Where so many bytes will begin."""
        start = self.size
        self.size += -(-size // LINE) * LINE
        return In(start)


# ------------------------------------------------------------------ what depends on shapes alone


class Form(NamedTuple):
    """What a chain is, but for its numbers.

    Attributes:
        kernels: of every layer with φ.
        u, arrays: the shapes of the value and of û, before the first φ.
        weights: of every layer the shape of W and whether there is b; () where these are applied
            by PyTorch.
        point: the shapes of x̂, where û is W x̂ + b, whose W and b come first; else ().
        read: how many further arrays the first kernel reads.
        item: bytes of a number.
        products: of matrices; None where no layer has any.
        threads, cache, alone: how many there are; `CACHE` and `ALONE`.
    """

    kernels: tuple[Kernel, ...]
    u: tuple[int, ...]
    arrays: tuple[tuple[int, ...], ...]
    weights: tuple[tuple[tuple[int, int], bool], ...]
    point: tuple[tuple[int, ...], ...]
    read: int
    item: int
    products: Products | None
    threads: int
    cache: int
    alone: int


class Layout:
    """Where everything stands that a chain reads and writes.

    Attributes:
        results: the shapes of the values of all layers.
        threads, part: parts of so many points are done by so many threads.
    """

    def __init__(self, form: Form) -> None:
        self.form = form
        kernels, u, joined = form.kernels, form.u, bool(form.weights)
        self.begun = len(form.weights) - len(kernels) if joined else 0  # one for W x̂ + b
        lead = u[:-1]
        widths = [u[-1] if u else 1, *[shape[0] for shape, _ in form.weights[self.begun :]]]
        self.results = [
            (kernel.rows, *lead, width) if joined else (kernel.rows, *u)
            for kernel, width in zip(kernels, widths[1:] or widths, strict=True)
        ]
        entries = [prod(lead) * width for width in widths]
        self.sizes = [kernel.rows * n for kernel, n in zip(kernels, entries, strict=False)]
        most = max(self.sizes)
        first = zip(form.arrays, kernels[0].broadcast, strict=True)
        self.sums = [shape for shape, broadcast in first if broadcast]
        flat = [prod(shape) // shape[0] for shape in self.sums]
        self.flat = flat[0] if flat else 0
        total = u[0] if len(u) > 1 else 1
        total = total if joined or self.flat else prod(u)
        part = min(form.cache * total // most, LONGEST) if joined else total
        threads = form.threads if most > form.alone else 1
        self.total, self.part = total, min(part or 1, -(-total // threads))
        self.threads = min(threads, -(-total // self.part))
        self.inner = [n // total for n in entries]  # entries of every point, before each layer
        self._reverse: dict[Any, Message] = {}

    # ---- numbers of a layer

    def _fields(
        self, k: int, weight: At, bias: At | int, memory: Memory, reverse: bool
    ) -> list[int]:
        """Of a layer, −1 for the one that û comes from, up to its room."""
        form = self.form
        inner = self.inner[k] if k >= 0 else prod(form.point[0]) // self.total
        flat = self.flat if k == 0 else 0
        numbers = [self.total, inner, flat, self.part, self.threads]
        if form.products is None:
            return [*numbers, *[0] * 7, 1, 0]
        (out, in_), there = form.weights[k + self.begun]
        panels: In | int = 0
        if k >= 0 and form.products.has_panels(out, in_):
            sides = (out, in_) if reverse else (in_, out)
            panels = memory.take(form.products.panels(*sides, form.item) * form.item)
        bias = bias if there else 0
        return [*numbers, *form.products, LONGEST, weight, bias, panels, in_, out]

    def _point(self, first: int, ends: Sequence[int]) -> list[int]:
        """x̂, from the tensor `first` on, and what belongs to its blocks."""
        _, *blocks = self.form.point
        numbers = [At(first), len(blocks)]
        for k, (shape, end) in enumerate(zip(blocks, ends, strict=True), first + 1):
            numbers += [At(k), prod(shape[:-1]), end]
        return numbers

    def _read(self, k: int, before: At) -> list[int]:
        """û of a layer, and what else its loop reads."""
        form = self.form
        if k:
            return [before, prod(self.results[k - 1][1:]), 1]
        numbers: list[int] = []
        for n, (shape, broadcast) in enumerate(
            zip(form.arrays, form.kernels[0].broadcast, strict=True)
        ):
            numbers += [At(n), prod(shape[1:]) if len(shape) > len(form.u) else 0, not broadcast]
        for n in range(form.read):
            numbers += [At(len(form.arrays) + n), 0, 1]
        return numbers

    def _message(self, layers: Sequence[list[int]], memory: int) -> Message:
        """How many layers, of each the steps and where its numbers are, and these."""
        steps = [kernel.steps for kernel in self.form.kernels]
        if self.begun:
            steps.insert(0, self.form.kernels[0].start)
        head = 1 + (len(STEPS) + 1) * len(layers)
        numbers: list[int] = [len(layers)]
        behind: list[int] = []
        for of_layer, layer in zip(steps, layers, strict=True):
            numbers += [*of_layer, head + len(behind)]
            behind += layer
        return Message([*numbers, *behind], memory)

    # ---- forward

    @property
    def forward(self) -> Message:
        """Of û, what is read, x̂, all W and b, and the values of every layer."""
        if not hasattr(self, "_forward"):
            self._forward = self._make_forward()
        return self._forward

    def _make_forward(self) -> Message:
        form, memory = self.form, Memory()
        point = len(form.arrays) + form.read
        weights = point + len(form.point)
        outs = weights + 2 * len(form.weights)
        size = 0
        if form.weights:
            size = max(self.sizes) // self.total * self.part
            size = max([size, *[(in_ + 1) * out for (out, in_), _ in form.weights[: self.begun]]])
        shared = [memory.take(self.threads * size * form.item), size]
        layers = []
        for k in range(-self.begun, len(form.kernels)):
            at = weights + 2 * (k + self.begun)
            numbers = [*self._fields(k, At(at), At(at + 1), memory, False), *shared]
            if k < 0:
                blocks = self._point(point, _addresses(1, len(form.arrays)))
                layers.append([*numbers, At(0), *[0] * 9, *blocks])
                continue
            out = [At(outs + k), prod(self.results[k][1:])]
            layers.append([*numbers, *out, *[0] * 8, *self._read(k, At(outs + k - 1))])
        return self._message(layers, memory.size)

    # ---- reverse

    def reverse(self, wanted: tuple[tuple[bool, bool], ...]) -> Message:
        """Of the same, with the values of every layer but the last; the cotangent; and where the
        gradients go: by û, and by all W and b, of which some are wanted."""
        if wanted not in self._reverse:
            self._reverse[wanted] = self._make_reverse(wanted)
        return self._reverse[wanted]

    def _make_reverse(self, wanted: Sequence[tuple[bool, bool]]) -> Message:
        form, memory, begun, item = self.form, Memory(), self.begun, self.form.item
        count, last = len(form.kernels), len(form.kernels) - 1
        point = len(form.arrays) + form.read
        weights = point + len(form.point)
        between = weights + 2 * len(form.weights)
        cotangent = between + last
        to = cotangent + 1
        gradients = to + len(form.arrays)
        few = sum([prod(shape) for shape in self.sums])
        matrices = [out * (in_ + 1) for (out, in_), _ in form.weights]
        # Between two layers the cotangent of a part stays in the room of its thread, which one
        # reads while it writes another for the layer before it.
        passing = [n // self.total * self.part for n in self._passing()]
        handed = max(passing, default=0)
        passed = [memory.take(self.threads * handed * item) for _ in range(2)]
        size = 2 * max(self.sizes) // self.total * self.part if form.weights else 0
        size += max([few, *matrices, *self._factors()])
        shared = [memory.take(self.threads * size * item), size]
        layers = []
        for k in range(-begun, count):
            at = k + begun
            parameters = At(weights + 2 * at), At(weights + 2 * at + 1)
            numbers = [*self._fields(k, *parameters, memory, True), *shared]
            if k == last:
                come: list[int] = [At(cotangent), prod(self.results[k][1:]), 0]
            else:
                come = [passed[(k + 1) % 2], self.part * self.inner[k + 1], handed]
            sums = few if k == 0 else 0
            go: list[int] = [0, 0, 0]
            if form.weights:
                (out, in_), _ = form.weights[at]
                others = memory.take((self.threads - 1) * out * in_ * item)
                by_weight, by_bias = wanted[at]
                at = gradients + 2 * at
                go = [At(at) if by_weight else 0, others, At(at + 1) if by_bias else 0]
                sums += out + (out * in_ if k < 0 else 0)
            numbers += [0, 0, *come, *go, memory.take(self.threads * sums * 8), sums]
            if k < 0:
                blocks = self._point(point, _addresses(to + 1, to + len(form.arrays)))
                layers.append(numbers + blocks)
                continue
            numbers += self._read(k, At(between + k - 1))
            layers.append(numbers + self._to(k, to, passed[k % 2], handed))
        return self._message(layers, memory.size)

    def _factors(self) -> list[int]:
        """How many numbers the rows of one coefficient of a part take, in layers with panels."""
        form, found = self.form, []
        weights = form.weights[self.begun :]
        for inner, ((out, in_), _) in zip(self.inner, weights, strict=False):
            if form.products and form.products.has_panels(out, in_):
                rows = self.part * inner // in_
                found.append(form.products.panels(rows, in_, form.item))
        return found

    def _passing(self) -> list[int]:
        """How many numbers one layer hands to the one before it."""
        form, points = self.form, prod(self.form.u[:-1])
        found = [prod(shape) for shape in self.results[:-1]]
        return [*found, points * form.u[-1]] if self.begun else found

    def _to(self, k: int, to: int, passed: In, handed: int) -> list[int]:
        """Where the gradient by û of a layer goes."""
        if k:
            return [passed, self.part * self.inner[k], handed]
        numbers: list[int] = []
        for n, shape in enumerate(self.gradients):
            if n == 0 and self.begun:
                numbers += [passed, 0, handed]
            else:
                numbers += [At(to + n), prod(shape[1:]), 0]
        return numbers

    @property
    def gradients(self) -> list[tuple[int, ...]]:
        """The shapes of the gradient by û."""
        form, kernel = self.form, self.form.kernels[0]
        return [
            shape if broadcast or len(shape) > len(form.u) else (1, *shape)
            for shape, broadcast in zip(form.arrays, kernel.broadcast, strict=True)
        ]


def _addresses(start: int, end: int) -> list[int]:
    """Of consecutive tensors."""
    return [At(n) for n in range(start, end)]


@lru_cache(maxsize=4096)
def layout(form: Form) -> Layout:
    """Made once."""
    return Layout(form)


# ------------------------------------------------------------------ a call


class Chain:
    """Layers one after the other; û of the first may be W x̂ + b.

    Attributes:
        stages: the layers with φ; if there are several, `joins` holds for each.
        arrays: û of the first of them.
        y: φ(u) of it, where its kernel reads that.
        start, point: the layer that û comes from, with x̂, or None.
    """

    def __init__(
        self, stages: Sequence[Stage], arrays: Sequence[Any], y: Any,
        start: Stage | None = None, point: Sequence[Any] = (),
    ) -> None:  # fmt: skip
        self.stages, self.arrays, self.y = stages, arrays, y
        self.point = [plain(x) for x in point]
        first, self.u = stages[0], stages[0].of.value(arrays)
        self.kernel: Any = first.kernel
        self.layers = [] if start is None else [start]
        self.joined = start is not None or len(stages) > 1 or joins(first, self.u.shape)
        if self.joined:
            self.layers += stages
        self.parameters = [x for layer in self.layers for x in (layer.weight, layer.bias)]

    def _layout(self, read: int) -> Layout:
        weights = zip(self.parameters[::2], self.parameters[1::2], strict=True)
        return layout(
            Form(
                kernels=tuple([stage.kernel for stage in self.stages]),  # type: ignore[misc]
                u=tuple(self.u.shape),
                arrays=tuple([tuple(x.shape) for x in self.arrays]),
                weights=tuple([(tuple(w.shape), b is not None) for w, b in weights]),
                point=tuple([tuple(x.shape) for x in self.point]),
                read=read,
                item=self.u.element_size(),
                products=products(self.u.dtype) if self.joined else None,
                threads=torch.get_num_threads(),
                cache=CACHE,
                alone=ALONE,
            )
        )

    def _read(self, which: int) -> list[Any]:
        """The further arrays that the loop of the first layer reads."""
        if self.kernel.alone:
            return []
        of, recipes = self.stages[0].of, self.kernel.outside[which]
        if recipes is not None:
            found = [recipe(self.u, self.y).contiguous() for recipe in recipes]
        else:
            entries = of.tower(self.u, self.y, of.algebra.order + which, XP)
            found = [x.contiguous() for x in entries if isinstance(x, torch.Tensor)]
        return found if self.kernel.inside else [self.y, *found]

    def forward(self) -> list[Any]:
        """The values of every layer, each in one array."""
        read = self._read(0)
        plan = self._layout(len(read))
        outs = [self.u.new_empty(shape) for shape in plan.results]
        tensors = [*self.arrays, *read, *self.point, *self.parameters, *outs]
        plan.forward.send(self.kernel.forward, tensors, self.u)
        stage = self.stages[0]
        if not self.joined and stage.weight is not None:
            outs = [F.linear(outs[0], stage.weight)]
            if stage.bias is not None:
                outs[0][0].add_(stage.bias)
        return outs

    def reverse(
        self, between: Sequence[Any], cotangent: Any, wanted: Sequence[tuple[bool, bool]]
    ) -> tuple[list[tuple[Any, Any]], list[Any]]:
        """The gradients by weights and biases, where they are `wanted` (of `start` first), and by û
        where there is no start.

        between: the values of every layer but the last.
        """
        stage, u = self.stages[0], self.u
        of_layers: list[tuple[Any, Any]]
        if self.joined:
            of_layers = [
                (
                    u.new_empty(s.weight.shape) if w else None,
                    u.new_empty(s.bias.shape) if b else None,
                )
                for s, (w, b) in zip(self.layers, wanted, strict=True)
            ]
        else:  # the products with W in one piece, by PyTorch
            ((by_weight, by_bias),) = wanted
            of_layers = [(None, None)]
            if by_bias:
                of_layers = [(None, cotangent[0].reshape(-1, cotangent.shape[-1]).sum(0))]
            if by_weight:
                alone = Chain([stage._replace(weight=None, bias=None)], self.arrays, self.y)
                values = alone.forward()[0].flatten(0, -2)
                of_layers = [(cotangent.flatten(0, -2).t() @ values, of_layers[0][1])]
            if stage.weight is not None:
                cotangent = cotangent @ stage.weight
        cotangent = plain(cotangent)
        read = self._read(1)
        plan = self._layout(len(read))
        begun = plan.begun
        to = [u.new_empty(s) if k or not begun else None for k, s in enumerate(plan.gradients)]
        gradients = [x for pair in of_layers for x in pair] if self.joined else []
        tensors = [
            *self.arrays, *read, *self.point, *self.parameters, *between, cotangent,
            *to, *gradients,
        ]  # fmt: skip
        message = plan.reverse(tuple(wanted) if self.joined else ())
        message.send(self.kernel.reverse, tensors, u)
        if begun:
            return of_layers, []
        return of_layers, to if stage.of.given.together else [to[0][0], *to[1:]]  # type: ignore[index]
