"""Which derivative of which network a tensor is: for tools that ask for derivatives one by one.

A tool for physics-informed networks calls its network, y = net(x), and then asks for derivatives of
y by x, of those again, and so on. A watched network remembers what was asked for after its last
call. At its next call all of that comes from one propagation (`jetfold.derivatives`), y itself too,
and is handed out when it is asked for. What was not foreseen comes from autograd, as before, and so
does what is less work there (`worthwhile`): first derivatives, u_xx alone without compiled loops.

Whether a propagation gives what autograd gives is looked at once for every derivative, on the
network's own points: networks that mix points, or that draw random numbers, keep autograd.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from operator import is_
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary

import torch

from . import shared_library
from .columns import VALUE, Column, Index, Symbol, operators, times
from .core import plans
from .warn import JetfoldWarning

VIEWS = ("AliasBackward0", "SliceBackward0", "SplitBackward0", "SplitWithSizesBackward0",
         "ViewBackward0", "SelectBackward0", "UnsqueezeBackward0", "UnbindBackward0")  # fmt: skip
"""Steps of autograd's graph that leave numbers where they are in memory."""


class Call:
    """One call y = net(x) of a network.

    Attributes:
        points: x, Float[points, coordinates].
        outputs: y, Float[points, outputs].
        found: derivatives of all outputs, from one propagation.
        asked: what was asked for.
        rows: ∂/∂x_j of a derivative for all j, from autograd.
    """

    def __init__(self, points: Any, outputs: Any, found: dict[Symbol, Any]) -> None:
        self.points, self.outputs, self.found = points, outputs, found
        self.asked: set[Column] = set()
        self.rows: dict[tuple[int, Index], Any] = {}
        self.given: dict[int, tuple[Any, int, list[Column]]] = {}
        self.nodes: list[tuple[Any, int, Any, list[Column]]] = []
        for symbol, value in {VALUE: outputs, **found}.items():
            self.keep(value, [(k, symbol) for k in range(value.shape[1])])

    def keep(self, tensor: Any, columns: list[Column]) -> None:
        """Remember which derivatives the columns of a tensor are."""
        self.given[id(tensor)] = tensor, tensor._version, columns
        if tensor.grad_fn is not None:
            self.nodes.append((tensor.grad_fn, tensor.output_nr, tensor, columns))

    def columns(self, tensor: Any) -> list[Column] | None:
        """Which derivatives the columns of a tensor are; None if they are none of them."""
        if id(tensor) in self.given:
            _, version, columns = self.given[id(tensor)]
            return columns if version == tensor._version else None
        node, place = tensor.grad_fn, tensor.output_nr
        while node is not None:
            for other, own, whole, columns in self.nodes:
                if other is node and own == place:
                    return _selected(tensor, whole, columns)
            if node.name() not in VIEWS:
                return None
            node, place = node.next_functions[0]
        return None

    def derivative(self, column: Column, factor: Symbol) -> Any:
        """A derivative of a derivative of an output, Float[points, 1]."""
        wanted = column[0], times(column[1], factor)
        self.asked.add(wanted)
        result = self.column(wanted)
        if id(result) not in self.given:
            self.keep(result, [wanted])
        return result

    def column(self, wanted: Column) -> Any:
        """A derivative of an output: from the propagation, or else from autograd."""
        k, symbol = wanted
        if symbol == VALUE:
            return self.outputs[:, k : k + 1]
        if symbol in self.found:
            whole = self.found[symbol]
            if self.given[id(whole)][1] != whole._version:
                raise RuntimeError(
                    "a derivative was changed in place after it was handed out, and others come "
                    "from the same numbers; write a = 2 * a in the place of a *= 2"
                )
            return whole[:, k : k + 1]
        if len(symbol) > 1:
            return sum((self.column((k, (index,))) for index in symbol[1:]),
                       self.column((k, symbol[:1])))  # fmt: skip
        *rest, last = symbol[0]
        before = tuple(rest)
        if (k, before) not in self.rows:
            found = row(self.column((k, (before,))), self.points)
            after = [(k, times((before,), ((j,),))) for j in range(self.points.shape[1])]
            self.rows[k, before] = found
            self.keep(found, after)
        return self.rows[k, before][:, last : last + 1]


def row(values: Any, points: Any) -> Any:
    """All ∂/∂x_j of the one value at each point, by autograd: Float[points, coordinates]."""
    if not values.requires_grad:
        return torch.zeros_like(points)
    ones = torch.ones_like(values)
    (found,) = torch.autograd.grad(values, points, ones, create_graph=True, allow_unused=True)
    return torch.zeros_like(points) if found is None else found


def _selected(part: Any, whole: Any, columns: list[Column]) -> list[Column] | None:
    """The columns of a view, by where its numbers are; None unless it has all the points."""
    rows, width = whole.shape
    if part.ndim != 2 or part.shape[0] != rows or part.dtype != whole.dtype:
        return None
    if rows > 1 and part.stride(0) != whole.stride(0):
        return None
    stride = whole.stride(1) if width > 1 else 1
    step = part.stride(1) if part.shape[1] > 1 else stride
    first = part.storage_offset() - whole.storage_offset()
    if stride == 0 or first % stride or step % stride:
        return None
    places = [(first + k * step) // stride for k in range(part.shape[1])]
    if not all(0 <= place < width for place in places):
        return None
    return [columns[place] for place in places]


# ------------------------------------------------------------------ calls of a network


class Network:
    """What is known of a watched network.

    Attributes:
        always: whether it is propagated through even if autograd is less work.
        wanted: what was asked for after the last call of each kind (`calling`).
        trusted: what was compared with autograd, in which mode and precision.
        usable: whether it can be propagated through.
    """

    def __init__(self) -> None:
        self.always = False
        self.wanted: dict[Any, set[Column]] = {}
        self.trusted: set[tuple[Symbol, bool, Any]] = set()
        self.usable = True


class Asked(set[Column]):
    """What is asked for after a call; once that is something, it is what will be wanted."""

    def __init__(self, network: Network | None = None, kind: Any = None) -> None:
        super().__init__()
        self.network, self.kind = network, kind

    def add(self, column: Column) -> None:
        super().add(column)
        if self.network is not None:
            self.network.wanted[self.kind] = self


_kind: ContextVar[Any] = ContextVar("kind", default=None)
_networks: WeakKeyDictionary[Any, Network] = WeakKeyDictionary()
_calls: deque[Call] = deque(maxlen=8)


@contextmanager
def calling(kind: Any) -> Iterator[None]:
    """Networks are called for a purpose of its own, which asks for other derivatives.

    None for what the module's mode says, training or evaluation; False for no derivatives.
    """
    token = _kind.set(kind)
    try:
        yield
    finally:
        _kind.reset(token)


def watch(module: Any, forward: Callable[..., Any], always: bool = False) -> None:
    """Have `forward(module, *args)` run in the place of the module's own function.

    Copies of the module run it too, on themselves; pickled, it is the module's own again.
    """
    _networks.setdefault(module, Network()).always |= always
    if "forward" in vars(module):
        if getattr(module.forward, "__func__", None) is not forward:
            warnings.warn(
                f"the derivatives of this {type(module).__name__} come from autograd as before: "
                "its forward was replaced, as by torch.compile; pass the module that was compiled",
                JetfoldWarning,
                stacklevel=3,
            )
        return
    assert forward.__name__ == "forward"  # by which pickle finds it
    module.forward = MethodType(forward, module)


def called(
    module: Any,
    args: Sequence[Any],
    function: Callable[..., Any],
    of_jets: Callable[[Any], Any] | None = None,
) -> Any:
    """y = net(x), and the call brings what will be asked for.

    Args:
        module: the network.
        args: what it is called with.
        function: what it does.
        of_jets: the same of a jet of the points, if that is another function.
    """
    kind = _kind.get()
    if kind is False or torch.compiler.is_compiling() or not _possible(args):
        return function(*args)
    points = args[0]
    network = _networks.setdefault(module, Network())
    kind = module.training if kind is None else kind
    call, asked = None, Asked(network, kind)
    wanted = frozenset(network.wanted.get(kind, ()))
    if wanted and network.usable and _is_less(network, points, wanted):
        call = _propagated(network, module.training, points, wanted, function, of_jets or function)
    if call is None:
        output = function(points)
        if not _fits(points, output):
            return output
        call = Call(points, output, {})
    call.asked = asked
    _calls.append(call)
    return call.outputs


def _possible(args: Sequence[Any]) -> bool:
    """One tensor of points, which autograd differentiates by."""
    if len(args) != 1 or not isinstance(args[0], torch.Tensor):
        return False
    points = args[0]
    return (
        points.ndim == 2
        and points.shape[0] > 0
        and points.requires_grad
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled(points.device.type)
    )


def _fits(points: Any, output: Any) -> bool:
    """One row of outputs for every point."""
    return (
        isinstance(output, torch.Tensor)
        and output.ndim == 2
        and output.shape[0] == points.shape[0]
        and output.dtype == points.dtype
    )


def autograd_work(wanted: Iterable[Column]) -> int:
    """What autograd does for derivatives, in forward passes, as far as it is counted here.

    A reverse pass gives all ∂/∂x_j of one derivative of one output. Through what it goes doubles
    with each, and from the third on trebles, as measured, gradients by the parameters among it.
    """
    rows = {(k, index[:m]) for k, symbol in wanted for index in symbol for m in range(len(index))}
    return 1 + sum(2 ** len(row) if len(row) < 3 else 4 * 3 ** (len(row) - 2) for _, row in rows)


@lru_cache(maxsize=256)
def worthwhile(n: int, wanted: frozenset[Column], looped: bool = False) -> bool:
    """Whether a propagation is less work than autograd, and enough of it for what it costs to
    handle jets: not for first derivatives, nor for one second derivative unless layers are compiled
    loops (`looped`), which do the same work in two thirds of the time."""
    found = operators(n, wanted)
    vectors = plans.plan(found.symbols, found.variables(n), "minimal").algebra.vectors
    work = autograd_work(wanted)
    return work >= max(4, vectors) if looped else work >= max(6, vectors + 1)


MANY = 128
"""With fewer points Python takes longer than arithmetic."""


def _is_less(network: Network, points: Any, wanted: frozenset[Column]) -> bool:
    looped = points.is_cpu and points.shape[0] >= MANY and shared_library.compiler() is not None
    return network.always or worthwhile(points.shape[1], wanted, looped)


def _propagated(
    network: Network,
    training: bool,
    points: Any,
    wanted: frozenset[Column],
    function: Callable[..., Any],
    of_jets: Callable[..., Any],
) -> Call | None:
    """The call with all that is wanted; None if it cannot be, or is not what autograd gives."""
    try:
        plain = points.as_subclass(torch.Tensor)
        found = operators(points.shape[1], wanted)(of_jets, batch_dims=1)(plain)
        call = Call(points, found.pop(VALUE), found)
        symbols = (VALUE, *found)
        new = [s for s in symbols if (s, training, points.dtype) not in network.trusted]
        if new:
            reference = Call(points, function(points), {})
            columns = [(k, symbol) for symbol in new for k in range(reference.outputs.shape[1])]
            if not all(_close(call.column(c), reference.column(c), len(c[1][0])) for c in columns):
                raise ValueError(
                    "other numbers than autograd's came: it mixes points, or gives other values "
                    "for the same points, as dropout does"
                )
        network.trusted.update((symbol, training, points.dtype) for symbol in new)
    except Exception as reason:  # whatever it is, the tool's own way remains
        network.usable = False
        warnings.warn(
            f"the derivatives of this network come from autograd as before, "
            f"because jetfold cannot propagate through it: {reason or type(reason).__name__}",
            JetfoldWarning,
            stacklevel=3,
        )
        return None
    return call


def _close(ours: Any, theirs: Any, order: int) -> bool:
    """Whether they differ by no more than rounding, which nested differentiation multiplies."""
    ours, theirs = ours.detach(), theirs.detach()
    finite = torch.isfinite(theirs)
    error = torch.where(finite, ours - theirs, 0).abs().max()
    eps = torch.finfo(theirs.dtype).eps
    relative = eps**0.5 if order <= 2 else eps**0.25
    return bool(error <= relative * torch.where(finite, theirs, 0).abs().max() + 10 * eps)


# ------------------------------------------------------------------ what is asked for


def find(
    values: Any, points: Any, same: Callable[[Any, Any], bool] = is_
) -> tuple[Call, list[Column]] | None:
    """The call of a watched network that a tensor comes from, and which derivatives it holds.

    Args:
        values: the tensor.
        points: what it is to be differentiated by.
        same: whether the points of a call are these.
    """
    for call in reversed(_calls):
        if same(call.points, points):
            columns = call.columns(values)
            if columns is not None:
                return call, columns
    return None


def clear() -> None:
    """Forget the calls: nothing of their graphs is kept."""
    _calls.clear()


def any_network() -> bool:
    """Whether a network was watched yet."""
    return bool(_networks)
