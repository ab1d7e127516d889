"""PINA's operators from one propagation: `from jetfold.pina import grad, div, laplacian`.

With advection they take the place of those of `pina.operator`: the same arguments, and the same
labels on what they return. A solver's models are watched (`jetfold.watched`); what is no output of
one, nor a derivative of it, is differentiated by PINA as before.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import torch

from . import watched
from .columns import Column, Symbol
from .watched import Call, calling, clear, find

try:
    import pina.operator as original
    from pina import LabelTensor
    from pina.condition import InputEquationCondition
except ModuleNotFoundError as missing:
    if missing.name not in ("pina", "pina.operator"):
        raise
    raise ModuleNotFoundError(
        "jetfold.pina takes the place of PINA's operators, and PINA is not installed: "
        "pip install pina-mathlab",
        name="pina",
    ) from None

__all__ = ["advection", "div", "grad", "laplacian", "watch"]

Labels = str | list[str] | None

EXTRACTED = ("AliasBackward0", "IndexBackward0", "SliceBackward0")
"""Steps of autograd's graph from points to some of their columns."""


def grad(output_: Any, input_: Any, components: Labels = None, d: Labels = None) -> Any:
    """∂c/∂x for each component c and coordinate x, equivalent to `pina.operator.grad`.

    Args:
        output_: LabelTensor [points, outputs]: a model's outputs, some of them, or derivatives.
        input_: LabelTensor [points, coordinates].
        components: labels of outputs; None for all.
        d: labels of coordinates; None for all.

    Returns:
        LabelTensor labelled "dcdx", the coordinate varying fastest.

    Raises:
        TypeError, RuntimeError: PINA's, of what is no LabelTensor, or has no such labels.
    """
    found = _found(output_, input_, components, d)
    if found is None:
        return original.grad(output_, input_, components, d)
    call, columns, places = found
    return _labelled(
        call,
        [
            (f"d{c}d{x}", column, ((place,),))
            for c, column in columns.items()
            for x, place in places.items()
        ],
    )


def div(output_: Any, input_: Any, components: Labels = None, d: Labels = None) -> Any:
    """Σ ∂c_k/∂x_k over components and coordinates in pairs, equivalent to `pina.operator.div`."""
    components, d = _lists(output_, input_, components, d)
    if not isinstance(components, list) or not isinstance(d, list) or len(components) != len(d):
        return original.div(output_, input_, components, d)
    pairs = [grad(output_, input_, [c], [x]) for c, x in zip(components, d, strict=True)]
    return LabelTensor.summation(pairs)


def laplacian(
    output_: Any,
    input_: Any,
    components: Labels = None,
    d: Labels = None,
    method: str = "std",
) -> Any:
    """Σ_x ∂²c/∂x² for each component c, equivalent to `pina.operator.laplacian`.

    Labelled "ddc". Of a Laplacian found before, the biharmonic, from one propagation too.

    Args:
        method: PINA's, "std" or "divgrad": here they are the same.
    """
    found = _found(output_, input_, components, d)
    if found is None or method not in ("std", "divgrad"):
        return original.laplacian(output_, input_, components, d, method)
    call, columns, places = found
    squares = tuple((place, place) for place in places.values())
    return _labelled(call, [(f"dd{c}", column, squares) for c, column in columns.items()])


def advection(
    output_: Any,
    input_: Any,
    velocity_field: str | list[str],
    components: Labels = None,
    d: Labels = None,
) -> Any:
    """Σ_k v_k ∂c/∂x_k for each component c, equivalent to `pina.operator.advection`: "adv_c"."""
    components, d = _lists(output_, input_, components, d)
    velocity = [velocity_field] if isinstance(velocity_field, str) else velocity_field
    found = _found(output_, input_, components, d)
    if found is None or len(velocity) != len(d or ()) or not set(velocity) <= set(output_.labels):
        return original.advection(output_, input_, velocity_field, components, d)
    assert components is not None
    v = output_.as_subclass(torch.Tensor)[:, [output_.labels.index(name) for name in velocity]]
    sums = [
        (grad(output_, input_, [c], d).as_subclass(torch.Tensor) * v).sum(1, keepdim=True)
        for c in components
    ]
    return _with_labels(torch.cat(sums, 1), [f"adv_{c}" for c in components])


# ------------------------------------------------------------------ labels


def _lists(output_: Any, input_: Any, components: Labels, d: Labels) -> tuple[Any, Any]:
    """Labels as PINA reads them."""
    if not (isinstance(output_, LabelTensor) and isinstance(input_, LabelTensor)):
        return components, d  # PINA says what is wrong
    components, d = components or output_.labels, d or input_.labels
    return (
        [components] if isinstance(components, str) else components,
        [d] if isinstance(d, str) else d,
    )


def _found(
    output_: Any, input_: Any, components: Labels, d: Labels
) -> tuple[Call, dict[str, Column], dict[str, int]] | None:
    """The call, which derivative each component is, and the place of each coordinate."""
    components, d = _lists(output_, input_, components, d)
    if not (isinstance(output_, LabelTensor) and isinstance(input_, LabelTensor)):
        return None
    found = find(output_, input_, _extracted)
    if found is None or not components or not d or not set(components) <= set(output_.labels):
        return None
    call, columns = found
    coordinates = call.points.labels
    if not coordinates or not set(d) <= set(coordinates):
        return None
    if len(columns) == 1:  # as PINA, which then takes the one there is
        components = output_.labels
    return (
        call,
        {c: columns[output_.labels.index(c)] for c in components},
        {x: coordinates.index(x) for x in d},
    )


def _extracted(points: Any, whole: Any) -> bool:
    """Whether points are columns of a whole, found by their labels."""
    if points is whole:
        return True
    labels = getattr(points, "labels", None)
    if not labels or not whole.labels or not set(labels) <= set(whole.labels):
        return False
    node = points.grad_fn
    while node is not None and node.name() in EXTRACTED:
        node = node.next_functions[0][0]
        if node is not None and (node is whole.grad_fn or getattr(node, "variable", None) is whole):
            return torch.equal(points, whole.extract(labels))
    return False


def _labelled(call: Call, wanted: list[tuple[str, Column, Symbol]]) -> Any:
    """Derivatives side by side with labels, of which is known what they are."""
    parts = [call.derivative(column, factor) for _, column, factor in wanted]
    known = [call.given[id(part)][2][0] for part in parts]
    whole = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
    result = _with_labels(whole, [label for label, _, _ in wanted])
    call.keep(result, known)
    return result


def _with_labels(tensor: Any, labels: list[str]) -> Any:
    result = tensor.as_subclass(LabelTensor)
    result.labels = labels
    return result


# ------------------------------------------------------------------ models


def watch(model: Any, always: bool = False) -> Any:
    """Have a model remember which derivatives are asked for, and bring them along.

    A solver's models are watched without it.

    Args:
        model: a `torch.nn.Module` of a LabelTensor of points, which it takes one by one.
        always: also where autograd is less work: for first derivatives, or one second one.

    Returns:
        the model.
    """
    watched.watch(model, forward, always)
    return model


def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
    """A model's own function, and what will be asked for of its result, labels kept."""
    own = partial(type(self).forward, self, **kwargs)
    if len(args) != 1 or not isinstance(args[0], LabelTensor):
        return own(*args)
    points: Any = args[0]
    labels: list[Any] = []

    def plain(points: Any) -> Any:
        output = own(points)
        labels.append(getattr(output, "_labels", None))
        return output.as_subclass(torch.Tensor) if isinstance(output, torch.Tensor) else output

    def of_jets(jet: Any) -> Any:
        jet.extract = lambda wanted: _columns(jet, points.labels, wanted)
        jet.labels = points.labels
        return own(jet)

    result = watched.called(self, args, plain, of_jets)
    if not isinstance(result, torch.Tensor):
        return result
    result = result.as_subclass(LabelTensor)
    if labels and labels[-1] is not None:
        result._labels = labels[-1]
    return result


def _columns(jet: Any, labels: list[str], wanted: Any) -> Any:
    """What LabelTensor.extract gives, of a jet."""
    wanted = [wanted] if isinstance(wanted, str) else wanted
    return jet[:, [labels.index(label) for label in wanted]]


def _watching(evaluate: Callable[..., Any]) -> Callable[..., Any]:
    """A condition's evaluation, with the solver's models watched: each asks for its own."""

    @wraps(evaluate)
    def evaluated(self: Any, batch: Any, solver: Any) -> Any:
        for model in getattr(solver, "_pina_models", ()):
            watch(model)
        try:
            with calling(self):
                return evaluate(self, batch, solver)
        finally:
            clear()

    return evaluated


InputEquationCondition.evaluate = _watching(InputEquationCondition.evaluate)
