"""The training of a student."""

from __future__ import annotations

import copy

from torch import nn

from torchshrink.progress import SILENT, Progress
from torchshrink.student.features import Features
from torchshrink.task import Task
from torchshrink.training import History, Settings, fit


def teach(
    student: nn.Module,
    task: Task,
    settings: Settings,
    teacher: nn.Module,
    features: float = 0.0,
    progress: Progress = SILENT,
) -> History:
    """Train ``student`` in place to do what the task wants and what its teacher does.

    Args:
        student: Any module that answers as the teacher does, see `torchshrink.student.make`.
        task: Data and loss.
        settings: ``distillation`` is the share of the loss that the teacher's outputs make.
        teacher: It is left as it was.
        features: Weight of the distance between the features of both, added to the loss; 0 compares outputs only.
        progress: Told about every step.

    Raises:
        RecipeError: When features are to be compared, and there are none of the same size.
    """
    if not features or not settings.epochs:
        return fit(student, task, settings, teacher=teacher, progress=progress)
    teacher = copy.deepcopy(teacher)
    found = Features(student, teacher, task.example_input, features)
    try:
        return fit(student, task, settings, teacher=teacher, hint=found, progress=progress)
    finally:
        found.remove()
