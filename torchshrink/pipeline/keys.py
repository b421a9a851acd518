"""What the steps of a run are recognised by: the settings and contents that go into them, JSON-like."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from torchshrink.files import sha256
from torchshrink.pipeline.recipe import Recipe, dump
from torchshrink.pipeline.steps import digest


def model_key(recipe: Recipe) -> list[Any]:
    """Return what decides the model that a run starts from."""
    path = Path(recipe.model.checkpoint or "")
    return [recipe.model.model_dump(mode="json"), sha256(path) if path.is_file() else None]


def data_key(recipe: Recipe, *tensors: Tensor) -> str:
    """Return a digest of the data, how it is used, and what is trained for."""
    contents = [hashlib.sha256(np.ascontiguousarray(tensor.numpy()).tobytes()).hexdigest() for tensor in tensors]
    how = [recipe.data, recipe.seed, recipe.validation, recipe.augment, dump(recipe).get("loss")]
    return digest(how + contents)


def int8_key(recipe: Recipe) -> list[Any]:
    """Return what decides how a variant becomes int8."""
    return [recipe.keep_float, recipe.portable]
