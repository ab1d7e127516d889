"""Layers and networks of torch.nn: the operators of whole networks against nested torch.func."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

import jetfold as jf
from jetfold.torch.overload import Jet


class Sine(nn.Module):
    def __init__(self, n: int, m: int, omega: float) -> None:
        super().__init__()
        self.linear, self.omega = nn.Linear(n, m), omega

    def forward(self, x: Any) -> Any:
        return torch.sin(self.omega * self.linear(x))


class Fourier(nn.Module):
    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(n, m))

    def forward(self, x: Any) -> Any:
        z = 2 * math.pi * x @ self.frequencies
        return torch.cat([torch.sin(z), torch.cos(z)], -1)


class Residual(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(n, n), nn.Tanh(), nn.Linear(n, n))

    def forward(self, x: Any) -> Any:
        return x + self.body(x)


class Gated(nn.Module):
    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.up, self.gate, self.down = nn.Linear(n, m), nn.Linear(n, m), nn.Linear(m, n)

    def forward(self, x: Any) -> Any:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Checkpointed(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Any) -> Any:
        return checkpoint(self.inner, x, use_reentrant=False)


class Attention(nn.Module):
    def __init__(self, n: int, heads: int, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(n, heads, batch_first=True, **options)

    def forward(self, x: Any) -> Any:
        out, weights = self.attention(x, x, x)
        return out, weights


class Pair(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Any) -> Any:
        return self.inner(x, torch.tanh(x) * 2)


def weight_normed() -> nn.Module:
    return nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))


def spectral_normed() -> nn.Module:
    return nn.utils.parametrizations.spectral_norm(nn.Linear(4, 3)).eval()


def old_weight_norm() -> nn.Module:
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(nn.Linear(4, 3))


def mlp(*activations: nn.Module) -> nn.Module:
    layers: list[nn.Module] = []
    for activation in activations:
        layers += [nn.Linear(4, 4), activation]
    return nn.Sequential(*layers, nn.Linear(4, 2))


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(4, 3), (2, 4)),
    "tanh": (lambda: mlp(nn.Tanh(), nn.Tanh()), (4,)),
    "activations": (lambda: mlp(nn.GELU(), nn.SiLU(), nn.Softplus(), nn.Mish(), nn.ELU()), (2, 4)),
    "more": (
        lambda: mlp(nn.Sigmoid(), nn.CELU(), nn.SELU(), nn.Softsign(), nn.LogSigmoid()),
        (2, 4),
    ),
    "kinked": (
        lambda: mlp(nn.ReLU(), nn.LeakyReLU(), nn.PReLU(), nn.Hardswish(), nn.ReLU6()),
        (2, 4),
    ),
    "rest": (
        lambda: mlp(nn.Hardtanh(), nn.Softshrink(0.1), nn.Tanhshrink(), nn.Softmax(-1)),
        (2, 4),
    ),
    "inplace": (
        lambda: mlp(nn.SiLU(inplace=True), nn.ELU(inplace=True), nn.ReLU(inplace=True)),
        (4,),
    ),
    "glu": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 4), Gated(4, 3)),
        (4,),
    ),
    "gated": (lambda: Gated(4, 5), (2, 4)),
    "residual": (lambda: nn.Sequential(Residual(4), Residual(4)), (2, 4)),
    "fourier": (lambda: nn.Sequential(Fourier(4, 3), nn.Linear(6, 2)), (2, 4)),
    "siren": (lambda: nn.Sequential(Sine(4, 5, 3.0), Sine(5, 5, 2.0), nn.Linear(5, 1)), (2, 4)),
    "bilinear": (lambda: Pair(nn.Bilinear(4, 4, 3)), (2, 4)),
    "conv1d": (lambda: nn.Conv1d(3, 2, 2, padding=1), (2, 3, 5)),
    "conv2d": (lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.GELU(), nn.Flatten()), (1, 2, 4, 4)),
    "circular": (lambda: nn.Conv1d(2, 2, 3, padding=1, padding_mode="circular"), (1, 2, 4)),
    "transposed": (lambda: nn.ConvTranspose1d(3, 2, 2), (2, 3, 4)),
    "pools": (lambda: nn.Sequential(nn.AvgPool1d(2), nn.Upsample(scale_factor=2)), (1, 2, 4)),
    "rms norm": (lambda: nn.RMSNorm(4), (2, 4)),
    "group norm": (lambda: nn.GroupNorm(2, 4), (2, 4, 3)),
    "batch norm": (lambda: nn.BatchNorm1d(4).eval(), (3, 4)),
    "attention": (lambda: Attention(4, 2), (1, 3, 4)),
    "attention without bias": (lambda: Attention(4, 2, bias=False, add_bias_kv=False), (1, 3, 4)),
    "attention, extra keys": (
        lambda: Attention(4, 2, add_bias_kv=True, add_zero_attn=True),
        (1, 3, 4),
    ),
    "weight norm": (weight_normed, (2, 4)),
    "old weight norm": (old_weight_norm, (2, 4)),
    "spectral norm": (spectral_normed, (2, 4)),
    "checkpoint": (lambda: Checkpointed(mlp(nn.Tanh())), (2, 4)),
    "cosine": (lambda: Pair(nn.CosineSimilarity(1)), (2, 4)),
    "distance": (lambda: Pair(nn.PairwiseDistance()), (2, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name: str, check: Any) -> None:
    if name == "checkpoint" and torch.__version__.startswith("2.11."):
        pytest.skip("PyTorch 2.11 has no nested derivatives of checkpoints to compare with")
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    layer = make().double()
    check(layer, shape, domain=(-1.5, 1.5), order=3)


# ------------------------------------------------------------------ where torch.func is wrong

# PyTorch's nested derivatives of layer_norm, and of batch_norm in training, are wrong from the
# second order on; the same formulas in elementary operations are not.


def plain_norm(x: Any, dims: Any, layer: Any) -> Any:
    centred = x - x.mean(dims, keepdim=True)
    y = centred / ((centred * centred).mean(dims, keepdim=True) + layer.eps).sqrt()
    return y * layer.weight + layer.bias


def randomised(layer: Any) -> Any:
    torch.manual_seed(1)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer.double()


def same(function: Any, reference: Any, shape: tuple[int, ...], tools: Any, order: int = 4) -> None:
    """Both functions of a tensor have the same derivatives at a random point."""
    generator = torch.Generator().manual_seed(3)
    embed = tools.embedding(shape, (-1.5, 1.5), generator, 1)
    tools.agree(
        lambda p: (function if isinstance(p, Jet) else reference)(embed(p)[0]),
        torch.tensor([0.3, -0.7, 0.45], dtype=torch.float64),
        order=order,
    )


def test_layer_norm(tools: Any) -> None:
    layer = randomised(nn.LayerNorm(4))
    same(layer, lambda x: plain_norm(x, -1, layer), (2, 4), tools)


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_the_method_nested_takes_formulas_that_are_right(mode: str) -> None:
    """Forward mode twice, of functions with several outputs."""
    layer, matrix = randomised(nn.LayerNorm(4)), torch.randn(3, 3, 2, dtype=torch.float64)

    def f(p: Any) -> Any:
        h = layer(torch.outer(p, p).flatten())
        return torch.stack([h[0], h[2] * p[0], torch.linalg.slogdet(matrix @ p)[1]])

    def by_hand(p: Any) -> Any:
        h = plain_norm(torch.outer(p, p).flatten(), -1, layer)
        m = matrix @ p
        det = m[0] @ torch.linalg.cross(m[1], m[2])
        return torch.stack([h[0], h[2] * p[0], det.abs().log()])

    at = torch.tensor([0.4, -0.9], dtype=torch.float64)
    hessian = torch.stack(
        [torch.func.jacrev(torch.func.jacrev(lambda p, k=k: by_hand(p)[k]))(at) for k in range(3)]
    )
    x, y = jf.partials(2)
    nested = (x * y + 2 * y**2)(f, method="nested")
    nested = torch.compile(nested, backend="eager") if mode == "compiled" else nested
    with torch.no_grad():
        torch.testing.assert_close(nested(at), hessian[:, 0, 1] + 2 * hessian[:, 1, 1])


def test_batch_norm_in_training_updates_its_statistics_once(tools: Any) -> None:
    layer = randomised(nn.BatchNorm1d(4))
    same(layer, lambda x: plain_norm(x, 0, layer), (3, 4), tools)
    fresh, other = nn.BatchNorm1d(4).double(), nn.BatchNorm1d(4).double()
    x = torch.randn(3, 4, dtype=torch.float64)
    jf.laplacian(lambda x: fresh(x).sum())(x)
    other(x)
    assert torch.equal(fresh.running_var, other.running_var)
    assert torch.equal(fresh.running_mean, other.running_mean)
    assert fresh.num_batches_tracked == 1


def test_transformer_encoder_layer(tools: Any) -> None:
    for first in (True, False):
        layer = nn.TransformerEncoderLayer(4, 2, 5, batch_first=True, norm_first=first)
        layer = randomised(layer).eval()

        def reference(x: Any, layer: Any = layer, first: bool = first) -> Any:
            def attend(z: Any) -> Any:
                q, k, v = (
                    z @ layer.self_attn.in_proj_weight.T + layer.self_attn.in_proj_bias
                ).split(4, -1)
                heads = [
                    torch.softmax(q[..., h] @ k[..., h].mT / math.sqrt(2), -1) @ v[..., h]
                    for h in (slice(0, 2), slice(2, 4))
                ]
                return layer.self_attn.out_proj(torch.cat(heads, -1))

            def feed(z: Any) -> Any:
                return layer.linear2(torch.relu(layer.linear1(z)))

            if first:
                x = x + attend(plain_norm(x, -1, layer.norm1))
                return x + feed(plain_norm(x, -1, layer.norm2))
            x = plain_norm(x + attend(x), -1, layer.norm1)
            return plain_norm(x + feed(x), -1, layer.norm2)

        same(layer, reference, (1, 3, 4), tools, order=2)


def test_transformer_with_mask(tools: Any) -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 5, batch_first=True, activation="gelu")
    layer = randomised(layer).eval()
    encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False).double().eval()
    mask = nn.Transformer.generate_square_subsequent_mask(3, dtype=torch.float64)
    x = torch.randn(1, 3, 4, dtype=torch.float64)
    first = jf.laplacian(lambda x: encoder(x, mask=mask, is_causal=True)[0, 0].sum())(x)
    alone = jf.laplacian(lambda x: encoder(x)[0, 0].sum())(x[:, :1])
    assert torch.allclose(first, alone)  # the first token sees only itself


# ------------------------------------------------------------------ recurrent networks


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU, nn.RNNCell, nn.LSTMCell, nn.GRUCell])
@pytest.mark.filterwarnings("ignore::jetfold.JetfoldWarning")
def test_recurrent(kind: Any, tools: Any) -> None:
    torch.manual_seed(0)
    layer = kind(3, 2).double()
    generator = torch.Generator().manual_seed(3)
    embed = tools.embedding((2, 3), (-1.5, 1.5), generator, 1)
    point = torch.tensor([0.3, -0.7, 0.45], dtype=torch.float64)
    tools.agree(lambda p: layer(embed(p)[0]), point, order=2)


# ------------------------------------------------------------------ training and compilation


def test_gradients_to_the_parameters() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.LayerNorm(5), nn.Linear(5, 1)).double()
    x = torch.randn(3, dtype=torch.float64)

    def plain(p: dict[str, Any], x: Any) -> Any:
        h = torch.tanh(F.linear(x, p["0.weight"], p["0.bias"]))
        c = h - h.mean()
        h = c / ((c * c).mean() + 1e-5).sqrt() * p["2.weight"] + p["2.bias"]
        return F.linear(h, p["3.weight"], p["3.bias"])[0]

    parameters = dict(net.named_parameters())
    loss = jf.laplacian(lambda x: net(x)[0])(x) ** 2
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    expected = torch.func.grad(lambda p: torch.func.hessian(lambda x: plain(p, x))(x).trace() ** 2)(
        {k: v.detach() for k, v in parameters.items()}
    )
    for value, (_, reference) in zip(found, expected.items(), strict=True):
        assert torch.allclose(torch.zeros_like(reference) if value is None else value, reference)
    functional = torch.func.grad(
        lambda p: jf.laplacian(lambda x: functional_call(net, p, x)[0])(x) ** 2
    )({k: v.detach() for k, v in parameters.items()})
    for name, reference in expected.items():
        assert torch.allclose(functional[name], reference)


class Broad(nn.Module):
    """A bit of everything that networks are made of."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm, self.rms = nn.LayerNorm(8), nn.RMSNorm(8)
        self.mix = nn.Parameter(torch.randn(2, 4, 5))
        self.conv = nn.Conv1d(4, 4, 3, padding=1)

    def forward(self, x: Any) -> Any:
        tokens = torch.stack([x, x.flip(-1), torch.cat([x[..., 1:], x[..., :1] ** 2], -1)], -2)
        h = self.embed(tokens)
        h = self.norm(h + self.attention(h, h, h, need_weights=False)[0])
        h = h + F.gelu(self.rms(h))
        z = torch.einsum("...tha,hab->...tb", h.unflatten(-1, (2, 4)), self.mix)
        z = torch.where(z > 0, z, 0.1 * z) + z.clamp(-1, 1)
        w = torch.softmax(z, -1) * z.sum(-1, keepdim=True)
        y = F.scaled_dot_product_attention(w, z, z)
        y = self.conv(torch.nn.functional.pad(y, (0, 0, 0, 1)))
        y[..., 0, :] = y[..., 1, :] * 2
        y = F.silu(y, inplace=True)
        norms = torch.linalg.norm(y, dim=-1) + y.amax(-1) + y.var(-1) + torch.logsumexp(y, -1)
        total = y.new_zeros(y.shape[:-1])
        total += norms
        return total.sum(-1) + torch.exp(-(x**2).sum(-1)) / (1 + x[..., 0] ** 2)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_operators(backend: str) -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()
    net = Broad().double().eval()
    x = torch.randn(4, 3, dtype=torch.float64)
    t, a, b = jf.partials(3)
    operators = {
        "aot_eager": [jf.laplacian(net, batch_dims=1)],
        "eager": [(a**2 * b**2 + t)(net, batch_dims=1), torch.func.vmap(jf.laplacian(net))],
    }
    for operator in operators[backend]:
        expected = operator(x)
        compiled = torch.compile(operator, fullgraph=True, backend=backend)
        assert torch.allclose(compiled(x), expected)


def attend(q: Any, k: Any, v: Any, *_: Any) -> Any:
    """Attention in elementary operations: PyTorch cannot differentiate its own forward."""
    return torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1) @ v


def test_broad_network(tools: Any, monkeypatch: Any) -> None:
    torch.manual_seed(0)
    net = Broad().double().eval()
    x = torch.randn(3, dtype=torch.float64)
    reference = Broad().double().eval()
    reference.load_state_dict(net.state_dict())
    reference.norm.forward = lambda h: plain_norm(h, -1, reference.norm)
    monkeypatch.setattr(F, "scaled_dot_product_attention", attend)
    tools.agree(lambda p: (net if isinstance(p, Jet) else reference)(p[None])[0], x, order=2)


@pytest.mark.filterwarnings("ignore::jetfold.JetfoldWarning")
def test_compiled_and_scripted_submodules() -> None:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    x = torch.randn(3, dtype=torch.float64)
    expected = jf.laplacian(lambda x: inner(x)[0])(x)
    compiled = torch.compile(inner, backend="eager")
    assert torch.allclose(jf.laplacian(lambda x: compiled(x)[0])(x), expected)
    with pytest.warns((DeprecationWarning, FutureWarning)):
        scripted = torch.jit.script(inner)
        normed = torch.jit.script(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)).double())
    with pytest.raises(NotImplementedError, match=r"forward has no rule.*are wrong"):
        jf.laplacian(lambda x: normed(x)[0])(x)
    for _ in range(3):  # the first runs of a script are not like those that follow
        assert torch.allclose(jf.laplacian(lambda x: scripted(x)[0])(x), expected)
