"""``torchshrink search``: killed, resumed, and what it recommends."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from program import call, launch

from torchshrink.search.halving import dominates

RECIPE = """\
data: synthetic:cells?size=32&train=40&test=8
model: {arguments: {widths: [8, 16]}}
variants:
  dense: {train: {epochs: 4}}
measure: {runs: 5}
search: {epochs: 4, qat_epochs: 1, final_epochs: 6, final_qat_epochs: 2, rungs: 2, space: {channels: [0.2, 0.7]}}
"""
LIMITS = ("--max-loss-increase", "0.5", "--target", "onnxruntime", "--trials", "5")


def finished(folder: Path) -> dict[int, tuple[Any, ...]]:
    """Return the values of every finished trial in a store, read as Optuna reads it."""
    if not (folder / "study.db").is_file():
        return {}
    try:
        study = optuna.load_study(study_name="torchshrink", storage=f"sqlite:///{folder / 'study.db'}")
    except KeyError:
        return {}
    return {trial.number: tuple(trial.values) for trial in study.trials if trial.values}


@pytest.mark.exhaustive
def test_a_killed_search_goes_on_and_its_recipe_repeats_it(tmp_path: Path) -> None:
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "out"
    recipe.write_text(RECIPE)
    arguments = ("search", str(recipe), *LIMITS, "--out", str(out))
    command = [sys.executable, "-P", "-c", "from torchshrink.cli import main; main()", *arguments]
    rng = random.Random(0)
    kept: dict[int, tuple[Any, ...]] = {}
    for _ in range(3):
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if line.startswith("search ..."):
                    break
            time.sleep(rng.uniform(1, 15))
            process.send_signal(signal.SIGKILL)
        now = finished(out)
        assert kept.items() <= now.items()
        kept = now
    result = launch(*arguments, "--json")
    assert result.code == 0, result.stderr
    assert "make:dense: done before" in result.stderr
    found = result.json["search"]
    by_number = {trial["number"]: trial for trial in found["trials"]}
    for number, values in kept.items():
        assert tuple(by_number[number][name] for name in found["objectives"]) == values
    assert {trial["state"] for trial in found["trials"]} <= {"finished", "stopped"}
    assert sum(trial["state"] != "infeasible" for trial in found["trials"]) == 5
    _check_front(found, by_number)
    _check_recommended(result.json, found, by_number[found["recommended"]], out)
    again = launch(*arguments, "--json")
    assert again.code == 0, again.stderr
    assert again.json["search"]["front"] == found["front"]
    other = call("search", str(recipe), "--out", str(out), "--max-size", "9kB", "--target", "onnxruntime")
    assert other.code == 3
    assert "holds another search" in other.stderr
    assert "--fresh" in other.stderr


def _check_front(found: dict[str, Any], by_number: dict[int, Any]) -> None:
    points = {
        number: tuple(trial[name] for name in found["objectives"])
        for number, trial in by_number.items()
        if trial["state"] == "finished" and not trial["violations"]
    }
    assert found["recommended"] in found["front"]
    for number, point in points.items():
        is_beaten = any(dominates(other, point) for other in points.values())
        assert (number in found["front"]) == (not is_beaten)


def _check_recommended(report: dict[str, Any], found: dict[str, Any], trial: dict[str, Any], out: Path) -> None:
    """The recommended model's own run has the search in it, and its recipe gives the same model again."""
    saved = json.loads((out / "recommended" / "report.json").read_text())
    assert saved["search"] == found == report["search"]
    assert (out / "recommended" / "report.html").is_file()
    recipes = {int(path.stem): yaml.safe_load(path.read_text()) for path in (out / "front").iterdir()}
    assert set(recipes) == set(found["front"])
    assert recipes[found["recommended"]] == yaml.safe_load((out / "recommended.yaml").read_text())
    variants = {row["variant"] for row in report["rows"]}
    assert len(variants) == 2
    int8 = next(row for row in report["rows"] if row["precision"] == "int8" and row["variant"] != "dense")
    assert int8["bytes"] == trial["size"]
    repeated = launch("run", str(out / "recommended.yaml"), "--out", str(out.parent / "again"), "--json")
    assert repeated.code == 0, repeated.stderr
    same = next(row for row in repeated.json["rows"] if row["name"] == int8["name"])
    assert (same["loss"], same["bytes"]) == (int8["loss"], int8["bytes"])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--max-size", "12furlongs"), 3, "--max-size 12furlongs: expected a unit"),
        (("--target", "gpu"), 2, "'gpu' is not one of 'litert', 'onnxruntime'"),
        (("--engine", "slurm"), 2, "'slurm' is not one of 'local', 'ray'"),
        (("--artefacts", "s3://bucket"), 2, "are for --engine ray"),
        (("--trials", "0"), 2, "--trials"),
        (("--hours", "0"), 3, "hours=0.0"),
        (("--data", "nowhere"), 3, "nowhere"),
        (("missing.yaml",), 3, "cannot read recipe missing.yaml"),
    ],
)
def test_wrong_input(arguments: tuple[str, ...], code: int, message: str, tmp_path: Path) -> None:
    result = call("search", "--out", str(tmp_path / "out"), *arguments, cwd=tmp_path)
    assert result.code == code
    assert message in result.said
    assert "Traceback" not in result.stderr


def test_a_search_starts_from_a_trained_model(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "variants:\n  dense: {train: {reinitialize: true, epochs: 1}}\nsearch: {space: {lr: [0.1, 0.01]}}"
    )
    result = call("search", recipe, "--out", tmp_path / "out")
    assert result.code == 3
    assert "search.space.lr: the least, 0.1, is more than the greatest, 0.01" in result.stderr
