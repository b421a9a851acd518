"""The verification must be able to fail: damaged files, wrong outputs, values just past each limit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import thinned
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from torchshrink import bench
from torchshrink.converters import tflite_file, to_onnx
from torchshrink.converters.bridge import Bridge
from torchshrink.converters.proof import divergence, verify
from torchshrink.converters.proof.verify import compare
from torchshrink.errors import ConversionError

FILES = ["tflite-fp32", "tflite-int8", "onnx-fp32", "onnx-int8"]
LAYERS = {"first": 0, "middle": 4, "last": 7}

# --- damaged files ---


@pytest.fixture
def damage(tmp_path: Path) -> Callable[[Path, int], Path]:
    """Write a copy of a file in which one layer's weights have the wrong sign."""

    def write(path: Path, layer: int) -> Path:
        target = tmp_path / path.name
        (_damage_tflite if path.suffix == ".tflite" else _damage_onnx)(path, layer, target)
        return target

    return write


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_weight_fails_the_comparison(
    unet: Any, bridge: Bridge, name: str, layer: str, damage: Callable[[Path, int], Path]
) -> None:
    path = damage(unet.path(name), LAYERS[layer])
    found = bench.predict(path, unet.inputs.numpy())
    parity = bridge.compare(unet.artefacts[name], unet.source, found, unet.expected(name), unet.inputs)
    assert not parity["passed"]
    assert parity["reason"]


@pytest.mark.parametrize(
    ("name", "layer"), thinned.product(FILES, LAYERS, often=lambda name, layer: layer == "middle" or "int8" in name)
)
def test_the_first_divergence_is_the_damaged_layer(
    unet2d: Any, bridge: Bridge, name: str, layer: str, damage: Callable[[Path, int], Path]
) -> None:
    """The operation that is named comes with or after the damaged layer, and before the next one."""
    artefact = replace(unet2d.artefacts[name], path=damage(unet2d.path(name), LAYERS[layer]))
    named = bridge.locate(artefact, unet2d.source, unet2d.inputs[:1])
    assert named is not None
    assert _layer_of(named, unet2d, name) == LAYERS[layer]


def test_one_flipped_bit_of_a_sign_is_found(unet2d: Any, tmp_path: Path) -> None:
    """The smallest damage that matters: the sign of one weight, the head's largest."""
    model = tflite_file.read(unet2d.path("tflite-fp32"))
    weight = _tflite_weights(model)[-1]
    values = np.array(tflite_file.constant(model, weight))
    largest = np.unravel_index(np.abs(values).argmax(), values.shape)
    values[largest] = -values[largest]
    _store(model, weight, values)
    tflite_file.write(model, tmp_path / "flipped.tflite")
    parity = verify.verify(tmp_path / "flipped.tflite", unet2d.model, unet2d.inputs, "fp32", "model")
    assert not parity.passed


def test_a_changed_bias_is_located(unet2d: Any, tmp_path: Path) -> None:
    model = tflite_file.read(unet2d.path("tflite-fp32"))
    graph = model.subgraphs[0]
    operator = [op for op in graph.operators if tflite_file.op_name(model, op) == "CONV_2D"][2]
    bias = graph.tensors[operator.inputs[2]]
    _store(model, bias, np.array(tflite_file.constant(model, bias)) + 1)
    tflite_file.write(model, tmp_path / "shifted.tflite")
    named = divergence.first(tmp_path / "shifted.tflite", unet2d.floats, unet2d.inputs[:1])
    assert named is not None
    assert _layer_of(named, unet2d, "tflite-fp32") == 2


@pytest.mark.parametrize("name", ["tflite-fp32", "tflite-int8", "onnx-fp32", "onnx-int8"])
def test_channels_in_another_order_are_located(unet2d: Any, bridge: Bridge, name: str, tmp_path: Path) -> None:
    """A layer whose tensor holds the right values in wrong places."""
    path = tmp_path / unet2d.path(name).name
    (_reverse_tflite if path.suffix == ".tflite" else _reverse_onnx)(unet2d.path(name), 2, path)
    named = bridge.locate(replace(unet2d.artefacts[name], path=path), unet2d.source, unet2d.inputs[:1])
    assert named is not None
    assert _layer_of(named, unet2d, name) == 2


def test_the_wrong_model_fails(unet2d: Any) -> None:
    torch.manual_seed(5)
    other = type(unet2d.model)(widths=(8, 16)).eval()
    parity = verify.verify(unet2d.path("onnx-fp32"), other, unet2d.inputs, "fp32", "another model")
    assert not parity.passed
    assert parity.reference == "another model"


def test_a_file_that_does_not_load_is_an_error(unet2d: Any, tmp_path: Path) -> None:
    path = tmp_path / "cut.tflite"
    path.write_bytes(unet2d.path("tflite-fp32").read_bytes()[:4000])
    with pytest.raises(ConversionError, match=r"cut\.tflite does not run"):
        verify.verify(path, unet2d.model, unet2d.inputs, "fp32", "model")


def test_a_sound_file_passes(unet2d: Any) -> None:
    parity = verify.verify(unet2d.path("tflite-int8"), unet2d.quantized, unet2d.inputs, "int8", "graph")
    assert parity.passed
    assert parity.lsb_match is not None
    assert parity.lsb_match >= 0.999


# --- limits, on arrays made by hand ---


def _steps(shares: dict[int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return found and expected outputs, 1000 of them, that many of which are off by that many steps of 1/256."""
    expected = np.zeros(1000, np.float32)
    off = np.repeat(list(shares), list(shares.values()))
    found = expected.copy()
    found[: len(off)] = off / 256
    return found, expected


@pytest.mark.parametrize(
    ("shares", "passed"),
    [
        ({0: 1000}, True),
        ({1: 1000}, True),
        ({-1: 1000}, True),
        ({2: 50}, True),  # 95 % within 1 step
        ({2: 51}, False),
        ({-2: 51}, False),
        ({3: 50}, True),
        ({3: 49, 4: 1}, True),  # 99.9 % within 3
        ({3: 48, 4: 2}, False),
        ({255: 1}, True),
        ({255: 2}, False),
    ],
    ids=str,
)
def test_int8_limits(shares: dict[int, int], passed: bool) -> None:
    parity = compare(*_steps(shares), "int8", "graph", 1 / 256)
    assert parity.passed is passed
    assert bool(parity.reason) is not passed


def test_int8_figures() -> None:
    parity = compare(*_steps({1: 100, 2: 40, 200: 1}), "int8", "graph", 1 / 256)
    assert parity.lsb_match == pytest.approx(0.959)
    assert parity.max_abs == pytest.approx(200 / 256)
    assert parity.mean_abs == pytest.approx((100 + 80 + 200) / 256 / 1000)


def test_int8_reason_says_what_was_needed() -> None:
    parity = compare(*_steps({4: 60}), "int8", "graph", 1 / 256)
    assert parity.reason == "94.00% of outputs within 1 step and 94.000% within 3, needed 95% and 99.9%"


@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-4), ("fp16", 1e-2)])
def test_float_limits(precision: str, limit: float) -> None:
    """A share of the reference's range, here 8: 2 ** -40 is far below what float64 tells apart."""
    expected = np.array([-4.0, 0.0, 4.0])
    for factor, passed in ((0.999, True), (1.001, False)):
        for sign in (-1, 1):
            found = expected + np.array([0, sign * factor * limit * 8, 0])
            parity = compare(found, expected, precision, "model")
            assert parity.passed is passed
            assert parity.max_abs == pytest.approx(factor * limit * 8)
            assert parity.lsb_match is None


def test_float_reason_says_what_was_allowed() -> None:
    parity = compare(np.array([0.0, 1.5]), np.array([0.0, 1.0]), "fp32", "model")
    assert parity.reason == "largest difference 0.5, allowed 0.0001 (fp32)"


def test_an_int8_file_with_float_outputs_has_the_float16_limit() -> None:
    expected = np.array([0.0, 1.0])
    assert compare(expected + 0.009, expected, "int8", "graph").passed
    assert not compare(expected + 0.011, expected, "int8", "graph").passed


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["found", "expected", "both"])
@pytest.mark.parametrize(("precision", "scale"), [("fp32", None), ("fp16", None), ("int8", None), ("int8", 1 / 256)])
def test_what_is_not_a_number_fails(precision: str, scale: float | None, side: str, value: float) -> None:
    """One value of ten thousand: no share of good ones makes up for it."""
    arrays = {name: np.linspace(0, 1, 10_000, dtype=np.float32) for name in ("found", "expected")}
    for name in arrays if side == "both" else [side]:
        arrays[name][5000] = value
    with np.errstate(invalid="ignore"):
        parity = compare(arrays["found"], arrays["expected"], precision, "model", scale)
    assert not parity.passed
    assert parity.reason


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("shape", [(1, 1, 4, 4), (2, 1, 4, 3), (2, 4, 4), (32,), (2, 4, 4, 1)], ids=str)
def test_another_shape_fails(precision: str, shape: tuple[int, ...]) -> None:
    """Also where NumPy would broadcast it."""
    parity = compare(np.zeros(shape, np.float32), np.zeros((2, 1, 4, 4), np.float32), precision, "model", 1 / 256)
    assert not parity.passed
    assert parity.reason == f"outputs have shape {list(shape)} instead of [2, 1, 4, 4]"


def test_transposed_outputs_fail() -> None:
    expected = np.random.default_rng(0).random((1, 1, 8, 8)).astype(np.float32)
    found = np.ascontiguousarray(expected.swapaxes(2, 3))
    assert not compare(found, expected, "fp32", "model").passed
    assert not compare(found, expected, "int8", "model", 1 / 256).passed


def test_parity_goes_into_a_report(unet2d: Any) -> None:
    parity = Bridge().compare(
        unet2d.artefacts["tflite-int8"],
        unet2d.source,
        unet2d.outputs("tflite-int8"),
        unet2d.expected("tflite-int8"),
        unet2d.inputs,
    )
    assert json.loads(json.dumps(parity, allow_nan=False)) == parity
    assert parity["reference"] == "unet2d (quantized PyTorch graph)"


# --- the step of the output grid ---


def test_the_output_scale_is_the_sigmoids(unet: Any) -> None:
    assert verify.output_scales(unet.quantized) == [1 / 256]


def test_a_float_model_has_no_output_scale(unet2d: Any) -> None:
    assert verify.output_scales(unet2d.model) == []
    exported = torch.export.export(nn.Conv1d(2, 3, 1), (torch.zeros(1, 2, 5),)).module()
    assert verify.output_scales(exported) == [None]


# --- helpers ---


def _tflite_weights(model: Any) -> list[Any]:
    graph = model.subgraphs[0]
    kinds = {"CONV_2D", "TRANSPOSE_CONV"}
    return [graph.tensors[op.inputs[1]] for op in graph.operators if tflite_file.op_name(model, op) in kinds]


def _store(model: Any, tensor: Any, values: NDArray[Any]) -> None:
    model.buffers[tensor.buffer].data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)


def _damage_tflite(path: Path, layer: int, target: Path) -> None:
    model = tflite_file.read(path)
    weight = _tflite_weights(model)[layer]
    _store(model, weight, -np.array(tflite_file.constant(model, weight)))
    tflite_file.write(model, target)


def _damage_onnx(path: Path, layer: int, target: Path) -> None:
    model = onnx.load(str(path))
    producers = {name: node for node in model.graph.node for name in node.output}
    convolutions = [node for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    name = convolutions[layer].input[1]
    while name in producers:
        name = producers[name].input[0]
    item = next(item for item in model.graph.initializer if item.name == name)
    item.CopyFrom(numpy_helper.from_array(-numpy_helper.to_array(item), name))
    onnx.save(model, str(target))


def _reverse_tflite(path: Path, layer: int, target: Path) -> None:
    """Reverse a layer's output channels: its weights, its biases and their scales."""
    model = tflite_file.read(path)
    graph = model.subgraphs[0]
    kinds = {"CONV_2D", "TRANSPOSE_CONV"}
    operator = [op for op in graph.operators if tflite_file.op_name(model, op) in kinds][layer]
    for tensor in (graph.tensors[index] for index in operator.inputs[1:3]):
        _store(model, tensor, np.array(tflite_file.constant(model, tensor))[::-1])
        if tensor.quantization is not None and tensor.quantization.scale is not None:
            tensor.quantization.scale = np.array(tensor.quantization.scale)[::-1]
    tflite_file.write(model, target)


def _reverse_onnx(path: Path, layer: int, target: Path) -> None:
    model = onnx.load(str(path))
    producers = {name: node for node in model.graph.node for name in node.output}
    node = [node for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")][layer]
    parts = [name for each in node.input[1:] for name in (producers[each].input if each in producers else [each])]
    for item in model.graph.initializer:
        if item.name in parts:
            values = np.ascontiguousarray(numpy_helper.to_array(item)[::-1])
            item.CopyFrom(numpy_helper.from_array(values, item.name))
    onnx.save(model, str(target))


def _layer_of(named: object, unet: Any, name: str) -> int:
    """Return the number of the convolution at or before the operation that `divergence.first` named.

    Operations of TFLite files are called as in the ONNX graph, those of ONNX files as in the PyTorch graph.
    """
    tensor = str(named).split(" (")[0].split()[-1]
    if name.startswith("tflite"):
        graph = unet.generic if "int8" in name else unet.floats
        order = [(node.output[0], node.op_type in ("Conv", "ConvTranspose")) for node in graph.graph.node]
    else:
        model = unet.quantized
        if "int8" not in name:
            model = torch.export.export(unet.model, (unet.inputs[:1],)).module()
        order = [(node.name, "aten.conv" in str(node.target)) for node in model.graph.nodes]
    position = [item for item, _ in order].index(tensor)
    return sum(is_convolution for _, is_convolution in order[: position + 1]) - 1


@pytest.mark.parametrize(("difference", "passed"), [(3e-8, True), (1e-3, False)])
def test_outputs_that_are_nearly_constant(difference: float, passed: bool) -> None:
    """A model that answers 0.5 everywhere, rounded a little otherwise, is no wrong file."""
    expected = np.full((1, 1, 4, 4), 0.5, np.float32)
    parity = verify.compare(expected + np.float32(difference), expected, "fp32", "model")
    assert parity.passed is passed


def _unlikely(bias: float, *ends: nn.Module) -> nn.Module:
    """Return what answers with small probabilities, which ONNX Runtime's sigmoid rounds as it does large ones."""
    convolution = nn.Conv2d(1, 4, 3)
    generator = torch.Generator().manual_seed(0)
    convolution.weight.data = 0.1 * torch.randn(4, 1, 3, 3, generator=generator)
    nn.init.constant_(convolution.bias, bias)  # type: ignore[arg-type]
    return nn.Sequential(convolution, *ends).eval()


@pytest.mark.parametrize("ends", [(nn.Sigmoid(),), (nn.Sigmoid(), nn.Flatten())], ids=["last", "moved"])
@pytest.mark.parametrize(("bias", "other"), [(-16.0, -13.0), (-11.0, -10.9), (-6.0, -5.99)], ids=str)
def test_small_probabilities_are_held_to_what_onnx_runtime_can_tell(
    bias: float, other: float, ends: tuple[nn.Module, ...], tmp_path: Path
) -> None:
    """A model of other probabilities is another one."""
    inputs = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    path = to_onnx(_unlikely(bias, *ends), inputs[:1], tmp_path / "model.onnx")
    assert verify.verify(path, _unlikely(bias, *ends), inputs, "fp32", "the model").passed
    assert not verify.verify(path, _unlikely(other, *ends), inputs, "fp32", "the model").passed


def test_float16_is_allowed_what_rounding_the_weights_does_to_the_model() -> None:
    """Two large weights that take each other away leave what float16 cannot hold."""
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[1.0007, -1.0]])
    inputs = torch.linspace(0.5, 1, 8)[:, None].repeat(1, 2)
    expected = [model(inputs).detach().numpy()]
    rounded = [(inputs @ model.weight.half().float().T).detach().numpy()]
    for found, passed in ((rounded, True), ([rounded[0] * 4], False)):
        parity = verify.compare_all(found, expected, "fp16", "model", [None], [0.0])
        assert not parity.passed
        judged = verify.look_at_halves(parity, model, [inputs], found, expected)
        assert judged.passed is passed
        assert ("rounding the weights alone explains" in judged.reason) is not passed
    assert model.weight[0, 0] == torch.tensor(1.0007)
