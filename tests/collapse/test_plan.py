"""What a rewrite costs, which values it sums where they are, and what it says about its sums."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jetfold.collapse.engine import Choice, Engine
from jetfold.collapse.labels import Label, Part
from jetfold.collapse.plan import Shape, Shapes, plan, planned
from jetfold.collapse.program import Leaf


@pytest.fixture
def bent(make, rng):
    """sin(x) and matrices: values along r and b that are not linear in the input."""
    x = make.sin(make.leaf(rng.normal(size=(6, 5, 3))))
    return x, make.leaf(rng.normal(size=(3, 4))), make.leaf(rng.normal(size=(4, 4)))


# ------------------------------------------------------------------ what operations cost


def test_costs(make, rng):
    r, i, j = Label(6), Label(3), Label(4)
    shapes = Shapes()
    assert shapes.sum(Shape((6, 4)), [0]).shape == (4,)
    assert shapes.flops == 5 * 4
    assert shapes.times(Shape((4,)), 2.0).shape == (4,)
    assert shapes.flops == 5 * 4 + 4

    shapes, node = Shapes(), make.matmul(*(make.leaf(rng.normal(size=s)) for s in ((6, 3), (3, 4))))
    left, right = Part(Shape((6, 3)), [r, i]), Part(Shape((3, 4)), [i, j])
    assert shapes.contract(node, left, right, [r, j]).shape == (6, 4)
    assert (shapes.flops, shapes.matmul_flops) == (6 * 4 * (2 * 3 - 1), 6 * 4 * 2 * 3)
    shapes.contract(None, left, right, [j])
    assert shapes.flops == 6 * 4 * 5 + 4 * (2 * 18 - 1)
    assert shapes.matmul_flops == 6 * 4 * 2 * 3  # of products of the program alone

    shapes, sine = Shapes(), make.sin(make.leaf(rng.normal(size=(6, 4))))
    assert shapes.issue(sine, [Shape((1, 4))], (1, 4)).shape == (1, 4)
    assert shapes.flops == 4  # a part of the whole
    for array in (
        shapes.permute_dims(Shape((2, 3)), [1, 0]),
        shapes.reshape(Shape((6,)), (3, 2)),
        shapes.broadcast_to(Shape((3, 1)), (3, 2)),
        shapes.full((3, 2), 0.0, sine),
    ):
        assert array.shape == (3, 2)
    assert shapes.flops == 4


def test_costs_of_loops():
    """A step times the length; the dearest branch."""

    def step(cost):
        def run(arrays, inputs, weights):
            arrays.flops += cost
            return [Shape((2,)), Shape((3,))]

        return run

    class Loop:
        length = 7

    shapes = Shapes()
    made = shapes.repeat(Loop, step(10), [], [Shape((2,))], [Shape((7, 4))], [])
    assert [x.shape for x in made] == [(2,), (7, 3)]
    assert shapes.flops == 70
    made = shapes.choose(Loop, None, [step(1), step(5), step(3)], [], [])
    assert [x.shape for x in made] == [(2,), (3,)]
    assert shapes.flops == 75


def test_the_program_as_it_is(make, bent):
    """What no output needs costs nothing."""
    x, w, _ = bent
    product = make.einsum("rbi,ij->rbj", x, w)
    make.sin(make.sin(product))
    found = plan(make.returning(product))
    assert found.before == 6 * 5 * 3 + 6 * 5 * 4 * (2 * 3 - 1)
    assert found.matmul_before == 6 * 5 * 4 * 2 * 3


def test_the_rewrite(make, bent):
    x, w, _ = bent
    _, found = make.results(make.sum(make.einsum("rbi,ij->rbj", x, w), 0))
    assert found.after == 6 * 5 * 3 + 5 * 5 * 3 + 5 * 4 * (2 * 3 - 1)
    assert (found.matmul_before, found.matmul_after) == (6 * 5 * 4 * 2 * 3, 5 * 4 * 2 * 3)


# ------------------------------------------------------------------ what is needed unsummed


def test_nothing_moves_where_nothing_is_saved(make, bent):
    x, w, _ = bent
    product = make.einsum("rbi,ij->rbj", x, w)
    for outputs in ([product], [product, make.sum(product, 0)], [make.sum(make.sin(product), 0)]):
        _, found = make.results(*outputs)
        assert found.choice is None
        assert found.moves == ()
        assert (found.after, found.matmul_after) == (found.before, found.matmul_before)


def test_a_value_that_is_needed_anyway_is_summed_where_it_is(make, bent):
    """Of two products, only the one whose value nobody needs is summed before."""
    x, w, v = bent
    first = make.einsum("rbi,ij->rbj", x, w)
    second = make.einsum("rbi,ij->rbj", make.plus(first, first), v)
    total = make.sum(second, 0)
    _, found = make.results(total, make.sin(first))
    assert first.number in found.choice.needed
    assert second.number not in found.choice.needed
    assert found.matmul_after == 6 * 5 * 4 * 2 * 3 + 5 * 4 * 2 * 4
    (move,) = found.moves
    assert "its value is needed unsummed too" in move.reasons


def test_sums_over_different_axes(make, rng):
    """Of one product: each goes its own way if that is cheaper than the value."""
    x, w = (make.sin(make.leaf(rng.normal(size=s))) for s in ((40, 30), (30, 20)))
    product = make.matmul(x, w)
    _, found = make.results(make.sum(product, 0), make.sum(product, 1))
    assert found.matmul_after == 2 * 30 * 20 + 2 * 30 * 40
    assert len(found.moves) == 2


def test_what_sums_have_in_common_is_made_once(make, rng):
    x, w = (make.sin(make.leaf(rng.normal(size=s))) for s in ((20, 30, 5), (5, 7)))
    product = make.einsum("rbi,ij->rbj", x, w)
    parts = [make.sum(product, 0, 1), make.sum(product, 0, 2), make.sum(product, 0)]
    _, found = make.results(*parts)
    assert found.matmul_after <= found.matmul_before / 20 + 2 * 5 * (7 + 30)


# ------------------------------------------------------------------ factors


def test_factors_leave_a_sum_of_products(make, rng):
    """Σ_r (a u_r)(b u_r) = a b Σ_r u_r²."""
    u = make.leaf(rng.normal(size=(50, 8)))
    a, b = (make.leaf(rng.normal(size=8)) for _ in range(2))
    total = make.sum(make.mul(make.mul(a, u), make.mul(u, b)), 0)
    (value,), found = make.results(total)
    np.testing.assert_allclose(
        value,
        make.array(a) * make.array(b) * (make.array(u) ** 2).sum(0),
    )
    assert found.choice.factored
    assert found.before == 3 * 50 * 8 + 49 * 8
    assert found.after == 8 * (2 * 50 - 1) + 2 * 8
    costs = {}
    for factored in (False, True):
        shapes = Shapes()
        Engine(shapes, Choice(factored=factored)).run(make.returning(total))
        costs[factored] = shapes.flops
    assert costs[True] < costs[False] <= found.before


def test_products_that_share_a_contraction(make, rng):
    """Σ (a u)(b u), Σ u (c u) and Σ (u + a u) u are one contraction."""
    u = make.leaf(rng.normal(size=(50, 8)))
    a, b, c = (make.leaf(rng.normal(size=8)) for _ in range(3))
    outputs = [
        make.sum(make.mul(make.mul(a, u), make.mul(b, u)), 0),
        make.sum(make.mul(u, make.mul(c, u)), 0),
        make.sum(make.mul(make.plus(u, make.mul(a, u)), u), 0),
    ]
    _, found = make.results(*outputs)
    assert found.after < 8 * 2 * 50 + 8 * 10


# ------------------------------------------------------------------ the story of the sums


def test_stories(make, rng):
    """Every sum says what it passed, what stopped it and why."""
    x, c = make.leaf(rng.normal(size=(6, 3))), make.leaf(rng.normal(size=3))
    w = make.leaf(rng.normal(size=(3, 4)))
    product = make.matmul(make.mul(make.sin(x), c), w)
    outer = make.sum(make.transpose(product, 1, 0), 1)
    _, found = make.results(outer)
    (move,) = found.moves
    assert move.source == "sum"
    assert [name for _, name in move.passed] == ["multiply", "contract", "transpose"]
    assert [name for _, name in move.stopped] == ["sin"]
    assert move.reasons == ("not linear in what carries the axis",)
    assert [make.nodes[number].name for number, _ in move.passed] == [x for _, x in move.passed]


def test_stories_of_sums_in_sums(make, bent):
    """The outer sum is told with what is behind the inner one."""
    x, w, _ = bent
    inner = make.sum(make.einsum("rbi,ij->rbj", x, w), 1)
    _, found = make.results(make.sum(inner, 0))
    assert [move.source for move in found.moves] == ["sum", "sum"]
    outside, inside = found.moves
    assert [name for _, name in outside.passed] == ["sum"]
    assert [name for _, name in inside.passed] == ["contract"]


# ------------------------------------------------------------------ plans are kept


def planned_anew(program):
    """How many plans were made for it."""
    before = planned.cache_info().misses
    plan(program)
    return planned.cache_info().misses - before


def summed_product(make, x, w, zero=False, sign=1):
    made = make.einsum("rbi,ij->rbj", make.leaf(x), make.leaf(w))
    if zero:
        made = make.plus(made, make.zeros(*made.shape), sign)
    return make.returning(make.sum(make.plus(made, made, sign), 0))


def test_programs_of_one_structure_are_planned_once(builder, rng):
    """Arrays do not count; shapes, dtypes, operations and known zeros do."""
    planned.cache_clear()
    x, w = rng.normal(size=(6, 5, 3)), rng.normal(size=(3, 4))
    first = summed_product(builder(), x, w)
    again = summed_product(builder(), 2 * x, w + 1)
    assert first == again
    assert hash(first) == hash(again)
    assert planned_anew(first) == 1
    assert planned_anew(again) == 0
    assert plan(again) is plan(first)
    others = [
        summed_product(builder(), x[:5], w),
        summed_product(builder(), x, w, sign=-1),
        summed_product(builder(), x, w, zero=True),
        summed_product(builder(), x, w, zero=True, sign=-1),
    ]
    assert [planned_anew(program) for program in others] == [1] * 4
    assert planned.cache_info().maxsize is not None


def test_a_plan_holds_no_arrays(make, rng):
    program = summed_product(make, rng.normal(size=(6, 5, 3)), rng.normal(size=(3, 4)))
    with pytest.raises(AssertionError, match="cannot be evaluated"):
        program.structure().nodes[0].issue((), (6, 5, 3))


def test_what_cannot_be_compared_is_planned_every_time(make, rng):
    """As a symbolic shape."""

    class Length(int):
        __hash__ = None

    x = make.leaf(rng.normal(size=(6, 3)))
    wide = make("input", (), (Length(6), 3), Leaf(), lambda: rng.normal(size=(6, 3)))
    total = make.sum(make.matmul(make.plus(x, wide), make.leaf(rng.normal(size=(3, 4)))), 0)
    program = make.returning(total)
    assert planned_anew(program) == 0
    assert plan(program) is not plan(program)
    assert plan(program).matmul_after == plan(program).matmul_before / 6


# ------------------------------------------------------------------ random programs

STEPS = ("add", "sub", "mul", "div", "sin", "sum", "matmul", "bmm", "transpose", "merge", "wide", "cumsum", "zero", "eye", "diagonal", "outer")  # fmt: skip


def grown(builder, steps, seed):
    """A program from (operation, operands, a number that decides the rest)."""
    make, rng = builder(), np.random.default_rng(seed)
    values = [make.leaf(rng.normal(size=s)) for s in ((5, 4), (2, 3, 4))]
    for name, which, other, number in steps:
        x = values[which % len(values)]
        rank = len(x.shape)
        if not rank:
            continue
        axis = number % rank
        alike = [y for y in values if y.shape == x.shape]
        y = alike[other % len(alike)]
        if name in ("add", "sub"):
            made = make.plus(x, y, 1 if name == "add" else -1)
        elif name == "mul":
            shape = x.shape[rank - axis :] if other % 2 else (1,) * (rank - 1) + x.shape[-1:]
            made = make.mul(x, y if number % 3 else make.leaf(rng.normal(size=shape)))
        elif name == "div":
            made = make.div(x, make.leaf(rng.uniform(1, 2, size=x.shape[rank - axis :])))
        elif name == "sin":
            made = make.sin(x)
        elif name == "sum":
            made = make.sum(x, axis, keepdims=bool(other % 2))
        elif name == "matmul":
            letters = "abcdef"[:rank]
            matrix = make.leaf(rng.normal(size=(x.shape[axis], 2)))
            formula = f"{letters},{letters[axis]}z->{letters.replace(letters[axis], 'z')}"
            made = make.einsum(formula, x, matrix)
        elif name == "bmm":
            letters = "abcdef"[:rank]
            made = make.einsum(f"{letters},{letters}->{letters.replace(letters[axis], '')}", x, y)
        elif name == "transpose":
            made = make.transpose(x, *range(1, rank), 0)
        elif name == "merge":
            split = axis + 1 if axis + 1 < rank else rank
            merged = (
                *x.shape[:axis],
                int(np.prod(x.shape[axis : split + 1])),
                *x.shape[split + 1 :],
            )
            made = make.reshape(x, *merged)
        elif name == "wide" and rank < 4:
            made = make.broadcast(x, 3, *x.shape)
        elif name == "cumsum":
            made = make.cumsum(x, axis)
        elif name == "eye":
            letters, eye = "abcdef"[:rank], make.identity(x.shape[axis])
            if other % 2:
                formula = f"{letters},{letters[axis]}z->{letters.replace(letters[axis], 'z')}"
                made = make.einsum(formula, x, eye)
            else:
                wide = make.broadcast(x, x.shape[-1], *x.shape)
                order = [*range(1, rank), 0, rank]
                made = make.mul(make.transpose(wide, *order), make.identity(x.shape[-1]))
        elif name == "diagonal":
            pairs = [(j, k) for k in range(rank) for j in range(k) if x.shape[j] == x.shape[k]]
            if not pairs:
                continue
            made = make.diagonal(x, *pairs[number % len(pairs)])
        elif name == "outer" and rank < 3:
            letters, others = "ab"[:rank], "cd"[: len(y.shape)]
            made = make.einsum(f"{letters},{others}->{letters}{others}", x, y)
        elif name == "zero":
            made = make.mul(x, make.zeros(*x.shape))
        else:
            continue
        values.append(make.sum(made, 0) if np.prod(made.shape) > 500 else made)
    return make, values


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(STEPS), *[st.integers(0, 5)] * 3), min_size=1, max_size=10
    ),
    seed=st.integers(0, 99),
    several=st.booleans(),
)
def test_random_programs(builder, steps, seed, several):
    """Never dearer than the program, and the same values; without a framework."""
    make, values = grown(builder, steps, seed)
    last = values[-1]
    total = make.sum(last, *range(len(last.shape)))
    make.results(total, *([values[len(values) // 2]] if several else []))
