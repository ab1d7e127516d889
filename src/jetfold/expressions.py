"""Operators written as text: `t - 0.1*(x**2 + y**2)`."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from .operators import Operator, partials


class ExpressionError(ValueError):
    """An expression that is no operator; its text shows where."""

    def __init__(self, expression: str, start: int, end: int, problem: str) -> None:
        marks = " " * start + "^" * max(1, end - start)
        super().__init__(f"{problem}\n\n  {expression}\n  {marks}")


GRAMMAR = "write coordinates and numbers with + - * / **, as in t - 0.1*(x**2 + y**2)"

HIGHEST_POWER = 64
INFINITY = float("inf")


def parse(expression: str, names: Sequence[str] = ()) -> Operator:
    """The operator that an expression describes. Nothing is evaluated but arithmetic.

    Args:
        expression: coordinates and numbers with + - * / ** and parentheses.
        names: the coordinates, in order; by default in the order in which they appear.

    Raises:
        ExpressionError: it is something else.

    >>> parse("t - 0.1*(x**2 + y**2)")
    Operator(t - 0.1*x**2 - 0.1*y**2)
    >>> parse("u_xx").coordinates, parse("x**2", names=["t", "x"]).coordinates
    (1, 2)
    """
    expression = " ".join(expression.split())
    if not expression:
        raise ExpressionError(expression, 0, 0, f"the expression is empty; {GRAMMAR}")
    try:
        tree = ast.parse(expression, mode="eval").body
    except SyntaxError as error:
        start = min(max((error.offset or 1) - 1, 0), len(expression))
        raise ExpressionError(expression, start, start + 1, f"cannot be read; {GRAMMAR}") from None

    def fail(node: ast.AST, problem: str) -> ExpressionError:
        encoded = expression.encode()
        start = len(encoded[: node.col_offset].decode())  # type: ignore[attr-defined]
        end = len(encoded[: node.end_col_offset].decode())  # type: ignore[attr-defined]
        return ExpressionError(expression, start, end, problem)

    found = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    found.sort(key=lambda node: node.col_offset)
    known = list(names) or list(dict.fromkeys(node.id for node in found))
    if not known:
        raise fail(tree, f"no coordinate occurs in it; {GRAMMAR}")
    variables = dict(zip(known, partials(len(known), names=known), strict=True))

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
                return power(value(left), right)
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
                return value(left) * value(right)
            case ast.BinOp(op=ast.BitXor()):
                raise fail(node, "a power is written with **, not with ^")
        raise fail(node, f"this is not part of an operator; {GRAMMAR}")

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
