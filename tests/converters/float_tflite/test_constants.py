"""Constants go around TensorFlow: out of the ONNX file before it, back into the TFLite file after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper

from torchshrink.converters import tflite_file
from torchshrink.converters.float_tflite.constants import put_back, take_out
from torchshrink.errors import ConversionError

FLOAT32 = schema.TensorType.FLOAT32
NUMBER = np.arange(3, dtype=np.float32).reshape(1, 3, 1, 1)


@pytest.fixture
def with_default(onnx_model: Callable[..., onnx.ModelProto], tmp_path: Path) -> Path:
    """``x * number + bias``, where ``number`` is an input with a default and ``bias`` a constant."""
    nodes = [helper.make_node("Mul", ["x", "number"], ["m"]), helper.make_node("Add", ["m", "bias"], ["y"])]
    shape = (1, 3, 2, 4)
    model = onnx_model(nodes, {"x": shape}, {"y": shape}, {"number": NUMBER, "bias": np.float32(1)})
    model.graph.input.append(helper.make_tensor_value_info("number", TensorProto.FLOAT, NUMBER.shape))
    onnx.save(model, str(tmp_path / "model.onnx"))
    return tmp_path / "model.onnx"


def test_taken_out(with_default: Path) -> None:
    (value,) = take_out(with_default)
    assert np.array_equal(value, NUMBER)
    graph = onnx.load(str(with_default)).graph
    assert [item.name for item in graph.input] == ["operand0", "x"]
    assert list(graph.node[0].input) == ["x", "operand0"]
    assert [item.name for item in graph.initializer] == ["bias"]


def test_a_file_without_defaults_stays_as_it_is(unet2d: Any, tmp_path: Path) -> None:
    content = unet2d.path("onnx-fp32").read_bytes()
    (tmp_path / "model.onnx").write_bytes(content)
    assert take_out(tmp_path / "model.onnx") == []
    assert (tmp_path / "model.onnx").read_bytes() == content


def _converted(builder: Any, path: Path, name: str = "operand0", shape: tuple[int, ...] = (1, 1, 1, 3)) -> Path:
    """What TensorFlow makes of it: channels last, and inputs in an order of its own."""
    number = builder.tensor(f"serving_default_{name}:0", shape, FLOAT32)
    entry, output = (builder.tensor(each, (1, 2, 4, 3), FLOAT32) for each in ("input", "output"))
    builder.operator(schema.BuiltinOperator.MUL, [entry, number], [output], schema.MulOptionsT())
    model = builder.finish([number, entry], [output])
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.inputs, signature.outputs = "serving_default", [], []
    for key, index in ((name, number), ("x", entry)):
        item = schema.TensorMapT()
        item.name, item.tensorIndex = key, index
        signature.inputs.append(item)
    model.signatureDefs = [signature]
    tflite_file.write(model, path)
    return path


def test_put_back(tflite_builder: Any, tmp_path: Path, interpreter: Callable[[Path], Any]) -> None:
    path = _converted(tflite_builder, tmp_path / "model.tflite")
    put_back(path, [NUMBER])
    opened = interpreter(path)
    (detail,) = opened.get_input_details()
    opened.set_tensor(detail["index"], np.ones((1, 2, 4, 3), np.float32))
    opened.invoke()
    found = opened.get_tensor(opened.get_output_details()[0]["index"])
    assert np.array_equal(found, np.broadcast_to(np.arange(3), (1, 2, 4, 3)))
    assert list(opened.get_signature_list()["serving_default"]["inputs"]) == ["x"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"name": "other"}, "lost the constant operand0"), ({"shape": (1, 1, 3, 1)}, r"of shape \[1, 1, 1, 3\]")],
    ids=["lost", "another shape"],
)
def test_what_cannot_be_put_back_is_an_error(
    tflite_builder: Any, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    path = _converted(tflite_builder, tmp_path / "model.tflite", **settings)
    with pytest.raises(ConversionError, match=message):
        put_back(path, [NUMBER])
