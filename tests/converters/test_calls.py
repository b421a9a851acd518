"""The whole job in one call, and what its result says."""

import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import torchshrink as ts
from torchshrink.cli.run import run as command
from torchshrink.converters import calls
from torchshrink.errors import DataError, ModelError, RecipeError
from torchshrink.report import document
from torchshrink.report.result import Result
from torchshrink.task import Task

OLD = Path(__file__).parents[1] / "written_by_0_1_0" / "run"


def squared(output: Tensor, truth: Tensor) -> Tensor:
    return (output - truth.float()).square().mean()


@pytest.mark.slow
def test_shrink_from_a_model_to_its_best_file(tmp_path: Path, tiny_task: Task, small_net: nn.Module) -> None:
    before = {name: value.clone() for name, value in small_net.state_dict().items()}
    found = ts.shrink(
        small_net,
        train=tiny_task.train,
        test=tiny_task.test,
        loss=squared,
        budget="50%",
        out=tmp_path / "out",
        variants={"dense": {"train": {"epochs": 0}}},
        formats=["onnx"],
        precisions=["fp32", "fp16"],
        measure={"runs": 5},
    )
    assert {row["name"] for row in found["rows"]} == {"dense/torch-fp32", "dense/onnx-fp32", "dense/onnx-fp16"}
    assert found == json.loads((tmp_path / "out" / "report.json").read_text())
    assert (tmp_path / "out" / "report.html").is_file()
    # The loss is worked out by hand, from the model that was given: it was neither changed nor trained.
    inputs, truth = (torch.stack(part) for part in zip(*tiny_task.test, strict=True))  # type: ignore[call-overload]
    rows = {row["name"]: row for row in found["rows"]}
    assert rows["dense/onnx-fp32"]["loss"] == pytest.approx(squared(small_net(inputs), truth).item(), rel=1e-4)
    torch.testing.assert_close(small_net.state_dict(), before, rtol=0, atol=0)
    assert found.best is not None
    assert found.best["name"] == min(rows.values(), key=lambda row: row["bytes"])["name"]
    assert found.path("dense/onnx-fp16").is_file()
    assert "data" not in ts.checkpoint.describe(tmp_path / "out" / "models" / "dense.safetensors")


INPUTS, NUMBERS = torch.zeros(4, 1, 8), torch.arange(4)


def test_data_as_tensors() -> None:
    samples = calls._samples("train", (INPUTS, NUMBERS.numpy()))
    assert len(samples) == 4
    assert int(samples[3][1]) == 3
    with pytest.raises(DataError, match="test has 4 inputs but 3 truths"):
        calls._samples("test", (INPUTS, NUMBERS[:3]))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a run is asked to do; the report is an old one."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(calls, "run_recipe", lambda recipe, out, bridge, **how: found.update(how, recipe=recipe))
    monkeypatch.setattr(document, "load", lambda _, load=document.load: load(OLD))
    return found


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ((INPUTS, NUMBERS), "classification"),
        ((INPUTS, NUMBERS[:, None]), "classification"),
        ((INPUTS, NUMBERS.float()), "regression"),
        ((INPUTS, torch.zeros(4, 2)), "regression"),
        ((INPUTS, torch.zeros(4, 8, dtype=torch.int8)), "multiclass"),
        ((INPUTS, torch.zeros(4, 8, dtype=torch.bool)), "segmentation"),
        (INPUTS, "unlabelled"),
        ([(INPUTS[0], 2.5)] * 4, "regression"),
        (DataLoader(TensorDataset(INPUTS, NUMBERS), batch_size=2), "classification"),
    ],
)
def test_shrink_takes_what_people_have(asked: dict[str, Any], data: Any, kind: str) -> None:
    ts.shrink(nn.DataParallel(nn.Linear(8, 4)), data, data, out="unused")
    task = asked["task"]
    assert (task.kind, len(task.train), len(task.validation), len(task.test)) == (kind, 3, 1, 4)
    assert type(asked["factory"]()) is nn.Linear  # out of its wrapping


def test_shrink_by_imitation_and_with_names_of_metrics(asked: dict[str, Any]) -> None:
    ts.shrink(nn.Linear(8, 4), (INPUTS, NUMBERS), (INPUTS, NUMBERS), loss="teacher", metrics=["f1", "accuracy"])
    assert asked["recipe"].loss.name == "teacher"
    assert (list(asked["task"].metrics), asked["task"].decides) == (["f1", "accuracy"], "f1")


@pytest.mark.parametrize("loss", ["dice", nn.MSELoss(), squared, "torch.nn:MSELoss"])
def test_losses(loss: Any) -> None:
    found = calls._loss(loss)["loss"]
    assert callable(found)
    assert float(found(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2))) <= 1


def test_what_shrink_refuses(tiny_task: Task, small_net: nn.Module) -> None:
    with pytest.raises(RecipeError, match=r"shrink: varients: unknown key"):
        ts.shrink(small_net, tiny_task.train, tiny_task.test, varients={})
    with pytest.raises(RecipeError, match=r"loss 3: expected"):
        ts.shrink(small_net, tiny_task.train, tiny_task.test, loss=3)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"train is a str: give a dataset"):
        ts.shrink(small_net, "folder", "folder")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"setting 1 of 1 training samples aside leaves none"):
        ts.shrink(small_net, (INPUTS[:1], NUMBERS[:1]), (INPUTS, NUMBERS))
    with pytest.raises(ModelError, match=r"shrink: the model returned a Identity without parameters"):
        ts.shrink(nn.Identity(), (INPUTS, NUMBERS), (INPUTS, NUMBERS))


def test_run_takes_what_the_command_takes() -> None:
    """Names, and what stands for what is not said."""
    theirs = inspect.signature(command).parameters
    ours = inspect.signature(ts.run).parameters
    assert set(ours) - {"progress"} <= set(theirs)
    assert all(ours[name].default == theirs[name].default for name in ours if name != "progress")


def test_run_gives_what_the_command_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def stand_in(recipe: Any, out: Path, bridge: Any, **how: Any) -> None:
        asked.update(how, recipe=recipe, out=out)
        shutil.copytree(OLD, out)

    monkeypatch.setattr(calls, "run_recipe", stand_in)
    monkeypatch.chdir(tmp_path)
    found = ts.run({"variants": {"dense": {"train": {}}}}, data="synthetic:pulses", resume=False)
    assert found == document.load(OLD)
    assert found.folder == asked["out"] == Path("runs/synthetic-pulses")
    assert (asked["recipe"].data, asked["is_fresh"]) == ("synthetic:pulses", True)
    (tmp_path / "mine.yaml").write_text("data: synthetic:pulses\nmodel: {factory: 'os:getcwd'}\n")
    with pytest.raises(RecipeError, match=r"mine\.yaml would import and call model os:getcwd"):
        ts.run("mine.yaml")
    ts.run("mine.yaml", trust=True)
    assert asked["out"] == Path("runs/mine")


@pytest.fixture(scope="module")
def result() -> Result:
    return Result(document.load(OLD), OLD, "1%")


def test_the_smallest_file_within_the_budget(result: Result) -> None:
    """Against the rows themselves, for several budgets."""
    exported = [row for row in result["rows"] if row["format"] != "torch"]
    dense = next(row["loss"] for row in result["rows"] if row["format"] == "torch")
    for budget, limit in (("100%", 2 * dense), (0.001, dense + 0.001), ("0%", dense)):
        within = [row for row in exported if row["loss"] <= limit]
        best = Result(document.load(OLD), OLD, budget).best
        assert best == min(within, key=lambda row: row["bytes"], default=None)


def test_a_metric_may_decide(result: Result) -> None:
    report = document.load(OLD)
    task: Any = report["task"]
    task |= {"decides": "dice", "metrics": {"dice": {"higher_is_better": True}}}
    dense = next(row["metrics"]["dice"] for row in report["rows"] if row["format"] == "torch")
    exported = [row for row in report["rows"] if row["format"] != "torch"]
    within = [row for row in exported if row["metrics"]["dice"] >= 0.5 * dense]
    assert Result(report, OLD, "50%").best == min(within, key=lambda row: row["bytes"], default=None)


def test_how_a_result_shows_itself(result: Result) -> None:
    text, page = repr(result), result._repr_html_()
    for row in result["rows"]:
        assert row["name"] in text
        assert f"<td>{row['name']}</td>" in page
    assert f"report: {OLD / 'report.html'}" in text
    assert page.count("<tr>") == len(result["rows"]) + 1
    report = document.load(OLD)
    report["rows"][0]["name"] = "<script>"
    assert "<script>" not in Result(report, OLD)._repr_html_()


def test_files_of_a_result(result: Result) -> None:
    row = result["rows"][-1]
    assert result.path(row["name"]) == OLD / row["path"]
    with pytest.raises(KeyError, match=f"no file 'x' in this run, which has .*{row['name']}"):
        result.path("x")
