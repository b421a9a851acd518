"""Settings that the command line gives instead of a recipe's: ``variants.dense.train.epochs=5``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torchshrink.errors import RecipeError
from torchshrink.pipeline import plain_yaml
from torchshrink.pipeline.recipe import Recipe, dump, parse


def overridden(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """Return a recipe with other settings; what the recipe leaves out stays left out.

    Args:
        recipe: A valid one.
        settings: ``KEY=VALUE`` each: a path of keys with dots between them, and what stands behind it in YAML. Names of
            variants may have dots too.

    Raises:
        RecipeError: Naming what is no such setting, and every value that the recipe's own validation refuses.
    """
    if not settings:
        return recipe
    content = recipe.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
    whole = dump(recipe)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip("."):
            raise RecipeError(f"--set {setting}: expected KEY=VALUE, such as variants.dense.train.epochs=5")
        _put(content, whole, key, _value(setting, text), setting)
    return parse(content, f"--set {' --set '.join(settings)}")


def _value(setting: str, text: str) -> Any:
    try:
        return plain_yaml.load(text)
    except ValueError as error:
        raise RecipeError(f"--set {setting}: {text!r} is not YAML: {error}") from None


def _put(content: dict[str, Any], whole: dict[str, Any], key: str, value: Any, setting: str) -> None:
    """Put a value into ``content`` at a path; ``whole`` has what stands there by default."""
    names = key.split(".")
    if names[0] not in content and len(names) > 1 and names[0] in whole:
        content[names[0]] = whole[names[0]]
    place: Any = content
    while len(names) > 1:
        # The longest key that is there: a variant may be called v1.5.
        length = next((n for n in range(len(names) - 1, 0, -1) if ".".join(names[:n]) in place), 1)
        name, names = ".".join(names[:length]), names[length:]
        if place.get(name) is None:
            place[name] = {}
        place = place[name]
        if not isinstance(place, dict):
            raise RecipeError(f"--set {setting}: {name} holds {place!r}, which has no keys")
    place[names[0]] = value
