"""What a call will cost, told before it is run, against what PyTorch counts while it runs."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch.utils.flop_counter import FlopCounterMode

import jetfold as jf
from jetfold.bench.networks import mlp
from jetfold.bench.torch import Step, Torch
from jetfold.core.costs import Rates
from jetfold.explain import predict
from jetfold.torch import counting, kernels

nn = torch.nn


def paper(dimension):
    """The network of the paper, an eighth as wide."""
    return Torch("cpu", "float32").network(mlp(dimension, 0.125, 0))


class Convolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.convolution, self.linear = nn.Conv1d(2, 16, 3, padding=1), nn.Linear(16, 1)

    def forward(self, x):
        return self.linear(torch.sin(self.convolution(x)).mean(-1))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two, self.norm = nn.Linear(4, 48), nn.Linear(16, 4), nn.LayerNorm(4)

    def forward(self, x):
        q, k, v = self.one(self.norm(x)).chunk(3, -1)
        return x + self.two((q @ k.mT / 4).softmax(-1) @ v)


CASES = {
    "laplacian of the paper's network": (jf.laplacian, paper(50), (16, 50), {"batch_dims": 1}),
    "biharmonic of it": (jf.biharmonic, paper(5), (16, 5), {"batch_dims": 1}),
    "collapsed": (jf.biharmonic, paper(3), (16, 3), {"batch_dims": 1, "method": "collapsed"}),
    "nested": (jf.laplacian, paper(3), (16, 3), {"batch_dims": 1, "method": "nested"}),
    "attention": (jf.laplacian, Attention(), (2, 5, 4), {"batch_dims": 1}),
    "convolution": (jf.laplacian, Convolution(), (4, 2, 7), {"batch_dims": 1}),
    "chunks": (jf.laplacian, paper(6), (16, 6), {"batch_dims": 1, "chunk_size": 2}),
    "estimate": (jf.randomize(jf.laplacian, 2), paper(9), (16, 9), {"batch_dims": 1}),
}


@pytest.mark.parametrize("name", CASES)
def test_flops_and_bytes_kept(name):
    """Products as FlopCounterMode counts them; bytes as saved tensors are, 10 %."""
    operator, network, shape, options = CASES[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = predict(operator, network, x, **options)
    function = operator(network, **options)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        function(x)
    assert found.products == counter.get_total_flops()
    assert found.products < found.flops
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(x)
    assert found.forward_products == counter.get_total_flops()
    if name not in ("chunks", "nested"):  # one computes them again; hooks do not see the other's
        parameters = list(network.parameters())
        for _ in range(kernels.AFTER):  # then loops are compiled
            function(x)
        kept = Step(function).kept(parameters, x)
        assert found.kept == pytest.approx(kept, rel=0.1)
        assert found.cell()["kept"] == found.kept
    assert found.peak > 4 * x.numel()
    assert (found.over_limit is None) == (name == "nested")


def test_vectors_are_those_of_the_operator():
    network, x = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)), torch.randn(8, 2)
    of = {m: predict(jf.biharmonic, network, x, batch_dims=1, method=m).vectors
          for m in ("minimal", "collapsed", "standard", "nested")}  # fmt: skip
    assert of == {**jf.explain(jf.biharmonic, 2).vectors, "nested": None}

    def within(p):  # an operator inside, of another level
        return jf.gradient(lambda q: network(q).sum())(p).sum()

    assert predict(jf.laplacian, within, x[0]).vectors == 4
    sigma = torch.randn(2, 1)
    assert predict(jf.weighted_laplacian(sigma=sigma), network, x, batch_dims=1).vectors == 3


def test_memory_of_a_value_is_what_lives_at_once():
    """A square and a sum: by hand, φ and its coefficients."""
    x = torch.randn(1000, 2)
    found = predict(jf.partials(2)[0], lambda p: p.exp(), x, batch_dims=1)
    assert found.products == 0 and found.kept is None
    numbers = 1000 * 2
    assert 2 * 4 * numbers <= found.peak <= 5 * 4 * numbers  # exp(x), exp(x)·ẋ; a copy or two


def test_nothing_is_computed_and_nothing_changes():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    network.register_buffer("calls", torch.zeros(()))
    calls = []

    def function(p):
        network.calls.add_(p.sum().detach() if isinstance(p, torch.Tensor) else 0.0)
        calls.append(p)
        return nn.functional.dropout(network(p), 0.5)

    before = {name: x.clone() for name, x in network.state_dict().items()}
    state = torch.get_rng_state()
    x = torch.full((8, 3), float("nan"), requires_grad=True)
    predict(jf.partials(3)[0], function, x, batch_dims=1)
    assert len(calls) == 3
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(x, before[name]) for name, x in network.state_dict().items())
    assert x.grad is None and all(p.grad is None for p in network.parameters())


def test_what_depends_on_numbers_is_not_predicted():
    def chooses(x):
        return (x**3).sum() if x.sum() > 0 else x.sum()

    found = predict(jf.laplacian, chooses, torch.randn(3))
    assert (found.flops, found.kept, found.peak, found.over_limit) == (None,) * 4
    (reason,) = found.reasons
    assert "asks for numbers, which are not there before it is run" in reason
    assert "FLOPs" in str(found) and "unknown" in str(found) and reason in str(found)
    assert found.cell() == {}
    with pytest.raises(ZeroDivisionError):  # other errors are errors
        predict(jf.laplacian, lambda x: x.sum() / 0 if False else 1 / 0, torch.randn(3))


def test_time_over_limit(monkeypatch):
    """A ratio of estimates: about 1 where products are all, more where calls are."""
    measured = counting.rates(torch.zeros(2), False)
    assert min(measured.products, measured.arithmetic, measured.functions, measured.moved) > 1e4
    fixed = Rates(1e11, 5e9, 4e8, 1e10, 2e-6, 25e-6, False)
    monkeypatch.setattr(counting, "rates", lambda like, fused: fixed)
    large = predict(jf.laplacian, paper(50), torch.randn(512, 50), batch_dims=1)
    small = predict(jf.laplacian, paper(2), torch.randn(2, 2), batch_dims=1)
    assert 0.6 < large.over_limit < 1.1
    assert small.over_limit > 5
    assert large.seconds > 0 and large.cell()["time / limit"] == large.over_limit


def test_explain_tells_it_when_it_is_asked_for(monkeypatch):
    network, x = paper(3), torch.randn(8, 3)
    explained = jf.explain(jf.laplacian, network, x, batch_dims=1, method="standard")
    assert "prediction" not in vars(explained)  # not yet
    assert explained.prediction is explained.prediction
    assert explained.prediction.vectors == 7 and explained.prediction.method == "standard"
    text = str(explained)
    for part in ("Before it is run (eager)", "vectors             7", "× a plain forward pass",
                 "kept for backward", "time / limit", "Coefficients carried"):  # fmt: skip
        assert part in text
    compiled = jf.explain(jf.laplacian, network, x, batch_dims=1, compiled=True)
    assert "Before it is run (compiled)" in str(compiled)
