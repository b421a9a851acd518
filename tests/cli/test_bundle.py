"""The command bundle, and verify without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from model_files import save_onnx, save_tflite_mul
from onnx import helper
from program import Result, call

from torchshrink.converters import ranges

SUPPORT = Path(__file__).parents[1] / "support"
UNET = Path(__file__).parents[1] / "written_by_0_1_0" / "run" / "files" / "dense-fp32.onnx"
BLOCKED = """
import json, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchao", "torchmetrics", "safetensors"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from program import call
print(json.dumps([vars(call(*arguments)) for arguments in json.loads(sys.argv[1])]))
"""
TENSORS = {"x": (0.05, 10), "factors": (1.0, 0), "y": (0.05, -5)}


def test_json_says_what_was_made(tmp_path: Path) -> None:
    result = call("bundle", UNET, "--out", tmp_path / "made", "--json")
    assert result.code == 0, result.stderr
    assert result.json["runtime"] == "onnxruntime"
    assert result.json["self_test"]["passed"]
    assert result.json["image"]["how"].startswith("computed: base 125")


def test_help_names_the_runtimes() -> None:
    assert all(name in call("bundle", "--help").stdout for name in ("tflite-c", "litert", "onnxruntime", "--server"))


def _save_qdq(path: Path) -> Path:
    """Write an int8 ONNX file with the grids of ``TENSORS``."""
    constants: dict[str, np.ndarray] = {"codes": np.array([2, -3], np.int8)}
    for name, (scale, zero_point) in TENSORS.items():
        constants |= {f"{name}_s": np.float32(scale).reshape(()), f"{name}_z": np.int8(zero_point).reshape(())}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_s", "x_z"], ["x_q"]),
        helper.make_node("DequantizeLinear", ["x_q", "x_s", "x_z"], ["x_d"]),
        helper.make_node("DequantizeLinear", ["codes", "factors_s", "factors_z"], ["factors"]),
        helper.make_node("Mul", ["x_d", "factors"], ["m"]),
        helper.make_node("QuantizeLinear", ["m", "y_s", "y_z"], ["y_q"]),
        helper.make_node("DequantizeLinear", ["y_q", "y_s", "y_z"], ["y"]),
    ]
    return save_onnx(path, nodes, (1, 3, 5, 2), (1, 3, 5, 2), constants)


def test_stored_numbers_are_compared_without_torch(tmp_path: Path) -> None:
    stored = {
        name: ranges.Range((float(np.float32(scale)),), (zero_point,)) for name, (scale, zero_point) in TENSORS.items()
    }
    files = [_save_qdq(tmp_path / "net.onnx"), tmp_path / "net.tflite"]
    save_tflite_mul(files[1], np.int8, (2.0, -3.0), list(TENSORS.values()))
    ranges.save(stored, tmp_path / "net.ranges.json")  # beside both, where verify finds it
    orders = [["verify", str(file), *more] for file in files for more in (["--json"], ["--against", "net.safetensors"])]
    done = subprocess.run(
        [sys.executable, "-P", "-c", BLOCKED, json.dumps(orders)],
        capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(SUPPORT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [Result(**each) for each in json.loads(done.stdout)]
    for alone, against in (found[:2], found[2:]):
        assert alone.code == 0, alone.said
        assert alone.json["equal_scales"] == alone.json["matched_scales"] >= 2
        assert against.code == 5
        assert "this needs torch, which is not installed: pip install 'torchshrink[torch]'" in against.said
