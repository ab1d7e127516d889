"""Inside of a function the point is a torch.Tensor: to libraries, to code that asks, to writes.

Values and gradients to parameters are held against nested autograd in float64.
"""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F
from torch import cond, nn
from torch.autograd.functional import jacobian

import jetfold as jf
from jetfold.core.jet import Jet

F64 = torch.float64
t, x, y = jf.partials(3, names="t x y")
OPERATOR = t * x * y - 2 * x**2 + y**3 + t

pytestmark = [
    pytest.mark.filterwarnings("ignore::jetfold.JetfoldWarning"),
    pytest.mark.filterwarnings("ignore:To copy construct from a tensor"),
]


def reference(f: Callable[[Any], Any], p: Any) -> Any:
    """The operator by nested reverse mode."""
    first = lambda p: jacobian(f, p, create_graph=True)
    second = lambda p: jacobian(first, p, create_graph=True)
    third = jacobian(second, p, create_graph=True)
    return third[..., 0, 1, 2] - 2 * second(p)[..., 1, 1] + third[..., 2, 2, 2] + first(p)[..., 0]


WAYS: dict[str, Callable[[Any, Any], Any]] = {
    "eager": lambda g, p: g(p),
    "mapped": lambda g, p: torch.vmap(g)(torch.stack([p, p]))[1],
}


def agree(f: Callable[[Any], Any], parameters: Any = (), ways: Any = WAYS) -> None:
    """The operator of f and its gradient, at a random point, however it is called."""
    parameters = list(parameters)
    p = torch.randn(3, dtype=F64)
    expected = reference(f, p)
    for name, way in ways.items():
        result = way(OPERATOR(f), p)
        assert type(result) is torch.Tensor, (name, type(result))
        torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)
        ours, theirs = (
            torch.autograd.grad(out, parameters, allow_unused=True, retain_graph=True)
            if parameters and out.requires_grad
            else [None] * len(parameters)
            for out in (result, expected)
        )
        for mine, other in zip(ours, theirs, strict=True):
            assert (mine is None) == (other is None), name
            if other is not None:
                torch.testing.assert_close(mine, other, rtol=1e-8, atol=1e-8)


@pytest.fixture(autouse=True)
def _fresh() -> Any:
    torch.manual_seed(torch.seed() % 2**31)
    before = torch.get_default_dtype()
    torch.set_default_dtype(F64)
    yield
    torch.set_default_dtype(before)


# ------------------------------------------------------------------ what code asks of a tensor


def test_it_is_a_tensor() -> None:
    def f(p: Any) -> Any:
        assert (
            isinstance(p, torch.Tensor) and torch.is_tensor(p) and not isinstance(p, nn.Parameter)
        )
        assert torch.overrides.is_tensor_like(p) and type(p).__module__ == "torch"
        assert p.grad is None and p._base is None and not p.is_leaf and p.shape == (3,)
        assert (p.dtype, p.device.type, p.layout, p.ndim) == (F64, "cpu", torch.strided, 1)
        p.tag = "mine"
        assert p.tag == "mine" and {p: 1}[p] == 1
        module = nn.Module()
        module.register_buffer("held", p * p)
        held = copy.copy(module.held)
        held += copy.deepcopy(p)
        return torch.as_tensor(held).sin().prod() + torch.Tensor(p)[0] * p[0]

    agree(lambda p: f(p) if isinstance(p, Jet) else torch.sin(p * p + p).prod() + p[0] ** 2)


def test_numpy_functions_are_those_of_torch() -> None:
    agree(
        lambda p: (
            np.sin(p).sum() * np.float64(2.0) * p.prod() + (np.ones(3) + p).prod()
            if isinstance(p, Jet)
            else torch.sin(p).sum() * 2.0 * p.prod() + (1 + p).prod()
        )
    )


def below_python(p: Any) -> Any:
    with torch._C.DisableTorchFunctionSubclass():
        return torch.sin(p).sum()


def new_data(p: Any) -> Any:
    p.data = p.detach() * 2
    return p.sum()


ERRORS = {
    "numpy": (lambda p: p.numpy().sum(), "numpy was called.*use torch operations"),
    "np.asarray": (lambda p: np.asarray(p).sum(), "__array__ was called.*use torch operations"),
    "np.cbrt": (lambda p: np.cbrt(p).sum(), "numpy.cbrt was called.*use torch operations"),
    "float": (lambda p: float(p[0]) * p[0], r"cannot keep the derivatives.*x\.detach\(\)\.item"),
    "torch.tensor": (
        lambda p: torch.tensor(p).sum(),
        r"write x\.clone\(\) in the place of torch\.t",
    ),
    "of a list": (lambda p: torch.tensor([p[0], p[1]]).sum(), r"use torch\.stack\(\[x, y\]\)"),
    "full": (lambda p: torch.full((2,), p[0]).sum(), r"x\.expand\(n\) in the place of torch\.full"),
    "as_tensor": (lambda p: torch.as_tensor(p, dtype=torch.float32).sum(), r"write x\.to\(dtype\)"),
    "Parameter": (lambda p: nn.Parameter(p).sum(), r"write x itself.*functional_call"),
    "hook": (lambda p: p.register_hook(abs), "register it on the result of the operator"),
    "another cond": (
        lambda p: cond(p.sum() > 0, torch.sin, torch.cos, (p,)).sum(),
        r"not written torch\.cond.*write Python's for and if",
    ),
    "pickle": (pickle.dumps, r"pickled or saved.*x\.detach\(\)"),
    "data": (new_data, r"would lose derivatives; write x = y, or x\.copy_\(y\)"),
    "below Python": (below_python, "not Python's.*write it with functions of torch"),
    "ATen's copy_": (
        lambda p: torch.ops.aten.sin_(p * 1).sum(),
        r"writes into its.*use torch\.sin",
    ),
    "outside": (
        lambda p: OUTSIDE.copy_(p).sum(),
        "copy_ would write a jet into a plain tensor.*inside",
    ),
}
OUTSIDE = torch.zeros(3, dtype=F64)


@pytest.mark.parametrize("name", ERRORS)
def test_errors_say_what_to_write(name: str) -> None:
    function, text = ERRORS[name]
    with pytest.raises((TypeError, AttributeError, RuntimeError), match=f"(?s){text}"):
        jf.laplacian(function)(torch.randn(3))
    assert not OUTSIDE.any()


# ------------------------------------------------------------------ subclasses of torch.Tensor


class Labelled(torch.Tensor):
    """A tensor whose last axis has names."""

    @staticmethod
    def __new__(cls, data: Any, labels: Any) -> Any:
        return super().__new__(cls, data)

    def __init__(self, data: Any, labels: Any) -> None:
        super().__init__()
        self.labels = list(labels)

    def extract(self, *labels: str) -> Any:
        return self[..., [self.labels.index(label) for label in labels]].as_subclass(torch.Tensor)


def test_a_tensor_of_a_class_of_ones_own() -> None:
    net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
    other = Labelled(torch.randn(3), "abc")

    def f(p: Any) -> Any:
        p = Labelled(p * p, "txy") if not isinstance(p, Labelled) else Labelled(p * 1, "txy")
        alias = p.as_subclass(torch.Tensor)
        alias[0] *= 2
        p[1] += alias[0]
        return net(p.extract("t", "y")).sum() ** 2 + p.extract(
            "x"
        ).sum() * alias.sum() * other.extract("a")

    agree(lambda p: f(p).sum(), net.parameters())
    p = torch.randn(3)
    result = OPERATOR(lambda p: f(p).sum())(Labelled(p, "txy"))
    expected = reference(lambda p: f(Labelled(p, "txy")).sum(), p)
    torch.testing.assert_close(result, expected.as_subclass(torch.Tensor))


# ------------------------------------------------------------------ writing into fresh tensors

W = torch.randn(3, 3, dtype=F64, requires_grad=True)
WRITES: list[Callable[[Any], Any]] = []


def writes(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    WRITES.append(function)
    return function


@writes
def items(p: Any) -> Any:
    out = torch.zeros(3)
    for k in range(3):
        out[k] = torch.sin(p[k]) * p[0]
    rows = torch.empty(2, 3)
    rows[0], rows[1, :2], rows[1, 2] = p * p, p[1:] ** 3, out.sum()
    return (out**2).sum() * rows.prod()


@writes
def views(p: Any) -> Any:
    out = torch.ones(3)
    row = out[:2]
    row += p[1:] ** 2
    out *= 2
    flat = out.view(3, 1)
    flat[2] *= p[0]
    return (out**2).sum() * p[0] + row.prod()


@writes
def scatter(p: Any) -> Any:
    h = torch.tanh(W @ p)
    out = torch.zeros(2).index_add_(0, torch.tensor([0, 1, 0]), h)
    degree = torch.zeros(2).scatter_add_(0, torch.tensor([0, 1, 0]), torch.ones(3))
    return ((out / degree.clamp_(min=1)) ** 3).sum() + W.new_zeros(4).scatter_(
        0, torch.arange(3), h
    )[1]


@writes
def weights(p: Any) -> Any:
    w = W.clone()
    w[0] = p
    w[:, 1] *= p
    return (w @ p).prod()


@writes
def computed(p: Any) -> Any:
    h = 2 * W + 1
    h[1] = p * p
    return torch.sin(h @ p).sum()


@writes
def fourier(p: Any) -> Any:
    spectrum = torch.fft.rfft(torch.sin(W @ p))
    out = torch.zeros(spectrum.shape, dtype=torch.cdouble)
    out[..., :1] = spectrum[..., :1] * torch.complex(W[0, 0], W[0, 1])
    return (torch.fft.irfft(out, n=3) ** 3).sum() * p.prod()


@writes
def numbers(p: Any) -> Any:
    c = torch.tensor([1.0, 2.0, 3.0])
    out = torch.zeros(3)
    out[1:] = p[1:] ** 3
    out[0] = (c.sum().item() + float(c[0]) + len(c.tolist()) + c.numpy()[0]) * p[0] ** 2
    return (out * c).sum() ** 2


@pytest.mark.parametrize("function", WRITES, ids=lambda f: f.__name__)
def test_writing_into_what_the_function_makes(function: Any) -> None:
    agree(function, [W])


def test_out_takes_jets() -> None:
    def f(p: Any) -> Any:
        out = torch.empty(3)
        torch.sin(p, out=out)
        row = out[:1]
        torch.mul(row, p[1:2], out=row)
        return out.prod()

    agree(lambda p: f(p) if isinstance(p, Jet) else torch.sin(p).prod() * p[1])


def test_writes_of_nested_operators() -> None:
    def outer(p: Any, inner: Any) -> Any:
        out = torch.zeros(3)
        out[0] = p[0] ** 2 * p[1]

        def f(q: Any) -> Any:
            h = torch.zeros(3)
            h[1], h[2] = q[1] ** 3 * p[0], out[0] * q[0] ** 2
            return h.sum()

        return inner(f)(p) * out[0] + out.sum()

    expected = lambda p: outer(
        p,
        lambda f: (
            lambda q: jacobian(
                lambda q: jacobian(f, q, create_graph=True), q, create_graph=True
            ).trace()
        ),
    )
    p = torch.randn(3)
    torch.testing.assert_close(
        OPERATOR(lambda p: outer(p, jf.laplacian))(p), reference(expected, p)
    )


def test_it_runs_again_as_if_for_the_first_time() -> None:
    """The argument as it was, the same random numbers; what is kept of it are tensors."""
    kept: dict[str, Any] = {}

    def f(p: Any) -> Any:
        p *= torch.rand(())
        if "grid" not in kept:
            kept["grid"] = torch.linspace(0, 1, 3) ** 2
        out = torch.zeros(3)
        out[:2] = p[1:]
        return (out * kept["grid"] * W[0]).sum() ** 3

    p = torch.tensor([0.3, -0.4, 0.8])
    torch.manual_seed(5)
    result = jf.laplacian(f)(p)
    after = torch.rand(())
    torch.manual_seed(5)
    factor = torch.rand(())
    assert torch.equal(after, torch.rand(()))
    w = factor * torch.stack([0 * W[0, 0], 0 * W[0, 0], W[0, 1] / 4])
    torch.testing.assert_close(result, 6 * (w @ p) * (w @ w))
    gc.collect()
    assert type(kept["grid"]) is torch.Tensor
    torch.testing.assert_close(kept["grid"], torch.tensor([0, 0.25, 1]))
    torch.manual_seed(5)
    torch.testing.assert_close(jf.laplacian(f)(p), result)


def test_the_next_call_knows_that_the_function_writes() -> None:
    calls = []

    def f(p: Any) -> Any:
        calls.append(p)
        out = torch.zeros(3)
        out[:] = p**3
        return out.sum()

    for expected in (2, 3, 4):
        p = torch.randn(3)
        result = jf.laplacian(lambda p: f(p))(p)  # a function of its own in every call
        torch.testing.assert_close(result, 6 * p.sum())
        assert len(calls) == expected


# ------------------------------------------------------------------ what people write with


def mlp(*sizes: int) -> Any:
    layers = [layer for n, m in pairwise(sizes) for layer in (nn.Linear(n, m), nn.Tanh())]
    return nn.Sequential(*layers[:-1])


FROM = torch.tensor([0, 1, 2, 3, 0, 2])
TO = torch.tensor([1, 0, 3, 2, 2, 0])
PLACED = torch.randn(3, 8, dtype=F64)


def nodes(p: Any) -> Any:
    """Two features of four nodes."""
    return torch.sin(p @ PLACED).reshape(4, 2)


def einops_functions() -> Any:
    einops = pytest.importorskip("einops")
    from einops.layers.torch import Rearrange, Reduce

    layers = nn.Sequential(
        nn.Linear(2, 4), Rearrange("n (h d) -> h n d", h=2), Reduce("h n d -> h n", "mean")
    )

    def f(p: Any) -> Any:
        h = einops.repeat(nodes(p), "n d -> r n d", r=2)
        packed, shapes = einops.pack([h, h**2], "r * d")
        first, second = einops.unpack(packed, shapes, "r * d")
        q = einops.rearrange(first * second, "r n d -> (r n) d")
        return (
            einops.reduce(layers(q), "h n -> n", "prod").sum()
            + einops.einsum(q, q, q, "a d, b d, b d -> a").sum()
        )

    return f, layers.parameters()


def rotary_embedding() -> Any:
    layer = nn.Linear(2, 4)

    def f(p: Any) -> Any:
        q = layer(nodes(p))
        angles = torch.outer(torch.arange(4.0), 1 / 100 ** torch.linspace(0, 1, 2))
        half = torch.cat((angles, angles), -1)
        q = q * half.cos() + torch.cat((-q[..., 2:], q[..., :2]), -1) * half.sin()
        turned = torch.view_as_complex(q.reshape(4, 2, 2)) * torch.polar(
            torch.ones_like(angles), angles
        )
        return (torch.view_as_real(turned).flatten(1) @ q.T).softmax(-1)[0, 1]

    return f, layer.parameters()


def graph_convolution() -> Any:
    layer = nn.Linear(2, 3)

    def f(p: Any) -> Any:
        h = layer(nodes(p))
        degree = torch.zeros(4).scatter_add_(0, TO, torch.ones(6)) + 1
        norm = degree.pow(-0.5)
        norm.masked_fill_(norm == float("inf"), 0)
        out = torch.zeros(4, 3).index_add_(0, TO, h[FROM] * (norm[FROM] * norm[TO])[:, None])
        return ((out + h / degree[:, None]) ** 3).sum()

    return f, layer.parameters()


def graph_attention() -> Any:
    layer, score = nn.Linear(2, 3), nn.Linear(6, 1)

    def f(p: Any) -> Any:
        h = layer(nodes(p))
        e = F.leaky_relu(score(torch.cat([h[FROM], h[TO]], -1)), 0.2).squeeze(-1)
        e = (e - e.detach().max()).exp()
        total = e.new_zeros(4).scatter_add_(0, TO, e)
        return (h.new_zeros(4, 3).index_add_(0, TO, h[FROM] * (e / total[TO])[:, None]) ** 2).sum()

    return f, [*layer.parameters(), *score.parameters()]


def edge_convolution() -> Any:
    net, eps = mlp(4, 5, 3), nn.Parameter(torch.tensor(0.3))

    class Messages(nn.Module):
        def propagate(self, h: Any) -> Any:
            out = torch.zeros(h.size(0), 3, dtype=h.dtype, device=h.device)
            for source, target in zip(FROM.tolist(), TO.tolist(), strict=True):
                out[target] += net(torch.cat([h[target], h[source] - h[target]]))
            return out

    return lambda p: (Messages().propagate((1 + eps) * nodes(p)) ** 3).sum(), [
        *net.parameters(),
        eps,
    ]


def runge_kutta() -> Any:
    odeint = pytest.importorskip("torchdiffeq").odeint
    net = mlp(3, 4, 3)
    times = torch.linspace(0, 1, 3)
    return lambda p: (
        odeint(lambda t, y: net(y), p, times, method="rk4")[-1] ** 3
    ).sum(), net.parameters()


def distributions() -> Any:
    D = torch.distributions
    scale, logits = nn.Parameter(torch.rand(3) + 0.5), nn.Parameter(torch.randn(3))

    def f(p: Any) -> Any:
        normal = D.Normal(p.sin(), scale)
        mixture = D.MixtureSameFamily(D.Categorical(logits=logits), normal)
        base = D.Independent(D.Normal(torch.zeros(3), scale), 1)
        flow = D.TransformedDistribution(
            base, [D.AffineTransform(logits, 2.0), D.SigmoidTransform()]
        )
        gamma = D.Gamma(p.exp(), torch.ones(3)).log_prob(p**2 + 1).sum()
        return (
            normal.log_prob(p * 2).prod()
            + mixture.log_prob(p.sum())
            + flow.log_prob(p.sigmoid())
            + gamma
        )

    return f, [scale, logits]


def checked_types() -> Any:
    beartype = pytest.importorskip("beartype").beartype

    @beartype
    def g(p: torch.Tensor, scale: float = 2.0) -> torch.Tensor:
        return torch.sin(p) * scale

    return lambda p: g(p).prod() + p.prod(), []


def fourier_operator() -> Any:
    """The spectral convolution of neural operators, with the path of opt_einsum."""
    contract = pytest.importorskip("opt_einsum").contract
    lift, weight = nn.Linear(2, 3), nn.Parameter(torch.randn(3, 3, 2, dtype=torch.cdouble))

    def f(p: Any) -> Any:
        h = lift(torch.cat([nodes(p)[:, :1], torch.linspace(0, 1, 4)[:, None]], -1)).T[None]
        spectrum = torch.fft.rfft(h)
        out = torch.zeros(1, 3, spectrum.size(-1), dtype=torch.cdouble)
        out[:, :, :2] = contract("bix,iox->box", spectrum[:, :, :2], weight)
        return (torch.tanh(torch.fft.irfft(out, n=4) + h) ** 3).sum()

    return f, [*lift.parameters(), weight]


LIBRARIES = [
    einops_functions, rotary_embedding, graph_convolution, graph_attention, edge_convolution,
    runge_kutta, distributions, checked_types, fourier_operator,
]  # fmt: skip


@pytest.mark.parametrize("made", LIBRARIES, ids=lambda f: f.__name__)
def test_libraries_and_the_code_of_papers(made: Any) -> None:
    agree(*made())


def test_compiled() -> None:
    einops = pytest.importorskip("einops")
    if torch.__version__.startswith("2.11."):
        pytest.skip("PyTorch 2.11 compiles einops as it stands, without jets: docs/versions.md")
    layer = nn.Linear(2, 3)

    def f(p: Any) -> Any:
        assert isinstance(p, torch.Tensor) and torch.is_tensor(p) and not isinstance(p, (int, list))
        h = einops.rearrange(layer(nodes(p)), "(a b) d -> b a d", a=2)
        out = torch.zeros(4, 3)
        out.index_add_(0, TO, einops.rearrange(h, "b a d -> (a b) d")[FROM])
        spectrum = torch.fft.rfft(p)
        filtered = torch.zeros(spectrum.shape, dtype=torch.cdouble)
        filtered[..., 1] = spectrum[..., 0] * W[0, 0]
        w = W.clone()
        w[0] *= torch.fft.irfft(filtered, n=3)
        return (out**2).sum() * (w @ p).sum()

    p = torch.randn(3)
    compiled = torch.compile(jf.laplacian(f), backend="aot_eager", fullgraph=True)
    gradient = lambda p: jacobian(f, p, create_graph=True)
    results = compiled(p), jacobian(gradient, p, create_graph=True).trace()
    torch.testing.assert_close(*results)
    torch.testing.assert_close(*(torch.autograd.grad(r, [W, layer.weight]) for r in results))


def test_a_compiled_function_inside() -> None:
    """Compiled at once, without the warnings of code that Dynamo cannot trace."""
    net = mlp(3, 4, 1)
    inner = torch.compile(net, backend="eager", fullgraph=True)
    p = torch.randn(3)
    result = jf.laplacian(lambda p: (inner(p) * p).sum())(p)
    torch.testing.assert_close(result, jf.laplacian(lambda p: (net(p) * p).sum())(p))
