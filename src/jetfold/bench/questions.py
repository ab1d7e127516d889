"""What the experiments ask: a title, what is drawn, and on which axes. No measurements are here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """A plot, by the question that it answers.

    Attributes:
        title: the question.
        x, y: the labels of the axes.
        scales: how they run: "linear", "log" or "category".
        quantity: which attribute of `results.Cell` is drawn: "time", "error" or "compile_s".
        told: what is worth knowing about the experiment, in a sentence.
    """

    title: str
    x: str
    y: str = "time of one evaluation"
    scales: tuple[str, str] = ("log", "log")
    quantity: str = "time"
    told: str = ""


DIMENSION, ORDER_K, ORDER = "dimension D", "order k of ∂ₓᵏ", "order 2k of Δᵏ"
LINEAR_LOG = ("linear", "log")
ERROR = "relative error in float32"
SECONDS = "time of the first call"

QUESTIONS: Mapping[tuple[str, str], Question] = {
    ("dimension", "laplacian"): Question(
        "How does the cost of the Laplacian grow with the dimension?",
        DIMENSION,
        told="From 256 dimensions on, 128 directions are propagated at a time.",
    ),
    ("dimension", "biharmonic"): Question(
        "How does the cost of the biharmonic grow with the dimension?", DIMENSION
    ),
    ("order", "laplacian^k"): Question(
        "What does each further Laplacian of Δ, Δ², Δ³ cost?", ORDER, scales=LINEAR_LOG
    ),
    ("order", "d_x^k"): Question(
        "What does each further derivative along a line cost?", ORDER_K, scales=LINEAR_LOG
    ),
    ("depth", "laplacian"): Question(
        "Do the ratios for the Laplacian depend on how deep the network is?", "hidden layers"
    ),
    ("depth", "biharmonic"): Question(
        "Do the ratios for the biharmonic depend on how deep the network is?", "hidden layers"
    ),
    ("width", "laplacian"): Question(
        "From which width on does the Laplacian gain what its vectors promise?",
        "factor for the widths 768, 768, 512, 512",
    ),
    ("width", "biharmonic"): Question(
        "From which width on does the biharmonic gain what its vectors promise?",
        "factor for the widths 768, 768, 512, 512",
    ),
    ("kinds", "laplacian"): Question(
        "For which kinds of network is the Laplacian cheaper?",
        "network",
        scales=("category", "log"),
        told="All are functions of 12 numbers: the coordinates of 4 electrons, the values of a "
        "field on 12 points of a grid. PyTorch's nested derivatives of slogdet are wrong where "
        "gradients are off, so that its wave function has no baseline.",
    ),
    ("kinds", "biharmonic"): Question(
        "For which kinds of network is the biharmonic cheaper?",
        "network",
        scales=("category", "log"),
        told="PyTorch's nested derivatives of layer_norm are wrong from the third order on: "
        "nested differentiation gets it written out.",
    ),
    ("error", "d_x^k"): Question(
        "How many digits of the k-th derivative does float32 leave?",
        ORDER_K,
        ERROR,
        LINEAR_LOG,
        "error",
        "Against mpmath with 30 digits; a small tanh network, and a function in closed form.",
    ),
    ("error", "laplacian^k"): Question(
        "How many digits of Δᵏ does float32 leave?",
        ORDER,
        ERROR,
        LINEAR_LOG,
        "error",
        "Against mpmath with 30 digits; a small tanh network, and a function in closed form.",
    ),
    ("compile", "d_x^k"): Question(
        "How long does it take to compile the k-th derivative?",
        ORDER_K,
        SECONDS,
        LINEAR_LOG,
        "compile_s",
    ),
    ("compile", "laplacian^k"): Question(
        "How long does it take to compile Δᵏ?", ORDER, SECONDS, LINEAR_LOG, "compile_s"
    ),
}
"""By experiment and operator, named as in `results.Spec`, in the order in which they are asked."""
