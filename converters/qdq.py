"""Split a QDQ ONNX graph into a float graph and the ranges that its quantizers hold.

Converters lose or recompute the scales of a QDQ graph; they are reliable on float graphs. So the two travel apart and
meet again in the target format.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper

from torchshrink.converters.onnx_file import DEQUANTIZE, QUANTIZE, attribute, constants, replace_initializers
from torchshrink.converters.ranges import Range
from torchshrink.errors import ConversionError

_FIXED = {"Sigmoid": Range((1 / 256,), (-128,)), "Softmax": Range((1 / 256,), (-128,)), "Tanh": Range((1 / 128,), (0,))}


def is_quantized(model: onnx.ModelProto) -> bool:
    """Return whether a graph holds quantize or dequantize nodes."""
    return any(node.op_type in (QUANTIZE, DEQUANTIZE) for node in model.graph.node)


def split(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, Range]]:
    """Return the float graph of a QDQ graph and the range of every tensor that was quantized.

    Weights become the floats that their codes stand for, so the float graph computes what the quantized one computes
    but for the rounding of activations. Ranges are named after the tensors of the float graph.

    A number that is added or multiplied becomes an input with a default value, which is how ONNX says that it is not
    to be folded: into the weights of the convolution next to it, it would change them to some that nobody trained.

    Raises:
        ConversionError: When a scale is computed in the graph instead of stored, codes are not of 8 bits, or a tensor
            is quantized in two ways at once.
    """
    model = copy.deepcopy(model)
    arrays = constants(model)
    weights: dict[str, NDArray[Any]] = {}
    ranges: dict[str, Range] = {}
    alias: dict[str, str] = {}
    unrounded = {item.name for item in model.graph.output}
    nodes = []
    for node in model.graph.node:
        if node.op_type == DEQUANTIZE and node.input[0] in arrays:
            codes = arrays[node.input[0]]
            weight = stored_range(node, arrays)
            # Unsigned codes and their zero point are both 128 more than signed ones.
            weights[node.output[0]] = dequantize(codes.astype(np.int64) - _shift(codes.dtype), weight)
            if codes.dtype != np.int32:  # that is a bias, whose scale follows from others
                ranges[node.output[0]] = weight
        elif node.op_type == QUANTIZE:
            source = alias.get(node.input[0], node.input[0])
            alias[node.output[0]] = source
            found = ranges.setdefault(source, stored_range(node, arrays))
            if node.input[0] not in alias and found != stored_range(node, arrays):
                raise ConversionError(
                    f"{source!r} is quantized twice, with the scales {found.scale[0]:g} and "
                    f"{float(arrays[node.input[1]].ravel()[0]):g}: a TFLite tensor has one; quantize it once, for all "
                    "that read it"
                )
        elif node.op_type == DEQUANTIZE:
            alias[node.output[0]] = alias.get(node.input[0], node.input[0])
        else:
            unrounded.update(node.input if node.op_type != "Shape" else ())
            for index, name in enumerate(node.input):
                node.input[index] = alias.get(name, name)
            nodes.append(node)
    for name in unrounded & {name for node in nodes for name in node.output} & ranges.keys():
        ranges[name] = replace(ranges[name], is_partial=True)
    _rename_outputs(model, nodes, alias, ranges)
    _note_fixed(nodes, ranges)
    _free_operands(model, nodes, weights, ranges)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.value_info[:]
    replace_initializers(model, weights)
    return model, ranges


def dequantize(codes: NDArray[Any], range_: Range) -> NDArray[np.float32]:
    """Return ``scale * (codes - zero_point)`` in float32."""
    shape = [1] * codes.ndim
    if range_.axis is not None:
        shape[range_.axis] = -1
    scale = np.asarray(range_.scale, np.float32).reshape(shape)
    zero_point = np.asarray(range_.zero_point, np.int32).reshape(shape)
    return ((codes.astype(np.int32) - zero_point).astype(np.float32) * scale).astype(np.float32)


def stored_range(node: NodeProto, arrays: dict[str, NDArray[Any]]) -> Range:
    """Return the range that a quantize or dequantize node holds.

    Raises:
        ConversionError: When its scale is computed in the graph instead of stored.
    """
    if node.input[1] not in arrays:
        raise ConversionError(
            f"{node.op_type} {node.name!r}: its scale is computed in the graph; only stored scales can be converted"
        )
    scale = arrays[node.input[1]]
    stored = arrays.get(node.input[0])
    plain = np.zeros(scale.shape, np.uint8 if stored is None else stored.dtype)
    zero_point = arrays[node.input[2]] if len(node.input) > 2 and node.input[2] else plain
    if zero_point.dtype not in (np.int8, np.uint8) and (stored is None or stored.dtype != np.int32):
        raise ConversionError(
            f"{node.op_type} {node.name or node.output[0]!r}: its codes are {zero_point.dtype}, TFLite's int8 kernels "
            "take int8 and uint8; quantize the model to 8 bits"
        )
    is_per_channel = scale.size > 1 or (scale.ndim == 1 and stored is not None)
    rank = 1 if stored is None else stored.ndim
    try:
        return Range(
            scale=tuple(float(value) for value in scale.ravel()),
            zero_point=tuple(int(value) - _shift(zero_point.dtype) for value in zero_point.ravel()),
            axis=int(attribute(node, "axis", 1)) % max(rank, 1) if is_per_channel else None,
        )
    except ValueError as error:
        raise ConversionError(f"{node.op_type} {node.name or node.output[0]!r} cannot be used: {error}") from error


def _shift(dtype: Any) -> int:
    """Return by how much codes of a type exceed the signed ones that stand for the same real values."""
    return 128 if dtype == np.uint8 else 0


def _rename_outputs(
    model: onnx.ModelProto, nodes: list[NodeProto], alias: dict[str, str], ranges: dict[str, Range]
) -> None:
    """Give the tensors that the dequantize nodes at the end named the names of the graph's outputs."""
    renamed = {alias[item.name]: item.name for item in model.graph.output if item.name in alias}
    for node in nodes:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = renamed.get(name, name)
    for old, new in renamed.items():
        ranges[new] = ranges.pop(old)


def _note_fixed(nodes: list[NodeProto], ranges: dict[str, Range]) -> None:
    """Mark the ranges that nobody learned, because the operation has no other."""
    for node in nodes:
        range_ = ranges.get(node.output[0])
        if range_ is not None and range_ == _FIXED.get(node.op_type):
            ranges[node.output[0]] = replace(range_, origin="fixed")


def _free_operands(
    model: onnx.ModelProto, nodes: list[NodeProto], weights: dict[str, NDArray[Any]], ranges: dict[str, Range]
) -> None:
    """Declare the quantized constants of sums and products as inputs, of as many dimensions as what they meet."""
    typed = (*model.graph.value_info, *model.graph.input, *model.graph.output)
    ranks = {item.name: len(item.type.tensor_type.shape.dim) for item in typed}
    met: dict[str, list[int]] = {}
    for node in nodes:
        for name, other in (node.input, reversed(node.input)) if node.op_type in ("Add", "Mul") else ():
            if name in weights and ranges[name].axis is None:
                met.setdefault(name, []).append(ranks.get(other, 0))
    for name, others in met.items():
        value = weights[name]
        if value.ndim <= min(others):
            weights[name] = value.reshape([1] * (min(others) - value.ndim) + list(value.shape))
            model.graph.input.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, weights[name].shape))
