"""A run's report says what the float islands of its int8 files cost."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import here
import numpy as np
import pytest

from torchshrink import bench
from torchshrink.errors import ConversionError
from torchshrink.pipeline import recipe
from torchshrink.pipeline import run as pipeline
from torchshrink.pipeline.artefacts import Artefact, Source


class _Bridge:
    """Two copies of the checkpoint go for int8 files; one has an island."""

    def __init__(self, cost: float | ConversionError) -> None:
        self.cost = cost

    def export(self, source: Source, folder: Path, *_: Any) -> list[Artefact]:
        found = []
        for format_, islands in (("onnx", ("Sin x",)), ("tflite", ())):
            path = folder / f"{format_}.safetensors"
            shutil.copy(folder.parent / "models" / "dense.safetensors", path)
            found.append(Artefact("dense", format_, "int8", path, islands=islands))  # type: ignore[arg-type]
        return found

    def outputs(self, artefact: Artefact, source: Source, inputs: Any) -> Any:
        return bench.predict(artefact.path, inputs.numpy())

    def compare(self, *_: Any) -> dict[str, Any]:
        return {"reference": "dense", "max_abs": 0.0, "mean_abs": 0.0, "lsb_match": 1.0, "passed": True, "reason": ""}

    def weights(self, path: Path) -> list[Any]:
        return [np.ones(3, np.float32)]

    def float_time(self, path: Path, runs: int, threads: int) -> float:
        assert (path.name, runs, threads) == ("onnx.safetensors", 5, 2)
        if isinstance(self.cost, ConversionError):
            raise self.cost
        return self.cost


def run(out: Path, cost: float | ConversionError, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    def measure_all(paths: Sequence[Path], *_: Any, **__: Any) -> dict[Path, bench.Measurement]:
        return {path: bench.Measurement(bench.Latency(1.0, 2.0, 1, 5), 50.0, 40.0, 10.0, 3.0) for path in paths}

    monkeypatch.setattr(bench, "measure_all", measure_all)
    monkeypatch.setattr(bench, "predict", here.predict)
    content = {
        "data": "synthetic:cells?size=16&train=12&test=2",
        "model": {"arguments": {"widths": [4, 8]}},
        "variants": {"dense": {"train": {"epochs": 0}}},
        "precisions": ["fp32"],
        "measure": {"runs": 5, "threads": 2},
    }
    found = pipeline.run(recipe.parse(content), out, _Bridge(cost))  # type: ignore[arg-type]
    return {row["name"]: row for row in found["rows"]}


def test_only_files_with_islands_have_a_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = run(tmp_path, 0.375, monkeypatch)
    assert {name: row.get("float_time") for name, row in rows.items()} == {
        "dense/torch-fp32": None,
        "dense/onnx-int8": 0.375,
        "dense/tflite-int8": None,
    }
    assert "<li>dense/onnx-int8: Sin x (38% of the time in float)</li>" in (tmp_path / "report.html").read_text()


def test_a_file_that_cannot_be_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = run(tmp_path, ConversionError("refused"), monkeypatch)
    assert "float_time" not in rows["dense/onnx-int8"]
    assert "<li>dense/onnx-int8: Sin x</li>" in (tmp_path / "report.html").read_text()
