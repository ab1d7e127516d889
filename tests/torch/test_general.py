"""The general rule: operations without a rule of their own, and functions that call torch.func."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import jetfold as jf
from jetfold.torch import overload, table
from jetfold.torch.general import Substitutes

POINT = torch.tensor([0.3, -0.7, 0.45], dtype=torch.float64)

V = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)
general_ignored = pytest.mark.filterwarnings("ignore::jetfold.JetfoldWarning")


def symmetric(x: Any) -> Any:
    return x @ x.mT + 2 * torch.eye(x.shape[-1], dtype=x.dtype)


OPERATIONS: dict[str, tuple[Any, list[tuple[int, ...]], tuple[float, float]]] = {
    "i0": (torch.special.i0, [(2, 3)], (-2, 2)),
    "i0e": (torch.special.i0e, [(3,)], (0.2, 2)),
    "i1": (torch.special.i1, [(3,)], (0.2, 2)),
    "i1e": (torch.special.i1e, [()], (0.2, 2)),
    "ndtri": (torch.special.ndtri, [(2, 2)], (0.1, 0.9)),
    "erfcx": (torch.special.erfcx, [(3,)], (-1, 1)),
    "log_ndtr": (torch.special.log_ndtr, [(3,)], (-1, 1)),
    "entr": (torch.special.entr, [(3,)], (0.2, 2)),
    "xlog1py": (torch.special.xlog1py, [(3,), (2, 3)], (0.2, 2)),
    "logcumsumexp": (lambda x: torch.logcumsumexp(x, 1), [(2, 3)], (-2, 2)),
    "renorm": (lambda x: torch.renorm(x, 2, 0, 0.5), [(3, 2)], (1, 2)),
    "svdvals": (torch.linalg.svdvals, [(3, 2)], (-2, 2)),
    "cholesky": (lambda x: torch.linalg.cholesky(symmetric(x)), [(3, 3)], (-1, 1)),
    "eigvalsh": (lambda x: torch.linalg.eigvalsh(symmetric(x)), [(3, 3)], (-1, 1)),
    "qr": (lambda x: torch.linalg.qr(x).R, [(3, 2)], (0.2, 1)),
    "matrix_exp": (torch.matrix_exp, [(2, 2)], (-1, 1)),
    "pinv": (torch.linalg.pinv, [(3, 2)], (0.2, 2)),
    "solve_triangular": (
        lambda x, y: torch.linalg.solve_triangular(x, y, upper=False),
        [(3, 3), (3, 2)],
        (0.5, 2),
    ),
    "lu_factor": (lambda x: torch.linalg.lu_factor(x).LU, [(3, 3)], (-1, 1)),
    "max_pool2d": (lambda x: F.max_pool2d(x, 2), [(1, 2, 4, 4)], (-2, 2)),
    "max_pool1d with indices": (
        lambda x: F.max_pool1d(x, 2, return_indices=True),
        [(1, 2, 4)],
        (-2, 2),
    ),
    "quantile": (lambda x: torch.quantile(x, 0.3), [(5,)], (-2, 2)),
    "cov": (torch.cov, [(2, 3)], (-2, 2)),
    "trapezoid": (lambda x, y: torch.trapezoid(x, y), [(4,), (4,)], (-2, 2)),
    "smooth_l1_loss": (lambda x, y: F.smooth_l1_loss(x, y), [(4,), (4,)], (-2, 2)),
    "cross_entropy": (lambda x: F.cross_entropy(x, torch.tensor([1, 0])), [(2, 3)], (-2, 2)),
    "local_response_norm": (lambda x: F.local_response_norm(x, 2), [(1, 3, 2)], (-2, 2)),
}


@general_ignored
@pytest.mark.parametrize("name", OPERATIONS)
def test_operation(name: str, check: Any) -> None:
    function, shapes, domain = OPERATIONS[name]
    check(
        function, *shapes, domain=domain, tolerance=1e-8, order=4, nested=name in ("i0", "svdvals")
    )


@pytest.mark.filterwarnings("ignore::jetfold.JetfoldWarning")
def test_against_reverse_mode(check: Any) -> None:
    check(
        lambda x: torch.special.i0(x) * torch.special.ndtri(x),
        (2,),
        domain=(0.2, 0.8),
        reverse=True,
    )
    check(torch.linalg.svdvals, (2, 2), domain=(0.2, 0.8), reverse=True, tolerance=1e-8, order=3)


@pytest.mark.filterwarnings("ignore::jetfold.JetfoldWarning")
def test_methods_and_vmap(tools: Any) -> None:
    def f(x: Any) -> Any:
        return (
            torch.special.i0(x[0] * x[1])
            + torch.linalg.svdvals(torch.outer(x, x) + torch.diag(V))[0]
        )

    t, x, y = jf.partials(3)
    operator = t * x + y**2
    expected = (lambda h: h[0, 1] + h[2, 2])(hessian(f)(POINT))
    for method in ("minimal", "collapsed", "standard"):
        tools.close(operator(f, method=method)(POINT), expected)
    points = torch.stack([POINT, POINT * 0.5])
    together = vmap(jf.laplacian(f))(points)
    tools.close(together, torch.stack([hessian(f)(p).trace() for p in points]))
    weight = torch.tensor(0.7, dtype=torch.float64)
    slope = grad(lambda w: jf.laplacian(lambda x: f(w * x))(POINT))(weight)
    reference = grad(lambda w: hessian(lambda x: f(w * x))(POINT).trace())(weight)
    tools.close(slope, reference)


# ------------------------------------------------------------------ what it says


def test_one_warning_names_the_operation() -> None:
    with pytest.warns(jf.JetfoldWarning, match=r"special_i0 has no rule.*jetfold.strict\(\)"):
        jf.laplacian(lambda x: torch.special.i0(x).sum())(POINT)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        for _ in range(3):
            jf.laplacian(lambda x: torch.special.i1(x).sum())(POINT)
    assert len([w for w in seen if "special_i1" in str(w.message)]) == 1


def test_strict_makes_it_an_error() -> None:
    with jf.strict(), pytest.raises(NotImplementedError, match=r"special_i0 .*leave strict\(\)"):
        jf.laplacian(lambda x: torch.special.i0(x).sum())(POINT)
    with jf.strict(), pytest.raises(NotImplementedError, match=r"torch.func transforms"):
        jf.laplacian(lambda x: vmap(torch.sin)(x).sum())(POINT)


@general_ignored
def test_what_pytorch_takes_for_constant_is_refused() -> None:
    with pytest.raises(NotImplementedError, match=r"PyTorch has no derivative of full"):
        jf.laplacian(lambda x: torch.full((2,), x[0]).sum())(POINT)


@general_ignored
def test_wrong_derivatives_are_refused_inside_of_transforms_too() -> None:
    for function in (torch.special.bessel_j0, lambda x: torch.linalg.eigvals(x.outer(x)).abs()):
        with pytest.raises(
            NotImplementedError, match=r"PyTorch's nested derivatives of it.* wrong"
        ):
            jf.laplacian(lambda x, f=function: vmap(f)(x[None]).sum())(POINT)
    noise = jf.laplacian(lambda x: vmap(torch.sin)(x).sum() * torch.normal(0.0, 1.0, (1,)).exp())
    assert torch.isfinite(noise(POINT))


@general_ignored
@pytest.mark.parametrize(
    "function",
    [
        lambda a: torch.linalg.eigvals(a).abs().sum(),
        lambda a: torch.special.bessel_j0(a).sum(),
        lambda a: torch.special.airy_ai(a).sum(),
        lambda a: torch.special.hermite_polynomial_h(a, torch.tensor(2)).sum(),
        lambda a: torch.linalg.householder_product(a, a[0]).sum(),
        lambda a: a.scatter_reduce(0, torch.tensor([[0, 1, 2]]), a, "prod").sum(),
        lambda a: torch.native_layer_norm(a, (3,), None, None, 1e-5)[0].sum(),
    ],
)
def test_what_pytorch_nests_wrongly_is_refused(function: Any) -> None:
    with pytest.raises(
        NotImplementedError, match=r"PyTorch's nested derivatives of it.* are wrong"
    ):
        jf.laplacian(lambda x: function(torch.outer(x, x)))(POINT)


@general_ignored
def test_what_pytorch_cannot_differentiate_forward_says_so() -> None:
    with pytest.raises(NotImplementedError, match="forward AD"):
        jf.laplacian(lambda x: torch.special.zeta(x.abs() + 2, 3 * x.abs() + 1).sum())(POINT)


def test_unique_and_numpy_are_refused() -> None:
    with pytest.raises(TypeError, match="PyTorch has no derivative"):
        jf.laplacian(lambda x: x.unique().sum())(POINT)
    with pytest.raises(TypeError, match=r"numpy was called.*use torch operations"):
        jf.laplacian(lambda x: x.numpy().sum())(POINT)
    with pytest.raises(TypeError, match=r"loses derivatives: use torch.stack"):
        jf.laplacian(lambda x: torch.tensor([x[0], x[1]]).sum())(POINT)
    with pytest.raises(TypeError, match=r"torch.as_tensor"):
        jf.laplacian(lambda x: torch.as_tensor(x).sum())(POINT)
    with pytest.raises(TypeError, match=r"nest an operator"):
        jf.laplacian(lambda x: torch.autograd.grad(x.sum(), x)[0].sum())(POINT)
    with pytest.raises(TypeError, match=r"a jet cannot be an index"):
        jf.laplacian(lambda x: torch.ones(3)[x].sum())(POINT)
    with pytest.raises(TypeError, match=r"write x\[\[…\], \[…\]\]"):
        jf.laplacian(lambda x: torch.outer(x, x)[[[0, 1], [1, 2]]].sum())(POINT)


# ------------------------------------------------------------------ random operations


@pytest.mark.parametrize(
    "draw",
    [
        lambda x: F.dropout(x, 0.5),
        lambda x: F.dropout1d(x.reshape(1, 20, 1), 0.5),
        lambda x: F.dropout2d(x.reshape(1, 20, 1, 1), 0.5),
        lambda x: torch.feature_dropout(x.reshape(1, 20, 1), 0.5, True),
        lambda x: F.alpha_dropout(x, 0.5, True),
        lambda x: F.feature_alpha_dropout(x.reshape(1, 20, 1), 0.5, True),
        lambda x: F.rrelu(-x * x - 1, training=True),
        lambda x: torch.special.i0(x) * torch.nn.functional.dropout(x, 0.2, True),
        lambda x: F.gumbel_softmax(x, dim=-1),
    ],
)
@general_ignored
def test_one_draw_for_the_value_and_its_derivatives(draw: Any, tools: Any) -> None:
    x = torch.linspace(0.5, 1.5, 20, dtype=torch.float64)
    direction = torch.cos(x)

    def along(s: Any) -> Any:
        torch.manual_seed(0)
        return draw(x + s * direction).sum()

    (t,) = jf.partials(1)
    s = torch.zeros(1, dtype=torch.float64)
    result = jf.derivatives({"u": t * 0 + 1, "t": t, "tt": t**2})(along)(s)
    first = jvp(along, (s,), (torch.ones_like(s),))[1]
    second = jvp(lambda s: jvp(along, (s,), (torch.ones_like(s),))[1], (s,), (torch.ones_like(s),))[
        1
    ]
    tools.close(result["u"], along(s))
    tools.close(result["t"], first)
    tools.close(result["tt"], second)


@general_ignored
def test_the_general_rule_draws_once() -> None:
    def noisy(x: Any) -> Any:
        return vmap(torch.sin)(x).sum() * torch.rand(()) + torch.rand(())

    torch.manual_seed(0)
    u, lap = jf.derivatives({"u": 1, "lap": jf.partials(3)[0] ** 2})(noisy)(POINT).values()
    after = torch.rand(())
    torch.manual_seed(0)
    factor = torch.rand(())
    assert torch.allclose(u, torch.sin(POINT).sum() * factor + torch.rand(()))
    assert torch.allclose(lap, -torch.sin(POINT[0]) * factor)
    assert torch.equal(after, torch.rand(()))


# ------------------------------------------------------------------ torch.func inside the function


def cube(x: Any) -> Any:
    return (x**3).sum()


HYPER = torch.nn.Linear(3, 1).double()

TRANSFORMS = {
    "grad": lambda x: grad(cube)(x).prod(),
    "grad of a closure": lambda x: grad(lambda a: (a**3 * x).sum())(V).prod(),
    "vmap": lambda x: vmap(torch.sin)(x),
    "vmap of two": lambda x: vmap(lambda a, b: a * b, (0, None))(x, x),
    "vmap of a closure": lambda x: vmap(lambda a: a * x**2)(V),
    "vmap of chunks": lambda x: vmap(torch.sin, chunk_size=1)(x),
    "vmap of a dict": lambda x: vmap(lambda d: d["a"] ** 3)({"a": x}),
    "jvp": lambda x: jvp(cube, (x,), (V,)),
    "jvp along": lambda x: jvp(cube, (V,), (x**2,)),
    "vjp": lambda x: vjp(lambda a: a**3, x)[1](V),
    "jacrev": lambda x: jacrev(torch.sin)(x),
    "jacfwd": lambda x: jacfwd(torch.sin)(x),
    "jacfwd of a closure": lambda x: jacfwd(lambda a: a**2 * x**2)(V),
    "hessian": lambda x: hessian(lambda a: torch.exp(a.prod()))(x),
    "grad and value": lambda x: torch.func.grad_and_value(cube)(x),
    "vmap of grad": lambda x: vmap(grad(lambda a, b: a**3 * b**2), (0, None))(x, x[0]),
    "hypernetwork": lambda x: functional_call(HYPER, {"weight": x[None], "bias": x[:1]}, (x,)),
}


@general_ignored
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_inside_the_function(name: str, tools: Any) -> None:
    function = TRANSFORMS[name]
    reference = function
    if name == "hypernetwork":
        reference = lambda x: (x @ x + x[0])[None]
    tools.agree(
        lambda p: (function if isinstance(p, overload.Jet) else reference)(p),
        POINT,
        order=3,
        nested=name in ("grad", "vmap"),
    )


@general_ignored
def test_the_wrong_derivatives_of_pytorch_are_avoided_inside_of_transforms(tools: Any) -> None:
    a = torch.tensor([[2.0, 0.3, 0.1], [0.2, 1.5, 0.4], [0.1, 0.6, 1.1]], dtype=torch.float64)

    def normal(x: Any) -> Any:
        centred = x - x.mean()
        return centred / ((centred * centred).mean() + 1e-5).sqrt()

    def det(m: Any) -> Any:
        return torch.linalg.cross(m[0], m[1]) @ m[2]

    def inner(x: Any, layer: Any, det: Any, solve: Any) -> Any:
        m = a + torch.outer(x, x)
        return layer(x) @ V + det(m) + solve(m, x).sum()

    def f(x: Any) -> Any:
        return vmap(
            lambda x: inner(x, lambda x: F.layer_norm(x, (3,)), torch.det, torch.linalg.solve)
        )(x[None])[0]

    def reference(x: Any) -> Any:
        return inner(x, normal, det, lambda m, x: torch.linalg.inv(m) @ x)

    tools.agree(lambda p: (f if isinstance(p, overload.Jet) else reference)(p), POINT, order=3)


def test_the_substitutes_equal_the_originals() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(2, 3, 3, dtype=torch.float64), torch.randn(2, 3, 2, dtype=torch.float64)
    z = torch.randn(3, dtype=torch.float64)
    complex_ = torch.complex(a, a.mT @ a)
    calls = [
        lambda: F.layer_norm(a, (3,), z, z, 0.1),
        lambda: F.batch_norm(a, None, None, z, z, True),
        lambda: F.batch_norm(a, z, z.abs()),
        lambda: torch.batch_norm(a, z, z, None, None, True, 0.1, 1e-3, False),
        lambda: F.instance_norm(a, weight=z),
        lambda: torch.instance_norm(a, z, z, None, None, True, 0.1, 1e-3, False),
        lambda: torch.det(a),
        lambda: a.det(),
        lambda: torch.linalg.det(complex_),
        lambda: torch.linalg.slogdet(a),
        lambda: torch.linalg.slogdet(complex_),
        lambda: a.slogdet()[1],
        lambda: torch.logdet(a @ a.mT),
        lambda: torch.linalg.solve(a, b),
        lambda: torch.linalg.solve(a, b.mT, left=False),
        lambda: torch.linalg.solve(a, b[..., 0]),
        lambda: torch._weight_norm(a, a[:, :1, :1], 0),
    ]
    for call in calls:
        expected = call()
        with Substitutes():
            found = call()
        for left, right in zip(
            found if isinstance(found, tuple) else [found],
            expected if isinstance(expected, tuple) else [expected],
            strict=True,
        ):
            assert torch.allclose(left, right)


# ------------------------------------------------------------------ outer and inner jets


@general_ignored
def test_an_outer_jet_as_another_argument(tools: Any) -> None:
    def f(x: Any) -> Any:
        inner = jf.laplacian(lambda y: torch.special.xlog1py(y, x + 2).sum() * y.prod())
        return inner(x.abs())

    def reference(x: Any) -> Any:
        def inner(y: Any) -> Any:
            return torch.special.xlog1py(y, x + 2).sum() * y.prod()

        return hessian(inner)(x.abs()).trace()

    tools.close(jf.laplacian(f)(POINT), hessian(reference)(POINT).trace())


def test_every_name_in_the_lists_is_a_rule() -> None:
    assert set(table.NESTED_WRONGLY) <= set(table.RULES)
    assert table.READ_ONLY <= table.VIEWS <= set(table.RULES)
    assert not table.UNDIFFERENTIABLE & set(table.RULES)
