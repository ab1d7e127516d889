"""A Sine-Gordon equation on the unit ball in 1,000 dimensions.

    Δu + sin u = g,  u = 0 on the sphere
    u(x) = (1 − |x|²) Σ_i c_i sin(φ_i),    φ_i = x_i + cos x_{i+1} + x_{i+1} cos x_i

The exact Laplacian carries 1,002 vectors, here in chunks of directions; S random ones carry S + 2.
A network is trained on the residual from 16 of them.

Source: the two-body solution of Hu, Shukla, Karniadakis & Kawaguchi 2024, "Tackling the curse of
dimensionality with physics-informed neural networks" (arXiv 2307.12306); c_i ~ N(0, 1/n) here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import common
import numpy as np

import jetfold as jf

CHUNK = 128
TRAINED_WITH = 16


def in_ball(rng: np.random.Generator, points: int, n: int) -> np.ndarray:
    """Points of uniform direction and uniform radius."""
    x = rng.normal(size=(points, n))
    return x / np.linalg.norm(x, axis=1, keepdims=True) * rng.uniform(size=(points, 1))


def solution(xp, x, c):
    a, b = x[..., :-1], x[..., 1:]
    return (1 - (x**2).sum(-1)) * (xp.sin(a + xp.cos(b) + b * xp.cos(a)) @ c)


def laplacian_of_solution(x: np.ndarray, c: np.ndarray) -> np.ndarray:
    """Δ((1 − |x|²) w) = (1 − |x|²) Δw − 4 x·∇w − 2n w with w = Σ_i c_i sin(φ_i), by hand."""
    a, b = x[..., :-1], x[..., 1:]
    phi = a + np.cos(b) + b * np.cos(a)
    phi_a, phi_b = 1 - b * np.sin(a), np.cos(a) - np.sin(b)
    phi_aa, phi_bb = -b * np.cos(a), -np.cos(b)
    w = np.sin(phi) @ c
    slope = (np.cos(phi) * (a * phi_a + b * phi_b)) @ c
    curvature = (np.cos(phi) * (phi_aa + phi_bb) - np.sin(phi) * (phi_a**2 + phi_b**2)) @ c
    return (1 - (x**2).sum(-1)) * curvature - 4 * slope - 2 * x.shape[-1] * w


def source(x: np.ndarray, c: np.ndarray) -> np.ndarray:
    """g."""
    return laplacian_of_solution(x, c) + np.sin(solution(np, x, c))


def main(arguments: Sequence[str] | None = None) -> None:
    options = common.parse(
        "sine_gordon", __doc__, arguments,
        dimension=1000, points=8, draws=16, samples=256, steps=300, batch=64, width=64,
    )  # fmt: skip
    framework, n = options.framework, options.dimension
    xp, rng = framework.xp, np.random.default_rng(0)
    c = rng.normal(size=n - 1) / n**0.5
    points = in_ball(rng, options.points, n)
    x, g = framework.array(points), framework.array(source(points, c))

    # The known solution solves the equation.
    operator = jf.laplacian(partial(solution, xp), batch_dims=1, chunk_size=CHUNK)
    found = framework.compiled(operator)(x, framework.array(c))
    error = common.relative_error(framework.numpy(found), laplacian_of_solution(points, c))
    common.check(error < 1e-9, f"exact Laplacian of the solution, relative error {error:.0e}")

    # A network that vanishes on the sphere.
    def u(x, parameters):
        return (1 - (x**2).sum(-1)) * common.network(xp, parameters, n**0.5 * x)

    def residual(laplacian, x, g, parameters, **rng):
        return laplacian(x, parameters, **rng) + xp.sin(u(x, parameters)) - g

    def estimate(distribution, samples):
        randomized = jf.randomize(jf.laplacian, samples, distribution, per_point=True)
        return partial(residual, randomized(u, batch_dims=1))

    start = common.parameters(framework, rng, [n, options.width, options.width, 1])
    chunked = partial(residual, jf.laplacian(u, batch_dims=1, chunk_size=CHUNK))
    exact = framework.numpy(framework.compiled(chunked)(x, g, start))
    errors = common.study(
        framework, estimate, (x, g, start), exact, ["rademacher", "coordinates"],
        options.sizes, options.draws,
    )  # fmt: skip
    common.picture(options.picture, f"Δu + sin u − g, {n:,} dimensions", options.sizes, errors)
    common.check_estimates(errors)

    # Training on the residual from random directions, drawn anew for every step and point. Its
    # square is too large by the variance of the estimate, which is small and falls as 1/S.
    randomized = estimate("rademacher", TRAINED_WITH)

    def loss(parameters, x, g, rng):
        return ((randomized(x, g, parameters, rng=rng) / n) ** 2).mean()

    def batches():
        for k in range(options.steps):
            x = in_ball(rng, options.batch, n)
            yield framework.array(x), framework.array(source(x, c)), framework.rng(k)

    test = in_ball(np.random.default_rng(1), 1000, n)

    def error_of(parameters):
        found = framework.numpy(u(framework.array(test), parameters))
        return common.relative_error(found, solution(np, test, c))

    common.train(framework, loss, start, batches(), options.steps, error_of)


if __name__ == "__main__":
    main()
