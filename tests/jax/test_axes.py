"""What is declared of primitives is so: held against the primitives themselves."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("jax")

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Literal

from jetfold.core.axes import (
    Acting,
    Broadcast,
    Contracted,
    Opaque,
    Permuted,
    Pointwise,
    Reshaped,
    Summed,
)
from jetfold.jax.interpreter import Operation
from jetfold.jax.table import TABLE

A, B = (4, 3, 5), (4, 3, 5)
CASES = {
    "add": (lax.add, A, B),
    "sub": (lax.sub, A, B),
    "neg": (lax.neg, A),
    "mul": (lax.mul, A, B),
    "div": (lax.div, A, B),
    "real": (lambda x: lax.real(lax.complex(x, x)), A),
    "complex": (lax.complex, A, B),
    "select_n": (lambda x, y: lax.select(jnp.arange(60).reshape(A) % 2 > 0, x, y), A, B),
    "convert_element_type": (lambda x: x.astype(jnp.complex128), A),
    "transpose": (lambda x: lax.transpose(x, (2, 0, 1)), A),
    "broadcast_in_dim": (lambda x: lax.broadcast_in_dim(x, (3, 2, 5), (0, 2)), (3, 1)),
    "reshape": (lambda x: lax.reshape(x, (12, 5)), A),
    "squeeze": (lambda x: lax.squeeze(x, (1,)), (4, 1, 5)),
    "reduce_sum": (lambda x: jnp.sum(x, (0, 2)), A),
    "dot_general": (lambda x, y: jnp.einsum("abc,bcd->bad", x, y), A, (3, 5, 2)),
    "conv_general_dilated": (lambda x, k: lax.conv(x, k, (1,), "SAME"), A, (2, 3, 3)),
    "gather": (lambda x: x[:, jnp.array([2, 0])], A),
    "slice": (lambda x: x[:, 1:], A),
    "pad": (lambda x: jnp.pad(x, ((0, 0), (1, 0), (0, 0))), A),
    "rev": (lambda x: jnp.flip(x, 1), A),
    "cumsum": (lambda x: lax.cumsum(x, 1), A),
    "concatenate": (lambda x, y: jnp.concatenate([x, y], 1), A, B),
    "fft": (lambda x: jnp.fft.fft(lax.complex(x, x)), A),
    "dynamic_slice": (lambda x: lax.dynamic_slice(x, (0, 1, 0), (4, 2, 5)), A),
}


@pytest.mark.parametrize("name", CASES)
def test_declarations(name, rng):
    function, *shapes = CASES[name]
    given = [jnp.asarray(rng.normal(size=shape)) for shape in shapes]
    operation, operands = found(name, function, given)
    (result,) = operation.results
    described = [Known(x) for x in operands]
    kind = TABLE[name].axes(operation.params, described, result)
    assert not isinstance(kind, Opaque)
    hash(kind)
    value, x = np.asarray(operation(*operands)), np.asarray(operands[0])
    match kind:
        case Pointwise(factors=(0, 1)):
            np.testing.assert_allclose(value, x * operands[1])
        case Pointwise(linear=linear):
            assert linear
            scaled = [y * 2.5 if k in linear else y for k, y in enumerate(operands)]
            np.testing.assert_allclose(operation(*scaled), 2.5 * value)
            if kind.sign:
                np.testing.assert_allclose(value, x + kind.sign * operands[1])
        case Permuted(order=order):
            np.testing.assert_allclose(value, x.transpose(order))
        case Broadcast(dims=dims):
            shape = [x.shape[dims.index(k)] if k in dims else 1 for k in range(value.ndim)]
            np.testing.assert_allclose(value, np.broadcast_to(x.reshape(shape), value.shape))
        case Reshaped():
            np.testing.assert_allclose(value, x.reshape(value.shape))
        case Summed(axes=axes, keepdims=keepdims):
            np.testing.assert_allclose(value, x.sum(axes, keepdims=keepdims))
        case Contracted(left=left, right=right, out=out):
            letters = {s: chr(97 + k) for k, s in enumerate(dict.fromkeys((*left, *right)))}
            spelled = ("".join(letters[s] for s in side) for side in (left, right, out))
            formula = "{},{}->{}".format(*spelled)
            np.testing.assert_allclose(value, np.einsum(formula, *operands))
        case Acting():
            batches(kind, operation, operands, value)


class Known:
    """An operand, as declarations see it."""

    def __init__(self, x):
        self.shape, self.dtype = jnp.shape(x), jnp.result_type(x)
        self.zero = not np.any(x)


def found(name, function, given):
    """The first equation of that primitive, and its operands."""
    closed = jax.make_jaxpr(function)(*given)
    environment = dict(zip(closed.jaxpr.invars, given, strict=True))
    environment.update(zip(closed.jaxpr.constvars, closed.consts, strict=True))

    def search(jaxpr, environment):
        for equation in jaxpr.eqns:
            operands = [
                v.val if isinstance(v, Literal) else environment[v] for v in equation.invars
            ]
            operation = Operation(equation)
            if operation.name == name:
                return operation, operands
            inner = equation.params.get("jaxpr")
            if inner is not None:
                there = search(inner.jaxpr, dict(zip(inner.jaxpr.invars, operands, strict=True)))
                if there is not None:
                    return there
            made = operation(*operands)
            results = made if operation.several else [made]
            environment.update(zip(equation.outvars, results, strict=True))
        return None

    return search(closed.jaxpr, environment)


def batches(kind, operation, operands, value):
    """An entry along a batch axis follows from that entry of each operand alone, linearly."""
    assert kind.linear
    assert any(kind.through)
    for axis in range(value.ndim):
        own = {
            k: dict(of)[axis]
            for k, of in zip(kind.linear, kind.through, strict=True)
            if axis in dict(of)
        }
        assert (axis in kind.acts) == (not own)
        if not own:
            continue
        alone = list(operands)
        for k, theirs in own.items():
            index = [slice(None)] * operands[k].ndim
            index[theirs] = slice(1, None)
            alone[k] = operands[k].at[tuple(index)].set(0)
        first = np.take(np.asarray(operation(*alone)), 0, axis)
        np.testing.assert_allclose(first, np.take(value, 0, axis), atol=1e-12)
        rest = np.delete(np.asarray(operation(*alone)), 0, axis)
        np.testing.assert_allclose(rest, np.zeros_like(rest), atol=1e-12)
