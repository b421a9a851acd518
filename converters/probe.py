"""What int8 gains on this processor: one convolution in float and in int8, in each runtime, about a second for each."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from torchshrink import bench
from torchshrink.converters import tflite_file
from torchshrink.converters.onnx_file import DEQUANTIZE, QUANTIZE

_CHANNELS, _SIZE, _KERNEL = 32, 32, 3  # a layer in the middle of a small U-Net
_RUNS = 30
WORTH_IT = 1.5  # times as fast as float, from which on int8 is said to save time
_ENDINGS = {"ONNX Runtime": ".onnx", "LiteRT": ".tflite"}
_SCALE = 1 / 64  # of every activation; no output of these weights leaves the grid


@cache
def int8_gain(runtimes: Sequence[str] = ("ONNX Runtime", "LiteRT")) -> dict[str, float]:
    """Return by runtime how many times faster the convolution is in int8 than in float, on one thread.

    Measured once in a process.

    Raises:
        ModelError: When a runtime is not installed.
    """
    codes = np.random.default_rng(0).integers(-63, 64, (_CHANNELS, _CHANNELS, _KERNEL, _KERNEL)).astype(np.int8)
    sample = np.random.default_rng(1).standard_normal((1, _CHANNELS, _SIZE, _SIZE)).astype(np.float32)
    with tempfile.TemporaryDirectory(prefix="torchshrink-") as folder:
        files = {
            (runtime, precision): Path(folder, f"{precision}{_ENDINGS[runtime]}")
            for runtime in runtimes
            for precision in ("float", "int8")
        }
        for (runtime, precision), path in files.items():
            write = _write_onnx if runtime == "ONNX Runtime" else _write_tflite
            write(path, codes, precision == "int8")
        measured = bench.measure_all(files.values(), sample, runs=_RUNS)
        spent = {key: measured[path].latency.median for key, path in files.items()}
    return {name: spent[name, "float"] / spent[name, "int8"] for name in runtimes}


def _write_onnx(path: Path, codes: NDArray[np.int8], is_int8: bool) -> None:
    shape = [1, _CHANNELS, _SIZE, _SIZE]
    entry, result = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("input", "output"))
    settings: dict[str, Any] = {"kernel_shape": [_KERNEL] * 2, "pads": [_KERNEL // 2] * 4}
    if not is_int8:
        arrays: dict[str, NDArray[Any]] = {"weight": codes.astype(np.float32) * np.float32(_SCALE / _CHANNELS)}
        nodes = [helper.make_node("Conv", ["input", "weight"], ["output"], **settings)]
    else:
        arrays = {
            "codes": codes,
            "scale": np.array(_SCALE, np.float32),
            "zero": np.array(128, np.uint8),
            "weight_scale": np.full(_CHANNELS, _SCALE / _CHANNELS, np.float32),
            "weight_zero": np.zeros(_CHANNELS, np.int8),
        }
        grid = ["scale", "zero"]
        nodes = [
            helper.make_node(QUANTIZE, ["input", *grid], ["quantized"]),
            helper.make_node(DEQUANTIZE, ["quantized", *grid], ["real"]),
            helper.make_node(DEQUANTIZE, ["codes", "weight_scale", "weight_zero"], ["weight"], axis=0),
            helper.make_node("Conv", ["real", "weight"], ["sum"], **settings),
            helper.make_node(QUANTIZE, ["sum", *grid], ["rounded"]),
            helper.make_node(DEQUANTIZE, ["rounded", *grid], ["output"]),
        ]
    stored = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "convolution", [entry], [result], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), str(path))


def _write_tflite(path: Path, codes: NDArray[np.int8], is_int8: bool) -> None:
    """Write one CONV_2D whose input and output are int8 where it is: what conversion costs is no part of it."""
    weight = np.moveaxis(codes, 1, -1)
    stored = weight if is_int8 else weight.astype(np.float32) * np.float32(_SCALE / _CHANNELS)
    bias = np.zeros(_CHANNELS, np.int32 if is_int8 else np.float32)
    shape, kind = [1, _SIZE, _SIZE, _CHANNELS], schema.TensorType.INT8 if is_int8 else schema.TensorType.FLOAT32
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.buffers = [schema.BufferT()]
    graph.tensors = [
        _tensor("input", shape, kind, [_SCALE], is_int8),
        _tensor("weight", list(weight.shape), kind, [_SCALE / _CHANNELS] * _CHANNELS, is_int8),
        _tensor("bias", [_CHANNELS], schema.TensorType.INT32 if is_int8 else kind, [_SCALE**2 / _CHANNELS] * _CHANNELS,
                is_int8),
        _tensor("output", shape, kind, [_SCALE], is_int8),
    ]  # fmt: skip
    for tensor, array in ((graph.tensors[1], stored), (graph.tensors[2], bias)):
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
        tensor.buffer = len(model.buffers)
        model.buffers.append(buffer)
    operator, options, code = schema.OperatorT(), schema.Conv2DOptionsT(), schema.OperatorCodeT()
    options.padding, options.strideW, options.strideH = schema.Padding.SAME, 1, 1
    options.dilationWFactor = options.dilationHFactor = 1
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CONV_2D
    code.version = 3 if is_int8 else 1
    operator.inputs, operator.outputs = [0, 1, 2], [3]
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.Conv2DOptions, options
    graph.operators, graph.inputs, graph.outputs = [operator], [0], [3]
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    tflite_file.write(model, path)


def _tensor(name: str, shape: list[int], kind: int, scales: list[float], is_int8: bool) -> Any:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name.encode(), shape, kind, 0
    if is_int8:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = scales, [0] * len(scales)
        tensor.quantization.quantizedDimension = 0
    return tensor
