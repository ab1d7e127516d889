"""Training as users compose it: what the page tells, autocast, processes and devices, the plate."""

from __future__ import annotations

import copy
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("jax")

import numpy as np
import torch

import jetfold as jf

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples"


def program(*arguments, **environment):
    """What an example prints, run as a program of its own."""
    paths = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / arguments[0]), *arguments[1:]],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.filterwarnings("default::DeprecationWarning")
def test_programs_of_the_page():
    """One after the other, as they stand there: accumulation, autocast, compile, donation, ..."""
    text = (ROOT / "docs" / "training.md").read_text("utf-8")
    programs = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(programs) >= 7
    names: dict[str, object] = {}
    for number, code in enumerate(programs):
        assert "assert" in code
        exec(compile(code, f"docs/training.md, program {number}", "exec"), names)


@pytest.mark.parametrize("half_order", [1, 2, 3])
def test_autocast_costs_high_orders_no_more_digits(half_order, rng):
    """bfloat16 has 8 bits: the value is 0.5 % off, Δ, Δ² and Δ³ and their gradients some times that."""
    seed = int(rng.integers(1 << 30))
    torch.manual_seed(seed)
    network = torch.nn.Sequential(
        torch.nn.Linear(2, 32), torch.nn.Tanh(), torch.nn.Linear(32, 32), torch.nn.Tanh(),
        torch.nn.Linear(32, 1),
    )  # fmt: skip
    points = torch.randn(64, 2)
    x, y = jf.partials(2)
    operator = (x**2 + y**2) ** half_order

    def step(network, points):
        found = operator(network, batch_dims=1)(points)
        loss = found.to(torch.promote_types(found.dtype, torch.float32)).square().mean()
        return found, *torch.autograd.grad(loss, list(network.parameters())[:-1])

    exact = step(copy.deepcopy(network).double(), points.double())
    with torch.autocast("cpu", torch.bfloat16):
        found = step(network, points)
    assert found[0].dtype == torch.bfloat16
    most = max(b.abs().max() for b in exact[1:])
    assert (found[0] - exact[0]).abs().max() < 0.06 * exact[0].abs().max()
    for a, b in zip(found[1:], exact[1:], strict=True):
        assert (a - b).abs().max() < 0.06 * most


def test_processes_train_to_the_parameters_of_one():
    """DDP and FSDP2, two processes."""
    text = program("distributed/in_torch.py", "--steps", "5")
    found = dict(re.findall(r"(\w+): 2 processes, (\d+) of 1185 parameters", text))
    assert found["ddp"] == "1185" and int(found["fsdp"]) < 700
    for moved, off in re.findall(r"moved (\S+), (\S+) from one process", text):
        assert float(off) < 1e-10 < 1e-3 < float(moved)


def test_a_layer_that_is_sharded_by_itself_is_refused():
    """FSDP2 hooks what comes out of it, a jet; nothing is lost silently."""
    from torch import distributed
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        layer = fully_shard(torch.nn.Linear(2, 3), mesh=init_device_mesh("cpu", (1,)))
        with pytest.raises(TypeError, match="register_hook was called on the argument"):
            jf.laplacian(lambda p: layer(p).sin(), batch_dims=1)(torch.randn(4, 2))
    finally:
        distributed.destroy_process_group()


def test_devices_train_to_the_parameters_of_one():
    """shard_map, two virtual devices, donated buffers."""
    text = program("distributed/in_jax.py", "--steps", "5")
    ((moved, off),) = re.findall(r"shard_map: 2 devices; .* moved (\S+), (\S+) from one", text)
    assert float(off) < 1e-10 < 1e-3 < float(moved)


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_plate(framework, tmp_path, monkeypatch, capsys):
    """Both methods take the same steps: the losses agree, and the error falls."""
    pytest.importorskip("scipy")
    monkeypatch.setattr(
        sys, "argv", ["train.py", "--framework", framework, "--quick", "--out", str(tmp_path)]
    )
    runpy.run_path(str(EXAMPLES / "plate" / "train.py"), run_name="__main__")
    found = json.loads((tmp_path / f"plate-{framework}.json").read_text())
    minimal, nested = found["runs"]
    np.testing.assert_allclose(minimal["losses"][:25], nested["losses"][:25], rtol=1e-3)
    for run in found["runs"]:
        assert run["errors"][-1] <= found["settings"]["target"] < run["errors"][0]
        last = run["errors"][-6:]
        assert run["held"] == 5 and max(last[1:]) <= found["settings"]["target"] < last[0]
        assert run["reached"] == run["seconds"][-5] and run["seconds"] == sorted(run["seconds"])
    assert found["speed-up"] == pytest.approx(nested["reached"] / minimal["reached"])
    assert (tmp_path / f"plate-{framework}.png").stat().st_size > 5000
    assert "speed-up of wall time" in capsys.readouterr().out


def test_the_load_of_the_plate_is_its_biharmonic(rng):
    """2 Δ²w / k⁴ = load, by nested differentiation of w."""
    plate = runpy.run_path(str(EXAMPLES / "plate" / "train.py"))
    points = torch.tensor(rng.uniform(size=(7, 2)))

    def w(p):
        return torch.sin(plate["WAVES"] * p / 2).square().prod(-1)

    found = jf.biharmonic(w, batch_dims=1, method="nested")(points)
    off = plate["residual"](torch, found, points)
    torch.testing.assert_close(off, torch.zeros_like(off), rtol=0, atol=1e-9)
    np.testing.assert_allclose(plate["solution"](points.numpy()), w(points))
