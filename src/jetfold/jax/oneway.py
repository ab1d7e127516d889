"""Values whose gradients do not exist, in words that say what to do: an identity, as a primitive.

Reverse mode begins at the results, so it meets this before the loop inside that JAX cannot run
backwards, which JAX would name alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


def forward_only(x: Any, name: str) -> Any:
    """The same array, of which reverse mode is refused.

    Args:
        name: of the function that it comes from.
    """
    return forward_only_p.bind(x, name=name)


def _same(x: Any, *, name: str) -> Any:
    return x


def _transposed(cotangent: Any, x: Any, *, name: str) -> list[Any]:
    if isinstance(cotangent, ad.Zero):
        return [ad.Zero(x.aval)]
    raise NotImplementedError(
        f"gradients of derivatives of {name} were asked for: its reverse rule has no second "
        "derivative, so jetfold differentiates the code inside, a loop of any length, which JAX "
        "cannot run backwards (nested reverse mode fails alike). Write the loop with a fixed "
        "length (lax.scan, lax.fori_loop); with diffrax pass "
        "diffeqsolve(..., adjoint=diffrax.DirectAdjoint())"
    )


def _batched(operands: Sequence[Any], axes: Sequence[int], *, name: str) -> tuple[Any, int]:
    return forward_only(operands[0], name), axes[0]


forward_only_p = Primitive("forward_only")
forward_only_p.def_impl(jax.jit(_same, static_argnames="name"))
forward_only_p.def_abstract_eval(_same)
ad.deflinear2(forward_only_p, _transposed)
batching.primitive_batchers[forward_only_p] = _batched
mlir.register_lowering(forward_only_p, mlir.lower_fun(_same, multiple_results=False))
