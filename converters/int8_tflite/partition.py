"""Decide which operators of a TFLite file compute in int8: those of which every tensor has a range."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from torchshrink.converters import tflite_file
from torchshrink.converters.ranges import Range
from torchshrink.converters.tflite_ops import (
    BIAS_INPUT,
    FIXED_GRID,
    OUTPUT_AXIS,
    ROUNDED_CONSTANTS,
    SAME_GRID,
    WEIGHT_INPUT,
)


def floating(model: Any, weights: Mapping[int, Range], grids: Mapping[int, Range]) -> list[Any]:
    """Return the operators that stay float.

    Those are the ones with a tensor whose range is unknown, and those whose tensors have ranges that the int8 kernel
    does not take (`mend.absorb` finds another way for some of the latter).

    Args:
        model: The float TFLite model.
        weights: The ranges of weights, by tensor.
        grids: Those of all other tensors.
    """
    graph = model.subgraphs[0]
    return [
        operator
        for operator in graph.operators
        if not (_is_known(model, operator, weights, grids) and _is_computable(model, operator, grids))
    ]


def _is_known(model: Any, operator: Any, weights: Mapping[int, Range], grids: Mapping[int, Range]) -> bool:
    graph, kind = model.subgraphs[0], tflite_file.op_name(model, operator)
    for position, index in enumerate(operator.inputs):
        if index < 0 or graph.tensors[index].type != schema.TensorType.FLOAT32:
            continue
        is_constant = tflite_file.constant(model, graph.tensors[index]) is not None
        if is_constant and (position == BIAS_INPUT.get(kind) or kind in ROUNDED_CONSTANTS):
            continue
        if is_constant and kind in OUTPUT_AXIS and position == WEIGHT_INPUT:
            if index not in weights:
                return False
        elif index not in grids:
            return False
    return all(index in grids for index in operator.outputs if graph.tensors[index].type == schema.TensorType.FLOAT32)


def _is_computable(model: Any, operator: Any, grids: Mapping[int, Range]) -> bool:
    kind = tflite_file.op_name(model, operator)
    outputs = [grids[index] for index in operator.outputs if index in grids]
    if kind in FIXED_GRID:
        return all(grid == FIXED_GRID[kind] for grid in outputs)
    if kind == "BATCH_MATMUL":
        # XNNPACK leaves out the zero point of the second factor: seen to be off by up to 255 codes.
        factor = grids.get(int(operator.inputs[1]))
        return factor is None or factor.zero_point == (0,)
    if kind in SAME_GRID:
        return all(grid == grids.get(_source(model, operator)) for grid in outputs)
    return True


def _source(model: Any, operator: Any) -> int:
    """Return the first float input of an operator; a SPLIT has the axis before it."""
    tensors = model.subgraphs[0].tensors
    return next((int(i) for i in operator.inputs if tensors[i].type == schema.TensorType.FLOAT32), -1)
