"""Students among the candidates of a search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

import optuna
import pytest
from pydantic import ValidationError

from torchshrink.model.unet import UNet
from torchshrink.pipeline import recipe
from torchshrink.pipeline.recipe import Recipe, Search
from torchshrink.pipeline.students import Student, Students
from torchshrink.pipeline.teaching import make_student
from torchshrink.search import students
from torchshrink.search.candidates import Plan
from torchshrink.search.estimate import Estimator
from torchshrink.search.space import Resolved, draw, shares
from torchshrink.search.starts import _mixed
from torchshrink.task import Normalization, Task
from torchshrink.training import Settings

DENSE = {"size": 40_000.0, "latency": 1.0, "latency_ms": 2.0, "rss": 60.0, "loss": 0.2, "int8_latency": 0.5}


@pytest.fixture
def taught(space: Resolved) -> Resolved:
    return space.model_copy(update={"student": students.resolved(Students(), (32, 32))})


def asked(space: Resolved, seed: int) -> dict[str, Any]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    return draw(study.ask(), space)


def test_both_families_are_drawn_each_with_its_own_settings(taught: Resolved) -> None:
    found = [asked(taught, seed) for seed in range(20)]
    assert {settings["family"] for settings in found} == {"pruned", "student"}
    for settings in found:
        own = {name for name in settings if name.startswith("student_")}
        assert bool(own) == (settings["family"] == "student") == ("channels" not in settings)
        if own:
            assert shares(settings, taught) == {}
            assert settings["keep_float"] == 0  # it names layers of the dense model


def test_every_drawn_student_can_be_made(taught: Resolved) -> None:
    import torch

    inputs = torch.zeros(1, 1, 32, 32)
    samples = [(inputs[0], inputs[0])]
    task = Task("t", samples, samples, samples, Normalization((0.0,), (1.0,)))
    model = UNet(widths=(4, 8))
    estimate = Estimator(model, task, taught, DENSE, [(1.0, 0.5), (0.25, 0.2)])
    for seed in range(30):
        settings = asked(taught, seed)
        if settings["family"] != "student":
            continue
        settings["sparsity"] = 0.0
        assert taught.student is not None
        made = make_student(students.step(settings, taught.student), model, task, 0)
        # what its file holds: the weights of convolutions, without norms and biases
        weights = sum(value.numel() for value in made.parameters() if value.dim() > 1)
        assert estimate(settings)["size"] == weights


def test_a_student_becomes_a_recipe(base: Recipe, taught: Resolved) -> None:
    settings = {
        "family": "student", "student_width": 8, "student_growth": 1.5, "student_depth": 3, "student_convolutions": 1,
        "student_convolution": "ghost", "student_merge": "add", "student_stem": "stride", "student_up": "nearest",
        "student_kernel_size": 3, "student_features": 0.0, "sparsity": 0.6, "lr": 0.002, "pattern": "magnitude",
        "int8": "qat", "distillation": 0.5, "length": 1.0, "keep_float": 0,
    }  # fmt: skip
    plan = Plan(base, taught, Search(epochs=18), "litert", Path("dense.safetensors"), Path("dense.tflite"))
    found = plan(settings)
    assert found.rungs == (("dense", "student"), ("tuned-2",), ("sparse", "int8"))
    again = recipe.parse(json.loads(json.dumps(recipe.dump(found.recipe))))
    step = again.variants["student"].student
    assert step is not None
    assert (step.widths, step.convolution, step.merge, step.up) == ((8, 12, 20), "ghost", "add", "nearest")
    assert (step.epochs, step.lr, step.distillation) == (2, 0.002, 0.5)


def test_arguments_of_an_own_factory_are_ranges_choices_or_fixed(space: Resolved) -> None:
    own = Students.model_validate(
        {
            "factory": "mine:net",
            "arguments": {"width": [8, 32], "rate": [0.1, 0.5], "kind": ["a", "b", "c"], "depth": 3},
        }
    )
    taught = space.model_copy(update={"student": own})
    found = [each for seed in range(40) if (each := asked(taught, seed))["family"] == "student"]
    steps = [students.step(settings, own) for settings in found]
    assert all(step.factory == "mine:net" and step.arguments["depth"] == 3 for step in steps)
    assert all(8 <= step.arguments["width"] <= 32 and isinstance(step.arguments["width"], int) for step in steps)
    assert all(0.1 <= step.arguments["rate"] <= 0.5 for step in steps)
    assert {step.arguments["kind"] for step in steps} == {"a", "b", "c"}
    assert len({step.arguments["width"] for step in steps}) > 3


def test_searches_begin_with_both_by_turns(taught: Resolved) -> None:
    pruned = {"channels": 0.5, "sparsity": 0.0}
    found = _mixed([pruned, pruned], taught, lr=0.003)
    assert [settings["family"] for settings in found[:4]] == ["pruned", "student", "pruned", "student"]
    assert draw(cast(Any, optuna.trial.FixedTrial(found[1])), taught) == found[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"width": [8, 4]}, "more than the greatest"),
        ({"depth": [0, 2]}, "greater than or equal to 1"),
        ({"kernel_size": 4}, "is even"),
        ({"merge": "multiply"}, "'concat' or 'add'"),
        ({"arguments": {"width": 3}}, "those of a factory"),
        ({"factory": "a:b", "width": 8}, "leave out width"),
        ({"widths": [8]}, "not permitted"),
    ],
)
def test_a_space_that_is_none_is_refused(content: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Students.model_validate(content)


def test_true_is_the_built_in_space_and_false_is_none() -> None:
    parsed = recipe.parse({"search": {"space": {"student": True}}}).search
    assert parsed is not None
    assert parsed.space.student == Students()
    parsed = recipe.parse({"search": {"space": {"student": False}}}).search
    assert parsed is not None
    assert parsed.space.student is None


def test_settings_of_training_are_those_of_every_step() -> None:
    assert {"epochs", "lr", "batch_size"} <= set(Student.__dataclass_fields__) & set(Settings.__dataclass_fields__)


def test_the_depth_at_which_skips_begin_is_drawn_and_stays_within_the_levels() -> None:
    space = students.resolved(Students(depth=(2, 3), skips_from=(0, 7)), (32, 32))
    drawn = []
    for seed in range(20):
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        settings = students.draw(study.ask(), space)
        step = students.step(settings, space, epochs=1)
        assert step.skips_from is not None
        assert step.skips_from < len(step.widths or ())
        drawn.append(step.skips_from)
    assert len(set(drawn)) > 1
    assert all(start["student_skips_from"] == 0 for start in students.starts(space, {}))


def test_a_recipe_with_skips_below_its_last_level_is_refused() -> None:
    with pytest.raises(ValidationError, match="2 widths are levels 0 to 1"):
        Student(widths=(4, 8), skips_from=2)


@pytest.mark.parametrize(("said", "drawn"), [({}, (0, 1)), ({"skips_from": 0}, (0, 0)), ({"factory": "a:b"}, (0, 0))])
def test_for_a_microcontroller_skips_may_begin_below_the_top_unless_the_recipe_says_where(
    said: dict[str, Any], drawn: tuple[int, int]
) -> None:
    from torchshrink.search.run import _for_micro

    found = _for_micro(Search.model_validate({"space": {"student": said}})).space
    assert found.student is not None
    assert found.student.skips_from == drawn
    assert (found.keep_float, found.sparsity) == (0, (0.0, 0.0))
