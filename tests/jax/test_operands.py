"""Operands of unlike shape and rank, constant and dependent in every combination, real and complex.

Generated: from the table of rules, everything that acts on every entry of two operands or more, as
`jax.lax` has it; and the functions of `jax.numpy` and `jax.scipy.special` that take several.
"""

from __future__ import annotations

import numpy as np
import pytest

jax = pytest.importorskip("jax")

import jax.numpy as jnp
from jax import lax
from jax.scipy import special

import jetfold as jf
from jetfold.jax.table import TABLE

POINT = np.array([0.41, 0.73, 0.58])
QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


# As many coordinates as entries: a row taken for an axis of the value would go unnoticed else.
SHAPES = {
    2: [((), (3,)), ((3,), ()), ((3, 1), (3,))],
    3: [((), (3,), (3, 3)), ((3,), (), ())],
}
DEPENDENT = {
    2: [(True, True), (True, False), (False, True)],
    3: [(True, True, True), (True, False, False), (False, True, False), (False, False, True)],
}


def primitives():
    """(name, function, number of operands) of what the table says to act on every entry."""
    x = jnp.ones(3)
    for name, rule in TABLE.items():
        function = {"select_n": choose, "clamp": clamp}.get(name, getattr(lax, name, None))
        if not rule.entrywise or not callable(function):
            continue
        for count in (2, 3):
            try:
                result = jax.eval_shape(function, *[x] * count)
            except (TypeError, ValueError):
                continue
            if jnp.issubdtype(getattr(result, "dtype", int), jnp.inexact):
                yield name, function, count


def choose(which, *cases):
    """select_n, whose cases have one shape, by a condition that may be a number."""
    which, *cases = which, *jnp.broadcast_arrays(*cases)
    return lax.select_n(jnp.broadcast_to(which > 0.5, cases[0].shape), *cases)


def clamp(low, x, high):
    """clamp, in one shape: of bounds that are numbers JAX has no derivatives."""
    low, x, high = jnp.broadcast_arrays(low, x, high)
    return lax.clamp(low, x, high + 0.2)


PRIMITIVES = {f"lax.{name}": (f, n) for name, f, n in primitives()}
FUNCTIONS = {
    "jnp": "float_power hypot logaddexp power outer dot where",
    "special": "xlogy rel_entr",
}
THREE = ("where",)
NAMED = {
    f"{module}.{name}": (
        getattr({"jnp": jnp, "special": special}[module], name),
        2 + (name in THREE),
    )
    for module, names in FUNCTIONS.items()
    for name in names.split()
}
NO_DERIVATIVE = {  # by an operand of which JAX has none
    "lax.nextafter": {0, 1} if jax.__version_info__ < (0, 12) else (),
    "lax.igamma": {0},
    "lax.igammac": {0},
    "lax.zeta": {0, 1},
    "lax.polygamma": {0},
    "lax.regularized_incomplete_beta": {0, 1},
}
COMPLEX = {
    "lax.add",
    "lax.sub",
    "lax.mul",
    "lax.div",
    "lax.pow",
    "lax.select_n",
    "jnp.power",
    "jnp.dot",
}
"""Those that are tried with complex operands too."""


def operands(shapes, dependent, dtype):
    """From x to the operands: some depend on it, each in its own way."""
    generator = np.random.default_rng(len(shapes))
    parts = []
    for shape, depends in zip(shapes, dependent, strict=True):
        base = generator.uniform(0.25, 0.75, shape)
        slopes = generator.uniform(0.05, 0.2, (*shape, 3)) * depends
        phase = np.exp(0.5j) if dtype is complex else 1.0
        parts.append((base, slopes, phase))

    def of(x):
        return [
            jnp.asarray((base + slopes @ x + (slopes @ x) ** 2) * phase)
            if slopes.any()
            else jnp.asarray(base * phase)
            for base, slopes, phase in parts
        ]

    return of


def forms(name, function, count, dtype):
    """A function of x for all shapes and all combinations that JAX can evaluate."""
    found = []
    for shapes in SHAPES[count]:
        for dependent in DEPENDENT[count]:
            given = operands(shapes, dependent, dtype)
            refused = NO_DERIVATIVE.get(name, ())
            if any(dependent[k] for k in refused):
                continue
            try:
                jax.eval_shape(lambda x, given=given: function(*given(x)), POINT)
            except (TypeError, ValueError):
                continue  # lax takes fewer shapes than jnp
            found.append(lambda x, given=given: jnp.asarray(function(*given(x))))
    return found


NEVER = ("lax.nextafter", "lax.zeta")


@pytest.mark.parametrize("name", [name for name in PRIMITIVES | NAMED if name not in NEVER])
def test_operands(name):
    function, count = (PRIMITIVES | NAMED)[name]
    for dtype in (float, complex) if name in COMPLEX else (float,):
        tried = forms(name, function, count, dtype)
        both = lambda x, tried=tried: [f(x) for f in tried]

        def expected(x, both=both):
            def second(v):
                first = lambda x: jax.jvp(both, (x,), (v,))[1]
                return jax.jvp(first, (x,), (v,))[1]

            return [y.sum(0) for y in jax.vmap(second)(jnp.eye(3))]

        def both_ways(x, both=both, expected=expected):
            return jf.laplacian(both)(x), expected(x)

        assert len(tried) > 1
        for found, exact in zip(*jax.jit(both_ways, compiler_options=QUICKLY)(POINT), strict=True):
            close(found, exact)


def close(found, expected):
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", NO_DERIVATIVE)
def test_what_jax_refuses_is_refused(name):
    """Never a zero in silence."""
    if name not in PRIMITIVES | NAMED:
        pytest.skip("not in this version")
    function, count = (PRIMITIVES | NAMED)[name]
    for k in NO_DERIVATIVE[name]:
        given = operands([(3,)] * count, [j == k for j in range(count)], float)
        f = lambda x, given=given: function(*given(x))
        with pytest.raises(NotImplementedError, match="jetfold differentiates"):
            jax.eval_shape(jf.laplacian(f), POINT)
