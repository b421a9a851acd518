"""What the steps of a run are recognised by: the settings and contents that go into them, JSON-like."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as tree

from torchshrink.files import sha256
from torchshrink.pipeline.recipe import Recipe, dump
from torchshrink.pipeline.steps import digest
from torchshrink.task import Samples, batches


def model_key(recipe: Recipe) -> list[Any]:
    """Return what decides the model that a run starts from."""
    named = recipe.model.checkpoint
    path = Path(named or "")
    content: Any = sha256(path) if path.is_file() else None
    if named and path.is_dir():
        content = [sha256(file) for file in sorted(path.iterdir()) if file.is_file()]
    return [recipe.model.model_dump(mode="json"), content]


def data_key(recipe: Recipe, *parts: Samples) -> str:
    """Return a digest of the data, how it is used, and what is trained for, reading one sample at a time."""
    contents: list[str] = []
    for part in parts:
        digested = hashlib.sha256()
        for batch in batches(part, 1):
            for tensor in tree.tree_leaves(batch):
                digested.update(np.ascontiguousarray(torch.as_tensor(tensor).numpy()).tobytes())
        contents.append(digested.hexdigest())
    stated = dump(recipe)
    how = [recipe.data, recipe.seed, recipe.validation, recipe.augment, stated.get("loss"), stated.get("task")]
    how += [recipe.fit, recipe.optimizer, recipe.schedule]
    return digest(how + contents)


def int8_key(recipe: Recipe) -> list[Any]:
    """Return what decides how a variant becomes int8."""
    return [recipe.keep_float, recipe.portable]
