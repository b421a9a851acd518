"""Model files written by hand, small enough to check every number on paper.

Most compute ``y[:, c] = factor[c] * x[:, c]`` on ``[1, 2, 3, 5]``: no two dimensions are equal, a wrong layout shows.
"""

from collections.abc import Callable
from pathlib import Path

import flatbuffers
import numpy as np
import onnx
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from onnx import TensorProto, helper, numpy_helper

SHAPE = (1, 2, 3, 5)
FACTORS = (2.0, -3.0)


@pytest.fixture
def sample() -> np.ndarray:
    """``[1, 2, 3, 5]`` with the values -15 to 14, all different."""
    return np.arange(-15, 15, dtype=np.float32).reshape(SHAPE)


@pytest.fixture
def scaled(sample: np.ndarray) -> np.ndarray:
    """What the files make of ``sample``."""
    return np.stack([sample[:, 0] * 2, sample[:, 1] * -3], axis=1)


@pytest.fixture
def onnx_file(tmp_path: Path) -> Path:
    factors = np.array(FACTORS, np.float32).reshape(1, 2, 1, 1)
    node = helper.make_node("Mul", ["x", "factors"], ["y"])
    return save_onnx(tmp_path / "scale.onnx", [node], SHAPE, SHAPE, {"factors": factors})


@pytest.fixture
def free_onnx_file(tmp_path: Path) -> Path:
    """Takes ``[1, 2, any, any]``."""
    factors = np.array(FACTORS, np.float32).reshape(1, 2, 1, 1)
    node = helper.make_node("Mul", ["x", "factors"], ["y"])
    return save_onnx(tmp_path / "free.onnx", [node], (1, 2, "h", "w"), (1, 2, "h", "w"), {"factors": factors})


@pytest.fixture
def hungry_onnx_file(tmp_path: Path) -> Path:
    """Sum of x[0, 0] over an array of 25 million float32, 100 MB, that exists only while it runs."""
    nodes = [
        helper.make_node("Expand", ["x", "shape"], ["big"]),
        helper.make_node("Abs", ["big"], ["absolute"]),
        helper.make_node("ReduceMax", ["absolute"], ["y"], keepdims=0, axes=[1]),
    ]
    shape = np.array([1, 25_000_000], np.int64)
    return save_onnx(tmp_path / "hungry.onnx", nodes, (1, 1), (1,), {"shape": shape})


@pytest.fixture
def tflite_file(tmp_path: Path) -> Path:
    return save_tflite_mul(tmp_path / "scale.tflite", np.float32, FACTORS)


@pytest.fixture
def fixed_tflite_file(tmp_path: Path) -> Path:
    """Multiplies by an array as large as the input, which therefore cannot be of another size."""
    factors = tuple(float(factor) for factor in range(30))
    return save_tflite_mul(tmp_path / "fixed.tflite", np.float32, factors, factors_shape=(1, 3, 5, 2))


@pytest.fixture
def int8_file(tmp_path: Path) -> Path:
    """Input codes are x / 0.5 + 10, output codes y / 1.0 - 5; the factors are stored as 2 and -3 at scale 1."""
    affine = [(0.5, 10), (1.0, 0), (1.0, -5)]
    return save_tflite_mul(tmp_path / "scale_int8.tflite", np.int8, FACTORS, affine)


@pytest.fixture
def pt2_file(tmp_path: Path) -> Path:
    return save_program(tmp_path / "scale.pt2", Scale())


@pytest.fixture
def quantized_pt2_file(tmp_path: Path) -> Path:
    """Rounds x to multiples of 8, with codes from -1 to 1: values in [-8, 8]."""
    return save_program(tmp_path / "rounds.pt2", Rounds())


@pytest.fixture
def damaged(tmp_path: Path) -> Callable[[str], Path]:
    """Write a file of zeros with the given ending."""

    def write(suffix: str) -> Path:
        path = tmp_path / f"damaged{suffix}"
        path.write_bytes(bytes(1000))
        return path

    return write


class Scale(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factors = torch.nn.Parameter(torch.tensor(FACTORS).reshape(1, 2, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factors


class Rounds(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        arguments = (8.0, 0, -1, 1, torch.int8)
        codes = torch.ops.quantized_decomposed.quantize_per_tensor(x, *arguments)
        return torch.ops.quantized_decomposed.dequantize_per_tensor(codes, *arguments)


def save_program(path: Path, module: torch.nn.Module) -> Path:
    import torch.ao.quantization.fx._decomposed  # registers the operators of `Rounds`

    torch.export.save(torch.export.export(module.eval(), (torch.zeros(SHAPE),)), path)
    return path


def save_onnx(
    path: Path,
    nodes: list[onnx.NodeProto],
    input_shape: tuple[int | str, ...],
    output_shape: tuple[int | str, ...],
    constants: dict[str, np.ndarray],
) -> Path:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, input_shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, output_shape)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def save_tflite_mul(
    path: Path,
    dtype: type,
    factors: tuple[float, ...],
    affine: list[tuple[float, int]] | None = None,
    factors_shape: tuple[int, ...] = (2,),
) -> Path:
    """Write one MUL on ``[1, 3, 5, 2]``; ``affine`` holds scale and zero point of input, factors and output."""
    constant = schema.BufferT()
    constant.data = np.frombuffer(np.array(factors, dtype).tobytes(), np.uint8)
    kind = schema.TensorType.INT8 if dtype is np.int8 else schema.TensorType.FLOAT32
    tensors = []
    for index, (name, shape) in enumerate([("x", (1, 3, 5, 2)), ("factors", factors_shape), ("y", (1, 3, 5, 2))]):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(shape), kind, 1 if index == 1 else 0
        if affine:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = [affine[index][0]], [affine[index][1]]
        tensors.append(tensor)
    model = schema.ModelT()
    model.version = 3
    model.operatorCodes = [_mul_code()]
    model.subgraphs = [_graph(tensors)]
    model.buffers = [schema.BufferT(), constant]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    path.write_bytes(builder.Output())
    return path


def _mul_code() -> schema.OperatorCodeT:
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.MUL
    code.version = 2
    return code


def _graph(tensors: list[schema.TensorT]) -> schema.SubGraphT:
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [0, 1], [2]
    operator.builtinOptionsType = schema.BuiltinOptions.MulOptions
    operator.builtinOptions = schema.MulOptionsT()
    graph = schema.SubGraphT()
    graph.tensors, graph.operators, graph.inputs, graph.outputs = tensors, [operator], [0], [2]
    return graph
