"""Orthogonal polynomials by their recurrences: PyTorch itself takes them for constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..lifts import is_tensor

Step = Callable[[Any, int, Any, Any], Any]
"""p_{k+1} from x, k, p_k, p_{k−1}."""


def _chebyshev(x: Any, k: int, p: Any, before: Any) -> Any:
    return 2 * x * p - before


RECURRENCES: dict[str, tuple[Callable[[Any], Any], Step]] = {
    "chebyshev_polynomial_t": (lambda x: x, _chebyshev),
    "chebyshev_polynomial_u": (lambda x: 2 * x, _chebyshev),
    "chebyshev_polynomial_v": (lambda x: 2 * x - 1, _chebyshev),
    "chebyshev_polynomial_w": (lambda x: 2 * x + 1, _chebyshev),
    "hermite_polynomial_h": (lambda x: 2 * x, lambda x, k, p, q: 2 * x * p - 2 * k * q),
    "hermite_polynomial_he": (lambda x: x, lambda x, k, p, q: x * p - k * q),
    "laguerre_polynomial_l": (
        lambda x: 1 - x,
        lambda x, k, p, q: ((2 * k + 1 - x) * p - k * q) / (k + 1),
    ),
    "legendre_polynomial_p": (
        lambda x: x,
        lambda x, k, p, q: ((2 * k + 1) * x * p - k * q) / (k + 1),
    ),
}
"""p_1 and the recurrence; p_0 = 1."""


def polynomial(name: str) -> Callable[[Any, Any], Any]:
    """The rule of such a polynomial; the shifted ones are polynomials of 2x − 1."""
    first, step = RECURRENCES[name.removeprefix("shifted_")]
    shifted = name.startswith("shifted_")

    def rule(input: Any, n: Any) -> Any:
        if not is_tensor(input):
            input = torch.as_tensor(input)
        if is_tensor(n):
            degrees = n.detach().trunc() if n.is_floating_point() else n
            highest = int(degrees.max()) if degrees.numel() else 0
        else:
            degrees = highest = int(n)
        x = 2 * input - 1 if shifted else input
        found = [torch.ones_like(x), first(x)]
        for k in range(1, highest):
            found.append(step(x, k, found[-1], found[-2]))
        if not is_tensor(n):
            return found[highest] if highest >= 0 else torch.zeros_like(x)
        out = torch.zeros_like(x)
        for k, p in enumerate(found[: highest + 1]):
            out = torch.where(degrees == k, p, out)
        return out

    return rule
