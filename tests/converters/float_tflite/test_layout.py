"""A converted file is held against its source, and gives its outputs channels last."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from torchshrink.converters import runtimes, tflite, tflite_file
from torchshrink.converters.export.to_onnx import export
from torchshrink.converters.float_tflite import layout, passes
from torchshrink.converters.onnx_file import save
from torchshrink.converters.proof import verify
from torchshrink.errors import ConversionError

pytestmark = pytest.mark.slow


class Sum(nn.Module):
    """Ends with a sum, which onnx2tf gives out channels first."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        x = self.first(image)
        return x + self.second(torch.relu(x))


class Tokens(nn.Module):
    """Ends with rows of features, ``[N, L, D]``."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4, 6)

    def forward(self, image: Tensor) -> Tensor:
        return self.second(self.first(image).flatten(2).transpose(1, 2))


def unlikely() -> nn.Module:
    """Return what answers with probabilities near 2e-5, which every runtime rounds in its own way."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sigmoid())
    nn.init.constant_(model[0].bias, -11)  # type: ignore[arg-type]
    return model


MODELS = {"sum": (Sum(), (1, 8, 8)), "tokens": (Tokens(), (1, 4, 4)), "unlikely": (unlikely(), (1, 8, 8))}


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[nn.Module, Path, Path]]:
    """Each model, its ONNX file and a float TFLite file, made in one start of TensorFlow."""
    folder = tmp_path_factory.mktemp("layout")
    paths = []
    for name, (model, shape) in MODELS.items():
        paths.append(folder / f"{name}.onnx")
        save(export(model.eval(), torch.zeros(1, *shape)), paths[-1])
    found = {}
    with tflite.float_files(paths) as files:
        for (name, (model, _)), path, item in zip(MODELS.items(), paths, files, strict=True):
            copy = folder / f"{name}.tflite"
            copy.write_bytes(item.fp32.read_bytes())
            found[name] = (model, path, copy)
    return found


@pytest.mark.parametrize("name", ["sum", "tokens"])
def test_outputs_are_channels_last(converted: dict[str, tuple[nn.Module, Path, Path]], name: str) -> None:
    model, _, path = converted[name]
    inputs = torch.randn(3, *MODELS[name][1], generator=torch.Generator().manual_seed(0))
    assert verify.verify(path, model, inputs, "fp32", "model").passed
    expected = model(inputs[:1]).movedim(1, -1).shape
    graph = tflite_file.read(path).subgraphs[0]
    assert list(graph.tensors[graph.outputs[0]].shape) == list(expected)


def test_a_transposition_at_the_end_is_left_out(converted: dict[str, tuple[nn.Module, Path, Path]]) -> None:
    model = tflite_file.read(converted["sum"][2])
    kinds = [tflite_file.op_name(model, operator) for operator in model.subgraphs[0].operators]
    assert kinds == ["CONV_2D", "RELU", "CONV_2D", "ADD"]


def test_a_file_of_something_else_is_refused(converted: dict[str, tuple[nn.Module, Path, Path]]) -> None:
    _, source, path = converted["sum"]
    graph = onnx.load(str(source))
    weight = next(item for item in graph.graph.initializer if len(item.dims) == 4)
    changed = onnx.numpy_helper.to_array(weight) * np.float32(1.5)
    weight.CopyFrom(onnx.numpy_helper.from_array(changed, weight.name))
    model = tflite_file.read(path)
    with pytest.raises(ConversionError, match=r"made a file of model\.onnx that computes something else: output 'out"):
        layout.settle(model, graph, "model.onnx")


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_small_probabilities_are_held_to_what_runtimes_can_tell(
    converted: dict[str, tuple[nn.Module, Path, Path]], shift: float
) -> None:
    """They are as right as kernels of a sigmoid are, and wrong where the numbers before it are."""
    _, source, path = converted["unlikely"]
    graph, model = onnx.load(str(source)), tflite_file.read(path)
    bias = next(item for item in graph.graph.initializer if len(item.dims) == 1)
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(shift), bias.name))
    if shift:
        with pytest.raises(ConversionError, match="computes something else: output 'output'"):
            layout.settle(model, graph, "model.onnx")
    else:
        layout.settle(model, graph, "model.onnx")


@pytest.mark.parametrize(
    ("end", "rounded"),
    [(("Sigmoid",), 5e-7), (("Sigmoid", "Transpose", "Flatten"), 5e-7), (("Sigmoid", "Relu"), 0.0), (("Neg",), 0.0)],
)
def test_what_ends_with_a_sigmoid_is_rounded_by_it(end: tuple[str, ...], rounded: float) -> None:
    nodes = [onnx.helper.make_node(kind, [f"x{place}"], [f"x{place + 1}"]) for place, kind in enumerate(end)]
    ends = [onnx.helper.make_tensor_value_info(f"x{place}", onnx.TensorProto.FLOAT, [2, 2]) for place in (0, len(end))]
    graph = onnx.helper.make_graph(nodes, "end", ends[:1], ends[1:])
    assert runtimes.rounding(onnx.helper.make_model(graph)) == {f"x{len(end)}": rounded}


def test_a_file_that_came_out_wrong_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names where it goes wrong: at the second of three convolutions."""

    def spoil(model: onnx.ModelProto) -> onnx.ModelProto:
        weight = next(item for item in model.graph.initializer if list(item.dims) == [4, 4, 1, 1])
        weight.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(weight), weight.name))
        return model

    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 1, 1))
    path = tmp_path / "model.onnx"
    save(export(model, torch.zeros(1, 1, 8, 8)), path)
    monkeypatch.setattr(tflite, "PASSES", (*tflite.PASSES, lambda: passes.Before(spoil)))
    with pytest.raises(ConversionError, match=r"computes something else.*from the Conv on that computes 'conv2d_1'"):
        tflite.to_tflite(path, tmp_path / "model.tflite")
    assert not (tmp_path / "model.tflite").exists()
