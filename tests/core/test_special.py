"""Towers of special functions against mpmath's Taylor coefficients, and against each other."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import mpmath
import pytest

from jetfold.core import special

torch = pytest.importorskip("torch")
mp, ORDER = mpmath.mp, 6

XP = SimpleNamespace(
    **{name: getattr(torch, name) for name in ("exp", "log", "abs", "sign", "where", "lgamma")},
    special=lambda name, u: getattr(torch.special, name)(u),
)


def scaled(n):
    return lambda x: mp.exp(-abs(x)) * mp.besseli(n, x)


def erfcx(x):
    return mp.exp(x * x) * mp.erfc(x)


A = 1.7
CASES = {  # mpmath's function, points
    "i0": (lambda x: mp.besseli(0, x), (-9.0, -1.01, -0.99, -0.2, 0.0, 1e-3, 0.6, 1.5, 4.0, 12.0)),
    "i1": (lambda x: mp.besseli(1, x), (-9.0, -1.01, -0.99, -0.2, 0.0, 1e-3, 0.6, 1.5, 4.0, 12.0)),
    "i0e": (scaled(0), (-9.0, -1.01, -0.99, -0.2, 1e-3, 0.6, 1.5, 4.0, 12.0)),
    "i1e": (scaled(1), (-9.0, -1.01, -0.99, -0.2, 1e-3, 0.6, 1.5, 4.0, 12.0)),
    "erfcx": (erfcx, (-3.0, -0.5, 0.0, 0.7, 1.99, 2.01, 5.0, 50.0, 1e4)),
    "ndtri": (lambda x: mp.sqrt(2) * mp.erfinv(2 * x - 1), (0.02, 0.3, 0.5, 0.9)),
    "log_ndtr": (
        lambda x: mp.log(mp.erfc(-x / mp.sqrt(2)) / 2),
        (-60.0, -7.0, -1.01, 0.0, 1.0, 6.0),
    ),
    "entr": (lambda x: -x * mp.log(x), (0.1, 1.0, 7.0)),
    "igamma": (lambda x: mp.gammainc(A, 0, x) / mp.gamma(A), (0.2, 1.0, 6.0)),
    "igammac": (lambda x: mp.gammainc(A, x) / mp.gamma(A), (0.2, 1.0, 6.0)),
}


def tower(name, u, y, order):
    parameters = {"a": torch.tensor(A, dtype=u.dtype)} if name.startswith("igamma") else {}
    return getattr(special, name)(u, y, order, XP, **parameters)


def value(name, u):
    if name.startswith("igamma"):
        return getattr(torch, name)(torch.full_like(u, A), u)
    return getattr(torch.special, name)(u)


@pytest.mark.parametrize("name", CASES)
def test_taylor_coefficients(name):
    function, points = CASES[name]
    u = torch.tensor(points, dtype=torch.float64)
    found = tower(name, u, value(name, u), ORDER)
    with mpmath.workdps(60):
        expected = [mpmath.taylor(function, mp.mpf(x), ORDER) for x in points]
    for n, row in enumerate(expected):
        for k in range(1, ORDER + 1):
            scale = max(
                abs(row[k]), 1e-3 * abs(row[0]) / math.factorial(k) / (1 + abs(points[n])) ** k
            )
            assert abs(float(found[k - 1][n]) - row[k]) <= 1e-9 * scale, (points[n], k)


@pytest.mark.parametrize("name", CASES)
def test_single_precision(name):
    u = torch.tensor(CASES[name][1], dtype=torch.float64).float()
    wide = tower(name, u.double(), value(name, u.double()), 3)
    for narrow, t in zip(tower(name, u, value(name, u), 3), wide, strict=True):
        assert narrow.dtype == torch.float32
        torch.testing.assert_close(narrow.double(), t, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("igamma")])
def test_each_entry_is_the_derivative_of_the_one_before(name):
    """So that gradients of parameters are right."""
    u = torch.tensor(CASES[name][1], dtype=torch.float64, requires_grad=True)
    t = tower(name, u, value(name, u), 4)
    for k, (a, b) in enumerate(itertools.pairwise(t), 2):
        (got,) = torch.autograd.grad(a.sum(), u, retain_graph=True)
        torch.testing.assert_close(got, k * b.detach(), rtol=1e-6, atol=1e-9)
