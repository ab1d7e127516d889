"""The figures of the documentation are what the library says today."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

ROOT = Path(__file__).parent.parent
spec = importlib.util.spec_from_file_location("figures", ROOT / "tools" / "figures.py")
assert spec and spec.loader
figures = importlib.util.module_from_spec(spec)
spec.loader.exec_module(figures)


@pytest.mark.parametrize("name", ["carried", "algebra"])
def test_figures_are_not_stale(name):
    """Their words and shapes, wherever they stand."""

    def content(text):
        return re.findall(r"<text[^>]*>([^<]*)", text), len(re.findall("<path", text))

    stored = (figures.FOLDER / f"{name}.svg").read_text("utf-8")
    assert content(figures.drawn(name).decode("utf-8")) == content(stored)
