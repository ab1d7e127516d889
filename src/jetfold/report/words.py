"""How things are called on the page, and how numbers are written."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..bench.report import NAMES
from ..bench.results import Spec
from ..bench.suite import METHODS
from ..frameworks import TITLES

OPERATORS = {
    "laplacian": "Laplacian",
    "weighted-laplacian": "weighted Laplacian",
    "biharmonic": "biharmonic",
    "laplacian^k": "Δᵏ",
    "d_x^k": "∂ₓᵏ",
}

AXES = {
    "batch": "data in the batch",
    "samples": "random directions S",
    "dimension": "dimension D",
    "order": "order of the derivative",
    "depth": "hidden layers",
    "width": "factor for the widths",
    "network": "network",
}

UNITS = {
    "time": (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)),
    "bytes": (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)),
    "operations": (("TFLOP", 1e12), ("GFLOP", 1e9), ("MFLOP", 1e6), ("FLOP", 1.0)),
}
"""From the largest: a name and its size in seconds, bytes or operations."""


def capitalised(text: str) -> str:
    """Weighted Laplacian: the first letter alone."""
    return text[:1].upper() + text[1:]


def operator(spec: Spec) -> str:
    """weighted Laplacian"""
    return OPERATORS.get(spec.operator, spec.operator.replace("-", " "))


def where(spec: Spec) -> str:
    """PyTorch compiled"""
    device = "" if spec.device == "cpu" else f" on {spec.device}"
    return f"{TITLES.get(spec.framework, spec.framework)} {spec.mode}{device}"


def method(name: str) -> str:
    """standard Taylor mode"""
    return NAMES.get(name, name)


def setting(spec: Spec) -> str:
    """What is fixed beside the framework: D = 5, batch 128, S = 4; not what varies."""
    given = [
        ("dimension", f"D = {spec.dimension}"),
        ("batch", f"batch {spec.batch}"),
        ("samples", f"S = {spec.samples}"),
        ("order", f"order {spec.order}"),
        ("depth", f"{spec.depth} hidden layers"),
        ("network", "" if spec.network == "mlp" else spec.network),
        ("width", f"widths × {spec.width:g}" if spec.width not in (None, 1) else ""),
        ("dtype", "" if spec.dtype == "float32" else spec.dtype),
    ]
    known = [text for name, text in given if text and getattr(spec, name) is not None]
    return ", ".join(known)


def at(spec: Spec) -> str:
    """Where a spec stands on its axis: D = 20."""
    forms = {
        "dimension": "D = {}",
        "samples": "S = {}",
        "depth": "{} hidden layers",
        "width": "widths × {}",
        "network": "the {}",
    }
    return forms.get(spec.variable, spec.variable + " {}").format(spec.value)


def ordered(methods: Sequence[str]) -> list[str]:
    """nested, standard, collapsed, minimal, and then all others."""
    known = [name for name in METHODS if name in methods]
    return known + sorted(set(methods) - set(known))


def number(value: float) -> str:
    """Three digits that count.

    >>> number(0.04567), number(12345.6), number(2e-9)
    ('0.0457', '12,346', '2e-09')
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 1e-3 else f"{value:#.3g}".rstrip(".")


def ratio(value: float) -> str:
    """Two digits after the point, or three that count where that is nothing.

    >>> ratio(0.4812), ratio(0.0312)
    ('0.48', '0.031')
    """
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"


def unit(kind: str, largest: float) -> tuple[str, float]:
    """The unit in which the largest of some numbers has at least one digit before the point."""
    return next((found for found in UNITS[kind] if largest >= found[1]), UNITS[kind][-1])


def amount(kind: str, value: float) -> str:
    """12.3 ms of 0.0123 s.

    >>> amount("time", 0.0123), amount("bytes", 2.5e9), amount("", 2.5)
    ('12.3 ms', '2.50 GB', '2.50')
    """
    if kind not in UNITS:
        return number(value)
    name, size = unit(kind, abs(value))
    return f"{number(value / size)} {name}"


def listed(items: Sequence[str], last: str = "and") -> str:
    """
    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    head, tail = items[:-1], items[-1:]
    return f" {last} ".join(filter(None, [", ".join(head), *tail]))


def between(values: Sequence[float]) -> str:
    """The range of some ratios: 0.13 to 0.16, or 0.13 where they are the same."""
    low, high = ratio(min(values)), ratio(max(values))
    return low if low == high else f"{low} to {high}"
