"""Hooks of modules and of the backward pass, and the tools that are made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd.graph import register_multi_grad_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.module_tracker import ModuleTracker

import jetfold as jf

from .conftest import close

F64 = torch.float64


class Residual(nn.Module):
    """h ↦ (h + W φ(h), φ(h)): a module in a module, several results, one of them used before."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Tanh(), nn.Linear(width, width, dtype=F64))

    def forward(self, h: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = torch.sin(h)
        return h + self.inner(features), features


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle = nn.Linear(3, 8, dtype=F64), Residual(8)
        self.last = nn.Sequential(nn.Tanh(), nn.Linear(8, 1, dtype=F64))

    def forward(self, p: torch.Tensor) -> torch.Tensor:
        h, features = self.middle(self.first(p))
        return self.last(h + 0.3 * features).squeeze(-1)


def same(found: Any, expected: Any) -> None:
    """One tensor, or several."""
    if isinstance(found, torch.Tensor):
        found, expected = [found], [expected]
    for a, b in zip(found, expected, strict=True):
        close(a, b)


def step(operator: Any, net: nn.Module, x: Any, **options: Any) -> list[Any]:
    """The values, and the gradients of a loss by all parameters."""
    net.zero_grad()
    values = operator(net, batch_dims=1, **options)(x)
    values.square().mean().backward()
    grads = [p.grad for p in net.parameters()]
    net.zero_grad()  # nothing is added to them later
    zeros = [torch.zeros_like(p) for p in net.parameters()]
    return [values.detach(), *(z if g is None else g for g, z in zip(grads, zeros, strict=True))]


class Products(TorchDispatchMode):
    """Counts the multiplications of matrix products, and where a tracker says that they are."""

    def __init__(self, tracker: ModuleTracker | None = None) -> None:
        super().__init__()
        self.tracker, self.total, self.within = tracker, 0, dict[str, int]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
            products = out.numel() * args[-2].shape[1]
            self.total += products
            for name in self.tracker.parents if self.tracker else ():
                self.within[name] = self.within.get(name, 0) + products
        return out


@pytest.mark.parametrize("operator", [jf.laplacian, jf.biharmonic])
def test_flops_are_counted_by_module(operator: Any) -> None:
    """All that run; in each layer, forward and back, so many vectors' worth.

    In the last layer fewer: most of its coefficients have no gradient. (Without hooks it may be one
    node with its nonlinearity, which multiplies by zeros.)
    """
    net, x = Network(), torch.randn(5, 3, dtype=F64)
    expected = step(operator, net, x, method="nested")
    vectors = jf.explain(operator, 3).vectors["minimal"]
    with FlopCounterMode(display=False) as plain:
        net(x).square().mean().backward()
    with Products() as alone:
        step(operator, net, x)
    with FlopCounterMode(display=False) as mode, Products() as products:
        same(step(operator, net, x), expected)
    assert mode.get_total_flops() == 2 * products.total
    of_plain, found = (
        {name: sum(of.values()) for name, of in m.get_flop_counts().items()} for m in (plain, mode)
    )
    for name in ("middle", "middle.inner", "middle.inner.1"):
        assert found[f"Network.{name}"] == vectors * of_plain[f"Network.{name}"]
    zeros = 2 * alone.total - found["Global"]
    assert zeros == 0 if operator is jf.laplacian else 0 <= zeros < 3 * 14 * 2 * 5 * 8
    layers = ("first", "middle.inner.1", "last.1")
    assert sum(found[f"Network.{name}"] for name in layers) == found["Global"]
    with torch.no_grad(), FlopCounterMode(display=False) as values:
        same(operator(net, batch_dims=1)(x), expected[0])
    assert values.get_flop_counts()["Network.middle.inner.1"][torch.ops.aten.mm] > 0
    with ModuleTracker() as tracker, Products(tracker) as within:
        same(step(operator, net, x), expected)
    assert {name: 2 * n for name, n in within.within.items()} == found


def test_trackers_leave_results_alone() -> None:
    """Under vmap, with compiled loops, checkpoints, nested operators, gradients of gradients."""
    net, x = Network(), torch.randn(5, 3, dtype=F64)
    parameters = dict(net.named_parameters())
    expected = step(jf.laplacian, net, x, method="nested")[1:]
    weighted = torch.eye(3, dtype=F64, requires_grad=True)
    lstm = nn.LSTM(3, 4, batch_first=True, dtype=F64)

    def loss(values: Any) -> Any:
        return values.square().mean()

    def by_parameters(value: Any) -> list[Any]:
        found = torch.autograd.grad(
            value, list(net.parameters()), allow_unused=True, create_graph=True
        )
        return [
            torch.zeros_like(p) if g is None else g
            for g, p in zip(found, net.parameters(), strict=True)
        ]

    def twice(tracked: Any = None) -> list[Any]:
        first = by_parameters(loss(jf.laplacian(net, batch_dims=1)(x)))
        return by_parameters(sum(g.square().sum() for g in first))

    def recurrent() -> Any:
        def f(q: Any) -> Any:
            out, (h, _) = lstm(q)
            return out.sum((-1, -2)) + h.square().sum((0, 2))

        value = loss(jf.laplacian(f, batch_dims=1)(x[None]))
        return torch.autograd.grad(value, list(lstm.parameters()))

    second, of_cells = twice(), recurrent()
    laplacian = jf.laplacian(net, batch_dims=1)
    with ModuleTracker():
        for _ in range(9):  # then in compiled loops
            same(step(jf.laplacian, net, x)[1:], expected)
        for values in (
            torch.func.vmap(jf.laplacian(net))(x),
            jf.laplacian(net, batch_dims=1)(x.clone().requires_grad_()),
            jf.weighted_laplacian(net, weighted, batch_dims=1)(x.clone().requires_grad_()),
            jf.laplacian(lambda p: checkpoint(net, p, use_reentrant=False), batch_dims=1)(x),
            checkpoint(laplacian, x, use_reentrant=False),
        ):
            same(by_parameters(loss(values)), expected)
        same(twice(), second)
        same(recurrent(), of_cells)
        same(
            step(lambda f, **k: jf.laplacian(jf.laplacian(f, **k), **k), net, x),
            step(jf.biharmonic, net, x),
        )

        def of(parameters: Any) -> Any:
            def f(p: Any) -> Any:
                return torch.func.functional_call(net, parameters, p)

            return loss(jf.laplacian(f, batch_dims=1)(x))

        same(list(torch.func.grad(of)(parameters).values()), expected)


def test_profilers_know_modules() -> None:
    net, x = Network(), torch.randn(5, 3, dtype=F64)
    expected = step(jf.laplacian, net, x)
    kinds = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=kinds, with_modules=True, record_shapes=True) as profile:
        same(step(jf.laplacian, net, x), expected)
    assert {"aten::mm", "aten::addmm"} <= {event.name for event in profile.events()}


def test_forward_hooks_read_and_replace() -> None:
    """They are functions of jets, like all that the network does."""
    net, x = Network(), torch.randn(5, 3, dtype=F64)
    seen: list[Any] = []
    handles = [
        net.first.register_forward_pre_hook(lambda m, args: (args[0].sin(),)),
        net.first.register_forward_hook(lambda m, args, out: seen.append(out.detach().mean())),
        net.first.register_forward_hook(lambda m, args, out: out * args[0].sum(-1, keepdim=True)),
        nn.modules.module.register_module_forward_hook(
            lambda m, args, out: out.tanh() if isinstance(m, nn.Linear) else None
        ),
    ]
    try:
        same(step(jf.biharmonic, net, x), step(jf.biharmonic, net, x, method="nested"))
        same(seen[0], (x.sin() @ net.first.weight.T + net.first.bias).tanh().mean())
    finally:
        for handle in handles:
            handle.remove()


# ------------------------------------------------------------------ gradients that hooks are told

TOLD: dict[str, Callable[[Any, list[Any]], Any]] = {
    "register_hook": lambda h, to: h.register_hook(to.append),
    "all": lambda h, to: register_multi_grad_hook([h], lambda found: to.append(found[0])),
    "any": lambda h, to: register_multi_grad_hook([h], to.append, mode="any"),
    "node": lambda h, to: h.grad_fn.register_hook(lambda ins, outs: to.append(outs[0])),
    "before": lambda h, to: h.grad_fn.register_prehook(lambda outs: to.append(outs[0])),
}


@pytest.mark.parametrize("operator", [jf.gradient, jf.laplacian, jf.biharmonic])
def test_hooks_are_told_the_gradient_by_the_value(operator: Any) -> None:
    """By a constant that is added to the tensor."""
    net, x = Network(), torch.randn(5, 3, dtype=F64)
    added = [torch.zeros(5, 8, dtype=F64, requires_grad=True) for _ in range(2)]

    def loss(f: Any, **options: Any) -> Any:
        return operator(f, batch_dims=1, **options)(x).square().sum()

    def shifted(p: Any) -> Any:
        h, features = net.middle(net.first(p) + added[0])
        return net.last(h + added[1] + 0.3 * features).squeeze(-1)

    expected = torch.autograd.grad(loss(shifted, method="nested"), added)
    for register in TOLD.values():
        first: list[Any] = []
        second: list[Any] = []

        def hooked(
            p: Any, register: Any = register, first: Any = first, second: Any = second
        ) -> Any:
            h = net.first(p)
            register(h, first)
            h, features = net.middle(h)
            h = torch.clone(h)
            register(h, second)
            return net.last(h + 0.3 * features).squeeze(-1)

        loss(hooked).backward()
        same([*first, *second], expected)


def test_modules_are_told_as_well() -> None:
    """`register_full_backward_hook`, and the pre-hook, of a module with several results."""
    net, x = Network(), torch.randn(5, 3, dtype=F64)
    added = [torch.zeros(5, 8, dtype=F64, requires_grad=True) for _ in range(3)]

    def shifted(p: Any) -> Any:
        h, features = net.middle(net.first(p) + added[0])
        return net.last(h + added[1] + 0.3 * (features + added[2])).squeeze(-1)

    loss = jf.laplacian(shifted, batch_dims=1, method="nested")(x).square().mean()
    expected = torch.autograd.grad(loss, added)
    plain = step(jf.laplacian, net, x, method="nested")
    told: list[Any] = []
    handles = [
        net.middle.register_full_backward_pre_hook(lambda m, outs: told.extend(outs)),
        net.middle.register_full_backward_hook(lambda m, ins, outs: told.extend(ins)),
        net.first.register_full_backward_hook(lambda m, ins, outs: told.append(ins[0])),
    ]
    with jf.strict():
        same(step(jf.laplacian, net, x), plain)
    same(told[2::-2] + told[1:2], [expected[0], expected[1], expected[2]])
    assert told[3] is None and len(told) == 4  # nobody asked for gradients by the point
    for handle in handles:
        handle.remove()


def written(gradients: tuple[Any, ...]) -> None:
    gradients[0].mul_(2)


REPLACED: dict[str, Callable[[nn.Module], Any]] = {
    "full": lambda m: m.register_full_backward_hook(lambda m, ins, outs: (2 * ins[0],)),
    "before": lambda m: m.register_full_backward_pre_hook(lambda m, outs: (2 * outs[0],)),
    "written": lambda m: m.register_full_backward_pre_hook(lambda m, outs: written(outs)),
    "not full": lambda m: m.register_backward_hook(lambda m, ins, outs: (2 * outs[0],)),
    "tensor": lambda m: m.register_forward_hook(
        lambda m, args, out: out.register_hook(lambda g: 2 * g) and None
    ),
}


@pytest.mark.parametrize("name", REPLACED)
def test_gradients_are_not_replaced(name: str) -> None:
    """A part of them would be; hooks that return what they were given replace nothing."""
    net, x = Network(), torch.randn(5, 3, dtype=F64)
    REPLACED[name](net.middle.inner[1])
    with pytest.raises(NotImplementedError, match=r"hook replaced the gradient.*return None"):
        step(jf.laplacian, net, x)


def test_a_part_of_the_gradient_is_unknown() -> None:
    """A hook on a tensor that was used before is told so when it looks."""
    net, x = Network(), torch.randn(5, 3, dtype=F64)
    called: list[bool] = []

    def late(hook: Any, share: Any = torch.sin) -> Any:
        def f(p: Any) -> Any:
            h = net.first(p)
            before = share(h)
            h.register_hook(hook)
            return net.last(h + before).squeeze(-1)

        return jf.biharmonic(f, batch_dims=1)(x).square().mean()

    for share in (torch.sin, nn.Tanh(), lambda h: torch.sin(h) * 2):
        late(lambda g: called.append(isinstance(g, torch.Tensor)), share).backward()
        for look in (torch.Tensor.norm, str, lambda g: g * 2, lambda g: g.shape):
            with pytest.raises(NotImplementedError, match=r"as soon as.*x = x\.clone"):
                late(look, share).backward()
    assert called == [True] * 3


def test_views_of_a_tensor_share_its_gradient() -> None:
    """Of what is the same memory the base is told of all uses, the view that it does not know."""
    layer, x = nn.Linear(3, 4, dtype=F64), torch.randn(3, dtype=F64)
    added = torch.zeros(4, dtype=F64, requires_grad=True)
    told: list[Any] = []

    def loss(of_view: bool, plain: bool = False) -> Any:
        def f(p: Any) -> Any:
            h = layer(p) + added if plain else layer(p)
            view = h.flatten()  # of one axis: PyTorch's is h itself
            if not plain:
                (view if of_view else h).register_hook(lambda g: told.append(g * 1))
            part = h[:2]
            return (view.sin() * h.cos()).sum() + part.square().sum()

        return jf.laplacian(f, method="nested" if plain else "minimal")(x).square()

    loss(False).backward()
    same(told, torch.autograd.grad(loss(False, plain=True), [added]))
    with pytest.raises(NotImplementedError, match="a part of it does not come by there"):
        loss(True).backward()


def test_hooks_are_refused_where_no_gradient_comes_by() -> None:
    x = torch.randn(3, dtype=F64)
    with pytest.raises(TypeError, match="register_hook was called on the argument"):
        jf.laplacian(lambda p: p.register_hook(abs))(x)
