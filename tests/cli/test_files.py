"""The commands that work on single files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from program import Run, call

from torchshrink import checkpoint
from torchshrink.converters import tflite_file

pytestmark = pytest.mark.slow
DATA = "synthetic:cells?size=32&train=40&test=8"


def test_train_prune_ptq_qat_from_file_to_file(tmp_path: Path) -> None:
    dense, pruned = tmp_path / "dense.safetensors", tmp_path / "pruned.safetensors"
    short = ("--data", DATA, "--epochs", "1", "--json")
    made = call("train", "--widths", "4,8", "--out", dense, *short)
    assert made.code == 0, made.stderr
    assert set(made.json) == {"path", "bytes", "keep_float", "loss", "dice", "iou"}
    assert call("prune", dense, "--amount", "0.5", "--out", pruned, *short).code == 0
    for command in ("ptq", "qat"):
        extra = short if command == "qat" else ("--data", DATA, "--json")
        result = call(command, pruned, "--out", tmp_path / f"{command}.safetensors", *extra)
        assert result.code == 0, result.stderr
        assert result.json["loss"] < 1
        assert result.json["keep_float"] == []
        assert "dB with room for processors without VNNI" in result.stderr
    bare = call("ptq", pruned, "--out", tmp_path / "bare.safetensors", "--no-portable", "--data", DATA)
    assert "dB without room for processors without VNNI" in bare.stderr
    codes = [checkpoint.load(tmp_path / name).state_dict() for name in ("ptq.safetensors", "bare.safetensors")]
    largest = [max(int(v.max()) for v in each.values() if v.dtype == torch.int8) for each in codes]
    assert largest[0] <= largest[1] == 127
    again = call("qat", tmp_path / "qat.safetensors", "--out", tmp_path / "again.safetensors", *short)
    assert again.code == 3
    assert "quantized already" in again.stderr


def test_layers_kept_float(finished: Run, tmp_path: Path) -> None:
    dense, out = finished.out / "models" / "dense.safetensors", tmp_path / "mixed.safetensors"
    data = ("--data", DATA)
    made = call("ptq", dense, "--keep-float", "head, encoder.0", "--out", out, *data, "--json")
    assert made.code == 0, made.stderr
    assert made.json["keep_float"] == checkpoint.describe(out)["keep_float"] == ["head", "encoder.0"]
    auto = call("ptq", dense, "--keep-float", "auto", "--out", tmp_path / "auto.safetensors", *data)
    assert auto.code == 0, auto.stderr
    assert "int8 with 0 of " in auto.stderr
    wrong = call("qat", dense, "--keep-float", "haed", "--out", tmp_path / "wrong.safetensors", *data)
    assert wrong.code == 3
    assert "keep_float 'haed' is no module of UNet; near it: head" in wrong.stderr


def test_export_convert_verify_agree_with_the_run(finished: Run, tmp_path: Path) -> None:
    source = finished.out / "models" / "pruned-qat.safetensors"
    target = tmp_path / "m.tflite"
    converted = call("convert", source, "--precision", "int8", "--sparse", "--out", target, "--json")
    assert converted.code == 0, converted.stderr
    assert converted.json["bytes"] == target.stat().st_size
    learned = json.loads((tmp_path / "m.ranges.json").read_text())["tensors"]
    assert {entry["origin"] for entry in learned.values()} == {"trained", "fixed"}
    store = call("verify", target, "--ranges", tmp_path / "m.ranges.json", "--json")
    assert store.code == 0, store.stderr
    assert store.json["equal_scales"] == len(store.json["scales"]) > 0
    exported = call("export", source, "--precision", "int8", "--out", tmp_path / "m.onnx")
    assert exported.code == 0, exported.stderr
    for file in (target, tmp_path / "m.onnx"):
        result = call("verify", file, "--against", source, "--data", DATA, "--samples", "4", "--json")
        assert result.code == 0, result.stderr
        assert result.json["parity"]["passed"] is True
        assert result.json["scales"]
        assert result.json["equal_scales"] == len(result.json["scales"])


def test_a_profile_of_a_tflite_file_is_of_its_operators(finished: Run) -> None:
    file = finished.out / "files" / "pruned-qat-int8.tflite"
    result = call("bench", file, "--runs", "5", "--profile", "--json")
    assert result.code == 0, result.stderr
    (profile,) = result.json["profiles"]
    model = tflite_file.read(file)
    kinds = [tflite_file.op_name(model, operator) for operator in model.subgraphs[0].operators]
    assert {row["operation"]: row["calls"] for row in profile["operations"]} == {k: kinds.count(k) for k in kinds}
    assert all(row["ms"] > 0 for row in profile["operations"])
    assert "each operator was timed in a file of its own" in profile["note"]


def test_verify_fails_a_file_whose_scale_was_changed(finished: Run, tmp_path: Path) -> None:
    model = tflite_file.read(finished.out / "files" / "pruned-qat-int8.tflite")
    tensor = next(
        tensor for tensor in model.subgraphs[0].tensors if tflite_file.quantization(model, tensor) is not None
    )
    tensor.quantization.scale = [tensor.quantization.scale[0] * 1.5]
    tflite_file.write(model, tmp_path / "wrong.tflite")
    source = finished.out / "models" / "pruned-qat.safetensors"
    result = call("verify", tmp_path / "wrong.tflite", "--against", source, "--data", DATA)
    assert result.code == 4
    assert "error: " in result.stderr


def test_a_quantized_onnx_file_becomes_an_int8_tflite_file_of_its_name(finished: Run, tmp_path: Path) -> None:
    source = finished.out / "models" / "pruned-qat.safetensors"
    quantized = tmp_path / "m-qdq.onnx"
    assert call("export", source, "--precision", "int8", "--target", "generic", "--out", quantized).code == 0
    result = call("convert", quantized, "--to", "tflite", "--json")
    assert result.code == 0, result.stderr
    assert result.json["path"] == str(tmp_path / "m-qdq.tflite")
    tensors = tflite_file.read(tmp_path / "m-qdq.tflite").subgraphs[0].tensors
    assert not any(tensor.type == 0 for tensor in tensors)
    again = call("convert", quantized)
    assert again.code == 3
    assert "exists" in again.stderr


def test_verify_with_a_store_alone(finished: Run, tmp_path: Path) -> None:
    """Both targets are made of one store, and hold its scales; a changed one is told."""
    files = finished.out / "files"
    store = files / "pruned-qat-int8.ranges.json"
    for name in ("pruned-qat-int8.tflite", "pruned-qat-int8.onnx"):
        result = call("verify", files / name, "--ranges", store, "--json")
        assert result.code == 0, result.stderr
        assert result.json["parity"] is None
        assert result.json["equal_scales"] == result.json["matched_scales"] == len(result.json["scales"]) > 0
    content = json.loads(store.read_text())
    content["tensors"]["input"]["scale"] = [0.123]
    (tmp_path / "other.json").write_text(json.dumps(content))
    wrong = call("verify", files / "pruned-qat-int8.onnx", "--ranges", tmp_path / "other.json")
    assert wrong.code == 4
    assert "do not carry the learned scale, first input" in wrong.stderr
    shutil.copy(files / "pruned-qat-int8.tflite", tmp_path)  # away from its store
    neither = call("verify", tmp_path / "pruned-qat-int8.tflite")
    assert neither.code == 2


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
