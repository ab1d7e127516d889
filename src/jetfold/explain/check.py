"""Whether values are right: every method against nested differentiation in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.directions import METHODS
from ..derivatives import derivatives
from ..frameworks import frontend_of
from ..frontend import Frontend
from .text import Printed, Sections


@dataclass(frozen=True, repr=False)
class Report(Printed):
    """How far each method is from nested automatic differentiation. Prints as text.

    Attributes:
        function: the name of the function.
        dtype: the dtype in which the methods were evaluated.
        reference: what they were compared with.
        largest: the largest |value| of the reference.
        absolute: per method the largest absolute error.
        relative: per method the largest absolute error of an array divided by the largest |value|
            of that array; the largest over all arrays that the operator returns.
        note: what a reader should know about the comparison, or "".
        mixing: how much the function changes at points that stay where they are while others of
            the batch move, relative to its largest |value|: 0 where the points are independent,
            None where that was not tried.
    """

    function: str
    dtype: str
    reference: str
    largest: float
    absolute: Mapping[str, float]
    relative: Mapping[str, float]
    note: str = ""
    mixing: float | None = None

    @property
    def worst(self) -> float:
        """The largest relative error of any method; inf where the function mixes points."""
        return float("inf") if self.mixing else max(self.relative.values(), default=0.0)

    def sections(self) -> Sections:
        """What is printed."""
        rows = [("", "absolute   relative")]
        rows += [(m, f"{self.absolute[m]:<8.2g}   {self.relative[m]:.2g}") for m in self.absolute]
        rows += [("largest |value|", f"{self.largest:.6g}")]
        if self.mixing is not None:
            rows += [("mixing of points", f"{self.mixing:.2g}")]
        return [
            (f"Largest errors against {self.reference}", rows),
            *([("Note", [("", self.note)])] if self.note else []),
        ]

    @property
    def title(self) -> str:
        """The first line."""
        return f"{self.function}, evaluated in {self.dtype}"


def check(
    operator: Any,
    function: Callable[..., Any],
    *args: Any,
    argnums: int | Sequence[int] = 0,
    batch_dims: int = 0,
    methods: Sequence[str] = METHODS,
    mixing: bool | None = None,
    **kwargs: Any,
) -> Report:
    """Compare every method with nested automatic differentiation in float64, at one point.

    With batch_dims it also moves some of the points, and finds out whether the function changes at
    the others: then it mixes points (by the mean of the batch, batch normalisation in training,
    attention over the batch), which batch_dims declares to be independent: no method is right.

    The arguments, and a copy of the function if it is a `torch.nn.Module` or a pytree of JAX, are
    converted to float64 for the reference; tensors that the function closes over enter every
    PyTorch operation as float64 (JAX promotes by itself). What cannot be converted that way (a
    scripted function with float32 parameters, a function that insists on its dtype) is compared in
    the dtype given, and the report says so.

    Args:
        operator: an `Operator`, `jetfold.laplacian`, any other transform of jetfold
            (`functools.partial(jf.weighted_laplacian, sigma=sigma)`), or a nesting of operators as
            for `jetfold.derivatives`.
        function: the function to differentiate.
        args, kwargs: its arguments, the point among them.
        argnums, batch_dims: as in the call of an operator.
        methods: which methods to compare; none, with mixing=True.
        mixing: whether to try if the function mixes points: None where there is a batch. It costs
            2·⌈log₂ N⌉+1 evaluations of the function at all N points, no derivatives, and misses no
            pair of points.

    Returns:
        a `Report`: print it, or read its attributes.

    Raises:
        TypeError, ValueError: as the operator itself does.

    >>> import torch, jetfold as jf
    >>> x = torch.tensor([0.3, 0.7], dtype=torch.float64)
    >>> report = check(jf.laplacian, lambda x: torch.sin(x).prod(), x)
    >>> report.worst < 1e-12
    True
    """
    if isinstance(operator, (Mapping, list, tuple)):
        operator = derivatives(operator)
    if not callable(operator):
        raise TypeError(
            "check takes an operator, a transform of jetfold or a nesting of operators, got "
            f"{type(operator).__name__}"
        )
    if not methods and not mixing:
        raise ValueError(f"methods must name at least one of {', '.join(METHODS)}")
    positions = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    if not args or not positions or any(not -len(args) <= k < len(args) for k in positions):
        raise TypeError(
            f"check(operator, function, *args) got {len(args)} positional arguments, and argnums="
            f"{argnums!r} asks for the point among them; pass the point by position"
        )
    frontend = frontend_of(args[positions[0]])

    def evaluate(function: Callable[..., Any], method: str, *args: Any, **kwargs: Any) -> Any:
        transformed = operator(function, argnums=argnums, batch_dims=batch_dims, method=method)
        with frontend.seeded():
            return arrays_of(frontend, transformed(*args, **kwargs))

    def mixed(function: Callable[..., Any], args: Sequence[Any], kwargs: Any) -> float | None:
        if mixing is False or not batch_dims:
            return None
        return mixing_of(frontend, function, args, kwargs, positions, batch_dims)

    values = {method: evaluate(function, method, *args, **kwargs) for method in methods}
    dtype = _dtype(args[positions[0]])
    note = ""
    try:
        wide, wide_args, wide_kwargs = map(frontend.in_float64, (function, args, kwargs))
        with frontend.float64():
            found_mixing = mixed(wide, wide_args, wide_kwargs)
            reference = evaluate(wide, "nested", *wide_args, **wide_kwargs) if methods else []
        precision = "float64"
    except (RuntimeError, TypeError) as error:
        if not any(word in str(error) for word in ("dtype", "scalar type", "Input type")):
            raise
        precision = dtype
        note = (
            f"the function cannot be evaluated in float64 ({error}), so the reference is in "
            f"{dtype} too, with errors of its own; pass its parameters as arguments, or hand over "
            "the torch.nn.Module itself"
        )
        found_mixing = mixed(function, args, kwargs)
        reference = evaluate(function, "nested", *args, **kwargs) if methods else []
    if found_mixing:
        note = (
            "the function mixes the points of the batch, which batch_dims= declares to be "
            "independent: its derivatives by one point would be those by all. " + note
        ).rstrip()
    sizes = [_largest(leaf) for leaf in reference]
    errors = {
        method: [_largest(leaf - exact) for leaf, exact in zip(leaves, reference, strict=True)]
        for method, leaves in values.items()
    }
    return Report(
        function=getattr(function, "__name__", type(function).__name__),
        dtype=dtype,
        reference=f"nested automatic differentiation in {precision}",
        largest=max(sizes, default=0.0),
        absolute={method: max(found) for method, found in errors.items()},
        relative={
            method: max(
                error / size if size else (float("inf") if error else 0.0)
                for error, size in zip(found, sizes, strict=True)
            )
            for method, found in errors.items()
        },
        note=note,
        mixing=found_mixing,
    )


def mixing_of(
    frontend: Frontend,
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    positions: Sequence[int],
    batch_dims: int,
) -> float:
    """How much f changes at points that stay while others move, relative to its largest value.

    Any two points differ in a digit of their numbers, so for each digit those with 0 move, then
    those with 1. What does not have the batch axes in front is no result of points.
    """
    batch = tuple(args[positions[0]].shape)[:batch_dims]
    numbers = np.arange(np.prod(batch, dtype=int)).reshape(batch)

    def of(moved: np.ndarray) -> list[np.ndarray]:
        given = list(args)
        for k in positions:
            point = given[k]
            mask = moved.reshape((*batch, *(1,) * (point.ndim - batch_dims)))
            step = frontend.xp.asarray(np.where(mask, STEP, 0.0), point)
            given[k] = point + step * (1 + abs(point))
        with frontend.seeded():
            return arrays_of(frontend, function(*given, **kwargs))

    still = of(np.zeros(batch, dtype=bool))
    worst = 0.0
    for digit in range(int(numbers.max(initial=0)).bit_length()):
        for side in (0, 1):
            moved = (numbers >> digit & 1) == side
            for before, after in zip(still, of(moved), strict=True):
                if before.shape[:batch_dims] == batch:
                    change = _largest((after - before)[~moved])
                    worst = max(worst, change / (_largest(before) or 1.0))
    small = 1e-10 if _dtype(args[positions[0]]) == "float64" else 1e-5
    return worst if worst > small else 0.0


STEP = 1e-3
"""By how much points move: f need not be defined far from them."""


def arrays_of(frontend: Frontend, outputs: Any) -> list[np.ndarray]:
    """Every array that a function returned, in double precision."""
    found: list[Any] = []
    frontend.map_outputs(lambda leaf: found.append(frontend.to_numpy(leaf)), outputs)
    return found


def _largest(array: np.ndarray) -> float:
    return float(np.abs(array).max(initial=0.0))


def _dtype(array: Any) -> str:
    return str(array.dtype).removeprefix("torch.")
