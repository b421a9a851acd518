"""Every scale and zero point that training learned is in the shipped files, equal as a float32."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from torchshrink.converters import tflite_file
from torchshrink.converters.proof import scales

FILES = ["tflite-int8", "tflite-int8-sparse", "onnx-int8"]
WEIGHTS = 8  # of the U-Net's 7 convolutions and 1 transposed one
INT8 = schema.TensorType.INT8


@pytest.mark.parametrize("name", FILES)
def test_every_row_is_equal(unet: Any, name: str) -> None:
    rows = scales.compare(unet.path(name), unet.generic, unet.inputs)
    assert [row for row in rows if row.source is None] == []
    assert [row for row in rows if not row.is_equal] == []


@pytest.mark.parametrize("name", FILES)
def test_no_weight_is_left_out(unet: Any, name: str) -> None:
    rows = scales.compare(unet.path(name), unet.generic, unet.inputs)
    sources = [row.source for row in rows if row.shipped.axis is not None]
    assert len(set(sources)) == len(sources) == WEIGHTS


@pytest.mark.parametrize("name", FILES)
def test_no_activation_is_left_out(unet: Any, name: str, activations: Callable[..., Any]) -> None:
    rows = scales.compare(unet.path(name), unet.generic, unet.inputs)
    found = [(np.float32(row.shipped.scale[0]), row.shipped.zero_point[0]) for row in rows if row.shipped.axis is None]
    trained = activations(unet.quantized)
    assert set(found) == set(trained)
    assert len(found) >= len(trained)


def test_a_tensor_on_two_grids_is_compared_with_both(onnx_model: Callable[..., Any], tmp_path: Path) -> None:
    """A sigmoid that is quantized on its own grid, then on that of a concatenation; one of the two is wrong."""
    nodes = [helper.make_node("Sigmoid", ["x"], ["sigmoid"])]
    for before, after, number in (("sigmoid", "own", "0"), ("own", "shared", "1"), ("shared", "y", "1")):
        names = [f"scale{number}", f"zero{number}"]
        nodes.append(helper.make_node("QuantizeLinear", [before, *names], [f"{after}_codes"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{after}_codes", *names], [after]))
    constants = {
        "scale0": np.float32(1 / 256),
        "zero0": np.int8(-128),
        "scale1": np.float32(0.05),
        "zero1": np.int8(0),
    }
    shape = (1, 1, 8, 8)
    model = onnx_model(nodes, {"x": shape}, {"y": shape}, constants)
    changed = onnx_model(nodes, {"x": shape}, {"y": shape}, constants | {"scale1": np.float32(0.0501)})
    found = {}
    for name, file in (("same", model), ("changed", changed)):
        onnx.save(file, str(tmp_path / f"{name}.onnx"))
        rows = scales.compare(tmp_path / f"{name}.onnx", model, torch.randn(shape))
        found[name] = {(row.shipped.scale[0], row.is_equal) for row in rows}
    small, large, other = (float(np.float32(value)) for value in (1 / 256, 0.05, 0.0501))
    assert found == {"same": {(small, True), (large, True)}, "changed": {(small, True), (other, False)}}


# --- the same, read without any of our code ---


@pytest.mark.parametrize("name", ["tflite-int8", "tflite-int8-sparse"])
def test_activations_of_the_flatbuffer(unet: Any, name: str, activations: Callable[..., Any]) -> None:
    trained = Counter(activations(unet.quantized))
    found = Counter(_tflite_activations(unet.path(name)))
    assert set(found) == set(trained)
    if unet.source.example_input.ndim == 4:
        assert found == trained
    else:  # a 1-D file has RESHAPE operators, whose tensors repeat their input's scale
        assert found >= trained


def test_weights_of_the_flatbuffer(unet: Any, weights_of: Callable[..., Any]) -> None:
    """Codes, scales and biases, operator by operator; TFLite keeps a weight as [output, ..., input]."""
    model = _tflite(unet.path("tflite-int8"))
    operators = _weighted(model)
    trained = weights_of(unet.quantized)
    assert len(operators) == len(trained) == WEIGHTS
    for (weight, bias, entry), expected in zip(operators, trained, strict=True):
        codes = np.moveaxis(np.moveaxis(expected.codes, expected.axis, 0), 1, -1)
        assert np.array_equal(_data(model, weight, np.int8).ravel(), codes.ravel())
        assert np.array_equal(weight.quantization.scale, expected.scale)
        assert not np.any(weight.quantization.zeroPoint)
        assert weight.quantization.quantizedDimension == 0
        steps = expected.input_scale.astype(np.float64) * expected.scale
        assert np.float32(entry.quantization.scale[0]) == expected.input_scale
        assert np.array_equal(_data(model, bias, np.int32), np.rint(expected.bias / steps))
        assert np.allclose(bias.quantization.scale, steps, rtol=1e-6, atol=0)


def test_activations_of_the_onnx_file(unet: Any, activations: Callable[..., Any]) -> None:
    model = onnx.load(str(unet.path("onnx-int8")))
    arrays = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    found = set()
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            scale, zero_point = (arrays[name] for name in node.input[1:])
            assert zero_point.dtype == np.uint8
            assert scale.shape == zero_point.shape == ()
            found.add((np.float32(scale), int(zero_point) - 128))
    assert found == set(activations(unet.quantized))


def test_weights_of_the_onnx_file(unet: Any, weights_of: Callable[..., Any]) -> None:
    """A transposed convolution became an ordinary one with an output channel per position of its kernel."""
    model = onnx.load(str(unet.path("onnx-int8")))
    arrays = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    for node, expected in zip(convolutions, weights_of(unet.quantized), strict=True):
        codes, scale, zero_point = (arrays[name] for name in producers[node.input[1]].input)
        if expected.axis == 1:
            positions = int(np.prod(expected.codes.shape[2:]))
            assert np.array_equal(scale, np.repeat(expected.scale, positions))
            moved = np.moveaxis(expected.codes, 0, -1).reshape(codes.shape)
        else:
            assert np.array_equal(scale, expected.scale)
            moved = expected.codes
        assert np.array_equal(codes, moved)
        assert codes.dtype == zero_point.dtype == np.int8
        assert not zero_point.any()


# --- the gate can fail ---


@pytest.mark.parametrize("layer", [0, 4, 7])
def test_a_changed_weight_scale_is_seen(unet2d: Any, layer: int, tmp_path: Path) -> None:
    model = tflite_file.read(unet2d.path("tflite-int8"))
    weight, _, _ = _weighted(model)[layer]
    weight.quantization.scale = np.asarray(weight.quantization.scale, np.float32) * np.float32(1.001)
    tflite_file.write(model, tmp_path / "changed.tflite")
    rows = scales.compare(tmp_path / "changed.tflite", unet2d.generic, unet2d.inputs)
    assert [row.tensor for row in rows if not row.is_equal] == [_name(weight)]


@pytest.mark.parametrize("layer", [1, 4, 7])
def test_a_changed_activation_scale_is_seen(unet2d: Any, layer: int, tmp_path: Path) -> None:
    """The next representable float32: what a conversion through float64 or text could make of it."""
    model = tflite_file.read(unet2d.path("tflite-int8"))
    _, _, entry = _weighted(model)[layer]
    scale = np.float32(entry.quantization.scale[0])
    entry.quantization.scale = [np.nextafter(scale, np.float32(1))]
    tflite_file.write(model, tmp_path / "changed.tflite")
    rows = scales.compare(tmp_path / "changed.tflite", unet2d.generic, unet2d.inputs)
    assert [row.tensor for row in rows if not row.is_equal] == [_name(entry)]


def test_a_changed_zero_point_is_seen(unet2d: Any, tmp_path: Path) -> None:
    model = tflite_file.read(unet2d.path("tflite-int8"))
    entry = model.subgraphs[0].tensors[model.subgraphs[0].inputs[0]]
    entry.quantization.zeroPoint = [int(entry.quantization.zeroPoint[0]) + 1]
    tflite_file.write(model, tmp_path / "changed.tflite")
    rows = scales.compare(tmp_path / "changed.tflite", unet2d.generic, unet2d.inputs)
    assert _name(entry) in [row.tensor for row in rows if not row.is_equal]


@pytest.mark.parametrize("kind", ["QuantizeLinear", "DequantizeLinear"])
def test_a_changed_scale_of_the_onnx_file_is_seen(unet2d: Any, kind: str, tmp_path: Path) -> None:
    """The scale of the first weight, or of the input."""
    model = onnx.load(str(unet2d.path("onnx-int8")))
    name = next(node for node in model.graph.node if node.op_type == kind).input[1]
    item = next(item for item in model.graph.initializer if item.name == name)
    values = numpy_helper.to_array(item) * np.float32(1.001)
    item.CopyFrom(numpy_helper.from_array(np.array(values, np.float32), name))
    onnx.save(model, str(tmp_path / "changed.onnx"))
    rows = scales.compare(tmp_path / "changed.onnx", unet2d.generic, unet2d.inputs)
    assert [row for row in rows if not row.is_equal] != []


def _tflite(path: Path) -> Any:
    return schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)


def _name(tensor: Any) -> str:
    return tensor.name.decode()


def _data(model: Any, tensor: Any, dtype: type) -> NDArray[Any]:
    return np.frombuffer(bytes(model.buffers[tensor.buffer].data), dtype)


def _tflite_activations(path: Path) -> list[tuple[np.float32, int]]:
    """Return scale and zero point of the input and of every tensor that an operator computes, DENSIFY's excepted."""
    model = _tflite(path)
    graph = model.subgraphs[0]
    computed = set(graph.inputs)
    for operator in graph.operators:
        if model.operatorCodes[operator.opcodeIndex].builtinCode != schema.BuiltinOperator.DENSIFY:
            computed |= set(operator.outputs)
    tensors = [graph.tensors[index] for index in sorted(computed)]
    assert {tensor.type for tensor in tensors} == {INT8}
    return [(np.float32(t.quantization.scale[0]), int(t.quantization.zeroPoint[0])) for t in tensors]


def _weighted(model: Any) -> list[tuple[Any, Any, Any]]:
    """Return weight, bias and input of every convolution, in the order of the file."""
    graph, found = model.subgraphs[0], []
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        kind = max(code.builtinCode, code.deprecatedBuiltinCode)
        if kind == schema.BuiltinOperator.CONV_2D:
            order = (1, 2, 0)
        elif kind == schema.BuiltinOperator.TRANSPOSE_CONV:
            order = (1, 3, 2)
        else:
            continue
        found.append(tuple(graph.tensors[operator.inputs[position]] for position in order))
    return found
