"""Channels, distillation and the ladder, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from program import Run, call

from torchshrink.pipeline import ladder
from torchshrink.pipeline.recipe import Recipe

pytestmark = pytest.mark.slow
DATA = "synthetic:cells?size=32&train=24&test=8"


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dense") / "dense.safetensors"
    result = call("train", "--data", DATA, "--widths", "8,16", "--epochs", "1", "--out", path)
    assert result.code == 0, result.stderr
    return path


def test_a_slim_checkpoint_is_a_model_like_any_other(dense: Path, tmp_path: Path) -> None:
    slim, int8, file = (tmp_path / name for name in ("slim.safetensors", "int8.safetensors", "slim.tflite"))
    options = ("--channels", "0.5", "--rounds", "2", "--round-to", "2", "--importance", "taylor", "--epochs", "3")
    pruned = call("prune", dense, "--data", DATA, *options, "--teacher", dense, "--out", slim, "--json")
    assert pruned.code == 0, pruned.stderr
    assert pruned.json["bytes"] < 0.6 * dense.stat().st_size
    assert call("ptq", slim, "--data", DATA, "--out", int8).code == 0
    assert call("convert", int8, "--precision", "int8", "--out", file).code == 0
    checked = call("verify", file, "--against", int8, "--data", DATA)
    assert checked.code == 0, checked.stderr


def test_a_target_that_cannot_be_met(dense: Path, tmp_path: Path) -> None:
    result = call("prune", dense, "--data", DATA, "--target-params", "3", "--out", tmp_path / "x.safetensors")
    assert result.code == 3
    assert "a target of" in result.stderr
    assert len(result.stderr.strip().splitlines()[-1]) < 300
    assert not (tmp_path / "x.safetensors").exists()


def test_weights_and_channels_are_two_steps(dense: Path, tmp_path: Path) -> None:
    result = call("prune", dense, "--amount", "0.5", "--channels", "0.5", "--out", tmp_path / "x.safetensors")
    assert result.code == 2
    assert "prune twice" in result.stderr


def test_an_unknown_method(dense: Path, tmp_path: Path) -> None:
    result = call("prune", dense, "--data", DATA, "--method", "best", "--out", tmp_path / "x.safetensors")
    assert result.code == 3
    assert "expected one of magnitude, layer, lamp, random" in result.stderr


@pytest.fixture
def few_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a ladder, which asks for every file, be made of two of each variant."""
    whole = ladder.ladder

    def thin(*arguments: Any, **settings: Any) -> Recipe:
        recipe = whole(*arguments, **settings)
        assert (recipe.formats, recipe.precisions) == (Recipe().formats, Recipe().precisions)
        return recipe.model_copy(update={"formats": ("onnx",), "precisions": ("fp32", "int8")})

    monkeypatch.setattr(ladder, "ladder", thin)


@pytest.mark.usefixtures("few_files")
def test_the_ladder(dense: Path, tmp_path: Path) -> None:
    options = ("--data", DATA, "--sparsity", "50", "--channels", "50", "--epochs", "1", "--out", tmp_path / "ladder")
    result = call("sweep", dense, *options, "--json")
    assert result.code == 0, result.stderr
    found = Run(dense, tmp_path / "ladder", result)
    assert {row["variant"] for row in found.report["rows"]} == {"dense", "sparse-50", "channels-50"}
    formats = {row["name"].partition("/")[2] for row in found.rows(variant="channels-50")}
    assert {"torch-fp32", "onnx-fp32", "onnx-int8"} == formats
    slim, whole = (found.rows(name=f"{name}/onnx-int8")[0]["macs"] for name in ("channels-50", "dense"))
    assert slim < 0.5 * whole
    assert (tmp_path / "ladder" / "ladder.png").stat().st_size > 10_000
    again = call("sweep", dense, *options)
    assert again.code == 0
    assert "make:sparse-50: done before" in again.stderr


@pytest.mark.parametrize("text", ["0", "100", "x", "50,-1"])
def test_percentages_that_are_none(text: str, tmp_path: Path) -> None:
    result = call("sweep", "--sparsity", text, "--out", tmp_path / "x")
    assert result.code == 2
    assert not (tmp_path / "x").exists()


def test_a_variant_that_fails_does_not_lose_the_others(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"""\
data: {DATA}
model: {{arguments: {{widths: [4, 8]}}}}
variants:
  dense: {{train: {{epochs: 1}}}}
  odd: {{from: dense, channels: {{target_macs: 0.00001, epochs: 1}}}}
  odder: {{from: odd, prune: {{amount: 0.5, epochs: 1}}}}
  few: {{from: dense, cluster: {{count: 4, epochs: 1}}}}
formats: [onnx]
precisions: [fp32]
measure: {{runs: 5}}
""")
    result = call("run", recipe, "--out", tmp_path / "out")
    assert result.code == 3
    assert "cannot be met" in result.stderr.splitlines()[-1]
    assert "few/onnx-fp32" in result.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {row["variant"] for row in report["rows"]} == {"dense", "few"}
    assert [item["name"] for item in report["failed"]] == ["odd", "odder"]
    assert "'odd', which it comes from, failed" in report["failed"][1]["reason"]
    assert "cannot be met" in (tmp_path / "out" / "report.md").read_text()
