"""Float16 weights: half the bytes, and outputs that hardly move."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from torch import nn

from torchshrink.converters import contents, half, tflite_file, to_onnx
from torchshrink.errors import ModelError


def test_half_the_bytes(tmp_path: Path) -> None:
    model = nn.Conv2d(64, 128, 3)
    full = to_onnx(model, torch.zeros(1, 64, 8, 8), tmp_path / "full.onnx").stat().st_size
    small = to_onnx(model, torch.zeros(1, 64, 8, 8), tmp_path / "half.onnx", "fp16").stat().st_size
    assert small / full == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("name", ["onnx-fp16", "tflite-fp16"])
def test_weights_of_the_files(unet: Any, name: str) -> None:
    """Nearly all values are float16, and each is the float32 file's, rounded."""
    stored, full = (
        contents.read_weights(unet.path(name)),
        contents.read_weights(unet.path(name.replace("fp16", "fp32"))),
    )
    rounded = [array for array in stored if array.dtype == np.float16]
    assert sum(array.size for array in rounded) >= 0.98 * sum(array.size for array in stored)
    expected = Counter(array.astype(np.float16).tobytes() for array in full)
    assert Counter(array.astype(np.float16).tobytes() for array in stored) == expected


@pytest.mark.parametrize("name", ["onnx-fp16", "tflite-fp16"])
def test_outputs_move_by_less_than_a_hundredth_of_the_range(unet: Any, name: str) -> None:
    expected = unet.expected(name)
    assert np.abs(unet.outputs(name) - expected).max() <= 1e-2 * np.ptp(expected)


def test_onnx_computes_in_float32(unet: Any) -> None:
    graph = onnx.load(str(unet.path("onnx-fp16"))).graph
    assert {item.type.tensor_type.elem_type for item in (*graph.input, *graph.output)} == {TensorProto.FLOAT}
    stored = {item.name for item in graph.initializer if item.data_type == TensorProto.FLOAT16}
    readers = [node for node in graph.node if stored & set(node.input)]
    assert {node.op_type for node in readers} == {"Cast"}
    assert len(readers) == len(stored)


def test_tflite_computes_in_float32(unet: Any, interpreter: Callable[[Path], Any]) -> None:
    opened = interpreter(unet.path("tflite-fp16"))
    assert opened.get_input_details()[0]["dtype"] is np.float32
    assert opened.get_output_details()[0]["dtype"] is np.float32
    model = tflite_file.read(unet.path("tflite-fp16"))
    graph = model.subgraphs[0]
    stored = {index for index, tensor in enumerate(graph.tensors) if tflite_file.dtype(tensor) is np.float16}
    readers = [op for op in graph.operators if stored & set(op.inputs)]
    assert {tflite_file.op_name(model, op) for op in readers} == {"DEQUANTIZE"}


def test_the_float32_form_is_gone_from_the_tflite_file(unet: Any) -> None:
    """A buffer that nothing uses would make the file larger than the one it came from."""
    sizes = {name: unet.path(name).stat().st_size for name in ("tflite-fp32", "tflite-fp16")}
    values = sum(array.size for array in contents.read_weights(unet.path("tflite-fp32")))
    assert sizes["tflite-fp32"] - sizes["tflite-fp16"] >= 1.5 * values - 4000  # 2 bytes each, less the new operators


def test_the_smallest_tensors_keep_their_digits() -> None:
    """1.2 % of 1000 values is 12: the tensors of 5 and of 7 stay, the one of 8 does not fit any more."""
    arrays = {name: np.full(size, 0.1, np.float32) for name, size in (("a", 980), ("b", 7), ("c", 8), ("d", 5))}
    found = half.rounded(arrays)
    assert set(found) == {"a", "c"}
    assert {array.dtype for array in found.values()} == {np.dtype(np.float16)}


def test_nothing_to_round() -> None:
    assert half.rounded({}) == {}


@pytest.mark.parametrize("value", [65520.0, -1e6, float("inf")])
def test_a_weight_beyond_float16_is_refused(tmp_path: Path, value: float) -> None:
    model = nn.Conv2d(8, 8, 3)
    model.weight.data[3, 4, 0, 0] = value
    with pytest.raises(ModelError, match=r"weight .*weight holds values beyond 65504.*, the largest float16"):
        to_onnx(model, torch.zeros(1, 8, 8, 8), tmp_path / "model.onnx", "fp16")
    assert list(tmp_path.iterdir()) == []


def test_a_weight_beyond_float16_is_refused_by_tflite(unet2d: Any, tmp_path: Path) -> None:
    model = tflite_file.read(unet2d.path("tflite-fp32"))
    largest = max(model.subgraphs[0].tensors, key=lambda tensor: _size(model, tensor))
    values = np.array(tflite_file.constant(model, largest))
    values.flat[0] = 1e5
    model.buffers[largest.buffer].data = np.frombuffer(values.tobytes(), np.uint8)
    tflite_file.write(model, tmp_path / "large.tflite")
    with pytest.raises(ModelError, match=r"holds values beyond 65504"):
        half.round_tflite(tmp_path / "large.tflite", tmp_path / "half.tflite")
    assert not (tmp_path / "half.tflite").exists()


def test_the_largest_float16_is_kept(tmp_path: Path) -> None:
    model = nn.Conv2d(8, 8, 3)
    model.weight.data[3, 4, 0, 0] = 65504.0
    path = to_onnx(model, torch.zeros(1, 8, 8, 8), tmp_path / "model.onnx", "fp16")
    arrays: list[NDArray[Any]] = [numpy_helper.to_array(item) for item in onnx.load(str(path)).graph.initializer]
    assert max(float(array.max()) for array in arrays) == 65504


def _size(model: Any, tensor: Any) -> int:
    values = tflite_file.constant(model, tensor)
    return 0 if values is None or values.dtype != np.float32 else values.size
