"""What a randomized operator carries, and how its value varies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from ..core import symbols as of
from ..core.symbols import Variables
from ..frameworks import frontend_of
from ..randomized import Randomized
from ..transform import Call, Transform
from .check import arrays_of
from .text import Printed, Sections, cut, cut_sum


@dataclass(frozen=True, repr=False)
class Estimate(Printed):
    """What a randomized operator carries, and how its value varies. Prints as text.

    Attributes:
        operator: the operator, as one writes it.
        samples: how many directions (or terms) are drawn.
        exact: whether the exact operator is evaluated, because it carries no more vectors.
        vectors: how many vectors are carried by the estimate; and by the exact operator, None where
            that is too many to count.
        formulas: the variance of every random part.
        draws: how many values of a function were compared.
        mean, deviation: of these values, in the structure that the function returns: numpy arrays.
    """

    operator: str
    samples: int
    exact: bool
    vectors: tuple[int, int | None]
    formulas: tuple[str, ...]
    draws: int = 0
    mean: Any = None
    deviation: Any = None

    def sections(self) -> Sections:
        """What is printed."""
        sampled, exact = self.vectors
        rows = [("sampled", str(sampled)), ("exact", "many" if exact is None else str(exact))]
        found: Sections = [("Vectors carried at every node", rows)]
        if self.exact:
            found.append(("Variance", [("", "none: the exact operator carries no more vectors")]))
        else:
            found.append(("Variance", [("", text) for text in self.formulas]))
        if self.draws:
            measured = [("mean", _numbers(self.mean)), ("deviation", _numbers(self.deviation))]
            found.append((f"Values of {self.draws} draws", measured))
        return found

    @property
    def title(self) -> str:
        """The first line."""
        return f"{cut_sum(self.operator)}, {self.samples} sample{'s' * (self.samples != 1)}"


def _numbers(arrays: Sequence[np.ndarray]) -> str:
    texts = [f"{x:.4g}" for array in arrays for x in np.ravel(array)]
    return ", ".join(cut(texts, 6))


def explain_estimate(
    operator: Randomized,
    subject: Any = None,
    *args: Any,
    rng: Any = None,
    draws: int = 100,
    **options: Any,
) -> Estimate:
    """What a randomized operator carries and how it varies, for a function also in numbers.

    Args:
        subject: a function, or a number of coordinates.
    """
    if callable(subject) and not args:
        raise TypeError(
            "explain(randomized, f, x, …) measures the variance of a function at a point, and no "
            "point came"
        )
    inner = _variables(operator.base, subject, args, options)
    estimator = of.estimator(operator.symbols, inner)
    found = Estimate(
        operator=str(operator.base),
        samples=operator.sampling.samples,
        exact=of.exact_is_as_cheap(operator.symbols, inner),
        vectors=(estimator.vectors, operator.base.symbols.vectors(inner)),
        formulas=estimator.variance,
    )
    if not args:
        return found
    evaluate = operator(subject, **options)
    frontend = frontend_of(args[0])
    values = []
    for generator in frontend.generators(rng, draws):
        values.append(arrays_of(frontend, evaluate(*args, rng=generator)))
    stacked = [np.stack(leaves) for leaves in zip(*values, strict=True)]
    return replace(
        found,
        draws=draws,
        mean=[leaf.mean(0) for leaf in stacked],
        deviation=[leaf.std(0, ddof=1) for leaf in stacked],
    )


def _variables(
    base: Transform, subject: Any, args: Sequence[Any], options: Mapping[str, Any]
) -> Variables:
    """Those of the exact operator: for a point, or for a number of coordinates."""
    if args:
        given, batch_dims = options.get("argnums", 0), options.get("batch_dims", 0)
        points = tuple(args[k] for k in ((given,) if isinstance(given, int) else given))
        counts = tuple(prod(point.shape[batch_dims:]) for point in points)
        one = isinstance(given, int)
        call = Call(frontend_of(points[0]), subject, points, counts, one, batch_dims, "minimal")
        return base.directions(call)[1]
    n = base.coordinates if subject is None else subject
    if n is None:
        raise ValueError(
            f"{base} does not say how many coordinates it has (or how many columns sigma has): "
            "give coordinates="
        )
    return base.variables(n)
