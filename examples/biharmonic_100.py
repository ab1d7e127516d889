"""The biharmonic of a sum of waves in 100 dimensions, exact and from random directions.

    u(x) = Σ_k a_k sin(w_k·x),    Δ²u = Σ_k a_k |w_k|⁴ sin(w_k·x)

The exact operator carries 5,252 vectors, S random directions carry 3S + 2. A wave changes along one
direction only, which random ones seldom meet: the error starts high and falls as 1/√S.

Source of the estimate, E[(v·ξ)⁴] = 3|ξ|⁴ for Gaussian v: Dangel et al. 2025, arXiv 2505.13644.
"""

from __future__ import annotations

from collections.abc import Sequence

import common
import numpy as np

import jetfold as jf

WAVES = 32


def main(arguments: Sequence[str] | None = None) -> None:
    options = common.parse(
        "biharmonic_100", __doc__, arguments, dimension=100, points=8, draws=64, samples=256
    )
    framework, n = options.framework, options.dimension
    rng = np.random.default_rng(0)
    w, a = rng.normal(size=(n, WAVES)) / n**0.5, rng.normal(size=WAVES)
    x = rng.normal(size=(options.points, n))
    known = np.sin(x @ w) @ (a * (w**2).sum(0) ** 2)

    def u(x, w, a):
        return framework.xp.sin(x @ w) @ a

    given = tuple(framework.array(values) for values in (x, w, a))
    exact = framework.numpy(framework.compiled(jf.biharmonic(u, batch_dims=1))(*given))
    error = common.relative_error(exact, known)
    common.check(error < 1e-9, f"exact biharmonic, relative error {error:.0e}")

    def estimate(distribution, samples):
        randomized = jf.randomize(jf.biharmonic, samples, distribution, per_point=True)
        return randomized(u, batch_dims=1)

    errors = common.study(
        framework, estimate, given, known, ["gaussian", "orthogonal"], options.sizes, options.draws
    )
    common.picture(options.picture, f"Δ²u in {n} dimensions", options.sizes, errors)
    common.check_estimates(errors)


if __name__ == "__main__":
    main()
