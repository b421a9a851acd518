"""The recipe that somebody chose, on the command line or in Python, with what is said beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torchshrink.data.sources import name_of
from torchshrink.pipeline import recipe as recipes
from torchshrink.pipeline import trust as trusted
from torchshrink.pipeline.origin import data_of
from torchshrink.pipeline.overrides import overridden
from torchshrink.pipeline.recipe import Recipe


def choose(
    recipe: Path | Mapping[str, Any] | Recipe | None,
    data: str | None,
    trust: bool,
    allow_pickle: bool,
    settings: Sequence[str] = (),
) -> Recipe:
    """Return a recipe with its data.

    Args:
        recipe: A file, or its content; None is the built-in U-Net and data.
        data: Instead of the recipe's. A recipe that starts from a checkpoint and names no data takes the checkpoint's.
        trust: Let a file name any code; content that stands in Python is trusted as that is.
        allow_pickle: Let its checkpoint hold more than tensors, which runs any code of its author.
        settings: Instead of the recipe's, as ``variants.dense.train.epochs=5``.

    Raises:
        RecipeError: When it is wrong, or names code that nobody said to trust.
        ModelError: When neither it nor its checkpoint names data.
    """
    is_file = isinstance(recipe, Path)
    found = overridden(_read(recipe), settings)
    if is_file and not trust:
        its_own = found if data is None else found.model_copy(update={"data": "synthetic:cells"})
        trusted.check(its_own, str(recipe))
    if data is not None:
        found = found.model_copy(update={"data": data})
    elif found.model.checkpoint is not None and "data" not in found.model_fields_set:
        source, seed = data_of(Path(found.model.checkpoint))
        found = found.model_copy(
            update={"data": source, **({} if "seed" in found.model_fields_set else {"seed": seed})}
        )
    return recipes.trust_pickle(found) if allow_pickle else found


def folder_name(recipe: Path | None, data: str) -> str:
    """Return what the folder of a run is called."""
    if recipe is not None:
        return recipe.stem
    return name_of(data) or "run"


def _read(recipe: Path | Mapping[str, Any] | Recipe | None) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    return recipes.load(recipe) if isinstance(recipe, Path) else recipes.parse(dict(recipe or {}))
