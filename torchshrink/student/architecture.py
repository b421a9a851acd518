"""A student that takes and gives what its teacher does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchshrink.errors import ModelError
from torchshrink.model.checked import check_answer
from torchshrink.model.macs import evaluating
from torchshrink.model.student import Student
from torchshrink.task import Task


def make(
    teacher: nn.Module,
    task: Task,
    shape: Mapping[str, Any],
    factory: Callable[[], nn.Module] | None = None,
    seed: int = 0,
) -> nn.Module:
    """Return an untrained student.

    Args:
        teacher: Its answer to the task's example decides channels, dimensions and what the output means; it is left as
            it was.
        task: Its data.
        shape: Of the built-in one: arguments of `torchshrink.model.student.Student`.
        factory: Makes the user's own instead.
        seed: Of the weights.

    Raises:
        ModelError: When the student answers with another shape than the teacher, or the built-in one cannot give what
            the teacher gives.
    """
    example = task.example_input
    with evaluating(teacher), torch.no_grad():
        answer = teacher(example)
    torch.manual_seed(seed)
    model = factory() if factory is not None else Student(**_ends(example, answer, task.kind), **shape)
    check_answer(model, example, answer.shape if isinstance(answer, Tensor) else None)
    return model


def _ends(example: Tensor, answer: Any, kind: str) -> dict[str, Any]:
    """Return the arguments that follow from what goes in and what comes out."""
    dims = example.dim() - 2
    is_scores = isinstance(answer, Tensor) and answer.dim() == 2
    is_map = isinstance(answer, Tensor) and answer.shape[2:] == example.shape[2:] and answer.dim() > 2
    if dims not in (1, 2) or not (is_scores or is_map):
        shown = list(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise ModelError(
            f"the teacher makes {shown} of {list(example.shape)}, and the built-in student maps images and signals to "
            "maps of their size or to scores: give your own architecture, student: {factory: 'module:function'}"
        )
    found = {"in_channels": example.shape[1], "out_channels": answer.shape[1], "dims": dims}
    if is_scores:
        return {**found, "result": "scores"}
    is_probable = kind in ("segmentation", "unlabelled", "custom") and answer.min() >= 0 and answer.max() <= 1
    return {**found, "result": "probability" if is_probable else "linear"}
