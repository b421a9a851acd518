"""Rewrite a QDQ graph so that ONNX Runtime's CPU kernels run all of it in integers.

Three things keep ONNX Runtime from using its int8 kernels on a plain QDQ graph: signed activations (its x86 kernels are
made for unsigned ones), float biases, and transposed convolutions, for which it has no integer kernel. All three are
rewritten without changing what is computed.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper

from torchshrink.converters.export import onnxruntime_forms
from torchshrink.converters.onnx_file import (
    DEQUANTIZE,
    QUANTIZE,
    attribute,
    constants,
    producers,
    replace_initializers,
    replace_nodes,
)

_WEIGHTED = {"Conv", "Gemm"}


def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph for ONNX Runtime: unsigned activations, int32 biases, no transposed convolutions."""
    model = copy.deepcopy(model)
    _replace_transposed(model)
    onnxruntime_forms.rewrite(model)
    _quantize_biases(model)
    _make_unsigned(model)
    _split_relus(model)
    _store_weights_apart(model)
    del model.graph.value_info[:]
    return model


def _replace_transposed(model: onnx.ModelProto) -> None:
    """Write a transposed convolution with kernel = stride as a 1x1 convolution and a rearrangement of its channels.

    Without overlap every output position comes from one input position, so each of the kernel's positions is an
    output channel of its own: ``y[o, h*k + i, w*k + j] = sum_c x[c, h, w] * W[c, o, i, j]``.
    """
    arrays, sources = constants(model), producers(model)
    quantizers = {node.input[0]: node for node in model.graph.node if node.op_type == QUANTIZE}
    added: dict[str, NDArray[Any]] = {}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        weight = sources.get(node.input[1]) if node.op_type == "ConvTranspose" else None
        if weight is None or weight.op_type != DEQUANTIZE or not _is_tiling(node, arrays[weight.input[0]].shape):
            nodes.append(node)
            continue
        nodes.extend(_as_convolution(node, weight, quantizers.get(node.output[0]), arrays, added))
    replace_nodes(model, nodes, added)


def _is_tiling(node: NodeProto, shape: tuple[int, ...]) -> bool:
    kernel = list(shape[2:])
    return (
        attribute(node, "group", 1) == 1
        and list(attribute(node, "strides", [])) == kernel
        and not any(attribute(node, "pads", [0]))
        and not any(attribute(node, "output_padding", [0]))
        and all(dilation == 1 for dilation in attribute(node, "dilations", [1]))
        and len(set(kernel)) == 1
    )


def _as_convolution(
    node: NodeProto,
    weight: NodeProto,
    quantizer: NodeProto | None,
    arrays: dict[str, NDArray[Any]],
    added: dict[str, NDArray[Any]],
) -> list[NodeProto]:
    codes, scale = arrays[weight.input[0]], arrays[weight.input[1]]
    channels, outputs, *kernel = codes.shape
    positions, dims, name = int(np.prod(kernel)), len(kernel), node.output[0]
    ones = [1] * dims
    added[f"{name}_weight"] = np.moveaxis(codes, 0, -1).reshape(outputs * positions, channels, *ones)
    added[f"{name}_scale"] = np.repeat(scale, positions)
    added[f"{name}_zero"] = np.zeros(outputs * positions, np.int8)
    inputs = [node.input[0], f"{name}_dequantized"]
    if len(node.input) > 2:
        added[f"{name}_bias"] = np.repeat(arrays[node.input[2]], positions)
        inputs.append(f"{name}_bias")
    entry = [f"{name}_weight", f"{name}_scale", f"{name}_zero"]
    nodes = [
        helper.make_node(DEQUANTIZE, entry, [inputs[1]], f"{name}_dequantize", axis=0),
        helper.make_node("Conv", inputs, [f"{name}_conv"], f"{name}_conv", kernel_shape=ones, strides=ones),
    ]
    source = f"{name}_conv"
    if quantizer is not None:  # quantize before the values move: moving commutes with rounding
        parameters = quantizer.input[1:]
        nodes.append(helper.make_node(QUANTIZE, [source, *parameters], [f"{name}_codes"], f"{name}_q"))
        nodes.append(helper.make_node(DEQUANTIZE, [f"{name}_codes", *parameters], [f"{name}_real"], f"{name}_dq"))
        source = f"{name}_real"
    return nodes + _channels_to_space(source, name, kernel, outputs, added)


def _channels_to_space(
    source: str, target: str, kernel: list[int], outputs: int, added: dict[str, NDArray[Any]]
) -> list[NodeProto]:
    if len(kernel) == 2:
        settings = {"blocksize": kernel[0], "mode": "CRD"}
        return [helper.make_node("DepthToSpace", [source], [target], f"{target}_space", **settings)]
    added[f"{target}_apart_shape"] = np.array([0, outputs, kernel[0], -1], np.int64)
    added[f"{target}_joined_shape"] = np.array([0, outputs, -1], np.int64)
    return [
        helper.make_node("Reshape", [source, f"{target}_apart_shape"], [f"{target}_apart"], f"{target}_split"),
        helper.make_node("Transpose", [f"{target}_apart"], [f"{target}_swapped"], f"{target}_swap", perm=[0, 1, 3, 2]),
        helper.make_node("Reshape", [f"{target}_swapped", f"{target}_joined_shape"], [target], f"{target}_join"),
    ]


def _split_relus(model: onnx.ModelProto) -> None:
    """Put the quantizer before a ReLU whose zero point is not the lowest code, and clip the codes after it.

    ONNX Runtime absorbs a ReLU into an integer convolution only when quantization itself cuts at zero; otherwise it
    falls back to float. Rounding is monotonic, so ``quantize(max(x, 0))`` equals ``max(quantize(x), zero_point)``.
    Into a linear layer on tokens, a product and a sum, it absorbs none: where quantization cuts, it is left out.
    """
    arrays, sources = constants(model), producers(model)
    added: dict[str, NDArray[Any]] = {}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        relu = sources.get(node.input[0]) if node.op_type == QUANTIZE else None
        if relu is None or relu.op_type != "Relu":
            nodes.append(node)
            continue
        if arrays[node.input[2]].item() == 0:
            node.input[0] = relu.input[0] if _is_of_tokens(relu.input[0], sources) else relu.output[0]
            nodes.append(node)
            continue
        signed, name = f"{node.output[0]}_signed", node.output[0]
        added[f"{name}_zero"] = arrays[node.input[2]]
        nodes.append(helper.make_node(QUANTIZE, [relu.input[0], *node.input[1:]], [signed], node.name))
        nodes.append(helper.make_node("Clip", [signed, f"{name}_zero"], [name], f"{name}_relu"))
    replace_nodes(model, nodes, added)


def _is_of_tokens(name: str, sources: dict[str, NodeProto]) -> bool:
    """Return whether a product with a matrix computes a tensor, or the sum of one and a bias."""
    node = sources.get(name)
    parts = [name] if node is None or node.op_type != "Add" else node.input
    return any(part in sources and sources[part].op_type == "MatMul" for part in parts)


def _quantize_biases(model: onnx.ModelProto) -> None:
    """Store the biases as int32 with scale = input scale x weight scale, as the integer kernels add them."""
    arrays, sources = constants(model), producers(model)
    added: dict[str, NDArray[Any]] = {}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        if node.op_type in _WEIGHTED and len(node.input) > 2 and node.input[2] in arrays:
            source, weight = sources.get(node.input[0]), sources.get(node.input[1])
            if source is not None and weight is not None and source.op_type == weight.op_type == DEQUANTIZE:
                nodes.append(_integer_bias(node, source, weight, arrays, added))
        nodes.append(node)
    replace_nodes(model, nodes, added)


def _integer_bias(
    node: NodeProto,
    source: NodeProto,
    weight: NodeProto,
    arrays: dict[str, NDArray[Any]],
    added: dict[str, NDArray[Any]],
) -> NodeProto:
    """Give ``node`` an int32 bias and return the node that dequantizes it."""
    bias, name = arrays[node.input[2]], f"{node.output[0]}_bias"
    scale = np.float32(arrays[source.input[1]]) * arrays[weight.input[1]].astype(np.float32)
    scale = np.broadcast_to(scale, bias.shape).astype(np.float32)
    codes = np.clip(np.rint(bias.astype(np.float64) / scale), -(2**31), 2**31 - 1)
    added[f"{name}_codes"], added[f"{name}_scale"] = codes.astype(np.int32), scale
    added[f"{name}_zero"] = np.zeros(bias.shape, np.int32)
    node.input[2] = f"{name}_real"
    entry = [f"{name}_{part}" for part in ("codes", "scale", "zero")]
    return helper.make_node(DEQUANTIZE, entry, [f"{name}_real"], f"{name}_dequantize", axis=0)


def _make_unsigned(model: onnx.ModelProto) -> None:
    """Shift the codes of activations from [-128, 127] to [0, 255]; the real values stay the same.

    So are those of constants that are added or multiplied: the integer kernels want both operands of one type.
    """
    arrays = constants(model)
    operands = {name for node in model.graph.node if node.op_type in ("Add", "Mul") for name in node.input}
    added: dict[str, NDArray[Any]] = {}
    for node in model.graph.node:
        is_constant = node.op_type == DEQUANTIZE and node.input[0] in arrays
        is_operand = is_constant and node.output[0] in operands and arrays[node.input[1]].size == 1
        is_activation = node.op_type == QUANTIZE or (node.op_type == DEQUANTIZE and not is_constant)
        if (is_activation or is_operand) and arrays[node.input[2]].dtype == np.int8:
            for index in (0, 2) if is_operand else (2,):
                name = f"{node.input[index]}_unsigned"
                added[name] = (arrays[node.input[index]].astype(np.int16) + 128).astype(np.uint8)
                node.input[index] = name
    replace_initializers(model, added)


def _store_weights_apart(model: onnx.ModelProto) -> None:
    """Give every reader of a weight codes and a zero point of its own.

    ONNX Runtime's option ``session.x64quantprecision`` rewrites them under names made from theirs, and refuses a file
    in which two nodes share one.
    """
    arrays, sources = constants(model), producers(model)
    added: dict[str, NDArray[Any]] = {}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            source = sources.get(name)
            if source is None or source.op_type != DEQUANTIZE or source.input[0] not in arrays:
                continue
            own = f"{node.output[0]}_input{place}"
            copied = helper.make_node(DEQUANTIZE, [f"{own}_codes", *source.input[1:]], [own], f"{own}_dequantize")
            copied.attribute.extend(source.attribute)
            added[f"{own}_codes"] = arrays[source.input[0]]
            if len(source.input) > 2:
                copied.input[2], added[f"{own}_zero"] = f"{own}_zero", arrays[source.input[2]]
            node.input[place] = own
            nodes.append(copied)
        nodes.append(node)
    replace_nodes(model, nodes, added)
