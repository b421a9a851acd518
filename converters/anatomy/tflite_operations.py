"""The operations of a TFLite file: what each computes in, and its multiply-accumulates."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from torchshrink.converters import tflite_file
from torchshrink.converters.anatomy.operations import Operation, Precision
from torchshrink.converters.tflite_ops import HYBRID, MACS

_Types = schema.TensorType
_FLOATS = {_Types.FLOAT32, _Types.FLOAT16, _Types.FLOAT64, _Types.BFLOAT16}
_CODES = {_Types.INT8, _Types.UINT8, _Types.INT4, _Types.INT16}
_CONVERSIONS = {"QUANTIZE", "DEQUANTIZE"}


def read(model: Any) -> tuple[list[Operation], list[int]]:
    """Return the operations of a file's main graph, and their positions among its operators.

    What is computed once, when the file is loaded, is left out: expanded sparse weights, dequantized float16 ones.
    """
    graph = model.subgraphs[0]
    names = _unique_names(graph)
    constants = constant_tensors(model)
    found, positions = [], []
    for position, operator in enumerate(graph.operators):
        if set(operator.outputs) <= constants:
            continue
        positions.append(position)
        found.append(_operation(model, operator, names, constants))
    return found, positions


def constant_tensors(model: Any) -> set[int]:
    """Return which tensors of the main graph hold the same values at every inference, computed ones among them."""
    graph = model.subgraphs[0]
    found = {index for index, tensor in enumerate(graph.tensors) if _has_data(model, tensor)}
    for operator in graph.operators:
        if tflite_file.op_name(model, operator) in ("DENSIFY", "DEQUANTIZE") and set(operator.inputs) <= found:
            found |= set(operator.outputs)
    return found


def op_kind(model: Any, operator: Any) -> str:
    """Return the kind of an operator; that of a custom one is the name that the file gives it."""
    kind, custom = tflite_file.op_name(model, operator), model.operatorCodes[operator.opcodeIndex].customCode
    if kind != "CUSTOM" or custom is None:
        return kind
    return custom.decode() if isinstance(custom, bytes) else str(custom)


def _has_data(model: Any, tensor: Any) -> bool:
    data = model.buffers[tensor.buffer].data
    return data is not None and len(data) > 0


def _unique_names(graph: Any) -> list[str]:
    names = [tflite_file.tensor_name(tensor) for tensor in graph.tensors]
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name}#{index}" for index, name in enumerate(names)]


def _operation(model: Any, operator: Any, names: list[str], constants: set[int]) -> Operation:
    graph, kind = model.subgraphs[0], op_kind(model, operator)
    inputs = [int(index) for index in operator.inputs if index >= 0]
    outputs = [int(index) for index in operator.outputs]
    computed = [index for index in inputs if index not in constants]
    weights = {graph.tensors[index].type for index in inputs if index in constants}
    return Operation(
        kind,
        names[outputs[0]] if outputs else "",
        _precision(kind, {graph.tensors[index].type for index in computed + outputs}, weights),
        tuple(names[index] for index in computed),
        tuple(names[index] for index in outputs),
        _macs(graph, kind, operator),
    )


def _precision(kind: str, types: set[int], constant_types: set[int]) -> Precision:
    has_floats, has_codes = bool(_FLOATS & types), bool(_CODES & types)
    if has_floats and has_codes and kind in _CONVERSIONS:
        return "conversion"
    if has_floats:
        return "int8" if kind in HYBRID and _CODES & constant_types else "float"
    return "int8" if has_codes else "other"


def _macs(graph: Any, kind: str, operator: Any) -> int:
    if kind not in MACS:
        return 0
    indices = [operator.outputs[0], *operator.inputs]
    shapes = [[int(side) for side in graph.tensors[index].shape] if index >= 0 else [] for index in indices]
    return MACS[kind](operator.builtinOptions, shapes)
