"""Shared by the tests of the PyTorch frontend: functions to differentiate, and their derivatives.

The derivatives are those of nested torch.func transforms of the same function on plain tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_leaves

import jetfold as jf

t, x, y = jf.partials(3, names="t x y")

OPERATORS = {
    "u": t * 0 + 1,
    "t": t,
    "xy": x * y,
    "txy": t * x * y,
    "mixed": x**2 * y**2 + t * x + 2 * y**3,
    "heat": t - x**2 - 2 * x**4,
}
INNER, OUTER = x * y + t, t * x - y  # nested in each other, they make a fourth-order operator


def derivative(operator: Any, tensors: Sequence[Any]) -> Any:
    """The operator from all the derivatives: tensors[k] has k trailing axes of length three."""
    total = torch.zeros_like(tensors[0])
    for monomial, c in operator.symbol.terms.items():
        total = total + float(c) * tensors[len(monomial)][(..., *monomial)]
    return total


def all_derivatives(function: Callable[..., Any], p: Any, order: int, reverse: bool) -> list[Any]:
    """Per output [value, gradient, …]: by nested forward mode, or by nested reverse mode."""
    jacobian = torch.func.jacrev if reverse else partial(torch.func.jacfwd, randomness="same")

    def with_lower(p: Any) -> Any:  # (what is to be differentiated next, all that came before)
        leaves = [leaf for leaf in tree_leaves(function(p)) if leaf.is_floating_point()]
        return leaves, [leaves]

    g = with_lower
    for _ in range(order):

        def following(p: Any, g: Callable[..., Any] = g) -> Any:
            derivatives, lower = jacobian(g, has_aux=True)(p)
            return derivatives, [*lower, derivatives]

        g = following
    with sdpa_kernel(SDPBackend.MATH):  # PyTorch 2.15 chooses one without forward mode
        return list(zip(*g(p)[1], strict=True))


def close(result: Any, expected: Any, tolerance: float = 1e-9) -> None:
    """Equal to rounding, relative to the largest entry."""
    assert result.shape == expected.shape, (result.shape, expected.shape)
    assert result.dtype == expected.dtype, (result.dtype, expected.dtype)
    scale = max(1.0, float(expected.abs().max()) if expected.numel() else 0.0)
    assert torch.isfinite(expected).all(), expected
    torch.testing.assert_close(result, expected, rtol=0, atol=tolerance * scale)


def agree(
    function: Callable[..., Any],
    p: Any,
    *,
    order: int = 4,
    tolerance: float = 1e-9,
    nested: bool = True,
    reverse: bool = False,
) -> None:
    """Every operator of the function at p, alone and nested, is what torch.func says."""
    before = p.clone()
    expected = all_derivatives(function, p, order, reverse)

    def leaves(outputs: Any) -> list[Any]:
        return [leaf for leaf in tree_leaves(outputs) if leaf.is_floating_point()]

    wanted = {k: op for k, op in OPERATORS.items() if op.order <= order}
    results = jf.derivatives(wanted)(function)(p)
    for name, operator in wanted.items():
        for result, tensors in zip(leaves(results[name]), expected, strict=True):
            close(result, derivative(operator, tensors), tolerance)
    for result, tensors in zip(leaves(jf.laplacian(function)(p)), expected, strict=True):
        close(result, derivative(t * t + x * x + y * y, tensors), tolerance)
    if nested:
        inner, outer = (INNER, OUTER) if order >= 4 else (x, t)
        results = outer(inner(function))(p)
        for result, tensors in zip(leaves(results), expected, strict=True):
            close(result, derivative(outer * inner, tensors), tolerance)
    assert torch.equal(p, before)


def embedding(
    shape: Sequence[int], domain: tuple[float, float], generator: torch.Generator, lazy: int
) -> Callable[[Any], list[Any]]:
    """A smooth map from three coordinates into tensors of a shape with entries in the domain.

    Two of them: in general position, and with derivatives that do not depend on all axes, whose
    blocks are broadcast lazily: `lazy` says on how many of the last axes they depend, 0 or 1.
    """

    def random(*size: int) -> Any:
        return torch.rand(size, dtype=torch.float64, generator=generator) * 2 - 1

    low, high = domain
    middle, half = (low + high) / 2, (high - low) / 2
    n = math.prod(shape)
    w, v, phase, bias = random(3, n), random(3, n), random(n), random(*shape)
    some = tuple(shape)[-1:] if lazy else ()
    w_some = random(3, *some)

    def maps(p: Any) -> list[Any]:
        a = torch.sin(p @ w + phase) * 0.5 + torch.cos(p @ v) * 0.4
        b = torch.sin(p @ w_some) * 0.5
        return [middle + half * a.reshape(tuple(shape)), bias * (0.4 * half) + middle + half * b]

    return maps


@pytest.fixture
def point() -> Any:
    """A point with three coordinates."""
    return torch.tensor([0.3, -0.7, 0.45], dtype=torch.float64)


@pytest.fixture
def tools() -> Any:
    """The functions of this file."""
    return SimpleNamespace(agree=agree, embedding=embedding, close=close, OPERATORS=OPERATORS)


@pytest.fixture
def check(tools: Any, point: Any) -> Callable[..., None]:
    """check(f, shape, …): f of tensors of these shapes with entries in the domain, in all ways."""

    def check(
        f: Callable[..., Any],
        *shapes: Sequence[int],
        domain: tuple[float, float] = (-2.0, 2.0),
        seed: int = 0,
        **options: Any,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        maps = [
            embedding(shape, domain, generator, (seed + k) % 2) for k, shape in enumerate(shapes)
        ]

        def function(p: Any, lazy: bool) -> Any:
            return f(*[m(p)[lazy] for m in maps])

        agree(lambda p: function(p, False), point, **options)
        agree(lambda p: function(p, True), point, **(options | {"order": 2}))

    return check
