"""Harm a right QDQ ONNX file in one place: each function changes the model and says where, or None: nothing to harm."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from numpy.random import Generator
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

Harm = Callable[[onnx.ModelProto, Generator], str | None]


def scale_both(model: onnx.ModelProto, rng: Generator) -> str | None:
    """Raise an activation's scale by 3 %, where it is quantized and where it is read."""
    return _grid(model, rng, 1, ("QuantizeLinear", "DequantizeLinear"), lambda scale: scale * np.float32(1.03))


def scale_one(model: onnx.ModelProto, rng: Generator) -> str | None:
    """Lower an activation's scale by 3 %, where it is read only."""
    return _grid(model, rng, 1, ("DequantizeLinear",), lambda scale: scale * np.float32(0.97))


def zero_point_both(model: onnx.ModelProto, rng: Generator) -> str | None:
    """Move an activation's zero point by 1, where it is quantized and where it is read."""
    return _grid(model, rng, 2, ("QuantizeLinear", "DequantizeLinear"), _one_off)


def zero_point_one(model: onnx.ModelProto, rng: Generator) -> str | None:
    """Move an activation's zero point by 1, where it is read only."""
    return _grid(model, rng, 2, ("DequantizeLinear",), _one_off)


def bias(model: onnx.ModelProto, rng: Generator) -> str | None:
    """Raise a layer's bias by 2 %."""
    layer = _pick(rng, [each for each in _layers(model) if len(each) > 1])
    if layer is None:
        return None
    return _store(model, layer[1].input[0], lambda codes: np.rint(codes * 1.02).astype(codes.dtype))


def swapped(model: onnx.ModelProto, rng: Generator) -> str | None:
    """Swap two output channels of a weight."""
    layer = _pick(rng, list(_layers(model)))
    return None if layer is None else _channels(model, layer[0], rng, 2, lambda part: part[::-1])


def sign(model: onnx.ModelProto, rng: Generator) -> str | None:
    """Turn the sign of one output channel of a weight."""
    layer = _pick(rng, list(_layers(model)))
    return None if layer is None else _channels(model, layer[0], rng, 1, lambda part: -part)


def weight_scale(model: onnx.ModelProto, rng: Generator) -> str | None:
    """Raise the scale of one channel of a weight by 3 %."""
    layer = _pick(rng, list(_layers(model)))
    if layer is None:
        return None
    index = rng.integers(1 << 30)

    def change(scale: NDArray[Any]) -> NDArray[Any]:
        changed = scale.copy()
        changed.reshape(-1)[index % changed.size] *= np.float32(1.03)
        return changed

    return _store_apart(model, layer[0], 1, change)


def stale_norm(model: onnx.ModelProto, rng: Generator) -> str | None:
    """Change scales and biases of a layer as other statistics would: a spread of 5 % and of 0.05 deviations."""
    layer = _pick(rng, [each for each in _layers(model) if len(each) > 1])
    if layer is None:
        return None
    factor = np.exp(rng.normal(0, 0.05, 4096)).astype(np.float32)

    def change(scale: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(scale * factor[: scale.size].reshape(scale.shape), np.float32)

    _store_apart(model, layer[0], 1, change)
    return _store(model, layer[1].input[0], lambda codes: np.rint(codes + 0.05 * codes.std()).astype(codes.dtype))


def kernel_transposed(model: onnx.ModelProto, rng: Generator) -> str | None:
    """Swap height and width of a kernel; of a linear layer's weight, change the order of the inputs."""
    layer = _pick(rng, list(_layers(model)))
    if layer is None:
        return None

    def change(codes: NDArray[Any]) -> NDArray[Any]:
        if codes.ndim == 4 and codes.shape[2] > 1:
            return codes.swapaxes(2, 3)
        if codes.ndim == 2:
            return codes.reshape(-1, 2, codes.shape[0] // 2, codes.shape[1]).swapaxes(1, 2).reshape(codes.shape)
        return codes[..., ::-1]

    return _store(model, layer[0].input[0], change)


def padding(model: onnx.ModelProto, rng: Generator) -> str | None:
    """Move the padding of a convolution or pooling by one element to the other side."""
    nodes = [node for node in model.graph.node if any(_get(node, "pads", [])) and node.op_type != "Pad"]
    node = _pick(rng, nodes)
    if node is None:
        return None
    pads = np.array(_get(node, "pads", [])).reshape(2, -1)
    axis = rng.integers(pads.shape[1])
    pads[:, axis] += [-1, 1] if pads[0, axis] else [1, -1]
    _set(node, "pads", pads.ravel().tolist())
    return str(node.name)


def clamp(model: onnx.ModelProto, rng: Generator) -> str | None:
    """Leave out a ReLU or clip, or double the slope of a leaky one."""
    node = _pick(rng, [node for node in model.graph.node if node.op_type in ("Relu", "Clip", "LeakyRelu")])
    if node is None:
        return None
    if node.op_type == "LeakyRelu":
        _set(node, "alpha", 2 * _get(node, "alpha", 0.01))
        return str(node.name)
    for other in model.graph.node:
        other.input[:] = [node.input[0] if name == node.output[0] else name for name in other.input]
    model.graph.node.remove(node)
    return str(node.name)


def operands(model: onnx.ModelProto, rng: Generator) -> str | None:
    """Turn the parts of a concatenation around, or take one operand of a sum or product for both."""
    node = _pick(rng, [node for node in model.graph.node if node.op_type in ("Concat", "Add", "Mul")])
    if node is None:
        return None
    node.input[:] = node.input[::-1] if node.op_type == "Concat" else [node.input[0]] * 2
    return str(node.name)


def one_weight(model: onnx.ModelProto, rng: Generator) -> str | None:
    """Turn the sign of a layer's largest weight."""
    layer = _pick(rng, list(_layers(model)))
    if layer is None:
        return None

    def change(codes: NDArray[Any]) -> NDArray[Any]:
        changed = codes.copy().reshape(-1)
        place = np.abs(changed.astype(np.int64)).argmax()
        changed[place] = -changed[place]
        return changed.reshape(codes.shape)

    return _store(model, layer[0].input[0], change)


HARMS: dict[str, Harm] = {
    "scale off by 3 %": scale_both,
    "scale off by 3 % on one side": scale_one,
    "zero point off by 1": zero_point_both,
    "zero point off by 1 on one side": zero_point_one,
    "bias off by 2 %": bias,
    "two channels swapped": swapped,
    "sign of one weight channel": sign,
    "weight scale of a channel off by 3 %": weight_scale,
    "stale BatchNorm": stale_norm,
    "transposed layout": kernel_transposed,
    "padding shifted": padding,
    "clamp missing": clamp,
    "operands mixed up": operands,
    "sign of one weight": one_weight,
}


def _pick(rng: Generator, items: list[Any]) -> Any:
    return items[rng.integers(len(items))] if items else None


def _arrays(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


def _layers(model: onnx.ModelProto) -> Iterator[list[NodeProto]]:
    """Yield the nodes that dequantize the weight and, where there is one, the bias of every layer."""
    producers = {node.output[0]: node for node in model.graph.node}
    stored = _arrays(model)
    for node in model.graph.node:
        if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
            found = [producers[name] for name in node.input[1:] if name in producers]
            found = [each for each in found if each.op_type == "DequantizeLinear" and each.input[0] in stored]
            if found:
                yield found


def _grid(model: onnx.ModelProto, rng: Generator, place: int, kinds: tuple[str, ...], change: Any) -> str | None:
    """Change a parameter of one activation's grid in its nodes of these kinds."""
    stored = _arrays(model)
    quantizers = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    chosen = _pick(rng, quantizers)
    codes = {chosen.output[0]}
    readers = [node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in codes]
    harmed = [node for node in (chosen, *readers) if node.op_type in kinds and node.input[place] in stored]
    for node in harmed:
        _store_apart(model, node, place, change)
    return str(chosen.input[0]) if harmed else None


def _one_off(zero_point: NDArray[Any]) -> NDArray[Any]:
    top = np.iinfo(zero_point.dtype).max
    return np.where(zero_point < top, zero_point + 1, zero_point - 1).astype(zero_point.dtype)


def _channels(model: onnx.ModelProto, node: NodeProto, rng: Generator, count: int, change: Any) -> str:
    axis = _get(node, "axis", 0)

    def apply(codes: NDArray[Any]) -> NDArray[Any]:
        changed = np.moveaxis(codes, axis, 0).copy()
        chosen = rng.choice(len(changed), min(count, len(changed)), replace=False)
        changed[chosen] = change(changed[chosen])
        return np.moveaxis(changed, 0, axis)

    return _store(model, node.input[0], apply)


def _store(model: onnx.ModelProto, name: str, change: Any) -> str:
    item = next(item for item in model.graph.initializer if item.name == name)
    values = np.ascontiguousarray(change(numpy_helper.to_array(item)))
    item.CopyFrom(numpy_helper.from_array(values, name))
    return name


def _store_apart(model: onnx.ModelProto, node: NodeProto, place: int, change: Any) -> str:
    """Give a node a changed constant of its own: others may share the one that it has."""
    values = np.asarray(change(_arrays(model)[node.input[place]]))
    name = f"{node.input[place]}-harmed-{len(model.graph.initializer)}"
    model.graph.initializer.append(numpy_helper.from_array(values, name))
    node.input[place] = name
    return str(node.input[0])


def _get(node: NodeProto, name: str, default: Any) -> Any:
    found = next((item for item in node.attribute if item.name == name), None)
    return default if found is None else helper.get_attribute_value(found)


def _set(node: NodeProto, name: str, value: Any) -> None:
    for item in list(node.attribute):
        if item.name == name:
            node.attribute.remove(item)
    node.attribute.append(helper.make_attribute(name, value))
