"""What a `Spec` stands for: its operator, its network and its points, on a backend.

Tables, to be added to: an operator or a kind of network that has a name here can be measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ..core import plans
from ..core.directions import scheme
from ..core.symbols import flat
from ..explain import predict
from ..frameworks import frontend_of
from ..named import biharmonic, laplacian, weighted_laplacian
from ..operators import partials
from ..randomized import Randomized, draw, randomize
from ..transform import METHODS, Transform
from . import references
from .backends import PEERS, Backend, Powers
from .kinds import KINDS, network
from .networks import HIDDEN, Layer, mlp
from .results import Spec
from .suite import TOLERANCE

POINTS = 8
"""At how many points of the batch, at most, values are compared with float64."""

Array = Callable[[np.ndarray], Any]
"""From numpy to the framework, in the dtype that is evaluated."""

Apply = Callable[[Any, Any], Any]
"""(parameters, points) -> Float[points, outputs]."""


# ------------------------------------------------------------------ operators


def increments(dimension: int) -> np.ndarray:
    """σ of full rank with σσᵀ = diag(1, 2, …, D), as in Dangel et al. 2025."""
    return np.diag(np.sqrt(np.arange(1.0, dimension + 1)))


OPERATORS: dict[str, Callable[[Spec, Array], Transform]] = {
    "laplacian": lambda spec, array: laplacian,
    "weighted-laplacian": lambda spec, array: weighted_laplacian(
        sigma=array(increments(spec.dimension))
    ),
    "biharmonic": lambda spec, array: biharmonic,
    "laplacian^k": lambda spec, array: laplacian ** (_order(spec) // 2),
    "d_x^k": lambda spec, array: partials(1)[0] ** _order(spec),
}
"""By name: the operator. `Spec.samples` and `Spec.chunk` are seen to elsewhere."""


def _order(spec: Spec) -> int:
    if spec.order is None or (spec.operator == "laplacian^k" and spec.order % 2):
        raise ValueError(f"{spec.operator} needs an order, an even one for Δᵏ; got {spec.order}")
    return spec.order


def operator_of(spec: Spec, array: Array) -> Transform:
    """The operator of a spec, or its estimate from Gaussian directions, shared by all points."""
    found = OPERATORS[spec.operator](spec, array)
    return found if spec.samples is None else randomize(found, spec.samples, "gaussian")


def carried(operator: Transform, dimension: int, method: str) -> int | None:
    """How many vectors each node carries; None for nested differentiation and peers."""
    if isinstance(operator, Randomized):
        if not random(operator, dimension, method):
            return carried(operator.base, dimension, method)
        symbols = operator.estimator(dimension).symbols
    else:
        symbols = flat(operator.symbols.at(operator.variables(dimension)))
    if method not in METHODS or method == "nested":
        return None
    return scheme(symbols, method).algebra.vectors


def random(operator: Transform, dimension: int, method: str) -> bool:
    """Whether directions are drawn: not where the exact operator is as cheap."""
    if not isinstance(operator, Randomized):
        return False
    inner = operator.base.variables(dimension)
    return plans.sources(operator.symbols, inner, method) is not None


# ------------------------------------------------------------------ networks


SMALL = (16, 16)
"""The hidden widths of the network that mpmath differentiates too."""


def layers_of(spec: Spec) -> list[Layer]:
    """Of the paper's MLP, or one with other widths or another depth (all of the first width)."""
    if spec.network == "small":
        return mlp(spec.dimension, 1.0, spec.seed, SMALL)
    hidden = HIDDEN if spec.depth is None else HIDDEN[:1] * spec.depth
    return mlp(spec.dimension, spec.width, spec.seed, hidden)


def _mlp(spec: Spec, backend: Backend, dtype: str) -> tuple[Any, Apply]:
    return backend.trainable(layers_of(spec), dtype)


def _kind(spec: Spec, backend: Backend, dtype: str) -> tuple[Any, Apply]:
    return network(
        spec.network,
        spec.dimension,
        backend,
        dtype,
        factor=spec.width,
        seed=spec.seed,
        for_nested=spec.method == "nested",
    )


NETWORKS: dict[str, Callable[[Spec, Backend, str], tuple[Any, Apply]]] = {
    "mlp": _mlp,
    "small": _mlp,
    **dict.fromkeys(KINDS, _kind),
}
"""By kind: its parameters in a dtype, and the network. Numbers are the same in every dtype."""


def points_of(spec: Spec, batch: int | None = None) -> np.ndarray:
    """Float[batch, D]; those of a smaller batch are the first of a larger one."""
    rng = np.random.default_rng(spec.seed + 1)
    return rng.normal(size=(batch or spec.batch, spec.dimension)).astype(np.float32)


# ------------------------------------------------------------------ ready to be called


@dataclass(frozen=True)
class Prepared:
    """What is measured.

    Attributes:
        function: (parameters, points) -> values.
        network: (parameters, points) -> outputs: what the limit is a forward pass of.
        parameters, points: the arguments.
        vectors: how many coefficients every node carries, at a time.
        passes: how often so many pass through the network.
    """

    function: Apply
    network: Apply
    parameters: Any
    points: Any
    vectors: int | None
    passes: int = 1


def prepare(spec: Spec, backend: Backend, dtype: str | None = None) -> Prepared:
    """A spec on a backend.

    Args:
        dtype: other than the backend's.

    Raises:
        ValueError: a name that is not in the tables; the peer has no such operator.
    """
    dtype = dtype or backend.dtype
    for kind, name, table in (
        ("operator", spec.operator, OPERATORS),
        ("network", spec.network, NETWORKS),
        ("method", spec.method, (*METHODS, *PEERS)),
    ):
        if name not in table:
            raise ValueError(f"{kind} must be one of {', '.join(table)}; got {name!r}")

    def array(values: np.ndarray) -> Any:
        return backend.array(values, dtype)

    parameters, network = NETWORKS[spec.network](spec, backend, dtype)
    operator = operator_of(spec, array)
    at_a_time = min(spec.chunk or spec.dimension, spec.dimension)
    return Prepared(
        _function(spec, backend, operator, network),
        network,
        parameters,
        array(points_of(spec)),
        carried(operator, at_a_time, spec.method),
        -(-spec.dimension // at_a_time),
    )


def _function(spec: Spec, backend: Backend, operator: Transform, network: Apply) -> Apply:
    """By one of our methods, or by a peer."""
    if spec.method in PEERS:

        def by_peer(parameters: Any, x: Any) -> Any:
            found = backend.peer(spec.method, spec.operator, None, lambda p: network(parameters, p))
            if found is None:
                raise ValueError(f"{spec.method} has no {spec.operator}")
            return found(x)

        return by_peer

    options, given = _options(spec), _drawing(spec, backend)

    def of_points(parameters: Any, x: Any) -> Any:
        def f(p: Any) -> Any:
            return network(parameters, p)

        return operator(f, **options)(x, **given)

    return of_points


def _options(spec: Spec) -> dict[str, Any]:
    chunk = {} if spec.chunk is None else {"chunk_size": spec.chunk}
    return {"batch_dims": 1, "method": spec.method, **chunk}


def _drawing(spec: Spec, backend: Backend) -> dict[str, Any]:
    return {} if spec.samples is None else {"rng": backend.seeded(spec.seed)}


def predicted(spec: Spec, backend: Backend, prepared: Prepared) -> dict[str, float]:
    """What `explain.predict` says before it is run; nothing of peers, and where it cannot."""
    if spec.method in PEERS:
        return {}
    found = predict(
        operator_of(spec, backend.array),
        partial(prepared.network, prepared.parameters),
        prepared.points,
        compiled=spec.mode == "compiled",
        **_options(spec),
        **_drawing(spec, backend),
    )
    return found.cell()


# ------------------------------------------------------------------ what is exact


def exactly(spec: Spec) -> Spec:
    """What the exact values depend on: specs with the same have the same."""
    operator = operator_of(spec, np.asarray)
    drawn = random(operator, spec.dimension, spec.method)
    return replace(
        spec,
        experiment="",
        mode="",
        method="",
        variable="",
        batch=min(spec.batch, POINTS),
        samples=spec.samples if drawn else None,
        chunk=None,
    )


def exact(spec: Spec, backend: Backend) -> np.ndarray:
    """Nested differentiation in float64 at the first points, Float[≤ POINTS, …].

    Of an estimate, that of the directions which it draws: Σ_s w_s (v_s·∂)^K by the framework alone.
    """
    few = points_of(spec)[:POINTS]
    operator = operator_of(spec, backend.array)
    with backend.doubles():
        otherwise = _otherwise(spec, backend, few)
        if otherwise is not None:
            return otherwise
        made = NETWORKS[spec.network](replace(spec, method="nested"), backend, "float64")
        parameters, network = made
        x = backend.array(few, "float64")

        def f(p: Any) -> Any:
            return network(parameters, p)

        def array(values: np.ndarray) -> Any:
            return backend.array(values, "float64")

        if isinstance(operator, Randomized) and random(operator, spec.dimension, spec.method):
            function = backend.nested_jvp(drawn(operator, spec, backend), f, "float64")
        else:
            base = OPERATORS[spec.operator](spec, array)
            function = base(f, batch_dims=1, method="nested")
        return backend.numpy(function(x))


MANY = 300
"""Above so many dimensions, nested differentiation is told what the first layer is."""


def _otherwise(spec: Spec, backend: Backend, points: np.ndarray) -> np.ndarray | None:
    """What is exact without nesting as many derivatives as the operator has; None elsewhere."""
    if spec.network in ("ripple", "small"):
        small = spec.network == "small"
        function = references.tanh_mlp(layers_of(spec)) if small else references.ripple
        return references.differences(spec.operator, function, _order(spec), points)
    if spec.network == "mlp" and spec.operator == "d_x^k":
        return references.on_a_circle(layers_of(spec), _order(spec), points)
    if spec.network == "mlp" and spec.operator == "laplacian" and spec.dimension > MANY:
        return references.laplacian_of_mlp(layers_of(spec), points, backend)
    return None


TOLERANCES: Mapping[str, Mapping[str, float]] = {
    "error": {"float32": 1e-2, "float64": 1e-9},  # it is what is asked there
    "psiformer": {"float32": 1e-3, "float64": 1e-9},  # nodes of ψ may be near: `vmc.TOLERANCE`
}
"""By experiment or network: the largest relative errors that pass, where not `suite.TOLERANCE`."""


def tolerance(spec: Spec) -> float:
    """The largest relative error that is no wrong value: half a digit more for two orders more."""
    found = TOLERANCES.get(spec.experiment) or TOLERANCES.get(spec.network)
    if found is not None:
        return found[spec.dtype]
    order = spec.order or (4 if spec.operator == "biharmonic" else 2)
    return float(TOLERANCE[spec.dtype] * 10 ** (max(0, order - 2) / 4))


def drawn(operator: Randomized, spec: Spec, backend: Backend) -> Powers:
    """The directions of an estimate: E[(v·ξ)²] = |ξ|², E[(v·ξ)⁴] = 3|ξ|⁴ (and σv for v)."""
    points = backend.array(points_of(spec, 1))
    frontend = frontend_of(points)
    inner = operator.base.variables(spec.dimension)
    sources = plans.sources(operator.symbols, inner, spec.method)
    assert sources is not None, "the exact operator is evaluated"
    rng = backend.seeded(spec.seed)
    directions = backend.numpy(draw(sources, frontend, points, (), rng))
    order = flat(operator.base.symbols.at(inner))[0].degree
    if spec.operator == "weighted-laplacian":
        directions = directions @ increments(spec.dimension).T
    moment = {2: 1, 4: 3, 6: 15}[order]
    weights = np.full(len(directions), 1 / (moment * len(directions)))
    return Powers(directions, weights, order)
