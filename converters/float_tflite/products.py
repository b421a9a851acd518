"""Write products of matrices in the form that LiteRT's own kernels have right."""

from __future__ import annotations

from typing import Any

from torchshrink.converters.tflite_file import Graph


def turn_first_factors(model: Any) -> None:
    """Let a TRANSPOSE turn the first factor where several products share a second one; in place.

    LiteRT 2.1 turns only as many matrices as the second factor has, and multiplies whatever lies in memory behind them.
    XNNPACK has it right, but is not everywhere, and is not what looks at a file's tensors.
    """
    graph = Graph(model)
    for place, operator in reversed(list(enumerate(graph.operators))):
        if graph.kind(operator) != "BATCH_MATMUL" or not operator.builtinOptions.adjX:
            continue
        first, second = (list(graph.tensors[int(index)].shape) for index in operator.inputs)
        if first[:-2] != second[:-2]:
            rank = len(first)
            step = graph.transposition(int(operator.inputs[0]), [*range(rank - 2), rank - 1, rank - 2])
            operator.inputs = [int(step.outputs[0]), int(operator.inputs[1])]
            operator.builtinOptions.adjX = False
            graph.operators.insert(place, step)
