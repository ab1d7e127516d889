"""What could give wrong numbers without a word: for each, the right numbers or an error with text."""

from __future__ import annotations

import copy
import functools
import pickle
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

import jetfold as jf

F64 = torch.float64
x, y, z = jf.partials(3, names="x y z")


close = partial(torch.testing.assert_close, rtol=1e-9, atol=1e-9)


def net(outputs=1):
    """A network of three coordinates."""
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, outputs)).double()


def points(n=5):
    return torch.randn(n, 3, dtype=F64)


def hessians(f, p):
    """Of one number per point: (N, 3, 3)."""
    return torch.stack([torch.func.hessian(lambda q: f(q[None]).reshape(()))(q) for q in p])


def hessian_trace(f, p):
    return torch.func.hessian(f)(p).reshape(p.numel(), p.numel()).trace()


# ------------------------------------------------------------------ coefficients and their shapes

ALIGNED = {"scalar": (), "one": (1,), "points": (5,), "column": (5, 1)}


@pytest.mark.parametrize("out", [(5,), (5, 1), (5, 4)], ids=str)
@pytest.mark.parametrize("shape", ALIGNED.values(), ids=ALIGNED)
@pytest.mark.parametrize("kind", ["array", "callable"])
def test_a_coefficient_is_lined_up_with_the_points(kind, shape, out):
    p, f = points(), net(4 if out == (5, 4) else 1)
    g = (lambda p: f(p)[:, 0]) if out == (5,) else f
    c = torch.rand(shape, dtype=F64, requires_grad=True)
    given = c if kind == "array" else lambda p: c
    bare = (x**2)(g, batch_dims=1)(p)
    rows = c.reshape(-1).expand(5).reshape(5, *(1,) * (len(out) - 1))
    close((given * x**2 + y)(g, batch_dims=1)(p), rows * bare + y(g, batch_dims=1)(p))
    close((given * jf.laplacian)(g, batch_dims=1)(p), rows * jf.laplacian(g, batch_dims=1)(p))
    both = jf.derivatives({"c": given * x**2})(g, batch_dims=1, method="nested")(p)["c"]
    close(both, rows * bare)


def test_a_coefficient_of_the_shape_of_the_output():
    p, f = points(), net(4)
    c = torch.rand(5, 4, dtype=F64)
    close((c * x)(f, batch_dims=1)(p), c * x(f, batch_dims=1)(p))
    per_output = torch.rand(1, 4, dtype=F64)
    close((per_output * x)(f, batch_dims=1)(p), per_output * x(f, batch_dims=1)(p))


@pytest.mark.parametrize("method", ["minimal", "nested"])
@pytest.mark.parametrize("shape", [(4,), (3, 1), (1, 5), (5, 5), (2, 5, 1)], ids=str)
def test_a_coefficient_of_another_shape_is_refused(shape, method):
    with pytest.raises(ValueError, match=r"coefficient of shape .* output of shape \(5, 1\)"):
        (torch.rand(shape) * x)(net(), batch_dims=1, method=method)(points())


def test_randomized_operators_line_up_their_coefficients():
    p, f = points(), net()
    c, rng = torch.rand(5, dtype=F64), torch.Generator().manual_seed(0)
    c_lap = jf.randomize(c * (x**2 + y**2 + z**2), samples=1)
    bare = jf.randomize(x**2 + y**2 + z**2, samples=1)
    result = c_lap(f, batch_dims=1)(p, rng=rng)
    close(result, c[:, None] * bare(f, batch_dims=1)(p, rng=rng.manual_seed(0)))


# ------------------------------------------------------------------ coefficients that are trained


def test_a_product_of_coefficients_is_evaluated_in_every_call():
    k = nn.Parameter(torch.tensor([0.7], dtype=F64))
    p, f = points(), net()
    operator = k * (k * x**2) + (lambda p: k) * (2 * y)
    for value in (0.7, -1.3):
        with torch.no_grad():
            k.fill_(value)
        second, first = (x**2)(f, batch_dims=1)(p), y(f, batch_dims=1)(p)
        result = operator(f, batch_dims=1)(p)
        close(result, value**2 * second + 2 * value * first)
        (slope,) = torch.autograd.grad(result.sum(), k)
        close(slope.reshape(()), (2 * value * second + 2 * first).sum())


def test_an_optimiser_steps_and_a_callable_follows():
    k = nn.Parameter(torch.tensor(0.3, dtype=F64))
    p, f = points(), net()
    operator = (lambda p: k.exp()) * x**2
    optimiser = torch.optim.SGD([k], lr=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        residual = operator(f, batch_dims=1)(p)
        close(residual, k.exp() * (x**2)(f, batch_dims=1)(p))
        residual.square().sum().backward()
        optimiser.step()


@pytest.mark.parametrize("make", [lambda k: k.exp() * x**2, lambda k: (2 * k) * jf.laplacian])
def test_what_was_computed_from_a_parameter_is_refused_once_that_changed(make):
    k = nn.Parameter(torch.tensor(0.3, dtype=F64))
    p, f = points(), net()
    operator = make(k)
    twice = operator(f, batch_dims=1)(p).sum() + operator(f, batch_dims=1)(p).sum()
    twice.backward()  # the same step: that is right
    torch.optim.SGD([k], lr=0.1).step()
    with pytest.raises(RuntimeError, match=r"lambda p: k\.exp"):
        operator(f, batch_dims=1)(p)


def test_a_trained_sigma_is_not_frozen_either():
    k = nn.Parameter(torch.eye(3, dtype=F64))
    p, f = points(), net()
    once = jf.weighted_laplacian(sigma=2 * k), jf.weighted_laplacian(C=k @ k.T)
    always = (
        jf.weighted_laplacian(sigma=lambda p: 2 * k),
        jf.weighted_laplacian(C=lambda p: k @ k.T),
    )
    before = [operator(f, batch_dims=1)(p) for operator in (*once, *always)]
    with torch.no_grad():
        k.mul_(2)
    for operator, value in zip(always, before[2:], strict=True):
        close(operator(f, batch_dims=1)(p), 4 * value)
    for operator in once:
        with pytest.raises(RuntimeError, match="keep its old value"):
            operator(f, batch_dims=1)(p)


class Diffusion(nn.Module):
    """Holds an operator whose coefficient is its own."""

    def __init__(self):
        super().__init__()
        self.k = nn.Parameter(torch.tensor(0.5, dtype=F64))
        self.net = net()
        self.operator = (lambda p: self.k) * x**2 - y

    def forward(self, p):
        return self.operator(self.net, batch_dims=1)(p)


class Holding(Diffusion):
    """Holds one that was made from its parameter itself."""

    def __init__(self):
        super().__init__()
        self.operator = self.k * x**2 - y


class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Holding()
        self.operator = self.inner.k * z

    def forward(self, p):
        return self.inner(p) + self.operator(self.inner.net, batch_dims=1)(p)


def expected(module, k, p):
    """Of a Nested with another parameter."""
    of = lambda operator: operator(module.inner.net, batch_dims=1)(p)
    return k * of(x**2) - of(y) + k * of(z)


def replaced(k):
    return torch.tensor(k, dtype=F64)


def test_an_operator_follows_the_parameter_of_its_module():
    module, p = Nested(), points()
    close(module(p), expected(module, 0.5, p))
    of = lambda params: torch.func.functional_call(module, params, (p,))
    close(of({"inner.k": replaced(3.0)}), expected(module, 3.0, p))
    slope = torch.func.grad(lambda params: of(params).sum())(dict(module.named_parameters()))
    module(p).sum().backward()
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            close(slope[name], parameter.grad)
    assert module.inner.k.grad is not None
    module.load_state_dict({**module.state_dict(), "inner.k": replaced(-2.0)}, assign=True)
    close(module(p), expected(module, -2.0, p))
    compiled = torch.compile(module, fullgraph=True, backend="eager")
    close(compiled(p), expected(module, -2.0, p))
    module.load_state_dict({**module.state_dict(), "inner.k": replaced(0.7)}, assign=True)
    close(compiled(p), expected(module, 0.7, p))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_of_a_module_follows_its_own_parameter(copied):
    module, p = Nested(), points()
    other = copied(module)
    of = torch.func.functional_call(other, {"inner.k": replaced(3.0)}, (p,))
    close(of, expected(module, 3.0, p))
    other.inner.k = nn.Parameter(replaced(1.0))
    close(other(p), expected(module, 1.0, p))
    close(module(p), expected(module, 0.5, p))


def test_an_ensemble_of_modules_that_hold_operators():
    models, p = [Nested() for _ in range(3)], points()
    params, buffers = torch.func.stack_module_state(models)
    base = copy.deepcopy(models[0]).to("meta")
    of = lambda *state: torch.func.functional_call(base, state, (p,))
    close(torch.func.vmap(of)(params, buffers), torch.stack([model(p) for model in models]))


def test_a_parameter_that_is_registered_after_the_operator_was_made():
    k, f, p = nn.Parameter(replaced(2.0)), net(), points()
    operator, second = k * x**2, (x**2)(f, batch_dims=1)(p)
    f.k = k
    close(operator(f, batch_dims=1)(p), 2 * second)
    f.k = nn.Parameter(replaced(7.0))
    close(operator(f, batch_dims=1)(p), 7 * second)
    close((k * x**2)(f, batch_dims=1)(p), 2 * second)  # made from the old one, on purpose


def test_an_operator_made_inside_of_functional_call_stays_with_its_tensor():
    class Making(Diffusion):
        def forward(self, p):
            self.made = self.k * x**2
            return self.made(self.net, batch_dims=1)(p)

    module, other, p = Making(), nn.Parameter(replaced(3.0)), points()
    second = (x**2)(module.net, batch_dims=1)(p)
    close(torch.func.functional_call(module, {"k": other}, (p,)), 3 * second)
    close(module.made(module.net, batch_dims=1)(p), 3 * second)
    close((other * x**2)(module.net, batch_dims=1)(p), 3 * second)
    close(module(p), 0.5 * second)


def test_a_parameter_of_two_modules_that_no_longer_share_it():
    one, two, p = Diffusion(), Diffusion(), points()
    two.k = one.k
    operator = one.k * x**2
    one.k = nn.Parameter(replaced(1.0))
    with pytest.raises(RuntimeError, match=r"\(lambda p: module\.k\) \* x\*\*2 in place of"):
        operator(one.net, batch_dims=1)(p)
    two.k = one.k
    close(operator(one.net, batch_dims=1)(p), (x**2)(one.net, batch_dims=1)(p))
    parametrize.register_parametrization(one, "k", nn.Softplus())
    with pytest.raises(RuntimeError, match="or none"):
        operator(one.net, batch_dims=1)(p)


def test_what_was_computed_from_a_parameter_is_refused_where_that_is_replaced():
    module, p = Diffusion(), points()
    module.operator = module.k.exp() * x**2
    close(module(p), module.k.exp() * (x**2)(module.net, batch_dims=1)(p))
    with pytest.raises(RuntimeError, match=r"lambda p: k\.exp"):
        torch.func.functional_call(module, {"k": replaced(3.0)}, (p,))
    module.load_state_dict(module.state_dict(), assign=True)
    with pytest.raises(RuntimeError, match=r"lambda p: k\.exp"):
        module(p)


def test_a_leaf_that_a_transform_around_does_not_reach():
    k, f, p = replaced(0.5).requires_grad_(), net(), points()
    operator = k * x**2
    with pytest.warns(jf.JetfoldWarning, match=r"write \(lambda p: self\.k\)"):
        torch.func.grad(lambda k: operator(f, batch_dims=1)(p).sum())(k)
    torch.func.grad(lambda k: (k * x**2)(f, batch_dims=1)(p).sum())(k)  # no warning


def test_a_module_that_holds_an_operator_by_a_callable():
    module, p = Diffusion(), points()
    second = (x**2)(module.net, batch_dims=1)(p)
    first = y(module.net, batch_dims=1)(p)

    def of(params):
        return torch.func.functional_call(module, params, (p,)).sum()

    params = {**dict(module.named_parameters()), "k": torch.tensor(3.0, dtype=F64)}
    close(of(params), (3 * second - first).sum())
    close(torch.func.grad(of)(params)["k"], second.sum())
    state = {**module.state_dict(), "k": torch.tensor(-2.0, dtype=F64)}
    module.load_state_dict(state, assign=True)
    close(module(p), -2 * second - first)


# ------------------------------------------------------------------ constants: torch.no_grad inside

W = torch.tensor([0.7, -1.2, 0.4], dtype=F64, requires_grad=True)
linear = nn.Linear(3, 3).double()


def with_block(p):
    with torch.no_grad():
        c = (p**3 * W).sum()
    return c * (p**2 * W).sum()


@torch.no_grad()
def constant(p):
    return (p**3).sum() + linear(p).tanh().sum()


def with_decorator(p):
    return constant(p) * (p**2 * W).sum()


def with_statements(p):
    torch.set_grad_enabled(False)
    c = p.exp().sum()
    torch.set_grad_enabled(True)
    return c * (p**2 * W).sum()


def with_set_grad_enabled(p):
    with torch.set_grad_enabled(False):
        c = p.exp().sum()
        with torch.enable_grad():
            d = (p**4).sum()
        e = p.sin().sum()
    return c * d * e * (p**2).sum()


def with_inference_mode(p):
    with torch.inference_mode():
        c = p.exp().sum()
    return c.clone() * (p**2 * W).sum()


class Inside(nn.Module):
    """Computes its attention weights without gradients."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3).double()

    def forward(self, p):
        with torch.no_grad():
            weights = torch.softmax(self.linear(p), -1)
        return weights * p**3


def in_a_module(p, module=Inside()):  # noqa: B008
    return (module(p) * W).sum()


def written_in_place(p):
    """The value changes, the derivatives do not know."""
    q = p * W
    with torch.no_grad():
        q.mul_(3)
        q[0] = 2.0
        q[1:].clamp_(-1, 1)
    return (q**2 * p).sum()


def straight_through(p):
    z = p**3
    with torch.no_grad():
        rest = z.round() - z
    return ((z + rest) ** 2).sum()


def in_a_transform(p):
    """torch.func.vmap inside: the general rule."""
    with torch.no_grad():
        c = (p**3).sum()
    return torch.func.vmap(lambda row: row**2)(p).sum() * c


CONSTANTS = [
    with_block,
    with_decorator,
    with_statements,
    with_set_grad_enabled,
    with_inference_mode,
    in_a_module,
    written_in_place,
    straight_through,
    in_a_transform,
]


LACKS_DUALS = torch.__version__.startswith("2.11.")  # under vmap, in inference mode: docs/versions


@pytest.mark.filterwarnings("ignore::jetfold.JetfoldWarning")
@pytest.mark.parametrize("around", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("f", CONSTANTS, ids=lambda f: f.__name__)
def test_what_is_computed_under_no_grad_is_constant(f, around):
    p = torch.randn(3, dtype=F64)
    expected = torch.autograd.functional.hessian(f, p)  # reverse over reverse, which says so
    with around():
        close(jf.hessian(f)(p), expected)
        for method in ("minimal", "standard", "nested"):
            if method == "nested" and around is torch.inference_mode and LACKS_DUALS:
                with pytest.raises(RuntimeError, match="Batching rule not implemented"):
                    jf.laplacian(f, method=method)(p)
                continue
            close(jf.laplacian(f, method=method)(p), expected.trace())
            close((x * y + z**2)(f, method=method)(p), expected[0, 1] + expected[2, 2])
        if around is not torch.inference_mode:
            close(torch.func.vmap(jf.laplacian(f))(p[None])[0], expected.trace())
        assert torch.is_grad_enabled() == (around is torch.enable_grad or f is with_statements)


def test_constants_give_parameters_no_gradient():
    p = torch.randn(3, dtype=F64)
    (gradient,) = torch.autograd.grad(jf.laplacian(with_block)(p), W)
    close(gradient, (2 * (p**3 * W).sum()).detach().expand(3))


def test_constants_in_nested_operators():
    p = torch.randn(3, dtype=F64)
    inner = lambda p: jf.laplacian(with_block)(p)  # 2 c ΣW, where c is constant at both levels
    assert jf.laplacian(inner)(p) == 0

    def outer(p):  # an operator under no_grad is evaluated, and is a constant of what is around it
        with torch.no_grad():
            c = jf.laplacian(lambda q: (q**4 * p).sum())(p)
        return c * (p**2).sum()

    close(jf.laplacian(outer)(p), 6 * (12 * p**3).sum())


def test_grad_modes_are_left_as_they_were():
    methods = {name: vars(torch.no_grad)[name] for name in ("__enter__", "__exit__")}
    with pytest.raises(ZeroDivisionError):
        jf.laplacian(lambda p: with_block(p) / 0 + 1 // 0)(points()[0])
    assert all(vars(torch.no_grad)[name] is method for name, method in methods.items())
    assert torch.is_grad_enabled()


def test_grad_modes_that_somebody_else_replaces_between_calls(monkeypatch):
    p, entered = points()[0], []
    operator = jf.laplacian(with_block)
    expected = operator(p)
    original = torch.no_grad.__enter__

    def enter(self):
        entered.append(self)
        return original(self)

    monkeypatch.setattr(torch.no_grad, "__enter__", enter)
    for count in (1, 2):
        close(operator(p), expected)
        assert len(entered) == count
        assert torch.no_grad.__enter__ is enter
    monkeypatch.undo()
    close(operator(p), expected)
    assert len(entered) == 2
    assert torch.no_grad.__enter__ is original


def test_compile_constants():
    p = torch.randn(3, dtype=F64)

    def part(p):
        with torch.no_grad():
            c = (p * W).sum()
        return c * p**2

    def f(p, part=part):
        with torch.no_grad():
            c = part(p).exp().sum()
            with torch.enable_grad():
                d = (p**2).sum()
        return (part(p) * c * d).sum()

    expected = torch.autograd.functional.hessian(f, p).trace()
    close(jf.laplacian(f)(p), expected)
    torch.compiler.reset()  # Dynamo forgets who wants to know of what it compiles
    compiled = torch.compile(jf.laplacian(f), backend="eager", fullgraph=True)
    inside = jf.laplacian(partial(f, part=torch.compile(part, backend="eager", fullgraph=True)))
    for mode in (torch.enable_grad, torch.no_grad):
        with mode():
            close(compiled(p), expected)
            for _ in range(5):  # more would be compiled than Dynamo allows, if levels were new ones
                close(inside(p), expected)
    nested = torch.compile(jf.laplacian(f, method="nested"), backend="eager", fullgraph=True)
    with pytest.raises(Exception, match="its forward mode would differentiate what is constant"):
        nested(p)


@pytest.mark.filterwarnings("ignore:.*no fewer vectors")
def test_compile_a_function_that_makes_its_operators():
    k, p, f = torch.tensor(0.7, dtype=F64, requires_grad=True), points(), net()
    sigma = torch.randn(3, 2, dtype=F64)

    def made_inside(p):
        t, x, y = jf.partials(3, names="t x y")
        wanted = {"heat": k * (x**2 + 0.5 * y**2) - t / 2, "u": 1, "gradient": jf.gradient}
        several = jf.derivatives(wanted)(f, batch_dims=1)(p)
        estimate = jf.randomize(x**2 + y**2, samples=2)(f, batch_dims=1)(p)  # the exact operator
        return several, estimate, jf.weighted_laplacian(f, sigma, batch_dims=1)(p)

    compiled = torch.compile(made_inside, backend="eager", fullgraph=True)(p)
    for a, b in zip(*map(torch.utils._pytree.tree_leaves, (compiled, made_inside(p))), strict=True):
        close(a, b)
    (slope,) = torch.autograd.grad(compiled[0]["heat"].sum(), k)
    close(slope, (y**2 + 0.5 * z**2)(f, batch_dims=1)(p).sum())


# ------------------------------------------------------------------ functions that mix points


def mean_free(p):
    return torch.tanh(p - p.mean(0)).sum(-1)


def neighbours(p):
    return (p * p.roll(1, 0)).sum(-1)


def attention(p):
    return nn.functional.scaled_dot_product_attention(p, p, p).sum(-1)


@pytest.mark.parametrize("f", [mean_free, neighbours, attention], ids=lambda f: f.__name__)
def test_check_finds_functions_that_mix_points(f):
    report = jf.check(jf.laplacian, f, points(7), batch_dims=1, methods=("minimal",))
    assert report.mixing > 1e-6 and report.worst == float("inf")
    assert "mixes the points" in str(report)
    quick = jf.check(jf.laplacian, f, points(7), batch_dims=1, methods=(), mixing=True)
    assert quick.worst == float("inf")


def test_check_finds_one_pair_of_many_points():
    def f(p):
        return (
            p.square().sum(-1) + torch.zeros(len(p)).index_fill(0, torch.tensor(37), 1.0) * p[90, 0]
        )

    assert jf.check(jf.laplacian, f, points(100), batch_dims=1).mixing > 1e-6


def test_check_of_points_that_are_independent():
    for batch in ((6,), (2, 3), (1,)):
        p = torch.randn(*batch, 3)
        report = jf.check(jf.laplacian, net().float(), p, batch_dims=len(batch))
        assert report.mixing == 0 and report.worst < 1e-5
    assert jf.check(jf.laplacian, torch.prod, torch.randn(3)).mixing is None
    sampled = nn.Sequential(net().float(), nn.Dropout(0.5))
    assert jf.check(jf.laplacian, sampled, p, batch_dims=1, methods=(), mixing=True).worst == 0


def test_batch_norm_in_training_mixes_points():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1)).double()
    with pytest.raises(NotImplementedError, match=r"mixes the points.*\.eval\(\)"):
        jf.laplacian(model, batch_dims=1)(points())
    p = points()
    as_one = lambda p: model(p).sum()  # one point: all coordinates of the batch
    expected = torch.autograd.functional.hessian(as_one, p).reshape(15, 15).trace()
    close(jf.laplacian(as_one)(p), expected)
    report = jf.check(jf.laplacian, model.eval(), p, batch_dims=1)
    assert report.worst < 1e-9
    report = jf.check(jf.laplacian, model.float(), p.float(), batch_dims=1)
    assert 0 < report.worst < 1e-4  # a copy of the module in float64, with its buffers
    assert report.reference.endswith("float64") and not report.note
    assert all(b.dtype != torch.float64 for b in model.buffers())


# ------------------------------------------------------------------ jets that are kept

KEPT = {
    "arithmetic": lambda kept: kept * 2,
    "with a tensor": lambda kept: torch.ones(3) + kept,
    "stack": lambda kept: torch.stack([kept, kept]),
    "item": lambda kept: kept.sum().item(),
    "float": lambda kept: float(kept[0]),
    "bool": lambda kept: bool(kept[0]),
    "print": lambda kept: f"{kept:.3f}",
    "in another operator": lambda kept: jf.laplacian(lambda p: (p * kept).sum())(points()[0]),
    "as the point": lambda kept: jf.laplacian(lambda p: (p**2).sum())(kept),
    "as a coefficient": lambda kept: (kept * x)(lambda p: p)(points()[0]),
    "returned": lambda kept: jf.laplacian(lambda p: (p.sum(), kept))(points()[0]),
    "written": lambda kept: torch.zeros(3).__setitem__(0, kept[0]),
}


@pytest.mark.parametrize("use", KEPT.values(), ids=KEPT)
def test_what_a_function_keeps_is_no_number_later(use):
    kept = []
    jf.laplacian(lambda p: kept.append(p * 2) or (p**2).sum())(points()[0])
    with pytest.raises(RuntimeError, match="kept by the function"):
        use(kept[0])


class Cache(nn.Module):
    """Keeps what it computed first."""

    def __init__(self):
        super().__init__()
        self.linear, self.cache = nn.Linear(3, 3).double(), None

    def forward(self, p):
        if self.cache is None:
            self.cache = self.linear(p).tanh()
        return (self.cache * p).sum()


def test_a_cache_in_a_module():
    module, p = Cache(), points()[0]
    close(jf.laplacian(module)(p), hessian_trace(lambda p: (module.linear(p).tanh() * p).sum(), p))
    with pytest.raises(RuntimeError, match="kept by the function"):
        jf.laplacian(module)(p)


# ------------------------------------------------------------------ where jets might not be seen


def hooked(p, layer=nn.Linear(3, 3).double()):  # noqa: B008
    handles = [
        layer.register_forward_pre_hook(lambda module, inputs: (inputs[0].sin(),)),
        layer.register_forward_hook(lambda module, inputs, output: output**2 + inputs[0]),
    ]
    out = layer(p).sum() ** 2
    for handle in handles:
        handle.remove()
    return out


def module_state(p, module=nn.Linear(3, 3).double()):  # noqa: B008
    module.seen = module(p)
    return (module.seen.sin() * p).sum()


@functools.lru_cache
def _cached(p):
    return p.exp().sum()


def cached_by_object(p):
    return _cached(p) * p.sum() * _cached(p)


def in_threads(p):
    with ThreadPoolExecutor(2) as executor:
        a, b = executor.map(lambda k: torch.sin(k * p).sum(), (1.0, 2.0))
    return a * b


def no_grad_in_a_thread(p):
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(constant, p).result() * (p**2).sum()


def data_parallel(p):
    return nn.DataParallel(linear)(p).square().sum()


def written_through_data(p):
    q = p * W
    q.data.mul_(2.0)
    q.data[0] = 1.5
    return (q**3).sum()


def default_device(p):
    with torch.device("meta"):
        c = torch.logsumexp(torch.cumsum(p.exp(), 0), 0) * p.var()
    return c + torch.einsum("i,j->", p, p.sort().values ** 2)


def scripted(p, module=torch.jit.script(nn.Sequential(nn.Linear(3, 4), nn.Tanh()).double())):  # noqa: B008
    return module(p).square().sum()


class Symmetric(nn.Module):
    """A weight that depends on the point as well."""

    point = None

    def forward(self, weight):
        return (weight + weight.mT) * self.point.sum()


def parametrized(p, layer=nn.Linear(3, 3).double()):  # noqa: B008
    symmetric = Symmetric()
    symmetric.point = torch.ones(3, dtype=F64)
    layer = copy.deepcopy(layer)
    parametrize.register_parametrization(layer, "weight", symmetric)
    symmetric.point = p
    with parametrize.cached():
        return (layer(p).tanh() * layer(p)).sum()


SEEN = [
    hooked,
    module_state,
    cached_by_object,
    in_threads,
    no_grad_in_a_thread,
    data_parallel,
    written_through_data,
    default_device,
    scripted,
    parametrized,
]


@pytest.mark.filterwarnings("ignore::jetfold.JetfoldWarning")  # of the scripted module
@pytest.mark.parametrize("f", SEEN, ids=lambda f: f.__name__)
def test_jets_are_seen(f):
    p = torch.randn(3, dtype=F64)
    expected = torch.autograd.functional.hessian(f, p)
    close(jf.hessian(f)(p), expected)
    close(jf.hessian(f)(p), expected)


@pytest.mark.parametrize(
    "alias", [lambda q: q.detach(), lambda q: q.data, lambda q: q.detach()[:2]]
)
def test_a_detached_value_that_a_write_would_change(alias):
    def stale(p):
        q = p * 2
        value = alias(q)
        q.add_(1.0)
        return (q**3).sum() * value.sum()

    with pytest.raises(RuntimeError, match="would not see it"):
        jf.laplacian(stale)(points()[0])

    def fresh(p):
        q = p * 2
        q -= alias(q).mean()
        return (q**3).sum() * alias(q).sum()

    p = points()[0]
    close(jf.laplacian(fresh)(p), torch.autograd.functional.hessian(fresh, p).trace())


class Average(nn.Module):
    """A running mean of what it is called with."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(3, dtype=F64))

    def forward(self, p):
        with torch.no_grad():
            self.mean.mul_(0.9).add_(p, alpha=0.1)
        return (p * self.mean) ** 2


def spectral(parametrized):
    utils = nn.utils.parametrizations if parametrized else nn.utils
    return lambda: nn.Sequential(utils.spectral_norm(nn.Linear(3, 3).double()), nn.Tanh())


STATEFUL = {
    "spectral norm, old": spectral(False),
    "spectral norm": spectral(True),
    "weight norm": lambda: nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(3, 3).double()), nn.Tanh()
    ),
    "running mean": Average,
    "batch norm": lambda: nn.Sequential(
        nn.Linear(3, 12), nn.Unflatten(0, (4, 3)), nn.BatchNorm1d(3), nn.Tanh()
    ).double(),
    "dropout": lambda: nn.Sequential(
        nn.Linear(3, 50), nn.Tanh(), nn.Dropout(0.4), nn.Linear(50, 3), nn.AlphaDropout(0.2)
    ).double(),
}


@pytest.mark.parametrize("make", STATEFUL.values(), ids=STATEFUL)
def test_modules_that_draw_numbers_or_write_to_buffers(make):
    p = torch.randn(3, dtype=F64)
    module = make().train()
    other = copy.deepcopy(module)
    torch.manual_seed(1)
    result = jf.laplacian(lambda p: module(p).square().sum())(p)
    torch.manual_seed(1)
    expected = torch.autograd.functional.hessian(lambda p: other(p).square().sum(), p).trace()
    close(result, expected)
    for ours, theirs in zip(module.buffers(), other.buffers(), strict=True):
        assert type(ours) is torch.Tensor and not ours.requires_grad
        close(ours, theirs)


def test_lazy_modules_are_made_by_their_first_call():
    p, module = points()[0], nn.Sequential(nn.LazyLinear(4), nn.Tanh()).double()
    result = jf.laplacian(lambda p: module(p).square().sum())(p)
    assert type(module[0]) is nn.Linear and type(module[0].weight) is nn.Parameter
    close(result, hessian_trace(lambda p: module(p).square().sum(), p))


AUTOCAST = {
    "linear": lambda h: h,
    "mse_loss": lambda h: nn.functional.mse_loss(h, h.sin()),
    "softmax": lambda h: torch.softmax(h, -1),
    "layer_norm": lambda h: nn.functional.layer_norm(h, (6,)),
    "cat": lambda h: torch.cat([h, torch.ones(2)]),
}


@pytest.mark.parametrize("g", AUTOCAST.values(), ids=AUTOCAST)
def test_autocast_inside(g):
    layer, p = nn.Linear(3, 6), torch.randn(3)

    def f(p):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return g(layer(p) ** 2)

    value, plain = jf.value(f)(p), f(p)
    assert value.dtype == plain.dtype
    torch.testing.assert_close(value, plain, rtol=2e-2, atol=2e-2)
    exact = jf.laplacian(lambda p: g(layer(p) ** 2))(p)
    torch.testing.assert_close(jf.laplacian(f)(p).float(), exact, rtol=0.1, atol=0.1)


LOST = {
    "numpy": lambda p: torch.from_numpy(p.numpy()),
    "np.asarray": lambda p: torch.as_tensor(np.asarray(p)),
    "dlpack": torch.from_dlpack,
    "torch.tensor": lambda p: torch.tensor([p[0], p[1]]),
    "new_tensor": lambda p: p.new_tensor([p[0], p[1]]),
    "storage": lambda p: torch.empty(0).double().set_(p.untyped_storage()),
    "buffer": lambda p: torch.zeros(3, dtype=F64).data.copy_(p),
    "data": lambda p: setattr(p * 1, "data", torch.ones(3)),
}


@pytest.mark.filterwarnings("ignore::jetfold.JetfoldWarning")
@pytest.mark.parametrize("copied", LOST.values(), ids=LOST)
def test_copies_that_would_lose_derivatives_are_refused(copied):
    with pytest.raises((TypeError, RuntimeError, AttributeError, NotImplementedError)):
        jf.laplacian(lambda p: copied(p).sum() * p.sum())(points()[0])


@pytest.mark.filterwarnings("ignore::jetfold.JetfoldWarning")
def test_checkpoints_run_again_in_the_backward_pass():
    def run(p, kept):
        def layer(a):
            with torch.no_grad():
                c = a.sin()
            return torch.tanh(linear(a)) * c

        return (
            (checkpoint(layer, p, use_reentrant=False) * W).sum() if kept else (layer(p) * W).sum()
        )

    p = points()[0]
    with_it, without = (
        torch.autograd.grad(jf.laplacian(partial(run, kept=kept))(p), [W, linear.weight])
        for kept in (True, False)
    )
    close(with_it, without)
    closure = lambda p: checkpoint(lambda: (linear(p) ** 2).sum(), use_reentrant=True)
    with pytest.raises(NotImplementedError, match="use_reentrant=False"):
        jf.laplacian(closure)(p)
