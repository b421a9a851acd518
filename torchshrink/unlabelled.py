"""Data without labels: a trained model's own outputs take the place of the truth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as tree

from torchshrink.task import Samples, Task


class Taught:
    """Samples whose truths are what a model gives for them.

    Args:
        samples: Inputs; what comes with them is not looked at.
        model: In evaluation mode while it is asked, and left as it was.
    """

    def __init__(self, samples: Samples, model: nn.Module) -> None:
        self._samples, self._model = samples, model

    def __len__(self) -> int:
        return len(self._samples)

    @torch.no_grad()
    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        inputs = self._samples[index][0]
        was_training = self._model.training
        output = self._model.eval()(inputs[None])
        self._model.train(was_training)
        return inputs, tree.tree_map(lambda tensor: tensor[0].float(), output)


def taught(task: Task, model: nn.Module) -> Task:
    """Return an unlabelled task that is judged by the distance to a model's outputs; others as they are.

    The training part stays without truths: what is trained on it imitates a teacher, which is asked there.
    """
    if task.kind != "unlabelled":
        return task
    return replace(task, validation=Taught(task.validation, model), test=Taught(task.test, model))
