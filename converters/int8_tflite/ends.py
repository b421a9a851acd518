"""Make those inputs and outputs of a TFLite file int8 that have a range, beside others that have none.

ai-edge-quantizer makes all inputs int8 or none, and all outputs or none; and an output that an operation reads in
float, too, it gives out in float.
"""

from __future__ import annotations

from typing import Any, Literal

from ai_edge_litert import schema_py_generated as schema

from torchshrink.converters.ranges import Range, Ranges
from torchshrink.converters.tflite_file import Graph, add_buffer

_GUARD = "no_reader_of_outputs"


def quantize(model: Any, learned: Ranges) -> None:
    """Let the file take and give int8 at every end that has a range, in place.

    Args:
        model: A quantized file.
        learned: By the name of a tensor in the file.
    """
    graph = Graph(model)
    for index in graph.inputs:
        grid = learned.get(graph.name(index))
        if grid is not None and graph.is_float(index):
            _quantize_input(graph, index, grid)
    for index in graph.outputs:
        grid, producer = learned.get(graph.name(index)), graph.producer(index)
        if producer is not None and graph.kind(producer) == "DEQUANTIZE":
            graph.replace_end("outputs", index, int(producer.inputs[0]))
            _drop_unread(graph, index)
        elif grid is not None and graph.is_float(index):
            codes = _add_codes(graph, index, grid)
            graph.operators.append(graph.step("QUANTIZE", index, codes))
            graph.replace_end("outputs", index, codes)


def guard(model: Any) -> None:
    """Append an operator that computes nothing where the last one reads an output of the model, in place.

    ai-edge-quantizer counts the caller of a model as the reader -1 of an output, and then rewires operator -1 when it
    dequantizes that output for it. `unguard` removes the operator.
    """
    graph = Graph(model)
    if not graph.operators or not set(graph.outputs) & set(graph.operators[-1].inputs):
        return
    for name, kind in (("", schema.TensorType.FLOAT32), ("_rank", schema.TensorType.INT32)):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = f"{_GUARD}{name}", [1], kind, 0
        graph.tensors.append(tensor)
    first = len(graph.tensors) - 2
    graph.tensors[first].buffer = add_buffer(model, bytes(4))
    graph.operators.append(graph.step("RANK", first, first + 1, version=1))


def unguard(model: Any) -> None:
    """Remove what `guard` appended, in place."""
    graph = Graph(model)
    first = next((index for index in range(len(graph.tensors)) if graph.name(index) == _GUARD), None)
    if first is None:
        return
    for reader in graph.readers(first):
        graph.operators.remove(reader)
    del graph.tensors[first : first + 2]
    for holder in (graph.content, *graph.operators):
        for side in ("inputs", "outputs"):
            setattr(holder, side, [index - 2 * (index > first) for index in getattr(holder, side)])
    for signature in model.signatureDefs or []:
        for item in (*signature.inputs, *signature.outputs):
            item.tensorIndex -= 2 * (item.tensorIndex > first)


def make_float(model: Any) -> None:
    """Put a QUANTIZE before every int8 input and a DEQUANTIZE after every int8 output, in place.

    The names of inputs and outputs stay with what the caller sees.
    """
    graph = Graph(model)
    before = [_converted(graph, "inputs", index) for index in graph.inputs if graph.is_int8(index)]
    after = [_converted(graph, "outputs", index) for index in graph.outputs if graph.is_int8(index)]
    graph.operators[:] = before + graph.operators + after


def _quantize_input(graph: Graph, index: int, grid: Range) -> None:
    """Put int8 before a float input: what quantizes it to this grid reads that, everything else dequantizes it."""
    codes = _add_codes(graph, index, grid)
    graph.replace_end("inputs", index, codes)
    for reader in graph.readers(index):
        if graph.kind(reader) == "QUANTIZE" and graph.grid(reader.outputs[0]) == grid:
            graph.operators.remove(reader)
            graph.redirect(reader.outputs[0], codes)
    graph.operators.insert(0, graph.step("DEQUANTIZE", codes, index))
    _drop_unread(graph, index)


def _drop_unread(graph: Graph, index: int) -> None:
    """Remove the DEQUANTIZE that computes a tensor which nothing reads."""
    producer = graph.producer(index)
    is_read = index in graph.outputs or bool(graph.readers(index))
    if producer is not None and not is_read and graph.kind(producer) == "DEQUANTIZE":
        graph.operators.remove(producer)


def _add_codes(graph: Graph, index: int, grid: Range) -> int:
    """Add an int8 tensor for a float one and return its number."""
    codes = graph.add_copy(index, f"{graph.name(index)}_codes")
    graph.make_int8(codes, grid)
    return codes


def _converted(graph: Graph, side: Literal["inputs", "outputs"], codes: int) -> Any:
    """Put a float32 tensor in the place of an end, and return the operator between the two."""
    name = graph.name(codes)
    graph.tensors[codes].name = f"{name}_codes"
    real = graph.add_copy(codes, name)
    graph.tensors[real].type, graph.tensors[real].quantization = schema.TensorType.FLOAT32, None
    graph.replace_end(side, codes, real)
    if side == "inputs":
        return graph.step("QUANTIZE", real, codes, version=1)
    return graph.step("DEQUANTIZE", codes, real)
