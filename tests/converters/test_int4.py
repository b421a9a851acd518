"""Weights in half a byte: what a file holds and computes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray

from torchshrink import quantize
from torchshrink.converters import int4, onnx_file, tflite_file
from torchshrink.converters.export import to_onnx
from torchshrink.converters.proof import verify
from torchshrink.converters.tflite import to_tflite
from torchshrink.errors import ModelError
from torchshrink.model.unet import UNet

INT8 = schema.TensorType.INT8
Make = Callable[[NDArray[np.int8]], Any]


def codes(*shape: int, largest: int = 7) -> NDArray[np.int8]:
    found = np.random.default_rng(0).integers(-largest, largest + 1, shape).astype(np.int8)
    found.flat[0] = largest
    return found


def test_two_in_a_byte_the_first_in_the_lower_half() -> None:
    """By hand: 1 is 0001, -1 is 1111, -7 is 1001."""
    assert tflite_file.nibbles(np.array([1, -1, -7], np.int8)).tolist() == [0b11110001, 0b00001001]


def convolution(builder: Any, values: NDArray[np.int8]) -> Any:
    entry = builder.tensor("input", (1, 6, 6, 3), INT8, scale=0.1)
    weight = builder.tensor("weight", values.shape, INT8, values, scale=0.02)
    bias = builder.tensor("bias", (4,), schema.TensorType.INT32, np.arange(4, dtype=np.int32), scale=0.002)
    output = builder.tensor("output", (1, 6, 6, 4), INT8, scale=0.05)
    options = schema.Conv2DOptionsT()
    options.padding, options.strideH, options.strideW = schema.Padding.SAME, 1, 1
    options.dilationHFactor = options.dilationWFactor = 1
    builder.operator(schema.BuiltinOperator.CONV_2D, [entry, weight, bias], [output], options)
    return builder.finish([entry], [output])


def dense(builder: Any, values: NDArray[np.int8]) -> Any:
    entry = builder.tensor("input", (2, 9), INT8, scale=0.1)
    weight = builder.tensor("weight", values.shape, INT8, values, scale=0.02)
    bias = builder.tensor("bias", (5,), schema.TensorType.INT32, np.arange(5, dtype=np.int32), scale=0.002)
    output = builder.tensor("output", (2, 5), INT8, scale=0.05)
    options = schema.FullyConnectedOptionsT()
    builder.operator(schema.BuiltinOperator.FULLY_CONNECTED, [entry, weight, bias], [output], options)
    return builder.finish([entry], [output])


CASES = [(convolution, (4, 3, 3, 3)), (dense, (5, 9))]


@pytest.mark.parametrize(("make", "shape"), CASES, ids=["convolution", "dense"])
def test_litert_computes_the_same(
    make: Callable[..., Any], shape: tuple[int, ...], tflite_builder: Any, interpreter: Any, tmp_path: Path
) -> None:
    """With XNNPACK and without, from half the bytes; what reads the file finds the same codes."""
    values = codes(*shape)
    model = make(tflite_builder, values)
    tflite_file.write(model, tmp_path / "int8.tflite")
    assert int4.pack(model) == 1
    tflite_file.write(model, tmp_path / "int4.tflite")
    again = tflite_file.Graph(tflite_file.read(tmp_path / "int4.tflite"))
    np.testing.assert_array_equal(again.constant(1), values)
    assert sum(len(buffer.data) for buffer in again.model.buffers if buffer.data is not None) == (
        (values.size + 1) // 2 + 4 * len(values)  # and the biases
    )
    wanted = run(interpreter(tmp_path / "int8.tflite"))
    assert len(np.unique(wanted)) > 5
    np.testing.assert_array_equal(run(interpreter(tmp_path / "int4.tflite")), wanted)
    delegated = Interpreter(str(tmp_path / "int4.tflite"))
    delegated.allocate_tensors()
    np.testing.assert_array_equal(run(delegated), wanted)


@pytest.mark.parametrize("largest", [6, 8, 127])
def test_weights_of_another_grid_are_left_alone(tflite_builder: Any, largest: int) -> None:
    model = convolution(tflite_builder, codes(4, 3, 3, 3, largest=largest))
    assert int4.pack(model) == 0
    assert model.subgraphs[0].tensors[1].type == INT8


def test_a_weight_that_another_operator_reads_too_is_left_alone(tflite_builder: Any) -> None:
    model = convolution(tflite_builder, codes(4, 3, 3, 3))
    tflite_builder.operator(schema.BuiltinOperator.ABS, [1], [tflite_builder.tensor("abs", (4, 3, 3, 3), INT8)])
    assert int4.pack(model) == 0


def test_a_buffer_that_two_tensors_share_is_left_alone(tflite_builder: Any) -> None:
    model = convolution(tflite_builder, codes(4, 3, 3, 3))
    twin = tflite_builder.tensor("twin", (4, 3, 3, 3), INT8)
    model.subgraphs[0].tensors[twin].buffer = model.subgraphs[0].tensors[1].buffer
    assert int4.pack(model) == 0


def test_a_file_whose_nibbles_are_too_few_is_refused(tflite_builder: Any, tmp_path: Path) -> None:
    model = convolution(tflite_builder, codes(4, 3, 3, 3))
    int4.pack(model)
    tensor = model.subgraphs[0].tensors[1]
    model.buffers[tensor.buffer].data = model.buffers[tensor.buffer].data[1:]
    tflite_file.write(model, tmp_path / "short.tflite")
    with pytest.raises(ModelError, match=r"tensor 1 of shape \[4, 3, 3, 3\] has 53 bytes, not 54"):
        tflite_file.read(tmp_path / "short.tflite")


def run(opened: Any) -> NDArray[Any]:
    (entry,), (output,) = opened.get_input_details(), opened.get_output_details()
    values = np.random.default_rng(1).integers(-128, 128, entry["shape"]).astype(np.int8)
    opened.set_tensor(entry["index"], values)
    opened.invoke()
    found: NDArray[Any] = opened.get_tensor(output["index"])
    return found


@pytest.mark.exhaustive
def test_what_was_trained_for_it_is_verified_and_smaller(tmp_path: Path) -> None:
    """From training to a file that is held against the graph, beside the same network in int8."""
    torch.manual_seed(0)
    model, example = UNet(widths=(8, 16)), torch.rand(1, 1, 32, 32)
    sizes = {}
    for weights in ("int8", "int4"):
        prepared = quantize.prepare_qat(model, example, weights=weights)  # type: ignore[arg-type]
        for _ in range(3):
            prepared(torch.rand(4, 1, 32, 32))
        graph = quantize.convert(prepared)
        onnx_file.save(to_onnx.export(graph, example), tmp_path / f"{weights}.onnx")
        path = to_tflite(tmp_path / f"{weights}.onnx", tmp_path / f"{weights}.tflite", "int8")
        assert verify.verify(path, graph, example, "int8", "tflite").passed
        sizes[weights] = path.stat().st_size
    assert sizes["int8"] - sizes["int4"] > 2500  # of 5840 weights in plain convolutions
