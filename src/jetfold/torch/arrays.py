"""The array vocabulary (`core.arrays.Arrays`) in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import mul
from typing import Any

import numpy as np
import torch

from ..core import jet
from ..core.jet import Jet
from . import private

COMPILED = False
exp, log, sqrt = torch.exp, torch.log, torch.sqrt
sin, cos, tan = torch.sin, torch.cos, torch.tan
sinh, cosh, tanh = torch.sinh, torch.cosh, torch.tanh
sigmoid, erf, digamma = torch.sigmoid, torch.erf, torch.digamma
abs, sign, where = torch.abs, torch.sign, torch.where
polygamma, zeros_like = torch.polygamma, torch.zeros_like
lgamma = torch.lgamma


def special(name: str, u: Any) -> Any:
    """A function of torch.special, for the towers of `core.special`."""
    return getattr(torch.special, name)(u)


# ------------------------------------------------------------------ made from numbers


def asarray(x: Any, like: Any) -> Any:
    """A NumPy array or nested lists of numbers like another; tensors (and jets) as they are."""
    if isinstance(x, (torch.Tensor, Jet)):
        return x
    if isinstance(x, (list, tuple)):
        return torch.tensor(x, dtype=like.dtype, device=like.device)
    array = torch.as_tensor(x, device=like.device)
    return array if array.is_complex() else array.to(like.dtype)


def integers(values: Any, like: Any) -> Any:
    """Nested lists of indices, on the device of another array."""
    return torch.tensor(values, device=like.device)


def full(shape: Sequence[int], value: float, like: Any) -> Any:
    """One value everywhere."""
    return torch.full(tuple(shape), value, dtype=like.dtype, device=like.device)


def arange(start: int, count: int, like: Any) -> Any:
    """The integers start … start + count − 1."""
    return torch.arange(start, start + count, device=like.device)


def eye(n: int, like: Any) -> Any:
    """The identity matrix."""
    return torch.eye(n, dtype=like.dtype, device=like.device)


def one_hot(values: Any, places: Any, n: int) -> Any:
    """Vectors (*shape, n) with one entry each."""
    empty = torch.zeros((*places.shape, n), dtype=values.dtype, device=values.device)
    return empty.scatter(-1, places[..., None], values[..., None])


def place(values: Any, places: Sequence[int], n: int) -> Any:
    """The last axis of (*shape, m) put at these m of n coordinates."""
    empty = torch.zeros((*values.shape[:-1], n), dtype=values.dtype, device=values.device)
    return empty.index_copy(-1, torch.tensor(places, device=values.device), values)


# ------------------------------------------------------------------ axes


def stack(rows: Sequence[Any]) -> Any:
    """Stack along a new leading axis; the rows are broadcast against each other."""
    shape = torch.broadcast_shapes(*[row.shape for row in rows])
    return torch.stack([row if row.shape == shape else row.expand(shape) for row in rows])


def unstack(block: Any) -> Sequence[Any]:
    """All rows."""
    return block.unbind(0)


def concat(parts: Sequence[Any], axis: int) -> Any:
    """Join along an axis."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), axis)


def moveaxis(x: Any, source: int, destination: int) -> Any:
    """Move one axis."""
    return x.movedim(source, destination)


def permute_dims(x: Any, order: Sequence[int]) -> Any:
    """Axis k of the result is axis order[k]."""
    return x.permute(tuple(order))


def reshape(x: Any, shape: Sequence[int]) -> Any:
    """Another shape of the same size."""
    return x if tuple(x.shape) == tuple(shape) else x.reshape(tuple(shape))


def broadcast_to(x: Any, shape: Sequence[int]) -> Any:
    """Axes of length one repeated, as a view."""
    return x.expand(tuple(shape))


def narrow(x: Any, axis: int, start: int, count: int) -> Any:
    """Entries start … start + count − 1 along an axis."""
    return x.narrow(axis, start, count)


def expand_dims(block: Any, ndim: int) -> Any:
    """Insert axes of length one behind the leading axis until the rows have `ndim` axes."""
    missing = ndim + 1 - block.ndim
    if missing <= 0:
        return block
    return block.reshape((block.shape[0],) + (1,) * missing + tuple(block.shape[1:]))


# ------------------------------------------------------------------ rows of blocks


def take(block: Any, positions: Sequence[int]) -> Any:
    """The rows at these positions of the leading axis."""
    return block[torch.tensor(positions, dtype=torch.long, device=block.device)]


def scale(block: Any, weights: Sequence[float]) -> Any:
    """Each row of a block times its weight."""
    column = torch.tensor(weights, dtype=block.dtype, device=block.device)
    return block * column.reshape((-1,) + (1,) * (block.ndim - 1))


def sum_rows(block: Any) -> Any:
    """The sum over the leading axis."""
    return block.sum(0)


def segment_sum(block: Any, positions: Sequence[int], size: int) -> Any:
    """A block of `size` rows: row k is added to row positions[k]."""
    zeros = torch.zeros((size, *block.shape[1:]), dtype=block.dtype, device=block.device)
    places = torch.tensor(positions, dtype=torch.long, device=block.device)
    return torch.index_add(zeros, 0, places, block)


def place_rows(block: Any, positions: Sequence[int], size: int) -> Any:
    """A block of `size` rows with these at some positions, each once, and zeros elsewhere."""
    there = [k for k, row in enumerate(positions) if row >= 0]
    block = block if len(there) == len(positions) else take(block, there)
    return segment_sum(block, [positions[k] for k in there], size)


def mask(here: Any, like: Any) -> Any:
    """A static table of booleans."""
    if torch.compiler.is_dynamo_compiling():
        return _constant(here, like.device)
    return torch.from_numpy(np.array(here.array)).to(like.device)


@torch.compiler.assume_constant_result
def _constant(table: Any, device: Any) -> Any:
    """A table in a program that is traced, whatever transform is running."""
    with private.constants():
        return torch.from_numpy(np.array(table.array)).to(device)


def map_rows(function: Callable[..., Any], *blocks: Any, held: Sequence[Any] = ()) -> Any:
    """function(*rows) for the rows of some blocks, by vmap; one by one where jets take part."""
    if not any(isinstance(x, Jet) for x in (*blocks, *held)):
        return torch.func.vmap(function)(*blocks)
    results = [function(*[block[a] for block in blocks]) for a in range(blocks[0].shape[0])]
    if isinstance(results[0], (tuple, list)):
        return [torch.stack(parts) for parts in zip(*results, strict=True)]
    return torch.stack(results)


# ------------------------------------------------------------------ arithmetic


multiply, weighted_sum = mul, jet.weighted_sum


def multiply_add(total: Any, left: Any, right: Any, factor: float = 1.0) -> Any:
    """total + factor · left · right."""
    if isinstance(right, float):
        return torch.add(total, left, alpha=factor * right)
    if right.dtype != left.dtype or left.dtype != total.dtype:
        return total + (left if factor == 1 else left * factor) * right
    if factor == 1:
        return torch.addcmul(total, left, right)
    return torch.addcmul(total, left, right, value=factor)


def einsum(spec: str, *operands: Any) -> Any:
    """A contraction."""
    return torch.einsum(spec, *operands)


def sum(x: Any, axes: Sequence[int]) -> Any:
    """The sum over some axes, in the dtype of the array."""
    return x.sum(tuple(axes), dtype=x.dtype)


# ------------------------------------------------------------------ matrices


def matmul(a: Any, b: Any) -> Any:
    """The product of matrices; by one matrix for all it is one large product."""
    if b.ndim > 2 and all(n == 1 for n in b.shape[:-2]) and a.ndim >= b.ndim:
        b = b.reshape(b.shape[-2:])
    return torch.matmul(a, b)


def adjoint(a: Any) -> Any:
    """The conjugate transpose."""
    return a.mH


def tril(a: Any, offset: int = 0) -> Any:
    """What is on and below a diagonal."""
    return a.tril(offset)


def triu(a: Any, offset: int = 0) -> Any:
    """What is on and above a diagonal."""
    return a.triu(offset)


def diagonal(a: Any) -> Any:
    """(*shape, n, n) -> (*shape, n)."""
    return a.diagonal(0, -2, -1)


def orthonormal(rows: Any) -> Any:
    """Orthonormal rows that span what the rows of (*shape, r, n) span."""
    return torch.linalg.qr(rows.mT)[0].mT


def solve_triangular(
    a: Any, b: Any, *, upper: bool, left: bool = True, unitriangular: bool = False
) -> Any:
    """X with A X = B, or X A = B for left=False, A (broadcast against B) triangular."""
    return torch.linalg.solve_triangular(a, b, upper=upper, left=left, unitriangular=unitriangular)
