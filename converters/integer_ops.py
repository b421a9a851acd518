"""Let operations compute in int8 that ai-edge-quantizer leaves in float although TFLite has int8 kernels for them."""

from __future__ import annotations

from typing import Any

from torchshrink.converters import flatbuffer

# Their output has the parameters of their input.
_MOVES = {
    "DEPTH_TO_SPACE", "EXPAND_DIMS", "RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "SLICE", "SPLIT",
    "SQUEEZE", "STRIDED_SLICE", "TILE", "TRANSPOSE",
}  # fmt: skip
# Their output has parameters of its own.
_RESCALES = {"LEAKY_RELU", "RELU", "RELU6", "RELU_N1_TO_1"}


def absorb(model: Any) -> int:
    """Replace ``DEQUANTIZE -> operation -> QUANTIZE`` by the operation on int8 tensors, in place.

    Done only where the kernel computes the same: one that moves values needs equal parameters on both sides.

    Returns:
        How many operations were replaced.
    """
    return sum(_absorb_in(model, graph) for graph in model.subgraphs)


def _absorb_in(model: Any, graph: Any) -> int:
    count = 0
    for operator in list(graph.operators):
        kind = flatbuffer.op_name(model, operator)
        if kind not in _MOVES | _RESCALES or len(operator.outputs) != 1:
            continue
        entry = _producer(graph, operator.inputs[0])
        exits = _consumers(graph, operator.outputs[0])
        if entry is None or flatbuffer.op_name(model, entry) != "DEQUANTIZE":
            continue
        is_only_quantized = exits and all(flatbuffer.op_name(model, item) == "QUANTIZE" for item in exits)
        if not is_only_quantized or operator.outputs[0] in list(graph.outputs):
            continue
        before, after = graph.tensors[entry.inputs[0]], [graph.tensors[item.outputs[0]] for item in exits]
        if not _fits(model, kind, before, after):
            continue
        operator.inputs = [entry.inputs[0], *list(operator.inputs)[1:]]
        operator.outputs = [exits[0].outputs[0]]
        for item in exits:
            graph.operators.remove(item)
            flatbuffer.redirect(graph, item.outputs[0], exits[0].outputs[0])
        if not _consumers(graph, entry.outputs[0]) and entry.outputs[0] not in list(graph.outputs):
            graph.operators.remove(entry)
        count += 1
    return count


def _fits(model: Any, kind: str, before: Any, after: list[Any]) -> bool:
    parameters = [flatbuffer.quantization(model, tensor) for tensor in (before, *after)]
    if any(item is None for item in parameters) or any(tensor.type != before.type for tensor in after):
        return False
    compared = parameters if kind in _MOVES else parameters[1:]
    return all(item == compared[0] for item in compared)


def _producer(graph: Any, index: int) -> Any | None:
    return next((operator for operator in graph.operators if index in list(operator.outputs)), None)


def _consumers(graph: Any, index: int) -> list[Any]:
    return [operator for operator in graph.operators if index in list(operator.inputs)]
