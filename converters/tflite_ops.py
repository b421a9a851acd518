"""What is known of the operators of TFLite: one row for each. `converters/README.md` says how to add one.

What stands in no row is unknown, and treated with care: such an operator stays float, and no range passes through it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from torchshrink.converters.ranges import Range

Macs = Callable[[Any, list[list[int]]], int]


@dataclass(frozen=True)
class Op:
    """An operator. Of what has a place among its inputs, the number says which.

    Attributes:
        grid: What the int8 kernel demands: its result on a grid of its ``"own"``, on that of the ``"input"``, the
            inputs (constants too) on that of the ``"output"``, or the result on one grid whatever the input. None: not
            tried, so it stays float.
        moves: Whether every value of the output is one of the input, or zero, so that a range of one holds for both.
        values: The input that holds the values.
        weight: The input that holds the weight.
        bias: The input that holds the bias.
        axis: The dimension of the weight that holds the output channels.
        is_pair: Whether it computes element by element on two tensors, of which either may be constant.
        macs: Multiply-accumulates, from the operator's options and the shapes of its output and then its inputs.
        is_hybrid: Whether it quantizes its input at every inference where only its weight is integer.
        int8: Whether LiteRT has a kernel of its own for int8 tensors.
        xnnpack: Whether XNNPACK takes it over in float.
        xnnpack_int8: Whether XNNPACK takes it over in int8.
        micro: Whether LiteRT for Microcontrollers has it, if only in float.
        edge_tpu: Whether the Edge TPU has it.
    """

    grid: Literal["own", "input", "output"] | Range | None = None
    moves: bool = False
    values: int = 0
    weight: int | None = None
    bias: int | None = None
    axis: int | None = None
    is_pair: bool = False
    macs: Macs | None = None
    is_hybrid: bool = False
    int8: bool | None = None
    xnnpack: bool | None = None
    xnnpack_int8: bool | None = None
    micro: bool | None = None
    edge_tpu: bool = False

    def __post_init__(self) -> None:
        if self.moves and self.grid != "input":
            raise ValueError("what only moves codes cannot give them another meaning: grid is 'input'")
        if (self.weight is None) != (self.axis is None):
            raise ValueError("a weight has an axis for its output channels")

    def demanded_grid(self, source: Range | None) -> Range | None:
        """Return the only grid on which the int8 kernel gives its result for an input on this one; None for any."""
        return source if self.grid == "input" else self.grid if isinstance(self.grid, Range) else None

    @property
    def stands_alone(self) -> bool:
        """Whether the int8 kernel takes one tensor, and gives its result on a grid that does not hang on the others."""
        return self.grid not in (None, "output") and self.macs is None and not self.is_pair


def _convolution(_: Any, shapes: list[list[int]]) -> int:
    return math.prod(shapes[0]) * math.prod(shapes[2][1:])


def _depthwise(_: Any, shapes: list[list[int]]) -> int:
    return math.prod(shapes[0]) * math.prod(shapes[2][1:3])


def _transposed(_: Any, shapes: list[list[int]]) -> int:
    return math.prod(shapes[3]) * math.prod(shapes[2][:3])


def _linear(_: Any, shapes: list[list[int]]) -> int:
    return math.prod(shapes[0]) * shapes[2][-1]


def _product(options: Any, shapes: list[list[int]]) -> int:
    return math.prod(shapes[0]) * shapes[1][-2 if options is not None and options.adjX else -1]


def _moves(**columns: Any) -> Op:
    return Op(grid="input", moves=True, **columns)


def _everywhere(op: Op) -> Op:
    return replace(op, int8=True, xnnpack=True, xnnpack_int8=True, micro=True, edge_tpu=True)


CLAMPS = {"RELU": (0.0, math.inf), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0)}  # least and greatest value
_UNIT, _SIGNED_UNIT = Range((1 / 256,), (-128,)), Range((1 / 128,), (0,))

# Which operators only move values stood in three lists: for the origin of a range (12), for advice (12 others) and for
# what kernels demand (21). The first two asked the same, whether each value of the output is one of the input, and each
# had forgotten some; what answers it here holds for both. It takes in maxima, since cutting to a range and choosing may
# be swapped. Averages and bilinear resizing, of the third list, are on the grid of their input and yet new values: a
# range seen after them says too little about what is before.
#
# Sources: LiteRT 2.1's kernels (grid, MACs, int8; tests ask LiteRT of many); the README of its XNNPACK delegate; TFLite
# Micro's python_ops_resolver.cc; "TensorFlow models on the Edge TPU", coral.ai/docs/edgetpu/models-intro, table 1. Only
# the last is complete: what the others do not name may still be there, as a batched product was seen to be in XNNPACK.
OPERATORS: dict[str, Op] = {
    # weighted sums
    "CONV_2D": _everywhere(Op("own", weight=1, bias=2, axis=0, macs=_convolution, is_hybrid=True)),
    "DEPTHWISE_CONV_2D": _everywhere(Op("own", weight=1, bias=2, axis=3, macs=_depthwise, is_hybrid=True)),
    "TRANSPOSE_CONV": _everywhere(Op("own", values=2, weight=1, bias=3, axis=0, macs=_transposed)),
    "FULLY_CONNECTED": _everywhere(Op("own", weight=1, bias=2, axis=0, macs=_linear, is_hybrid=True)),
    "BATCH_MATMUL": Op("own", macs=_product, is_hybrid=True, int8=True, xnnpack=True, xnnpack_int8=True),
    # two tensors, element by element
    "ADD": _everywhere(Op("own", is_pair=True)),
    "SUB": _everywhere(Op("own", is_pair=True)),
    "MUL": _everywhere(Op("own", is_pair=True)),
    "DIV": Op("own", is_pair=True, xnnpack=True, micro=True),
    "MAXIMUM": Op("output", is_pair=True, int8=True, xnnpack=True, micro=True, edge_tpu=True),
    "MINIMUM": Op("output", is_pair=True, int8=True, xnnpack=True, micro=True, edge_tpu=True),
    "SQUARED_DIFFERENCE": Op(xnnpack=True, micro=True, edge_tpu=True),
    # activations
    "RELU": Op("own", int8=True, xnnpack=True, micro=True, edge_tpu=True),
    "RELU6": Op("own", int8=True, xnnpack=True, micro=True, edge_tpu=True),
    "RELU_N1_TO_1": Op("own", int8=True, xnnpack=True, edge_tpu=True),
    "LEAKY_RELU": Op("own", int8=True, xnnpack=True, xnnpack_int8=True, micro=True),
    "HARD_SWISH": Op("own", int8=True, xnnpack=True, micro=True),
    "GELU": Op("own", int8=True),
    "LOGISTIC": _everywhere(Op(_UNIT)),
    "SOFTMAX": Op(_UNIT, int8=True, xnnpack=True, micro=True, edge_tpu=True),
    "TANH": _everywhere(Op(_SIGNED_UNIT)),
    "ELU": Op("own", int8=True, xnnpack=True, xnnpack_int8=True, micro=True),
    "PRELU": Op(int8=True, xnnpack=True, micro=True, edge_tpu=True),
    # one tensor, value by value
    "EXP": Op(int8=True, micro=True),
    "LOG": Op(int8=True, micro=True),
    "ABS": Op("own", int8=True, xnnpack=True, micro=True),
    "NEG": Op(xnnpack=True, micro=True),
    "SQRT": Op(xnnpack=True, micro=True),
    "RSQRT": Op("own", int8=True, micro=True, edge_tpu=True),
    "CEIL": Op(int8=False, xnnpack=True, micro=True),
    "FLOOR": Op(int8=False, xnnpack=True, micro=True),
    "ROUND": Op(int8=False, xnnpack=True, micro=True),
    "SQUARE": Op(int8=False, xnnpack=True, micro=True),
    "SIN": Op(int8=False, micro=True),
    "COS": Op(int8=False, micro=True),
    "SIGN": Op(int8=False),
    "POW": Op(int8=False),
    "ATAN2": Op(int8=False),
    # over dimensions
    "MEAN": _everywhere(Op("own")),
    "SUM": Op(int8=True, micro=True, edge_tpu=True),
    "AVERAGE_POOL_2D": Op("input", int8=True, xnnpack=True, micro=True, edge_tpu=True),
    "RESIZE_BILINEAR": _everywhere(Op("input")),
    "L2_NORMALIZATION": Op(int8=True, micro=True, edge_tpu=True),
    "L2_POOL_2D": Op(int8=False, micro=True),
    "LOCAL_RESPONSE_NORMALIZATION": Op(int8=False),
    "LSTM": Op(edge_tpu=True),
    "CONV_3D": Op(int8=False),
    "CONV_3D_TRANSPOSE": Op(int8=False),
    "RFFT2D": Op(int8=False),
    "COMPLEX_ABS": Op(int8=False),
    "IMAG": Op(int8=False),
    "REAL": Op(int8=False),
    # only moved or chosen
    "MAX_POOL_2D": _everywhere(_moves()),
    "REDUCE_MAX": _moves(int8=True, micro=True, edge_tpu=True),
    "REDUCE_MIN": _moves(int8=True, edge_tpu=True),
    "RESHAPE": _everywhere(_moves()),
    "TRANSPOSE": _everywhere(_moves()),
    "SQUEEZE": _moves(int8=True, micro=True, edge_tpu=True),
    "EXPAND_DIMS": _moves(int8=True, micro=True, edge_tpu=True),
    "SLICE": _everywhere(_moves()),
    "STRIDED_SLICE": _moves(int8=True, xnnpack=True, micro=True, edge_tpu=True),
    "SPLIT": _everywhere(_moves(values=1)),
    "UNPACK": _moves(int8=True, micro=True),
    "GATHER": _moves(int8=True, micro=True),
    "GATHER_ND": _moves(int8=True, micro=True),
    "PAD": _everywhere(_moves()),
    "MIRROR_PAD": _moves(int8=True, micro=True),
    "TILE": _moves(int8=True),
    "BROADCAST_TO": _moves(int8=True, micro=True),
    "RESIZE_NEAREST_NEIGHBOR": _moves(int8=True, micro=True, edge_tpu=True),
    "DEPTH_TO_SPACE": _moves(int8=True, xnnpack=True, xnnpack_int8=True, micro=True),
    "SPACE_TO_DEPTH": _everywhere(_moves()),
    # joined
    "CONCATENATION": _everywhere(Op("output")),
    "PADV2": Op("output", int8=True, micro=True),
    "PACK": Op(int8=True, micro=True, edge_tpu=True),
    # between grids
    "QUANTIZE": Op(int8=True, xnnpack_int8=True, micro=True, edge_tpu=True),
    "DEQUANTIZE": Op(int8=True, xnnpack_int8=True, micro=True),
}  # fmt: skip


def row(kind: str) -> Op:
    """Return what is known of an operator by its name, such as CONV_2D."""
    return OPERATORS.get(kind, Op())
