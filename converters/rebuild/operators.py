"""How operators of ONNX are written in PyTorch: one row for each, across opset 9 to 21.

A row is given a node and returns the function, or layer, that computes its results from its operands: what it did not
ask for as a setting. What stands in no row is refused by name. A new operator is a line here, and a case in
``tests/converters/rebuild/test_operators.py``, where ONNX Runtime says what is right.

Source: https://onnx.ai/onnx/operators
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from torchshrink.converters.rebuild import moving, numbers, weighted, windows
from torchshrink.converters.rebuild.node import Node
from torchshrink.converters.rebuild.numbers import each, extreme, layer, pair, reduction, softmax
from torchshrink.converters.rebuild.recurrent import recurrent

Row = Callable[[Node], Callable[..., Any]]

# The result depends on the shape of the operand alone, which but for the number of samples is fixed.
OF_SHAPES = {"Shape", "Size"}

OPERATORS: dict[str, Row] = {
    # layers
    "Conv": weighted.convolution,
    "ConvTranspose": weighted.transposed,
    "MatMul": weighted.product,
    "Gemm": weighted.gemm,
    "Einsum": numbers.einsum,
    "BatchNormalization": weighted.batch_norm,
    "InstanceNormalization": weighted.instance_norm,
    "LayerNormalization": weighted.layer_norm,
    "GroupNormalization": weighted.group_norm,
    "LpNormalization": numbers.unit_length,
    "LRN": layer(nn.LocalResponseNorm, ("size", 5), ("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)),
    "LSTM": recurrent,
    "GRU": recurrent,
    # one number in
    "Abs": each(torch.abs),
    "Cast": numbers.cast,
    "Ceil": each(torch.ceil),
    "Celu": layer(nn.CELU, ("alpha", 1.0)),
    "Clip": numbers.clip,
    "Cos": each(torch.cos),
    "Dropout": lambda node: _first_of(node, lambda values: values),
    "Elu": layer(nn.ELU, ("alpha", 1.0)),
    "Erf": each(torch.erf),
    "Exp": each(torch.exp),
    "Floor": each(torch.floor),
    "Gelu": layer(lambda kind: nn.GELU(kind), ("approximate", "none")),
    "HardSigmoid": numbers.hard_sigmoid,
    "HardSwish": layer(nn.Hardswish),
    "Identity": each(lambda values: values),
    "LeakyRelu": layer(nn.LeakyReLU, ("alpha", 0.01)),
    "Log": each(torch.log),
    "LogSoftmax": softmax(torch.log_softmax),
    "Mish": layer(nn.Mish),
    "Neg": each(torch.neg),
    "Not": each(torch.logical_not),
    "PRelu": weighted.prelu,
    "Reciprocal": each(torch.reciprocal),
    "Relu": layer(nn.ReLU),
    "Round": each(torch.round),
    "Selu": layer(nn.SELU),
    "Sigmoid": layer(nn.Sigmoid),
    "Sign": each(torch.sign),
    "Sin": each(torch.sin),
    "Softmax": softmax(torch.softmax),
    "Softplus": layer(nn.Softplus),
    "Softsign": layer(nn.Softsign),
    "Sqrt": each(torch.sqrt),
    "Tanh": layer(nn.Tanh),
    "ThresholdedRelu": layer(lambda limit: nn.Threshold(limit, 0.0), ("alpha", 1.0)),
    # several in
    "Add": pair(operator.add),
    "And": pair(operator.and_),
    "Div": pair(numbers.divide),
    "Equal": pair(operator.eq),
    "Greater": pair(operator.gt),
    "GreaterOrEqual": pair(operator.ge),
    "Less": pair(operator.lt),
    "LessOrEqual": pair(operator.le),
    "Max": numbers.largest,
    "Mean": numbers.average,
    "Min": numbers.smallest,
    "Mod": numbers.modulo,
    "Mul": pair(operator.mul),
    "Or": pair(operator.or_),
    "Pow": pair(operator.pow),
    "Sub": pair(operator.sub),
    "Sum": numbers.total,
    "Where": each(torch.where),
    "Xor": pair(operator.xor),
    # over dimensions
    "ArgMax": extreme(torch.argmax),
    "ArgMin": extreme(torch.argmin),
    "CumSum": numbers.cumulative,
    "ReduceL1": reduction(lambda values, axes, keeps: values.abs().sum(axes, keeps)),
    "ReduceL2": reduction(lambda values, axes, keeps: (values * values).sum(axes, keeps).sqrt()),
    "ReduceLogSum": reduction(lambda values, axes, keeps: values.sum(axes, keeps).log()),
    "ReduceLogSumExp": reduction(torch.logsumexp),
    "ReduceMax": reduction(torch.amax),
    "ReduceMean": reduction(torch.mean),
    "ReduceMin": reduction(torch.amin),
    "ReduceProd": reduction(numbers.product_over),
    "ReduceSum": reduction(torch.sum),
    "ReduceSumSquare": reduction(lambda values, axes, keeps: (values * values).sum(axes, keeps)),
    "TopK": moving.top,
    # windows
    "AveragePool": windows.average_pool,
    "GlobalAveragePool": windows.mean_of_all,
    "GlobalMaxPool": windows.maximum_of_all,
    "MaxPool": lambda node: _first_of(node, windows.max_pool(node)),
    "Pad": windows.pad,
    "Resize": windows.resize,
    "Upsample": windows.resize,
    # only moved
    "Concat": moving.concatenate,
    "DepthToSpace": moving.depth_to_space,
    "Expand": moving.expand,
    "Flatten": moving.flatten,
    "Gather": moving.gather,
    "GatherElements": moving.gather_elements,
    "Reshape": moving.reshape,
    "Slice": moving.slices,
    "SpaceToDepth": moving.space_to_depth,
    "Split": moving.split,
    "Squeeze": moving.squeeze,
    "Tile": moving.tile,
    "Transpose": moving.transpose,
    "Trilu": moving.triangle,
    "Unsqueeze": moving.unsqueeze,
    # made
    "Constant": moving.constant,
    "ConstantOfShape": moving.filled,
    "Range": each(torch.arange),
    "Shape": moving.shape_of,
    "Size": each(lambda values: torch.tensor(values.numel())),
}


def row(node: Node) -> Callable[..., Any]:
    """Return what computes a node.

    Raises:
        UnsupportedOpError: When there is none, naming the node and its operator.
    """
    is_standard = node.proto.domain in ("", "ai.onnx")
    if not is_standard or node.proto.op_type not in OPERATORS:
        where = "" if is_standard else f" of {node.proto.domain}"
        raise node.refusal(f"is an operator{where} that has no counterpart here")
    return OPERATORS[node.proto.op_type](node)


def _first_of(node: Node, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return what computes the first result of a node that has more; of Dropout, the settings are left out too."""
    for place in range(1, len(node.values)):
        if node.has(place):
            node.constant(place)
    return function
