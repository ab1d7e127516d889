"""op(f)(x): seed the coordinates, propagate through f, read the operators out.

`Transform` is the one class of function transforms. What is static about one stands in its
`symbols` (`core.symbols`); what it does with arrays, in `directions` and `assemble`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from operator import index
from typing import TYPE_CHECKING, Any, Unpack, overload

from . import nested, warn
from .core import directions, plans
from .core.arrays import Array
from .core.plans import Plan, Reading
from .core.symbols import Piece, Symbols, Variables, Wanted
from .frameworks import frontend_of
from .frontend import Frontend
from .nested import plus
from .typed import Module, Options, P, T

METHODS = (*directions.METHODS, "nested")

MANY = 500
"""Vectors above which a point with several axes may be several points."""

Function = Callable[..., Any]


class Transform:
    """A linear differential operator, or several, as a transform of functions.

    Attributes:
        name: how errors call it.
        symbols: what is propagated, for any number of variables.
        coordinates: how many the point must have; None for any number.
        names: what some of them are called.
        random: whether a call takes the keyword `rng`.
    """

    name: str
    symbols: Symbols
    coordinates: int | None = None
    names: Mapping[int, str] = {}
    random = False

    @property
    def parameters(self) -> tuple[str, ...]:
        """The keywords that a call takes beside those of f."""
        return ("rng",) if self.random else ()

    @overload
    def __call__(self, f: Module[T], **options: Unpack[Options]) -> Callable[..., T]: ...
    @overload
    def __call__(self, f: Callable[P, T], **options: Unpack[Options]) -> Callable[P, T]: ...
    def __call__(
        self,
        f: Any,
        *point: Any,
        argnums: int | Sequence[int] = 0,
        batch_dims: int = 0,
        method: str = "minimal",
        chunk_size: int | None = None,
        structure: bool = True,
    ) -> Any:
        """The function that evaluates the operator, with the arguments of f.

        Args:
            f: the function; its first argument is the point, all its axes are coordinates.
            argnums: another position, or several: their raveled coordinates are concatenated.
            batch_dims: the first axes of the point that index independent points.
            method: "minimal", "collapsed", "standard" or "nested".
            chunk_size: evaluate the sum of directional derivatives that the operator is in pieces
                of that many directions, one after the other: the same value, in the memory of one.
            structure: whether coefficients that are zero whatever the point are left out
                (`core.structure`); the values are the same.
        """
        if not callable(f):
            raise TypeError(
                f"{self.name} transforms a function, got {type(f).__name__}; "
                f"write {self.name}(f)(x), not {self.name}(f(x))"
            )
        if point:
            raise TypeError(
                f"{self.name}(f) gives a function of the point: write {self.name}(f)(x), not "
                f"{self.name}(f, x)"
            )
        check_options(argnums, batch_dims, method)
        if chunk_size is not None and (
            not isinstance(chunk_size, int) or isinstance(chunk_size, bool) or chunk_size < 1
        ):
            raise ValueError(f"chunk_size must be a positive integer or None, got {chunk_size!r}")
        self.check(batch_dims)
        return Applied(self, f, argnums, batch_dims, method, chunk_size, structure)

    def evaluate(self, call: Call, chunk_size: int | None = None) -> Any:
        """The answer of one call."""
        n, shape = self.coordinates, tuple(call.points[0].shape)
        if n not in (None, call.n) and n in [prod(shape[k:]) for k in range(len(shape))]:
            refuse_other_coordinates(str(self), n, call)
        vectors, variables = self.directions(call)
        call.frontend.whole(Call.at_once, Call.in_chunks)
        if chunk_size is None:  # a bound method Dynamo could not make again
            _warn_of_many(self, call, variables)
            results = Call.at_once(call, self.symbols, variables, vectors)
        else:
            results = Call.in_chunks(call, self.symbols, variables, vectors, chunk_size)
        return self.assemble(results, call)

    def check(self, batch_dims: int) -> None:
        """Refuse what does not go together with the operator."""

    def variables(self, n: int) -> Variables:
        """How `symbols.at` calls n coordinates (of a weighted Laplacian n columns of σ)."""
        return n

    def directions(self, call: Call) -> tuple[Array | None, Variables]:
        """The directions (V, n) or (V, *batch, n) that are the variables of the symbols, and how
        `symbols.at` calls them; None for the coordinates themselves."""
        return None, self.variables(call.n)

    def assemble(self, results: Sequence[Any], call: Call) -> Any:
        """The answer, from every wanted symbol applied to f, in the structure that f returns."""
        return results[0]

    def _no_arithmetic(self, *others: object) -> Any:
        raise TypeError(
            f"{self.name} is no polynomial in partial derivatives, so it has no + - * / **; "
            f'evaluate it beside others, jetfold.derivatives({{"a": {self.name}, "b": ...}})'
            "(f)(x), and combine the results"
        )

    if not TYPE_CHECKING:  # what Operator has, others are refused
        __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _no_arithmetic
        __truediv__ = __rtruediv__ = __pow__ = __neg__ = _no_arithmetic


class Applied:
    """An operator applied to a function, op(f): a function of the point, with the arguments of f.

    It can be pickled as far as f can.
    """

    def __init__(
        self,
        transform: Transform,
        function: Function,
        argnums: int | Sequence[int],
        batch_dims: int,
        method: str,
        chunk_size: int | None,
        structure: bool,
    ) -> None:
        self.transform = transform
        self.function = function
        self.argnums = argnums
        self.batch_dims = batch_dims
        self.method = method
        self.chunk_size = chunk_size
        self.structure = structure

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        transform = self.transform
        rng = kwargs.pop("rng", None) if transform.random else None
        call = called(
            transform.name, self.function, args, kwargs, self.argnums, self.batch_dims,
            self.method, rng, self.structure,
        )  # fmt: skip
        return transform.evaluate(call, self.chunk_size)

    @property
    def __wrapped__(self) -> Function:
        return self.function

    @property
    def __name__(self) -> str:
        function = self.function
        return f"{self.transform.name}({getattr(function, '__name__', type(function).__name__)})"

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        about = inspect.getdoc(self.transform) or ""
        return f"{self.transform} of a function, with its arguments.\n\n{about}"

    def __repr__(self) -> str:
        return f"{self.transform!r}({self.function!r})"


def positions_of(argnums: int | Sequence[int]) -> tuple[int, ...]:
    """The positions of the arguments to differentiate.

    Raises:
        ValueError: something else.
    """
    positions = (argnums,) if isinstance(argnums, int) else tuple(argnums)
    if not positions or not all(isinstance(k, int) for k in positions):
        raise ValueError(f"argnums must be an integer or a tuple of integers, got {argnums!r}")
    return positions


def check_options(argnums: int | Sequence[int], batch_dims: int, method: str) -> None:
    """Refuse options that no transform of functions can take.

    Raises:
        ValueError: one of them.
    """
    positions_of(argnums)
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}; got {method!r}")
    if not isinstance(batch_dims, int) or isinstance(batch_dims, bool) or batch_dims < 0:
        raise ValueError(f"batch_dims must be a non-negative integer, got {batch_dims!r}")


def called(
    name: str,
    function: Function,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    argnums: int | Sequence[int],
    batch_dims: int,
    method: str,
    rng: Any = None,
    structure: bool = True,
) -> Call:
    """The call of a transformed function with such arguments.

    Args:
        name: how errors call the transform.

    Raises:
        TypeError, ValueError: an argument is missing, or is no point.
    """
    positions = positions_of(argnums)
    if len(args) < max(max(positions) + 1, -min(positions)):
        raise TypeError(
            f"argnums={argnums!r} asks for positional arguments that are not there: "
            f"{len(args)} came; pass the point to differentiate by position"
        )
    points = tuple([args[k] for k in positions])
    frontend = frontend_of(points[0])
    for point in points:
        frontend.check_point(name, point, batch_dims)
    shapes = [tuple(point.shape) for point in points]
    if any([shape[:batch_dims] != shapes[0][:batch_dims] for shape in shapes[1:]]):
        raise ValueError(
            f"the arguments {argnums!r} must share their first {batch_dims} (batch) axes, "
            f"got shapes {', '.join(map(str, shapes))}"
        )
    counts = tuple([index(prod(shape[batch_dims:])) for shape in shapes])

    def of_points(*points: Any) -> Any:
        filled = list(args)
        for k, point in zip(positions, points, strict=True):
            filled[k] = point
        return function(*filled, **kwargs)

    one = isinstance(argnums, int)
    return Call(frontend, of_points, points, counts, one, batch_dims, method, rng, structure)


@dataclass(frozen=True)  # such a one Dynamo can make again behind a graph break
class Call:
    """One call of a transformed function.

    Attributes:
        function: of the points.
        points: the arguments that are differentiated.
        counts: how many coordinates each of them has.
        one: whether argnums named one of them, not a tuple.
        rng: what randomness there is.
        structure: whether zeros that are known beforehand are left out.
    """

    frontend: Frontend
    function: Function
    points: tuple[Array, ...]
    counts: tuple[int, ...]
    one: bool
    batch_dims: int
    method: str
    rng: Any = None
    structure: bool = True

    @property
    def n(self) -> int:
        """The number of coordinates."""
        return sum(self.counts)

    @property
    def batch(self) -> tuple[int, ...]:
        """The axes that index independent points."""
        return tuple(self.points[0].shape)[: self.batch_dims]

    def drawing(self, rng: Any) -> Call:
        """The same call with other randomness."""
        return Call(
            self.frontend, self.function, self.points, self.counts, self.one, self.batch_dims,
            self.method, rng, self.structure,
        )  # fmt: skip

    def at_once(self, symbols: Symbols, variables: Variables, vectors: Array | None) -> list[Any]:
        """Every wanted symbol, from one propagation."""
        static = self.frontend.static
        if self.method == "nested":
            return self.nested(static(nested.recipes, symbols, variables), vectors)
        return self.propagated(static(plans.plan, symbols, variables, self.method), vectors)

    def nested(self, recipes: nested.Recipes, vectors: Array | None) -> list[Any]:
        """Every wanted symbol, by nested first-order differentiation."""
        return nested.evaluate(
            self.frontend,
            recipes,
            self.function,
            self.points,
            self.counts,
            vectors,
            self.batch_dims,
        )

    def propagated(self, plan: Plan, vectors: Array | None) -> list[Any]:
        """Every reading of a plan, from one forward pass on jets."""
        frontend = self.frontend
        with frontend.new_level(self.batch_dims) as level:
            jets, start = [], 0
            for point, count in zip(self.points, self.counts, strict=True):
                blocks = [self.seed(seeds, start, count, point, vectors) for seeds in plan.seeds]
                jets.append(frontend.make_jet(plan.algebra, level, point, blocks))
                start += count
            out = frontend.run(self.function, jets, self.batch_dims)
            return [
                frontend.map_outputs(partial(read, frontend, level, reading), out)
                for reading in plan.readings
            ]

    def seed(
        self, seeds: plans.Seeds, start: int, count: int, point: Array, vectors: Array | None
    ) -> Array | None:
        """The coefficients (e_w(∂)x)_i of one degree: (size, *ones or batch, *shape of a point)."""
        if seeds.empty:
            return None
        xp, shape = self.frontend.xp, tuple(point.shape)[self.batch_dims :]
        may = vectors is None and self.structure and seeds.size >= plans.FEWEST
        if may and self.frontend.structured(point, seeds.size):
            found = self.frontend.attempted(
                plans.structured, seeds.table, seeds.variables, start, shape
            )
            if found is not None:
                return plans.block(found, xp, point, self.batch_dims)
        if vectors is None:
            block = xp.eye(self.n, point) if seeds.identity else xp.asarray(seeds.rows, point)
        elif seeds.identity:
            block = vectors
        else:
            block = xp.einsum("wv,v...->w...", xp.asarray(seeds.rows, point), vectors)
        batch = tuple(block.shape[1:-1]) or (1,) * self.batch_dims
        if len(self.counts) > 1:
            block = block[..., start : start + count]
        return xp.reshape(block, (block.shape[0], *batch, *shape))

    # ---- in chunks

    def in_chunks(
        self, symbols: Symbols, variables: Variables, vectors: Array | None, size: int
    ) -> list[Any]:
        """A few directions at a time, which are made when they are needed."""
        frontend, static = self.frontend, self.frontend.static
        parts = static(plans.parts, symbols, variables)
        if self.method == "nested":
            low = self.nested(static(nested.low_recipes, symbols, variables), vectors)
        else:
            plan = static(plans.low_plan, symbols, variables, self.method)
            low = self.propagated(plan, vectors)
        variables_of = self.n if vectors is None else vectors.shape[0]
        totals: dict[int, Any] = {}
        for piece in parts.pieces:
            rows = self.rows(piece, variables_of, vectors)
            step = partial(self.power, piece, rows)
            total = self.summed(step, piece.count, size)
            if piece.symbol in totals:
                total = frontend.map_outputs(plus, totals[piece.symbol], total)
            totals[piece.symbol] = total
        return self.joined(parts.low, low, totals)

    def rows(
        self, piece: Piece, variables: int, vectors: Array | None
    ) -> Callable[[Any, int], Array]:
        """(start, count) -> the directions of a piece from `start` on, (count, n) or with batch."""
        xp, like = self.frontend.xp, self.points[0]

        def in_variables(start: Any, count: int) -> Array:
            if piece.dense:
                return xp.narrow(xp.asarray(piece.dense, like), 0, start, count)
            if not piece.coordinates:
                places = xp.arange(start, count, like)
                return xp.one_hot(xp.full((count,), 1.0, like), places, variables)
            places = xp.narrow(xp.integers(piece.coordinates, like), 0, start, count)
            values = xp.narrow(xp.asarray(piece.components, like), 0, start, count)
            total = None
            for k in range(len(piece.coordinates[0])):
                entry = xp.one_hot(values[:, k], places[:, k], variables)
                total = entry if total is None else total + entry
            return total

        def in_coordinates(start: Any, count: int) -> Array:
            if not (piece.dense or piece.coordinates):
                return xp.narrow(vectors, 0, start, count)
            return xp.einsum("rv,v...->r...", in_variables(start, count), vectors)

        return in_variables if vectors is None else in_coordinates

    def power(self, piece: Piece, rows: Callable[[Any, int], Array], start: Any, count: int) -> Any:
        """Σ_r ±(v_r·∂)^power f over some directions."""
        static, method = self.frontend.static, self.method
        if method == "nested":
            recipes = static(nested.power_recipes, piece.power, piece.sign, count)
            return self.nested(recipes, rows(start, count))[0]
        plan = static(plans.power_plan, piece.power, piece.sign, count, method)
        return self.propagated(plan, rows(start, count))[0]

    def summed(self, step: Callable[[Any, int], Any], count: int, size: int) -> Any:
        """The sum of a step over all directions, `size` at a time."""
        frontend, size = self.frontend, min(size, count)
        if count > size:
            step = frontend.recomputed(step)
        total = frontend.add_up(lambda start: step(start, size), count // size, size)
        if count % size:
            last = step(count - count % size, count % size)
            total = frontend.map_outputs(plus, total, last)
        return total

    def joined(
        self, low: Sequence[Wanted], results: list[Any], totals: dict[int, Any]
    ) -> list[Any]:
        """What is cheap and the sums of the pieces, by symbol, in the structure of `low`."""
        frontend, found, k = self.frontend, [], 0
        for one, result in zip(low, results, strict=True):
            if not isinstance(one, tuple):
                total = totals.get(k)
                k += 1
                found.append(result if total is None else frontend.map_outputs(plus, result, total))
                continue
            rows = [totals.get(k + j) for j in range(len(one))]
            k += len(one)
            some = next((row for row in rows if row is not None), None)
            if some is not None:
                zeros = frontend.map_outputs(frontend.xp.zeros_like, some)
                rows = [zeros if row is None else row for row in rows]
                stacked = frontend.map_outputs(lambda *x: frontend.xp.stack(x), *rows)
                result = frontend.map_outputs(plus, result, stacked)
            found.append(result)
        return found


def refuse_other_coordinates(name: str, coordinates: int, call: Call) -> None:
    """Say that a point has another number of coordinates, and which batch_dims would fit.

    Raises:
        ValueError: always.
    """
    shape = tuple(call.points[0].shape)
    fitting = [k for k in range(len(shape) + 1) if prod(shape[k:]) == coordinates]
    hint = "check the names of the coordinates, batch_dims= and argnums="
    if fitting and len(call.points) == 1:
        hint = (
            f"if the first {fitting[0]} axes of its shape {shape} index independent points, pass "
            f"batch_dims={fitting[0]}"
        )
    raise ValueError(
        f"{name} acts on {coordinates} coordinates, but the point has {call.n} with "
        f"batch_dims={call.batch_dims}; {hint}"
    )


def _warn_of_many(transform: Transform, call: Call, variables: Variables) -> None:
    """Where all axes of a large point are coordinates, some may be meant to index points."""
    shape = tuple(call.points[0].shape)
    if call.batch_dims or len(shape) < 2 or call.n <= MANY:
        return
    call.frontend.static(_report_many, transform.symbols, variables, transform.name, shape)


def _report_many(symbols: Symbols, variables: Variables, name: str, shape: Sequence[int]) -> bool:
    vectors = symbols.vectors(variables)
    if vectors is None or vectors > MANY:
        warn.report_many(name, vectors, shape)
    return True


def read(frontend: Frontend, level: int, reading: Reading, leaf: Any) -> Array:
    """What is read out of one result of the function: of its shape, or (size, *shape)."""
    xp = frontend.xp
    value, blocks = frontend.opened(level, leaf, not reading.degrees)
    found = plans.read(reading, value, blocks, xp)
    shape = (reading.size, *value.shape) if reading.size else tuple(value.shape)
    if found is None:
        zeros = xp.zeros_like(value)
        return frontend.settled(xp.broadcast_to(zeros, shape)) if reading.size else zeros
    return found if tuple(found.shape) == shape else frontend.settled(xp.broadcast_to(found, shape))
