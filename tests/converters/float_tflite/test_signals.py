"""Signals as images one pixel wide: the same numbers bit for bit, and no reshaping between operations in TFLite."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import thinned
import torch
from numpy.typing import NDArray
from onnx import ModelProto, helper
from torch import Tensor, nn
from torch.nn import functional as F

from torchshrink import bench
from torchshrink.converters import onnx_file, qdq, tflite, tflite_file
from torchshrink.converters.export.to_onnx import export
from torchshrink.converters.float_tflite import signals
from torchshrink.converters.onnx_file import save

CHANNELS, LENGTH = 3, 40
MOVES = {"RESHAPE", "EXPAND_DIMS", "SQUEEZE", "TRANSPOSE"}


class Net(nn.Module):
    """A function of a network's layers and its input."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor], **layers: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def _conv(inputs: int, outputs: int, size: int = 3, **settings: Any) -> nn.Conv1d:
    return nn.Conv1d(inputs, outputs, size, **{"padding": size // 2, **settings})


def _twice(layer: nn.Module, channels: int = 6) -> nn.Module:
    return nn.Sequential(_conv(CHANNELS, 6), layer, _conv(channels, 4))


def _attention(net: Any, x: Tensor) -> Tensor:
    tokens = net.stem(x).transpose(1, 2)
    weights = torch.softmax(tokens @ tokens.transpose(1, 2), -1)
    return net.head(net.body((weights @ tokens).transpose(1, 2)))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "kernel 9": lambda: nn.Sequential(_conv(CHANNELS, 6, 9), nn.ReLU(), _conv(6, 4, 9)),
    "stride 2": lambda: _twice(_conv(6, 6, 5, stride=2)),
    "dilation": lambda: _twice(_conv(6, 6, dilation=4, padding=4)),
    "groups": lambda: _twice(nn.Sequential(_conv(6, 6, groups=3), _conv(6, 6, 5, groups=6))),
    "transposed 2 by 2": lambda: _twice(nn.ConvTranspose1d(6, 6, 2, stride=2)),
    "transposed 4 by 2": lambda: _twice(nn.ConvTranspose1d(6, 6, 4, stride=2, padding=1)),
    "transposed with output padding": lambda: _twice(
        nn.ConvTranspose1d(6, 6, 3, stride=2, padding=1, output_padding=1)
    ),
    "nearest": lambda: _twice(nn.Upsample(scale_factor=2, mode="nearest")),
    "max pool": lambda: _twice(nn.Sequential(nn.MaxPool1d(3, 2, 1), nn.MaxPool1d(2, ceil_mode=True))),
    "average pool": lambda: _twice(nn.Sequential(nn.AvgPool1d(2), nn.AvgPool1d(3, 1, 1))),
    "batch norm": lambda: _twice(nn.Sequential(nn.ReLU(), nn.BatchNorm1d(6))),
    "instance norm": lambda: _twice(nn.InstanceNorm1d(6, affine=True)),
    "prelu": lambda: _twice(nn.PReLU(6)),
    "softmax over channels": lambda: _twice(nn.Softmax(1)),
    "concat": lambda: Net(
        lambda net, x: net.b(torch.cat([net.a(x), x], 1)), a=_conv(CHANNELS, 6), b=_conv(6 + CHANNELS, 4)
    ),
    "residual": lambda: Net(
        lambda net, x: net.c(F.relu(net.b(net.a(x)) + net.a(x))), a=_conv(CHANNELS, 6), b=_conv(6, 6), c=_conv(6, 4)
    ),
    "sum at the end": lambda: Net(
        lambda net, x: net.b(F.relu(net.a(x))) + x, a=_conv(CHANNELS, 6), b=_conv(6, CHANNELS)
    ),
    "mean and classifier": lambda: Net(
        lambda net, x: net.b(F.relu(net.a(x)).mean(-1)), a=_conv(CHANNELS, 6), b=nn.Linear(6, 4)
    ),
    "squeeze and excite": lambda: Net(
        lambda net, x: (lambda y: y * torch.sigmoid(net.b(y.mean(-1, keepdim=True))))(net.a(x)),
        a=_conv(CHANNELS, 6),
        b=_conv(6, 6, 1),
    ),
    "padded on one side": lambda: Net(
        lambda net, x: net.b(F.pad(net.a(F.pad(x, (4, 0))), (2, 0))),
        a=_conv(CHANNELS, 6, 5, padding=0),
        b=_conv(6, 4, padding=0),
    ),
    "cut": lambda: Net(lambda net, x: net.b(net.a(x)[:, :, 3:-5]), a=_conv(CHANNELS, 6), b=_conv(6, 4)),
    "split": lambda: Net(
        lambda net, x: (lambda p, q: p * torch.sigmoid(q))(*net.a(x).chunk(2, 1)), a=_conv(CHANNELS, 8)
    ),
    "a number per channel": lambda: Net(
        lambda net, x: net.b(net.a(x) * net.p), a=_conv(CHANNELS, 6), b=_conv(6, 4), p=nn.Parameter(torch.ones(6, 1))
    ),
    "a number per position": lambda: Net(
        lambda net, x: net.b(net.a(x) * net.p), a=_conv(CHANNELS, 6), b=_conv(6, 4), p=nn.Parameter(torch.ones(LENGTH))
    ),
    "one output channel": lambda: nn.Sequential(_conv(CHANNELS, 6), nn.ReLU(), _conv(6, 1, 1), nn.Sigmoid()),
    "concat with a constant": lambda: Net(
        lambda net, x: net.b(torch.cat([net.a(x), net.p.expand(1, 2, LENGTH)], 1)),
        a=_conv(CHANNELS, 6),
        b=_conv(8, 4),
        p=nn.Parameter(torch.ones(1, 2, LENGTH)),
    ),
    "attention in the middle": lambda: Net(
        _attention,
        stem=nn.Sequential(_conv(CHANNELS, 6, stride=2), nn.ReLU(), _conv(6, 8)),
        body=_conv(8, 8),
        head=_conv(8, 4),
    ),
}


def _model(name: str) -> nn.Module:
    torch.manual_seed(0)
    model = MODELS[name]()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


def _inputs() -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).standard_normal((1, CHANNELS, LENGTH)).astype(np.float32))


def _kinds(model: ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def _shapes(model: ModelProto) -> dict[str, list[int]]:
    types = {item.name: item.type.tensor_type.shape.dim for item in model.graph.value_info}
    return {name: [side.dim_value for side in shape] for name, shape in types.items()}


# --- exact ---


@pytest.mark.parametrize("name", MODELS)
def test_every_bit_is_the_same(name: str, run_onnx: Callable[..., NDArray[Any]]) -> None:
    source = export(_model(name), _inputs())
    lifted = signals.lift(source)
    onnx.checker.check_model(lifted, full_check=True)
    assert _kinds(lifted)["Unsqueeze"] > _kinds(source)["Unsqueeze"]
    assert [item.SerializeToString() for item in lifted.graph.input] == [
        item.SerializeToString() for item in source.graph.input
    ]
    np.testing.assert_array_equal(run_onnx(lifted, _inputs().numpy()), run_onnx(source, _inputs().numpy()))


def test_the_unet_gets_a_width_once_and_keeps_its_names(export: Callable[[int], Any]) -> None:
    source, _ = qdq.split(export(1).generic)
    lifted = signals.lift(source)
    assert _kinds(lifted) - _kinds(source) == Counter(Unsqueeze=1, Squeeze=1)
    inner = {name for node in source.graph.node for name in node.output} - {"output"}
    assert inner < {name for node in lifted.graph.node for name in node.output}
    assert {len(_shapes(lifted)[name]) for name in inner} == {4}


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("given", ["scales", "sizes"])
def test_resize(onnx_model: Any, run_onnx: Callable[..., NDArray[Any]], mode: str, given: str) -> None:
    """Nearest bit for bit; ONNX Runtime interpolates images by another kernel, one unit in the last place apart."""
    values = {"scales": np.array([1, 1, 2.5], np.float32), "sizes": np.array([1, 2, 20])}
    inputs = ["relu", "", "scales"] if given == "scales" else ["relu", "", "", "sizes"]
    source = onnx_model(
        [
            helper.make_node("MaxPool", ["x"], ["pool"], kernel_shape=[2], strides=[1]),
            helper.make_node("Relu", ["pool"], ["relu"]),
            helper.make_node("Resize", inputs, ["y"], mode=mode),
        ],
        {"x": [1, 2, 9]},
        {"y": [1, 2, 20]},
        {given: values[given]},
    )
    entry = np.random.default_rng(0).standard_normal((1, 2, 9)).astype(np.float32)
    lifted = signals.lift(source)
    assert _kinds(lifted) - _kinds(source) == Counter(Unsqueeze=1, Squeeze=1)
    found, expected = run_onnx(lifted, entry), run_onnx(source, entry)
    np.testing.assert_array_max_ulp(found, expected, 0 if mode == "nearest" else 1)


@pytest.mark.parametrize(
    ("kind", "settings", "shape"),
    [
        ("ReduceMean", {"keepdims": 1}, [1, 2, 1]),
        ("ReduceMax", {"keepdims": 0}, [1, 2]),
        ("ReduceSum", {"keepdims": 1}, [1, 2, 1]),
    ],
)
def test_reductions_over_the_length(
    onnx_model: Any, run_onnx: Callable[..., NDArray[Any]], kind: str, settings: Any, shape: list[int]
) -> None:
    source = onnx_model(
        [
            helper.make_node("AveragePool", ["x"], ["pool"], kernel_shape=[2]),
            helper.make_node(kind, ["pool", "over"], ["y"], **settings),
        ],
        {"x": [1, 2, 9]},
        {"y": shape},
        {"over": np.array([-1])},
    )
    entry = np.random.default_rng(0).standard_normal((1, 2, 9)).astype(np.float32)
    lifted = signals.lift(source)
    assert "Unsqueeze" in _kinds(lifted)
    found = run_onnx(lifted, entry)
    assert list(found.shape) == shape
    np.testing.assert_array_equal(found, run_onnx(source, entry))


@pytest.fixture
def scaled(onnx_model: Any) -> ModelProto:
    """Two convolutions with a product between, of which a factor is declared as an input, as by `qdq.split`."""
    return _scaled(onnx_model)


def _scaled(onnx_model: Any) -> ModelProto:
    weights = np.random.default_rng(0).standard_normal((2, 2, 3)).astype(np.float32)
    model: ModelProto = onnx_model(
        [
            helper.make_node("Conv", ["x", "w"], ["conv"], kernel_shape=[3]),
            helper.make_node("Mul", ["conv", "scale"], ["mul"]),
            helper.make_node("Conv", ["mul", "w"], ["y"], kernel_shape=[3]),
        ],
        {"x": [1, 2, 9], "scale": [1, 2, 1]},
        {"y": [1, 2, 5]},
        {"w": weights, "scale": np.array([[[2], [3]]], np.float32)},
    )
    return model


def test_a_constant_declared_as_input_stays_one(scaled: ModelProto, run_onnx: Callable[..., NDArray[Any]]) -> None:
    lifted = signals.lift(scaled)
    assert [item.name for item in lifted.graph.input] == ["x", "scale_lifted"]
    assert onnx_file.constants(lifted)["scale_lifted"].tolist() == [[[[2]], [[3]]]]
    entry = np.random.default_rng(1).standard_normal((1, 2, 9)).astype(np.float32)
    np.testing.assert_array_equal(run_onnx(lifted, entry), run_onnx(scaled, entry))


# --- what stays ---


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)), (1, 3, 8, 8)),
        (nn.Sequential(nn.Linear(40, 8), nn.ReLU(), nn.Linear(8, 4)), (1, 3, 40)),
        (nn.Sequential(nn.Conv1d(3, 4, 3), nn.ReLU()), (1, 3, 40)),
    ],
    ids=["images", "no operation on signals", "one alone"],
)
def test_nothing_to_gain_leaves_the_graph_alone(model: nn.Module, shape: tuple[int, ...]) -> None:
    source = export(model.eval(), torch.zeros(shape))
    before = source.SerializeToString()
    assert signals.lift(source) is source
    assert source.SerializeToString() == before


def test_what_has_no_form_for_images_gets_what_it_had() -> None:
    """One width up to the attention, and one from it on."""
    source = export(_model("attention in the middle"), _inputs())
    lifted = signals.lift(source)
    assert _kinds(lifted) - _kinds(source) == Counter(Unsqueeze=2, Squeeze=2)
    before, after = ({node.output[0]: node for node in model.graph.node} for model in (source, lifted))
    kept = {"Transpose", "MatMul"}
    assert all(
        after[name].op_type == node.op_type and len(_shapes(lifted).get(name, [0] * 3)) == 3
        for name, node in before.items()
        if node.op_type in kept
    )


# --- in TFLite ---


OFTEN = ("dilation", "transposed 4 by 2", "average pool", "residual", "mean and classifier")


@pytest.fixture(scope="module")
def converted(
    request: pytest.FixtureRequest, onnx_model: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Path]]:
    """What is asked for, converted in one start of TensorFlow."""
    folder = tmp_path_factory.mktemp("lifted")
    readers = [item for item in request.session.items if "converted" in getattr(item, "fixturenames", ())]
    asked = {item.callspec.params.get("name") for item in readers if hasattr(item, "callspec")}
    sources = {name: export(_model(name), _inputs()) for name in MODELS if name in asked}
    sources["scaled"] = _scaled(onnx_model)
    paths = [folder / f"{index}.onnx" for index in range(len(sources))]
    for path, source in zip(paths, sources.values(), strict=True):
        save(source, path)
    with tflite.float_files(paths) as files:
        yield {name: item.fp32 for name, item in zip(sources, files, strict=True)}


@pytest.mark.slow
@pytest.mark.parametrize("name", thinned.product(MODELS, often=lambda name: name in OFTEN))
def test_the_tflite_file_computes_the_same(converted: dict[str, Path], name: str) -> None:
    with torch.inference_mode():
        expected = _model(name)(_inputs()).numpy()
    found = bench.predict(converted[name], _inputs().numpy())
    assert np.abs(found - expected).max() <= 1e-5 * np.ptp(expected)


@pytest.mark.slow
def test_a_constant_declared_as_input_arrives(
    converted: dict[str, Path], scaled: ModelProto, run_onnx: Callable[..., NDArray[Any]]
) -> None:
    entry = np.random.default_rng(1).standard_normal((1, 2, 9)).astype(np.float32)
    expected = run_onnx(scaled, entry)
    assert np.abs(bench.predict(converted["scaled"], entry) - expected).max() <= 1e-5 * np.ptp(expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", thinned.product([each for each in MODELS if each != "attention in the middle"],
                                                 often=lambda name: name in OFTEN))  # fmt: skip
def test_tflite_reshapes_at_the_two_ends_only(converted: dict[str, Path], name: str) -> None:
    model = tflite_file.read(converted[name])
    kinds = [tflite_file.op_name(model, operator) for operator in model.subgraphs[0].operators]
    is_classifier = name == "mean and classifier"
    assert [kind for kind in kinds if kind in MOVES] == ["RESHAPE"] * (1 if is_classifier else 2)
    assert kinds[0] == "RESHAPE"
    assert (kinds[-1] == "RESHAPE") is not is_classifier


@pytest.mark.parametrize("name", ["tflite-fp32", "tflite-int8"])
def test_the_unet_for_signals_reshapes_at_the_two_ends_only(export: Callable[[int], Any], name: str) -> None:
    model = tflite_file.read(export(1).path(name))
    graph = model.subgraphs[0]
    kinds = Counter(tflite_file.op_name(model, operator) for operator in graph.operators)
    assert {kind: kinds[kind] for kind in MOVES & set(kinds)} == {"RESHAPE": 2}
    assert [list(graph.tensors[index].shape) for index in (graph.inputs[0], graph.outputs[0])] == [
        [1, 64, 1],
        [1, 64, 3],
    ]
