"""Settings are declared once: recipes, stages and errors say the same."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, get_args

import pytest
from torch import nn

from torchshrink import prune, stages
from torchshrink.errors import RecipeError
from torchshrink.pipeline import recipe
from torchshrink.settings import Importance, Scheduling, Scope, Training, check
from torchshrink.training import Settings, uses_bf16


@pytest.mark.parametrize(
    ("stage", "step"),
    [(stages.prune, recipe.Pruning), (stages.channels, recipe.Channels), (stages.cluster, recipe.Clustering)],
)
def test_a_stage_and_its_step_have_the_same_settings(stage: Callable[..., Any], step: Any) -> None:
    given = ("model", "task", "settings", "teacher", "progress")
    taken = {name: one.default for name, one in inspect.signature(stage).parameters.items() if name not in given}
    shared = {field.name for field in fields(Training)}
    described = {field.name: getattr(field.default, "default", field.default) for field in fields(step)}
    assert taken == {name: default for name, default in described.items() if name not in shared}


def test_a_training_has_what_a_recipe_says() -> None:
    own = {field.name: field.default for field in fields(Training)}
    assert MISSING not in own.values()
    assert {key: getattr(Settings(epochs=30), key) for key in own} == own
    assert Settings(7, 0.5, 3) == Settings(epochs=7, lr=0.5, batch_size=3)  # as they are given in Python


@pytest.mark.parametrize("kind", [Scheduling, Importance, Scope])
def test_every_choice_is_accepted_and_no_other(kind: Any) -> None:
    for choice in get_args(kind):
        check("setting", choice, kind)
    with pytest.raises(RecipeError, match=r"^setting='best': expected '\w+'(, '\w+')* or '\w+'$"):
        check("setting", "best", kind)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda layer: stages.prune(layer, None, Settings(1), schedule="later"), "schedule='later': expected 'polyn"),  # type: ignore[arg-type]
        (lambda layer: prune.magnitude(layer, 0.5, scope="model"), "scope='model': expected 'global' or 'layer'"),  # type: ignore[arg-type]
        (lambda _: uses_bf16("fp16", "cpu"), "precision='fp16': expected 'auto', 'fp32' or 'bf16'"),
    ],
)
def test_choices_are_checked_where_they_are_used(call: Callable[[nn.Module], Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        call(nn.Linear(3, 2))
