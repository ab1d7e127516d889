"""Derivatives inside of the function: torch.func and torch.autograd on jets, against nested torch.func.

What is written with torch.autograd.grad is compared with the same function written with torch.func.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad
from torch.func import (
    functional_call,
    grad,
    grad_and_value,
    hessian,
    jacfwd,
    jacrev,
    jvp,
    linearize,
    vjp,
    vmap,
)
from torch.utils._pytree import tree_leaves

import jetfold as jf
from jetfold.torch import overload

pytestmark = pytest.mark.filterwarnings("error::jetfold.JetfoldWarning")  # no slow way

POINT = torch.tensor([0.3, -0.7, 0.45], dtype=torch.float64)
V = torch.tensor([0.5, 0.8, -0.3], dtype=torch.float64)
W = torch.tensor([[0.7, -0.4, 0.2], [0.1, 0.9, -0.6], [-0.3, 0.5, 0.8]], dtype=torch.float64)
METHODS = ("minimal", "collapsed", "standard")


def energy(x: Any) -> Any:
    return (x**3).prod() + torch.sin(x).sum() + torch.tanh(W @ x).pow(2).sum()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()


def laplacian(f: Callable[..., Any], x: Any) -> Any:
    return hessian(f)(x).diagonal(dim1=-2, dim2=-1).sum(-1)


def either(on_jets: Callable[..., Any], on_tensors: Callable[..., Any]) -> Callable[..., Any]:
    return lambda p: (on_jets if isinstance(p, overload.Jet) else on_tensors)(p)


# ------------------------------------------------------------------ what people write


def hamiltonian(z: Any) -> Any:
    """q, p and the equations of motion of a network in them."""
    h = lambda z: torch.tanh(W @ z).sum() + 0.5 * z[2] ** 2 + torch.cos(z[0] * z[1])
    g = grad(h)(z)
    return torch.stack([g[2], g[1], -g[0]])


def lagrangian(z: Any, solve: Any = torch.linalg.solve) -> Any:
    """The acceleration: (∂²L/∂q̇²)⁻¹ (∂L/∂q − ∂²L/∂q̇∂q q̇)."""
    L = lambda q, v: v @ v + torch.tanh(W @ v) @ torch.sin(q) + (q**2 * v).sum() / 4
    q, v = torch.cos(z), z * 0.5
    inertia = hessian(L, 1)(q, v)
    force = grad(L, 0)(q, v) - jacfwd(grad(L, 1), 0)(q, v) @ v
    return solve(inertia, force)


def score(x: Any) -> Any:
    log_density = lambda x: torch.logsumexp(-((x - W) ** 2).sum(-1) / 0.7, 0)
    return grad(log_density)(x)


def flow(x: Any, logdet: Any = lambda m: torch.linalg.slogdet(m)[1]) -> Any:
    """A log-density: of a Gaussian behind a map, with the determinant of its Jacobian."""
    mapped = lambda x: x + 0.4 * torch.tanh(W @ torch.sin(W @ x))
    y = mapped(x)
    return -0.5 * y @ y + logdet(jacrev(mapped)(x))


def implicit(x: Any) -> Any:
    """z = tanh(Wz/3 + x): the value by iteration, its derivatives by Newton's method."""
    step = lambda z: torch.tanh(W @ z / 3 + x)
    z = torch.zeros(3, dtype=torch.float64)
    for _ in range(40):
        z = torch.tanh(W @ z / 3 + x.detach())
    for _ in range(2):  # of which each doubles the order
        z = z + torch.linalg.solve(torch.eye(3, dtype=z.dtype) - jacrev(step)(z), step(z) - z)
    return z


def unrolled(x: Any) -> Any:
    z = x
    for _ in range(40):
        z = torch.tanh(W @ z / 3 + x)
    return z


def deep_set(x: Any) -> Any:
    rows = torch.outer(torch.sin(x), V) + W
    phi = lambda row: torch.tanh(W @ row)
    return torch.exp(vmap(phi)(rows).mean(0)).sum()


def sensitivity(x: Any) -> Any:
    """Of a function of parameters, which are no jets, while what it closes over is one."""
    return jacrev(lambda w: torch.tanh(w @ x))(W).pow(2).sum()


def force(x: Any) -> Any:
    return grad(energy)(x).pow(2).sum()


def solve_by_inverse(a: Any, b: Any) -> Any:
    return torch.linalg.inv(a) @ b


def logdet_by_products(a: Any) -> Any:
    return torch.log((torch.linalg.cross(a[0], a[1]) @ a[2]).abs())


# (function, the same in a way that PyTorch nests rightly, up to which order)
FUNCTIONS = {
    "force": (force, force, 4),
    "Hamiltonian": (hamiltonian, hamiltonian, 3),
    "Lagrangian": (lagrangian, lambda z: lagrangian(z, solve_by_inverse), 2),
    "score": (score, score, 4),
    "normalising flow": (flow, lambda x: flow(x, logdet_by_products), 3),
    "implicit": (implicit, unrolled, 3),
    "deep set": (deep_set, deep_set, 4),
    "sensitivity": (sensitivity, sensitivity, 3),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_people_write(name: str, tools: Any) -> None:
    f, reference, order = FUNCTIONS[name]
    tools.agree(either(f, reference), POINT, order=order, nested=False)
    for method in METHODS[1:]:
        tools.close(jf.laplacian(f, method=method)(POINT), laplacian(reference, POINT))


# ------------------------------------------------------------------ each transform, each option


LINEAR = nn.Linear(3, 1).double()


def pair(x: Any, y: Any) -> Any:
    return {"a": torch.sin(x) * y["b"], "c": (x * x).sum() * V}


OPTIONS = {
    "grad by two": lambda x: grad(lambda a, b: (a * b**2).sum() + a[0], (0, 1))(x, x**2),
    "grad by a dict": lambda x: grad(lambda d: (d["a"] * d["b"].exp()).sum())({"a": x, "b": V}),
    "grad, the last": lambda x: grad(lambda a, b: (a * b**2).sum(), argnums=-1)(x, V),
    "grad of keywords": lambda x: grad(lambda a, *, b: (a**2 * b).sum())(V, b=x),
    "grad_and_value": lambda x: grad_and_value(energy)(x),
    "aux": lambda x: grad_and_value(lambda a: ((a**3 * x).sum(), (a * x, V)), has_aux=True)(x),
    "grad of grad": lambda x: grad(lambda y: grad(energy)(y).pow(2).sum() * x[0])(x),
    "vjp": lambda x: vjp(pair, x, {"b": V})[1]({"a": V, "c": V}),
    "vjp of a jet": lambda x: vjp(pair, V, {"b": x})[1]({"a": x**2, "c": V}),
    "vjp of a jet alone": lambda x: vjp(torch.tan, V)[1](x**2),
    "vjp with options": lambda x: vjp(torch.tan, x)[1](x, False, True),
    "vjp, aux": lambda x: vjp(lambda a: (a * x, a.sum()), x, has_aux=True)[2],
    "jvp": lambda x: jvp(pair, (x, {"b": V}), (V, {"b": x})),
    "jvp of a jet": lambda x: jvp(energy, (V,), (x**2,)),
    "jvp, aux": lambda x: jvp(lambda a: (a * x, a**2), (x,), (V,), has_aux=True),
    "jacrev in chunks": lambda x: jacrev(lambda a: a * a[0], chunk_size=2)(x),
    "jacrev by two": lambda x: jacrev(lambda a, b: (a * b, a[:2]), (0, 1))(x, V),
    "jacrev, aux": lambda x: jacrev(lambda a: (a**3, a), has_aux=True)(x),
    "jacfwd by two": lambda x: jacfwd(lambda a, b: (a * b, a[:2]), (0, 1))(x, V),
    "hessian": lambda x: hessian(lambda a: torch.exp(a.prod() * x[0]))(x),
    "reverse over reverse": lambda x: jacrev(jacrev(energy))(x),
    "vmap": lambda x: vmap(lambda a, b: (a * b, b.sum()), (None, 0), (-1, 0))(x, W * x),
    "vmap of constants": lambda x: vmap(lambda a: a * x**2)(V),
    "vmap of a dict": lambda x: vmap(lambda d, k: d["a"] ** 3 * k, (0, None))({"a": x}, V),
    "vmap, columns": lambda x: vmap(lambda a: a * x, in_dims=-1, out_dims=1)(torch.outer(x, x)),
    "vmap in chunks": lambda x: vmap(torch.sin, chunk_size=2)(x),
    "vmap in vmap": lambda x: vmap(lambda a: vmap(lambda b: a * b**2)(x))(torch.sin(x)),
    "vmap of keywords": lambda x: vmap(lambda a, *, k: a * k)(x, k=x[0]),
    "vmap of grad": lambda x: vmap(grad(lambda a, b: a**3 * b.prod()), (0, None))(x, x),
    "an axis that some do not depend on": lambda x: vmap(lambda r: (r**2).sum())(x.expand(2, 3)),
    "a complex way": lambda x: grad(lambda a: (torch.exp(1j * a * x).sum()).abs() ** 2)(x),
    "a hypernetwork": lambda x: functional_call(LINEAR, {"weight": x[None], "bias": x[:1]}, (x,)),
    "in place": lambda x: grad(lambda a: torch.zeros_like(a).add_(a).mul_(a).sum() * x[0])(x),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_transform(name: str, tools: Any) -> None:
    f = OPTIONS[name]
    results = tree_leaves(jf.derivatives([jf.laplacian, jf.jacobian, jf.value])(f)(POINT))
    count = len(results) // 3
    for k in range(count):
        part = lambda x, k=k: tree_leaves(f(x))[k]
        tools.close(results[k], laplacian(part, POINT))
        tools.close(results[count + k], jacfwd(part)(POINT))
        tools.close(results[2 * count + k], part(POINT))


LINEARIZED = {
    "at x": lambda x, lin: lin(energy, x)[1](torch.sin(x) * V) * lin(torch.tan, x)[0],
    "at a constant, along x": lambda x, lin: lin(torch.tan, V)[1](x**2),
    "closes over x": lambda x, lin: lin(lambda a: torch.tanh(W @ a) * x, V)[1](V),
    "of two, trees": lambda x, lin: lin(lambda a, b: {"a": a * b, "s": b.prod()}, x, V)[1](V, x)[
        "s"
    ],
    "in vmap": lambda x, lin: vmap(lin(energy, x)[1])(torch.outer(x, torch.sin(x))),
    "in itself": lambda x, lin: lin(lambda a: lin(energy, a)[1](torch.sin(x)), x)[1](V * x),
}


@pytest.mark.parametrize("name", LINEARIZED)
def test_linearize(name: str, tools: Any) -> None:
    f = lambda x: LINEARIZED[name](x, linearize)
    reference = lambda x: LINEARIZED[name](x, lambda f, *x: (f(*x), lambda *v: jvp(f, x, v)[1]))
    tools.agree(either(f, reference), POINT, order=3, nested=False)
    points = torch.stack([POINT, V])
    expected = torch.stack([laplacian(reference, p) for p in points])
    tools.close(vmap(jf.laplacian(f))(points), expected)
    tools.close(jf.laplacian(vmap(f), batch_dims=1)(points), expected)
    if name == "at a constant, along x":
        compiled = torch.compile(jf.laplacian(f), fullgraph=True, backend="eager")
        tools.close(compiled(POINT), expected[0])


# ------------------------------------------------------------------ torch.cond, torch.while_loop

YES = torch.tensor(True)
CONDITIONS = {  # (by torch, by Python)
    "of x": (
        lambda x: torch.cond(x.prod() < 0, lambda a: a.sin() * V, torch.exp, (x,)),
        lambda x: x.sin() * V if x.prod() < 0 else torch.exp(x),
    ),
    "of a constant": (
        lambda x: torch.cond(YES, lambda a: {"a": a**3}, lambda a: {"a": a}, (x,)),
        lambda x: {"a": x**3},
    ),
    "of a number, closing over x": (
        lambda x: torch.cond(x.ndim > 1, lambda a: a, lambda a: a * x**2, (V,)),
        lambda x: V * x**2,
    ),
    "of a loop": (
        lambda x: torch.while_loop(
            lambda k, a: k < 3, lambda k, a: (k + 1, a.sin() * x), (torch.tensor(0), x)
        )[1],
        lambda x: ((x.sin() * x).sin() * x).sin() * x,
    ),
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_cond(name: str, tools: Any) -> None:
    f, reference = CONDITIONS[name]
    tools.agree(either(f, reference), POINT, order=3, nested=False)
    points = torch.stack([POINT, -POINT, V])
    expected = torch.stack([tree_leaves(jf.laplacian(reference)(p))[0] for p in points])
    for found in (vmap(jf.laplacian(f))(points), jf.laplacian(vmap(f), batch_dims=1)(points)):
        tools.close(tree_leaves(found)[0], expected)


def test_compile_cond(tools: Any) -> None:
    f, reference = CONDITIONS["of x"]
    compiled = torch.compile(jf.laplacian(f), fullgraph=True, backend="eager")
    for p in (POINT, -POINT):
        tools.close(compiled(p), jf.laplacian(reference)(p))


def test_transforms_made_before(tools: Any) -> None:
    field, pull = grad(energy), vjp(torch.tan, V)[1]
    f = lambda x: field(x) * pull(x**2)[0]
    tools.close(jf.laplacian(f)(POINT), laplacian(f, POINT))


def test_levels(tools: Any) -> None:
    """Operators nested in the function, in its transform, and around it."""

    def f(lap: Any) -> Any:
        return lambda x: grad(lambda y: lap(lambda z: (z**4).prod() * y.sum() * x[1])(y**2))(x)

    expected = laplacian(f(lambda g: lambda y: laplacian(g, y)), POINT)
    tools.close(jf.laplacian(f(jf.laplacian))(POINT), expected)
    t, x, _ = jf.partials(3)
    tools.close(t(x(grad(energy)))(POINT), hessian(grad(energy))(POINT)[:, 0, 1])


def test_without_a_jet_pytorch_runs_untouched() -> None:
    def f(x: Any) -> Any:
        with pytest.raises(RuntimeError, match="scalar Tensor"):
            grad(torch.sin)(V)
        with pytest.raises(ValueError, match="same size"):
            vmap(torch.mul)(V, V[:2])
        assert type(vmap(torch.sin)(V)) is torch.Tensor
        return x.sum()

    jf.laplacian(f)(POINT)


def test_around_it_vmap_and_grad(tools: Any) -> None:
    points = torch.stack([POINT, V, POINT * V])
    f = lambda x: grad(energy)(x).pow(2).sum()
    expected = torch.stack([laplacian(f, p) for p in points])
    tools.close(vmap(jf.laplacian(f))(points), expected)
    batched = lambda x: vmap(grad(energy))(x).pow(2).sum(-1)
    tools.close(jf.laplacian(batched, batch_dims=1)(points), expected)
    tools.close(grad(jf.laplacian(f))(POINT), grad(lambda x: laplacian(f, x))(POINT))


def test_randomized(tools: Any) -> None:
    """The same directions as for the same function without a derivative in it."""
    inner = lambda x: grad(lambda x: V @ torch.sin(x) + (x @ x) ** 2)(x).pow(2).sum()
    plain = lambda x: (V * torch.cos(x) + 4 * (x @ x) * x).pow(2).sum()
    for operator in (jf.laplacian, jf.biharmonic):
        estimate = jf.randomize(operator, samples=1)
        found = [estimate(f)(POINT, rng=torch.Generator().manual_seed(7)) for f in (inner, plain)]
        tools.close(*found)


# ------------------------------------------------------------------ torch.autograd


def forces(x: Any, **options: Any) -> Any:
    x.requires_grad_()
    return torch.autograd.grad(energy(x), x, **options)[0]


def by_argument(x: Any) -> Any:
    return torch.autograd.grad([energy(x)], [x], create_graph=True)[0]


def by_copy(x: Any) -> Any:
    x = x.clone()
    x.requires_grad = True
    return torch.autograd.grad(energy(x), x, torch.ones_like(energy(x)), create_graph=True)[0]


def by_exp(x: Any) -> Any:  # of which the coefficients are made of its value
    z = torch.exp(x)
    return torch.autograd.grad((z * torch.sin(z)).sum(), z, create_graph=True)[0]


def by_sum(x: Any) -> Any:  # of which the coefficients are those of x
    z = x + 1
    return torch.autograd.grad((z * x * torch.sin(z)).sum(), z, create_graph=True)[0]


def by_view(x: Any) -> Any:
    w = x[:2] * x[:2]
    return torch.autograd.grad((w * x[0] * torch.sin(w)).sum(), w, create_graph=True)[0]


def by_written(x: Any) -> Any:  # and a view of it
    z = torch.sin(x)
    y = z[:2]
    z[0] = x[1]
    return torch.autograd.grad((y**2 * x[:2]).sum() + z[0], z, create_graph=True)[0]


def by_mapped(x: Any) -> Any:
    z = vmap(torch.exp)(x)
    return torch.autograd.grad((z**2 * x).sum(), z, create_graph=True)[0]


def by_late(x: Any) -> Any:  # what was computed before counts, where autograd follows it
    w = V.clone().requires_grad_()
    z = x * w
    e = (z**3).sum()
    z.requires_grad_()
    return torch.autograd.grad(e + z.sin().sum(), z)[0]


def of_outer(x: Any) -> Any:  # by the point of the outer operator, inside of the inner one
    def inner(y: Any) -> Any:
        e = (x * y).sin().sum() * y.prod()
        return torch.autograd.grad(e, x, create_graph=True)[0].pow(2).sum()

    return jf.laplacian(inner)(V)


def of_outer_by_func(x: Any) -> Any:
    e = lambda x, y: (x * y).sin().sum() * y.prod()
    return laplacian(lambda y: grad(e)(x, y).pow(2).sum(), V)


def by_two(x: Any) -> Any:
    x.requires_grad_()
    w = x * x
    return torch.autograd.grad((w * x[0] * torch.sin(w)).sum(), [w, x], create_graph=True)


def twice(x: Any) -> Any:
    force = forces(x, create_graph=True)
    return torch.autograd.grad(force.pow(2).sum(), x, create_graph=True)[0]


def divergence(x: Any) -> Any:
    force = forces(x, create_graph=True)
    rows = [torch.autograd.grad(force[k], x, retain_graph=True)[0][k] for k in range(3)]
    return torch.stack(rows).sum()


def batched(x: Any) -> Any:
    x.requires_grad_()
    y, eye = torch.sin(x) * x[0], torch.eye(3, dtype=x.dtype)
    return torch.autograd.grad(y, x, eye, is_grads_batched=True, create_graph=True)[0]


def along(x: Any) -> Any:
    x.requires_grad_()
    return torch.autograd.grad(torch.sin(x) * x[0], x, x**2, create_graph=True)[0]


def of_constants(x: Any) -> Any:
    w = V.clone().requires_grad_()
    return torch.autograd.grad(torch.tan(w), w, [x**2])[0]


def partly_used(x: Any) -> Any:
    w = V.clone().requires_grad_()
    x.requires_grad_()
    found = torch.autograd.grad(energy(x), [w, x], allow_unused=True)
    assert found[0] is None
    zeros = torch.autograd.grad(energy(x), [w], materialize_grads=True)[0]
    return found[1] + zeros


def by_duals(x: Any) -> Any:
    with forward_ad.dual_level():
        y = torch.sin(forward_ad.make_dual(x, x**2)) * x + forward_ad.make_dual(V, x)
        assert forward_ad.unpack_dual(x).tangent is None
        return forward_ad.unpack_dual(y).tangent


functional = torch.autograd.functional
AUTOGRAD = {
    "forward_ad": (by_duals, lambda x: x**2 * x.cos() * x + x),
    "requires_grad_": (lambda x: forces(x, create_graph=True), grad(energy)),
    "without create_graph": (forces, grad(energy)),
    "by the argument": (by_argument, grad(energy)),
    "by a copy": (by_copy, grad(energy)),
    "by exp(x)": (by_exp, lambda x: grad(lambda z: (z * z.sin()).sum())(x.exp())),
    "by x + 1": (by_sum, lambda x: grad(lambda z: (z * x * z.sin()).sum())(x + 1)),
    "by x[:2]²": (by_view, lambda x: grad(lambda w: (w * x[0] * w.sin()).sum())(x[:2] ** 2)),
    "by what is written": (
        by_written,
        lambda x: torch.stack([2 * x[1] * x[0] + 1, 2 * x[1].sin() * x[1], x[0] * 0]),
    ),
    "by what vmap returns": (by_mapped, lambda x: 2 * x.exp() * x),
    "late": (by_late, lambda x: 3 * (x * V) ** 2 + torch.cos(x * V)),
    "of an outer operator": (of_outer, of_outer_by_func),
    "by two": (
        by_two,
        lambda x: (
            grad(lambda w: (w * x[0] * w.sin()).sum())(x**2),
            grad(lambda x: (x**2 * x[0] * (x**2).sin()).sum())(x),
        ),
    ),
    "twice": (twice, grad(lambda x: grad(energy)(x).pow(2).sum())),
    "divergence": (divergence, lambda x: hessian(energy)(x).trace()),
    "batched": (batched, jacrev(lambda x: x.sin() * x[0])),
    "along": (along, lambda x: vjp(lambda x: x.sin() * x[0], x)[1](x**2)[0]),
    "of constants": (of_constants, lambda x: vjp(torch.tan, V)[1](x**2)[0]),
    "partly used": (partly_used, grad(energy)),
    "functional.jacobian": (
        lambda x: functional.jacobian(lambda a: a.sin() * x[0], x),
        lambda x: jacrev(lambda a: a.sin() * x[0])(x),
    ),
    "functional.jacobian, forward": (
        lambda x: functional.jacobian(
            lambda a, b: a.sin() * b * x[0], (x, V), vectorize=True, strategy="forward-mode"
        ),
        lambda x: jacrev(lambda a, b: a.sin() * b * x[0], (0, 1))(x, V),
    ),
    "functional.vjp": (
        lambda x: functional.vjp(lambda a: a.sin() * a[0], x, V)[1],
        lambda x: vjp(lambda a: a.sin() * a[0], x)[1](V)[0],
    ),
    "functional.jvp": (
        lambda x: functional.jvp(lambda a: a.sin() * a[0], x, V)[1],
        lambda x: jvp(lambda a: a.sin() * a[0], (x,), (V,))[1],
    ),
}


@pytest.mark.parametrize("name", AUTOGRAD)
def test_autograd_inside(name: str, tools: Any) -> None:
    """A derivative by the point is exact whatever create_graph says."""
    f, reference = AUTOGRAD[name]
    order = 3 if name in ("without create_graph", "by exp(x)", "by two") else 2
    tools.agree(either(f, reference), POINT, order=order)
    assert not POINT.requires_grad


@pytest.mark.parametrize("method", METHODS[1:])
def test_autograd_by_other_methods(method: str, tools: Any) -> None:
    for f, reference in (AUTOGRAD["by two"], AUTOGRAD["without create_graph"]):
        for k, result in enumerate(tree_leaves(jf.biharmonic(f, method=method)(POINT))):
            part = lambda x, k=k, g=reference: tree_leaves(g(x))[k]
            expected = laplacian(lambda x, part=part: laplacian(part, x), POINT)
            tools.close(result, expected, 1e-8)


def test_several_symbols_at_once(tools: Any) -> None:
    """Of which no one is a derivative of another, so that one reverse pass is not enough."""
    t, x, y = jf.partials(3)
    wanted = {"ty": t * y, "xx": x**2, "t³": t**3 - x, "y": y}
    assert wanted
    for f in (forces, grad(energy), lambda z: grad(lambda a: (a**3 * z).sum())(V)):
        found = jf.derivatives(wanted)(f)(POINT)
        g = grad(energy) if f is forces else f
        second, third = jacfwd(jacfwd(g))(POINT), jacfwd(jacfwd(jacfwd(g)))(POINT)
        tools.close(found["ty"], second[:, 0, 2])
        tools.close(found["xx"], second[:, 1, 1])
        tools.close(found["t³"], third[:, 0, 0, 0] - jacfwd(g)(POINT)[:, 1])


def test_autograd_under_no_grad(tools: Any) -> None:
    def f(x: Any) -> Any:
        with torch.enable_grad():
            return forces(x.clone())

    with torch.no_grad():
        tools.close(jf.laplacian(f)(POINT), laplacian(grad(energy), POINT))


# ------------------------------------------------------------------ parameters


def step(net: nn.Module) -> Callable[..., Any]:
    """One step of gradient descent by the parameters, on the data x, and then the loss elsewhere."""

    def f(params: Any, x: Any) -> Any:
        loss = lambda p: (functional_call(net, p, (x,)) - 1.3).pow(2).sum()
        slopes = grad(loss)(params)
        following = {k: p - 0.3 * slopes[k] for k, p in params.items()}
        return functional_call(net, following, (torch.sin(x),)).sum()

    return f


def step_by_autograd(net: nn.Module, x: Any) -> Any:
    names, params = zip(*net.named_parameters(), strict=True)
    loss = (net(x) - 1.3).pow(2).sum()
    slopes = torch.autograd.grad(loss, params, create_graph=True)
    pairs = zip(names, params, slopes, strict=True)
    return functional_call(net, {k: p - 0.3 * g for k, p, g in pairs}, (torch.sin(x),)).sum()


def force_norm(net: nn.Module) -> Callable[..., Any]:
    def f(params: Any, x: Any) -> Any:
        return grad(lambda x: functional_call(net, params, (x,)).sum())(x).pow(2).sum()

    return f


def force_norm_by_autograd(net: nn.Module, x: Any) -> Any:
    x.requires_grad_()
    return torch.autograd.grad(net(x).sum(), x, create_graph=True)[0].pow(2).sum()


@pytest.mark.parametrize(
    ("function", "by_autograd"),
    [(step, step_by_autograd), (force_norm, force_norm_by_autograd)],
    ids=["a step of gradient descent", "forces"],
)
def test_gradients_by_parameters(function: Any, by_autograd: Any, tools: Any) -> None:
    net = network()
    params = {k: p.detach() for k, p in net.named_parameters()}
    f = function(net)
    truth = lambda p: laplacian(lambda x: f(p, x), POINT)
    expected = grad(truth)(params)
    ours = grad(lambda p: jf.laplacian(lambda x: f(p, x))(POINT))(params)
    value = jf.laplacian(lambda x: by_autograd(net, x))(POINT)
    tools.close(value.detach(), truth(params))
    value.backward()
    for name, p in net.named_parameters():
        tools.close(ours[name], expected[name])
        tools.close(torch.zeros_like(p) if p.grad is None else p.grad, expected[name])


def test_gradients_by_the_point(tools: Any) -> None:
    """A point that autograd follows already; without create_graph none pass, as in PyTorch."""
    point = POINT.clone().requires_grad_()
    f = lambda x: forces(x, create_graph=True).pow(2).sum()
    found = torch.autograd.grad(jf.laplacian(f)(point), point)[0]
    tools.close(found, grad(lambda x: laplacian(lambda x: grad(energy)(x).pow(2).sum(), x))(POINT))
    assert not jf.laplacian(lambda x: forces(x).pow(2).sum())(point).requires_grad


# ------------------------------------------------------------------ random numbers, compiled


def test_a_function_that_runs_again_draws_the_same_numbers(tools: Any) -> None:
    ones = torch.ones(40, dtype=torch.float64)
    f = lambda x: grad(lambda w: F.dropout(w * x[0] ** 2, 0.5).sum())(ones)
    g = lambda x: torch.autograd.grad(F.dropout(ones * x[0] ** 2, 0.5).sum(), x)[0]
    for function in (f, g):
        torch.manual_seed(0)
        mask = F.dropout(ones, 0.5)
        after = torch.rand(())
        torch.manual_seed(0)
        found = jf.laplacian(function)(POINT)
        assert torch.equal(torch.rand(()), after)
        expected = 2 * mask if function is f else torch.zeros(3, dtype=torch.float64)
        tools.close(found, expected)


def test_compiled(tools: Any) -> None:
    def f(x: Any) -> Any:
        inner = grad(lambda w: torch.tanh(w * x).sum())(V)  # the jet is in its closure
        return vmap(grad(lambda a, b: a**3 * b.prod()), (0, None))(x, inner).sum()

    op = torch.compile(jf.laplacian(f), fullgraph=True, backend="aot_eager")
    for point in (POINT, POINT + 1):
        tools.close(op(point), laplacian(f, point))


# ------------------------------------------------------------------ errors


def test_a_detached_copy_is_pointed_at() -> None:
    def by_detached(x: Any) -> Any:
        x = x.detach().clone().requires_grad_()
        return torch.autograd.grad(energy(x), x)[0]

    with pytest.warns(jf.JetfoldWarning, match="a detached copy of the argument"):
        assert not jf.laplacian(by_detached)(POINT).any()


def test_autograd_inside_of_a_transform_says_what_to_write() -> None:
    for f in (forces, by_argument):
        with pytest.raises(NotImplementedError, match=r"Write torch\.func\.grad in the function"):
            vmap(jf.laplacian(f))(torch.stack([POINT, V]))


def test_autograd_compiled_says_what_to_write() -> None:
    with pytest.raises(Exception, match=r"Write torch\.func\.grad there, which is compiled"):
        torch.compile(jf.laplacian(forces), backend="aot_eager")(POINT)


def test_what_pytorch_refuses_is_refused() -> None:
    w = V.clone().requires_grad_()
    cases = {
        "appears to not have been used": lambda x: torch.autograd.grad(energy(w * x), [w.exp()])[0],
        "only for scalar outputs": lambda x: torch.autograd.grad(x.requires_grad_().sin(), x)[0],
        "Mismatch in shape": lambda x: torch.autograd.grad(x.requires_grad_() ** 2, x, x[:2])[0],
        "scalar Tensor": grad(torch.sin),
        "pytree structure": lambda x: vjp(torch.sin, x)[1]((x,)),
        "same python structure": lambda x: jvp(torch.sin, (x,), (x, x)),
        "in_dim=3": lambda x: vmap(torch.sin, 3)(x),
        "same size in the mapped": lambda x: vmap(torch.mul)(x, V[:2]),
        "only return Tensors": lambda x: vmap(lambda a: "x")(x),
        "write torch.autograd.grad": lambda x: energy(x).backward(),
    }
    for message, f in cases.items():
        with pytest.raises((RuntimeError, ValueError, TypeError), match=message):
            jf.laplacian(f)(POINT)
