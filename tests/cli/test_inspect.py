"""`torchshrink inspect` and `torchshrink prune --auto`, in this process but for one call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from program import call, launch
from torch import nn

from torchshrink import checkpoint, prune, sensitivity
from torchshrink.model.unet import UNet
from torchshrink.quantize import calibrate, convert, prepare_ptq

DATA = "synthetic:cells?size=16&train=20&test=2"
KNOWN = {"normalization": {"mean": [0.5], "std": [0.2], "raw": "float32"}, "input_shape": [1, 1, 16, 16]}


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("inspect") / "model.safetensors"
    checkpoint.save(UNet(widths=(2, 4)), path, KNOWN)
    return path


def test_table_without_data(model_file: Path) -> None:
    result = call("inspect", model_file)
    assert result.code == 0, result.stderr
    assert "encoder.0.3" in result.stdout
    assert "ConvTranspose2d" in result.stdout
    assert "suggested" not in result.stdout
    assert "Loss" not in result.stdout


def test_json_is_all_there_is_on_stdout(model_file: Path, tmp_path: Path) -> None:
    files = ("--out", tmp_path / "layers.json", "--plot", tmp_path / "layers.png")
    result = call("inspect", model_file, "--data", DATA, "--samples", "1", "--budget", "0.5", "--json", *files)
    assert result.code == 0, result.stderr
    content = result.json
    assert content == json.loads((tmp_path / "layers.json").read_text())
    assert (tmp_path / "layers.png").read_bytes()[:4] == b"\x89PNG"
    assert content["path"] == str(model_file)
    assert sum(layer["macs"] for layer in content["layers"]) == content["macs"]
    assert [layer["name"] for layer in content["layers"]] == list(content["suggestion"]["amounts"])
    assert content["samples"] == 1
    assert content["suggestion"]["loss_increase"] <= content["suggestion"]["budget"] == 0.5
    for layer in content["layers"]:
        assert list(layer["pruned"]) == ["0.3", "0.5", "0.7", "0.9"]
        assert layer["suggested"] == content["suggestion"]["amounts"][layer["name"]]
    assert "measure the sensitivity" in result.stderr


def test_table_with_data(model_file: Path) -> None:
    result = call("inspect", model_file, "--data", DATA)
    assert result.code == 0, result.stderr
    assert "suggested" in result.stdout
    assert "on 2 validation samples" in result.stdout  # a tenth of 20


def test_own_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "own.safetensors"
    checkpoint.save(nn.Sequential(nn.Linear(6, 3)), path)
    (tmp_path / "own_layers.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Linear(6, 3))\n"
    )
    monkeypatch.chdir(tmp_path)
    assert "--model" in call("inspect", path, "--shape", "1,6").stderr
    assert "--shape" in call("inspect", path, "--model", "own_layers:make").stderr
    result = call("inspect", path, "--model", "own_layers:make", "--shape", "1,6", "--json")
    assert result.code == 0, result.stderr
    assert result.json["macs"] == 18


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--shape", "1,3,16,16"), "does not run on an input of shape (1, 3, 16, 16)"),
        (("--shape", "1,1,15,15"), "do not divide by 2"),
        (("--data", "nowhere"), "nowhere does not exist"),
        (("--data", "synthetic:pulses?length=64&train=20&test=2"), "does not run on an input of shape (1, 1, 64)"),
    ],
)
def test_input_that_does_not_fit(arguments: tuple[str, ...], words: str, model_file: Path) -> None:
    result = call("inspect", model_file, *arguments, "--json")
    assert result.code == 3
    assert words in result.stderr
    assert result.stdout == ""


def test_missing_and_quantized_models(tmp_path: Path) -> None:
    missing = call("inspect", tmp_path / "no.safetensors")
    assert missing.code == 3
    assert "no such checkpoint" in missing.stderr
    prepared = prepare_ptq(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), torch.zeros(1, 1, 8, 8))
    calibrate(prepared, [torch.randn(2, 1, 8, 8)])
    checkpoint.save(convert(prepared), tmp_path / "int8.safetensors", KNOWN)
    for given in (("--data", DATA), ("--plot", tmp_path / "a.png")):
        result = call("inspect", tmp_path / "int8.safetensors", *given)
        assert result.code == 3
        assert "quantized already: inspect the float model that it was made from" in result.stderr
        assert f"or leave out {given[0]}" in result.stderr


def test_outputs_are_not_replaced(model_file: Path, tmp_path: Path) -> None:
    for option, name in (("--plot", "mine.png"), ("--out", "mine.json")):
        (tmp_path / name).write_text("mine")
        assert call("inspect", model_file, option, tmp_path / name).code == 3
        assert (tmp_path / name).read_text() == "mine"
    assert call("inspect", model_file, "--plot", tmp_path / "layers.jpeg2000").code == 2
    assert call("inspect", model_file, "--plot", tmp_path / "mine.png", "--overwrite").code == 0
    assert (tmp_path / "mine.png").read_bytes()[:4] == b"\x89PNG"


def test_auto_prunes_to_what_is_suggested(model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    amounts = dict.fromkeys(prune.prunable_layers(UNet(widths=(2, 4))), 0.5)
    seen: dict[str, Any] = {}

    def suggest(model: nn.Module, task: Any, known: sensitivity.Sensitivity, **_: Any) -> sensitivity.Suggestion:
        seen.update(names=list(known.pruned))
        return sensitivity.Suggestion({name: amounts[name] for name in known.pruned}, 0.0, 0.01)

    monkeypatch.setattr(sensitivity, "suggest", suggest)
    out = tmp_path / "pruned.safetensors"
    result = call("prune", model_file, "--auto", "--ignore", "head", "--data", DATA, "--epochs", "2", "--out", out)
    assert result.code == 0, result.stderr
    assert seen["names"] == list(amounts)[:-1]
    for name, layer in prune.prunable_layers(checkpoint.load(out)).items():
        assert int((layer.weight == 0).sum()) == (0 if name == "head" else round(0.5 * layer.weight.numel())), name


def test_auto_alone_decides(model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "pruned.safetensors"
    for other in (("--amount", "0.5"), ("--method", "lamp"), ("--channels", "0.5")):
        assert call("prune", model_file, "--auto", *other, "--data", DATA, "--out", out).code == 2
    monkeypatch.setattr(sensitivity, "suggest", lambda *_, **__: sensitivity.Suggestion({"head": 0.0}, 0.0, 0.01))
    nothing = call("prune", model_file, "--auto", "--data", DATA, "--out", out)
    assert nothing.code == 3
    assert "no layer can be pruned" in nothing.stderr
    assert not out.exists()


# --- files ---


def _pair(source: str, target: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("QuantizeLinear", [source, "scale", "zero"], [f"{target}_codes"]),
        helper.make_node("DequantizeLinear", [f"{target}_codes", "scale", "zero"], [target]),
    ]


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sine between an integer sigmoid and an integer matrix product of 2 x 8 x 4."""
    nodes = [
        *_pair("x", "a"),
        helper.make_node("Sigmoid", ["a"], ["s"]),
        *_pair("s", "b"),
        helper.make_node("Sin", ["b"], ["[sine]"]),
        *_pair("[sine]", "c"),
        *_pair("weight", "w"),
        helper.make_node("MatMul", ["c", "w"], ["product"]),
        *_pair("product", "y"),
    ]
    ends = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)]
        for name, shape in (("x", (2, 8)), ("y", (2, 4)))
    ]
    values = {"scale": np.float32(0.1), "zero": np.uint8(128), "weight": np.ones((8, 4), np.float32)}
    constants = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "graph", *ends, constants), opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )
    path = tmp_path_factory.mktemp("inspect") / "model.onnx"
    onnx.save(model, str(path))
    return path


def test_a_file_is_explained(onnx_file: Path) -> None:
    result = call("inspect", onnx_file, "--runs", "4")
    assert result.code == 0, result.stderr
    assert "model.onnx in ONNX Runtime" in result.stdout
    assert "int8: 100.0% of 6.4e-05 million MACs" in result.stdout
    route = (
        "QLinearSigmoid b_codes -> DequantizeLinear b -> Sin [sine] -> QuantizeLinear c_codes -> QLinearMatMul y_codes"
    )
    assert route in result.stdout
    assert "Sin [sine] computes in float, because ONNX Runtime has no int8 kernel for Sin" in result.stdout
    assert "4 runs on 1 thread" in result.stdout


def test_json_of_a_file(onnx_file: Path, tmp_path: Path) -> None:
    result = launch("inspect", onnx_file, "--runs", "3", "--json", "--out", tmp_path / "file.json")
    assert result.code == 0, result.stderr
    content = result.json
    assert content == json.loads((tmp_path / "file.json").read_text())
    assert (content["path"], content["runs"], content["macs"]) == (str(onnx_file), 3, 64)
    assert content["islands"] == ["Sin [sine]"]
    assert content["int8_share"]["macs"] == 1
    findings = [line for line in content["findings"] if "int8 dot products" not in line]  # which the processor lacks
    assert len(findings) == len(content["detours"]) == 1
    assert call("inspect", onnx_file, "--out", tmp_path / "file.json").code == 3


@pytest.mark.parametrize(
    ("name", "arguments", "named"),
    [
        ("model.onnx", ("--data", "x", "--samples", "64", "--budget", "0.01"), "--data, --samples, --budget"),
        ("model.onnx", ("--plot", "x.png"), "--plot"),
        ("model.onnx", ("--seed", "0", "--model", "a:b", "--allow-pickle"), "--seed, --model, --allow-pickle"),
        ("model.tflite", ("--shape", "1,1,8,8"), "--shape"),
        ("model.safetensors", ("--runs", "3"), "--runs"),
    ],
)
def test_options_that_mean_nothing_for_the_file(name: str, arguments: tuple[str, ...], named: str) -> None:
    result = call("inspect", name, *arguments)
    assert result.code == 2
    assert named in result.said
    assert result.stdout == ""


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for name in ("model.onnx", "model.tflite"):
        missing = call("inspect", tmp_path / name)
        assert missing.code == 3
        assert name in missing.stderr
