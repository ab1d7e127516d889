"""Operands of unlike shape, rank and dtype, constant and dependent, of every function with two.

The cases are made of the table itself: each function that takes two (or three) tensors is called on
all pairs of shapes that PyTorch takes, one operand depending on the point, the other, or all.
"""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_leaves

import jetfold as jf
from jetfold.coverage.torch import Outcome, compared
from jetfold.torch.rules import Constant, Refused, Value
from jetfold.torch.table import NAMES, RULES

SHAPES: Sequence[tuple[tuple[int, ...], ...]] = [
    ((), (3,)),
    ((3,), (2, 3)),
    ((2, 1), (3,)),
    ((2, 3), ()),
    ((2, 3), (3,)),  # matrices and vectors
    ((2, 2, 3), (3, 2)),
    ((3, 3), (2, 3, 1)),
    ((2, 1), (), (3,)),  # three operands
    ((), (2, 3), (3, 3)),
    ((2,), (2, 3), (3, 2)),
]

# Random ones, and kernels behind functions that check what these read beyond.
LEFT_OUT = re.compile(r".*(dropout|gumbel|rrelu|normal$)|_weight_norm|_batch_norm|binary_cross")


def smooth(shape: tuple[int, ...], seed: int, dtype: Any = torch.float64) -> Callable[[Any], Any]:
    """A map from two parameters to tensors with entries between 0.2 and 0.9; a constant at None."""
    generator = torch.Generator().manual_seed(seed)
    start, *along = (torch.rand(shape, generator=generator, dtype=torch.float64) for _ in range(3))

    def value(p: Any) -> Any:
        if p is None:
            return (0.4 + 0.3 * start).to(dtype)
        s, t = p[0], p[1]
        return (0.4 + 0.3 * start + 0.2 * (s * along[0] + torch.sin(t + s * t) * along[1])).to(
            dtype
        )

    return value


def called(function: Callable[..., Any], operands: Sequence[Any]) -> bool:
    """Whether PyTorch differentiates a function by each of such operands; numbers are no matter."""
    leaves = [x.requires_grad_() for x in operands if isinstance(x, torch.Tensor)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outputs = [y for y in tree_leaves(function(*operands)) if y.dtype.is_floating_point]
            slopes = torch.autograd.grad([y.sum() for y in outputs], leaves)
    except Exception:
        return False
    return all(bool(y.isfinite().all()) for y in (*outputs, *slopes))


Case = tuple[Callable[[Any], Any], ...]
"""An operand each: what it is at a point."""


def cases(function: Callable[..., Any], dtypes: Sequence[Any]) -> Iterator[Case]:
    """All shapes that a function takes: one operand depends on the point, or all; then numbers."""
    for shapes in SHAPES:
        kinds = itertools.islice(itertools.cycle(dtypes), len(shapes))
        maps = [
            smooth(shape, k, dtype)
            for k, (shape, dtype) in enumerate(zip(shapes, kinds, strict=True))
        ]
        if called(function, [m(None) for m in maps]):
            yield tuple(maps)
            for alone in range(len(maps)):
                yield tuple(
                    m if k == alone else (lambda p, m=m: m(None)) for k, m in enumerate(maps)
                )
    one, number = smooth((3,), 0, dtypes[0]), lambda p: 0.7
    for case in ((one, number), (number, one)):
        if called(function, [m(None) for m in case]):
            yield case


def total(function: Callable[..., Any], all_cases: Sequence[Case]) -> Callable[[Any], Any]:
    """A number: the outputs of all cases, weighted."""

    def g(p: Any) -> Any:
        out, weight = 0.0, 1.0
        for case in all_cases:
            for y in tree_leaves(function(*[m(p) for m in case])):
                if hasattr(y, "dtype") and y.dtype.is_floating_point:
                    scale = torch.linspace(1.0, 2.0, max(y.numel(), 1), dtype=torch.float64)
                    weight = -0.9 * weight
                    out = out + weight * (y.double().reshape(-1) * scale[: y.numel()]).sum()
        return out

    return g


def functions() -> dict[str, Callable[..., Any]]:
    """A function per rule of the table that takes two or three tensors."""
    found: dict[str, Callable[..., Any]] = {"where": lambda x, y: torch.where(x > 0.55, x, y)}
    rules: list[Any] = []
    for function, key in NAMES.items():
        rule = RULES[key]
        if LEFT_OUT.match(key) or isinstance(rule, (Value, Refused, Constant)) or rule in rules:
            continue
        torch.manual_seed(0)
        if any(len(case) > 1 for case in itertools.islice(cases(function, [torch.float64]), 1)):
            found[key] = function
            rules.append(rule)
    return found


FUNCTIONS = functions()
POINT = torch.tensor([0.3, -0.2], dtype=torch.float64)


def test_there_are_enough() -> None:
    assert {"add", "pow", "xlogy", "where", "lerp", "matmul", "linalg.solve"} <= set(FUNCTIONS)
    assert len(FUNCTIONS) > 60


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_unlike_operands(name: str) -> None:
    function = FUNCTIONS[name]
    every = list(cases(function, [torch.float64]))
    g = total(function, every)
    with jf.strict():
        outcome = compared(g, POINT, 2)
        if outcome != Outcome("own"):
            alone = {str([m(None) for m in case]): [case] for case in every}
            found = {k: compared(total(function, case), POINT, 2) for k, case in alone.items()}
            pytest.fail(f"{outcome}: {[row for row in found.items() if row[1] != Outcome('own')]}")
        mixed = list(cases(function, [torch.float32, torch.float64]))
        if len(mixed) == len(every):  # PyTorch promotes them
            wide, narrow = (jf.laplacian(f)(POINT) for f in (g, total(function, mixed)))
            torch.testing.assert_close(narrow, wide, rtol=1e-4, atol=1e-4)
