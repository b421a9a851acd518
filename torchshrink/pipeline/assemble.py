"""What a recipe names, made: its data with its loss, its model with its weights."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from torchshrink import checkpoint, losses
from torchshrink.data import open_task
from torchshrink.errors import ModelError, RecipeError
from torchshrink.model import libraries
from torchshrink.model.checked import check_answer, check_module
from torchshrink.model.unet import UNet
from torchshrink.own_loop import Loop
from torchshrink.pipeline.recipe import Recipe
from torchshrink.task import Task
from torchshrink.usercode import calling, told

_TRUTH_LIKE_ANSWER = ("segmentation", "regression", "reconstruction")  # kinds of tasks


def make_task(recipe: Recipe) -> Task:
    """Return the recipe's data with the recipe's loss."""
    augment = recipe.augment is True
    task = open_task(recipe.data, seed=recipe.seed, validation=recipe.validation, augment=augment)
    if isinstance(recipe.augment, str):
        task = replace(task, augment=resolve(recipe.augment, "augment"))
    if recipe.loss is None:
        return task
    if ":" in recipe.loss.name:
        make = resolve(recipe.loss.name, "loss")
        with calling(f"loss {recipe.loss.name!r}"):
            try:
                loss = make(**recipe.loss.settings)
            except TypeError as error:
                text = f"loss {recipe.loss.name!r} does not take {recipe.loss.settings}: {told(error)}"
                raise RecipeError(text) from error
        if not callable(loss):
            raise RecipeError(f"loss {recipe.loss.name!r} returned a {type(loss).__name__}: it must return a loss")
    else:
        loss = losses.build(recipe.loss.name, **recipe.loss.settings)
    return replace(task, loss=loss)


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
    model = _make_model(recipe, task)
    is_dense = getattr(task, "kind", "segmentation") in _TRUTH_LIKE_ANSWER
    check_answer(model, task.example_input, task.example_truth.shape if is_dense else None)
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
        channels = {"in_channels": task.example_input.shape[1], "out_channels": task.example_truth.shape[1]}
        arguments = {**channels, "dims": task.dims, **arguments}
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


def _fitting(model: nn.Module, path: Path, task: Task) -> nn.Module:
    """Return a model that was built from its own description, when its channels are the data's."""
    config = getattr(model, "config", {})
    wanted = (task.example_input.shape[1], task.example_truth.shape[1], task.dims)
    if tuple(config.get(key) for key in ("in_channels", "out_channels", "dims")) != wanted:
        raise ModelError(
            f"{path} takes {config.get('in_channels')} and returns {config.get('out_channels')} channels in "
            f"{config.get('dims')} dimensions, the data has {wanted[0]} and {wanted[1]} in {wanted[2]}"
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
