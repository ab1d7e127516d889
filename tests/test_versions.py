"""Which versions are supported: the package, its metadata, the docs and the matrix say the same."""

from __future__ import annotations

import importlib
import pkgutil
import re
import runpy
import tomllib
import warnings
from pathlib import Path
from typing import Any

import pytest

from jetfold import JetfoldWarning
from jetfold.versions import SUPPORTED, requirement, supported

ROOT = Path(__file__).parent.parent
PROJECT: Any = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PYTHONS = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["classifiers"]))
PAGE = (ROOT / "docs" / "versions.md").read_text("utf-8")
MATRIX = runpy.run_path(str(ROOT / "tools" / "versions.py"))["MATRIX"]
NAMES = {"torch": "PyTorch", "jax": "JAX"}


@pytest.mark.parametrize("framework", SUPPORTED)
def test_one_range(framework):
    oldest, newest = SUPPORTED[framework]
    assert PROJECT["optional-dependencies"][framework] == [requirement(framework)]
    assert f"| {NAMES[framework]} | {oldest} | {newest} |" in PAGE
    rows = [row for row in MATRIX if row.framework == framework]
    minors = {".".join(row.version.split(".")[:2]) for row in rows}
    assert minors == {oldest, newest}
    assert {row.python for row in rows} == set(PYTHONS)


@pytest.mark.parametrize("framework", SUPPORTED)
def test_what_was_run(framework):
    """Every row on the page is one of the matrix; of JAX all of them are there."""
    cells = rf"\| (3\.\d+)[.\d]+ \| {framework} (\d+\.\d+)[.\d]* \| (.*) \| \d+ \| \d+ \| (\d+) \|"
    ran = {(python, version): how for python, version, *how in re.findall(cells, PAGE)}
    wanted = {
        (row.python, ".".join(row.version.split(".")[:2]))
        for row in MATRIX
        if row.framework == framework
    }
    assert ran, "nothing was run: tools/versions.py"
    assert set(ran) <= wanted
    if framework == "jax":
        assert set(ran) == wanted


def test_pythons():
    assert PROJECT["requires-python"] == f">={PYTHONS[0]}"
    assert f"| Python | {PYTHONS[0]} | {PYTHONS[-1]} |" in PAGE


@pytest.mark.parametrize("version", ["0.8.0", "0.9.2", "0.10.2", "0.12.17", "0.12.0.dev1+abc"])
def test_silent_within(version):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with supported("jax", version):
            pass


def test_too_old():
    with (
        pytest.raises(
            ImportError,
            match=r"supports torch 2\.11 to 2\.15, and this is torch 2\.9\.1\+cpu; pip install '.*'",
        ),
        supported("torch", "2.9.1+cpu"),
    ):
        pytest.fail("nothing of it is imported")


@pytest.mark.parametrize("version", ["0.13.0", "1.0.0"])
def test_newer_ones_are_named_and_not_refused(version):
    ran = []
    message = r"this is jax .*not tested with: .*jetfold\.check.* pip install 'jax>=0\.8,<0\.13'"
    with pytest.warns(JetfoldWarning, match=message), supported("jax", version):
        ran.append(version)
    assert ran


def test_what_is_missing_is_told_with_the_versions():
    message = r"this is torch 2\.14\.0, which lacks what jetfold needs \(.*gone.*\); pip install"
    with pytest.raises(ImportError, match=message), supported("torch", "2.14.0"):
        from math import gone  # noqa: F401


@pytest.mark.parametrize("framework", SUPPORTED)
def test_the_installed_one_is_supported(framework):
    """And was asked for: a first array of another version is told of."""
    module = pytest.importorskip(framework)
    with supported(framework, module.__version__):
        importlib.import_module(f"jetfold.{framework}")
    source = (ROOT / "src" / "jetfold" / framework / "__init__.py").read_text("utf-8")
    assert f'supported("{framework}", {framework}.__version__)' in source


HOUSE = (ROOT / "docs" / "architecture.md").read_text("utf-8").partition("## Private interfaces")[2]
PRIVATE = re.findall(r"^\| (`.*?`) \|", HOUSE, re.MULTILINE)
PRIVATE = [name for cell in PRIVATE for name in re.findall(r"`([\w.]+)`", cell)]


@pytest.mark.parametrize("name", PRIVATE)
def test_private_interfaces_are_there(name):
    """In the versions that are installed; tools/versions.py runs this with others."""
    pytest.importorskip(name.partition(".")[0])
    pkgutil.resolve_name(name)


def test_the_page_of_the_house_says_which():
    said = ", ".join(f"{NAMES[k]} {' to '.join(v)}" for k, v in SUPPORTED.items())
    assert said in HOUSE
