"""In-place operations on jets: the same program on plain tensors is the reference."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import jetfold as jf


def program(function: Callable[..., Any]) -> Callable[..., Any]:
    PROGRAMS.append(function)
    return function


PROGRAMS: list[Callable[..., Any]] = []
# Each takes two tensors of shape (3, 4), entries in (−2, 2), which are the results of operations,
# as plain torch refuses to write into leaves and into inputs of torch.func transforms.


@program
def augmented(x, y):
    x += y
    x -= 0.5 * y
    x *= y
    x /= y * y + 2
    x += 1
    x **= 2
    return x


@program
def augmented_remainder(x, y):
    x %= 0.7
    return x * y


@program
def methods(x, y):
    x.add_(y, alpha=2).mul_(y).sub_(1.5).div_(3)
    x.exp_().neg_().pow_(3).square_()
    x.addcmul_(y, y, value=0.1).lerp_(y, 0.3)
    return x


@program
def functions(x, y):
    torch.sin_(x)
    torch.relu_(y)
    F.elu_(x, 0.5)
    F.leaky_relu_(x)
    F.hardtanh_(y, -1.0, 1.5)
    torch.sigmoid_(y)
    return x, y


@program
def clamps(x, y):
    x.clamp_(-1, 1)
    y.clamp_min_(-0.5)
    x.abs_()
    y.masked_fill_(y > 0.4, 2.0)
    return x, y


@program
def set_items(x, y):
    x[0] = y[1]
    x[:, 1] = 2.0
    x[1:, ::2] = y[0, :2] * y[1, 2]
    x[-1, -1] = y.sum()
    x[..., 0] *= 2
    x[2] += y[2]
    return x


@program
def set_with_tensors(x, y):
    x[torch.tensor([0, 2])] = y[:2]
    x[:, torch.tensor([1, 3])] = y[:, :2] * 2
    x[torch.tensor([0, 1]), torch.tensor([0, 2])] = y[0, :2]
    x[[0, 1]] += 1
    return x


@program
def set_by_masks(x, y):
    x[y > 0.3] = 0
    x[x < -0.2] = y[x < -0.2]
    x[torch.tensor([True, False, True])] = y[1]
    x[torch.tensor([False, True, False]), 1:] *= y[1, 1:]
    return x


@program
def set_everything(x, y):
    x[...] = y * 2
    y[:] = x[0]
    x[None, 0] = y[:1]
    return x, y


@program
def buffers(x, y):
    out = torch.zeros_like(x)
    out[1] = x[0] * y[1]
    more = x.new_zeros(2, 4)
    more[0] = y[2]
    more[1, 2:] = x[0, :2]
    rows = torch.empty_like(x)
    for k in range(3):
        rows[k] = x[k] * k + y[k]
    ones = torch.ones_like(x)
    ones *= x
    flat = x.new_empty(12)
    flat.copy_(y.reshape(-1))
    return out, more, rows, ones, flat


@program
def fills(x, y):
    x[0].fill_(3.0)
    y.zero_()
    y += x
    x[1].copy_(y[2])
    x[2].fill_(y[0, 1])
    return x, y


@program
def index_methods(x, y):
    index = torch.tensor([2, 0])
    x.index_add_(0, index, y[:2])
    x.index_copy_(1, index, y[:, :2] * x[:, 1:3])
    x.index_fill_(0, torch.tensor([1]), 0.3)
    x.index_put_((torch.tensor([0]), torch.tensor([3])), y[0, :1])
    x.scatter_(1, torch.tensor([[0], [1], [2]]), y)
    x.scatter_add_(1, torch.tensor([[1, 1], [0, 2], [3, 3]]), y)
    return x


@program
def write_to_view(x, y):
    row = x[1]
    row *= 3
    row[2] = y[0, 0]
    column = x[:, 1]
    column.add_(y[:, 0])
    x.view(12)[5] = y[1, 1]
    x.T[0] = y[:, 1] * y[:, 2]
    x.reshape(4, 3)[0] += 1
    x.flatten()[11] = 0.5
    return x, row, column


@program
def write_to_base(x, y):
    row, column, flat, t = x[1], x[:, 1], x.view(-1), x.transpose(0, 1)
    before = row * 2
    x *= y
    x[1, 1] = y[0, 1]
    return before, row, column, flat, t, row.sum() * t


@program
def views_of_views(x, y):
    a = x[1:]
    b = a.t()[2]
    c = b.unsqueeze(0)
    c += y[1, 2]
    x[2] = y[0]
    a[0] *= 2
    b *= 3
    return x, a, b, c


@program
def several_views(x, y):
    top, bottom = x.split([1, 2])
    left, right = x.chunk(2, 1)
    rows = x.unbind(0)
    top += y[:1]
    left *= 2
    rows[2].add_(right.sum())
    x.diagonal().mul_(y[0, 0])
    x.narrow(1, 1, 2).sub_(1)
    x.select(0, 1).neg_()
    x.unfold(1, 2, 2)[:, 0] *= 1.5
    x.squeeze()[0, 0] = 2
    x.movedim(0, 1)[2] = y[:, 1]
    return x, top, bottom, left, right, rows


@program
def copies_are_apart(x, y):
    copied = x.clone()
    picked = x[torch.tensor([0, 1])]
    masked = x[x > -9].reshape(3, 4)
    reshaped = x.T.reshape(-1)
    packed = x.T.contiguous()
    result = x + 0
    for other in (copied, picked, masked, reshaped, packed, result):
        other += 1
    x *= y
    return x, copied, picked, masked, reshaped, packed, result


@program
def same_object(x, y):
    alias = x.to(torch.float64)
    alias += y
    again = x.contiguous().double()
    again *= 2
    return x, alias, again


@program
def reshaped_noncontiguous(x, y):
    part = x[:, :2]
    flat = part.reshape(-1)  # a copy
    flat += 1
    joined = x.reshape(3, 2, 2)[:1].flatten(0, 1)  # a view
    joined *= y[0, 0]
    return x, part, flat, joined


@program
def inplace_modules(x, y):
    h = torch.nn.ReLU(inplace=True)(x)
    F.dropout(h, 0.0, True, True)
    g = torch.nn.SiLU(inplace=True)(y)
    return x, h, y, F.relu(g, inplace=True), F.threshold(h, 0.1, 0.0, True)


@program
def loop(x, y):
    total = torch.zeros_like(x[0])
    for row in x:
        total += torch.sin(row)
        row *= 2
    for k in range(3):
        y[k] = total * y[k - 1]
    return total, x, y


@program
def write_to_products_of_constants(x, y):
    a, v = torch.arange(16.0, dtype=x.dtype).reshape(4, 4).cos(), torch.ones(4, dtype=x.dtype)
    made = [a @ a, -a, 1 - a, torch.outer(v, v), torch.addmm(a, a, a), a.mv(v).expand(4, 4) * 1]
    for k, out in enumerate(made):
        out[k % 4] = x[k % 3] * y[0]
    return made


@pytest.mark.parametrize("function", PROGRAMS, ids=lambda f: f.__name__)
def test_program(function: Any, check: Any) -> None:
    reverse = function is fills  # which PyTorch 2.15 does not nest in forward mode
    check(lambda x, y: function(x * 1, y * 1), (3, 4), (3, 4), order=3, reverse=reverse)


def laplacian(function: Callable[[Any], Any]) -> Any:
    return jf.laplacian(function)(torch.tensor([0.3, -0.5, 1.1]))


def test_argument_is_written_to_but_not_the_users_tensor() -> None:
    def f(x):
        x *= 2
        x[0] = x[1]
        x.add_(1)
        F.relu(x, inplace=True)
        return (x**3).sum()

    point = torch.tensor([0.3, 0.5, 1.1], dtype=torch.float64)
    before = point.clone()
    expected = (24 * (2 * before[1:] + 1) * torch.tensor([2.0, 1.0])).sum()
    assert torch.allclose(jf.laplacian(f)(point), expected)
    assert torch.equal(point, before)
    assert torch.allclose(jf.laplacian(f, method="standard")(point), expected)


@pytest.mark.parametrize(
    "write",
    [
        lambda out, x: out.__setitem__(0, x[0]),
        lambda out, x: out.atan2_(x),
        lambda out, x: out.copy_(x),
        lambda out, x: torch.nn.init.zeros_(out).masked_scatter_(out == 0, x),
        lambda out, x: out.index_copy_(0, torch.tensor([0]), x[:1]),
    ],
)
def test_writing_a_jet_into_a_tensor_from_outside_is_refused(write: Any) -> None:
    outside = torch.zeros(3)

    def f(x):
        write(outside, x)
        return outside.sum()

    with pytest.raises(RuntimeError, match=r"would write a jet into a plain tensor.*inside of the"):
        laplacian(f)
    assert not outside.any()


def test_adding_a_jet_to_a_tensor_from_outside_is_refused() -> None:
    total = torch.zeros(3)

    def f(x):
        row = total[:1]
        row += x[:1]  # in plain torch this writes total
        return total.sum()

    with pytest.raises(RuntimeError, match=r"out \+= jet.* would write a jet into a plain tensor"):
        laplacian(f)


def test_out_is_refused() -> None:
    outside = torch.zeros(3)
    with pytest.raises(RuntimeError, match=r"out= would write a jet into a plain tensor"):
        laplacian(lambda x: torch.sin(x, out=outside))
    with pytest.raises(RuntimeError, match=r"out= of shape \(2, 3\) cannot take a result of shape"):
        laplacian(lambda x: torch.sin(x, out=torch.zeros(2, 3)).sum())


def test_changes_of_shape_are_refused() -> None:
    with pytest.raises(TypeError, match="t_ cannot act on a jet"):
        laplacian(lambda x: (x * 1).reshape(1, 3).t_().sum())
    with pytest.raises(RuntimeError, match="would change the shape of its target"):
        laplacian(lambda x: (x * 1).add_(x.reshape(3, 1)).sum())


def test_writes_that_cannot_be_followed_are_refused() -> None:
    with pytest.raises(RuntimeError, match=r"in-place write to the result of expand.*clone\(\)"):
        laplacian(lambda x: x[:1].expand(3).mul_(2).sum())
    with pytest.raises(RuntimeError, match=r"complex values cannot be written.*\.real"):
        laplacian(lambda x: (x * 1).copy_(x * 1j).sum())


def test_a_jet_of_an_inner_transform_does_not_fit_into_an_outer_one() -> None:
    def f(x):
        buffer = torch.zeros_like(x)

        def inner(y):
            buffer[0] = y[0]
            return buffer.sum()

        return jf.laplacian(inner)(x)

    with pytest.raises(RuntimeError, match="would write a jet into a plain tensor"):
        laplacian(f)


def test_random_fills_have_no_derivative() -> None:
    def f(x):
        noise = torch.empty_like(x).normal_()
        return (x * noise.uniform_(2.0, 2.0)).square().sum()

    assert torch.allclose(laplacian(f), torch.tensor(24.0))


def test_writes_inside_vmap() -> None:
    def f(x):
        out = torch.zeros_like(x)
        out[0] = x[0] ** 3
        out[1:] += x[1:] * x[0] ** 2
        row = out[1:]
        row *= x[2]
        return out.sum()

    points = torch.randn(5, 3, dtype=torch.float64)
    together = torch.func.vmap(jf.laplacian(f))(points)
    expected = torch.stack([torch.func.hessian(f_plain)(p).trace() for p in points])
    assert torch.allclose(together, expected)


def f_plain(x: Any) -> Any:
    return x[0] ** 3 + (x[1:] * x[0] ** 2 * x[2]).sum()


def test_python_protocols() -> None:
    seen = {}

    def f(x):
        first, *rest = x
        seen.update(length=len(x), shape=f"{x.shape} {x.ndim}", value=f"{float(x[0].detach()):.2f}")
        seen.update(
            format=f"{x[0]:.1f}",
            integer=int(x[2].detach()),
            truth=bool(x[2] > 0),
            item=x[0].detach().item(),
        )
        seen.update(dtype=x.dtype, device=x.device.type, grad=x.requires_grad, size=x.size(0))
        seen.update(contains=0.5 in x, lists=x.detach().tolist(), numel=x.numel(), rep=repr(x)[:3])
        if x.sum() > 0:
            first = first * 2
        while first > math.inf:
            pass
        return first * sum(rest) + np.float64(2.0) * x.sum() + max(x[0] ** 3, x[1] * 0)

    p = torch.tensor([0.25, 0.5, 1.0], dtype=torch.float64)
    assert torch.allclose(jf.laplacian(f)(p), torch.tensor(1.5, dtype=torch.float64))
    assert seen["length"] == 3 and seen["shape"] == "torch.Size([3]) 1" and seen["item"] == 0.25
    assert seen["format"] == "0.2" and seen["integer"] == 1 and seen["truth"] and seen["contains"]
    assert seen["lists"] == [0.25, 0.5, 1.0] and seen["numel"] == 3 and seen["rep"] == "Jet"
    assert seen["dtype"] == torch.float64 and seen["device"] == "cpu" and not seen["grad"]


@pytest.mark.parametrize(
    "number",
    [
        lambda x: math.sin(x[0]),
        lambda x: float(x[0]),
        lambda x: int(x[0]),
        lambda x: complex(x[0]),
        lambda x: x[0].item(),
        lambda x: x.tolist()[0],
        lambda x: round(float(x.sum())),
        lambda x: x[[0, 1]].sum().item() ** 2,
    ],
)
def test_numbers_cannot_be_taken_out_of_jets(number: Any) -> None:
    """They would be constants, and derivatives wrong without a word."""
    p = torch.tensor([0.25, 0.5, 1.0], dtype=torch.float64)
    with pytest.raises(
        TypeError, match=r"cannot keep the derivatives.*torch\.sin.*x\.detach\(\)\.item\(\)"
    ):
        jf.laplacian(lambda x: number(x) * x.sum())(p)
    with pytest.raises(TypeError, match="cannot keep the derivatives"):
        jf.laplacian(jf.laplacian(lambda x: number(x) * x.sum()))(p)
    value = jf.laplacian(lambda x: number(x.detach()) * (x**2).sum())(p)
    assert torch.allclose(value, torch.as_tensor(6 * number(p), dtype=value.dtype))
