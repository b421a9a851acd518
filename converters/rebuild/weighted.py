"""Convolutions, matrix products and norms: rows that make layers of PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from torchshrink.converters.rebuild.node import Node

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_PADS: tuple[Any, ...] = (nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_INSTANCE_NORMS = (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)


def convolution(node: Node) -> nn.Module:
    """Conv: a layer, after a layer of zeros where a side has more of them than the other."""
    weight, bias = node.constant(1), node.constant(2) if node.has(2) else None
    dims = weight.dim() - 2
    kernel = list(weight.shape[2:])
    strides, dilations = steps(node, "strides", dims), steps(node, "dilations", dims)
    begin, end = pads(node, kernel, strides, dilations)
    groups = node.setting("group", default=1)
    layer = _empty(
        _CONVOLUTIONS[dims - 1], weight.shape[1] * groups, weight.shape[0], kernel, strides,
        begin if begin == end else 0, dilations, groups, bias is not None,
    )  # fmt: skip
    _fill(layer, weight, bias)
    return layer if begin == end else nn.Sequential(_PADS[dims - 1](by_side(begin, end), 0.0), layer)


def transposed(node: Node) -> nn.Module:
    """ConvTranspose: a layer, and the edges that it has too much cut off where they are not alike."""
    weight, bias = node.constant(1), node.constant(2) if node.has(2) else None
    dims, kernel = weight.dim() - 2, list(weight.shape[2:])
    strides, dilations = steps(node, "strides", dims), steps(node, "dilations", dims)
    extra = list(node.setting("output_padding", default=[0] * dims))
    begin, end = _cut(node, kernel, strides, dilations, extra)
    groups = node.setting("group", default=1)
    layer = _empty(
        _TRANSPOSED[dims - 1], weight.shape[0], weight.shape[1] * groups, kernel, strides,
        begin if begin == end else 0, extra, groups, bias is not None, dilations,
    )  # fmt: skip
    _fill(layer, weight, bias)
    return layer if begin == end else nn.Sequential(layer, Crop(begin, end))


class Crop(nn.Module):
    """Cuts so many values off the beginning and the end of every dimension but the first two."""

    def __init__(self, begin: Sequence[int], end: Sequence[int]) -> None:
        super().__init__()
        self.ends = list(zip(begin, end, strict=True))

    def forward(self, values: Tensor) -> Tensor:
        """Return ``[N, C, *size]`` without its edges."""
        for dim, (begin, end) in enumerate(self.ends, 2):
            if begin or end:
                values = values.narrow(dim, begin, values.shape[dim] - begin - end)
        return values


def product(node: Node) -> Callable[..., Any]:
    """MatMul: a linear layer where the second factor is a constant matrix."""
    if not node.is_constant and node.is_known(1) and node.value(1).dim() == 2 and node.value(0).dim() > 1:
        return _linear(node.constant(1).T, None)
    return torch.matmul


def gemm(node: Node) -> Callable[..., Any]:
    """Gemm: a linear layer where the second factor and the sum are constants."""
    alpha, beta = node.setting("alpha", default=1.0), node.setting("beta", default=1.0)
    turn_left, turn_right = node.setting("transA", default=0), node.setting("transB", default=0)
    if not turn_left and node.is_known(1) and (not node.has(2) or node.is_known(2)):
        weight = node.constant(1) if turn_right else node.constant(1).T
        bias = beta * node.constant(2).expand(1, len(weight))[0] if node.has(2) else None
        return _linear(alpha * weight, bias)

    def compute(left: Tensor, right: Tensor, added: Tensor | float = 0.0) -> Tensor:
        found: Tensor = alpha * ((left.T if turn_left else left) @ (right.T if turn_right else right))
        whole: Tensor = found + beta * added
        return whole

    return compute


def batch_norm(node: Node) -> nn.Module:
    """BatchNormalization, with its statistics fixed."""
    if node.setting("training_mode", default=0) or len(node.proto.output) > 1:
        raise node.refusal("normalises by the batch, as in training")
    gain, shift, mean, variance = (node.constant(place) for place in range(1, 5))
    layer = _BATCH_NORMS[max(0, node.value().dim() - 2)](len(gain), node.setting("epsilon", default=1e-5))
    _fill(layer, gain, shift)
    layer.running_mean, layer.running_var = mean.clone(), variance.clone()
    return layer.eval()


def instance_norm(node: Node) -> nn.Module:
    """InstanceNormalization."""
    gain, shift = node.constant(1), node.constant(2)
    kind = _INSTANCE_NORMS[node.value().dim() - 3]
    layer = kind(len(gain), node.setting("epsilon", default=1e-5), affine=True)
    return _fill(layer, gain, shift)


def layer_norm(node: Node) -> nn.Module:
    """LayerNormalization of the last dimensions."""
    shape = list(node.value().shape[node.axis(-1) :])
    gain, shift = node.constant(1), node.constant(2) if node.has(2) else None
    layer = nn.LayerNorm(shape, node.setting("epsilon", default=1e-5), bias=shift is not None)
    return _fill(layer, gain.expand(shape), None if shift is None else shift.expand(shape))


def group_norm(node: Node) -> nn.Module:
    """GroupNormalization, whose gains were one for each group before opset 21."""
    groups, channels = node.setting("num_groups"), node.value().shape[1]
    gain, shift = (node.constant(place) for place in (1, 2))
    if len(gain) != channels:
        gain, shift = (each.repeat_interleave(channels // groups) for each in (gain, shift))
    return _fill(nn.GroupNorm(groups, channels, node.setting("epsilon", default=1e-5)), gain, shift)


def prelu(node: Node) -> Callable[..., Any]:
    """PRelu: a layer where there is one slope, or one for each channel."""
    slope = node.value(1)
    is_by_channel = slope.numel() == slope.shape[0] if slope.dim() == node.value().dim() - 1 else slope.numel() == 1
    if not node.is_known(1) or not is_by_channel:
        return lambda values, slopes: torch.where(values < 0, values * slopes, values)
    layer = nn.PReLU(slope.numel())
    return _fill(layer, node.constant(1).flatten(), None)


def steps(node: Node, name: str, dims: int) -> list[int]:
    """Return an attribute that has a number for each dimension of a window, 1 where it is left out."""
    return list(node.setting(name, default=[1] * dims))


def pads(
    node: Node, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Return how much is added before the first and after the last value of each dimension, ``auto_pad`` worked out.

    Source: https://onnx.ai/onnx/operators/onnx__Conv.html, "auto_pad".
    """
    dims, kind = len(kernel), node.setting("auto_pad", default="NOTSET")
    if kind == "NOTSET":
        given = list(node.setting("pads", default=[0] * 2 * dims))
        return given[:dims], given[dims:]
    if kind == "VALID":
        return [0] * dims, [0] * dims
    sizes = zip(node.value().shape[2:], kernel, strides, dilations, strict=True)
    return _halves(
        [max(0, (math.ceil(n / step) - 1) * step + (width - 1) * d + 1 - n) for n, width, step, d in sizes], kind
    )


def by_side(begin: Sequence[int], end: Sequence[int]) -> list[int]:
    """Return padding as PyTorch wants it: from the last dimension to the first."""
    return [each for pair in reversed(list(zip(begin, end, strict=True))) for each in pair]


def _halves(totals: Sequence[int], kind: str) -> tuple[list[int], list[int]]:
    small, large = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return (small, large) if kind == "SAME_UPPER" else (large, small)


def _cut(
    node: Node, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], extra: Sequence[int]
) -> tuple[list[int], list[int]]:
    """Return how much a transposed convolution takes off each side."""
    wanted, kind = node.setting("output_shape"), node.setting("auto_pad", default="NOTSET")
    if wanted is None and not kind.startswith("SAME"):
        return pads(node, kernel, strides, dilations)
    sizes = list(node.value().shape[2:])
    multiples = [size * step for size, step in zip(sizes, strides, strict=True)]
    wanted = multiples if wanted is None else wanted[-len(sizes) :]
    full = [
        step * (n - 1) + more + (width - 1) * d + 1
        for n, width, step, d, more in zip(sizes, kernel, strides, dilations, extra, strict=True)
    ]
    # The specification halves the other way round here than for convolutions.
    totals = [has - want for has, want in zip(full, wanted, strict=True)]
    return _halves(totals, kind if kind == "SAME_UPPER" else "SAME_LOWER")


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Module:
    return _fill(_empty(nn.Linear, weight.shape[1], weight.shape[0], bias is not None), weight, bias)


def _empty(kind: type[nn.Module], *settings: Any) -> nn.Module:
    """Return a layer without weights that are drawn, only to be replaced."""
    layer: nn.Module = skip_init(kind, *settings)  # type: ignore[no-untyped-call]
    return layer


def _fill(layer: nn.Module, weight: Tensor, bias: Tensor | None) -> nn.Module:
    """Give a layer its parameters."""
    layer.weight = nn.Parameter(weight.clone(memory_format=torch.contiguous_format))
    if bias is not None:
        layer.bias = nn.Parameter(bias.clone(memory_format=torch.contiguous_format))
    return layer
