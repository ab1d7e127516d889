"""Several operators of one function from one propagation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Number as AnyNumber
from typing import TYPE_CHECKING, Any, Generic, overload

from .core.arrays import Array
from .core.symbols import Variables, together
from .frameworks import made, static
from .names import check_alike
from .operators import Operator, numeric
from .transform import Applied, Call, Transform
from .typed import Key, ToDict, ToList, ToTuple


class Derivatives(Transform):
    """Several operators together; made by `derivatives`.

    Attributes:
        tree: what `derivatives` was given, numbers as operators.
        members: its leaves, in order; those of inner `Derivatives` among them.
    """

    name = "derivatives"

    def __init__(self, tree: Any) -> None:
        self.tree = map_tree(member, tree)
        self.members: tuple[Transform, ...] = tuple(
            member for leaf in tree_leaves(self.tree) for member in _members(leaf)
        )
        self.symbols = made(together, *(member.symbols for member in self.members))
        self.random = any(member.random for member in self.members)
        check_alike(self.members)
        given = [m.coordinates for m in self.members if m.coordinates is not None]
        self.coordinates = given[0] if given else None
        self.names = {i: name for m in self.members for i, name in m.names.items() if i >= 0}

    def variables(self, n: int) -> Variables:
        return n, tuple((member.variables(n), 0) for member in self.members)

    def check(self, batch_dims: int) -> None:
        for member in self.members:
            member.check(batch_dims)

    def directions(self, call: Call) -> tuple[Array | None, Variables]:
        """The coordinates, if any member needs them, and behind them the members' directions."""
        own = [m.directions(c) for m, c in zip(self.members, self._calls(call), strict=True)]
        if all(vectors is None for vectors, _ in own):
            return None, (call.n, tuple((variables, 0) for _, variables in own))
        blocks, start, places = [], 0, []
        if any(vectors is None for vectors, _ in own):
            blocks, start = [call.frontend.xp.eye(call.n, call.points[0])], call.n
        for vectors, variables in own:
            places.append((variables, 0 if vectors is None else start))
            if vectors is not None:
                blocks.append(vectors)
                start += vectors.shape[0]
        return _joined(call, blocks), (start, tuple(places))

    def _calls(self, call: Call) -> Iterator[Call]:
        """The call for each member, with randomness of its own."""
        random = sum(member.random for member in self.members)
        keys = [call.rng] * random
        if random > 1:
            call.frontend.check_rng(call.rng)
            keys = list(call.frontend.split(call.rng, random))
        for member in self.members:
            yield call.drawing(keys.pop()) if member.random else call

    def assemble(self, results: Sequence[Any], call: Call) -> Any:
        rest = iter(results)

        def of_leaf(leaf: Transform) -> Any:
            return leaf.assemble([next(rest) for _ in range(static(len, leaf.symbols))], call)

        return map_tree(of_leaf, self.tree)

    def __repr__(self) -> str:
        return f"derivatives({self.tree!r})"


def _joined(call: Call, blocks: Sequence[Array]) -> Array:
    """Directions (V, n) or (V, *batch, n) behind each other, all with the axes that any has."""
    xp, n = call.frontend.xp, call.n
    if all(b.ndim == 2 for b in blocks):
        return xp.concat(blocks, 0)
    alike = []
    for b in blocks:
        if b.ndim == 2:
            b = b.reshape((b.shape[0], *(1,) * len(call.batch), n))
        alike.append(xp.broadcast_to(b, (b.shape[0], *call.batch, n)))
    return xp.concat(alike, 0)


def member(leaf: Any, taker: str = "derivatives") -> Transform:
    """A leaf of the tree as a transform: a number c stands for c·u."""
    if isinstance(leaf, Transform):
        return leaf
    if isinstance(leaf, AnyNumber):
        return Operator([numeric(leaf)], None)
    hint = ""
    if isinstance(leaf, Applied):
        hint = f": write {leaf.transform}, the operator itself, not {leaf.__name__}"
    elif callable(leaf):
        name = getattr(leaf, "__name__", "f")
        hint = (
            f": a function that makes an operator is called, {name}(...), and the one that is "
            f"differentiated comes after, {taker}(...)({name})(x)"
        )
    raise TypeError(f"{taker} takes operators and numbers, got {type(leaf).__name__}{hint}")


def _members(leaf: Transform) -> tuple[Transform, ...]:
    return leaf.members if isinstance(leaf, Derivatives) else (leaf,)


if TYPE_CHECKING:  # what the call returns has the structure of what is wanted

    class InDict(Derivatives, Generic[Key]):
        __call__: ToDict[Key]  # type: ignore[assignment]

    class InTuple(Derivatives):
        __call__: ToTuple  # type: ignore[assignment]

    class InList(Derivatives):
        __call__: ToList  # type: ignore[assignment]


@overload
def derivatives(operators: Mapping[Key, Transform | complex]) -> InDict[Key]: ...
@overload
def derivatives(operators: tuple[Transform | complex, ...]) -> InTuple: ...
@overload
def derivatives(operators: list[Transform | complex]) -> InList: ...
@overload
def derivatives(operators: Any) -> Derivatives: ...
def derivatives(operators: Any, *misplaced: Any) -> Any:
    """Several operators of one function from ONE propagation, with the fewest vectors of all.

    Args:
        operators: any nesting of dicts, lists, tuples and named tuples of operators: polynomials in
            `partials`, `jetfold.value`, `gradient`, `laplacian` and their like, randomized ones; a
            number c stands for c times the value itself.

    Returns:
        an operator, called like the others; its result has the structure of `operators`, with the
        results of the operators at the leaves.

    Raises:
        TypeError: something else in the tree, or no operator.

    >>> import torch, jetfold as jf
    >>> t, x = jf.partials(2)
    >>> u = lambda p: torch.sin(p[1]) * p[0] ** 2
    >>> derivatives({"u": 1, "du": jf.gradient, "u_xx": x**2})(u)(torch.tensor([3.0, 0.0]))
    {'u': tensor(0.), 'du': tensor([0., 9.]), 'u_xx': tensor(-0.)}
    """
    if misplaced:
        raise TypeError(
            "derivatives takes the operators alone and gives one: write "
            "derivatives({...})(f)(x), not derivatives({...}, f, x)"
        )
    found = Derivatives(operators)
    if not any(isinstance(leaf, Transform) for leaf in tree_leaves(operators)):
        raise TypeError(
            "derivatives needs at least one operator: jetfold.value, jetfold.laplacian, or one "
            "made with partials(n)"
        )
    return found


def tree_leaves(tree: Any) -> list[Any]:
    """The leaves of a nesting of dicts, lists and tuples."""
    leaves: list[Any] = []
    map_tree(leaves.append, tree)
    return leaves


def map_tree(func: Callable[[Any], Any], tree: Any) -> Any:
    """The tree with func of every leaf."""
    if isinstance(tree, Mapping):
        return type(tree)({k: map_tree(func, v) for k, v in tree.items()})  # type: ignore[call-arg]
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(map_tree(func, v) for v in tree))
    if isinstance(tree, (list, tuple)):
        return type(tree)([map_tree(func, v) for v in tree])
    return func(tree)
