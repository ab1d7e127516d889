"""The general rule: operations without a rule of their own, and functions that call torch.func."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, hessian, jvp, vmap

import jetfold as jf
from jetfold.torch import overload, table
from jetfold.torch.general import Substitutes

POINT = torch.tensor([0.3, -0.7, 0.45], dtype=torch.float64)

V = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)
general_ignored = pytest.mark.filterwarnings("ignore::jetfold.JetfoldWarning")


def symmetric(x: Any) -> Any:
    return x @ x.mT + 2 * torch.eye(x.shape[-1], dtype=x.dtype)


def safe_softmax(x: Any) -> Any:
    return torch.ops.aten._safe_softmax(x, -1)


OPERATIONS: dict[str, tuple[Any, list[tuple[int, ...]], tuple[float, float]]] = {
    "safe_softmax": (safe_softmax, [(2, 3)], (-2, 2)),
    "nextafter": (lambda x: torch.nextafter(x, torch.ones(3, dtype=x.dtype)), [(3,)], (-2, 2)),
}


if torch.__version__.startswith("2.11."):  # has no derivative of it
    del OPERATIONS["nextafter"]


@general_ignored
@pytest.mark.parametrize("name", OPERATIONS)
def test_operation(name: str, check: Any) -> None:
    function, shapes, domain = OPERATIONS[name]
    check(function, *shapes, domain=domain, tolerance=1e-8, order=4, nested=name == "safe_softmax")


@pytest.mark.filterwarnings("ignore::jetfold.JetfoldWarning")
def test_against_reverse_mode(check: Any) -> None:
    check(
        lambda x: safe_softmax(x) * x.exp(),
        (2,),
        domain=(0.2, 0.8),
        reverse=True,
    )


@general_ignored
def test_what_has_a_reverse_derivative_alone(check: Any) -> None:
    shapes = [(3, 2, 2), (2, 2, 2)]
    check(lambda x, w: F.conv_tbc(x, w, w[0, 0]), *shapes, reverse=True, order=3, nested=False)


@general_ignored
def test_expanded_tensors(check: Any) -> None:
    """Whose entries share memory: derivatives that write in place took them for separate."""
    like = torch.ones(3, dtype=torch.float64)
    if "nextafter" in OPERATIONS:
        check(lambda x: torch.nextafter(x.sum().expand(3) ** 2, like), (2,), order=2)
    check(lambda x: torch.special.i0(x.sum().expand(3)), (2,), order=2)
    check(lambda x: F.huber_loss(x.sum().expand(3), like * 5), (2,), order=2, reverse=True)


CUBE = torch.library.custom_op(
    "jetfold_tests::cube", lambda x: x.detach() ** 3, mutates_args=(), schema="(Tensor x) -> Tensor"
)
CUBE.register_autograd(
    lambda ctx, g: 3 * g * ctx.saved_tensors[0] ** 2,
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs),
)


@general_ignored
def test_operations_of_torch_library() -> None:
    """Their register_autograd counts, at every order and for parameters."""
    w = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    found = jf.laplacian(lambda x: CUBE(w * x).sum() ** 2)(POINT)
    expected = hessian(lambda x: ((w * x) ** 3).sum() ** 2)(POINT).trace()
    torch.testing.assert_close(found, expected)
    slopes = [torch.autograd.grad(y, w)[0] for y in (found, expected)]
    torch.testing.assert_close(*slopes)
    with pytest.raises(NotImplementedError, match=r"pass.*batch_dims|batch_dims="):
        vmap(jf.laplacian(lambda x: CUBE(x).sum()))(POINT[None])


def test_operations_of_aten_have_the_rules_of_their_functions() -> None:
    aten = torch.ops.aten
    with jf.strict():
        found = jf.laplacian(
            lambda x: aten.sum.dim_IntList(
                aten.mul.Tensor(aten.exp(x), aten.special_i0.default(x)), [0]
            )
        )(POINT)
    expected = hessian(lambda x: (torch.exp(x) * torch.special.i0(x)).sum())(POINT).trace()
    torch.testing.assert_close(found, expected)


RECURRENT = {
    "lstm": torch.nn.LSTM(3, 2, num_layers=2, bidirectional=True, batch_first=True),
    "lstm projected": torch.nn.LSTM(3, 4, proj_size=2),
    "gru": torch.nn.GRU(3, 2, bias=False, bidirectional=True),
    "rnn": torch.nn.RNN(3, 2, nonlinearity="relu"),
    "lstm cell": torch.nn.LSTMCell(3, 2),
    "gru cell": torch.nn.GRUCell(3, 2),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_layers(name: str, tools: Any) -> None:
    """By rules of their own, so in float32 too, of which PyTorch's kernels have no derivative."""
    layer = RECURRENT[name].double()

    def f(x: Any) -> Any:
        steps = x if "cell" in name else torch.stack([x, x.sin(), x * x]).unsqueeze(1)
        return torch.utils._pytree.tree_leaves(layer(steps))

    with jf.strict():
        tools.agree(f, POINT, order=3)
        narrow = jf.laplacian(RECURRENT[name].float() and (lambda x: f(x)[0].sum()))(POINT.float())
    layer.double()
    wide = jf.laplacian(lambda x: f(x)[0].sum())(POINT)
    torch.testing.assert_close(narrow.double(), wide, rtol=1e-4, atol=1e-4)


@torch.jit.script
def scripted(x: torch.Tensor, n: int):  # type: ignore[no-untyped-def]
    y = x
    for _ in range(n):
        y = torch.tanh(y) * x
    return y, y.sum()


@general_ignored
def test_scripted_functions(tools: Any) -> None:
    def f(x: Any) -> Any:
        y, total = scripted(x * x, 3)
        return y * total

    tools.agree(f, POINT, order=3)


def test_sparse_matrices() -> None:
    dense = torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, -3.0]], dtype=torch.float64)
    for sparse in (dense.to_sparse(), dense.to_sparse_csr()):

        def f(x: Any, s: Any) -> Any:
            columns = torch.outer(x, x.exp())
            products = [
                s @ x,
                torch.mm(s, columns),
                s @ columns,
            ]
            return sum((y * y).sum() for y in products) + (columns[:, :2] @ s).prod()

        with jf.strict():
            found = jf.laplacian(f)(POINT, sparse)
            columns = jf.laplacian(lambda x, s: torch.sparse.mm(s, torch.outer(x, x)))(
                POINT, sparse
            )
        torch.testing.assert_close(columns, 2 * dense)
        torch.testing.assert_close(found, hessian(f)(POINT, dense).trace())


@pytest.mark.filterwarnings("ignore::jetfold.JetfoldWarning")
def test_methods_and_vmap(tools: Any) -> None:
    def f(x: Any) -> Any:
        return (
            safe_softmax(x * x.flip(0))[0] + safe_softmax(torch.outer(x, x) + torch.diag(V)).prod()
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
    with pytest.warns(jf.JetfoldWarning, match=r"_safe_softmax has no rule.*jetfold.strict\(\)"):
        jf.laplacian(lambda x: safe_softmax(x)[0])(POINT)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        for _ in range(3):
            jf.laplacian(lambda x: safe_softmax(x)[1])(POINT)
    assert len([w for w in seen if "_safe_softmax" in str(w.message)]) == 1


def test_strict_makes_it_an_error() -> None:
    with jf.strict(), pytest.raises(NotImplementedError, match=r"_safe_softmax.*leave strict\(\)"):
        jf.laplacian(lambda x: safe_softmax(x)[0])(POINT)


@general_ignored
def test_what_pytorch_takes_for_constant_is_refused() -> None:
    with pytest.raises(NotImplementedError, match=r"PyTorch has no derivative of new"):
        jf.laplacian(lambda x: x.new(3).sum())(POINT)


@general_ignored
def test_wrong_derivatives_are_refused_inside_of_transforms_too() -> None:
    for function in (torch.special.bessel_j0, torch.special.airy_ai):
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
        lambda a: torch.special.bessel_j0(a).sum(),
        lambda a: torch.special.airy_ai(a).sum(),
    ],
)
def test_what_pytorch_nests_wrongly_is_refused(function: Any) -> None:
    with pytest.raises(
        NotImplementedError, match=r"PyTorch's nested derivatives of it.* are wrong"
    ):
        jf.laplacian(lambda x: function(torch.outer(x, x)))(POINT)


@general_ignored
def test_what_pytorch_cannot_differentiate_says_so() -> None:
    with pytest.raises(NotImplementedError, match=r"no derivative by s, .*s.detach\(\)"):
        jf.laplacian(lambda x: torch.special.zeta(x.abs() + 2, 3 * x.abs() + 1).sum())(POINT)
    with pytest.raises(NotImplementedError, match=r"does not differentiate.*write it with other"):
        jf.laplacian(lambda x: torch.geqrf(torch.outer(x, x))[0].sum())(POINT)


def test_unique_and_numpy_are_refused() -> None:
    with pytest.raises(TypeError, match="PyTorch has no derivative"):
        jf.laplacian(lambda x: x.unique().sum())(POINT)
    with pytest.raises(TypeError, match=r"numpy was called.*use torch operations"):
        jf.laplacian(lambda x: x.numpy().sum())(POINT)
    with pytest.raises(TypeError, match=r"loses derivatives: use torch.stack"):
        jf.laplacian(lambda x: torch.tensor([x[0], x[1]]).sum())(POINT)
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
        lambda x: safe_softmax(x) * torch.nn.functional.dropout(x, 0.2, True),
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
def test_random_numbers_are_drawn_once() -> None:
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
