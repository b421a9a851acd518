"""Split a QDQ ONNX graph into a float graph and the ranges that its quantizers hold.

Converters lose or recompute the scales of a QDQ graph; they are reliable on float graphs. So the two travel apart and
meet again in the target format.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper
from torchshrink.converters.ranges import Range

from torchshrink.errors import ConversionError

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


def is_quantized(model: onnx.ModelProto) -> bool:
    """Return whether a graph holds quantize or dequantize nodes."""
    return any(node.op_type in (QUANTIZE, DEQUANTIZE) for node in model.graph.node)


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """Return a node's attribute by name."""
    for item in node.attribute:
        if item.name == name:
            return helper.get_attribute_value(item)
    return default


def constants(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """Return the graph's initializers as arrays."""
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


def replace_initializers(model: onnx.ModelProto, arrays: dict[str, NDArray[Any]]) -> None:
    """Keep the initializers that are still used, with ``arrays`` added or put in place of old ones."""
    used = {name for node in model.graph.node for name in node.input}
    kept = [item for item in model.graph.initializer if item.name in used and item.name not in arrays]
    added = [numpy_helper.from_array(np.array(value, order="C"), name) for name, value in arrays.items()]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept + [item for item in added if item.name in used])


def split(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, Range]]:
    """Return the float graph of a QDQ graph and the range of every tensor that was quantized.

    Weights become the floats that their codes stand for, so the float graph computes what the quantized one computes
    but for the rounding of activations. Ranges are named after the tensors of the float graph.

    A number that is added or multiplied becomes an input with a default value, which is how ONNX says that it is not
    to be folded: into the weights of the convolution next to it, it would change them to some that nobody trained.

    Raises:
        ConversionError: When a scale is computed in the graph instead of stored.
    """
    model = copy.deepcopy(model)
    arrays = constants(model)
    weights: dict[str, NDArray[Any]] = {}
    ranges: dict[str, Range] = {}
    alias: dict[str, str] = {}
    nodes = []
    for node in model.graph.node:
        if node.op_type == DEQUANTIZE and node.input[0] in arrays:
            weight = stored_range(node, arrays)
            weights[node.output[0]] = dequantize(arrays[node.input[0]], weight)
            ranges[node.output[0]] = weight
        elif node.op_type == QUANTIZE:
            source = alias.get(node.input[0], node.input[0])
            alias[node.output[0]] = source
            ranges.setdefault(source, stored_range(node, arrays))
        elif node.op_type == DEQUANTIZE:
            alias[node.output[0]] = alias.get(node.input[0], node.input[0])
        else:
            for index, name in enumerate(node.input):
                node.input[index] = alias.get(name, name)
            nodes.append(node)
    _rename_outputs(model, nodes, alias, ranges)
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
    codes = arrays[node.input[2]] if len(node.input) > 2 and node.input[2] else np.zeros(scale.shape, np.uint8)
    # An unsigned code is a signed one shifted by 128: the real values are the same.
    shift = 128 if codes.dtype == np.uint8 else 0
    is_per_channel = (scale.ndim == 1 and scale.size > 1) or (scale.ndim == 1 and node.input[0] in arrays)
    return Range(
        scale=tuple(float(value) for value in scale.ravel()),
        zero_point=tuple(int(value) - shift for value in codes.ravel()),
        axis=int(attribute(node, "axis", 1)) if is_per_channel else None,
    )


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
