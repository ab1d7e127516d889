"""What a function costs in JAX: it is traced, and the equations are counted. Nothing is computed.

A compiler makes what acts on every entry alone a part of what uses it, so only the results of other
equations are arrays in memory, and what the function returns.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, jaxpr_as_fun
from jax.interpreters import partial_eval as pe

from ..core.costs import Cost, Gradient, Operation, Rates, UnpredictableError

_FUNCTIONS = (
    "acos acosh asin asinh atan atan2 atanh cbrt cos cosh digamma erf erfc erf_inv exp "
    "exp2 expm1 igamma lgamma log log1p log2 logistic pow rsqrt sin sinh sqrt tan tanh"
)
FUNCTIONS = frozenset(_FUNCTIONS.split())

_COPIES = (
    "broadcast_in_dim reshape transpose squeeze expand_dims convert_element_type copy "
    "copy_p slice rev stop_gradient iota bitcast_convert_type reduce_precision "
    "optimization_barrier pjit split"
)
COPIES = frozenset(_COPIES.split())
"""What a compiler reads through: no arithmetic, and no memory of its own."""

_MOVES = (
    "concatenate pad gather scatter dynamic_slice dynamic_update_slice sort "
    "select_and_gather_add random_bits random_wrap random_unwrap random_seed device_put"
)
MOVES = frozenset(_MOVES.split())
"""Copies that are made."""


def cost(function: Callable[..., Any], args: Sequence[Any], points: Sequence[int]) -> Cost:
    """Of a call, compiled."""
    jaxpr = _traced(lambda *x: function(*x), args)
    return Cost(tuple(_operations(jaxpr)), _peak(jaxpr))


def _traced(function: Callable[..., Any], args: Sequence[Any]) -> Jaxpr:
    """The equations that matter for the result."""
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    return pe.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars), instantiate=True)[0]


def _operations(jaxpr: Jaxpr) -> Iterator[Operation]:
    """Of all equations, and of those inside of them."""
    for equation in jaxpr.eqns:
        name, inner = equation.primitive.name, list(_inside(equation.params))
        if name == "while":
            raise UnpredictableError(
                "the function has a while_loop, whose number of turns depends on numbers; "
                "fori_loop with static bounds and scan can be counted"
            )
        if name == "cond":
            yield from max((list(_operations(j)) for j in inner), key=_weight)
        elif inner:
            turns = equation.params["length"] if name == "scan" else 1
            for operation in (x for j in inner for x in _operations(j)):
                yield replace(operation, copies=operation.copies * turns)
        elif name not in COPIES:
            yield _operation(equation)


def _weight(operations: Sequence[Operation]) -> float:
    return sum(x.copies * (x.products + x.arithmetic) for x in operations)


def _inside(params: Any) -> Iterator[Jaxpr]:
    """The jaxprs that an equation calls; of a function with a derivative rule not the rule."""
    for value in params.values():
        for found in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(found, ClosedJaxpr):
                yield found.jaxpr
            elif isinstance(found, Jaxpr):
                yield found


def _operation(equation: Any) -> Operation:
    name = equation.primitive.name
    given = [v.aval.shape for v in equation.invars]
    made = [v.aval.shape for v in equation.outvars]
    sizes = [prod(shape) for shape in (*given, *made)]
    moved = sum(_bytes(v) for v in (*equation.invars, *equation.outvars))
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        terms = prod(given[0][k] for k in contracted)
        return Operation(products=2 * sizes[-1] * terms, moved=moved)
    if name == "conv_general_dilated":
        numbers = equation.params["dimension_numbers"]
        terms = prod(given[1]) // given[1][numbers.rhs_spec[0]]
        return Operation(products=2 * sizes[-1] * terms, moved=moved)
    if name in MOVES or name.startswith(("scatter", "gather", "random")):
        return Operation(moved=moved)
    return Operation(
        arithmetic=max(sizes),
        functions=max(sizes) if name in FUNCTIONS else 0,
        moved=moved,
        pointwise=_is_pointwise(equation),
    )


def _is_pointwise(equation: Any) -> bool:
    """Whether a compiler makes it part of what uses its result."""
    name = equation.primitive.name
    if name in COPIES:
        return True
    if name in MOVES or name in ("dot_general", "conv_general_dilated") or name[:6] == "reduce":
        return False
    shapes = {v.aval.shape for v in (*equation.invars, *equation.outvars) if v.aval.shape}
    return len(shapes) <= 1 and len(equation.outvars) == 1


def _bytes(v: Any) -> int:
    try:
        return prod(v.aval.shape) * v.aval.dtype.itemsize
    except (AttributeError, TypeError):  # keys, tokens
        return 0


# ------------------------------------------------------------------ memory


def _flat(jaxpr: Jaxpr, given: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """(equations, results) with what is called by name put in its place; variables are replaced."""
    names: dict[Any, Any] = {}
    equations: list[Any] = []

    def of(v: Any) -> Any:
        return v if isinstance(v, Literal) else names.get(v, v)

    for v, g in zip(jaxpr.invars, given, strict=True):
        names[v] = g
    for equation in jaxpr.eqns:
        inner = list(_inside(equation.params))
        operands = [of(v) for v in equation.invars]
        same = len(inner) == 1 and len(inner[0].invars) <= len(operands)
        if same and equation.primitive.name not in ("scan", "while", "cond"):
            own = operands[: len(inner[0].invars)]
            inside, results = _flat(inner[0], own)
            equations += inside
            names |= dict(zip(equation.outvars, results, strict=False))
        else:
            equations.append((equation, operands))
    return equations, [of(v) for v in jaxpr.outvars]


def _peak(jaxpr: Jaxpr) -> float:
    """The bytes of arrays in memory at the same time, in the order of the program; beside its
    arguments and results."""
    equations, outvars = _flat(jaxpr, list(jaxpr.invars))
    results = {v for v in outvars if not isinstance(v, Literal)}
    wanted = set(results)
    for equation, operands in equations:
        if not _is_pointwise(equation):
            wanted |= {v for v in operands if not isinstance(v, Literal)}
    roots: dict[Any, frozenset[Any]] = {}
    born: dict[Any, int] = {}
    last: dict[Any, int] = {}
    extra: dict[int, float] = {}
    for k, (equation, operands) in enumerate(equations):
        used: frozenset[Any] = frozenset().union(
            *(roots.get(v, frozenset((v,))) for v in operands if not isinstance(v, Literal))
        )
        for v in equation.outvars:
            if v in results and equation.primitive.name in COPIES:
                results |= used  # made in its place
            if v in wanted or not _is_pointwise(equation):
                roots[v], born[v] = frozenset((v,)), k
                last[v] = k
                last |= dict.fromkeys(used, k)
            else:
                roots[v] = used
        inner = list(_inside(equation.params))
        if inner:
            extra[k] = max(_peak(j) for j in inner)
    end = len(equations)
    change = [0.0] * (end + 2)
    for v, k in born.items():
        if v not in results:
            change[k] += _bytes(v)
            change[last[v] + 1] -= _bytes(v)
    alive, most = 0.0, 0.0
    for k in range(end + 1):
        alive += change[k]
        most = max(most, alive + extra.get(k, 0.0))
    return most


def gradient(
    function: Callable[..., Any],
    args: Sequence[Any],
    points: Sequence[int],
    plain: Callable[..., Any],
) -> Gradient | None:
    """Of the sum of squares; parameters are the arrays that the plain function closes over, and its
    other arguments."""
    closed, of_plain = (jax.make_jaxpr(lambda *x, f=f: f(*x))(*args) for f in (function, plain))
    own = set(map(id, _constants(of_plain)))
    inside = [id(x) in own and _is_inexact(x) for x in closed.consts]
    for k, arg in enumerate(args):
        inside += [k not in points and _is_inexact(x) for x in jax.tree.leaves(arg)]
    places = [k for k, moves in enumerate(inside) if moves]
    if not places:
        return None
    numbers = [*closed.consts, *jax.tree.leaves(args)]

    def value(moved: Sequence[Any], given: Sequence[Any]) -> list[Any]:
        all_ = list(given)
        for k, x in zip(places, moved, strict=True):
            all_[k] = x
        count = len(closed.consts)
        return list(jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, all_[:count]))(*all_[count:]))

    def residuals(*given: Any) -> list[Any]:
        _, back = jax.vjp(lambda *moved: value(moved, given), *[given[k] for k in places])
        return [leaf for leaf in jax.tree.leaves(back) if hasattr(leaf, "shape")]

    def step(*given: Any) -> Any:
        def loss(moved: Any) -> Any:
            return sum(jnp.sum(jnp.abs(y) ** 2) for y in value(moved, given))

        return jax.grad(loss)([given[k] for k in places])

    kept = _traced(residuals, numbers)
    found = {v for v in kept.outvars if not isinstance(v, Literal)}
    found -= {*kept.invars, *kept.constvars}
    return Gradient(sum(map(_bytes, found)), _peak(_traced(step, numbers)))


def _constants(closed: ClosedJaxpr) -> Iterator[Any]:
    """What a program closes over."""
    yield from closed.consts
    for equation in closed.jaxpr.eqns:
        for value in equation.params.values():
            if isinstance(value, ClosedJaxpr):
                yield from _constants(value)


def _is_inexact(x: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.inexact)


# ------------------------------------------------------------------ how fast the machine is


def rates(like: Any, fused: bool) -> Rates:
    """Those of the default device in the dtype of an array, measured once per process."""
    return _rates(jnp.dtype(like.dtype).name)


@lru_cache(maxsize=4)
def _rates(dtype: str) -> Rates:
    def seconds(function: Callable[[Any], Any], *shape: int) -> float:
        x = jnp.ones(shape, dtype)
        compiled = jax.jit(function).lower(x).compile()
        found: list[float] = []
        while len(found) < 12 or (sum(found) < 8e-3 and len(found) < 50):
            start = time.perf_counter()
            jax.block_until_ready(compiled(x))
            found.append(time.perf_counter() - start)
        return min(found)

    n, far, near = 512, 2**22, 2**16
    still = seconds(lambda x: x + 1, 2)  # a call
    width = jnp.dtype(dtype).itemsize
    return Rates(
        products=2 * n**3 / seconds(lambda x: x @ x, n, n),
        arithmetic=16 * near / max(seconds(_sums, near) - still, 1e-7),
        functions=near / max(seconds(jnp.tanh, near) - still, 1e-7),
        moved=2 * width * far / seconds(lambda x: x + 1.5, far),
        operation=1e-6,
        call=0.0,
        fused=True,
    )


def _sums(x: Any) -> Any:
    """Eight products and eight sums of every number."""
    y = x
    for _ in range(8):
        y = y * x + x
    return lax.abs(y)
