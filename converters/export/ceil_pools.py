"""Pools whose windows reach over the end (``ceil_mode``), written so that every runtime computes what PyTorch does.

ONNX's operators leave two things open that PyTorch settles and ONNX Runtime settles otherwise: a window may not begin
behind the data and its first padding, and an average counts padding, but not what lies behind the second padding.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper, shape_inference

from torchshrink.converters.onnx_file import attribute


def spell_out(model: onnx.ModelProto) -> None:
    """Replace ``ceil_mode`` by padding that makes the same windows, in place; averages are corrected by a product."""
    pools = [node for node in model.graph.node if node.op_type.endswith("Pool") and attribute(node, "ceil_mode", 0)]
    if not pools:
        return
    shapes = _shapes(model)
    for node in pools:
        sizes = shapes.get(node.input[0], [])[2:]
        if sizes and all(sizes):
            _spell_out(model, node, sizes)


def _shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    """Return the sizes of all tensors; a free one is 0."""
    graph = shape_inference.infer_shapes(model).graph
    return {
        item.name: [side.dim_value for side in item.type.tensor_type.shape.dim]
        for item in [*graph.value_info, *graph.input, *graph.output]
    }


def _spell_out(model: onnx.ModelProto, node: NodeProto, sizes: list[int]) -> None:
    dims = len(sizes)
    kernel, stride = attribute(node, "kernel_shape"), attribute(node, "strides", [1] * dims)
    dilation, pads = attribute(node, "dilations", [1] * dims), attribute(node, "pads", [0] * 2 * dims)
    begins, ends = pads[:dims], pads[dims:]
    limits = zip(sizes, kernel, stride, dilation, begins, ends, strict=True)
    windows, needed = map(list, zip(*(count(*limit) for limit in limits), strict=True))
    counts_padding = any(pads) and bool(attribute(node, "count_include_pad", 0))
    for name in ("ceil_mode", "pads", "count_include_pad"):
        for item in [item for item in node.attribute if item.name == name]:
            node.attribute.remove(item)
    node.attribute.append(helper.make_attribute("pads", [*begins, *needed]))
    if counts_padding:
        node.attribute.append(helper.make_attribute("count_include_pad", 1))
    if node.op_type == "AveragePool" and counts_padding and needed != ends:
        sides = zip(sizes, kernel, stride, begins, ends, windows, strict=True)
        _correct(model, node, [_shares(*side) for side in sides])


def count(size: int, kernel: int, stride: int, dilation: int, begin: int, end: int) -> tuple[int, int]:
    """Return how many windows PyTorch has along one dimension with ``ceil_mode``, and what padding at its end holds."""
    reach = dilation * (kernel - 1) + 1
    windows = math.ceil((size + begin + end - reach) / stride) + 1
    if (windows - 1) * stride >= size + begin:
        windows -= 1  # it would begin behind the data
    return windows, max(0, (windows - 1) * stride + reach - size - begin)


def _shares(size: int, kernel: int, stride: int, begin: int, end: int, windows: int) -> NDArray[Any]:
    """Return for each window of one dimension its length over the part of it that PyTorch counts."""
    starts = np.arange(windows) * stride - begin
    shares: NDArray[Any] = kernel / (np.minimum(starts + kernel, size + end) - starts)
    return shares


def _correct(model: onnx.ModelProto, node: NodeProto, shares: list[NDArray[Any]]) -> None:
    factor = shares[0]
    for share in shares[1:]:
        factor = factor[..., None] * share
    output, name = node.output[0], f"{node.output[0]}_counted"
    node.output[0] = f"{output}_windows"
    model.graph.initializer.append(numpy_helper.from_array(factor.astype(np.float32)[None, None], name))
    place = list(model.graph.node).index(node) + 1
    model.graph.node.insert(place, helper.make_node("Mul", [node.output[0], name], [output], name=name))
