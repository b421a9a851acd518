"""The rewriting for ONNX Runtime: the same numbers, from integer kernels only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper
from torch.nn import functional as F

from torchshrink import quantize
from torchshrink.converters.anatomy.inspect import find_islands
from torchshrink.converters.export import onnxruntime_int8
from torchshrink.converters.export.to_onnx import to_onnx
from torchshrink.converters.proof import verify

Build = Callable[..., onnx.ModelProto]
Run = Callable[..., NDArray[Any]]

# --- the U-Nets ---


@pytest.mark.parametrize("optimized", [False, True], ids=["as written", "as onnxruntime optimizes it"])
def test_codes_are_those_of_the_generic_graph(unet: Any, run_onnx: Run, optimized: bool) -> None:
    """The generic graph runs as it is written, node by node in float: no optimization of either can hide a mistake."""
    entry = np.random.default_rng(0).standard_normal(unet.inputs.shape).astype(np.float32)
    generic = np.rint(run_onnx(unet.generic, entry) * 256)
    found = np.rint(run_onnx(onnxruntime_int8.rewrite(unet.generic), entry, optimized=optimized) * 256)
    assert (np.abs(found - generic) <= 1).mean() >= 0.999
    assert (found == generic).mean() >= 0.99


def test_the_transposed_convolution_is_gone(unet: Any) -> None:
    before, after = (_kinds(model) for model in (unet.generic, onnxruntime_int8.rewrite(unet.generic)))
    assert before["ConvTranspose"] == 1
    assert after["ConvTranspose"] == 0
    assert after["Conv"] == before["Conv"] + 1
    moved = {"DepthToSpace": 1} if unet.inputs.ndim == 4 else {"Reshape": 2, "Transpose": 1}
    assert {kind: after[kind] for kind in moved} == moved


def test_onnxruntime_computes_all_of_it_in_integers(unet: Any, tmp_path: Path) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(unet.path("onnx-int8")), options, providers=["CPUExecutionProvider"])
    kinds = _kinds(onnx.load(str(tmp_path / "optimized.onnx")))
    assert kinds["QLinearConv"] == 8
    assert not {"Conv", "FusedConv", "ConvTranspose", "Relu", "MaxPool", "Concat", "Sigmoid"} & set(kinds)
    assert kinds["QuantizeLinear"] == kinds["DequantizeLinear"] == 1


def test_the_skip_connection_clips_codes(unet: Any) -> None:
    """Its ReLU shares a range with the transposed convolution's output, which has negative values."""
    model = onnxruntime_int8.rewrite(unet.generic)
    arrays = _arrays(model)
    (clip,) = [node for node in model.graph.node if node.op_type == "Clip"]
    assert arrays[clip.input[1]].dtype == np.uint8
    assert arrays[clip.input[1]] > 0
    assert _kinds(model)["Relu"] == _kinds(unet.generic)["Relu"] - 1


def test_biases_are_int32_on_the_grid_of_the_sum(unet: Any) -> None:
    model = onnxruntime_int8.rewrite(unet.generic)
    arrays, producers = _arrays(model), {name: node for node in model.graph.node for name in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    for node in convolutions:
        entry, weight, bias = (producers[name] for name in node.input)
        assert arrays[bias.input[0]].dtype == np.int32
        assert np.array_equal(arrays[bias.input[1]], arrays[entry.input[1]] * arrays[weight.input[1]])
    assert len(convolutions) == 8


def test_the_argument_is_left_alone(unet2d: Any) -> None:
    before = unet2d.generic.SerializeToString()
    onnxruntime_int8.rewrite(unet2d.generic)
    assert unet2d.generic.SerializeToString() == before


# --- one operation each ---


def _quantize(source: str, target: str, scale: str, zero_point: str) -> list[NodeProto]:
    return [
        helper.make_node("QuantizeLinear", [source, scale, zero_point], [f"{target}_codes"]),
        helper.make_node("DequantizeLinear", [f"{target}_codes", scale, zero_point], [target]),
    ]


def _transposed(build: Build, shape: tuple[int, ...], outputs: int, size: tuple[int, ...], **settings: Any) -> Any:
    """A quantized ConvTranspose of the weight's ``shape`` on ``[1, shape[0], *size]``.

    Axis 1 of the weight, which has the scales, holds the output channels of one group.
    """
    generator = np.random.default_rng(0)
    constants = {
        "scale": np.float32(0.05),
        "zero": np.int8(-7),
        "w_codes": generator.integers(-127, 128, shape).astype(np.int8),
        "w_scale": generator.uniform(0.01, 0.02, shape[1]).astype(np.float32),
        "w_zero": np.zeros(shape[1], np.int8),
        "bias": generator.standard_normal(outputs).astype(np.float32),
        "y_scale": np.float32(0.25),
        "y_zero": np.int8(5),
    }
    nodes = [
        *_quantize("x", "real", "scale", "zero"),
        helper.make_node("DequantizeLinear", ["w_codes", "w_scale", "w_zero"], ["w_real"], axis=1),
        helper.make_node("ConvTranspose", ["real", "w_real", "bias"], ["sum"], kernel_shape=shape[2:], **settings),
        *_quantize("sum", "y", "y_scale", "y_zero"),
    ]
    unknown = [None] * len(size)
    model = build(nodes, {"x": (1, shape[0], *size)}, {"y": (1, outputs, *unknown)}, constants)
    return model, constants


@pytest.mark.parametrize(("kernel", "size"), [((2, 2), (3, 5)), ((3, 3), (4, 2)), ((2,), (7,)), ((4,), (5,))], ids=str)
def test_a_transposed_convolution_by_hand(
    onnx_model: Build, run_onnx: Run, kernel: tuple[int, ...], size: tuple[int, ...]
) -> None:
    """PyTorch's own transposed convolution of the dequantized values, in float64, is the reference."""
    model, constants = _transposed(onnx_model, (3, 4, *kernel), 4, size, strides=kernel)
    rewritten = onnxruntime_int8.rewrite(model)
    assert _kinds(rewritten)["ConvTranspose"] == 0
    entry = np.random.default_rng(1).standard_normal((2, 3, *size)).astype(np.float32)
    codes = np.clip(np.rint(entry / np.float32(0.05)) - 7, -128, 127)
    real = torch.tensor(codes + 7).double() * float(np.float32(0.05))
    scale = constants["w_scale"].astype(np.float64).reshape(1, -1, *[1] * len(kernel))
    transpose = {1: F.conv_transpose1d, 2: F.conv_transpose2d}[len(kernel)]
    bias = torch.tensor(constants["bias"]).double()
    total = transpose(real, torch.tensor(constants["w_codes"] * scale), bias, stride=kernel).numpy()
    expected = (np.clip(np.rint(total / 0.25) + 5, -128, 127) - 5) * 0.25
    found = run_onnx(rewritten, entry)
    assert found.shape == expected.shape
    # The int32 bias is rounded to a grid of about 0.001: a sum on a rounding border may fall to the other side.
    assert (found == expected).mean() >= 0.98
    assert np.abs(found - expected).max() <= 0.25


@pytest.mark.parametrize(
    ("shape", "outputs", "settings"),
    [
        ((3, 4, 3, 3), 4, {"strides": [2, 2]}),
        ((3, 4, 2, 2), 4, {"strides": [1, 1]}),
        ((3, 4, 2, 3), 4, {"strides": [2, 3]}),
        ((3, 4, 2, 2), 4, {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        ((3, 4, 2, 2), 4, {"strides": [2, 2], "output_padding": [1, 1]}),
        ((3, 4, 2, 2), 4, {"strides": [2, 2], "dilations": [2, 2]}),
        ((4, 2, 2, 2), 4, {"strides": [2, 2], "group": 2}),
    ],
    ids=["kernel over stride", "stride 1", "not square", "padded", "output padding", "dilated", "grouped"],
)
def test_what_does_not_tile_stays_as_it_is(
    onnx_model: Build, run_onnx: Run, shape: tuple[int, ...], outputs: int, settings: dict[str, Any]
) -> None:
    model, _ = _transposed(onnx_model, shape, outputs, (4, 4), **settings)
    rewritten = onnxruntime_int8.rewrite(model)
    assert _kinds(rewritten)["ConvTranspose"] == 1
    entry = np.random.default_rng(1).standard_normal((2, shape[0], 4, 4)).astype(np.float32)
    assert np.allclose(run_onnx(rewritten, entry), run_onnx(model, entry), atol=1e-6)


def test_the_relu_of_a_linear_layer_on_tokens_is_the_quantizer(tmp_path: Path) -> None:
    """ONNX Runtime computed the layer in float: it turns product and sum to a layer and two shapes, the ReLU behind."""
    torch.manual_seed(0)
    model, tokens = (
        torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 5)),
        torch.randn(2, 7, 6),
    )
    prepared = quantize.prepare_ptq(model.eval(), tokens)
    quantize.calibrate(prepared, [tokens])
    graph = quantize.convert(prepared)
    path = to_onnx(graph, tokens, tmp_path / "tokens.onnx", "int8")
    assert find_islands(path) == ()
    assert verify.verify(path, graph, tokens, "int8", "graph").passed


@pytest.mark.parametrize(("zero_point", "clipped"), [(-128, False), (-127, True), (-40, True), (127, True)])
def test_relu(onnx_model: Build, run_onnx: Run, zero_point: int, clipped: bool) -> None:
    """Where code -128 stands for zero, quantizing cuts at zero; elsewhere the codes are clipped at the zero point."""
    nodes = [
        *_quantize("x", "real", "scale", "zero"),
        helper.make_node("Relu", ["real"], ["relu"]),
        *_quantize("relu", "y", "y_scale", "y_zero"),
    ]
    constants = {
        "scale": np.float32(0.05),
        "zero": np.int8(3),
        "y_scale": np.float32(0.04),
        "y_zero": np.int8(zero_point),
    }
    model = onnx_model(nodes, {"x": (1, 500)}, {"y": (1, 500)}, constants)
    rewritten = onnxruntime_int8.rewrite(model)
    kinds = _kinds(rewritten)
    assert (kinds["Clip"], kinds["Relu"]) == ((1, 0) if clipped else (0, 1))
    entry = np.linspace(-8, 8, 500, dtype=np.float32)[None]
    expected = run_onnx(model, entry)
    assert expected.min() == 0
    assert np.array_equal(run_onnx(rewritten, entry), expected)
    assert np.array_equal(run_onnx(rewritten, entry, optimized=True), expected)


@pytest.mark.parametrize("kind", ["Add", "Mul"])
def test_a_residual_connection(onnx_model: Build, run_onnx: Run, kind: str) -> None:
    """onnxruntime's QLinearAdd and QLinearMul take scalars only, as scales and as zero points."""
    nodes = [
        *_quantize("x", "left", "scale", "zero"),
        helper.make_node("Neg", ["left"], ["negative"]),
        *_quantize("negative", "right", "y_scale", "y_zero"),
        helper.make_node(kind, ["left", "right"], ["sum"]),
        *_quantize("sum", "y", "y_scale", "y_zero"),
    ]
    constants = {"scale": np.float32(0.05), "zero": np.int8(3), "y_scale": np.float32(0.04), "y_zero": np.int8(-20)}
    model = onnx_model(nodes, {"x": (1, 100)}, {"y": (1, 100)}, constants)
    entry = np.linspace(-4, 4, 100, dtype=np.float32)[None]
    rewritten = onnxruntime_int8.rewrite(model)
    difference = np.abs(run_onnx(rewritten, entry, optimized=True) - run_onnx(model, entry))
    assert difference.max() <= 0.04 * 1.001


def test_requantization(onnx_model: Build, run_onnx: Run) -> None:
    """A gate in a concatenation: the sigmoid's fixed grid, then the grid that the concatenation shares."""
    nodes = [
        *_quantize("x", "real", "scale", "zero"),
        helper.make_node("Sigmoid", ["real"], ["sigmoid"]),
        *_quantize("sigmoid", "gate", "gate_scale", "gate_zero"),
        *_quantize("gate", "again", "scale", "zero"),
        helper.make_node("Concat", ["again", "real"], ["both"], axis=1),
        *_quantize("both", "y", "scale", "zero"),
    ]
    constants = {
        "scale": np.float32(0.05),
        "zero": np.int8(3),
        "gate_scale": np.float32(1 / 256),
        "gate_zero": np.int8(-128),
    }
    model = onnx_model(nodes, {"x": (1, 100)}, {"y": (1, 200)}, constants)
    entry = np.linspace(-4, 4, 100, dtype=np.float32)[None]
    difference = np.abs(run_onnx(onnxruntime_int8.rewrite(model), entry, optimized=True) - run_onnx(model, entry))
    assert difference.max() <= 0.05 * 1.001


def test_unsigned_codes_stay_unsigned(onnx_model: Build, run_onnx: Run) -> None:
    """A graph that is unsigned already is not shifted a second time."""
    nodes = [*_quantize("x", "real", "scale", "zero"), helper.make_node("Abs", ["real"], ["y"])]
    constants = {"scale": np.float32(0.05), "zero": np.uint8(100)}
    model = onnx_model(nodes, {"x": (1, 100)}, {"y": (1, 100)}, constants)
    rewritten = onnxruntime_int8.rewrite(model)
    assert _arrays(rewritten)["zero"] == 100
    entry = np.linspace(-4, 4, 100, dtype=np.float32)[None]
    assert np.array_equal(run_onnx(rewritten, entry), run_onnx(model, entry))


def _kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def _arrays(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
