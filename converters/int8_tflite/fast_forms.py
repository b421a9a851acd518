"""Write operations whose int8 kernels are slow or inexact as others that compute the same, but for ties.

XNNPACK has no int8 form of a ReLU that stands alone, as after a concatenation, nor of an absolute value: LiteRT's own
kernels take 20 to 70 times as long as in float (`docs/operators.md`). LiteRT's own kernel for linear resizing, where
XNNPACK is switched off, adds up a step that it has rounded to 1/1024 of a pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from torchshrink.converters import tflite_file
from torchshrink.converters.ranges import Range
from torchshrink.converters.targets import Target
from torchshrink.converters.tflite_file import Graph, graphs
from torchshrink.converters.tflite_ops import CLAMPS

_DRIFT = 1 / 128  # pixels, between neighbours of which there are seldom more than 100 steps


def rewrite(model: Any, target: Target = "litert") -> int:
    """Rewrite clamps that stand alone, absolute values, hard-swish and some resizing, in place; return how many.

    Args:
        model: The quantized file.
        target: What runs it. What is faster or exact in float stays int8 where there are no floats; the Edge TPU has
            neither floats nor hard-swish, and gets its factors.
    """
    forms: dict[str, Callable[[Graph, Any], None]] = dict.fromkeys(CLAMPS, _as_sum) | {"ABS": _as_leaky_relu}
    if target == "litert":
        forms |= {"HARD_SWISH": _in_float, "RESIZE_BILINEAR": _in_float}
    elif target != "integer-only":
        forms["HARD_SWISH"] = _as_factors
    count = 0
    for graph in graphs(model):
        for operator in list(graph.operators):
            form = forms.get(graph.kind(operator))
            if form is not None and graph.is_int8(operator.inputs[0]) and not _is_exact(graph, operator):
                form(graph, operator)
                count += 1
    return count


def _is_exact(graph: Graph, operator: Any) -> bool:
    """Return whether a kernel that counts in 1/1024 of a pixel resizes nearly to the last row and column.

    Source: LiteRT, kernels/internal/reference/resize_bilinear.h, "ResizeBilinearInteger".
    """
    if graph.kind(operator) != "RESIZE_BILINEAR":
        return False
    ends = int(operator.builtinOptions.alignCorners)
    before, after = (np.array(graph.tensors[each[0]].shape[1:3]) for each in (operator.inputs, operator.outputs))
    steps = 1024 * (before - ends) / np.maximum(after - ends, 1)
    return bool((np.abs(np.floor(steps + 0.5) - steps) * (after - 1) <= 1024 * _DRIFT).all())


def _as_sum(graph: Graph, operator: Any) -> None:
    """Add zero, with the clamp that a sum computes along."""
    entry = int(operator.inputs[0])
    grid = graph.grid(entry)
    assert grid is not None  # `consistency.check` refuses int8 tensors without
    zero = graph.add_copy(entry, f"{graph.name(operator.outputs[0])}_zero")
    code = np.array(grid.zero_point, np.int8)
    graph.tensors[zero].shape, graph.tensors[zero].shapeSignature = [1], None
    graph.tensors[zero].buffer = tflite_file.add_buffer(graph.model, code.tobytes())
    options = schema.AddOptionsT()
    options.fusedActivationFunction = getattr(schema.ActivationFunctionType, graph.kind(operator))
    operator.inputs = [entry, zero]
    operator.opcodeIndex = tflite_file.opcode(graph.model, schema.BuiltinOperator.ADD, 2)
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.AddOptions, options


def _as_leaky_relu(graph: Graph, operator: Any) -> None:
    """Turn what is below zero over: its slope is -1."""
    options = schema.LeakyReluOptionsT()
    options.alpha = -1.0
    operator.opcodeIndex = tflite_file.opcode(graph.model, schema.BuiltinOperator.LEAKY_RELU, 2)
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.LeakyReluOptions, options


def _in_float(graph: Graph, operator: Any) -> None:
    """Compute it in float, between the two conversions, which XNNPACK takes over."""
    entry, result = int(operator.inputs[0]), int(operator.outputs[0])
    ends = [graph.add_copy(index, f"{graph.name(index)}_{graph.name(result)}_float") for index in (entry, result)]
    for index in ends:
        graph.tensors[index].type, graph.tensors[index].quantization = schema.TensorType.FLOAT32, None
    operator.inputs, operator.outputs = [ends[0], *operator.inputs[1:]], ends[1:]
    place = graph.operators.index(operator)
    graph.operators[place : place + 1] = [
        graph.step("DEQUANTIZE", entry, ends[0]),
        operator,
        graph.step("QUANTIZE", ends[1], result),
    ]


def _as_factors(graph: Graph, operator: Any) -> None:
    """Write ``x * (relu6(x + 3) / 6)``."""
    entry, result = int(operator.inputs[0]), int(operator.outputs[0])
    clipped, share = (graph.add_copy(entry, f"{graph.name(result)}_{name}") for name in ("clipped", "share"))
    graph.make_int8(clipped, Range((6 / 255,), (-128,)))
    graph.make_int8(share, Range((1 / 255,), (-128,)))
    place = graph.operators.index(operator)
    graph.operators[place : place + 1] = [
        _pair(graph, "Add", entry, _constant(graph, entry, 3), clipped, schema.ActivationFunctionType.RELU6),
        _pair(graph, "Mul", clipped, _constant(graph, entry, 1 / 6), share),
        _pair(graph, "Mul", entry, share, result),
    ]


def _pair(
    graph: Graph, kind: str, left: int, right: int, result: int, clamp: int = schema.ActivationFunctionType.NONE
) -> Any:
    """Return an operator of two tensors."""
    made = graph.step(kind.upper(), left, result)
    made.inputs = [left, right]
    made.builtinOptionsType = getattr(schema.BuiltinOptions, f"{kind}Options")
    made.builtinOptions = getattr(schema, f"{kind}OptionsT")()
    made.builtinOptions.fusedActivationFunction = clamp
    return made


def _constant(graph: Graph, like: int, value: float) -> int:
    """Add a tensor of one int8 code, the largest."""
    index = graph.add_copy(like, f"{graph.name(like)}_{value:.3g}")
    graph.make_int8(index, Range((value / 127,), (0,)))
    graph.tensors[index].shape, graph.tensors[index].shapeSignature = [1], None
    graph.tensors[index].buffer = tflite_file.add_buffer(graph.model, np.array(127, np.int8).tobytes())
    return index
