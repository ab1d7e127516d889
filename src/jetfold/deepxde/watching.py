"""DeepXDE's model, whose network is watched."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import deepxde
from deepxde.icbc import boundary_conditions

from .. import watched
from ..watched import calling
from . import grad

for module in (deepxde.model, boundary_conditions, deepxde.callbacks):
    module.grad = SimpleNamespace(jacobian=grad.of_any, clear=grad.clear)  # all that they call


def watch(net: Any, always: bool = False) -> Any:
    """Have a network remember which derivatives are asked for, and bring them along.

    Args:
        net: a `torch.nn.Module` of points Float[points, coordinates], which it takes one by one.
        always: also where autograd is less work: for first derivatives, or one second one.

    Returns:
        the network.
    """
    watched.watch(net, forward, always)
    return net


def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
    """A network's own function, and what will be asked for of its result."""
    own = partial(type(self).forward, self, **kwargs)
    return watched.called(self, args, own)


class Model(deepxde.Model):
    """`deepxde.Model`, whose derivatives come from one propagation per set of points."""

    def compile(self, *args: Any, **kwargs: Any) -> Any:
        watch(self.net)
        return super().compile(*args, **kwargs)

    def _outputs(self, training: bool, inputs: Any) -> Any:
        with calling(False):  # predictions, of which no derivatives are asked for
            return super()._outputs(training, inputs)

    def predict(self, x: Any, operator: Any = None, callbacks: Any = None) -> Any:
        with calling(operator):
            return super().predict(x, operator, callbacks)
