"""The model of a variant: one stage, done to the model that it comes from."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from torch import nn

from torchshrink import stages
from torchshrink.errors import RecipeError
from torchshrink.pipeline.assemble import make_loop
from torchshrink.pipeline.recipe import Recipe
from torchshrink.pipeline.students import Student
from torchshrink.pipeline.teaching import kept_float, teach
from torchshrink.progress import Progress
from torchshrink.sensitivity.keep_float import layers_to_keep
from torchshrink.sensitivity.room import room_cost
from torchshrink.settings import Training
from torchshrink.task import Task
from torchshrink.training import History, Settings

_logger = logging.getLogger(__name__)
_SHARED = [field.name for field in fields(Training)]  # the others of a step are its own


def build(
    recipe: Recipe, name: str, model: nn.Module, task: Task, teacher: nn.Module | None, progress: Progress
) -> tuple[nn.Module, dict[str, Any], list[str]]:
    """Return the model of a variant, the history of its training, and which of its layers stay float.

    Args:
        recipe: Whose variant it is.
        name: Of the variant.
        model: What it comes from; trained in place by ``train``, left as it was by the others; a student's teacher.
        task: Data and loss.
        teacher: What it imitates, see `teacher_of`.
        progress: Told about every step.
    """
    ((kind, step),) = recipe.variants[name].steps.items()
    values = {field.name: getattr(step, field.name) for field in fields(step)}
    own = {key: value for key, value in values.items() if key not in _SHARED}
    if kind == "qat":
        own["keep_float"] = layers_to_keep(kept_float(recipe, name, model), model, task, progress)
        own |= {"portable": recipe.portable, "weights": own["weights"] or "int8"}
        if own["weights"] == "int8":
            progress.note(f"{name}: {room_cost(model, own['keep_float'], recipe.portable)}")
    if task.kind == "unlabelled" and teacher is None and step.epochs and not isinstance(step, Student):
        raise RecipeError(
            f"variant {name!r} has no labels to be trained with and no teacher: begin with a trained model "
            "(model.checkpoint) and train: {epochs: 0}; what comes from it imitates it"
        )
    title, stage = _STAGES[kind]
    progress.start(f"{name}: {title}")
    _logger.debug("%s: %s", name, title, extra={"variant": name})
    share = recipe.imitation
    if isinstance(step, Student):
        own, share = {"step": step}, 1.0 if task.kind == "unlabelled" or share == 1 else step.distillation
    shared = {key: values[key] for key in _SHARED}
    settings = Settings(**shared, seed=recipe.seed, distillation=share, loop=make_loop(recipe))
    made, history = stage(model, task, settings, **own, teacher=teacher, progress=progress)
    return made, history.to_dict(), own.get("keep_float", [])


def teacher_of(recipe: Recipe, name: str) -> str | None:
    """Return the variant that another one imitates: the one that its line begins with, when there is distillation."""
    variant, first = recipe.variants[name], name
    while variant.source is not None and not (variant.train is not None and variant.train.reinitialize):
        first, variant = variant.source, recipe.variants[variant.source]
    return first if recipe.imitation and first != name else None


def _train(
    model: nn.Module, task: Task, settings: Settings, reinitialize: bool, **shared: Any
) -> tuple[nn.Module, History]:
    """Train a model in place, or a copy that begins with new weights."""
    model = stages.reinitialize(model, settings.seed) if reinitialize else model
    return model, stages.train(model, task, settings, **shared)


def _teach(
    model: nn.Module, task: Task, settings: Settings, step: Student, teacher: nn.Module | None, progress: Progress
) -> tuple[nn.Module, History]:
    """Let a student learn from what its variant comes from, whoever else teaches its line."""
    del teacher
    return teach(model, task, settings, step, progress)


_STAGES: dict[str, tuple[str, Callable[..., tuple[nn.Module, History]]]] = {
    "train": ("train", _train),
    "student": ("teach a student", _teach),
    "prune": ("prune and fine-tune", stages.prune),
    "channels": ("remove channels and fine-tune", stages.channels),
    "cluster": ("cluster the weights and fine-tune", stages.cluster),
    "qat": ("quantization-aware training", stages.qat),
}
