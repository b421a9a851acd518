"""The students of a recipe: whose architecture a variant has, how it is made, and by whom it is taught."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from torch import nn

from torchshrink import student
from torchshrink.checkpoint import Factory
from torchshrink.errors import RecipeError
from torchshrink.model.checked import check_module
from torchshrink.pipeline.assemble import resolve
from torchshrink.pipeline.recipe import Recipe, parse
from torchshrink.pipeline.students import Student
from torchshrink.progress import Progress
from torchshrink.task import Task
from torchshrink.training import History, Settings
from torchshrink.usercode import calling, told


def student_of(recipe: Recipe, name: str) -> Student | None:
    """Return the step that gave a variant its architecture; None when it still has the recipe's own."""
    variant = recipe.variants.get(name)
    while variant is not None and variant.student is None:
        variant = recipe.variants.get(variant.source or "")
    return variant.student if variant is not None else None


def factory_of(step: Student, seed: int) -> Factory | None:
    """Return what makes the user's own architecture, the same weights at every call; None for the built-in one."""
    if step.factory is None:
        return None
    name, arguments = step.factory, step.arguments

    def make() -> nn.Module:
        import torch

        function: Callable[..., Any] = resolve(name, "model")
        torch.manual_seed(seed)
        with calling(f"student {name!r}"):
            try:
                return check_module(function(**arguments), f"student {name!r}")
            except TypeError as error:
                raise RecipeError(f"student {name!r} does not take {arguments}: {told(error)}") from error

    return make


def stated_step(shape: Mapping[str, Any], features: float) -> Student:
    """Return the step that a recipe with these settings has.

    Raises:
        RecipeError: Naming what makes no student.
    """
    given = {key: value for key, value in shape.items() if value is not None}
    taught = {"from": "model", "student": {**given, "features": features}}
    step = parse({"variants": {"model": {"train": {}}, "student": taught}}, "options").variants["student"].student
    assert step is not None
    return step


def make_student(step: Student, teacher: nn.Module, task: Task, seed: int) -> nn.Module:
    """Return the untrained student of a step; raises as `torchshrink.student.make`."""
    return student.make(teacher, task, step.shape, factory_of(step, seed), seed)


def teach(
    teacher: nn.Module, task: Task, settings: Settings, step: Student, progress: Progress
) -> tuple[nn.Module, History]:
    """Return the trained student of a step, and its history."""
    model = make_student(step, teacher, task, settings.seed)
    return model, student.teach(model, task, settings, teacher, step.features, progress)


def kept_float(recipe: Recipe, name: str, model: nn.Module) -> Literal["auto"] | Sequence[str]:
    """Return what of ``keep_float`` concerns a variant: of a student, the modules that it has."""
    if recipe.keep_float == "auto" or student_of(recipe, name) is None:
        return recipe.keep_float
    return tuple(layer for layer in recipe.keep_float if layer in dict(model.named_modules()))
