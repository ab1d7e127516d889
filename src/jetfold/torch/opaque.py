"""Compositions in what torch.compile compiles: one operation each, by a compiled loop (`kernels`).

Of high order they are hundreds of operations, which Inductor takes minutes to arrange. As an
operation of PyTorch's own kind such a composition is one line of its program, forwards and
backwards.

A kernel is named by its source, not by a number: what torch.compile keeps on disk is read by other
processes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import shared_library
from ..core.algebra import algebra_of
from .chains import Chain, Stage
from .compiled import TYPES
from .inplace import Composition, Places
from .kernels import Kernel, built, name_of, plain, without_points

LEAST = 1000
"""Loops of so many lines: what is less, Inductor fuses with its neighbours in a few seconds."""

_known: dict[str, tuple[Kernel, Composition]] = {}


@torch.compiler.assume_constant_result
def named(
    function: Any, tower: Any, algebra: int, places: str, dtype: Any, least: int | None
) -> tuple[str, tuple[int, ...]]:
    """What stands for the kernel of a composition, and the sizes of its result; "" for none.

    places: a letter per degree, "-" for zeros, "f" in full, "b" without an axis of points, "t" in
    one array with the others; least: so many lines; None for a kernel that reads nothing but û.
    """
    if shared_library.compiler() is None or (name := name_of(tower)) is None:
        return "", ()
    sizes = algebra_of(algebra).sizes
    held = tuple([n if kind != "-" else 0 for n, kind in zip(sizes, places, strict=True)])
    of = Composition(algebra_of(algebra), function, tower, Places(held, "t" in places))
    broadcast = tuple([kind == "b" for kind in places if kind != "-"])
    kernel = built(of, dtype, (False,) if of.given.together else broadcast)
    if kernel is None or (not kernel.alone if least is None else kernel.lines < least):
        return "", ()
    parts = (kernel.source, *map(_described, (function, name[0])), repr(name[1]), places)
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    _known[key] = kernel, of
    return key, kernel.sizes


def _described(function: Any) -> str:
    """The name of a function with what is bound to it."""
    if (inner := getattr(function, "func", None)) is not None:
        bound = [*map(_described, function.args), repr(sorted(function.keywords.items()))]
        return f"{_described(inner)}({', '.join(bound)})"
    if callable(function):
        return (
            f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', function)}"
        )
    return repr(function)


def composed(
    jet: Any, function: Callable[..., Any], tower: Callable[..., Any]
) -> tuple[Any, list[Any]] | None:
    """The value and the blocks of φ(û) as one operation, traced by Dynamo; None where it is not."""
    u, algebra = jet.primal, jet.algebra
    if algebra.order < 3 or u.device.type != "cpu" or torch.compiler.is_exporting():
        return None  # what is exported runs without us; PyTorch 2.11 always says that it is
    if u.dtype not in TYPES or torch.is_autocast_enabled("cpu"):
        return None
    places = places_of(jet)
    if places is None:
        return None
    key, out = named(function, tower, algebra.key, places, u.dtype, LEAST)
    if not key:
        return None
    found = [b for b in jet.stored if b is not None]
    rows = torch.ops.jetfold.compose([u, *found], key)
    value, *rest = rows.split([n for n in out if n])
    following = iter(rest)
    return value[0], [next(following) if n else None for n in out[1:]]


def places_of(jet: Any) -> str | None:
    """How the coefficients of a jet lie in memory; None if loops do not read them so."""
    u, sizes = jet.primal, jet.algebra.sizes
    found = [b for b in jet.stored if b is not None]
    if not found or any([b.dtype != u.dtype or b.ndim != u.ndim + 1 for b in found]):
        return None
    lacking = without_points([b.shape for b in found], u.shape)
    if lacking is None:
        return None
    places, kinds = "f", iter(lacking)
    for b, size in zip(jet.stored, sizes[1:], strict=True):
        if b is not None and b.shape[0] != size:
            return None
        places += "-" if b is None else "b" if next(kinds) else "f"
    return places


def known(key: str) -> tuple[Kernel, Composition]:
    if key not in _known:
        raise RuntimeError(
            "a program that torch.compile made in another process came here without being traced, "
            "and its jetfold kernel is not known; compile it here: torch.compiler.reset()"
        )
    return _known[key]


def _chain(arrays: Sequence[Any], key: str) -> Chain:
    kernel, of = known(key)
    arrays = [plain(x) for x in arrays]
    y = None if kernel.inside else plain(of.function(arrays[0]))
    return Chain([Stage(of, kernel, None, None)], arrays, y)


@torch.library.custom_op("jetfold::compose", mutates_args=(), device_types="cpu")
def compose(arrays: list[Tensor], key: str) -> Tensor:
    """All coefficients of φ(û), one after the other."""
    return _chain(arrays, key).forward()[0]


@compose.register_fake
def _(arrays: list[Tensor], key: str) -> Tensor:
    return arrays[0].new_empty((sum(known(key)[0].sizes), *arrays[0].shape))


@torch.library.custom_op("jetfold::compose_backward", mutates_args=(), device_types="cpu")
def compose_backward(arrays: list[Tensor], cotangent: Tensor, key: str) -> list[Tensor]:
    """The gradient by û."""
    return _chain(arrays, key).reverse([], cotangent, [(False, False)])[1]


@compose_backward.register_fake
def _(arrays: list[Tensor], cotangent: Tensor, key: str) -> list[Tensor]:
    return [torch.empty_like(x, memory_format=torch.contiguous_format) for x in arrays]


def _remember(ctx: Any, inputs: Any, output: Any) -> None:
    arrays, ctx.key = inputs
    ctx.save_for_backward(*arrays)


def _backward(ctx: Any, cotangent: Any) -> Any:
    found = torch.ops.jetfold.compose_backward(list(ctx.saved_tensors), cotangent, ctx.key)
    return found, None


compose.register_autograd(_backward, setup_context=_remember)
