"""Write operations whose int8 kernels are slow as ones that XNNPACK takes over; both compute the same, but for ties.

XNNPACK has no int8 form of a ReLU that stands alone, as after a concatenation: LiteRT's own kernel takes more than 20
times as long as in float (`docs/operators.md`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from torchshrink.converters import tflite_file
from torchshrink.converters.tflite_file import Graph, graphs

_Clamp = schema.ActivationFunctionType
_CLAMPS = {"RELU": _Clamp.RELU, "RELU6": _Clamp.RELU6, "RELU_N1_TO_1": _Clamp.RELU_N1_TO_1}


def rewrite(model: Any) -> int:
    """Rewrite clamps of int8 tensors that stand alone, in place, and return how many."""
    count = 0
    for graph in graphs(model):
        for operator in graph.operators:
            kind = graph.kind(operator)
            if kind in _CLAMPS and graph.is_int8(operator.inputs[0]):
                _as_sum(graph, operator, _CLAMPS[kind])
                count += 1
    return count


def _as_sum(graph: Graph, operator: Any, clamp: int) -> None:
    """Add zero, with the clamp that a sum computes along."""
    entry = int(operator.inputs[0])
    grid = graph.grid(entry)
    assert grid is not None  # `consistency.check` refuses int8 tensors without
    zero = graph.add_copy(entry, f"{graph.name(operator.outputs[0])}_zero")
    code = np.array(grid.zero_point, np.int8)
    graph.tensors[zero].shape, graph.tensors[zero].shapeSignature = [1], None
    graph.tensors[zero].buffer = tflite_file.add_buffer(graph.model, code.tobytes())
    options = schema.AddOptionsT()
    options.fusedActivationFunction = clamp
    operator.inputs = [entry, zero]
    operator.opcodeIndex = tflite_file.opcode(graph.model, schema.BuiltinOperator.ADD, 2)
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.AddOptions, options
