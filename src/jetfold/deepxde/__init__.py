"""DeepXDE with its derivatives from one propagation: `import jetfold.deepxde as dde`.

All of DeepXDE under its own names, but for three:

- `dde.grad`: jacobian and hessian as before, and laplacian, biharmonic and derivative.
- `dde.Model`: watches its network (`jetfold.watched`).
- `dde.watch(net)`: does so for a network that is called without a model.

DeepXDE's own boundary conditions and models ask this `grad` too. The backends are PyTorch and JAX.
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

if deepxde.backend.backend_name not in ("pytorch", "jax"):
    raise ImportError(
        "jetfold.deepxde works with DeepXDE's PyTorch and JAX backends, and the backend in use is "
        f"{deepxde.backend.backend_name}: set DDE_BACKEND=pytorch or DDE_BACKEND=jax in the "
        "environment"
    )

from . import grad

if deepxde.backend.backend_name == "jax":
    from .tracing import Model, watch
else:
    from .watching import Model, watch

__all__ = ["Model", "grad", "watch"]


def __getattr__(name: str) -> Any:
    return getattr(deepxde, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *dir(deepxde)})
