"""What onnx2tf does differently from what the rest of the converters expects, put right where it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper
from torch import Tensor, nn

from torchshrink import bench
from torchshrink.converters import tflite, tflite_file
from torchshrink.converters.export.to_onnx import export
from torchshrink.converters.onnx_file import save

pytestmark = pytest.mark.slow
SHAPE = (1, 3, 12, 10)


class Sum(nn.Module):
    """Two convolutions and a sum with what went into them."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.a, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 3, 3, padding=1)
        self.c = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


SUMS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "with the input": lambda net, x: net.b(net.a(x)) + x,
    "of two convolutions": lambda net, x: net.b(net.a(x)) + net.c(x),
    "before a sigmoid": lambda net, x: torch.sigmoid(net.b(net.a(x)) + x),
    "before a convolution": lambda net, x: net.c(net.b(net.a(x)) + x),
    "with a number per channel": lambda net, x: net.b(net.a(x)) + net.c.bias.view(1, 3, 1, 1),
}


def _model(name: str) -> nn.Module:
    torch.manual_seed(0)
    return Sum(SUMS[name]).eval()


def _products(onnx_model: Any) -> onnx.ModelProto:
    """Return an input times twelve numbers per channel, which are declared as inputs, with convolutions between."""
    rng = np.random.default_rng(0)
    factors = {f"factor{index}": rng.uniform(0.5, 2, (1, 3, 1, 1)).astype(np.float32) for index in range(12)}
    nodes, name = [], "x"
    for index, factor in enumerate(factors):
        nodes.append(helper.make_node("Mul", [name, factor], [f"product{index}"]))
        name = "y" if index == len(factors) - 1 else f"conv{index}"
        nodes.append(helper.make_node("Conv", [f"product{index}", "weight"], [name], kernel_shape=[1, 1]))
    weight = np.linalg.qr(rng.standard_normal((3, 3)))[0].astype(np.float32).reshape(3, 3, 1, 1)
    ends = {"x": SHAPE, **{name: value.shape for name, value in factors.items()}}
    model: onnx.ModelProto = onnx_model(nodes, ends, {"y": SHAPE}, {"weight": weight, **factors})
    return model


@pytest.fixture(scope="module")
def converted(onnx_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    folder = tmp_path_factory.mktemp("sums")
    sources = {name: export(_model(name), torch.zeros(SHAPE)) for name in SUMS}
    sources["products"] = _products(onnx_model)
    paths = [folder / f"{index}.onnx" for index in range(len(sources))]
    for path, source in zip(paths, sources.values(), strict=True):
        save(source, path)
    with tflite.float_files(paths) as files:
        yield {name: item.fp32 for name, item in zip(sources, files, strict=True)}


@pytest.mark.parametrize("name", SUMS)
def test_a_sum_stays_channels_last(converted: dict[str, Path], name: str) -> None:
    inputs = torch.from_numpy(np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32))
    with torch.inference_mode():
        expected = _model(name)(inputs).numpy()
    assert np.abs(bench.predict(converted[name], inputs.numpy()) - expected).max() <= 1e-5 * np.ptp(expected)
    model = tflite_file.read(converted[name])
    graph = model.subgraphs[0]
    assert list(graph.tensors[graph.outputs[0]].shape) == [1, 12, 10, 3]
    assert not any(tflite_file.op_name(model, operator) == "TRANSPOSE" for operator in graph.operators)


def test_constants_declared_as_inputs_keep_their_places(
    converted: dict[str, Path], onnx_model: Any, run_onnx: Callable[..., NDArray[Any]]
) -> None:
    """With an input that sorts after them by name, and more than ten of them."""
    inputs = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    expected = run_onnx(_products(onnx_model), inputs)
    assert np.abs(bench.predict(converted["products"], inputs) - expected).max() <= 1e-5 * np.ptp(expected)
