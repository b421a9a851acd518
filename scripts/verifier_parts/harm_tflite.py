"""Harm a right int8 TFLite file in one place: each function changes the model and says where; None: no such place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.random import Generator
from numpy.typing import NDArray

from torchshrink.converters import tflite_file
from torchshrink.converters.tflite_ops import row

Harm = Callable[[Any, Generator], str | None]
_FUSED, _INT8 = schema.ActivationFunctionType, schema.TensorType.INT8


def scale(model: Any, rng: Generator) -> str | None:
    """Raise an activation's scale by 3 %."""
    tensor = _activation(model, rng)
    tensor.quantization.scale = np.asarray(tensor.quantization.scale, np.float32) * np.float32(1.03)
    return tflite_file.tensor_name(tensor)


def zero_point(model: Any, rng: Generator) -> str | None:
    """Move an activation's zero point by 1."""
    tensor = _activation(model, rng)
    old = np.asarray(tensor.quantization.zeroPoint)
    tensor.quantization.zeroPoint = np.where(old < 127, old + 1, old - 1)
    return tflite_file.tensor_name(tensor)


def bias(model: Any, rng: Generator) -> str | None:
    """Raise a layer's bias by 2 %."""
    tensor = _pick(rng, [found for _, _, found in _layers(model) if found is not None])
    return _store(model, tensor, lambda codes: np.rint(codes * 1.02).astype(codes.dtype))


def swapped(model: Any, rng: Generator) -> str | None:
    """Swap two output channels of a weight."""
    return _channels(model, rng, 2, lambda part: part[::-1])


def sign(model: Any, rng: Generator) -> str | None:
    """Turn the sign of one output channel of a weight."""
    return _channels(model, rng, 1, lambda part: -part)


def weight_scale(model: Any, rng: Generator) -> str | None:
    """Raise the scale of one channel of a weight by 3 %."""
    _, tensor, _ = _pick(rng, _layers(model))
    scales = np.array(tensor.quantization.scale, np.float32)
    scales[rng.integers(len(scales))] *= np.float32(1.03)
    tensor.quantization.scale = scales
    return tflite_file.tensor_name(tensor)


def stale_norm(model: Any, rng: Generator) -> str | None:
    """Change scales and biases of a layer as other statistics would: a spread of 5 % and of 0.05 deviations."""
    _, weight, found = _pick(rng, [layer for layer in _layers(model) if layer[2] is not None])
    scales = np.array(weight.quantization.scale, np.float32)
    weight.quantization.scale = (scales * np.exp(rng.normal(0, 0.05, len(scales)))).astype(np.float32)
    return _store(model, found, lambda codes: np.rint(codes + 0.05 * codes.std()).astype(codes.dtype))


def kernel_transposed(model: Any, rng: Generator) -> str | None:
    """Swap height and width of a kernel; of a linear layer's weight, change the order of the inputs."""
    kind, tensor, _ = _pick(rng, _layers(model))

    def change(codes: NDArray[Any]) -> NDArray[Any]:
        if codes.ndim == 4 and codes.shape[1] == codes.shape[2] > 1:
            return codes.swapaxes(1, 2)
        if codes.ndim == 2:
            return codes.reshape(codes.shape[0], 2, -1).swapaxes(1, 2).reshape(codes.shape)
        return codes[..., ::-1]

    return f"{kind} {_store(model, tensor, change)}"


def padding(model: Any, rng: Generator) -> str | None:
    """Change the padding, SAME or VALID in place of the other; that of a PAD, to the other side."""
    graph = model.subgraphs[0]
    kinds = {"CONV_2D", "DEPTHWISE_CONV_2D", "PAD", "MAX_POOL_2D", "AVERAGE_POOL_2D"}
    operator = _pick(rng, [each for each in graph.operators if tflite_file.op_name(model, each) in kinds])
    if operator is None:
        return None
    if tflite_file.op_name(model, operator) == "PAD":
        return _store(model, graph.tensors[operator.inputs[1]], lambda pads: pads[:, ::-1])
    operator.builtinOptions.padding = 1 - operator.builtinOptions.padding
    return tflite_file.tensor_name(graph.tensors[operator.outputs[0]])


def clamp(model: Any, rng: Generator) -> str | None:
    """Leave out a fused clamp, or add one; double the slope of a leaky one."""
    graph = model.subgraphs[0]
    found = [each for each in graph.operators if hasattr(each.builtinOptions, "fusedActivationFunction")]
    found += [each for each in graph.operators if hasattr(each.builtinOptions, "alpha")]
    operator = _pick(rng, found)
    if hasattr(operator.builtinOptions, "alpha"):
        operator.builtinOptions.alpha *= 2
    else:
        is_free = operator.builtinOptions.fusedActivationFunction == _FUSED.NONE
        operator.builtinOptions.fusedActivationFunction = _FUSED.RELU if is_free else _FUSED.NONE
    return tflite_file.tensor_name(graph.tensors[operator.outputs[0]])


def operands(model: Any, rng: Generator) -> str | None:
    """Turn the parts of a concatenation around, or take one operand of a sum or product for both."""
    graph, kinds = model.subgraphs[0], {"CONCATENATION", "ADD", "MUL"}
    operator = _pick(rng, [each for each in graph.operators if tflite_file.op_name(model, each) in kinds])
    if operator is None:
        return None
    is_joined = tflite_file.op_name(model, operator) == "CONCATENATION"
    operator.inputs = list(operator.inputs)[::-1] if is_joined else [operator.inputs[0]] * 2
    return tflite_file.tensor_name(graph.tensors[operator.outputs[0]])


def one_weight(model: Any, rng: Generator) -> str | None:
    """Turn the sign of a layer's largest weight."""
    _, tensor, _ = _pick(rng, _layers(model))

    def change(codes: NDArray[Any]) -> NDArray[Any]:
        changed = codes.copy().reshape(-1)
        place = np.abs(changed.astype(np.int64)).argmax()
        changed[place] = -changed[place]
        return changed.reshape(codes.shape)

    return _store(model, tensor, change)


HARMS: dict[str, Harm] = {
    "scale off by 3 %": scale,
    "zero point off by 1": zero_point,
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


def _layers(model: Any) -> list[tuple[str, Any, Any]]:
    """Return kind, weight and bias (or None) of every layer."""
    graph = model.subgraphs[0]
    found = []
    for operator in graph.operators:
        kind = tflite_file.op_name(model, operator)
        op = row(kind)
        if op.weight is not None:
            place = op.bias
            has_bias = place is not None and place < len(operator.inputs) and operator.inputs[place] >= 0
            weight = graph.tensors[operator.inputs[op.weight]]
            found.append((kind, weight, graph.tensors[operator.inputs[place]] if has_bias else None))
    return found


def _activation(model: Any, rng: Generator) -> Any:
    graph = model.subgraphs[0]
    made = {int(index) for operator in graph.operators for index in operator.outputs} | set(map(int, graph.inputs))
    return _pick(rng, [graph.tensors[index] for index in sorted(made) if graph.tensors[index].type == _INT8])


def _channels(model: Any, rng: Generator, count: int, change: Any) -> str:
    kind, tensor, _ = _pick(rng, _layers(model))

    def apply(codes: NDArray[Any]) -> NDArray[Any]:
        changed = np.moveaxis(codes, row(kind).axis, 0).copy()
        chosen = rng.choice(len(changed), min(count, len(changed)), replace=False)
        changed[chosen] = change(changed[chosen])
        return np.moveaxis(changed, 0, row(kind).axis)

    return _store(model, tensor, apply)


def _store(model: Any, tensor: Any, change: Any) -> str:
    values = np.ascontiguousarray(change(tflite_file.constant(model, tensor)))
    buffer = tflite_file.add_buffer(model, values.tobytes())  # its own: equal vectors are shared
    tensor.buffer = buffer
    return tflite_file.tensor_name(tensor)
