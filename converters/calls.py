"""The whole job in one call: `run` a recipe, `shrink` a model that is at hand."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from torchshrink.converters.bridge import Bridge
from torchshrink.data.datasets import task_from_datasets
from torchshrink.errors import DataError, RecipeError
from torchshrink.model.checked import check_module
from torchshrink.pipeline.assemble import make_loss
from torchshrink.pipeline.chosen import choose, folder_name
from torchshrink.pipeline.recipe import Recipe, parse
from torchshrink.pipeline.run import run as run_recipe
from torchshrink.pipeline.subject import Loss
from torchshrink.progress import Progress
from torchshrink.report import document
from torchshrink.report.result import Result
from torchshrink.settings import Budget
from torchshrink.task import Samples, Task

Data = Samples | tuple[Any, Any] | DataLoader[Any]
_TASK = {field.name for field in fields(Task)} - {"name", "train", "validation", "test", "loss", "budget"}


class Lines:
    """Says on stderr what begins and what is worth a line."""

    def start(self, title: str) -> None:
        """Say it."""
        print(title, file=sys.stderr)

    def update(self, done: int, total: int, note: str = "") -> None:
        """Say nothing: a notebook keeps every line."""

    def note(self, text: str) -> None:
        """Say it."""
        print(text, file=sys.stderr)


def run(
    recipe: str | Path | Mapping[str, Any] | Recipe | None = None,
    out: str | Path | None = None,
    *,
    data: str | None = None,
    resume: bool = True,
    trust: bool = False,
    allow_pickle: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Do what ``torchshrink run`` does, and return its report, which shows itself in a notebook.

    Args:
        recipe: A YAML file, or what stands in one; by default the built-in U-Net and data.
        out: Folder of the run; by default runs/NAME.
        data: Data instead of the recipe's.
        resume: Keep finished steps, or do all again.
        trust: Import whatever a recipe's file names.
        allow_pickle: Open a checkpoint that can run code.
        progress: Told about every step; by default lines on stderr.

    Raises:
        ShrinkError: As the command says it; with ``is_reported``, the report is in the folder all the same.
    """
    source = Path(recipe) if isinstance(recipe, str | Path) else recipe
    settings = choose(source, data, trust, allow_pickle)
    name = folder_name(source if isinstance(source, Path) else None, settings.data)
    folder = Path(out) if out is not None else Path("runs", name)
    run_recipe(settings, folder, Bridge(), is_fresh=not resume, progress=progress or Lines())
    return Result(document.load(folder), folder)


def shrink(
    model: nn.Module,
    train: Data,
    test: Data,
    loss: nn.Module | Callable[[Any, Any], Tensor] | str | None = None,
    budget: str | float | None = None,
    *,
    out: str | Path | None = None,
    validation: float = 0.1,
    progress: Progress | None = None,
    **settings: Any,
) -> Result:
    """Prune, quantize, export, verify and measure a trained model, and find the smallest file within a budget.

    Args:
        model: Trained; it is left as it is.
        train: A dataset of pairs (input ``[C, *size]``, truth) or of inputs alone (unlabelled), the two as tensors
            ``[N, ...]``, or a DataLoader, of which the dataset is used; see `torchshrink.data.task_from_datasets`.
        test: As much, for the reported figures alone.
        loss: ``loss(output, truth)``, a built-in one or `torch.nn`'s by name, or ``module:callable``, or
            ``teacher``, which imitates ``model``; by default the task's.
        budget: How much worse than ``model`` the file may be in what decides: ``"2%"``, or a number in its units; by
            default the task's.
        out: Folder of the run, by default runs/shrink-NAME; what an earlier run left in it is replaced.
        validation: Share of the training samples that picks the best epoch.
        progress: Told about every step; by default lines on stderr.
        **settings: Of the task (``kind``, ``metrics``, ``class_names``, ``normalization``) and of a recipe
            (``variants``, ``formats``, ``distillation``, ``seed``), by their names there. Without ``variants``, the
            recipe's own, which begin with the model as it is.

    Raises:
        DataError: When the samples cannot be used.
        RecipeError: When there is no such setting.
        ShrinkError: As `run`.

    >>> shrink(nn.Linear(8, 1), train=(torch.ones(4, 1, 8), torch.ones(3)), test=[])
    Traceback (most recent call last):
    torchshrink.errors.DataError: train has 4 inputs but 3 truths: give every input its truth
    """
    if "task" in settings:
        raise RecipeError("shrink: what stands below task in a recipe is said by itself: kind=, metrics=, decides=")
    of_task = {name: settings.pop(name) for name in _TASK & set(settings) - {"augment"}}
    of_task |= {} if budget is None else {"budget": Budget.parse(budget)}
    model = check_module(model, "shrink: the model")
    name = type(model).__name__
    content = {**_as_it_is(settings), "data": "given", "model": {"factory": f"given:{name}"}}
    recipe = parse({**content, "loss": loss} if loss == "teacher" else content, "shrink")
    task = task_from_datasets(
        _samples("train", train), _samples("test", test),
        name=name, seed=recipe.seed, share=validation, **of_task, **_loss(loss),
    )  # fmt: skip
    task.check()
    folder = Path(out) if out is not None else Path("runs", f"shrink-{name}")
    given = copy.deepcopy(model).cpu().eval()
    run_recipe(
        recipe, folder, Bridge(), is_fresh=True, progress=progress or Lines(), task=task,
        factory=lambda: copy.deepcopy(given),
    )  # fmt: skip
    return Result(document.load(folder), folder, budget)


def _as_it_is(settings: dict[str, Any]) -> dict[str, Any]:
    """Return a recipe's content whose first variant is the trained model, unless it says its variants."""
    usual = {
        "dense": {"train": {"epochs": 0}},
        "pruned": {"from": "dense", "prune": {"amount": 0.8}},
        "pruned-qat": {"from": "pruned", "qat": {}},
    }
    return {"variants": usual, **settings}


def _loss(loss: Any) -> dict[str, Any]:
    """Return the task's loss; none where a teacher is imitated, which is the recipe's."""
    if loss in (None, "teacher"):
        return {}
    if isinstance(loss, str):
        return {"loss": make_loss(Loss(name=loss))}
    if not callable(loss):
        raise RecipeError(f"loss {loss!r}: expected a module, a function, or a name")
    return {"loss": loss}


def _samples(name: str, data: Data) -> Any:
    """Return a dataset of what was given; tensors and arrays of the same length become pairs."""
    if not isinstance(data, tuple):
        return data
    inputs, truths = (torch.as_tensor(values) for values in data)
    if len(inputs) != len(truths):
        raise DataError(f"{name} has {len(inputs)} inputs but {len(truths)} truths: give every input its truth")
    return TensorDataset(inputs, truths)
