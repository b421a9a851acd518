"""Which layers of an int8 ONNX file come out wrong on x86 without VNNI, computed from their weights on any machine.

ONNX Runtime's kernels there multiply unsigned activations by signed weights two at a time and add the two products in
16 bits, which saturates beyond 32767. Unsigned weights go through other kernels, depthwise convolutions and what stays
float too. Our own weights leave room: see `torchshrink.quantize.observer.largest`.

Source: the instruction VPMADDUBSW, and ONNX Runtime's documentation, "When and why do I need to try U8U8?".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, numpy_helper

from torchshrink.converters.onnx_file import DEQUANTIZE, QUANTIZE, attribute, constants

_LARGEST_ACTIVATION = 255
_LOW, _HIGH = -(2**15), 2**15 - 1
# Integer operators: which input holds the weight. Those between quantize and dequantize nodes have it second.
_WEIGHT_INPUT = {
    "QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3, "ConvInteger": 1, "MatMulInteger": 1, "MatMulIntegerToFloat": 1,
    "DynamicQuantizeMatMul": 1,
}  # fmt: skip
_BETWEEN = ("Conv", "Gemm", "MatMul")


@dataclass(frozen=True)
class Saturation:
    """A layer that can saturate.

    Attributes:
        layer: The operation's name, or that of its output.
        channels: How many of its output channels can.
        of: How many it has.
    """

    layer: str
    channels: int
    of: int


def find_saturation(model: onnx.ModelProto) -> list[Saturation]:
    """Return the layers of a quantized graph whose sums of two products can exceed 16 bits, in its order."""
    found = []
    for node, codes in _weights(model):
        rows = _rows(node, codes)
        pairs = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2))).reshape(len(rows), -1, 2) * _LARGEST_ACTIVATION
        most, least = pairs.clip(min=0).sum(2), pairs.clip(max=0).sum(2)
        channels = int(((most > _HIGH) | (least < _LOW)).any(1).sum())
        if channels:
            found.append(Saturation(node.name or node.output[0], channels, len(rows)))
    return found


def _weights(model: onnx.ModelProto) -> Iterator[tuple[NodeProto, NDArray[np.int32]]]:
    """Yield every operation that integer kernels compute with signed 8-bit weights, and their codes."""
    arrays, producers = _constants(model), {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        name = ""
        if node.op_type in _WEIGHT_INPUT:
            name = node.input[_WEIGHT_INPUT[node.op_type]]
        elif node.op_type in _BETWEEN:
            sources = [producers.get(name) for name in node.input[:2]]
            if all(source is not None and source.op_type == DEQUANTIZE for source in sources):
                name = sources[1].input[0]  # type: ignore[union-attr]
        codes = arrays.get(name)
        if codes is not None and codes.dtype == np.int8 and not _is_depthwise(node, codes):
            yield node, codes.astype(np.int32)


def _constants(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """Return what is stored, wherever a tool puts it: float weights behind a quantize node too."""
    arrays = constants(model)
    for node in model.graph.node:
        if node.op_type == "Constant" and attribute(node, "value") is not None:
            arrays[node.output[0]] = numpy_helper.to_array(attribute(node, "value"))
        elif node.op_type == QUANTIZE and len(node.input) > 2 and all(name in arrays for name in node.input):
            weight, scale, zero_point = (arrays[name] for name in node.input)
            shape = [1] * weight.ndim
            if scale.ndim:
                shape[attribute(node, "axis", 1)] = scale.size
            codes = np.rint(weight / scale.reshape(shape)) + zero_point.reshape(shape)
            limits = np.iinfo(zero_point.dtype)
            arrays[node.output[0]] = codes.clip(limits.min, limits.max).astype(zero_point.dtype)
    return arrays


def _is_depthwise(node: NodeProto, codes: NDArray[np.int8]) -> bool:
    return "Conv" in node.op_type and codes.shape[1] == 1 and attribute(node, "group", 1) == len(codes)


def _rows(node: NodeProto, codes: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return ``[channels, inputs]``, the inputs in the order in which kernels read them."""
    if "Conv" in node.op_type:  # all input channels of one position after the other
        return np.moveaxis(codes, 1, -1).reshape(len(codes), -1)
    if attribute(node, "transB", 0):
        return codes
    return np.moveaxis(codes, -2, -1).reshape(-1, codes.shape[-2])
