"""The figures of the page: questions, plots, and answers computed from what is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..bench.paper import EXPERIMENT
from ..bench.questions import QUESTIONS, Question
from ..bench.results import Cell, Results
from .charts import Axes, Figure, Plot, against, factors, legend, plot
from .compare import Comparison
from .losses import OURS
from .paper import COSTS, step
from .predictions import PREDICTED, Agreement, Predicted, agreement
from .quantities import FASTEST, PEAK, PEAK_DIFFERENTIABLE, QUANTITIES, TIME, Quantity
from .series import Panel, panels
from .words import amount, at, capitalised, listed, method, operator, ordered, ratio, setting, where

ASKED = {
    FASTEST: "how much time does each further {} take?",
    PEAK: "how much memory does each further {} take?",
    PEAK_DIFFERENTIABLE: "how much memory does each further {} take, if gradients shall follow?",
}


def _methods(found: Sequence[Panel], quantity: Quantity) -> list[str]:
    return ordered([name for panel in found for name in panel.having(quantity)])


def _titles(found: Sequence[Panel]) -> list[str]:
    """What tells the plots of a figure apart."""
    fixed = len({setting(panel.place) for panel in found}) == 1
    operators = len({panel.place.operator for panel in found}) > 1
    return [
        ", ".join(
            part
            for part in (
                capitalised(operator(panel.place)) if operators else "",
                where(panel.place),
                "" if fixed else setting(panel.place),
            )
            if part
        )
        for panel in found
    ]


def figure(
    question: str, found: Sequence[Panel], quantity: Quantity, axes: Axes, answer: str, fitted: bool
) -> Figure:
    """One plot for each panel."""
    plots = [
        Plot(title, plot(panel, quantity, axes, fitted=fitted))
        for title, panel in zip(_titles(found), found, strict=True)
    ]
    return Figure(question, plots, answer, legend(_methods(found, quantity)))


# ------------------------------------------------------------------ the paper


def of_paper(results: Results) -> list[Figure]:
    """Time and both memories, operator by operator, over the batch and over the samples."""
    cells = [cell for spec, cell in results.cells.items() if spec.experiment == EXPERIMENT]
    groups: dict[tuple[str, str, str], list[Panel]] = {}
    for panel in panels(cells):
        groups.setdefault(_what(panel), []).append(panel)
    made = []
    for what in sorted(groups, key=lambda what: what[0]):  # the batch, and then samples
        members = groups[what]
        first = members[0]
        for quantity in COSTS:
            some = [panel for panel in members if panel.having(quantity)]
            if some:
                name, fixed = operator(first.place), setting(first.place)
                question = f"{capitalised(name)} ({fixed}): {ASKED[quantity]}".format(step(first))
                answer = _slopes(some, quantity)
                made.append(
                    figure(question, some, quantity, Axes("linear", "linear"), answer, True)
                )
    return made


def _what(panel: Panel) -> tuple[str, str, str]:
    return panel.place.variable, panel.place.operator, setting(panel.place)


def _slopes(found: Sequence[Panel], quantity: Quantity) -> str:
    """What one step costs us, and how that stands to nested."""
    texts = []
    for panel in found:
        fit, share = panel.fit(OURS, quantity), panel.ratio(OURS, quantity)
        if fit and fit.slope > 0:
            each = amount(quantity.kind, fit.slope)
            relative = f" ({ratio(share)} of nested's)" if share else ""
            texts.append(f"{each}{relative} in {where(panel.place)}")
    if not texts:
        return "Nothing grows with it that could be told from the measurements."
    return f"Each further {step(found[0])} takes {method(OURS)} {listed(texts)}."


# ------------------------------------------------------------------ beyond the paper

CHANGING = ("depth", "width")
"""Variables of which it is asked how they change the ratio."""

ANSWERED = {quantity.name: quantity for quantity in QUANTITIES}


def beyond(results: Results) -> list[Figure]:
    """A figure for each further experiment and operator, in the order of the questions."""
    groups: dict[tuple[str, str], list[Cell]] = {name: [] for name in QUESTIONS}
    for spec, cell in results.cells.items():
        if spec.experiment != EXPERIMENT:
            groups.setdefault((spec.experiment, spec.operator), []).append(cell)
    made = []
    for name, cells in groups.items():
        asked = QUESTIONS.get(name) or Question(f"{capitalised(name[0])}: what does it cost?", "")
        quantity = ANSWERED[asked.quantity]
        found = [panel for panel in panels(cells) if panel.having(quantity)]
        if found:
            axes = Axes(*asked.scales, asked.x, asked.y)
            drawn = figure(asked.title, found, quantity, axes, _furthest(found, quantity), False)
            made.append(replace(drawn, told=asked.told))
    return made


def _furthest(found: Sequence[Panel], quantity: Quantity) -> str:
    """Ours against the best of the others, at the end of the axis, or at both."""
    texts = []
    for title, panel in zip(_titles(found), found, strict=True):
        lines = panel.having(quantity)
        ours = {cell.spec.value: cell for cell in lines.get(OURS, ())}
        rivals: dict[object, list[Cell]] = {}
        for name, cells in lines.items():
            for cell in cells:
                if name != OURS and cell.spec.value in ours:
                    rivals.setdefault(cell.spec.value, []).append(cell)
        values = [value for value in ours if value in rivals] or list(ours)
        if values and all(isinstance(value, int | float) for value in values):
            ends = values[:1] if panel.place.variable in CHANGING else []
            values = list(dict.fromkeys([*ends, values[-1]]))  # else every one: kinds of networks
        told = [_one(ours[value], rivals.get(value, ()), quantity) for value in values]
        if told:
            texts.append(f"{title}: {listed(told)}")
    return f"{'; '.join(texts)}." if texts else "Our own method was not measured here."


def _one(ours: Cell, rivals: Sequence[Cell], quantity: Quantity) -> str:
    found = quantity.of(ours) or 0.0
    word = "for" if ours.spec.variable == "network" else "at"
    text = f"{amount(quantity.kind, found)} {word} {at(ours.spec)}"
    if not rivals:
        return text
    best = min(rivals, key=lambda cell: quantity.of(cell) or 0.0)
    other = quantity.of(best) or 0.0
    if not other:
        return text
    return f"{text} ({ratio(found / other)} of {method(best.spec.method)}, the best other)"


# ------------------------------------------------------------------ predictions and comparisons


def of_predictions(results: Results) -> list[Figure]:
    """For each number that is predicted: measured over predicted."""
    made = []
    for predicted in PREDICTED:
        cells = [cell for cell in results.cells.values() if not cell.failure]
        known = [cell for cell in cells if predicted.both(cell)]
        whole = agreement(predicted, known)
        if whole is None or not any(min(predicted.both(cell) or (0,)) > 0 for cell in known):
            continue
        places = list(dict.fromkeys(where(cell.spec) for cell in known))
        groups = [(name, [c for c in known if where(c.spec) == name]) for name in places]
        groups = [
            (name, some)
            for name, some in groups
            if any(min(predicted.both(cell) or (0,)) > 0 for cell in some)
        ]
        plots = [Plot(name, against(predicted, some)) for name, some in groups]
        methods = ordered([cell.spec.method for cell in known])
        question = f"{capitalised(predicted.title)}: does the prediction hold?"
        made.append(Figure(question, plots, _held(predicted, whole), legend(methods)))
    return made


def _held(predicted: Predicted, whole: Agreement) -> str:
    share = 0.1 if predicted.kind == "bytes" else 0.15
    return (
        f"Measured is {ratio(whole.median)} of predicted in the median, and within "
        f"{100 * share:.0f} % in {whole.within(share)} of {len(whole.quotients)} cells."
    )


def of_comparison(comparison: Comparison, here: str, there: str) -> list[Figure]:
    """By what factor the times differ."""
    times = [change for change in comparison.changes if change.quantity is TIME]
    middle = comparison.typical(times)
    if middle is None:
        return []
    changed = [change for change in times if change.more or change.less]
    methods = ordered([change.now.spec.method for change in times])
    answer = (
        f"The median time is {ratio(middle)} of what it was; {len(changed)} of {len(times)} times "
        f"changed by more than the noise, {sum(c.less for c in changed)} of them to less."
    )
    return [
        Figure(
            "By what factor did times change?",
            [Plot("", factors(times, here, there))],
            answer,
            legend(methods),
        )
    ]
