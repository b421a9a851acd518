"""``convert --data``: a float ONNX file and a folder become an int8 file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper
from onnx_graphs import normal, write
from program import call

from torchshrink import bench, checkpoint
from torchshrink.bundle.describe import describe
from torchshrink.cli import shown
from torchshrink.converters import micro, qdq
from torchshrink.converters.anatomy import slow_int8
from torchshrink.errors import ParityError
from torchshrink.model.unet import UNet
from torchshrink.quantize.noise import snr_db


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A file as an exporter of 2019 writes it, and inputs for it."""
    nodes = [
        helper.make_node("Pad", ["pixels"], ["wide"], pads=[0, 0, 1, 1, 0, 0, 1, 1]),
        helper.make_node("Conv", ["wide", "w", "b"], ["c"], name="stem"),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Upsample", ["r", "twice"], ["u"], mode="nearest"),
        helper.make_node("Slice", ["u"], ["s"], starts=[0], ends=[10], axes=[3]),
        helper.make_node("Conv", ["s", "v"], ["scores"], name="head"),
    ]
    constants = {"w": normal(8, 3, 3, 3), "b": normal(8), "twice": np.array([1, 1, 2, 2], np.float32),
                 "v": normal(4, 8, 1, 1)}  # fmt: skip
    write(tmp_path / "net.onnx", nodes, {"pixels": ("N", 3, 6, 8)}, constants, ["scores"], opset=9, old=True)
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data" / "a.npy", normal(40, 3, 6, 8, seed=3))
    return tmp_path


def _db(one: Path, other: Path, x: np.ndarray) -> float:
    found, wanted = (torch.from_numpy(bench.predict_all(path, [x])[0]) for path in (one, other))
    return snr_db(found, wanted)


def test_to_onnx_with_the_names_and_the_batch_of_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_int8, "has_dot_products", lambda: False)
    result = call("convert", "net.onnx", "--data", "data", "--out", "q.onnx", "--effort", "none", "--json", cwd=folder)
    assert result.code == 0, result.said
    assert result.json["parity"]["passed"] is True
    assert result.json["speed"][0].startswith("This processor has no int8 dot products")
    model = onnx.load(str(folder / "q.onnx"))
    assert qdq.is_quantized(model)
    assert [item.name for item in (*model.graph.input, *model.graph.output)] == ["pixels", "scores"]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 0
    assert _db(folder / "q.onnx", folder / "net.onnx", normal(5, 3, 6, 8, seed=4)) > 25
    found = describe(folder / "q.onnx")  # for a bundle: arrays as the file takes them, answers of no known meaning
    assert (found["kind"], found["raw"], found["mean"], found["std"]) == ("values", "float32", [0.0] * 3, [1.0] * 3)
    assert (found["tile"], found["output"]["sides"], len(found["classes"])) == ([6, 8], [12, 10], 4)


def test_what_is_known_of_its_speed_stands_beside_an_int8_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shown, "speed_of", lambda path: (f"{path.name} is slow",))
    (tmp_path / "a.onnx").touch()
    shown.write_sidecar(tmp_path / "a.onnx", "int8", {"input_shape": [1, 4]})
    assert json.loads((tmp_path / "a.onnx.json").read_text())["speed"] == ["a.onnx is slow"]


@pytest.mark.slow
def test_to_tflite(folder: Path) -> None:
    result = call("convert", "net.onnx", "--data", "data", "--precision", "int8", cwd=folder)
    assert result.code == 0, result.said
    assert "net-int8.tflite: 0.00" in result.stdout
    assert "calibrated: " in result.said
    assert _db(folder / "net-int8.tflite", folder / "net.onnx", normal(1, 3, 6, 8, seed=4)) > 25


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--precision", "int8"], 4, "net.onnx has no ranges: quantize the model first (torchshrink qat or ptq)"),
        (["--data", "nowhere"], 3, "nowhere"),
        (["--data", "data", "--precision", "fp16"], 2, "calibrates a float ONNX file to int8"),
        (["--data", "data", "--mean", "a,b"], 2, "expected numbers such as 0.485,0.456,0.406"),
        (["--data", "data", "--shape", "1,3,9,9"], 3, "has the shape N,3,6,8, which [1, 3, 9, 9] does not fit"),
        (["--data", "data", "--shape", "z:1,3"], 3, "no input 'z' that a shape could be given for: it takes pixels"),
        (["--data", "data", "--shape", "1,3,6,8", "--shape", "1,3,6,8"], 2, "give each input one"),
        (["--data", "data", "--shape", "x:1,a"], 2, "expected sizes such as"),
        (["--shape", "1,3,6,8", "--shape", "y:1,3"], 2, "a checkpoint takes one"),
        (["--to", "onnx"], 2, "needs a float ONNX file and --data"),
        (["--data", "data", "--out", "net.onnx", "--overwrite"], 3, "net.onnx is what is read"),
        (["--data", "data", "--keep-float", "heads"], 3, "keep_float 'heads' is no module of Rebuilt; near it: head"),
    ],
)  # fmt: skip
def test_what_is_said_when_it_cannot(folder: Path, arguments: list[str], code: int, said: str) -> None:
    result = call("convert", "net.onnx", *arguments, cwd=folder)
    assert result.code == code, result.said
    assert said in result.said


def test_an_operator_without_a_counterpart(tmp_path: Path) -> None:
    nodes = [helper.make_node("NonZero", ["x"], ["i"], name="find"), helper.make_node("Cast", ["i"], ["y"], to=1)]
    write(tmp_path / "net.onnx", nodes, {"x": (1, 4)}, {})
    np.save(tmp_path / "a.npy", normal(3, 4))
    result = call("convert", "net.onnx", "--data", "a.npy", cwd=tmp_path)
    assert result.code == 3
    assert "net.onnx cannot be quantized as it is: node 'find' (NonZero) is an operator" in result.said


def test_ptq_with_effort_says_what_each_step_gains(tmp_path: Path) -> None:
    torch.manual_seed(0)
    checkpoint.save(UNet(widths=(4, 4), dims=1), tmp_path / "m.safetensors")
    data = "synthetic:pulses?length=64&train=40&test=4"
    arguments = ["ptq", "m.safetensors", "--data", data, "--out", "q.safetensors"]
    result = call(*arguments, "--effort", "ranges", "--budget-db", "99", cwd=tmp_path)
    assert result.code == 0, result.said
    assert "calibrated: " in result.said
    assert "ranges" in result.said
    assert "dB of the 99 wanted: allow more effort, or train it for int8" in result.said


@pytest.mark.slow
def test_to_a_microcontroller(folder: Path) -> None:
    """What its file needs is in the answer and beside it; a file like that is not replaced unasked."""
    pytest.importorskip("tflite_micro", reason="tflite-micro has no wheel for this Python")
    order = ("convert", "net.onnx", "--data", "data", "--effort", "none", "--target", "micro", "--json")
    result = call(*order, cwd=folder)
    assert result.code == 0, result.said
    beside = folder / "net-int8.micro.json"
    assert result.json["micro"] == json.loads(beside.read_text())
    assert 0 < result.json["micro"]["arena_bytes"] < 100_000
    assert "CONV_2D" in result.json["micro"]["operators"]
    (folder / "net-int8.tflite").unlink()
    assert "net-int8.micro.json exists" in call(*order, cwd=folder).said


def test_a_file_that_fails_on_a_microcontroller_does_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise ParityError(f"{path} differs")

    files = [tmp_path / name for name in ("a.tflite", "a.micro.json", "a.tflite.json", "a.ranges.json")]
    for file in files:
        file.write_text("{}")
    monkeypatch.setattr(micro, "examine", refuse)
    with pytest.raises(ParityError, match="differs"):
        shown.examine_micro(files[0], files[2:])
    assert list(tmp_path.iterdir()) == []
