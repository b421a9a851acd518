"""Operations on numbers: one in, two in, and over dimensions."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from onnx import TensorProto
from torch import Tensor, nn

from torchshrink.converters.rebuild.node import Node

_TYPES = {
    TensorProto.FLOAT: torch.float32, TensorProto.DOUBLE: torch.float64, TensorProto.FLOAT16: torch.float16,
    TensorProto.INT8: torch.int8, TensorProto.UINT8: torch.uint8, TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32, TensorProto.INT64: torch.int64, TensorProto.BOOL: torch.bool,
}  # fmt: skip


def each(function: Callable[..., Any]) -> Callable[[Node], Callable[..., Any]]:
    """Return the row of a function of all operands."""
    return lambda _node: function


def layer(make: Callable[..., nn.Module], *settings: tuple[str, Any]) -> Callable[[Node], nn.Module]:
    """Return the row of a layer that is made from attributes, each with its default."""
    return lambda node: make(*(node.setting(name, default=default) for name, default in settings))


def pair(function: Callable[[Any, Any], Any]) -> Callable[[Node], Callable[..., Any]]:
    """Return the row of a function of two tensors, of which a constant with one value becomes a number."""

    def row(node: Node) -> Callable[..., Any]:
        if node.is_constant:
            return function
        for place, other in ((1, 0), (0, 1)):
            value = node.value(place)
            if node.is_known(place) and value.numel() == 1 and value.dim() <= node.value(other).dim():
                return _beside(function, node.constant(place).item(), bool(place))
        return function

    return row


def divide(left: Any, right: Any) -> Any:
    """Div: of integers it drops the fraction."""
    is_whole = not any(isinstance(value, float) or _is_float(value) for value in (left, right))
    return torch.div(left, right, rounding_mode="trunc") if is_whole else left / right


def modulo(node: Node) -> Callable[..., Any]:
    """Mod, with the sign of the divisor, or with ``fmod`` that of the dividend."""
    return pair(torch.fmod if node.setting("fmod", default=0) else operator.mod)(node)


def largest(node: Node) -> Callable[..., Any]:
    """Max of any number of tensors; of one and zero it is a ReLU."""
    number = _number(node)
    if number == 0:
        return nn.ReLU()
    return _reduced(torch.maximum) if number is None else lambda values: values.clamp(min=number)


def smallest(node: Node) -> Callable[..., Any]:
    """Min of any number of tensors."""
    number = _number(node)
    return _reduced(torch.minimum) if number is None else lambda values: values.clamp(max=number)


def total(_node: Node) -> Callable[..., Any]:
    """Sum of any number of tensors."""
    return _reduced(operator.add)


def average(_node: Node) -> Callable[..., Any]:
    """Mean of any number of tensors."""
    return lambda *values: functools.reduce(operator.add, values) / len(values)


def clip(node: Node) -> Callable[..., Any]:
    """Clip; ReLU and ReLU6 where these are the limits."""
    low, high = node.setting("min", 1), node.setting("max", 2)
    low, high = (None if end is None or abs(end) > 3e38 else end for end in (low, high))
    if low == 0 and high in (None, 6):
        return nn.ReLU() if high is None else nn.ReLU6()
    if low == -1 and high == 1:
        return nn.Hardtanh()
    return (lambda values: values) if low is None and high is None else lambda values: values.clamp(low, high)


def hard_sigmoid(node: Node) -> Callable[..., Any]:
    """HardSigmoid; PyTorch's where its slope is a sixth."""
    slope, offset = node.setting("alpha", default=0.2), node.setting("beta", default=0.5)
    if abs(slope - 1 / 6) < 1e-6 and offset == 0.5:
        return nn.Hardsigmoid()
    return lambda values: (values * slope + offset).clamp(0, 1)


def softmax(function: Callable[..., Tensor]) -> Callable[[Node], Callable[..., Any]]:
    """Return the row of a softmax, which before opset 13 was over all dimensions from its axis on."""

    def row(node: Node) -> Callable[..., Any]:
        shape = list(node.value().shape)
        axis = node.axis(-1 if node.opset >= 13 else 1)
        if node.opset >= 13 or all(size == 1 for size in shape[axis + 1 :]):
            return lambda values: function(values, axis)
        return lambda values: function(values.flatten(axis), -1).reshape(-1, *shape[1:])

    return row


def cast(node: Node) -> Callable[..., Any]:
    """Cast to one of PyTorch's types."""
    kind = _TYPES.get(node.setting("to"))
    if kind is None:
        raise node.refusal("casts to a type that PyTorch does not compute with")
    return lambda values: values if values.dtype == kind else values.to(kind)


def reduction(function: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[[Node], Callable[..., Any]]:
    """Return the row of a reduction, whose axes were an attribute before opset 18 (13 for a sum)."""

    def row(node: Node) -> Callable[..., Any]:
        keeps, dims = bool(node.setting("keepdims", default=1)), node.value().dim()
        axes = node.axes(1)
        if not axes and node.setting("noop_with_empty_axes", default=0):
            return lambda values: values
        chosen = [axis % dims for axis in axes] if axes else list(range(dims))
        return lambda values: function(values, chosen, keeps)

    return row


def extreme(function: Callable[..., Tensor]) -> Callable[[Node], Callable[..., Any]]:
    """Return the row of ArgMax or ArgMin, of which the first place counts."""

    def row(node: Node) -> Callable[..., Any]:
        axis, keeps = node.axis(0), bool(node.setting("keepdims", default=1))
        if node.setting("select_last_index", default=0):
            raise node.refusal("wants the last of equal values")
        return lambda values: function(values, axis, keeps)

    return row


def product_over(values: Tensor, axes: list[int], keeps: bool) -> Tensor:
    """ReduceProd, one dimension after the other."""
    for axis in sorted(axes, reverse=True):
        values = values.prod(axis, keeps)
    return values


def unit_length(node: Node) -> Callable[..., Any]:
    """LpNormalization."""
    axis, order = node.axis(-1), node.setting("p", default=2)
    return lambda values: F.normalize(values, float(order), axis)


def cumulative(node: Node) -> Callable[..., Any]:
    """CumSum over a constant axis."""
    axis = int(node.constant(1).item())
    if node.setting("exclusive", default=0) or node.setting("reverse", default=0):
        raise node.refusal("sums up in reverse or exclusively")
    return lambda values: values.cumsum(axis)


def einsum(node: Node) -> Callable[..., Any]:
    """Einsum."""
    equation = node.setting("equation")
    return lambda *values: torch.einsum(equation, *values)


def _beside(function: Callable[[Any, Any], Any], number: Any, is_second: bool) -> Callable[..., Any]:
    return (lambda values: function(values, number)) if is_second else (lambda values: function(number, values))


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _number(node: Node) -> Any:
    """Return the number that is one of two operands, which is taken; else None."""
    if len(node.operands) == 2 and not node.is_constant:
        for place in (0, 1):
            if node.is_known(place) and node.value(place).numel() == 1 and _is_float(node.value(1 - place)):
                return node.constant(place).item()
    return None


def _reduced(function: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    return lambda *values: functools.reduce(function, values)
