"""Towers of special functions, as those of `core.towers` and called alike.

`xp` offers one function more: `special(name, u)`, the framework's own i0, i1, i0e, i1e, erfcx.
"""

from __future__ import annotations

import math
from typing import Any

from .towers import Array, Entry, Tower, add, convolve, integrate, scaled

# ------------------------------------------------------------------ modified Bessel functions


def _modified_bessel(u: Array, y: Array, slope: Array, order: int, n: int) -> Tower:
    """[y, t_1, …] with u² y'' + u y' − (u² + n²) y = 0, from y and its slope."""
    t = [y, slope]
    for k in range(order - 1):
        rest = t[k] * ((k * k - n * n) - u * u) + t[k + 1] * u * ((k + 1) * (2 * k + 1))
        if k > 0:
            rest = rest - t[k - 1] * u * 2
        if k > 1:
            rest = rest - t[k - 2]
        t.append(-rest / (u * u) * (1 / ((k + 1) * (k + 2))))
    return t[: order + 1]


def _power_series(u: Array, order: int, n: int) -> Tower:
    """[y, t_1, …] of I_n(u) = Σ_m (u/2)^{2m+n}/(m! (m + n)!), for |u| ≤ 1."""
    terms = {
        2 * m + n: 0.5 ** (2 * m + n) / (math.factorial(m) * math.factorial(m + n))
        for m in range(10 + order // 2)
    }
    t = []
    for k in range(order + 1):
        total = u * 0
        for power in range(max(terms), k - 1, -1):  # Horner's scheme
            total = total * u + terms.get(power, 0.0) * math.comb(power, k)
        t.append(total)
    return t


def _bessel(u: Array, y: Array, other: Array, order: int, xp: Any, n: int, scale: Array) -> Tower:
    """[y, t_1, …] of scale·I_n, from its value and that of scale·I_{1−n}; scale is a constant."""
    near = xp.abs(u) < 1
    far = xp.where(near, 2.0, u)
    y, other = xp.where(near, 0.0, y), xp.where(near, 0.0, other)
    slope = other if n == 0 else other - y / far  # I_0' = I_1, I_1' = I_0 − I_1/u
    beyond = _modified_bessel(far, y, slope, order, n)
    inside = _power_series(xp.where(near, u, 0.0), order, n)
    return [xp.where(near, a * scale, b) for a, b in zip(inside, beyond, strict=True)]


def _scaled_bessel(u: Array, y: Array, other: Array, order: int, xp: Any, n: int) -> Tower:
    """The tower of e^{−|u|} I_n(u)."""
    side = xp.sign(u)
    decay: list[Entry] = [1.0, -side]  # e^{−s ε}, s the sign
    for k in range(2, order + 1):
        decay.append(decay[-1] * side * (-1 / k))
    t = _bessel(u, y, other, order, xp, n, xp.exp(-xp.abs(u)))
    return [convolve(t, decay, k) for k in range(1, order + 1)]


def i0(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """The modified Bessel function I_0."""
    return _bessel(u, y, xp.special("i1", u), order, xp, 0, 1.0)[1:]


def i1(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """The modified Bessel function I_1."""
    return _bessel(u, y, xp.special("i0", u), order, xp, 1, 1.0)[1:]


def i0e(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """e^{−|u|} I_0(u); at the kink the mean of both slopes."""
    return _scaled_bessel(u, y, xp.special("i1e", u), order, xp, 0)


def i1e(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """e^{−|u|} I_1(u)."""
    return _scaled_bessel(u, y, xp.special("i0e", u), order, xp, 1)


# ------------------------------------------------------------------ the normal distribution


def erfcx(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """e^{u²} erfc(u): y' = 2u y − 2/√π."""
    # (k + 1) t_{k+1} = 2 (u t_k + t_{k−1}). Upward errors grow by 2u; for large u, where y' is the
    # difference of large numbers, the ratios t_k/t_{k−1} follow downward (J. C. P. Miller).
    large = u > 2
    small, far = xp.where(large, 0.0, u), xp.where(large, u, 2.0)
    value = xp.where(large, 0.0, y)
    up = [value, (small * value - 1 / math.sqrt(math.pi)) * 2]
    for k in range(1, order):
        up.append((small * up[k] + up[k - 1]) * (2 / (k + 1)))
    ratios = [-1 / far]
    for k in range(order + 40, 0, -1):
        ratios.append(1 / (ratios[-1] * ((k + 1) / 2) - far))
    t, last = [], xp.where(large, y, 0.0)
    for k, ratio in zip(range(1, order + 1), reversed(ratios), strict=False):
        last = last * ratio
        t.append(xp.where(large, last, up[k]))
    return t


def ndtri(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """The inverse of the normal distribution function: y' = √(2π) exp(y²/2)."""
    t, g, gg = [y], [xp.exp(y * y * 0.5) * math.sqrt(2 * math.pi)], []
    for k in range(1, order):  # g = y': g' = y g²
        gg.append(convolve(g, g, k - 1))
        t.append(scaled(1 / k, g[k - 1]))
        g.append(convolve(t[:k], gg, k - 1, 1 / k))
    return integrate(g)


def log_ndtr(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """log Φ of the normal distribution function: y' = φ/Φ = r, r' = −r (u + r)."""
    tail = u < -1
    inner, outer = xp.where(tail, 0.0, u), xp.where(tail, u, -1.0)
    r = [xp.exp(inner * inner * -0.5 - xp.where(tail, 0.0, y)) * (1 / math.sqrt(2 * math.pi))]
    for k in range(order - 1):
        rest = add(inner * r[k], convolve(r, r, k))
        r.append((rest if k == 0 else rest + r[k - 1]) * (-1 / (k + 1)))
    # There r ≈ −u, and u + r cancels: log Φ(u) = log(e/2) − u²/2 with e = erfcx(w), w = −u/√2.
    w, c = outer * -math.sqrt(0.5), -math.sqrt(0.5)
    e0 = xp.special("erfcx", w)
    e = [None, *(t / e0 * c**k for k, t in enumerate(erfcx(w, e0, order, xp), 1))]
    log: list[Entry] = [None]
    for k in range(1, order + 1):  # e' = e log'
        rest = convolve([scaled(j, t) for j, t in enumerate(log)], e, k)
        log.append(e[k] if rest is None else e[k] - rest * (1 / k))
    parabola = [-outer, -0.5] + [None] * order
    return [xp.where(tail, add(log[k], parabola[k - 1]), t) for k, t in enumerate(integrate(r), 1)]


# ------------------------------------------------------------------ entropy and Gamma


def entr(u: Array, y: Array, order: int, xp: Any) -> Tower:
    """−u log u: y' = −log u − 1."""
    t, power = [-xp.log(u) - 1], 1.0 / u
    for k in range(2, order + 1):
        t.append(power * ((-1) ** (k - 1) / (k * (k - 1))))
        power = power / u
    return t


def igamma(u: Array, y: Array, order: int, xp: Any, *, a: Array) -> Tower:
    """The regularised lower incomplete Gamma function P(a, u): y' = g = u^{a−1} e^{−u}/Γ(a)."""
    g = [xp.exp((a - 1) * xp.log(u) - u - xp.lgamma(a))]
    for k in range(order - 1):  # u g' = (a − 1 − u) g
        rest = (a - 1 - u - k) * g[k]
        g.append((rest if k == 0 else rest - g[k - 1]) / u * (1 / (k + 1)))
    return integrate(g)


def igammac(u: Array, y: Array, order: int, xp: Any, *, a: Array) -> Tower:
    """The upper one, Q = 1 − P."""
    return [-t for t in igamma(u, y, order, xp, a=a)]
