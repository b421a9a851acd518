"""Check that a quantized TFLite file is one that the int8 kernels compute as it says.

A kernel trusts its file: it reads a float as four codes, adds a bias on whatever grid it has, and gives out a result on
another grid than the file names, all without a word.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from torchshrink.converters import qdq, tflite_file
from torchshrink.converters.ranges import Range
from torchshrink.converters.tflite_ops import BIAS_INPUT, FIXED_GRID, OUTPUT_AXIS, SAME_GRID, WEIGHT_INPUT
from torchshrink.errors import ConversionError

_CONVERSIONS = {"QUANTIZE", "DEQUANTIZE"}
_FLOAT32, _INT8 = schema.TensorType.FLOAT32, schema.TensorType.INT8
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
    graph = quantized.subgraphs[0]
    originals = {tflite_file.tensor_name(tensor): tensor for tensor in floats.subgraphs[0].tensors}
    for operator in graph.operators:
        kind = tflite_file.op_name(quantized, operator)
        reason = "" if kind in _CONVERSIONS else _wrong_ends(quantized, operator, kind)
        if not reason and kind in OUTPUT_AXIS:
            reason = _wrong_weight(quantized, floats, operator, kind, originals)
        if reason:
            where = tflite_file.tensor_name(graph.tensors[operator.outputs[0]])
            raise ConversionError(f"{name} would not compute what its source computes: {kind} {where!r} has {reason}")


def _wrong_ends(model: Any, operator: Any, kind: str) -> str:
    """Say what is wrong with the tensors that an operator reads and computes; nothing when all is well."""
    tensors = model.subgraphs[0].tensors
    inputs = [tensors[index] for index in operator.inputs if index >= 0]
    outputs = [tensors[index] for index in operator.outputs]
    types = {tensor.type for tensor in (*inputs, *outputs)}
    if {_FLOAT32, _INT8} <= types:
        return "int8 and float tensors"
    grids = [tflite_file.quantization(model, tensor) for tensor in outputs if tensor.type == _INT8]
    if any(tensor.type == _INT8 and tflite_file.quantization(model, tensor) is None for tensor in (*inputs, *outputs)):
        return "an int8 tensor without a scale"
    source = next((tensor for tensor in inputs if tensor.type == _INT8), None)
    demanded = FIXED_GRID.get(kind)
    if kind in SAME_GRID and source is not None:
        demanded = tflite_file.quantization(model, source)
    if demanded is not None and any(not _is_same(grid, demanded) for grid in grids):
        return "an output on a grid that its kernel does not compute on"
    return ""


def _is_same(grid: Range | None, demanded: Range) -> bool:
    return grid is not None and (grid.scale, grid.zero_point) == (demanded.scale, demanded.zero_point)


def _wrong_weight(model: Any, floats: Any, operator: Any, kind: str, originals: dict[str, Any]) -> str:
    """Say what is wrong with an operator's weight or bias; nothing when all is well."""
    tensors = model.subgraphs[0].tensors
    weight = tensors[operator.inputs[WEIGHT_INPUT]]
    range_, codes = tflite_file.quantization(model, weight), tflite_file.constant(model, weight)
    original = originals.get(tflite_file.tensor_name(weight))
    if range_ is None or codes is None or weight.type != _INT8:
        return ""
    expected = tflite_file.constant(floats, original) if original is not None else None
    if expected is None:
        return "a weight that the float file does not have"
    found = qdq.dequantize(codes, range_)
    if np.abs(found - expected).max(initial=0.0) > _ROUNDING * np.abs(expected).max(initial=0.0):
        return f"a weight that is not the float one: its scales or codes were lost ({range_.scale[0]:g})"
    place = BIAS_INPUT[kind]
    index = operator.inputs[place] if place < len(operator.inputs) else -1
    entry = tflite_file.quantization(model, tensors[operator.inputs[2 if kind == "TRANSPOSE_CONV" else 0]])
    if index < 0 or entry is None:
        return ""
    step = tflite_file.quantization(model, tensors[index])
    product = np.asarray(range_.scale) * entry.scale[0]
    if tensors[index].type != schema.TensorType.INT32 or step is None:
        return "a bias that is not int32"
    return "" if np.allclose(step.scale, product, rtol=_ROUNDING, atol=0) else "a bias on another grid than its sums"
