"""The examples run at a tiny size in each framework, check themselves and draw."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest

import jetfold as jf

EXAMPLES = Path(__file__).parent.parent / "examples"
TINY = {
    "black_scholes_barenblatt": "--dimension 12 --points 4 --draws 8 --samples 2 --steps 40 --batch 16 --width 8",
    "sine_gordon": "--dimension 40 --points 4 --draws 8 --samples 2 --steps 40 --batch 16 --width 8",
    "biharmonic_100": "--dimension 6 --points 4 --draws 8 --samples 2",
}


@pytest.fixture
def run(monkeypatch, tmp_path, request):
    """Runs an example as a program; JAX's precision is put back."""
    pytest.importorskip("matplotlib")

    def run(name, framework):
        pytest.importorskip(framework)
        if framework == "jax":
            jax = sys.modules["jax"]
            before = jax.config.jax_enable_x64
            request.addfinalizer(lambda: jax.config.update("jax_enable_x64", before))
        options = ["--framework", framework, "--out", str(tmp_path), *TINY[name].split()]
        monkeypatch.setattr(sys, "argv", [name, *options])
        monkeypatch.syspath_prepend(EXAMPLES)
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return tmp_path / f"{name}.png"

    yield run
    sys.modules.pop("common", None)


@pytest.mark.parametrize("framework", ["torch", "jax"])
@pytest.mark.parametrize("name", TINY)
def test_example(name, framework, run, capsys):
    picture = run(name, framework)
    assert picture.stat().st_size > 5000
    assert capsys.readouterr().out.count("ok: ") == (2 if name == "biharmonic_100" else 3)


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_a_wrong_operator_fails(framework, run, monkeypatch):
    monkeypatch.setattr(jf, "biharmonic", jf.laplacian)
    with pytest.raises(SystemExit, match="FAILED: exact biharmonic") as failed:
        run("biharmonic_100", framework)
    assert isinstance(failed.value.code, str)  # the interpreter prints it and exits with status 1
