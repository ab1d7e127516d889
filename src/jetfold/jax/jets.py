"""Jets of JAX arrays: what rules ask of their operands, and how they make their results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ..core.algebra import JetAlgebra
from ..core.arrays import Block
from ..core.jet import Jet


def value(x: Any) -> Any:
    """The value of a jet, anything else as it is."""
    return x.primal if isinstance(x, Jet) else x


def values(operands: Sequence[Any]) -> list[Any]:
    """The operands with every jet replaced by its value."""
    return [value(x) for x in operands]


def algebra_of(operands: Sequence[Any]) -> JetAlgebra:
    """The algebra of the jets among the operands."""
    return next(x.algebra for x in operands if isinstance(x, Jet))


def blocks_of(x: Any, order: int) -> Sequence[Block]:
    """The blocks of an operand; none, of an array."""
    return x.blocks if isinstance(x, Jet) else (None,) * order


def expanded(x: Any, order: int) -> list[Block]:
    """The blocks, broadcast to the whole shape of the value."""
    shape = jnp.shape(value(x))
    return [
        None if b is None else jnp.broadcast_to(b, (b.shape[0], *shape))
        for b in blocks_of(x, order)
    ]


def coefficients(x: Any, order: int) -> list[Any]:
    """[value, block 1, …], as `core.arithmetic` takes them."""
    return [value(x), *blocks_of(x, order)]


def full_coefficients(x: Any, order: int) -> list[Any]:
    """The same, the blocks of full shape, as `core.matrices` takes them."""
    return [value(x), *expanded(x, order)]


def jet(algebra: JetAlgebra, primal: Any, blocks: Sequence[Block]) -> Any:
    """A jet, or the plain value where no coefficient is left."""
    if all(b is None for b in blocks):
        return primal
    return Jet(algebra, 0, primal, blocks)


def is_inexact(x: Any) -> bool:
    """Whether an array (or what describes one) can have derivatives."""
    return jnp.issubdtype(x.dtype, jnp.inexact)


def is_complex(x: Any) -> bool:
    """Whether an array, a number or a dtype is complex."""
    return jnp.issubdtype(jnp.result_type(x), jnp.complexfloating)


def zeros(size: int, x: Any) -> Any:
    """A block of zeros for an operand."""
    return jnp.zeros((size, *jnp.shape(value(x))), jnp.result_type(value(x)))


def mapped(function: Callable[..., Any], *stacks: Any) -> Any:
    """function(*rows) for the rows of some stacks: at once, or one by one where JAX cannot map."""
    try:
        return jax.vmap(function)(*stacks)
    except NotImplementedError:  # a primitive without a batching rule
        found = [function(*(stack[a] for stack in stacks)) for a in range(len(stacks[0]))]
        return jax.tree.map(lambda *rows: jnp.stack(rows), *found)


# ------------------------------------------------------------------ jets as pytrees


def _flatten(x: Jet) -> tuple[tuple[Any, Any], tuple[JetAlgebra, int]]:
    return (x.primal, x.blocks), (x.algebra, x.level)


def _unflatten(static: tuple[JetAlgebra, int], children: Any) -> Jet:
    return Jet(*static, *children)


# A jet enters loops, branches, maps and checkpoints as the pytree of its arrays.
jax.tree_util.register_pytree_node(Jet, _flatten, _unflatten)


def rows_behind(x: Any) -> Any:
    """A jet over a leading axis (scanned, or mapped), that axis before the rows of each block."""
    if not isinstance(x, Jet):
        return x
    blocks = [None if b is None else jnp.swapaxes(b, 0, 1) for b in expanded(x, x.algebra.order)]
    return Jet(x.algebra, 0, x.primal, blocks)


def rows_before(x: Any) -> Any:
    """The reverse."""
    if not isinstance(x, Jet):
        return x
    blocks = [None if b is None else jnp.swapaxes(b, 0, 1) for b in x.blocks]
    return Jet(x.algebra, 0, x.primal, blocks)
