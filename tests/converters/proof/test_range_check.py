"""Every shipped int8 file holds the scales of the store that was written beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from torchshrink.converters import ranges, tflite_file
from torchshrink.converters.proof import range_check

FILES = ["tflite-int8", "tflite-int8-sparse", "onnx-int8"]


def _store(unet: Any) -> dict[str, ranges.Range]:
    return ranges.load(unet.folder / f"{unet.source.variant}-int8.ranges.json")


@pytest.mark.parametrize("name", FILES)
def test_every_scale_is_that_of_the_store(unet: Any, name: str) -> None:
    known = _store(unet)
    rows = range_check.compare(unet.path(name), known)
    assert len(rows) >= len(known)
    assert [row for row in rows if not row.is_equal] == []


def test_origins(unet2d: Any) -> None:
    """A float model beside the int8 one means that it was calibrated; its last layer is a sigmoid."""
    known = _store(unet2d)
    assert {name: item.origin for name, item in known.items() if item.origin != "calibrated"} == {"output": "fixed"}


@pytest.mark.parametrize("kind", ["weight", "activation"])
def test_a_changed_scale_of_a_tflite_file(unet2d: Any, tmp_path: Path, kind: str) -> None:
    """The next float32."""
    model = tflite_file.read(unet2d.path("tflite-int8"))
    graph = model.subgraphs[0]
    operator = next(each for each in graph.operators if tflite_file.op_name(model, each) == "CONV_2D")
    tensor = graph.tensors[operator.inputs[1 if kind == "weight" else 0]]
    tensor.quantization.scale = np.nextafter(np.asarray(tensor.quantization.scale, np.float32), np.float32(1))
    tflite_file.write(model, tmp_path / "changed.tflite")
    rows = range_check.compare(tmp_path / "changed.tflite", _store(unet2d))
    assert [row.tensor for row in rows if not row.is_equal] == [tflite_file.tensor_name(tensor)]


@pytest.mark.parametrize("kind", ["QuantizeLinear", "DequantizeLinear"])
def test_a_changed_scale_of_an_onnx_file(unet2d: Any, kind: str, tmp_path: Path) -> None:
    """The scale of the first weight, or of the input."""
    model = onnx.load(str(unet2d.path("onnx-int8")))
    name = next(node for node in model.graph.node if node.op_type == kind).input[1]
    item = next(item for item in model.graph.initializer if item.name == name)
    item.CopyFrom(numpy_helper.from_array(np.array(numpy_helper.to_array(item) * np.float32(1.001)), name))
    onnx.save(model, str(tmp_path / "changed.onnx"))
    assert [row for row in range_check.compare(tmp_path / "changed.onnx", _store(unet2d)) if not row.is_equal] != []


def test_the_store_of_another_model(unet2d: Any) -> None:
    known = {name: ranges.Range((1.0,), (0,)) for name in _store(unet2d)}
    rows = range_check.compare(unet2d.path("tflite-int8"), known)
    assert not any(row.is_equal for row in rows)
