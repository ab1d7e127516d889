"""What an operator carries through a function, operation by operation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from ..core import recorded
from ..core.recorded import Step
from ..frameworks import frontend_of
from ..residual import Residual
from ..transform import Transform
from .prediction import Prediction, options_of, predict
from .text import Printed, Sections


@dataclass(frozen=True, repr=False)
class Propagation(Printed):
    """How the coefficients of an operator travel through a function. Prints as text.

    Attributes:
        operator: how the operator is called.
        steps: every operation that met coefficients, in order, with the numbers that it stored and
            those that it would have stored without structure.
        prediction: what a call will cost; found when it is asked for, or printed.
    """

    operator: str
    steps: tuple[Step, ...]
    predicted: Callable[[], Prediction] = field(compare=False)

    @cached_property
    def prediction(self) -> Prediction:
        """What a call will cost, before it is run."""
        return self.predicted()

    @property
    def stored(self) -> int:
        """How many numbers all results of operations hold."""
        return sum(step.stored for step in self.steps)

    @property
    def whole(self) -> int:
        """The same without structure."""
        return sum(step.whole for step in self.steps)

    @property
    def lost(self) -> tuple[Step, ...]:
        """The operations that had structure to carry on and did not."""
        return tuple(step for step in self.steps if step.lost)

    def sections(self) -> Sections:
        """What is printed; equal steps in a row are one line."""
        lines: list[tuple[tuple[str, str], int]] = []
        for step in self.steps:
            line = (_called(step), _carried(step))
            if lines and lines[-1][0] == line:
                lines[-1] = (line, lines[-1][1] + 1)
            else:
                lines.append((line, 1))
        rows = [
            (f"{name}{f' × {count}' if count > 1 else ''}", text) for (name, text), count in lines
        ]
        saved = f"{self.stored:,} numbers, {self.whole:,} without structure"
        if self.stored:
            saved += f": {self.whole / self.stored:.1f} × fewer"
        where = [(_called(step), "all directions from here on") for step in self.lost]
        found: Sections = [*self.prediction.sections(), ("Coefficients carried", [("", saved)])]
        if rows:
            found.append(("Operation by operation", rows))
        found.append(("Where structure ends", where or [("", "nowhere")]))
        return found

    @property
    def title(self) -> str:
        """The first line."""
        return f"{self.operator}, through {len(self.steps)} operations"


def _called(step: Step) -> str:
    """An operation and the shape of its result."""
    return f"{step.name} ({', '.join(map(str, step.shape))})"


def _carried(step: Step) -> str:
    """What its result carries."""
    ratio = f"{step.stored:,} of {step.whole:,}"
    if not step.pieces:
        return ratio
    kinds = [
        f"{slots} of {rows} directions" + ("" if axis is None else f" by axis {axis}")
        for axis, slots, rows in dict.fromkeys(step.pieces)
    ]
    return f"{ratio}   {', '.join(kinds)}"


def explain_propagation(
    operator: Transform | Residual[Any],
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Any,
) -> Propagation:
    """Evaluate an operator at a point, and tell what it carried."""
    predicted = partial(predict, operator, function, *args, **kwargs)
    kwargs.pop("compiled", None)
    options = options_of(kwargs)
    positions = options.get("argnums", 0)
    first = positions if isinstance(positions, int) else positions[0]
    frontend = frontend_of(args[first])
    with recorded.recording() as steps:
        frontend.rehearse(lambda *x: operator(function, **options)(*x, **kwargs), args)
    return Propagation(str(getattr(operator, "name", operator)), tuple(steps), predicted)
