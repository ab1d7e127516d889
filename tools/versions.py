"""Run the suites with the oldest and the newest supported versions, for docs/versions.md.

    python tools/versions.py                                  # every row of the matrix
    python tools/versions.py "python 3.11, jax 0.8.0"         # one of them
    python tools/versions.py --python 3.12=/opt/py312/bin/python --select "not compile"

Every row has a fresh virtual environment of its own, filled by pip: downloads of up to 3 GB (the
registry's PyTorch is built for CUDA) and minutes of tests. An environment is deleted when its row
is written, so one that was interrupted goes on where it was.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "versions.md"


@dataclass(frozen=True)
class Row:
    """What is run together: the suite of one framework, the other one hidden."""

    python: str
    framework: str
    version: str  # for pip

    def __str__(self) -> str:
        return f"python {self.python}, {self.framework} {self.version}"


MATRIX = (
    Row("3.11", "jax", "0.8.0"),
    Row("3.12", "jax", "0.12.*"),
    Row("3.13", "jax", "0.12.*"),
    Row("3.11", "torch", "2.11.0"),
    Row("3.12", "torch", "2.15.*"),
    Row("3.13", "torch", "2.15.*"),
)
"""The oldest versions that `jetfold.versions` supports, and the newest of the newest."""

SUITES = {
    "jax": ("tests/jax", "tests/collapse/test_loops.py"),
    "torch": ("tests/torch", "tests/collapse/test_backend.py"),
}
"""As `make test` runs them."""

INTERFACES = "tests/test_versions.py::test_private_interfaces_are_there"
"""A look at what is private comes first."""

WITHOUT = {"jax": "torch", "torch": "jax jaxlib flax equinox folx"}
"""What is hidden from the tests."""

BRING = {"jax": {"diffrax", "equinox", "flax", "folx"}, "torch": {"torchdiffeq"}}
"""Development dependencies that bring a framework with them."""

NO_TESTS = {"mypy", "ruff", "jetfold"}
"""And those that check the code, whatever the versions; and what is there already."""


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help="; ".join(map(str, MATRIX)))
    parser.add_argument("--python", action="append", default=[], metavar="3.12=PATH")
    parser.add_argument("--select", default="", metavar="EXPRESSION", help="as pytest's -k")
    parser.add_argument("--folder", type=Path, help="for environments; they stay there")
    options = parser.parse_args()
    chosen = [row for row in MATRIX if not options.rows or str(row) in options.rows]
    if len(chosen) < len(options.rows):
        parser.error(f"the rows are: {'; '.join(map(str, MATRIX))}")
    interpreters = dict(given.split("=", 1) for given in options.python)
    for row in chosen:
        python = interpreters.get(row.python) or shutil.which(f"python{row.python}")
        if python is None:
            parser.error(f"no python{row.python} here; pass --python {row.python}=PATH")
        with tempfile.TemporaryDirectory(prefix="versions-") as temporary:
            folder = options.folder or Path(temporary)
            environment = folder / f"{row.framework}-{row.version.strip('.*')}-python-{row.python}"
            installed = made(environment, python, row)
            counts = tested(environment, row, options.select)
        cells = [datetime.date.today().isoformat(), *installed, options.select or "all", *counts]
        write(cells)
        print(" | ".join(cells), flush=True)


def made(environment: Path, python: str, row: Row) -> list[str]:
    """Make an environment; returns the versions of Python and of the framework in there."""
    inside = environment / "bin" / "python"
    if not inside.exists():
        subprocess.run([python, "-m", "venv", environment], check=True)
    wanted = [f"{row.framework}=={row.version}", *requirements(row.framework)]
    subprocess.run([inside, "-m", "pip", "install", "-q", "-e", ROOT, *wanted], check=True)
    asked = (
        "import platform, sys, importlib.metadata as m;"
        "print(platform.python_version(), m.version(sys.argv[1]))"
    )
    found = subprocess.run(
        [inside, "-c", asked, row.framework], check=True, capture_output=True, text=True
    )
    python_version, version = found.stdout.split()
    return [python_version, f"{row.framework} {version.partition('+')[0]}"]


def requirements(framework: str) -> list[str]:
    """The development dependencies that tests of a framework need, from pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    left_out = NO_TESTS.union(*(names for other, names in BRING.items() if other != framework))
    needs = extras["bench"] + extras["jax-bench"] + extras["dev"]
    names = {need: re.split(r"[<>=\[]", need)[0] for need in needs}
    return [need for need, name in names.items() if name not in left_out]


def tested(environment: Path, row: Row, select: str) -> list[str]:
    """Run the suite; returns how many tests passed, were skipped and failed."""
    report = environment / "report.xml"
    report.unlink(missing_ok=True)
    command: list[str | Path] = [environment / "bin" / "python", "-m", "pytest", "-q"]
    command += [f"--junitxml={report}", "-o", f"cache_dir={environment / 'cache'}"]
    command += [INTERFACES, *SUITES[row.framework], *(["-k", select] if select else [])]
    settings = {"JETFOLD_WITHOUT": WITHOUT[row.framework], "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, cwd=ROOT, env={**os.environ, **settings}, check=False)
    if ended.returncode not in (0, 1):  # 1: some failed
        sys.exit(f"{row}: the tests did not run to their end")
    suite = next(ElementTree.parse(report).iter("testsuite"))
    total, *others = (int(suite.get(k, 0)) for k in ("tests", "skipped", "failures", "errors"))
    skipped, failed = others[0], others[1] + others[2]
    return [str(total - skipped - failed), str(skipped), str(failed)]


def write(cells: list[str]) -> None:
    """Put a row into the table of the page, in place of those of the same minor versions."""
    text = PAGE.read_text("utf-8")
    head, rows = re.findall(r"(\| date \|.*\n\|[-| ]+\n)((?:\|.*\n)*)", text)[0]
    lines = [f"| {' | '.join(cells)} |"]
    lines += [row for row in rows.splitlines() if _versions(row) != _versions(lines[0])]
    lines.sort(key=_versions)
    PAGE.write_text(text.replace(head + rows, head + "\n".join(lines) + "\n"), "utf-8")


def _versions(row: str) -> tuple[str, list[int], list[int]]:
    """Of a line of the table: framework, its minor version and that of Python."""
    _, python, framework = [cell.strip() for cell in row.strip("| ").split("|")[:3]]
    name, version = framework.split()
    return name, _numbers(version)[:2], _numbers(python)[:2]


def _numbers(version: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", version)]


if __name__ == "__main__":
    main()
