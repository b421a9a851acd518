"""The operations of a TFLite file: what each computes in, and its multiply-accumulates."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from torchshrink.converters.anatomy.operations import Operation, Precision
from torchshrink.converters.tflite_file import Graph, custom_name
from torchshrink.converters.tflite_ops import row

_Types = schema.TensorType
_FLOATS = {_Types.FLOAT32, _Types.FLOAT16, _Types.FLOAT64, _Types.BFLOAT16}
_CODES = {_Types.INT8, _Types.UINT8, _Types.INT4, _Types.INT16}
_CONVERSIONS = {"QUANTIZE", "DEQUANTIZE"}


def read(model: Any) -> tuple[list[Operation], list[int]]:
    """Return the operations of a file's main graph, and their positions among its operators.

    What is computed once, when the file is loaded, is left out: expanded sparse weights, dequantized float16 ones.
    """
    graph = Graph(model)
    names = _unique_names(graph)
    constants = constant_tensors(graph)
    found, positions = [], []
    for position, operator in enumerate(graph.operators):
        if set(operator.outputs) <= constants:
            continue
        positions.append(position)
        found.append(_operation(graph, operator, names, constants))
    return found, positions


def constant_tensors(graph: Graph) -> set[int]:
    """Return which tensors hold the same values at every inference, computed ones among them."""
    found = {index for index in range(len(graph.tensors)) if graph.has_data(index)}
    for operator in graph.operators:
        if graph.kind(operator) in ("DENSIFY", "DEQUANTIZE") and set(operator.inputs) <= found:
            found |= set(operator.outputs)
    return found


def _unique_names(graph: Graph) -> list[str]:
    names = [graph.name(index) for index in range(len(graph.tensors))]
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name}#{index}" for index, name in enumerate(names)]


def _operation(graph: Graph, operator: Any, names: list[str], constants: set[int]) -> Operation:
    kind = graph.kind(operator)
    if kind == "CUSTOM":
        kind = custom_name(graph.model.operatorCodes[operator.opcodeIndex]) or kind
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
        return "int8" if row(kind).is_hybrid and _CODES & constant_types else "float"
    return "int8" if has_codes else "other"


def _macs(graph: Graph, kind: str, operator: Any) -> int:
    count = row(kind).macs
    if count is None:
        return 0
    indices = [operator.outputs[0], *operator.inputs]
    shapes = [[int(side) for side in graph.tensors[index].shape] if index >= 0 else [] for index in indices]
    return count(operator.builtinOptions, shapes)
