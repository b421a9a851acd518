"""Inputs of a file of which one has a range; `test_tflite_int8` has outputs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from torchshrink.converters import tflite_file
from torchshrink.converters.int8_tflite import ends
from torchshrink.converters.ranges import Range

FLOAT32, INT8 = schema.TensorType.FLOAT32, schema.TensorType.INT8
Op = schema.BuiltinOperator
GRID = Range((0.5,), (0,))


def _model(builder: Any, is_read_in_float: bool) -> Any:
    """``a`` -> QUANTIZE -> RELU -> DEQUANTIZE -> SIN, and perhaps ``a`` -> COS; beside it ``b`` -> COS."""
    a, b, real, sine, cosine, other = (
        builder.tensor(name, (4,), FLOAT32) for name in ("a", "b", "real", "sine", "cosine", "other")
    )
    codes, relu = (builder.tensor(name, (4,), INT8, scale=0.5) for name in ("codes", "relu"))
    builder.operator(Op.QUANTIZE, [a], [codes])
    builder.operator(Op.RELU, [codes], [relu])
    builder.operator(Op.DEQUANTIZE, [relu], [real])
    builder.operator(Op.SIN, [real], [sine])
    builder.operator(Op.COS, [b], [cosine])
    if is_read_in_float:
        builder.operator(Op.COS, [a], [other])
    return builder.finish([a, b], [sine, cosine, *([other] if is_read_in_float else [])])


def test_an_input_with_a_range_is_int8(tflite_builder: Any, tmp_path: Path, interpreter: Callable[[Path], Any]) -> None:
    model = _model(tflite_builder, is_read_in_float=True)
    ends.quantize(model, {"a": GRID})
    kinds = [tflite_file.op_name(model, each) for each in model.subgraphs[0].operators]
    assert kinds == ["DEQUANTIZE", "RELU", "DEQUANTIZE", "SIN", "COS", "COS"]
    tflite_file.write(model, tmp_path / "model.tflite")
    opened = interpreter(tmp_path / "model.tflite")
    first, second = opened.get_input_details()
    assert [item["dtype"] for item in (first, second)] == [np.int8, np.float32]
    opened.set_tensor(first["index"], np.array([-4, 0, 1, 2], np.int8))
    opened.set_tensor(second["index"], np.zeros(4, np.float32))
    opened.invoke()
    found = [opened.get_tensor(item["index"]) for item in opened.get_output_details()]
    assert np.allclose(found, [np.sin([0, 0, 0.5, 1]), np.ones(4), np.cos([-2, 0, 0.5, 1])], atol=1e-6)


def test_nothing_is_dequantized_for_no_one(tflite_builder: Any) -> None:
    model = _model(tflite_builder, is_read_in_float=False)
    ends.quantize(model, {"a": GRID})
    assert tflite_file.op_name(model, model.subgraphs[0].operators[0]) == "RELU"


def test_the_guard_leaves_no_trace(tflite_builder: Any) -> None:
    """Where the last operator reads an output, one that computes nothing stands behind it for a while."""
    entry, middle, last = (tflite_builder.tensor(name, (4,), FLOAT32) for name in ("entry", "middle", "last"))
    tflite_builder.operator(Op.SIN, [entry], [middle])
    tflite_builder.operator(Op.COS, [middle], [last])
    model = tflite_builder.finish([entry], [middle, last])
    ends.guard(model)
    assert len(model.subgraphs[0].operators) == 3
    late = tflite_builder.tensor("late", (4,), FLOAT32)  # as a quantizer appends them
    model.subgraphs[0].operators[1].outputs = [late]
    model.subgraphs[0].outputs = [middle, late]
    ends.unguard(model)
    graph = model.subgraphs[0]
    assert [tflite_file.op_name(model, each) for each in graph.operators] == ["SIN", "COS"]
    assert [tflite_file.tensor_name(graph.tensors[index]) for index in graph.outputs] == ["middle", "late"]
    assert len(graph.tensors) == 4


def test_no_guard_where_none_is_needed(tflite_builder: Any) -> None:
    entry, last = (tflite_builder.tensor(name, (4,), FLOAT32) for name in ("entry", "last"))
    tflite_builder.operator(Op.SIN, [entry], [last])
    model = tflite_builder.finish([entry], [last])
    ends.guard(model)
    assert len(model.subgraphs[0].operators) == 1
