"""What the script does with made-up rows and processes; no library is installed, nothing converted."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from script import load

from torchshrink.errors import ConversionError, ModelError

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "scripts" / "model_parts"), str(ROOT / "scripts" / "scaling_parts")]

import others_models  # noqa: E402
import others_page  # noqa: E402
import others_work  # noqa: E402

script = load("model_zoo")


def row(name: str, formats: dict[str, Any], tried: tuple[str, ...] = ("onnx", "tflite"), **more: Any) -> dict[str, Any]:
    return {"name": name, "tried": list(tried), "formats": formats, "seconds": {}, "peak_mb": 900.0} | more


def right(**more: Any) -> dict[str, Any]:
    return {"outcome": "verified", "reason": ""} | more


def test_the_page_counts_by_format_and_names_what_holds_a_model_back() -> None:
    refused = {"outcome": "refused", "reason": "ConversionError: onnx2tf cannot"}
    rows = [
        row("tv_vit", {"onnx-int8": right(db=21.27, islands=3), "tflite-fp32": refused, "tflite-int8": refused},
            channels={"outcome": "works", "macs_left": 0.6}, onnx_ms=[2.0, 3.0], seconds={"onnx": 90, "tflite": 40}),
        row("signal_m5", {"onnx-int8": right(db=30.0, islands=0), "tflite-int8": right(islands=0)},
            tflite_ms=[1.0, 1.5], peak_mb=4500.0, channels={"outcome": "refused", "reason": "ModelError: no"}),
        row("hf_bert", {"onnx-int8": right(db=30.0, islands=0)}, ("onnx",), error="took more than 6 MB of memory"),
    ]  # fmt: skip
    page = others_page.write(rows)
    assert "| onnx-int8 | 3 | 0 | 0 | 0 | 3 | not all tried |" in page
    assert "| tflite-int8 | 1 | 1 | 0 | 0 | 2 | not all tried |" in page
    assert "**2 of 82 models were tried in every format, 1 in ONNX only.**" in page
    assert "| tv_vit\\* |" in page or "| tv_vit* |" in page
    assert "| 21.3 | 1.50 | 3 |" in page
    assert "- tv_vit, tflite-fp32, tflite-int8: refused: ConversionError: onnx2tf cannot" in page
    assert "- signal_m5, channels: refused: ModelError: no" in page
    assert "- hf_bert: took more than 6 MB of memory" in page
    assert "Channels: 1 of 2 models lose some." in page
    assert "Slower in int8 without a word, TFLite (1): signal_m5." in page
    assert "Slower in int8, ONNX (1): tv_vit." in page
    assert "Over 120 s of processor time (1): tv_vit." in page
    assert "Over 4000 MB (1): signal_m5." in page
    assert "Tried in ONNX only (1): hf_bert." in page
    assert "tv_swin" in page.partition("Not tried yet")[2]


def test_a_target_is_met_when_all_models_were_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"signal_{number}" for number in range(20)]
    monkeypatch.setattr(others_models, "MODELS", dict.fromkeys(names, others_models.MODELS["signal_m5"]))
    rows = [row(name, {"onnx-int8": right(), "tflite-int8": right()}) for name in names]
    for each in rows[:2]:
        each["formats"]["tflite-int8"] = {"outcome": "wrong", "reason": "far"}
    page = others_page.write(rows)
    assert "| onnx-int8 | 20 | 0 | 0 | 0 | 20 | met |" in page
    assert "| tflite-int8 | 18 | 0 | 2 | 0 | 20 | 95% missed |" in page
    rows[0]["formats"]["tflite-int8"] = right()
    assert "| tflite-int8 | 19 | 0 | 1 | 0 | 20 | met |" in others_page.write(rows)


def test_trained_weights_have_a_table_of_their_own() -> None:
    real = [
        {"name": "a net", "plain": 12.04, "ladder": 30.5, "steps": ["calibrated: 12.0 dB"], "seconds": 7,
         "plain_same": 0.5, "ladder_same": 1.0, "float_right": 0.9, "plain_right": 0.4, "ladder_right": 0.8},
        {"name": "a net of before", "plain": 12.04, "ladder": 30.5, "steps": [], "seconds": 7},
        {"name": "a file", "file": "a.onnx", "onnx": 21.0, "tflite": "ModelError: no", "seconds": 9,
         "onnx_same": 0.75, "float_right": 1.0, "onnx_right": 0.5},
    ]  # fmt: skip
    page = others_page.write([], real)
    assert "| a net | 12.0 | 30.5 | 50%, 100% | 90%, 40%, 80% | calibrated: 12.0 dB | 7 |" in page
    assert "| a net of before | 12.0 | 30.5 |  |  |  | 7 |" in page
    assert "| a file | 21.0 dB | refused: ModelError: no | 75% | 100%, 50% | 9 |" in page
    assert "Trained weights" not in others_page.write([])


def test_a_slower_file_that_says_so_is_no_shortfall() -> None:
    said = row("signal_m5", {"tflite-int8": right(said="int8 needs 1.5x the time")}, tflite_ms=[1.0, 1.5])
    assert "without a word" not in others_page.write([said])


def test_runtimes_tried_apart_make_one_row_and_a_later_line_counts(tmp_path: Path) -> None:
    lines = [
        row("signal_m5", {"onnx-int8": {"outcome": "wrong", "reason": "far"}}, ("onnx",), error="late"),
        row("signal_m5", {"tflite-int8": right()}, ("tflite",), peak_mb=1200.0),
        row("signal_m5", {"onnx-int8": right()}, ("onnx",)),
        row("a model of before", {}),
    ]
    kept = tmp_path / "models.jsonl"
    kept.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    ((name, found),) = script.read(kept).items()
    assert name == "signal_m5"
    assert found["formats"] == {"onnx-int8": right(), "tflite-int8": right()}
    assert found["tried"] == ["onnx", "tflite"]
    assert found["peak_mb"] == 1200.0
    assert "error" not in found
    assert script.has_all(found, ["onnx", "tflite"])
    assert not script.has_all(lines[0], ["onnx", "tflite"])
    assert not script.has_all(None, ["onnx"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python 3.12 warns of threads when a process is forked
def test_a_process_that_takes_too_much_is_ended_and_leaves_what_it_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def forever(name: str, folder: Path, out: Path, runtimes: list[str]) -> None:
        out.write_text(json.dumps(row(name, {"onnx-fp32": right(reason=str(folder))}, tuple(runtimes))))
        while True:
            time.sleep(0)

    monkeypatch.setattr(script.others_work, "put_through", forever)
    monkeypatch.setattr(sys, "argv", ["model_zoo", "--seconds", "0.3", "--runtimes", "onnx"])
    found = script.put_through("signal_m5", script.parse())
    assert found["error"] == "not done after 0.3 s of processor time"
    assert found["formats"] == {"onnx-fp32": right(reason="WORK")}
    assert found["peak_mb"] > 10
    monkeypatch.setattr(sys, "argv", ["model_zoo", "--megabytes", "1"])
    assert script.put_through("signal_m5", script.parse())["error"] == "took more than 1 MB of memory"


def test_what_refuses_and_what_crashes_are_told_apart() -> None:
    def raising(error: Exception) -> Any:
        raise error

    refused = others_work.attempt(lambda: raising(ModelError("no\n such layer")))
    assert refused == {"outcome": "refused", "reason": "ModelError: no such layer"}
    assert others_work.attempt(lambda: raising(KeyError("val_0")))["outcome"] == "crashed"
    assert others_work.attempt(lambda: Path("made")) == {}


def test_there_are_sixty_models_and_more_of_every_library() -> None:
    families = {name.partition("_")[0] for name in others_models.MODELS}
    assert families == {"signal", "tv", "timm", "smp", "monai", "hf"}
    assert len(others_models.MODELS) >= 60


@pytest.mark.parametrize("name", [name for name in others_models.MODELS if name.startswith("signal_")])
def test_networks_of_signals_compute_on_every_length_of_batch(name: str) -> None:
    entry = others_models.MODELS[name]
    model, inputs = others_work.settled(entry), entry.inputs(3, 0)
    with torch.no_grad():
        found = model(inputs)
        torch.testing.assert_close(found[:1], model(inputs[:1]), rtol=1e-3, atol=1e-5)
    assert not any(module.training for module in model.modules())
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            assert int(module.num_batches_tracked or 0) == others_work.SETTLING


@pytest.mark.parametrize(("first", "settled"), [([0.02, -0.01], [1, 1]), ([0.5, 1.5], [0.5, 1.5]), ([0, 0], [0, 0])])
def test_gains_that_are_drawn_around_zero_are_ones(first: list[float], settled: list[float]) -> None:
    def make() -> torch.nn.Module:
        norm = torch.nn.BatchNorm1d(2)
        norm.weight.data = torch.tensor(first, dtype=torch.float32)
        return torch.nn.Sequential(norm)

    model = others_work.settled(others_models.Entry(make, (2,)))
    assert next(model.parameters()).tolist() == settled


def test_where_two_graphs_fail_together_each_is_tried_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    @contextlib.contextmanager
    def float_files(paths: list[Path]) -> Iterator[list[Any]]:
        if any("int8" in path.name for path in paths):
            raise ConversionError("onnx2tf cannot")
        yield [SimpleNamespace(fp32=path, road="onnx2tf") for path in paths]

    fakes = {"float_files": float_files, "write": lambda files, source, path, *_, **__: path.touch()}
    monkeypatch.setattr(others_work, "tflite", SimpleNamespace(**fakes))
    monkeypatch.setattr(others_work, "save", lambda *_: None)
    monkeypatch.setattr(others_work.qdq, "split", lambda graph: (graph, {}))
    monkeypatch.setattr(others_work.Work, "judged", lambda *_: right())
    work = others_work.Work("signal_m5", tmp_path, tmp_path / "row.json", ["tflite"])
    graphs: Any = {kind: others_work.Graph(torch.nn.Identity(), None) for kind in ("float", "int8")}
    others_work.to_tflite(work, graphs, torch.zeros(2, 1))
    refused = {"outcome": "refused", "reason": "ConversionError: onnx2tf cannot"}
    assert work.row["formats"] == {
        "tflite-fp32": right(road="onnx2tf"),
        "tflite-fp16": right(road="onnx2tf"),
        "tflite-int8": refused,
    }
    assert json.loads((tmp_path / "row.json").read_text()) == work.row
