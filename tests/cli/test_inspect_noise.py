"""``torchshrink inspect`` says what int8 costs: of a checkpoint, of a file made from it, and for Model Explorer."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
import torch
from program import call
from torch import nn
from torch.fx import GraphModule

from torchshrink import checkpoint, quantize
from torchshrink.converters import to_onnx, to_tflite
from torchshrink.converters.export.to_onnx import export
from torchshrink.converters.proof import overlay

IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def made(seed: int) -> GraphModule:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Sequential(nn.Conv2d(4, 2, 1), nn.Sigmoid()),
    )
    prepared = quantize.prepare_ptq(model.eval(), IMAGES)
    quantize.calibrate(prepared, [IMAGES])
    return quantize.convert(prepared)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An int8 checkpoint and the ONNX file of it."""
    path = tmp_path_factory.mktemp("noise")
    graph = made(0)
    checkpoint.save(graph, path / "int8.safetensors")
    to_onnx(graph, IMAGES[:1], path / "int8.onnx", "int8")
    return path


def test_a_checkpoint_lists_its_modules(folder: Path, tmp_path: Path) -> None:
    path = folder / "int8.safetensors"
    rows = checkpoint.describe(path)["architecture"]["noise"]
    result = call("inspect", path, "--json", "--out", tmp_path / "noise.json")
    assert result.code == 0, result.stderr
    assert result.json == json.loads((tmp_path / "noise.json").read_text()) == {"path": str(path), "graph_noise": rows}
    assert [row["name"] for row in rows] == ["1", "2", "3", "4.0", "4", "4.1", "output"]
    assert all("alone_db" in row for row in rows[:-1])
    shown = call("inspect", path).stdout.splitlines()
    line = next(line.split() for line in shown if line.startswith("4.0 "))
    assert line == ["4.0", f"{rows[3]['alone_db']:.1f}", "dB", f"{rows[3]['snr_db']:.1f}", "dB"]
    assert "alone least in" in shown[-1]


def test_what_says_nothing_of_its_noise_is_refused(folder: Path, tmp_path: Path) -> None:
    graph = made(0)
    graph.meta["noise"] = []
    checkpoint.save(graph, tmp_path / "old.safetensors")
    assert "does not say how much its int8 loses: quantize" in call("inspect", tmp_path / "old.safetensors").stderr
    float_graph = tmp_path / "float.safetensors"
    checkpoint.save(torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)).module(), float_graph)
    refused = call("inspect", folder / "int8.onnx", "--against", float_graph)
    assert refused.code == 3
    assert "is not quantized: give the int8 checkpoint" in refused.stderr


def test_options_that_do_not_go_together(folder: Path, tmp_path: Path) -> None:
    file, int8 = folder / "int8.onnx", folder / "int8.safetensors"
    assert call("inspect", int8, "--against", int8).code == 2
    assert "--against" in call("inspect", file, "--overlay", tmp_path / "a.json").stderr
    assert call("inspect", file, "--against", int8, "--overlay", tmp_path / "a.txt").code == 2
    (tmp_path / "a.alone.json").write_text("mine")
    refused = call("inspect", file, "--against", int8, "--overlay", tmp_path / "a.json")
    assert refused.code != 0
    assert "a.alone.json exists" in refused.stderr
    assert (tmp_path / "a.alone.json").read_text() == "mine"


def test_an_onnx_file_and_the_overlay(folder: Path, tmp_path: Path) -> None:
    """Each node has the figure of what it computes, which is told here by the ONNX file's own kinds."""
    out = tmp_path / "overlay.json"
    arguments = ("inspect", folder / "int8.onnx", "--against", folder / "int8.safetensors", "--runs", "1")
    result = call(*arguments, "--overlay", out, "--json")
    assert result.code == 0, result.stderr
    rows = {row["name"]: row for row in result.json["graph_noise"]}
    model = onnx.load(folder / "int8.onnx")
    kinds = {node.op_type: node.name for node in model.graph.node if node.op_type != "Conv"}
    convolutions = [node.name for node in model.graph.node if node.op_type == "Conv"]
    wanted = {
        "1": convolutions[0],
        "2": kinds["Relu"],
        "3": kinds["MaxPool"],
        "4.0": convolutions[1],
        "4.1": kinds["Sigmoid"],
        "4": kinds["Sigmoid"],
        "output": None,
    }
    assert {name: row["node"] for name, row in rows.items()} == wanted
    for path, figure in ((out, "snr_db"), (tmp_path / "overlay.alone.json", "alone_db")):
        data = json.loads(path.read_text())[model.graph.name]
        assert data["results"] == {
            node: {"value": round(rows[name][figure], 2)}
            for name, node in wanted.items()
            if name not in ("4", "output")
        }
        values = [each["value"] for each in data["thresholds"]]
        assert values == sorted(values)
        assert values[0] == 15
    shown = call(*arguments).stdout
    assert f"Sigmoid {kinds['Sigmoid']}" in shown


def test_a_file_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    checkpoint.save(made(1), tmp_path / "other.safetensors")
    onnx.save(export(nn.Conv2d(3, 4, 3).eval(), IMAGES[:1]), tmp_path / "float.onnx")
    found = call("inspect", tmp_path / "float.onnx", "--against", tmp_path / "other.safetensors")
    assert found.code == 3
    assert "holds none of the checkpoint's grids" in found.stderr


def test_operators_of_tflite_are_called_by_their_position(folder: Path) -> None:
    """Fused ones are those of all that they compute; the lowest of these is shown, blocks aside."""
    graph = checkpoint.load(folder / "int8.safetensors")
    assert isinstance(graph, GraphModule)
    path = to_tflite(folder / "int8.onnx", folder / "int8.tflite", "int8")
    places = overlay.places(path, graph)
    assert [(place.kind, place.calls) for place in places] == [
        ("CONV_2D", ("2", "1")),
        ("MAX_POOL_2D", ("3",)),
        ("CONV_2D", ("4.0",)),
        ("LOGISTIC", ("4.1", "4")),
    ]
    assert [int(place.node) for place in places] == sorted(int(place.node) for place in places)
    beside = overlay.write(path, places, quantize.noise(graph), folder / "tflite.json")
    own = {item.name: item.alone_db for item in quantize.noise(graph)}
    (data,) = json.loads(beside.read_text()).values()
    lowest = min(value for name in ("1", "2") if (value := own[name]) is not None)
    assert data["results"][places[0].node]["value"] == round(lowest, 2)
