"""A user's own module, loss and data; and what a run does with a file that computes something else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from program import call

from torchshrink import checkpoint
from torchshrink.converters import tflite_file
from torchshrink.converters.bridge import Bridge
from torchshrink.errors import ParityError
from torchshrink.pipeline import recipe
from torchshrink.pipeline.artefacts import Artefact, Source
from torchshrink.pipeline.run import run

pytestmark = pytest.mark.slow

CODE = '''
import torch
from torch import nn
from torchshrink.data import open_task


class Residual(nn.Module):
    """Not a U-Net: a residual block, a strided convolution and nearest upsampling."""

    def __init__(self, width):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU6())
        self.body = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width))
        self.down = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.up = nn.Upsample(scale_factor=2)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, x):
        x = self.stem(x)
        x = torch.relu(x + self.body(x))
        return torch.sigmoid(self.head(self.up(torch.relu(self.down(x)))))


def make(width=8):
    return Residual(width)


class Loss(nn.Module):
    def forward(self, probability, truth):
        return (probability - truth.float()).square().mean()


def data():
    return open_task("synthetic:cells?size=24&train=40&test=8")
'''

RECIPE = """\
data: own_of_test:data
model: {factory: 'own_of_test:make', arguments: {width: 8}}
loss: {name: 'own_of_test:Loss'}
variants:
  dense: {train: {epochs: 2}}
  half: {from: dense, export: false, prune: {amount: 0.5, method: lamp, schedule: one_shot, epochs: 1}}
  half-int8: {from: half, qat: {epochs: 2}}
keep_float: [body]
measure: {runs: 5}
"""


def test_own_module_loss_and_data_run_through(tmp_path: Path) -> None:
    (tmp_path / "own_of_test.py").write_text(CODE)
    (tmp_path / "mine.yaml").write_text(RECIPE)
    result = call("run", "mine.yaml", "--json", cwd=tmp_path)
    assert result.code == 0, result.stderr
    rows = {row["name"]: row for row in result.json["rows"]}
    assert result.json["task"]["loss"] == "Loss"
    assert {"dense/torch-fp32", "dense/onnx-int8", "dense/tflite-fp16", "half-int8/tflite-int8"} <= set(rows)
    assert all(row["parity"]["passed"] for row in rows.values())
    assert rows["half-int8/tflite-int8"]["sparsity"] >= 0.5
    for row in rows.values():
        is_int8 = row["precision"] == "int8"
        assert row["keep_float"] == (["body"] if is_int8 else [])
        assert bool(row["islands"]) == is_int8
    for name in ("half-int8", "dense-ptq"):
        assert checkpoint.describe(tmp_path / "runs" / "mine" / "models" / f"{name}.safetensors")["keep_float"] == [
            "body"
        ]
    assert (tmp_path / "runs" / "mine" / "report.json").is_file()


def test_own_model_needs_its_factory_when_a_checkpoint_is_used_alone(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(1)}, tmp_path / "theirs.safetensors")
    result = call("export", tmp_path / "theirs.safetensors", "--out", tmp_path / "m.onnx", "--shape", "1,1,8,8")
    assert result.code == 3
    assert "--model MODULE:FACTORY" in result.stderr


class _Saboteur(Bridge):
    """Exports files of which one holds a wrong weight."""

    def export(self, source: Source, folder: Path, formats: Sequence[str], precisions: Sequence[str]) -> list[Artefact]:
        artefacts = super().export(source, folder, formats, precisions)
        (victim,) = (item.path for item in artefacts if (item.format, item.precision) == ("tflite", "fp32"))
        model = tflite_file.read(victim)
        weights = [
            tensor for tensor in model.subgraphs[0].tensors if tensor.shape is not None and len(tensor.shape) == 4
        ]
        tensor = next(tensor for tensor in weights if tflite_file.constant(model, tensor) is not None)
        model.buffers[tensor.buffer].data = (tflite_file.constant(model, tensor) * 2).tobytes()
        tflite_file.write(model, victim)
        return artefacts


def test_a_file_that_computes_something_else_is_deleted_and_named(tmp_path: Path) -> None:
    content = {
        "data": "synthetic:cells?size=16&train=20&test=4",
        "model": {"arguments": {"widths": [4, 8]}},
        "variants": {"dense": {"train": {"epochs": 1}}},
        "formats": ["tflite"],
        "precisions": ["fp32", "fp16"],
        "measure": {"runs": 5},
    }
    with pytest.raises(ParityError) as caught:
        run(recipe.parse(content), tmp_path / "out", _Saboteur())
    assert "dense/tflite-fp32" in str(caught.value)
    assert "first diverging operation: " in str(caught.value)
    assert caught.value.exit_code == 4
    assert not (tmp_path / "out" / "files" / "dense-fp32.tflite").exists()
    page = (tmp_path / "out" / "report.md").read_text()
    assert "| dense/tflite-fp32 |" not in page
    assert "| dense/tflite-fp16 |" in page
    assert "- dense/tflite-fp32: largest difference" in page
