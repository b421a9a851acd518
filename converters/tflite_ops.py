"""What is known of the operators of TFLite: which inputs hold what, which only move values, what they compute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from torchshrink.converters import tflite_file

_MOVES = {"RESHAPE", "TRANSPOSE", "PAD", "MAX_POOL_2D", "SLICE", "STRIDED_SLICE", "SPLIT", "SQUEEZE", "EXPAND_DIMS",
          "RESIZE_NEAREST_NEIGHBOR", "DEPTH_TO_SPACE", "SPACE_TO_DEPTH"}  # fmt: skip
_VALUES_INPUT = {"SPLIT": 1}


def origins(model: Any, known: Iterable[int]) -> dict[int, int]:
    """Return which tensor of ``known`` every other one takes its values from or gives them to, where there is one.

    Converters add such tensors (a PAD, a RESHAPE), which have no counterpart in the model that was converted. What is
    joined by a concatenation gives its values to the whole; the whole, though, has several origins and none is taken.
    """
    graph = model.subgraphs[0]
    found = {index: index for index in known}
    links = list(_links(model, graph))
    is_growing = True
    while is_growing:
        is_growing = False
        for before, after, is_forward, is_backward in links:
            if is_forward and before in found and after not in found:
                found[after], is_growing = found[before], True
            elif is_backward and after in found and before not in found:
                found[before], is_growing = found[after], True
    return {index: origin for index, origin in found.items() if index != origin}


def _links(model: Any, graph: Any) -> Iterable[tuple[int, int, bool, bool]]:
    """Yield pairs of tensors of which the second holds values of the first, and which of the two may follow the other.

    The first follows the second only where nothing else reads it, since that would have to follow too.
    """
    readers = Counter(int(index) for operator in graph.operators for index in operator.inputs)
    readers.update(int(index) for index in graph.outputs)
    for operator in graph.operators:
        kind = tflite_file.op_name(model, operator)
        if kind in _MOVES:
            before = operator.inputs[_VALUES_INPUT.get(kind, 0)]
            for after in operator.outputs:
                yield before, after, True, readers[before] == len(operator.outputs) == 1
        elif kind == "CONCATENATION":
            for before in operator.inputs:
                is_computed = tflite_file.constant(model, graph.tensors[before]) is None
                yield before, operator.outputs[0], False, is_computed and readers[before] == 1
