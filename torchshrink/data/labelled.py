"""Inputs and truth as arrays that fit each other, and their seeded split."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchshrink.errors import DataError


@dataclass(frozen=True, eq=False)
class LabelledArrays:
    """Raw inputs with their truth, before any normalisation.

    Attributes:
        inputs: float32 ``[N, C, L]`` (signals) or ``[N, C, H, W]`` (images).
        truth: uint8 ``[N, K, *size]`` of 0 and 1, one channel per class.
        origin: The file, folder or name that error messages point at.
        raw: How stored values became ``inputs``, such as ``"uint8 / 255"``.
        class_names: One per truth channel, or empty.

    Raises:
        DataError: When the arrays are empty, of another type or rank, or do not fit each other.
    """

    inputs: NDArray[np.float32]
    truth: NDArray[np.uint8]
    origin: str = "the given arrays"
    raw: str = "float32"
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        x, y = self.inputs, self.truth
        if x.dtype != np.float32 or y.dtype != np.uint8:
            raise DataError(f"{self.origin}: expected float32 inputs and uint8 truth, got {x.dtype} and {y.dtype}")
        if x.ndim not in (3, 4) or y.ndim != x.ndim:
            raise DataError(
                f"{self.origin}: inputs of shape {x.shape} with truth of shape {y.shape}, "
                "expected [N, C, L] with [N, K, L], or [N, C, H, W] with [N, K, H, W]"
            )
        if x.size == 0 or y.size == 0:
            raise DataError(
                f"{self.origin} is empty, inputs of shape {x.shape} and truth of shape {y.shape}: add samples"
            )
        if len(x) != len(y):
            raise DataError(f"{self.origin}: {len(x)} inputs but {len(y)} truths, give every input its truth")
        if x.shape[2:] != y.shape[2:]:
            raise DataError(
                f"{self.origin}: inputs measure {x.shape[2:]} but truth {y.shape[2:]}, store both at the same size"
            )
        if self.class_names and len(self.class_names) != y.shape[1]:
            raise DataError(
                f"{self.origin}: {len(self.class_names)} class names {list(self.class_names)} "
                f"for {y.shape[1]} truth channels, give each channel one name"
            )

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, index: NDArray[np.integer[Any]]) -> LabelledArrays:
        """Return the samples at these positions, in this order."""
        return replace(self, inputs=self.inputs[index], truth=self.truth[index])


def split(samples: LabelledArrays, fraction: float, seed: int) -> tuple[LabelledArrays, LabelledArrays]:
    """Set a random part of the samples aside; both parts keep the order of the whole.

    Args:
        samples: At least two.
        fraction: Size of the part, at least 0 and below 1; never fewer than one sample.
        seed: The same seed gives the same part.

    Returns:
        ``(rest, part)``, which share no sample and together hold all of them.

    Raises:
        DataError: When the fraction is out of range or nothing would be left.

    >>> from torchshrink.data.synthetic import pulses
    >>> rest, part = split(LabelledArrays(*pulses(10, length=64, seed=0)), fraction=0.2, seed=0)
    >>> len(rest), len(part)
    (8, 2)
    """
    if not 0 <= fraction < 1:
        raise DataError(f"a part of {fraction} cannot be set aside: choose a fraction of at least 0 and below 1")
    count = max(1, round(fraction * len(samples)))
    if count >= len(samples):
        raise DataError(
            f"{samples.origin}: setting {count} of {len(samples)} samples aside leaves none to train on, add samples"
        )
    order = np.random.default_rng(seed).permutation(len(samples))
    return samples.take(np.sort(order[count:])), samples.take(np.sort(order[:count]))
