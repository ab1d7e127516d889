"""A function with a rule of its author's: what `rules.register_rule` hands to the frontends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .arrays import Array, Arrays
from .jet import Jet

Function = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Registered:
    """A function and its rule: either a tower or a function of jets."""

    function: Function
    tower: Function | None
    jet: Function | None
    name: str

    def entries(self, u: Array, y: Array, order: int, xp: Arrays) -> list[Any]:
        """The tower, in the form of those of `core.towers`, checked."""
        assert self.tower is not None
        if tuple(y.shape) != tuple(u.shape):
            raise ValueError(
                f"{self.name} was registered with a tower, so it must act on every entry alone, "
                f"but it makes shape {tuple(y.shape)} of {tuple(u.shape)}; register it with jet="
            )
        found = self.tower(u, y, order, xp)
        if not isinstance(found, Sequence) or len(found) != order:
            got = f"{len(found)} entries" if isinstance(found, Sequence) else type(found).__name__
            raise ValueError(
                f"the tower of {self.name} must be a list of {order} entries, "
                f"[φ'(u), φ''(u)/2!, …, φ^({order})(u)/{order}!], got {got}; the order is the "
                "third argument of the tower, and None stands for an entry that is zero everywhere"
            )
        return list(found)

    def argument(self, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """The one argument of a function with a tower."""
        if len(args) != 1 or kwargs:
            raise TypeError(
                f"{self.name} was registered with a tower, so it takes one array, got "
                f"{len(args)} arguments and {len(kwargs)} by name; bind the others before (by a "
                "lambda, functools.partial) or register it with jet="
            )
        return args[0]

    def result(self, found: Any, algebra: Any, shape: Sequence[int]) -> Any:
        """One array that the rule for jets returned, checked: a jet or, if constant, an array."""
        value = found.primal if isinstance(found, Jet) else found
        if tuple(getattr(value, "shape", ())) != tuple(shape):
            raise ValueError(
                f"the rule of {self.name} returned a value of shape "
                f"{tuple(getattr(value, 'shape', ()))}, where the function has {tuple(shape)}"
            )
        if isinstance(found, Jet) and len(found.blocks) != algebra.order:
            raise ValueError(
                f"the rule of {self.name} returned {len(found.blocks)} blocks; one for each degree "
                f"is needed, {algebra.order} here (None where it is zero)"
            )
        return found
