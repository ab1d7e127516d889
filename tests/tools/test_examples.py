"""The examples for other libraries run at a small size, and check themselves."""

from __future__ import annotations

import os
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples" / "tools"
os.environ.setdefault("DDE_BACKEND", "pytorch")  # before deepxde is imported


@pytest.fixture
def run(capsys, request):
    """Runs an example with its --quick sizes, and returns what it prints."""

    def run(name, *arguments):
        runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]([*arguments, "--quick"])
        return capsys.readouterr().out

    return run


def test_deepxde(run):
    torch, deepxde = pytest.importorskip("torch"), pytest.importorskip("deepxde")
    if deepxde.backend.backend_name != "pytorch":
        pytest.skip(f"DeepXDE runs with {deepxde.backend.backend_name} here")
    before = torch.get_default_dtype()
    try:
        told = run("in_deepxde", "--problems", "beam,inverse")
    finally:
        deepxde.config.set_default_float("float32")
        torch.set_default_dtype(before)
    assert told.count("losses agree to") == 2


def test_pina(run):
    pytest.importorskip("torch")
    pytest.importorskip("pina")
    assert "before" in run("in_pina")


@pytest.mark.parametrize("library", ["equinox", "flax"])
def test_jax_libraries(library, run):
    for needed in ("jax", "optax", library):
        pytest.importorskip(needed)
    assert f"{library}: relative error" in run("in_jax_libraries", "--library", library)


def test_local_energy(run):
    pytest.importorskip("jax")
    assert "oscillator: 4.5" in run("local_energy")


@pytest.mark.parametrize("how", ["by hand", "lightning"])
def test_torch_tools(how, run):
    pytest.importorskip("torch")
    if how == "lightning":
        pytest.importorskip("lightning")
    told = run("in_torch_tools", *(["--lightning"] if how == "lightning" else []))
    assert "relative error" in told and "torch.export: " in told and "safetensors" in told
