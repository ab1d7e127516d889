"""Reverse passes against the definition: random jets, of every algebra that operators make."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jetfold.core import duals
from jetfold.core.directions import METHODS, scheme
from jetfold.core.estimators import Sampling
from jetfold.core.jet import Elementwise, product
from jetfold.core.polynomial import Polynomial


def form(n: int, weight: Any = 1) -> Polynomial:
    return Polynomial({(i, i): weight for i in range(n)})


D = [Polynomial.variable(i) for i in range(4)]
ONE = Polynomial.constant(1)
SYMBOLS = {
    "Laplacian": (form(4),),
    "biharmonic": (form(3) ** 2,),
    "Δ³": (form(2) ** 3,),
    "heat": (D[0] - form(3),),
    "mixed": (D[0] * D[1] + D[2] ** 4 + D[3] ** 2 * 3,),
    "x²y²": (D[0] ** 2 * D[1] ** 2,),
    "u, u_t, Δu, Δ²u": (ONE, D[3], form(2), form(2) ** 2),
    "gradient": tuple(D),
    "Hessian": tuple(D[i] * D[j] for i, j in itertools.combinations_with_replacement(range(3), 2)),
    "u_t and u_xxx": (D[0] + D[1] ** 3, D[1] * D[2]),
    "irrational": (form(2, 2**0.5) + D[0] * D[1] * 3**0.5,),
    "irrational, of degree four": (form(2, 2**0.5) ** 2 + D[0] ** 3 * D[1] * 3**0.5 + D[2] ** 2,),
    "metres and seconds": ((D[0] ** 2 * (1.1e-17 / 3) - D[1] ** 2) ** 2,),
}
PASSES = {
    "Laplacian": 1,
    "biharmonic": 1,
    "Δ³": 1,
    "heat": 1,
    "mixed": 1,
    "x²y²": 1,
    "u, u_t, Δu, Δ²u": 2,
    "gradient": 4,
    "Hessian": 6,
    "u_t and u_xxx": 2,
    "irrational": 1,
    "irrational, of degree four": 1,
    "metres and seconds": 1,
}
"""Of the method "minimal": the symbols that are no derivatives of others."""


def holds(algebra: Any, xp: Any, unit: float = 1.0) -> None:
    """For ĝ = û·ŵ, ŵ = (∇g)^: what every pass says of ⟨v̂, ĝ⟩, put together, is v̂ŵ.

    unit: of coordinate 0, in which derivatives along it are of order 1.
    """
    rng = np.random.default_rng(0)
    times = Elementwise(xp, 1)
    units = iter([unit ** pivot.count(0) for pivot in algebra.pivots])
    scales = [np.array([[next(units)] for _ in range(size)]) for size in algebra.sizes]
    w, v = ([rng.normal(size=(len(s), 2)) * s for s in scales] for _ in range(2))

    def multiplied(u: Any, w: Any) -> Any:
        out = product(algebra, [u[0][0], *u[1:]], [w[0][0], *w[1:]], times, xp)
        zeros, whole = [np.zeros((size, 2)) for size in algebra.sizes], [out[0][None], *out[1:]]
        return [z if b is None else z + b for z, b in zip(zeros, whole, strict=True)]

    found: list[Any] = [None] * (algebra.order + 1)
    for one in duals.passes(algebra.key):
        seed: list[Any] = [None] * (algebra.order + 1)
        enter = duals.apply(one.enter, v, seed, xp)
        # ∂⟨v̂, û·ŵ⟩_τ/∂û_a, from its definition: along each û_a.
        gradient = [np.zeros((size, 2)) for size in algebra.sizes]
        for m, size in enumerate(algebra.sizes):
            for a in range(size):
                u = [np.zeros((s, 2)) for s in algebra.sizes]
                u[m][a] = 1
                ahead = multiplied(u, w)
                total = sum(
                    (e * g).sum(0) for e, g in zip(enter, ahead, strict=True) if e is not None
                )
                gradient[m][a] = total
                degree, place = one.top
                np.testing.assert_allclose(
                    total, multiplied(v, ahead)[degree][place], rtol=1e-8, atol=1e-12
                )
        found = duals.apply(one.leave, gradient, found, xp)
    expected = multiplied(v, w)
    for m, (ours, true) in enumerate(zip(found, expected, strict=True)):
        np.testing.assert_allclose(ours / scales[m], true / scales[m], atol=1e-8, err_msg=str(m))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SYMBOLS)
def test_the_passes_give_every_coefficient_of_the_gradient(name, method, xp):
    algebra = scheme(SYMBOLS[name], method).algebra
    holds(algebra, xp, 1e8 if name == "metres and seconds" else 1.0)
    if method == "minimal":
        assert len(duals.passes(algebra.key)) == PASSES[name]


@pytest.mark.parametrize("symbols", [(form(9),), (form(9) ** 2, D[0])], ids=["Δ", "Δ²"])
def test_of_randomized_operators(symbols, xp):
    for symbol in (symbols[0], sum((d**3 for d in D), Polynomial())):
        estimated = Sampling(samples=3).estimator((symbol,), 9).symbols
        holds(scheme(tuple(estimated), "minimal").algebra, xp)


monomials = st.lists(st.integers(0, 2), min_size=1, max_size=4).map(lambda m: tuple(sorted(m)))
numbers = st.integers(-3, 3).filter(bool)
polynomials = st.dictionaries(monomials, numbers, min_size=1, max_size=4).map(Polynomial)


@given(symbols=st.lists(polynomials, min_size=1, max_size=3), method=st.sampled_from(METHODS))
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_of_any_polynomials(symbols, method, xp):
    algebra = scheme(tuple(symbols), method).algebra
    if algebra.vectors < 60:
        holds(algebra, xp)
