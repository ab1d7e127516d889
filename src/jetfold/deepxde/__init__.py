"""DeepXDE with its derivatives from one propagation: `import jetfold.deepxde as dde`.

All of DeepXDE under its own names, but for three:

- `dde.grad`: jacobian and hessian as before, and laplacian, biharmonic and derivative.
- `dde.Model`: watches its network (`jetfold.watched`).
- `dde.watch(net)`: does so for a network that is called without a model.

DeepXDE's own boundary conditions and models ask this `grad` too.
"""

from __future__ import annotations

from typing import Any

try:
    import deepxde
except ModuleNotFoundError as missing:
    if missing.name != "deepxde":
        raise
    raise ModuleNotFoundError(
        "jetfold.deepxde changes DeepXDE, which is not installed: pip install deepxde",
        name="deepxde",
    ) from None

if deepxde.backend.backend_name != "pytorch":
    raise ImportError(
        "jetfold.deepxde works with DeepXDE's PyTorch backend, and the backend in use is "
        f"{deepxde.backend.backend_name}: set DDE_BACKEND=pytorch in the environment"
    )

from . import grad
from .watching import Model, watch

__all__ = ["Model", "grad", "watch"]


def __getattr__(name: str) -> Any:
    return getattr(deepxde, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(deepxde)})
