"""What the steps of a run are recognised by: the settings and contents that go into them, JSON-like."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from torchshrink.files import sha256
from torchshrink.pipeline.recipe import Recipe, dump
from torchshrink.pipeline.steps import digest
from torchshrink.task import Samples, batches


def model_key(recipe: Recipe) -> list[Any]:
    """Return what decides the model that a run starts from."""
    path = Path(recipe.model.checkpoint or "")
    return [recipe.model.model_dump(mode="json"), sha256(path) if path.is_file() else None]


def data_key(recipe: Recipe, *parts: Samples) -> str:
    """Return a digest of the data, how it is used, and what is trained for, reading one sample at a time."""
    contents: list[str] = []
    for part in parts:
        inputs, truths = hashlib.sha256(), hashlib.sha256()
        for batch in batches(part, 1):
            for digested, tensor in zip((inputs, truths), batch, strict=True):
                digested.update(np.ascontiguousarray(tensor.numpy()).tobytes())
        contents += [inputs.hexdigest(), truths.hexdigest()]
    how = [recipe.data, recipe.seed, recipe.validation, recipe.augment, dump(recipe).get("loss")]
    return digest(how + contents)


def int8_key(recipe: Recipe) -> list[Any]:
    """Return what decides how a variant becomes int8."""
    return [recipe.keep_float, recipe.portable]
