"""What operators compose with, each against nested automatic differentiation in float64."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import jetfold as jf

F64 = torch.float64
N = 3


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch.manual_seed(torch.seed() % 2**31)
    torch._dynamo.reset()


def network(dtype=F64):
    """A residual, gated, normalised network R³ → R.

    The normalisation is written out: torch 2.13 gives wrong derivatives of F.layer_norm from the
    third order on (see test_layers), so it could not serve as the reference.
    """

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(N, 8)
            self.gate = torch.nn.Linear(8, 8)
            self.outer = torch.nn.Linear(8, 1)

        def forward(self, x):
            h = torch.tanh(self.inner(x))
            centred = h - h.mean(-1, keepdim=True)
            normal = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-2)
            h = h + torch.sin(normal) * torch.sigmoid(self.gate(h))
            return self.outer(h).squeeze(-1)

    return Net().to(dtype)


def small():
    """A function with a linear map, towers and products: Dynamo reads every operation."""
    layer = torch.nn.Linear(N, 4, dtype=F64)
    return lambda x: (torch.tanh(layer(x)) * torch.sin(x).sum(-1, keepdim=True)).sum(-1)


def point():
    return torch.randn(N, dtype=F64)


def batch():
    return torch.randn(5, N, dtype=F64)


def true_laplacian(f, x):
    return torch.func.hessian(f)(x).diagonal(dim1=-2, dim2=-1).sum(-1)


def true_biharmonic(f, x):
    return true_laplacian(lambda x: true_laplacian(f, x), x)


OPERATORS = {
    "laplacian": (jf.laplacian, true_laplacian),
    "biharmonic": (jf.biharmonic, true_biharmonic),
}
operators = pytest.mark.parametrize("name", OPERATORS)
methods = pytest.mark.parametrize("method", ["minimal", "collapsed", "standard", "nested"])
exact = {"rtol": 1e-9, "atol": 1e-10}


def close(a, b, **tolerance):
    torch.testing.assert_close(a, b, **(tolerance or exact))


# ------------------------------------------------------------------ eager


@operators
@methods
def test_eager(name, method):
    op, truth = OPERATORS[name]
    net, x = network(), point()
    close(op(net, method=method)(x), truth(net, x))


@operators
@methods
def test_batch_dims(name, method):
    op, truth = OPERATORS[name]
    net, x = network(), batch()
    expected = torch.stack([truth(net, row) for row in x])
    close(op(net, batch_dims=1, method=method)(x), expected)


# ------------------------------------------------------------------ torch.func


@operators
@methods
def test_vmap_of_operator(name, method):
    op, truth = OPERATORS[name]
    net, x = network(), batch()
    expected = torch.stack([truth(net, row) for row in x])
    close(torch.func.vmap(op(net, method=method))(x), expected)


@operators
def test_grad_of_operator(name):
    op, truth = OPERATORS[name]
    net, x = network(), point()
    close(torch.func.grad(op(net))(x), torch.func.grad(lambda x: truth(net, x))(x))


def test_jacrev_and_jacfwd_of_operator():
    net, x = network(), point()
    expected = torch.func.grad(lambda x: true_laplacian(net, x))(x)
    close(torch.func.jacrev(jf.laplacian(net))(x), expected)
    close(torch.func.jacfwd(jf.laplacian(net))(x), expected)


def test_jvp_of_operator():
    net, x, v = network(), point(), point()
    ours = torch.func.jvp(jf.laplacian(net), (x,), (v,))
    close(ours, torch.func.jvp(lambda x: true_laplacian(net, x), (x,), (v,)))


def test_hessian_of_operator():
    net, x = network(), point()
    expected = torch.func.hessian(lambda x: true_laplacian(net, x))(x)
    close(torch.func.hessian(jf.laplacian(net))(x), expected)


def test_vmap_of_grad_of_operator():
    net, x = network(), batch()
    expected = torch.stack([torch.func.grad(lambda r: true_laplacian(net, r))(row) for row in x])
    close(torch.func.vmap(torch.func.grad(jf.laplacian(net)))(x), expected)


def test_operator_over_grad():
    net, x = network(), point()
    g = torch.func.grad(net)
    expected = torch.stack([true_laplacian(lambda x, k=k: g(x)[k], x) for k in range(N)])
    close(jf.laplacian(g)(x), expected)


def test_operator_over_jacrev_jvp_and_vmap():
    net, x, v = network(), point(), point()
    close(
        jf.laplacian(lambda x: torch.func.jacrev(net)(x) @ v)(x),
        true_laplacian(lambda x: torch.func.jacrev(net)(x) @ v, x),
    )
    along = lambda x: torch.func.jvp(net, (x,), (v,))[1]
    close(jf.laplacian(along)(x), true_laplacian(along, x))
    mapped = lambda x: torch.func.vmap(lambda s: torch.sin(s) * s)(x).sum()
    close(jf.laplacian(mapped)(x), true_laplacian(mapped, x))


# ------------------------------------------------------------------ parameters


@operators
def test_functional_call_closure(name):
    op, truth = OPERATORS[name]
    net, x = network(), point()
    params = {k: p.detach() for k, p in net.named_parameters()}

    def loss(params, operator):
        u = lambda x: torch.func.functional_call(net, params, (x,))
        return operator(u, x) ** 2

    ours = torch.func.grad(lambda p: loss(p, lambda u, x: op(u)(x)))(params)
    close(ours, torch.func.grad(lambda p: loss(p, truth))(params))


@operators
@methods
def test_backward_to_parameters(name, method):
    op, truth = OPERATORS[name]
    net, x = network(), batch()
    op(net, batch_dims=1, method=method)(x).square().sum().backward()
    ours = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    torch.stack([truth(net, row) for row in x]).square().sum().backward()
    close(ours, [p.grad for p in net.parameters() if p.grad is not None])


def test_backward_takes_blocks_apart_at_once():
    """Row by row, each would become a block of zeros with one row."""
    net, x = network(), batch()
    pending, names = [jf.biharmonic(net, batch_dims=1)(x).sum().grad_fn], {}
    while pending:
        node = pending.pop()
        if node is not None and node not in names:
            names[node] = node.name()
            pending += [following for following, _ in node.next_functions]
    found = list(names.values())
    assert any(name.startswith("UnbindBackward0") for name in found)
    assert found.count("SelectBackward0") <= 1  # the coefficient that is read out


def test_backward_to_the_input():
    net, x = network(), batch().requires_grad_()
    ours = torch.autograd.grad(jf.laplacian(net, batch_dims=1)(x).sum(), x)[0]
    expected = torch.autograd.grad(sum(true_laplacian(net, row) for row in x), x)[0]
    close(ours, expected)


# ------------------------------------------------------------------ torch.compile


@operators
@methods
def test_compile_operator(name, method):
    if (name, method) == ("biharmonic", "nested"):
        pytest.skip("torch 2.13 does not compile nested torch.func transforms of fourth order")
    op, truth = OPERATORS[name]
    net, x = network() if name == "laplacian" else small(), point()
    compiled = torch.compile(op(net, method=method), fullgraph=True, backend="aot_eager")
    close(compiled(x), truth(net, x))


def test_compile_tuples_and_unlike_dtypes():
    single = torch.randn(N)  # float32
    f = lambda x: torch.stack((x.sin() * single, torch.cat((x[1:] * x.mean() * 1j, x[:1]))), dim=-1)
    x = point()
    compiled = torch.compile(jf.laplacian(f), fullgraph=True, backend="aot_eager")
    close(compiled(x), jf.laplacian(f)(x))


def test_compile_with_inductor():
    net, x = network(), batch()
    expected = torch.stack([true_biharmonic(net, row) for row in x])
    close(torch.compile(jf.biharmonic(net, batch_dims=1), fullgraph=True)(x), expected)


@operators
def test_compile_vmap_of_operator(name):
    op, truth = OPERATORS[name]
    net, x = network() if name == "laplacian" else small(), batch()
    mapped = torch.compile(torch.func.vmap(op(net)), fullgraph=True, backend="aot_eager")
    close(mapped(x), torch.stack([truth(net, row) for row in x]))


def test_compile_training_step():
    net, x = network(), batch()

    def loss(x):
        return jf.laplacian(net, batch_dims=1)(x).square().mean()

    torch.compile(loss, fullgraph=True)(x).backward()
    ours = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    net.zero_grad()
    torch.stack([true_laplacian(net, row) for row in x]).square().mean().backward()
    close(ours, [p.grad for p in net.parameters() if p.grad is not None])


def test_compile_torch_func_grad_step():
    net, x = network(), batch()
    params = {k: p.detach() for k, p in net.named_parameters()}

    def loss(params, operator):
        u = lambda x: torch.func.functional_call(net, params, (x,))
        return operator(u, x).square().mean()

    def step(params):
        return torch.func.grad(lambda p: loss(p, lambda u, x: jf.laplacian(u, batch_dims=1)(x)))(
            params
        )

    def slow(u, x):
        return torch.stack([true_laplacian(u, row) for row in x])

    ours = torch.compile(step, fullgraph=True, backend="aot_eager")(params)
    close(ours, torch.func.grad(lambda p: loss(p, slow))(params))


def test_dynamo_is_left_as_it_was():
    """Its operators are those of jets only while it traces, also where that fails."""
    from torch._dynamo.callback import callback_handler
    from torch._dynamo.variables.builtin import BuiltinVariable

    before = BuiltinVariable.call_function, list(callback_handler.end_callbacks)

    def network(x):
        y = x @ x.new_ones(N, N)
        y += x.new_ones(N) @ x
        return y @ y

    def broken(x):
        torch._dynamo.graph_break()
        return x.sum()

    x = point()
    compiled = torch.compile(jf.laplacian(network), fullgraph=True, backend="eager")
    close(compiled(x), true_laplacian(network, x))
    assert (BuiltinVariable.call_function, callback_handler.end_callbacks) == before
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(jf.laplacian(broken), fullgraph=True, backend="eager")(x)
    assert (BuiltinVariable.call_function, callback_handler.end_callbacks) == before


def test_compile_dynamic_batch():
    net = network()
    compiled = torch.compile(
        jf.laplacian(net, batch_dims=1), fullgraph=True, dynamic=True, backend="aot_eager"
    )
    for size in (4, 7):
        x = torch.randn(size, N, dtype=F64)
        close(compiled(x), torch.stack([true_laplacian(net, row) for row in x]))


# ------------------------------------------------------------------ nesting


def test_laplacian_of_laplacian_is_biharmonic():
    net, x = network(), point()
    close(jf.laplacian(jf.laplacian(net))(x), true_biharmonic(net, x))
    close(jf.laplacian(jf.laplacian(net))(x), jf.biharmonic(net)(x))


def test_nested_operators_of_different_order():
    t, x, y = jf.partials(N)
    net, p = network(), point()
    close(
        (t + x**2)(jf.laplacian((x * y)(net)))(p),
        ((t + x**2) * (t**2 + x**2 + y**2) * x * y)(net, method="nested")(p),
    )


def test_inner_function_closes_over_an_outer_jet():
    def f(x):
        inner = jf.laplacian(lambda y: (x * y).sum() ** 2 * torch.sin(y[0] * x[1]))
        return inner(torch.tensor([0.3, -0.4, 0.9], dtype=F64))

    def truth(x):
        y = torch.tensor([0.3, -0.4, 0.9], dtype=F64)
        return true_laplacian(lambda y: (x * y).sum() ** 2 * torch.sin(y[0] * x[1]), y)

    x = point()
    close(jf.laplacian(f)(x), true_laplacian(truth, x))


def test_inner_function_closes_over_outer_jet_at_the_same_point():
    def f(x, op):
        return op(lambda y: torch.exp((x * y).sum() / 3) + y[0] ** 2 * x[2], x)

    x = point()
    ours = jf.laplacian(lambda x: f(x, lambda g, x: jf.laplacian(g)(x)))(x)
    close(ours, true_laplacian(lambda x: f(x, true_laplacian), x))


# ------------------------------------------------------------------ dtypes, modes, devices


@operators
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4), (torch.bfloat16, 0.2)]
)
def test_dtypes(name, dtype, tolerance):
    op, truth = OPERATORS[name]
    net = network(dtype)
    x = torch.randn(N, dtype=F64).to(dtype)
    result = op(net)(x)
    assert result.dtype == dtype
    expected = truth(net.double(), x.double())
    scale = expected.abs().item() + 1
    assert abs(result.double().item() - expected.item()) <= tolerance * scale


@methods
def test_complex_outputs(method):
    net, x, k = network(), point(), point()
    f = lambda x: torch.exp(1j * (k * x).sum()) * net(x)
    real = true_laplacian(lambda x: torch.cos((k * x).sum()) * net(x), x)
    imag = true_laplacian(lambda x: torch.sin((k * x).sum()) * net(x), x)
    close(jf.laplacian(f, method=method)(x), torch.complex(real, imag))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode):
    net, x = network(), point()
    with mode():
        result = jf.biharmonic(net)(x)
    assert not result.requires_grad
    close(result, true_biharmonic(net, x).detach())
    close(jf.biharmonic(net)(x), true_biharmonic(net, x))  # nothing of the mode is left behind


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@operators
def test_cuda(name):
    op, truth = OPERATORS[name]
    net, x = network().cuda(), batch().cuda()
    result = op(net, batch_dims=1)(x)
    assert result.device == x.device
    close(result, torch.stack([truth(net, row) for row in x]))


def test_threads_do_not_share_levels():
    from concurrent.futures import ThreadPoolExecutor

    net, xs = network(), [point() for _ in range(16)]
    nested = jf.laplacian(jf.laplacian(net))
    with ThreadPoolExecutor(4) as pool:
        close(list(pool.map(nested, xs)), [true_biharmonic(net, x) for x in xs])


def test_compile_a_graph_whose_edges_depend_on_the_point(tools):
    """How many pairs are near is known to no compiler; beside it, a function breaks the graph."""

    def energy(x):
        rows = x.reshape(-1, 1)
        distances = (rows - rows.T).square()
        i, j = torch.nonzero(distances < 1.0, as_tuple=True)
        return torch.exp(-distances[i, j]).sum()

    def broken(x):
        torch._dynamo.graph_break()
        return energy(x)

    whole = torch.compile(jf.laplacian(energy), fullgraph=True, backend="eager")
    apart = torch.compile(jf.laplacian(broken), backend="eager")
    for p in (torch.randn(3, dtype=torch.float64), torch.randn(3, dtype=torch.float64) * 0.2):
        near = (p[:, None] - p).square() < 1.0
        reference = lambda x, near=near: torch.exp(-(x[:, None] - x).square())[near].sum()
        expected = torch.func.hessian(reference)(p).trace()
        tools.close(whole(p), expected)
        tools.close(apart(p), expected)
