"""Make those inputs and outputs of a TFLite file int8 that have a range, beside others that have none.

ai-edge-quantizer makes all inputs int8 or none, and all outputs or none; and an output that an operation reads in
float, too, it gives out in float.
"""

from __future__ import annotations

import copy
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from torchshrink.converters import tflite_file
from torchshrink.converters.ranges import Range, Ranges

_GUARD = "no_reader_of_outputs"


def quantize(model: Any, learned: Ranges) -> None:
    """Let the file take and give int8 at every end that has a range, in place.

    Args:
        model: A quantized file.
        learned: By the name of a tensor in the file.
    """
    graph = model.subgraphs[0]
    for index in list(graph.inputs):
        grid = learned.get(tflite_file.tensor_name(graph.tensors[index]))
        if grid is not None and graph.tensors[index].type == schema.TensorType.FLOAT32:
            _quantize_input(model, graph, index, grid)
    for index in list(graph.outputs):
        source = _dequantized(model, graph, index)
        grid = learned.get(tflite_file.tensor_name(graph.tensors[index]))
        if source is not None:
            _replace_end(model, graph, "outputs", index, source)
            _drop_unread(model, graph, index)
        elif grid is not None and graph.tensors[index].type == schema.TensorType.FLOAT32:
            codes = _as_codes(graph, index, grid)
            graph.operators.append(_step(model, schema.BuiltinOperator.QUANTIZE, index, codes))
            _replace_end(model, graph, "outputs", index, codes)


def guard(model: Any) -> None:
    """Append an operator that computes nothing where the last one reads an output of the model, in place.

    ai-edge-quantizer counts the caller of a model as the reader -1 of an output, and then rewires operator -1 when it
    dequantizes that output for it. `unguard` removes the operator.
    """
    graph = model.subgraphs[0]
    if not graph.operators or not set(graph.outputs) & set(graph.operators[-1].inputs):
        return
    ends = []
    for name, kind in (("", schema.TensorType.FLOAT32), ("_rank", schema.TensorType.INT32)):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = f"{_GUARD}{name}", [1], kind, 0
        graph.tensors.append(tensor)
        ends.append(len(graph.tensors) - 1)
    graph.tensors[ends[0]].buffer = tflite_file.add_buffer(model, bytes(4))
    graph.operators.append(_step(model, schema.BuiltinOperator.RANK, *ends))


def unguard(model: Any) -> None:
    """Remove what `guard` appended, in place."""
    graph = model.subgraphs[0]
    first = next((i for i, t in enumerate(graph.tensors) if tflite_file.tensor_name(t) == _GUARD), None)
    if first is None:
        return
    graph.operators = [each for each in graph.operators if first not in list(each.inputs)]
    del graph.tensors[first : first + 2]
    for holder, ends in [(graph, ("inputs", "outputs")), *((each, ("inputs", "outputs")) for each in graph.operators)]:
        for end in ends:
            setattr(holder, end, [index - 2 * (index > first) for index in getattr(holder, end)])
    for signature in model.signatureDefs or []:
        for item in (*signature.inputs, *signature.outputs):
            item.tensorIndex -= 2 * (item.tensorIndex > first)


def _quantize_input(model: Any, graph: Any, index: int, grid: Range) -> None:
    """Put int8 before a float input: what quantizes it to this grid reads that, everything else dequantizes it."""
    codes = _as_codes(graph, index, grid)
    _replace_end(model, graph, "inputs", index, codes)
    for operator in [each for each in graph.operators if index in list(each.inputs)]:
        after = graph.tensors[operator.outputs[0]]
        if tflite_file.op_name(model, operator) == "QUANTIZE" and tflite_file.quantization(model, after) == grid:
            graph.operators.remove(operator)
            tflite_file.redirect(graph, operator.outputs[0], codes)
    graph.operators.insert(0, _step(model, schema.BuiltinOperator.DEQUANTIZE, codes, index))
    _drop_unread(model, graph, index)


def _dequantized(model: Any, graph: Any, index: int) -> int | None:
    """Return the int8 tensor of which ``index`` is the dequantized one."""
    for operator in graph.operators:
        if index in list(operator.outputs) and tflite_file.op_name(model, operator) == "DEQUANTIZE":
            return int(operator.inputs[0])
    return None


def _drop_unread(model: Any, graph: Any, index: int) -> None:
    """Remove the DEQUANTIZE that computes a tensor which nothing reads."""
    if index in list(graph.outputs) or any(index in list(operator.inputs) for operator in graph.operators):
        return
    graph.operators = [
        each
        for each in graph.operators
        if not (tflite_file.op_name(model, each) == "DEQUANTIZE" and index in list(each.outputs))
    ]


def _as_codes(graph: Any, index: int, grid: Range) -> int:
    """Add an int8 tensor for a float one and return its index."""
    tensor = copy.copy(graph.tensors[index])
    tensor.name = f"{tflite_file.tensor_name(tensor)}_codes"
    tensor.type = schema.TensorType.INT8
    tensor.quantization = schema.QuantizationParametersT()
    tensor.quantization.scale, tensor.quantization.zeroPoint = list(grid.scale), list(grid.zero_point)
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _step(model: Any, kind: int, source: int, target: int) -> Any:
    step = schema.OperatorT()
    step.opcodeIndex = tflite_file.opcode(model, kind, version=1 if kind == schema.BuiltinOperator.RANK else 2)
    step.inputs, step.outputs = [source], [target]
    return step


def _replace_end(model: Any, graph: Any, end: str, old: int, new: int) -> None:
    """Put another tensor in an input's or output's place, in the file's signatures too."""
    setattr(graph, end, [new if index == old else int(index) for index in getattr(graph, end)])
    for signature in model.signatureDefs or []:
        for item in getattr(signature, end):
            item.tensorIndex = new if item.tensorIndex == old else item.tensorIndex


def make_float(model: Any) -> None:
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
