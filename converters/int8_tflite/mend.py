"""Mend the integer graph that ai-edge-quantizer writes.

It leaves operations in float although TFLite has int8 kernels for them, rescales tensors to the scale that they have,
and lets the parts of a concatenation be computed on the grid of the whole, whatever grid they were trained on.
"""

from __future__ import annotations

import math
from typing import Any

from torchshrink.converters.ranges import Range, Ranges
from torchshrink.converters.tflite_file import Graph, graphs
from torchshrink.converters.tflite_ops import CLAMPS, Op, row


def absorb(model: Any, has_floats: bool = True) -> int:
    """Replace ``DEQUANTIZE -> operation -> QUANTIZE`` by the operation on int8 tensors, in place.

    Where the kernel needs another grid than the output's (one that moves values that of its input, a sigmoid a fixed
    one), it computes on that, and a ``QUANTIZE`` rescales.

    Args:
        model: The quantized file.
        has_floats: Whether what runs it has floats: then an average that the kernel would round to the larger steps of
            its input stays float.

    Returns:
        How many operations were replaced.
    """
    return sum(_absorb_in(graph, has_floats) for graph in graphs(model))


def drop_idle(model: Any) -> int:
    """Remove every ``QUANTIZE`` between two tensors of equal type and parameters, in place, and return how many.

    So is a ReLU between two whose grid reaches no further than what it lets through. One that computes an output of
    the model stays: outputs keep their tensors.
    """
    return sum(_drop_idle_in(graph) for graph in graphs(model))


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
    return sum(_restore_grids_in(graph, learned) for graph in graphs(model))


def _drop_idle_in(graph: Graph) -> int:
    idle = [operator for operator in graph.operators if _is_idle(graph, operator)]
    for operator in idle:
        graph.operators.remove(operator)
        graph.redirect(operator.outputs[0], operator.inputs[0])
    return len(idle)


def _is_idle(graph: Graph, operator: Any) -> bool:
    low, high = CLAMPS.get(graph.kind(operator), (-math.inf, math.inf))
    if graph.kind(operator) not in ("QUANTIZE", *CLAMPS) or operator.outputs[0] in graph.outputs:
        return False
    before, after = operator.inputs[0], operator.outputs[0]
    grid, is_same_type = graph.grid(before), graph.tensors[before].type == graph.tensors[after].type
    if grid is None or grid != graph.grid(after) or not is_same_type:
        return False
    (least,), (greatest,) = grid.limits
    return bool(low <= least and greatest < high + grid.scale[0] / 2)  # the clamp's end is rounded to a code


def _restore_grids_in(graph: Graph, learned: Ranges) -> int:
    count = 0
    for operator in list(graph.operators):
        for index in operator.outputs:
            grid = learned.get(graph.name(index))
            if grid is not None and _has_imposed_grid(graph, operator, index, grid):
                _rescale(graph, operator, index, grid)
                count += 1
    return count


def _has_imposed_grid(graph: Graph, operator: Any, index: int, learned: Range) -> bool:
    """Return whether an int8 tensor has neither the learned grid nor the only one that its kernel computes on."""
    own = (graph.grid(operator.inputs[0]), row(graph.kind(operator)).demanded_grid(None))
    return graph.is_int8(index) and graph.grid(index) not in (learned, *own)


def _rescale(graph: Graph, operator: Any, index: int, grid: Range) -> None:
    """Give tensor ``index``, which ``operator`` computes, that grid, and its readers a copy on the one that it had."""
    rescaled = graph.add_copy(index, f"{graph.name(index)}_rescaled")
    graph.make_int8(index, grid)
    for reader in graph.readers(index):
        reader.inputs = [rescaled if each == index else each for each in reader.inputs]
    graph.operators.insert(graph.operators.index(operator) + 1, graph.step("QUANTIZE", index, rescaled))


def _absorb_in(graph: Graph, has_floats: bool) -> int:
    count = 0
    for operator in list(graph.operators):
        producers = (graph.producer(index) for index in operator.inputs)
        entry = next((each for each in producers if each is not None), None)
        exits = graph.readers(operator.outputs[0])
        if not row(graph.kind(operator)).stands_alone or entry is None or not _is_island(graph, operator, entry, exits):
            continue
        before, after = graph.grid(entry.inputs[0]), graph.grid(exits[0].outputs[0])
        if not _is_coarser(row(graph.kind(operator)), before, after, has_floats):
            _absorb_one(graph, operator, entry, exits)
            count += 1
    return count


def _absorb_one(graph: Graph, operator: Any, entry: Any, exits: list[Any]) -> None:
    codes, real, result = entry.inputs[0], entry.outputs[0], exits[0].outputs[0]
    operator.inputs = [codes if index == real else index for index in operator.inputs]
    grid = row(graph.kind(operator)).demanded_grid(graph.grid(codes))
    if grid is None or grid == graph.grid(result):
        operator.outputs = [result]
        graph.operators.remove(exits[0])
    else:  # the QUANTIZE stays, and rescales what is now int8 before it too
        graph.make_int8(operator.outputs[0], grid)
    for other in exits[1:]:
        graph.operators.remove(other)
        graph.redirect(other.outputs[0], result)
    if not graph.readers(real) and real not in graph.outputs:
        graph.operators.remove(entry)


def _is_island(graph: Graph, operator: Any, entry: Any, exits: list[Any]) -> bool:
    """Return whether one tensor is dequantized for ``operator``, and its result quantized, to one grid, and no more."""
    if graph.kind(entry) != "DEQUANTIZE" or len(operator.outputs) != 1 or operator.outputs[0] in graph.outputs:
        return False
    if not exits or any(graph.kind(each) != "QUANTIZE" for each in exits):
        return False
    ends = [entry.inputs[0], *(each.outputs[0] for each in exits)]
    before, *after = (graph.grid(index) for index in ends)
    is_one_grid = before is not None and after[0] is not None and all(grid == after[0] for grid in after)
    return is_one_grid and all(map(graph.is_int8, ends))


def _is_coarser(op: Op, before: Range | None, after: Range | None, has_floats: bool) -> bool:
    """Return whether a kernel rounds what it computes to a grid of larger steps than the result is to have.

    A softmax's grid is fixed, an average's that of its input.
    """
    own = None if op.moves or (op.grid == "input" and not has_floats) else op.demanded_grid(before)
    return own is not None and after is not None and own.scale[0] > after.scale[0]
