"""What an int8 file still computes in float, on files written by hand; `test_own_models` has real ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx import NodeProto, helper

from torchshrink.converters import tflite_file
from torchshrink.converters.anatomy.inspect import find_islands
from torchshrink.converters.export import onnxruntime_int8
from torchshrink.errors import ShrinkError

FLOAT32, INT8 = schema.TensorType.FLOAT32, schema.TensorType.INT8
Op = schema.BuiltinOperator


def _pair(source: str, target: str) -> list[NodeProto]:
    return [
        helper.make_node("QuantizeLinear", [source, "scale", "zero"], [f"{target}_codes"]),
        helper.make_node("DequantizeLinear", [f"{target}_codes", "scale", "zero"], [target]),
    ]


def _convolution(source: str, target: str) -> list[NodeProto]:
    weight = f"{target}_weight"
    return [
        helper.make_node("DequantizeLinear", ["codes", "w_scale", "w_zero"], [weight], axis=0),
        helper.make_node("Conv", [source, weight], [f"{target}_sum"], kernel_shape=[1, 1]),
        *_pair(f"{target}_sum", target),
    ]


def _save(build: Callable[..., onnx.ModelProto], nodes: list[NodeProto], path: Path) -> Path:
    constants = {
        "scale": np.float32(0.05),
        "zero": np.int8(0),
        "codes": np.full((2, 2, 1, 1), 50, np.int8),
        "w_scale": np.full(2, 0.01, np.float32),
        "w_zero": np.zeros(2, np.int8),
    }
    shape = (1, 2, 4, 4)
    onnx.save(onnxruntime_int8.rewrite(build(nodes, {"x": shape}, {"y": shape}, constants)), str(path))
    return path


def _kinds(path: Path) -> list[str]:
    """Return the operations that are islands; onnxruntime gives their tensors names of its own."""
    return [found.split()[0] for found in find_islands(path)]


def test_a_sine_between_convolutions(onnx_model: Any, tmp_path: Path) -> None:
    nodes = [
        *_pair("x", "a"),
        *_convolution("a", "b"),
        helper.make_node("Sin", ["b"], ["sine"]),
        *_pair("sine", "c"),
        *_convolution("c", "y"),
    ]
    assert _kinds(_save(onnx_model, nodes, tmp_path / "model.onnx")) == ["Sin"]


def test_convolutions_only(onnx_model: Any, tmp_path: Path) -> None:
    nodes = [*_pair("x", "a"), *_convolution("a", "b"), *_convolution("b", "y")]
    assert _kinds(_save(onnx_model, nodes, tmp_path / "model.onnx")) == []


def test_several_islands_in_their_order(onnx_model: Any, tmp_path: Path) -> None:
    nodes = [
        *_pair("x", "a"),
        helper.make_node("Cos", ["a"], ["cosine"]),
        *_pair("cosine", "b"),
        *_convolution("b", "c"),
        helper.make_node("Sin", ["c"], ["sine"]),
        *_pair("sine", "y"),
    ]
    assert _kinds(_save(onnx_model, nodes, tmp_path / "model.onnx")) == ["Cos", "Sin"]


def test_a_file_that_onnxruntime_refuses_is_an_error_of_ours(onnx_model: Any, tmp_path: Path, capfd: Any) -> None:
    """Not a traceback of onnxruntime's, nor its red lines on the terminal."""
    model = onnx_model([helper.make_node("Relu", ["x"], ["y"])], {"x": (1,)}, {"y": (1,)}, {})
    model.graph.node[0].op_type = "NoSuchOperation"
    onnx.save(model, str(tmp_path / "model.onnx"))
    with pytest.raises(ShrinkError, match=r"model\.onnx"):
        find_islands(tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "")


def _tflite(builder: Any, path: Path, is_island: bool) -> Path:
    """INT8 -> RELU -> [DEQUANTIZE -> SIN -> QUANTIZE] -> RELU -> DEQUANTIZE, the last of which is the output."""
    shape = (1, 4)
    names = ["input", "first", "second"]
    entry, first, second = (builder.tensor(name, shape, INT8, scale=0.1) for name in names)
    output = builder.tensor("output", shape, FLOAT32)
    builder.operator(Op.RELU, [entry], [first])
    middle = first
    if is_island:
        real, sine = (builder.tensor(name, shape, FLOAT32) for name in ("real", "sine"))
        middle = builder.tensor("middle", shape, INT8, scale=0.1)
        builder.operator(Op.DEQUANTIZE, [first], [real])
        builder.operator(Op.SIN, [real], [sine])
        builder.operator(Op.QUANTIZE, [sine], [middle])
    builder.operator(Op.RELU, [middle], [second])
    builder.operator(Op.DEQUANTIZE, [second], [output])
    tflite_file.write(builder.finish([entry], [output]), path)
    return path


def test_a_sine_in_a_tflite_file(tflite_builder: Any, tmp_path: Path) -> None:
    found = find_islands(_tflite(tflite_builder, tmp_path / "model.tflite", is_island=True))
    assert found == ("SIN sine",)


def test_a_float_output_is_no_island(tflite_builder: Any, tmp_path: Path) -> None:
    assert find_islands(_tflite(tflite_builder, tmp_path / "model.tflite", is_island=False)) == ()
