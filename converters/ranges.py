"""The ranges that training learned, as one file that every target is made from and can be checked with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from torchshrink.errors import ModelError
from torchshrink.files import atomic, read

SCHEMA = 2
Origin = Literal["trained", "calibrated", "fixed", "imported"]


@dataclass(frozen=True)
class Range:
    """How one tensor is quantized: ``real = scale * (code - zero_point)``.

    Attributes:
        scale: One positive number, or one per slice of ``axis``; each is exactly a float32.
        zero_point: Codes, as many as scales.
        axis: The quantized dimension of a per-channel weight, None for an activation.
        origin: Where it was learned: in training, from calibration data, nowhere because the operation has only this
            one (a sigmoid), or by the tool whose file it was read from. Plays no part in comparisons.
        is_partial: Whether only some operations read the tensor so, and others what it was before rounding.
    """

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None = None
    origin: Origin = field(default="imported", compare=False)
    is_partial: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        if not self.scale or len(self.scale) != len(self.zero_point) or (self.axis is None and len(self.scale) != 1):
            raise ValueError(f"{len(self.scale)} scales, {len(self.zero_point)} zero points, axis {self.axis}")
        if not all(np.isfinite(scale) and scale > 0 for scale in self.scale):
            raise ValueError(f"scales must be positive and finite, got {min(self.scale)}..{max(self.scale)}")
        if self.origin not in get_args(Origin):
            raise ValueError(f"origin {self.origin!r} is not one of {', '.join(get_args(Origin))}")

    @property
    def limits(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The least and greatest real value, in float64 so that dividing gives the same float32 scale again.

        A weight is symmetric in [-127, 127], an activation affine in [-128, 127].
        """
        scale = np.asarray(self.scale, dtype=np.float64)
        zero_point = np.asarray(self.zero_point, dtype=np.float64)
        lowest = -128 if self.axis is None else -127
        return (lowest - zero_point) * scale, (127 - zero_point) * scale


Ranges = Mapping[str, Range]


class _Stored(BaseModel):
    """A range as it is written."""

    model_config = ConfigDict(strict=True)
    scale: list[float]
    zero_point: list[Annotated[int, Field(ge=-(2**31), lt=2**31)]]
    axis: Annotated[int, Field(ge=0)] | None
    origin: Origin = "trained"  # an earlier version wrote no others
    is_partial: bool = False


class _File(BaseModel):
    """A whole file."""

    model_config = ConfigDict(strict=True)
    version: int = Field(alias="schema")
    tensors: dict[str, _Stored]


def learned(ranges: Ranges, origin: Origin) -> dict[str, Range]:
    """Return ranges with ``origin`` in place of "imported"; what is fixed stays fixed."""
    return {
        name: replace(range_, origin=origin) if range_.origin == "imported" else range_
        for name, range_ in ranges.items()
    }


def save(ranges: Ranges, path: Path) -> None:
    """Write ranges as JSON: ``{"schema": 2, "tensors": {NAME: {"scale", "zero_point", "axis", ...}}}``."""
    content = {"schema": SCHEMA, "tensors": {name: asdict(value) for name, value in ranges.items()}}
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1))


def load(path: Path) -> dict[str, Range]:
    """Read what `save` wrote, in this version or an earlier one, whose ranges were all trained.

    Raises:
        ModelError: When the file is not one of ranges, or one of a later version.
    """
    try:
        content = _File.model_validate(json.loads(read(path)))
        if content.version > SCHEMA:
            raise ValueError(f"it has schema {content.version}, this version reads {SCHEMA}")
        return {
            name: Range(tuple(value.scale), tuple(value.zero_point), value.axis, value.origin, value.is_partial)
            for name, value in content.tensors.items()
        }
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        reason: object = error
        if isinstance(error, ValidationError):
            first = error.errors(include_url=False)[0]
            reason = f"{'.'.join(map(str, first['loc'])) or 'all of it'}: {first['msg']}"
        raise ModelError(f"{path} is not a file of ranges as torchshrink writes them: {reason}") from error
