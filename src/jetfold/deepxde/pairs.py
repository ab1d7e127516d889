"""Which derivative a pair is, in JAX, where DeepXDE hands out pairs of values and their function.

`values` are Float[points, outputs], and the function is of one point, Float[coordinates] ->
Float[outputs]. A derivative is such a pair again, whose function knows what it is (`Derived`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ..columns import VALUE, Column, Symbol, operators, times

Function = Callable[[Any], Any]


class Call:
    """The values of a function at points, and derivatives of it.

    Attributes:
        function: Float[coordinates] -> Float[outputs].
        points: Float[points, coordinates].
        found: derivatives of all outputs, and the outputs: Float[points, outputs].
        asked: what was asked for.
        given: the arrays that were handed out, and which derivatives they hold.
    """

    def __init__(self, function: Function, points: Any, outputs: Any) -> None:
        self.function, self.points = function, points
        self.found: dict[Symbol, Any] = {VALUE: outputs}
        self.asked: set[Column] = set()
        self.given: dict[int, tuple[Any, list[Column]]] = {}
        self.all = [(k, VALUE) for k in range(outputs.shape[-1])]
        self.given[id(outputs)] = outputs, self.all

    def propagate(self, wanted: Iterable[Column]) -> None:
        """Find derivatives from one propagation, those that are not known yet."""
        new = frozenset([column for column in wanted if column[1] not in self.found])
        if new:
            found = jax.vmap(operators(self.points.shape[1], new)(self.function))(self.points)
            self.found = found | self.found


class Rehearsal(Call):
    """A call of which only what is asked for counts."""

    def propagate(self, wanted: Iterable[Column]) -> None:
        for _, symbol in wanted:
            self.found.setdefault(symbol, jnp.zeros_like(self.found[VALUE]))


@dataclass(frozen=True)
class Asked:
    """A call of which somebody asks for derivatives, as pairs or as arrays."""

    call: Call
    pairs: bool

    def derivative(self, column: Column, factor: Symbol) -> Any:
        """A derivative of a derivative of an output, Float[points, 1]."""
        k, symbol = column[0], times(column[1], factor)
        self.call.asked.add((k, symbol))
        self.call.propagate([(k, symbol)])
        return self.handed(self.call.found[symbol][:, k : k + 1], [(k, symbol)])

    def handed(self, values: Any, columns: list[Column]) -> Any:
        """An array whose columns are such derivatives, or the pair."""
        self.call.given[id(values)] = values, columns
        return (values, Derived(self.call.function, columns)) if self.pairs else values


class Derived:
    """Derivatives of a function, Float[coordinates] -> Float[columns]: the second of a pair."""

    def __init__(self, function: Function, columns: list[Column]) -> None:
        self.function, self.columns = function, columns

    def __call__(self, point: Any) -> Any:
        found = operators(point.shape[-1], frozenset(self.columns))(self.function)(point)
        return jnp.stack([found[symbol][k] for k, symbol in self.columns], -1)


_calls: deque[Call] = deque(maxlen=8)


def at_once(run: Callable[[], Any], function: Function, points: Any, outputs: Any) -> Any:
    """run(), which asks for derivatives of a function: all of them from one propagation.

    It is traced once before, to learn for which derivatives it asks.
    """
    rehearsal = Rehearsal(function, points, outputs)
    try:
        _calls.append(rehearsal)
        jax.eval_shape(run)
        forget()
        call = Call(function, points, outputs)
        call.propagate(rehearsal.asked)
        _calls.append(call)
        return run()
    finally:
        forget()


def forget() -> None:
    """Keep nothing of the calls."""
    _calls.clear()


def any_network() -> bool:
    """Whether derivatives can be known: of pairs they always are."""
    return True


def find(ys: Any, xs: Any) -> tuple[Any, list[Column]] | None:
    """Where a pair or an array comes from, as an `Asked`, and which derivatives it holds.

    Raises:
        TypeError: it is an array of which nobody knows the function.
    """
    if not (isinstance(ys, tuple) and len(ys) == 2 and callable(ys[1])):
        for call in reversed(_calls):
            if call.points is xs and id(ys) in call.given:
                return Asked(call, False), call.given[id(ys)][1]
        raise TypeError(
            "with DeepXDE's JAX backend derivatives are of pairs, as the equation gets them and as "
            "jacobian and hessian return them, (values, function); a boundary condition gets "
            "arrays, and differentiates the outputs themselves (component=0, not outputs[:, 0:1]) "
            f"or such derivatives; got {type(ys).__name__}"
        )
    values, function = ys
    columns: list[Column] | None = None
    if isinstance(function, Derived):
        columns, function = function.columns, function.function
    for call in reversed(_calls):
        if call.points is xs and call.function is function:
            return Asked(call, True), columns or call.all
    outputs = values if columns is None else jax.vmap(function)(xs)
    call = Call(function, xs, outputs)
    _calls.append(call)
    return Asked(call, True), columns or call.all


def together(call: Any, parts: Sequence[Any]) -> Any:
    """Columns side by side, of which is known what they are."""
    arrays = [part[0] if call.pairs else part for part in parts]
    columns = [column for array in arrays for column in call.call.given[id(array)][1]]
    return call.handed(jnp.concatenate(arrays, 1), columns)
