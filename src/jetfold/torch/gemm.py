"""Where C finds products of matrices: BLAS's, and those of gemm.c where these are faster."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .. import shared_library
from . import compiled
from .compiled import TYPES

NARROWEST = 2**3
"""Matrices of fewer rows or columns are multiplied by BLAS: gemm.c wants one vector of them."""

VECTOR = 32
"""Bytes of a vector in gemm.c."""

FUNCTIONS = "is_faster", "fill_panels", "times_panels"
"""Those of gemm.c."""


class Products(NamedTuple):
    """Addresses of functions; 0 for none.

    Attributes:
        gemm: BLAS's.
        fill, times: `fill_panels` and `times_panels` of gemm.c.
    """

    gemm: int
    fill: int = 0
    times: int = 0

    def panels(self, depth: int, columns: int, item: int) -> int:
        """How many numbers, of `item` bytes, the factor (depth, columns) takes in panels."""
        lanes = VECTOR // item
        return depth * -(-columns // lanes) * lanes

    def has_panels(self, out: int, in_: int) -> bool:
        """Whether layers with such weights are multiplied by gemm.c."""
        return bool(self.times) and min(out, in_) >= NARROWEST


@cache
def products(dtype: Any) -> Products | None:
    """Those of a dtype; None where BLAS cannot be found in the library that PyTorch brings."""
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        gemm = shared_library.address(library["sgemm_" if dtype == torch.float32 else "dgemm_"])
    except (OSError, AttributeError):
        return None
    made = compiled.functions(source(dtype), *FUNCTIONS)
    if made is None or not _says(made[0]):
        return Products(gemm)
    return Products(gemm, *map(shared_library.address, made[1:]))


def source(dtype: Any) -> str:
    """gemm.c, of a dtype."""
    return f"typedef {TYPES[dtype]} T;\n" + shared_library.text("torch/gemm.c")


def _says(question: Any) -> bool:
    answer = ctypes.c_int64()
    question(ctypes.byref(answer))
    return bool(answer.value)
