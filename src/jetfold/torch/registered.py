"""Rules of one's own (`jetfold.register_rule`) on jets of tensors."""

from __future__ import annotations

from typing import Any

from ..core import jet as core
from . import fresh, modes
from .overload import Jet, make_jet
from .private import tree_leaves, tree_map
from .reverse import tracked_results
from .rules import apply_tower


def apply(rule: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The function of a rule (`rules.Registered`), of arguments of which some may be jets.

    The rule sees the jets of the innermost transform. Those of outer ones are values to it, whose
    own rules a tower meets by itself; a rule for jets gets them as jets that are constant.
    """
    if fresh.is_on():
        with fresh.off():
            return apply(rule, args, kwargs)
    if frozen := modes.frozen_at(0):
        args, kwargs = modes.settled(frozen, (args, kwargs))
    jets = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Jet)]
    if not jets:
        return rule.function(*args, **kwargs)
    for jet in jets:
        jet._refresh()
    level = max([jet.level for jet in jets])
    algebra = next(jet for jet in jets if jet.level == level).algebra
    if rule.tower is not None:
        jet = rule.argument(args, kwargs)
        value = apply(rule, (jet.primal,), {})
        return tracked_results(level, apply_tower(jet, value, rule.entries))

    def opened(x: Any) -> Any:
        if not isinstance(x, Jet):
            return x
        if x.level == level:
            return core.Jet(algebra, level, x.primal, x.blocks)
        return core.Jet(algebra, level, x, [None] * algebra.order)

    def closed(found: Any) -> Any:
        value = found.primal if isinstance(found, core.Jet) else found
        found = rule.result(found, algebra, getattr(value, "shape", ()))
        if type(found) is not core.Jet:
            return found
        return make_jet(algebra, level, found.primal, found.blocks)

    args, kwargs = tree_map(opened, (tuple(args), dict(kwargs)))
    return tracked_results(level, tree_map(closed, rule.jet(*args, **kwargs)))
