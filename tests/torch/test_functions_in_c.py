"""functions.c: places of the last digit against mpmath, and networks against nested autograd."""

from __future__ import annotations

import ctypes
import math
from functools import partial

import mpmath
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import jetfold as jf
from jetfold import shared_library
from jetfold.torch import compiled, kernels, scalars

pytestmark = [
    pytest.mark.skipif(shared_library.compiler() is None, reason="no C compiler here"),
    pytest.mark.usefixtures("loops_at_once"),
]


# ------------------------------------------------------------------ one by one


def softplus(x, **options):
    return F.softplus(x, **options)


IN_PYTORCH = {name: getattr(torch, name, softplus) for name in scalars.IN_C}
IN_MPMATH = {
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
    "softplus": lambda x: x if x > 20 else mpmath.log1p(mpmath.exp(x)),
}

SOURCE = """#include <stdint.h>
typedef {type} T;
#define DOUBLE {double}
{functions}
enum {{ exact = 0 }};
#define RUN(name) void run_##name(const int64_t *s) \\
  {{ const T *x = (T *)s[0]; T *y = (T *)s[1];        \\
    for (int64_t i = 0; i < s[2]; i++) y[i] = name##_T(x[i]); }}
{runs}
"""


def in_c(dtype):
    """The functions of functions.c, of tensors, compiled as the loops are."""
    source = SOURCE.format(
        type=compiled.TYPES[dtype],
        double=int(dtype == torch.float64),
        functions=shared_library.text("torch/functions.c"),
        runs=" ".join(f"RUN({name})" for name in scalars.IN_C),
    )
    found = compiled.functions(source, *[f"run_{name}" for name in scalars.IN_C])

    def of_tensors(function):
        def call(x):
            y = torch.empty_like(x)
            function((ctypes.c_int64 * 3)(x.data_ptr(), y.data_ptr(), x.numel()))
            return y

        return call

    return {name: of_tensors(f) for name, f in zip(scalars.IN_C, found, strict=True)}


def numbers(name, dtype, count):
    """Of many magnitudes, with both signs; where sines and cosines vanish, too."""
    most = 700 if dtype == torch.float64 else 85
    magnitudes = torch.logspace(-30, math.log10(most), count, dtype=torch.float64)
    x = magnitudes * torch.empty_like(magnitudes).uniform_(-1, 1)
    x = torch.cat([x, torch.empty_like(x).uniform_(-6, 6)])
    if name in scalars.WAVES:
        most = 6e5 if dtype == torch.float64 else 1900
        zeros = torch.randint(-int(most), int(most), (count,)) * (math.pi / 2)
        x = torch.cat([x, zeros, torch.empty_like(zeros).uniform_(-most, most)])
    return x.to(dtype)


def with_error(name, x, found):
    """The exact values, and by how much they were missed."""
    if x.dtype == torch.float32:
        exact = IN_PYTORCH[name](x.double())
        return exact, found.double() - exact
    function = IN_MPMATH.get(name) or getattr(mpmath, name)
    with mpmath.workdps(40):
        exact = [function(mpmath.mpf(v)) for v in x.tolist()]
        error = [mpmath.mpf(v) - e for v, e in zip(found.tolist(), exact, strict=True)]
    return [torch.tensor([float(v) for v in values], dtype=x.dtype) for values in (exact, error)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_errors_are_three_units_of_the_last_place_at_most(dtype):
    for name, function in in_c(dtype).items():
        x = numbers(name, dtype, 20000 if dtype == torch.float32 else 100)
        exact, error = with_error(name, x, function(x))
        size = exact.to(dtype).abs()
        unit = torch.nextafter(size, torch.full_like(size, math.inf)) - size
        assert (error.abs() / unit.double()).max() <= 3, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_at_the_ends_are_those_of_pytorch(dtype):
    """Zeros with their signs, numbers too small for all digits, infinities, what is no number."""
    limits = torch.finfo(dtype)
    x = [0.0, limits.smallest_normal / 1000, math.inf, math.nan, limits.max, 1000.0, 20.0, 20.001]
    x = torch.tensor([*x, *[-v for v in x]], dtype=dtype)
    for name, function in in_c(dtype).items():
        at = x[x.abs() <= 1000] if name in scalars.WAVES else x
        found, expected = function(at), IN_PYTORCH[name](at)
        unit = limits.smallest_normal * limits.eps
        torch.testing.assert_close(found, expected, equal_nan=True, rtol=4 * limits.eps, atol=unit)
        assert torch.equal(found.signbit()[~found.isnan()], expected.signbit()[~found.isnan()]), (
            name
        )


# ------------------------------------------------------------------ in loops

t, x = jf.partials(2)
PINN = jf.derivatives({"u": 1, "u_t": t, "u_xx": x**2, "u_txx": t * x**2})


def operation(function):
    """As a layer."""
    layer = nn.Module()
    layer.forward = function
    return layer


def network(function):
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(2, 5), operation(function), nn.Linear(5, 2)).double()


def both(net, at, **options):
    """All derivatives, and the gradient of their mean square."""
    found = torch.stack(list(PINN(net, batch_dims=1, **options)(at).values()))
    gradient = torch.autograd.grad(found.square().mean(), list(net.parameters()))
    return found.detach(), *gradient


def made():
    return [kernel for kernel in kernels._found.values() if kernel is not None]


WHOLE = {name: IN_PYTORCH[name] for name in scalars.IN_C} | {
    "silu": F.silu,
    "mish": F.mish,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


@pytest.mark.parametrize("function", WHOLE.values(), ids=WHOLE)
def test_networks_of_them_need_no_arrays(function):
    net, at = network(function), torch.rand(6, 2).double() * 4 - 2
    torch.testing.assert_close(both(net, at), both(net, at, method="nested"))
    assert made()
    for kernel in made():
        assert kernel.inside
        assert kernel.outside == ([], [])


@pytest.mark.parametrize("function", [partial(softplus, beta=2, threshold=1), F.elu, F.softsign])
def test_values_come_as_arrays_where_parameters_or_functions_are_others(function):
    net, at = network(function), torch.rand(6, 2).double() * 4 - 2
    torch.testing.assert_close(both(net, at), both(net, at, method="nested"))
    assert made()
    assert not any(kernel.inside for kernel in made())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sines_of_huge_numbers(dtype):
    """Rows beyond what the reduction carries, and an infinite one, beside others."""
    at = torch.rand(40, 2, dtype=dtype).requires_grad_()
    scale = 10.0 ** (torch.arange(40, dtype=dtype)[:, None] * 0.45)
    scale[-1] = math.inf

    def value(p):
        u = p * scale
        return torch.sin(u) + torch.cos(u * 3)

    found = jf.derivatives({"u": 1, "u_t": t, "u_xx": x**2})(value, batch_dims=1)(at)
    (gradient,) = torch.autograd.grad(found["u"].sum(), at)
    assert len(made()) == 2
    u, v = (at * scale).detach(), (at * scale * 3).detach()
    slope, bend = u.cos() - 3 * v.sin(), -u.sin() - 9 * v.cos()
    close = partial(torch.testing.assert_close, equal_nan=True)
    close(found["u"], u.sin() + v.cos())
    close(found["u_t"][:, 0] / scale[:, 0], slope[:, 0])
    close(found["u_xx"][:, 1] / scale[:, 0] ** 2, bend[:, 1])
    close(gradient / scale, slope)


def test_sines_of_other_numbers_come_as_arrays():
    """Loops look whether u is huge, and at nothing else."""
    program = scalars.Program()
    u = program.let("r0[i]", lambda u, y: u)
    functions = program.functions()
    functions.cos(u)
    assert not program.outsiders
    functions.cos(u * 1e9)
    at = torch.rand(5)
    assert torch.equal(program.outsiders[0](at, None), (at * 1e9).cos())
