"""Linear differential operators of functions written in PyTorch or JAX, in one forward pass.

See `laplacian`, `partials` and `derivatives`; `explain` shows what an operator carries.
"""

from .collapse import collapse
from .explain import check, explain
from .named import biharmonic, laplacian, weighted_laplacian
from .operators import Operator, derivatives, jet, partials
from .randomized import randomize
from .rules import register_rule
from .warn import JetfoldWarning, strict

__version__ = "0.1.0"

__all__ = [
    "JetfoldWarning",
    "Operator",
    "biharmonic",
    "check",
    "collapse",
    "derivatives",
    "explain",
    "jet",
    "laplacian",
    "partials",
    "randomize",
    "register_rule",
    "strict",
    "weighted_laplacian",
]
