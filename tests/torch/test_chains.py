"""Chains of layers as one node of autograd's graph: the numbers of nested autograd, whatever a
function does with the layers, and whoever asks for them when.

All use the same jets, hence the same few kernels.
"""

from __future__ import annotations

import gc
import threading
import weakref
from functools import partial
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, jacrev, stack_module_state, vmap
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

import jetfold as jf
from jetfold import shared_library
from jetfold.torch import chains, nodes

pytestmark = [
    pytest.mark.skipif(shared_library.compiler() is None, reason="no C compiler here"),
    pytest.mark.usefixtures("loops_at_once", "quick_compiler"),
]

WIDE = 9
"""Of a point: beyond what layer.c calls narrow."""


def operator(n):
    """Of the first and the last coordinate; its jets are those of two."""
    t, x = jf.partials(n)[0], jf.partials(n)[n - 1]
    return jf.derivatives({"u": 1, "u_t": t, "u_x": x, "u_xx": x**2})


OPERATOR = operator(2)


@pytest.fixture(autouse=True)
def filled():
    """What nobody wrote is not a number."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def ran(monkeypatch):
    """How many layers each call of a compiled chain had."""
    found, make = [], chains.Chain.__init__

    def noted(self, stages, arrays, y, *start):
        make(self, stages, arrays, y, *start)
        found.append(len(stages) + len(start) // 2)

    monkeypatch.setattr(chains.Chain, "__init__", noted)
    return found


def mlp(*widths, bias=True, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    layers = [nn.Linear(*pair, bias=bias) for pair in pairwise(widths)]
    modules = [m for layer in layers for m in (layer, nn.Tanh())]
    return nn.Sequential(*modules[:-1]).to(dtype)


def points(*shape):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def loss(f, at, of=OPERATOR, batch_dims=1, **options):
    """Of all values, each of which counts differently."""
    found = tree_leaves(of(f, batch_dims=batch_dims, **options)(at))
    weights = [torch.cos(torch.arange(v.numel(), dtype=v.dtype) + k) for k, v in enumerate(found)]
    pairs = zip(found, weights, strict=True)
    return sum([(v.flatten() * w).sum() + v.square().mean() for v, w in pairs])


def gradient(value, by, **options):
    return torch.autograd.grad(value, by, materialize_grads=True, allow_unused=True, **options)


def check(f, by, at, nested=None, **options):
    """The loss and its gradient are those of nested autograd, of f or of what it amounts to."""
    value = loss(f, at, **options)
    expected = loss(nested or f, at, method="nested", **options)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient(value, by), gradient(expected, by))


# ------------------------------------------------------------------ networks

NETWORKS = {
    "one": mlp(2, 7, 3),
    "several": mlp(2, 7, 33, 5, 3),
    "width one": mlp(2, 1, 4, 1),
    "no bias": mlp(2, 6, 5, 4, bias=False),
    "wide": mlp(WIDE, 6, 5, 2),
    "deep": mlp(2, *[4] * 40, 1),
}


@pytest.mark.parametrize("net", NETWORKS.values(), ids=NETWORKS)
def test_networks(net, ran):
    n = net[0].in_features
    check(net, list(net.parameters()), points(65, n), of=operator(n))
    assert ran == [len(net) // 2 + 1] * 2  # once forwards, once backwards


FROZEN = [(0,), (1,), (2,), (0, 1), (2, 3), (4, 5), (1, 3, 5), (0, 1, 2, 3), (1, 2, 3, 4, 5)]


@pytest.mark.parametrize("frozen", FROZEN, ids=str)
def test_frozen_parameters(frozen):
    net = mlp(2, 6, 5, 4)
    for k, p in enumerate(net.parameters()):
        p.requires_grad_(k not in frozen)
    moving = [p for p in net.parameters() if p.requires_grad]
    check(net, moving, points(65, 2))

    def with_hidden(p):
        h = net[2](net[1](net[0](p)))
        return net[3:](h), h

    check(with_hidden, moving, points(65, 2))
    net.requires_grad_()
    check(net, list(net.parameters()), points(65, 2))


@pytest.mark.parametrize(
    "shape", [(2,), (1, 2), (1030, 2), (5, 7, 2), (1, 7, 2), (5, 1, 2)], ids=str
)
def test_points_of_any_number(shape, ran):
    net, options = mlp(2, 6, 5, 4), {"batch_dims": len(shape) - 1}
    check(net, list(net.parameters()), points(*shape), **options)
    check(net, list(net.parameters()), points(*shape), **options, chunk_size=1)
    at = points(*shape).requires_grad_()
    check(lambda p: net(2 * p - 1), [at, *net.parameters()], at, **options)
    assert max(ran) == 3


@pytest.mark.parametrize("n", [2, WIDE])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_parts_and_threads(n, dtype, monkeypatch, ran):
    """Parts of which the last one is shorter."""
    monkeypatch.setattr(chains, "CACHE", 2**11)
    monkeypatch.setattr(chains, "ALONE", 0)
    exact_net, net = mlp(n, 7, 5, 3), mlp(n, 7, 5, 3, dtype=dtype)
    at, of, threads = points(501, n).to(dtype), operator(n), torch.get_num_threads()
    exact = gradient(loss(exact_net, at.double(), of, method="nested"), [*exact_net.parameters()])
    try:
        for torch_threads in (1, 2, 3):
            torch.set_num_threads(torch_threads)
            for e, g in zip(exact, gradient(loss(net, at, of), [*net.parameters()]), strict=True):
                error = (g - e).abs().max() / e.abs().max()
                assert error < (1e-12 if dtype == torch.float64 else 1e-5)
    finally:
        torch.set_num_threads(threads)
    assert ran == [3] * 6


@pytest.mark.parametrize("sigma", ["constant", "trained", "of the point"])
def test_coefficients_that_are_there_at_every_point(sigma):
    net, at, by = mlp(2, 6, 5, 2), points(33, 2), points(2, 1).requires_grad_()
    given = {
        "constant": by.detach(),
        "trained": by,
        "of the point": lambda p: torch.sin(p)[..., None],
    }
    of = partial(jf.weighted_laplacian, sigma=given[sigma])
    check(net, [by, *net.parameters()], at, of=of)


# ------------------------------------------------------------------ what functions do with layers

first, second, third, last = layers = [
    nn.Linear(*w).double() for w in [(2, 6), (6, 6), (6, 6), (6, 3)]
]
ALL = [p for layer in layers for p in layer.parameters()]
free = [points(2, 6).requires_grad_(), points(1).requires_grad_(), points(6, 5).requires_grad_()]
tanh = torch.tanh


def hidden(p):
    return second(tanh(first(p)))


def rest(h):
    return last(tanh(third(tanh(h))))


def two_heads(p):
    h = tanh(hidden(p))
    return last(h), third(h)


def hidden_values_returned(p):
    a = first(p)
    b = second(tanh(a))
    return rest(b), b, a


def a_branch_that_comes_back_later(p):
    a = first(p)
    out = rest(second(tanh(a)))
    return out + last(tanh(a))


def residual(p):
    h = first(p)
    h = h + second(tanh(h))
    return last(tanh(h + third(tanh(h))))


def read_in_between(p):
    a = first(p)
    h = second(tanh(a))
    assert h.shape == (*p.shape[:-1], 6)
    return rest(h) * h.mean(-1, keepdim=True) + a[..., :3]


def value_alone(p):
    h = hidden(p)
    return rest(h) * h.detach()[..., :3]


def no_grad_in_between(p):
    h = hidden(p)
    with torch.no_grad():
        k = rest(h)
    return rest(h) * k


def tied(p):
    h = tanh(first(p))
    return last(tanh(second(tanh(second(h)))))


def tanh_twice_and_none(p):
    return tanh(last(third(tanh(tanh(hidden(p))))))


def other_functions(p):
    h = F.silu(hidden(p))
    return last(torch.sin(third(torch.cat([h[..., :4], p], -1))))


def weights_that_are_computed(p):
    h = F.linear(p, free[0].t() * free[1], first.bias.exp())
    return functional_call(last, {"weight": last.weight * 2}, (tanh(second(tanh(h))),))


def first_weight_transposed(p):
    return rest(F.linear(p, free[0].t(), first.bias))


def first_weight_with_strides(p):
    return rest(F.linear(bias=free[1].expand(6), weight=free[2][:, 1::3], input=p))


def first_bias_expanded(p):
    return rest(F.linear(p, first.weight, free[1].expand(6)))


def first_weight_expanded(p):
    return rest(F.linear(p, free[1].expand(6, 2)))


def second_weight_transposed(p):
    return last(tanh(F.linear(tanh(first(p)), third.weight.t(), third.bias)))


def second_bias_expanded(p):
    return last(tanh(F.linear(tanh(first(p)), third.weight, free[1].expand(6))))


def a_bias_of_every_point(p):
    h = F.linear(p, first.weight, free[1])
    return last(tanh(F.linear(tanh(h), second.weight, free[0].repeat(4, 1)[:7])))


def layers_without_entries(p):
    h = F.linear(tanh(first(p)), free[2][:0].repeat(1, 2)[:, :6])
    return F.linear(tanh(h), free[2][:3, :0], last.bias) + rest(
        F.linear(p, free[0].t().contiguous())
    )


USES = [
    two_heads, hidden_values_returned, a_branch_that_comes_back_later, residual, read_in_between,
    value_alone, no_grad_in_between, tied, tanh_twice_and_none, other_functions,
    weights_that_are_computed, first_weight_transposed, first_weight_with_strides,
    first_weight_expanded, first_bias_expanded, second_bias_expanded, second_weight_transposed, a_bias_of_every_point, layers_without_entries,
]  # fmt: skip


@pytest.mark.parametrize("f", USES, ids=lambda f: f.__name__)
def test_uses_of_layers(f, ran):
    check(f, ALL + free, points(7, 2))
    if f is not a_bias_of_every_point:
        check(f, ALL + free, points(2), batch_dims=0)
    assert ran


class Passing(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


def gradient_of_another_function(h):
    return rest(h) + grad(lambda w: (w * h).sin().sum())(torch.ones(6).double())[:3]


def jacobian_of_another_function(h):
    return rest(h) * jacrev(lambda w: (w * h).sum(-1))(torch.ones(6).double())[..., :3]


def within(context, h):
    """Somebody looks at a hidden layer there, and it is used outside."""
    with context():
        h.mean()
    return rest(h * 1.0)


LATER = {
    "grad": (gradient_of_another_function, lambda h: rest(h) + torch.cos(h).mul(h).sum(0)[:3]),
    "jacrev": (jacobian_of_another_function, lambda h: rest(h) * h[..., :3]),
    "inference": (partial(within, torch.inference_mode), rest),
    "dispatch": (partial(within, Passing), rest),
    "forward mode": (partial(within, torch.autograd.forward_ad.dual_level), rest),
    "checkpoint": (lambda h: checkpoint(rest, h, use_reentrant=False), rest),
    "reentrant": (lambda h: checkpoint(rest, h, use_reentrant=True), rest),
    "closure": (
        lambda h: checkpoint(lambda q: rest(h) * q, h[..., :3], use_reentrant=False),
        lambda h: rest(h) * h[..., :3],
    ),
}


@pytest.mark.parametrize("f, plain", LATER.values(), ids=LATER)
def test_layers_are_computed_as_if_it_were_at_once(f, plain, ran):
    """What begins after a layer was called changes nothing of it."""
    check(lambda p: f(hidden(p)), ALL, points(7, 2), lambda p: plain(hidden(p)))
    assert ran


def test_autocast_that_begins_later_rounds_nothing():
    net, at = mlp(2, 6, 5, 4, dtype=torch.float32), points(7, 2).float()

    def f(p):
        h = net[2](net[1](net[0](p)))
        with torch.autocast("cpu", torch.bfloat16):
            k = h * 1.0
        return net[3:](k)

    by = list(net.parameters())
    for found, exact in zip(gradient(loss(f, at), by), gradient(loss(net, at), by), strict=True):
        torch.testing.assert_close(found, exact, atol=1e-5 * exact.abs().max().item(), rtol=0)


@pytest.mark.parametrize("frozen", [(0,), (0, 1), (2,), (2, 3), (5,)], ids=str)
def test_what_is_frozen_for_a_while(frozen):
    """Layers wait beyond the end of it."""

    def f(p):
        for k in frozen:
            ALL[k].requires_grad_(False)
        out = rest(hidden(p))
        for k in frozen:
            ALL[k].requires_grad_(True)
        return out

    found = torch.autograd.grad(loss(f, points(7, 2)), ALL, allow_unused=True)
    assert [k for k, g in enumerate(found) if g is None] == list(frozen)
    exact = gradient(loss(lambda p: rest(hidden(p)), points(7, 2), method="nested"), ALL)
    there = [k for k in range(len(ALL)) if k not in frozen]
    torch.testing.assert_close([found[k] for k in there], [exact[k] for k in there])


def write(p):
    p.mul_(2)


def assign(p):
    p.data = p.data * 2


def freeze(p):
    p.requires_grad_(False)


@pytest.mark.parametrize("change", [write, assign, freeze])
@pytest.mark.parametrize("which", [0, 1, 2, 6, 7])
def test_parameters_that_change_after_their_layer(change, which):
    net = mlp(2, 6, 6, 6, 3)

    def f(p):
        out = net(p)
        with torch.no_grad():
            change(list(net.parameters())[which])
        return out

    message = "switched requires_grad" if change is freeze else "wrote into the weight or the bias"
    with pytest.raises(RuntimeError, match=message):
        loss(f, points(7, 2))


# ------------------------------------------------------------------ what is done with the gradients


def test_gradients_again_and_again(ran):
    """Twice, differentiated, in batches, by some parameters, and once too often."""
    at = points(5, 2).requires_grad_()
    by, exact = [at, *ALL], loss(hidden_values_returned, at, method="nested")
    value = loss(hidden_values_returned, at)
    slope, expected = [gradient(v, by, create_graph=True) for v in (value, exact)]
    torch.testing.assert_close(slope, expected)
    again = [gradient(sum([g.sin().sum() for g in s]), by) for s in (slope, expected)]
    torch.testing.assert_close(*again)

    value = loss(hidden_values_returned, at)
    once = torch.autograd.grad(value, ALL, retain_graph=True)
    torch.testing.assert_close(once, expected[1:])
    rows = torch.ones(2, 1).double()
    both = torch.autograd.grad(value[None], ALL, rows, is_grads_batched=True, retain_graph=True)
    torch.testing.assert_close([g[1] for g in both], list(once))
    torch.testing.assert_close(torch.autograd.grad(value, ALL[2]), once[2:3])
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(value, ALL)
    assert 3 in ran


def test_each_value_alone_and_none():
    """Of most layers no value has a cotangent then, or of all."""

    class Nothing(torch.autograd.Function):
        forward = staticmethod(lambda ctx, x: x.clone())
        backward = staticmethod(lambda ctx, g: None)

    for name in ("u", "u_x", "u_xx"):
        for k in range(3):
            found, expected = [
                OPERATOR(hidden_values_returned, batch_dims=1, method=method)(points(7, 2))[name][k]
                for method in ("minimal", "nested")
            ]
            if expected.requires_grad:
                expected = gradient(expected.square().sum(), ALL)
                torch.testing.assert_close(gradient(found.square().sum(), ALL), expected)
    found = OPERATOR(lambda p: rest(hidden(p)), batch_dims=1)(points(7, 2))["u"]
    assert not any([g.any() for g in gradient(Nothing.apply(found).sum(), ALL)])


def test_transforms_of_functions_of_the_parameters(ran):
    nets, at = [mlp(2, 5, 4, 3, seed=seed) for seed in range(2)], points(7, 2)

    def of(parameters):
        return loss(lambda p: functional_call(nets[0], parameters, (p,)), at)

    expected = [gradient(loss(net, at, method="nested"), [*net.parameters()]) for net in nets]
    torch.testing.assert_close(
        tuple(grad(of)(dict(nets[0].named_parameters())).values()), expected[0]
    )
    torch.testing.assert_close(
        gradient(of(dict(nets[1].named_parameters())), [*nets[1].parameters()]), expected[1]
    )
    stacked = {k: v.detach() for k, v in stack_module_state(nets)[0].items()}
    for k, rows in enumerate(zip(*vmap(grad(of))(stacked).values(), strict=True)):
        torch.testing.assert_close(rows, expected[k])


def test_tensors_that_are_saved():
    """Hooks give them back in other memory; parameters that are written meanwhile are noticed."""

    def strided(x):
        return x.mT.contiguous().mT if x.ndim > 1 else x.repeat_interleave(2)[::2]

    net, at = mlp(2, 7, 5, 3), points(9, 2)
    by = list(net.parameters())
    with torch.autograd.graph.saved_tensors_hooks(strided, lambda x: x):
        value = loss(net, at)
    torch.testing.assert_close(gradient(value, by), gradient(loss(net, at, method="nested"), by))
    for p in [at, *by[::2]]:
        value = loss(net, at)
        with torch.no_grad():
            p.add_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            value.backward()


def test_results_may_be_written_to():
    def f(p):
        return hidden_values_returned(p)[::-1]

    gradients = []
    for method in ("minimal", "nested"):
        found = OPERATOR(f, batch_dims=1, method=method)(points(7, 2))
        value = 0.0
        for v in tree_leaves(found):
            if method == "nested":
                v = v.clone()
            elif v.requires_grad:
                assert not v._is_view()
            if v.requires_grad:
                v *= 2
                v[..., 0] = 3.0
                value = value + v.square().sum()
        gradients.append(gradient(value, ALL))
    torch.testing.assert_close(*gradients)


def test_nothing_stays_alive(monkeypatch):
    alive, once = [], nodes.Node.once

    def noted(*args):
        found = once(*args)
        alive.extend([weakref.ref(x) for x in found])
        return found

    monkeypatch.setattr(nodes.Node, "once", noted)
    gc.collect()
    gc.disable()
    try:
        value = loss(hidden_values_returned, points(7, 2))
        value.backward()
        del value
        loss(lambda p: rest(hidden(p)), points(7, 2))
    finally:
        gc.enable()
        for p in ALL:
            p.grad = None
    assert alive
    assert not any([ref() is not None for ref in alive])


def test_threads_share_nothing(monkeypatch):
    monkeypatch.setattr(chains, "ALONE", 0)
    nets, at = [mlp(2, 7, 5, 3, seed=seed) for seed in range(4)], points(65, 2)
    exact = [gradient(loss(n, at, method="nested"), [*n.parameters()]) for n in nets]
    found = [[] for _ in nets]

    def work(k):
        for _ in range(5):
            found[k].append(gradient(loss(nets[k], at), [*nets[k].parameters()]))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(len(nets))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for several, expected in zip(found, exact, strict=True):
        assert len(several) == 5
        torch.testing.assert_close(several, [expected] * 5)


# ------------------------------------------------------------------ in what torch.compile compiles


@pytest.fixture
def compiled():
    """After an error Dynamo leaves to Python whatever else it would compile by the same code."""
    torch.compiler.reset()
    yield partial(torch.compile, backend="aot_eager")
    torch.compiler.reset()


def test_compiled_layers_are_those_that_were_called(compiled):
    """First looked at, or followed by others, under no_grad."""

    def f(p):
        a = first(p)
        h = second(tanh(a))
        with torch.no_grad():
            k = a.mean() + rest(h)
        return rest(h) * k

    @compiled(fullgraph=True)
    def value(p):
        return loss(f, p)

    found, expected = value(points(7, 2)), loss(f, points(7, 2), method="nested")
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradient(found, ALL), gradient(expected, ALL))


def test_compiled_layers_whose_parameters_are_written_to(compiled, taken_for_an_export):
    if taken_for_an_export:
        pytest.skip("layers do not wait")
    net = mlp(2, 6, 6, 3)

    def f(p):
        h = net[:3](p)
        with torch.no_grad():
            net[0].weight.mul_(2)
        return net[3:](h)

    with pytest.raises(RuntimeError, match="wrote into the weight or the bias"):
        compiled(partial(loss, f))(points(7, 2))
