"""The step `student` of a recipe: read, made, and what comes after it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from torchshrink import checkpoint
from torchshrink.errors import ModelError, RecipeError
from torchshrink.model.student import Student
from torchshrink.pipeline import recipe
from torchshrink.pipeline.build import teacher_of
from torchshrink.pipeline.job import Job
from torchshrink.pipeline.layers import check_layers, names_layers
from torchshrink.pipeline.steps import Steps
from torchshrink.pipeline.teaching import kept_float, student_of
from torchshrink.pipeline.trust import references
from torchshrink.progress import SILENT

MODULE = """
from torch import nn
def net(width):
    return nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 1, 1), nn.Sigmoid())
"""


def made(student: dict[str, Any], after: dict[str, Any] | None = None, **content: Any) -> recipe.Recipe:
    variants = {"dense": {"train": {"epochs": 1}}, "small": {"from": "dense", "student": {"epochs": 1, **student}}}
    variants |= {"last": {"from": "small", **after}} if after else {}
    plain = {"data": "synthetic:cells?size=16&train=4&test=2", "model": {"arguments": {"widths": [4, 8]}}}
    return recipe.parse({**plain, "variants": variants, **content})


def job(plan: recipe.Recipe, folder: Path) -> Job:
    found = Job(plan, folder, None, Steps(folder), SILENT)  # type: ignore[arg-type]
    for name, variant in plan.variants.items():
        found.make(name, variant)
    return found


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ({"widths": [4, 8], "depth": 2}, "variants.small.student.depth: unknown key"),
        ({"factory": "mine:net", "widths": [4]}, "variants.small.student: a factory makes the whole network"),
        ({"arguments": {"width": 4}}, "variants.small.student: arguments are those of a factory"),
        ({"convolution": "ghost", "widths": [3, 4]}, "ghost convolutions need even ones"),
        ({"convolution": "deep"}, "variants.small.student.convolution: .*'full', 'separable' or 'ghost'"),
        ({"distillation": 2}, "variants.small.student.distillation"),
        ({"widths": []}, "variants.small.student.widths"),
        ({"kernel_size": 4}, "variants.small.student.kernel_size: 4 is even"),
    ],
)
def test_what_makes_no_student_is_refused(student: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        made(student)


def test_a_student_needs_a_teacher() -> None:
    with pytest.raises(RecipeError, match="'student' needs a 'from'"):
        recipe.parse({"variants": {"small": {"student": {}}}})


def test_a_student_is_made_and_taken_further(tmp_path: Path) -> None:
    plan = made({"widths": [4, 6], "convolution": "ghost", "merge": "add", "stem": "stride", "features": 0.1},
                {"prune": {"amount": 0.5, "epochs": 1}}, distillation=0.3)  # fmt: skip
    assert recipe.parse(json.loads(json.dumps(recipe.dump(plan)))) == plan
    assert [teacher_of(plan, name) for name in plan.variants] == [None, "dense", "dense"]
    found = job(plan, tmp_path)
    small = found.load(found.made["small"].path)
    assert isinstance(small, Student)
    assert found.made["small"].architecture == "student: ghost 4-6, add, transpose, stride stem, kernel 3"
    assert [found.made[name].architecture for name in ("dense", "last")] == ["UNet", found.made["small"].architecture]
    pruned = checkpoint.load(found.made["last"].path)  # without anybody saying how it is built
    assert isinstance(pruned, Student)
    assert pruned.config == small.config
    zeros = sum(int((value == 0).sum()) for value in pruned.parameters() if value.dim() > 1)
    assert zeros >= 0.4 * sum(value.numel() for value in pruned.parameters() if value.dim() > 1)
    assert found.made["small"].macs < found.made["dense"].macs


def test_an_own_factory_is_called_with_its_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_students.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    plan = made({"factory": "own_students:net", "arguments": {"width": 5}}, {"channels": {"amount": 0.4, "epochs": 1}})
    found = job(plan, tmp_path / "run")
    model: Any = found.load(found.made["last"].path)
    assert (type(model).__name__, model[0].out_channels) == ("Sequential", 3)
    assert references(plan) == {"student small": "own_students:net"}


def test_a_factory_that_does_not_fit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd_students.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=r"student 'odd_students:net' does not take \{'depth': 5\}"):
        job(made({"factory": "odd_students:net", "arguments": {"depth": 5}}), tmp_path / "run")


def test_a_shape_that_does_not_fit_the_data_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="divide by 32"):
        job(made({"widths": [4] * 5, "stem": "stride"}), tmp_path)


def test_layers_that_are_named_are_those_of_each_model() -> None:
    plan = made({"widths": [4, 4]}, {"prune": {"ignore": ["encoder.0.1.0"]}}, keep_float=["head", "encoder.0.3"])
    model = torch.nn.Module()
    assert names_layers(plan)
    assert student_of(plan, "dense") is None
    assert student_of(plan, "last") is plan.variants["small"].student
    from torchshrink.model.unet import UNet

    check_layers(plan, UNet(widths=(4, 8)))  # which has no encoder.0.1.0, but the others
    assert kept_float(plan, "dense", model) == ("head", "encoder.0.3")
    assert kept_float(plan, "last", Student(widths=(4, 4))) == ("head",)


def test_code_that_only_a_search_names_is_code_too() -> None:
    plan = recipe.parse({"search": {"space": {"student": {"factory": "os:system"}}}})
    assert references(plan) == {"student": "os:system"}
