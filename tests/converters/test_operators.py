"""One case for each operator: quantized, as int8 TFLite, without an island, verified; converters/README.md says how.

The operators of the built-in U-Net and of `test_own_models` are not repeated here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F

from torchshrink import quantize
from torchshrink.converters import qdq, tflite, tflite_file
from torchshrink.converters.anatomy import tflite_operations
from torchshrink.converters.anatomy.inspect import find_islands
from torchshrink.converters.export.to_onnx import export
from torchshrink.converters.onnx_file import save
from torchshrink.converters.proof import scales, verify


class Transposed(nn.Module):
    """A transposed convolution of every channel alone, with gaps."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.randn(4, 1, 3, 3, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self.get_buffer("weight"), stride=2, groups=4, dilation=2)


class Slopes(nn.Module):
    """A PReLU whose channels differ."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor([0.1, 0.5, -0.25, 1.5]))

    def forward(self, x: Tensor) -> Tensor:
        return F.prelu(x, self.slope)


# By TFLite's name: what PyTorch computes between two convolutions. Channels and both sides differ.
CASES: dict[str, Callable[[Tensor], Tensor]] = {
    "ADD": Slopes(),  # whose ReLUs, which stand alone, are written as sums
    "BATCH_MATMUL": lambda x: x @ x.transpose(2, 3),
    "CONCATENATION": lambda x: torch.stack([x[:, 3], x[:, 0], x[:, -2], x[:, 1]], 1),
    "ELU": F.elu,
    "GELU": F.gelu,
    "LEAKY_RELU": torch.abs,  # with the slope -1, which XNNPACK takes over
    "MEAN": lambda x: x.sum((2, 3), keepdim=True),
    "REDUCE_MAX": lambda x: x.amax((2, 3), keepdim=True),
    "REDUCE_MIN": lambda x: x.min(2, keepdim=True).values,
    "RESIZE_BILINEAR": lambda x: F.interpolate(x, (9, 11), mode="bilinear", align_corners=True),
    "RSQRT": F.mish,
    "TRANSPOSE_CONV": Transposed(),
}


class Between(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.function = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 3, 1), function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


@dataclass(frozen=True)
class Case:
    graph: GraphModule
    inputs: Tensor
    generic: Any
    path: Path


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Case]]:
    """Every operator's model and its int8 file, all converted in one start of TensorFlow."""
    folder = tmp_path_factory.mktemp("operators")
    made, ranges = {}, {}
    for name, function in CASES.items():
        torch.manual_seed(0)
        inputs = torch.randn(4, 2, 6, 8)
        prepared = quantize.prepare_ptq(Between(function).eval(), inputs[:1])
        quantize.calibrate(prepared, [inputs])
        graph = quantize.convert(prepared)
        generic = export(graph, inputs)
        floats, ranges[name] = qdq.split(generic)
        save(floats, folder / f"{name}.onnx")
        made[name] = Case(graph, inputs, generic, folder / f"{name}.tflite")
    with tflite.float_files([folder / f"{name}.onnx" for name in CASES]) as files:
        for item, (name, case) in zip(files, made.items(), strict=True):
            tflite.write(item, folder / f"{name}.onnx", case.path, "int8", ranges[name])
        yield made


@pytest.mark.parametrize("name", CASES)
def test_it_computes_in_int8(cases: dict[str, Case], name: str) -> None:
    operations, _ = tflite_operations.read(tflite_file.read(cases[name].path))
    assert {each.precision for each in operations if each.kind == name} == {"int8"}
    assert find_islands(cases[name].path) == ()


@pytest.mark.parametrize("name", CASES)
def test_it_computes_what_pytorch_computes(cases: dict[str, Case], name: str) -> None:
    case = cases[name]
    parity = verify.verify(case.path, case.graph, case.inputs, "int8", "graph")
    assert parity.passed, parity.reason


@pytest.mark.parametrize("name", CASES)
def test_every_scale_arrives(cases: dict[str, Case], name: str) -> None:
    rows = scales.compare(cases[name].path, cases[name].generic, cases[name].inputs)
    assert rows
    assert [row for row in rows if not row.is_equal] == []
