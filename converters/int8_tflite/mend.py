"""Mend the integer graph that ai-edge-quantizer writes.

It leaves operations in float although TFLite has int8 kernels for them, rescales tensors to the scale that they have,
and lets the parts of a concatenation be computed on the grid of the whole, whatever grid they were trained on.
"""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from torchshrink.converters import tflite_file
from torchshrink.converters.ranges import Range, Ranges
from torchshrink.converters.tflite_ops import FIXED_GRID, RESCALES, SAME_GRID


def absorb(model: Any) -> int:
    """Replace ``DEQUANTIZE -> operation -> QUANTIZE`` by the operation on int8 tensors, in place.

    Where the kernel needs another grid than the output's (one that moves values that of its input, a sigmoid a fixed
    one), it computes on that, and a ``QUANTIZE`` rescales.

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
        if tflite_file.op_name(model, operator) == "QUANTIZE" and operator.outputs[0] not in list(graph.outputs):
            before, after = (graph.tensors[index] for index in (operator.inputs[0], operator.outputs[0]))
            grids = tflite_file.quantization(model, before), tflite_file.quantization(model, after)
            is_same = grids[0] is not None and grids[0] == grids[1] and before.type == after.type
            idle += [operator] if is_same else []
    for operator in idle:
        graph.operators.remove(operator)
        tflite_file.redirect(graph, operator.outputs[0], operator.inputs[0])
    return len(idle)


def _restore_grids_in(model: Any, graph: Any, learned: Ranges) -> int:
    count = 0
    for operator in list(graph.operators):
        for index in operator.outputs:
            grid = learned.get(tflite_file.tensor_name(graph.tensors[index]))
            if grid is not None and _has_imposed_grid(model, graph, operator, index, grid):
                _rescale(model, graph, operator, index, grid)
                count += 1
    return count


def _has_imposed_grid(model: Any, graph: Any, operator: Any, index: int, learned: Range) -> bool:
    """Return whether an int8 tensor has neither the learned grid nor the only one that its kernel computes on."""
    tensor, source = graph.tensors[index], graph.tensors[operator.inputs[0]]
    own = (tflite_file.quantization(model, source), FIXED_GRID.get(tflite_file.op_name(model, operator)))
    return tensor.type == schema.TensorType.INT8 and tflite_file.quantization(model, tensor) not in (learned, *own)


def _rescale(model: Any, graph: Any, operator: Any, index: int, grid: Range) -> None:
    """Give tensor ``index``, which ``operator`` computes, that grid, and its readers a copy on the one that it had."""
    tensor = graph.tensors[index]
    rescaled = copy.copy(tensor)
    rescaled.name = f"{tflite_file.tensor_name(tensor)}_rescaled"
    tensor.quantization = copy.copy(tensor.quantization)
    tensor.quantization.scale, tensor.quantization.zeroPoint = list(grid.scale), list(grid.zero_point)
    graph.tensors.append(rescaled)
    for reader in _consumers(graph, index):
        reader.inputs = [len(graph.tensors) - 1 if each == index else each for each in reader.inputs]
    step = schema.OperatorT()
    step.opcodeIndex = tflite_file.opcode(model, schema.BuiltinOperator.QUANTIZE, version=2)
    step.inputs, step.outputs = [index], [len(graph.tensors) - 1]
    graph.operators.insert(graph.operators.index(operator) + 1, step)


def _absorb_in(model: Any, graph: Any) -> int:
    count = 0
    for operator in list(graph.operators):
        if tflite_file.op_name(model, operator) not in SAME_GRID | set(FIXED_GRID) | RESCALES:
            continue
        entry = next((each for each in map(partial(_producer, graph), operator.inputs) if each is not None), None)
        exits = _consumers(graph, operator.outputs[0])
        if not _is_island(model, graph, operator, entry, exits):
            continue
        assert entry is not None
        grid = _kernel_grid(model, operator, graph.tensors[entry.inputs[0]])
        operator.inputs = [entry.inputs[0] if index == entry.outputs[0] else index for index in operator.inputs]
        after = graph.tensors[exits[0].outputs[0]]
        if grid is None or grid == tflite_file.quantization(model, after):
            operator.outputs = [exits[0].outputs[0]]
            graph.operators.remove(exits[0])
        else:  # the QUANTIZE stays, and rescales what is now int8 before it too
            _make_integer(graph.tensors[operator.outputs[0]], after, grid)
        for item in exits[1:]:
            graph.operators.remove(item)
            tflite_file.redirect(graph, item.outputs[0], exits[0].outputs[0])
        if not _consumers(graph, entry.outputs[0]) and entry.outputs[0] not in list(graph.outputs):
            graph.operators.remove(entry)
        count += 1
    return count


def _is_island(model: Any, graph: Any, operator: Any, entry: Any | None, exits: list[Any]) -> bool:
    """Return whether one tensor is dequantized for ``operator``, and its result quantized, to one grid, and no more."""
    if entry is None or tflite_file.op_name(model, entry) != "DEQUANTIZE" or len(operator.outputs) != 1:
        return False
    if not exits or any(tflite_file.op_name(model, item) != "QUANTIZE" for item in exits):
        return False
    before, after = graph.tensors[entry.inputs[0]], [graph.tensors[item.outputs[0]] for item in exits]
    grids = [tflite_file.quantization(model, tensor) for tensor in after]
    return (
        operator.outputs[0] not in list(graph.outputs)
        and tflite_file.quantization(model, before) is not None
        and all(grid is not None and grid == grids[0] for grid in grids)
        and all(tensor.type == before.type for tensor in after)
    )


def _kernel_grid(model: Any, operator: Any, before: Any) -> Range | None:
    """Return the grid on which the int8 kernel of an operator computes; None where it takes any."""
    kind = tflite_file.op_name(model, operator)
    return tflite_file.quantization(model, before) if kind in SAME_GRID else FIXED_GRID.get(kind)


def _make_integer(tensor: Any, like: Any, grid: Range) -> None:
    tensor.type = like.type
    tensor.quantization = copy.copy(like.quantization)
    tensor.quantization.scale, tensor.quantization.zeroPoint = list(grid.scale), list(grid.zero_point)


def _producer(graph: Any, index: int) -> Any | None:
    return next((operator for operator in graph.operators if index in list(operator.outputs)), None)


def _consumers(graph: Any, index: int) -> list[Any]:
    return [operator for operator in graph.operators if index in list(operator.inputs)]
