"""The types of the public interface, as `mypy --strict` sees them in a user's file."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

pytest.importorskip("mypy")

USER = '''
from collections.abc import Callable, Iterator
from typing import Any

import jetfold as jf


class Array:
    """Stands in for a framework's type of arrays."""

    def __mul__(self, other: float) -> "Array":
        return self


class Module:
    """As PyTorch annotates its modules."""

    __call__: Callable[..., Any]

    def buffers(self, recurse: bool = True) -> Iterator[Array]:
        return iter(())


def u(x: Array, scale: float) -> Array:
    return x * scale


def pair(x: Array) -> tuple[Array, Array]:
    return x, x


def burgers(u: Array, d: jf.D, nu: float) -> Array:
    reveal_type(d.xx(u))  # Array
    reveal_type(d.gradient(u, over="t"))  # tuple[Array, ...]
    reveal_type(d[0, 0](d.laplacian(u)))  # Array
    return d.x(u) * nu


def flow(u: Array, v: Array, d: jf.D) -> dict[str, Array]:
    return {"x": d.x(u), "mass": d.divergence((u, v))}


x = Array()
residual = jf.residual(burgers, "t x")
unannotated: jf.Residual[Array] = jf.residual(lambda u, d: d.t(u) + u * d.x(u), "t x")
t, y = jf.partials(2, names="t y")
heat = t - 0.1 * y**2 + 3
both = jf.derivatives({"a": heat, "b": 1})
some = jf.randomize(jf.laplacian, 4)

reveal_type(heat)  # Operator
reveal_type(heat(u, batch_dims=1))  # def (x: Array, scale: float) -> Array
reveal_type(heat(u)(x, 2.0))  # Array
reveal_type(jf.laplacian(pair)(x))  # tuple[Array, Array]
reveal_type(jf.laplacian(Module(), batch_dims=1)(x))  # Array
reveal_type(jf.laplacian(over="t", names="t y"))  # Operator
reveal_type(jf.gradient(lambda p: u(p, 1.0))(x))  # Array
reveal_type(jf.normal_derivative(x)(u)(x, 1.0))  # Array
reveal_type(jf.output(0, heat)(u)(x, 1.0))  # Array
reveal_type(jf.weighted_laplacian(u, sigma=x)(x, 1.0))  # Array
reveal_type(jf.weighted_laplacian(C=x)(u)(x, 1.0))  # Array
reveal_type(both(Module())(x))  # dict[str, Array]
reveal_type(jf.derivatives((jf.value, heat))(u)(x, 1.0))  # tuple[Array, ...]
reveal_type(some(u)(x, 1.0, rng=None))  # Array
reveal_type(jf.randomize(both, 4)(u)(x, 1.0, rng=None))  # dict[str, Array]
reveal_type(jf.jet(u, (x,), ((x,),)))  # tuple[Array, list[Array]]
reveal_type(jf.collapse(u)(x, 1.0))  # Array
reveal_type(jf.register_rule(u, jet=u))  # def (x: Array, scale: float) -> Array
reveal_type(residual)  # Residual[Array]
reveal_type(residual(Module(), batch_dims=1)(x, nu=0.1))  # Array
reveal_type(unannotated(u)(x, 2.0))  # Array
reveal_type(jf.residual(flow, "x y")(pair)(x))  # dict[str, Array]
reveal_type(jf.explain(residual, nu=0.1))  # Explanation
reveal_type(jf.explain(residual, u, x, 2.0, nu=0.1))  # Propagation
reveal_type(jf.explain(heat))  # Explanation
reveal_type(jf.explain(heat, u, x))  # Propagation
reveal_type(jf.explain(some, 9))  # Estimate
reveal_type(jf.explain(u, x, 1.0))  # ProgramExplanation
reveal_type(jf.check(heat, u, x))  # Report
heat(u)("x", 2.0)  # error: Argument 1 has incompatible type "str"; expected "Array"
heat(u, batchdims=1)  # error: did you mean "batch_dims"
residual(u, batchdims=1)  # error: did you mean "batch_dims"
residual(x)  # error: Argument 1 to "__call__" of "Residual" has incompatible type "Array"
'''


def test_results_are_not_any(tmp_path):
    path = tmp_path / "user.py"
    path.write_text(USER, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", path.name]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    found: dict[int, str] = {}
    for number, text in re.findall(r"^user\.py:(\d+): (?:note|error): (.*)$", ended.stdout, re.M):
        found.setdefault(int(number), re.sub(r"\b(user|builtins|jetfold[\w.]*)\.(?=\w)", "", text))
    for number, line in enumerate(USER.splitlines(), 1):
        if "  # error: " in line:
            assert line.partition("  # error: ")[2] in found.pop(number)
        elif "  # " in line:
            assert found.pop(number) == f'Revealed type is "{line.partition("  # ")[2]}"'
    assert found == {}, ended.stdout
