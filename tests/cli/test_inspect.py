"""`torchshrink inspect` and `torchshrink prune --auto`, in this process but for one call."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from program import call
from torch import nn
from torchshrink.cli.app import app
from typer.testing import CliRunner

from torchshrink import checkpoint, prune, sensitivity
from torchshrink.models import UNet
from torchshrink.quantize import calibrate, convert, prepare_ptq

DATA = "synthetic:cells?size=16&train=20&test=2"
KNOWN = {"normalization": {"mean": [0.5], "std": [0.2], "raw": "float32"}, "input_shape": [1, 1, 16, 16]}


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("inspect") / "model.safetensors"
    checkpoint.save(UNet(widths=(2, 4)), path, KNOWN)
    return path


def invoke(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_table_without_data(model_file: Path) -> None:
    result = invoke("inspect", model_file)
    assert result.exit_code == 0, result.stderr
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
    result = invoke("inspect", model_file, "--data", DATA)
    assert result.exit_code == 0, result.stderr
    assert "suggested" in result.stdout
    assert "on 2 validation samples" in result.stdout  # a tenth of 20


def test_own_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "own.safetensors"
    checkpoint.save(nn.Sequential(nn.Linear(6, 3)), path)
    (tmp_path / "own_layers.py").write_text(
        "from torch import nn\ndef make():\n    return nn.Sequential(nn.Linear(6, 3))\n"
    )
    monkeypatch.chdir(tmp_path)
    assert "--model" in invoke("inspect", path, "--shape", "1,6").stderr
    assert "--shape" in invoke("inspect", path, "--model", "own_layers:make").stderr
    result = invoke("inspect", path, "--model", "own_layers:make", "--shape", "1,6", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["macs"] == 18


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
    result = invoke("inspect", model_file, *arguments, "--json")
    assert result.exit_code == 3
    assert words in result.stderr
    assert result.stdout == ""


def test_missing_and_quantized_models(tmp_path: Path) -> None:
    missing = invoke("inspect", tmp_path / "no.safetensors")
    assert missing.exit_code == 3
    assert "no such checkpoint" in missing.stderr
    prepared = prepare_ptq(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), torch.zeros(1, 1, 8, 8))
    calibrate(prepared, [torch.randn(2, 1, 8, 8)])
    checkpoint.save(convert(prepared), tmp_path / "int8.safetensors", KNOWN)
    for data in ((), ("--data", DATA)):
        result = invoke("inspect", tmp_path / "int8.safetensors", *data)
        assert result.exit_code == 3
        assert "quantized already: inspect the float model that it was made from" in result.stderr


def test_outputs_are_not_replaced(model_file: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.png").write_text("mine")
    for option in ("--plot", "--out"):
        assert invoke("inspect", model_file, option, tmp_path / "mine.png").exit_code == 3
    assert (tmp_path / "mine.png").read_text() == "mine"
    assert invoke("inspect", model_file, "--plot", tmp_path / "layers.jpeg2000").exit_code == 2
    assert invoke("inspect", model_file, "--plot", tmp_path / "mine.png", "--overwrite").exit_code == 0
    assert (tmp_path / "mine.png").read_bytes()[:4] == b"\x89PNG"


def test_auto_prunes_to_what_is_suggested(model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    amounts = dict.fromkeys(prune.prunable_layers(UNet(widths=(2, 4))), 0.5)
    seen: dict[str, Any] = {}

    def suggest(model: nn.Module, task: Any, known: sensitivity.Sensitivity, **_: Any) -> sensitivity.Suggestion:
        seen.update(names=list(known.pruned))
        return sensitivity.Suggestion({name: amounts[name] for name in known.pruned}, 0.0, 0.01)

    monkeypatch.setattr(sensitivity, "suggest", suggest)
    out = tmp_path / "pruned.safetensors"
    result = invoke("prune", model_file, "--auto", "--ignore", "head", "--data", DATA, "--epochs", "2", "--out", out)
    assert result.exit_code == 0, result.stderr
    assert seen["names"] == list(amounts)[:-1]
    for name, layer in prune.prunable_layers(checkpoint.load(out)).items():
        assert int((layer.weight == 0).sum()) == (0 if name == "head" else round(0.5 * layer.weight.numel())), name


def test_auto_alone_decides(model_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "pruned.safetensors"
    for other in (("--amount", "0.5"), ("--method", "lamp"), ("--channels", "0.5")):
        assert invoke("prune", model_file, "--auto", *other, "--data", DATA, "--out", out).exit_code == 2
    monkeypatch.setattr(sensitivity, "suggest", lambda *_, **__: sensitivity.Suggestion({"head": 0.0}, 0.0, 0.01))
    nothing = invoke("prune", model_file, "--auto", "--data", DATA, "--out", out)
    assert nothing.exit_code == 3
    assert "no layer can be pruned" in nothing.stderr
    assert not out.exists()
