"""What a file stores, number by number: weights and biases that no result may show to be wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from torch.fx import GraphModule

from torchshrink import quantize
from torchshrink.converters import onnx_file, runtimes, tflite_file
from torchshrink.converters.bridge import Bridge
from torchshrink.converters.export import onnxruntime_int8
from torchshrink.converters.export.to_onnx import export
from torchshrink.converters.proof import scales, stored
from torchshrink.converters.ranges import Range
from torchshrink.errors import ConversionError
from torchshrink.pipeline.artefacts import Artefact, Source

STEP = 0.001
LEARNED = {"first": np.array([0.1, -0.2, 0.3], np.float32), "second": np.array([0.5, 0.5, -0.7], np.float32)}


def wrong(values: list[float]) -> list[tuple[str, int]]:
    bias = stored.Bias("bias", Range((STEP,) * len(values), (0,) * len(values), 0), np.array(values))
    return [(name, count) for _, name, count in stored.wrong_biases(iter([bias]), LEARNED)]


def test_a_bias_is_one_that_was_learned_or_wrong() -> None:
    assert wrong([0.1, -0.2, 0.3]) == []
    assert wrong([0.3, 0.101, -0.2]) == []  # in another order, and rounded otherwise
    assert wrong([0.102, -0.204, 0.306]) == [("first", 3)]  # 2 % more: 2, 4 and 6 steps
    assert wrong([0.1, -0.2, 0.3, 0.1, -0.2, 0.3]) == []  # for every position of a kernel
    assert wrong([1.0, 2.0, 3.0]) == []  # near none: something was folded into it
    assert wrong([1.0, 2.0]) == []


def test_codes_of_a_weight_in_any_order() -> None:
    weight = np.array([[1.0, 2.0], [3.0, -4.0]])
    assert stored.differing(weight.T, weight, 1.0) == 0
    assert stored.differing(np.array([[1.0, 2.0], [3.0, 4.0]]), weight, 1.0) == 4  # each is next to another now


@pytest.fixture(scope="module")
def graph() -> tuple[GraphModule, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1)).eval()
    inputs = torch.randn(4, 3, 8, 8)
    prepared = quantize.prepare_ptq(model, inputs)
    quantize.calibrate(prepared, [inputs])
    return quantize.convert(prepared), inputs


@pytest.fixture(scope="module")
def written(
    graph: tuple[GraphModule, torch.Tensor], tmp_path_factory: pytest.TempPathFactory
) -> tuple[onnx.ModelProto, Path, torch.Tensor]:
    quantized, inputs = graph
    source = export(quantized, inputs[:1])
    path = tmp_path_factory.mktemp("stored") / "right.onnx"
    onnx_file.save(onnxruntime_int8.rewrite(source), path)
    return source, path, inputs


def test_a_right_file_stores_what_was_learned(written: Any) -> None:
    source, path, inputs = written
    assert [row for row in scales.compare(path, source, inputs) if not row.is_equal] == []


@pytest.mark.parametrize(("kind", "factor"), [(np.int32, 1.02), (np.int8, -1)])
def test_one_other_number_is_seen(written: Any, kind: type, factor: float, tmp_path: Path) -> None:
    source, path, inputs = written
    model = onnx.load(str(path))
    items = [item for item in model.graph.initializer if numpy_helper.to_array(item).dtype == kind and item.dims]
    item = max(items, key=lambda each: numpy_helper.to_array(each).size)
    codes = numpy_helper.to_array(item).copy()
    place = np.abs(codes.reshape(-1).astype(int)).argmax()
    codes.reshape(-1)[place] = np.rint(codes.reshape(-1)[place] * factor)
    item.CopyFrom(numpy_helper.from_array(codes, item.name))
    onnx.save(model, str(tmp_path / "wrong.onnx"))
    rows = [row for row in scales.compare(tmp_path / "wrong.onnx", source, inputs) if not row.is_equal]
    assert len(rows) == 1
    assert rows[0].codes > 0


def test_a_pipeline_compares_what_is_stored(written: Any, graph: Any, tmp_path: Path) -> None:
    """Three steps of a bias move no result by as much as rounding does: what is computed would pass."""
    _, path, inputs = written
    quantized, _ = graph
    model = onnx.load(str(path))
    item = next(each for each in model.graph.initializer if numpy_helper.to_array(each).dtype == np.int32)
    codes = numpy_helper.to_array(item).copy()
    codes[0] += 3
    item.CopyFrom(numpy_helper.from_array(codes, item.name))
    onnx.save(model, str(tmp_path / "wrong.onnx"))
    source = Source("thin", quantized, quantized, inputs[:1], {})
    for file in path, tmp_path / "wrong.onnx":
        artefact = Artefact("thin", "onnx", "int8", file)
        expected = Bridge().outputs(artefact, source, inputs)
        parity = Bridge().compare(artefact, source, expected, expected, inputs)
        assert parity["passed"] == (file == path), parity["reason"]
    assert parity["judged_by"] == "stored"
    assert re.fullmatch(r"1 of \d+ tensors do not carry the learned codes, first .+", parity["reason"])


def test_a_file_that_delegates_take_and_kernels_refuse(unet2d: Any, tmp_path: Path) -> None:
    """XNNPACK computes a sigmoid on any grid, LiteRT's own kernel on one only."""
    model = tflite_file.read(unet2d.path("tflite-int8"))
    graph = model.subgraphs[0]
    sigmoid = next(each for each in graph.operators if tflite_file.op_name(model, each) == "LOGISTIC")
    graph.tensors[sigmoid.outputs[0]].quantization.scale = [np.float32(1 / 250)]
    tflite_file.write(model, tmp_path / "wrong.tflite")
    with pytest.raises(ConversionError, match=r"wrong\.tflite does not run in LiteRT without delegates: .*1\. / 256"):
        runtimes.tflite_values(tmp_path / "wrong.tflite", unet2d.inputs[:1].numpy())
