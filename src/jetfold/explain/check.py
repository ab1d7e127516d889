"""Whether values are right: every method against nested differentiation in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..core.directions import METHODS
from ..derivatives import derivatives
from ..frameworks import frontend_of
from ..frontend import Frontend
from .text import Sections, as_rich, as_text


@dataclass(frozen=True, repr=False)
class Report:
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
    """

    function: str
    dtype: str
    reference: str
    largest: float
    absolute: Mapping[str, float]
    relative: Mapping[str, float]
    note: str = ""

    @property
    def worst(self) -> float:
        """The largest relative error of any method."""
        return max(self.relative.values())

    def sections(self) -> Sections:
        """What is printed."""
        rows = [("", "absolute   relative")]
        rows += [(m, f"{self.absolute[m]:<8.2g}   {self.relative[m]:.2g}") for m in self.absolute]
        rows += [("largest |value|", f"{self.largest:.6g}")]
        return [
            (f"Largest errors against {self.reference}", rows),
            *([("Note", [("", self.note)])] if self.note else []),
        ]

    @property
    def title(self) -> str:
        """The first line."""
        return f"{self.function}, evaluated in {self.dtype}"

    def __str__(self) -> str:
        return as_text(self.title, self.sections())

    __repr__ = __str__

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        return as_rich(self.title, self.sections())


def check(
    operator: Any,
    function: Callable[..., Any],
    *args: Any,
    argnums: int | Sequence[int] = 0,
    batch_dims: int = 0,
    methods: Sequence[str] = METHODS,
    **kwargs: Any,
) -> Report:
    """Compare every method with nested automatic differentiation in float64, at one point.

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
        methods: which methods to compare.

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
    if not methods:
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
        return arrays_of(frontend, transformed(*args, **kwargs))

    values = {method: evaluate(function, method, *args, **kwargs) for method in methods}
    dtype = _dtype(args[positions[0]])
    note = ""
    try:
        with frontend.float64():
            double = frontend.in_float64
            reference = evaluate(double(function), "nested", *double(args), **double(kwargs))
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
        reference = evaluate(function, "nested", *args, **kwargs)
    sizes = [_largest(leaf) for leaf in reference]
    errors = {
        method: [_largest(leaf - exact) for leaf, exact in zip(leaves, reference, strict=True)]
        for method, leaves in values.items()
    }
    return Report(
        function=getattr(function, "__name__", type(function).__name__),
        dtype=dtype,
        reference=f"nested automatic differentiation in {precision}",
        largest=max(sizes),
        absolute={method: max(found) for method, found in errors.items()},
        relative={
            method: max(
                error / size if size else (float("inf") if error else 0.0)
                for error, size in zip(found, sizes, strict=True)
            )
            for method, found in errors.items()
        },
        note=note,
    )


def arrays_of(frontend: Frontend, outputs: Any) -> list[np.ndarray]:
    """Every array that a function returned, in double precision."""
    found: list[Any] = []
    frontend.map_outputs(lambda leaf: found.append(frontend.to_numpy(leaf)), outputs)
    return found


def _largest(array: np.ndarray) -> float:
    return float(np.abs(array).max(initial=0.0))


def _dtype(array: Any) -> str:
    return str(array.dtype).removeprefix("torch.")
