"""Models that are not the built-in U-Net: what they are made of reaches the int8 files, or is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from torchshrink import quantize
from torchshrink.converters import qdq, tflite
from torchshrink.converters.anatomy.inspect import find_islands
from torchshrink.converters.export.to_onnx import export, to_onnx
from torchshrink.converters.onnx_file import save
from torchshrink.converters.proof import scales, verify


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        return self.head((x + self.second(x)).relu())


class Gated(nn.Module):
    """Its sigmoid is quantized twice: on its own fixed grid, then on the one that the concatenation shares."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.values = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(1, 4, 3, padding=1)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([torch.sigmoid(self.gate(x)), self.values(x)], 1))


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(x).relu() * 0.5)


class Affine(nn.Module):
    """Numbers of its own between two convolutions, one for each channel and one for all."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 1)
        self.factor = nn.Parameter(torch.tensor([0.5, 1.5, -1.0, 2.0]).reshape(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(x) * self.factor + 0.25)


class Sine(nn.Module):
    """A sine has no int8 kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.sin(self.first(x)))


class Overlapping(nn.Module):
    """A transposed convolution whose windows overlap."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.up = nn.ConvTranspose2d(4, 2, 3, stride=2, padding=1, output_padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.first(x))


MODELS = [Residual, Gated, Scaled, Affine, Sine, Overlapping]


@dataclass(frozen=True)
class Own:
    graph: GraphModule
    inputs: Tensor
    generic: onnx.ModelProto
    floats: Path
    ranges: dict[str, Any]
    files: Any

    def to_tflite(self, path: Path) -> Path:
        tflite.write(self.files, self.floats, path, "int8", self.ranges)
        return path

    def to_onnx(self, path: Path) -> Path:
        return to_onnx(self.graph, self.inputs, path, "int8")


@pytest.fixture(scope="module")
def owns(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Quantize every model after training and convert all of them in one start of TensorFlow."""
    folder = tmp_path_factory.mktemp("own")
    torch.manual_seed(0)
    inputs = torch.randn(8, 1, 16, 20)
    prepared: dict[type, tuple[Any, ...]] = {}
    for kind in MODELS:
        module = quantize.prepare_ptq(kind().eval(), inputs[:1])
        quantize.calibrate(module, [inputs])
        graph = quantize.convert(module)
        generic = export(graph, inputs)
        floats, ranges = qdq.split(generic)
        save(floats, folder / f"{kind.__name__}.onnx")
        prepared[kind] = (graph, inputs, generic, folder / f"{kind.__name__}.onnx", ranges)
    with tflite.float_files([parts[3] for parts in prepared.values()]) as files:
        yield {kind: Own(*parts, item) for (kind, parts), item in zip(prepared.items(), files, strict=True)}


@pytest.fixture(params=MODELS, ids=lambda kind: kind.__name__)
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def own(owns: Any, kind: Any) -> Own:
    return owns[kind]


def test_onnx(own: Own, tmp_path: Path) -> None:
    path = own.to_onnx(tmp_path / "model.onnx")
    parity = verify.verify(path, own.graph, own.inputs, "int8", "graph")
    assert parity.passed, parity.reason
    assert parity.lsb_match == 1


def test_tflite(own: Own, tmp_path: Path) -> None:
    path = own.to_tflite(tmp_path / "model.tflite")
    parity = verify.verify(path, own.graph, own.inputs, "int8", "graph")
    assert parity.passed, parity.reason


def test_scales_of_the_tflite_file(own: Own, tmp_path: Path) -> None:
    rows = scales.compare(own.to_tflite(tmp_path / "model.tflite"), own.generic, own.inputs)
    assert rows
    assert [row for row in rows if not row.is_equal] == []


def test_scales_of_the_onnx_file(own: Own, tmp_path: Path) -> None:
    rows = scales.compare(own.to_onnx(tmp_path / "model.onnx"), own.generic, own.inputs)
    assert rows
    assert [row for row in rows if not row.is_equal] == []


@pytest.mark.parametrize(
    ("kind", "expected"), [(Residual, []), (Gated, []), (Sine, ["Sin"]), (Overlapping, ["ConvTranspose"])]
)
def test_islands_of_the_onnx_file(owns: Any, kind: type, expected: list[str], tmp_path: Path) -> None:
    found = find_islands(owns[kind].to_onnx(tmp_path / "model.onnx"))
    assert [item.split()[0] for item in found] == expected


@pytest.mark.parametrize(("kind", "expected"), [(Residual, []), (Gated, []), (Sine, ["SIN"]), (Overlapping, [])])
def test_islands_of_the_tflite_file(owns: Any, kind: type, expected: list[str], tmp_path: Path) -> None:
    found = find_islands(owns[kind].to_tflite(tmp_path / "model.tflite"))
    assert [item.split()[0] for item in found if not item.startswith("DEQUANTIZE")] == expected


def test_an_island_names_its_tensor(owns: Any, tmp_path: Path) -> None:
    (found,) = find_islands(owns[Sine].to_onnx(tmp_path / "model.onnx"))
    assert found == "Sin node_sin"


def test_an_island_computes_what_pytorch_computes(owns: Any, tmp_path: Path, run_onnx: Any) -> None:
    own = owns[Sine]
    expected = own.graph(own.inputs).numpy()
    assert np.array_equal(run_onnx(own.to_onnx(tmp_path / "model.onnx"), own.inputs.numpy()), expected)
