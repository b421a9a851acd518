"""`torchshrink report`, which makes the pages of a finished run again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from html_page import REST, TASK
from program import call

ROW = REST | {
    "name": "dense/tflite-fp32", "variant": "dense", "format": "tflite", "precision": "fp32",
    "path": "files/dense-fp32.tflite", "bytes": 2_000_000, "sparsity": 0.0, "loss": 0.2,
    "metrics": {"dice": 0.8, "iou": 0.7}, "latency_ms": {"median": 4.0, "p90": 5.0, "threads": 1, "runs": 50},
    "peak_rss_mb": 60.0,
    "parity": {"reference": "dense", "max_abs": 1e-6, "mean_abs": 1e-7, "lsb_match": None, "passed": True},
    "islands": [],
}  # fmt: skip
ENVIRONMENT = {"python": "3.11", "system": "Linux", "processor": "x", "cores": 2, "packages": {}, "command": "run"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    content = {"schema": 1, "task": TASK, "environment": ENVIRONMENT, "rows": [ROW], "failed": []}
    (tmp_path / "report.json").write_text(json.dumps(content))
    return tmp_path


def test_pages_are_made_again(run: Path) -> None:
    before = (run / "report.json").read_bytes()
    result = call("report", run)
    assert result.code == 0, result.stderr
    assert str(run / "report.html") in result.stdout.replace("\n", "")
    assert "Smallest: dense/tflite-fp32, 2.000 MB" in result.stdout
    assert "dense/tflite-fp32" in (run / "report.html").read_text()
    assert "| dense/tflite-fp32 |" in (run / "report.md").read_text()
    assert "dense/tflite-fp32,dense,tflite,fp32" in (run / "report.csv").read_text()
    assert (run / "report.png").read_bytes().startswith(b"\x89PNG")
    assert (run / "report.json").read_bytes() == before


def test_json(run: Path) -> None:
    result = call("report", run, "--json")
    assert result.code == 0, result.stderr
    assert result.json["rows"] == [ROW]


def test_missing_folder_is_one_line(tmp_path: Path) -> None:
    result = call("report", tmp_path / "nowhere")
    assert result.code == 3
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert "nowhere/report.json is missing or damaged" in result.stderr
    assert not (tmp_path / "nowhere").exists()


def test_damaged_figures_are_one_line(run: Path) -> None:
    content = json.loads((run / "report.json").read_text())
    del content["rows"][0]["loss"]
    (run / "report.json").write_text(json.dumps(content))
    result = call("report", run)
    assert (result.code, result.stderr.count("\n")) == (3, 1)
    assert "rows[0].loss is missing" in result.stderr
    assert sorted(path.name for path in run.iterdir()) == ["report.json"]


def test_an_unknown_tracker(run: Path) -> None:
    result = call("report", run, "--track", "nonsense")
    assert result.code == 2
    assert "'nonsense' is not one of 'mlflow', 'tensorboard'" in result.said
    assert not (run / "report.html").exists()


def test_tracking(run: Path) -> None:
    (run / "recipe.json").write_text('{"seed": 0}')
    result = call("report", run, "--track", "tensorboard")
    assert result.code == 0, result.stderr
    assert f"tensorboard --logdir {run / 'tensorboard'}" in result.stderr.replace("\n", "")
    assert [path.name for path in (run / "tensorboard").iterdir()] == ["dense"]
