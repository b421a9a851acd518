"""From raw arrays to a task: hold out a validation part, normalise by what is left, choose the augmentation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import Dataset

from torchshrink.data.augment import flips_rotations_noise
from torchshrink.data.labelled import RawSamples, split
from torchshrink.data.statistics import loudness_note, moments, normalization_of
from torchshrink.errors import DataError
from torchshrink.task import Augmentation, Normalization, Task


def task_from_arrays(
    name: str,
    train: RawSamples,
    test: RawSamples,
    *,
    seed: int = 0,
    validation: float | RawSamples = 0.1,
    augment: bool = True,
    normalization: Normalization | None = None,
) -> Task:
    """Return a task whose inputs are normalised by the training part alone.

    Every input is read once, one at a time, so that what cannot be read is said before any training.

    Args:
        name: For reports.
        train: Raw samples; a random part of them becomes the validation set.
        test: Raw samples with the channels, size and value scale of ``train``.
        seed: Chooses the validation part.
        validation: Size of the validation part as a fraction of ``train``, never fewer than one sample; or the part.
        normalization: That of a model that exists already; by default the training part's own.
        augment: Whether the task carries the default augmentation for its kind of data.

    Returns:
        The task; inputs are float32, truths as their kind has them.

    Raises:
        DataError: When train and test do not fit each other, or nothing would be left to train on.

    >>> from torchshrink.data import LabelledArrays
    >>> from torchshrink.data.synthetic import pulses
    >>> samples = [LabelledArrays(*pulses(4, length=64, seed=seed)) for seed in (0, 1)]
    >>> task_from_arrays("pulses", *samples).class_names
    ('class 0',)
    """
    _check_alike(train, test)
    kept, held_out = split(train, validation, seed) if isinstance(validation, float | int) else (train, validation)
    _check_alike(kept, held_out)
    seen = [moments(part) for part in (kept, held_out, test)]
    normalization = normalization or normalization_of(seen[0], kept.raw)
    shape, _ = train.shapes
    if len(normalization.mean) != shape[0]:
        raise DataError(
            f"{train.origin} has {shape[0]} input channels, but the model was normalised with "
            f"{len(normalization.mean)}: use data of the kind that it was trained on"
        )
    return Task(
        name=name,
        train=NormalizedSamples(kept, normalization),
        validation=NormalizedSamples(held_out, normalization),
        test=NormalizedSamples(test, normalization),
        normalization=normalization,
        augment=_augmentation(train) if augment else None,
        class_names=_names(train, test),
        kind=train.kind,
        prepared=train.prepared,
        note=loudness_note(seen[0], seen[2]) if len(shape) == 2 and "level" not in train.prepared else "",
    )


class NormalizedSamples(Dataset[tuple[Tensor, Tensor]]):
    """Raw samples, normalised when they are asked for."""

    is_read_ahead = True  # see `torchshrink.data.ahead`

    def __init__(self, samples: RawSamples, normalization: Normalization) -> None:
        self._samples, self._normalization = samples, normalization

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, truth = self._samples[index]
        return self._normalization.apply(torch.from_numpy(inputs)[None])[0], torch.tensor(truth)


def _augmentation(samples: RawSamples) -> Augmentation:
    size = samples.shapes[0][1:]
    is_square = len(set(size)) == 1
    if samples.kind == "reconstruction":  # whose truth would have to be as bright as its input
        return flips_rotations_noise(len(size), noise=0, square=is_square, brightness=0)
    return flips_rotations_noise(len(size), square=is_square)


def _names(train: RawSamples, test: RawSamples) -> tuple[str, ...]:
    """Return a name for each output."""
    what = {"regression": "target", "reconstruction": "channel"}.get(train.kind, "class")
    count = max(train.outputs, test.outputs)
    return train.class_names or test.class_names or tuple(f"{what} {k}" for k in range(count))


def _check_alike(train: RawSamples, test: RawSamples) -> None:
    if train.kind != test.kind:
        raise DataError(f"{train.origin} holds a {train.kind} but {test.origin} a {test.kind}: say which, with kind")
    for what, ours, theirs in zip(("inputs", "truth"), train.shapes, test.shapes, strict=True):
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
