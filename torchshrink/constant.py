"""The best answer that is the same for every input: a model that is no better has learned nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from torchshrink.errors import DataError
from torchshrink.metrics import Scores, score
from torchshrink.task import Task


def constant(task: Task, truths: Any) -> Scores | None:
    """Return the scores of the constant output that suits ``truths`` best; None where a kind has no such output.

    Those are all positions empty or full or as often full as they are, of classes their shares, of numbers their mean
    or their median.

    Args:
        task: Says what is tried, and what decides.
        truths: All of a part, ``[N, ...]``.
    """
    found = []
    try:
        for output in _candidates(task.kind, truths):
            found.append(score(output, truths, task.loss, task.metrics))
    except DataError:
        return None  # a loss or metric of the user's, which wants something else of a model
    return min(found, key=lambda scores: scores.cost(task), default=None)


def _candidates(kind: str, truths: Any) -> Iterator[Tensor]:
    if kind in ("classification", "multiclass"):
        counts = torch.bincount(truths[truths >= 0].flatten()).float()
        shape = (1, -1, *[1] * (truths.dim() - 1))
        yield (
            (counts / counts.sum())
            .clamp_min(1e-6)
            .log()
            .reshape(shape)
            .expand(len(truths), len(counts), *truths.shape[1:])
        )
    elif kind == "segmentation":
        truths = truths.float()
        yield from (torch.zeros_like(truths), torch.ones_like(truths))
        mean = truths.transpose(0, 1).flatten(1).mean(1)
        yield mean.reshape(1, -1, *[1] * (truths.dim() - 2)).expand_as(truths)
    elif kind in ("regression", "reconstruction"):
        truths = truths.float()
        yield truths.mean(0, keepdim=True).expand_as(truths)
        yield truths.median(0, keepdim=True).values.expand_as(truths)
