"""Where parameters stand, so that an operator made from `module.k` follows what takes its place.

`torch.func.functional_call`, `load_state_dict(assign=True)` and an assignment put another tensor
where a parameter stood. An operator that was made before holds the parameter itself, and no tensor
knows its modules: they are looked for once, among all modules there are, and a hook of PyTorch
tells of those in which it is registered later.
"""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch.nn.modules.module import register_module_parameter_registration_hook

from . import private


class Place:
    """Under which name a parameter stands in a module, which it does not keep alive."""

    def __init__(self, module: Any, name: str) -> None:
        self.module = weakref.ref(module)
        self.name = name

    def holds(self, tensor: Any) -> bool:
        """Whether it is this tensor that stands there now."""
        module = self.module()
        return module is not None and module._parameters.get(self.name) is tensor

    def __deepcopy__(self, memo: dict[int, Any]) -> Place:
        return Place(copy.deepcopy(self.module(), memo) or _NOWHERE, self.name)

    def __reduce__(self) -> Any:
        return Place, (self.module() or _NOWHERE, self.name)


_NOWHERE = torch.nn.Module()


class Leaf:
    """A tensor that autograd differentiates by, or a parameter, when an operator was made from it.

    Attributes:
        version: of its memory.
        places: where it stood, and where it was registered since.
    """

    def __init__(self, tensor: Any, places: Sequence[Place]) -> None:
        self.tensor = tensor
        self.version = tensor._version
        self.places = list(places)

    def now(self) -> tuple[Any, ...]:
        """What stands there now: the tensor itself, if nothing took its place."""
        found: list[Any] = []
        for place in self.places:
            module = place.module()
            if module is not None:
                tensor = module._parameters.get(place.name)
                if not any(tensor is other for other in found):
                    found.append(tensor)
        return tuple(found) or (self.tensor,)

    def is_the_same(self) -> bool:
        """Whether it is still what it was."""
        now = self.now()
        return len(now) == 1 and now[0] is self.tensor and self.tensor._version == self.version


@dataclass(frozen=True)
class _Known:
    """All places in which a parameter was seen, and who is to hear of new ones."""

    places: list[Place]
    leaves: weakref.WeakSet[Leaf] = field(default_factory=weakref.WeakSet)


_known: dict[int, _Known] = {}


def leaves(tensors: Sequence[Any]) -> list[Leaf]:
    """Tensors, with the places of those that are parameters."""
    inside = private.inside_functional_call()  # there other tensors stand in for a while
    parameters = [x for x in tensors if isinstance(x, torch.nn.Parameter)]
    if parameters and not inside:
        _find([x for x in parameters if id(x) not in _known])
    found = []
    for tensor in tensors:
        known = None if inside else _known.get(id(tensor))
        places = [place for place in known.places if place.holds(tensor)] if known else []
        found.append(Leaf(tensor, places))
        if known:
            known.leaves.add(found[-1])
    return found


def _find(parameters: Sequence[Any]) -> None:
    """Look for the modules of parameters."""
    if not parameters:
        return
    _listen()
    for parameter in parameters:
        _known[id(parameter)] = _Known([])
        weakref.finalize(parameter, _known.pop, id(parameter), None)
    wanted = {id(parameter): parameter for parameter in parameters}
    for module in gc.get_objects():
        if issubclass(type(module), torch.nn.Module):
            for name, tensor in module.__dict__.get("_parameters", {}).items():
                if wanted.get(id(tensor)) is not None:
                    _known[id(tensor)].places.append(Place(module, name))


@cache
def _listen() -> None:
    register_module_parameter_registration_hook(_registered)


def _registered(module: Any, name: str, parameter: Any) -> None:
    """A parameter is registered in a module."""
    known = None if torch.compiler.is_compiling() else _known.get(id(parameter))
    if known is not None:
        place = Place(module, name)
        known.places.append(place)
        for leaf in known.leaves:
            leaf.places.append(place)
