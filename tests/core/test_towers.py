"""Towers against mpmath's Taylor coefficients, and against PyTorch where a function has kinks."""

from __future__ import annotations

import functools
import inspect
import itertools
import zlib
from types import SimpleNamespace
from typing import Any, NamedTuple

import mpmath
import numpy as np
import pytest
import scipy.special

from jetfold.core import towers

ORDER = 6
mp = mpmath.mp


def clamp(x: Any, low: float, high: float) -> Any:
    return min(max(x, mp.mpf(low)), mp.mpf(high))


def elu(x: Any, alpha: float = 1.0, rate: float = 1.0) -> Any:
    return x if x > 0 else alpha * mp.expm1(rate * x)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + mp.exp(-x))


def softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    return x if beta * x > threshold else mp.log1p(mp.exp(beta * x)) / beta


SELU = {"alpha": 1.6732632423543772, "scale": 1.0507009873554805}


class Case(NamedTuple):
    function: Any  # of mpmath
    domain: tuple[float, float] = (-4.0, 4.0)
    parameters: dict[str, Any] = {}  # noqa: RUF012
    kinks: tuple[float, ...] = ()
    torch: str = ""  # where PyTorch calls it otherwise: a name, or an expression in u, torch, F


POSITIVE, UNIT, BALL = (0.1, 5.0), (0.05, 0.95), (-0.95, 0.95)

CASES = {
    "exp": Case(mp.exp),
    "exp2": Case(lambda x: mp.mpf(2) ** x),
    "expm1": Case(mp.expm1),
    "exponential": Case(lambda x: mp.mpf(3) ** x, parameters={"base": 3.0}, torch="3.0**u"),
    "log": Case(mp.log, POSITIVE),
    "log2": Case(lambda x: mp.log(x, 2), POSITIVE),
    "log10": Case(mp.log10, POSITIVE),
    "log1p": Case(mp.log1p, (-0.9, 4.0)),
    "logit": Case(lambda x: mp.log(x / (1 - x)), UNIT),
    "logit eps": Case(
        lambda x: mp.log(clamp(x, 0.2, 0.8) / (1 - clamp(x, 0.2, 0.8))),
        UNIT,
        {"eps": 0.2},
        kinks=(0.2, 0.8),
    ),
    "power 0": Case(lambda x: mp.mpf(1), parameters={"exponent": 0}, torch="u**0"),
    "power 1": Case(lambda x: x, parameters={"exponent": 1}, torch="u**1"),
    "power 3": Case(lambda x: x**3, parameters={"exponent": 3}, torch="u**3"),
    "power 9": Case(lambda x: x**9, parameters={"exponent": 9.0}, torch="u**9.0"),
    "power -2": Case(lambda x: x**-2, POSITIVE, {"exponent": -2}, torch="u**-2"),
    "power 2.5": Case(lambda x: x**2.5, POSITIVE, {"exponent": 2.5}, torch="u**2.5"),
    "power -0.3": Case(lambda x: x ** mp.mpf(-0.3), POSITIVE, {"exponent": -0.3}, torch="u**-0.3"),
    "square": Case(lambda x: x * x),
    "reciprocal": Case(lambda x: 1 / x, POSITIVE),
    "sqrt": Case(mp.sqrt, POSITIVE),
    "rsqrt": Case(lambda x: 1 / mp.sqrt(x), POSITIVE),
    "cbrt": Case(
        lambda x: mp.sign(x) * mp.cbrt(abs(x)), POSITIVE, torch="u.sign() * u.abs() ** (1 / 3)"
    ),
    "cbrt left": Case(lambda x: -mp.cbrt(-x), (-5.0, -0.1), torch="u.sign() * u.abs() ** (1 / 3)"),
    "sin": Case(mp.sin),
    "cos": Case(mp.cos),
    "tan": Case(mp.tan, (-1.4, 1.4)),
    "sinh": Case(mp.sinh),
    "cosh": Case(mp.cosh),
    "tanh": Case(mp.tanh),
    "asin": Case(mp.asin, BALL),
    "acos": Case(mp.acos, BALL),
    "atan": Case(mp.atan),
    "asinh": Case(mp.asinh),
    "acosh": Case(mp.acosh, (1.1, 5.0)),
    "atanh": Case(mp.atanh, BALL),
    "sinc": Case(mp.sincpi),
    "sinc near 0": Case(mp.sincpi, (-0.01, 0.01)),
    "sinc far": Case(mp.sincpi, (4.0, 30.0)),
    "erf": Case(mp.erf),
    "erfc": Case(mp.erfc),
    "erfinv": Case(mp.erfinv, BALL),
    "ndtr": Case(mp.ncdf, torch="torch.special.ndtr(u)"),
    "lgamma": Case(mp.loggamma, POSITIVE),
    "digamma": Case(mp.digamma, POSITIVE),
    "polygamma": Case(lambda x: mp.psi(2, x), POSITIVE, {"n": 2}, torch="torch.polygamma(2, u)"),
    "sigmoid": Case(sigmoid),
    "sigmoid far": Case(sigmoid, (20.0, 30.0)),
    "logsigmoid": Case(lambda x: -mp.log1p(mp.exp(-x))),
    "softplus": Case(softplus),
    "softplus beta": Case(
        lambda x: softplus(x, 2.0, 5.0), parameters={"beta": 2.0, "threshold": 5.0}, kinks=(2.5,)
    ),
    "softplus smooth": Case(
        lambda x: mp.log1p(mp.exp(x)),
        (15.0, 25.0),
        {"threshold": float("inf")},
        torch="torch.logaddexp(u, 0 * u)",
    ),
    "silu": Case(lambda x: x * sigmoid(x)),
    "silu far": Case(lambda x: x * sigmoid(x), (-40.0, -20.0)),
    "gelu": Case(lambda x: x * mp.ncdf(x)),
    "gelu far": Case(lambda x: x * mp.ncdf(x), (6.0, 10.0)),
    "gelu_tanh": Case(
        lambda x: x / 2 * (1 + mp.tanh(mp.sqrt(2 / mp.pi) * (x + mp.mpf(0.044715) * x**3))),
        torch="F.gelu(u, approximate='tanh')",
    ),
    "mish": Case(lambda x: x * mp.tanh(mp.log1p(mp.exp(x)))),
    "mish far": Case(lambda x: x * mp.tanh(mp.log1p(mp.exp(x))), (-40.0, -20.0)),
    "tanhshrink": Case(lambda x: x - mp.tanh(x)),
    "softsign": Case(lambda x: x / (1 + abs(x)), kinks=(0.0,)),
    "abs": Case(abs, kinks=(0.0,)),
    "step": Case(mp.floor, torch="torch.floor(u)"),
    "relu": Case(lambda x: max(x, mp.mpf(0)), kinks=(0.0,)),
    "leaky_relu": Case(lambda x: max(x, 0.3 * x), parameters={"negative_slope": 0.3}, kinks=(0.0,)),
    "relu6": Case(lambda x: clamp(x, 0, 6), (-4.0, 10.0), kinks=(0.0, 6.0)),
    "threshold": Case(
        lambda x: x if x > 0.3 else mp.mpf(7),
        parameters={"threshold": 0.3, "value": 7.0},
        kinks=(0.3,),
    ),
    "hardtanh": Case(
        lambda x: clamp(x, -0.5, 2.0),
        parameters={"min_val": -0.5, "max_val": 2.0},
        kinks=(-0.5, 2.0),
    ),
    "hardshrink": Case(
        lambda x: x if abs(x) > 0.7 else mp.mpf(0), parameters={"lambd": 0.7}, kinks=(-0.7, 0.7)
    ),
    "softshrink": Case(
        lambda x: x - clamp(x, -0.7, 0.7), parameters={"lambd": 0.7}, kinks=(-0.7, 0.7)
    ),
    "hardsigmoid": Case(lambda x: clamp(x + 3, 0, 6) / 6, (-6.0, 6.0), kinks=(-3.0, 3.0)),
    "hardswish": Case(lambda x: x * clamp(x + 3, 0, 6) / 6, (-6.0, 6.0), kinks=(-3.0, 3.0)),
    "elu": Case(lambda x: elu(x, 0.7), parameters={"alpha": 0.7}, kinks=(0.0,)),
    "celu": Case(lambda x: elu(x, 0.7, 1 / 0.7), parameters={"alpha": 0.7}, kinks=(0.0,)),
    "selu": Case(lambda x: SELU["scale"] * elu(x, SELU["alpha"]), kinks=(0.0,)),
}

SHARED = ["exp", "sin", "cos", "sinh", "cosh", "tanh", "abs", "sign", "where"]
NUMPY = SimpleNamespace(
    **{f: getattr(np, f) for f in SHARED},
    sigmoid=scipy.special.expit,
    erf=scipy.special.erf,
    digamma=scipy.special.digamma,
    polygamma=lambda n, u: scipy.special.polygamma(n, u).astype(u.dtype),  # always float64
)


def tower(name: str, u: Any, y: Any, order: int, xp: Any) -> list[Any]:
    return getattr(towers, name.split()[0])(u, y, order, xp, **CASES[name].parameters)


def points(name: str, count: int = 25) -> np.ndarray:
    """Fresh points of the domain, off the kinks."""
    rng, case = np.random.default_rng(zlib.crc32(name.encode())), CASES[name]
    u = rng.uniform(*case.domain, count)
    return u[np.all([abs(u - kink) > 1e-3 for kink in case.kinks] or [u == u], axis=0)]


@functools.cache
def reference(name: str, single: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Points of the domain, rounded to float32 if `single`, and there c_0, …, c_ORDER."""
    u = points(name)
    u = u.astype(np.float32).astype(np.float64) if single else u
    with mpmath.workdps(40):
        series = [mpmath.taylor(CASES[name].function, mp.mpf(x), ORDER) for x in u]
        return u, np.array([[float(c) for c in row] for row in series]).T


def filled(t: list[Any], u: np.ndarray) -> np.ndarray:
    """A tower without None, broadcast to the shape of u."""
    return np.stack([np.broadcast_to(np.asarray(0.0 if a is None else a), u.shape) for a in t])


def torch_function(name: str) -> Any:
    torch = pytest.importorskip("torch")
    functional, case, base = torch.nn.functional, CASES[name], name.split()[0]
    if case.torch:
        return lambda u: eval(case.torch, {"u": u, "torch": torch, "F": functional})
    for home in (functional, torch, torch.special):
        if hasattr(home, base):
            return functools.partial(getattr(home, base), **case.parameters)
    raise LookupError(base)


def test_every_tower_has_a_case():
    helpers = {"scaled", "add", "multiply", "convolve", "integrate", "times_u", "powers"}
    of_arrays = {"power_of_array", "exponential_of_array"}  # below
    public = {
        name
        for name, value in inspect.getmembers(towers, inspect.isfunction)
        if value.__module__ == towers.__name__ and not name.startswith("_")
    }
    assert public - helpers - of_arrays == {name.split()[0] for name in CASES}


def test_towers_with_an_array_as_parameter():
    u, p = np.array([0.7, 1.3, 2.1, 0.4, 1.9]), np.array([2.5, 3.0, 0.0, -1.0, 1.0])
    y = u**p
    found = towers.power_of_array(u, y, 4, np, exponent=p)
    for n in range(5):
        each = towers.power(u[n], y[n], 4, np, exponent=float(p[n]))
        np.testing.assert_allclose([t[n] for t in found], [t or 0.0 for t in each], rtol=1e-14)
    found = towers.exponential_of_array(p, u**p, 4, np, base=u)
    for n in range(5):
        each = towers.exponential(p[n], y[n], 4, np, base=float(u[n]))
        np.testing.assert_allclose([t[n] for t in found], each, rtol=1e-14)
    zero = towers.exponential_of_array(np.ones(1), np.zeros(1), 3, np, base=np.zeros(1))
    assert all(t[0] == 0 for t in zero)


@pytest.mark.parametrize("name", CASES)
def test_taylor_coefficients(name):
    u, expected = reference(name)
    got = filled(tower(name, u, expected[0], ORDER, NUMPY), u)
    for k in range(1, ORDER + 1):
        scale = np.abs(expected[k]).max()
        np.testing.assert_allclose(got[k - 1], expected[k], rtol=1e-10, atol=1e-13 * scale)


@pytest.mark.parametrize("name", CASES)
def test_lower_orders_are_a_part_of_the_tower(name):
    u, expected = reference(name)
    full = tower(name, u, expected[0], ORDER, NUMPY)
    for order in range(1, ORDER):
        part = tower(name, u, expected[0], order, NUMPY)
        assert len(part) == order
        for a, b in zip(part, full, strict=False):
            assert (a is None) == (b is None)
            np.testing.assert_allclose(filled([a], u), filled([b], u), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", CASES)
def test_single_precision(name):
    u, expected = reference(name, single=True)
    narrow = u.astype(np.float32)
    t = tower(name, narrow, expected[0].astype(np.float32), ORDER, NUMPY)
    for k, entry in enumerate(t, 1):
        if isinstance(entry, np.ndarray):
            assert entry.dtype == np.float32
        error = np.abs(filled([entry], u)[0].astype(np.float64) - expected[k])
        size = np.abs(expected[k])
        assert np.all(error <= 1e-5 * (size + np.median(size)))


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_torch_tensors_keep_their_dtype(name, dtype):
    torch = pytest.importorskip("torch")
    dtype, function = getattr(torch, dtype), torch_function(name)
    u = torch.tensor(points(name)).to(dtype)
    t = tower(name, u, function(u), ORDER, torch)
    assert {a.dtype for a in t if a is not None and not isinstance(a, float)} <= {dtype}
    if dtype == torch.float64:
        expected = filled(tower(name, u.numpy(), function(u).numpy(), ORDER, NUMPY), u.numpy())
        np.testing.assert_allclose(filled(t, u), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_each_entry_is_the_derivative_of_the_one_before(name):
    """d t_k/du = (k + 1) t_{k+1}: a tower can itself be differentiated."""
    torch = pytest.importorskip("torch")
    u = torch.tensor(points(name), requires_grad=True)
    y = torch_function(name)(u)
    t = tower(name, u, y, ORDER, torch)
    for k, (a, b) in enumerate(itertools.pairwise(t), 2):
        varies = isinstance(a, torch.Tensor) and a.requires_grad
        got = torch.autograd.grad(a.sum(), u, retain_graph=True)[0] if varies else 0 * u
        b = torch.as_tensor(0.0 if b is None else b, dtype=u.dtype).expand_as(u)
        torch.testing.assert_close(got, k * b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.kinks])
def test_kinks_are_those_of_torch(name):
    torch = pytest.importorskip("torch")
    u = torch.tensor(CASES[name].kinks, dtype=torch.float64, requires_grad=True)
    y = torch_function(name)(u)
    (expected,) = torch.autograd.grad(y.sum(), u)
    torch.testing.assert_close(tower(name, u, y, 2, torch)[0], expected)


ENTIRE = [name for name, case in CASES.items() if case.domain[0] <= -4 and case.domain[1] >= 4]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", [*ENTIRE, "logit eps"])
def test_gradients_are_finite(name, dtype):
    torch = pytest.importorskip("torch")
    u = torch.tensor([0.0, -0.0, 1.0, 50.0, -50.0], dtype=getattr(torch, dtype), requires_grad=True)
    y = torch_function(name)(u)
    t = tower(name, u, y, ORDER, torch)
    arrays = [a for a in t if isinstance(a, torch.Tensor)]
    assert all(bool(a.isfinite().all()) for a in arrays)
    if any(a.requires_grad for a in arrays):
        (gradient,) = torch.autograd.grad(sum(a.sum() for a in arrays), u)
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", ENTIRE)
def test_large_arguments(name):
    case = CASES[name]
    u = np.array([-50.25, 50.25])
    with mpmath.workdps(60):
        series = [mpmath.taylor(case.function, mp.mpf(x), ORDER) for x in u]
    expected = np.array([[float(c) for c in row] for row in series]).T
    got = filled(tower(name, u, expected[0], ORDER, NUMPY), u)
    for k in range(1, ORDER + 1):
        scale = np.abs(expected[k]).max()
        np.testing.assert_allclose(got[k - 1], expected[k], rtol=1e-9, atol=1e-11 * scale + 1e-15)


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 4.0, 8])
def test_polynomials_end(exponent):
    u = np.array([-1.5, 0.0, 2.0])
    t = towers.power(u, u**exponent, ORDER, NUMPY, exponent=exponent)
    assert all(entry is None for entry in t[int(exponent) :])
    if 0 < exponent <= ORDER:
        assert t[int(exponent) - 1] == 1.0 and isinstance(t[int(exponent) - 1], float)
    at_zero = [0.0 if a is None else a if isinstance(a, float) else a[1] for a in t]
    assert at_zero == [float(k == exponent) for k in range(1, ORDER + 1)]


@pytest.mark.parametrize("exponent", [2.5, 4.5])
def test_powers_stay_finite_at_zero_as_long_as_they_can(exponent):
    u = np.array([0.0])
    t = towers.power(u, u, int(exponent), NUMPY, exponent=exponent)
    assert [float(a[0]) for a in t] == [0.0] * int(exponent)


@pytest.mark.parametrize(
    "name", ["abs", "relu", "leaky_relu", "relu6", "threshold", "hardtanh", "hardshrink", "step"]
)
def test_piecewise_linear_functions_end(name):
    u = points(name)
    assert tower(name, u, None, ORDER, NUMPY)[1:] == [None] * (ORDER - 1)


def test_sinc_is_right_at_zero():
    u = np.array([0.0])
    with mpmath.workdps(40):
        expected = [float(c) for c in mpmath.taylor(mp.sincpi, 0, 12)]
    got = filled(towers.sinc(u, np.ones(1), 12, NUMPY), u)[:, 0]
    np.testing.assert_allclose(got, expected[1:], rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize("name", ["exp", "sin", "tanh", "log", "power 3", "sigmoid", "atan"])
def test_complex_arguments(name):
    torch = pytest.importorskip("torch")
    u = torch.tensor([0.3 + 0.4j, 1.2 - 0.7j], dtype=torch.complex128)
    t = tower(name, u, torch_function(name)(u), 4, torch)
    with mpmath.workdps(40):
        series = [mpmath.taylor(CASES[name].function, mp.mpc(complex(x)), 4) for x in u]
    for k in range(1, 5):
        expected = torch.tensor([complex(row[k]) for row in series], dtype=torch.complex128)
        got = torch.as_tensor(0.0 if t[k - 1] is None else t[k - 1], dtype=expected.dtype)
        torch.testing.assert_close(got.expand_as(expected), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("base", [0, 1, -2.0])
def test_bases_without_a_logarithm(base):
    u = np.array([1.0, 2.0])
    t = towers.exponential(u, base**u, 2, NUMPY, base=base)
    assert np.all(np.isnan(t)) if base < 0 else t == [None, None]


def test_convolve_takes_missing_entries_for_zero():
    a, b = [2.0, None, 3.0], [5.0, 7.0]
    assert [towers.convolve(a, b, k) for k in range(5)] == [10.0, 14.0, 15.0, 21.0, None]
    assert [towers.convolve(a, a, k, 0.5) for k in range(6)] == [2.0, None, 6.0, None, 4.5, None]


def test_series_are_integrated_and_shifted():
    assert towers.integrate([3.0, None, 6.0]) == [3.0, None, 2.0]
    assert towers.times_u(2.0, [3.0, None, 6.0]) == [3.0, 12.0]


def test_towers_are_traced_by_jax():
    jax = pytest.importorskip("jax")
    xp = SimpleNamespace(
        **{f: getattr(jax.numpy, f) for f in SHARED},
        **{f: getattr(jax.scipy.special, f) for f in ("erf", "digamma", "polygamma")},
        sigmoid=jax.nn.sigmoid,
    )

    def all_towers(arguments):
        return {name: tower(name, u, y, 3, xp) for name, (u, y) in arguments.items()}

    arguments, expected = {}, {}
    for name in CASES:
        u, series = reference(name)
        arguments[name] = (u.astype(np.float32), series[0].astype(np.float32))
        expected[name] = filled(tower(name, *arguments[name], 3, NUMPY), u)
    for name, t in jax.jit(all_towers)(arguments).items():
        got = filled(t, arguments[name][0])
        np.testing.assert_allclose(got, expected[name], rtol=1e-3, atol=1e-5, err_msg=name)
