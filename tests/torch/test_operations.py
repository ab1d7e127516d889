"""Every operation of the table, in every form, against nested torch.func, first to fourth order."""

from __future__ import annotations

import math
import re
import types
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import jetfold as jf
from jetfold.core import jet as core_jet
from jetfold.core.plans import path_algebra
from jetfold.torch import overload
from jetfold.torch.overload import Jet, NewLevel, make_jet
from jetfold.torch.table import NAMES


class Case(NamedTuple):
    """Expressions in x, y, z, tensors of the given shapes, and in constants c, d, e like them.

    form := reference, where PyTorch's own nested derivatives of the form are missing, or are wrong:
    those of layer_norm, det, solve and a few more are from the second order on, without a word.
    """

    shapes: Sequence[tuple[int, ...]]
    domain: tuple[float, float]
    forms: Sequence[str]
    order: int  # of the highest derivatives; linear operations mix no more than two

    def __call__(self, *jets: Any) -> list[Any]:
        generator = np.random.default_rng(1)
        constants = [torch.as_tensor(generator.uniform(*self.domain, s)) for s in self.shapes]
        if not isinstance(jets[0], Jet):
            forms = [form.split(":=")[-1] for form in self.forms]
        else:
            forms = [form.split(":=")[0] for form in self.forms]
        names = dict(zip("xyz", jets, strict=False)) | dict(zip("cde", constants, strict=False))
        names |= {"normal": normal, "det": det, "spd": spd, "lower": lower}
        names |= {"orthonormal": orthonormal, "eliminated": eliminated}
        scope = names | {"torch": torch, "F": F, "np": np, "math": math, "index": torch.tensor}
        return [eval(form.strip(), scope) for form in forms]


def normal(x: Any, dims: Any, eps: float = 1e-5) -> Any:
    """(x − mean)/√(var + eps)."""
    centred = x - x.mean(dims, keepdim=True)
    return centred / ((centred * centred).mean(dims, keepdim=True) + eps).sqrt()


def det(x: Any) -> Any:
    """The determinant, by cofactors."""
    if x.shape[-1] == 1:
        return x[..., 0, 0]
    rest = [torch.cat([x[..., 1:, :j], x[..., 1:, j + 1 :]], -1) for j in range(x.shape[-1])]
    return sum((-1) ** j * x[..., 0, j] * det(minor) for j, minor in enumerate(rest))


def matrix(entries: dict[tuple[int, int], Any], n: int, k: int) -> Any:
    """A matrix of entries, zero where there are none."""
    zero = torch.zeros_like(next(iter(entries.values())))
    rows = [[entries.get((i, j), zero) for j in range(k)] for i in range(n)]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def spd(x: Any) -> Any:
    """A symmetric positive definite matrix."""
    return x @ x.mT + torch.diag(torch.arange(1.0, 1 + x.shape[-2], dtype=x.dtype))


def lower(a: Any) -> Any:
    """The Cholesky factor, entry by entry."""
    n, found = a.shape[-1], {}
    for i in range(n):
        for j in range(i + 1):
            rest = a[..., i, j] - sum(found[i, k] * found[j, k] for k in range(j))
            found[i, j] = rest.sqrt() if i == j else rest / found[j, j]
    return matrix(found, n, n)


def orthonormal(a: Any) -> tuple[Any, Any]:
    """Q and R by Gram and Schmidt, the diagonal of R with the signs that LAPACK gives it."""
    signs = torch.linalg.qr(a.detach()).R.diagonal(0, -2, -1).sign()
    columns, r = [], {}
    for j in range(a.shape[-1]):
        column = a[..., j]
        for i, q in enumerate(columns):
            r[i, j] = (q * a[..., j]).sum(-1)
            column = column - r[i, j].unsqueeze(-1) * q
        r[j, j] = (column * column).sum(-1).sqrt() * signs[..., j]
        columns.append(column / r[j, j].unsqueeze(-1))
    return torch.stack(columns, -1), matrix(r, a.shape[-1], a.shape[-1])


def eliminated(a: Any) -> tuple[Any, Any, Any]:
    """P, L and U by Gauss's elimination, in the order of rows that LAPACK chose."""
    p, n = torch.linalg.lu(a.detach()).P, a.shape[-1]
    rows = list((p.mT @ a).unbind(-2))
    factors = {(i, i): torch.ones_like(a[..., 0, 0]) for i in range(n)}
    for j in range(n):
        for i in range(j + 1, n):
            factors[i, j] = rows[i][..., j] / rows[j][..., j]
            rows[i] = rows[i] - factors[i, j].unsqueeze(-1) * rows[j]
    return p, matrix(factors, n, n), torch.stack(rows, -2).triu()


GONE = {"cholesky", "qr"} if isinstance(torch.qr, types.FunctionType) else set()
"""Functions of PyTorch's top level that since 2.14 only raise."""


def cases(shapes: str, low: float, high: float, *rows: str, order: int = 4) -> list[Case]:
    """One case per row; a row lists the forms of one operation, separated by semicolons."""
    parsed = [tuple(int(n) for n in s.split(",") if n) for s in shapes.split(" ")]
    gone = re.compile(rf"(torch|[xyz]|\))\.({'|'.join(GONE) or '-'})\(")
    forms = [[f.strip() for f in row.split(";") if not gone.search(f)] for row in rows]
    return [Case(parsed, (low, high), row, order) for row in forms]


CASES = [
    # ---- arithmetic
    *cases(
        "2,3 3",
        -2,
        2,
        "x + y; y + x; x + d; d + x; c + y; 1.5 + x; x + 2; torch.add(x, y); x.add(y)",
        "torch.add(x, y, alpha=2.5); x.add(d, alpha=-1); torch.add(c, y, alpha=3)",
        "torch.add(input=x, other=y); x.add(other=1.0); torch.add(2.0, x)",
        "x - y; y - x; d - x; x - d; 1.5 - x; x - 1; torch.sub(x, y, alpha=2); torch.subtract(x, y)",
        "x.sub(y); x.subtract(other=y); torch.rsub(x, y); torch.rsub(x, 2.0, alpha=3); d.sub(x)",
        "x * y; y * x; c * y; d * x; 2 * x; x * 2.5; torch.mul(x, y); x.mul(other=y)",
        "torch.multiply(x, y); x.multiply(2.0); torch.mul(d, x); d.mul(x)",
        "np.float64(1.5) * x; x * np.float64(2); np.float32(0.5) + x; x * np.int64(3); 3 - x",
        "x * True; x * index(3); index(2.0) * x; x + index([1, 2, 3])",
        "-x; x.neg(); torch.neg(x); torch.negative(x); x.negative(); +x; torch.positive(x)",
        "torch.addcmul(x, y, c); x.addcmul(y, y, value=0.5); torch.addcmul(c, x, y, value=-1)",
        "torch.lerp(x, y, 0.3); x.lerp(y, d); torch.lerp(c, x, y); torch.lerp(x, y, weight=y)",
        "x ** 2; x ** 3; x.pow(5); torch.pow(x, 2.0); x ** 1; x ** 0; x.square(); torch.square(x)",
        "x ** index(2); x.pow(index([2, 3, 1])); torch.pow(x, exponent=4); x ** np.int64(3)",
        "2.0 ** x; torch.pow(2.0, x); torch.pow(3, y); c.abs() ** x; x.__rpow__(1.5)",
        "x.square(); x.float_power(2); torch.float_power(y, 3)",
        "torch.remainder(x, 1.3); x % 0.7; x.remainder(d); d % x.detach(); torch.fmod(x, 0.9)",
        "x.fmod(c); torch.frac(x); x.frac(); torch.remainder(2.0, x) := 2 - (2 // x.detach()) * x; 2.0 % x := 2 - (2 // x.detach()) * x",
        "torch.copysign(x, y); x.copysign(-1.0); torch.ldexp(x, y); x.ldexp(index(2))",
        "torch.heaviside(x, d) + x := torch.heaviside(x.detach(), d) + x; x // 0.5 + x := x.detach() // 0.5 + x; torch.floor_divide(x, y) + x := x.detach() // y.detach() + x; 3 // x + x := 3 // x.detach() + x",
        "torch.div(x, y, rounding_mode='floor') + x; x.div(0.3, rounding_mode='trunc') + x",
    ),
    *cases(
        "2,3 3",
        0.6,
        2.2,
        "x / y; y / x; c / y; x / d; 1 / x; x / 2; torch.div(x, y); x.div(other=y); torch.divide(x, y)",
        "x.divide(y); torch.true_divide(x, y); x.true_divide(3); np.float64(2) / x; 2.0 / y",
        "torch.addcdiv(x, y, c); x.addcdiv(c, x, value=0.5); torch.reciprocal(x); x.reciprocal()",
        "x ** y; torch.pow(x, y); x.pow(y); x ** 0.5; x ** -1; x ** -2.5; x ** d; d ** x; x ** y[0]",
        "x.float_power(y); torch.float_power(x, 0.3); torch.float_power(2.0, x)",
        "torch.hypot(x, y); x.hypot(d); torch.atan2(x, y); x.atan2(d); torch.arctan2(c, y)",
        "torch.atan2(x, -y); torch.atan2(-x, y); torch.atan2(-x, -0.1 * y); x.arctan2(other=y)",
        "torch.xlogy(x, y); x.xlogy(2.0); torch.xlogy(3.0, x); torch.special.xlogy(x, d)",
        "torch.sqrt(x); x.sqrt(); x.rsqrt(); torch.rsqrt(y)",
        "torch.log(x); x.log(); torch.log2(x); x.log2(); x.log10(); torch.log10(y); x.log1p()",
        "torch.log1p(y); torch.special.log1p(x)",
        "torch.lgamma(x); x.lgamma(); torch.special.gammaln(x)",
        "torch.digamma(x); x.digamma(); torch.special.psi(x); torch.special.digamma(y)",
        "torch.polygamma(1, x); x.polygamma(2); torch.special.polygamma(0, y)",
        "torch.mvlgamma(x + 2, 3); x.mvlgamma(1); torch.special.multigammaln(y + 1, 2)",
    ),
    # ---- elementary and special functions
    *cases(
        "2,2",
        -1.8,
        1.9,
        "torch.exp(x); x.exp(); torch.exp2(x); x.exp2(); torch.special.exp2(x); torch.expm1(x)",
        "x.expm1(); torch.special.expm1(x)",
        "torch.sin(x); x.sin(); torch.cos(x); x.cos(); torch.sin(input=x)",
        "torch.sinh(x); x.sinh(); torch.cosh(x); x.cosh(); torch.tanh(x); x.tanh(); F.tanh(x)",
        "torch.atan(x); x.arctan(); torch.asinh(x); x.arcsinh(); x.asinh(); x.atan()",
        "torch.sinc(x); x.sinc(); torch.special.sinc(x)",
        "torch.deg2rad(x); x.rad2deg(); x.deg2rad()",
        "torch.erf(x); x.erf(); torch.special.erf(x); torch.erfc(x); x.erfc(); torch.special.erfc(x)",
        "torch.special.ndtr(x)",
        "torch.logaddexp(x, c); torch.logaddexp(c, x * x); x.logaddexp(x); torch.logaddexp2(x, c)",
        "x.logaddexp2(c)",
    ),
    *cases(
        "2,2",
        -0.8,
        0.8,
        "torch.tan(x); x.tan()",
        "torch.asin(x); x.arcsin(); torch.acos(x); x.acos(); x.arccos(); x.asin()",
        "torch.atanh(x); x.arctanh(); x.atanh()",
        "torch.erfinv(x); x.erfinv(); torch.special.erfinv(x)",
    ),
    *cases(
        "2,2",
        0.2,
        0.8,
        "torch.logit(x); x.logit(); torch.special.logit(x); torch.logit(x, 0.1); x.logit(eps=0.3)",
        "torch.acosh(x + 1); (x + 2).arccosh(); (x + 1).acosh()",
    ),
    # ---- activations
    *cases(
        "2,4",
        -4.1,
        4.2,
        "F.relu(x); torch.relu(x); x.relu(); F.relu6(x); F.relu6(x * 3)",
        "F.leaky_relu(x); F.leaky_relu(x, 0.3); F.leaky_relu(x, negative_slope=0.2)",
        "F.elu(x); F.elu(x, 1.3); F.elu(x, alpha=0.7); F.celu(x, 1.5); torch.celu(x); F.selu(x)",
        "torch.selu(x)",
        "F.sigmoid(x); torch.sigmoid(x); x.sigmoid(); torch.special.expit(x); F.logsigmoid(x)",
        "F.softplus(x); F.softplus(x, 2.0); F.softplus(x, beta=8, threshold=15); F.softsign(x)",
        "F.silu(x); F.mish(x); F.gelu(x); F.gelu(x, approximate='tanh'); F.tanhshrink(x)",
        "F.hardtanh(x); F.hardtanh(x, -2.0, 3.0); F.hardtanh(x, min_val=-0.3); F.hardsigmoid(x) := F.relu6(x + 3) / 6",
        "F.hardswish(x); F.hardshrink(x); F.hardshrink(x, 1.5); torch.hardshrink(x); x.hardshrink(0.7)",
        "F.softshrink(x); F.softshrink(x, 0.9); F.threshold(x, 0.2, -1.0); torch.threshold(x, 1, 2)",
        "F.glu(x) := x[:, :2] * torch.sigmoid(x[:, 2:]); F.glu(x, 0) := x[:1] * torch.sigmoid(x[1:]); F.glu(x, dim=-1) := x[:, :2] * torch.sigmoid(x[:, 2:])",
        "F.prelu(x, index(0.2).double()); F.prelu(x, c[0]); torch.prelu(c, x[0]); x.prelu(c[0, :1])",
        "F.rrelu(x) := F.leaky_relu(x, 11 / 48); F.rrelu(x, 0.2, 0.4) := F.leaky_relu(x, 0.3); torch.rrelu(x) := F.leaky_relu(x, 11 / 48)",
    ),
    *cases(
        "2,3,4",
        -2,
        2,
        "F.softmax(x, -1); F.softmax(x, dim=1); torch.softmax(x, 0); x.softmax(-1); x.softmax(dim=2)",
        "torch.special.softmax(x, 1); F.softmin(x, -1); F.softmax(x, -1, dtype=torch.float64)",
        "F.log_softmax(x, -1); torch.log_softmax(x, 0); x.log_softmax(1)",
        "torch.special.log_softmax(x, -1); x[0, 0].softmax(0); x[0, 0, 0].softmax(0)",
        "torch.logsumexp(x, -1); x.logsumexp(0); torch.logsumexp(x, (0, 2)); x.logsumexp(1, True)",
        "torch.special.logsumexp(x, dim=-1, keepdim=True)",
    ),
    # ---- kinks and choices
    *cases(
        "2,3,4 4",
        -2,
        2,
        "torch.abs(x); x.abs(); abs(x); torch.absolute(x); x.absolute()",
        "torch.clamp(x, -0.5, 0.7); x.clamp(min=-0.2); x.clamp(max=0.1); torch.clip(x, 0, 1)",
        "x.clip(-1, 1); torch.clamp(x, d - 1, d); x.clamp(min=y, max=y + 1); x.clamp_min(0.3)",
        "torch.clamp_max(x, 0.4); x.clamp_max(d); torch.clamp_min(x, y); torch.clamp(c, min=y)",
        "torch.maximum(x, y); x.maximum(d); torch.minimum(x, c); c.minimum(y)",
        "torch.fmax(x, y); x.fmin(y); torch.fmin(c, x); torch.max(x, y); x.min(c); torch.min(d, x)",
        "x.max(); torch.min(x); x.max(1); torch.max(x, -1, True); x.min(dim=0, keepdim=True)",
        "torch.max(x, other=y); x.max(axis=1).values; x.min(2).indices",
        "x.amax(1); torch.amax(x, (0, 2)); x.amin(-1, keepdim=True); torch.amin(x); x.amax(dim=())",
        "torch.aminmax(x); x.aminmax(dim=1); torch.aminmax(x, dim=0, keepdim=True)",
        "torch.sort(x); x.sort(1); x.sort(dim=0, descending=True); torch.sort(x, stable=True, dim=1)",
        "torch.msort(x); x.msort(); x.topk(2); torch.topk(x, 2, 1, False); x.topk(k=1, dim=0)",
        "x.kthvalue(2); torch.kthvalue(x, 2, 1, True); x.median(); torch.median(x, 1); x.median(dim=0)",
        "x.nanmedian(); torch.nanmedian(x, -1); x.mode(1)[0]; torch.mode(x)[0]",
        "x.cummax(1); torch.cummin(x, dim=-1)",
        "torch.where(x > 0, x, y); torch.where(c > 0, x, 1.0); torch.where(d > 0, 2.0, y)",
        "x.where(c > 0, y); x.where(condition=c > 0, other=c); torch.where(d > 0, c, x)",
        "c.where(d > 0, x); torch.where(input=x, condition=x > y, other=y)",
        "x.masked_fill(d > 0, 2.0); torch.masked_fill(x, c > 0, 0); x.masked_fill(c > 0, y[0])",
        "c.masked_fill(c > 0, y[1]); torch.nan_to_num(x); x.nan_to_num(0.5)",
        "torch.sign(x) * x; x.sgn() * x; x.floor() * x; torch.ceil(x) + x; x.round(decimals=1) * x",
        "x.trunc() * x; torch.fix(x) * x; torch.angle(x) + x; torch.round(x) * y",
    ),
    # ---- products and contractions
    *cases(
        "3,4 4,2 4",
        -2,
        2,
        "x @ y; torch.matmul(x, y); x.matmul(d); c @ y; x @ z; z @ y; c @ z; e @ y; z @ z; x @ e",
        "torch.mm(x, y); x.mm(d); torch.mm(input=c, mat2=y); torch.mv(x, z); c.mv(z); x.mv(vec=e)",
        "torch.linalg.matmul(x, y); x.__rmatmul__(e.expand(2, 4).mT.mT @ torch.ones(4, 3).double())",
        "torch.dot(z, z); z.dot(e); torch.dot(e, tensor=z); torch.vdot(z, e); torch.inner(z, e)",
        "torch.inner(x, c); x.inner(z); torch.inner(x, y.mT); torch.inner(z, z)",
        "torch.outer(z, e); torch.ger(z, z); z.outer(y[:, 0]); z.outer(vec2=z)",
        "torch.linalg.vecdot(x, c); torch.linalg.vecdot(x, z); torch.linalg.vecdot(x, x, dim=0)",
        "torch.einsum('ij,jk->ik', x, y); torch.einsum('ij,jk', c, y); torch.einsum('ij->', x)",
        "torch.einsum('ij->ji', x); torch.einsum('ij,jk,j->i', x, y, z); torch.einsum('ii->i', x[:3, :3])",
        "torch.einsum('ij,jk,j', c, y, e); torch.einsum(x, [0, 1], y, [1, 2], [0, 2])",
        "torch.einsum('...j,jk->...k', x, y); torch.einsum('i,i', z, z); torch.einsum('ij,ij->j', [x, x])",
        "torch.tensordot(x, y, 1); torch.tensordot(x, d, dims=([1], [0])); torch.tensordot(z, e, 1)",
        "torch.tensordot(x, x, [[0, 1], [0, 1]]); torch.tensordot(z, e, 0)",
        "torch.addmm(c[:, :2], x, y); (x @ y).addmm(c, d, beta=0.5, alpha=2); torch.addmm(z[:2], c, y)",
        "torch.addmv(z[:3], x, e); z[:3].addmv(mat=c, vec=z, beta=2); torch.addr(c, z[:3], z)",
        "torch.addr(x.mT, e, z[:3], alpha=0.3); torch.kron(x[:2, :2], y[:2]); torch.kron(c, y)",
        "torch.chain_matmul(x, y, d.mT); torch.linalg.multi_dot([c, y, x[:2, :2]])",
        "F.linear(x, y.mT); F.linear(x, c); F.linear(c, y.mT, z[:2]); F.linear(z, x, z[:3])",
        "F.linear(x, d.mT, e[:2]); F.linear(e, c, z[:3]); F.linear(input=x, weight=c, bias=None)",
    ),
    *cases(
        "2,3,4 2,4,3 4,3",
        -2,
        2,
        "x @ y; torch.bmm(x, y); x.bmm(d); torch.bmm(c, mat2=y); x @ z; c @ z; z @ x; x @ z[:, 0]",
        "z[:, 0].reshape(4) @ y; torch.baddbmm(c[:, :, :3], x, y); torch.addbmm(c[0, :, :3], x, d)",
        "torch.baddbmm(x @ d, c, y, beta=0.2, alpha=3); x[:, :, :3].baddbmm(batch1=x, batch2=y)",
        "torch.einsum('bij,bjk->bik', x, y); torch.einsum('bij,bkj->bik', x, c); x @ x.mT",
        "torch.einsum('...ij,...jk->...ik', x, z); torch.tensordot(x, y, ([0, 2], [0, 1]))",
        "x.unsqueeze(1) @ y; x.unsqueeze(0) @ y[0]; torch.matmul(d, x); torch.inner(x, c)",
        "F.linear(x, z.mT); F.linear(x, z.mT, z[0]); F.linear(c, z.mT)",
        "torch.cross(y, d); torch.cross(y, d, dim=2); torch.linalg.cross(x.mT, c.mT); z.cross(z + e)",
        "torch.linalg.cross(y, y[:, :1]); torch.cross(x, c, 1)",
        "F.bilinear(x[0], z.mT, torch.ones(2, 4, 4).double(), None)",
        "F.bilinear(x, c, torch.ones(5, 4, 4).double().cumsum(0), z[:, 0].sum() * torch.ones(5).double())",
        "torch.bilinear(x, c, y.mT[:, :, :].reshape(2, 3, 4)[:, :1].expand(2, 4, 4), None)",
        "(x @ y).matrix_power(3); torch.matrix_power(x @ d, 2)",
        "torch.linalg.matrix_power(x @ y, 0) + (x @ y); torch.linalg.matrix_power(c @ y, 1)",
    ),
    *cases(
        "2,3,7 4,3,3 3,2,3 4",
        -1,
        1,
        "F.conv1d(x, d); F.conv1d(x, y); F.conv1d(c, y, z[0, 0, 0] + z.reshape(-1)[:4])",
        "F.conv1d(x, d, torch.ones(4).double(), 2, 1); torch.conv1d(x, y, stride=2, padding=1)",
        "F.conv1d(x[0], d); F.conv1d(x, d[:3, :1], groups=3); F.conv1d(x, d, padding='same')",
        "F.conv_transpose1d(x, e); F.conv_transpose1d(x, z, stride=2); F.conv_transpose1d(c[0], z)",
        "F.conv_transpose1d(x, e, torch.ones(2).double(), 2, 1, 1)",
    ),
    *cases(
        "2,2,4,5 3,2,2,2",
        -1,
        1,
        "F.conv2d(x, d); F.conv2d(x, y, torch.ones(3).double(), padding=1); F.conv2d(c, y, y[:, 0, 0, 0])",
        "F.conv_transpose2d(x, d.transpose(0, 1)); torch.conv2d(x[0], d, stride=(2, 1))",
        "F.conv3d(x.unsqueeze(1), d.unsqueeze(1)); F.conv_transpose3d(x.unsqueeze(2), d.mT[:2].unsqueeze(2))",
        "F.avg_pool2d(x, 2); F.avg_pool2d(x, 2, 1, 1); F.adaptive_avg_pool2d(x, (2, 3))",
        "F.avg_pool1d(x[0], 2); F.adaptive_avg_pool1d(x[:, 0], 2); F.avg_pool3d(x, 2)",
        "F.adaptive_avg_pool3d(x, (1, 2, 2))",
        "F.interpolate(x, scale_factor=2); F.interpolate(x, size=(3, 3), mode='bilinear')",
        "F.pixel_shuffle(x.reshape(1, 4, 4, 5), 2); F.pixel_unshuffle(x[:, :, :4, :4], 2)",
        "F.unfold(x, 2); F.unfold(x, kernel_size=(2, 3), padding=1); F.fold(F.unfold(x, 2), (4, 5), 2)",
        "F.pad(x, (1, 2)); F.pad(x, (1, 1, 0, 2), value=3.0); F.pad(x, (1, 1, 1, 1), mode='reflect')",
        "F.pad(x, (1, 0, 0, 1), 'replicate'); F.pad(x, (2, 1, 1, 1), 'circular'); F.pad(x, (-1, 1))",
        "torch.constant_pad_nd(x, (1, 2), 0.5); F.pad(x[0, 0, 0], (1, 1), 'constant', 2.0)",
    ),
    # ---- determinants and linear systems
    *cases(
        "2,3,3 2,3,2 3",
        -1,
        1,
        "torch.det(x) := det(x); x.det() := det(x); torch.linalg.det(x) := det(x); torch.linalg.det(x[0, :2, :2]) := det(x[0, :2, :2]); torch.det(x[:, :1, :1]) := x[:, 0, 0]",
        "torch.linalg.slogdet(x) := (det(x).sign(), det(x).abs().log()); torch.slogdet(x[0])[1] := det(x[0]).abs().log(); x.slogdet()[1] := det(x).abs().log(); torch.linalg.slogdet(x).sign * 2 := det(x).sign() * 2",
        "torch.logdet(x @ x.mT + torch.eye(3).double()) := det(x @ x.mT + torch.eye(3).double()).log(); (x @ x.mT).logdet() := det(x @ x.mT).log()",
        "torch.linalg.inv(x); torch.inverse(x[0]); x.inverse()",
        "torch.linalg.solve(x, y) := x.inverse() @ y; torch.linalg.solve(c, y); torch.linalg.solve(x, d) := x.inverse() @ d; torch.linalg.solve(x, z) := x.inverse() @ z",
        "torch.linalg.solve(x, y[:, :, 0]) := (x.inverse() @ y)[..., 0]; torch.linalg.solve(x[0], y) := x[0].inverse() @ y; torch.linalg.solve(x, y[0]) := x.inverse() @ y[0]",
        "torch.linalg.solve(x, y.mT, left=False) := y.mT @ x.inverse(); torch.linalg.solve(x[0], e) := x[0].inverse() @ e; torch.linalg.solve_ex(x, y)[0] := x.inverse() @ y; torch.linalg.inv_ex(x)[0] := x.inverse()",
        "torch.matrix_power(x, -2); torch.linalg.matrix_power(x, -1)",
        "torch.det(x @ x.mT + torch.eye(3).double() * 2) := det(x @ x.mT + torch.eye(3).double() * 2); torch.cholesky_inverse(x.tril()) := (x.tril() @ x.tril().mT).inverse()",
    ),
    *cases(
        "4,4",
        -1,
        1,
        "torch.det(x) := det(x); torch.linalg.slogdet(x)[1] := det(x).abs().log(); torch.linalg.inv(x + 3 * torch.eye(4).double())",
    ),
    # ---- factorisations
    *cases(
        "2,3,3 3,2 2,3,2",
        -1,
        1,
        "torch.linalg.cholesky(spd(x)) := lower(spd(x)); torch.cholesky(spd(y)) := lower(spd(y)); torch.linalg.cholesky(spd(x), upper=True) := lower(spd(x)).mT; spd(y).cholesky(True) := lower(spd(y)).mT; torch.linalg.cholesky_ex(spd(x)).L := lower(spd(x))",
        "torch.cholesky_solve(y, lower(spd(x))) := spd(x).inverse() @ y; y.cholesky_solve(lower(spd(x)).mT, upper=True) := spd(x).inverse() @ y; torch.cholesky_solve(z, lower(spd(c))) := spd(c).inverse() @ z",
        "torch.linalg.qr(x).Q := orthonormal(x)[0]; torch.linalg.qr(x) := orthonormal(x); torch.linalg.qr(y) := orthonormal(y); torch.qr(z)[1] := orthonormal(z)[1]; x.qr().R := orthonormal(x)[1]; torch.linalg.qr(x, 'complete') := orthonormal(x)",
        "(lambda f: f.Q @ f.R)(torch.linalg.qr(y.mT)) := y.mT; torch.linalg.qr(y.mT).Q := orthonormal(y[:2].mT)[0]; torch.linalg.qr(z.mT, mode='complete').R := orthonormal(z[:, :2].mT)[0].mT @ z.mT",
        "torch.linalg.lu(z)[1:]; torch.linalg.lu(z.mT)[1:]; torch.linalg.lu_factor(y).LU; torch.linalg.lu_factor(y.mT).LU; (lambda f: f.P @ f.L @ f.U)(torch.linalg.lu(z)) := z",
        "torch.linalg.lu(x)[1:] := eliminated(x)[1:]; torch.linalg.lu(spd(x)).U := eliminated(spd(x))[2]; torch.linalg.lu_factor(x).LU + torch.eye(3).double() := eliminated(x)[1] + eliminated(x)[2]",
        "torch.linalg.eigvalsh(spd(x)); torch.linalg.eigvalsh(spd(y), UPLO='U'); torch.linalg.eigh(spd(z)).eigenvalues := torch.linalg.eigvalsh(spd(z))",
        "(lambda e: e.eigenvectors * e.eigenvalues.unsqueeze(-2) @ e.eigenvectors.mT)(torch.linalg.eigh(spd(x))) := spd(x); (lambda v: v.mT @ v)(torch.linalg.eigh(spd(x)).eigenvectors) := 0 * x + torch.eye(3).double()",
        "torch.linalg.eigvalsh((x + x.mT)[:, :2, :2]) := (lambda m, r: torch.stack([m - r, m + r], -1))(x[:, 0, 0] + x[:, 1, 1], torch.hypot(x[:, 0, 0] - x[:, 1, 1], x[:, 0, 1] + x[:, 1, 0]))",
    ),
    *cases(
        "2,3,3 3,2 2,3,2",
        0.4,
        1.6,
        "torch.linalg.solve_triangular(x, y, upper=False) := x.tril().inverse() @ y; torch.linalg.solve_triangular(c, z, upper=True) := c.triu().inverse() @ z; torch.linalg.solve_triangular(x[0], d, upper=True) := x[0].triu().inverse() @ d",
        "torch.linalg.solve_triangular(x, z.mT, upper=True, left=False) := z.mT @ x.triu().inverse(); torch.linalg.solve_triangular(x, y, upper=False, unitriangular=True) := (x.tril(-1) + torch.eye(3).double()).inverse() @ y; torch.linalg.solve_triangular(x, e, upper=False, left=True) := x.tril().inverse() @ e",
    ),
    # ---- reductions
    *cases(
        "2,3,4",
        0.4,
        2.1,
        "x.sum(); torch.sum(x); x.sum(0); torch.sum(x, (0, 2)); x.sum(dim=-1, keepdim=True); x.sum(axis=1)",
        "x.sum(1, True); x.sum([0, 1]); x.sum(dtype=torch.float64); torch.sum(x, dim=()); x[0, 0, 0].sum()",
        "torch.sum(x, axis=0, keepdims=True); x.nansum(); torch.nansum(x, 1); x.nansum(dim=0, keepdim=True)",
        "x.mean(); torch.mean(x, 0); x.mean((0, 1), keepdim=True); x.mean(dim=2); x[0, 0, 0].mean()",
        "x.nanmean(); torch.nanmean(x, -1, True)",
        "x[0].trace(); torch.trace(x[:, 0]); x.cumsum(0); torch.cumsum(x, dim=-1); x.cumsum(axis=1)",
        "x.prod(); torch.prod(x, 1); x.prod(-1, keepdim=True); x[0, 0].prod(0); x.prod(dim=0)",
        "x.cumprod(1); torch.cumprod(x, dim=-1); x.cumprod(0)",
        "x.var(); x.var(0); torch.var(x, (0, 1), keepdim=True); x.var(1, False); torch.var(x, 1, correction=0)",
        "x.std(); x.std(-1, keepdim=True); torch.std(x, 1, unbiased=False); x.std(False)",
        "torch.var_mean(x, 1); torch.std_mean(x); torch.var_mean(x, dim=0, correction=0, keepdim=True)",
        "x.norm(); torch.norm(x, 3, 1); x.norm(dim=-1); x.norm(2, 0, True); torch.norm(x, 1); x.norm(p=1, dim=0)",
        "torch.norm(x, dim=(0, 2)); x.norm(float('inf')); torch.norm(x, 'fro'); x.norm(p=2.5)",
        "torch.linalg.norm(x); torch.linalg.norm(x, dim=1); torch.linalg.norm(x, 1, -1)",
        "torch.linalg.norm(x, dim=(0, 1)); torch.linalg.norm(x[0, 0], 3); torch.linalg.norm(x, 'fro', (1, 2))",
        "torch.linalg.vector_norm(x); torch.linalg.vector_norm(x, 3.0, (0, 1), True)",
        "torch.linalg.vector_norm(x, -math.inf, 1); torch.linalg.vector_norm(x, ord=1, dim=0)",
        "F.normalize(x); F.normalize(x, dim=-1); F.normalize(x, p=1.0, dim=0)",
        "x.sum_to_size(3, 1); x.sum_to_size((1, 1, 4)); x.sum_to_size(2, 3, 4)",
    ),
    *cases(
        "4,3 5,3",
        -1.5,
        1.5,
        "F.cosine_similarity(x, c); F.cosine_similarity(x, y[:4], dim=0); torch.cosine_similarity(x, x + c, 1)",
        "torch.cdist(x, y) := (x[:, None] - y).norm(dim=-1); torch.cdist(x, d, p=1.0) := (x[:, None] - d).abs().sum(-1); torch.cdist(c, y, 3.0) := (c[:, None] - y).norm(3, -1)",
        "F.pdist(x) := (x[[0, 0, 0, 1, 1, 2]] - x[[1, 2, 3, 2, 3, 3]]).norm(dim=-1); F.pdist(x, 3) := (x[[0, 0, 0, 1, 1, 2]] - x[[1, 2, 3, 2, 3, 3]]).norm(3, dim=-1)",
        "torch.dist(x, c); x.dist(c, 3); F.pairwise_distance(x, c); torch.pairwise_distance(c, x, 1.0)",
        "F.pairwise_distance(x, y[:4], keepdim=True); torch.pdist(x) := (x[[0, 0, 0, 1, 1, 2]] - x[[1, 2, 3, 2, 3, 3]]).norm(dim=-1)",
        "F.mse_loss(x, c); F.mse_loss(c, x, reduction='sum'); F.mse_loss(x, y[:4], reduction='none')",
        "F.l1_loss(x, c); F.l1_loss(x, c, reduction='none')",
    ),
    # ---- normalisation and attention
    *cases(
        "2,4,3 3 4",
        -2,
        2,
        "F.layer_norm(x, (3,)) := normal(x, -1); F.layer_norm(x, (3,), d, e[:3], 1e-3) := normal(x, -1, 1e-3) * d + e[:3]; F.layer_norm(x, (4, 3), eps=0.1) := normal(x, (1, 2), 0.1)",
        "F.layer_norm(c, (3,), y, y); torch.layer_norm(x, (3,), y) := normal(x, -1) * y",
        "F.rms_norm(x, (3,)); F.rms_norm(x, (3,), y, 1e-3); torch.rms_norm(x, (4, 3), eps=0.2)",
        "F.group_norm(x, 2); F.group_norm(x, 4, e, z, 1e-3); torch.group_norm(x, 1); F.group_norm(x[..., 0], 2)",
        "F.instance_norm(x) := normal(x, -1); F.instance_norm(x, weight=z, bias=e, eps=0.1) := normal(x, -1, 0.1) * z[:, None] + e[:, None]",
        "torch.instance_norm(x, z, e, None, None, True, 0.1, 0.1, False) := normal(x, -1, 0.1) * z[:, None] + e[:, None]",
        "F.batch_norm(x, e, e.abs() + 1); F.batch_norm(x, e, e.abs() + 1, z, e, eps=0.1)",
        "torch.batch_norm(x, z, e, None, None, True, 0.1, 0.2, False) := normal(x, (0, 2), 0.2) * z[:, None] + e[:, None]",
        "F.batch_norm(x, None, None, z, training=True) := normal(x, (0, 2)) * z[:, None]; F.batch_norm(x[:, :, 0], None, None, training=True) := normal(x[:, :, 0], 0)",
        "torch.batch_norm(x, None, z, e, e.abs() + 1, False, 0.1, 1e-3, False)",
        "F.dropout(x, 0.5, False); torch.dropout(x, 0.3, train=False); F.dropout1d(x, training=False)",
        "F.dropout2d(x, training=False); F.dropout3d(x[None], training=False); F.alpha_dropout(x)",
        "torch.feature_dropout(x, 0.1, False); torch.alpha_dropout(x, 0.1, False); F.feature_alpha_dropout(x)",
        "torch.dropout(x, 0.0, True)",
    ),
    *cases(
        "2,3,4 2,5,4",
        -2,
        2,
        "F.scaled_dot_product_attention(x, y, y); F.scaled_dot_product_attention(c, y, d, scale=0.3)",
        "F.scaled_dot_product_attention(x, x, x, is_causal=True)",
        "F.scaled_dot_product_attention(x, y, d, attn_mask=torch.ones(3, 5).tril(2).bool())",
        "F.scaled_dot_product_attention(x, y, y, attn_mask=(x @ y.mT))",
        "F.scaled_dot_product_attention(x[None].expand(1, 2, 3, 4), y[None, :1], d[None, :1], enable_gqa=True) := ((x / 2) @ y[0].mT).softmax(-1)[None] @ d[0]",
        "F.embedding(index([[0, 1], [2, 2]]), x[0]); F.embedding(index([1]), weight=y[0])",
    ),
    # ---- shapes
    *cases(
        "2,3,4",
        -2,
        2,
        "x.reshape(6, 4); x.reshape((4, -1)); torch.reshape(x, (2, 12)); x.view(6, 4); x.view(-1)",
        "x.reshape_as(c.reshape(6, 4)); x.view_as(c.reshape(4, 6)); x.reshape(c.shape); x[0, 0, 0].reshape(1, 1)",
        "c.reshape_as(x) + x; c.type_as(x) + x; c.expand_as(x) + x; c.to(x) + x; c.view_as(x) + x",
        "x.flatten(); torch.flatten(x, 1); x.flatten(0, 1); x.flatten(start_dim=-2); x.ravel(); torch.ravel(x)",
        "x[0, 0, 0].flatten(); x.unflatten(2, (2, 2)); torch.unflatten(x, -1, (2, -1)); x.unflatten(dim=1, sizes=(3, 1))",
        "x[:, :1].expand(2, 5, 4); x[:1].expand(-1, -1, -1); x.expand(7, 2, 3, 4); x[0, 0, 0].expand(3)",
        "x[0].expand_as(c); torch.broadcast_to(x[0], (2, 3, 4)); x.broadcast_to((5, 2, 3, 4)); x[:1].expand((2, -1, -1))",
        "x.repeat(2, 1, 1); x.repeat((1, 2, 1, 2)); x[0, 0, 0].repeat(3); x.tile(2); torch.tile(x, (2, 1, 2, 1))",
        "x.tile((2, 2)); x.repeat_interleave(2, 1); torch.repeat_interleave(x, 3, dim=0); x.repeat_interleave(2)",
        "x.repeat_interleave(index([1, 2, 0]), dim=1); x[0, 0].repeat_interleave(repeats=index([1, 2, 0, 1]))",
        "x.transpose(0, 1); torch.transpose(x, 1, -1); x.swapaxes(0, 2); torch.swapdims(x, 0, 1); x.transpose(dim0=0, dim1=2)",
        "x.swapaxes(axis0=0, axis1=1); x.swapdims(-1, -2); x[0].t(); torch.t(x[0, 0]); x[0].T; x.mT; x[0].H; x.mH",
        "x.permute(2, 0, 1); x.permute((1, 0, 2)); torch.permute(x, (0, 2, -2)); x.permute(dims=(2, 1, 0))",
        "x.movedim(0, 2); torch.moveaxis(x, (0, 1), (-1, 0)); x.moveaxis(0, 1); torch.movedim(x, -1, 0)",
        "x.adjoint(); torch.adjoint(x); x[0, 0, 0].T; x[0, 0, 0].t()",
        "x.unsqueeze(0); x.unsqueeze(-1); torch.unsqueeze(x, 2); x.unsqueeze(dim=1); x[0, 0, 0].unsqueeze(0); x[0, 0, 0].unsqueeze(-1)",
        "x[:1].squeeze(); x[:1].squeeze(0); x[:, :1].squeeze(1); torch.squeeze(x[:, :1], -2); x.squeeze(0); x.squeeze()",
        "x[:1, :, :1].squeeze((0, 2)); x[:1, :1].squeeze(dim=0); x[0, 0, 0].squeeze(); x[0, 0, 0].squeeze(0)",
        "x.flip(0); x.flip((0, -1)); torch.flip(x, [1]); x.flip(dims=(2,)); x.fliplr(); torch.flipud(x)",
        "reversed(x)",
        "x.roll(1); x.roll(1, 0); torch.roll(x, (1, 2), (0, 2)); x.rot90(); torch.rot90(x, 3, (1, 2)); x.roll(shifts=2, dims=-1)",
        "x.diagonal(); torch.diagonal(x, 1, 1, 2); x.diagonal(dim1=-2, dim2=-1); x[0].diag(); torch.diag(x[0, 0]); x[0].diag(1)",
        "torch.diag_embed(x); x.diag_embed(1, 0, 2); x.diagflat(); torch.diagflat(x[0, 0], 1)",
        "x.tril(); torch.triu(x, 1); x.tril(diagonal=-1); x.triu()",
        "x.unfold(2, 2, 1); x.unfold(dimension=1, size=2, step=1); x.unfold(-1, 3, 1)",
        "x.narrow(1, 1, 2); torch.narrow(x, 2, 0, 3); x.narrow(dim=-1, start=1, length=2); x.select(1, 0); torch.select(x, -1, 2)",
        "x.select(dim=0, index=1); x.index_select(1, index([2, 0, 2])); torch.index_select(x, dim=-1, index=index([1]))",
        "x.split(2, 2); torch.split(x, [1, 3], -1); x.split(1); x.split_with_sizes([1, 2], 1); x.split(split_size=2, dim=1)",
        "x.tensor_split(2, 1); torch.tensor_split(x, (1, 3), dim=2); x.tensor_split(sections=2); x.chunk(2, -1); torch.chunk(x, 3, 1)",
        "x.unsafe_split(2, 1); x.unsafe_chunk(2); torch.split_with_sizes(x, [1, 2], 1)",
        "torch.hsplit(x, 3); x.hsplit([1]); x.vsplit(2); torch.vsplit(x, 2); x.dsplit(2); torch.dsplit(x, [1, 2]); x[0, 0].hsplit(2)",
        "x.unbind(); torch.unbind(x, 2); x.unbind(dim=-2); list(x); [row.sum() for row in x[0]]",
        "torch.atleast_1d(x[0, 0, 0]); torch.atleast_2d(x[0, 0]); torch.atleast_3d(x[0], x[0, 0])",
        order=2,
    ),
    # ---- indices
    *cases(
        "2,3,4",
        -2,
        2,
        "x[0]; x[-1]; x[0, 1]; x[0, 1, 2]; x[:, 1]; x[..., -1]; x[None]; x[:, None]; x[..., None]; x[...]",
        "x[1:]; x[:, ::2]; x[:, 1:, ::3]; x[..., 1:3, :]; x[0, ..., 1]; x[()]; x[:, -2:]; x[2:]; x[0][1][2]",
        "x[index([1, 0])]; x[:, index([0, 2])]; x[..., index([1, 1])]; x[index(1)]; x[index([[0, 1], [1, 1]])]",
        "x[[1, 0]]; x[:, [0, 2]]; x[[0, 1], [1, 2]]; x[[0, 1], :, [1, 2]]; x[:, [0, 1], [1, 2]]; x[0, :, [1, 2]]",
        "x[:, [0, 1], None, [2, 3]]; x[index([0, 1]), 1:, index([1, 3])]; x[range(2)]",
        "x[np.array([1, 0])]; x[:, np.array([True, False, True])]; x[np.int64(1)]; x[..., np.int64(0)]",
        "x[c > 0]; x[x > 0.1]; x[c[:, 0, 0] > -9]; x[:, c[0, :, 0] > -9]; x[c[..., 0] > 0]; x[[True, False]]",
        "x[True]; x[:, index([True, False, True]), 1:]; x[0][c[0] > 0]; x[None, [0, 1], ...]",
        "torch.masked_select(x, c > 0); x.masked_select(c[0] > 0); x.take(index([0, 5, 5])); torch.take(x, index([[23]]))",
        "x.gather(2, index([[[0, 1], [1, 1], [3, 0]], [[0, 1], [1, 1], [3, 0]]])); torch.gather(x[0, 0], 0, index([1, 1, 0]))",
        "torch.take_along_dim(x, x.argsort(1), 1); x.take_along_dim(index([[[0]]]), dim=2); x.take_along_dim(index([3, 1]))",
        "x.index_add(1, index([0, 0]), x[:, 1:]); torch.index_add(c, 0, index([1]), x[:1]); x.index_add(0, index([0, 1]), c, alpha=2)",
        "x.index_copy(2, index([3, 0]), c[..., :2]); torch.index_copy(c, dim=1, index=index([2]), source=x[:, :1])",
        "x.index_fill(1, index([0, 2]), 1.5); torch.index_fill(x, 0, index([1]), value=-1); x.index_fill(2, index([0]), x[0, 0, 0])",
        "x.index_put((index([0, 1]), index([1, 2])), c[0, :2]); torch.index_put(x, (index([0]),), x[1], accumulate=True)",
        "torch.index_put(c, [index([1])], x[0]); x.put(index([1, 3]), x[0, 0, :2]); c.put(index([0]), x[0, 0, :1], accumulate=True)",
        "x.scatter(2, index([[[1], [0], [3]]]), c[:1, :, :1]); torch.scatter(x, 0, index([[[0]]]), 2.0); c.scatter(1, index([[[2]]]), src=x)",
        "x.scatter(dim=0, index=index([[[1]]]), value=3); x.scatter_add(1, index([[[1, 2]], [[0, 0]]]), x); torch.scatter_add(c, 1, index([[[1]]]), x)",
        "x.masked_scatter(c > 0, x.flip(0)); torch.masked_scatter(c, c > 0, x); torch.slice_scatter(x, c[:1], 0, 1); x.slice_scatter(x[:, :, 2:], dim=2, start=0, end=2)",
        "torch.select_scatter(x, c[0], 0, 1); c.select_scatter(x[:, 0], dim=1, index=2); torch.diagonal_scatter(x[0, :, :3], c[0, 0, :3])",
        "torch.diff(x); x.diff(1, 1); x.diff(n=2, dim=-1); torch.diff(x, prepend=c, dim=1); torch.diff(c, append=x, dim=0)",
        "F.pad(x, (1, 1)); x.swapaxes(0, 1)[1]",
        order=2,
    ),
    # ---- joining
    *cases(
        "2,3 2,3 3",
        -2,
        2,
        "torch.cat([x, y]); torch.cat((x, c), 1); torch.cat([c, y, x], dim=-1); torch.concat([x, y], 0); torch.concatenate([x, c], axis=1)",
        "torch.cat(tensors=[x, y], dim=1); torch.cat([x, torch.zeros(0).double()]); torch.cat([z, e, index([1])])",
        "torch.stack([x, y]); torch.stack((x, c), -1); torch.stack([c, x, y], dim=1); torch.stack([z[0], z[1], index(2.0)])",
        "torch.hstack([x, c]); torch.hstack((z, e)); torch.vstack([x, y]); torch.vstack([z, x]); torch.row_stack((z, e))",
        "torch.column_stack([z, e]); torch.column_stack([x, c]); torch.dstack([x, c]); torch.dstack((z, e))",
        "torch.block_diag(x, c, z); torch.cartesian_prod(z, e[:2]); torch.cartesian_prod(z); torch.broadcast_tensors(x, z)",
        "torch.broadcast_tensors(c, z); torch.meshgrid(z, e, indexing='ij'); torch.meshgrid([z, z[:2]], indexing='xy')",
        "torch.complex(x, y).real; torch.complex(c, y).imag; torch.polar(x, y).real; torch.polar(c, y).imag",
        order=2,
    ),
    # ---- complex values of real points
    *cases(
        "2,4",
        0.3,
        2.0,
        "(x * 1j).imag; (x + 1j * c).abs(); torch.abs(torch.complex(x, x * x)); (x * (1 + 2j)).conj().resolve_conj().imag",
        "torch.exp(1j * x).real; torch.exp(1j * x).imag; torch.view_as_real(x * (1 - 1j)); torch.real(x); x.real",
        "torch.imag(x + 2j * x); torch.conj(x * 1j).resolve_conj().imag; torch.view_as_complex(x.reshape(2, 2, 2)).imag",
        "torch.conj_physical(x * 1j).imag; (x * 1j).conj().resolve_conj().imag; (1j * x).angle() + x",
        "torch.angle(torch.complex(x, x * c)); torch.sgn(torch.complex(x, x * x)).real; (1j * x).resolve_neg().imag",
        "((x + 1j) @ (x.mT * 1j)).real; torch.vdot(x[0] * 1j, c[0] * 1j).real; (x / (2 + 1j)).imag; (1 / (x + 1j)).real",
        "(x.to(torch.complex128) ** 2).real; x.cdouble().imag + x; torch.linalg.vecdot(x * 1j, x + 1j).imag",
        "(x + 1j).var().real; torch.linalg.norm(x + 1j * c, dim=1); (x * 1j).norm(); ((x + 1j) * 2).sum().real",
        "torch.linalg.slogdet(x[:, :2] + 1j * c[:, :2]).logabsdet := det(x[:, :2] + 1j * c[:, :2]).abs().log(); torch.linalg.slogdet(x[:, :2] + 1j * c[:, :2]).sign.imag := det(x[:, :2] + 1j * c[:, :2]).sgn().imag",
        "torch.linalg.det(x[:, :2] + 1j * c[:, :2]).imag := det(x[:, :2] + 1j * c[:, :2]).imag; torch.linalg.inv(x[:, :2] + 1j * c[:, :2]).imag",
        "torch.fft.fft(x).real; torch.fft.fft(x, dim=0).imag; torch.fft.ifft(x, 3).imag := torch.fft.ifft(x + 0j, 3).imag; torch.fft.rfft(x).imag; torch.fft.irfft(x * (1 + 1j))",
        "torch.fft.hfft(x * (1 + 1j)); torch.fft.fft2(x).imag; torch.fft.ifft2(x).real; torch.fft.rfft2(x).imag; torch.fft.irfft2(x + 0j)",
        "torch.fft.fftn(x).imag; torch.fft.ifftn(x).real; torch.fft.rfftn(x).real; torch.fft.irfftn(x + 0j)",
        "torch.fft.fftshift(x); torch.fft.ifftshift(x, dim=1); x.logsumexp(0)",
    ),
    # ---- what docs/coverage.md has no row of
    *cases(
        "2,6",
        0.6,
        2,
        "F.lp_pool1d(x, 3, 2); F.lp_pool2d(x[None], 2, 2); F.lp_pool3d(x.reshape(1, 2, 2, 3), 3, 2)",
        "torch.vander(x[0]); torch.vander(x[1], 3, increasing=True); torch.linalg.matrix_exp(x[:, :2])",
        "torch.select_copy(x, 1, 2); torch.split_copy(x, 4, 1)[1]",
        "torch.view_as_real_copy(x * (1 - 1j)); torch.view_as_complex_copy(x.reshape(2, 3, 2)).imag",
        order=3,
    ),
    # ---- copies and types
    *cases(
        "2,3",
        -2,
        2,
        "x.clone(); torch.clone(x); x.contiguous(); x.mT.contiguous(); x.clone(memory_format=torch.contiguous_format)",
        "x.to(torch.float64); x.to('cpu'); x.to(c); x.to(device='cpu', dtype=torch.float64); x.type(torch.float64); x.type_as(c)",
        "x.double(); x.cpu(); x.float().double() * 0 + x; x.half().double() * 0 + x; x.bfloat16().double() * 0 + x; x.cfloat().real.double() * 0 + x",
        "x.cdouble().real; x.to(torch.complex128).real; x.to(x)",
        "x * x.detach(); x + x.data; torch.detach(x) * x; x.new_zeros(2, 3) + x; torch.zeros_like(x) + x; x.new_ones(3) * x",
        "torch.ones_like(x) * x; torch.empty_like(x) * 0 + x; torch.full_like(x, 2.0) * x; x.new_full((3,), 3.0) * x; x.new_tensor([1.0, 2, 3]) * x",
        "torch.full_like(x, x[0, 0]) := x[0, 0].expand(2, 3); x.new_full((2,), x[1, 1]) := x[1, 1].expand(2); x.new_empty(2, 3) * 0 + x; x.new_empty_strided((2, 3), (3, 1)) * 0 + x",
        "torch.zeros_like(x, dtype=torch.float64); torch.rand_like(x) * 0 + x; torch.randn_like(x) * 0 + x; torch.randint_like(x, 3) * 0 + x := x + 0",
        order=2,
    ),
]


# PyTorch maps these one by one, and says so.
CASES += cases(
    "2,6",
    0.6,
    2,
    "F.affine_grid(x.reshape(2, 2, 3), [2, 1, 2, 2], align_corners=False)",
    "torch.stft(x, 4, 2, window=c[0, :4], return_complex=True).imag; torch.istft(torch.stft(x, 4, 2, window=c[0, :4], return_complex=True), 4, 2, window=c[0, :4])",
    order=2,
)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("k", range(len(CASES)), ids=lambda k: "; ".join(CASES[k].forms)[:60])
def test_operation(k: int, check: Any) -> None:
    case = CASES[k]
    if torch.__version__.startswith("2.11.") and "torch.aminmax(x)" in case.forms:
        pytest.skip("PyTorch 2.11 has no derivatives of it to compare with")
    check(case, *case.shapes, domain=case.domain, seed=k, order=case.order)


# ------------------------------------------------------------------ questions about the value

VALUES = """
x == c; x != c; x < c; x <= c; x > c; x >= c; c == x; c != x; c < x; c <= x; c > x; c >= x; x == 0.5
x.eq(c); x.ne(c); x.lt(c); x.le(c); x.gt(c); x.ge(c); torch.eq(c, x); torch.ne(x, 1); torch.lt(c, x)
torch.le(x, c); torch.gt(x, 0); torch.ge(x, c); x.equal(c); torch.equal(x, x); x.allclose(c)
torch.allclose(x, x); torch.isclose(x, c); x.isclose(x); torch.greater(x, c); x.greater_equal(0)
torch.less(x, c); torch.less_equal(c, x); torch.not_equal(x, c); x.__lt__(c); x.__eq__(c); x.__ne__(c)
x.argmax(); torch.argmax(x, 1); x.argmin(0); x.argsort(); torch.argsort(x, descending=True)
torch.isnan(x); x.isinf(); x.isfinite(); x.isposinf(); x.isneginf(); x.isreal(); torch.isin(x, c)
x.signbit(); x.bool(); x.int(); x.long(); x.short(); x.byte(); x.char(); (x > 0).any(); x.any()
x.all(); torch.any(x > 0); x.count_nonzero(); torch.nonzero(x); x.nonzero(); torch.argwhere(x > 0)
torch.argwhere(x); torch.where(x); torch.searchsorted(c.sort(1)[0], x); torch.bucketize(x, c[0].sort()[0])
torch.logical_and(x, c); torch.logical_or(x, c); torch.logical_not(x); torch.logical_xor(x, c)
x.logical_and(c); x.size(); x.size(1); x.dim(); x.ndimension(); x.numel(); torch.numel(x); x.nelement()
x.element_size(); x.stride(); x.stride(0); x.is_floating_point(); torch.is_floating_point(x)
x.is_complex(); torch.is_complex(x); x.is_contiguous(); x[0, 0].is_nonzero(); x.is_same_size(c)
x.is_conj(); x.is_neg(); x.is_signed(); x.get_device(); x.dim_order(); torch.histc(x, 4)
torch.bincount(index([0, 1, 1, 0]), weights=x[0]); torch.result_type(x, c); torch.result_type(x, 1j)
x.type(); x.shape; x.dtype; x.device; x.layout; x.ndim; len(x); x.T.shape; x.mT.size(); x.nbytes
x.itemsize; x.is_cuda; x.is_cpu; x.is_mps; x.is_meta; x.is_sparse; x.is_nested; x.is_quantized
x.is_mkldnn; x.is_sparse_csr; x.is_xla; x.is_xpu; x.requires_grad; x.grad_fn; x.data
x.detach(); torch.detach(x); x.detach()[0].tolist(); x[0, 0].detach().item(); bool(x[0, 1])
complex(x[0, 0].detach()); c[0, 0] in x; 7.0 in x; f"{x[0, 0]:.3f}"; x.to(torch.int64); x.type(torch.long)
x.max(1)[1]; x.topk(2).indices; x.floor().detach()
x.sign().detach(); x.detach().numpy().sum()
"""


@pytest.mark.parametrize(
    "form", [f.strip() for f in VALUES.replace("\n", ";").split(";") if f.strip()]
)
def test_the_answer_is_that_of_the_value(form: str) -> None:
    point = torch.tensor([[0.7, -1.2, 0.0, 2.5], [1.5, 0.3, -0.4, 3.0]], dtype=torch.float64)
    names = {"c": point * torch.tensor([1.0, 2.0, 0.5, 1.0]), "torch": torch, "index": torch.tensor}
    expected = eval(form, names | {"x": point})
    for levels in (1, 2):
        with ExitStack() as stack:
            jet = point
            for level in [stack.enter_context(NewLevel()) for _ in range(levels)]:
                jet = make_jet(path_algebra(2), level, jet, [torch.ones_like(jet)[None], None])
            result = eval(form, names | {"x": jet})
        assert type(result) is type(expected)
        if isinstance(expected, torch.Tensor):
            assert torch.equal(result, expected)
        elif isinstance(expected, tuple) and isinstance(expected[0], torch.Tensor):
            assert all(map(torch.equal, result, expected))
        else:
            assert result == expected


# ------------------------------------------------------------------ dtypes, batches, tables


@pytest.mark.parametrize(
    "form",
    [
        "x * c; c * x; x + c; c - x; x / c; torch.where(c > 0, x, c); x ** c.abs()",
        "x * c[0, 0]; c[0, 0] * x; x + c[0, 0]; x[0, 0] * c; x[0, 0] + c; x[0, 0] * c[0, 0]",
        "x[0, 0] - c[0, 0]; x[0, 0] / c[0, 0]; torch.cat([x, c]); torch.stack([c, x]); x * 2.5",
        "x * np.float64(2.5); np.float32(2) * x; x / 3; torch.where(c > 0, x, 2.0); c.abs() ** x",
        "x.clamp(min=c); torch.maximum(x, c); torch.maximum(c, x); x.sum(dtype=torch.float64)",
        "x.softmax(1, torch.float64); x.to(torch.float64) * c; (x * 1j).imag; x * index([1, 2, 3])",
    ],
)
@pytest.mark.parametrize("first, second", [("float32", "float64"), ("float64", "float32")])
def test_dtypes_are_promoted_as_in_torch(form: str, first: str, second: str) -> None:
    c = torch.tensor([[0.5, -1.5, 2.0], [1.2, 0.3, -0.8]], dtype=getattr(torch, second))
    point = torch.tensor([0.3, 0.7, 1.2], dtype=getattr(torch, first))

    def function(p: Any, forms: Sequence[str]) -> list[Any]:
        names = {"torch": torch, "np": np, "index": torch.tensor, "c": c}
        names["x"] = torch.exp(p) * torch.tensor([[1.0], [2.0]], dtype=p.dtype)
        return [eval(f, names) for f in forms]

    for one in form.split(";"):
        result = jf.derivatives({"u": 1, "xx": jf.partials(3)[1] ** 2})(
            lambda p, one=one: function(p, [one.strip()])
        )(point)
        plain = function(point, [one.strip()])[0]
        exact = torch.func.hessian(lambda p, one=one: function(p, [one.strip()])[0])(point)[
            ..., 1, 1
        ]
        assert result["u"][0].dtype == result["xx"][0].dtype == plain.dtype, one
        assert torch.allclose(result["u"][0], plain, rtol=1e-6, atol=1e-6)
        assert torch.allclose(result["xx"][0], exact.to(plain.dtype), rtol=1e-5, atol=1e-6), one


POINTWISE = [
    "torch.tanh(x @ w + b)",
    "torch.nn.functional.linear(x, w.mT, b).sin().pow(2)",
    "torch.cat([x[:, :1].sin(), x[:, 1:] ** 2], -1) @ w",
    "torch.stack([x[:, 0] * x[:, 1], x[:, 2], x.sum(-1)], -1).exp() * x",
    "F.layer_norm(x @ w, (3,)) * x.unsqueeze(0).squeeze(0)",
    "torch.einsum('ni,ij,nj->n', x, w, x).sqrt()",
    "torch.softmax(x * x, -1).cumsum(-1)",
    "x.norm(dim=-1, keepdim=True) / (1 + x.prod(-1, keepdim=True) ** 2)",
    "x.reshape(-1, 3, 1).mT.flatten(1).roll(1, -1) * x.T.T.flip(-1)",
    "F.pad(x, (1, 1)).unfold(-1, 3, 1).sin().sum((-1, -2)) * x.amax(-1)",
    "torch.where(x > 0, x**3, x**2).split([1, 2], -1)[1].prod(-1)",
    "x.expand(2, 5, 3).mean(0).gather(-1, torch.zeros(5, 1).long()).exp()",
    "torch.linalg.slogdet(x.unsqueeze(-1) * x.unsqueeze(-2) + w)[1]",
    "x[..., None] * x[:, None] @ w",
    "F.conv1d(x.unsqueeze(1), w.reshape(3, 1, 3), padding=1).tanh().sum((1, 2))",
    "x.new_zeros(5, 2).index_copy(1, torch.tensor([1]), x[:, :1]).add(1).prod(-1)",
    "F.bilinear(x, x, w.reshape(1, 3, 3)).squeeze(-1)",
    "torch.cdist(x.unsqueeze(1), w.expand(5, 3, 3)).sum((-1, -2))",
    "torch.det(torch.stack([x, x.roll(1, -1) ** 2, x + w[0]], -1))",
    "(w @ x.mT).exp().mT @ w[:1].mT",
    "x.unsqueeze(1) @ w.expand(5, 3, 3) * (w[None] @ x[..., None]).sin().mT",
    "(x.sin().unsqueeze(-1).expand(5, 3, 3) @ w).prod(-1) * (w @ x[:, None].expand(5, 3, 3)).exp()[:, 0]",
    "torch.einsum('ni,ij->nj', x, w).exp() * torch.einsum('ij,nj->ni', w, x)",
    "torch.einsum('ni,ii->n', x, w) * torch.einsum('nii,j->n', x[:, None].expand(5, 3, 3), w[0]).sin()",
    "torch.einsum('ni,oj->nj', x, w[:1]).sin() * torch.einsum('ni,mj->nij', x, w[:1])[:, 1]",
    "torch.einsum('ni,nj->nij', x, w[:1]).exp().sum(-1) * torch.einsum('ij,jn->in', x, w)",
]


@pytest.mark.parametrize("form", POINTWISE)
@pytest.mark.parametrize("method", ["minimal", "collapsed"])
def test_batches_of_points(form: str, method: str, tools: Any) -> None:
    generator = torch.Generator().manual_seed(2)
    points = torch.rand(5, 3, dtype=torch.float64, generator=generator) + 0.2
    w = torch.eye(3, dtype=torch.float64) + torch.rand(
        3, 3, dtype=torch.float64, generator=generator
    )
    names = {"torch": torch, "F": F, "w": w, "b": w[0]}

    def function(x: Any) -> Any:
        return eval(form, names | {"x": x})

    t, x, y = jf.partials(3)
    wanted = {"u": 1, "lap": t**2 + x**2 + y**2, "mixed": t * x**2 * y + t**4 - x * y}
    together = jf.derivatives(wanted)(function, batch_dims=1, method=method)(points)
    alone = torch.func.vmap(jf.derivatives(wanted)(lambda p: function(p.expand(5, 3))[0]))(points)
    for name in wanted:
        tools.close(together[name], alone[name])


MATRICES = {
    "matmul": lambda z, w: z @ w.mT,
    "of several axes": lambda z, w: (z[:, None] @ w.mT)[:, 0],
    "from the left": lambda z, w: (w @ z[..., None])[..., 0],
    "einsum": lambda z, w: torch.einsum("bi,hi->bh", z, w),
    "addmm": lambda z, w: torch.addmm(w[:, 0], z, w.mT) - w[:, 0],
}


@pytest.mark.parametrize("name", MATRICES)
def test_matrix_products_by_constants_cost_what_linear_costs(name: str, tools: Any) -> None:
    """Coefficients that all points share are multiplied once, however the product is written."""
    generator = torch.Generator().manual_seed(3)
    weights = [torch.randn(n, m, generator=generator) / m**0.5 for n, m in ((8, 20), (8, 8))]
    points = torch.randn(16, 20, generator=generator)
    flops, values = [], []
    for product in (F.linear, MATRICES[name]):

        def network(x: Any, product: Any = product) -> Any:
            for w in weights:
                x = torch.tanh(product(x, w))
            return x.sum(-1)

        with FlopCounterMode(display=False) as counter:
            values.append(jf.laplacian(network, batch_dims=1)(points))
        flops.append(counter.get_total_flops())
    assert flops[1] == flops[0]
    tools.close(values[1], values[0], 1e-5)


class Issued(TorchDispatchMode):
    """How many of PyTorch's own operations run."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


FEW = {
    # the tower 3, its products with both degrees 2, Σ_i u_i² and its axis 3, the sum with 2 t_2 Σ 1
    "torch.sin(x)": 9,
    "torch.tanh(x)": 11,
    # of values 1, of values and either degree 6, Σ_i u_i² and its axis 3, the sum with 2 Σ 1
    "x * x": 11,
    "x / x.detach()": 4,
    "x @ w": 1 + 2 * 3,  # coefficients are reshaped to rows and back
    "x.unsqueeze(0).squeeze(0)": 2 * 3,
}


@pytest.mark.parametrize("form", FEW)
def test_few_operations_are_issued(form: str) -> None:
    """Of a jet that has all coefficients; a weight of a product takes no operation of its own."""
    scope = {"torch": torch, "w": torch.randn(3, 3)}
    function = eval(f"lambda x: {form}", scope)
    once = jf.laplacian(lambda x: function(torch.exp(x)), batch_dims=1)
    twice = jf.laplacian(lambda x: function(function(torch.exp(x))), batch_dims=1)
    counts = []
    for operator in (once, twice):
        with Issued() as issued:
            operator(torch.rand(5, 3))
        counts.append(issued.count)
    assert counts[1] - counts[0] == FEW[form]


LARGE = [
    "x * x.exp() * x.sin()",
    "torch.outer(x, x) @ x",
    "torch.einsum('i,j,j->i', x, x, x.exp())",
]
LARGE += ["F.conv1d(x[None], x[None, None, :2] * x[0])", "torch.linalg.inv(torch.outer(x, x) + w)"]
LARGE += ["torch.linalg.slogdet(torch.outer(x, x) * x.exp() + w)[1]", "torch.kron(x, x[:2] ** 2)"]


@pytest.mark.parametrize("form", LARGE)
def test_large_tables(form: str, monkeypatch: Any, tools: Any) -> None:
    """Both ways of evaluating a product table give the same numbers."""
    w = torch.eye(5, dtype=torch.float64) * 2
    point = torch.linspace(0.2, 0.9, 5, dtype=torch.float64)

    def function(x: Any) -> Any:
        return eval(form, {"torch": torch, "F": F, "w": w, "x": x})

    unrolled = jf.biharmonic(function)(point)
    nested = (jf.partials(5)[1] ** 2)(jf.laplacian(function))(point)
    monkeypatch.setattr(core_jet, "UNROLL", 0)
    tools.close(jf.biharmonic(function)(point), unrolled)
    tools.close((jf.partials(5)[1] ** 2)(jf.laplacian(function))(point), nested)


# ------------------------------------------------------------------ the list is complete

ELSEWHERE = {
    "test_inplace": "numpy __array__ __dlpack__ __dlpack_device__ grad as_strided unique unique_consecutive "
    "__bool__ __nonzero__ __float__ __int__ __index__ __complex__ __len__ __contains__ item tolist "
    "__format__",
    "test_general": "gumbel_softmax bernoulli zeta sparse.mm smm lstm gru rnn_tanh rnn_relu lstm_cell gru_cell "
    "rnn_tanh_cell rnn_relu_cell to_sparse_csr to_sparse_csc to_sparse_bsr to_sparse_bsc to_mkldnn",
    "test_inner": "_VF._make_dual _VF._unpack_dual",
    "core/test_special": "igamma igammac gammainc gammaincc",
    "test_layers": "multi_head_attention_forward _weight_norm",
}
"""Names that other files test."""

OTHER_NAMES = {
    "_VF.meshgrid": "meshgrid of one list",
    "_VF.atleast_1d": "atleast_1d of one list",
    "_VF.atleast_2d": "atleast_2d of one list",
    "_VF.atleast_3d": "atleast_3d of one list",
    "__div__": "Python 2's operator",
    "__rdiv__": "the name by which torch hands over 1 / x",
    "__pos__": "operator.pos, as torch.compile calls it",
    "divide": "div",
    "cuda": "needs a GPU",
    "requires_grad_": "leaves its argument alone",
    "retain_grad": "likewise",
    "backward": "refused, as grad",
    "register_hook": "test_hooks",
    "data_ptr": "asks about memory",
    "is_pinned": "likewise",
    "is_shared": "likewise",
    "storage_offset": "likewise",
    "is_inference": "likewise",
    **dict.fromkeys(
        [
            f"{kind}{n}d_with_indices"
            for kind in ("max_pool", "adaptive_max_pool")
            for n in (1, 2, 3)
        ]
        + ["fractional_max_pool2d_with_indices", "fractional_max_pool3d_with_indices"],
        "behind the pools of torch.nn.functional",
    ),
    "affine_grid_generator": "behind affine_grid",
    "grid_sampler": "behind grid_sample",
    "cross_entropy_loss": "behind cross_entropy",
    "nll_loss_nd": "behind nll_loss",
    "segment_reduce": "_segment_reduce",
    "detach_copy": "detach",
    "_VF.stft": "behind stft",
    "orgqr": "linalg.householder_product",
    "multinomial": "random",
    "poisson": "random",
}
"""Names without a case, with the reason."""


def listed() -> set[str]:
    """What docs/coverage.md has a row of, which test_coverage tests."""
    page = (Path(__file__).parents[2] / "docs" / "coverage.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| `([^`]+)` \| (?:own|general|refused)", page.partition("## JAX")[0], re.M
    )
    names = {re.sub(r"^(nn\.functional|special)\.", "", row) for row in rows}
    names |= {row.partition(".")[0] for row in rows}  # of variants
    return names | {f"functional.{name}" for name in names}


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_every_rule_has_a_case(monkeypatch: Any) -> None:
    met: set[str] = set()
    depth = [0]

    class Recorder(dict[str, Any]):
        def __getitem__(self, key: str) -> Any:
            rule = super().__getitem__(key)

            def recorded(*args: Any) -> Any:
                met.update([key] if depth[0] == 0 else [])
                depth[0] += 1
                try:
                    return rule(*args)
                finally:
                    depth[0] -= 1

            return recorded

    monkeypatch.setattr(overload, "RULES", Recorder(overload.RULES))
    generator = np.random.default_rng(0)
    for case in CASES:
        point = [torch.as_tensor(generator.uniform(*case.domain, s)) for s in case.shapes]
        with NewLevel() as level:
            algebra = path_algebra(1)
            case(*[Jet(algebra, level, p, [torch.ones_like(p)[None]]) for p in point])
    elsewhere = " ".join(ELSEWHERE.values()).split()
    asked = {"torch": torch, "index": torch.tensor, "c": torch.ones(2, 4)}
    with NewLevel() as level:
        asked["x"] = Jet(path_algebra(1), level, torch.ones(2, 4), [torch.ones(1, 2, 4)])
        for form in VALUES.replace("\n", ";").split(";"):
            eval(form.strip() or "0", asked)
    names = set(NAMES.values())  # names of the same function need but one case
    assert sorted(names - met - set(elsewhere) - set(OTHER_NAMES) - GONE - listed()) == []
