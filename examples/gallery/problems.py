"""Ten equations with a known solution, as one writes them for jetfold.residual.

An equation is written once for PyTorch and JAX: its fields and derivatives are arrays of either.
Where it needs a function, sin or exp, it names `xp`, which is torch or jax.numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import pi, sqrt
from typing import Any


@dataclass(frozen=True)
class Problem:
    """An equation in a box, whose solution is known.

    Attributes:
        title: of the page.
        formula: the equation as one writes it on paper.
        about: which solution it is, and where it is from.
        coordinates: their names; the first is t where the problem has a time.
        box: lowest and highest value of each.
        equation: as jetfold.residual takes it.
        exact: (xp, *coordinates) -> the fields.
        backwards: whether the values at the last time are given, not those at the first.
        slopes: whether derivatives normal to the sides are given too, as fourth order needs it.
        scale: a size of the terms of the equation, by which the residual is divided.
        quick, full: steps of a test-sized run, and of a full one.
        error: the relative error that is reached by a test-sized run, and by a full one.
    """

    title: str
    formula: str
    about: str
    coordinates: str
    box: Sequence[tuple[float, float]]
    equation: Callable[..., Any]
    exact: Callable[..., Any]
    backwards: bool = False
    slopes: bool = False
    scale: float = 1.0
    quick: int = 200
    full: int = 1500
    error: tuple[float, float] = (1e-1, 5e-3)


# ------------------------------------------------------------------ fluids and waves


def burgers(u, d):
    return d.t(u) + u * d.x(u) - 0.1 * d.xx(u)


def burgers_exact(xp, t, x):
    return 1 - xp.tanh((x - t) / 0.2)


def kuramoto_sivashinsky(u, d):
    return d.t(u) + u * d.x(u) + d.xx(u) + d.xxxx(u)


def kuramoto_sivashinsky_exact(xp, t, x):
    front = xp.tanh(sqrt(11 / 19) / 2 * (x - t))
    return 1 + 15 / 19 * sqrt(11 / 19) * (11 * front**3 - 9 * front)


def navier_stokes(u, v, p, d):
    return {
        "momentum x": d.t(u) + u * d.x(u) + v * d.y(u) + d.x(p) - 0.1 * d.laplacian(u, over="x y"),
        "momentum y": d.t(v) + u * d.x(v) + v * d.y(v) + d.y(p) - 0.1 * d.laplacian(v, over="x y"),
        "mass": d.x(u) + d.y(v),
    }


def navier_stokes_exact(xp, t, x, y):
    decay = xp.exp(-0.2 * t)
    u, v = -xp.cos(x) * xp.sin(y) * decay, xp.sin(x) * xp.cos(y) * decay
    return u, v, -(xp.cos(2 * x) + xp.cos(2 * y)) / 4 * decay**2


def maxwell(e, hx, hy, d):
    return {
        "ampere": d.t(e) - d.x(hy) + d.y(hx),
        "faraday x": d.t(hx) + d.y(e),
        "faraday y": d.t(hy) - d.x(e),
        "gauss": d.x(hx) + d.y(hy),
    }


def maxwell_exact(xp, t, x, y):
    omega = sqrt(2) * pi
    e = xp.sin(pi * x) * xp.sin(pi * y) * xp.cos(omega * t)
    hx = -xp.sin(pi * x) * xp.cos(pi * y) * xp.sin(omega * t) / sqrt(2)
    hy = xp.cos(pi * x) * xp.sin(pi * y) * xp.sin(omega * t) / sqrt(2)
    return e, hx, hy


def schroedinger(re, im, d):
    density = re**2 + im**2
    return {
        "real": -d.t(im) + d.xx(re) / 2 + density * re,
        "imaginary": d.t(re) + d.xx(im) / 2 + density * im,
    }


def schroedinger_exact(xp, t, x):
    height = 1 / xp.cosh(x - t)
    return height * xp.cos(x), height * xp.sin(x)


def helmholtz(u, d, x, y, xp):
    return d.laplacian(u) + 9 * u - (9 - 5 * pi**2) * xp.sin(pi * x) * xp.sin(2 * pi * y)


def helmholtz_exact(xp, x, y):
    return xp.sin(pi * x) * xp.sin(2 * pi * y)


# ------------------------------------------------------------------ solids, phases, prices


def elasticity(u, v, d, x, y, xp):
    force_x = 2.5 * xp.sin(pi * x) * xp.sin(pi * y) - 3 * xp.cos(2 * pi * x) * xp.cos(pi * y)
    force_y = 4 * xp.sin(2 * pi * x) * xp.sin(pi * y) - 1.5 * xp.cos(pi * x) * xp.cos(pi * y)
    return {
        "x": 1.5 * (d.xx(u) + d.xy(v)) + 0.5 * d.laplacian(u) + pi**2 * force_x,
        "y": 1.5 * (d.xy(u) + d.yy(v)) + 0.5 * d.laplacian(v) + pi**2 * force_y,
    }


def elasticity_exact(xp, x, y):
    return xp.sin(pi * x) * xp.sin(pi * y), xp.sin(2 * pi * x) * xp.sin(pi * y)


def cahn_hilliard(u, d, t, x, xp):
    source = forcing(xp, xp.exp(-t), xp.cos(pi * x))
    return d.t(u) - (3 * u**2 - 1) * d.xx(u) - 6 * u * d.x(u) ** 2 + 0.05 * d.xxxx(u) - source


def forcing(xp, decay, wave):
    """What e^(-t) cos(πx) lacks to solve the equation of Cahn and Hilliard."""
    u, slope = decay * wave, (pi * decay) ** 2 * (1 - wave**2)
    return (0.05 * pi**4 - 1) * u + (3 * u**2 - 1) * pi**2 * u - 6 * u * slope


def cahn_hilliard_exact(xp, t, x):
    return xp.exp(-t) * xp.cos(pi * x)


def reaction_diffusion(u, d):
    return d.t(u) - d.xx(u) - u * (1 - u)


def reaction_diffusion_exact(xp, t, x):
    return (1 + xp.exp((x - 5 / sqrt(6) * t) / sqrt(6))) ** -2


def black_scholes(v, d):
    return d.t(v) + 0.045 * d.yy(v) + 0.005 * d.y(v) - 0.05 * v


def black_scholes_exact(xp, t, y):
    left = 1 - t
    spread = 0.3 * left**0.5
    first = (y + 0.095 * left) / spread
    return xp.exp(y) * normal(xp, first) - xp.exp(-0.05 * left) * normal(xp, first - spread)


def normal(xp, z):
    """The distribution function of the standard normal distribution."""
    if hasattr(xp, "erf"):
        return (1 + xp.erf(z / sqrt(2))) / 2
    from jax.scipy.special import ndtr

    return ndtr(z)


PROBLEMS = {
    "burgers": Problem(
        "Burgers",
        "u_t + u u_x = ν u_xx",
        "A front that moves with speed 1, u = 1 − tanh((x − t) / 2ν), for ν = 0.1.",
        "t x",
        [(0, 1), (-1, 2)],
        burgers,
        burgers_exact,
        quick=60,
        error=(1e-2, 1e-3),
    ),
    "kuramoto-sivashinsky": Problem(
        "Kuramoto and Sivashinsky",
        "u_t + u u_x + u_xx + u_xxxx = 0",
        "A front that moves with speed 1, u = 1 + (15/19) √(11/19) (11 T³ − 9 T) with "
        "T = tanh(√(11/19) (x − t) / 2). Fourth order, 6 vectors; at the sides the slope is given "
        "beside the value.",
        "t x",
        [(0, 1), (-5, 5)],
        kuramoto_sivashinsky,
        kuramoto_sivashinsky_exact,
        slopes=True,
        quick=60,
    ),
    "navier-stokes": Problem(
        "Navier and Stokes",
        "u_t + (u·∇) u + ∇p = ν Δu,  ∇·u = 0",
        "The vortices of Taylor and Green, which decay, for ν = 0.1. Three fields of one network, "
        'one propagation of 5 vectors; `d.laplacian(u, over="x y")` takes fewer than '
        "`d.xx(u) + d.yy(u)`.",
        "t x y",
        [(0, 1), (0, pi), (0, pi)],
        navier_stokes,
        navier_stokes_exact,
        full=3000,
    ),
    "maxwell": Problem(
        "Maxwell",
        "∂E/∂t = ∇×H,  ∂H/∂t = −∇×E,  ∇·H = 0",
        "The lowest mode of a square cavity, E along z: E = sin πx sin πy cos √2πt.",
        "t x y",
        [(0, 1), (0, 1), (0, 1)],
        maxwell,
        maxwell_exact,
        scale=pi,
        quick=300,
        full=5000,
        error=(1.5e-1, 2e-2),
    ),
    "schroedinger": Problem(
        "Schrödinger, nonlinear",
        "i ψ_t + ½ ψ_xx + |ψ|² ψ = 0",
        "A soliton, ψ = sech(x − t) exp(i x); real and imaginary part are two fields. (A complex "
        "field works too: `1j * d.t(psi) + d.xx(psi) / 2 + abs(psi)**2 * psi`.)",
        "t x",
        [(0, 1), (-4, 4)],
        schroedinger,
        schroedinger_exact,
    ),
    "helmholtz": Problem(
        "Helmholtz",
        "Δu + k² u = q",
        "k = 3, and q such that u = sin πx sin 2πy. Coordinates that the equation names are arrays "
        "like the fields.",
        "x y",
        [(0, 1), (0, 1)],
        helmholtz,
        helmholtz_exact,
        scale=10.0,
    ),
    "elasticity": Problem(
        "Elasticity",
        "(λ + μ) ∇(∇·u) + μ Δu + f = 0",
        "A clamped square in plane strain with λ = 1, μ = ½, and a force f such that "
        "u = (sin πx sin πy, sin 2πx sin πy).",
        "x y",
        [(0, 1), (0, 1)],
        elasticity,
        elasticity_exact,
        scale=5 * pi**2,
    ),
    "cahn-hilliard": Problem(
        "Cahn and Hilliard",
        "u_t = Δ(u³ − u − γ Δu) + q",
        "γ = 0.05, and q such that u = exp(−t) cos πx. The derivative of u³ is written out; "
        "`d.xx(u**3)` raises an error that says so.",
        "t x",
        [(0, 1), (-1, 1)],
        cahn_hilliard,
        cahn_hilliard_exact,
        slopes=True,
        scale=10.0,
    ),
    "reaction-diffusion": Problem(
        "Reaction and diffusion",
        "u_t = u_xx + u (1 − u)",
        "Fisher's equation; the wave of Ablowitz and Zeppetella, "
        "u = (1 + exp((x − 5t/√6) / √6))⁻².",
        "t x",
        [(0, 1), (-5, 5)],
        reaction_diffusion,
        reaction_diffusion_exact,
        quick=50,
    ),
    "black-scholes": Problem(
        "Black and Scholes",
        "V_t + ½ σ² V_yy + (r − ½ σ²) V_y − r V = 0",
        "A European call a year before expiry, over the logarithm y of price by strike, σ = 0.3, "
        "r = 0.05, until a quarter of a year before it. The final value is given, so that time "
        "runs backwards.",
        "t y",
        [(0, 0.75), (-0.7, 0.7)],
        black_scholes,
        black_scholes_exact,
        backwards=True,
        scale=0.1,
        quick=80,
    ),
}
