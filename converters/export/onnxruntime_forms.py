"""Write single operations of a QDQ graph in the form that ONNX Runtime has an integer kernel for.

Each stands between a DequantizeLinear and a QuantizeLinear; what is computed stays the same, to the last code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper

from torchshrink.converters.onnx_file import DEQUANTIZE, QUANTIZE, attribute, constants, producers, replace_nodes

_WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


def rewrite(model: onnx.ModelProto) -> None:
    """Rewrite clamps, paddings, means and linear resizing, and keep float what is; in place, activations still signed.

    Args:
        model: A QDQ graph with the types of its tensors (``value_info``).
    """
    graph = _Graph(model)
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        form, made = None, None
        if node.op_type == QUANTIZE and (source := graph.producers.get(node.input[0])) is not None:
            form = _FORMS.get(source.op_type)
            made = form(graph, source, node) if form is not None else None
        elif node.op_type in _WEIGHTED:
            made = _float_layer(graph, node)
        nodes.extend([node] if made is None else made)
    replace_nodes(model, nodes, graph.added)


class _Graph:
    """What a form has to know of the graph around it, and the constants that it adds."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.arrays = constants(model)
        self.producers = producers(model)
        typed = (*model.graph.value_info, *model.graph.input, *model.graph.output)
        self.shapes = {item.name: [side.dim_value for side in item.type.tensor_type.shape.dim] for item in typed}
        self.added: dict[str, NDArray[Any]] = {}

    def dequantizer(self, name: str) -> NodeProto | None:
        """Return the node that dequantizes a tensor, None when another one makes it."""
        node = self.producers.get(name)
        return node if node is not None and node.op_type == DEQUANTIZE else None

    def code(self, real: float, quantizer: NodeProto) -> NDArray[Any]:
        """Return the code of a real number."""
        scale, zero_point = (self.arrays[name] for name in quantizer.input[1:3])
        limits = np.iinfo(zero_point.dtype)
        code = np.clip(np.rint(np.float32(real) / scale) + zero_point, limits.min, limits.max)
        return np.asarray(code, zero_point.dtype).reshape(())


def _clip(graph: _Graph, clip: NodeProto, quantizer: NodeProto) -> list[NodeProto] | None:
    """Quantize first and clip the codes: rounding is monotonic, so both orders give the same codes.

    ONNX Runtime 1.23 writes an invalid graph where a Clip to [-1, 1] follows an integer convolution.
    """
    reals = [graph.arrays.get(name) for name in clip.input[1:3] if name]
    if len(reals) < 2 or any(real is None for real in reals):
        return None
    low, high = (graph.code(float(real), quantizer) for real in reals)  # type: ignore[arg-type]
    limits = np.iinfo(low.dtype)
    cuts_itself = low == limits.min and high == limits.max
    # Between two quantizations a clip has to stay: ONNX Runtime makes one of two that follow each other.
    if cuts_itself and graph.dequantizer(clip.input[0]) is None:
        return [helper.make_node(QUANTIZE, [clip.input[0], *quantizer.input[1:]], quantizer.output, quantizer.name)]
    return _clipped_codes(graph, clip.input[0], quantizer, low, high)


def _clipped_codes(
    graph: _Graph, source: str, quantizer: NodeProto, low: NDArray[Any], high: NDArray[Any]
) -> list[NodeProto]:
    name = quantizer.output[0]
    # ONNX Runtime clips unsigned codes only, which these become: see `onnxruntime_int8`.
    graph.added[f"{name}_low"], graph.added[f"{name}_high"] = _unsigned(low), _unsigned(high)
    return [
        helper.make_node(QUANTIZE, [source, *quantizer.input[1:]], [f"{name}_wide"], quantizer.name),
        helper.make_node("Clip", [f"{name}_wide", f"{name}_low", f"{name}_high"], [name], f"{name}_clip"),
    ]


def _softmax(graph: _Graph, softmax: NodeProto, quantizer: NodeProto) -> list[NodeProto] | None:
    """Write the softmax of one value, as in attention to a single token, as codes that are all that of one.

    The integer kernel of ONNX Runtime 1.23 gives zero for it.
    """
    shape, one = graph.shapes.get(softmax.input[0], []), graph.code(1.0, quantizer)
    axis = attribute(softmax, "axis", -1)
    is_single = -len(shape) <= axis < len(shape) and shape[axis] == 1
    return _clipped_codes(graph, softmax.input[0], quantizer, one, one) if is_single else None


def _pad(graph: _Graph, pad: NodeProto, quantizer: NodeProto) -> list[NodeProto] | None:
    """Pad the codes themselves, where both sides have the same parameters."""
    source = graph.dequantizer(pad.input[0])
    if source is None or not _same_grid(graph, source, quantizer):
        return None
    name, inputs = quantizer.output[0], [source.input[0], *pad.input[1:]]
    if attribute(pad, "mode", b"constant") == b"constant":
        value = graph.arrays.get(pad.input[2]) if len(pad.input) > 2 and pad.input[2] else np.float32(0)
        if value is None:
            return None
        graph.added[f"{name}_edge"] = _unsigned(graph.code(float(value), quantizer))
        inputs[2:3] = [f"{name}_edge"]
    padded = helper.make_node("Pad", inputs, [name], f"{name}_pad")  # one for each that quantizes it
    padded.attribute.extend(pad.attribute)
    return [padded]


def _mean(graph: _Graph, mean: NodeProto, quantizer: NodeProto) -> list[NodeProto] | None:
    """Write a mean over all positions as the global average pool."""
    axes, rank = (
        graph.arrays.get(mean.input[1]) if len(mean.input) > 1 else None,
        len(graph.shapes.get(mean.input[0], [])),
    )
    if axes is None or rank < 3 or sorted(axis % rank for axis in axes.ravel().tolist()) != list(range(2, rank)):
        return None
    name = quantizer.output[0]
    kept = name if attribute(mean, "keepdims", 1) else f"{name}_kept"
    nodes = [
        helper.make_node("GlobalAveragePool", [mean.input[0]], [f"{name}_mean"], f"{name}_mean"),
        helper.make_node(QUANTIZE, [f"{name}_mean", *quantizer.input[1:]], [kept], quantizer.name),
    ]
    if kept != name:
        nodes.append(helper.make_node("Squeeze", [kept, mean.input[1]], [name], f"{name}_squeeze"))
    return nodes


def _resize(graph: _Graph, resize: NodeProto, quantizer: NodeProto) -> list[NodeProto] | None:
    """Keep linear resizing in float: ONNX Runtime's integer kernel cuts fractions off instead of rounding."""
    if attribute(resize, "mode", b"nearest") != b"linear":
        return None
    name = quantizer.output[0]
    return [
        _barrier(graph, resize.output[0], f"{name}_real", quantizer),
        helper.make_node(QUANTIZE, [f"{name}_real", *quantizer.input[1:]], [name], quantizer.name),
    ]


def _float_layer(graph: _Graph, layer: NodeProto) -> list[NodeProto] | None:
    """Keep a layer with float weights in float: ONNX Runtime would quantize them, one scale for all channels."""
    source = graph.dequantizer(layer.input[0])
    if source is None or layer.input[1] not in graph.arrays:
        return None
    name = f"{layer.output[0]}_input"
    barrier = _barrier(graph, layer.input[0], name, source)
    layer.input[0] = name
    return [barrier, layer]


def _barrier(graph: _Graph, source: str, target: str, grid: NodeProto) -> NodeProto:
    """Return a node that changes nothing but keeps quantization from being moved over it.

    It is the maximum with the least real number that has a code; ONNX Runtime takes out anything simpler.
    """
    scale, zero_point = (graph.arrays[name] for name in grid.input[1:3])
    least = (np.iinfo(zero_point.dtype).min - zero_point.astype(np.float32)) * scale
    graph.added[f"{target}_least"] = np.asarray(least, np.float32)
    return helper.make_node("Max", [source, f"{target}_least"], [target], f"{target}_barrier")


def _same_grid(graph: _Graph, first: NodeProto, second: NodeProto) -> bool:
    return all(
        np.array_equal(graph.arrays[a], graph.arrays[b]) for a, b in zip(first.input[1:], second.input[1:], strict=True)
    )


def _unsigned(code: NDArray[Any]) -> NDArray[Any]:
    return (code.astype(np.int16) + 128).astype(np.uint8) if code.dtype == np.int8 else code


_FORMS: dict[str, Callable[[_Graph, NodeProto, NodeProto], list[NodeProto] | None]] = {
    "Clip": _clip,
    "Pad": _pad,
    "ReduceMean": _mean,
    "Softmax": _softmax,
    "Resize": _resize,
}
