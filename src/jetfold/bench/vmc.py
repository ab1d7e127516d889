"""What variational Monte Carlo evaluates at every step: log|ψ|, its gradient and its Laplacian."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..derivatives import derivatives
from ..jax.pieces import at_once
from ..named import gradient, laplacian, value
from .jax import Jax, temporary
from .measure import Outcome, Timing, inexact, once
from .suite import check_known, failure, timed, waited
from .wavefunctions.ferminet import FermiNet
from .wavefunctions.lapnet import LapNet
from .wavefunctions.molecule import Molecule, diatomic
from .wavefunctions.psiformer import Psiformer

Function = Callable[[Any], Any]
"""Of the electrons of one walker, Float[n, 3]."""

NETWORKS: Mapping[str, tuple[str, Callable[..., Any]]] = {
    "ferminet": ("FermiNet", FermiNet),
    "psiformer": ("Psiformer", Psiformer),
    "lapnet": ("LapNet", LapNet),
}
"""By name: the label, and the class of the module, all with streams of `STREAM` numbers."""

STREAM, HEADS = 64, 4

REFERENCE_WALKERS = 2
"""How many walkers are compared with float64."""

TOLERANCE = {"float32": 1e-2, "float64": 1e-9}
"""The largest relative error that passes. Every determinant of n random orbitals magnifies the
rounding of its entries by its condition number, 10⁴ at 32 electrons."""

SWEEPS, STEP = 100, 0.1
"""Of the walkers, before anything is measured: Metropolis steps, and their length in bohr."""


# ------------------------------------------------------------------ the methods


def forward(log: Function) -> Function:
    """The plain forward pass."""
    return lambda x: {"value": log(x)}


def nested(log: Function, unroll: int = 1) -> Function:
    """A scan of Hessian-vector products over the coordinates, forward over reverse."""

    def of_walker(x: Any) -> dict[str, Any]:
        def flat(r: Any) -> Any:
            return log(r.reshape(x.shape))

        slope, hessian_times = jax.linearize(jax.grad(flat), x.reshape(-1))

        def add(total: Any, e: Any) -> tuple[Any, None]:
            return total + e @ hessian_times(e), None

        axes = jnp.eye(x.size, dtype=x.dtype)
        trace, _ = jax.lax.scan(add, jnp.zeros((), x.dtype), axes, unroll=unroll)
        return {"value": log(x), "gradient": slope.reshape(x.shape), "laplacian": trace}

    return of_walker


def _folx(sparsity_threshold: int) -> Callable[[Function], Function]:
    """folx; below the threshold it keeps Jacobians dense, 0 always."""

    def method(log: Function) -> Function:
        from folx import forward_laplacian

        propagated = forward_laplacian(log, sparsity_threshold=sparsity_threshold)

        def of_walker(x: Any) -> dict[str, Any]:
            out = propagated(x)
            slope = out.jacobian.dense_array.reshape(x.shape)
            return {"value": out.x, "gradient": slope, "laplacian": out.laplacian}

        return of_walker

    return method


def _jetfold(structure: bool) -> Callable[[Function], Function]:
    """All three in one propagation, with known zeros left out or carried."""
    wanted = derivatives({"value": value, "gradient": gradient, "laplacian": laplacian})
    return lambda log: wanted(log, structure=structure)


METHODS: Mapping[str, Callable[[Function], Function]] = {
    "forward": forward,
    "nested": nested,
    "folx": _folx(0),
    "folx-sparse": _folx(6),  # the threshold of its documentation
    "dense": _jetfold(False),
    "structured": _jetfold(True),
}
"""By name: from log|ψ| of one walker to the function of one walker that is measured."""

PEERS = ("folx", "folx-sparse")


# ------------------------------------------------------------------ settings and rows


@dataclass(frozen=True)
class Settings:
    """What to measure.

    Attributes:
        electrons: even numbers, shared by two equal nuclei.
        walkers: how many sets of electrons are evaluated at once.
        width: a factor for the widths of the networks.
        budget: seconds of timing per network and number of electrons.
        repeats: the exact number of timed calls, instead of the budget.
    """

    networks: Sequence[str] = tuple(NETWORKS)
    electrons: Sequence[int] = (4, 16)
    methods: Sequence[str] = tuple(METHODS)
    walkers: int = 8
    width: float = 1.0
    budget: float = 3.0
    repeats: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_known("networks", self.networks, tuple(NETWORKS))
        check_known("methods of --suite vmc", self.methods, tuple(METHODS))
        if not self.electrons:
            raise ValueError("electrons must be even numbers, as 4,8,16; got none")
        for number in self.electrons:
            diatomic(number)  # refuses odd numbers
        for name in ("walkers", "repeats"):
            given = getattr(self, name)
            if given is not None and given < 1:
                raise ValueError(f"{name} must be at least 1, got {given}")
        if self.width <= 0 or self.budget < 0:
            raise ValueError("width must be positive and budget not negative")

    @property
    def batch(self) -> int:
        """The walkers, under the name that the other measurements have for points."""
        return self.walkers

    @property
    def stream(self) -> int:
        """How wide the streams of the electrons are: a multiple of the heads of attention."""
        return HEADS * max(1, round(STREAM * self.width / HEADS))

    @property
    def steps(self) -> int:
        """How many things are prepared or timed: the length of a progress bar."""
        return len(self.networks) * len(self.electrons) * (len(self.methods) + 2)


def defaults(backend: Any) -> dict[str, Any]:
    """Settings that depend on what is installed: folx is measured if it is there."""
    return {"methods": tuple(m for m in METHODS if m not in PEERS or find_spec("folx"))}


@dataclass(frozen=True)
class Row:
    """One method on one network with so many electrons.

    Attributes:
        time: seconds per evaluation of all walkers.
        speedup: of the fastest call, against that of nested differentiation.
        over_forward: of the fastest call, time / time of the plain forward pass.
        compile_s: to trace, lower and compile.
        temporary: bytes beside arguments and results, as the compiler plans them.
        operations: floating-point operations as XLA counts them; None where it cannot.
        gradient_error, laplacian_error: largest |error| / largest |value|, against nested
            differentiation in float64, at the first walkers; None for the forward pass.
    """

    network: str
    label: str
    electrons: int
    method: str
    time: Timing
    speedup: float | None
    over_forward: float | None
    compile_s: float
    temporary: int | None
    operations: float | None
    gradient_error: float | None
    laplacian_error: float | None

    def problem(self, dtype: str) -> str:
        """Why the values are wrong, else "". (Not a number is wrong too.)"""
        errors = {"gradient": self.gradient_error, "Laplacian": self.laplacian_error}
        row = f"{self.label}, {self.electrons} electrons, {self.method}"
        found = [inexact(row, error, TOLERANCE[dtype], dtype, of) for of, error in errors.items()]
        return next(filter(None, found), "")


def run(
    settings: Settings,
    backend: Jax,
    advance: Callable[[str, int], object] = lambda text, steps: None,
) -> Outcome[Row]:
    """Measure everything.

    Args:
        advance: called with what happens next and with the number of steps just completed.
    """
    rows: list[Row] = []
    failures: list[str] = []
    # A VMC code runs in float32 as JAX is by default: without 64-bit integers beside it.
    wide = backend.inference() if backend.dtype == "float64" else nullcontext()
    with wide:
        for name in settings.networks:
            for electrons in settings.electrons:
                found, failed = _measure(name, electrons, settings, backend, advance)
                rows += found
                failures += failed
                backend.forget()
    return Outcome(tuple(rows), tuple(failures))


# ------------------------------------------------------------------ measuring


@dataclass(frozen=True)
class _Wave:
    """A wave function, and walkers that were sampled from it, in a dtype.

    Parameters are arguments of what is compiled, as in a training loop: as constants they would be
    folded into it.
    """

    network: Any
    parameters: Any
    walkers: Any

    @property
    def arguments(self) -> tuple[Any, Any]:
        return self.parameters, self.walkers

    def log(self, parameters: Any, x: Any) -> Any:
        """log|ψ| of one walker."""
        return self.network.apply(parameters, x)[1]

    def on(self, backend: Jax, dtype: str | None = None, walkers: int | None = None) -> _Wave:
        """The same with arrays of the backend, at the first walkers."""
        arrays = self.parameters, self.walkers[:walkers]
        moved = jax.tree.map(lambda leaf: backend.array(np.asarray(leaf), dtype), arrays)
        return _Wave(self.network, *moved)


def _measure(
    name: str,
    electrons: int,
    settings: Settings,
    backend: Jax,
    advance: Callable[[str, int], object],
) -> tuple[list[Row], list[str]]:
    """All methods on one network, taking turns."""
    label = NETWORKS[name][0]
    title = f"{label}, {electrons} electrons"
    advance(f"{title}: walkers", 0)
    wave = _wave(name, electrons, settings)
    exact = _reference(wave, backend)
    wave = wave.on(backend)
    advance(f"{title}: walkers", 1)

    programs: dict[str, Any] = {}
    calls: dict[str, Callable[[], object]] = {}
    compile_s: dict[str, float] = {}
    operations: dict[str, float | None] = {}
    errors: dict[str, dict[str, float]] = {}
    failures = []
    for method in settings.methods:
        advance(f"{title}: {method}", 0)
        backend.forget()  # what another method has traced would shorten the compilation
        try:
            seconds, program = once(partial(compiled, METHODS[method], wave))
            call = waited(backend, program, *wave.arguments)
            found = call()
            operations[method] = counted(program)
            if operations[method] is None and method in ("dense", "structured"):
                with at_once():  # the loop over walkers takes them a few at a time
                    operations[method] = counted(compiled(METHODS[method], wave))
            if method == "nested":
                operations[method] = _of_nested(wave, program)
        except Exception as error:  # one that fails to compile must not cost the other results
            failures.append(failure(f"{title}, {method}", error))
        else:
            programs[method], calls[method], compile_s[method] = program, call, seconds
            errors[method] = {
                key: _relative(backend.numpy(part)[: len(exact[key])], exact[key])
                for key, part in found.items()
            }
        advance(f"{title}: {method}", 1)

    advance(f"{title}: timing", 0)
    timings = timed(calls, settings.budget, settings.repeats)
    advance(f"{title}: timing", 1)

    rows = [
        Row(
            network=name,
            label=label,
            electrons=electrons,
            method=method,
            time=timing,
            speedup=_ratio(timings.get("nested"), timing),
            over_forward=_ratio(timing, timings.get("forward")),
            compile_s=compile_s[method],
            temporary=temporary(programs[method]),
            operations=operations[method],
            gradient_error=errors[method].get("gradient"),
            laplacian_error=errors[method].get("laplacian"),
        )
        for method, timing in timings.items()
    ]
    return rows, failures


def _ratio(a: Timing | None, b: Timing | None) -> float | None:
    return None if a is None or b is None else a.minimum / b.minimum


def _relative(found: np.ndarray, exact: np.ndarray) -> float:
    return float(np.abs(found - exact).max() / np.abs(exact).max())


def lowered(method: Callable[[Function], Function], wave: _Wave) -> Any:
    """The program of all walkers, traced and lowered."""

    def of_walker(parameters: Any, x: Any) -> Any:
        return method(partial(wave.log, parameters))(x)

    return jax.jit(jax.vmap(of_walker, (None, 0))).lower(*wave.arguments)


def compiled(method: Callable[[Function], Function], wave: _Wave) -> Any:
    """The same, compiled."""
    return lowered(method, wave).compile()


LOOP = re.compile(r"= \([^)\n]*\b(?:f|bf|c)\d+\[.*? while\(")
"""A loop that carries floating-point numbers. (The one over pivots carries integers.)"""


def counted(program: Any) -> float | None:
    """The floating-point operations of a compiled program; None if it repeats some in a loop.

    XLA counts the body of a loop once, whatever the number of its turns.
    """
    return None if LOOP.search(program.as_text()) else _flops(program)


def _of_nested(wave: _Wave, program: Any) -> float:
    """Those of the scan: what two turns in one body have more than one turn is one turn.

    The turn is counted before XLA optimises it: compiling it for that takes too long.
    """
    turns = wave.walkers[0].size  # 3 n is even, as n is
    one, two = (_flops(lowered(partial(nested, unroll=k), wave)) for k in (1, 2))
    turn = two - one
    return _flops(program) + (turns - 1) * turn


def _flops(program: Any) -> float:
    analysis = program.cost_analysis()
    return float((analysis[0] if isinstance(analysis, list) else analysis)["flops"])


# ------------------------------------------------------------------ wave function and walkers


def _wave(name: str, electrons: int, settings: Settings) -> _Wave:
    """A network as flax initialises it, and walkers drawn from |ψ|², as VMC draws them.

    The nodes of ψ, where its determinants are singular and the Laplacian of log|ψ| is infinite,
    are thereby avoided: near them nobody has digits in float32.
    """
    molecule = diatomic(electrons)
    network = NETWORKS[name][1](molecule, width=settings.stream)
    start, first, chain = jax.random.split(jax.random.key(settings.seed), 3)
    walkers = _around_nuclei(molecule, settings.walkers, start)
    parameters = jax.jit(network.init)(first, walkers[0])

    return _sampled(_Wave(network, parameters, walkers), chain)


def _around_nuclei(molecule: Molecule, walkers: int, key: Any) -> Any:
    """Standard Gaussians, as many electrons of each spin at one nucleus as at the other."""
    n = molecule.electrons
    homes = jnp.asarray(molecule.nuclei)[jnp.arange(n) % len(molecule.nuclei)]
    return homes + jax.random.normal(key, (walkers, n, 3), jnp.float32)


def _sampled(wave: _Wave, key: Any) -> _Wave:
    """After `SWEEPS` Metropolis steps of all electrons; density |ψ|²."""
    logs = jax.vmap(wave.log, (None, 0))

    @jax.jit
    def chain(parameters: Any, x: Any) -> Any:
        def step(state: tuple[Any, Any], key: Any) -> tuple[tuple[Any, Any], None]:
            x, of_x = state
            move, accept = jax.random.split(key)
            y = x + STEP * jax.random.normal(move, x.shape, x.dtype)
            of_y = logs(parameters, y)
            taken = jnp.log(jax.random.uniform(accept, of_x.shape)) < 2 * (of_y - of_x)
            kept = jnp.where(taken[:, None, None], y, x), jnp.where(taken, of_y, of_x)
            return kept, None

        start = x, logs(parameters, x)
        return jax.lax.scan(step, start, jax.random.split(key, SWEEPS))[0][0]

    return _Wave(wave.network, wave.parameters, chain(*wave.arguments))


def _reference(wave: _Wave, backend: Jax) -> dict[str, np.ndarray]:
    """Nested differentiation in float64 at the first walkers."""
    with backend.inference():
        wide = wave.on(backend, "float64", REFERENCE_WALKERS)
        found = compiled(nested, wide)(*wide.arguments)
        return {key: backend.numpy(part) for key, part in found.items()}
