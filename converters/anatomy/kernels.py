"""Which operations the runtimes compute in int8, and what to use instead of the others.

For LiteRT the commonest were tried on int8 tensors (the tests do so again); for ONNX Runtime the list is of what its
CPU provider was seen to run in integers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from torchshrink.converters.anatomy.operations import Operation
from torchshrink.converters.tflite_ops import row

Runtime = Literal["LiteRT", "ONNX Runtime"]

_IN_ONNXRUNTIME = {
    "Add", "AveragePool", "Clip", "Concat", "Conv", "DepthToSpace", "Expand", "Flatten", "FusedConv", "Gather",
    "GatherElements", "GatherND", "Gemm", "GlobalAveragePool", "LeakyRelu", "MatMul", "MaxPool", "Mul", "Pad", "Relu",
    "Reshape", "Resize", "Sigmoid", "Slice", "Softmax", "SpaceToDepth", "Split",
    "Squeeze", "Tile", "Transpose", "Unsqueeze", "Where",
}  # fmt: skip
# Kinds whose int8 form takes 1.5 times as long as their float form or more, and not for want of dot products:
# `docs/operators.md` has the figures. In LiteRT their int8 kernels are none of XNNPACK's.
SLOWER_IN_INT8: dict[Runtime, frozenset[str]] = {
    "LiteRT": frozenset({"ABS", "AVERAGE_POOL_2D", "HARD_SWISH", "RELU", "RELU6", "RSQRT", "SOFTMAX"}),
    "ONNX Runtime": frozenset({"depthwise QLinearConv", "QLinearAveragePool", "Resize"}),
}
# ONNX Runtime puts these around its float convolutions and poolings.
_LAYOUT = {"ReorderInput", "ReorderOutput"}
_MOVES_IN_ONNX = {
    "DepthToSpace", "Expand", "Flatten", "Gather", "Pad", "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze",
    "Tile", "Transpose", "Unsqueeze",
}  # fmt: skip

_RELU = {"LiteRT": "ReLU or ReLU6", "ONNX Runtime": "ReLU, leaky ReLU or a sigmoid"}
_ACTIVATIONS = {
    "Gelu", "FastGelu", "BiasGelu", "QuickGelu", "Elu", "Celu", "Selu", "HardSwish", "HardSigmoid", "Mish", "PRelu",
    "Softplus", "Softsign", "Tanh", "ThresholdedRelu",
}  # fmt: skip
_ADVICE = {
    "AVERAGE_POOL_2D": "use max pooling, or a convolution with a stride",
    "QLinearAveragePool": "use max pooling, or a convolution with a stride",
    "Resize": "resize linearly, or use a transposed convolution whose kernel is as large as its stride",
    "depthwise QLinearConv": "keep it float (keep_float), or ship the TFLite file",
    "HARD_SWISH": "replace it by ReLU or ReLU6",
    "RELU": "put it right after a convolution, a sum or a product, which computes it along",
    "RELU6": "put it right after a convolution, a sum or a product, which computes it along",
    "RSQRT": "use batch normalization for norms of layers, groups or instances, and hard-swish for Mish",
    "SQUARE": "write it as x * x, a MUL",
    "POW": "write a whole power as a product, x * x",
    "Pow": "write a whole power as a product, x * x",
    "Div": "multiply by the reciprocal",
    "Sub": "add the negative",
    "ConvTranspose": "make its kernel as large as its stride, which torchshrink exports as a convolution, or resize "
    "and convolve",
    "LayerNormalization": "use batch normalization, which becomes part of the convolution before it",
    "InstanceNormalization": "use batch normalization, which becomes part of the convolution before it",
    "GroupNormalization": "use batch normalization, which becomes part of the convolution before it",
}
# What exporters write for activations without an operation of their own.
_ELEMENTWISE = {
    "ADD", "DIV", "EXP", "GREATER", "LOG", "LOGISTIC", "MUL", "POW", "SELECT", "SELECT_V2", "SUB", "TANH",
    "Add", "Div", "Erf", "Exp", "FlexErf", "Greater", "HardSigmoid", "Log", "Mul", "Pow", "Sigmoid", "Softplus", "Sub",
    "Tanh", "Where",
}  # fmt: skip
_COMPOSED = (
    ({"Erf"}, "GELU"), ({"FlexErf"}, "GELU"), ({"EXP", "LOG", "TANH"}, "Mish"), ({"Softplus", "Tanh"}, "Mish"),
    ({"EXP", "LOG"}, "Softplus"), ({"Softplus"}, "Softplus"), ({"Tanh", "Mul", "Add"}, "GELU"),
    ({"TANH", "MUL", "ADD"}, "GELU"), ({"Sigmoid", "Mul"}, "SiLU"), ({"LOGISTIC", "MUL"}, "SiLU"),
    ({"HardSigmoid", "Mul"}, "hard-swish"),
)  # fmt: skip
_GENERAL = "replace it, or move it to the beginning or the end of the model, where it separates no int8 operations"


def has_int8(kind: str, runtime: Runtime) -> bool:
    """Return whether a runtime has a kernel for int8 tensors of an operation."""
    if runtime == "ONNX Runtime":
        return kind in _IN_ONNXRUNTIME | _LAYOUT
    from ai_edge_litert import schema_py_generated as schema  # which only users of LiteRT have

    return hasattr(schema.BuiltinOperator, kind) and row(kind).int8 is not False and not kind.startswith("STABLEHLO")


def is_slower(operation: Operation, runtime: Runtime) -> bool:
    """Return whether an operation computes in int8 and takes longer than in float."""
    return operation.precision == "int8" and operation.full_kind in SLOWER_IN_INT8[runtime]


def is_layout(kind: str) -> bool:
    """Return whether the runtime added an operation for the float operations next to it."""
    return kind in _LAYOUT


def only_moves(kind: str) -> bool:
    """Return whether an operation computes nothing, only moves values."""
    return row(kind).moves or kind in _MOVES_IN_ONNX


def advice(kind: str, runtime: Runtime) -> str:
    """Return which change to the model avoids an operation that has no int8 kernel."""
    if kind in _ACTIVATIONS:
        return f"replace {kind} by {_RELU[runtime]}"
    return _ADVICE.get(kind, _GENERAL)


def composed(kinds: Iterable[str], runtime: Runtime) -> str | None:
    """Return what to use instead of an activation that a stretch of elementwise operations is; None when it is none."""
    found = set(kinds)
    name = next((name for parts, name in _COMPOSED if parts <= found <= _ELEMENTWISE), None)
    return None if name is None else f"this looks like {name}: replace it by {_RELU[runtime]}"
