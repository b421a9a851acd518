"""What a model is for: data, loss and the normalisation that travels with every exported file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from torchshrink.errors import DataError
from torchshrink.losses import FocalTversky

Augmentation = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]


class Samples(Protocol):
    """Pairs of an input and its truth, by position: a list, or any dataset of PyTorch's that has a length."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> tuple[Tensor, Tensor]: ...


def batches(samples: Samples, size: int, count: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield samples in their order, ``size`` at a time, as inputs ``[N, C, *size]`` and truths ``[N, K, *size]``.

    Args:
        samples: Where they come from.
        size: Of a batch; the last may be smaller.
        count: How many samples at most, the first ones; all by default.
    """
    end = len(samples) if count is None else min(count, len(samples))
    for start in range(0, end, size):
        inputs, truths = default_collate([samples[index] for index in range(start, min(start + size, end))])
        yield inputs, truths


@dataclass(frozen=True)
class Normalization:
    """``(raw - mean) / std`` per channel: what a file expects to be done to its input.

    Attributes:
        mean: One number per input channel, in the units of the raw data.
        std: As many positive numbers.
        raw: What the raw data is, such as ``"uint8 / 255"``; for the reader of a file.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    raw: str = "float32"

    def __post_init__(self) -> None:
        is_finite = all(math.isfinite(value) for value in (*self.mean, *self.std))
        if len(self.mean) != len(self.std) or not is_finite or not all(value > 0 for value in self.std):
            raise DataError(
                f"normalization needs as many positive std as means, and finite ones, got mean={self.mean}, "
                f"std={self.std}"
            )

    def apply(self, inputs: Tensor) -> Tensor:
        """Return normalised ``[N, C, *size]``."""
        shape = (1, -1, *[1] * (inputs.dim() - 2))
        mean, std = torch.tensor(self.mean).reshape(shape), torch.tensor(self.std).reshape(shape)
        return (inputs - mean) / std

    def to_dict(self) -> dict[str, Any]:
        """Return what is stored beside and inside exported files."""
        return asdict(self)


@dataclass(frozen=True)
class Task:
    """Everything that training, calibrating, verifying and measuring need to know about the job.

    Attributes:
        name: For reports.
        train: Pairs of a normalised input ``[C, *size]`` (float32) and its truth ``[K, *size]`` (0 and 1).
        validation: Held out of training; picks the best checkpoint.
        test: Looked at for the reported figures only.
        normalization: What was done to the raw inputs.
        loss: ``loss(probability, truth)``, a scalar, smaller is better.
        augment: Changes a training batch at random, from the generator it is given.
        class_names: One per output channel.
        kind: What the truth is: segmentation (0 and 1, ``[K, *size]``), multiclass (class numbers, ``[*size]``),
            classification (a class number), regression (``[K]``), reconstruction (``[C, *size]``), unlabelled (nothing,
            an empty tensor) or custom (anything).
        prepared: What was done to inputs before normalisation, such as ``size=96x96&fit=crop``; see
            `torchshrink.data.preparation`.
    """

    name: str
    train: Samples
    validation: Samples
    test: Samples
    normalization: Normalization
    loss: nn.Module = field(default_factory=FocalTversky)
    augment: Augmentation | None = None
    class_names: tuple[str, ...] = ()
    kind: str = "segmentation"
    prepared: str = ""

    @property
    def example_input(self) -> Tensor:
        """The first test input as a batch of one, ``[1, C, *size]``."""
        return self.test[0][0].unsqueeze(0)

    @property
    def example_truth(self) -> Tensor:
        """The first test truth as a batch of one, ``[1, K, *size]``."""
        return self.test[0][1].unsqueeze(0)

    @property
    def metadata(self) -> dict[str, Any]:
        """What must travel with every checkpoint and exported file."""
        return {
            "normalization": self.normalization.to_dict(),
            "class_names": list(self.class_names),
            "input_shape": list(self.example_input.shape),
            **({"prepared": self.prepared} if self.prepared else {}),
        }

    @property
    def dims(self) -> int:
        """2 for images, 1 for signals."""
        return self.example_input.dim() - 2
