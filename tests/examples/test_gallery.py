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
        import runs
        import solve

        with jax.enable_x64(True):
            yield {"page": page, "problems": problems.PROBLEMS, "solve": solve, "runs": runs}
    finally:
        jax.config.update("jax_enable_x64", before)
        sys.path.remove(str(GALLERY))
        for name in ("page", "problems", "runs", "solve"):
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


def test_full_runs_reached_their_errors(gallery):
    """Those that are recorded: of each problem as it is now, in both frameworks."""
    runs, solve, limit = gallery["runs"], gallery["solve"], gallery["page"].LIMIT
    recorded = {(run.problem, run.framework): run for run in runs.read()}
    assert list(recorded) == [(name, f) for name in NAMES for f in ("jax", "torch")]
    for (name, framework), run in recorded.items():
        problem = gallery["problems"][name]
        size = solve.sized(problem, quick=False)
        assert run.settings == runs.settings(problem, size), (
            f"{name} is not what was run: "
            f"python examples/gallery/solve.py {name} --framework {framework} --record"
        )
        assert run.error <= problem.error[1] and run.seconds <= limit
        assert problem.full == size.steps >= run.steps > problem.quick


def test_a_run_is_recorded(gallery, tmp_path, monkeypatch):
    """In the place of the earlier one; and of another equation it is told apart."""
    runs, problems = gallery["runs"], gallery["problems"]
    before = runs.read()
    monkeypatch.setattr(runs, "RUNS", tmp_path / "runs.csv")
    runs.write(before)
    size = gallery["solve"].FULL
    runs.record(runs.Run.of("maxwell", "torch", size, 7, 0.01234, 5.4))
    after = runs.read()
    changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert len(changed) == 1
    run = changed[0][1]
    assert (run.problem, run.framework, run.steps) == ("maxwell", "torch", 7)
    assert (run.error, run.seconds) == (0.012, 5)
    assert run.settings == runs.settings(problems["maxwell"], size)
    assert len({runs.settings(problem, size) for problem in problems.values()}) == len(NAMES)


def test_the_page_shows_the_code(gallery):
    page = gallery["page"]
    assert page.PAGE.read_text(encoding="utf-8") == page.page(), (
        "docs/gallery/index.md is stale: python examples/gallery/page.py"
    )
