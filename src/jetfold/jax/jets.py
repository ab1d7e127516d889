"""Jets of JAX arrays: what rules ask of their operands, and how they make their results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from ..core.algebra import JetAlgebra
from ..core.arrays import Block
from ..core.jet import Jet
from ..core.structure import Piece, Structured, dense


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
    """The blocks of an operand, without structure; none, of an array."""
    return x.blocks if isinstance(x, Jet) else (None,) * order


def stored_of(x: Any, order: int) -> Sequence[Block]:
    """The blocks of an operand as they are stored."""
    return x.stored if isinstance(x, Jet) else (None,) * order


def expanded(x: Any, order: int) -> list[Block]:
    """The blocks, broadcast to the whole shape of the value."""
    shape = jnp.shape(value(x))
    return [
        None if b is None else jnp.broadcast_to(b, (b.shape[0], *shape))
        for b in blocks_of(x, order)
    ]


def coefficients(x: Any, order: int) -> list[Any]:
    """[value, block 1, …], as `core.arithmetic` takes them: with their structure."""
    return [value(x), *stored_of(x, order)]


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


class Remembering(Jet):
    """A jet that remembers how it was made; what is made of it does not."""

    def __init__(self, whole: Jet) -> None:
        super().__init__(whole.algebra, whole.level, whole.primal, whole.stored)

    def like(self, primal: Any, blocks: Sequence[Block]) -> Jet:
        """Another jet of the same algebra and level."""
        return Jet(self.algebra, self.level, primal, blocks)


class Joined(Remembering):
    """What several arrays and jets are, joined along an axis, for whoever takes them apart again.

    A product that sums over the axis is the sum of those of the operands, and of these each may
    have structure, or axes of length one, that the whole has not. (What nobody reads of the whole
    is never computed in a compiled program.)
    """

    def __init__(self, whole: Jet, axis: int, operands: Sequence[Any]) -> None:
        super().__init__(whole)
        self.axis, self.operands = axis, tuple(operands)


# ------------------------------------------------------------------ jets as pytrees


def flatten_jet(x: Jet) -> tuple[tuple[Any, Any], tuple[JetAlgebra, int]]:
    """Its arrays, and what is static."""
    return (x.primal, x.stored), (x.algebra, x.level)


def unflatten_jet(static: tuple[JetAlgebra, int], children: Any) -> Jet:
    """The reverse; what a jet remembers beside them is lost."""
    return Jet(*static, *children)


# A jet enters loops, branches, maps and checkpoints as the pytree of its arrays.
jax.tree_util.register_pytree_node(Jet, flatten_jet, unflatten_jet)
jax.tree_util.register_pytree_node(Joined, flatten_jet, unflatten_jet)


def _flatten_structured(x: Structured) -> tuple[Any, Any]:
    kinds = tuple((axis, owners) for axis, owners, _ in x.pieces)
    blocks = tuple(piece.block for piece in x.pieces)
    return (x.dense, blocks), (x.xp, x.size, x.ndim, kinds)


def _unflatten_structured(static: Any, children: Any) -> Structured:
    (xp, size, ndim, kinds), (rest, blocks) = static, children
    pieces = [
        Piece(axis, owners, block) for (axis, owners), block in zip(kinds, blocks, strict=True)
    ]
    return Structured(xp, size, ndim, rest, pieces)


jax.tree_util.register_pytree_node(Structured, _flatten_structured, _unflatten_structured)


def on_parts(function: Callable[..., Any], block: Block) -> Block:
    """A function of arrays, linear and of every entry alone, of a block."""
    if block is None:
        return None
    return block.map(function) if isinstance(block, Structured) else function(block)


def whole(x: Any, block: Block) -> Block:
    """A block of a jet, its parts of the whole shape of the value."""
    shape = jnp.shape(value(x))
    if block is None:
        return None
    if isinstance(block, Structured):
        return block.map(lambda part: jnp.broadcast_to(part, (part.shape[0], *shape)))
    return jnp.broadcast_to(block, (block.shape[0], *shape))


def rows_behind(x: Any) -> Any:
    """A jet over a leading axis (scanned, or mapped), that axis before the rows of each block."""
    if not isinstance(x, Jet):
        return x
    return Jet(x.algebra, 0, x.primal, [_swapped(whole(x, b), -1) for b in x.stored])


def rows_before(x: Any) -> Any:
    """The reverse."""
    if not isinstance(x, Jet):
        return x
    return Jet(x.algebra, 0, x.primal, [_swapped(b, 1) for b in x.stored])


def _swapped(block: Block, by: int) -> Block:
    """The rows and the leading axis exchanged; the axes of pieces are those of a slice or not."""
    if block is None:
        return None
    if isinstance(block, Structured) and by < 0 and any(p.axis == 0 for p in block.pieces):
        block = dense(block)
    if not isinstance(block, Structured):
        return jnp.swapaxes(block, 0, 1)
    pieces = [
        Piece(axis if axis is None else axis + by, owners, jnp.swapaxes(rows, 0, 1))
        for axis, owners, rows in block.pieces
    ]
    rest = None if block.dense is None else jnp.swapaxes(block.dense, 0, 1)
    return Structured(block.xp, block.size, block.ndim + by, rest, pieces)
