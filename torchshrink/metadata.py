"""What travels with a model, in checkpoints and exported files: looked at as a whole before any of it is believed."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from torchshrink.errors import ModelError

KEY = "torchshrink"  # what it is stored under in ONNX and TFLite files
_MOST_VALUES = 2**31  # of an input: more fit no machine that this is for
Finite = Annotated[float, Field(allow_inf_nan=False)]
Side = Annotated[int, Field(ge=1, lt=2**31)]


class _Part(BaseModel):
    # A later version may write more.
    model_config = ConfigDict(extra="allow", frozen=True, strict=True)


class _Normalization(_Part):
    mean: list[Finite]
    std: list[Annotated[Finite, Field(gt=0)]]
    raw: str = "float32"

    @model_validator(mode="after")
    def _fits(self) -> _Normalization:
        if len(self.mean) != len(self.std):
            raise ValueError(f"{len(self.mean)} means and {len(self.std)} deviations")
        return self


class _Metadata(_Part):
    normalization: _Normalization | None = None
    class_names: list[str] | None = None
    input_shape: Annotated[list[Side], Field(min_length=2)] | None = None
    keep_float: list[str] | None = None
    history: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _can_be(self) -> _Metadata:
        if math.prod(self.input_shape or ()) > _MOST_VALUES:
            raise ValueError(f"an input of {self.input_shape} has too many values")
        return self


def parse(text: str | bytes, name: str) -> dict[str, Any]:
    """Return what a file says of its model, as `check`; the text is JSON.

    Raises:
        ModelError: When it is not JSON, or not what torchshrink writes; names the key, and the file by ``name``.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{name} has a description that cannot be used ({' '.join(str(error).split())}): train or export it again"
        ) from error
    return check(content, name)


def check(content: Any, name: str) -> dict[str, Any]:
    """Return the description of a model when every part of it is of its type.

    Args:
        content: ``{"normalization": {"mean", "std", "raw"}, "class_names", "input_shape", "keep_float", "history"}``,
            each of them optional.
        name: What errors call the file.

    Raises:
        ModelError: When a part is of another type or cannot be; names the key.
    """
    try:
        _Metadata.model_validate(content)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in problem["loc"]) or "all of it"
        raise ModelError(
            f"{name} has a description that cannot be used ({key}: {problem['msg'].removeprefix('Value error, ')}): "
            "train or export it again"
        ) from None
    found: dict[str, Any] = content
    return found
