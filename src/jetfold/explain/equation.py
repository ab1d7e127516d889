"""What a nonlinear equation carries: the derivatives for which it asks."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from ..frameworks import frontend_of, ones
from ..operators import Operator, partials
from ..residual import Residual, Symbol


def asked_by(residual: Residual[Any], parameters: Mapping[str, Any]) -> list[Operator]:
    """The derivatives that are propagated for an equation, the value first.

    It runs on ones, in each framework that is there until one fits; parameters that are not given
    are 1.

    Raises:
        TypeError: parameters that it does not take; or it could not be run.
    """
    if unknown := [name for name in parameters if name not in residual.parameters]:
        raise TypeError(
            f"the equation takes no parameter {unknown[0]}: its parameters are "
            f"{', '.join(residual.parameters) or 'none'}; to see how it is evaluated, give a "
            "function and points, explain(residual, f, x, batch_dims=1)"
        )
    names = residual.coordinates
    given = dict.fromkeys(residual.parameters, 1.0) | dict(parameters)
    failed: Exception | None = None
    for one in ones():
        frontend = frontend_of(one)
        point = frontend.xp.broadcast_to(one, (1, len(names)))
        beside = {name: point if name == "point" else one for name in residual.given}
        try:
            asked = residual.asks(frontend, one, given | beside)
        except Exception as error:  # an equation for the other framework, or its parameters
            failed = failed or error
            continue
        return [_operator(symbol, names) for symbol in asked]
    raise TypeError(
        "explain(residual) runs the equation to see for which derivatives it asks, and it raised "
        f"{type(failed).__name__}: {failed}; give what else it takes by keyword, as in "
        "explain(residual, nu=0.1)"
    ) from failed


def _operator(symbol: Symbol, names: tuple[str, ...]) -> Operator:
    x = partials(len(names), [name for name in names if name] or None)
    terms = [c * prod((x[i] for i in monomial), start=x[0] ** 0) for monomial, c in symbol]
    return sum(terms[1:], start=terms[0])
