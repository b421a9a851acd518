"""Dice and IoU of thresholded probabilities, and the figures that every report row holds."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from torchshrink.task import Samples, batches

THRESHOLD = 0.5


@dataclass(frozen=True)
class Scores:
    """How well outputs match a truth: ``loss`` (smaller is better), ``dice`` and ``iou`` in [0, 1], 1 is perfect."""

    loss: float
    dice: float
    iou: float


def dice(probability: Tensor, truth: Tensor) -> Tensor:
    """Return ``2 TP / (2 TP + FP + FN)`` per sample and channel, ``[N, C]``; 1 where both are empty.

    Args:
        probability: ``[N, C, *size]``; positive where it exceeds 0.5.
        truth: ``[N, C, *size]`` of 0 and 1.
    """
    overlap, predicted, true = _counts(probability, truth)
    return torch.where(predicted + true > 0, 2 * overlap / (predicted + true).clamp_min(1), 1.0)


def iou(probability: Tensor, truth: Tensor) -> Tensor:
    """Return ``TP / (TP + FP + FN)`` per sample and channel, ``[N, C]``; 1 where both are empty. Args as `dice`."""
    overlap, predicted, true = _counts(probability, truth)
    union = predicted + true - overlap
    return torch.where(union > 0, overlap / union.clamp_min(1), 1.0)


def score(probability: Tensor, truth: Tensor, loss: nn.Module) -> Scores:
    """Return the scores of outputs that exist already, ``[N, C, *size]`` both, averaged over samples and channels."""
    with torch.no_grad():
        return Scores(
            loss=float(loss(probability, truth)),
            dice=float(dice(probability, truth).mean()),
            iou=float(iou(probability, truth).mean()),
        )


@torch.no_grad()
def evaluate(model: nn.Module, samples: Samples, loss: nn.Module, batch_size: int = 16) -> Scores:
    """Return the scores of a model over ``samples``, each sample counting the same; the model's mode is kept."""
    was_training = model.training
    model.eval()
    tensors = itertools.chain(model.parameters(), model.buffers())
    device = next((tensor.device for tensor in tensors), torch.device("cpu"))
    totals, count = torch.zeros(3, dtype=torch.float64), 0
    for inputs, truth in batches(samples, batch_size):
        batch = score(model(inputs.to(device)).cpu(), truth, loss)
        totals += len(inputs) * torch.tensor([batch.loss, batch.dice, batch.iou], dtype=torch.float64)
        count += len(inputs)
    model.train(was_training)
    return Scores(*(totals / count).tolist())


def outputs(model: nn.Module, inputs: Tensor, batch_size: int = 16) -> Tensor:
    """Return what a model computes for ``[N, C, *size]``, in float32, a batch at a time."""
    with torch.inference_mode():
        return torch.cat([model(batch).float() for batch in torch.split(inputs, batch_size)])


def stack(samples: Samples) -> tuple[Tensor, Tensor]:
    """Return all inputs and all truths as two tensors, ``[N, C, *size]`` and ``[N, K, *size]``."""
    inputs, truths = zip(*batches(samples, 64), strict=True)
    return torch.cat(inputs), torch.cat(truths)


def _counts(probability: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    positive, true = probability.flatten(2) > THRESHOLD, truth.flatten(2) > THRESHOLD
    return (positive & true).sum(-1).float(), positive.sum(-1).float(), true.sum(-1).float()
