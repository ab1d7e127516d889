"""DeepXDE's model in JAX, which traces its equations."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import deepxde
from deepxde.data.pde import PDE
from deepxde.icbc import boundary_conditions

from . import grad
from .pairs import at_once

boundary_conditions.grad = SimpleNamespace(jacobian=grad.of_any, clear=grad.clear)

_losses = PDE.losses


def losses(
    self: Any, targets: Any, outputs: Any, loss_fn: Any, inputs: Any, model: Any, aux: Any = None
) -> Any:
    """`PDE.losses`; equation and boundary conditions of a `Model` share one propagation."""

    def run() -> Any:
        return _losses(self, targets, outputs, loss_fn, inputs, model, aux=aux)

    return at_once(run, aux[0], inputs, outputs) if isinstance(model, Model) else run()


PDE.losses = losses


def watch(net: Any, always: bool = False) -> Any:
    """The network: in JAX there is nothing to watch, because functions are at hand."""
    return net


class Model(deepxde.Model):
    """`deepxde.Model`, whose derivatives come from one propagation per set of points.

    Boundary conditions may ask for derivatives too (`NeumannBC`, `RobinBC`, `PeriodicBC`,
    `OperatorBC`), which DeepXDE's own JAX backend does not offer.
    """

    def predict(self, x: Any, operator: Any = None, callbacks: Any = None) -> Any:
        if operator is None or deepxde.utils.get_num_args(operator) != 2:
            return super().predict(x, operator, callbacks)

        def shared(inputs: Any, outputs: Any) -> Any:
            return at_once(lambda: operator(inputs, outputs), outputs[1], inputs, outputs[0])

        return super().predict(x, shared, callbacks)
