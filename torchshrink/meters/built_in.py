"""The built-in figures of how well outputs match truths, most of them torchmetrics' own, made when they are needed.

Outputs and truths are either of one shape (probabilities against 0 and 1, or numbers against numbers), or class scores
``[N, K, *size]`` against class numbers ``[N, *size]``. Of the former, values well beyond [0, 1] are taken for logits.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as tree

from torchshrink.errors import DataError, RecipeError
from torchshrink.meters.metric import Meter, Metric

THRESHOLD = 0.5
_ROUNDING = 0.01  # by which a probability may be beyond 0 or 1: of files in half precision some are 1.001
LEFT_OUT = -100  # the class number that cross-entropy leaves out


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


def class_scores(output: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return class scores ``[N, K, *size]`` and class numbers ``[N, *size]``.

    Raises:
        DataError: When they are something else, or a class has no score.
    """
    if truth.is_floating_point() or output.dim() < 2 or (*output.shape[:1], *output.shape[2:]) != tuple(truth.shape):
        raise DataError(
            f"outputs of shape {list(output.shape)} and truths of shape {list(truth.shape)} ({truth.dtype}): expected "
            "a score for each class, [N, K, *size], and class numbers, [N, *size]"
        )
    if len(truth) and (highest := int(truth.max())) >= output.shape[1]:
        raise DataError(f"a truth is class {highest}, but the model gives {output.shape[1]} scores, from class 0 on")
    return output.float(), truth.long()


class _Overlap:
    """A mean over samples and channels, of outputs and truths of one shape."""

    def __init__(self, figure: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._figure = figure
        self.reset()

    def reset(self) -> None:
        self._sum, self._count = 0.0, 0

    def update(self, output: Tensor, truth: Tensor) -> None:
        found = self._figure(_probability(output), truth).double()
        self._sum, self._count = self._sum + float(found.sum()), self._count + found.numel()

    def compute(self) -> float:
        return self._sum / self._count if self._count else math.nan


class _OfClasses:
    """A classification metric of torchmetrics, made when the first batch shows what is classified.

    Args:
        name: Of the metric there, without ``Binary`` and ``Multiclass``.
        overlap: What is computed instead where outputs and truths have one shape.
        settings: Of the one for several classes.
    """

    def __init__(self, name: str, overlap: Callable[[Tensor, Tensor], Tensor] | None = None, **settings: Any) -> None:
        self._name, self._overlap, self._settings = name, overlap, settings
        self.reset()

    def reset(self) -> None:
        self._meter: Meter | None = None
        self._is_nan = False

    def update(self, output: Tensor, truth: Tensor) -> None:
        is_of_one_shape = output.numel() == truth.numel()
        if is_of_one_shape:
            if self._overlap is None:
                output, truth = _probability(output).flatten(), truth.flatten().int()
        else:
            output, truth = class_scores(output, truth)
        self._meter = self._meter or self._made(output, is_of_one_shape)
        if not is_of_one_shape and output.isnan().any():
            self._is_nan = True
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a class that the part holds none of
            self._meter.update(output, truth)

    def _made(self, output: Tensor, is_of_one_shape: bool) -> Meter:
        if is_of_one_shape and self._overlap:
            return _Overlap(self._overlap)
        from torchmetrics import classification  # two seconds, which the masks above do without

        if is_of_one_shape:
            binary: Meter = getattr(classification, f"Binary{self._name}")()
            return binary
        settings = dict(self._settings)
        if "top_k" in settings:
            settings["top_k"] = min(settings["top_k"], output.shape[1])
        made = getattr(classification, f"Multiclass{self._name}")
        meter: Meter = made(output.shape[1], ignore_index=LEFT_OUT, **settings)
        return meter

    def compute(self) -> Any:
        if self._is_nan or self._meter is None:
            return math.nan
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self._meter.compute()


class _OfNumbers:
    """A metric of torchmetrics for numbers, made when it is needed.

    Args:
        name: In ``torchmetrics.regression``.
        settings: Its own.
    """

    def __init__(self, name: str, **settings: Any) -> None:
        self._name, self._settings = name, settings
        self.reset()

    def reset(self) -> None:
        self._meter: Meter | None = None
        self._count = 0

    def update(self, output: Tensor, truth: Tensor) -> None:
        output, truth = _numbers(output, truth)
        self._count += len(truth)
        self._meter = self._meter or self._made()
        self._meter.update(output.flatten(1), truth.flatten(1))

    def _made(self) -> Meter:
        from torchmetrics import regression

        meter: Meter = getattr(regression, self._name)(**self._settings)
        return meter

    def compute(self) -> Any:
        least = 2 if self._name == "R2Score" else 1
        return math.nan if self._meter is None or self._count < least else self._meter.compute()


class _Psnr:
    """Peak signal-to-noise ratio in dB over all samples; the peak is 1 for truths in [0, 1], else their range."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._meter: Meter | None = None
        self._low, self._high = math.inf, -math.inf

    def update(self, output: Tensor, truth: Tensor) -> None:
        from torchmetrics.image import PeakSignalNoiseRatio

        output, truth = _numbers(output, truth)
        low, high = torch.aminmax(truth)
        self._low, self._high = min(self._low, float(low)), max(self._high, float(high))
        self._meter = self._meter or PeakSignalNoiseRatio(1.0)
        self._meter.update(output, truth)

    def compute(self) -> float:
        peak = _range(self._low, self._high)
        return float(self._meter.compute()) + 20 * math.log10(peak) if self._meter and peak > 0 else math.nan


class _Ssim:
    """Structural similarity of images, ``[N, C, H, W]`` of at least 11x11; the first batch says their range."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._meter: Meter | None = None

    def update(self, output: Tensor, truth: Tensor) -> None:
        from torchmetrics.image import StructuralSimilarityIndexMeasure

        output, truth = _numbers(output, truth)
        if truth.dim() != 4 or min(truth.shape[2:]) < 11:
            raise DataError(
                f"ssim compares images of at least 11x11, got {list(truth.shape)}: choose psnr, mae or rmse"
            )
        low, high = torch.aminmax(truth)
        self._meter = self._meter or StructuralSimilarityIndexMeasure(data_range=_range(float(low), float(high)) or 1.0)
        self._meter.update(output, truth)

    def compute(self) -> Any:
        return math.nan if self._meter is None else self._meter.compute()


def _distance(output: Any, truth: Any) -> float:
    """Return ``||output - truth|| / ||truth||``, of several outputs the greatest."""
    pairs = zip(tree.tree_leaves(output), tree.tree_leaves(truth), strict=True)
    shares = [float((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-12)) for a, b in pairs]
    return max(shares, key=lambda share: math.inf if math.isnan(share) else share)


BUILT_IN = {
    "accuracy": Metric(_OfClasses("Accuracy", average="micro"), True),
    "top5": Metric(_OfClasses("Accuracy", average="micro", top_k=5), True),
    "f1": Metric(_OfClasses("F1Score", average="macro"), True),
    "auc": Metric(_OfClasses("AUROC", average="macro"), True),
    "dice": Metric(_OfClasses("F1Score", dice, average="macro"), True),
    "iou": Metric(_OfClasses("JaccardIndex", iou, average="macro"), True),
    "mae": Metric(_OfNumbers("MeanAbsoluteError"), False),
    "rmse": Metric(_OfNumbers("MeanSquaredError", squared=False), False),
    "r2": Metric(_OfNumbers("R2Score"), True),
    "psnr": Metric(_Psnr(), True, "dB"),
    "ssim": Metric(_Ssim(), True),
    "distance": Metric(_distance, False),
}


def metric(name: str, source: Any = None) -> Metric:
    """Return the metric that a task calls ``name``.

    Args:
        name: Of a built-in one when ``source`` is None.
        source: A `Metric`, a built-in one's name, or a torchmetrics object or function with ``higher_is_better``.

    Raises:
        RecipeError: When there is none, or its direction is not known.

    >>> metric("psnr").higher_is_better, metric("error", "mae").higher_is_better
    (True, False)
    """
    if isinstance(source, Metric):
        return source
    if source is None or isinstance(source, str):
        if (key := source or name) not in BUILT_IN:
            raise RecipeError(f"unknown metric {key!r}: expected one of {', '.join(BUILT_IN)}, or a function")
        return BUILT_IN[key]
    direction = getattr(source, "higher_is_better", None)
    if not callable(source):
        raise RecipeError(f"metric {name!r} is {source!r}: expected a function, a torchmetrics object or a Metric")
    if direction is None:
        raise RecipeError(
            f"metric {name!r} does not say which way is better: give Metric(function, higher_is_better=True) or False"
        )
    return Metric(source, bool(direction))


def _range(low: float, high: float) -> float:
    return 1.0 if low >= 0 and high <= 1 else high - low


def _probability(output: Tensor) -> Tensor:
    output = output.float()
    low, high = torch.aminmax(output) if output.numel() else (torch.tensor(0.0), torch.tensor(0.0))
    return torch.sigmoid(output) if low < -_ROUNDING or high > 1 + _ROUNDING else output


def _numbers(output: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    if output.numel() != truth.numel() or len(output) != len(truth):
        raise DataError(
            f"outputs of shape {list(output.shape)} and truths of shape {list(truth.shape)}: expected as many numbers"
        )
    output, truth = output.float().reshape(truth.shape), truth.float()
    return (output, truth) if truth.dim() > 1 else (output[:, None], truth[:, None])


def _counts(probability: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    positive, true = probability.flatten(2) > THRESHOLD, truth.flatten(2) > THRESHOLD
    return (positive & true).sum(-1).float(), positive.sum(-1).float(), true.sum(-1).float()
