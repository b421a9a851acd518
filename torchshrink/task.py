"""What a model is for: data, loss and the normalisation that travels with every exported file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import default_collate

from torchshrink import kinds
from torchshrink.errors import DataError, RecipeError
from torchshrink.meters import Metric, metric
from torchshrink.settings import Budget
from torchshrink.usercode import told

Augmentation = Callable[[Tensor, Any, torch.Generator], tuple[Tensor, Any]]


class Samples(Protocol):
    """Pairs of an input and its truth, by position: a list, or any dataset of PyTorch's that has a length."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> tuple[Tensor, Any]: ...


def batches(samples: Samples, size: int, count: int | None = None) -> Iterator[tuple[Tensor, Any]]:
    """Yield samples in their order, ``size`` at a time: inputs ``[N, C, *size]`` and truths, also with N in front.

    Args:
        samples: Where they come from.
        size: Of a batch; the last may be smaller.
        count: How many samples at most, the first ones; all by default.
    """
    end = len(samples) if count is None else min(count, len(samples))
    for start in range(0, end, size):
        inputs, truths = collated([samples[index] for index in range(start, min(start + size, end))])
        yield inputs, truths


def collated(samples: list[Any]) -> Any:
    """Return samples as a batch.

    Raises:
        DataError: When they do not go together.
    """
    try:
        return default_collate(samples)
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        raise DataError(f"samples of the data make no batch: {told(error)}; give all of them one shape") from error


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
        train: Pairs of a normalised input ``[C, *size]`` (float32) and its truth, which is what ``kind`` says.
        validation: Held out of training; picks the best checkpoint.
        test: Looked at for the reported figures only.
        normalization: What was done to the raw inputs.
        loss: ``loss(output, truth)``, a scalar, smaller is better; by default the kind's.
        augment: Changes a training batch at random, from the generator it is given.
        class_names: One per class.
        kind: What a truth is: ``segmentation`` (0 and 1, ``[K, *size]``, for probabilities), ``multiclass`` (class
            numbers, int64 ``[*size]``, for scores ``[K, *size]``), ``classification`` (a class number, int64 ``[]``,
            for scores ``[K]``), ``regression`` (float ``[K]``), ``reconstruction`` (float ``[C, *size]``),
            ``unlabelled`` (none, an empty tensor) or ``custom`` (anything; give ``loss`` and ``metrics``).
        prepared: What was done to inputs before normalisation, such as ``size=96x96&fit=crop``; see
            `torchshrink.data.preparation`.
        metrics: By name, each a `torchshrink.metrics.Metric`, the name of a built-in one, or a torchmetrics object or
            function that has ``higher_is_better``; or a list of built-in names; by default the kind's.
        decides: The metric, or ``loss``, that picks the best epoch, and that files are judged by; by default the first
            metric, of segmentation the loss.
        budget: How much worse than the dense model a file may be in it; by default 1 % where higher is better and 5 %
            where lower is.
        note: What was seen in the data that its user should know; empty when there is nothing.

    Raises:
        RecipeError: When kind, metrics and ``decides`` contradict each other.
    """

    name: str
    train: Samples
    validation: Samples
    test: Samples
    normalization: Normalization
    loss: Any = None  # a module or function; never None after __post_init__
    augment: Augmentation | None = None
    class_names: tuple[str, ...] = ()
    kind: str = "segmentation"
    prepared: str = ""
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    decides: str = ""
    budget: Budget | None = None
    note: str = ""

    def __post_init__(self) -> None:
        kinds.check(self.kind)
        if self.kind == "custom" and not self.metrics:
            raise RecipeError(f"task {self.name!r} is of kind custom: give it metrics, such as {{'mae': 'mae'}}")
        given = self.metrics if isinstance(self.metrics, Mapping) else dict.fromkeys(self.metrics)
        found = {name: metric(name, source) for name, source in given.items()} or kinds.metrics(self.kind)
        decides = self.decides or kinds.decides(self.kind, tuple(found))
        if decides != "loss" and decides not in found:
            raise RecipeError(f"task {self.name!r}: {decides!r} is to decide, the metrics are {', '.join(found)}")
        object.__setattr__(self, "metrics", found)
        object.__setattr__(self, "decides", decides)
        if self.loss is None:
            object.__setattr__(self, "loss", kinds.loss(self.kind))
        if self.budget is None:
            object.__setattr__(self, "budget", kinds.budget(self.kind, self.higher_is_better))

    @property
    def higher_is_better(self) -> bool:
        """The direction of what decides."""
        return self.decides != "loss" and self.metrics[self.decides].higher_is_better

    def check(self) -> None:
        """Raise DataError when the first training and test samples are not of the task's kind."""
        for part in (self.train, self.test):
            if len(part):
                kinds.check_truth(self.name, self.kind, *part[0])

    @property
    def example_input(self) -> Tensor:
        """The first test input as a batch of one, ``[1, C, *size]``."""
        return self.test[0][0].unsqueeze(0)

    @property
    def example_truth(self) -> Any:
        """The first test truth as a batch of one."""
        return collated([self.test[0][1]])

    @property
    def scores(self) -> int:
        """How many classes have to have a score; 0 where answers are none."""
        return len(self.class_names) if self.kind in ("multiclass", "classification") else 0

    @property
    def metadata(self) -> dict[str, Any]:
        """What must travel with every checkpoint and exported file."""
        kind = {} if self.kind == "segmentation" else {"kind": self.kind}
        return {
            "normalization": self.normalization.to_dict(),
            "class_names": list(self.class_names),
            "input_shape": list(self.example_input.shape),
            **kind,
            **({"prepared": self.prepared} if self.prepared else {}),
        }

    @property
    def dims(self) -> int:
        """2 for images, 1 for signals."""
        return self.example_input.dim() - 2
