"""Pools, padding and resizing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchshrink.converters.rebuild.node import Node
from torchshrink.converters.rebuild.weighted import by_side, pads, steps

_MAX_POOLS: tuple[Any, ...] = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
_AVERAGE_POOLS: tuple[Any, ...] = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_MEANS: tuple[Any, ...] = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
_LINEAR = {3: "linear", 4: "bilinear", 5: "trilinear"}


def max_pool(node: Node) -> Callable[..., Any]:
    """MaxPool, its values only; where the sides are padded by different amounts, with their own edges."""
    kernel = list(node.setting("kernel_shape"))
    strides, dilations = steps(node, "strides", len(kernel)), steps(node, "dilations", len(kernel))
    begin, end = pads(node, kernel, strides, dilations)
    is_even = begin == end and all(2 * pad <= width for pad, width in zip(begin, kernel, strict=True))
    pool = _MAX_POOLS[len(kernel) - 1](
        kernel, strides, begin if is_even else 0, dilations, ceil_mode=bool(node.setting("ceil_mode", default=0))
    )
    if is_even:
        whole: Callable[..., Any] = pool
        return whole
    if any(each > 1 for each in dilations):
        raise node.refusal("has a dilated window over uneven padding")
    # A window over the edge holds the edge itself too, so that its copies change no maximum: no -inf to quantize.
    return lambda values: pool(_with_edges(values, begin, end))


def average_pool(node: Node) -> Callable[..., Any]:
    """AveragePool, with or without what it is padded with."""
    kernel = list(node.setting("kernel_shape"))
    dims = len(kernel)
    strides = steps(node, "strides", dims)
    if any(each > 1 for each in steps(node, "dilations", dims)):
        raise node.refusal("has a dilated window")
    begin, end = pads(node, kernel, strides, [1] * dims)
    rounds_up, counts = bool(node.setting("ceil_mode", default=0)), bool(node.setting("count_include_pad", default=0))
    make = _AVERAGE_POOLS[dims - 1]
    if begin == end and all(2 * pad <= width for pad, width in zip(begin, kernel, strict=True)):
        pool: Callable[..., Any] = make(kernel, strides, begin, rounds_up, counts)
        return pool
    sides, plain = by_side(begin, end), make(kernel, strides, 0, rounds_up)
    if counts:
        return lambda values: plain(F.pad(values, sides))
    share = 1 / plain(F.pad(torch.ones(1, 1, *node.value().shape[2:]), sides))
    return lambda values: plain(F.pad(values, sides)) * share.to(values)


def mean_of_all(node: Node) -> Callable[..., Any]:
    """GlobalAveragePool."""
    pool: Callable[..., Any] = _MEANS[node.value().dim() - 3](1)
    return pool


def maximum_of_all(node: Node) -> Callable[..., Any]:
    """GlobalMaxPool."""
    dims = list(range(2, node.value().dim()))
    return lambda values: values.amax(dims, keepdim=True)


def pad(node: Node) -> Callable[..., Any]:
    """Pad, with a number, the edge or a reflection."""
    mode, dims = node.setting("mode", default="constant"), node.value().dim()
    sizes, value = node.setting("pads", 1), node.setting("value", 2, 0.0)
    axes = [axis % dims for axis in node.axes(3) or range(dims)]
    if mode not in ("constant", "edge", "reflect"):
        raise node.refusal(f"pads with mode {mode!r}")
    begin, end = [0] * dims, [0] * dims
    for place, axis in enumerate(axes):
        begin[axis], end[axis] = int(sizes[place]), int(sizes[place + len(axes)])
    first = next((axis for axis in range(dims) if begin[axis] or end[axis]), dims)
    if first == dims:
        return lambda values: values
    first = first if mode == "constant" else min(first, 2)
    sides = by_side(begin[first:], end[first:])
    if mode == "constant":
        value = value[0] if isinstance(value, list) else value
        return lambda values: F.pad(values, sides, value=value)
    name = "replicate" if mode == "edge" else mode
    return lambda values: F.pad(values, sides, name)


def resize(node: Node) -> Callable[..., Any]:
    """Resize and its ancestor Upsample, to a size that is worked out now."""
    shape = list(node.value().shape)
    sizes, scales = _goal(node, shape)
    mode = node.setting("mode", default="nearest")
    is_new = node.proto.op_type == "Resize" and node.opset >= 11
    places = node.setting("coordinate_transformation_mode", default="half_pixel") if is_new else "asymmetric"
    if sizes[:2] != shape[:2] or node.setting("antialias", default=0):
        raise node.refusal("resizes samples, channels or with antialiasing")
    if mode == "nearest":
        is_whole = all(new % old == 0 for new, old in zip(sizes[2:], shape[2:], strict=True))
        kind = "nearest" if is_whole or places == "asymmetric" else "nearest-exact"
        return lambda values: F.interpolate(values, sizes[2:], mode=kind)
    kind = "bicubic" if mode == "cubic" else _LINEAR[len(shape)]
    if places == "asymmetric" and mode == "linear":
        return _from_corner(node, sizes[2:], scales[2:], kind)
    if places not in ("align_corners", "half_pixel", "pytorch_half_pixel"):
        raise node.refusal(f"resizes with {places!r}")
    return lambda values: F.interpolate(values, sizes[2:], mode=kind, align_corners=places == "align_corners")


def _goal(node: Node, shape: Sequence[int]) -> tuple[list[int], list[float]]:
    """Return the size to make, of all dimensions, and by which factors that is."""
    is_new = node.proto.op_type == "Resize" and node.opset >= 11
    if is_new and node.has(1):
        node.constant(1)  # the region of interest, of a mode that is refused
    axes = [axis % len(shape) for axis in node.axes(None) or range(len(shape))]
    sizes, scales = list(shape), [1.0] * len(shape)
    if is_new and node.has(3) and node.value(3).numel():
        for axis, size in zip(axes, node.setting("sizes", 3), strict=True):
            sizes[axis], scales[axis] = int(size), size / shape[axis]
        if node.has(2):
            node.constant(2)
    else:
        for axis, scale in zip(axes, node.setting("scales", 2 if is_new else 1), strict=True):
            sizes[axis], scales[axis] = int(shape[axis] * scale), scale
    return sizes, scales


def _from_corner(node: Node, sizes: Sequence[int], scales: Sequence[float], kind: str) -> Callable[..., Any]:
    """Return linear interpolation at ``i / factor``: that between corners, of a picture with one more row and column.

    The last of ``n + 1`` values then lies at ``n * factor``, so that corners meet corners; it is cut off again.
    """
    if any(scale != int(scale) for scale in scales):
        raise node.refusal("resizes linearly from the corner by a factor that is no whole number")
    one = [int(scale > 1) for scale in scales]
    larger = [size + more for size, more in zip(sizes, one, strict=True)]

    def compute(values: Tensor) -> Tensor:
        wide = F.interpolate(_with_edges(values, [0] * len(one), one), larger, mode=kind, align_corners=True)
        for dim, size in enumerate(sizes, 2):
            wide = wide.narrow(dim, 0, size)
        return wide

    return compute


def _with_edges(values: Tensor, begin: Sequence[int], end: Sequence[int]) -> Tensor:
    """Return ``[N, C, *size]`` with its first and last values repeated so many times."""
    for dim, (before, after) in enumerate(zip(begin, end, strict=True), 2):
        if before or after:
            first, last = values.narrow(dim, 0, 1), values.narrow(dim, values.shape[dim] - 1, 1)
            values = torch.cat([*[first] * before, values, *[last] * after], dim)
    return values
