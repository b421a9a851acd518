"""Let an int8 TFLite file take and give float32, for callers that do not want to quantize themselves."""

from __future__ import annotations

import copy
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from torchshrink.converters import tflite_file


def add(model: Any) -> None:
    """Put a QUANTIZE before every int8 input and a DEQUANTIZE after every int8 output, in place.

    The names of inputs and outputs stay with what the caller sees.
    """
    graph = model.subgraphs[0]
    before = [_converted(model, graph, "inputs", index) for index in _int8(graph, graph.inputs)]
    after = [_converted(model, graph, "outputs", index) for index in _int8(graph, graph.outputs)]
    graph.operators = before + graph.operators + after


def _int8(graph: Any, ends: Any) -> list[int]:
    return [int(index) for index in ends if graph.tensors[index].type == schema.TensorType.INT8]


def _converted(model: Any, graph: Any, end: str, codes: int) -> Any:
    """Put a float32 tensor in the place of an end, and return the operator between the two."""
    real = copy.copy(graph.tensors[codes])
    real.type, real.quantization = schema.TensorType.FLOAT32, None
    graph.tensors[codes].name = f"{tflite_file.tensor_name(real)}_codes"
    graph.tensors.append(real)
    added = len(graph.tensors) - 1
    setattr(graph, end, [added if index == codes else int(index) for index in getattr(graph, end)])
    for signature in model.signatureDefs or []:
        for item in getattr(signature, end):
            item.tensorIndex = added if item.tensorIndex == codes else item.tensorIndex
    step = schema.OperatorT()
    builtin = schema.BuiltinOperator
    kind, pair = (builtin.QUANTIZE, (added, codes)) if end == "inputs" else (builtin.DEQUANTIZE, (codes, added))
    step.opcodeIndex = tflite_file.opcode(model, kind, version=2 if kind == builtin.DEQUANTIZE else 1)
    step.inputs, step.outputs = [pair[0]], [pair[1]]
    return step
