"""Operators written as text: `t - 0.1*(x**2 + y**2)`, or `u_t - 0.1*(u_xx + u_yy)`."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from math import prod
from typing import Any

from .operators import Operator, partials


class ExpressionError(ValueError):
    """An expression that is no operator; its text shows where."""

    def __init__(self, expression: str, start: int, end: int, problem: str) -> None:
        marks = " " * start + "^" * max(1, end - start)
        super().__init__(f"{problem}\n\n  {expression}\n  {marks}")


class NonlinearError(ExpressionError):
    """A product of functions."""


SUBSCRIPT = re.compile(r"(?!(?:d|D|∂|partial)_)([^\W\d_]+)_([^\W\d_]+)")
"""u_xx: a function and the letters of coordinates (d_x and x_1 are names of coordinates)."""

GRAMMAR = "write coordinates and numbers with + - * / **, as in t - 0.1*(x**2 + y**2)"

HIGHEST_POWER = 64
INFINITY = float("inf")


def parse(expression: str, names: Sequence[str] = (), nonlinear: bool = False) -> Operator:
    """The operator that an expression describes. Nothing is evaluated but arithmetic.

    Args:
        expression: coordinates and numbers with + - * / ** and parentheses; or derivatives of one
            function in subscripts, u_t + u_xx + u.
        names: the coordinates, in order; by default in the order in which they appear.
        nonlinear: to read it all the same where it has products of derivatives; what is returned
            then says only that it could be read.

    Raises:
        NonlinearError: it has products of derivatives.
        ExpressionError: it is something else.

    >>> parse("t - 0.1*(x**2 + y**2)")
    Operator(t - 0.1*x**2 - 0.1*y**2)
    >>> parse("u_t + u_xx + u_xxxx")
    Operator(t + x**2 + x**4)
    >>> parse("x**2", names=["t", "x"]).coordinates
    2
    """
    expression = " ".join(expression.split())
    if not expression:
        raise ExpressionError(expression, 0, 0, f"the expression is empty; {GRAMMAR}")
    try:
        tree = ast.parse(expression, mode="eval").body
    except SyntaxError as error:
        start = min(max((error.offset or 1) - 1, 0), len(expression))
        raise ExpressionError(expression, start, start + 1, f"cannot be read; {GRAMMAR}") from None

    def fail(node: ast.AST, problem: str, kind: Any = ExpressionError) -> ExpressionError:
        encoded = expression.encode()
        start = len(encoded[: node.col_offset].decode())  # type: ignore[attr-defined]
        end = len(encoded[: node.end_col_offset].decode())  # type: ignore[attr-defined]
        return kind(expression, start, end, problem)

    found = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    found.sort(key=lambda node: node.col_offset)
    if not (found or names):
        raise fail(tree, f"no coordinate occurs in it; {GRAMMAR}")
    subscripts = _subscripts(found, names, fail)
    if subscripts:
        known = list(names) or list(dict.fromkeys("".join(subscripts.values())))
    else:
        known = list(names) or list(dict.fromkeys(node.id for node in found))
    one = dict(zip(known, partials(len(known), names=known), strict=True))
    variables = dict(one)
    for name, letters in subscripts.items():
        if unknown := [letter for letter in letters if letter not in one]:
            node = next(node for node in found if node.id == name)
            raise fail(node, f"{unknown[0]} is not among the names {' '.join(known)}")
        variables[name] = prod((one[letter] for letter in letters), start=one[known[0]] ** 0)

    def value(node: ast.expr) -> Any:  # an Operator or a Fraction
        match node:
            case ast.Name(id=name):
                if name not in variables:
                    raise fail(node, f"{name} is not among the names {' '.join(known)}")
                return variables[name]
            case ast.Constant(value=int() | float() as number) if (
                not isinstance(number, bool) and number < INFINITY
            ):
                return Fraction(repr(number))
            case ast.UnaryOp(op=ast.UAdd() | ast.USub() as sign, operand=operand):
                return value(operand) if isinstance(sign, ast.UAdd) else -value(operand)
            case ast.BinOp(left=left, op=ast.Pow(), right=right):
                if isinstance(found := value(left), Operator):
                    linear(node, left)
                return power(found, right)
            case ast.BinOp(left=left, op=ast.Div(), right=right):
                divisor = value(right)
                if isinstance(divisor, Operator):
                    raise fail(right, "an operator can be divided by a number only")
                if divisor == 0:
                    raise fail(right, "this is a division by zero")
                return value(left) / divisor
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return value(left) + value(right)
            case ast.BinOp(left=left, op=ast.Sub(), right=right):
                return value(left) - value(right)
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                factors = value(left), value(right)
                if all(isinstance(factor, Operator) for factor in factors):
                    linear(node, left)
                return factors[0] * factors[1]
            case ast.BinOp(op=ast.BitXor()):
                raise fail(node, "a power is written with **, not with ^")
        raise fail(node, f"this is not part of an operator; {GRAMMAR}")

    def linear(node: ast.expr, left: ast.expr) -> None:
        """Refuse products of derivatives, which are no linear operator."""
        if subscripts and not nonlinear:
            f, _, letters = (left.id if isinstance(left, ast.Name) else "u_x").partition("_")
            second = f"{f}_{(letters or 'x') * 2}"
            raise fail(
                node,
                f"this is a product of functions, no linear operator (the second derivative is "
                f"{second}); nonlinear equations are evaluated by jetfold.residual",
                NonlinearError,
            )

    def power(base: Any, right: ast.expr) -> Any:
        exponent = value(right)
        whole = isinstance(exponent, Fraction) and exponent.denominator == 1
        if not whole or not 0 <= exponent <= HIGHEST_POWER:
            raise fail(right, f"an exponent is a whole number from 0 to {HIGHEST_POWER}")
        return base ** int(exponent)

    result = value(tree)
    if not isinstance(result, Operator):  # names were given, but none is used
        raise fail(tree, f"this is a number, not an operator; {GRAMMAR}")
    return result


def derivatives_in(equation: str, names: Sequence[str] = ()) -> list[Operator]:
    """The derivatives of one function that a nonlinear equation asks for, the function first.

    Raises:
        ExpressionError: it is no equation.

    >>> derivatives_in("u_t + u*u_x - 0.1*u_xx")
    [Operator(1), Operator(t), Operator(x), Operator(x**2)]
    """
    equation = " ".join(equation.split())
    parse(equation, names, nonlinear=True)
    nodes = [node for node in ast.walk(ast.parse(equation)) if isinstance(node, ast.Name)]
    nodes.sort(key=lambda node: node.col_offset)
    matches = [match for node in nodes if (match := SUBSCRIPT.fullmatch(node.id))]
    known = list(names) or list(dict.fromkeys("".join(match[2] for match in matches)))
    one = partials(len(known), names=known)[0] ** 0
    return [one, *(parse(name, known) for name in dict.fromkeys(match[0] for match in matches))]


def linear_part(equation: str, names: Sequence[str] = ()) -> tuple[Operator, list[Operator]]:
    """What is linear in a nonlinear equation, as one operator, and the derivatives that the rest
    of it asks for, the function first.

    >>> linear_part("u_t + u*u_x - 0.1*u_xx")
    (Operator(t - 0.1*x**2), [Operator(1), Operator(x)])
    """
    one, first, *_ = derivatives_in(equation, names)
    known = [first.names[i] for i in range(len(first.names))]
    linear, asked = one * 0, [one]
    for term in _terms(ast.parse(" ".join(equation.split()), mode="eval").body):
        found = [node.id for node in ast.walk(ast.parse(term)) if isinstance(node, ast.Name)]
        derivatives = [parse(name, known) for name in found if SUBSCRIPT.fullmatch(name)]
        if not derivatives:
            continue
        try:
            linear += parse(term, known)
        except NonlinearError:
            asked += derivatives
    return linear, list(dict.fromkeys(asked))


def _terms(node: ast.expr, sign: str = "") -> Iterator[str]:
    """The summands of an expression."""
    match node:
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() as op, right=right):
            yield from _terms(left, sign)
            yield from _terms(right, sign if isinstance(op, ast.Add) else _opposite(sign))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            yield from _terms(operand, _opposite(sign))
        case _:
            yield f"{sign}({ast.unparse(node)})"


def _opposite(sign: str) -> str:
    return "" if sign else "-"


def _subscripts(
    found: Sequence[ast.Name], names: Sequence[str], fail: Callable[[ast.AST, str], Exception]
) -> dict[str, str]:
    """u_xx -> "xx" for all names, if they are derivatives of a function; u itself -> "".

    Without subscripts, or where they are names of coordinates, that is nothing.
    """
    matches = {node.id: SUBSCRIPT.fullmatch(node.id) for node in found if node.id not in names}
    functions = {match[1]: name for name, match in matches.items() if match}
    for node in found if functions else ():
        match = matches.get(node.id)
        if len(functions) > 1 and match:
            f = next(iter(functions))
            if match[1] != f:
                raise fail(node, f"an operator acts on one function, here {f} and {match[1]}")
        if match is None and node.id not in functions:
            f = next(iter(functions))
            raise fail(
                node,
                f"{functions[f]} is read as a derivative of {f}, and {node.id} as a coordinate: "
                f"write either {f}_t + {f}_xx or t + x**2",
            )
    return {name: match[2] if match else "" for name, match in matches.items()} if functions else {}
