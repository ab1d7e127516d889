"""Linear differential operators of functions written in PyTorch or JAX, in one forward pass.

See `laplacian`, `partials` and `derivatives`; `explain` shows what an operator carries.
"""

from .collapse import collapse
from .derivatives import derivatives
from .explain import check, explain
from .named import (
    biharmonic,
    curl,
    divergence,
    gradient,
    hessian,
    jacobian,
    laplacian,
    value,
    weighted_laplacian,
)
from .operators import Operator, partials
from .randomized import randomize
from .rules import register_rule
from .taylor import jet
from .transform import Transform
from .warn import JetfoldWarning, strict

__version__ = "0.1.0"

__all__ = [
    "JetfoldWarning",
    "Operator",
    "Transform",
    "biharmonic",
    "check",
    "collapse",
    "curl",
    "derivatives",
    "divergence",
    "explain",
    "gradient",
    "hessian",
    "jacobian",
    "jet",
    "laplacian",
    "partials",
    "randomize",
    "register_rule",
    "strict",
    "value",
    "weighted_laplacian",
]
