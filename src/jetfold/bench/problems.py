"""What is differentiated in `training`: two operators that have names, and three equations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

from ..core.polynomial import Polynomial
from ..derivatives import derivatives
from ..explain import explain
from ..named import biharmonic, laplacian, value
from ..operators import Operator, partials
from ..transform import Transform
from .backends import Along, Backend

LIMIT = "limit"
"""The same step of the plain network on batch × vectors rows, the vectors of `minimal`."""

COMBINED = "combined"
"""`minimal`, all that is linear in an equation being one operator."""

METHODS = (LIMIT, "nested", "collapsed", "minimal", COMBINED, "folx")

Network = Callable[[Any], Any]

Residuals = Callable[[Network, Any], Sequence[Any]]
"""(network, points) -> arrays whose mean squares are added: the loss."""


@dataclass(frozen=True)
class Named:
    """An operator that has a name, of one output."""

    label: str
    operator: Transform
    order: int
    outputs = 1
    methods = tuple([method for method in METHODS if method != COMBINED])

    def vectors(self, dimension: int) -> Mapping[str, int]:
        """How many vectors the methods carry."""
        return explain(self.operator, dimension).vectors

    def residuals(self, backend: Backend, method: str, compiled: bool) -> Residuals:
        """By one of the methods."""
        if method == "folx":
            return lambda network, x: [self._peer(backend, network)(x)]
        return lambda network, x: [self.operator(network, batch_dims=1, method=method)(x)]

    def _peer(self, backend: Backend, network: Network) -> Network:
        found = backend.peer("folx", self.label.lower(), None, network)
        assert found is not None, f"folx has no {self.label}"
        return found


# ------------------------------------------------------------------ equations

Of = Callable[..., Any]
"""(name of an operator, output=0) -> Float[points]."""


@dataclass(frozen=True)
class Writing:
    """The residuals of an equation, as somebody writes them.

    Attributes:
        operators: by name.
        residual: from their results.
    """

    operators: Mapping[str, Operator]
    residual: Callable[[Of], Sequence[Any]]

    @property
    def wanted(self) -> Transform:
        """All operators, in one propagation."""
        return derivatives(self.operators)

    def propagated(self, method: str) -> Residuals:
        """By one of our methods."""
        wanted = self.wanted

        def residuals(network: Network, x: Any) -> Sequence[Any]:
            found = wanted(network, batch_dims=1, method=method)(x)
            return self.residual(lambda name, output=0: found[name][:, output])

        return residuals

    def nested(self, backend: Backend, dimension: int, compiled: bool) -> Residuals:
        """By nested differentiation as training codes write it: an operator Σ_m c_m ∂^m is the sum
        of its derivatives along paths m of coordinates."""
        terms = {name: _terms(operator, dimension) for name, operator in self.operators.items()}

        def by_paths(along: Along) -> Sequence[Any]:
            def of(name: str, output: int = 0) -> Any:
                found = [(c, along(output, path)) for path, c in terms[name]]
                return reduce(add, [array if c == 1 else c * array for c, array in found])

            return self.residual(of)

        return lambda network, x: backend.nested(network, by_paths, compiled)(x)


def _terms(operator: Operator, dimension: int) -> list[tuple[tuple[int, ...], float]]:
    """The paths m and their c_m."""
    (symbol,) = operator.symbols.at(dimension)
    assert isinstance(symbol, Polynomial)
    return [(path, float(c)) for path, c in symbol.terms.items()]


@dataclass(frozen=True)
class Equation:
    """A differential equation.

    Attributes:
        coordinates: how many.
        order: of the highest derivative.
        apart: with each derivative asked for by itself.
        combined: with all that is linear as one operator.
    """

    label: str
    coordinates: int
    outputs: int
    order: int
    apart: Writing
    combined: Writing
    methods = (LIMIT, "nested", "minimal", COMBINED)

    def vectors(self, dimension: int) -> Mapping[str, int]:
        """How many vectors the methods carry."""
        fewer = explain(self.combined.wanted, dimension).vectors["minimal"]
        return {**explain(self.apart.wanted, dimension).vectors, COMBINED: fewer}

    def residuals(self, backend: Backend, method: str, compiled: bool) -> Residuals:
        """By one of the methods."""
        if method == "nested":
            return self.apart.nested(backend, self.coordinates, compiled)
        if method == COMBINED:
            return self.combined.propagated("minimal")
        return self.apart.propagated(method)


VISCOSITY = 0.01


def _burgers() -> Equation:
    t, x = partials("t x")
    return Equation(
        "Burgers",
        coordinates=2,
        outputs=1,
        order=2,
        apart=Writing(
            {"u": value, "t": t, "x": x, "xx": x**2},
            lambda d: [d("t") + d("u") * d("x") - VISCOSITY * d("xx")],
        ),
        combined=Writing(
            {"u": value, "x": x, "heat": t - VISCOSITY * x**2},
            lambda d: [d("heat") + d("u") * d("x")],
        ),
    )


def _kuramoto_sivashinsky() -> Equation:
    t, x = partials("t x")
    return Equation(
        "Kuramoto-Siv.",
        coordinates=2,
        outputs=1,
        order=4,
        apart=Writing(
            {"u": value, "t": t, "x": x, "xx": x**2, "xxxx": x**4},
            lambda d: [d("t") + d("u") * d("x") + d("xx") + d("xxxx")],
        ),
        combined=Writing(
            {"u": value, "x": x, "linear": t + x**2 + x**4},
            lambda d: [d("linear") + d("u") * d("x")],
        ),
    )


def _navier_stokes() -> Equation:
    """Momentum along x and y, and continuity; the outputs are u, v and p."""
    t, x, y = partials("t x y")

    def with_linear(linear: Callable[[Of, int], Any]) -> Callable[[Of], Sequence[Any]]:
        def residual(f: Of) -> Sequence[Any]:
            u, v = f("value", 0), f("value", 1)

            def momentum(k: int, slope: str) -> Any:
                return linear(f, k) + u * f("x", k) + v * f("y", k) + f(slope, 2)

            return [momentum(0, "x"), momentum(1, "y"), f("x", 0) + f("y", 1)]

        return residual

    return Equation(
        "Navier-Stokes",
        coordinates=3,
        outputs=3,
        order=2,
        apart=Writing(
            {"value": value, "t": t, "x": x, "y": y, "lap": x**2 + y**2},
            with_linear(lambda f, k: f("t", k) - VISCOSITY * f("lap", k)),
        ),
        combined=Writing(
            {"value": value, "x": x, "y": y, "heat": t - VISCOSITY * (x**2 + y**2)},
            with_linear(lambda f, k: f("heat", k)),
        ),
    )


Problem = Named | Equation

NAMED: Mapping[str, tuple[int, Named]] = {
    "laplacian": (50, Named("Laplacian", laplacian, 2)),
    "biharmonic": (5, Named("biharmonic", biharmonic, 4)),
}
"""By name: the default number of coordinates, and the problem."""

EQUATIONS: Mapping[str, Equation] = {
    "burgers": _burgers(),
    "kuramoto-sivashinsky": _kuramoto_sivashinsky(),
    "navier-stokes": _navier_stokes(),
}
