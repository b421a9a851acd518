"""The whole job, as a user calls it."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from onnx_metadata import get_metadata
from program import RECIPE, Run, call

from torchshrink.converters import tflite_file

ROW_KEYS = {
    "name", "variant", "format", "precision", "path", "bytes", "gzip_bytes", "entropy_bytes", "params", "nonzero",
    "sparsity", "macs", "loss", "metrics", "latency_ms", "peak_rss_mb", "runtime_rss_mb", "model_rss_mb", "parity",
    "islands",
}  # fmt: skip

pytestmark = pytest.mark.slow


def test_report_keeps_its_contract(finished: Run) -> None:
    report = finished.report
    assert report["schema"] == 1
    assert {"task", "environment", "rows"} <= set(report)
    for row in report["rows"]:
        assert set(row) >= ROW_KEYS, row["name"]
        assert row["format"] in ("torch", "onnx", "tflite", "h5")
        assert row["precision"] in ("fp32", "fp16", "int8", "dynamic")
        assert set(row["metrics"]) == {"dice", "iou"}
        assert set(row["latency_ms"]) == {"median", "p90", "threads", "runs"}
        assert {"reference", "max_abs", "mean_abs", "lsb_match", "passed"} <= set(row["parity"])
        assert row["parity"]["passed"] is True
        assert math.isclose(row["peak_rss_mb"], row["runtime_rss_mb"] + row["model_rss_mb"])
        assert (finished.out / row["path"]).stat().st_size == row["bytes"]


def test_every_variant_has_every_format(finished: Run) -> None:
    names = {row["name"] for row in finished.report["rows"]}
    floats = {"torch-fp32", "onnx-fp32", "onnx-fp16", "onnx-int8", "tflite-fp32", "tflite-fp16", "tflite-int8"}
    assert {f"dense/{name}" for name in floats} <= names
    assert {f"pruned/{name}" for name in floats} <= names
    assert {"pruned-qat/onnx-int8", "pruned-qat/tflite-int8"} <= names
    assert not any(name.startswith("dense") and name.endswith("sparse") for name in names)


def test_pruned_zeros_survive_quantization(finished: Run) -> None:
    for row in finished.rows(variant="pruned-qat"):
        assert row["sparsity"] >= 0.8, row["name"]
        assert row["nonzero"] <= 0.2 * row["params"] + 1


def test_int8_files_compute_in_integers(finished: Run) -> None:
    rows = finished.rows(precision="int8")
    assert rows
    for row in rows:
        assert row["islands"] == []
        assert row["parity"]["lsb_match"] >= 0.95


def test_normalization_travels_with_every_file(finished: Run) -> None:
    wanted = finished.report["task"]["normalization"]
    for row in finished.report["rows"]:
        path = finished.out / row["path"]
        if row["format"] == "torch":
            continue
        stored = tflite_file.get_metadata(tflite_file.read(path)) if row["format"] == "tflite" else get_metadata(path)
        assert stored["normalization"] == wanted
        assert json.loads(Path(f"{path}.json").read_text())["normalization"] == wanted


def test_table_and_page_name_every_row(finished: Run) -> None:
    page = (finished.out / "report.md").read_text()
    for row in finished.report["rows"]:
        assert row["name"] in finished.result.stdout
        assert f"| {row['name']} |" in page
    assert (finished.out / "report.png").read_bytes().startswith(b"\x89PNG")


def test_no_chatter_of_other_libraries(finished: Run) -> None:
    own = "with TensorFlow, in a process of its own"  # said where it takes long
    said = (finished.result.stderr + finished.result.stdout).replace(own, "")
    for word in ("Failed to load", "WARNING", "Warning", "torchvision", "XNNPACK", "TensorFlow", "W0000"):
        assert word not in said


def test_second_call_does_nothing_again(finished: Run) -> None:
    before = (finished.out / "report.json").read_bytes()
    result = call("run", finished.recipe, "--out", finished.out, "--json")
    assert result.code == 0, result.stderr
    for step in ("make:dense", "make:pruned", "make:pruned-qat", "export:dense", "verify:pruned-qat", "measure"):
        assert f"{step}: done before" in result.stderr
    assert result.json["rows"] == json.loads(before)["rows"]


def test_damaged_output_is_made_again(finished: Run, tmp_path: Path) -> None:
    """Only what depends on the damaged file is redone: here, verifying and measuring find their inputs unchanged."""
    victim = finished.out / "files" / "pruned-qat-int8.tflite"
    content = victim.read_bytes()
    victim.write_bytes(content[:-100])
    result = call("run", finished.recipe, "--out", finished.out, "--json")
    assert result.code == 0, result.stderr
    assert "make:pruned-qat: done before" in result.stderr
    assert "export:pruned-qat: done before" not in result.stderr
    assert "export:dense: done before" in result.stderr
    assert len(victim.read_bytes()) == len(content)


def test_out_of_another_run_is_refused(finished: Run, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(RECIPE.replace("epochs: 4", "epochs: 5"))
    result = call("run", other, "--out", finished.out)
    assert result.code == 3
    assert "holds another run" in result.stderr
    assert "--fresh" in result.stderr


INTERRUPTED = """\
data: synthetic:cells?size=32&train=40&test=8
model: {arguments: {widths: [8, 16]}}
variants:
  dense: {train: {epochs: 1}, export: false}
  int8: {from: dense, qat: {epochs: 12}}  # longer than the wait below
formats: [onnx]
precisions: [int8]
measure: {threads: 1, runs: 5}
"""


def _default_interrupt() -> None:
    """Undo what a shell does to jobs in the background, which inherit that SIGINT is ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_interrupted_run_leaves_nothing_half_written_and_goes_on(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(INTERRUPTED)
    command = [sys.executable, "-P", "-c", "from torchshrink.cli import main; main()"]
    with subprocess.Popen(
        [*command, "run", str(recipe), "--out", str(tmp_path / "out")],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_default_interrupt,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "quantization-aware training" in line:
                break
        time.sleep(0.3)  # into the step itself
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(60) == 130
    assert "interrupted" in rest
    assert "Traceback" not in rest
    assert not (tmp_path / "out" / "models" / "int8.safetensors").exists()
    assert not [path for path in (tmp_path / "out").rglob(".*") if path.is_file()]
    result = call("run", recipe, "--out", tmp_path / "out")
    assert result.code == 0, result.stderr
    assert "make:dense: done before" in result.stderr
    assert "make:int8: done before" not in result.stderr


def test_init_writes_a_recipe_that_loads(tmp_path: Path) -> None:
    from torchshrink.pipeline import recipe

    assert call("run", "--init", "mine.yaml", cwd=tmp_path).code == 0
    assert recipe.load(tmp_path / "mine.yaml") == recipe.Recipe()
    again = call("run", "--init", "mine.yaml", cwd=tmp_path)
    assert again.code == 3
    assert "--overwrite" in again.stderr
