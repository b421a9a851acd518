"""One model per operation: int8 in the TFLite file and in ONNX Runtime, with the trained scales, equal to PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F

from torchshrink import quantize
from torchshrink.converters import qdq, tflite, tflite_file
from torchshrink.converters.anatomy.inspect import find_islands
from torchshrink.converters.export.to_onnx import export, to_onnx
from torchshrink.converters.onnx_file import save
from torchshrink.converters.proof import scales, verify


class Between(nn.Module):
    """A convolution, a function, and where the function's rounding does not matter much, a convolution again."""

    def __init__(self, function: Callable[[Tensor], Tensor], channels: int | None = 4) -> None:
        super().__init__()
        self.first, self.function = nn.Conv2d(2, 4, 3, padding=1), function
        self.last = nn.Identity() if channels is None else nn.Conv2d(channels, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


@dataclass(frozen=True)
class Operation:
    """A function, the TFLite operators that it becomes, and what ONNX Runtime computes of it in float.

    ``channels`` is None where integer kernels round a mean that lies between two codes to the other side: they may
    differ by one step, which a convolution would multiply.
    """

    function: Callable[[Tensor], Tensor]
    tflite: tuple[str, ...]
    onnx_islands: tuple[str, ...] = ()
    channels: int | None = 4


OPERATIONS = {
    "leaky relu": Operation(lambda x: F.leaky_relu(x, 0.1), ("LEAKY_RELU",)),
    "prelu": Operation(nn.PReLU(), ("LEAKY_RELU",)),
    "hard-swish": Operation(F.hardswish, ("DEQUANTIZE", "HARD_SWISH", "QUANTIZE"), ("HardSigmoid", "Mul")),
    "silu": Operation(F.silu, ("LOGISTIC", "MUL")),
    "gelu": Operation(F.gelu, ("GELU",), ("Div", "Erf", "Add", "Mul", "Mul")),
    "hard-tanh": Operation(F.hardtanh, ()),
    "clamp to [0, 6]": Operation(lambda x: x.clamp(0, 6), ()),
    "minus a number": Operation(lambda x: x - 2, ("ADD",)),
    "a number minus": Operation(lambda x: 2 - x, ("MUL", "ADD")),
    "by a number": Operation(lambda x: x / 3, ("MUL",)),
    "negative": Operation(lambda x: -x, ("MUL",)),
    "difference": Operation(lambda x: x - torch.sigmoid(x), ("LOGISTIC", "SUB"), ("Sub",)),
    "sum with alpha": Operation(lambda x: torch.add(x, torch.sigmoid(x), alpha=2), ("LOGISTIC", "MUL", "ADD")),
    "gate of channels": Operation(lambda x: x * torch.sigmoid(x.mean((2, 3), True)), ("MEAN", "LOGISTIC", "MUL")),
    "padding": Operation(lambda x: F.pad(x, (0, 1, 2, 1)), ("PAD",)),
    "reflection": Operation(lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"), ("MIRROR_PAD",)),
    "mean": Operation(lambda x: x.mean((2, 3))[:, :, None, None], ("MEAN",)),
    "average pool": Operation(lambda x: F.avg_pool2d(x, 2), ("AVERAGE_POOL_2D",), channels=None),
    "average over padding": Operation(lambda x: F.avg_pool2d(x, 3, 2, 1), ("PAD", "AVERAGE_POOL_2D"), channels=None),
    "adaptive average": Operation(lambda x: F.adaptive_avg_pool2d(x, 4), ("AVERAGE_POOL_2D",), channels=None),
    "adaptive maximum": Operation(lambda x: F.adaptive_max_pool2d(x, 2), ("MAX_POOL_2D",)),
    "bilinear": Operation(
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), ("RESIZE_BILINEAR",), ("Resize", "Max"), None
    ),
    "parts": Operation(
        lambda x: torch.cat(x.split([1, 3], 1)[::-1], 1), ("STRIDED_SLICE", "STRIDED_SLICE", "CONCATENATION")
    ),
    "unshuffle": Operation(lambda x: F.pixel_unshuffle(x, 2), ("RESHAPE", "TRANSPOSE", "RESHAPE"), channels=16),
}


@dataclass(frozen=True)
class Converted:
    operation: Operation
    graph: GraphModule
    inputs: Tensor
    generic: onnx.ModelProto
    tflite: Path
    onnx: Path


# One of each way to be computed: in itself, written in other operations, with numbers of its own, with two inputs.
OFTEN = ("prelu", "hard-swish", "by a number", "gate of channels", "average over padding", "unshuffle")


@pytest.fixture(scope="module")
def all_converted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Converted]]:
    """Quantize the models that are asked for and convert all of them in one start of TensorFlow."""
    calls = [getattr(item, "callspec", None) for item in request.session.items]
    asked = {call.params.get("converted") for call in calls if call is not None}
    folder = tmp_path_factory.mktemp("operations")
    torch.manual_seed(0)
    inputs = torch.randn(16, 2, 8, 12)
    prepared: dict[str, Any] = {}
    for index, (name, operation) in enumerate(OPERATIONS.items()):
        if name not in asked:
            continue
        module = quantize.prepare_ptq(Between(operation.function, operation.channels).eval(), inputs)
        quantize.calibrate(module, [inputs])
        graph = quantize.convert(module)
        generic = export(graph, inputs)
        floats, ranges = qdq.split(generic)
        save(floats, folder / f"{index}.onnx")
        path = to_onnx(graph, inputs, folder / f"{index}-int8.onnx", "int8")
        prepared[name] = (folder / f"{index}.onnx", ranges, (operation, graph, inputs, generic), path)
    with tflite.float_files([parts[0] for parts in prepared.values()]) as files:
        found = {}
        for (name, (floats, ranges, parts, path)), item in zip(prepared.items(), files, strict=True):
            target = floats.with_suffix(".tflite")
            tflite.write(item, floats, target, "int8", ranges)
            found[name] = Converted(*parts, target, path)
        yield found


@pytest.fixture(
    params=[pytest.param(each, marks=() if each in OFTEN else pytest.mark.exhaustive) for each in OPERATIONS]
)
def converted(request: pytest.FixtureRequest, all_converted: dict[str, Converted]) -> Converted:
    return all_converted[request.param]


def test_tflite_computes_it_in_int8(converted: Converted) -> None:
    model = tflite_file.read(converted.tflite)
    kinds = [tflite_file.op_name(model, operator) for operator in model.subgraphs[0].operators]
    last = [] if converted.operation.channels is None else ["CONV_2D"]
    assert kinds == ["CONV_2D", *converted.operation.tflite, *last]
    floats = [item.split()[0] for item in find_islands(converted.tflite)]
    assert floats == [kind for kind in converted.operation.tflite if kind == "HARD_SWISH"]  # faster so


def test_tflite_agrees_with_pytorch(converted: Converted) -> None:
    parity = verify.verify(converted.tflite, converted.graph, converted.inputs, "int8", "graph")
    assert parity.passed, parity.reason


def test_tflite_has_the_trained_scales(converted: Converted) -> None:
    rows = scales.compare(converted.tflite, converted.generic, converted.inputs)
    assert len(rows) >= 3
    assert [row for row in rows if not row.is_equal] == []


def test_onnxruntime_computes_it_in_int8(converted: Converted) -> None:
    found = [item.split()[0] for item in find_islands(converted.onnx)]
    assert sorted(found) == sorted(converted.operation.onnx_islands)


def test_onnxruntime_agrees_with_pytorch(converted: Converted) -> None:
    parity = verify.verify(converted.onnx, converted.graph, converted.inputs, "int8", "graph")
    assert parity.passed, parity.reason


def test_onnxruntime_has_the_trained_scales(converted: Converted) -> None:
    rows = scales.compare(converted.onnx, converted.generic, converted.inputs)
    assert len(rows) >= 3
    assert [row for row in rows if not row.is_equal] == []
