"""What explain and check say."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import jetfold as jf


def test_vectors_of_the_heat_operator():
    t, x, y = jf.partials(3, names="t x y")
    found = jf.explain(t - 0.1 * (x**2 + y**2))
    assert found.vectors == {"minimal": 4, "collapsed": 5, "standard": 6}
    assert found.by_degree["minimal"] == (1, 2, 1)
    assert found.basis[1] == ("x", "y")
    text = str(found)
    assert "t - 0.1*x**2 - 0.1*y**2, on 3 coordinates" in text
    assert "minimal        4 = 1 + 2 + 1" in text


def test_the_product_rule_is_that_of_leibniz():
    (x,) = jf.partials(1, names="x")
    assert jf.explain(x**2).products[-1] == ("(uv)_xx = u·v_xx + u_xx·v + 2·u_x·v_x",)


def test_named_operators_and_trees():
    assert jf.explain(jf.biharmonic, coordinates=5).vectors["minimal"] == 27
    assert jf.explain(jf.laplacian, coordinates=50).by_degree["collapsed"] == (1, 50, 1)
    t, x = jf.partials(2)
    assert jf.explain({"u": 1, "u_x": x, "kdv": t + x**3}).vectors["minimal"] == 4


def test_directions_are_shown():
    x, y = jf.partials(2, names="x y")
    assert [name for name, _ in jf.explain(x * y).directions] == ["ζ0", "ζ1"]


def test_long_tables_are_cut():
    text = str(jf.explain(jf.laplacian, coordinates=200))
    assert "more" in text and len(text.splitlines()) < 60


def test_what_explain_refuses():
    with pytest.raises(ValueError, match=r"explain\(laplacian, coordinates=3\)"):
        jf.explain(jf.laplacian)
    with pytest.raises(TypeError, match="operator"):
        jf.explain("x**2")


def test_check_reports_small_errors_in_float32():
    net = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    report = jf.check(jf.biharmonic, net, torch.randn(5, 3), batch_dims=1)
    assert report.dtype == "float32" and report.reference.endswith("float64")
    assert set(report.relative) == {"minimal", "collapsed", "standard"}
    assert report.largest > 0
    assert 0 < report.worst < 1e-4
    assert next(net.parameters()).dtype == torch.float32  # the user's network is left alone


def test_check_measures_against_true_derivatives():
    t, x = jf.partials(2)
    p = torch.randn(2)
    report = jf.check([t, x**2 * t], lambda p: torch.sin(p[0] * p[1]), p)
    t, x = p.double()
    d = torch.cos(t * x) * x, -2 * x * torch.sin(t * x) - t * x**2 * torch.cos(t * x)
    assert report.largest == pytest.approx(max(abs(float(v)) for v in d), rel=1e-6)
    assert report.worst < 1e-4


def test_check_converts_what_the_function_closes_over():
    weight = torch.randn(4, 3)
    report = jf.check(jf.laplacian, lambda x: torch.sin(weight @ x).sum(), torch.randn(3))
    assert report.reference.endswith("float64")
    assert report.worst < 1e-3
    assert weight.dtype == torch.float32


def test_check_refuses_unknown_methods():
    with pytest.raises(ValueError, match="got 'fast'"):
        jf.check(jf.laplacian, torch.sin, torch.randn(3), methods=["fast"])
