"""What is recorded of a run, on a tiny network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from jetfold.bench import suite
from jetfold.bench.suite import Outcome, Row, Settings
from jetfold.bench.torch import Torch, ZerosInMemory


class Recorder(Torch):
    """PyTorch on the CPU, which notes what it compiles instead of compiling it."""

    def __init__(self, fails=""):
        super().__init__("cpu", "float32")
        self.compilations = 0
        self.forgotten = 0
        self.fails = fails
        self.rows = []

    def compiled(self, function, rewrite=False):
        self.compilations += 1
        if self.fails and self.compilations == 1:

            def broken(x):
                raise RuntimeError(self.fails)

            return broken
        return function

    def forget(self):
        self.forgotten += 1

    def network(self, layers, dtype=None):
        module = super().network(layers, dtype)
        module.register_forward_pre_hook(lambda _, args: self.rows.append(args[0]))
        return module


def settings(**changes):
    options = {"batch": 4, "width": 0.02, "repeats": 1, "dimensions": {"laplacian": 3}}
    return Settings(**(options | changes))


def test_every_method_in_every_mode():
    backend, steps = Recorder(), []
    wanted = settings(operators=("laplacian", "kp"))
    outcome = suite.run(wanted, backend, lambda text, n: steps.append(n))
    assert outcome.failures == ()
    assert sum(steps) == wanted.steps
    assert [(row.operator, row.mode, row.method) for row in outcome.rows] == [
        (operator, mode, method)
        for operator in ("laplacian", "kp")
        for mode in ("eager", "compiled")
        for method in ("nested", "standard", "collapsed", "minimal")
    ]
    # per compiled operator four methods and the forward passes of the sizes that they carry
    assert backend.compilations == (4 + len({5, 7})) + (4 + len({6, 9, 11}))
    assert backend.forgotten == 4
    for row in outcome.rows:
        assert (row.compile_s is None) == (row.mode == "eager")
        assert (row.limit is None) == (row.vectors is None) == (row.method == "nested")
        assert row.time.repeats == 1
        assert row.relative_error < 1e-5
    assert not outcome.too_inexact("float32")


def test_speedup_and_limit_are_ratios_of_medians():
    outcome = suite.run(settings(operators=("kp",), modes=("eager",)), Recorder())
    nested, *others = outcome.rows
    assert nested.speedup == 1 and nested.over_limit is None
    for row in others:
        assert row.speedup == pytest.approx(nested.time.median / row.time.median)
        assert row.over_limit == pytest.approx(row.time.median / row.limit)


def test_without_nested_there_is_no_speedup():
    outcome = suite.run(
        settings(operators=("kp",), modes=("eager",), methods=("minimal",)), Recorder()
    )
    assert [row.speedup for row in outcome.rows] == [None]


def test_the_limit_is_a_forward_pass_on_batch_times_vectors_rows():
    backend = Recorder()
    suite.run(settings(operators=("kp",), modes=("eager",), methods=("minimal",)), backend)
    sizes = {tuple(x.shape) for x in backend.rows if isinstance(x, torch.Tensor)}
    assert (4 * 6, 3) in sizes  # batch 4, 6 vectors, 3 coordinates


def test_one_failure_does_not_cost_the_others():
    outcome = suite.run(
        settings(operators=("kp",), modes=("compiled",)), Recorder(fails="no compiler\nat all")
    )
    assert [row.method for row in outcome.rows] == ["standard", "collapsed", "minimal"]
    assert outcome.failures == ("∂t∂x + ∂x⁴ + 3∂y², nested, compiled: RuntimeError: no compiler",)


def test_weighted_laplacian_has_full_rank():
    case = settings(dimensions={"weighted-laplacian": 6}).case("weighted-laplacian")
    assert case.vectors == {"minimal": 8, "collapsed": 8, "standard": 13}
    sigma = case.operator(lambda values: values).sigma
    assert np.linalg.matrix_rank(sigma) == 6


@pytest.mark.parametrize(("error", "passes"), [(1e-6, True), (2e-5, False), (float("nan"), False)])
def test_tolerance(error, passes):
    timing = suite.Timing(1.0, 1.0, 1.0, 1.0, 1)
    row = Row("kp", "KP", 3, "minimal", "eager", 6, None, timing, None, None, error)
    assert (Outcome((row,)).too_inexact("float32") == []) == passes


def test_zero_tangents_get_memory():
    graph = torch.fx.Graph()
    zeros = graph.call_function(
        torch.ops.aten._efficientzerotensor.default,
        ([2, 3],),
        {"dtype": torch.float64, "layout": torch.strided, "device": torch.device("cpu")},
    )
    graph.output(zeros)
    assert torch.fx.GraphModule({}, graph)()._is_zerotensor()
    ZerosInMemory()(graph)
    result = torch.fx.GraphModule({}, graph)()
    assert not result._is_zerotensor()
    assert torch.equal(result, torch.zeros(2, 3, dtype=torch.float64))
