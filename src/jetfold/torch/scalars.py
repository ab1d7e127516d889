"""Scalars that write C: arithmetic on them adds lines to the body of a loop.

A tower (`core.towers`) or a formula of an algebra runs on them as it runs on tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import arrays as XP

Recipe = Callable[[Any, Any], Any]
"""What a scalar is of u and y, for whole tensors."""


class Scalar:
    """A number in a loop; arithmetic on it writes the next line of the loop."""

    __slots__ = ("name", "program", "recipe")

    def __init__(self, program: Program, name: str, recipe: Recipe) -> None:
        self.program, self.name, self.recipe = program, name, recipe

    def _with(self, symbol: str, other: Any, swapped: bool = False) -> Scalar:
        a, b = (other, self) if swapped else (self, other)
        apply = _OPERATIONS[symbol]

        def recipe(u: Any, y: Any) -> Any:
            return apply(_recipe(a)(u, y), _recipe(b)(u, y))

        return self.program.let(f"{text(a)} {symbol} {text(b)}", recipe)

    def __add__(self, other: Any) -> Scalar:
        return self._with("+", other)

    def __radd__(self, other: Any) -> Scalar:
        return self._with("+", other, True)

    def __sub__(self, other: Any) -> Scalar:
        return self._with("-", other)

    def __rsub__(self, other: Any) -> Scalar:
        return self._with("-", other, True)

    def __mul__(self, other: Any) -> Scalar:
        return self._with("*", other)

    def __rmul__(self, other: Any) -> Scalar:
        return self._with("*", other, True)

    def __truediv__(self, other: Any) -> Scalar:
        return self._with("/", other)

    def __rtruediv__(self, other: Any) -> Scalar:
        return self._with("/", other, True)

    def __neg__(self) -> Scalar:
        return self * -1.0

    def __gt__(self, other: Any) -> Scalar:
        return self._with(">", other)

    def __lt__(self, other: Any) -> Scalar:
        return self._with("<", other)

    def __eq__(self, other: object) -> bool:
        raise TypeError("what depends on a number is not known before it is there")

    __hash__ = None  # type: ignore[assignment]

    def __bool__(self) -> bool:
        return self == 0

    def __pow__(self, exponent: Any) -> Any:
        if exponent == 0:
            return 1.0
        return self.program.outside(lambda u, y: self.recipe(u, y) ** exponent)


_OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    ">": lambda a, b: a > b,  # 1 or 0
    "<": lambda a, b: a < b,
}


def text(x: Any) -> str:
    if isinstance(x, Scalar):
        return x.name
    if not isinstance(x, (int, float)) or x != x or x in (float("inf"), float("-inf")):
        raise TypeError(f"{x!r} is no number that can be written")
    return f"(T){float(x)!r}"


def _recipe(x: Any) -> Recipe:
    return x.recipe if isinstance(x, Scalar) else lambda u, y: x


def unknown(u: Any, y: Any) -> Any:
    raise TypeError("a function of a coefficient, in the place of u and y")


class Program:
    """The body of a loop over entries, and what it reads.

    Attributes:
        lines: assignments, each to a name of its own.
        outsiders: further arrays that it reads, as functions of u and y.
        u: the name of u, which is the first.
        waves: whether it has a sine or a cosine of u.
    """

    u = "v0"

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.outsiders: list[Recipe] = []
        self.waves = False
        self._names: dict[str, str] = {}

    def let(self, expression: str, recipe: Recipe = unknown) -> Scalar:
        """A name for an expression."""
        name = self._names.get(expression)
        if name is None:
            name = self._names[expression] = f"v{len(self._names)}"
            self.lines.append(f"const T {name} = {expression};")
        return Scalar(self, name, recipe)

    def outside(self, recipe: Recipe) -> Scalar:
        """An entry of one more array."""
        self.outsiders.append(recipe)
        return self.let(f"x{len(self.outsiders) - 1}[i]", recipe)

    def functions(self) -> Any:
        """What towers take for `xp`."""
        return _Functions(self)


IN_C = ("exp", "tanh", "sigmoid", "softplus", "sin", "cos", "sinh", "cosh", "erf")
"""The functions that stand in functions.c."""

WAVES = ("sin", "cos")
"""Those that are quick for numbers of moderate size, at which loops look in u alone."""


class _Functions:
    def __init__(self, program: Program) -> None:
        self._program = program

    def where(self, condition: Scalar, x: Any, y: Any) -> Scalar:
        """x or y."""
        return self._program.let(
            f"{condition.name} ? {text(x)} : {text(y)}",
            lambda u, v: XP.where(*[_recipe(s)(u, v) for s in (condition, x, y)]),
        )

    def __getattr__(self, name: str) -> Callable[[Scalar], Scalar]:
        if name not in (*IN_C, "sqrt"):
            raise AttributeError(f"no tower of scalars has {name}")
        program = self._program

        def call(x: Scalar) -> Scalar:
            def recipe(u: Any, y: Any) -> Any:
                return getattr(XP, name)(x.recipe(u, y))

            if name not in IN_C or (name in WAVES and x.name != program.u):
                return program.outside(recipe)
            program.waves |= name in WAVES
            return program.let(f"{name}_T({x.name})", recipe)

        return call
