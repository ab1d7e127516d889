"""Compositions as compiled loops: the numbers of nested autograd, and of PyTorch's operations."""

from __future__ import annotations

import logging
import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torch._dynamo.backends.debugging import aot_eager
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import jetfold as jf
from jetfold import shared_library
from jetfold.torch import chains, fused, kernels, opaque

pytestmark = [
    pytest.mark.skipif(shared_library.compiler() is None, reason="no C compiler here"),
    pytest.mark.usefixtures("loops_at_once", "quick_compiler"),
]

t, x = jf.partials(2)
OPERATORS = {
    "pinn": jf.derivatives({"u": 1, "u_t": t, "u_x": x, "u_xx": x**2}),
    "mixed": t * x**3 - 2 * t**2 + x,
    "biharmonic": jf.biharmonic,
}


class Network(nn.Module):
    """Nonlinearities with towers of every kind, and one without an affine map behind it."""

    def __init__(self, width: int = 9) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(2, width), nn.Linear(width, width + 1)
        self.third, self.last = nn.Linear(width + 1, width, bias=False), nn.Linear(width, 2)

    def forward(self, p):
        h = torch.tanh(self.second(torch.sin(self.first(p))))
        h = torch.nn.functional.softplus(self.third(h), beta=2)  # φ(u) comes as an array
        return self.last(torch.nn.functional.silu(h) * 1.5) + torch.exp(-h).sum(-1, keepdim=True)


class Listing(TorchDispatchMode):
    """Which operations ran."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def network(dtype=torch.float64):
    torch.manual_seed(1)
    return Network().to(dtype)


def points(count, dtype=torch.float64):
    generator = torch.Generator().manual_seed(count)
    return torch.rand(count, 2, dtype=dtype, generator=generator)


def values(operator, net, at, **options):
    found = operator(net, batch_dims=1, **options)(at)
    found = found if isinstance(found, dict) else {"": found}
    return torch.cat([v.reshape(-1) for v in found.values()])


def both(operator, net, at, **options):
    """The values and the gradient of their mean square."""
    found = values(operator, net, at, **options)
    gradient = torch.autograd.grad(
        found.square().mean(), list(net.parameters()), materialize_grads=True
    )
    return found.detach(), torch.cat([g.reshape(-1) for g in gradient])


def in_use():
    return sum(kernel is not None for kernel in kernels._found.values())


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)
def test_values_and_gradients_are_those_of_nested_autograd(operator):
    net, at = network(), points(7)
    expected = both(operator, net, at, method="nested")
    for method in ("minimal", "standard"):
        torch.testing.assert_close(both(operator, net, at, method=method), expected)
        with torch.no_grad():
            torch.testing.assert_close(values(operator, net, at, method=method), expected[0])
        assert in_use() >= 4
        kernels._found.clear()
    with torch.inference_mode():
        torch.testing.assert_close(values(operator, net, at), expected[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_parts_and_threads_add_up(dtype, monkeypatch):
    net, at, operator = network(dtype), points(501, dtype), OPERATORS["pinn"]
    exact = both(operator, network(), at.double(), method="nested")
    monkeypatch.setattr(chains, "CACHE", 2**11)
    monkeypatch.setattr(chains, "ALONE", 0)
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            found = [v.double() for v in both(operator, net, at)]
            close = {"rtol": 1e-9, "atol": 1e-9} if dtype == torch.float64 else {}
            scale = [e.abs().max() for e in exact]
            torch.testing.assert_close(
                [f / s for f, s in zip(found, scale, strict=True)],
                [e / s for e, s in zip(exact, scale, strict=True)],
                **(close or {"rtol": 0, "atol": 2e-5}),
            )
    finally:
        torch.set_num_threads(threads)
    assert in_use() >= 4


def test_errors_are_not_larger_than_those_of_operations(monkeypatch):
    net, at, operator = network(torch.float32), points(2000, torch.float32), OPERATORS["pinn"]
    exact = both(operator, network(), at.double(), method="nested")
    error = []
    for path in (shared_library.compiler(), None):
        monkeypatch.setattr(shared_library, "compiler", lambda path=path: path)
        found = both(operator, net, at)
        error.append(
            [(f - e).abs().max() / e.abs().max() for f, e in zip(found, exact, strict=True)]
        )
    assert all(ours < 2 * theirs + 1e-7 for ours, theirs in zip(*error, strict=True))


def test_gradients_are_differentiated_again():
    net, at, operator = network(), points(5), OPERATORS["pinn"]
    found, kept = [], list(net.parameters())
    for method in ("minimal", "nested"):
        loss = values(operator, net, at, method=method).square().mean()
        slope = torch.autograd.grad(loss, kept, create_graph=True)
        again = torch.autograd.grad(sum((g**2).sum() for g in slope), kept)
        found.append(torch.cat([g.reshape(-1) for g in again]))
    torch.testing.assert_close(*found)
    assert in_use()


def test_transforms_of_the_result(monkeypatch):
    net, at = network(), points(3)
    operator = jf.laplacian(net)
    by_rows = torch.stack([operator(p) for p in at])  # with kernels
    assert in_use()
    torch.testing.assert_close(torch.func.vmap(operator)(at), by_rows)
    jacobian = torch.func.jacrev(operator)(at[0])
    torch.testing.assert_close(torch.func.jacfwd(operator)(at[0]), jacobian)
    p = at[0].clone().requires_grad_()
    rows = [torch.autograd.grad(y, p, retain_graph=True)[0] for y in operator(p)]
    torch.testing.assert_close(torch.stack(rows), jacobian)


def test_whoever_counts_operations_sees_them_all(monkeypatch):
    net, at, operator = network(), points(6), OPERATORS["pinn"]
    both(operator, net, at)
    counts = []
    for path in (shared_library.compiler(), None):
        monkeypatch.setattr(shared_library, "compiler", lambda path=path: path)
        with Listing() as listing:
            both(operator, net, at)
        counts.append(listing.seen)
    assert counts[0] == counts[1]
    assert "aten.mm.default" in counts[0]


def test_wrong_shapes_and_empty_batches_are_as_ever():
    net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(5, 1)).double()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        jf.laplacian(net, batch_dims=1)(points(6))
    assert jf.laplacian(network(), batch_dims=1)(points(6)[:0]).shape == (0, 2)


@pytest.mark.parametrize("change", ["negative", "strided", "repeated"])
def test_memory_that_is_not_what_it_looks_like(change):
    """Coefficients as views: bits that say "negative", strides, axes of length one in between."""
    given = points(4) - 0.5

    def f(p, nested=False):
        if change == "negative":  # nested transforms of PyTorch do not know such bits
            p = -p * p if nested else torch.complex(p, p * p).conj().imag
        elif change == "strided":
            p = torch.stack([p, p * p], 1).t()[:, ::2]
        else:
            p = p[:, None, None] * p[None, None, :] + p[None, :, None]
        return torch.tanh(p * 2).sin().sum()

    operator = x**2 * t + 3 * x**2
    expected = torch.stack([operator(partial(f, nested=True), method="nested")(p) for p in given])
    torch.testing.assert_close(torch.stack([operator(f)(p) for p in given]), expected)


def test_towers_that_look_at_numbers_come_as_arrays():
    """One of a user's: its entries are taken from tensors."""

    def softened(x):
        return torch.where(x > 0, x**3, x)

    def tower(u, y, order, xp):
        if u.ndim == 0 and u == 0:  # asks for a number
            return [1.0, None, None][:order]
        return [torch.where(u > 0, 3 * u**2, u**0), torch.where(u > 0, 3 * u, 0 * u)][:order] + [
            torch.where(u > 0, u**0, 0 * u), *[None] * order
        ][: order - 2]  # fmt: skip

    jf.register_rule(softened, tower=tower)
    at = points(9) - 0.4
    operator = jf.derivatives({"tt": t**2, "x": x, "ttt": t**3})

    def f(p):
        return softened(p).sin().sum(-1)

    found = operator(f, batch_dims=1)(at)
    assert in_use()
    exact = operator(
        lambda p: torch.where(p > 0, p**3, p).sin().sum(-1), batch_dims=1, method="nested"
    )(at)
    torch.testing.assert_close(found, exact)


def test_what_runs_a_few_times_does_not_wait(monkeypatch):
    monkeypatch.setattr(kernels, "AFTER", 3)
    net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    for meeting in (1, 2, 3):
        values(OPERATORS["pinn"], net, points(6))
        assert in_use() == (meeting == 3)


def test_checkpoints_and_tracers_meet_operations_alone(monkeypatch):
    """A checkpoint would find other tensors kept when it runs again; a trace would hold numbers."""
    monkeypatch.setattr(kernels, "AFTER", 3)
    net = network().requires_grad_()
    for count in (4, 5, 6):
        at = points(count)
        loss = checkpoint(
            lambda p: values(OPERATORS["pinn"], net, p).sum(), at, use_reentrant=False
        )
        found = torch.autograd.grad(loss, list(net.parameters()), materialize_grads=True)
        again = values(OPERATORS["pinn"], net, at, method="nested").sum()
        exact = torch.autograd.grad(again, list(net.parameters()), materialize_grads=True)
        torch.testing.assert_close(found, exact)
    net.requires_grad_(False)
    monkeypatch.setattr(kernels, "AFTER", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and lengths become numbers
        traced = torch.jit.trace(jf.laplacian(net, batch_dims=1), (points(4),), check_trace=False)
    other = points(4) + 1
    torch.testing.assert_close(traced(other), jf.laplacian(net, batch_dims=1)(other))
    assert in_use()


def test_the_default_device_is_another(monkeypatch):
    net, at = network(), points(6)
    expected = both(OPERATORS["pinn"], net, at)
    with torch.device("meta"):
        torch.testing.assert_close(both(OPERATORS["pinn"], net, at), expected)


def test_what_is_kept_stays_the_same(monkeypatch):
    """Bytes saved for the backward pass, with kernels and without."""
    net, at, kept = network(), points(64), []
    monkeypatch.setattr(fused, "SMALL", 0)
    for path in (shared_library.compiler(), None):
        monkeypatch.setattr(shared_library, "compiler", lambda path=path: path)
        saved = {}

        def keep(v, saved=saved):
            saved[v.untyped_storage().data_ptr()] = v
            return v

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda v: v):
            values(OPERATORS["pinn"], net, at)
        kept.append(sum(v.untyped_storage().nbytes() for v in saved.values()))
    assert kept[0] <= 1.02 * kept[1]


# ------------------------------------------------------------------ in what torch.compile compiles


def test_compiled_steps_have_them_as_operations(monkeypatch, taken_for_an_export):
    """Batches change their size; an exported program does without."""
    monkeypatch.setattr(opaque, "LEAST", 0)
    net, code = network(), []

    def backend(graph, inputs):
        code.extend(part.code for part in graph.modules() if hasattr(part, "code"))
        return aot_eager(graph, inputs)

    @torch.compile(fullgraph=True, backend=backend)
    def step(at):
        return jf.biharmonic(net, batch_dims=1)(at).square().mean()

    kept = [p for name, p in net.named_parameters() if name != "last.bias"]
    for count in (5, 7, 8):
        at = points(count).requires_grad_()
        found = torch.autograd.grad(step(at), [at, *kept])
        nested = jf.biharmonic(net, batch_dims=1, method="nested")(at).square().mean()
        torch.testing.assert_close(found, torch.autograd.grad(nested, [at, *kept]))

    if not taken_for_an_export:  # else operations as before
        assert "".join(code).count("jetfold.compose") >= 4

    class Operator(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, at):
            return jf.biharmonic(self.net, batch_dims=1)(at)

    exported = torch.export.export(Operator(), (points(5),))
    assert "jetfold" not in exported.graph_module.code


def test_a_program_of_another_process_says_what_is_missing():
    with pytest.raises(RuntimeError, match=r"compile it here: torch\.compiler\.reset"):
        torch.ops.jetfold.compose([points(3)], "no such kernel")


# ------------------------------------------------------------------ the compiler


def test_a_compiler_that_fails_changes_nothing(monkeypatch, tmp_path, caplog):
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho no such machine >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setattr(shared_library, "compiler", lambda: str(broken))
    monkeypatch.setattr(shared_library, "_version", lambda path: "0")
    net, at = network(), points(6)
    with caplog.at_level(logging.INFO, "jetfold"):
        found = both(OPERATORS["pinn"], net, at)
    torch.testing.assert_close(found, both(OPERATORS["pinn"], net, at, method="nested"))
    assert "no such machine" in caplog.text
    assert not in_use()


def test_a_variable_turns_it_off(monkeypatch):
    monkeypatch.setenv("JETFOLD_KERNELS", "0")
    assert shared_library.compiler.__wrapped__() is None
    monkeypatch.delenv("JETFOLD_KERNELS")
    monkeypatch.setenv("CC", "/no/such/compiler")
    assert shared_library.compiler.__wrapped__() == shared_library.compiler()


def test_files_serve_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = "#include <stdint.h>\nvoid twice(const int64_t *s) { *(double *)s[0] *= 2; }"
    for _ in range(2):
        (twice,) = shared_library.functions(source, "twice")
        number = torch.tensor(1.5, dtype=torch.float64)
        where = torch.tensor([number.data_ptr()])
        twice(where.data_ptr())
        assert number == 3
        monkeypatch.setattr(shared_library, "_compile", None)  # not called again
    assert len(list(tmp_path.glob("jetfold/kernels/*"))) == 1
