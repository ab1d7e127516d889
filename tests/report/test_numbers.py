"""What the page says is computed from the results: ratios, reasons, losses, changes, sentences."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jetfold.bench.results import Cell, Results, Spec
from jetfold.report import figures, tables
from jetfold.report.compare import compare
from jetfold.report.losses import losses, pairs
from jetfold.report.paper import differences, lines
from jetfold.report.predictions import PREDICTED, agreement
from jetfold.report.quantities import COMPILE, ERROR, PEAK, PEAK_DIFFERENTIABLE, TIME
from jetfold.report.reasons import reason
from jetfold.report.series import panels
from jetfold.report.summary import summary

SPEC = Spec("paper", "torch", "eager", "laplacian", "minimal", "batch", 50, 16)

RATIOS = {  # vectors × overhead / rows of nested: see conftest
    ("laplacian", "batch", "standard"): 101 * 1.2 / 104,
    ("laplacian", "batch", "collapsed"): 52 * 1.04 / 104,
    ("laplacian", "batch", "minimal"): 52 / 104,
    ("biharmonic", "batch", "collapsed"): 109 * 1.04 / 200,
    ("biharmonic", "batch", "minimal"): 27 / 200,
    ("laplacian", "samples", "collapsed"): 1 / 2,
    ("biharmonic", "samples", "collapsed"): 3 / 8,
    ("biharmonic", "samples", "standard"): 4 / 8,
}


def by_name(results):
    """The lines of the paper's table for PyTorch, eager."""
    found = [one for one in lines(results) if one.panel.place.mode == "eager"]
    return {(one.panel.place.operator, one.panel.place.variable, one.method): one for one in found}


# ------------------------------------------------------------------ slopes and reasons


def test_slopes_are_what_the_results_were_made_of(whole):
    found = by_name(whole)
    assert len(lines(whole)) == 3 * 5 * 4
    for name, ratio in RATIOS.items():
        assert found[name].ratio(TIME) == pytest.approx(ratio, rel=0.01), name
    minimal = found["biharmonic", "batch", "minimal"]
    assert minimal.slope(TIME) == pytest.approx(0.96 * 27e-5, rel=0.01)  # of the fastest calls
    assert minimal.slope(PEAK) == pytest.approx(27 * 6e3)
    assert minimal.ratio(PEAK_DIFFERENTIABLE) == pytest.approx(27 / 200)
    assert found["biharmonic", "batch", "collapsed"].published() == 0.55
    assert minimal.published() is None
    assert found["biharmonic", "samples", "standard"].published(PEAK_DIFFERENTIABLE) == 0.30


def test_a_slope_needs_two_sizes_and_a_ratio_two_methods(made):
    some = [cell for cell in made.paper() if cell.spec.batch == 128 and cell.spec.samples is None]
    assert all(one.slope(TIME) is None and one.ratio() is None for one in lines(made.results(some)))
    ours = [cell for cell in made.paper() if cell.spec.method == "minimal"]
    assert all(one.ratio() is None for one in lines(made.results(ours)))


def test_a_panel_has_its_methods_in_order_and_its_cells_ascending(whole):
    cells = [c for c in whole.cells.values() if c.spec.experiment == "paper"]
    for panel in panels(reversed(cells)):
        assert list(panel.lines) == ["nested", "standard", "collapsed", "minimal"]
        for found in panel.lines.values():
            values = [cell.spec.value for cell in found]
            assert values == sorted(values) and len(values) == 4


def test_the_reason_takes_a_ratio_apart(whole):
    found = by_name(whole)
    exact = reason(found["biharmonic", "batch", "collapsed"].panel)
    assert exact.vectors == pytest.approx(109)
    assert exact.overhead == pytest.approx(0.96 * 1.04, rel=0.01)  # the limit is a median
    assert exact.nested == pytest.approx(0.96 * 200, rel=0.01)
    assert exact.flops == pytest.approx(109 / 200)
    sampled = found["biharmonic", "samples", "collapsed"]
    why = reason(sampled.panel)
    assert (why.vectors, why.nested) == (pytest.approx(3), pytest.approx(0.96 * 8))
    assert why.ratio == pytest.approx(sampled.ratio())


def test_what_is_far_from_the_paper_is_given_its_reason(whole):
    found = differences(lines(whole))
    assert len(found) == 3  # in each framework and mode
    assert found[0] == (
        "Biharmonic (D = 5, batch 128), PyTorch eager: 0.38 where the paper has 0.11: 3.00 vectors "
        "per sample × 0.96 for each / 7.68 for nested; at the published ratio nested would take "
        "26.2; counted, 0.38 of nested's operations, 1.00 times as many a second."
    )


def test_no_reason_is_given_that_was_not_measured(made):
    cells = [replace(cell, limit=None) for cell in made.paper()]
    found = differences(lines(made.results(cells)))
    assert len(found) == 3
    assert all("which were not measured" in text for text in found)


# ------------------------------------------------------------------ losses


def test_losses_are_named_with_their_winner_and_nothing_else(whole):
    found = losses(whole)
    assert [(one.rival, one.quantity, one.lost, one.compared) for one in found] == [
        *[("nested", TIME, 1, 4)] * 3,  # one sample of the Laplacian: 3 rows where nested takes 2
        ("folx", TIME, 1, 1),
        *[("nested", PEAK_DIFFERENTIABLE, 1, 4)] * 3,
    ]
    assert found[0].worst.factor == pytest.approx(1.5)
    assert found[0].worst.ours.spec.samples == 1
    rows = tables.of_losses(found).rows
    assert [entry.text for entry in rows[3]] == [
        *("order", "∂ₓᵏ, D = 1, batch 32", "JAX compiled", "time", "folx"),
        *("1 of 1", "order 2", "1.50 ms", "1.00 ms", "1.50"),
    ]


def test_none_is_lost_within_the_noise(made):
    close = Cell(replace(SPEC, method="folx"), time=made.timing(1.00e-3))
    ours = Cell(SPEC, time=made.timing(1.03e-3))
    results = made.results([close, ours])
    assert len(list(pairs(results))) == 1
    assert losses(results) == []
    assert "In none of 1 comparisons" in summary(results)[2]


def test_what_was_timed_once_is_not_compared(made):
    single = [replace(made.timing(1e-3 * k), repeats=1) for k in (1, 9)]
    cells = [Cell(replace(SPEC, method="folx"), time=single[0]), Cell(SPEC, time=single[1])]
    assert list(pairs(made.results(cells))) == []
    assert compare(made.results(cells), made.results(cells)).changes == ()


@pytest.mark.parametrize(
    ("quantity", "less", "same", "more"),
    [
        (PEAK, 100e6, 109e6, 111e6),
        (PEAK, 1e6, 1.9e6, 2.1e6),
        (PEAK_DIFFERENTIABLE, 100e6, 109e6, 111e6),
        (COMPILE, 8.0, 9.9, 10.1),
        (COMPILE, 0.1, 0.5, 0.7),
        (ERROR, 1e-5, 1.9e-5, 2.1e-5),
        (ERROR, 1e-7, 1.0e-6, 1.2e-6),
    ],
)
def test_from_where_on_something_is_more(quantity, less, same, more):
    small, near, large = (Cell(SPEC, **{quantity.name: value}) for value in (less, same, more))
    assert quantity.more(large, small)
    assert not quantity.more(near, small)
    assert not quantity.more(small, large)


# ------------------------------------------------------------------ two results


def test_a_comparison_flags_what_changed_and_nothing_else(made):
    before = made.results(made.paper())
    specs = list(before.cells)
    slower, larger, noisy, quicker, gone = (before.cells[specs[k]] for k in (3, 40, 80, 120, 7))
    now = made.results(list(before.cells.values()))
    now.add(
        [
            replace(slower, time=made.timing(1.3 * slower.time.median)),
            replace(larger, peak=round(1.3 * larger.peak + 1e6)),
            replace(noisy, time=made.timing(1.03 * noisy.time.median), peak=noisy.peak + 500_000),
            replace(quicker, time=made.timing(quicker.time.median / 2)),
        ]
    )
    del now.cells[gone.spec]
    found = compare(now, before)
    assert (found.only_now, found.only_before) == (0, 1)
    flagged = [(change.now.spec, change.quantity.name, change.more) for change in found.changed]
    assert flagged == [
        (quicker.spec, "time", False),
        (larger.spec, "peak", True),
        (slower.spec, "time", True),
    ]
    assert found.changed[0].factor == pytest.approx(0.5)
    (figure,) = figures.of_comparison(found, "new", "old")
    assert "2 of 239 times changed by more than the noise, 1 of them to less" in figure.answer


def test_two_machines_are_compared_by_their_ratios(made):
    now, before = (made.results(made.paper(scale=scale)) for scale in (1.0, 3.0))
    table = tables.of_ratios(lines(now), lines(before), "here", "there")
    assert len(table.rows) == 3 * 5 * 3
    for row in table.rows:
        assert row[4].value == pytest.approx(row[5].value)  # three times as slow, the same ratios
    (figure,) = figures.of_comparison(compare(now, before), "here", "there")
    assert "The median time is 0.33 of what it was; 240 of 240" in figure.answer


# ------------------------------------------------------------------ sentences


def test_the_summary_is_three_sentences_with_the_numbers(whole):
    ours, collapsed, lost = summary(whole)
    for part in ("a processor", "0.50 (Laplacian)", "0.13 to 0.14 (biharmonic)"):
        assert part in ours
    assert "0.14 to 0.50 of the memory" in ours
    for part in (
        "0.52 (Laplacian, published 0.48 to 0.50)",
        "0.38 (stochastic biharmonic, published 0.11)",
    ):
        assert part in collapsed
    assert "9 of 12 ratios are within 15 %" in collapsed
    assert (
        "in time (4) and peak memory with gradients (3), by nested first-order AD (6) and folx (1)"
        in lost
    )
    assert "7 of 553 comparisons" in lost
    assert "at most 1.50 times, by nested first-order AD (Laplacian, PyTorch eager, S = 1)" in lost


def test_every_figure_is_a_question_with_an_answer(whole):
    found = [*figures.of_paper(whole), *figures.beyond(whole), *figures.of_predictions(whole)]
    assert len(found) == 5 * 3 + 3 + 4
    assert all(one.question.endswith("?") and one.answer.endswith(".") for one in found)
    questions = {one.question: one for one in found}
    time = questions["Biharmonic (D = 5): how much time does each further datum take?"]
    assert "260 µs (0.14 of nested's) in PyTorch eager" in time.answer
    assert [plot.title for plot in time.plots] == [
        "PyTorch eager",
        "PyTorch compiled",
        "JAX compiled",
    ]
    dimension = questions["How does the cost of the biharmonic grow with the dimension?"]
    assert dimension.answer == (
        "PyTorch eager: 400 ms at D = 20 (0.55 of collapsed Taylor mode, the best other)."
    )


def test_kinds_and_pieces_and_both_ends_of_a_width(made):
    def cells(experiment, variable, values, **fixed):
        for method, factor in (("nested", 4.0), ("minimal", 1.0)):
            for k, value in enumerate(values):
                given = {"dimension": 12, "batch": 8} | fixed | {variable: value}
                spec = Spec(experiment, "jax", "compiled", "laplacian", method, variable, **given)
                spec = replace(spec, chunk=128 if spec.dimension >= 256 else None)
                yield Cell(spec, time=made.timing(1e-3 * factor * (1 if k else 2)))

    results = made.results(
        [
            *cells("dimension", "dimension", [10, 100, 1000]),
            *cells("kinds", "network", ["mlp", "transformer"]),
            *cells("width", "width", [0.5, 1.0]),
        ]
    )
    dimension, width, kinds = figures.beyond(results)
    assert [len(one.plots) for one in (dimension, width, kinds)] == [1, 1, 1]
    assert dimension.plots[0].drawn["data"][0]["x"] == [10, 100, 1000]
    assert dimension.answer.startswith("JAX compiled: 1.00 ms at D = 1000 (0.25 of nested")
    assert "2.00 ms for the mlp" in kinds.answer and "1.00 ms for the transformer" in kinds.answer
    assert "at widths × 0.5 (0.25" in width.answer and "at widths × 1.0 (0.25" in width.answer
    assert kinds.plots[0].drawn["data"][0]["x"] == ["mlp", "transformer"]


def test_predictions_are_held_against_what_was_measured(whole):
    flops = agreement(PREDICTED[1], whole.cells.values())
    kept = agreement(PREDICTED[2], whole.cells.values())
    assert flops.median == 1.0 and flops.within(0.01) == len(flops.quotients) == 180
    assert kept.median == pytest.approx(20 / 18) and kept.within(0.1) == 0
    rows = tables.of_predictions(whole).rows
    assert rows[0][-2].value is None  # nothing is predicted for nested
    assert all(row[-2].value == pytest.approx(20 / 18) for row in rows[1:4])


def test_nothing_is_said_of_what_was_not_measured():
    empty = Results("quick", cells={SPEC: Cell(SPEC, failure="interrupted")})
    assert len(summary(empty)) == 3
    assert "have not both been measured" in summary(empty)[0]
    assert figures.of_paper(empty) == figures.beyond(empty) == figures.of_predictions(empty) == []
    assert tables.of_predictions(empty) is None
