"""Decide which operators of a TFLite file compute in int8: those of which every tensor has a range."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchshrink.converters.ranges import Range
from torchshrink.converters.tflite_file import Graph
from torchshrink.converters.tflite_ops import row


def floating(graph: Graph, weights: Mapping[int, Range], grids: Mapping[int, Range]) -> list[Any]:
    """Return the operators that stay float.

    Those are the ones with a tensor whose range is unknown, those that compute one which is also read unrounded, and
    those whose tensors have ranges that the int8 kernel does not take (`mend.absorb` finds another way for some).

    Args:
        graph: Of the float TFLite model.
        weights: The ranges of weights, by tensor.
        grids: Those of all other tensors.
    """
    return [
        operator
        for operator in graph.operators
        if not (_is_known(graph, operator, weights, grids) and _is_computable(graph, operator, grids))
    ]


def _is_known(graph: Graph, operator: Any, weights: Mapping[int, Range], grids: Mapping[int, Range]) -> bool:
    op = row(graph.kind(operator))
    for position, index in enumerate(operator.inputs):
        if index < 0 or not graph.is_float(index):
            continue
        is_constant = graph.constant(index) is not None
        if is_constant and (position == op.bias or op.grid == "output"):
            continue  # rounded to the grid of the sums, to that of the output
        if index not in (weights if is_constant and position == op.weight else grids):
            return False
    results = [index for index in operator.outputs if graph.is_float(index)]
    return all(index in grids and not grids[index].is_partial for index in results)


def _is_computable(graph: Graph, operator: Any, grids: Mapping[int, Range]) -> bool:
    kind = graph.kind(operator)
    if kind == "BATCH_MATMUL":
        # XNNPACK leaves out the zero point of the second factor: seen to be off by up to 255 codes.
        factor = grids.get(int(operator.inputs[1]))
        return factor is None or factor.zero_point == (0,)
    source = next((int(index) for index in operator.inputs if graph.is_float(index)), -1)
    demanded = row(kind).demanded_grid(grids.get(source))
    return demanded is None or all(grids.get(index, demanded) == demanded for index in operator.outputs)
