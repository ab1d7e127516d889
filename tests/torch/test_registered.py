"""Rules of one's own, on jets of tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

import jetfold as jf
from jetfold.core.jet import Elementwise, Jet, product
from jetfold.torch import arrays as XP

POINT = torch.tensor([0.3, -0.7, 0.45], dtype=torch.float64)


def circle(u: Any, y: Any, order: int, xp: Any) -> list[Any]:
    """φ^(k)(u)/k! of the sine."""
    derivatives = [xp.cos(u), -y, -xp.cos(u), y]
    return [derivatives[k % 4] / math.factorial(k + 1) for k in range(order)]


sine = jf.register_rule(torch.sin, tower=circle)


@jf.register_rule(tower=lambda u, y, order, xp: [2 * u, 1.0, *[None] * order][:order])
def square(x: Any) -> Any:
    """x², by NumPy where it is a plain tensor: PyTorch sees no derivative."""
    return x.detach() ** 2


def halves(u: Any, v: Any) -> Any:
    """The rule of (u v, u − v)."""
    one = u if isinstance(u, Jet) else v
    u, v = (x if isinstance(x, Jet) else one.like(x, [None] * one.algebra.order) for x in (u, v))
    kind = Elementwise(XP, max(u.primal.ndim, v.primal.ndim))
    both = product(one.algebra, [u.primal, *u.blocks], [v.primal, *v.blocks], kind, XP)
    difference = [
        None if a is None and b is None else (0 if a is None else a) - (0 if b is None else b)
        for a, b in zip(u.blocks, v.blocks, strict=True)
    ]
    return {
        "product": one.like(both[0], both[1:]),
        "other": one.like(u.primal - v.primal, difference),
    }


@jf.register_rule(jet=halves)
def product_and_difference(u: Any, v: Any) -> Any:
    return {"product": u * v, "other": u - v}


def ours(x: Any) -> Any:
    out = product_and_difference(x, sine(2 * x) * x[0])
    constant = product_and_difference(POINT, v=x.exp())
    return out["product"] * out["other"].exp() + sine(x).prod() + constant["product"].sum()


def plain(x: Any) -> Any:
    y = torch.sin(2 * x) * x[0]
    return x * y * (x - y).exp() + torch.sin(x).prod() + (POINT * x.exp()).sum()


def test_towers_and_jets_to_fourth_order_and_nested(tools: Any) -> None:
    tools.agree(lambda p: (ours if isinstance(p, Jet) else plain)(p), POINT)


def test_the_function_itself_where_no_jet_comes() -> None:
    assert torch.equal(sine(POINT), torch.sin(POINT))
    assert torch.equal(torch.func.vmap(torch.func.grad(sine))(POINT), torch.cos(POINT))
    assert sine.__name__ == "sin"


def test_the_rule_counts_not_the_function(tools: Any) -> None:
    x = POINT.clone()
    tools.close(jf.laplacian(lambda x: square(x).sum())(x), torch.tensor(6.0).double())


def test_inner_operators_over_outer_jets(tools: Any) -> None:
    """What a jet of the outer transform is to the rule of the inner: a value, a constant jet."""

    def f(x: Any, s: Callable[..., Any], pair: Callable[..., Any], op: Callable[..., Any]) -> Any:
        return op(lambda y: (pair(x, y)["product"] * s(x * y)).sum())(x * 0 + 0.3 * POINT)

    def laplacian(f: Callable[..., Any]) -> Callable[..., Any]:
        return lambda x: torch.func.hessian(f)(x).diagonal().sum()

    expected = laplacian(lambda x: f(x, torch.sin, lambda u, v: {"product": u * v}, laplacian))(
        POINT
    )
    tools.close(
        jf.laplacian(lambda x: f(x, sine, product_and_difference, jf.laplacian))(POINT), expected
    )


def reference(x: Any) -> Any:
    return torch.func.hessian(lambda x: plain(x).sum())(x).trace()


def operator(x: Any) -> Any:
    return jf.laplacian(lambda x: ours(x).sum())(x)


def test_under_vmap_and_gradients(tools: Any) -> None:
    points = torch.stack([POINT, 0.5 * POINT])
    tools.close(torch.func.vmap(operator)(points), torch.stack([reference(p) for p in points]))
    expected = torch.func.grad(reference)(POINT)
    tools.close(torch.func.grad(operator)(POINT), expected)
    x = POINT.clone().requires_grad_()
    operator(x).backward()
    tools.close(x.grad, expected)


def test_compiled(tools: Any) -> None:
    torch.compiler.reset()
    tools.close(
        torch.compile(operator, fullgraph=True, backend="aot_eager")(POINT), reference(POINT)
    )
    plain_call = torch.compile(lambda x: sine(x).sum(), fullgraph=True, backend="eager")
    tools.close(plain_call(POINT), torch.sin(POINT).sum())


def test_what_rules_get_wrong_is_said() -> None:
    short = jf.register_rule(torch.sin, tower=lambda u, y, order, xp: [y])
    with pytest.raises(ValueError, match=r"tower of sin must be a list of 2 entries.*got 1"):
        jf.laplacian(lambda x: short(x).sum())(POINT)
    summing = jf.register_rule(torch.sum, tower=circle)
    with pytest.raises(ValueError, match=r"must act on every entry alone.*register it with jet="):
        jf.laplacian(summing)(POINT)
    with pytest.raises(TypeError, match=r"takes one array, got 2 arguments"):
        jf.laplacian(lambda x: sine(x, x).sum())(POINT)
    few = jf.register_rule(torch.neg, jet=lambda u: u.like(-u.primal, u.blocks[:1]))
    with pytest.raises(ValueError, match=r"returned 1 blocks; one for each degree"):
        jf.laplacian(lambda x: few(x).sum())(POINT)
