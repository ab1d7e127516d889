"""The molecules of the wave functions, and that PyTorch and JAX write down the same Psiformer."""

from __future__ import annotations

import numpy as np
import pytest

from jetfold.bench.wavefunctions.molecule import Molecule, diatomic

LITHIUM_HYDRIDE = Molecule(((0.0, 0.0, 0.0), (0.0, 0.0, 3.0)), (3.0, 1.0), (2, 2))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: Molecule(((0.0, 0.0, 0.0),), (1.0, 2.0), (1, 1)),
            "every nucleus needs one charge; got 1 positions and 2 charges",
        ),
        (
            lambda: Molecule(((0.0, 0.0, 0.0),), (1.0,), (2, -1)),
            r"spins are the numbers of electrons up and down, as \(1, 1\); got \(2, -1\)",
        ),
        (
            lambda: diatomic(5),
            "two equal nuclei need an even number of electrons; got 5",
        ),
    ],
)
def test_what_is_no_molecule(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_psiformer_in_pytorch_is_the_one_in_jax(rng):
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    pytest.importorskip("flax")
    from jetfold.bench.wavefunctions import psiformer
    from jetfold.bench.wavefunctions import torch as in_torch

    sizes = {"width": 8, "heads": 2, "layers": 2, "determinants": 3}
    theirs = in_torch.Psiformer(LITHIUM_HYDRIDE, **sizes).double()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.tensor(rng.normal(size=parameter.shape)))

    def dense(layer):
        return {"kernel": layer.weight.T, "bias": layer.bias}

    def norm(layer):
        return {"scale": layer.weight, "bias": layer.bias}

    def attention(layer):
        heads, out = (8, 2, 4), layer.out_proj
        weights, biases = layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3)
        return {
            name: {"kernel": weight.T.reshape(heads), "bias": bias.reshape(2, 4)}
            for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True)
        } | {"out": {"kernel": out.weight.T.reshape(2, 4, 8), "bias": out.bias}}

    determinants = {"Cusps_0": {"alpha": theirs.cusps.alpha}}
    for k, (orbitals, envelopes) in enumerate(zip(theirs.orbitals, theirs.envelopes, strict=True)):
        determinants[f"Orbitals_{k}"] = {"Dense_0": dense(orbitals)}
        determinants[f"Envelopes_{k}"] = {"decay": envelopes.decay, "weight": envelopes.weight}
    parameters = {"Dense_0": dense(theirs.embed), "Determinants_0": determinants}
    for k, layer in enumerate(theirs.layers):
        parameters[f"MultiHeadDotProductAttention_{k}"] = attention(layer.attention)
        parameters[f"Dense_{k + 1}"] = dense(layer.dense)
        parameters[f"LayerNorm_{2 * k}"] = norm(layer.before)
        parameters[f"LayerNorm_{2 * k + 1}"] = norm(layer.between)

    electrons = rng.normal(size=(4, 3))
    with jax.enable_x64(True):
        arrays = jax.tree.map(lambda leaf: leaf.detach().numpy(), {"params": parameters})
        ours = psiformer.Psiformer(LITHIUM_HYDRIDE, **sizes)
        sign, log = jax.jit(ours.apply)(arrays, electrons)
    with torch.no_grad():
        found = theirs(torch.tensor(electrons))
    np.testing.assert_allclose([sign, log], [each.item() for each in found], rtol=1e-11)
