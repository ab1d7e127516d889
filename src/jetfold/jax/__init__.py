"""JAX: jets on jaxprs."""

import jax

from ..versions import supported

with supported("jax", jax.__version__):
    from . import private as private  # all that is beyond JAX's documented interface
