"""Shared by the tests of the PyTorch frontend: functions to differentiate, and their derivatives.

The derivatives are those of nested torch.func transforms of the same function on plain tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import reduce
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

Derivatives = dict[tuple[int, ...], list[Any]]
"""Of every output along the coordinates of a monomial."""


def leaves(outputs: Any) -> list[Any]:
    return [leaf for leaf in tree_leaves(outputs) if leaf.is_floating_point()]


def forward(function: Callable[..., Any], p: Any, monomials: Sequence[Any]) -> Derivatives:
    """By nested forward mode, mapped over the monomials."""

    def pushed(f: Callable[..., Any], v: Any) -> Callable[..., Any]:
        def following(p: Any) -> Any:  # the value, the first derivative, …
            values, tangents = torch.func.jvp(f, (p,), (v,))
            return [*values, tangents[-1]]

        return following

    def along(directions: Any) -> Any:
        return reduce(pushed, directions, lambda p: [leaves(function(p))])(p)

    directions = p.new_zeros(len(monomials), max(map(len, monomials)), len(p))
    for row, monomial in zip(directions, monomials, strict=True):
        row[range(len(monomial)), list(monomial)] = 1.0
    found = torch.func.vmap(along, randomness="same")(directions)
    return {m: [y[k] for y in found[len(m)]] for k, m in enumerate(monomials)}


def backward(function: Callable[..., Any], p: Any, monomials: Sequence[Any]) -> Derivatives:
    """By nested reverse mode."""

    def with_lower(p: Any) -> Any:  # (what is to be differentiated next, all that came before)
        found = leaves(function(p))
        return found, [found]

    g = with_lower
    for _ in range(max(map(len, monomials))):

        def following(p: Any, g: Callable[..., Any] = g) -> Any:
            derivatives, lower = torch.func.jacrev(g, has_aux=True)(p)
            return derivatives, [*lower, derivatives]

        g = following
    tensors = g(p)[1]
    return {m: [y[(..., *m)] for y in tensors[len(m)]] for m in monomials}


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
    inner, outer = (INNER, OUTER) if order >= 4 else (x, t)
    wanted = {k: op for k, op in OPERATORS.items() if op.order <= order}
    laplacian = t * t + x * x + y * y
    every = [*wanted.values(), laplacian, *([outer * inner] if nested else [])]
    monomials = sorted({monomial for operator in every for monomial in operator.symbol.terms})
    with sdpa_kernel(SDPBackend.MATH):  # PyTorch 2.15 chooses one without forward mode
        known = (backward if reverse else forward)(function, p, monomials)

    def compare(results: Any, operator: Any) -> None:
        terms = operator.symbol.terms.items()
        for result, *each in zip(leaves(results), *(known[m] for m, _ in terms), strict=True):
            expected = sum(float(c) * d for (_, c), d in zip(terms, each, strict=True))
            close(result, expected, tolerance)

    results = jf.derivatives(wanted)(function)(p)
    for name, operator in wanted.items():
        compare(results[name], operator)
    compare(jf.laplacian(function)(p), laplacian)
    if nested:
        compare(outer(inner(function))(p), outer * inner)
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


@pytest.fixture(scope="session")
def taken_for_an_export():
    """Whether torch.compiler.is_exporting() is true wherever Dynamo traces: PyTorch 2.11."""

    @torch.compile(fullgraph=True, backend="eager")
    def asked(x):
        return x * torch.compiler.is_exporting()

    return bool(asked(torch.ones(())))


@pytest.fixture
def loops_at_once(monkeypatch, tmp_path_factory):
    """Loops are compiled when a composition is first met, in a folder of the tests."""
    from jetfold.torch import kernels

    folder = tmp_path_factory.getbasetemp()
    monkeypatch.setattr(kernels, "AFTER", 1)
    monkeypatch.setattr(kernels, "_found", {})
    monkeypatch.setattr(kernels, "_met", {})
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))


@pytest.fixture
def quick_compiler(monkeypatch):
    """Loops are compiled without optimisation."""
    from jetfold import shared_library

    monkeypatch.setattr(shared_library, "OPTIONS", ("-O1", "-fPIC", "-shared", "-w"))
