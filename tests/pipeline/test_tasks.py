"""Runs of every kind of task, from data to report; files are stood in for by the models themselves."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import here
import numpy as np
import pytest
import torch

from torchshrink import bench, checkpoint
from torchshrink.bench.measurement import Latency, Measurement
from torchshrink.errors import DataError, ModelError, RecipeError
from torchshrink.model.signature import tensors
from torchshrink.pipeline import assemble
from torchshrink.pipeline.artefacts import Artefact, Source, as_list
from torchshrink.pipeline.recipe import parse
from torchshrink.pipeline.rows import UNCOMPARED
from torchshrink.pipeline.run import run
from torchshrink.pipeline.subject import Loss, MetricChoice

MODULE = '''
import torch
from torch import nn
from torchshrink.metrics import Metric
from torchshrink.task import Normalization, Task


def samples(kind, count, seed):
    """A bright bar at one of three places, and noise: which place, where exactly, how much, without the noise."""
    generator = torch.Generator().manual_seed(seed)
    for index in range(count):
        place = index % 3
        clean = torch.zeros(1, 8, 8)
        clean[:, 3 * place : 3 * place + 2] = 2
        truths = {
            "segmentation": (clean > 0).to(torch.uint8),
            "classification": torch.tensor(place),
            "multiclass": (clean[0] > 0).long() * (1 + place % 2),
            "regression": torch.tensor([float(place), 2.0 - place]),
            "reconstruction": clean / 2,
            "unlabelled": torch.empty(0),
            "custom": {"place": torch.tensor(place), "bar": clean},
        }
        yield clean + 0.3 * torch.randn(1, 8, 8, generator=generator), truths[kind]


def task(kind, **settings):
    parts = [list(samples(kind, count, seed)) for seed, count in enumerate((24, 6, 12))]
    return Task("bars", *parts, Normalization((0.0,), (1.0,)), kind=kind, **settings)


segmentation = lambda: task("segmentation")
classification = lambda: task("classification", class_names=("up", "middle", "down"))
multiclass = lambda: task("multiclass")
regression = lambda: task("regression")
reconstruction = lambda: task("reconstruction")
unlabelled = lambda: task("unlabelled")


class BothLosses(nn.Module):
    def forward(self, output, truth):
        places = nn.functional.cross_entropy(output["place"], truth["place"])
        return places + nn.functional.mse_loss(output["bar"], truth["bar"])


def right(output, truth):
    return (output["place"].argmax(1) == truth["place"]).float().mean()


def custom():
    return task("custom", loss=BothLosses(), metrics={"right": Metric(right, higher_is_better=True)})


def error(output, truth):
    return (output - truth).abs().max()


def net(outputs, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, outputs))


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head, self.bar = net(8), nn.Linear(8, 3), nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x):
        return {"place": self.head(self.body(x)), "bar": self.bar(x)}
'''

VARIANTS = {
    "dense": {"train": {"epochs": 6, "lr": 0.02}},
    "half": {"from": "dense", "prune": {"amount": 0.5, "epochs": 1}},
}
UNET = {"arguments": {"widths": [4, 8]}}


class _Bridge:
    """A variant's traced graph goes for its file."""

    def export(self, source: Source, folder: Path, *_: Any) -> list[Artefact]:
        from torchshrink.model import graphs
        from torchshrink.quantize import capture

        path = folder / f"{source.variant}.safetensors"
        graph = graphs.from_json(*graphs.to_json(capture(source.model, source.example_input)))
        checkpoint.save(graph, path, source.metadata)
        return [Artefact(source.variant, "onnx", "fp32", path)]

    def outputs(self, artefact: Artefact, source: Source, inputs: Any) -> Any:
        found = [output.detach().numpy() for output in tensors(source.model(inputs))]
        return found if len(found) > 1 else found[0]

    def compare(self, _: Any, __: Any, found: Any, expected: Any, ___: Any) -> dict[str, Any]:
        for ours, theirs in zip(as_list(found), as_list(expected), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)
        return {**UNCOMPARED, "reason": ""}

    def weights(self, path: Path) -> list[Any]:
        return [np.ones(3, np.float32)]


def _measured(paths: Any, *_: Any, **__: Any) -> dict[Path, Measurement]:
    figures = dict.fromkeys(Measurement.__dataclass_fields__, 1.0)
    return {path: Measurement(**figures | {"latency": Latency(1.0, 1.0, 1, 5)}) for path in paths}  # type: ignore[arg-type]


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "bars.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "bars", raising=False)
    monkeypatch.setattr(bench, "predict", here.predict)
    monkeypatch.setattr(bench, "predict_all", here.predict_all)
    monkeypatch.setattr(bench, "measure_all", _measured)

    def start(source: str, **content: Any) -> tuple[dict[str, Any], str, str]:
        settings = {"data": f"bars:{source}", "variants": VARIANTS, "precisions": ["fp32"]} | content
        out = tmp_path / "run"
        run(parse(settings), out, _Bridge(), is_fresh=True)  # type: ignore[arg-type]
        return (
            json.loads((out / "report.json").read_text()),
            (out / "report.md").read_text(),
            (out / "report.html").read_text(),
        )

    return start


def net(outputs: int) -> dict[str, Any]:
    return {"factory": "bars:net", "arguments": {"outputs": outputs}}


def test_classification(ran: Any) -> None:
    report, text, page = ran("classification", model=net(3))
    task, rows = report["task"], {row["name"]: row for row in report["rows"]}
    assert (task["kind"], task["decides"], task["loss"]) == ("classification", "accuracy", "CrossEntropyLoss")
    assert task["constant"]["accuracy"] == pytest.approx(1 / 3)
    dense = rows["dense/onnx-fp32"]
    assert set(dense["metrics"]) == {"accuracy", "f1"}
    assert dense["metrics"]["accuracy"] > 0.8
    found = np.array(dense["confusion"])
    assert found.sum() == 12
    assert np.trace(found) / 12 == pytest.approx(dense["metrics"]["accuracy"])
    assert " dice " not in text
    assert "at a test accuracy of" in text.splitlines()[2]
    assert "| class | samples | dense/torch-fp32 | dense/onnx-fp32 | half/onnx-fp32 |" in text
    assert "| middle | 4 |" in text
    assert "Confusion matrix of dense/torch-fp32" in page
    assert re.search(r"test accuracy of at least 0\.\d+, which is 1 % below dense/torch-fp32", page)


def test_several_classes_by_the_built_in_network(ran: Any) -> None:
    report, text, page = ran("multiclass", model=UNET)
    assert list(report["rows"][0]["metrics"]) == ["iou", "dice", "accuracy"]
    assert "| loss | iou | dice | accuracy |" in text
    assert "class 2" in page  # its colour in the legend
    assert "sample 1: truth" in page


def test_regression(ran: Any) -> None:
    report, text, page = ran("regression", model=net(2), task={"metrics": ["mae", "r2"], "budget": 0.5})
    assert report["task"]["budget"] == {"amount": 0.5, "is_share": False}
    assert "| loss | mae | r2 |" in text
    assert "Predicted against true numbers of half/onnx-fp32" in page
    assert "test mae of at most" in page


def test_reconstruction(ran: Any) -> None:
    report, text, page = ran("reconstruction", model=UNET, loss="L1Loss", task={"metrics": ["psnr"]})
    assert (report["task"]["loss"], report["task"]["decides"]) == ("L1Loss", "psnr")
    assert re.search(r"test psnr of [\d.]+ dB", text)
    assert "sample 1: dense/onnx-fp32, " in page
    assert "% wrong" not in page


def test_no_labels(ran: Any) -> None:
    variants = {
        "dense": {"train": {"epochs": 0}},
        "half": {"from": "dense", "prune": {"amount": 0.5, "epochs": 3, "schedule": "one_shot"}},
        "raw": {"from": "dense", "prune": {"amount": 0.5, "epochs": 0, "schedule": "one_shot"}},
    }
    report, text, _ = ran("unlabelled", model=net(3), variants=variants)
    rows = {row["variant"]: row for row in report["rows"]}
    assert rows["dense"]["metrics"] == {"distance": pytest.approx(0, abs=1e-5)}
    assert 0 < rows["half"]["metrics"]["distance"] < rows["raw"]["metrics"]["distance"]  # it learned from its teacher
    assert "test distance" in text
    with pytest.raises(RecipeError, match="variant 'dense' has no labels to be trained with and no teacher"):
        ran("unlabelled", model=net(3))
    with pytest.raises(RecipeError, match="bars:unlabelled has no labels, and the built-in U-Net no weights"):
        ran("unlabelled")


def test_imitation_alone_looks_at_no_label(ran: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchshrink.training import _Run

    seen: list[float] = []
    monkeypatch.setattr(_Run, "_task_loss", lambda self, *_: seen.append(self.settings.distillation) or torch.zeros(()))
    variants = {"dense": {"train": {"epochs": 0}}, "half": {"from": "dense", "prune": {"amount": 0.5, "epochs": 1}}}
    report, *_ = ran("classification", model=net(3), loss="teacher", variants=variants)
    assert seen == []
    assert report["task"]["loss"] == "CrossEntropyLoss"


def test_several_outputs(ran: Any) -> None:
    report, text, _ = ran("custom", model={"factory": "bars:Two"})
    assert [list(row["metrics"]) for row in report["rows"]] == [["right"]] * 4
    assert report["rows"][0]["metrics"]["right"] > 0.5
    assert "test right of" in text


def test_a_model_that_learned_nothing_is_said_first(ran: Any) -> None:
    variants = {"dense": {"train": {"epochs": 0}}}
    report, text, page = ran("classification", model=net(3), variants=variants)
    accuracy = report["rows"][0]["metrics"]["accuracy"]
    said = f"The dense model learned nothing: its test accuracy of {accuracy:.4f} is no better than the 0.3333 of one"
    assert accuracy < 0.334
    assert text.splitlines()[2].startswith(said)
    assert said in page
    assert "smaller" not in text.split("|")[0]
    assert "Smallest" not in text


def test_own_metrics_in_a_recipe(ran: Any) -> None:
    metrics = {"worst": {"use": "bars:error", "better": "lower"}, "mae": {}}
    report, *_ = ran("regression", model=net(2), task={"metrics": metrics})
    assert report["task"]["decides"] == "worst"
    assert report["rows"][0]["metrics"]["worst"] >= report["rows"][0]["metrics"]["mae"]
    with pytest.raises(RecipeError, match="metric 'worst' does not say which way is better"):
        ran("regression", model=net(2), task={"metrics": {"worst": "bars:error"}})
    with pytest.raises(RecipeError, match="metric name 'bars:none' cannot be imported"):
        ran("regression", model=net(2), task={"metrics": {"name": "bars:none"}})


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        ({"task": {"kind": "regression"}}, DataError, "is of kind regression, whose truth is one or more numbers"),
        ({"loss": "MSELoss"}, DataError, r"the loss cannot be computed of outputs \[16, 3\] float32 and truths \[16\]"),
        ({"loss": "CrossEntropy"}, RecipeError, "unknown loss 'CrossEntropy': expected one of focal_tversky"),
        ({"task": {"decides": "auc"}}, RecipeError, "'auc' is to decide, the metrics are accuracy, f1"),
        ({"model": UNET}, RecipeError, "the built-in U-Net makes masks and images, and the task is of kind classif"),
        ({"model": net(2)}, ModelError, r"returns 2 scores for .* and the data has 3 classes: .*num_classes=3"),
        ({"task": {"metrics": ["mae"]}}, DataError, "metric 'mae': outputs of shape"),
    ],
)
def test_what_does_not_fit_is_said(ran: Any, content: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        ran("classification", **{"model": net(3)} | content)


def test_a_segmentation_is_as_it_was(ran: Any) -> None:
    report, text, page = ran("segmentation", model=UNET)
    assert set(report["rows"][0]["metrics"]) == {"dice", "iou"}
    assert "| loss | dice | ms |" in text
    assert "test loss of" in text
    assert "% wrong" in page


def test_files_are_of_the_kind_that_they_show_or_that_the_recipe_says(ran: Any) -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(40) % 3
    inputs = generator.normal(size=(40, 1, 8, 8)).astype(np.float32) + 2 * labels[:, None, None, None]
    np.savez("levels.npz", x=inputs.astype(np.float32), y=labels)
    report, *_ = ran("", data="levels.npz", model=net(3), augment=False)
    assert (report["task"]["kind"], report["task"]["loss"]) == ("classification", "CrossEntropyLoss")
    assert len(report["rows"][0]["confusion"]) == 3
    report, *_ = ran("", data="levels.npz", model=net(1), augment=False, task={"kind": "regression"})
    assert (report["task"]["kind"], report["task"]["decides"]) == ("regression", "mae")


LOSSES = """
import torch
from torch import nn

def plain(output, truth):
    return nn.functional.cross_entropy(output, truth)

def scaled(output, truth, factor=2.0):
    return factor * nn.functional.cross_entropy(output, truth)

def make(factor=3.0):
    return lambda output, truth: factor * nn.functional.cross_entropy(output, truth)

ready = nn.CrossEntropyLoss()

class Needs:
    def __init__(self, count):
        self.count = count
"""


@pytest.mark.parametrize(
    ("choice", "factor"),
    [
        ("mine:plain", 1),
        ("mine:ready", 1),
        ("mine:scaled", 2),
        ({"name": "mine:scaled", "settings": {"factor": 4}}, 4),
        ("mine:make", 3),
        ({"name": "mine:make", "settings": {"factor": 5}}, 5),
        ("torch.nn:CrossEntropyLoss", 1),
    ],
)
def test_a_loss_is_one_or_makes_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: Any, factor: float
) -> None:
    (tmp_path / "mine.py").write_text(LOSSES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    output, truth = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])
    expected = factor * torch.nn.functional.cross_entropy(output, truth)
    assert float(assemble.make_loss(Loss.model_validate(choice))(output, truth)) == pytest.approx(float(expected))
    with pytest.raises(RecipeError, match=r"metric m stopped with TypeError: .*missing 1 required"):
        assemble._metric("m", MetricChoice(use="mine:Needs"))
