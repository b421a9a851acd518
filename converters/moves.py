"""Tensors of a TFLite file that only hold the values of another one, elsewhere or fewer of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torchshrink.converters import flatbuffer

_MOVES = {"RESHAPE", "TRANSPOSE", "PAD", "MAX_POOL_2D", "AVERAGE_POOL_2D", "SLICE", "STRIDED_SLICE", "SQUEEZE",
          "EXPAND_DIMS", "RESIZE_NEAREST_NEIGHBOR", "RESIZE_BILINEAR", "CONCATENATION"}  # fmt: skip


def origins(model: Any, known: Iterable[int]) -> dict[int, int]:
    """Return which tensor of ``known`` every other one takes its values from or gives them to, where there is one.

    Converters add such tensors (a PAD, a RESHAPE), which have no counterpart in the model that was converted.
    """
    graph = model.subgraphs[0]
    found = {index: index for index in known}
    operators = [operator for operator in graph.operators if flatbuffer.op_name(model, operator) in _MOVES]
    for _ in operators:
        for operator in operators:
            before, after = operator.inputs[0], operator.outputs[0]
            if before in found and after not in found:
                found[after] = found[before]
            elif after in found and before not in found:
                found[before] = found[after]
    return {index: origin for index, origin in found.items() if index != origin}
