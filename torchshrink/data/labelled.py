"""Inputs and truth that fit each other, in memory or read when asked for, and their seeded split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from torchshrink.data.kinds import MASKS, TYPES
from torchshrink.errors import DataError

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class LabelledArrays:
    """Raw inputs with their truth in memory, before any normalisation.

    Attributes:
        inputs: float32 ``[N, C, L]`` (signals) or ``[N, C, H, W]`` (images).
        truth: By kind: uint8 ``[N, K, *size]`` of 0 and 1, one channel per class (segmentation); int64 ``[N, *size]``
            (multiclass) or ``[N]`` (classification), class numbers from 0 on; float32 ``[N, K]`` (regression) or
            ``[N, C, *size]`` (reconstruction).
        origin: The file, folder or name that error messages point at.
        raw: How stored values became ``inputs``, such as ``"uint8 / 255"``.
        class_names: One per class, or empty.
        kind: See `torchshrink.task.Task`.
        groups: A name for each sample, or nothing: samples of one group stay in one part.
        prepared: How inputs of different sizes became alike, see `torchshrink.data.preparation`.

    Raises:
        DataError: When the arrays are empty, of another type or rank, or do not fit each other.
    """

    inputs: NDArray[np.float32]
    truth: NDArray[Any]
    origin: str = "the given arrays"
    raw: str = "float32"
    class_names: tuple[str, ...] = ()
    kind: str = "segmentation"
    groups: NDArray[Any] | None = None
    prepared: str = ""

    def __post_init__(self) -> None:
        x, y = self.inputs, self.truth
        wanted = TYPES.get(self.kind)
        if wanted is None:
            raise DataError(f"{self.origin}: there is no kind {self.kind!r} of arrays, choose {', '.join(TYPES)}")
        if x.dtype != np.float32 or y.dtype != wanted:
            raise DataError(
                f"{self.origin}: expected float32 inputs and {np.dtype(wanted)} truth, got {x.dtype} and {y.dtype}"
            )
        check_shapes(self.origin, x, y, self.kind)
        if not self._has_numbers:
            check_names(self.origin, self.class_names, self.outputs)
        if self._has_numbers and not 0 <= y.min() <= y.max() < (len(self.class_names) or np.inf):
            raise DataError(
                f"{self.origin}: class numbers run from {y.min()} to {y.max()}: number classes from 0 on, and give "
                "each one name or none a name"
            )

    @property
    def _has_numbers(self) -> bool:
        return self.kind in ("multiclass", "classification")

    @property
    def outputs(self) -> int:
        """How many channels or numbers a model has to return."""
        if self._has_numbers:
            return len(self.class_names) or int(self.truth.max()) + 1
        return int(self.truth.shape[1])

    @property
    def shapes(self) -> tuple[Shape, Shape]:
        """Of one input and of one truth."""
        return self.inputs.shape[1:], self.truth.shape[1:]

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[Any]]:
        return self.inputs[index], np.asarray(self.truth[index])

    def input(self, index: int) -> NDArray[np.float32]:
        """Return the input at a position."""
        values: NDArray[np.float32] = self.inputs[index]
        return values

    def take(self, index: NDArray[np.integer[Any]]) -> LabelledArrays:
        """Return the samples at these positions, in this order."""
        groups = None if self.groups is None else self.groups[index]
        return replace(self, inputs=self.inputs[index], truth=self.truth[index], groups=groups)


def check_shapes(origin: str, x: NDArray[Any], y: NDArray[Any], kind: str) -> None:
    """Refuse inputs ``[N, C, *size]`` and truths of a kind that do not fit each other.

    Raises:
        DataError: Saying both shapes.
    """
    ranks = {"multiclass": x.ndim - 1, "classification": 1, "regression": 2}
    if x.ndim not in (3, 4) or y.ndim != ranks.get(kind, x.ndim):
        raise DataError(
            f"{origin}: inputs of shape {x.shape} with truth of shape {y.shape}, "
            f"expected [N, C, L] or [N, C, H, W] with {MASKS[kind]}"
        )
    if x.size == 0 or y.size == 0:
        raise DataError(f"{origin} is empty, inputs of shape {x.shape} and truth of shape {y.shape}: add samples")
    if len(x) != len(y):
        raise DataError(f"{origin}: {len(x)} inputs but {len(y)} truths, give every input its truth")
    size = y.shape[1:] if kind == "multiclass" else y.shape[2:]
    if kind not in ("classification", "regression") and x.shape[2:] != size:
        raise DataError(f"{origin}: inputs measure {x.shape[2:]} but truth {size}, store both at the same size")


def check_names(origin: str, names: tuple[str, ...], outputs: int) -> None:
    """Refuse names of classes that are not as many as the outputs.

    Raises:
        DataError: Listing them.
    """
    if names and len(names) != outputs:
        raise DataError(
            f"{origin}: {len(names)} class names {list(names)} for {outputs} truth channels, give each channel one name"
        )


@dataclass(frozen=True, eq=False)
class LazySamples:
    """Samples that are read each time they are asked for: a part may be larger than the memory.

    Attributes:
        items: What the two functions take, such as a file and its label; one for each sample.
        read_input: Returns float32 ``[C, *size]``. Like ``read_truth``, it must be picklable: worker processes get it.
        read_truth: Returns the truth of a sample, as `LabelledArrays` has it.
        outputs: How many channels or numbers a model has to return; 0 when nothing says so.

    The others are those of `LabelledArrays`; without labels, truths are empty and the kind is ``unlabelled``.
    """

    items: Sequence[Any]
    read_input: Callable[[Any], NDArray[np.float32]]
    read_truth: Callable[[Any], NDArray[Any]]
    origin: str
    raw: str
    kind: str
    outputs: int
    class_names: tuple[str, ...] = ()
    groups: NDArray[Any] | None = None
    prepared: str = ""

    @property
    def shapes(self) -> tuple[Shape, Shape]:
        """Of the first input and truth; all others have the same."""
        x, y = self[0]
        return x.shape, y.shape

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[NDArray[np.float32], NDArray[Any]]:
        item = self.items[index]
        return self.read_input(item), self.read_truth(item)

    def input(self, index: int) -> NDArray[np.float32]:
        """Return the input at a position without reading its truth."""
        return self.read_input(self.items[index])

    def take(self, index: NDArray[np.integer[Any]]) -> LazySamples:
        """Return the samples at these positions, in this order."""
        groups = None if self.groups is None else self.groups[index]
        return replace(self, items=[self.items[i] for i in index], groups=groups)


RawSamples = LabelledArrays | LazySamples


def split(samples: RawSamples, fraction: float, seed: int) -> tuple[RawSamples, RawSamples]:
    """Set a random part of the samples aside; both parts keep the order of the whole.

    Where samples have groups, whole groups are set aside, as many as it takes to reach the size.

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
    rng = np.random.default_rng(seed)
    if samples.groups is not None:
        return _split_groups(samples, samples.groups, count, rng)
    if count >= len(samples):
        raise DataError(
            f"{samples.origin}: setting {count} of {len(samples)} samples aside leaves none to train on, add samples"
        )
    order = rng.permutation(len(samples))
    return samples.take(np.sort(order[count:])), samples.take(np.sort(order[:count]))


def _split_groups(
    samples: RawSamples, groups: NDArray[Any], count: int, rng: np.random.Generator
) -> tuple[RawSamples, RawSamples]:
    names, members, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(names) < 2:
        raise DataError(f"{samples.origin} has one group only, {names[0]}: leave out group, or add another")
    order = rng.permutation(len(names))
    chosen = order[: min(int(np.searchsorted(np.cumsum(sizes[order]), count)) + 1, len(names) - 1)]
    aside = np.isin(members, chosen)
    return samples.take(np.flatnonzero(~aside)), samples.take(np.flatnonzero(aside))
