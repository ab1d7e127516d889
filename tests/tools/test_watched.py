"""A watched network brings along what was asked for, and nothing else is differentiated otherwise."""

from __future__ import annotations

import copy
import gc
import pickle
import warnings
import weakref
from functools import partial

import pytest

torch = pytest.importorskip("torch")

from jetfold import JetfoldWarning, watched
from jetfold.watched import Call, calling, clear, find, row, times


@pytest.fixture(autouse=True)
def forgotten():
    yield
    clear()


def network(width=7, outputs=2, last=None):
    """A small network in float64, watched."""
    layers = [torch.nn.Linear(2, width), torch.nn.Tanh(), torch.nn.Linear(width, outputs)]
    net = torch.nn.Sequential(*layers, *([] if last is None else [last])).double()
    return watch(net)


def watch(net):
    watched.watch(net, forward, always=True)
    return net


def forward(self, *args):
    return watched.called(self, args, partial(type(self).forward, self))


def points(count=5):
    return torch.randn(count, 2, dtype=torch.float64, requires_grad=True)


def nested(u, x, index):
    """∂^index of Float[points, 1] by autograd."""
    for j in index:
        u = row(u, x)[:, j : j + 1]
    return u


def asked(net, x, *wanted, output=1):
    """The network called, and derivatives of one output."""
    y = net(x)
    call, columns = find(y, x)
    return call, [call.derivative(columns[output], symbol) for symbol in wanted]


def plain(net, x, *wanted, output=1):
    """The same by autograd, of the network's own graph."""
    with calling(False):
        u = net(x)[:, output : output + 1]
    return [sum(nested(u, x, index) for index in symbol) for symbol in wanted]


WANTED = [((0,),), ((0, 1),), ((0, 0), (1, 1)), ((0, 0, 1),), ((1, 1, 1, 1),)]


@pytest.mark.parametrize("kind", [None, "a purpose of its own"])
def test_what_was_asked_for_comes_along(kind):
    net = network()
    with calling(kind):
        first, _ = asked(net, points(), *WANTED)
        assert first.found == {}
        for count in (5, 1, 8):
            x = points(count)
            call, found = asked(net, x, *WANTED)
            assert set(call.found) == set(WANTED)
            assert not call.rows  # nothing by autograd
            torch.testing.assert_close(found, plain(net, x, *WANTED), rtol=1e-10, atol=1e-12)


def test_gradients_to_parameters_and_points():
    net, x = network(), points()
    asked(net, x, *WANTED)
    leaves = [x, *net.parameters()]
    call, found = asked(net, x, *WANTED)
    assert call.found
    loss = sum((d * call.outputs[:, :1]).square().mean() for d in found)
    with calling(False):
        u = net(x)
    reference = sum((d * u[:, :1]).square().mean() for d in plain(net, x, *WANTED))
    ours = torch.autograd.grad(loss, leaves)
    torch.testing.assert_close(ours, torch.autograd.grad(reference, leaves), rtol=1e-9, atol=1e-11)


def test_new_parameters_give_new_derivatives():
    """Optimisers write in place: the same tensors, the same points, other numbers."""
    net, x = network(), points()
    asked(net, x, *WANTED)
    before = asked(net, x, *WANTED)[1]
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(1.5)
    call, after = asked(net, x, *WANTED)
    assert call.found
    torch.testing.assert_close(after, plain(net, x, *WANTED), rtol=1e-10, atol=1e-12)
    assert all(not torch.allclose(a, b) for a, b in zip(before, after, strict=True))


def test_derivatives_of_derivatives_and_parts():
    """Slices, splits and derivatives are recognised by where they come from."""
    net, x = network(outputs=3), points()
    for _ in range(2):
        call, columns = find(net(x), x)
        y = call.outputs
        for part, expected in [
            (y[:, 1:2], [1]), (y[:, 1:], [1, 2]), (y[:, ::2], [0, 2]), (y.split(1, 1)[2], [2]),
            (y[:, 1][:, None], [1]), (y.view(-1, 3), [0, 1, 2]), (y[:], [0, 1, 2]),
        ]:  # fmt: skip
            assert call.columns(part) == [columns[k] for k in expected]
        lap = call.derivative(columns[2], ((0, 0), (1, 1)))
        assert call.columns(lap) == [(2, ((0, 0), (1, 1)))]
        again = call.derivative(call.columns(lap)[0], ((0, 0), (1, 1)))
        square = times(((0, 0), (1, 1)), ((0, 0), (1, 1)))
        assert square == ((0, 0, 0, 0), (0, 0, 1, 1), (0, 0, 1, 1), (1, 1, 1, 1))
        (expected,) = plain(net, x, square, output=2)
        torch.testing.assert_close(again, expected, rtol=1e-10, atol=1e-12)
    assert set(call.found) == {((0, 0), (1, 1)), square}


@pytest.mark.parametrize(
    "change",
    [lambda y: 2 * y, lambda y: y[1:], lambda y: y.flip(1), lambda y: y.detach().requires_grad_(),
     lambda y: y.clone().mul_(2), lambda y: y.t(), lambda y: y.float(), lambda y: y * y],
    ids=["2y", "fewer", "flipped", "detached", "in place", "transposed", "cast", "product"],
)  # fmt: skip
def test_what_is_no_derivative_is_left_to_autograd(change):
    net, x = network(), points(2)
    for _ in range(2):
        assert find(change(net(x)), x) is None
        asked(net, x, *WANTED)
    assert find(net(x), points(2)) is None


def test_products_are_differentiated_through_the_propagation():
    net, x = network(), points()
    asked(net, x, *WANTED)
    call, (slope, *_) = asked(net, x, *WANTED)
    assert call.found
    ours = nested(call.outputs[:, :1] * slope, x, (0, 1))
    (expected,) = plain(net, x, ((0,),))
    with calling(False):
        expected = nested(net(x)[:, :1] * expected, x, (0, 1))
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)


def test_a_derivative_that_was_changed_in_place():
    net, x = network(), points()
    asked(net, x, ((0,),))
    call, (slope,) = asked(net, x, ((0,),))
    with torch.no_grad():
        slope *= 2
    assert call.columns(slope) is None
    with pytest.raises(RuntimeError, match=r"changed in place .* write a = 2 \* a"):
        call.derivative((1, ((),)), ((0,),))


class Centred(torch.nn.Module):
    def forward(self, y):
        return y - y.mean(0)


@pytest.mark.parametrize(
    ("last", "reason"),
    [(Centred(), "mixes points"), (torch.nn.BatchNorm1d(2), "batch normalisation")],
)
def test_networks_that_mix_points_keep_autograd(last, reason):
    net, x = network(last=last.double()), points()
    first = asked(net, x, *WANTED[:3])[1]
    with pytest.warns(JetfoldWarning, match=f"come from autograd as before.*{reason}"):
        call, second = asked(net, x, *WANTED[:3])
    assert call.found == {}
    torch.testing.assert_close(first, second)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # said once
        torch.testing.assert_close(first, asked(net, x, *WANTED[:3])[1])


def test_evaluation_mode_and_other_purposes_ask_for_their_own():
    net, x = network(), points()
    asked(net, x, ((0,),))
    net.eval()
    assert asked(net, x, ((0, 0, 0),))[0].found == {}
    assert set(asked(net, x, ((0, 0, 0),))[0].found) == {((0, 0, 0),)}
    net.train()
    assert set(asked(net, x, ((0,),))[0].found) == {((0,),)}
    with calling(False):
        y = net(x)
    assert find(y, x) is None
    with torch.no_grad():
        assert find(net(x), x) is None


def test_what_is_no_longer_asked_for_is_no_longer_carried():
    net, x = network(), points()
    asked(net, x, *WANTED)
    asked(net, x, ((1,),))
    net(x)  # nothing is asked of this one
    assert set(asked(net, x, ((1,),))[0].found) == {((1,),)}


def test_a_copy_has_its_own_numbers():
    net, x = network(), points()
    asked(net, x, *WANTED)
    other = copy.deepcopy(net)
    with torch.no_grad():
        other[0].weight.add_(1)
    for _ in range(2):
        found = asked(other, x, *WANTED)[1]
        torch.testing.assert_close(found, plain(other, x, *WANTED), rtol=1e-10, atol=1e-12)


def test_pickled_it_is_a_network_as_before():
    net, x = network(), points()
    again = pickle.loads(pickle.dumps(net))
    torch.testing.assert_close(again(x), net(x))
    with torch.no_grad():
        again[0].weight.add_(1)
    assert not torch.allclose(again(x), net(x))


def test_compiled_networks_keep_autograd():
    compiled, x = torch.compile(network(), backend="eager"), points()
    with pytest.warns(JetfoldWarning, match="OptimizedModule .* pass the module that was compiled"):
        watch(compiled)
    y = compiled(x)
    assert find(y, x) is None and y.grad_fn is not None


def test_linear_networks_have_zero_curvature():
    """Where autograd has no graph to differentiate."""
    net, x = watch(torch.nn.Linear(2, 2).double()), points()
    for _ in range(2):
        found = asked(net, x, ((0, 0),), ((0, 1, 1),))[1]
        assert all(torch.equal(d, torch.zeros(5, 1, dtype=torch.float64)) for d in found)


def test_nothing_is_kept_after_clear():
    net, x = network(last=torch.nn.Tanh()), points()  # whose graph keeps its result
    for _ in range(2):
        call, _ = asked(net, x, *WANTED)
        kept = weakref.ref(call.outputs)
    del call
    clear()
    gc.collect()
    assert kept() is None


def test_in_single_precision():
    net = network().float()
    x = points().float().detach().requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            call, found = asked(net, x, *WANTED)
    assert call.found
    torch.testing.assert_close(found, plain(net, x, *WANTED), rtol=1e-3, atol=1e-4)


def test_row_of_what_does_not_depend_on_the_points():
    x = points()
    assert torch.equal(row(torch.ones(5, 1), x), torch.zeros_like(x))
    assert Call(x, x * 2, {}).derivative((0, ((),)), ((1,),)).abs().max() == 0


def test_which_way_is_less_work():
    """One second derivative is autograd's at a few points; two outputs, two of them or a third are
    not."""
    u, v, x, t, xx, tt = 0, 1, ((0,),), ((1,),), ((0, 0),), ((1, 1),)
    assert watched.autograd_work([(u, x), (u, t)]) == 2
    assert watched.autograd_work([(u, x), (u, xx)]) == 4
    assert watched.autograd_work([(u, ((0, 0, 0, 0),))]) == 20
    cases = {((u, x), (u, t)): False, ((u, x), (u, t), (u, xx)): False, ((u, xx), (u, tt)): True,
             ((u, xx), (v, xx)): True, ((u, ((0, 0, 0),)),): True}  # fmt: skip
    for wanted, expected in cases.items():
        assert watched.worthwhile(2, frozenset(wanted)) is expected
    assert watched.worthwhile(2, frozenset({(u, x), (u, t), (u, xx)}), looped=True)
    assert not watched.worthwhile(2, frozenset({(u, x), (u, t)}), looped=True)
    net = network()
    watched._networks[net].always = False
    for symbols, propagated in [((x, t, xx), False), ((xx, tt), True)]:
        for _ in range(2):
            points_ = points()
            call, found = asked(net, points_, *symbols)
        assert bool(call.found) is propagated
        torch.testing.assert_close(found, plain(net, points_, *symbols), rtol=1e-10, atol=1e-12)
