"""The first table of docs/results.md, from reports that nothing had to be trained for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from script import load

script = load("results")
DENSE = {
    "task": "ecg",
    "way": "dense",
    "file": "tflite-fp32",
    "kB": 2000.0,
    "smaller": 1.0,
    "faster": 1.0,
    "loss": 0.15,
    "against": 0.0,
    "seeds": 1,
    "processor": "a processor, no VNNI",
}


@pytest.fixture(autouse=True)
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "LINES", tmp_path / "results.jsonl")
    script.LINES.write_text(json.dumps(DENSE) + "\n")


def report(loss: float, size: int) -> dict[str, Any]:
    step = {"widths": [8, 16], "epochs": 40}
    rows = [{"precision": "fp32", "loss": 0.9}, {"precision": "int8", "loss": loss, "bytes": size}]
    return {
        "rows": rows,
        "recipe": {"variants": {"student": {"student": step}}},
        "environment": {"processor": "a processor", "int8_dot_products": False},
    }


def test_students_of_several_seeds_are_one_line_with_spread_and_worst() -> None:
    reports = [report(0.14, 19_000), report(0.16, 20_000), report(0.15, 19_500)]
    times = {"rows": [{"cpu_ms": 15.0}, {"cpu_ms": 0.6}]}
    (line,) = script.of_students("ecg", reports, times)
    assert script.row({"task": "ecg", **line}) == (
        "| ecg | student: 8-16, 40 epochs | tflite-int8 | no | 20.0 | 100.0x | 25.0x | 0.1500 | +0.0000 | 3 | "
        "0.0100 | +0.0100 |"
    )
    assert line["processor"] == DENSE["processor"]
    (line,) = script.of_students("ecg", reports[:1], times)
    assert script.row({"task": "ecg", **line}).endswith("| 0.1400 | -0.0100 | 1 |  |  |")


def found(dense: float, small: float) -> dict[str, Any]:
    """Return the report of what a search recommends, trained beside its dense model."""
    kinds = [("int8", "int8", small, 20_000, 0.5), ("dense", "fp32", dense, 2_000_000, 10.0)]
    kinds.append(("dense", "int8", 0.9, 500_000, 4.0))
    rows = [
        {"variant": variant, "precision": precision, "format": "tflite", "name": f"{variant}/tflite-{precision}",
         "loss": loss, "bytes": size, "latency_ms": {"median": ms}}
        for variant, precision, loss, size, ms in kinds
    ]  # fmt: skip
    return {**report(0.0, 0), "rows": rows}


def test_what_a_search_recommends_is_held_against_the_dense_model_of_its_seed() -> None:
    line = script.of_search([found(0.15, 0.14), found(0.17, 0.18)])
    assert script.row({"task": "ecg", **line}) == (
        "| ecg | searched: 8-16 | tflite-int8 | no | 20.0 | 100.0x | 20.0x | 0.1600 | +0.0000 | 2 | 0.0141 | +0.0100 |"
    )
    pruned = {**found(0.15, 0.14), "recipe": {"variants": {"slim": {"channels": {}}}}}
    assert script.of_search([pruned])["way"] == "searched: pruned"
    dense = script.of_run(found(0.15, 0.14), "dense")
    assert [(each["way"], each["file"], each["smaller"]) for each in dense] == [
        ("dense", "tflite-fp32", 1.0),
        ("dense", "tflite-int8", 4.0),
    ]


def test_the_harder_task_is_images_with_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchshrink import open_task

    harder = load("harder_cells")
    monkeypatch.setattr(harder, "COUNTS", {"train": 3, "test": 2})
    harder.main(tmp_path)
    task = open_task(str(tmp_path))
    assert len(task.test) == 2
    image, mask = task.test[0]
    assert image.shape == mask.shape == (1, harder.SIZE, harder.SIZE)
    assert 0.02 < float(mask.float().mean()) < 0.5


def test_a_line_takes_the_place_of_the_one_that_says_the_same_of_its_task() -> None:
    script.keep("ecg", [{key: value for key, value in {**DENSE, "loss": 0.2}.items() if key != "task"}])
    script.keep("nuclei", [{**DENSE, "task": "nuclei"}])
    assert [(line["task"], line["loss"]) for line in script.lines()] == [("ecg", 0.2), ("nuclei", 0.15)]
    assert script.row(DENSE).endswith("| +0.0000 | 1 |  |  |")


def test_a_line_of_another_processor_is_another_line() -> None:
    script.keep("ecg", [{**DENSE, "processor": "a processor, VNNI"}])
    assert [script.row(line).split(" | ")[3] for line in script.lines()] == ["no", "yes"]


@pytest.mark.parametrize("task", script.STUDENTS)
def test_what_differs_between_tasks_is_said_of_keys_that_the_recipe_has(task: str) -> None:
    from torchshrink.pipeline import recipe
    from torchshrink.pipeline.overrides import overridden

    settings = [f"variants.student.student.{key}={value}" for key, value in script.STUDENTS[task].items()]
    found = overridden(recipe.load(script.RECIPE), settings).variants["student"].student
    assert found is not None
    assert list(found.widths or ()) == script.STUDENTS[task]["widths"]


def test_a_report_is_read_with_the_recipe_that_lies_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script.document, "load", lambda _folder: {"rows": []})
    (tmp_path / "recipe.json").write_text('{"variants": {}}')
    assert script.reported(tmp_path) == {"rows": [], "recipe": {"variants": {}}}
