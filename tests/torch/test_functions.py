"""torch.autograd.Function inside of a function: the derivative that its author wrote counts."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any, ClassVar

import pytest
import torch
from torch.autograd import Function, grad
from torch.autograd.function import FunctionMeta, _SingleLevelFunction
from torch.utils.checkpoint import checkpoint

import jetfold as jf

pytestmark = pytest.mark.filterwarnings("ignore::jetfold.JetfoldWarning")

POINT = torch.tensor([0.3, -0.7, 0.45], dtype=torch.float64)


def close(ours: Any, true: Any) -> None:
    torch.testing.assert_close(ours, true, rtol=1e-9, atol=1e-10)


def replaced() -> bool:
    """Whether PyTorch's own class is changed, as it is while jets run."""
    return "apply" in vars(_SingleLevelFunction) or "__getattribute__" in vars(FunctionMeta)


# ------------------------------------------------------------------ functions


class Cube(Function):
    """x³, in the old style."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, ct):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * ct


class CubeSetUp(Function):
    """x³, in the new style."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, ct):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * ct


class CubeForward(CubeSetUp):
    """x³ with both derivatives."""

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def jvp(ctx, v):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * v


class Odd(Function):
    """x³ whose derivative is said to be that of sin: none of x³ may be seen."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, ct):
        (x,) = ctx.saved_tensors
        return x.cos() * ct


class OddForward(CubeForward):
    @staticmethod
    def backward(ctx, ct):
        (x,) = ctx.saved_tensors
        return x.cos() * ct

    @staticmethod
    def jvp(ctx, v):
        (x,) = ctx.saved_tensors
        return x.cos() * v


class Round(Function):
    """Straight through."""

    @staticmethod
    def forward(ctx, x):
        return x.round()

    @staticmethod
    def backward(ctx, ct):
        return ct


class Scaled(Function):
    """x·w·power with arguments that are no tensors, and work only for those that need it."""

    asked: ClassVar[list[Any]] = []

    @staticmethod
    def forward(ctx, x, w, power, name="none"):
        ctx.save_for_backward(x, w)
        ctx.power = power
        return w * x**power

    @staticmethod
    def backward(ctx, ct):
        x, w = ctx.saved_tensors
        Scaled.asked.append(ctx.needs_input_grad)
        of_x = ct * w * ctx.power * x ** (ctx.power - 1) if ctx.needs_input_grad[0] else None
        of_w = (ct * x**ctx.power).sum() if ctx.needs_input_grad[1] else None
        return of_x, of_w, None, None


class Several(Function):
    """Matrix product and a sum, two arguments, and an output that is not differentiable."""

    @staticmethod
    def forward(ctx, x, y):
        ctx.save_for_backward(x, y)
        steps = x.sign()
        ctx.mark_non_differentiable(steps)
        return x * y, (x**2).sum(), steps, x.argmax()

    @staticmethod
    def backward(ctx, a, b, _, __):
        x, y = ctx.saved_tensors
        return a * y + 2 * x * b, a * x


def scaled(x, w):
    return Scaled.apply(x, w, 3, "cubic")


def several(x, w):
    product, total, steps, _ = Several.apply(x, w * x**2)
    return product * total + steps * x


cube = Cube.apply  # looked up before jets run, as everybody does

FUNCTIONS = {
    "old style": lambda x, w: cube(w * x),
    "new style": lambda x, w: CubeSetUp.apply(w * x),
    "jvp": lambda x, w: CubeForward.apply(w * x),
    "parameters after": lambda x, w: w * cube(x).cos(),
    "another derivative": lambda x, w: Odd.apply(w * x.sin()),
    "another jvp": lambda x, w: OddForward.apply(w * x.sin()),
    "parameters inside": scaled,
    "straight through": lambda x, w: Round.apply(3 * w * x) ** 2 * x,
    "several": several,
    "twice": lambda x, w: cube(cube(w * x) + x),
    "one in another": lambda x, w: Outer.apply(w * x),
}


class Outer(Function):
    """Its derivative calls a Function."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**4 / 4

    @staticmethod
    def backward(ctx, ct):
        return Cube.apply(ctx.saved_tensors[0]) * ct


def u(name):
    """Of a point: no operation alone, and with mixed derivatives."""
    f = FUNCTIONS[name]

    def of(x, w):
        return f(x, w).sum() + (w * x).sum() ** 2 * f(x, w)[..., 0]

    return of


# ------------------------------------------------------------------ nested reverse mode


def partial(f, x, *indices):
    """∂_i ∂_j … f, by autograd of autograd."""
    y = f(x)
    for i in indices:
        found = grad(y, x, create_graph=True, allow_unused=True)[0] if y.requires_grad else None
        y = x.sum() * 0 if found is None else found[i]
    return y


def laplacian(f, x):
    return sum(partial(f, x, i, i) for i in range(len(x)))


def biharmonic(f, x):
    n = range(len(x))
    return sum(partial(f, x, i, i, j, j) for i in n for j in n)


d = jf.partials(3)
OPERATORS = {
    "first": (d[1] - 2 * d[0], lambda f, x: partial(f, x, 1) - 2 * partial(f, x, 0)),
    "laplacian": (jf.laplacian, laplacian),
    "third": (
        d[0] * d[1] * d[2] + d[1] ** 3,
        lambda f, x: partial(f, x, 0, 1, 2) + partial(f, x, 1, 1, 1),
    ),
    "biharmonic": (jf.biharmonic, biharmonic),
}


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_nested_reverse_mode(name, operator):
    """The value, and the gradients by the point and by the parameter."""
    op, true = OPERATORS[operator]
    f = u(name)
    w = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    x = POINT.clone().requires_grad_()
    ours, expected = op(f)(x, w), true(lambda x: f(x, w), x)
    close(ours, expected)
    zeros = {"allow_unused": True, "materialize_grads": True}
    close(grad(ours, (x, w), **zeros), grad(expected, (x, w), **zeros))


def test_the_numbers_that_were_wrong():
    x = torch.tensor([0.3, -0.7, 1.1, 2.0], dtype=torch.float64)
    w = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    ours = jf.laplacian(lambda x: cube(w * x).sum() + (w * x).sum() ** 2)(x)
    close(grad(ours, w)[0], (18 * w**2 * x.sum() + 16 * w).detach())
    rounded = d[0](lambda x: 4 * Round.apply(x).sum())
    close(rounded(POINT), torch.tensor(4.0, dtype=torch.float64))


@pytest.mark.parametrize("method", ["minimal", "collapsed", "standard"])
def test_methods_and_pieces(method):
    true = laplacian(lambda x: u("another derivative")(x, 1.3), POINT.clone().requires_grad_())
    op = jf.laplacian(u("another derivative"), method=method)
    close(op(POINT, 1.3), true.detach())
    op = jf.laplacian(u("another derivative"), method=method, chunk_size=2)
    close(op(POINT, 1.3), true.detach())


@pytest.mark.parametrize("name", ["another derivative", "another jvp", "parameters inside"])
def test_nested_operators(name):
    """Jets of jets."""
    f = u(name)
    w = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)
    x = POINT.clone().requires_grad_()
    ours = jf.laplacian(jf.laplacian(f))(x, w)
    expected = biharmonic(lambda x: f(x, w), x)
    close(ours, expected)
    close(grad(ours, (x, w)), grad(expected, (x, w)))


def test_three_levels():
    ours = d[0](d[1](d[2](u("another derivative"))))(POINT, 1.3)
    x = POINT.clone().requires_grad_()
    close(ours, partial(lambda x: u("another derivative")(x, 1.3), x, 0, 1, 2).detach())


@pytest.mark.parametrize("name", ["old style", "jvp", "another derivative", "straight through"])
def test_batch_dims(name):
    points = torch.stack([POINT, POINT + 0.2])

    def f(x):
        return FUNCTIONS[name](x, 1.3).sum(-1)

    true = torch.stack([laplacian(f, x.clone().requires_grad_()).detach() for x in points])
    close(jf.laplacian(f, batch_dims=1)(points), true)


@pytest.mark.parametrize("name", ["new style", "jvp", "another jvp"])
def test_inside_of_torch_func(name):
    f = u(name)
    w = torch.tensor(1.3, dtype=torch.float64)
    points = torch.stack([POINT, POINT + 0.2])
    each = torch.stack([jf.laplacian(f)(x, w) for x in points])
    close(torch.func.vmap(lambda x: jf.laplacian(f)(x, w))(points), each)
    v = w.clone().requires_grad_()
    true = grad(laplacian(lambda x: f(x, v), POINT.clone().requires_grad_()), v)[0]
    close(torch.func.grad(lambda w: jf.laplacian(f)(POINT, w))(w), true)


def test_inside_of_torch_func_the_old_style_is_refused_by_pytorch():
    with pytest.raises(RuntimeError, match="setup_context"):
        torch.func.grad(lambda w: jf.laplacian(u("old style"))(POINT, w))(torch.tensor(1.3))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_without_gradients(context):
    true = laplacian(lambda x: u("old style")(x, 1.3), POINT.clone().requires_grad_()).detach()
    with context():
        ours = jf.laplacian(u("old style"))(POINT.clone(), torch.tensor(1.3, dtype=torch.float64))
    assert not ours.requires_grad
    close(ours, true)


def test_no_graph_where_nothing_needs_a_gradient():
    for name in FUNCTIONS:
        assert not jf.laplacian(u(name))(POINT, torch.tensor(1.3)).requires_grad


def test_a_parameter_of_the_derivative_alone():
    w = torch.tensor(1.3, dtype=torch.float64, requires_grad=True)

    class Held(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return (w * x).sin().detach()

        @staticmethod
        def backward(ctx, ct):
            return ct * w * (w * ctx.saved_tensors[0]).cos()

    x = POINT.clone().requires_grad_()
    expected = laplacian(lambda x: Held.apply(x).sum(), x)
    ours = jf.laplacian(lambda x: Held.apply(x).sum())(POINT)
    close(ours, expected.detach())
    close(grad(ours, w), grad(expected, w))


def test_only_what_needs_a_gradient_is_asked_for():
    Scaled.asked.clear()
    jf.laplacian(lambda x: scaled(x, torch.tensor(2.0)).sum())(POINT)
    assert set(Scaled.asked) == {(True, False, False, False)}


def test_one_random_number_for_all_orders():
    class Noisy(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x, factor := torch.rand(()))
            return x**2 * factor

        @staticmethod
        def backward(ctx, ct):
            x, factor = ctx.saved_tensors
            return 2 * x * factor * ct

    torch.manual_seed(0)
    factor = torch.rand(())
    after = torch.rand(())
    torch.manual_seed(0)
    found = jf.laplacian(lambda x: Noisy.apply(x).sum())(POINT)
    close(found, 6 * factor.double())
    assert torch.rand(()) == after


def test_constant_and_missing_derivatives():
    class Constant(Function):
        @staticmethod
        def forward(ctx, x):
            return x**2

        @staticmethod
        def backward(ctx, ct):
            return None

    class Missing(Function):
        @staticmethod
        def forward(ctx, x):
            return x**2

    close(jf.laplacian(lambda x: Constant.apply(x).sum())(POINT), torch.zeros(()).double())
    with pytest.raises(NotImplementedError, match="backward"):
        jf.laplacian(lambda x: Missing.apply(x).sum())(POINT)


def test_a_backward_that_pytorch_does_not_differentiate():
    class Once(Cube):
        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, ct):
            return 3 * ctx.saved_tensors[0] ** 2 * ct

    class Numbers(Cube):
        @staticmethod
        def backward(ctx, ct):
            return torch.tensor((3 * ctx.saved_tensors[0] ** 2 * ct).tolist()).double()

    with pytest.raises(NotImplementedError, match="Function Once has a backward that PyTorch does"):
        jf.laplacian(lambda x: Once.apply(x).sum())(POINT)
    with pytest.raises(NotImplementedError, match="not written with differentiable operations"):
        jf.laplacian(lambda x: Numbers.apply(x).sum())(POINT)


class Only(Function):
    """x³·w, said to have the derivatives of sin x·w, in forward mode alone."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, w, power):
        return x**power * w, x.argmax()

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, w, ctx.power = inputs
        ctx.save_for_forward(x, w)

    @staticmethod
    def jvp(ctx, v, of_w, none):
        assert none is None and ctx.power == 3
        x, w = ctx.saved_tensors
        return x.cos() * w * v + x.sin() * of_w, None


@pytest.mark.parametrize("operator", OPERATORS)
def test_jvp_alone(operator):
    op, true = OPERATORS[operator]

    class Reverse(Function):
        @staticmethod
        def forward(ctx, x, w):
            ctx.save_for_backward(x, w)
            return x**3 * w

        @staticmethod
        def backward(ctx, ct):
            x, w = ctx.saved_tensors
            return ct * x.cos() * w, (ct * x.sin()).sum()

    def f(of):
        return lambda x: of(2 * x, x.sum()).sum() * of(x, x[0]).sum()

    w = torch.tensor(1.3, dtype=torch.float64)
    forward = f(lambda x, w: Only.apply(x, w, 3)[0])
    x = POINT.clone().requires_grad_()
    expected = true(f(Reverse.apply), x).detach()
    close(op(forward)(POINT), expected)
    if operator != "biharmonic":
        nested = jf.laplacian(op(forward))(POINT)
        close(nested, jf.laplacian(op(f(Reverse.apply)))(POINT))
    # no gradient for the value without a backward, and PyTorch says so
    w.requires_grad_()
    found = op(lambda x: Only.apply(x, w, 3)[0].sum() ** 2)(POINT)
    with pytest.raises(NotImplementedError, match="backward"):
        grad(found, w)


def test_jvp_alone_inside_of_torch_func():
    def f(x):
        return Only.apply(x, torch.ones_like(x), 3)[0].sum()

    mapped = torch.func.vmap(lambda s: jf.laplacian(lambda x: f(x) * s)(POINT))
    scales = torch.tensor([1.0, 2.0], dtype=torch.float64)
    close(mapped(scales), -scales * POINT.sin().sum())


def test_a_jvp_that_does_not_nest():
    class Forward(Function):
        @staticmethod
        def forward(ctx, x):
            return x**2

        @staticmethod
        def jvp(ctx, v):
            return v

    with pytest.raises(
        NotImplementedError, match=r"the jvp of the autograd\.Function Forward has no"
    ):
        jf.laplacian(lambda x: Forward.apply(x).sum())(POINT)


def test_in_place():
    class Double(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.mark_dirty(x)
            return x.mul_(2)

        @staticmethod
        def backward(ctx, ct):
            return 2 * ct

    with pytest.raises(NotImplementedError, match="Double writes into its arguments"):
        jf.laplacian(lambda x: Double.apply(x * x).sum())(POINT)


def test_what_comes_by_a_closure():
    def f(x):
        class Hidden(Function):
            @staticmethod
            def forward(ctx, y):
                return y * x

            @staticmethod
            def backward(ctx, ct):
                return ct * x

        return Hidden.apply(torch.ones(3)).sum()

    with pytest.raises(NotImplementedError, match="Hidden depends on the point by more than"):
        jf.laplacian(f)(POINT)


def test_a_list_is_no_differentiable_argument():
    """Nor is it to PyTorch."""

    class Listed(Function):
        @staticmethod
        def forward(ctx, x, others):
            return x * others[0]

        @staticmethod
        def backward(ctx, ct):
            return ct, None

    x = POINT.clone().requires_grad_()

    def f(x):
        return (Listed.apply(x**2, [x]) * x).sum()

    close(jf.laplacian(f)(POINT), laplacian(f, x).detach())


# ------------------------------------------------------------------ and nothing else


def test_functions_without_jets_are_untouched():
    w = torch.tensor(1.3, requires_grad=True, dtype=torch.float64)
    with jf.strict():
        found = jf.laplacian(lambda x: (x**2).sum() * Odd.apply(w))(POINT)
    close(found, 6 * w**3)
    close(grad(found, w)[0], 6 * w.cos())


def test_strict_and_warning():
    with (
        jf.strict(),
        pytest.raises(NotImplementedError, match=r"the autograd\.Function Cube has no"),
    ):
        jf.laplacian(u("old style"))(POINT, 1.3)
    with pytest.warns(jf.JetfoldWarning, match=r"the autograd\.Function CubeSetUp has no rule"):
        jf.laplacian(u("new style"))(POINT, 1.3)


def test_nothing_remains():
    def broken(x):
        assert replaced()
        raise KeyError

    for f in (u("old style"), lambda x, w: broken(x)):
        with suppress(KeyError):
            jf.laplacian(f)(POINT, 1.3)
        assert not replaced()
    x = POINT.clone().requires_grad_()
    close(grad(Odd.apply(x).sum(), x)[0], POINT.cos())


def test_threads():
    found: list[Any] = []
    inside, go = threading.Event(), threading.Event()

    def slow(x):
        inside.set()
        go.wait(10)
        return Odd.apply(x).sum()

    thread = threading.Thread(target=lambda: found.append(jf.laplacian(slow)(POINT)))
    thread.start()
    inside.wait(10)
    x = POINT.clone().requires_grad_()
    close(grad(Odd.apply(x).sum(), x)[0], POINT.cos())  # no jet: PyTorch's own
    jf.laplacian(u("old style"))(POINT, 1.3)
    go.set()
    thread.join()
    close(found[0], -POINT.sin().sum())
    assert not replaced()


@pytest.mark.parametrize("name", ["old style", "new style", "jvp"])
def test_compile_refuses(name):
    from torch._dynamo.variables.misc import AutogradFunctionVariable

    before = AutogradFunctionVariable.call_apply
    operator = torch.compile(jf.laplacian(u(name)), backend="eager")
    with pytest.raises(Exception, match=r"torch\.compiler\.disable"):
        operator(POINT, 1.3)
    with pytest.raises(Exception, match=r"torch\.compiler\.disable"):
        jf.laplacian(torch.compile(u(name), backend="eager"))(POINT, 1.3)
    assert AutogradFunctionVariable.call_apply is before
    disabled = torch.compiler.disable(jf.laplacian(u(name)))
    compiled = torch.compile(lambda x: 2 * disabled(x, 1.3), backend="eager")
    close(compiled(POINT), 2 * jf.laplacian(u(name))(POINT, 1.3))


def test_exports_leave_nothing_behind():
    """They are traced without Dynamo, which has things undone when it has compiled."""
    from torch._dynamo.variables.misc import AutogradFunctionVariable

    class Operator(torch.nn.Module):
        def forward(self, x):
            return jf.laplacian(torch.sin, batch_dims=1)(x)

    before = AutogradFunctionVariable.call_apply
    exported = torch.export.export(Operator(), (POINT,), strict=False)
    close(exported.module()(POINT), -POINT.sin())
    assert AutogradFunctionVariable.call_apply is before
    assert not replaced()


# ------------------------------------------------------------------ checkpoints


@pytest.mark.parametrize("operator", OPERATORS)
def test_reentrant_checkpoint(operator):
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 5), torch.nn.Tanh()
    ).double()
    last = torch.nn.Linear(5, 1).double()
    parameters = [*net.parameters(), *last.parameters()]

    def f(x):
        return last(checkpoint(net, x, use_reentrant=True)).sum()

    op, true = OPERATORS[operator]
    with jf.strict():
        ours = op(f)(POINT)
    x = POINT.clone().requires_grad_()
    expected = true(lambda x: last(net(x)).sum(), x)
    close(ours, expected.detach())
    zeros = {"allow_unused": True, "materialize_grads": True}
    close(grad(ours, parameters, **zeros), grad(expected, parameters, **zeros))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_reentrant_checkpoint_of_a_closure():
    def f(x):
        return checkpoint(lambda y: (x * y).sum(), torch.ones(3), use_reentrant=True)

    with pytest.raises(NotImplementedError, match="use_reentrant=False"):
        jf.laplacian(f)(POINT)
