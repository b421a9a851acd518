"""Check that a quantized TFLite file is one that the int8 kernels compute as it says.

A kernel trusts its file: it reads a float as four codes, adds a bias on whatever grid it has, and gives out a result on
another grid than the file names, all without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from torchshrink.converters import qdq
from torchshrink.converters.ranges import Range
from torchshrink.converters.tflite_file import Graph
from torchshrink.converters.tflite_ops import row
from torchshrink.errors import ConversionError

_CONVERSIONS = {"QUANTIZE", "DEQUANTIZE"}
# A bias's scale is the product of two float32; a weight is a code times one.
_ROUNDING = 1e-5


def check(quantized: Any, floats: Any, name: str) -> None:
    """Compare every operator of a quantized file with what its kernel demands, and its weights with the float ones.

    Args:
        quantized: The quantized model.
        floats: The float model that it was made from; tensors keep their names.
        name: What errors call the file.

    Raises:
        ConversionError: When the file would compute something else.
    """
    graph, original = Graph(quantized), Graph(floats)
    places = {original.name(index): index for index in range(len(original.tensors))}
    for operator in graph.operators:
        kind = graph.kind(operator)
        reason = "" if kind in _CONVERSIONS else _wrong_ends(graph, operator)
        if not reason and row(kind).weight is not None:
            reason = _wrong_weight(graph, operator, original, places)
        if reason:
            where = graph.name(operator.outputs[0])
            raise ConversionError(f"{name} would not compute what its source computes: {kind} {where!r} has {reason}")


def _wrong_ends(graph: Graph, operator: Any) -> str:
    """Say what is wrong with the tensors that an operator reads and computes; nothing when all is well."""
    inputs = [index for index in operator.inputs if index >= 0]
    ends = [*inputs, *operator.outputs]
    if any(map(graph.is_float, ends)) and any(map(graph.is_int8, ends)):
        return "int8 and float tensors"
    if any(graph.is_int8(index) and graph.grid(index) is None for index in ends):
        return "an int8 tensor without a scale"
    source = next((graph.grid(index) for index in inputs if graph.is_int8(index)), None)
    demanded = row(graph.kind(operator)).demanded_grid(source)
    found = [graph.grid(index) for index in operator.outputs if graph.is_int8(index)]
    if demanded is not None and not all(_is_same(grid, demanded) for grid in found):
        return "an output on a grid that its kernel does not compute on"
    return ""


def _is_same(grid: Range | None, demanded: Range) -> bool:
    return grid is not None and (grid.scale, grid.zero_point) == (demanded.scale, demanded.zero_point)


def _wrong_weight(graph: Graph, operator: Any, original: Graph, places: Mapping[str, int]) -> str:
    """Say what is wrong with an operator's weight or bias; nothing when all is well."""
    op = row(graph.kind(operator))
    weight = operator.inputs[op.weight]
    range_, codes = graph.grid(weight), graph.constant(weight)
    if range_ is None or codes is None or not graph.is_int8(weight):
        return ""
    place = places.get(graph.name(weight))
    expected = original.constant(place) if place is not None else None
    if expected is None:
        return "a weight that the float file does not have"
    found = qdq.dequantize(codes, range_)
    if np.abs(found - expected).max(initial=0.0) > _ROUNDING * np.abs(expected).max(initial=0.0):
        return f"a weight that is not the float one: its scales or codes were lost ({range_.scale[0]:g})"
    bias = operator.inputs[op.bias] if op.bias is not None and op.bias < len(operator.inputs) else -1
    entry = graph.grid(operator.inputs[op.values])
    if bias < 0 or entry is None:
        return ""
    step, product = graph.grid(bias), np.asarray(range_.scale) * entry.scale[0]
    if graph.tensors[bias].type != schema.TensorType.INT32 or step is None:
        return "a bias that is not int32"
    return "" if np.allclose(step.scale, product, rtol=_ROUNDING, atol=0) else "a bias on another grid than its sums"
