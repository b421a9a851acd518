"""What is known of the operators of TFLite: which inputs hold what, which only move values, what they compute."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from torchshrink.converters import tflite_file
from torchshrink.converters.ranges import Range

_MOVES = {"RESHAPE", "TRANSPOSE", "PAD", "MAX_POOL_2D", "SLICE", "STRIDED_SLICE", "SPLIT", "SQUEEZE", "EXPAND_DIMS",
          "RESIZE_NEAREST_NEIGHBOR", "DEPTH_TO_SPACE", "SPACE_TO_DEPTH"}  # fmt: skip
_VALUES_INPUT = {"SPLIT": 1}

# The dimension of each operator's weight that holds the output channels, and where the weight and the bias stand.
OUTPUT_AXIS = {"CONV_2D": 0, "TRANSPOSE_CONV": 0, "FULLY_CONNECTED": 0, "DEPTHWISE_CONV_2D": 3}
WEIGHT_INPUT = 1
BIAS_INPUT = {"CONV_2D": 2, "TRANSPOSE_CONV": 3, "FULLY_CONNECTED": 2, "DEPTHWISE_CONV_2D": 2}
WITH_CONSTANTS = {"ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM"}

# What the int8 kernels demand: the output on the grid of the input, or on one grid whatever the input.
SAME_GRID = {
    "AVERAGE_POOL_2D", "BROADCAST_TO", "DEPTH_TO_SPACE", "EXPAND_DIMS", "GATHER", "GATHER_ND", "MAX_POOL_2D",
    "MIRROR_PAD", "PAD", "REDUCE_MIN", "RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "SLICE",
    "SPACE_TO_DEPTH", "SPLIT", "SQUEEZE", "STRIDED_SLICE", "TILE", "TRANSPOSE", "UNPACK",
}  # fmt: skip
FIXED_GRID = {
    "LOGISTIC": Range((1 / 256,), (-128,)),
    "SOFTMAX": Range((1 / 256,), (-128,)),
    "TANH": Range((1 / 128,), (0,)),
}
# Constants that these read are rounded to the grid of their output.
ROUNDED_CONSTANTS = {"CONCATENATION", "MAXIMUM", "MINIMUM", "PADV2"}

# These quantize their input at every inference where only their weights are integers.
HYBRID = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL"}
# Tensors of the kinds that have multiply-accumulates: output, then inputs. Source: TFLite's kernels.
MACS: dict[str, Callable[[Any, list[list[int]]], int]] = {
    "CONV_2D": lambda _, shapes: math.prod(shapes[0]) * math.prod(shapes[2][1:]),
    "DEPTHWISE_CONV_2D": lambda _, shapes: math.prod(shapes[0]) * math.prod(shapes[2][1:3]),
    "TRANSPOSE_CONV": lambda _, shapes: math.prod(shapes[3]) * math.prod(shapes[2][:3]),
    "FULLY_CONNECTED": lambda _, shapes: math.prod(shapes[0]) * shapes[2][-1],
    "BATCH_MATMUL": lambda options, shapes: (
        math.prod(shapes[0]) * shapes[1][-2 if options is not None and options.adjX else -1]
    ),
}

# Their output has parameters of its own.
RESCALES = {"LEAKY_RELU", "RELU", "RELU6", "RELU_N1_TO_1"}

NOT_IN_LITERT = {
    "ATAN2", "CEIL", "COMPLEX_ABS", "CONV_3D", "CONV_3D_TRANSPOSE", "COS", "FLOOR", "IMAG", "L2_POOL_2D",
    "LOCAL_RESPONSE_NORMALIZATION", "POW", "REAL", "RFFT2D", "ROUND", "SIGN", "SIN", "SQUARE",
}  # fmt: skip


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
