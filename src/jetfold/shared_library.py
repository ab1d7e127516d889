"""Functions in C that are written, compiled and kept while a program runs.

The compiler is the one of the machine: `CC`, cc, gcc or clang. What it makes lies in a folder of
the user (`XDG_CACHE_HOME`, else ~/.cache) under a name that stands for the source, the compiler,
the options and the processor, and serves later programs too. Where there is no compiler, or it
fails, there are no functions, and the framework's own operations serve as ever.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

_log = logging.getLogger("jetfold")

SWITCH = "JETFOLD_KERNELS"
"""The environment variable that turns all of this off where it is 0."""

OPTIONS = ("-O2", "-ftree-vectorize", "-fno-trapping-math", "-fPIC", "-shared", "-w")
PARALLEL = "-fopenmp"
"""Not known to every compiler: without it functions run on one thread."""

INSTRUCTIONS = {
    "AVX2": ("-mavx2", "-mfma"),
    "AVX512": ("-mavx2", "-mfma", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"),
}
"""What processors have beyond their family's least: files may be shared by machines, and
-march=native says nothing that a name could hold."""

SECONDS = 60
"""No kernel takes so long to compile."""


@cache
def compiler() -> str | None:
    """The path of a C compiler; None where there is none, or it is not wanted."""
    if os.environ.get(SWITCH) == "0" or os.name != "posix":
        return None
    names = [os.environ.get("CC", ""), "cc", "gcc", "clang"]
    return next((found for name in names if name and (found := shutil.which(name))), None)


@cache
def text(name: str) -> str:
    """What a file of the package says."""
    return Path(__file__).parent.joinpath(name).read_text()


@cache
def _version(path: str) -> str:
    return subprocess.run(
        [path, "--version"], capture_output=True, text=True, timeout=SECONDS, check=True
    ).stdout


@cache
def _folder(base: str) -> Path:
    """Where compiled functions are kept: the user's own, so that no one else writes there."""
    folder = Path(base or Path.home() / ".cache", "jetfold", "kernels")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid == os.getuid() and os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="jetfold-"))


@cache
def instructions() -> tuple[str, ...]:
    """The options for what this processor has, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ()
    has = set(next((line for line in lines if line.startswith("flags")), "").split())
    found = [of for of in INSTRUCTIONS.values() if has.issuperset(option[2:] for option in of)]
    return found[-1] if found else ()


def functions(
    source: str, *names: str, options: Sequence[str] = ()
) -> list[Callable[..., Any]] | None:
    """C functions `void name(const int64_t *)`, from source; None where they cannot be had.

    Args:
        options: further ones of the compiler.
    """
    path = compiler()
    if path is None:
        return None
    try:
        options = (*OPTIONS, *options)
        parts = (source, path, _version(path), platform.machine(), PARALLEL, *options)
        name = hashlib.sha256("\0".join(parts).encode()).hexdigest()
        file = _folder(os.environ.get("XDG_CACHE_HOME", "")) / f"{name}.so"
        if not file.exists():
            _compile(path, options, source, file)
        library = ctypes.CDLL(str(file))
        found = [getattr(library, name) for name in names]
    except (OSError, RuntimeError, AttributeError, subprocess.SubprocessError) as error:
        _log.info("no compiled kernels: %s", error)
        return None
    for function in found:
        function.restype = None
        function.argtypes = [ctypes.c_void_p]
    return found


def address(function: Any) -> int:
    """Where a function of C stands."""
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _compile(path: str, options: tuple[str, ...], source: str, file: Path) -> None:
    """Put the library where it belongs in one step: others may be doing the same."""
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        made = Path(folder, "kernel.so")
        for more in ([PARALLEL], []):
            command = [path, *more, *options, "-x", "c", "-", "-o", str(made), "-lm"]
            done = subprocess.run(
                command, input=source, capture_output=True, text=True, timeout=SECONDS
            )
            if not done.returncode:
                made.rename(file)
                return
        raise RuntimeError(f"{path} failed: {done.stderr.strip()[:500]}")
