"""What type checkers are told: an operator keeps the arguments and the result of a function.

No framework is imported. A function with annotations keeps them; a `torch.nn.Module`, whose call
has none in PyTorch, gives what its buffers are: tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, overload

P = ParamSpec("P")
T = TypeVar("T")
Key = TypeVar("Key")
Tensor_co = TypeVar("Tensor_co", covariant=True)


class Options(TypedDict, total=False):
    """The keywords of `op(f, …)`; `Transform.__call__` says what they are."""

    argnums: int | Sequence[int]
    batch_dims: int
    method: str
    chunk_size: int | None
    structure: bool


class Module(Protocol[Tensor_co]):
    """Of a `torch.nn.Module` that by which its type of tensors is known."""

    def buffers(self, recurse: bool = ...) -> Iterator[Tensor_co]: ...


class Together(Protocol):
    """Several operators together, as `jetfold.derivatives` makes them."""

    @property
    def tree(self) -> Any: ...
    @property
    def members(self) -> tuple[Any, ...]: ...


Several = TypeVar("Several", bound=Together)


class TakesRandomness(Protocol):
    """op(f) of a randomized operator: the function that it gives also takes `rng`."""

    @overload
    def __call__(self, f: Module[T], **options: Unpack[Options]) -> Callable[..., T]: ...
    @overload
    def __call__(self, f: Callable[..., T], **options: Unpack[Options]) -> Callable[..., T]: ...


class ToDict(Protocol[Key]):
    """op(f) of several operators in a dictionary."""

    @overload
    def __call__(self, f: Module[T], **options: Unpack[Options]) -> Callable[..., dict[Key, T]]: ...
    @overload
    def __call__(
        self, f: Callable[..., T], **options: Unpack[Options]
    ) -> Callable[..., dict[Key, T]]: ...


class ToTuple(Protocol):
    """op(f) of several operators in a tuple."""

    @overload
    def __call__(
        self, f: Module[T], **options: Unpack[Options]
    ) -> Callable[..., tuple[T, ...]]: ...
    @overload
    def __call__(
        self, f: Callable[..., T], **options: Unpack[Options]
    ) -> Callable[..., tuple[T, ...]]: ...


class ToList(Protocol):
    """op(f) of several operators in a list."""

    @overload
    def __call__(self, f: Module[T], **options: Unpack[Options]) -> Callable[..., list[T]]: ...
    @overload
    def __call__(
        self, f: Callable[..., T], **options: Unpack[Options]
    ) -> Callable[..., list[T]]: ...
