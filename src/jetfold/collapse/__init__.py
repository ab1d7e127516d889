"""The compiler pass: sums move up through linear operations, in programs of either framework."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import wraps
from typing import Any, overload

from ..typed import Module, P, T
from ..warn import report_symbolic
from .builder import Traced
from .explained import ProgramExplanation
from .plan import Plan, plan
from .rolled import SAVING, rollable, values

__all__ = ["ProgramExplanation", "collapse", "explain_program"]


@overload
def collapse(function: Module[T]) -> Callable[..., T]: ...
@overload
def collapse(function: Callable[P, T]) -> Callable[P, T]: ...
def collapse(function: Any) -> Any:
    """The same function, with sums moved up through everything linear.

    A program that sums directional derivatives, however they were taken (`jetfold.jet`,
    `jax.experimental.jet`, nested `jvp`, mapped over directions by `vmap`), then propagates their
    sum: the collapsed Taylor mode of Dangel et al. 2025 as a rewrite of the program. Values are the
    same up to the order in which floating-point numbers are added, and not finite where the
    program's are not: 0 · ∞ stays nan. No program gets more operations: where nothing can be saved
    it runs as it is.

    Args:
        function: of arrays of either framework, anywhere in its arguments; it is traced at every
            call, so put `jax.jit` or `torch.compile` around it, or use
            `torch.compile(function, backend="jetfold")` instead.

    Returns:
        a function with the same arguments and results, which can be differentiated, mapped and
        compiled.

    Raises:
        TypeError (in the call): no argument holds an array.

    >>> import torch
    >>> from torch.func import jvp, vmap
    >>> def laplacian(x):
    ...     second = lambda v: jvp(lambda y: jvp(f, (y,), (v,))[1], (x,), (v,))[1]
    ...     return vmap(second)(torch.eye(3)).sum(0)
    >>> f = lambda x: torch.sin(x @ torch.ones(3, 4)).sum()
    >>> x = torch.tensor([0.1, 0.2, 0.3])
    >>> torch.allclose(collapse(laplacian)(x), laplacian(x))
    True
    """
    function = _original(function)
    if not callable(function):
        raise TypeError(f"collapse takes a function, got {type(function).__name__}")

    def collapsed(*args: Any, **kwargs: Any) -> Any:
        half = half_of(args, kwargs)
        if half.is_symbolic(args, kwargs):
            report_symbolic()
            return function(*args, **kwargs)
        traced, found = planned(half, function, args, kwargs)
        if found.choice is None:
            return function(*args, **kwargs)
        return traced.rebuild(found.run(half.arrays(), traced.program))

    with suppress(AttributeError):  # a callable object without the attributes of a function
        collapsed = wraps(function)(collapsed)
    collapsed.__jetfold_collapses__ = function  # type: ignore[attr-defined]
    return collapsed


def planned(half: Any, function: Callable[..., Any], args: Any, kwargs: Any) -> tuple[Traced, Plan]:
    """A call as a program, and what to do with it; loops become mapped axes where that saves."""
    traced = half.traced(function, args, kwargs)
    found = plan(traced.program)
    if not rollable(traced.program):
        return traced, found

    def rolled(*arrays: Any) -> Any:
        return values(traced.again(arrays), half.arrays())

    try:
        other = half.traced(rolled, traced.inputs, {})
    except Exception:  # a step that cannot be mapped (a primitive without a batching rule) stays
        return traced, found
    of_rolled = plan(other.program)
    if of_rolled.choice is None or of_rolled.after > SAVING * found.after:
        return traced, found
    rebuild = lambda outputs: traced.rebuild(other.rebuild(outputs))  # noqa: E731
    costs = {"before": found.before, "matmul_before": found.matmul_before}
    compared = replace(of_rolled, **costs, rolled=True)  # type: ignore[arg-type]
    return replace(other, rebuild=rebuild), compared


def _original(function: Any) -> Any:
    """What was collapsed already is collapsed from the start."""
    return getattr(function, "__jetfold_collapses__", function)


def half_of(args: Any, kwargs: Any) -> Any:
    """The pass of the framework whose arrays are among the arguments."""
    if "torch" in sys.modules:
        from . import torch as of_torch

        if of_torch.has_arrays((args, kwargs)):
            return of_torch
    if "jax" in sys.modules:
        from . import jax as of_jax

        if of_jax.has_arrays((args, kwargs)):
            return of_jax
    raise TypeError(
        "a program is traced with its arguments, and none of them holds a torch.Tensor or a "
        "jax.Array; pass the arrays as arguments"
    )


def explain_program(function: Callable[..., Any], args: Any, kwargs: Any) -> ProgramExplanation:
    """What `collapse` makes of a call."""
    original, half = _original(function), half_of(args, kwargs)
    traced, found = planned(half, original, args, kwargs)
    after = traced.program
    if found.choice is not None:

        def rewritten(*arrays: Any) -> Any:
            return found.run(half.arrays(), traced.again(arrays))

        after = half.traced(rewritten, traced.inputs, {}).program
    name = getattr(original, "__name__", type(original).__name__)
    return ProgramExplanation(name, found, traced.program.live(), after.live())
