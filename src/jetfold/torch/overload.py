"""Jets that PyTorch functions accept: `__torch_function__`, operators, methods and attributes.

The function of the user runs as it is. Whatever PyTorch function meets a jet is handed over to
`dispatch`, which finds its rule in the table.
"""

from __future__ import annotations

import operator
import sys
import weakref
from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import cache, partial
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch

from .. import warn
from ..core import jet as core
from ..core import recorded
from ..core.arrays import Block
from ..core.structure import Piece, Placed, Structured, staying
from . import (
    dynamo_private,
    fresh,
    functions,
    fused,
    hooks_private,
    inner,
    modes,
    private,
    structured,
)
from .arguments import values
from .fresh import WRITABLE, PlainWriteError
from .general import IndependentError, general, wrong_in_torch
from .lifts import explicit_index, is_basic, viewable
from .private import without_memory
from .reverse import EVERYTHING, tracked_results
from .rules import Rule
from .table import (
    NAMES,
    NESTED_WRONGLY,
    READ_ONLY,
    RULES,
    UNDIFFERENTIABLE,
    VIEWS,
    is_custom,
    key_of_operation,
    words,
)

# ------------------------------------------------------------------ levels


@torch.compiler.assume_constant_result
def _enter(tracing: bool, batched: bool) -> int:
    if tracing:
        dynamo_private.operators_are_methods(Jet, modes.switch, inner.HANDLERS, fresh.is_made)
        dynamo_private.until_compiled(partial(modes.end_all, len(modes.state.outer)))
    return modes.begin(batched)


@torch.compiler.assume_constant_result
def _leave() -> None:
    modes.end()


class NewLevel:
    """`with NewLevel() as level`: a level above those of all transforms that are running."""

    def __init__(self, batch_dims: int = 0) -> None:
        self.batch_dims = batch_dims

    def __enter__(self) -> int:
        tracing = torch.compiler.is_dynamo_compiling()
        return _enter(tracing, True) if self.batch_dims else _enter(tracing, False)

    def __exit__(self, *_: object) -> None:
        _leave()


_lift = torch.compiler.assume_constant_result(modes.lift)
_lower = torch.compiler.assume_constant_result(modes.lower)


class Recording:
    """Within it jets have derivatives, whatever grad mode says."""

    def __enter__(self) -> None:
        _lift()

    def __exit__(self, *_: object) -> None:
        _lower()


report = torch.compiler.assume_constant_result(warn.report)


# ------------------------------------------------------------------ dispatch


def dispatch(func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """Run a PyTorch function of which some arguments are jets."""
    # Dynamo does not find functions written in Python in a dictionary of its own; Python does.
    key, in_place = _lines(func) if is_traced() else LINES.get(func) or lines(func)
    if not is_traced() and recorded.OPEN:
        return _recorded(func, key, in_place, tuple(args), kwargs)
    return run_rule(func, key, in_place, tuple(args), kwargs)


def _recorded(func: Callable[..., Any], key: str | None, *rest: Any) -> Any:
    """The same, noted for `explain`, unless it was made of operations that were."""
    begun = recorded.lengths()
    result = run_rule(func, key, *rest)
    if recorded.lengths() == begun:
        name = key or str(getattr(func, "__name__", func))
        recorded.note(name, functions.jets_in(rest[1:]), functions.jets_in(result))
    return result


is_traced = torch.compiler.is_dynamo_compiling
"""Whether Dynamo traces this code, in which jets are no tensors. Every operation asks."""


def lines(func: Callable[..., Any]) -> tuple[str | None, str | None]:
    """The lines of a function in the table and among the in-place functions."""
    return LINES.get(func) or (key_of_operation(func), None)


_lines = torch.compiler.assume_constant_result(lines)


def run_rule(
    func: Callable[..., Any],
    key: str | None,
    in_place: str | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Run a function whose lines in the table and among the in-place functions are known."""
    if WRITABLE[0] and fresh.is_on():
        return _writable(func, key, in_place, args, kwargs)
    if kwargs:
        args, kwargs = _normalised(args, kwargs)
    level = highest_level(args, kwargs)
    if is_traced():
        frozen = _frozen(True) if modes.frozen_now else _frozen(False)  # Dynamo guards branches
    else:
        frozen = modes.frozen_at(level)
    if frozen:
        if modes.is_constant(frozen, args[0]) and (in_place is not None or kwargs.get("inplace")):
            return _overwritten(
                func, args[0], modes.settled(frozen, args), modes.settled(frozen, kwargs)
            )
        given, kwargs = modes.settled(frozen, args), modes.settled(frozen, kwargs)
        if level <= frozen:
            result = func(*given, **kwargs)
            if key in VIEWS and isinstance(args[0], Jet) and isinstance(result, torch.Tensor):
                return _shared(args[0], result)
            return result
        args = given
    if in_place is not None:
        return tracked_results(level, _in_place(level, in_place, args, kwargs))
    if kwargs and kwargs.get("out") is not None:
        return _write_out(level, func, args, kwargs)
    result = NotImplemented if key is None else RULES[key](level, func, args, kwargs)
    if result is NotImplemented:
        return tracked_results(level, _without_rule(level, func, args, kwargs))
    if EVERYTHING[0]:
        tracked_results(level, result)
    if kwargs and kwargs.get("inplace"):
        args[0]._assign(result)
        return args[0]
    if key in VIEWS:
        _remember(key, args[0], func, args[1:], kwargs, result)
    return result


_frozen = torch.compiler.assume_constant_result(modes.frozen)


def _overwritten(func: Any, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An in-place operation where jets are constants: another value, the same derivatives."""
    value = args[0].clone()
    func(value, *args[1:], **kwargs)
    if value.shape != target.shape or value.dtype != target.dtype:
        raise RuntimeError(
            f"{function_name(func)} would change the shape or the dtype of its target, which "
            "jetfold cannot follow; use an operation that returns its result"
        )
    with Recording():
        target._assign(_revalued(target, value))
    return target


def _revalued(x: Any, value: Any) -> Any:
    """A jet, of any levels, with another value."""
    return x.like(_revalued(x.primal, value), x.stored) if isinstance(x, Jet) else value


def _writable(func: Any, key: Any, in_place: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """run_rule, called by a function that writes into what it made."""
    with fresh.off():
        level = highest_level(args, kwargs)
        result = NotImplemented
        if in_place is None and "out" not in kwargs and not kwargs.get("inplace"):
            result = fresh.plain(level, func, args, kwargs)
        if result is NotImplemented:
            result = run_rule(func, key, in_place, args, kwargs)
    fresh.note(result)
    return result


def _scripted_wrongly(func: Any) -> bool:
    """Whether a scripted function contains what PyTorch nests wrongly; nothing can replace it."""
    graph = getattr(func, "inlined_graph", None)  # of torch.jit.ScriptFunction, and of methods
    return graph is not None and any(graph.findAllNodes(f"aten::{name}") for name in _WRONG_BELOW)


_WRONG_BELOW = UNDIFFERENTIABLE | {
    "linalg_" + n[7:] if n[:7] == "linalg." else n.rpartition(".")[2] for n in NESTED_WRONGLY
}
"""What PyTorch nests wrongly, by ATen's names."""


def _without_rule(level: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if func is private.custom_function_call:
        return functions.apply(args[0], args[1:], kwargs, partial(func, args[0]))
    if is_custom(func):
        return functions.apply_custom(level, func, args, kwargs)
    name = function_name(func)
    if name == "__get__":
        return _attribute(func.__self__.__name__, args[0])
    if hasattr(func, "overloadpacket") and name in _WRONG_BELOW:
        raise NotImplementedError(wrong_in_torch(name))
    if name.endswith("_") != name.endswith("__") or private.writes(func):
        raise NotImplementedError(
            f"{func} writes into its arguments in a way that jetfold does not follow; use torch."
            f"{name.rstrip('_')}, which returns its result"
        )
    if name in UNDIFFERENTIABLE or _scripted_wrongly(func):
        raise NotImplementedError(wrong_in_torch(name))
    report(name)
    try:
        return general(level, func, args, kwargs, strict=True)
    except IndependentError as error:
        raise NotImplementedError(
            f"PyTorch has no derivative of {name} (or of one of its outputs), jetfold no "
            "rule for it; write it with other operations, or apply it to x.detach() if meant"
        ) from error


def _attribute(name: str, jet: Any) -> Any:
    """What PyTorch says of a tensor that no attribute of jets overrides."""
    return None if name in ("grad", "_grad", "_base") else getattr(jet.primal, name)


_FIRST = ("input", "self", "tensors", "tensor", "A")
_NUMPY_NAMES = {"axis": "dim", "keepdims": "keepdim"}


def _normalised(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The first argument by position, and PyTorch's own names for the axes."""
    if "axis" in kwargs or "keepdims" in kwargs:
        kwargs = {_NUMPY_NAMES.get(name, name): item for name, item in kwargs.items()}
    if not args:
        kwargs = dict(kwargs)
        args = tuple(kwargs.pop(name) for name in _FIRST if name in kwargs)
    return args, kwargs


def highest_level(args: Any, kwargs: dict[str, Any]) -> int:
    """The level of the innermost transform among the arguments; it refreshes their jets."""
    level = 0
    for item in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(item, Jet):
            if item._view is not None:
                item._refresh()
            if item.level > level:
                level = item.level
        elif isinstance(item, (tuple, list)):
            level = max(level, highest_level(item, {}))
    return level


@torch.compiler.assume_constant_result
def function_name(func: Any) -> str:
    """How messages call a PyTorch function."""
    packet = getattr(func, "overloadpacket", func)  # torch.ops.aten.tanh.default
    return getattr(packet, "__name__", str(func))


# ------------------------------------------------------------------ in-place operations

_AUGMENTED = {
    "__iadd__": "__add__",
    "__isub__": "__sub__",
    "__imul__": "__mul__",
    "__itruediv__": "__truediv__",
    "__idiv__": "__truediv__",
    "__ipow__": "__pow__",
    "__imod__": "__mod__",
}


_OPERATORS = frozenset(
    words("add sub mul div truediv pow remainder mod floor_divide floordiv matmul")
)


def _in_place_functions() -> dict[Callable[..., Any], str]:
    namespaces = (torch.Tensor, torch, torch.nn.functional, *private.BUILT_IN, operator)
    names = {n for space in namespaces[:3] for n in dir(space) if n.endswith("_") and n[0] != "_"}
    names = (names - {"requires_grad_", "retain_grad_"}) | set(_AUGMENTED) | {"__setitem__"}
    found = {}
    for name in sorted(names):
        for namespace in namespaces:
            function = getattr(namespace, name, None)
            if callable(function):
                found[function] = name
    return found


IN_PLACE = _in_place_functions()
"""Every PyTorch function that writes into its first argument, with its name."""

LINES = {function: (NAMES.get(function), IN_PLACE.get(function)) for function in NAMES | IN_PLACE}
"""What `lines` says of functions that have any."""


def _plain_write(what: str) -> str:
    return (
        f"{what} would write a jet into a plain tensor, which has no room for its derivatives. "
        "Write into one that is made inside of the function, torch.zeros(shape) or weight.clone(), "
        "or start from the argument, torch.zeros_like(x); or build the result with torch.stack, "
        "torch.cat or torch.where"
    )


_FILLS = frozenset(
    words(
        "zero_ fill_ normal_ uniform_ exponential_ bernoulli_ random_ log_normal_ cauchy_ "
        "geometric_"
    )
)


def _in_place(level: int, name: str, args: tuple[Any, ...], kwargs: Any) -> Any:
    """x.op_(…) as x = op(x, …), seen by all views of x."""
    target = args[0]
    if not (isinstance(target, Jet) and target.level == level):
        if name.strip("_").removeprefix("i") in _OPERATORS:
            name = "out += jet, or another operator with =,"
        raise PlainWriteError(_plain_write("out[i] = jet" if name == "__setitem__" else name))
    if name == "__setitem__":
        result = write(target, args[1], args[2])
    elif name == "copy_" or (name == "fill_" and isinstance(args[1], Jet)):
        result = write(target, (), args[1])
    elif name in _FILLS:
        filled = getattr(target.primal.clone(), name)(*args[1:], **kwargs)
        result = target.like(filled, [None] * len(target.stored))
    else:
        result = dispatch(_functional(name), args, kwargs)
    if result.shape != target.shape:
        raise RuntimeError(
            f"{name} would change the shape of its target from {tuple(target.shape)} to "
            f"{tuple(result.shape)}; use an operation that returns its result"
        )
    target._assign(_cast(result, target.dtype))
    return target


def _write_out(level: int, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """func(…, out=target) as target = func(…)."""
    kwargs = dict(kwargs)
    target = kwargs.pop("out")
    if not (isinstance(target, Jet) and target.level == level):
        raise PlainWriteError(_plain_write("out="))
    result = func(*args, **kwargs)
    if result.shape != target.shape:
        raise RuntimeError(
            f"out= of shape {tuple(target.shape)} cannot take a result of shape "
            f"{tuple(result.shape)}; leave out= away"
        )
    target._assign(_cast(write(target, (), result), target.dtype))
    return target


def _functional(name: str) -> Callable[..., Any]:
    """The operation of which name is the in-place form."""
    functional = _AUGMENTED.get(name, name[:-1])
    for namespace in (torch.Tensor, torch, torch.nn.functional):
        if name not in _SHAPE_CHANGES and hasattr(namespace, functional):
            return getattr(namespace, functional)
    raise TypeError(f"{name} cannot act on a jet: use an operation that returns its result")


_SHAPE_CHANGES = frozenset(
    words(
        "set_ resize_ resize_as_ swap_ data_ t_ transpose_ swapaxes_ swapdims_ squeeze_ "
        "unsqueeze_ as_strided_ detach_ share_memory_"
    )
)


def _cast(x: Any, dtype: Any) -> Any:
    """x in the dtype of the tensor that it is written into."""
    if x.dtype == dtype:
        return x
    if x.is_complex() and not dtype.is_complex:
        raise RuntimeError(
            f"complex values cannot be written into a tensor of dtype {dtype}; take .real first"
        )
    return x.to(dtype)


def write(target: Any, index: Any, source: Any) -> Any:
    """The target with target[index] replaced by the source (broadcast), as a new jet."""
    if not isinstance(source, (torch.Tensor, core.Jet)):
        source = torch.as_tensor(source, dtype=target.dtype, device=target.device)
    source = _cast(source, target.dtype)
    if source.ndim == 0 and isinstance(index, torch.Tensor) and index.dtype == torch.bool:
        mask = index.reshape(tuple(index.shape) + (1,) * (target.ndim - index.ndim))
        return torch.where(mask, source, target)
    positions = torch.arange(target.numel(), device=target.device).reshape(target.shape)
    chosen = positions[explicit_index(index, target.ndim)]
    while source.ndim > chosen.ndim and source.shape[0] == 1:
        source = source[0]
    source = source.expand(chosen.shape).reshape(-1)
    return _scatter(target, chosen.reshape(-1), source)


def _scatter(target: Any, positions: Any, source: Any) -> Any:
    """target.reshape(-1) with the entries at these positions replaced, in its own shape."""
    level, order = target.level, target.algebra.order
    is_jet = isinstance(source, Jet) and source.level == level
    new = source.primal if is_jet else source
    primal = torch.index_copy(target.primal.reshape(-1), 0, positions, new).reshape(target.shape)
    added = source.stored if is_jet else [None] * order

    def act(size: int, stacks: Sequence[Block]) -> Block:
        flat, rows = (
            torch.zeros((size, *shape), dtype=target.dtype, device=target.device)
            if b is None
            else b.expand((size, *shape))
            for b, shape in zip(stacks, (target.shape, positions.shape), strict=True)
        )
        out = torch.index_copy(flat.reshape((size, -1)), 1, positions, rows)
        return out.reshape((size, *target.shape))

    def where(k: int, piece: Piece) -> Placed | None:
        """Of the target everything stays; the source comes to the positions."""
        if k == 0:
            return staying(piece.axis, piece.owners.length)
        if piece.axis is None:
            return staying(None)

        known = positions if is_traced() else private.known(positions)
        if known is None:
            return None

        found = structured.moved(positions.shape, _put, (tuple(target.shape),), (known,))
        there = found(piece.axis, piece.owners)
        return None if there is None else there[0]

    blocks: list[Block] = []
    for size, old, extra in zip(target.algebra.sizes[1:], target.stored, added, strict=True):
        if type(old) is Structured or type(extra) is Structured:
            block = structured.jointly(size, target.ndim, (old, extra), act, where)
        else:
            block = None if old is None and extra is None else act(size, (old, extra))
        blocks.append(block)
    return target.like(primal, blocks)


def _put(x: Any, shape: Sequence[int], positions: Any) -> Any:
    """Zeros of a shape with these entries at some positions."""
    flat = torch.zeros(prod(shape), dtype=x.dtype, device=x.device)
    return flat.index_copy(0, positions, x).reshape(shape)


class View(NamedTuple):
    """How a jet was made from the base whose memory it shares."""

    base: Any
    key: str
    func: Callable[..., Any]
    rest: tuple[Any, ...]
    kwargs: dict[str, Any]
    position: int | None  # in the tuple that func returns
    strides: tuple[int, ...] | None  # of the base, where they decide whether reshape copies

    def of(self, base: Any) -> Any:
        """The same view of something else."""
        if isinstance(base, Jet):
            result = dispatch(self.func, (base, *self.rest), self.kwargs)
        else:
            level = self.base.level
            result = self.func(base, *values(level, self.rest), **values(level, self.kwargs))
        return result if self.position is None else result[self.position]


def _shared(jet: Any, alias: Any) -> Any:
    """A plain tensor that shares memory with a jet, and what shares memory with it must not write
    to as long as it is there, because writes to jets replace."""
    if not torch.compiler.is_compiling():
        while jet is not None:
            seen = [alive for alive in jet._aliases or () if alive() is not None]
            jet._aliases = [*seen, weakref.ref(alias)]
            jet = jet._view and jet._view.base
    return alias


_MAY_COPY = frozenset(["reshape", "reshape_as", "flatten", "ravel"])


def _remember(
    key: str, base: Any, func: Any, rest: tuple[Any, ...], kwargs: dict[str, Any], result: Any
) -> None:
    """Note that the result shares memory with the base, for in-place writes to either."""
    if not isinstance(base, Jet) or (key == "__getitem__" and not is_basic(rest[0])):
        return
    strides = None
    if key in _MAY_COPY and not base.primal.is_contiguous():
        strides = base.primal.stride()
    several = isinstance(result, (tuple, list))
    for k, jet in enumerate(result) if several else ((None, result),):
        if isinstance(jet, Jet) and jet is not base:
            jet._view = View(base, key, func, rest, kwargs, k, strides)
            jet._seen = base._writes


# ------------------------------------------------------------------ the class


class Jet(core.Jet):
    """A jet of tensors: to the user's function it looks like the tensor that is its value.

    In-place operations replace the value and the coefficients of the object. A view remembers
    what it is a view of: writes to the view reach its base, and a view of a base that was written
    to is made anew before it is used.
    """

    made: Any = None  # by `fused`: the value and the blocks, which are taken out when asked for
    layers: Any = None  # the same to torch.compile
    _view: Any = None
    _aliases: Any = None
    _run: Any = None  # as long as a jet is there, its level is not taken again
    _writes = 0
    _seen = 0  # writes of the base
    _lent = False  # `fused` holds its arrays, or what it is made of, where no node tells of it

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return dispatch(func, args, kwargs or {})

    def _assign(self, other: Any) -> None:
        """Take the value and the coefficients of another jet, and so do all that share memory."""
        self._refresh()
        self._forget_copy()
        view = self._view
        if any(alias() is not None for alias in self._aliases or ()):
            raise RuntimeError(
                "an in-place write to a tensor whose .detach() or .data (or a view of it made "
                "under no_grad) is still there, and would not see it; write first, or clone() those"
            )
        if view is not None and view.key in READ_ONLY:
            raise RuntimeError(
                f"an in-place write to the result of {view.key} would write its base in a way that "
                "jetfold cannot follow; clone() it first"
            )
        self.primal, self.stored, self.made = other.primal, other.stored, None
        self._writes += 1
        if view is not None:
            base = view.base
            places = torch.arange(base.numel(), device=base.device).reshape(base.shape)
            with Recording():
                entries = torch.reshape(self, (-1,))
                base._assign(_scatter(base, view.of(places).reshape(-1), entries))
            self._seen = base._writes

    def _refresh(self) -> None:
        """Make a view anew whose base was written to."""
        if self._view is None:
            return
        base = self._view.base
        base._refresh()
        if self._seen != base._writes:
            self._forget_copy()
        if self._view is not None and self._seen != base._writes:
            with Recording():
                anew = self._view.of(base)
            self.primal, self.stored, self.made = anew.primal, anew.stored, None
            self._seen = base._writes
            self._writes += 1

    def _forget_copy(self) -> None:
        """reshape gave a copy, if the strides of its base did not allow a view."""
        view = self._view
        if view is not None and view.strides is not None:
            if viewable(view.base.shape, view.strides, self.shape):
                self._view = view._replace(strides=None)
            else:
                self._view = None

    def like(self, primal: Any, blocks: Sequence[Block]) -> Any:
        """Another jet of the same algebra and level."""
        return make_jet(self.algebra, self.level, primal, blocks)

    def awaiting(self, layers: Any) -> Any:
        """Another jet of the same algebra and level, of layers that are not computed yet."""
        return WaitingJet(self.algebra, self.level, layers)

    # attributes of the value
    shape = property(lambda self: self.primal.shape)
    dtype = property(lambda self: self.primal.dtype)
    device = property(lambda self: self.primal.device)
    layout = property(lambda self: self.primal.layout)
    ndim = property(lambda self: self.primal.ndim)
    nbytes = property(lambda self: self.primal.nbytes)
    is_mkldnn = property(lambda self: self.primal.is_mkldnn)
    is_sparse_csr = property(lambda self: self.primal.is_sparse_csr)
    is_xla = property(lambda self: self.primal.is_xla)
    is_xpu = property(lambda self: self.primal.is_xpu)
    is_cuda = property(lambda self: self.primal.is_cuda)
    is_cpu = property(lambda self: self.primal.is_cpu)
    is_mps = property(lambda self: self.primal.is_mps)
    is_meta = property(lambda self: self.primal.is_meta)
    is_sparse = property(lambda self: self.primal.is_sparse)
    is_nested = property(lambda self: self.primal.is_nested)
    is_quantized = property(lambda self: self.primal.is_quantized)
    is_leaf = property(lambda self: False)
    itemsize = property(lambda self: self.primal.itemsize)
    requires_grad = property(
        lambda self: self.primal.requires_grad, lambda self, wanted: self.requires_grad_(wanted)
    )
    grad_fn = property(hooks_private.grad_fn)
    data = property(lambda self: self.detach(), lambda self, _: _refuse_data())

    # attributes that are operations
    real = property(lambda self: torch.real(self))
    imag = property(lambda self: torch.imag(self))
    T = property(lambda self: self.permute(tuple(range(self.ndim - 1, -1, -1))))
    mT = property(lambda self: self.transpose(-2, -1))
    H = property(lambda self: self.transpose(-2, -1).conj())
    mH = property(lambda self: self.transpose(-2, -1).conj())

    def detach(self) -> Any:
        """The value alone, with no derivative at any level (as torch.Tensor.detach)."""
        self._refresh()
        return _shared(self, self.primal.detach())

    def __len__(self) -> int:
        if self.primal.ndim == 0:
            raise TypeError(
                "len() of a 0-d tensor; if torch.tensor([x, y]) asked for it, that copies numbers "
                "and loses derivatives: use torch.stack([x, y])"
            )
        return len(self.primal)

    def __iter__(self) -> Iterator[Any]:
        return iter(torch.unbind(self, 0))

    def __bool__(self) -> bool:
        self._refresh()
        if not torch.compiler.is_compiling():
            modes.frozen_at(self.level)
        return bool(self.primal)

    def __copy__(self) -> Any:
        return torch.Tensor.view(self, self.shape)

    def __deepcopy__(self, memo: Any) -> Any:
        return torch.clone(self)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            "the argument of a function that jetfold differentiates cannot be pickled or saved "
            "with its derivatives; save x.detach()"
        )

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
        """numpy.sin(x), and numpy numbers and arrays on the left of an operator: PyTorch's."""
        name = {"power": "pow"}.get(ufunc.__name__, ufunc.__name__)
        function = getattr(torch, name, None)
        if method != "__call__" or kwargs or function not in NAMES:
            raise TypeError(
                f"numpy.{ufunc.__name__} was called on the argument of a function that jetfold "
                "differentiates, where it cannot keep the derivatives; use torch operations"
            )
        return function(*(x if isinstance(x, Jet) else _tensor(x, self) for x in inputs))

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"Jet({self.primal!r}, {self.algebra!r})"


def _tensor(x: Any, like: Any) -> Any:
    """A number or an array of numpy beside a tensor; a number takes no part in its dtype."""
    x = np.asarray(x)
    return torch.as_tensor(x, device=like.device) if x.ndim else torch.as_tensor(x.item())


def _refuse_data() -> None:
    raise AttributeError("x.data = y would lose derivatives; write x = y, or x.copy_(y)")


def _method(function: Callable[..., Any]) -> Callable[..., Any]:
    # Looked up once: torch.compile may know some of these functions by another object.
    key, in_place = NAMES.get(function), IN_PLACE.get(function)

    def method(*args: Any, **kwargs: Any) -> Any:
        if not is_traced() and recorded.OPEN:
            return _recorded(function, key, in_place, args, kwargs)
        return run_rule(function, key, in_place, args, kwargs)

    method.__name__ = getattr(function, "__name__", "method")
    method.__doc__ = f"torch.Tensor.{method.__name__} of a jet."
    return method


def _install_methods() -> None:
    """Every method of torch.Tensor that the class does not define itself."""
    operators = {name for name in RULES if name.startswith("__")} | set(_AUGMENTED)
    operators |= {"__setitem__"}
    own = {name for base in Jet.__mro__[:-1] for name in vars(base)}
    for name in dir(torch.Tensor):
        if name in own - {"__eq__"} or (name.startswith("_") and name not in operators):
            continue
        function = getattr(torch.Tensor, name)
        if callable(function) and not isinstance(function, type):
            setattr(Jet, name, _method(function))


_install_methods()


class WaitingJet(Jet):
    """A jet, traced by torch.compile, of layers that are computed when they are asked for."""

    def __init__(self, algebra: Any, level: int, layers: Any) -> None:
        self.algebra = algebra
        self.level = level
        self.layers = layers

    def __getattr__(self, name: str) -> Any:
        if name not in ("primal", "stored"):
            raise AttributeError(f"a jet has no attribute {name!r}")
        self.primal, self.stored = self.layers.values()
        return self.primal if name == "primal" else self.stored


class TensorJet(Jet, torch.Tensor):
    """A jet that is a torch.Tensor, also to code that asks.

    As a tensor it has a shape, a dtype and a device, and no memory: all attributes and functions
    are those of the jet. What does not pass `__torch_function__`, code in C++, finds no numbers.
    """

    __module__ = "torch"  # by which opt_einsum and others find the library of an array

    @staticmethod
    def __new__(cls, algebra: Any, level: int, primal: Any, blocks: Sequence[Block]) -> Any:
        return _new(cls, algebra, level, primal, blocks)

    def __init__(self, *_: Any) -> None:  # also of subclasses, which take other arguments
        pass

    def like(self, primal: Any, blocks: Sequence[Block]) -> Any:
        """Another jet of the same algebra and level."""
        if is_traced():
            return Jet(self.algebra, self.level, primal, blocks)
        # As _new does, in the one function of which a jet is made for every operation.
        jet = without_memory(
            type(self), primal.shape, None, None, None, primal.dtype, _STRIDED, primal.device
        )
        jet.algebra = self.algebra
        jet.level = self.level
        jet.primal = primal
        jet.stored = tuple(blocks)
        jet._run = self._run
        return jet

    def holding(self, made: Any) -> Any:
        """Another jet of the same algebra and level, of what `fused` made of it."""
        lent = self
        while not lent._lent:
            lent._lent = True
            lent = lent if lent._view is None else lent._view.base
        jet = without_memory(
            TensorJet, made.shape, None, None, None, made.dtype, _STRIDED, made.device
        )
        jet.algebra = self.algebra
        jet.level = self.level
        jet.made = made
        jet._run = self._run
        return jet

    def __getattr__(self, name: str) -> Any:
        if name not in ("primal", "stored"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self.primal, self.stored = fused.opened(self.made)
        return getattr(self, name)

    def as_subclass(self, cls: Any) -> Any:
        """The same memory with the methods of a subclass of torch.Tensor."""
        self._refresh()
        jet = _new(_jets_of(cls), self.algebra, self.level, self.primal, self.stored)
        jet._view = View(self, "view", torch.Tensor.view, (self.shape,), {}, None, None)
        jet._seen = self._writes
        return jet

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.alias.default:  # torch.Tensor(x), or a subclass of it
            return args[0].as_subclass(private.class_to_make(sys._getframe(1)))
        kwargs = kwargs or {}
        jets = [x for x in private.tree_leaves((args, kwargs)) if isinstance(x, Jet)]
        if all(fresh.is_constant(jet) and not _is_watched(jet.primal) for jet in jets):
            args, kwargs = private.tree_map(_value, (tuple(args), kwargs))
            return func(*args, **kwargs)
        raise UnseenError(
            f"{function_name(func)} met the argument of a function that jetfold differentiates in "
            "code that is not Python's, where it cannot keep the derivatives; "
            f"{_HINTS.get(func, _HINTS[None])}"
        )


def _is_watched(x: Any) -> bool:
    """Whether PyTorch differentiates by a tensor, which it does not see below Python."""
    return isinstance(x, Jet) or x.requires_grad or private.inside_transform()


def _value(x: Any) -> Any:
    return x.primal if isinstance(x, Jet) else x


_HINTS = {
    None: "write it with functions of torch, or pass it x.detach() if the value alone is meant",
    torch.ops.aten._local_scalar_dense.default: "a Python number has none: write torch.stack([x, "
    "y]) in the place of torch.tensor([x, y]), x.expand(n) in the place of torch.full((n,), x)",
    torch.ops.aten._to_copy.default: "write x.to(dtype) in the place of torch.as_tensor(x, dtype)",
    torch.ops.aten.detach.default: "a copy of numbers has none: write x.clone() in the place of "
    "torch.tensor(x)",
}


class UnseenError(TypeError):
    """Code below Python met a jet."""


def _new(kind: Any, algebra: Any, level: int, primal: Any, blocks: Sequence[Block]) -> Any:
    jet = without_memory(kind, primal.shape, dtype=primal.dtype, device=primal.device)
    jet.algebra = algebra
    jet.level = level
    jet.primal = primal
    jet.stored = tuple(blocks)
    jet._run = modes.runs.get(level)
    return jet


_STRIDED = torch.strided


@cache
def _jets_of(cls: Hashable) -> Any:
    """The class of the jets that have the methods of a subclass of torch.Tensor.

    Its methods come first, and find by `super()` those of jets where they expect torch.Tensor's.
    """
    kind: Any = cls
    if kind is torch.Tensor or issubclass(kind, Jet):
        return TensorJet
    return type(kind)(kind.__name__, (kind, TensorJet), {"__module__": kind.__module__})


def make_jet(algebra: Any, level: int, primal: Any, blocks: Sequence[Block]) -> Jet:
    """A jet that the user's function takes for a tensor; Dynamo can make no subclasses of it."""
    if is_traced():
        return Jet(algebra, level, primal, blocks)
    kind: Any = type(primal)
    if kind is torch.Tensor or isinstance(primal, (Jet, torch.nn.Parameter)):
        return _new(TensorJet, algebra, level, primal, blocks)
    if kind.__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:  # not Python's alone
        return _new(TensorJet, algebra, level, primal, blocks)
    jet = _new(_jets_of(kind), algebra, level, primal.as_subclass(torch.Tensor), blocks)
    vars(jet).update(vars(primal))
    return jet


__all__ = ["Jet", "NewLevel", "Rule", "dispatch", "report"]
