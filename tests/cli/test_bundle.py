"""The command bundle, and verify without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from program import call

UNET = Path(__file__).parents[1] / "written_by_0_1_0" / "run" / "files" / "dense-fp32.onnx"
BLOCKED = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchao", "safetensors"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import torchshrink.converters.proof.range_check
"""


def test_json_says_what_was_made(tmp_path: Path) -> None:
    result = call("bundle", UNET, "--out", tmp_path / "made", "--json")
    assert result.code == 0, result.stderr
    assert result.json["runtime"] == "onnxruntime"
    assert result.json["self_test"]["passed"]
    assert result.json["image"]["how"].startswith("computed: base 125")


def test_help_names_the_runtimes() -> None:
    assert all(name in call("bundle", "--help").stdout for name in ("tflite-c", "litert", "onnxruntime", "--server"))


def test_stored_numbers_are_compared_without_torch() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", BLOCKED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
