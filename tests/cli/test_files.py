"""The commands that work on single files."""

from __future__ import annotations

from pathlib import Path

import pytest
from program import Run, call
from torchshrink.converters import flatbuffer

pytestmark = pytest.mark.slow
DATA = "synthetic:cells?size=32&train=40&test=8"


def test_train_prune_ptq_qat_from_file_to_file(tmp_path: Path) -> None:
    dense, pruned = tmp_path / "dense.safetensors", tmp_path / "pruned.safetensors"
    short = ("--data", DATA, "--epochs", "1", "--json")
    made = call("train", "--widths", "4,8", "--out", dense, *short)
    assert made.code == 0, made.stderr
    assert set(made.json) == {"path", "bytes", "loss", "dice", "iou"}
    assert call("prune", dense, "--amount", "0.5", "--out", pruned, *short).code == 0
    for command in ("ptq", "qat"):
        extra = short if command == "qat" else ("--data", DATA, "--json")
        result = call(command, pruned, "--out", tmp_path / f"{command}.safetensors", *extra)
        assert result.code == 0, result.stderr
        assert result.json["loss"] < 1
    again = call("qat", tmp_path / "qat.safetensors", "--out", tmp_path / "again.safetensors", *short)
    assert again.code == 3
    assert "quantized already" in again.stderr


def test_export_convert_verify_agree_with_the_run(finished: Run, tmp_path: Path) -> None:
    source = finished.out / "models" / "pruned-qat.safetensors"
    target = tmp_path / "m.tflite"
    converted = call("convert", source, "--precision", "int8", "--sparse", "--out", target, "--json")
    assert converted.code == 0, converted.stderr
    assert converted.json["bytes"] == target.stat().st_size
    exported = call("export", source, "--precision", "int8", "--out", tmp_path / "m.onnx")
    assert exported.code == 0, exported.stderr
    for file in (target, tmp_path / "m.onnx"):
        result = call("verify", file, "--against", source, "--data", DATA, "--samples", "4", "--json")
        assert result.code == 0, result.stderr
        assert result.json["parity"]["passed"] is True
        assert result.json["scales"]
        assert result.json["equal_scales"] == len(result.json["scales"])


def test_verify_fails_a_file_whose_scale_was_changed(finished: Run, tmp_path: Path) -> None:
    model = flatbuffer.read(finished.out / "files" / "pruned-qat-int8.tflite")
    tensor = next(tensor for tensor in model.subgraphs[0].tensors if flatbuffer.quantization(model, tensor) is not None)
    tensor.quantization.scale = [tensor.quantization.scale[0] * 1.5]
    flatbuffer.write(model, tmp_path / "wrong.tflite")
    source = finished.out / "models" / "pruned-qat.safetensors"
    result = call("verify", tmp_path / "wrong.tflite", "--against", source, "--data", DATA)
    assert result.code == 4
    assert "error: " in result.stderr


def test_verify_a_float_file_against_the_wrong_model_fails(finished: Run) -> None:
    file = finished.out / "files" / "dense-fp32.tflite"
    right = call("verify", file, "--against", finished.out / "models" / "dense.safetensors", "--data", DATA)
    wrong = call("verify", file, "--against", finished.out / "models" / "pruned.safetensors", "--data", DATA)
    assert right.code == 0, right.stderr
    assert "verified" in right.stdout
    assert wrong.code == 4
    assert "first diverging operation: " in wrong.stderr
    assert "first diverging operation: Relu relu" in wrong.stderr


def test_bench_measures_files_of_all_runtimes(finished: Run) -> None:
    files = [finished.out / "files" / name for name in ("dense-fp32.onnx", "dense-fp32.tflite")]
    result = call("bench", finished.out / "models" / "dense.safetensors", *files, "--runs", "5", "--json")
    assert result.code == 0, result.stderr
    torch_row, onnx_row, tflite_row = result.json["rows"]
    assert torch_row["peak_rss_mb"] > onnx_row["peak_rss_mb"] > 0
    assert torch_row["peak_rss_mb"] > tflite_row["peak_rss_mb"] > 0


def test_bench_of_a_missing_file(tmp_path: Path) -> None:
    result = call("bench", tmp_path / "no.onnx")
    assert result.code == 3
    assert "no.onnx" in result.stderr


def test_compare_lists_every_format(finished: Run, tmp_path: Path) -> None:
    result = call("compare", finished.out / "models" / "pruned.safetensors", "--out", tmp_path / "sizes", "--json")
    assert result.code == 0, result.stderr
    names = {Path(row["path"]).name for row in result.json["rows"]}
    assert names >= {"model.pt", "model.safetensors", "model-fp32.onnx", "model-fp32.tflite", "model.h5", "saved_model"}
    assert all(row["bytes"] > 0 and row["gzip_bytes"] > 0 for row in result.json["rows"])


def test_doctor_finds_that_everything_fits() -> None:
    result = call("doctor", "--json")
    assert result.code == 0, result.stdout
    assert result.json["problems"] == []
