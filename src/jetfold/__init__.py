"""Linear differential operators of functions written in PyTorch or JAX, in one forward pass.

See `laplacian`, `partials` and `derivatives`; `explain` shows what an operator carries.
"""

from .collapse import collapse
from .derivatives import derivatives
from .directional import directional_derivative, normal_derivative
from .explain import check, explain
from .named import (
    biharmonic,
    curl,
    divergence,
    gradient,
    hessian,
    identity,
    jacobian,
    laplacian,
    value,
    weighted_laplacian,
)
from .operators import Operator, partials
from .outputs import output
from .randomized import randomize
from .residual import D, Residual, residual
from .rules import register_rule
from .taylor import jet
from .transform import Transform
from .warn import JetfoldWarning, strict

__version__ = "0.1.0"

__all__ = [
    "D",
    "JetfoldWarning",
    "Operator",
    "Residual",
    "Transform",
    "biharmonic",
    "check",
    "collapse",
    "curl",
    "derivatives",
    "directional_derivative",
    "divergence",
    "explain",
    "gradient",
    "hessian",
    "identity",
    "jacobian",
    "jet",
    "laplacian",
    "normal_derivative",
    "output",
    "partials",
    "randomize",
    "register_rule",
    "residual",
    "strict",
    "value",
    "weighted_laplacian",
]
