"""The names of coordinates: whether operators are of the same ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def names_of(names: str | Sequence[str] | None) -> list[str]:
    """ "t x y" or "t, x, y" as a list.

    Raises:
        ValueError: a name stands twice.
    """
    texts = names.replace(",", " ").split() if isinstance(names, str) else list(names or ())
    if len(set(texts)) < len(texts):
        raise ValueError(f"every coordinate has a name of its own, got {names!r}")
    return texts


def differ(left: Mapping[int, str], right: Mapping[int, str]) -> bool:
    """Whether a coordinate has two names, or a name two coordinates."""
    both = [(i, name) for i, name in left.items() if i >= 0]
    other = {i: name for i, name in right.items() if i >= 0}
    return any([other.get(i, name) != name for i, name in both]) or any(
        [name in other.values() and other.get(i) != name for i, name in both]
    )


def check_alike(transforms: Sequence[Any]) -> None:
    """Refuse operators of different coordinates.

    Raises:
        ValueError: their numbers or names of coordinates differ.
    """
    for k, one in enumerate(transforms):
        for other in transforms[:k]:
            counts, names = (other.coordinates, one.coordinates), (other.names, one.names)
            if (None not in counts and counts[0] != counts[1]) or differ(*names):
                raise ValueError(
                    f"operators on {_coordinates(other)} and on {_coordinates(one)} coordinates do "
                    f"not combine; take both from one {_one_for_both(*names)}"
                )


def _coordinates(transform: Any) -> str:
    names = " ".join(name for i, name in sorted(transform.names.items()) if i >= 0)
    return f'the "{names}"' if names else str(transform.coordinates)


def _one_for_both(left: Mapping[int, str], right: Mapping[int, str]) -> str:
    named = [name for names in (left, right) for i, name in sorted(names.items()) if i >= 0]
    both = " ".join(dict.fromkeys(named))
    return f'partials("{both}")' if both else "partials(n)"
