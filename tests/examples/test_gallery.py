"""The gallery: every equation vanishes on its solution, a network learns it, the page shows it."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
pytest.importorskip("scipy")
import jax.numpy as jnp

GALLERY = Path(__file__).parents[2] / "examples" / "gallery"
NAMES = [
    "burgers",
    "kuramoto-sivashinsky",
    "navier-stokes",
    "maxwell",
    "schroedinger",
    "helmholtz",
    "elasticity",
    "cahn-hilliard",
    "reaction-diffusion",
    "black-scholes",
]


@pytest.fixture(scope="module")
def gallery():
    """The modules of the examples."""
    sys.path.insert(0, str(GALLERY))
    before = jax.config.jax_enable_x64  # which a run in JAX turns on for good
    try:
        import page
        import problems
        import solve

        with jax.enable_x64(True):
            yield {"page": page, "problems": problems.PROBLEMS, "solve": solve}
    finally:
        jax.config.update("jax_enable_x64", before)
        sys.path.remove(str(GALLERY))
        for name in ("page", "problems", "solve"):
            sys.modules.pop(name, None)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_list(gallery):
    assert list(gallery["problems"]) == NAMES


@pytest.mark.parametrize("framework", ["torch", "jax"])
@pytest.mark.parametrize("name", NAMES)
def test_the_solution_solves_the_equation(name, framework, gallery, rng):
    """To rounding; what is not the solution does not."""
    problem, solve = gallery["problems"][name], gallery["solve"]
    xp, array = (torch, torch.as_tensor) if framework == "torch" else (jnp, jnp.asarray)
    points = array(solve.inside(problem, 20, rng))

    def residuals(points, off):
        def f(p):
            fields = solve.exact(problem, xp, p)
            count = fields.shape[-1]
            waves = [xp.sin((k + 2) * p.sum(-1)) for k in range(count)]
            return fields + off * xp.stack(waves, -1)

        return xp.stack(solve.residual(problem, xp, f, points))

    if framework == "jax":
        residuals = jax.jit(residuals)
    exact, wrong = (np.asarray(residuals(points, off)) for off in (0.0, 0.01))
    assert exact.dtype == np.float64
    assert np.abs(exact).max() < 1e-13 * max(1, problem.scale)
    assert (np.abs(wrong).max(-1) > 1e-3).all()


@pytest.mark.parametrize(
    ("name", "framework"), [(name, "torch") for name in NAMES] + [("burgers", "jax")]
)
def test_a_network_reaches_the_stated_error(name, framework, gallery, tmp_path):
    problem, solve = gallery["problems"][name], gallery["solve"]
    size = solve.sized(problem, quick=True)
    seen = []
    solution = solve.solve(problem, framework, size, report=seen.append)
    assert seen[-1] == solution.steps <= size.steps
    assert solution.error < problem.error[0]
    if name in ("burgers", "navier-stokes"):
        pytest.importorskip("matplotlib")
        solve.picture(solution, tmp_path / "picture.png")
        assert (tmp_path / "picture.png").stat().st_size > 5000


def test_a_run_that_fails_says_so(gallery, tmp_path):
    pytest.importorskip("rich")
    with pytest.raises(SystemExit, match="not solved: helmholtz"):
        gallery["solve"].main(["helmholtz", "--quick", "--steps", "2", "--out", str(tmp_path)])


def test_the_page_shows_the_code(gallery):
    page = gallery["page"]
    assert page.PAGE.read_text(encoding="utf-8") == page.page(), (
        "docs/gallery/index.md is stale: python examples/gallery/page.py"
    )
