"""Networks as their authors write them: values and gradients against nested autograd in float64.

The networks are in the idioms of the papers and the repositories that people copy from: einops,
in-place writes into fresh tensors, buffers, masks, scatters, `isinstance`, forces by autograd. The
reference is what those repositories do for a residual: `torch.autograd.grad` with `create_graph`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

einops = pytest.importorskip("einops")
torchdiffeq = pytest.importorskip("torchdiffeq")
from einops import rearrange, reduce, repeat
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations, parametrize

import jetfold as jf

# ------------------------------------------------------------------ coordinates → value


class SineLayer(nn.Module):
    """Sitzmann et al., "Implicit neural representations with periodic activations" (2020)."""

    def __init__(self, features: int, width: int, is_first: bool = False, omega_0: float = 3.0):
        super().__init__()
        self.omega_0 = omega_0
        self.linear = nn.Linear(features, width)
        with torch.no_grad():
            bound = 1 / features if is_first else math.sqrt(6 / features) / omega_0
            self.linear.weight.uniform_(-bound, bound)

    def forward(self, x):
        return torch.sin(self.omega_0 * self.linear(x))


def siren() -> nn.Module:
    return nn.Sequential(SineLayer(2, 6, is_first=True), SineLayer(6, 6), nn.Linear(6, 1))


class ModifiedMLP(nn.Module):
    """Fourier features and the gates of Wang, Teng, Perdikaris (2021)."""

    def __init__(self, features: int, width: int, scale: float = 0.5) -> None:
        super().__init__()
        self.register_buffer("B", torch.randn(features, width) * scale)
        self.gates = nn.ModuleDict({k: nn.Linear(2 * width, width) for k in ("u", "v")})
        self.layers = nn.ModuleList([nn.Linear(2 * width, width), nn.Linear(width, width)])
        self.output = nn.Linear(width, 1)

    def forward(self, x):
        proj = 2 * torch.pi * x @ self.B
        h = torch.cat([proj.sin(), proj.cos()], dim=-1)
        u, v = (torch.tanh(self.gates[k](h)) for k in ("u", "v"))
        for layer in self.layers:
            h = torch.tanh(layer(h))
            h = h * u + (1 - h) * v
        return self.output(h)


class ResidualBlock(nn.Module):
    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.act, self.dropout = nn.GELU(), nn.Dropout(dropout)

    def forward(self, x):
        residual = x
        x = self.dropout(self.act(self.fc1(self.norm(x))))
        x = self.fc2(x)
        x += residual
        return x


def resnet(dropout: float = 0.0) -> nn.Module:
    blocks = [ResidualBlock(4, dropout) for _ in range(2)]
    return nn.Sequential(nn.Linear(2, 4), *blocks, nn.LayerNorm(4), nn.Linear(4, 1))


class DeepONet(nn.Module):
    """Lu et al. (2021): branch of the sensors, trunk of the coordinates."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(5, 6), nn.SiLU(), nn.Linear(6, 4))
        self.trunk = nn.Sequential(nn.Linear(2, 6), nn.Tanh(), nn.Linear(6, 4), nn.Tanh())
        self.bias = nn.Parameter(torch.zeros(1))
        self.register_buffer("sensors", torch.randn(3, 5))

    def forward(self, y):
        return torch.einsum("bp,np->nb", self.branch(self.sensors), self.trunk(y)) + self.bias


class KANLinear(nn.Module):
    """B-splines on edges, in the way of efficient-kan."""

    def __init__(self, in_features: int, out_features: int, grid_size: int = 3, order: int = 4):
        super().__init__()
        self.in_features, self.out_features, self.spline_order = in_features, out_features, order
        h = 2.0 / grid_size
        grid = torch.arange(-order, grid_size + order + 1) * h - 1
        self.register_buffer("grid", grid.expand(in_features, -1).contiguous())
        self.base_weight = nn.Parameter(torch.randn(out_features, in_features))
        self.spline_weight = nn.Parameter(torch.randn(out_features, in_features, grid_size + order))
        self.spline_scaler = nn.Parameter(torch.ones(out_features, in_features))

    def b_splines(self, x):
        assert x.dim() == 2 and x.size(1) == self.in_features
        grid = self.grid
        x = x.unsqueeze(-1)
        bases = ((x >= grid[:, :-1]) & (x < grid[:, 1:])).to(x.dtype)
        for k in range(1, self.spline_order + 1):
            left, right = grid[:, : -(k + 1)], grid[:, k + 1 :]
            bases = ((x - left) / (grid[:, k:-1] - left) * bases[:, :, :-1]) + (
                (right - x) / (right - grid[:, 1:-k]) * bases[:, :, 1:]
            )
        assert bases.size()[:2] == (x.size(0), self.in_features)
        return bases.contiguous()

    def forward(self, x):
        base = F.linear(F.silu(x), self.base_weight)
        weight = self.spline_weight * self.spline_scaler.unsqueeze(-1)
        splines = self.b_splines(x).view(x.size(0), -1)
        return base + F.linear(splines, weight.view(self.out_features, -1))


class Hypernetwork(nn.Module):
    """The weights of a network of x, made from a code of x: `functional_call` for every point."""

    def __init__(self) -> None:
        super().__init__()
        self.target = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
        self.shapes = {k: p.shape for k, p in self.target.named_parameters()}
        for p in self.target.parameters():
            p.requires_grad_(False)
        self.heads = nn.ModuleDict(
            {k.replace(".", "_"): nn.Linear(4, s.numel()) for k, s in self.shapes.items()}
        )
        self.body = nn.Sequential(nn.Linear(2, 4), nn.Tanh())

    def forward(self, x):
        h = self.body(x)
        weights = {k: self.heads[k.replace(".", "_")](h) for k in self.shapes}
        weights = {k: w.view(-1, *self.shapes[k]) for k, w in weights.items()}

        def single(weights, x):
            return torch.func.functional_call(self.target, weights, (x,))

        return torch.func.vmap(single)(weights, x)


class HypernetworkByHand(nn.Module):
    """The same by batched products of matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.hyper = nn.Sequential(nn.Linear(2, 5), nn.Softplus(), nn.Linear(5, 3 * 2 + 3 + 3))

    def forward(self, x):
        w1, b1, w2 = self.hyper(x).split([6, 3, 3], dim=-1)
        h = torch.bmm(w1.reshape(-1, 3, 2), x.unsqueeze(-1)).squeeze(-1) + b1
        return torch.baddbmm(
            x.new_ones(1).expand(x.size(0), 1, 1), w2.view(-1, 1, 3), F.selu(h).unsqueeze(-1)
        ).flatten(1)


class LoRA(nn.Module):
    """A low-rank update, as a parametrization."""

    def __init__(self, fan_out: int, fan_in: int, rank: int = 2, alpha: float = 1.0) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.randn(rank, fan_in))
        self.B = nn.Parameter(torch.randn(fan_out, rank))
        self.scaling = alpha / rank

    def forward(self, weight):
        return weight + torch.matmul(self.B, self.A).view(weight.shape) * self.scaling


class LoRALinear(nn.Linear):
    """The same as a layer that wraps another one, in the way of peft."""

    def __init__(self, base: nn.Linear, rank: int = 2) -> None:
        super().__init__(base.in_features, base.out_features)
        self.weight, self.bias = base.weight, base.bias
        self.weight.requires_grad_(False)
        self.lora_A = nn.ParameterList([torch.randn(rank, base.in_features)])
        self.lora_B = nn.ParameterList([torch.randn(base.out_features, rank)])

    def forward(self, x):
        result = F.linear(x, self.weight, self.bias)
        for A, B in zip(self.lora_A, self.lora_B, strict=True):
            result += (x @ A.transpose(0, 1) @ B.transpose(0, 1)) * 0.5
        return result


def parametrized() -> nn.Module:
    first = parametrizations.weight_norm(nn.Linear(2, 5))
    second = nn.Linear(5, 4)
    parametrize.register_parametrization(second, "weight", LoRA(4, 5))
    third = parametrizations.spectral_norm(nn.Linear(4, 4)).eval()
    fourth = parametrizations.orthogonal(nn.Linear(4, 4))
    return nn.Sequential(
        first, nn.Tanh(), second, nn.Tanh(), third, nn.Tanh(), fourth, LoRALinear(nn.Linear(4, 1))
    )


class ComplexNetwork(nn.Module):
    """Complex layers of real coordinates, in the way of complexPyTorch; modReLU's smooth cousin."""

    def __init__(self) -> None:
        super().__init__()
        self.fc_r, self.fc_i = nn.Linear(2, 4), nn.Linear(2, 4)
        self.hidden = nn.Linear(4, 4, dtype=torch.cdouble)
        self.out = nn.Linear(4, 1, dtype=torch.cdouble)
        self.bias = nn.Parameter(torch.rand(4))

    def forward(self, x):
        z = torch.complex(self.fc_r(x), self.fc_i(x))
        z = torch.tanh(self.hidden(z))
        modulus = z.abs()
        z = F.softplus(modulus + self.bias) * z / (1e-3 + modulus)
        z = torch.polar(torch.ones_like(z.real), z.angle()) + z.conj() * z
        return self.out(z)


# ------------------------------------------------------------------ densities


class MixtureDensity(nn.Module):
    """log p(y | x) of a mixture of Gaussians (Bishop 1994)."""

    def __init__(self, components: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(1, 5), nn.Tanh())
        self.pi, self.mu, self.sigma = (nn.Linear(5, components) for _ in range(3))

    def forward(self, p):
        x, y = p.chunk(2, dim=-1)
        h = self.body(x)
        log_pi = torch.log_softmax(self.pi(h), dim=-1)
        mu, sigma = self.mu(h), F.softplus(self.sigma(h)) + 1e-3
        log_prob = -0.5 * ((y - mu) / sigma).pow(2) - sigma.log() - 0.5 * math.log(2 * math.pi)
        return torch.logsumexp(log_pi + log_prob, dim=-1)


class MixtureOfDistributions(MixtureDensity):
    """The same by torch.distributions, which checks its arguments."""

    def forward(self, p):
        x, y = p[..., 0:1], p[..., 1]
        h = self.body(x)
        mixture = torch.distributions.Categorical(logits=self.pi(h))
        components = torch.distributions.Normal(self.mu(h), torch.exp(self.sigma(h)))
        return torch.distributions.MixtureSameFamily(mixture, components).log_prob(y)


class RealNVP(nn.Module):
    """Coupling layers with masks and the log-determinants of their Jacobians (Dinh et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
        self.t = nn.ModuleList([self.subnet() for _ in self.mask])
        self.s = nn.ModuleList([self.subnet(nn.Tanh()) for _ in self.mask])
        self.prior = torch.distributions.Normal(torch.zeros(()), torch.ones(()))

    @staticmethod
    def subnet(*last: nn.Module) -> nn.Module:
        return nn.Sequential(nn.Linear(2, 4), nn.SiLU(), nn.Linear(4, 2), *last)

    def forward(self, x):
        log_det_J, z = x.new_zeros(x.shape[0]), x
        for i in reversed(range(len(self.t))):
            z_ = self.mask[i] * z
            s, t = self.s[i](z_) * (1 - self.mask[i]), self.t[i](z_) * (1 - self.mask[i])
            z = (1 - self.mask[i]) * (z - t) * torch.exp(-s) + z_
            log_det_J -= s.sum(dim=1)
        return self.prior.log_prob(z).sum(-1) + log_det_J


class JacobianFlow(nn.Module):
    """A residual flow whose log-determinant is that of `torch.func.jacrev`."""

    def __init__(self) -> None:
        super().__init__()
        self.g = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 2))

    def forward(self, x):
        def flow(x):
            return x + 0.3 * self.g(x)

        jacobian = torch.func.vmap(torch.func.jacrev(flow))(x)
        z = flow(x)
        return -0.5 * z.square().sum(-1) + torch.linalg.slogdet(jacobian).logabsdet


class Score(nn.Module):
    """The score of an energy-based density, and its negative log-density."""

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(2, 5), nn.Softplus(), nn.Linear(5, 1))

    def forward(self, x):
        return torch.func.vmap(torch.func.grad(lambda x: -self.energy(x).squeeze()))(x)


class NeuralODE(nn.Module):
    """Chen et al. (2018), by torchdiffeq: the state at the end of the flow."""

    def __init__(self, **solver: Any) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        self.solver = solver

    def rhs(self, t, y):
        return self.net(torch.cat([y, t.expand(y.shape[:-1]).unsqueeze(-1)], dim=-1))

    def forward(self, x):
        times = torch.linspace(0, 1, 3, dtype=x.dtype)
        return torchdiffeq.odeint(self.rhs, x, times, **self.solver)[-1, ..., :1]


class FFJORD(NeuralODE):
    """A continuous flow: the trace of the Jacobian by autograd, integrated beside the state."""

    def forward(self, x):
        def augmented(t, state):
            z = state[0]
            with torch.enable_grad():
                if not z.requires_grad:
                    z = z.requires_grad_(True)
                dz = self.rhs(t, z)
                trace = 0.0
                for i in range(z.shape[-1]):
                    grads = torch.autograd.grad(dz[..., i].sum(), z, create_graph=True)
                    trace = trace + grads[0][..., i]
            return dz, -trace

        z, logp = torchdiffeq.odeint(
            augmented, (x, x.new_zeros(x.shape[:-1])), torch.tensor([0.0, 1.0]), **self.solver
        )
        return logp[-1] - 0.5 * z[-1].pow(2).sum(-1)


# ------------------------------------------------------------------ fields on grids


class SpectralConv2d(nn.Module):
    """Li et al., "Fourier neural operator" (2021)."""

    def __init__(self, in_channels: int, out_channels: int, modes1: int, modes2: int) -> None:
        super().__init__()
        self.out_channels, self.modes1, self.modes2 = out_channels, modes1, modes2
        shape, scale = (in_channels, out_channels, modes1, modes2), 1 / in_channels
        self.weights1 = nn.Parameter(scale * torch.rand(*shape, dtype=torch.cdouble))
        self.weights2 = nn.Parameter(scale * torch.rand(*shape, dtype=torch.cdouble))

    def compl_mul2d(self, input, weights):
        return torch.einsum("bixy,ioxy->boxy", input, weights)

    def forward(self, x):
        batchsize, m1, m2 = x.shape[0], self.modes1, self.modes2
        x_ft = torch.fft.rfft2(x)
        out_ft = torch.zeros(
            batchsize, self.out_channels, x.size(-2), x.size(-1) // 2 + 1, dtype=torch.cdouble
        )
        out_ft[:, :, :m1, :m2] = self.compl_mul2d(x_ft[:, :, :m1, :m2], self.weights1)
        out_ft[:, :, -m1:, :m2] = self.compl_mul2d(x_ft[:, :, -m1:, :m2], self.weights2)
        return torch.fft.irfft2(out_ft, s=(x.size(-2), x.size(-1)))


def grid(batch: int, size_x: int, size_y: int) -> Any:
    gridx = torch.linspace(0, 1, size_x, dtype=torch.double).reshape(1, size_x, 1, 1)
    gridy = torch.linspace(0, 1, size_y, dtype=torch.double).reshape(1, 1, size_y, 1)
    return torch.cat(
        (gridx.repeat([batch, 1, size_y, 1]), gridy.repeat([batch, size_x, 1, 1])), dim=-1
    )


def bump(p: Any, size: int) -> Any:
    """The field of a bump whose amplitude and width are the coordinates, (B, 1, size, size)."""
    radius = (grid(p.shape[0], size, size) - 0.4).square().sum(-1)
    return (p[:, 0, None, None] * torch.exp(-radius * p[:, 1, None, None])).unsqueeze(1)


class FNO2d(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.padding = 1
        self.p = nn.Linear(3, width)
        self.conv0, self.conv1 = (SpectralConv2d(width, width, 2, 2) for _ in range(2))
        self.w0, self.w1 = (nn.Conv2d(width, width, 1) for _ in range(2))
        self.q = nn.Linear(width, 1)

    def forward(self, p):
        x = bump(p, 5).permute(0, 2, 3, 1)
        x = torch.cat((x, grid(x.shape[0], x.shape[1], x.shape[2])), dim=-1)
        x = self.p(x).permute(0, 3, 1, 2)
        x = F.pad(x, [0, self.padding, 0, self.padding])
        x = F.gelu(self.conv0(x) + self.w0(x))
        x = self.conv1(x) + self.w1(x)
        x = x[..., : -self.padding, : -self.padding].permute(0, 2, 3, 1)
        return self.q(x)[:, 1, ::3]


class UNet(nn.Module):
    """Ronneberger et al. (2015), with pooling down and interpolation up."""

    def __init__(self) -> None:
        super().__init__()
        self.inc = self.double_conv(1, 2)
        self.down = nn.Sequential(nn.AvgPool2d(2), self.double_conv(2, 3))
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
        self.conv = self.double_conv(5, 2)
        self.outc = nn.Conv2d(2, 1, kernel_size=1)

    @staticmethod
    def double_conv(n: int, m: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(n, m, 3, padding=1, bias=False), nn.GroupNorm(1, m), nn.SiLU(inplace=True)
        )

    def forward(self, p):
        x1 = self.inc(bump(p, 5))
        x2 = self.up(self.down(x1))
        diff_y, diff_x = x1.size(2) - x2.size(2), x1.size(3) - x2.size(3)
        x2 = F.pad(x2, [diff_x // 2, diff_x - diff_x // 2, diff_y // 2, diff_y - diff_y // 2])
        x = self.conv(torch.cat([x1, x2], dim=1))
        x = F.interpolate(x, size=(7, 7), mode="bicubic", align_corners=False)
        return self.outc(x)[:, 0, 3, ::4]


# ------------------------------------------------------------------ sequences


class CausalSelfAttention(nn.Module):
    """In the way of nanoGPT, with rotary embeddings by einops."""

    def __init__(self, n_embd: int, n_head: int, block_size: int) -> None:
        super().__init__()
        self.n_head = n_head
        self.c_attn, self.c_proj = nn.Linear(n_embd, 3 * n_embd), nn.Linear(n_embd, n_embd)
        mask = torch.tril(torch.ones(block_size, block_size))
        self.register_buffer("bias", mask.view(1, 1, block_size, block_size))
        inv_freq = 1.0 / (100 ** (torch.arange(0, n_embd // n_head, 2) / (n_embd // n_head)))
        self.register_buffer("inv_freq", inv_freq)

    def rotary(self, t):
        freqs = torch.einsum("i,j->ij", torch.arange(t.shape[-2]).to(t), self.inv_freq)
        freqs = repeat(freqs, "n f -> n (f r)", r=2)
        x1, x2 = rearrange(t, "... (d r) -> ... d r", r=2).unbind(dim=-1)
        rotated = rearrange(torch.stack((-x2, x1), dim=-1), "... d r -> ... (d r)")
        return t * freqs.cos() + rotated * freqs.sin()

    def forward(self, x):
        B, T, C = x.size()
        qkv = self.c_attn(x).split(C, dim=2)
        q, k, v = (rearrange(t, "b t (h d) -> b h t d", h=self.n_head) for t in qkv)
        q, k = self.rotary(q), self.rotary(k)
        att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        att = att.masked_fill(self.bias[:, :, :T, :T] == 0, float("-inf"))
        y = F.softmax(att, dim=-1) @ v
        y = y.transpose(1, 2).contiguous().view(B, T, C)
        return self.c_proj(y)


class Transformer(nn.Module):
    """Tokens that each hold coordinates; pre-norm blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(2, 4)
        self.wpe = nn.Embedding(3, 4)
        self.ln_1, self.ln_2 = nn.LayerNorm(4), nn.LayerNorm(4)
        self.attn = CausalSelfAttention(4, 2, 3)
        self.mlp = nn.Sequential(nn.Linear(4, 8), nn.GELU(approximate="tanh"), nn.Linear(8, 4))
        self.head = nn.Linear(4, 1)

    def forward(self, x):
        pos = torch.arange(0, x.size(1), dtype=torch.long, device=x.device)
        x = self.embed(x) + self.wpe(pos)
        x = x + self.attn(self.ln_1(x))
        x = x + self.mlp(self.ln_2(x))
        return reduce(self.head(x), "b t c -> b c", "mean")


class TorchTransformer(nn.Module):
    """torch.nn's own layers, with a causal mask and one of padding."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True)
        self.embed = nn.Linear(2, 4)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(3).double())
        self.register_buffer("pad", torch.tensor([0.0, 0.0, -math.inf]).double())

    def forward(self, x):
        padding = self.pad.expand(x.shape[0], -1)
        x = self.encoder(self.embed(x), mask=self.mask, src_key_padding_mask=padding)
        return x[:, 1]


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2, 3, num_layers=2, batch_first=True)
        self.gru = nn.GRU(3, 2, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(4, 1)

    def forward(self, x):
        h0 = torch.zeros(2, x.size(0), 3, dtype=x.dtype).to(x.device)
        out, _ = self.lstm(x, (h0, torch.zeros_like(h0)))
        out, h = self.gru(out)
        return self.fc(out[:, -1, :]) + h.sum(-1).t()[:, :1]


class Cells(nn.Module):
    """Loops over cells that write what they find into a fresh tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru, self.fc = nn.LSTMCell(2, 3), nn.GRUCell(3, 3), nn.Linear(3, 1)

    def forward(self, x):
        hx, cx, h = (torch.zeros(x.size(0), 3, dtype=x.dtype) for _ in range(3))
        outputs = torch.zeros(x.size(0), x.size(1), 1, dtype=x.dtype)
        for t in range(x.size(1)):
            hx, cx = self.lstm(x[:, t], (hx, cx))
            h = self.gru(hx, h)
            outputs[:, t] = self.fc(h)
        return outputs.sum(dim=1)


# ------------------------------------------------------------------ graphs and particles


def disjoint(x: Any, edge_index: Any) -> tuple[Any, Any, Any]:
    """A batch of graphs (B, N, C) as one with B parts: rows, edges, and the graph of each row."""
    B, N, C = x.shape
    edges = edge_index[:, None] + N * torch.arange(B)[None, :, None]
    return x.reshape(B * N, C), edges.reshape(2, -1), torch.arange(B).repeat_interleave(N)


EDGES = torch.tensor([[0, 1, 1, 2, 2, 0, 0], [1, 0, 2, 1, 0, 2, 0]])


class MessagePassing(nn.Module):
    """What torch_geometric does: gather by `index_select`, scatter into zeros."""

    def propagate(self, edge_index, x):
        row, col = edge_index
        out = self.message(x.index_select(0, col), x.index_select(0, row), col, x.size(0))
        return self.aggregate(out, col, x.size(0))

    def aggregate(self, inputs, index, dim_size):
        index = index.view(-1, 1).expand_as(inputs)
        return inputs.new_zeros(dim_size, inputs.size(1)).scatter_add_(0, index, inputs)


class GCNConv(MessagePassing):
    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.lin, self.bias = nn.Linear(n, m, bias=False), nn.Parameter(torch.zeros(m))

    def forward(self, x, edge_index):
        return self.propagate(edge_index, self.lin(x)) + self.bias

    def message(self, x_i, x_j, index, size):
        deg = torch.zeros(size, dtype=x_j.dtype).index_add_(0, index, x_j.new_ones(index.numel()))
        deg_inv_sqrt = deg.pow_(-0.5)
        deg_inv_sqrt.masked_fill_(deg_inv_sqrt == float("inf"), 0)
        return deg_inv_sqrt[index].view(-1, 1) * x_j


class GATConv(MessagePassing):
    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.lin = nn.Linear(n, m, bias=False)
        self.att = nn.Parameter(torch.randn(1, 2 * m))

    def forward(self, x, edge_index):
        return self.propagate(edge_index, self.lin(x))

    def message(self, x_i, x_j, index, size):
        alpha = F.leaky_relu((torch.cat([x_i, x_j], dim=-1) * self.att).sum(dim=-1), 0.2)
        src_max = alpha.detach().new_zeros(size)
        src_max = src_max.scatter_reduce(0, index, alpha.detach(), "amax", include_self=False)
        out = (alpha - src_max.index_select(0, index)).exp()
        out_sum = out.new_zeros(size).index_add_(0, index, out) + 1e-16
        return (out / out_sum.index_select(0, index)).unsqueeze(-1) * x_j


class GraphNetwork(nn.Module):
    """One convolution, one attention, and pooling; node features are the coordinates."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("edge_index", EDGES)
        self.conv1, self.conv2, self.lin = GCNConv(2, 4), GATConv(4, 3), nn.Linear(3, 1)

    def forward(self, x):
        size = x.size(0)
        x, edge_index, batch = disjoint(x, self.edge_index)
        x = torch.tanh(self.conv1(x, edge_index))
        x = F.elu(self.conv2(x, edge_index))
        pooled = torch.zeros(size, x.size(1), dtype=x.dtype)
        pooled.index_add_(0, batch, x)
        return self.lin(pooled / torch.bincount(batch, minlength=size).unsqueeze(-1))


class GaussianSmearing(nn.Module):
    def __init__(self, stop: float, num: int) -> None:
        super().__init__()
        offset = torch.linspace(0, stop, num)
        self.coeff = -0.5 / (offset[1] - offset[0]).item() ** 2
        self.register_buffer("offset", offset)

    def forward(self, dist):
        dist = dist.view(-1, 1) - self.offset.view(1, -1)
        return torch.exp(self.coeff * torch.pow(dist, 2))


class SchNet(nn.Module):
    """Schütt et al. (2018): continuous-filter convolutions, and forces by autograd."""

    cutoff = 6.0

    def __init__(self, width: int = 3, forces: bool = True) -> None:
        super().__init__()
        self.forces = forces
        self.register_buffer("edge_index", EDGES[:, :-1])
        self.register_buffer("z", torch.tensor([1, 0, 1]))
        self.embedding = nn.Embedding(2, width, padding_idx=None)
        self.distance_expansion = GaussianSmearing(self.cutoff, 4)
        self.filter = nn.Sequential(nn.Linear(4, width), nn.Softplus(), nn.Linear(width, width))
        self.atomwise = nn.Sequential(nn.Linear(width, width), nn.Softplus(), nn.Linear(width, 1))

    def energy(self, pos):
        pos, (row, col), batch = disjoint(pos, self.edge_index)
        edge_weight = (pos[row] - pos[col]).norm(dim=-1)
        C = 0.5 * (torch.cos(edge_weight * math.pi / self.cutoff) + 1.0)
        C = C * (edge_weight < self.cutoff).to(edge_weight.dtype)
        W = self.filter(self.distance_expansion(edge_weight)) * C.view(-1, 1)
        h = self.embedding(self.z).repeat(pos.size(0) // len(self.z), 1)
        out = torch.zeros_like(h).index_add(0, col, h[row] * W)
        h = self.atomwise(h + out) - math.log(2.0)
        energies = torch.zeros(int(batch[-1]) + 1, 1, dtype=h.dtype)
        return energies.index_add_(0, batch, h)

    def forward(self, pos):
        if not self.forces:
            return self.energy(pos)
        if not pos.requires_grad:
            pos.requires_grad_(True)
        energy = self.energy(pos)
        (grad,) = torch.autograd.grad(
            energy, pos, torch.ones_like(energy), create_graph=True, retain_graph=True
        )
        return -grad


def unsorted_segment_sum(data: Any, segment_ids: Any, num_segments: int) -> Any:
    result = data.new_full((num_segments, data.size(1)), 0)
    segment_ids = segment_ids.unsqueeze(-1).expand(-1, data.size(1))
    result.scatter_add_(0, segment_ids, data)
    return result


class EGNN(nn.Module):
    """Satorras et al. (2021): equivariant updates of coordinates and features."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.register_buffer("edge_index", EDGES[:, :-1])
        self.h0 = nn.Parameter(torch.randn(3, width))
        self.edge_mlp = nn.Sequential(nn.Linear(2 * width + 1, width), nn.SiLU())
        self.coord_mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))
        self.node_mlp = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU())
        self.out = nn.Linear(width, 1)

    def forward(self, coord):
        B = coord.size(0)
        coord, (row, col), _ = disjoint(coord, self.edge_index)
        h = self.h0.repeat(B, 1)
        for _ in range(2):
            coord_diff = coord[row] - coord[col]
            radial = torch.sum(coord_diff**2, 1).unsqueeze(1)
            edge_feat = self.edge_mlp(torch.cat([h[row], h[col], radial], dim=1))
            trans = coord_diff * self.coord_mlp(edge_feat) / (torch.sqrt(radial + 1e-8) + 1)
            coord = coord + unsorted_segment_sum(trans, row, num_segments=coord.size(0))
            agg = unsorted_segment_sum(edge_feat, row, num_segments=h.size(0))
            h = h + self.node_mlp(torch.cat([h, agg], dim=1))
        return self.out(h.view(B, 3, -1).sum(1)) + coord.view(B, 3, -1)[:, 0].norm(dim=-1)[:, None]


class Tensorial(nn.Module):
    """Vectors and second-rank tensors of particles, coupled by products: in the way of e3nn."""

    def __init__(self) -> None:
        super().__init__()
        eps = torch.zeros(3, 3, 3)
        eps[0, 1, 2] = eps[1, 2, 0] = eps[2, 0, 1] = 1
        eps[0, 2, 1] = eps[2, 1, 0] = eps[1, 0, 2] = -1
        self.register_buffer("eps", eps)
        self.radial = nn.Sequential(nn.Linear(1, 4), nn.SiLU(), nn.Linear(4, 2 * 2))
        self.mix = nn.Parameter(torch.randn(2, 2))

    def forward(self, x):
        r = x[:, :, None] - x[:, None]
        i, j = torch.triu_indices(x.shape[1], x.shape[1], offset=1)
        r = r[:, i, j]
        d = torch.linalg.vector_norm(r, dim=-1, keepdim=True)
        unit = F.normalize(r, dim=-1)
        w = self.radial(d).unflatten(-1, (2, 2))
        vectors = einops.einsum(w[..., 0], unit, "b e c, b e x -> b c x")
        quadrupole = torch.einsum("...x,...y->...xy", unit, unit) - torch.eye(3) / 3
        tensors = einops.einsum(w[..., 1], quadrupole, "b e c, b e x y -> b c x y")
        cross = torch.einsum("xyz,bcy,dc,bdz->bx", self.eps, vectors, self.mix, vectors.roll(1, 1))
        along = torch.matmul(tensors, vectors[..., None]).squeeze(-1)
        scalars = (along * torch.linalg.cross(vectors, along + 1)).sum(-1) + vectors.norm(dim=-1)
        return scalars.sum(-1) * torch.sigmoid(torch.einsum("bx,bx->b", cross, cross))


class FermiNet(nn.Module):
    """Pfau et al. (2020): streams of electrons and pairs, determinants, log |ψ|."""

    def __init__(self, width: int = 4, determinants: int = 2, electrons: int = 2) -> None:
        super().__init__()
        self.register_buffer("atoms", torch.tensor([[0.0, 0.0, 0.5]]))
        self.one, self.two = nn.Linear(4 + 4, width), nn.Linear(4, 4)
        self.mix = nn.Linear(2 * width + 4, width)
        self.orbitals = nn.Linear(width, determinants * electrons)
        self.pi = nn.ParameterList([torch.ones(1, determinants * electrons)])
        self.sigma = nn.ParameterList([torch.ones(1, determinants * electrons)])
        self.w = nn.Parameter(torch.randn(determinants))

    def forward(self, pos):
        n = pos.shape[1]
        ae = pos[:, :, None] - self.atoms
        ee = pos[:, None] - pos[:, :, None]
        r_ae = torch.linalg.norm(ae, dim=-1, keepdim=True)
        eye = torch.eye(n, dtype=pos.dtype)[..., None]
        r_ee = torch.linalg.norm(ee + eye, dim=-1, keepdim=True) * (1.0 - eye)
        h_two = torch.tanh(self.two(torch.cat([ee, r_ee], dim=-1)))
        h_one = torch.cat([ae, r_ae], dim=-1).flatten(2)
        h_one = torch.tanh(self.one(torch.cat([h_one, h_two.mean(dim=2)], dim=-1)))
        pooled = repeat(h_one.mean(dim=1), "b d -> b n d", n=n)
        h_one = h_one + torch.tanh(self.mix(torch.cat([h_one, pooled, h_two.mean(2)], dim=-1)))
        envelope = (self.pi[0] * torch.exp(-r_ae * F.softplus(self.sigma[0]))).sum(dim=2)
        orbitals = rearrange(self.orbitals(h_one) * envelope, "b i (k j) -> b k i j", j=n)
        sign, logdet = torch.linalg.slogdet(orbitals)
        maximum = logdet.max(dim=-1, keepdim=True)[0].detach()
        psi = (sign * torch.exp(logdet - maximum) * self.w).sum(dim=-1)
        return torch.log(torch.abs(psi)) + maximum.squeeze(-1)


# ------------------------------------------------------------------ the table


@dataclass
class Network:
    """
    Attributes:
        make: the module, before `double()`.
        shape: of one point; all its axes are coordinates.
        order: of the second operator beside the Laplacian.
        mapped: torch.func can map the network itself, which is how an operator is mapped.
        compiled: the backend of torch.compile(fullgraph=True), if it is tried: both see the same
            graph, and "aot_eager" takes apart what is written in place and traces the backward.
        general: what legitimately has no rule of its own.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...] = (2,)
    order: int = 3
    mapped: bool = True
    compiled: str = ""
    general: str = ""


NETWORKS = {
    "SIREN": Network(siren, order=4, compiled="aot_eager"),
    "Fourier features": Network(lambda: ModifiedMLP(2, 4), order=4),
    "ResNet with LayerNorm": Network(resnet),
    "DeepONet": Network(DeepONet),
    "KAN": Network(lambda: nn.Sequential(KANLinear(2, 3), KANLinear(3, 1))),
    "hypernetwork": Network(Hypernetwork),
    "hypernetwork by hand": Network(HypernetworkByHand),
    "parametrized layers": Network(parametrized),
    "complex network": Network(ComplexNetwork),
    "mixture density": Network(MixtureDensity),
    "mixture of distributions": Network(MixtureOfDistributions),
    "RealNVP": Network(RealNVP),
    "flow with a Jacobian": Network(JacobianFlow),
    "score": Network(Score),
    "neural ODE": Network(lambda: NeuralODE(method="rk4"), mapped=False),
    "neural ODE, adaptive": Network(
        lambda: NeuralODE(method="dopri5", rtol=1e-2, options={"first_step": 0.2}),
        order=2,
        mapped=False,
        general="autograd.Function (_UncheckedAssign|_StitchGradient)",
    ),
    "FFJORD": Network(lambda: FFJORD(method="midpoint"), mapped=False),
    "FNO": Network(FNO2d, mapped=False, compiled="aot_eager"),
    "U-Net": Network(UNet),
    "Transformer": Network(Transformer, (3, 2), compiled="eager"),
    "torch.nn Transformer": Network(TorchTransformer, (3, 2)),
    "LSTM and GRU": Network(Recurrent, (2, 2), mapped=False),
    "cells in a loop": Network(Cells, (2, 2), mapped=False),
    "graph network": Network(GraphNetwork, (3, 2), mapped=False, compiled="eager"),
    "SchNet": Network(lambda: SchNet(forces=False), (3, 2), mapped=False),
    "SchNet with forces": Network(SchNet, (3, 2), mapped=False),
    "EGNN": Network(EGNN, (3, 2)),
    "equivariant products": Network(Tensorial, (3, 3)),
    "FermiNet": Network(FermiNet, (2, 3)),
}

# ------------------------------------------------------------------ the reference


def operators(shape: tuple[int, ...], order: int) -> dict[str, Any]:
    """The Laplacian, and an operator of a given order with mixed derivatives."""
    t, x, *rest = jf.partials(math.prod(shape))
    squares = sum((v**2 for v in (x, *rest)), t**2)
    mixed = {2: t - t * x, 3: t - x**2 + t * x**2, 4: squares**2}[order]
    return {"laplacian": squares, "mixed": mixed}


class Nested:
    """Derivatives of a network at a batch of points by nested reverse mode, each once."""

    def __init__(self, net: Callable[[Any], Any], points: Any) -> None:
        self.points = points.detach().clone().requires_grad_()
        with (
            elementary_layer_norm(),
            sdpa_kernel(SDPBackend.MATH),
        ):  # which can be differentiated twice
            value = net(self.points)
        self.shape, self.complex = value.shape, value.is_complex()
        value = torch.view_as_real(value) if self.complex else value
        self.known = [{(): v} for v in value.reshape(len(points), -1).unbind(-1)]

    def partial(self, known: dict[tuple[int, ...], Any], monomial: tuple[int, ...]) -> Any:
        """A mixed partial derivative of one output, (B,)."""
        if monomial not in known:
            lower = self.partial(known, monomial[:-1])
            (grad,) = torch.autograd.grad(
                lower.sum(), self.points, create_graph=True, materialize_grads=True
            )
            for i, derivative in enumerate(grad.flatten(1).unbind(-1)):
                known[(*monomial[:-1], i)] = derivative
        return known[monomial]

    def __call__(self, operator: Any) -> Any:
        terms = operator.symbol.terms.items()
        outputs = [sum(float(c) * self.partial(k, m) for m, c in terms) for k in self.known]
        stacked = torch.stack(outputs, -1)
        if self.complex:
            stacked = torch.view_as_complex(stacked.unflatten(-1, (-1, 2)))
        return stacked.reshape(self.shape)


@contextmanager
def own_rules(exceptions: str = "") -> Iterator[None]:
    """Nothing but what is named may go the general way, and that does."""
    if not exceptions:
        with jf.strict():
            yield
    else:
        with pytest.warns(jf.JetfoldWarning) as warned:
            yield
        for warning in warned:
            assert re.search(exceptions, str(warning.message)), warning.message


@contextmanager
def elementary_layer_norm() -> Iterator[None]:
    """The normalisations by their formula: autograd's own of third order are wrong (test_layers)."""

    def normalised(x, dims, eps):
        centred = x - x.mean(dims, keepdim=True)
        return centred / (centred.square().mean(dims, keepdim=True) + eps).sqrt()

    def layer_norm(x, shape, weight, bias, eps):
        return normalised(x, tuple(range(-len(shape), 0)), eps) * weight + bias

    def group_norm(x, groups, weight, bias, eps):
        y = normalised(x.unflatten(1, (groups, -1)), tuple(range(2, x.ndim + 1)), eps).flatten(1, 2)
        return y * weight[:, None, None] + bias[:, None, None]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "layer_norm", layer_norm)
        patch.setattr(F, "group_norm", group_norm)
        yield


def close(ours: Any, expected: Any) -> None:
    assert (ours.shape, ours.dtype) == (expected.shape, expected.dtype)
    assert torch.isfinite(expected).all() and expected.abs().max() > 1e-6
    scale = max(1.0, float(expected.detach().abs().max()))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-9 * scale)


def gradients(results: dict[str, Any], net: nn.Module) -> list[Any]:
    """Of a residual loss to all parameters."""
    loss = sum((r - 0.1).abs().square().mean() for r in results.values())
    parameters = [p for p in net.parameters() if p.requires_grad]
    return list(torch.autograd.grad(loss, parameters, materialize_grads=True))


def prepared(network: Network, seed: int = 0) -> tuple[nn.Module, Any, dict[str, Any]]:
    """The network with parameters in general position, a batch of points, and operators."""
    torch.manual_seed(seed)
    net = network.make().double()
    with torch.no_grad():
        for p in net.parameters():
            p += 0.1 * torch.randn_like(p)
    points = torch.randn(2, *network.shape, dtype=torch.double) * 0.5
    return net, points, operators(network.shape, network.order)


def compare(ours: dict[str, Any], net: nn.Module, points: Any, wanted: dict[str, Any]) -> None:
    """Values and parameter gradients."""
    torch.manual_seed(1)
    nested = Nested(net, points)
    expected = {name: nested(operator) for name, operator in wanted.items()}
    for name in wanted:
        close(ours[name], expected[name])
    nonzero = False
    for a, b in zip(gradients(ours, net), gradients(expected, net), strict=True):
        scale = max(1.0, float(b.detach().abs().max()))
        torch.testing.assert_close(a, b, rtol=0, atol=1e-9 * scale)
        nonzero |= bool(b.abs().max() > 1e-6)
    assert nonzero


# ------------------------------------------------------------------ tests


@pytest.mark.parametrize("name", NETWORKS)
def test_eager_and_mapped(name: str) -> None:
    network = NETWORKS[name]
    net, points, wanted = prepared(network)
    with own_rules(network.general):
        torch.manual_seed(1)
        ours = jf.derivatives(wanted)(net, batch_dims=1)(points)
    compare(ours, net, points, wanted)
    if network.mapped:
        single = lambda p: net(p.unsqueeze(0)).squeeze(0)
        with jf.strict():
            mapped = torch.func.vmap(jf.laplacian(single))(points)
        torch.testing.assert_close(mapped, ours["laplacian"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", [name for name, network in NETWORKS.items() if network.compiled])
def test_compiled(name: str) -> None:
    if name == "Transformer" and torch.__version__.startswith("2.11."):
        pytest.skip("PyTorch 2.11 compiles einops as it stands, without jets: docs/versions.md")
    torch._dynamo.reset()
    network = replace(NETWORKS[name], order=2)
    net, points, wanted = prepared(network, seed=2)
    operator = jf.derivatives(wanted)(net, batch_dims=1)
    with jf.strict():
        ours = torch.compile(operator, fullgraph=True, backend=network.compiled)(points)
    compare(ours, net, points, wanted)


@pytest.mark.parametrize("training", [False, True])
def test_dropout(training: bool) -> None:
    """One mask for all coefficients, drawn once: the derivatives of the network that it leaves."""
    net, points, wanted = prepared(Network(lambda: resnet(dropout=0.5)))
    net.train(training)
    with jf.strict():
        torch.manual_seed(1)
        ours = jf.derivatives(wanted)(net, batch_dims=1)(points)
    compare(ours, net, points, wanted)


def test_several_functions_of_a_deeponet() -> None:
    """Coordinates that are not the first argument, mapped over functions and over points."""
    net, points, _ = prepared(NETWORKS["DeepONet"])
    sensors = torch.randn(3, 5, dtype=torch.double)

    def u(sensors, y):
        return torch.einsum("...p,...p->...", net.branch(sensors), net.trunk(y))

    wave = jf.partials(2)[0] ** 2 - 2 * jf.partials(2)[1] ** 2
    operator = wave(u, argnums=1)
    mapped = torch.func.vmap(torch.func.vmap(operator, (None, 0)), (0, None))(sensors, points)
    for k, row in enumerate(sensors):
        close(mapped[k], Nested(lambda p, row=row: u(row, p), points)(wave))
    batched = wave(u, argnums=1, batch_dims=1)(sensors[:2], points)
    torch.testing.assert_close(batched, mapped[:2].diagonal())
