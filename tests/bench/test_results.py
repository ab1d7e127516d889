"""Results in a file: what is written is read again, and nothing is measured twice."""

import json

import pytest

from jetfold.bench.measure import Timing
from jetfold.bench.results import Cell, Results, Spec

SPEC = Spec("paper", "torch", "eager", "laplacian", "minimal", "batch", dimension=50, batch=8)
OTHER = Spec("paper", "torch", "eager", "laplacian", "nested", "batch", dimension=50, batch=8)


def test_round_trip(tmp_path):
    time = Timing(0.2, 0.1, 0.15, 0.3, 7)
    found = Results("quick", versions={"torch": "PyTorch 2.13"})
    found.add([Cell(SPEC, vectors=52, time=time, peak=10**7, predicted={"kept": 3.0})])
    found.save(tmp_path / "paper.json")
    assert Results.load(tmp_path / "paper.json") == found
    assert SPEC.value == 8


def test_what_is_missing():
    found = Results("quick")
    found.add([Cell(SPEC, vectors=52)])
    assert found.missing([SPEC, OTHER]) == [OTHER]
    found.add([Cell(SPEC, failure="MemoryError")])
    assert found.missing([SPEC, OTHER]) == [SPEC, OTHER]


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"format": 99})])
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "paper.json").write_text(text)
    with pytest.raises(ValueError, match="no result of `jetfold bench --paper`"):
        Results.load(tmp_path / "paper.json")
