"""One model in every format that it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from torchshrink.converters.proof import verify
from torchshrink.converters.sizes import comparison

FLOATS = {
    ("model.pt", "fp32"),
    ("model.pt2", "fp32"),
    ("model-fp32.ort", "fp32"),
    ("model.safetensors", "fp32"),
    ("model-fp32.onnx", "fp32"),
    ("model-fp16.onnx", "fp16"),
    ("model-fp32.tflite", "fp32"),
    ("model-fp32-sparse.tflite", "fp32"),
    ("model-fp16.tflite", "fp16"),
    ("saved_model", "fp32"),
    ("model.h5", "fp32"),
}
INT8 = {
    ("model.safetensors", "int8"),
    ("model.pt2", "int8"),
    ("model-int8.ort", "int8"),
    ("model-int8.onnx", "int8"),
    ("model-int8.tflite", "int8"),
    ("model-int8-sparse.tflite", "int8"),
}


@pytest.mark.slow
def test_a_float_model(unet2d: Any, tmp_path: Path) -> None:
    rows = comparison.sizes(unet2d.model, unet2d.inputs[:1], tmp_path)
    assert {(row.path.name, row.precision) for row in rows} == FLOATS
    assert {path.name for path in tmp_path.iterdir()} == {name for name, _ in FLOATS}
    _check(rows)
    by_name = {row.path.name: row for row in rows}
    assert by_name["model-fp16.onnx"].bytes < by_name["model-fp32.onnx"].bytes
    assert by_name["model-fp32-sparse.tflite"].bytes < by_name["model-fp32.tflite"].bytes
    stored = 4 * sum(value.numel() for value in unet2d.model.state_dict().values() if value.is_floating_point())
    assert by_name["model.safetensors"].parts.weights == pytest.approx(stored, abs=64)  # and the counters of BatchNorm
    assert by_name["model.pt2"].parts.weights == pytest.approx(stored, abs=64)
    program = torch.export.load(tmp_path / "model.pt2").module()
    with torch.inference_mode():
        expected = unet2d.model(unet2d.inputs[:1])
        assert torch.allclose(program(unet2d.inputs[:1]), expected, atol=1e-6)
    session = onnxruntime.InferenceSession(str(tmp_path / "model-fp32.ort"))
    found = session.run(None, {"input": unet2d.inputs[:1].numpy()})[0]
    assert np.abs(found - expected.numpy()).max() < 1e-5
    state = torch.load(tmp_path / "model.pt", weights_only=True)
    assert all(torch.equal(value, unet2d.model.state_dict()[name]) for name, value in state.items())
    assert (tmp_path / "saved_model" / "saved_model.pb").is_file()
    assert (tmp_path / "model.h5").read_bytes()[:4] == b"\x89HDF"
    parity = verify.verify(tmp_path / "model-fp32-sparse.tflite", unet2d.model, unet2d.inputs, "fp32", "model")
    assert parity.passed


@pytest.mark.exhaustive
def test_a_quantized_graph(unet2d: Any, tmp_path: Path) -> None:
    rows = comparison.sizes(unet2d.quantized, unet2d.inputs[:1], tmp_path)
    assert {(row.path.name, row.precision) for row in rows} == INT8
    assert {path.name for path in tmp_path.iterdir()} == {name for name, _ in INT8}
    _check(rows)


def _check(rows: list[comparison.Size]) -> None:
    for row in rows:
        files = [row.path] if row.path.is_file() else [path for path in row.path.rglob("*") if path.is_file()]
        assert row.bytes == sum(path.stat().st_size for path in files)
        assert 0 < row.gzip_bytes < row.bytes * 1.1
        assert 0 < row.zstd_bytes < row.bytes * 1.1
        if row.path.suffix in (".ort", ".h5", ""):
            assert row.parts is None
        else:
            assert row.parts is not None
            assert row.parts.weights + row.parts.graph + row.parts.metadata == row.bytes
            assert min(row.parts.weights, row.parts.graph) > 0
        assert row.framework
        is_read = row.path.suffix in (".onnx", ".tflite", ".safetensors")
        assert (row.entropy_bytes is not None) is is_read
        assert row.entropy_bytes is None or 0 < row.entropy_bytes < row.bytes
