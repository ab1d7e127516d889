"""JAX's primitives: each of JAX's own test cases on jets, compared with nested jvp and differences.

The floating arguments of a case move along random curves in two parameters p, and all floating
results are differentiated: by three operators, of first to third order.
"""

from __future__ import annotations

import math
import re
import warnings
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import operators
from ..derivatives import derivatives
from ..warn import JetfoldWarning
from .jax_private import harnesses
from .rows import HOW, Row

a, b = operators.partials(2)
WEIGHTS = ((1.0, 2.0), (1.0, -3.0), (2.0, 1.0))
OPERATORS = tuple(c * a**k + d * b**k for k, (c, d) in enumerate(WEIGHTS, 1))

KEPT = ("float32", "float64", "complex64", "complex128")
"""Cases of these dtypes are run, all in double precision."""

DOMAINS = (None, (0.2, 0.8), (1.2, 2.0))
"""The arguments of a case as they are; random ones, where the function is not finite at those."""

HIGHEST = {"cholesky": 2, "eigh": 2, "svd": 2}
"""Where JAX's own third derivatives depend on the order in which it takes them.

Those of a matrix that is not Hermitian, for what reads one triangle, and of complex vectors, whose
phase nothing determines.
"""

MEANT = {"clamp": lambda *x: jax.lax.clamp(*jnp.broadcast_arrays(*x))}
"""The same function, where JAX has no derivatives of one as it is called: for the reference."""

QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""XLA's options: compiling is most of the work."""

STEP = 1e-3
"""Of differences, whose error is of order STEP⁴."""

FORNBERG = (
    ((-2, 1 / 12), (-1, -2 / 3), (1, 2 / 3), (2, -1 / 12)),
    ((-2, -1 / 12), (-1, 4 / 3), (0, -5 / 2), (1, 4 / 3), (2, -1 / 12)),
    ((-3, 1 / 8), (-2, -1), (-1, 13 / 8), (1, -13 / 8), (2, 1), (3, -1 / 8)),
)
"""(place, weight) of differences, first to third order."""


def rows(samples: int = 4, order: int = 3, only: Collection[str] = ()) -> Iterator[Row]:
    """Every primitive of JAX's own test cases, one after the other.

    Args:
        samples: cases of each primitive, at most: the smallest, and others spread over all.
        order: of the highest derivatives that are compared, up to 3.
        only: the names of the primitives wanted; all without it.
    """
    for name, cases in _cases(only).items():
        with jax.enable_x64(True), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            highest = min(order, HIGHEST.get(name, order))
            row = _row(name, _some(cases, samples), highest)
        yield row


def _cases(only: Collection[str]) -> dict[str, list[Any]]:
    """The cases by primitive; of those that differ in precision alone, one."""
    found: dict[str, dict[str, Any]] = {}
    for case in harnesses():
        kept = np.dtype(case.dtype).name in KEPT and case.filter("cpu")
        if kept and (not only or case.group_name in only):
            name = re.sub(r"(float|complex)(32|64|128)", r"\1", case.fullname)
            found.setdefault(case.group_name, {}).setdefault(name, case)
    return {name: list(found[name].values()) for name in sorted(found)}


def _some(cases: Sequence[Any], count: int) -> list[Any]:
    """The smallest case, and others spread over all."""
    first = min(cases, key=_size)
    rest = [case for case in cases if case is not first]
    step = max(len(rest) / max(count - 1, 1), 1)
    return [first, *(rest[int(k * step)] for k in range(min(count - 1, len(rest))))]


def _size(case: Any) -> float:
    """How many numbers its arguments are; one of none says nothing."""
    shapes = [x.shape for x in case.arg_descriptors if hasattr(x, "shape")]
    shapes += [case.params["shape"]] if "shape" in case.params else []
    return sum(map(math.prod, shapes)) or math.inf


class Outcome(NamedTuple):
    """How one case fared."""

    how: str
    order: int = 0
    note: str = ""


def _row(name: str, cases: Sequence[Any], order: int) -> Row:
    outcomes = [found for case in cases if (found := _outcome(case, order)) is not None]
    known = [found for found in outcomes if found.how != "not differentiable"]
    if not known:
        return Row(name, "not differentiable", 0, outcomes[0].note if outcomes else "")
    ranks = list(HOW)
    worst = max(known, key=lambda found: ranks.index(found.how))
    same = [found for found in known if found.how == worst.how]
    note = next((found.note for found in same if found.note), "")
    if len(same) < len(known):
        note = f"{len(same)} of {len(known)} cases{': ' * bool(note)}{note}"
    return Row(name, worst.how, min(found.order for found in same), note)


# ------------------------------------------------------------------ one case


class Path(NamedTuple):
    """A case along random curves.

    Attributes:
        function: from p, two parameters, to all floating results as one vector.
        meant: the same, for JAX to differentiate.
        tolerance: what counts as rounding.
    """

    function: Callable[[Any], Any]
    meant: Callable[[Any], Any]
    tolerance: float


ORIGIN = np.array([0.011, -0.017])


def _outcome(case: Any, order: int) -> Outcome | None:
    """How a case fares; None where nothing in it can be differentiated, or not here."""
    found = None
    for domain in DOMAINS:
        path = _path(case, domain)
        if path is None:
            return found
        found = _compared(path, order)
        if found is not None:
            return found
    return Outcome("not differentiable", note="no finite derivatives")


def _path(case: Any, domain: tuple[float, float] | None) -> Path | None:
    """The case along curves; None where no argument or no result is floating."""
    seed = zlib.crc32(case.fullname.encode()) % 2**31
    given, generator = case.dyn_args_maker(np.random.RandomState(seed)), np.random.default_rng(seed)
    for wide in (True, False):  # some cases hold single numbers that cannot be had wider
        arguments = [_as(x, wide) for x in given]
        moving = [k for k, x in enumerate(arguments) if _is_inexact(x)]
        if domain is not None:
            for k in moving:
                shape, dtype = np.shape(arguments[k]), arguments[k].dtype
                arguments[k] = generator.uniform(*domain, shape).astype(dtype)
        curves = {k: [_normal(generator, arguments[k]) for _ in range(3)] for k in moving}

        def of(call: Any, arguments: Any, curves: Any, p: Any) -> Any:
            filled = list(arguments)
            for k, (u, v, w) in curves.items():
                moved = p[0] * u + p[1] * v + p[0] * p[0] * w
                filled[k] = filled[k] + moved.astype(filled[k].dtype)
            results = [y for y in jax.tree.leaves(call(*filled)) if _is_inexact(y)]
            parts = [part for y in results for part in _real(y)]
            return jnp.concatenate(parts) if parts else jnp.zeros(0)

        function, meant = (
            partial(of, call, arguments, curves)
            for call in (case.dyn_fun, MEANT.get(case.group_name, case.dyn_fun))
        )
        try:
            described = jax.eval_shape(function, ORIGIN)
        except TypeError:
            continue
        except Exception:  # none that JAX itself takes
            return None
        if not moving or not described.shape[0]:
            return None
        narrow = any(
            y.dtype.itemsize < 4 for y in jax.tree.leaves(jax.eval_shape(case.dyn_fun, *arguments))
        )
        return Path(function, meant, 3e-2 if narrow else 1e-7 if wide else 1e-3)
    return None


def _as(x: Any, wide: bool) -> Any:
    """An argument in double precision, if it is floating."""
    if not _is_inexact(x):
        return x
    kind = np.complex128 if np.iscomplexobj(x) else np.float64
    return np.asarray(x).astype(kind) if wide else np.asarray(x)


def _is_inexact(x: Any) -> bool:
    return hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.inexact)


def _normal(generator: np.random.Generator, x: Any) -> Any:
    """A direction for an argument."""
    drawn = generator.standard_normal(np.shape(x))
    return drawn + 1j * generator.standard_normal(np.shape(x)) if np.iscomplexobj(x) else drawn


def _real(y: Any) -> list[Any]:
    """A result as vectors of real numbers."""
    parts = (y.real, y.imag) if jnp.iscomplexobj(y) else (y,)
    return [jnp.ravel(part).astype(float) for part in parts]


# ------------------------------------------------------------------ what is expected


def _compared(path: Path, order: int) -> Outcome | None:
    """Jets against nested jvp, and where JAX has none or is wrong against differences."""
    evaluate, how, order, error = _ours(path, order)
    if evaluate is None:
        return _failed(error, path)
    expected, reached = _nested(path, order)
    both = jax.jit(lambda p: (evaluate(p), expected(p)), compiler_options=QUICKLY)
    found, exact = both(ORIGIN)
    pairs = [*zip(found[:reached], exact, strict=True)]
    if pairs and not any(np.isfinite(y).any() for _, y in pairs):
        return None
    if pairs and all(_close(x, y, path.tolerance) for x, y in pairs):
        return Outcome(how, reached, "" if reached == order else f"to order {reached} in JAX")
    differences = _differences(path, order)
    known = any(np.isfinite(y).any() for y in differences)
    if known and all(
        _close(x, y, max(1e-5, 10 * path.tolerance))
        for x, y in zip(found, differences, strict=True)
    ):
        other = "JAX's own derivatives differ" if pairs else "JAX has no derivatives of it"
        return Outcome(how, order, f"{other}; by differences")
    if not pairs and not known:
        return None
    return Outcome("wrong", 0, f"errors {[float(np.abs(x - y).max()) for x, y in pairs]}")


def _ours(path: Path, order: int) -> tuple[Callable[[Any], Any] | None, str, int, Exception | None]:
    """The derivatives by jets, as far as they go; how they are made; an error."""
    for highest in range(order, 0, -1):

        def evaluate(p: Any, highest: int = highest) -> Any:
            return list(derivatives(OPERATORS[:highest])(path.function)(p))

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                jax.eval_shape(evaluate, ORIGIN)
            except Exception as raised:
                error = raised
                continue
        general = any(issubclass(w.category, JetfoldWarning) for w in caught)
        return evaluate, "general" if general else "own", highest, None
    return None, "", 0, error


def _failed(error: Exception | None, path: Path) -> Outcome:
    """Refused in words, or not; that JAX has no derivative either is no fault."""
    text = " ".join(str(error).split())
    worded = isinstance(error, (NotImplementedError, TypeError, ValueError))
    if not _nested(path, 1)[1]:
        return Outcome("not differentiable" if worded else "wrong", note=text[:200])
    return Outcome("refused" if worded else "wrong", note=text[:200])


def _nested(path: Path, order: int) -> tuple[Callable[[Any], list[Any]], int]:
    """The same derivatives by nested jax.jvp, and the order to which JAX has them."""

    def up_to(k: int, v: Any) -> Callable[[Any], list[Any]]:
        """The value and the derivatives along v."""
        if k == 0:
            return lambda p: [path.meant(p)]

        def pushed(p: Any) -> list[Any]:
            values, tangents = jax.jvp(up_to(k - 1, v), (p,), (v,))
            return [*values, tangents[-1]]

        return pushed

    def at_once(p: Any, k: int) -> list[Any]:
        return jax.vmap(lambda v: up_to(k, v)(p))(jnp.eye(2))

    def one_by_one(p: Any, k: int) -> list[Any]:
        pairs = zip(*(up_to(k, e)(p) for e in jnp.eye(2)), strict=True)
        return [jnp.stack(pair) for pair in pairs]

    for reached in range(order, 0, -1):
        for along in (at_once, one_by_one):  # not every primitive can be mapped
            try:
                jax.eval_shape(partial(along, k=reached), ORIGIN)
            except Exception:
                continue

            def expected(p: Any, along: Any = along, reached: int = reached) -> list[Any]:
                found = along(p, reached)[1:]
                return [c * y[0] + d * y[1] for (c, d), y in zip(WEIGHTS, found, strict=False)]

            return expected, reached
    return lambda p: [], 0


def _differences(path: Path, order: int) -> list[Any]:
    """Every derivative by central differences of values, the weights of Fornberg (1988).

    NaN where they have not converged, as beside a kink.
    """
    function = jax.jit(path.function, compiler_options=QUICKLY)

    def along(k: int, step: float) -> Any:
        total: Any = 0.0
        for c, e in zip(WEIGHTS[k - 1], np.eye(2), strict=True):
            for n, w in FORNBERG[k - 1]:
                total = total + c * w * np.asarray(function(ORIGIN + n * step * e)) / step**k
        return total

    found = []
    for k in range(1, order + 1):
        coarse, fine = (along(k, STEP * 4 ** (k - 1) / n) for n in (1, 2))
        steady = np.abs(coarse - fine) <= 1e-5 * np.maximum(1.0, np.abs(fine))
        found.append(np.where(steady, fine, np.nan))
    return found


def _close(x: Any, y: Any, tolerance: float) -> bool:
    """Equal to rounding wherever the expected entries are finite."""
    x, y = np.asarray(x), np.asarray(y)
    finite = np.isfinite(y)
    if not finite.any():
        return True
    scale = max(1.0, float(np.abs(y[finite]).max()))
    with np.errstate(invalid="ignore"):
        return bool(np.abs(x[finite] - y[finite]).max() <= tolerance * scale)
