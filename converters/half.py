"""Store weights as float16, except the few whose rounding costs most for the bytes that it saves.

Float16 keeps 11 bits. In a trained U-Net the rounding of the first convolution alone, 144 weights that see raw values,
moved outputs by 0.12, all other layers together by 0.005: small tensors stand where errors go through everything that
follows, and keeping them in float32 costs next to nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray
from onnx import helper

from torchshrink.converters import onnx_file, tflite_file
from torchshrink.errors import ModelError

KEPT_SHARE = 0.012  # of all values: the smallest tensors that fit stay float32
_LARGEST = 65504.0

Key = TypeVar("Key", str, int)


def rounded(arrays: Mapping[Key, NDArray[Any]]) -> dict[Key, NDArray[np.float16]]:
    """Return the float16 form of the tensors that are to be stored so.

    Args:
        arrays: Every float32 constant of a model, in the order of first use: of two tensors of one size, the one that
            is used earlier is kept.

    Raises:
        ModelError: When a value does not fit into float16.
    """
    budget = KEPT_SHARE * sum(array.size for array in arrays.values())
    chosen = {}
    for key in sorted(arrays, key=lambda name: arrays[name].size):
        array = arrays[key]
        budget -= array.size
        if budget >= 0:
            continue
        if float(np.abs(array).max()) > _LARGEST:
            raise ModelError(f"weight {key} holds values beyond {_LARGEST}, the largest float16: export it as fp32")
        chosen[key] = array.astype(np.float16)
    return chosen


def round_onnx(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with float16 weights that a Cast turns into float32 where they are used."""
    model = copy.deepcopy(model)
    arrays = onnx_file.constants(model)
    used = dict.fromkeys(name for node in model.graph.node for name in node.input if name in arrays)
    floats = {name: arrays[name] for name in used if arrays[name].dtype == np.float32}
    chosen = rounded(floats)
    casts = [helper.make_node("Cast", [f"{name}_fp16"], [name], to=onnx.TensorProto.FLOAT) for name in chosen]
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    kept = [item for item in model.graph.initializer if item.name not in chosen]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    onnx_file.replace_initializers(model, {f"{name}_fp16": array for name, array in chosen.items()})
    return model


def round_tflite(source: Path, target: Path) -> None:
    """Write a float32 TFLite file with float16 weights, each before a DEQUANTIZE operator.

    Biases stay float32 and are added by an ADD of their own: XNNPACK takes a convolution only when weights and bias are
    of one type, and a rounded bias moves every output of its channel.
    """
    model = tflite_file.read(source)
    for graph in model.subgraphs:
        used = dict.fromkeys(index for operator in graph.operators for index in operator.inputs if index >= 0)
        constants = {index: tflite_file.constant(model, graph.tensors[index]) for index in used}
        floats = {key: array for key, array in constants.items() if array is not None and array.dtype == np.float32}
        chosen = {index: array for index, array in rounded(floats).items() if array.ndim > 1}
        graph.operators = [part for item in graph.operators for part in _with_bias_apart(model, graph, item, chosen)]
        replaced = {graph.tensors[index].buffer for index in chosen}
        operators = [_store(model, graph, index, array) for index, array in sorted(chosen.items())]
        graph.operators = operators + graph.operators
        for buffer in replaced - {tensor.buffer for each in model.subgraphs for tensor in each.tensors}:
            model.buffers[buffer].data = None
    tflite_file.write(model, target)


def _with_bias_apart(model: Any, graph: Any, operator: Any, chosen: dict[int, NDArray[np.float16]]) -> list[Any]:
    """Return an operator whose weight becomes float16 without its bias, and the ADD that adds it."""
    position = {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "FULLY_CONNECTED": 2, "TRANSPOSE_CONV": 3}.get(
        tflite_file.op_name(model, operator), 0
    )
    inputs = list(operator.inputs)
    if not position or len(inputs) <= position or inputs[position] < 0 or inputs[1] not in chosen:
        return [operator]
    output = operator.outputs[0]
    plain = copy.copy(graph.tensors[output])
    plain.name = f"sum{output}"  # names count: a file may have a hundred of these
    graph.tensors.append(plain)
    addition = schema.OperatorT()
    addition.opcodeIndex = tflite_file.opcode(model, schema.BuiltinOperator.ADD)
    addition.builtinOptionsType = schema.BuiltinOptions.AddOptions
    addition.builtinOptions = schema.AddOptionsT()
    addition.builtinOptions.fusedActivationFunction = operator.builtinOptions.fusedActivationFunction
    addition.inputs, addition.outputs = [len(graph.tensors) - 1, inputs[position]], [output]
    operator.builtinOptions.fusedActivationFunction = schema.ActivationFunctionType.NONE
    operator.outputs = [len(graph.tensors) - 1]
    # The kernels want a bias: zeros, float16 like the weights.
    zeros = copy.copy(graph.tensors[inputs[position]])
    zeros.name, zeros.buffer = f"zeros{output}", 0
    graph.tensors.append(zeros)
    chosen[len(graph.tensors) - 1] = np.zeros(list(zeros.shape), np.float16)
    operator.inputs = [*inputs[:position], len(graph.tensors) - 1]
    return [operator, addition]


def _store(model: Any, graph: Any, index: int, values: NDArray[np.float16]) -> Any:
    """Make tensor ``index`` float16, let its users read a new float32 tensor, and return the operator in between.

    The stored tensor keeps its index, the expanded one comes behind it, as in the files that TensorFlow writes.
    """
    stored = graph.tensors[index]
    expanded = copy.copy(stored)
    expanded.buffer = 0
    graph.tensors.append(expanded)
    tflite_file.redirect(graph, index, len(graph.tensors) - 1)
    stored.type = schema.TensorType.FLOAT16
    stored.name = f"{tflite_file.tensor_name(expanded)}_fp16"
    stored.buffer = tflite_file.add_buffer(model, values.tobytes())
    operator = schema.OperatorT()
    operator.opcodeIndex = tflite_file.opcode(model, schema.BuiltinOperator.DEQUANTIZE, version=3)
    operator.builtinOptionsType = schema.BuiltinOptions.DequantizeOptions
    operator.builtinOptions = schema.DequantizeOptionsT()
    operator.inputs, operator.outputs = [index], [len(graph.tensors) - 1]
    return operator
