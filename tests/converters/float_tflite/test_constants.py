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
from torchshrink.converters.float_tflite.constants import Constants
from torchshrink.errors import ConversionError

FLOAT32 = schema.TensorType.FLOAT32
NUMBER = np.arange(3, dtype=np.float32).reshape(1, 3, 1, 1)


@pytest.fixture
def with_default(onnx_model: Callable[..., onnx.ModelProto]) -> onnx.ModelProto:
    """``x * number + bias``, where ``number`` is an input with a default and ``bias`` a constant."""
    nodes = [helper.make_node("Mul", ["x", "number"], ["m"]), helper.make_node("Add", ["m", "bias"], ["y"])]
    shape = (1, 3, 2, 4)
    model = onnx_model(nodes, {"x": shape}, {"y": shape}, {"number": NUMBER, "bias": np.float32(1)})
    model.graph.input.append(helper.make_tensor_value_info("number", TensorProto.FLOAT, NUMBER.shape))
    return model


def test_taken_out(with_default: onnx.ModelProto) -> None:
    graph = Constants().before(with_default).graph
    assert [item.name for item in graph.input] == ["operand0", "x"]
    assert list(graph.node[0].input) == ["x", "operand0"]
    assert [item.name for item in graph.initializer] == ["bias"]


def test_a_graph_without_defaults_stays_as_it_is(with_default: onnx.ModelProto) -> None:
    with_default.graph.input.pop()
    before = with_default.SerializeToString()
    assert Constants().before(with_default).SerializeToString() == before


def _converted(builder: Any, name: str = "operand0", shape: tuple[int, ...] = (1, 1, 1, 3)) -> Any:
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
    return model


def test_put_back(
    tflite_builder: Any, with_default: onnx.ModelProto, tmp_path: Path, interpreter: Callable[[Path], Any]
) -> None:
    model, constants = _converted(tflite_builder), Constants()
    constants.before(with_default)
    constants.after(model)
    tflite_file.write(model, tmp_path / "model.tflite")
    opened = interpreter(tmp_path / "model.tflite")
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
    tflite_builder: Any, with_default: onnx.ModelProto, settings: dict[str, Any], message: str
) -> None:
    model, constants = _converted(tflite_builder, **settings), Constants()
    constants.before(with_default)
    with pytest.raises(ConversionError, match=message):
        constants.after(model)


def test_a_constant_with_equal_sides_stays_one(onnx_model: Any) -> None:
    """Its layout is known to onnx2tf by its values only, and no weight can be multiplied by it."""
    nodes = [helper.make_node("Add", ["x", "places"], ["y"])]
    places = np.arange(9, dtype=np.float32).reshape(1, 3, 3)
    model = onnx_model(nodes, {"x": (1, 3, 3), "places": (1, 3, 3)}, {"y": (1, 3, 3)}, {"places": places})
    changed = Constants().before(model)
    assert [item.name for item in changed.graph.input] == ["x"]
    assert [item.name for item in changed.graph.initializer] == ["places"]
