"""Mean and deviation of samples that are looked at one by one, each exactly once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchshrink.data.labelled import RawSamples
from torchshrink.errors import DataError
from torchshrink.task import Normalization

_AT_ONCE = 64  # samples that a thread takes
_MUCH_QUIETER = 3.0  # times


def moments(samples: RawSamples) -> NDArray[np.float64]:
    """Read every input and return mean, variance, minimum and maximum of its channels, ``[N, 4, C]``.

    Raises:
        DataError: When an input cannot be read, is not finite, or has another shape than the first.
    """
    starts = range(0, len(samples), _AT_ONCE)
    with ThreadPoolExecutor() as threads:
        return np.concatenate(list(threads.map(partial(_some, samples, samples.input(0).shape), starts)))


def normalization_of(found: NDArray[np.float64], raw: str) -> Normalization:
    """Return the mean and standard deviation of every channel over all samples and positions.

    The variance of all is the mean of the samples' variances and the variance of their means, as all are of one size.

    Args:
        found: What `moments` returns.
        raw: What the values are, kept for the reader of an exported file.

    Returns:
        The normalisation; a constant channel gets a standard deviation of 1, so that it becomes 0.
    """
    mean, variance, low, high = found.swapaxes(0, 1)
    # Rounding leaves a constant channel with a tiny deviation: compare its ends instead.
    std = np.where(low.min(0) < high.max(0), np.sqrt(variance.mean(0) + mean.var(0)), 1.0)
    return Normalization(tuple(mean.mean(0).tolist()), tuple(std.tolist()), raw)


def loudness_note(train: NDArray[np.float64], test: NDArray[np.float64]) -> str:
    """Say when the signals of one part are much quieter than those of the other; empty when they are not.

    A network that is never told so fails on them, and in int8 they have few steps to be told apart by.

    Args:
        train: What `moments` returns of the training part.
        test: The same of the test part.
    """
    loud, quiet = (float(np.median(np.sqrt(np.square(found[:, 0]) + found[:, 1]))) for found in (train, test))
    ratio = max(loud, quiet) / max(min(loud, quiet), 1e-12)
    if not _MUCH_QUIETER < ratio < np.inf or min(loud, quiet) == 0:
        return ""
    what = "test signals are" if quiet < loud else "training signals are"
    other = "training signals" if quiet < loud else "test signals"
    return (
        f"half of the {what} {ratio:.1f} times quieter than half of the {other}: say level=peak behind the ? of the "
        "data, and every signal is divided by its own peak"
    )


def _some(samples: RawSamples, shape: tuple[int, ...], start: int) -> NDArray[np.float64]:
    return np.array([_one(samples, shape, i) for i in range(start, min(start + _AT_ONCE, len(samples)))])


def _one(samples: RawSamples, shape: tuple[int, ...], index: int) -> NDArray[Any]:
    values = samples.input(index)
    if values.shape != shape:
        raise DataError(
            f"{samples.origin}: sample {index} has shape {values.shape}, the first {shape}: make them alike"
        )
    flat = values.reshape(len(values), -1).astype(np.float64)
    low, high = flat.min(1), flat.max(1)
    if not np.isfinite(low).all() or not np.isfinite(high).all():
        bad = np.argwhere(~np.isfinite(values))
        raise DataError(
            f"{samples.origin}: sample {index} holds {len(bad)} values that are NaN, infinite or beyond float32, the "
            f"first at {bad[0].tolist()}: repair or drop it"
        )
    return np.stack([flat.mean(1), flat.var(1), low, high])
