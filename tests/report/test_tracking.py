"""What MLflow and TensorBoard are told of a finished run."""

import json
import logging
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from accelerate import tracking as trackers
from html_page import REST, make_content
from torch import nn

from torchshrink import checkpoint
from torchshrink.errors import DataError, MissingExtraError
from torchshrink.pipeline import recipe
from torchshrink.pipeline.build import build
from torchshrink.progress import SILENT
from torchshrink.report import tracking

EPOCHS = [
    {"train_loss": 0.9, "validation_loss": 0.8, "dice": 0.1},
    {"train_loss": 0.6, "validation_loss": 0.5, "dice": 0.4},
]
RECIPE = {"data": "synthetic:cells", "seed": 3, "variants": {"dense": {"train": {"epochs": 2}}}}


def row(variant: str, format_: str) -> dict[str, Any]:
    return REST | {
        "name": f"{variant}/{format_}-fp32", "variant": variant, "format": format_, "precision": "fp32",
        "path": f"files/{variant}-fp32.{format_}", "bytes": 2000, "sparsity": 0.25, "loss": 0.5,
        "metrics": {"dice": 0.75, "iou": 0.6}, "latency_ms": {"median": 4.0, "p90": 5.0, "threads": 1, "runs": 50},
        "peak_rss_mb": 60.0, "entropy_bytes": None, "islands": [],
        "parity": {"reference": "torch", "max_abs": float("inf"), "mean_abs": 0.0, "lsb_match": None, "passed": False},
    }  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of two variants, of which one was trained."""
    folder = tmp_path / "cells"
    for name in ("models", "files"):
        (folder / name).mkdir(parents=True)
    rows = [row("dense", "onnx"), row("dense", "tflite"), row("pruned", "tflite")]
    content = {"schema": 1, **make_content(rows)}
    (folder / "report.json").write_text(json.dumps(content))
    (folder / "report.md").write_text("# Report")
    (folder / "recipe.json").write_text(json.dumps(RECIPE))
    (folder / "files" / "dense-fp32.onnx").write_bytes(b"model")
    model = nn.Sequential(nn.Linear(1, 1))
    checkpoint.save(model, folder / "models" / "dense.safetensors", {"history": {"epochs": EPOCHS}})
    return folder


def scalars(folder: Path) -> dict[str, list[float]]:
    """Read the events of TensorBoard: records of a length, its checksum, the event and its checksum."""
    from tensorboardX.proto import event_pb2

    (path,) = folder.iterdir()
    content, start = path.read_bytes(), 0
    found: dict[str, list[float]] = {}
    while start < len(content):
        (length,) = struct.unpack_from("<Q", content, start)
        event = event_pb2.Event.FromString(content[start + 12 : start + 12 + length])
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found.setdefault(value.tag, []).append(value.simple_value)
        start += length + 16
    return found


def test_settings_are_flat(run: Path) -> None:
    assert tracking.settings(run) == {"data": "synthetic:cells", "seed": "3", "variants.dense.train.epochs": "2"}


def test_figures_are_finite_numbers() -> None:
    found = tracking.figures(row("dense", "onnx"))
    assert found["metrics.dice"] == 0.75
    assert found["latency_ms.median"] == 4.0
    assert found["parity.passed"] == 0.0
    assert not {"parity.max_abs", "entropy_bytes", "name"} & set(found)


def test_tensorboard_gets_curves_and_figures(run: Path) -> None:
    told = tracking.log(run, "tensorboard")
    assert told == f"tensorboard --logdir {run / 'tensorboard'}"
    dense = scalars(run / "tensorboard" / "dense")
    assert dense["validation_loss"] == pytest.approx([0.8, 0.5])
    assert dense["onnx-fp32/bytes"] == [2000]
    assert dense["tflite-fp32/latency_ms.p90"] == [5.0]
    pruned = scalars(run / "tensorboard" / "pruned")
    assert "train_loss" not in pruned
    assert pruned["tflite-fp32/loss"] == [0.5]


def test_tensorboard_does_not_load_tensorflow(run: Path) -> None:
    tracking.log(run, "tensorboard")
    assert "tensorflow" not in sys.modules


@pytest.mark.filterwarnings("ignore")  # what it uses is deprecated by what it uses
def test_mlflow_gets_runs_inside_of_a_run(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="MLflow is an optional extra: pip install 'torchshrink[mlflow]'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking.log(run, "mlflow") == "mlflow ui --backend-store-uri sqlite:///mlflow.db"
    assert (tmp_path / "mlflow.db").is_file()
    client = mlflow.MlflowClient()
    runs = {
        item.info.run_name: item
        for item in client.search_runs([client.get_experiment_by_name("torchshrink").experiment_id])
    }
    assert set(runs) == {"cells", "dense", "pruned"}
    assert runs["cells"].data.params["variants.dense.train.epochs"] == "2"
    curve = client.get_metric_history(runs["dense"].info.run_id, "validation_loss")
    assert [(item.step, item.value) for item in curve] == [(1, 0.8), (2, 0.5)]
    assert runs["dense"].data.metrics["onnx-fp32/bytes"] == 2000
    assert [item.path for item in client.list_artifacts(runs["dense"].info.run_id)] == ["dense-fp32.onnx"]
    assert [item.path for item in client.list_artifacts(runs["cells"].info.run_id)] == ["report.json", "report.md"]


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"report\.json is missing"):
        tracking.log(tmp_path, "tensorboard")


def test_a_tracker_that_is_not_installed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'torchshrink\[mlflow\]'"):
        tracking.log(run, "mlflow")


class Recorder:
    """What accelerate's trackers have."""

    def __init__(self, run_name: str, **options: Any) -> None:
        self.made, self.logged, self.is_finished = (run_name, options), [], False
        kept.append(self)

    def start(self) -> None:
        pass

    def log(self, values: dict[str, float], step: int) -> None:
        assert not self.is_finished
        self.logged.append((step, values))

    def finish(self) -> None:
        self.is_finished = True


kept: list[Any] = []


def train_two(task: Any) -> None:
    made = recipe.parse(
        {"variants": {"dense": {"train": {"epochs": 2}}, "more": {"from": "dense", "train": {"epochs": 1}}}}
    )
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Sigmoid())
    for name in made.variants:
        model, _, _ = build(made, name, model, task, None, SILENT)


def test_every_epoch_is_told_while_it_trains(run: Path, tiny_task: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "check", lambda _: None)
    monkeypatch.setitem(trackers.LOGGER_TYPE_TO_CLASS, "wandb", Recorder)
    kept.clear()
    with tracking.live("wandb", run):
        train_two(tiny_task)
        (tracker,) = kept
        assert [step for step, _ in tracker.logged] == [1, 2, 3]
        assert set(tracker.logged[0][1]) >= {"dense/train_loss", "dense/validation_loss"}
        assert set(tracker.logged[2][1]) >= {"more/train_loss", "more/validation_loss"}
    assert tracker.made == ("torchshrink", {"name": "cells"})
    assert tracker.logged[3][1]["dense/onnx-fp32/bytes"] == 2000
    assert tracker.is_finished
    train_two(tiny_task)
    assert len(tracker.logged) == 4  # it no longer listens
    assert logging.getLogger("torchshrink.training").level == logging.NOTSET
    tracking.log(run, "wandb")
    assert [step for step, _ in kept[1].logged] == [1, 2, 2]


def test_tensorboard_is_told_live_and_writes_nothing_before(run: Path, tiny_task: Any) -> None:
    with tracking.live("tensorboard", run):
        assert not (run / "tensorboard").exists()
        train_two(tiny_task)
        assert len(scalars(run / "tensorboard" / "live")["dense/validation_loss"]) == 2


def test_a_tracker_without_an_extra_is_named_as_pip_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "comet_ml", None)
    with pytest.raises(MissingExtraError, match="comet_ml is not installed: pip install comet-ml"):
        tracking.check("comet_ml")
