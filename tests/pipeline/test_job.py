"""One run: what is built, read and handed on, and the rows that come out of it."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

from torchshrink import bench, stages
from torchshrink.errors import ConversionError, MissingExtraError, ModelError
from torchshrink.metrics import Metric, Scores
from torchshrink.pipeline import build, elsewhere, test_part
from torchshrink.pipeline.artefacts import Artefact, Made, Source
from torchshrink.pipeline.assemble import make_task
from torchshrink.pipeline.job import Job
from torchshrink.pipeline.recipe import parse
from torchshrink.pipeline.rows import UNCOMPARED, failed_file, file_row
from torchshrink.pipeline.run import run
from torchshrink.pipeline.steps import Steps
from torchshrink.progress import SILENT, Silent
from torchshrink.report import samples
from torchshrink.runtime import processors
from torchshrink.training import History

MODULE = """
from torch import nn

built = []

def make():
    built.append(None)
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 1, 1), nn.Sigmoid())
"""


class _Bridge:
    """A checkpoint's copy goes for its file; remembers the models that it was given."""

    def __init__(self) -> None:
        self.seen: list[nn.Module] = []

    def export(self, source: Source, folder: Path, *_: Any) -> list[Artefact]:
        self.seen.append(source.model)
        path = folder / f"{source.variant}.safetensors"
        shutil.copy(folder.parent / "models" / f"{source.variant}.safetensors", path)
        return [Artefact(source.variant, "onnx", "fp32", path)]

    def outputs(self, artefact: Artefact, source: Source, inputs: Any) -> Any:
        self.seen.append(source.model)
        return source.model(inputs).detach().numpy()

    def compare(self, *_: Any) -> dict[str, Any]:
        return {**UNCOMPARED, "reason": ""}

    def weights(self, path: Path) -> list[Any]:
        return [np.ones(3, np.float32)]


def test_a_model_is_built_once_and_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read once after it was written, for its files and for what is made of it; training gets one of its own."""
    (tmp_path / "counted_models.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "predict", lambda path, inputs: np.zeros_like(inputs))
    plan = parse(
        {
            "data": "synthetic:cells?size=16&train=4&test=2",
            "model": {"factory": "counted_models:make"},
            "variants": {
                "dense": {"train": {"epochs": 0}},
                "thin": {"from": "dense", "prune": {"amount": 0.5, "epochs": 0}},
                "again": {"from": "dense", "train": {"epochs": 1}},
            },
            "precisions": ["fp32"],
        }
    )
    bridge = _Bridge()
    job = Job(plan, tmp_path / "run", bridge, Steps(tmp_path / "run"), SILENT)  # type: ignore[arg-type]
    for name in ("dense", "thin"):
        job.make(name, plan.variants[name])
        job.export(name)
        job.check(name)
    import counted_models  # type: ignore[import-not-job]

    dense, thin = job.load(job.made["dense"].path), job.load(job.made["thin"].path)
    assert [model is one for model, one in zip(bridge.seen, (dense, dense, thin, thin), strict=True)] == [True] * 4
    assert len(counted_models.built) == 3  # the new model, and one for each of the two checkpoints
    before = {key: value.clone() for key, value in dense.state_dict().items()}
    job.make("again", plan.variants["again"])
    assert all(value.equal(before[key]) for key, value in dense.state_dict().items())
    assert not job.load(job.made["again"].path).state_dict()["0.weight"].equal(before["0.weight"])


class _Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_another_room_in_the_weights_is_another_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained and calibrated int8 is made again, and what it costs is said."""
    seen: list[tuple[str, bool]] = []

    def ptq(model: nn.Module, *_: Any, portable: bool, **__: Any) -> nn.Module:
        seen.append(("ptq", portable))
        return model

    def qat(model: nn.Module, *_: Any, portable: bool, **__: Any) -> tuple[nn.Module, History]:
        seen.append(("qat", portable))
        return model, History()

    monkeypatch.setattr(stages, "ptq", ptq)
    monkeypatch.setitem(build._STAGES, "qat", ("train", qat))
    content = {
        "data": "synthetic:cells?size=16&train=4&test=2",
        "model": {"arguments": {"widths": [4, 8]}},
        "variants": {"dense": {"train": {"epochs": 0}}, "int8": {"from": "dense", "qat": {}}},
        "precisions": ["int8"],
    }
    progress = _Notes()
    for portable in (True, True, False):
        plan = parse(content | {"portable": portable})
        job = Job(plan, tmp_path, _Bridge(), Steps(tmp_path), progress)  # type: ignore[arg-type]
        job.make("dense", plan.variants["dense"])
        job.export("dense")
        job.make("int8", plan.variants["int8"])
    assert seen == [("ptq", True), ("qat", True), ("ptq", False), ("qat", False)]
    said = [text for text in progress.notes if "signal to noise" in text]
    assert [text.partition(":")[0] for text in said] == ["dense", "int8"] * 2
    assert [" with room " in text for text in said] == [True, True, False, False]


class _Travelled(_Bridge):
    """Its int8 file is right, or fails, on another processor."""

    def __init__(self, there: dict[str, Any] | ConversionError) -> None:
        super().__init__()
        self.there, self.asked = there, list[tuple[str, str, int]]()

    def export(self, source: Source, folder: Path, *_: Any) -> list[Artefact]:
        files = super().export(source, folder)
        return files + [replace(each, precision="int8", path=shutil.copy(each.path, folder / "8.safetensors"))
                        for each in files]  # fmt: skip

    def compare_on(self, artefact: Artefact, source: Source, sample: Any, processor: str) -> dict[str, Any]:
        self.asked.append((artefact.name, processor, len(sample)))
        if isinstance(self.there, ConversionError):
            raise self.there
        return self.there


RIGHT = {**UNCOMPARED, "max_abs": 0.25}


@pytest.mark.parametrize(
    ("there", "reason"),
    [
        (RIGHT, ""),
        (RIGHT | {"passed": False, "reason": "5 % off"}, "computes something else on x86-avx2: 5 % off"),
        (ConversionError("m does not run"), "on x86-avx2: m does not run"),
    ],
)
def test_int8_files_on_other_processors(
    there: Any, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One test input each; what is wrong there is not ok, and what was right says so in its row and beside the file."""
    monkeypatch.setattr(bench, "predict", lambda path, inputs: np.zeros_like(inputs))
    monkeypatch.setattr(elsewhere, "launcher", lambda kind: [])
    monkeypatch.setattr("torchshrink.pipeline.job.LOSS_LIMIT", 1.0)
    plan = parse(
        {
            "data": "synthetic:cells?size=16&train=4&test=2",
            "model": {"arguments": {"widths": [4, 8]}},
            "variants": {"dense": {"train": {"epochs": 0}}},
            "precisions": ["fp32"],
            "processors": ["here", "x86-avx2"],
        }
    )
    bridge = _Travelled(there)
    job = Job(plan, tmp_path, bridge, Steps(tmp_path), SILENT)  # type: ignore[arg-type]
    monkeypatch.setattr(job, "_activations", lambda *_: [])
    job.make("dense", plan.variants["dense"])
    job.export("dense")
    job.check("dense")
    here = {"passed": True, "max_abs": 0.0}
    rows = {row["name"]: row for row in job.made["dense"].checked}
    assert bridge.asked == [("dense/onnx-int8", "x86-avx2", 1)]
    assert rows["dense/onnx-fp32"]["processors"] == {"here": here}
    if reason:
        (failed,) = job.made["dense"].failed
        assert (failed["name"], failed["reason"]) == ("dense/onnx-int8", reason)
        assert not (tmp_path / "files" / "8.safetensors").exists()
    else:
        expected = {"here": here, "x86-avx2": {"passed": True, "max_abs": 0.25}}
        beside = json.loads((tmp_path / "files" / "8.safetensors.json").read_text())
        assert rows["dense/onnx-int8"]["processors"] == beside["processors"] == expected
        assert beside["instructions"] == list(processors.instructions())


def test_a_missing_emulator_is_said_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: None)
    plan = parse({"data": "no such folder", "processors": ["x86-sse4"]})
    with pytest.raises(MissingExtraError, match="x86-sse4 needs the emulator qemu-x86_64: install qemu-user"):
        run(plan, tmp_path / "out", _Bridge())  # type: ignore[arg-type]


def test_figures_that_are_no_numbers_decide_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that has none is refused before its files are made; a file that has none fails."""
    monkeypatch.setattr(bench, "predict", lambda path, inputs: inputs)
    plan = parse({"data": "synthetic:cells?size=16&train=4&test=2", "model": {"arguments": {"widths": [4, 8]}},
                  "variants": {"dense": {"train": {"epochs": 0}}}, "precisions": ["fp32"]})  # fmt: skip
    odd = Metric(lambda output, truth: math.nan, higher_is_better=True)
    task = replace(make_task(plan), metrics={"odd": odd}, decides="odd")
    with pytest.raises(ModelError, match=r"^dense failed: the test odd is nan, with which nothing compares"):
        run(plan, tmp_path / "run", _Bridge(), task=task)  # type: ignore[arg-type]
    assert not (tmp_path / "run" / "files").exists()
    job = Job(plan, tmp_path / "job", _Bridge(), Steps(tmp_path / "job"), SILENT, task)  # type: ignore[arg-type]
    job.make("dense", plan.variants["dense"])
    job.export("dense")
    job.check("dense")
    assert (job.rows, [item["reason"] for item in job.made["dense"].failed]) == ([], ["the test odd is nan"])


def test_the_row_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "files" / "dense-int8.onnx"
    path.parent.mkdir()
    path.write_bytes(bytes(1000))
    artefact = Artefact("dense", "onnx", "int8", path, islands=("Sin x",), matched=0.5)
    made = Made(tmp_path / "dense.safetensors", "stamp", 123, keep_float=["head"])
    weights = [np.array([0, 1, 2, 0], np.int8), np.array([[1.5, 0.0]], np.float32)]
    row = file_row(artefact, made, tmp_path, weights, Scores(0.25, {"dice": 0.5, "iou": 0.75}), {"passed": True})
    assert (row["name"], row["path"], row["bytes"]) == ("dense/onnx-int8", "files/dense-int8.onnx", 1000)
    assert (row["params"], row["nonzero"], row["macs"]) == (6, 3, 123)
    assert math.isclose(row["sparsity"], 0.5)
    assert (row["loss"], row["metrics"]) == (0.25, {"dice": 0.5, "iou": 0.75})
    assert (row["islands"], row["matched_ranges"], row["keep_float"]) == (["Sin x"], 0.5, ["head"])
    in_float = file_row(
        Artefact("dense", "onnx", "fp32", path), made, tmp_path, [], Scores(0.25, {"dice": 0.5, "iou": 0.75}), {}
    )
    assert (in_float["keep_float"], in_float["sparsity"]) == ([], 1)
    parity = {"passed": False, "reason": "too far"}
    assert failed_file(artefact, tmp_path, parity) == {
        "name": "dense/onnx-int8", "path": "files/dense-int8.onnx", "bytes": 1000, "reason": "too far",
        "parity": parity,
    }  # fmt: skip


def test_a_test_part_in_pieces_gives_the_report_of_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory for one sample at a time: losses, parity and what is kept for the report are those of all at once."""
    monkeypatch.setattr(bench, "measure_all", lambda *_, **__: {})
    monkeypatch.setattr(bench, "predict", lambda path, inputs: 1 / (1 + np.exp(-inputs)))
    plan = parse({"data": "synthetic:cells?size=16&train=4&test=7", "model": {"arguments": {"widths": [4, 8]}},
                  "variants": {"dense": {"train": {"epochs": 0}}}, "precisions": ["fp32"]})  # fmt: skip
    checked, kept = {}, {}
    for size in (test_part.PIECE_BYTES, 1):
        monkeypatch.setattr(test_part, "PIECE_BYTES", size)
        out = tmp_path / str(size)
        bridge = _Pieces()
        job = Job(plan, out, bridge, Steps(out), SILENT)  # type: ignore[arg-type]
        job.make("dense", plan.variants["dense"])
        job.export("dense")
        job.check("dense")
        (checked[size],) = job.made["dense"].checked
        assert len(bridge.lengths) == (1 if size > 1 else 7)
        kept[size] = [*job.test.first(), np.asarray(samples.outputs(out, "dense/onnx-fp32"))]
    whole, pieces = checked.values()
    assert pieces["loss"] == pytest.approx(whole["loss"], rel=1e-6)
    assert pieces["metrics"] == pytest.approx(whole["metrics"], rel=1e-6)
    assert pieces["parity"] == pytest.approx(whole["parity"])
    for one, other in zip(*kept.values(), strict=True):
        assert np.array_equal(one[:4], other[:4])


class _Pieces(_Bridge):
    """Compares what it is given: the mean over pieces is that over all."""

    def __init__(self) -> None:
        super().__init__()
        self.lengths: list[int] = []

    def compare(self, *given: Any) -> dict[str, Any]:
        *_, found, expected, inputs = given
        self.lengths.append(len(inputs))
        apart = np.abs(found - expected)
        return {**UNCOMPARED, "reason": "", "max_abs": float(apart.max()), "mean_abs": float(apart.mean())}


def test_the_first_piece_that_fails_says_why() -> None:
    """And a file that fails is not scored: its outputs may have another shape."""
    sound = {"max_abs": 0.25, "mean_abs": 0.125, "lsb_match": 1.0, "passed": True, "reason": "", "noise_db": None}
    wrong = {"max_abs": 2.0, "mean_abs": 1.0, "lsb_match": 0.5, "passed": False, "reason": "far", "noise_db": 20.0}
    assert test_part.merged(sound, wrong, 0.25) == {**wrong, "mean_abs": 0.34375, "lsb_match": 0.875}
    assert test_part.merged(wrong, sound, 0.25)["reason"] == "far"
