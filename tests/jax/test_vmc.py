"""The example of variational Monte Carlo in JAX: energies, the sampler, the optimiser, its program."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

jax = pytest.importorskip("jax")
pytest.importorskip("flax")
pytest.importorskip("rich")

import jax.numpy as jnp

from jetfold.bench.wavefunctions.ferminet import FermiNet
from jetfold.bench.wavefunctions.lapnet import LapNet
from jetfold.bench.wavefunctions.molecule import Molecule, diatomic
from jetfold.bench.wavefunctions.psiformer import Psiformer

VMC = Path(__file__).parents[2] / "examples" / "vmc"
HERE = ("blocking", "energy", "in_jax", "spring", "train")
LITHIUM_HYDRIDE = Molecule(((0.0, 0.0, 0.0), (0.0, 0.0, 3.0)), (3.0, 1.0), (2, 2))


@pytest.fixture
def vmc(monkeypatch):
    """The modules of the example by their names, as its program imports them."""
    monkeypatch.syspath_prepend(VMC)
    yield import_module
    for name in HERE:
        sys.modules.pop(name, None)


def test_the_exact_hydrogen_atom_has_the_energy_minus_one_half_everywhere(vmc, rng):
    energy = vmc("energy")
    walkers = jnp.array(rng.normal(size=(20, 1, 3)))
    of_walker = energy.local_energy(energy.MOLECULES["H"], lambda r: -jnp.linalg.norm(r[0]))
    np.testing.assert_allclose(jax.vmap(of_walker)(walkers), -0.5, rtol=1e-13)


def test_potential_of_lithium_hydride(vmc, rng):
    """Against a sum over pairs of charges, electrons and nuclei alike."""
    electrons = rng.normal(size=(4, 3))
    places = np.concatenate([electrons, LITHIUM_HYDRIDE.nuclei])
    charges = [-1.0] * 4 + [3.0, 1.0]
    pairs = ((a, b) for b in range(6) for a in range(b))
    wanted = sum(charges[a] * charges[b] / np.linalg.norm(places[a] - places[b]) for a, b in pairs)
    found = vmc("energy").potential(LITHIUM_HYDRIDE, jnp.array(electrons))
    assert found == pytest.approx(wanted, rel=1e-12)


def random_parameters(network, electrons, rng):
    """Of the shapes that `init` gives; drawn here, since that need not be compiled."""
    shapes = jax.eval_shape(network.init, jax.random.key(0), electrons)
    return jax.tree.map(lambda leaf: jnp.array(rng.normal(size=leaf.shape) / 2), shapes)


@pytest.mark.parametrize(("kind", "layers"), [(FermiNet, 2), (Psiformer, 1), (LapNet, 2)])
def test_local_energy_is_that_of_nested_differentiation(kind, layers, vmc, rng):
    """Over walkers, compiled; and ψ changes its sign alone when two of one spin change places."""
    energy = vmc("energy")
    network = kind(LITHIUM_HYDRIDE, width=8, layers=layers, determinants=2)
    walkers = jnp.array(rng.normal(size=(2, 4, 3)))
    parameters = random_parameters(network, walkers[0], rng)

    def log_psi(electrons):
        return network.apply(parameters, electrons)[1]

    def nested(electrons):
        gradient = jax.grad(lambda r: log_psi(r.reshape(4, 3)))
        flat, directions = electrons.ravel(), jnp.eye(12)
        seconds = jax.vmap(lambda v: v @ jax.jvp(gradient, (flat,), (v,))[1])(directions)
        kinetic = -(seconds.sum() + (gradient(flat) ** 2).sum()) / 2
        return kinetic + energy.potential(LITHIUM_HYDRIDE, electrons)

    def both(electrons):
        local = energy.local_energy(LITHIUM_HYDRIDE, log_psi)(electrons)
        return local, nested(electrons), *network.apply(parameters, electrons)

    exchanged = jnp.concatenate([walkers, walkers[:, jnp.array([1, 0, 2, 3])]])
    local, wanted, signs, logs = jax.jit(jax.vmap(both))(exchanged)
    np.testing.assert_allclose(local, wanted, rtol=1e-9)
    np.testing.assert_allclose(logs[:2], logs[2:], rtol=1e-9)
    np.testing.assert_array_equal(signs[:2], -signs[2:])


def test_electrons_meet_with_the_cusp_of_kato(rng):
    """∂ log|ψ|/∂|r_1 − r_2| = ½ where electrons of opposite spin meet."""
    network = Psiformer(diatomic(2), width=8, heads=2, layers=1, determinants=1)
    middle, apart = jnp.array(rng.normal(size=(2, 3)))
    apart = apart / jnp.linalg.norm(apart)
    parameters = random_parameters(network, jnp.ones((2, 3)), rng)

    def log_psi(distance):
        pair = jnp.stack([middle + distance * apart / 2, middle - distance * apart / 2])
        return network.apply(parameters, pair)[1]

    slope = jax.jit(jax.grad(log_psi))
    assert (slope(1e-7) - slope(-1e-7)) / 2 == pytest.approx(0.5, abs=1e-5)


def test_metropolis_reproduces_the_mean_distance_of_hydrogen(vmc):
    """⟨r⟩ = 3/2 bohr and its deviation √3/2 for |ψ|² ∝ exp(−2r); half of the moves are accepted."""
    in_jax, energy = vmc("in_jax"), vmc("energy")

    class Exact(in_jax.Vmc):
        def log_psi(self, parameters, electrons):
            return -jnp.linalg.norm(electrons)

    found = Exact(energy.MOLECULES["H"], "ferminet", {"layers": 1}, walkers=4000, moves=20)
    state = found.start(0)
    for _ in range(8):
        state, energies, acceptance = found.sampled(state)
    distances = jnp.linalg.norm(state.walkers, axis=(1, 2))
    assert abs(distances.mean() - 1.5) < 4 * (3**0.5 / 2) / 4000**0.5
    assert distances.std() == pytest.approx(3**0.5 / 2, rel=0.05)
    assert acceptance == pytest.approx(0.5, abs=0.03)
    np.testing.assert_allclose(energies, -0.5, rtol=1e-9)


def test_spring_without_momentum_is_the_damped_natural_gradient(vmc, rng):
    """(S + λ)⁻¹ F, solved over parameters instead of walkers; and energies far off are clipped."""
    spring = vmc("spring")
    jacobian, energies = rng.normal(size=(40, 6)), rng.normal(size=40)
    energies[3] = 50.0
    centre = np.median(energies)
    reach = 5 * np.abs(energies - centre).mean()
    scores = jacobian - jacobian.mean(0)
    force = -scores.T @ np.clip(energies, centre - reach, centre + reach) / 40
    wanted = np.linalg.solve(scores.T @ scores / 40 + 0.01 * np.eye(6), force)
    arrays = jnp.array(jacobian), jnp.array(energies), jnp.zeros(6)
    found = spring.increment(jnp, *arrays, damping=0.01, momentum=0.0)
    np.testing.assert_allclose(found, wanted, rtol=1e-9)
    assert jnp.linalg.norm(spring.change(1e3 * found, 0)) == pytest.approx(
        1.0
    )  # no longer than this


def test_blocking_finds_the_error_of_a_correlated_series(vmc, rng):
    """x' = a x + noise: the error of the mean is √((1 + a)/(1 − a)) times that of independent ones."""
    noise, series, a = rng.normal(size=2**15), [0.0], 0.8
    for each in noise:
        series.append(a * series[-1] + each)
    mean, error = vmc("blocking").mean_and_error(np.array(series[1:]))
    wanted = (1 - a**2) ** -0.5 * ((1 + a) / (1 - a)) ** 0.5 / 2**7.5
    assert wanted * 0.8 < error < wanted * 1.6  # the largest of several estimates
    assert abs(mean) < 4 * wanted


OPTIONS = ["--walkers", "8", "--moves", "2", "--steps", "2", "--evaluations", "2", "--width", "8",
           "--layers", "1", "--determinants", "1"]  # fmt: skip


def test_the_program_runs_writes_and_tells_whether_the_energy_is_reached(vmc, tmp_path, capsys):
    train = vmc("train")
    arguments = ["He", "--network", "ferminet", *OPTIONS, "--out", str(tmp_path)]
    with pytest.raises(SystemExit, match="FAILED: not within 1e-09 Ha of the exact energy"):
        train.main([*arguments, "--within", "1e-9"])
    folder = tmp_path / "He-ferminet-jax"
    assert (folder / "energy.png").stat().st_size > 5000
    result = json.loads((folder / "result.json").read_text())
    assert f"He, ferminet: {result['energy']:.5f}" in capsys.readouterr().out
    with (folder / "energies.csv").open(newline="") as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["0", "1"]


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
jax.config.update("jax_enable_x64", True)
from energy import MOLECULES
from in_jax import Vmc

class Products(Vmc):
    def log_psi(self, parameters, electrons):
        return -(1 + parameters[:2]) @ jnp.linalg.norm(electrons, axis=-1)

try:
    Products(MOLECULES["He"], "ferminet", {}, walkers=7, moves=2)
except ValueError as error:
    assert str(error) == "7 walkers cannot be shared by 2 devices equally; take a multiple of 2"
else:
    raise AssertionError

found = []
for devices in (1, 2):
    vmc = Products(MOLECULES["He"], "ferminet", {"layers": 1}, 8, moves=2, devices=devices)
    state = vmc.start(0)
    for _ in range(3):
        state, energies, _ = vmc.optimised(state)
    assert len(energies.sharding.device_set) == devices
    assert energies.sharding.is_fully_replicated == (devices == 1)
    found.append(np.asarray(energies))
np.testing.assert_allclose(found[0], found[1], rtol=1e-9)
print("equal")
"""


def test_walkers_on_two_devices_give_the_energies_of_one():
    """Three steps of optimisation."""
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    path = os.pathsep.join([str(VMC), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", SHARDED],
        env={**environment, "PYTHONPATH": path}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.stdout == "equal\n", done.stderr
