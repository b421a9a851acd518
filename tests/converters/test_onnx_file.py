"""What every rewrite of an ONNX graph stands on."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from torchshrink.converters import onnx_file


def test_random_inputs_fit_the_graph(onnx_model: Any) -> None:
    model = onnx_model(
        [helper.make_node("Gather", ["x", "places"], ["y"])], {"x": (4, 3), "places": (1,)}, {"y": (1, 3)}, {}
    )
    model.graph.input[1].CopyFrom(helper.make_tensor_value_info("places", TensorProto.INT64, ["N"]))
    values, places = onnx_file.random_inputs(model)
    assert (values.shape, values.dtype, float(np.ptp(values)) > 0) == ((4, 3), np.float32, True)
    assert (places.tolist(), places.dtype) == ([0], np.int64)
    assert not np.array_equal(onnx_file.random_inputs(model, seed=1)[0], values)


def test_replaced_nodes_and_names(onnx_model: Any) -> None:
    nodes = [helper.make_node("Add", ["x", "one"], ["a"]), helper.make_node("Add", ["x", "two"], ["b"]),
             helper.make_node("Neg", ["a"], ["y"])]  # fmt: skip
    numbers = {"one": np.float32(1), "two": np.float32(2)}
    model = onnx_model(nodes, {"x": (1, 3)}, {"y": (1, 3)}, numbers)
    assert onnx_file.producers(model)["a"].op_type == "Add"
    onnx_file.replace_nodes(model, model.graph.node, {"one": np.float32(3)})
    assert [list(node.output) for node in model.graph.node] == [["a"], ["y"]]
    assert {name: float(value) for name, value in onnx_file.constants(model).items()} == {"one": 3.0}
    onnx_file.rename(model, {"x": "entry", "a": "sum"})
    onnx.checker.check_model(model)
    assert [item.name for item in model.graph.input] == ["entry"]
    assert [list(node.input) for node in model.graph.node] == [["entry", "one"], ["sum"]]


def test_constants_are_stored_as_they_are_read(onnx_model: Any) -> None:
    nodes = [
        helper.make_node("Cast", ["codes"], ["small"], to=TensorProto.INT8),
        helper.make_node("DequantizeLinear", ["small", "scale"], ["numbers"]),
        helper.make_node("Cast", ["x"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["real", "numbers"], ["y"]),
    ]
    constants = {"codes": np.array([-3, 5]), "scale": np.float32(0.5)}
    model = onnx_model(nodes, {"x": (1, 2)}, {"y": (1, 2)}, constants)
    onnx_file.fold_casts(model)
    assert [node.op_type for node in model.graph.node] == ["DequantizeLinear", "Cast", "Mul"]
    stored = onnx_file.constants(model)
    assert stored.keys() == {"small", "scale"}
    assert stored["small"].dtype == np.int8
    assert stored["small"].tolist() == [-3, 5]
