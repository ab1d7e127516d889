"""Wave functions: what is recorded of one tiny network, and what is shown of it."""

from __future__ import annotations

import csv
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("flax")

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from rich.console import Console
from typer.testing import CliRunner

from jetfold import cli
from jetfold.bench import costs, pages, vmc
from jetfold.bench.measure import Timing
from jetfold.bench.report import Environment
from jetfold.bench.vmc import METHODS, Outcome, Row, Settings


def run(*arguments):
    return CliRunner().invoke(cli.application(), list(arguments))


def row(method="structured", electrons=4, network="ferminet", **changes):
    seconds = 12.3456 * electrons
    made = Row(
        network=network,
        label=vmc.NETWORKS[network][0],
        electrons=electrons,
        method=method,
        time=Timing(seconds, seconds, seconds, seconds, 7),
        speedup=3.0,
        over_forward=1234.5,
        compile_s=123.4,
        temporary=1_234_500_000,
        operations=None if method == "folx" else 123.4567e9,
        gradient_error=None if method == "forward" else 1.5e-5,
        laplacian_error=None if method == "forward" else 2.5e-5,
    )
    return replace(made, **changes)


# ------------------------------------------------------------------ a run


class Small(nn.Module):
    """A wave function that compiles in no time; the others have tests of their own."""

    molecule: Any
    width: int

    @nn.compact
    def __call__(self, x):
        h = nn.tanh(nn.Dense(self.width)(x))
        h = nn.tanh(nn.Dense(self.width)(h + h.mean(axis=0)))
        return 1.0, jnp.sum(nn.Dense(1)(h)) - jnp.sum(x**2)


def test_a_run_writes_table_csv_and_picture(tmp_path, monkeypatch):
    """One walker: values of nested AD in float64; what fails does not cost the others."""

    def broken(log):
        raise NotImplementedError("no rule for it\nat all")

    monkeypatch.setattr(vmc, "NETWORKS", {"small": ("Small", Small)})
    monkeypatch.setattr(vmc, "METHODS", {**METHODS, "folx": broken})
    tiny = ("--networks", "small", "--electrons", "4", "--walkers", "1", "--width", "0.07")
    methods = ("--methods", "forward,nested,folx,structured", "--repeats", "1")
    result = run("bench", "--suite", "vmc", *tiny, *methods, "--out", str(tmp_path))
    assert result.exit_code == 1
    text = " ".join(result.output.split())
    for part in ("Small", "4 e⁻", "float32, 1 walkers", "Networks 4 wide", "jax-vmc.csv"):
        assert part in text
    assert "could not be measured: Small, 4 electrons, folx: NotImplementedError: no rul" in text
    with (tmp_path / "jax-vmc.csv").open(encoding="utf-8", newline="") as file:
        rows = {found["method"]: found for found in csv.DictReader(file)}
    assert tuple(rows["nested"]) == tuple(costs.COLUMNS)
    assert list(rows) == ["forward", "nested", "structured"]
    for method, found in rows.items():
        assert float(found["min ms"]) > 0 and float(found["compile s"]) > 0
        assert float(found["temporary MB"]) >= 0 and found["repeats"] == "1"
        assert found["electrons"] == "4" and found["walkers"] == "1"
        errors = [found["gradient error"], found["Laplacian error"]]
        assert errors == ["", ""] if method == "forward" else all(float(e) < 1e-3 for e in errors)
    operations = {method: float(found["GFLOP"]) for method, found in rows.items()}
    assert all(operations.values())
    assert operations["nested"] > 12 * operations["forward"]  # 12 turns, not one
    page = pages.FORMS["vmc"].table(list(rows.values()))
    assert page.startswith("jax ") and "\n| Small, 4 | forward | " in page
    assert (tmp_path / "jax-vmc.png").read_bytes().startswith(b"\x89PNG")


def test_nested_is_the_gradient_and_the_laplacian():
    """Of Σ_i |r_i|² |r_1|, by hand: ∇ and Δ = 2·3n |r_1| + 2·2 |r_1| + 2 Σ|r_i|² / |r_1|."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3)), jnp.float32)
    square, first = jnp.sum(x**2), jnp.linalg.norm(x[0])
    found = vmc.nested(lambda r: jnp.sum(r**2) * jnp.linalg.norm(r[0]))(x)
    slope = 2 * x * first + square * jnp.zeros_like(x).at[0].set(x[0] / first)
    np.testing.assert_allclose(found["value"], square * first, rtol=1e-5)
    np.testing.assert_allclose(found["gradient"], slope, rtol=1e-5)
    expected = 12 * first + 4 * first + 2 * square / first
    np.testing.assert_allclose(found["laplacian"], expected, rtol=1e-5)


def test_operations_of_loops_are_not_told():
    """XLA counts what a loop repeats once."""

    def power(turns):
        return lambda a: jax.lax.scan(lambda b, _: (jnp.tanh(b @ a), None), a, None, turns)[0]

    a = jnp.ones((8, 8))
    assert vmc.counted(jax.jit(power(50)).lower(a).compile()) is None
    assert vmc.counted(jax.jit(lambda a: a @ a).lower(a).compile()) == pytest.approx(1024, rel=0.1)
    log = jax.grad(lambda a: jnp.linalg.slogdet(a)[1])
    pivots = jax.jit(log).lower(a).compile()  # a loop over integers
    assert " while(" in pivots.as_text() and vmc.counted(pivots) > 0


# ------------------------------------------------------------------ what is shown


def test_table_fits_eighty_columns():
    console = Console(width=80)
    rows = [row(method, n, "psiformer") for n in (16, 32) for method in METHODS]
    with console.capture() as capture:
        console.print(costs.table(rows, "float32"))
    text = capture.get()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= 80
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "Psiformer forward 197530 1234.5 1234.5 123.457 123.4" in lines
    assert "32 e⁻ nested 395059 1234.5 1234.5 123.457 123.4 2e-05 3e-05" in lines
    assert "folx 395059 1234.5 1234.5 123.4 2e-05 3e-05" in lines


@pytest.mark.parametrize("networks", [("ferminet",), tuple(vmc.NETWORKS)])
def test_plot(tmp_path, networks):
    path = tmp_path / "vmc.png"
    environment = Environment("jax", "jax 0.9", "cpu", "float32", Settings())
    rows = [row(method, n, name) for name in networks for n in (4, 8) for method in METHODS]
    assert costs.plot(rows, environment, path)
    width, height = (int.from_bytes(path.read_bytes()[k : k + 4], "big") for k in (16, 20))
    assert width > 700 * len(networks) ** 0.5 and height > 1000


def test_complaints():
    rows = (row(), row("forward"), row("folx", laplacian_error=float("nan")))
    assert costs.complaints(Outcome(rows, ("x: no compiler",)), "float32") == [
        "could not be measured: x: no compiler",
        "FermiNet, 4 electrons, folx: relative error nan of the Laplacian exceeds the 1e-02 allowed "
        "in float32",
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ("--suite", "waves"),
            "suite must be one of operators, stochastic, vmc, training; got 'waves'",
        ),
        (("--suite", "vmc", "--framework", "torch"), "in JAX: --framework jax"),
        (("--suite", "vmc", "--batch", "8"), "--batch does not go with --suite vmc"),
        (("--suite", "vmc", "--dim", "kp=3"), "--dim does not go with --suite vmc"),
        (("--electrons", "4"), "--electrons does not go with --suite operators"),
        (("--suite", "vmc", "--networks", "resnet"), "networks must be among ferminet, psiformer"),
        (("--suite", "vmc", "--electrons", "4,x"), "--electrons takes whole numbers"),
        (("--suite", "vmc", "--electrons", "5"), "an even number of electrons; got 5"),
        (("--suite", "vmc", "--methods", "minimal"), "methods of --suite vmc must be among forwar"),
        (("--suite", "vmc", "--walkers", "0"), "walkers must be at least 1, got 0"),
    ],
)
def test_refusals(arguments, says, tmp_path):
    result = run("bench", *arguments, "--out", str(tmp_path))
    assert result.exit_code == 2
    assert says in result.output


def test_help_names_the_suites():
    text = " ".join(run("bench", "--help").output.replace("│", " ").split())
    for part in ("--suite", "--networks", "--electrons", "--walkers", "ferminet,psiformer,lapnet"):
        assert part in text
