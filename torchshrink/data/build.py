"""From raw arrays to a task: hold out a validation part, normalise by what is left, choose the augmentation."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import TensorDataset

from torchshrink.data.augment import flips_rotations_noise
from torchshrink.data.labelled import LabelledArrays, split
from torchshrink.errors import DataError
from torchshrink.task import Normalization, Samples, Task


def task_from_arrays(
    name: str,
    train: LabelledArrays,
    test: LabelledArrays,
    *,
    seed: int = 0,
    validation: float = 0.1,
    augment: bool = True,
    normalization: Normalization | None = None,
) -> Task:
    """Return a task whose inputs are normalised by the training part alone.

    Args:
        name: For reports.
        train: Raw samples; a random part of them becomes the validation set.
        test: Raw samples with the channels, size and value scale of ``train``.
        seed: Chooses the validation part.
        validation: Size of the validation part as a fraction of ``train``; never fewer than one sample.
        normalization: That of a model that exists already; by default the training part's own.
        augment: Whether the task carries the default augmentation for its kind of data.

    Returns:
        The task; inputs are float32, the truth stays uint8.

    Raises:
        DataError: When train and test do not fit each other, or nothing would be left to train on.

    >>> from torchshrink.data.synthetic import pulses
    >>> samples = [LabelledArrays(*pulses(4, length=64, seed=seed)) for seed in (0, 1)]
    >>> task_from_arrays("pulses", *samples).class_names
    ('class 0',)
    """
    _check_alike(train, test)
    kept, held_out = split(train, validation, seed)
    normalization = normalization or normalization_of(kept.inputs, kept.raw)
    if len(normalization.mean) != kept.inputs.shape[1]:
        raise DataError(
            f"{train.origin} has {kept.inputs.shape[1]} input channels, but the model was normalised with "
            f"{len(normalization.mean)}: use data of the kind that it was trained on"
        )
    size = train.inputs.shape[2:]
    augmentation = flips_rotations_noise(len(size), square=len(set(size)) == 1) if augment else None
    names = train.class_names or test.class_names or tuple(f"class {k}" for k in range(train.truth.shape[1]))
    return Task(
        name=name,
        train=_dataset(kept, normalization),
        validation=_dataset(held_out, normalization),
        test=_dataset(test, normalization),
        normalization=normalization,
        augment=augmentation,
        class_names=names,
    )


def normalization_of(inputs: NDArray[np.float32], raw: str) -> Normalization:
    """Return the mean and standard deviation of every channel over all samples and positions.

    Args:
        inputs: ``[N, C, *size]``.
        raw: What the values are, kept for the reader of an exported file.

    Returns:
        The normalisation; a constant channel gets a standard deviation of 1, so that it becomes 0.
    """
    channels = [inputs[:, channel] for channel in range(inputs.shape[1])]
    mean = [float(values.mean(dtype=np.float64)) for values in channels]
    # Rounding leaves a constant channel with a tiny deviation: compare its ends instead.
    std = [float(values.std(dtype=np.float64)) if values.min() < values.max() else 1.0 for values in channels]
    return Normalization(tuple(mean), tuple(std), raw)


def _dataset(samples: LabelledArrays, normalization: Normalization) -> Samples:
    inputs = normalization.apply(torch.tensor(samples.inputs))
    return cast(Samples, TensorDataset(inputs, torch.tensor(samples.truth)))


def _check_alike(train: LabelledArrays, test: LabelledArrays) -> None:
    for what, ours, theirs in (
        ("inputs", train.inputs.shape[1:], test.inputs.shape[1:]),
        ("truth", train.truth.shape[1:], test.truth.shape[1:]),
    ):
        if ours != theirs:
            raise DataError(
                f"{train.origin} has {what} of shape {ours} per sample but {test.origin} of {theirs}: "
                "give train and test the same channels and size"
            )
    if train.raw != test.raw:
        raise DataError(
            f"{train.origin} holds {train.raw} but {test.origin} {test.raw}: store train and test as the same type"
        )
    if train.class_names and test.class_names and train.class_names != test.class_names:
        raise DataError(
            f"{train.origin} names its classes {list(train.class_names)} but {test.origin} "
            f"{list(test.class_names)}: name them alike, in the same order"
        )
