"""Mend the integer graph that ai-edge-quantizer writes.

It leaves operations in float although TFLite has int8 kernels for them, rescales tensors to the scale that they have,
and lets the parts of a concatenation be computed on the grid of the whole, whatever grid they were trained on.
"""

from __future__ import annotations

import copy
from typing import Any

from ai_edge_litert import schema_py_generated as schema
from torchshrink.converters import flatbuffer
from torchshrink.converters.ranges import Range, Ranges

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


def drop_idle(model: Any) -> int:
    """Remove every ``QUANTIZE`` between two tensors of equal type and parameters, in place, and return how many.

    One that computes an output of the model stays: outputs keep their tensors.
    """
    return sum(_drop_idle_in(model, graph) for graph in model.subgraphs)


def restore_grids(model: Any, learned: Ranges) -> int:
    """Let every tensor be computed on the grid that was learned for it, and rescale it for its readers, in place.

    Done where the file has another grid, because a reader needs it: the parts of a concatenation have that of the
    whole. A sigmoid's output, though, is fixed by its kernel, and every part was rounded to its own grid in training.
    What only moves values keeps the grid of its input.

    Args:
        model: The quantized file.
        learned: By the name of a tensor in the file.

    Returns:
        How many tensors were rescaled.
    """
    return sum(_restore_grids_in(model, graph, learned) for graph in model.subgraphs)


def _drop_idle_in(model: Any, graph: Any) -> int:
    idle = []
    for operator in graph.operators:
        if flatbuffer.op_name(model, operator) == "QUANTIZE" and operator.outputs[0] not in list(graph.outputs):
            before, after = (graph.tensors[index] for index in (operator.inputs[0], operator.outputs[0]))
            idle += [operator] if _fits(model, "RESHAPE", before, [after]) else []
    for operator in idle:
        graph.operators.remove(operator)
        flatbuffer.redirect(graph, operator.outputs[0], operator.inputs[0])
    return len(idle)


def _restore_grids_in(model: Any, graph: Any, learned: Ranges) -> int:
    count = 0
    for operator in list(graph.operators):
        for index in operator.outputs:
            grid = learned.get(flatbuffer.tensor_name(graph.tensors[index]))
            if grid is not None and _has_imposed_grid(model, graph, operator, index, grid):
                _rescale(model, graph, operator, index, grid)
                count += 1
    return count


def _has_imposed_grid(model: Any, graph: Any, operator: Any, index: int, learned: Range) -> bool:
    """Return whether an int8 tensor has neither the learned grid nor, as what only moves values, that of the input."""
    tensor, source = graph.tensors[index], graph.tensors[operator.inputs[0]]
    present = flatbuffer.quantization(model, tensor)
    return tensor.type == schema.TensorType.INT8 and present not in (learned, flatbuffer.quantization(model, source))


def _rescale(model: Any, graph: Any, operator: Any, index: int, grid: Range) -> None:
    """Give tensor ``index``, which ``operator`` computes, that grid, and its readers a copy on the one that it had."""
    tensor = graph.tensors[index]
    rescaled = copy.copy(tensor)
    rescaled.name = f"{flatbuffer.tensor_name(tensor)}_rescaled"
    tensor.quantization = copy.copy(tensor.quantization)
    tensor.quantization.scale, tensor.quantization.zeroPoint = list(grid.scale), list(grid.zero_point)
    graph.tensors.append(rescaled)
    for reader in _consumers(graph, index):
        reader.inputs = [len(graph.tensors) - 1 if each == index else each for each in reader.inputs]
    step = schema.OperatorT()
    step.opcodeIndex = flatbuffer.opcode(model, schema.BuiltinOperator.QUANTIZE, version=2)
    step.inputs, step.outputs = [index], [len(graph.tensors) - 1]
    graph.operators.insert(graph.operators.index(operator) + 1, step)


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
