"""How the values of an activation spread in float, and over the 256 codes of its int8 range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor, nn

LOWEST, CODES = -128, 256
BIN = 4  # codes that share a bin of the histograms
_BEYOND = 16  # bins on each side for values that no code stands for; the outermost holds all that lie further out


@dataclass(frozen=True)
class Activation:
    """One quantized tensor: real value = ``scale`` x (code - ``zero_point``).

    Attributes:
        name: Of the operation that computes it.
        layer: The layer whose weights it was computed with; empty when there is none.
        scale: The step between two codes.
        zero_point: The code of 0.
        floats: How many of the float values are in each bin of `edges`; what rounds to a code counts as in its bin.
        codes: How often each code occurs, -128 first.
    """

    name: str
    layer: str
    scale: float
    zero_point: int
    floats: NDArray[np.int64]
    codes: NDArray[np.int64]

    @property
    def edges(self) -> NDArray[np.float64]:
        """Return the borders of the bins as real numbers, one more than bins."""
        codes = np.arange(LOWEST - BIN * _BEYOND, LOWEST + CODES + BIN * _BEYOND + 1, BIN) - 0.5
        return np.asarray((codes - self.zero_point) * self.scale)

    @property
    def limits(self) -> tuple[float, float]:
        """Return the least and the largest value that a code stands for."""
        lowest, largest = LOWEST - self.zero_point, LOWEST + CODES - 1 - self.zero_point
        return lowest * self.scale, largest * self.scale

    @property
    def int8(self) -> NDArray[np.int64]:
        """Return how many of the int8 values are in each bin of `edges`."""
        return np.pad(self.codes.reshape(-1, BIN).sum(1), _BEYOND)

    @property
    def clipped(self) -> float:
        """Return the share of the float values that no code stands for, in [0, 1]."""
        inside = self.floats[_BEYOND:-_BEYOND].sum()
        return 1 - float(inside) / max(int(self.floats.sum()), 1)

    @property
    def used(self) -> int:
        """Return how many of the 256 codes occur."""
        return int(np.count_nonzero(self.codes))


@runtime_checkable
class Reader(Protocol):
    """What can look at the activations of a file; a pipeline's bridge may be one."""

    def activations(self, path: Path, quantized: nn.Module, inputs: Tensor) -> list[Activation]:
        """Return how some activations of an int8 file and of its graph in float spread over ``[N, C, *size]``."""


def count_floats(values: NDArray[Any], scale: float, zero_point: int) -> NDArray[np.int64]:
    """Count float values in the bins of `Activation.edges`; what is not finite is left out."""
    codes = np.rint(values[np.isfinite(values)].astype(np.float64) / scale) + zero_point
    bins = np.clip((codes - LOWEST) // BIN + _BEYOND, 0, CODES // BIN + 2 * _BEYOND - 1).astype(np.int64)
    return np.bincount(bins.ravel(), minlength=CODES // BIN + 2 * _BEYOND)


def count_codes(values: NDArray[Any], scale: float, zero_point: int) -> NDArray[np.int64] | None:
    """Count how often real values stand for each code; ``None`` when they are not all on this grid."""
    codes = values.astype(np.float64) / scale + zero_point - LOWEST
    rounded = np.rint(codes)
    is_on_grid = bool((np.abs(codes - rounded) < 0.01).all() and (rounded >= 0).all() and (rounded < CODES).all())
    return np.bincount(rounded.astype(np.int64).ravel(), minlength=CODES) if is_on_grid else None


def to_arrays(found: Sequence[Activation]) -> dict[str, NDArray[Any]]:
    """Return activations as arrays of an .npz file, none for none."""
    if not found:
        return {}
    return {
        "activation_names": np.array([[each.name, each.layer] for each in found]),
        "activation_grids": np.array([[each.scale, each.zero_point] for each in found], np.float64),
        "activation_floats": np.stack([each.floats for each in found]),
        "activation_codes": np.stack([each.codes for each in found]),
    }


def from_arrays(content: dict[str, NDArray[Any]]) -> list[Activation]:
    """Return what `to_arrays` was given; nothing when the arrays lack it."""
    keys = [f"activation_{name}" for name in ("names", "grids", "floats", "codes")]
    if not set(keys) <= set(content):
        return []
    return [
        Activation(str(name), str(layer), float(scale), int(zero_point), floats, codes)
        for (name, layer), (scale, zero_point), floats, codes in zip(*(content[key] for key in keys), strict=True)
    ]
