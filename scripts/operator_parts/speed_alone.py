"""Operators that the quantizer never leaves whole, but files of other tools hold: written to a TFLite file alone."""

from __future__ import annotations

from pathlib import Path

import speed_cases
from ai_edge_litert import schema_py_generated as schema

from torchshrink.converters import tflite_file

NAMES = {"HARD_SWISH": 1, "ELU": 1, "RELU": 2, "RELU6": 2, "EXP": 2}  # with the version of the int8 form
_SCALE = 1 / 16  # values in [-8, 8)


def write(kind: str, path: Path, is_int8: bool) -> None:
    """Write a model of one operator with one input and one output of the size of the other cases."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    operator, code = schema.OperatorT(), schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, kind)
    code.version = NAMES[kind] if is_int8 else 1
    operator.inputs, operator.outputs = [0], [1]
    graph.tensors = [_tensor(name, is_int8) for name in ("input", "output")]
    graph.operators, graph.inputs, graph.outputs = [operator], [0], [1]
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [graph], [schema.BufferT()]
    tflite_file.write(model, path)


def _tensor(name: str, is_int8: bool) -> schema.TensorT:
    tensor = schema.TensorT()
    tensor.name, tensor.buffer = name.encode(), 0
    tensor.shape = [1, speed_cases.SIZE, speed_cases.SIZE, speed_cases.CHANNELS]
    tensor.type = schema.TensorType.INT8 if is_int8 else schema.TensorType.FLOAT32
    if is_int8:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = [_SCALE], [0]
    return tensor
