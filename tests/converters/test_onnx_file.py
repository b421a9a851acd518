"""What every rewrite of an ONNX graph stands on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from torchshrink.converters import onnx_file
from torchshrink.errors import ModelError


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


def chain() -> onnx.ModelProto:
    nodes = [helper.make_node("Relu", ["x"], ["a"], "first"), helper.make_node("Neg", ["a"], ["y"], "second")]
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 3))] for name in ("x", "y")]
    return helper.make_model(helper.make_graph(nodes, "g", *ends), ir_version=8)


def without(part: str) -> Callable[[onnx.ModelProto], None]:
    return lambda model: model.graph.ClearField(part)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("input"), "it has no input"),
        (without("output"), "it has no output"),
        (without("node"), "it holds no operation"),
        (lambda model: model.graph.node[0].input.__setitem__(0, "y"), "first reads y, which nothing before it makes"),
        (lambda model: model.graph.node[1].input.__setitem__(0, "lost"), "second reads lost, which nothing before it"),
        (
            lambda model: setattr(model.graph.node[0], "op_type", "Teleport"),
            "Teleport of first is no operation of ONNX",
        ),
        (lambda model: setattr(model.graph.output[0], "name", "z"), "nothing makes its output z"),
        (
            lambda model: model.graph.initializer.add(name="c", dims=[3], data_type=1, raw_data=bytes(8)),
            "its constant c cannot be (8 bytes for the shape [3])",
        ),
        (lambda model: model.graph.initializer.add(name="c", dims=[3], data_type=77), "its constant c cannot be"),
        (
            lambda model: model.graph.initializer.add(name="c", dims=[3], data_type=1, float_data=[1.0]),
            "its constant c cannot be",
        ),
        (lambda model: setattr(model.graph.node[0], "domain", "my.own"), "first is of my.own, of which it names no"),
        (lambda model: model.ClearField("opset_import"), "first is of ai.onnx, of which it names no version"),
        (lambda model: setattr(model, "ir_version", 999), "it has IR version 999"),
    ],
)
def test_graphs_that_nothing_can_run(change: Any, words: str, tmp_path: Path) -> None:
    model, path = chain(), tmp_path / "m.onnx"
    onnx.save(model, path)
    assert len(onnx_file.load(path).graph.node) == 2
    change(model)
    onnx.save(model, path)
    with pytest.raises(ModelError) as caught:
        onnx_file.load(path)
    assert str(caught.value).startswith(f"{path} cannot be read as ONNX: {words}")


def test_a_side_of_less_than_nothing_is_free(tmp_path: Path) -> None:
    model = chain()
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    onnx.save(model, tmp_path / "m.onnx")
    sides = onnx_file.load(tmp_path / "m.onnx").graph.input[0].type.tensor_type.shape.dim
    assert [side.dim_value for side in sides] == [0, 3]


def test_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="there is no such file"):
        onnx_file.load(tmp_path / "m.onnx")


def test_operations_of_others(tmp_path: Path) -> None:
    """What ONNX Runtime adds, and what a file defines itself, are known to those."""
    model = chain()
    model.graph.node[0].op_type, model.graph.node[0].domain = "FusedConv", "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, tmp_path / "m.onnx")
    assert onnx_file.load(tmp_path / "m.onnx").graph.node[0].op_type == "FusedConv"


def test_what_fails_on_a_file_that_is_wrong(tmp_path: Path) -> None:
    model, path = chain(), tmp_path / "m.onnx"
    onnx.save(model, path)
    with pytest.raises(IndexError, match="a defect of ours"), onnx_file.blamed(path):
        raise IndexError("a defect of ours")
    model.graph.node[0].op_type = "Conv"  # of which one input is not enough
    onnx.save(model, path)
    with pytest.raises(ModelError, match=r"m\.onnx is no valid ONNX: .*; export it again"), onnx_file.blamed(path):
        raise IndexError("list index out of range")


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
