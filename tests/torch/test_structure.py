"""Structure of dependence in PyTorch: exact, and cheaper, in what networks of particles do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

import jetfold as jf
from jetfold.bench.wavefunctions.molecule import Molecule
from jetfold.bench.wavefunctions.torch import Psiformer
from jetfold.core.structure import Structured, parts
from jetfold.torch import frontend

N = 5


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Structure in small problems too."""
    monkeypatch.setattr(frontend, "FEWEST", {"cpu": 0, "cuda": 0})


def matrix(rng, *shape):
    return torch.as_tensor(rng.normal(size=shape) / np.sqrt(shape[-1]))


# ------------------------------------------------------------------ random compositions


def steps(rng):
    """Operations on (n, k) arrays, n and k of which they may change."""

    def choice(*items):
        return items[rng.integers(len(items))]

    def linear(x):
        return F.linear(x, matrix(rng, 4, x.shape[1]), matrix(rng, 4))

    def matmul(x):
        return choice(
            lambda: x @ matrix(rng, x.shape[1], 3),
            lambda: torch.einsum("nk,kj->nj", x, matrix(rng, x.shape[1], 3)),
            lambda: torch.tensordot(x, matrix(rng, 3, x.shape[1]), ([1], [1])),
            lambda: torch.addmm(matrix(rng, 3), x, matrix(rng, x.shape[1], 3)),
            lambda: matrix(rng, 4, x.shape[0]) @ x,
        )()

    def elementwise(x):
        return choice(
            torch.sin, torch.tanh, F.silu, lambda x: (1 + x * x).log(), lambda x: x.cdouble().real
        )(x)

    def arithmetic(x):
        c = matrix(rng, x.shape[0], 1)
        return choice(
            lambda: x * x.sin() - c,
            lambda: x / (1 + x * x),
            lambda: c - x.flip(0) * x,
            lambda: torch.where(x > 0.1, x.sin(), x * c),
            lambda: x.clamp(-0.5, 0.7) * 2,
            lambda: torch.addcmul(x, x[:, :1], x.cos()),
        )()

    def pairs(x):
        i, j = np.triu_indices(x.shape[0], 1)
        apart = x[:, None] - x
        near = torch.linalg.vector_norm(x[i] - x[j], dim=-1)
        g = torch.cat([apart, (1 + apart.square().sum(-1, keepdim=True)).sqrt()], dim=-1)
        out = choice(g.mean(1), g.tanh().sum(0), g.amax(1), g.reshape(len(x), -1)[:, :5])
        return out + near.exp().mean() * 0.1

    def pooled(x):
        mean = x.mean(0, keepdim=True).expand(x.shape)
        return choice(
            lambda: torch.cat([x, mean], -1),
            lambda: torch.hstack([mean.sin(), x]),
            lambda: x - x.logsumexp(0),
            lambda: x + x.std(0, keepdim=True),
            lambda: x * x.softmax(0),
            lambda: F.layer_norm(x, x.shape[1:]),
            lambda: x + x.cumsum(choice(0, 1)),
        )()

    def spins(x):
        up, down = x.split([2, x.shape[0] - 2])
        return torch.cat([down * 2, up.sin(), down[:1] * up[:1]])

    def moved(x):
        n, k = x.shape
        index = torch.as_tensor(rng.permutation(n))
        return choice(
            lambda: x.T.contiguous().T.roll(1, 0),
            lambda: x.reshape(n, 1, k).repeat(1, 2, 1).flatten(1),
            lambda: x[index],
            lambda: x.index_select(1, torch.arange(k).flip(0)),
            lambda: x[::2].repeat_interleave(2, 0),
            lambda: torch.stack(x.unbind(0)[::-1]).transpose(0, 1).movedim(0, 1),
            lambda: torch.stack([x[0], x[1].sin(), x[0] * x[2]]),
            lambda: F.pad(x, (0, 1, 1, 0), value=0.3),
            lambda: x.gather(0, index[:, None].expand(n, k)),
            lambda: x.unsqueeze(1).squeeze(1).chunk(2, 0)[0].tile(2, 1),
            lambda: torch.index_add(x, 0, index[:2], x[:2].cos()),
            lambda: x.narrow(0, 0, 3),
            lambda: x.diagonal_scatter(x.diagonal().sin()),
        )()

    def written(x):
        out = torch.zeros(3, x.shape[0], dtype=x.dtype)
        out[0] = x.norm(dim=1)
        out[1, 1:] = x[1:, 0].sin()
        out[2] += x[:, -1] * out[0].clone()
        return choice(out, out.T.clone())

    def attention(x):
        q, k, v = (F.linear(x, matrix(rng, 4, x.shape[1])) for _ in range(3))
        q, k, v = (y.view(len(x), 2, 2).transpose(0, 1) for y in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v).transpose(0, 1).reshape(len(x), 4)
        return choice(out, torch.exp(torch.tanh(x @ x.mT)) @ x)

    kinds = (linear, matmul, elementwise, arithmetic, pairs, pooled, spins, moved, written)
    return [choice(*kinds, attention, moved, arithmetic) for _ in range(4)]


def composed(seed):
    """A random function of an (N, 3) array, and how it was made."""

    def function(x):
        rng = np.random.default_rng(seed)
        for step in steps(rng):
            if min(x.shape) < 3:
                x = torch.cat([x, x.sin(), x * x], dim=int(np.argmin(x.shape)))
            x = step(x[:6, :6]) * 0.7
        return (x.sin() * matrix(rng, *x.shape)).sum()

    return function


def trace(function, x):
    """The Laplacian by PyTorch's own derivatives."""
    with sdpa_kernel(SDPBackend.MATH):  # others have no forward mode
        hessian = torch.func.hessian(function)(x)
    return hessian.reshape(x.numel(), x.numel()).trace()


@pytest.mark.parametrize("seed", range(24))
def test_random_compositions(seed):
    x = torch.as_tensor(np.random.default_rng(100 + seed).normal(size=(N, 3)))
    function = composed(seed)
    found = jf.laplacian(function)(x)
    torch.testing.assert_close(found, jf.laplacian(function, structure=False)(x))
    torch.testing.assert_close(found, trace(function, x))


@pytest.mark.parametrize("seed", range(100, 106))
def test_random_compositions_inside_of_transforms(seed):
    """Mapped, differentiated, nested, and of a weighted sum of powers of all coordinates."""
    points = torch.as_tensor(np.random.default_rng(seed).normal(size=(2, N, 3)))
    function, x = composed(seed), points[0]
    dense = jf.laplacian(function, structure=False)
    laplacian = jf.laplacian(function)
    torch.testing.assert_close(
        torch.func.vmap(laplacian)(points), torch.stack([*map(dense, points)])
    )
    torch.testing.assert_close(torch.func.grad(laplacian)(x), torch.func.grad(dense)(x))
    torch.testing.assert_close(jf.laplacian(laplacian)(x), jf.laplacian(dense, structure=False)(x))
    coordinates = jf.partials(3 * N)
    quartic = sum((1 + k) * p**4 for k, p in enumerate(coordinates)) + coordinates[0] ** 2
    torch.testing.assert_close(quartic(function)(x), quartic(function, structure=False)(x))


# ------------------------------------------------------------------ counted


class Work(TorchDispatchMode):
    """How many numbers operations write, and how many products of numbers are in those of matrices.

    Nothing needs to be computed: tensors without memory will do.
    """

    def __init__(self):
        super().__init__()
        self.numbers = self.products = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and not func.is_view:
            self.numbers += out.numel()
            if func in (torch.ops.aten.mm.default, torch.ops.aten.bmm.default):
                self.products += out.numel() * args[0].shape[-1]
        return out


def cost(function, *shape, **options):
    """(products, numbers written) of a Laplacian."""
    x = torch.empty(shape, device="meta", dtype=torch.float64)
    with Work() as work:
        jf.laplacian(function, **options)(x)
    return work.products, work.numbers


def carried(x):
    """How many numbers the coefficients of a jet are."""
    arrays = [[dense, *(piece.block for piece in pieces)] for dense, pieces in map(parts, x.stored)]
    return sum(b.numel() for of_degree in arrays for b in of_degree if b is not None)


def test_one_particle_costs_the_same_among_many():
    weights = [torch.empty(n, m, device="meta", dtype=torch.float64) for n, m in ((8, 3), (8, 8))]
    numbers = []

    def function(x):
        for weight in weights:
            x = torch.tanh(F.linear(x, weight))
        numbers.append(carried(x))
        return x.square().sum()

    costs = [np.array(cost(function, n, 3)) / n for n in (8, 64)]
    assert (costs[1] <= costs[0]).all()
    assert numbers == [8 * 8 * (3 + 1), 64 * 8 * (3 + 1)]
    dense = [np.array(cost(function, n, 3, structure=False)) / n for n in (8, 64)]
    assert (dense[1] > 4 * dense[0]).all()


@pytest.mark.filterwarnings("ignore:laplacian carries 802 vectors")  # which are meant
def test_products_of_pairs_cost_less():
    def function(x):
        return (torch.exp(x @ x.mT) @ x).mean()

    structured, dense = cost(function, 400, 2), cost(function, 400, 2, structure=False)
    assert 10 * structured[0] < dense[0] and 10 * structured[1] < dense[1]


def test_what_is_written_into_zeros_keeps_its_structure():
    slots = []

    def function(x):
        out = torch.zeros(4, 2, len(x), dtype=x.dtype)
        out[0, 1] = torch.linalg.vector_norm(x, dim=1)
        slots.extend(piece.owners.slots for block in out.stored[:1] for piece in block.pieces)
        assert all(isinstance(block, Structured) for block in out.stored[:1])
        return out.exp().sum()

    x = torch.as_tensor(np.random.default_rng(0).normal(size=(N, 3)))
    torch.testing.assert_close(
        jf.laplacian(function)(x), trace(lambda x: x.norm(dim=1).exp().sum(), x)
    )
    assert set(slots) == {3}


def test_a_determinant_of_orbitals_costs_less():
    def function(x):
        orbitals = torch.tanh(F.linear(x, weight)).reshape(len(x), 2, len(x)).transpose(0, 1)
        sign, logs = torch.linalg.slogdet(orbitals)
        return (sign * torch.exp(logs)).sum().abs().log()

    weight = torch.empty(2 * 16, 3, dtype=torch.float64, device="meta")
    structured, dense = cost(function, 16, 3), cost(function, 16, 3, structure=False)
    assert 10 * structured[0] < dense[0] and 2 * structured[1] < dense[1]
    rng = np.random.default_rng(3)
    weight, x = matrix(rng, 2 * N, 3), matrix(rng, N, 3)
    torch.testing.assert_close(jf.laplacian(function)(x), trace(function, x))


@pytest.mark.parametrize("turned", [False, True])
def test_systems_of_rows_apart_cost_less(turned):
    def function(x):
        orbitals = torch.tanh(F.linear(x, weight)) + 2 * torch.eye(
            len(x), dtype=x.dtype, device=x.device
        )
        orbitals = orbitals.mT if turned else orbitals
        by_rows = torch.linalg.solve(torch.stack([orbitals, orbitals.sin()]), x.sin().unsqueeze(0))
        return (torch.linalg.inv(orbitals) @ by_rows).square().sum()

    weight = torch.empty(16, 3, dtype=torch.float64, device="meta")
    x = torch.as_tensor(np.random.default_rng(3).normal(size=(N, 3)))
    (structured, _), (dense, _) = cost(function, 16, 3), cost(function, 16, 3, structure=False)
    assert 2 * structured < dense
    weight = matrix(np.random.default_rng(4), N, 3)
    torch.testing.assert_close(jf.laplacian(function)(x), trace(function, x))
    fourth = sum(p**4 for row in jf.partials((N, 3)) for p in row)
    torch.testing.assert_close(fourth(function)(x), fourth(function, structure=False)(x))


# ------------------------------------------------------------------ a wave function


def psiformer(electrons, **options):
    torch.manual_seed(0)
    nuclei = Molecule(((0.0, 0.0, 0.0), (0.0, 0.0, 1.4)), (2.0, 1.0), (electrons - 1, 1))
    return Psiformer(nuclei, **options).double()


def test_the_local_energy_of_a_psiformer_and_its_gradient():
    network = psiformer(4, width=8, heads=2, determinants=2)
    walkers = torch.as_tensor(np.random.default_rng(1).normal(size=(3, 4, 3)))

    def log(x):
        return network(x)[1]

    def energies(**options):
        kinetic = jf.laplacian(log, **options)
        return torch.func.vmap(
            lambda x: kinetic(x) + jf.gradient(log, **options)(x).square().sum()
        )(walkers)

    found, dense = energies(), energies(structure=False)
    torch.testing.assert_close(found, dense)
    torch.testing.assert_close(
        found[0], trace(log, walkers[0]) + torch.func.grad(log)(walkers[0]).square().sum()
    )
    gradients = (
        torch.autograd.grad(y.square().sum(), [*network.parameters()], allow_unused=True)
        for y in (found, dense)
    )
    torch.testing.assert_close(*map(list, gradients))


def test_compiled_operators_carry_structure():
    """Mapped over walkers, with gradients to parameters, at the cost that they have eagerly."""
    rng = np.random.default_rng(2)
    weights = [matrix(rng, *shape).requires_grad_() for shape in ((6, 3), (4, 7), (N, 6))]
    walkers = torch.as_tensor(rng.normal(size=(3, N, 3)))

    def function(x):
        i, j = torch.triu_indices(len(x), len(x), 1)
        near = torch.linalg.vector_norm(x[i] - x[j], dim=-1).exp().mean()
        ends = x.norm(dim=1).index_select(0, torch.arange(len(x)).flip(0)[:2])
        h = torch.tanh(F.linear(x, weights[0]))
        h = torch.cat([h, h.mean(0, keepdim=True).expand(h.shape)[:, :1]], -1)
        h = F.layer_norm(F.linear(h, weights[1]), (4,))
        h = h + torch.exp(torch.tanh(h @ h.mT)) @ h
        matrices = F.linear(torch.tanh(F.linear(x, weights[0])), weights[2])
        return (h.sin().sum() + near + torch.linalg.slogdet(matrices)[1]) * ends.sum()

    work = []

    def backend(graph, inputs):
        with Work() as counted:
            graph(*inputs)
        work.append((counted.products, counted.numbers))
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    local = torch.func.vmap(jf.laplacian(function))
    found = torch.compile(local, backend=backend, fullgraph=True)(walkers)
    dense = torch.func.vmap(jf.laplacian(function, structure=False))
    torch.testing.assert_close(found, dense(walkers))
    torch.testing.assert_close(found[0], trace(function, walkers[0]))
    of_found, of_dense = (
        torch.autograd.grad(y.square().sum(), weights) for y in (found, dense(walkers))
    )
    torch.testing.assert_close(of_found, of_dense)
    local(walkers)  # from now on it is known where entries go
    with Work() as eager:
        local(walkers)
    with Work() as without:
        dense(walkers)
    ((products, numbers),) = work
    assert products == eager.products < 0.7 * without.products
    assert numbers < 1.2 * eager.numbers and numbers < without.numbers


def test_compiled_operators_do_not_trust_indices_that_may_change():
    index, x = (
        torch.tensor([2, 0, 1]),
        torch.as_tensor(np.random.default_rng(4).normal(size=(3, 4))),
    )

    def function(x):
        other = torch.arange(3)
        other[0] = 2
        return (x.sin()[index] * x.cos()[other] * x).sum()

    compiled = torch.compile(jf.laplacian(function), backend="eager", fullgraph=True)
    for moved in ([2, 0, 1], [0, 0, 1]):
        index.copy_(torch.tensor(moved))
        torch.testing.assert_close(compiled(x), trace(function, x))


def test_compiled_operators_at_a_symbolic_number_of_points():
    weight = matrix(np.random.default_rng(5), 4, 3)

    def function(x):
        h = torch.tanh(F.linear(x, weight))
        return torch.cat([h, h.sin().flip(0)]).reshape(2, *h.shape).square().sum((0, 2, 3))

    operator = jf.laplacian(function, batch_dims=1)
    compiled = torch.compile(operator, backend="eager", fullgraph=True)
    for count in (3, 4):
        x = torch.as_tensor(np.random.default_rng(count).normal(size=(count, N, 3)))
        torch._dynamo.mark_dynamic(x, 0)
        dense = jf.laplacian(function, batch_dims=1, structure=False)
        torch.testing.assert_close(compiled(x), dense(x))


def test_attention_costs_less():
    """Of two layers of attention the first."""
    network = psiformer(16).to("meta")
    structured, dense = (cost(lambda x: network(x)[1], 16, 3, structure=s) for s in (True, False))
    assert structured[0] < 0.8 * dense[0] and structured[1] < 0.8 * dense[1]


def test_small_problems_are_left_alone(monkeypatch):
    monkeypatch.undo()
    kept = []

    def function(x):
        kept.append(isinstance(x.stored[0], Structured))
        return x.sin().sum()

    for n in (4, 128):
        jf.laplacian(function)(torch.ones(n, 3))
    assert kept == [False, True]


def test_explain_tells_methods_and_operators_too():
    def f(r):
        difference = r[None] - r[:, None]
        return (-(difference.square().sum(-1) + 0.1).sqrt()).exp().sum()

    told = [step.name for step in jf.explain(jf.laplacian, f, torch.randn(4, 3)).steps]
    of_r = ["__getitem__", "__getitem__", "__sub__", "square", "sum", "__add__"]
    assert told == [*of_r, "sqrt", "neg", "exp", "sum"]
