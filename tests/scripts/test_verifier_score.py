"""What the script does with made-up verdicts, and its harms on one small file: no model is converted to TFLite."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from script import load
from torch import nn

from torchshrink import quantize
from torchshrink.converters import to_onnx

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS / "verifier_parts"))

import harm_onnx  # noqa: E402
import score_page  # noqa: E402

script = load("verifier_score")


def verdict(number: int, said: str, **by: str) -> dict[str, Any]:
    harm = "bias" if number else "none"
    return {"model": "m", "format": "onnx", "number": number, "harm": harm, "where": "w", "verdict": said, "by": by}


def test_the_page_counts_what_shows_and_names_what_was_missed() -> None:
    rows = [
        verdict(0, "right"),
        verdict(1, "caught", operators="x"),
        verdict(2, "caught", scales="x"),
        verdict(3, "not seen"),
        verdict(4, "missed"),
    ]
    page = score_page.write(rows, 0)
    assert "**2 of 3 caught (66.7%)**, 1 not seen; 0 of 1 right files refused." in page
    assert "| m, onnx | 3 | 2 | 66.7% | 33.3% |" in page
    assert "- missed: m, onnx, bias w" in page
    refused = score_page.write([verdict(0, "refused", noise="too loud")], 0)
    assert "1 of 1 right files refused" in refused
    assert "- refused: m, onnx, none w too loud" in refused


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two convolutions, the first padded, and a LeakyReLU between them."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.LeakyReLU(), nn.Conv2d(4, 2, 3)).eval()
    inputs = torch.randn(4, 3, 6, 8)
    prepared = quantize.prepare_ptq(model, inputs[:1])
    quantize.calibrate(prepared, [inputs])
    path = tmp_path_factory.mktemp("right") / "right.onnx"
    return Path(to_onnx(quantize.convert(prepared), inputs[:1], path, "int8"))


@pytest.mark.parametrize("harm", [name for name in harm_onnx.HARMS if name != "operands mixed up"])
def test_a_harm_changes_what_the_file_computes_and_can_be_repeated(right: Path, harm: str, tmp_path: Path) -> None:
    inputs = np.random.default_rng(0).normal(size=(4, 3, 6, 8)).astype(np.float32) * 2
    path = tmp_path / "harmed.onnx"
    contents = []
    for _ in range(2):
        where = script.write_harmed(right, path, harm_onnx.HARMS[harm], np.random.default_rng(3))
        contents.append(path.read_bytes())
        assert where
    assert contents[0] == contents[1]
    onnx.checker.check_model(str(path))
    assert not np.array_equal(script.values(path, inputs), script.values(right, inputs))


def test_what_is_not_there_is_not_harmed(right: Path, tmp_path: Path) -> None:
    change = harm_onnx.HARMS["operands mixed up"]
    assert script.write_harmed(right, tmp_path / "same.onnx", change, np.random.default_rng(0)) == ""


def test_a_change_that_no_output_shows_does_not_count(right: Path) -> None:
    seen = np.zeros((1, 3, 6, 8), np.float32)
    found = script.verdict_on(right, script.values(right, seen), seen, lambda _: {}, number=1)
    assert found["verdict"] == "not seen"
    other = script.values(right, seen) + 1
    assert script.verdict_on(right, other, seen, lambda _: {}, number=1)["verdict"] == "missed"
    assert script.verdict_on(right, other, seen, lambda _: {"noise": "x"}, number=1)["verdict"] == "caught"
    assert script.verdict_on(right, other, seen, lambda _: {"noise": "x"}, number=0)["verdict"] == "refused"
