"""gemm.c: products of matrices of any shape and strides, and layers that are multiplied by it."""

from __future__ import annotations

import ctypes
from itertools import pairwise

import pytest
import torch

import jetfold as jf
from jetfold import shared_library
from jetfold.torch import chains, gemm
from jetfold.torch.compiled import functions

pytestmark = [
    pytest.mark.skipif(shared_library.compiler() is None, reason="no C compiler here"),
    pytest.mark.usefixtures("loops_at_once"),
]

DTYPES = [torch.float32, torch.float64]


@pytest.fixture(scope="module", params=DTYPES, ids=str)
def dtype(request):
    return request.param


def compiled(dtype):
    """The functions of gemm.c, whether this processor profits from them or not."""
    return functions(gemm.source(dtype), *gemm.FUNCTIONS)


def call(function, *arguments):
    function.argtypes = None
    function(
        *[
            ctypes.c_void_p(x.data_ptr()) if isinstance(x, torch.Tensor) else ctypes.c_int64(x)
            for x in arguments
        ]
    )


def random(*shape, dtype, seed=0):
    generator = torch.Generator().manual_seed(hash((shape, seed)) % 2**31)
    return torch.randn(*shape, dtype=dtype, generator=generator)


def product(a, b, *, transposed, bias=None, c=None):
    """bias + a b, or c + a b; b from its transpose, if it is so kept."""
    depth, columns = b.shape
    _, fill, times = compiled(a.dtype)
    size = gemm.Products(0, 1, 1).panels(depth, columns, a.element_size())
    panels = a.new_full((size,), torch.nan)
    kept = b.t().contiguous() if transposed else b.contiguous()
    call(fill, kept, depth, columns, int(transposed), panels)
    out = a.new_full((len(a) + 1, columns), torch.nan)  # what stands behind it is not written to
    if c is not None:
        out[:-1] = c
    call(
        times, len(a), columns, depth, a, *a.stride(), panels,
        0 if bias is None else bias, int(c is not None), out,
    )  # fmt: skip
    assert out[-1].isnan().all()
    return out[:-1]


SHAPES = [
    (1, 8, 1), (6, 16, 4), (7, 17, 5), (5, 8, 3), (12, 33, 32), (13, 31, 1), (64, 9, 100),
    (4, 20, 20), (9, 24, 7), (10, 25, 9), (3, 40, 257), (130, 50, 20),
]  # fmt: skip


@pytest.mark.parametrize("transposed", [False, True], ids=["b", "b transposed"])
@pytest.mark.parametrize("rows, columns, depth", SHAPES)
def test_products(rows, columns, depth, transposed, dtype):
    b = random(depth, columns, dtype=dtype)
    bias, c = random(columns, dtype=dtype, seed=1), random(rows, columns, dtype=dtype, seed=2)
    for a in (
        random(rows, depth, dtype=dtype, seed=3),
        random(depth, rows, dtype=dtype, seed=4).t(),
        random(rows, depth + 3, dtype=dtype, seed=5)[:, 2:-1],
    ):
        exact = a.double() @ b.double()
        close = {"rtol": 0, "atol": 32 * depth**0.5 * torch.finfo(dtype).eps, "check_dtype": False}
        torch.testing.assert_close(product(a, b, transposed=transposed), exact, **close)
        found = product(a, b, transposed=transposed, bias=bias)
        torch.testing.assert_close(found, exact + bias, **close)
        torch.testing.assert_close(product(a, b, transposed=transposed, c=c), exact + c, **close)


def test_the_processor_is_asked():
    answer = ctypes.c_int64(-1)
    compiled(torch.float32)[0](ctypes.byref(answer))
    assert answer.value in (0, 1)
    found = gemm.products(torch.float32)
    assert found is not None
    assert bool(found.times) == bool(found.fill) == bool(answer.value)


# ------------------------------------------------------------------ layers


@pytest.fixture(params=["gemm.c", "BLAS"])
def multiplied_by(request, monkeypatch):
    """Layers of width 8 and more are multiplied by one of them, on any processor."""
    made = chains.products

    def chosen(dtype):
        found = made(dtype)
        if request.param == "BLAS":
            return gemm.Products(found.gemm)
        return gemm.Products(found.gemm, *map(shared_library.address, compiled(dtype)[1:]))

    monkeypatch.setattr(chains, "products", chosen)


t, x = jf.partials(2)
OPERATOR = jf.derivatives({"u": jf.value, "u_t": t, "u_x": x, "u_xx": x**2})


def network(*widths, dtype, bias=True):
    torch.manual_seed(sum(widths))
    layers = []
    for in_, out in pairwise(widths):
        layers += [torch.nn.Linear(in_, out, bias=bias), torch.nn.Tanh()]
    return torch.nn.Sequential(*layers[:-1]).to(dtype)


def step(net, points, **options):
    values = OPERATOR(net, batch_dims=1, **options)(points)
    loss = sum(((k + 1) * v.sin()).mean() for k, v in enumerate(values.values()))
    return [*values.values(), *torch.autograd.grad(loss, list(net.parameters()))]


@pytest.mark.usefixtures("multiplied_by")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("widths", [(2, 37, 50, 1), (2, 21, 70, 33, 5), (2, 9, 8, 23, 40)], ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_layers(widths, bias, threads, dtype, monkeypatch):
    monkeypatch.setattr(chains, "CACHE", 2**13)  # several parts, of which the last one is smaller
    monkeypatch.setattr(chains, "ALONE", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        net, points = network(*widths, dtype=dtype, bias=bias), random(101, 2, dtype=dtype)
        found = step(net, points)
        exact = step(net.double(), points.double(), method="nested")
    finally:
        torch.set_num_threads(before)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    for one, other in zip(found, exact, strict=True):
        error = (one - other).abs().max() / other.abs().max()
        assert error < tolerance, error
