"""Factorisations and solutions of jets: the equations that define them, in all degrees.

Any blocks at all are a jet, so they are random; products of jets are tested in test_jet.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jetfold.core import matrices, towers
from jetfold.core.algebra import JetAlgebra
from jetfold.core.arithmetic import composed
from jetfold.core.directions import scheme
from jetfold.core.jet import product
from jetfold.core.matrices import MatrixProduct
from jetfold.core.polynomial import Polynomial

X = [Polynomial.variable(i) for i in range(3)]
ALGEBRAS = {
    "laplacian": scheme((X[0] ** 2 + X[1] ** 2 + X[2] ** 2,), "minimal").algebra,
    "biharmonic": scheme(((X[0] ** 2 + X[1] ** 2) ** 2,), "minimal").algebra,
    "mixed": scheme((X[0] ** 3 * X[1] + X[2], X[1] ** 2), "minimal").algebra,
    "standard": scheme((X[0] ** 4 + X[1] ** 3,), "standard").algebra,
}


@pytest.fixture(params=ALGEBRAS)
def algebra(request: pytest.FixtureRequest) -> JetAlgebra:
    return ALGEBRAS[request.param]


@pytest.fixture(params=[False, True], ids=["real", "complex"])
def jet(algebra: JetAlgebra, request: pytest.FixtureRequest, rng: np.random.Generator) -> Any:
    """(shape, missing degrees) -> random [value, block 1, …]; the value is far from singular."""

    def made(*shape: int, missing: tuple[int, ...] = ()) -> list[Any]:
        def random(*shape: int) -> Any:
            x = rng.normal(size=shape)
            return x + 1j * rng.normal(size=shape) if request.param else x

        value = random(*shape) + 4 * np.eye(*shape[-2:])
        sizes = enumerate(algebra.sizes[1:], 1)
        return [value, *(None if m in missing else random(n, *shape) for m, n in sizes)]

    return made


def times(algebra: JetAlgebra, u: Any, v: Any, xp: Any) -> list[Any]:
    return product(algebra, u, v, MatrixProduct(xp), xp)


def adjoint(u: Any, xp: Any) -> list[Any]:
    return [None if b is None else xp.adjoint(b) for b in u]


def constant(value: Any, algebra: JetAlgebra) -> list[Any]:
    return [value, *[None] * algebra.order]


def same(found: Any, expected: Any) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        one, other = (np.zeros(()) if b is None else b for b in (one, other))
        scale = max(1.0, np.abs(one).max(), np.abs(other).max())
        np.testing.assert_allclose(one - other, 0, atol=1e-9 * scale)


BATCHES: list[tuple[int, ...]] = [(), (2,)]
MISSING: list[tuple[int, ...]] = [(), (1,), (2,), (1, 2, 3, 4)]
everywhere = [
    pytest.mark.parametrize("batch", BATCHES, ids=str),
    pytest.mark.parametrize("missing", MISSING, ids=str),
]


def each(test: Any) -> Any:
    for mark in everywhere:
        test = mark(test)
    return test


@each
def test_solve_and_inverse(algebra, jet, xp, batch, missing):
    a, b = jet(*batch, 3, 3, missing=missing), jet(*batch, 3, 2)
    inverse = np.linalg.inv(a[0])
    x = matrices.solve(algebra, inverse, a, b, matrices.MatrixProduct(xp), xp)
    same(times(algebra, a, x, xp), b)
    y = matrices.inverted(algebra, inverse, a, matrices.MatrixProduct(xp), xp)
    same(times(algebra, a, y, xp), constant(np.broadcast_to(np.eye(3), a[0].shape), algebra))


@each
@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("unitriangular", [False, True])
def test_triangular_solve(algebra, jet, xp, batch, missing, upper, left, unitriangular):
    a = jet(*batch, 3, 3, missing=missing)
    b = jet(*batch, *((3, 2) if left else (2, 3)), missing=(2,))
    options = {"upper": upper, "left": left, "unitriangular": unitriangular}
    x = matrices.triangular_solve(algebra, a, b, xp, **options)
    part = xp.triu if upper else xp.tril
    offset = (1 if upper else -1) if unitriangular else 0
    t = [None if block is None else part(block, offset) for block in a]
    if unitriangular:
        t[0] = t[0] + np.eye(3)
    same(times(algebra, t, x, xp) if left else times(algebra, x, t, xp), b)


@each
def test_log_det(algebra, jet, xp, batch, missing):
    """log det (A B) = log det A + log det B, and log (ad − bc)."""
    a, b = jet(*batch, 2, 2, missing=missing), jet(*batch, 2, 2)

    def log_det(u):
        value = np.log(np.linalg.det(u[0]).astype(complex))
        return matrices.log_det(algebra, value, np.linalg.inv(u[0]), u, xp)[1:]

    both = zip(log_det(a), log_det(b), strict=True)
    added = [matrices.add(one, other) for one, other in both]
    same(log_det(times(algebra, a, b, xp)), added)

    def entry(i, j):
        return [None if block is None else block[..., i : i + 1, j : j + 1] for block in a]

    ad, bc = (times(algebra, entry(0, k), entry(1, 1 - k), xp) for k in (0, 1))
    det = [matrices.minus(one, other) for one, other in zip(ad, bc, strict=True)]
    log = composed(algebra, det, np.log(det[0].astype(complex)), towers.log, xp)
    same([None if x is None else x[..., None, None] for x in log_det(a)], log[1:])


@each
def test_cholesky(algebra, jet, xp, batch, missing):
    root = jet(*batch, 3, 3, missing=missing)
    a = times(algebra, root, adjoint(root, xp), xp)
    skew = jet(*batch, 3, 3)
    skewed = [matrices.add(one, s - xp.adjoint(s)) for one, s in zip(a, skew, strict=True)]
    lower = matrices.cholesky(algebra, np.linalg.cholesky(a[0]), skewed, xp)
    same(times(algebra, lower, adjoint(lower, xp), xp), a)
    same(lower, [None if b is None else np.tril(b) for b in lower])
    same([None if b is None else xp.diagonal(b).imag for b in lower], [None] * len(lower))


SHAPES = pytest.mark.parametrize("shape", [(3, 3), (4, 3), (3, 4)], ids=str)


@each
@SHAPES
def test_lu(algebra, jet, xp, batch, missing, shape):
    a = jet(*batch, *shape, missing=missing)
    rank = min(shape)
    l0, u0 = (
        np.tril(a[0], -1)[..., :rank] / 4 + np.eye(shape[0], rank),
        np.triu(a[0])[..., :rank, :],
    )
    a[0] = l0 @ u0
    lower, upper = matrices.lu(algebra, l0, u0, a, xp)
    same(times(algebra, lower, upper, xp), a)
    same(lower[1:], [None if b is None else np.tril(b, -1) for b in lower[1:]])
    same(upper, [None if b is None else np.triu(b) for b in upper])


@each
@SHAPES
def test_qr(algebra, jet, xp, batch, missing, shape):
    a = jet(*batch, *shape, missing=missing)
    q, r = matrices.qr(algebra, *np.linalg.qr(a[0]), a, xp)
    same(times(algebra, q, r, xp), a)
    one = constant(np.broadcast_to(np.eye(3), (*batch, 3, 3)), algebra)
    same(times(algebra, adjoint(q, xp), q, xp), one)
    same(r, [None if b is None else np.triu(b) for b in r])
    same([None if b is None else xp.diagonal(b).imag for b in r], [None] * len(r))


@each
def test_eigh(algebra, jet, xp, batch, missing):
    a = jet(*batch, 3, 3, missing=missing)
    a[0] = a[0] + np.diag([0.0, 20.0, 50.0])
    hermitian = [None if b is None else (b + xp.adjoint(b)) / 2 for b in a]
    w0, v0 = np.linalg.eigh(hermitian[0])
    v, w = matrices.eigh(algebra, v0, w0, a, xp)
    assert all(b is None or not np.iscomplexobj(b) for b in w)
    matrix = [None if b is None else b[..., None] * np.eye(3) for b in w]
    same(times(algebra, hermitian, v, xp), times(algebra, v, matrix, xp))
    one = constant(np.broadcast_to(np.eye(3), v[0].shape), algebra)
    same(times(algebra, adjoint(v, xp), v, xp), one)


@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_sums_of_products(xp, rng, batch):
    """Σ_a U[a] V[a] and Σ_a tr(U[a] V[a])."""
    u, v = rng.normal(size=(5, *batch, 2, 3)), rng.normal(size=(5, *batch, 3, 2))
    product_, trace = MatrixProduct(xp), matrices.TraceOfProduct(xp)
    np.testing.assert_allclose(product_.contract(u, v), np.einsum("a...ij,a...jk->...ik", u, v))
    np.testing.assert_allclose(trace.contract(u, v), np.einsum("a...ij,a...ji->...", u, v))
    np.testing.assert_allclose(trace.blocks(u, v), np.einsum("a...ij,a...ji->a...", u, v))
    reverse = matrices.Reversed(product_)
    np.testing.assert_allclose(reverse.contract(u, v), np.einsum("a...ij,a...jk->...ik", v, u))
