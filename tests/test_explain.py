"""`explain` against the table of the design and hand-written product rules, `check` on networks."""

from __future__ import annotations

import sys
from functools import partial

import pytest
import torch

import jetfold as jf
from jetfold.explain import Explanation, Report, check, explain

t, x, y, z = jf.partials(4, names="t x y z")


def vectors(operator, coordinates=None):
    return explain(operator, coordinates).vectors


# ------------------------------------------------------------------ vectors, by hand or the paper


@pytest.mark.parametrize(
    ("operator", "coordinates", "minimal", "collapsed", "standard"),
    [
        (jf.laplacian, 50, 52, 52, 101),  # D+2, D+2, 1+2D
        (jf.biharmonic, 2, 9, 17, 21),  # (9D²−3D)/2+2 collapsed, 6D²−2D+1 standard
        (jf.biharmonic, 5, 27, 107, 141),
        (jf.biharmonic, 10, 77, 437, 581),
        (t - (x**2 + y**2 + z**2), None, 5, 6, 8),  # heat: ∂_t folds into the top
        (t + x**2 + x**4, None, 5, 6, 6),  # Kuramoto-Sivashinsky
        (t * x + x**4 + 3 * y**2, None, 6, 9, 11),  # Kadomtsev-Petviashvili
    ],
)
def test_vectors(operator, coordinates, minimal, collapsed, standard):
    expected = {"minimal": minimal, "collapsed": collapsed, "standard": standard}
    assert vectors(operator, coordinates) == expected


@pytest.mark.parametrize(
    ("operator", "by_degree"),
    [
        (t - (x**2 + y**2 + z**2), (1, 3, 1)),
        (t + x**2 + x**4, (1, 1, 1, 1, 1)),
        (t * x + x**4 + 3 * y**2, (1, 2, 1, 1, 1)),
        (x**2 * y**2, (1, 2, 3, 2, 1)),
        ({"u": 1, "u_x": x, "kdv": t + x**3}, (1, 1, 1, 1)),
        ([t, x**2 + y**2, (x**2 + y**2) ** 2], (1, 3, 3, 2, 1)),
    ],
)
def test_minimal_vectors_by_degree(operator, by_degree):
    found = explain(operator)
    assert found.by_degree["minimal"] == by_degree
    assert found.vectors["minimal"] == sum(by_degree)
    assert tuple(map(len, found.basis)) == tuple(map(len, found.labels)) == by_degree


# ------------------------------------------------------------------ basis, products, read-out


def test_heat():
    found = explain(t - (x**2 + y**2) / 10)
    assert found.basis == (("1",), ("x", "y"), ("-10*t + x**2 + y**2",))
    assert found.labels == (("1",), ("x", "y"), ("e3",))
    assert found.products == (
        (),
        ("(uv)_x = u·v_x + u_x·v", "(uv)_y = u·v_y + u_y·v"),
        ("(uv)_e3 = u·v_e3 + u_e3·v + 2·u_x·v_x + 2·u_y·v_y",),
    )
    assert found.entries == 2
    assert found.directions == ()
    assert found.readout == (("t - 0.1*x**2 - 0.1*y**2", "-0.1·u_e3"),)


def test_products_of_higher_degree_are_binomial():
    """∂_x⁴(uv) = Σ_k C(4, k) ∂_x^k u · ∂_x^{4−k} v."""
    found = explain(x**4)
    assert found.products[2] == ("(uv)_xx = u·v_xx + u_xx·v + 2·u_x·v_x",)
    (rule,) = found.products[4]
    assert set(rule.removeprefix("(uv)_xxxx = ").split(" + ")) == {
        "u·v_xxxx",
        "u_xxxx·v",
        "4·u_x·v_xxx",
        "6·u_xx·v_xx",
        "4·u_xxx·v_x",
    }
    assert found.entries == 1 + 2 + 3


def test_indefinite_form_is_written_in_directions():
    found = explain(x * y)
    assert found.directions == (("ζ0", "0.5*x + 0.5*y"), ("ζ1", "x - y"))
    assert found.basis[2] == ("ζ0**2 - 0.25*ζ1**2",)  # (x+y)²/4 − (x−y)²/4 = xy
    assert "ζ1 = x - y" in str(found)


def test_several_operators_are_read_out_of_one_propagation():
    found = explain({"u": 1, "first": [t, x], "lap": x**2 + y**2})
    assert found.readout == (
        ("u: 1", "u"),
        ("first[0]: t", "u_t"),
        ("first[1]: x", "u_x"),
        ("lap: x**2 + y**2", "u_e4"),
    )


def test_what_differentiates_nothing():
    found = explain(t * 0)
    assert found.vectors == {"minimal": 1, "collapsed": 1, "standard": 1}
    assert found.readout == (("0", "0"),)
    assert "Product rule" not in str(found)


def test_coefficients_that_stay_outside():
    def speed(point):
        return point[0]

    found = explain(torch.ones(2, 3) * t + speed * x**2 + 3 * y)
    ((_, formula),) = found.readout
    assert formula == "3·u_y + array(2, 3)·(u_t) + speed·(u_xx)"


def test_names_default_to_numbers():
    d0, d1 = jf.partials(2)
    assert explain(d0 + d1**2).basis == (("1",), ("d1",), ("d0 + d1**2",))


# ------------------------------------------------------------------ how it prints


def test_text():
    text = str(explain(t - x**2))
    assert text == repr(explain(t - x**2))
    for line in (
        "t - x**2, on 4 coordinates",
        "  minimal        3 = 1 + 1 + 1",
        "  degree 2   e2 = -t + x**2",
        "  (uv)_e2   = u·v_e2 + u_e2·v + 2·u_x·v_x",
        "  t - x**2   = -u_e2",
    ):
        assert line in text.splitlines()


def test_long_tables_are_cut_with_a_count():
    text = str(explain(jf.laplacian, coordinates=50))
    assert "d0, d1, d2, d3, d4, d5, … (44 more)" in text
    assert "d5**2 + … (44 more)" in text
    assert "… (47 more)" in text  # product rules of degree 1
    assert "50 structure constants" in text
    assert max(map(len, text.splitlines())) < 120


def test_rich_is_used_only_to_print(monkeypatch):
    from rich.console import Console

    console = Console(width=100)
    with console.capture() as capture:
        console.print(explain(t - x**2))
    assert "(uv)_e2" in capture.get()
    monkeypatch.setitem(sys.modules, "rich", None)  # as if it were not installed
    monkeypatch.setitem(sys.modules, "rich.table", None)
    assert "(uv)_e2" in str(explain(t - x**2))


# ------------------------------------------------------------------ errors of explain


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ((jf.laplacian,), ValueError, "explain(laplacian, coordinates=3)"),
        ((jf.biharmonic, 0), ValueError, "positive integer, got 0"),
        ((jf.weighted_laplacian(sigma=torch.eye(3)),), TypeError, "coordinates=R"),
        ((t, 3), ValueError, "acts on 4 coordinates, got coordinates=3"),
        ((t(torch.sin),), TypeError, "the operator itself, not operator(f)"),
        (("t + x",), TypeError, "takes an Operator made with partials(n)"),
        (({"a": t, "b": "x"},), TypeError, "expected an operator or a number at b"),
        (([t, jf.partials(2)[0]],), ValueError, "do not combine"),
    ],
)
def test_explain_refuses(arguments, error, says):
    with pytest.raises(error) as raised:
        explain(*arguments)
    assert says in str(raised.value)


# ------------------------------------------------------------------ check


@pytest.fixture
def network():
    torch.manual_seed(0)
    layers = torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)
    return torch.nn.Sequential(*layers)


@pytest.fixture
def points():
    return torch.randn(7, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("operator", [jf.laplacian, t * x + x**4 + 3 * y**2], ids=["lap", "kp"])
def test_check_of_a_network(operator, network, points):
    before = [p.clone() for p in network.parameters()]
    report = check(operator, network, points, batch_dims=1)
    assert isinstance(report, Report)
    assert report.function == "Sequential"
    assert report.dtype == "float32"
    assert report.reference == "nested automatic differentiation in float64"
    assert set(report.relative) == {"minimal", "collapsed", "standard"}
    assert 0 < report.worst < 1e-5  # against float64, so float32 cannot be exact
    assert report.worst == max(report.relative.values())
    assert report.note == ""
    assert all(torch.equal(p, q) for p, q in zip(before, network.parameters(), strict=True))
    exact = operator(network.double(), batch_dims=1, method="nested")(points.double())
    assert report.largest == pytest.approx(exact.abs().max().item(), rel=1e-12)


def test_check_converts_what_the_function_closes_over(network, points):
    weights = torch.randn(4, 4, generator=torch.Generator().manual_seed(2))

    def function(p):
        return network(p @ weights).squeeze(-1)

    report = check(jf.laplacian, function, points, batch_dims=1)
    assert report.reference.endswith("float64")
    assert 0 < report.worst < 1e-5
    network.double()  # the same function, converted by hand
    weights = weights.double()
    exact = jf.laplacian(function, batch_dims=1, method="nested")(points.double())
    assert report.largest == pytest.approx(exact.abs().max().item(), rel=1e-12)


def test_check_shows_an_error():
    """tanh of a large sum in float32 has an error that can be computed: compare it."""

    def function(p):
        return torch.sin(1000.5 * p).sum()

    point = torch.tensor([0.3], dtype=torch.float32)
    report = check(jf.partials(1)[0] ** 2, function, point, methods=("minimal",))
    value = -(1000.5**2) * torch.sin(1000.5 * point)
    exact = -(1000.5**2) * torch.sin(1000.5 * point.double())
    error = (value.double() - exact).abs().item()
    assert report.absolute["minimal"] == pytest.approx(error, rel=0.05)
    assert report.relative["minimal"] == pytest.approx(error / exact.abs().item(), rel=0.05)


def test_check_of_several_operators_and_outputs(points):
    weights = torch.arange(4.0)

    def function(p, shift, *, scale):
        return {"s": torch.sin(weights @ p + shift) * scale, "v": p**3}

    report = check(
        {"t": t, "heat": t - x**2}, function, points[0], torch.tensor(0.5), scale=points[1, 0]
    )
    assert 0 < report.worst < 1e-5


def test_check_passes_arguments_on(points):
    report = check(
        partial(jf.weighted_laplacian, sigma=torch.eye(4)[:, :2]),
        lambda c, p: c * (p**3).sum(-1),
        torch.tensor(2.0),
        points,
        argnums=1,
        batch_dims=1,
        methods=("minimal", "nested"),
    )
    assert set(report.absolute) == {"minimal", "nested"}
    assert report.worst < 1e-5
    assert report.largest == pytest.approx((12 * points[:, :2].sum(-1)).abs().max().item(), 1e-5)


def test_check_in_the_given_dtype_when_float64_is_refused():
    def insists(p):
        if p.dtype != torch.float32:
            raise RuntimeError("expected scalar type Float but found Double")
        return (p**3).sum()

    report = check(jf.laplacian, insists, torch.tensor([1.0, 2.0]))
    assert report.reference == "nested automatic differentiation in float32"
    assert "expected scalar type Float" in report.note
    assert "pass its parameters as arguments" in str(report)


def test_other_errors_of_the_function_are_not_hidden():
    def breaks(p):
        if p.dtype == torch.float64:
            raise RuntimeError("out of memory")
        return p.sum()

    with pytest.raises(RuntimeError, match="out of memory"):
        check(jf.laplacian, breaks, torch.ones(2))


def test_report_prints():
    text = str(check(t - x**2, torch.prod, torch.tensor([0.3, 0.7, 1.1, 1.3])))
    assert "prod, evaluated in float32" in text
    assert "Largest errors against nested automatic differentiation in float64" in text
    assert "minimal" in text and "collapsed" in text and "standard" in text
    assert "largest |value|" in text


@pytest.mark.parametrize(
    ("arguments", "options", "error", "says"),
    [
        ((3, torch.sin, torch.ones(2)), {}, TypeError, "got int"),
        ((jf.laplacian, torch.sin), {}, TypeError, "pass the point by position"),
        ((jf.laplacian, torch.sin, torch.ones(2)), {"argnums": 1}, TypeError, "argnums=1"),
        ((jf.laplacian, torch.sin, torch.ones(2)), {"methods": ()}, ValueError, "at least one"),
        ((jf.laplacian, torch.sin, torch.ones(2)), {"methods": ("x",)}, ValueError, "'x'"),
        ((jf.laplacian, torch.sin, [1.0]), {}, TypeError, "torch.Tensor"),
    ],
)
def test_check_refuses(arguments, options, error, says):
    with pytest.raises(error) as raised:
        check(*arguments, **options)
    assert says in str(raised.value)


# ------------------------------------------------------------------ equations


def vortex(u, v, p, d, x, nu, xp):
    """One that names a coordinate, a number and a module."""
    nu = nu * xp.exp(-x)
    return d.t(u) + u * d.x(u) + d.x(p) - nu * d.laplacian(u, over="x y"), d.divergence((v, u, p))


@pytest.mark.parametrize("module", ["torch", "jax.numpy"])
def test_what_an_equation_asks_for(module):
    found = explain(jf.residual(vortex, "t x y"), xp=pytest.importorskip(module))
    assert found.operator == "residual(vortex: u v p of t x y)"
    assert found.by_degree["minimal"] == (1, 3, 1)
    assert [name for name, _ in found.readout] == ["1", "t", "x", "x**2 + y**2", "y"]
    assert vectors(jf.residual(lambda u, d: d.t(u) + u * d.x(u) + d.xxxx(u), "t x")) == {
        "minimal": 6, "collapsed": 6, "standard": 6
    }  # fmt: skip
    unnamed = explain(jf.residual(lambda u, d, point: d[0, 1](u) - (point**2).sum(-1), 2))
    assert unnamed.operator.endswith("u of 2 coordinates)")
    assert unnamed.coordinates == 2 and unnamed.readout[1][0] == "d0*d1"


def test_an_equation_through_a_network(points):
    """As many vectors as one says, and its own parameters are no arguments of the network."""
    equation = jf.residual(lambda u, d, nu: d[0](u) * u - nu * d.laplacian(u), points.shape[1])
    net = torch.nn.Sequential(torch.nn.Linear(points.shape[1], 8), torch.nn.Tanh(),
                              torch.nn.Linear(8, 1))  # fmt: skip
    found = explain(equation, net, points, batch_dims=1, nu=0.1)
    assert found.prediction.vectors == explain(equation).vectors["minimal"]
    assert found.prediction.forward_products == 2 * len(points) * 8 * (points.shape[1] + 1)
    assert "through 3 operations" in found.title and not found.prediction.reasons


def test_equations_that_cannot_be_explained():
    equation = jf.residual(vortex, "t x y")
    with pytest.raises(TypeError, match=r"(?s)has no attribute 'exp'.*by keyword, as in explain"):
        explain(equation)
    with pytest.raises(
        TypeError, match=r"no parameter f: its parameters are nu, xp; .*residual, f"
    ):
        explain(equation, f=1)


def test_frozen():
    found = explain(t)
    assert isinstance(found, Explanation)
    with pytest.raises(AttributeError):
        found.entries = 3
