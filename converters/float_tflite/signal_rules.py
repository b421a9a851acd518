"""What each ONNX operation on signals ``[N, C, L]`` becomes on images one pixel wide ``[N, C, L, 1]``.

A rule takes a node apart from its graph. It returns False, before it changed anything, when the node cannot have a
width; otherwise it rewrites the node's inputs and attributes and returns True. Specification: the ONNX operators, of
opset 10 and later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

from torchshrink.converters import onnx_file

_LENGTH, _WIDTH = 2, 3
_OPSET_OF_ONE_AXIS = 13  # softmax flattened everything from its axis on before
# What a windowed operation's attributes say about the width: a window of one, moved by one.
_WINDOW = {"kernel_shape": 1, "strides": 1, "dilations": 1, "output_padding": 0, "output_shape": 1}


class Tensors(Protocol):
    """What a rule may ask about a graph's tensors, and the constants that it adds."""

    opset: int

    def rank(self, name: str) -> int | None:
        """Return how many dimensions a tensor has in the old graph; None when nobody knows."""

    def constant(self, name: str) -> NDArray[Any] | None:
        """Return a stored constant; None for what is computed."""

    def lifted(self, name: str) -> str:
        """Return the name of a tensor of three dimensions, or of a weight, with a width of 1 after its last one."""

    def operand(self, name: str) -> str:
        """Return the name of a tensor of three dimensions at most as it broadcasts with those that have a width."""

    def flat(self, name: str) -> str:
        """Return a tensor's name as it was in the old graph."""

    def add(self, name: str, values: Sequence[Any] | NDArray[Any]) -> str:
        """Add a constant and return its name, which starts with ``name``."""


Rule = Callable[[Tensors, NodeProto], bool]


def _elementwise(tensors: Tensors, node: NodeProto) -> bool:
    """Give the width to all that is broadcast."""
    if not all(_fits(tensors, name) for name in node.input):
        return False
    for index, name in enumerate(node.input):
        node.input[index] = tensors.operand(name) if name else ""
    return True


def _only_first(tensors: Tensors, node: NodeProto) -> bool:
    """Lift the values; what else is read, numbers and one per channel, stays."""
    if len(node.output) > 1:
        return False
    _lift_first(tensors, node)
    return True


def _window(tensors: Tensors, node: NodeProto) -> bool:
    """Make the window of a convolution or a pooling one wide."""
    is_convolution = node.op_type.startswith("Conv")
    if len(node.output) > 1 or (is_convolution and tensors.rank(node.input[1]) != 3):
        return False
    weight = [tensors.lifted(node.input[1])] if is_convolution else []
    _lift_first(tensors, node)
    node.input[1 : 1 + len(weight)] = weight
    for name, one in _WINDOW.items():
        value = onnx_file.attribute(node, name)
        if value:
            _set(node, name, [*value, one])
    pads = onnx_file.attribute(node, "pads")
    if pads:
        _set(node, "pads", [pads[0], 0, pads[1], 0])
    return True


def _along_axis(tensors: Tensors, node: NodeProto) -> bool:
    """Count the axis of concat, split and softmax from the first one."""
    default = {"Concat": None, "Split": 0}.get(node.op_type, -1)
    axis = onnx_file.attribute(node, "axis", default)
    if "Softmax" in node.op_type and tensors.opset < _OPSET_OF_ONE_AXIS:
        return False
    if node.op_type == "Concat":
        if not all(tensors.rank(name) == 3 for name in node.input):
            return False
        node.input[:] = [tensors.lifted(name) for name in node.input]
    else:
        _lift_first(tensors, node)
    _set(node, "axis", _counted(axis))
    return True


def _reduce(tensors: Tensors, node: NodeProto) -> bool:
    """Reduce over the width too where it is over the length, which is the same numbers."""
    stored = len(node.input) > 1 and bool(node.input[1])
    axes = tensors.constant(node.input[1]) if stored else onnx_file.attribute(node, "axes")
    keeps = onnx_file.attribute(node, "keepdims", 1)
    if axes is None and (stored or onnx_file.attribute(node, "noop_with_empty_axes", 0)):
        return False
    if axes is None:
        _lift_first(tensors, node)
        return True
    counted = sorted({_counted(int(axis)) for axis in axes})
    if _LENGTH in counted:
        counted.append(_WIDTH)
    elif not keeps:
        return False
    _lift_first(tensors, node)
    if stored:
        node.input[1] = tensors.add("axes", counted)
    else:
        _set(node, "axes", counted)
    return True


def _resize(tensors: Tensors, node: NodeProto) -> bool:
    """Add the width to scales or sizes."""
    inputs = list(node.input) + [""] * (4 - len(node.input))
    region = tensors.constant(inputs[1]) if inputs[1] else np.zeros(0)
    index = 3 if inputs[3] else 2
    value = tensors.constant(inputs[index])
    if region is None or region.size or value is None or onnx_file.attribute(node, "axes") is not None:
        return False
    _lift_first(tensors, node)
    node.input[index] = tensors.add("sides", np.append(value, value.dtype.type(1)))
    return True


def _pad(tensors: Tensors, node: NodeProto) -> bool:
    """Add nothing to the left and right."""
    if len(node.input) < 2:
        return False
    pads = tensors.constant(node.input[1])
    has_axes = len(node.input) > 3 and bool(node.input[3])
    axes = tensors.constant(node.input[3]) if has_axes else None
    if pads is None or (has_axes and axes is None):
        return False
    _lift_first(tensors, node)
    if axes is not None:
        node.input[3] = tensors.add("axes", [_counted(int(axis)) for axis in axes])
    else:
        before, after = np.split(pads, 2)
        node.input[1] = tensors.add("pads", [*before, 0, *after, 0])
    return True


def _slice(tensors: Tensors, node: NodeProto) -> bool:
    """Count the axes from the first one."""
    starts = tensors.constant(node.input[1]) if len(node.input) > 2 else None
    has_axes = len(node.input) > 3 and bool(node.input[3])
    axes = tensors.constant(node.input[3]) if has_axes else None
    if starts is None or (has_axes and axes is None):
        return False
    _lift_first(tensors, node)
    counted = [_counted(int(axis)) for axis in (range(starts.size) if axes is None else axes)]
    node.input[3:4] = [tensors.add("axes", counted)]
    return True


def _fits(tensors: Tensors, name: str) -> bool:
    rank = tensors.rank(name) if name else 0
    return rank is not None and rank <= 3


def _lift_first(tensors: Tensors, node: NodeProto) -> None:
    node.input[0] = tensors.lifted(node.input[0])
    for index, name in enumerate(node.input):
        if index:
            node.input[index] = tensors.flat(name)


def _counted(axis: int) -> int:
    """Return an axis of ``[N, C, L]`` counted from the first one, which is where it stays."""
    return axis + 3 if axis < 0 else axis


def _set(node: NodeProto, name: str, value: Any) -> None:
    kept = [item for item in node.attribute if item.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


_BROADCAST = ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean", "PRelu", "Where", "Greater",
              "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "And", "Or", "Xor")  # fmt: skip
ONE_BY_ONE = ("Relu", "LeakyRelu", "Elu", "Selu", "Celu", "ThresholdedRelu", "Sigmoid", "HardSigmoid", "HardSwish",
               "Tanh", "Softplus", "Softsign", "Erf", "Gelu", "Mish", "Swish", "Exp", "Log", "Sqrt", "Reciprocal",
               "Neg", "Abs", "Sign", "Floor", "Ceil", "Round", "Sin", "Cos", "Not", "Clip", "Identity", "Cast",
               "Dropout", "BatchNormalization", "InstanceNormalization")  # fmt: skip
_WINDOWED = ("Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool")
_REDUCTIONS = ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
               "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp")  # fmt: skip

RULES: dict[str, Rule] = {
    **dict.fromkeys(_BROADCAST, _elementwise),
    **dict.fromkeys(ONE_BY_ONE, _only_first),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _only_first),
    **dict.fromkeys(_WINDOWED, _window),
    **dict.fromkeys(("Concat", "Split", "Softmax", "LogSoftmax"), _along_axis),
    **dict.fromkeys(_REDUCTIONS, _reduce),
    "Resize": _resize,
    "Pad": _pad,
    "Slice": _slice,
}
