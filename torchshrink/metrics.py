"""The figures that every report row holds: the loss and the task's metrics, over a whole part of the data."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as tree

from torchshrink import kinds
from torchshrink.errors import DataError, ModelError, ShrinkError
from torchshrink.meters import BUILT_IN, THRESHOLD, Metric, dice, iou, metric
from torchshrink.task import Samples, Task, batches
from torchshrink.usercode import told

__all__ = [
    "BUILT_IN", "THRESHOLD", "Metric", "Scores", "Scoring", "dice", "evaluate", "guarded",
    "iou", "loss_of", "metric", "outputs", "score", "stack",
]  # fmt: skip

Metrics = Mapping[str, Metric]


@dataclass(frozen=True)
class Scores:
    """How well outputs match a truth; each metric is an attribute too.

    Attributes:
        loss: Smaller is better.
        metrics: By name.

    >>> Scores(0.5, {"dice": 0.75}).dice
    0.75
    """

    loss: float
    metrics: Mapping[str, float]

    def __getattr__(self, name: str) -> float:
        if name != "metrics" and name in self.metrics:
            return self.metrics[name]
        raise AttributeError(f"there is no metric {name!r}")

    def cost(self, task: Task) -> float:
        """Return what decides for a task, so that smaller is better."""
        if task.decides == "loss":
            return self.loss
        figure = self.metrics[task.decides]
        return -figure if task.higher_is_better else figure

    def check(self, task: Task, part: str) -> Scores:
        """Return these scores when models can be told apart by them.

        Raises:
            ModelError: When the loss or what decides is NaN or infinite; ``part`` is what it was computed of.
        """
        if found := self.odd(task):
            raise ModelError(f"the {part} {found}, with which nothing compares: let it be a number for any outputs")
        return self

    def odd(self, task: Task) -> str:
        """Return which of the loss and what decides is NaN or infinite, ``iou is nan``; nothing when none is."""
        figures = {"loss": self.loss, task.decides: self.loss if task.decides == "loss" else self.metrics[task.decides]}
        return " and ".join(f"{name} is {figure:g}" for name, figure in figures.items() if not math.isfinite(figure))


class Scoring:
    """Sums scores up over batches, each sample counting the same.

    Args:
        loss: ``loss(output, truth)``, the mean over its samples.
        metrics: By name; by default those of a segmentation.
    """

    def __init__(self, loss: nn.Module, metrics: Metrics | None = None) -> None:
        self._loss = loss
        found = kinds.metrics("segmentation") if metrics is None else metrics
        self._meters = {name: each.meter() for name, each in found.items()}
        self._total, self._count = 0.0, 0

    @torch.no_grad()
    def add(self, output: Any, truth: Any) -> None:
        """Take a batch.

        Raises:
            DataError: When the loss or a metric cannot be computed of it.
        """
        size = len(tree.tree_leaves(output)[0])
        self._total += size * _number("the loss", output, truth, lambda: self._loss(output, truth))
        self._count += size
        for name, meter in self._meters.items():
            guarded(f"metric {name!r}", output, truth, lambda meter=meter: meter.update(output, truth))

    def scores(self) -> Scores:
        """Return the scores of all batches so far."""
        found = {name: _number(f"metric {name!r}", None, None, meter.compute) for name, meter in self._meters.items()}
        return Scores(self._total / self._count, found)


def score(output: Any, truth: Any, loss: nn.Module, metrics: Metrics | None = None) -> Scores:
    """Return the scores of outputs that exist already, ``[N, ...]`` both.

    Args:
        output: As the model gives it.
        truth: As the data gives it.
        loss: See `Scoring`.
        metrics: See `Scoring`.

    Raises:
        DataError: When they do not fit each other.
    """
    scoring = Scoring(loss, metrics)
    scoring.add(output, truth)
    return scoring.scores()


@torch.no_grad()
def evaluate(
    model: nn.Module, samples: Samples, loss: nn.Module, batch_size: int = 16, metrics: Metrics | None = None
) -> Scores:
    """Return the scores of a model over ``samples``, each sample counting the same; the model's mode is kept.

    Args and Raises as `score`.
    """
    was_training = model.training
    model.eval()
    tensors = itertools.chain(model.parameters(), model.buffers())
    device = next((tensor.device for tensor in tensors), torch.device("cpu"))
    scoring = Scoring(loss, metrics)
    for inputs, truth in batches(samples, batch_size):
        scoring.add(tree.tree_map_only(Tensor, Tensor.cpu, model(inputs.to(device))), truth)
    model.train(was_training)
    return scoring.scores()


def outputs(model: nn.Module, inputs: Tensor, batch_size: int = 16) -> Any:
    """Return what a model computes for ``[N, C, *size]``, in float32, a batch at a time."""
    with torch.inference_mode():
        parts = [tree.tree_map(Tensor.float, model(batch)) for batch in torch.split(inputs, batch_size)]
    return tree.tree_map(lambda *tensors: torch.cat(tensors), *parts)


def stack(samples: Samples) -> tuple[Tensor, Any]:
    """Return all inputs, ``[N, C, *size]``, and all truths, also with N in front."""
    inputs, truths = zip(*batches(samples, 64), strict=True)
    return torch.cat(inputs), tree.tree_map(lambda *parts: torch.cat(parts), *truths)


def guarded(what: str, output: Any, truth: Any, compute: Any) -> Any:
    """Return what a loss or metric computes; what it raises becomes a sentence that names it and what it was given."""
    try:
        return compute()
    except ShrinkError as error:
        raise DataError(f"{what}: {error}") from error
    except Exception as error:  # whatever the user's function does
        given = "" if output is None else f" of outputs {_shapes(output)} and truths {_shapes(truth)}"
        raise DataError(f"{what} cannot be computed{given}: {told(error)}") from error


def loss_of(task: Task, output: Any, truth: Any) -> Tensor:
    """Return a task's loss of a batch, to be trained with.

    Raises:
        DataError: When it cannot be computed, or is not one real number.
    """
    loss = guarded("the loss", output, truth, lambda: task.loss(output, truth))
    if not torch.is_tensor(loss):
        raise DataError(f"the loss gives a {type(loss).__name__}: let it return a tensor of one number")
    if loss.numel() != 1:
        raise DataError(f"the loss gives {list(loss.shape)} numbers instead of one: let it return their mean")
    if loss.is_complex():
        raise DataError("the loss gives a complex number: let it return a real one")
    found: Tensor = loss
    return found


def _number(what: str, output: Any, truth: Any, compute: Any) -> float:
    return float(guarded(what, output, truth, lambda: float(compute())))


def _shapes(content: Any) -> Any:
    """Return a tensor's shape and type, or those of everything in a structure of them."""
    if torch.is_tensor(content):
        return f"{list(content.shape)} {str(content.dtype).removeprefix('torch.')}"
    if isinstance(content, Mapping):
        return {key: _shapes(value) for key, value in content.items()}
    return [_shapes(value) for value in content] if isinstance(content, list | tuple) else type(content).__name__
