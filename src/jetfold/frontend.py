"""What a framework's frontend offers: the contract between `torch/`, `jax/` and all above them.

`frameworks.frontend_of(array)` gives the module that fulfils it, `torch.frontend` or
`jax.frontend`; each checks itself against this protocol under mypy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

import numpy as np

from .core.algebra import JetAlgebra
from .core.arrays import Array, Arrays, Block
from .core.costs import Cost, Gradient, Rates

Result = TypeVar("Result")
Step = Callable[[Any, int], Any]
"""(start, count) -> a pytree of arrays: what some directions contribute."""


class Counter(Protocol):
    """What programs cost, before anything runs."""

    def cost(
        self, function: Callable[..., Any], args: Sequence[Any], points: Sequence[int]
    ) -> Cost:
        """Of function(*args), nothing being kept for gradients.

        Args:
            points: the positions of arguments of which the shapes alone may count.

        Raises:
            UnpredictableError: shapes do not tell.
        """

    def gradient(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        points: Sequence[int],
        plain: Callable[..., Any],
    ) -> Gradient | None:
        """By the parameters of a plain function, of which this one is made; bytes are counted
        beside points and parameters. None where there are no parameters.

        Raises:
            UnpredictableError: shapes do not tell.
        """

    def rates(self, like: Array, fused: bool) -> Rates:
        """How fast the device of an array is, measured once."""


class Frontend(Protocol):
    """What is asked of a framework, beside its arrays."""

    NAME: str
    """"torch" or "jax"."""
    xp: Arrays
    """Its array vocabulary."""

    # ---- points and functions

    def is_array(self, x: object) -> bool:
        """Whether x is an array of this framework (a tracer or a jet counts)."""

    def check_point(self, name: str, point: object, batch_dims: int) -> None:
        """Refuse what has no real derivative, with a hint.

        Raises:
            TypeError, ValueError: no floating-point array, or fewer than `batch_dims` axes.
        """

    def static(self, function: Callable[..., Result], *args: Any) -> Result:
        """function(*args), found once: to a tracer of the framework the result is a constant.

        Args:
            function: a function of a module, not a method.
            args: numbers, strings, and immutable objects that were made before the trace began.
        """

    def attempted(self, function: Callable[..., Result], *args: Any) -> Result | None:
        """The same, of arguments for which a tracer may have symbols: None if it has."""

    def remembers(self) -> bool:
        """Whether what is found in a call may be kept: not by a tracer that would trace again."""

    def version(self, array: Array) -> int:
        """Another number after the array was written to, where that is known."""

    def whole(self, *functions: Callable[..., Any]) -> None:
        """Say to a tracer of the framework that it takes these functions as a whole, or not at all.

        Args:
            functions: of a module, or methods of a class.
        """

    def history(self, array: Any) -> Any:
        """What tells later whether an array is what counts; None where it cannot change."""

    def in_force(self, name: str, array: Any, history: Any) -> Any:
        """What counts now in the place of an array.

        Raises:
            RuntimeError: what it was computed from has changed since, or that is not known.
        """

    # ---- jets

    def structured(self, point: Array, rows: int) -> bool:
        """Whether blocks of so many rows at this point may be structured (`core.structure`), and
        that does not cost more than it saves."""

    def new_level(self, batch_dims: int = 0) -> AbstractContextManager[int]:
        """A level above those of all transforms that are running; its points have so many batch
        axes."""

    def make_jet(
        self, algebra: JetAlgebra, level: int, primal: Array, blocks: Sequence[Block]
    ) -> Any:
        """What the function is run on, in place of its argument."""

    def run(self, function: Callable[..., Any], jets: Sequence[Any], batch_dims: int = 0) -> Any:
        """The function on jets; of each result `opened` tells the coefficients."""

    def rehearse(self, function: Callable[..., Any], args: Sequence[Any]) -> None:
        """function(*args), for what happens, not for its value."""

    def opened(self, level: int, leaf: Any, by_rows: bool) -> tuple[Array, Sequence[Block]]:
        """The value and the blocks of a result; no blocks, (), where it does not depend on jets
        of this level."""

    def settled(self, x: Array) -> Array:
        """An array that was broadcast, as one that may be written to."""

    # ---- structures of arrays

    def map_outputs(self, func: Callable[..., Any], outputs: Any, *others: Any) -> Any:
        """func of every array that a function returned (and of those in `others`, alike).

        Raises:
            TypeError: something is no array.
        """

    # ---- sums in chunks of directions

    def recomputed(self, step: Step) -> Step:
        """The step, computed again for its gradient instead of keeping what it saves."""

    def add_up(self, step: Callable[[Any], Any], count: int, size: int) -> Any:
        """Σ_k step(k·size) for k < count, one after the other."""

    # ---- randomness

    def check_rng(self, rng: Any) -> None:
        """Refuse what is no generator (PyTorch) or key (JAX).

        Raises:
            TypeError: with what to pass.
        """

    def split(self, rng: Any, count: int) -> Sequence[Any]:
        """Independent generators for that many draws."""

    def generators(self, rng: Any, count: int) -> Sequence[Any]:
        """The same, of a generator that may be missing (None)."""

    def normal(self, rng: Any, shape: Sequence[int], like: Array) -> Array:
        """Standard normal numbers."""

    def signs(self, rng: Any, shape: Sequence[int], like: Array) -> Array:
        """±1 with equal probability."""

    def indices(
        self, rng: Any, count: int, shape: Sequence[int], replace: bool, like: Array
    ) -> Array:
        """Random integers below `count`; without replacement they differ along the first axis."""

    def weighted_indices(
        self, rng: Any, ends: Sequence[float], shape: Sequence[int], like: Array
    ) -> Array:
        """Random integers, from the running sums of their probabilities."""

    # ---- the framework's own differentiation: `method="nested"`

    def call(self, function: Callable[..., Any], points: Sequence[Array]) -> Any:
        """The function of arrays, on which it may be differentiated; constants are as for jets."""

    def vmap(self, func: Callable[[Array], Any], over: Array) -> Any:
        """func over a leading axis."""

    def jvp(self, func: Callable[[Array], Any], point: Array, tangent: Array) -> Any:
        """The derivative along a tangent that is broadcast to the point."""

    def is_inexact(self, x: Any) -> bool:
        """Whether an array holds real or complex numbers, which have derivatives."""

    def is_scalar(self, func: Callable[[Array], Any], point: Array, points: int) -> bool:
        """Whether func gives one real number for each of so many points."""

    def vector_hessian_vector(
        self, func: Callable[[Array], Array], point: Array, tangent: Array
    ) -> Array:
        """vᵀ(∇²f)v of a function with one number per point, forward over reverse, in f's shape."""

    # ---- what it costs

    def counter(self) -> Counter:
        """Loaded when it is asked for."""

    # ---- references in double precision

    def seeded(self) -> AbstractContextManager[Any]:
        """Within it, functions draw the same random numbers every time."""

    def in_float64(self, tree: Any) -> Any:
        """A tree of arguments, or a function, with every floating-point array in float64."""

    def float64(self) -> AbstractContextManager[Any]:
        """Within it, operations take their arrays in float64."""

    def to_numpy(self, array: Array) -> np.ndarray:
        """As a NumPy array in double precision."""
