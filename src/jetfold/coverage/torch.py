"""PyTorch's operations: each of its test database on jets, compared with PyTorch and differences.

The arguments of an operation move along random curves in two parameters p, and a random weighted
sum of all its outputs, g(p), is differentiated: ∂_1, ∂_1∂_2 and ∂_1²∂_2.
"""

from __future__ import annotations

import math
import traceback
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import reduce
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .. import operators
from ..derivatives import derivatives
from ..torch.general import is_inexact
from ..torch.private import tree_flatten, tree_leaves, tree_unflatten
from ..warn import JetfoldWarning
from .rows import HOW, Row
from .torch_private import operations

PACKAGE = str(Path(__file__).parent.parent)

STEP = 1e-6
"""Of the differences, whose error is of order STEP⁴; small, for the sake of kinks nearby."""

LARGEST = 4000
"""Samples with more entries are passed over, unless there are no others: among so many, some are
next to a kink."""

NESTED, DIFFERENCES = 1e-8, 1e-6
"""Relative errors that count as rounding, against nested jvp and against differences."""

a, b = operators.partials(2)
OPERATORS = (a * 0 + 1, a, a * b, a * a * b)
AXES = (0, 1, 0)  # each operator is the one before, differentiated along this axis


def rows(samples: int = 4, order: int = 3, only: Collection[str] = ()) -> Iterator[Row]:
    """Every operation of PyTorch's test database in float64, one after the other.

    Args:
        samples: of each operation, at most, spread over all that the database has.
        order: of the highest derivatives that are compared, up to 3.
        only: the names of the operations wanted; all without it.
    """
    for info in operations():
        name = info.full_name
        if info.supports_dtype(torch.float64, "cpu") and (not only or name in only):
            yield _row(name, info, samples, order)


class Outcome(NamedTuple):
    """How one sample fared."""

    how: str
    note: str = ""


def _row(name: str, info: Any, count: int, order: int) -> Row:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = [_outcome(info, sample, order) for sample in _samples(info, count)]
    outcomes = [outcome for outcome in found if outcome is not None]
    if not outcomes:
        return Row(name, "not differentiable", 0)
    ranks = list(HOW)
    worst = max(outcomes, key=lambda outcome: ranks.index(outcome.how))
    same = sum(outcome.how == worst.how for outcome in outcomes)
    note = worst.note
    if worst.how in ("refused", "wrong") and not info.supports_autograd:
        return Row(name, "not differentiable", 0)
    if worst.how == "own" and not info.supports_forward_ad:
        by = "reverse mode alone" if info.supports_autograd else "PyTorch itself has none"
        note = f"{by}; checked by differences"
    if same < len(outcomes):
        note = f"{same} of {len(outcomes)} samples{': ' * bool(note)}{note}"
    return Row(name, worst.how, order if worst.how in ("own", "general") else 0, note)


def _samples(info: Any, count: int) -> list[Any]:
    """Some of the samples of an operation, spread over all."""
    every = info.sample_inputs("cpu", torch.float64, requires_grad=info.supports_autograd)
    drawn = sorted(islice(every, 4 * count**2), key=lambda sample: _size(sample) > LARGEST)
    found = [sample for sample in drawn if _size(sample) <= LARGEST] or drawn[:1]
    step = max(len(found) / count, 1)
    return [found[int(k * step)] for k in range(min(count, len(found)))]


def _size(sample: Any) -> int:
    tensors = tree_leaves((sample.input, sample.args, sample.kwargs))
    return sum(x.numel() for x in tensors if isinstance(x, torch.Tensor))


# ------------------------------------------------------------------ one sample


def _outcome(info: Any, sample: Any, order: int) -> Outcome | None:
    """How a sample fares; None where nothing in it can be differentiated."""
    try:
        g = _function(info, sample)
    except Exception:  # the sample is none that PyTorch itself takes
        return None
    p = None if g is None else _point(g)
    return None if g is None or p is None else compared(g, p, order)


def compared(g: Callable[[Any], Any], p: Any, order: int) -> Outcome | None:
    """How g(p) fares, a number of two parameters; None where there is nothing to compare with."""

    def ours(p: Any) -> list[Any]:
        wanted = dict(enumerate(OPERATORS[: order + 1]))
        return list(derivatives(wanted)(g)(p).values())

    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = ours(p)
    except Exception as error:
        return _failed(error)
    how = "general" if any(issubclass(w.category, JetfoldWarning) for w in caught) else "own"
    # The general rule is nested jvp itself: differences alone can tell whether that is right.
    if how == "own" and _close(found, _nested(g, p, order), NESTED):
        return Outcome(how)
    try:
        expected = _differences(g, ours, p, order)
    except Exception:  # a point nearby is none that PyTorch takes
        return None
    if _close(found, expected, DIFFERENCES):
        return Outcome(how)
    pairs = zip(found, expected, strict=True)
    return Outcome("wrong", "; ".join(f"{float(x):.6g} for {float(y):.6g}" for x, y in pairs))


def _point(g: Callable[[Any], Any]) -> Any:
    """Where g has a value: off the samples themselves, which may lie on a kink, if possible."""
    for scale in (1.0, -1.0, 0.0):
        p = torch.tensor([0.011, -0.017], dtype=torch.float64) * scale
        try:
            if torch.isfinite(g(p)):
                return p
        except Exception:
            continue
    return None


def _failed(error: Exception) -> Outcome:
    """Refused by us in words, or something that explains nothing."""
    text = " ".join(str(error).split())
    place = traceback.extract_tb(error.__traceback__)[-1].filename
    worded = isinstance(error, (NotImplementedError, TypeError, ValueError))
    if worded and place.startswith(PACKAGE):
        return Outcome("refused", text)
    return Outcome("wrong", f"{type(error).__name__}: {text[:200]}")


def _function(info: Any, sample: Any) -> Callable[[Any], Any] | None:
    """g(p); None where no input or no output can be differentiated."""
    leaves, spec = tree_flatten((sample.input, sample.args, sample.kwargs))
    moving = [k for k, x in enumerate(leaves) if _moves(info, x)]
    if not moving:
        return None
    leaves = [x.detach() if isinstance(x, torch.Tensor) else x for x in leaves]
    for k in moving:  # some samples mix float32 in
        leaves[k] = leaves[k].to(torch.promote_types(leaves[k].dtype, torch.float64))
    curves = {k: [torch.randn_like(leaves[k]) for _ in range(4)] for k in moving}

    def outputs(p: Any) -> list[Any]:
        filled = list(leaves)
        for k, (v_1, v_2, v_12, v_112) in curves.items():
            s, t = p[0], p[1]
            filled[k] = leaves[k] + s * v_1 + t * v_2 + s * t * (v_12 + s / 2 * v_112)
        first, args, kwargs = tree_unflatten(filled, spec)
        torch.default_generator.manual_seed(1)  # torch.manual_seed visits all devices
        result = info.gradcheck_wrapper(info.op, first, *args, **kwargs)
        if sample.output_process_fn_grad is not None:
            result = sample.output_process_fn_grad(result)
        return [x for x in tree_leaves(result) if is_inexact(x)]

    values = outputs(torch.zeros(2, dtype=torch.float64))
    there = [torch.isfinite(y) for y in values]
    weights = [
        torch.randn(y.shape, dtype=torch.complex128 if y.is_complex() else torch.float64)
        for y in values
    ]
    if not weights:
        return None

    def g(p: Any) -> Any:
        terms = [
            (torch.where(mask, y, 0.0) * w).sum()
            for y, mask, w in zip(outputs(p), there, weights, strict=True)
        ]
        return sum(term.real if term.is_complex() else term for term in terms)

    return g


def _moves(info: Any, x: Any) -> bool:
    if not isinstance(x, torch.Tensor) or x.layout != torch.strided:
        return False
    return x.requires_grad if info.supports_autograd else x.is_floating_point()


# ------------------------------------------------------------------ what is expected


def _nested(g: Callable[[Any], Any], p: Any, order: int) -> list[Any] | None:
    """The same derivatives by nested torch.func.jvp; None where PyTorch has none."""
    along = torch.eye(2, dtype=torch.float64)
    try:
        return reduce(_pushed, (along[axis] for axis in AXES[:order]), lambda p: [g(p)])(p)
    except Exception:
        return None


def _pushed(f: Callable[[Any], list[Any]], v: Any) -> Callable[[Any], list[Any]]:
    """What f returns, and the derivative of the last of it along v."""

    def pushed(p: Any) -> list[Any]:
        values, tangents = torch.func.jvp(f, (p,), (v,))
        return [*values, tangents[-1]]

    return pushed


def _differences(
    g: Callable[[Any], Any], ours: Callable[[Any], list[Any]], p: Any, order: int
) -> list[Any]:
    """Each derivative by central differences of the one before, which is thereby checked."""
    along = torch.eye(2, dtype=torch.float64) * STEP
    found = [g(p)]
    for k, axis in enumerate(AXES[:order]):

        def lower(p: Any, k: int = k) -> Any:
            return g(p) if k == 0 else ours(p)[k]

        weights = ((1, 2 / 3), (2, -1 / 12))
        found.append(
            sum(
                c * (lower(p + n * along[axis]) - lower(p - n * along[axis])) / STEP
                for n, c in weights
            )
        )
    return found


def _close(found: Sequence[Any], expected: Sequence[Any] | None, tolerance: float) -> bool:
    if expected is None:
        return False
    pairs = [(float(x), float(y)) for x, y in zip(found, expected, strict=True)]
    finite = [abs(y) for _, y in pairs if math.isfinite(y)]
    scale = max([1.0, *finite])
    return all(
        abs(x - y) <= tolerance * scale or (math.isnan(x) and math.isnan(y)) or x == y
        for x, y in pairs
    )
