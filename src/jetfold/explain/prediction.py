"""What a call of an operator will cost, before it is run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..core import recorded
from ..core.costs import UnpredictableError
from ..frameworks import frontend_of
from ..residual import Residual
from ..transform import Transform
from .text import Printed, Sections

OPTIONS = ("argnums", "batch_dims", "structure", "method", "chunk_size")
"""The keywords of an operator; all others are those of f."""


@dataclass(frozen=True, repr=False)
class Prediction(Printed):
    """What a call of an operator will cost, counted from shapes. Prints as text.

    What is None cannot be predicted; `reasons` say why.

    Attributes:
        operator, method: what is called.
        compiled: whether by a compiler (JAX always is), or one operation after the other.
        vectors: how many vectors every node carries; None for nested differentiation too.
        flops: floating-point operations of the value: matrix products exactly, as every operation
            does them, and one for every number that other arithmetic gives.
        products: those of matrix products and convolutions alone.
        forward_flops, forward_products: the same of one plain forward pass on the same points.
        kept: bytes of the arrays that wait for a backward pass to the parameters, beside these and
            the point: what autograd saves, or the residuals of JAX's reverse mode.
        temporary: JAX: bytes of temporary arrays of the compiled gradient, at most, which is what
            its compiler tells; known to a factor of 2, mostly to 1.3.
        peak: bytes of temporary arrays of a value, alive at the same time, at most: in PyTorch as
            its operations make them; what a compiler needs is known to a factor of about 2.
        over_limit: time / limit, the limit being one plain forward pass on batch × vectors rows:
            both are estimated from the operations and from how fast the machine does each kind,
            which is measured for some milliseconds.
        seconds: the numerator: what the value itself is estimated to take.
        reasons: why something is None.
    """

    operator: str
    method: str
    compiled: bool
    vectors: int | None
    flops: float | None
    products: float | None
    forward_flops: float | None
    forward_products: float | None
    kept: int | None
    temporary: float | None
    peak: float | None
    over_limit: float | None
    seconds: float | None
    reasons: tuple[str, ...] = ()

    def cell(self) -> dict[str, float]:
        """What is compared with measurements (`bench.results.Cell`). Of a compiler it is unknown
        what it keeps and what it computes again; JAX's tells its temporary memory."""
        kept = self.temporary if self.compiled else self.kept
        found = {"time / limit": self.over_limit, "flops": self.flops, "kept": kept}
        return {name: float(number) for name, number in found.items() if number is not None}

    def sections(self) -> Sections:
        """What is printed."""
        rows = [
            ("vectors", _shown(self.vectors, ",")),
            ("FLOPs", _of_forward(self.flops, self.forward_flops)),
            ("  matrix products", _of_forward(self.products, self.forward_products)),
            ("temporary memory", _shown(self.peak, ",.0f", " bytes")),
            ("kept for backward", _shown(self.kept, ",", " bytes")),
            *([("  temporary", _shown(self.temporary, ",.0f", " bytes"))] * bool(self.temporary)),
            ("time / limit", _shown(self.over_limit, ".2f", ", estimated")),
        ]
        return [
            (f"Before it is run ({'compiled' if self.compiled else 'eager'})", rows),
            *([("Not predicted", [("", reason) for reason in self.reasons])] * bool(self.reasons)),
        ]

    @property
    def title(self) -> str:
        """The first line."""
        return f"{self.operator}, {self.method}"


def options_of(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keywords of an operator, taken out of those of a call."""
    return {name: kwargs.pop(name) for name in OPTIONS if name in kwargs}


def _shown(value: float | None, form: str, unit: str = "") -> str:
    return "unknown" if value is None else f"{value:{form}}{unit}"


def _of_forward(value: float | None, forward: float | None) -> str:
    if value is None:
        return "unknown"
    ratio = f": {value / forward:.2f} × a plain forward pass" if forward else ""
    return f"{value:,.0f}{ratio}"


def predict(
    operator: Transform | Residual[Any],
    function: Callable[..., Any],
    *args: Any,
    compiled: bool | None = None,
    **kwargs: Any,
) -> Prediction:
    """What `operator(function, …)(*args)` will cost. Nothing is computed: f is traced (JAX), or run
    on tensors without numbers (PyTorch, device "meta"), which takes as long as a call of a tiny
    network; the speed of the machine is measured once per process, for some 50 milliseconds.

    Args:
        operator: an operator of jetfold, or a residual.
        args, kwargs: of f, and the keywords of the operator: argnums, batch_dims, method,
            structure, chunk_size.
        compiled: whether it will be compiled; JAX always is.

    Returns:
        a `Prediction`: print it, or read its attributes.

    >>> import torch, jetfold as jf
    >>> f = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    >>> found = predict(jf.laplacian, f, torch.zeros(10, 3), batch_dims=1)
    >>> found.vectors, found.products, found.forward_products
    (5, 1424, 640)
    """
    options = options_of(kwargs)
    argnums = options.get("argnums", 0)
    points = [k % len(args) for k in ((argnums,) if isinstance(argnums, int) else argnums)]
    like = args[points[0]]
    frontend = frontend_of(like)
    counter = frontend.counter()
    compiled = frontend.NAME == "jax" if compiled is None else compiled

    def evaluate(*x: Any) -> Any:
        return operator(function, **options)(*x, **kwargs)

    own = {name: value for name, value in kwargs.items() if name not in operator.parameters}

    def plain(*x: Any) -> Any:
        return function(*x, **own)

    reasons: list[str] = []

    def tried(what: Callable[[], Any]) -> Any:
        try:
            return what()
        except UnpredictableError as error:
            reasons.append(str(error))
            return None

    with recorded.recording() as steps:
        value = tried(lambda: counter.cost(evaluate, args, points))
    vectors = carried(steps)
    forward = tried(lambda: counter.cost(plain, args, points))
    gradient = tried(lambda: counter.gradient(evaluate, args, points, plain))
    over_limit = seconds = None
    if value is not None:
        if gradient is None:
            reasons.append("kept: there are no parameters that a gradient could be taken by")
        if vectors is None:
            reasons.append("time / limit: no operation of the function meets coefficients")
        rates = counter.rates(like, compiled)
        seconds = rates.seconds(value)
        if vectors is not None and forward is not None:
            over_limit = seconds / rates.seconds(forward.on(vectors))
    return Prediction(
        operator=str(getattr(operator, "name", operator)),
        method=options.get("method", "minimal"),
        compiled=compiled,
        vectors=vectors,
        flops=value and value.flops,
        products=value and value.products,
        forward_flops=forward and forward.flops,
        forward_products=forward and forward.products,
        kept=gradient and gradient.kept,
        temporary=gradient and gradient.temporary,
        peak=value and value.peak,
        over_limit=over_limit,
        seconds=seconds,
        reasons=tuple(dict.fromkeys(reasons)),
    )


def carried(steps: Sequence[recorded.Step]) -> int | None:
    """How many vectors the operator itself carries, not one inside of the function."""
    seen = [(-step.level, step.vectors) for step in steps if step.vectors]
    return max(seen)[1] if seen else None
