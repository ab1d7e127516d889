"""The Black-Scholes-Barenblatt equation in 100 dimensions.

    u_t + ½ Tr(σσᵀ∇²u) = r (u − x·∇u),  u(T, x) = |x|²,  σ(x) = 0.4 diag(x),  r = 0.05
    u(t, x) = exp((r + 0.4²)(T − t)) |x|²

The exact second-order term carries 102 vectors, S random mixtures of the columns of σ carry S + 2.
A network is trained on the residual from 8 of them.

Source: Raissi 2018, "Forward-backward stochastic neural networks" (arXiv 1804.07010).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import common
import numpy as np

import jetfold as jf

END, RATE, VOLATILITY = 1.0, 0.05, 0.4
TRAINED_WITH = 8


def paths(rng: np.random.Generator, points: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Times and places of dX = σ(X) dW from X = (1, 0.5, 1, 0.5, ...)."""
    t = rng.uniform(0, END, size=points)
    noise = rng.normal(size=(points, n)) * (t**0.5)[:, None]
    start = np.where(np.arange(n) % 2, 0.5, 1.0)
    return t, start * np.exp(VOLATILITY * noise - (VOLATILITY**2 * t / 2)[:, None])


def solution(xp, t, x):
    return xp.exp((RATE + VOLATILITY**2) * (END - t)) * (x**2).sum(-1)


def main(arguments: Sequence[str] | None = None) -> None:
    options = common.parse(
        "black_scholes_barenblatt", __doc__, arguments,
        dimension=100, points=16, draws=32, samples=128, steps=500, batch=64, width=64,
    )  # fmt: skip
    framework, n = options.framework, options.dimension
    xp, rng = framework.xp, np.random.default_rng(0)
    t, x = map(framework.array, paths(rng, options.points, n))

    def sigma(x):
        return VOLATILITY * x[..., None] * xp.eye(n, dtype=x.dtype)

    second_order = jf.weighted_laplacian(sigma=sigma)  # Tr(σσᵀ∇²)
    in_x = {"argnums": 1, "batch_dims": 1}

    def residual(u, second, t, x):
        """u_t + r x·∇u is the derivative of u along (1, r x)."""
        value, (along,) = jf.jet(u, (t, x), ([xp.ones_like(t)], [RATE * x]))
        return along + second / 2 - RATE * value

    # The known solution solves the equation.
    known = partial(solution, xp)

    def of_solution(t, x):
        return residual(known, second_order(known, **in_x)(t, x), t, x)

    left = framework.numpy(framework.compiled(of_solution)(t, x))
    error = np.linalg.norm(left) / np.linalg.norm(framework.numpy(known(t, x)))
    common.check(error < 1e-9, f"residual of the solution over the solution: {error:.0e}")

    # A network that meets the condition at T.
    def u(t, x, parameters):
        inputs = xp.concatenate([t[..., None], x], -1)
        return (x**2).sum(-1) * (1 + (END - t) * common.network(xp, parameters, inputs))

    def estimate(distribution, samples):
        return jf.randomize(second_order, samples, distribution, per_point=True)(u, **in_x)

    start = common.parameters(framework, rng, [n + 1, options.width, options.width, 1])
    exact = framework.numpy(framework.compiled(second_order(u, **in_x))(t, x, start))
    errors = common.study(
        framework, estimate, (t, x, start), exact, ["rademacher", "gaussian", "orthogonal"],
        options.sizes, options.draws,
    )  # fmt: skip
    common.picture(options.picture, f"Tr(σσᵀ∇²u), {n} dimensions", options.sizes, errors)
    common.check_estimates(errors)

    # Training on the residual from random directions, drawn anew for every step and point. Its
    # square is too large by the variance of the estimate, which vanishes for the solution: there
    # σᵀ∇²uσ is diagonal, and Rademacher directions are exact.
    randomized = jf.randomize(second_order, TRAINED_WITH, per_point=True)

    def loss(parameters, t, x, rng):
        def f(t, x):
            return u(t, x, parameters)

        second = randomized(f, **in_x)(t, x, rng=rng)
        return ((residual(f, second, t, x) / n) ** 2).mean()

    def batches():
        for k in range(options.steps):
            yield (*map(framework.array, paths(rng, options.batch, n)), framework.rng(k))

    test = paths(np.random.default_rng(1), 1000, n)

    def error_of(parameters):
        found = u(*map(framework.array, test), parameters)
        return common.relative_error(framework.numpy(found), solution(np, *test))

    common.train(framework, loss, start, batches(), options.steps, error_of)


if __name__ == "__main__":
    main()
