"""What a recipe names, made: its data with its loss, its model with its weights."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchshrink import checkpoint, kinds, losses
from torchshrink.data import open_task
from torchshrink.data.sources import is_callable
from torchshrink.errors import ModelError, RecipeError
from torchshrink.meters import Metric, metric
from torchshrink.model import libraries
from torchshrink.model.checked import check_answer, check_module
from torchshrink.model.unet import UNet
from torchshrink.own_loop import Loop
from torchshrink.pipeline.recipe import Recipe
from torchshrink.pipeline.subject import Loss, MetricChoice
from torchshrink.settings import Budget
from torchshrink.task import Task, batches
from torchshrink.usercode import calling, told


def make_task(recipe: Recipe) -> Task:
    """Return the recipe's data with what the recipe says it is for, and the recipe's loss.

    Raises:
        DataError: When a truth is not of the task's kind.
        RecipeError: When the settings contradict each other.
    """
    augment = recipe.augment is True
    task = open_task(_source(recipe), seed=recipe.seed, validation=recipe.validation, augment=augment)
    choice, changes = recipe.task, dict[str, Any]()
    if isinstance(recipe.augment, str):
        changes["augment"] = resolve(recipe.augment, "augment")
    if choice.kind is not None and choice.kind != task.kind:
        changes |= {"kind": choice.kind, "loss": None, "metrics": {}, "decides": "", "budget": None}
    if choice.metrics:
        metrics = {name: _metric(name, each) for name, each in choice.metrics.items()}
        changes |= {"metrics": metrics, "decides": "", "budget": None}
    if choice.decides is not None:
        changes |= {"decides": choice.decides, "budget": None}
    if choice.budget is not None:
        changes["budget"] = Budget.parse(choice.budget)
    if recipe.loss is not None and recipe.loss.name != "teacher":
        changes["loss"] = make_loss(recipe.loss)
    task = replace(task, **changes)
    task.check()
    return task


def _source(recipe: Recipe) -> str:
    """Return the recipe's data; of files, with the kind that the recipe says they are of."""
    kind, data = recipe.task.kind, recipe.data
    if kind in (None, "custom") or data.startswith("synthetic:") or is_callable(data) or "kind=" in data:
        return data
    return f"{data}{'&' if '?' in data else '?'}kind={kind}"


def make_loss(choice: Loss) -> Any:
    """Return a loss: built in, torch's, or ``module:callable``, which is one or makes one of the settings.

    Raises:
        RecipeError: When there is no such loss, or it does not take the settings.
    """
    if ":" not in choice.name:
        return losses.build(choice.name, **choice.settings)
    make = resolve(choice.name, "loss")
    if _is_loss(make):
        return partial(make, **choice.settings) if choice.settings else make
    with calling(f"loss {choice.name!r}"):
        try:
            loss = make(**choice.settings)
        except TypeError as error:
            raise RecipeError(f"loss {choice.name!r} does not take {choice.settings}: {told(error)}") from error
    if not callable(loss):
        raise RecipeError(f"loss {choice.name!r} returned a {type(loss).__name__}: it must return a loss")
    return loss


def _is_loss(found: Callable[..., Any]) -> bool:
    """Return whether something takes an output and a truth, rather than settings."""
    if isinstance(found, type | nn.Module):
        return isinstance(found, nn.Module)
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):  # of some that are written in C
        return False
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(each.kind in plain and each.default is each.empty for each in parameters) == 2


def _metric(name: str, choice: MetricChoice) -> Metric:
    """Return a metric: built in, or what ``module:callable`` names, a class of torchmetrics made without arguments."""
    if ":" not in (choice.use or ""):
        return metric(name, choice.use)
    found: Any = resolve(choice.use or "", f"metric {name}")
    with calling(f"metric {name}"):
        found = found() if isinstance(found, type) else found
    return Metric(found, choice.better == "higher") if choice.better else metric(name, found)


def make_loop(recipe: Recipe) -> Loop:
    """Return what of the training loop is the recipe's own."""
    named = {"fit": recipe.fit, "optimizer": recipe.optimizer, "schedule": recipe.schedule}
    return Loop(**{what: resolve(name, what) for what, name in named.items() if name is not None})


def make_model(recipe: Recipe, task: Task) -> nn.Module:
    """Return the recipe's model, its weights from the checkpoint when there is one.

    Raises:
        RecipeError: When the user's code cannot make it.
        ModelError: When it is no module, or its answer cannot be compared with the task's truth.
    """
    model, path = _make_model(recipe, task), recipe.model.checkpoint
    if path is not None and next(model.parameters(), None) is None:
        raise ModelError(f"{path} holds no weights to train, a quantized graph has none: start from its float model")
    wanted = task.example_truth.shape if task.kind in kinds.TRUTH_LIKE else None
    check_answer(model, task.example_input, wanted, task.scores)
    return model


def _make_model(recipe: Recipe, task: Task) -> nn.Module:
    settings, factory = recipe.model, make_factory(recipe, task)
    if settings.checkpoint is None:
        return factory()
    path = Path(settings.checkpoint)
    if settings.factory == "unet" and not settings.arguments and checkpoint.is_self_contained(path):
        return _fitting(checkpoint.load(path), path, task)
    return checkpoint.load(path, factory, settings.allow_pickle)


def make_factory(recipe: Recipe, task: Task) -> checkpoint.Factory:
    """Return what makes the recipe's architecture, the same weights at every call.

    The built-in U-Net takes its channels and dimensions from the data.
    """
    name, arguments = recipe.model.factory, recipe.model.arguments
    function: Callable[..., nn.Module] = UNet
    if name == "unet":
        arguments = {**_shape(task), **arguments}
    else:
        function = resolve(name, "model")

    def make() -> nn.Module:
        torch.manual_seed(recipe.seed)
        with calling(f"model {name!r}"):
            try:
                return check_module(function(**arguments), f"model {name!r}")
            except TypeError as error:
                raise RecipeError(f"model {name!r} does not take {arguments}: {told(error)}") from error

    return make


def _shape(task: Task) -> dict[str, Any]:
    """Return what the built-in U-Net takes from the data."""
    found: dict[str, Any] = {"in_channels": task.example_input.shape[1], "dims": task.dims}
    if task.kind == "multiclass":
        return {**found, "out_channels": _classes(task), "result": "linear"}
    if task.kind in ("segmentation", "reconstruction"):
        found["out_channels"] = task.example_truth.shape[1]
        return {**found, "result": "linear"} if task.kind == "reconstruction" else found
    raise RecipeError(
        f"the built-in U-Net makes masks and images, and the task is of kind {task.kind}: give your own model as "
        "model: {factory: 'module:function'}, or a checkpoint"
    )


def _classes(task: Task) -> int:
    """Return how many classes masks of numbers tell apart."""
    return len(task.class_names) or 1 + max(int(truth.max()) for _, truth in batches(task.train, 64))


def _fitting(model: nn.Module, path: Path, task: Task) -> nn.Module:
    """Return a model that was built from its own description, when its channels are the data's."""
    config = getattr(model, "config", {})
    config = {key: value for key, value in config.items() if (key, value) != ("result", "probability")}
    wanted = {"in_channels": task.example_input.shape[1], "dims": task.dims}
    if task.kind != "unlabelled" and config.get("result") != "scores":
        wanted = _shape(task)
    if any(config.get(key) != value for key, value in wanted.items()):
        raise ModelError(
            f"{path} takes {config.get('in_channels')} and returns {config.get('out_channels')} channels in "
            f"{config.get('dims')} dimensions, the data has {wanted['in_channels']} and "
            f"{wanted.get('out_channels', 'any')} in {wanted['dims']}"
        )
    return model


def resolve(reference: str, what: str) -> Callable[..., Any]:
    """Import ``module:name``, looking in the current folder too; of timm and torchvision, names are models.

    Raises:
        RecipeError: When it cannot be imported; ``what`` says what it was to be.
    """
    if what == "model" and libraries.is_library(reference):
        return libraries.factory(reference)
    module, _, name = reference.partition(":")
    if not module or not name:
        raise RecipeError(f"{what} {reference!r}: expected MODULE:NAME, such as my_package.models:make")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:  # whatever the user's module does
        raise RecipeError(f"{what} {reference!r} cannot be imported: {told(error)}") from error
    finally:
        if here in sys.path:
            sys.path.remove(here)
    if not callable(found):
        raise RecipeError(f"{what} {reference!r} is not callable")
    return found  # type: ignore[no-any-return]
