"""What an operator costs (`explain`), and whether its value is right (`check`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, overload

from ..collapse import ProgramExplanation, explain_program
from ..randomized import Randomized
from ..residual import Residual
from ..transform import Transform
from .check import Report, check
from .equation import asked_by
from .estimate import Estimate, explain_estimate
from .operator import Explanation, explain_operator
from .prediction import Prediction, predict
from .propagation import Propagation, explain_propagation

__all__ = [
    "Estimate",
    "Explanation",
    "Prediction",
    "Propagation",
    "Report",
    "check",
    "explain",
    "predict",
]


@overload
def explain(  # type: ignore[overload-overlap]
    operator: Randomized, coordinates: Any = None, *args: Any, **kwargs: Any
) -> Estimate: ...
@overload
def explain(
    operator: Transform | Residual[Any],
    coordinates: Callable[..., Any],
    *args: Any,
    **kwargs: Any,
) -> Propagation: ...
@overload
def explain(
    operator: Residual[Any], coordinates: None = None, **parameters: Any
) -> Explanation: ...
@overload
def explain(
    operator: Transform | Mapping[Any, Any] | Sequence[Any], coordinates: int | None = None
) -> Explanation: ...
@overload
def explain(
    operator: Callable[..., Any], coordinates: Any, *args: Any, **kwargs: Any
) -> ProgramExplanation: ...
def explain(operator: Any, coordinates: Any = None, *args: Any, **kwargs: Any) -> Any:
    """What an operator carries: vectors per method, the minimal basis and its product rule.

    `explain(operator, f, x, …)` says what the operator carries through a function at a point,
    operation by operation: which coefficients are known to be zero and left out, where that ends,
    and what it saved (with the keywords argnums, batch_dims, method, structure and those of f). Its
    `prediction`, made when it is asked for or printed, tells what a call will cost before it is
    run: vectors, FLOPs beside those of f, bytes of temporary arrays and of those kept for a
    backward pass, and time / limit as estimated from them. For that f is traced, or run on tensors
    without numbers, three times, and the speed of the machine is measured once, for some 50 ms.

    `explain(residual)` of an equation tells for which derivatives it asks, and what is carried for
    all of them; what it takes beside its fields comes by keyword (numbers need not be given).
    `explain(residual, f, x, …)` as with an operator.

    `explain(f, x, …)` of a function and its arguments says what `jetfold.collapse` makes of it: its
    operations before and after, every sum that moves, how far, and what stopped it.

    `explain(jetfold.randomize(…))` gives the vectors carried and the formula of the variance;
    `explain(jetfold.randomize(…), f, x, rng=…, draws=100)` measures mean and standard deviation
    (with the keywords that the operator takes, such as batch_dims or sigma).

    Args:
        operator: an `Operator`; an equation, as `jetfold.residual` makes it; `jetfold.laplacian`
            or `jetfold.biharmonic` (with coordinates); or any nesting of dicts, lists and tuples of
            operators, as for `jetfold.derivatives`.
        coordinates: the number of coordinates, where the operator does not say; of a randomized
            weighted Laplacian the number of columns of sigma.

    Returns:
        an `Explanation` (with a function a `Propagation`; of a program a `ProgramExplanation`,
        which also draws it with `save`; of a randomized operator an `Estimate`): print it, or read
        its attributes.

    Raises:
        TypeError: it is no operator.
        ValueError: the number of coordinates is missing, or does not fit.

    >>> import jetfold as jf
    >>> t, x = jf.partials(2, names="t x")
    >>> explain(t - x**2)
    t - x**2, on 2 coordinates
    <BLANKLINE>
    Vectors carried at every node, by degree 0, 1, …
      minimal        3 = 1 + 1 + 1
      collapsed      4 = 1 + 2 + 1
      standard       4 = 1 + 2 + 1
    <BLANKLINE>
    Basis of the minimal algebra
      degree 0   1
      degree 1   x
      degree 2   e2 = -t + x**2
    <BLANKLINE>
    Product rule (u_w means w(∂)u); 1 structure constant beside those of u and v
      (uv)_x    = u·v_x + u_x·v
      (uv)_e2   = u·v_e2 + u_e2·v + 2·u_x·v_x
    <BLANKLINE>
    Read-out
      t - x**2   = -u_e2
    >>> explain(jf.biharmonic, coordinates=5).vectors
    {'minimal': 27, 'collapsed': 107, 'standard': 141}
    >>> burgers = jf.residual(lambda u, d, nu: d.t(u) + u * d.x(u) - nu * d.xx(u), "t x")
    >>> explain(burgers).by_degree["minimal"]
    (1, 2, 1)
    """
    if isinstance(operator, Randomized):
        return explain_estimate(operator, coordinates, *args, **kwargs)
    if isinstance(operator, Residual) and coordinates is None and not args:
        return explain_operator(asked_by(operator, kwargs), None, repr(operator))
    if isinstance(operator, (Transform, Residual)) and callable(coordinates):
        return explain_propagation(operator, coordinates, args, kwargs)
    if args or kwargs or not (coordinates is None or isinstance(coordinates, int)):
        return explain_program(operator, (coordinates, *args), kwargs)
    return explain_operator(operator, coordinates)
