"""Networks as their authors write them: values and gradients against nested JAX in float64.

The networks are in the idioms of the papers and the repositories that people copy from: plain
functions of parameters, Flax and Equinox modules, scans, segment sums, forces by `jax.grad`,
`jax.checkpoint`, solvers of differential equations. The reference is `jax.jacfwd`, nested.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.flatten_util import ravel_pytree

diffrax = pytest.importorskip("diffrax")
einops = pytest.importorskip("einops")
eqx = pytest.importorskip("equinox")
nn = pytest.importorskip("flax.linen")
nnx = pytest.importorskip("flax.nnx")

import jetfold as jf

KEY = np.array([0, 1], dtype=np.uint32)  # a raw key: what eval_shape is given, and dropout

# ------------------------------------------------------------------ how modules become functions


def flax(module: Any, shape: tuple[int, ...], **call: Any) -> tuple[Any, Callable[..., Any]]:
    """The shapes of a linen module's variables, and its function of them and of a point."""
    shapes = jax.eval_shape(partial(module.init, **call), KEY, np.zeros(shape))
    return shapes, lambda variables, x: module.apply(variables, x, **call)


def equinox(make: Callable[..., Any]) -> tuple[Any, Callable[..., Any]]:
    """The same of an Equinox module."""
    model = eqx.filter_eval_shape(make, jax.ShapeDtypeStruct((2,), np.uint32))
    arrays, static = eqx.partition(model, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))
    return arrays, lambda arrays, x: eqx.combine(arrays, static)(x)


def plain(
    function: Callable[..., Any], **shapes: tuple[int, ...]
) -> tuple[Any, Callable[..., Any]]:
    """A function of a dictionary of arrays."""
    return {k: jax.ShapeDtypeStruct(s, float) for k, s in shapes.items()}, function


# ------------------------------------------------------------------ coordinates → value


class Siren(nn.Module):
    """Sitzmann et al., "Implicit neural representations with periodic activations" (2020)."""

    features: tuple[int, ...] = (5, 5)
    omega: float = 2.0

    @nn.compact
    def __call__(self, x):
        for size in self.features:
            init = nn.initializers.uniform(scale=math.sqrt(6 / x.shape[-1]) / self.omega)
            x = jnp.sin(self.omega * nn.Dense(size, kernel_init=init)(x))
        return nn.Dense(1)(x)


def modified_mlp(params: Any, x: Any) -> Any:
    """Fourier features and the gates of Wang, Teng, Perdikaris (2021)."""
    proj = 2 * jnp.pi * x @ (0.3 * params["B"])
    h = jnp.concatenate([jnp.sin(proj), jnp.cos(proj)], axis=-1)
    u, v = jnp.tanh(h @ params["u"]), jnp.tanh(h @ params["v"])
    for k in ("w0", "w1"):
        h = jnp.tanh(jnp.dot(h, params[k]))
        h = jnp.multiply(h, u) + jnp.multiply(1 - h, v)
    return jnp.dot(h, params["out"])


class ResNet(nn.Module):
    blocks: int = 2
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x, deterministic: bool = True):
        x = nn.Dense(4)(x)
        for _ in range(self.blocks):
            h = nn.gelu(nn.Dense(6)(nn.LayerNorm(epsilon=1e-5)(x)))
            h = nn.Dropout(self.dropout, deterministic=deterministic)(h)
            x = x + nn.Dense(4)(h)
        return nn.Dense(1)(nn.RMSNorm()(x))


class DeepONet(eqx.Module):
    """Lu et al. (2021): branch of the sensors, trunk of the coordinates."""

    branch: eqx.nn.MLP
    trunk: eqx.nn.MLP
    bias: Any
    sensors: Any

    def __init__(self, key):
        k1, k2, k3 = jax.random.split(key, 3)
        self.branch = eqx.nn.MLP(4, 3, 5, 1, activation=jax.nn.silu, key=k1)
        self.trunk = eqx.nn.MLP(2, 3, 5, 1, jnp.tanh, final_activation=jnp.tanh, key=k2)
        self.bias, self.sensors = jnp.zeros(()), jax.random.normal(k3, (3, 4))

    def __call__(self, y):
        return jnp.einsum("bp,p->b", jax.vmap(self.branch)(self.sensors), self.trunk(y)) + self.bias


def b_splines(x: Any, grid: Any, order: int) -> Any:
    """The basis functions of every entry, by the recursion of de Boor."""
    x = x[..., None]
    bases = jnp.where((x >= grid[:-1]) & (x < grid[1:]), 1.0, 0.0)
    for k in range(1, order + 1):
        left, right = grid[: -(k + 1)], grid[k + 1 :]
        bases = (x - left) / (grid[k:-1] - left) * bases[..., :-1] + (
            (right - x) / (right - grid[1:-k]) * bases[..., 1:]
        )
    return bases


def kan(params: Any, x: Any, order: int = 4, size: int = 3) -> Any:
    """Liu et al. (2024): splines on edges beside a base function."""
    grid = jnp.arange(-order, size + order + 1) * 2.0 / size - 1
    for k in ("0", "1"):
        splines = jnp.einsum("...ig,oig->...o", b_splines(x, grid, order), params["spline" + k])
        x = jax.nn.silu(x) @ params["base" + k].T + splines
    return x


def hypernetwork(params: Any, x: Any) -> Any:
    """The weights of a network of x, made from a code of x."""
    target = {"w": jnp.zeros((2, 3)), "b": jnp.zeros(3), "out": jnp.zeros((3, 1))}
    flat, unravel = ravel_pytree(target)
    code = jax.nn.softplus(x @ params["code"])
    weights = unravel(code @ params["head"].reshape(4, flat.size))
    return jax.nn.selu(x @ weights["w"] + weights["b"]) @ weights["out"]


class Parametrized(nn.Module):
    """Layers whose weights are normed, or have a low-rank update."""

    @nn.compact
    def __call__(self, x):
        x = jnp.tanh(nn.WeightNorm(nn.Dense(4))(x))
        x = jnp.tanh(nn.WeightNorm(nn.Dense(4), feature_axes=None)(x))
        w = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)))  # frozen
        a = self.param("lora_a", nn.initializers.normal(), (4, 2))
        b = self.param("lora_b", nn.initializers.zeros, (2, 3))
        x = jnp.tanh(x @ (w + 0.5 * a @ b))
        return nn.Dense(1)(x)


def lora() -> tuple[Any, Callable[..., Any]]:
    """Flax's own LoRA, of nnx."""

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Linear(2, 4, rngs=rngs)
            self.second = nnx.LoRALinear(4, 3, lora_rank=2, rngs=rngs)
            self.norm = nnx.LayerNorm(3, rngs=rngs)

        def __call__(self, x):
            return self.norm(nnx.silu(self.second(jnp.tanh(self.first(x)))))[:1]

    graph, state = nnx.split(nnx.eval_shape(lambda: Model(nnx.Rngs(0))))
    return state, lambda state, x: nnx.merge(graph, state)(x)


def complex_network(params: Any, x: Any) -> Any:
    z = lax.complex(x @ params["real"], x @ params["imag"])
    z = jnp.tanh(z @ (params["w"] + 1j * params["v"]))
    modulus = jnp.abs(z)
    z = jax.nn.softplus(modulus + params["bias"]) * z / (1e-3 + modulus)
    z = jnp.exp(1j * jnp.angle(z)) + jnp.conj(z) * z
    return z @ (params["out"] + 0.5j)


# ------------------------------------------------------------------ densities


def mixture_density(params: Any, p: Any) -> Any:
    """log p(y | x) of a mixture of Gaussians (Bishop 1994)."""
    x, y = p[:1], p[1]
    h = jnp.tanh(x @ params["w"] + params["b"])
    log_pi = jax.nn.log_softmax(h @ params["pi"])
    scale = jax.nn.softplus(h @ params["sigma"]) + 1e-3
    log_prob = jax.scipy.stats.norm.logpdf(y, loc=h @ params["mu"], scale=scale)
    return jax.scipy.special.logsumexp(log_pi + log_prob, axis=-1)


class RealNVP(eqx.Module):
    """Coupling layers with masks and the log-determinants of their Jacobians (Dinh et al. 2017)."""

    nets: list[eqx.nn.MLP]

    def __init__(self, key):
        keys = jax.random.split(key, 2)
        self.nets = [eqx.nn.MLP(1, 2, 4, 1, activation=jax.nn.silu, key=k) for k in keys]

    def __call__(self, x):
        log_det = 0.0
        for net in self.nets:
            x1, x2 = jnp.split(x, 2)
            shift, log_scale = net(x1)
            log_scale = jnp.tanh(log_scale)
            x = jnp.concatenate([x2 * jnp.exp(log_scale) + shift, x1])
            log_det += log_scale
        return jax.scipy.stats.norm.logpdf(x).sum() + log_det


def residual(params: Any, x: Any) -> Any:
    return x + 0.3 * jnp.tanh(x @ params["w"] + params["b"]) @ params["v"]


def jacobian_flow(params: Any, x: Any) -> Any:
    """A residual flow whose log-determinant is that of `jax.jacrev`."""
    _, log_det = jnp.linalg.slogdet(jax.jacrev(partial(residual, params))(x))
    return -0.5 * jnp.sum(residual(params, x) ** 2) + log_det


def hamiltonian(params: Any, x: Any) -> Any:
    """The vector field of a learned Hamiltonian (Greydanus et al. 2019)."""
    dq, dp = jnp.split(jax.grad(lambda x: jnp.sum(residual(params, x) ** 2))(x), 2)
    return jnp.concatenate([dp, -dq])


# ------------------------------------------------------------------ dynamics and sequences


def vector_field(t: Any, y: Any, params: Any) -> Any:
    return jnp.tanh(jnp.append(y, t) @ params["w"] + params["b"]) @ params["v"]


def neural_ode(params: Any, x: Any) -> Any:
    """Chen et al. (2018), by diffrax."""
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(vector_field), diffrax.Euler(), t0=0.0, t1=1.0, dt0=0.25, y0=x, args=params,
        adjoint=diffrax.DirectAdjoint(), max_steps=4,
    )  # fmt: skip
    return solution.ys[-1, :1]


def ffjord(params: Any, x: Any) -> Any:
    """A continuous flow: the trace of the Jacobian, integrated beside the state by a scan."""

    def augmented(t, y):
        f, pullback = jax.vjp(lambda y: vector_field(t, y, params), y)
        (rows,) = jax.vmap(pullback)(jnp.eye(y.size))
        return f, -jnp.trace(rows)

    def midpoint(carry, t):
        y, logp = carry
        dy, _ = augmented(t, y)
        dy, dlogp = augmented(t + 0.25, y + 0.25 * dy)
        return (y + 0.5 * dy, logp + 0.5 * dlogp), None

    (y, logp), _ = lax.scan(midpoint, (x, 0.0), jnp.arange(2) / 2)
    return logp - 0.5 * jnp.sum(y**2)


class LSTM(nn.Module):
    """Flax's recurrent layers over a sequence."""

    @nn.compact
    def __call__(self, x):
        x = nn.RNN(nn.OptimizedLSTMCell(3, param_dtype=float))(x)
        return nn.Dense(1)(x[-1])


class GRU(eqx.Module):
    """The cell of Equinox in a scan, as its documentation writes it."""

    cell: eqx.nn.GRUCell
    linear: eqx.nn.Linear

    def __init__(self, key):
        ckey, lkey = jax.random.split(key)
        self.cell = eqx.nn.GRUCell(2, 3, key=ckey)
        self.linear = eqx.nn.Linear(3, 1, key=lkey)

    def __call__(self, x):
        def f(carry, row):
            return self.cell(row, carry), None

        out, _ = lax.scan(f, jnp.zeros((self.cell.hidden_size,)), x)
        return self.linear(out)


def rotary(x: Any) -> Any:
    """Su et al. (2021), by einops, on (time, heads, features)."""
    time, _, dim = x.shape
    freqs = jnp.outer(jnp.arange(time), 1.0 / (100 ** (jnp.arange(0, dim, 2) / dim)))
    freqs = einops.repeat(freqs, "t f -> t 1 (f r)", r=2)
    x1, x2 = jnp.moveaxis(einops.rearrange(x, "t h (d r) -> t h d r", r=2), -1, 0)
    rotated = einops.rearrange(jnp.stack((-x2, x1), axis=-1), "... d r -> ... (d r)")
    return x * jnp.cos(freqs) + rotated * jnp.sin(freqs)


class Transformer(nn.Module):
    """Tokens that each hold coordinates; a causal mask; blocks that are recomputed."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4)(x) + self.param("pos", nn.initializers.normal(), (x.shape[0], 4))
        h = nn.LayerNorm()(x)
        q, k, v = (nn.DenseGeneral((2, 2))(h) for _ in range(3))
        logits = jnp.einsum("thd,shd->hts", rotary(q), rotary(k)) / math.sqrt(2)
        mask = jnp.tril(jnp.ones((x.shape[0], x.shape[0]), dtype=bool))
        weights = jax.nn.softmax(jnp.where(mask, logits, -jnp.inf), axis=-1)
        x = x + nn.DenseGeneral(4, axis=(-2, -1))(jnp.einsum("hts,shd->thd", weights, v))
        x = x + nn.remat(Feedforward)()(nn.LayerNorm()(x))
        return einops.reduce(nn.Dense(1)(x), "t c -> c", "mean")


class Feedforward(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(x.shape[-1])(nn.gelu(nn.Dense(6)(x)))


class FlaxTransformer(nn.Module):
    """Flax's own attention, with a mask of padding."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4)(x)
        valid = jnp.array([True, True, False])
        mask = nn.combine_masks(nn.make_attention_mask(valid, valid), nn.make_causal_mask(valid))
        x = x + nn.MultiHeadDotProductAttention(num_heads=2)(nn.LayerNorm()(x), mask=mask)
        return nn.Dense(1)(x[1])


# ------------------------------------------------------------------ fields on grids


def bump(p: Any, size: int) -> Any:
    """The field of a bump whose amplitude and width are the coordinates, (size, size)."""
    s = jnp.linspace(0, 1, size) - 0.4
    return p[0] * jnp.exp(-p[1] * (s[:, None] ** 2 + s**2))


def spectral_conv2d(x: Any, weights: Any, modes: int) -> Any:
    """Li et al., "Fourier neural operator" (2021), of (x, y, channels)."""
    x_ft = jnp.fft.rfft2(x, axes=(0, 1))
    out_ft = jnp.zeros((*x_ft.shape[:2], weights[0].shape[-1]), dtype=x_ft.dtype)
    for corner, w in zip((slice(modes), slice(-modes, None)), weights, strict=True):
        out_ft = out_ft.at[corner, :modes].set(jnp.einsum("xyi,xyio->xyo", x_ft[corner, :modes], w))
    return jnp.fft.irfft2(out_ft, s=x.shape[:2], axes=(0, 1))


def fno(params: Any, p: Any) -> Any:
    size = 5
    grid = jnp.stack(jnp.meshgrid(*[jnp.linspace(0, 1, size)] * 2, indexing="ij"), axis=-1)
    x = jnp.concatenate([bump(p, size)[..., None], grid], axis=-1) @ params["lift"]
    x = jnp.pad(x, ((0, 1), (0, 1), (0, 0)))
    for k in ("0", "1"):
        weights = params["re" + k] + 1j * params["im" + k]
        x = jax.nn.gelu(spectral_conv2d(x, weights, 2) + x @ params["w" + k])
    return x[1, :-1:3] @ params["out"]


class UNet(nn.Module):
    """Ronneberger et al. (2015), with pooling down and `jax.image.resize` up."""

    @nn.compact
    def __call__(self, p):
        x1 = self.block(bump(p, 5)[..., None], 2)
        x2 = self.block(nn.avg_pool(x1, (2, 2), (2, 2)), 3)
        x2 = jax.image.resize(x2, (*x1.shape[:2], 3), method="bilinear")
        x = nn.Conv(2, (3, 3))(jnp.concatenate([x1, x2], axis=-1))
        x = jax.image.resize(x, (7, 7, 2), method="cubic")
        return nn.Conv(1, (1, 1))(x)[3, ::4, 0]

    def block(self, x, features):
        return nn.silu(nn.GroupNorm(1)(nn.Conv(features, (3, 3), use_bias=False)(x)))


# ------------------------------------------------------------------ graphs and particles

SENDERS, RECEIVERS = np.array([0, 1, 1, 2, 2, 0]), np.array([1, 0, 2, 1, 0, 2])


def segment_softmax(logits: Any, segment_ids: Any, num_segments: int) -> Any:
    """In the way of jraph."""
    maxs = jax.ops.segment_max(logits, segment_ids, num_segments)
    logits = jnp.exp(logits - lax.stop_gradient(maxs)[segment_ids])
    return logits / jax.ops.segment_sum(logits, segment_ids, num_segments)[segment_ids]


def graph_network(params: Any, x: Any) -> Any:
    """One convolution with normalised degrees, one attention; node features are the coordinates."""
    n = x.shape[0]
    senders, receivers = (np.concatenate([e, np.arange(n)]) for e in (SENDERS, RECEIVERS))
    degree = jax.ops.segment_sum(jnp.ones_like(senders, x.dtype), receivers, n)
    h = (x @ params["gcn"]) * lax.rsqrt(jnp.maximum(degree, 1.0))[:, None]
    h = jnp.tanh(jax.tree.map(lambda e: jax.ops.segment_sum(e[senders], receivers, n), h))
    h = h @ params["gat"]
    pairs = jnp.concatenate([h[senders], h[receivers]], axis=-1)
    alpha = segment_softmax(jax.nn.leaky_relu(pairs @ params["att"], 0.2), receivers, n)
    h = jax.nn.elu(jnp.zeros_like(h).at[receivers].add(alpha[:, None] * h[senders]))
    return h.mean(axis=0) @ params["out"]


def schnet(params: Any, pos: Any) -> Any:
    """Schütt et al. (2018): the energy by continuous-filter convolutions."""
    cutoff, offset = 6.0, jnp.linspace(0.0, 6.0, 4)
    d = jnp.linalg.norm(pos[SENDERS] - pos[RECEIVERS], axis=-1)
    smeared = jnp.exp(-0.5 / (offset[1] - offset[0]) ** 2 * (d[:, None] - offset) ** 2)
    C = jnp.where(d < cutoff, 0.5 * (jnp.cos(d * jnp.pi / cutoff) + 1.0), 0.0)
    W = (jax.nn.softplus(smeared @ params["f0"]) @ params["f1"]) * C[:, None]
    h = params["embedding"][np.array([1, 0, 1])]
    h = h + jax.ops.segment_sum(h[SENDERS] * W, RECEIVERS, num_segments=pos.shape[0])
    return jnp.sum((jax.nn.softplus(h @ params["a"]) - math.log(2.0)) @ params["out"])


def forces(params: Any, pos: Any) -> Any:
    return -jax.grad(partial(schnet, params))(pos)


def egnn(params: Any, coord: Any) -> Any:
    """Satorras et al. (2021): equivariant updates of coordinates and features."""
    h = params["h0"]

    def edge_mlp(h_i, h_j, radial):
        return jax.nn.silu(jnp.hstack([h_i, h_j, radial]) @ params["edge"])

    difference = coord[RECEIVERS] - coord[SENDERS]
    radial = jnp.sum(difference**2, axis=1, keepdims=True)
    messages = jax.vmap(edge_mlp)(h[RECEIVERS], h[SENDERS], radial)
    weights = jnp.tanh(messages @ params["coord"])[:, None] / (jnp.sqrt(radial + 1e-8) + 1)
    coord = coord + jax.ops.segment_sum(difference * weights, RECEIVERS, 3)
    total = jax.ops.segment_sum(messages, RECEIVERS, 3)
    h = h + jax.nn.silu(jnp.concatenate([h, total], axis=-1) @ params["node"])
    return h.sum(0) @ params["out"] + jnp.linalg.norm(coord[0])


def ferminet(params: Any, pos: Any) -> Any:
    """Pfau et al. (2020): streams of electrons and pairs, determinants, log |ψ|."""
    n = pos.shape[0]
    ae = pos[:, None, :] - jnp.array([[0.0, 0.0, 0.5]])
    ee = pos[None] - pos[:, None]
    r_ae = jnp.linalg.norm(ae, axis=2, keepdims=True)
    eye = jnp.eye(n)[..., None]
    r_ee = jnp.linalg.norm(ee + eye, axis=-1, keepdims=True) * (1.0 - eye)
    h_two = jnp.tanh(jnp.concatenate((r_ee, ee), axis=2) @ params["two"])
    h_one = jnp.reshape(jnp.concatenate((r_ae, ae), axis=2), [n, -1])
    g = jnp.concatenate([h_one, jnp.tile(h_one.mean(0), [n, 1]), h_two.mean(0)], axis=1)
    h_one = jnp.tanh(g @ params["one"])
    envelope = jnp.sum(jnp.exp(-r_ae * jax.nn.softplus(params["sigma"])), axis=1)
    orbitals = (h_one @ params["orbitals"]) * envelope
    matrices = jnp.transpose(orbitals.reshape(n, 2, n), (1, 0, 2))
    signs, logdets = jnp.linalg.slogdet(matrices)
    maximum = jnp.max(logdets)
    return jnp.log(jnp.abs(jnp.dot(signs * jnp.exp(logdets - maximum), params["w"]))) + maximum


# ------------------------------------------------------------------ the table


@dataclass
class Network:
    """
    Attributes:
        make: (the shapes of its parameters, the function of parameters and a point).
        shape: of one point; all its axes are coordinates.
        order: of the second operator beside the Laplacian.
        mapped: evaluated by `jax.vmap` of the operator; else with `batch_dims=1`.
        general: operations that legitimately have no rule of their own.
    """

    make: Callable[[], tuple[Any, Callable[..., Any]]]
    shape: tuple[int, ...] = (2,)
    order: int = 2
    mapped: bool = False
    general: str = ""


NETWORKS = {
    "SIREN": Network(lambda: flax(Siren(), (2,)), order=4, mapped=True),
    "Fourier features": Network(
        lambda: plain(modified_mlp, B=(2, 3), u=(6, 4), v=(6, 4), w0=(6, 4), w1=(4, 4), out=(4,))
    ),
    "ResNet with LayerNorm": Network(lambda: flax(ResNet(), (2,))),
    "DeepONet": Network(lambda: equinox(DeepONet)),
    "KAN": Network(
        lambda: plain(kan, base0=(3, 2), spline0=(3, 2, 7), base1=(1, 3), spline1=(1, 3, 7))
    ),
    "hypernetwork": Network(lambda: plain(hypernetwork, code=(2, 4), head=(4, 12)), order=3),
    "normed layers": Network(lambda: flax(Parametrized(), (2,))),
    "LoRA": Network(lora, mapped=True),
    "complex network": Network(
        lambda: plain(
            complex_network, real=(2, 3), imag=(2, 3), w=(3, 3), v=(3, 3), bias=(3,), out=(3,)
        ),
        mapped=True,
    ),
    "mixture density": Network(
        lambda: plain(mixture_density, w=(1, 4), b=(4,), pi=(4, 3), mu=(4, 3), sigma=(4, 3))
    ),
    "RealNVP": Network(lambda: equinox(RealNVP)),
    "flow with a Jacobian": Network(lambda: plain(jacobian_flow, w=(2, 3), b=(3,), v=(3, 2))),
    "Hamiltonian network": Network(
        lambda: plain(hamiltonian, w=(2, 3), b=(3,), v=(3, 2)), order=3, mapped=True
    ),
    "neural ODE": Network(
        lambda: plain(neural_ode, w=(3, 4), b=(4,), v=(4, 2)), general="vprim|maybe_set|fn_wrapper"
    ),
    "FFJORD": Network(lambda: plain(ffjord, w=(3, 4), b=(4,), v=(4, 2))),
    "LSTM": Network(lambda: flax(LSTM(), (2, 2)), (2, 2), mapped=True),
    "GRU": Network(lambda: equinox(GRU), (2, 2)),
    "Transformer": Network(lambda: flax(Transformer(), (3, 2)), (3, 2), mapped=True),
    "Flax's Transformer": Network(lambda: flax(FlaxTransformer(), (3, 2)), (3, 2)),
    "FNO": Network(
        lambda: plain(
            fno,
            lift=(3, 2),
            out=(2,),
            w0=(2, 2),
            w1=(2, 2),
            **{k: (2, 2, 2, 2, 2) for k in ("re0", "im0", "re1", "im1")},
        )
    ),
    "U-Net": Network(lambda: flax(UNet(), (2,))),
    "graph network": Network(
        lambda: plain(graph_network, gcn=(2, 4), gat=(4, 3), att=(6,), out=(3,)),
        (3, 2),
        mapped=True,
    ),
    "SchNet with forces": Network(
        lambda: plain(forces, f0=(4, 3), f1=(3, 3), embedding=(2, 3), a=(3, 3), out=(3,)), (3, 2)
    ),
    "EGNN": Network(
        lambda: plain(egnn, h0=(3, 3), edge=(7, 3), coord=(3,), node=(6, 3), out=(3,)),
        (3, 2),
        mapped=True,
    ),
    "FermiNet": Network(
        lambda: plain(ferminet, two=(4, 3), one=(11, 4), sigma=(4,), orbitals=(4, 4), w=(2,)),
        (2, 3),
    ),
}

# ------------------------------------------------------------------ the reference


def operators(shape: tuple[int, ...], order: int) -> dict[str, Any]:
    """The Laplacian, and an operator of a given order with mixed derivatives."""
    t, x, *rest = jf.partials(math.prod(shape))
    squares = sum((v**2 for v in (x, *rest)), t**2)
    mixed = {2: t - t * x, 3: t - x**2 + t * x**2, 4: squares**2}[order]
    return {"laplacian": squares, "mixed": mixed}


def nested(u: Callable[[Any], Any], p: Any, wanted: dict[str, Any]) -> dict[str, Any]:
    """The operators of u at one point by nested forward mode, mapped over the monomials."""
    monomials = sorted({m for operator in wanted.values() for m in operator.symbol.terms})
    directions = np.zeros((len(monomials), max(map(len, monomials)), p.size))
    for row, monomial in zip(directions, monomials, strict=True):
        row[range(len(monomial)), list(monomial)] = 1.0

    def pushed(f: Callable[[Any], Any], v: Any) -> Callable[[Any], Any]:
        def following(x: Any) -> Any:  # the value, the first derivative, …
            values, tangents = jax.jvp(f, (x,), (v,))
            return [*values, tangents[-1]]

        return following

    def along(directions: Any) -> Any:
        f = lambda x: [u(x.reshape(p.shape))]
        return functools.reduce(pushed, directions, f)(p.reshape(-1))

    found = jax.vmap(along)(directions)
    known = {m: found[len(m)][k] for k, m in enumerate(monomials)}
    return {
        name: sum(float(c) * known[m] for m, c in operator.symbol.terms.items())
        for name, operator in wanted.items()
    }


def filled(shapes: Any, rng: np.random.Generator) -> Any:
    """Parameters in general position."""
    return jax.tree.map(lambda s: jnp.asarray(rng.normal(size=s.shape) * 0.5), shapes)


def close(ours: Any, expected: Any) -> None:
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert np.isfinite(b).all()
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-9 * max(1.0, abs(b).max(initial=0.0)))


@functools.cache
def quick() -> dict[str, Any]:
    """XLA's emitters of fused loops take two thirds of the time to compile; JAX 0.12 has no choice."""
    options = {"xla_cpu_use_fusion_emitters": False}
    try:
        jax.jit(lambda x: x, compiler_options=options)(0.0)
    except jax.errors.JaxRuntimeError:
        return {}
    return options


def jitted(f: Callable[..., Any]) -> Callable[..., Any]:
    return jax.jit(f, compiler_options=quick())


def residual_loss(results: dict[str, Any]) -> Any:
    return sum(jnp.mean(jnp.abs(r - 0.1) ** 2) for r in results.values())


def compare(network: Network, apply: Callable[..., Any], params: Any, rng: Any) -> None:
    """Values, and the gradient of a residual loss to the parameters along a random direction.

    The latter against differences of the former.
    """
    points = jnp.asarray(rng.normal(size=(2, *network.shape)) * 0.5)
    wanted = operators(network.shape, network.order)

    def ours(params, points):
        u, operator = partial(apply, params), jf.derivatives(wanted)
        if network.mapped:
            results = jax.vmap(operator(u))(points)
        else:
            results = operator(jax.vmap(u), batch_dims=1)(points)
        return residual_loss(results), results

    def expected(params, points):
        results = jax.vmap(lambda p: nested(partial(apply, params), p, wanted))(points)
        return residual_loss(results), results

    with jf.strict() if not network.general else pytest.warns(jf.JetfoldWarning) as warned:
        gradient, found = jitted(jax.grad(ours, has_aux=True))(params, points)
    for warning in warned or ():
        assert re.search(network.general, str(warning.message)), warning
    expected = jitted(expected)
    results = expected(params, points)[1]
    close(found, results)
    assert all(abs(result).max() > 1e-6 for result in results.values())
    direction = filled(params, rng)

    def loss(step):
        return expected(jax.tree.map(lambda w, v: w + step * v, params, direction), points)[0]

    slope = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, gradient, direction)))
    h = 1e-4
    difference = (8 * (loss(h) - loss(-h)) - (loss(2 * h) - loss(-2 * h))) / (12 * h)
    assert abs(difference) > 1e-6
    np.testing.assert_allclose(slope, difference, rtol=1e-6)


# ------------------------------------------------------------------ tests


@pytest.mark.parametrize("name", NETWORKS)
def test_jitted(name: str, rng: np.random.Generator) -> None:
    network = NETWORKS[name]
    shapes, apply = network.make()
    compare(network, apply, filled(shapes, rng), rng)


def test_eager(rng: np.random.Generator) -> None:
    shapes, apply = NETWORKS["SIREN"].make()
    params, p = filled(shapes, rng), jnp.asarray(rng.normal(size=2))
    wanted = operators((2,), 3)
    with jf.strict():
        ours = jf.derivatives(wanted)(partial(apply, params))(p)
    close(ours, jitted(lambda p: nested(partial(apply, params), p, wanted))(p))


def test_dropout(rng: np.random.Generator) -> None:
    """One mask for all coefficients: the derivatives of the network that it leaves."""
    module = ResNet(blocks=1, dropout=0.5)

    def apply(params, x):
        return module.apply(params, x, deterministic=False, rngs={"dropout": jnp.asarray(KEY)})

    shapes, _ = flax(module, (2,))
    compare(Network(lambda: (shapes, apply), mapped=True), apply, filled(shapes, rng), rng)


def test_several_functions_of_a_deeponet(rng: np.random.Generator) -> None:
    """Coordinates that are not the first argument, mapped over functions and over points."""
    shapes, _ = NETWORKS["DeepONet"].make()
    wave = jf.partials(2)[0] ** 2 - 2 * jf.partials(2)[1] ** 2
    net = eqx.combine(
        filled(shapes, rng), eqx.filter_eval_shape(DeepONet, jax.ShapeDtypeStruct((2,), np.uint32))
    )
    u = lambda sensors, y: jnp.dot(net.branch(sensors), net.trunk(y))
    sensors, points = jnp.asarray(rng.normal(size=(3, 4))), jnp.asarray(rng.normal(size=(2, 2)))

    def over_both(f):
        return jitted(jax.vmap(jax.vmap(f, (None, 0)), (0, None)))(sensors, points)

    expected = over_both(lambda s, y: nested(partial(u, s), y, {"wave": wave})["wave"])
    close(over_both(wave(u, argnums=1)), expected)
