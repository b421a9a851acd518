"""What a recipe says of students: the step that teaches one, and the shapes that a search draws them from."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from torchshrink.settings import Convolution, Float, Int, Merge, Natural, Positive, Stem, Training, Upsampling, Whole

_SHAPE = ("widths", "convolutions", "convolution", "merge", "stem", "up", "kernel_size", "skips_from")


def _odd(size: int) -> int:
    if size % 2 == 0:
        raise ValueError(f"{size} is even: only odd kernels keep the size of their input")
    return size


Levels = Annotated[Int, Field(ge=1, le=8)]
Kernel = Annotated[Int, Field(ge=1, le=63), AfterValidator(_odd)]
Skips = Annotated[Int, Field(ge=0, le=7)]
Share = Annotated[Float, Field(ge=0, le=1)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Student(Training):
    """Another architecture, taught by the variant that it comes from; see `torchshrink.model.student.Student`.

    Attributes:
        widths: Channels of each level.
        convolutions: In each level.
        convolution: Of a level: full, separable or ghost.
        merge: How a level takes what the encoder had: concatenated or added.
        stem: Whether, and how, the first convolution halves every side.
        up: What doubles them again.
        kernel_size: Of convolutions; odd.
        skips_from: The first level that hands its features over to the decoder; 0 is the top.
        factory: ``module:callable`` of the user's own architecture, instead of a shape.
        arguments: What it is called with.
        distillation: Share of the loss that the teacher's outputs make.
        features: Weight of the distance between features, beside the loss; see `torchshrink.student.features`.
    """

    widths: Annotated[tuple[Natural, ...], Field(min_length=1, max_length=8)] | None = None
    convolutions: Levels | None = None
    convolution: Convolution | None = None
    merge: Merge | None = None
    stem: Stem | None = None
    up: Upsampling | None = None
    kernel_size: Kernel | None = None
    skips_from: Skips | None = None
    factory: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    distillation: Share = 0.5
    features: Annotated[Float, Field(ge=0)] = 0.0
    epochs: Whole = 60
    lr: Positive = 3e-3

    @property
    def shape(self) -> dict[str, Any]:
        """Return what is said of the built-in network."""
        return {name: value for name in _SHAPE if (value := getattr(self, name)) is not None}

    @model_validator(mode="after")
    def _is_one_network(self) -> Student:
        if self.factory is not None and self.shape:
            raise ValueError(f"a factory makes the whole network: leave out {', '.join(self.shape)}")
        if self.factory is None and self.arguments:
            raise ValueError("arguments are those of a factory: give one, or the shape by its own keys")
        if self.widths and (self.skips_from or 0) >= len(self.widths):
            raise ValueError(
                f"skips_from {self.skips_from}: {len(self.widths)} widths are levels 0 to {len(self.widths) - 1}"
            )
        if self.convolution == "ghost" and any(width % 2 for width in self.widths or ()):
            raise ValueError(f"widths {list(self.widths or ())}: ghost convolutions need even ones")
        return self


def _pair(bounds: Any) -> Any:
    """Take one number for a range of itself."""
    return (bounds, bounds) if isinstance(bounds, int | float) and not isinstance(bounds, bool) else bounds


def _ordered(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError(f"the least, {bounds[0]:g}, is more than the greatest, {bounds[1]:g}")
    return bounds


def _several(values: Any) -> Any:
    return values if isinstance(values, list | tuple) else (values,)


_RANGE = (BeforeValidator(_pair), AfterValidator(_ordered))
_CHOICES = (BeforeValidator(_several), Field(min_length=1))


class Students(BaseModel):
    """What students of a search may be; a single value is fixed.

    Attributes:
        width: Least and greatest number of channels of the first level; students have multiples of 4.
        growth: How many times as many each next level has: 1 is flat, 2 the usual pyramid.
        depth: How many levels.
        convolutions: In each level.
        convolution: Of a level: full, separable or ghost; see `torchshrink.model.student.Student`.
        merge: How a level takes what the encoder had: concatenated or added.
        stem: Whether, and how, the first convolution halves every side.
        up: What doubles them again.
        kernel_size: Of convolutions, odd; by default 3 for images, and 5, 9 or 15 for signals.
        skips_from: The first level that hands its features over to the decoder; 0 is the top. For a microcontroller, 0
            to 1 unless said.
        features: Weights of the distance between features.
        factory: ``module:callable`` of the user's own, instead of all of these.
        arguments: What it is called with: two numbers in a list are a range, whole ones if both are; a longer list, or
            one of other values, is one of those.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    width: Annotated[tuple[Natural, Natural], *_RANGE] = (4, 24)
    growth: Annotated[tuple[Positive, Positive], *_RANGE] = (1.0, 2.0)
    depth: Annotated[tuple[Levels, Levels], *_RANGE] = (2, 4)
    convolutions: Annotated[tuple[Levels, Levels], *_RANGE] = (1, 2)
    convolution: Annotated[tuple[Convolution, ...], *_CHOICES] = ("full", "separable", "ghost")
    merge: Annotated[tuple[Merge, ...], *_CHOICES] = ("concat", "add")
    stem: Annotated[tuple[Stem, ...], *_CHOICES] = ("none", "stride", "space_to_depth")
    up: Annotated[tuple[Upsampling, ...], *_CHOICES] = ("transpose", "nearest")
    kernel_size: Annotated[tuple[Kernel, ...], *_CHOICES] | None = None
    skips_from: Annotated[tuple[Skips, Skips], *_RANGE] = (0, 0)
    features: Annotated[tuple[Float, ...], *_CHOICES] = (0.0,)
    factory: str | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _may_be_true(cls, value: Any) -> Any:
        return {} if value is True else value

    @model_validator(mode="after")
    def _is_one_kind(self) -> Students:
        shapes = self.model_fields_set - {"factory", "arguments", "features"}
        if self.factory is not None and shapes:
            raise ValueError(f"a factory makes the whole network: leave out {', '.join(sorted(shapes))}")
        if self.factory is None and self.arguments:
            raise ValueError("arguments are those of a factory: give one")
        return self
