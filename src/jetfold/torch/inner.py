"""Transforms of torch.func inside of a function that runs on jets.

PyTorch's own transform runs, on the coefficients: each is a tensor of the value's shape behind a
leading axis. A function of jets is a function of their coefficients, so

    vmap   maps over one axis of every coefficient;
    jvp    is linear in the tangents over the algebra: the jet of a derivative along û̇ is the
           derivative of the coefficients along those of û̇;
    vjp    takes few reverse passes, from which the jet of the gradient follows (`core.duals`).

jacfwd, jacrev and hessian consist of these. Jets of several levels: the highest is opened here, and
the transform of its coefficients comes here again. Where no jet takes part, PyTorch's own runs. A
jet may also take part without being an argument, which only the result tells: then it runs again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial, wraps
from typing import Any

import torch

from ..core.duals import Pass
from ..core.jet import Jet
from . import fresh, modes, private
from .arguments import full, is_jet, values, zeros
from .forward import alike, settled
from .lifts import is_tensor
from .private import tree_flatten, tree_leaves, tree_map, tree_unflatten
from .randomness import random_state, set_random_state
from .reverse import (
    check_copies,
    dense,
    entered,
    jet_of,
    left,
    passes,
    track,
    tracked_results,
    without_graph,
)

Function = Callable[..., Any]

# ------------------------------------------------------------------ which level


def _highest(tree: Any) -> Any:
    """A jet of the highest level there is in a tree, or None."""
    found: Any = None
    for leaf in tree_leaves(tree):
        if isinstance(leaf, Jet):
            leaf._refresh()  # type: ignore[attr-defined]
            if found is None or leaf.level > found.level:
                found = leaf
    return found


class _Met(Exception):
    """(jet, level): a function returned a jet above that level."""


def _through(
    func: Function, tree: Any, plain: Callable[[Function], Any], lifted: Callable[..., Any]
) -> Any:
    """plain(func) where no jet takes part, else lifted(like, func).

    tree: the arguments. func comes with a watch on what it returns.
    """
    if fresh.WRITABLE[0] and fresh.is_on():
        with fresh.off():
            return _through(fresh.switched_on(func), tree, plain, lifted)
    like = _highest(tree)
    state = random_state([x for x in tree_leaves(tree) if is_tensor(x)])
    while True:
        level = 0 if like is None else like.level
        watched = _watched(func, level)
        try:
            if like is None:
                return plain(watched)
            return tracked_results(level, lifted(like, watched))
        except _Met as met:
            found, expected = met.args
            if expected != level:  # that of an outer one, of which this transforms coefficients
                raise
            like = found
        set_random_state(state)


def _watched(func: Function, level: int) -> Function:
    """A function that refuses to return jets above a level."""

    def watched(*args: Any, **kwargs: Any) -> Any:
        out = func(*args, **kwargs)
        like = _highest(out)
        if like is not None and like.level > level:
            raise _Met(like, level)
        return out

    named = hasattr(func, "__name__") and not torch.compiler.is_compiling()
    return wraps(func)(watched) if named else watched


# ------------------------------------------------------------------ trees of coefficients


class Opened:
    """A tree of which the jets of one level are written as their coefficients.

    Attributes:
        arrays: the values and the blocks that are there, and all other tensors.
    """

    def __init__(self, level: int, tree: Any) -> None:
        leaves, self._spec = tree_flatten(tree)
        self._leaves: list[tuple[Any, list[bool]]] = []
        self.arrays: list[Any] = []
        for leaf in leaves:
            if is_jet(level, leaf):
                self._leaves.append((leaf, [b is not None for b in leaf.blocks]))
                self.arrays += [leaf.primal, *(b for b in leaf.blocks if b is not None)]
            else:
                self._leaves.append((leaf, []))
                self.arrays += [leaf] if is_tensor(leaf) else []

    def closed(self, arrays: Sequence[Any]) -> Any:
        """The tree with other arrays in the place of its own."""
        rest = iter(arrays)
        leaves = []
        for leaf, there in self._leaves:
            if there:
                primal = next(rest)
                leaves.append(leaf.like(primal, [next(rest) if one else None for one in there]))
            else:
                leaves.append(next(rest) if is_tensor(leaf) else leaf)
        return tree_unflatten(leaves, self._spec)


def _split(out: Any, has_aux: bool, name: str) -> tuple[Any, Any]:
    """What a function returns, and what it returns beside it."""
    if not has_aux:
        return out, ()
    if not (isinstance(out, tuple) and len(out) == 2):
        raise RuntimeError(
            f"{name}: output of function f should be a tuple: (output, aux) if has_aux is True"
        )
    return out


def _only_tensors(out: Any, name: str) -> None:
    for leaf in tree_leaves(out):
        if not is_tensor(leaf):
            raise RuntimeError(
                f"{name}: expected f(*primals) to return only tensors, got unsupported type "
                f"{type(leaf)}"
            )


class _Chosen:
    """The arguments that a transform differentiates by: all of them, one, or a tuple."""

    def __init__(self, args: Sequence[Any], argnums: Any) -> None:
        self._args = list(args)
        given = range(len(args)) if argnums is None else argnums
        self._places = [given] if isinstance(given, int) else list(given)
        for k, place in enumerate(self._places):
            if not -len(args) <= place < len(args):
                raise RuntimeError(f"Got argnum={place}, but only {len(args)} positional inputs")
            self._places[k] = place % len(args)
        self.leaves, self._spec = tree_flatten(tuple(self._args[k] for k in self._places))
        self._alone = isinstance(argnums, int)

    def tree(self, leaves: Sequence[Any], alone: bool = True) -> Any:
        """Other leaves in their structure; a single one alone, as argnums names it."""
        found = tree_unflatten(leaves, self._spec)
        return found[0] if alone and self._alone else found

    def arguments(self, leaves: Sequence[Any]) -> list[Any]:
        """All arguments, with other leaves in the place of these."""
        args = list(self._args)
        for place, item in zip(self._places, self.tree(leaves, False), strict=True):
            args[place] = item
        return args

    def same_structure(self, tree: Any) -> list[Any]:
        """The leaves of a tree of this structure."""
        leaves, spec = tree_flatten(tree)
        if spec != self._spec:
            raise RuntimeError(
                "jvp(f, primals, tangents): Expected primals and tangents to have the same python "
                f"structure, got {self._spec} and {spec}"
            )
        return leaves


# ------------------------------------------------------------------ vmap


def vmap(
    original: Function,
    func: Function,
    in_dims: Any,
    out_dims: Any,
    randomness: str,
    chunk_size: Any,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """torch.func.vmap(func, in_dims, out_dims, …)(*args, **kwargs)."""
    rest = (in_dims, out_dims, randomness, chunk_size)
    return _through(
        func,
        (args, kwargs),
        lambda func: original(func, *rest, *args, **kwargs),
        lambda like, func: _vmap(like.level, func, *rest, args, kwargs),
    )


class _Mapped:
    """Arrays that are mapped over; what is not mapped is held as it is."""

    def __init__(self) -> None:
        self.arrays: list[Any] = []
        self.dims: list[int] = []

    def take(self, array: Any, dim: int | None) -> Callable[[Sequence[Any]], Any]:
        """From the slices of all arrays to that of this one."""
        if dim is None:
            return lambda slices: array
        place = len(self.arrays)
        self.arrays.append(array)
        self.dims.append(dim)
        return lambda slices: slices[place]

    def take_jet(self, jet: Any, dim: int) -> Callable[[Sequence[Any]], Any]:
        """A jet, along an axis of its value."""
        primal = self.take(jet.primal, dim)
        blocks = [
            None if b is None else self._take_block(b, jet.shape[dim], dim) for b in jet.blocks
        ]
        return lambda slices: jet.like(
            primal(slices), [None if b is None else b(slices) for b in blocks]
        )

    def _take_block(self, block: Any, size: int, dim: int) -> Callable[[Sequence[Any]], Any]:
        lazy = block.shape[dim + 1] != size  # it does not depend on that axis
        return self.take(block.select(dim + 1, 0), None) if lazy else self.take(block, dim + 1)


def _vmap(
    level: int,
    func: Function,
    in_dims: Any,
    out_dims: Any,
    randomness: str,
    chunk_size: Any,
    args: tuple[Any, ...],
    kwargs: Any,
) -> Any:
    leaves, spec = tree_flatten(args)
    dims = private.broadcast_to_tree(in_dims, spec)
    if dims is None:
        raise ValueError(
            f"vmap: in_dims={in_dims} is not compatible with the structure of the inputs, {spec}"
        )
    mapped = _Mapped()
    found = []
    for leaf, dim in zip(leaves, dims, strict=True):
        if dim is None:
            found.append(mapped.take(leaf, None))
            continue
        if not is_tensor(leaf) or not -leaf.ndim <= dim < leaf.ndim:
            what = f"a tensor with {leaf.ndim} axes" if is_tensor(leaf) else str(type(leaf))
            raise ValueError(f"vmap: got in_dim={dim} for an input that is {what}")
        take = mapped.take_jet if is_jet(level, leaf) else mapped.take
        found.append(take(leaf, dim % leaf.ndim))
    if not mapped.arrays:
        raise ValueError("vmap: Expected at least one Tensor to vmap over")
    sizes = [x.shape[dim] for x, dim in zip(leaves, dims, strict=True) if dim is not None]
    if len(set(sizes)) > 1:
        raise ValueError(
            "vmap: Expected all tensors to have the same size in the mapped dimension, got sizes "
            f"{sizes} for the mapped dimension"
        )
    results: list[Any] = []
    leading: list[Any] = []  # PyTorch looks at out_dims once the function has run

    def flat(*slices: Any) -> list[Any]:
        out = func(*tree_unflatten([one(slices) for one in found], spec), **kwargs)
        results[:] = [Opened(level, out), _out_dims(level, out, out_dims)]
        leading[:] = [None if dim is None else 0 for dim in results[1]]
        return results[0].arrays

    over = torch.func.vmap(
        flat, tuple(mapped.dims), leading, randomness=randomness, chunk_size=chunk_size
    )
    arrays = over(*mapped.arrays)
    opened, places = results
    # (With another out_dim PyTorch fails to repeat what is the same for all slices.)
    return opened.closed(
        [x.movedim(0, dim) if dim else x for x, dim in zip(arrays, places, strict=True)]
    )


def _out_dims(level: int, out: Any, out_dims: Any) -> list[Any]:
    """Of every coefficient of what a mapped function returns."""
    leaves, spec = tree_flatten(out)
    if is_tensor(out) and isinstance(out_dims, tuple) and len(out_dims) == 1:
        dims = list(out_dims)
    else:
        dims = private.broadcast_to_tree(out_dims, spec)
    if dims is None:
        raise ValueError(
            f"vmap: out_dims={out_dims} is not compatible with the structure of the outputs, {spec}"
        )
    found: list[Any] = []
    for leaf, dim in zip(leaves, dims, strict=True):
        if dim is not None and not is_tensor(leaf):
            raise ValueError(
                f"vmap: the function must only return Tensors, got type {type(leaf)}. Did you mean "
                "to set out_dims= to None for output?"
            )
        if is_jet(level, leaf) and dim is not None:
            dim %= leaf.ndim + 1
            found += [dim, *(dim + 1 for b in leaf.blocks if b is not None)]
        elif is_jet(level, leaf):
            found += [None, *(None for b in leaf.blocks if b is not None)]
        elif is_tensor(leaf):
            found.append(None if dim is None else dim % (leaf.ndim + 1))
    return found


# ------------------------------------------------------------------ forward mode


def jvp(
    original: Function,
    func: Function,
    primals: Any,
    tangents: Any,
    argnums: Any,
    *,
    strict: bool = False,
    has_aux: bool,
) -> Any:
    """torch.func.jvp(func, primals, tangents), by the arguments named."""
    return _through(
        func,
        (primals, tangents),
        lambda func: original(func, primals, tangents, argnums, strict=strict, has_aux=has_aux),
        lambda like, func: _jvp(like, func, primals, tangents, argnums, strict, has_aux),
    )


def _jvp(
    like: Any,
    func: Function,
    primals: Any,
    tangents: Any,
    argnums: Any,
    strict: bool,
    has_aux: bool,
) -> Any:
    level, name = like.level, "jvp(f, primals, tangents)"
    if not isinstance(primals, tuple):
        raise RuntimeError(f"{name}: Expected primals to be a tuple, so that f(*primals) is valid")
    chosen = _Chosen(primals, argnums)
    points, directions = [], []
    shapes: list[Opened] = []
    for x, v in zip(chosen.leaves, chosen.same_structure(tangents), strict=True):
        if is_jet(level, x) or is_jet(level, v):
            x, v = alike(like, x, v)
        shapes.append(Opened(level, x))
        points += shapes[-1].arrays
        directions += Opened(level, v).arrays
    results: list[Opened] = []

    def flat(*arrays: Any) -> Any:
        rest = iter(arrays)
        leaves = [one.closed([next(rest) for _ in one.arrays]) for one in shapes]
        out, aux = _split(func(*chosen.arguments(leaves)), has_aux, name)
        _only_tensors(out, name)
        results[:] = [Opened(level, out), Opened(level, aux)]
        return tuple(results[0].arrays), tuple(results[1].arrays)

    out, moving, aux = torch.func.jvp(
        flat, tuple(map(settled, points)), tuple(directions), strict=strict, has_aux=True
    )
    found = (results[0].closed(out), results[0].closed(moving))
    return (*found, results[1].closed(aux)) if has_aux else found


def linearize(original: Function, func: Function, *primals: Any) -> Any:
    """torch.func.linearize(func, *primals): forward mode in every call, in place of a trace."""
    _, spec = tree_flatten(primals)

    def linear(*tangents: Any) -> Any:
        leaves, given = tree_flatten(tangents)
        if given != spec:
            raise RuntimeError(
                f"linearize: Expected the tangents {given} to have the same argspec as the "
                f"primals {spec}"
            )
        return torch.func.jvp(func, primals, tree_unflatten(leaves, spec))[1]

    return func(*primals), linear


def without_trace(original: Function, func: Function) -> Function:
    """What linearize does with the function whose tangents it traces: the same."""
    if private.is_folding(func):
        return lambda graph: graph
    if not private.is_tracer(func):
        return original(func)

    def tracer(trace: Function) -> Function:
        func, primals = private.linearized(trace)
        _, spec = tree_flatten(primals)

        def graph(*leaves: Any) -> Any:
            return tree_leaves(torch.func.jvp(func, primals, tree_unflatten(leaves, spec))[1])

        return lambda leaves: graph

    return tracer


# ------------------------------------------------------------------ reverse mode


def vjp(
    original: Function, func: Function, *primals: Any, argnums: Any = None, has_aux: bool = False
) -> Any:
    """torch.func.vjp(func, *primals), by the arguments named."""

    def plain(func: Function) -> Any:
        out, pullback, *aux = original(func, *primals, argnums=argnums, has_aux=has_aux)
        return (out, partial(_linear, pullback, 0), *aux)

    return _through(
        func, primals, plain, lambda like, func: _vjp(like, func, primals, argnums, has_aux)
    )


def _vjp(like: Any, func: Function, primals: tuple[Any, ...], argnums: Any, has_aux: bool) -> Any:
    level, sizes, name = like.level, like.algebra.sizes, "vjp(f, *primals)"
    chosen = _Chosen(primals, argnums)
    lifted = [dense(like, x) for x in chosen.leaves]
    results: list[Any] = []

    def flat(*arrays: Any) -> Any:
        rest = iter(arrays)
        leaves = [like.like(next(rest), [next(rest) for _ in sizes[1:]]) for _ in lifted]
        out, aux = _split(func(*chosen.arguments(leaves)), has_aux, name)
        _only_tensors(out, name)
        # What is no jet does not depend on what is differentiated by.
        jets = [leaf for leaf in tree_leaves(out) if is_jet(level, leaf)]
        ends = [x for jet in jets for x in (jet.primal, *full(jet)) if x is not None]
        results[:] = [Opened(level, (out, aux))]
        return tuple(ends) or (arrays[0].new_zeros(()),), tuple(results[0].arrays)

    nothing, pull, arrays = torch.func.vjp(flat, *(c for x in lifted for c in x), has_aux=True)
    out, aux = results[0].closed(arrays)
    outputs, out_spec = tree_flatten(out)

    def starts(one: Pass, given: Sequence[Any]) -> Iterator[Any]:
        """The cotangents of all coefficients that are there."""
        for v, leaf in zip(given, outputs, strict=True):
            if is_jet(level, leaf):
                value, *rows = entered(one, like, v)
                yield torch.zeros_like(leaf.primal) if value is None else value[0]
                for size, block, row in zip(sizes[1:], leaf.blocks, rows, strict=True):
                    if block is not None:
                        yield zeros(size, leaf.primal, leaf.dtype) if row is None else row

    def pullback(cotangents: Any, retain_graph: bool, create_graph: bool | None) -> Any:
        given, spec = tree_flatten(cotangents)
        if spec != out_spec:
            raise RuntimeError(
                "Expected pytree structure of cotangents to be the same as pytree structure of "
                f"outputs to the function. cotangents: {spec}, primal output: {out_spec}"
            )
        totals: list[list[Any]] = [[None] * len(sizes) for _ in lifted]
        for one in passes(like.algebra.key):
            into = tuple(starts(one, given)) or nothing
            found = iter(pull(into, retain_graph=True, create_graph=create_graph))
            totals = [left(one, [next(found) for _ in sizes], total) for total in totals]
        return chosen.tree(
            [jet_of(like, total, x[0]) for total, x in zip(totals, lifted, strict=True)]
        )

    return (out, partial(_linear, pullback, level), *([aux] if has_aux else []))


def _linear(
    pull: Callable[..., Any],
    level: int,
    cotangents: Any,
    retain_graph: bool = True,
    create_graph: bool | None = None,
) -> Any:
    """A map that is linear over jets of levels above this one: each coefficient alone."""
    like = _highest(cotangents)
    if like is None or like.level <= level:
        return pull(cotangents, retain_graph=retain_graph, create_graph=create_graph)

    def one(cotangents: Any) -> Any:
        return _linear(pull, level, cotangents, True, create_graph)

    leaves, spec = tree_flatten(cotangents)
    value, out_spec = tree_flatten(one(tree_unflatten(values(like.level, leaves), spec)))
    blocks: list[Any] = [[None] * like.algebra.order for _ in value]
    for m, size in enumerate(like.algebra.sizes[1:]):
        rows = [full(x)[m] if is_jet(like.level, x) else None for x in leaves]
        if all(row is None for row in rows):
            continue
        rows = [
            zeros(size, x, x.dtype) if row is None else row
            for x, row in zip(leaves, rows, strict=True)
        ]
        found = torch.func.vmap(one, randomness="same")(tree_unflatten(rows, spec))
        for total, block in zip(blocks, tree_leaves(found), strict=True):
            total[m] = block
    jets = [like.like(x, b) for x, b in zip(value, blocks, strict=True)]
    return tree_unflatten(jets, out_spec)


def grad_and_value(
    original: Function,
    func: Function,
    argnums: Any,
    has_aux: bool,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """torch.func.grad_and_value(func, argnums, has_aux)(*args, **kwargs), and grad."""

    def lifted(like: Any, func: Function) -> Any:
        value, pullback, *aux = _vjp(like, partial(func, **kwargs), args, argnums, has_aux)
        if not is_tensor(value) or value.ndim:
            what = f"shape {tuple(value.shape)}" if is_tensor(value) else f"type {type(value)}"
            raise RuntimeError(
                f"grad_and_value(f)(*args): Expected f(*args) to return a scalar Tensor, got {what}"
            )
        return pullback(torch.ones_like(value.detach())), (value, *aux) if aux else value

    return _through(
        func,
        (args, kwargs),
        lambda func: original(func, argnums, has_aux, args, kwargs),
        lifted,
    )


# ------------------------------------------------------------------ cotangents alone


def make_grads(original: Function, outputs: Any, grads: Any, *args: Any, **kwargs: Any) -> Any:
    """What torch.autograd.grad does with grad_outputs, of outputs that are no jets."""
    if any(isinstance(g, Jet) for g in grads):
        return tuple(grads)
    return original(outputs, grads, *args, **kwargs)


def run_backward(
    original: Function,
    outputs: Any,
    grads: Any,
    retain: bool,
    create: bool,
    inputs: Any,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """The reverse pass of tensors: linear in cotangents, which may be jets."""
    args = (create, inputs, *args)
    if not _is_ours():
        check_copies(inputs)
    if not any(isinstance(g, Jet) for g in grads):
        return original(outputs, grads, retain, *args, **kwargs)
    if kwargs.get("accumulate_grad"):
        raise TypeError("backward() with jets as gradients has no tensor to accumulate them in")
    unused: list[bool] = []

    def pull(grads: Any, **_: Any) -> Any:
        found = original(outputs, tuple(grads), True, *args, **kwargs)
        unused[:] = [g is None for g in found]
        return [g for g in found if g is not None]

    rest = iter(_linear(pull, 0, list(grads)))
    return tuple(None if one else next(rest) for one in unused)


def _is_ours() -> bool:
    """Whether torch.autograd.grad was called by code of jetfold."""
    frame: Any = sys._getframe(1)
    while frame.f_globals.get("__name__", "") in (__name__, "torch.autograd"):
        frame = frame.f_back
    return frame.f_globals.get("__name__", "").startswith("jetfold.")


# ------------------------------------------------------------------ torch.autograd.functional


def grad_preprocess(
    original: Function, inputs: Any, create_graph: bool, need_graph: bool
) -> tuple[Any, ...]:
    """What is differentiated by: copies of the inputs, detached without create_graph."""
    found: list[Any] = []
    for x in inputs:
        if isinstance(x, Jet):
            copied = x.like(x.primal, x.blocks)
            found.append(track(copied) if need_graph else copied)
        else:
            found += original((x,), create_graph, need_graph)
    return tuple(found)


def grad_postprocess(original: Function, results: Any, create_graph: bool) -> Any:
    """The results, without a graph of autograd without create_graph."""
    if any(isinstance(x, Jet) for x in tree_leaves(results)):
        return results if create_graph else tree_map(without_graph, results)
    return original(results, create_graph)


def forward_jacobian(original: Function, func: Function, inputs: Any, *options: Any) -> Any:
    """functional.jacobian(func, inputs, strategy="forward-mode"), which is jacfwd."""
    if not isinstance(inputs, tuple):
        return torch.func.jacfwd(func)(inputs)
    return torch.func.jacfwd(func, tuple(range(len(inputs))))(*inputs)


# ------------------------------------------------------------------ torch.cond, torch.while_loop


def cond(
    original: Function, pred: Any, true_fn: Function, false_fn: Function, operands: Any = ()
) -> Any:
    """torch.cond, which would compile its functions without jets: the one that counts runs.

    Both, and a choice, where Python cannot decide: while torch.compile traces, and where vmap maps
    over the predicate.
    """
    if not _inside_operator() or not isinstance(pred, (bool, torch.Tensor)):
        return original(pred, true_fn, false_fn, operands)
    if isinstance(pred, bool) or not (torch.compiler.is_compiling() or _is_mapped(pred)):
        return true_fn(*operands) if pred else false_fn(*operands)
    choice = partial(torch.where, pred.reshape(()))
    return tree_map(choice, true_fn(*operands), false_fn(*operands))


def while_loop(
    original: Function, cond_fn: Function, body_fn: Function, carried_inputs: Any
) -> Any:
    """torch.while_loop, which would compile its functions without jets: Python's."""
    if not _inside_operator() or torch.compiler.is_compiling():
        return original(cond_fn, body_fn, carried_inputs)
    carried = tuple(carried_inputs)
    while cond_fn(*carried):
        carried = tuple(body_fn(*carried))
    return carried


def _is_mapped(pred: Any) -> bool:
    """Whether vmap maps over a boolean."""
    try:
        bool(pred)
    except RuntimeError:
        return pred.numel() == 1
    return False


@torch.compiler.assume_constant_result
def _inside_operator() -> bool:
    return bool(modes.state.outer)


def _with_constants(handler: Function) -> Function:
    """A handler to which jets are constants where a context of torch.no_grad says so."""

    @wraps(handler)
    def run(original: Function, *args: Any, **kwargs: Any) -> Any:
        frozen = modes.state.frozen if modes.frozen_now else 0
        if not frozen:
            return handler(original, *args, **kwargs)
        args, kwargs = modes.settled(frozen, args), modes.settled(frozen, kwargs)
        return modes.settled(frozen, handler(original, *args, **kwargs))

    return run


_HANDLERS: dict[str, Function] = {
    "vmap_impl": vmap,
    "_jvp_with_argnums": jvp,
    "_vjp_with_argnums": vjp,
    "grad_and_value_impl": grad_and_value,
    "_make_grads": make_grads,
    "_engine_run_backward": run_backward,
    "_grad_preprocess": grad_preprocess,
    "_grad_postprocess": grad_postprocess,
    "_jacfwd": forward_jacobian,
    "linearize": linearize,
    "lazy_dynamo_disallow": without_trace,
    "cond": cond,
    "while_loop": while_loop,
}
HANDLERS = {name: _with_constants(handler) for name, handler in _HANDLERS.items()}
"""By the names of what they stand in for (`private.TRANSFORMS`)."""
