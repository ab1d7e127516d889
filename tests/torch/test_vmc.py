"""The example of variational Monte Carlo in PyTorch."""

from __future__ import annotations

import math
import sys
from importlib import import_module
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torch.nn.attention import SDPBackend, sdpa_kernel

from jetfold.bench.wavefunctions.molecule import Molecule
from jetfold.bench.wavefunctions.torch import Psiformer

VMC = Path(__file__).parents[2] / "examples" / "vmc"
HERE = ("blocking", "energy", "in_torch", "spring", "train")
LITHIUM_HYDRIDE = Molecule(((0.0, 0.0, 0.0), (0.0, 0.0, 3.0)), (3.0, 1.0), (2, 2))


@pytest.fixture
def vmc(monkeypatch):
    """The modules of the example by their names, as its program imports them."""
    monkeypatch.syspath_prepend(VMC)
    yield import_module
    for name in HERE:
        sys.modules.pop(name, None)


def random(rng, *shape):
    return torch.tensor(rng.normal(size=shape))


def test_the_exact_hydrogen_atom_has_the_energy_minus_one_half_everywhere(vmc, rng):
    energy = vmc("energy")
    of_walker = energy.local_energy(energy.MOLECULES["H"], lambda r: -torch.linalg.norm(r[0]))
    found = torch.func.vmap(of_walker)(random(rng, 20, 1, 3))
    torch.testing.assert_close(found, torch.full_like(found, -0.5), rtol=1e-13, atol=0)


def test_local_energy_of_the_psiformer_is_that_of_nested_differentiation(vmc, rng):
    """In float64, with the attention that PyTorch takes by itself, alone and over walkers."""
    energy = vmc("energy")
    torch.manual_seed(0)
    network = Psiformer(LITHIUM_HYDRIDE, width=8, heads=2, layers=2, determinants=2).double()
    walkers = random(rng, 2, 4, 3)

    def log_psi(electrons):
        return network(electrons)[1]

    local = energy.local_energy(LITHIUM_HYDRIDE, log_psi)
    for electrons, together in zip(walkers, torch.func.vmap(local)(walkers), strict=True):
        with sdpa_kernel(SDPBackend.MATH):  # PyTorch differentiates no other twice
            hessian = torch.func.hessian(log_psi)(electrons).reshape(12, 12)
            gradient = torch.func.grad(log_psi)(electrons)
        kinetic = -(hessian.trace() + (gradient**2).sum()) / 2
        wanted = kinetic + energy.potential(LITHIUM_HYDRIDE, electrons)
        torch.testing.assert_close(local(electrons), wanted, rtol=1e-9, atol=0)
        torch.testing.assert_close(together, wanted, rtol=1e-9, atol=0)

    signs, logs = zip(*map(network, (walkers[0], walkers[0, [1, 0, 2, 3]])), strict=True)
    assert signs[0] == -signs[1]
    torch.testing.assert_close(*logs)


def test_metropolis_reproduces_the_mean_distance_of_hydrogen(vmc):
    """⟨r⟩ = 3/2 bohr and its deviation √3/2 for |ψ|² ∝ exp(−2r); half of the moves are accepted."""
    in_torch, energy = vmc("in_torch"), vmc("energy")

    class Exact(in_torch.Vmc):
        def log_psi(self, parameters, electrons):
            return -torch.linalg.norm(electrons)

    found = Exact(energy.MOLECULES["H"], "psiformer", {"width": 4}, walkers=4000, moves=20)
    state = found.start(0)
    for _ in range(8):
        state, energies, acceptance = found.sampled(state)
    distances = torch.linalg.norm(state.walkers, dim=(1, 2))
    assert abs(distances.mean() - 1.5) < 4 * (3**0.5 / 2) / 4000**0.5
    assert float(distances.std()) == pytest.approx(3**0.5 / 2, rel=0.05)
    assert acceptance == pytest.approx(0.5, abs=0.03)
    assert float(energies.mean()) == pytest.approx(-0.5, abs=1e-4)


def test_the_program_lowers_the_energy(vmc, tmp_path, capsys):
    """Of hydrogen, in a few steps; and refuses networks that it has not, and devices."""
    pytest.importorskip("rich")
    pytest.importorskip("matplotlib")
    train = vmc("train")
    arguments = ["H", "--framework", "torch", "--out", str(tmp_path)]
    with pytest.raises(SystemExit, match="--network with torch: psiformer; not 'lapnet'"):
        train.main([*arguments, "--network", "lapnet"])
    with pytest.raises(ValueError, match="walkers are shared out in JAX only; got devices=2"):
        train.main([*arguments, "--devices", "2"])
    few = ["--walkers", "64", "--moves", "3", "--steps", "12", "--evaluations", "2"]
    train.main([*arguments, *few, "--width", "4", "--layers", "1", "--determinants", "1"])
    folder = tmp_path / "H-psiformer-torch"
    rows = (folder / "energies.csv").read_text().splitlines()[1:]
    off = [abs(float(row.split(",")[1]) + 0.5) for row in rows]
    assert all(map(math.isfinite, off)) and sum(off[-3:]) < sum(off[:3]) / 2
    assert (folder / "energy.png").stat().st_size > 5000
    assert "H, psiformer: " in capsys.readouterr().out
