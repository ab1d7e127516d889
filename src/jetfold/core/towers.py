"""Towers: the scaled derivatives t_k = φ^{(k)}(u)/k!, k = 1 … order, of elementwise functions φ.

They are the Taylor coefficients of φ(u + ε) after the zeroth, y = φ(u). Each tower follows from a
differential equation or an identity between series (Griewank and Walther, "Evaluating Derivatives",
2008, chapter 13), which stands beside it; y, g, h … are functions there and y' is a derivative.

All towers are called alike, `name(u, y, order, xp, **parameters)`:

    u            the argument: anything with + − * / ** and comparisons; never branched upon
    y            φ(u), as the framework computed it
    order        how many entries are wanted, at least one
    xp           the functions of its library: exp, sin, cos, sinh, cosh, tanh, sqrt, sigmoid,
                 erf, abs, sign, where, digamma, polygamma(n, u)
    parameters   those of the function in PyTorch, as Python numbers

and return [t_1, …, t_order]. An entry is None where it is zero for every u, a Python float where it
is another constant. Where a function has a kink its tower is PyTorch's: relu'(0) = 0.

>>> power(2.0, 8.0, 4, None, exponent=3)
[12.0, 6.0, 1.0, None]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

Array = Any
Entry = Any
"""An array, a Python float (a constant) or None (zero)."""

Series = Sequence[Entry]
"""Coefficients from the zeroth on."""

Tower = list[Entry]
"""Coefficients from the first on."""


# ------------------------------------------------------------------ arithmetic of series


def scaled(c: float, a: Entry) -> Entry:
    """c·a, without the product where it can be spared."""
    if a is None or c == 1:
        return a
    return -a if c == -1 else a * c


def add(a: Entry, b: Entry) -> Entry:
    """a + b, None meaning zero."""
    if a is None or b is None:
        return b if a is None else a
    return a + b


def multiply(a: Entry, b: Entry) -> Entry:
    """a·b, None meaning zero."""
    if a is None or b is None:
        return None
    return scaled(a, b) if isinstance(a, float) else a * b


def convolve(a: Series, b: Series, k: int, c: float = 1.0) -> Entry:
    """c·Σ_i a_i b_{k−i}: coefficient k of a product; a square (a is b) takes each pair once."""
    square = a is b
    total = None
    for i in range(max(0, k - len(b) + 1), min((k + 1) // 2 if square else k + 1, len(a))):
        total = add(total, multiply(a[i], b[k - i]))
    if not square:
        return scaled(c, total)
    middle = multiply(a[k // 2], a[k // 2]) if k % 2 == 0 and 0 <= k // 2 < len(a) else None
    return add(scaled(2 * c, total), scaled(c, middle))


def integrate(g: Series) -> Tower:
    """The tower of φ from the series of φ' = g: t_k = g_{k−1}/k."""
    return [scaled(1 / k, entry) for k, entry in enumerate(g, 1)]


def times_u(u: Array, g: Series) -> Tower:
    """The tower of u·g(u): t_k = u g_k + g_{k−1}."""
    return [add(multiply(u, g[k]), g[k - 1]) for k in range(1, len(g))]


def powers(r: Array, order: int) -> Tower:
    """[r, r², …]."""
    out = [r]
    for _ in range(1, order):
        out.append(out[-1] * r)
    return out


# ------------------------------------------------------------------ equations that several obey


def _exponential(y: Array, order: int, c: float) -> Tower:
    t = [y]  # y' = c y
    for k in range(1, order + 1):
        t.append(scaled(c / k, t[-1]))
    return t[1:]


def _harmonic(y: Array, slope: Array, order: int, c: float) -> Tower:
    t = [y, slope]  # y'' = c y
    for k in range(2, order + 1):
        t.append(scaled(c / (k * (k - 1)), t[k - 2]))
    return t[1:]


def _riccati(y: Array, first: Array, order: int, c: float) -> Tower:
    t = [y, first]  # y' = 1 + c y²
    for k in range(1, order):
        t.append(convolve(t, t, k, c / (k + 1)))
    return t[1:]


def _homogeneous(u: Array, first: Array, order: int, p: float) -> Tower:
    t = [first]  # u y' = p y, so k t_k = (p − k + 1) t_{k−1}/u
    for k in range(2, order + 1):
        t.append(scaled((p - k + 1) / k, t[-1] / u))
    return t


def _logarithm(u: Array, order: int, c: float = 1.0) -> Tower:
    return [  # y' = c/u
        scaled(c * (-1) ** (k - 1) / k, r) for k, r in enumerate(powers(1 / u, order), 1)
    ]


def _integral_of_power(q0: Array, q1: Array, q2: float, p: float, order: int) -> Tower:
    """The tower of y with y' = h = q^p, where q(u + ε) = q0 + q1 ε + q2 ε²."""
    h = [q0**p]  # q h' = p q' h (J. C. P. Miller)
    for k in range(1, order):
        terms = scaled(p - k + 1, q1 * h[k - 1])
        if k > 1:
            terms = terms + scaled((2 * p - k + 2) * q2, h[k - 2])
        h.append(terms / q0 * (1 / k))
    return integrate(h)


def _gaussian(u: Array, order: int, xp: Any, a: float, c: float) -> list[Entry]:
    g = [xp.exp(u * u * -a) * c]  # g = c exp(−a u²): g' = −2a u g
    for k in range(1, order):
        g.append(scaled(-2 * a / k, u * g[0] if k == 1 else u * g[k - 1] + g[k - 2]))
    return g


def _logistic(
    z: Array, order: int, xp: Any, slope: Series = (1.0,), s: Array = None
) -> list[Entry]:
    """The series of σ(z(u)) from that of z' = slope; s = σ(z) where it is known."""
    g, p = [xp.sigmoid(z) if s is None else s], []
    r = xp.sigmoid(-z) if order else None  # 1 − σ, which would cancel where σ is near 1
    for k in range(order):  # g' = z' p, p = g (1 − g)
        inner = g[1:k]
        rest = scaled(-1, convolve(inner, inner, k - 2))
        p.append(add((r - g[0]) * g[k], rest) if k else g[0] * r)
        g.append(convolve(slope, p, k, 1 / (k + 1)))
    return g


def _indicator(condition: Array, u: Array, xp: Any, order: int, c: float = 1.0) -> Tower:
    """c where the condition holds, else 0, in the type of u; higher derivatives vanish."""
    return [xp.where(condition, scaled(c, u**0), 0.0)] + [None] * (order - 1)


# ------------------------------------------------------------------ exponentials and logarithms


def exp(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """e^u."""
    return _exponential(y, order, 1.0)


def exp2(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """2^u."""
    return _exponential(y, order, math.log(2))


def expm1(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """e^u − 1; not from y + 1, which cancels for u < 0."""
    return _exponential(xp.exp(u), order, 1.0)


def exponential(u: Array, y: Array, order: int, xp: Any, *, base: float) -> Tower:
    """base^u."""
    if base in (0, 1):
        return [None] * order
    return _exponential(y, order, math.log(base) if base > 0 else math.nan)


def exponential_of_array(u: Array, y: Array, order: int, xp: Any, *, base: Array) -> Tower:
    """b^u for an array b: t_k = (log b)^k/k! b^u, and zero where b is."""
    log = xp.log(xp.where(base == 0, 1, base))
    tower: Tower = [y * log]
    for k in range(2, order + 1):
        tower.append(tower[-1] * log / k)
    return tower


def log(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """The natural logarithm."""
    return _logarithm(u, order)


def log2(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """The logarithm to base 2."""
    return _logarithm(u, order, 1 / math.log(2))


def log10(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """The logarithm to base 10."""
    return _logarithm(u, order, 1 / math.log(10))


def log1p(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """log(1 + u)."""
    return _logarithm(1 + u, order)


def logit(u: Array, y: Array, order: int, xp: Any, *, eps: float | None = None) -> Tower:
    """log(u/(1 − u)), u clamped to [eps, 1 − eps]."""
    if eps is not None:
        inside = (u >= eps) & (u <= 1 - eps)
        safe = xp.where(inside, u, 0.5)
        return [xp.where(inside, t, 0.0) for t in logit(safe, y, order, xp)]
    left, right = powers(1 / u, order), powers(1 / (1 - u), order)  # y = log u − log(1 − u)
    outside = (u < 0) | (u > 1)
    return [
        xp.where(
            outside, math.nan, scaled(1 / k, right[k - 1] + scaled((-1) ** (k - 1), left[k - 1]))
        )
        for k in range(1, order + 1)
    ]


# ------------------------------------------------------------------ powers


def power(u: Array, y: Array, order: int, xp: Any, *, exponent: complex) -> Tower:
    """u^p with a number p: t_k = C(p, k) u^{p−k}."""
    p = exponent if isinstance(exponent, complex) or exponent % 1 else int(exponent)
    t: Tower = []
    binomial: Any = 1.0
    for k in range(1, order + 1):
        binomial = binomial * (p - k + 1) / k  # zero from k = p + 1 on, if p is 0, 1, 2, …
        if binomial == 0:
            t.append(None)
        else:
            t.append(binomial if p == k else scaled(binomial, u if p == k + 1 else u ** (p - k)))
    return t


def power_of_array(u: Array, y: Array, order: int, xp: Any, *, exponent: Array) -> Tower:
    """u^p for an array p: t_k = C(p, k) u^{p−k}, and zero from the first vanishing C(p, k) on."""
    tower: Tower = []
    binomial: Any = 1.0
    for k in range(1, order + 1):
        binomial = binomial * (exponent - (k - 1)) / k
        rest = xp.where(binomial == 0, 1, exponent - k)
        tower.append(binomial * u**rest)
    return tower


def square(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """u²."""
    return power(u, y, order, xp, exponent=2)


def reciprocal(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """1/u: t_k = (−1)^k y^{k+1}."""
    return [scaled((-1) ** k, p) for k, p in enumerate(powers(y, order + 1)[1:], 1)]


def sqrt(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """√u."""
    return _homogeneous(u, 0.5 / y, order, 1 / 2)


def rsqrt(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """1/√u."""
    return _homogeneous(u, y / u * -0.5, order, -1 / 2)


def cbrt(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """The real cube root."""
    return _homogeneous(u, (1 / 3) / (y * y), order, 1 / 3)


# ------------------------------------------------------------------ trigonometric and hyperbolic


def sin(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """The sine: y'' = −y."""
    return _harmonic(y, xp.cos(u), order, -1.0)


def cos(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """The cosine: y'' = −y."""
    return _harmonic(y, -xp.sin(u), order, -1.0)


def tan(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """The tangent: y' = 1 + y²."""
    return _riccati(y, 1 + y * y, order, 1.0)


def sinh(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """The hyperbolic sine: y'' = y."""
    return _harmonic(y, xp.cosh(u), order, 1.0)


def cosh(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """The hyperbolic cosine: y'' = y."""
    return _harmonic(y, xp.sinh(u), order, 1.0)


def tanh(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """The hyperbolic tangent: y' = 1 − y²."""
    square = y * y
    rest = square - 1
    if order > 3:
        return _riccati(y, -rest, order, -1.0)
    second = [y * rest] if order > 1 else []
    third = [rest * (1 / 3 - square)] if order > 2 else []
    return [-rest, *second, *third]


def asin(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """The inverse sine: y' = (1 − u²)^(−1/2)."""
    return _integral_of_power((1 - u) * (1 + u), -2 * u, -1.0, -1 / 2, order)


def acos(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """The inverse cosine: y = π/2 − asin u."""
    return [-t for t in asin(u, y, order, xp)]


def atan(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """The inverse tangent: y' = 1/(1 + u²)."""
    return _integral_of_power(1 + u * u, 2 * u, 1.0, -1, order)


def asinh(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """The inverse hyperbolic sine: y' = (1 + u²)^(−1/2)."""
    return _integral_of_power(1 + u * u, 2 * u, 1.0, -1 / 2, order)


def acosh(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """The inverse hyperbolic cosine: y' = (u² − 1)^(−1/2)."""
    return _integral_of_power((u - 1) * (u + 1), 2 * u, 1.0, -1 / 2, order)


def atanh(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """The inverse hyperbolic tangent: y' = 1/(1 − u²)."""
    return _integral_of_power((1 - u) * (1 + u), -2 * u, -1.0, -1, order)


def sinc(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """sin(πu)/(πu)."""
    # u y = s = sin(πu)/π, so u t_k + t_{k−1} = s_k. Upward this multiplies errors by 1/u, downward
    # by u, and there it may begin with any t_n: π^n/(n + 1)! is nothing for n = order + 28.
    near = xp.abs(u) < 1
    small, large = xp.where(near, u, 0.0), xp.where(near, 1.0, u)
    s = _harmonic(u * y, xp.cos(u * math.pi), order + 28, -(math.pi**2))
    up, down = [y], [s[-1]]
    for k in range(order):
        up.append((s[k] - up[-1]) / large)
    for s_k in s[-2:0:-1]:
        down.append(s_k - small * down[-1])
    return [xp.where(near, a, b) for a, b in zip(down[: -order - 1 : -1], up[1:], strict=True)]


# ------------------------------------------------------------------ special functions


def erf(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """The error function: y' = 2/√π exp(−u²)."""
    return integrate(_gaussian(u, order, xp, 1.0, 2 / math.sqrt(math.pi)))


def erfc(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """The complementary error function: y' = −2/√π exp(−u²)."""
    return integrate(_gaussian(u, order, xp, 1.0, -2 / math.sqrt(math.pi)))


def ndtr(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """The normal distribution function: y' = (2π)^(−1/2) exp(−u²/2)."""
    return integrate(_gaussian(u, order, xp, 0.5, 1 / math.sqrt(2 * math.pi)))


def erfinv(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """The inverse error function: y' = √π/2 exp(y²)."""
    t, g, gg = [y], [xp.exp(y * y) * (math.sqrt(math.pi) / 2)], []
    for k in range(1, order):  # g = y': g' = 2 y g²
        gg.append(convolve(g, g, k - 1))
        g.append(convolve(t, gg, k - 1, 2 / k))
        t.append(scaled(1 / k, g[k - 1]))
    return integrate(g)


def lgamma(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """The logarithm of |Γ|: y' = digamma."""
    return integrate([xp.digamma(u), *digamma(u, None, order - 1, xp)])


def digamma(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """The logarithmic derivative of Γ."""
    return polygamma(u, y, order, xp, n=0)


def polygamma(u: Array, y: Array, order: int, xp: Any, *, n: int) -> Tower:
    """The n-th derivative of digamma."""
    return [scaled(1 / math.factorial(k), xp.polygamma(n + k, u)) for k in range(1, order + 1)]


# ------------------------------------------------------------------ smooth activations


def sigmoid(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """The logistic function σ: y' = y (1 − y)."""
    return _logistic(u, order, xp, s=y)[1:]


def logsigmoid(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """log σ(u): y' = σ(−u)."""
    return integrate(_logistic(-u, order - 1, xp, slope=(-1.0,)))


def softplus(
    u: Array, y: Array, order: int, xp: Any, *, beta: float = 1.0, threshold: float = 20.0
) -> Tower:
    """log(1 + e^{βu})/β, and u itself where βu > threshold: y' = σ(βu)."""
    z = scaled(beta, u)
    t = integrate(_logistic(z, order - 1, xp, slope=(float(beta),)))
    if threshold == math.inf:
        return t
    return [xp.where(z > threshold, float(k == 1), t_k) for k, t_k in enumerate(t, 1)]


def silu(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """u σ(u)."""
    return times_u(u, _logistic(u, order, xp))


def gelu(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """u Φ(u), Φ the normal distribution function."""
    cdf = 0.5 * (1 + xp.erf(u * math.sqrt(0.5)))
    return times_u(u, [cdf, *ndtr(u, cdf, order, xp)])


def gelu_tanh(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """u (1 + tanh w)/2 = u σ(2w), with w = √(2/π) (u + 0.044715 u³)."""
    c, a = math.sqrt(8 / math.pi), 0.044715
    slope = (c + 3 * a * c * (u * u), 6 * a * c * u, 3 * a * c)  # 2w' at u + ε
    return times_u(u, _logistic(c * u * (1 + a * (u * u)), order, xp, slope))


def mish(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """u tanh(softplus(u))."""
    # T = tanh(log(1 + e^u)) = 2/d − 1 with d = 1 + r², r = σ(−u); T = σ(u)(1 + r)/d never cancels.
    r = _logistic(-u, order, xp, slope=(-1.0,))
    d0, d = 1 + r[0] * r[0], [None, *(convolve(r, r, k) for k in range(1, order + 1))]
    t = [2 / d0]
    for k in range(1, order + 1):  # Σ_j d_j t_{k−j} = 0
        t.append(-convolve(d, t, k) / d0)
    return times_u(u, [xp.sigmoid(u) * (1 + r[0]) / d0, *t[1:]])


def tanhshrink(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """u − tanh u."""
    th = xp.tanh(u)
    return [th * th, *(-t for t in tanh(u, th, order, xp)[1:])]


def softsign(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """u/(1 + |u|): t_k = (−sign u)^{k−1}/(1 + |u|)^{k+1}."""
    r = powers(1 / (1 + xp.abs(u)), order + 1)
    return [r[k] if k % 2 else -xp.sign(u) * r[k] for k in range(1, order + 1)]


# ------------------------------------------------------------------ piecewise activations


def abs(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """|u|; 0 at the kink."""
    return [xp.sign(u)] + [None] * (order - 1)


def step(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """A piecewise constant function: sign, floor, ceil, round, trunc."""
    return [None] * order


def relu(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """max(u, 0); 0 at the kink."""
    return _indicator(u > 0, u, xp, order)


def threshold(
    u: Array, y: Array, order: int, xp: Any, *, threshold: float, value: float = 0.0
) -> Tower:
    """u where u > threshold, else value."""
    return _indicator(u > threshold, u, xp, order)


def leaky_relu(u: Array, y: Array, order: int, xp: Any, *, negative_slope: float = 0.01) -> Tower:
    """u, or negative_slope·u where u ≤ 0."""
    return [xp.where(u > 0, u**0, float(negative_slope))] + [None] * (order - 1)


def hardtanh(
    u: Array, y: Array, order: int, xp: Any, *, min_val: float = -1.0, max_val: float = 1.0
) -> Tower:
    """u clamped to [min_val, max_val]; 0 at both kinks."""
    return _indicator((u > min_val) & (u < max_val), u, xp, order)


def relu6(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """u clamped to [0, 6]; 0 at both kinks."""
    return hardtanh(u, y, order, xp, min_val=0.0, max_val=6.0)


def hardsigmoid(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """u/6 + 1/2 clamped to [0, 1]; 0 at both kinks."""
    return _indicator((u > -3) & (u < 3), u, xp, order, 1 / 6)


def hardswish(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """u·hardsigmoid(u); the outer slopes at both kinks."""
    inside = (u > -3) & (u < 3)
    first = xp.where(inside, u * (1 / 3) + 0.5, xp.where(u > 0, u**0, 0.0))
    return [first, *(_indicator(inside, u, xp, order - 1, 1 / 6) if order > 1 else ())]


def hardshrink(u: Array, y: Array, order: int, xp: Any, *, lambd: float = 0.5) -> Tower:
    """u where |u| > lambd, else 0; 0 at both kinks."""
    return _indicator(xp.abs(u) > lambd, u, xp, order)


def softshrink(u: Array, y: Array, order: int, xp: Any, *, lambd: float = 0.5) -> Tower:
    """u moved by lambd towards 0; 0 at both kinks."""
    return hardshrink(u, y, order, xp, lambd=lambd)


def elu(
    u: Array,
    y: Array,
    order: int,
    xp: Any,
    *,
    alpha: float = 1.0,
    scale: float = 1.0,
    input_scale: float = 1.0,
) -> Tower:
    """scale·u, or scale·alpha (e^{input_scale·u} − 1) where u ≤ 0."""
    positive = u > 0
    tail = xp.exp(scaled(input_scale, xp.where(positive, 0.0, u))) * (scale * alpha)  # never e^{+u}
    below = _exponential(tail, order, input_scale)
    return [xp.where(positive, scale if k == 1 else 0.0, t) for k, t in enumerate(below, 1)]


def celu(u: Array, y: Array, order: int, xp: Any, *, alpha: float = 1.0) -> Tower:
    """u, or alpha (e^{u/alpha} − 1) where u ≤ 0."""
    return elu(u, y, order, xp, alpha=alpha, input_scale=1 / alpha)


def selu(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """scale·elu(u, alpha), with the two constants of Klambauer and others (2017)."""
    return elu(u, y, order, xp, alpha=1.6732632423543772, scale=1.0507009873554805)
