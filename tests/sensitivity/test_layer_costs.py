"""What each layer holds and computes: on models that can be counted by hand, and in the report of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import here
import numpy as np
import pytest
import torch
from torch import nn

from torchshrink import bench
from torchshrink.errors import ModelError
from torchshrink.pipeline import recipe
from torchshrink.pipeline import run as pipeline
from torchshrink.sensitivity.layer_info import layer_costs


def test_counted_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3, bias=False))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1)
        model[0].weight[0] = 0  # 9 weights
        model[0].bias[1] = 0
        model[3].weight[:2] = 0  # 64 of 96
    # 2 channels of 4 x 4 outputs, each a sum of 9 products; 3 outputs, each a sum of 32
    assert layer_costs(model, torch.zeros(5, 1, 4, 4)) == [
        {"name": "0", "params": 20, "nonzero": 10, "macs": 2 * 16 * 9},
        {"name": "3", "params": 96, "nonzero": 32, "macs": 3 * 32},
    ]


def test_a_model_that_is_one_layer_goes_by_its_class() -> None:
    assert [layer["name"] for layer in layer_costs(nn.Linear(3, 2), torch.zeros(1, 3))] == ["Linear"]


def test_a_model_without_layers() -> None:
    with pytest.raises(ModelError, match="no convolution or linear layer"):
        layer_costs(nn.ReLU(), torch.zeros(1, 3))


class _NoFiles:
    """A bridge that exports nothing."""

    def export(self, *_: Any) -> list[Any]:
        return []

    def weights(self, path: Path) -> list[Any]:
        return [np.ones(3, np.float32)]


class _Notes:
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def start(self, *_: Any) -> None: ...

    def update(self, *_: Any) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(autouse=True)
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """No processes are started, for what is computed and for what is timed."""

    def measure_all(paths: Sequence[Path], *_: Any, **__: Any) -> dict[Path, bench.Measurement]:
        return {path: bench.Measurement(bench.Latency(1.0, 2.0, 1, 5), 50.0, 40.0, 10.0, 3.0) for path in paths}

    monkeypatch.setattr(bench, "measure_all", measure_all)
    monkeypatch.setattr(bench, "predict", here.predict)


def run(out: Path, variants: dict[str, Any], **model: Any) -> tuple[dict[str, Any], list[str]]:
    content = {
        "data": "synthetic:cells?size=16&train=12&test=2",
        "model": model,
        "variants": variants,
        "precisions": ["fp32"],
    }
    notes = _Notes()
    return pipeline.run(recipe.parse(content), out, _NoFiles(), progress=notes), notes.notes  # type: ignore[arg-type]


def test_report_of_a_run(tmp_path: Path) -> None:
    variants = {
        "dense": {"train": {"epochs": 0}},
        "pruned": {"from": "dense", "prune": {"amount": 0.5, "epochs": 0, "schedule": "one_shot"}},
        "slim": {"from": "dense", "channels": {"amount": 0.5, "epochs": 0}},
        "int8": {"from": "pruned", "qat": {"epochs": 1}},
    }
    found, _ = run(tmp_path, variants, arguments={"widths": [4, 8]})
    layers = found["layers"]
    assert list(layers) == ["dense", "pruned", "slim"]  # an int8 graph has no float layers
    first = {name: each[0] for name, each in layers.items()}
    assert first["dense"] == {"name": "encoder.0.0", "params": 36, "nonzero": 36, "macs": 36 * 16 * 16}
    sizes = {
        name: [sum(layer[key] for layer in each) for key in ("params", "nonzero")] for name, each in layers.items()
    }
    assert sizes["pruned"][0] == sizes["dense"][0]
    assert sizes["pruned"][1] == pytest.approx(sizes["dense"][1] / 2, rel=0.05)  # biases are not pruned
    assert sizes["slim"][0] < sizes["dense"][0]
    assert '<section id="layers">' in (tmp_path / "report.html").read_text()


def test_report_of_a_model_without_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bare.py").write_text(
        "from torch import nn\n\n\ndef make():\n    return nn.Sequential(nn.BatchNorm2d(1), nn.Sigmoid())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found, notes = run(tmp_path / "out", {"dense": {"train": {"epochs": 0}}}, factory="bare:make")
    assert found["layers"] == {}
    reason = "Sequential has no convolution or linear layer: give the float model"
    assert f"dense: the report has no figures per layer: {reason}" in notes
    assert '<section id="layers">' not in (tmp_path / "out" / "report.html").read_text()
