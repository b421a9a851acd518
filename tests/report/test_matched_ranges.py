"""The share of learned ranges: from an artefact to the report, in old run folders too."""

from __future__ import annotations

from pathlib import Path

import pytest

from torchshrink.pipeline.artefacts import Artefact
from torchshrink.report import text


def test_an_artefact_keeps_it(tmp_path: Path) -> None:
    artefact = Artefact("v", "tflite", "int8", tmp_path / "m.tflite", matched=0.75)
    assert Artefact.from_dict(artefact.to_dict(tmp_path), tmp_path) == artefact


def test_an_artefact_of_an_earlier_version(tmp_path: Path) -> None:
    content = Artefact("v", "tflite", "int8", tmp_path / "m.tflite").to_dict(tmp_path)
    del content["matched"]
    assert Artefact.from_dict(content, tmp_path).matched is None


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ([None], "No ranges were matched."),
        ([None, 1.0], "Every int8 activation has the range that was learned in PyTorch."),
        ([1.0, 0.5], "Activations whose range was learned in PyTorch: row1 50%; in every other int8 file, all."),
    ],
)
def test_the_sentence(shares: list[float | None], expected: str) -> None:
    rows = [{"name": f"row{index}", "matched_ranges": share} for index, share in enumerate(shares)]
    assert text._matched(rows) == expected


def test_a_row_of_an_earlier_version() -> None:
    assert text._matched([{"name": "row"}]) == "No ranges were matched."
