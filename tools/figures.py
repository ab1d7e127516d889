"""The figures of the documentation, drawn from what the library says of itself: docs/figures/.

python tools/figures.py      # all of them; `make docs` does not, so that a change is seen
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

import jetfold as jf

matplotlib.use("Agg")
from matplotlib import pyplot as plt

FOLDER = Path(__file__).parent.parent / "docs" / "figures"
METHODS = ("standard", "collapsed", "minimal")
COLOURS = {"standard": "#D55E00", "collapsed": "#56B4E9", "minimal": "#009E73"}
GREY = "#808080"  # reads on white and on black: figures have no background

matplotlib.rcParams.update(
    {
        "axes.edgecolor": GREY, "axes.labelcolor": GREY, "axes.titlecolor": GREY,
        "axes.spines.right": False, "axes.spines.top": False, "axes.titlesize": 11,
        "figure.constrained_layout.use": True, "legend.frameon": False,
        "legend.labelcolor": GREY, "savefig.transparent": True, "svg.fonttype": "none",
        "svg.hashsalt": "jetfold", "text.color": GREY, "xtick.color": GREY, "ytick.color": GREY,
    }
)  # fmt: skip


def carried() -> Any:
    """What a layer carries for Δ² in two coordinates: a box per vector, a row per degree."""
    found = jf.explain(jf.biharmonic, 2)
    figure, axes = plt.subplots(1, 3, figsize=(8, 2.6), sharey=True)
    for panel, method in zip(axes, METHODS, strict=True):
        for degree, count in enumerate(found.by_degree[method]):
            for k in range(count):
                place = (k - count / 2 + 0.08, degree - 0.36)
                box = plt.Rectangle(place, 0.84, 0.72, color=COLOURS[method], alpha=0.8)
                panel.add_patch(box)
        panel.set(xlim=(-2.7, 2.7), ylim=(4.6, -0.6), xticks=[], yticks=range(5))
        panel.set_title(f"{method}: {found.vectors[method]} vectors")
        panel.spines[:].set_visible(False)
        panel.tick_params(length=0)
    axes[0].set_ylabel("order of derivative")
    figure.suptitle("Δ² in two coordinates: what every layer carries", color=GREY, fontsize=12)
    return figure


def vectors() -> Any:
    """How many vectors Δ² takes over the dimension, by every method."""
    dimensions = range(1, 13)
    counts = [jf.explain(jf.biharmonic, n).vectors for n in dimensions]
    figure, axes = plt.subplots(figsize=(6, 3.2))
    for method in METHODS:
        line = [count[method] for count in counts]
        axes.plot(dimensions, line, "o-", color=COLOURS[method], label=method, markersize=4)
    axes.set(yscale="log", xlabel="dimension", ylabel="vectors", title="How many vectors for Δ²f?")
    axes.legend()
    return figure


def algebra() -> Any:
    """The basis of the minimal algebra of an operator, and which is a derivative of which."""
    import sympy

    t, x, y = jf.partials(3, names="t x y")
    found = jf.explain(t * x + x**4 + 3 * y**2)
    figure, axes = plt.subplots(figsize=(6.5, 3.6))
    across = {"1": 0.0, "x": -1.1, "y": 1.6, "xx": -2.0, "e4": -1.7, "e5": 0.7}
    places, symbols, boxes = {}, {}, {}
    for degree, (labels, texts) in enumerate(zip(found.labels, found.basis, strict=True)):
        for label, text in zip(labels, texts, strict=True):
            places[label] = across[label], -degree
            symbols[label] = sympy.sympify(text)
            words = text if label == text else f"{label} = {text}"
            boxes[label] = axes.text(
                *places[label], words.replace("**", "^").replace("*", " "), ha="center",
                va="center", color=COLOURS["minimal"], fontsize=11,
                bbox={"boxstyle": "round", "facecolor": "none", "edgecolor": COLOURS["minimal"]},
            )  # fmt: skip
    for (above, p), (below, q) in product(symbols.items(), symbols.items()):
        for letter in p.free_symbols:
            slope = sympy.diff(p, letter)
            if slope != 0 and sympy.simplify(slope / q).is_number:
                ends = {"patchA": boxes[above].get_bbox_patch()}
                ends["patchB"] = boxes[below].get_bbox_patch()
                arrow = {"arrowstyle": "->", "color": GREY, "shrinkA": 0, "shrinkB": 0, **ends}
                axes.annotate("", places[below], places[above], arrowprops=arrow)
                (x0, y0), (x1, y1) = places[above], places[below]
                axes.text(
                    0.55 * x0 + 0.45 * x1 + 0.08, 0.55 * y0 + 0.45 * y1, f"∂/∂{letter}", fontsize=8
                )
    axes.set(xlim=(-3, 2.4), ylim=(0.5 - len(found.basis), 0.5), yticks=[-k for k in range(5)])
    axes.set_yticklabels([f"degree {k}" for k in range(5)])
    axes.set_xticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.set_title(f"{found.operator}: six vectors, all derivatives of its symbol")
    return figure


# ------------------------------------------------------------------ rounding

ORDERS, STEPS = 8, np.geomspace(1e-3, 1, 25)
"""The derivatives that are shown, and the steps of differences that are tried."""


def errors() -> Any:
    """The relative error of f^(k) in float32: jets, nested forward mode and differences."""
    rows = rounding()
    figure, axes = plt.subplots(figsize=(6, 3.4))
    for (name, line), colour in zip(rows.items(), ("#009E73", "#CC79A7", "#D55E00"), strict=True):
        axes.plot(range(1, len(line) + 1), line, "o-", color=colour, label=name, markersize=4)
    axes.axhline(2.0**-24, color=GREY, linewidth=0.8, linestyle=":")
    axes.text(ORDERS, 2.0**-24 * 1.2, "unit roundoff", ha="right", va="bottom", fontsize=8)
    title = "How many digits are left at order k, in float32?"
    axes.set(yscale="log", ylim=(1e-8, 3), xlabel="order k", ylabel="relative error", title=title)
    axes.legend()
    return figure


def rounding(points: int = 40) -> dict[str, Sequence[float]]:
    """By method the median of relative errors over points, against mpmath with 40 digits."""
    import mpmath
    import torch

    rng = np.random.default_rng(0)
    a, b, c = rng.normal(size=(3, 8)).astype(np.float32)
    places = rng.uniform(-1, 1, points).astype(np.float32)

    def network(x: Any) -> Any:
        hidden = torch.tanh(x[..., None] * torch.tensor(a, dtype=x.dtype) + torch.tensor(b))
        return (hidden * torch.tensor(c, dtype=x.dtype)).sum(-1)

    mpmath.mp.dps = 40
    rows = [tuple(map(mpmath.mpf, map(float, row))) for row in zip(a, b, c, strict=True)]
    exact_network = lambda x: sum(v * mpmath.tanh(x * w + s) for w, s, v in rows)  # noqa: E731
    exact = np.array(
        [
            [float(t * mpmath.factorial(k)) for k, t in enumerate(taylor)][1:]
            for taylor in (
                mpmath.taylor(exact_network, mpmath.mpf(float(p)), ORDERS) for p in places
            )
        ]
    ).T
    x = torch.tensor(places)
    ones, zeros = torch.ones_like(x), torch.zeros_like(x)
    jets = jf.jet(network, (x,), ((ones, *[zeros] * (ORDERS - 1)),))[1]

    nested, f = [], network
    for _ in range(6):
        f = lambda x, f=f: torch.func.jvp(f, (x,), (ones,))[1]  # noqa: E731
        nested.append(f(x))

    def difference(k: int, h: float) -> Any:
        signs = [(-1) ** j * float(mpmath.binomial(k, j)) for j in range(k + 1)]
        return sum(s * network(x + (k / 2 - j) * h) for j, s in enumerate(signs)) / h**k

    scale = np.abs(exact).max(1)

    def error(k: int, line: Any) -> float:
        return float(np.median(np.abs(line.double().numpy() - exact[k - 1]))) / scale[k - 1]

    return {
        "jets (jetfold.jet)": [error(k, line) for k, line in enumerate(jets, 1)],
        "nested jvp": [error(k, line) for k, line in enumerate(nested, 1)],
        "central differences, best step": [
            min(error(k, difference(k, h)) for h in STEPS) for k in range(1, ORDERS + 1)
        ],
    }


FIGURES: dict[str, Callable[[], Any]] = {
    "carried": carried, "vectors": vectors, "algebra": algebra, "errors": errors
}  # fmt: skip


def drawn(name: str, kind: str = "svg") -> bytes:
    """A figure as a file."""
    file = io.BytesIO()
    figure = FIGURES[name]()
    figure.savefig(file, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else {})
    plt.close(figure)
    return file.getvalue()


def main() -> None:
    """The command."""
    FOLDER.mkdir(exist_ok=True)
    for name in sys.argv[1:] or FIGURES:
        (FOLDER / f"{name}.svg").write_bytes(drawn(name))
        print(f"written: {FOLDER / name}.svg")
    (FOLDER / "carried.png").write_bytes(drawn("carried", "png"))  # for the README


if __name__ == "__main__":
    main()
